//! Every code that a person can meet, and what it means.

use cellbus_cells::control::LocalCode;
use cellbus_kits::check::Check;
use cellbus_proto::{
    status::{Class, Status},
    topology,
};
use serde::{Deserialize, Serialize};

use crate::{
    advice,
    exit::Exit,
    output::{Failure, Outcome, Success},
    table::Table,
};

/// Codes of the command itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CliCode {
    /// The command line.
    Usage,
    /// The topology file.
    Config,
    /// A file that the command line names.
    Input,
    /// A kit.
    Kit,
    /// Which cell is meant.
    CellAmbiguous,
    /// A code that does not exist.
    UnknownCode,
    /// A cell that cannot be started.
    Start,
    /// Work that was accepted and not finished.
    Unfinished,
    /// No terminal.
    NoTerminal,
    /// A claim that does not hold.
    CheckFailed,
    /// A job that failed.
    JobFailed,
    /// A job that somebody ended.
    JobAborted,
    /// A job of which nobody knows the end.
    JobLost,
    /// A job whose time was up.
    JobLate,
    /// A job that asked for what a cell does not offer.
    JobDenied,
    /// An invitation that counts for nothing.
    NotInvited,
    /// A request to join that nobody has decided about.
    JoinWaiting,
    /// Somebody else at the join door.
    NotTheDoor,
    /// Nobody at the join door.
    DoorUnreachable,
    /// A defect.
    Bug,
}

/// One row of `errors ls`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRow {
    /// The code.
    pub code: String,
    /// Where it comes from: `message`, `control`, `topology`, `check` or `command`.
    pub source: String,
    /// Whether the work can have been done, for the codes of messages.
    pub class: Option<String>,
    /// The exit code of a command that ends with it.
    pub exit_code: u8,
    /// One sentence.
    pub meaning: String,
    /// What to do next.
    pub next: String,
}

impl CliCode {
    const ALL: [Self; 20] = [
        Self::Usage,
        Self::Config,
        Self::Input,
        Self::Kit,
        Self::CellAmbiguous,
        Self::UnknownCode,
        Self::NoTerminal,
        Self::Start,
        Self::Unfinished,
        Self::CheckFailed,
        Self::JobFailed,
        Self::JobAborted,
        Self::JobLost,
        Self::JobLate,
        Self::JobDenied,
        Self::NotInvited,
        Self::JoinWaiting,
        Self::NotTheDoor,
        Self::DoorUnreachable,
        Self::Bug,
    ];

    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Usage => "USAGE",
            Self::Config => "CONFIG",
            Self::Input => "INPUT",
            Self::Kit => "KIT",
            Self::CellAmbiguous => "CELL_AMBIGUOUS",
            Self::UnknownCode => "UNKNOWN_CODE",
            Self::Start => "START",
            Self::Unfinished => "UNFINISHED",
            Self::NoTerminal => "NO_TERMINAL",
            Self::CheckFailed => "CHECK_FAILED",
            Self::JobFailed => "JOB_FAILED",
            Self::JobAborted => "JOB_ABORTED",
            Self::JobLost => "JOB_LOST",
            Self::JobLate => "JOB_LATE",
            Self::JobDenied => "JOB_DENIED",
            Self::NotInvited => "NOT_INVITED",
            Self::JoinWaiting => "JOIN_WAITING",
            Self::NotTheDoor => "NOT_THE_DOOR",
            Self::DoorUnreachable => "DOOR_UNREACHABLE",
            Self::Bug => "BUG",
        }
    }

    /// The exit code of a command that ends with it.
    pub fn exit(self) -> Exit {
        match self {
            Self::Usage
            | Self::Config
            | Self::Input
            | Self::Kit
            | Self::CellAmbiguous
            | Self::UnknownCode
            | Self::NoTerminal
            | Self::Start => Exit::Invalid,
            Self::CheckFailed
            | Self::Unfinished
            | Self::JobFailed
            | Self::JobAborted
            | Self::JobLost
            | Self::NotInvited => Exit::No,
            Self::NotTheDoor | Self::DoorUnreachable => Exit::Unreachable,
            Self::JobLate | Self::JoinWaiting => Exit::Deadline,
            Self::JobDenied => Exit::Denied,
            Self::Bug => Exit::Bug,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Usage => "The command line is not understood.",
            Self::Config => "The topology file has errors; each has a code of its own.",
            Self::Start => {
                "A cell cannot be started: its state, its credentials or its port cannot be used."
            }
            Self::Unfinished => "Work that was accepted was ended before it was finished.",
            Self::Input => "A file or directory that the command line names cannot be used.",
            Self::Kit => {
                "A kit is not as it was signed, or cannot be made, sealed, opened or updated."
            }
            Self::CellAmbiguous => "More than one running cell could be meant, or none was found.",
            Self::UnknownCode => "There is no such code.",
            Self::NoTerminal => "The command draws on a terminal, and there is none.",
            Self::CheckFailed => "A claim that the command examines does not hold.",
            Self::JobFailed => "The job, or a part of it, did not do what it was for.",
            Self::JobAborted => "The job was ended before it was done.",
            Self::JobLost => "What ran the job went away, and nobody knows what it has done.",
            Self::JobLate => "The job was ended because its time was up.",
            Self::JobDenied => "A site does not let jobs run what the job asks for.",
            Self::NotInvited => {
                "The join door does not take the request: the invitation is unknown, used, withdrawn or over."
            }
            Self::JoinWaiting => "The request to join is kept, and nobody has approved it yet.",
            Self::NotTheDoor => {
                "Who answers is not the server of the invitation; nothing was said to them."
            }
            Self::DoorUnreachable => "Nobody answers at the join door of the invitation.",
            Self::Bug => "This program has a defect; please report it with what was printed.",
        }
    }
}

/// `errors ls`.
pub fn list() -> Success {
    let rows = rows();
    let mut table = Table::new(["CODE", "SOURCE", "CLASS", "EXIT", "MEANING"]);
    for row in &rows {
        let class = row.class.as_deref().unwrap_or("-");
        table.row([&row.code, &row.source, class, &row.exit_code.to_string(), &row.meaning]);
    }
    Success::new(&rows, table.render())
}

/// `errors explain CODE`.
pub fn explain(code: &str) -> Outcome {
    let wanted = code.to_ascii_uppercase().replace('-', "_");
    let Some(row) = rows().into_iter().find(|row| row.code == wanted) else {
        let failure = Failure::new(CliCode::UnknownCode, format!("there is no code `{code}`"));
        return Err(failure.hint("`cellbus errors ls` lists them all"));
    };
    let mut text = format!("{}\n  {}\n", row.code, row.meaning);
    let class = row.class.as_deref().map(|class| match class {
        "refused" => "The work was certainly not done.",
        "unknown" => "The work may have been done.",
        _ => "The work was done and failed.",
    });
    let transient = Status::from_code(&row.code).is_some_and(Status::is_transient);
    let again = transient.then_some("The same again, later, may succeed without any change.");
    for line in class.into_iter().chain(again) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&format!("  Commands that end with it exit with {}.\n", row.exit_code));
    text.push_str(&format!("  What to do: {}", row.next));
    Ok(Success::new(&row, text))
}

fn rows() -> Vec<CodeRow> {
    let row = |(code, source): (&str, &str), class: Option<&str>, exit: Exit, said: [&str; 2]| {
        let [meaning, next] = said.map(str::to_owned);
        let (code, source, class) = (code.to_owned(), source.to_owned(), class.map(str::to_owned));
        CodeRow { code, source, class, exit_code: exit.number(), meaning, next }
    };
    let exit_of = |code: &str| Exit::of_code(code).expect("a listed code has an exit code");
    let messages = Status::ALL.iter().map(|status| {
        let (code, class) = (status.code(), Some(class_name(status.class())));
        row((code, "message"), class, exit_of(code), [status.meaning(), advice::of_status(*status)])
    });
    let control = LocalCode::ALL.iter().map(|local| {
        let code = local.code();
        row((code, "control"), None, exit_of(code), [local.meaning(), advice::of_local(*local)])
    });
    let command = CliCode::ALL.into_iter().map(|cli| {
        row((cli.code(), "command"), None, cli.exit(), [cli.meaning(), advice::of_command(cli)])
    });
    let topology = topology::Code::ALL.iter().map(|code| {
        let exit = match code.severity() {
            topology::Severity::Error => Exit::Invalid,
            topology::Severity::Warning => Exit::Ok,
        };
        let said = [code.meaning(), advice::of_topology(*code)];
        row((code.as_str(), "topology"), None, exit, said)
    });
    let checks = Check::ALL
        .iter()
        .map(|check| row((check.code(), "check"), None, Exit::No, [check.meaning(), check.next()]));
    messages.chain(control).chain(command).chain(topology).chain(checks).collect()
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Refused => "refused",
        Class::Unknown => "unknown",
        Class::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_stands_once_and_is_a_sentence() {
        let rows = rows();
        let codes: BTreeSet<&str> = rows.iter().map(|row| row.code.as_str()).collect();
        assert_eq!(codes.len(), rows.len());
        assert!(rows.iter().all(|row| row.meaning.ends_with('.') && row.next.ends_with('.')));
        let listed = Status::ALL.len() + LocalCode::ALL.len() + topology::Code::ALL.len();
        assert_eq!(rows.len(), listed + CliCode::ALL.len() + Check::ALL.len());
    }

    #[test]
    fn what_policy_denies_exits_with_six() {
        for code in ["TOPIC_DENIED", "JOB_SCOPE", "FORBIDDEN"] {
            assert_eq!(Exit::of_code(code), Some(Exit::Denied));
        }
        assert_eq!(Exit::of_code("DEADLINE"), Some(Exit::Deadline));
        assert_eq!(Exit::of_code("NO_ROUTE"), Some(Exit::No));
        assert_eq!(Exit::of_code("CELL_NOT_RUNNING"), Some(Exit::Unreachable));
        assert_eq!(Exit::of_code("NO_SUCH_CODE"), None);
    }
}
