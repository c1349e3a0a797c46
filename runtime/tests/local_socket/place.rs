//! Where the socket lies and who can reach it.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    process::Command,
};

use cellbus_runtime::local_socket::{BindError, LocalSocket};

const DIRECTORY: &str = "LOCAL_SOCKET_TEST_DIRECTORY";

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn s2_03_directory_and_socket_have_their_modes_under_any_umask() {
    for umask in ["000", "022", "077", "777"] {
        let root = tempfile::tempdir().unwrap();
        let status = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "place::under_the_umask_of_the_caller", "--ignored"])
            .env(DIRECTORY, root.path().join("job"))
            .status()
            .unwrap();
        assert!(status.success(), "umask {umask}");
    }
}

#[tokio::test]
#[ignore = "runs in a process of its own, started by another test"]
async fn under_the_umask_of_the_caller() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let socket = LocalSocket::bind(&directory, "s").unwrap();
    assert_eq!((mode(&directory), mode(socket.path())), (0o700, 0o600));
    drop(socket);
    assert!(!directory.exists(), "what was made is removed");
}

#[tokio::test]
async fn c_01_a_directory_that_others_can_reach_is_not_used() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("job");
    fs::create_dir(&directory).unwrap();
    for bits in [0o755, 0o777, 0o1777, 0o710, 0o2700] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(bits)).unwrap();
        let refused = LocalSocket::bind(&directory, "s").unwrap_err();
        assert!(matches!(refused, BindError::Directory { .. }), "{refused}");
        assert!(!directory.join("s").exists());
        assert_eq!(mode(&directory), bits, "it is left as it was");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let socket = LocalSocket::bind(&directory, "s").unwrap();
    drop(socket);
    assert!(directory.exists(), "what was there before stays");
    assert!(!directory.join("s").exists());
}

#[tokio::test]
async fn c_01_a_symlinked_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (real, link) = (root.path().join("real"), root.path().join("link"));
    fs::create_dir(&real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&real, &link).unwrap();
    let refused = LocalSocket::bind(&link, "s").unwrap_err();
    assert!(matches!(refused, BindError::Directory { .. }), "{refused}");
    assert!(!real.join("s").exists());
}

#[tokio::test]
async fn c_01_what_lies_at_the_path_already_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("job");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let _planted = UnixListener::bind(directory.join("socket")).unwrap();
    fs::write(directory.join("file"), "content").unwrap();
    symlink(root.path().join("elsewhere"), directory.join("link")).unwrap();
    for name in ["socket", "file", "link"] {
        let refused = LocalSocket::bind(&directory, name).unwrap_err();
        assert!(matches!(refused, BindError::Exists(_)), "{name}: {refused}");
    }
    assert_eq!(fs::read(directory.join("file")).unwrap(), b"content");
    assert!(!root.path().join("elsewhere").exists());
}

#[tokio::test]
async fn c_01_a_path_of_more_than_100_bytes_is_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("job");
    let fits = 100 - directory.as_os_str().len() - 1;
    let refused = LocalSocket::bind(&directory, &"x".repeat(fits + 1)).unwrap_err();
    assert!(matches!(refused, BindError::TooLong { len: 101, .. }), "{refused}");
    assert!(refused.to_string().contains("101 bytes, the limit for a local socket is 100"));
    assert!(!directory.exists());
    LocalSocket::bind(&directory, &"x".repeat(fits)).unwrap();
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("job");
    for name in ["", ".", "..", "a/b", "/tmp/s", "s/"] {
        let refused = LocalSocket::bind(&directory, name).unwrap_err();
        assert!(matches!(refused, BindError::Path(_)), "{name:?}: {refused}");
    }
    let refused = LocalSocket::bind(Path::new("relative"), "s").unwrap_err();
    assert!(matches!(refused, BindError::Path(_)), "{refused}");
    assert!(!directory.exists());
}
