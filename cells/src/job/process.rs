//! The process of a job cell.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
    tls::{ChainError, Roots},
};
use rustix::process::Signal;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::JobBootstrap;
use crate::{
    programs::{Program, ProgramError},
    up::StopSignals,
};

/// The argument that makes this binary a job cell. Nobody types it.
pub const VERB: &str = "job-cell";

/// Variables that a job cell, and what it starts, inherits.
const ENVIRONMENT: [&str; 6] = ["PATH", "HOME", "TZ", "LANG", "LC_ALL", "TMPDIR"];

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
    /// The program is none of this binary.
    #[error("this binary has no program `{0}`")]
    NoProgram(String),
    /// The program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Somebody ended it before it was done.
    #[error("ended before it was done")]
    Ended,
}

/// The part of this process's environment that a job cell gets.
pub(super) fn allowed_environment() -> impl Iterator<Item = (OsString, OsString)> {
    ENVIRONMENT
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|value| (name.into(), value)))
}

/// Sends a signal to the process group that `leader` leads.
pub(super) fn signal_group(leader: Option<u32>, signal: Signal) {
    let group =
        leader.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // Fails only for a group that is gone.
        let _ = rustix::process::kill_process_group(group, signal);
    }
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
    follow_launcher(&bootstrap)?;
    let program = Program::find(&bootstrap.program)
        .ok_or_else(|| JobCellError::NoProgram(bootstrap.program.to_string()))?;
    let cell = start(&bootstrap)?;
    let registered = tokio::time::timeout(REGISTER, cell.wait_for(CellState::Ready)).await;
    if registered.is_err() || cell.state() != CellState::Ready {
        cell.stop();
        return Err(JobCellError::NotRegistered);
    }
    let mut signals = StopSignals::listen()?;
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Err(JobCellError::Ended),
        outcome = program.run(&cell, &bootstrap) => outcome.map_err(JobCellError::from),
    };
    cell.drain(Duration::from_secs(5)).await;
    outcome
}

/// Nothing of this process's memory is for others to see.
fn harden() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// A job cell does not outlive the cell that launched it.
fn follow_launcher(bootstrap: &JobBootstrap) -> Result<(), JobCellError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(io::Error::from)?;
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    let launched_by = parent.and_then(|pid| u32::try_from(pid.get()).ok());
    if launched_by != Some(bootstrap.launcher) {
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
    let directory: Arc<Directory> = Arc::new(bootstrap.cells.iter().cloned().collect());
    let transport = QuicTransport::new(QuicSettings::default())?;
    let any = match bootstrap.address {
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
        SocketAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)),
    };
    let port = QuicPort::dialling(&transport, any)?;
    let checks = Checks { wall, counters: Arc::clone(&own.counters) };
    let target = DialTarget::Host(bootstrap.address.to_string());
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
