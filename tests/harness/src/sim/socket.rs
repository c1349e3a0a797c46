//! A socket of the network, as QUIC sees it.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    SimNet,
    state::{Inbox, Packet, hash},
};

/// Packets in one call to send; as many as the library ever gives.
const SEGMENTS: usize = 10;

/// One socket. Silent once its address is bound again or its host killed: what it sends goes nowhere and reports
/// no error, and it receives nothing.
pub struct SimSocket {
    net: SimNet,
    address: SocketAddr,
    generation: u64,
    /// Made at the first need: a timer wants a runtime.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl SimSocket {
    pub(super) fn bind(net: SimNet, address: SocketAddr) -> Self {
        let (generation, _replaced) = net.state().bind(address);
        Self { net, address, generation, timer: Mutex::new(None) }
    }

    /// A seed for the endpoint on this socket, another one for every socket.
    pub(super) fn rng_seed(&self) -> [u8; 32] {
        let seed = hash(&(self.net.seed(), self.address, self.generation));
        let mut bytes = [0; 32];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    }

    /// Moves what has arrived into the buffers; gives how many, or when to look again.
    fn receive(
        &self,
        cx: &Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Result<usize, Option<Instant>> {
        let mut state = self.net.state();
        let host = state.host(self.address, self.generation).ok_or(None)?;
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let packet = match host.receive() {
                Inbox::Arrived(packet) => packet,
                Inbox::Next(_) | Inbox::Empty if count > 0 => break,
                idle @ (Inbox::Next(_) | Inbox::Empty) => {
                    let before = host.watch(cx.waker());
                    drop(state);
                    drop(before);
                    return Err(match idle {
                        Inbox::Next(at) => Some(at),
                        Inbox::Arrived(_) | Inbox::Empty => None,
                    });
                }
            };
            let len = packet.payload.len().min(buf.len());
            buf[..len].copy_from_slice(&packet.payload[..len]);
            *meta = RecvMeta::default();
            meta.addr = packet.from;
            meta.len = len;
            meta.stride = len;
            meta.ecn = packet.ecn;
            meta.dst_ip = Some(self.address.ip());
            count += 1;
        }
        Ok(count)
    }

    fn poll_timer(&self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for payload in transmit.contents.chunks(segment) {
            let mut state = self.net.state();
            if state.host(self.address, self.generation).is_none() {
                return Ok(());
            }
            let packet =
                Packet { from: self.address, ecn: transmit.ecn, payload: payload.to_vec() };
            let waker = state.send(transmit.destination, packet);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.receive(cx, bufs, meta) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(None) => return Poll::Pending,
                Err(Some(at)) => ready!(self.poll_timer(cx, at)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS
    }

    /// With fragments, the library would not look for the largest packet that gets through.
    fn may_fragment(&self) -> bool {
        false
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut state = self.net.state();
        if state.host(self.address, self.generation).is_some() {
            let gone = state.unbind(self.address);
            drop(state);
            drop(gone);
        }
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSocket")
            .field("address", &self.address)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Sending never waits: what is too much for a path is lost there.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
