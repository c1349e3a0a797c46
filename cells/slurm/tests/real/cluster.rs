//! What the cases ask of the cluster: launchers, orders for programs of these cases, and what becomes of them.

use std::time::{Duration, Instant};

use cellbus_launch::{Handle, Launcher, Lifetime, Order, Output, ProgramLimits, Progress, Stream};
use cellbus_slurm::{SlurmAllowance, SlurmLauncher, SlurmSpec};

pub(crate) use crate::daemons::{CPUS, Cluster, LONG};
use crate::worker;

impl Cluster {
    pub(crate) fn spec(&self) -> SlurmSpec {
        SlurmSpec {
            conf: Some(self.path("slurm.conf").display().to_string()),
            allow: SlurmAllowance {
                partitions: ["test".to_owned(), "other".to_owned()].into(),
                time_limit_min: Some(10),
                cpus: Some(CPUS),
                ..SlurmAllowance::default()
            },
            ..SlurmSpec::default()
        }
    }

    /// A launcher, as one that a cell opens when it starts.
    pub(crate) fn launcher(&self) -> SlurmLauncher {
        let step = std::env::current_exe().unwrap();
        SlurmLauncher::open(self.spec(), &self.shared(), &step).unwrap()
    }

    /// An order for a program of these cases.
    pub(crate) fn order(&self, arguments: &[&str], secret: &[u8]) -> Order {
        let program = std::env::current_exe().unwrap().into_os_string();
        let arguments = [worker::VERB].iter().chain(arguments).map(|word| (*word).into());
        Order {
            group: None,
            label: "site-1.fold".to_owned(),
            argv: [program].into_iter().chain(arguments).collect(),
            environment: vec![("GIVEN".into(), "a 'b' $c".into())],
            dir: self.path("work"),
            bootstrap: secret.to_vec().into(),
            output: Output::Kept,
            limits: ProgramLimits::default(),
            lifetime: Lifetime::Bound,
            resources: cellbus_slurm::SlurmRequest::default(),
        }
    }
}

/// Polls until `progress` is as it must be.
pub(crate) async fn until(
    launcher: &SlurmLauncher,
    handle: &Handle,
    is_it: impl Fn(Progress) -> bool,
) -> Progress {
    let begun = Instant::now();
    loop {
        let progress = launcher.poll(handle, Duration::from_secs(5)).await.unwrap();
        if is_it(progress) {
            return progress;
        }
        assert!(begun.elapsed() < LONG, "{handle} is still {progress:?}");
    }
}

/// Reads a stream until `is_enough`, or its end.
pub(crate) async fn read(
    launcher: &SlurmLauncher,
    handle: &Handle,
    stream: Stream,
    is_enough: impl Fn(&str) -> bool,
) -> String {
    let (mut from, mut text) = (0, String::new());
    while !is_enough(&text) {
        let next = tokio::time::timeout(LONG, launcher.logs(handle, stream, from)).await;
        let printed = next.expect("something is printed").unwrap();
        from = printed.from + printed.bytes.len() as u64;
        text.push_str(std::str::from_utf8(&printed.bytes).unwrap());
        if printed.is_end {
            break;
        }
    }
    text
}
