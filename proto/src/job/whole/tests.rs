//! A job among its parts: who may say what, and how it ends.

use proptest::prelude::*;

use super::*;
use crate::testing::at as seconds;

const TIMES: WholeTimes = WholeTimes {
    start: Duration::from_secs(60),
    total: Some(Duration::from_secs(600)),
    finish: Duration::from_secs(30),
    silence: Duration::from_secs(10),
    stop: Duration::from_secs(20),
};

fn name(text: &str) -> Fqcn {
    text.parse().unwrap()
}

fn id(attempt: u32) -> JobId {
    JobId { job: "fold".parse().unwrap(), attempt }
}

fn staged() -> Whole {
    Whole::new(id(2), name("server"), ["site-1", "site-2"].map(name), seconds(0), TIMES)
}

/// A job whose parts all run.
fn running() -> Whole {
    let mut whole = staged();
    for runner in ["server", "site-1", "site-2"].map(name) {
        assert!(whole.handle_asked(seconds(0), &runner));
        assert_eq!(whole.handle_confirmed(seconds(0), &runner), []);
        whole.handle_state(seconds(0), &runner, &id(2), JobState::Running).unwrap();
    }
    assert_eq!(whole.state(), JobState::Running);
    whole
}

fn told(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|Step::Stop { runner, .. }| runner.as_str()).collect()
}

fn completes(whole: &mut Whole, at: u64, runner: &str) -> Vec<Step> {
    whole.handle_end(seconds(at), &name(runner), &id(2), End::completed()).unwrap()
}

#[test]
fn a_job_completes_when_every_part_has() {
    let mut whole = running();
    for runner in ["site-2", "server"] {
        assert_eq!(completes(&mut whole, 1, runner), []);
        assert_eq!((whole.state(), whole.end()), (JobState::Running, None));
    }
    completes(&mut whole, 1, "site-1");
    assert_eq!(whole.end(), Some(End::completed()));
}

#[test]
fn the_first_part_that_fails_decides_and_the_others_are_told() {
    let mut whole = running();
    let failed = End::new(Outcome::Failed, "exit code 3");
    let steps = whole.handle_end(seconds(1), &name("site-2"), &id(2), failed).unwrap();
    assert_eq!(told(&steps), ["server", "site-1"]);
    assert_eq!(whole.state(), JobState::Stopping);
    for runner in ["server", "site-1"].map(name) {
        let aborted = End::new(Outcome::Aborted, "");
        assert_eq!(whole.handle_end(seconds(2), &runner, &id(2), aborted).unwrap(), []);
    }
    assert_eq!(whole.end(), Some(End::new(Outcome::Failed, "site-2: exit code 3")));
}

#[test]
fn f_39_the_end_of_the_server_s_part_alone_ends_those_of_the_sites() {
    let mut whole = running();
    let killed = End::new(Outcome::Failed, "killed by signal 9");
    let steps = whole.handle_end(seconds(1), &name("server"), &id(2), killed).unwrap();
    assert_eq!(told(&steps), ["site-1", "site-2"]);
    assert!(whole.wanted(&name("site-1")).unwrap().is_to_end, "and again with every table");
}

#[test]
fn s0_15_a_cell_speaks_for_its_own_part_of_its_own_attempt_only() {
    let mut whole = running();
    let failed = || End::new(Outcome::Failed, "a lie");
    let mut say =
        |runner: &str, id: &JobId| whole.handle_end(seconds(1), &name(runner), id, failed());
    for other in ["site-3", "relay", "server.fold", "site-1.fold"] {
        assert_eq!(say(other, &id(2)), Err(ReportError::NotDeployed), "{other}");
    }
    assert_eq!(say("site-1", &id(1)), Err(ReportError::OtherAttempt));
    let other = JobId { job: "other".parse().unwrap(), attempt: 2 };
    assert_eq!(say("site-1", &other), Err(ReportError::OtherAttempt));
    assert_eq!((whole.state(), whole.end()), (JobState::Running, None));

    let mut whole = staged();
    let refused = whole.handle_end(seconds(1), &name("site-1"), &id(2), failed());
    assert_eq!(refused, Err(ReportError::NotDeployed), "nobody has asked it yet");
}

#[test]
fn j_15_an_abort_during_the_start_reaches_those_who_start_later() {
    let mut whole = staged();
    assert!(whole.handle_asked(seconds(0), &name("server")));
    assert!(whole.handle_asked(seconds(0), &name("site-1")));
    let steps = whole.stop(seconds(1), Why::Abort);
    assert_eq!(told(&steps), ["server", "site-1"]);
    assert_eq!(whole.stop(seconds(1), Why::Abort), [], "once is enough");
    assert!(!whole.handle_asked(seconds(1), &name("site-2")), "it is not asked any more");
    let steps = whole.handle_confirmed(seconds(2), &name("site-1"));
    assert_eq!(told(&steps), ["site-1"]);
    for runner in ["server", "site-1"] {
        let aborted = End::new(Outcome::Aborted, "");
        whole.handle_end(seconds(3), &name(runner), &id(2), aborted).unwrap();
    }
    assert_eq!(whole.end().map(|end| end.outcome), Some(Outcome::Aborted));
}

#[test]
fn a_silent_site_loses_its_part_and_the_job_says_so() {
    let mut whole = running();
    whole.handle_state(seconds(5), &name("site-2"), &id(2), JobState::Running).unwrap();
    assert_eq!(whole.poll(seconds(9)), []);
    let steps = whole.poll(seconds(10));
    assert_eq!(told(&steps), ["server", "site-2"]);
    for runner in ["server", "site-2"] {
        let aborted = End::new(Outcome::Aborted, "");
        whole.handle_end(seconds(11), &name(runner), &id(2), aborted).unwrap();
    }
    let end = whole.end().unwrap();
    assert_eq!(end.outcome, Outcome::Lost);
    assert!(end.detail.starts_with("site-1: not heard of"), "{end}");
}

#[test]
fn g_45_what_is_missing_twice_is_lost() {
    let mut whole = running();
    assert_eq!(whole.handle_missing(seconds(1), &name("site-1")), []);
    whole.handle_state(seconds(2), &name("site-1"), &id(2), JobState::Running).unwrap();
    assert_eq!(whole.handle_missing(seconds(3), &name("site-1")), []);
    let steps = whole.handle_missing(seconds(5), &name("site-1"));
    assert_eq!(told(&steps), ["server", "site-2"]);
}

#[test]
fn every_time_of_a_job_ends_it() {
    let heard = |whole: &mut Whole, at: u64| {
        for runner in ["site-1", "site-2"].map(name) {
            let _ended_perhaps =
                whole.handle_state(seconds(at), &runner, &id(2), JobState::Running);
        }
    };
    let mut whole = running();
    heard(&mut whole, 599);
    assert_eq!(whole.poll(seconds(599)), []);
    heard(&mut whole, 600);
    assert_eq!(whole.poll(seconds(600)).len(), 3);
    assert!(whole.is_late());

    let mut whole = staged();
    assert!(whole.handle_asked(seconds(59), &name("site-1")));
    assert_eq!(told(&whole.poll(seconds(60))), ["site-1"]);
    assert!(!whole.is_late());

    let mut whole = running();
    completes(&mut whole, 100, "server");
    completes(&mut whole, 100, "site-1");
    heard(&mut whole, 129);
    assert_eq!(whole.poll(seconds(129)), []);
    heard(&mut whole, 130);
    assert_eq!(told(&whole.poll(seconds(130))), ["site-2"]);
}

#[derive(Clone, Debug)]
enum Event {
    Asked(usize),
    Confirmed(usize),
    State(usize, u32),
    Ended(usize, u32, Outcome),
    Missing(usize),
    Stop,
    Passed(u64),
}

const RUNNERS: [&str; 4] = ["server", "site-1", "site-2", "site-3"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let runner = || 0usize..RUNNERS.len();
    let outcome = prop::sample::select(vec![Outcome::Completed, Outcome::Failed, Outcome::Lost]);
    let event = prop_oneof![
        runner().prop_map(Event::Asked),
        runner().prop_map(Event::Confirmed),
        (runner(), 1u32..4).prop_map(|(runner, attempt)| Event::State(runner, attempt)),
        (runner(), 1u32..4, outcome)
            .prop_map(|(runner, attempt, end)| Event::Ended(runner, attempt, end)),
        runner().prop_map(Event::Missing),
        Just(Event::Stop),
        (1u64..30).prop_map(Event::Passed),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    /// Whatever is said in whatever order, a job has one end, it is `completed` only if every part said so,
    /// and once it is told to end it ends, though nobody says another word.
    #[test]
    fn a_job_has_one_end_and_reaches_it(events in events()) {
        let mut whole = staged();
        let (mut now, mut ended) = (0, None);
        let mut completed = std::collections::BTreeSet::new();
        for event in events {
            match event {
                Event::Asked(runner) => drop(whole.handle_asked(seconds(now), &name(RUNNERS[runner]))),
                Event::Confirmed(runner) => drop(whole.handle_confirmed(seconds(now), &name(RUNNERS[runner]))),
                Event::State(runner, attempt) => {
                    let _ = whole.handle_state(seconds(now), &name(RUNNERS[runner]), &id(attempt), JobState::Running);
                }
                Event::Ended(runner, attempt, outcome) => {
                    let end = End::new(outcome, "");
                    let heard = whole.handle_end(seconds(now), &name(RUNNERS[runner]), &id(attempt), end);
                    prop_assert!(heard.is_err() || attempt == 2 && runner < 3);
                    if heard.is_ok() && outcome == Outcome::Completed {
                        completed.insert(runner);
                    }
                }
                Event::Missing(runner) => drop(whole.handle_missing(seconds(now), &name(RUNNERS[runner]))),
                Event::Stop => drop(whole.stop(seconds(now), Why::Abort)),
                Event::Passed(time) => {
                    now += time;
                    whole.poll(seconds(now));
                }
            }
            if let Some(end) = &ended {
                let now_ended = whole.end();
                prop_assert_eq!(now_ended.as_ref(), Some(end));
            }
            ended = whole.end();
        }
        if ended.as_ref().is_some_and(|end| end.outcome == Outcome::Completed) {
            prop_assert_eq!(completed.len(), 3);
        }
        whole.stop(seconds(now), Why::Abort);
        whole.poll(seconds(now + TIMES.stop.as_secs()));
        prop_assert_eq!(whole.state(), JobState::Ended);
    }
}
