//! Cuts and crashes, as the two ends see them.

use tokio::time::{sleep, timeout};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn a_cut_is_silence_and_a_heal_in_time_is_forgotten() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        let served = world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        world.net.cut(server_host(), site_host());
        let before = world.net.traffic_on(server_host(), site_host());
        let waiting = ask(&connection, b"one");
        let mut waiting = std::pin::pin!(waiting);
        assert!(timeout(PATIENCE, &mut waiting).await.is_err(), "nothing arrives");
        assert!(served.lock().unwrap().is_empty());
        let after = world.net.traffic_on(server_host(), site_host());
        assert_eq!(after.packets - before.packets, after.dropped - before.dropped);
        world.net.heal(server_host(), site_host());
        assert_eq!(waiting.await.as_deref(), Some(&b"one"[..]));
        assert!(connection.close_reason().is_none());
    });
}

#[test]
fn a_cut_that_lasts_ends_the_connection_by_silence_alone() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        let start = Instant::now();
        world.net.cut(server_host(), site_host());
        assert_eq!(connection.closed().await, quinn::ConnectionError::TimedOut);
        let took = start.elapsed();
        assert!(took > Duration::from_secs(8) && took < Duration::from_secs(13), "{took:?}");
        world.net.heal_all();
        let again = world.dial(&site).await;
        assert_eq!(ask(&again, b"two").await.as_deref(), Some(&b"two"[..]));
    });
}

#[test]
fn a_one_way_cut_leaves_the_other_way_open() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        let served = world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        world.net.cut_one_way(server_host(), site_host());
        let asked = timeout(PATIENCE, ask(&connection, b"heard")).await;
        assert!(asked.is_err(), "the answer does not arrive");
        assert_eq!(*served.lock().unwrap(), [b"heard"], "the question does");
    });
}

#[test]
fn what_is_under_way_when_the_cut_comes_is_lost() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        let served = world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        sleep(Duration::from_secs(1)).await;
        let dropped = world.net.traffic_on(site_host(), server_host()).dropped;
        let mut send = connection.open_uni().await.unwrap();
        send.write_all(b"late").await.unwrap();
        sleep(Duration::from_millis(5)).await; // on its way, which takes 10
        world.net.cut_one_way(site_host(), server_host());
        assert!(world.net.traffic_on(site_host(), server_host()).dropped > dropped);
        assert!(served.lock().unwrap().is_empty());
    });
}

#[test]
fn a_killed_host_is_silent_and_its_successor_is_heard() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        let first = world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        assert!(ask(&connection, b"first").await.is_some());
        world.net.kill(server_host());
        let sent = world.net.traffic_on(server_host(), site_host()).packets;
        assert!(timeout(PATIENCE, ask(&connection, b"nobody")).await.is_err());
        assert_eq!(world.net.traffic_on(server_host(), site_host()).packets, sent);
        // The tasks of the dead server still run; only the new socket hears anything.
        let second = world.serve();
        let start = Instant::now();
        assert!(matches!(connection.closed().await, quinn::ConnectionError::Reset));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let again = world.dial(&site).await;
        assert!(ask(&again, b"second").await.is_some());
        assert_eq!(*first.lock().unwrap(), [b"first"]);
        assert_eq!(*second.lock().unwrap(), [b"second"]);
    });
}

#[test]
fn c8_an_endpoint_that_is_dropped_leaves_no_task_and_no_host() {
    run_paused(1, |seed| async move {
        let baseline = crate::leaks::alive_tasks();
        let world = World::new(seed);
        let site = world.site();
        assert_eq!(world.net.state().hosts(), 1);
        drop(site);
        crate::leaks::settle().await;
        assert_eq!(crate::leaks::alive_tasks(), baseline);
        assert_eq!(world.net.state().hosts(), 0);
    });
}
