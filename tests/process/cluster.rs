//! Jobs whose programs a site gives to a real Slurm cluster, which the test starts. Needs root, `slurm-wlm` and `munge`.

#[path = "../../cells/slurm/tests/real/daemons.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests are not seen to be tests, and are those of other tests as well"
)]
mod daemons;

use std::{fs, path::PathBuf};

use self::daemons::{CPUS, Cluster};
use crate::driver::{Federation, SOON, Study, entries, outcome, until};

/// A site whose programs run on the cluster, and a server whose program does not.
fn tables(cluster: &Cluster) -> String {
    let (shared, conf) = (cluster.shared(), cluster.path("slurm.conf"));
    format!(
        r#"
[[program]]
name = "hold"
cells = ["server", "site-2"]
argv = ["sleep", "{{seconds}}"]
parameters = {{ seconds = "integer" }}

[[program]]
name = "look"
cells = ["site-1"]
launcher = "slurm"
argv = ["sh", "-c", "echo \"$CELLBUS_CELL in $SLURM_JOB_PARTITION with $SLURM_CPUS_PER_TASK\"; cat said; sleep \"$1\"; exit \"$2\"", "sh", "{{seconds}}", "{{code}}"]
parameters = {{ seconds = "integer", code = "integer" }}
custom_code = true

[[slurm]]
cells = ["site-1"]
directory = "{}"
conf = "{}"
[slurm.request]
partition = "test"
[slurm.allow]
partitions = ["test", "other"]
cpus = {CPUS}
"#,
        shared.display(),
        conf.display()
    )
}

struct Site<'a> {
    study: Study,
    cluster: &'a Cluster,
}

impl Site<'_> {
    /// A job of the server and this site, with a file, and with more keys for the site.
    fn describe(&self, name: &str, server: &str, site: &str, more: &str) -> PathBuf {
        let more = format!(
            "sites = [\"site-1\"]\n{more}\n[budget]\nstart_s = 120\nfinish_s = 120\n[files]\ndirectory = \"src\"\n"
        );
        let dir = self.study.describe(name, server, site, &more);
        fs::create_dir_all(dir.join("src")).expect("it takes directories");
        fs::write(dir.join("src/said"), "it has its files\n").expect("it takes files");
        dir
    }

    fn queue(&self) -> String {
        self.cluster.ask("squeue", &["-h", "-o", "%j %T"]).trim().to_owned()
    }

    fn assert_nothing_left(&self) {
        until("an empty queue", 2 * SOON, || self.queue().is_empty().then_some(()));
        let shared = self.cluster.shared().join("site-1");
        until("no file of a job", SOON, || {
            let steps = entries(&shared.join("steps"));
            // The directory itself stays.
            (steps.len() == 1 && !shared.join("jobs").exists()).then_some(())
        });
    }

    fn a_job_runs_on_the_cluster_with_what_it_asks_for(&self) {
        let resources = "[site.resources]\npartition = \"other\"\ncpus = 2";
        let dir =
            self.describe("good", "hold seconds = 5", "look seconds = 1, code = 0", resources);
        let exit = self.study.run(&dir).exit(8 * SOON);
        let (code, ended, envelope) = outcome(&exit);
        let logs = self.cluster.logs();
        assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{exit:#?}\n{logs}");
        for said in ["relay-a.site-1.good in other with 2", "it has its files"] {
            assert!(exit.out.iter().any(|line| line.contains(said)), "{said}: {exit:#?}");
        }
        assert_eq!(envelope["data"]["parts"].as_array().map(Vec::len), Some(2));
        self.assert_nothing_left();
    }

    fn j_25_the_secret_is_gone_while_a_job_runs_and_cancelling_ends_it_there(&self) {
        let dir = self.describe("long", "hold seconds = 900", "look seconds = 900, code = 0", "");
        let running = self.study.run(&dir);
        running.out.wait_json("a running job", 8 * SOON, |line| {
            (line["event"] == "job" && line["state"] == "running").then_some(())
        });
        assert!(self.queue().ends_with("RUNNING"), "{}", self.queue());
        let files = entries(&self.cluster.shared().join("site-1/steps"));
        let named = |name: &str| files.iter().any(|entry| entry.path.ends_with(name));
        assert!(named("work") && !named("bootstrap"), "{files:?}");
        self.study.ask(&["cancel", "long"]).data();
        let exit = running.exit(4 * SOON);
        let (code, ended, envelope) = outcome(&exit);
        assert_eq!((code, ended.as_str()), (Some(1), "aborted"), "{envelope}");
        self.assert_nothing_left();
    }

    fn a_program_that_fails_on_a_node_fails_its_job(&self) {
        let dir = self.describe("bad", "hold seconds = 900", "look seconds = 0, code = 3", "");
        let exit = self.study.run(&dir).exit(8 * SOON);
        let (code, ended, envelope) = outcome(&exit);
        assert_eq!((code, ended.as_str()), (Some(1), "failed"), "{envelope}");
        let detail = envelope["data"]["detail"].as_str().unwrap_or_default();
        assert_eq!(detail, "relay-a.site-1: exit code 3");
        self.assert_nothing_left();
    }

    fn j_21_what_the_site_does_not_allow_is_refused_and_never_submitted(&self) {
        let look = "look seconds = 0, code = 0";
        for (resources, why) in [
            ("partition = \"root\"", "`partition` cannot be \"root\""),
            ("account = \"study\"", "no job may set `account`"),
            ("cpus = 5", "`cpus` is at most 4"),
        ] {
            let resources = format!("[site.resources]\n{resources}");
            let dir = self.describe("no", "hold seconds = 1", look, &resources);
            let exit = self.study.run(&dir).exit(2 * SOON);
            assert_eq!(exit.code, Some(6), "{exit:?}");
            let envelope = exit.envelope();
            assert_eq!(envelope["error_code"], "COMPONENT_NOT_ALLOWED", "{envelope}");
            let message = envelope["message"].as_str().unwrap_or_default();
            assert!(message.contains(why), "{message}");
        }
        assert_eq!(self.queue(), "");
        assert_eq!(self.study.ask(&["show", "no"]).refusal().1, "JOB_UNKNOWN");
    }
}

/// One after the other: a cluster takes its time to start, and is one for all of them.
#[test]
#[ignore = "starts Slurm's daemons: needs root, slurm-wlm and munge; .ci/run runs it where they can be had"]
fn j_25_a_site_gives_programs_to_its_cluster() {
    let cluster = Cluster::start().unwrap_or_else(|why| panic!("no cluster: {why}"));
    let site =
        Site { study: Study { cells: Federation::up_with(&tables(&cluster)) }, cluster: &cluster };
    site.a_job_runs_on_the_cluster_with_what_it_asks_for();
    site.j_25_the_secret_is_gone_while_a_job_runs_and_cancelling_ends_it_there();
    site.a_program_that_fails_on_a_node_fails_its_job();
    site.j_21_what_the_site_does_not_allow_is_refused_and_never_submitted();
}
