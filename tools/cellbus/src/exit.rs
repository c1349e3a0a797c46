//! What the process's exit code says.

use std::process::ExitCode;

use cellbus_cells::control::{ControlError, LocalCode};
use cellbus_proto::status::Status;

/// How a command ended. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, and the answer is yes.
    Ok = 0,
    /// A cell failed, or the answer is no.
    No = 1,
    /// The cell cannot be reached, or does not believe who is asking.
    Unreachable = 2,
    /// The time was up.
    Deadline = 3,
    /// The arguments or the configuration are wrong.
    Invalid = 4,
    /// A defect of this program.
    Bug = 5,
    /// A policy says no.
    Denied = 6,
}

/// What `--help` says about exit codes.
pub const HELP: &str = "\
Exit codes: 0 ok · 1 a cell failed, or the answer is no · 2 cannot connect or authenticate ·
3 deadline · 4 arguments or configuration · 5 a defect of this program · 6 denied by policy";

impl Exit {
    /// The number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The exit code for an error of a control socket or of a cell behind it.
    pub fn of(error: &ControlError) -> Self {
        Self::of_code(&error.code).unwrap_or(Self::No)
    }

    /// The exit code that goes with a code, where it is one of a cell or of a control socket.
    pub fn of_code(code: &str) -> Option<Self> {
        let local = LocalCode::ALL.iter().copied().find(|local| local.code() == code);
        local.map(of_local).or_else(|| Status::from_code(code).map(of_status))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.number().into()
    }
}

fn of_local(code: LocalCode) -> Exit {
    match code {
        LocalCode::CellNotRunning | LocalCode::ControlDenied | LocalCode::ControlIo => {
            Exit::Unreachable
        }
        LocalCode::ControlBadRequest | LocalCode::JobInvalid | LocalCode::JoinClosed => {
            Exit::Invalid
        }
        LocalCode::JobNotAllowed => Exit::Denied,
        LocalCode::ControlSlow => Exit::Deadline,
        LocalCode::ControlBadReply
        | LocalCode::ControlTaken
        | LocalCode::JobUnknown
        | LocalCode::JobOver
        | LocalCode::JobRunning
        | LocalCode::JobNotAttachable
        | LocalCode::JobAttached
        | LocalCode::JoinRefused => Exit::No,
    }
}

fn of_status(status: Status) -> Exit {
    match status {
        Status::ExpiredInQueue | Status::Deadline => Exit::Deadline,
        Status::TopicDenied
        | Status::JobScope
        | Status::Forbidden
        | Status::OriginMismatch
        | Status::NotDirect
        | Status::NotSealed
        | Status::Disabled => Exit::Denied,
        Status::NoHello
        | Status::NoToken
        | Status::BadToken
        | Status::TokenExpired
        | Status::TokenRevoked
        | Status::TokenWrongConn
        | Status::NoChallenge
        | Status::ChallengeExpired
        | Status::ChallengeLimit
        | Status::BadSignature
        | Status::CertName
        | Status::CertKind
        | Status::CertExpired
        | Status::CertRevoked
        | Status::DuplicateName
        | Status::Unauthenticated
        | Status::PeerUnknown
        | Status::ClockSkew
        | Status::SealBroken
        | Status::Version => Exit::Unreachable,
        Status::NoRoute
        | Status::BadTarget
        | Status::NoHandler
        | Status::TtlExceeded
        | Status::Loop
        | Status::PeerLost
        | Status::PeerRestarted
        | Status::Overloaded
        | Status::SlowConsumer
        | Status::RateLimit
        | Status::TooLarge
        | Status::SealKey
        | Status::StaleList
        | Status::Draining
        | Status::ShuttingDown
        | Status::AbortedRunning
        | Status::StaleId
        | Status::Duplicate
        | Status::ReplyUnsolicited
        | Status::DestNotLocal
        | Status::BadFrame
        | Status::BadHeader
        | Status::TooDeep
        | Status::BadFqcn
        | Status::FilterError
        | Status::HandlerPanic
        | Status::HandlerGone
        | Status::HandlerFailed
        | Status::StorageFull
        | Status::StorageDegraded
        | Status::AuditUnavailable
        | Status::CommitUnknown
        | Status::SourceChanged
        | Status::DigestMismatch
        | Status::TransferExpired
        | Status::TransferUnknown
        | Status::TransferStalled
        | Status::TransferCancelled
        | Status::TransferNotReady => Exit::No,
    }
}
