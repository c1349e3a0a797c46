//! What a cell tells of its jobs. The program of a job cell is this very test binary, which knows no such
//! verb and ends at once: a job that fails.

use std::{collections::BTreeMap, sync::Arc};

use cellbus_channels::{Event, Events, JobChange};
use cellbus_proto::{
    codec::body::{self, Blob, JobStart},
    job::{JobState, Manifest, Outcome, PartSpec, RunId},
    name::{Fqcn, Segment},
    topology::job_file::JobBudget,
    well_known,
};
use tokio::time::{Duration, timeout};

use super::{JobHost, Plan, PlanPart, SubmitError};
use crate::{
    config,
    node::{Node, NodeCell},
};

const TOPOLOGY: &str = r#"
[project]
name = "jobs"
dev = true

[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"

[[cell]]
name = "site-1"
kind = "client"
parent = "server"

[[program]]
name = "train"
cells = ["*"]
builtin = "train"
"#;
const PATIENCE: Duration = Duration::from_secs(30);

async fn start(node: &mut Node, name: &str) -> (NodeCell, JobHost) {
    let cell = node.start(name).unwrap();
    let host = JobHost::serve(&cell, node);
    timeout(PATIENCE, cell.ready()).await.expect("it registers");
    (cell, host)
}

/// The next thing that is told of a job.
async fn next_of_job(events: &mut Events) -> (Fqcn, JobChange) {
    let next = async {
        loop {
            if let Event::Job { cell, change } = events.next().await.expect("the cell runs") {
                return (cell, change);
            }
        }
    };
    timeout(PATIENCE, next).await.expect("it is told")
}

#[actix_rt::test]
async fn a_job_that_fails_is_told_where_it_runs_and_its_end_is_the_same_everywhere() {
    let root = tempfile::tempdir().unwrap();
    let topology = config::read("jobs.toml", TOPOLOGY).unwrap().topology;
    let mut node = Node::prepare(topology, root.path().join("state")).unwrap();
    let (server, at_server) = start(&mut node, "server").await;
    let (site, _at_site) = start(&mut node, "site-1").await;
    let mut of_server = server.running().bus().events();
    let mut of_site = site.running().bus().events();

    let job: Segment = "fold".parse().unwrap();
    let id = at_server.submit(plan(&job, "train")).await.unwrap().unwrap();
    assert_eq!(id.attempt, 1);
    let own: Fqcn = "server.fold".parse().unwrap();
    assert_eq!(next_of_job(&mut of_server).await, (own.clone(), JobChange::Started));
    let (cell, end) = next_of_job(&mut of_server).await;
    assert!(cell == own && matches!(&end, JobChange::Failed(how) if !how.is_empty()), "{end:?}");
    let report = at_server.wait_end(&job, PATIENCE).await.unwrap();
    assert_eq!((report.state, report.outcome), (JobState::Ended, Some(Outcome::Failed)));
    assert!(report.detail.unwrap().starts_with("server: "));
    // Nobody asked the site: the server's part came first.
    assert_eq!(report.parts.len(), 2);

    // A part of a site, as the server would ask for it.
    let spec = spec(1);
    let start = JobStart {
        job: job.clone(),
        program: "train".parse().unwrap(),
        parameters: Blob(body::encode(&spec).to_vec()),
    };
    let request = |start: &JobStart| {
        let request =
            server.running().bus().request(site.name().clone(), well_known::JOB_START.into());
        request.payload(body::encode(start)).send()
    };
    request(&start).await.unwrap();
    let of_job: Fqcn = "site-1.fold".parse().unwrap();
    assert_eq!(next_of_job(&mut of_site).await, (of_job.clone(), JobChange::Started));
    let (cell, end) = next_of_job(&mut of_site).await;
    assert!(cell == of_job && matches!(end, JobChange::Failed(_)), "{end:?}");
    // The same attempt is over, and so is what nobody offers.
    let again = request(&start).await.unwrap_err();
    assert!(detail_of(&again).contains("is over here"), "{again:?}");
    let other = JobStart { program: "sh".parse().unwrap(), ..start };
    let refused = request(&other).await.unwrap_err();
    assert!(detail_of(&refused).starts_with("COMPONENT_NOT_ALLOWED"), "{refused:?}");

    for cell in [site, server] {
        assert!(cell.running().drain(PATIENCE).await);
    }
    node.finish().await;
}

fn detail_of(error: &cellbus_channels::RequestError) -> String {
    if let cellbus_channels::RequestError::Returned { detail, .. } = error {
        return String::from_utf8_lossy(detail).into_owned();
    }
    panic!("{error:?}")
}

fn spec(attempt: u32) -> PartSpec {
    PartSpec {
        attempt,
        server: "server.fold".parse().unwrap(),
        sites: vec!["site-1".parse().unwrap()],
        arguments: BTreeMap::new(),
        environment: BTreeMap::new(),
        memory_mib: None,
        detach_s: 0,
        run: RunId::from_random([7; 16]),
        resources: cellbus_proto::job::SlurmRequest::default(),
        start_s: 20,
        idle_s: 0,
        files: Manifest::default(),
        payload: Blob(Vec::new()),
    }
}

fn plan(job: &Segment, program: &str) -> Plan {
    let part = PlanPart {
        program: program.parse().unwrap(),
        arguments: BTreeMap::new(),
        environment: BTreeMap::new(),
        memory_mib: None,
        detach_s: 0,
        resources: cellbus_proto::job::SlurmRequest::default(),
        has_files: false,
        payload: Vec::new().into(),
    };
    Plan {
        name: job.clone(),
        server: part.clone(),
        relay: None,
        site: part,
        sites: vec!["site-1".parse().unwrap()],
        budget: JobBudget::default(),
        package: Arc::default(),
    }
}

#[actix_rt::test]
async fn s0_01_what_no_cell_offers_is_refused_before_anything_of_it_is_anywhere() {
    let root = tempfile::tempdir().unwrap();
    let topology = config::read("jobs.toml", TOPOLOGY).unwrap().topology;
    let mut node = Node::prepare(topology, root.path().join("state")).unwrap();
    let (server, at_server) = start(&mut node, "server").await;
    let job: Segment = "fold".parse().unwrap();
    for name in ["sh", "learn-trainer", "trainx", "bin-sh"] {
        let refused = at_server.submit(plan(&job, name)).await.unwrap();
        assert!(matches!(refused, Err(SubmitError::Refused { .. })), "{name}: {refused:?}");
    }
    assert_eq!(at_server.list(), []);
    assert!(!server.dir().join("jobs").exists());
    let records = std::fs::read_dir(server.dir().join("job-records")).unwrap();
    assert_eq!(records.count(), 0);
    assert!(server.running().drain(PATIENCE).await);
    node.finish().await;
}
