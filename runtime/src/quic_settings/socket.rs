//! The UDP socket under an endpoint, with buffers for many peers at once.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Buffers below this are not asked for any more; the system's own are as large.
const SMALLEST_BUFFER: usize = 128 * 1024;

/// A socket, and what the kernel gave it.
#[derive(Debug)]
pub struct BoundSocket {
    /// Ready for an endpoint.
    pub socket: UdpSocket,
    /// Bytes that wait to be read before more are dropped. With much less than 1 MiB, handshakes of
    /// hundreds of peers that arrive together are lost and take seconds.
    pub receive_buffer: usize,
    /// Bytes that wait to be sent.
    pub send_buffer: usize,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on UDP {address}")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

/// Binds a UDP socket, with buffers of `buffer` bytes each way if the system's limits allow.
///
/// Port 0 takes a free one. An IPv6 wildcard takes IPv4 peers too, where the system can.
///
/// # Errors
/// [`BindError`], when the address is in use or not this machine's. Smaller buffers are no error: look at what was given.
pub fn bind(address: SocketAddr, buffer: u32) -> Result<BoundSocket, BindError> {
    open(address, usize::try_from(buffer).unwrap_or(usize::MAX))
        .map_err(|source| BindError { address, source })
}

fn open(address: SocketAddr, buffer: usize) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Not every system has both; the address that was asked for is there either way.
        let _ = socket.set_only_v6(false);
    }
    ask(buffer, |size| socket.set_recv_buffer_size(size));
    ask(buffer, |size| socket.set_send_buffer_size(size));
    socket.bind(&address.into())?;
    let receive_buffer = usable(socket.recv_buffer_size()?);
    let send_buffer = usable(socket.send_buffer_size()?);
    Ok(BoundSocket { socket: socket.into(), receive_buffer, send_buffer })
}

/// Linux gives what its limit allows; others refuse what is too large.
fn ask(buffer: usize, set: impl Fn(usize) -> io::Result<()>) {
    let mut size = buffer;
    while set(size).is_err() && size > SMALLEST_BUFFER {
        size /= 2;
    }
}

/// Linux counts its own bookkeeping in and reports twice what was given.
fn usable(reported: usize) -> usize {
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}
