//! One bit for each of the last ids of an origin.

/// Ids that are remembered below the highest.
pub(super) const WINDOW: u64 = 65_536;

/// Which of the last [`WINDOW`] ids have been seen.
#[derive(Debug)]
pub(super) struct Window {
    /// Bit `id % WINDOW` belongs to `id`, for the ids in `(top - WINDOW, top]`.
    bits: Box<[u64]>,
    top: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { bits: vec![0; (WINDOW / 64) as usize].into(), top: 0 }
    }
}

impl Window {
    /// Whether the id is older than what is remembered.
    pub(super) fn is_below(&self, id: u64) -> bool {
        self.top.checked_sub(id).is_some_and(|age| age >= WINDOW)
    }

    /// Whether the id has been seen; `false` below the window.
    pub(super) fn contains(&self, id: u64) -> bool {
        let (word, bit) = place(id);
        !self.is_below(id) && id <= self.top && self.bits[word] & bit != 0
    }

    /// Notes that the id has been seen, which may move the window. Has no effect below it.
    pub(super) fn insert(&mut self, id: u64) {
        if self.is_below(id) {
            return;
        }
        if id > self.top {
            if id - self.top >= WINDOW {
                self.bits.fill(0);
            } else {
                // A gap is as long as what was sent elsewhere in between; all of its bits are old ones.
                for passed in self.top + 1..=id {
                    let (word, bit) = place(passed);
                    self.bits[word] &= !bit;
                }
            }
            self.top = id;
        }
        let (word, bit) = place(id);
        self.bits[word] |= bit;
    }

    /// Takes back that the id has been seen.
    pub(super) fn remove(&mut self, id: u64) {
        if self.contains(id) {
            let (word, bit) = place(id);
            self.bits[word] &= !bit;
        }
    }
}

fn place(id: u64) -> (usize, u64) {
    let index = id % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_moves_with_the_highest_id() {
        let mut window = Window::default();
        window.insert(5);
        assert!(window.contains(5) && !window.contains(4) && !window.contains(6));
        window.insert(5 + WINDOW - 1);
        assert!(window.contains(5) && !window.is_below(5));
        window.insert(5 + WINDOW);
        assert!(!window.contains(5) && window.is_below(5) && !window.is_below(6));
        window.insert(u64::MAX);
        assert!(window.contains(u64::MAX) && window.is_below(5 + WINDOW));
    }

    proptest! {
        #[test]
        fn it_says_what_a_set_would_say(ids in prop::collection::vec(0u64..200_000, 0..200)) {
            let (mut window, mut set, mut top) = (Window::default(), BTreeSet::new(), 0u64);
            for id in ids {
                let below = id + WINDOW <= top;
                prop_assert_eq!(window.is_below(id), below);
                prop_assert_eq!(window.contains(id), !below && set.contains(&id));
                window.insert(id);
                if !below {
                    set.insert(id);
                }
                top = top.max(id);
            }
        }
    }
}
