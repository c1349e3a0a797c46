//! The sockets by themselves, and the fate of single packets.

use std::{future::poll_fn, io::IoSliceMut};

use quinn::{
    AsyncUdpSocket, Runtime,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use tokio::time::timeout;

use super::{
    super::path::{Fate, Path},
    *,
};

fn transmit(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
    let ecn = Some(EcnCodepoint::Ect0);
    Transmit { destination: server_host(), ecn, contents, segment_size, src_ip: None }
}

/// The next packets, at most three at once.
async fn receive(socket: &SimSocket) -> Vec<(RecvMeta, Vec<u8>)> {
    let mut buffers = [[0; 64]; 3];
    let mut metas = [RecvMeta::default(); 3];
    let count = {
        let mut slices = buffers.each_mut().map(|buffer| IoSliceMut::new(buffer));
        poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut metas)).await.unwrap()
    };
    (0..count).map(|at| (metas[at], buffers[at][..metas[at].len].to_vec())).collect()
}

#[test]
fn a_transmit_of_several_segments_is_several_packets() {
    run_paused(1, |seed| async move {
        let net = SimNet::new(seed);
        net.set_default(LinkSettings { jitter: Duration::ZERO, ..LinkSettings::default() });
        let (to, from) = (net.socket(server_host()), net.socket(site_host()));
        let start = Instant::now();
        from.try_send(&transmit(b"aaaabbbbcc", Some(4))).unwrap();
        let got = receive(&to).await;
        assert_eq!(start.elapsed(), Duration::from_millis(10));
        let bodies: Vec<_> = got.iter().map(|(_, body)| body.as_slice()).collect();
        assert_eq!(bodies, [&b"aaaa"[..], b"bbbb", b"cc"]);
        let (meta, _) = &got[0];
        assert_eq!((meta.addr, meta.dst_ip), (site_host(), Some(server_host().ip())));
        assert_eq!((meta.stride, meta.ecn), (4, Some(EcnCodepoint::Ect0)));
        assert_eq!(net.traffic(), Traffic { packets: 3, bytes: 10, ..Traffic::default() });
    });
}

#[test]
fn a_socket_that_waits_is_woken_by_a_packet_that_arrives_earlier() {
    run_paused(1, |seed| async move {
        let net = SimNet::new(seed);
        let slow = LinkSettings { delay: Duration::from_secs(9), ..LinkSettings::default() };
        net.set(site_host(), server_host(), slow);
        let to = net.socket(server_host());
        let near: SocketAddr = ([10, 0, 0, 3], 1).into();
        let (far, near) = (net.socket(site_host()), net.socket(near));
        far.try_send(&transmit(b"far", None)).unwrap();
        let waiting = tokio::spawn({
            let to = Arc::clone(&to);
            async move { receive(&to).await }
        });
        crate::leaks::settle().await;
        let start = Instant::now();
        near.try_send(&transmit(b"near", None)).unwrap();
        assert_eq!(waiting.await.unwrap()[0].1, b"near");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(receive(&to).await[0].1, b"far");
    });
}

#[test]
fn a_socket_is_silent_once_its_address_is_bound_again() {
    run_paused(1, |seed| async move {
        let net = SimNet::new(seed);
        let second = Duration::from_secs(1);
        let (old_to, old_from) = (net.socket(server_host()), net.socket(site_host()));
        let (new_to, new_from) = (net.socket(server_host()), net.socket(site_host()));
        assert_ne!(old_to.rng_seed(), new_to.rng_seed());
        old_from.try_send(&transmit(b"ghost", None)).unwrap();
        assert_eq!(net.traffic().packets, 0);
        new_from.try_send(&transmit(b"alive", None)).unwrap();
        assert!(timeout(second, receive(&old_to)).await.is_err());
        assert_eq!(receive(&new_to).await[0].1, b"alive");
        // Nor does its end take the new one away.
        drop((old_to, old_from));
        new_from.try_send(&transmit(b"again", None)).unwrap();
        assert_eq!(receive(&new_to).await[0].1, b"again");
        net.kill(server_host());
        new_from.try_send(&transmit(b"nobody", None)).unwrap();
        assert!(timeout(second, receive(&new_to)).await.is_err());
    });
}

#[test]
fn a_real_socket_is_refused() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = SimRuntime.wrap_udp_socket(socket).expect_err("no place for it");
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
}

/// Sends `count` packets of `len` bytes at once.
fn fates(settings: &LinkSettings, count: usize, len: usize) -> Vec<Fate> {
    let mut path = Path::new(1, server_host());
    let now = Instant::now();
    (0..count).map(|_| path.send(now, len, settings)).collect()
}

fn arrivals(settings: &LinkSettings, count: usize) -> Vec<Instant> {
    let arrival = |fate| match fate {
        Fate::Arrives { at, .. } => at,
        Fate::Lost => panic!("nothing is lost here"),
    };
    fates(settings, count, 100).into_iter().map(arrival).collect()
}

#[test]
fn packets_keep_their_order_unless_they_may_overtake() {
    let orderly = LinkSettings::default();
    assert!(arrivals(&orderly, 100).is_sorted());
    let unruly = LinkSettings { reorder: true, ..orderly };
    assert!(!arrivals(&unruly, 100).is_sorted());
}

#[test]
fn one_more_fault_changes_nothing_that_comes_later() {
    let calm = LinkSettings { reorder: true, ..LinkSettings::default() };
    let faulty = LinkSettings { loss: 0.3, duplicate: 0.3, corrupt: 0.3, ..calm.clone() };
    let pairs: Vec<_> = fates(&calm, 200, 100).into_iter().zip(fates(&faulty, 200, 100)).collect();
    let lost = pairs.iter().filter(|(_, faulty)| *faulty == Fate::Lost).count();
    assert!((30..90).contains(&lost), "{lost}");
    let start = pairs.iter().filter_map(|(calm, faulty)| match (calm, faulty) {
        (Fate::Arrives { at, .. }, Fate::Arrives { at: other, .. }) => Some((*at, *other)),
        (Fate::Lost, _) | (_, Fate::Lost) => None,
    });
    let gaps: Vec<_> = start.map(|(calm, faulty)| faulty.duration_since(calm)).collect();
    assert!(gaps.windows(2).all(|pair| pair[0] == pair[1]), "{gaps:?}");
}

#[test]
fn a_changed_byte_is_in_the_second_half() {
    let settings = LinkSettings { corrupt: 1.0, ..LinkSettings::default() };
    for len in [1, 2, 21, 1200] {
        for fate in fates(&settings, 100, len) {
            let Fate::Arrives { change: Some((place, bits)), .. } = fate else {
                panic!("{fate:?}")
            };
            assert!(place >= len / 2 && place < len && bits != 0, "{len}: {place} {bits}");
        }
    }
}

#[test]
fn what_the_buffer_cannot_hold_is_lost() {
    let settings = LinkSettings {
        bits_per_second: Some(1_000_000),
        buffer: 12_800,
        jitter: Duration::ZERO,
        ..LinkSettings::default()
    };
    // 128 bytes each with the headers: a hundred wait, and one is on its way in.
    let fates = fates(&settings, 150, 100);
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Lost).count(), 49);
    assert!(fates[..101].iter().all(|fate| *fate != Fate::Lost));
}

#[test]
fn the_header_counts_for_the_length_of_a_packet() {
    let settings = LinkSettings { mtu: 1280, ..LinkSettings::default() };
    assert!(matches!(fates(&settings, 1, 1252)[0], Fate::Arrives { .. }));
    assert_eq!(fates(&settings, 1, 1253), [Fate::Lost]);
    let mut path = Path::new(1, "[::1]:4433".parse().unwrap());
    assert_eq!(path.send(Instant::now(), 1233, &settings), Fate::Lost);
}
