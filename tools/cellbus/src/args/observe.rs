//! Arguments of the commands that show what a running cell does, and of those that speak through it.

use std::{ffi::OsString, time::Duration};

use cellbus_cells::control::{MAX_DEAD_LETTERS, MAX_SAMPLE, MAX_SERVED, selector};
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    status::Status,
};
use clap::Args;

use super::{OneCell, Target, address, budget};

/// The most messages that are gathered for one envelope.
const MAX_GATHERED: i64 = 10_000;

/// Whether to look once, or again and again.
#[derive(Args, Clone, Debug, Default)]
pub struct Watch {
    /// Look again every second, or as often as said, until Ctrl-C; not with `-o json`
    #[arg(short, long, value_name = "EVERY", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1s", value_parser = budget, help_heading = "Watching")]
    pub watch: Option<Duration>,
    /// With --watch, end after so many looks
    #[arg(long, value_name = "N", requires = "watch", help_heading = "Watching")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub times: Option<u32>,
}

/// A look at one running cell.
#[derive(Args, Clone, Debug)]
pub struct Look {
    /// Which.
    #[command(flatten)]
    pub cell: OneCell,
    /// Once, or again and again.
    #[command(flatten)]
    pub watch: Watch,
}

/// A look at what one running cell knows.
#[derive(Args, Clone, Debug)]
pub struct LookAt {
    /// Which.
    #[command(flatten)]
    pub target: Target,
    /// Once, or again and again.
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of `dead-letters`.
#[derive(Args, Clone, Debug)]
pub struct DeadLetters {
    /// Which cell.
    #[command(flatten)]
    pub cell: OneCell,
    /// Only those with this code
    #[arg(long, value_parser = status)]
    pub code: Option<Status>,
    /// How many of the latest
    #[arg(short = 'n', long, default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DEAD_LETTERS)))]
    pub limit: u32,
    /// Once, or again and again.
    #[command(flatten)]
    pub watch: Watch,
}

/// Arguments of `trace`.
#[derive(Args, Debug)]
pub struct Trace {
    /// The cell that sends the message; it must run on this machine
    #[arg(conflicts_with_all = ["at", "socket"])]
    pub from: Fqcn,
    /// The cell that it is for
    pub to: Fqcn,
    /// Where inside that cell
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = address)]
    pub address: ChannelTopic,
    /// Hand it to the handler too; without this nothing is executed
    #[arg(long)]
    pub deliver: bool,
    /// What it carries: a text, @FILE, or - for standard input
    #[arg(short, long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub payload: OsString,
    /// Time until it is given up: a number and ms, s or m
    #[arg(short, long, default_value = "10s", value_parser = budget)]
    pub budget: Duration,
    /// Where the state of that cell is.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `send`.
#[derive(Args, Debug)]
pub struct Send {
    /// The cell that the message is for
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
    /// Wait until the cell has accepted it: it has a handler and room for it
    #[arg(long)]
    pub receipt: bool,
    /// Time until it is given up: a number and ms, s or m
    #[arg(short, long, default_value = "30s", value_parser = budget)]
    pub budget: Duration,
    /// Which running cell sends it.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `tap`.
#[derive(Args, Debug)]
pub struct Tap {
    /// Which messages: `channel/topic`, `channel/*`, or `*/*` for all but the system's
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = selected)]
    pub of: String,
    /// Show one message in so many
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SAMPLE)))]
    pub sample: u32,
    /// Show payloads too; the topology must allow it
    #[arg(long)]
    pub payload: bool,
    /// End after so many messages; needed with `-o json`
    #[arg(short, long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_GATHERED))]
    pub count: Option<u32>,
    /// At which running cell.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Which messages: `channel/topic`, `channel/*`, or `*/*` for all but the system's
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = selected)]
    pub of: String,
    /// Answer with this text, or @FILE; without it, with what the message carries
    #[arg(short, long, value_name = "PAYLOAD", allow_hyphen_values = true)]
    pub reply: Option<OsString>,
    /// Answer with the next line of standard input, and end with its last
    #[arg(long, conflicts_with_all = ["reply", "fail"])]
    pub lines: bool,
    /// Answer that the handler has failed, with this text
    #[arg(long, value_name = "TEXT", conflicts_with = "reply")]
    pub fail: Option<String>,
    /// Media type of the answers
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Messages of one cell and channel that are answered at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SERVED)))]
    pub concurrency: u32,
    /// End after so many messages; needed with `-o json`
    #[arg(short, long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_GATHERED))]
    pub count: Option<u32>,
    /// For which running cell.
    #[command(flatten)]
    pub target: Target,
}

fn status(text: &str) -> Result<Status, String> {
    let code = text.to_ascii_uppercase().replace('-', "_");
    Status::from_code(&code)
        .ok_or_else(|| format!("there is no code {text:?}; see `cellbus errors ls`"))
}

fn selected(text: &str) -> Result<String, String> {
    selector(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// `NAME=VALUE` as the line `NAME: VALUE`.
pub(super) fn header(text: &str) -> Result<String, String> {
    let is_name = |name: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !name.is_empty() && name.bytes().all(is_part)
    };
    match text.split_once('=') {
        Some((name, value)) if is_name(name) && !value.contains(['\r', '\n']) => {
            Ok(format!("{name}: {value}"))
        }
        Some(_) | None => {
            Err("a header is `NAME=VALUE`; the name has letters, digits, `-` and `_`".to_owned())
        }
    }
}

/// Headers as they travel; none where there are none.
pub fn joined(headers: &[String]) -> Option<String> {
    (!headers.is_empty()).then(|| headers.iter().map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_travel_as_lines() {
        let lines = [header("Trace-Id=7=8").unwrap(), header("b=").unwrap()];
        assert_eq!(joined(&lines).as_deref(), Some("Trace-Id: 7=8\nb: \n"));
        assert_eq!(joined(&[]), None);
        for bad in ["", "=x", "a b=c", "a", "a=b\nc"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
    }
}
