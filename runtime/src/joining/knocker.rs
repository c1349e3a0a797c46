//! Who knocks: one connection for one knock, to a door that is known by name and fingerprint.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cellbus_proto::{
    codec::{Octets, body::Blob},
    joining::{ANSWER_MAX_BYTES, Answer, Knock, SERVER_NAME, knock_signable},
    name::Segment,
};
use tokio::time::timeout;

use super::{DoorPin, EXCHANGE_MAX, HANDSHAKE_MAX, JoinKey, transport};
use crate::{
    clock::WallClock,
    quic::QuicPortError,
    quic_settings::bind,
    tls::{self, OnRefusal, PeerRefused},
};

/// Label of the exporter that binds a signature to a TLS session (RFC 9266, section 2).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// What somebody who joins comes with, again and again.
pub struct Knocker {
    /// Which door is meant.
    pub pin: DoorPin,
    /// Where it is: host and port.
    pub address: String,
    /// Who is invited.
    pub name: Segment,
    /// What follows from the secret.
    pub access: [u8; 32],
    /// The certificate that the new key has signed, DER.
    pub certificate: Vec<u8>,
    /// The request, sealed.
    pub request: Vec<u8>,
    /// The new key.
    pub key: JoinKey,
}

/// Why a knock was not answered. Nothing of what was asked was done, or all of it: the same may be asked again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnockError {
    /// The address leads nowhere.
    #[error("{address} has no address")]
    Resolve {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This machine gives no port to knock from.
    #[error(transparent)]
    Port(#[from] QuicPortError),
    /// Somebody else answers there. Nothing was said to them.
    #[error("{address} is not the door of the invitation")]
    NotTheDoor {
        /// Host and port.
        address: String,
        /// What is wrong with their certificate.
        #[source]
        why: PeerRefused,
    },
    /// Nobody answers there, or the connection broke.
    #[error("no answer from {address}: {why}")]
    Unanswered {
        /// Host and port.
        address: String,
        /// What happened.
        why: String,
    },
    /// The key cannot sign.
    #[error("the new key cannot be used")]
    Key(#[from] tls::SignError),
}

/// Why no frame was read.
pub(super) enum FrameError {
    /// It announces more than is taken.
    TooLarge,
    /// The stream ended or broke.
    Broken,
}

/// Reads one frame's body; memory grows with what arrives, up to `max`.
pub(super) async fn read_frame(
    recv: &mut quinn::RecvStream,
    max: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.map_err(|_| FrameError::Broken)?;
    let len = u32::from_be_bytes(len);
    let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(FrameError::TooLarge)?;
    // What follows the frame is refused too.
    let body = recv.read_to_end(len).await;
    let body = body.map_err(|error| match error {
        quinn::ReadToEndError::TooLong => FrameError::TooLarge,
        quinn::ReadToEndError::Read(_) => FrameError::Broken,
    })?;
    if body.len() == len { Ok(body) } else { Err(FrameError::Broken) }
}

pub(super) fn exporter(connection: &quinn::Connection) -> Option<[u8; 32]> {
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").ok()?;
    Some(exporter)
}

impl fmt::Debug for Knocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knocker")
            .field("pin", &self.pin)
            .field("address", &self.address)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Knocker {
    /// Knocks once, and waits for the answer.
    ///
    /// # Errors
    /// [`KnockError`].
    pub async fn knock(&self, wall: WallClock) -> Result<Answer, KnockError> {
        let refused: Arc<Mutex<Option<PeerRefused>>> = Arc::default();
        let on_refusal: OnRefusal = {
            let refused = Arc::clone(&refused);
            Arc::new(move |why: &PeerRefused| {
                *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
            })
        };
        let to = self.resolve().await?;
        let (endpoint, config) = self.endpoint(to, wall, on_refusal)?;
        let asked = timeout(EXCHANGE_MAX, self.ask(&endpoint, config, to)).await;
        endpoint.close(0u32.into(), b"");
        // The goodbye frees the place at the door; if it is lost, time does.
        let _ = timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
        let why = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(why) = why {
            return Err(KnockError::NotTheDoor { address: self.address.clone(), why });
        }
        asked.unwrap_or_else(|_| Err(self.unanswered("it took too long")))
    }

    fn unanswered(&self, why: impl ToString) -> KnockError {
        KnockError::Unanswered { address: self.address.clone(), why: why.to_string() }
    }

    async fn resolve(&self) -> Result<SocketAddr, KnockError> {
        let failed = |source| KnockError::Resolve { address: self.address.clone(), source };
        let mut found = tokio::net::lookup_host(&self.address).await.map_err(failed)?;
        found.next().ok_or_else(|| failed(std::io::Error::other("no address")))
    }

    fn endpoint(
        &self,
        to: SocketAddr,
        wall: WallClock,
        on_refusal: OnRefusal,
    ) -> Result<(quinn::Endpoint, quinn::ClientConfig), KnockError> {
        let transport = transport().map_err(QuicPortError::from)?;
        let clock = tls::clock_from(move || wall.unix());
        let tls = tls::knock_config(self.pin.clone(), clock, on_refusal);
        let tls = tls.map_err(QuicPortError::from)?;
        let config = transport.client_config(tls).map_err(QuicPortError::from)?;
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
        };
        let bound = bind(any, transport.settings().socket_buffer).map_err(QuicPortError::from)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint =
            quinn::Endpoint::new(quinn::EndpointConfig::default(), None, bound.socket, runtime)
                .map_err(|source| QuicPortError::Socket { address: any, source })?;
        Ok((endpoint, config))
    }

    async fn ask(
        &self,
        endpoint: &quinn::Endpoint,
        config: quinn::ClientConfig,
        to: SocketAddr,
    ) -> Result<Answer, KnockError> {
        let connecting =
            endpoint.connect_with(config, to, SERVER_NAME).map_err(|e| self.unanswered(e))?;
        let connection = timeout(HANDSHAKE_MAX, connecting)
            .await
            .map_err(|_| self.unanswered("nobody is there, or UDP does not get through"))?
            .map_err(|error| self.unanswered(error))?;
        let exporter =
            exporter(&connection).ok_or_else(|| self.unanswered("the session has no exporter"))?;
        let signable = knock_signable(&self.name, &exporter, &self.certificate, &self.request);
        let knock = Knock {
            name: self.name.clone(),
            access: Octets(self.access),
            certificate: Blob(self.certificate.clone()),
            request: Blob(self.request.clone()),
            signature: Blob(self.key.sign(&signable)?),
        };
        let (mut send, mut recv) =
            connection.open_bi().await.map_err(|error| self.unanswered(error))?;
        // A door that refuses early stops reading; what it says counts all the same.
        let _ = send.write_all(&knock.to_frame()).await;
        let _ = send.finish();
        let body = read_frame(&mut recv, ANSWER_MAX_BYTES).await;
        let body = body.map_err(|_| self.unanswered("the connection broke"))?;
        Answer::from_body(&body).map_err(|error| self.unanswered(error))
    }
}
