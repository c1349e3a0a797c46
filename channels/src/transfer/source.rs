//! What a transfer is read from: memory, a file, a reader, or an object of named parts.

use std::{
    fmt,
    fs::File,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, Digester, Part, SIZE_MAX};
use tokio::io::AsyncRead;

use super::error::SourceError;

mod file;
mod sealed;
mod spool;
#[cfg(test)]
mod tests;

use self::{file::FileSource, sealed::SealedContent, spool::Spool};
pub(super) use self::{file::read_at, spool::nameless};

/// Bytes that are read at once, and travel in one chunk at most.
pub(super) const CHUNK: usize = 512 << 10;
/// Such reads that are hashed in one go, while as many are made: 4 MiB together.
const HASHED_AT_ONCE: usize = 4;

/// What a transfer is read from.
pub struct Source(Kind);

enum Kind {
    Bytes(Bytes),
    File(PathBuf),
    Opened(File),
    Reader { reader: Pin<Box<dyn AsyncRead + Send>>, size_max: u64, directory: PathBuf },
    Object(Vec<(String, Source)>),
}

impl Source {
    /// Bytes in memory: shared with whoever else has them, never copied.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }

    /// A regular file, read where bytes are wanted. What identifies its content (inode, size, time of the last
    /// change) is compared at every fetch and at its end; where it is another, receivers begin anew.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into()))
    }

    /// A regular file that is open for reading, with a name or without one. As [`Self::file`] otherwise, but that
    /// one which is replaced under its name stays what it is.
    #[must_use]
    pub fn opened(file: File) -> Self {
        Self(Kind::Opened(file))
    }

    /// Bytes of which nobody knows how many there are, but at most `size_max`.
    ///
    /// They are read once, as fast as the fastest receiver takes them, and kept for the others, and for
    /// going on after a loss, in a file without a name in `directory`: so much room it takes there.
    #[must_use]
    pub fn reader(
        reader: impl AsyncRead + Send + 'static,
        size_max: u64,
        directory: impl Into<PathBuf>,
    ) -> Self {
        let directory = directory.into();
        Self(Kind::Reader { reader: Box::pin(reader), size_max, directory })
    }

    /// Named parts, tensors for example, one behind the other. Parts may be bytes and files; an object within an
    /// object gives its parts as `outer/inner`.
    #[must_use]
    pub fn object(parts: impl IntoIterator<Item = (String, Source)>) -> Self {
        Self(Kind::Object(parts.into_iter().collect()))
    }

    /// Opens it.
    pub(super) async fn open(self) -> Result<Content, SourceError> {
        let mut content = Content::default();
        match self.0 {
            Kind::Reader { reader, size_max, directory } => {
                let size_max = size_max.min(SIZE_MAX);
                let spool = blocking(move || Spool::create(&directory)).await?;
                let spool = Arc::new(spool.filled_by(reader, size_max));
                content.segments.push(Segment {
                    start: 0,
                    len: size_max,
                    data: Data::Spool(spool),
                });
                content.size_max = size_max;
            }
            Kind::Object(parts) => {
                content.add_parts("", parts).await?;
                content.size = Some(content.size_max);
            }
            kind @ (Kind::Bytes(_) | Kind::File(_) | Kind::Opened(_)) => {
                content.add(Self(kind)).await?;
                content.size = Some(content.size_max);
            }
        }
        Ok(content)
    }
}

impl From<Bytes> for Source {
    fn from(bytes: Bytes) -> Self {
        Self::bytes(bytes)
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Bytes(bytes) => write!(f, "Source({} bytes)", bytes.len()),
            Kind::File(path) => write!(f, "Source({})", path.display()),
            Kind::Opened(_) => f.write_str("Source(an open file)"),
            Kind::Reader { size_max, .. } => {
                write!(f, "Source(a reader of up to {size_max} bytes)")
            }
            Kind::Object(parts) => write!(f, "Source({} parts)", parts.len()),
        }
    }
}

/// A source that has been opened: one content, which does not change.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// One behind the other.
    segments: Vec<Segment>,
    pub(super) parts: Vec<Part>,
    pub(super) size: Option<u64>,
    pub(super) size_max: u64,
}

#[derive(Clone, Debug)]
struct Segment {
    start: u64,
    len: u64,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Bytes(Bytes),
    File(Arc<FileSource>),
    Spool(Arc<Spool>),
    Sealed(Arc<SealedContent>),
}

impl Content {
    async fn add_parts(
        &mut self,
        prefix: &str,
        parts: Vec<(String, Source)>,
    ) -> Result<(), SourceError> {
        for (name, source) in parts {
            let name = format!("{prefix}{name}");
            if let Kind::Object(inner) = source.0 {
                Box::pin(self.add_parts(&format!("{name}/"), inner)).await?;
                continue;
            }
            let len = self.add(source).await?;
            self.parts.push(Part { name, len });
        }
        Ok(())
    }

    /// Adds bytes or a file behind what is there; says how many bytes it has.
    async fn add(&mut self, source: Source) -> Result<u64, SourceError> {
        let (len, data) = match source.0 {
            Kind::Bytes(bytes) => (bytes.len() as u64, Data::Bytes(bytes)),
            Kind::File(path) => {
                let file = blocking(move || FileSource::open(path)).await?;
                (file.len(), Data::File(Arc::new(file)))
            }
            Kind::Opened(file) => {
                let file = FileSource::opened(file)?;
                (file.len(), Data::File(Arc::new(file)))
            }
            Kind::Reader { .. } | Kind::Object(_) => return Err(SourceError::Nested),
        };
        let start = self.size_max;
        self.size_max = start.checked_add(len).ok_or(SourceError::TooLarge(SIZE_MAX))?;
        if len > 0 {
            self.segments.push(Segment { start, len, data });
        }
        Ok(len)
    }

    /// What the generation of this content is at least: larger for a file that was changed later, and the
    /// same for one that was not, also after a restart of the holder.
    pub(super) fn generation(&self) -> u64 {
        let of = |segment: &Segment| match &segment.data {
            Data::File(file) => file.generation(),
            Data::Bytes(_) | Data::Spool(_) => 1,
            Data::Sealed(sealed) => sealed.content().generation(),
        };
        self.segments.iter().map(of).max().unwrap_or(1)
    }

    /// Whether every file is what it was when it was opened.
    pub(super) async fn check(&self) -> Result<(), SourceError> {
        for segment in &self.segments {
            match &segment.data {
                Data::File(file) => {
                    let file = Arc::clone(file);
                    blocking(move || file.check()).await?;
                }
                Data::Sealed(sealed) => Box::pin(sealed.content().check()).await?,
                Data::Bytes(_) | Data::Spool(_) => {}
            }
        }
        Ok(())
    }

    /// The same source as it is now, its files opened again, and not sealed. A reader cannot be.
    pub(super) async fn reopen(&self) -> Result<Self, SourceError> {
        let mut content = Self { parts: self.parts.clone(), ..Self::default() };
        let mut grown = Vec::new();
        for segment in &self.segments {
            let source = match &segment.data {
                Data::Bytes(bytes) => Source::bytes(bytes.clone()),
                Data::File(file) => Source::file(file.path()),
                Data::Spool(_) => return Ok(self.clone()),
                Data::Sealed(sealed) => return Box::pin(sealed.content().reopen()).await,
            };
            grown.push((segment.start, content.add(source).await?));
        }
        // Parts of no bytes have no segment, and stay what they are.
        let mut start = 0;
        for part in &mut content.parts {
            let place = grown.iter().find(|(of, _)| *of == start && part.len > 0);
            start += part.len;
            if let Some((_, len)) = place {
                part.len = *len;
            }
        }
        content.size = Some(content.size_max);
        Ok(content)
    }

    /// The next bytes from `offset` on, at most [`CHUNK`]; none at the end.
    pub(super) async fn read(&self, offset: u64) -> Result<Bytes, SourceError> {
        let place = self.segments.partition_point(|segment| segment.start <= offset);
        let Some(segment) = place.checked_sub(1).and_then(|place| self.segments.get(place)) else {
            return Ok(Bytes::new());
        };
        let within = offset - segment.start;
        if within >= segment.len {
            return Ok(Bytes::new());
        }
        let want = usize::try_from(segment.len - within).unwrap_or(CHUNK).min(CHUNK);
        match &segment.data {
            Data::Bytes(bytes) => {
                // It is no longer than memory, so the place in it is no larger.
                let at = usize::try_from(within).unwrap_or(usize::MAX);
                Ok(bytes.slice(at..at + want))
            }
            Data::File(file) => {
                let file = Arc::clone(file);
                let bytes = blocking(move || file.read(within, want)).await?;
                if bytes.is_empty() { Err(SourceError::Changed) } else { Ok(bytes) }
            }
            Data::Spool(spool) => Arc::clone(spool).read(within).await,
            Data::Sealed(sealed) => Box::pin(sealed.read(within)).await,
        }
    }

    /// The digest of all of it, read once. Only where the size is known. `read` is how many bytes were so far.
    pub(super) async fn digest(&self, read: &AtomicU64) -> Result<Digest, SourceError> {
        let mut digester = Digester::default();
        let (mut pieces, mut offset) = self.ahead(0, read).await?;
        while !pieces.is_empty() {
            let hashing = blocking(move || {
                pieces.iter().for_each(|piece| digester.update(piece));
                Ok(digester)
            });
            let ahead = self.ahead(offset, read);
            let (hashed, next) = futures_util::future::try_join(hashing, ahead).await?;
            (digester, (pieces, offset)) = (hashed, next);
        }
        Ok(digester.finish())
    }

    /// What is hashed in one go from `offset` on, and where it ends.
    async fn ahead(
        &self,
        mut offset: u64,
        read: &AtomicU64,
    ) -> Result<(Vec<Bytes>, u64), SourceError> {
        let mut pieces = Vec::new();
        while pieces.len() < HASHED_AT_ONCE {
            let piece = self.read(offset).await?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            read.store(offset, Ordering::Relaxed);
            pieces.push(piece);
        }
        Ok((pieces, offset))
    }
}

/// Runs what may wait for a disk where it holds nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(SourceError::Reader(std::io::Error::other(error))))
}
