//! Tests that need a process of their own: what they look at is shared by all tests of one.

use std::{env, process::Command};

const VARIABLE: &str = "CELLBUS_ALONE";

/// Runs a test of this binary again, without any other, in a process of its own; gives what it printed. In that
/// process it gives nothing, for the test to go on.
///
/// ```no_run
/// fn c8_nothing_stays_open() {
///     if cellbus_harness::alone::run("c8_nothing_stays_open").is_some() {
///         return;
///     }
///     // Nobody else opens a file from here on.
/// }
/// ```
///
/// # Arguments
/// `test`: its name with its path, as the test runner prints it.
///
/// # Panics
/// When the test fails there, or there is no such test.
#[track_caller]
pub fn run(test: &str) -> Option<String> {
    if env::var_os(VARIABLE).is_some() {
        return None;
    }
    let child = Command::new(env::current_exe().expect("a process knows its program"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, test)
        .output()
        .expect("the program can run twice");
    let [said, complained] =
        [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let ran = child.status.success() && said.contains("1 passed");
    assert!(ran, "{test}, alone, gives {}:\n{said}{complained}", child.status);
    Some(said)
}

#[cfg(test)]
mod tests;
