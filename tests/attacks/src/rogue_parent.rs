//! A parent that nobody should believe, or that has been believed too early.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::BytesMut;
use cellbus_proto::{
    codec::{
        Encoder, Frame, Octets,
        body::{self, Answer, Blob, Echo, Hello, HelloOk, Register, Registered, WireChallenge},
    },
    envelope::{Envelope, Incarnation, Kind, Lane},
    identity::CellKind,
    name::Fqcn,
    transcript::{Purpose, RegisterFacts, sha256},
};
use cellbus_runtime::tls::{ALPN, provider};
use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};
use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    papers::Papers,
    peer::{Closed, PATIENCE, closed, exporter, random_nonce, read_frames, read_lanes},
};

/// Listens under any certificate.
pub struct RogueParent {
    endpoint: Endpoint,
    papers: Papers,
    me: Fqcn,
    kind: CellKind,
}

/// A child that has dialled it.
pub struct Caught {
    /// The connection.
    pub connection: quinn::Connection,
    /// What the child has said.
    pub hello: Hello,
    papers: Papers,
    me: Fqcn,
    kind: CellKind,
    control: quinn::SendStream,
    encoder: Encoder,
    frames: mpsc::UnboundedReceiver<Frame>,
    lane: Option<(quinn::SendStream, Encoder)>,
}

impl RogueParent {
    /// Listens on a port of its own as the cell `me`.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn listen(papers: &Papers, me: Fqcn, kind: CellKind) -> Self {
        let config = config(papers);
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into());
        Self { endpoint: endpoint.expect("there is a free port"), papers: papers.clone(), me, kind }
    }

    /// Shows other papers to whoever dials from now on.
    pub fn show(&mut self, papers: &Papers) {
        self.papers = papers.clone();
        self.endpoint.set_server_config(Some(config(papers)));
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("it is bound")
    }

    /// Waits for somebody to dial, and for how the handshake ends.
    ///
    /// # Panics
    /// When nobody does.
    pub async fn handshake(&self) -> Result<quinn::Connection, Closed> {
        let incoming = timeout(PATIENCE, self.endpoint.accept()).await.expect("somebody dials");
        let connecting = incoming.expect("the port is open").accept().expect("it is a handshake");
        let outcome = timeout(PATIENCE, connecting).await.expect("a handshake ends");
        outcome.map_err(|error| Closed::from_error(&error))
    }

    /// Waits for a child and its HELLO.
    ///
    /// # Panics
    /// When none comes.
    pub async fn catch(&self) -> Caught {
        let connection = self.handshake().await.expect("the child accepts the certificate");
        let accepted = timeout(PATIENCE, connection.accept_bi()).await;
        let (control, recv) = accepted.expect("a control stream").expect("the connection lives");
        let (sender, mut frames) = mpsc::unbounded_channel();
        tokio::spawn(read_frames(recv, sender));
        let first = timeout(PATIENCE, frames.recv()).await.expect("the child speaks");
        let Some(Frame::Hello(hello)) = first else { panic!("not HELLO: {first:?}") };
        Caught {
            connection,
            hello,
            papers: self.papers.clone(),
            me: self.me.clone(),
            kind: self.kind,
            control,
            encoder: Encoder::new(),
            frames,
            lane: None,
        }
    }
}

impl Caught {
    /// A challenge that an honest parent could give.
    #[must_use]
    pub fn challenge(&self, server_nonce: [u8; 32]) -> WireChallenge {
        WireChallenge {
            id: 1,
            nonce: Octets(random_nonce()),
            server: "server".parse().expect("a name"),
            server_nonce: Octets(server_nonce),
        }
    }

    /// What an honest parent would answer to HELLO.
    #[must_use]
    pub fn hello_ok(&self, challenge: &WireChallenge) -> HelloOk {
        HelloOk {
            version: body::VERSION,
            name: self.me.clone(),
            kind: self.kind,
            incarnation: Incarnation { counter: 1, nonce: 1 }.into(),
            challenge: challenge.clone(),
            payload_max: 1 << 20,
            beat_ms: 1000,
            silence_ms: 4000,
            unix_ms: None,
        }
    }

    /// From now on reads the child's lanes too.
    pub fn read_lanes(&mut self) {
        let (sender, frames) = mpsc::unbounded_channel();
        let mut control = std::mem::replace(&mut self.frames, frames);
        tokio::spawn(read_lanes(self.connection.clone(), sender.clone()));
        tokio::spawn(async move {
            while let Some(frame) = control.recv().await {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
    }

    /// Sends a frame on the control stream.
    pub async fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        let _ = self.encoder.encode(frame, &mut bytes);
        // The child may have closed already, which is what the test looks at then.
        let _ = self.control.write_all(&bytes).await;
    }

    /// Sends a message on the stream of its lane, of which at most one is used besides control.
    ///
    /// # Panics
    /// When the connection is lost.
    pub async fn send_message(&mut self, envelope: Envelope) {
        let lane = envelope.header.lane;
        let frame = Frame::Message(envelope);
        if lane == Lane::Control {
            return self.send(&frame).await;
        }
        let mut bytes = BytesMut::new();
        if self.lane.is_none() {
            let stream = self.connection.open_uni().await.expect("a stream is granted");
            let mut encoder = Encoder::new();
            let _ = encoder.encode(&Frame::Lane(lane), &mut bytes);
            self.lane = Some((stream, encoder));
        }
        let (stream, encoder) = self.lane.as_mut().expect("it has just been opened");
        let _ = encoder.encode(&frame, &mut bytes);
        // As for the control stream.
        let _ = stream.write_all(&bytes).await;
    }

    /// The next frame that `wanted` accepts; beats before it are echoed, all else is dropped.
    ///
    /// # Panics
    /// When none comes.
    pub async fn expect_frame<T>(&mut self, mut wanted: impl FnMut(Frame) -> Option<T>) -> T {
        let found = timeout(PATIENCE, async {
            loop {
                let frame = self.frames.recv().await.expect("the connection lives");
                if let Frame::Beat(beat) = &frame {
                    let (number, epoch) = (beat.number, 1);
                    let echo = Echo { number, epoch, revocations: 0, renewal: None };
                    self.send(&Frame::Echo(echo)).await;
                    continue;
                }
                if let Some(found) = wanted(frame) {
                    return found;
                }
            }
        });
        found.await.expect("it comes")
    }

    /// Waits for a message that `wanted` accepts.
    ///
    /// # Panics
    /// When none comes.
    pub async fn expect_message(&mut self, wanted: impl Fn(&Envelope) -> bool) -> Envelope {
        self.expect_frame(|frame| {
            let Frame::Message(envelope) = frame else { return None };
            wanted(&envelope).then_some(envelope)
        })
        .await
    }

    /// Gives a challenge and takes the child's proof; the number of the request comes first.
    ///
    /// # Panics
    /// When none comes.
    pub async fn proof(&mut self, challenge: &WireChallenge) -> (u64, Register) {
        let ok = self.hello_ok(challenge);
        self.send(&Frame::HelloOk(ok)).await;
        let request = self.expect_message(|envelope| envelope.header.kind == Kind::Request).await;
        let proof = body::decode_exact(&request.payload).expect("a proof");
        (request.header.sequence, proof)
    }

    /// The signature by which an honest parent acknowledges a registration.
    ///
    /// # Panics
    /// Never on a living connection.
    #[must_use]
    pub fn acknowledgement(&self, challenge: &WireChallenge) -> Blob {
        let facts = RegisterFacts {
            project: "attacks",
            child: self.hello.name.as_str(),
            child_kind: "client",
            parent: self.me.as_str(),
            parent_kind: self.kind.as_str(),
            child_nonce: &self.hello.nonce.0,
            parent_nonce: &challenge.nonce.0,
            challenge: challenge.id,
            child_leaf: &sha256(&self.child_chain()[0]),
            parent_leaf: &self.papers.hash(),
            exporter: &exporter(&self.connection),
        };
        Blob(self.papers.sign(&facts.signable(Purpose::RegisterAck)))
    }

    /// The chain that the child has shown.
    ///
    /// # Panics
    /// Never: it has shown one.
    #[must_use]
    pub fn child_chain(&self) -> Vec<CertificateDer<'static>> {
        let identity = self.connection.peer_identity().expect("the child has a certificate");
        *identity.downcast::<Vec<CertificateDer<'static>>>().expect("a chain")
    }

    /// Answers a register request.
    pub async fn answer(&mut self, to: u64, registered: &Registered) {
        let body = Blob(body::encode(registered).to_vec());
        self.send(&Frame::Answer(Answer { to, status: 0, body })).await;
    }

    /// Ends its control stream, and not the connection.
    pub fn end_control(&mut self) {
        // Fails only when the child has closed already, which is what the test looks at then.
        let _ = self.control.finish();
    }

    /// Waits until the child closes the connection.
    ///
    /// # Panics
    /// When it does not.
    pub async fn closed(&self) -> Closed {
        closed(&self.connection).await
    }
}

impl Drop for Caught {
    /// Leaves as a process does that is killed.
    fn drop(&mut self) {
        self.connection.close(0u32.into(), b"");
    }
}

fn config(papers: &Papers) -> ServerConfig {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_single_cert(papers.chain.clone(), papers.key())
        .expect("a chain and its key");
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let quic = QuicServerConfig::try_from(tls).expect("TLS 1.3 has what QUIC needs");
    ServerConfig::with_crypto(Arc::new(quic))
}

/// Lets anybody in.
#[derive(Debug)]
struct AnyClient;

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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
