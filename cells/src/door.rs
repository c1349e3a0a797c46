//! The join door of a server: where somebody who is invited leaves a request, and collects the reply.
//!
//! It is opened only where the site's own configuration says so. It holds hashes and sealed letters, no key and no
//! secret: what it keeps lets nobody join, and it issues nothing. Who decides asks it over the control socket.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellbus_proto::{
    joining::{Answer, Door, DoorError, Entry, Knocked, REPLY_MAX_BYTES, Refusal, Stage, Step},
    name::Segment,
    transcript::sha256,
};
use cellbus_runtime::{
    carrier::Task,
    clock::{self, WallClock},
    joining::{Asked, JoinDesk},
    quic::QuicPortError,
    secret_file::SecretFileError,
    throttle::LogThrottle,
};

use self::store::Store;
use crate::control::{ControlError, JoinAsk, JoinReply, JoinRow, JoinVerb, LocalCode, Payload};

mod store;
#[cfg(test)]
mod tests;

/// Seconds after which whoever waits is to ask again.
const ASK_AGAIN_S: u32 = 2;

/// Where a door is, as the site configures it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// Where it listens, UDP.
    pub listen: SocketAddr,
    /// Where others reach it, host and port, where that is somewhere else.
    pub address: Option<String>,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorOpenError {
    /// What it has kept cannot be used.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// Its port cannot be opened.
    #[error(transparent)]
    Port(#[from] QuicPortError),
    /// Only a server has one.
    #[error("a {0} has no join door; remove local/join.toml")]
    Kind(cellbus_proto::identity::CellKind),
}

/// Whom a door is, for those who are invited to it.
#[derive(Clone, Debug)]
pub struct Sign {
    /// Base name of the cell.
    pub cell: Segment,
    /// Its project.
    pub project: Segment,
    /// Where others reach the door: host and port.
    pub address: String,
}

/// What a door knows, in memory and on the disk. Clones are the same.
#[derive(Clone, Debug)]
pub struct Desk {
    kept: Arc<Mutex<Kept>>,
    sign: Arc<Sign>,
    wall: WallClock,
}

#[derive(Debug)]
struct Kept {
    door: Door,
    store: Store,
    refused: LogThrottle<Refusal>,
}

impl Desk {
    /// Takes up what was kept in `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// [`SecretFileError`] when the directory cannot be used. A damaged entry is left as it is, with a WARN, and
    /// nobody gets in by it.
    pub fn open(dir: &Path, sign: Sign, wall: WallClock) -> Result<Self, SecretFileError> {
        let (store, door) = Store::open(dir)?;
        let kept = Kept { door, store, refused: LogThrottle::default() };
        let desk = Self { kept: Arc::new(Mutex::new(kept)), sign: Arc::new(sign), wall };
        desk.locked().sweep(wall.unix());
        Ok(desk)
    }

    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides about a knock. Writes to the disk.
    fn decide(&self, asked: &Asked) -> Answer {
        match self.decided(asked) {
            Ok(answer) => answer,
            Err(refusal) => {
                let (name, from) = (&asked.knock.name, asked.from);
                if let Some(left_out) = self.locked().refused.allow(refusal, clock::now()) {
                    tracing::info!(%name, %from, why = %refusal, left_out, "the join door has refused");
                }
                Answer::Refused(refusal)
            }
        }
    }

    fn decided(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let now = self.wall.unix();
        let (name, access) = (&asked.knock.name, &asked.knock.access.0);
        self.locked().door.recognise(name, access, now)?;
        // Only now: to check a signature costs far more than to make up a name.
        if !asked.is_proved() {
            return Err(Refusal::NoProof);
        }
        let mut kept = self.locked();
        let (certificate_sha256, request_sha256) =
            (asked.certificate_sha256(), asked.request_sha256());
        let knocked = Knocked { name, access, certificate_sha256, request_sha256 };
        match kept.door.knock(&knocked, now)? {
            Step::Wait => {}
            Step::Keep(entry) => {
                let request = &asked.knock.request.0;
                kept.keep(name, entry, Some(Letter::Request(request))).map_err(|error| {
                    tracing::warn!(%error, "the join door cannot keep a request");
                    Refusal::Busy
                })?;
                let from = asked.from;
                tracing::info!(%name, %from, "asks to join; `cellbus requests ls` shows it");
            }
            Step::Give(reply_sha256) => {
                let reply = kept.store.reply(name, &reply_sha256).map_err(|error| {
                    tracing::warn!(%error, "the join door cannot read a reply");
                    Refusal::Busy
                })?;
                return Ok(Answer::Granted { reply });
            }
        }
        Ok(Answer::Waiting { after_s: ASK_AGAIN_S })
    }

    /// Answers who decides, over the control socket. Writes to the disk. Whom the cell trusts is not known here: no roots.
    ///
    /// # Errors
    /// [`LocalCode::JoinRefused`] where the door says no, [`LocalCode::ControlBadRequest`] for what is no such request.
    pub fn control(&self, ask: &JoinAsk) -> Result<JoinReply, ControlError> {
        let now = self.wall.unix();
        let by = ask.by.as_deref().unwrap_or("a control socket");
        let mut kept = self.locked();
        kept.sweep(now);
        let mut request = None;
        match &ask.verb {
            JoinVerb::Ls => {}
            JoinVerb::Invite { name, access_sha256, expires_unix } => {
                let access = digest("access_sha256", access_sha256)?;
                let entry = kept.door.invited(name, access, *expires_unix, now).map_err(no)?;
                kept.keep(name, entry, None).map_err(|error| failed(&error))?;
                // What was left under an earlier invitation is nobody's now.
                kept.store.forget_letters(name);
                tracing::info!(%name, by, "is invited to join");
            }
            JoinVerb::Fetch { name } => {
                let entry = kept.door.entry(name).ok_or_else(|| no(DoorError::Unknown))?;
                let claim = entry.claim().ok_or_else(|| match entry.stage {
                    Stage::Rejected => no(DoorError::Rejected),
                    Stage::Invited | Stage::Waiting(_) | Stage::Answered(..) => {
                        no(DoorError::NoRequest)
                    }
                })?;
                let letter = kept.store.request(name, &claim.request_sha256.0);
                request = Some(Payload::from_bytes(&letter.map_err(|error| failed(&error))?));
            }
            JoinVerb::Answer { name, request_sha256, reply, rule } => {
                let to = digest("request_sha256", request_sha256)?;
                let reply = reply.to_bytes().map_err(|error| bad(error.to_string()))?;
                if reply.len() > REPLY_MAX_BYTES {
                    let text = format!(
                        "a reply of {} bytes is more than the {REPLY_MAX_BYTES} that a join door hands out",
                        reply.len()
                    );
                    return Err(ControlError::local(LocalCode::JoinRefused, text)
                        .hint("write it to a file with --reply and hand that over"));
                }
                let entry = kept.door.answered(name, to, sha256(&reply)).map_err(no)?;
                let letter = Some(Letter::Reply(&reply));
                kept.keep(name, entry, letter).map_err(|error| failed(&error))?;
                tracing::info!(%name, by, rule = rule.as_deref(), "may join");
            }
            JoinVerb::Reject { name } => {
                let entry = kept.door.rejected(name).map_err(no)?;
                kept.keep(name, entry, None).map_err(|error| failed(&error))?;
                kept.store.forget_letters(name);
                tracing::info!(%name, by, "is no longer invited to join");
            }
        }
        Ok(JoinReply {
            cell: self.sign.cell.clone(),
            project: self.sign.project.clone(),
            roots: Vec::new(),
            address: self.sign.address.clone(),
            rows: kept.door.entries().map(|(name, entry)| row(name, entry)).collect(),
            request,
        })
    }
}

/// What goes with an entry.
enum Letter<'a> {
    Request(&'a [u8]),
    Reply(&'a [u8]),
}

impl Kept {
    /// On the disk first, letter before entry, and then in force: what was said to anybody outlives a crash.
    fn keep(
        &mut self,
        name: &Segment,
        entry: Entry,
        letter: Option<Letter<'_>>,
    ) -> Result<(), SecretFileError> {
        match letter {
            Some(Letter::Request(bytes)) => self.store.keep_request(name, bytes)?,
            Some(Letter::Reply(bytes)) => self.store.keep_reply(name, bytes)?,
            None => {}
        }
        self.store.keep_entry(name, &entry)?;
        self.door.put(name.clone(), entry);
        Ok(())
    }

    fn sweep(&mut self, now_unix: u64) {
        for name in self.door.sweep(now_unix) {
            self.store.forget(&name);
        }
    }
}

impl JoinDesk for Desk {
    fn answer(&self, asked: Asked) -> Task<Answer> {
        let desk = self.clone();
        Box::pin(async move {
            // The disk may be slow, and the cell must not be.
            let decided = tokio::task::spawn_blocking(move || desk.decide(&asked)).await;
            decided.unwrap_or(Answer::Refused(Refusal::Busy))
        })
    }
}

fn row(name: &Segment, entry: &Entry) -> JoinRow {
    let claim = entry.claim();
    let stage = match entry.stage {
        Stage::Invited => "invited",
        Stage::Waiting(_) => "waiting",
        Stage::Answered(..) => "answered",
        Stage::Rejected => "rejected",
    };
    JoinRow {
        name: name.clone(),
        stage: stage.to_owned(),
        expires_unix: entry.expires_unix,
        since_unix: claim.map(|claim| claim.since_unix),
        key_sha256: claim.map(|claim| hex(&claim.certificate_sha256.0)),
        request_sha256: claim.map(|claim| hex(&claim.request_sha256.0)),
    }
}

/// Hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(field: &str, text: &str) -> Result<[u8; 32], ControlError> {
    let wrong = || bad(format!("`{field}` is not 64 hexadecimal digits"));
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

fn bad(text: String) -> ControlError {
    ControlError::local(LocalCode::ControlBadRequest, text)
}

fn no(error: DoorError) -> ControlError {
    let hint = match error {
        DoorError::Unknown | DoorError::Expired | DoorError::Rejected => {
            "`cellbus invite` with --at invites anew"
        }
        DoorError::Full => "`cellbus requests reject NAME` withdraws one",
        DoorError::NoRequest => "`cellbus requests ls` shows who has come",
        DoorError::OtherRequest => "fetch and approve the request that waits",
    };
    ControlError::local(LocalCode::JoinRefused, error.to_string()).hint(hint)
}

fn failed(error: &SecretFileError) -> ControlError {
    ControlError::local(LocalCode::JoinRefused, cellbus_proto::causes::with_sources(error))
        .hint("look at the disk and the state directory of the server")
}
