//! The cells of one process: from a topology and a state directory to running cells.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use cellbus_proto::{
    directory::Directory,
    identity::{CellKind, Identity},
    name::{Fqcn, Segment},
    renewal::RenewedBy,
    topology::{CellSpec, Topology},
};
use cellbus_runtime::{
    authority::{
        Credentials, CredentialsError, DevCredentialsError, IssuerError, IssuingAuthority,
        ensure_dev_credentials,
    },
    carrier::{Accept, Dial, DialTarget},
    cell::{CellSettings, CellState, RootError, Roster},
    clock::WallClock,
    host::{CellStart, RunningCell},
    joining::JoinDoor,
    lists::ListsError,
    own::Own,
    quic::{Admits, Checks, LateAccept, PortKeys, QuicPort, QuicPortError, SharedLateAccept},
    quic_settings::{QuicSettingsError, QuicTransport},
    secret_file::{SecretFileError, create_private_dir, write_secret_file},
    state_dir::{StateDir, StateDirError},
    tls::PinnedPeers,
};
use tokio::sync::Notify;

use self::{all_figures::AllFigures, sources::Sources};
use crate::{
    control::{self, ControlSocket},
    door::{Desk, DoorOpenError, DoorSettings, Sign},
    job::{JobHost, OpenCluster},
    metrics::Figures,
};

mod all_figures;
mod controlled;
mod jobs;
mod listed;
mod observed;
mod renewal;
mod rules;
mod settings;
mod sources;
mod talks;
#[cfg(test)]
mod tests;
mod transfers;

pub use self::{
    rules::{LiveRules, Reload, RulesSource},
    settings::figures,
};

/// File in a cell's state directory that says where it listens.
const ADDRESS_FILE: &str = "address";
/// Directory below the project's state in which development certificates lie.
const DEV_PKI: &str = "pki";
/// Directory below a cell's state in which it keeps the signed lists.
const LISTS: &str = "lists";
/// Directory below a server's state in which its join door keeps invitations and letters.
const JOIN: &str = "join";
/// Directory below a cell's state in which its own credentials lie, and signed lists that came with them.
const CREDENTIALS: &str = "credentials";

/// Why a cell cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpError {
    /// The topology has no such cell.
    #[error("the topology has no cell `{0}`")]
    NoSuchCell(String),
    /// A state directory cannot be used.
    #[error("state of cell `{cell}`")]
    State {
        /// The cell.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: StateDirError,
    },
    /// A file or directory of the state cannot be written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// Development certificates cannot be minted.
    #[error("development certificates")]
    Dev(#[from] DevCredentialsError),
    /// The cell's own credentials cannot be used.
    #[error(
        "credentials of cell `{cell}`: without `dev = true` in the topology, every cell needs root.crt, \
         cell.crt and cell.key in {dir}"
    )]
    Credentials {
        /// The cell.
        cell: Fqcn,
        /// Where they are looked for.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<CredentialsError>,
    },
    /// The server's issuing authority cannot be used.
    #[error("issuing authority of `{cell}`")]
    Issuer {
        /// The server.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: Box<IssuerError>,
    },
    /// The limits of the topology make no transport.
    #[error("transport settings")]
    Settings(#[from] QuicSettingsError),
    /// A port cannot be opened.
    #[error("port of cell `{cell}`")]
    Port {
        /// The cell.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: Box<QuicPortError>,
    },
    /// The control socket cannot be made.
    #[error("control socket of cell `{cell}`")]
    Control {
        /// The cell.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: control::BindError,
    },
    /// The address for figures cannot be listened on.
    #[error("metrics at {address}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The signed lists of a cell cannot be used, or are not those that the topology demands.
    #[error("signed lists of cell `{cell}`")]
    Lists {
        /// The cell.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: ListsError,
    },
    /// The join door cannot be opened.
    #[error("join door of cell `{cell}`")]
    Door {
        /// The cell.
        cell: Fqcn,
        /// What is wrong.
        #[source]
        source: DoorOpenError,
    },
    /// The server cannot issue tokens.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// What the cells of one process share.
pub struct Node {
    topology: Arc<Topology>,
    directory: Arc<Directory>,
    rules: Arc<LiveRules>,
    figures: AllFigures,
    /// State of the project.
    root: PathBuf,
    wall: WallClock,
    transport: QuicTransport,
    /// The port from which sites dial.
    dialler: Option<QuicPort>,
    dev: Vec<Credentials>,
    /// Where credentials lie that are not in the state directory.
    credentials_dir: Option<PathBuf>,
    renewed_by: Option<RenewedBy>,
    /// Whether its one cell has a join door, and where.
    door: Option<DoorSettings>,
    /// How the launchers of clusters are opened.
    clusters: Option<OpenCluster>,
}

/// One cell of this process.
#[derive(Clone)]
pub struct NodeCell {
    running: RunningCell,
    spec: CellSpec,
    dir: PathBuf,
    jobs: Arc<JobDoor>,
    host: Arc<OnceLock<JobHost>>,
    leave: Arc<Notify>,
    door: Option<Desk>,
    door_address: Option<SocketAddr>,
    _state: Arc<StateDir>,
}

/// How a cell's own job cells come in.
pub struct JobDoor {
    /// Hashes of the certificates of living job cells.
    pub pins: Arc<PinnedPeers>,
    open: Box<dyn Fn() -> Result<SocketAddr, QuicPortError> + Send + Sync>,
}

/// Who may attach to one cell: its children in the topology, and its job cells.
#[derive(Debug)]
struct TopologyRoster {
    own: Fqcn,
    topology: Arc<Topology>,
    directory: Arc<Directory>,
}

impl Roster for TopologyRoster {
    fn child_kind(&self, name: &Fqcn) -> Option<CellKind> {
        let kind = self.directory.kind_of(name)?;
        let below = match kind {
            CellKind::Job => name.parent().as_ref() == Some(&self.own),
            CellKind::Server | CellKind::Relay | CellKind::Client | CellKind::Admin => {
                self.topology.is_child_of(&self.own, name.base())
            }
        };
        below.then_some(kind)
    }

    fn kind_of(&self, name: &Fqcn) -> Option<CellKind> {
        self.directory.kind_of(name)
    }
}

/// Opens the job door of a cell, once, and says where it is.
impl JobDoor {
    /// Where job cells dial.
    ///
    /// # Errors
    /// [`QuicPortError`] when a site's loopback port cannot be opened.
    pub fn open(&self) -> Result<SocketAddr, QuicPortError> {
        (self.open)()
    }
}

fn identity(topology: &Topology, spec: &CellSpec) -> Identity {
    Identity {
        project: topology.project.clone(),
        kind: spec.kind,
        name: spec.name.clone().into(),
        org: spec.org.clone(),
        role: None,
    }
}

impl Node {
    /// Prepares what the cells of this process share, with state below `root`.
    ///
    /// # Errors
    /// [`UpError`] when the state cannot be used or development certificates cannot be minted.
    pub fn prepare(topology: Topology, root: PathBuf) -> Result<Self, UpError> {
        let wall = WallClock::system();
        let transport = QuicTransport::new(figures::quic(&topology.limits))?;
        let dev = if topology.dev {
            create_private_dir(&root)?;
            let cells: Vec<(Identity, Vec<String>)> = topology
                .cells()
                .iter()
                .map(|spec| (identity(&topology, spec), spec.hosts.clone()))
                .collect();
            let project = &topology.project;
            ensure_dev_credentials(&root.join(DEV_PKI), project, &cells, wall.unix())?
        } else {
            Vec::new()
        };
        let topology = Arc::new(topology);
        Ok(Self {
            directory: Arc::new(topology.directory()),
            rules: Arc::new(LiveRules::new(&topology)),
            figures: AllFigures::default(),
            topology,
            root,
            wall,
            transport,
            dialler: None,
            dev,
            credentials_dir: None,
            renewed_by: None,
            door: None,
            clusters: None,
        })
    }

    /// Lets the rules be read again from this file, while cells run.
    pub fn reads_rules_from(&self, file: &Path) {
        self.rules.read_from(file);
    }

    /// Lets the rules be read again by `source`, while cells run.
    pub fn reads_rules_by(&self, source: RulesSource) {
        self.rules.read_by(source);
    }

    /// Takes the credentials of the one cell of this process from `dir`, unless those in its state directory are
    /// newer, as they are once a certificate has been renewed.
    pub fn takes_credentials_from(&mut self, dir: &Path) {
        self.credentials_dir = Some(dir.to_owned());
    }

    /// Says where the next certificate of the one cell of this process comes from, where whoever provisioned it has said so.
    pub fn is_renewed_by(&mut self, by: Option<RenewedBy>) {
        self.renewed_by = by;
    }

    /// Opens a join door beside the one cell of this process, which must be a server.
    pub fn opens_door(&mut self, settings: DoorSettings) {
        self.door = Some(settings);
    }

    /// Lets cells give programs to clusters, by what `open` opens.
    pub fn opens_clusters_by(&mut self, open: OpenCluster) {
        self.clusters = Some(open);
    }

    /// How the launchers of clusters are opened, where they are.
    #[must_use]
    pub fn clusters(&self) -> Option<&OpenCluster> {
        self.clusters.as_ref()
    }

    /// Where job cells of the cell with this base name reach it: on this machine, or from the nodes of a cluster.
    fn job_address(&self, cell: &Segment) -> Option<IpAddr> {
        self.topology.cluster_of(cell.as_str()).and_then(|cluster| cluster.address)
    }

    /// The figures of the cells of this process.
    #[must_use]
    pub fn all_figures(&self) -> Arc<dyn Figures> {
        Arc::new(self.figures.clone())
    }

    /// The rules that the cells of this process decide by.
    #[must_use]
    pub fn rules(&self) -> &Arc<LiveRules> {
        &self.rules
    }

    /// The topology.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Every provisioned cell and its kind.
    #[must_use]
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    fn credentials(&self, spec: &CellSpec, dir: &Path) -> Result<Credentials, UpError> {
        let minted = self.topology.cells().iter().position(|cell| cell.name == spec.name);
        if let Some(own) = minted.and_then(|index| self.dev.get(index)) {
            return Ok(own.clone());
        }
        let sources = self.sources(spec, dir);
        sources.best(self.wall.unix()).map_err(|source| {
            let (cell, dir) = (spec.fqcn.clone(), sources.given().to_owned());
            UpError::Credentials { cell, dir, source: Box::new(source) }
        })
    }

    /// Where the credentials of a cell lie.
    fn sources(&self, spec: &CellSpec, dir: &Path) -> Sources {
        let wanted = identity(&self.topology, spec);
        if self.topology.dev {
            let name = spec.name.clone().into();
            let given = cellbus_runtime::authority::cell_dir(&self.root.join(DEV_PKI), &name);
            return Sources::fixed(given, wanted);
        }
        let kept = dir.join(CREDENTIALS);
        match &self.credentials_dir {
            Some(given) => Sources::renewed_in(dir, given.clone(), Some(kept), wanted),
            None => Sources::renewed_in(dir, kept, None, wanted),
        }
    }

    /// What certifies cells again, where the server was given that.
    fn issuer(&self, spec: &CellSpec, given: &Path) -> Result<Option<IssuingAuthority>, UpError> {
        if spec.kind != CellKind::Server || self.topology.dev {
            return Ok(None);
        }
        let cells = self.topology.cells().iter();
        let hosts = cells.map(|cell| (cell.name.to_string(), cell.hosts.clone())).collect();
        IssuingAuthority::load(given, &self.topology.project, hosts)
            .map_err(|source| UpError::Issuer { cell: spec.fqcn.clone(), source: Box::new(source) })
    }

    /// Starts one cell on this thread, which must be one of actix.
    ///
    /// # Errors
    /// [`UpError`]; nothing of the cell runs then.
    pub fn start(&mut self, name: &str) -> Result<NodeCell, UpError> {
        let spec =
            self.topology.cell(name).ok_or_else(|| UpError::NoSuchCell(name.to_owned()))?.clone();
        let dir = control::cell_dir(&self.root, &spec.fqcn);
        // Before anything is made: a cell without credentials leaves no trace.
        let credentials = self.credentials(&spec, &dir)?.separate();
        create_private_dir(&self.root)?;
        let state_failed = |source| UpError::State { cell: spec.fqcn.clone(), source };
        let mut state = StateDir::open(&dir).map_err(state_failed)?;
        let incarnation = state.next_incarnation().map_err(state_failed)?;
        let keys = PortKeys {
            reset: state.reset_key().map_err(state_failed)?,
            connection_ids: state.connection_id_key().map_err(state_failed)?,
        };
        let topology = Arc::clone(&self.topology);
        let parent = spec.parent.as_ref().and_then(|parent| topology.cell(parent.as_str()));
        let own = Arc::new(Own::new(
            spec.fqcn.clone(),
            self.topology.server().fqcn.clone(),
            parent.map(|parent| parent.fqcn.clone()),
            cellbus_proto::envelope::Incarnation {
                counter: incarnation.counter,
                nonce: incarnation.nonce,
            },
            credentials.certificate(),
            Arc::clone(credentials.roots()),
            self.wall,
        ));
        let lists_failed = |source| UpError::Lists { cell: spec.fqcn.clone(), source };
        let kept = dir.join(CREDENTIALS);
        let given = self.credentials_dir.as_deref().unwrap_or(&kept);
        own.lists.open(&dir.join(LISTS), given, self.topology.lists).map_err(lists_failed)?;
        own.lists.expect_own(&own.certificate().hash()).map_err(lists_failed)?;
        own.lists.expect_authority(own.certificate().chain()).map_err(lists_failed)?;
        let sources = self.sources(&spec, &dir);
        let issuer = self.issuer(&spec, sources.given())?;
        let by_itself = issuer.as_ref().map(|_| RenewedBy::Server);
        let by =
            if own.is_root() { by_itself.or(Some(RenewedBy::People)) } else { self.renewed_by };
        by.into_iter().for_each(|by| own.set_renewed_by(by));
        issuer.into_iter().for_each(|issuer| own.set_issuer(issuer));
        let checks = Checks { wall: self.wall, counters: Arc::clone(&own.counters) };
        let pins = Arc::new(PinnedPeers::new());
        let port_failed =
            |source| UpError::Port { cell: spec.fqcn.clone(), source: Box::new(source) };
        let ports =
            self.ports(&spec, &dir, &credentials, &keys, &pins, &checks).map_err(port_failed)?;
        if let Some(address) = ports.listening.as_ref().and_then(QuicPort::address) {
            write_secret_file(&dir.join(ADDRESS_FILE), address.to_string().as_bytes())?;
        }
        let opened = self
            .open_door(&spec, &dir, &credentials)
            .map_err(|source| UpError::Door { cell: spec.fqcn.clone(), source })?;
        let dial = match parent {
            None => None,
            Some(parent) => {
                let target = self.dial_target(parent);
                let port = ports.dialling(self).map_err(port_failed)?;
                Some(
                    port.dial_parent(&credentials, &parent.name, target, &checks)
                        .map_err(port_failed)?,
                )
            }
        };
        let running = cellbus_runtime::host::start(CellStart {
            own,
            policy: self.rules.policy(),
            directory: Arc::clone(&self.directory),
            roster: Arc::new(TopologyRoster {
                own: spec.fqcn.clone(),
                topology: Arc::clone(&self.topology),
                directory: Arc::clone(&self.directory),
            }),
            dial: dial as Option<Arc<dyn Dial>>,
            accept: ports.accept.clone(),
            cell: CellSettings {
                spool_dir: Some(state.path().to_owned()),
                ..figures::cell(&self.topology.limits)
            },
            endpoint: figures::endpoint(&self.topology.limits),
            hops_max: self.topology.limits.hops_max,
        })?;
        let on_disk = renewal::OnDisk::new(&running, &credentials, sources)
            .given(self.credentials_dir.as_deref());
        self.rules.add(running.clone(), on_disk.clone());
        actix_rt::spawn(on_disk.watch());
        let door_address = opened.as_ref().and_then(|(door, _)| door.address());
        let door = opened.map(|(door, desk)| {
            actix_rt::spawn(door.serve(Arc::new(desk.clone())));
            desk
        });
        let cell = NodeCell {
            running,
            spec: spec.clone(),
            jobs: Arc::new(JobDoor { pins, open: ports.job_door }),
            host: Arc::default(),
            leave: Arc::new(Notify::new()),
            door,
            door_address,
            _state: Arc::new(state),
            dir,
        };
        let socket = ControlSocket::bind(&cell.dir)
            .map_err(|source| UpError::Control { cell: spec.fqcn, source })?;
        let controlled = controlled::ControlledCell::new(&cell, self);
        self.figures.add(controlled.clone());
        actix_rt::spawn(socket.serve(Arc::new(controlled)));
        Ok(cell)
    }

    /// Where the children of `parent` dial it: what the topology says, or, for a port that is known only
    /// once it is open, what the parent has written on this machine.
    fn dial_target(&self, parent: &CellSpec) -> DialTarget {
        let ephemeral = parent.dial.is_none() && parent.listen.is_some_and(|at| at.port() == 0);
        match parent.dial_target() {
            Some(host) if !ephemeral => DialTarget::Host(host),
            Some(_) | None => {
                let dir = control::cell_dir(&self.root, &parent.fqcn);
                DialTarget::File(dir.join(ADDRESS_FILE))
            }
        }
    }

    fn ports(
        &self,
        spec: &CellSpec,
        dir: &Path,
        credentials: &Credentials,
        keys: &PortKeys,
        pins: &Arc<PinnedPeers>,
        checks: &Checks,
    ) -> Result<Ports, QuicPortError> {
        let Some(address) = spec.listen else {
            let at = self.job_address(&spec.name);
            return Ok(self.site_ports(at, credentials, pins, checks));
        };
        let admits = Admits::Project(credentials);
        let port = QuicPort::listening(&self.transport, address, keys, admits, pins, checks)?;
        const ENOUGH: usize = 1 << 20;
        if port.receive_buffer() < ENOUGH && !address.ip().is_loopback() {
            tracing::warn!(
                cell = %spec.fqcn, bytes = port.receive_buffer(),
                "the kernel keeps few packets for this port; raise net.core.rmem_max to 4194304"
            );
        }
        tracing::debug!(cell = %spec.fqcn, dir = %dir.display(), "port is open");
        let bound = port.address();
        let from_nodes = self.job_address(&spec.name);
        Ok(Ports {
            accept: Some(port.accept()),
            listening: Some(port),
            job_door: Box::new(move || {
                let mut address = bound.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
                if let Some(at) = from_nodes.filter(|_| address.ip().is_unspecified()) {
                    address.set_ip(at);
                } else if address.ip().is_unspecified() {
                    address.set_ip(match address {
                        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                    });
                }
                Ok(address)
            }),
        })
    }

    /// A site listens to nobody but its own job cells, on loopback or where nodes of its cluster reach it, and only once
    /// it has one.
    fn site_ports(
        &self,
        at: Option<IpAddr>,
        credentials: &Credentials,
        pins: &Arc<PinnedPeers>,
        checks: &Checks,
    ) -> Ports {
        let late = Arc::new(LateAccept::default());
        let accept: Arc<dyn Accept> = Arc::new(SharedLateAccept::new(Arc::clone(&late)));
        let (transport, own) = (self.transport.clone(), credentials.presented().clone());
        let (pins, checks) = (Arc::clone(pins), checks.clone());
        let open = move || {
            let port = late.ensure(|| {
                // Job cells do not outlive the site's process, so nobody has to recognise this port
                // after a restart, and nobody else shall be able to.
                let keys = PortKeys::drawn()?;
                let at = SocketAddr::new(at.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()), 0);
                let admits = Admits::Jobs(&own);
                QuicPort::listening(&transport, at, &keys, admits, &pins, &checks)
            })?;
            Ok(port.address().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))))
        };
        Ports { accept: Some(accept), listening: None, job_door: Box::new(open) }
    }

    /// Opens the join door, where there is to be one. Nobody is heard yet.
    fn open_door(
        &self,
        spec: &CellSpec,
        dir: &Path,
        credentials: &Credentials,
    ) -> Result<Option<(JoinDoor, Desk)>, DoorOpenError> {
        let Some(settings) = &self.door else { return Ok(None) };
        if spec.kind != CellKind::Server {
            return Err(DoorOpenError::Kind(spec.kind));
        }
        let door = JoinDoor::open(settings.listen, credentials, self.wall)?;
        let bound = door.address().unwrap_or(settings.listen);
        let found = match spec.dial_target() {
            // By the name that its children know it by, where it listens on every address.
            Some(known) if bound.ip().is_unspecified() => match known.rsplit_once(':') {
                Some((host, _)) => format!("{host}:{}", bound.port()),
                None => bound.to_string(),
            },
            Some(_) | None => bound.to_string(),
        };
        let sign = Sign {
            cell: spec.name.clone(),
            project: self.topology.project.clone(),
            address: settings.address.clone().unwrap_or(found),
        };
        let desk = Desk::open(&dir.join(JOIN), sign, self.wall)?;
        Ok(Some((door, desk)))
    }

    /// Waits until the port from which sites dial has said everything. An attempt to reach a parent that
    /// is not there has nothing to say, and would be waited for as long as it lasts.
    pub async fn finish(&self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if let Some(dialler) = &self.dialler {
            // What is not said by then, the neighbour finds out.
            let _ = tokio::time::timeout(PATIENCE, dialler.wait_idle()).await;
        }
    }
}

type OpenDoor = Box<dyn Fn() -> Result<SocketAddr, QuicPortError> + Send + Sync>;

struct Ports {
    accept: Option<Arc<dyn Accept>>,
    listening: Option<QuicPort>,
    job_door: OpenDoor,
}

impl Ports {
    /// A relay dials from the port that it listens on; sites share one.
    fn dialling(&self, node: &mut Node) -> Result<QuicPort, QuicPortError> {
        if let Some(port) = &self.listening {
            return Ok(port.clone());
        }
        if let Some(port) = &node.dialler {
            return Ok(port.clone());
        }
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let port = QuicPort::dialling(&node.transport, any)?;
        node.dialler = Some(port.clone());
        Ok(port)
    }
}

impl NodeCell {
    /// The running cell.
    #[must_use]
    pub fn running(&self) -> &RunningCell {
        &self.running
    }

    /// What the topology says about it.
    #[must_use]
    pub fn spec(&self) -> &CellSpec {
        &self.spec
    }

    /// Its state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its join door, where it has one.
    #[must_use]
    pub fn door(&self) -> Option<&Desk> {
        self.door.as_ref()
    }

    /// Where its join door listens.
    #[must_use]
    pub fn door_address(&self) -> Option<SocketAddr> {
        self.door_address
    }

    /// How its job cells come in.
    #[must_use]
    pub fn jobs(&self) -> &Arc<JobDoor> {
        &self.jobs
    }

    /// Lets people ask this cell about the jobs of `host`.
    pub(crate) fn set_jobs(&self, host: JobHost) {
        // Fails only for a second one, which serves the same jobs.
        let _ = self.host.set(host);
    }

    /// Full name.
    #[must_use]
    pub fn name(&self) -> &Fqcn {
        &self.spec.fqcn
    }

    /// Waits until it is registered and messages flow.
    pub async fn ready(&self) {
        self.running.wait_for(CellState::Ready).await;
    }

    /// Waits until somebody asks it, over its control socket, to drain or stop.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// The base name of a child for a job.
    ///
    /// # Errors
    /// When the path would be too long or have a segment twice.
    pub fn job_name(&self, job: &Segment) -> Result<Fqcn, cellbus_proto::name::NameError> {
        self.spec.fqcn.child(job)
    }
}
