//! What a site decides for itself: rules that refuse more, limits, and what jobs may run there. It can never allow more
//! messages than the project.

use std::{fmt, net::SocketAddr};

use cellbus_proto::topology::{self, Parsed, Problem, Severity, Topology};
use toml::{Table, Value};

use crate::{
    layout::{JOIN, LIMITS, POLICY, PROGRAMS, TOPOLOGY},
    text::position,
};

/// What `local/policy.toml` holds in a new kit.
pub const NEW_POLICY: &str = "\
# Rules of this site, on top of those of the project. They can only refuse.
#
# [[deny]]
# from = \"*\"
# to = \"this-site\"
# channel = \"task\"
# topics = [\"submit\"]
";

/// What `local/limits.toml` holds in a new kit.
pub const NEW_LIMITS: &str = "\
# Limits of this site, instead of those of the project. docs/TOPOLOGY.md lists them.
#
# [limits]
# outbox_max_bytes = 8388608
";

/// What `local/programs.toml` holds in a new kit.
pub const NEW_PROGRAMS: &str = "\
# What jobs may run at this site: nothing, as long as nothing stands here. docs/TOPOLOGY.md has the keys.
#
# [[program]]
# name = \"train\"
# cells = [\"this-site\"]
# argv = [\"/opt/study/bin/train\", \"--rounds\", \"{rounds}\"]
# parameters = { rounds = \"integer\" }
#
# The cluster that programs with launcher = \"slurm\" are given to.
#
# [[slurm]]
# cells = [\"this-site\"]
# directory = \"/shared/cellbus\"
# address = \"10.0.0.5\"
";

/// What a site decides, as its files say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnFiles<'a> {
    /// `local/policy.toml`.
    pub policy: &'a str,
    /// `local/limits.toml`.
    pub limits: &'a str,
    /// `local/programs.toml`.
    pub programs: &'a str,
}

/// The topology that a cell runs by.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The topology.
    pub topology: Topology,
    /// Its text: what the site decides comes first, as it is written.
    pub text: String,
    /// What is odd about it.
    pub warnings: Vec<Placed>,
}

/// Where whoever is invited may ask to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinDoor {
    /// Where the door listens, UDP.
    pub listen: SocketAddr,
    /// Where others reach it, host and port, where that is somewhere else.
    pub address: Option<String>,
}

/// A problem, with the file and place that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The file, from the kit down.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The code of the problem.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

/// Puts together what the project and the site say.
///
/// # Errors
/// Everything that is wrong, each with its file and place.
pub fn merge(topology: &str, own: OwnFiles<'_>) -> Result<Merged, Vec<Placed>> {
    let OwnFiles { policy, limits, programs } = own;
    let mut base: Table = table(TOPOLOGY, topology)?;
    let own_policy = table(POLICY, policy)?;
    let own_limits = table(LIMITS, limits)?;
    only(POLICY, &own_policy, &["deny"], "[[deny]]")?;
    only(LIMITS, &own_limits, &["limits"], "[limits]")?;
    let own_programs = table(PROGRAMS, programs)?;
    only(PROGRAMS, &own_programs, &["program", "slurm"], "[[program]] and [[slurm]]")?;
    let mut head = String::new();
    if let Some(Value::Table(given)) = own_limits.get("limits") {
        if !limits.lines().any(|line| line.trim_start().starts_with("[limits]")) {
            return Err(vec![placed(
                LIMITS,
                1,
                "write `[limits]`, and each limit on a line of its own",
            )]);
        }
        head.push_str(limits);
        head.push('\n');
        if let Some(Value::Table(project)) = base.remove("limits") {
            let rest: Table =
                project.into_iter().filter(|(key, _)| !given.contains_key(key)).collect();
            head.push_str(&toml::to_string(&rest).unwrap_or_default());
        }
    }
    let limits_end = head.len();
    head.push_str(policy);
    head.push('\n');
    let policy_end = head.len();
    head.push_str(programs);
    head.push('\n');
    let programs_end = head.len();
    let rest =
        toml::to_string(&base).map_err(|error| vec![placed(TOPOLOGY, 1, error.to_string())])?;
    let text = head + &rest;
    let place = |problem: Problem| {
        let start = problem.span.start;
        let (file, from) = if start < limits_end {
            (LIMITS, 0)
        } else if start < policy_end {
            (POLICY, limits_end)
        } else if start < programs_end {
            (PROGRAMS, policy_end)
        } else {
            (TOPOLOGY, programs_end)
        };
        let (line, column) = position(&text[from..], start - from);
        let (code, help) = (problem.code.as_str(), problem.help);
        Placed { file: file_of(file), line, column, code, message: problem.message, help }
    };
    match topology::parse(&text) {
        Ok(Parsed { topology, warnings }) => {
            let warnings = warnings.into_iter().map(place).collect();
            Ok(Merged { topology, text, warnings })
        }
        Err(problems) => {
            let errors = problems.into_iter().filter(|one| one.severity() == Severity::Error);
            Err(errors.map(place).collect())
        }
    }
}

/// Reads `local/join.toml`.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn join_door(text: &str) -> Result<JoinDoor, Vec<Placed>> {
    const KEYS: [&str; 2] = ["listen", "address"];
    let whole = table(JOIN, text)?;
    only(JOIN, &whole, &["join"], "[join]")?;
    let line = |key: &str| {
        let is_it = |line: &str| {
            let rest = line.trim_start().strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        text.lines().position(is_it).map_or(1, |at| at + 1)
    };
    let wrong = |key: &str, message: String, help: &str| {
        vec![Placed { help: Some(help.to_owned()), ..placed(JOIN, line(key), message) }]
    };
    let Some(Value::Table(join)) = whole.get("join") else {
        return Err(wrong("join", "no table `[join]`".to_owned(), "write `[join]` and `listen`"));
    };
    if let Some(key) = join.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let message = format!("unknown key `{}`", key.escape_default());
        return Err(wrong(key, message, "`[join]` has `listen` and `address`"));
    }
    let text_of = |key: &str| match join.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(key, format!("`{key}` is no text"), "put it in quotes")),
    };
    let help = "an address of this machine and a port of its own, as in \"0.0.0.0:8444\"";
    let listen = text_of("listen")?
        .ok_or_else(|| wrong("listen", "`listen` is missing".to_owned(), help))?;
    let listen: SocketAddr = listen.parse().map_err(|_| {
        wrong("listen", format!("`{}` is no address and port", listen.escape_default()), help)
    })?;
    let address = text_of("address")?;
    let is_one = |address: &String| {
        let Some((host, port)) = address.rsplit_once(':') else { return false };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        (1..=255).contains(&host.len())
            && host.chars().all(plain)
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if let Some(bad) = address.as_ref().filter(|address| !is_one(address)) {
        let message = format!("`{}` is no host and port", bad.escape_default());
        let help = "what others dial, as in \"server.example.org:8444\"";
        return Err(wrong("address", message, help));
    }
    Ok(JoinDoor { listen, address })
}

fn table(file: &str, text: &str) -> Result<Table, Vec<Placed>> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let (line, column) = position(text, at);
        vec![Placed { column, ..placed(file, line, error.message()) }]
    })
}

/// Refuses anything but this one section.
fn only(file: &str, table: &Table, sections: &[&str], place: &str) -> Result<(), Vec<Placed>> {
    let strange = table.keys().filter(|key| !sections.contains(&key.as_str()));
    let found: Vec<Placed> = strange
        .map(|key| {
            let help = format!("this file holds {place} and nothing else");
            let message = format!("unknown key `{}`", key.escape_default());
            Placed { help: Some(help), ..placed(file, 1, message) }
        })
        .collect();
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn placed(file: &str, line: usize, message: impl Into<String>) -> Placed {
    let message = message.into();
    Placed { file: file_of(file), line, column: 1, code: "CBT002", message, help: None }
}

fn file_of(file: &str) -> String {
    let dir = if file == TOPOLOGY { crate::layout::STARTUP } else { crate::layout::LOCAL };
    format!("{dir}/{file}")
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, code, message, help } = self;
        write!(f, "{file}:{line}:{column}: {code}: {message}")?;
        match help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(topology: &str, policy: &str, limits: &str) -> Result<Merged, Vec<Placed>> {
        super::merge(topology, OwnFiles { policy, limits, programs: "" })
    }

    const TOPOLOGY: &str = r#"
[[allow]]
channel = "task"
from = "site-1"
to = "server"
topics = ["fetch"]
[limits]
hops_max = 8
token_ttl_s = 600
[project]
name = "study"
[[cell]]
kind = "server"
listen = "127.0.0.1:8002"
name = "server"
[[cell]]
kind = "client"
name = "site-1"
parent = "server"
"#;

    #[test]
    fn a_new_kit_changes_nothing() {
        let merged = merge(TOPOLOGY, NEW_POLICY, NEW_LIMITS).unwrap();
        let plain = topology::parse(TOPOLOGY).unwrap().topology;
        assert_eq!(merged.topology.rules, plain.rules);
        assert_eq!(merged.topology.limits, plain.limits);
    }

    #[test]
    fn s3_18_a_site_can_refuse_more_and_set_its_own_limits() {
        let policy =
            "[[deny]]\nfrom = \"*\"\nto = \"server\"\nchannel = \"task\"\ntopics = [\"drop\"]\n";
        let merged = merge(TOPOLOGY, policy, "[limits]\nhops_max = 4\n").unwrap();
        assert_eq!(merged.topology.rules.len(), 2);
        let plain = topology::parse(TOPOLOGY).unwrap().topology;
        assert_ne!(merged.topology.limits, plain.limits);
        // The project's other limits hold on.
        let back = merge(TOPOLOGY, policy, "[limits]\nhops_max = 8\n").unwrap();
        assert_eq!(back.topology.limits, plain.limits);
    }

    #[test]
    fn s3_18_a_site_cannot_allow_more_than_the_project() {
        let policy = "[[allow]]\nfrom = \"*\"\nto = \"*\"\nchannel = \"*\"\ntopics = [\"*\"]\n";
        let refused = merge(TOPOLOGY, policy, "").unwrap_err();
        assert_eq!(
            refused[0].to_string(),
            "local/policy.toml:1:1: CBT002: unknown key `allow` (this file holds [[deny]] and nothing else)"
        );
        assert!(merge(TOPOLOGY, "", "[project]\nname = \"other\"\n").is_err());
        assert!(merge(TOPOLOGY, "", "limits = { hops_max = 4 }\n").is_err());
    }

    #[test]
    fn a_problem_of_a_site_is_told_with_its_own_file_and_line() {
        let policy = "# one\n[[deny]]\nfrom = \"site-9\"\nto = \"server\"\nchannel = \"task\"\ntopics = [\"x\"]\n";
        let refused = merge(TOPOLOGY, policy, "[limits]\nhops_max = 99\n").unwrap_err();
        let places: Vec<String> =
            refused.iter().map(|one| format!("{}:{}:{}", one.file, one.line, one.code)).collect();
        assert_eq!(places, ["local/limits.toml:2:CBT050", "local/policy.toml:3:CBT041"]);
        let refused = merge(TOPOLOGY, "[[deny]\n", "").unwrap_err();
        assert_eq!((refused[0].file.as_str(), refused[0].line), ("local/policy.toml", 1));
    }

    #[test]
    fn v_22_a_join_door_is_read_strictly() {
        let door = join_door("[join]\nlisten = \"0.0.0.0:8444\"\n").unwrap();
        assert_eq!((door.listen, door.address), (([0, 0, 0, 0], 8444).into(), None));
        let named = "[join]\nlisten = \"[::]:8444\"\naddress = \"server.example.org:443\"\n";
        assert_eq!(join_door(named).unwrap().address.unwrap(), "server.example.org:443");
        for (bad, said) in [
            ("", "local/join.toml:1:1: CBT002: no table `[join]`"),
            ("[join]\n", "local/join.toml:1:1: CBT002: `listen` is missing"),
            ("[join]\nlisten = 8444\n", "local/join.toml:2:1: CBT002: `listen` is no text"),
            (
                "[join]\nlisten = \"server:1\"\n",
                "local/join.toml:2:1: CBT002: `server:1` is no address",
            ),
            (
                "[join]\nlisten = \"0.0.0.0:1\"\nopen = true\n",
                "local/join.toml:3:1: CBT002: unknown key `open`",
            ),
            (
                "[join]\nlisten = \"0.0.0.0:1\"\naddress = \"a b:1\"\n",
                "local/join.toml:3:1: CBT002: `a b:1` is no host",
            ),
            ("[limits]\n", "local/join.toml:1:1: CBT002: unknown key `limits`"),
            ("[join\n", "local/join.toml:1:"),
        ] {
            let refused = join_door(bad).unwrap_err();
            assert!(refused[0].to_string().starts_with(said), "{}", refused[0]);
        }
    }

    #[test]
    fn v_05_what_jobs_may_run_at_a_site_the_site_says_and_nobody_else() {
        fn merge(programs: &str) -> Result<Merged, Vec<Placed>> {
            super::merge(TOPOLOGY, OwnFiles { programs, ..OwnFiles::default() })
        }
        let train =
            "[[program]]\nname = \"train\"\ncells = [\"site-1\"]\nargv = [\"/opt/train\"]\n";
        let merged = merge(train).unwrap();
        assert_eq!(merged.topology.programs.len(), 1);
        assert!(merge("").unwrap().topology.programs.is_empty());
        assert!(
            merge(NEW_PROGRAMS).unwrap().topology.programs.is_empty(),
            "a new kit runs nothing"
        );
        let refused = merge(&train.replace("argv", "# one\nargs")).unwrap_err();
        assert_eq!((refused[0].file.as_str(), refused[0].line), ("local/programs.toml", 5));
        assert!(merge("[[deny]]\nfrom = \"*\"\n").is_err(), "nothing else stands there");
        let cluster =
            "[[slurm]]\ncells = [\"site-1\"]\ndirectory = \"/shared/x\"\naddress = \"10.0.0.5\"\n";
        let given = train.replace("argv", "launcher = \"slurm\"\nargv");
        let merged = merge(&format!("{given}{cluster}")).unwrap();
        assert!(merged.topology.cluster_of("site-1").is_some());
        let refused = merge(&given).unwrap_err();
        assert_eq!(refused[0].file, "local/programs.toml", "a cluster that nobody has named");
    }
}
