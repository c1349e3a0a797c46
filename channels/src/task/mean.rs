//! The weighted mean of what sites have computed, array by array, and what does not belong into it.
//!
//! The checks keep broken numbers out. They are hygiene and no defence against poisoning: finite numbers can
//! do more harm than any of these.

use std::collections::BTreeMap;

use super::tensors::{BadTensors, Dtype, Tensor, Tensors, TensorsWriter};

/// Largest integer that a mean of integers is exact for.
const EXACT: u64 = 1 << 53;

/// A weighted mean that is being made. It holds one number of 8 bytes for each element, however many add
/// to it.
#[derive(Debug, Default)]
pub struct WeightedMean {
    sums: BTreeMap<String, Sum>,
    weight: f64,
    count: usize,
}

#[derive(Debug)]
struct Sum {
    dtype: Dtype,
    shape: Vec<u64>,
    values: Vec<f64>,
}

/// Why somebody's arrays are not added. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsound {
    /// The weight is no finite number above zero.
    #[error("a weight of {0}, which is no finite number above zero")]
    Weight(f64),
    /// An element is not a finite number.
    #[error("element {element} of tensor {tensor:?} is {value}")]
    NotFinite {
        /// Name of the array.
        tensor: String,
        /// Which element, from 0.
        element: usize,
        /// What it is.
        value: f64,
    },
    /// The elements are of a type that cannot be checked and averaged, or too large for it.
    #[error("tensor {0:?} holds values of which no mean can be made")]
    Uncheckable(String),
    /// The arrays are not those of the others: one more, one less, another type or shape.
    #[error("tensor {0:?} is not what the others have")]
    Differs(String),
    /// The sum of finite numbers is not finite any more.
    #[error("element {element} of tensor {tensor:?} overflows the sum")]
    Overflow {
        /// Name of the array.
        tensor: String,
        /// Which element, from 0.
        element: usize,
    },
    /// There is nothing in it.
    #[error("no tensors")]
    Empty,
}

/// Nothing has been added yet, so there is no mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mean of nothing")]
pub struct NoMean;

impl WeightedMean {
    /// Whether `tensors` could be added with `weight`.
    ///
    /// # Errors
    /// [`Unsound`], naming the array and the element.
    pub fn check(&self, tensors: &Tensors, weight: f64) -> Result<(), Unsound> {
        // Written so that a NaN fails: it is in no range.
        if !(weight > 0.0 && weight <= f64::MAX) {
            return Err(Unsound::Weight(weight));
        }
        if !(self.weight + weight).is_finite() {
            return Err(Unsound::Weight(weight));
        }
        if tensors.0.is_empty() {
            return Err(Unsound::Empty);
        }
        let missing = self.sums.keys().find(|name| !tensors.0.contains_key(*name));
        if let Some(name) = missing {
            return Err(Unsound::Differs(name.clone()));
        }
        for (name, tensor) in &tensors.0 {
            let sum = self.sums.get(name);
            let is_same =
                sum.is_none_or(|sum| sum.dtype == tensor.dtype && sum.shape == tensor.shape);
            if !is_same || (sum.is_none() && !self.sums.is_empty()) {
                return Err(Unsound::Differs(name.clone()));
            }
            let numbers = numbers(tensor).ok_or_else(|| Unsound::Uncheckable(name.clone()))?;
            for (element, value) in numbers.enumerate() {
                let value = value.ok_or_else(|| Unsound::Uncheckable(name.clone()))?;
                if !value.is_finite() {
                    return Err(Unsound::NotFinite { tensor: name.clone(), element, value });
                }
                let so_far = sum.and_then(|sum| sum.values.get(element)).copied().unwrap_or(0.0);
                if !value.mul_add(weight, so_far).is_finite() {
                    return Err(Unsound::Overflow { tensor: name.clone(), element });
                }
            }
        }
        Ok(())
    }

    /// As [`Self::check`], and from now on only what is like `tensors` can be added: whoever finds several sound
    /// before it adds any of them does not find two that do not go together.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn expect(&mut self, tensors: &Tensors, weight: f64) -> Result<(), Unsound> {
        self.check(tensors, weight)?;
        for (name, tensor) in &tensors.0 {
            self.sums.entry(name.clone()).or_insert_with(|| Sum {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                values: vec![0.0; tensor.data.len() / tensor.dtype.size() as usize],
            });
        }
        Ok(())
    }

    /// Adds `tensors`, which count `weight` times.
    ///
    /// # Errors
    /// As [`Self::check`]; nothing has been added then.
    pub fn add(&mut self, tensors: &Tensors, weight: f64) -> Result<(), Unsound> {
        self.expect(tensors, weight)?;
        for (sum, tensor) in self.sums.values_mut().zip(tensors.0.values()) {
            let numbers = numbers(tensor).into_iter().flatten().flatten();
            for (total, value) in sum.values.iter_mut().zip(numbers) {
                *total = value.mul_add(weight, *total);
            }
        }
        self.weight += weight;
        self.count += 1;
        Ok(())
    }

    /// The sum of the weights of all that were added.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean, in the types of what was added; integers are rounded to the nearest.
    ///
    /// # Errors
    /// [`NoMean`] when nothing was added.
    ///
    /// # Panics
    /// Never: what was added has types and shapes that fit.
    pub fn finish(self) -> Result<Tensors, NoMean> {
        if self.count == 0 {
            return Err(NoMean);
        }
        let mean = |sum: Sum| Tensor {
            dtype: sum.dtype,
            data: sum
                .values
                .iter()
                .flat_map(|total| bytes_of(sum.dtype, total / self.weight))
                .collect(),
            shape: sum.shape,
        };
        Ok(Tensors(self.sums.into_iter().map(|(name, sum)| (name, mean(sum))).collect()))
    }

    /// The bytes of the mean, in the form of [`Tensors`].
    ///
    /// # Errors
    /// [`NoMean`] when nothing was added.
    ///
    /// # Panics
    /// Never: what was added has types and shapes that fit.
    pub fn write(self) -> Result<bytes::Bytes, NoMean> {
        self.write_with(BTreeMap::new())
    }

    /// As [`Self::write`], with texts beside the arrays.
    ///
    /// # Errors
    /// As [`Self::write`].
    ///
    /// # Panics
    /// As [`Self::write`].
    pub fn write_with(self, metadata: BTreeMap<String, String>) -> Result<bytes::Bytes, NoMean> {
        let mut writer = TensorsWriter::default().metadata(metadata);
        for (name, tensor) in &self.finish()?.0 {
            let pushed: Result<(), BadTensors> = writer.push(name, tensor);
            pushed.expect("the mean has the shape of what was added");
        }
        Ok(writer.finish())
    }
}

type Numbers<'a> = Box<dyn Iterator<Item = Option<f64>> + 'a>;

/// The elements as numbers; `None` for one that a double cannot hold exactly, and instead of the iterator where
/// the type is no number.
fn numbers(tensor: &Tensor) -> Option<Numbers<'_>> {
    fn each<'a, const N: usize>(
        data: &'a [u8],
        read: impl Fn([u8; N]) -> Option<f64> + 'a,
    ) -> Option<Numbers<'a>> {
        Some(Box::new(data.as_chunks::<N>().0.iter().map(move |bytes| read(*bytes))))
    }
    let data = &tensor.data[..];
    match tensor.dtype {
        Dtype::F64 => each(data, |bytes| Some(f64::from_le_bytes(bytes))),
        Dtype::F32 => each(data, |bytes| Some(f32::from_le_bytes(bytes).into())),
        Dtype::F16 => each(data, |bytes| Some(half(u16::from_le_bytes(bytes)))),
        Dtype::BF16 => each(data, |bytes| {
            Some(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16).into())
        }),
        Dtype::I64 => each(data, |bytes| {
            let value = i64::from_le_bytes(bytes);
            (value.unsigned_abs() <= EXACT).then_some(value as f64)
        }),
        Dtype::U64 => each(data, |bytes| {
            let value = u64::from_le_bytes(bytes);
            (value <= EXACT).then_some(value as f64)
        }),
        Dtype::I32 => each(data, |bytes| Some(i32::from_le_bytes(bytes).into())),
        Dtype::U32 => each(data, |bytes| Some(u32::from_le_bytes(bytes).into())),
        Dtype::I16 => each(data, |bytes| Some(i16::from_le_bytes(bytes).into())),
        Dtype::U16 => each(data, |bytes| Some(u16::from_le_bytes(bytes).into())),
        Dtype::I8 => each(data, |bytes| Some(i8::from_le_bytes(bytes).into())),
        Dtype::U8 => each(data, |[byte]: [u8; 1]| Some(byte.into())),
        Dtype::Bool => None,
    }
}

/// An element of a mean. A mean of finite numbers lies between them, so every type holds it.
fn bytes_of(dtype: Dtype, value: f64) -> Vec<u8> {
    let whole = value.round();
    match dtype {
        Dtype::F64 => value.to_le_bytes().into(),
        Dtype::F32 => (value as f32).to_le_bytes().into(),
        Dtype::F16 => to_half(value).to_le_bytes().into(),
        Dtype::BF16 => to_bfloat(value).to_le_bytes().into(),
        Dtype::I64 => (whole as i64).to_le_bytes().into(),
        Dtype::U64 => (whole as u64).to_le_bytes().into(),
        Dtype::I32 => (whole as i32).to_le_bytes().into(),
        Dtype::U32 => (whole as u32).to_le_bytes().into(),
        Dtype::I16 => (whole as i16).to_le_bytes().into(),
        Dtype::U16 => (whole as u16).to_le_bytes().into(),
        Dtype::I8 => (whole as i8).to_le_bytes().into(),
        Dtype::U8 | Dtype::Bool => vec![whole as u8],
    }
}

/// A number of IEEE 754 binary16.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2_f64.powi(-24),
        0x1f if fraction == 0.0 => sign * f64::INFINITY,
        0x1f => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    }
}

/// The nearest number of IEEE 754 binary16, ties to even.
fn to_half(value: f64) -> u16 {
    let sign = u16::from(value.is_sign_negative()) << 15;
    let size = value.abs();
    // Below the smallest normal number all steps are 2^-24 wide; above, a 1024th of the power of two below.
    let exponent = if size < 2_f64.powi(-14) { -14 } else { size.log2().floor() as i32 };
    let steps = (size / 2_f64.powi(exponent - 10)).round_ties_even() as u32;
    // Rounding up to the next power of two carries into the exponent, as it should.
    let bits = ((exponent + 14) as u32) * 1024 + steps;
    sign | u16::try_from(bits.min(0x7c00)).expect("at most infinity")
}

/// The nearest number whose last 16 bits of binary32 are zero, ties to even.
fn to_bfloat(value: f64) -> u16 {
    let bits = (value as f32).to_bits();
    let rounded = bits + 0x7fff + (bits >> 16 & 1);
    (rounded >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_itself_again() {
        for bits in (0..=u16::MAX).filter(|bits| bits >> 10 & 0x1f != 0x1f) {
            assert_eq!(to_half(half(bits)), bits, "{bits:#06x}");
        }
        assert_eq!(to_half(65_519.0), 0x7bff);
        assert_eq!(to_half(1.0 + 1.0 / 2048.0), 0x3c00, "ties to even");
        assert_eq!(to_half(1.0 + 3.0 / 2048.0), 0x3c02);
    }

    #[test]
    fn every_bfloat_is_itself_again() {
        for bits in (0..=u16::MAX).filter(|bits| bits >> 7 & 0xff != 0xff) {
            assert_eq!(to_bfloat(f32::from_bits(u32::from(bits) << 16).into()), bits);
        }
    }
}
