//! The closed set of ways a message can fail, as its sender learns of it.

use std::fmt;

/// What a status says about the work that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Certainly not executed; the same request may be made again elsewhere or later.
    Refused,
    /// May or may not have been executed.
    Unknown,
    /// Executed, and the handler reported failure.
    Failed,
}

macro_rules! statuses {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $class:ident;)*) => {
        /// Why a message was not answered. One byte on the wire.
        ///
        /// Numbers and classes are part of the protocol: append, never renumber, never reclassify.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Status {
            $($(#[doc = $doc])+ $variant = $number,)*
        }

        impl Status {
            /// Every status, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The status with this number on the wire.
            #[must_use]
            pub fn from_wire(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The stable code, as in logs, metrics and the output of commands.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Whether the work can have been done.
            #[must_use]
            pub fn class(self) -> Class {
                match self {
                    $(Self::$variant => Class::$class,)*
                }
            }

            /// One sentence for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii_start(),)*
                }
            }
        }
    };
}

statuses! {
    /// No link leads towards the destination cell.
    NoRoute = 1, "NO_ROUTE", Refused;
    /// The destination is not an address that this message can have.
    BadTarget = 2, "BAD_TARGET", Refused;
    /// The destination cell has no handler for the channel and topic.
    NoHandler = 3, "NO_HANDLER", Refused;
    /// The message has used up its hops.
    TtlExceeded = 4, "TTL_EXCEEDED", Refused;
    /// The way to the destination leads back where the message came from.
    Loop = 5, "LOOP", Refused;
    /// The sender has no registration here.
    PeerUnknown = 6, "PEER_UNKNOWN", Refused;
    /// The link died after the message had been handed over.
    PeerLost = 7, "PEER_LOST", Unknown;
    /// The destination has been restarted since the message was addressed.
    PeerRestarted = 8, "PEER_RESTARTED", Unknown;

    /// The budget was spent before the message was handed to a handler.
    ExpiredInQueue = 16, "EXPIRED_IN_QUEUE", Refused;
    /// No reply arrived within the budget.
    Deadline = 17, "DEADLINE", Unknown;

    /// A queue or budget on the path is full; try again later.
    Overloaded = 24, "OVERLOADED", Refused;
    /// The next cell takes messages too slowly.
    SlowConsumer = 25, "SLOW_CONSUMER", Refused;
    /// The sender exceeds its rate.
    RateLimit = 26, "RATE_LIMIT", Refused;
    /// The message, or a part of it, is larger than allowed.
    TooLarge = 27, "TOO_LARGE", Refused;
    /// The cell finishes what it has and takes nothing new.
    Draining = 28, "DRAINING", Refused;
    /// The cell is stopping.
    ShuttingDown = 29, "SHUTTING_DOWN", Refused;
    /// The cell stopped while the handler was running.
    AbortedRunning = 30, "ABORTED_RUNNING", Unknown;

    /// The id is older than the window in which repeats are recognised.
    StaleId = 40, "STALE_ID", Refused;
    /// The id has been seen before.
    Duplicate = 41, "DUPLICATE", Refused;
    /// The message was signed too long ago, or in the future, by this cell's clock.
    ClockSkew = 42, "CLOCK_SKEW", Refused;

    /// Something came before HELLO.
    NoHello = 48, "NO_HELLO", Refused;
    /// The message carries no session token.
    NoToken = 49, "NO_TOKEN", Refused;
    /// The session token is not one that the server issued.
    BadToken = 50, "BAD_TOKEN", Refused;
    /// The session token has ended.
    TokenExpired = 51, "TOKEN_EXPIRED", Refused;
    /// The session token has been revoked.
    TokenRevoked = 52, "TOKEN_REVOKED", Refused;
    /// The session token belongs to another connection.
    TokenWrongConn = 53, "TOKEN_WRONG_CONN", Refused;
    /// The origin does not lie where the message came from.
    OriginMismatch = 54, "ORIGIN_MISMATCH", Refused;
    /// The message is only for a direct neighbour.
    NotDirect = 55, "NOT_DIRECT", Refused;
    /// No challenge is pending on this connection.
    NoChallenge = 56, "NO_CHALLENGE", Refused;
    /// The challenge was answered too late.
    ChallengeExpired = 57, "CHALLENGE_EXPIRED", Refused;
    /// Too many challenges are pending.
    ChallengeLimit = 58, "CHALLENGE_LIMIT", Refused;
    /// The signature does not verify.
    BadSignature = 59, "BAD_SIGNATURE", Refused;
    /// The certificate does not carry the name that is claimed.
    CertName = 60, "CERT_NAME", Refused;
    /// The certificate is of the wrong kind.
    CertKind = 61, "CERT_KIND", Refused;
    /// The certificate has ended or is not yet valid.
    CertExpired = 62, "CERT_EXPIRED", Refused;
    /// The certificate has been revoked.
    CertRevoked = 63, "CERT_REVOKED", Refused;
    /// No rule allows the channel and topic for this sender and destination.
    TopicDenied = 64, "TOPIC_DENIED", Refused;
    /// A job cell addressed something outside its job.
    JobScope = 65, "JOB_SCOPE", Refused;
    /// The peer may not do this.
    Forbidden = 66, "FORBIDDEN", Refused;
    /// Another holder of this name is alive.
    DuplicateName = 67, "DUPLICATE_NAME", Refused;
    /// The reply answers nothing that is outstanding.
    ReplyUnsolicited = 68, "REPLY_UNSOLICITED", Refused;
    /// The name has been disabled.
    Disabled = 69, "DISABLED", Refused;
    /// The message is not for this cell and may not be passed on.
    DestNotLocal = 70, "DEST_NOT_LOCAL", Refused;
    /// The peer is not authenticated.
    Unauthenticated = 71, "UNAUTHENTICATED", Refused;
    /// Only sealed messages are taken here.
    NotSealed = 72, "NOT_SEALED", Refused;
    /// The sealed message is not what its origin sealed for this cell.
    SealBroken = 73, "SEAL_BROKEN", Refused;
    /// No key is at hand that the message can be sealed or opened with.
    SealKey = 74, "SEAL_KEY", Refused;
    /// The signed list is older than the one that is held, or another of its version.
    StaleList = 75, "STALE_LIST", Refused;

    /// The frame cannot be decoded.
    BadFrame = 96, "BAD_FRAME", Refused;
    /// The header cannot be decoded, or a field of it is not allowed.
    BadHeader = 97, "BAD_HEADER", Refused;
    /// The value is nested too deeply.
    TooDeep = 98, "TOO_DEEP", Refused;
    /// A cell name is malformed.
    BadFqcn = 99, "BAD_FQCN", Refused;
    /// The peer speaks a version, or uses a critical field, that this cell does not know.
    Version = 100, "VERSION", Refused;

    /// A filter stopped the message before the handler.
    FilterError = 112, "FILTER_ERROR", Refused;
    /// The handler panicked.
    HandlerPanic = 113, "HANDLER_PANIC", Unknown;
    /// The handler ended without an answer.
    HandlerGone = 114, "HANDLER_GONE", Unknown;
    /// The handler ran and reported an error; the payload says which.
    HandlerFailed = 115, "HANDLER_FAILED", Failed;

    /// Storage is full.
    StorageFull = 128, "STORAGE_FULL", Refused;
    /// Storage failed earlier and is not trusted until it is checked.
    StorageDegraded = 129, "STORAGE_DEGRADED", Refused;
    /// The audit trail cannot be written, so nothing privileged is done.
    AuditUnavailable = 130, "AUDIT_UNAVAILABLE", Refused;
    /// The write was made and its sync failed.
    CommitUnknown = 131, "COMMIT_UNKNOWN", Unknown;

    /// What a transfer is read from is no longer what its reference describes.
    SourceChanged = 144, "SOURCE_CHANGED", Refused;
    /// The bytes of the transfer are not those that its digest stands for.
    DigestMismatch = 145, "DIGEST_MISMATCH", Refused;
    /// The transfer has ended, or its reference has expired.
    TransferExpired = 146, "TRANSFER_EXPIRED", Refused;
    /// No transfer of this id is served here.
    TransferUnknown = 147, "TRANSFER_UNKNOWN", Refused;
    /// No byte of the transfer has advanced for as long as its receiver waits.
    TransferStalled = 148, "TRANSFER_STALLED", Refused;
    /// One of the ends has given the transfer up.
    TransferCancelled = 149, "TRANSFER_CANCELLED", Refused;
    /// The holder still reads what the transfer is read from; the detail says how far it is.
    TransferNotReady = 150, "TRANSFER_NOT_READY", Refused;
}

impl Status {
    /// The status with this stable code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.code() == code)
    }

    /// Whether sending the same message again, later, may succeed without anybody changing anything.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NoRoute
                | Self::Overloaded
                | Self::SlowConsumer
                | Self::RateLimit
                | Self::Draining
                | Self::ExpiredInQueue
                | Self::TransferNotReady
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn g_03_every_code_has_one_number_one_name_and_one_class() {
        let numbers: BTreeSet<u8> = Status::ALL.iter().map(|s| *s as u8).collect();
        let codes: BTreeSet<&str> = Status::ALL.iter().map(|s| s.code()).collect();
        assert_eq!(numbers.len(), Status::ALL.len());
        assert_eq!(codes.len(), Status::ALL.len());
        for status in Status::ALL {
            assert_eq!(Status::from_wire(*status as u8), Some(*status));
            assert_eq!(Status::from_code(status.code()), Some(*status));
            assert!(status.meaning().ends_with('.'), "{status}");
        }
        assert_eq!(Status::from_wire(0), None);
        assert_eq!(Status::from_wire(255), None);
    }

    #[test]
    fn what_may_have_run_is_never_called_refused() {
        let unknown: Vec<_> =
            Status::ALL.iter().filter(|s| s.class() == Class::Unknown).map(|s| s.code()).collect();
        assert_eq!(
            unknown,
            [
                "PEER_LOST",
                "PEER_RESTARTED",
                "DEADLINE",
                "ABORTED_RUNNING",
                "HANDLER_PANIC",
                "HANDLER_GONE",
                "COMMIT_UNKNOWN"
            ]
        );
    }
}
