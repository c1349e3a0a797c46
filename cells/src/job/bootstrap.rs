//! What a job cell is born with, and how it gets it: one anonymous file, read once.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::PathBuf,
};

use cellbus_proto::{
    codec::body::Blob,
    identity::CellKind,
    job::{JobId, ProgramLimits, RunId, Value},
    name::{Fqcn, Segment},
};
use cellbus_runtime::{authority::Issued, own::Own};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Form of the bootstrap.
const VERSION: u32 = 4;
/// No bootstrap is larger.
const MAX: u64 = 4 << 20;

/// Everything that a job cell starts with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobBootstrap {
    version: u32,
    /// Which job it is of.
    pub id: JobId,
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
    /// Directory with the files of the job, in which programs start.
    pub work_dir: PathBuf,
    /// The job cell at the server.
    pub server_cell: Fqcn,
    /// The job cells at the sites.
    pub site_cells: Vec<Fqcn>,
    /// Seconds without a message after which the program is ended; 0 for never.
    pub idle_s: u32,
    /// Seconds that the program goes on while the parent is away; 0 where it ends with it.
    pub detach_s: u32,
    /// The file in which the parent writes where it lets job cells in, where it may come back elsewhere.
    pub door: Option<PathBuf>,
    /// The control group in which the program runs; `None` where it has none of its own.
    pub group: Option<PathBuf>,
    /// Names this run of the job.
    pub run: RunId,
    /// What to run.
    pub work: Work,
    /// Process that launched this one; when it dies, so does this one, unless `detach_s` says otherwise. 0 for one that a
    /// scheduler has launched.
    pub launcher: u32,
}

/// What a job cell runs.
#[derive(Clone, Serialize, Deserialize)]
pub enum Work {
    /// A program of this binary, and what it is told.
    Builtin {
        /// Its name.
        program: Segment,
        /// What it is told.
        payload: Blob,
    },
    /// A program of this machine.
    Program {
        /// The program and its arguments.
        argv: Vec<String>,
        /// The variables that the job sets for it.
        environment: BTreeMap<String, String>,
        /// What it may use.
        limits: Limits,
        /// The values that the job gives it.
        arguments: BTreeMap<String, Value>,
    },
    /// Nothing: somebody else starts a process and attaches it.
    Attached {
        /// The values that the job gives it.
        arguments: BTreeMap<String, Value>,
    },
}

/// What a program may use, on its way to the job cell.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    cpu_s: Option<u64>,
    memory_mib: Option<u64>,
    open_files: Option<u64>,
    processes: Option<u64>,
    file_mib: Option<u64>,
    cpus: Option<u64>,
}

impl From<ProgramLimits> for Limits {
    fn from(limits: ProgramLimits) -> Self {
        let ProgramLimits { cpu_s, memory_mib, open_files, processes, file_mib, cpus } = limits;
        Self { cpu_s, memory_mib, open_files, processes, file_mib, cpus }
    }
}

impl From<Limits> for ProgramLimits {
    fn from(limits: Limits) -> Self {
        let Limits { cpu_s, memory_mib, open_files, processes, file_mib, cpus } = limits;
        Self { cpu_s, memory_mib, open_files, processes, file_mib, cpus }
    }
}

/// What a job cell is told about its job.
pub(super) struct Birth {
    pub id: JobId,
    pub name: Fqcn,
    pub address: SocketAddr,
    pub cells: Vec<(Fqcn, CellKind)>,
    pub socket_dir: PathBuf,
    pub work_dir: PathBuf,
    pub server_cell: Fqcn,
    pub site_cells: Vec<Fqcn>,
    pub idle_s: u32,
    pub detach_s: u32,
    pub door: Option<PathBuf>,
    pub group: Option<PathBuf>,
    pub run: RunId,
    pub work: Work,
    pub is_on_cluster: bool,
}

impl JobBootstrap {
    /// The bootstrap of a job cell below `own`.
    pub(super) fn new(own: &Own, issued: &Issued, birth: Birth) -> Self {
        let Birth { id, name, address, cells, socket_dir, work_dir, .. } = birth;
        let Birth { server_cell, site_cells, idle_s, detach_s, door, group, run, work, .. } = birth;
        let is_on_cluster = birth.is_on_cluster;
        Self {
            version: VERSION,
            id,
            name,
            server: own.server.clone(),
            parent: own.name.clone(),
            address,
            parent_leaf: Blob(own.certificate().hash().to_vec()),
            chain: issued.chain().iter().map(|der| Blob(der.to_vec())).collect(),
            key: Blob(issued.key().secret_der().to_vec()),
            roots: own.roots.ders().iter().map(|der| Blob(der.to_vec())).collect(),
            cells,
            socket_dir,
            work_dir,
            server_cell,
            site_cells,
            idle_s,
            detach_s,
            door,
            group,
            run,
            work,
            launcher: if is_on_cluster { 0 } else { std::process::id() },
        }
    }

    /// Whether a scheduler has launched this process, perhaps on another machine than its cell's.
    #[must_use]
    pub fn is_on_cluster(&self) -> bool {
        self.launcher == 0
    }

    /// The key, for its one use.
    #[must_use]
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.key.0.clone())
    }

    /// The bytes for the one process that it is for. They hold the key.
    pub(super) fn to_bytes(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        Ok(Zeroizing::new(rmp_serde::to_vec(self).map_err(io::Error::other)?))
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
        write!(f, "JobBootstrap({}, {}, ***)", self.name, self.id)
    }
}
