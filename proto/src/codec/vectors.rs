//! The golden vectors in `tests/vectors/wire/v1`, which other implementations test themselves against,
//! and the tables of `docs/PROTOCOL.md`, which are held equal to the code.
//!
//! Files are compared. With `CELLBUS_WRITE_VECTORS=1` they are written, and so are the generated parts
//! of the document.

use bytes::{Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::{name::Fqcn, status::Status};

mod bad;
mod bodies;
mod document;
mod example;
mod files;
mod good;
mod model;
mod renewal;
mod signed;

/// Content of one pair of files.
struct Vector {
    name: String,
    bytes: Vec<u8>,
    json: Value,
}

/// One stream that is read as these frames.
struct Stream {
    name: &'static str,
    about: &'static str,
    frames: Vec<Frame>,
    bytes: Vec<u8>,
    /// Whether this is how the frames are written; otherwise only how they may be.
    canonical: bool,
}

impl Stream {
    fn written(name: &'static str, about: &'static str, frames: Vec<Frame>) -> Self {
        Self { name, about, bytes: encode_all(&frames), frames, canonical: true }
    }

    fn vector(&self) -> Vector {
        let frames: Vec<Value> = self.frames.iter().map(model::json_of).collect();
        let json = json!({ "about": self.about, "canonical": self.canonical, "frames": frames });
        Vector { name: self.name.to_owned(), bytes: self.bytes.clone(), json }
    }
}

fn encode_all(frames: &[Frame]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    for frame in frames {
        let mut out = BytesMut::new();
        let tail = encoder.encode(frame, &mut out);
        bytes.extend_from_slice(&out);
        bytes.extend_from_slice(tail.as_deref().unwrap_or_default());
    }
    bytes
}

/// The frames of a stream, and why it cannot be read on where that is so.
fn decode_all(limits: FrameLimits, bytes: &[u8]) -> (Vec<Frame>, Result<usize, Status>) {
    let mut decoder = Decoder::new(limits);
    let mut frames = Vec::new();
    let outcome = decoder.feed(Bytes::copy_from_slice(bytes), |frame| {
        frames.push(frame);
        true
    });
    (frames, outcome.map(|()| decoder.pending()).map_err(|error| error.status))
}

fn all_streams() -> Vec<Stream> {
    [
        good::control(),
        good::messages(),
        good::limits(),
        good::tolerated(),
        example::streams(),
        good::conduits(),
        good::clocks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn a_good_stream_is_read_as_what_stands_beside_it_and_written_like_that() {
    for stream in all_streams() {
        let Stream { name, frames, bytes, canonical, .. } = &stream;
        let (read, rest) = decode_all(FrameLimits::default(), bytes);
        assert_eq!(rest, Ok(0), "{name}");
        assert_eq!(&read, frames, "{name}");
        let again = encode_all(&read);
        assert_eq!(again == *bytes, *canonical, "{name}: {}", hex::encode(&again));
        assert_eq!(&decode_all(FrameLimits::default(), &again).0, frames, "{name}");
    }
}

/// `model` is written from the document and shares nothing with the codec but the test.
#[test]
fn a_second_implementation_writes_the_same_bytes() {
    for stream in all_streams().into_iter().filter(|stream| stream.canonical) {
        let frames: Vec<Value> = stream.frames.iter().map(model::json_of).collect();
        let written = model::encode_stream(&frames);
        assert_eq!(hex::encode(written), hex::encode(&stream.bytes), "{}", stream.name);
    }
}

#[test]
fn f_31_no_beginning_of_a_good_stream_gives_a_frame_that_is_not_complete() {
    for stream in all_streams() {
        let mut ends = vec![0];
        let mut rest = &stream.bytes[..];
        while !rest.is_empty() {
            let prefix = <[u8; PREFIX_LEN]>::try_from(&rest[..PREFIX_LEN]).unwrap();
            let [_, h1, h0, p3, p2, p1, p0] = prefix;
            let header = usize::from(u16::from_be_bytes([h1, h0]));
            let payload = u32::from_be_bytes([p3, p2, p1, p0]) as usize;
            rest = &rest[PREFIX_LEN + header + payload..];
            ends.push(stream.bytes.len() - rest.len());
        }
        for cut in 0..stream.bytes.len() {
            // Every frame is decoded anew for every cut: long streams are cut near the ends of frames.
            let end = ends.iter().rev().find(|end| **end <= cut).unwrap();
            if stream.bytes.len() > 6000 && !matches!(cut - end, 0..40) {
                continue;
            }
            let (frames, rest) = decode_all(FrameLimits::default(), &stream.bytes[..cut]);
            let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(frames[..], stream.frames[..complete], "{} cut at {cut}", stream.name);
            assert_eq!(rest, Ok(cut - end), "{} cut at {cut}", stream.name);
        }
    }
}

#[test]
fn good_files_are_these() {
    // What is new goes last, so that every file keeps its number.
    let late: Vec<Vector> = good::clocks().iter().map(Stream::vector).collect();
    let mut vectors: Vec<Vector> = all_streams().iter().map(Stream::vector).collect();
    vectors.truncate(vectors.len() - late.len());
    vectors.extend(bodies::good());
    vectors.extend(signed::transcripts());
    vectors.extend(signed::good_tokens());
    vectors.extend(late.into_iter().chain(renewal::good()));
    files::compare("good", &vectors);
}

#[test]
fn bad_files_are_these_and_give_the_code_that_stands_beside_them() {
    let (streams, late) = (bad::streams(), bad::clocks());
    for bad::Stream { name, limits, bytes, frames, code, .. } in streams.iter().chain(&late) {
        let (read, outcome) = decode_all(limits.limits(), bytes);
        assert_eq!(outcome.map_err(Status::code), Err(code.code()), "{name}");
        assert_eq!(read.len(), *frames, "{name}");
    }
    let mut vectors: Vec<Vector> = streams.iter().map(bad::Stream::vector).collect();
    vectors.extend(bodies::bad());
    vectors.extend(signed::bad_tokens());
    vectors.extend(late.iter().map(bad::Stream::vector).chain(renewal::bad()));
    files::compare("bad", &vectors);
}

fn name(text: &str) -> Fqcn {
    text.parse().expect("vectors use names")
}

/// `N` bytes that count up from `from`.
fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|index| from.wrapping_add(index as u8))
}

fn exact<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, Status> {
    body::decode_exact(bytes).map_err(|error| error.status)
}
