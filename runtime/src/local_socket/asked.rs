//! Messages that job code sends, from the moment they are taken to their end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_channels::{
    Flags, HandleError, Lane, Outgoing, PublishError, Rare, Reply, RequestError,
    local::{carry::Packed, outbox::Closed},
};
use cellbus_proto::{
    local::{DETAIL_MAX, MessageFlags, MessageOptions, Outcome, ToJob},
    name::{ChannelTopic, Fqcn},
    status::Status,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    act::End,
    attached::{Inward, LIFETIME, Outward, inward, linger, outward},
    link::Link,
};

/// Replies of many cells that are fetched at once.
const FETCHES: usize = 4;

/// A message of job code.
pub(super) struct Message {
    pub(super) target: ChannelTopic,
    pub(super) budget: Duration,
    pub(super) packed: Packed,
    pub(super) options: Box<MessageOptions>,
}

impl Message {
    fn is(&self, flag: MessageFlags) -> bool {
        self.options.flags.contains(flag)
    }

    /// Serves what is attached, and puts together what is sent.
    async fn outgoing(
        self,
        link: &Link,
        to: impl IntoIterator<Item = Fqcn>,
        left: Option<Duration>,
    ) -> Result<(Outgoing, Option<cellbus_channels::transfer::Served>), Status> {
        let is_sealed = self.is(MessageFlags::SEALED);
        let Self { target, packed, options, .. } = self;
        let Outward { payload, content_type, served } =
            outward(&link.bus, to, &target, is_sealed, packed).await?;
        let MessageOptions { flags, retry, trace, headers } = *options;
        let rare = Rare { headers, trace, retry };
        let mut outgoing = Outgoing::new(target);
        outgoing.payload = payload;
        outgoing.content_type = content_type;
        outgoing.budget = left;
        outgoing.flags = on_the_wire(flags);
        outgoing.rare = (rare != Rare::default()).then(|| Box::new(rare));
        if flags.contains(MessageFlags::BULK) {
            outgoing.lane = Lane::Bulk;
        }
        Ok((outgoing, served))
    }
}

fn on_the_wire(flags: MessageFlags) -> Flags {
    const SAME: [(MessageFlags, Flags); 5] = [
        (MessageFlags::OPTIONAL, Flags::OPTIONAL),
        (MessageFlags::IDEMPOTENT, Flags::IDEMPOTENT),
        (MessageFlags::SEALED, Flags::SEALED),
        (MessageFlags::RECEIPT, Flags::RECEIPT),
        (MessageFlags::BATCH, Flags::BATCH),
    ];
    SAME.iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .fold(Flags::default(), |all, (_, same)| all.with(*same))
}

pub(super) async fn request(link: Arc<Link>, id: u64, to: Fqcn, message: Message) -> End {
    let until = Instant::now() + message.budget;
    let (is_sealed, takes_many) =
        (message.is(MessageFlags::SEALED), message.is(MessageFlags::MANY));
    let budget = message.budget;
    let sent = match message.packed.file.is_some() {
        // Read once, so that it takes time.
        true => timeout_at(until, message.outgoing(&link, [to.clone()], None)).await,
        false => Ok(message.outgoing(&link, [to.clone()], Some(budget)).await),
    };
    let (mut outgoing, served) = match sent {
        Ok(Ok(sent)) => sent,
        Ok(Err(status)) => return refused(&link, id, status),
        Err(_elapsed) => return refused(&link, id, Status::ExpiredInQueue),
    };
    outgoing.budget.get_or_insert_with(|| until.saturating_duration_since(Instant::now()));
    let builder = link.bus.message(to.clone(), outgoing);
    let end = if takes_many {
        let mut replies = builder.replies();
        loop {
            match replies.next().await {
                None => break End::new(ToJob::End { id }),
                Some(Err(error)) => break returned(&link, id, error),
                Some(Ok(reply)) => {
                    let part = timeout_at(until, part(&link, id, &to, reply, is_sealed)).await;
                    match part {
                        Ok(Ok(())) => {}
                        Ok(Err(status)) => break refused(&link, id, status),
                        Err(_elapsed) => break refused(&link, id, Status::Deadline),
                    }
                }
            }
        }
    } else {
        match builder.send().await {
            Ok(reply) => replied(&link, id, &to, reply, is_sealed, until).await,
            Err(error) => returned(&link, id, error),
        }
    };
    drop(served);
    end
}

async fn replied(
    link: &Link,
    id: u64,
    to: &Fqcn,
    reply: Reply,
    is_sealed: bool,
    until: Instant,
) -> End {
    match timeout_at(until, taken(link, to, reply, is_sealed)).await {
        Ok(Ok(Inward { packed: Packed { body, file }, permit })) => {
            End { frame: ToJob::Reply { id, body }, file, _permit: permit }
        }
        Ok(Err(status)) => failed(link, id, status),
        Err(_elapsed) => refused(link, id, Status::Deadline),
    }
}

/// A reply with all that belongs to it.
async fn taken(link: &Link, from: &Fqcn, reply: Reply, is_sealed: bool) -> Result<Inward, Status> {
    let Reply { payload, content_type } = reply;
    inward(link, from, payload, content_type, is_sealed).await
}

async fn part(
    link: &Link,
    id: u64,
    from: &Fqcn,
    reply: Reply,
    is_sealed: bool,
) -> Result<(), Status> {
    let Inward { packed: Packed { body, file }, permit: _until_it_is_queued } =
        taken(link, from, reply, is_sealed).await?;
    let part = ToJob::Part { id, from: from.clone(), body };
    link.part(id, part, file).await.map_err(|Closed| Status::ShuttingDown)
}

pub(super) async fn publish(link: Arc<Link>, id: u64, to: Fqcn, message: Message) -> End {
    let (budget, wants_receipt) = (message.budget, message.is(MessageFlags::RECEIPT));
    let (mut outgoing, served) = match message.outgoing(&link, [to.clone()], None).await {
        Ok(sent) => sent,
        Err(status) => return refused(&link, id, status),
    };
    let published = if served.is_some() && !wants_receipt {
        outgoing.budget = Some(LIFETIME);
        // Only the fetch may take as long as that, not the wait for a place in the queue.
        match timeout(budget, link.bus.message(to, outgoing).publish()).await {
            Ok(published) => published,
            Err(_elapsed) => return refused(&link, id, Status::Overloaded),
        }
    } else {
        link.bus.message(to, outgoing).publish().await
    };
    if published.is_ok() {
        linger(&link, served);
    }
    accepted(&link, id, published)
}

/// A message to many cells; `None` stands for those that are registered below this one.
pub(super) async fn multicast(
    link: Arc<Link>,
    id: u64,
    to: Option<Vec<Fqcn>>,
    publish: bool,
    message: Message,
) -> End {
    let to = match to {
        Some(to) => to,
        None => link.bus.below().await,
    };
    let (is_sealed, wants_receipts) =
        (message.is(MessageFlags::SEALED), message.is(MessageFlags::RECEIPT));
    let until = Instant::now() + message.budget;
    let budget = message.budget;
    let (mut outgoing, served) =
        match message.outgoing(&link, to.iter().cloned(), Some(budget)).await {
            Ok(sent) => sent,
            Err(status) => return refused(&link, id, status),
        };
    if served.is_some() && publish && !wants_receipts {
        outgoing.budget = Some(LIFETIME);
    }
    let builder = link.bus.message_to_many(to, outgoing);
    if publish && !wants_receipts {
        let published = match timeout_at(until, builder.publish()).await {
            Ok(published) => published,
            Err(_elapsed) => return refused(&link, id, Status::Overloaded),
        };
        if published.is_ok() {
            linger(&link, served);
        }
        return accepted(&link, id, published);
    }
    let mut outcomes = match publish {
        true => builder.publish_with_receipts().await,
        false => builder.send().await,
    };
    let mut fetches = FuturesUnordered::new();
    loop {
        let outcome = tokio::select! {
            Some(()) = fetches.next(), if !fetches.is_empty() => continue,
            outcome = outcomes.next(), if fetches.len() < FETCHES => outcome,
        };
        let Some((from, outcome)) = outcome else { break };
        let link = &link;
        fetches.push(async move {
            let failed = match outcome {
                Ok(reply) => {
                    match timeout_at(until, part(link, id, &from, reply, is_sealed)).await {
                        Ok(Ok(())) => return,
                        Ok(Err(status)) => (status, link.cell.clone(), Bytes::new()),
                        Err(_elapsed) => (Status::Deadline, link.cell.clone(), Bytes::new()),
                    }
                }
                Err(error) => reason(link, error),
            };
            let (status, by, detail) = failed;
            // Fails where the connection has ended; then nobody waits for it.
            let _ = link.part(id, ToJob::PartFailed { id, from, status, by, detail }, None).await;
        });
    }
    while fetches.next().await.is_some() {}
    if publish {
        linger(&link, served);
    }
    End::new(ToJob::End { id })
}

fn accepted(link: &Link, id: u64, outcome: Result<(), PublishError>) -> End {
    let (status, by) = match outcome {
        Ok(()) => return End::new(ToJob::Accepted { id }),
        Err(PublishError::Refused { by, status }) => (status, by),
        Err(PublishError::NoReceipt(error)) => return returned(link, id, error),
        Err(_closed) => (Status::ShuttingDown, link.cell.clone()),
    };
    End::new(ToJob::Return { id, status, by, detail: Bytes::new() })
}

/// This cell has refused it.
pub(super) fn refused(link: &Link, id: u64, status: Status) -> End {
    End::new(ToJob::Return { id, status, by: link.cell.clone(), detail: Bytes::new() })
}

/// The work has been done, and the reply cannot be had: a status that says otherwise would be a lie.
fn failed(link: &Link, id: u64, why: Status) -> End {
    let detail = Bytes::from(format!("the reply cannot be taken: {why}"));
    let (status, by) = (Status::HandlerFailed, link.cell.clone());
    End::new(ToJob::Return { id, status, by, detail })
}

fn returned(link: &Link, id: u64, error: RequestError) -> End {
    let (status, by, detail) = reason(link, error);
    End::new(ToJob::Return { id, status, by, detail })
}

fn reason(link: &Link, error: RequestError) -> (Status, Fqcn, Bytes) {
    let own = |status| (status, link.cell.clone(), Bytes::new());
    match error {
        RequestError::Returned { by, status, mut detail } => {
            detail.truncate(DETAIL_MAX);
            (status, by, detail)
        }
        RequestError::TimedOut { .. } => own(Status::Deadline),
        RequestError::SlowConsumer { .. } => own(Status::SlowConsumer),
        RequestError::Cancelled { .. } | RequestError::Closed | _ => own(Status::AbortedRunning),
    }
}

pub(super) fn handled(id: u64, outcome: Result<(), HandleError>) -> End {
    let outcome = match outcome {
        Ok(()) => Outcome::Registered,
        Err(HandleError::Taken(_)) => Outcome::Taken,
        Err(HandleError::Reserved(_)) => Outcome::Reserved,
        Err(HandleError::TooMany) => Outcome::TooMany,
        Err(_closed) => Outcome::Closed,
    };
    End::new(ToJob::Handled { id, outcome })
}
