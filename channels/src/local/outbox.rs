//! Frames to a socket: a queue that is bounded in bytes, and what empties it.

use std::{
    fmt,
    fs::File,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use cellbus_proto::local::{Frame, encode_head};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

/// Payloads up to this many bytes are copied, so that many small frames make one write.
const COPY_MAX: usize = 16 * 1024;
/// Bytes that are gathered before they are written.
const BATCH: usize = 64 * 1024;
/// Bytes that a frame is reckoned to take beside its payload.
const OVERHEAD: usize = 256;

/// Where frames wait to be written. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    queue: mpsc::UnboundedSender<Item>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

/// Empties an [`Outbox`] into a socket. Dropping it closes the outbox.
pub struct Drain {
    queue: mpsc::UnboundedReceiver<Item>,
    room: Arc<Semaphore>,
}

/// Room for one frame; given back when the frame has been written, or with this.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

/// What became of a frame that may be withdrawn.
#[derive(Debug, Default)]
pub struct Passage(AtomicU8);

/// The socket takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the local socket is closed")]
pub struct Closed;

struct Item {
    head: BytesMut,
    payload: Bytes,
    file: Option<File>,
    passage: Option<Arc<Passage>>,
    is_last: bool,
    room: Option<Room>,
}

const QUEUED: u8 = 0;
const STARTED: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Passage {
    /// Takes the frame back; `false` when the peer may have seen part of it.
    pub fn withdraw(&self) -> bool {
        self.leave_queue(WITHDRAWN)
    }

    /// Whether the peer may have seen part of the frame.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.0.load(Ordering::Acquire) == STARTED
    }

    fn leave_queue(&self, next: u8) -> bool {
        self.0.compare_exchange(QUEUED, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Outbox {
    /// An outbox that holds up to `bytes_max` bytes, besides frames that ask for no room.
    #[must_use]
    pub fn new(bytes_max: usize) -> (Self, Drain) {
        // What is queued holds room, or is one of the few small frames that whoever queues them bounds: an end for each
        // thing that is outstanding, a sign of life, a goodbye.
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(bytes_max));
        let drain = Drain { queue: receiver, room: Arc::clone(&room) };
        (Self { queue: sender, room, bytes_max }, drain)
    }

    /// Waits for room for a frame with `payload` bytes of payload.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn reserve(&self, payload: usize) -> Result<Room, Closed> {
        // A frame larger than the whole outbox passes alone.
        let bytes = (payload + OVERHEAD).min(self.bytes_max);
        let bytes = u32::try_from(bytes).expect("a frame is smaller than 4 GiB");
        let permit = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        permit.map(|permit| Room { _permit: permit }).map_err(|_| Closed)
    }

    /// Waits for room, then queues `frame`.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send<F: Frame>(&self, frame: F) -> Result<(), Closed> {
        self.send_with(frame, None).await
    }

    /// Waits for room, then queues `frame` and what is attached to it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send_with<F: Frame>(&self, frame: F, file: Option<File>) -> Result<(), Closed> {
        let room = self.reserve(frame.payload().len()).await?;
        self.push(&frame, file, room);
        Ok(())
    }

    /// Queues `frame`, and what is attached to it, in the room that was reserved for it.
    pub fn push<F: Frame>(&self, frame: &F, file: Option<File>, room: Room) {
        self.enqueue(frame, file, Some(room), None, false);
    }

    /// Queues `frame`, and what is attached to it; it can be withdrawn until its first byte is written.
    pub fn push_revocable<F: Frame>(
        &self,
        frame: &F,
        file: Option<File>,
        room: Room,
    ) -> Arc<Passage> {
        let passage = Arc::new(Passage::default());
        self.enqueue(frame, file, Some(room), Some(Arc::clone(&passage)), false);
        passage
    }

    /// Queues a small frame without waiting. The caller bounds how many there can be.
    pub fn push_small<F: Frame>(&self, frame: &F) {
        self.enqueue(frame, None, None, None, false);
    }

    /// Queues the last frame: nothing behind it is written.
    pub fn push_last<F: Frame>(&self, frame: &F) {
        self.enqueue(frame, None, None, None, true);
    }

    /// Lets nobody wait for room any longer.
    pub fn close(&self) {
        self.room.close();
    }

    fn enqueue<F: Frame>(
        &self,
        frame: &F,
        file: Option<File>,
        room: Option<Room>,
        passage: Option<Arc<Passage>>,
        is_last: bool,
    ) {
        let mut head = BytesMut::with_capacity(64);
        encode_head(frame, &mut head).expect("names and limits keep a frame within its bounds");
        let item = Item { head, payload: frame.payload(), file, passage, is_last, room };
        // Nobody reads after the socket has died; then the frame is lost like those before it.
        let _ = self.queue.send(item);
    }
}

impl Drain {
    /// Writes what is queued, until the last frame or the last [`Outbox`] is gone.
    ///
    /// # Errors
    /// That of the socket.
    ///
    /// # Cancellation
    /// Not safe: part of a frame may have been written.
    pub async fn run(&mut self, socket: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while let Some(item) = self.queue.recv().await {
            let mut rooms = Vec::new();
            let mut next = Some(item);
            while let Some(mut item) = next {
                if item.passage.as_ref().is_none_or(|passage| passage.leave_queue(STARTED)) {
                    if let Some(file) = item.file.take() {
                        socket.write_all(&batch).await?;
                        batch.clear();
                        let sent = send(socket.as_ref(), &item.head, &file).await?;
                        item.head.advance(sent);
                    }
                    batch.extend_from_slice(&item.head);
                    if item.payload.len() <= COPY_MAX {
                        batch.extend_from_slice(&item.payload);
                    } else {
                        socket.write_all(&batch).await?;
                        batch.clear();
                        socket.write_all(&item.payload).await?;
                    }
                    rooms.extend(item.room.take());
                }
                if item.is_last {
                    socket.write_all(&batch).await?;
                    return socket.flush().await;
                }
                let is_full = batch.len() >= BATCH;
                next = if is_full { None } else { self.queue.try_recv().ok() };
            }
            socket.write_all(&batch).await?;
            batch.clear();
        }
        Ok(())
    }
}

/// Writes as much of `head` as goes at once, and with its first byte `file`.
async fn send(socket: &UnixStream, head: &[u8], file: &File) -> io::Result<usize> {
    let sent = socket.async_io(Interest::WRITABLE, || {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&files));
        debug_assert!(fits, "there is room for one");
        let head = [IoSlice::new(head)];
        Ok(sendmsg(socket, &head, &mut control, SendFlags::NOSIGNAL)?)
    });
    sent.await
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("room", &self.room.available_permits()).finish()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("queued", &self.queue.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::local::{Body, Decoder, Limits, ToCell};
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    use super::{
        super::{inbox::Inbox, memfd},
        *,
    };

    fn reply(id: u64, bytes: usize) -> ToCell {
        ToCell::DeliverReply { id, body: Body::inline(vec![7; bytes]) }
    }

    /// Everything that is written until the drain ends.
    async fn written(mut drain: Drain) -> Vec<ToCell> {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let (_, mut writer) = writer.into_split();
        let writing = async move { drain.run(&mut writer).await.unwrap() };
        let mut bytes = Vec::new();
        let ((), read) = tokio::join!(writing, reader.read_to_end(&mut bytes));
        read.unwrap();
        let (mut decoder, mut bytes) = (Decoder::new(), &bytes[..]);
        decoder.set_payload_max(1 << 20);
        std::iter::from_fn(|| decoder.decode(&mut bytes).unwrap()).collect()
    }

    #[tokio::test]
    async fn frames_large_and_small_keep_their_order() {
        let (outbox, drain) = Outbox::new(1 << 20);
        let sent: Vec<_> = (1..).zip([0, 100, COPY_MAX + 1, 5, 200_000, 1]).collect();
        for (id, bytes) in &sent {
            outbox.send(reply(*id, *bytes)).await.unwrap();
        }
        drop(outbox);
        let sent: Vec<_> = sent.into_iter().map(|(id, bytes)| reply(id, bytes)).collect();
        assert!(written(drain).await == sent);
    }

    #[tokio::test]
    async fn a_file_goes_with_the_frame_that_announces_it() {
        let (outbox, mut drain) = Outbox::new(1 << 20);
        let sizes = [0u64, 3, 0, 0, 5, 70_000];
        for (id, size) in (1..).zip(sizes) {
            let attached = (size > 0).then_some(size);
            let file = attached.map(|size| memfd::write(&vec![7; size as usize]).unwrap());
            let body = Body { attached, ..Body::default() };
            outbox.send_with(ToCell::DeliverReply { id, body }, file).await.unwrap();
        }
        drop(outbox);
        let (reader, writer) = UnixStream::pair().unwrap();
        let (_, mut writer) = writer.into_split();
        drain.run(&mut writer).await.unwrap();
        drop(writer);
        let mut inbox = Inbox::<ToCell>::new(reader.into_split().0);
        inbox.set_limits(&Limits::default());
        let mut found = Vec::new();
        while let Some(received) = inbox.next().await.unwrap() {
            found.push(received.file.map_or(0, |file| file.metadata().unwrap().len()));
        }
        assert_eq!(found, sizes);
    }

    #[tokio::test]
    async fn c_13_a_full_outbox_makes_the_sender_wait_until_something_is_written() {
        let (outbox, mut drain) = Outbox::new(1000);
        outbox.send(reply(1, 600)).await.unwrap();
        let mut second = Box::pin(outbox.send(reply(2, 600)));
        assert!((&mut second).now_or_never().is_none());

        let (_reader, writer) = UnixStream::pair().unwrap();
        let (_read, mut writer) = writer.into_split();
        let writing = async { drain.run(&mut writer).await };
        tokio::select! {
            sent = &mut second => sent.unwrap(),
            ended = writing => panic!("writer ended: {ended:?}"),
        }
        drop(drain);
        assert_eq!(outbox.send(reply(3, 0)).await, Err(Closed));
    }

    #[tokio::test]
    async fn a_frame_is_withdrawn_only_before_its_first_byte() {
        let (outbox, drain) = Outbox::new(10_000);
        let room = || async { outbox.reserve(0).await.unwrap() };
        let withdrawn = outbox.push_revocable(&reply(1, 0), None, room().await);
        assert!(withdrawn.withdraw());
        let kept = outbox.push_revocable(&reply(2, 0), None, room().await);
        outbox.push_last(&ToCell::Bye { status: None });
        outbox.push_small(&reply(3, 0));
        assert_eq!(written(drain).await, [reply(2, 0), ToCell::Bye { status: None }]);
        assert!(kept.has_started() && !kept.withdraw());
        assert!(!withdrawn.has_started());
    }
}
