//! What jobs cost on one site: from a start to the first task that the trainer has in hand, and what many jobs leave.
//!
//! A server and a site are cells of this process; their job cells and the programs are processes of their own, as ever.

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use cellbus_cells::{
    config,
    job::{JobHost, Plan, PlanPart},
    node::{Node, NodeCell},
};
use cellbus_channels::{ChannelTopic, Reply, from_fn, local};
use cellbus_proto::{
    job::{Outcome, SlurmRequest},
    name::{Fqcn, Segment},
    topology::job_file::JobBudget,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::LocalError;

/// The argument that makes the binary a program of these jobs; a word of [`Role`] follows.
pub const VERB: &str = "bench-job";

/// Jobs that run at a time.
const AT_ONCE: u32 = 5;
/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What is kept of jobs on purpose.
const RECORDS: &str = "job-records";
/// What the trainer's line calls the time at which it had its task.
const FETCHED: &str = "fetched_unix_us";

/// What jobs have cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobFigures {
    /// Milliseconds from the start of a job to the first task that its trainer has, one for each launch.
    pub first_task_ms: Vec<f64>,
    /// The median of them.
    pub first_task_median_ms: f64,
    /// Jobs that were started and ended.
    pub jobs: u32,
    /// Seconds that they took together.
    pub seconds: f64,
    /// What there was before them.
    pub before: Held,
    /// What there was after them.
    pub after: Held,
}

/// What the cells hold at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Descriptors of the process of the cells.
    pub descriptors: u64,
    /// Processes that it has started, and they.
    pub processes: u64,
    /// Files, directories and sockets below the state of the cells, without the records of jobs.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// What a program of these jobs does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Hands out one task, at the server.
    Server,
    /// Fetches it, at the site.
    Trainer,
}

impl Role {
    /// The role of this name.
    #[must_use]
    pub fn find(word: &str) -> Option<Self> {
        [Self::Server, Self::Trainer].into_iter().find(|role| role.as_str() == word)
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "gives",
            Self::Trainer => "takes",
        }
    }
}

fn target(topic: &str) -> ChannelTopic {
    ChannelTopic::parse("bench", topic).expect("both are names")
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Runs as a program of these jobs, and gives what it has to say.
///
/// # Errors
/// [`LocalError`] when it was not launched by a job cell, or the other program is not there.
pub async fn program(role: Role) -> Result<serde_json::Value, LocalError> {
    let bus = local::from_env().await?;
    match role {
        Role::Server => {
            let done = Arc::new(Notify::new());
            let told = Arc::clone(&done);
            let fetch =
                from_fn(|_| async { Ok(Reply::from(bytes::Bytes::from_static(b"a task"))) });
            bus.handle(target("fetch"), fetch).await?;
            let end = from_fn(move |_| {
                told.notify_one();
                async { Ok(Reply::default()) }
            });
            bus.handle(target("done"), end).await?;
            let waited = tokio::time::timeout(PATIENCE, done.notified()).await;
            waited.map_err(|_| LocalError::Job("no trainer came".to_owned()))?;
            Ok(serde_json::json!({}))
        }
        Role::Trainer => {
            let server = std::env::var("CELLBUS_SERVER_CELL").unwrap_or_default();
            let server: Fqcn = server
                .parse()
                .map_err(|_| LocalError::Job("CELLBUS_SERVER_CELL is no cell".to_owned()))?;
            let begun = Instant::now();
            // The server's program may still be starting.
            while let Err(error) = bus.request(server.clone(), target("fetch")).send().await {
                if begun.elapsed() > PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let fetched = unix_us();
            // It ends with the answer, or without it.
            let _ = bus.request(server, target("done")).send().await;
            Ok(serde_json::json!({ FETCHED: fetched }))
        }
    }
}

/// Measures `launches` first tasks, and what `jobs` jobs leave behind. Blocks.
pub(super) fn measure(launches: u32, jobs: u32) -> Result<JobFigures, LocalError> {
    actix_rt::System::new().block_on(async {
        let root = tempfile::tempdir().map_err(|error| LocalError::Io("a directory", error))?;
        let site = Site::start(root.path()).await?;
        let figures = site.measure(launches, jobs).await;
        site.stop().await;
        figures
    })
}

struct Site<'a> {
    root: &'a Path,
    node: Node,
    cells: Vec<NodeCell>,
    hosts: Vec<JobHost>,
}

fn topology() -> Result<String, LocalError> {
    let program = std::env::current_exe().map_err(|error| LocalError::Io("this program", error))?;
    let program = serde_json::json!(program.to_string_lossy());
    let of = |role: Role| {
        let role = role.as_str();
        format!(
            "[[program]]\nname = \"{role}\"\ncells = [\"*\"]\n\
             argv = [{program}, \"-o\", \"jsonl\", \"{VERB}\", \"{role}\"]\n"
        )
    };
    Ok(format!(
        "[project]\nname = \"bench\"\ndev = true\n\
         [[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:0\"\n\
         [[cell]]\nname = \"site-1\"\nkind = \"client\"\nparent = \"server\"\n\
         [[program]]\nname = \"nothing\"\ncells = [\"*\"]\nargv = [\"true\"]\n{}{}",
        of(Role::Server),
        of(Role::Trainer)
    ))
}

impl<'a> Site<'a> {
    async fn start(root: &'a Path) -> Result<Self, LocalError> {
        let failed = |error: &dyn std::fmt::Display| LocalError::Job(error.to_string());
        let topology = config::read("bench.toml", &topology()?).map_err(|e| failed(&e))?.topology;
        let node = Node::prepare(topology, root.join("state")).map_err(|e| failed(&e))?;
        let mut site = Self { root, node, cells: Vec::new(), hosts: Vec::new() };
        for name in ["server", "site-1"] {
            let cell = site.node.start(name).map_err(|e| failed(&e))?;
            site.hosts.push(JobHost::serve(&cell, &site.node));
            let ready = tokio::time::timeout(PATIENCE, cell.ready()).await;
            ready.map_err(|_| LocalError::Job(format!("{name} is not ready")))?;
            site.cells.push(cell);
        }
        Ok(site)
    }

    async fn measure(&self, launches: u32, jobs: u32) -> Result<JobFigures, LocalError> {
        let mut first_task_ms = Vec::new();
        for launch in 0..launches {
            let begun = unix_us();
            let name = format!("first-{launch}");
            let job = self.submit(&name, Role::Server.as_str(), Role::Trainer.as_str()).await?;
            let lines = self.end(&job).await?;
            let fetched = lines.iter().find_map(|line| number_after(line, FETCHED));
            let fetched =
                fetched.ok_or_else(|| LocalError::Job(format!("no time in {lines:?}")))?;
            first_task_ms
                .push(Duration::from_micros(fetched.saturating_sub(begun)).as_secs_f64() * 1e3);
        }
        let mut sorted = first_task_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let first_task_median_ms = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        // What is made once and kept is there after the first ones.
        self.run("before", AT_ONCE).await?;
        let before = self.held_at_most(None).await?;
        let started = Instant::now();
        let mut left = jobs;
        while left > 0 {
            let now = left.min(AT_ONCE);
            self.run(&format!("many-{left}"), now).await?;
            left -= now;
        }
        let seconds = started.elapsed().as_secs_f64();
        let after = self.held_at_most(Some(before)).await?;
        Ok(JobFigures { first_task_ms, first_task_median_ms, jobs, seconds, before, after })
    }

    /// Runs so many jobs at once to their end.
    async fn run(&self, name: &str, count: u32) -> Result<(), LocalError> {
        let mut jobs = Vec::new();
        for index in 0..count {
            jobs.push(self.submit(&format!("{name}-{index}"), "nothing", "nothing").await?);
        }
        for job in jobs {
            self.end(&job).await?;
        }
        Ok(())
    }

    async fn submit(&self, name: &str, server: &str, site: &str) -> Result<Segment, LocalError> {
        let word = |text: &str| text.parse::<Segment>().expect("it is a name");
        let part = |program: &str| PlanPart {
            program: word(program),
            arguments: [].into(),
            environment: [].into(),
            memory_mib: None,
            resources: SlurmRequest::default(),
            detach_s: 0,
            has_files: false,
            payload: bytes::Bytes::new(),
        };
        let job = word(name);
        let plan = Plan {
            name: job.clone(),
            server: part(server),
            relay: None,
            site: part(site),
            sites: vec!["site-1".parse().expect("it is a name")],
            budget: JobBudget::default(),
            package: Arc::default(),
        };
        let submitted = self.hosts[0].submit(plan).await;
        let submitted =
            submitted.ok_or_else(|| LocalError::Job("the server takes no jobs".to_owned()))?;
        submitted.map_err(|error| LocalError::Job(error.to_string()))?;
        Ok(job)
    }

    /// Waits for the end of a job, and gives what it has printed.
    async fn end(&self, job: &Segment) -> Result<Vec<String>, LocalError> {
        let report = self.hosts[0].wait_end(job, PATIENCE).await;
        let report = report.ok_or_else(|| LocalError::Job(format!("{job} is not known")))?;
        if report.outcome != Some(Outcome::Completed) {
            let detail = report.detail.unwrap_or_else(|| "it did not end".to_owned());
            return Err(LocalError::Job(format!("{job}: {detail}")));
        }
        let known = self.hosts[0].look(job, 0, 100);
        Ok(known
            .map(|known| known.lines.into_iter().map(|line| line.text).collect())
            .unwrap_or_default())
    }

    /// What the cells hold; where that is more than `before`, what they hold a moment later.
    async fn held_at_most(&self, before: Option<Held>) -> Result<Held, LocalError> {
        const LOOK: Duration = Duration::from_millis(50);
        const MOMENT: Duration = Duration::from_secs(10);
        let begun = Instant::now();
        let mut last = self.held()?;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = self.held()?;
            let is_good = match before {
                // At rest.
                None => now == last && now.processes == 0,
                Some(before) => {
                    now.descriptors <= before.descriptors
                        && now.processes <= before.processes
                        && now.files <= before.files
                        && now.bytes <= before.bytes
                }
            };
            if is_good || begun.elapsed() > MOMENT {
                return Ok(now);
            }
            last = now;
        }
    }

    fn held(&self) -> Result<Held, LocalError> {
        let failed = |error| LocalError::Io("what the cells hold", error);
        // One of them is for this very look.
        let descriptors = fs::read_dir("/proc/self/fd").map_err(failed)?.count() as u64 - 1;
        let (mut files, mut bytes) = (0, 0);
        count(&self.root.join("state"), &mut files, &mut bytes).map_err(failed)?;
        Ok(Held { descriptors, processes: descendants().map_err(failed)?, files, bytes })
    }

    async fn stop(self) {
        for host in &self.hosts {
            host.stop_all().await;
        }
        for cell in self.cells.iter().rev() {
            cell.running().drain(Duration::from_secs(2)).await;
        }
        self.node.finish().await;
    }
}

/// The number that follows a name in a line of JSON.
fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn count(dir: &Path, files: &mut u64, bytes: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What goes away meanwhile is not held.
        let Ok(metadata) = entry.metadata() else { continue };
        if entry.file_name() == RECORDS {
            continue;
        }
        *files += 1;
        if metadata.is_dir() {
            match count(&entry.path(), files, bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                counted => counted?,
            }
        } else {
            *bytes += metadata.len();
        }
    }
    Ok(())
}

/// How many processes descend from this one, ended ones that nobody has waited for included.
fn descendants() -> io::Result<u64> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse::<u32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut family = vec![std::process::id()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(family.len() as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_behind_its_name() {
        assert_eq!(
            number_after("{\"data\":{\"fetched_unix_us\":123},\"x\":4}", FETCHED),
            Some(123)
        );
        assert_eq!(number_after("fetched_unix_us", FETCHED), None);
        assert_eq!(number_after("nothing 5", FETCHED), None);
    }

    #[test]
    fn what_is_held_is_counted_without_the_records() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(RECORDS)).unwrap();
        fs::write(root.path().join(RECORDS).join("old"), "record").unwrap();
        fs::create_dir(root.path().join("jobs")).unwrap();
        fs::write(root.path().join("jobs/left"), "12345").unwrap();
        let (mut files, mut bytes) = (0, 0);
        count(root.path(), &mut files, &mut bytes).unwrap();
        assert_eq!((files, bytes), (2, 5));
    }
}
