//! Where a command takes a passphrase from. There is no argument and no variable for the passphrase itself.

use std::path::PathBuf;

use cellbus_kits::passphrase::{Passphrase, PassphraseError, Source};
use clap::Args;

/// Arguments of every command that needs a passphrase; without them it is asked for at the terminal.
#[derive(Args, Clone, Debug, Default)]
pub struct PassphraseFrom {
    /// Take the passphrase from the first line of this file, which only its owner may read
    #[arg(long, value_name = "FILE", help_heading = "Passphrase")]
    #[arg(conflicts_with = "passphrase_fd")]
    pub passphrase_file: Option<PathBuf>,
    /// Take the passphrase from the first line that this descriptor gives
    #[arg(long, value_name = "N", help_heading = "Passphrase")]
    pub passphrase_fd: Option<u32>,
}

impl PassphraseFrom {
    /// Reads it; `what` says to a person which one is wanted.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn read(&self, what: &str, new: bool) -> Result<Passphrase, PassphraseError> {
        let source = match (&self.passphrase_file, self.passphrase_fd) {
            (Some(path), _) => Source::File(path.clone()),
            (None, Some(number)) => Source::Descriptor(number),
            (None, None) => Source::Prompt,
        };
        Passphrase::read(&source, what, new)
    }
}
