//! Runs scenarios on a paused clock, for several seeds each.
//!
//! ```
//! use std::time::Duration;
//! use cellbus_harness::seeds::for_each_seed;
//!
//! for_each_seed(&[1, 2, 3], |seed| async move {
//!     tokio::time::sleep(Duration::from_secs(60)).await; // takes no time
//!     assert_ne!(seed, 0);
//! });
//! ```
//!
//! With `CELLBUS_SEED` in the environment every scenario runs for that seed first.

use std::{
    cell::Cell,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use actix_rt::System;

use crate::guard::panics;

/// Simulated time after which a scenario is taken for one that waits for nothing.
pub const LIMIT: Duration = Duration::from_secs(3600);

const VARIABLE: &str = "CELLBUS_SEED";

thread_local! {
    static CURRENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed of the scenario that runs on this thread, or of the one that just failed.
#[must_use]
pub fn current_seed() -> Option<u64> {
    CURRENT.get()
}

/// Runs `scenario` for the seed in `CELLBUS_SEED`, if any, and then for each of `fixed`. The first that fails ends it.
///
/// # Panics
/// When a scenario does, see [`run_paused`], and for a `CELLBUS_SEED` that is no number.
pub fn for_each_seed<F, Fut>(fixed: &[u64], scenario: F)
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = ()>,
{
    let wanted = std::env::var(VARIABLE).ok();
    let wanted = wanted.map(|text| text.parse().expect("CELLBUS_SEED is a number"));
    for seed in wanted.into_iter().chain(fixed.iter().copied()) {
        run_paused(seed, &scenario);
    }
}

/// Runs `scenario` on a runtime of its own: one thread, a paused clock, and an actix system. Gives what it gives.
///
/// The clock jumps to the next timer whenever nothing else is left to do. Nothing may wait for anything but
/// timers and other tasks of the runtime: the clock would not wait for it.
///
/// # Panics
/// When the scenario does, prints the seed and panics likewise, after the system has ended. Also when any task on
/// this thread panicked, unless a [`crate::guard::LogGuard`] answers for that, and after [`LIMIT`].
pub fn run_paused<F, Fut, T>(seed: u64, scenario: F) -> T
where
    F: FnOnce(u64) -> Fut,
    Fut: Future<Output = T>,
{
    run_paused_within(LIMIT, seed, scenario)
}

/// [`run_paused`] with another limit to the simulated time, for a scenario that takes long.
///
/// # Panics
/// As [`run_paused`], with `limit` for [`LIMIT`].
pub fn run_paused_within<F, Fut, T>(limit: Duration, seed: u64, scenario: F) -> T
where
    F: FnOnce(u64) -> Fut,
    Fut: Future<Output = T>,
{
    let is_watched = panics::is_watched();
    let watch = panics::Watch::start();
    CURRENT.set(Some(seed));
    // Nothing that the scenario could leave half done is looked at afterwards.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(limit, seed, scenario)));
    drop(watch);
    let unnoticed = if is_watched { Vec::new() } else { panics::take() };
    match outcome {
        Ok(value) if unnoticed.is_empty() => {
            CURRENT.set(None);
            value
        }
        Ok(_) => {
            print(seed);
            panic!("a task of the scenario panicked: {}", unnoticed.join("; "));
        }
        Err(panic) => {
            print(seed);
            resume_unwind(panic);
        }
    }
}

fn run<F, Fut, T>(limit: Duration, seed: u64, scenario: F) -> T
where
    F: FnOnce(u64) -> Fut,
    Fut: Future<Output = T>,
{
    let runner = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread needs little")
    });
    let system = System::current();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runner.block_on(async { tokio::time::timeout(limit, scenario(seed)).await })
    }));
    // Also after a panic: arbiters on other threads end only when they are told.
    system.stop();
    let stopped = runner.run();
    let outcome = outcome.unwrap_or_else(|panic| resume_unwind(panic));
    stopped.expect("the system ends when it is told");
    outcome.unwrap_or_else(|_| {
        panic!("the scenario has not ended after {limit:?} of simulated time; does it wait for nothing?")
    })
}

#[expect(clippy::print_stderr, reason = "the test runner shows it with the test that failed")]
fn print(seed: u64) {
    eprintln!("the scenario failed for seed {seed}; repeat it with {VARIABLE}={seed}");
}

#[cfg(test)]
mod tests;
