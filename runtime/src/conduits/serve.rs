//! A conduit that ends here: the handler's answer, and then what it does with the bytes.

use std::{future::poll_fn, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use cellbus_channels::{
    Broken, Conduit, ConduitSend, Delivery, Origin,
    conduit::{self, Accepted, ConduitHandler, Serve},
};
use cellbus_proto::{
    admission::{Admitted, Verified},
    envelope::{Envelope, Extras, Flags, Header, Kind},
    route::Hop,
    status::Status,
};
use futures_util::FutureExt;

use super::{
    Arrived, Asked, Tie,
    answer::{give_back, write_answer},
    answered::Answered,
    tied::{Side, tied},
};
use crate::{clock, filter::JudgeConduitAnswer, own::Own};

/// What a request was refused with.
pub(super) type Refusal = (Status, Bytes);

/// Answers a conduit that came by a link, and runs what follows.
pub(super) async fn serve(arrived: Arrived, admitted: Admitted, tie: Arc<Tie>) {
    let Arrived { own, filter, link, stream, conduit, rest } = arrived;
    let hop = Hop::Link(link);
    let request = admitted.header().clone();
    let (mut send, recv) = tied(stream, rest, &tie, Side::Up, Broken::Cancelled);
    let decided = tokio::select! {
        biased;
        decided = decide(&own, admitted, conduit.data) => decided,
        // Nobody waits any more.
        _ = poll_fn(|cx| send.poll_broken(cx)) => return,
    };
    let (answer, serve) = match decided {
        Ok(decided) => decided,
        Err((status, detail)) => {
            return give_back(&own, &filter, &mut send, &request, hop, status, detail).await;
        }
    };
    let judge =
        JudgeConduitAnswer { from: Hop::Local, answer, asked: Asked::of(&request), to: hop };
    let Ok(Ok(answer)) = filter.send(judge).await else { return };
    if write_answer(&own, &mut send, *answer).await.is_err() {
        return;
    }
    let send = Box::new(Answered::new(send));
    let running = run(&own, serve, Conduit { send, recv: Box::new(recv) });
    match conduit.data {
        true => tie.while_it_moves(running).await,
        // Its bytes come from a relay on the way, which breaks it off where it stands still.
        false => running.await,
    }
}

/// Runs what follows an answer. A panic ends this conduit only.
pub(super) async fn run(own: &Own, serve: Serve, conduit: Conduit) {
    let served = AssertUnwindSafe(async { serve(conduit).await }).catch_unwind().await;
    if served.is_err() {
        own.counters.refuse(Status::HandlerPanic);
        tracing::warn!(
            cell = %own.name, code = Status::HandlerPanic.code(), "what served a conduit panicked"
        );
    }
}

/// Has the cell's handler decide on a request that the filter let in; the answer is not yet let out.
pub(super) async fn decide(
    own: &Arc<Own>,
    admitted: Admitted,
    wants_data: bool,
) -> Result<(Envelope, Serve), Refusal> {
    own.counters.deliver();
    let request = admitted.header().clone();
    let decided = ask(own, admitted, wants_data).await;
    if let Err((status, _)) = &decided {
        own.counters.refuse(*status);
        tracing::info!(
            cell = %own.name, code = status.code(), origin = %request.origin.name,
            target = %request.target, "conduit refused"
        );
    }
    let Accepted { reply, serve, is_sealed, returned: _ } = decided?;
    let is_printable = |text: &Arc<str>| {
        text.len() <= Extras::CONTENT_TYPE_MAX && text.bytes().all(|b| (0x20..0x7f).contains(&b))
    };
    let payload_max = own.conduits.bounds().map_or(0, |bounds| bounds.payload_max);
    if reply.payload.len() > payload_max || !reply.content_type.as_ref().is_none_or(is_printable) {
        return Err((Status::HandlerFailed, Bytes::from_static(b"the reply is none")));
    }
    let kind = Kind::Reply { to: request.sequence };
    let header = own.answer(&request, kind);
    let mut header: Header = header.ok_or((Status::HandlerFailed, Bytes::new()))?;
    if is_sealed && request.flags.contains(Flags::SEALED) {
        header.flags = header.flags.with(Flags::SEALED);
    }
    if reply.content_type.is_some() {
        header.extras.get_or_insert_default().content_type = reply.content_type;
    }
    Ok((Envelope { header, payload: reply.payload }, serve))
}

async fn ask(own: &Arc<Own>, admitted: Admitted, wants_data: bool) -> Result<Accepted, Refusal> {
    let refused = |status: Status| (status, Bytes::new());
    let meant = admitted.header().destination.incarnation;
    if meant.is_some_and(|meant| meant != own.incarnation) {
        return Err(refused(Status::PeerRestarted));
    }
    let budget_ms =
        admitted.budget_left(clock::now()).ok_or_else(|| refused(Status::ExpiredInQueue))?;
    let budget = Duration::from_millis(budget_ms.into());
    let handler: Arc<dyn ConduitHandler> =
        own.conduits.handler().ok_or_else(|| refused(Status::NoHandler))?;
    let Verified::Claims(claims) = admitted.verified().clone() else {
        return Err(refused(Status::NoToken));
    };
    let Envelope { header, payload } = admitted.into_envelope();
    let is_marked = header.flags.contains(Flags::SEALED);
    let origin = Origin {
        name: claims.subject.clone(),
        kind: claims.kind,
        org: claims.org.clone(),
        job: claims.job.clone(),
    };
    let mut delivery = Delivery::new(origin, header.target.clone(), payload);
    delivery.content_type = header.content_type().cloned();
    if let Some(extras) = &header.extras {
        delivery.headers = extras.headers.clone();
    }
    delivery.budget = budget;
    let work = conduit::decide(&*handler, &own.filters, delivery, wants_data);
    let decided = tokio::time::timeout(budget, work).await;
    let accepted = decided.unwrap_or_else(|_elapsed| Err(refused(Status::Deadline)))?;
    // Cells on the way have taken the mark for it.
    if is_marked && !accepted.is_sealed {
        return Err(refused(Status::NotSealed));
    }
    Ok(accepted)
}
