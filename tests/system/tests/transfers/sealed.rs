//! Transfers that relays carry, share and go on with, and cannot read.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    Bytes, ConduitOptions, Outgoing, Status,
    transfer::{
        FetchError, FetchOptions, KeyError, Offer, Receiving, Sink, Source, Taken, Told, Verdict,
    },
};
use cellbus_harness::net::Net;
use cellbus_proto::{codec::Octets, transfer::Fetch};

use super::cells::{MIB, scenario, serve, to, transfers, whole, within};

type Got = Arc<Mutex<Vec<Bytes>>>;

/// Takes everything that is offered to a cell into memory.
async fn receives(net: &Net, cell: &str) -> (Receiving, Got) {
    let got = Got::default();
    let ours = Arc::clone(&got);
    let receive = move |offer: Offer| {
        let got = Arc::clone(&ours);
        async move {
            assert!(offer.key.is_some(), "the key comes with the offer");
            Ok(Taken::new(Sink::memory(64 << 20)).then(|fetched| async move {
                let bytes = fetched.expect("it arrives").into_bytes();
                got.lock().expect("no panic in between").push(bytes);
            }))
        }
    };
    let target: cellbus_channels::ChannelTopic = "task/fetch".parse().expect("a channel and topic");
    (transfers(net, cell).receive(target, 4, receive).await.expect("nobody receives here"), got)
}

#[test]
fn receivers_behind_one_relay_cost_the_holder_one_copy_of_what_is_sealed() {
    scenario(
        |_| {},
        |net| async move {
            let sites = ["relay.site-1", "relay.site-2"];
            let mut kept = Vec::new();
            for site in sites {
                kept.push(receives(&net, site).await);
            }
            let written = async |cell: &str| net.inspect().await[cell].counters.bytes_out;
            let before = (written("server").await, written("relay").await);
            let (sent, size) = (whole(4 * MIB), 4 * MIB as u64);
            let sending = transfers(&net, "server").send(sent.clone(), to(&sites).sealed()).await;
            let outcome = within(sending.unwrap()).await;
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 2));
            net.advance(Duration::from_secs(1)).await;
            for (_, got) in &kept {
                let got = got.lock().unwrap();
                assert!(got.len() == 1 && got[0] == sent, "{} came", got.len());
            }
            let grown = (written("server").await - before.0, written("relay").await - before.1);
            assert!((size..size + size / 8).contains(&grown.0), "server: {} of {size}", grown.0);
            assert!(grown.1 >= 2 * size, "relay: {} of {size}", grown.1);
            drop(kept);
            net.advance(Duration::from_secs(1)).await;
            net.finish().await;
        },
    );
}

#[test]
fn f_36_what_is_sealed_goes_on_where_it_was_when_its_relay_died_half_way() {
    let tolerate = |log: &cellbus_harness::guard::LogGuard| log.tolerate("link");
    scenario(tolerate, |mut net| async move {
        let object = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
        let source =
            Source::object([object("a", 3 * MIB + 1), object("b", 0), object("c", 9 * MIB)]);
        let options = to(&["relay.site-1"]).rate(3 * MIB as u64).sealed();
        let served = serve(&net, "server", source, options).await;
        let options = FetchOptions::default().key(served.key().unwrap());
        let reference = served.reference();
        let fetching = transfers(&net, "site-1").fetch(&reference, Sink::memory(64 << 20), options);
        let mut progress = fetching.progress();
        let fetching = tokio::task::spawn_local(fetching);
        while progress.latest().bytes < 6 * MIB as u64 {
            progress.next().await.unwrap();
        }
        net.crash("relay").await;
        net.advance(Duration::from_secs(20)).await;
        let before = progress.latest();
        assert!(!fetching.is_finished() && before.bytes < 11 * MIB as u64, "{before:?}");
        net.restart("relay");
        net.wait_ready(Duration::from_secs(60)).await;
        let fetched = within(fetching).await.unwrap().unwrap();
        assert_eq!(fetched.told, Told::Settled);
        let parts: Vec<_> = fetched.parts().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let expected = [("a", 3 * MIB + 1), ("b", 0), ("c", 9 * MIB)];
        assert!(parts == expected.map(|(name, len)| (name.to_owned(), whole(len))));
        assert_eq!(served.outcome_now().unwrap().verdict, Verdict::Completed);
        assert_eq!(progress.latest().generation, before.generation);
        net.finish().await;
    });
}

#[test]
fn f_36_a_receiver_that_was_killed_is_offered_the_key_again_and_goes_on_with_its_part() {
    let tolerate = |log: &cellbus_harness::guard::LogGuard| log.tolerate("link");
    scenario(tolerate, |mut net| async move {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("model");
        let receive = || {
            let into = into.clone();
            move |_offer: Offer| {
                let into = into.clone();
                async move { Ok(Taken::new(Sink::file(into))) }
            }
        };
        let target: cellbus_channels::ChannelTopic = "task/fetch".parse().unwrap();
        let site = transfers(&net, "site-2");
        let receiving = site.receive(target.clone(), 1, receive()).await.unwrap();
        let sent = whole(20 * MIB);
        let options = to(&["relay.site-2"]).rate(4 * MIB as u64).sealed();
        let sending = transfers(&net, "server").send(sent.clone(), options).await.unwrap();
        let mut progress = sending.progress();
        let sending = tokio::task::spawn_local(sending);
        while progress.next().await.unwrap().1.bytes < 16 * MIB as u64 {}
        net.crash("site-2").await;
        drop((receiving, site));
        net.advance(Duration::from_secs(10)).await;
        net.restart("site-2");
        net.wait_ready(Duration::from_secs(60)).await;
        let site = transfers(&net, "site-2");
        let found = site.parts_in(directory.path()).await.unwrap();
        // Whole pieces of content: less than what has travelled by their tags.
        assert_eq!(found.len(), 1);
        assert!(found[0].durable >= 7 * MIB as u64, "{found:?}");
        // The key is in no file.
        let sink = Sink::file(&into);
        let refused = site.fetch(&found[0].reference, sink, FetchOptions::default()).await;
        assert!(matches!(refused.unwrap_err(), FetchError::Key(KeyError::Missing)));
        let _receiving = site.receive(target, 1, receive()).await.unwrap();
        let outcome = within(sending).await.unwrap();
        assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
        assert!(fs::read(&into).unwrap() == sent);
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn where_sealing_is_demanded_sealed_transfers_pass_and_no_others() {
    let expect = |log: &cellbus_harness::guard::LogGuard| log.tolerate("NOT_SEALED");
    scenario(expect, |mut net| async move {
        let mut rules = cellbus_harness::net::open_policy();
        rules.iter_mut().for_each(|rule| rule.seal = true);
        net.set_policy(rules);
        let sites = ["relay.site-1", "relay.site-2"];
        let mut kept = Vec::new();
        for site in sites {
            kept.push(receives(&net, site).await);
        }
        let sent = whole(2 * MIB);
        let sending = transfers(&net, "server").send(sent.clone(), to(&sites).sealed()).await;
        let outcome = within(sending.unwrap()).await;
        assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 2));
        net.advance(Duration::from_secs(1)).await;
        for (_, got) in &kept {
            let got = got.lock().unwrap();
            assert!(got.len() == 1 && got[0] == sent, "{} came", got.len());
        }
        drop(kept);
        let bare = serve(&net, "server", sent.clone(), to(&["relay.site-1"])).await;
        let site = transfers(&net, "site-1");
        let options = FetchOptions::default();
        let refused = within(site.fetch(&bare.reference(), Sink::memory(4 << 20), options)).await;
        assert_eq!(refused.unwrap_err().status(), Status::NotSealed);
        assert_eq!((bare.counts().fetches, bare.sent()), (0, 0));
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}

#[test]
fn a_holder_gives_nothing_that_is_not_sealed_to_who_asks_for_what_is() {
    let expect = |log: &cellbus_harness::guard::LogGuard| log.tolerate("NOT_SEALED");
    scenario(expect, |net| async move {
        let bare = serve(&net, "server", whole(MIB), to(&["relay.site-1"])).await;
        let reference = bare.reference();
        let open = async |sealed: bool| {
            let fetch = Fetch {
                id: reference.reference.id,
                generation: reference.reference.generation,
                offset: 0,
                // Each is good for one fetch.
                nonce: Octets([1 + u8::from(sealed); 16]),
                have: false,
                digest: None,
            };
            let target = "task/fetch".parse().expect("a channel and topic");
            let outgoing = Outgoing { payload: fetch.encode(), ..Outgoing::new(target) };
            let options = ConduitOptions { sealed, ..ConduitOptions::default() };
            let bus = net.cell("site-1").running.bus();
            bus.open_conduit("server".parse().expect("a cell"), outgoing, options).await
        };
        let error = open(true).await.expect_err("it is refused");
        assert_eq!(error.status(), Status::NotSealed);
        assert_eq!(error.by().map(|by| by.as_str()), Some("server"));
        assert_eq!(bare.sent(), 0);
        assert!(open(false).await.is_ok(), "nobody demands it");
        net.advance(Duration::from_secs(5)).await;
        net.finish().await;
    });
}

#[test]
fn a_cell_that_has_the_reference_and_not_the_key_gets_nothing() {
    scenario(
        |_| {},
        |net| async move {
            let options = to(&["relay.site-1"]).sealed();
            let served = serve(&net, "server", whole(100), options).await;
            let (reference, key) = (served.reference(), served.key().unwrap());
            let site = transfers(&net, "site-1");
            let refused = site.fetch(&reference, Sink::memory(100), FetchOptions::default()).await;
            assert_eq!(refused.unwrap_err().status(), Status::SealKey);
            assert_eq!(served.counts().fetches, 0, "nothing was asked for");
            let options = FetchOptions::default().key(key);
            let fetched = within(site.fetch(&reference, Sink::memory(100), options)).await.unwrap();
            assert!(fetched.into_bytes() == whole(100));
            net.finish().await;
        },
    );
}
