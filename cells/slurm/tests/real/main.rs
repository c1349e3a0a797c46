//! The launcher on a real cluster of one machine: Debian's `slurm-wlm` and `munge`, started once for all cases.
//!
//! This binary is also what the cluster runs: the step, its shim, and the programs below it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen to be tests")]

mod cases;
mod cluster;
mod daemons;
mod worker;

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use cellbus_launch::shim;
use cellbus_slurm::step;

use self::cluster::Cluster;

/// What the cases say, which is all that this prints.
pub(crate) fn say(text: &str) {
    let mut err = std::io::stderr();
    writeln!(err, "{text}").unwrap();
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let first = arguments.peek().and_then(|first| first.to_str()).unwrap_or_default().to_owned();
    if first == shim::VERB {
        let error = shim::run(arguments.skip(1));
        say(&format!("shim: {error}"));
        return ExitCode::from(126);
    }
    if first == step::VERB {
        return step::run(arguments.skip(1));
    }
    if first == worker::VERB {
        return worker::run(arguments.skip(1));
    }
    test(arguments.filter_map(|argument| argument.into_string().ok()).collect())
}

/// Runs the cases whose names have one of the words in them, as the usual harness does.
fn test(arguments: Vec<String>) -> ExitCode {
    let is_flag = |name: &str| arguments.iter().any(|argument| argument == name);
    if is_flag("--list") {
        let mut out = std::io::stdout();
        for (name, _) in cases::ALL.iter().filter(|_| !is_flag("--ignored")) {
            writeln!(out, "{name}: test").unwrap();
        }
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    let is_wanted = |name: &str| {
        let exact = is_flag("--exact");
        words.is_empty()
            || words.iter().any(|word| if exact { name == *word } else { name.contains(&**word) })
    };
    let wanted: Vec<_> = cases::ALL.iter().filter(|(name, _)| is_wanted(name)).collect();
    if wanted.is_empty() || is_flag("--ignored") {
        return ExitCode::SUCCESS;
    }
    // Ends with its cases, whatever becomes of them.
    let mut cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(why) => {
            say(&format!("no Slurm cluster can be started: {why}"));
            return ExitCode::FAILURE;
        }
    };
    let mut failed = Vec::new();
    for (name, case) in wanted {
        let begun = std::time::Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(case(&mut cluster));
        }));
        let outcome = if ended.is_ok() { "ok" } else { "FAILED" };
        say(&format!("test {name} ... {outcome} after {} s", begun.elapsed().as_secs()));
        if ended.is_err() {
            failed.push(*name);
            if let Err(error) = cluster.clear() {
                say(&error);
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("failed: {}\n{}", failed.join(", "), cluster.logs()));
    ExitCode::FAILURE
}
