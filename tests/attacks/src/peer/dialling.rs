//! How a raw peer connects: with any certificate or none, offering anything.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use cellbus_runtime::tls::{ALPN, SERVER_NAME, provider};
use quinn::{
    ClientConfig, ConnectionError, Endpoint, NoneTokenStore, TransportConfig,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;

use super::{PATIENCE, Tickets};
use crate::papers::Papers;

/// How a connection is made.
pub struct Dialling {
    /// The certificate to show; none if `None`.
    pub papers: Option<Papers>,
    /// Application protocols to offer.
    pub alpn: Vec<Vec<u8>>,
    /// Server name to ask for.
    pub server_name: String,
    /// Where to keep sessions to resume; none if `None`. With it, early data is offered too.
    pub resumes: Option<Arc<Tickets>>,
    /// How the transport behaves.
    pub transport: TransportConfig,
}

impl Dialling {
    /// As an honest cell with these papers does it.
    #[must_use]
    pub fn honest(papers: &Papers) -> Self {
        Self {
            papers: Some(papers.clone()),
            alpn: vec![ALPN.to_vec()],
            server_name: SERVER_NAME.to_owned(),
            resumes: None,
            transport: TransportConfig::default(),
        }
    }

    /// The same with another application protocol.
    #[must_use]
    pub fn alpn(mut self, alpn: &[&[u8]]) -> Self {
        self.alpn = alpn.iter().map(|name| name.to_vec()).collect();
        self
    }

    /// The configuration of the transport.
    ///
    /// # Panics
    /// When the TLS library refuses the papers.
    #[must_use]
    pub fn config(self) -> ClientConfig {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut tls = match &self.papers {
            Some(papers) => builder
                .with_client_auth_cert(papers.chain.clone(), papers.key())
                .expect("a chain and its key"),
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = self.alpn;
        tls.enable_early_data = self.resumes.is_some();
        tls.resumption = match &self.resumes {
            Some(tickets) => Resumption::store(Arc::clone(tickets) as _),
            None => Resumption::disabled(),
        };
        let quic = QuicClientConfig::try_from(tls).expect("TLS 1.3 has what QUIC needs");
        let mut config = ClientConfig::new(Arc::new(quic));
        config.transport_config(Arc::new(self.transport));
        config.token_store(match self.resumes {
            Some(tickets) => tickets,
            None => Arc::new(NoneTokenStore),
        });
        config
    }

    /// Makes the connection.
    ///
    /// # Errors
    /// What the transport says when the other end refuses during the handshake. It may also refuse right after it.
    ///
    /// # Panics
    /// When there is no port to dial from, or the other end is silent.
    pub async fn connect(
        self,
        to: SocketAddr,
    ) -> Result<(quinn::Connection, Endpoint), ConnectionError> {
        let endpoint = endpoint();
        let name = self.server_name.clone();
        let connecting =
            endpoint.connect_with(self.config(), to, &name).expect("it can be dialled");
        let connection = timeout(PATIENCE, connecting).await.expect("a handshake ends")?;
        Ok((connection, endpoint))
    }
}

/// A port to dial from.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn endpoint() -> Endpoint {
    Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("there is a free port")
}

/// Takes anybody for the one who was dialled.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
