//! A program that somebody else starts: a notebook, a debugger, a step of a cluster job.
//!
//! The job cell starts nothing. When the cell that launched it asks, it opens a way in for one process: a socket, and
//! a rendezvous file by which that process finds it. No signal is ever sent to what comes.

use std::{path::PathBuf, pin::Pin, time::Duration};

use cellbus_channels::{Bus, ChannelTopic, Delivery, Failure, Reply, from_fn};
use cellbus_proto::{causes::with_sources, name::Segment, status::Status};
use cellbus_runtime::{
    host::RunningCell,
    local_socket::{Ended, Launch, Meeting, MeetingError, Options, Stage},
    secret_file::create_private_dir,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::{ATTACH, JOB_CHANNEL, ProgramError, topics};
use crate::job::JobBootstrap;

/// What processes that were attached are called.
const ROLE: &str = "attached";

/// What the cell that launched a job cell asks it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// Seconds that the way in is open.
    pub lifetime_s: u32,
}

/// What the job cell says to that.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A way in, for one process.
    Offered {
        /// The rendezvous file.
        file: PathBuf,
        /// The directory with the files of the job.
        work_dir: PathBuf,
    },
    /// Somebody is in.
    Taken,
    /// There can be none, with this for people.
    Failed(String),
}

type Conversation = Pin<Box<dyn Future<Output = Ended> + Send>>;
type Asked = (Ask, oneshot::Sender<Answer>);

/// Waits for a process, and for its end; ends the conversation with it when `stop` comes first.
pub(super) async fn run(
    cell: &RunningCell,
    bootstrap: &JobBootstrap,
    stop: impl Future<Output = ()>,
) -> Result<(), ProgramError> {
    let bus = cell.bus();
    let mut asked = listen(&bus, bootstrap).await?;
    create_private_dir(&bootstrap.socket_dir)?;
    let stage = watch::Sender::new(Stage::Unclaimed);
    let mut conversation: Option<Conversation> = None;
    let idle = topics::idle(cell, bootstrap.idle_s);
    tokio::pin!(stop, idle);
    loop {
        let ended = tokio::select! {
            biased;
            () = &mut stop => return Err(ProgramError::Stopped),
            Some((ask, answer)) = asked.recv() => {
                let said = if *stage.borrow() != Stage::Unclaimed {
                    Answer::Taken
                } else {
                    // What was offered before is taken back: there is one file, and one secret.
                    drop(conversation.take());
                    match offer(&bus, bootstrap, ask, &stage) {
                        Ok((file, talk)) => {
                            conversation = Some(talk);
                            Answer::Offered { file, work_dir: bootstrap.work_dir.clone() }
                        }
                        Err(error) => Answer::Failed(with_sources(&error)),
                    }
                };
                // Fails only where nobody waits any longer; the offer expires.
                let _ = answer.send(said);
                continue;
            }
            ended = next(&mut conversation) => ended,
            time = &mut idle => return Err(ProgramError::Idle(time)),
        };
        conversation = None;
        match ended {
            Ended::Unclaimed => tracing::debug!("nobody came to be attached"),
            Ended::Finished => return Ok(()),
            Ended::CellClosed => return Err(ProgramError::Stopped),
            Ended::Gone | Ended::Violation(_) => return Err(ProgramError::Left(ended)),
        }
    }
}

/// Hears what the cell that launched this one asks, and nobody else.
async fn listen(
    bus: &Bus,
    bootstrap: &JobBootstrap,
) -> Result<mpsc::Receiver<Asked>, ProgramError> {
    let (asks, asked) = mpsc::channel::<Asked>(1);
    let parent = bootstrap.parent.clone();
    let handler = from_fn(move |delivery: Delivery| {
        let (asks, is_parent) = (asks.clone(), delivery.origin.name == parent);
        async move {
            if !is_parent {
                return Err(Failure::Refused(Status::Forbidden));
            }
            let ask = serde_json::from_slice(&delivery.payload)
                .map_err(|error| Failure::failed(error.to_string()))?;
            let (answer, answered) = oneshot::channel();
            let gone = Failure::Refused(Status::NoHandler);
            asks.send((ask, answer)).await.map_err(|_| gone.clone())?;
            let answer: Answer = answered.await.map_err(|_| gone)?;
            let bytes = serde_json::to_vec(&answer).expect("an answer is plain data");
            Ok(Reply::from(bytes))
        }
    });
    let target = ChannelTopic::parse(JOB_CHANNEL, ATTACH).expect("both are names");
    bus.handle(target, handler).await?;
    Ok(asked)
}

fn offer(
    bus: &Bus,
    bootstrap: &JobBootstrap,
    ask: Ask,
    stage: &watch::Sender<Stage>,
) -> Result<(PathBuf, Conversation), MeetingError> {
    let role: Segment = ROLE.parse().expect("it is a name");
    let id = &bootstrap.id;
    let launch = Launch { job: Some(id.job.clone()), attempt: Some(id.attempt), role: Some(role) };
    let options = Options::default().launch(launch).stage(stage.clone());
    let lifetime = Duration::from_secs(u64::from(ask.lifetime_s.max(1)));
    let meeting = Meeting::offer(&bootstrap.socket_dir, bus, lifetime, options)?;
    Ok((meeting.file().to_owned(), Box::pin(meeting.serve(bus.clone()))))
}

/// The end of a conversation; never, where there is none.
async fn next(conversation: &mut Option<Conversation>) -> Ended {
    match conversation {
        Some(conversation) => conversation.await,
        None => std::future::pending().await,
    }
}
