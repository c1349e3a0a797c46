//! A receiver and its holder's ledger against a content, a sink and a line that does everything a line
//! may do: cut anywhere, fall silent, say things twice or late; while the process dies, the disk is
//! full or damaged, and the source changes.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::{reference::tests::reference, *};
use crate::{codec::body::Blob, name::Fqcn, status::Status, testing::at_ms};

const SYNC: u64 = 16;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The line brings so many bytes.
    Deliver(usize),
    /// It breaks.
    Lose,
    /// It brings nothing for long.
    Silence,
    /// The sink has made durable what it was first asked to.
    Sync,
    /// The process dies and starts again; a byte of the part is damaged where this says so.
    Crash(bool),
    /// The source has another content of this length.
    Change(usize),
    /// The disk is full.
    Full,
    /// What was said last is said again.
    Repeat,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => (1usize..60).prop_map(Event::Deliver),
        3 => Just(Event::Lose),
        1 => Just(Event::Silence),
        6 => Just(Event::Sync),
        1 => prop::bool::weighted(0.2).prop_map(Event::Crash),
        1 => (0usize..300).prop_map(Event::Change),
        1 => Just(Event::Full),
        2 => Just(Event::Repeat),
    ];
    prop::collection::vec(event, 0..120)
}

struct World {
    ms: u64,
    pull: Pull,
    ledger: Ledger,
    says_digest: bool,
    content: Vec<u8>,
    chunk: usize,
    /// What the holder has sent and the line has not brought yet.
    line: Option<Bytes>,
    answer: Option<Answer>,
    sink: Vec<u8>,
    /// What the file beside the part says: of which content, and how much of it is durable.
    noted: (Arc<Reference>, u64),
    syncing: Vec<u64>,
    /// What has been put in its place.
    stored: Option<(Vec<u8>, Arc<Reference>)>,
    settled: u32,
    nonce: u8,
    /// How many bytes a fetch may ask for again.
    may_ask_again: u64,
    damaged: bool,
}

fn content(generation: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u64).wrapping_mul(31).wrapping_add(generation) as u8).collect()
}

fn describe(generation: u64, content: &[u8], says_digest: bool, says_size: bool) -> Arc<Reference> {
    let mut reference = reference();
    reference.parts.clear();
    reference.generation = generation;
    reference.size = says_size.then_some(content.len() as u64);
    reference.size_max = 1000;
    reference.digest = says_digest.then(|| Digest::of(content));
    Arc::new(reference)
}

fn settings() -> PullSettings {
    let patience = std::time::Duration::from_secs(1 << 30);
    PullSettings { sync_every: SYNC, patience, restarts_max: 1000, ..PullSettings::default() }
}

impl World {
    fn new(len: usize, chunk: usize, says_digest: bool, says_size: bool) -> Self {
        let content = content(1, len);
        let reference = describe(1, &content, says_digest, says_size);
        let terms =
            Terms { project: "study".into(), expected: None, quorum: Some(1), signed: true };
        let mut ledger = Ledger::new(at_ms(0), Arc::clone(&reference), terms).unwrap();
        ledger.set_source(content.len() as u64, Digest::of(&content));
        Self {
            ms: 0,
            pull: Pull::new(at_ms(0), Arc::clone(&reference), settings()),
            ledger,
            says_digest,
            content,
            chunk,
            line: None,
            answer: None,
            sink: Vec::new(),
            noted: (reference, 0),
            syncing: Vec::new(),
            stored: None,
            settled: 0,
            nonce: 0,
            may_ask_again: 0,
            damaged: false,
        }
    }

    fn now(&self) -> Instant {
        at_ms(self.ms)
    }

    fn me() -> Fqcn {
        "site-1".parse().unwrap()
    }

    /// Does what the pull asks for until it waits for something that is not time.
    fn run(&mut self) -> Option<PullEnd> {
        loop {
            self.nonce = self.nonce.wrapping_add(1).max(1);
            let nonce = [self.nonce; 16];
            match self.pull.poll(self.now(), || nonce) {
                Step::Rebuild { to } => {
                    let part = self.sink[..to as usize].to_vec();
                    part.chunks(7).for_each(|piece| self.pull.rebuild(at_ms(self.ms), piece));
                }
                Step::Open(fetch) => self.open(&fetch),
                Step::Close => (self.line, self.answer) = (None, None),
                Step::Rewind { to } => {
                    assert!(to == 0 || to == self.noted.1, "back to what nobody noted");
                    self.sink.truncate(to as usize);
                    self.syncing.clear();
                    self.noted = (Arc::clone(self.pull.reference()), to);
                    self.may_ask_again = 0;
                }
                Step::Sync { to } => {
                    assert!(to <= self.sink.len() as u64 && to.is_multiple_of(SYNC));
                    self.syncing.push(to);
                }
                Step::Digest => panic!("nobody took the digester"),
                Step::Commit { size, digest } => {
                    assert!(self.stored.is_none(), "committed twice");
                    assert_eq!((size, digest), (self.sink.len() as u64, Digest::of(&self.sink)));
                    let reference = self.pull.reference();
                    assert_eq!(self.sink, content(reference.generation, self.sink.len()));
                    self.stored = Some((self.sink.clone(), Arc::clone(reference)));
                    self.pull.handle_committed(self.now());
                }
                Step::Confirm(mut receipt) => {
                    assert!(self.stored.is_some() || receipt.outcome().is_err());
                    receipt.signature = Some(Blob(vec![1]));
                    let said = self.ledger.handle_receipt(&Self::me(), &receipt, |_, s| s == [1]);
                    self.settled += u32::from(said == Ok(Receipted::Settled));
                    let settlement =
                        if said.is_ok() { Settlement::Settled } else { Settlement::Refused };
                    let line = self.line.take().expect("a receipt needs an open stream");
                    self.line = Some([&line[..], &[settlement.to_wire()]].concat().into());
                }
                Step::Wait { until } if self.line.is_none() && until.is_some() => {
                    let until = until.expect("there is a deadline");
                    let wait = until.saturating_duration_since(self.now());
                    self.ms += u64::try_from(wait.as_millis()).unwrap() + 1;
                }
                Step::Wait { .. } => return None,
                Step::Done(end) => return Some(end),
            }
        }
    }

    fn open(&mut self, fetch: &Fetch) {
        let me = Self::me();
        let receiver = Receiver { name: &me, job: None };
        let have = self.sink.len() as u64;
        assert!(fetch.offset <= have && have - fetch.offset <= self.may_ask_again, "{fetch:?}");
        self.may_ask_again = 0;
        match self.ledger.handle_fetch(self.now(), 0, receiver, fetch, true) {
            Ok(answer) => {
                let mut line = Vec::new();
                if answer.data {
                    for chunk in self.content[fetch.offset as usize..].chunks(self.chunk) {
                        line.extend_from_slice(&chunk_head(chunk.len()));
                        line.extend_from_slice(chunk);
                    }
                    let size = self.content.len() as u64;
                    let digest = Digest::of(&self.content);
                    line.extend_from_slice(&trailer_bytes(&Trailer {
                        size,
                        digest,
                        generation: answer.generation,
                    }));
                }
                self.line = Some(line.into());
                self.pull.handle_answer(self.now(), &answer).unwrap();
                self.answer = Some(answer);
            }
            Err(refusal) => {
                let reference = Arc::clone(self.ledger.reference());
                let status = refusal.status();
                assert_eq!(status, Status::SourceChanged);
                self.pull.handle_return(self.now(), status, Some(reference));
            }
        }
    }

    fn deliver(&mut self, bytes: usize) {
        let Some(mut line) = self.line.take() else { return };
        let mut input = line.split_to(line.len().min(bytes));
        while let Some(data) = self.pull.handle_bytes(self.now(), &mut input).unwrap() {
            self.sink.extend_from_slice(&data);
            assert_eq!(self.pull.position(), self.sink.len() as u64, "a byte was given out twice");
            assert!(self.pull.position() - self.pull.durable() <= 2 * SYNC);
        }
        self.line = Some([&input[..], &line[..]].concat().into());
    }

    fn sync(&mut self) {
        if !self.syncing.is_empty() {
            let to = self.syncing.remove(0);
            self.noted.1 = to;
            self.pull.handle_synced(self.now(), to);
        }
    }

    fn crash(&mut self, damage: bool) {
        (self.line, self.answer) = (None, None);
        let (reference, durable) = (Arc::clone(&self.noted.0), self.noted.1);
        if let Some((bytes, reference)) = &self.stored {
            let size = bytes.len() as u64;
            let digest = Digest::of(bytes);
            self.pull = Pull::stored(self.now(), Arc::clone(reference), settings(), size, digest);
            return;
        }
        self.may_ask_again = self.sink.len() as u64 - durable;
        assert!(self.may_ask_again <= 2 * SYNC, "a loss costs more than it may");
        if damage && durable > 0 && !self.damaged {
            self.sink[durable as usize / 2] ^= 1;
            self.damaged = true;
        }
        self.syncing.clear();
        self.pull = Pull::resume(self.now(), reference, settings(), durable);
        // The part is cut off where it is opened again.
        self.sink.truncate(durable as usize);
        self.may_ask_again = 0;
    }

    fn change(&mut self, len: usize) {
        let generation = self.ledger.reference().generation + 1;
        self.content = content(generation, len);
        let says_size = self.ledger.reference().size.is_some();
        let reference = describe(generation, &self.content, self.says_digest, says_size);
        self.ledger.change_source(self.now(), reference).unwrap();
        assert!(self.ledger.set_source(len as u64, Digest::of(&self.content)));
        // Whoever reads a source that changes ends the stream.
        self.line = None;
        self.pull.handle_lost();
    }

    fn apply(&mut self, event: Event) {
        self.ms += 1;
        match event {
            Event::Deliver(bytes) => self.deliver(bytes),
            Event::Lose => {
                (self.line, self.answer) = (None, None);
                self.pull.handle_lost();
            }
            Event::Silence => self.ms += 30_000,
            Event::Sync => self.sync(),
            Event::Crash(damage) => self.crash(damage),
            Event::Change(len) => self.change(len),
            Event::Full => {
                if self.stored.is_none() {
                    self.pull.handle_sink_failed(self.now(), Status::StorageFull);
                }
            }
            Event::Repeat => {
                if let Some(answer) = &self.answer {
                    self.pull.handle_answer(self.now(), answer).unwrap();
                }
                self.pull.handle_synced(self.now(), self.noted.1);
                self.pull.handle_committed(self.now());
                self.pull.handle_digest(self.now(), Digest::of(b"another"));
                self.pull.handle_return(self.now(), Status::Forbidden, None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn g_41_whatever_happens_the_right_bytes_are_committed_once_and_settled_once(
        len in 0usize..300,
        chunk in 1usize..80,
        says_digest: bool,
        says_size: bool,
        events in events(),
    ) {
        let mut world = World::new(len, chunk, says_digest, says_size);
        let mut before = world.pull.progress();
        let mut end = world.run();
        for event in events {
            if end.is_some() {
                break;
            }
            world.apply(event);
            end = world.run();
            let now = world.pull.progress();
            if matches!(event, Event::Crash(_)) {
                before = now;
            }
            let place = |p: Progress| (p.generation, p.bytes);
            prop_assert!(place(now) >= place(before), "progress goes back");
            before = now;
        }
        // From here on nothing goes wrong any more.
        for _ in 0..400 {
            if end.is_some() {
                break;
            }
            world.apply(Event::Deliver(50));
            world.apply(Event::Sync);
            end = world.run();
        }
        let (stored, reference) = world.stored.clone().expect("it is stored in the end");
        prop_assert_eq!(&stored, &content(reference.generation, stored.len()));
        let Some(PullEnd::Stored { size, told, .. }) = end else {
            return Err(TestCaseError::fail(format!("{end:?}")));
        };
        prop_assert_eq!(size, stored.len() as u64);
        let is_last = reference.generation == world.ledger.reference().generation;
        if is_last {
            prop_assert_eq!(told, Told::Settled);
            prop_assert_eq!(&stored, &world.content);
        }
        prop_assert!(world.settled <= 1 && (told != Told::Settled || world.settled == 1));
    }
}
