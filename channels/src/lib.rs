//! The bus as application code sees it: requests, publishes, handlers, and nothing of how they travel.
//!
//! The same [`Bus`] is used inside a cell's own process and by job code that is connected through
//! the local socket of its job cell. No type here mentions an actor, a socket or a certificate.
#![warn(missing_docs)]

mod bus;
mod error;
mod handler;
pub mod local;
mod transport;

pub use self::{
    bus::{Bus, RequestBuilder},
    error::{HandleError, PublishError, RequestError},
    handler::{Delivery, Failure, Handler, Origin, Reply, Selector, from_fn},
    transport::{BoxFuture, Outgoing, Transport},
};
pub use bytes::Bytes;
pub use cellbus_proto::{
    identity::CellKind,
    name::{Channel, ChannelTopic, Fqcn, Segment, Topic},
    status::{Class, Status},
};
