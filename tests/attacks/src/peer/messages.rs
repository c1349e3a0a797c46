//! Messages of a raw peer, and what becomes of them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cellbus_proto::{
    codec::{Frame, body::Blob},
    envelope::{Address, Common, Envelope, Flags, Header, Incarnation, Kind, Lane, OriginProof},
    proof::{control_signable, must_be_signed},
    status::Status,
    well_known,
};

use super::RawPeer;
use crate::wire::{Loose, Mp, s};

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a reply.
    Replied(Bytes),
    /// Returned with a status, by a cell.
    Returned(Status, String),
}

impl Outcome {
    /// A return of this status by this cell.
    #[must_use]
    pub fn returned(status: Status, by: &str) -> Self {
        Self::Returned(status, by.to_owned())
    }
}

impl RawPeer {
    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// The address that a cell of this name would give as its own.
    ///
    /// # Panics
    /// For a text that is no name.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Arc<Address> {
        Address::exact(name.parse().expect("a cell name"), self.incarnation)
    }

    /// A request that an honest cell could make.
    ///
    /// # Panics
    /// For texts that are no names.
    #[must_use]
    pub fn request(&mut self, to: &str, target: &str) -> Envelope {
        Envelope {
            header: Header {
                kind: Kind::Request,
                sequence: self.next_sequence(),
                common: Arc::new(Common {
                    origin: self.address_of(self.me.as_str()),
                    destination: Address::any(to.parse().expect("a cell name")),
                    target: target.parse().expect("a channel and topic"),
                    token: self.token.clone(),
                    lane: Lane::Interactive,
                    flags: Flags::default(),
                }),
                budget_ms: 5000,
                hops_left: 1,
                extras: None,
            },
            payload: Bytes::from_static(b"payload"),
        }
    }

    /// Sends a message on the stream of its lane, and gives its number.
    pub async fn send(&mut self, mut envelope: Envelope) -> u64 {
        self.sign(&mut envelope);
        let (sequence, lane) = (envelope.header.sequence, envelope.header.lane);
        let frame = Frame::Message(envelope);
        if lane == Lane::Control {
            self.send_frame(&frame).await;
            return sequence;
        }
        let (stream, encoder) = self.lane(lane).await;
        let mut bytes = BytesMut::new();
        let tail = encoder.encode(&frame, &mut bytes);
        for part in [Some(bytes.freeze()), tail].into_iter().flatten() {
            // The other end may have closed already, which is what the test looks at then.
            let _ = stream.write_all(&part).await;
        }
        sequence
    }

    /// Proves that a message is its own, where honest cells do and where it has no proof yet.
    fn sign(&self, envelope: &mut Envelope) {
        let is_own = envelope.header.origin.name == self.me;
        let extras = envelope.header.extras.as_ref();
        let is_signed = extras.is_some_and(|extras| extras.proof.is_some());
        if !self.signs || !is_own || is_signed || !must_be_signed(&envelope.header) {
            return;
        }
        let unix_ms = self.wall.unix_ms();
        let signable = control_signable("attacks", &envelope.header, &envelope.payload, unix_ms);
        let signature = Blob(self.papers.sign(&signable));
        let proof = Some(OriginProof { unix_ms, signature });
        envelope.header.extras.get_or_insert_default().proof = proof;
    }

    /// Waits for the end of the request `to`.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn outcome(&mut self, to: u64) -> Outcome {
        self.expect_frame(|frame| {
            let Frame::Message(envelope) = frame else { return None };
            if let Kind::Reply { to: answered } = envelope.header.kind
                && answered == to
            {
                return Some(Outcome::Replied(envelope.payload.clone()));
            }
            if let Kind::Return { to: answered, status, by } = &envelope.header.kind
                && *answered == to
            {
                return Some(Outcome::Returned(*status, by.to_string()));
            }
            None
        })
        .await
    }

    /// Sends a message and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ask(&mut self, envelope: Envelope) -> Outcome {
        let to = self.send(envelope).await;
        self.outcome(to).await
    }

    /// Waits until everything that was sent on `lane` before has been decided on.
    ///
    /// # Panics
    /// When the other end does not answer a ping.
    pub async fn settle(&mut self, lane: Lane) {
        let mut ping = self.request(self.parent.clone().as_str(), "task/fetch");
        ping.header.target = well_known::PING.into();
        ping.header.lane = lane;
        let outcome = self.ask(ping).await;
        assert_eq!(outcome, Outcome::Replied(Bytes::from_static(b"payload")));
    }

    /// Waits for a ping, and answers it as a living cell does.
    ///
    /// # Panics
    /// When none comes.
    pub async fn answer_ping(&mut self) {
        let Envelope { header, payload } = self.request_in().await;
        assert!(well_known::PING.matches(&header.target), "{header:?}");
        let me = self.address_of(self.me.as_str());
        let kind = Kind::Reply { to: header.sequence };
        let common = header.common.answer(&me, self.token.clone());
        let sequence = self.next_sequence();
        let header = header.answer(kind, sequence, || Arc::new(common)).expect("a request");
        self.send(Envelope { header, payload }).await;
    }

    /// Waits for a request of another cell.
    ///
    /// # Panics
    /// When none comes.
    pub async fn request_in(&mut self) -> Envelope {
        self.expect_frame(|frame| {
            let Frame::Message(envelope) = frame else { return None };
            (!envelope.header.kind.is_answer()).then(|| envelope.clone())
        })
        .await
    }

    /// Messages that came and were not asked for.
    pub fn unasked_messages(&mut self) -> Vec<Envelope> {
        let messages = self.unasked().into_iter().filter_map(|frame| {
            let Frame::Message(envelope) = frame else { return None };
            Some(envelope)
        });
        messages.collect()
    }

    /// The header of an honest request, open to lies. Every name in it is introduced again, from number 0 on: it may
    /// stand on a stream that has been used, and nothing typed may follow it there.
    #[must_use]
    pub fn loose(&mut self, to: &str, channel: &str, topic: &str) -> Loose {
        let Incarnation { counter, nonce } = self.incarnation;
        let token = match &self.token {
            Some(token) => Mp::A(vec![Mp::U(0), Mp::B(token.as_bytes().to_vec())]),
            None => Mp::Nil,
        };
        Loose {
            kind: Mp::U(1),
            sequence: Mp::U(self.next_sequence()),
            origin: Mp::A(vec![Mp::U(0), s(self.me.as_str()), Mp::U(counter), Mp::U(nonce)]),
            destination: Mp::A(vec![Mp::U(1), s(to)]),
            target: Mp::A(vec![Mp::U(0), s(channel), s(topic)]),
            token,
            budget: Mp::U(5000),
            hops: Mp::U(1),
            lane: Mp::U(Lane::Bulk as u64),
            flags: Mp::U(0),
            rest: Vec::new(),
        }
    }

    /// Sends a loose message on the bulk lane.
    pub async fn send_loose(&mut self, loose: &Loose) {
        self.write_lane(Lane::Bulk, &loose.frame(b"payload")).await;
    }
}
