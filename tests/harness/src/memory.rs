//! The memory of this process, by the kernel's account of it.

use std::fs;

/// What the peak grows by from here on. It is the process's: a test that measures has a binary of its own.
#[derive(Debug)]
pub struct Peak {
    before: u64,
}

impl Peak {
    /// Begins anew.
    ///
    /// # Panics
    /// Where `/proc` is not Linux's.
    #[must_use]
    pub fn begin() -> Self {
        let before = field("VmRSS:");
        fs::write("/proc/self/clear_refs", "5").expect("a process may reset its own peak");
        Self { before }
    }

    /// Bytes that the peak was above what there was at the beginning.
    ///
    /// # Panics
    /// As [`Self::begin`].
    #[must_use]
    pub fn growth(&self) -> u64 {
        field("VmHWM:").saturating_sub(self.before)
    }
}

/// In bytes.
fn field(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux keeps accounts");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
    let kib = line.trim().strip_suffix("kB").expect("a unit").trim();
    kib.parse::<u64>().expect("a number") * 1024
}
