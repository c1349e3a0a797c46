//! Offers, many receivers, and what many offer.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cellbus_proto::{
    name::Fqcn,
    status::Status,
    transfer::{CONTENT_TYPE, OfferReply},
};

use super::cells::{World, names, target, to, whole};
use crate::transfer::{Combine, End, Hold, Offer, Sink, Taken, Verdict};

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn what_is_offered_again_while_it_is_fetched_is_not_asked_about_again() {
    let world = World::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let receive = move |_offer: Offer| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(Taken::new(Sink::discard())) }
    };
    let _receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    let options = to(&["site-1"]).rate(MIB as u64);
    let sending = world.transfers("server").send(whole(90 * MIB), options).await.unwrap();
    let payload = sending.reference().encode().unwrap();
    let sending = tokio::spawn(sending);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let again = world
        .bus("site-2")
        .request("site-1".parse().unwrap(), target())
        .payload(payload)
        .content_type(CONTENT_TYPE);
    again.send().await.unwrap();
    assert_eq!(sending.await.unwrap().verdict, Verdict::Completed);
    assert_eq!((asked.load(Ordering::SeqCst), world.conduits()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_is_not_the_holders_own_is_refused_before_anybody_is_asked() {
    let world = World::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let receive = move |_offer: Offer| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(Taken::new(Sink::discard())) }
    };
    let receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    let served = world.transfers("server").serve(whole(10), to(&["site-1"])).await.unwrap();
    let mut forged = (*served.reference()).clone();
    forged.reference.size_max += 1;
    forged.reference.size = Some(forged.reference.size_max);
    let ask = |payload: bytes::Bytes, content_type: &'static str| {
        let asked = world.bus("site-2").request("site-1".parse().unwrap(), target());
        async move { asked.payload(payload).content_type(content_type).send().await }
    };
    let good = served.reference().encode().unwrap();
    let refused = ask(forged.encode().unwrap(), CONTENT_TYPE).await.unwrap_err();
    assert_eq!(refused.status(), Status::BadSignature);
    let refused = ask(good.slice(1..), CONTENT_TYPE).await.unwrap_err();
    assert_eq!(refused.status(), Status::BadFrame);
    let refused = ask(good.clone(), "text/plain").await.unwrap_err();
    assert_eq!(refused.status(), Status::BadTarget);
    drop(receiving);
    let refused = ask(good, CONTENT_TYPE).await.unwrap_err();
    assert_eq!(refused.status(), Status::NoHandler);
    assert_eq!((asked.load(Ordering::SeqCst), world.conduits()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_comes_later_is_offered_it_again() {
    let world = World::new();
    let _there = world.bus("site-1");
    let sending = world.transfers("server").send(whole(10), to(&["site-1"])).await.unwrap();
    let sending = tokio::spawn(sending);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!sending.is_finished());
    let receive = |_offer: Offer| async { Ok(Taken::new(Sink::memory(10))) };
    let _receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    assert_eq!(sending.await.unwrap().verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_fails_its_receiver_and_no_other() {
    let world = World::new();
    let mut kept = Vec::new();
    for (name, cap) in [("site-1", 5), ("site-2", 10)] {
        let receive = move |_offer: Offer| async move { Ok(Taken::new(Sink::memory(cap))) };
        kept.push(world.transfers(name).receive(target(), 1, receive).await.unwrap());
    }
    let options = to(&["site-1", "site-2"]).quorum(1).patience(Duration::from_secs(120));
    let sending = world.transfers("server").send(whole(10), options).await.unwrap();
    let outcome = sending.await;
    assert_eq!((outcome.verdict, outcome.quorum_met, outcome.stored), (Verdict::Failed, true, 1));
    let end = |name: &str| outcome.ends[&name.parse::<Fqcn>().unwrap()];
    assert_eq!(end("site-1"), End::Failed(Status::TooLarge));
    assert_eq!(end("site-2"), End::Stored { generation: 1, signed: true });
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_turn_longer_than_patience_lasts_has_not_failed() {
    let world = World::new();
    let receive = |_offer: Offer| async { Ok(Taken::new(Sink::discard())) };
    let _receiving = world.transfers("server").receive(target(), 1, receive).await.unwrap();
    let begun = tokio::time::Instant::now();
    // Each takes longer than a holder waits for a receiver of which it hears nothing.
    let send = |name: &str| {
        let (transfers, options) = (world.transfers(name), to(&["server"]).rate(8 << 10));
        async move { transfers.send(whole(8 * MIB), options).await.unwrap().await }
    };
    let (first, second) = tokio::join!(send("site-1"), send("site-2"));
    assert_eq!((first.verdict, second.verdict), (Verdict::Completed, Verdict::Completed));
    assert!(begun.elapsed() > Duration::from_secs(800), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_is_given_up_within_two_seconds_and_takes_no_place() {
    let world = World::new();
    let receive = |_offer: Offer| async { Ok(Taken::new(Sink::discard())) };
    let server = world.transfers("server");
    let _receiving = server.receive(target(), 1, receive).await.unwrap();
    let send = |name: &str| {
        let (transfers, options) = (world.transfers(name), to(&["server"]).rate(MIB as u64));
        tokio::spawn(async move { transfers.send(whole(20 * MIB), options).await.unwrap().await })
    };
    let first = send("site-1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = send("site-2");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = tokio::time::Instant::now();
    let other = Some("site-2".parse().unwrap());
    let waits = server.running().into_iter().find(|fetch| fetch.other == other).unwrap();
    assert!(server.cancel(waits.id));
    let given_up = second.await.unwrap();
    let end = given_up.ends.values().next();
    assert_eq!(end, Some(&End::Failed(Status::TransferCancelled)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(first.await.unwrap().verdict, Verdict::Completed);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_is_made_again_after_expiry_ends_nothing_that_moves() {
    let world = World::new();
    let receive = |_offer: Offer| async { Ok(Taken::new(Sink::discard())) };
    let _receiving = world.transfers("site-1").receive(target(), 1, receive).await.unwrap();
    let options = to(&["site-1"]).rate(MIB as u64).lifetime(Duration::from_secs(10));
    let sending = world.transfers("server").send(whole(90 * MIB), options).await.unwrap();
    let payload = sending.reference().encode().unwrap();
    let sending = tokio::spawn(sending);
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.later_ms.store(20_000, Ordering::SeqCst);
    let offer = |from: &str| {
        let asked = world.bus(from).request("site-1".parse().unwrap(), target());
        asked.payload(payload.clone()).content_type(CONTENT_TYPE).send()
    };
    let told = OfferReply::decode(&offer("server").await.unwrap().payload).unwrap();
    assert!(told.bytes > 10 * MIB as u64 && !told.waits, "{told:?}");
    let others = offer("site-2").await.unwrap_err();
    assert_eq!(others.status(), Status::TransferExpired, "only its holder is told");
    assert_eq!(sending.await.unwrap().verdict, Verdict::Completed);
}

#[derive(Default)]
struct Concat {
    seen: Arc<Mutex<Vec<(Fqcn, usize)>>>,
    breaks_at: Option<Fqcn>,
    panics: bool,
}

impl Combine for Concat {
    fn check(
        &mut self,
        _from: &Fqcn,
        reference: &crate::transfer::Reference,
    ) -> Result<(), String> {
        assert!(!(self.panics && reference.size_max == 1), "asked to panic");
        let is_small = reference.size_max <= 4 * MIB as u64;
        is_small.then_some(()).ok_or_else(|| "too large to be added".to_owned())
    }

    fn part(&mut self, from: &Fqcn, _: &str, _: u64, bytes: &[u8]) -> Result<(), String> {
        assert!(!self.panics, "asked to panic");
        if self.breaks_at.as_ref() == Some(from) {
            return Err("not a number".to_owned());
        }
        self.seen.lock().unwrap().push((from.clone(), bytes.len()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_alone_and_may_be_offered_anew() {
    let world = World::new();
    let seen = Arc::<Mutex<Vec<_>>>::default();
    let combiner = Concat { seen: Arc::clone(&seen), ..Concat::default() };
    let hold = Hold::Memory(8 << 20);
    let from = names(&["site-1", "site-2"]);
    let server = world.transfers("server");
    let mut gathering = server.gather(from, target(), 1, hold, combiner).await.unwrap();
    let send = |name: &str, len| {
        let transfers = world.transfers(name);
        async move { transfers.send(whole(len), to(&["server"])).await.unwrap().await }
    };
    let refused = send("site-1", 5 * MIB).await;
    assert_eq!(refused.ends.values().next(), Some(&End::Failed(Status::HandlerFailed)));
    assert_eq!(send("site-1", 2 * MIB + 1).await.verdict, Verdict::Completed);
    // It has contributed.
    let refused = send("site-1", MIB).await;
    assert_eq!(refused.ends.values().next(), Some(&End::Failed(Status::Forbidden)));
    assert_eq!(send("site-2", 10).await.verdict, Verdict::Completed);
    for _ in 0..2 {
        assert!(gathering.next().await.unwrap().1.is_ok());
    }
    assert!(gathering.next().await.is_none());
    let pieces: Vec<usize> = seen.lock().unwrap().iter().map(|(_, len)| *len).collect();
    assert_eq!(pieces, [MIB, MIB, 1, 10]);
    assert!(gathering.finish().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_half_combined_ends_it_all_and_is_never_given_out() {
    let world = World::new();
    let combiner = Concat { breaks_at: Some("site-1".parse().unwrap()), ..Concat::default() };
    let hold = Hold::Memory(8 << 20);
    let from = names(&["site-1", "site-2"]);
    let server = world.transfers("server");
    let mut gathering = server.gather(from, target(), 2, hold, combiner).await.unwrap();
    let site = world.transfers("site-1");
    let outcome = site.send(whole(10), to(&["server"])).await.unwrap().await;
    assert_eq!(outcome.verdict, Verdict::Failed);
    while let Some((_, outcome)) = gathering.next().await {
        assert!(outcome.is_err());
    }
    assert_eq!(gathering.finish().err().as_deref(), Some("not a number"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_held_is_said_and_its_cell_may_offer_another() {
    let world = World::new();
    let hold = Hold::Memory(MIB as u64);
    let server = world.transfers("server");
    let gathering = server.gather(names(&["site-1"]), target(), 1, hold, Concat::default());
    let mut gathering = gathering.await.unwrap();
    let site = world.transfers("site-1");
    let refused = site.send(whole(MIB + 1), to(&["server"])).await.unwrap().await;
    assert_eq!(refused.ends.values().next(), Some(&End::Failed(Status::TooLarge)));
    let (_, outcome) = gathering.next().await.unwrap();
    assert_eq!(outcome.unwrap_err().status(), Status::TooLarge);
    let sent = site.send(whole(MIB), to(&["server"])).await.unwrap().await;
    assert_eq!(sent.verdict, Verdict::Completed);
    assert!(gathering.next().await.unwrap().1.is_ok());
    assert!(gathering.next().await.is_none() && gathering.finish().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_combiner_that_has_panicked_is_never_given_out() {
    let world = World::new();
    let combiner = Concat { panics: true, ..Concat::default() };
    let hold = Hold::Memory(MIB as u64);
    let server = world.transfers("server");
    let from = names(&["site-1", "site-2"]);
    let mut gathering = server.gather(from, target(), 2, hold, combiner).await.unwrap();
    for name in ["site-1", "site-2"] {
        let sending = world.transfers(name).send(whole(10), to(&["server"])).await.unwrap();
        assert_eq!(sending.await.verdict, Verdict::Failed);
    }
    while let Some((_, outcome)) = gathering.next().await {
        assert!(outcome.is_err());
    }
    assert!(gathering.finish().is_err());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_contributions_hears_that_a_combiner_has_panicked_over_an_offer() {
    let world = World::new();
    let combiner = Concat { panics: true, ..Concat::default() };
    let server = world.transfers("server");
    let hold = Hold::Memory(MIB as u64);
    let gathering = server.gather(names(&["site-1"]), target(), 1, hold, combiner);
    let mut gathering = gathering.await.unwrap();
    let sending = world.transfers("site-1").send(whole(1), to(&["server"])).await.unwrap();
    // These cells do not catch what a handler does.
    let sending = tokio::spawn(sending);
    assert!(gathering.next().await.is_none());
    assert!(sending.await.is_err());
    assert!(gathering.finish().is_err());
}

#[tokio::test(start_paused = true)]
async fn of_the_failures_of_one_cell_that_nobody_has_asked_for_the_last_is_kept() {
    let world = World::new();
    let server = world.transfers("server");
    let hold = Hold::Memory(10);
    let gathering = server.gather(names(&["site-1"]), target(), 1, hold, Concat::default());
    let mut gathering = gathering.await.unwrap();
    let site = world.transfers("site-1");
    for len in [11, 12, 13, 10] {
        let _ = site.send(whole(len), to(&["server"])).await.unwrap().await;
    }
    // Whoever sends hears of it before whoever gathers does.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gathering.next().await.unwrap().1.is_ok());
    assert!(gathering.next().await.is_none());
}
