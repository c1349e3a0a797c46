//! Hands cells the launcher of Slurm clusters, which they do not know themselves.

use std::{error::Error, path::Path, sync::Arc};

use cellbus_cells::job::{Launcher, OpenCluster};
use cellbus_proto::job::ClusterSpec;
use cellbus_slurm::SlurmLauncher;

/// How the cells of this process get at their clusters: by steps that are this very program.
pub fn open() -> OpenCluster {
    OpenCluster::new(open_slurm)
}

fn open_slurm(
    cluster: &ClusterSpec,
    shared: &Path,
) -> Result<Arc<dyn Launcher>, Box<dyn Error + Send + Sync>> {
    let step = std::env::current_exe()?;
    let launcher = SlurmLauncher::open(cluster.slurm.clone(), shared, &step)?;
    // Job cells of an earlier life find their parent no more: nobody would let them in.
    let sweep = launcher.sweep_now(&[])?;
    tokio::spawn(async move {
        match sweep.await {
            Ok(0) => {}
            Ok(swept) => {
                tracing::info!(swept, "what an earlier life gave to the cluster was ended")
            }
            Err(error) => {
                tracing::warn!(%error, "what an earlier life gave to the cluster may go on");
            }
        }
    });
    Ok(Arc::new(launcher))
}
