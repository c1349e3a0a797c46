//! Session tokens: the server's word that a cell is registered, useless without that cell's key.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    codec::Octets,
    envelope::Incarnation,
    identity::CellKind,
    name::{Fqcn, Segment},
    status::Status,
    transcript::{Purpose, Transcript, sha256},
    trust::View,
};

/// A token as it travels: claims in msgpack, then 64 bytes of Ed25519 signature.
///
/// Its `Debug` form shows the beginning of its hash, never its content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(Arc<Inner>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Inner {
    hash: [u8; 32],
    bytes: Bytes,
}

/// What the server says about a registered cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Form of these claims; [`Claims::VERSION`].
    pub version: u8,
    /// The server that issued the token.
    pub issuer: Fqcn,
    /// The project.
    pub project: Segment,
    /// The cell that the token is for.
    pub subject: Fqcn,
    /// Its kind, from its certificate.
    pub kind: CellKind,
    /// Its organisation, from its certificate.
    pub org: Segment,
    /// The parent behind which it registered.
    pub via: Fqcn,
    /// Counter of the server's incarnation.
    pub server_counter: u64,
    /// Nonce of the server's incarnation.
    pub server_nonce: u64,
    /// Issued, in seconds since 1970 by the server's clock.
    pub issued: u64,
    /// Ends, in seconds since 1970 by the server's clock.
    pub expires: u64,
    /// Number of this token, for revocation; random.
    pub id: Octets<16>,
    /// SHA-256 of the leaf certificate whose key makes the token useful.
    pub leaf: Octets<32>,
    /// The job, for a job cell.
    pub job: Option<Segment>,
}

/// Why a token cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not signed by the server's token key, or not a token at all.
    #[error("not a token of this server")]
    Bad,
    /// Its time has ended.
    #[error("token has expired")]
    Expired,
    /// It, or its subject, or the server's incarnation that issued it, is no longer accepted.
    #[error("token has been revoked")]
    Revoked,
    /// Its subject may not take part, by one of the signed lists: this is the code.
    #[error("refused by a list: {0}")]
    Listed(Status),
}

impl From<TokenError> for Status {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Bad => Self::BadToken,
            TokenError::Expired => Self::TokenExpired,
            TokenError::Revoked => Self::TokenRevoked,
            TokenError::Listed(status) => status,
        }
    }
}

impl Token {
    /// Bytes in the longest token.
    pub const MAX_LEN: usize = 2048;

    /// Takes bytes that claim to be a token. Nothing is checked but their number.
    #[must_use]
    pub fn from_bytes(bytes: Bytes) -> Option<Self> {
        let fits = bytes.len() > Signature::BYTE_SIZE && bytes.len() <= Self::MAX_LEN;
        fits.then(|| Self(Arc::new(Inner { hash: sha256(&bytes), bytes })))
    }

    /// The bytes that travel.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// Where this value lives; clones share it.
    pub(crate) fn allocation(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// SHA-256 of the bytes: what a cache may use as a key.
    #[must_use]
    pub fn hash(&self) -> &[u8; 32] {
        &self.0.hash
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, ..] = self.0.hash;
        write!(f, "Token(#{a:02x}{b:02x}{c:02x})")
    }
}

impl Claims {
    /// The form that this code writes and reads.
    pub const VERSION: u8 = 1;

    /// Whether a token with these claims is in its life at `now_unix`, give or take the skew of clocks.
    #[must_use]
    pub fn is_current(&self, now_unix: u64) -> bool {
        const SKEW_S: u64 = TokenVerifier::SKEW_S;
        now_unix <= self.expires + SKEW_S && self.issued <= now_unix + SKEW_S
    }

    /// The server's incarnation that issued the token.
    #[must_use]
    pub fn server(&self) -> Incarnation {
        Incarnation { counter: self.server_counter, nonce: self.server_nonce }
    }
}

/// Signs tokens; only the server has one. The key lives as long as the server's incarnation.
pub struct TokenSigner(SigningKey);

impl TokenSigner {
    /// A signer with the key made from 32 random bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The key that verifies what this one signs.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Issues a token.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> Token {
        let mut bytes = rmp_serde::to_vec(claims).expect("claims are plain data");
        let signature = self.0.sign(&signable(&bytes));
        bytes.extend_from_slice(&signature.to_bytes());
        Token::from_bytes(bytes.into()).expect("names bound the size of claims")
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigner(***)")
    }
}

/// What bytes that nobody has vouched for say, if they say anything.
fn claims_of(body: &[u8]) -> Option<Claims> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    deserializer.set_max_depth(8);
    Claims::deserialize(&mut deserializer).ok()
}

fn signable(claims: &[u8]) -> Vec<u8> {
    Transcript::new(Purpose::Token).field(claims).finish()
}

/// Verifies tokens, each once, and remembers the result; expiry and revocation are checked on every
/// use.
#[derive(Debug)]
pub struct TokenVerifier {
    project: Segment,
    keys: Option<ServerKey>,
    verified: BTreeMap<[u8; 32], Arc<Claims>>,
    order: VecDeque<[u8; 32]>,
    revoked: Revoked,
    lists: View,
}

/// The key of one incarnation of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerKey {
    /// The server.
    pub server: Fqcn,
    /// The incarnation that the key belongs to.
    pub incarnation: Incarnation,
    /// Ed25519 public key.
    pub key: [u8; 32],
}

#[derive(Debug, Default)]
struct Revoked {
    ids: BTreeMap<[u8; 16], u64>,
    subjects: BTreeMap<Fqcn, u64>,
}

impl TokenVerifier {
    /// Tokens remembered as verified.
    pub const CACHE_MAX: usize = 8192;
    /// Revocations remembered; each is forgotten when every token it can concern has ended.
    pub const REVOKED_MAX: usize = 65_536;
    /// Clocks may differ by this much, in seconds.
    pub const SKEW_S: u64 = 30;

    /// A verifier that accepts nothing until it is told the server's key.
    #[must_use]
    pub fn new(project: Segment) -> Self {
        Self {
            project,
            keys: None,
            verified: BTreeMap::new(),
            order: VecDeque::new(),
            revoked: Revoked::default(),
            lists: View::default(),
        }
    }

    /// Takes the signed lists that are in force from now on.
    pub fn set_lists(&mut self, lists: View) {
        self.lists = lists;
    }

    /// Takes the key of the server's current incarnation; tokens of any other end at once.
    pub fn set_server(&mut self, key: ServerKey) {
        if self.keys.as_ref() != Some(&key) {
            self.verified.clear();
            self.order.clear();
            self.keys = Some(key);
        }
    }

    /// The server key in force.
    #[must_use]
    pub fn server(&self) -> Option<&ServerKey> {
        self.keys.as_ref()
    }

    /// The subjects of tokens that were good and are refused by a list.
    #[must_use]
    pub fn listed(&self, now_unix: u64) -> BTreeSet<Fqcn> {
        let claims = self.verified.values();
        let listed = claims.filter(|claims| self.lists.refuses_token(claims, now_unix).is_some());
        listed.map(|claims| claims.subject.clone()).collect()
    }

    /// Refuses the token with this number from now on, until `expires` (seconds since 1970).
    pub fn revoke_id(&mut self, id: [u8; 16], expires: u64) {
        if self.revoked.ids.len() < Self::REVOKED_MAX {
            self.revoked.ids.insert(id, expires);
        }
    }

    /// Refuses every token of `subject` that was issued at or before `issued` (seconds since 1970).
    pub fn revoke_subject(&mut self, subject: Fqcn, issued: u64) {
        if self.revoked.subjects.len() < Self::REVOKED_MAX {
            self.revoked.subjects.insert(subject, issued);
        }
    }

    /// Forgets revocations that can no longer concern a living token.
    pub fn sweep(&mut self, now_unix: u64, longest_life_s: u64) {
        let past = now_unix.saturating_sub(longest_life_s + 2 * Self::SKEW_S);
        self.revoked.ids.retain(|_, expires| *expires + Self::SKEW_S >= now_unix);
        self.revoked.subjects.retain(|_, issued| *issued >= past);
    }

    /// Tokens remembered and revocations remembered.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.verified.len(), self.revoked.ids.len() + self.revoked.subjects.len())
    }

    /// The claims of `token`, if it is one of this server and still good at `now_unix`.
    ///
    /// # Errors
    /// [`TokenError`]; without a server key every token is [`TokenError::Bad`].
    pub fn verify(&mut self, token: &Token, now_unix: u64) -> Result<Arc<Claims>, TokenError> {
        let claims = match self.verified.get(token.hash()) {
            Some(claims) => Arc::clone(claims),
            None => self.verify_new(token)?,
        };
        if !claims.is_current(now_unix) {
            return Err(TokenError::Expired);
        }
        let by_id = self.revoked.ids.contains_key(&claims.id.0);
        let by_subject =
            self.revoked.subjects.get(&claims.subject).is_some_and(|at| claims.issued <= *at);
        if by_id || by_subject {
            return Err(TokenError::Revoked);
        }
        if let Some(status) = self.lists.refuses_token(&claims, now_unix) {
            return Err(TokenError::Listed(status));
        }
        Ok(claims)
    }

    fn verify_new(&mut self, token: &Token) -> Result<Arc<Claims>, TokenError> {
        let server = self.keys.as_ref().ok_or(TokenError::Bad)?;
        let bytes = token.as_bytes();
        let at = bytes.len().checked_sub(Signature::BYTE_SIZE).ok_or(TokenError::Bad)?;
        let (body, signature) = bytes.split_at(at);
        let signature = Signature::from_slice(signature).map_err(|_| TokenError::Bad)?;
        let key = VerifyingKey::from_bytes(&server.key).map_err(|_| TokenError::Bad)?;
        if key.verify(&signable(body), &signature).is_err() {
            // A token of an earlier incarnation is well formed and names the incarnation; telling it
            // apart from a forgery gives the holder the chance to register again.
            let earlier = claims_of(body)
                .is_some_and(|c| c.issuer == server.server && c.server() != server.incarnation);
            return Err(if earlier { TokenError::Revoked } else { TokenError::Bad });
        }
        let claims = claims_of(body).ok_or(TokenError::Bad)?;
        let exact = rmp_serde::to_vec(&claims).is_ok_and(|again| again == body);
        let ours = claims.version == Claims::VERSION
            && claims.project == self.project
            && claims.issuer == server.server
            && claims.server() == server.incarnation;
        if !exact || !ours {
            return Err(TokenError::Bad);
        }
        Ok(self.remember(*token.hash(), Arc::new(claims)))
    }

    fn remember(&mut self, hash: [u8; 32], claims: Arc<Claims>) -> Arc<Claims> {
        if self.order.len() >= Self::CACHE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.verified.remove(&oldest);
        }
        self.order.push_back(hash);
        self.verified.insert(hash, Arc::clone(&claims));
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            version: Claims::VERSION,
            issuer: "server".parse().unwrap(),
            project: "study".parse().unwrap(),
            subject: "site-1".parse().unwrap(),
            kind: CellKind::Client,
            org: "org".parse().unwrap(),
            via: "server".parse().unwrap(),
            server_counter: 4,
            server_nonce: u64::MAX,
            issued: NOW,
            expires: NOW + 900,
            id: Octets([9; 16]),
            leaf: Octets([3; 32]),
            job: None,
        }
    }

    fn verifier(signer: &TokenSigner) -> TokenVerifier {
        let mut verifier = TokenVerifier::new("study".parse().unwrap());
        verifier.set_server(ServerKey {
            server: "server".parse().unwrap(),
            incarnation: Incarnation { counter: 4, nonce: u64::MAX },
            key: signer.public_key(),
        });
        verifier
    }

    #[test]
    fn a_token_is_good_until_its_end_and_the_skew() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        let token = signer.sign(&claims());
        assert_eq!(*verifier.verify(&token, NOW).unwrap(), claims());
        assert!(verifier.verify(&token, NOW + 930).is_ok());
        assert_eq!(verifier.verify(&token, NOW + 931), Err(TokenError::Expired));
        assert_eq!(verifier.sizes().0, 1);
    }

    #[test]
    fn s0_13_no_bit_of_a_token_can_be_changed() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        let token = signer.sign(&claims());
        for bit in 0..token.as_bytes().len() * 8 {
            let mut bytes = token.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let forged = Token::from_bytes(bytes.into()).unwrap();
            assert!(verifier.verify(&forged, NOW).is_err(), "bit {bit}");
        }
        assert_eq!(verifier.sizes().0, 0);
    }

    #[test]
    fn atk_044_well_known_texts_are_no_token() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        for text in ["", "server", "NA", "00000000-0000-0000-0000-000000000000"] {
            assert!(Token::from_bytes(Bytes::from(text)).is_none());
        }
        let empty_signature = [rmp_serde::to_vec(&claims()).unwrap(), vec![0; 64]].concat();
        let token = Token::from_bytes(empty_signature.into()).unwrap();
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Bad));
    }

    #[test]
    fn without_a_server_key_nothing_is_good() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = TokenVerifier::new("study".parse().unwrap());
        assert_eq!(verifier.verify(&signer.sign(&claims()), NOW), Err(TokenError::Bad));
    }

    #[test]
    fn a_token_ends_with_the_incarnation_that_issued_it() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        let token = signer.sign(&claims());
        assert!(verifier.verify(&token, NOW).is_ok());
        let next = TokenSigner::new(&[2; 32]);
        verifier.set_server(ServerKey {
            server: "server".parse().unwrap(),
            incarnation: Incarnation { counter: 5, nonce: 0 },
            key: next.public_key(),
        });
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Revoked));
    }

    #[test]
    fn p_05_a_revoked_token_and_a_revoked_subject_are_refused_and_a_new_token_is_not() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        let token = signer.sign(&claims());
        verifier.revoke_id([9; 16], NOW + 900);
        assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Revoked));
        let other = signer.sign(&Claims { id: Octets([8; 16]), ..claims() });
        assert!(verifier.verify(&other, NOW).is_ok());
        verifier.revoke_subject("site-1".parse().unwrap(), NOW);
        assert_eq!(verifier.verify(&other, NOW), Err(TokenError::Revoked));
        let later = signer.sign(&Claims { id: Octets([7; 16]), issued: NOW + 1, ..claims() });
        assert!(verifier.verify(&later, NOW + 1).is_ok());
        verifier.sweep(NOW + 5000, 900);
        assert_eq!(verifier.sizes().1, 0);
    }

    #[test]
    fn p_02_the_cache_is_bounded() {
        let signer = TokenSigner::new(&[1; 32]);
        let mut verifier = verifier(&signer);
        for n in 0..(TokenVerifier::CACHE_MAX as u128 + 50) {
            verifier.remember([0; 32].map(|_: u8| (n % 251) as u8), Arc::new(claims()));
        }
        assert!(verifier.order.len() <= TokenVerifier::CACHE_MAX);
        assert!(verifier.verified.len() <= TokenVerifier::CACHE_MAX);
    }

    #[test]
    fn s0_12_a_token_does_not_print_itself() {
        let token = TokenSigner::new(&[1; 32]).sign(&claims());
        let shown = format!("{token:?}");
        assert!(shown.len() < 20 && !shown.contains("site-1"), "{shown}");
    }
}
