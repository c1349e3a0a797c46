//! What lasts longer than one handshake, and what must not.

use super::*;

/// Keeps no session, and counts those it is offered.
#[derive(Debug, Default)]
struct TicketCounter(AtomicUsize);

impl ClientSessionStore for TicketCounter {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

#[tokio::test]
async fn p_33_no_ticket_is_given_so_nothing_can_be_resumed() {
    let world = World::new();
    // Either of the two settings would do; with both undone, tickets are seen, so the zeros mean something.
    for (tickets, stores, seen) in [(0, false, 0), (2, false, 0), (0, true, 0), (2, true, 2)] {
        let counter = Arc::new(TicketCounter::default());
        let mut dials = world.dialler(&site(), NOW);
        dials.resumption = Resumption::store(Arc::clone(&counter) as Arc<_>);
        let mut tls = world.listener(NOW);
        assert_eq!(tls.send_tls13_tickets, 0);
        tls.send_tls13_tickets = tickets;
        if stores {
            tls.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
        }
        let attempt = shake(tls, dials).await;
        let (accepted, dialled) = (attempt.accepted.unwrap(), attempt.dialled.unwrap());
        // Tickets leave before the first byte of a stream.
        let mut stream = accepted.open_uni().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.finish().unwrap();
        let mut stream = dialled.accept_uni().await.unwrap();
        assert_eq!(stream.read_to_end(1).await.unwrap(), b"x");
        assert_eq!(counter.0.load(Ordering::Relaxed), seen);
    }
}

#[test]
fn p_33_no_early_data_either_way() {
    let world = World::new();
    assert_eq!(world.listener(NOW).max_early_data_size, 0);
    assert!(!world.dialler(&site(), NOW).enable_early_data);
}

#[tokio::test]
async fn the_clock_of_a_listener_may_move_while_it_listens() {
    let world = World::new();
    let now = Arc::new(AtomicU64::new(NOW));
    let clock = clock_from({
        let now = Arc::clone(&now);
        move || now.load(Ordering::Relaxed)
    });
    let own = world.credentials(&server());
    let tls = server_config(&own, Arc::default(), clock, world.on_refusal()).unwrap();
    shake(tls.clone(), world.dialler(&site(), NOW)).await.accepted.unwrap();
    now.store(NOW + 91 * DAY, Ordering::Relaxed);
    assert_refused(&shake(tls, world.dialler(&site(), NOW)).await);
    assert_eq!(world.refused()[0].status(), Status::CertExpired);
}

/// The old listener is moved to another port, which is what a killed process looks like from outside: its
/// address answers again, and knows nothing.
#[tokio::test]
async fn m_01_a_restarted_listener_resets_the_connections_of_its_previous_run() {
    let world = World::new();
    let attempt = shake(world.listener(NOW), world.dialler(&site(), NOW)).await;
    let dialled = attempt.dialled.unwrap();
    let [listener, _caller] = attempt.endpoints;
    let address = listener.local_addr().unwrap();
    // The library keeps one former socket for packets on their way; the second move makes it let go of the port.
    for _ in 0..2 {
        listener.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    }
    while std::net::UdpSocket::bind(address).is_err() {
        tokio::task::yield_now().await;
    }
    let _restarted = endpoint(address, Some(world.listener(NOW)));
    let mut stream = dialled.open_uni().await.unwrap();
    stream.write_all(b"anybody there?").await.unwrap();
    assert_eq!(dialled.closed().await, ConnectionError::Reset);
}
