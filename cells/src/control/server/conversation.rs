//! A request that goes on: events out and lines in at the same time, until one side ends it.

use std::{io, time::Duration};

use tokio::{net::UnixStream, time::timeout};

use super::{
    super::{
        ControlError, Controlled, LocalCode, Request, Say,
        line::{LineError, Lines, Outcome, write_line},
        talk::Talk,
    },
    answer_line, outcome_line,
};

/// Why a conversation ended before the cell had ended it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenOff {
    #[error("the asking side has hung up")]
    HungUp,
    #[error("the asking side does not take what it is told")]
    Slow,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Has `cell` answer `request`. Each line has `patience` to be taken.
///
/// # Errors
/// [`BrokenOff`]; the cell's work on it has been dropped then.
pub(super) async fn run(
    stream: UnixStream,
    cell: &dyn Controlled,
    request: Request,
    patience: Duration,
) -> Result<(), BrokenOff> {
    let (mut reading, mut writing) = stream.into_split();
    let (talk, mut line) = Talk::new();
    let mut lines = Lines::default();
    let mut work = cell.converse(request, talk);
    let mut write =
        async |bytes: Vec<u8>| match timeout(patience, write_line(&mut writing, &bytes)).await {
            Ok(written) => written.map_err(BrokenOff::from),
            Err(_late) => Err(BrokenOff::Slow),
        };
    loop {
        tokio::select! {
            biased;
            Some(event) = line.events.recv() => write(outcome_line(Outcome::Event(event))).await?,
            outcome = &mut work => {
                while let Ok(event) = line.events.try_recv() {
                    write(outcome_line(Outcome::Event(event))).await?;
                }
                return write(answer_line(outcome)).await;
            }
            read = lines.next(&mut reading) => {
                let wrong = match understood(read)? {
                    Ok(say) => line.said.try_send(say).err().map(|_full| "too much is said at once".to_owned()),
                    Err(text) => Some(text),
                };
                if let Some(text) = wrong {
                    let error = ControlError::local(LocalCode::ControlBadRequest, text);
                    return write(answer_line(Err(error))).await;
                }
            }
        }
    }
}

/// What a line says, or why it is none of those that can come here.
fn understood(read: Result<Option<Vec<u8>>, LineError>) -> Result<Result<Say, String>, BrokenOff> {
    match read {
        Ok(Some(line)) => Ok(serde_json::from_slice(&line).map_err(|error| error.to_string())),
        Ok(None) => Err(BrokenOff::HungUp),
        Err(LineError::Io(error)) => Err(error.into()),
        Err(error @ (LineError::TooLong | LineError::Cut | LineError::Trailing)) => {
            Ok(Err(error.to_string()))
        }
    }
}
