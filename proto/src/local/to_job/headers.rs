//! The headers of the frames of a cell, field by field.

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        Limits,
        body::{Body, content_type, headers},
        fields::{BadField, Reader, Writer},
        to_cell::status,
    },
    Delivery, Event, EventKind, Origin, Outcome, Settled, ToJob, Welcome,
};
use crate::{
    envelope::TraceContext,
    name::{ChannelTopic, Fqcn, Segment},
};

pub(super) fn write_welcome<'a>(welcome: &Welcome, out: &'a mut BytesMut) -> Writer<'a> {
    let Welcome { version, cell, job, attempt, role, heartbeat_ms, limits } = welcome;
    Writer::new(out, 7)
        .uint(*version)
        .text(cell.as_str())
        .optional_text(job.as_ref().map(Segment::as_str))
        .optional_uint(*attempt)
        .optional_text(role.as_ref().map(Segment::as_str))
        .optional_uint(*heartbeat_ms)
        .array(9)
        .uint(limits.payload_max)
        .uint(limits.requests_max)
        .uint(limits.bytes_max)
        .uint(limits.deliveries_max)
        .uint(limits.deliveries_bytes_max)
        .uint(limits.handlers_max)
        .uint(limits.budget_ms)
        .uint(limits.attachment_max)
        .uint(limits.attached_max)
}

pub(super) fn read_welcome(header: &[u8]) -> Result<Welcome, BadField> {
    let mut fields = Reader::new(header, 7)?;
    let version = fields.uint("version")?;
    let cell = name(&mut fields, "cell")?;
    let job = optional_segment(&mut fields, "job")?;
    let attempt = fields.optional(|fields| fields.uint("attempt"))?;
    let role = optional_segment(&mut fields, "role")?;
    let heartbeat_ms = fields.optional(|fields| fields.uint("heartbeat_ms"))?;
    fields.array(9, "limits")?;
    let limits = Limits {
        payload_max: fields.uint("payload_max")?,
        requests_max: fields.uint("requests_max")?,
        bytes_max: fields.uint("bytes_max")?,
        deliveries_max: fields.uint("deliveries_max")?,
        deliveries_bytes_max: fields.uint("deliveries_bytes_max")?,
        handlers_max: fields.uint("handlers_max")?,
        budget_ms: fields.uint("budget_ms")?,
        attachment_max: fields.uint("attachment_max")?,
        attached_max: fields.uint("attached_max")?,
    };
    fields.finish()?;
    limits.check().map_err(|_| BadField("limits"))?;
    if heartbeat_ms == Some(0) {
        return Err(BadField("heartbeat_ms"));
    }
    Ok(Welcome { version, cell, job, attempt, role, heartbeat_ms, limits })
}

pub(super) fn write_delivery<'a>(delivery: &Delivery, out: &'a mut BytesMut) -> Writer<'a> {
    let Delivery { id, origin, target, budget_ms, expects_reply, body, headers, trace } = delivery;
    let out = Writer::new(out, if trace.is_some() { 10 } else { 9 })
        .uint(*id)
        .array(4)
        .text(origin.name.as_str())
        .text(origin.kind.as_str())
        .text(origin.org.as_str())
        .optional_text(origin.job.as_ref().map(Segment::as_str))
        .text(target.channel().as_str())
        .text(target.topic().as_str())
        .uint(*budget_ms)
        .bool(*expects_reply);
    let out = body.write(out).bin(headers);
    match trace {
        Some(TraceContext(trace)) => out.bin(trace),
        None => out,
    }
}

pub(super) fn read_delivery(header: &[u8], payload: Bytes) -> Result<Delivery, BadField> {
    let (mut fields, len) = Reader::among(header, &[9, 10])?;
    let id = fields.uint("id")?;
    fields.array(4, "origin")?;
    let origin = Origin {
        name: name(&mut fields, "origin name")?,
        kind: fields.text("origin kind")?.parse().map_err(|_| BadField("origin kind"))?,
        org: fields.text("origin org")?.parse().map_err(|_| BadField("origin org"))?,
        job: optional_segment(&mut fields, "origin job")?,
    };
    let channel = fields.text("channel")?;
    let target = ChannelTopic::parse(channel, fields.text("topic")?);
    let target = target.map_err(|_| BadField("channel or topic"))?;
    let budget_ms = fields.uint("budget_ms")?;
    let expects_reply = fields.bool("expects_reply")?;
    let body = Body::read(&mut fields, payload)?;
    let headers = headers(&mut fields)?;
    let mut trace = None;
    if len == 10 {
        let bytes = fields.bin("trace")?;
        trace = Some(bytes.try_into().map(TraceContext).map_err(|_| BadField("trace"))?);
    }
    fields.finish()?;
    Ok(Delivery { id, origin, target, budget_ms, expects_reply, body, headers, trace })
}

pub(super) fn read_reject(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 1)?;
    let status = status(&mut fields)?;
    fields.finish()?;
    Ok(ToJob::Reject { status })
}

pub(super) fn read_reply(header: &[u8], payload: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let id = fields.uint("id")?;
    let body = Body::read(&mut fields, payload)?;
    fields.finish()?;
    Ok(ToJob::Reply { id, body })
}

pub(super) fn read_part(header: &[u8], payload: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let id = fields.uint("id")?;
    let from = name(&mut fields, "from")?;
    let body = Body::read(&mut fields, payload)?;
    fields.finish()?;
    Ok(ToJob::Part { id, from, body })
}

pub(super) fn read_part_failed(header: &[u8], detail: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let id = fields.uint("id")?;
    let from = name(&mut fields, "from")?;
    let status = status(&mut fields)?;
    let by = name(&mut fields, "by")?;
    fields.finish()?;
    Ok(ToJob::PartFailed { id, from, status, by, detail })
}

pub(super) fn read_event(header: &[u8], detail: Bytes) -> Result<Event, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let id = fields.uint("id")?;
    let number: u8 = fields.uint("event")?;
    let kind = EventKind::ALL.into_iter().find(|kind| *kind as u8 == number);
    let kind = kind.ok_or(BadField("event"))?;
    let cell = fields.optional(|fields| name(fields, "cell"))?;
    let missed = fields.uint("missed")?;
    fields.finish()?;
    if cell.is_none() != (kind == EventKind::Lagged) {
        return Err(BadField("cell"));
    }
    Ok(Event { id, kind, cell, missed, detail })
}

pub(super) fn read_progress(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let progress = ToJob::Progress {
        id: fields.uint("id")?,
        from: fields.optional(|fields| name(fields, "from"))?,
        bytes: fields.uint("bytes")?,
        size: fields.optional(|fields| fields.uint("size"))?,
    };
    fields.finish()?;
    Ok(progress)
}

pub(super) fn read_settled(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let id = fields.uint("id")?;
    let from = name(&mut fields, "from")?;
    let end = fields.uint("end")?;
    let status = fields.optional(status)?;
    fields.finish()?;
    let end = Settled::from_wire(end, status).ok_or(BadField("end"))?;
    Ok(ToJob::Settled { id, from, end })
}

pub(super) fn read_fetched(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 5)?;
    let id = fields.uint("id")?;
    let content_type = content_type(&mut fields)?;
    let size = fields.uint("attached")?;
    let headers = headers(&mut fields)?;
    let digest = fields.bin("digest")?.try_into().map_err(|_| BadField("digest"))?;
    fields.finish()?;
    Ok(ToJob::Fetched { id, content_type, size, headers, digest })
}

pub(super) fn read_return(header: &[u8], detail: Bytes) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let id = fields.uint("id")?;
    let status = status(&mut fields)?;
    let by = name(&mut fields, "by")?;
    fields.finish()?;
    Ok(ToJob::Return { id, status, by, detail })
}

pub(super) fn read_handled(header: &[u8]) -> Result<ToJob, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let number: u8 = fields.uint("outcome")?;
    let outcome = Outcome::ALL.into_iter().find(|outcome| *outcome as u8 == number);
    fields.finish()?;
    Ok(ToJob::Handled { id, outcome: outcome.ok_or(BadField("outcome"))? })
}

fn name(fields: &mut Reader<'_>, field: &'static str) -> Result<Fqcn, BadField> {
    fields.text(field)?.parse().map_err(|_| BadField(field))
}

fn optional_segment(
    fields: &mut Reader<'_>,
    field: &'static str,
) -> Result<Option<Segment>, BadField> {
    fields.optional(|fields| fields.text(field)?.parse().map_err(|_| BadField(field)))
}
