use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::*;

const CHILD: &str = "CELLBUS_SECRET_FILE_CHILD";

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mkfifo(path: &Path) {
    fs::mkfifoat(fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}

/// Runs `work` where waiting for ever shows as a failure.
fn must_return<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(20)).expect("hangs")
}

/// Runs the test `name` of this file again in a process of its own that a shell prepares with `prelude`;
/// umask and resource limits belong to a whole process, and other tests run in this one.
fn rerun(name: &str, prelude: &str) {
    let output = Command::new("sh")
        .args(["-c", &format!("{prelude}; exec \"$0\" --exact \"$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("secret_file::tests::{name}"))
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{prelude}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[test]
fn s2_10_what_was_written_is_what_is_read() {
    let dir = scratch();
    let path = dir.path().join("key");
    for content in [&b""[..], b"x", &[0xa5; 70_000]] {
        write_secret_file(&path, content).unwrap();
        assert_eq!(read_secret_file(&path, 70_000).unwrap().as_slice(), content);
    }
    assert_eq!(names(dir.path()), ["key"]);
}

#[test]
fn s0_19_files_and_directories_are_owner_only_under_any_umask() {
    if !is_child() {
        for umask in ["000", "022", "077", "777"] {
            rerun(
                "s0_19_files_and_directories_are_owner_only_under_any_umask",
                &format!("umask {umask}"),
            );
        }
        return;
    }
    let dir = std::env::temp_dir().join(format!("cellbus-{:016x}", getrandom::u64().unwrap()));
    let inner = dir.join("a/b");
    create_private_dir(&inner).unwrap();
    create_private_dir(&inner).unwrap();
    let path = inner.join("key");
    write_secret_file(&path, b"one").unwrap();
    write_secret_file(&path, b"two").unwrap();
    let modes = [mode(&dir), mode(&dir.join("a")), mode(&inner), mode(&path)];
    let content = read_secret_file(&path, 10).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(modes, [0o700, 0o700, 0o700, 0o600]);
    assert_eq!(content.as_slice(), b"two");
}

#[test]
fn s2_04_a_planted_symlink_is_replaced() {
    let dir = scratch();
    let (victim, path) = (dir.path().join("victim"), dir.path().join("key"));
    std::fs::write(&victim, "precious").unwrap();
    set_mode(&victim, 0o640);
    symlink(&victim, &path).unwrap();
    write_secret_file(&path, b"secret").unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(mode(&victim), 0o640);
    assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn s2_04_a_dangling_symlink_creates_nothing_where_it_points() {
    let dir = scratch();
    let (target, path) = (dir.path().join("nowhere"), dir.path().join("key"));
    symlink(&target, &path).unwrap();
    write_secret_file(&path, b"secret").unwrap();
    assert_eq!(names(dir.path()), ["key"]);
}

#[test]
fn s2_04_the_other_name_of_a_hard_link_keeps_its_content() {
    let dir = scratch();
    let (victim, path) = (dir.path().join("victim"), dir.path().join("key"));
    std::fs::write(&victim, "precious").unwrap();
    std::fs::hard_link(&victim, &path).unwrap();
    write_secret_file(&path, b"secret").unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    assert_eq!(std::fs::metadata(&path).unwrap().nlink(), 1);
}

#[test]
fn s2_04_a_fifo_or_a_directory_at_the_path_is_an_error() {
    let dir = scratch();
    let (fifo, sub) = (dir.path().join("fifo"), dir.path().join("sub"));
    mkfifo(&fifo);
    std::fs::create_dir(&sub).unwrap();
    for path in [&fifo, &sub] {
        let path = path.clone();
        let (write, read) =
            must_return(move || (write_secret_file(&path, b"secret"), read_secret_file(&path, 10)));
        assert!(matches!(write, Err(SecretFileError::Kind { .. })), "{write:?}");
        assert!(matches!(read, Err(SecretFileError::Kind { .. })), "{read:?}");
    }
    assert_eq!(names(dir.path()), ["fifo", "sub"]);
}

#[test]
fn s2_04_a_parent_that_others_may_write_to_is_refused() {
    let dir = scratch();
    let parent = dir.path().join("parent");
    std::fs::create_dir(&parent).unwrap();
    let path = parent.join("key");
    for wide in [0o777, 0o770, 0o702, 0o1770] {
        set_mode(&parent, wide);
        let error = write_secret_file(&path, b"secret").unwrap_err();
        assert!(matches!(error, SecretFileError::Mode { .. }), "{wide:o}: {error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert_eq!(names(&parent), [""; 0]);
    }
    set_mode(&parent, 0o1777);
    let error = write_secret_file(&path, b"secret").unwrap_err();
    // No advice to change the mode of what may be `/tmp`.
    assert!(matches!(error, SecretFileError::Shared { .. }), "{error}");
    assert_eq!(names(&parent), [""; 0]);
    set_mode(&parent, 0o755);
    write_secret_file(&path, b"secret").unwrap();
}

#[test]
fn s2_04_a_parent_that_is_a_symlink_is_refused() {
    let dir = scratch();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let error = write_secret_file(&link.join("key"), b"secret").unwrap_err();
    assert!(matches!(error, SecretFileError::Kind { .. }), "{error}");
    assert_eq!(names(&real), [""; 0]);
}

#[test]
fn s2_05_a_wider_file_is_tightened_by_the_next_write() {
    let dir = scratch();
    let path = dir.path().join("key");
    std::fs::write(&path, "old").unwrap();
    set_mode(&path, 0o644);
    let error = read_secret_file(&path, 10).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    write_secret_file(&path, b"new").unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn s2_05_a_file_of_another_user_is_an_error() {
    if !geteuid().is_root() {
        return;
    }
    let dir = scratch();
    let path = dir.path().join("key");
    std::fs::write(&path, "old").unwrap();
    set_mode(&path, 0o600);
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let write = write_secret_file(&path, b"new");
    assert!(matches!(write, Err(SecretFileError::Owner { owner: 12345, .. })), "{write:?}");
    let read = read_secret_file(&path, 10);
    assert!(matches!(read, Err(SecretFileError::Owner { .. })), "{read:?}");
    let trusted = read_trusted_file(&path, 10);
    assert!(matches!(trusted, Err(SecretFileError::Owner { .. })), "{trusted:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["key"]);

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(12345), None).unwrap();
    let error = write_secret_file(&foreign.join("key"), b"new").unwrap_err();
    assert!(matches!(error, SecretFileError::Owner { .. }), "{error}");
    let error = create_private_dir(&foreign).unwrap_err();
    assert!(matches!(error, SecretFileError::Owner { .. }), "{error}");
}

#[test]
fn s2_10_a_reader_refuses_links_wide_modes_and_large_files() {
    let dir = scratch();
    let (path, link) = (dir.path().join("key"), dir.path().join("link"));
    write_secret_file(&path, b"secret").unwrap();
    symlink(&path, &link).unwrap();
    let error = read_secret_file(&link, 10).unwrap_err();
    assert!(matches!(error, SecretFileError::Kind { found: "a symbolic link", .. }), "{error}");
    let error = read_secret_file(&path, 5).unwrap_err();
    assert!(matches!(error, SecretFileError::TooLarge { len: 6, max: 5, .. }), "{error}");
    for wide in [0o640, 0o604, 0o660, 0o610] {
        set_mode(&path, wide);
        let error = read_secret_file(&path, 10).unwrap_err();
        assert!(matches!(error, SecretFileError::Mode { .. }), "{wide:o}: {error}");
    }
    set_mode(&path, 0o400);
    assert_eq!(read_secret_file(&path, 6).unwrap().as_slice(), b"secret");
    let error = read_secret_file(&dir.path().join("absent"), 10).unwrap_err();
    assert!(matches!(error, SecretFileError::Missing { .. }), "{error}");
}

#[test]
fn a_socket_is_named_as_what_it_is() {
    let dir = scratch();
    let path = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = read_secret_file(&path, 10).unwrap_err();
    assert!(matches!(error, SecretFileError::Kind { found: "a socket", .. }), "{error}");
}

#[test]
fn a_trusted_file_may_be_read_by_all_and_changed_by_none() {
    let dir = scratch();
    let path = dir.path().join("root.crt");
    std::fs::write(&path, "root").unwrap();
    set_mode(&path, 0o644);
    assert_eq!(read_trusted_file(&path, 10).unwrap(), b"root");
    for wide in [0o664, 0o646] {
        set_mode(&path, wide);
        let error = read_trusted_file(&path, 10).unwrap_err();
        assert!(matches!(error, SecretFileError::Mode { .. }), "{wide:o}: {error}");
    }
}

#[test]
fn a_private_directory_that_is_wide_or_a_link_is_refused() {
    let dir = scratch();
    let (wide, link) = (dir.path().join("wide"), dir.path().join("link"));
    std::fs::create_dir(&wide).unwrap();
    set_mode(&wide, 0o750);
    let error = create_private_dir(&wide).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
    set_mode(&wide, 0o700);
    create_private_dir(&wide).unwrap();
    symlink(&wide, &link).unwrap();
    let error = create_private_dir(&link).unwrap_err();
    assert!(matches!(error, SecretFileError::Kind { .. }), "{error}");

    set_mode(&wide, 0o777);
    let error = create_private_dir(&wide.join("new")).unwrap_err();
    assert!(matches!(error, SecretFileError::Mode { .. }), "{error}");
    assert_eq!(names(&wide), [""; 0]);
    set_mode(&wide, 0o1777);
    create_private_dir(&wide.join("new")).unwrap();
}

#[test]
fn a_path_without_a_file_name_is_refused() {
    for path in ["/", "..", ""] {
        assert!(write_secret_file(Path::new(path), b"x").is_err(), "{path:?}");
    }
}

#[test]
fn s2_03_a_reader_sees_the_old_or_the_new_content_and_never_a_wide_file() {
    let dir = scratch();
    let path = dir.path().join("key");
    let contents = [vec![b'a'; 3_000], vec![b'b'; 9_000]];
    write_secret_file(&path, &contents[0]).unwrap();
    let stop = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let seen = read_secret_file(&path, 9_000).unwrap();
                assert!(contents.iter().any(|content| content == &*seen), "{} bytes", seen.len());
                for entry in std::fs::read_dir(dir.path()).unwrap().flatten() {
                    if let Ok(metadata) = entry.metadata() {
                        assert_eq!(metadata.mode() & 0o7777, 0o600, "{:?}", entry.file_name());
                    }
                }
                reads += 1;
            }
            reads
        });
        let started = std::time::Instant::now();
        for round in 0..10_000 {
            if started.elapsed() > Duration::from_secs(4) || reader.is_finished() {
                break;
            }
            write_secret_file(&path, &contents[round % 2]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    assert_eq!(names(dir.path()), ["key"]);
}

/// A file size limit makes `write` fail half-way, as a full disk does, without needing a full disk.
#[test]
fn s2_02_s2_06_writes_that_fail_keep_the_old_content_and_leak_nothing() {
    if !is_child() {
        rerun(
            "s2_02_s2_06_writes_that_fail_keep_the_old_content_and_leak_nothing",
            "trap '' XFSZ; ulimit -f 8; ulimit -n 60",
        );
        return;
    }
    let dir = scratch();
    let path = dir.path().join("key");
    write_secret_file(&path, b"old").unwrap();
    let large = vec![b'x'; 64 * 1024];
    for _ in 0..10_000 {
        let error = write_secret_file(&path, &large).unwrap_err();
        let SecretFileError::Io { action: "write", source, .. } = error else { panic!("{error}") };
        assert_eq!(source.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
    }
    assert_eq!(read_secret_file(&path, 10).unwrap().as_slice(), b"old");
    assert_eq!(names(dir.path()), ["key"]);
}

#[test]
fn s2_06_a_rename_that_fails_leaves_no_temporary_file() {
    let dir = scratch();
    let place = Place::open(&dir.path().join("key")).unwrap();
    let temp = Temp::create(&place).unwrap().fill(b"secret").unwrap();
    std::fs::create_dir(dir.path().join("key")).unwrap();
    assert!(temp.rename_into_place().is_err());
    assert_eq!(names(dir.path()), ["key"]);
}

#[test]
fn atk_101_leftovers_of_a_killed_writer_are_swept_and_nothing_else() {
    let dir = scratch();
    let place = Place::open(&dir.path().join("key")).unwrap();
    std::mem::forget(Temp::create(&place).unwrap().fill(b"secret").unwrap());
    for name in ["key", ".cellbus-notes", "a.tmp"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    assert_eq!(names(dir.path()).len(), 4);
    remove_leftovers(dir.path()).unwrap();
    assert_eq!(names(dir.path()), [".cellbus-notes", "a.tmp", "key"]);
}

#[test]
fn s0_12_an_error_names_the_path_and_never_the_content() {
    let dir = scratch();
    let path = dir.path().join("sub");
    std::fs::create_dir(&path).unwrap();
    let error = write_secret_file(&path, b"hunter2").unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains(path.to_str().unwrap()) && !text.contains("hunter2"), "{text}");
}
