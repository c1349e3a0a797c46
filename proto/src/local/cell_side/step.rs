//! What a frame of job code asks its cell to do.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;

use super::super::{Body, MessageOptions, Outcome};
use crate::{
    name::{Channel, ChannelTopic, Fqcn},
    status::Status,
};

/// What a frame asks the caller to do. What belongs to an id is ended with
/// [`CellSide::end_request`](super::CellSide::end_request), once.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<D> {
    /// Send a request.
    Request {
        /// Its id.
        id: u64,
        /// Where to.
        to: Fqcn,
        /// Where there.
        target: ChannelTopic,
        /// Time until job code gives up.
        budget: Duration,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Box<MessageOptions>,
    },
    /// Send a publish.
    Publish {
        /// Its id.
        id: u64,
        /// Where to.
        to: Fqcn,
        /// Where there.
        target: ChannelTopic,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Box<MessageOptions>,
    },
    /// Send one message to many cells.
    Multicast {
        /// Its id.
        id: u64,
        /// Where to; `None` for all that are registered below this cell.
        to: Option<Vec<Fqcn>>,
        /// Where there.
        target: ChannelTopic,
        /// Whether it wants no replies.
        publish: bool,
        /// Time until job code gives up.
        budget: Duration,
        /// The message.
        body: Body,
        /// What else job code asks for.
        options: Box<MessageOptions>,
    },
    /// Register a handler.
    Handle {
        /// Its id.
        id: u64,
        /// What for.
        registration: Registration,
        /// Messages of one cell and channel that are delivered at once.
        concurrency: NonZeroU32,
    },
    /// Tell job code what happens around the cell.
    Events {
        /// Its id.
        id: u64,
    },
    /// Serve a file.
    Serve {
        /// Its id.
        id: u64,
        /// The file, and for whom.
        serve: ServeStep,
    },
    /// Fetch what a reference stands for.
    Fetch {
        /// Its id.
        id: u64,
        /// The reference.
        reference: Bytes,
        /// Bytes at most.
        size_max: u64,
        /// Without progress at most; `None` for the default.
        patience: Option<Duration>,
    },
    /// Answer with RETURN; nothing is kept for the id.
    Refuse {
        /// Of what was asked.
        id: u64,
        /// Why.
        status: Status,
    },
    /// Answer with HANDLED; nothing is kept for the id.
    RefuseHandler {
        /// Of the HANDLE.
        id: u64,
        /// Why.
        outcome: Outcome,
    },
    /// Hand a reply, which more follow, to whoever waits for the delivery.
    Part {
        /// Of the delivery, whose ticket is [`CellSide::delivery`](super::CellSide::delivery).
        id: u64,
        /// The reply.
        body: Body,
    },
    /// Hand the answer to whoever waits for it.
    Answered {
        /// What was kept for the delivery.
        ticket: D,
        /// The answer.
        answer: Answer,
    },
    /// Stop working on what was asked, and end it.
    Cancel {
        /// Its id.
        id: u64,
    },
    /// Answer with PONG.
    Pong {
        /// Of the PING.
        token: u64,
    },
    /// Nothing.
    Nothing,
    /// Job code is done.
    Bye,
}

/// A file that is to be served.
#[derive(Debug, PartialEq, Eq)]
pub struct ServeStep {
    /// For whom; `None` for the cells of this job.
    pub to: Option<Vec<Fqcn>>,
    /// Whose rules hold for it.
    pub target: ChannelTopic,
    /// For how long; `None` for the default.
    pub lifetime: Option<Duration>,
    /// Media type of the bytes.
    pub content_type: Option<Arc<str>>,
    /// Headers of the application.
    pub headers: Bytes,
    /// Bytes in the file.
    pub size: u64,
}

/// How job code ended a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a reply.
    Reply(Body),
    /// Without one.
    Fail {
        /// Why.
        status: Status,
        /// A text for the requester.
        detail: Bytes,
    },
}

/// What a handler of job code is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// One channel and topic.
    Exact(ChannelTopic),
    /// Every topic of a channel.
    Channel(Channel),
    /// Everything that is not of the system.
    All,
}
