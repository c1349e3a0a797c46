//! The command line of `transfer`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use cellbus_cells::control::{MAX_AT_ONCE, MAX_PATIENCE_MS};
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    transfer::TransferId,
};
use clap::{Args, Subcommand};

use crate::args::{Target, address};

/// Where files are offered and received unless something else is said.
const ADDRESS: &str = "transfer/file";

/// Verbs of `transfer`.
#[derive(Debug, Subcommand)]
pub enum Transfer {
    /// Sends a file from a running cell to others, and waits until each has it
    Put(Put),
    /// Fetches at a running cell what a reference describes
    Get(Get),
    /// Stores in a directory what is offered to a running cell
    Receive(Receive),
    /// Lists the transfers of a running cell, and what can be gone on with in directories
    Ls(Ls),
    /// Fetches at a running cell the rest of what was interrupted
    Resume(Resume),
    /// Gives up a transfer at a running cell
    Cancel(Cancel),
}

/// Arguments of `transfer put`.
#[derive(Args, Debug)]
pub struct Put {
    /// The file; the cell must be able to read it
    pub file: PathBuf,
    /// The cells that it is for
    #[arg(value_name = "CELL[,CELL..]", value_delimiter = ',', required = true)]
    pub cells: Vec<Fqcn>,
    /// Where inside those cells; the rules must let it pass there and back
    #[arg(long, value_name = "CHANNEL/TOPIC", default_value = ADDRESS, value_parser = address)]
    pub on: ChannelTopic,
    /// Print a reference for `transfer get` instead of offering it
    #[arg(long)]
    pub reference: bool,
    /// Go on with this transfer of the same file, after the cell was started again
    #[arg(long, value_name = "ID")]
    pub again: Option<TransferId>,
    /// Seal it: no cell on the way can read it
    #[arg(long, conflicts_with_all = ["reference", "again"])]
    pub sealed: bool,
    /// Media type of the file
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Bytes a second at most: a number, also with k, M or G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub rate: Option<u64>,
    /// How long it may be fetched: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = span)]
    pub lifetime: Duration,
    /// How long a receiver that is not there is waited for
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    pub wait: Duration,
    /// How long a receiver may stand still
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    pub patience: Duration,
    /// Which running cell sends it.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `transfer get`.
#[derive(Args, Debug)]
pub struct Get {
    /// The reference, @FILE, or - for standard input
    #[arg(value_name = "REF")]
    pub reference: OsString,
    /// The directory that it is put into
    #[arg(default_value = ".")]
    pub directory: PathBuf,
    /// Name of the file there; that which its holder gave it, if none is said
    #[arg(long)]
    pub name: Option<String>,
    /// Replace a file of this name
    #[arg(long)]
    pub replace: bool,
    /// Bytes a second at most: a number, also with k, M or G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub rate: Option<u64>,
    /// How long it may stand still
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    pub patience: Duration,
    /// Which running cell fetches it.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `transfer receive`.
#[derive(Args, Debug)]
pub struct Receive {
    /// The directory; files get the names that their senders gave them
    pub directory: PathBuf,
    /// Where it is offered
    #[arg(value_name = "CHANNEL/TOPIC", default_value = ADDRESS, value_parser = address)]
    pub on: ChannelTopic,
    /// Replace files of the same name; else what has the name of one is refused
    #[arg(long)]
    pub replace: bool,
    /// Bytes that one file may have: a number, also with k, M or G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub size_max: Option<u64>,
    /// How many are fetched at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_AT_ONCE)))]
    pub at_once: u32,
    /// End after so many; needed with `-o json`
    #[arg(short, long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: Option<u32>,
    /// How long one may stand still
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    pub patience: Duration,
    /// Which running cell receives.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `transfer ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// Directories with what was interrupted
    pub directories: Vec<PathBuf>,
    /// Which running cell to ask.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `transfer resume`.
#[derive(Args, Debug)]
pub struct Resume {
    /// The directory with what was interrupted
    pub directory: PathBuf,
    /// Only this transfer
    #[arg(long, value_name = "ID")]
    pub id: Option<TransferId>,
    /// How long it may stand still
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    pub patience: Duration,
    /// Which running cell fetches the rest.
    #[command(flatten)]
    pub target: Target,
}

/// Arguments of `transfer cancel`.
#[derive(Args, Debug)]
pub struct Cancel {
    /// The transfer, as `transfer ls` calls it
    pub id: TransferId,
    /// Which running cell gives it up.
    #[command(flatten)]
    pub target: Target,
}

/// A number and its unit, as what the unit stands for times the number.
fn measured(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn span(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    match measured(text, &units) {
        Some(ms @ 1..=MAX_PATIENCE_MS) => Ok(Duration::from_millis(ms)),
        Some(_) => Err("a time is from 1ms to 7d".to_owned()),
        None => Err("a time is a number and ms, s, m, h or d, as in `90s`".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
    let found = measured(text, &units).filter(|bytes| *bytes > 0);
    found.ok_or_else(|| "bytes are a number from 1, also with k, M or G, as in `20M`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_bytes_have_units_and_bounds() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!((bytes("20M"), bytes("7")), (Ok(20_000_000), Ok(7)));
        for bad in ["", "5", "0s", "8d", "1w", "-1s", "99999999999999999999s"] {
            assert!(span(bad).is_err(), "{bad}");
        }
        for bad in ["", "0", "1K", "k", "-1", "1.5M", "99999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
