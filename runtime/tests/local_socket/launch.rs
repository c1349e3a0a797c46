//! How a launched process comes to its bus.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, Write},
    process::{Command, Stdio},
};

use cellbus_channels::local;
use cellbus_proto::local::Bootstrap;
use cellbus_runtime::local_socket::{Ended, LaunchSecret, LocalSocket, Options, bootstrap_fd};

use crate::cell_and_job::{FakeCell, name, target};

#[test]
fn c_07_a_launch_secret_does_not_print() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let secret = LaunchSecret::generate().unwrap();
    assert_eq!(format!("{secret:?}"), "***");
    let other = LaunchSecret::generate().unwrap();
    assert_ne!(secret.secret(), other.secret());
}

#[tokio::test]
async fn c_02_the_bootstrap_can_be_read_and_emptied_and_not_changed() {
    let secret = LaunchSecret::generate().unwrap();
    let path = std::path::Path::new("/run/cells/job.sock");
    let mut file = File::from(bootstrap_fd(path, &secret).unwrap());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let bootstrap = Bootstrap::decode(&bytes).unwrap();
    assert_eq!(
        (bootstrap.path.as_str(), &bootstrap.secret),
        ("/run/cells/job.sock", secret.secret())
    );

    file.rewind().unwrap();
    assert_eq!(file.write_all(b"x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.set_len(4096).unwrap_err().kind(), ErrorKind::PermissionDenied);
    file.set_len(0).unwrap();

    let long = "/".to_owned() + &"x".repeat(100);
    let refused = bootstrap_fd(std::path::Path::new(&long), &secret).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn c_02_a_launched_process_finds_its_cell_through_the_descriptor_alone() {
    let root = tempfile::tempdir().unwrap();
    let socket = LocalSocket::bind(&root.path().join("job"), "s").unwrap();
    let launch = LaunchSecret::generate().unwrap();
    let secret = hex(launch.secret().expose());
    let bootstrap = bootstrap_fd(socket.path(), &launch).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launch::as_a_launched_process", "--ignored"])
        .env(Bootstrap::ENV, "0")
        .stdin(Stdio::from(bootstrap))
        .spawn()
        .unwrap();
    for file in ["cmdline", "environ"] {
        let shown = fs::read(format!("/proc/{}/{file}", child.id())).unwrap();
        assert!(!hex(&shown).contains(&secret), "the secret is in {file}");
    }
    let cell = FakeCell::echoing();
    let options = Options::default().expected_pid(child.id()).job("job-7".parse().unwrap());
    let ended = socket.serve(cell.bus(), launch, options).await;
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert!(status.success());
    assert_eq!(ended, Ended::Finished);
    assert_eq!(cell.requested(), 1);
}

#[tokio::test]
#[ignore = "runs in a process of its own, started by another test"]
async fn as_a_launched_process() {
    if std::env::var_os(Bootstrap::ENV).is_none() {
        return;
    }
    let bus = local::from_env().await.unwrap();
    let reply = bus.request(name("server"), target("task/fetch")).payload("x").send().await;
    assert_eq!(reply.unwrap().payload, "x");
    let again = local::from_env().await.unwrap_err();
    assert!(matches!(again, local::ConnectError::Bootstrap(_)), "{again}");
    drop(bus);
    // The goodbye is written by a task of this runtime.
    tokio::task::yield_now().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
