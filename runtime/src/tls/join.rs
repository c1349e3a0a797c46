//! TLS at a join door: whoever comes has no certificate yet, and knows the door by its name and by the fingerprint of
//! the project's authority.

use std::sync::Arc;

use cellbus_proto::{joining, name::Segment};
use rustls::{
    ClientConfig, ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    Direction, MAX_CHAIN, OnRefusal, PeerRefused, Roots,
    dial::{Accepts, Dials, check_cell},
    dials_as, listens_as, provider, verify_chain,
};
use crate::{
    authority::{Credentials, Presented},
    certificate::{LeafHash, leaf_hash},
};

/// Certificates that a door shows at most: its chain, and the authorities of two generations.
const SHOWN_MAX: usize = MAX_CHAIN + 3;

/// Which door is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorPin {
    /// The project.
    pub project: Segment,
    /// Base name of the cell that has the door.
    pub cell: Segment,
    /// SHA-256 of the certificate of the project's authority.
    pub root: LeafHash,
}

/// A door of the holder of `own`, which asks nobody for a certificate.
pub(crate) fn door_config(
    own: &Credentials,
    clock: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let shown = WithRoots { own: own.presented().clone(), roots: Arc::clone(own.roots()) };
    let mut config = ServerConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    listens_as(&mut config, joining::ALPN);
    Ok(config)
}

/// What whoever joins knocks with.
pub(crate) fn knock_config(
    pin: DoorPin,
    clock: Arc<dyn TimeProvider>,
    on_refusal: OnRefusal,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Dials::new(DialDoor(pin), on_refusal)))
        .with_no_client_auth();
    dials_as(&mut config, joining::ALPN);
    Ok(config)
}

/// Shows the certificate of the cell and those of the project's authorities: whoever comes has the fingerprint of one.
#[derive(Debug)]
struct WithRoots {
    own: Presented,
    roots: Arc<Roots>,
}

impl ResolvesServerCert for WithRoots {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.server_name() != Some(joining::SERVER_NAME) {
            return None;
        }
        let certificate = self.own.certificate();
        let certified = certificate.certified();
        let shown = certified.cert.iter().cloned().chain(self.roots.ders()).collect();
        Some(Arc::new(CertifiedKey::new(shown, Arc::clone(&certified.key))))
    }
}

/// Accepts the cell of one name, certified by the authority of one fingerprint.
#[derive(Debug)]
struct DialDoor(DoorPin);

impl Accepts for DialDoor {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PeerRefused> {
        let Self(pin) = self;
        let not_pinned = || PeerRefused::NotPinned { hash: leaf_hash(leaf) };
        if others.len() > SHOWN_MAX {
            return Err(not_pinned());
        }
        let is_root = |der: &&CertificateDer<'_>| leaf_hash(der) == pin.root;
        let root = others.iter().find(is_root).ok_or_else(not_pinned)?;
        let roots = Roots::new(vec![root.clone().into_owned()])?;
        // Another generation's authority leads nowhere, and would only make the chain too long.
        let between = others.iter().filter(|der| !is_root(der)).take(MAX_CHAIN - 1);
        let chain: Vec<_> = std::iter::once(leaf).chain(between).cloned().collect();
        let peer = verify_chain(&roots, &chain, Direction::IsDialled, now.as_secs())?;
        check_cell(&pin.project, &pin.cell, peer)
    }
}
