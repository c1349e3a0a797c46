//! Files as sources and as sinks.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use cellbus_proto::{
    status::Status,
    transfer::{Digester, Stage},
};

use super::cells::{World, to, whole};
use crate::transfer::{
    Digest, FetchError, FetchOptions, Sink, SinkError, Source, Told, Verdict,
    sink::work::{Event, Op, Work},
};

const MIB: usize = 1 << 20;

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn a_file_arrives_in_its_place_and_nothing_is_left_beside_it() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let (from, into) = (directory.path().join("from"), directory.path().join("into"));
    for len in [0, 5, 20 * MIB + 1] {
        fs::write(&from, whole(len)).unwrap();
        fs::write(&into, "what stood there").unwrap();
        let served = world.transfers("server").serve(Source::file(&from), to(&["site-1"])).await;
        let served = served.unwrap();
        let fetching = world.transfers("site-1").fetch(
            &served.reference(),
            Sink::file(&into),
            FetchOptions::default(),
        );
        let begun = tokio::time::Instant::now();
        assert_eq!(fetching.await.unwrap().told, Told::Settled);
        assert!(begun.elapsed() < Duration::from_secs(1), "something waited for a timer");
        assert!(fs::read(&into).unwrap() == whole(len), "{len} bytes differ");
        assert_eq!(fs::metadata(&into).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names_in(directory.path()), ["from", "into"]);
        assert_eq!(served.outcome().await.verdict, Verdict::Completed);
    }
}

#[tokio::test(start_paused = true)]
async fn f_36_a_receiver_that_was_restarted_finds_its_part_and_asks_for_the_rest_only() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let sent = whole(60 * MIB);
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::file(&into),
        FetchOptions::default(),
    );
    let stopped = tokio::time::timeout(Duration::from_secs(4), fetching).await;
    assert!(stopped.is_err(), "it was too fast to be stopped");
    assert!(!into.exists(), "nothing is in place before everything is there");
    world.restart("site-1");

    let site = world.transfers("site-1");
    let found = site.parts_in(directory.path()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].target, found[0].is_whole), (&into, false));
    assert!((16 * MIB as u64..=40 * MIB as u64).contains(&found[0].durable), "{found:?}");
    let fetching = site.fetch(&found[0].reference, Sink::file(&into), FetchOptions::default());
    let mut progress = fetching.progress();
    let watching = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(value) = progress.next().await {
            seen.push(value.bytes);
        }
        seen
    });
    assert_eq!(fetching.await.unwrap().told, Told::Settled);
    assert!(fs::read(&into).unwrap() == sent);
    let seen = watching.await.unwrap();
    let begun = seen.iter().find(|bytes| **bytes > 0);
    assert!(begun.is_some_and(|bytes| *bytes >= found[0].durable), "{seen:?}");
    assert_eq!(names_in(directory.path()), ["model"]);
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_part_whose_state_is_damaged_is_begun_anew() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let sent = whole(30 * MIB);
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
    let fetch = || {
        let sink = Sink::file(&into);
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default())
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), fetch()).await.is_err());
    let names = names_in(directory.path());
    let state = names.iter().find(|name| name.ends_with(".state")).unwrap();
    let state = directory.path().join(state);
    let mut bytes = fs::read(&state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&state, bytes).unwrap();
    assert_eq!(world.transfers("site-1").parts_in(directory.path()).await.unwrap(), []);
    fetch().await.unwrap();
    assert!(fs::read(&into).unwrap() == sent);
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_damaged_is_noticed_by_its_digest_and_fetched_again() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let sent = whole(30 * MIB);
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
    let fetch = || {
        let sink = Sink::file(&into);
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default())
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), fetch()).await.is_err());
    let names = names_in(directory.path());
    let part = names.iter().find(|name| name.ends_with(".part")).unwrap();
    let part = directory.path().join(part);
    let mut bytes = fs::read(&part).unwrap();
    bytes[17] ^= 1;
    fs::write(&part, bytes).unwrap();
    fetch().await.unwrap();
    assert!(fs::read(&into).unwrap() == sent);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_half_way_is_fetched_anew_and_never_mixed() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let (from, into) = (directory.path().join("from"), directory.path().join("into"));
    fs::write(&from, whole(30 * MIB)).unwrap();
    for on_the_way in [false, true] {
        let options = to(&["site-1"]).rate(10 * MIB as u64);
        let options = if on_the_way { options.digest_on_the_way() } else { options };
        let served = world.transfers("server").serve(Source::file(&from), options).await.unwrap();
        let first = served.reference();
        let transfers = world.transfers("site-1");
        let sink = Sink::file(&into);
        let reference = Arc::clone(&first);
        let fetching = tokio::spawn(async move {
            transfers.fetch(&reference, sink, FetchOptions::default()).await
        });
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let other = whole(31 * MIB + usize::from(on_the_way)).slice(1..);
        fs::write(directory.path().join("new"), &other).unwrap();
        fs::rename(directory.path().join("new"), &from).unwrap();
        world.lose_all();
        let fetched = fetching.await.unwrap().unwrap();
        assert!(fetched.reference.reference.generation > first.reference.generation);
        assert!(fs::read(&into).unwrap() == other, "{on_the_way}");
        let outcome = served.outcome().await;
        assert_eq!(outcome.verdict, Verdict::Completed);
        assert_eq!(outcome.generation, fetched.reference.reference.generation);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_while_nobody_looks_is_noticed_at_its_end() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let from = directory.path().join("from");
    fs::write(&from, whole(30 * MIB)).unwrap();
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(Source::file(&from), options).await.unwrap();
    let (transfers, reference) = (world.transfers("site-1"), served.reference());
    let fetching = tokio::spawn(async move {
        transfers.fetch(&reference, Sink::memory(1 << 30), FetchOptions::default()).await
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let other = whole(30 * MIB + 1).slice(1..);
    fs::write(&from, &other).unwrap();
    assert!(fetching.await.unwrap().unwrap().into_bytes() == other);
}

#[tokio::test(start_paused = true)]
async fn f_36_a_holder_that_was_restarted_serves_the_rest() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let from = directory.path().join("from");
    let sent = whole(30 * MIB);
    fs::write(&from, &sent).unwrap();
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(Source::file(&from), options.clone()).await;
    let served = served.unwrap();
    let reference = served.reference();
    let (transfers, asked) = (world.transfers("site-1"), Arc::clone(&reference));
    let fetching = tokio::spawn(async move {
        transfers.fetch(&asked, Sink::memory(1 << 30), FetchOptions::default()).await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.restart("server");
    world.lose_all();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let options = options.again(reference.reference.id, 1);
    let again = world.transfers("server").serve(Source::file(&from), options).await.unwrap();
    assert_eq!(again.reference().reference.generation, reference.reference.generation);
    let fetched = fetching.await.unwrap().unwrap();
    assert_eq!(fetched.told, Told::Settled);
    assert!(fetched.into_bytes() == sent);
    assert_eq!(again.outcome().await.verdict, Verdict::Completed);
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn no_link_is_followed_and_what_is_not_ours_is_left_alone() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let (into, victim) = (directory.path().join("into"), directory.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &into).unwrap();
    let served = world.transfers("server").serve(whole(100), to(&["site-1"])).await.unwrap();
    let fetch = || {
        let sink = Sink::file(&into);
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default())
    };
    fetch().await.unwrap();
    assert!(fs::symlink_metadata(&into).unwrap().is_file(), "the link was replaced");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");

    let id = served.reference().reference.id;
    for end in ["part", "state", "state~"] {
        let planted = directory.path().join(format!(".into.{id}.{end}"));
        std::os::unix::fs::symlink(&victim, &planted).unwrap();
        let refused = fetch().await;
        if end != "state~" {
            let refused = refused.unwrap_err();
            assert!(
                matches!(&refused, FetchError::Sink(SinkError::Foreign { path, .. }) if *path == planted),
                "{refused:?}"
            );
            fs::remove_file(&planted).unwrap();
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious", "{end}");
    }
    let hard = directory.path().join(format!(".into.{id}.part"));
    fs::hard_link(&victim, &hard).unwrap();
    assert!(fetch().await.is_err());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[tokio::test(start_paused = true)]
async fn a_part_is_written_by_one_fetch_at_a_time() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("into");
    let options = to(&["site-1"]).rate(MIB as u64);
    let served = world.transfers("server").serve(whole(10 * MIB), options).await.unwrap();
    let fetch = || {
        let sink = Sink::file(&into);
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default())
    };
    let first = tokio::spawn(fetch());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = fetch().await.unwrap_err();
    assert!(matches!(refused, FetchError::Sink(SinkError::Busy(_))), "{refused:?}");
    first.await.unwrap().unwrap();
    assert!(fs::read(&into).unwrap() == whole(10 * MIB));
}

#[tokio::test(start_paused = true)]
async fn nothing_stays_of_a_fetch_that_was_cancelled() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("into");
    fs::write(&into, "before").unwrap();
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let served = world.transfers("server").serve(whole(100 * MIB), options).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::file(&into),
        FetchOptions::default(),
    );
    let canceller = fetching.canceller();
    let fetching = tokio::spawn(fetching);
    tokio::time::sleep(Duration::from_secs(3)).await;
    canceller.cancel();
    assert_eq!(fetching.await.unwrap().unwrap_err().status(), Status::TransferCancelled);
    assert_eq!(names_in(directory.path()), ["into"]);
    assert_eq!(fs::read(&into).unwrap(), b"before");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_cannot_be_replaced_fails_the_fetch_and_the_holder_hears_it() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("precious"), "x").unwrap();
    let served = world.transfers("server").serve(whole(100), to(&["site-1"])).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::file(&into),
        FetchOptions::default(),
    );
    let failed = fetching.await.unwrap_err();
    assert!(matches!(failed, FetchError::Sink(SinkError::Io { .. })), "{failed:?}");
    assert_eq!(served.outcome().await.verdict, Verdict::Failed);
    assert_eq!(names_in(&into), ["precious"]);
}

#[tokio::test]
async fn a_receipt_is_for_the_file_that_was_verified_and_for_no_other_in_its_place() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let served = world.transfers("server").serve(whole(MIB + 1), to(&["site-1"])).await.unwrap();
    let signed = served.reference();
    let open = async || {
        let mut work = Work::new(Sink::file(&into));
        work.push(Op::Open(Box::new((*signed).clone())));
        let Event::Opened(found) = work.next().await else { panic!("it was not opened") };
        (work, found)
    };
    let (mut work, found) = open().await;
    assert!(found.is_none());
    let (size, digest) = (MIB as u64 + 1, Digest::of(&whole(MIB + 1)));
    work.push(Op::Write(vec![whole(MIB + 1)]));
    work.push(Op::Commit { size, digest });
    while !matches!(work.next().await, Event::Committed) {}
    drop(work);
    // Nobody has heard the receipt.
    let found = open().await.1.expect("it is there");
    assert_eq!((found.durable, found.stage), (size, Stage::Verified(digest)));
    fs::write(&into, vec![1; MIB + 1]).unwrap();
    assert!(open().await.1.is_none(), "another file of the same length is in its place");
}

#[tokio::test]
async fn what_a_part_is_said_to_have_it_has_also_after_a_way_back() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let served = world.transfers("server").serve(whole(MIB), to(&["site-1"])).await.unwrap();
    let signed = served.reference();
    let open = async || {
        let mut work = Work::new(Sink::file(&into));
        work.hash_with(Digester::marking_every(1000));
        work.push(Op::Open(Box::new((*signed).clone())));
        let Event::Opened(found) = work.next().await else { panic!("it was not opened") };
        (work, found.map_or(0, |found| found.durable))
    };
    let (mut work, _) = open().await;
    work.push(Op::Write(vec![whole(3000)]));
    work.push(Op::Sync { to: 2000 });
    while !matches!(work.next().await, Event::Synced(2000)) {}
    work.push(Op::Write(vec![whole(1000)]));
    work.push(Op::Rewind { to: 2000 });
    work.finish().await;
    drop(work);
    let (mut work, durable) = open().await;
    assert_eq!(durable, 2000);
    // One that was noted since is not there any more.
    work.push(Op::Rebuild { from: 0, to: 2000 });
    work.push(Op::Rewind { to: 1000 });
    work.finish().await;
    drop(work);
    let (mut work, durable) = open().await;
    assert_eq!(durable, 1000);
    // Where no other state can be written, none is left of what was.
    let state = names_in(directory.path()).into_iter().find(|name| name.ends_with("state"));
    let barrier = directory.path().join(state.expect("a state") + "~");
    fs::create_dir(&barrier).unwrap();
    work.push(Op::Rewind { to: 0 });
    work.push(Op::Probe { bytes: 1 });
    assert!(matches!(work.next().await, Event::Probed), "it has gone back");
    drop(work);
    fs::remove_dir(&barrier).unwrap();
    assert!(names_in(directory.path()).iter().all(|name| !name.ends_with("state")));
    assert_eq!(open().await.1, 0);
}
