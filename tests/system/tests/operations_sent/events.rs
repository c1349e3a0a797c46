//! What a cell notices of its surroundings.

use std::time::Duration;

use cellbus_channels::{Event, Events};

use super::{bus, name, over_both};

async fn so_far(events: &mut Events) -> Vec<Event> {
    let mut seen = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(1), events.next()).await
    {
        seen.push(event);
    }
    seen
}

#[test]
fn cells_and_links_that_come_and_go_are_told() {
    over_both(async |mut net| {
        let (mut server, mut relay) = (bus(&net, "server").events(), bus(&net, "relay").events());
        net.crash("site-2").await;
        net.advance(Duration::from_secs(6)).await;
        let site = || name("relay.site-2");
        assert_eq!(so_far(&mut server).await, [Event::CellDown(site())]);
        let at_relay = so_far(&mut relay).await;
        assert!(at_relay.contains(&Event::LinkDown(site())), "{at_relay:?}");
        assert!(at_relay.contains(&Event::CellDown(site())) && at_relay.len() == 2);
        net.restart("site-2");
        net.wait_ready(Duration::from_secs(30)).await;
        assert_eq!(so_far(&mut server).await, [Event::CellUp(site())]);
        let at_relay = so_far(&mut relay).await;
        assert!(at_relay.contains(&Event::LinkUp(site())), "{at_relay:?}");
        assert!(at_relay.contains(&Event::CellUp(site())) && at_relay.len() == 2);
        net.crash("site-3").await;
        net.advance(Duration::from_secs(6)).await;
        let at_server = so_far(&mut server).await;
        assert!(at_server.contains(&Event::LinkDown(name("site-3"))), "{at_server:?}");
        assert!(so_far(&mut relay).await.is_empty(), "it is not below the relay");
        net.finish().await;
        assert_eq!(server.next().await.map(|_| ()).and(None::<()>), None);
    });
}
