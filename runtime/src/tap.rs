//! Taps: who looks at what passes a cell's filter, as long as somebody does.
//!
//! Nobody looking costs one relaxed load for each message. A tap never holds a message up: what its owner
//! does not take in time is left out and counted.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use bytes::Bytes;
use cellbus_channels::Selector;
use cellbus_proto::{
    envelope::{Envelope, Header, Kind, Lane},
    name::Fqcn,
    status::Status,
    well_known::is_reserved,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock::WallClock;

/// Taps of one cell at a time.
const TAPS_MAX: usize = 16;
/// Messages that wait for the owner of a tap.
const WAITING_MAX: usize = 256;
/// Bytes of a payload that a tap shows at most.
pub const SHOWN_PAYLOAD_MAX: usize = 64 << 10;

/// The taps of a cell.
#[derive(Debug, Default)]
pub struct Taps(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    list: Mutex<Vec<Line>>,
}

/// What a tap is to show.
#[derive(Clone, Debug)]
pub struct TapWish {
    /// Of which channels and topics. [`Selector::All`] leaves out those of the system.
    pub of: Selector,
    /// One message in so many; from 1.
    pub sample: u32,
    /// Payloads too, as far as [`SHOWN_PAYLOAD_MAX`].
    pub payload: bool,
}

/// One message that was looked at.
#[derive(Clone, Debug)]
pub struct Tapped {
    /// When, in seconds since 1970.
    pub unix: u64,
    /// Why it was let in, or with which status it was not, or not passed on.
    pub verdict: Result<String, Status>,
    /// The neighbour that it came from; `None` for a message of this cell itself.
    pub from: Option<Fqcn>,
    /// What it was: publish, request, reply or return.
    pub kind: &'static str,
    /// The status of a return.
    pub status: Option<Status>,
    /// Who sent it; a claim, where it was not let in.
    pub origin: Fqcn,
    /// Its sequence number there.
    pub sequence: u64,
    /// Who it is for.
    pub destination: Fqcn,
    /// Where inside that cell.
    pub target: String,
    /// Its lane.
    pub lane: Lane,
    /// Milliseconds left of its budget.
    pub budget_ms: u32,
    /// Bytes of its payload.
    pub payload_len: usize,
    /// The payload, where that was wished for.
    pub payload: Option<Bytes>,
}

/// One tap, as long as it is kept.
#[derive(Debug)]
pub struct Tap {
    number: u64,
    shown: Receiver<Tapped>,
    missed: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

/// There are as many taps as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{TAPS_MAX} taps look at this cell already")]
pub struct TooManyTaps;

/// Between the filter and one tap.
#[derive(Debug)]
struct Line {
    number: u64,
    wish: TapWish,
    matched: u64,
    show: Sender<Tapped>,
    missed: Arc<AtomicU64>,
}

impl Taps {
    /// Whether anybody looks.
    pub(crate) fn any(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Looks from now on, until what is returned is dropped.
    ///
    /// # Errors
    /// [`TooManyTaps`].
    pub fn open(&self, wish: TapWish) -> Result<Tap, TooManyTaps> {
        let mut list = self.0.lock();
        if list.len() >= TAPS_MAX {
            return Err(TooManyTaps);
        }
        let number = list.iter().map(|line| line.number + 1).max().unwrap_or(0);
        let (show, shown) = channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        list.push(Line { number, wish, matched: 0, show, missed: Arc::clone(&missed) });
        self.0.count.store(list.len(), Ordering::Relaxed);
        Ok(Tap { number, shown, missed, shared: Arc::clone(&self.0) })
    }

    /// Shows a message to whoever wants to see it. `reason` says why it was let in.
    pub(crate) fn show(
        &self,
        wall: &WallClock,
        envelope: &Envelope,
        from: Option<&Fqcn>,
        verdict: Result<impl Fn() -> String, Status>,
    ) {
        let mut list = self.0.lock();
        for line in list.iter_mut().filter(|line| line.wish.covers(&envelope.header)) {
            let turn = line.matched;
            line.matched += 1;
            if !turn.is_multiple_of(u64::from(line.wish.sample.max(1))) {
                continue;
            }
            let verdict = verdict.as_ref().map(|reason| reason()).map_err(|status| *status);
            let tapped = Tapped::of(wall.unix(), envelope, from, verdict, line.wish.payload);
            if line.show.try_send(tapped).is_err() {
                line.missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tap {
    /// The next message; `None` never, while the cell lives.
    pub async fn next(&mut self) -> Option<Tapped> {
        self.shown.recv().await
    }

    /// Messages that were left out because they were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut list = self.shared.lock();
        list.retain(|line| line.number != self.number);
        self.shared.count.store(list.len(), Ordering::Relaxed);
    }
}

impl TapWish {
    fn covers(&self, header: &Header) -> bool {
        match &self.of {
            Selector::Exact(target) => *target == header.target,
            Selector::Channel(channel) => channel == header.target.channel(),
            Selector::All => !is_reserved(header.target.channel()),
        }
    }
}

impl Tapped {
    fn of(
        unix: u64,
        envelope: &Envelope,
        from: Option<&Fqcn>,
        verdict: Result<String, Status>,
        payload: bool,
    ) -> Self {
        let Envelope { header, payload: bytes } = envelope;
        let status = match header.kind {
            Kind::Return { status, .. } => Some(status),
            Kind::Publish | Kind::Request | Kind::Reply { .. } => None,
        };
        Self {
            unix,
            verdict,
            from: from.cloned(),
            kind: header.kind.as_str(),
            status,
            origin: header.origin.name.clone(),
            sequence: header.sequence,
            destination: header.destination.name.clone(),
            target: header.target.to_string(),
            lane: header.lane,
            budget_ms: header.budget_ms,
            payload_len: bytes.len(),
            payload: payload.then(|| bytes.slice(..bytes.len().min(SHOWN_PAYLOAD_MAX))),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::envelope::{Address, Common, Flags};

    use super::*;

    fn envelope(target: &str, sequence: u64) -> Envelope {
        let header = Header {
            kind: Kind::Request,
            sequence,
            common: Arc::new(Common {
                origin: Address::any("site-1".parse().unwrap()),
                destination: Address::any("server".parse().unwrap()),
                target: target.parse().unwrap(),
                token: None,
                lane: Lane::Interactive,
                flags: Flags::default(),
            }),
            budget_ms: 1000,
            hops_left: 16,
            extras: None,
        };
        Envelope { header, payload: Bytes::from_static(b"secret") }
    }

    fn show(taps: &Taps, envelope: &Envelope) {
        let verdict = Ok::<_, Status>(|| "rule 1".to_owned());
        taps.show(&WallClock::starting_at(7), envelope, None, verdict);
    }

    fn wish(of: Selector) -> TapWish {
        TapWish { of, sample: 1, payload: false }
    }

    #[test]
    fn a_tap_shows_headers_of_what_it_is_for_and_no_payload_unless_wished_for() {
        let taps = Taps::default();
        assert!(!taps.any());
        let mut exact = taps.open(wish(Selector::Exact("task/fetch".parse().unwrap()))).unwrap();
        let mut all = taps.open(TapWish { payload: true, ..wish(Selector::All) }).unwrap();
        let mut system = taps.open(wish(Selector::Channel("cell".parse().unwrap()))).unwrap();
        assert!(taps.any());
        for (sequence, target) in (1..).zip(["task/fetch", "task/other", "cell/ping"]) {
            show(&taps, &envelope(target, sequence));
        }
        let seen = exact.shown.try_recv().unwrap();
        assert_eq!((seen.sequence, seen.payload_len, seen.payload), (1, 6, None));
        assert_eq!(seen.verdict, Ok("rule 1".to_owned()));
        assert!(exact.shown.try_recv().is_err());
        assert_eq!(all.shown.try_recv().unwrap().payload.as_deref(), Some(&b"secret"[..]));
        assert_eq!(all.shown.try_recv().unwrap().sequence, 2);
        assert!(all.shown.try_recv().is_err(), "what is the system's own is to be asked for");
        assert_eq!(system.shown.try_recv().unwrap().sequence, 3);
    }

    #[test]
    fn what_nobody_takes_is_left_out_and_counted_and_one_in_n_is_one_in_n() {
        let taps = Taps::default();
        let mut tap = taps.open(TapWish { sample: 10, ..wish(Selector::All) }).unwrap();
        for sequence in 0..(WAITING_MAX as u64 + 3) * 10 {
            show(&taps, &envelope("task/fetch", sequence));
        }
        assert_eq!(tap.missed(), 3);
        assert_eq!(tap.shown.try_recv().unwrap().sequence, 0);
        assert_eq!(tap.shown.try_recv().unwrap().sequence, 10);
    }

    #[test]
    fn g_24_taps_are_few_and_one_that_is_dropped_makes_room_and_costs_nothing_more() {
        let taps = Taps::default();
        let mut open: Vec<Tap> =
            (0..TAPS_MAX).map(|_| taps.open(wish(Selector::All)).unwrap()).collect();
        assert_eq!(taps.open(wish(Selector::All)).unwrap_err(), TooManyTaps);
        open.clear();
        assert!(!taps.any());
        assert!(taps.open(wish(Selector::All)).is_ok());
    }
}
