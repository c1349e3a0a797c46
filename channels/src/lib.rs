//! The bus as application code sees it: requests, publishes, handlers, and nothing of how they travel.
//!
//! The same [`Bus`] is used inside a cell's own process and by job code that is connected through
//! the local socket of its job cell. No type here mentions an actor, a socket or a certificate.
#![warn(missing_docs)]

mod apart;
mod bus;
pub mod call;
pub mod conduit;
mod endpoint;
mod error;
mod events;
mod fan;
pub mod filter;
mod gather;
mod handler;
pub mod local;
mod message;
mod passage;
mod publisher;
mod queue;
pub mod replies;
pub mod task;
pub mod trace;
pub mod transfer;
mod transport;

pub use self::{
    apart::apart,
    bus::Bus,
    conduit::{
        Accepted, Broken, Conduit, ConduitHandler, ConduitOptions, ConduitRecv, ConduitSend,
    },
    endpoint::{CONTENT_TYPE_MSGPACK, Endpoint},
    error::{CallError, HandleError, PublishError, RequestError},
    events::{Event, Events, JobChange},
    fan::Many,
    gather::{Gather, Straggler},
    handler::{
        Cancelled, Delivery, Failure, Handler, HandlerOptions, Line, Origin, Reply, ReplyGone,
        ReplySender, ReplyToken, Selector, from_blocking_fn, from_fn, from_sync_fn,
    },
    message::RequestBuilder,
    publisher::Publisher,
    queue::{Pushed, Queue, QueueBuilder},
    replies::Replies,
    transport::{
        BoxFuture, BoxStream, OneOfMany, Outgoing, Passage, Payload, Probe, Rare, Transport,
    },
};
pub use bytes::Bytes;
pub use cellbus_proto::{
    envelope::{Flags, HopRecord, Lane, TraceContext},
    exchange::RetryPolicy,
    identity::CellKind,
    name::{Channel, ChannelTopic, Fqcn, Segment, Topic},
    status::{Class, Status},
};

/// The examples of the page are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/MESSAGES.md")]
struct Messages;

/// The examples of the page are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TRANSFERS.md")]
struct TransfersPage;

/// The examples of the page are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/TASKS.md")]
struct TasksPage;
