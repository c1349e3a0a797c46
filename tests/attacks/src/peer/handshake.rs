//! HELLO, challenge and registration, step by step, from the protocol document.

use bytes::Bytes;
use cellbus_proto::{
    codec::{
        Frame, Octets,
        body::{self, Answer, Beat, Blob, Hello, HelloOk, Register, Registered, WireChallenge},
    },
    envelope::Lane,
    status::Status,
    token::Token,
    transcript::{EndToEndFacts, Purpose, RegisterFacts, sha256},
    well_known::{self, SystemTopic},
};
use rustls_pki_types::CertificateDer;

use super::{Closed, RawPeer};
use crate::target::Target;

impl RawPeer {
    /// Connects with the papers of `name` and registers as it.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn registered(target: &Target, parent: &str, name: &str) -> Self {
        let mut peer = Self::connect(target, parent, name).await;
        peer.register().await.expect("the papers are good");
        target.until_holds(parent, peer.me.as_str(), (true, true)).await;
        peer
    }

    /// Connects with the papers of `name` and says HELLO; the challenge is pending.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn greeted(target: &Target, parent: &str, name: &str) -> (Self, HelloOk) {
        let mut peer = Self::connect(target, parent, name).await;
        let ok = peer.greet().await;
        (peer, ok)
    }

    /// What an honest child would say first.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            version_min: body::VERSION,
            version_max: body::VERSION,
            features: Vec::new(),
            name: self.me.clone(),
            parent: self.parent.clone(),
            incarnation: self.incarnation.into(),
            nonce: Octets(self.nonce),
        }
    }

    /// Says HELLO and waits for HELLO_OK.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn greet(&mut self) -> HelloOk {
        self.say_hello().await;
        self.hello_ok().await
    }

    /// Says what an honest child would say first.
    pub async fn say_hello(&mut self) {
        let hello = self.hello();
        self.send_frame(&Frame::Hello(hello)).await;
    }

    /// Waits for HELLO_OK.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn hello_ok(&mut self) -> HelloOk {
        self.expect_frame(|frame| {
            let Frame::HelloOk(ok) = frame else { return None };
            Some(ok.clone())
        })
        .await
    }

    /// SHA-256 of the other end's certificate.
    ///
    /// # Panics
    /// Without a connection.
    #[must_use]
    pub fn parent_leaf(&self) -> [u8; 32] {
        let identity = self.connection.peer_identity().expect("the other end has a certificate");
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().expect("a chain");
        sha256(&chain[0])
    }

    /// What an honest child signs for its parent, after `change` has had its way with it.
    #[must_use]
    pub fn signable(
        &self,
        purpose: Purpose,
        challenge: &WireChallenge,
        change: impl FnOnce(&mut RegisterFacts<'_>),
    ) -> Vec<u8> {
        let (child_leaf, parent_leaf) = (self.papers.hash(), self.parent_leaf());
        let parent_kind = if self.parent.as_str() == "server" {
            "server"
        } else if self.parent.base().starts_with("relay") {
            "relay"
        } else {
            "client"
        };
        let mut facts = RegisterFacts {
            project: "attacks",
            child: self.me.as_str(),
            child_kind: self.kind(),
            parent: self.parent.as_str(),
            parent_kind,
            child_nonce: &self.nonce,
            parent_nonce: &challenge.nonce.0,
            challenge: challenge.id,
            child_leaf: &child_leaf,
            parent_leaf: &parent_leaf,
            exporter: &self.exporter,
        };
        change(&mut facts);
        facts.signable(purpose)
    }

    fn kind(&self) -> &'static str {
        let base = self.me.base();
        if base.starts_with("relay") {
            "relay"
        } else if base.starts_with("job") {
            "job"
        } else {
            "client"
        }
    }

    /// What an honest child signs for the server.
    #[must_use]
    pub fn end_to_end(&self, server_nonce: &[u8; 32]) -> Vec<u8> {
        EndToEndFacts {
            project: "attacks",
            child: self.me.as_str(),
            parent: self.parent.as_str(),
            server: "server",
            server_nonce,
            child_leaf: &self.papers.hash(),
        }
        .signable()
    }

    /// Both signatures of an honest child.
    #[must_use]
    pub fn proof(&self, challenge: &WireChallenge) -> Register {
        let signature = self.papers.sign(&self.signable(Purpose::Register, challenge, |_| {}));
        let end_to_end = self.papers.sign(&self.end_to_end(&challenge.server_nonce.0));
        Register { signature: Blob(signature), end_to_end: Blob(end_to_end) }
    }

    /// Sends a challenge, register or bye request as an honest child does, with this body; gives its number.
    pub async fn send_exempt(&mut self, topic: SystemTopic, payload: impl Into<Bytes>) -> u64 {
        let mut envelope = self.request(self.parent.clone().as_str(), "task/fetch");
        envelope.header.target = topic.into();
        envelope.header.lane = Lane::Control;
        envelope.header.token = None;
        envelope.payload = payload.into();
        self.send(envelope).await
    }

    /// Waits for the answer to an exempt request.
    ///
    /// # Errors
    /// The number of the status that says no.
    ///
    /// # Panics
    /// When none comes.
    pub async fn answer(&mut self, to: u64) -> Result<Vec<u8>, u8> {
        let Answer { status, body, .. } = self
            .expect_frame(|frame| {
                let Frame::Answer(answer) = frame else { return None };
                (answer.to == to).then(|| answer.clone())
            })
            .await;
        if status == 0 { Ok(body.0) } else { Err(status) }
    }

    /// Sends a proof, and takes the token if it is accepted.
    ///
    /// # Errors
    /// The status that says no.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send_proof(&mut self, proof: &Register) -> Result<Registered, Status> {
        let to = self.send_exempt(well_known::REGISTER, body::encode(proof)).await;
        self.take_registration(to).await
    }

    /// Sends a proof that must be refused, and the connection closed with no more than that.
    ///
    /// # Panics
    /// When it is not.
    pub async fn assert_proof_refused(&mut self, proof: &Register) {
        self.send_exempt(well_known::REGISTER, body::encode(proof)).await;
        assert_eq!(self.closed().await, Closed::unauthenticated());
        for frame in self.unasked() {
            let Frame::Answer(answer) = frame else { continue };
            assert_eq!(answer.status, Status::Unauthenticated as u8, "a probe learns nothing");
        }
    }

    /// Waits for the answer to the register request `to`, and takes the token from it.
    ///
    /// # Errors
    /// The status that says no.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn take_registration(&mut self, to: u64) -> Result<Registered, Status> {
        let body = self
            .answer(to)
            .await
            .map_err(|status| Status::from_wire(status).expect("a status that exists"))?;
        let registered: Registered = body::decode_exact(&body).expect("honest cells answer so");
        self.token = Token::from_bytes(registered.token.0.clone().into());
        Ok(registered)
    }

    /// HELLO and an honest proof.
    ///
    /// # Errors
    /// The status that says no.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn register(&mut self) -> Result<Registered, Status> {
        let ok = self.greet().await;
        let proof = self.proof(&ok.challenge);
        self.send_proof(&proof).await
    }

    /// Asks for a new challenge and answers it.
    ///
    /// # Errors
    /// The status that says no.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn register_again(&mut self) -> Result<Registered, Status> {
        let to = self.send_exempt(well_known::CHALLENGE, Bytes::new()).await;
        let body = self.answer(to).await.expect("a challenge");
        let challenge: WireChallenge = body::decode_exact(&body).expect("a challenge");
        let proof = self.proof(&challenge);
        self.send_proof(&proof).await
    }

    /// Sends the next beat and gives its number.
    pub async fn beat(&mut self) -> u64 {
        self.beats += 1;
        let number = self.beats;
        self.send_frame(&Frame::Beat(Beat { number })).await;
        number
    }

    /// Sends the next beat and waits for its echo.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn beat_and_wait(&mut self) {
        let number = self.beat().await;
        self.expect_frame(|frame| {
            matches!(frame, Frame::Echo(echo) if echo.number == number).then_some(())
        })
        .await;
    }
}
