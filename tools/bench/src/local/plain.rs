//! Two peers that exchange frames of the right lengths over a Unix socket, and nothing else.

use std::time::Instant;

use cellbus_proto::local::PREFIX_LEN;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{LocalError, LocalOptions, WARM_UP, frame_lens, runtime};

/// Round trips in a second.
pub(super) fn rate(options: &LocalOptions) -> Result<f64, LocalError> {
    let io = |error| LocalError::Io("a plain socket", error);
    let (asks, answers) = std::os::unix::net::UnixStream::pair().map_err(io)?;
    for socket in [&asks, &answers] {
        socket.set_nonblocking(true).map_err(io)?;
    }
    let (request, reply) = frame_lens(options.payload);
    let answering = runtime()?;
    let thread = std::thread::spawn(move || {
        answering.block_on(async {
            let mut socket = UnixStream::from_std(answers)?;
            let reply = frame(reply);
            loop {
                match read(&mut socket).await {
                    Ok(()) => socket.write_all(&reply).await?,
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    });
    let asking = runtime()?;
    let rate = asking.block_on(async {
        let mut socket = UnixStream::from_std(asks)?;
        let request = frame(request);
        for _ in 0..WARM_UP {
            socket.write_all(&request).await?;
            read(&mut socket).await?;
        }
        let (started, mut count) = (Instant::now(), 0u32);
        while started.elapsed() < options.window {
            socket.write_all(&request).await?;
            read(&mut socket).await?;
            count += 1;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    });
    let rate = rate.map_err(io)?;
    let ended = thread.join().unwrap_or_else(|_panic| Err(std::io::ErrorKind::Other.into()));
    ended.map_err(io)?;
    Ok(rate)
}

/// A frame of `len` bytes whose prefix says how many follow.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![7; len];
    let rest = u32::try_from(len - PREFIX_LEN).expect("a frame is small");
    frame[3..PREFIX_LEN].copy_from_slice(&rest.to_be_bytes());
    frame
}

async fn read(socket: &mut UnixStream) -> std::io::Result<()> {
    let mut prefix = [0; PREFIX_LEN];
    socket.read_exact(&mut prefix).await?;
    let rest = prefix.last_chunk::<4>().map_or(0, |rest| u32::from_be_bytes(*rest));
    let mut rest = vec![0; rest as usize];
    socket.read_exact(&mut rest).await?;
    Ok(())
}
