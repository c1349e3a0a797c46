//! Arrays of floating-point numbers have neither NaN nor infinity.

use super::{Filter, FilterMessage};

/// Media type of an array of `f32`, little endian, without a length.
pub const CONTENT_TYPE_F32: &str = "application/vnd.cellbus.f32";
/// Media type of an array of `f64`, little endian, without a length.
pub const CONTENT_TYPE_F64: &str = "application/vnd.cellbus.f64";

/// Stops arrays with a number that is not finite, and payloads that say to be arrays and are none. What is
/// not declared as one of [`CONTENT_TYPE_F32`] and [`CONTENT_TYPE_F64`] passes.
#[must_use]
pub fn finite_check() -> impl Filter {
    FiniteCheck
}

struct FiniteCheck;

impl Filter for FiniteCheck {
    fn name(&self) -> &str {
        "finite_check"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        let payload = &message.payload[..];
        let (whole, bad) = match message.content_type.as_deref() {
            Some(CONTENT_TYPE_F32) => (
                payload.len().is_multiple_of(4),
                numbers(payload).position(|le| !f32::from_le_bytes(le).is_finite()),
            ),
            Some(CONTENT_TYPE_F64) => (
                payload.len().is_multiple_of(8),
                numbers(payload).position(|le| !f64::from_le_bytes(le).is_finite()),
            ),
            Some(_) | None => return Ok(()),
        };
        match bad {
            _ if !whole => Err("the payload is not a whole number of elements".to_owned()),
            Some(index) => Err(format!("element {index} is not finite")),
            None => Ok(()),
        }
    }
}

fn numbers<const SIZE: usize>(payload: &[u8]) -> impl Iterator<Item = [u8; SIZE]> {
    payload.as_chunks::<SIZE>().0.iter().copied()
}
