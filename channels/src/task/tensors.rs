//! Named arrays in one piece of bytes: the safetensors form.
//!
//! 8 bytes with the length of a JSON object (little endian), the object, and the data of all arrays without a
//! gap. Every array names its type, its shape and where its data are. Source: the format's own description,
//! `huggingface/safetensors`, section "Format".

use std::{collections::BTreeMap, fmt};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess},
};

/// Media type of this form.
pub const CONTENT_TYPE_TENSORS: &str = "application/vnd.safetensors";

/// Bytes in the longest header.
const HEADER_MAX: u64 = 16 << 20;
/// Arrays that one piece may hold.
const TENSORS_MAX: usize = 65_536;
/// Dimensions of an array.
const RANK_MAX: usize = 32;
/// The key that names no array.
const METADATA: &str = "__metadata__";

/// Type of the elements of an array; all are little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

/// One array. Its data share the memory of what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Elements along each dimension, the last one varying fastest.
    pub shape: Vec<u64>,
    /// The elements.
    pub data: Bytes,
}

/// Arrays by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors(pub BTreeMap<String, Tensor>);

/// Puts arrays behind one another without holding them all at once.
#[derive(Debug, Default)]
pub struct TensorsWriter {
    metadata: BTreeMap<String, String>,
    entries: BTreeMap<String, Entry>,
    data: BytesMut,
}

/// What are no named arrays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTensors {
    /// It ends within its header, or the header says to be longer than 16 MiB.
    #[error("the header of the tensors is cut off or longer than {HEADER_MAX} bytes")]
    Header,
    /// The header is not JSON of the expected form.
    #[error("the header of the tensors, line {line} column {column}, is not of the expected form")]
    Json {
        /// Line in the header, from 1.
        line: usize,
        /// Column in the header, from 1.
        column: usize,
    },
    /// More than 65,536 arrays.
    #[error("more than {TENSORS_MAX} tensors")]
    TooMany,
    /// More than 32 dimensions, or more elements than can be counted.
    #[error("the shape of tensor {0:?} is out of range")]
    Shape(String),
    /// The data are not as long as type and shape say, or not where they should be: right behind one another.
    #[error("the data of tensor {0:?} are not where they must be")]
    Place(String),
    /// There are bytes that belong to no array.
    #[error("{0} bytes that belong to no tensor")]
    Rest(u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The entries of a header in the order in which they stand there, names given twice included, and its metadata.
struct Head(Vec<(String, Entry)>, BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Head;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
                let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        metadata = map.next_value()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Head(entries, metadata))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl Tensors {
    /// Reads named arrays. Their data are not copied.
    ///
    /// # Errors
    /// [`BadTensors`] when `bytes` are none, or have gaps, overlaps or anything beside.
    pub fn read(bytes: &Bytes) -> Result<Self, BadTensors> {
        Self::read_all(bytes).map(|(tensors, _)| tensors)
    }

    /// As [`Self::read`], with the texts that whoever wrote them has put beside the arrays.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(bytes: &Bytes) -> Result<(Self, BTreeMap<String, String>), BadTensors> {
        let (len, rest) = bytes.split_first_chunk::<8>().ok_or(BadTensors::Header)?;
        let len = u64::from_le_bytes(*len);
        let head = usize::try_from(len).ok().filter(|_| len <= HEADER_MAX);
        let head = head.and_then(|len| rest.get(..len)).ok_or(BadTensors::Header)?;
        let data = bytes.slice(8 + head.len()..);
        let Head(mut places, metadata) = serde_json::from_slice(head)
            .map_err(|error| BadTensors::Json { line: error.line(), column: error.column() })?;
        if places.len() > TENSORS_MAX {
            return Err(BadTensors::TooMany);
        }
        places.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut next = 0;
        let mut tensors = BTreeMap::new();
        for (name, Entry { dtype, shape, data_offsets: (begin, end) }) in places {
            let Some(size) = size_of(dtype, &shape) else { return Err(BadTensors::Shape(name)) };
            let is_next = begin == next && end.checked_sub(begin) == Some(size);
            if !is_next || end > data.len() as u64 || tensors.contains_key(&name) {
                return Err(BadTensors::Place(name));
            }
            let range = |at: u64| usize::try_from(at).expect("it is within the data");
            next = end;
            tensors
                .insert(name, Tensor { dtype, shape, data: data.slice(range(begin)..range(end)) });
        }
        match data.len() as u64 - next {
            0 => Ok((Self(tensors), metadata)),
            rest => Err(BadTensors::Rest(rest)),
        }
    }

    /// The bytes of these arrays.
    ///
    /// # Errors
    /// [`BadTensors::Shape`] and [`BadTensors::Place`] for an array whose data are not as long as it says.
    pub fn write(&self) -> Result<Bytes, BadTensors> {
        let mut writer = TensorsWriter::default();
        for (name, tensor) in &self.0 {
            writer.push(name, tensor)?;
        }
        Ok(writer.finish())
    }
}

impl TensorsWriter {
    /// Adds an array; a second one of the same name is refused.
    ///
    /// # Errors
    /// [`BadTensors::Shape`] and [`BadTensors::Place`].
    pub fn push(&mut self, name: &str, tensor: &Tensor) -> Result<(), BadTensors> {
        let size = size_of(tensor.dtype, &tensor.shape);
        let size = size.ok_or_else(|| BadTensors::Shape(name.to_owned()))?;
        if size != tensor.data.len() as u64 || name == METADATA || self.entries.contains_key(name) {
            return Err(BadTensors::Place(name.to_owned()));
        }
        let begin = self.data.len() as u64;
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        let entry = Entry { dtype, shape, data_offsets: (begin, begin + size) };
        self.entries.insert(name.to_owned(), entry);
        self.data.put_slice(&tensor.data);
        Ok(())
    }

    /// Puts texts beside the arrays. Default: none.
    #[must_use]
    pub fn metadata(mut self, metadata: BTreeMap<String, String>) -> Self {
        self.metadata = metadata;
        self
    }

    /// The bytes of all that were added. The data begin at a multiple of 8.
    ///
    /// # Panics
    /// Never: names, types and numbers have a form in JSON.
    #[must_use]
    pub fn finish(self) -> Bytes {
        #[derive(Serialize)]
        struct Head<'a> {
            #[serde(rename = "__metadata__", skip_serializing_if = "BTreeMap::is_empty")]
            metadata: &'a BTreeMap<String, String>,
            #[serde(flatten)]
            entries: &'a BTreeMap<String, Entry>,
        }
        let head = Head { metadata: &self.metadata, entries: &self.entries };
        let mut head = serde_json::to_vec(&head).expect("plain data");
        head.resize(head.len().next_multiple_of(8), b' ');
        let mut out = BytesMut::with_capacity(8 + head.len() + self.data.len());
        out.put_u64_le(head.len() as u64);
        out.put_slice(&head);
        out.unsplit(self.data);
        out.freeze()
    }
}

fn size_of(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |all, side| all.checked_mul(*side))?;
    elements.checked_mul(dtype.size()).filter(|_| shape.len() <= RANK_MAX)
}
