//! Where the pieces of a sealed transfer lie: as they travel, and as content.

use std::ops::Range;

use super::{PieceId, SEALED_CONTENT, SEALED_PIECE, SEALED_TAG};
use crate::transfer::{SIZE_MAX, reference::Reference};

const PIECE: u64 = SEALED_PIECE as u64;
const CONTENT: u64 = SEALED_CONTENT as u64;
const TAG: u64 = SEALED_TAG as u64;

/// Bytes of a part of `content` bytes when it is sealed; `None` where no transfer may have so many.
#[must_use]
pub fn sealed_len(content: u64) -> Option<u64> {
    let pieces = content.div_ceil(CONTENT).max(1);
    content.checked_add(pieces.checked_mul(TAG)?).filter(|sealed| *sealed <= SIZE_MAX)
}

/// Bytes of content in a part of `sealed` bytes; `None` where no part has so many.
#[must_use]
pub fn content_len(sealed: u64) -> Option<u64> {
    let content = sealed.checked_sub(sealed.div_ceil(PIECE).checked_mul(TAG)?)?;
    (sealed_len(content) == Some(sealed)).then_some(content)
}

/// Where the pieces of one transfer lie.
#[derive(Clone, Debug)]
pub struct Layout {
    /// One for each part, in order.
    runs: Vec<Run>,
    /// Where it ends, sealed and as content; `None` where nobody knows.
    end: Option<(u64, u64)>,
}

/// One part.
#[derive(Clone, Copy, Debug)]
struct Run {
    sealed: u64,
    content: u64,
    len: u64,
}

/// Where one piece lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Which piece it is. Where nobody knows the size, none is said to be the last.
    pub id: PieceId,
    /// Its place in the bytes that travel. Where nobody knows the size, it may be shorter.
    pub sealed: Range<u64>,
    /// Its place in the content.
    pub content: Range<u64>,
}

impl Layout {
    /// Of what `reference` describes, which is sealed.
    #[must_use]
    pub fn of(reference: &Reference) -> Self {
        let lens: Vec<u64> = reference.parts.iter().map(|part| part.len).collect();
        Self::new(&lens, reference.content_size())
    }

    /// Of parts with so much content each, or of `size` bytes of content that are no object.
    #[must_use]
    pub fn new(parts: &[u64], size: Option<u64>) -> Self {
        let lens = if parts.is_empty() { &[size.unwrap_or(SIZE_MAX)] } else { parts };
        let (mut sealed, mut content) = (0_u64, 0_u64);
        let mut runs = Vec::with_capacity(lens.len());
        for &len in lens {
            runs.push(Run { sealed, content, len });
            sealed = sealed.saturating_add(sealed_len(len).unwrap_or(SIZE_MAX));
            content = content.saturating_add(len);
        }
        let is_known = size.is_some() || !parts.is_empty();
        Self { runs, end: is_known.then_some((sealed, content)) }
    }

    /// Whether it is known where the transfer ends.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.end.is_some()
    }

    /// Bytes that travel in all, where that is known.
    #[must_use]
    pub fn sealed_size(&self) -> Option<u64> {
        self.end.map(|(sealed, _)| sealed)
    }

    /// The piece that the byte at `offset` of what travels is in; `None` behind the last one.
    #[must_use]
    pub fn spot(&self, offset: u64) -> Option<Spot> {
        if self.end.is_some_and(|(sealed, _)| offset >= sealed) {
            return None;
        }
        let number = self.runs.partition_point(|run| run.sealed <= offset).checked_sub(1)?;
        let run = self.runs.get(number)?;
        let piece = (offset - run.sealed) / PIECE;
        let before = piece * CONTENT;
        let len = run.len.checked_sub(before)?.min(CONTENT);
        let (sealed, content) = (run.sealed + piece * PIECE, run.content + before);
        let is_last = self.is_known() && before + len == run.len;
        Some(Spot {
            id: PieceId { part: u32::try_from(number).ok()?, piece, is_last },
            sealed: sealed..sealed + len + TAG,
            content: content..content + len,
        })
    }

    /// The last beginning of a piece, in what travels, before which lies no more than `content` bytes of
    /// content; the end where that is all of it.
    #[must_use]
    pub fn last_beginning(&self, content: u64) -> u64 {
        let number = self.runs.partition_point(|run| run.content <= content).saturating_sub(1);
        let Some(run) = self.runs.get(number) else { return 0 };
        let within = content - run.content;
        if within >= run.len && self.is_known() {
            return run.sealed + sealed_len(run.len).unwrap_or(0);
        }
        run.sealed + within / CONTENT * PIECE
    }

    /// Bytes of content before the piece that the byte at `offset` of what travels is in.
    #[must_use]
    pub fn content_before(&self, offset: u64) -> u64 {
        let end = || self.end.map_or(0, |(_, content)| content);
        self.spot(offset).map_or_else(end, |spot| spot.content.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENS: [u64; 9] =
        [0, 1, TAG, CONTENT - 1, CONTENT, CONTENT + 1, PIECE, 3 * CONTENT, 3 * CONTENT + 1];

    #[test]
    fn a_part_has_a_tag_for_every_piece_and_at_least_one() {
        for len in LENS {
            let sealed = sealed_len(len).unwrap();
            assert_eq!(sealed, len + TAG * len.div_ceil(CONTENT).max(1));
            assert_eq!(content_len(sealed), Some(len));
        }
        for none in [0, 1, TAG - 1, PIECE + 1, PIECE + TAG, 2 * PIECE + 3] {
            assert_eq!(content_len(none), None, "{none}");
        }
        assert_eq!(sealed_len(SIZE_MAX), None);
        assert_eq!(sealed_len(u64::MAX), None);
        assert_eq!(content_len(u64::MAX), None);
    }

    #[test]
    fn of_unknown_size_no_piece_is_the_last() {
        let layout = Layout::new(&[], None);
        let spot = layout.spot(5 * PIECE + 7).unwrap();
        assert_eq!(spot.id, PieceId { part: 0, piece: 5, is_last: false });
        assert_eq!((spot.sealed, spot.content.start), (5 * PIECE..6 * PIECE, 5 * CONTENT));
        assert_eq!(layout.last_beginning(3 * CONTENT + 1), 3 * PIECE);
        assert_eq!((layout.is_known(), layout.sealed_size()), (false, None));
    }

    proptest! {
        #[test]
        fn pieces_lie_behind_one_another_without_a_gap(
            parts in prop::collection::vec(prop::sample::select(&LENS[..]), 1..6),
        ) {
            let layout = Layout::new(&parts, None);
            let (mut sealed, mut content, mut lasts) = (0, 0, 0);
            while let Some(spot) = layout.spot(sealed) {
                prop_assert_eq!((spot.sealed.start, spot.content.start), (sealed, content));
                prop_assert_eq!(u64::from(spot.id.part), lasts);
                prop_assert_eq!(layout.spot(spot.sealed.end - 1), Some(spot.clone()));
                prop_assert_eq!(layout.content_before(spot.sealed.end - 1), content);
                lasts += u64::from(spot.id.is_last);
                (sealed, content) = (spot.sealed.end, spot.content.end);
                let back = layout.last_beginning(content);
                prop_assert!(back >= sealed && layout.content_before(back) == content);
            }
            prop_assert_eq!(layout.sealed_size(), Some(sealed));
            prop_assert_eq!(content, parts.iter().sum::<u64>());
            prop_assert_eq!(lasts, parts.len() as u64);
        }
    }
}
