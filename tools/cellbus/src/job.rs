//! `job`: runs a job on a running topology, and asks about jobs.

use std::{path::PathBuf, time::Duration};

use cellbus_cells::{
    config,
    control::{
        Event, JobAsk, JobAttachAsk, JobLogsAsk, JobMeeting, JobRunAsk, Next, Reply, Request,
    },
    job::{JOB_FILE, JobReport, LogRow, PartReport},
};
use cellbus_proto::{
    job::{JobState, Outcome as JobOutcome},
    name::Segment,
};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::{
    args::Target,
    codes::CliCode,
    files,
    output::{Failure, Format, Outcome, Success, print_text, printable, say},
    table::{Table, or_dash, time},
    target::{ask, converse},
};

/// Verbs of `job`.
#[derive(Debug, Subcommand)]
pub enum Job {
    /// Runs the job that a directory describes, and follows it to its end; Ctrl-C ends the job
    Run(Run),
    /// Lists the jobs of the server, the latest first
    Ls(Ls),
    /// Shows one job with all its parts
    Show(One),
    /// Shows what a job has printed
    Logs(Logs),
    /// Ends a job
    Cancel(Cancel),
    /// Lets one process of your own into the part of a job that waits for one: a notebook, a debugger
    Attach(Attach),
}

/// Arguments of `job run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The directory with the job's `job.toml`
    pub dir: PathBuf,
    /// Which running server; the one of the topology, if none is named.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `job ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// Which running server.
    #[command(flatten)]
    pub target: Target,
}

/// One job.
#[derive(Args, Debug)]
pub struct One {
    /// The job
    pub job: Segment,
    /// Which running server.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `job logs`.
#[derive(Args, Debug)]
pub struct Logs {
    /// The job
    pub job: Segment,
    /// Go on until the job ends
    #[arg(short, long)]
    pub follow: bool,
    /// Which running server.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `job cancel`.
#[derive(Args, Debug)]
pub struct Cancel {
    /// The job
    pub job: Segment,
    /// Do not wait until nothing of it runs
    #[arg(long)]
    pub no_wait: bool,
    /// Which running server.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `job attach`.
#[derive(Args, Debug)]
pub struct Attach {
    /// The job
    pub job: Segment,
    /// For how long the way in is open; asking again opens another one
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(JobAttachAsk::MAX_S)))]
    pub lifetime_s: u32,
    /// Which running cell; its part is the one that waits.
    #[command(flatten)]
    pub target: Target,
}

/// What `job logs` says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Printed {
    /// Lines that were shown.
    pub count: u64,
    /// The lines, with `-o json`.
    pub lines: Vec<LogRow>,
}

/// `job`.
pub async fn run(format: Format, job: Job) -> Outcome {
    match job {
        Job::Run(args) => start(format, args).await,
        Job::Ls(args) => list(args).await,
        Job::Show(args) => show(args).await,
        Job::Logs(args) => logs(format, args).await,
        Job::Cancel(args) => cancel(args).await,
        Job::Attach(args) => attach(args).await,
    }
}

async fn start(format: Format, args: Run) -> Outcome {
    let Run { dir, target } = args;
    // Said here with its place in the file, as for a topology; the server reads it again.
    let file = config::load_job(&dir.join(JOB_FILE)).map_err(|report| files::refused(&report))?;
    let dir = dir.canonicalize().map_err(|error| input(&dir, &error))?;
    let dir = dir
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(CliCode::Input, format!("{} is no text", dir.display())))?;
    let request = Request::JobRun(JobRunAsk { dir });
    let mut talk = converse(&target, request).await?;
    let mut is_asked = false;
    let mut before: Option<JobReport> = None;
    loop {
        let next = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => None,
            next = talk.next() => Some(next?),
        };
        match next {
            None if is_asked => {
                let text = format!("job `{}` is still ending", file.name);
                let hint = format!("`cellbus job show {}` says what runs", file.name);
                return Err(Failure::new(CliCode::Unfinished, text).hint(hint));
            }
            None => {
                is_asked = true;
                say(&format!("ending job `{}`; Ctrl-C again leaves it to itself", file.name));
                end(&target, &file.name).await?;
            }
            Some(Next::Event(event)) => shown(format, &event, &mut before),
            Some(Next::End(Reply::Job(report))) => return outcome(&report),
            Some(Next::End(_)) => return Err(bad_reply()),
        }
    }
}

async fn list(args: Ls) -> Outcome {
    let reports: Vec<JobReport> = ask(&args.target, Request::JobLs).await?;
    let mut table = Table::new(["JOB", "ATTEMPT", "STATE", "OUTCOME", "PARTS", "TOOK"]);
    for report in &reports {
        let took =
            report.ended_unix.map(|end| time(1000 * end.saturating_sub(report.started_unix)));
        table.row([
            report.job.as_str(),
            &report.attempt.to_string(),
            report.state.as_str(),
            &or_dash(report.outcome.as_ref()),
            &report.parts.len().to_string(),
            &or_dash(took.as_ref()),
        ]);
    }
    Ok(Success::new(&reports, table.render()))
}

async fn show(args: One) -> Outcome {
    let report: Box<JobReport> =
        ask(&args.target, Request::JobShow(JobAsk { job: args.job })).await?;
    Ok(Success::new(&report, rendered(&report)))
}

async fn logs(format: Format, args: Logs) -> Outcome {
    let Logs { job, follow, target } = args;
    let mut talk = converse(&target, Request::JobLogs(JobLogsAsk { job, follow })).await?;
    let mut printed = Printed::default();
    loop {
        let next = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => break,
            next = talk.next() => next?,
        };
        let Next::Event(event) = next else { break };
        let Event::JobLog(row) = &event else { continue };
        printed.count += 1;
        let shown = match format {
            Format::Json => {
                printed.lines.push(row.clone());
                Ok(())
            }
            Format::Jsonl => print_text(&json_line(&event)),
            Format::Table => print_text(&line_of(row)),
        };
        if shown.is_err() {
            break;
        }
    }
    Ok(Success::new(&printed, String::new()))
}

async fn cancel(args: Cancel) -> Outcome {
    const LOOK: Duration = Duration::from_millis(200);
    let Cancel { job, no_wait, target } = args;
    let mut report: Box<JobReport> =
        ask(&target, Request::JobCancel(JobAsk { job: job.clone() })).await?;
    while !no_wait && report.state != JobState::Ended {
        tokio::time::sleep(LOOK).await;
        report = ask(&target, Request::JobShow(JobAsk { job: job.clone() })).await?;
    }
    Ok(Success::new(&report, rendered(&report)))
}

async fn attach(args: Attach) -> Outcome {
    let Attach { job, lifetime_s, target } = args;
    let asked = JobAttachAsk { job: job.clone(), lifetime_s };
    let meeting: JobMeeting = ask(&target, Request::JobAttach(asked)).await?;
    let (file, work) = (meeting.file.display(), meeting.work_dir.display());
    let text = format!(
        "{} waits for one process of this user, for {lifetime_s} s\n\nfile:    {file}\nfiles:   {work}\n\n\
         Python:  bus = cellbus.connect(rendezvous=\"{file}\")\n\
         Rust:    let bus = cellbus_channels::local::connect_attached(\"{file}\".as_ref()).await?;\n",
        meeting.cell
    );
    Ok(Success::new(&meeting, printable(&text)))
}

async fn end(target: &Target, job: &Segment) -> Result<(), Box<Failure>> {
    let asked =
        ask::<Box<JobReport>>(target, Request::JobCancel(JobAsk { job: job.clone() })).await;
    match asked {
        // It has ended meanwhile, which the conversation says.
        Err(failure) if failure.code == "JOB_OVER" => Ok(()),
        asked => asked.map(drop),
    }
}

/// Shows what happens: events for programs; for people how far the job is on stderr, what it prints on stdout.
fn shown(format: Format, event: &Event, before: &mut Option<JobReport>) {
    // Nobody reading is no reason to end a job.
    let _ = match (format, event) {
        (Format::Json, _) => Ok(()),
        (Format::Jsonl, event) => print_text(&json_line(event)),
        (Format::Table, Event::JobLog(row)) => print_text(&line_of(row)),
        (Format::Table, Event::Job(report)) => {
            tell_progress(before.as_ref(), report);
            if before.as_ref().is_none_or(|before| before.state != report.state) {
                say(&printable(&format!(
                    "job {} #{}: {}",
                    report.job, report.attempt, report.state
                )));
            }
            *before = Some(report.clone());
            Ok(())
        }
        (
            Format::Table,
            Event::Ready { .. }
            | Event::Tapped(_)
            | Event::Delivery(_)
            | Event::Reply(_)
            | Event::Transfer(_),
        ) => Ok(()),
    };
}

/// Says how far each program is that has said something new.
fn tell_progress(before: Option<&JobReport>, now: &JobReport) {
    for part in &now.parts {
        let was = before.and_then(|before| before.parts.iter().find(|was| was.cell == part.cell));
        let Some(progress) = &part.progress else { continue };
        if was.and_then(|was| was.progress.as_ref()) != Some(progress) {
            say(&printable(&format!("{}: {progress}", part.cell)));
        }
    }
}

fn json_line(event: &Event) -> String {
    serde_json::to_string(event).expect("events are plain data")
}

fn line_of(row: &LogRow) -> String {
    printable(&format!("{}| {}", row.cell, row.text))
}

/// The end of a job as that of the command.
fn outcome(report: &JobReport) -> Outcome {
    let human = rendered(report);
    let detail = report.detail.clone().unwrap_or_default();
    let code = match report.outcome {
        Some(JobOutcome::Completed) => return Ok(Success::new(report, human)),
        Some(JobOutcome::Failed) if report.is_late => CliCode::JobLate,
        Some(JobOutcome::Failed) if detail.contains("COMPONENT_NOT_ALLOWED") => CliCode::JobDenied,
        Some(JobOutcome::Failed) => CliCode::JobFailed,
        Some(JobOutcome::Aborted) => CliCode::JobAborted,
        Some(JobOutcome::Lost) | None => CliCode::JobLost,
    };
    let text = format!("job `{}`: {detail}", report.job);
    let hint = format!("`cellbus job logs {}` shows what it printed", report.job);
    let failure = Failure::new(code, text).hint(hint).data(report);
    Err(Box::new(Failure { human: Some(human), ..*failure }))
}

fn rendered(report: &JobReport) -> String {
    let mut text = format!("job {} #{}: {}", report.job, report.attempt, report.state);
    if let Some(outcome) = report.outcome {
        text.push_str(&format!(", {outcome}"));
    }
    if let Some(detail) = &report.detail {
        text.push_str(&format!(" ({detail})"));
    }
    if let Some(run) = report.run {
        text.push_str(&format!("\nrun {run}"));
    }
    text.push_str("\n\n");
    let mut table = Table::new(["CELL", "STATE", "OUTCOME", "GROUP", "PROGRESS", "DETAIL"]);
    for part in &report.parts {
        let outcome = or_dash(part.outcome.as_ref());
        table.row([
            part.cell.as_str(),
            part.state.as_str(),
            &outcome,
            group_of(part),
            &or_dash(part.progress.as_ref()),
            &or_dash(part.detail.as_ref()),
        ]);
    }
    text.push_str(&table.render());
    printable(&text)
}

/// Whether a part has a control group of its own.
fn group_of(part: &PartReport) -> &'static str {
    match part.is_grouped {
        Some(true) => "own",
        Some(false) => "none",
        None => "-",
    }
}

fn bad_reply() -> Box<Failure> {
    cellbus_cells::control::ControlError::local(
        cellbus_cells::control::LocalCode::ControlBadReply,
        "the server said something else about the job",
    )
    .into()
}

fn input(dir: &std::path::Path, error: &std::io::Error) -> Box<Failure> {
    Failure::new(CliCode::Input, format!("{}: {error}", dir.display()))
}
