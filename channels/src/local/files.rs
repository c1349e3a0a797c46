//! Files that job code has its cell serve, and what it has it fetch.

use std::{fs::File, io, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    local::{self, Serve, Settled, ToCell},
    name::{ChannelTopic, Fqcn},
    status::Status,
    transfer::{Digest, SignedReference},
};

use super::{
    asking::{Asked, admit, ask, error_of, returned},
    job_side::{Ending, JobSide, Part, Parts},
    memfd,
    outbox::Closed,
};
use crate::{Bus, error::RequestError};

/// For how long a receiver may not be heard of.
const PATIENCE: Duration = Duration::from_secs(300);

/// The files of job code, over the local socket of its cell.
#[derive(Clone)]
pub struct Files {
    side: Arc<JobSide>,
}

/// For whom a file is served, and as what.
#[derive(Clone, Debug)]
pub struct FileOptions {
    target: ChannelTopic,
    to: Option<Vec<Fqcn>>,
    lifetime: Option<Duration>,
    content_type: Option<Arc<str>>,
    headers: Bytes,
    patience: Duration,
}

/// A file that is being served. Dropping it ends that.
#[derive(Debug)]
#[must_use = "a file is served for as long as this is kept"]
pub struct Serving {
    asked: Asked,
    parts: Parts,
    reference: Bytes,
}

/// Something that has come of serving a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// A receiver has so many bytes.
    Progress {
        /// The receiver.
        from: Fqcn,
        /// Bytes that it has.
        bytes: u64,
    },
    /// It is over for a receiver.
    Settled {
        /// The receiver.
        from: Fqcn,
        /// What has become of it.
        end: Settled,
    },
}

/// What has been fetched: all of it, verified, in a memory file that nobody can change.
#[derive(Debug)]
pub struct FetchedFile {
    /// The file.
    pub file: File,
    /// Bytes in it.
    pub size: u64,
    /// Their digest.
    pub digest: Digest,
    /// Their media type.
    pub content_type: Option<Arc<str>>,
    /// Headers of the application that serves them.
    pub headers: Bytes,
}

/// How something is fetched by the cell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FetchFile {
    pub(crate) size_max: Option<u64>,
    pub(crate) patience: Option<Duration>,
}

impl FileOptions {
    /// For these cells, at most 512. The rules of the project for `target` decide on every fetch.
    #[must_use]
    pub fn new(target: ChannelTopic, receivers: impl IntoIterator<Item = Fqcn>) -> Self {
        let to = Some(receivers.into_iter().collect());
        Self { to, ..Self::for_own_job(target) }
    }

    /// For the cells of this job, whoever they are.
    #[must_use]
    pub fn for_own_job(target: ChannelTopic) -> Self {
        let (to, lifetime, content_type, headers) = (None, None, None, Bytes::new());
        Self { target, to, lifetime, content_type, headers, patience: PATIENCE }
    }

    /// Where it is [sent](Files::send), for how long a receiver may not be heard of. Default: 300 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(super) fn receivers(&self) -> Option<&[Fqcn]> {
        self.to.as_deref()
    }

    pub(super) fn target(&self) -> &ChannelTopic {
        &self.target
    }

    pub(super) fn how_patient(&self) -> Duration {
        self.patience
    }

    /// How long the reference may be used, in whole seconds. Default: a day.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Media type of the bytes; at most 128 printable bytes. Default: none.
    #[must_use]
    pub fn content_type(mut self, content_type: &str) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// The application's own, opaque to every cell; at most 4 KiB. Default: none.
    #[must_use]
    pub fn headers(mut self, headers: impl Into<Bytes>) -> Self {
        self.headers = headers.into();
        self
    }
}

impl Files {
    pub(super) fn new(side: Arc<JobSide>) -> Self {
        Self { side }
    }

    pub(super) fn side(&self) -> &Arc<JobSide> {
        &self.side
    }

    /// Those of job code whose bus this is; `None` where the bus is a cell's own.
    #[must_use]
    pub fn of(bus: &Bus) -> Option<Self> {
        bus.transport().files()
    }

    /// Has the cell serve `file`: a regular file that is open for reading and stays as it is, or a sealed memory
    /// file. Its cell reads it once before anybody can fetch.
    ///
    /// # Errors
    /// [`RequestError`], by this cell; nothing is served.
    pub async fn serve(&self, file: File, options: FileOptions) -> Result<Serving, RequestError> {
        let side = &self.side;
        let refused = |status| returned(side, status);
        let FileOptions { target, to, lifetime, content_type, headers, patience: _ } = options;
        let size = file.metadata().map_err(|_| refused(Status::BadTarget))?.len();
        let is_usable = size > 0 && memfd::check_file(&file, size).is_ok();
        if !is_usable || headers.len() > local::HEADERS_MAX {
            return Err(refused(Status::BadTarget));
        }
        if content_type.as_ref().is_some_and(|text| !local::is_content_type(text)) {
            return Err(refused(Status::BadHeader));
        }
        let to = to.map(|to| to.iter().map(|name| name.as_str().to_owned()).collect());
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let admission = admit(side, 0).await.map_err(|Closed| RequestError::Closed)?;
        let asked = ask(side, admission, Some(file), true, |id| {
            ToCell::Serve(Serve {
                id,
                to,
                channel: target.channel().as_str().into(),
                topic: target.topic().as_str().into(),
                lifetime_s: lifetime.map(seconds),
                content_type,
                headers,
                size,
            })
        });
        let (mut asked, parts) = asked.map_err(|Closed| RequestError::Closed)?;
        let mut parts = parts.ok_or(RequestError::Closed)?;
        loop {
            match parts.queue.recv().await {
                Some(Part::Served(reference)) => return Ok(Serving { asked, parts, reference }),
                Some(_) => {}
                None => return Err(self.failed(asked.ending().await)),
            }
        }
    }

    /// Has the cell fetch what `reference` stands for; `progress` is told how many bytes there are, now and then.
    ///
    /// # Errors
    /// [`RequestError`], by this cell.
    ///
    /// # Cancellation
    /// Dropping the future gives up.
    pub(crate) async fn fetch(
        &self,
        reference: &SignedReference,
        how: FetchFile,
        mut progress: impl FnMut(u64, Option<u64>) + Send,
    ) -> Result<FetchedFile, RequestError> {
        let side = &self.side;
        let refused = |status| returned(side, status);
        let reference = reference.encode().map_err(|_| refused(Status::TooLarge))?;
        if reference.len() > side.limits.payload_max as usize {
            return Err(refused(Status::TooLarge));
        }
        let admission =
            admit(side, reference.len()).await.map_err(|Closed| RequestError::Closed)?;
        let patience = how.patience.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        let asked = ask(side, admission, None, true, |id| ToCell::Fetch {
            id,
            size_max: how.size_max,
            patience_s: patience,
            reference,
        });
        let (mut asked, parts) = asked.map_err(|Closed| RequestError::Closed)?;
        let mut parts = parts.ok_or(RequestError::Closed)?;
        while let Some(part) = parts.queue.recv().await {
            if let Part::Progress { bytes, size, .. } = part {
                progress(bytes, size);
            }
        }
        match asked.ending().await {
            Ok(Ending::Fetched { file: Some(file), size, content_type, headers, digest }) => {
                let digest = Digest::from_bytes(digest);
                Ok(FetchedFile { file, size, digest, content_type, headers })
            }
            ending => Err(self.failed(ending)),
        }
    }

    fn failed(&self, ending: Result<Ending, Closed>) -> RequestError {
        match ending {
            Ok(Ending::Return { status, by, detail }) => {
                error_of(&self.side, by.clone(), Duration::ZERO, (status, by, detail))
            }
            Ok(_) | Err(Closed) => RequestError::Closed,
        }
    }
}

impl Serving {
    /// What it is fetched by: to be handed to the receivers, as the payload of any message.
    #[must_use]
    pub fn reference(&self) -> &Bytes {
        &self.reference
    }

    /// What comes next; `None` when it is over for all receivers.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Served> {
        loop {
            match self.parts.queue.recv().await? {
                Part::Progress { from: Some(from), bytes, .. } => {
                    return Some(Served::Progress { from, bytes });
                }
                Part::Settled { from, end } => return Some(Served::Settled { from, end }),
                Part::Reply { .. }
                | Part::Failed { .. }
                | Part::Event(_)
                | Part::Served(_)
                | Part::Progress { from: None, .. } => {}
            }
        }
    }

    /// Serves it no longer; [`Self::next`] still says what has become of it.
    pub fn stop(&self) {
        self.asked.cancel();
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files of {}", self.side.cell)
    }
}

impl FetchedFile {
    /// All bytes, in memory.
    ///
    /// # Errors
    /// The system's.
    pub async fn read(&self) -> io::Result<Bytes> {
        let (file, size) = (self.file.try_clone()?, self.size);
        tokio::task::spawn_blocking(move || memfd::read(&file, size)).await?
    }
}
