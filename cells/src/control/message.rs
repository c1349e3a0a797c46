//! What a cell can be asked over its control socket.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cellbus_channels::BoxFuture;
use cellbus_proto::{
    name::{Channel, Fqcn, Topic},
    status::Status,
};
use serde::{Deserialize, Serialize};

use super::{
    BanAsk, ControlError, DeadLettersAsk, JobAsk, JobAttachAsk, JobLogsAsk, JobRunAsk, JoinAsk,
    ListsAsk, LocalCode, MAX_DEAD_LETTERS, MAX_SAMPLE, MAX_SERVED, ReloadAsk, Reply, SendAsk,
    ServeAsk, Talk, TapAsk, TraceAsk, TransferAsk, selector, transfer,
};

/// Version of these messages. Another version is refused with `VERSION`.
pub const VERSION: u32 = 1;
/// The most pings in one request.
pub const MAX_PINGS: u32 = 1000;
/// The longest budget that may be asked for, in milliseconds.
pub const MAX_BUDGET_MS: u64 = 600_000;

/// How long a cell may take for what does not wait for another cell.
const OWN_TIME: Duration = Duration::from_secs(10);

/// A cell that answers on a control socket.
pub trait Controlled: Send + Sync + 'static {
    /// Answers one request, which has passed [`Request::check`].
    ///
    /// The future is dropped when the socket is closed, not when the asking side hangs up.
    fn handle(&self, request: Request) -> BoxFuture<Result<Reply, ControlError>>;

    /// Answers one request that goes on ([`Request::goes_on`]), which has passed [`Request::check`].
    ///
    /// The future is dropped when the asking side hangs up. Default: as [`Self::handle`], with no events.
    fn converse(&self, request: Request, talk: Talk) -> BoxFuture<Result<Reply, ControlError>> {
        drop(talk);
        self.handle(request)
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who and how the cell is.
    Status,
    /// The cells that this cell knows of.
    Cells,
    /// The direct neighbours of this cell.
    Peers,
    /// Sends pings from this cell.
    Ping(PingAsk),
    /// Asks what this cell would do with a message, without sending one.
    Explain(ExplainAsk),
    /// Asks which rules decide about a message, and which nearly would.
    Policy(ExplainAsk),
    /// Reads the topology file again and decides by its rules from then on.
    Reload(ReloadAsk),
    /// Sends a request from this cell and waits for its end.
    Request(RequestAsk),
    /// The links of this cell, with all that is known of them.
    Links,
    /// Where messages go from here.
    Routes,
    /// What this cell has counted and measured.
    Stats,
    /// Messages whose end nobody could be told.
    DeadLetters(DeadLettersAsk),
    /// The figures of this cell for Prometheus.
    Metrics,
    /// Sends a message from this cell that asks every cell on its way what it does.
    Trace(TraceAsk),
    /// Sends a message from this cell and waits for no reply.
    Send(SendAsk),
    /// Sends a request from this cell and tells its replies as they come.
    Replies(RequestAsk),
    /// Tells what passes this cell, until the asking side hangs up.
    Tap(TapAsk),
    /// Has the asking side answer messages for this cell, until it hangs up.
    Serve(ServeAsk),
    /// Begins, lists or ends transfers.
    Transfer(TransferAsk),
    /// The signed lists that this cell holds.
    Lists,
    /// Gives this cell signed lists.
    TakeLists(ListsAsk),
    /// Changes whom the server lets in.
    Ban(BanAsk),
    /// Asks about the join door of this server, or changes who is let in there.
    Join(JoinAsk),
    /// Starts a job, and tells what becomes of it until its end.
    JobRun(JobRunAsk),
    /// The jobs of this server.
    JobLs,
    /// One job.
    JobShow(JobAsk),
    /// Tells what a job has printed.
    JobLogs(JobLogsAsk),
    /// Ends a job.
    JobCancel(JobAsk),
    /// Opens the part of a job that this cell runs for one process that somebody else starts.
    JobAttach(JobAttachAsk),
    /// Everything the cell knows about itself, for tools and tests.
    Inspect,
    /// Takes no new work, finishes what is there, then ends.
    Drain,
    /// Ends now.
    Stop,
}

/// Pings to send, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingAsk {
    /// The cell to ping.
    pub to: Fqcn,
    /// How many, from 1 to [`MAX_PINGS`].
    pub count: u32,
    /// Milliseconds until one ping is given up, from 1 to [`MAX_BUDGET_MS`].
    pub budget_ms: u64,
}

/// A message that is only thought of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainAsk {
    /// Who would send it.
    pub from: Fqcn,
    /// Who it would be for.
    pub to: Fqcn,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestAsk {
    /// The cell it is for.
    pub to: Fqcn,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
    /// What it carries.
    pub payload: Payload,
    /// Media type of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Headers of the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<String>,
    /// Whether it is sent again, with the same id, while nothing is heard of it.
    #[serde(default)]
    pub retry: bool,
    /// Milliseconds until it is given up, from 1 to [`MAX_BUDGET_MS`].
    pub budget_ms: u64,
}

/// Bytes inside JSON: as text where they are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// The bytes of this text.
    Utf8(String),
    /// The bytes that this is the base64 of (standard alphabet, padded).
    Base64(String),
}

/// A payload that is not base64 although it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload is not base64")]
pub struct PayloadError;

impl Request {
    /// Whether its numbers are within their bounds, and its texts are what they have to be.
    ///
    /// # Errors
    /// [`LocalCode::ControlBadRequest`] naming the field.
    pub fn check(&self) -> Result<(), ControlError> {
        match self {
            Self::Ping(ask) => {
                in_bounds("count", u64::from(ask.count), u64::from(MAX_PINGS))?;
                in_bounds("budget_ms", ask.budget_ms, MAX_BUDGET_MS)
            }
            Self::Request(ask) | Self::Replies(ask) => is_sendable(ask.budget_ms, &ask.payload),
            Self::Send(ask) => is_sendable(ask.budget_ms, &ask.payload),
            Self::Trace(ask) => is_sendable(ask.budget_ms, &ask.payload),
            Self::DeadLetters(ask) => {
                in_bounds("limit", u64::from(ask.limit), u64::from(MAX_DEAD_LETTERS))?;
                let code = ask.code.as_deref();
                match code.filter(|code| Status::from_code(code).is_none()) {
                    Some(code) => Err(bad(format!("`code` is {code:?}, which is no code"))),
                    None => Ok(()),
                }
            }
            Self::Tap(ask) => {
                in_bounds("sample", u64::from(ask.sample), u64::from(MAX_SAMPLE))?;
                selector(&ask.of).map(|_| ()).map_err(|error| bad(error.to_string()))
            }
            Self::Serve(ask) => {
                in_bounds("concurrency", u64::from(ask.concurrency), u64::from(MAX_SERVED))?;
                selector(&ask.of).map(|_| ()).map_err(|error| bad(error.to_string()))
            }
            Self::Transfer(ask) => transfer::check(ask).map_err(bad),
            Self::JobRun(ask) if !std::path::Path::new(&ask.dir).is_absolute() => {
                Err(bad(format!("`dir` is {:?}, which is no absolute path", ask.dir)))
            }
            Self::JobAttach(ask) => {
                in_bounds("lifetime_s", u64::from(ask.lifetime_s), u64::from(JobAttachAsk::MAX_S))
            }
            Self::Status
            | Self::Cells
            | Self::Peers
            | Self::Links
            | Self::Routes
            | Self::Stats
            | Self::Metrics
            | Self::JobRun(_)
            | Self::JobLs
            | Self::JobShow(_)
            | Self::JobLogs(_)
            | Self::JobCancel(_)
            | Self::Explain(_)
            | Self::Policy(_)
            | Self::Reload(_)
            | Self::Lists
            | Self::TakeLists(_)
            | Self::Ban(_)
            | Self::Join(_)
            | Self::Inspect
            | Self::Drain
            | Self::Stop => Ok(()),
        }
    }

    /// Whether events come before the reply, and the asking side may say more.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        if let Self::Transfer(ask) = self {
            return ask.goes_on();
        }
        matches!(
            self,
            Self::Replies(_) | Self::Tap(_) | Self::Serve(_) | Self::JobRun(_) | Self::JobLogs(_)
        )
    }

    /// How long an answer can take at most, other cells included; for a request that goes on, until the
    /// first event.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let others = match self {
            Self::Ping(ask) => Duration::from_millis(ask.budget_ms).saturating_mul(ask.count),
            Self::Request(ask) | Self::Replies(ask) => Duration::from_millis(ask.budget_ms),
            Self::Send(ask) => Duration::from_millis(ask.budget_ms),
            Self::Trace(ask) => Duration::from_millis(ask.budget_ms),
            Self::Status
            | Self::Cells
            | Self::Peers
            | Self::Links
            | Self::Routes
            | Self::Stats
            | Self::DeadLetters(_)
            | Self::Metrics
            | Self::Explain(_)
            | Self::Policy(_)
            | Self::Reload(_)
            | Self::Lists
            | Self::TakeLists(_)
            | Self::Ban(_)
            | Self::Join(_)
            | Self::Tap(_)
            | Self::Serve(_)
            | Self::Transfer(_)
            | Self::JobRun(_)
            | Self::JobLs
            | Self::JobShow(_)
            | Self::JobLogs(_)
            | Self::JobCancel(_)
            | Self::JobAttach(_)
            | Self::Inspect
            | Self::Drain
            | Self::Stop => Duration::ZERO,
        };
        others.saturating_add(OWN_TIME)
    }
}

fn bad(text: String) -> ControlError {
    ControlError::local(LocalCode::ControlBadRequest, text)
}

fn in_bounds(field: &str, value: u64, max: u64) -> Result<(), ControlError> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(bad(format!("`{field}` is {value}; it must be from 1 to {max}")))
}

fn is_sendable(budget_ms: u64, payload: &Payload) -> Result<(), ControlError> {
    in_bounds("budget_ms", budget_ms, MAX_BUDGET_MS)?;
    payload.to_bytes().map(|_| ()).map_err(|error| bad(error.to_string()))
}

impl Payload {
    /// Text where `bytes` are text, base64 where they are not.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(
            |_| Self::Base64(STANDARD.encode(bytes)),
            |text| Self::Utf8(text.to_owned()),
        )
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`PayloadError`] when it claims to be base64 and is not.
    pub fn to_bytes(&self) -> Result<Bytes, PayloadError> {
        match self {
            Self::Utf8(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Self::Base64(text) => STANDARD.decode(text).map(Bytes::from).map_err(|_| PayloadError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_travel_as_text_where_they_are_text() {
        for bytes in [&b"hi"[..], b"", b"\xff\x00\x01", "ü\n".as_bytes()] {
            let payload = Payload::from_bytes(bytes);
            assert_eq!(matches!(payload, Payload::Utf8(_)), std::str::from_utf8(bytes).is_ok());
            assert_eq!(payload.to_bytes().unwrap(), bytes);
        }
        assert_eq!(Payload::Base64("no!".to_owned()).to_bytes(), Err(PayloadError));
    }

    #[test]
    fn a_request_is_read_exactly() {
        let good = r#"{"ping":{"to":"site-1","count":3,"budget_ms":1000}}"#;
        let ask = PingAsk { to: "site-1".parse().unwrap(), count: 3, budget_ms: 1000 };
        assert_eq!(serde_json::from_str::<Request>(good).unwrap(), Request::Ping(ask));
        assert_eq!(serde_json::from_str::<Request>(r#""status""#).unwrap(), Request::Status);
        for bad in [
            r#"{"ping":{"to":"site-1","count":3,"budget_ms":1000,"more":1}}"#,
            r#"{"ping":{"to":"Site 1","count":3,"budget_ms":1000}}"#,
            r#"{"ping":{"to":"site-1","count":-3,"budget_ms":1000}}"#,
            r#"{"ping":{"to":"site-1"}}"#,
            r#""reboot""#,
            r#"{"status":{"verbose":true}}"#,
            r#"{"ping":{"to":"a","count":1,"budget_ms":1},"stop":null}"#,
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_by_field() {
        let ping = |count, budget_ms| {
            Request::Ping(PingAsk { to: "a".parse().unwrap(), count, budget_ms }).check()
        };
        assert!(ping(1, 1).is_ok());
        assert!(ping(MAX_PINGS, MAX_BUDGET_MS).is_ok());
        for (count, budget_ms, field) in [
            (0, 1, "count"),
            (MAX_PINGS + 1, 1, "count"),
            (1, 0, "budget_ms"),
            (1, u64::MAX, "budget_ms"),
        ] {
            let error = ping(count, budget_ms).unwrap_err();
            assert_eq!(error.code, "CONTROL_BAD_REQUEST");
            assert!(error.message.contains(field), "{}", error.message);
        }
    }
}
