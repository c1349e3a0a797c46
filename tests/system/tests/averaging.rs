//! The mean of many models in the memory of one. In a binary of its own: the memory is that of the process.

use std::{fs, path::Path};

use cellbus_channels::{
    Fqcn,
    transfer::{Hold, Mean, Numbers, ServeOptions, Source, Verdict},
};
use cellbus_harness::{guard::LogGuard, memory::Peak, net::Net, seeds::run_paused};

const TREE: &str = "server -> site-1; server -> site-2; server -> relay; relay -> site-3; \
                    relay -> site-4; relay -> site-5; relay -> site-6; relay -> site-7; relay -> site-8";
/// Bytes of a model of binary32 numbers, whose mean takes twice as many while it is made.
const MODEL: u64 = 64 << 20;
/// Besides the mean: what moves, and what allocators keep.
const BESIDE: u64 = 96 << 20;

fn model(path: &Path) {
    let numbers = (0..MODEL / 4).flat_map(|at| (at as f32).to_le_bytes());
    fs::write(path, numbers.collect::<Vec<u8>>()).expect("a temporary file");
}

#[test]
fn the_mean_of_eight_models_takes_the_memory_of_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("model");
    model(&file);
    let _log = LogGuard::start();
    run_paused(1, async |seed| {
        let net = Net::up(seed, TREE).await;
        let transfers = |cell: &Fqcn| net.cell(cell.as_str()).running.bus().transfers();
        let server: Fqcn = "server".parse().expect("a cell name");
        let sites: Vec<Fqcn> = (1..=8)
            .map(|n| if n < 3 { format!("site-{n}") } else { format!("relay.site-{n}") })
            .map(|name| name.parse().expect("a cell name"))
            .collect();
        let target: cellbus_channels::ChannelTopic =
            "task/fetch".parse().expect("a channel and topic");
        let hold = Hold::Directory(directory.path().to_owned());
        let (mean, at_server) = (Mean::of(Numbers::F32), transfers(&server));
        let gathering = at_server.gather(sites.clone(), target.clone(), 3, hold, mean);
        let mut gathering = gathering.await.expect("nobody gathers here");
        let peak = Peak::begin();
        let mut sendings = Vec::new();
        for site in &sites {
            let options = ServeOptions::new(target.clone(), [server.clone()]);
            sendings.push(transfers(site).send(Source::file(&file), options).await.unwrap());
        }
        let sent = futures_util::future::join_all(sendings);
        let gathered = async {
            while let Some((_, outcome)) = gathering.next().await {
                outcome.expect("it is combined");
            }
        };
        let (outcomes, ()) = tokio::join!(sent, gathered);
        let growth = peak.growth();
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Completed));
        let mean = gathering.finish().unwrap();
        assert_eq!(mean.contributions(), 8);
        let most = 2 * MODEL + BESIDE;
        assert!(growth < most, "{} MiB, at most {}", growth >> 20, most >> 20);
        assert!(growth > 2 * MODEL, "it is measured: {} MiB", growth >> 20);
        net.finish().await;
    });
}
