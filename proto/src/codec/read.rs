//! The msgpack values of a header: each in its shortest spelling, and in no other.
//!
//! Reads from the front of a slice. Nothing is allocated, and no length is believed before that many
//! bytes are there.

use super::CodecError;
use crate::status::Status;

const ENDS_EARLY: CodecError = CodecError::header("header ends early");
const SECOND_SPELLING: CodecError =
    CodecError::header("number or length is not in its shortest form");

/// Takes a nil, if one stands here.
#[inline]
pub(super) fn take_nil(r: &mut &[u8]) -> Result<bool, CodecError> {
    let nil = peek(r)? == 0xc0;
    if nil {
        *r = &r[1..];
    }
    Ok(nil)
}

/// The length of an introduction, or `None` where a reference stands.
#[inline]
pub(super) fn introduction(r: &mut &[u8]) -> Result<Option<u32>, CodecError> {
    if is_introduction(r)? { array(r).map(Some) } else { Ok(None) }
}

/// Whether an introduction stands here, and not a reference.
#[inline]
pub(super) fn is_introduction(r: &[u8]) -> Result<bool, CodecError> {
    Ok(matches!(peek(r)?, 0x90..=0x9f))
}

#[inline]
pub(super) fn uint(r: &mut &[u8]) -> Result<u64, CodecError> {
    let (value, least) = match byte(r)? {
        small @ 0..=0x7f => return Ok(small.into()),
        0xcc => (number(r, 1)?, 0x80),
        0xcd => (number(r, 2)?, 0x100),
        0xce => (number(r, 4)?, 0x1_0000),
        0xcf => (number(r, 8)?, 0x1_0000_0000),
        _ => return Err(CodecError::header("not an unsigned number")),
    };
    if value < least { Err(SECOND_SPELLING) } else { Ok(value) }
}

#[inline]
pub(super) fn small<T: TryFrom<u64>>(value: u64) -> Result<T, CodecError> {
    T::try_from(value).map_err(|_| CodecError::header("number out of range"))
}

/// The number of elements of an array, which follow.
#[inline]
pub(super) fn array(r: &mut &[u8]) -> Result<u32, CodecError> {
    let (len, least) = match byte(r)? {
        short @ 0x90..=0x9f => return Ok(u32::from(short & 0x0f)),
        0xdc => (number(r, 2)?, 0x10),
        0xdd => (number(r, 4)?, 0x1_0000),
        _ => return Err(CodecError::header("not an array")),
    };
    if len < least { Err(SECOND_SPELLING) } else { small(len) }
}

/// A string of at most `max` bytes.
pub(super) fn text<'b>(r: &mut &'b [u8], max: usize) -> Result<&'b str, CodecError> {
    let (len, least) = match byte(r)? {
        short @ 0xa0..=0xbf => (u64::from(short & 0x1f), 0),
        0xd9 => (number(r, 1)?, 0x20),
        0xda => (number(r, 2)?, 0x100),
        0xdb => (number(r, 4)?, 0x1_0000),
        _ => return Err(CodecError::header("not a string")),
    };
    let bytes = take(r, len, least, max)?;
    std::str::from_utf8(bytes).map_err(|_| CodecError::header("string is not UTF-8"))
}

/// At most `max` bytes.
pub(super) fn bin<'b>(r: &mut &'b [u8], max: usize) -> Result<&'b [u8], CodecError> {
    let (len, least) = match byte(r)? {
        0xc4 => (number(r, 1)?, 0),
        0xc5 => (number(r, 2)?, 0x100),
        0xc6 => (number(r, 4)?, 0x1_0000),
        _ => return Err(CodecError::header("not bytes")),
    };
    take(r, len, least, max)
}

/// What `read` reads, or nil.
pub(super) fn optional<'b, T>(
    r: &mut &'b [u8],
    read: impl FnOnce(&mut &'b [u8]) -> Result<T, CodecError>,
) -> Result<Option<T>, CodecError> {
    if take_nil(r)? { Ok(None) } else { read(r).map(Some) }
}

#[inline]
fn peek(r: &[u8]) -> Result<u8, CodecError> {
    r.first().copied().ok_or(ENDS_EARLY)
}

#[inline]
fn byte(r: &mut &[u8]) -> Result<u8, CodecError> {
    let (first, rest) = r.split_first().ok_or(ENDS_EARLY)?;
    *r = rest;
    Ok(*first)
}

/// A big-endian number of `width` bytes, at most eight.
#[inline]
fn number(r: &mut &[u8], width: usize) -> Result<u64, CodecError> {
    let (bytes, rest) = r.split_at_checked(width).ok_or(ENDS_EARLY)?;
    *r = rest;
    Ok(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn take<'b>(r: &mut &'b [u8], len: u64, least: u64, max: usize) -> Result<&'b [u8], CodecError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > max {
        return Err(CodecError::new(Status::TooLarge, "field is larger than allowed"));
    }
    if (len as u64) < least {
        return Err(SECOND_SPELLING);
    }
    let (taken, rest) = r.split_at_checked(len).ok_or(ENDS_EARLY)?;
    *r = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmp::encode;

    use super::*;

    proptest! {
        #[test]
        fn what_the_encoder_writes_is_read_back_and_nothing_is_left(
            value: u64, shift in 0u32..64, text_len in 0usize..70_000, len: u32,
        ) {
            let (value, len) = (value >> shift, len >> (shift % 32));
            let words = "x".repeat(text_len);
            let mut bytes = Vec::new();
            encode::write_uint(&mut bytes, value).unwrap();
            encode::write_array_len(&mut bytes, len).unwrap();
            encode::write_str(&mut bytes, &words).unwrap();
            encode::write_bin(&mut bytes, words.as_bytes()).unwrap();
            let r = &mut &bytes[..];
            prop_assert_eq!(uint(r), Ok(value));
            prop_assert_eq!(array(r), Ok(len));
            prop_assert_eq!(text(r, 70_000), Ok(&*words));
            prop_assert_eq!(bin(r, 70_000), Ok(words.as_bytes()));
            prop_assert!(r.is_empty());
        }
    }

    #[test]
    fn s_30_a_longer_spelling_of_a_number_or_length_is_refused() {
        let numbers: [&[u8]; 6] = [
            &[0xcc, 0x7f],
            &[0xcd, 0, 0xff],
            &[0xce, 0, 0, 0xff, 0xff],
            &[0xcf, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            &[0xd0, 1],
            &[0xd3, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        for bytes in numbers {
            assert!(uint(&mut &bytes[..]).is_err(), "{bytes:x?}");
        }
        assert!(array(&mut &[0xdc, 0, 15][..]).is_err());
        assert!(array(&mut &[0xdd, 0, 0, 0xff, 0xff][..]).is_err());
        assert!(text(&mut &[0xd9, 1, b'a'][..], 9).is_err());
        assert!(text(&mut &[0xda, 0, 1, b'a'][..], 9).is_err());
        assert!(text(&mut &[0xdb, 0, 0, 0, 1, b'a'][..], 9).is_err());
        assert!(bin(&mut &[0xc5, 0, 1, b'a'][..], 9).is_err());
        assert!(bin(&mut &[0xc6, 0, 0, 0, 1, b'a'][..], 9).is_err());
    }
}
