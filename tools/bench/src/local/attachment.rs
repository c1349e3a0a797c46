//! What it costs to hand a large file to the cell.

use std::{io::Write, time::Instant};

use cellbus_channels::local::{
    inbox::{Inbox, Received},
    memfd,
    outbox::Outbox,
};
use cellbus_proto::local::{Body, Hello, ToCell, ToJob};
use tokio::net::UnixStream;

use super::{Attached, Cell, LocalError, memory, runtime};

/// Bytes that are written to the file at once.
const PIECE: usize = 1 << 20;

/// Attaches `bytes` bytes to a publish.
pub(super) fn measure(bytes: u64) -> Result<Attached, LocalError> {
    let failed = |error| LocalError::Io("a large file", error);
    let mut file = memfd::create().map_err(failed)?;
    let piece = vec![7; PIECE];
    let mut left = bytes;
    while left > 0 {
        let len = left.min(PIECE as u64);
        file.write_all(&piece[..usize::try_from(len).unwrap_or(PIECE)]).map_err(failed)?;
        left -= len;
    }
    memfd::seal(&file).map_err(failed)?;
    drop(piece);
    let cell = Cell::start()?;
    let runtime = runtime()?;
    let attached = runtime.block_on(async {
        let socket = UnixStream::connect(&cell.path).await.map_err(failed)?;
        let (read, mut write) = socket.into_split();
        let mut inbox = Inbox::<ToJob>::new(read);
        let (outbox, mut drain) = Outbox::new(1 << 20);
        let writing = tokio::spawn(async move { drain.run(&mut write).await });
        outbox.push_small(&ToCell::Hello(Hello::new(cell.secret.clone())));
        let Some(ToJob::Welcome(welcome)) = next(&mut inbox).await? else {
            return Err(LocalError::Protocol);
        };
        inbox.set_limits(&welcome.limits);
        let before = memory()?;
        let started = Instant::now();
        let body = Body { attached: Some(bytes), ..Body::default() };
        let publish = ToCell::Publish {
            id: 1,
            to: "server".into(),
            channel: "bench".into(),
            topic: "take".into(),
            body,
            options: None,
        };
        let sent = outbox.send_with(publish, Some(file)).await;
        sent.map_err(|_closed| LocalError::Protocol)?;
        outbox.push_small(&ToCell::Ping { token: 1 });
        let (mut handed_over, mut taken, mut most) = (None, None, before);
        while handed_over.is_none() || taken.is_none() {
            let next = tokio::select! {
                next = next(&mut inbox) => Some(next?),
                () = tokio::time::sleep(std::time::Duration::from_millis(5)) => None,
            };
            match next {
                None => {}
                Some(Some(ToJob::Pong { .. })) => handed_over = Some(started.elapsed()),
                Some(Some(ToJob::Accepted { .. })) => taken = Some(started.elapsed()),
                Some(_) => return Err(LocalError::Protocol),
            }
            most = most.max(memory()?);
        }
        outbox.push_last(&ToCell::Bye { status: None });
        let _written = writing.await;
        let ms = |time: Option<std::time::Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
        Ok(Attached {
            bytes,
            handed_over_ms: ms(handed_over),
            taken_ms: ms(taken),
            grown_mib: most - before,
        })
    });
    drop(runtime);
    cell.stop();
    attached
}

async fn next(inbox: &mut Inbox<ToJob>) -> Result<Option<ToJob>, LocalError> {
    let received = inbox.next().await.map_err(|_broken| LocalError::Protocol)?;
    Ok(received.map(|Received { frame, .. }| frame))
}
