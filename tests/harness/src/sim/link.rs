//! What a path between two hosts does to packets.

use std::time::Duration;

/// What one direction between two hosts does to packets.
///
/// Fractions are of all packets, from 0 to 1. A packet meets, in this order: [`Self::mtu`], [`Self::buffer`],
/// [`Self::loss`], [`Self::corrupt`], [`Self::duplicate`], and then the delay.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSettings {
    /// Time that every packet takes. Default 10 ms, hence a round trip of 20 ms.
    pub delay: Duration,
    /// At most this much more, evenly distributed. Default 2 ms.
    pub jitter: Duration,
    /// Fraction that is lost. Default 0.
    pub loss: f64,
    /// Fraction that arrives twice. Default 0.
    pub duplicate: f64,
    /// Fraction in which one byte is changed, in the second half. Default 0.
    pub corrupt: f64,
    /// Whether packets may overtake one another, as far as `jitter` goes. Default no: as on most real paths,
    /// jitter then comes in bursts.
    pub reorder: bool,
    /// Bytes in the largest packet, IP and UDP headers (28 bytes, 48 for IPv6) included. Longer ones are lost
    /// without notice. Default 1500.
    pub mtu: usize,
    /// Bits that enter the path per second, headers included. Default `None`: any number.
    pub bits_per_second: Option<u64>,
    /// Bytes that may wait to enter the path when its rate is limited; what comes on top is lost. Default 128 KiB.
    pub buffer: usize,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: false,
            mtu: 1500,
            bits_per_second: None,
            buffer: 128 * 1024,
        }
    }
}
