//! What is found, and what is not.

use std::fs::File;

use super::*;
use crate::seeds::run_paused;

#[test]
fn c8_an_open_file_is_seen_until_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("left-open").display().to_string();
    let is_open = || open_files().values().any(|target| *target == path);
    assert!(!is_open());
    let file = File::create(&path).unwrap();
    assert!(is_open());
    drop(file);
    assert!(!is_open());
}

#[test]
fn c8_a_task_is_counted_until_it_ends() {
    run_paused(1, |_| async {
        let before = alive_tasks();
        let baseline = Baseline { tasks: before, ..Baseline::take() };
        let task = tokio::spawn(std::future::pending::<()>());
        assert_eq!(alive_tasks(), before + 1);
        assert!(baseline.left_behind().unwrap().contains("1 more tasks"));
        task.abort();
        settle().await;
        assert_eq!(alive_tasks(), before);
    });
}

#[test]
fn c8_what_was_left_behind_is_named() {
    run_paused(1, |_| async {
        let dir = tempfile::tempdir().unwrap();
        let baseline = Baseline::take();
        let _file = File::create(dir.path().join("forgotten")).unwrap();
        assert!(baseline.left_behind().unwrap().contains("forgotten"));
    });
}

#[test]
fn c8_nothing_is_left_behind_by_a_simulated_network() {
    if crate::alone::run("leaks::tests::c8_nothing_is_left_behind_by_a_simulated_network").is_some()
    {
        return;
    }
    run_paused(1, |seed| async move {
        let baseline = Baseline::take();
        let net = crate::sim::SimNet::new(seed);
        let host = ([10, 0, 0, 1], 4433).into();
        let endpoint = net.endpoint(host, quinn::EndpointConfig::default(), None).unwrap();
        assert!(baseline.left_behind().is_some());
        drop(endpoint);
        settle().await;
        baseline.assert_restored();
    });
}
