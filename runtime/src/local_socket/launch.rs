//! What a launched process inherits: where to connect, and the secret to connect with.

use std::{
    fmt,
    fs::File,
    io::{self, Seek, Write},
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use cellbus_proto::{
    local::{Bootstrap, Secret},
    name::{Fqcn, Segment},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tokio::time::Instant;

/// Proves that a connection comes from the job code that was launched: 32 random bytes, good for one
/// connection, for 60 s. Erased when dropped, never printed.
pub struct LaunchSecret {
    secret: Secret,
    expiry: Instant,
    made_for: Option<(Fqcn, Launch)>,
}

/// Which launch of job code something belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// The job.
    pub job: Option<Segment>,
    /// How many times it has been launched, this time included.
    pub attempt: Option<u32>,
    /// As what: a trainer, for example.
    pub role: Option<Segment>,
}

impl LaunchSecret {
    /// Time from [`generate`](Self::generate) until the secret is worth nothing.
    pub const LIFETIME: Duration = Duration::from_secs(60);

    /// A new secret from the operating system.
    ///
    /// # Errors
    /// When the operating system has no random bytes; there is no other source.
    pub fn generate() -> io::Result<Self> {
        Self::good_for(Self::LIFETIME)
    }

    /// A new secret that is good for `lifetime`: for a process that somebody else starts.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn good_for(lifetime: Duration) -> io::Result<Self> {
        let mut bytes = [0; Secret::LEN];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let secret = Secret::take(&mut bytes);
        Ok(Self { secret, expiry: Instant::now() + lifetime, made_for: None })
    }

    /// Makes it worthless anywhere but at `cell` and for `launch`. Default: the socket that it is given to
    /// decides.
    #[must_use]
    pub fn made_for(mut self, cell: Fqcn, launch: Launch) -> Self {
        self.made_for = Some((cell, launch));
        self
    }

    /// Whether it is good at `cell` for `launch`.
    pub(super) fn is_for(&self, cell: &Fqcn, launch: &Launch) -> bool {
        self.made_for.as_ref().is_none_or(|(at, of)| at == cell && of == launch)
    }

    /// The secret itself, for job code that runs in this process.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// When the secret is worth nothing any longer.
    pub(super) fn expiry(&self) -> Instant {
        self.expiry
    }
}

impl fmt::Debug for LaunchSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A memory file with the bootstrap for `socket`, to be inherited by the process that is launched.
///
/// Its content cannot be changed or grow; it can be emptied, which is what a reader does. It is
/// closed on exec: hand it to the one child that it is for, most simply as its standard input
/// (`Command::stdin(fd)` and `CELLBUS_BOOTSTRAP_FD=0`), so that no other child inherits it.
///
/// # Errors
/// Those of the operating system; `InvalidInput` when the path is longer than 100 bytes or no text.
pub fn bootstrap_fd(socket: &Path, secret: &LaunchSecret) -> io::Result<OwnedFd> {
    let path = socket.to_str().filter(|path| path.len() <= Bootstrap::PATH_MAX);
    let path = path.ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    let bytes = Bootstrap { path, secret: secret.secret.clone() }.encode();
    let fd = memfd_create("cellbus-bootstrap", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(&bytes)?;
    file.rewind()?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}
