//! Objects that are measured: their sizes in words, and what becomes of them at their end.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes in the largest object.
pub const OBJECT_MAX: u64 = 100_000_000_000;
/// Most relays between a server and its receivers.
pub const RELAYS_MAX: u32 = 2;

/// What becomes of an object where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Every byte is read, and dropped.
    Drop,
    /// It is delivered as one piece of memory.
    Keep,
    /// It comes from a file and becomes a durable file.
    File,
}

impl Keep {
    /// Its name in measures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Keep => "keep",
            Self::File => "file",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Drop, Self::Keep, Self::File].into_iter().find(|keep| keep.name() == name)
    }
}

/// Bytes of an object: a number and `kB`, `MB` or `GB`, in powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];

impl Size {
    /// Bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor));
        let (name, factor) = unit.unwrap_or(&("kB", 1000));
        write!(f, "{}{name}", self.0 / factor)
    }
}

/// A text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSize;

impl FromStr for Size {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let split =
            UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, factor)));
        let (number, factor) = split.ok_or(NoSize)?;
        if number.starts_with('0') || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoSize);
        }
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor));
        bytes.filter(|bytes| (1..=OBJECT_MAX).contains(bytes)).map(Self).ok_or(NoSize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_in_their_largest_unit() {
        for (text, bytes) in [("1GB", 1_000_000_000), ("100MB", 100_000_000), ("5kB", 5000)] {
            let size: Size = text.parse().expect("a size");
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        }
        for bad in
            ["", "GB", "1", "0GB", "01MB", "1gb", "+1GB", "1.5GB", "101GB", "99999999999999GB"]
        {
            assert_eq!(bad.parse::<Size>(), Err(NoSize), "{bad}");
        }
    }
}
