//! One receiver, memory to memory.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use cellbus_proto::status::Status;

use super::cells::{World, names, target, to, whole};
use crate::transfer::{
    End, FetchError, FetchOptions, ServeError, ServeOptions, Sink, SinkError, Source, Told, Unfit,
    Verdict,
};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn bytes_arrive_as_they_were_and_are_settled_once() {
    let world = World::new();
    for len in [0, 1, 100, MIB, 3 * MIB + 7, 20 * MIB] {
        for on_the_way in [false, true] {
            let options = to(&["site-1"]).content_type("application/octet-stream");
            let options = if on_the_way { options.digest_on_the_way() } else { options };
            let sent = whole(len);
            let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
            let reference = served.reference();
            assert_eq!(reference.reference.digest.is_some(), !on_the_way);
            let fetching = world.transfers("site-1").fetch(
                &reference,
                Sink::memory(32 << 20),
                FetchOptions::default(),
            );
            let begun = tokio::time::Instant::now();
            let fetched = fetching.await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(1), "something waited for a timer");
            assert_eq!((fetched.size, fetched.told), (len as u64, Told::Settled));
            assert!(fetched.into_bytes() == sent, "{len} bytes differ");
            let outcome = served.outcome().await;
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
            let stored = End::Stored { generation: 1, signed: true };
            assert_eq!(outcome.ends.values().collect::<Vec<_>>(), [&stored]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_arrives_with_its_parts() {
    let world = World::new();
    let part = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
    let inner = Source::object([part("a", 5), part("b", 2 * MIB)]);
    let source = Source::object([part("empty", 0), ("inner".to_owned(), inner), part("last", 3)]);
    let served = world.transfers("server").serve(source, to(&["site-1"])).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::memory(32 << 20),
        FetchOptions::default(),
    );
    let fetched = fetching.await.unwrap();
    let parts: Vec<(String, Bytes)> =
        fetched.parts().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let expected = [("empty", 0), ("inner/a", 5), ("inner/b", 2 * MIB), ("last", 3)];
    assert_eq!(parts, expected.map(|(name, len)| (name.to_owned(), whole(len))));
}

#[tokio::test(start_paused = true)]
async fn a_lost_conduit_is_gone_on_with_and_no_byte_comes_twice() {
    let world = World::new();
    let sent = whole(40 * MIB);
    let served = world.transfers("server").serve(sent.clone(), to(&["site-1"])).await.unwrap();
    let (read, writer) = tokio::io::duplex(MIB);
    let mut fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::writer(writer, u64::MAX),
        FetchOptions::default(),
    );
    let mut progress = fetching.progress();
    let reading = tokio::spawn(async move {
        let (mut read, mut all) = (read, Vec::new());
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await.unwrap();
        all
    });
    let mut cuts = 0;
    let mut last = (0, 0);
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetching => break fetched.unwrap(),
            now = progress.next() => {
                let Some(now) = now else { continue };
                assert!((now.sequence, now.bytes) >= last, "{now:?} after {last:?}");
                last = (now.sequence, now.bytes);
                if now.bytes > (cuts + 1) * 8 * MIB as u64 && cuts < 4 {
                    cuts += 1;
                    world.lose_all();
                }
            }
        }
    };
    assert_eq!((cuts, world.conduits()), (4, 5));
    assert_eq!(fetched.told, Told::Settled);
    assert!(reading.await.unwrap() == sent, "what was written differs");
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn c_14_a_reference_is_of_no_use_to_others_or_later_or_changed() {
    let world = World::new();
    let served = world.transfers("server").serve(whole(10), to(&["site-1"])).await.unwrap();
    let reference = served.reference();
    let fetch = |who: &str, reference: &_| {
        world.transfers(who).fetch(reference, Sink::memory(100), FetchOptions::default())
    };
    let refused = fetch("site-2", &reference).await.unwrap_err();
    assert!(matches!(refused, FetchError::Unfit(Unfit::NotForMe)), "{refused}");
    let mut changed = (*reference).clone();
    changed.reference.audience =
        crate::transfer::Audience::Receivers(names(&["site-2"]).into_iter().collect());
    let refused = fetch("site-2", &changed).await.unwrap_err();
    assert!(matches!(refused, FetchError::Unfit(Unfit::BadSignature)), "{refused}");
    assert_eq!(world.conduits(), 0, "nothing was asked for");

    world.later_ms.store(24 * 3_600_000, Ordering::SeqCst);
    let refused = fetch("site-1", &reference).await.unwrap_err();
    assert!(matches!(refused, FetchError::Unfit(Unfit::Expired)), "{refused}");
    let outcome = served.outcome().await;
    assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_and_the_holder_hears_why() {
    let world = World::new();
    for cap in [0, MIB as u64 - 1] {
        let served = world.transfers("server").serve(whole(MIB), to(&["site-1"])).await.unwrap();
        let fetching = world.transfers("site-1").fetch(
            &served.reference(),
            Sink::memory(cap),
            FetchOptions::default(),
        );
        let refused = fetching.await.unwrap_err();
        assert!(matches!(refused, FetchError::Sink(SinkError::TooLarge(_))), "{refused}");
    }
    // Of unknown size, it is seen when too much comes.
    let directory = tempfile::tempdir().unwrap();
    let source = Source::reader(std::io::Cursor::new(whole(MIB)), 2 * MIB as u64, directory.path());
    let served = world.transfers("server").serve(source, to(&["site-1"])).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::memory(100_000),
        FetchOptions::default(),
    );
    assert_eq!(fetching.await.unwrap_err().status(), Status::TooLarge);
    let outcome = served.outcome().await;
    assert_eq!(outcome.verdict, Verdict::Failed);
    assert_eq!(outcome.ends.values().collect::<Vec<_>>(), [&End::Failed(Status::TooLarge)]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_read_once_for_all_receivers() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let sent = whole(5 * MIB + 3);
    let source =
        Source::reader(std::io::Cursor::new(sent.clone()), 8 * MIB as u64, directory.path());
    let served = world.transfers("server").serve(source, to(&["site-1", "site-2"])).await.unwrap();
    assert_eq!(served.reference().reference.size, None);
    let fetches = ["site-1", "site-2"].map(|name| {
        let sink = Sink::memory(8 << 20);
        world.transfers(name).fetch(&served.reference(), sink, FetchOptions::default())
    });
    let [first, second] = fetches;
    let (first, second) = tokio::join!(first, second);
    assert!(first.unwrap().into_bytes() == sent && second.unwrap().into_bytes() == sent);
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the spool has no name");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_more_than_was_said_ends_the_transfer() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let source = Source::reader(std::io::Cursor::new(whole(MIB)), 1000, directory.path());
    let served = world.transfers("server").serve(source, to(&["site-1"])).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::memory(8 << 20),
        FetchOptions::default(),
    );
    assert_eq!(fetching.await.unwrap_err().status(), Status::TooLarge);
    assert_eq!(served.outcome().await.verdict, Verdict::Failed);
}

#[tokio::test(start_paused = true)]
async fn the_holder_gives_up_and_the_receiver_hears_it_within_two_seconds() {
    let world = World::new();
    let options = to(&["site-1"]).rate(MIB as u64);
    let served = world.transfers("server").serve(whole(60 * MIB), options).await.unwrap();
    let transfers = world.transfers("site-1");
    let reference = served.reference();
    let fetching = tokio::spawn(async move {
        transfers.fetch(&reference, Sink::memory(1 << 30), FetchOptions::default()).await
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!fetching.is_finished());
    let begun = tokio::time::Instant::now();
    let outcome = served.cancel();
    assert_eq!((outcome.verdict, outcome.stored), (Verdict::Failed, 0));
    let ended = fetching.await.unwrap().unwrap_err();
    assert_eq!(ended.status(), Status::TransferCancelled, "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_receiver_gives_up_and_the_holder_hears_it_within_two_seconds() {
    let world = World::new();
    let options = to(&["site-1"]).rate(MIB as u64);
    let served = world.transfers("server").serve(whole(60 * MIB), options).await.unwrap();
    let fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::memory(1 << 30),
        FetchOptions::default(),
    );
    let canceller = fetching.canceller();
    let fetching = tokio::spawn(fetching);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = tokio::time::Instant::now();
    canceller.cancel();
    let ended = fetching.await.unwrap().unwrap_err();
    assert_eq!(ended.status(), Status::TransferCancelled, "{ended}");
    let outcome = served.outcome().await;
    assert_eq!(
        outcome.ends.values().collect::<Vec<_>>(),
        [&End::Failed(Status::TransferCancelled)]
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_brings_nothing_is_given_up_on_after_the_patience_and_not_before() {
    let world = World::new();
    let served = world.transfers("server").serve(whole(MIB), to(&["site-1"])).await.unwrap();
    world.is_cut.store(true, Ordering::SeqCst);
    let begun = tokio::time::Instant::now();
    let options = FetchOptions::default().patience(Duration::from_secs(60));
    let fetching = world.transfers("site-1").fetch(&served.reference(), Sink::discard(), options);
    let ended = fetching.await.unwrap_err();
    assert_eq!(ended.status(), Status::TransferStalled, "{ended}");
    let took = begun.elapsed().as_secs();
    assert!((60..70).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_transfer_of_a_taken_id_is_not_served_and_one_that_has_ended_may_come_again() {
    let world = World::new();
    let transfers = world.transfers("server");
    let served = transfers.serve(whole(10), to(&["site-1"])).await.unwrap();
    let reference = served.reference();
    let again = || to(&["site-1"]).again(reference.reference.id, 1);
    let refused = transfers.serve(whole(10), again()).await.unwrap_err();
    assert!(matches!(refused, ServeError::Taken), "{refused}");
    drop(served);
    let fetch = || {
        let (sink, options) = (Sink::memory(10), FetchOptions::default());
        world.transfers("site-1").fetch(&reference, sink, options)
    };
    assert_eq!(fetch().await.unwrap_err().status(), Status::TransferCancelled);
    let _served = transfers.serve(whole(10), again()).await.unwrap();
    assert_eq!(fetch().await.unwrap().into_bytes(), whole(10));
}

#[tokio::test(start_paused = true)]
async fn no_more_bytes_go_out_in_a_second_than_are_allowed() {
    let world = World::new();
    for at_receiver in [false, true] {
        let (mut serve, mut fetch) = (to(&["site-1"]), FetchOptions::default());
        match at_receiver {
            true => fetch = fetch.rate(MIB as u64),
            false => serve = serve.rate(MIB as u64),
        }
        let served = world.transfers("server").serve(whole(10 * MIB), serve).await.unwrap();
        let begun = tokio::time::Instant::now();
        let fetching = world.transfers("site-1").fetch(&served.reference(), Sink::discard(), fetch);
        fetching.await.unwrap();
        let took = begun.elapsed().as_secs_f64();
        assert!((9.0..=10.5).contains(&took), "{took}, {at_receiver}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_expects_nobody_and_is_fetched_by_nobody_outside_it() {
    let world = World::new();
    let options = ServeOptions::for_job(target(), "job-7".parse().unwrap());
    let served = world.transfers("server").serve(whole(10), options).await.unwrap();
    let fetching = world.transfers("site-1.job-7").fetch(
        &served.reference(),
        Sink::memory(10),
        FetchOptions::default(),
    );
    // Its name says so, but its token does not.
    assert_eq!(fetching.await.unwrap_err().status(), Status::Forbidden);
    assert_eq!(served.cancel().verdict, Verdict::Failed);
}
