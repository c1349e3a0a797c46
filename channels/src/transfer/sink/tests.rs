use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
    mpsc::Receiver,
};

use bytes::Bytes;
use cellbus_proto::transfer::{Digest, Digester};
use futures_util::FutureExt;

use super::{
    super::error::SinkError,
    Sink, Store, Syncing,
    work::{Event, Op, ROOM, Work},
};

/// A disk that is full beyond some bytes, until it is freed.
#[derive(Clone, Default)]
struct Disk {
    room: Arc<AtomicU64>,
    is_slow: Arc<AtomicBool>,
    /// Whether nothing can be cut off.
    is_stuck: Arc<AtomicBool>,
    /// What the next flush waits for.
    held: Arc<Mutex<Option<Receiver<()>>>>,
}

struct Full {
    disk: Disk,
    bytes: Vec<u8>,
}

impl Store for Full {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        let end = self.bytes.len() as u64 + bytes.len() as u64;
        if end > self.disk.room.load(Ordering::SeqCst) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(SinkError::io("write", "disk")(full));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, _to: u64) -> Option<Syncing> {
        let is_slow = self.disk.is_slow.load(Ordering::SeqCst);
        let held = self.disk.held.lock().unwrap().take();
        let wait = move || {
            if let Some(held) = held {
                held.recv().unwrap();
            }
            Ok(())
        };
        is_slow.then(|| Box::new(wait) as Syncing)
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        if self.disk.is_stuck.load(Ordering::SeqCst) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(SinkError::io("cut off", "disk")(full));
        }
        self.bytes.truncate(usize::try_from(to).unwrap());
        Ok(())
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn take(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.bytes).into())
    }

    fn describe(&self) -> String {
        "a disk".to_owned()
    }
}

fn work(disk: &Disk) -> Work {
    let mut work = Work::new(Sink::store(Full { disk: disk.clone(), bytes: Vec::new() }));
    work.hash_with(Digester::marking_every(100));
    work
}

#[tokio::test]
async fn after_a_failure_everything_is_skipped_up_to_the_way_back() {
    let disk = Disk::default();
    disk.room.store(250, Ordering::SeqCst);
    let mut work = work(&disk);
    let bytes = Bytes::from((0..200_u8).collect::<Vec<_>>());
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Sync { to: 200 });
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Sync { to: 600 });
    work.push(Op::Digest);
    assert!(matches!(work.next().await, Event::Synced(200)));
    assert!(
        matches!(work.next().await, Event::Failed(error) if error.status() == cellbus_proto::status::Status::StorageFull)
    );
    work.finish().await;
    disk.room.store(1000, Ordering::SeqCst);
    work.push(Op::Rewind { to: 200 });
    work.push(Op::Write(vec![bytes.slice(..50)]));
    work.push(Op::Digest);
    let expected = [&bytes[..], &bytes[..50]].concat();
    assert!(matches!(work.next().await, Event::Digest(digest) if digest == Digest::of(&expected)));
    assert_eq!(work.take().unwrap(), expected);
}

#[tokio::test]
async fn a_way_back_that_is_barred_is_said_whenever_it_is_needed_and_gone_once_it_is_free() {
    let disk = Disk::default();
    disk.room.store(250, Ordering::SeqCst);
    let mut work = work(&disk);
    let bytes = Bytes::from((0..200_u8).collect::<Vec<_>>());
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Sync { to: 200 });
    assert!(matches!(work.next().await, Event::Synced(200)));
    work.push(Op::Write(vec![bytes.clone()]));
    disk.is_stuck.store(true, Ordering::SeqCst);
    work.push(Op::Rewind { to: 200 });
    let is_full = |event: Event| matches!(event, Event::Failed(SinkError::Io { .. }));
    assert!(is_full(work.next().await), "it is full");
    assert!(is_full(work.next().await), "and cannot go back");
    work.push(Op::Write(vec![bytes.slice(..50)]));
    work.push(Op::Sync { to: 250 });
    assert!(is_full(work.next().await) && is_full(work.next().await), "both say so");
    disk.is_stuck.store(false, Ordering::SeqCst);
    work.push(Op::Write(vec![bytes.slice(..50)]));
    work.push(Op::Digest);
    let expected = [&bytes[..], &bytes[..50]].concat();
    assert!(matches!(work.next().await, Event::Digest(digest) if digest == Digest::of(&expected)));
    assert_eq!(work.take().unwrap(), expected);
}

#[tokio::test]
async fn marks_below_what_is_durable_are_forgotten_also_where_nothing_has_to_be_made_so() {
    let disk = Disk::default();
    disk.room.store(u64::MAX, Ordering::SeqCst);
    let mut work = work(&disk);
    work.push(Op::Write(vec![Bytes::from(vec![7; 250])]));
    work.push(Op::Sync { to: 200 });
    assert!(matches!(work.next().await, Event::Synced(200)));
    work.push(Op::Digest);
    assert!(matches!(work.next().await, Event::Digest(_)));
    work.push(Op::Rewind { to: 100 });
    assert!(matches!(work.next().await, Event::Failed(SinkError::NoWayBack)));
}

#[tokio::test]
async fn what_becomes_durable_after_the_way_back_was_decided_on_does_not_cut_it_off() {
    let disk = Disk::default();
    disk.room.store(250, Ordering::SeqCst);
    disk.is_slow.store(true, Ordering::SeqCst);
    let mut work = work(&disk);
    let bytes = Bytes::from((0..200_u8).collect::<Vec<_>>());
    work.push(Op::Write(vec![bytes.slice(..100)]));
    work.push(Op::Sync { to: 100 });
    assert!(matches!(work.next().await, Event::Synced(100)));
    let (release, held) = std::sync::mpsc::channel();
    *disk.held.lock().unwrap() = Some(held);
    work.push(Op::Write(vec![bytes.slice(100..)]));
    work.push(Op::Sync { to: 200 });
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Sync { to: 400 });
    let full = work.next().await;
    assert!(matches!(&full, Event::Failed(SinkError::Io { .. })), "{full:?}");
    // More was on its way, and is skipped.
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Rewind { to: 100 });
    work.push(Op::Write(vec![bytes.slice(..50)]));
    work.push(Op::Digest);
    release.send(()).unwrap();
    assert!(matches!(work.next().await, Event::Synced(200)));
    let expected = [&bytes[..100], &bytes[..50]].concat();
    let done = work.next().await;
    assert!(matches!(&done, Event::Digest(digest) if *digest == Digest::of(&expected)), "{done:?}");
    assert_eq!(work.take().unwrap(), expected);
}

#[tokio::test]
async fn what_waits_is_counted_until_it_is_written() {
    let disk = Disk::default();
    disk.room.store(u64::MAX, Ordering::SeqCst);
    disk.is_slow.store(true, Ordering::SeqCst);
    let mut work = work(&disk);
    for _ in 0..ROOM >> 20 {
        assert!(work.has_room());
        work.push(Op::Write(vec![Bytes::from(vec![7; 1 << 20])]));
    }
    assert!(!work.has_room());
    for to in [100, 200, 300] {
        work.push(Op::Sync { to });
    }
    let mut synced = Vec::new();
    while synced.last() != Some(&300) {
        match work.next().await {
            Event::Synced(to) => synced.push(to),
            Event::Probed => {}
            Event::Room => assert!(work.has_room()),
            other @ (Event::Opened(_)
            | Event::Rebuilt
            | Event::PartLost
            | Event::Digest(_)
            | Event::Committed
            | Event::Failed(_)) => panic!("{other:?}"),
        }
    }
    assert!(synced.is_sorted(), "{synced:?}");
    assert!(work.has_room());
    work.push(Op::Digest);
    let expected = Digest::of(&vec![7; ROOM]);
    assert!(matches!(work.next().await, Event::Digest(digest) if digest == expected));
}

#[tokio::test]
async fn a_writer_gets_everything_once_and_never_goes_back() {
    let (read, writer) = tokio::io::duplex(64);
    let mut work = Work::new(Sink::writer(writer, 1000));
    let reading = tokio::spawn(async move {
        let (mut read, mut all) = (read, Vec::new());
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await.unwrap();
        all
    });
    let bytes = Bytes::from((0..200_u8).collect::<Vec<_>>());
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Rewind { to: 200 });
    work.push(Op::Write(vec![bytes.clone()]));
    work.push(Op::Rewind { to: 200 });
    assert!(matches!(work.next().await, Event::Failed(SinkError::NoWayBack)));
    work.push(Op::Write(vec![Bytes::from(vec![0; 900])]));
    work.finish().await;
    drop(work);
    assert_eq!(reading.await.unwrap(), [&bytes[..], &bytes].concat());
}

#[tokio::test]
async fn a_writer_takes_no_more_than_its_cap() {
    let mut work = Work::new(Sink::writer(tokio::io::sink(), 100));
    work.push(Op::Write(vec![Bytes::from(vec![0; 100])]));
    work.push(Op::Write(vec![Bytes::from(vec![0; 1])]));
    assert!(matches!(work.next().await, Event::Failed(SinkError::TooLarge(100))));
}

/// Waits for a disk for ever, or panics.
struct Bad;

impl Store for Bad {
    fn write(&mut self, _bytes: &[u8]) -> Result<(), SinkError> {
        panic!("asked to panic");
    }

    fn rewind(&mut self, _to: u64) -> Result<(), SinkError> {
        Ok(())
    }

    fn commit(&mut self, _size: u64, _digest: Digest) -> Result<(), SinkError> {
        Ok(())
    }

    fn describe(&self) -> String {
        "bad".to_owned()
    }
}

#[tokio::test]
async fn a_sink_that_breaks_down_is_a_failure_like_another() {
    let mut work = Work::new(Sink::store(Bad));
    work.push(Op::Write(vec![Bytes::from_static(b"x")]));
    work.push(Op::Digest);
    assert!(matches!(work.next().await, Event::Failed(SinkError::BrokenOff)));
    work.push(Op::Discard);
    work.finish().await;
    assert!(work.has_room() && work.take().is_none());
}

#[test]
fn what_goes_to_memory_is_the_same_wherever_it_is_hashed() {
    let one_thread = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    one_thread.unwrap().block_on(goes_to_memory_wherever_it_is_hashed());
}

async fn goes_to_memory_wherever_it_is_hashed() {
    let whole: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for (others, is_kept) in [(false, false), (true, false), (false, true), (true, true)] {
        let sink = if is_kept { Sink::memory(whole.len() as u64) } else { Sink::discard() };
        let mut work = Work::beside(sink, others);
        let mut was_elsewhere = false;
        for burst in whole.chunks(600_000) {
            // As a link brings them.
            let pieces = burst.chunks(4040).map(Bytes::copy_from_slice).collect();
            // What goes to the other thread waits there for as long as it is looked for.
            let (free, busy) = std::sync::mpsc::channel::<()>();
            let _busy = tokio::task::spawn_blocking(move || busy.recv());
            work.push(Op::Write(pieces));
            while work.next().now_or_never().is_some() {}
            was_elsewhere |= work.is_elsewhere();
            drop(free);
            work.finish().await;
        }
        work.push(Op::Digest);
        let digest = loop {
            if let Event::Digest(digest) = work.next().await {
                break digest;
            }
        };
        assert_eq!(digest, Digest::of(&whole), "others: {others}, kept: {is_kept}");
        assert_eq!(was_elsewhere, others, "kept: {is_kept}");
        if is_kept {
            assert!(work.take().is_some_and(|bytes| bytes == whole));
        }
    }
}
