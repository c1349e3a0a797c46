//! Who waits for whom, and for how long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cellbus_proto::{
    status::Status,
    transfer::{Digest, SignedReference, TransferId},
};
use tokio::{sync::Notify, time::timeout};

use super::cells::{World, target, to, whole};
use crate::transfer::{
    End, FetchError, FetchOptions, Offer, Sink, SinkError, Taken, Unfit, Verdict,
    sink::{Found, Store},
};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn expiry_ends_nothing_that_moves_and_keeps_out_whoever_comes_after_it() {
    let world = World::new();
    let options = to(&["site-1", "site-2"]).rate(MIB as u64).lifetime(Duration::from_secs(10));
    let options = options.patience(Duration::from_secs(60));
    let content = whole(600 * MIB / 10);
    let served = world.transfers("server").serve(content.clone(), options).await.unwrap();
    let reference = served.reference();
    let fetch = |who: &str| {
        world.transfers(who).fetch(&reference, Sink::memory(1 << 30), FetchOptions::default())
    };
    let fetching = tokio::spawn(fetch("site-1"));
    let outcome = tokio::spawn(async move { served.outcome().await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.later_ms.store(20_000, Ordering::SeqCst);
    world.lose_all();
    let late = fetch("site-2").await.unwrap_err();
    assert!(matches!(late, FetchError::Unfit(Unfit::Expired)), "{late}");
    assert!(fetching.await.unwrap().unwrap().bytes() == Some(&content));
    let outcome = outcome.await.unwrap();
    assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 1));
    let missed = &outcome.ends["site-2"];
    assert_eq!(*missed, End::Failed(Status::TransferExpired));
    assert_eq!(world.conduits(), 2, "one was lost");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_reads_its_source_for_long_before_it_serves_it_is_waited_for() {
    let world = World::new();
    let (transfers, id) = (world.transfers("server"), TransferId::from_bytes([3; 16]));
    let options = || to(&["site-1", "site-2"]).again(id, 1);
    let served = transfers.serve(whole(MIB), options()).await.unwrap();
    let reference = served.reference();
    drop(served);
    // As while it hashes a large file after it was started again.
    let shelf = transfers.bus.shelf().clone();
    let preparing = shelf.prepare(id, &target(), &reference.reference.audience);
    let fetch = |who: &str, patience_s| {
        let options = FetchOptions::default().patience(Duration::from_secs(patience_s));
        tokio::spawn(world.transfers(who).fetch(&reference, Sink::memory(1 << 30), options))
    };
    let (moving, begun) = (fetch("site-1", 300), tokio::time::Instant::now());
    for read in 0..20 {
        preparing.read.store(read << 30, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert!(!moving.is_finished(), "nothing of it has moved for {:?}", begun.elapsed());
    let still = fetch("site-2", 100);
    let stalled = still.await.unwrap().unwrap_err();
    assert_eq!(stalled.status(), Status::TransferStalled, "the holder does not come further");
    preparing.read.store(99 << 30, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!moving.is_finished());
    let served = transfers.serve(whole(MIB), options()).await.unwrap();
    drop(preparing);
    assert!(moving.await.unwrap().is_ok());
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_read_anew_for_long_is_waited_for_by_both_ends() {
    let world = World::new();
    let receive = |_offer: Offer| async { Ok(Taken::new(Sink::discard())) };
    let _receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    let options = to(&["site-1"]).patience(Duration::from_secs(60));
    let sending = world.transfers("server").send(whole(MIB), options).await.unwrap();
    let shelf = world.transfers("server").bus.shelf().clone();
    let books = shelf.served().pop().unwrap();
    let reading = books.opening.lock().await;
    let sending = tokio::spawn(sending);
    for read in 0..20 {
        books.read.store(read << 30, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(45)).await;
    }
    assert!(!sending.is_finished());
    drop(reading);
    assert_eq!(sending.await.unwrap().verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_comes_to_its_end_does_not_keep_an_expired_transfer_open() {
    let world = World::new();
    let options = to(&["site-1"]).lifetime(Duration::from_secs(10));
    let served = world.transfers("server").serve(whole(MIB), options).await.unwrap();
    let books = std::sync::Arc::clone(&served.books);
    // As on a disk that hangs.
    let _reading = books.opening.lock().await;
    let outcome = tokio::time::timeout(Duration::from_secs(3600), served.outcome()).await.unwrap();
    assert_eq!(outcome.ends.values().next(), Some(&End::Failed(Status::TransferExpired)));
}

#[tokio::test(start_paused = true)]
async fn whoever_moves_all_the_time_does_not_hide_that_another_does() {
    let world = World::new();
    let names = ["site-1", "site-2", "site-3"];
    let served = world.transfers("server").serve(whole(MIB), to(&names)).await.unwrap();
    let reference = served.reference();
    let mut progress = served.progress();
    for name in names {
        let sink = Sink::memory(MIB as u64);
        let fetching = world.transfers(name).fetch(&reference, sink, FetchOptions::default());
        fetching.await.unwrap();
    }
    // As if the first had moved again before every look.
    let mut given = Vec::new();
    while let Some((name, _)) = progress.next().await {
        given.push(name.to_string());
        progress.forget("site-1");
        if given.len() == 6 {
            break;
        }
    }
    assert_eq!(given, ["site-1", "site-2", "site-3", "site-1", "site-1", "site-1"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_does_not_wait_for_a_writer_that_takes_nothing() {
    let world = World::new();
    let served = world.transfers("server").serve(whole(9 * MIB), to(&["site-1"])).await.unwrap();
    // Nobody reads the other end.
    let (writer, _reader) = tokio::io::duplex(1000);
    let sink = Sink::writer(writer, 1 << 30);
    let fetching =
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default());
    let canceller = fetching.canceller();
    let fetching = tokio::spawn(fetching);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = tokio::time::Instant::now();
    canceller.cancel();
    let ended = fetching.await.unwrap().unwrap_err();
    assert_eq!(ended.status(), Status::TransferCancelled, "{ended}");
    let outcome = served.outcome().await;
    assert_eq!(outcome.ends.values().next(), Some(&End::Failed(Status::TransferCancelled)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// A disk on which one step hangs.
struct Hanging {
    at_opening: bool,
    free: std::sync::mpsc::Receiver<()>,
    came: Arc<Notify>,
    discarded: Arc<Notify>,
}

impl Hanging {
    fn hang(&self) {
        self.came.notify_one();
        let _ = self.free.recv();
    }
}

impl Store for Hanging {
    fn open(&mut self, _signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        if self.at_opening {
            self.hang();
        }
        Ok(None)
    }

    fn write(&mut self, _bytes: &[u8]) -> Result<(), SinkError> {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(SinkError::io("write", "disk")(full))
    }

    fn probe(&mut self, _bytes: u64) -> Result<(), SinkError> {
        self.hang();
        Ok(())
    }

    fn rewind(&mut self, _to: u64) -> Result<(), SinkError> {
        Ok(())
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn discard(&mut self) {
        self.discarded.notify_one();
    }

    fn describe(&self) -> String {
        "a disk that hangs".to_owned()
    }
}

// On real time: a paused clock stands for as long as a thread waits for a disk.
#[tokio::test]
async fn whoever_gives_up_does_not_wait_for_a_disk_that_hangs() {
    const LONG: Duration = Duration::from_secs(60);
    for at_opening in [true, false] {
        let world = World::new();
        let served = world.transfers("server").serve(whole(10), to(&["site-1"])).await.unwrap();
        let (hung, free) = std::sync::mpsc::channel();
        let (came, discarded) = <(Arc<Notify>, Arc<Notify>)>::default();
        let disk = Hanging { at_opening, free, came: came.clone(), discarded: discarded.clone() };
        let (transfers, options) = (world.transfers("site-1"), FetchOptions::default());
        let fetching = transfers.fetch(&served.reference(), Sink::store(disk), options);
        let canceller = fetching.canceller();
        let fetching = tokio::spawn(fetching);
        timeout(LONG, came.notified()).await.unwrap();
        canceller.cancel();
        let ended = timeout(LONG, fetching).await.unwrap().unwrap().unwrap_err();
        assert_eq!(ended.status(), Status::TransferCancelled, "{ended}");
        let outcome = timeout(LONG, served.outcome()).await.unwrap();
        let end = outcome.ends.values().next();
        assert_eq!(end, Some(&End::Failed(Status::TransferCancelled)), "{at_opening}");
        drop(hung);
        timeout(LONG, discarded.notified()).await.expect("what came is cleared");
    }
}
