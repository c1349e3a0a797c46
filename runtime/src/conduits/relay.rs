//! A conduit that passes through: the request to the next hop, the answer back, and then bytes both ways,
//! which are not looked at.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use cellbus_channels::{Broken, ConduitRecv, ConduitSend};
use cellbus_proto::{
    admission::Admitted,
    codec::body,
    envelope::{Envelope, Header, Kind},
    route::Hop,
    status::Status,
};

use super::{
    Arrived, Asked, Tie,
    answer::{Queued, give_back, write_answer},
    head::{self, HeadError},
    share::{self, Way},
    tied::{Side, TiedRecv, TiedSend, tied},
};
use crate::{
    cell::GRACE,
    clock,
    conn::{RecvStream, SendStream},
    filter::{JudgeConduitAnswer, Onward},
    link::LinkConduits,
    own::Own,
};

/// Both halves of a stream to a neighbour.
pub(super) type Ends = (TiedSend, TiedRecv);

/// Takes a conduit to its next hop and back, until both directions have ended.
pub(super) async fn relay(arrived: Arrived, onward: Onward) {
    let Arrived { own, filter, link, stream, conduit, rest } = arrived;
    let Onward { admitted, via, tie } = onward;
    let request = Header { extras: None, ..admitted.header().clone() };
    let hop = Hop::Link(link);
    // Whoever loses this cell has lost a cell on the way.
    let (mut up_send, up_recv) = tied(stream, rest, &tie, Side::Up, Broken::Lost);
    let mut reading = None;
    let passed = async {
        let queued = Queued::new(&own);
        let mut conduit = conduit;
        let budget = Duration::from_millis(request.budget_ms.into());
        let opening =
            share::open(&own.conduits.shares, admitted.envelope(), &mut conduit, tie.number);
        // Whoever asked first has not been answered in time.
        let Ok(shared) = tokio::time::timeout(budget, opening).await else {
            queued.refuse(Status::Overloaded);
            return Err(Status::Overloaded);
        };
        reading = shared;
        let (stream, answer, rest) = pass(&own, admitted, queued, conduit, &via, &tie).await?;
        let asked = Asked::of(&request);
        let judge = JudgeConduitAnswer { from: Hop::Link(via.id()), answer, asked, to: hop };
        match filter.send(judge).await {
            Ok(Ok(answer)) => Ok((stream, *answer, rest)),
            // Refused, counted and logged there: for whoever asks there is no answer.
            Ok(Err(_)) | Err(_) => Err(Status::PeerLost),
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = passed => outcome,
        // Nobody waits any more.
        _ = poll_fn(|cx| up_send.poll_broken(cx)) => return,
    };
    match outcome {
        Ok((stream, answer, rest)) => {
            let is_reply = matches!(answer.header().kind, Kind::Reply { .. });
            let way = is_reply.then(|| match reading {
                Some(reading) => reading.answered(answer.envelope()),
                None => Way::Plain,
            });
            let down = tied(stream, rest, &tie, Side::Down, Broken::Lost);
            if write_answer(&own, &mut up_send, answer).await.is_err() {
                return;
            }
            let up = (up_send, up_recv);
            let carried = async {
                match way {
                    None => finish(up),
                    Some(Way::Plain) => pump(up, down).await,
                    Some(Way::Lead(reading, filling)) => {
                        share::lead(reading, filling, up, down).await;
                    }
                    Some(Way::Follow(reading, spool, at)) => {
                        share::follow(reading, spool, at, up, down).await;
                    }
                    // As if a link were lost: whoever asks comes again.
                    Some(Way::Cut) => {}
                }
            };
            match conduit.data {
                true => tie.while_it_moves(carried).await,
                // Its bytes come from a relay before this one, which breaks it off where it stands still.
                false => carried.await,
            }
        }
        Err(status) => {
            let nothing = Bytes::new();
            give_back(&own, &filter, &mut up_send, &request, hop, status, nothing).await;
        }
    }
}

/// The answer was the last word.
fn finish((mut up_send, _up_recv): Ends) {
    up_send.finish();
}

/// Sends an admitted request by `via` and waits for its answer, within its budget.
pub(super) async fn pass(
    own: &Arc<Own>,
    admitted: Admitted,
    queued: Queued<'_>,
    conduit: body::Conduit,
    via: &LinkConduits,
    tie: &Tie,
) -> Result<((SendStream, RecvStream), Envelope, Bytes), Status> {
    let Some(budget_ms) = admitted.budget_left(clock::now()) else {
        queued.refuse(Status::ExpiredInQueue);
        return Err(Status::ExpiredInQueue);
    };
    let deadline = tokio::time::Instant::now() + Duration::from_millis(budget_ms.into());
    let opened = tokio::time::timeout_at(deadline, via.open(conduit.priority)).await;
    let mut stream = match opened {
        Ok(Ok((stream, permit))) => {
            tie.keep(permit);
            stream
        }
        Ok(Err(status)) => {
            queued.refuse(status);
            via.refused(status, &admitted);
            return Err(status);
        }
        Err(_elapsed) => {
            queued.refuse(Status::Overloaded);
            via.refused(Status::Overloaded, &admitted);
            return Err(Status::Overloaded);
        }
    };
    stream.0.reset_when_dropped(Broken::Cancelled);
    let Some(budget_ms) = admitted.budget_left(clock::now()) else {
        queued.refuse(Status::ExpiredInQueue);
        return Err(Status::ExpiredInQueue);
    };
    let exchange = async {
        let written =
            head::write(&mut stream.0, Some(conduit), admitted.envelope(), budget_ms).await;
        queued.end(written.is_ok());
        written.map_err(|_broken| HeadError::Broken)?;
        via.count_sent();
        head::read_answer(&mut stream.1, via.limits(), &own.counters).await
    };
    match tokio::time::timeout_at(deadline + GRACE, exchange).await {
        Ok(Ok((answer, rest))) => {
            via.count_received();
            Ok((stream, answer, rest))
        }
        Ok(Err(HeadError::Broken)) => Err(Status::PeerLost),
        Ok(Err(HeadError::Wrong(error))) => {
            via.is_wrong(error);
            Err(Status::PeerLost)
        }
        Err(_elapsed) => Err(Status::Deadline),
    }
}

/// Carries bytes both ways until both directions have ended or broken.
pub(super) async fn pump((up_send, up_recv): Ends, (down_send, down_recv): Ends) {
    futures_util::future::join(carry(up_recv, down_send), carry(down_recv, up_send)).await;
}

/// Carries bytes one way; how that ends travels on.
pub(super) async fn carry(mut from: TiedRecv, mut to: TiedSend) {
    let mut read = Vec::new();
    let mut chunks = VecDeque::new();
    loop {
        let next = poll_fn(|cx| match from.poll_chunks(cx, &mut read) {
            Poll::Ready(read) => Poll::Ready(Ok(read)),
            // While nothing comes, whoever reads may want no more.
            Poll::Pending => to.poll_broken(cx).map(Err),
        });
        match next.await {
            Ok(Ok(true)) => {
                chunks.extend(read.drain(..));
                if let Err(broken) = poll_fn(|cx| to.poll_write(cx, &mut chunks)).await {
                    return from.stop_with(broken);
                }
            }
            Ok(Ok(false)) => return to.finish(),
            Ok(Err(broken)) => return to.reset_with(broken),
            Err(broken) => return from.stop_with(broken),
        }
    }
}
