//! A real federation, and a peer that sends it whatever a test wants.
//!
//! ```text
//!   server ─┬─ relay ─┬─ site-1            started, honest
//!           │         ├─ site-4
//!           │         └─ (y)               provisioned, not started: a test speaks with their certificates
//!           ├─ site-2
//!           ├─ (x)  (z)
//!           └─ (relay-x) ── (site-8)  (site-9)
//! ```
//! Everything runs on the thread of the test, over loopback QUIC, with real certificates. [`attack`] starts it, runs
//! a scenario, and checks afterwards that the honest cells still reach one another.

pub mod first_packet;
pub mod middle;
pub mod papers;
pub mod peer;
pub mod rogue_parent;
pub mod socket;
pub mod target;
pub mod wire;

use std::time::Duration;

use cellbus_harness::guard::LogGuard;

pub use self::{
    papers::{Forger, Papers},
    peer::{Closed, Outcome, RawPeer},
    target::{Snapshot, Target},
};

/// Real time after which a scenario has failed.
const LIMIT: Duration = Duration::from_secs(50);

/// Runs `scenario` against a federation of its own.
///
/// The scenario gets the guard, to announce the WARN and ERROR events that its attack causes; any other fails the
/// test. Afterwards every honest cell must still be reachable.
///
/// # Panics
/// When the scenario does, when it takes too long, or when an honest cell suffered.
pub fn attack(scenario: impl AsyncFnOnce(&Target, &LogGuard)) {
    // Attackers come and go all the time; what that alone leads to has scenarios of its own.
    attack_with("returns_per_minute_max = 100000", scenario);
}

/// [`attack`] on a federation with these lines in the `[limits]` of its topology.
///
/// # Panics
/// As [`attack`].
pub fn attack_with(limits: &str, scenario: impl AsyncFnOnce(&Target, &LogGuard)) {
    let guard = LogGuard::start();
    let system = actix_rt::System::new();
    system.block_on(async {
        let run = async {
            let target = Target::up(limits).await;
            scenario(&target, &guard).await;
            target.assert_calm().await;
        };
        tokio::time::timeout(LIMIT, run).await.expect("an attack does not take that long");
    });
    drop(system);
    drop(guard);
}
