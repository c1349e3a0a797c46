//! How the messages of a handler are run.

use std::num::NonZeroU32;

/// How the messages of a handler are run.
///
/// Default: those that one cell sends on one channel are handled one at a time, in the order in which they
/// were sent; what waits may take 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// Messages of one cell and channel that are handled at once.
    pub concurrency: NonZeroU32,
    /// Bytes that its messages may take while they wait for their turn, those of all cells together.
    pub queue_bytes: usize,
}

impl Default for HandlerOptions {
    fn default() -> Self {
        Self { concurrency: NonZeroU32::MIN, queue_bytes: 16 << 20 }
    }
}

impl HandlerOptions {
    /// As by default, but with at most `n` messages of one cell and channel at once. They still *start* in
    /// the order in which they were sent. Zero counts as one.
    ///
    /// A handler that asks back, so that the other cell asks again on the same channel before it answers,
    /// needs at least two, or each waits for the other until the budget is spent.
    #[must_use]
    pub fn concurrent(n: u32) -> Self {
        Self::default().concurrency(n)
    }

    /// At most `n` messages of one cell and channel at once. Default: one. Zero counts as one.
    #[must_use]
    pub fn concurrency(mut self, n: u32) -> Self {
        self.concurrency = NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// At most `bytes` of messages that wait, payloads and 256 bytes for each; further ones are refused as
    /// `OVERLOADED`. Default: 16 MiB. The cell's own limit holds besides.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }
}
