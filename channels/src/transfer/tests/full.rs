//! A sink that is full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use super::cells::{World, to, whole};
use crate::transfer::{
    Digest, End, FetchError, FetchOptions, Sink, SinkError, Told, Verdict, sink::Store,
};

const MIB: u64 = 1 << 20;

/// Has room for some bytes.
struct Disk {
    room: Arc<AtomicU64>,
    bytes: Vec<u8>,
    /// Bytes that were written and taken back.
    again: Arc<AtomicU64>,
}

impl Store for Disk {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        if (self.bytes.len() + bytes.len()) as u64 > self.room.load(Ordering::SeqCst) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(SinkError::io("write", "disk")(full));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.again.fetch_add(self.bytes.len() as u64 - to, Ordering::SeqCst);
        self.bytes.truncate(usize::try_from(to).unwrap());
        Ok(())
    }

    fn commit(&mut self, size: u64, _digest: Digest) -> Result<(), SinkError> {
        assert_eq!(self.bytes.len() as u64, size);
        Ok(())
    }

    fn take(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.bytes).into())
    }

    fn describe(&self) -> String {
        "a disk".to_owned()
    }
}

fn disk(mib: u64) -> (Sink, Arc<AtomicU64>, Arc<AtomicU64>) {
    let (room, again) = (Arc::new(AtomicU64::new(mib * MIB)), Arc::<AtomicU64>::default());
    let disk = Disk { room: Arc::clone(&room), bytes: Vec::new(), again: Arc::clone(&again) };
    (Sink::store(disk), room, again)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_full_at_nine_tenths_and_then_freed_gets_the_rest() {
    let world = World::new();
    let sent = whole(40 << 20);
    let served = world.transfers("server").serve(sent.clone(), to(&["site-1"])).await.unwrap();
    let (sink, room, again) = disk(36);
    let transfers = world.transfers("site-1");
    let reference = served.reference();
    let fetching = transfers.fetch(&reference, sink, FetchOptions::default());
    let progress = fetching.progress();
    let fetching = tokio::spawn(fetching);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!fetching.is_finished());
    assert!((30 * MIB..=40 * MIB).contains(&progress.latest().bytes), "{:?}", progress.latest());
    room.store(u64::MAX, Ordering::SeqCst);
    let fetched = fetching.await.unwrap().unwrap();
    assert_eq!(fetched.told, Told::Settled);
    assert!(fetched.into_bytes() == sent);
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
    assert!(again.load(Ordering::SeqCst) > 0, "it was never full");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_stays_full_fails_the_fetch_and_the_holder_hears_why() {
    let world = World::new();
    let served = world.transfers("server").serve(whole(10 << 20), to(&["site-1"])).await.unwrap();
    let (sink, _, _) = disk(9);
    let begun = tokio::time::Instant::now();
    let fetching =
        world.transfers("site-1").fetch(&served.reference(), sink, FetchOptions::default());
    let failed = fetching.await.unwrap_err();
    assert!(matches!(failed, FetchError::Failed(_) | FetchError::Sink(_)), "{failed:?}");
    assert!(begun.elapsed() >= Duration::from_secs(300), "{:?}", begun.elapsed());
    let outcome = served.cancel();
    assert_eq!(outcome.verdict, Verdict::Failed);
    let end = outcome.ends.values().next();
    assert!(matches!(end, Some(End::Failed(_) | End::Missing)), "{end:?}");
}
