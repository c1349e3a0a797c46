//! Addresses that change or are lies, and resets that nobody meant.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_attacks::{
    RawPeer, Target, attack,
    middle::Middle,
    peer::{Dialling, PATIENCE},
    socket::socket,
};
use cellbus_proto::envelope::Lane;
use quinn::{TransportConfig, VarInt};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::timeout;

/// Registers x over `dialling`, at this address in place of the server's.
async fn over(
    target: &Target,
    dialling: Dialling,
    at: std::net::SocketAddr,
) -> (RawPeer, quinn::Endpoint) {
    let papers = target.papers("x");
    let (connection, endpoint) = dialling.connect(at).await.expect("the papers are good");
    let (me, server) = (target.full_name("x"), target.full_name("server"));
    let mut x = RawPeer::over(connection, endpoint.clone(), &papers, me, server).await;
    x.register().await.expect("the papers are good");
    target.until_holds("server", "x", (true, true)).await;
    (x, endpoint)
}

async fn through(target: &Target) -> (RawPeer, Middle) {
    let middle = Middle::before(target.address("server")).await;
    let dialling = Dialling::honest(&target.papers("x"));
    let (x, _endpoint) = over(target, dialling, middle.address()).await;
    (x, middle)
}

/// The number of the server's link to x.
async fn link(target: &Target) -> u64 {
    let report = target.inspect("server").await;
    let links: Vec<u64> =
        report.links.iter().filter(|link| link.peer == "x").map(|link| link.link).collect();
    assert_eq!(links.len(), 1, "{:?}", report.links);
    links[0]
}

/// A packet that looks as if it belonged to the connection with this id.
fn short(random: &mut ChaCha8Rng, id: [u8; 8], len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    random.fill_bytes(&mut packet);
    packet[0] = 0x40 | (packet[0] & 0x3f);
    packet[1..9].copy_from_slice(&id);
    packet
}

#[test]
fn s_12_who_claims_the_address_of_another_gets_next_to_nothing_sent_there() {
    attack(async |target, _| {
        /// With every move that it notices, the library finishes the packet with which it reaches three times what
        /// it got. It notices one after having given the last one up, and so not twice in a round.
        const PACKET: usize = 1500;
        let (mut x, middle) = through(target).await;
        let before = target.look().await;
        let had = link(target).await;
        let victim = Arc::new(socket().await);
        middle.pretend(Some(Arc::clone(&victim)));
        x.beat().await;
        // As much as the windows take, which is to go to the victim.
        let bus = target.cell("server").bus();
        let payload = Bytes::from(vec![7; 900 << 10]);
        let request = bus.request(target.full_name("x"), "task/fetch".parse().expect("a topic"));
        let asked = actix_rt::spawn(request.payload(payload.clone()).budget(4 * PATIENCE).send());
        let mut received = 0;
        let mut datagram = vec![0; 1 << 16];
        for round in 1..=20 {
            x.beat().await;
            target.pass(Duration::from_millis(100)).await;
            while let Ok(len) = victim.try_recv(&mut datagram) {
                received += len;
            }
            let sent = middle.sent_elsewhere();
            let most = 3 * sent + round * PACKET;
            assert!(received <= most, "{received} bytes for {sent} in round {round}");
        }
        assert!(received > 0, "the victim was never asked");
        assert!(received < payload.len() / 4, "{received} bytes");
        // Its own address is good again, and nothing is lost.
        middle.pretend(None);
        x.beat_and_wait().await;
        assert_eq!(x.request_in().await.payload, payload);
        assert_eq!(link(target).await, had, "it is the same connection");
        asked.abort();
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_12_an_address_that_changes_all_the_time_is_one_peer_on_one_link() {
    attack(async |target, _| {
        let dialling = Dialling::honest(&target.papers("x"));
        let (mut x, endpoint) = over(target, dialling, target.address("server")).await;
        let before = target.look().await;
        let had = link(target).await;
        for round in 0..300 {
            let next = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0));
            endpoint.rebind(next.expect("there is a free port")).expect("a socket");
            x.beat().await;
            if round % 30 == 0 {
                x.beat_and_wait().await;
                target.ping("site-2", "server").await;
            }
        }
        x.beat_and_wait().await;
        x.settle(Lane::Interactive).await;
        assert_eq!(link(target).await, had, "it is the same connection");
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_13_a_forged_reset_ends_no_connection() {
    attack(async |target, _| {
        let mut random = ChaCha8Rng::seed_from_u64(13);
        let (mut x, middle) = through(target).await;
        let before = target.look().await;
        let (had, id) = (link(target).await, middle.connection_id());
        for round in 0..4000 {
            let len = random.random_range(21..1200);
            let mut packet = short(&mut random, id, len);
            if round % 2 == 0 {
                // One of no connection, as a reset is that has lost its own.
                random.fill_bytes(&mut packet[1..9]);
            }
            middle.inject_in(&packet).await;
            middle.inject_out(&packet).await;
            if round % 32 == 0 {
                tokio::task::yield_now().await;
            }
        }
        x.beat_and_wait().await;
        x.settle(Lane::Interactive).await;
        assert_eq!(link(target).await, had, "it is the same connection");
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_13_resets_answer_only_ids_that_were_given_out_and_are_always_smaller() {
    attack(async |target, _| {
        let mut random = ChaCha8Rng::seed_from_u64(14);
        let (x, middle) = through(target).await;
        let before = target.look().await;
        let (server, from) = (target.address("server"), socket().await);
        for _ in 0..4000 {
            let (id, len) = (random.random::<u64>().to_be_bytes(), random.random_range(22..1200));
            let packet = short(&mut random, id, len);
            // The kernel may drop it.
            let _ = from.send_to(&packet, server).await;
        }
        target.ping("site-2", "server").await;
        let mut datagram = vec![0; 2048];
        assert!(from.try_recv(&mut datagram).is_err(), "a guess was answered");
        // An id that was given out, of a connection that is over.
        let id = middle.connection_id();
        drop(x);
        target.until_gone("server", "x").await;
        let reset = async {
            loop {
                from.send_to(&short(&mut random, id, 1200), server).await.expect("loopback");
                let wait = Duration::from_millis(20);
                if let Ok(received) = timeout(wait, from.recv(&mut datagram)).await {
                    return received.expect("the socket lives");
                }
            }
        };
        let len = timeout(PATIENCE, reset).await.expect("who is gone is told so");
        let reset = datagram[..len].to_vec();
        target.ping("site-2", "server").await;
        while from.try_recv(&mut datagram).is_ok() {}
        for len in [22, 23, 30, 43, 100, 1200] {
            from.send_to(&short(&mut random, id, len), server).await.expect("loopback");
            target.ping("site-2", "server").await;
            let received = from.try_recv(&mut datagram);
            assert!(received.as_ref().is_ok_and(|reset| *reset < len), "{received:?} for {len}");
            assert!(from.try_recv(&mut datagram).is_err(), "two for one");
        }
        for len in [1, 9, 20, 21] {
            let mut small = short(&mut random, id, 21);
            small.truncate(len);
            from.send_to(&small, server).await.expect("loopback");
        }
        // What a reset is answered with would go to and fro for ever.
        from.send_to(&reset, server).await.expect("loopback");
        target.ping("site-2", "server").await;
        assert!(from.try_recv(&mut datagram).is_err(), "too small, or a reset itself");
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_10_who_takes_nothing_at_all_is_closed_and_who_takes_everything_is_one_of_many() {
    attack(async |target, guard| {
        guard.tolerate("link closed");
        let before = target.look().await;
        let windows = |bytes: VarInt| {
            let mut transport = TransportConfig::default();
            transport.stream_receive_window(bytes).receive_window(bytes);
            Dialling { transport, ..Dialling::honest(&target.papers("x")) }
        };
        let (me, server) = (target.full_name("x"), target.full_name("server"));
        let (connection, endpoint) = windows(VarInt::from_u32(0))
            .connect(target.address("server"))
            .await
            .expect("good papers");
        let mut x = RawPeer::over(connection, endpoint, &target.papers("x"), me, server).await;
        x.say_hello().await;
        target.pass(Duration::from_secs(31)).await;
        x.closed().await;
        assert!(x.unasked().is_empty(), "it took nothing");
        target.until_gone("server", "x").await;
        assert!(target.look().await.unchanged_since(&before));
        let (mut x, _endpoint) = over(target, windows(VarInt::MAX), target.address("server")).await;
        x.settle(Lane::Interactive).await;
        target.ping("site-2", "server").await;
        assert!(target.look().await.unchanged_since(&before));
    });
}
