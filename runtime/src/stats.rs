//! What a running cell has measured: how long things take and how large they are, in bounded memory.
//!
//! Recording is a few relaxed atomic additions, without a lock and without an allocation.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use cellbus_proto::{
    bundle,
    dead_letters::ChannelClass,
    envelope::{Envelope, Lane},
};
use serde::{Deserialize, Serialize};

use crate::clock;

mod histogram;
mod loop_delay;
mod starved;

use self::histogram::Gathered;

pub(crate) use self::loop_delay::{note_kept, watched};
pub use self::{
    histogram::{Histogram, HistogramReport},
    loop_delay::{LoopDelay, LoopReport},
};

/// One message in so many has its time in an outbox measured.
const QUEUE_SAMPLE: u32 = 64;

/// What the filter has let in and not yet counted: it gathers what one batch brings.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    messages: [[u64; 3]; 2],
    payload_bytes: Gathered,
}

/// Measurements of one cell.
#[derive(Debug, Default)]
pub struct Stats {
    request_us: Histogram,
    handler_us: Histogram,
    queue_us: Histogram,
    payload_bytes: Histogram,
    messages: [[AtomicU64; 3]; 2],
    turn: AtomicU32,
}

/// What [`Stats`] said at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Microseconds from a request of this cell to its end, whatever that was.
    pub request_us: HistogramReport,
    /// Microseconds from the start of a handler to its end.
    pub handler_us: HistogramReport,
    /// Microseconds from the arrival of a message to the moment it was written to its next link; of one
    /// message in 64.
    pub queue_us: HistogramReport,
    /// Bytes in the payloads of admitted messages.
    pub payload_bytes: HistogramReport,
    /// Admitted messages by lane and by whose channel it was.
    pub messages: Vec<MessageCount>,
}

/// Admitted messages of one sort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageCount {
    /// Priority class: `control`, `interactive` or `bulk`.
    pub lane: String,
    /// Whose channel: `system` or `application`.
    pub class: String,
    /// How many since the start.
    pub count: u64,
}

impl Stats {
    /// A message was let in; counted with [`Self::count`]. The publishes of a bundle count each, with the
    /// mean of their payloads.
    pub(crate) fn admitted(&self, class: ChannelClass, message: &Envelope, tally: &mut Tally) {
        let (header, len) = (&message.header, message.payload.len() as u64);
        let count = bundle::count(header, &message.payload);
        tally.messages[class as usize][header.lane as usize] += count;
        tally.payload_bytes.add_many(len / count, count, &self.payload_bytes);
    }

    /// Counts what the filter has let in since the last time, and says how much that is.
    pub(crate) fn count(&self, tally: &mut Tally) -> u64 {
        let mut all = 0;
        for (class, lanes) in tally.messages.iter_mut().enumerate() {
            for (lane, count) in lanes.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
                self.messages[class][lane].fetch_add(*count, Ordering::Relaxed);
                all += std::mem::take(count);
            }
        }
        self.payload_bytes.take(&mut tally.payload_bytes);
        all
    }

    /// A request of this cell that was made at `begun` has ended.
    pub(crate) fn asked(&self, begun: Instant) {
        self.request_us.record(micros(clock::now().saturating_duration_since(begun)));
    }

    /// A handler has ended, `span` after it was started.
    pub(crate) fn handled(&self, span: Duration) {
        self.handler_us.record(micros(span));
    }

    /// Handlers have ended that were run one after the other, `span` after the first was started.
    pub(crate) fn handled_many(&self, span: Duration, handlers: u32) {
        let each = micros(span.checked_div(handlers).unwrap_or_default());
        self.handler_us.record_many(each, handlers.into());
    }

    /// A message leaves that has been here for as long as `waited` says, which is asked of one in 64.
    pub(crate) fn left(&self, waited: impl FnOnce() -> Duration) {
        // Two writers may take the same turn; the sample is none the worse for it.
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        if turn.is_multiple_of(QUEUE_SAMPLE) {
            self.queue_us.record(micros(waited()));
        }
    }

    /// All of them.
    #[must_use]
    pub fn report(&self) -> StatsReport {
        let classes =
            [(ChannelClass::System, "system"), (ChannelClass::Application, "application")];
        let lanes =
            [(Lane::Control, "control"), (Lane::Interactive, "interactive"), (Lane::Bulk, "bulk")];
        let count = |class: ChannelClass, lane: Lane| {
            self.messages[class as usize][lane as usize].load(Ordering::Relaxed)
        };
        let messages = classes.into_iter().flat_map(|(class, class_name)| {
            lanes.map(|(lane, lane_name)| MessageCount {
                lane: lane_name.to_owned(),
                class: class_name.to_owned(),
                count: count(class, lane),
            })
        });
        StatsReport {
            request_us: self.request_us.report(),
            handler_us: self.handler_us.report(),
            queue_us: self.queue_us.report(),
            payload_bytes: self.payload_bytes.report(),
            messages: messages.collect(),
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cellbus_proto::envelope::{Address, Common, Flags, Header, Kind};

    use super::*;

    fn message(lane: Lane, flags: Flags, payload: Vec<u8>) -> Envelope {
        let common = Common {
            origin: Address::any("site-1".parse().unwrap()),
            destination: Address::any("server".parse().unwrap()),
            target: "notes/any".parse().unwrap(),
            token: None,
            lane,
            flags,
        };
        let header = Header {
            kind: Kind::Publish,
            sequence: 1,
            common: Arc::new(common),
            budget_ms: 1,
            hops_left: 0,
            extras: None,
        };
        Envelope { header, payload: payload.into() }
    }

    #[test]
    fn one_message_in_sixty_four_has_its_time_in_the_queue_measured_the_first_among_them() {
        let stats = Stats::default();
        let mut asked = 0;
        for _ in 0..=QUEUE_SAMPLE {
            stats.left(|| {
                asked += 1;
                Duration::from_micros(7)
            });
        }
        assert_eq!(asked, 2);
        let queue = stats.report().queue_us;
        assert_eq!((queue.count, queue.max), (2, 7));
    }

    #[test]
    fn messages_are_counted_by_lane_and_class_and_never_by_name() {
        let stats = Stats::default();
        let mut tally = Tally::default();
        let bundle = [&[0, 0, 0, 2][..], &[0; 98]].concat();
        let bulk = message(Lane::Bulk, Flags::default(), vec![0; 100]);
        stats.admitted(ChannelClass::Application, &bulk, &mut tally);
        let bulk = message(Lane::Bulk, Flags::default(), Vec::new());
        stats.admitted(ChannelClass::Application, &bulk, &mut tally);
        let two = message(Lane::Interactive, Flags::BATCH, bundle);
        stats.admitted(ChannelClass::Application, &two, &mut tally);
        let control = message(Lane::Control, Flags::default(), vec![0; 3]);
        stats.admitted(ChannelClass::System, &control, &mut tally);
        assert_eq!(stats.count(&mut tally), 5);
        assert_eq!(stats.count(&mut tally), 0, "nothing is counted twice");
        let report = stats.report();
        let counted: Vec<_> = report.messages.iter().filter(|row| row.count > 0).collect();
        assert_eq!(report.messages.len(), 6, "as many rows as there are sorts");
        assert_eq!((counted[0].class.as_str(), counted[0].lane.as_str()), ("system", "control"));
        assert_eq!((counted[1].lane.as_str(), counted[1].count), ("interactive", 2));
        assert_eq!((counted[2].lane.as_str(), counted[2].count), ("bulk", 2));
        assert_eq!((report.payload_bytes.count, report.payload_bytes.sum), (5, 205));
    }
}
