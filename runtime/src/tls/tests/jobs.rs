//! Pinned certificates of job cells.

use super::*;

#[tokio::test]
async fn a_pinned_job_is_let_in_until_its_pin_is_gone() {
    let world = World::new();
    let parent = world.credentials(&site());
    let minted = mint_job(&job(), NOW).unwrap();
    let own = OwnCertificate::try_from(&minted).unwrap();
    let listener = || {
        job_server_config(
            parent.certificate(),
            Arc::clone(&world.pins),
            at(NOW),
            world.on_refusal(),
        )
        .unwrap()
    };
    let dials = || {
        job_client_config(&own, parent.certificate().hash(), at(NOW), world.on_refusal()).unwrap()
    };

    let refused = refusal_of(&world, listener(), dials()).await;
    assert_eq!(refused, PeerRefused::NotPinned { hash: own.hash() });

    world.pins.add(own.hash());
    let attempt = shake(listener(), dials()).await;
    assert_eq!(peer(&attempt.accepted.unwrap()), own.hash());
    assert_eq!(peer(&attempt.dialled.unwrap()), parent.certificate().hash());

    assert!(world.pins.remove(&own.hash()) && !world.pins.remove(&own.hash()));
    assert!(world.pins.is_empty());
    let refused = refusal_of(&world, listener(), dials()).await;
    assert_eq!(refused, PeerRefused::NotPinned { hash: own.hash() });
}

#[tokio::test]
async fn a_server_lets_in_its_own_jobs_beside_everybody_else() {
    let world = World::new();
    let parent = world.credentials(&server());
    let minted = mint_job(&job(), NOW).unwrap();
    let own = OwnCertificate::try_from(&minted).unwrap();
    let listener =
        || server_config(&parent, Arc::clone(&world.pins), at(NOW), world.on_refusal()).unwrap();
    let dials = || {
        job_client_config(&own, parent.certificate().hash(), at(NOW), world.on_refusal()).unwrap()
    };
    let refused = refusal_of(&world, listener(), dials()).await;
    assert!(matches!(refused, PeerRefused::Chain(_)), "{refused}");
    world.pins.add(own.hash());
    shake(listener(), dials()).await.accepted.unwrap();
    shake(listener(), world.dialler(&site(), NOW)).await.accepted.unwrap();
}

#[tokio::test]
async fn the_listener_of_a_site_lets_in_no_cell_of_the_project() {
    let world = World::new();
    let parent = world.credentials(&site());
    let tls = job_server_config(parent.certificate(), Arc::default(), at(NOW), world.on_refusal())
        .unwrap();
    let issued = world.issue(&server());
    let refused = refusal_of(&world, tls, rogue(issued.chain(), &issued)).await;
    assert!(matches!(refused, PeerRefused::NotPinned { .. }), "{refused}");
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_refused() {
    let world = World::new();
    let (victim, mine) = (mint_job(&job(), NOW).unwrap(), mint_job(&job(), NOW).unwrap());
    world.pins.add(victim.hash());
    assert_refused(&shake(world.listener(NOW), rogue(victim.chain(), &mine)).await);
    let attempt = shake(world.listener(NOW), rogue(victim.chain(), &victim)).await;
    attempt.accepted.unwrap();
}

#[tokio::test]
async fn a_pinned_certificate_ends_all_the_same() {
    let world = World::new();
    let minted = mint_job(&job(), NOW).unwrap();
    world.pins.add(minted.hash());
    for now in [NOW - DAY, NOW + DAY + 1] {
        let refused = refusal_of(&world, world.listener(now), rogue(minted.chain(), &minted)).await;
        assert_eq!(refused.status(), Status::CertExpired, "{refused}");
    }
}

#[tokio::test]
async fn a_pin_makes_nobody_but_a_job() {
    let (world, other) = (World::new(), World::new());
    let issued = other.issue(&site());
    world.pins.add(issued.hash());
    let refused = refusal_of(&world, world.listener(NOW), rogue(issued.chain(), &issued)).await;
    assert!(matches!(refused, PeerRefused::PinnedKind { .. }), "{refused}");
    let foreign = mint_job(&id("cell://other/job/site-1.job-7?org=hq"), NOW).unwrap();
    world.pins.add(foreign.hash());
    let refused = refusal_of(&world, world.listener(NOW), rogue(foreign.chain(), &foreign)).await;
    assert!(matches!(refused, PeerRefused::Project { .. }), "{refused}");
}

#[tokio::test]
async fn a_job_accepts_no_parent_but_the_one_it_was_told() {
    let world = World::new();
    let minted = mint_job(&job(), NOW).unwrap();
    let own = OwnCertificate::try_from(&minted).unwrap();
    world.pins.add(own.hash());
    let expected = world.credentials(&server()).certificate().hash();
    let dials = job_client_config(&own, expected, at(NOW), world.on_refusal()).unwrap();
    // The same identity, the same authority, another certificate.
    let refused = refusal_of(&world, world.listener(NOW), dials).await;
    assert!(refused.to_string().contains("not pinned"), "{refused}");
}
