//! Payloads on their way through the socket: small ones in frames, others in memory files.

use std::{fs::File, io, sync::Arc};

use bytes::Bytes;
use cellbus_proto::local::Body;
use tokio::task::spawn_blocking;

use super::memfd;

/// Bytes from which on job code attaches a payload.
pub const ATTACH_FROM: usize = 256 << 10;
/// What is attached is counted in pieces of this many bytes.
const PIECE: u64 = 4096;

/// A payload as it travels: in its frame, or beside it.
#[derive(Debug)]
pub struct Packed {
    /// What the frame says.
    pub body: Body,
    /// What goes with it.
    pub file: Option<File>,
}

impl Packed {
    /// Puts more than `inline_max` bytes into a memory file.
    ///
    /// # Errors
    /// The system's.
    pub async fn pack(
        payload: Bytes,
        content_type: Option<Arc<str>>,
        inline_max: usize,
    ) -> io::Result<Self> {
        if payload.len() <= inline_max {
            return Ok(Self { body: Body { content_type, attached: None, payload }, file: None });
        }
        let attached = Some(payload.len() as u64);
        let file = spawn_blocking(move || memfd::write(&payload)).await??;
        let body = Body { content_type, attached, payload: Bytes::new() };
        Ok(Self { body, file: Some(file) })
    }

    /// The payload in memory, wherever it was.
    ///
    /// # Errors
    /// The system's; among them that there is not so much memory.
    pub async fn unpack(self) -> io::Result<Bytes> {
        let Self { body, file } = self;
        match (file, body.attached) {
            (Some(file), Some(size)) => spawn_blocking(move || memfd::read(&file, size)).await?,
            _ => Ok(body.payload),
        }
    }

    /// The same once more.
    ///
    /// # Errors
    /// The system's, when it has no descriptor for it.
    pub fn try_clone(&self) -> io::Result<Self> {
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        Ok(Self { body: self.body.clone(), file })
    }
}

/// Places in a semaphore that `bytes` take, where all of them together are for `max` bytes.
#[must_use]
pub fn pieces(bytes: u64, max: u64) -> u32 {
    let pieces = bytes.div_ceil(PIECE).min(max / PIECE);
    u32::try_from(pieces).unwrap_or(u32::MAX)
}
