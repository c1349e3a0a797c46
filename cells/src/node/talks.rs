//! Requests to a running cell that go on: taps, answers on behalf of a person, and replies as they come.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cellbus_channels::{
    Delivery, Failure, HandleError, HandlerOptions, Reply as Answer, RequestBuilder, RetryPolicy,
    from_fn,
};
use cellbus_proto::{name::ChannelTopic, status::Status};
use cellbus_runtime::{
    clock,
    tap::{TapWish, Tapped},
};
use tokio::sync::{mpsc::Sender, oneshot};

use super::{
    controlled::{ControlledCell, micros, millis},
    observed::bad,
    rules::explained,
};
use crate::control::{
    ControlError, DeliveryRow, Ended, Event, LocalCode, Payload, Reply, Request, RequestAsk,
    RequestReply, Say, ServeAsk, Talk, TapAsk, TapRow, Verdict, lane_name, selector,
};

/// Who waits for what a person answers, by the number of the message.
type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Answer, Failure>>>>>;

impl ControlledCell {
    /// Answers a request that goes on.
    pub(super) async fn go_on(self, request: Request, talk: Talk) -> Result<Reply, ControlError> {
        let closed = self.bus.clone();
        let name = self.name();
        let work = async move {
            if let Request::Tap(ask) = request {
                self.tap(ask, talk).await
            } else if let Request::Serve(ask) = request {
                self.serve(ask, talk).await
            } else if let Request::Replies(ask) = request {
                self.replies(ask, talk).await
            } else if let Request::Transfer(ask) = request {
                self.transfer(ask, talk).await
            } else if let Request::JobRun(ask) = request {
                self.run_job(ask, &talk).await
            } else if let Request::JobLogs(ask) = request {
                self.job_logs(ask, &talk).await
            } else {
                self.answer(request).await
            }
        };
        tokio::select! {
            biased;
            ended = work => ended,
            () = closed.closed() => {
                Err(ControlError::status(Status::ShuttingDown, format!("{name} has ended")))
            }
        }
    }

    async fn tap(&self, ask: TapAsk, talk: Talk) -> Result<Reply, ControlError> {
        if ask.payload && !self.topology.limits.tap_payload {
            let text = format!("{} shows no payloads", self.name());
            let hint = "`tap_payload = true` under [limits] of the topology allows it";
            return Err(ControlError::status(Status::Forbidden, text).hint(hint));
        }
        let of = selector(&ask.of).map_err(|error| bad(error.to_string()))?;
        let wish = TapWish { of, sample: ask.sample, payload: ask.payload };
        let mut tap = self
            .running
            .own()
            .taps
            .open(wish)
            .map_err(|error| ControlError::status(Status::Overloaded, error.to_string()))?;
        talk.tell(Event::Ready { cell: self.name(), of: ask.of }).await;
        while let Some(tapped) = tap.next().await {
            let missed = tap.missed();
            talk.tell(Event::Tapped(self.tap_row(tapped, missed))).await;
        }
        Err(ControlError::status(Status::ShuttingDown, "the tap was closed"))
    }

    fn tap_row(&self, tapped: Tapped, missed: u64) -> TapRow {
        let (verdict, rule, code) = match tapped.verdict {
            Ok(rule) => (Verdict::Admit, Some(rule), tapped.status),
            Err(status) => (Verdict::Refuse, None, Some(status)),
        };
        TapRow {
            at: self.name(),
            unix: tapped.unix,
            verdict,
            code: code.map(|status| status.code().to_owned()),
            rule,
            from: tapped.from,
            kind: tapped.kind.to_owned(),
            origin: tapped.origin,
            sequence: tapped.sequence,
            destination: tapped.destination,
            target: tapped.target,
            lane: lane_name(tapped.lane).to_owned(),
            budget_ms: tapped.budget_ms,
            payload_len: tapped.payload_len as u64,
            payload: tapped.payload.map(|payload| Payload::from_bytes(&payload)),
            missed,
        }
    }

    async fn serve(&self, ask: ServeAsk, talk: Talk) -> Result<Reply, ControlError> {
        let of = selector(&ask.of).map_err(|error| bad(error.to_string()))?;
        let (events, mut said) = talk.split();
        let waiting = Waiting::default();
        let (served, asked) = (Arc::clone(&waiting), events.clone());
        let last = Arc::new(AtomicU64::new(0));
        let handler = from_fn(move |delivery| {
            let number = last.fetch_add(1, Ordering::Relaxed) + 1;
            ask_person(number, delivery, asked.clone(), Arc::clone(&served))
        });
        let options = HandlerOptions::concurrent(ask.concurrency);
        // Kept to the end of this future: whoever hangs up is asked nothing more.
        let _serving = self
            .running
            .serve(of, options, handler)
            .map_err(|error| not_registered(self.name().as_ref(), &error))?;
        let ready = Event::Ready { cell: self.name(), of: ask.of };
        // Fails only when the other side has hung up, and this future is about to be dropped.
        let _ = events.send(ready).await;
        while let Some(say) = said.recv().await {
            let (number, answer) = match say {
                Say::Answer { number, payload, content_type } => {
                    let payload = payload.to_bytes().map_err(|error| bad(error.to_string()))?;
                    let content_type = content_type.map(Into::into);
                    (number, Ok(Answer { payload, content_type }))
                }
                Say::Failed { number, text } => (number, Err(Failure::failed(text))),
            };
            let waits = lock(&waiting).remove(&number);
            // Nobody may wait any more: the budget is spent, or the requester has given up.
            let _ = waits.map(|waits| waits.send(answer));
        }
        Err(ControlError::status(Status::ShuttingDown, "the conversation was closed"))
    }

    async fn replies(&self, ask: RequestAsk, talk: Talk) -> Result<Reply, ControlError> {
        let begun = clock::now();
        let from = self.full_name(ask.to.clone());
        let target = ChannelTopic::new(ask.channel.clone(), ask.topic.clone());
        let mut replies = self.message(ask)?.replies();
        let mut events = 0;
        let elapsed_us = || micros(clock::now().saturating_duration_since(begun));
        while let Some(reply) = replies.next().await {
            let explained = |error| explained(error, &self.name(), &from, &target);
            let Answer { payload, content_type } = reply.map_err(explained)?;
            events += 1;
            let reply = RequestReply {
                payload: Payload::from_bytes(&payload),
                content_type: content_type.map(|text| text.to_string()),
                from: from.clone(),
                elapsed_us: elapsed_us(),
            };
            talk.tell(Event::Reply(reply)).await;
        }
        Ok(Reply::Ended(Ended { events, elapsed_us: elapsed_us() }))
    }

    /// The request that a person wants to send.
    pub(super) fn message(&self, ask: RequestAsk) -> Result<RequestBuilder, ControlError> {
        let payload = ask.payload.to_bytes().map_err(|error| bad(error.to_string()))?;
        let target = ChannelTopic::new(ask.channel, ask.topic);
        let mut request = self
            .bus
            .request(self.full_name(ask.to), target)
            .payload(payload)
            .budget(Duration::from_millis(ask.budget_ms));
        if let Some(content_type) = &ask.content_type {
            request = request.content_type(content_type);
        }
        if let Some(headers) = ask.headers {
            request = request.headers(headers);
        }
        if ask.retry {
            request = request.retry(RetryPolicy::default());
        }
        Ok(request)
    }
}

/// Has a person answer one message.
async fn ask_person(
    number: u64,
    delivery: Delivery,
    asked: Sender<Event>,
    waiting: Waiting,
) -> Result<Answer, Failure> {
    let (answer, answered) = oneshot::channel();
    let cancelled = delivery.cancelled();
    let Delivery { origin, target, payload, content_type, headers, budget, expects_reply, .. } =
        delivery;
    let row = DeliveryRow {
        number,
        origin: origin.name.clone(),
        kind: origin.kind,
        org: origin.org.to_string(),
        target: target.to_string(),
        payload: Payload::from_bytes(&payload),
        content_type: content_type.map(|text| text.to_string()),
        headers: String::from_utf8(headers.to_vec()).ok().filter(|text| !text.is_empty()),
        budget_ms: millis(budget),
        expects_reply,
    };
    lock(&waiting).insert(number, answer);
    let _forgotten = Forgotten { number, waiting: Arc::clone(&waiting) };
    if asked.send(Event::Delivery(row)).await.is_err() {
        // The person has gone before the message came: nobody has seen it.
        return Err(Failure::Refused(Status::NoHandler));
    }
    tokio::select! {
        biased;
        answer = answered => answer.unwrap_or(Err(Failure::Unknown(Status::HandlerGone))),
        () = asked.closed() => Err(Failure::Unknown(Status::HandlerGone)),
        () = cancelled => Err(Failure::Unknown(Status::HandlerGone)),
    }
}

/// Takes a message from those that wait, however its handler ends.
struct Forgotten {
    number: u64,
    waiting: Waiting,
}

impl Drop for Forgotten {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.number);
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn not_registered(cell: &str, error: &HandleError) -> ControlError {
    let text = format!("{cell}: {error}");
    if let HandleError::Reserved(_) = error {
        return ControlError::status(Status::Forbidden, text);
    }
    ControlError::local(LocalCode::ControlTaken, text)
        .hint("wait until it is served no longer, or serve something else")
}
