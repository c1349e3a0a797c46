//! Job cells with job code, in one process.

use std::time::Duration;

use cellbus_channels::{Bus, Bytes, ChannelTopic, Fqcn, local};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::run_paused, sim::SimNet};
use cellbus_runtime::local_socket::{Ended, LaunchSecret, LocalSocket, Options};
use tokio::task::JoinHandle;

/// Two jobs: one at the server and two sites behind a relay, another at a site of its own.
pub const TREE: &str = "server -> relay -> site-1 -> job-1; relay -> site-2 -> job-1; \
                    server -> job-1; server -> site-3 -> job-2; server -> job-2";
pub const SERVER: &str = "server.job-1";
pub const SITE_1: &str = "relay.site-1.job-1";
pub const SITE_2: &str = "relay.site-2.job-1";
pub const OTHER_JOB: &str = "site-3.job-2";
pub const MIB: usize = 1 << 20;

/// Job code that is connected to its cell.
pub struct Job {
    pub bus: Bus,
    pub ended: JoinHandle<Ended>,
    _root: tempfile::TempDir,
}

/// Runs `test` over links in memory and over QUIC on a simulated network.
pub fn scenario<F: Future<Output = ()>>(test: impl Fn(Net) -> F) {
    for is_quic in [false, true] {
        let _log = LogGuard::start();
        run_paused(1, async |seed| match is_quic {
            false => test(Net::up(seed, TREE).await).await,
            true => test(Net::over_quic(SimNet::new(seed), TREE).await).await,
        });
    }
}

/// Starts job code of the job cell `cell`.
pub async fn job(net: &Net, cell: &str) -> Job {
    let root = tempfile::tempdir().unwrap();
    let socket = LocalSocket::bind(&root.path().join("job"), "s").unwrap();
    let launch = LaunchSecret::generate().unwrap();
    let (path, secret) = (socket.path().to_owned(), launch.secret().clone());
    let bus = net.cell(cell).running.bus();
    let ended = tokio::task::spawn_local(socket.serve(bus, launch, Options::default()));
    let bus = local::connect(&path, secret).await.unwrap();
    Job { bus, ended, _root: root }
}

pub fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

pub fn target(text: &str) -> ChannelTopic {
    text.parse().unwrap()
}

/// So many bytes, of which no two places look alike.
pub fn whole(len: usize) -> Bytes {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// What takes longer than five minutes of simulated time hangs.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(300), what).await.expect("it hangs")
}
