//! Somebody on the path between a peer and a cell: hands datagrams on, and can make them come from elsewhere.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, sync::watch, task::JoinHandle};

use crate::socket::socket;

/// Bytes of the connection ids that cells give out.
const ID_LEN: usize = 8;

/// One path, which the peer dials in place of the cell.
pub struct Middle {
    state: Arc<State>,
    elsewhere: watch::Sender<Option<Arc<UdpSocket>>>,
    tasks: [JoinHandle<()>; 2],
}

struct State {
    /// Faces the peer.
    front: UdpSocket,
    /// Faces the cell.
    home: UdpSocket,
    cell: SocketAddr,
    peer: Mutex<Option<SocketAddr>>,
    id: Mutex<Option<[u8; ID_LEN]>>,
    sent_elsewhere: AtomicUsize,
}

impl Middle {
    /// Stands in front of `cell`.
    ///
    /// # Panics
    /// When there are no free ports.
    pub async fn before(cell: SocketAddr) -> Self {
        let state = Arc::new(State {
            front: socket().await,
            home: socket().await,
            cell,
            peer: Mutex::default(),
            id: Mutex::default(),
            sent_elsewhere: AtomicUsize::new(0),
        });
        let (elsewhere, by) = watch::channel(None);
        let tasks = [
            tokio::spawn(carry_in(Arc::clone(&state), by)),
            tokio::spawn(carry_out(Arc::clone(&state))),
        ];
        Self { state, elsewhere, tasks }
    }

    /// Where the peer finds it.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.state.front.local_addr().expect("it is bound")
    }

    /// Makes what the peer sends come from `elsewhere` from now on; with `None`, from here again. What is sent
    /// there does not reach the peer.
    pub fn pretend(&self, elsewhere: Option<Arc<UdpSocket>>) {
        self.elsewhere.send_replace(elsewhere);
    }

    /// Bytes that came from elsewhere.
    #[must_use]
    pub fn sent_elsewhere(&self) -> usize {
        self.state.sent_elsewhere.load(Ordering::Relaxed)
    }

    /// The connection id by which the cell knows the peer, as far as it was seen.
    ///
    /// # Panics
    /// Before the handshake is over.
    #[must_use]
    pub fn connection_id(&self) -> [u8; ID_LEN] {
        let id = *self.state.id.lock().unwrap_or_else(PoisonError::into_inner);
        id.expect("the peer has sent packets of its connection")
    }

    /// Sends the cell a datagram that comes from where the peer's come from.
    pub async fn inject_in(&self, datagram: &[u8]) {
        // The kernel may drop it.
        let _ = self.state.home.send_to(datagram, self.state.cell).await;
    }

    /// Sends the peer a datagram that comes from where the cell's come from.
    pub async fn inject_out(&self, datagram: &[u8]) {
        self.state.hand_out(datagram).await;
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl State {
    async fn hand_out(&self, datagram: &[u8]) {
        let peer = *self.peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peer {
            // The kernel may drop it.
            let _ = self.front.send_to(datagram, peer).await;
        }
    }
}

async fn carry_in(state: Arc<State>, elsewhere: watch::Receiver<Option<Arc<UdpSocket>>>) {
    let mut datagram = vec![0; 1 << 16];
    while let Ok((len, from)) = state.front.recv_from(&mut datagram).await {
        let datagram = &datagram[..len];
        *state.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        // A short header begins with the connection id.
        if datagram[0] & 0x80 == 0
            && let Some(id) = datagram.get(1..=ID_LEN)
        {
            let id = id.try_into().expect("as long as that");
            *state.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
        let by = elsewhere.borrow().clone();
        // The kernel may drop it.
        let _ = match by {
            Some(socket) => {
                state.sent_elsewhere.fetch_add(len, Ordering::Relaxed);
                socket.send_to(datagram, state.cell).await
            }
            None => state.home.send_to(datagram, state.cell).await,
        };
    }
}

async fn carry_out(state: Arc<State>) {
    let mut datagram = vec![0; 1 << 16];
    while let Ok((len, _)) = state.home.recv_from(&mut datagram).await {
        state.hand_out(&datagram[..len]).await;
    }
}
