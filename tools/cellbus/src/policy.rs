//! `policy`: what the rules of a file, or of running cells, say about a message, and why.

use std::path::PathBuf;

use cellbus_cells::{
    config::Loaded,
    control::{ExplainAsk, NearRow, PolicyHop, PolicyReply, Request, RuleRow, Verdict},
};
use cellbus_proto::{
    name::{ChannelTopic, Fqcn},
    topology::Topology,
};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    args::{Target, address},
    ask::{no, word},
    codes::CliCode,
    files,
    output::{Failure, Outcome, Success},
    table::{Table, or_dash},
    target::{ask, full_name},
};

/// Verbs of `policy`.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Checks the rules of a topology file and runs the tests that it has for them
    Check(Check),
    /// Says whether the rules of a topology file let a message pass
    Test(Test),
    /// Says which rule of running cells decides about a message, at every cell on its way
    Explain(Explain),
}

/// Arguments of `policy check`.
#[derive(Args, Debug)]
pub struct Check {
    /// The topology file
    pub file: PathBuf,
    /// Treat warnings as errors
    #[arg(long)]
    pub deny_warnings: bool,
}

/// Arguments of `policy test`.
#[derive(Args, Debug)]
pub struct Test {
    /// The topology file
    pub file: PathBuf,
    /// Who would send the message: the base name of a cell, or the path of a job cell
    #[arg(long, value_name = "CELL")]
    pub from: Fqcn,
    /// Who it would be for
    #[arg(long, value_name = "CELL")]
    pub to: Fqcn,
    /// Where inside that cell
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = address)]
    pub address: ChannelTopic,
    /// What the rules must say; anything else is a failure
    #[arg(long, value_enum)]
    pub expect: Option<Expect>,
}

/// What a person expects of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    /// The message passes
    Allow,
    /// The message is refused
    Deny,
}

/// Arguments of `policy explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// Who would send the message
    #[arg(long, value_name = "CELL")]
    pub from: Fqcn,
    /// Who it would be for
    #[arg(long, value_name = "CELL")]
    pub to: Fqcn,
    /// Where inside that cell
    #[arg(value_name = "CHANNEL/TOPIC", value_parser = address)]
    pub address: ChannelTopic,
    /// Which running cell is asked first: the sender, unless it is elsewhere or another is named.
    #[command(flatten)]
    pub target: Target,
}

/// What `policy check` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checked {
    /// The file.
    pub file: String,
    /// Its rules, in their order.
    pub rules: Vec<RuleRow>,
    /// Channels on which every message must be sealed.
    pub sealed_channels: Vec<String>,
    /// Tests of the rules that were run, all of which passed.
    pub tests: usize,
    /// How many problems there are.
    pub warnings: usize,
    /// The problems.
    pub problems: Value,
}

/// `policy check`.
pub fn check(args: &Check) -> Outcome {
    let Loaded { topology, warnings } = files::load(&args.file)?;
    let problems = files::show_warnings(warnings.as_ref(), args.deny_warnings)?;
    let policy = topology.policy(1);
    let checked = Checked {
        file: args.file.display().to_string(),
        rules: (0..policy.rules().len()).filter_map(|rule| RuleRow::of(&policy, rule)).collect(),
        sealed_channels: topology.sealed.iter().map(ToString::to_string).collect(),
        tests: topology.tests,
        warnings: warnings.map_or(0, |report| report.warnings()),
        problems,
    };
    let mut table = Table::new(["RULE", "LINE", "TEXT"]);
    for RuleRow { number, line, text } in &checked.rules {
        table.row([&number.to_string(), &or_dash(*line), text]);
    }
    for channel in &checked.sealed_channels {
        table.row(["-", "-", &format!("channel {channel}: sealed")]);
    }
    let (rules, tests, warnings) = (checked.rules.len(), checked.tests, checked.warnings);
    let file = &checked.file;
    let summary = format!("{file}: {rules} rules, {tests} tests passed, {warnings} warnings");
    Ok(Success::new(&checked, format!("{}\n{summary}", table.render())))
}

/// `policy test`. Without an expectation the answer is no when the message would be refused.
pub fn test(args: &Test) -> Outcome {
    let topology = files::load(&args.file)?.topology;
    let (policy, directory) = (topology.policy(1), topology.directory());
    let (from, to) = (cell(&topology, &args.from)?, cell(&topology, &args.to)?);
    let message = (&from, &to, &args.address);
    let said = PolicyReply::of(&policy, &directory, message, None, |_| true);
    let expected = match args.expect {
        None => return outcome(&said, None),
        Some(Expect::Allow) => Verdict::Admit,
        Some(Expect::Deny) => Verdict::Refuse,
    };
    if said.verdict == expected {
        return Ok(Success::new(&said, render(&said)));
    }
    let text = format!("{from} -> {to} {}: {}", args.address, said.why);
    let failure = Failure::new(CliCode::CheckFailed, text).data(&said);
    Err(Box::new(Failure { human: Some(render(&said)), ..*failure }))
}

/// `policy explain`. The answer is no when a cell on the way would refuse the message.
pub async fn explain(args: Explain) -> Outcome {
    let Explain { from, to, address, target } = args;
    let (from, to) = (full_name(&target, from)?, full_name(&target, to)?);
    let (channel, topic) = (address.channel().clone(), address.topic().clone());
    let request = || {
        let (from, to, channel, topic) = (from.clone(), to.clone(), channel.clone(), topic.clone());
        Request::Policy(ExplainAsk { from, to, channel, topic })
    };
    // Its sender decides first, and is who is meant where several cells run here.
    let nobody_named = target.at.is_none() && target.socket.is_none();
    let sender = Target { at: Some(from.clone()), ..target.clone() };
    let asked =
        if nobody_named { ask::<Box<PolicyReply>>(&sender, request()).await.ok() } else { None };
    let mut said: PolicyReply = match asked {
        Some(said) => *said,
        None => *ask::<Box<PolicyReply>>(&target, request()).await?,
    };
    // What runs in another process of this machine says for itself what it would do.
    while let Some(cell) =
        said.hops.iter().find(|hop| hop.verdict.is_none()).map(|h| h.cell.clone())
    {
        let there = Target { at: Some(cell.clone()), ..target.clone() };
        let answer = match target.socket {
            None => ask::<Box<PolicyReply>>(&there, request()).await.ok(),
            Some(_) => None,
        };
        let known = answer.map_or_else(Vec::new, |answer| answer.hops);
        if !learn(&mut said.hops, known, &cell) {
            break;
        }
    }
    let refusing = said.hops.iter().find(|hop| hop.verdict == Some(Verdict::Refuse));
    let by = refusing.map(|hop| hop.cell.to_string());
    outcome(&said, by)
}

/// Fills in what other cells know of the hops. Says whether there is more to be asked for.
fn learn(hops: &mut [PolicyHop], known: Vec<PolicyHop>, asked: &Fqcn) -> bool {
    for answer in known.into_iter().filter(|answer| answer.verdict.is_some()) {
        let open = hops.iter_mut().find(|hop| hop.cell == answer.cell && hop.verdict.is_none());
        if let Some(hop) = open {
            *hop = answer;
        }
    }
    hops.iter().any(|hop| hop.cell == *asked && hop.verdict.is_some())
}

fn outcome(said: &PolicyReply, by: Option<String>) -> Outcome {
    let human = render(said);
    let elsewhere = said.hops.iter().any(|hop| hop.verdict == Some(Verdict::Refuse));
    if said.verdict == Verdict::Admit && !elsewhere {
        return Ok(Success::new(said, human));
    }
    let code = said.code.clone();
    let code = code.unwrap_or_else(|| cellbus_proto::status::Status::TopicDenied.code().to_owned());
    let text =
        format!("{} -> {} {} would be refused: {}", said.from, said.to, said.target, said.why);
    Err(no(code, text, by, human).data(said))
}

/// The cell that a person calls so, by the file.
fn cell(topology: &Topology, name: &Fqcn) -> Result<Fqcn, Box<Failure>> {
    if let Some(cell) = topology.cell(name.as_str()) {
        return Ok(cell.fqcn.clone());
    }
    if topology.directory().kind_of(name).is_some() {
        return Ok(name.clone());
    }
    let names: Vec<&str> =
        topology.cells().iter().map(|cell| cell.name.as_str()).take(20).collect();
    let text = format!("`{name}` is not a cell of this file");
    Err(Failure::new(CliCode::Config, text).hint(format!("cells: {}", names.join(", "))))
}

fn render(said: &PolicyReply) -> String {
    let mut table =
        Table::new(["MESSAGE", &format!("{} -> {} {}", said.from, said.to, said.target)]);
    table.row(["verdict", &word(&said.verdict)]);
    table.row(["code", &or_dash(said.code.as_ref())]);
    table.row(["why", &said.why]);
    table.row(["direction", &said.direction]);
    table.row(["sealed", if said.seal { "required" } else { "-" }]);
    let mut hops = Table::new(["HOP", "VERDICT", "REVISION", "RULE"]);
    for PolicyHop { cell, verdict, revision, rule } in &said.hops {
        let verdict = verdict.as_ref().map_or_else(|| "not known here".to_owned(), word);
        hops.row([cell.as_str(), &verdict, &or_dash(*revision), &or_dash(rule.as_ref())]);
    }
    let mut text = format!("{}\n\n{}", table.render(), hops.render());
    if !said.near.is_empty() {
        let mut near = Table::new(["NEARLY", "FAILS", "WHY"]);
        for NearRow { rule, fails, why, .. } in &said.near {
            near.row([&rule.to_string(), fails, why]);
        }
        text.push_str(&format!("\n\n{}", near.render()));
    }
    text
}
