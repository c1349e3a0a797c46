//! One cell of the file, value by value: each is checked for itself, before cells are compared.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use toml::Spanned;

use super::{
    parse::Table,
    problem::{Code, Problem, Problems},
    raw::RawCell,
    wording::{folded, nearest, quoted, repaired},
};
use crate::{
    identity::CellKind,
    name::{NameError, Segment},
};

/// Kinds that a file can state; the others come and go while cells run.
const FILE_KINDS: [CellKind; 3] = [CellKind::Server, CellKind::Relay, CellKind::Client];

/// A cell whose values are good or `None`. A value that is bad has been reported.
#[derive(Debug)]
pub(super) struct Draft {
    /// Where the table stands.
    pub span: Range<usize>,
    /// The name as written, good or not.
    pub written: Option<Spanned<String>>,
    pub name: Option<Segment>,
    pub kind: Option<Spanned<CellKind>>,
    /// As written; whether there is such a cell is not checked here.
    pub parent: Option<Spanned<String>>,
    pub listen: Option<Spanned<SocketAddr>>,
    pub dial: Option<Spanned<String>>,
    pub hosts: Vec<String>,
    pub org: Option<Segment>,
    /// Keys whose values are bad, and therefore not absent.
    bad: Vec<&'static str>,
}

impl Draft {
    pub(super) fn read(table: Table<RawCell>, problems: &mut Problems) -> Self {
        let mut bad: Vec<&'static str> = ["name", "kind", "parent", "listen"]
            .into_iter()
            .filter(|key| table.is_broken(key))
            .collect();
        let Table { span, raw, .. } = table;
        let mut good = |key: &'static str, given: bool, ok: bool| {
            if given && !ok {
                bad.push(key);
            }
        };
        let name = raw.name.as_ref().and_then(|written| cell_name(written, problems));
        good("name", raw.name.is_some(), name.is_some());
        let kind = raw.kind.as_ref().and_then(|written| kind(written, problems));
        good("kind", raw.kind.is_some(), kind.is_some());
        let listen = raw.listen.as_ref().and_then(|written| listen(written, problems));
        good("listen", raw.listen.is_some(), listen.is_some());
        let dial = raw.dial.filter(|written| check_dial(written, problems));
        let hosts = raw.hosts.map(Spanned::into_inner).unwrap_or_default();
        let hosts = hosts.into_iter().filter(|host| check_host(host, problems));
        let hosts = hosts.map(Spanned::into_inner).collect();
        let org = raw.org.as_ref().and_then(|org| plain_name("org", org, problems));
        let (written, parent) = (raw.name, raw.parent);
        Self { span, written, name, kind, parent, listen, dial, hosts, org, bad }
    }

    /// Whether the file says nothing about `key`, good or bad.
    pub(super) fn lacks(&self, key: &'static str) -> bool {
        let given = match key {
            "name" => self.written.is_some(),
            "kind" => self.kind.is_some(),
            "parent" => self.parent.is_some(),
            _ => self.listen.is_some(),
        };
        !given && !self.bad.contains(&key)
    }

    /// The cell as a message calls it.
    pub(super) fn called(&self) -> String {
        self.written.as_ref().map_or_else(|| "this cell".to_owned(), |name| quoted(name.get_ref()))
    }

    /// Where its name stands, or else its table.
    pub(super) fn name_span(&self) -> Range<usize> {
        self.written.as_ref().map_or_else(|| self.span.clone(), Spanned::span)
    }
}

/// Reads the base name of a cell.
fn cell_name(written: &Spanned<String>, problems: &mut Problems) -> Option<Segment> {
    let text = written.get_ref();
    match text.parse::<Segment>() {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} cannot be the name of a cell", quoted(text));
            let problem = Problem::new(Code::BadName, written.span(), message, error.to_string());
            problems.add(problem.help(name_help(text, &error)));
            None
        }
    }
}

/// Reads a name that is no cell's.
pub(super) fn plain_name(
    key: &str,
    written: &Spanned<String>,
    problems: &mut Problems,
) -> Option<Segment> {
    let text = written.get_ref();
    match text.parse::<Segment>() {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} cannot be the `{key}`", quoted(text));
            let problem = Problem::new(Code::BadName, written.span(), message, error.to_string());
            problems.add(problem.help(name_help(text, &error)));
            None
        }
    }
}

fn name_help(text: &str, error: &NameError) -> String {
    if text.contains('.') && text.split('.').all(|level| level.parse::<Segment>().is_ok()) {
        let (above, base) = text.rsplit_once('.').expect("it contains a dot");
        let parent = above.rsplit('.').next().unwrap_or(above);
        return format!("a name is one level: write name = \"{base}\" and parent = \"{parent}\"");
    }
    let Some(repaired) = repaired(text) else {
        return "names are 1 to 63 characters of a-z, 0-9, `-` and `_`, and start with a letter \
                or digit"
            .to_owned();
    };
    let why = match error {
        NameError::BadCharacter { bad, .. } if bad.is_ascii_uppercase() => "names are lower case",
        NameError::BadCharacter { bad, .. } if !bad.is_ascii() => {
            "look-alikes from other alphabets are not letters of names"
        }
        NameError::BadCharacter { .. } => "names are made of a-z, 0-9, `-` and `_`",
        NameError::Empty
        | NameError::TooLong { .. }
        | NameError::TooDeep { .. }
        | NameError::BadStart { .. }
        | NameError::Repeated { .. } => "names start with a letter or digit",
    };
    format!("write `{repaired}`: {why}")
}

fn kind(written: &Spanned<String>, problems: &mut Problems) -> Option<Spanned<CellKind>> {
    let text = written.get_ref();
    let kind = text.parse::<CellKind>().ok();
    if let Some(kind) = kind.filter(|kind| FILE_KINDS.contains(kind)) {
        return Some(Spanned::new(written.span(), kind));
    }
    let message = format!("{} is not a kind of cell that a file can state", quoted(text));
    let problem = Problem::new(Code::BadKind, written.span(), message, "not a kind");
    let help = match (kind, nearest(text, FILE_KINDS.map(CellKind::as_str))) {
        (Some(kind), _) => format!("{kind} cells are not part of a topology; leave this cell out"),
        (None, Some(meant)) => format!("did you mean `{meant}`?"),
        (None, None) => "kinds are `server`, `relay` and `client`; a site is a client".to_owned(),
    };
    problems.add(problem.help(help));
    None
}

pub(super) fn listen(
    written: &Spanned<String>,
    problems: &mut Problems,
) -> Option<Spanned<SocketAddr>> {
    let text = written.get_ref();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Spanned::new(written.span(), address));
    }
    let message = format!("{} is not an address to listen on", quoted(text));
    let problem = Problem::new(Code::BadListen, written.span(), message, "not `ip:port`");
    problems.add(problem.help(listen_help(text)));
    None
}

fn listen_help(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("add a port: `{}`", SocketAddr::new(ip, 8002));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return "write an IP address and a port, such as `0.0.0.0:8002` or `[::]:8002`".to_owned();
    };
    if port.parse::<u16>().is_err() {
        return "a port is a number from 0 to 65535; 0 takes any free one".to_owned();
    }
    if host == "localhost" {
        return format!("write `127.0.0.1:{port}`: listening needs an IP address");
    }
    if is_dns_name(host) {
        return format!(
            "listening needs an IP address: write listen = \"0.0.0.0:{port}\" and \
             hosts = [\"{host}\"]"
        );
    }
    "write an IP address and a port, such as `0.0.0.0:8002` or `[::]:8002`".to_owned()
}

fn check_dial(written: &Spanned<String>, problems: &mut Problems) -> bool {
    let text = written.get_ref();
    let good = text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            is_dns_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
    if !good {
        let message = format!("{} is not an address to dial", quoted(text));
        let problem = Problem::new(Code::BadDial, written.span(), message, "not `host:port`");
        let help = "write what children dial, such as `relay.example.org:8003`; the port is 1 to \
                    65535. Without `dial` they use the listen address";
        problems.add(problem.help(help));
    }
    good
}

fn check_host(written: &Spanned<String>, problems: &mut Problems) -> bool {
    let text = written.get_ref();
    if text.parse::<IpAddr>().is_ok() || is_dns_name(text) {
        return true;
    }
    let message = format!("{} is neither a DNS name nor an IP address", quoted(text));
    let problem = Problem::new(Code::BadHost, written.span(), message, "not a host");
    let host = text.rsplit_once(':').map(|(host, _)| host).filter(|host| is_dns_name(host));
    problems.add(
        problem.help(match host {
            Some(host) => format!("write `{host}`: hosts have no port"),
            None if text.contains('*') => {
                "write each name in full; there are no wildcards".to_owned()
            }
            None => "write a name such as `server.example.org`, or an address such as `192.0.2.7`"
                .to_owned(),
        }),
    );
    false
}

/// Whether `text` is a host name: labels of letters, digits and inner hyphens, the last no number.
fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the bad name `text` reads like the good name `name`.
pub(super) fn reads_like(text: &str, name: &Segment) -> bool {
    text != name.as_str() && folded(text) == name.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_dns_name_or_an_address_and_nothing_else() {
        for good in ["localhost", "server.example.org", "a-b.c", "Server.Example.Org", "x1"] {
            assert!(is_dns_name(good), "{good}");
        }
        for bad in ["", ".", "a..b", "-a", "a-", "a_b", "*.a", "10.0.0.300", "a b", "ä.org", "a."]
        {
            assert!(!is_dns_name(bad), "{bad}");
        }
        assert!(!is_dns_name(&vec!["a"; 200].join(".")));
    }
}
