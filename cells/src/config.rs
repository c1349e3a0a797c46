//! The topology file on disk: how it is read, how its problems are shown, and how it is drawn.
//!
//! Starting, checking and reloading all go through [`load`] or [`read`], so a file that one of them
//! accepts is accepted by all.

mod graph;
mod report;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Read},
    path::Path,
    str::Utf8Error,
};

use cellbus_proto::topology::{
    self, Code, Parsed, Problem, TEXT_MAX_BYTES, Topology,
    job_file::{self, JobFile},
};

pub use self::{
    graph::{Format, graph},
    report::{ConfigReport, Finding},
    schema::{job_schema, schema},
};

/// A topology that was read from a file.
#[derive(Debug)]
pub struct Loaded {
    /// The topology.
    pub topology: Topology,
    /// What is odd about the file, if anything is.
    pub warnings: Option<ConfigReport>,
}

/// Reads the topology file at `path`, at most [`TEXT_MAX_BYTES`] of it.
///
/// # Errors
/// Everything that is wrong with the file, at once. A file that cannot be read has one problem,
/// which names its path.
pub fn load(path: &Path) -> Result<Loaded, ConfigReport> {
    let name = path.display().to_string();
    read(&name, &read_text(path)?)
}

/// Reads the text of a configuration file, at most [`TEXT_MAX_BYTES`] of it.
///
/// # Errors
/// What keeps the file from being read, or from being text.
pub fn read_text(path: &Path) -> Result<String, ConfigReport> {
    let name = path.display().to_string();
    String::from_utf8(read_bytes(path)?).map_err(|error| {
        let problem = not_utf8(&name, error.as_bytes(), error.utf8_error());
        let text = String::from_utf8_lossy(error.as_bytes());
        ConfigReport::new(&name, &text, vec![problem])
    })
}

/// The report on a file that cannot be used for a reason that is not in its text.
#[must_use]
pub fn unusable(name: &str, message: String, help: &str) -> ConfigReport {
    ConfigReport::without_text(name, problem(Code::Unreadable, message, help))
}

/// Reads a topology from `text`, which messages call `name`.
///
/// # Errors
/// Everything that is wrong with the text, at once.
pub fn read(name: &str, text: &str) -> Result<Loaded, ConfigReport> {
    match topology::parse(text) {
        Ok(Parsed { topology, warnings }) => {
            let warnings = (!warnings.is_empty()).then(|| ConfigReport::new(name, text, warnings));
            Ok(Loaded { topology, warnings })
        }
        Err(problems) => Err(ConfigReport::new(name, text, problems)),
    }
}

/// Reads the job file at `path`.
///
/// # Errors
/// As [`load`].
pub fn load_job(path: &Path) -> Result<JobFile, ConfigReport> {
    let name = path.display().to_string();
    match String::from_utf8(read_bytes(path)?) {
        Ok(text) => {
            job_file::parse(&text).map_err(|problems| ConfigReport::new(&name, &text, problems))
        }
        Err(error) => {
            let problem = not_utf8(&name, error.as_bytes(), error.utf8_error());
            let text = String::from_utf8_lossy(error.as_bytes());
            Err(ConfigReport::new(&name, &text, vec![problem]))
        }
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigReport> {
    let name = path.display().to_string();
    let refused = |code, what: String, help: &str| {
        ConfigReport::without_text(&name, problem(code, format!("{name} {what}"), help))
    };
    let unreadable = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            let help = "write the path of a topology file";
            return refused(Code::NotFound, "does not exist".to_owned(), help);
        }
        let help = "the user that runs the cells must be able to read it";
        refused(Code::Unreadable, format!("cannot be read: {error}"), help)
    };
    let too_large = |len: u64| {
        let what = format!("has {len} bytes, the limit is {TEXT_MAX_BYTES}");
        refused(Code::TooLarge, what, "a topology file holds cells, rules and limits only")
    };
    // Asked before opening: to open a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "is a directory" } else { "is not a regular file" };
        return Err(refused(Code::NotAFile, what.to_owned(), "write the path of the file itself"));
    }
    if metadata.len() > TEXT_MAX_BYTES as u64 {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    // The file may grow while it is read.
    file.take(TEXT_MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > TEXT_MAX_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

fn not_utf8(name: &str, bytes: &[u8], error: Utf8Error) -> Problem {
    let at = error.valid_up_to();
    let message = format!("{name} is not UTF-8 text: byte {at} (0x{:02x})", bytes[at]);
    let help = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "this looks like UTF-16; save the file as UTF-8"
    } else {
        "save the file as UTF-8"
    };
    let mut problem = problem(Code::NotUtf8, message, help);
    problem.span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
    problem.label = "the first byte that is no text".to_owned();
    problem
}

/// A problem with the file rather than with a place in it.
fn problem(code: Code, message: String, help: &str) -> Problem {
    let help = Some(help.to_owned());
    Problem { code, message, span: 0..0, label: String::new(), also: None, help }
}
