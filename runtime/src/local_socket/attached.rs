//! What is attached, on its way through the network: served by the cell of its sender, fetched by that of
//! its receiver, and in the memory of neither.

use std::{sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes};
use cellbus_channels::{
    Bus, ChannelTopic, Fqcn, Status,
    local::{
        carry::{Packed, pieces},
        memfd,
    },
    transfer::{
        FetchOptions, Progress, ServeError, ServeOptions, Served, SignedReference, Sink, Source,
    },
};
use cellbus_proto::{
    local::{ATTACHED_CONTENT_TYPE, Body, SEALED_ATTACHED_CONTENT_TYPE, is_content_type},
    transfer::ContentKey,
};
use tokio::{
    sync::{OwnedSemaphorePermit, TryAcquireError},
    task::spawn_blocking,
    time::{Instant, timeout},
};

use super::link::Link;

/// Bytes that travel in the message itself.
const INLINE_MAX: u64 = 1 << 20;
/// Bytes of a key.
const KEY_LEN: usize = 32;
/// For how long a reference to something attached may be used, and a publish with one may take: its fetch ends by
/// itself where nothing moves.
pub(super) const LIFETIME: Duration = Duration::from_secs(3600);
/// For how long something that was sent and that nobody waits for is served without anybody reading it.
const LINGER_IDLE: Duration = Duration::from_secs(300);
/// How often it is seen whether somebody does.
const LINGER_LOOK: Duration = Duration::from_secs(5);

/// A payload as it leaves for the network.
pub(super) struct Outward {
    pub(super) payload: Bytes,
    pub(super) content_type: Option<Arc<str>>,
    /// To be kept until it has been fetched.
    pub(super) served: Option<Served>,
}

/// A payload as it goes to job code.
pub(super) struct Inward {
    pub(super) packed: Packed,
    /// Its place among all that is attached.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// Makes a message for `to` of what job code gave. What is too large for one is served, and sealed where the message is.
///
/// # Errors
/// Why there is none; nothing has been sent.
pub(super) async fn outward(
    bus: &Bus,
    to: impl IntoIterator<Item = Fqcn>,
    target: &ChannelTopic,
    is_sealed: bool,
    packed: Packed,
) -> Result<Outward, Status> {
    let Packed { body: Body { content_type, attached, payload }, file } = packed;
    let (Some(size), Some(file)) = (attached, file) else {
        return Ok(Outward { payload, content_type, served: None });
    };
    if size <= INLINE_MAX {
        let read = spawn_blocking(move || memfd::read(&file, size)).await;
        let payload = read.ok().and_then(Result::ok).ok_or(Status::StorageDegraded)?;
        return Ok(Outward { payload, content_type, served: None });
    }
    let mut options = ServeOptions::new(target.clone(), to).lifetime(LIFETIME);
    if is_sealed {
        options = options.sealed();
    }
    if let Some(content_type) = &content_type {
        options = options.content_type(content_type);
    }
    let served = bus.transfers().serve(Source::opened(file), options).await;
    let served = served.map_err(|error| {
        tracing::debug!(%error, "what job code attached is not served");
        serve_status(&error)
    })?;
    let reference = served.reference().encode().map_err(|_too_large| Status::TooLarge)?;
    let (payload, content_type) = match served.key() {
        // In a sealed message nobody but its receiver reads the key.
        Some(key) => {
            let payload = [&key.expose()[..], &reference].concat().into();
            (payload, SEALED_ATTACHED_CONTENT_TYPE)
        }
        None => (reference, ATTACHED_CONTENT_TYPE),
    };
    Ok(Outward { payload, content_type: Some(content_type.into()), served: Some(served) })
}

/// Makes of a payload from the network what job code gets: fetches what it stands for, all of it. What was sealed has
/// to be so all the way.
///
/// # Errors
/// Why job code cannot have it.
pub(super) async fn inward(
    link: &Link,
    from: &Fqcn,
    mut payload: Bytes,
    content_type: Option<Arc<str>>,
    is_sealed: bool,
) -> Result<Inward, Status> {
    let (is_attached, has_key) = match content_type.as_deref() {
        Some(ATTACHED_CONTENT_TYPE) => (true, false),
        Some(SEALED_ATTACHED_CONTENT_TYPE) => (true, true),
        Some(_) | None => (false, false),
    };
    if !is_attached {
        let content_type = content_type.filter(|text| is_content_type(text));
        let inline_max = link.limits.payload_max as usize;
        let permit = match payload.len() > inline_max {
            true => Some(reserve(link, payload.len() as u64)?),
            false => None,
        };
        let packed = Packed::pack(payload, content_type, inline_max).await;
        return Ok(Inward { packed: packed.map_err(|_| Status::StorageFull)?, permit });
    }
    if is_sealed != has_key {
        return Err(Status::NotSealed);
    }
    let mut options = FetchOptions::default();
    if has_key {
        let (key, _reference) = payload.split_first_chunk().ok_or(Status::BadHeader)?;
        options = options.key(ContentKey::from_bytes(*key));
        payload.advance(KEY_LEN);
    }
    let signed = SignedReference::decode(&payload).map_err(|error| error.status)?;
    if signed.reference.holder != *from {
        return Err(Status::Forbidden);
    }
    let size = signed.reference.size.ok_or(Status::TooLarge)?;
    let permit = reserve(link, size)?;
    let sink = Sink::memory_file(link.limits.attachment_max);
    let fetched = link.bus.transfers().fetch(&signed, sink, options).await;
    let fetched = fetched.map_err(|error| {
        tracing::debug!(%error, %from, "what was attached is not fetched");
        error.status()
    })?;
    let content_type = fetched.reference.reference.content_type.as_deref();
    let content_type = content_type.filter(|text| is_content_type(text)).map(Arc::from);
    let attached = Some(fetched.size).filter(|size| *size > 0);
    let file = attached.and_then(|_| fetched.file().map(|file| file.try_clone())).transpose();
    let file = file.map_err(|_| Status::StorageFull)?;
    let body = Body { content_type, attached, payload: Bytes::new() };
    Ok(Inward { packed: Packed { body, file }, permit: Some(permit) })
}

/// A place for `size` bytes that are to be attached.
///
/// # Errors
/// That there is none, now or ever.
pub(super) fn reserve(link: &Link, size: u64) -> Result<OwnedSemaphorePermit, Status> {
    if size > link.limits.attached_max {
        return Err(Status::TooLarge);
    }
    let pieces = pieces(size, link.limits.attached_max);
    match Arc::clone(&link.attached).try_acquire_many_owned(pieces) {
        Ok(permit) => Ok(permit),
        Err(TryAcquireError::NoPermits) => Err(Status::Overloaded),
        Err(TryAcquireError::Closed) => Err(Status::NoHandler),
    }
}

/// Goes on serving what was sent until its receivers have it, for as long as they come for it.
pub(super) fn linger(link: &Arc<Link>, served: Option<Served>) {
    let Some(served) = served else { return };
    let size = served.reference().reference.size.unwrap_or(0);
    let mut held = link.hold(size);
    let bus = link.bus.clone();
    tokio::spawn(async move {
        let mut progress = served.progress();
        let taken = async {
            let mut moved = Instant::now();
            loop {
                let is_under_way = served.is_under_way();
                held.set_moving(is_under_way);
                // Who reads it at a relay moves nothing here.
                if is_under_way {
                    moved = Instant::now();
                }
                match timeout(LINGER_LOOK, progress.next()).await {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) if moved.elapsed() > LINGER_IDLE => break,
                    Err(_) => {}
                }
            }
        };
        tokio::select! {
            _in_time = timeout(LIFETIME, taken) => {}
            () = bus.closed() => {}
        }
    });
}

pub(super) fn serve_status(error: &ServeError) -> Status {
    match error {
        ServeError::NotCarried => Status::TooLarge,
        ServeError::Source(error) => error.status(),
        ServeError::NotSigned(status) => *status,
        ServeError::Reference(_) | ServeError::Handle(_) | ServeError::Taken | _ => {
            Status::Overloaded
        }
    }
}

/// How far a transfer is, as it stands in a frame.
pub(super) fn bytes_of(progress: &Progress) -> (u64, Option<u64>) {
    (progress.bytes, progress.size)
}
