//! What a job cell is born with, and how it gets it: one anonymous file, read once.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
};

use bytes::Bytes;
use cellbus_proto::{
    codec::body::Blob,
    directory::Directory,
    identity::CellKind,
    name::{Fqcn, Segment},
};
use cellbus_runtime::{authority::Issued, own::Own};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Form of the bootstrap.
const VERSION: u32 = 1;
/// No bootstrap is larger.
const MAX: u64 = 4 << 20;

/// Everything that a job cell starts with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobBootstrap {
    version: u32,
    /// Full name of the job cell.
    pub name: Fqcn,
    /// Full name of the server.
    pub server: Fqcn,
    /// Full name of the parent.
    pub parent: Fqcn,
    /// Where the parent lets job cells in.
    pub address: SocketAddr,
    /// SHA-256 of the parent's certificate.
    pub parent_leaf: Blob,
    /// The job cell's certificate, DER.
    pub chain: Vec<Blob>,
    /// Its key, PKCS #8 DER. Secret.
    key: Blob,
    /// The authorities of the project, DER.
    pub roots: Vec<Blob>,
    /// The cells of the project.
    pub cells: Vec<(Fqcn, CellKind)>,
    /// Directory for the local socket.
    pub socket_dir: PathBuf,
    /// What to run; one of the programs that this binary knows.
    pub program: Segment,
    /// What the program is told.
    pub parameters: Blob,
    /// Process that launched this one; when it dies, so does this one.
    pub launcher: u32,
}

impl JobBootstrap {
    /// The bootstrap of a job cell named `name` below `own`.
    #[expect(
        clippy::too_many_arguments,
        reason = "one for each thing that a job cell is born with"
    )]
    pub(super) fn new(
        own: &Own,
        name: Fqcn,
        issued: &Issued,
        address: SocketAddr,
        directory: &Directory,
        socket_dir: PathBuf,
        program: Segment,
        parameters: Bytes,
    ) -> Self {
        Self {
            version: VERSION,
            name,
            server: own.server.clone(),
            parent: own.name.clone(),
            address,
            parent_leaf: Blob(own.certificate().hash().to_vec()),
            chain: issued.chain().iter().map(|der| Blob(der.to_vec())).collect(),
            key: Blob(issued.key().secret_der().to_vec()),
            roots: own.roots.ders().iter().map(|der| Blob(der.to_vec())).collect(),
            cells: directory.iter().map(|(name, kind)| (name.clone(), kind)).collect(),
            socket_dir,
            program,
            parameters: Blob(parameters.to_vec()),
            launcher: std::process::id(),
        }
    }

    /// The key, for its one use.
    #[must_use]
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.0.clone())
    }

    /// An anonymous file with the bootstrap, to become the standard input of the job cell. It is closed
    /// in every other process that this one starts.
    pub(super) fn to_memfd(&self) -> io::Result<OwnedFd> {
        let bytes = Zeroizing::new(rmp_serde::to_vec(self).map_err(io::Error::other)?);
        let fd = rustix::fs::memfd_create("cellbus-job", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fd);
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Reads the bootstrap from standard input, and leaves nothing there for others to read.
    ///
    /// # Errors
    /// When standard input is not a bootstrap of this version.
    pub fn from_stdin() -> io::Result<Self> {
        let mut file = File::open("/proc/self/fd/0")?;
        let mut bytes = Zeroizing::new(Vec::new());
        (&mut file).take(MAX).read_to_end(&mut bytes)?;
        // Another process of this user could open what this one holds; it shall find nothing.
        if let Ok(writable) = File::options().write(true).open("/proc/self/fd/0") {
            writable.set_len(0)?;
        }
        let bootstrap: Self = rmp_serde::from_slice(&bytes)
            .map_err(|_| io::Error::other("standard input is not the bootstrap of a job cell"))?;
        if bootstrap.version != VERSION {
            return Err(io::Error::other("the bootstrap is of another version"));
        }
        Ok(bootstrap)
    }
}

impl std::fmt::Debug for JobBootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobBootstrap({}, {}, ***)", self.name, self.program)
    }
}
