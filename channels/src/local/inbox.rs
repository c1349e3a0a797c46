//! Frames from a socket, and the descriptors that come with them.

use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    time::Duration,
};

use cellbus_proto::{
    local::{Attachment, DecodeError, Decoder, Frame, Limits},
    status::Status,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::{
    io::Interest,
    net::{UnixStream, unix::OwnedReadHalf},
    time::timeout,
};

use super::memfd::{self, Unfit};

/// Bytes that one read takes at most.
const CHUNK: usize = 64 * 1024;
/// Descriptors that one read has room for. One is all that may come; more are taken to be closed.
const DESCRIPTORS: usize = 4;

/// Reads frames, one at a time. Holds at most one read, one frame that is not complete, and its descriptor.
pub struct Inbox<F> {
    socket: OwnedReadHalf,
    decoder: Decoder<F>,
    chunk: Box<[u8]>,
    start: usize,
    end: usize,
    descriptors: VecDeque<File>,
    silence_max: Option<Duration>,
}

/// A frame, and where it has an attachment, the file that was checked to be what the frame says.
#[derive(Debug)]
pub struct Received<F> {
    /// The frame.
    pub frame: F,
    /// What is attached.
    pub file: Option<File>,
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The socket failed.
    #[error("local socket")]
    Io(#[from] io::Error),
    /// The bytes are no frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A frame announces a descriptor that did not come.
    #[error("the descriptor of a frame is missing")]
    Missing,
    /// A descriptor came that no frame announces.
    #[error("a descriptor that no frame announces")]
    Unannounced,
    /// A descriptor is not what its frame says.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The peer closed in the middle of a frame.
    #[error("the stream ends within a frame")]
    Truncated,
    /// The peer stopped in the middle of a frame.
    #[error("the peer fell silent within a frame")]
    Silent,
}

impl InboxError {
    /// The code that the peer is told, where it is the peer's doing.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Io(_) => None,
            Self::Decode(error) => Some(error.status()),
            Self::Truncated | Self::Silent | Self::Missing | Self::Unannounced | Self::Unfit(_) => {
                Some(Status::BadFrame)
            }
        }
    }
}

impl<F: Frame> Inbox<F> {
    /// Reads from `socket`; takes no payload of a message until [`set_limits`](Self::set_limits).
    #[must_use]
    pub fn new(socket: OwnedReadHalf) -> Self {
        Self {
            socket,
            decoder: Decoder::new(),
            chunk: vec![0; CHUNK].into_boxed_slice(),
            start: 0,
            end: 0,
            descriptors: VecDeque::new(),
            silence_max: None,
        }
    }

    /// Takes payloads, in frames and attached, of as many bytes as `limits` say.
    pub fn set_limits(&mut self, limits: &Limits) {
        self.decoder.set_payload_max(limits.payload_max);
        self.decoder.set_attachment_max(limits.attachment_max);
    }

    /// Gives up when a frame has begun and nothing more of it comes for `silence`. Default: never.
    pub fn set_silence_max(&mut self, silence: Duration) {
        self.silence_max = Some(silence);
    }

    /// The next frame, or `None` when the peer has closed between two frames.
    ///
    /// # Errors
    /// [`InboxError`]; nothing more can be read.
    ///
    /// # Cancellation
    /// Safe: what has been read stays.
    pub async fn next(&mut self) -> Result<Option<Received<F>>, InboxError> {
        loop {
            let mut unread = &self.chunk[self.start..self.end];
            let frame = self.decoder.decode(&mut unread);
            self.start = self.end - unread.len();
            if let Some(frame) = frame? {
                let file = self.take_attachment(&frame)?;
                return Ok(Some(Received { frame, file }));
            }
            let within_frame = self.decoder.is_mid_frame();
            if self.descriptors.len() > usize::from(within_frame) {
                return Err(InboxError::Unannounced);
            }
            let socket: &UnixStream = self.socket.as_ref();
            let (chunk, descriptors) = (&mut self.chunk, &mut self.descriptors);
            let read = socket.async_io(Interest::READABLE, || receive(socket, chunk, descriptors));
            let read = match self.silence_max.filter(|_| within_frame) {
                Some(silence) => timeout(silence, read).await.map_err(|_| InboxError::Silent)?,
                None => read.await,
            };
            let (read, is_cut) = read?;
            (self.start, self.end) = (0, read);
            if is_cut {
                return Err(InboxError::Unannounced);
            }
            if self.end == 0 {
                return if within_frame { Err(InboxError::Truncated) } else { Ok(None) };
            }
        }
    }

    fn take_attachment(&mut self, frame: &F) -> Result<Option<File>, InboxError> {
        let Some(attachment) = frame.attachment() else { return Ok(None) };
        let file = self.descriptors.pop_front().ok_or(InboxError::Missing)?;
        match attachment {
            Attachment::Sealed(size) => memfd::check_sealed(&file, size)?,
            Attachment::File(size) => memfd::check_file(&file, size)?,
        }
        Ok(Some(file))
    }
}

/// One read. What comes with the bytes is kept or closed, and in no case inherited by a child. Says too
/// whether there was more than there is room for.
fn receive(
    socket: &UnixStream,
    chunk: &mut [u8],
    descriptors: &mut VecDeque<File>,
) -> io::Result<(usize, bool)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let chunk = &mut [IoSliceMut::new(chunk)];
    let received = recvmsg(socket, chunk, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            descriptors.extend(files.map(File::from));
        }
    }
    Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC)))
}

impl<F> fmt::Debug for Inbox<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, os::fd::AsFd};

    use bytes::BytesMut;
    use cellbus_proto::local::{Body, ToCell, encode};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn bytes_of(frame: &ToCell) -> BytesMut {
        let mut bytes = BytesMut::new();
        encode(frame, &mut bytes).unwrap();
        bytes
    }

    fn ping(token: u64) -> BytesMut {
        bytes_of(&ToCell::Ping { token })
    }

    fn attached(size: u64) -> BytesMut {
        let body = Body { attached: Some(size), ..Body::default() };
        bytes_of(&ToCell::DeliverReply { id: 1, body })
    }

    fn pair() -> (UnixStream, Inbox<ToCell>) {
        let (job, cell) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::new(cell.into_split().0);
        inbox.set_limits(&Limits::default());
        (job, inbox)
    }

    fn send(job: &UnixStream, bytes: &[u8], files: &[&File]) {
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        let sent = sendmsg(job, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent.unwrap(), bytes.len());
    }

    #[tokio::test]
    async fn many_frames_in_one_read_come_out_one_by_one() {
        let (mut job, mut inbox) = pair();
        let bytes: Vec<u8> = (0..3).flat_map(|token| ping(token).to_vec()).collect();
        job.write_all(&bytes).await.unwrap();
        drop(job);
        for token in 0..3 {
            let received = inbox.next().await.unwrap().unwrap();
            assert_eq!(received.frame, ToCell::Ping { token });
        }
        assert!(inbox.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_no_end() {
        let (mut job, mut inbox) = pair();
        let bytes = ping(1);
        job.write_all(&bytes[..bytes.len() - 1]).await.unwrap();
        drop(job);
        assert!(matches!(inbox.next().await, Err(InboxError::Truncated)));
    }

    #[tokio::test(start_paused = true)]
    async fn f_38_half_a_frame_then_silence_ends_and_silence_between_frames_does_not() {
        let (mut job, mut inbox) = pair();
        inbox.set_silence_max(Duration::from_secs(5));

        let idle = timeout(Duration::from_secs(3600), inbox.next()).await;
        assert!(idle.is_err(), "silence between frames is allowed");

        job.write_all(&ping(1)[..3]).await.unwrap();
        let silent = timeout(Duration::from_secs(6), inbox.next()).await.unwrap();
        assert!(matches!(silent, Err(InboxError::Silent)));
    }

    #[tokio::test]
    async fn an_attachment_belongs_to_the_frame_that_it_came_with() {
        let (mut job, mut inbox) = pair();
        let (first, second) = (memfd::write(b"1").unwrap(), memfd::write(b"22").unwrap());
        job.write_all(&ping(1)).await.unwrap();
        // The frame comes in two pieces; the descriptor with the first.
        let frame = attached(1);
        send(&job, &frame[..5], &[&first]);
        job.write_all(&frame[5..]).await.unwrap();
        job.write_all(&ping(2)).await.unwrap();
        send(&job, &[attached(2), ping(3)].concat(), &[&second]);
        drop(job);
        let mut sizes = Vec::new();
        while let Some(Received { file, .. }) = inbox.next().await.unwrap() {
            sizes.push(file.map_or(0, |file| file.metadata().unwrap().len()));
        }
        assert_eq!(sizes, [0, 1, 0, 2, 0]);
    }

    #[tokio::test]
    async fn s_36_a_descriptor_that_nobody_asked_for_is_closed_and_ends_the_connection() {
        for count in [1, 2, 4, 8] {
            let (job, mut inbox) = pair();
            let (reader, writer) = io::pipe().unwrap();
            let writer = File::from(std::os::fd::OwnedFd::from(writer));
            send(&job, &ping(1), &vec![&writer; count]);
            drop(writer);
            let mut end = inbox.next().await;
            if let Ok(Some(_)) = end {
                end = inbox.next().await;
            }
            assert!(matches!(end, Err(InboxError::Unannounced)), "{count}");
            drop(inbox);
            // Nobody has the writing end any more: it is at its end and does not block.
            assert_eq!(io::read_to_string(reader).unwrap(), "", "{count}");
        }
    }

    #[tokio::test]
    async fn s_36_an_attachment_that_is_missing_or_another_one_is_refused() {
        let (mut job, mut inbox) = pair();
        job.write_all(&attached(1)).await.unwrap();
        assert!(matches!(inbox.next().await, Err(InboxError::Missing)));

        let unsealed = memfd::create().unwrap();
        unsealed.set_len(1).unwrap();
        let longer = memfd::write(b"22").unwrap();
        for file in [unsealed, longer] {
            let (job, mut inbox) = pair();
            send(&job, &attached(1), &[&file]);
            let refused = inbox.next().await.unwrap_err();
            assert!(matches!(refused, InboxError::Unfit(_)), "{refused}");
            assert_eq!(refused.status(), Some(Status::BadFrame));
        }
    }
}
