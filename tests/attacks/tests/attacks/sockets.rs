//! Below QUIC: datagrams of nobody, many first packets, the same ones twice.

use std::time::Duration;

use cellbus_attacks::{RawPeer, attack, socket};
use cellbus_proto::{envelope::Lane, status::Status};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[test]
fn s_07_garbage_at_the_socket_is_dropped() {
    attack(async |target, _| {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut x = RawPeer::registered(target, "server", "x").await;
        let before = target.look().await;
        let (sender, server) = (socket::socket().await, target.address("server"));
        for round in 0..10_000u32 {
            let mut datagram = vec![0; random.random_range(1..1400)];
            random.fill_bytes(&mut datagram);
            match round % 4 {
                // Looks like the first packet of a connection, of this version or of none.
                0 => datagram[0] = 0xc0 | (datagram[0] & 0x0f),
                1 if datagram.len() > 5 => {
                    datagram[0] |= 0xc0;
                    datagram[1..5].copy_from_slice(&[0, 0, 0, 1]);
                }
                // Looks like a packet of a connection.
                2 => datagram[0] = 0x40 | (datagram[0] & 0x3f),
                _ => {}
            }
            // The kernel may drop what is too much.
            let _ = sender.send_to(&datagram, server).await;
            if round % 32 == 0 {
                tokio::task::yield_now().await;
            }
        }
        target.ping("site-2", "server").await;
        x.beat_and_wait().await;
        let mut z = RawPeer::registered(target, "server", "z").await;
        z.settle(Lane::Interactive).await;
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_07_first_packets_that_are_cut_or_changed_are_dropped() {
    attack(async |target, _| {
        let mut random = ChaCha8Rng::seed_from_u64(8);
        let before = target.look().await;
        let first = socket::initial(&target.papers("x")).await.remove(0);
        let (sender, server) = (socket::socket().await, target.address("server"));
        for round in 0..2000 {
            let mut datagram = first.clone();
            if round % 2 == 0 {
                datagram.truncate(random.random_range(0..first.len()));
            } else {
                // Behind the connection ids, where the packet is protected.
                let at = random.random_range(40..first.len());
                datagram[at] ^= 1 << random.random_range(0..8);
            }
            let _ = sender.send_to(&datagram, server).await;
            if round % 32 == 0 {
                tokio::task::yield_now().await;
            }
        }
        target.ping("site-2", "server").await;
        let x = RawPeer::registered(target, "server", "x").await;
        target.pass(Duration::from_secs(6)).await;
        drop(x);
        // What was good enough to begin a handshake with has come to nothing.
        target
            .until("no handshake is under way", async || {
                target.inspect("server").await.links.iter().all(|link| link.peer != "x")
            })
            .await;
        assert!(target.look().await.unchanged_since(&before));
    });
}

#[test]
fn s_06_first_packets_that_come_twice_and_from_everywhere_keep_nobody_out() {
    attack(async |target, _| {
        let papers = target.papers("x");
        let server = target.address("server");
        let before = target.look().await;
        let mut callers = Vec::new();
        for _ in 0..160 {
            let datagrams = socket::initial(&papers).await;
            let caller = socket::socket().await;
            let mut sent = 0;
            for datagram in
                [&datagrams[0], &datagrams[0], &datagrams[1], &datagrams[0], &datagrams[1]]
            {
                sent += caller.send_to(datagram, server).await.expect("loopback takes it");
            }
            callers.push((caller, sent, datagrams));
            tokio::task::yield_now().await;
        }
        // An honest newcomer shows that its address is its own, and is let in.
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.settle(Lane::Interactive).await;
        let mut retried = 0;
        for (caller, sent, datagrams) in &callers {
            let mut received = 0;
            let mut datagram = [0; 2048];
            while let Ok(len) = caller.try_recv(&mut datagram) {
                received += len;
                // A long header of type Retry.
                retried += usize::from(datagram[0] & 0xf0 == 0xf0);
            }
            assert!(received <= 3 * sent, "{received} bytes for {sent}");
            // And once more after the answer.
            let _ = caller.send_to(&datagrams[0], server).await;
        }
        assert!(retried > 0, "nobody was asked to show its address");
        x.beat_and_wait().await;
        target.ping("site-2", "server").await;
        // Handshakes that never end are given up.
        target.pass(Duration::from_secs(6)).await;
        target
            .until("they are given up", async || {
                target.refused_since(&before, "server", Status::Unauthenticated).await >= 64
            })
            .await;
        let mut z = RawPeer::registered(target, "server", "z").await;
        z.settle(Lane::Interactive).await;
        assert!(target.look().await.unchanged_since(&before));
    });
}
