//! One transfer to many receivers, and many to one.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use cellbus_channels::{
    Failure, Fqcn, Status,
    transfer::{
        Combine, End, FetchOptions, Fetched, Hold, Mean, Numbers, Offer, Receiving, Sink, Source,
        Taken, Verdict,
    },
};
use cellbus_harness::net::Net;

use super::cells::{MIB, scenario, to, transfers, whole, within};

const SITES: [&str; 3] = ["relay.site-1", "relay.site-2", "site-3"];

const LOCK: &str = "no panic in between";

type Got = Arc<Mutex<Vec<Fetched>>>;

/// Takes everything that is offered to a cell into memory.
async fn receives(net: &Net, cell: &str, options: FetchOptions) -> (Receiving, Got) {
    let got = Got::default();
    let ours = Arc::clone(&got);
    let receive = move |_offer: Offer| {
        let (got, options) = (Arc::clone(&ours), options.clone());
        async move {
            let taken = Taken::new(Sink::memory(64 << 20)).options(options);
            Ok(taken.then(|fetched| async move {
                got.lock().expect(LOCK).push(fetched.expect("it arrives"))
            }))
        }
    };
    let target: cellbus_channels::ChannelTopic = "task/fetch".parse().expect("a channel and topic");
    (transfers(net, cell).receive(target, 4, receive).await.expect("nobody receives here"), got)
}

/// The holder has counted a receipt before its receiver hears of that, and lets go.
async fn settled(net: &Net) {
    net.advance(Duration::from_secs(1)).await;
}

#[test]
fn every_receiver_gets_it_and_is_counted_once() {
    scenario(
        |_| {},
        |net| async move {
            let mut kept = Vec::new();
            for site in SITES {
                kept.push(receives(&net, site, FetchOptions::default()).await);
            }
            let sent = whole(6 * MIB);
            let sending = transfers(&net, "server").send(sent.clone(), to(&SITES).quorum(2)).await;
            let sending = sending.unwrap();
            let (outcome, _served) = within(sending.keep()).await;
            assert_eq!(
                (outcome.verdict, outcome.stored, outcome.expected),
                (Verdict::Completed, 3, 3)
            );
            assert!(outcome.quorum_met);
            settled(&net).await;
            for (_, got) in &kept {
                let got = got.lock().unwrap();
                assert_eq!(got.len(), 1);
                assert!(got[0].bytes() == Some(&sent));
            }
            drop(kept);
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn receivers_behind_one_relay_cost_the_holder_one_copy() {
    scenario(
        |_| {},
        |net| async move {
            let mut kept = Vec::new();
            for site in &SITES[..2] {
                kept.push(receives(&net, site, FetchOptions::default()).await);
            }
            let written = async |cell: &str| net.inspect().await[cell].counters.bytes_out;
            let before = (written("server").await, written("relay").await);
            let size = 6 * MIB as u64;
            let sending = transfers(&net, "server").send(whole(6 * MIB), to(&SITES[..2])).await;
            let outcome = within(sending.unwrap()).await;
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 2));
            settled(&net).await;
            let grown = (written("server").await - before.0, written("relay").await - before.1);
            assert!((size..size + size / 8).contains(&grown.0), "server: {} of {size}", grown.0);
            assert!(grown.1 >= 2 * size, "relay: {} of {size}", grown.1);
            drop(kept);
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn a_second_round_of_the_same_bytes_crosses_no_slow_line_again() {
    scenario(
        |_| {},
        |net| async move {
            let mut kept = Vec::new();
            for site in &SITES[..2] {
                kept.push(receives(&net, site, FetchOptions::default()).await);
            }
            let sent = whole(6 * MIB);
            let written = async |cell: &str| net.inspect().await[cell].counters.bytes_out;
            let mut grown = Vec::new();
            for _round in 0..2 {
                let before = written("server").await;
                let sending = transfers(&net, "server").send(sent.clone(), to(&SITES[..2])).await;
                let outcome = within(sending.unwrap()).await;
                assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 2));
                settled(&net).await;
                grown.push(written("server").await - before);
            }
            let size = 6 * MIB as u64;
            assert!(grown[0] >= size && grown[1] < size / 100, "{grown:?} of {size}");
            for (_, got) in &kept {
                let got = got.lock().unwrap();
                assert!(got.len() == 2 && got.iter().all(|got| got.bytes() == Some(&sent)));
            }
            drop(kept);
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn one_that_refuses_fails_alone_and_the_whole_is_not_complete() {
    scenario(
        |_| {},
        |net| async move {
            let _first = receives(&net, "site-1", FetchOptions::default()).await;
            let target: cellbus_channels::ChannelTopic = "task/fetch".parse().unwrap();
            let refuse = |_offer: Offer| async { Err(Failure::Refused(Status::TopicDenied)) };
            let _refusing = transfers(&net, "site-2").receive(target, 1, refuse).await.unwrap();
            let options = to(&SITES).quorum(1).patience(Duration::from_secs(60));
            let sending = transfers(&net, "server").send(whole(100), options).await.unwrap();
            let begun = tokio::time::Instant::now();
            let outcome = within(sending).await;
            let took = begun.elapsed().as_secs();
            assert!((59..90).contains(&took), "who does not receive is waited for: {took}");
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 1));
            assert!(outcome.quorum_met);
            let end = |site: &str| outcome.ends[&site.parse::<Fqcn>().unwrap()];
            assert_eq!(end("relay.site-1"), End::Stored { generation: 1, signed: true });
            assert_eq!(end("relay.site-2"), End::Failed(Status::TopicDenied));
            assert_eq!(end("site-3"), End::Failed(Status::NoHandler));
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn a_slow_receiver_does_not_hold_another() {
    scenario(
        |_| {},
        |net| async move {
            let slow = FetchOptions::default().rate(256 << 10);
            let (_slow, slow_got) = receives(&net, "site-1", slow).await;
            let (_fast, fast_got) = receives(&net, "site-2", FetchOptions::default()).await;
            let sent = whole(8 * MIB);
            let options = to(&SITES[..2]);
            let sending = transfers(&net, "server").send(sent.clone(), options).await.unwrap();
            let sending = tokio::task::spawn_local(sending);
            net.advance(Duration::from_secs(8)).await;
            assert_eq!(fast_got.lock().unwrap().len(), 1, "the fast one has it");
            assert!(slow_got.lock().unwrap().is_empty(), "the slow one has it not");
            let outcome = within(sending).await.unwrap();
            assert_eq!(outcome.verdict, Verdict::Completed);
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn f_36_a_receiver_that_was_killed_is_offered_it_again_and_goes_on_with_its_part() {
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
        let site = transfers(&net, "site-3");
        let receiving = site.receive(target.clone(), 1, receive()).await.unwrap();
        let sent = whole(32 * MIB);
        let options = to(&["site-3"]).rate(4 * MIB as u64);
        let sending = transfers(&net, "server").send(sent.clone(), options).await.unwrap();
        let mut progress = sending.progress();
        let sending = tokio::task::spawn_local(sending);
        while progress.next().await.unwrap().1.bytes < 24 * MIB as u64 {}
        net.crash("site-3").await;
        drop((receiving, site));
        net.advance(Duration::from_secs(10)).await;
        net.restart("site-3");
        net.wait_ready(Duration::from_secs(60)).await;
        let found = transfers(&net, "site-3").parts_in(directory.path()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].durable >= 8 * MIB as u64, "{found:?}");
        let _receiving = transfers(&net, "site-3").receive(target, 1, receive()).await.unwrap();
        let outcome = within(sending).await.unwrap();
        assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
        assert!(fs::read(&into).unwrap() == sent);
        settled(&net).await;
        net.finish().await;
    });
}

/// Adds numbers, part by part.
#[derive(Default)]
struct Sum {
    totals: BTreeMap<String, Vec<u64>>,
    contributions: usize,
}

impl Combine for Sum {
    fn part(&mut self, _from: &Fqcn, name: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let totals = self.totals.entry(name.to_owned()).or_default();
        let first = usize::try_from(offset).expect("small") / 8;
        totals.resize(totals.len().max(first + bytes.len() / 8), 0);
        for (total, number) in totals[first..].iter_mut().zip(bytes.chunks_exact(8)) {
            *total += u64::from_le_bytes(number.try_into().expect("8 bytes"));
        }
        Ok(())
    }

    fn end(&mut self, _from: &Fqcn) {
        self.contributions += 1;
    }
}

#[test]
fn what_many_offer_is_combined_part_by_part() {
    scenario(
        |_| {},
        |net| async move {
            let directory = tempfile::tempdir().unwrap();
            for hold in [Hold::Memory(8 << 20), Hold::Directory(directory.path().to_owned())] {
                let numbers = |factor: u64, count: u64| {
                    Source::bytes(
                        (0..count).flat_map(|n| (n * factor).to_le_bytes()).collect::<Vec<_>>(),
                    )
                };
                let mut offered = Vec::new();
                for (site, factor) in SITES.iter().zip(1..) {
                    let object = Source::object([
                        ("a".to_owned(), numbers(factor, 300_000)),
                        ("b".to_owned(), numbers(factor, 10)),
                    ]);
                    let sending = transfers(&net, site).send(object, to(&["server"])).await;
                    offered.push(tokio::task::spawn_local(sending.unwrap()));
                }
                net.advance(Duration::from_secs(1)).await;
                let sites = SITES.iter().map(|site| site.parse::<Fqcn>().unwrap());
                let target = "task/fetch".parse().unwrap();
                let server = transfers(&net, "server");
                let gathering = server.gather(sites, target, 2, hold, Sum::default()).await;
                let mut gathering = gathering.unwrap();
                let mut came = Vec::new();
                while let Some((site, outcome)) = within(gathering.next()).await {
                    assert!(outcome.is_ok(), "{site}: {outcome:?}");
                    came.push(site.to_string());
                }
                came.sort();
                assert_eq!(came, SITES);
                let sum = gathering.finish().unwrap();
                assert_eq!(sum.contributions, 3);
                for (name, count) in [("a", 300_000), ("b", 10)] {
                    let expected: Vec<u64> = (0..count).map(|n| n * 6).collect();
                    assert!(sum.totals[name] == expected, "{name}");
                }
                for sending in offered {
                    let outcome = within(sending).await.unwrap();
                    assert_eq!(outcome.verdict, Verdict::Completed);
                }
            }
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn a_relay_that_combines_passes_one_mean_on_and_the_server_has_the_mean_of_all() {
    scenario(
        |_| {},
        |net| async move {
            const COUNT: usize = 500_000;
            let model = |factor: usize| {
                let numbers = |count: usize| {
                    (0..count).flat_map(|n| ((n * factor) as f32).to_le_bytes()).collect::<Vec<_>>()
                };
                Source::object([
                    ("a".to_owned(), Source::bytes(numbers(COUNT))),
                    ("b".to_owned(), Source::bytes(numbers(3))),
                ])
            };
            let target: cellbus_channels::ChannelTopic = "task/fetch".parse().unwrap();
            let gather = async |cell: &str, from: &[&str]| {
                let from: Vec<Fqcn> = from.iter().map(|name| name.parse().unwrap()).collect();
                let (hold, mean) = (Hold::Memory(8 << 20), Mean::of(Numbers::F32));
                let transfers = transfers(&net, cell);
                transfers.gather(from, target.clone(), 1, hold, mean).await.unwrap()
            };
            let mut below = gather("relay", &SITES[..2]).await;
            let mut above = gather("server", &["relay", "site-3"]).await;
            let written = async |cell: &str| net.inspect().await[cell].counters.bytes_out;
            let before = written("relay").await;
            let mut offered = Vec::new();
            for (factor, site) in (1..).zip(SITES) {
                let to = if site == "site-3" { to(&["server"]) } else { to(&["relay"]) };
                let sending = transfers(&net, site).send(model(factor), to).await.unwrap();
                offered.push(tokio::task::spawn_local(sending));
            }
            while let Some((site, outcome)) = within(below.next()).await {
                assert!(outcome.is_ok(), "{site}: {outcome:?}");
            }
            let mean = below.finish().unwrap();
            assert_eq!((mean.contributions(), mean.weight()), (2, 2.0));
            let options = mean.describe(to(&["server"]));
            let sending = transfers(&net, "relay").send(mean.into_source(), options).await;
            offered.push(tokio::task::spawn_local(sending.unwrap()));
            while let Some((site, outcome)) = within(above.next()).await {
                assert!(outcome.is_ok(), "{site}: {outcome:?}");
            }
            let mean = above.finish().unwrap();
            assert_eq!((mean.contributions(), mean.weight()), (2, 3.0));
            for sending in offered {
                assert_eq!(within(sending).await.unwrap().verdict, Verdict::Completed);
            }
            let (grown, size) = (written("relay").await - before, 4 * COUNT as u64);
            assert!((size..size + size / 4).contains(&grown), "one model left it: {grown}");
            let (into, reference) = (Sink::memory(8 << 20), to(&["site-3"]));
            let served = transfers(&net, "server").serve(mean.into_source(), reference).await;
            let served = served.unwrap();
            let fetching =
                transfers(&net, "site-3").fetch(&served.reference(), into, FetchOptions::default());
            let fetched = within(fetching).await.unwrap();
            for (name, bytes) in fetched.parts() {
                for (n, number) in bytes.chunks_exact(4).enumerate() {
                    let number = f32::from_le_bytes(number.try_into().unwrap());
                    let expected = 2.0 * n as f32;
                    assert!((number - expected).abs() <= expected * 1e-6, "{name} {n}: {number}");
                }
            }
            settled(&net).await;
            net.finish().await;
        },
    );
}

#[test]
fn a_transfer_that_nobody_expects_is_not_gathered() {
    scenario(
        |_| {},
        |net| async move {
            let target = "task/fetch".parse().unwrap();
            let expected = ["site-3".parse::<Fqcn>().unwrap()];
            let hold = Hold::Memory(8 << 20);
            let server = transfers(&net, "server");
            let gathering = server.gather(expected, target, 2, hold, Sum::default()).await.unwrap();
            let sending = transfers(&net, "site-1").send(whole(8), to(&["server"])).await.unwrap();
            let outcome = within(sending).await;
            let end = outcome.ends.values().next().copied();
            assert_eq!(end, Some(End::Failed(Status::Forbidden)));
            assert_eq!(gathering.left().len(), 1);
            assert_eq!(gathering.finish().unwrap().contributions, 0);
            settled(&net).await;
            net.finish().await;
        },
    );
}
