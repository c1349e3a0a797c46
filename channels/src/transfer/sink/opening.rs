//! A sink of what is sealed: pieces are opened as they come, and the sink within gets the content.
//!
//! To the one outside, all offsets are those of what travels; to the one within, those of the content. What is durable
//! within is whole pieces. After a restart they are sealed again, to the same bytes, for the digest of what has come.

use std::{collections::VecDeque, fs::File, sync::Arc};

use bytes::Bytes;
use cellbus_proto::transfer::{
    ContentKey, Digest, KeyError, Opener, OpenerMark, Reference, SEALED_TAG, SIZE_MAX, Sealer,
    SignedReference, Stage, sealed_len,
};

use self::writer::OpeningWriter;
use super::{super::error::SinkError, Found, Kind, Sink, Store, Syncing};

#[cfg(test)]
mod tests;
mod writer;

/// Places that a pull may go back to, besides the beginning: what is durable, and what is being made so, which is
/// twice at most.
const MARKS: usize = 3;

impl Sink {
    /// This sink, for what `reference` describes: as it is where that is not sealed, and opening it otherwise.
    ///
    /// # Errors
    /// [`KeyError`] where reference and key do not go together.
    pub(in crate::transfer) fn opening(
        self,
        reference: &Reference,
        project: &str,
        key: Option<&ContentKey>,
    ) -> Result<Self, KeyError> {
        let (Some(sealer), Some(key)) = (Sealer::of(reference, project, key)?, key) else {
            return Ok(self);
        };
        let opener = Opener::new(Arc::new(sealer), reference);
        Ok(match self.0 {
            Kind::Store(inner) => Self::store(Opening {
                inner,
                key: key.clone(),
                project: project.to_owned(),
                opener: Some(opener),
                marks: VecDeque::new(),
                ended_with: None,
            }),
            Kind::Writer(writer, cap) => {
                let tags = reference.size.zip(reference.content_size());
                let cap = match tags.map(|(size, content)| size.saturating_sub(content)) {
                    Some(tags) => cap.saturating_add(tags),
                    None => sealed_len(cap).unwrap_or(SIZE_MAX),
                };
                Self(Kind::Writer(Box::pin(OpeningWriter::new(writer, opener)), cap))
            }
        })
    }
}

struct Opening {
    inner: Box<dyn Store>,
    key: ContentKey,
    project: String,
    /// `None` where the key is not that of what is fetched by now.
    opener: Option<Opener>,
    /// Ascending.
    marks: VecDeque<(u64, OpenerMark)>,
    /// Bytes of the piece that was last, once it has been written.
    ended_with: Option<u64>,
}

impl Opening {
    /// Everything is to come.
    fn start(&mut self, reference: &Reference) {
        let sealer = Sealer::of(reference, &self.project, Some(&self.key)).ok().flatten();
        self.opener = sealer.map(|sealer| Opener::new(Arc::new(sealer), reference));
        self.marks.clear();
        self.ended_with = None;
    }

    fn opener(&mut self) -> Result<&mut Opener, SinkError> {
        self.opener.as_mut().ok_or(SinkError::BrokenOff)
    }

    fn mark(&mut self, at: u64, mark: OpenerMark) {
        self.marks.push_back((at, mark));
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }
}

impl Store for Opening {
    fn open(&mut self, signed: &SignedReference) -> Result<Option<Found>, SinkError> {
        self.start(&signed.reference);
        let found = self.inner.open(signed)?;
        let opener = self.opener()?;
        let Some(Found { durable, stage }) = found else { return Ok(None) };
        if matches!(stage, Stage::Verified(_)) {
            let sealed = opener.layout().sealed_size().or_else(|| sealed_len(durable));
            return Ok(sealed.map(|durable| Found { durable, stage }));
        }
        let begins = opener.layout().last_beginning(durable);
        let content = opener.layout().content_before(begins);
        opener.go_to_piece(begins);
        let mark = opener.mark();
        self.mark(begins, mark);
        if content < durable {
            self.inner.rewind(content)?;
        }
        Ok((begins > 0).then_some(Found { durable: begins, stage }))
    }

    fn change(&mut self, signed: &SignedReference) {
        self.start(&signed.reference);
        self.inner.change(signed);
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), SinkError> {
        let opener = self.opener.as_mut().ok_or(SinkError::BrokenOff)?;
        while let Some(content) = opener.push(&mut bytes)? {
            if !content.is_empty() {
                self.inner.write(&content)?;
            }
        }
        Ok(())
    }

    fn sync(&mut self, to: u64) -> Option<Syncing> {
        let opener = self.opener.as_ref()?;
        let (mark, opened) = (opener.mark(), opener.opened());
        self.mark(to, mark);
        self.inner.sync(opened)
    }

    fn probe(&mut self, bytes: u64) -> Result<(), SinkError> {
        self.inner.probe(bytes)
    }

    fn rewind(&mut self, to: u64) -> Result<(), SinkError> {
        self.ended_with = None;
        let opener = self.opener.as_mut().ok_or(SinkError::BrokenOff)?;
        if to == 0 {
            opener.go_to_piece(0);
            self.marks.clear();
            return self.inner.rewind(0);
        }
        let place = self.marks.iter().position(|(at, _)| *at == to);
        let place = place.ok_or(SinkError::NoWayBack)?;
        opener.go_to(&self.marks[place].1);
        self.marks.truncate(place + 1);
        self.inner.rewind(opener.opened())
    }

    fn read_back(&mut self, offset: u64, _want: usize) -> Result<Bytes, SinkError> {
        let opener = self.opener.as_ref().ok_or(SinkError::BrokenOff)?;
        let spot = opener.layout().spot(offset).filter(|spot| spot.sealed.start == offset);
        let Some(spot) = spot else { return Ok(Bytes::new()) };
        // No longer than a piece, by the layout.
        let want = (spot.content.end - spot.content.start) as usize;
        let mut content = Vec::with_capacity(want);
        while content.len() < want {
            let at = spot.content.start + content.len() as u64;
            let bytes = self.inner.read_back(at, want - content.len())?;
            if bytes.is_empty() {
                return Ok(Bytes::new());
            }
            content.extend_from_slice(&bytes);
        }
        Ok(opener.sealer().seal(spot.id, content).into())
    }

    fn commit(&mut self, _size: u64, digest: Digest) -> Result<(), SinkError> {
        let opener = self.opener.as_ref().ok_or(SinkError::BrokenOff)?;
        let opened = opener.opened();
        let last = match self.ended_with {
            Some(last) => last,
            None => {
                let last = opener.finish()?.unwrap_or_default();
                if !last.is_empty() {
                    self.inner.write(&last)?;
                }
                last.len() as u64
            }
        };
        self.ended_with = Some(last);
        self.inner.commit(opened + last, digest)
    }

    fn settle(&mut self) {
        self.inner.settle();
    }

    fn discard(&mut self) {
        self.inner.discard();
    }

    fn take(&mut self) -> Option<Bytes> {
        self.inner.take()
    }

    fn take_file(&mut self) -> Option<File> {
        self.inner.take_file()
    }

    /// The sink within decides on the content; this is more than what travels of as much, whatever its parts are.
    fn cap(&self) -> u64 {
        let tags = (Reference::PARTS_MAX * SEALED_TAG) as u64;
        sealed_len(self.inner.cap()).unwrap_or(SIZE_MAX).saturating_add(tags)
    }

    fn describe(&self) -> String {
        format!("{}, opened on the way", self.inner.describe())
    }
}
