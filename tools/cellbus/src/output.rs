//! What a command prints: one JSON envelope or a table on stdout, everything for people on stderr.

use std::io::{self, IsTerminal, Write};

use cellbus_cells::control::{ControlError, ErrorClass};
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::{codes::CliCode, exit::Exit};

/// Version of the JSON envelope.
pub const SCHEMA_VERSION: u32 = 1;

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON envelope.
    Json,
    /// Events, one JSON object per line, then the envelope on the last line.
    Jsonl,
}

/// What a command found.
#[derive(Debug)]
pub struct Success {
    /// For programs.
    pub data: Value,
    /// For people.
    pub human: Human,
}

/// What people get on stdout.
#[derive(Debug)]
pub enum Human {
    /// Text; its end of line is added where it has none.
    Text(String),
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

/// Why a command did not do what it was asked, or that the answer is no.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The cell that refused.
    pub by: Option<String>,
    /// Whether the work can have been done.
    pub class: Option<ErrorClass>,
    /// What was found nevertheless, for programs.
    pub data: Option<Value>,
    /// What was found nevertheless, for people, on stdout.
    pub human: Option<String>,
    /// Takes the place of message and hint on stderr.
    pub report: Option<String>,
}

/// How a command ended.
pub type Outcome = Result<Success, Box<Failure>>;

impl Success {
    /// A result with a text for people.
    pub fn new(data: &impl serde::Serialize, human: String) -> Self {
        Self { data: to_value(data), human: Human::Text(human) }
    }
}

impl Failure {
    /// A failure of the command itself.
    pub fn new(code: CliCode, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            exit: code.exit(),
            code: code.code().to_owned(),
            message: message.into(),
            hint: None,
            by: None,
            class: None,
            data: None,
            human: None,
            report: None,
        })
    }

    /// Adds what to do next.
    pub fn hint(mut self: Box<Self>, hint: impl Into<String>) -> Box<Self> {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what was found nevertheless.
    pub fn data(mut self: Box<Self>, data: &impl serde::Serialize) -> Box<Self> {
        self.data = Some(to_value(data));
        self
    }
}

impl From<ControlError> for Box<Failure> {
    fn from(error: ControlError) -> Self {
        let exit = Exit::of(&error);
        let ControlError { code, by, message, hint, class } = error;
        let (data, human, report) = (None, None, None);
        Self::new(Failure { exit, code, message, hint, by, class, data, human, report })
    }
}

/// Prints `outcome` and says how the process is to end.
pub fn print(format: Format, outcome: &Outcome) -> Exit {
    let exit = outcome.as_ref().map_or_else(|failure| failure.exit, |_| Exit::Ok);
    if let Err(failure) = outcome {
        print_failure(failure);
    }
    let printed = match (format, outcome) {
        (Format::Table, Ok(Success { human: Human::Text(text), .. })) => print_line(text),
        (Format::Table, Ok(Success { human: Human::Bytes(bytes), .. })) => print_bytes(bytes),
        (Format::Table, Err(failure)) => print_line(failure.human.as_deref().unwrap_or("")),
        (Format::Json | Format::Jsonl, _) => print_line(&envelope(outcome).to_string()),
    };
    match printed {
        // Whoever read our output has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(error) => {
            say(&format!("error: the result cannot be written: {error}"));
            if exit == Exit::Ok { Exit::No } else { exit }
        }
        Ok(()) => exit,
    }
}

/// Prints one event of `-o jsonl` at once. Nobody listening is no reason to stop the work.
pub fn print_event(event: &impl serde::Serialize) {
    let _ = print_line(&to_value(event).to_string());
}

/// Prints a text on stdout at once.
///
/// # Errors
/// When nobody reads any more, or there is no room for it.
pub fn print_text(text: &str) -> io::Result<()> {
    print_line(text)
}

/// Prints bytes on stdout at once, as they are.
///
/// # Errors
/// As [`print_text`].
pub fn print_raw(bytes: &[u8]) -> io::Result<()> {
    print_bytes(bytes)
}

/// Prints a line for people on stderr. A closed stderr is nobody's problem.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether stderr shows colours and the user wants them.
pub fn stderr_is_colourful() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !unwanted
}

/// Text of others, made safe for a terminal: control characters are escaped, except the end of a
/// line.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// The JSON envelope.
pub fn envelope(outcome: &Outcome) -> Value {
    let mut fields = Map::new();
    fields.insert("schema_version".to_owned(), SCHEMA_VERSION.into());
    match outcome {
        Ok(Success { data, .. }) => {
            fields.insert("status".to_owned(), "ok".into());
            fields.insert("exit_code".to_owned(), Exit::Ok.number().into());
            fields.insert("data".to_owned(), data.clone());
        }
        Err(failure) => {
            fields.insert("status".to_owned(), "error".into());
            fields.insert("exit_code".to_owned(), failure.exit.number().into());
            fields.insert("error_code".to_owned(), failure.code.as_str().into());
            fields.insert("message".to_owned(), failure.message.as_str().into());
            fields.insert("hint".to_owned(), failure.hint.as_deref().into());
            fields.insert("by".to_owned(), failure.by.as_deref().into());
            fields.insert("class".to_owned(), to_value(&failure.class));
            if let Some(data) = &failure.data {
                fields.insert("data".to_owned(), data.clone());
            }
        }
    }
    Value::Object(fields)
}

fn print_failure(failure: &Failure) {
    if let Some(report) = &failure.report {
        return say(report.trim_end());
    }
    let by = failure.by.as_ref().map(|by| format!(" (by {by})")).unwrap_or_default();
    say(&printable(&format!("error: {}{by}: {}", failure.code, failure.message)));
    if let Some(hint) = &failure.hint {
        say(&printable(&format!(" hint: {hint}")));
    }
}

/// Prints a text and its end of line; no text, no line.
fn print_line(text: &str) -> io::Result<()> {
    match text {
        "" => Ok(()),
        text if text.ends_with('\n') => print_bytes(text.as_bytes()),
        text => print_bytes(format!("{text}\n").as_bytes()),
    }
}

fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn to_value(data: &impl serde::Serialize) -> Value {
    serde_json::to_value(data).expect("what commands print has string keys and cannot fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_cannot_drive_the_terminal() {
        let text = printable("a\x1b[2Jb\rc\u{9b}d\ne ü");
        assert_eq!(text, "a\\u{1b}[2Jb\\rc\\u{9b}d\ne ü");
    }
}
