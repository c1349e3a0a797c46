//! The life of one link, without the socket: what may come when, and how long silence may last.
//!
//! ```text
//!              HELLO           register         bye, drain
//!  Identified ───────▶ Challenged ───────▶ Active ─────────▶ Draining
//!      │                 │   ▲               │ challenge        │
//!      │                 │   └───────────────┘                  │
//!      └─────────────────┴───────── silence, wrong turn ────────┴──▶ Closed
//! ```

use std::time::{Duration, Instant};

use crate::status::Status;

mod lanes;

pub use self::lanes::{LaneMarks, LaneProbe, LaneVerdict};

/// Where a link is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The certificate is known, HELLO is not done.
    Identified,
    /// HELLO is done, the registration is not.
    Challenged,
    /// Registered; messages flow.
    Active,
    /// Messages still flow; nothing new begins.
    Draining,
    /// Over.
    Closed,
}

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that was dialled.
    Parent,
    /// The one that dialled.
    Child,
}

/// What can arrive on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// HELLO of the child.
    Hello,
    /// HELLO_OK of the parent.
    HelloOk,
    /// A request for a fresh challenge.
    Challenge,
    /// The proof.
    Register,
    /// The neighbour goes away.
    Bye,
    /// An answer to one of the three above.
    ExemptAnswer,
    /// Any other message.
    Message,
    /// A beat of the child.
    Beat,
    /// The parent's echo of a beat.
    Echo,
    /// A lane stream opens.
    LaneOpen,
    /// The neighbour takes nothing new.
    Drain,
}

/// Something came out of turn; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} while {phase:?}")]
pub struct OutOfTurn {
    /// What came.
    pub input: Input,
    /// When.
    pub phase: Phase,
}

impl OutOfTurn {
    /// The code for it.
    #[must_use]
    pub fn status(self) -> Status {
        match self.phase {
            Phase::Identified => Status::NoHello,
            Phase::Challenged => Status::NoToken,
            Phase::Active | Phase::Draining | Phase::Closed => Status::BadFrame,
        }
    }
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] =
        [Self::Identified, Self::Challenged, Self::Active, Self::Draining, Self::Closed];

    /// Whether messages flow.
    #[must_use]
    pub fn carries_messages(self) -> bool {
        matches!(self, Self::Active | Self::Draining)
    }

    /// Whether a fresh challenge may be asked for.
    #[must_use]
    pub fn takes_challenge(self) -> bool {
        matches!(self, Self::Challenged | Self::Active)
    }

    /// Whether bye means anything.
    #[must_use]
    pub fn takes_bye(self) -> bool {
        matches!(self, Self::Challenged | Self::Active | Self::Draining)
    }

    /// The word for it in tables and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identified => "identified",
            Self::Challenged => "challenged",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

impl Input {
    /// Everything that can arrive.
    pub const ALL: [Self; 11] = [
        Self::Hello,
        Self::HelloOk,
        Self::Challenge,
        Self::Register,
        Self::Bye,
        Self::ExemptAnswer,
        Self::Message,
        Self::Beat,
        Self::Echo,
        Self::LaneOpen,
        Self::Drain,
    ];
}

/// The table: what `side` may receive in `phase`.
#[must_use]
pub fn permits(side: Side, phase: Phase, input: Input) -> bool {
    let live = phase.carries_messages();
    match (side, input) {
        (Side::Parent, Input::Hello) | (Side::Child, Input::HelloOk) => phase == Phase::Identified,
        (Side::Parent, Input::Challenge) => phase.takes_challenge(),
        (Side::Parent, Input::Register) => phase == Phase::Challenged,
        (_, Input::Bye) => phase.takes_bye(),
        (Side::Child, Input::ExemptAnswer) => phase.takes_bye(),
        // The parent asks a child for nothing but its bye.
        (Side::Parent, Input::ExemptAnswer) => phase.takes_bye(),
        (_, Input::Message | Input::LaneOpen | Input::Drain) => live,
        // Beats go on while a link registers again.
        (Side::Parent, Input::Beat) | (Side::Child, Input::Echo) => {
            live || phase == Phase::Challenged
        }
        (Side::Parent, Input::HelloOk | Input::Echo)
        | (Side::Child, Input::Hello | Input::Challenge | Input::Register | Input::Beat) => false,
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// From the connection to the end of HELLO.
    pub hello: Duration,
    /// From HELLO to the end of the registration.
    pub register: Duration,
    /// Between two beats; half of it while the last one is not echoed.
    pub beat: Duration,
    /// Silence after which the neighbour is taken for dead.
    pub silence: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            register: Duration::from_secs(30),
            beat: Duration::from_secs(1),
            silence: Duration::from_secs(4),
        }
    }
}

/// What a link wants done when its timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send the beat with this number.
    Beat(u64),
    /// Close the connection: the neighbour was silent, or too slow to register.
    Close(CloseReason),
}

/// Why a connection was closed by its timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// No HELLO in time.
    NoHello,
    /// No registration in time.
    NotRegistered,
    /// No echo, or no beat, in time.
    Silent,
}

/// The state of one link.
#[derive(Clone, Debug)]
pub struct Link {
    side: Side,
    phase: Phase,
    timers: Timers,
    /// When the phase must have been left.
    phase_deadline: Option<Instant>,
    next_beat: Option<Instant>,
    silent_at: Option<Instant>,
    last_beat: u64,
    beat_sent: Option<(u64, Instant)>,
    rtt: Option<Duration>,
    planned: Option<Instant>,
}

/// A beat that is out of order or was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("beat {got} after {last}")]
pub struct BadBeat {
    /// The number that came.
    pub got: u64,
    /// The last good one.
    pub last: u64,
}

impl Link {
    /// A link whose connection has just been established.
    #[must_use]
    pub fn new(now: Instant, side: Side, timers: Timers) -> Self {
        Self {
            side,
            phase: Phase::Identified,
            timers,
            phase_deadline: Some(now + timers.hello),
            next_beat: None,
            silent_at: None,
            last_beat: 0,
            beat_sent: None,
            rtt: None,
            planned: None,
        }
    }

    /// Where the link is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which end this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// Round trip of the last beat, at the end that sends them.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Checks that `input` may come now.
    ///
    /// # Errors
    /// [`OutOfTurn`]: the connection is to be closed.
    pub fn handle_input(&self, input: Input) -> Result<(), OutOfTurn> {
        let permitted = permits(self.side, self.phase, input);
        permitted.then_some(()).ok_or(OutOfTurn { input, phase: self.phase })
    }

    /// HELLO is done, or a new registration has begun.
    pub fn enter_challenged(&mut self, now: Instant) {
        let fresh = self.phase == Phase::Identified;
        self.phase = Phase::Challenged;
        self.phase_deadline = Some(now + self.timers.register);
        if fresh {
            self.start_beats(now);
        }
    }

    /// The registration is done.
    pub fn enter_active(&mut self) {
        self.phase = Phase::Active;
        self.phase_deadline = None;
    }

    /// Nothing new begins on this link.
    pub fn enter_draining(&mut self) {
        if self.phase.carries_messages() {
            self.phase = Phase::Draining;
        }
    }

    /// It is over.
    pub fn enter_closed(&mut self) {
        self.phase = Phase::Closed;
        self.phase_deadline = None;
        self.next_beat = None;
        self.silent_at = None;
    }

    fn start_beats(&mut self, now: Instant) {
        self.silent_at = Some(now + self.timers.silence);
        if self.side == Side::Child {
            self.next_beat = Some(now + self.timers.beat);
        }
    }

    /// A beat of the child has come; the caller echoes it.
    ///
    /// # Errors
    /// [`BadBeat`] unless its number is larger than the last.
    pub fn handle_beat(&mut self, now: Instant, number: u64) -> Result<(), BadBeat> {
        if number <= self.last_beat {
            return Err(BadBeat { got: number, last: self.last_beat });
        }
        self.last_beat = number;
        self.silent_at = Some(now + self.timers.silence);
        Ok(())
    }

    /// The echo of a beat has come.
    ///
    /// # Errors
    /// [`BadBeat`] unless it is the echo of a beat that was sent and not yet echoed.
    pub fn handle_echo(&mut self, now: Instant, number: u64) -> Result<(), BadBeat> {
        let sent = self.beat_sent.map_or(0, |(number, _)| number);
        if number <= self.last_beat || number > sent {
            return Err(BadBeat { got: number, last: self.last_beat });
        }
        self.last_beat = number;
        self.silent_at = Some(now + self.timers.silence);
        if let Some((last, at)) = self.beat_sent
            && last == number
        {
            self.rtt = Some(now.saturating_duration_since(at));
            self.next_beat = self.next_beat.map(|_| at + self.timers.beat);
        }
        Ok(())
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.phase_deadline, self.next_beat, self.silent_at].into_iter().flatten().min()
    }

    /// Notes when the caller means to call [`Self::handle_timeout`], so that a loop that comes late
    /// blames itself and not the neighbour.
    pub fn plan(&mut self, at: Option<Instant>) {
        self.planned = at;
    }

    /// What is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        const OWN_STALL: Duration = Duration::from_millis(500);
        let late = self.planned.take().map(|at| now.saturating_duration_since(at));
        if let Some(late) = late.filter(|late| *late > OWN_STALL) {
            for deadline in [&mut self.phase_deadline, &mut self.silent_at].into_iter().flatten() {
                *deadline = (*deadline + late).max(now + OWN_STALL);
            }
        }
        if self.phase_deadline.is_some_and(|at| at <= now) {
            let reason = match self.phase {
                Phase::Identified => CloseReason::NoHello,
                Phase::Challenged | Phase::Active | Phase::Draining | Phase::Closed => {
                    CloseReason::NotRegistered
                }
            };
            return Some(Due::Close(reason));
        }
        if self.silent_at.is_some_and(|at| at <= now) {
            return Some(Due::Close(CloseReason::Silent));
        }
        if self.next_beat.is_some_and(|at| at <= now) {
            let number = self.beat_sent.map_or(0, |(number, _)| number) + 1;
            self.beat_sent = Some((number, now));
            // Until its echo comes: what ends just before the silence is too long must be heard of in time.
            self.next_beat = Some(now + self.timers.beat / 2);
            return Some(Due::Beat(number));
        }
        None
    }
}

/// Why a cell dials again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Redial {
    /// A registered link was lost.
    Lost,
    /// There was no answer: nobody was troubled, and the path may be whole again at any moment.
    Unanswered,
    /// The parent answered and did not let this cell in.
    Refused,
}

impl Redial {
    /// Longest wait after an attempt that had no answer. A handshake repeats its first packet after one
    /// and after three seconds and is given up after five, so a path that is whole again is used within
    /// two seconds, this, and two round trips.
    pub const UNANSWERED_CAP: Duration = Duration::from_millis(2500);
}

/// How long to wait before dialling again: full jitter.
///
/// `attempt` counts failures in a row, from zero; `random` is uniform in 0..=u32::MAX and drawn by
/// the caller. The first redial after the loss of a registered link is spread over one second.
///
/// # Source
/// "Exponential backoff and jitter", AWS Architecture Blog 2015: the *full jitter* variant.
#[must_use]
pub fn redial_after(
    attempt: u32,
    why: Redial,
    base: Duration,
    cap: Duration,
    random: u32,
) -> Duration {
    let doubled = base.saturating_mul(1u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX));
    let ceiling = match why {
        Redial::Lost if attempt == 0 => Duration::from_secs(1),
        Redial::Lost | Redial::Refused => doubled,
        Redial::Unanswered => doubled.min(Redial::UNANSWERED_CAP),
    };
    ceiling.min(cap).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{at, at_ms};

    /// For each input: the phases, by first letter, in which each side takes it.
    const TABLE: [(Input, &str, &str); 11] = [
        (Input::Hello, "I", ""),
        (Input::HelloOk, "", "I"),
        (Input::Challenge, "CA", ""),
        (Input::Register, "C", ""),
        (Input::Bye, "CAD", "CAD"),
        (Input::ExemptAnswer, "CAD", "CAD"),
        (Input::Message, "AD", "AD"),
        (Input::Beat, "CAD", ""),
        (Input::Echo, "", "CAD"),
        (Input::LaneOpen, "AD", "AD"),
        (Input::Drain, "AD", "AD"),
    ];

    #[test]
    fn states_times_messages_is_this_table() {
        let letter = |phase: Phase| match phase {
            Phase::Identified => 'I',
            Phase::Challenged => 'C',
            Phase::Active => 'A',
            Phase::Draining => 'D',
            Phase::Closed => 'X',
        };
        assert_eq!(TABLE.map(|(input, ..)| input), Input::ALL);
        for (input, parent, child) in TABLE {
            for phase in Phase::ALL {
                for (side, allowed) in [(Side::Parent, parent), (Side::Child, child)] {
                    let want = allowed.contains(letter(phase));
                    assert_eq!(permits(side, phase, input), want, "{side:?} {phase:?} {input:?}");
                }
            }
        }
    }

    fn active(side: Side) -> Link {
        let mut link = Link::new(at(0), side, Timers::default());
        link.enter_challenged(at(0));
        link.enter_active();
        link
    }

    #[test]
    fn atk_088_a_connection_without_hello_ends_at_its_deadline_and_not_before() {
        let mut link = Link::new(at(0), Side::Parent, Timers::default());
        assert_eq!(link.handle_timeout(at_ms(4999)), None);
        assert_eq!(link.handle_timeout(at(5)), Some(Due::Close(CloseReason::NoHello)));
        let mut link = Link::new(at(0), Side::Parent, Timers::default());
        link.enter_challenged(at(1));
        for second in 1..30 {
            link.handle_beat(at(second), second).unwrap();
        }
        link.handle_beat(at(30), 30).unwrap();
        assert_eq!(link.handle_timeout(at(31)), Some(Due::Close(CloseReason::NotRegistered)));
    }

    #[test]
    fn g_31_a_silent_neighbour_is_dead_after_four_seconds_at_either_end() {
        let mut parent = active(Side::Parent);
        parent.handle_beat(at(1), 1).unwrap();
        assert_eq!(parent.handle_timeout(at_ms(4999)), None);
        assert_eq!(parent.handle_timeout(at(5)), Some(Due::Close(CloseReason::Silent)));
        let mut child = active(Side::Child);
        assert_eq!(child.handle_timeout(at(1)), Some(Due::Beat(1)));
        child.handle_echo(at_ms(1020), 1).unwrap();
        assert_eq!(child.rtt(), Some(Duration::from_millis(20)));
        for ms in (2000..=5000).step_by(500) {
            assert_eq!(child.poll_timeout(), Some(at_ms(ms)));
            assert!(matches!(child.handle_timeout(at_ms(ms)), Some(Due::Beat(_))));
        }
        assert_eq!(child.handle_timeout(at_ms(5020)), Some(Due::Close(CloseReason::Silent)));
    }

    #[test]
    fn beats_come_once_a_second_and_twice_as_often_while_one_is_not_echoed() {
        let mut child = active(Side::Child);
        assert_eq!(child.handle_timeout(at(1)), Some(Due::Beat(1)));
        child.handle_echo(at_ms(1020), 1).unwrap();
        assert_eq!(child.poll_timeout(), Some(at(2)));
        assert_eq!(child.handle_timeout(at(2)), Some(Due::Beat(2)));
        assert_eq!(child.handle_timeout(at_ms(2500)), Some(Due::Beat(3)));
        child.handle_echo(at_ms(2900), 2).unwrap();
        assert_eq!(child.handle_timeout(at(3)), Some(Due::Beat(4)), "3 is not echoed yet");
        child.handle_echo(at_ms(3020), 4).unwrap();
        assert_eq!(child.poll_timeout(), Some(at(4)));
    }

    #[test]
    fn a_beat_must_be_new_and_an_echo_must_answer_one() {
        let mut parent = active(Side::Parent);
        parent.handle_beat(at(1), 5).unwrap();
        assert_eq!(parent.handle_beat(at(1), 5), Err(BadBeat { got: 5, last: 5 }));
        let mut child = active(Side::Child);
        assert!(child.handle_echo(at(1), 1).is_err(), "nothing was sent");
        child.handle_timeout(at(1));
        assert!(child.handle_echo(at(1), 2).is_err());
        assert!(child.handle_echo(at(1), 1).is_ok());
        assert!(child.handle_echo(at(1), 1).is_err());
    }

    #[test]
    fn f_20_a_loop_that_comes_late_does_not_blame_the_neighbour() {
        let mut parent = active(Side::Parent);
        parent.plan(Some(at(4)));
        assert_eq!(parent.handle_timeout(at(9)), None, "five seconds were lost here");
        parent.plan(parent.poll_timeout());
        assert_eq!(parent.handle_timeout(at_ms(9500)), Some(Due::Close(CloseReason::Silent)));
    }

    #[test]
    fn g_32_refusals_wait_longer_each_time_and_silence_does_not() {
        let wait = |attempt, why| {
            let (base, cap) = (Duration::from_millis(200), Duration::from_secs(10));
            redial_after(attempt, why, base, cap, u32::MAX).as_millis()
        };
        assert_eq!(
            [0, 1, 3, 5, 9].map(|n| wait(n, Redial::Refused)),
            [200, 400, 1600, 6400, 10_000]
        );
        assert_eq!(
            [0, 1, 3, 5, 9].map(|n| wait(n, Redial::Unanswered)),
            [200, 400, 1600, 2500, 2500]
        );
        assert_eq!([0, 1].map(|n| wait(n, Redial::Lost)), [1000, 400]);
    }

    proptest! {
        #[test]
        fn g_32_the_wait_before_a_redial_is_spread_and_bounded(attempt in 0u32..200, random: u32) {
            let (base, cap) = (Duration::from_millis(200), Duration::from_secs(10));
            for why in [Redial::Lost, Redial::Unanswered, Redial::Refused] {
                let wait = redial_after(attempt, why, base, cap, random);
                prop_assert!(wait <= cap);
                prop_assert!(why != Redial::Unanswered || wait <= Redial::UNANSWERED_CAP);
                prop_assert!(redial_after(attempt, why, base, base, random) <= base);
                prop_assert_eq!(redial_after(attempt, why, base, cap, 0), Duration::ZERO);
            }
        }

        /// No order of events makes a link speak after its end or grow a timer that never fires.
        #[test]
        fn a_closed_link_has_no_timers(events in prop::collection::vec(0u8..6, 0..40)) {
            let mut link = Link::new(at(0), Side::Child, Timers::default());
            for (step, event) in events.iter().enumerate() {
                let now = at(step as u64);
                match event {
                    0 => link.enter_challenged(now),
                    1 => link.enter_active(),
                    2 => link.enter_draining(),
                    3 => drop(link.handle_echo(now, step as u64)),
                    _ => drop(link.handle_timeout(now)),
                }
            }
            link.enter_closed();
            prop_assert_eq!(link.poll_timeout(), None);
            prop_assert_eq!(link.handle_timeout(at(10_000)), None);
            prop_assert!(Input::ALL.into_iter().all(|input| link.handle_input(input).is_err()));
        }
    }
}
