//! `demo`: the main job, on an embedded topology, with its own proof.

use std::path::Path;

use cellbus_cells::{
    demo::{self, DemoError, DemoOptions, Federation},
    learning::report::{Check, DemoEvent, Findings},
    up::StopSignals,
};
use cellbus_proto::causes::with_sources;

use crate::{
    args::{Demo, Global},
    codes::CliCode,
    logs::WarnCount,
    output::{Failure, Format, Outcome, say},
    progress::Progress,
    report,
};

/// Runs the demo and says whether its claims hold.
pub fn run(global: &Global, args: &Demo, warnings: &WarnCount) -> Outcome {
    let state = tempfile::Builder::new()
        .prefix("cellbus-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir()
        .map_err(|error| Failure::new(CliCode::Input, format!("temporary directory: {error}")))?;
    let root = state.path().join("digits-demo");
    let progress = Progress::new(global.format);
    let options = DemoOptions { rounds: args.rounds };
    let work = async {
        let mut signals = StopSignals::listen().map_err(|error| {
            Failure::new(CliCode::Input, format!("no signal can be heard: {error}"))
        })?;
        progress.show(&DemoEvent::Phase { name: "starting five cells".to_owned() });
        let starting = Federation::start(root.clone());
        let federation = unless_interrupted(&mut signals, starting).await?;
        let mut show = |event: &DemoEvent| progress.show(event);
        let training = demo::train(&federation, &options, &mut show);
        let findings = unless_interrupted(&mut signals, training).await;
        progress.finish();
        if findings.is_ok() && args.keep {
            say_where(global.format, &root);
            signals.next().await;
        }
        tokio::select! {
            biased;
            () = federation.stop() => {}
            () = signals.next() => return Err(interrupted()),
        }
        let findings = Findings { log_warn_or_error: warnings.so_far(), ..findings? };
        Ok(demo::report(findings, &federation))
    };
    let report = crate::on_actix(work)?;
    for Check { name, ok, value, .. } in &report.checks {
        let event = DemoEvent::Check { name: name.clone(), ok: *ok, detail: value.clone() };
        if global.format == Format::Jsonl {
            progress.show(&event);
        }
    }
    report::outcome(&report)
}

/// What `work` gives, unless a signal comes first.
async fn unless_interrupted<T>(
    signals: &mut StopSignals,
    work: impl Future<Output = Result<T, DemoError>>,
) -> Result<T, Box<Failure>> {
    tokio::select! {
        biased;
        outcome = work => outcome.map_err(|error| failed(&error)),
        () = signals.next() => Err(interrupted()),
    }
}

/// Says to whoever wants to look at the cells how.
fn say_where(format: Format, root: &Path) {
    if format == Format::Table {
        say(&format!(
            "the cells go on until Ctrl-C; look at them with `cellbus cells --state {}`",
            root.display()
        ));
    }
}

fn interrupted() -> Box<Failure> {
    Failure::new(CliCode::Unfinished, "interrupted before it was done")
}

fn failed(error: &DemoError) -> Box<Failure> {
    Failure::new(CliCode::CheckFailed, with_sources(error))
}
