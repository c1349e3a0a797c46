//! Payloads are no larger than allowed.

use super::{Filter, FilterMessage};

/// Stops payloads of more than `max` bytes.
#[must_use]
pub fn size_limit(max: usize) -> impl Filter {
    SizeLimit { max }
}

struct SizeLimit {
    max: usize,
}

impl Filter for SizeLimit {
    fn name(&self) -> &str {
        "size_limit"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        let (len, max) = (message.payload.len(), self.max);
        if len > max { Err(format!("{len} bytes, the limit is {max}")) } else { Ok(()) }
    }
}
