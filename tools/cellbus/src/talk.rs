//! The commands that go on: taps, answers on behalf of a person, and replies as they come.

use std::{
    io::{self, BufRead},
    thread,
};

use cellbus_cells::control::{
    Conversation, DeliveryRow, Event, Next, Payload, Request, RequestReply, Say, ServeAsk, TapAsk,
    TapRow, Verdict,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, channel};

use crate::{
    args,
    ask::{read_payload, word},
    codes::CliCode,
    output::{Failure, Format, Outcome, Success, print_raw, print_text, printable, say},
    target::converse,
};

/// What a tap showed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tapped {
    /// How many messages.
    pub shown: u64,
    /// How many were left out, because they were not taken in time.
    pub missed: u64,
    /// The messages, with `-o json`; else they were printed as they came.
    pub messages: Vec<TapRow>,
}

/// What was answered.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// How many messages.
    pub answered: u64,
    /// The messages, with `-o json`; else they were printed as they came.
    pub messages: Vec<DeliveryRow>,
}

/// What came of a request with more than one reply.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replied {
    /// How many replies.
    pub count: u64,
    /// The replies, with `-o json`; else they were printed as they came.
    pub replies: Vec<RequestReply>,
}

/// With what to answer.
enum Answering {
    Echo,
    Fixed(Vec<u8>),
    Lines(Receiver<String>),
    Fail(String),
}

/// Lines of standard input that are read ahead.
const LINES_AHEAD: usize = 16;

/// `tap`.
pub async fn tap(format: Format, args: args::Tap) -> Outcome {
    let args::Tap { of, sample, payload, count, target } = args;
    gathers_at_most(format, count)?;
    let mut talk = converse(&target, Request::Tap(TapAsk { of, sample, payload })).await?;
    let mut tapped = Tapped::default();
    while count.is_none_or(|count| tapped.shown < u64::from(count)) {
        let Some(event) = next(&mut talk).await? else { break };
        if told(format, &event, line_of).is_err() {
            break;
        }
        if let Event::Tapped(row) = event {
            (tapped.shown, tapped.missed) = (tapped.shown + 1, row.missed);
            if format == Format::Json {
                tapped.messages.push(row);
            }
        }
    }
    if tapped.missed > 0 {
        say(&format!("{} messages were left out: they were not taken in time", tapped.missed));
    }
    Ok(Success::new(&tapped, String::new()))
}

/// `serve`.
pub async fn serve(format: Format, args: args::Serve) -> Outcome {
    let args::Serve { of, reply, lines, fail, content_type, concurrency, count, target } = args;
    gathers_at_most(format, count)?;
    let mut answering = match (reply, fail, lines) {
        (Some(reply), ..) => Answering::Fixed(read_payload(&reply)?),
        (None, Some(text), _) => Answering::Fail(text),
        (None, None, true) => Answering::Lines(lines_of_stdin()),
        (None, None, false) => Answering::Echo,
    };
    let mut talk = converse(&target, Request::Serve(ServeAsk { of, concurrency })).await?;
    let mut served = Served::default();
    while count.is_none_or(|count| served.answered < u64::from(count)) {
        let Some(event) = next(&mut talk).await? else { break };
        // Nobody reads what is told, and the messages are answered all the same.
        let _ = told(format, &event, line_of);
        let Event::Delivery(row) = event else { continue };
        let Some(answer) = answering.answer(&row, content_type.as_deref()).await else { break };
        talk.say(&answer).await?;
        served.answered += 1;
        if format == Format::Json {
            served.messages.push(row);
        }
    }
    Ok(Success::new(&served, String::new()))
}

/// `request --stream`. An error ends it with its code, after the replies that came before.
pub async fn replies(format: Format, target: &args::Target, request: Request) -> Outcome {
    let mut talk = converse(target, request).await?;
    let mut replied = Replied::default();
    loop {
        let Some(event) = next(&mut talk).await? else { break };
        let Event::Reply(row) = &event else { continue };
        replied.count += 1;
        let shown = match format {
            Format::Json => {
                replied.replies.push(row.clone());
                Ok(())
            }
            Format::Jsonl => told(format, &event, line_of),
            Format::Table => row
                .payload
                .to_bytes()
                .map_or(Ok(()), |bytes| print_raw(&bytes).and_then(|()| print_raw(b"\n"))),
        };
        if shown.is_err() {
            break;
        }
    }
    Ok(Success::new(&replied, String::new()))
}

/// What comes next; `None` when it is over, or Ctrl-C ended it.
async fn next(talk: &mut Conversation) -> Result<Option<Event>, Box<Failure>> {
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(None),
        next = talk.next() => match next? {
            Next::Event(event) => Ok(Some(event)),
            Next::End(_) => Ok(None),
        },
    }
}

/// Prints an event as it comes, where the format is one for that.
fn told(format: Format, event: &Event, line: fn(&Event) -> Option<String>) -> io::Result<()> {
    match format {
        Format::Json => Ok(()),
        Format::Jsonl => print_text(&serde_json::to_string(event)?),
        Format::Table => match event {
            Event::Ready { cell, of } => {
                say(&printable(&format!("{of} at {cell}; Ctrl-C ends it")));
                Ok(())
            }
            Event::Tapped(_)
            | Event::Delivery(_)
            | Event::Reply(_)
            | Event::Transfer(_)
            | Event::Job(_)
            | Event::JobLog(_) => line(event).map_or(Ok(()), |line| print_text(&printable(&line))),
        },
    }
}

fn line_of(event: &Event) -> Option<String> {
    match event {
        Event::Ready { .. }
        | Event::Reply(_)
        | Event::Transfer(_)
        | Event::Job(_)
        | Event::JobLog(_) => None,
        Event::Tapped(row) => {
            let TapRow { kind, origin, sequence, destination, target, lane, payload_len, .. } = row;
            let why = match (&row.verdict, &row.code, &row.rule) {
                (Verdict::Refuse, Some(code), _) => code.clone(),
                (_, Some(code), Some(rule)) => format!("{code}, {rule}"),
                (_, None, Some(rule)) => rule.clone(),
                (_, code, None) => code.clone().unwrap_or_default(),
            };
            let payload = row.payload.as_ref().map(|payload| format!(" {}", shown(payload)));
            Some(format!(
                "{} {kind} {origin}#{sequence} -> {destination} {target} {lane} {payload_len} B: {why}{}",
                word(&row.verdict),
                payload.unwrap_or_default()
            ))
        }
        Event::Delivery(row) => {
            let DeliveryRow { number, origin, target, payload, .. } = row;
            Some(format!("{number} {origin} {target}: {}", shown(payload)))
        }
    }
}

/// A payload in one line.
fn shown(payload: &Payload) -> String {
    match payload {
        Payload::Utf8(text) => text.replace('\n', "\\n"),
        Payload::Base64(text) => format!("base64:{text}"),
    }
}

fn gathers_at_most(format: Format, count: Option<u32>) -> Result<(), Box<Failure>> {
    if format == Format::Json && count.is_none() {
        let text = "`-o json` prints one envelope, which needs an end";
        return Err(Failure::new(CliCode::Usage, text).hint("add `--count N`, or use `-o jsonl`"));
    }
    Ok(())
}

/// Reads lines while they are wanted. The thread may outlast them, as long as nobody writes any.
fn lines_of_stdin() -> Receiver<String> {
    let (send, lines) = channel(LINES_AHEAD);
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Answering {
    /// The answer to a message; `None` when there are no more.
    async fn answer(&mut self, row: &DeliveryRow, content_type: Option<&str>) -> Option<Say> {
        let number = row.number;
        let payload = match self {
            Self::Echo => row.payload.clone(),
            Self::Fixed(bytes) => Payload::from_bytes(bytes),
            Self::Lines(lines) => Payload::Utf8(lines.recv().await?),
            Self::Fail(text) => return Some(Say::Failed { number, text: text.clone() }),
        };
        let content_type = content_type.map(str::to_owned);
        let content_type = match self {
            Self::Echo => content_type.or_else(|| row.content_type.clone()),
            Self::Fixed(_) | Self::Lines(_) | Self::Fail(_) => content_type,
        };
        Some(Say::Answer { number, payload, content_type })
    }
}
