//! A source whose bytes are sealed as they are read: piece by piece, and every time to the same bytes.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use cellbus_proto::{
    name::Fqcn,
    transfer::{ContentKey, Layout, SEALED_TAG, SIZE_MAX, Seal, Sealer, TransferId, sealed_len},
};

use super::{super::error::SourceError, Content, Data, Segment, blocking};

/// A content and what seals it.
pub(in crate::transfer) struct SealedContent {
    content: Content,
    key: ContentKey,
    sealer: Arc<Sealer>,
    layout: Layout,
}

impl Content {
    /// This content sealed with `key`, as what travels, and the mark for its reference; as it is where there is
    /// no key.
    ///
    /// # Arguments
    /// Project, holder, id and generation of the transfer.
    pub(in crate::transfer) fn sealed_with(
        self,
        key: Option<&ContentKey>,
        (project, holder, id, generation): (&str, &Fqcn, &TransferId, u64),
    ) -> Result<(Self, Option<Seal>), SourceError> {
        let Some(key) = key else { return Ok((self, None)) };
        let sealer = Sealer::new(key, project, holder, id, generation);
        let lens: Vec<u64> = self.parts.iter().map(|part| part.len).collect();
        let layout = Layout::new(&lens, self.size);
        let size_max = match layout.sealed_size() {
            Some(size) if size > SIZE_MAX => return Err(SourceError::TooLarge(SIZE_MAX)),
            Some(size) => size,
            None => sealed_len(self.size_max).unwrap_or(SIZE_MAX),
        };
        let (size, parts, mark) = (layout.sealed_size(), self.parts.clone(), sealer.mark());
        let (key, sealer) = (key.clone(), Arc::new(sealer));
        let sealed = SealedContent { content: self, key, sealer, layout };
        let data = Data::Sealed(Arc::new(sealed));
        let segments = vec![Segment { start: 0, len: size_max, data }];
        Ok((Self { segments, parts, size, size_max }, Some(mark)))
    }

    /// What opens it, where it is sealed.
    pub(in crate::transfer) fn key(&self) -> Option<&ContentKey> {
        self.segments.iter().find_map(|segment| match &segment.data {
            Data::Sealed(sealed) => Some(&sealed.key),
            Data::Bytes(_) | Data::File(_) | Data::Spool(_) => None,
        })
    }
}

impl SealedContent {
    /// What is sealed.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// The rest of the piece that the byte at `offset` is in; none at the end.
    pub(super) async fn read(&self, offset: u64) -> Result<Bytes, SourceError> {
        let Some(spot) = self.layout.spot(offset) else { return Ok(Bytes::new()) };
        // No longer than a piece, by the layout.
        let want = (spot.content.end - spot.content.start) as usize;
        let mut content = Vec::with_capacity(want + SEALED_TAG);
        while content.len() < want {
            let bytes = self.content.read(spot.content.start + content.len() as u64).await?;
            if bytes.is_empty() {
                break;
            }
            content.extend_from_slice(&bytes[..bytes.len().min(want - content.len())]);
        }
        let is_whole = content.len() == want;
        let mut id = spot.id;
        if self.layout.is_known() {
            if !is_whole {
                return Err(SourceError::Changed);
            }
        } else {
            if content.is_empty() && id.piece > 0 {
                return Ok(Bytes::new());
            }
            // Which piece is the last one shows only when there is nothing behind it.
            id.is_last = !is_whole || self.content.read(spot.content.end).await?.is_empty();
        }
        let sealer = Arc::clone(&self.sealer);
        let sealed = blocking(move || Ok(Bytes::from(sealer.seal(id, content)))).await?;
        let within = usize::try_from(offset - spot.sealed.start).unwrap_or(usize::MAX);
        Ok(sealed.slice(within.min(sealed.len())..))
    }
}

impl fmt::Debug for SealedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealedContent").field(&self.content).finish()
    }
}
