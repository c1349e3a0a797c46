//! Typed endpoints: what a request and its reply are, said once for both sides.

use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    status::Status,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    bus::Bus,
    error::{CallError, HandleError},
    handler::{Failure, Origin, Reply, from_fn},
};

/// Media type of what typed endpoints send: msgpack, structures as maps by the names of their fields.
pub const CONTENT_TYPE_MSGPACK: &str = "application/msgpack";

/// A channel and topic where a `Req` is answered with a `Rep`.
///
/// Fields may be added to either type when they have a default, and unknown ones are passed over: structures
/// travel as maps by the names of their fields.
pub struct Endpoint<Req, Rep> {
    channel: &'static str,
    topic: &'static str,
    types: PhantomData<fn(Req) -> Rep>,
}

impl<Req, Rep> Endpoint<Req, Rep> {
    /// The endpoint at `channel` and `topic`.
    ///
    /// # Panics
    /// When one of them is no name: 1 to 64 bytes of `a` to `z`, `0` to `9`, `_`, `.` and `-`. In a constant
    /// the compiler says so.
    #[must_use]
    pub const fn new(channel: &'static str, topic: &'static str) -> Self {
        assert!(is_name(channel), "the channel of an endpoint is no name");
        assert!(is_name(topic), "the topic of an endpoint is no name");
        Self { channel, topic, types: PhantomData }
    }

    /// Where it is.
    #[must_use]
    pub fn target(&self) -> ChannelTopic {
        ChannelTopic::parse(self.channel, self.topic).expect("both were checked to be names")
    }
}

const fn is_name(text: &str) -> bool {
    const MAX: usize = 64;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-') {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty() && bytes.len() <= MAX
}

impl Bus {
    /// Calls a typed endpoint at the cell `to`, with the cell's configured budget.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancellation
    /// As [`send`](crate::RequestBuilder::send).
    pub async fn call<Req: Serialize, Rep: DeserializeOwned>(
        &self,
        endpoint: &Endpoint<Req, Rep>,
        to: Fqcn,
        request: &Req,
    ) -> Result<Rep, CallError> {
        self.call_within(endpoint, to, request, None).await
    }

    /// Calls a typed endpoint with a budget of its own; `None` takes the cell's.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call_within<Req: Serialize, Rep: DeserializeOwned>(
        &self,
        endpoint: &Endpoint<Req, Rep>,
        to: Fqcn,
        request: &Req,
        budget: Option<Duration>,
    ) -> Result<Rep, CallError> {
        let payload = rmp_serde::to_vec_named(request).map_err(CallError::Encode)?;
        let mut message =
            self.request(to, endpoint.target()).payload(payload).content_type(CONTENT_TYPE_MSGPACK);
        if let Some(budget) = budget {
            message = message.budget(budget);
        }
        let reply = message.send().await?;
        if reply.content_type.as_deref() != Some(CONTENT_TYPE_MSGPACK) {
            return Err(CallError::ContentType(reply.content_type));
        }
        rmp_serde::from_slice(&reply.payload).map_err(CallError::Decode)
    }

    /// Answers a typed endpoint with `function`.
    ///
    /// A message of another media type, or one that is no `Req`, is refused with `FILTER_ERROR`, and
    /// `function` does not see it. A `Rep` that cannot be encoded ends as `HANDLER_FAILED`, which says so.
    ///
    /// # Errors
    /// [`HandleError`] as [`Bus::handle`].
    pub async fn serve<Req, Rep, F, Fut>(
        &self,
        endpoint: &Endpoint<Req, Rep>,
        function: F,
    ) -> Result<(), HandleError>
    where
        Req: DeserializeOwned + Send + 'static,
        Rep: Serialize + Send + 'static,
        F: Fn(Req, Origin) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Rep, Failure>> + Send + 'static,
    {
        let handler = from_fn(move |delivery| {
            let is_ours = delivery.content_type.as_deref() == Some(CONTENT_TYPE_MSGPACK);
            let request = is_ours.then(|| rmp_serde::from_slice::<Req>(&delivery.payload).ok());
            let running = request
                .flatten()
                .map(|request| function(request, Arc::unwrap_or_clone(delivery.origin)));
            async move {
                let answer = running.ok_or(Failure::Refused(Status::FilterError))?.await?;
                let payload = rmp_serde::to_vec_named(&answer)
                    .map_err(|error| Failure::failed(format!("the reply: {error}")))?;
                let mut reply = Reply::from(payload);
                reply.content_type = Some(CONTENT_TYPE_MSGPACK.into());
                Ok(reply)
            }
        });
        self.handle(endpoint.target(), handler).await
    }
}

impl<Req, Rep> fmt::Debug for Endpoint<Req, Rep> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({}/{})", self.channel, self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_channel_and_topic_or_nothing() {
        const ADD: Endpoint<(u32, u32), u32> = Endpoint::new("math", "add");
        assert_eq!(ADD.target().to_string(), "math/add");
        for bad in ["", "A", "a/b", "ä", "a b", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
            assert!(ChannelTopic::parse(bad, "x").is_err(), "{bad:?}");
        }
        assert!(is_name(&"a".repeat(64)));
    }
}
