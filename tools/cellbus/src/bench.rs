//! `bench`: how fast cells are, beside the limit of what carries them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use cellbus_bench::{
    BenchError, BenchEvent, Options, Program,
    local::{
        Attached, LocalOptions, LocalReport, LocalRound,
        jobs::{Held, JobFigures, Role},
    },
    measure::{Family, Measure},
    report::{Report, Spread, Summary},
    row::Row,
};
use cellbus_cells::up::StopSignals;
use cellbus_proto::causes::with_sources;
use clap::{Args, Subcommand, ValueEnum};

use crate::{
    args::Global,
    codes::CliCode,
    output::{Failure, Format, Outcome, Success, print_event, say},
    table::Table,
};

/// The hidden command as which a measured process runs.
pub const SIDE: &str = "bench-side";

/// Verbs of `bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Requests and their replies: rr_SIZE_cCALLERS, also with relay_, fwd_ or job_ before it; outstanding_REQUESTS
    Request(BenchArgs),
    /// Messages without replies: ff_SIZE, also with relay_ or fwd_ before it
    Publish(BenchArgs),
    /// One object to many receivers: fan_RECEIVERS_SIZE, also with _relay or _relay2 behind it
    Fanout(BenchArgs),
    /// Objects of any size: bulk_SIZE_drop, _keep or _file, also with relay_ or fwd_ before it
    Transfer(BenchArgs),
    /// Connections: connect, start, idle_CELLS
    Connect(BenchArgs),
    /// Job code and its cell over the local socket, beside plain ping-pong
    Local(LocalArgs),
}

/// Arguments of `bench local`.
#[derive(Args, Debug)]
pub struct LocalArgs {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Time in which round trips are counted, for each round and peer
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Bytes in a request and in its reply
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=65536))]
    size: u32,
    /// MiB that are attached
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=4096))]
    attachment: u32,
    /// Jobs of which the time to their first task is taken
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    launches: u32,
    /// Jobs that are started and ended, after which it is counted what they left
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    jobs: u32,
}

/// Arguments of every verb of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Measure this, and nothing but what is named so; may be given again
    #[arg(short, long = "measure", value_name = "NAME")]
    pub measures: Vec<Measure>,
    /// Measure this beside cells, in turns
    #[arg(long, value_enum)]
    pub baseline: Option<Baseline>,
    /// Add the measures that show how cost grows
    #[arg(long)]
    pub growth: bool,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How often a row is measured before it is left noisy
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=20))]
    pub attempts: u32,
    /// Time in which something is counted, for each row
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// Write what was found to this file
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Put what was found beside what this file says
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

/// What cells are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Baseline {
    /// Plain QUIC with the same TLS, windows and sockets
    Raw,
}

/// Reads what a program of a measured job does.
pub fn role(text: &str) -> Result<Role, String> {
    Role::find(text).ok_or_else(|| "a program of a job `gives` or `takes`".to_owned())
}

/// Runs as a program of a measured job.
pub fn run_job(role: Role) -> Outcome {
    let said = crate::block_on(cellbus_bench::local::jobs::program(role));
    let said = said.map_err(|error| Failure::new(CliCode::Unfinished, with_sources(&error)))?;
    Ok(Success::new(&said, String::new()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.02..=600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a time is from 0.02 to 600".to_owned())
}

/// Measures what is asked for.
pub fn run(global: &Global, bench: &Bench) -> Outcome {
    match bench {
        Bench::Request(args) => run_family(global, Family::Request, args),
        Bench::Publish(args) => run_family(global, Family::Publish, args),
        Bench::Fanout(args) => run_family(global, Family::Fanout, args),
        Bench::Transfer(args) => run_family(global, Family::Transfer, args),
        Bench::Connect(args) => run_family(global, Family::Connect, args),
        Bench::Local(args) => run_local(args),
    }
}

fn run_local(args: &LocalArgs) -> Outcome {
    let LocalArgs { rounds, seconds, size, attachment, launches, jobs } = *args;
    let options = LocalOptions {
        rounds,
        window: seconds,
        payload: size as usize,
        attachment: u64::from(attachment) << 20,
        launches,
        jobs,
    };
    let found = cellbus_bench::local::run(&options);
    let report = found.map_err(|error| Failure::new(CliCode::Unfinished, with_sources(&error)))?;
    let human = render_local(&report);
    Ok(Success::new(&report, human))
}

fn render_local(report: &LocalReport) -> String {
    let mut rounds = Table::new(["ROUND", "CELLBUS/S", "PLAIN/S", "RATIO"]);
    for (number_of, LocalRound { cellbus, plain }) in (1..).zip(&report.rounds) {
        let number_of: u32 = number_of;
        let ratio = format!("{:.2}", cellbus / plain);
        rounds.row([&number_of.to_string(), &number(*cellbus), &number(*plain), &ratio]);
    }
    let mut attached = Table::new(["ATTACHED MIB", "HANDED OVER ms", "SERVED ms", "GROWN MIB"]);
    for Attached { bytes, handed_over_ms, taken_ms, grown_mib } in &report.attachments {
        let mib = (bytes >> 20).to_string();
        let figures = [handed_over_ms, taken_ms, grown_mib].map(|figure| number(*figure));
        attached.row([&mib, &figures[0], &figures[1], &figures[2]]);
    }
    let JobFigures { jobs, seconds, before, after, first_task_median_ms, .. } = &report.jobs;
    let mut held = Table::new(["JOBS", "DESCRIPTORS", "PROCESSES", "FILES", "BYTES"]);
    let both = [("before".to_owned(), before), (format!("after {jobs}"), after)];
    for (when, Held { descriptors, processes, files, bytes }) in both {
        let figures = [descriptors, processes, files, bytes].map(u64::to_string);
        held.row([&when, &figures[0], &figures[1], &figures[2], &figures[3]]);
    }
    let (ratio, first) = (report.ratio, number(*first_task_median_ms));
    format!(
        "{}\n\n{}\n\n{}\n\nmedian ratio {ratio:.2}\nfrom the start of a job to its first task: median {first} ms\n\
         {jobs} jobs in {} s",
        rounds.render(),
        attached.render(),
        held.render(),
        number(*seconds)
    )
}

fn run_family(global: &Global, family: Family, args: &BenchArgs) -> Outcome {
    let earlier = args.compare.as_deref().map(read).transpose()?;
    // Opened before anything is measured: what cannot be kept is not worth the time.
    let open = |path: &PathBuf| {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map(|opened| (path.clone(), opened)).map_err(|error| file(path, &error))
    };
    let saved = args.save.as_ref().map(open).transpose()?;
    let path = std::env::current_exe()
        .map_err(|error| Failure::new(CliCode::Input, format!("this program: {error}")))?;
    let mut arguments = vec![SIDE.to_owned()];
    if let Some(filter) = &global.log {
        arguments.extend(["--log".to_owned(), filter.clone()]);
    }
    let options = Options {
        measures: measures(family, args)?,
        raw: args.baseline.is_some(),
        rounds: args.rounds,
        attempts: args.attempts,
        window: args.seconds,
        program: Program { path, arguments },
    };
    let mut show = |event: &BenchEvent<'_>| show(global.format, event);
    let mut report = crate::block_on(async {
        let mut signals = StopSignals::listen().map_err(|error| {
            Failure::new(CliCode::Input, format!("no signal can be heard: {error}"))
        })?;
        tokio::select! {
            biased;
            () = signals.next() => Err(Failure::new(CliCode::Unfinished, "interrupted")),
            report = cellbus_bench::run(&options, &mut show) => report.map_err(|e| failed(&e)),
        }
    })?;
    if let Some(earlier) = &earlier {
        report.compare(earlier);
    }
    if let Some((path, mut saved)) = saved {
        let text = serde_json::to_string_pretty(&report).expect("a report is plain data");
        let written = saved.set_len(0).and_then(|()| saved.write_all((text + "\n").as_bytes()));
        written.map_err(|error| file(&path, &error))?;
    }
    outcome(&report)
}

fn measures(family: Family, args: &BenchArgs) -> Result<Vec<Measure>, Box<Failure>> {
    if let Some(odd) = args.measures.iter().find(|measure| measure.family() != family) {
        let text = format!("`{odd}` is measured by another verb of `cellbus bench`");
        return Err(Failure::new(CliCode::Usage, text).hint("`cellbus bench --help` lists them"));
    }
    let mut wanted = args.measures.clone();
    if wanted.is_empty() {
        wanted = family.usual();
    }
    if args.growth {
        wanted.extend(family.growth());
    }
    let mut measures = Vec::new();
    for measure in wanted {
        if !measures.contains(&measure) {
            measures.push(measure);
        }
    }
    Ok(measures)
}

fn read(path: &Path) -> Result<Report, Box<Failure>> {
    let text = fs::read_to_string(path).map_err(|error| file(path, &error))?;
    serde_json::from_str(&text).map_err(|error| {
        let text = format!("{} is no report: {error}", path.display());
        Failure::new(CliCode::Input, text).hint("--save writes one")
    })
}

fn file(path: &Path, error: &io::Error) -> Box<Failure> {
    Failure::new(CliCode::Input, format!("{}: {error}", path.display()))
}

fn failed(error: &BenchError) -> Box<Failure> {
    Failure::new(CliCode::Unfinished, with_sources(error))
}

fn show(format: Format, event: &BenchEvent<'_>) {
    match (format, event) {
        (Format::Jsonl, event) => print_event(event),
        (Format::Table, BenchEvent::Measured { row }) => say(&line(row)),
        (Format::Table, BenchEvent::Measuring { .. }) | (Format::Json, _) => {}
    }
}

fn line(row: &Row) -> String {
    let Row { measure, peer, round, .. } = row;
    let mut text = format!("round {round}: {measure} {peer}");
    for (figure, unit) in [
        (row.rate, "/s"),
        (row.mb_s, " MB/s"),
        (row.growth_mib, " MiB growth"),
        (row.copies, " copies"),
        (row.kib_per_cell, " KiB per cell"),
        (row.kib_per_request, " KiB per request"),
    ] {
        text.extend(figure.map(|figure| format!(", {}{unit}", number(figure))));
    }
    text.extend(row.p50_us.map(|p50| format!(", p50 {} µs", number(p50))));
    if row.noisy {
        text.push_str(&format!(", noisy: others use {:.2} cores", row.foreign));
    }
    if row.failed > 0 {
        let why = row.why.as_deref().unwrap_or("nobody said why");
        text.push_str(&format!(", {} FAILED: {why}", row.failed));
    }
    text
}

/// Good only when every message went where it should.
fn outcome(report: &Report) -> Outcome {
    let human = render(report);
    if report.is_whole() {
        return Ok(Success::new(&report, human));
    }
    let text = "messages failed or were lost; the rows say which";
    let failure = Failure::new(CliCode::CheckFailed, text).data(report);
    Err(Box::new(Failure { human: Some(human), ..*failure }))
}

fn render(report: &Report) -> String {
    let mut rows = Table::new([
        "MEASURE",
        "PEER",
        "RATE/S",
        "MIN..MAX",
        "P50 µs",
        "P99 µs",
        "P99.9 µs",
        "CPU µs",
        "MIB",
        "MB/S",
        "GROWTH MIB",
        "COPIES",
        "KIB EACH",
        "NOTE",
    ]);
    for summary in &report.summary {
        let shown = |spread: Option<Spread>| {
            spread.map_or_else(|| "-".to_owned(), |spread| number(spread.median))
        };
        let extremes =
            summary.rate.map(|Spread { min, max, .. }| format!("{}..{}", number(min), number(max)));
        rows.row([
            &summary.measure,
            &summary.peer,
            &shown(summary.rate),
            &extremes.unwrap_or_else(|| "-".to_owned()),
            &shown(summary.p50_us),
            &shown(summary.p99_us),
            &shown(summary.p999_us),
            &shown(summary.cpu_us_each),
            &format!("{:.1}", summary.peak_mib),
            &shown(summary.mb_s),
            &shown(summary.growth_mib),
            &shown(summary.copies),
            &shown(summary.kib_per_cell.or(summary.kib_per_request)),
            &note(summary),
        ]);
    }
    let mut text = rows.render();
    if !report.ratios.is_empty() {
        let mut ratios = Table::new(["RATIO", "MEDIAN", "MIN..MAX"]);
        for (name, ratio) in &report.ratios {
            let spread = report.spread.get(name);
            let spread = spread.map(|(min, max)| format!("{min:.2}..{max:.2}"));
            ratios.row([name, &format!("{ratio:.2}"), &spread.unwrap_or_default()]);
        }
        text.push_str(&format!("\n\n{}", ratios.render()));
    }
    if let Some(compared) = &report.compared {
        let mut table = Table::new(["COMPARED", "THEN", "NOW", "NOW / THEN"]);
        for row in compared {
            let figures = [row.then, row.now].map(number);
            let change = format!("{:.2}", row.change);
            table.row([&row.name, &figures[0], &figures[1], &change]);
        }
        text.push_str(&format!("\n\n{}", table.render()));
    }
    text
}

fn note(summary: &Summary) -> String {
    let noisy = (summary.noisy > 0).then(|| format!("{} noisy", summary.noisy));
    let failed = (summary.failed > 0).then(|| format!("{} FAILED", summary.failed));
    noisy.into_iter().chain(failed).collect::<Vec<_>>().join(", ")
}

/// Three digits or all before the point, whichever are more.
fn number(figure: f64) -> String {
    if figure >= 100.0 {
        format!("{figure:.0}")
    } else if figure >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}
