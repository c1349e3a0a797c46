//! The process of a job cell.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cellbus_launch::Exit;
use cellbus_proto::{
    directory::Directory, envelope::Incarnation, identity::CellKind, name::Fqcn, policy::Policy,
};
use cellbus_runtime::{
    authority::{OwnCertificate, OwnCertificateError},
    carrier::DialTarget,
    cell::{CellSettings, CellState, RootError, Roster},
    clock::WallClock,
    endpoint::EndpointSettings,
    host::{CellStart, RunningCell},
    own::Own,
    quic::{Checks, QuicPort, QuicPortError},
    quic_settings::{QuicSettings, QuicSettingsError, QuicTransport},
    secret_file::write_secret_file,
    tls::{ChainError, Roots},
};
use rustix::process::Signal;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::JobBootstrap;
use crate::{
    programs::{self, ProgramError},
    up::StopSignals,
};

/// The argument that makes this binary a job cell. Nobody types it.
pub const VERB: &str = "job-cell";

/// Variables that a job cell, and what it starts, inherits.
const ENVIRONMENT: [&str; 6] = ["PATH", "HOME", "TZ", "LANG", "LC_ALL", "TMPDIR"];

/// Variable with what names the run of the job. Together with [`CELL_VARIABLE`] it finds the processes of a part when
/// nobody else knows them.
pub const RUN_VARIABLE: &str = "CELLBUS_RUN";
/// Variable with the full name of the job cell.
pub const CELL_VARIABLE: &str = "CELLBUS_CELL";

/// File in which a job cell that may outlive its launcher says with which code it ends, as text.
pub(super) const LAST_WORD: &str = "exit";

/// Without a parent for so long, a job cell on a cluster ends: a cell that dies cannot end what runs on another machine.
const LOST_ON_CLUSTER: Duration = Duration::from_secs(60);

/// Between two looks at whether the parent is there.
const LOOK: Duration = Duration::from_secs(1);

/// Time that a job cell has to register.
const REGISTER: Duration = Duration::from_secs(20);

/// Why a job cell failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobCellError {
    /// It has no bootstrap, or the system refuses something basic.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its certificate and key are none.
    #[error("certificate")]
    Certificate(#[from] OwnCertificateError),
    /// The project's roots are none.
    #[error("roots")]
    Roots(#[from] ChainError),
    /// The bootstrap is incomplete.
    #[error("bootstrap: {0}")]
    Bootstrap(&'static str),
    /// The transport cannot be made.
    #[error("transport")]
    Settings(#[from] QuicSettingsError),
    /// No port.
    #[error("port")]
    Port(#[from] QuicPortError),
    /// It cannot start.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Its parent did not let it in.
    #[error("not registered within {REGISTER:?}")]
    NotRegistered,
    /// The program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl JobCellError {
    /// The exit code of the process of a job cell that failed so.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let code = match self {
            Self::Program(error) => error.exit_code(),
            Self::NotRegistered => Exit::NOT_LET_IN,
            Self::Io(_)
            | Self::Certificate(_)
            | Self::Roots(_)
            | Self::Bootstrap(_)
            | Self::Settings(_)
            | Self::Port(_)
            | Self::Root(_) => Exit::NOT_STARTED,
        };
        u8::try_from(code).unwrap_or(1)
    }
}

/// What a scheduler has told this process of its place.
pub(crate) fn environment_of_scheduler() -> impl Iterator<Item = (OsString, OsString)> {
    cellbus_launch::FROM_SCHEDULER
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value)))
}

/// The part of this process's environment that a job cell gets.
pub(crate) fn allowed_environment() -> impl Iterator<Item = (OsString, OsString)> {
    ENVIRONMENT
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value)))
}

#[derive(Debug)]
struct NoChildren(Arc<Directory>);

impl Roster for NoChildren {
    fn child_kind(&self, _: &Fqcn) -> Option<CellKind> {
        None
    }

    fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        self.0.kind_of(name)
    }
}

/// Runs as the job cell that standard input describes, until its program is done.
///
/// # Errors
/// [`JobCellError`].
pub async fn run() -> Result<(), JobCellError> {
    harden()?;
    let bootstrap = JobBootstrap::from_stdin()?;
    let outcome = live(&bootstrap).await;
    if bootstrap.detach_s > 0 {
        let code = outcome.as_ref().map_or_else(JobCellError::exit_code, |()| 0);
        let path = bootstrap.socket_dir.join(LAST_WORD);
        // Where it cannot be written, or nobody asks any longer, the part is lost.
        if let Err(error) = write_secret_file(&path, code.to_string().as_bytes()) {
            tracing::warn!(%error, "how this ended cannot be written down");
        }
    }
    outcome
}

async fn live(bootstrap: &JobBootstrap) -> Result<(), JobCellError> {
    follow_launcher(bootstrap)?;
    cellbus_launch::ProcessLauncher::adopt_orphans()?;
    let mut signals = StopSignals::listen()?;
    let cell = start(bootstrap)?;
    let registered = tokio::select! {
        biased;
        () = signals.next() => return Err(ProgramError::Stopped.into()),
        registered = tokio::time::timeout(REGISTER, cell.wait_for(CellState::Ready)) => registered,
    };
    if registered.is_err() || cell.state() != CellState::Ready {
        cell.stop();
        return Err(JobCellError::NotRegistered);
    }
    if bootstrap.detach_s > 0 {
        // From here on its parent has it in its records, and will know it when it comes back.
        rustix::process::set_parent_process_death_signal(None).map_err(io::Error::from)?;
    }
    let limit = if bootstrap.is_on_cluster() {
        LOST_ON_CLUSTER
    } else {
        Duration::from_secs(u64::from(bootstrap.detach_s))
    };
    let is_forsaken = std::cell::Cell::new(false);
    let stop = async {
        tokio::select! {
            () = signals.next() => {}
            () = away(&cell, limit) => is_forsaken.set(true),
        }
    };
    let outcome = match programs::run(&cell, bootstrap, stop).await {
        Err(ProgramError::Stopped) if is_forsaken.get() => Err(ProgramError::Forsaken(limit)),
        outcome => outcome,
    };
    let patience = match outcome {
        // Whoever ended it waits for it.
        Err(ProgramError::Stopped | ProgramError::Forsaken(_)) => Duration::from_millis(500),
        Ok(()) | Err(_) => Duration::from_secs(5),
    };
    cell.drain(patience).await;
    Ok(outcome?)
}

/// Ends when the parent was away for `limit`; never, where that is nothing: then this process dies with it.
async fn away(cell: &RunningCell, limit: Duration) {
    if limit.is_zero() {
        return std::future::pending().await;
    }
    let mut since: Option<tokio::time::Instant> = None;
    loop {
        tokio::time::sleep(LOOK.min(limit)).await;
        if cell.state() == CellState::Ready {
            since = None;
        } else if since.get_or_insert_with(tokio::time::Instant::now).elapsed() >= limit {
            return;
        }
    }
}

/// Nothing of this process's memory is for others to see.
fn harden() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// A job cell does not outlive the cell that launched it, unless it is let to later.
fn follow_launcher(bootstrap: &JobBootstrap) -> Result<(), JobCellError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(io::Error::from)?;
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    let launched_by = parent.and_then(|pid| u32::try_from(pid.get()).ok());
    // Of a step on another machine nothing is known here but that it is the parent of this process.
    if !bootstrap.is_on_cluster() && launched_by != Some(bootstrap.launcher) {
        return Err(JobCellError::Bootstrap("whoever launched this process is gone"));
    }
    Ok(())
}

fn start(bootstrap: &JobBootstrap) -> Result<RunningCell, JobCellError> {
    let chain = bootstrap.chain.iter().map(|der| CertificateDer::from(der.0.clone())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bootstrap.key().to_vec()));
    let certificate = OwnCertificate::new(chain, &key)?;
    let roots = bootstrap.roots.iter().map(|der| CertificateDer::from(der.0.clone())).collect();
    let parent_leaf = <[u8; 32]>::try_from(bootstrap.parent_leaf.0.as_slice())
        .map_err(|_| JobCellError::Bootstrap("no certificate hash of the parent"))?;
    let wall = WallClock::system();
    let own = Arc::new(Own::new(
        bootstrap.name.clone(),
        bootstrap.server.clone(),
        Some(bootstrap.parent.clone()),
        volatile_incarnation()?,
        certificate,
        Arc::new(Roots::new(roots)?),
        wall,
    ));
    let directory: Arc<Directory> =
        Arc::new(bootstrap.cells.iter().cloned().collect::<Directory>().with_jobs_at_relays());
    let transport = QuicTransport::new(QuicSettings::default())?;
    let any = match bootstrap.address {
        SocketAddr::V4(at) if !at.ip().is_loopback() => {
            SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0))
        }
        SocketAddr::V6(at) if !at.ip().is_loopback() => {
            SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0))
        }
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)),
    };
    let port = QuicPort::dialling(&transport, any)?;
    let checks = Checks { wall, counters: Arc::clone(&own.counters) };
    let target = bootstrap
        .door
        .clone()
        .map_or_else(|| DialTarget::Host(bootstrap.address.to_string()), DialTarget::File);
    let dial = port.dial_pinned(&own.certificate(), parent_leaf, target, &checks)?;
    Ok(cellbus_runtime::host::start(CellStart {
        own,
        policy: Arc::new(Policy::new(1, Vec::new())),
        roster: Arc::new(NoChildren(Arc::clone(&directory))),
        directory,
        dial: Some(dial),
        accept: None,
        cell: CellSettings::default(),
        endpoint: EndpointSettings::default(),
        hops_max: cellbus_proto::admission::Gate::HOPS_MAX,
    })?)
}

/// A cell without a state directory counts by the clock.
fn volatile_incarnation() -> io::Result<Incarnation> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let counter = u64::try_from(since.as_micros()).map_err(io::Error::other)?;
    Ok(Incarnation { counter, nonce: getrandom::u64().map_err(io::Error::other)? })
}
