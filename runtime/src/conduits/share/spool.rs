//! The file of a spool: without a name, so that it goes with the process however that ends.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use bytes::{Bytes, BytesMut};

/// Bytes of a transfer, byte `n` at `n % capacity`.
#[derive(Debug)]
pub(in crate::conduits) struct Spool(File);

impl Spool {
    pub(super) fn create(directory: Option<&Path>) -> io::Result<Self> {
        let file = match directory {
            Some(directory) => tempfile::tempfile_in(directory),
            None => tempfile::tempfile(),
        };
        file.map(Self)
    }

    /// Writes `pieces` as the bytes of the transfer from `at` on, off this thread.
    pub(super) async fn write(
        self: &Arc<Self>,
        at: u64,
        capacity: u64,
        pieces: Vec<Bytes>,
    ) -> io::Result<()> {
        let spool = Arc::clone(self);
        let work = move || {
            let mut at = at;
            for mut piece in pieces {
                while !piece.is_empty() {
                    let place = at % capacity;
                    let part = piece.split_to(in_one_turn(piece.len(), capacity - place));
                    spool.0.write_all_at(&part, place)?;
                    at += part.len() as u64;
                }
            }
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| Err(io::Error::other(ended)))
    }

    /// Reads `len` bytes that lie within one turn of the file, off this thread.
    pub(super) async fn read(
        self: &Arc<Self>,
        at: u64,
        capacity: u64,
        len: usize,
    ) -> io::Result<Bytes> {
        let spool = Arc::clone(self);
        let work = move || {
            let mut bytes = BytesMut::zeroed(len);
            spool.0.read_exact_at(&mut bytes, at % capacity)?;
            Ok(bytes.freeze())
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| Err(io::Error::other(ended)))
    }
}

fn in_one_turn(len: usize, left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_across_the_end_of_the_file_is_read_from_both_sides() {
        let spool = Arc::new(Spool::create(None).unwrap());
        let pieces = vec![Bytes::from_static(b"abcde"), Bytes::from_static(b"fgh")];
        spool.write(7, 10, pieces).await.unwrap();
        assert_eq!(spool.read(7, 10, 3).await.unwrap(), "abc");
        assert_eq!(spool.read(10, 10, 5).await.unwrap(), "defgh");
        assert!(spool.read(13, 10, 10).await.is_err(), "that is not there");
    }
}
