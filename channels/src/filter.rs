//! Filters: what may look at, change or stop a message at the ends of its way.
//!
//! Four [`Point`]s: a request before it leaves ([`RequestOut`](Point::RequestOut)) and before its handler
//! sees it ([`RequestIn`](Point::RequestIn)); a reply before it leaves ([`ReplyOut`](Point::ReplyOut)) and
//! before its requester sees it ([`ReplyIn`](Point::ReplyIn)). A publish is a request that nobody answers.
//! All filters that match run, in the order in which they were added; adding one never removes or hides
//! another. A filter that fails or panics stops the message: nothing passes unfiltered. Messages of the
//! system itself pass no filter.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    status::Status,
    well_known,
};

use crate::handler::Selector;

mod finite;
mod json;
mod msgpack;
mod redact;
mod size;
#[cfg(test)]
mod tests;

pub use self::{
    finite::{CONTENT_TYPE_F32, CONTENT_TYPE_F64, finite_check},
    redact::{Redact, redact},
    size::size_limit,
};

/// Where on its way a message is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// At the sender, before the message leaves.
    RequestOut = 1,
    /// At the destination, before the handler sees the message.
    RequestIn = 2,
    /// At the destination, before a reply, a part of one, or a failure's detail leaves.
    ReplyOut = 4,
    /// At the sender, before the reply reaches whoever waits for it.
    ReplyIn = 8,
}

/// A message as a filter sees it. What it carries may be changed; who it is from and for may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterMessage {
    point: Point,
    peer: Fqcn,
    target: ChannelTopic,
    failure: Option<Status>,
    /// What it carries; the detail, where it says that a handler failed.
    pub payload: Bytes,
    /// Media type of the payload, as declared by whoever made it.
    pub content_type: Option<Arc<str>>,
    /// Headers of the application, opaque to every cell.
    pub headers: Bytes,
}

/// Looks at messages on the data path: it must not block, and should not allocate where it changes
/// nothing.
pub trait Filter: Send + Sync + 'static {
    /// A short name, for the status that its refusal ends in.
    fn name(&self) -> &str;

    /// Lets the message pass, changed or not.
    ///
    /// # Errors
    /// Why it must not pass, for people: a lower-case fragment that tells nothing of what was to be kept
    /// back.
    fn filter(&self, message: &mut FilterMessage) -> Result<(), String>;
}

/// A filter stopped a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter}: {reason}")]
pub struct FilterError {
    /// The filter's name.
    pub filter: String,
    /// What it says.
    pub reason: String,
    /// Where.
    pub point: Point,
}

/// The filters of one cell. Clones are one list.
#[derive(Clone, Default)]
pub struct Filters(Arc<List>);

#[derive(Default)]
struct List {
    /// The points that any filter stands at: a cell without filters pays for one load.
    points: AtomicU8,
    entries: RwLock<Arc<[Entry]>>,
}

#[derive(Clone)]
struct Entry {
    points: u8,
    selector: Selector,
    filter: Arc<dyn Filter>,
}

impl Point {
    /// Every point, in the order in which a message passes them.
    pub const ALL: [Self; 4] = [Self::RequestOut, Self::RequestIn, Self::ReplyOut, Self::ReplyIn];

    /// What a message that is stopped here ends in. Once the handler has run, its work has been done, and
    /// no status may say otherwise.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::RequestOut | Self::RequestIn => Status::FilterError,
            Self::ReplyOut | Self::ReplyIn => Status::HandlerFailed,
        }
    }
}

impl FilterMessage {
    /// A message with no content type and no headers, at `point`, from or for `peer`.
    #[must_use]
    pub fn new(point: Point, peer: Fqcn, target: ChannelTopic, payload: Bytes) -> Self {
        Self {
            point,
            peer,
            target,
            failure: None,
            payload,
            content_type: None,
            headers: Bytes::new(),
        }
    }

    /// The same with a media type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: Option<Arc<str>>) -> Self {
        self.content_type = content_type;
        self
    }

    /// The same with headers of the application.
    #[must_use]
    pub fn with_headers(mut self, headers: Bytes) -> Self {
        self.headers = headers;
        self
    }

    /// The same, where it does not carry a reply but says that the handler failed with `status`.
    #[must_use]
    pub fn with_failure(mut self, status: Status) -> Self {
        self.failure = Some(status);
        self
    }

    /// Where it is filtered.
    #[must_use]
    pub fn point(&self) -> Point {
        self.point
    }

    /// The other cell: where it comes from, verified, or where it goes.
    #[must_use]
    pub fn peer(&self) -> &Fqcn {
        &self.peer
    }

    /// Channel and topic; those of the request, for a reply.
    #[must_use]
    pub fn target(&self) -> &ChannelTopic {
        &self.target
    }

    /// The status, where the payload is the detail of a failure.
    #[must_use]
    pub fn failure(&self) -> Option<Status> {
        self.failure
    }
}

impl FilterError {
    /// The status that the message ends in.
    #[must_use]
    pub fn status(&self) -> Status {
        self.point.status()
    }

    /// The detail that goes with the status: the filter's name and reason, at most 512 bytes.
    #[must_use]
    pub fn detail(&self) -> Bytes {
        const DETAIL_MAX: usize = 512;
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(DETAIL_MAX));
        text.into()
    }
}

impl Filters {
    /// Adds a filter behind all others, for what matches `selector`, at `points`.
    ///
    /// [`Selector::Channel`] and [`Selector::All`] match as they say, whether or not another filter
    /// matches more exactly: filters compose.
    pub fn add(
        &self,
        points: impl IntoIterator<Item = Point>,
        selector: impl Into<Selector>,
        filter: impl Filter,
    ) {
        let points = points.into_iter().fold(0, |all, point| all | point as u8);
        let entry = Entry { points, selector: selector.into(), filter: Arc::new(filter) };
        let mut entries = self.0.entries.write().unwrap_or_else(PoisonError::into_inner);
        *entries = entries.iter().cloned().chain([entry]).collect();
        self.0.points.fetch_or(points, Ordering::Release);
    }

    /// Whether any filter matches what is at `point`: without one, no [`FilterMessage`] need be made.
    #[must_use]
    pub fn applies(&self, point: Point, target: &ChannelTopic) -> bool {
        self.0.points.load(Ordering::Acquire) & point as u8 != 0
            && self.entries().iter().any(|entry| entry.matches(point, target))
            && well_known::lookup(target).is_none()
    }

    /// Passes a message through all filters that match.
    ///
    /// # Errors
    /// [`FilterError`] of the first that stops it; the message is gone.
    pub fn apply(&self, mut message: FilterMessage) -> Result<FilterMessage, FilterError> {
        if !self.applies(message.point, &message.target) {
            return Ok(message);
        }
        for entry in self.entries().iter() {
            if entry.matches(message.point, &message.target) {
                entry.run(&mut message)?;
            }
        }
        Ok(message)
    }

    fn entries(&self) -> Arc<[Entry]> {
        Arc::clone(&self.0.entries.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entry {
    fn matches(&self, point: Point, target: &ChannelTopic) -> bool {
        self.points & point as u8 != 0
            && match &self.selector {
                Selector::Exact(exact) => exact == target,
                Selector::Channel(channel) => channel == target.channel(),
                Selector::All => true,
            }
    }

    fn run(&self, message: &mut FilterMessage) -> Result<(), FilterError> {
        let point = message.point;
        // A message that a filter broke down on is dropped, whatever state it is in.
        match catch_unwind(AssertUnwindSafe(|| self.filter.filter(message))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(FilterError { filter: self.name(), reason, point }),
            Err(_panic) => {
                Err(FilterError { filter: self.name(), reason: "it panicked".to_owned(), point })
            }
        }
    }

    fn name(&self) -> String {
        catch_unwind(AssertUnwindSafe(|| self.filter.name().to_owned()))
            .unwrap_or_else(|_panic| "?".to_owned())
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.entries();
        f.debug_list().entries(names.iter().map(|entry| (&entry.selector, entry.name()))).finish()
    }
}
