//! What the programs of one cell are started by: the launcher of processes, and that of the cluster which the cell uses.
//!
//! A launcher for clusters is a crate that this one does not know; whoever starts cells hands in how one is opened.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cellbus_launch::{Handle, Launcher, ProcessLauncher};
use cellbus_proto::{
    causes::with_sources,
    job::{ClusterSpec, LauncherKind},
    topology::Topology,
};
use cellbus_runtime::secret_file::create_private_dir;

use super::LaunchError;

/// Opens the launcher of a cluster whose steps it meets in the directory, which is private to the cell.
type Open = dyn Fn(&ClusterSpec, &Path) -> Result<Arc<dyn Launcher>, Box<dyn Error + Send + Sync>>
    + Send
    + Sync;

/// How the launcher of a cluster is opened.
#[derive(Clone)]
pub struct OpenCluster(Arc<Open>);

impl OpenCluster {
    /// By `open`, which is called once for each cell that uses a cluster, and is told a directory that is that cell's own.
    pub fn new(
        open: impl Fn(&ClusterSpec, &Path) -> Result<Arc<dyn Launcher>, Box<dyn Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }
}

impl fmt::Debug for OpenCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenCluster")
    }
}

/// The launchers of one cell.
pub(super) struct Launchers {
    process: Arc<dyn Launcher>,
    /// `None` where the cell uses no cluster; else it, or why it cannot be used.
    cluster: Option<Result<Arc<dyn Launcher>, String>>,
}

/// How long what a launcher does may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// From being told to end until a job cell is made to, and from then until it counts as lost.
    pub grace: Duration,
    /// For what it printed last to be read.
    pub last_words: Duration,
}

impl Launchers {
    /// The launchers of the cell with this base name, and where the directories of its jobs are: `own`, unless nodes
    /// of a cluster are to see them.
    pub(super) fn of(
        topology: &Topology,
        cell: &str,
        open: Option<&OpenCluster>,
        own: PathBuf,
    ) -> io::Result<(Self, PathBuf)> {
        let process = |dir: &Path| -> io::Result<Arc<dyn Launcher>> {
            Ok(Arc::new(ProcessLauncher::of_this_program()?.with_pipes_in(dir)))
        };
        let Some(spec) = topology.cluster_of(cell) else {
            let process = process(&own)?;
            return Ok((Self { process, cluster: None }, own));
        };
        let shared = Path::new(&spec.directory).join(cell);
        let opened = open.ok_or_else(|| "this program has no launcher for clusters".into());
        let opened = opened.and_then(|open| {
            create_private_dir(Path::new(&spec.directory))?;
            create_private_dir(&shared)?;
            (open.0)(spec, &shared.join("steps"))
        });
        let cluster = opened.map_err(|error| with_sources(&*error));
        if let Err(why) = &cluster {
            tracing::error!(cell, why, "the cluster of this cell cannot be used");
        }
        let dir = shared.join("jobs");
        Ok((Self { process: process(&dir)?, cluster: Some(cluster) }, dir))
    }

    /// That which starts programs in this way.
    pub(super) fn of_kind(&self, kind: LauncherKind) -> Result<&Arc<dyn Launcher>, LaunchError> {
        match (kind, &self.cluster) {
            (LauncherKind::Process, _) => Ok(&self.process),
            (LauncherKind::Slurm, Some(Ok(cluster))) => Ok(cluster),
            (LauncherKind::Slurm, Some(Err(why))) => Err(LaunchError::Cluster(why.clone())),
            (LauncherKind::Slurm, None) => {
                Err(LaunchError::Cluster("this cell uses none".to_owned()))
            }
        }
    }

    /// That which made `handle`.
    pub(super) fn of_handle(&self, handle: &Handle) -> &Arc<dyn Launcher> {
        let cluster = self.cluster.as_ref().and_then(|cluster| cluster.as_ref().ok());
        cluster.filter(|cluster| cluster.name() == handle.launcher).unwrap_or(&self.process)
    }
}

impl Patience {
    /// With what `handle` names. A cluster is asked now and then, and tells what happens on its nodes late.
    pub(super) fn with(handle: &Handle) -> Self {
        if handle.launcher == ProcessLauncher::NAME {
            return Self { grace: Duration::from_secs(5), last_words: Duration::from_secs(2) };
        }
        // Less than a server waits for the end of a part that it does not want.
        Self { grace: Duration::from_secs(12), last_words: Duration::from_secs(10) }
    }
}
