//! What one run of a job is called by machines: a number that is drawn, not counted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Names one run of a job for ever, and cannot be guessed: a UUID of version 4, in its usual form with small letters.
///
/// Attempts are counted, and begin again where a server has lost what it knew. This is drawn by the server and
/// begins nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

/// A text that names no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of version 4 with small letters")]
pub struct BadRunId;

impl RunId {
    /// The name made of these random bytes, of which 122 bits are used.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = BadRunId;

    fn from_str(text: &str) -> Result<Self, BadRunId> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        let mut bytes = [0; 16];
        if digits.len() != 2 * bytes.len() {
            return Err(BadRunId);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadRunId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadRunId)?;
        }
        // One name has one spelling.
        Some(Self(bytes)).filter(|id| id.to_string() == text).ok_or(BadRunId)
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j_06_a_run_is_named_by_a_uuid_of_version_4_in_one_spelling() {
        let id = RunId::from_random([0xff; 16]);
        let text = "ffffffff-ffff-4fff-bfff-ffffffffffff";
        assert_eq!((id.to_string().as_str(), text.parse()), (text, Ok(id)));
        let low = RunId::from_random([0; 16]).to_string();
        assert_eq!(low, "00000000-0000-4000-8000-000000000000");
        for bad in
            ["", "../x", &text.to_uppercase(), &text.replace('-', ""), &format!("{text}0"), "+f"]
        {
            assert_eq!(bad.parse::<RunId>(), Err(BadRunId), "{bad:?}");
        }
    }
}
