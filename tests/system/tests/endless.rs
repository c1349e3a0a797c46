//! A transfer of any size in memory that does not grow with it. In a binary of its own: the memory is that of the process.

use std::{fs, path::Path, time::Duration};

use cellbus_channels::{
    Fqcn,
    transfer::{FetchOptions, ServeOptions, Sink, Source, Told},
};
use cellbus_harness::{guard::LogGuard, memory::Peak, net::Net, seeds::run_paused};

const TREE: &str = "server -> relay -> site-1";
/// So many GB in place of 4, for who has the time.
const SIZE: &str = "CELLBUS_TEST_GB";
/// What three cells in one process may grow by: 8 MiB each.
const GROWTH_MAX: u64 = 24 << 20;

fn size() -> u64 {
    let gb = std::env::var(SIZE).ok().and_then(|gb| gb.parse::<u64>().ok());
    gb.unwrap_or(4) * 1_000_000_000
}

/// A file that has its size and takes no room.
fn sparse(path: &Path, size: u64) {
    fs::File::create(path).and_then(|file| file.set_len(size)).expect("a temporary file");
}

#[test]
fn memory_stays_flat_however_much_is_transferred_through_a_relay() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("sparse");
    let size = size();
    sparse(&file, size);
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let net = Net::up(seed, TREE).await;
        let transfers = |cell| net.cell(cell).running.bus().transfers();
        let receiver: Fqcn = "relay.site-1".parse().expect("a cell name");
        let target = "task/fetch".parse().expect("a channel and topic");
        // Read once, not twice: the holder makes the digest on the way, and the receiver its own.
        let options = ServeOptions::new(target, [receiver]).digest_on_the_way();
        let served = transfers("server").serve(Source::file(&file), options).await.unwrap();
        let peak = Peak::begin();
        let fetching = transfers("site-1").fetch(
            &served.reference(),
            Sink::discard(),
            FetchOptions::default(),
        );
        let fetched = fetching.await.unwrap();
        let growth = peak.growth();
        assert_eq!((fetched.size, fetched.told), (size, Told::Settled));
        assert_eq!(served.sent(), size, "nothing was sent twice");
        assert!(growth < GROWTH_MAX, "{} MiB for {size} bytes", growth >> 20);
        drop(served);
        net.advance(Duration::from_secs(1)).await;
        net.finish().await;
    });
}
