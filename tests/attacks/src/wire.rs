//! Frames with anything in them.

use rmp::encode;

/// A msgpack value, or bytes that stand in the place of one.
#[derive(Clone, Debug)]
pub enum Mp {
    /// Nothing.
    Nil,
    /// A number, in its shortest form.
    U(u64),
    /// A number below zero.
    I(i64),
    /// A floating-point number.
    F(f64),
    /// A text.
    S(String),
    /// Bytes.
    B(Vec<u8>),
    /// An array.
    A(Vec<Mp>),
    /// A map, in this order, keys repeated or not.
    M(Vec<(Mp, Mp)>),
    /// These bytes as they are.
    Raw(Vec<u8>),
}

/// The header of a message with every element open to lies.
#[derive(Clone, Debug)]
pub struct Loose {
    /// 0 publish, 1 request, 2 reply, 3 return.
    pub kind: Mp,
    /// Sequence number.
    pub sequence: Mp,
    /// Origin: an introduction or a reference.
    pub origin: Mp,
    /// Destination.
    pub destination: Mp,
    /// Channel and topic.
    pub target: Mp,
    /// Session token.
    pub token: Mp,
    /// Budget in milliseconds.
    pub budget: Mp,
    /// Hops left.
    pub hops: Mp,
    /// Lane.
    pub lane: Mp,
    /// Flags.
    pub flags: Mp,
    /// Elements 11 and after.
    pub rest: Vec<Mp>,
}

/// A text.
#[must_use]
pub fn s(text: &str) -> Mp {
    Mp::S(text.to_owned())
}

impl Mp {
    /// Appends it to `out`.
    ///
    /// # Panics
    /// For more elements than msgpack can count.
    pub fn write(&self, out: &mut Vec<u8>) {
        const INFALLIBLE: &str = "memory takes every write";
        let len = |len: usize| u32::try_from(len).expect("no more than msgpack can count");
        match self {
            Self::Nil => encode::write_nil(out).expect(INFALLIBLE),
            Self::U(value) => drop(encode::write_uint(out, *value).expect(INFALLIBLE)),
            Self::I(value) => drop(encode::write_sint(out, *value).expect(INFALLIBLE)),
            Self::F(value) => encode::write_f64(out, *value).expect(INFALLIBLE),
            Self::S(text) => encode::write_str(out, text).expect(INFALLIBLE),
            Self::B(bytes) => encode::write_bin(out, bytes).expect(INFALLIBLE),
            Self::A(elements) => {
                encode::write_array_len(out, len(elements.len())).expect(INFALLIBLE);
                elements.iter().for_each(|element| element.write(out));
            }
            Self::M(pairs) => {
                encode::write_map_len(out, len(pairs.len())).expect(INFALLIBLE);
                for (key, value) in pairs {
                    key.write(out);
                    value.write(out);
                }
            }
            Self::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// The bytes of it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

impl Loose {
    /// As an array, which is what a header is.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let mut elements = vec![
            self.kind.clone(),
            self.sequence.clone(),
            self.origin.clone(),
            self.destination.clone(),
            self.target.clone(),
            self.token.clone(),
            self.budget.clone(),
            self.hops.clone(),
            self.lane.clone(),
            self.flags.clone(),
        ];
        elements.extend(self.rest.iter().cloned());
        Mp::A(elements).bytes()
    }

    /// As a map with the names of the fields, as other buses have it.
    #[must_use]
    pub fn map(&self, more: Vec<(Mp, Mp)>) -> Vec<u8> {
        let mut pairs = vec![
            (s("kind"), self.kind.clone()),
            (s("sequence"), self.sequence.clone()),
            (s("origin"), self.origin.clone()),
            (s("destination"), self.destination.clone()),
            (s("target"), self.target.clone()),
            (s("token"), self.token.clone()),
        ];
        pairs.extend(more);
        Mp::M(pairs).bytes()
    }

    /// The frame of a message with this header.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        frame(MESSAGE, &self.header(), payload)
    }
}

/// Number of the frame type HELLO.
pub const HELLO: u8 = 1;
/// Number of the frame type MESSAGE.
pub const MESSAGE: u8 = 3;
/// Number of the frame type BEAT.
pub const BEAT: u8 = 4;
/// Number of the frame type LANE.
pub const LANE: u8 = 6;

/// A frame that says the truth about its lengths.
///
/// # Panics
/// When they do not fit their fields.
#[must_use]
pub fn frame(kind: u8, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = u16::try_from(header.len()).expect("the length of a header has two bytes");
    let payload_len = u32::try_from(payload.len()).expect("that of a payload four");
    let mut bytes = prefix(kind, header_len, payload_len);
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(payload);
    bytes
}

/// The beginning of a frame, true or not.
#[must_use]
pub fn prefix(kind: u8, header: u16, payload: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&header.to_be_bytes());
    bytes.extend_from_slice(&payload.to_be_bytes());
    bytes
}
