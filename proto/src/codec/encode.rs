//! Frames to bytes.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use rmp::encode;

use super::{Frame, PREFIX_LEN, body, slots::Slots, table::TableLimits, table::WriteTable, types};
use crate::{
    envelope::{Address, Common, Envelope, Extras, Header, Kind},
    name::ChannelTopic,
    token::Token,
};

/// Payloads up to this size are copied behind their header, so that many small messages leave in one
/// write; larger ones are handed on as they are.
const COPY_MAX: usize = 4096;

/// Writes the frames of one stream, whose tables it keeps.
#[derive(Debug)]
pub struct Encoder {
    addresses: WriteTable<Arc<Address>>,
    targets: WriteTable<ChannelTopic>,
    tokens: WriteTable<Token>,
    /// Where a header is put together; kept for its memory.
    scratch: Vec<u8>,
    /// Counts the changes of the tables.
    revision: u64,
    /// How the names of messages were written, by where these live.
    commons: Slots<Written>,
}

/// Conversations of one stream whose names are known at once.
const COMMONS: usize = 64;
/// Bytes that the names of one message take when all of them are references: four numbers.
const NAMES_MAX: usize = 12;

/// How the names of a message were written, which stands as long as the tables do.
#[derive(Debug)]
struct Written {
    common: Arc<Common>,
    revision: u64,
    bytes: [u8; NAMES_MAX],
    len: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            addresses: WriteTable::new(TableLimits::ADDRESSES),
            targets: WriteTable::new(TableLimits::TARGETS),
            tokens: WriteTable::new(TableLimits::TOKENS),
            scratch: Vec::new(),
            revision: 0,
            commons: Slots::of(COMMONS),
        }
    }
}

impl Encoder {
    /// An encoder for a new stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `frame` to `out`.
    ///
    /// A large payload is not copied: it is returned, and belongs right behind what is in `out` now.
    #[must_use]
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Option<Bytes> {
        match frame {
            Frame::Message(envelope) => {
                return self.encode_message(envelope, envelope.header.budget_ms, out);
            }
            Frame::Hello(hello) => control(types::HELLO, hello, out),
            Frame::HelloOk(ok) => control(types::HELLO_OK, ok, out),
            Frame::Beat(beat) => control(types::BEAT, beat, out),
            Frame::Echo(echo) => control(types::ECHO, echo, out),
            Frame::Lane(lane) => control(types::LANE, &(*lane as u8,), out),
            Frame::Drain(drain) => control(types::DRAIN, drain, out),
            Frame::Answer(answer) => control(types::ANSWER, answer, out),
            Frame::Conduit(conduit) => control(types::CONDUIT, conduit, out),
        }
        None
    }

    /// Appends a message with the budget that is left of it now. See [`Self::encode`].
    #[must_use]
    pub fn encode_message(
        &mut self,
        envelope: &Envelope,
        budget_ms: u32,
        out: &mut BytesMut,
    ) -> Option<Bytes> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[types::MESSAGE, 0, 0]);
        let len = u32::try_from(envelope.payload.len()).expect("payloads are bounded before");
        scratch.extend_from_slice(&len.to_be_bytes());
        self.header(&envelope.header, budget_ms, &mut scratch);
        let len = u16::try_from(scratch.len() - PREFIX_LEN).expect("headers are bounded");
        scratch[1..3].copy_from_slice(&len.to_be_bytes());
        out.reserve(scratch.len() + envelope.payload.len().min(COPY_MAX));
        out.put_slice(&scratch);
        self.scratch = scratch;
        if envelope.payload.len() > COPY_MAX {
            return Some(envelope.payload.clone());
        }
        out.put_slice(&envelope.payload);
        None
    }

    fn header(&mut self, header: &Header, budget_ms: u32, w: &mut Vec<u8>) {
        const INFALLIBLE: &str = "memory takes every write";
        let extras = header.extras.as_deref();
        let headers = extras.map(|e| &e.headers).filter(|headers| !headers.is_empty());
        let trace = extras.and_then(|e| e.trace);
        let content_type = extras.and_then(|e| e.content_type.as_deref());
        let (kind, to, failure) = match &header.kind {
            Kind::Publish => (0, None, None),
            Kind::Request => (1, None, None),
            Kind::Reply { to } => (2, Some(*to), None),
            Kind::Return { to, status, by } => (3, Some(*to), Some((*status, by))),
        };
        let extends =
            extras.is_some_and(|e| !e.fan.is_empty() || !e.path.is_empty() || e.proof.is_some());
        let len = match (headers, trace, content_type, failure, to) {
            _ if extends => 16,
            (Some(_), ..) => 15,
            (_, Some(_), ..) => 14,
            (_, _, Some(_), ..) => 13,
            (_, _, _, Some(_), _) => 12,
            (_, _, _, _, Some(_)) => 11,
            _ => 10,
        };
        encode::write_array_len(w, len).expect(INFALLIBLE);
        encode::write_uint(w, kind).expect(INFALLIBLE);
        encode::write_uint(w, header.sequence).expect(INFALLIBLE);
        self.names(&header.common, w);
        encode::write_uint(w, budget_ms.into()).expect(INFALLIBLE);
        encode::write_uint(w, header.hops_left.into()).expect(INFALLIBLE);
        encode::write_uint(w, header.lane as u64).expect(INFALLIBLE);
        encode::write_uint(w, header.flags.bits().into()).expect(INFALLIBLE);
        if len > 10 {
            match to {
                Some(to) => drop(encode::write_uint(w, to).expect(INFALLIBLE)),
                None => encode::write_nil(w).expect(INFALLIBLE),
            }
        }
        if len > 11 {
            match failure {
                Some((status, by)) => {
                    encode::write_array_len(w, 2).expect(INFALLIBLE);
                    encode::write_uint(w, status as u64).expect(INFALLIBLE);
                    encode::write_str(w, by.as_str()).expect(INFALLIBLE);
                }
                None => encode::write_nil(w).expect(INFALLIBLE),
            }
        }
        if len > 12 {
            match content_type {
                Some(text) => encode::write_str(w, text).expect(INFALLIBLE),
                None => encode::write_nil(w).expect(INFALLIBLE),
            }
        }
        if len > 13 {
            match trace {
                Some(trace) => encode::write_bin(w, &trace.0).expect(INFALLIBLE),
                None => encode::write_nil(w).expect(INFALLIBLE),
            }
        }
        if len > 14 {
            match headers {
                Some(headers) => encode::write_bin(w, headers).expect(INFALLIBLE),
                None => encode::write_nil(w).expect(INFALLIBLE),
            }
        }
        if let Some(extras) = extras.filter(|_| extends) {
            self.extensions(extras, w);
        }
    }

    /// Who the message is from, who and what it is for, and its token: as they were written the last time,
    /// where they are those of an earlier message and the tables have not changed since.
    fn names(&mut self, common: &Arc<Common>, w: &mut Vec<u8>) {
        const INFALLIBLE: &str = "memory takes every write";
        let slot = (Arc::as_ptr(common).addr() >> 6) as u64;
        if let Some(written) = self.commons.get(slot)
            && Arc::ptr_eq(&written.common, common)
            && written.revision == self.revision
        {
            w.extend_from_slice(&written.bytes[..written.len]);
            return;
        }
        let start = w.len();
        let revision = self.revision;
        self.address(&common.origin, w);
        self.address(&common.destination, w);
        self.target(&common.target, w);
        match &common.token {
            Some(token) => self.token(token, w),
            None => encode::write_nil(w).expect(INFALLIBLE),
        }
        let names = &w[start..];
        if revision == self.revision && names.len() <= NAMES_MAX {
            let mut bytes = [0; NAMES_MAX];
            bytes[..names.len()].copy_from_slice(names);
            let common = Arc::clone(common);
            self.commons.put(slot, Written { common, revision, bytes, len: names.len() });
        }
    }

    fn extensions(&mut self, extras: &Extras, w: &mut impl std::io::Write) {
        const INFALLIBLE: &str = "memory takes every write";
        let Extras { fan, path, proof, .. } = extras;
        let count =
            u32::from(!fan.is_empty()) + u32::from(!path.is_empty()) + u32::from(proof.is_some());
        encode::write_array_len(w, count).expect(INFALLIBLE);
        let mut extension = |number: u16, bytes: &[u8]| {
            encode::write_array_len(w, 2).expect(INFALLIBLE);
            encode::write_uint(w, number.into()).expect(INFALLIBLE);
            encode::write_bin(w, bytes).expect(INFALLIBLE);
        };
        if !fan.is_empty() {
            let mut bytes = BytesMut::new();
            let w = &mut (&mut bytes).writer();
            let len = u32::try_from(fan.len()).expect("fans are bounded before");
            encode::write_array_len(w, len).expect(INFALLIBLE);
            for target in fan {
                encode::write_array_len(w, 2).expect(INFALLIBLE);
                encode::write_uint(w, target.sequence).expect(INFALLIBLE);
                self.address(&target.destination, w);
            }
            extension(types::EXTENSION_FAN, &bytes);
        }
        if !path.is_empty() {
            extension(types::EXTENSION_PATH, &body::encode(path));
        }
        if let Some(proof) = proof {
            extension(types::EXTENSION_PROOF, &body::encode(proof));
        }
    }

    fn address(&mut self, address: &Arc<Address>, w: &mut impl std::io::Write) {
        const INFALLIBLE: &str = "memory takes every write";
        let pointer = Arc::as_ptr(address).addr();
        let (handle, new) = self.addresses.handle(address, pointer);
        if !new {
            encode::write_uint(w, handle.into()).expect(INFALLIBLE);
            return;
        }
        self.revision += 1;
        let len = if address.incarnation.is_some() { 4 } else { 2 };
        encode::write_array_len(w, len).expect(INFALLIBLE);
        encode::write_uint(w, handle.into()).expect(INFALLIBLE);
        encode::write_str(w, address.name.as_str()).expect(INFALLIBLE);
        if let Some(incarnation) = address.incarnation {
            encode::write_uint(w, incarnation.counter).expect(INFALLIBLE);
            encode::write_uint(w, incarnation.nonce).expect(INFALLIBLE);
        }
    }

    fn target(&mut self, target: &ChannelTopic, w: &mut impl std::io::Write) {
        const INFALLIBLE: &str = "memory takes every write";
        let (handle, new) = self.targets.handle(target, target.allocation());
        if !new {
            encode::write_uint(w, handle.into()).expect(INFALLIBLE);
            return;
        }
        self.revision += 1;
        encode::write_array_len(w, 3).expect(INFALLIBLE);
        encode::write_uint(w, handle.into()).expect(INFALLIBLE);
        encode::write_str(w, target.channel().as_str()).expect(INFALLIBLE);
        encode::write_str(w, target.topic().as_str()).expect(INFALLIBLE);
    }

    fn token(&mut self, token: &Token, w: &mut impl std::io::Write) {
        const INFALLIBLE: &str = "memory takes every write";
        let (handle, new) = self.tokens.handle(token, token.allocation());
        if !new {
            encode::write_uint(w, handle.into()).expect(INFALLIBLE);
            return;
        }
        self.revision += 1;
        encode::write_array_len(w, 2).expect(INFALLIBLE);
        encode::write_uint(w, handle.into()).expect(INFALLIBLE);
        encode::write_bin(w, token.as_bytes()).expect(INFALLIBLE);
    }
}

fn control<T: serde::Serialize>(kind: u8, value: &T, out: &mut BytesMut) {
    let bytes = body::encode(value);
    out.put_u8(kind);
    out.put_u16(u16::try_from(bytes.len()).expect("control bodies are small"));
    out.put_u32(0);
    out.put_slice(&bytes);
}
