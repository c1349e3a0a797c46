//! What cells and plain QUIC do alike with objects: files of random bytes, and one transfer after the other.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    drive::Times,
    message::{Driven, Tell},
    side::{SideError, say},
};

/// Name of the file that is sent.
const SENT: &str = "sent";
/// Name of the file that arrives.
pub const GOT: &str = "got";
/// Bytes that are read or written at once.
pub const PIECE: usize = 512 << 10;

/// A file of `size` random bytes in `directory`.
///
/// # Errors
/// When there is no room for it.
pub fn write(directory: &Path, size: u64) -> Result<PathBuf, SideError> {
    let path = directory.join(SENT);
    let copied = open(&path).and_then(|mut file| {
        let mut random = File::open("/dev/urandom")?.take(size);
        io::copy(&mut random, &mut file)?;
        file.flush()?;
        file.sync_all()
    });
    copied.map(|()| path).map_err(SideError::new)
}

/// An empty file, in place of the one that was there.
///
/// # Errors
/// What the system says.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).open(path)
}

/// Does `once` one time that is not counted, says that counting begins, and does it again until the window is over,
/// at least once.
///
/// # Errors
/// [`SideError`] of the first one that fails.
pub async fn again_and_again(
    window: Duration,
    mut once: impl AsyncFnMut() -> Result<(), SideError>,
) -> Result<Driven, SideError> {
    once().await?;
    say(&Tell::Begun);
    let mut times = Times::new();
    let begun = Instant::now();
    loop {
        let from = Instant::now();
        once().await?;
        times.add(from.elapsed());
        let elapsed = begun.elapsed();
        if elapsed >= window {
            return Ok(times.driven(elapsed));
        }
    }
}

/// Bytes as text.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes out of such a text.
///
/// # Errors
/// When it is none.
pub fn from_hex(text: &str) -> Result<Vec<u8>, SideError> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
    bytes.ok_or_else(|| SideError::text("a reference that is none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_as_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)).expect("text of bytes"), bytes);
        assert!(from_hex("0g").is_err());
    }

    #[tokio::test]
    async fn the_first_one_is_not_counted_and_one_always_is() {
        let mut done = 0;
        let driven = again_and_again(Duration::ZERO, async || {
            done += 1;
            Ok(())
        });
        assert_eq!(driven.await.expect("it goes well").done, 1);
        assert_eq!(done, 2);
    }
}
