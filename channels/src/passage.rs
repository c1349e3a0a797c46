//! What leaves and what comes passes the filters, on every way.

use bytes::Bytes;
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    status::Status,
};

use crate::{
    error::{PublishError, RequestError},
    filter::{FilterError, FilterMessage, Filters, Point},
    handler::{Delivery, Failure, Reply},
    transport::Outgoing,
};

/// Passes a message on its way to `to` through the filters.
pub(crate) fn out(
    filters: &Filters,
    to: &Fqcn,
    mut outgoing: Outgoing,
) -> Result<Outgoing, FilterError> {
    if !filters.applies(Point::RequestOut, &outgoing.target) {
        return Ok(outgoing);
    }
    let headers = outgoing.headers();
    let message = FilterMessage::new(
        Point::RequestOut,
        to.clone(),
        outgoing.target.clone(),
        outgoing.payload,
    )
    .with_content_type(outgoing.content_type)
    .with_headers(headers.clone());
    let passed = filters.apply(message)?;
    outgoing.payload = passed.payload;
    outgoing.content_type = passed.content_type;
    if passed.headers != headers {
        outgoing.rare.get_or_insert_default().headers = passed.headers;
    }
    Ok(outgoing)
}

/// Passes what came back from `from` through the filters: a reply, or what goes with a failure.
pub(crate) fn back(
    filters: &Filters,
    me: &Fqcn,
    from: &Fqcn,
    target: &ChannelTopic,
    outcome: Result<Reply, RequestError>,
) -> Result<Reply, RequestError> {
    if !filters.applies(Point::ReplyIn, target) {
        return outcome;
    }
    let message =
        |payload| FilterMessage::new(Point::ReplyIn, from.clone(), target.clone(), payload);
    match outcome {
        Ok(mut reply) => {
            let seen = message(reply.payload).with_content_type(reply.content_type);
            let passed = filters.apply(seen).map_err(|error| stopped(me, &error))?;
            reply.payload = passed.payload;
            reply.content_type = passed.content_type;
            Ok(reply)
        }
        Err(RequestError::Returned { by, status, detail }) if !detail.is_empty() => {
            let detail = match filters.apply(message(detail).with_failure(status)) {
                Ok(passed) => passed.payload,
                // The status is the cells' own word; what was said with it does not pass.
                Err(_stopped) => Bytes::new(),
            };
            Err(RequestError::Returned { by, status, detail })
        }
        Err(error) => Err(error),
    }
}

/// Passes a message on its way to a handler through the filters.
pub(crate) fn inward(filters: &Filters, mut delivery: Delivery) -> Result<Delivery, FilterError> {
    if !filters.applies(Point::RequestIn, &delivery.target) {
        return Ok(delivery);
    }
    let (peer, target) = (delivery.origin.name.clone(), delivery.target.clone());
    let message = FilterMessage::new(Point::RequestIn, peer, target, delivery.payload)
        .with_content_type(delivery.content_type)
        .with_headers(delivery.headers);
    let passed = filters.apply(message)?;
    delivery.payload = passed.payload;
    delivery.content_type = passed.content_type;
    delivery.headers = passed.headers;
    Ok(delivery)
}

/// Passes what a handler answers to `peer` through the filters.
pub(crate) fn outward(
    filters: &Filters,
    peer: &Fqcn,
    target: &ChannelTopic,
    answer: Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    if !filters.applies(Point::ReplyOut, target) {
        return answer;
    }
    let message =
        |payload| FilterMessage::new(Point::ReplyOut, peer.clone(), target.clone(), payload);
    let stopped = |error: FilterError| Failure::Failed(error.detail());
    match answer {
        Ok(mut reply) => {
            let seen = message(reply.payload).with_content_type(reply.content_type);
            let passed = filters.apply(seen).map_err(stopped)?;
            reply.payload = passed.payload;
            reply.content_type = passed.content_type;
            Ok(reply)
        }
        Err(Failure::Failed(detail)) => {
            let seen = message(detail).with_failure(Status::HandlerFailed);
            Err(Failure::Failed(filters.apply(seen).map_err(stopped)?.payload))
        }
        Err(failure @ (Failure::Refused(_) | Failure::Unknown(_))) => Err(failure),
    }
}

/// How a request ends that a filter of this cell stopped.
pub(crate) fn stopped(me: &Fqcn, error: &FilterError) -> RequestError {
    RequestError::Returned { by: me.clone(), status: error.status(), detail: error.detail() }
}

/// How a publish ends that a filter of this cell stopped.
pub(crate) fn not_published(me: &Fqcn, error: &FilterError) -> PublishError {
    PublishError::Refused { by: me.clone(), status: error.status() }
}

/// What this connection cannot carry is refused, never left out.
pub(crate) fn not_carried(me: &Fqcn) -> RequestError {
    RequestError::Returned { by: me.clone(), status: Status::Version, detail: Bytes::new() }
}
