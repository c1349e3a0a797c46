//! A process that is measured: it is told what to be, says when it is ready, and does what it is asked
//! until its standard input ends.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    thread,
};

use cellbus_proto::causes::with_sources;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    message::{Ask, Peer, Role, SideSpec, Tell},
    raw,
};

mod cells;
mod job;
mod objects;

/// What the process is asked, one after the other. Ends when nobody asks any more.
pub type Inbox = UnboundedReceiver<Ask>;

/// Why a measured process cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SideError(String);

impl SideError {
    /// From an error and what it came from.
    pub fn new(error: impl Error) -> Self {
        Self(with_sources(&error))
    }

    /// From a text.
    pub fn text(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<String> for SideError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Runs as the measured process that standard input describes, until standard input ends.
///
/// # Errors
/// [`SideError`], which has also been told to whoever measures.
pub fn run() -> Result<(), SideError> {
    let outcome = run_told();
    if let Err(error) = &outcome {
        say(&Tell::Failed { why: error.to_string() });
    }
    outcome
}

fn run_told() -> Result<(), SideError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(SideError::new)?;
    let spec: SideSpec = serde_json::from_str(&line).map_err(SideError::new)?;
    let inbox = listen();
    match spec.peer {
        Peer::Cellbus if matches!(spec.role, Role::JobCode) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(SideError::new)?.block_on(job::run(spec, inbox))
        }
        Peer::Cellbus => actix_rt::System::new().block_on(cells::run(spec, inbox)),
        Peer::RawDefaults => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.map_err(SideError::new)?.block_on(raw::run(spec, inbox))
        }
        Peer::RawRr | Peer::RawRrf | Peer::Raw | Peer::RawDigest => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(SideError::new)?.block_on(raw::run(spec, inbox))
        }
    }
}

/// Says one line. Nobody listening ends the process by its standard input.
pub fn say(tell: &Tell) {
    let line = serde_json::to_string(tell).expect("what is told is plain data");
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Reads on a thread of its own, which waits in the kernel and costs the measured one nothing.
fn listen() -> Inbox {
    let (sender, inbox) = unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Some(ask) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
                return;
            };
            if sender.send(ask).is_err() {
                return;
            }
        }
    });
    inbox
}
