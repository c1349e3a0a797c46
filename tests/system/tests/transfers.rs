//! Transfers: any size, through relays, gone on with after a loss, and settled once.
//!
//! Every scenario is run over links in memory and over QUIC on a simulated network.

#[path = "transfers/cells.rs"]
mod cells;
#[path = "transfers/many.rs"]
mod many;
#[path = "transfers/paths.rs"]
mod paths;
#[path = "transfers/sealed.rs"]
mod sealed;

use std::{fs, time::Duration};

use cellbus_channels::{
    ConduitOptions, Outgoing, Status,
    transfer::{End, FetchError, FetchOptions, Sink, Source, Told, Unfit, Verdict},
};
use cellbus_proto::{codec::Octets, transfer::Fetch};

use self::cells::{MIB, fetch, scenario, serve, to, transfers, whole, within};

#[test]
fn bytes_files_and_objects_arrive_through_a_relay() {
    scenario(
        |_| {},
        |net| async move {
            let directory = tempfile::tempdir().unwrap();
            let (from, into) = (directory.path().join("from"), directory.path().join("into"));
            let sent = whole(5 * MIB + 1);
            fs::write(&from, &sent).unwrap();
            let object = Source::object([
                ("first".to_owned(), Source::bytes(sent.slice(..100))),
                ("second".to_owned(), Source::file(&from)),
            ]);
            let cases = [
                ("server", Source::bytes(sent.clone()), sent.clone()),
                ("site-3", Source::file(&from), sent.clone()),
                ("site-2", object, [&sent[..100], &sent].concat().into()),
            ];
            for (holder, source, expected) in cases {
                let served = serve(&net, holder, source, to(&["relay.site-1"])).await;
                let reference = served.reference();
                let fetching = fetch(&net, "site-1", &reference, Sink::memory(64 << 20));
                let fetched = within(fetching).await.unwrap();
                assert_eq!(fetched.told, Told::Settled, "{holder}");
                assert!(fetched.into_bytes() == expected, "what {holder} served differs");
                let fetching = fetch(&net, "site-1", &reference, Sink::file(&into));
                within(fetching).await.unwrap();
                assert!(fs::read(&into).unwrap() == expected, "what {holder} served differs");
                let outcome = within(served.outcome()).await;
                assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
                let stored = End::Stored { generation: outcome.generation, signed: true };
                assert_eq!(outcome.ends.values().collect::<Vec<_>>(), [&stored]);
            }
            net.finish().await;
        },
    );
}

#[test]
fn f_36_a_transfer_goes_on_where_it_was_when_its_relay_died_half_way() {
    let tolerate = |log: &cellbus_harness::guard::LogGuard| log.tolerate("link");
    scenario(tolerate, |mut net| async move {
        let sent = whole(24 * MIB);
        let options = to(&["relay.site-1"]).rate(4 * MIB as u64);
        let served = serve(&net, "server", sent.clone(), options).await;
        let reference = served.reference();
        let fetching = transfers(&net, "site-1").fetch(
            &reference,
            Sink::memory(64 << 20),
            FetchOptions::default(),
        );
        let mut progress = fetching.progress();
        let fetching = tokio::task::spawn_local(fetching);
        while progress.latest().bytes < 12 * MIB as u64 {
            progress.next().await.unwrap();
        }
        net.crash("relay").await;
        net.advance(Duration::from_secs(20)).await;
        let before = progress.latest();
        assert!(!fetching.is_finished() && before.bytes < 16 * MIB as u64, "{before:?}");
        net.restart("relay");
        net.wait_ready(Duration::from_secs(60)).await;
        let begun = tokio::time::Instant::now();
        let fetched = within(fetching).await.unwrap().unwrap();
        assert!(fetched.into_bytes() == sent);
        assert_eq!(fetched_again(&served), (before.generation, Verdict::Completed));
        // At 4 MiB a second, all of it would have taken 6 s, besides the wait for another attempt.
        assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
        net.finish().await;
    });
}

fn fetched_again(served: &cellbus_channels::transfer::Served) -> (u64, Verdict) {
    let outcome = served.outcome_now().expect("its one receiver has ended");
    (outcome.generation, outcome.verdict)
}

#[test]
fn c_14_a_reference_is_of_no_use_to_others_and_the_holder_decides_on_each_fetch() {
    scenario(
        |_| {},
        |net| async move {
            let served = serve(&net, "server", whole(100), to(&["relay.site-1"])).await;
            let reference = served.reference();
            let refused =
                within(fetch(&net, "site-2", &reference, Sink::memory(100))).await.unwrap_err();
            assert!(matches!(refused, FetchError::Unfit(Unfit::NotForMe)), "{refused}");

            let mut forged = (*reference).clone();
            forged.reference.expires_unix += 1;
            let refused =
                within(fetch(&net, "site-1", &forged, Sink::memory(100))).await.unwrap_err();
            assert!(matches!(refused, FetchError::Unfit(Unfit::BadSignature)), "{refused}");

            // Who does not ask itself first is refused by the holder.
            let asked = Fetch {
                id: reference.reference.id,
                generation: 1,
                offset: 0,
                nonce: Octets([7; 16]),
                have: false,
                digest: None,
            };
            let asks = |from: &str, target: &str| {
                let mut outgoing = Outgoing::new(target.parse().unwrap());
                outgoing.payload = asked.encode();
                let bus = net.cell(from).running.bus();
                async move {
                    let to = "server".parse().unwrap();
                    let opened = bus.open_conduit(to, outgoing, ConduitOptions::default()).await;
                    opened.map(drop).map_err(|error| error.status())
                }
            };
            assert_eq!(asks("site-2", "task/fetch").await, Err(Status::Forbidden));
            assert_eq!(asks("site-3", "task/fetch").await, Err(Status::Forbidden));
            assert_eq!(asks("site-1", "task/ping").await, Err(Status::TransferUnknown));
            assert_eq!(asks("site-1", "task/fetch").await, Ok(()));
            let fetched = within(fetch(&net, "site-1", &reference, Sink::memory(100))).await;
            assert_eq!(fetched.unwrap().told, Told::Settled);
            assert_eq!(served.outcome_now().unwrap().stored, 1);
            net.finish().await;
        },
    );
}

#[test]
fn a_reference_that_has_expired_fetches_nothing() {
    scenario(
        |_| {},
        |net| async move {
            let options = to(&["relay.site-1"]).lifetime(Duration::from_secs(60));
            let served = serve(&net, "server", whole(100), options).await;
            net.advance(Duration::from_secs(61)).await;
            let reference = served.reference();
            let refused =
                within(fetch(&net, "site-1", &reference, Sink::memory(100))).await.unwrap_err();
            assert_eq!(refused.status(), Status::TransferExpired);
            let outcome = served.outcome().await;
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 0));
            net.finish().await;
        },
    );
}

#[test]
fn whoever_gives_up_frees_both_ends_within_two_seconds() {
    scenario(
        |_| {},
        |net| async move {
            for holder_gives_up in [false, true] {
                let options = to(&["relay.site-1"]).rate(MIB as u64);
                let served = serve(&net, "server", whole(30 * MIB), options).await;
                let fetching = transfers(&net, "site-1").fetch(
                    &served.reference(),
                    Sink::memory(64 << 20),
                    FetchOptions::default(),
                );
                let canceller = fetching.canceller();
                let fetching = tokio::task::spawn_local(fetching);
                net.advance(Duration::from_secs(5)).await;
                let begun = tokio::time::Instant::now();
                match holder_gives_up {
                    true => drop(served.cancel()),
                    false => canceller.cancel(),
                }
                let ended = within(fetching).await.unwrap().unwrap_err();
                assert_eq!(ended.status(), Status::TransferCancelled, "{ended}");
                let outcome = within(served.outcome()).await;
                assert_eq!(outcome.verdict, Verdict::Failed);
                if !holder_gives_up {
                    let failed = End::Failed(Status::TransferCancelled);
                    assert_eq!(outcome.ends.values().collect::<Vec<_>>(), [&failed]);
                }
                let took = begun.elapsed();
                assert!(took < Duration::from_secs(2), "{took:?}, {holder_gives_up}");
            }
            net.finish().await;
        },
    );
}
