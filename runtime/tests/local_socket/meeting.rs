//! A process that somebody else has started meets the cell through a file.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_channels::{
    Bus, Status,
    local::{self, ConnectError, RendezvousFileError},
};
use cellbus_proto::local::{Hello, ToCell, ToJob};
use cellbus_runtime::local_socket::{Ended, Launch, Meeting, MeetingError, Options, Reason};
use tokio::{net::UnixStream, time};

use crate::cell_and_job::{FakeCell, RawJob, name, target};

struct Place {
    _root: tempfile::TempDir,
    directory: PathBuf,
}

fn place() -> Place {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("attach");
    Place { _root: root, directory }
}

fn offer(directory: &Path, bus: &Bus) -> Meeting {
    let options = Options::default().job("job-7".parse().unwrap());
    Meeting::offer(directory, bus, Duration::from_secs(600), options).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn c_11_a_process_that_finds_the_file_is_let_in_once() {
    let (cell, Place { _root, directory }) = (FakeCell::echoing(), place());
    let meeting = offer(&directory, &cell.bus());
    let (file, refusals) = (meeting.file().to_owned(), meeting.refusals());
    assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
    let kept = fs::read(&file).unwrap();
    let ended = tokio::spawn(meeting.serve(cell.bus()));
    let bus = local::connect_attached(&file).await.unwrap();
    let reply = bus.request(name("server"), target("task/fetch")).payload("x").send().await;
    assert_eq!(reply.unwrap().payload, "x");

    assert!(!file.exists(), "it has been removed by its reader");
    let again = local::connect_attached(&file).await.unwrap_err();
    assert!(matches!(again, ConnectError::Rendezvous(RendezvousFileError::Io { .. })), "{again}");
    fs::write(&file, kept).unwrap();
    set_mode(&file, 0o600);
    let again = local::connect_attached(&file).await.unwrap_err();
    assert!(matches!(again, ConnectError::Rejected(Status::Unauthenticated)), "{again}");
    assert_eq!((refusals.count(Reason::Reused), refusals.total()), (1, 1));

    drop(bus);
    assert_eq!(ended.await.unwrap(), Ended::Finished);
    assert!(!directory.exists(), "nothing stays");
}

#[tokio::test]
async fn c_11_a_file_that_others_could_have_made_or_read_is_not_used() {
    let (cell, Place { _root, directory }) = (FakeCell::echoing(), place());
    let meeting = offer(&directory, &cell.bus());
    let file = meeting.file().to_owned();
    let linked = _root.path().join("linked");
    symlink(&directory, &linked).unwrap();
    let link = directory.join("link");
    symlink(&file, &link).unwrap();
    let is_unsafe = |error: &ConnectError| {
        matches!(error, ConnectError::Rendezvous(RendezvousFileError::Unsafe { .. }))
    };
    for path in [linked.join("attach"), link, directory.clone()] {
        let refused = local::connect_attached(&path).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Rendezvous(_)), "{refused}");
    }
    for wrong in [0o701, 0o770, 0o777, 0o1777] {
        set_mode(&directory, wrong);
        let refused = local::connect_attached(&file).await.unwrap_err();
        assert!(is_unsafe(&refused), "{wrong:o}: {refused}");
    }
    set_mode(&directory, 0o700);
    for wrong in [0o601, 0o640, 0o666, 0o400] {
        set_mode(&file, wrong);
        let refused = local::connect_attached(&file).await.unwrap_err();
        assert!(is_unsafe(&refused), "{wrong:o}: {refused}");
    }
    set_mode(&file, 0o600);
    let other = directory.join("other");
    fs::hard_link(&file, &other).unwrap();
    let refused = local::connect_attached(&file).await.unwrap_err();
    assert!(is_unsafe(&refused), "{refused}");
    fs::remove_file(other).unwrap();

    assert!(file.exists() && meeting.refusals().total() == 0, "nothing has been tried");
    let ended = tokio::spawn(meeting.serve(cell.bus()));
    drop(local::connect_attached(&file).await.unwrap());
    assert_eq!(ended.await.unwrap(), Ended::Finished);
}

#[tokio::test]
async fn c_11_a_file_that_has_expired_is_refused_and_gone() {
    let (cell, Place { _root, directory }) = (FakeCell::echoing(), place());
    let bus = cell.bus();
    let meeting = Meeting::offer(&directory, &bus, Duration::ZERO, Options::default()).unwrap();
    let file = meeting.file().to_owned();
    let refused = local::connect_attached(&file).await.unwrap_err();
    assert!(
        matches!(refused, ConnectError::Rendezvous(RendezvousFileError::Content(_))),
        "{refused}"
    );
    assert!(!file.exists());
    assert_eq!(meeting.serve(bus).await, Ended::Unclaimed);
}

#[tokio::test]
async fn c_11_a_directory_that_others_can_reach_offers_no_meeting() {
    let (cell, Place { _root, directory }) = (FakeCell::echoing(), place());
    fs::create_dir(&directory).unwrap();
    set_mode(&directory, 0o777);
    let lifetime = Duration::from_secs(60);
    let refused = Meeting::offer(&directory, &cell.bus(), lifetime, Options::default());
    assert!(matches!(refused, Err(MeetingError::Bind(_))), "{refused:?}");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "nothing has been written");
}

#[tokio::test]
async fn c_03_a_secret_of_another_launch_lets_nobody_in() {
    use cellbus_runtime::local_socket::{LaunchSecret, LocalSocket};
    let cell = FakeCell::echoing();
    let launch = |attempt| Launch {
        job: Some("job-7".parse().unwrap()),
        attempt: Some(attempt),
        role: Some("trainer".parse().unwrap()),
    };
    let own = cell.bus().name();
    let cases = [
        (own.clone(), launch(1), true),
        (own.clone(), launch(2), false),
        (own.clone(), Launch { role: None, ..launch(1) }, false),
        (own, Launch { job: Some("job-8".parse().unwrap()), ..launch(1) }, false),
        (name("site-2.job-7"), launch(1), false),
    ];
    for (at, of, is_good) in cases {
        let Place { _root, directory } = place();
        let socket = LocalSocket::bind(&directory, "s").unwrap();
        let secret = LaunchSecret::generate().unwrap().made_for(at, of.clone());
        let (path, proof) = (socket.path().to_owned(), secret.secret().clone());
        let options = Options::default().launch(launch(1));
        let ended = tokio::spawn(socket.serve(cell.bus(), secret, options));
        let connected = local::connect(&path, proof).await;
        assert_eq!(connected.is_ok(), is_good, "{of:?}");
        drop(connected);
        ended.abort();
    }
}

#[tokio::test]
async fn c_11_a_process_that_gives_no_sign_of_life_is_let_go_and_gets_no_signal() {
    let (cell, Place { _root, directory }) = (FakeCell::echoing(), place());
    let meeting = offer(&directory, &cell.bus());
    let rendezvous = local::read_rendezvous(meeting.file()).unwrap();
    let ended = tokio::spawn(meeting.serve(cell.bus()));
    let mut job = RawJob::new(UnixStream::connect(&rendezvous.path).await.unwrap());
    job.send(&ToCell::Hello(Hello::new(rendezvous.secret))).await;
    let Some(ToJob::Welcome(welcome)) = job.receive().await else { panic!("no welcome") };
    assert_eq!(welcome.heartbeat_ms, Some(5000));
    time::pause();
    let started = time::Instant::now();
    for _ in 0..10 {
        let Some(ToJob::Ping { token }) = job.receive().await else { panic!("no sign is asked") };
        job.send(&ToCell::Pong { token }).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(40), "it lives as long as it answers");
    let answered = time::Instant::now();
    let mut asked = 0;
    let last = loop {
        match job.receive().await {
            Some(ToJob::Ping { .. }) => asked += 1,
            other => break other,
        }
    };
    assert_eq!(last, Some(ToJob::Bye { status: Some(Status::Deadline) }));
    assert!(asked >= 2 && answered.elapsed() >= Duration::from_secs(15), "{asked}");
    assert_eq!(ended.await.unwrap(), Ended::Violation(Status::Deadline));
}
