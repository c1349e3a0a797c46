//! How fast the local socket is, beside plain ping-pong over a Unix socket; and what a large attachment and jobs cost.
//!
//! Job code and cell have a thread and a runtime each, in this process. The plain peer sends and reads frames of the
//! same lengths, with the same prefix, and knows nothing of their content. Both are measured in turns.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cellbus_channels::{
    BoxFuture, Bus, ConduitHandler, Fqcn, HandleError, Handler, Outgoing, PublishError, Reply,
    RequestError, Segment, Selector, Status, Transport, local,
};
use cellbus_proto::{local::PREFIX_LEN, transcript::Signable};
use cellbus_runtime::local_socket::{Ended, LaunchSecret, LocalSocket, Options};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

mod attachment;
pub mod jobs;
mod plain;

use self::jobs::JobFigures;

/// The cell that answers.
const CELL: &str = "site-1.job-1";
/// Round trips before anything is counted.
const WARM_UP: u32 = 200;

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub struct LocalOptions {
    /// How often everything is measured.
    pub rounds: u32,
    /// Time in which round trips are counted, for each round and peer.
    pub window: Duration,
    /// Bytes in a request, and in its reply.
    pub payload: usize,
    /// Bytes that are attached.
    pub attachment: u64,
    /// Jobs of which the time to the first task is taken.
    pub launches: u32,
    /// Jobs after which it is counted what they have left.
    pub jobs: u32,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalReport {
    /// Bytes in a request, and in its reply.
    pub payload: usize,
    /// One for each round.
    pub rounds: Vec<LocalRound>,
    /// Median over the rounds of round trips by job code over those by the plain peer.
    pub ratio: f64,
    /// One for each round.
    pub attachments: Vec<Attached>,
    /// What jobs have cost.
    pub jobs: JobFigures,
}

/// Round trips in a second, one after the other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LocalRound {
    /// Of job code with its cell.
    pub cellbus: f64,
    /// Of two plain peers.
    pub plain: f64,
}

/// What an attachment has cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Attached {
    /// Bytes.
    pub bytes: u64,
    /// From before the frame was sent to the answer to a PING behind it: the cell has the file and has checked it.
    pub handed_over_ms: f64,
    /// To ACCEPTED: the cell has read it once and serves it.
    pub taken_ms: f64,
    /// By how much the memory of this process, cell and job code together, grew meanwhile, at most.
    pub grown_mib: f64,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The system refused something.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// The socket cannot be bound.
    #[error("the local socket")]
    Bind(#[from] cellbus_runtime::local_socket::BindError),
    /// Job code was not let in.
    #[error("job code is not let in")]
    Connect(#[from] local::ConnectError),
    /// A request was not answered.
    #[error("a request has failed")]
    Request(#[from] RequestError),
    /// A program of a job could not be reached.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// A job did not do what it is for.
    #[error("jobs: {0}")]
    Job(String),
    /// The cell did not keep to the protocol.
    #[error("the cell answered otherwise than it should")]
    Protocol,
}

/// Measures the local socket. Blocks; must not be called within a runtime.
///
/// # Errors
/// [`LocalError`].
pub fn run(options: &LocalOptions) -> Result<LocalReport, LocalError> {
    let mut rounds = Vec::new();
    let mut attachments = Vec::new();
    for round in 0..options.rounds {
        // In turns, and neither always first.
        let both = match round % 2 {
            0 => (cellbus(options)?, plain::rate(options)?),
            _ => {
                let plain = plain::rate(options)?;
                (cellbus(options)?, plain)
            }
        };
        rounds.push(LocalRound { cellbus: both.0, plain: both.1 });
        attachments.push(attachment::measure(options.attachment)?);
    }
    let mut ratios: Vec<f64> = rounds.iter().map(|round| round.cellbus / round.plain).collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(0.0);
    let jobs = jobs::measure(options.launches, options.jobs)?;
    Ok(LocalReport { payload: options.payload, rounds, ratio, attachments, jobs })
}

/// Round trips of job code with its cell, in a second.
fn cellbus(options: &LocalOptions) -> Result<f64, LocalError> {
    let cell = Cell::start()?;
    let runtime = runtime()?;
    let rate = runtime.block_on(async {
        let bus = local::connect(&cell.path, cell.secret.clone()).await?;
        let to: Fqcn = "server".parse().expect("it is a name");
        let target: cellbus_channels::ChannelTopic = "task/fetch".parse().expect("it is a target");
        let payload = Bytes::from(vec![7; options.payload]);
        let ask = || bus.request(to.clone(), target.clone()).payload(payload.clone()).send();
        for _ in 0..WARM_UP {
            ask().await?;
        }
        let (started, mut count) = (Instant::now(), 0u32);
        while started.elapsed() < options.window {
            ask().await?;
            count += 1;
        }
        Ok::<_, LocalError>(f64::from(count) / started.elapsed().as_secs_f64())
    })?;
    drop(runtime);
    cell.stop();
    Ok(rate)
}

/// Bytes of a request and of its reply, prefix and header included.
fn frame_lens(payload: usize) -> (usize, usize) {
    use cellbus_proto::local::{Body, Frame as _, ToCell, ToJob};
    let mut header = bytes::BytesMut::new();
    let request = ToCell::Request {
        id: 1_000,
        to: "server".into(),
        channel: "bench".into(),
        topic: "echo".into(),
        budget_ms: Some(30_000),
        body: Body::default(),
        options: None,
    };
    request.write_header(&mut header);
    let request = PREFIX_LEN + header.len() + payload;
    header.clear();
    ToJob::Reply { id: 1_000, body: Body::default() }.write_header(&mut header);
    (request, PREFIX_LEN + header.len() + payload)
}

fn runtime() -> Result<tokio::runtime::Runtime, LocalError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| LocalError::Io("a runtime", error))
}

/// A cell with a socket, on a thread of its own.
struct Cell {
    path: std::path::PathBuf,
    secret: cellbus_proto::local::Secret,
    thread: JoinHandle<Ended>,
    closed: watch::Sender<bool>,
    _root: tempfile::TempDir,
}

impl Cell {
    fn start() -> Result<Self, LocalError> {
        let root = tempfile::tempdir().map_err(|error| LocalError::Io("a directory", error))?;
        let runtime = runtime()?;
        let entered = runtime.enter();
        let socket = LocalSocket::bind(&root.path().join("job"), "s")?;
        let launch = LaunchSecret::generate().map_err(|error| LocalError::Io("a secret", error))?;
        drop(entered);
        let (path, secret) = (socket.path().to_owned(), launch.secret().clone());
        let closed = watch::Sender::new(false);
        let bus = Bus::new(Arc::new(Echo { closed: closed.clone() }));
        let thread = std::thread::spawn(move || {
            runtime.block_on(socket.serve(bus, launch, Options::default()))
        });
        Ok(Self { path, secret, thread, closed, _root: root })
    }

    fn stop(self) {
        self.closed.send_replace(true);
        let _ended: Result<Ended, _> = self.thread.join();
    }
}

/// Answers every request with itself, and signs everything with nothing.
struct Echo {
    closed: watch::Sender<bool>,
}

impl Transport for Echo {
    fn name(&self) -> Fqcn {
        CELL.parse().expect("it is a name")
    }

    fn request(&self, _: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>> {
        let Outgoing { payload, content_type, .. } = outgoing;
        Box::pin(std::future::ready(Ok(Reply { payload, content_type })))
    }

    fn publish(&self, _: Fqcn, _: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn register(&self, _: Selector, _: Arc<dyn Handler>) -> BoxFuture<Result<(), HandleError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn closed(&self) -> BoxFuture<()> {
        let mut closed = self.closed.subscribe();
        Box::pin(async move {
            // The sender outlives whoever waits, or its end is the same.
            let _ = closed.wait_for(|closed| *closed).await;
        })
    }

    fn serve_conduits(&self, _: Arc<dyn ConduitHandler>) -> BoxFuture<Result<(), HandleError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn project(&self) -> Option<Segment> {
        "bench".parse().ok()
    }

    fn sign(&self, _: Signable) -> BoxFuture<Result<Bytes, Status>> {
        Box::pin(std::future::ready(Ok(Bytes::from_static(&[7; 64]))))
    }
}

/// Memory of this process that is not shared with files, in MiB.
fn memory() -> Result<f64, LocalError> {
    let status = fs::read_to_string(Path::new("/proc/self/status"));
    let status = status.map_err(|error| LocalError::Io("the memory of this process", error))?;
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|text| text.trim().trim_end_matches("kB").trim().parse().ok());
    kib.map(|kib: f64| kib / 1024.0).ok_or(LocalError::Protocol)
}
