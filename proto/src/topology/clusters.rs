//! `[[slurm]]`: the clusters that cells give programs to, and what a job may ask of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    Topology,
    parse::Table,
    problem::{Code, Problem, Problems},
    programs::RawProgram,
    rules::{self, Cells},
    wording::quoted,
};
use crate::{
    job::{
        ClusterSpec, LauncherKind, PartSpec, Refusal, Resolved, SlurmAllowance, SlurmRefusal,
        SlurmRequest, SlurmSpec, resolve,
    },
    policy::{Effect, Pattern},
};

/// `[[slurm]]`: a Slurm cluster that some cells give programs to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Slurm")]
pub(super) struct RawCluster {
    /// The cells that use it: base names, `site-*`, `kind:client`, `org:acme` or `*`.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub cells: Option<Spanned<Vec<Spanned<String>>>>,
    /// A directory of the cell's user with mode 0700, which the nodes see under the same path.
    #[schemars(with = "String")]
    pub directory: Option<Spanned<String>>,
    /// The IP address of the cell's machine as the nodes see it, where they are other machines.
    #[schemars(with = "Option<String>", extend("default" = "127.0.0.1"))]
    pub address: Option<Spanned<String>>,
    /// The directory of Slurm's commands.
    #[schemars(with = "Option<String>", extend("default" = "/usr/bin"))]
    pub commands: Option<Spanned<String>>,
    /// The `slurm.conf` that they are to use, where they do not find it by themselves.
    #[schemars(with = "Option<String>")]
    pub conf: Option<Spanned<String>>,
    /// What a job gets that says nothing.
    #[schemars(with = "Option<RawResources>")]
    pub request: Option<Spanned<RawResources>>,
    /// How far a job may say otherwise.
    #[schemars(with = "Option<RawAllowance>")]
    pub allow: Option<Spanned<RawAllowance>>,
}

/// What is asked of a scheduler for one job; what is left out is what the cluster gives by itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Resources")]
pub(super) struct RawResources {
    /// The partition.
    #[schemars(with = "Option<String>")]
    pub partition: Option<Spanned<String>>,
    /// The account that pays.
    #[schemars(with = "Option<String>")]
    pub account: Option<Spanned<String>>,
    /// The quality of service.
    #[schemars(with = "Option<String>")]
    pub qos: Option<Spanned<String>>,
    /// Minutes after which the scheduler ends it.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub time_limit_min: Option<Spanned<u64>>,
    /// Processors.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub cpus: Option<Spanned<u64>>,
    /// MiB of memory.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// How many of each generic resource, such as `gpu` or `gpu:a100`.
    #[schemars(with = "Option<BTreeMap<String, u64>>")]
    pub gres: Option<Spanned<BTreeMap<String, Spanned<u64>>>>,
}

/// What a job may ask for; what is left out, no job may set.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SlurmAllowance")]
pub(super) struct RawAllowance {
    /// Partitions to choose from.
    #[schemars(with = "Option<Vec<String>>")]
    pub partitions: Option<Spanned<Vec<Spanned<String>>>>,
    /// Accounts to choose from.
    #[schemars(with = "Option<Vec<String>>")]
    pub accounts: Option<Spanned<Vec<Spanned<String>>>>,
    /// Qualities of service to choose from.
    #[schemars(with = "Option<Vec<String>>")]
    pub qos: Option<Spanned<Vec<Spanned<String>>>>,
    /// The longest time limit, in minutes.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub time_limit_min: Option<Spanned<u64>>,
    /// The most processors.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub cpus: Option<Spanned<u64>>,
    /// The most memory, in MiB.
    #[schemars(with = "Option<u64>", range(min = 1))]
    pub memory_mib: Option<Spanned<u64>>,
    /// The most of each generic resource.
    #[schemars(with = "Option<BTreeMap<String, u64>>")]
    pub gres: Option<Spanned<BTreeMap<String, Spanned<u64>>>>,
}

/// Takes values one by one, and reports each that no cluster has a meaning for.
struct Taken<'a> {
    problems: &'a mut Problems,
    is_good: bool,
}

impl Taken<'_> {
    fn judge(&mut self, span: Range<usize>, judged: Result<(), SlurmRefusal>) {
        let Err(refusal) = judged else { return };
        self.is_good = false;
        let help = match &refusal {
            SlurmRefusal::Value { takes, .. } => format!("it takes {takes}"),
            SlurmRefusal::NotForJobs(_)
            | SlurmRefusal::NotAmong { .. }
            | SlurmRefusal::TooMuch { .. } => {
                "leave it out for what the cluster gives by itself".to_owned()
            }
        };
        let problem =
            Problem::new(Code::BadResource, span, refusal.to_string(), "not for a cluster");
        self.problems.add(problem.help(help));
    }

    fn word(
        &mut self,
        given: Option<&Spanned<String>>,
        wish: impl Fn(String) -> SlurmRequest,
    ) -> Option<String> {
        let given = given?;
        self.judge(given.span(), wish(given.get_ref().clone()).check());
        Some(given.get_ref().clone())
    }

    fn words(
        &mut self,
        given: Option<&Spanned<Vec<Spanned<String>>>>,
        wish: impl Fn(String) -> SlurmRequest,
    ) -> BTreeSet<String> {
        let given = given.map(Spanned::get_ref).into_iter().flatten();
        given.filter_map(|word| self.word(Some(word), &wish)).collect()
    }

    /// A number that is too large for its field becomes one that no cluster has.
    fn number(
        &mut self,
        given: Option<&Spanned<u64>>,
        wish: impl Fn(u64) -> SlurmRequest,
    ) -> Option<u64> {
        let given = given?;
        self.judge(given.span(), wish(*given.get_ref()).check());
        Some(*given.get_ref())
    }

    fn gres(
        &mut self,
        given: Option<&Spanned<BTreeMap<String, Spanned<u64>>>>,
    ) -> BTreeMap<String, u32> {
        let Some(given) = given else { return BTreeMap::new() };
        let mut read = BTreeMap::new();
        for (name, count) in given.get_ref() {
            let count_of = narrowed(*count.get_ref());
            let one = SlurmRequest { gres: [(name.clone(), count_of)].into(), ..none() };
            self.judge(count.span(), one.check());
            read.insert(name.clone(), count_of);
        }
        if self.is_good {
            let all = SlurmRequest { gres: read.clone(), ..none() };
            self.judge(given.span(), all.check());
        }
        read
    }
}

fn none() -> SlurmRequest {
    SlurmRequest::default()
}

fn narrowed(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn of_partition(word: String) -> SlurmRequest {
    SlurmRequest { partition: Some(word), ..none() }
}

fn of_account(word: String) -> SlurmRequest {
    SlurmRequest { account: Some(word), ..none() }
}

fn of_qos(word: String) -> SlurmRequest {
    SlurmRequest { qos: Some(word), ..none() }
}

fn of_time(minutes: u64) -> SlurmRequest {
    SlurmRequest { time_limit_min: Some(narrowed(minutes)), ..none() }
}

fn of_cpus(cpus: u64) -> SlurmRequest {
    SlurmRequest { cpus: Some(narrowed(cpus)), ..none() }
}

fn of_memory(mib: u64) -> SlurmRequest {
    SlurmRequest { memory_mib: Some(mib), ..none() }
}

/// What a job asks of a scheduler; `None` where something of it cannot be asked, which has then been reported.
pub(super) fn resources(raw: &RawResources, problems: &mut Problems) -> Option<SlurmRequest> {
    let mut taken = Taken { problems, is_good: true };
    let request = SlurmRequest {
        partition: taken.word(raw.partition.as_ref(), of_partition),
        account: taken.word(raw.account.as_ref(), of_account),
        qos: taken.word(raw.qos.as_ref(), of_qos),
        time_limit_min: taken.number(raw.time_limit_min.as_ref(), of_time).map(narrowed),
        cpus: taken.number(raw.cpus.as_ref(), of_cpus).map(narrowed),
        memory_mib: taken.number(raw.memory_mib.as_ref(), of_memory),
        gres: taken.gres(raw.gres.as_ref()),
    };
    taken.is_good.then_some(request)
}

fn allowance(raw: &RawAllowance, problems: &mut Problems) -> Option<SlurmAllowance> {
    let mut taken = Taken { problems, is_good: true };
    let allow = SlurmAllowance {
        partitions: taken.words(raw.partitions.as_ref(), of_partition),
        accounts: taken.words(raw.accounts.as_ref(), of_account),
        qos: taken.words(raw.qos.as_ref(), of_qos),
        time_limit_min: taken.number(raw.time_limit_min.as_ref(), of_time).map(narrowed),
        cpus: taken.number(raw.cpus.as_ref(), of_cpus).map(narrowed),
        memory_mib: taken.number(raw.memory_mib.as_ref(), of_memory),
        gres: taken.gres(raw.gres.as_ref()),
    };
    taken.is_good.then_some(allow)
}

/// The clusters that could be read; what is bad has been reported.
pub(super) fn read(
    tables: &[Table<RawCluster>],
    cells: &Cells<'_>,
    dev: bool,
    problems: &mut Problems,
) -> Vec<ClusterSpec> {
    tables.iter().filter_map(|table| cluster(table, cells, dev, problems)).collect()
}

fn cluster(
    table: &Table<RawCluster>,
    cells: &Cells<'_>,
    dev: bool,
    problems: &mut Problems,
) -> Option<ClusterSpec> {
    let raw = &table.raw;
    for (key, is_there, help) in [
        ("cells", raw.cells.is_some(), "write which cells use it, such as cells = [\"site-1\"]"),
        ("directory", raw.directory.is_some(), "write a directory that the nodes see as well"),
    ] {
        if !is_there && !table.is_broken(key) {
            let message = format!("a cluster has no `{key}`");
            let label = format!("no `{key}` here");
            let problem = Problem::new(Code::Missing, table.span.clone(), message, label);
            problems.add(problem.help(help));
        }
    }
    if let Some(list) = raw.cells.as_ref().filter(|list| list.get_ref().is_empty()) {
        let message = "no cell uses this cluster";
        let problem = Problem::new(Code::Missing, list.span(), message, "an empty list");
        problems.add(problem.help("name the cells, or leave the cluster out"));
    }
    let patterns = raw.cells.as_ref().map(|list| {
        let texts = list.get_ref().iter();
        texts
            .map(|text| rules::pattern(Effect::Allow, text, cells, problems))
            .collect::<Option<Vec<_>>>()
    });
    let directory = raw.directory.as_ref().map(|text| path("directory", text, problems));
    let commands = raw.commands.as_ref().map(|text| path("commands", text, problems));
    let conf = raw.conf.as_ref().map(|text| path("conf", text, problems));
    let address = raw.address.as_ref().map(|text| address(text, dev, problems));
    let request = raw.request.as_ref().map(|raw| resources(raw.get_ref(), problems));
    let allow = raw.allow.as_ref().map(|raw| allowance(raw.get_ref(), problems));
    let slurm = SlurmSpec {
        commands: commands.map_or(Some(None), |path| path.map(Some))?,
        conf: conf.map_or(Some(None), |path| path.map(Some))?,
        request: request.unwrap_or_else(|| Some(SlurmRequest::default()))?,
        allow: allow.unwrap_or_else(|| Some(SlurmAllowance::default()))?,
    };
    Some(ClusterSpec {
        cells: patterns??,
        directory: directory??,
        address: address.map_or(Some(None), |address| address.map(Some))?,
        slurm,
    })
}

/// A path that can stand in a batch script as it is.
fn path(key: &str, text: &Spanned<String>, problems: &mut Problems) -> Option<String> {
    let path = text.get_ref();
    let is_plain = !path.chars().any(|c| c.is_control() || matches!(c, '\'' | '\\' | '%'));
    if path.starts_with('/') && is_plain {
        return Some(path.clone());
    }
    let message = format!("{} cannot be the `{key}` of a cluster", quoted(path));
    let problem = Problem::new(Code::BadArgument, text.span(), message, "not such a path");
    problems.add(problem.help(
        "write an absolute path without quotes, backslashes, percent signs and control characters",
    ));
    None
}

fn address(text: &Spanned<String>, dev: bool, problems: &mut Problems) -> Option<IpAddr> {
    let Some(address) = text.get_ref().parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified())
    else {
        let message = format!("{} is no address that nodes could dial", quoted(text.get_ref()));
        let problem = Problem::new(Code::BadHost, text.span(), message, "not an address");
        problems.add(problem.help("write the IP address of this machine in the cluster's network"));
        return None;
    };
    if dev && !address.is_loopback() {
        let message = format!("with `dev = true`, job cells cannot be let in at {address}");
        let problem =
            Problem::new(Code::DevNotLoopback, text.span(), message, "others can reach it");
        problems.add(problem.help("provision the project, or leave `address` out"));
        return None;
    }
    Some(address)
}

/// Reports cells that are to use two clusters, and programs for a cluster that is nowhere.
pub(super) fn check(
    topology: &Topology,
    clusters: &[Table<RawCluster>],
    programs: &[Table<RawProgram>],
    problems: &mut Problems,
) {
    let about = |list: &Option<Spanned<Vec<Spanned<String>>>>| -> Vec<(Pattern, Range<usize>)> {
        let texts = list.iter().flat_map(|list| list.get_ref());
        texts.filter_map(|text| Some((text.get_ref().parse().ok()?, text.span()))).collect()
    };
    let uses: Vec<_> = clusters.iter().map(|table| about(&table.raw.cells)).collect();
    let users_of = |cell: &str| -> Vec<Range<usize>> {
        let end = topology.end_of(cell);
        let users = uses.iter().filter_map(|patterns| {
            patterns.iter().find(|(pattern, _)| pattern.matches(end)).map(|(_, span)| span.clone())
        });
        users.collect()
    };
    for cell in topology.cells() {
        if let [first, second, ..] = &users_of(cell.name.as_str())[..] {
            let message = format!("`{}` is to use two clusters", cell.name);
            problems.add(
                Problem::new(Code::RepeatedCluster, second.clone(), message, "again here")
                    .also(first.clone(), "first here")
                    .help("a cell gives programs to one cluster; take it out of one of them"),
            );
            break;
        }
    }
    for table in programs {
        let Some(launcher) = &table.raw.launcher else { continue };
        if launcher.get_ref() != LauncherKind::Slurm.as_str() {
            continue;
        }
        let offered = about(&table.raw.cells);
        let offers =
            |cell: &str| offered.iter().any(|(pattern, _)| pattern.matches(topology.end_of(cell)));
        let without = topology.cells().iter().map(|cell| cell.name.as_str());
        if let Some(cell) =
            without.into_iter().find(|cell| offers(cell) && users_of(cell).is_empty())
        {
            let message = format!("`{cell}` offers this program, and uses no cluster");
            let problem =
                Problem::new(Code::NoCluster, launcher.span(), message, "where is it to run?");
            problems.add(problem.help(format!(
                "add a [[slurm]] with cells = [\"{cell}\"], or a program of the same name with another launcher for it"
            )));
        }
    }
}

impl Topology {
    /// The cluster that the cell with this base name gives programs to.
    #[must_use]
    pub fn cluster_of(&self, cell: &str) -> Option<&ClusterSpec> {
        let end = self.end_of(cell);
        self.clusters.iter().find(|cluster| cluster.is_used_at(end))
    }

    /// What the cell with this base name launches for a job that asks for `program` in this way.
    ///
    /// # Errors
    /// [`Refusal`]; nothing else may be launched instead.
    pub fn resolve(&self, cell: &str, program: &str, spec: &PartSpec) -> Result<Resolved, Refusal> {
        let resolved = resolve(&self.programs, self.end_of(cell), program, spec)?;
        match resolved.launcher {
            LauncherKind::Process if spec.resources == SlurmRequest::default() => {}
            LauncherKind::Process => {
                return Err(Refusal::NoScheduler(program.to_owned()));
            }
            LauncherKind::Slurm => {
                // Nobody could find it again: a cell that starts has the cluster end what an earlier life gave it.
                if spec.detach_s > 0 {
                    let program =
                        program.parse().map_err(|_| Refusal::Program(program.to_owned()))?;
                    return Err(Refusal::Detach { program, limit: 0, wanted: spec.detach_s });
                }
                let cluster = self.cluster_of(cell).ok_or(Refusal::NoCluster)?;
                cluster.slurm.grant(&spec.resources)?;
            }
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests;
