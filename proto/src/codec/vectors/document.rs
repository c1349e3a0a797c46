//! The generated parts of `docs/PROTOCOL.md`.

use std::fmt::Write;

use super::{all_streams, example, files};
use crate::{
    link::{Input, Phase, Side, permits},
    status::{Class, Status},
    transcript::Purpose,
    well_known,
};

#[test]
fn the_table_of_statuses_is_that_of_the_code() {
    let mut table = "| number | code | class | meaning |\n|---|---|---|---|\n".to_owned();
    for status in Status::ALL {
        let class = match status.class() {
            Class::Refused => "refused",
            Class::Unknown => "unknown",
            Class::Failed => "failed",
        };
        let (number, code, meaning) = (*status as u8, status.code(), status.meaning());
        writeln!(table, "| {number} | `{code}` | {class} | {meaning} |").unwrap();
    }
    files::compare_part("statuses", &table);
}

#[test]
fn the_table_of_states_and_messages_is_that_of_the_code() {
    let words = |input| match input {
        Input::Hello => "HELLO",
        Input::HelloOk => "HELLO_OK",
        Input::Challenge => "request `task/challenge`",
        Input::Register => "request `task/register`",
        Input::Bye => "request `cellnet.channel/bye`",
        Input::ExemptAnswer => "ANSWER",
        Input::Message => "any other MESSAGE",
        Input::Beat => "BEAT",
        Input::Echo => "ECHO",
        Input::LaneOpen => "a lane stream, a conduit",
        Input::Drain => "DRAIN",
    };
    let mut table = "| arrives | at a parent | at a child |\n|---|---|---|\n".to_owned();
    for input in Input::ALL {
        let phases = |side| {
            let phases = Phase::ALL.into_iter().filter(|phase| permits(side, *phase, input));
            let phases: Vec<&str> = phases.map(Phase::as_str).collect();
            if phases.is_empty() { "never".to_owned() } else { phases.join(", ") }
        };
        let (parent, child) = (phases(Side::Parent), phases(Side::Child));
        writeln!(table, "| {} | {parent} | {child} |", words(input)).unwrap();
    }
    files::compare_part("states", &table);
}

#[test]
fn the_list_of_labels_is_that_of_the_code() {
    let mut table = "| purpose | label |\n|---|---|\n".to_owned();
    for purpose in Purpose::ALL {
        let words = match purpose {
            Purpose::Register => "a child proves itself to its direct parent",
            Purpose::RegisterAck => "the parent proves itself to the child",
            Purpose::RegisterEndToEnd => "a cell proves itself to the server, through its parent",
            Purpose::TokenKey => "the server announces the key that signs tokens",
            Purpose::Token => "the server issues a session token",
            Purpose::ControlMessage => "a cell asks another to act, on a topic of the system",
            Purpose::SealedMessage => "a cell vouches for what it has sealed to another",
            Purpose::SealedHeader => "what a sealed message is bound to; nothing is signed for it",
            Purpose::KitManifest => "the project's authority vouches for the files of a kit",
            Purpose::JoinRequest => "who wants to join has the key that is to be certified",
            Purpose::JoinAccess => {
                "what the secret of an invitation gives access to; nothing is signed for it"
            }
            Purpose::JoinKnock => "who comes to a join door has the key of its request",
            Purpose::TransferReference => "the holder of a transfer vouches for a reference to it",
            Purpose::TransferReceipt => "a receiver vouches for what became of a transfer there",
            Purpose::Revocations => "the authority takes certificates and identities back",
            Purpose::Bans => "the server says whom it does not let in",
            Purpose::Roster => "the authority says which cells there are",
            Purpose::SealedTransfer => {
                "what a sealed transfer is bound to; nothing is signed for it"
            }
            Purpose::RenewLink => "a neighbour goes on with another certificate",
            Purpose::Roots => "an authority of the project says which authorities count",
            Purpose::RenewCertificate => "a registered cell goes on with another certificate",
            Purpose::IssueCertificate => "a registered cell has the key that is to be certified",
        };
        writeln!(table, "| {words} | `{}` |", purpose.label()).unwrap();
    }
    files::compare_part("labels", &table);
}

#[test]
fn the_list_of_system_topics_is_that_of_the_code() {
    let mut table = "| channel | topic | exempt from the token |\n|---|---|---|\n".to_owned();
    for system in well_known::ALL {
        let exempt = if well_known::EXEMPT.contains(&system) { "yes" } else { "no" };
        writeln!(table, "| `{}` | `{}` | {exempt} |", system.channel, system.topic).unwrap();
    }
    files::compare_part("topics", &table);
}

/// Rows of 32 bytes.
fn dump(bytes: &[u8]) -> String {
    let rows: Vec<String> = bytes.chunks(32).map(hex::encode).collect();
    rows.join("\n")
}

#[test]
fn the_bytes_of_the_worked_example_are_those_of_the_vectors() {
    let signed = [
        ("signed by site-1 for register", example::register(Purpose::Register)),
        ("signed by site-1 for register-e2e", example::end_to_end()),
        ("signed by server for register-ack", example::register(Purpose::RegisterAck)),
        ("signed by server for token-key", example::token_key()),
    ];
    let mut text = "```text\n".to_owned();
    for (what, signable) in signed {
        let label = signable.iter().position(|byte| *byte == 0).unwrap();
        let (label, hash) = (str::from_utf8(&signable[..label]).unwrap(), &signable[label + 1..]);
        writeln!(text, "{what}\n  \"{label}\" 00\n  {}", hex::encode(hash)).unwrap();
    }
    text.push_str("```\n");
    files::compare_part("example-signed", &text);

    for name in ["example-child", "example-parent"] {
        let stream = all_streams().into_iter().find(|stream| stream.name == name).unwrap();
        let mut text = "```text\n".to_owned();
        let mut rest = &stream.bytes[..];
        for frame in &stream.frames {
            let header = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
            let payload = u32::from_be_bytes([rest[3], rest[4], rest[5], rest[6]]) as usize;
            let (prefix, after) = rest.split_at(7);
            let (header, after) = after.split_at(header);
            let (payload, after) = after.split_at(payload);
            writeln!(text, "{}\n  prefix   {}", frame.name(), hex::encode(prefix)).unwrap();
            for (what, bytes) in [("header   ", header), ("payload  ", payload)] {
                if !bytes.is_empty() {
                    let rows = dump(bytes).replace('\n', "\n           ");
                    writeln!(text, "  {what}{rows}").unwrap();
                }
            }
            rest = after;
        }
        text.push_str("```\n");
        files::compare_part(name, &text);
    }
}
