//! A conduit that is lost at every step.

use std::{
    fs,
    future::{Future, poll_fn},
    pin::pin,
};

use super::cells::{World, to, whole};
use crate::transfer::{FetchOptions, Sink, Told, Verdict};

const MIB: usize = 1 << 20;

/// Runs `future`, and does `cut` each time that it was polled so many times more.
async fn cutting<T>(future: impl Future<Output = T>, every: usize, cut: impl Fn()) -> T {
    let mut future = pin!(future);
    let (mut polls, mut cuts) = (0, 0);
    poll_fn(|cx| {
        polls += 1;
        // Ten losses are enough; a fetch that is cut for ever makes no progress for ever.
        if polls % every == 0 && cuts < 10 {
            cut();
            cuts += 1;
        }
        future.as_mut().poll(cx)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn wherever_it_is_lost_it_arrives_whole_and_counts_once() {
    let sent = whole(2 * MIB + 11);
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("into");
    let mut lost = 0;
    for every in 1..40 {
        for is_file in [false, true] {
            let world = World::new();
            let options = to(&["site-1"]);
            let options = if every % 2 == 0 { options.digest_on_the_way() } else { options };
            let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
            let sink = if is_file { Sink::file(&into) } else { Sink::memory(8 << 20) };
            let transfers = world.transfers("site-1");
            let fetching = transfers.fetch(&served.reference(), sink, FetchOptions::default());
            let fetched = cutting(fetching, every, || world.lose_all()).await;
            let fetched = fetched.unwrap();
            assert_eq!(fetched.told, Told::Settled, "every {every}");
            if is_file {
                assert!(fs::read(&into).unwrap() == sent, "every {every}");
            } else {
                assert!(fetched.into_bytes() == sent, "every {every}");
            }
            assert_eq!(served.outcome().await.verdict, Verdict::Completed);
            let counts = served.counts();
            assert_eq!(counts.receipts, 1, "every {every}: {counts:?}");
            lost += usize::from(counts.fetches > 1);
        }
    }
    assert!(lost > 20, "only {lost} were lost on the way");
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
