//! The commands that ask a running cell.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, IsTerminal, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::Duration,
};

use cellbus_cells::control::{
    Accepted, CellRow, ControlError, ExplainAsk, ExplainReply, LocalCode, Payload, PeerRow,
    PingAsk, PingReply, Request, RequestAsk, RequestReply, SendAsk, SendReply, StatusReport,
    Verdict,
};
use cellbus_proto::{renewal::RenewedBy, status::Status};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::{self, Target},
    codes::CliCode,
    exit::Exit,
    observe::{hops, way},
    output::{Failure, Format, Human, Outcome, Success, printable},
    table::{Table, ahead, bytes, or_dash, round_trip, time},
    talk,
    target::{ask, full_name},
};

/// Bytes that are read of a payload at most; what a request can carry is less.
const PAYLOAD_READ_MAX: u64 = 2 << 20;

/// `status`.
pub async fn status(target: Target) -> Outcome {
    let report: StatusReport = ask(&target, Request::Status).await?;
    let mut table = Table::new(["CELL", report.cell.as_str()]);
    table.row(["kind", report.kind.as_str()]);
    table.row(["project", report.project.as_str()]);
    table.row(["state", &word(&report.state)]);
    table.row(["up for", &time(report.uptime_ms)]);
    table.row(["parent", &or_dash(report.parent.as_ref())]);
    table.row(["uplink", &or_dash(report.uplink_state.as_ref().map(word))]);
    table.row(["children", &report.children.to_string()]);
    table.row(["incarnation", &report.incarnation]);
    table.row(["certificate ends", &ahead(report.cert_expires_unix)]);
    table.row(["next renewal", &or_dash(next_renewal(&report).as_ref())]);
    for (name, count) in &report.counters {
        table.row([name, &count.to_string()]);
    }
    Ok(Success::new(&report, table.render()))
}

/// When the cell asks for another certificate, and whether anybody gives it one.
fn next_renewal(report: &StatusReport) -> Option<String> {
    let when = match ahead(report.cert_renewal_unix?) {
        when if when == "over" => "due".to_owned(),
        when => when,
    };
    Some(renewal(when, report.cert_renewed_by))
}

fn renewal(when: String, by: Option<RenewedBy>) -> String {
    match by {
        Some(RenewedBy::Server) => when,
        Some(RenewedBy::People) => {
            format!("by another kit or file, {when}: the server issues no certificates")
        }
        None => format!("{when}, if the server issues certificates"),
    }
}

/// `cells`.
pub async fn cells(target: Target) -> Outcome {
    let rows: Vec<CellRow> = ask(&target, Request::Cells).await?;
    let mut table = Table::new(["CELL", "KIND", "STATE", "SINCE", "RTT", "VIA"]);
    for row in &rows {
        table.row([
            row.name.as_str(),
            row.kind.as_str(),
            &word(&row.state),
            &time(row.since_ms),
            &round_trip(row.rtt_us),
            &or_dash(row.via.as_ref()),
        ]);
    }
    Ok(Success::new(&rows, table.render()))
}

/// `peers`.
pub async fn peers(target: Target) -> Outcome {
    let rows: Vec<PeerRow> = ask(&target, Request::Peers).await?;
    let mut table =
        Table::new(["PEER", "KIND", "ORG", "WAY", "STATE", "SINCE", "RTT", "SENT", "RECEIVED"]);
    for row in &rows {
        table.row([
            row.name.as_str(),
            row.kind.as_str(),
            &row.org,
            way(row.direction),
            &word(&row.state),
            &time(row.since_ms),
            &round_trip(row.rtt_us),
            &format!("{} in {}", bytes(row.sent_bytes), row.sent_messages),
            &format!("{} in {}", bytes(row.received_bytes), row.received_messages),
        ]);
    }
    Ok(Success::new(&rows, table.render()))
}

/// `ping`. The answer is no when not one ping was answered.
pub async fn ping(args: args::Ping) -> Outcome {
    let args::Ping { cell, count, budget, target } = args;
    let to = full_name(&target, cell)?;
    let request = Request::Ping(PingAsk { to, count, budget_ms: millis(budget) });
    let reply: PingReply = ask(&target, request).await?;
    let mut table = Table::new(["SEQ", "RTT", "STATUS", "BY"]);
    for row in &reply.rows {
        let (status, by) = (or_dash(row.status.as_ref()), or_dash(row.by.as_ref()));
        table.row([&row.seq.to_string(), &round_trip(row.rtt_us), &status, &by]);
    }
    let mut human = table.render();
    if let Some(last) = reply.rows.iter().rfind(|row| !row.hops.is_empty()) {
        human.push_str(&format!("\nthe way of ping {}:\n{}", last.seq, hops(&last.hops).render()));
    }
    if reply.answered() > 0 {
        return Ok(Success::new(&reply, human));
    }
    let last = reply.rows.last();
    let code = last.and_then(|row| row.status.clone());
    let code = code.unwrap_or_else(|| Status::Deadline.code().to_owned());
    let by = last.and_then(|row| row.by.as_ref().map(ToString::to_string));
    let text = format!("{} answered none of {} pings", reply.to, reply.rows.len());
    Err(no(code, text, by, human).data(&reply))
}

/// `explain`. The answer is no when the message would be refused.
pub async fn explain(args: args::Explain) -> Outcome {
    let args::Explain { from, to, address, target } = args;
    let (from, to) = (full_name(&target, from)?, full_name(&target, to)?);
    let (channel, topic) = (address.channel().clone(), address.topic().clone());
    let thought = format!("{from} -> {to} {address}");
    let request = Request::Explain(ExplainAsk { from, to, channel, topic });
    let reply: ExplainReply = ask(&target, request).await?;
    let mut table = Table::new(["MESSAGE", &thought]);
    table.row(["at", reply.at.as_str()]);
    table.row(["verdict", &word(&reply.verdict)]);
    table.row(["code", &or_dash(reply.code.as_ref())]);
    table.row(["rule", &or_dash(reply.rule.as_ref())]);
    table.row(["next hop", &or_dash(reply.next_hop.as_ref())]);
    let human = table.render();
    match reply.verdict {
        Verdict::Admit => Ok(Success::new(&reply, human)),
        Verdict::Refuse => {
            let code = reply.code.clone().unwrap_or_else(|| Status::Forbidden.code().to_owned());
            let text = format!("{thought} would be refused");
            Err(no(code, text, Some(reply.at.to_string()), human).data(&reply))
        }
    }
}

/// `request`.
pub async fn request(format: Format, args: args::Request) -> Outcome {
    let args::Request {
        cell,
        address,
        payload,
        content_type,
        headers,
        retry,
        stream,
        budget,
        target,
    } = args;
    let payload = Payload::from_bytes(&read_payload(&payload)?);
    let request = RequestAsk {
        to: full_name(&target, cell)?,
        channel: address.channel().clone(),
        topic: address.topic().clone(),
        payload,
        content_type,
        headers: args::joined(&headers),
        retry,
        budget_ms: millis(budget),
    };
    if stream {
        return talk::replies(format, &target, Request::Replies(request)).await;
    }
    let reply: RequestReply = ask(&target, Request::Request(request)).await?;
    let bytes = reply.payload.to_bytes().map_err(|error| {
        let text = format!("{} replied, and {error}", reply.from);
        ControlError::local(LocalCode::ControlBadReply, text)
    })?;
    let human = if io::stdout().is_terminal() {
        Human::Text(printable(&String::from_utf8_lossy(&bytes)))
    } else {
        Human::Bytes(bytes.to_vec())
    };
    Ok(Success { human, ..Success::new(&reply, String::new()) })
}

/// `send`.
pub async fn send(args: args::Send) -> Outcome {
    let args::Send { cell, address, payload, content_type, headers, receipt, budget, target } =
        args;
    let request = Request::Send(SendAsk {
        to: full_name(&target, cell)?,
        channel: address.channel().clone(),
        topic: address.topic().clone(),
        payload: Payload::from_bytes(&read_payload(&payload)?),
        content_type,
        headers: args::joined(&headers),
        receipt,
        budget_ms: millis(budget),
    });
    let reply: SendReply = ask(&target, request).await?;
    let elapsed = round_trip(Some(reply.elapsed_us));
    let human = if reply.accepted {
        format!("accepted by {} after {elapsed}", reply.to)
    } else {
        format!("sent to {}; whether it arrived, `--receipt` would say", reply.to)
    };
    Ok(Success::new(&reply, human))
}

/// `inspect`.
pub async fn inspect(target: Target) -> Outcome {
    let document: Value = ask(&target, Request::Inspect).await?;
    let human = format!("{document:#}");
    Ok(Success::new(&document, human))
}

/// `drain`.
pub async fn drain(target: Target) -> Outcome {
    let accepted: Accepted = ask(&target, Request::Drain).await?;
    let human = format!("{} is {}", accepted.cell, word(&accepted.state));
    Ok(Success::new(&accepted, human))
}

/// The answer is no, with the code of a message's status.
pub fn no(code: String, message: String, by: Option<String>, human: String) -> Box<Failure> {
    let class = Status::from_code(&code).map(|status| status.class().into());
    let hint = Some(format!("`cellbus errors explain {code}` says what it means"));
    let exit = Exit::of_code(&code).unwrap_or(Exit::No);
    let (human, data, report) = (Some(human), None, None);
    Box::new(Failure { exit, code, message, hint, by, class, data, human, report })
}

/// A text, `@FILE`, or `-` for standard input.
pub fn read_payload(argument: &OsStr) -> Result<Vec<u8>, Box<Failure>> {
    let text = argument.as_encoded_bytes();
    let (name, source): (_, Box<dyn Read>) = match text {
        b"-" => ("standard input".to_owned(), Box::new(io::stdin())),
        [b'@', ..] => {
            let path = Path::new(OsStr::from_bytes(&text[1..]));
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
            (name, Box::new(file))
        }
        text => return Ok(text.to_vec()),
    };
    let mut payload = Vec::new();
    let read = source.take(PAYLOAD_READ_MAX + 1).read_to_end(&mut payload);
    read.map_err(|error| unreadable(&name, &error))?;
    if payload.len() as u64 > PAYLOAD_READ_MAX {
        let text = format!("{name} has more than {PAYLOAD_READ_MAX} bytes");
        return Err(Failure::new(CliCode::Input, text));
    }
    Ok(payload)
}

fn unreadable(name: &str, error: &io::Error) -> Box<Failure> {
    Failure::new(CliCode::Input, format!("{name}: {error}"))
}

pub fn millis(budget: Duration) -> u64 {
    u64::try_from(budget.as_millis()).expect("a budget has a ceiling")
}

/// The word that JSON has for a state.
pub fn word(value: &impl Serialize) -> String {
    let word = serde_json::to_value(value).ok();
    word.as_ref().and_then(Value::as_str).unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_02_no_renewal_is_promised_where_nobody_issues() {
        let said = |by| renewal("in 12 d".to_owned(), by);
        assert_eq!(said(Some(RenewedBy::Server)), "in 12 d");
        let people = said(Some(RenewedBy::People));
        assert_eq!(people, "by another kit or file, in 12 d: the server issues no certificates");
        assert_eq!(said(None), "in 12 d, if the server issues certificates");
    }
}
