//! Certificates, protocols and names that are refused.

use super::*;

#[tokio::test]
async fn s_01_a_peer_without_a_certificate_is_refused() {
    let world = World::new();
    assert_refused(&shake(world.listener(NOW), rogue_without_certificate()).await);
}

#[tokio::test]
async fn s_01_a_certificate_of_another_authority_is_refused() {
    let (world, other) = (World::new(), World::new());
    let issued = other.issue(&site());
    let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
    assert!(matches!(refused, PeerRefused::Chain(ChainError::Untrusted { .. })), "{refused}");
    assert_eq!(refused.status(), Status::Unauthenticated);
    // The same the other way: nobody is lured to a server of another authority.
    let refused = refusal_of(&world, other.listener(NOW), world.dialler(&site(), NOW)).await;
    assert!(refused.to_string().contains("not issued by the project's authority"), "{refused}");
}

#[tokio::test]
async fn s_01_atk_036_an_expired_certificate_is_refused() {
    let world = World::new();
    let issued = world.issue(&site());
    let late = world.listener(NOW + 91 * DAY);
    let refused = refusal_of(&world, late, rogue(issued.chain(), &issued)).await;
    assert!(
        matches!(
            refused,
            PeerRefused::Chain(ChainError::OutOfDate(
                crate::certificate::OutOfDate::Expired { .. }
            ))
        ),
        "{refused}"
    );
    assert_eq!(refused.status(), Status::CertExpired);
    let refused =
        refusal_of(&world, world.listener(NOW), world.dialler(&site(), NOW + 91 * DAY)).await;
    assert!(refused.to_string().contains("expired"), "{refused}");
}

#[tokio::test]
async fn s_01_atk_036_a_certificate_from_the_future_is_refused() {
    let world = World::new();
    let issued = world.issue(&site());
    let early = world.listener(NOW - DAY);
    let refused = refusal_of(&world, early, rogue(issued.chain(), &issued)).await;
    assert!(
        matches!(
            refused,
            PeerRefused::Chain(ChainError::OutOfDate(
                crate::certificate::OutOfDate::NotYetValid { .. }
            ))
        ),
        "{refused}"
    );
    let refused = refusal_of(&world, world.listener(NOW), world.dialler(&site(), NOW - DAY)).await;
    assert!(refused.to_string().contains("not valid before"), "{refused}");
}

/// A leaf that a careless authority issued, with whatever was changed in it.
fn careless(
    world: &World,
    identity: &Identity,
    change: impl FnOnce(&mut CertificateParams),
) -> Issued {
    let mut params = leaf_params(identity, quarter()).unwrap();
    change(&mut params);
    world.authority.sign(&params).unwrap()
}

#[tokio::test]
async fn s_01_p_03_a_certificate_for_the_other_direction_or_none_is_refused() {
    let world = World::new();
    let only_dialled = careless(&world, &server(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let none = careless(&world, &site(), |params| params.extended_key_usages.clear());
    let relay_without = careless(&world, &id("cell://study/relay/r?org=hq"), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    for issued in [only_dialled, none, relay_without] {
        let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
        assert_eq!(refused.status(), Status::CertKind, "{refused}");
    }
}

#[tokio::test]
async fn p_03_a_certificate_without_exactly_one_name_is_refused() {
    let world = World::new();
    let nameless = careless(&world, &site(), |params| params.subject_alt_names.clear());
    let twofold = careless(&world, &site(), |params| {
        let other = rcgen::SanType::URI(server().to_uri().try_into().unwrap());
        params.subject_alt_names.push(other);
    });
    for issued in [nameless, twofold] {
        let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
        assert_eq!(refused.status(), Status::CertName, "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_project_of_the_same_authority_is_refused() {
    let world = World::new();
    let other = id("cell://other/client/site-1?org=hq");
    let issued = careless(&world, &other, |_| {});
    let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
    assert!(matches!(refused, PeerRefused::Project { .. }), "{refused}");
}

#[tokio::test]
async fn a_job_certificate_that_an_authority_issued_is_refused() {
    let world = World::new();
    let issued = careless(&world, &job(), |_| {});
    let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
    assert_eq!(refused, PeerRefused::Chain(ChainError::Job));
}

#[tokio::test]
async fn a_chain_of_too_many_certificates_is_refused_unread() {
    let world = World::new();
    let issued = world.issue(&site());
    let mut chain = issued.chain();
    chain.extend(vec![world.authority.root().clone(); MAX_CHAIN]);
    let refused = refusal_of(&world, world.listener(NOW), rogue(chain, &issued)).await;
    assert!(matches!(refused, PeerRefused::Chain(ChainError::TooLong { .. })), "{refused}");
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    let world = World::new();
    let (victim, mine) = (world.issue(&site()), world.issue(&site()));
    assert_refused(&shake(world.listener(NOW), rogue(victim.chain(), &mine)).await);
}

#[tokio::test]
async fn atk_030_a_parent_of_another_name_is_not_accepted() {
    let world = World::new();
    let relay = id("cell://study/relay/relay-a?org=hq");
    let refused =
        refusal_of(&world, world.listener_of(&relay, NOW), world.dialler(&site(), NOW)).await;
    let text = refused.to_string();
    assert!(text.contains("relay-a") && text.contains("server was dialled"), "{text}");
}

#[tokio::test]
async fn a_site_cannot_pose_as_a_parent() {
    let world = World::new();
    let posing = id("cell://study/client/server?org=hq");
    let refused =
        refusal_of(&world, world.listener_of(&posing, NOW), world.dialler(&site(), NOW)).await;
    assert!(refused.to_string().contains("extended key usage"), "{refused}");
    let careless = careless(&world, &posing, |params| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    });
    let own = world.credentials_of(&careless);
    let tls = server_config(&own, Arc::default(), at(NOW), world.on_refusal()).unwrap();
    let refused = refusal_of(&world, tls, world.dialler(&site(), NOW)).await;
    assert!(refused.to_string().contains("extended key usage"), "{refused}");
}

#[tokio::test]
async fn s_03_another_protocol_or_none_is_refused() {
    let world = World::new();
    for protocols in [vec![b"cellbus/2".to_vec()], vec![b"h3".to_vec()], Vec::new()] {
        let mut dials = world.dialler(&site(), NOW);
        dials.alpn_protocols = protocols;
        assert_refused(&shake(world.listener(NOW), dials).await);
        let mut tls = world.listener(NOW);
        tls.alpn_protocols = vec![b"cellbus/2".to_vec()];
        assert_refused(&shake(tls, world.dialler(&site(), NOW)).await);
    }
}

#[tokio::test]
async fn s_03_who_asks_for_another_server_name_is_refused() {
    let world = World::new();
    for name in ["localhost", "server", "127.0.0.1"] {
        let attempt = shake_as(world.listener(NOW), world.dialler(&site(), NOW), name).await;
        assert_refused(&attempt);
    }
}
