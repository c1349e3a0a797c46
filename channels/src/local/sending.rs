//! Sending a file of job code: its cell serves it, and job code offers it until each receiver has it or has failed.

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_proto::{
    local::Settled,
    name::{ChannelTopic, Fqcn},
    status::Status,
    transfer::CONTENT_TYPE,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    asking,
    files::{FileOptions, Files, Served, Serving},
    job_side::JobSide,
};
use crate::{
    error::RequestError,
    transfer::{AGAIN_MAX, AGAIN_MIN, DECIDE, may_pass},
    transport::Outgoing,
};

/// A file that is being sent. Dropping it gives up.
#[derive(Debug)]
#[must_use = "a file is sent for as long as this is kept"]
pub struct Sending {
    serving: Serving,
    ends: BTreeMap<Fqcn, Settled>,
    /// Receivers that have not ended, and when each is given up on.
    left: BTreeMap<Fqcn, Instant>,
    patience: Duration,
    /// What receivers say to the offer.
    said: mpsc::UnboundedReceiver<(Fqcn, Said)>,
    offers: JoinSet<()>,
}

/// What a receiver has said to an offer.
#[derive(Clone, Copy, Debug)]
enum Said {
    /// It has taken it.
    Taken,
    /// It will not have it.
    Declined(Status),
}

impl Files {
    /// Sends `file` to the cells that `options` name: has it served as [`serve`](Self::serve) does, offers it to them
    /// at the same channel and topic, and waits until each has stored it or has failed. They take it with
    /// [`Transfers::receive`](crate::transfer::Transfers::receive) or [`gather`](crate::transfer::Transfers::gather).
    ///
    /// Who is not there, or does not come for the bytes, is offered it again; who is not heard of for
    /// [`FileOptions::patience`] is missing.
    ///
    /// # Errors
    /// [`RequestError`], by this cell, with `BAD_TARGET` where nobody is named; nothing is offered.
    pub async fn send(&self, file: File, options: FileOptions) -> Result<Sending, RequestError> {
        let refused = |status| asking::returned(self.side(), status);
        let receivers = options.receivers().filter(|receivers| !receivers.is_empty());
        let receivers: Vec<Fqcn> = receivers.ok_or_else(|| refused(Status::BadTarget))?.to_vec();
        let (target, patience) = (options.target().clone(), options.how_patient());
        let serving = self.serve(file, options).await?;
        let (say, said) = mpsc::unbounded_channel();
        let mut offers = JoinSet::new();
        for to in receivers.iter().cloned() {
            let (side, reference) = (Arc::clone(self.side()), serving.reference().clone());
            offers.spawn(offer(side, to, target.clone(), reference, say.clone()));
        }
        let until = Instant::now() + patience;
        let left = receivers.into_iter().map(|name| (name, until)).collect();
        Ok(Sending { serving, ends: BTreeMap::new(), left, patience, said, offers })
    }
}

impl Sending {
    /// What it is fetched by.
    #[must_use]
    pub fn reference(&self) -> &Bytes {
        self.serving.reference()
    }

    /// What comes next; `None` when it is over for all receivers.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Served> {
        loop {
            let next = self.left.values().min().copied()?;
            tokio::select! {
                biased;
                served = self.serving.next() => match served? {
                    Served::Progress { from, bytes } => {
                        self.heard(&from);
                        return Some(Served::Progress { from, bytes });
                    }
                    // A receiver that nobody has named.
                    Served::Settled { from, end } => {
                        if let Some(served) = self.end(from, end) {
                            return Some(served);
                        }
                    }
                },
                Some((from, said)) = self.said.recv() => match said {
                    Said::Taken => self.heard(&from),
                    Said::Declined(status) => {
                        if let Some(served) = self.end(from, Settled::Failed(status)) {
                            return Some(served);
                        }
                    }
                },
                () = sleep_until(next) => {
                    let now = Instant::now();
                    let late = self.left.iter().find(|(_, until)| **until <= now);
                    if let Some(from) = late.map(|(from, _)| from.clone())
                        && let Some(served) = self.end(from, Settled::Missing)
                    {
                        return Some(served);
                    }
                }
            }
        }
    }

    /// Waits for the end, and says what has become of it at each receiver.
    pub async fn outcome(mut self) -> BTreeMap<Fqcn, Settled> {
        while self.next().await.is_some() {}
        // Its connection has ended: nobody knows more.
        let left = std::mem::take(&mut self.left).into_keys();
        self.ends.extend(left.map(|name| (name, Settled::Missing)));
        self.ends
    }

    fn heard(&mut self, from: &Fqcn) {
        if let Some(until) = self.left.get_mut(from) {
            *until = Instant::now() + self.patience;
        }
    }

    fn end(&mut self, from: Fqcn, end: Settled) -> Option<Served> {
        self.left.remove(&from)?;
        self.ends.insert(from.clone(), end);
        if self.left.is_empty() {
            self.offers.abort_all();
            self.serving.stop();
        }
        Some(Served::Settled { from, end })
    }
}

/// Offers it to one receiver again and again, until that declines for good. An offer does no harm twice.
async fn offer(
    side: Arc<JobSide>,
    to: Fqcn,
    target: ChannelTopic,
    reference: Bytes,
    say: mpsc::UnboundedSender<(Fqcn, Said)>,
) {
    let mut pause = AGAIN_MIN;
    loop {
        let mut outgoing = Outgoing::new(target.clone());
        outgoing.payload = reference.clone();
        outgoing.content_type = Some(CONTENT_TYPE.into());
        outgoing.budget = Some(DECIDE);
        let said = asking::request(Arc::clone(&side), to.clone(), outgoing).await;
        let wait = match said {
            Ok(_taken) => {
                pause = AGAIN_MIN;
                if say.send((to.clone(), Said::Taken)).is_err() {
                    return;
                }
                AGAIN_MAX
            }
            Err(RequestError::Closed) => return,
            Err(error) if may_pass(error.status()) => {
                let wait = pause;
                pause = (pause * 2).min(AGAIN_MAX);
                wait
            }
            Err(error) => {
                // Fails where nobody waits any longer.
                let _ = say.send((to, Said::Declined(error.status())));
                return;
            }
        };
        tokio::time::sleep(wait).await;
    }
}
