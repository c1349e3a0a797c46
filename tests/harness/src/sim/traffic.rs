//! Counts of packets.

use std::ops::AddAssign;

/// What went over a path, or over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets sent, dropped ones included.
    pub packets: u64,
    /// Bytes of UDP payload in them.
    pub bytes: u64,
    /// Packets of those that were lost: by chance, by a cut, for their length, or because a buffer was full.
    pub dropped: u64,
    /// Packets of those that were lost for their length alone.
    pub too_long: u64,
    /// Packets that arrived twice.
    pub duplicated: u64,
    /// Packets that arrived changed.
    pub corrupted: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { packets, bytes, dropped, too_long, duplicated, corrupted } = other;
        self.packets += packets;
        self.bytes += bytes;
        self.dropped += dropped;
        self.too_long += too_long;
        self.duplicated += duplicated;
        self.corrupted += corrupted;
    }
}
