//! The headers of the frames of job code, field by field.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};

use super::{
    super::{
        Secret,
        body::{Body, headers, read_names, read_options, write_names},
        fields::{BadField, Reader, Writer},
    },
    Hello, Serve, ToCell, status,
};

pub(super) fn read_hello(header: &[u8]) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let version_min = fields.uint("version_min")?;
    let version_max = fields.uint("version_max")?;
    let mut bytes: [u8; Secret::LEN] =
        fields.bin("secret")?.try_into().map_err(|_| BadField("secret"))?;
    fields.finish()?;
    Ok(ToCell::Hello(Hello { version_min, version_max, secret: Secret::take(&mut bytes) }))
}

pub(super) fn read_request(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 8)?;
    let request = ToCell::Request {
        id: fields.uint("id")?,
        to: fields.text("to")?.to_owned(),
        channel: fields.text("channel")?.to_owned(),
        topic: fields.text("topic")?.to_owned(),
        budget_ms: fields.optional(|fields| fields.uint("budget_ms"))?,
        body: Body::read(&mut fields, payload)?,
        options: read_options(&mut fields)?,
    };
    fields.finish()?;
    Ok(request)
}

pub(super) fn read_publish(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 7)?;
    let publish = ToCell::Publish {
        id: fields.uint("id")?,
        to: fields.text("to")?.to_owned(),
        channel: fields.text("channel")?.to_owned(),
        topic: fields.text("topic")?.to_owned(),
        body: Body::read(&mut fields, payload)?,
        options: read_options(&mut fields)?,
    };
    fields.finish()?;
    Ok(publish)
}

pub(super) fn read_handle(header: &[u8]) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 4)?;
    let handle = ToCell::Handle {
        id: fields.uint("id")?,
        channel: fields.optional(|fields| fields.text("channel"))?.map(str::to_owned),
        topic: fields.optional(|fields| fields.text("topic"))?.map(str::to_owned),
        concurrency: fields.optional(|fields| {
            NonZeroU32::new(fields.uint("concurrency")?).ok_or(BadField("concurrency"))
        })?,
    };
    fields.finish()?;
    Ok(handle)
}

pub(super) fn read_answer(
    header: &[u8],
    payload: Bytes,
    frame: impl FnOnce(u64, Body) -> ToCell,
) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let id = fields.uint("id")?;
    let body = Body::read(&mut fields, payload)?;
    fields.finish()?;
    Ok(frame(id, body))
}

pub(super) fn read_multicast(header: &[u8], payload: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 9)?;
    let multicast = ToCell::Multicast {
        id: fields.uint("id")?,
        to: read_names(&mut fields)?,
        channel: fields.text("channel")?.to_owned(),
        topic: fields.text("topic")?.to_owned(),
        publish: fields.bool("publish")?,
        budget_ms: fields.optional(|fields| fields.uint("budget_ms"))?,
        body: Body::read(&mut fields, payload)?,
        options: read_options(&mut fields)?,
    };
    fields.finish()?;
    Ok(multicast)
}

pub(super) fn write_serve<'a>(serve: &Serve, out: &'a mut BytesMut) -> Writer<'a> {
    let Serve { id, to, channel, topic, lifetime_s, content_type, headers, size } = serve;
    write_names(to.as_deref(), Writer::new(out, 8).uint(*id))
        .text(channel)
        .text(topic)
        .optional_uint(*lifetime_s)
        .optional_text(content_type.as_deref())
        .uint(*size)
        .bin(headers)
}

pub(super) fn read_serve(header: &[u8]) -> Result<Serve, BadField> {
    let mut fields = Reader::new(header, 8)?;
    let id = fields.uint("id")?;
    let to = read_names(&mut fields)?;
    let channel = fields.text("channel")?.to_owned();
    let topic = fields.text("topic")?.to_owned();
    let lifetime_s = fields.optional(|fields| fields.uint("lifetime_s"))?;
    let Body { content_type, attached, .. } = Body::read(&mut fields, Bytes::new())?;
    let size = attached.ok_or(BadField("attached"))?;
    let headers = headers(&mut fields)?;
    fields.finish()?;
    Ok(Serve { id, to, channel, topic, lifetime_s, content_type, headers, size })
}

pub(super) fn read_fetch(header: &[u8], reference: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 3)?;
    let fetch = ToCell::Fetch {
        id: fields.uint("id")?,
        size_max: fields.optional(|fields| fields.uint("size_max"))?,
        patience_s: fields.optional(|fields| fields.uint("patience_s"))?,
        reference,
    };
    fields.finish()?;
    Ok(fetch)
}

pub(super) fn read_deliver_fail(header: &[u8], detail: Bytes) -> Result<ToCell, BadField> {
    let mut fields = Reader::new(header, 2)?;
    let id = fields.uint("id")?;
    let status = status(&mut fields)?;
    fields.finish()?;
    Ok(ToCell::DeliverFail { id, status, detail })
}
