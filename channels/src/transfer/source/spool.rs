//! Bytes of a reader, kept in a file without a name for whoever wants them again.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Mutex,
};

use super::{super::random, CHUNK, SourceError, blocking, file::read_at};

/// A file without a name.
pub(super) struct Unfilled {
    file: File,
    directory: PathBuf,
}

/// A reader and what has come of it.
pub(super) struct Spool {
    file: Arc<File>,
    directory: PathBuf,
    size_max: u64,
    /// Bytes in the file.
    written: AtomicU64,
    feed: Mutex<Feed>,
}

struct Feed {
    /// `None` when it has ended.
    reader: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Taken from the reader and not yet known to be in the file: whoever waited for that may be gone.
    taken: Option<Bytes>,
}

impl Spool {
    pub(super) fn create(directory: &Path) -> Result<Unfilled, SourceError> {
        let file = nameless(directory).map_err(SourceError::io("create a spool in", directory))?;
        Ok(Unfilled { file, directory: directory.to_owned() })
    }

    /// The next bytes from `offset` on; none at the end of the reader. Waits for the reader where nobody has
    /// read so far.
    pub(super) async fn read(self: Arc<Self>, offset: u64) -> Result<Bytes, SourceError> {
        if let Some(kept) = self.kept(offset).await? {
            return Ok(kept);
        }
        let mut feed = self.feed.lock().await;
        loop {
            if let Some(taken) = feed.taken.clone() {
                self.append(taken).await?;
                feed.taken = None;
            }
            // Somebody else may have read on while this waited.
            if let Some(kept) = self.kept(offset).await? {
                return Ok(kept);
            }
            let Some(source) = feed.reader.as_mut() else { return Ok(Bytes::new()) };
            let mut bytes = BytesMut::with_capacity(CHUNK);
            let read = source.read_buf(&mut bytes).await.map_err(SourceError::Reader)?;
            if read == 0 {
                feed.reader = None;
                return Ok(Bytes::new());
            }
            feed.taken = Some(bytes.freeze());
        }
    }

    async fn append(self: &Arc<Self>, bytes: Bytes) -> Result<(), SourceError> {
        let at = self.written.load(Ordering::Acquire);
        let end = at + bytes.len() as u64;
        if end > self.size_max {
            return Err(SourceError::TooLarge(self.size_max));
        }
        let spool = Arc::clone(self);
        blocking(move || {
            let written = spool.file.write_all_at(&bytes, at);
            written.map_err(SourceError::io("write a spool in", &spool.directory))
        })
        .await?;
        self.written.store(end, Ordering::Release);
        Ok(())
    }

    async fn kept(self: &Arc<Self>, offset: u64) -> Result<Option<Bytes>, SourceError> {
        let written = self.written.load(Ordering::Acquire);
        if offset >= written {
            return Ok(None);
        }
        let want = usize::try_from(written - offset).unwrap_or(CHUNK).min(CHUNK);
        let spool = Arc::clone(self);
        let bytes = blocking(move || {
            let read = read_at(&spool.file, offset, want);
            read.map_err(SourceError::io("read a spool in", &spool.directory))
        });
        bytes.await.map(Some)
    }
}

/// A file of this user in `directory` whose name is gone: it takes room for as long as it is open.
pub(in crate::transfer) fn nameless(directory: &Path) -> io::Result<File> {
    let name = random().map(|byte| format!("{byte:02x}")).concat();
    let path = directory.join(format!(".cellbus-{name}.spool"));
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlinkat(CWD, &path, AtFlags::empty())?;
    Ok(file.into())
}

impl Unfilled {
    pub(super) fn filled_by(self, reader: Pin<Box<dyn AsyncRead + Send>>, size_max: u64) -> Spool {
        Spool {
            file: Arc::new(self.file),
            directory: self.directory,
            size_max,
            written: AtomicU64::new(0),
            feed: Mutex::new(Feed { reader: Some(reader), taken: None }),
        }
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spool({} bytes)", self.written.load(Ordering::Relaxed))
    }
}
