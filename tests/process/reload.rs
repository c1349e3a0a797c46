//! Rules that change while cells run: what passes before and after, and what a bad file does.

use rustix::process::Signal;
use serde_json::Value;

use crate::driver::{Answer, Federation, Place, Running, SOON, until};

const SUBMIT: &str = r#"
[[allow]]
from = "kind:client"
to = "server"
channel = "ops"
topics = ["submit"]
direction = "up"
"#;

struct Study {
    place: Place,
    running: Running,
}

impl Study {
    /// A federation of which everybody is registered, in one process or, with `more`, in several.
    fn start(more: &[&str]) -> Self {
        let place = Place::new();
        let file = place.write("study.toml", text(""));
        let (file, state) = (file.display().to_string(), place.state().display().to_string());
        let up = ["up", &file, "--state", &state, "-o", "jsonl", "-v"];
        let running = place.start(&[&up, more].concat());
        for cell in Federation::CELLS {
            running.wait_event("ready", &Federation::full_name(cell));
        }
        Self { place, running }
    }

    fn write(&self, text: &str) {
        self.place.write("study.toml", text);
    }

    fn ask(&self, arguments: &[&str]) -> Answer {
        self.place.ask_cell(arguments)
    }

    /// What becomes of a request of a site to the server: `NO_HANDLER` where rules let it pass.
    fn request(&self, topic: &str) -> Answer {
        self.ask(&["request", "server", topic, "--at", "site-1"])
    }

    fn event(&self, event: &str) -> Value {
        self.running
            .out
            .wait_json(event, SOON, |line| (line["event"] == event).then(|| line.clone()))
    }
}

fn text(more: &str) -> String {
    Federation::topology("127.0.0.1:0", "127.0.0.1:0", more)
}

#[test]
fn a_rule_that_comes_lets_the_next_message_pass_and_one_that_goes_refuses_it() {
    let study = Study::start(&[]);
    let refused = study.request("ops/submit");
    assert_eq!(refused.refusal(), (6, "TOPIC_DENIED"));
    let message = refused.message();
    assert!(message.contains("no rule of revision 1 allows it"), "{message}");
    let hint = refused.envelope["hint"].as_str().expect("what to do next");
    assert!(hint.contains("`cellbus policy explain --at relay-a.site-1 --from"), "{hint}");

    study.write(&text(SUBMIT));
    let thought = study.ask(&["reload", "--dry-run"]).data();
    assert_eq!(thought["processes"][0]["outcome"], "would_apply");
    assert_eq!(study.request("ops/submit").refusal(), (6, "TOPIC_DENIED"), "only thought of");

    let reloaded = study.ask(&["reload"]).data();
    let process = &reloaded["processes"][0];
    assert_eq!((&process["from"], &process["to"]), (&1.into(), &2.into()));
    assert_eq!(process["outcome"], "applied");
    assert_eq!(process["cells"].as_array().map(Vec::len), Some(4), "{process}");
    let rule = "rule added: allow kind:client -> server ops/submit up";
    assert_eq!(process["changes"], Value::from(vec![rule]));
    let passed = study.request("ops/submit");
    assert_eq!((passed.refusal(), passed.by()), ((1, "NO_HANDLER"), "server"));

    let told = study.event("reloaded");
    assert!(told["by"].as_str().is_some_and(|by| by.starts_with("user ")), "{told}");
    assert_eq!((&told["from"], &told["to"]), (&1.into(), &2.into()));
    until("the log has who changed the rules", SOON, || {
        let lines = study.running.err.so_far();
        lines.iter().any(|line| line.contains("audit") && line.contains(rule)).then_some(())
    });

    study.write(&text(""));
    study.ask(&["reload"]).data();
    let refused = study.request("ops/submit");
    assert_eq!(refused.refusal(), (6, "TOPIC_DENIED"));
    assert!(refused.message().contains("revision 3"), "{}", refused.message());
    let unchanged = study.ask(&["reload"]).data();
    assert_eq!(unchanged["processes"][0]["outcome"], "unchanged");
    assert_eq!(unchanged["processes"][0]["to"], 3);
}

#[test]
fn a_bad_file_changes_nothing_and_says_where_it_is_bad() {
    let study = Study::start(&[]);
    let failing_test = "[[policy_test]]\nfrom = \"site-1\"\nto = \"server\"\nchannel = \"ops\"\ntopic = \"submit\"\nexpect = \"deny\"\n";
    for (bad, code) in [
        (text(&SUBMIT.replace("kind:client", "kind:cleint")), "CBT040"),
        (text(&format!("{SUBMIT}{failing_test}")), "CBT077"),
        ("= = [".to_owned(), "CBT001"),
    ] {
        study.write(&bad);
        let refused = study.ask(&["reload"]);
        assert_eq!(refused.refusal(), (4, "CONFIG"), "{refused:#?}");
        let process = &refused.envelope["data"]["processes"][0];
        assert_eq!((&process["outcome"], &process["to"]), (&"refused".into(), &1.into()));
        let problem = &process["problems"][0];
        assert_eq!(problem["code"], code, "{problem}");
        assert!(problem["line"].is_u64() && problem["column"].is_u64(), "{problem}");
        assert_eq!(study.request("ops/submit").refusal(), (6, "TOPIC_DENIED"));
        let passed = study.request("ops/report");
        assert_eq!(passed.refusal(), (1, "NO_HANDLER"), "the rules of before hold");
    }
    let place = study.place.dir().join("study.toml");
    std::fs::remove_file(place).expect("it is there");
    assert_eq!(study.ask(&["reload"]).refusal(), (4, "CONFIG"));
    study.write(&text("").replace("name = \"study\"", "name = \"other\""));
    assert_eq!(study.ask(&["reload"]).refusal(), (4, "CONTROL_BAD_REQUEST"));
    assert_eq!(study.request("ops/report").refusal(), (1, "NO_HANDLER"));
}

#[test]
fn what_is_no_rule_needs_a_restart_and_is_left_as_it_is() {
    let study = Study::start(&[]);
    let more = format!("{SUBMIT}[limits]\nbeat_interval_ms = 900\n");
    let moved = text(&more).replace("name = \"site-2\"", "name = \"site-9\"");
    study.write(&moved);
    let reloaded = study.ask(&["reload"]);
    assert!(
        reloaded.err.iter().any(|line| line == "needs a restart: beat_interval_ms: 1000 -> 900"),
        "{reloaded:#?}"
    );
    let process = &reloaded.data()["processes"][0];
    assert_eq!(
        process["needs_restart"],
        Value::from(vec!["site-2: removed", "site-9: added", "beat_interval_ms: 1000 -> 900"])
    );
    assert_eq!(study.request("ops/submit").refusal(), (1, "NO_HANDLER"), "the rule is live");
    assert_eq!(study.ask(&["status", "site-2"]).exit, 0, "it runs as before");
}

#[test]
fn a_hangup_reloads_every_process_and_each_hop_says_which_rule_decides() {
    let study = Study::start(&["--processes"]);
    let deny = "[[deny]]\nfrom = \"org:study\"\nto = \"server\"\nchannel = \"ops\"\ntopics = [\"report\"]\n";
    study.write(&text(&format!("{SUBMIT}{deny}")));
    study.running.signal(Signal::HUP);
    let explain = |topic: &str| {
        let cells = ["--from", "relay-a.site-1", "--to", "server", "--at", "relay-a.site-1"];
        study.ask(&[&["policy", "explain", topic], cells.as_slice()].concat())
    };
    let said = until("every hop decides by the new rules", SOON, || {
        let said = explain("ops/submit");
        let hops = said.envelope["data"]["hops"].as_array()?.clone();
        let revised = hops.iter().all(|hop| hop["revision"] == 2 && hop["verdict"] == "admit");
        revised.then(|| (hops, said.envelope["data"]["why"].clone()))
    });
    let cells: Vec<&str> = said.0.iter().filter_map(|hop| hop["cell"].as_str()).collect();
    assert_eq!(cells, ["relay-a.site-1", "relay-a", "server"]);
    let why = said.1.as_str().expect("a reason");
    assert!(why.starts_with("rule 2 in line ") && why.ends_with("ops/submit up"), "{why}");

    let denied = explain("ops/report");
    assert_eq!((denied.refusal(), denied.by()), ((6, "TOPIC_DENIED"), "relay-a.site-1"));
    let refused = study.request("ops/report");
    assert!(refused.message().contains("denied by rule 3 of revision 2"), "{}", refused.message());
    let reprot = explain("ops/submitt");
    let near = &reprot.envelope["data"]["near"][0];
    assert_eq!(near["did_you_mean"], "submit", "{near}");

    let reloaded = study.ask(&["reload"]).data();
    let processes = reloaded["processes"].as_array().expect("one for each");
    assert_eq!(processes.len(), Federation::CELLS.len());
    assert!(processes.iter().all(|process| process["outcome"] == "unchanged"), "{reloaded}");
}
