//! Reading what the launcher passed through an inherited file descriptor.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Read},
};

use cellbus_proto::local::{Bootstrap, BootstrapError};
use zeroize::Zeroizing;

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapFdError {
    /// The variable is not set: this process was not launched by a cell.
    #[error("{} is not set; this process was not launched by a job cell", Bootstrap::ENV)]
    NotSet,
    /// The variable holds something else than the number of a file descriptor.
    #[error("{} is not the number of a file descriptor", Bootstrap::ENV)]
    NotANumber,
    /// The descriptor cannot be read.
    #[error("file descriptor {fd} cannot be read")]
    Unreadable {
        /// Its number.
        fd: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was read is no bootstrap.
    #[error(transparent)]
    Content(#[from] BootstrapError),
}

/// Reads the bootstrap from the file descriptor that `CELLBUS_BOOTSTRAP_FD` names, and empties it.
///
/// Blocks until the other end of a pipe is closed.
///
/// # Errors
/// [`BootstrapFdError`]. A second call finds it empty.
pub fn read_bootstrap() -> Result<Bootstrap, BootstrapFdError> {
    let number = env::var(Bootstrap::ENV).map_err(|_| BootstrapFdError::NotSet)?;
    read_number(&number)
}

fn read_number(number: &str) -> Result<Bootstrap, BootstrapFdError> {
    let is_plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let fd: u32 = number.parse().ok().filter(|_| is_plain).ok_or(BootstrapFdError::NotANumber)?;
    let bytes = read_fd(fd).map_err(|source| BootstrapFdError::Unreadable { fd, source })?;
    Ok(Bootstrap::decode(&bytes)?)
}

/// Taking a bare number over as an owned descriptor needs `unsafe`, since nothing proves that nobody
/// else in the process owns it. Opening it anew by its name in `/proc` does not, works for memory
/// files and pipes alike, and reads a memory file from its start. The inherited descriptor itself
/// stays open; so that it is worth nothing, a memory file is emptied, as a pipe is by reading.
fn read_fd(fd: u32) -> io::Result<Zeroizing<Vec<u8>>> {
    let name = format!("/proc/self/fd/{fd}");
    let file = File::open(&name)?;
    // One byte more than allowed, in a buffer that never moves and so leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(Bootstrap::MAX_LEN + 64));
    (&file).take(Bootstrap::MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    if file.metadata()?.is_file() {
        // A launcher may have sealed it against this too; the secret is good for one use anyway.
        let _ = OpenOptions::new().write(true).open(&name).and_then(|file| file.set_len(0));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsRawFd};

    use cellbus_proto::local::Secret;

    use super::*;

    fn bootstrap() -> Bootstrap {
        Bootstrap { path: "/run/cells/job.sock".into(), secret: Secret::take(&mut [9; 32]) }
    }

    fn read(fd: &impl AsRawFd) -> Result<Bootstrap, BootstrapFdError> {
        read_number(&fd.as_raw_fd().to_string())
    }

    #[test]
    fn c_02_a_bootstrap_in_a_file_is_read_once_from_its_start() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bootstrap().encode()).unwrap();
        assert_eq!(read(&file).unwrap(), bootstrap());
        assert_eq!(file.metadata().unwrap().len(), 0);
        let again = read(&file).unwrap_err();
        assert!(matches!(again, BootstrapFdError::Content(BootstrapError::Empty)), "{again}");
    }

    #[test]
    fn c_02_a_bootstrap_in_a_pipe_is_read_once() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&bootstrap().encode()).unwrap();
        drop(writer);
        assert_eq!(read(&reader).unwrap(), bootstrap());
        assert!(read(&reader).is_err());
    }

    #[test]
    fn more_bytes_than_a_bootstrap_has_are_not_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 4096]).unwrap();
        let error = read(&file).unwrap_err();
        assert!(matches!(error, BootstrapFdError::Content(BootstrapError::TooLong)), "{error}");
    }

    #[test]
    fn only_the_number_of_an_open_descriptor_will_do() {
        for number in ["", "-1", "+3", "3 ", "/dev/null", "../fd/0", "4294967296", "0x3"] {
            let error = read_number(number).unwrap_err();
            assert!(matches!(error, BootstrapFdError::NotANumber), "{number:?}: {error}");
        }
        let closed = read_number("999999").unwrap_err();
        assert!(matches!(closed, BootstrapFdError::Unreadable { fd: 999_999, .. }));
    }
}
