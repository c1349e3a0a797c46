//! What to do next about each code.

use cellbus_cells::control::LocalCode;
use cellbus_proto::{
    status::Status,
    topology::{Code, Severity},
};

use crate::codes::CliCode;

/// What to do about the status of a message.
pub fn of_status(status: Status) -> &'static str {
    match status {
        Status::NoRoute => {
            "See with `cellbus trace` where it ended, and with `cellbus routes` there which link is missing; \
             start that cell, or wait until it is back."
        }
        Status::BadTarget => "Address a cell, and a channel and topic, that can be addressed.",
        Status::NoHandler => {
            "See in `cellbus inspect` of the destination which handlers it has; start what answers, or \
             `cellbus serve` it."
        }
        Status::TtlExceeded | Status::Loop => {
            "Compare the topology files of the cells on the way; one of them believes another tree."
        }
        Status::PeerUnknown => {
            "Wait until the sender has registered again; `cellbus status` there says how far it is."
        }
        Status::PeerLost | Status::PeerRestarted => {
            "Find out whether the work was done before it is asked for again, or send it with `--retry`."
        }
        Status::ExpiredInQueue => {
            "Give it a larger `--budget`, and see with `cellbus trace` which cell held it for so long."
        }
        Status::Deadline => {
            "Find out whether the work was done; then give it a larger `--budget`, and see in `cellbus stats` of \
             the destination how long its handlers take."
        }
        Status::Overloaded | Status::SlowConsumer | Status::RateLimit => {
            "Send it again later, or less at once; `cellbus links` shows where bytes wait."
        }
        Status::TooLarge => {
            "Make the payload smaller, or raise `inline_payload_max_bytes` under [limits] on every cell of the way."
        }
        Status::Draining | Status::ShuttingDown => {
            "Send it again when the cell has been started again, or send it to another one."
        }
        Status::AbortedRunning => {
            "Find out whether the work was done before it is asked for again."
        }
        Status::StaleId | Status::Duplicate => {
            "Send it as a new message; a message that is sent again must be so within its budget."
        }
        Status::ClockSkew => {
            "Set the clocks of both machines; they differ by more than is allowed."
        }
        Status::NoHello | Status::NoToken | Status::NoChallenge => {
            "Nothing, if it was a moment; a cell that keeps doing this does not speak the protocol."
        }
        Status::BadToken | Status::TokenExpired | Status::TokenRevoked | Status::TokenWrongConn => {
            "Nothing, if it was a moment: the cell registers again by itself. Otherwise look at the WARN lines of \
             its parent."
        }
        Status::OriginMismatch => {
            "Look at the neighbour that the WARN line names: it sends in the name of others."
        }
        Status::NotDirect => "Send it from a direct neighbour; it is passed on by nobody.",
        Status::ChallengeExpired | Status::ChallengeLimit => {
            "Nothing: the cell tries again by itself. If it keeps coming, the machine is too busy."
        }
        Status::BadSignature => {
            "Look whether both cells have the certificates of the same project; otherwise somebody has changed \
             the message."
        }
        Status::CertName | Status::CertKind => {
            "Issue the cell a certificate with the name and kind that the topology gives it."
        }
        Status::CertExpired => "Renew the certificate, and look at the clock of the machine.",
        Status::CertRevoked | Status::Disabled => {
            "Ask the administrator of the project why; nothing else lets the cell in again."
        }
        Status::TopicDenied => {
            "See with `cellbus policy explain` which rule is missing or denies it, and add an [[allow]] to the \
             topology of the cell that refused it."
        }
        Status::JobScope => "Let the job speak to cells of its own job and to its parent only.",
        Status::Forbidden => {
            "Ask somebody who may, or change what forbids it; the message names it."
        }
        Status::DuplicateName => {
            "Find the other process with this certificate and stop it; where nobody started it, the key has been \
             copied."
        }
        Status::ReplyUnsolicited => {
            "Look at the neighbour that the WARN line names: it answers what nobody asked."
        }
        Status::DestNotLocal => "Send it to a cell that the sender may reach, or by another way.",
        Status::Unauthenticated => {
            "Look at the certificates of both ends, and at the project they name."
        }
        Status::NotSealed => "Send it sealed; the rules of the receiver want that on this channel.",
        Status::SealBroken => {
            "Look whether the receiver has a new key, and send it again; otherwise somebody has changed the message."
        }
        Status::StaleList => {
            "Look who still hands out the old list: a server restored from a backup, or a file of last week. Sign the \
             next list with a higher version than any cell holds (`cellbus trust ls`)."
        }
        Status::SealKey => {
            "Wait until both cells are registered, so that each knows the key of the other, and send it again."
        }
        Status::BadFrame | Status::BadHeader | Status::TooDeep | Status::BadFqcn => {
            "Look at the neighbour that the log names: what it sends is not the protocol."
        }
        Status::Version => "Bring both cells to versions that speak with each other.",
        Status::FilterError => {
            "Look at the detail: a filter of the application does not let this payload pass."
        }
        Status::HandlerPanic | Status::HandlerGone => {
            "Look at the log of the destination for what its handler did; find out whether the work was done."
        }
        Status::HandlerFailed => "Read the detail: it is what the handler says.",
        Status::StorageFull => "Make room on the disk of that cell.",
        Status::StorageDegraded => "Look at the disk of that cell, and start the cell again.",
        Status::AuditUnavailable => {
            "Look at the disk of that cell; nothing privileged is done until then."
        }
        Status::CommitUnknown => "Find out whether the work was done before it is asked for again.",
        Status::SourceChanged => {
            "Ask the holder for a new reference: what it serves has been changed since this one was made."
        }
        Status::DigestMismatch => {
            "Look at the disk of the receiver, and have the holder make a new reference from its source."
        }
        Status::TransferExpired | Status::TransferUnknown => {
            "Ask the holder for a new reference, or whether it still serves this one."
        }
        Status::TransferStalled => {
            "Look at the links between receiver and holder, then resume: what arrived has been kept."
        }
        Status::TransferNotReady => {
            "Wait: the holder reads what it is to serve, which takes as long as its disk needs."
        }
        Status::TransferCancelled => "Begin the transfer again if it is still wanted.",
    }
}

/// What to do about a control socket.
pub fn of_local(code: LocalCode) -> &'static str {
    match code {
        LocalCode::CellNotRunning => {
            "Start the cell with `cellbus up`, or say where it is with --at, --state, --topology or --project."
        }
        LocalCode::ControlDenied => "Run the command as the user that runs the cell.",
        LocalCode::ControlIo => "Read what the system says, and try again.",
        LocalCode::ControlBadRequest => "Correct the argument that the message names.",
        LocalCode::ControlSlow => "Try again; the machine may have been busy.",
        LocalCode::ControlTaken => {
            "Serve another topic, or stop what answers this one; `cellbus inspect` lists the handlers."
        }
        LocalCode::JobUnknown => "Look for it in `cellbus job ls`.",
        LocalCode::JobInvalid => "Correct what the message names in the job's directory.",
        LocalCode::JobOver => "Run it again, if it is wanted; it is another attempt then.",
        LocalCode::JobRunning => {
            "Wait for it, end it with `cellbus job cancel`, or choose another name."
        }
        LocalCode::JobNotAttachable => {
            "Name the cell whose part waits with --at; a program waits where [[program]] says attach = true."
        }
        LocalCode::JobAttached => "End the process that is attached; its part ends with it.",
        LocalCode::JobNotAllowed => {
            "Ask who runs the cell to offer it under [[program]] in the topology, or name what is offered."
        }
        LocalCode::JoinClosed => {
            "Ask the server, after its kit has local/join.toml and it was started again."
        }
        LocalCode::JoinRefused => "Read the reason; `cellbus requests ls` shows who is invited.",
        LocalCode::ControlBadReply => {
            "Look whether the cell still runs and is of the same version; then try again."
        }
    }
}

/// What to do about a code of the command itself.
pub fn of_command(code: CliCode) -> &'static str {
    match code {
        CliCode::Usage => "Read `cellbus COMMAND --help`.",
        CliCode::Config => "Run `cellbus validate FILE`; it shows each error with its place.",
        CliCode::Input => "Look whether the file is there and may be read.",
        CliCode::Kit => "Run `cellbus doctor --kit DIR`; it says what is wrong and what helps.",
        CliCode::CellAmbiguous => "Choose with --at CELL, --project NAME or --state DIR.",
        CliCode::UnknownCode => "Look for it in `cellbus errors ls`.",
        CliCode::Start => "Read what the message names: state, credentials or port.",
        CliCode::Unfinished => "Find out what was left undone before it is asked for again.",
        CliCode::NoTerminal => "Run it in a terminal, or use `cellbus stats --watch -o jsonl`.",
        CliCode::CheckFailed => "Read which claim it is, and what was found instead.",
        CliCode::JobFailed => "Read what it printed with `cellbus job logs JOB`.",
        CliCode::JobAborted => "Run it again, if it is wanted.",
        CliCode::JobLost => "Look what became of the cells that ran it; then run it again.",
        CliCode::JobLate => "Give it more time under [budget] of its job.toml, or less to do.",
        CliCode::JobDenied => {
            "Ask who runs the cell to offer what the job needs under [[program]]."
        }
        CliCode::NotInvited => "Ask who invited for a new line.",
        CliCode::JoinWaiting => {
            "Ask who invited to approve the request, then run `cellbus join --kit DIR` again."
        }
        CliCode::NotTheDoor => {
            "Compare the fingerprint of the authority with who invited; somebody else may be answering."
        }
        CliCode::DoorUnreachable => {
            "Look whether the server runs and UDP gets through to its join door, then run it again."
        }
        CliCode::Bug => "Report it with everything that was printed.",
    }
}

/// What to do about a finding in a topology file.
pub fn of_topology(code: Code) -> &'static str {
    match code.severity() {
        Severity::Error => {
            "Correct the line that `cellbus validate FILE` shows; its help says how."
        }
        Severity::Warning => {
            "Look at the line that `cellbus validate FILE` shows; it may be meant."
        }
    }
}
