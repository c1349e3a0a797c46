//! Passphrases: where they come from. Never from an argument or the environment, which others can read.

use std::{
    fmt,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use cellbus_runtime::secret_file::{SecretFileError, read_secret_file};
use rustix::{
    fs::{Mode, OFlags, open},
    termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

/// Characters that a new passphrase has at least.
pub const SHORTEST: usize = 8;
/// Bytes that a passphrase has at most.
pub const LONGEST: usize = 4096;

/// A passphrase; wiped when dropped, and shown nowhere.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// Where a passphrase is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The terminal of this process, without echo.
    Prompt,
    /// The first line of a file that only its owner can read.
    File(PathBuf),
    /// The first line of what this descriptor gives.
    Descriptor(u32),
}

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// The file cannot be used.
    #[error("passphrase file")]
    File(#[from] SecretFileError),
    /// The descriptor or terminal cannot be used.
    #[error("cannot read the passphrase from {from}")]
    Io {
        /// From where.
        from: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// There is no terminal to ask at.
    #[error("no terminal to ask for the passphrase; give --passphrase-file or --passphrase-fd")]
    NoTerminal,
    /// It is empty, too long, or no text.
    #[error("the passphrase is {0}")]
    Unusable(&'static str),
    /// The second time, something else was typed.
    #[error("the two passphrases differ")]
    Differs,
}

impl Passphrase {
    /// Takes this text.
    ///
    /// # Errors
    /// [`PassphraseError::Unusable`] when it is empty or longer than [`LONGEST`].
    pub fn new(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        match text.len() {
            0 => Err(PassphraseError::Unusable("empty")),
            len if len > LONGEST => Err(PassphraseError::Unusable("too long")),
            _ => Ok(Self(text)),
        }
    }

    /// Reads it from `source`; `what` says to a person which one is wanted. A `new` one is asked for twice and must
    /// have [`SHORTEST`] characters.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn read(source: &Source, what: &str, new: bool) -> Result<Self, PassphraseError> {
        let text = match source {
            Source::File(path) => first_line(&read_secret_file(path, LONGEST)?)?,
            Source::Descriptor(number) => first_line(&from_descriptor(*number)?)?,
            Source::Prompt => {
                let text = ask(&format!("{what}: "))?;
                if new && *ask(&format!("{what}, again: "))? != *text {
                    return Err(PassphraseError::Differs);
                }
                text
            }
        };
        if new && text.chars().count() < SHORTEST {
            return Err(PassphraseError::Unusable("shorter than 8 characters"));
        }
        Self::new(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>, PassphraseError> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text =
        std::str::from_utf8(line).map_err(|_| PassphraseError::Unusable("not UTF-8 text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn from_descriptor(number: u32) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let failed = |source| PassphraseError::Io { from: format!("descriptor {number}"), source };
    let file = open(format!("/dev/fd/{number}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let file = File::from(file.map_err(|errno| failed(errno.into()))?);
    let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
    file.take(LONGEST as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Asks at the terminal of this process, whatever standard input is.
fn ask(prompt: &str) -> Result<Zeroizing<String>, PassphraseError> {
    let failed = |source| PassphraseError::Io { from: "the terminal".to_owned(), source };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let tty = open(Path::new("/dev/tty"), flags, Mode::empty());
    let mut tty = File::from(tty.map_err(|_| PassphraseError::NoTerminal)?);
    let before = tcgetattr(&tty).map_err(|_| PassphraseError::NoTerminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&tty, OptionalActions::Flush, &silent).map_err(|errno| failed(errno.into()))?;
    let typed = tty.write_all(prompt.as_bytes()).and_then(|()| line_of(&mut tty));
    // What was typed matters more than a terminal that cannot be set back.
    let _ = tcsetattr(&tty, OptionalActions::Flush, &before);
    let _ = tty.write_all(b"\n");
    first_line(&typed.map_err(failed)?)
}

fn line_of(tty: &mut File) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    let mut byte = Zeroizing::new([0]);
    while line.len() <= LONGEST && tty.read(&mut *byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v_09_a_passphrase_is_the_first_line_and_is_not_shown() {
        let read = |bytes: &[u8]| first_line(bytes).map(|line| line.to_string());
        assert_eq!(read(b"correct horse\nbattery").unwrap(), "correct horse");
        assert_eq!(read(b"correct horse\r\n").unwrap(), "correct horse");
        assert!(read(b"\xff\n").is_err());
        let passphrase = Passphrase::new(first_line(b"correct horse").unwrap()).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase");
        assert!(Passphrase::new(Zeroizing::new(String::new())).is_err());
        assert!(Passphrase::new(Zeroizing::new("x".repeat(LONGEST + 1))).is_err());
    }

    #[test]
    fn v_09_a_passphrase_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "correct horse\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let source = Source::File(path.clone());
        let refused = Passphrase::read(&source, "x", false).unwrap_err();
        assert!(matches!(refused, PassphraseError::File(SecretFileError::Mode { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Passphrase::read(&source, "x", true).unwrap();
        std::fs::write(&path, "short\n").unwrap();
        assert!(Passphrase::read(&source, "x", true).is_err(), "as a new one");
        Passphrase::read(&source, "x", false).unwrap();
    }
}
