//! Requests that go on.

use cellbus_cells::control::{
    ControlError, DeliveryRow, Ended, Event, Payload, Reply, Request, RequestReply, Say, Talk,
    TapRow, TransferAsk, TransferEnd, TransferEnds, TransferEvent, Verdict,
};
use cellbus_channels::{CellKind, Fqcn, Status};

use cellbus_cells::job::LogRow;

use super::name;

/// A tap tells for ever; whoever serves gets messages as long as each answer is what the message carried;
/// a stream has three replies.
pub async fn run(cell: Fqcn, request: Request, talk: Talk) -> Result<Reply, ControlError> {
    match request {
        Request::Tap(ask) if ask.payload => {
            Err(ControlError::status(Status::Forbidden, "no payloads here"))
        }
        Request::Tap(ask) => {
            talk.tell(Event::Ready { cell: cell.clone(), of: ask.of }).await;
            for sequence in 0.. {
                talk.tell(Event::Tapped(tapped(cell.clone(), sequence))).await;
            }
            Err(ControlError::status(Status::ShuttingDown, "it has ended"))
        }
        Request::Serve(ask) => {
            let (events, mut said) = talk.split();
            let ready = Event::Ready { cell: cell.clone(), of: ask.of };
            events.send(ready).await.expect("somebody hears");
            for number in 1.. {
                events.send(Event::Delivery(delivery(number))).await.expect("somebody hears");
                match said.recv().await {
                    Some(Say::Answer { number: of, payload, .. })
                        if of == number && payload == delivery(number).payload => {}
                    other => {
                        let text = format!("{other:?}");
                        return Err(ControlError::status(Status::HandlerFailed, text));
                    }
                }
            }
            Err(ControlError::status(Status::ShuttingDown, "it has ended"))
        }
        Request::Replies(ask) if ask.to == name("slow") => {
            Err(ControlError::status(Status::Deadline, "no more replies").by("relay"))
        }
        Request::Replies(ask) => {
            for text in ["one", "two", "three"] {
                let reply = RequestReply {
                    payload: Payload::Utf8(text.to_owned()),
                    content_type: None,
                    from: ask.to.clone(),
                    elapsed_us: 7,
                };
                talk.tell(Event::Reply(reply)).await;
            }
            Ok(Reply::Ended(Ended { events: 3, elapsed_us: 9 }))
        }
        Request::Transfer(ask) => {
            let all = match ask {
                TransferAsk::Put(ask) => ask.to,
                TransferAsk::Receive(_) => vec![cell.clone(); 1000],
                TransferAsk::Get(_) | TransferAsk::Resume(_) => vec![cell.clone()],
                TransferAsk::List(_) | TransferAsk::Cancel { .. } => Vec::new(),
            };
            let mut ends = Vec::new();
            for other in all {
                let end = ended(other);
                talk.tell(Event::Transfer(TransferEvent::Ended(end.clone()))).await;
                ends.push(end);
            }
            Ok(Reply::TransferEnds(TransferEnds { ends, sent: Some(7) }))
        }
        Request::JobRun(_) | Request::JobLogs(_) => {
            let report = super::observed::job();
            talk.tell(Event::Job(report.clone())).await;
            let row = LogRow { number: 1, cell: cell.clone(), text: "a line".to_owned() };
            talk.tell(Event::JobLog(row)).await;
            Ok(Reply::Job(Box::new(report)))
        }
        Request::JobLs
        | Request::JobShow(_)
        | Request::JobCancel(_)
        | Request::JobAttach(_)
        | Request::Lists
        | Request::TakeLists(_)
        | Request::Ban(_)
        | Request::Join(_)
        | Request::Status
        | Request::Cells
        | Request::Peers
        | Request::Ping(_)
        | Request::Explain(_)
        | Request::Policy(_)
        | Request::Reload(_)
        | Request::Request(_)
        | Request::Links
        | Request::Routes
        | Request::Stats
        | Request::DeadLetters(_)
        | Request::Metrics
        | Request::Trace(_)
        | Request::Send(_)
        | Request::Inspect
        | Request::Drain
        | Request::Stop => Err(ControlError::status(Status::Forbidden, "that does not go on")),
    }
}

fn ended(other: Fqcn) -> TransferEnd {
    TransferEnd {
        id: "0".repeat(32),
        other,
        file: "/w.bin".to_owned(),
        stored: true,
        size: Some(7),
        digest: Some("ab".repeat(32)),
        elapsed_ms: 3,
        code: None,
        text: None,
    }
}

fn tapped(at: Fqcn, sequence: u64) -> TapRow {
    TapRow {
        at,
        unix: 1_700_000_000,
        verdict: Verdict::Admit,
        code: None,
        rule: Some("rule 1".to_owned()),
        from: Some(name("relay")),
        kind: "request".to_owned(),
        origin: name("relay.site-1"),
        sequence,
        destination: name("server"),
        target: "task/fetch".to_owned(),
        lane: "interactive".to_owned(),
        budget_ms: 5,
        payload_len: 9,
        payload: None,
        missed: 2,
    }
}

fn delivery(number: u64) -> DeliveryRow {
    DeliveryRow {
        number,
        origin: name("relay.site-1"),
        kind: CellKind::Client,
        org: "study".to_owned(),
        target: "task/fetch".to_owned(),
        payload: Payload::Utf8(format!("line {number}")),
        content_type: None,
        headers: None,
        budget_ms: 5,
        expects_reply: true,
    }
}
