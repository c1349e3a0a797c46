//! Job cells, and every kind of cell against a peer without a token.

use cellbus_attacks::{
    Closed, Outcome, Papers, RawPeer, Target, attack, papers::now_unix, peer::Dialling,
};
use cellbus_proto::{
    envelope::Lane,
    identity::{CellKind, Identity},
    name::Fqcn,
    status::Status,
    well_known::PING,
};
use cellbus_runtime::authority::mint_job;

/// The certificate of a job cell of `site`.
fn job_papers(name: &Fqcn) -> (Papers, [u8; 32]) {
    let identity = Identity {
        project: "attacks".parse().expect("a name"),
        kind: CellKind::Job,
        name: name.clone(),
        org: "attacks".parse().expect("a name"),
        role: None,
    };
    let issued = mint_job(&identity, now_unix()).expect("a certificate can be made");
    (Papers::issued(&issued), issued.hash())
}

/// A raw job cell of `site`, let in and registered.
async fn job(target: &Target, site: &str, job: &str) -> RawPeer {
    let parent = target.full_name(site);
    let name = parent.child(&job.parse().expect("a name")).expect("a name");
    let (papers, hash) = job_papers(&name);
    let door = target.node_cell(site).jobs();
    door.pins.add(hash);
    target.cell("server").allow_job(parent.clone(), job.parse().expect("a name"), true);
    let address = door.open().expect("the door opens");
    let mut peer = RawPeer::dial(&papers, address, name.clone(), parent).await;
    peer.register().await.expect("the server runs this job");
    target.until_holds(site, name.as_str(), (true, true)).await;
    peer
}

#[test]
fn atk_082_a_job_cell_reaches_its_own_job_and_nothing_else() {
    attack(async |target, _| {
        let mut one = job(target, "site-2", "job-1").await;
        let mut two = job(target, "site-2", "job-2").await;
        let before = target.look().await;
        let mut refused = 0;
        for (to, topic) in [
            ("site-2.job-2", "task/fetch"),
            ("site-2.job-2", "share/read"),
            ("server", "task/fetch"),
            ("relay", "task/fetch"),
            ("x", "share/read"),
            ("relay.site-1", "share/read"),
            ("relay.site-1.job-2", "share/read"),
            ("server.job-2", "task/fetch"),
        ] {
            let request = one.request(to, topic);
            let outcome = one.ask(request).await;
            assert_eq!(outcome, Outcome::returned(Status::JobScope, "site-2"), "{to} {topic}");
            refused += 1;
        }
        target.assert_refused(&before, &[("site-2", Status::JobScope, refused)]).await;
        assert_eq!(two.unasked_messages(), []);
        // Its own parent it may ask; there, the parent's handlers decide.
        let own = one.request("site-2", "task/fetch");
        assert!(matches!(one.ask(own).await, Outcome::Replied(_)));
        let seen = target.calls().pop().expect("the parent was asked");
        assert_eq!(seen.delivery.origin, "site-2.job-1 job attacks job-1");
    });
}

#[test]
fn a_job_cell_says_nothing_on_the_systems_channels() {
    attack(async |target, _| {
        let mut one = job(target, "site-2", "job-1").await;
        let before = target.look().await;
        let mut refused = 0;
        for to in ["server", "site-2", "relay.site-1", "relay"] {
            for topic in [
                "cell/job_start",
                "cell/job_stop",
                "cell/job_ended",
                "cell/quit",
                "cell/register_child",
                "cell/stop",
            ] {
                let request = one.request(to, topic);
                let outcome = one.ask(request).await;
                assert_eq!(
                    outcome,
                    Outcome::returned(Status::TopicDenied, "site-2"),
                    "{to} {topic}"
                );
                refused += 1;
            }
        }
        for to in ["server", "relay.site-1"] {
            let mut ping = one.request(to, "task/fetch");
            ping.header.target = PING.into();
            assert_eq!(
                one.ask(ping).await,
                Outcome::returned(Status::TopicDenied, "site-2"),
                "{to}"
            );
            refused += 1;
        }
        target.assert_refused(&before, &[("site-2", Status::TopicDenied, refused)]).await;
    });
}

#[test]
fn a_job_that_the_server_does_not_run_is_not_registered() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let parent = target.full_name("site-2");
        let name = parent.child(&"job-9".parse().expect("a name")).expect("a name");
        let (papers, hash) = job_papers(&name);
        let door = target.node_cell("site-2").jobs();
        door.pins.add(hash);
        let address = door.open().expect("the door opens");
        let before = target.look().await;
        let mut peer = RawPeer::dial(&papers, address, name.clone(), parent).await;
        let ok = peer.greet().await;
        let proof = peer.proof(&ok.challenge);
        peer.assert_proof_refused(&proof).await;
        let refused = [("server", Status::JobScope, 1), ("site-2", Status::JobScope, 1)];
        target.assert_refused(&before, &refused).await;
        assert_eq!(target.holds("site-2", name.as_str()).await, (false, false));
    });
}

#[test]
fn only_a_pinned_certificate_gets_through_the_door_of_jobs() {
    attack(async |target, guard| {
        guard.expect("certificate refused");
        let door = target.node_cell("site-2").jobs();
        let address = door.open().expect("the door opens");
        let name: Fqcn = "site-2.job-1".parse().expect("a name");
        let before = target.look().await;
        let nobody = [
            job_papers(&name).0,
            target.papers("x"),
            target.papers("site-1"),
            target.papers("server"),
        ];
        for papers in &nobody {
            let end = match Dialling::honest(papers).connect(address).await {
                Ok((connection, _endpoint)) => cellbus_attacks::peer::closed(&connection).await,
                Err(error) => Closed::from_error(&error),
            };
            assert!(matches!(end, Closed::Transport(0x100..0x200, _)), "{end:?}");
        }
        let count = 2 * u64::try_from(nobody.len()).expect("few");
        target.assert_refused(&before, &[("site-2", Status::Unauthenticated, count)]).await;
        assert_eq!(target.inspect("site-2").await.links.len(), 1);
    });
}

#[test]
fn a_pin_lets_in_the_one_job_that_it_was_made_for() {
    attack(async |target, guard| {
        guard.expect("link closed");
        let parent = target.full_name("site-2");
        let door = target.node_cell("site-2").jobs();
        let address = door.open().expect("the door opens");
        let before = target.look().await;
        // A pinned certificate with the name of another job, of a site, and of a job elsewhere.
        let mut closed = 0;
        for (certified, said) in [
            ("site-2.job-1", "site-2.job-2"),
            ("site-2.job-1", "site-2"),
            ("site-1.job-1", "site-1.job-1"),
        ] {
            let (papers, hash) = job_papers(&certified.parse().expect("a name"));
            door.pins.add(hash);
            let said = said.parse().expect("a name");
            let mut peer = RawPeer::dial(&papers, address, said, parent.clone()).await;
            peer.say_hello().await;
            assert_eq!(peer.closed().await, Closed::unauthenticated());
            closed += 1;
        }
        let refused = [("site-2", Status::CertName, closed - 1), ("site-2", Status::NotDirect, 1)];
        target.assert_refused(&before, &refused).await;
    });
}

#[test]
fn atk_158_every_kind_of_cell_that_lets_peers_in_has_its_filter() {
    attack(async |target, _| {
        let mut peers = vec![
            ("server", RawPeer::registered(target, "server", "x").await),
            ("relay", RawPeer::registered(target, "relay", "y").await),
            ("site-2", job(target, "site-2", "job-1").await),
            ("site-1", job(target, "site-1", "job-1").await),
        ];
        let before = target.look().await;
        for (_, peer) in &mut peers {
            let (token, by) = (peer.token.take(), peer.parent.to_string());
            for to in [by.as_str(), "server", "site-2"] {
                for topic in ["task/fetch", "share/read", "cell/ping", "any/thing"] {
                    let probe = peer.request(to, topic);
                    let outcome = peer.ask(probe).await;
                    assert_eq!(outcome, Outcome::returned(Status::NoToken, &by), "{to} {topic}");
                }
            }
            peer.token = token;
            peer.settle(Lane::Interactive).await;
        }
        let refused = ["server", "relay", "site-2", "site-1"].map(|at| (at, Status::NoToken, 12));
        target.assert_refused(&before, &refused).await;
    });
}
