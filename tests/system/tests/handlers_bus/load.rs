//! More than a cell can take on.

use std::time::Duration;

use cellbus_channels::{Class, HandlerOptions, RequestError, Status};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::run_paused,
    sim::SimNet,
};
use cellbus_proto::exchange::retry_after;
use cellbus_runtime::cell::{CellSettings, HandlerLimits};

use super::{TREE, request, works};

fn both_small<F: Future<Output = ()>>(scenario: impl Fn(Net) -> F + Copy) {
    let _log = LogGuard::start();
    let settings = || Settings {
        cell: CellSettings {
            handlers: HandlerLimits { running: 40, bytes: 1 << 20 },
            ..CellSettings::default()
        },
        ..Settings::default()
    };
    for sim in [false, true] {
        run_paused(1, |seed| async move {
            let sim = sim.then(|| SimNet::new(seed));
            let mut net = Net::prepared(seed, TREE, sim, settings());
            net.start_all().await;
            scenario(net).await;
        });
    }
}

#[test]
fn f_21_what_there_is_no_room_for_is_refused_at_once_and_told_when_to_come_back() {
    both_small(|net| async move {
        let diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let sent: Vec<_> = (0..60)
            .map(|n| request(&net, "site-1", "server", "task/slow", &format!("{n} 10")))
            .map(|one| actix_rt::spawn(one.send()))
            .collect();
        let (mut done, mut waits) = (0, Vec::new());
        for one in sent {
            match one.await.unwrap() {
                Ok(_) => done += 1,
                Err(RequestError::Returned { status, detail, .. }) => {
                    assert_eq!((status, status.class()), (Status::Overloaded, Class::Refused));
                    waits.push(retry_after(&detail).expect("it says when"));
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!((done, waits.len()), (20, 40), "half of the room for one cell alone");
        let range = Duration::from_millis(100)..=Duration::from_secs(2);
        assert!(waits.iter().all(|wait| range.contains(wait)));
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 20, "they do not all come back at once");
        assert_eq!(diary.read().len(), 2 * done, "what was refused was not executed");
        net.finish().await;
    });
}

#[test]
fn f_18_one_cell_that_floods_leaves_room_for_the_others() {
    both_small(|net| async move {
        let _diary = works(&net, "server", "task/slow", HandlerOptions::default()).await;
        let flood: Vec<_> = (0..60)
            .map(|n| request(&net, "site-1", "server", "task/slow", &format!("{n} 100")))
            .map(|one| actix_rt::spawn(one.send()))
            .collect();
        net.advance(Duration::from_millis(150)).await;
        let begun = tokio::time::Instant::now();
        for cell in ["site-2", "site-3"] {
            request(&net, cell, "server", "task/slow", "x 0").send().await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        for one in flood {
            let _ = one.await.unwrap();
        }
        net.finish().await;
    });
}

#[test]
fn g_20_bytes_that_wait_for_one_handler_are_bounded() {
    both_small(|net| async move {
        let options = HandlerOptions::default().queue_bytes(10_000);
        let diary = works(&net, "server", "task/slow", options).await;
        let payload = |n: usize| format!("{}{n} 500", "x".repeat(4000));
        let sent: Vec<_> = (0..6)
            .map(|n| request(&net, "site-1", "server", "task/slow", &payload(n)))
            .map(|one| actix_rt::spawn(one.send()))
            .collect();
        let mut outcomes = Vec::new();
        for one in sent {
            outcomes.push(one.await.unwrap().map_err(|error| error.status()).is_ok());
        }
        assert_eq!(outcomes, [true, true, true, false, false, false], "one runs, two wait");
        assert_eq!(diary.read().len(), 6);
        net.finish().await;
    });
}
