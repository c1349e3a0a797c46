//! `demo`: the main job, on an embedded topology, with its own proof.

use cellbus_cells::{
    demo::{self, DemoError, DemoOptions, Federation},
    learning::report::{Check, DemoEvent},
    up::StopSignals,
};

use crate::{
    args::{Demo, Global},
    codes::CliCode,
    logs::WarnCount,
    output::{Failure, Format, Outcome, say},
    progress::Progress,
    report,
    up::chain,
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
        progress.show(&DemoEvent::Phase { name: "starting five cells".to_owned() });
        let federation = Federation::start(root.clone()).await?;
        let findings = demo::train(&federation, &options, &mut |event| progress.show(event)).await;
        progress.finish();
        let findings = match findings {
            Ok(findings) => findings,
            Err(error) => {
                federation.stop().await;
                return Err(error);
            }
        };
        if args.keep {
            keep(global.format, &root).await;
        }
        federation.stop().await;
        let mut findings = findings;
        findings.log_warn_or_error = warnings.so_far();
        Ok(demo::report(findings, &federation))
    };
    let report = crate::on_actix(work).map_err(|error| failed(&error))?;
    for Check { name, ok, value, .. } in &report.checks {
        let event = DemoEvent::Check { name: name.clone(), ok: *ok, detail: value.clone() };
        if global.format == Format::Jsonl {
            progress.show(&event);
        }
    }
    report::outcome(&report)
}

/// Leaves the cells running for whoever wants to look at them.
async fn keep(format: Format, root: &std::path::Path) {
    if format == Format::Table {
        say(&format!(
            "the cells go on until Ctrl-C; look at them with `cellbus cells --state {}`",
            root.display()
        ));
    }
    if let Ok(mut signals) = StopSignals::listen() {
        signals.next().await;
    }
}

fn failed(error: &DemoError) -> Box<Failure> {
    Failure::new(CliCode::CheckFailed, chain(error))
}
