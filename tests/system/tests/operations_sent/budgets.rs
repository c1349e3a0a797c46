//! How long a request can take, where it dies, and who is told when nobody waits for it any longer.

use std::time::Duration;

use cellbus_channels::{Class, Status};
use tokio::time::Instant;

use super::{Watch, bus, name, over_both, target};

#[test]
fn g_04_a_request_that_dies_on_the_way_names_the_cell_where_it_died() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "server", "task/slow", Duration::from_secs(5)).await;
        let begun = Instant::now();
        let slow = bus(&net, "site-1")
            .request(name("server"), target("task/slow"))
            .budget(Duration::from_secs(1))
            .send()
            .await
            .unwrap_err();
        assert_eq!((slow.status(), slow.class()), (Status::Deadline, Class::Unknown));
        assert_eq!(slow.by(), Some(&name("server")));
        assert!(begun.elapsed() <= Duration::from_millis(1250), "{:?}", begun.elapsed());
        net.advance(Duration::from_secs(3)).await;
        assert_eq!((watch.begun(), watch.dropped()), (1, 1), "the handler ends with the budget");
        net.finish().await;
    });
}

#[test]
fn g_04_a_request_that_nothing_is_heard_of_ends_within_a_quarter_of_a_second_of_its_budget() {
    over_both(async |net| {
        net.cell("server").echoes("task/ping").await;
        net.cut("server", "relay");
        for budget in [Duration::from_millis(200), Duration::from_secs(2)] {
            let begun = Instant::now();
            let request = bus(&net, "site-1").request(name("server"), target("task/ping"));
            let lost = request.budget(budget).send().await.unwrap_err();
            assert_eq!((lost.status(), lost.class()), (Status::Deadline, Class::Unknown));
            let took = begun.elapsed();
            assert!(took >= budget && took <= budget + Duration::from_millis(250), "{took:?}");
        }
        net.heal("server", "relay");
        net.advance(Duration::from_secs(20)).await;
        net.finish().await;
    });
}

#[test]
fn a_request_that_is_dropped_stops_its_handler() {
    over_both(async |net| {
        let watch = Watch::default();
        watch.on(&net, "site-3", "task/slow", Duration::from_secs(60)).await;
        let site = bus(&net, "site-1");
        let asking: Vec<_> = (0..20)
            .map(|number| {
                let request = site.request(name("site-3"), target("task/slow"));
                actix_rt::spawn(request.payload(number.to_string()).send())
            })
            .collect();
        net.advance(Duration::from_millis(500)).await;
        assert!(watch.begun() > 0 && watch.dropped() == 0);
        asking.iter().for_each(actix_rt::task::JoinHandle::abort);
        net.advance(Duration::from_millis(500)).await;
        assert_eq!(watch.dropped(), watch.begun(), "those that ran were stopped");
        net.assert_no_leaks().await;
        net.finish().await;
    });
}
