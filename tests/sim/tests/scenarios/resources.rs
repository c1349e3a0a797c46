//! Narrow paths, slow readers, ten times too much, and everybody at once.

use std::time::Duration;

use cellbus_channels::{Lane, Reply, from_fn};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::for_each_seed,
    sim::{LinkSettings, SimNet},
};
use cellbus_runtime::cell::{CellSettings, HandlerLimits};
use cellbus_sim::{
    figures::{Spans, show},
    ledger::Work,
    load::Load,
    trees::{star, two_levels},
    views::{epoch, registrations},
};
use tokio::time::Instant;

const BUDGET: Duration = Duration::from_secs(10);

/// Asks for a ping of the system every 100 ms until `work` ends; gives how long they took.
async fn pings_during(net: &Net, from: &str, to: &str, work: impl Future<Output = ()>) -> Spans {
    let mut work = std::pin::pin!(work);
    let mut spans = Vec::new();
    loop {
        let begun = Instant::now();
        let asked = net.cell(from).request(to, "cell/ping", "p");
        let mut asked = std::pin::pin!(asked);
        let mut is_over = false;
        tokio::select! {
            biased;
            pong = &mut asked => { pong.expect("a ping is answered"); }
            () = &mut work => {
                is_over = true;
                asked.await.expect("a ping is answered");
            }
        }
        spans.push(begun.elapsed());
        if is_over || tokio::time::timeout(Duration::from_millis(100), &mut work).await.is_ok() {
            return spans.into_iter().collect();
        }
    }
}

#[test]
fn f_16_a_bulk_stream_fills_a_narrow_path_and_delays_no_control_message() {
    const BYTES: usize = 32 << 20;
    const PART: usize = 64 << 10;
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        let sim = SimNet::new(seed);
        let net = Net::over_quic(sim.clone(), "server -> relay -> site-1").await;
        // 10 Mbit/s, 300 ms there and back, 100 ms of buffer.
        let narrow = LinkSettings {
            delay: Duration::from_millis(150),
            bits_per_second: Some(10_000_000),
            buffer: 125_000,
            ..LinkSettings::default()
        };
        sim.set_both(net.host("relay"), net.host("server"), narrow);
        let handler = from_fn(|_| async { Ok(Reply::default()) });
        let target: cellbus_channels::ChannelTopic = "notes/count".parse().expect("a target");
        net.cell("server").running.bus().handle(target.clone(), handler).await.expect("it is free");
        let bus = net.cell("site-1").running.bus();
        let begun = Instant::now();
        // Eight at a time, so that the receipt of one does not hold the next up.
        let streams: Vec<_> = (0..8)
            .map(|_| {
                let (bus, target) = (bus.clone(), target.clone());
                actix_rt::spawn(async move {
                    let part = bytes::Bytes::from(vec![7; PART]);
                    for _ in 0..BYTES / PART / 8 {
                        let server = "server".parse().expect("a cell");
                        let message = bus.request(server, target.clone()).payload(part.clone());
                        let message = message.lane(Lane::Bulk).budget(Duration::from_secs(60));
                        message.receipt().publish().await.expect("it waits for room");
                    }
                })
            })
            .collect();
        let all = async {
            for stream in streams {
                stream.await.expect("it does not panic");
            }
        };
        let pings = pings_during(&net, "site-1", "server", all).await;
        let took = begun.elapsed();
        show("F-16", seed, format!("{BYTES} bytes in {took:?}; control {pings}"));
        assert!(pings.percentile(99) < Duration::from_millis(1500), "{pings}");
        let ideal = Duration::from_secs_f64(BYTES as f64 * 8.0 / 10e6);
        assert!(took.mul_f64(0.7) <= ideal, "{took:?} where {ideal:?} would be all of the path");
        assert_eq!((epoch(&net, "relay"), epoch(&net, "site-1")), (1, 1), "a link was lost");
        net.finish().await;
    });
}

#[test]
fn f_18_a_cell_that_reads_nothing_keeps_its_own_and_delays_no_other() {
    const OFFERED: usize = 64 << 20;
    const PART: usize = 256 << 10;
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        let net = Net::over_quic(SimNet::new(seed), &two_levels(1, 2)).await;
        let load = Load::default();
        load.ledger().serve(net.cell("site-1"), "task/slow", Work::Endless).await;
        load.ledger().serve(net.cell("site-2"), "task/ping", Work::AtOnce).await;
        let others = async |span: Duration| {
            let mut spans = Vec::new();
            let begun = Instant::now();
            while begun.elapsed() < span {
                let asked = Instant::now();
                let pong = net.cell("server").request("relay-1.site-2", "task/ping", "p").await;
                pong.expect("it is answered");
                spans.push(asked.elapsed());
            }
            spans.into_iter().collect::<Spans>()
        };
        let before = others(Duration::from_secs(3)).await;
        for _ in 0..OFFERED / PART {
            load.send_padded(net.cell("server"), "relay-1.site-1", "task/slow", BUDGET, PART);
        }
        let meanwhile = others(Duration::from_secs(8)).await;
        show("F-18", seed, format!("before {before}; meanwhile {meanwhile}"));
        let limit = before.percentile(99).mul_f64(1.2);
        assert!(meanwhile.percentile(99) < limit, "before {before}; meanwhile {meanwhile}");
        let control = net.cell("relay-1").request("relay-1.site-1", "cell/ping", "p").await;
        control.expect("who reads nothing of an application still answers the system");
        let verdict = load.verdict().await;
        assert!(verdict.codes.keys().all(|code| ["OVERLOADED", "DEADLINE"].contains(code)));
        assert!(verdict.codes["OVERLOADED"] * PART > OFFERED / 2, "{verdict}");
        assert!(net.names().iter().all(|name| epoch(&net, name.as_str()) == 1), "a link was lost");
        net.finish().await;
    });
}

#[test]
fn f_21_ten_times_too_much_leaves_four_fifths_of_the_work_done() {
    const SPAN: Duration = Duration::from_secs(20);
    let _log = LogGuard::start();
    for_each_seed(&[1, 2], |seed| async move {
        // One of each site at a time, 40 ms each: 100 a second, whatever is offered.
        let done = async |at_once: u32| {
            let settings = Settings {
                cell: CellSettings {
                    handlers: HandlerLimits { running: 64, bytes: 1 << 20 },
                    ..CellSettings::default()
                },
                ..Settings::default()
            };
            let mut net = Net::prepared(seed, &two_levels(1, 4), Some(SimNet::new(seed)), settings);
            net.start_all().await;
            let handler = from_fn(|delivery| async move {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok(Reply::from(delivery.payload))
            });
            let target: cellbus_channels::ChannelTopic = "task/slow".parse().expect("a target");
            let bus = net.cell("server").running.bus();
            bus.handle(target.clone(), handler).await.expect("it is free");
            let (mut asked, mut number) = (Vec::new(), 0);
            let begun = Instant::now();
            while begun.elapsed() < SPAN {
                for _ in 0..at_once {
                    let site = format!("relay-1.site-{}", 1 + number % 4);
                    let bus = net.cell(&site).running.bus();
                    let request = bus.request("server".parse().expect("a cell"), target.clone());
                    asked.push(actix_rt::spawn(request.budget(Duration::from_secs(2)).send()));
                    number += 1;
                }
                if number % 1000 < at_once {
                    let begun = Instant::now();
                    let site = net.cell("relay-1.site-1");
                    site.request("server", "cell/ping", "p").await.expect("control goes on");
                    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
                }
                net.advance(Duration::from_millis(10)).await;
            }
            let (mut ok, mut other) = (0, std::collections::BTreeMap::new());
            for one in asked {
                match one.await.expect("it does not panic") {
                    Ok(_) => ok += 1,
                    Err(error) => *other.entry(error.status().code()).or_insert(0) += 1,
                }
            }
            net.finish().await;
            (ok, other)
        };
        let (peak, _) = done(1).await;
        let (good, refused) = done(10).await;
        show("F-21", seed, format!("peak {peak}, at ten times as much {good}; {refused:?}"));
        assert!(f64::from(good) >= 0.8 * f64::from(peak), "{good} of {peak}; {refused:?}");
        assert!(refused.keys().all(|code| *code == "OVERLOADED"), "{refused:?}");
    });
}

#[test]
fn f_22_a_thousand_cells_that_start_at_once_are_registered_within_ten_seconds() {
    const CELLS: usize = 1000;
    let _log = LogGuard::start();
    for_each_seed(&[1], |seed| async move {
        let mut net =
            Net::prepared(seed, &star(CELLS), Some(SimNet::new(seed)), Settings::default());
        net.start("server");
        let sites: Vec<String> = net.names().iter().skip(1).map(ToString::to_string).collect();
        let begun = Instant::now();
        for site in &sites {
            net.start(site);
            net.advance(Duration::from_millis(1)).await;
        }
        let limit = Duration::from_secs(10);
        registrations(net.cell("server"), &sites, limit).await;
        show("F-22", seed, format!("{CELLS} cells after {:?}", begun.elapsed()));
        assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
        net.finish().await;
    });
}
