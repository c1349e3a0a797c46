use std::{collections::BTreeSet, os::unix::fs::MetadataExt};

use super::*;

fn state() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    (dir, path)
}

#[test]
fn every_start_counts_one_more_and_draws_another_nonce() {
    let (_dir, path) = state();
    let mut nonces = BTreeSet::new();
    for run in 1..=20 {
        let mut state = StateDir::open(&path).unwrap();
        let incarnation = state.next_incarnation().unwrap();
        assert_eq!(incarnation.counter, run);
        nonces.insert(incarnation.nonce);
    }
    assert_eq!(nonces.len(), 20);
}

#[test]
fn keys_are_drawn_once_and_differ_between_cells() {
    let (_dir, path) = state();
    let (_other_dir, other) = state();
    let read = |path: &Path| {
        let mut state = StateDir::open(path).unwrap();
        (*state.reset_key().unwrap(), state.connection_id_key().unwrap())
    };
    let first = read(&path);
    assert_eq!(read(&path), first);
    let second = read(&other);
    assert!(first.0 != second.0 && first.1 != second.1);
    assert!(first.0 != [0; 64] && first.1 != 0);
}

#[test]
fn a_second_process_is_told_who_holds_the_directory() {
    let (_dir, path) = state();
    let held = StateDir::open(&path).unwrap();
    let error = StateDir::open(&path).unwrap_err();
    let StateDirError::InUse { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(error.to_string().contains(&std::process::id().to_string()));
    drop(held);
    StateDir::open(&path).unwrap();
}

#[test]
fn a_damaged_counter_is_an_error_and_stays_as_it_is() {
    let (_dir, path) = state();
    let mut state = StateDir::open(&path).unwrap();
    let counter = path.join("incarnation");
    let long = "9".repeat(100);
    for content in [
        "",
        "0",
        "7\n",
        "incarnation 1 ",
        "incarnation 1 7",
        "incarnation 1 +7\n",
        "incarnation 1 07\n",
        "incarnation 1 -1\n",
        "incarnation 1 7\n\n",
        "incarnation 2 7\n",
        "incarnation 1 18446744073709551616\n",
        "incarnation 1 18446744073709551615\n",
        "incarnation 1 \0\n",
        &long,
    ] {
        write_secret_file(&counter, content.as_bytes()).unwrap();
        let error = state.next_incarnation().unwrap_err();
        assert!(matches!(error, StateDirError::Damaged { .. }), "{content:?}: {error}");
        assert_eq!(read_secret_file(&counter, 200).unwrap().as_slice(), content.as_bytes());
    }
    write_secret_file(&counter, b"incarnation 1 41\n").unwrap();
    assert_eq!(state.next_incarnation().unwrap().counter, 42);
}

#[test]
fn a_key_of_another_length_is_an_error() {
    let (_dir, path) = state();
    let mut state = StateDir::open(&path).unwrap();
    for len in [0, 7, 9, 63, 65] {
        write_secret_file(&path.join("reset-key"), &vec![1; len]).unwrap();
        write_secret_file(&path.join("connection-id-key"), &vec![1; len]).unwrap();
        let error = state.reset_key().unwrap_err();
        assert!(matches!(error, StateDirError::Damaged { .. }), "{len}: {error}");
        let error = state.connection_id_key().unwrap_err();
        assert!(matches!(error, StateDirError::Damaged { .. }), "{len}: {error}");
    }
}

#[test]
fn s0_19_the_directory_and_all_in_it_are_owner_only() {
    let (_dir, path) = state();
    let mut state = StateDir::open(&path).unwrap();
    state.next_incarnation().unwrap();
    state.reset_key().unwrap();
    state.connection_id_key().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    let mut files = 0;
    for entry in std::fs::read_dir(&path).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o7777, 0o600);
        files += 1;
    }
    assert_eq!(files, 4);
}

#[test]
fn s2_04_a_planted_lock_changes_no_other_file() {
    let (dir, path) = state();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    create_private_dir(&path).unwrap();
    std::os::unix::fs::symlink(&victim, path.join("lock")).unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateDirError::File(_))));
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    std::fs::remove_file(path.join("lock")).unwrap();
    std::fs::hard_link(&victim, path.join("lock")).unwrap();
    assert!(matches!(StateDir::open(&path), Err(StateDirError::File(_))));
    assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn atk_101_a_leftover_of_a_killed_run_is_gone_after_the_next_start() {
    let (_dir, path) = state();
    drop(StateDir::open(&path).unwrap());
    std::fs::write(path.join(".cellbus-0123456789abcdef.tmp"), "half").unwrap();
    let _state = StateDir::open(&path).unwrap();
    assert!(!path.join(".cellbus-0123456789abcdef.tmp").exists());
}
