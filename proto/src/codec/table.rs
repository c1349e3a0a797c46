//! Introduce once, refer afterwards: the names, targets and tokens of one stream, as small numbers.
//!
//! Source: the idea of HPACK's dynamic table (RFC 7541 section 2.3.2), with explicit positions.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Entries that the tables of one stream hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits;

impl TableLimits {
    /// Cell names, with or without incarnation.
    pub const ADDRESSES: usize = 1024;
    /// Channel and topic pairs.
    pub const TARGETS: usize = 256;
    /// Session tokens.
    pub const TOKENS: usize = 1024;
}

/// What the reading end of a stream was told.
#[derive(Debug)]
pub(super) struct ReadTable<T> {
    entries: Vec<T>,
    max: usize,
}

impl<T: Clone> ReadTable<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Vec::new(), max }
    }

    pub(super) fn entry(&self, handle: u64) -> Option<&T> {
        self.entries.get(usize::try_from(handle).ok()?)
    }

    /// Takes an introduction: the next free position, or one that is in use and means this from now on.
    #[must_use]
    pub(super) fn introduce(&mut self, handle: u64, entry: T) -> bool {
        let Ok(at) = usize::try_from(handle) else { return false };
        if at < self.entries.len() {
            self.entries[at] = entry;
            return true;
        }
        let next = at == self.entries.len() && at < self.max;
        if next {
            self.entries.push(entry);
        }
        next
    }
}

/// Hashes the address of an allocation, which is a good hash already.
#[derive(Default)]
pub(super) struct PointerHasher(u64);

impl Hasher for PointerHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_usize(&mut self, value: usize) {
        self.0 = (value as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What the writing end of a stream has told the other.
#[derive(Debug)]
pub(super) struct WriteTable<T> {
    entries: Vec<T>,
    by_value: BTreeMap<T, u16>,
    /// Shortcut for values that share an allocation with one that is in the table, which keeps the
    /// allocation alive for as long as it stands here.
    by_pointer: HashMap<usize, u16, BuildHasherDefault<PointerHasher>>,
    max: usize,
    replace_next: usize,
    /// The one that was asked for last: a stream carries many messages of one kind.
    last: (usize, u16),
}

impl<T: Clone + Ord> WriteTable<T> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: Vec::new(),
            by_value: BTreeMap::new(),
            by_pointer: HashMap::default(),
            max,
            replace_next: 0,
            last: (0, 0),
        }
    }

    /// The handle of `value`, and whether it must be introduced with it.
    pub(super) fn handle(&mut self, value: &T, pointer: usize) -> (u16, bool) {
        if self.last.0 == pointer {
            return (self.last.1, false);
        }
        if let Some(handle) = self.by_pointer.get(&pointer) {
            self.last = (pointer, *handle);
            return (*handle, false);
        }
        if let Some(handle) = self.by_value.get(value) {
            return (*handle, false);
        }
        let at = if self.entries.len() < self.max {
            self.entries.push(value.clone());
            self.entries.len() - 1
        } else {
            let at = self.replace_next;
            self.replace_next = (at + 1) % self.max;
            let old = std::mem::replace(&mut self.entries[at], value.clone());
            self.by_value.remove(&old);
            let handle = u16::try_from(at).expect("tables are small");
            self.by_pointer.retain(|_, known| *known != handle);
            self.last = (0, 0);
            at
        };
        let handle = u16::try_from(at).expect("tables are small");
        self.by_value.insert(value.clone(), handle);
        self.by_pointer.insert(pointer, handle);
        (handle, true)
    }
}
