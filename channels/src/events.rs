//! What a cell notices of its surroundings.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use cellbus_proto::name::Fqcn;
use futures_core::Stream;

use crate::transport::BoxStream;

/// Something has happened to a link or a job of this cell, or to a cell that is registered with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link is registered and carries messages.
    LinkUp(Fqcn),
    /// The link to this direct neighbour has ended.
    LinkDown(Fqcn),
    /// A cell has registered: at the server any cell of the project, elsewhere a direct child.
    CellUp(Fqcn),
    /// A cell is registered no longer.
    CellDown(Fqcn),
    /// A job has started or ended: at the cell that runs it, and its end at the server too.
    Job {
        /// The job's cell, whose parent is the cell that runs the job and whose base name is the job's.
        cell: Fqcn,
        /// What has become of it.
        change: JobChange,
    },
    /// The reader was too slow: this many events before the next one are missing.
    Lagged(u64),
}

/// What has become of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobChange {
    /// The process of its cell runs. That its cell has registered is a [`Event::CellUp`].
    Started,
    /// The process of its cell has ended, and the job did what it was for.
    Completed,
    /// The process of its cell has ended otherwise: its exit status, or the signal that ended it.
    Failed(String),
}

/// The events of a cell, from the moment of asking. Ends when the bus is closed.
///
/// At most 1024 events wait for the reader; then the oldest give way, and [`Event::Lagged`] says how many.
/// What the cell does never waits for a reader.
#[must_use = "a stream does nothing until it is polled"]
pub struct Events(BoxStream<Event>);

impl Events {
    pub(crate) fn new(stream: BoxStream<Event>) -> Self {
        Self(stream)
    }

    /// The next event; `None` when the bus is closed.
    ///
    /// # Cancellation
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        futures_util::StreamExt::next(&mut self.0).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
