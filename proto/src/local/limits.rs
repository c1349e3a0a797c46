//! What one connection may have outstanding; told to job code in WELCOME.

use std::time::Duration;

/// Bounds of one connection.
///
/// Worst case of memory at the cell, per connection: `bytes_max` for what job code sent and is not
/// answered, `requests_max * payload_max` for replies that job code does not read, `deliveries_bytes_max`
/// for deliveries, and one frame in each direction. What is attached lies in memory files and not in the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of payload in one frame.
    pub payload_max: u32,
    /// REQUEST, PUBLISH and HANDLE frames that have no answer yet.
    pub requests_max: u32,
    /// Bytes of payload in all of these together.
    pub bytes_max: u32,
    /// DELIVER frames that job code has not answered yet.
    pub deliveries_max: u32,
    /// Bytes of payload in all of these, and in those that wait for their turn, together.
    pub deliveries_bytes_max: u32,
    /// Handlers that job code may register.
    pub handlers_max: u32,
    /// Budget of a request that names none, in milliseconds.
    pub budget_ms: u32,
    /// Bytes of one payload that is passed as a descriptor.
    pub attachment_max: u64,
    /// Bytes of all of these that have not ended, in one direction.
    pub attached_max: u64,
}

/// Limits under which nothing could be sent, or a frame could be larger than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limits of the local socket are zero, above their ceiling, or smaller than one payload")]
pub struct BadLimits;

impl Limits {
    /// Bytes in the longest header; not negotiable.
    pub const HEADER_MAX: usize = 16 * 1024;
    /// The highest `payload_max`, in bytes.
    pub const PAYLOAD_CEILING: u32 = 64 << 20;
    /// The highest of every count, and the highest number of bytes for a total.
    pub const COUNT_CEILING: u32 = 1 << 16;
    /// The highest of the totals, in bytes.
    pub const BYTES_CEILING: u32 = 1 << 30;
    /// The highest of both limits for what is passed as descriptors, in bytes.
    pub const ATTACHED_CEILING: u64 = 1 << 40;

    /// Refuses limits under which the protocol could not work or would not be bounded.
    ///
    /// # Errors
    /// [`BadLimits`] as described there.
    pub fn check(&self) -> Result<(), BadLimits> {
        let payload = (1..=Self::PAYLOAD_CEILING).contains(&self.payload_max);
        let totals = [self.bytes_max, self.deliveries_bytes_max]
            .iter()
            .all(|total| (self.payload_max..=Self::BYTES_CEILING).contains(total));
        let counts = [self.requests_max, self.deliveries_max, self.handlers_max]
            .iter()
            .all(|count| (1..=Self::COUNT_CEILING).contains(count));
        let attached = self.attachment_max >= 1
            && (self.attachment_max..=Self::ATTACHED_CEILING).contains(&self.attached_max);
        let is_good = payload && totals && counts && attached && self.budget_ms > 0;
        if is_good { Ok(()) } else { Err(BadLimits) }
    }

    /// Budget of a request that names none.
    #[must_use]
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms.into())
    }
}

impl Default for Limits {
    /// 1 MiB inline, 256 requests and 16 MiB outstanding, 64 deliveries and 16 MiB, 256 handlers, 30 s;
    /// 4 GiB attached at once and 8 GiB in all.
    fn default() -> Self {
        Self {
            payload_max: 1 << 20,
            requests_max: 256,
            bytes_max: 16 << 20,
            deliveries_max: 64,
            deliveries_bytes_max: 16 << 20,
            handlers_max: 256,
            budget_ms: 30_000,
            attachment_max: 4 << 30,
            attached_max: 8 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_could_not_carry_one_payload_are_refused() {
        let good = Limits::default();
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Limits { payload_max: 0, ..good },
            Limits { payload_max: Limits::PAYLOAD_CEILING + 1, bytes_max: 1 << 30, ..good },
            Limits { bytes_max: good.payload_max - 1, ..good },
            Limits { deliveries_bytes_max: good.payload_max - 1, ..good },
            Limits { bytes_max: Limits::BYTES_CEILING + 1, ..good },
            Limits { requests_max: 0, ..good },
            Limits { deliveries_max: 0, ..good },
            Limits { handlers_max: Limits::COUNT_CEILING + 1, ..good },
            Limits { budget_ms: 0, ..good },
            Limits { attachment_max: 0, ..good },
            Limits { attached_max: good.attachment_max - 1, ..good },
            Limits { attached_max: Limits::ATTACHED_CEILING + 1, ..good },
        ] {
            assert_eq!(bad.check(), Err(BadLimits), "{bad:?}");
        }
    }
}
