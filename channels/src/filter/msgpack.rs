//! Msgpack with the values under some keys replaced, and every other byte as it was.

use rmp::Marker;

use super::redact::DEPTH_MAX;

/// The value with what stands under every text key that `is_hidden` replaced by `nil`; `None` where there
/// is none.
///
/// # Errors
/// What is wrong with the bytes; nested too deeply, and bytes behind the value, count as wrong.
pub(super) fn redact(
    bytes: &[u8],
    is_hidden: impl Fn(&str) -> bool,
) -> Result<Option<Vec<u8>>, String> {
    let mut scan = Scan { bytes, at: 0, copied: 0, out: None, is_hidden };
    scan.value(0, true)?;
    if scan.at != bytes.len() {
        return Err("bytes follow the value".to_owned());
    }
    if let Some(out) = &mut scan.out {
        out.extend_from_slice(&bytes[scan.copied..]);
    }
    Ok(scan.out)
}

struct Scan<'a, F> {
    bytes: &'a [u8],
    at: usize,
    copied: usize,
    out: Option<Vec<u8>>,
    is_hidden: F,
}

impl<'a, F: Fn(&str) -> bool> Scan<'a, F> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| "it is cut off".to_owned())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A length of `size` bytes, big endian.
    fn length(&mut self, size: usize) -> Result<usize, String> {
        Ok(self.take(size)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn skip(&mut self, len: usize) -> Result<(), String> {
        self.take(len).map(|_skipped| ())
    }

    fn value(&mut self, depth: usize, replaces: bool) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply".to_owned());
        }
        let marker = Marker::from_u8(self.take(1)?[0]);
        match marker {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                Ok(())
            }
            Marker::U8 | Marker::I8 => self.skip(1),
            Marker::U16 | Marker::I16 => self.skip(2),
            Marker::U32 | Marker::I32 | Marker::F32 => self.skip(4),
            Marker::U64 | Marker::I64 | Marker::F64 => self.skip(8),
            Marker::FixStr(len) => self.skip(len.into()),
            Marker::Str8 | Marker::Bin8 => self.sized(1, 0),
            Marker::Str16 | Marker::Bin16 => self.sized(2, 0),
            Marker::Str32 | Marker::Bin32 => self.sized(4, 0),
            Marker::FixExt1 => self.skip(2),
            Marker::FixExt2 => self.skip(3),
            Marker::FixExt4 => self.skip(5),
            Marker::FixExt8 => self.skip(9),
            Marker::FixExt16 => self.skip(17),
            Marker::Ext8 => self.sized(1, 1),
            Marker::Ext16 => self.sized(2, 1),
            Marker::Ext32 => self.sized(4, 1),
            Marker::FixArray(len) => self.array(len.into(), depth, replaces),
            Marker::Array16 => {
                let len = self.length(2)?;
                self.array(len, depth, replaces)
            }
            Marker::Array32 => {
                let len = self.length(4)?;
                self.array(len, depth, replaces)
            }
            Marker::FixMap(len) => self.map(len.into(), depth, replaces),
            Marker::Map16 => {
                let len = self.length(2)?;
                self.map(len, depth, replaces)
            }
            Marker::Map32 => {
                let len = self.length(4)?;
                self.map(len, depth, replaces)
            }
            Marker::Reserved => Err("it uses a reserved byte".to_owned()),
        }
    }

    fn sized(&mut self, size: usize, more: usize) -> Result<(), String> {
        let len = self.length(size)?;
        self.skip(len.saturating_add(more))
    }

    fn array(&mut self, len: usize, depth: usize, replaces: bool) -> Result<(), String> {
        (0..len).try_for_each(|_| self.value(depth + 1, replaces))
    }

    fn map(&mut self, len: usize, depth: usize, replaces: bool) -> Result<(), String> {
        for _ in 0..len {
            let key = self.at;
            self.value(depth + 1, replaces)?;
            let hides = replaces && self.is_hidden_key(key);
            let value = self.at;
            self.value(depth + 1, replaces && !hides)?;
            if hides {
                let out = self.out.get_or_insert_default();
                out.extend_from_slice(&self.bytes[self.copied..value]);
                out.push(Marker::Null.to_u8());
                self.copied = self.at;
            }
        }
        Ok(())
    }

    /// Whether the value from `start` to here is a text, or bytes, that names a hidden key.
    fn is_hidden_key(&self, start: usize) -> bool {
        let key = &self.bytes[start..self.at];
        let marker = Marker::from_u8(key[0]);
        let prefix = if matches!(marker, Marker::FixStr(_)) {
            1
        } else if matches!(marker, Marker::Str8 | Marker::Bin8) {
            2
        } else if matches!(marker, Marker::Str16 | Marker::Bin16) {
            3
        } else if matches!(marker, Marker::Str32 | Marker::Bin32) {
            5
        } else {
            return false;
        };
        std::str::from_utf8(&key[prefix..]).is_ok_and(&self.is_hidden)
    }
}
