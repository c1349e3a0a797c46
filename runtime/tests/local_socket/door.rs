//! Who is let in.

use std::time::Duration;

use cellbus_channels::{Status, local};
use cellbus_proto::local::{Body, Hello, Secret, ToCell, ToJob};
use cellbus_runtime::local_socket::{Ended, LaunchSecret, Options, Reason};
use tokio::{sync::oneshot, time};

use crate::cell_and_job::{FakeCell, RawJob, Served, bytes_of, name, serve, settle, target};

fn other_secret() -> Secret {
    LaunchSecret::generate().unwrap().secret().clone()
}

async fn still_works(served: &Served) {
    let bus = served.connect().await;
    let reply = bus.request(name("server"), target("task/fetch")).payload("x").send().await;
    assert_eq!(reply.unwrap().payload, "x");
}

/// Keeps the paused clock from moving by itself while the kernel hands bytes over.
struct HeldClock(Option<oneshot::Sender<()>>);

fn hold_clock() -> HeldClock {
    let (release, held) = oneshot::channel();
    tokio::task::spawn_blocking(move || held.blocking_recv());
    time::pause();
    HeldClock(Some(release))
}

impl Drop for HeldClock {
    fn drop(&mut self) {
        let _ = self.0.take().expect("is there until now").send(());
    }
}

#[tokio::test]
async fn f_38_a_wrong_secret_is_refused_and_does_not_use_up_the_right_one() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    for _ in 0..3 {
        let refused = local::connect(&served.path, other_secret()).await.unwrap_err();
        assert!(
            matches!(refused, local::ConnectError::Rejected(Status::Unauthenticated)),
            "{refused}"
        );
    }
    assert_eq!(served.refusals.count(Reason::Secret), 3);
    assert_eq!(cell.requested(), 0);
    still_works(&served).await;
}

#[tokio::test]
async fn c_03_a_secret_lets_one_connection_in() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let bus = served.connect().await;
    let refused = local::connect(&served.path, served.secret.clone()).await.unwrap_err();
    assert!(matches!(refused, local::ConnectError::Rejected(Status::Unauthenticated)), "{refused}");
    assert_eq!(served.refusals.count(Reason::Reused), 1);
    assert_eq!(served.refusals.total(), 1);

    let reply = bus.request(name("server"), target("task/fetch")).payload("x").send().await;
    assert_eq!(reply.unwrap().payload, "x", "the first connection is not disturbed");
}

#[tokio::test]
async fn c_03_a_secret_is_worth_nothing_after_a_minute() {
    let _clock = hold_clock();
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    time::advance(Duration::from_secs(58)).await;
    let mut early = served.raw().await;
    settle().await;
    time::advance(Duration::from_secs(3)).await;
    early.send(&ToCell::Hello(Hello::new(served.secret.clone()))).await;
    let status = Status::Unauthenticated;
    assert_eq!(early.receive().await, Some(ToJob::Reject { status }));
    assert_eq!(early.receive().await, None);
    assert_eq!(served.refusals.count(Reason::Expired), 1);
    assert_eq!(served.ended.await.unwrap(), Ended::Unclaimed);
    assert!(!served.path.exists(), "the socket is gone");
}

#[tokio::test]
async fn a_socket_that_nobody_claims_ends_by_itself() {
    let _clock = hold_clock();
    let served = serve(&FakeCell::echoing(), Options::default());
    settle().await;
    time::advance(Duration::from_secs(59)).await;
    settle().await;
    assert!(!served.ended.is_finished());
    time::advance(Duration::from_millis(1_001)).await;
    assert_eq!(served.ended.await.unwrap(), Ended::Unclaimed);
}

#[tokio::test]
async fn a_socket_of_a_cell_that_stops_ends_before_anybody_came() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    cell.close();
    assert_eq!(served.ended.await.unwrap(), Ended::CellClosed);
}

#[tokio::test]
async fn c_01_another_process_of_the_same_user_is_refused_where_one_is_expected() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default().expected_pid(1));
    let refused = local::connect(&served.path, served.secret.clone()).await.unwrap_err();
    assert!(matches!(refused, local::ConnectError::Rejected(Status::Unauthenticated)), "{refused}");
    assert_eq!(served.refusals.count(Reason::Process), 1);

    let own = serve(&cell, Options::default().expected_pid(std::process::id()));
    still_works(&own).await;

    let pid = rustix::process::getpid();
    let pidfd = || rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    let own = serve(&cell, Options::default().expected_process(pidfd()));
    still_works(&own).await;
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let other = rustix::process::Pid::from_child(&child);
    let other = rustix::process::pidfd_open(other, rustix::process::PidfdFlags::empty()).unwrap();
    child.wait().unwrap();
    let gone = serve(&cell, Options::default().expected_process(other));
    let refused = local::connect(&gone.path, gone.secret.clone()).await.unwrap_err();
    assert!(matches!(refused, local::ConnectError::Rejected(Status::Unauthenticated)), "{refused}");
    assert_eq!(gone.refusals.count(Reason::Process), 1);
}

#[tokio::test]
async fn a_version_that_is_not_spoken_is_refused_as_such() {
    let served = serve(&FakeCell::echoing(), Options::default());
    let mut job = served.raw().await;
    let hello = Hello { version_min: 3, version_max: 9, secret: served.secret.clone() };
    job.send(&ToCell::Hello(hello)).await;
    assert_eq!(job.receive().await, Some(ToJob::Reject { status: Status::Version }));
    assert_eq!(served.refusals.count(Reason::Version), 1);
    still_works(&served).await;
}

#[tokio::test]
async fn nothing_is_heard_before_hello() {
    let cell = FakeCell::echoing();
    let served = serve(&cell, Options::default());
    let hello = bytes_of(&ToCell::Hello(Hello::new(served.secret.clone())));
    let short = [&hello[..2], &[hello[2] - 1], &hello[3..hello.len() - 1]].concat();
    let publish = ToCell::Publish {
        id: 1,
        to: "server".into(),
        channel: "task".into(),
        topic: "log".into(),
        body: Body::default(),
        options: None,
    };
    let firsts = [bytes_of(&publish).to_vec(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), short];
    for first in &firsts {
        let mut job = served.raw().await;
        job.send_bytes(first).await;
        assert_eq!(job.receive().await, Some(ToJob::Reject { status: Status::BadFrame }));
        assert_eq!(job.receive().await, None);
    }
    assert_eq!(served.refusals.count(Reason::Malformed), firsts.len() as u64);
    assert!(cell.published().is_empty());
    still_works(&served).await;
}

#[tokio::test]
async fn f_38_half_a_hello_then_silence_is_refused_after_five_seconds() {
    let _clock = hold_clock();
    let served = serve(&FakeCell::echoing(), Options::default());
    let mut job = served.raw().await;
    let hello = bytes_of(&ToCell::Hello(Hello::new(served.secret.clone())));
    job.send_bytes(&hello[..20]).await;
    settle().await;
    time::advance(Duration::from_millis(4_900)).await;
    settle().await;
    assert_eq!(served.refusals.total(), 0);
    time::advance(Duration::from_millis(200)).await;
    assert_eq!(job.receive().await, Some(ToJob::Reject { status: Status::NoHello }));
    assert_eq!(job.receive().await, None);
    assert_eq!(served.refusals.count(Reason::Silent), 1);
}

#[tokio::test]
async fn connections_that_say_nothing_hold_no_more_than_a_few_places() {
    let _clock = hold_clock();
    let served = serve(&FakeCell::echoing(), Options::default());
    let mut silent: Vec<RawJob> = Vec::new();
    for _ in 0..20 {
        silent.push(served.raw().await);
    }
    settle().await;
    for waves in 1..=2 {
        time::advance(Duration::from_millis(5_001)).await;
        settle().await;
        assert_eq!(served.refusals.count(Reason::Silent), 8 * waves);
    }
    still_works(&served).await;
}
