//! Bytes to frames.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    CodecError, Frame, FrameLimits, body,
    names::{References, Values},
    read::{array, bin, introduction, optional, small, take_nil, text, uint},
    slots::Slots,
    table::{ReadTable, TableLimits},
    types,
};
use crate::{
    envelope::{
        Address, Common, Envelope, Extras, FanTarget, Flags, Header, HopRecord, Incarnation, Kind,
        Lane, OriginProof, TraceContext,
    },
    name::{ChannelTopic, Fqcn},
    status::Status,
    token::Token,
};

/// Bytes made room for before they have come, whatever a peer says that its frame has.
const RESERVED_MAX: usize = 16 << 10;
/// Bytes in front of every frame: type, header length, payload length.
pub const PREFIX_LEN: usize = 7;

/// Elements that every header has, and that one has at most.
const ELEMENTS_MIN: u32 = 10;
const ELEMENTS_KNOWN: u32 = 15;
const ELEMENTS_MAX: u32 = 16;
/// Extensions of one header, and bytes in one of them.
const EXTENSIONS_MAX: u32 = 16;
const EXTENSION_MAX: usize = 12 << 10;

/// What messages have in common that refer to the same.
type Conversation = (References, Arc<Common>);

/// Reads the frames of one stream, whose tables it keeps.
#[derive(Debug)]
pub struct Decoder {
    limits: FrameLimits,
    /// What has arrived of a frame that is not complete. It grows with what arrives, never by what a
    /// peer announces.
    partial: BytesMut,
    addresses: ReadTable<Arc<Address>>,
    targets: ReadTable<ChannelTopic>,
    tokens: ReadTable<Token>,
    /// What messages of this stream have in common, by where its parts stand in the tables.
    commons: Slots<Conversation>,
}

impl Decoder {
    /// A decoder for a new stream.
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            partial: BytesMut::new(),
            addresses: ReadTable::new(TableLimits::ADDRESSES),
            targets: ReadTable::new(TableLimits::TARGETS),
            tokens: ReadTable::new(TableLimits::TOKENS),
            commons: Slots::of(References::SLOTS),
        }
    }

    /// Changes what the peer may send from the next frame on.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// Bytes held of a frame that is not complete. Not zero at the end of a stream means that the
    /// sender died in the middle of a message.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.partial.len()
    }

    /// What was fed and belongs to no frame that was given: on a conduit, what follows its last frame.
    #[must_use]
    pub fn into_rest(self) -> Bytes {
        self.partial.freeze()
    }

    /// Takes the next bytes of the stream and gives every frame that they complete to `sink`, until
    /// `sink` says `false`; what remains of the bytes then is kept for the next call.
    ///
    /// # Errors
    /// [`CodecError`]; the stream is to be given up, and so is this decoder.
    pub fn feed(
        &mut self,
        mut chunk: Bytes,
        mut sink: impl FnMut(Frame) -> bool,
    ) -> Result<(), CodecError> {
        loop {
            let frame = if self.partial.is_empty() {
                match self.split(&mut chunk)? {
                    Some(frame) => frame,
                    None => {
                        self.partial.extend_from_slice(&chunk);
                        return Ok(());
                    }
                }
            } else {
                match self.complete_partial(&mut chunk)? {
                    Some(frame) => frame,
                    None => return Ok(()),
                }
            };
            if !sink(frame) {
                self.partial.extend_from_slice(&chunk);
                return Ok(());
            }
        }
    }

    /// Moves bytes from `chunk` behind the partial frame until it is complete.
    fn complete_partial(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, CodecError> {
        if !self.top_up(chunk, PREFIX_LEN) {
            return Ok(None);
        }
        let prefix = self.prefix(&self.partial)?;
        let missing = prefix.total().saturating_sub(self.partial.len());
        self.partial.reserve(missing.min(RESERVED_MAX));
        if !self.top_up(chunk, prefix.total()) {
            return Ok(None);
        }
        let mut whole = self.partial.split_to(prefix.total()).freeze();
        if self.partial.is_empty() {
            self.partial = BytesMut::new();
        }
        self.take(prefix, &mut whole).map(Some)
    }

    fn top_up(&mut self, chunk: &mut Bytes, len: usize) -> bool {
        let missing = len.saturating_sub(self.partial.len());
        let moved = missing.min(chunk.len());
        self.partial.extend_from_slice(&chunk[..moved]);
        chunk.advance(moved);
        moved == missing
    }

    /// Takes one complete frame off the front of `chunk`, without copying.
    fn split(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, CodecError> {
        if chunk.len() < PREFIX_LEN {
            return Ok(None);
        }
        let prefix = self.prefix(chunk)?;
        if chunk.len() < prefix.total() {
            return Ok(None);
        }
        self.take(prefix, chunk).map(Some)
    }

    fn prefix(&self, mut bytes: &[u8]) -> Result<Prefix, CodecError> {
        let prefix = Prefix {
            kind: bytes.get_u8(),
            header: bytes.get_u16().into(),
            payload: usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX),
        };
        if !(types::HELLO..=types::CONDUIT).contains(&prefix.kind) {
            return Err(CodecError::new(Status::BadFrame, "unknown frame type"));
        }
        if prefix.header == 0 {
            return Err(CodecError::new(Status::BadFrame, "frame without a header"));
        }
        let payload_max = if prefix.kind == types::MESSAGE { self.limits.payload_max } else { 0 };
        if prefix.header > self.limits.header_max || prefix.payload > payload_max {
            return Err(CodecError::new(Status::TooLarge, "frame is larger than allowed"));
        }
        Ok(prefix)
    }

    fn take(&mut self, prefix: Prefix, whole: &mut Bytes) -> Result<Frame, CodecError> {
        let payload = PREFIX_LEN + prefix.header;
        let header = &whole[PREFIX_LEN..payload];
        let frame = match prefix.kind {
            types::MESSAGE => {
                let header = self.header(header, whole)?;
                Frame::Message(Envelope { header, payload: whole.slice(payload..prefix.total()) })
            }
            types::HELLO => Frame::Hello(body::decode_exact(header)?),
            types::HELLO_OK => Frame::HelloOk(body::decode_exact(header)?),
            types::BEAT => Frame::Beat(body::decode_exact(header)?),
            types::ECHO => Frame::Echo(body::decode_exact(header)?),
            types::DRAIN => Frame::Drain(body::decode_exact(header)?),
            types::ANSWER => Frame::Answer(body::decode_exact(header)?),
            types::CONDUIT => Frame::Conduit(body::decode_exact(header)?),
            _ => {
                let (number,) = body::decode_exact::<(u8,)>(header)?;
                let unknown = CodecError::new(Status::BadFrame, "unknown lane");
                Frame::Lane(Lane::from_wire(number).ok_or(unknown)?)
            }
        };
        whole.advance(prefix.total());
        Ok(frame)
    }

    /// Reads a header that lies in `whole`.
    fn header(&mut self, mut bytes: &[u8], whole: &Bytes) -> Result<Header, CodecError> {
        let r = &mut bytes;
        let len = array(r)?;
        if !(ELEMENTS_MIN..=ELEMENTS_MAX).contains(&len) {
            return Err(CodecError::header("wrong number of elements"));
        }
        let kind = uint(r)?;
        let sequence = uint(r)?;
        let names = self.names(r)?;
        let budget_ms = small(uint(r)?)?;
        let hops_left = small(uint(r)?)?;
        let lane = Lane::from_wire(small(uint(r)?)?).ok_or(CodecError::header("unknown lane"))?;
        let flags = Flags::from_wire(small(uint(r)?)?);
        let common = self.common(names, lane, flags)?;
        let rest = if len > ELEMENTS_MIN { self.rest(r, len, whole)? } else { Rest::default() };
        if !r.is_empty() {
            return Err(CodecError::new(Status::BadFrame, "bytes behind the header"));
        }
        if sequence == 0 {
            return Err(CodecError::header("sequence numbers start at one"));
        }
        let Rest { to, failure, extras } = rest;
        let kind = match (kind, to, failure) {
            (0, None, None) => Kind::Publish,
            (1, None, None) => Kind::Request,
            (2, Some(to), None) => Kind::Reply { to },
            (3, Some(to), Some((status, by))) => Kind::Return { to, status, by },
            _ => return Err(CodecError::header("kind and its fields do not fit")),
        };
        let fan = extras.as_ref().and_then(|extras| extras.fan.first());
        if fan.is_some_and(|t| t.sequence != sequence || t.destination != common.destination) {
            return Err(CodecError::header("a message to many is first for its own destination"));
        }
        if fan.is_some() && kind.is_answer() {
            return Err(CodecError::header("an answer is for one cell"));
        }
        Ok(Header { kind, sequence, common, budget_ms, hops_left, extras })
    }

    /// Reads who a message is from, who and what it is for, and the token: as values where one of them is
    /// introduced here, which may change what a reference before or behind it means.
    fn names(&mut self, r: &mut &[u8]) -> Result<Result<References, Values>, CodecError> {
        if let Some(references) = References::read(r)? {
            return Ok(Ok(references));
        }
        let origin = self.address(r)?;
        let destination = self.address(r)?;
        let target = self.target(r)?;
        let token = self.token(r)?;
        Ok(Err(Values { origin, destination, target, token }))
    }

    /// What the message has in common with others: the same as that of an earlier message of this stream,
    /// where it refers to the same.
    fn common(
        &mut self,
        names: Result<References, Values>,
        lane: Lane,
        flags: Flags,
    ) -> Result<Arc<Common>, CodecError> {
        let references = match names {
            Ok(references) => references,
            Err(values) => return values.common(lane, flags).map(Arc::new),
        };
        let slot = references.slot();
        if let Some((known, common)) = self.commons.get(slot)
            && *known == references
            && (common.lane, common.flags) == (lane, flags)
            && self.still_means(references, common)
        {
            return Ok(Arc::clone(common));
        }
        let values = Values {
            origin: self.known_address(references.origin)?,
            destination: self.known_address(references.destination)?,
            target: self.known_target(references.target)?,
            token: references.token.map(|token| self.known_token(token)).transpose()?,
        };
        let common = Arc::new(values.common(lane, flags)?);
        self.commons.put(slot, (references, Arc::clone(&common)));
        Ok(common)
    }

    /// Whether the tables still say what they said when `common` was put together.
    fn still_means(&self, references: References, common: &Common) -> bool {
        let address = |handle, address: &Arc<Address>| {
            self.addresses.entry(handle).is_some_and(|entry| Arc::ptr_eq(entry, address))
        };
        let target = self.targets.entry(references.target);
        let token = references.token.and_then(|token| self.tokens.entry(token));
        address(references.origin, &common.origin)
            && address(references.destination, &common.destination)
            && target.map(ChannelTopic::allocation) == Some(common.target.allocation())
            && token.map(Token::allocation) == common.token.as_ref().map(Token::allocation)
    }

    fn known_address(&self, handle: u64) -> Result<Arc<Address>, CodecError> {
        let unknown = CodecError::header("reference to a name that was not introduced");
        self.addresses.entry(handle).cloned().ok_or(unknown)
    }

    fn known_target(&self, handle: u64) -> Result<ChannelTopic, CodecError> {
        let unknown = CodecError::header("reference to a topic that was not introduced");
        self.targets.entry(handle).cloned().ok_or(unknown)
    }

    fn known_token(&self, handle: u64) -> Result<Token, CodecError> {
        let unknown = CodecError::header("reference to a token that was not introduced");
        self.tokens.entry(handle).cloned().ok_or(unknown)
    }

    /// The elements that not every header has.
    fn rest(&mut self, r: &mut &[u8], len: u32, whole: &Bytes) -> Result<Rest, CodecError> {
        let to = optional(r, uint)?;
        if len == ELEMENTS_MIN + 1 && to.is_some() {
            // Most answers.
            return Ok(Rest { to, ..Rest::default() });
        }
        let failure = if len > 11 { optional(r, failure)? } else { None };
        let content_type =
            if len > 12 { optional(r, |r| text(r, Extras::CONTENT_TYPE_MAX))? } else { None };
        let trace = if len > 13 { optional(r, trace)? } else { None };
        let headers = if len > 14 { optional(r, |r| bin(r, Extras::HEADERS_MAX))? } else { None };
        let last_is_absent = match len {
            11 => to.is_none(),
            12 => failure.is_none(),
            13 => content_type.is_none(),
            14 => trace.is_none(),
            15 => headers.is_none(),
            _ => false,
        };
        if last_is_absent {
            return Err(CodecError::header("trailing nil"));
        }
        if headers.is_some_and(<[u8]>::is_empty) {
            return Err(CodecError::header("empty application headers are left out"));
        }
        if content_type.is_some_and(|text| text.bytes().any(|b| !(0x20..0x7f).contains(&b))) {
            return Err(CodecError::header("content type has a character that is not printable"));
        }
        let Known { fan, path, proof } =
            if len > ELEMENTS_KNOWN { self.extensions(r)? } else { Known::default() };
        let extras = Extras {
            content_type: content_type.map(Arc::from),
            trace,
            headers: headers.map_or_else(Bytes::new, |headers| whole.slice_ref(headers)),
            fan,
            path,
            proof,
        };
        Ok(Rest { to, failure, extras: extras.boxed() })
    }

    /// Fields by number, ascending. Even numbers must be understood; odd ones that are not known are
    /// dropped.
    fn extensions(&mut self, r: &mut &[u8]) -> Result<Known, CodecError> {
        let len = array(r)?;
        if !(1..=EXTENSIONS_MAX).contains(&len) {
            return Err(CodecError::header("wrong number of extensions"));
        }
        let mut known = Known::default();
        let mut last = None;
        for _ in 0..len {
            if array(r)? != 2 {
                return Err(CodecError::header("malformed extension"));
            }
            let number: u16 = small(uint(r)?)?;
            let bytes = bin(r, EXTENSION_MAX)?;
            if last.replace(number).is_some_and(|last| last >= number) {
                return Err(CodecError::header("extension out of order"));
            }
            match number {
                types::EXTENSION_FAN => known.fan = self.fan(bytes)?,
                types::EXTENSION_PATH => known.path = path(bytes)?,
                types::EXTENSION_PROOF => known.proof = Some(body::decode_exact(bytes)?),
                even if even.is_multiple_of(2) => {
                    return Err(CodecError::new(Status::Version, "unknown critical field"));
                }
                _ => {}
            }
        }
        Ok(known)
    }

    fn fan(&mut self, mut bytes: &[u8]) -> Result<Vec<FanTarget>, CodecError> {
        let r = &mut bytes;
        let len = usize::try_from(array(r)?).unwrap_or(usize::MAX);
        if !(2..=Extras::FAN_MAX).contains(&len) {
            return Err(CodecError::header("a message to many is for two cells or more"));
        }
        let mut fan = Vec::new();
        for _ in 0..len {
            if array(r)? != 2 {
                return Err(CodecError::header("malformed destination"));
            }
            let sequence = uint(r)?;
            let destination = self.address(r)?;
            let ascends = fan.last().is_none_or(|last: &FanTarget| last.sequence < sequence);
            if !ascends {
                return Err(CodecError::header("sequence numbers of one message do not ascend"));
            }
            fan.push(FanTarget { sequence, destination });
        }
        if !r.is_empty() {
            return Err(CodecError::header("bytes behind the destinations"));
        }
        Ok(fan)
    }

    fn address(&mut self, r: &mut &[u8]) -> Result<Arc<Address>, CodecError> {
        let Some(len) = introduction(r)? else {
            return self.known_address(uint(r)?);
        };
        if len != 2 && len != 4 {
            return Err(CodecError::header("malformed introduction of a name"));
        }
        let handle = uint(r)?;
        let name: Fqcn = text(r, Fqcn::MAX_LEN)?
            .parse()
            .map_err(|_| CodecError::new(Status::BadFqcn, "not a cell name"))?;
        let incarnation = if len == 4 {
            let incarnation = Incarnation { counter: uint(r)?, nonce: uint(r)? };
            if incarnation.counter == 0 {
                return Err(CodecError::header("incarnations start at one"));
            }
            Some(incarnation)
        } else {
            None
        };
        let address = Arc::new(Address { name, incarnation });
        if !self.addresses.introduce(handle, Arc::clone(&address)) {
            return Err(CodecError::header("name introduced out of order"));
        }
        Ok(address)
    }

    fn target(&mut self, r: &mut &[u8]) -> Result<ChannelTopic, CodecError> {
        let Some(len) = introduction(r)? else {
            return self.known_target(uint(r)?);
        };
        if len != 3 {
            return Err(CodecError::header("malformed introduction of a topic"));
        }
        let handle = uint(r)?;
        let (channel, topic) = (text(r, 64)?, text(r, 64)?);
        let target = ChannelTopic::parse(channel, topic)
            .map_err(|_| CodecError::header("not a channel and topic"))?;
        if !self.targets.introduce(handle, target.clone()) {
            return Err(CodecError::header("topic introduced out of order"));
        }
        Ok(target)
    }

    fn token(&mut self, r: &mut &[u8]) -> Result<Option<Token>, CodecError> {
        if take_nil(r)? {
            return Ok(None);
        }
        let Some(len) = introduction(r)? else {
            return self.known_token(uint(r)?).map(Some);
        };
        if len != 2 {
            return Err(CodecError::header("malformed introduction of a token"));
        }
        let handle = uint(r)?;
        let bytes = Bytes::copy_from_slice(bin(r, Token::MAX_LEN)?);
        let token = Token::from_bytes(bytes)
            .ok_or(CodecError::new(Status::BadToken, "too short for a token"))?;
        if !self.tokens.introduce(handle, token.clone()) {
            return Err(CodecError::header("token introduced out of order"));
        }
        Ok(Some(token))
    }
}

/// What the elements behind the tenth say.
#[derive(Default)]
struct Rest {
    to: Option<u64>,
    failure: Option<(Status, Fqcn)>,
    extras: Option<Box<Extras>>,
}

/// The extensions that this version knows.
#[derive(Default)]
struct Known {
    fan: Vec<FanTarget>,
    path: Vec<HopRecord>,
    proof: Option<OriginProof>,
}

#[derive(Clone, Copy)]
struct Prefix {
    kind: u8,
    header: usize,
    payload: usize,
}

impl Prefix {
    fn total(self) -> usize {
        PREFIX_LEN + self.header + self.payload
    }
}

fn failure(r: &mut &[u8]) -> Result<(Status, Fqcn), CodecError> {
    if array(r)? != 2 {
        return Err(CodecError::header("malformed failure"));
    }
    // A status that a newer peer knows and this cell does not must not be read as *refused*.
    let status = Status::from_wire(small(uint(r)?)?).unwrap_or(Status::PeerLost);
    let by = text(r, Fqcn::MAX_LEN)?
        .parse()
        .map_err(|_| CodecError::new(Status::BadFqcn, "not a cell name"))?;
    Ok((status, by))
}

fn trace(r: &mut &[u8]) -> Result<TraceContext, CodecError> {
    let bytes = bin(r, 25)?;
    bytes.try_into().map(TraceContext).map_err(|_| CodecError::header("malformed trace context"))
}

fn path(bytes: &[u8]) -> Result<Vec<HopRecord>, CodecError> {
    let path: Vec<HopRecord> = body::decode_exact(bytes)?;
    let fits = (1..=Extras::PATH_MAX).contains(&path.len())
        && path.iter().all(|hop| hop.rule.len() <= HopRecord::RULE_MAX);
    if fits { Ok(path) } else { Err(CodecError::header("the noted path is too long")) }
}
