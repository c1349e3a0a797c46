//! Every command, run as a process: its envelope, the schema of its data, its exit code.

#[path = "output/fake.rs"]
mod fake;
#[path = "output/kits.rs"]
mod kits;
#[path = "output/seen.rs"]
mod seen;
#[path = "output/trust.rs"]
mod trust;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{Write, pipe},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use cellbus_bench::report::Report;
use cellbus_cells::control::{
    Accepted, CellRow, ExplainReply, JobMeeting, PeerRow, PingReply, PolicyReply, ReloadReply,
    RequestReply, RuleRow, StatusReport, TraceReply,
};
use cellbus_cells::job::{JobReport, LogRow};
use cellbus_cells::learning::report::DemoReport;
use cellbus_channels::CellKind;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tempfile::TempDir;

const GOOD: &str = r#"
[project]
name = "study"
[[cell]]
name = "server"
kind = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "relay"
kind = "relay"
parent = "server"
listen = "127.0.0.1:0"
[[cell]]
name = "site-1"
kind = "client"
parent = "relay"
[[allow]]
from = "site-1"
to = "server"
channel = "task"
topics = ["fetch"]
"#;

/// State of a project with a server and a relay that run, and some files.
struct Place {
    dir: TempDir,
}

/// What every command prints with `-o json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Envelope {
    Ok { schema_version: u32, status: Ok, exit_code: i32, data: Value },
    Error(Failed),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failed {
    schema_version: u32,
    status: Error,
    exit_code: i32,
    error_code: String,
    message: String,
    hint: Option<String>,
    by: Option<String>,
    class: Option<String>,
    data: Option<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ok {
    Ok,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Error {
    Error,
}

/// What `validate` says, with or without problems.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Validation {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cells: Option<u64>,
    errors: u64,
    warnings: u64,
    problems: Vec<Problem>,
}

/// What `config show` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    file: String,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    key: String,
    value: Value,
    unit: Option<String>,
    source: String,
    line: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Problem {
    code: String,
    severity: String,
    message: String,
    line: Option<u64>,
    column: Option<u64>,
    help: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    code: String,
    source: String,
    class: Option<String>,
    exit_code: u8,
    meaning: String,
    next: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drawing {
    format: String,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    count: u64,
    lines: Vec<LogRow>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckedRules {
    file: String,
    rules: Vec<RuleRow>,
    sealed_channels: Vec<String>,
    tests: u64,
    warnings: u64,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reloaded {
    processes: Vec<ReloadReply>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    shell: String,
    script: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = Self { dir };
        fake::serve(&place.state(), "server", CellKind::Server);
        fake::serve(&place.state(), "relay", CellKind::Relay);
        let unused = GOOD.replace("[\"fetch\"]", "[\"fetch\", \"fetch\"]");
        let files = [
            ("good.toml", GOOD.to_owned()),
            ("odd.toml", unused),
            ("bad.toml", GOOD.replace("parent = \"relay\"", "parent = \"rellay\"")),
            ("garbage.toml", "\u{0}= = [".to_owned()),
        ];
        for (name, text) in files {
            fs::write(place.dir.path().join(name), text).expect("a temporary file");
        }
        place
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("cellbus").join("study")
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cellbus"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("XDG_STATE_HOME", self.dir.path()).env_remove("NO_COLOR");
        command
    }

    fn run(&self, line: &str) -> Output {
        /// Far beyond what any command takes: one that hangs is a failure with a name.
        const LONGEST: Duration = Duration::from_secs(120);
        let args: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.command(&args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the binary was built");
        let pid = Pid::from_child(&child);
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(child.wait_with_output()));
        end.recv_timeout(LONGEST)
            .unwrap_or_else(|_| {
                let _ = kill_process(pid, Signal::KILL);
                panic!("`cellbus {line}` has not ended");
            })
            .expect("it was started here")
    }

    /// Runs a command with `-o json` and checks everything that holds for all of them.
    fn envelope(&self, line: &str) -> Envelope {
        let output = self.run(&format!("{line} -o json"));
        let stdout = String::from_utf8(output.stdout).expect("text");
        assert_eq!(stdout.lines().count(), 1, "{line}: {stdout}");
        let value: Value = serde_json::from_str(&stdout).expect(line);
        let envelope: Envelope = serde_json::from_value(value).expect(line);
        let (version, code) = match &envelope {
            Envelope::Ok { schema_version, exit_code, .. } => (*schema_version, *exit_code),
            Envelope::Error(failed) => {
                assert_ne!(failed.exit_code, 0, "{line}");
                assert!(!failed.message.is_empty(), "{line}");
                assert!(!output.stderr.is_empty(), "{line}: people are told, too");
                (failed.schema_version, failed.exit_code)
            }
        };
        assert_eq!(version, 1, "{line}");
        assert_eq!(output.status.code(), Some(code), "{line}: the process says what it prints");
        assert!(!output.stderr.contains(&0x1b), "{line}: no colours where nobody sees them");
        envelope
    }

    /// The data of a command that must succeed, read as `T` and nothing more than `T`.
    fn data<T: DeserializeOwned + Serialize>(&self, line: &str) -> T {
        match self.envelope(line) {
            Envelope::Ok { data, .. } => exactly(line, data),
            Envelope::Error(failed) => panic!("{line}: {failed:?}"),
        }
    }

    fn failure(&self, line: &str) -> Failed {
        match self.envelope(line) {
            Envelope::Ok { data, .. } => panic!("{line}: {data}"),
            Envelope::Error(failed) => failed,
        }
    }
}

fn exactly<T: DeserializeOwned + Serialize>(line: &str, data: Value) -> T {
    let typed: T = serde_json::from_value(data.clone()).expect(line);
    assert_eq!(serde_json::to_value(&typed).expect(line), data, "{line}: nothing but the schema");
    typed
}

#[test]
fn every_command_prints_its_schema() {
    let place = Place::new();

    assert_eq!(place.data::<StatusReport>("status").cell.as_str(), "server");
    assert_eq!(place.data::<Vec<CellRow>>("cells").len(), 2);
    assert_eq!(place.data::<Vec<PeerRow>>("peers server").len(), 1);
    assert_eq!(place.data::<PingReply>("ping relay --count 2").rows.len(), 2);
    let explained: ExplainReply = place.data("explain --from site-1 --to server task/fetch");
    assert_eq!(explained.next_hop.expect("it goes on").as_str(), "server");
    let replied: RequestReply = place.data("request server task/fetch --payload hello");
    assert_eq!(replied.payload.to_bytes().expect("text"), "hello");
    assert_eq!(place.data::<Value>("inspect")["seed"], 7);
    assert_eq!(place.data::<Accepted>("drain relay").cell.as_str(), "relay");

    seen::see_a_running_cell(&place);
    kits::make_use_and_examine_kits(&place);
    trust::lists_are_signed_shown_and_given(&place);

    let checked: Validation = place.data("validate good.toml");
    assert_eq!((checked.cells, checked.problems.len()), (Some(3), 0));
    let shown: Configuration = place.data("config show good.toml");
    let of = |key: &str| shown.settings.iter().find(|one| one.key == key).expect(key);
    let listen = of("cell.server.listen");
    assert_eq!((&listen.value, listen.line), (&Value::from("127.0.0.1:0"), Some(7)));
    let hops = of("limits.hops_max");
    assert_eq!((&hops.value, hops.source.as_str()), (&Value::from(16), "default"));
    assert_eq!(of("state").source, "environment");
    let shown: Configuration = place.data("config show good.toml --state elsewhere");
    assert!(shown.settings.iter().any(|one| one.key == "state" && one.source == "argument"));
    assert!(place.data::<Drawing>("graph good.toml").text.contains("flowchart"));
    assert_eq!(place.data::<Drawing>("graph good.toml --format dot").format, "dot");
    assert!(place.data::<Value>("schema topology").is_object());
    let checked: CheckedRules = place.data("policy check good.toml");
    assert_eq!((checked.rules.len(), checked.rules[0].line), (1, Some(17)));
    let tested: PolicyReply =
        place.data("policy test good.toml --from site-1 --to server task/fetch");
    assert_eq!(tested.hops.len(), 3);
    let explained: PolicyReply = place.data("policy explain --from relay --to server task/fetch");
    assert_eq!(explained.revision, Some(3));
    let reloaded: Reloaded = place.data("reload");
    assert_eq!(reloaded.processes.len(), 2);
    assert_eq!(place.data::<Vec<JobReport>>("job ls").len(), 1);
    assert_eq!(place.data::<JobReport>("job show digits").attempt, 2);
    assert_eq!(place.data::<JobReport>("job cancel digits").parts.len(), 2);
    let meeting: JobMeeting = place.data("job attach digits --for 60");
    assert_eq!((meeting.lifetime_s, meeting.file.is_absolute()), (60, true));
    assert_eq!(place.data::<Printed>("job logs digits").lines[0].text, "a line");
    let described =
        "[job]\nname = \"digits\"\n[server]\nprogram = \"a\"\n[site]\nprogram = \"b\"\n";
    fs::write(place.dir.path().join("job.toml"), described).expect("a temporary file");
    assert_eq!(place.data::<JobReport>("job run .").job.as_str(), "digits");
    fs::write(place.dir.path().join("job.toml"), "[job]\nname = 1\n").expect("a temporary file");
    let refused = place.failure("job run .");
    assert_eq!((refused.exit_code, refused.error_code.as_str()), (4, "CONFIG"));
    assert!(place.data::<Value>("schema job").is_object());
    let codes: Vec<Code> = place.data("errors ls");
    assert!(codes.iter().any(|code| code.code == "TOPIC_DENIED" && code.exit_code == 6));
    assert_eq!(place.data::<Code>("errors explain no-route").code, "NO_ROUTE");
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.data::<Script>(&format!("completion {shell}")).script.contains("cellbus"));
    }

    let measured: Report =
        place.data("bench request --measure rr_64_c2 --rounds 1 --seconds 0.05 --attempts 1");
    assert_eq!(measured.rows.len(), 1);

    let shown: DemoReport = place.data("demo");
    assert!(shown.is_ok() && !shown.checks.is_empty());
    // `up` runs until a signal; tests/process sends one.
    let refused = place.failure("up good.toml --only nobody");
    assert_eq!((refused.exit_code, refused.error_code.as_str()), (4, "CONFIG"));

    let tested = [
        "demo",
        "up",
        "status",
        "cells",
        "peers",
        "links",
        "routes",
        "stats",
        "dead-letters",
        "metrics",
        "top",
        "trace",
        "tap",
        "serve",
        "send",
        "transfer",
        "ping",
        "explain",
        "request",
        "inspect",
        "drain",
        "validate",
        "config",
        "graph",
        "schema",
        "policy",
        "reload",
        "provision",
        "invite",
        "join",
        "requests",
        "kit",
        "cert",
        "doctor",
        "ca",
        "cell",
        "roster",
        "trust",
        "job",
        "errors",
        "bench",
        "completion",
    ];
    let help = String::from_utf8(place.run("--help").stdout).expect("text");
    let listed = help.split("Commands:").nth(1).and_then(|rest| rest.split("\n\n").next());
    let listed: BTreeSet<&str> = listed
        .expect("a list of commands")
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    assert_eq!(listed, BTreeSet::from(tested), "a command without a test, or the other way round");
}

#[test]
fn usage_errors_are_envelopes_and_exit_with_four() {
    let place = Place::new();
    for line in [
        "nonsense",
        "demo --rounds 0",
        "up",
        "up good.toml --processes --only server",
        "ping",
        "ping Not-A-Name",
        "ping site-1 --count 0",
        "ping site-1 --count 1001",
        "ping site-1 --budget 5",
        "ping site-1 --budget 11m",
        "request site-1 task",
        "request site-1 Task/fetch",
        "explain --from a task/fetch",
        "status server --at relay",
        "status --watch",
        "stats --times 2",
        "links --watch=0s -o jsonl",
        "dead-letters --code nothing",
        "dead-letters -n 0",
        "dead-letters -n 1001",
        "trace server relay",
        "trace server relay task",
        "trace server relay task/fetch --at relay",
        "transfer put missing.toml",
        "transfer put good.toml relay --on task",
        "transfer put good.toml relay --patience 0s",
        "transfer put good.toml relay --rate 0",
        "transfer put good.toml relay --sealed --reference",
        "transfer receive . --at-once 65 --count 1",
        "transfer receive .",
        "transfer cancel xyz",
        "tap task",
        "tap task/fetch",
        "tap task/fetch --count 2 --sample 0",
        "tap */fetch --count 1",
        "serve task/fetch",
        "serve task/fetch --count 1 --concurrency 33",
        "serve task/fetch --count 1 --lines --reply x",
        "send relay task/fetch --header nonsense",
        "send relay task/fetch -H a=b -H =c",
        "request relay task/fetch --stream --retry",
        "top --at relay relay",
        "status server --socket x",
        "status --socket x --state y",
        "status --unknown",
        "graph good.toml --format svg",
        "provision",
        "provision project.toml",
        "provision add site-1 project.toml",
        "provision add Site-1 project.toml --out fed",
        "provision project.toml --out fed --passphrase-file a --passphrase-fd 3",
        "ca",
        "ca ls",
        "ca prepare project.toml",
        "ca revoke --out fed",
        "invite site-1 project.toml",
        "invite site-1 project.toml --out fed --hours 0",
        "join --kit k",
        "join --kit k --request b",
        "join --kit k --invitation a --request b --wait 1m",
        "join --kit k --wait 8d",
        "join --kit k --invitation a --request b --reply c",
        "requests",
        "requests approve r project.toml --out fed",
        "requests apply project.toml --out fed",
        "requests apply project.toml --out fed --policy p --wait 8d",
        "kit",
        "kit seal k",
        "kit seal k --out f --recipient age1x --passphrase-fd 3",
        "kit open f",
        "kit diff a",
        "kit update k",
        "cert",
        "cert inspect",
        "cert needs-renewal x --expires-in 101%",
        "doctor",
        "doctor --topology good.toml",
        "doctor --kit k --from f",
        "up --kit k --only server",
        "up good.toml --root x",
        "errors",
        "schema",
        "policy",
        "policy check",
        "policy test good.toml --from site-1 task/fetch",
        "policy test good.toml --from site-1 --to server task/fetch --expect perhaps",
        "policy explain --from site-1 --to server task",
        "reload --at relay --socket x",
        "bench",
        "bench everything",
        "bench request --measure rr_64",
        "bench request --measure ff_64",
        "bench publish --measure rr_64_c1",
        "bench request --rounds 0",
        "bench request --seconds 0",
        "bench request --baseline nats",
        "completion nosuchshell",
        "status --log a=b=c",
    ] {
        let failed = place.failure(line);
        assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "USAGE"), "{line}");
    }
    for line in ["ping", "status -o xml"] {
        let output = place.run(line);
        assert_eq!(output.status.code(), Some(4), "{line}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn failures_keep_code_class_cell_and_exit_code() {
    let place = Place::new();
    for (line, exit, code, class) in [
        ("request denied task/fetch", 6, "TOPIC_DENIED", "refused"),
        ("request slow task/fetch", 3, "DEADLINE", "unknown"),
        ("request failed task/fetch", 1, "HANDLER_FAILED", "failed"),
        ("request stranger task/fetch", 2, "UNAUTHENTICATED", "refused"),
    ] {
        let failed = place.failure(line);
        assert_eq!((failed.exit_code, failed.error_code.as_str()), (exit, code), "{line}");
        assert_eq!(failed.class.as_deref(), Some(class), "{line}");
        assert_eq!((failed.by.as_deref(), failed.hint.as_deref()), (Some("relay"), Some("ask")));
    }

    let failed = place.failure("ping gone --count 2");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (1, "NO_ROUTE"));
    assert_eq!(failed.by.as_deref(), Some("server"));
    let reply: PingReply = exactly("ping", failed.data.expect("the rows"));
    assert_eq!(reply.rows.len(), 2);

    let failed = place.failure("explain --from site-1 --to site-2 task/fetch");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (6, "TOPIC_DENIED"));
    exactly::<ExplainReply>("explain", failed.data.expect("the verdict"));

    let failed = place.failure("trace server denied task/fetch --payload x");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (6, "TOPIC_DENIED"));
    assert_eq!(failed.by.as_deref(), Some("server"));
    let traced: TraceReply = exactly("trace", failed.data.expect("the way"));
    assert_eq!(traced.hops[1].code.as_deref(), Some("TOPIC_DENIED"));
    let failed = place.failure("send denied task/fetch");
    assert_eq!((failed.exit_code, failed.by.as_deref()), (6, Some("server")));
    let failed = place.failure("tap task/fetch --payload --count 1");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (6, "FORBIDDEN"));
    let failed = place.failure("request slow task/fetch --stream");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (3, "DEADLINE"));

    let failed = place.failure("errors explain NOTHING");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "UNKNOWN_CODE"));
}

#[test]
fn the_running_cell_is_found_or_said_to_be_missing() {
    let place = Place::new();
    let asked = |line: &str| place.data::<StatusReport>(line).cell.to_string();
    assert_eq!(asked("status --at relay"), "relay");
    assert_eq!(asked("status relay"), "relay");
    assert_eq!(asked("status --project study"), "server");
    assert_eq!(asked("status --topology good.toml"), "server");
    assert_eq!(asked("status --state cellbus/study"), "server");
    assert_eq!(asked("status --state cellbus/study/relay"), "relay");
    assert_eq!(asked("status --socket cellbus/study/relay/control.sock"), "relay");
    let pinged: PingReply = place.data("ping site-1 --topology good.toml");
    assert_eq!(pinged.to.as_str(), "relay.site-1", "the file knows the full name");

    for line in [
        "status --at site-9",
        "status --state missing",
        "status --project other",
        "status --socket missing/control.sock",
    ] {
        let failed = place.failure(line);
        assert_eq!(
            (failed.exit_code, failed.error_code.as_str()),
            (2, "CELL_NOT_RUNNING"),
            "{line}"
        );
        assert!(failed.hint.is_some(), "{line}");
    }

    fake::serve(&place.state(), "server-2", CellKind::Server);
    let failed = place.failure("status");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CELL_AMBIGUOUS"));
    assert!(failed.message.contains("server, server-2"), "{}", failed.message);
    fake::serve(&place.dir.path().join("cellbus/other"), "server", CellKind::Server);
    let failed = place.failure("status");
    assert!(failed.message.contains("other, study"), "{}", failed.message);
}

#[test]
fn what_rules_say_is_yes_or_no_and_says_why() {
    let place = Place::new();
    let test = |more: &str| format!("policy test good.toml --from site-1 --to server {more}");
    let said: PolicyReply = place.data(&test("task/fetch --expect allow"));
    assert_eq!(said.why, "rule 1 in line 17: allow site-1 -> server task/fetch");
    let hops: Vec<&str> = said.hops.iter().map(|hop| hop.cell.as_str()).collect();
    assert_eq!((hops, said.direction.as_str()), (vec!["relay.site-1", "relay", "server"], "up"));
    let said: PolicyReply = place.data(&test("task/submit --expect deny"));
    assert_eq!((said.code.as_deref(), said.near.len()), (Some("TOPIC_DENIED"), 1));

    let failed = place.failure(&test("task/fetsh"));
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (6, "TOPIC_DENIED"));
    let said: PolicyReply = exactly("policy test", failed.data.expect("what the rules say"));
    assert_eq!(said.near[0].did_you_mean.as_deref(), Some("fetch"));
    for (line, exit, code) in [
        (test("task/fetch --expect deny"), 1, "CHECK_FAILED"),
        (test("task/submit --expect allow"), 1, "CHECK_FAILED"),
        ("policy test good.toml --from site-9 --to server task/fetch".to_owned(), 4, "CONFIG"),
        ("policy test bad.toml --from site-1 --to server task/fetch".to_owned(), 4, "CONFIG"),
        ("policy check odd.toml --deny-warnings".to_owned(), 4, "CONFIG"),
        ("policy explain --from site-1 --to site-2 task/fetch".to_owned(), 6, "TOPIC_DENIED"),
    ] {
        let failed = place.failure(&line);
        assert_eq!((failed.exit_code, failed.error_code.as_str()), (exit, code), "{line}");
    }
    let tests = format!(
        "{GOOD}[[policy_test]]\nfrom = \"site-1\"\nto = \"server\"\nchannel = \"task\"\ntopic = \"fetch\"\nexpect = \"deny\"\n"
    );
    fs::write(place.dir.path().join("tests.toml"), &tests).expect("a temporary file");
    let failed = place.failure("policy check tests.toml");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CONFIG"));
    let problems = failed.data.expect("the problems");
    assert_eq!(problems["problems"][0]["code"], "CBT077");
    fs::write(place.dir.path().join("tests.toml"), tests.replace("\"deny\"", "\"allow\""))
        .expect("a temporary file");
    assert_eq!(place.data::<CheckedRules>("policy check tests.toml").tests, 1);
}

#[test]
fn a_cell_in_another_process_says_for_itself_what_it_would_do() {
    let place = Place::new();
    let said: PolicyReply =
        place.data("policy explain --from relay --to server task/fetch --at relay");
    let known: Vec<(&str, Option<u64>)> =
        said.hops.iter().map(|hop| (hop.cell.as_str(), hop.revision)).collect();
    assert_eq!(known, [("server", Some(3)), ("relay", Some(3)), ("elsewhere", None)]);
}

#[test]
fn a_reload_is_of_every_process_or_of_none() {
    let place = Place::new();
    let reloaded: Reloaded = place.data("reload --at relay");
    assert_eq!(reloaded.processes.len(), 1);
    let asked: Reloaded = place.data("reload --dry-run");
    assert!(asked.processes.iter().all(|reply| (reply.from, reply.to) == (3, 3)));
    let told = String::from_utf8(place.run("reload").stderr).expect("text");
    assert_eq!(told, "needs a restart: relay: hosts\n", "once, however many processes say it");

    fake::serve(&place.state(), "refuses", CellKind::Client);
    let failed = place.failure("reload");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CONFIG"));
    let reloaded: Reloaded = exactly("reload", failed.data.expect("the answers"));
    assert_eq!(reloaded.processes.len(), 3);
    assert!(reloaded.processes.iter().all(|reply| reply.to == 3), "nobody took the new rules");
    let told = String::from_utf8(place.run("reload").stderr).expect("text");
    assert!(told.contains("/study.toml:4:8: error CBT041: ") && !told.contains('\u{1b}'), "{told}");
}

#[test]
fn a_bad_topology_file_is_reported_in_full() {
    let place = Place::new();
    let failed = place.failure("validate bad.toml");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CONFIG"));
    let checked: Validation = exactly("validate", failed.data.expect("the problems"));
    assert_eq!((checked.errors, checked.problems[0].code.as_str()), (1, "CBT024"));
    assert_eq!(checked.problems[0].line, Some(16));
    let shown = String::from_utf8(place.run("validate bad.toml").stderr).expect("text");
    assert!(shown.contains("CBT024") && shown.contains("bad.toml:16:"), "{shown}");

    let odd: Validation = place.data("validate odd.toml");
    assert_eq!((odd.errors, odd.warnings, odd.problems.len()), (0, 1, 1));
    for line in [
        "validate odd.toml --deny-warnings",
        "validate garbage.toml",
        "config show garbage.toml",
        "config show missing.toml",
        "validate missing.toml",
        "validate .",
        "graph bad.toml",
        "status --topology bad.toml",
    ] {
        let failed = place.failure(line);
        assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "CONFIG"), "{line}");
    }
}

#[test]
fn people_get_tables_and_programs_get_lines() {
    let place = Place::new();
    let output = place.run("cells");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");

    let shown = place.run("config show good.toml --origin").stdout;
    let shown = String::from_utf8(shown).expect("text");
    let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).expect("it is shown");
    assert!(line("cell.site-1.parent").ends_with("line 16"), "{shown}");
    assert!(line("limits.hops_max").ends_with("default"), "{shown}");
    let narrow = String::from_utf8(place.run("config show good.toml").stdout).expect("text");
    assert!(!narrow.contains("line 16") && narrow.contains("127.0.0.1:0"), "{narrow}");

    let lines = String::from_utf8(place.run("cells -o jsonl").stdout).expect("text");
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["status"], &last["schema_version"]), (&"ok".into(), &1.into()));

    let denied = place.run("request denied task/fetch");
    let told = String::from_utf8(denied.stderr).expect("text");
    assert!(denied.stdout.is_empty());
    assert!(told.starts_with("error: TOPIC_DENIED (by relay): ") && told.contains("hint: ask"));
    assert!(!told.contains('\u{1b}'), "what a cell says cannot drive the terminal: {told:?}");
}

#[test]
fn a_payload_goes_out_and_comes_back_byte_for_byte() {
    let place = Place::new();
    fs::write(place.dir.path().join("payload"), b"\xff\n\x00").expect("a temporary file");
    let output = place.run("request server task/fetch --payload @payload");
    assert_eq!(output.stdout, b"\xff\n\x00");
    assert_eq!(place.run("request binary task/fetch").stdout, b"\xff\x00");
    assert!(place.run("request server task/fetch").stdout.is_empty());

    let mut child = place
        .command(&["request", "server", "task/fetch", "--payload", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was built");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(b"from a pipe").expect("it reads all of it");
    drop(stdin);
    assert_eq!(child.wait_with_output().expect("it ends").stdout, b"from a pipe");

    let failed = place.failure("request server task/fetch --payload @missing");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "INPUT"));
    let large = File::create(place.dir.path().join("large")).expect("a temporary file");
    large.set_len(3 << 20).expect("a sparse file");
    let failed = place.failure("request server task/fetch --payload @large");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (4, "INPUT"));
    large.set_len(2 << 20).expect("a sparse file");
    let failed = place.failure("request server task/fetch --payload @large");
    assert_eq!((failed.exit_code, failed.error_code.as_str()), (1, "TOO_LARGE"));
}

#[test]
fn a_reader_that_has_read_enough_is_no_error_and_a_full_disk_is_one() {
    let place = Place::new();
    for line in ["errors ls", "errors ls -o json", "--help", "completion bash"] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let args: Vec<&str> = line.split(' ').collect();
        let output = place.command(&args).stdout(writer).stderr(Stdio::piped()).output();
        let output = output.expect("the binary was built");
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(output.stderr.is_empty(), "{line}: {}", output.stderr.escape_ascii());
    }
    let full = File::create("/dev/full").expect("Linux has it");
    let output = place.command(&["errors", "ls"]).stdout(full).stderr(Stdio::piped()).output();
    let output = output.expect("the binary was built");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.starts_with(b"error: the result cannot be written"));
}
