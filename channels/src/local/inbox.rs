//! Frames from a socket.

use std::{fmt, io, time::Duration};

use cellbus_proto::{
    local::{DecodeError, Decoder, Frame},
    status::Status,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// Bytes that one read takes at most.
const CHUNK: usize = 64 * 1024;

/// Reads frames, one at a time. Holds at most one read and one frame that is not complete.
pub struct Inbox<F, R> {
    socket: R,
    decoder: Decoder<F>,
    chunk: Box<[u8]>,
    start: usize,
    end: usize,
    silence_max: Option<Duration>,
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
            Self::Truncated | Self::Silent => Some(Status::BadFrame),
        }
    }
}

impl<F: Frame, R: AsyncRead + Unpin> Inbox<F, R> {
    /// Reads from `socket`; takes no payload of a message until [`set_payload_max`](Self::set_payload_max).
    #[must_use]
    pub fn new(socket: R) -> Self {
        let chunk = vec![0; CHUNK].into_boxed_slice();
        Self { socket, decoder: Decoder::new(), chunk, start: 0, end: 0, silence_max: None }
    }

    /// Takes message payloads of up to `bytes` bytes.
    pub fn set_payload_max(&mut self, bytes: u32) {
        self.decoder.set_payload_max(bytes);
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
    pub async fn next(&mut self) -> Result<Option<F>, InboxError> {
        loop {
            let mut unread = &self.chunk[self.start..self.end];
            let frame = self.decoder.decode(&mut unread);
            self.start = self.end - unread.len();
            if let Some(frame) = frame? {
                return Ok(Some(frame));
            }
            let within_frame = self.decoder.is_mid_frame();
            let read = self.socket.read(&mut self.chunk);
            let read = match self.silence_max.filter(|_| within_frame) {
                Some(silence) => timeout(silence, read).await.map_err(|_| InboxError::Silent)?,
                None => read.await,
            };
            (self.start, self.end) = (0, read?);
            if self.end == 0 {
                return if within_frame { Err(InboxError::Truncated) } else { Ok(None) };
            }
        }
    }
}

impl<F, R> fmt::Debug for Inbox<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use cellbus_proto::local::{ToCell, encode};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn ping(token: u64) -> BytesMut {
        let mut bytes = BytesMut::new();
        encode(&ToCell::Ping { token }, &mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn many_frames_in_one_read_come_out_one_by_one() {
        let bytes: Vec<u8> = (0..3).flat_map(|token| ping(token).to_vec()).collect();
        let mut inbox = Inbox::<ToCell, _>::new(&bytes[..]);
        for token in 0..3 {
            assert_eq!(inbox.next().await.unwrap(), Some(ToCell::Ping { token }));
        }
        assert_eq!(inbox.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_no_end() {
        let bytes = ping(1);
        let mut inbox = Inbox::<ToCell, _>::new(&bytes[..bytes.len() - 1]);
        assert!(matches!(inbox.next().await, Err(InboxError::Truncated)));
    }

    #[tokio::test(start_paused = true)]
    async fn f_38_half_a_frame_then_silence_ends_and_silence_between_frames_does_not() {
        let (mut job, cell) = tokio::io::duplex(64);
        let mut inbox = Inbox::<ToCell, _>::new(cell);
        inbox.set_silence_max(Duration::from_secs(5));

        let idle = timeout(Duration::from_secs(3600), inbox.next()).await;
        assert!(idle.is_err(), "silence between frames is allowed");

        job.write_all(&ping(1)[..3]).await.unwrap();
        let silent = timeout(Duration::from_secs(6), inbox.next()).await.unwrap();
        assert!(matches!(silent, Err(InboxError::Silent)));
    }
}
