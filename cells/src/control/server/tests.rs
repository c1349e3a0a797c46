use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, symlink},
    sync::atomic::{AtomicUsize, Ordering},
};

use cellbus_channels::BoxFuture;
use cellbus_proto::{identity::CellKind, renewal::RenewedBy};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinHandle,
};

use super::*;
use crate::control::{
    Accepted, CellRow, CellState, ControlClient, PingAsk, Request, StatusReport, Talk,
    line::MAX_LINE,
};

mod conversing;

/// Answers status at once, drain when `gate` opens, everything else with `FORBIDDEN`.
struct Fake {
    handled: AtomicUsize,
    gate: Semaphore,
}

struct Served {
    dir: TempDir,
    cell: Arc<Fake>,
    task: JoinHandle<()>,
}

struct Shared(Arc<Fake>);

impl Controlled for Shared {
    fn handle(&self, request: Request) -> BoxFuture<Result<Reply, ControlError>> {
        let cell = Arc::clone(&self.0);
        Box::pin(async move {
            cell.handled.fetch_add(1, Ordering::SeqCst);
            match request {
                Request::Status => Ok(Reply::Status(status())),
                Request::Inspect => Ok(Reply::Inspect("x".repeat(2 * MAX_LINE).into())),
                Request::Drain => {
                    let _open = cell.gate.acquire().await.unwrap();
                    let accepted = Accepted { cell: status().cell, state: CellState::Draining };
                    Ok(Reply::Accepted(accepted))
                }
                Request::Cells
                | Request::Peers
                | Request::Ping(_)
                | Request::Explain(_)
                | Request::Policy(_)
                | Request::Reload(_)
                | Request::Request(_)
                | Request::Links
                | Request::Routes
                | Request::Stats
                | Request::DeadLetters(_)
                | Request::Metrics
                | Request::Trace(_)
                | Request::Send(_)
                | Request::Replies(_)
                | Request::Tap(_)
                | Request::Serve(_)
                | Request::Transfer(_)
                | Request::Lists
                | Request::TakeLists(_)
                | Request::Ban(_)
                | Request::Join(_)
                | Request::JobRun(_)
                | Request::JobLs
                | Request::JobShow(_)
                | Request::JobLogs(_)
                | Request::JobCancel(_)
                | Request::JobAttach(_)
                | Request::Stop => Err(ControlError::status(Status::Forbidden, "no").by("server")),
            }
        })
    }

    fn converse(&self, request: Request, talk: Talk) -> BoxFuture<Result<Reply, ControlError>> {
        let cell = Arc::clone(&self.0);
        Box::pin(conversing::run(cell, request, talk))
    }
}

impl Served {
    fn with(limits: Limits) -> Self {
        let dir = private_dir();
        let cell = Arc::new(Fake { handled: AtomicUsize::new(0), gate: Semaphore::new(0) });
        let mut socket = ControlSocket::bind(dir.path()).unwrap();
        socket.limits = limits;
        let shared = Arc::new(Shared(Arc::clone(&cell)));
        let task = tokio::spawn(async move {
            let Err(error) = socket.serve(shared).await;
            panic!("{error}");
        });
        Self { dir, cell, task }
    }

    fn start() -> Self {
        Self::with(Limits { connections: 32, conversations: 2, send: Duration::from_secs(5) })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(SOCKET_FILE)
    }

    async fn connect(&self) -> ControlClient {
        ControlClient::connect(&self.path()).await.unwrap()
    }

    /// What the socket says to these bytes; the sending side stays open.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        // An early refusal closes the socket under what is still being written.
        let _ = stream.write_all(bytes).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn handled(&self) -> usize {
        self.cell.handled.load(Ordering::SeqCst)
    }
}

fn private_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    dir
}

fn status() -> StatusReport {
    StatusReport {
        cell: "server".parse().unwrap(),
        kind: CellKind::Server,
        project: "study".parse().unwrap(),
        incarnation: u64::MAX.to_string(),
        state: CellState::Ready,
        uptime_ms: 1,
        parent: None,
        uplink_state: None,
        children: 2,
        cert_expires_unix: 1_800_000_000,
        cert_renewal_unix: Some(1_790_000_000),
        cert_renewed_by: Some(RenewedBy::Server),
        counters: BTreeMap::from([("admitted".to_owned(), 7)]),
    }
}

fn code_of(answer: &str) -> String {
    let answer: Answer = serde_json::from_str(answer).expect("one line of JSON");
    match answer.outcome {
        Outcome::Ok(reply) => format!("{reply:?}"),
        Outcome::Error(error) => error.code,
        Outcome::Event(event) => format!("{event:?}"),
    }
}

#[tokio::test]
async fn a_request_is_answered_and_the_file_is_private_and_gone_afterwards() {
    let served = Served::start();
    let report: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(report, status());
    assert_eq!(fs::metadata(served.path()).unwrap().mode() & 0o7777, 0o600);

    let Served { dir, task, .. } = served;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let path = dir.path().join(SOCKET_FILE);
    assert!(!path.exists());
    assert_eq!(ControlClient::connect(&path).await.unwrap_err().code, "CELL_NOT_RUNNING");
}

#[tokio::test]
async fn an_error_of_the_cell_arrives_whole() {
    let served = Served::start();
    let asked: Result<Vec<CellRow>, _> = served.connect().await.ask(Request::Cells).await;
    assert_eq!(asked.unwrap_err(), ControlError::status(Status::Forbidden, "no").by("server"));
}

#[tokio::test]
async fn two_at_once_do_not_wait_for_each_other() {
    let served = Served::start();
    let slow = tokio::spawn(served.connect().await.ask::<Accepted>(Request::Drain));
    let quick: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(quick, status());
    assert!(!slow.is_finished());
    served.cell.gate.add_permits(1);
    assert_eq!(slow.await.unwrap().unwrap().state, CellState::Draining);
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_and_never_reaches_the_cell() {
    let served = Served::start();
    for (bytes, code) in [
        (&b"\n"[..], "CONTROL_BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\n", "CONTROL_BAD_REQUEST"),
        (b"\xff\xfe\x00\n", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":1}\n", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":1,\"request\":\"reboot\"}\n", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":1,\"request\":\"status\",\"as\":\"root\"}\n", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":1,\"request\":\"status\"}\nmore", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":1,\"request\":\"status\"}{}\n", "CONTROL_BAD_REQUEST"),
        (b"{\"version\":2,\"request\":{\"new\":true}}\n", "VERSION"),
        (
            b"{\"version\":1,\"request\":{\"ping\":{\"to\":\"a\",\"count\":0,\"budget_ms\":1}}}\n",
            "CONTROL_BAD_REQUEST",
        ),
    ] {
        assert_eq!(code_of(&served.say(bytes).await), code, "{}", bytes.escape_ascii());
    }
    assert_eq!(served.handled(), 0);
}

#[tokio::test]
async fn nesting_without_end_is_refused() {
    let served = Served::start();
    let deep = format!("{}\n", "[".repeat(200_000));
    assert_eq!(code_of(&served.say(deep.as_bytes()).await), "CONTROL_BAD_REQUEST");
    assert_eq!(served.handled(), 0);
}

#[tokio::test]
async fn a_line_too_long_is_refused_before_its_end() {
    let served = Served::start();
    assert_eq!(code_of(&served.say(&vec![b' '; MAX_LINE]).await), "TOO_LARGE");
    assert_eq!(served.handled(), 0);
    let report: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(report, status());
}

#[tokio::test]
async fn an_answer_too_long_is_an_error_and_not_half_an_answer() {
    let served = Served::start();
    let asked: Result<serde_json::Value, _> = served.connect().await.ask(Request::Inspect).await;
    assert_eq!(asked.unwrap_err().code, "TOO_LARGE");
}

#[tokio::test]
async fn whoever_sends_too_slowly_is_told_so_and_keeps_nobody_waiting() {
    let served =
        Served::with(Limits { connections: 2, conversations: 2, send: Duration::from_millis(20) });
    assert_eq!(code_of(&served.say(b"").await), "CONTROL_SLOW");
    assert_eq!(code_of(&served.say(b"{\"version\":1,").await), "CONTROL_SLOW");
    assert_eq!(served.handled(), 0);
    let report: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(report, status());
}

#[tokio::test]
async fn one_more_than_fit_is_told_at_once() {
    let served =
        Served::with(Limits { connections: 1, conversations: 2, send: Duration::from_secs(5) });
    let first = tokio::spawn(served.connect().await.ask::<Accepted>(Request::Drain));
    while served.handled() == 0 {
        tokio::task::yield_now().await;
    }

    let turned_away = served.connect().await.ask::<StatusReport>(Request::Status).await;
    assert_eq!(turned_away.unwrap_err().code, "OVERLOADED");
    assert_eq!(served.handled(), 1);

    served.cell.gate.add_permits(1);
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_out_of_bounds_is_not_even_sent() {
    let served = Served::start();
    let ping = PingAsk { to: "a".parse().unwrap(), count: 0, budget_ms: 1 };
    let asked = served.connect().await.ask_any(Request::Ping(ping)).await;
    assert_eq!(asked.unwrap_err().code, "CONTROL_BAD_REQUEST");
    assert_eq!(served.handled(), 0);
}

#[tokio::test]
async fn a_live_socket_is_not_taken_over() {
    let served = Served::start();
    let inode = fs::metadata(served.path()).unwrap().ino();
    let second = ControlSocket::bind(served.dir.path());
    assert!(matches!(second, Err(BindError::Taken { .. })));
    assert_eq!(fs::metadata(served.path()).unwrap().ino(), inode);
    let report: StatusReport = served.connect().await.ask(Request::Status).await.unwrap();
    assert_eq!(report, status());
}

#[tokio::test]
async fn a_socket_that_answers_is_not_taken_over_even_without_its_lock() {
    let dir = private_dir();
    let path = dir.path().join(SOCKET_FILE);
    let _alive = StdListener::bind(&path).unwrap();
    assert!(matches!(ControlSocket::bind(dir.path()), Err(BindError::Taken { .. })));
    assert!(path.exists());
}

#[tokio::test]
async fn the_socket_file_of_a_dead_process_is_replaced() {
    let dir = private_dir();
    let path = dir.path().join(SOCKET_FILE);
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = ControlSocket::bind(dir.path()).unwrap();
    StdStream::connect(socket.path()).unwrap();
}

#[tokio::test]
async fn s2_04_what_is_not_a_socket_is_left_alone() {
    let dir = private_dir();
    let path = dir.path().join(SOCKET_FILE);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(ControlSocket::bind(dir.path()), Err(BindError::InTheWay { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    fs::remove_file(&path).unwrap();
    let target = dir.path().join("target");
    symlink(&target, &path).unwrap();
    assert!(matches!(ControlSocket::bind(dir.path()), Err(BindError::InTheWay { .. })));
    assert!(!target.exists());
}

#[tokio::test]
async fn a_directory_that_others_may_enter_gets_no_socket() {
    let dir = private_dir();
    for mode in [0o755, 0o710, 0o707] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let refused = ControlSocket::bind(dir.path()).unwrap_err();
        assert!(matches!(refused, BindError::NotPrivate { mode: found, .. } if found == mode));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let link = dir.path().with_extension("link");
    symlink(dir.path(), &link).unwrap();
    assert!(matches!(ControlSocket::bind(&link), Err(BindError::Io { .. })));
    fs::remove_file(link).unwrap();
}

#[tokio::test]
async fn a_path_longer_than_a_socket_address_works() {
    let dir = private_dir();
    let deep = dir.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    fs::set_permissions(&deep, Permissions::from_mode(0o700)).unwrap();
    let socket = ControlSocket::bind(&deep).unwrap();
    let path = socket.path().to_owned();
    let cell = Arc::new(Fake { handled: AtomicUsize::new(0), gate: Semaphore::new(0) });
    let task = tokio::spawn(socket.serve(Arc::new(Shared(cell))));
    let client = ControlClient::connect(&path).await.unwrap();
    assert_eq!(client.ask::<StatusReport>(Request::Status).await.unwrap(), status());
    assert!(matches!(ControlSocket::bind(&deep), Err(BindError::Taken { .. })));
    task.abort();
}

#[tokio::test]
async fn a_listener_that_hangs_up_is_an_error_and_not_silence() {
    let dir = private_dir();
    let path = dir.path().join(SOCKET_FILE);
    let listener = UnixListener::bind(&path).unwrap();
    let client = ControlClient::connect(&path).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    drop(stream);
    let error = client.ask_any(Request::Status).await.unwrap_err();
    assert_eq!(error.code, "CONTROL_BAD_REPLY");
}

#[test]
fn only_our_user_and_root_may_ask() {
    assert!(may_ask(1000, 1000));
    assert!(may_ask(0, 1000));
    assert!(!may_ask(1001, 1000));
    assert!(!may_ask(1000, 0));
}

/// Needs root, to become somebody else; without it the rule alone is tested, above.
#[tokio::test]
async fn another_user_is_refused_even_where_the_files_would_let_it_in() {
    if !geteuid().is_root() {
        return;
    }
    let served = Served::start();
    let path = served.path();
    fs::set_permissions(served.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();

    let asking = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = StdStream::connect(path).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });

    assert_eq!(code_of(&asking.await.unwrap()), "FORBIDDEN");
    assert_eq!(served.handled(), 0);
}
