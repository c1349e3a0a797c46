//! The fields of a header: a msgpack array of exactly as many values as its frame has.

use bytes::{BufMut, BytesMut};
use rmp::{decode, encode};

const NIL: u8 = 0xc0;
const INFALLIBLE: &str = "a buffer in memory takes every byte";

/// A field that is not there, is of the wrong type, or is out of range; or bytes after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadField(pub &'static str);

/// Reads fields one after the other and owns nothing.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(header: &'a [u8], fields: u32) -> Result<Self, BadField> {
        let mut reader = Self { rest: header };
        reader.array(fields, "array")?;
        Ok(reader)
    }

    /// As [`Self::new`], where a header has one of several numbers of fields; gives which.
    pub(super) fn among(header: &'a [u8], fields: &[u32]) -> Result<(Self, u32), BadField> {
        let mut reader = Self { rest: header };
        let len = reader.array_len("array")?;
        if fields.contains(&len) { Ok((reader, len)) } else { Err(BadField("array")) }
    }

    pub(super) fn array(&mut self, fields: u32, name: &'static str) -> Result<(), BadField> {
        if self.array_len(name)? == fields { Ok(()) } else { Err(BadField(name)) }
    }

    /// How many values follow that belong together; nothing may be kept for them on this word alone.
    pub(super) fn array_len(&mut self, name: &'static str) -> Result<u32, BadField> {
        decode::read_array_len(&mut self.rest).map_err(|_| BadField(name))
    }

    pub(super) fn uint<T: TryFrom<u64>>(&mut self, name: &'static str) -> Result<T, BadField> {
        let value: u64 = decode::read_int(&mut self.rest).map_err(|_| BadField(name))?;
        value.try_into().map_err(|_| BadField(name))
    }

    pub(super) fn bool(&mut self, name: &'static str) -> Result<bool, BadField> {
        decode::read_bool(&mut self.rest).map_err(|_| BadField(name))
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<&'a str, BadField> {
        let len = decode::read_str_len(&mut self.rest).map_err(|_| BadField(name))?;
        std::str::from_utf8(self.slice(len, name)?).map_err(|_| BadField(name))
    }

    pub(super) fn bin(&mut self, name: &'static str) -> Result<&'a [u8], BadField> {
        let len = decode::read_bin_len(&mut self.rest).map_err(|_| BadField(name))?;
        self.slice(len, name)
    }

    /// `None` for nil, else what `read` finds.
    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, BadField>,
    ) -> Result<Option<T>, BadField> {
        match self.rest.split_first() {
            Some((&NIL, rest)) => {
                self.rest = rest;
                Ok(None)
            }
            Some(_) | None => read(self).map(Some),
        }
    }

    pub(super) fn finish(self) -> Result<(), BadField> {
        if self.rest.is_empty() { Ok(()) } else { Err(BadField("bytes after the last field")) }
    }

    fn slice(&mut self, len: u32, name: &'static str) -> Result<&'a [u8], BadField> {
        let len = usize::try_from(len).map_err(|_| BadField(name))?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(BadField(name))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Writes fields one after the other.
pub(super) struct Writer<'a>(&'a mut BytesMut);

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut, fields: u32) -> Self {
        Self(out).array(fields)
    }

    pub(super) fn array(self, fields: u32) -> Self {
        encode::write_array_len(&mut (&mut *self.0).writer(), fields).expect(INFALLIBLE);
        self
    }

    pub(super) fn uint(self, value: impl Into<u64>) -> Self {
        encode::write_uint(&mut (&mut *self.0).writer(), value.into()).expect(INFALLIBLE);
        self
    }

    pub(super) fn bool(self, value: bool) -> Self {
        encode::write_bool(&mut (&mut *self.0).writer(), value).expect(INFALLIBLE);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        encode::write_str(&mut (&mut *self.0).writer(), value).expect(INFALLIBLE);
        self
    }

    pub(super) fn bin(self, value: &[u8]) -> Self {
        encode::write_bin(&mut (&mut *self.0).writer(), value).expect(INFALLIBLE);
        self
    }

    pub(super) fn optional_uint(self, value: Option<impl Into<u64>>) -> Self {
        match value {
            Some(value) => self.uint(value),
            None => self.nil(),
        }
    }

    pub(super) fn optional_text(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => self.nil(),
        }
    }

    pub(super) fn nil(self) -> Self {
        self.0.put_u8(NIL);
        self
    }
}
