//! What a cell tells of its jobs. The program of a job cell is this very test binary, which knows no such
//! verb and ends at once: a job that fails.

use cellbus_channels::{Event, Events, JobChange};
use cellbus_proto::{
    codec::body::{self, Blob, JobStart},
    name::{Fqcn, Segment},
    well_known,
};
use tokio::time::{Duration, timeout};

use super::JobHost;
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
async fn a_job_that_starts_and_ends_is_told_where_it_runs_and_its_end_at_the_server() {
    let root = tempfile::tempdir().unwrap();
    let topology = config::read("jobs.toml", TOPOLOGY).unwrap().topology;
    let mut node = Node::prepare(topology, root.path().join("state")).unwrap();
    let (server, at_server) = start(&mut node, "server").await;
    let (site, _at_site) = start(&mut node, "site-1").await;
    let bus = server.running().bus();
    let (mut of_server, mut of_site) = (bus.events(), site.running().bus().events());

    let (job, program): (Segment, Segment) = ("fold".parse().unwrap(), "train".parse().unwrap());
    let own: Fqcn = "server.fold".parse().unwrap();
    at_server.launch(job.clone(), program.clone(), Vec::new().into()).unwrap();
    assert_eq!(next_of_job(&mut of_server).await, (own.clone(), JobChange::Started));
    let (cell, end) = next_of_job(&mut of_server).await;
    assert!(cell == own && matches!(&end, JobChange::Failed(how) if !how.is_empty()), "{end:?}");

    let start = JobStart { job, program, parameters: Blob(Vec::new()) };
    let request = bus.request(site.name().clone(), well_known::JOB_START.into());
    request.payload(body::encode(&start)).send().await.unwrap();
    let of_job: Fqcn = "site-1.fold".parse().unwrap();
    assert_eq!(next_of_job(&mut of_site).await, (of_job.clone(), JobChange::Started));
    let (cell, end) = next_of_job(&mut of_site).await;
    assert!(cell == of_job && matches!(end, JobChange::Failed(_)), "{end:?}");
    assert_eq!(next_of_job(&mut of_server).await, (of_job, end), "the site's word for it");

    for cell in [site, server] {
        assert!(cell.running().drain(PATIENCE).await);
    }
    node.finish().await;
}
