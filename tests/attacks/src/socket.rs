//! Datagrams below QUIC.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{net::UdpSocket, time::timeout};

use crate::{
    papers::Papers,
    peer::{Dialling, PATIENCE, endpoint},
};

/// A socket of this machine.
///
/// # Panics
/// When there is none.
pub async fn socket() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port")
}

/// The first packets of somebody who wants to connect, as they would arrive.
///
/// # Panics
/// When none come.
pub async fn initial(papers: &Papers) -> Vec<Vec<u8>> {
    let trap = socket().await;
    let at: SocketAddr = trap.local_addr().expect("it is bound");
    let dialling = Dialling::honest(papers);
    let name = dialling.server_name.clone();
    let dialler = endpoint();
    let connecting = dialler.connect_with(dialling.config(), at, &name).expect("it dials");
    let mut datagrams = Vec::new();
    // A ClientHello with a post-quantum key share takes two packets.
    for _ in 0..2 {
        let mut datagram = vec![0; 2048];
        let received = timeout(PATIENCE, trap.recv(&mut datagram)).await;
        let len = received.expect("it is sent").expect("the socket lives");
        datagram.truncate(len);
        datagrams.push(datagram);
    }
    drop(connecting);
    datagrams
}

/// Bytes of memory that this process has in use.
///
/// # Panics
/// On a system without `/proc/self/statm`.
#[must_use]
pub fn resident_bytes() -> usize {
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is mounted");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number of statm") * PAGE
}
