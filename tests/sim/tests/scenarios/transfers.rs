//! A gigabyte, while links, relays, senders and receivers are lost at points that nobody chooses.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cellbus_channels::{
    Fqcn,
    transfer::{FetchOptions, Fetching, ServeOptions, Served, Sink, Source, Told, Verdict},
};
use cellbus_harness::{guard::LogGuard, net::Net, seeds::for_each_seed, sim::SimNet};
use cellbus_sim::figures::show;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use tokio::{
    io::AsyncWrite,
    task::{JoinHandle, spawn_local},
    time::Instant,
};

const TREE: &str = "server -> relay -> site-1";
const SITE: &str = "relay.site-1";
/// A gigabyte, as F-36 has it.
const SIZE: u64 = 1_000_000_000;
/// What may cross again after one loss.
const AGAIN_MAX: u64 = 16 << 20;
/// How long something is away.
const AWAY: Duration = Duration::from_secs(10);
/// Bytes of one part of the object.
const PART: usize = 1_000_000;
/// How far each part begins behind the one before in the same memory: no two look alike.
const STEP: usize = 997;

/// So many bytes that take the memory of two parts.
#[derive(Clone)]
struct Synthetic {
    memory: Bytes,
    size: u64,
}

impl Synthetic {
    fn new(size: u64) -> Self {
        let mut memory = vec![0; PART + STEP * (size / PART as u64 + 1) as usize];
        ChaCha8Rng::seed_from_u64(size).fill(&mut memory[..]);
        Self { memory: memory.into(), size }
    }

    /// The bytes from `offset` on to the end of its part.
    fn at(&self, offset: u64) -> Bytes {
        let (part, within) = ((offset / PART as u64) as usize, (offset % PART as u64) as usize);
        let end = PART.min((self.size - (part * PART) as u64) as usize);
        self.memory.slice(part * STEP + within..part * STEP + end)
    }

    fn source(&self) -> Source {
        let starts = (0..self.size).step_by(PART);
        Source::object(starts.map(|start| (start.to_string(), Source::bytes(self.at(start)))))
    }
}

/// Takes each byte once, in its place, and keeps none.
struct Once {
    expected: Synthetic,
    taken: Arc<AtomicU64>,
}

impl AsyncWrite for Once {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        given: &[u8],
    ) -> Poll<io::Result<usize>> {
        let offset = self.taken.load(Ordering::Relaxed);
        let expected = self.expected.at(offset);
        let len = given.len().min(expected.len());
        if given[..len] != expected[..len] {
            return Poll::Ready(Err(io::Error::other(format!("other bytes at {offset}"))));
        }
        self.taken.store(offset + len as u64, Ordering::Relaxed);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    LinkAbove,
    LinkBelow,
    Relay,
    Sender,
    Receiver,
}

/// One transfer from the server to the site, and what it has cost so far.
struct World {
    net: Net,
    content: Synthetic,
    into: Option<PathBuf>,
    taken: Arc<AtomicU64>,
    served: Served,
    /// Written by holders that are gone.
    sent_before: u64,
    running: JoinHandle<
        Result<cellbus_channels::transfer::Fetched, cellbus_channels::transfer::FetchError>,
    >,
    progress: cellbus_channels::transfer::FetchProgress,
}

fn options() -> ServeOptions {
    let target = "task/fetch".parse().expect("a channel and topic");
    ServeOptions::new(target, [SITE.parse::<Fqcn>().expect("a cell")])
}

impl World {
    /// Begins; into a file where a receiver will have to find it again, else into a writer that checks.
    async fn begin(net: Net, size: u64, into: Option<PathBuf>) -> Self {
        let content = Synthetic::new(size);
        let transfers = net.cell("server").running.bus().transfers();
        let served = transfers.serve(content.source(), options()).await.expect("it is served");
        let taken = Arc::new(AtomicU64::new(0));
        let sink = match &into {
            Some(path) => Sink::file(path),
            None => {
                Sink::writer(Once { expected: content.clone(), taken: Arc::clone(&taken) }, size)
            }
        };
        let site = net.cell(SITE).running.bus().transfers();
        let fetching = site.fetch(&served.reference(), sink, FetchOptions::default());
        let progress = fetching.progress();
        let running = spawn_local(fetching);
        Self { net, content, into, taken, served, sent_before: 0, running, progress }
    }

    fn watch(&mut self, fetching: Fetching) {
        self.progress = fetching.progress();
        self.running = spawn_local(fetching);
    }

    async fn reach(&mut self, bytes: u64) {
        while self.progress.latest().bytes < bytes {
            self.progress.next().await.expect("it is not over");
        }
    }

    async fn lose(&mut self, loss: Loss) {
        match loss {
            Loss::LinkAbove => self.darken("relay", "server").await,
            Loss::LinkBelow => self.darken(SITE, "relay").await,
            Loss::Relay => self.kill("relay").await,
            Loss::Sender => {
                let reference = self.served.reference();
                let (id, generation) = (reference.reference.id, reference.reference.generation);
                let digest = reference.reference.digest.expect("it was read for that");
                self.kill("server").await;
                let transfers = self.net.cell("server").running.bus().transfers();
                let again = options().again(id, generation).digest(digest);
                let again = transfers.serve(self.content.source(), again).await;
                let gone = std::mem::replace(&mut self.served, again.expect("it is served"));
                self.sent_before += gone.sent();
            }
            Loss::Receiver => {
                let into = self.into.clone().expect("only a file is found again");
                self.running.abort();
                self.kill(SITE).await;
                let transfers = self.net.cell(SITE).running.bus().transfers();
                let directory = into.parent().expect("a file in a directory");
                let found = transfers.parts_in(directory).await.expect("it can be listed");
                assert_eq!(found.len(), 1, "{found:?}");
                assert!(!into.exists(), "half of a file is no file");
                let reference = &found[0].reference;
                let fetching =
                    transfers.fetch(reference, Sink::file(&into), FetchOptions::default());
                self.watch(fetching);
            }
        }
    }

    async fn darken(&mut self, child: &str, parent: &str) {
        self.net.cut(child, parent);
        self.net.advance(AWAY).await;
        self.net.heal(child, parent);
    }

    async fn kill(&mut self, cell: &str) {
        self.net.crash(cell).await;
        self.net.advance(AWAY).await;
        self.net.restart(cell);
        self.net.wait_ready(Duration::from_secs(60)).await;
    }

    /// Waits for the end, and gives what crossed more than once.
    async fn end(self) -> u64 {
        let fetched = self.running.await.expect("it does not panic").expect("it arrives");
        assert_eq!((fetched.size, fetched.told), (self.content.size, Told::Settled));
        assert_eq!(Some(fetched.digest), self.served.reference().reference.digest);
        let outcome = self.served.outcome().await;
        assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
        match &self.into {
            None => assert_eq!(self.taken.load(Ordering::Relaxed), self.content.size),
            Some(path) => self.content.assert_is(path),
        }
        let again = self.sent_before + self.served.sent() - self.content.size;
        drop(self.served);
        self.net.advance(Duration::from_secs(1)).await;
        self.net.finish().await;
        again
    }
}

impl Synthetic {
    fn assert_is(&self, path: &std::path::Path) {
        use std::io::Read as _;
        let mut file = std::fs::File::open(path).expect("it is in its place");
        let mut read = vec![0; PART];
        for start in (0..self.size).step_by(PART) {
            let expected = self.at(start);
            file.read_exact(&mut read[..expected.len()]).expect("it is as long");
            assert!(read[..expected.len()] == expected, "other bytes behind {start}");
        }
    }
}

/// Loses everything in `losses` once, in any order and at any points, and gives what that has cost.
async fn disturbed(mut world: World, seed: u64, mut losses: Vec<Loss>) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    losses.shuffle(&mut rng);
    let size = world.content.size;
    let mut points: Vec<u64> =
        losses.iter().map(|_| rng.random_range(size / 20..size - size / 20)).collect();
    points.sort_unstable();
    let what: Vec<_> = losses.iter().zip(&points).collect();
    let what = format!("{what:?}");
    for (loss, point) in losses.iter().zip(&points) {
        world.reach(*point).await;
        world.lose(*loss).await;
    }
    let again = world.end().await;
    show("F-36", seed, format!("{again} bytes of {size} again, {what}"));
    assert!(again > 0, "nothing was lost: {what}");
    assert!(again <= AGAIN_MAX * losses.len() as u64, "{again} bytes were sent again: {what}");
    again
}

#[test]
fn f_36_a_gigabyte_arrives_once_whichever_link_relay_or_sender_is_lost() {
    let log = LogGuard::start();
    log.tolerate("link");
    for_each_seed(&[1], |seed| async move {
        let begin = async |size| {
            let net = Net::over_quic(SimNet::new(seed), TREE).await;
            World::begin(net, size, None).await
        };
        let begun = Instant::now();
        assert_eq!(
            begin(SIZE / 20).await.end().await,
            0,
            "nothing was lost, and nothing sent twice"
        );
        let undisturbed = 20 * begun.elapsed();
        let losses = vec![Loss::LinkAbove, Loss::LinkBelow, Loss::Relay, Loss::Sender];
        let slack = (AWAY + Duration::from_secs(10)) * u32::try_from(losses.len()).unwrap();
        let world = begin(SIZE).await;
        let begun = Instant::now();
        disturbed(world, seed, losses).await;
        let took = begun.elapsed();
        show("F-36 time", seed, format!("{took:?}, undisturbed {undisturbed:?}"));
        assert!(took < undisturbed + slack, "{took:?}, and undisturbed {undisturbed:?}");
    });
}

#[test]
fn f_36_a_gigabyte_in_a_file_is_gone_on_with_whoever_was_lost_its_receiver_too() {
    let log = LogGuard::start();
    log.tolerate("link");
    for_each_seed(&[1], |seed| async move {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let net = Net::up(seed, TREE).await;
        let world = World::begin(net, SIZE, Some(directory.path().join("model"))).await;
        let losses = vec![Loss::Receiver, Loss::Relay, Loss::Receiver, Loss::Sender];
        disturbed(world, seed, losses).await;
    });
}
