//! The fate of each packet on one path.

use std::{net::SocketAddr, time::Duration};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::{LinkSettings, Traffic};

/// One direction between two hosts.
#[derive(Debug)]
pub(super) struct Path {
    /// Settings of its own; without them, the network's.
    pub(super) settings: Option<LinkSettings>,
    pub(super) cut: bool,
    pub(super) traffic: Traffic,
    rng: ChaCha8Rng,
    /// Bytes of IP and UDP headers on every packet.
    headers: usize,
    /// When the last packet so far has entered the path.
    busy_until: Option<Instant>,
    /// When the last packet so far arrives.
    last_arrival: Option<Instant>,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Arrives {
        at: Instant,
        /// When it arrives once more.
        again: Option<Instant>,
        /// Which byte changes, and by which bits.
        change: Option<(usize, u8)>,
    },
}

/// What chance has to say about a packet: always as many values, whatever becomes of it.
struct Draws {
    loss: f64,
    corrupt: f64,
    place: f64,
    bits: u8,
    duplicate: f64,
    jitter: [f64; 2],
}

impl Draws {
    fn take(rng: &mut ChaCha8Rng) -> Self {
        Self {
            loss: rng.random(),
            corrupt: rng.random(),
            place: rng.random(),
            bits: rng.random_range(1..=u8::MAX),
            duplicate: rng.random(),
            jitter: rng.random(),
        }
    }

    /// A byte in the second half, where there is nothing but what authentication covers.
    fn change(&self, len: usize) -> Option<(usize, u8)> {
        let half = len / 2;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "packets are short"
        )]
        let offset = (self.place * (len - half) as f64) as usize;
        let place = half + offset;
        (place < len).then_some((place, self.bits))
    }
}

impl Path {
    pub(super) fn new(seed: u64, to: SocketAddr) -> Self {
        Self {
            settings: None,
            cut: false,
            traffic: Traffic::default(),
            rng: ChaCha8Rng::seed_from_u64(seed),
            headers: if to.is_ipv6() { 48 } else { 28 },
            busy_until: None,
            last_arrival: None,
        }
    }

    /// Decides what becomes of the next packet, of `len` bytes of UDP payload, sent `now`.
    pub(super) fn send(&mut self, now: Instant, len: usize, default: &LinkSettings) -> Fate {
        let draws = Draws::take(&mut self.rng);
        let settings = self.settings.clone().unwrap_or_else(|| default.clone());
        self.traffic.packets += 1;
        self.traffic.bytes += u64::try_from(len).unwrap_or(u64::MAX);
        let Some(entered) = self.enter(now, len, &settings).filter(|_| draws.loss >= settings.loss)
        else {
            self.traffic.dropped += 1;
            return Fate::Lost;
        };
        let change = if draws.corrupt < settings.corrupt { draws.change(len) } else { None };
        let [at, again] = draws.jitter.map(|jitter| {
            let arrival = entered + settings.delay + settings.jitter.mul_f64(jitter);
            if settings.reorder { arrival } else { self.after_the_last(arrival) }
        });
        let again = (draws.duplicate < settings.duplicate).then_some(again);
        self.last_arrival = self.last_arrival.max(Some(at)).max(again);
        self.traffic.corrupted += u64::from(change.is_some());
        self.traffic.duplicated += u64::from(again.is_some());
        Fate::Arrives { at, again, change }
    }

    fn after_the_last(&self, arrival: Instant) -> Instant {
        self.last_arrival.map_or(arrival, |last| last.max(arrival))
    }

    /// When the packet has entered the path; `None` for never.
    fn enter(&mut self, now: Instant, len: usize, settings: &LinkSettings) -> Option<Instant> {
        let len = len + self.headers;
        if self.cut {
            return None;
        }
        if len > settings.mtu {
            self.traffic.too_long += 1;
            return None;
        }
        let Some(rate) = settings.bits_per_second else { return Some(now) };
        let free = self.busy_until.map_or(now, |busy| busy.max(now));
        if free - now > time_to_send(settings.buffer, rate) {
            return None;
        }
        let entered = free + time_to_send(len, rate);
        self.busy_until = Some(entered);
        Some(entered)
    }
}

/// How long `bytes` take at a rate in bits per second. A rate of 0 counts as 1.
fn time_to_send(bytes: usize, rate: u64) -> Duration {
    let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
    let nanos = u128::from(bits) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
