//! Where cells listen: who must, who must not, and who would take whose address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use toml::Spanned;

use super::{
    draft::Draft,
    problem::{Code, Problem, Problems},
};
use crate::identity::CellKind;

/// Checks the addresses of every cell whose kind is known.
pub(super) fn check(cells: &[Draft], dev: bool, problems: &mut Problems) {
    let mut ports: BTreeMap<u16, Taken<'_>> = BTreeMap::new();
    for (index, cell) in cells.iter().enumerate() {
        let Some(kind) = cell.kind.as_ref().map(|kind| *kind.get_ref()) else {
            continue;
        };
        if kind == CellKind::Client {
            check_client(cell, problems);
            continue;
        }
        let Some(listen) = &cell.listen else {
            if cell.lacks("listen") {
                let message = format!("the {kind} {} does not listen", cell.called());
                let problem =
                    Problem::new(Code::NoListen, cell.name_span(), message, "no `listen` here");
                problems.add(problem.help(
                    "add listen = \"0.0.0.0:8002\", or \"127.0.0.1:0\" for any free port of this \
                     machine",
                ));
            }
            continue;
        };
        check_one(cell, *listen.get_ref(), listen.span(), dev, problems);
        if listen.get_ref().port() == 0 {
            continue;
        }
        let taken = ports.entry(listen.get_ref().port()).or_default();
        if let Some(other) = taken.clash(cell, listen.get_ref().ip()) {
            report_clash(cell, listen.span(), &cells[other], problems);
        }
        taken.insert(index, cell, listen.get_ref().ip());
    }
}

fn check_client(cell: &Draft, problems: &mut Problems) {
    let spans = [
        ("listen", cell.listen.as_ref().map(Spanned::span)),
        ("dial", cell.dial.as_ref().map(Spanned::span)),
    ];
    for (key, span) in spans {
        if let Some(span) = span {
            let message = format!("the client {} has `{key}`", cell.called());
            let label = "nobody dials a client";
            problems.add(
                Problem::new(Code::ClientListens, span, message, label)
                    .help("remove it; a cell with children is a relay"),
            );
        }
    }
}

fn check_one(
    cell: &Draft,
    listen: SocketAddr,
    span: Range<usize>,
    dev: bool,
    problems: &mut Problems,
) {
    let (called, port) = (cell.called(), listen.port());
    if dev && !listen.ip().is_loopback() {
        let message = format!("{called} would show a development certificate to other machines");
        let label = "not a loopback address";
        problems.add(Problem::new(Code::DevNotLoopback, span.clone(), message, label).help(
            format!("write `127.0.0.1:{port}`, or remove dev = true and provide certificates"),
        ));
    }
    if (1..1024).contains(&port) {
        let message = format!("{called} needs privileges for port {port}");
        problems.add(
            Problem::new(Code::PrivilegedPort, span.clone(), message, "below 1024")
                .help("choose a port from 1024 to 65535"),
        );
    }
    // In development mode all cells are on one machine, or that is the problem.
    let hidden_port = port == 0 && !listen.ip().is_loopback();
    let hidden_host = listen.ip().is_unspecified() && cell.hosts.is_empty();
    if !dev && cell.dial.is_none() && (hidden_port || hidden_host) {
        let message = format!("children on other machines cannot know where to dial {called}");
        let label = if hidden_port { "any free port" } else { "every address of the machine" };
        problems.add(
            Problem::new(Code::NotDialable, span, message, label)
                .help("add dial = \"host:port\", or hosts = [\"host\"] and a fixed port"),
        );
    }
}

fn report_clash(cell: &Draft, span: Range<usize>, other: &Draft, problems: &mut Problems) {
    let message = format!("{} and {} listen on one address", other.called(), cell.called());
    let other_span = other.listen.as_ref().map_or_else(|| other.span.clone(), Spanned::span);
    problems.add(
        Problem::new(Code::ListenClash, span, message, "taken")
            .also(other_span, "by this cell")
            .help("choose another port; cells on two machines are told apart by their `hosts`"),
    );
}

/// The cells that listen on one port, by what tells them apart.
///
/// Two cells are on two machines only where the file shows it: by two addresses, or, where one of
/// them listens on every address, by hosts that have nothing in common.
#[derive(Default)]
struct Taken<'a> {
    by_ip: BTreeMap<IpAddr, usize>,
    every: Group<'a>,
    wildcard: Group<'a>,
}

#[derive(Default)]
struct Group<'a> {
    first: Option<usize>,
    first_without_hosts: Option<usize>,
    by_host: BTreeMap<&'a str, usize>,
}

impl<'a> Taken<'a> {
    fn clash(&self, cell: &Draft, ip: IpAddr) -> Option<usize> {
        if ip.is_unspecified() {
            self.every.on_one_machine_with(cell)
        } else {
            let same = self.by_ip.get(&ip).copied();
            same.or_else(|| self.wildcard.on_one_machine_with(cell))
        }
    }

    fn insert(&mut self, index: usize, cell: &'a Draft, ip: IpAddr) {
        self.every.insert(index, cell);
        if ip.is_unspecified() {
            self.wildcard.insert(index, cell);
        } else {
            self.by_ip.entry(ip).or_insert(index);
        }
    }
}

impl<'a> Group<'a> {
    fn on_one_machine_with(&self, cell: &Draft) -> Option<usize> {
        if cell.hosts.is_empty() {
            return self.first;
        }
        let shared = || cell.hosts.iter().find_map(|host| self.by_host.get(host.as_str()).copied());
        self.first_without_hosts.or_else(shared)
    }

    fn insert(&mut self, index: usize, cell: &'a Draft) {
        self.first.get_or_insert(index);
        if cell.hosts.is_empty() {
            self.first_without_hosts.get_or_insert(index);
        }
        for host in &cell.hosts {
            self.by_host.entry(host.as_str()).or_insert(index);
        }
    }
}
