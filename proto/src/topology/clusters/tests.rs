//! What `[[slurm]]` can say, everything that can be wrong with it, and what a job gets of it.

use super::*;
use crate::{
    codec::body::Blob,
    job::{Manifest, SlurmRequest},
    topology::{Change, diff, parse},
};

const CELLS: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "site-1"
kind = "client"
parent = "server"
[[cell]]
name = "site-2"
kind = "client"
parent = "server"
[[program]]
name = "train"
cells = ["site-1"]
argv = ["train"]
launcher = "slurm"
[[program]]
name = "train"
cells = ["site-2"]
argv = ["train"]
"#;

const CLUSTER: &str = r#"
[[slurm]]
cells = ["site-1"]
directory = "/shared/cellbus"
address = "10.0.0.5"
commands = "/opt/slurm/bin"
[slurm.request]
partition = "cpu"
time_limit_min = 60
[slurm.allow]
partitions = ["cpu", "gpu"]
cpus = 8
gres = { "gpu:a100" = 2 }
"#;

fn topology(cluster: &str) -> Topology {
    let parsed = parse(&format!("{CELLS}{cluster}"));
    parsed.unwrap_or_else(|problems| panic!("{problems:#?}")).topology
}

fn spec(resources: SlurmRequest) -> PartSpec {
    PartSpec {
        attempt: 1,
        server: "server.fold".parse().unwrap(),
        sites: Vec::new(),
        arguments: [].into(),
        environment: [].into(),
        memory_mib: None,
        resources,
        detach_s: 0,
        run: crate::job::RunId::from_random([7; 16]),
        start_s: 60,
        idle_s: 0,
        files: Manifest::default(),
        payload: Blob(Vec::new()),
    }
}

#[test]
fn a_cluster_is_that_of_the_cells_that_it_names() {
    let topology = topology(CLUSTER);
    let cluster = topology.cluster_of("site-1").unwrap();
    assert_eq!(cluster.directory, "/shared/cellbus");
    assert_eq!(cluster.address, Some([10, 0, 0, 5].into()));
    assert_eq!(cluster.slurm.commands.as_deref(), Some("/opt/slurm/bin"));
    assert_eq!(cluster.slurm.request.time_limit_min, Some(60));
    assert_eq!(cluster.slurm.allow.gres["gpu:a100"], 2);
    assert_eq!(topology.cluster_of("site-2"), None);
    assert_eq!(topology.cluster_of("server"), None);
    assert_eq!(topology.programs[0].launcher, LauncherKind::Slurm);
    let other = self::topology(&CLUSTER.replace("cpus = 8", "cpus = 9"));
    assert_eq!(diff(&topology, &other), [Change::ClustersChanged]);
    assert!(!Change::ClustersChanged.is_live() && !Change::ClustersChanged.widens_access());
}

#[test]
fn j_21_a_job_gets_of_a_cluster_what_the_file_allows_and_of_no_cluster_anything() {
    let topology = topology(CLUSTER);
    let none = SlurmRequest::default;
    let gpu = SlurmRequest { partition: Some("gpu".into()), cpus: Some(8), ..none() };
    let resolved = topology.resolve("site-1", "train", &spec(gpu.clone())).unwrap();
    assert_eq!(resolved.launcher, LauncherKind::Slurm);
    let cpus = SlurmRequest { cpus: Some(9), ..none() };
    let refused = topology.resolve("site-1", "train", &spec(cpus)).unwrap_err();
    assert!(matches!(&refused, Refusal::Resources(SlurmRefusal::TooMuch { .. })), "{refused}");
    let account = SlurmRequest { account: Some("study".into()), ..none() };
    let refused = topology.resolve("site-1", "train", &spec(account)).unwrap_err();
    assert_eq!(refused, Refusal::Resources(SlurmRefusal::NotForJobs("account")));
    let refused = topology.resolve("site-2", "train", &spec(gpu)).unwrap_err();
    assert_eq!(refused, Refusal::NoScheduler("train".to_owned()));
    assert!(topology.resolve("site-2", "train", &spec(none())).is_ok());
}

#[test]
fn everything_that_is_wrong_with_a_cluster_is_said_and_where() {
    for (good, bad, code) in [
        ("cells = [\"site-1\"]\ndirectory", "directory", Code::Missing),
        ("directory = \"/shared/cellbus\"", "", Code::Missing),
        ("\"/shared/cellbus\"", "\"shared\"", Code::BadArgument),
        ("\"/shared/cellbus\"", "\"/shared/it's\"", Code::BadArgument),
        ("\"/opt/slurm/bin\"", "\"bin\"", Code::BadArgument),
        ("\"10.0.0.5\"", "\"cluster\"", Code::BadHost),
        ("\"10.0.0.5\"", "\"0.0.0.0\"", Code::BadHost),
        ("\"cpu\"\n", "\"--uid=0\"\n", Code::BadResource),
        ("[\"cpu\", \"gpu\"]", "[\"cpu\", \"a b\"]", Code::BadResource),
        ("time_limit_min = 60", "time_limit_min = 0", Code::BadResource),
        ("cpus = 8", "cpus = 4294967297", Code::BadResource),
        ("cpus = 8", "cpus = -1", Code::WrongType),
        ("cpus = 8", "cpu = 8", Code::UnknownKey),
        ("gpu:a100\" = 2", "gpu:a:b\" = 2", Code::BadResource),
        ("address", "adress", Code::UnknownKey),
    ] {
        assert!(CLUSTER.contains(good), "{good}");
        let text = format!("{CELLS}{}", CLUSTER.replace(good, bad));
        let problems = parse(&text).expect_err(bad);
        let found = problems.iter().find(|problem| problem.code == code);
        let found = found.unwrap_or_else(|| panic!("{bad}: {problems:#?}"));
        assert!(found.span.start >= CELLS.len(), "{bad}: at {:?}", found.span);
        assert!(!text[found.span.clone()].is_empty(), "{bad}: {found:#?}");
        assert!(found.help.is_some() || code == Code::WrongType, "{bad}: {found:#?}");
    }
}

#[test]
fn a_program_for_a_cluster_needs_one_and_not_two() {
    let problems = parse(CELLS).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:#?}") };
    assert_eq!((problem.code, &CELLS[problem.span.clone()]), (Code::NoCluster, "\"slurm\""));
    let text = format!("{CELLS}{CLUSTER}{}", CLUSTER.replace("site-1", "site-*"));
    let problems = parse(&text).unwrap_err();
    let [problem] = &problems[..] else { panic!("{problems:#?}") };
    assert_eq!((problem.code, &text[problem.span.clone()]), (Code::RepeatedCluster, "\"site-*\""));
    assert!(problem.message.contains("`site-1`"), "{problem:#?}");
}

#[test]
fn job_cells_of_development_are_let_in_on_this_machine_only() {
    let dev =
        format!("{CELLS}{CLUSTER}").replace("name = \"study\"", "name = \"study\"\ndev = true");
    let problems = parse(&dev).unwrap_err();
    assert_eq!(problems[0].code, Code::DevNotLoopback, "{problems:#?}");
    assert!(parse(&dev.replace("10.0.0.5", "127.0.0.1")).is_ok());
}
