//! Transfers whose bytes nobody on the way can read.

use std::{
    collections::VecDeque,
    fs,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use cellbus_proto::{
    envelope::Flags,
    status::Status,
    transfer::{
        Answer, Digest, Fetch, PieceId, SEALED_CONTENT_TYPE, SEALED_PIECE, SealedOffer, Sealer,
        Trailer, chunk_head, trailer_bytes,
    },
};

use super::cells::{World, names, target, to, whole};
use crate::{
    conduit::{Accepted, Broken, Conduit, ConduitHandler, ConduitRecv},
    handler::{Delivery, Failure, Reply},
    transfer::{
        Combine, ContentKey, End, FetchError, FetchOptions, Hold, KeyError, Offer, Reference, Sink,
        SinkError, Source, Taken, Told, Verdict,
    },
    transport::BoxFuture,
};

const MIB: usize = 1 << 20;

/// Sees what comes on a conduit, and may turn a bit of it.
struct Tapped {
    inner: Box<dyn ConduitRecv>,
    seen: Arc<Mutex<Vec<u8>>>,
    turn_at: Option<usize>,
}

impl ConduitRecv for Tapped {
    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<Bytes>,
    ) -> Poll<Result<bool, Broken>> {
        let before = into.len();
        let polled = self.inner.poll_chunks(cx, into);
        let mut seen = self.seen.lock().unwrap();
        for chunk in &mut into[before..] {
            let at = seen.len();
            seen.extend_from_slice(chunk);
            if let Some(turn) = self.turn_at.filter(|turn| (at..seen.len()).contains(turn)) {
                let mut turned = chunk.to_vec();
                turned[turn - at] ^= 1;
                *chunk = turned.into();
            }
        }
        polled
    }

    fn stop(&mut self) {
        self.inner.stop();
    }
}

/// Has somebody stand on the way, who turns a bit of what comes.
fn tap(world: &World, turn_at: Option<usize>) -> Arc<Mutex<Vec<u8>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ours = Arc::clone(&seen);
    *world.tap.lock().unwrap() = Some(Box::new(move |Conduit { send, recv }| {
        let seen = Arc::clone(&ours);
        Conduit { send, recv: Box::new(Tapped { inner: recv, seen, turn_at }) }
    }));
    seen
}

fn has(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn with(key: &ContentKey) -> FetchOptions {
    FetchOptions::default().key(key.clone())
}

#[tokio::test(start_paused = true)]
async fn what_is_sealed_arrives_as_it_was_and_nobody_on_the_way_has_read_it() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    for len in [0, 1, 100, SEALED_PIECE - 16, SEALED_PIECE, 3 * MIB + 7] {
        for from_reader in [false, true] {
            let seen = tap(&world, None);
            let sent = whole(len);
            let source = match from_reader {
                true => {
                    let reader = std::io::Cursor::new(sent.clone());
                    Source::reader(reader, 64 * MIB as u64, directory.path())
                }
                false => Source::bytes(sent.clone()),
            };
            let options = to(&["site-1"]).sealed();
            let served = world.transfers("server").serve(source, options).await.unwrap();
            let (reference, key) = (served.reference(), served.key().unwrap());
            assert_eq!(reference.reference.content_size(), (!from_reader).then_some(len as u64));
            let sink = Sink::memory(len as u64);
            let fetched = world.transfers("site-1").fetch(&reference, sink, with(&key)).await;
            let fetched = fetched.unwrap();
            assert_eq!((fetched.size, fetched.told), (len as u64, Told::Settled));
            assert!(fetched.into_bytes() == sent, "{len} bytes differ");
            let outcome = served.outcome().await;
            assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 1));
            let seen = seen.lock().unwrap();
            assert!(seen.len() > len && (len < 32 || !has(&seen, &sent[len / 2..len / 2 + 16])));
            assert!(!has(&seen, key.expose()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_sealed_part_by_part_and_its_parts_come_out() {
    let world = World::new();
    let part = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
    let lens = [("empty", 0), ("small", 5), ("large", 2 * MIB), ("piece", SEALED_PIECE - 16)];
    let source = Source::object(lens.map(|(name, len)| part(name, len)));
    let options = to(&["site-1"]).sealed();
    let served = world.transfers("server").serve(source, options).await.unwrap();
    let reference = served.reference();
    let parts: Vec<_> = reference.reference.parts.iter().map(|part| part.len as usize).collect();
    assert_eq!(parts, lens.map(|(_, len)| len), "lengths are those of the content");
    let fetching = world.transfers("site-1").fetch(
        &reference,
        Sink::memory(32 << 20),
        with(&served.key().unwrap()),
    );
    let fetched = fetching.await.unwrap();
    let parts: Vec<(String, Bytes)> =
        fetched.parts().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    assert!(parts == lens.map(|(name, len)| (name.to_owned(), whole(len))));
}

#[tokio::test(start_paused = true)]
async fn without_the_key_or_with_another_nothing_is_asked_for() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("into");
    let server = world.transfers("server");
    let sealed = server.serve(whole(100), to(&["site-1"]).sealed()).await.unwrap();
    let other = server.serve(whole(100), to(&["site-1"]).sealed()).await.unwrap();
    let plain = server.serve(whole(100), to(&["site-1"])).await.unwrap();
    assert_eq!(plain.key(), None);
    let (key, wrong) = (sealed.key().unwrap(), other.key().unwrap());
    assert_ne!(key, wrong);
    let cases = [
        (&sealed, FetchOptions::default(), KeyError::Missing, Status::SealKey),
        (&sealed, with(&wrong), KeyError::Wrong, Status::SealKey),
        (&plain, with(&key), KeyError::NotSealed, Status::NotSealed),
    ];
    for (served, options, expected, status) in cases {
        let sink = Sink::file(&into);
        let refused = world.transfers("site-1").fetch(&served.reference(), sink, options).await;
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, FetchError::Key(error) if *error == expected), "{refused}");
        assert_eq!(refused.status(), status);
    }
    assert_eq!(world.conduits(), 0, "nothing was asked for");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was written");

    // Nobody but the holder can say that it is sealed, or not.
    for (served, key) in [(&sealed, None), (&plain, Some(&key))] {
        let mut forged = (*served.reference()).clone();
        forged.reference.seal = match key {
            None => None,
            Some(_) => sealed.reference().reference.seal,
        };
        let options = key.map_or_else(FetchOptions::default, with);
        let refused = world.transfers("site-1").fetch(&forged, Sink::discard(), options).await;
        assert_eq!(refused.unwrap_err().status(), Status::BadSignature);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_was_turned_on_the_way_is_found_at_its_piece_and_nothing_is_committed() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("into");
    fs::write(&into, "before").unwrap();
    let second = SEALED_PIECE + 4;
    for on_the_way in [false, true] {
        for turn_at in [4, 4 + SEALED_PIECE - 1, second + 4 + 1000] {
            let _seen = tap(&world, Some(turn_at));
            let options = to(&["site-1"]).sealed();
            let options = if on_the_way { options.digest_on_the_way() } else { options };
            let served = world.transfers("server").serve(whole(3 * MIB), options).await.unwrap();
            let key = served.key().unwrap();
            let fetch =
                |sink: Sink| world.transfers("site-1").fetch(&served.reference(), sink, with(&key));
            let refused = fetch(Sink::file(&into)).await.unwrap_err();
            assert!(
                matches!(&refused, FetchError::Sink(SinkError::NotOpened(at)) if
                    at.piece == u64::from(turn_at > second)),
                "{refused:?}"
            );
            assert_eq!(refused.status(), Status::SealBroken);
            assert_eq!(fs::read(&into).unwrap(), b"before");
            let outcome = served.outcome().await;
            let failed = End::Failed(Status::SealBroken);
            assert_eq!(outcome.ends.values().collect::<Vec<_>>(), [&failed]);

            let (mut read, writer) = tokio::io::duplex(8 * MIB);
            let _seen = tap(&world, Some(turn_at));
            let refused = fetch(Sink::writer(writer, u64::MAX)).await.unwrap_err();
            assert_eq!(refused.status(), Status::SealBroken, "{refused:?}");
            let mut written = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut read, &mut written).await.unwrap();
            let before = if turn_at > second { SEALED_PIECE - 16 } else { 0 };
            assert!(written == whole(3 * MIB)[..before], "{} bytes", written.len());
        }
    }
}

/// Answers fetches as a cell on the way would that has changed bytes and trailer alike.
struct Changed {
    bytes: Bytes,
}

impl ConduitHandler for Changed {
    fn accept(&self, delivery: Delivery, _data: bool) -> BoxFuture<Result<Accepted, Failure>> {
        let bytes = self.bytes.clone();
        Box::pin(async move {
            let fetch = Fetch::decode(&delivery.payload).map_err(|error| error.status)?;
            let Fetch { id, generation, offset, digest, .. } = fetch;
            let size = bytes.len() as u64;
            let known = Some(size);
            let answer =
                Answer { id, generation, size: known, size_max: size, offset, data: true, digest };
            let reply = Reply::from(answer.encode());
            Ok(Accepted::new(reply, move |conduit| async move {
                let Conduit { mut send, mut recv } = conduit;
                let head = Bytes::copy_from_slice(&chunk_head(bytes.len()));
                let trailer = Trailer { size, digest: Digest::of(&bytes), generation };
                let mut all = VecDeque::from([head, bytes, trailer_bytes(&trailer)]);
                let _ = send.write(&mut all).await;
                let _ = recv.chunks(&mut Vec::new()).await;
            }))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_changes_bytes_and_digest_alike_is_found_out_where_it_is_sealed() {
    let sent = whole(1000);
    for is_sealed in [true, false] {
        let world = World::new();
        let options = to(&["site-1"]).digest_on_the_way();
        let options = if is_sealed { options.sealed() } else { options };
        let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
        let (reference, key) = (served.reference(), served.key());
        let mut bytes = sent.to_vec();
        if let Some(key) = &key {
            let Reference { holder, id, generation, .. } = &reference.reference;
            let place = PieceId { part: 0, piece: 0, is_last: true };
            bytes = Sealer::new(key, "study", holder, id, *generation).seal(place, bytes);
        }
        bytes[500] ^= 1;
        let changed = Changed { bytes: bytes.clone().into() };
        let server = world.bus("server");
        server.transport().serve_conduits(Arc::new(changed)).await.unwrap();
        let options = key.as_ref().map_or_else(FetchOptions::default, with);
        let fetching = world.transfers("site-1").fetch(&reference, Sink::memory(2000), options);
        let fetched = fetching.await;
        match is_sealed {
            true => assert_eq!(fetched.unwrap_err().status(), Status::SealBroken),
            // What vouches for it is the way that it came: that is what sealing is for.
            false => assert!(fetched.unwrap().into_bytes() == bytes),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_conduit_is_gone_on_with_and_a_writer_gets_no_byte_twice() {
    let world = World::new();
    let part = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
    let source = Source::object([part("a", 3 * MIB), part("b", 9), part("c", 10 * MIB)]);
    let sent = [whole(3 * MIB), whole(9), whole(10 * MIB)].concat();
    let served = world.transfers("server").serve(source, to(&["site-1"]).sealed()).await.unwrap();
    let (mut read, writer) = tokio::io::duplex(MIB);
    let mut fetching = world.transfers("site-1").fetch(
        &served.reference(),
        Sink::writer(writer, sent.len() as u64),
        with(&served.key().unwrap()),
    );
    let mut progress = fetching.progress();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut read, &mut all).await.unwrap();
        all
    });
    let mut cuts = 0;
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetching => break fetched.unwrap(),
            now = progress.next() => {
                let Some(now) = now else { continue };
                if now.bytes > (cuts + 1) * 3 * MIB as u64 && cuts < 4 {
                    cuts += 1;
                    world.lose_all();
                }
            }
        }
    };
    assert_eq!((cuts, world.conduits()), (4, 5));
    assert_eq!((fetched.size, fetched.told), (sent.len() as u64, Told::Settled));
    assert!(reading.await.unwrap() == sent, "what was written differs");
}

#[tokio::test(start_paused = true)]
async fn f_36_a_receiver_that_was_restarted_goes_on_with_the_content_that_it_has() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let part = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
    let object = || Source::object([part("a", 7 * MIB + 5), part("b", 0), part("c", 53 * MIB)]);
    let sent = [whole(7 * MIB + 5), whole(53 * MIB)].concat();
    let options = to(&["site-1"]).rate(10 * MIB as u64).sealed();
    let served = world.transfers("server").serve(object(), options).await.unwrap();
    let key = served.key().unwrap();
    let fetching =
        world.transfers("site-1").fetch(&served.reference(), Sink::file(&into), with(&key));
    let stopped = tokio::time::timeout(Duration::from_secs(4), fetching).await;
    assert!(stopped.is_err(), "it was too fast to be stopped");
    world.restart("site-1");

    let site = world.transfers("site-1");
    let found = site.parts_in(directory.path()).await.unwrap();
    assert_eq!((found.len(), found[0].is_whole), (1, false));
    assert!((15 * MIB as u64..=40 * MIB as u64).contains(&found[0].durable), "{found:?}");
    let refused = site.fetch(&found[0].reference, Sink::file(&into), FetchOptions::default());
    assert!(matches!(refused.await.unwrap_err(), FetchError::Key(KeyError::Missing)));
    let before = served.counts();
    let seen = tap(&world, None);
    let fetching = site.fetch(&found[0].reference, Sink::file(&into), with(&key));
    let fetched = fetching.await.unwrap();
    assert_eq!((fetched.size, fetched.told), (sent.len() as u64, Told::Settled));
    assert!(fs::read(&into).unwrap() == sent);
    let left = sent.len() as u64 - found[0].durable;
    assert!((seen.lock().unwrap().len() as u64) < left + MIB as u64, "{before:?}");
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[tokio::test(start_paused = true)]
async fn content_that_was_damaged_on_disk_is_noticed_and_fetched_again() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let into = directory.path().join("model");
    let sent = whole(30 * MIB);
    let options = to(&["site-1"]).rate(10 * MIB as u64).sealed();
    let served = world.transfers("server").serve(sent.clone(), options).await.unwrap();
    let key = served.key().unwrap();
    let fetch =
        || world.transfers("site-1").fetch(&served.reference(), Sink::file(&into), with(&key));
    assert!(tokio::time::timeout(Duration::from_secs(2), fetch()).await.is_err());
    let entries = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let part = entries.into_iter().find(|path| path.extension().unwrap() == "part").unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[17] ^= 1;
    fs::write(&part, bytes).unwrap();
    fetch().await.unwrap();
    assert!(fs::read(&into).unwrap() == sent);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_changes_is_sealed_anew_with_the_same_key_and_never_mixed() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let (from, into) = (directory.path().join("from"), directory.path().join("into"));
    fs::write(&from, whole(30 * MIB)).unwrap();
    let options = to(&["site-1"]).rate(10 * MIB as u64).sealed();
    let served = world.transfers("server").serve(Source::file(&from), options).await.unwrap();
    let (first, key) = (served.reference(), served.key().unwrap());
    let (transfers, reference) = (world.transfers("site-1"), Arc::clone(&first));
    let (sink, options) = (Sink::file(&into), with(&key));
    let fetching = tokio::spawn(async move { transfers.fetch(&reference, sink, options).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let other = whole(31 * MIB).slice(1..);
    fs::write(directory.path().join("new"), &other).unwrap();
    fs::rename(directory.path().join("new"), &from).unwrap();
    world.lose_all();
    let fetched = fetching.await.unwrap().unwrap();
    assert_eq!(fetched.size, other.len() as u64);
    assert!(fs::read(&into).unwrap() == other);
    let second = served.reference();
    assert!(second.reference.generation > first.reference.generation);
    assert_ne!(second.reference.seal, first.reference.seal, "every generation has its own");
    assert_eq!(served.key(), Some(key));
    assert_eq!(served.outcome().await.verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn f_36_a_holder_that_was_restarted_serves_the_rest_with_the_key_that_it_has_kept() {
    let (world, directory) = (World::new(), tempfile::tempdir().unwrap());
    let from = directory.path().join("from");
    let sent = whole(30 * MIB);
    fs::write(&from, &sent).unwrap();
    let options = to(&["site-1"]).rate(10 * MIB as u64);
    let server = world.transfers("server");
    let served = server.serve(Source::file(&from), options.clone().sealed()).await.unwrap();
    let (reference, key) = (served.reference(), served.key().unwrap());
    let (transfers, asked, fetch) = (world.transfers("site-1"), reference.clone(), with(&key));
    let fetching =
        tokio::spawn(async move { transfers.fetch(&asked, Sink::memory(1 << 30), fetch).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.restart("server");
    world.lose_all();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let options = options.again(reference.reference.id, 1).sealed_with(key);
    let again = world.transfers("server").serve(Source::file(&from), options).await.unwrap();
    assert_eq!(again.reference().reference.digest, reference.reference.digest);
    assert_eq!(again.reference().reference.seal, reference.reference.seal);
    assert!(fetching.await.unwrap().unwrap().into_bytes() == sent);
    drop(served);
}

#[tokio::test(start_paused = true)]
async fn the_key_travels_in_a_sealed_message_to_the_receivers_and_in_no_other() {
    let world = World::new();
    let got = Arc::new(Mutex::new(Vec::new()));
    let mut kept = Vec::new();
    for name in ["site-1", "site-2"] {
        let got = Arc::clone(&got);
        let receive = move |offer: Offer| {
            assert!(offer.key.is_some());
            let got = Arc::clone(&got);
            let then = |fetched: Result<crate::transfer::Fetched, _>| async move {
                got.lock().unwrap().push(fetched.unwrap().into_bytes());
            };
            async move { Ok(Taken::new(Sink::memory(3 << 20)).then(then)) }
        };
        kept.push(world.transfers(name).receive(target(), 1, receive).await.unwrap());
    }
    let seen = tap(&world, None);
    let sent = whole(3 * MIB);
    let options = to(&["site-1", "site-2"]).sealed();
    let sending = world.transfers("server").send(sent.clone(), options).await.unwrap();
    let key = sending.key().unwrap();
    let (outcome, served) = sending.keep().await;
    assert_eq!((outcome.verdict, outcome.stored), (Verdict::Completed, 2));
    while got.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(got.lock().unwrap().iter().all(|bytes| *bytes == sent));
    let requests = world.requests.lock().unwrap();
    assert_eq!(requests.len(), 2);
    for request in &*requests {
        assert!(request.flags.contains(Flags::SEALED));
        assert_eq!(request.content_type.as_deref(), Some(SEALED_CONTENT_TYPE));
        assert_eq!(SealedOffer::decode(&request.payload).unwrap().key, key);
    }
    assert!(!has(&served.reference().encode().unwrap(), key.expose()));
    let seen = seen.lock().unwrap();
    assert!(!has(&seen, key.expose()) && !has(&seen, &sent[MIB..MIB + 16]));
}

#[tokio::test(start_paused = true)]
async fn an_offer_with_a_wrong_key_or_none_is_refused_before_anything_is_fetched() {
    let world = World::new();
    let asked = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&asked);
    let receive = move |_offer: Offer| {
        *counted.lock().unwrap() += 1;
        async { Ok(Taken::new(Sink::discard())) }
    };
    let _receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    let server = world.transfers("server");
    let served = server.serve(whole(10), to(&["site-1"]).sealed()).await.unwrap();
    let reference = (*served.reference()).clone();
    let wrong = SealedOffer { reference: reference.clone(), key: ContentKey::from_bytes([1; 32]) };
    let offers = [
        (wrong.encode().unwrap(), SEALED_CONTENT_TYPE, Status::SealKey, 0),
        (reference.encode().unwrap(), crate::transfer::CONTENT_TYPE, Status::SealKey, 1),
        (reference.encode().unwrap(), SEALED_CONTENT_TYPE, Status::BadFrame, 1),
    ];
    for (payload, content_type, status, times) in offers {
        let offer = world.bus("site-2").request(names(&["site-1"])[0].clone(), target());
        let refused = offer.payload(payload).content_type(content_type).send().await.unwrap_err();
        assert_eq!((refused.status(), *asked.lock().unwrap()), (status, times));
    }
    assert_eq!(world.conduits(), 0);
}

#[derive(Default)]
struct Bytewise(Vec<(String, Vec<u8>)>);

impl Combine for Bytewise {
    fn part(
        &mut self,
        _: &cellbus_proto::name::Fqcn,
        name: &str,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), String> {
        if at == 0 {
            self.0.push((name.to_owned(), Vec::new()));
        }
        self.0.last_mut().ok_or("no part")?.1.extend_from_slice(bytes);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sealed_is_gathered_part_by_part() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    for hold in [Hold::Memory(4 << 20), Hold::Directory(directory.path().to_owned())] {
        let server = world.transfers("server");
        let sites = names(&["site-1"]);
        let gathering = server.gather(sites, target(), 1, hold, Bytewise::default()).await;
        let mut gathering = gathering.unwrap();
        let part = |name: &str, len| (name.to_owned(), Source::bytes(whole(len)));
        let object = Source::object([part("a", 2 * MIB + 1), part("b", 12)]);
        let sending = world.transfers("site-1").send(object, to(&["server"]).sealed()).await;
        let sending = tokio::spawn(sending.unwrap());
        let (_, came) = gathering.next().await.unwrap();
        assert_eq!(came.unwrap().size, 2 * MIB as u64 + 13);
        assert_eq!(sending.await.unwrap().verdict, Verdict::Completed);
        let parts = gathering.finish().unwrap().0;
        let expected = [("a", 2 * MIB + 1), ("b", 12)];
        let expected = expected.map(|(name, len)| (name.to_owned(), whole(len).to_vec()));
        assert!(parts == expected);
    }
}
