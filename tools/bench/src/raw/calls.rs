//! Requests over plain QUIC: a stream for each, or frames with numbers on one stream.

use std::{
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use futures_util::future::try_join_all;
use quinn::{Connection, RecvStream, SendStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use super::frames::{ACKNOWLEDGE, CHUNKS, Decoder, Frame, encode};
use crate::drive::Call;

/// Longest answer, in bytes.
const ANSWER_MAX: usize = 1 << 21;
/// Bytes that are read from a socket at once.
const READ: usize = 64 * 1024;

/// A stream for every request.
#[derive(Clone, Debug)]
pub struct StreamCall(pub Connection);

/// Requests as frames on one stream: whoever asks adds to what is to be written, so that all that are
/// woken by one read leave in one write.
#[derive(Clone, Debug)]
pub struct FrameCall {
    shared: Arc<Shared>,
    flag: u32,
}

/// The same object to many, until every one has acknowledged it.
#[derive(Clone, Debug)]
pub struct FanCall(pub Vec<FrameCall>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    out: BytesMut,
    slots: Vec<Slot>,
    free: Vec<u32>,
    broken: Option<String>,
}

#[derive(Debug)]
enum Slot {
    Waits(Option<Waker>),
    Answered(Bytes),
}

impl Call for StreamCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        let (mut send, mut recv) = self.0.open_bi().await.map_err(|error| error.to_string())?;
        send.write_chunk(payload).await.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        let answer = recv.read_to_end(ANSWER_MAX).await;
        answer.map(Bytes::from).map_err(|error| error.to_string())
    }
}

impl Call for FrameCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        let index = self.ask(&payload)?;
        poll_fn(|context| {
            let mut state = self.shared.lock();
            if let Some(why) = &state.broken {
                return Poll::Ready(Err(why.clone()));
            }
            let slot = &mut state.slots[index as usize];
            match mem::replace(slot, Slot::Waits(None)) {
                Slot::Answered(answer) => {
                    state.free.push(index);
                    Poll::Ready(Ok(answer))
                }
                Slot::Waits(_) => {
                    *slot = Slot::Waits(Some(context.waker().clone()));
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Call for FanCall {
    async fn call(&self, payload: Bytes) -> Result<Bytes, String> {
        try_join_all(self.0.iter().map(|link| link.call(payload.clone()))).await?;
        Ok(Bytes::new())
    }

    fn answer_len(&self, _: usize) -> usize {
        0
    }
}

impl FrameCall {
    /// Opens the stream on which everything travels.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn open(connection: &Connection, flag: u32) -> Result<Self, String> {
        let (send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(send, Arc::clone(&shared)));
        tokio::spawn(read(recv, Arc::clone(&shared)));
        debug_assert!(flag == 0 || flag == ACKNOWLEDGE);
        Ok(Self { shared, flag })
    }

    /// The same over a local socket.
    pub fn over_socket(socket: UnixStream) -> Self {
        let (recv, send) = socket.into_split();
        let shared = Arc::new(Shared::default());
        tokio::spawn(write_socket(send, Arc::clone(&shared)));
        tokio::spawn(read_socket(recv, Arc::clone(&shared)));
        Self { shared, flag: 0 }
    }

    fn ask(&self, payload: &[u8]) -> Result<u32, String> {
        let mut state = self.shared.lock();
        if let Some(why) = &state.broken {
            return Err(why.clone());
        }
        let index = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot::Waits(None));
            u32::try_from(state.slots.len() - 1).unwrap_or(0)
        });
        if state.out.is_empty() {
            self.shared.written.notify_one();
        }
        encode(index | self.flag, payload, &mut state.out);
        Ok(index)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaks(&self, why: String) {
        let mut state = self.lock();
        state.broken.get_or_insert(why);
        for slot in &mut state.slots {
            if let Slot::Waits(Some(waker)) = slot {
                waker.wake_by_ref();
            }
        }
    }

    fn answer(&self, Frame { number, payload }: Frame) {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get_mut((number & !ACKNOWLEDGE) as usize)
            && let Slot::Waits(Some(waker)) = mem::replace(slot, Slot::Answered(payload))
        {
            waker.wake();
        }
    }
}

async fn write(mut send: SendStream, shared: Arc<Shared>) {
    loop {
        shared.written.notified().await;
        let out = shared.lock().out.split();
        if let Err(error) = send.write_chunk(out.freeze()).await {
            return shared.breaks(error.to_string());
        }
    }
}

async fn write_socket(mut send: OwnedWriteHalf, shared: Arc<Shared>) {
    loop {
        shared.written.notified().await;
        let out = shared.lock().out.split();
        if let Err(error) = send.write_all(&out).await {
            return shared.breaks(error.to_string());
        }
    }
}

async fn read_socket(mut recv: OwnedReadHalf, shared: Arc<Shared>) {
    let mut decoder = Decoder::default();
    let mut read = BytesMut::new();
    loop {
        read.reserve(READ);
        match recv.read_buf(&mut read).await {
            Ok(0) => return shared.breaks("the socket has ended".to_owned()),
            Ok(_) => {}
            Err(error) => return shared.breaks(error.to_string()),
        }
        let fed = decoder.feed(read.split().freeze(), |frame| shared.answer(frame));
        if let Err(error) = fed {
            return shared.breaks(error.to_string());
        }
    }
}

async fn read(mut recv: RecvStream, shared: Arc<Shared>) {
    let mut decoder = Decoder::default();
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    loop {
        let read = match recv.read_chunks(&mut chunks).await {
            Ok(Some(read)) => read,
            Ok(None) => return shared.breaks("the stream has ended".to_owned()),
            Err(error) => return shared.breaks(error.to_string()),
        };
        for chunk in &mut chunks[..read] {
            let fed = decoder.feed(mem::take(chunk), |frame| shared.answer(frame));
            if let Err(error) = fed {
                return shared.breaks(error.to_string());
            }
        }
    }
}
