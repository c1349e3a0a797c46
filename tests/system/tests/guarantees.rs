//! What a sender can rely on when a cell has too much to do, or a link is lost under its messages.

use std::time::Duration;

use cellbus_channels::{Class, Status};
use cellbus_harness::{
    guard::LogGuard,
    net::{Net, Settings},
    seeds::{for_each_seed, run_paused},
};

const TREE: &str = "server -> relay -> site-1; relay -> site-2; server -> site-3";

#[test]
fn g_24_requests_beyond_the_cap_are_refused_at_once_and_its_room_comes_back() {
    let _log = LogGuard::start();
    run_paused(1, |seed| async move {
        let mut settings = Settings::default();
        settings.cell.requests_max = 16;
        let mut net = Net::prepared(seed, TREE, None, settings);
        net.start_all().await;
        net.cell("server").echoes_after("task/slow", Duration::from_secs(2)).await;
        let site = net.cell("site-1");
        let waiting: Vec<_> = (0..16)
            .map(|number| {
                let site = site.clone();
                actix_rt::spawn(async move {
                    site.request("server", "task/slow", &number.to_string()).await
                })
            })
            .collect();
        net.advance(Duration::from_millis(100)).await;
        let begun = tokio::time::Instant::now();
        let refused = site.request("server", "task/slow", "more").await.unwrap_err();
        assert_eq!((refused.status(), refused.class()), (Status::Overloaded, Class::Refused));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for reply in waiting {
            assert!(reply.await.expect("it does not panic").is_ok());
        }
        assert!(!net.cell("server").calls().contains(&"more".to_owned()));
        assert!(site.request("server", "task/slow", "again").await.is_ok());
        net.finish().await;
    });
}

#[test]
fn g_03_a_request_whose_link_is_lost_ends_at_once_and_says_that_it_may_have_run() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::up(seed, TREE).await;
        net.cell("server").echoes_after("task/slow", Duration::from_secs(3)).await;
        for (child, parent) in [("relay.site-1", "relay"), ("relay", "server")] {
            let site = net.cell("site-1").clone();
            let asked =
                actix_rt::spawn(async move { site.request("server", "task/slow", "x").await });
            net.advance(Duration::from_millis(500)).await;
            let begun = tokio::time::Instant::now();
            net.unlink(child, parent);
            let lost = asked.await.expect("it does not panic").unwrap_err();
            assert_eq!(
                (lost.status(), lost.class()),
                (Status::PeerLost, Class::Unknown),
                "{child}"
            );
            assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
            net.advance(Duration::from_secs(5)).await;
        }
        assert_eq!(net.cell("server").calls(), ["x", "x"]);
        net.assert_tables().await;
        net.finish().await;
    });
}

#[test]
fn g_10_requests_of_one_sender_to_one_cell_start_in_the_order_in_which_they_were_sent() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3], |seed| async move {
        let net = Net::up(seed, TREE).await;
        net.cell("site-3").echoes("task/count").await;
        let numbers: Vec<String> = (0..2000).map(|number| format!("{number:05}")).collect();
        for number in &numbers {
            let (site, number) = (net.cell("site-1").clone(), number.clone());
            actix_rt::spawn(async move { site.request("site-3", "task/count", &number).await });
        }
        net.advance(Duration::from_secs(2)).await;
        assert_eq!(net.cell("site-3").calls(), numbers);
        net.finish().await;
    });
}

#[test]
fn g_33_what_was_asked_of_a_former_start_is_never_given_to_the_next() {
    let _log = LogGuard::start();
    for_each_seed(&[1, 2, 3, 4], |seed| async move {
        let mut net = Net::up(seed, TREE).await;
        for name in ["site-3", "relay.site-2"] {
            net.cell(name).echoes_after("task/slow", Duration::from_secs(2)).await;
            let server = net.cell("server").clone();
            let asked =
                actix_rt::spawn(async move { server.request(name, "task/slow", "former").await });
            net.advance(Duration::from_millis(100)).await;
            net.crash(name).await;
            net.restart(name);
            net.cell(name).echoes("task/slow").await;
            let lost = asked.await.expect("it does not panic").unwrap_err();
            assert_eq!(lost.class(), Class::Unknown, "{lost}");
            assert!(
                net.cell(name).calls().is_empty(),
                "{name} was given what was not meant for it"
            );
            net.wait_ready(Duration::from_secs(5)).await;
            net.advance(Duration::from_secs(6)).await;
        }
        net.assert_tables().await;
        net.finish().await;
    });
}
