//! Arguments of the commands about signed lists.

use std::path::PathBuf;

use cellbus_proto::{
    name::{Fqcn, Segment},
    trust::Reason,
};
use clap::{Args, Subcommand, ValueEnum};

use crate::args::Target;

/// Verbs of `cell`.
#[derive(Debug, Subcommand)]
pub enum CellVerb {
    /// Lets a cell in no more, anywhere, until it is let in again
    Ban {
        /// The cell
        cell: Fqcn,
        /// Why, for people
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// The running server.
        #[command(flatten)]
        target: Target,
    },
    /// Lets a banned cell in again
    Unban(OneOf),
    /// Turns a cell out once: it has to register again, and may
    Remove(OneOf),
    /// Lists the cells that are banned
    Bans(AtServer),
}

/// A cell, and the server that is to act on it.
#[derive(Args, Debug)]
pub struct OneOf {
    /// The cell
    pub cell: Fqcn,
    /// The running server.
    #[command(flatten)]
    pub target: Target,
}

/// A running cell.
#[derive(Args, Debug)]
pub struct AtServer {
    /// Which running cell.
    #[command(flatten)]
    pub target: Target,
}

/// Verbs of `trust`.
#[derive(Debug, Subcommand)]
pub enum TrustVerb {
    /// Lists the signed lists that a running cell holds
    Ls(AtServer),
    /// Shows what a file of signed lists says, whoever has signed it
    Show {
        /// The file
        file: PathBuf,
    },
    /// Gives a running cell a file of signed lists; it hands them on to all others
    Push {
        /// The file
        file: PathBuf,
        /// Give the list also where a certificate that counts no more would count again
        #[arg(long)]
        forget: bool,
        /// Which running cell; the server, if none is named.
        #[command(flatten)]
        target: Target,
    },
}

/// Verbs of `cert`.
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Signs the next revocation list, which names these
    Revoke(Revoke),
}

/// Arguments of `cert revoke`.
#[derive(Args, Debug)]
pub struct Revoke {
    /// Identities, by base name: whatever certificates they show
    pub names: Vec<Segment>,
    /// A certificate, as a PEM file
    #[arg(long = "certificate", value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// A certificate, by the SHA-256 of its DER form in hex
    #[arg(long = "leaf", value_name = "HEX", value_parser = leaf)]
    pub leaves: Vec<[u8; 32]>,
    /// An identity to take off the list again
    #[arg(long = "restore", value_name = "NAME")]
    pub restored: Vec<Segment>,
    /// Why
    #[arg(long, value_enum, default_value = "unspecified")]
    pub reason: ReasonWord,
    /// Until when, in seconds since 1970; for a certificate file its own end, otherwise without end
    #[arg(long, value_name = "UNIX")]
    pub until: Option<u64>,
    /// The project; needed for the first list only
    #[arg(long, value_name = "NAME")]
    pub project: Option<Segment>,
    #[command(flatten)]
    pub signing: Signing,
}

/// Who signs, what, and where it goes.
#[derive(Args, Debug)]
pub struct Signing {
    /// The list: the last one is read from here where it is there, the next one is written here
    #[arg(long, value_name = "FILE")]
    pub list: PathBuf,
    /// Certificate of who signs, in PEM form: a root of the project, or a person with the role `signer`
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// Its private key, in PEM form; the file must be for its owner alone
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Version of the new list; by default the one after the last
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
}

/// Verbs of `roster`.
#[derive(Debug, Subcommand)]
pub enum RosterVerb {
    /// Signs the next roster: the cells of a topology file
    Sign(SignRoster),
}

/// Arguments of `roster sign`.
#[derive(Args, Debug)]
pub struct SignRoster {
    /// The topology file
    pub file: PathBuf,
    #[command(flatten)]
    pub signing: Signing,
}

/// A reason, as people write it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ReasonWord {
    /// Nobody said
    Unspecified,
    /// Somebody else has, or may have, the key
    KeyCompromise,
    /// Another certificate has taken its place
    Superseded,
    /// It takes part no more
    Ceased,
    /// It may be let in again
    Hold,
}

impl From<ReasonWord> for Reason {
    fn from(word: ReasonWord) -> Self {
        match word {
            ReasonWord::Unspecified => Self::Unspecified,
            ReasonWord::KeyCompromise => Self::KeyCompromise,
            ReasonWord::Superseded => Self::Superseded,
            ReasonWord::Ceased => Self::Ceased,
            ReasonWord::Hold => Self::Hold,
        }
    }
}

/// Reads 64 hexadecimal digits, with or without colons between pairs.
pub fn leaf(text: &str) -> Result<[u8; 32], String> {
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    let pairs: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect();
    let bytes: Option<[u8; 32]> = pairs.and_then(|pairs| pairs.try_into().ok());
    bytes.ok_or_else(|| "a SHA-256 has 64 hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_has_64_digits_and_may_have_colons() {
        let plain = "0f".repeat(32);
        assert_eq!(leaf(&plain), Ok([15; 32]));
        assert_eq!(leaf(&["0F"; 32].join(":")), Ok([15; 32]));
        for bad in ["", "0f", &plain[1..], &format!("{plain}00"), &"zz".repeat(32), "ü"] {
            assert!(leaf(bad).is_err(), "{bad}");
        }
    }
}
