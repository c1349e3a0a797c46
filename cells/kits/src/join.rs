//! Joining a project with a key that never leaves the participant's machine: two sealed letters, which anybody may carry.
//!
//! ```text
//! who provisions                           who joins
//! invite ──── line, with a secret ───────▶ begin: makes the key
//! approve ◀── request, under the secret ──
//!         ─── reply, under the secret ───▶ finish: a kit like any other
//! ```
//!
//! [`online`] hands them over at a join door. What is certified is what the project file says of the participant. Of a request nothing counts but its key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use cellbus_proto::{
    identity::{CellKind, Identity},
    name::Segment,
    topology::project::{Project, Role},
    transcript::{Purpose, Signable, Transcript, sha256},
};
use cellbus_runtime::{
    authority::{
        AuthorityError, ISSUER_CERTIFICATE, ISSUER_KEY, ISSUER_TERMS, OwnCertificateError,
        have_same_key, self_sign, verify_by_root,
    },
    certificate::{CertificateError, certificates_in_pem, leaf_hash, profile::CertProfile},
    secret_file::{
        SecretFileError, Staging, create_private_dir, read_secret_file, write_secret_file,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    kit::{Kit, Refused},
    layout::{
        CERTIFICATE, FILE_MAX_BYTES, KEY, LIMITS, LOCAL, MANIFEST, POLICY, PROGRAMS, ROOT, ROSTER,
        SIGNATURE, STARTUP, TOPOLOGY,
    },
    lists::file_names,
    local::{NEW_LIMITS, NEW_POLICY, NEW_PROGRAMS},
    manifest::{FILE_MODE, FileEntry, is_signed_by},
    passphrase::{Passphrase, PassphraseError},
    provision::{IssuingKey, Order, OwnKey, ProvisionError, Report, Wanted, provision},
    records::{RecordsError, latest},
    seal::{OpenWith, SealError, SealWith, seal, unseal},
    text::hex,
};

pub mod online;
pub mod policy;

pub use self::online::DoorPlace;

/// First characters of the line that invites; the number is the version of its format.
pub const LINE_PREFIX: &str = "cellbus-join-1.";
/// Directory of invitations, in that of the project.
const INVITATIONS: &str = "invitations";
/// What a kit remembers until it is whole.
const PENDING: &str = "join.json";
/// The request that was made, beside it: a second one would not be taken.
const MADE_REQUEST: &str = "join.request";
/// Bytes in the largest request or reply.
pub const LETTER_MAX_BYTES: usize = 16 << 20;
/// The secret is random, so that guessing it needs no cost.
const WORK_FACTOR: u8 = 10;
/// What a reply holds, in the order in which it is written; the signature goes last.
///
/// # Arguments
/// `issues`: whether it is to a server that certifies cells again.
fn replied(issues: bool) -> Vec<String> {
    let own = [ROOT, TOPOLOGY, ROSTER, CERTIFICATE].map(str::to_owned);
    let issuing = issues.then(|| [ISSUER_CERTIFICATE, ISSUER_TERMS].map(str::to_owned));
    let signed = [MANIFEST, SIGNATURE].map(str::to_owned);
    let issuing = issuing.into_iter().flatten();
    own.into_iter().chain(file_names()).chain(issuing).chain(signed).collect()
}

/// Who is invited to what, and the secret by which both know each other.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// The project.
    pub project: Segment,
    /// The participant.
    pub name: Segment,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// The organisation.
    pub org: Segment,
    /// The role of a person.
    pub role: Option<Segment>,
    /// Fingerprint of the authority.
    pub root_sha256: String,
    /// After this second it is worth nothing.
    pub expires_unix: u64,
    /// Whether a second key is wanted, by which the server will certify cells again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub issues: bool,
    /// Where the request can be left; by file alone where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<DoorPlace>,
    /// Known to both and to nobody else.
    secret: Secret,
}

/// A text that is wiped when dropped.
#[derive(Clone)]
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// What became of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A request can be approved.
    Open,
    /// Its time is over.
    Expired,
    /// A request was approved; there is no second one.
    Used,
    /// It was withdrawn.
    Rejected,
}

/// An invitation as it lies with the project.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    invitation: Invitation,
    state: State,
    /// SHA-256 of the request that was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_sha256: Option<String>,
}

/// One invitation, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationRow {
    /// The participant.
    pub name: Segment,
    /// Server, relay, client or admin.
    pub kind: CellKind,
    /// What became of it.
    pub state: State,
    /// Its last second.
    pub expires_unix: u64,
}

/// A request or reply as it travels. Nothing outside of `sealed` is believed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Letter {
    format: String,
    name: Segment,
    sealed: String,
}

/// What a request says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    project: Segment,
    name: Segment,
    made_unix: u64,
    certificate: String,
    key: FileEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuing: Option<IssuingRequest>,
    signature: String,
}

/// What a request says of the key of an issuing authority.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuingRequest {
    certificate: String,
    key: FileEntry,
    /// By that key, over the same as the signature of the request.
    signature: String,
}

/// What a reply says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    name: Segment,
    files: BTreeMap<String, String>,
}

const REQUEST: &str = "cellbus-request/1";
const REPLY: &str = "cellbus-reply/1";

/// Why somebody was not invited, or does not join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A file or directory is not as it must be.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// What was issued cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Nothing was provisioned there yet.
    #[error("nothing was provisioned in {0} yet")]
    NothingYet(PathBuf),
    /// The project file does not name the participant.
    #[error("the project file has no participant `{0}`")]
    Nobody(Segment),
    /// There is no such invitation.
    #[error("nobody called `{0}` is invited")]
    NotInvited(Segment),
    /// The line is none, or was cut.
    #[error("not the line of an invitation")]
    Line,
    /// The invitation can no longer be used.
    #[error("the invitation is {0}")]
    Spent(&'static str),
    /// The file is no request or reply, or was changed, or belongs to another invitation.
    #[error("not made with this invitation, or damaged")]
    Letter(#[source] SealError),
    /// The file has another form.
    #[error("not a file of this kind and version")]
    Form,
    /// The request asks for something that the project file does not say.
    #[error("the request is refused: {0}")]
    Refused(String),
    /// No certificate can be made or read.
    #[error("certificate")]
    Certificate(#[from] CertificateError),
    /// The key cannot be made or used.
    #[error("key")]
    Key(#[from] AuthorityError),
    /// The invitation names no join door.
    #[error("the invitation names no join door")]
    NoDoor,
    /// The key and the request that were made do not belong together.
    #[error("the key is not that of the request")]
    OwnKey(#[from] OwnCertificateError),
    /// No kit was made.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The reply makes no kit.
    #[error("the reply makes no kit that could be used")]
    Kit(#[from] Refused),
    /// No secret, or none that could be used.
    #[error("secret")]
    Secret(#[from] PassphraseError),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random(#[from] getrandom::Error),
}

impl Invitation {
    /// The line that the participant is given.
    #[must_use]
    pub fn line(&self) -> Zeroizing<String> {
        let json = Zeroizing::new(serde_json::to_vec(self).expect("its keys are strings"));
        Zeroizing::new(format!("{LINE_PREFIX}{}", URL_SAFE_NO_PAD.encode(&*json)))
    }

    /// Reads the line.
    ///
    /// # Errors
    /// [`JoinError::Line`].
    pub fn parse(line: &str) -> Result<Self, JoinError> {
        let body = line.trim().strip_prefix(LINE_PREFIX).ok_or(JoinError::Line)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| JoinError::Line)?);
        serde_json::from_slice(&json).map_err(|_| JoinError::Line)
    }

    fn identity(&self) -> Identity {
        Identity {
            project: self.project.clone(),
            kind: self.kind,
            name: self.name.clone().into(),
            org: self.org.clone(),
            role: self.role.clone(),
        }
    }

    fn passphrase(&self) -> Result<Passphrase, JoinError> {
        Ok(Passphrase::new(self.secret.0.clone())?)
    }

    fn put<T: Serialize>(&self, format: &str, content: &T) -> Result<Vec<u8>, JoinError> {
        let json = Zeroizing::new(serde_json::to_vec(content).expect("its keys are strings"));
        let with =
            SealWith::Passphrase { passphrase: self.passphrase()?, work_factor: WORK_FACTOR };
        let sealed = seal(&json, &with).map_err(JoinError::Letter)?;
        let (format, name) = (format.to_owned(), self.name.clone());
        let letter = Letter { format, name, sealed: STANDARD.encode(sealed) };
        Ok(serde_json::to_vec(&letter).expect("its keys are strings"))
    }

    fn take<T: DeserializeOwned>(&self, letter: &Letter) -> Result<T, JoinError> {
        let sealed = STANDARD.decode(&letter.sealed).map_err(|_| JoinError::Form)?;
        let with = OpenWith::Passphrase(self.passphrase()?);
        let json = unseal(&sealed, &with, LETTER_MAX_BYTES).map_err(JoinError::Letter)?;
        serde_json::from_slice(&json).map_err(|_| JoinError::Form)
    }
}

fn letter(bytes: &[u8], format: &str) -> Result<Letter, JoinError> {
    let letter: Letter = serde_json::from_slice(bytes).map_err(|_| JoinError::Form)?;
    if letter.format == format { Ok(letter) } else { Err(JoinError::Form) }
}

fn signable(
    root_sha256: &str,
    request: (&Segment, &Segment, u64),
    (certificate, key): (&[u8], &FileEntry),
    issuing: Option<(&[u8], &FileEntry)>,
) -> Signable {
    let (project, name, made_unix) = request;
    let signed = Transcript::new(Purpose::JoinRequest)
        .field(project.as_str().as_bytes())
        .field(name.as_str().as_bytes())
        .field(root_sha256.as_bytes())
        .field(&made_unix.to_be_bytes())
        .field(certificate)
        .field(key.sha256.as_bytes());
    let signed = match issuing {
        Some((certificate, key)) => signed.field(certificate).field(key.sha256.as_bytes()),
        None => signed,
    };
    signed.finish()
}

/// What the project file says of a participant.
fn identity_of(project: &Project, name: &Segment) -> Result<Identity, JoinError> {
    let mut all = project.participants();
    let who = all.find(|who| who.name == name).ok_or_else(|| JoinError::Nobody(name.clone()))?;
    Ok(Identity {
        project: project.topology.project.clone(),
        kind: who.kind,
        name: name.clone().into(),
        org: who.org.clone(),
        role: who.role.map(Role::as_str).and_then(|role| role.parse().ok()),
    })
}

/// Whether whoever is of this kind certifies cells again: the server alone, where the project asks for that.
fn issues(project: &Project, kind: CellKind) -> bool {
    kind == CellKind::Server && project.issuer_days.is_some()
}

/// Invites `name`, who must stand in the project file, for `life_s` seconds. An invitation that was there is replaced.
///
/// # Errors
/// [`JoinError`].
pub fn invite(
    project: &Project,
    out: &Path,
    name: &Segment,
    now_unix: u64,
    life_s: u64,
    door: Option<DoorPlace>,
) -> Result<Invitation, JoinError> {
    let (_, records) = latest(out)?.ok_or_else(|| JoinError::NothingYet(out.to_owned()))?;
    let identity = identity_of(project, name)?;
    if records.project != identity.project {
        return Err(JoinError::Refused(format!(
            "{} is of project {}",
            out.display(),
            records.project
        )));
    }
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret)?;
    let invitation = Invitation {
        project: identity.project,
        name: name.clone(),
        kind: identity.kind,
        org: identity.org,
        role: identity.role,
        root_sha256: records.root_sha256,
        expires_unix: now_unix.saturating_add(life_s),
        issues: issues(project, identity.kind),
        door,
        secret: Secret(Zeroizing::new(URL_SAFE_NO_PAD.encode(*secret))),
    };
    create_private_dir(&out.join(INVITATIONS))?;
    let kept = Kept { invitation: invitation.clone(), state: State::Open, request_sha256: None };
    keep(out, &kept)?;
    Ok(invitation)
}

fn place(out: &Path, name: &Segment) -> PathBuf {
    out.join(INVITATIONS).join(format!("{name}.json"))
}

fn keep(out: &Path, kept: &Kept) -> Result<(), JoinError> {
    let json = Zeroizing::new(serde_json::to_vec_pretty(kept).expect("its keys are strings"));
    Ok(write_secret_file(&place(out, &kept.invitation.name), &json)?)
}

fn kept(out: &Path, name: &Segment) -> Result<Kept, JoinError> {
    let bytes = match read_secret_file(&place(out, name), FILE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(SecretFileError::Missing { .. }) => return Err(JoinError::NotInvited(name.clone())),
        Err(error) => return Err(error.into()),
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|_| JoinError::Form)?;
    if kept.invitation.name == *name { Ok(kept) } else { Err(JoinError::Form) }
}

/// Every invitation of a project, by name.
///
/// # Errors
/// [`JoinError`].
pub fn invitations(out: &Path, now_unix: u64) -> Result<Vec<InvitationRow>, JoinError> {
    let dir = out.join(INVITATIONS);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(SecretFileError::Io { action: "list", path: dir, source }.into());
        }
    };
    let mut rows = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
        let Some(name) = name.and_then(|name| name.parse().ok()) else { continue };
        let Kept { invitation, state, .. } = kept(out, &name)?;
        let is_over = state == State::Open && now_unix > invitation.expires_unix;
        rows.push(InvitationRow {
            name,
            kind: invitation.kind,
            state: if is_over { State::Expired } else { state },
            expires_unix: invitation.expires_unix,
        });
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

/// Withdraws an invitation: no request that was made with it is approved any more.
///
/// # Errors
/// [`JoinError`].
pub fn reject(out: &Path, name: &Segment) -> Result<(), JoinError> {
    let mut kept = kept(out, name)?;
    if kept.state == State::Used {
        return Err(JoinError::Spent("used already; remove the participant from the project file"));
    }
    kept.state = State::Rejected;
    keep(out, &kept)
}

/// Begins to join: makes a key in the new directory `dir`, and gives the request for it.
///
/// # Errors
/// [`JoinError`]; nothing stands at `dir` then that did not before.
pub fn begin(invitation: &Invitation, dir: &Path, now_unix: u64) -> Result<Vec<u8>, JoinError> {
    if now_unix > invitation.expires_unix {
        return Err(JoinError::Spent("expired"));
    }
    let made = self_sign(&invitation.identity(), now_unix)?;
    let key = made.key_pem();
    let certificate = made.chain().swap_remove(0);
    let entry = FileEntry::of(KEY, key.as_bytes());
    let facts = (&invitation.project, &invitation.name, now_unix);
    let wanted = invitation.issues.then(|| self_sign(&invitation.identity(), now_unix));
    let issuing = wanted.transpose()?;
    let issuing = issuing.map(|made| {
        let (key, certificate) = (made.key_pem(), made.chain().swap_remove(0));
        (FileEntry::of(ISSUER_KEY, key.as_bytes()), key, certificate, made)
    });
    let second = issuing.as_ref().map(|(entry, _, der, _)| (der.as_ref(), entry));
    let signed = signable(&invitation.root_sha256, facts, (&certificate, &entry), second);
    let asked = match &issuing {
        Some((entry, _, certificate, made)) => Some(IssuingRequest {
            certificate: STANDARD.encode(certificate),
            key: entry.clone(),
            signature: STANDARD.encode(made.prove(&signed)?),
        }),
        None => None,
    };
    let request = Request {
        project: invitation.project.clone(),
        name: invitation.name.clone(),
        made_unix: now_unix,
        certificate: STANDARD.encode(&certificate),
        key: entry,
        issuing: asked,
        signature: STANDARD.encode(made.prove(&signed)?),
    };
    let letter = invitation.put(REQUEST, &request)?;
    let staging = Staging::begin(dir)?;
    let pending = Zeroizing::new(serde_json::to_vec(invitation).expect("its keys are strings"));
    staging.write(Path::new(PENDING), &pending)?;
    staging.write(Path::new(MADE_REQUEST), &letter)?;
    let (startup, local) = (Path::new(STARTUP), Path::new(LOCAL));
    staging.create_dir(startup)?;
    staging.write(&startup.join(KEY), key.as_bytes())?;
    if let Some((_, key, ..)) = &issuing {
        staging.write(&startup.join(ISSUER_KEY), key.as_bytes())?;
    }
    staging.create_dir(local)?;
    staging.write(&local.join(POLICY), NEW_POLICY.as_bytes())?;
    staging.write(&local.join(LIMITS), NEW_LIMITS.as_bytes())?;
    staging.write(&local.join(PROGRAMS), NEW_PROGRAMS.as_bytes())?;
    staging.publish()?;
    Ok(letter)
}

/// Approves a request: certifies its key as what the project file says, and gives the reply.
///
/// # Errors
/// [`JoinError`]; nothing was issued then.
pub fn approve(
    project: &Project,
    out: &Path,
    request: &[u8],
    now_unix: u64,
    passphrase: &mut dyn FnMut(Wanted) -> Result<Passphrase, PassphraseError>,
) -> Result<(Report, Vec<u8>), JoinError> {
    let (request_sha256, letter) = (hex(&sha256(request)), letter(request, REQUEST)?);
    let mut kept = kept(out, &letter.name)?;
    let invitation = &kept.invitation;
    match kept.state {
        State::Open if now_unix <= invitation.expires_unix => {}
        State::Open | State::Expired => return Err(JoinError::Spent("expired")),
        State::Used => return Err(JoinError::Spent("used already")),
        State::Rejected => return Err(JoinError::Spent("withdrawn")),
    }
    let request: Request = invitation.take(&letter)?;
    let own = examined(project, invitation, &request)?;
    let name = invitation.name.clone();
    let order = Order {
        project,
        out,
        only: Some(&name),
        key: Some(&own),
        now_unix,
        work_factor: crate::seal::WORK_FACTOR,
    };
    let report = provision(&order, passphrase)?;
    let written = report.written.clone().unwrap_or_default();
    let startup = out.join(written).join(name.as_str()).join(STARTUP);
    let mut files = BTreeMap::new();
    for file in replied(own.issuing.is_some()) {
        let bytes = read_secret_file(&startup.join(&file), FILE_MAX_BYTES)?;
        files.insert(file, STANDARD.encode(&*bytes));
    }
    let reply = invitation.put(REPLY, &Reply { name, files })?;
    // First the reply: whoever dies here has it, for the same request.
    write_secret_file(&online::reply_place(out, &kept.invitation.name), &reply)?;
    kept.state = State::Used;
    kept.request_sha256 = Some(request_sha256);
    keep(out, &kept)?;
    Ok((report, reply))
}

/// Holds a request against what the project file says, and yields the key in it.
fn examined(
    project: &Project,
    invitation: &Invitation,
    request: &Request,
) -> Result<OwnKey, JoinError> {
    let refused = |what: &str| Err(JoinError::Refused(what.to_owned()));
    let identity = identity_of(project, &invitation.name)?;
    if identity != invitation.identity() {
        return refused("the project file has changed since the invitation; invite anew");
    }
    if request.project != invitation.project || request.name != invitation.name {
        return refused("it is for another participant");
    }
    let certificate = STANDARD.decode(&request.certificate).map_err(|_| JoinError::Form)?;
    let profile = CertProfile::read(&certificate)?;
    if profile.uris != [identity.to_uri()] || !profile.hosts.is_empty() {
        return refused("it asks for other names than the project file gives");
    }
    if let Some(what) = profile.deviations(identity.kind).first() {
        return refused(what);
    }
    let issuing = match (&request.issuing, issues(project, identity.kind)) {
        (None, false) => None,
        (Some(asked), true) => Some((asked, issuing_key(&identity, asked)?)),
        (None, true) => {
            return refused(
                "the project asks for an issuing authority, and the request holds no key for one; invite anew",
            );
        }
        (Some(_), false) => return refused("it asks for the rights of an issuing authority"),
    };
    let facts = (&request.project, &request.name, request.made_unix);
    let second = issuing.as_ref().map(|(_, own)| (own.certificate.as_slice(), &own.file));
    let signed = signable(&invitation.root_sha256, facts, (&certificate, &request.key), second);
    if let Some((asked, own)) = &issuing {
        let signature = STANDARD.decode(&asked.signature).map_err(|_| JoinError::Form)?;
        let is_same = have_same_key(&own.certificate, &certificate);
        if is_same || !verify_by_root(&own.certificate, &signed, &signature) {
            return refused("whoever made it does not have a key of its own to issue with");
        }
    }
    let signature = STANDARD.decode(&request.signature).map_err(|_| JoinError::Form)?;
    if !verify_by_root(&certificate, &signed, &signature) {
        return refused("whoever made it does not have the key");
    }
    let FileEntry { path, mode, .. } = &request.key;
    if path != KEY || mode != FILE_MODE {
        return refused("its key is not where a kit has it");
    }
    let issuing = issuing.map(|(_, own)| own);
    Ok(OwnKey { certificate, file: request.key.clone(), issuing })
}

/// The key of an issuing authority in a request, in form; that the holder has it is proved elsewhere.
fn issuing_key(identity: &Identity, asked: &IssuingRequest) -> Result<IssuingKey, JoinError> {
    let certificate = STANDARD.decode(&asked.certificate).map_err(|_| JoinError::Form)?;
    let profile = CertProfile::read(&certificate)?;
    let is_ours = profile.uris == [identity.to_uri()] && profile.hosts.is_empty();
    let FileEntry { path, mode, .. } = &asked.key;
    if !is_ours
        || !profile.deviations(identity.kind).is_empty()
        || path != ISSUER_KEY
        || mode != FILE_MODE
    {
        let what = "its key of an issuing authority is not in form";
        return Err(JoinError::Refused(what.to_owned()));
    }
    Ok(IssuingKey { certificate, file: asked.key.clone() })
}

/// Finishes to join: makes a kit of the directory in which the key was made.
///
/// # Errors
/// [`JoinError`]; the key stays, and another reply can be taken.
pub fn finish(dir: &Path, reply: &[u8], now_unix: u64) -> Result<Kit, JoinError> {
    let pending = read_secret_file(&dir.join(PENDING), FILE_MAX_BYTES)?;
    let invitation: Invitation = serde_json::from_slice(&pending).map_err(|_| JoinError::Form)?;
    let reply: Reply = invitation.take(&letter(reply, REPLY)?)?;
    let names = replied(invitation.issues);
    let is_whole = names.iter().all(|name| reply.files.contains_key(name));
    if reply.name != invitation.name || !is_whole || reply.files.len() != names.len() {
        return Err(JoinError::Form);
    }
    let mut contents = BTreeMap::new();
    for (name, text) in &reply.files {
        let content = STANDARD.decode(text).map_err(|_| JoinError::Form)?;
        contents.insert(name.as_str(), content);
    }
    let text = |name: &str| contents[name].as_slice();
    let root = certificates_in_pem(text(ROOT)).into_iter().next().unwrap_or_default();
    if hex(&leaf_hash(&root)) != invitation.root_sha256
        || !is_signed_by(&root, text(MANIFEST), text(SIGNATURE))
    {
        return Err(JoinError::Refused("it is not from the authority that invited".to_owned()));
    }
    for name in &names {
        write_secret_file(&dir.join(STARTUP).join(name), text(name))?;
    }
    let kit = Kit::open(dir, Some(&invitation.root_sha256), now_unix)?;
    // The secret is spent.
    for file in [PENDING, MADE_REQUEST] {
        let path = dir.join(file);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(SecretFileError::Io { action: "remove", path, source }.into());
            }
        }
    }
    Ok(kit)
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation")
            .field("project", &self.project)
            .field("name", &self.name)
            .field("secret", &"***")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
