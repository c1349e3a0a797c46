//! What is tried with bytes that nobody chose: one function per place where they come in.
//!
//! Each takes any bytes and panics when a promise is broken. `tests/replay.rs` feeds them the corpus
//! and its mutations with every test run; `libfuzzer/` feeds them what libFuzzer makes up.

mod frame;
mod local;
mod text;
mod token;
mod transfer;

pub use self::{
    frame::{frame, header},
    local::local_frame,
    text::{identity_uri, topology},
    token::token,
    transfer::transfer,
};

/// Takes any bytes, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("frame", frame),
    ("header", header),
    ("topology", topology),
    ("local_frame", local_frame),
    ("identity_uri", identity_uri),
    ("token", token),
    ("transfer", transfer),
];

/// Sizes to cut `data` into; the same for the same data.
fn cuts(data: &[u8]) -> impl Iterator<Item = usize> {
    let mut state = data.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let bits = (state >> 59) as u32;
        // Mostly a few bytes, at times a great many.
        Some(((state >> 33) as usize % (1 << (1 + bits % 12))).max(1))
    })
}
