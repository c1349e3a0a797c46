//! Rates and lengths.

use super::*;

const MIB: usize = 1 << 20;

#[test]
fn a_limited_rate_is_used_and_kept() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        let slow = LinkSettings { bits_per_second: Some(8_000_000), ..LinkSettings::default() };
        world.net.set(site_host(), server_host(), slow);
        let start = Instant::now();
        let body = vec![7; 8 * MIB];
        assert_eq!(ask(&connection, &body).await.as_ref(), Some(&body));
        // A megabyte per second, headers included: 8.4 s at least.
        let took = start.elapsed();
        assert!(took > Duration::from_millis(8400) && took < Duration::from_secs(16), "{took:?}");
    });
}

#[test]
fn a_faster_path_is_faster() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        let start = Instant::now();
        let body = vec![7; 8 * MIB];
        assert_eq!(ask(&connection, &body).await.as_ref(), Some(&body));
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    });
}

#[test]
fn a_path_that_stops_taking_long_packets_slows_a_transfer_down_and_no_more() {
    run_paused(1, |seed| async move {
        let world = World::new(seed);
        world.serve();
        let site = world.site();
        let connection = world.dial(&site).await;
        let body = vec![7; MIB];
        assert!(ask(&connection, &body).await.is_some());
        assert!(connection.stats().path.current_mtu > 1400, "{:?}", connection.stats().path);
        assert_eq!(world.net.traffic().too_long, 0);
        let narrow = LinkSettings { mtu: 1280, ..LinkSettings::default() };
        world.net.set_both(site_host(), server_host(), narrow);
        assert_eq!(ask(&connection, &body).await.as_ref(), Some(&body));
        assert!(world.net.traffic_on(site_host(), server_host()).too_long > 0);
        let stats = connection.stats().path;
        assert!(stats.black_holes_detected > 0 && stats.current_mtu <= 1252, "{stats:?}");
    });
}
