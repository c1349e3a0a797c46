//! First packets that no library would send: old TLS, impossible parameters, floods, and callers that stall.

use std::net::{Ipv4Addr, SocketAddr};

use cellbus_attacks::{
    Closed, RawPeer, Target, attack,
    first_packet::{Caller, Reply, client_hello, crypto_frame, parameter, varint},
    peer::{Dialling, PATIENCE},
    socket::{resident_bytes, socket},
};
use cellbus_proto::{envelope::Lane, status::Status};
use tokio::{net::UdpSocket, time::timeout};

/// Transport parameters of RFC 9000 section 18.2.
mod id {
    pub const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
    pub const INITIAL_MAX_DATA: u64 = 0x04;
    pub const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;
    pub const INITIAL_MAX_STREAMS_BIDI: u64 = 0x08;
    pub const INITIAL_MAX_STREAMS_UNI: u64 = 0x09;
    pub const ACK_DELAY_EXPONENT: u64 = 0x0a;
    pub const MAX_ACK_DELAY: u64 = 0x0b;
    pub const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
    pub const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;
    pub const STATELESS_RESET_TOKEN: u64 = 0x02;
    pub const PREFERRED_ADDRESS: u64 = 0x0d;
}

/// A number as a parameter.
fn number(id: u64, value: u64) -> Vec<u8> {
    parameter(id, &varint(value))
}

/// Without this one, a caller is not even read.
fn source() -> Vec<u8> {
    parameter(id::INITIAL_SOURCE_CONNECTION_ID, b"attacker")
}

/// Sends `frames` in the first packet of a new caller and gives what comes back first.
async fn say(target: &Target, frames: &[u8]) -> Reply {
    let from = socket().await;
    let mut caller = Caller::default();
    exchange(target, &from, &mut caller, frames).await
}

async fn exchange(target: &Target, from: &UdpSocket, caller: &mut Caller, frames: &[u8]) -> Reply {
    let packet = caller.packet(frames);
    from.send_to(&packet, target.address("server")).await.expect("loopback takes it");
    let mut datagram = vec![0; 2048];
    let received = timeout(PATIENCE, from.recv(&mut datagram)).await;
    let len = received.expect("it is answered").expect("the socket lives");
    caller.read(&datagram[..len])
}

/// Begins a handshake that never goes on.
fn stalling(hello: &[u8]) -> Vec<u8> {
    crypto_frame(0, &hello[..hello.len() / 2])
}

#[test]
fn s_03_an_older_tls_is_refused() {
    attack(async |target, _| {
        const ALERT_PROTOCOL_VERSION: u64 = 0x100 + 70;
        let before = target.look().await;
        let hello = client_hello(source());
        // The extension `supported_versions` with nothing but TLS 1.3.
        let versions = [0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04];
        let at = hello.windows(7).position(|seven| seven == versions).expect("it offers TLS 1.3");
        assert_eq!(say(target, &crypto_frame(0, &hello)).await, Reply::Other, "it is a good one");
        for version in [[0x03, 0x03], [0x03, 0x02], [0x03, 0x01], [0x03, 0x00], [0x7f, 0x1c]] {
            let mut older = hello.clone();
            older[at + 5..at + 7].copy_from_slice(&version);
            let reply = say(target, &crypto_frame(0, &older)).await;
            assert_eq!(reply, Reply::Refused(ALERT_PROTOCOL_VERSION), "{version:x?}");
        }
        // And as a client says it that has never heard of the extension.
        let mut silent = hello.clone();
        silent[at..at + 2].copy_from_slice(&[0xfa, 0xfa]);
        let reply = say(target, &crypto_frame(0, &silent)).await;
        assert_eq!(reply, Reply::Refused(ALERT_PROTOCOL_VERSION));
        target.assert_refused(&before, &[("server", Status::Unauthenticated, 6)]).await;
        assert_eq!(target.inspect("server").await.links.len(), 2);
    });
}

#[test]
fn s_07_and_s_10_transport_parameters_that_cannot_be_are_refused() {
    attack(async |target, _| {
        const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;
        let before = target.look().await;
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("more streams than there can be", number(id::INITIAL_MAX_STREAMS_UNI, (1 << 60) + 1)),
            ("and both ways", number(id::INITIAL_MAX_STREAMS_BIDI, (1 << 62) - 1)),
            ("packets too small", number(id::MAX_UDP_PAYLOAD_SIZE, 1199)),
            ("exponent", number(id::ACK_DELAY_EXPONENT, 21)),
            ("delay", number(id::MAX_ACK_DELAY, 1 << 14)),
            ("one connection id", number(id::ACTIVE_CONNECTION_ID_LIMIT, 1)),
            ("a number that is cut", parameter(id::INITIAL_MAX_DATA, &[0xc0, 0, 0])),
            ("a number of no bytes", parameter(id::INITIAL_MAX_DATA, b"")),
            ("two numbers in one", parameter(id::INITIAL_MAX_DATA, &[1, 1])),
            ("longer than all that comes", vec![0x04, 0x7f, 0xff, 1]),
            ("a length that is cut", vec![0x04, 0x40]),
            ("an id that is cut", vec![0xc0]),
            ("twice", [number(id::INITIAL_MAX_DATA, 1), number(id::INITIAL_MAX_DATA, 2)].concat()),
            ("a connection id of 21 bytes", parameter(0x10, &[7; 21])),
            ("what only a server says", parameter(id::STATELESS_RESET_TOKEN, &[7; 16])),
            ("and half of it", parameter(id::STATELESS_RESET_TOKEN, &[7; 8])),
            ("an address to go to", parameter(id::PREFERRED_ADDRESS, &[7; 3])),
        ];
        for (what, parameters) in &cases {
            let hello = client_hello([source(), parameters.clone()].concat());
            let reply = say(target, &crypto_frame(0, &hello)).await;
            assert_eq!(reply, Reply::Refused(TRANSPORT_PARAMETER_ERROR), "{what}");
        }
        let refused = u64::try_from(cases.len()).expect("few");
        target.assert_refused(&before, &[("server", Status::Unauthenticated, refused)]).await;
        assert_eq!(target.inspect("server").await.links.len(), 2);
    });
}

#[test]
fn s_10_windows_that_a_caller_only_claims_cost_nothing() {
    attack(async |target, _| {
        let before = target.look().await;
        let resident = resident_bytes();
        let most = (1 << 62) - 1;
        let parameters = [
            source(),
            number(id::INITIAL_MAX_DATA, most),
            number(id::INITIAL_MAX_STREAM_DATA_UNI, most),
            number(id::INITIAL_MAX_STREAMS_UNI, 1 << 60),
            number(id::INITIAL_MAX_STREAMS_BIDI, 1 << 60),
            number(id::ACTIVE_CONNECTION_ID_LIMIT, most),
        ];
        let hello = client_hello(parameters.concat());
        for _ in 0..32 {
            assert_eq!(say(target, &crypto_frame(0, &hello)).await, Reply::Other);
        }
        let grown = resident_bytes().saturating_sub(resident);
        assert!(grown < 32 << 20, "{grown} bytes for 32 claims");
        target.ping("site-2", "server").await;
        target.assert_refused(&before, &[]).await;
    });
}

#[test]
fn s_04_a_flood_of_first_packets_from_many_addresses_costs_little_and_keeps_nobody_out() {
    attack(async |target, guard| {
        guard.tolerate("handshake");
        const ADDRESSES: usize = 500;
        const PACKETS: usize = 20_000;
        let before = target.look().await;
        let hello = client_hello(source());
        let mut sources = Vec::new();
        for number in 0..ADDRESSES {
            let [.., high, low] = u32::try_from(number).expect("few").to_be_bytes();
            let from = UdpSocket::bind((Ipv4Addr::new(127, 4, high, low), 0)).await;
            sources.push((from.expect("all of 127/8 is this machine"), 0usize));
        }
        let server: SocketAddr = target.address("server");
        let resident = resident_bytes();
        for number in 0..PACKETS {
            let packet = match number % 3 {
                0 => Caller::default().packet(&stalling(&hello)),
                1 => Caller::default().packet(&crypto_frame(0, &hello)),
                _ => Caller::default().packet(&[0x01]),
            };
            let (from, sent) = &mut sources[number % ADDRESSES];
            // The kernel may drop what is too much.
            if from.send_to(&packet, server).await.is_ok() {
                *sent += packet.len();
            }
            if number % 32 == 0 {
                tokio::task::yield_now().await;
            }
            if number == PACKETS / 2 {
                target.ping("site-2", "server").await;
                let mut x = RawPeer::registered(target, "server", "x").await;
                x.settle(Lane::Interactive).await;
            }
        }
        target.ping("site-1", "server").await;
        let grown = resident_bytes().saturating_sub(resident);
        assert!(grown < 64 << 20, "{grown} bytes");
        let mut answers = 0;
        for (from, sent) in &sources {
            let (mut received, mut datagram) = (0, [0; 2048]);
            while let Ok(len) = from.try_recv(&mut datagram) {
                received += len;
                answers += 1;
            }
            assert!(received <= 3 * sent, "{received} bytes for {sent}");
        }
        assert!(answers > 0, "nobody was answered at all");
        assert!(target.look().await.unchanged_since(&before));
    });
}

/// Begins handshakes from addresses that are shown to be real, and lets them hang, until a caller is refused; gives
/// that caller, and those that were not.
async fn fill(target: &Target) -> (UdpSocket, Caller, Vec<UdpSocket>) {
    const CONNECTION_REFUSED: u64 = 0x02;
    const ENOUGH: usize = 400;
    let hello = client_hello(source());
    let mut open = Vec::new();
    while open.len() < ENOUGH {
        let from = socket().await;
        let mut caller = Caller::default();
        loop {
            match exchange(target, &from, &mut caller, &stalling(&hello)).await {
                Reply::Retry(id, token) => caller = Caller::again(id, token),
                Reply::Refused(CONNECTION_REFUSED) => return (from, caller, open),
                Reply::Refused(other) => panic!("refused with {other:#x}"),
                // That it has come is acknowledged, and the rest is waited for.
                Reply::Other => break,
            }
        }
        open.push(from);
    }
    panic!("{ENOUGH} handshakes are open at once");
}

#[test]
fn s_06_beyond_the_limit_of_open_handshakes_callers_are_refused_and_nothing_else_happens() {
    attack(async |target, _| {
        let before = target.look().await;
        let (from, mut caller, open) = fill(target).await;
        assert_eq!(open.len(), 128, "twice the number from which addresses must be shown");
        // The same packet again, and more of the same caller.
        let hello = client_hello(source());
        for _ in 0..20 {
            let again = caller.packet(&stalling(&hello));
            for _ in 0..2 {
                from.send_to(&again, target.address("server")).await.expect("loopback takes it");
            }
        }
        // An honest one is told at once, and may come again.
        let dialled = Dialling::honest(&target.papers("x")).connect(target.address("server")).await;
        let end = Closed::from_error(&dialled.map(drop).expect_err("there is no room"));
        assert!(matches!(end, Closed::Transport(2, _)), "{end:?}");
        target.ping("site-2", "server").await;
        assert_eq!(target.inspect("server").await.links.len(), 2);
        assert!(target.look().await.unchanged_since(&before));
        // What hangs is given up, and there is room.
        target.pass(std::time::Duration::from_secs(6)).await;
        target
            .until("the handshakes are given up", async || {
                target.refused_since(&before, "server", Status::Unauthenticated).await >= 128
            })
            .await;
        let mut x = RawPeer::registered(target, "server", "x").await;
        x.settle(Lane::Interactive).await;
        assert!(target.look().await.unchanged_since(&before));
    });
}
