//! The door: who may come in, and what is heard of each.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use cellbus_proto::{
    joining::{Answer, Callers, Knock, Refusal, knock_signable},
    transcript::sha256,
};
use tokio::{task::JoinSet, time::timeout};

use super::{EXCHANGE_MAX, HANDSHAKE_MAX, transport};
use crate::{
    authority::Credentials,
    carrier::Task,
    clock::{self, WallClock},
    quic::QuicPortError,
    quic_settings::bind,
    tls::{self, verify_leaf_signature},
};

/// A knock that has arrived, with what it can be checked by.
#[derive(Clone)]
pub struct Asked {
    /// What was said.
    pub knock: Knock,
    /// Exporter of this connection.
    pub exporter: [u8; 32],
    /// Where it came from.
    pub from: SocketAddr,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.knock.name;
        f.debug_struct("Asked")
            .field("name", name)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// Who decides about knocks.
pub trait JoinDesk: Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, asked: Asked) -> Task<Answer>;
}

/// An open door.
#[derive(Debug)]
pub struct JoinDoor {
    endpoint: quinn::Endpoint,
}

impl Asked {
    /// Whether the holder of the key in the certificate made the knock, for this connection. Costs a signature's check.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        let Knock { name, certificate, request, signature, .. } = &self.knock;
        let signable = knock_signable(name, &self.exporter, &certificate.0, &request.0);
        verify_leaf_signature(&certificate.0, &signable, &signature.0)
    }

    /// SHA-256 of the certificate.
    #[must_use]
    pub fn certificate_sha256(&self) -> [u8; 32] {
        sha256(&self.knock.certificate.0)
    }

    /// SHA-256 of the request.
    #[must_use]
    pub fn request_sha256(&self) -> [u8; 32] {
        sha256(&self.knock.request.0)
    }
}

impl JoinDoor {
    /// Opens a door at `address` that shows the certificate of `own`.
    ///
    /// # Errors
    /// [`QuicPortError`].
    pub fn open(
        address: SocketAddr,
        own: &Credentials,
        wall: WallClock,
    ) -> Result<Self, QuicPortError> {
        let transport = transport()?;
        let tls = tls::door_config(own, tls::clock_from(move || wall.unix()))?;
        let mut server = transport.server_config(tls)?;
        server.migration(false);
        let bound = bind(address, transport.settings().socket_buffer)?;
        let endpoint = quinn::Endpoint::new(
            quinn::EndpointConfig::default(),
            Some(server),
            bound.socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| QuicPortError::Socket { address, source })?;
        Ok(Self { endpoint })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.local_addr().ok()
    }

    /// Hears whoever comes, until the future is dropped; the door is shut then.
    ///
    /// A caller has to show that its address is its own before anything is remembered of it. Connections, how often an
    /// address may come, bytes and time are bounded; see [`cellbus_proto::joining`].
    pub async fn serve(self, desk: Arc<dyn JoinDesk>) {
        let callers: Arc<Mutex<Callers>> = Arc::default();
        let mut served = JoinSet::new();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    if !incoming.remote_address_validated() {
                        // Fails only for one that has been retried, whose address is validated.
                        let _ = incoming.retry();
                        continue;
                    }
                    let from = incoming.remote_address();
                    let entered = locked(&callers).enter(from.ip(), clock::now());
                    if let Err(crowded) = entered {
                        tracing::debug!(%from, why = %crowded, "a caller at the join door was sent away");
                        incoming.refuse();
                        continue;
                    }
                    let place = Place { callers: Arc::clone(&callers), from };
                    served.spawn(serve_one(incoming, place, Arc::clone(&desk)));
                }
                Some(_ended) = served.join_next() => {}
            }
        }
    }
}

/// A caller's place at the door, given back however it ends.
struct Place {
    callers: Arc<Mutex<Callers>>,
    from: SocketAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.callers).leave(self.from.ip());
    }
}

fn locked(callers: &Mutex<Callers>) -> std::sync::MutexGuard<'_, Callers> {
    callers.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_one(incoming: quinn::Incoming, place: Place, desk: Arc<dyn JoinDesk>) {
    let from = place.from;
    match timeout(EXCHANGE_MAX, hear(incoming, from, desk)).await {
        Ok(Some(())) => {}
        Ok(None) => {
            tracing::debug!(%from, "a caller at the join door said nothing that could be answered")
        }
        Err(_) => tracing::debug!(%from, "a caller at the join door took too long"),
    }
    drop(place);
}

/// `None` for whoever breaks off.
async fn hear(incoming: quinn::Incoming, from: SocketAddr, desk: Arc<dyn JoinDesk>) -> Option<()> {
    let connecting = incoming.accept().ok()?;
    let connection = timeout(HANDSHAKE_MAX, connecting).await.ok()?.ok()?;
    let exporter = super::knocker::exporter(&connection)?;
    let (mut send, mut recv) = connection.accept_bi().await.ok()?;
    let answer = match super::knocker::read_frame(&mut recv, Knock::MAX_BYTES).await {
        Ok(body) => match Knock::from_body(&body) {
            Ok(knock) => desk.answer(Asked { knock, exporter, from }).await,
            Err(_malformed) => Answer::Refused(Refusal::Malformed),
        },
        Err(super::knocker::FrameError::TooLarge) => Answer::Refused(Refusal::Malformed),
        Err(super::knocker::FrameError::Broken) => return None,
    };
    send.write_all(&answer.to_frame()).await.ok()?;
    send.finish().ok()?;
    // Until whoever asked has it and hangs up, or time is over.
    connection.closed().await;
    Some(())
}
