//! The command line.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use cellbus_cells::control::{MAX_BUDGET_MS, MAX_PINGS};
use cellbus_proto::name::{ChannelTopic, Fqcn, Segment};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{
    bench::{self, Bench},
    ca::Ca,
    cert::Cert,
    config::Config,
    doctor::Doctor,
    exit,
    job::Job,
    join::{Invite, Join, Requests},
    kit::Kit,
    output::Format,
    policy::Policy,
    provision::Provision,
    reload::Reload,
    transfer::Transfer,
    trust::args::{CellVerb, RosterVerb, TrustVerb},
};

mod observe;

use self::observe::header;
pub use self::observe::{DeadLetters, Look, LookAt, Send, Serve, Tap, Trace, Watch, joined};

/// Runs cells and asks running ones.
#[derive(Debug, Parser)]
#[command(name = "cellbus", version, about, after_help = exit::HELP)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// How to print.
    #[command(flatten)]
    pub global: Global,
    /// What to do; the demo, if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What every command takes.
#[derive(Args, Debug)]
pub struct Global {
    /// How to print the result
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum)]
    #[arg(global = true, default_value = "table", help_heading = "Output")]
    pub format: Format,
    /// Log more on stderr: -v info, -vv debug, -vvv trace
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = "Output")]
    pub verbose: u8,
    /// Log what this filter passes instead, for example `info,quinn=debug`
    #[arg(long, value_name = "FILTER", global = true, help_heading = "Output")]
    pub log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a federation on this machine, one training on it, and proves the result
    Demo(Demo),
    /// Runs the cells of a topology file until a signal comes
    Up(Up),
    /// Says who and how a running cell is
    Status(Look),
    /// Lists the cells that a running cell knows of
    Cells(LookAt),
    /// Lists the direct neighbours of a running cell
    Peers(Look),
    /// Lists the links of a running cell, with all that is known of them
    Links(Look),
    /// Says where messages go from a running cell
    Routes(Look),
    /// Shows what a running cell has counted and measured
    Stats(Look),
    /// Lists messages that ended at a running cell and nobody could be told about
    DeadLetters(DeadLetters),
    /// Prints the figures of a running cell for Prometheus
    Metrics(OneCell),
    /// Shows a running cell while it works: rates, queues, refusals; q ends it
    Top(OneCell),
    /// Shows what every cell on the way does with a message, without delivering it
    Trace(Trace),
    /// Shows messages as they pass a running cell
    Tap(Tap),
    /// Answers messages for a running cell
    Serve(Serve),
    /// Sends a message from a running cell, and waits for no reply
    Send(Send),
    /// Moves files of any size between running cells
    #[command(subcommand)]
    Transfer(Transfer),
    /// Sends pings from a running cell to another cell
    Ping(Ping),
    /// Says what a running cell would do with a message, and which rule decides
    Explain(Explain),
    /// Sends a request from a running cell and prints the reply
    Request(Request),
    /// Prints everything a running cell knows about itself
    Inspect(OneCell),
    /// Lets a running cell finish what it has, and end
    Drain(OneCell),
    /// Checks a topology file
    Validate(Validate),
    /// Shows what holds where a topology file is used
    #[command(subcommand)]
    Config(Config),
    /// Draws the tree of a topology file
    Graph(Graph),
    /// Prints the JSON schema of a file format
    Schema(Schema),
    /// Says what rules allow, and why
    #[command(subcommand)]
    Policy(Policy),
    /// Runs jobs on a running topology, and asks about them
    #[command(subcommand)]
    Job(Job),
    /// Has running cells decide by the rules that their topology file has now
    Reload(Reload),
    /// Makes a kit for every participant of a project file
    Provision(Provision),
    /// Invites a participant to join with a key of its own
    Invite(Invite),
    /// Joins a project with a key that stays on this machine
    Join(Join),
    /// Lists, approves and rejects requests to join
    #[command(subcommand)]
    Requests(Requests),
    /// Seals, opens, verifies, compares and updates kits
    #[command(subcommand)]
    Kit(Kit),
    /// Looks at certificates, and takes them back
    #[command(subcommand)]
    Cert(Cert),
    /// Goes from one authority of the project to the next, while cells run
    #[command(subcommand)]
    Ca(Ca),
    /// Examines a kit and this machine, before a cell is started
    Doctor(Doctor),
    /// Bans cells, lets them in again, or turns them out once
    #[command(subcommand)]
    Cell(CellVerb),
    /// Says which cells the project has, signed
    #[command(subcommand)]
    Roster(RosterVerb),
    /// Shows the signed lists of a running cell or a file, or gives a cell new ones
    #[command(subcommand)]
    Trust(TrustVerb),
    /// Lists or explains error codes
    #[command(subcommand)]
    Errors(Errors),
    /// Measures how fast cells are
    #[command(subcommand)]
    Bench(Bench),
    /// Prints a completion script
    Completion(Completion),
    /// Runs as the measured process that standard input describes
    #[command(name = bench::SIDE, hide = true)]
    BenchSide,
    /// Runs as a program of the jobs that `bench local` measures
    #[command(name = cellbus_bench::local::jobs::VERB, hide = true)]
    BenchJob {
        /// What it does.
        #[arg(value_parser = bench::role)]
        role: cellbus_bench::local::jobs::Role,
    },
    /// Becomes a program that a cell launches
    #[command(name = cellbus_cells::LAUNCH_SHIM, hide = true)]
    #[command(disable_help_flag = true)]
    LaunchShim {
        /// What comes before it, and the program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs a program of a job on a node of a cluster
    #[command(name = cellbus_slurm::step::VERB, hide = true)]
    #[command(disable_help_flag = true)]
    SlurmStep {
        /// The directory of the job.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs as the job cell that standard input describes
    #[command(hide = true)]
    JobCell,
    /// Runs as the trainer of the job cell that standard input describes
    #[command(hide = true)]
    Trainer,
    /// Runs as the combiner of the job cell that standard input describes
    #[command(hide = true)]
    Combiner,
}

impl Command {
    /// Whether this process becomes cells, or a part of one, and does not only ask.
    pub fn runs_cells(&self) -> bool {
        matches!(
            self,
            Self::Demo(_)
                | Self::Up(_)
                | Self::JobCell
                | Self::Trainer
                | Self::Combiner
                | Self::BenchSide
        )
    }
}

/// Arguments of `demo`.
#[derive(Args, Debug, Default)]
pub struct Demo {
    /// Leave the cells running afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// Rounds of the training; fewer than 20 do not reach the accuracy that is claimed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
}

/// Arguments of `up`.
#[derive(Args, Debug)]
pub struct Up {
    /// The topology file
    #[arg(required_unless_present = "kit")]
    pub file: Option<PathBuf>,
    /// Run the cell of this kit
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "processes", "only"])]
    pub kit: Option<PathBuf>,
    /// Fingerprint that the authority of the kit must have
    #[arg(long, value_name = "SHA256", requires = "kit", conflicts_with = "file")]
    pub root: Option<String>,
    /// One process per cell
    #[arg(long, conflicts_with = "only")]
    pub processes: bool,
    /// Run this cell of the topology and no other
    #[arg(long, value_name = "CELL")]
    pub only: Option<String>,
    /// State directory of the project; by default `$XDG_STATE_HOME/cellbus/<project>`, or
    /// `~/.local/state/cellbus/<project>`
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// End when this process, which started this one, does
    #[arg(long, value_name = "PID", hide = true)]
    pub with_launcher: Option<u32>,
}

/// Which running cell to ask.
#[derive(Args, Clone, Debug, Default)]
pub struct Target {
    /// The cell to ask; the server, or the only cell, if not given
    #[arg(long, value_name = "CELL", help_heading = "Which running cell")]
    pub at: Option<Fqcn>,
    /// State directory of the project, or of one cell
    ///
    /// A cell answers on `<state>/<base name of the cell>/control.sock`. Not given, it is
    /// `$XDG_STATE_HOME/cellbus/<project>`, or `~/.local/state/cellbus/<project>`, of the only
    /// project that is found there.
    #[arg(long, value_name = "DIR", help_heading = "Which running cell")]
    #[arg(conflicts_with_all = ["topology", "project"])]
    pub state: Option<PathBuf>,
    /// Topology file that the cell was started with: it names the project and the cells
    #[arg(long, value_name = "FILE", help_heading = "Which running cell")]
    #[arg(conflicts_with = "project")]
    pub topology: Option<PathBuf>,
    /// Project, if more than one runs on this machine
    #[arg(long, value_name = "NAME", help_heading = "Which running cell")]
    pub project: Option<Segment>,
    /// The control socket itself
    #[arg(long, value_name = "PATH", help_heading = "Which running cell")]
    #[arg(conflicts_with_all = ["at", "state", "topology", "project"])]
    pub socket: Option<PathBuf>,
}

/// One running cell.
#[derive(Args, Clone, Debug)]
pub struct OneCell {
    /// The cell to ask; as --at
    #[arg(conflicts_with_all = ["at", "socket"])]
    pub cell: Option<Fqcn>,
    #[command(flatten)]
    target: Target,
}

impl OneCell {
    /// Which running cell to ask.
    pub fn target(self) -> Target {
        Target { at: self.cell.or(self.target.at), ..self.target }
    }
}

/// Arguments of `ping`.
#[derive(Args, Debug)]
pub struct Ping {
    /// The cell to ping
    pub cell: Fqcn,
    /// How many
    #[arg(short, long, default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PINGS)))]
    pub count: u32,
    /// Time until one ping is given up: a number and ms, s or m
    #[arg(short, long, default_value = "5s", value_parser = budget)]
    pub budget: Duration,
    /// Which running cell sends them.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Who would send the message
    #[arg(long, value_name = "CELL")]
    pub from: Fqcn,
    /// Who it would be for
    #[arg(long, value_name = "CELL")]
    pub to: Fqcn,
    /// Where inside that cell
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = address)]
    pub address: ChannelTopic,
    /// Which running cell is asked.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `request`.
#[derive(Args, Debug)]
pub struct Request {
    /// The cell that the request is for
    pub cell: Fqcn,
    /// Where inside that cell
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = address)]
    pub address: ChannelTopic,
    /// What it carries: a text, @FILE, or - for standard input
    #[arg(short, long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub payload: OsString,
    /// Media type of the payload
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A header of the application; they travel as lines `NAME: VALUE`
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<String>,
    /// Send it again while nothing is heard of it; it is executed once all the same
    #[arg(long, conflicts_with = "stream")]
    pub retry: bool,
    /// Print the replies of a handler that gives several, as they come
    #[arg(long)]
    pub stream: bool,
    /// Time until it is given up: a number and ms, s or m
    #[arg(short, long, default_value = "30s", value_parser = budget)]
    pub budget: Duration,
    /// Which running cell sends it.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `validate`.
#[derive(Args, Debug)]
pub struct Validate {
    /// The topology file
    pub file: PathBuf,
    /// Treat warnings as errors
    #[arg(long)]
    pub deny_warnings: bool,
}

/// Arguments of `graph`.
#[derive(Args, Debug)]
pub struct Graph {
    /// The topology file
    pub file: PathBuf,
    /// The language of the drawing
    #[arg(short = 'f', long = "format", value_enum, default_value = "mermaid")]
    pub drawing: Drawing,
}

/// A language that draws graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Drawing {
    /// Mermaid, as Markdown viewers draw it
    Mermaid,
    /// Graphviz
    Dot,
}

/// Arguments of `schema`.
#[derive(Args, Debug)]
pub struct Schema {
    /// The file format
    #[arg(value_enum)]
    pub of: SchemaOf,
}

/// A file format with a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// The topology file
    Topology,
    /// The `job.toml` of a job
    Job,
}

/// Verbs of `errors`.
#[derive(Debug, Subcommand)]
pub enum Errors {
    /// Lists every code
    Ls,
    /// Explains one code
    Explain {
        /// The code, for example `NO_ROUTE`
        code: String,
    },
}

/// Arguments of `completion`.
#[derive(Args, Debug)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// The format that a command line asks for, also when the rest of it is not understood.
pub fn format_of(arguments: &[OsString]) -> Format {
    let mut arguments = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let mut format = Format::Table;
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            break;
        }
        let value = match argument.strip_prefix("--output") {
            Some("") => arguments.next(),
            Some(rest) => rest.strip_prefix('=').map(|value| value.to_owned().into()),
            None => match argument.strip_prefix("-o") {
                Some("") => arguments.next(),
                Some(rest) => Some(rest.strip_prefix('=').unwrap_or(rest).to_owned().into()),
                None => None,
            },
        };
        let known = value.and_then(|value| Format::from_str(&value, false).ok());
        format = known.unwrap_or(format);
    }
    format
}

/// Reads `channel/topic`.
pub fn address(text: &str) -> Result<ChannelTopic, String> {
    if !text.contains('/') {
        return Err("a channel and a topic are joined by `/`, as in `task/fetch`".to_owned());
    }
    text.parse().map_err(|error: cellbus_proto::name::NameError| error.to_string())
}

pub(crate) fn budget(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let number: Option<u64> = number.parse().ok();
    let ms = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    match ms {
        Some(ms) if (1..=MAX_BUDGET_MS).contains(&ms) => Ok(Duration::from_millis(ms)),
        Some(_) => Err(format!("a budget is from 1ms to {}m", MAX_BUDGET_MS / 60_000)),
        None => Err("a budget is a number and ms, s or m, as in `500ms`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_format_is_known_before_anything_else_is_understood() {
        let of = |line: &str| format_of(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in ["c -o json x", "c x -ojson", "c --output json", "c --output=json", "c -o=json"]
        {
            assert_eq!(of(line), Format::Json, "{line}");
        }
        assert_eq!(of("c -o jsonl"), Format::Jsonl);
        for line in ["c", "c -o", "c -o xml", "c --outputs=json", "c -- -o json"] {
            assert_eq!(of(line), Format::Table, "{line}");
        }
    }

    #[test]
    fn budgets_have_a_unit_and_a_ceiling() {
        assert_eq!(budget("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(budget("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(budget("10m"), Ok(Duration::from_secs(600)));
        for bad in [
            "",
            "5",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "11m",
            "1h",
            "99999999999999999999s",
            "18446744073709551615m",
        ] {
            assert!(budget(bad).is_err(), "{bad}");
        }
    }
}
