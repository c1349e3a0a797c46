//! The mean of many models, number by number: memory of one model, whatever the number of contributions.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use cellbus_proto::{name::Fqcn, transfer::Reference};

use super::{gather::Combine, options::ServeOptions, source::Source};

/// Content type of what is a mean itself, with the weight that it has in its headers: the sum of the weights of what
/// was combined, 8 bytes, a big-endian binary64.
pub const MEAN_CONTENT_TYPE: &str = "application/vnd.cellbus.mean";

/// What the parts of a model consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Little-endian binary32, 4 bytes each.
    F32,
    /// Little-endian binary64, 8 bytes each.
    F64,
}

/// The weighted mean of contributions that have the same parts of the same lengths.
///
/// A contribution counts once, and one with content type [`MEAN_CONTENT_TYPE`] as often as its headers say. So a cell
/// on the way may combine what comes from below it and pass one mean on, and what is combined above is the same as if
/// everything had come there, up to the rounding of the numbers that travel.
///
/// # Units
/// 8 bytes of memory for each number of one model. A number that is none spoils its place in the mean, as in any
/// other sum.
#[derive(Debug)]
pub struct Mean {
    numbers: Numbers,
    /// What the first contribution has, in its order.
    parts: Vec<(String, Vec<f64>)>,
    weight: f64,
    contributions: u64,
    /// Of what is being combined: its weight, and how many of its parts have begun.
    coming: (f64, usize),
}

impl Numbers {
    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    fn each(self, bytes: &[u8]) -> impl Iterator<Item = f64> {
        bytes.chunks_exact(self.size()).map(move |number| match self {
            Self::F32 => number.first_chunk().map_or(0.0, |four| f32::from_le_bytes(*four).into()),
            Self::F64 => number.first_chunk().map_or(0.0, |eight| f64::from_le_bytes(*eight)),
        })
    }

    fn put(self, number: f64, into: &mut BytesMut) {
        match self {
            #[expect(clippy::cast_possible_truncation, reason = "the mean of such numbers is one")]
            Self::F32 => into.put_f32_le(number as f32),
            Self::F64 => into.put_f64_le(number),
        }
    }
}

impl Mean {
    /// The mean of models that consist of `numbers`.
    #[must_use]
    pub fn of(numbers: Numbers) -> Self {
        Self { numbers, parts: Vec::new(), weight: 0.0, contributions: 0, coming: (1.0, 0) }
    }

    /// How many were combined.
    #[must_use]
    pub fn contributions(&self) -> u64 {
        self.contributions
    }

    /// The weight of all of them together.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// `options` for what [`Self::into_source`] gives: they say that it is a mean, and its weight.
    #[must_use]
    pub fn describe(&self, options: ServeOptions) -> ServeOptions {
        let weight = Bytes::copy_from_slice(&self.weight.to_be_bytes());
        options.content_type(MEAN_CONTENT_TYPE).headers(weight)
    }

    /// The mean, with the parts that the contributions have; no bytes where there was none.
    ///
    /// Besides what this has, memory for one part is needed while it is made.
    #[must_use]
    pub fn into_source(self) -> Source {
        let (numbers, weight) = (self.numbers, self.weight);
        let bytes = move |totals: Vec<f64>| {
            let mut bytes = BytesMut::with_capacity(totals.len() * numbers.size());
            totals.iter().for_each(|total| numbers.put(total / weight, &mut bytes));
            Source::bytes(bytes.freeze())
        };
        let mut parts = self.parts;
        match parts.as_mut_slice() {
            [] => Source::bytes(Bytes::new()),
            [(name, totals)] if name.is_empty() => bytes(std::mem::take(totals)),
            _ => Source::object(parts.into_iter().map(|(name, totals)| (name, bytes(totals)))),
        }
    }

    fn weight_of(reference: &Reference) -> Result<f64, String> {
        if reference.content_type.as_deref() != Some(MEAN_CONTENT_TYPE) {
            return Ok(1.0);
        }
        let weight = <[u8; 8]>::try_from(&reference.headers.0[..]).map(f64::from_be_bytes);
        let weight = weight.ok().filter(|weight| weight.is_finite() && *weight > 0.0);
        weight
            .ok_or_else(|| "a mean says its weight in 8 bytes, and that it is positive".to_owned())
    }
}

impl Combine for Mean {
    fn check(&mut self, _from: &Fqcn, reference: &Reference) -> Result<(), String> {
        let weight = Self::weight_of(reference)?;
        let size = self.numbers.size() as u64;
        let content = reference.content_size().ok_or_else(|| "its size is not known".to_owned())?;
        let whole = [(String::new(), content)];
        let parts: Vec<(String, u64)> = match reference.parts.as_slice() {
            [] => whole.into(),
            parts => parts.iter().map(|part| (part.name.clone(), part.len)).collect(),
        };
        if let Some((name, len)) = parts.iter().find(|(_, len)| len % size != 0) {
            return Err(format!("part `{name}` has {len} bytes, and numbers have {size}"));
        }
        if self.contributions > 0 {
            let is_same = self.parts.len() == parts.len()
                && self.parts.iter().zip(&parts).all(|((name, totals), (its_name, its_len))| {
                    name == its_name && totals.len() as u64 * size == *its_len
                });
            if !is_same {
                return Err("its parts are not those of what was combined so far".to_owned());
            }
        } else {
            self.parts = parts.into_iter().map(|(name, _)| (name, Vec::new())).collect();
        }
        self.coming = (weight, 0);
        Ok(())
    }

    fn part(&mut self, _from: &Fqcn, name: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let (weight, begun) = self.coming;
        // Parts come in their order; those of no bytes do not come.
        let place = self.parts[begun..].iter().position(|(known, _)| known == name);
        let place = begun + place.ok_or_else(|| format!("part `{name}` was not announced"))?;
        self.coming.1 = place;
        let totals = &mut self.parts[place].1;
        let first = usize::try_from(offset).map_err(|_| "too large for memory".to_owned())?
            / self.numbers.size();
        let end = first + bytes.len() / self.numbers.size();
        if totals.len() < end {
            totals.resize(end, 0.0);
        }
        for (total, number) in totals[first..end].iter_mut().zip(self.numbers.each(bytes)) {
            *total += weight * number;
        }
        Ok(())
    }

    fn end(&mut self, _from: &Fqcn) {
        self.weight += self.coming.0;
        self.contributions += 1;
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mean of {} contributions with weight {}", self.contributions, self.weight)
    }
}

#[cfg(test)]
#[path = "tests/mean.rs"]
mod tests;
