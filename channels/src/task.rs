//! Federated work over the bus: one cell hands out tasks, workers at sites fetch them and submit results.
//!
//! A library on top of requests; the bus knows nothing of it. [`Tasks`] is the side that hands out,
//! [`Tasking`] that of a worker; [`Tensors`] is a body of named arrays, [`WeightedMean`] what federated
//! averaging does with them.

mod mean;
mod server;
mod tensors;
#[cfg(test)]
mod tests;
mod worker;

use cellbus_proto::name::ChannelTopic;

pub use self::{
    mean::{NoMean, Unsound, WeightedMean},
    server::{End, Order, Running, Submitted, TaskEnd, Tasks},
    tensors::{BadTensors, CONTENT_TYPE_TENSORS, Dtype, Tensor, Tensors, TensorsWriter},
    worker::{Given, TaskError, Tasking},
};
pub use cellbus_proto::task::wire::Verdict;

const CHANNEL: &str = "task";

/// The address at which tasks are asked for.
fn fetch() -> ChannelTopic {
    topic("fetch")
}

/// The address at which results are handed in.
fn submit() -> ChannelTopic {
    topic("submit")
}

/// The address at which workers say how far they are.
fn progress() -> ChannelTopic {
    topic("progress")
}

/// Where a job cell hears how far its own program is.
fn job_progress() -> ChannelTopic {
    ChannelTopic::parse("job", "progress").expect("both are names")
}

fn topic(topic: &str) -> ChannelTopic {
    ChannelTopic::parse(CHANNEL, topic).expect("both are names")
}
