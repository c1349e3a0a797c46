//! Reading files that are there, and files that are not; reports as people and programs see them.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use cellbus_proto::topology::{LimitSpec, Limits};
use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn examples() -> Vec<PathBuf> {
    let entries = fs::read_dir(docs().join("examples")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    // A project is no topology: provisioning reads it.
    let is_topology = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "toml")
            && path.file_stem().is_some_and(|stem| stem != "project" && stem != "one-machine")
    };
    paths.retain(is_topology);
    paths.sort();
    paths
}

fn rendered(report: &ConfigReport) -> String {
    let mut out = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    handler.with_width(120).render_report(&mut out, report).unwrap();
    out
}

fn refused(text: &str) -> ConfigReport {
    read("study.toml", text).expect_err("a bad text is refused")
}

const SERVER: &str = "[project]\nname = \"study\"\n[[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:0\"\n";

#[test]
fn every_example_is_good_and_odd_in_nothing() {
    let examples = examples();
    let names: Vec<_> = examples.iter().map(|path| path.file_stem().unwrap()).collect();
    assert_eq!(names, ["deep", "relay", "star"]);
    for path in &examples {
        let Loaded { topology, warnings } = load(path).unwrap_or_else(|report| {
            panic!("{}", rendered(&report));
        });
        assert!(warnings.is_none(), "{}", rendered(&warnings.unwrap()));
        assert_eq!(topology.project.as_str(), path.file_stem().unwrap());
        assert!(
            topology.dev
                && topology.cells().iter().all(|cell| {
                    cell.listen.is_none_or(|listen| listen.ip().is_loopback() && listen.port() == 0)
                })
        );
    }
}

#[test]
fn all_problems_are_shown_at_once_each_with_its_place_code_and_help() {
    let text = format!(
        "{SERVER}lisen = 1\n[[cell]]\nname = \"site-1\"\nkind = \"client\"\nparent = \"sever\"\n\
         [limits]\ntoken_ttl_s = 1000\n"
    );
    let report = refused(&text);
    assert_eq!(report.to_string(), "study.toml: 3 errors");
    let shown = rendered(&report);
    for part in [
        "study.toml: 3 errors",
        "CBT002",
        "unknown key `lisen` in [[cell]]",
        "study.toml:7:1",
        "did you mean `listen`?",
        "CBT024",
        "study.toml:11:10",
        "`site-1` has the parent `sever`, which is not a cell of this file",
        "no such cell",
        "did you mean `server`?",
        "CBT050",
        "study.toml:13:15",
        "above its ceiling",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let excerpt = shown.lines().position(|line| line.contains("parent = \"sever\"")).unwrap();
    let underline = shown.lines().nth(excerpt + 1).unwrap();
    assert!(underline.contains("───┬───") || underline.contains("────"), "{shown}");
}

#[test]
fn a_second_place_is_shown_with_the_first() {
    let twice = "[[cell]]\nname = \"a\"\nkind = \"client\"\nparent = \"server\"\n";
    let shown = rendered(&refused(&format!("{SERVER}{twice}{twice}")));
    assert!(shown.contains("again here") && shown.contains("first here"), "{shown}");
}

#[test]
fn warnings_come_with_a_topology_that_works() {
    let loaded = read("study.toml", &SERVER.replace(":0", ":443")).unwrap();
    let warnings = loaded.warnings.unwrap();
    assert_eq!((warnings.errors(), warnings.warnings()), (0, 1));
    assert_eq!(warnings.to_string(), "study.toml: 1 warning");
    assert!(rendered(&warnings).contains("CBT035"));
    assert_eq!(loaded.topology.server().listen.unwrap().port(), 443);
}

#[test]
fn a_program_reads_the_same_report() {
    let report = refused(&format!("{SERVER}org = \"É\"; \"\n"));
    let json = report.to_json();
    assert_eq!(json["file"], "study.toml");
    assert_eq!(json["errors"], 1);
    let problem = &json["problems"][0];
    assert_eq!((&problem["code"], &problem["severity"]), (&"CBT001".into(), &"error".into()));
    assert_eq!(problem["line"], 7);
    // The semicolon is the tenth character and the eleventh byte of its line.
    assert_eq!(problem["column"], 10, "{json:#}");
    assert!(problem["message"].is_string());

    let missing = load(Path::new("/nonexistent/study.toml")).unwrap_err().to_json();
    assert_eq!(missing["problems"][0]["line"], serde_json::Value::Null);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let told = |path: &Path, code: Code| {
        let report = load(path).expect_err("refused");
        let [finding] = report.findings() else { panic!("{report:?}") };
        assert_eq!(finding.problem().code, code, "{report:?}");
        let shown = rendered(&report);
        assert!(finding.problem().message.contains(path.to_str().unwrap()), "{shown}");
        assert!(finding.problem().help.is_some());
        shown
    };
    assert!(told(&path("none.toml"), Code::NotFound).contains("does not exist"));
    assert!(told(dir.path(), Code::NotAFile).contains("is a directory"));

    let pipe = path("pipe.toml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(told(&pipe, Code::NotAFile).contains("not a regular file"));

    let broken = path("broken.toml");
    fs::write(&broken, b"[project]\nname = \"\xff\"\n").unwrap();
    let shown = told(&broken, Code::NotUtf8);
    assert!(shown.contains("byte 18 (0xff)") && shown.contains("broken.toml:2:9"), "{shown}");
    fs::write(&broken, b"\xff\xfe[\0p\0").unwrap();
    assert!(told(&broken, Code::NotUtf8).contains("UTF-16"));
    fs::write(&broken, b"name = \"\xe2\x82").unwrap();
    told(&broken, Code::NotUtf8);

    let large = path("large.toml");
    fs::write(&large, vec![b'#'; TEXT_MAX_BYTES + 1]).unwrap();
    assert!(told(&large, Code::TooLarge).contains("1048577 bytes"));
    fs::write(&large, format!("{SERVER}{}", "#".repeat(TEXT_MAX_BYTES - SERVER.len()))).unwrap();
    assert!(load(&large).is_ok());

    let closed = path("closed.toml");
    fs::write(&closed, SERVER).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    if fs::File::open(&closed).is_err() {
        assert!(told(&closed, Code::Unreadable).contains("cannot be read"));
    }
    let loops = path("loop.toml");
    std::os::unix::fs::symlink(&loops, &loops).unwrap();
    assert!(told(&loops, Code::Unreadable).contains("cannot be read"));
}

#[test]
fn a_secret_is_in_no_report() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----";
    for more in [
        "password = \"MIIabc\"".to_owned(),
        "[vault]\napi_key = [\n  \"x\",\n  \"MIIabc\",\n]".to_owned(),
        format!("org = \"\"\"\n{pem}\"\"\""),
        format!("anything = '''\n{pem}\n'''\nlisen = 1"),
        // Broken, so that no value of it is known.
        format!("org = \"{pem}"),
    ] {
        let report = refused(&format!("{SERVER}{more}\n"));
        let shown = rendered(&report);
        assert!(!shown.contains("MIIabc"), "{shown}");
        assert!(!report.to_json().to_string().contains("MIIabc"), "{report:?}");
        assert!(!format!("{report:?}").contains("MIIabc"), "{report:?}");
    }
}

#[test]
fn an_excerpt_holds_nothing_that_a_terminal_obeys() {
    let text = format!("{SERVER}# \u{1b}]0;owned\u{7}\nlisen = \"\u{202e}\u{1b}[31m\"\r\n");
    let report = refused(&text);
    let shown = rendered(&report);
    assert!(!shown.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{shown:?}");
    assert!(!report.to_json().to_string().contains('\u{1b}'));
}

#[test]
fn a_report_can_be_printed_wherever_a_file_breaks_off() {
    for path in examples() {
        let whole = fs::read_to_string(path).unwrap() + "ärger = \"\u{1f600}";
        for end in (0..=whole.len()).filter(|end| whole.is_char_boundary(*end)) {
            if let Err(report) = read("study.toml", &whole[..end]) {
                assert!(rendered(&report).contains("CBT"), "cut at {end}");
                assert!(report.errors() > 0);
            }
        }
    }
}

#[test]
fn a_drawing_has_every_cell_and_every_link_once() {
    for path in examples() {
        let topology = load(&path).unwrap().topology;
        let cells = topology.cells().len();
        for (format, link) in [(Format::Mermaid, " --- "), (Format::Dot, " -- ")] {
            let drawn = graph(&topology, format);
            assert_eq!(drawn.matches(link).count(), cells - 1, "{drawn}");
            for cell in topology.cells() {
                let label = format!("\"{}", cell.name);
                assert_eq!(
                    drawn.matches(&label).count(),
                    1 + usize::from(cell.name == topology.project && format == Format::Dot),
                    "{drawn}"
                );
            }
        }
    }
    let relay = load(&docs().join("examples/relay.toml")).unwrap().topology;
    let mermaid = graph(&relay, Format::Mermaid);
    assert!(mermaid.starts_with("---\ntitle: relay\n---\nflowchart TD\n"), "{mermaid}");
    assert!(mermaid.contains("  c0{{\"server<br/>127.0.0.1:0\"}}\n"), "{mermaid}");
    assert!(mermaid.contains("  c2(\"site-1<br/>relay-eu.site-1\")\n"), "{mermaid}");
    assert!(mermaid.contains("  c1 --- c2\n") && mermaid.contains("  c0 --- c4\n"), "{mermaid}");
    let dot = graph(&relay, Format::Dot);
    assert!(dot.contains("  c1 [shape=box, label=\"relay-eu\\n127.0.0.1:0\"];\n"), "{dot}");
    assert!(dot.starts_with("graph \"relay\" {\n") && dot.ends_with("}\n"), "{dot}");
}

#[test]
fn the_schema_beside_the_examples_is_that_of_the_code() {
    let stored = fs::read_to_string(docs().join("cellbus-topology.schema.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored, schema(), "write `cellbus schema topology` to the file");
    let stored = fs::read_to_string(docs().join("cellbus-job.schema.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored, job_schema(), "write `cellbus schema job` to the file");
    for key in ["project", "cell", "allow", "deny", "channel", "policy_test", "program", "limits"] {
        assert!(schema()["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn the_reference_states_every_key_limit_and_code() {
    let reference = fs::read_to_string(docs().join("TOPOLOGY.md")).unwrap();
    for LimitSpec { key, unit, default, floor, ceiling, about } in Limits::SPECS {
        let row = limit_row(key, unit, *default, *floor, *ceiling, about);
        assert!(reference.contains(&row), "no line\n{row}");
    }
    for code in Code::ALL {
        let row = format!("| {code} | {} | {} |", code.severity(), code.meaning());
        assert!(reference.contains(&row), "no line\n{row}");
    }
    let schema = schema();
    for table in ["Project", "Cell", "Rule", "Channel", "PolicyTest"] {
        for (key, _) in schema["$defs"][table]["properties"].as_object().unwrap() {
            assert!(reference.contains(&format!("| `{key}` |")), "no line for {key}");
        }
    }
}

#[test]
fn the_file_of_the_reference_is_good() {
    let reference = fs::read_to_string(docs().join("TOPOLOGY.md")).unwrap();
    let (_, from) = reference.split_once("```toml\n").unwrap();
    let (text, _) = from.split_once("```").unwrap();
    let loaded = read("TOPOLOGY.md", text).unwrap_or_else(|report| panic!("{}", rendered(&report)));
    assert!(loaded.warnings.is_none(), "{}", rendered(&loaded.warnings.unwrap()));
    assert_eq!(loaded.topology.cells().len(), 3);
}

fn limit_row(key: &str, unit: &str, default: u64, floor: u64, ceiling: u64, about: &str) -> String {
    let unit = if unit.is_empty() { "count" } else { unit };
    format!("| `{key}` | {unit} | {default} | {floor} | {ceiling} | {about} |")
}
