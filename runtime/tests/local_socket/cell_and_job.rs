//! A cell that is only a bus, and job code that sends whatever bytes it is told to.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use cellbus_channels::{
    BoxFuture, BoxStream, Bus, CellKind, ChannelTopic, Delivery, Event, Failure, Fqcn, HandleError,
    Handler, JobChange, Origin, Outgoing, PublishError, Reply, RequestError, Selector, Transport,
    local,
};
use cellbus_proto::local::{Body, Decoder, Hello, Secret, ToCell, ToJob, encode};
use cellbus_runtime::local_socket::{Ended, LaunchSecret, LocalSocket, Options, Refusals};
use futures_util::StreamExt as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
};

pub type Answer = BoxFuture<Result<Reply, RequestError>>;
type Answers = Box<dyn Fn(Fqcn, Outgoing) -> Answer + Send + Sync>;

/// The cell's side of the bridge.
pub struct FakeCell {
    answers: Answers,
    handlers: Mutex<BTreeMap<Selector, Arc<dyn Handler>>>,
    sent: Mutex<Vec<Outgoing>>,
    published: Mutex<Vec<Outgoing>>,
    requested: AtomicUsize,
    closed: watch::Sender<bool>,
}

pub const CELL: &str = "site-1.job-7";

impl FakeCell {
    pub fn answering(
        answers: impl Fn(Fqcn, Outgoing) -> Answer + Send + Sync + 'static,
    ) -> Arc<FakeCell> {
        Arc::new(Self {
            answers: Box::new(answers),
            handlers: Mutex::default(),
            sent: Mutex::default(),
            published: Mutex::default(),
            requested: AtomicUsize::new(0),
            closed: watch::Sender::new(false),
        })
    }

    /// Answers every request with its own payload.
    pub fn echoing() -> Arc<Self> {
        Self::answering(|_, outgoing| {
            let Outgoing { payload, content_type, .. } = outgoing;
            Box::pin(async move { Ok(Reply { payload, content_type }) })
        })
    }

    /// Never answers; counts the requests that are alive.
    pub fn silent() -> (Arc<Self>, Arc<AtomicUsize>) {
        let alive = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&alive);
        let cell = Self::answering(move |_, _| {
            let guard = Alive::new(&counter);
            Box::pin(async move {
                let _guard = guard;
                std::future::pending().await
            })
        });
        (cell, alive)
    }

    pub fn bus(self: &Arc<Self>) -> Bus {
        Bus::new(Arc::new(FakeTransport(Arc::clone(self))))
    }

    pub fn published(&self) -> Vec<Outgoing> {
        self.published.lock().unwrap().clone()
    }

    /// What was sent as requests.
    pub fn sent(&self) -> Vec<Outgoing> {
        self.sent.lock().unwrap().clone()
    }

    pub fn requested(&self) -> usize {
        self.requested.load(Ordering::SeqCst)
    }

    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    pub fn has_handler(&self, selector: &Selector) -> bool {
        self.handlers.lock().unwrap().contains_key(selector)
    }

    /// The handler that is registered for exactly `target`.
    pub fn handler(&self, target: &ChannelTopic) -> Arc<dyn Handler> {
        let selector = Selector::Exact(target.clone());
        let handler = self.handlers.lock().unwrap().get(&selector).cloned();
        handler.expect("is registered")
    }

    /// Hands a message to the handler that is registered for exactly its target.
    pub fn deliver(&self, delivery: Delivery) -> BoxFuture<Result<Reply, Failure>> {
        self.handler(&delivery.target).handle(delivery)
    }
}

/// What happens around the fake cell.
pub fn events() -> Vec<Event> {
    let job = |change| Event::Job { cell: name(CELL), change };
    vec![
        Event::LinkUp(name("site-1")),
        Event::LinkDown(name("site-1")),
        Event::CellUp(name("site-2")),
        Event::Lagged(7),
        Event::CellDown(name("site-2")),
        job(JobChange::Started),
        job(JobChange::Completed),
        job(JobChange::Failed("exit status 3".to_owned())),
    ]
}

struct FakeTransport(Arc<FakeCell>);

impl Transport for FakeTransport {
    fn name(&self) -> Fqcn {
        CELL.parse().unwrap()
    }

    fn request(&self, to: Fqcn, outgoing: Outgoing) -> Answer {
        self.0.requested.fetch_add(1, Ordering::SeqCst);
        self.0.sent.lock().unwrap().push(outgoing.clone());
        (self.0.answers)(to, outgoing)
    }

    fn publish(&self, _: Fqcn, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        self.0.published.lock().unwrap().push(outgoing);
        Box::pin(async { Ok(()) })
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let taken = HandleError::Taken(selector.to_string());
        let result = match self.0.handlers.lock().unwrap().entry(selector) {
            Entry::Occupied(_) => Err(taken),
            Entry::Vacant(vacant) => {
                vacant.insert(handler);
                Ok(())
            }
        };
        Box::pin(async move { result })
    }

    fn is_complete(&self) -> bool {
        true
    }

    fn replies(&self, to: Fqcn, outgoing: Outgoing) -> BoxStream<Result<Reply, RequestError>> {
        let replies: Vec<Answer> =
            (0..3).map(|_| (self.0.answers)(to.clone(), outgoing.clone())).collect();
        Box::pin(futures_util::stream::iter(replies).then(|answer| answer))
    }

    fn events(&self) -> BoxStream<Event> {
        Box::pin(futures_util::stream::iter(events()))
    }

    fn closed(&self) -> BoxFuture<()> {
        let mut closed = self.0.closed.subscribe();
        Box::pin(async move {
            let _ = closed.wait_for(|closed| *closed).await;
        })
    }
}

/// Counts itself for as long as it lives.
pub struct Alive(Arc<AtomicUsize>);

impl Alive {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A socket that is being served.
pub struct Served {
    pub path: PathBuf,
    pub secret: Secret,
    pub refusals: Arc<Refusals>,
    pub ended: JoinHandle<Ended>,
    _root: tempfile::TempDir,
}

pub fn serve(cell: &Arc<FakeCell>, options: Options) -> Served {
    let root = tempfile::tempdir().unwrap();
    let socket = LocalSocket::bind(&root.path().join("job"), "s").unwrap();
    let launch = LaunchSecret::generate().unwrap();
    let (path, secret) = (socket.path().to_owned(), launch.secret().clone());
    let refusals = socket.refusals();
    let ended = tokio::spawn(socket.serve(cell.bus(), launch, options));
    Served { path, secret, refusals, ended, _root: root }
}

impl Served {
    /// Connects as the Rust client does.
    pub async fn connect(&self) -> Bus {
        local::connect(&self.path, self.secret.clone()).await.unwrap()
    }

    /// Connects, and says nothing.
    pub async fn raw(&self) -> RawJob {
        RawJob::new(UnixStream::connect(&self.path).await.unwrap())
    }

    /// Connects, says HELLO and has been welcomed.
    pub async fn welcomed(&self) -> RawJob {
        let mut job = self.raw().await;
        job.send(&ToCell::Hello(Hello::new(self.secret.clone()))).await;
        assert!(matches!(job.receive().await, Some(ToJob::Welcome(_))));
        job
    }
}

/// Job code that keeps to nothing.
pub struct RawJob {
    pub stream: UnixStream,
    decoder: Decoder<ToJob>,
    unread: BytesMut,
}

impl RawJob {
    pub fn new(stream: UnixStream) -> Self {
        let mut decoder = Decoder::new();
        decoder.set_payload_max(1 << 20);
        Self { stream, decoder, unread: BytesMut::new() }
    }

    pub async fn send(&mut self, frame: &ToCell) {
        self.send_bytes(&bytes_of(frame)).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame, or `None` at the end of the stream.
    pub async fn receive(&mut self) -> Option<ToJob> {
        loop {
            let mut unread = &self.unread[..];
            let frame = self.decoder.decode(&mut unread).unwrap();
            let rest = unread.len();
            let used = self.unread.len() - rest;
            let _ = self.unread.split_to(used);
            if frame.is_some() {
                return frame;
            }
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return None,
                Ok(_) => {}
                // The cell closed with something of ours unread.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Registers for exactly `target`.
    pub async fn handle(&mut self, id: u64, target: &ChannelTopic) {
        let channel = Some(target.channel().to_string());
        let topic = Some(target.topic().to_string());
        self.send(&ToCell::Handle { id, channel, topic, concurrency: None }).await;
        assert!(matches!(self.receive().await, Some(ToJob::Handled { .. })));
    }
}

pub fn bytes_of(frame: &ToCell) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes).unwrap();
    bytes
}

pub fn target(text: &str) -> ChannelTopic {
    text.parse().unwrap()
}

pub fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

pub fn raw_request(id: u64, payload: &'static [u8]) -> ToCell {
    ToCell::Request {
        id,
        to: "server".into(),
        channel: "task".into(),
        topic: "fetch".into(),
        budget_ms: None,
        body: Body::inline(payload),
        options: None,
    }
}

/// A message for job code that somebody waits for.
pub fn delivery(to: &str, payload: impl Into<Bytes>) -> Delivery {
    let origin = Origin {
        name: name("server.job-7"),
        kind: CellKind::Job,
        org: "hq".parse().unwrap(),
        job: Some("job-7".parse().unwrap()),
    };
    Delivery::new(origin, target(to), payload)
}

/// Lets everything that can run do so. All parties share one thread, and a local socket is handed over
/// by the kernel at once, so what has not happened after this never will by itself.
pub async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}
