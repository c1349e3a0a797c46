//! Opens the pieces of a sealed transfer as their bytes come in order, one piece in memory at a time.

use std::sync::Arc;

use super::{Layout, NotOpened, PieceId, SEALED_PIECE, SEALED_TAG, Sealer, Spot};
use crate::transfer::reference::Reference;

/// Opens pieces as their bytes come.
///
/// Where nobody knows the size, a whole piece is held until another byte comes, or none does: only then is it known
/// whether it is the last.
#[derive(Clone, Debug)]
pub struct Opener {
    sealer: Arc<Sealer>,
    layout: Arc<Layout>,
    /// The piece whose bytes come; `None` behind the last one.
    spot: Option<Spot>,
    pending: Vec<u8>,
}

/// Where an opener was, so that it can go back there. Holds the bytes of a piece that was not complete.
#[derive(Clone, Debug)]
pub struct OpenerMark {
    spot: Option<Spot>,
    pending: Vec<u8>,
}

impl Opener {
    /// An opener at the first byte of what `reference` describes.
    #[must_use]
    pub fn new(sealer: Arc<Sealer>, reference: &Reference) -> Self {
        let layout = Layout::of(reference);
        let spot = layout.spot(0);
        Self { sealer, layout: Arc::new(layout), spot, pending: Vec::new() }
    }

    /// Where the pieces lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What seals the pieces again.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// The next byte that it takes has this offset in what travels.
    #[must_use]
    pub fn position(&self) -> u64 {
        let end = || self.layout.sealed_size().unwrap_or(0);
        let start = self.spot.as_ref().map_or_else(end, |spot| spot.sealed.start);
        start + self.pending.len() as u64
    }

    /// Bytes of content that it has given out.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.spot.as_ref().map_or_else(
            || self.layout.content_before(self.layout.sealed_size().unwrap_or(0)),
            |spot| spot.content.start,
        )
    }

    /// Takes bytes from the front of `input` and gives the content of the next piece when it is complete. `None`
    /// when `input` is used up.
    ///
    /// # Errors
    /// [`NotOpened`]; nothing of that piece is given out, and there is no going on but from a mark.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, NotOpened> {
        loop {
            let Some(spot) = &self.spot else {
                let behind = NotOpened { part: u32::MAX, piece: 0 };
                return if input.is_empty() { Ok(None) } else { Err(behind) };
            };
            // No longer than a piece, by the layout.
            let whole = (spot.sealed.end - spot.sealed.start) as usize;
            if self.pending.len() == whole && (self.layout.is_known() || !input.is_empty()) {
                let id = spot.id;
                let end = spot.sealed.end;
                let content = self.sealer.open(id, std::mem::take(&mut self.pending))?;
                self.spot = self.layout.spot(end);
                return Ok(Some(content));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let (more, rest) = input.split_at(input.len().min(whole - self.pending.len()));
            if self.pending.is_empty() {
                self.pending.reserve_exact(whole.min(SEALED_PIECE));
            }
            self.pending.extend_from_slice(more);
            *input = rest;
        }
    }

    /// No more bytes come: gives the content of the last piece, where that was not known to be the last.
    ///
    /// # Errors
    /// [`NotOpened`] where bytes are missing, or the last piece is not sealed as the last.
    pub fn finish(&self) -> Result<Option<Vec<u8>>, NotOpened> {
        let Some(spot) = &self.spot else { return Ok(None) };
        let PieceId { part, piece, .. } = spot.id;
        let least = SEALED_TAG + usize::from(piece > 0);
        if self.layout.is_known() || self.pending.len() < least {
            return Err(NotOpened { part, piece });
        }
        let last = PieceId { part, piece, is_last: true };
        self.sealer.open(last, self.pending.clone()).map(Some)
    }

    /// Where it is.
    #[must_use]
    pub fn mark(&self) -> OpenerMark {
        OpenerMark { spot: self.spot.clone(), pending: self.pending.clone() }
    }

    /// Goes back, or on, to where a mark was made.
    pub fn go_to(&mut self, mark: &OpenerMark) {
        (self.spot, self.pending) = (mark.spot.clone(), mark.pending.clone());
    }

    /// Goes to the beginning of a piece, or to the end: `offset` of what travels.
    pub fn go_to_piece(&mut self, offset: u64) {
        self.pending.clear();
        self.spot = self.layout.spot(offset);
        debug_assert_eq!(self.position(), offset, "no piece begins there");
    }
}
