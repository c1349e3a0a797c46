//! One part of a job, in the place that runs it.
//!
//! ```text
//!            Launched          Ready
//!  staged ───────────▶ starting ─────▶ running
//!    │                   │  │ start time   │
//!    │ Stop, Refused     │  ▼ is over      │ Stop
//!    │                   │ stopping ◀──────┘
//!    ▼        Exited     ▼  │ TERM, grace, KILL, grace
//!  ended ◀──────────────────┘
//! ```

use std::time::{Duration, Instant};

use super::{End, JobState, Outcome, Why};

/// How long a part may take for what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartTimes {
    /// From its launch until it must be there.
    pub start: Duration,
    /// From being told to end until it is made to, and from that until it counts as lost.
    pub grace: Duration,
}

/// How the process of a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Ended by the scheduler that ran it.
    Scheduler(SchedulerEnd),
    /// It is gone, and nobody was there to see how.
    Unknown,
}

/// Why a scheduler ended what it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerEnd {
    /// Somebody cancelled it.
    Cancelled,
    /// Its time limit, or a deadline, was reached.
    Time,
    /// It used more memory than it was given.
    Memory,
    /// Its place was given to another job.
    Preempted,
    /// The machine failed, or did not start.
    Machine,
}

impl SchedulerEnd {
    fn end(self) -> End {
        match self {
            Self::Cancelled => End::new(Outcome::Aborted, "somebody cancelled it in the scheduler"),
            Self::Time => End::new(Outcome::Failed, "the scheduler ended it: its time was over"),
            Self::Memory => End::new(Outcome::Failed, "the scheduler ended it: too much memory"),
            Self::Preempted => {
                End::new(Outcome::Lost, "the scheduler gave its place to another job")
            }
            Self::Machine => End::new(Outcome::Lost, "the machine that it was on failed"),
        }
    }
}

/// Something that happens to a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its process runs.
    Launched,
    /// It cannot be launched, with this for people.
    Refused(String),
    /// It has said that it is there.
    Ready,
    /// It is to end.
    Stop(Why),
    /// Its process, and all that it had started, is gone.
    Exited(Exit),
}

/// What is to be done with the process of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask it to end.
    Terminate,
    /// End it, and all that it has started.
    Kill,
}

/// One part of a job, in the place that runs it. Time is an argument, what is to be done is an answer.
#[derive(Clone, Debug)]
pub struct Part {
    times: PartTimes,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Staged,
    Starting { since: Instant },
    Running,
    Stopping { why: Why, since: Instant, killed: bool, was_there: bool },
    Ended(End),
}

impl Part {
    /// How long one whose cell may no longer take part is asked before it is forced: whatever else has to be
    /// done fits into the rest of a second.
    pub const TURNED_OUT: Duration = Duration::from_millis(300);

    /// A part of which nothing runs yet.
    #[must_use]
    pub fn new(times: PartTimes) -> Self {
        Self { times, state: State::Staged }
    }

    /// A part whose process was launched by an earlier life of whoever watches it, and runs.
    #[must_use]
    pub fn adopted(times: PartTimes) -> Self {
        Self { times, state: State::Running }
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> JobState {
        match self.state {
            State::Staged => JobState::Staged,
            State::Starting { .. } => JobState::Starting,
            State::Running => JobState::Running,
            State::Stopping { .. } => JobState::Stopping,
            State::Ended(_) => JobState::Ended,
        }
    }

    /// Its end, once it has one. It never has another one.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Staged | State::Starting { .. } | State::Running | State::Stopping { .. } => {
                None
            }
        }
    }

    /// Something has happened. What comes too late, or twice, changes nothing.
    pub fn handle(&mut self, now: Instant, input: Input) -> Option<Action> {
        match (&self.state, input) {
            (State::Staged, Input::Launched) => {
                self.state = State::Starting { since: now };
                None
            }
            // Nothing runs, so there is nothing to wait for.
            (State::Staged, Input::Stop(why)) => {
                self.state = State::Ended(why.end());
                None
            }
            // It was told to end while it was being launched: that it runs now does not save it.
            (State::Ended(_), Input::Launched) => Some(Action::Kill),
            (State::Staged | State::Starting { .. }, Input::Refused(detail)) => {
                self.state = State::Ended(End::new(Outcome::Failed, detail));
                None
            }
            (State::Starting { .. }, Input::Ready) => {
                self.state = State::Running;
                None
            }
            (State::Starting { .. } | State::Running, Input::Stop(why)) => {
                let was_there = matches!(self.state, State::Running);
                self.state = State::Stopping { why, since: now, killed: false, was_there };
                Some(Action::Terminate)
            }
            // The patience that it was given ends with the right to be here.
            (State::Stopping { why: Why::TurnedOut(_), .. }, Input::Stop(Why::TurnedOut(_))) => {
                None
            }
            (
                &State::Stopping { killed: false, was_there, .. },
                Input::Stop(why @ Why::TurnedOut(_)),
            ) => {
                self.state = State::Stopping { why, since: now, killed: false, was_there };
                None
            }
            // What was never there has done nothing, whatever its code.
            (State::Starting { .. }, Input::Exited(Exit::Code(0))) => {
                let end = End::new(Outcome::Failed, "its cell ended before it was there");
                self.state = State::Ended(end);
                None
            }
            (State::Starting { .. } | State::Running, Input::Exited(exit)) => {
                self.state = State::Ended(end_of(exit));
                None
            }
            (State::Stopping { why, was_there, .. }, Input::Exited(exit)) => {
                // What was done before it was told to end was done.
                let end = match (why, exit) {
                    (Why::NotNeeded, Exit::Code(0)) if *was_there => End::completed(),
                    (why, _) => why.end(),
                };
                self.state = State::Ended(end);
                None
            }
            (
                State::Staged
                | State::Starting { .. }
                | State::Running
                | State::Stopping { .. }
                | State::Ended(_),
                _,
            ) => None,
        }
    }

    /// When [`poll`](Self::poll) has something to say next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Starting { since } => Some(since + self.times.start),
            State::Stopping { why: Why::TurnedOut(_), since, killed: false, .. } => {
                Some(since + self.times.grace.min(Self::TURNED_OUT))
            }
            State::Stopping { since, .. } => Some(since + self.times.grace),
            State::Staged | State::Running | State::Ended(_) => None,
        }
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        match &mut self.state {
            State::Starting { .. } => {
                let why = Why::Failing(format!("it was not there within {:?}", self.times.start));
                self.state = State::Stopping { why, since: now, killed: false, was_there: false };
                Some(Action::Terminate)
            }
            State::Stopping { since, killed, .. } if !*killed => {
                (*since, *killed) = (now, true);
                Some(Action::Kill)
            }
            State::Stopping { .. } => {
                let detail = "its processes did not end although they were killed";
                self.state = State::Ended(End::new(Outcome::Lost, detail));
                None
            }
            State::Staged | State::Running | State::Ended(_) => None,
        }
    }
}

fn end_of(exit: Exit) -> End {
    match exit {
        Exit::Code(0) => End::completed(),
        Exit::Code(code) => End::new(Outcome::Failed, meaning(code)),
        Exit::Signal(signal) => End::new(Outcome::Failed, format!("killed by signal {signal}")),
        Exit::Scheduler(end) => end.end(),
        Exit::Unknown => End::new(Outcome::Lost, "it is gone, and nobody saw how it ended"),
    }
}

/// What the exit code of a job cell says. Most are those of its program.
fn meaning(code: i32) -> String {
    match code {
        Exit::LEFT => "the attached process went away without saying goodbye".to_owned(),
        Exit::FORSAKEN => "its cell was away for too long".to_owned(),
        Exit::NOT_LET_IN => "its cell was not let in".to_owned(),
        Exit::IDLE => "no message came or went for its idle time".to_owned(),
        Exit::NOT_STARTED => "its cell could not start it".to_owned(),
        Exit::NOT_THERE => "the program is not there, or cannot be executed".to_owned(),
        129..=192 => format!("killed by signal {}", code - Exit::SIGNALLED),
        code => format!("exit code {code}"),
    }
}

impl Exit {
    /// Exit code of a job cell whose attached process went away without a word.
    pub const LEFT: i32 = 119;
    /// Exit code of a job cell whose parent was away for longer than its program goes on without it.
    pub const FORSAKEN: i32 = 120;
    /// Exit code of a job cell that its parent did not let in.
    pub const NOT_LET_IN: i32 = 121;
    /// Exit code of a job cell whose program neither sent nor received anything for too long.
    pub const IDLE: i32 = 122;
    /// Exit code of a job cell that could not start its program.
    pub const NOT_STARTED: i32 = 123;
    /// Exit code of a program that is not there or cannot be executed.
    pub const NOT_THERE: i32 = 127;
    /// What is added to the number of the signal that has ended a program.
    pub const SIGNALLED: i32 = 128;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::at as seconds;

    const TIMES: PartTimes =
        PartTimes { start: Duration::from_secs(20), grace: Duration::from_secs(5) };

    fn running(at: Instant) -> Part {
        let mut part = Part::new(TIMES);
        assert_eq!(part.handle(at, Input::Launched), None);
        assert_eq!(part.handle(at, Input::Ready), None);
        assert_eq!(part.state(), JobState::Running);
        part
    }

    fn outcome(part: &Part) -> Option<Outcome> {
        part.end().map(|end| end.outcome)
    }

    #[test]
    fn a_part_ends_as_its_process_does() {
        let at = seconds(0);
        for (exit, want) in [
            (Exit::Code(0), Outcome::Completed),
            (Exit::Code(3), Outcome::Failed),
            (Exit::Signal(9), Outcome::Failed),
            (Exit::Scheduler(SchedulerEnd::Cancelled), Outcome::Aborted),
            (Exit::Scheduler(SchedulerEnd::Time), Outcome::Failed),
            (Exit::Scheduler(SchedulerEnd::Machine), Outcome::Lost),
            (Exit::Unknown, Outcome::Lost),
        ] {
            let mut part = running(at);
            assert_eq!(part.handle(at, Input::Exited(exit)), None);
            assert_eq!(outcome(&part), Some(want), "{exit:?}");
        }
    }

    #[test]
    fn j_15_an_abort_asks_first_then_forces_and_is_the_end_whatever_the_code() {
        let at = seconds(0);
        let mut part = running(at);
        assert_eq!(part.handle(at, Input::Stop(Why::Abort)), Some(Action::Terminate));
        assert_eq!(part.handle(at, Input::Stop(Why::Abort)), None, "once is enough");
        assert_eq!(part.poll(at + TIMES.grace - Duration::from_millis(1)), None);
        assert_eq!(part.poll(at + TIMES.grace), Some(Action::Kill));
        assert_eq!(part.poll(at + TIMES.grace), None);
        part.handle(at, Input::Exited(Exit::Code(0)));
        assert_eq!(outcome(&part), Some(Outcome::Aborted));
    }

    #[test]
    fn j_15_an_abort_wins_over_a_launch_that_is_under_way() {
        let at = seconds(0);
        let mut part = Part::new(TIMES);
        assert_eq!(part.handle(at, Input::Stop(Why::Abort)), None);
        assert_eq!(part.handle(at, Input::Launched), Some(Action::Kill));
        assert_eq!(part.handle(at, Input::Ready), None);
        assert_eq!(outcome(&part), Some(Outcome::Aborted));
    }

    #[test]
    fn p_26_a_part_whose_cell_is_turned_out_is_forced_after_a_moment_also_while_it_is_asked_to_end()
    {
        let turned_out = || Input::Stop(Why::TurnedOut("banned".to_owned()));
        let (at, moment) = (seconds(0), Part::TURNED_OUT);
        let mut part = running(at);
        assert_eq!(part.handle(at, turned_out()), Some(Action::Terminate));
        assert_eq!(
            part.handle(at + moment / 2, turned_out()),
            None,
            "saying it again gives no time"
        );
        assert_eq!(part.poll(at + moment - Duration::from_millis(1)), None);
        assert_eq!(part.poll(at + moment), Some(Action::Kill));
        assert_eq!(part.poll(at + moment), None);
        part.handle(at + moment, Input::Exited(Exit::Signal(9)));
        assert_eq!(part.end(), Some(&End::new(Outcome::Aborted, "banned")));

        let mut part = running(at);
        part.handle(at, Input::Stop(Why::NotNeeded));
        assert_eq!(part.handle(at, turned_out()), None, "it was asked already");
        assert_eq!(part.poll(at + moment), Some(Action::Kill));
        part.handle(at + moment, Input::Exited(Exit::Code(0)));
        assert_eq!(outcome(&part), Some(Outcome::Aborted));
    }

    #[test]
    fn what_was_never_there_has_completed_nothing() {
        let at = seconds(0);
        let mut part = Part::new(TIMES);
        part.handle(at, Input::Launched);
        part.handle(at, Input::Exited(Exit::Code(0)));
        assert_eq!(outcome(&part), Some(Outcome::Failed));
        // Nor where it was told to end in between.
        let mut part = Part::new(TIMES);
        part.handle(at, Input::Launched);
        part.handle(at, Input::Stop(Why::NotNeeded));
        part.handle(at, Input::Exited(Exit::Code(0)));
        assert_eq!(outcome(&part), Some(Outcome::Aborted));
    }

    #[test]
    fn what_does_not_come_is_not_waited_for() {
        let at = seconds(0);
        let mut part = Part::new(TIMES);
        part.handle(at, Input::Launched);
        assert_eq!(part.poll(at + TIMES.start), Some(Action::Terminate));
        part.handle(at, Input::Exited(Exit::Signal(15)));
        let end = part.end().expect("it has ended");
        assert_eq!(end.outcome, Outcome::Failed);
        assert!(end.detail.contains("20s"), "{end}");
    }

    #[test]
    fn what_cannot_be_killed_is_lost_and_not_waited_for_forever() {
        let at = seconds(0);
        let mut part = running(at);
        part.handle(at, Input::Stop(Why::Abort));
        part.poll(at + TIMES.grace);
        part.poll(at + 2 * TIMES.grace);
        assert_eq!(outcome(&part), Some(Outcome::Lost));
    }

    fn inputs() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Launched),
            Just(Input::Ready),
            Just(Input::Refused("no".to_owned())),
            Just(Input::Stop(Why::Abort)),
            Just(Input::Stop(Why::NotNeeded)),
            Just(Input::Stop(Why::TurnedOut("x".to_owned()))),
            Just(Input::Stop(Why::Failing("x".to_owned()))),
            (-1..300).prop_map(|code| Input::Exited(Exit::Code(code))),
            Just(Input::Exited(Exit::Signal(9))),
            Just(Input::Exited(Exit::Unknown)),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: states only go forward, there is one end, and being told to
        /// end leads to one within the start time and two graces.
        #[test]
        fn a_part_has_one_end_and_reaches_it(steps in prop::collection::vec((inputs(), 0u64..8), 0..40)) {
            let mut at = seconds(0);
            let mut part = Part::new(TIMES);
            let mut ended: Option<End> = None;
            for (input, wait) in steps {
                at += Duration::from_secs(wait);
                let before = part.state();
                part.poll(at);
                part.handle(at, input);
                prop_assert!(part.state() >= before);
                if let Some(end) = &ended {
                    prop_assert_eq!(part.end(), Some(end));
                }
                ended = part.end().cloned();
                prop_assert_eq!(ended.is_some(), part.state() == JobState::Ended);
            }
            part.handle(at, Input::Stop(Why::Abort));
            for _ in 0..3 {
                if let Some(deadline) = part.deadline() {
                    part.poll(deadline);
                }
            }
            prop_assert_eq!(part.state(), JobState::Ended);
        }
    }
}
