//! Proof of origin: which messages need one, what the origin signs, and which proofs are taken, once.
//!
//! A relay sees every token that passes through it, and could speak in the name of whoever is behind it.
//! It cannot sign for them. So what makes a cell act ([`SIGNED`]), and everything that is sealed, carries a
//! signature of the origin's certificate key, and a destination takes each of these once.

use crate::{
    envelope::{Flags, Header, Kind},
    transcript::{Purpose, Signable, Transcript, sha256},
    well_known::{self, SystemTopic},
};

mod replays;

pub use self::replays::{Proved, Replay, Replays};

/// The topics on which a message without a good proof of its origin is refused: those that make the
/// destination act.
pub const SIGNED: [SystemTopic; 10] = [
    well_known::REGISTER_CHILD,
    well_known::RENEW_CHILD,
    well_known::DETACH_CHILD,
    well_known::QUIT,
    well_known::RENEW_CERTIFICATE,
    well_known::ISSUE_CERTIFICATE,
    well_known::JOB_START,
    well_known::JOB_STOP,
    well_known::JOB_ENDED,
    well_known::JOB_TABLE,
];

/// Whether this message must carry proof of its origin. Answers carry none of this kind.
#[must_use]
pub fn must_be_signed(header: &Header) -> bool {
    !header.kind.is_answer() && header.target.system().is_some_and(|topic| SIGNED.contains(&topic))
}

/// Whether a message on `topic` does no harm when the destination has been started again since it was
/// signed: it names an incarnation or answers a nonce, or says what is no longer true of anybody.
#[must_use]
pub fn survives_restart(topic: SystemTopic) -> bool {
    SIGNED.contains(&topic) && !matches!(topic, well_known::JOB_START | well_known::JOB_STOP)
}

/// Begins a transcript with all of a header that decides where a message goes, what it is and how it is
/// handled. What hops change or add (budget, hops, lane, path, token, trace) is not in it.
#[must_use]
pub fn routing(purpose: Purpose, project: &str, header: &Header) -> Transcript {
    let start = header.origin.incarnation;
    let (kind, to, status, by) = match &header.kind {
        Kind::Publish => (0, 0, 0, ""),
        Kind::Request => (1, 0, 0, ""),
        Kind::Reply { to } => (2, *to, 0, ""),
        Kind::Return { to, status, by } => (3, *to, *status as u64, by.as_str()),
    };
    let content_type =
        header.content_type().map_or_else(String::new, |text| format!("\u{1}{text}"));
    let headers = header.extras.as_ref().map_or(&[][..], |extras| &extras.headers);
    let number = |transcript: Transcript, value: u64| transcript.field(&value.to_be_bytes());
    let transcript = Transcript::new(purpose)
        .field(project.as_bytes())
        .field(header.origin.name.as_str().as_bytes());
    let transcript = number(transcript, start.map_or(0, |start| start.counter));
    let transcript = number(transcript, start.map_or(0, |start| start.nonce))
        .field(header.destination.name.as_str().as_bytes())
        .field(header.target.channel().as_str().as_bytes())
        .field(header.target.topic().as_str().as_bytes());
    let transcript = number(number(transcript, header.sequence), kind);
    number(number(transcript, to), status)
        .field(by.as_bytes())
        .field(&[header.flags.bits()])
        .field(content_type.as_bytes())
        .field(headers)
}

/// What the origin of a control message signs.
///
/// # Arguments
/// `unix_ms`: when, in milliseconds since 1970, by the origin's clock.
#[must_use]
pub fn control_signable(project: &str, header: &Header, payload: &[u8], unix_ms: u64) -> Signable {
    routing(Purpose::ControlMessage, project, header)
        .field(&sha256(payload))
        .field(&unix_ms.to_be_bytes())
        .finish()
}

/// Whether copies of this message are recognised where it is executed, and so may pass here.
#[must_use]
pub fn may_be_repeated(header: &Header) -> bool {
    header.flags.contains(Flags::RETRY) && !header.kind.is_answer()
}

#[cfg(test)]
mod tests;
