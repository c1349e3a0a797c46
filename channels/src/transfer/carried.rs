//! A fetch that another process carries out: the job cell of job code, which passes the file on.

use std::{fs::File, sync::Arc};

use cellbus_proto::{
    status::Status,
    transfer::{Digest, KeyError, Progress, SignedReference, Told},
};
use tokio::{io::AsyncWriteExt, sync::watch, task::spawn_blocking};

use super::{
    error::{FetchError, SinkError},
    fetch::Fetched,
    options::FetchOptions,
    sink::{Kind, Sink, Store},
    source::{CHUNK, read_at},
};
use crate::{
    error::RequestError,
    local::files::{FetchFile, Files},
};

/// What errors call the file that was passed.
const NAME: &str = "the fetched memory file";

/// Has the cell fetch it, and puts into `sink` what it passes on. It has been verified there.
pub(super) async fn elsewhere(
    files: Files,
    signed: Arc<SignedReference>,
    sink: Sink,
    options: FetchOptions,
    values: watch::Sender<Progress>,
    mut cancelled: watch::Receiver<bool>,
) -> Result<Fetched, FetchError> {
    if signed.reference.seal.is_some() || options.key.is_some() {
        return Err(KeyError::NotCarried.into());
    }
    let size = signed.reference.size;
    if size.is_some_and(|size| size > sink.cap()) {
        return Err(SinkError::TooLarge(sink.cap()).into());
    }
    // A size that is known needs no limit of its own; the connection has one.
    let size_max = size.is_none().then(|| sink.cap()).or(size);
    let how = FetchFile { size_max, patience: Some(options.pull.patience) };
    let fetching = files.fetch(&signed, how, |bytes, size| {
        values.send_modify(|value| {
            value.bytes = value.bytes.max(bytes);
            value.size = size.or(value.size);
            value.sequence += 1;
        });
    });
    let fetched = tokio::select! {
        biased;
        _ = cancelled.wait_for(|is_cancelled| *is_cancelled) => {
            return Err(FetchError::Failed(Status::TransferCancelled));
        }
        fetched = fetching => fetched.map_err(|error| {
            let is_closed = matches!(error, RequestError::Closed);
            if is_closed { FetchError::Closed } else { FetchError::Failed(error.status()) }
        })?,
    };
    let (file, size, digest) = (fetched.file, fetched.size, fetched.digest);
    let (bytes, file) = match sink.0 {
        Kind::Writer(mut writer, _) => {
            copy(&file, &mut writer).await?;
            (None, None)
        }
        Kind::Store(store) => {
            let reference = Arc::clone(&signed);
            let done = spawn_blocking(move || deposit(store, &reference, file, size, digest)).await;
            done.unwrap_or(Err(SinkError::BrokenOff))?
        }
    };
    values.send_modify(|value| {
        (value.bytes, value.size) = (size, Some(size));
        value.sequence += 1;
    });
    let file = file.map(Arc::new);
    Ok(Fetched { reference: signed, size, digest, told: Told::Settled, bytes, file })
}

type Deposited = (Option<bytes::Bytes>, Option<File>);

fn deposit(
    mut store: Box<dyn Store>,
    signed: &SignedReference,
    file: File,
    size: u64,
    digest: Digest,
) -> Result<Deposited, SinkError> {
    let Some(file) = store.adopt(file, size) else { return Ok((None, store.take_file())) };
    if store.open(signed)?.is_some() {
        store.rewind(0)?;
    }
    let mut offset = 0;
    loop {
        let bytes = read_at(&file, offset, CHUNK).map_err(SinkError::io("read", NAME))?;
        if bytes.is_empty() {
            break;
        }
        store.write(&bytes)?;
        offset += bytes.len() as u64;
    }
    store.commit(size, digest)?;
    store.settle();
    Ok((store.take(), store.take_file()))
}

async fn copy(
    file: &File,
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<(), SinkError> {
    let mut offset = 0;
    loop {
        let own = file.try_clone().map_err(SinkError::Writer)?;
        let read = spawn_blocking(move || read_at(&own, offset, CHUNK)).await;
        let bytes = read.map_err(|_| SinkError::BrokenOff)?.map_err(SinkError::io("read", NAME))?;
        if bytes.is_empty() {
            return writer.shutdown().await.map_err(SinkError::Writer);
        }
        writer.write_all(&bytes).await.map_err(SinkError::Writer)?;
        offset += bytes.len() as u64;
    }
}
