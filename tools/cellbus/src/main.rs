//! The command `cellbus`: reads arguments, calls cells, prints.

mod advice;
mod args;
mod ask;
mod bench;
mod ca;
mod cert;
mod clusters;
mod codes;
mod config;
mod demo;
mod doctor;
mod exit;
mod files;
mod job;
mod join;
mod kit;
mod logs;
mod observe;
mod output;
mod passphrase;
mod policy;
mod progress;
mod provision;
mod reload;
mod report;
mod table;
mod talk;
mod target;
mod top;
mod transfer;
mod trust;
mod up;
mod watch;

use std::{
    ffi::OsString,
    panic::{self, PanicHookInfo},
    process::ExitCode,
    thread,
};

use cellbus_proto::causes::with_sources;
use clap::{CommandFactory, Parser, error::ErrorKind};
use serde_json::json;

use crate::{
    args::{Cli, Command, Completion, Errors, Look, LookAt, Target},
    codes::CliCode,
    exit::Exit,
    output::{Failure, Format, Outcome, Success, say},
    policy::Policy,
};

fn main() -> ExitCode {
    panic::set_hook(Box::new(report_panic));
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Before anything is read or opened: this process is about to be another one.
    if arguments.get(1).is_some_and(|verb| verb == cellbus_cells::LAUNCH_SHIM) {
        return shim(arguments);
    }
    if arguments.get(1).is_some_and(|verb| verb == cellbus_slurm::step::VERB) {
        return cellbus_slurm::step::run(arguments.into_iter().skip(2));
    }
    let format = args::format_of(&arguments);
    let is_process_of_a_job = arguments.last().is_some_and(|verb| {
        verb == cellbus_cells::job::process::VERB
            || verb == cellbus_cells::programs::learn::TRAINER_VERB
    });
    let outcome = match Cli::try_parse_from(arguments) {
        Ok(cli) => guarded(|| run(cli)),
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            // Help that nobody reads to its end is no error.
            let _ = error.print();
            return Exit::Ok.into();
        }
        Err(error) => Err(usage(&error)),
    };
    logs::finish();
    // What a job cell prints is what its program prints; how it ended, its exit code says.
    if is_process_of_a_job {
        return exit_of_job(&outcome);
    }
    output::print(format, &outcome).into()
}

/// Becomes the program that a launcher starts. What is printed is seen only where that fails.
fn shim(arguments: Vec<OsString>) -> ExitCode {
    const CANNOT_EXECUTE: u8 = 127;
    let program = arguments.iter().skip_while(|word| *word != "--").nth(1).cloned();
    let error = cellbus_cells::launch_shim(arguments.into_iter().skip(2));
    let program = program.unwrap_or_default();
    say(&format!("cannot run {}: {error}", program.to_string_lossy()));
    CANNOT_EXECUTE.into()
}

fn run(cli: Cli) -> Outcome {
    let Cli { global, command } = cli;
    let format = global.format;
    let command = command.unwrap_or_else(|| Command::Demo(args::Demo::default()));
    let warnings = logs::start(&global, command.runs_cells())?;
    if command.runs_cells() {
        cellbus_cells::up::keep_to_owner();
    }
    match command {
        Command::Demo(args) => demo::run(&global, &args, &warnings),
        Command::Up(args) => up::run(&global, &args),
        Command::LaunchShim { .. } => {
            let text = "a shim is started by a launcher and by nobody else";
            Err(Failure::new(CliCode::Usage, text))
        }
        Command::SlurmStep { .. } => {
            let text = "a step is started by the batch script of a cell and by nobody else";
            Err(Failure::new(CliCode::Usage, text))
        }
        Command::JobCell => job_cell(),
        Command::Bench(bench) => bench::run(&global, &bench),
        Command::BenchSide => process(cellbus_bench::side::run()),
        Command::BenchJob { role } => bench::run_job(role),
        Command::Trainer => process(block_on(trainer())),
        Command::Combiner => process(block_on(combiner())),
        Command::Status(look) => looks(format, &look, ask::status),
        Command::Cells(LookAt { target, watch }) => {
            block_on(watch::run(format, &watch, || ask::cells(target.clone())))
        }
        Command::Peers(look) => looks(format, &look, ask::peers),
        Command::Links(look) => looks(format, &look, observe::links),
        Command::Routes(look) => looks(format, &look, observe::routes),
        Command::Stats(look) => looks(format, &look, observe::stats),
        Command::DeadLetters(args) => {
            block_on(watch::run(format, &args.watch, || observe::dead_letters(args.clone())))
        }
        Command::Metrics(args) => block_on(observe::metrics(args.target())),
        Command::Top(args) => block_on(top::run(args.target())),
        Command::Trace(args) => block_on(observe::trace(args)),
        Command::Tap(args) => block_on(talk::tap(format, args)),
        Command::Serve(args) => block_on(talk::serve(format, args)),
        Command::Send(args) => block_on(ask::send(args)),
        Command::Transfer(verb) => block_on(transfer::run(format, verb)),
        Command::Ping(args) => block_on(ask::ping(args)),
        Command::Explain(args) => block_on(ask::explain(args)),
        Command::Request(args) => block_on(ask::request(format, args)),
        Command::Inspect(args) => block_on(ask::inspect(args.target())),
        Command::Drain(args) => block_on(ask::drain(args.target())),
        Command::Validate(args) => files::validate(&args),
        Command::Config(verb) => config::run(&verb),
        Command::Graph(args) => files::graph(&args),
        Command::Schema(args) => Ok(files::schema(&args)),
        Command::Policy(Policy::Check(args)) => policy::check(&args),
        Command::Policy(Policy::Test(args)) => policy::test(&args),
        Command::Policy(Policy::Explain(args)) => block_on(policy::explain(args)),
        Command::Job(job) => block_on(job::run(format, job)),
        Command::Reload(args) => block_on(reload::run(args)),
        Command::Provision(args) => provision::run(args),
        Command::Invite(args) => block_on(join::invite(&args)),
        Command::Join(args) => block_on(join::join(format, &args)),
        Command::Requests(args) => block_on(join::requests(global.format, args)),
        Command::Kit(args) => kit::run(args),
        Command::Cert(args) => cert::run(args),
        Command::Ca(verb) => block_on(ca::run(verb)),
        Command::Doctor(args) => doctor::run(args),
        Command::Cell(verb) => block_on(trust::cell(verb)),
        Command::Roster(verb) => trust::sign::roster(&verb),
        Command::Trust(verb) => block_on(trust::lists(verb)),
        Command::Errors(Errors::Ls) => Ok(codes::list()),
        Command::Errors(Errors::Explain { code }) => codes::explain(&code),
        Command::Completion(args) => Ok(completion(&args)),
    }
}

/// Looks at one running cell, once or as long as is wanted.
fn looks<L: Future<Output = Outcome>>(
    format: Format,
    look: &Look,
    at: impl Fn(Target) -> L,
) -> Outcome {
    block_on(watch::run(format, &look.watch, || at(look.cell.clone().target())))
}

/// Runs `work`; a panic in it becomes a failure that says that this program has a defect.
fn guarded(work: impl FnOnce() -> Outcome + panic::UnwindSafe) -> Outcome {
    panic::catch_unwind(work).unwrap_or_else(|_| {
        let failure = Failure::new(CliCode::Bug, "this program has a defect; see stderr");
        Err(failure.hint("please report it with what was printed"))
    })
}

/// Runs `work` where actors can be started.
fn on_actix<T>(work: impl Future<Output = T>) -> T {
    actix_rt::System::new().block_on(work)
}

async fn trainer() -> Result<(), Box<dyn std::error::Error>> {
    let bus = cellbus_channels::local::from_env().await?;
    Ok(cellbus_cells::programs::learn::train(&bus).await?)
}

async fn combiner() -> Result<(), Box<dyn std::error::Error>> {
    let bus = cellbus_channels::local::from_env().await?;
    Ok(cellbus_cells::programs::combine::run(&bus).await?)
}

/// Runs a job cell. How that ended, its exit code says.
fn job_cell() -> Outcome {
    on_actix(cellbus_cells::job::process::run()).map_or_else(
        |error| {
            let code = error.exit_code();
            process(Err(error)).map_err(|failure| failure.data(&json!({ EXIT_CODE: code })))
        },
        |()| process(Ok::<_, std::io::Error>(())),
    )
}

/// The exit code of a process of a job: that which its failure names, or that of its kind.
fn exit_of_job(outcome: &Outcome) -> ExitCode {
    let failure = match outcome {
        Ok(_) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    let named = failure.data.as_ref().and_then(|data| data[EXIT_CODE].as_u64());
    named.and_then(|code| u8::try_from(code).ok()).map_or_else(|| failure.exit.into(), Into::into)
}

/// Where the failure of a job cell says with which code it ends.
const EXIT_CODE: &str = "exit_code_of_job";

/// The outcome of a process that nobody looks at: its log says what went wrong.
fn process<E: Into<Box<dyn std::error::Error>>>(outcome: Result<(), E>) -> Outcome {
    match outcome {
        Ok(()) => Ok(Success::new(&json!({}), String::new())),
        Err(error) => {
            let text = with_sources(&*error.into());
            tracing::error!(error = text, "this process failed");
            Err(Failure::new(CliCode::Unfinished, text))
        }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the kernel gives a process an event queue").block_on(work)
}

fn completion(args: &Completion) -> Success {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cellbus", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let data = json!({ "shell": args.shell.to_string(), "script": script });
    Success::new(&data, script)
}

fn usage(error: &clap::Error) -> Box<Failure> {
    let text = error.render();
    let first = text.to_string();
    let mut paragraphs = first.trim().splitn(2, "\n\n");
    let message = paragraphs.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let failure =
        Failure::new(CliCode::Usage, message).hint("`cellbus --help` shows how to use it");
    let report = if output::stderr_is_colourful() { text.ansi().to_string() } else { first };
    Box::new(Failure { report: Some(report), ..*failure })
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    say(&format!("error: BUG: thread {name}: {info}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_defect_with_its_own_exit_code() {
        let failure = guarded(|| panic!("as a test")).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::Bug, "BUG"));
        assert_eq!(failure.exit.number(), 5);
    }
}
