//! One message: signed, sealed, verified, opened.

use std::sync::Arc;

use bytes::Bytes;
use cellbus_proto::{
    codec::body::Blob,
    envelope::{Envelope, Flags, Header, OriginProof},
    proof::control_signable,
    sealing::{Sealed, SealedHead, associated_data, signable},
    status::Status,
    token::Claims,
};

use super::Leaf;
use crate::own::Own;

/// What was in a sealed message.
#[derive(Debug)]
pub(crate) struct Unsealed {
    /// What its origin sent.
    pub(crate) payload: Bytes,
    /// The origin's certificate: what the answer is sealed to.
    pub(crate) leaf: Arc<Leaf>,
    /// When it was sealed, by the origin's clock.
    pub(crate) unix_ms: u64,
}

/// Adds the proof of this cell to a message of its own.
///
/// # Errors
/// [`Status::BadSignature`] when the key did not sign.
pub(crate) fn sign(own: &Own, envelope: &mut Envelope) -> Result<(), Status> {
    let unix_ms = own.wall.unix_ms();
    let project = own.identity.project.as_str();
    let signable = control_signable(project, &envelope.header, &envelope.payload, unix_ms);
    let signature = own.signer().sign(&signable).map_err(|_| Status::BadSignature)?;
    let proof = OriginProof { unix_ms, signature: Blob(signature) };
    envelope.header.extras.get_or_insert_default().proof = Some(proof);
    Ok(())
}

/// When the origin of a control message signed it, if it did.
///
/// # Errors
/// [`Status::BadSignature`] without a proof that verifies under the certificate that the origin registered
/// with, [`Status::CertExpired`] when that has ended.
pub(crate) fn verify(own: &Own, envelope: &Envelope, claims: &Claims) -> Result<u64, Status> {
    let proof = envelope.header.extras.as_ref().and_then(|extras| extras.proof.as_ref());
    let OriginProof { unix_ms, signature } = proof.ok_or(Status::BadSignature)?;
    let project = own.identity.project.as_str();
    let leaf = own.protection.leaf(&claims.leaf.0).ok_or(Status::BadSignature)?;
    if !leaf.is_of(&envelope.header.origin.name) {
        return Err(Status::BadSignature);
    }
    leaf.dates().check(own.wall.unix()).map_err(|_| Status::CertExpired)?;
    let signable = control_signable(project, &envelope.header, &envelope.payload, *unix_ms);
    let is_good = leaf.has_signed(&signable, &signature.0);
    is_good.then_some(*unix_ms).ok_or(Status::BadSignature)
}

/// Seals `payload` for the holder of `leaf`, as the payload of a message with this header, which must have
/// [`Flags::SEALED`] and all else that it will leave with.
///
/// # Errors
/// [`Status::SealKey`] when the certificate's key is not one that can be sealed to,
/// [`Status::BadSignature`] when this cell's own did not sign.
pub(crate) fn seal(
    own: &Own,
    header: &Header,
    payload: &[u8],
    leaf: &Leaf,
) -> Result<Bytes, Status> {
    debug_assert!(header.flags.contains(Flags::SEALED));
    let key = leaf.key().ok_or(Status::SealKey)?;
    let project = own.identity.project.as_str();
    let unix_ms = own.wall.unix_ms();
    let signable = signable(project, header, &leaf.hash(), payload, unix_ms);
    let signature = own.signer().sign(&signable).map_err(|_| Status::BadSignature)?;
    let chain = own.certificate().chain().iter().map(|der| Blob(der.to_vec())).collect();
    let plain = SealedHead { unix_ms, chain, signature: Blob(signature) }.join(payload);
    let (encapsulated, ciphertext) =
        key.seal(&associated_data(project, header), &plain).map_err(|_| Status::SealKey)?;
    let sealed = Sealed {
        suite: key.suite(),
        recipient: leaf.hash(),
        encapsulated: encapsulated.into(),
        ciphertext: ciphertext.into(),
    };
    Ok(sealed.to_payload())
}

/// Opens a sealed message to this cell, and verifies that its origin made it.
///
/// # Errors
/// [`Status::SealKey`] when it was sealed to another certificate than this cell's own,
/// [`Status::SealBroken`] for whatever else is wrong with it: the sender learns no more.
pub(crate) fn open(own: &Own, envelope: &Envelope, claims: &Claims) -> Result<Unsealed, Status> {
    let Envelope { header, payload } = envelope;
    let sealed = Sealed::parse(payload).map_err(|_| Status::SealBroken)?;
    if sealed.recipient != own.certificate().hash() {
        return Err(Status::SealKey);
    }
    let shown = own.certificate();
    let key = shown.opening().ok_or(Status::SealKey)?;
    let project = own.identity.project.as_str();
    let associated = associated_data(project, header);
    let plain = key.open(&sealed, &associated).map_err(|_| Status::SealBroken)?;
    let (head, payload) = SealedHead::split(plain.into()).map_err(|_| Status::SealBroken)?;
    let leaf = known_leaf(own, &head, claims)?;
    let signable = signable(project, header, &sealed.recipient, &payload, head.unix_ms);
    if !leaf.is_of(&header.origin.name) || !leaf.has_signed(&signable, &head.signature.0) {
        return Err(Status::SealBroken);
    }
    Ok(Unsealed { payload, leaf, unix_ms: head.unix_ms })
}

/// The origin's certificate, verified now or at its registration.
fn known_leaf(own: &Own, head: &SealedHead, claims: &Claims) -> Result<Arc<Leaf>, Status> {
    if let Some(leaf) = own.protection.leaf(&claims.leaf.0) {
        leaf.dates().check(own.wall.unix()).map_err(|_| Status::CertExpired)?;
        return Ok(leaf);
    }
    let chain: Vec<&[u8]> = head.chain.iter().map(|der| &der.0[..]).collect();
    Leaf::verify(own, &chain, claims)
        .map(Arc::new)
        .map_err(|status| if status == Status::CertExpired { status } else { Status::SealBroken })
}
