//! BLAKE3 over what has arrived in order, with marks to go back to.

use std::{collections::VecDeque, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::codec::Octets;

/// The BLAKE3 hash of all bytes of a transfer, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(Octets<32>);

/// Bytes that are hashed at once, from a multiple of them on. BLAKE3 hashes up to sixteen chunks of a
/// KiB side by side, of subtrees that it is given whole; with pieces as packets bring them it makes a fifth of the speed.
const UNIT: usize = 32 << 10;

/// Hashes a transfer as it comes in, in pieces of any size.
///
/// About 2 KiB for itself and for each mark, and up to 32 KiB of what is put together. Whoever hashes on a thread of its
/// own takes it there, see [`super::Pull::take_digester`].
#[derive(Clone, Debug, Default)]
pub struct Digester {
    hasher: blake3::Hasher,
    /// What comes behind what `hasher` has, up to the next multiple of [`UNIT`].
    rest: Vec<u8>,
    /// Ascending; what the hasher was at each of these offsets.
    marks: VecDeque<(u64, blake3::Hasher)>,
    /// Where marks are made without being asked for: at multiples of this. Zero for none.
    every: u64,
}

/// No mark stands at the offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the digest cannot go back to byte {0}")]
pub struct NotKept(pub u64);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(blake3::hash(bytes).into())
    }

    /// The digest with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Octets(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }
}

impl Digester {
    /// A digester that marks every multiple of `every` by itself; none where that is zero.
    #[must_use]
    pub fn marking_every(every: u64) -> Self {
        Self { every, ..Self::default() }
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while self.every > 0 && !bytes.is_empty() {
            let left = usize::try_from(self.every - self.offset() % self.every);
            let (first, rest) = bytes.split_at(bytes.len().min(left.unwrap_or(usize::MAX)));
            self.put(first);
            bytes = rest;
            if self.offset().is_multiple_of(self.every) {
                self.mark();
            }
        }
        self.put(bytes);
    }

    /// Hashes whole units where they are; what is less waits for the rest of its unit.
    fn put(&mut self, bytes: &[u8]) {
        let (first, more) = bytes.split_at(bytes.len().min(self.room()));
        self.keep(first);
        if self.room() > 0 {
            return;
        }
        self.settle();
        let (units, rest) = more.split_at(more.len() - more.len() % UNIT);
        self.hasher.update(units);
        self.keep(rest);
    }

    /// Keeps what is less than a unit, without more memory than that: what is small is often all there is.
    fn keep(&mut self, bytes: &[u8]) {
        if !self.rest.is_empty() {
            self.rest.reserve_exact(UNIT - self.rest.len());
        }
        self.rest.extend_from_slice(bytes);
    }

    /// How many bytes the unit that has begun lacks; none where none has.
    fn room(&self) -> usize {
        let begun = usize::try_from(self.offset() % UNIT as u64).unwrap_or(0);
        if begun == 0 { 0 } else { UNIT - begun }
    }

    /// Hashes what waits.
    fn settle(&mut self) {
        self.hasher.update(&self.rest);
        self.rest.clear();
    }

    /// How many bytes have been hashed.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.hasher.count() + self.rest.len() as u64
    }

    /// Remembers where this is, for [`rewind`](Self::rewind).
    pub fn mark(&mut self) {
        let offset = self.offset();
        if self.marks.back().is_none_or(|(last, _)| *last < offset) {
            self.settle();
            self.marks.push_back((offset, self.hasher.clone()));
        }
    }

    /// Drops the marks below `offset`; nobody goes back behind it.
    pub fn forget_below(&mut self, offset: u64) {
        while self.marks.front().is_some_and(|(mark, _)| *mark < offset) {
            self.marks.pop_front();
        }
    }

    /// Goes back to `to`: the beginning, or where a mark stands.
    ///
    /// # Errors
    /// [`NotKept`] for any other offset; nothing has changed.
    pub fn rewind(&mut self, to: u64) -> Result<(), NotKept> {
        if to == self.offset() {
            return Ok(());
        }
        if to == 0 {
            *self = Self::marking_every(self.every);
            return Ok(());
        }
        let place = self.marks.iter().position(|(mark, _)| *mark == to).ok_or(NotKept(to))?;
        self.hasher = self.marks[place].1.clone();
        self.rest.clear();
        self.marks.truncate(place + 1);
        Ok(())
    }

    /// The digest of what has been hashed so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        let mut hasher = self.hasher.clone();
        Digest::from_bytes(hasher.update(&self.rest).finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.as_bytes(), f)
    }
}

impl FromStr for Digest {
    type Err = NotHex;

    fn from_str(text: &str) -> Result<Self, NotHex> {
        parse_hex(text).map(Self::from_bytes)
    }
}

/// The text is not as many lower-case hexadecimal digits as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the right number of lower-case hexadecimal digits")]
pub struct NotHex;

pub(super) fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

pub(super) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(NotHex),
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return Err(NotHex);
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn going_back_to_a_mark_gives_the_digest_of_what_comes_then(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..3000), 1..8),
            back in any::<prop::sample::Index>(),
            other in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            let (mut digester, mut whole, mut ends) = (Digester::default(), Vec::new(), vec![0]);
            for piece in &pieces {
                digester.update(piece);
                digester.mark();
                whole.extend_from_slice(piece);
                ends.push(whole.len());
                prop_assert_eq!(digester.finish(), Digest::of(&whole));
            }
            let to = *back.get(&ends);
            prop_assert_eq!(digester.rewind(to as u64), Ok(()));
            whole.truncate(to);
            whole.extend_from_slice(&other);
            digester.update(&other);
            prop_assert_eq!(digester.finish(), Digest::of(&whole));
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_digest_of_the_whole(
            lens in prop::collection::vec(prop_oneof![1..5000_usize, 30_000..140_000_usize], 1..12),
            marked in any::<prop::sample::Index>(),
        ) {
            let whole: Vec<u8> = (0..lens.iter().sum::<usize>()).map(|at| (at % 251) as u8).collect();
            let (mut digester, mut at, mut mark) = (Digester::default(), 0, 0);
            for (place, len) in lens.iter().enumerate() {
                digester.update(&whole[at..at + len]);
                at += len;
                if place == marked.index(lens.len()) {
                    digester.mark();
                    mark = at;
                }
            }
            prop_assert_eq!((digester.offset(), digester.finish()), (at as u64, Digest::of(&whole)));
            prop_assert_eq!(digester.rewind(mark as u64), Ok(()));
            digester.update(&whole[mark..]);
            prop_assert_eq!(digester.finish(), Digest::of(&whole));
        }
    }

    #[test]
    fn marks_are_made_at_multiples_however_the_bytes_come() {
        let mut digester = Digester::marking_every(8);
        digester.update(&[1; 5]);
        digester.update(&[1; 30]);
        for mark in [32, 24, 16, 8] {
            assert_eq!(digester.rewind(mark), Ok(()));
            assert_eq!(digester.finish(), Digest::of(&vec![1; mark as usize]));
        }
        assert_eq!(digester.rewind(16), Err(NotKept(16)), "it went back behind that");
    }

    #[test]
    fn what_was_not_marked_or_is_forgotten_cannot_be_gone_back_to() {
        let mut digester = Digester::default();
        for _ in 0..3 {
            digester.update(&[7; 10]);
            digester.mark();
        }
        digester.forget_below(20);
        for gone in [5, 10, 25, 31] {
            assert_eq!(digester.rewind(gone), Err(NotKept(gone)));
        }
        assert_eq!((digester.rewind(20), digester.offset()), (Ok(()), 20));
        assert_eq!(digester.rewind(30), Err(NotKept(30)));
        assert_eq!((digester.rewind(0), digester.finish()), (Ok(()), Digest::of(b"")));
    }

    #[test]
    fn a_digest_is_written_as_64_digits_and_read_from_nothing_else() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("{text}0")] {
            assert_eq!(bad.parse::<Digest>(), Err(NotHex), "{bad}");
        }
    }
}
