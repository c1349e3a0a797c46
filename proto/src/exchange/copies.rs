//! When a request that may be sent more than once is sent again, and which answer to one of its copies ends it.
//!
//! A refusal of one copy says nothing about another: only when every copy is accounted for, and none was lost
//! with its link, does a refusal mean that the work was certainly not done.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::status::{Class, Status};

/// How often a request is sent again while nothing is heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// From the first copy to the second; doubled after every copy. Never taken for less than
    /// [`RetryPolicy::LEAST`].
    pub first: Duration,
    /// The longest time between two copies.
    pub max: Duration,
}

impl RetryPolicy {
    /// The shortest time between two copies.
    pub const LEAST: Duration = Duration::from_millis(10);
}

impl Default for RetryPolicy {
    /// 250 ms, doubling to 2 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(250), max: Duration::from_secs(2) }
    }
}

/// The copies of one request.
#[derive(Clone, Debug)]
pub struct Copies {
    wait: Duration,
    max: Duration,
    due: Option<Instant>,
    /// Copies that nothing has been heard of.
    open: u32,
    /// A copy was lost with its link, and may have been executed.
    lost: bool,
    /// There is no way to the destination now.
    unrouted: bool,
    /// A copy was refused for good: none will be sent any more.
    refused: bool,
}

/// The detail of an `OVERLOADED` return that says when to come back.
#[must_use]
pub fn retry_after_detail(after: Duration) -> Bytes {
    Bytes::from(format!("{AFTER}{} ms", after.as_millis()))
}

/// When to come back, where the detail of a return says so; at most a minute.
#[must_use]
pub fn retry_after(detail: &[u8]) -> Option<Duration> {
    const MAX: Duration = Duration::from_secs(60);
    let text = std::str::from_utf8(detail.get(..detail.len().min(64))?).ok()?;
    let number = text.strip_prefix(AFTER)?.strip_suffix(" ms")?;
    Some(Duration::from_millis(number.parse().ok()?).min(MAX))
}

const AFTER: &str = "retry after ";

/// What an answer to one copy means for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Wait,
    /// It ends with this answer.
    End,
    /// It ends, but not with this refusal: a copy was lost before and may have been executed.
    EndLost,
}

impl Copies {
    /// No copy yet; the first is due at once.
    #[must_use]
    pub fn new(policy: RetryPolicy) -> Self {
        let wait = policy.first.max(RetryPolicy::LEAST);
        Self {
            wait,
            max: policy.max.max(wait),
            due: None,
            open: 0,
            lost: false,
            unrouted: false,
            refused: false,
        }
    }

    /// When the next copy is to be sent, if nothing is heard before.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether no copy can have been executed, as far as is known.
    #[must_use]
    pub fn certainly_not_run(&self) -> bool {
        self.open == 0 && !self.lost
    }

    /// A copy has left.
    pub fn sent(&mut self, now: Instant) {
        self.open += 1;
        self.unrouted = false;
        self.schedule(now, Duration::ZERO);
    }

    /// Something that has to come before the next copy has been sent: it is tried again as a copy is.
    pub fn prepared(&mut self, now: Instant) {
        self.schedule(now, Duration::ZERO);
    }

    /// There was no way by which a copy could leave.
    pub fn not_sent(&mut self, now: Instant) {
        self.unrouted = true;
        self.schedule(now, Duration::ZERO);
    }

    /// The cell's links have changed: a copy that found no way is due now.
    pub fn links_changed(&mut self, now: Instant) {
        if self.unrouted && !self.refused {
            self.due = Some(now);
        }
    }

    /// The destination has been started again since the copy was addressed. `true` where no copy can have
    /// reached the former start, so that the next may be for the new one.
    pub fn restarted(&mut self) -> bool {
        self.open = self.open.saturating_sub(1);
        self.certainly_not_run()
    }

    /// A return to one of the copies. `is_cut_off` says that the cell that sends has itself no link by
    /// which the destination could be reached; `after` is the time that whoever refused asks for.
    pub fn returned(
        &mut self,
        now: Instant,
        status: Status,
        is_cut_off: bool,
        after: Option<Duration>,
    ) -> Verdict {
        self.open = self.open.saturating_sub(1);
        match (status.class(), status) {
            (Class::Unknown, Status::PeerLost) => {
                self.lost = true;
                self.unless_over(Verdict::End)
            }
            (Class::Unknown | Class::Failed, _) => Verdict::End,
            (Class::Refused, Status::Overloaded | Status::RateLimit | Status::SlowConsumer) => {
                if !self.refused {
                    self.schedule(now, after.unwrap_or_default());
                }
                self.unless_over(self.end())
            }
            (Class::Refused, Status::NoRoute) if self.lost || is_cut_off => {
                self.unrouted = true;
                self.unless_over(self.end())
            }
            (Class::Refused, _) => {
                self.refused = true;
                self.due = None;
                self.unless_over(self.end())
            }
        }
    }

    fn end(&self) -> Verdict {
        if self.lost { Verdict::EndLost } else { Verdict::End }
    }

    fn unless_over(&self, end: Verdict) -> Verdict {
        let is_over = self.refused && (self.open == 0 || self.lost);
        if is_over { end } else { Verdict::Wait }
    }

    fn schedule(&mut self, now: Instant, at_least: Duration) {
        self.due = Some(now + self.wait.max(at_least));
        self.wait = (self.wait * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at;

    fn sent(copies: u32) -> Copies {
        let mut all = Copies::new(RetryPolicy::default());
        (0..copies).for_each(|_| all.sent(at(0)));
        all
    }

    #[test]
    fn copies_follow_each_other_after_a_time_that_doubles_to_a_limit() {
        let mut copies = Copies::new(RetryPolicy::default());
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..6 {
            copies.sent(now);
            let due = copies.due().unwrap();
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 2000, 2000]);
    }

    #[test]
    fn a_refusal_ends_the_request_at_once_when_no_other_copy_is_on_its_way() {
        assert_eq!(sent(1).returned(at(1), Status::TopicDenied, false, None), Verdict::End);
        let mut two = sent(2);
        assert_eq!(two.returned(at(1), Status::TopicDenied, false, None), Verdict::Wait);
        assert_eq!(two.due(), None, "no third copy is sent");
        assert_eq!(two.returned(at(1), Status::NoRoute, false, None), Verdict::End);
        assert!(two.certainly_not_run());
    }

    #[test]
    fn a_refusal_after_a_copy_was_lost_does_not_say_that_nothing_was_done() {
        let mut copies = sent(1);
        assert_eq!(copies.returned(at(1), Status::PeerLost, false, None), Verdict::Wait);
        copies.sent(at(1));
        assert_eq!(copies.returned(at(2), Status::NoHandler, false, None), Verdict::EndLost);
        assert!(!copies.certainly_not_run());
    }

    #[test]
    fn an_overloaded_cell_is_asked_again_not_before_it_says() {
        let mut copies = sent(1);
        let after = Some(Duration::from_secs(7));
        assert_eq!(copies.returned(at(1), Status::Overloaded, false, after), Verdict::Wait);
        assert_eq!(copies.due(), Some(at(8)));
    }

    #[test]
    fn the_time_to_come_back_is_read_as_it_was_written_or_not_at_all() {
        let after = Duration::from_millis(1500);
        assert_eq!(retry_after(&retry_after_detail(after)), Some(after));
        let huge = retry_after(b"retry after 99999999999 ms");
        assert_eq!(huge, Some(Duration::from_secs(60)));
        for other in
            [&b""[..], b"retry after  ms", b"retry after -1 ms", b"retry after 5 s", b"\xff"]
        {
            assert_eq!(retry_after(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_new_start_may_be_asked_only_when_no_copy_reached_the_former() {
        assert!(sent(1).restarted());
        assert!(!sent(2).restarted());
        let mut lost = sent(1);
        let _ = lost.returned(at(1), Status::PeerLost, false, None);
        lost.sent(at(1));
        assert!(!lost.restarted());
    }

    #[test]
    fn a_way_that_was_lost_is_waited_for_and_one_that_never_was_is_not() {
        assert_eq!(sent(1).returned(at(1), Status::NoRoute, false, None), Verdict::End);
        let mut cut_off = sent(1);
        assert_eq!(cut_off.returned(at(1), Status::NoRoute, true, None), Verdict::Wait);
        cut_off.links_changed(at(3));
        assert_eq!(cut_off.due(), Some(at(3)));
        let mut lost = sent(1);
        assert_eq!(lost.returned(at(1), Status::PeerLost, false, None), Verdict::Wait);
        lost.sent(at(1));
        assert_eq!(lost.returned(at(1), Status::NoRoute, false, None), Verdict::Wait);
    }

    #[test]
    fn what_the_handler_says_of_any_copy_is_the_end() {
        for status in [Status::HandlerFailed, Status::HandlerPanic, Status::Deadline] {
            assert_eq!(sent(3).returned(at(1), status, false, None), Verdict::End);
        }
    }

    proptest! {
        /// A request that ends as refused had no copy that can have run.
        #[test]
        fn g_03_refused_is_only_said_when_no_copy_can_have_run(
            events in prop::collection::vec((any::<bool>(), 0..Status::ALL.len(), any::<bool>()), 0..40)
        ) {
            let mut copies = sent(1);
            let mut lost = 0u32;
            let mut open = 1u32;
            for (send, status, is_cut_off) in events {
                if send {
                    if copies.due().is_some() {
                        copies.sent(at(1));
                        open += 1;
                    }
                    continue;
                }
                let status = Status::ALL[status];
                lost += u32::from(status == Status::PeerLost);
                if open == 0 {
                    break;
                }
                open -= 1;
                match copies.returned(at(1), status, is_cut_off, None) {
                    Verdict::End if status.class() == Class::Refused => {
                        prop_assert!(open == 0 && lost == 0);
                        break;
                    }
                    Verdict::End | Verdict::EndLost => break,
                    Verdict::Wait => prop_assert_eq!(copies.certainly_not_run(), open == 0 && lost == 0),
                }
            }
        }
    }
}
