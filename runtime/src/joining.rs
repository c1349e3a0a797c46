//! A join door over QUIC: an endpoint of its own that knows nothing of cells, links or the bus, and who knocks at one.
//!
//! One connection carries one knock and one answer. What a stranger can make the door hold is bounded before anything
//! is heard of it: nothing until its address has been shown to be its own, then one small stream for a few seconds.

use std::time::Duration;

use cellbus_proto::transcript::Signable;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::{
    authority::{OwnCertificate, OwnCertificateError},
    quic_settings::{QuicSettings, QuicSettingsError, QuicTransport},
    tls::{LeafSigner, SignError},
};

mod door;
mod knocker;
#[cfg(test)]
mod tests;

pub use self::{
    door::{Asked, JoinDesk, JoinDoor},
    knocker::{KnockError, Knocker},
};
pub use crate::tls::DoorPin;

/// How long one connection may take, from its first packet to the last byte of the answer.
const EXCHANGE_MAX: Duration = Duration::from_secs(15);
/// How long its handshake may.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// The new key, for who knocks: it signs for each connection.
#[derive(Debug)]
pub struct JoinKey(LeafSigner);

impl JoinKey {
    /// The key in PEM form that belongs to `certificate`, DER.
    ///
    /// # Errors
    /// [`OwnCertificateError`] when they do not belong together.
    pub fn new(certificate: &[u8], key_pem: &[u8]) -> Result<Self, OwnCertificateError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| OwnCertificateError::Key)?;
        let own = OwnCertificate::new(vec![certificate.to_vec().into()], &key)?;
        Ok(Self(LeafSigner::new(&own)))
    }

    /// Signs a transcript.
    ///
    /// # Errors
    /// [`SignError`] when the library refuses; it has no reason to.
    pub fn sign(&self, signable: &Signable) -> Result<Vec<u8>, SignError> {
        self.0.sign(signable)
    }
}

/// How connections of a door behave: small windows, and no stream but one.
fn transport() -> Result<QuicTransport, QuicSettingsError> {
    const WINDOW: u32 = 64 << 10;
    QuicTransport::new(QuicSettings {
        max_idle: Duration::from_secs(5),
        keep_alive: Duration::from_secs(1),
        max_uni_streams: 0,
        max_bidi_streams: 1,
        stream_window: WINDOW,
        connection_window: (1 << 20) + 2 * WINDOW,
        send_window: 256 << 10,
        socket_buffer: 256 << 10,
        max_incoming: 64,
        incoming_buffer: 16 << 10,
        incoming_buffer_total: 256 << 10,
        ..QuicSettings::default()
    })
}
