//! How scenarios end.

use std::{cell::RefCell, panic::catch_unwind, rc::Rc};

use tokio::time::{Instant, sleep};

use super::*;

fn message(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it panics");
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| (*panic.downcast_ref::<&str>().expect("a text")).to_owned())
}

#[test]
fn the_clock_jumps_and_the_result_comes_back() {
    let real = std::time::Instant::now();
    let slept = run_paused(7, |seed| async move {
        let start = Instant::now();
        sleep(Duration::from_secs(1800)).await;
        (seed, start.elapsed())
    });
    assert_eq!(slept, (7, Duration::from_secs(1800)));
    assert!(real.elapsed() < Duration::from_secs(600));
}

#[test]
fn a_panic_of_the_scenario_is_the_panic_of_the_test_and_ends_the_system() {
    let held = Rc::new(());
    let seen = Rc::downgrade(&held);
    let said = message(|| {
        run_paused(9, |_| async move {
            actix_rt::spawn(async move {
                sleep(Duration::from_secs(9)).await;
                drop(held);
            });
            sleep(Duration::from_secs(1)).await;
            panic!("wrong answer");
        });
    });
    assert_eq!(said, "wrong answer");
    assert!(seen.upgrade().is_none(), "a task has outlived its system");
    assert_eq!(current_seed(), Some(9));
    // The next one on the same thread is not bothered.
    run_paused(10, |_| async { sleep(Duration::from_secs(1)).await });
    assert_eq!(current_seed(), None);
}

#[test]
fn a_panic_of_a_task_fails_the_scenario() {
    let said = message(|| {
        run_paused(1, |_| async {
            actix_rt::spawn(async { panic!("in the dark") });
            sleep(Duration::from_secs(1)).await;
        });
    });
    assert!(said.starts_with("a task of the scenario panicked: in the dark ("), "{said}");
}

#[test]
fn a_scenario_that_waits_for_nothing_ends() {
    let said = message(|| run_paused(1, |_| std::future::pending::<()>()));
    assert!(said.contains("has not ended after 3600s"), "{said}");
    let said = message(|| {
        run_paused_within(Duration::from_secs(5), 1, |_| sleep(Duration::from_secs(6)));
    });
    assert!(said.contains("has not ended after 5s"), "{said}");
}

#[test]
fn every_seed_runs_until_one_fails() {
    let ran = RefCell::new(Vec::new());
    let ran_ref = &ran;
    let said = message(|| {
        for_each_seed(&[4, u64::MAX, 6], |seed| async move {
            ran_ref.borrow_mut().push(seed);
            assert_ne!(seed, u64::MAX, "the last");
        });
    });
    assert!(said.contains("the last"), "{said}");
    let ran = ran.into_inner();
    assert!(ran.ends_with(&[4, u64::MAX]), "{ran:?}");
}

#[test]
fn actors_run_on_the_paused_clock() {
    run_paused(1, |_| async {
        let start = Instant::now();
        actix_rt::spawn(sleep(Duration::from_secs(100))).await.expect("it sleeps");
        assert_eq!(start.elapsed(), Duration::from_secs(100));
    });
}
