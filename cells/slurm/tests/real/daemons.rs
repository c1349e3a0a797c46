//! A cluster of one machine, with daemons and keys of its own, on ports of its own, that ends with its cases.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cellbus_runtime::secret_file::write_secret_file;

/// How long anything here may take on the slowest machine.
pub(crate) const LONG: Duration = Duration::from_secs(180);
/// Processors that the machine of the cluster says it has.
pub(crate) const CPUS: u32 = 4;

pub(crate) struct Cluster {
    pub dir: tempfile::TempDir,
    munged: Option<Child>,
    controller: Option<Child>,
    node: Option<Child>,
}

fn daemon(program: &str) -> Result<PathBuf, String> {
    let places = ["/usr/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
    places.into_iter().find(|path| path.exists()).ok_or_else(|| {
        format!("`{program}` is not installed; install the packages slurm-wlm and munge (apt-get install slurm-wlm munge)")
    })
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until `holds`, on a thread that has nothing else to do.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let (wait, until) = (std::sync::Condvar::new(), Instant::now() + LONG);
    let lock = std::sync::Mutex::new(());
    while !holds() {
        if Instant::now() > until {
            return Err(format!("{what} within {LONG:?}"));
        }
        let _ = wait.wait_timeout(lock.lock().unwrap(), Duration::from_millis(100));
    }
    Ok(())
}

impl Cluster {
    pub(crate) fn start() -> Result<Self, String> {
        for program in ["slurmctld", "slurmd", "sbatch", "munged", "munge"] {
            daemon(program)?;
        }
        let dir = tempfile::Builder::new().prefix("cellbus-slurm").tempdir().unwrap();
        // The daemons ask this of the place of their sockets.
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let mut cluster = Self { dir, munged: None, controller: None, node: None };
        for name in ["state", "spool", "work"] {
            fs::create_dir(cluster.path(name)).unwrap();
        }
        let mut key = [0; 1024];
        let mut random = fs::File::open("/dev/urandom").unwrap();
        random.read_exact(&mut key).unwrap();
        write_secret_file(&cluster.path("munge.key"), &key).unwrap();
        cluster.munged = Some(cluster.spawn(
            "munged",
            &[
                "--foreground".into(),
                "--force".into(),
                cluster.option("socket", "munge.sock"),
                cluster.option("key-file", "munge.key"),
                cluster.option("pid-file", "munged.pid"),
                cluster.option("seed-file", "munge.seed"),
            ],
        ));
        wait_until("munged did not answer", || {
            let socket = cluster.option("socket", "munge.sock");
            let run = Command::new("munge").args([&socket, "-n"]).output();
            run.is_ok_and(|run| run.status.success())
        })?;
        cluster.configure();
        cluster.start_controller();
        let conf = cluster.path("slurm.conf").display().to_string();
        cluster.node = Some(cluster.spawn("slurmd", &["-D".into(), "-f".into(), conf]));
        wait_until("the machine of the cluster was not ready", || {
            cluster.ask("sinfo", &["-h", "-o", "%t"]).trim() == "idle"
        })
        .map_err(|error| format!("{error}\n{}", cluster.logs()))?;
        Ok(cluster)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn option(&self, option: &str, name: &str) -> String {
        format!("--{option}={}", self.path(name).display())
    }

    fn configure(&self) {
        let one_line = |name: &str, arguments: &[&str]| {
            let run = Command::new(name).args(arguments).output().unwrap();
            String::from_utf8(run.stdout).unwrap().trim().to_owned()
        };
        let (host, user) = (one_line("uname", &["-n"]), one_line("id", &["-un"]));
        let host = host.split('.').next().unwrap();
        let dir = self.dir.path().display();
        let (controller, node) = (port(), port());
        let conf = format!(
            "ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={dir}/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
MpiDefault=none
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
SlurmctldPort={controller}
SlurmdPort={node}
KillWait=5
MessageTimeout=3
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES State=UP
PartitionName=other Nodes={host} State=UP
"
        );
        fs::write(self.path("slurm.conf"), conf).unwrap();
    }

    /// A daemon that ends with this process.
    fn spawn(&self, program: &str, arguments: &[String]) -> Child {
        let log = fs::File::create(self.path(&format!("{program}.log"))).unwrap();
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(daemon(program).unwrap())
            .args(arguments)
            .env("SLURM_CONF", self.path("slurm.conf"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub(crate) fn start_controller(&mut self) {
        let conf = self.path("slurm.conf").display().to_string();
        self.controller = Some(self.spawn("slurmctld", &["-D".into(), "-f".into(), conf]));
    }

    pub(crate) fn stop_controller(&mut self) {
        end(self.controller.take());
    }

    /// What one of Slurm's commands prints.
    pub(crate) fn ask(&self, command: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(command);
        let command = command.args(arguments).env("SLURM_CONF", self.path("slurm.conf"));
        let run = command.stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&run.stdout).into_owned()
    }

    /// What the daemons have said last.
    pub(crate) fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(30).collect();
            format!("{name}:\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        ["munged.log", "slurmctld.log", "slurmd.log"].map(tail).concat()
    }

    /// A directory that the cell and the nodes share.
    pub(crate) fn shared(&self) -> PathBuf {
        self.path("shared")
    }

    /// Leaves nothing of a case that has failed half-way.
    pub(crate) fn clear(&mut self) -> Result<(), String> {
        if self.controller.is_none() {
            self.start_controller();
        }
        let ended = wait_until("jobs did not end", || {
            self.ask("scancel", &["--quiet", "--state=PENDING"]);
            self.ask("scancel", &["--quiet", "--batch", "--signal=USR1", "--state=RUNNING"]);
            self.ask("sinfo", &["-h"]).contains("test")
                && self.ask("squeue", &["-h"]).trim().is_empty()
        });
        let _ = fs::remove_dir_all(self.shared());
        ended
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.node.is_some() {
            // Whoever ends with it has said what went wrong.
            let _ = self.clear();
        }
        for child in [self.node.take(), self.controller.take(), self.munged.take()] {
            end(child);
        }
    }
}

fn end(child: Option<Child>) {
    let Some(mut child) = child else { return };
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    // Its own child, not waited for yet: the number is its own.
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = wait_until("a daemon did not end", || matches!(child.try_wait(), Ok(Some(_))));
    if ended.is_err() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
