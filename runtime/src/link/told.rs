//! What a link is told, by its readers, its filter, its cell and its connection, and what it does then.

use std::{sync::Arc, time::Duration};

use actix::{ActorContext, AsyncContext, Handler, Message};
use cellbus_proto::{
    admission::Admitted,
    codec::{CodecError, Frame, body::Drain},
    identity::CellKind,
    link::{Input, Phase, Side},
    status::Status,
    well_known::{self, SystemTopic},
};

use super::{Link, LinkEnd};
use crate::{
    conn::{CloseCode, End},
    filter::RemovePeer,
    seam::post,
    tls::root_of,
};

/// A challenge, register or bye that the filter let in.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Exempted {
    /// Which of the three.
    pub topic: SystemTopic,
    /// The message.
    pub admitted: Admitted,
}

/// The neighbour sent what its turn did not allow; the connection ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Misbehaved(pub Status);

/// Other authorities count from now on: the neighbour's certificate is looked at again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CheckTrust;

/// What others want of a link.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum Say {
    /// Tell the neighbour that this cell takes no new requests.
    Drain,
    /// Say bye and close.
    Bye,
    /// Close, with this code and text.
    Close(CloseCode, &'static str),
}

/// A control frame has been read.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Control(pub(super) Frame);

/// A stream cannot be read on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Unreadable(pub(super) CodecError);

/// The neighbour has opened a lane stream.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LaneAccepted;

/// What waited on the lanes has arrived.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LanesEnded;

/// The connection has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Ended(pub(super) End);

impl Handler<Control> for Link {
    type Result = ();

    fn handle(&mut self, Control(frame): Control, ctx: &mut Self::Context) {
        if !self.filter.connected() {
            // The cell knows, and closes, only the links that were registered with it.
            return self.close(CloseCode::Later, "the cell has ended");
        }
        self.handle_frame(frame, ctx);
        self.arm_timer(ctx);
    }
}

impl Handler<Exempted> for Link {
    type Result = ();

    fn handle(&mut self, Exempted { topic, admitted }: Exempted, ctx: &mut Self::Context) {
        let input = match topic {
            well_known::CHALLENGE => Input::Challenge,
            well_known::REGISTER => Input::Register,
            _ => Input::Bye,
        };
        // The gate saw the link as it was when the message came; it may have moved on since.
        if let Err(out_of_turn) = self.state.handle_input(input) {
            return self.close_for(out_of_turn.status(), &out_of_turn.to_string());
        }
        self.health.hear();
        let envelope = admitted.into_envelope();
        let sequence = envelope.header.sequence;
        match topic {
            well_known::CHALLENGE => self.handle_challenge(sequence, ctx),
            well_known::REGISTER => self.handle_register(sequence, &envelope.payload, ctx),
            _ => self.handle_bye(sequence),
        }
        self.arm_timer(ctx);
    }
}

impl Handler<Misbehaved> for Link {
    type Result = ();

    fn handle(&mut self, Misbehaved(status): Misbehaved, _: &mut Self::Context) {
        // Counted by the filter already.
        if self.state.phase() != Phase::Closed {
            tracing::warn!(
                cell = %self.own.name, peer = %self.connection.peer().identity, link = self.id.0,
                code = status.code(), "link closed"
            );
            self.close(
                CloseCode::Unauthenticated,
                crate::filter::parting_word(status, self.was_active),
            );
        }
    }
}

impl Handler<CheckTrust> for Link {
    type Result = ();

    fn handle(&mut self, _: CheckTrust, _: &mut Self::Context) {
        let peer = Arc::clone(&self.connection.peer());
        let counts = peer.identity.kind == CellKind::Job
            || root_of(&self.own.roots, &peer.chain, self.own.wall.unix()).is_some();
        if !counts && self.state.phase() != Phase::Closed {
            self.close_for(Status::CertRevoked, "the authority of the certificate counts no more");
        }
    }
}

impl Handler<Unreadable> for Link {
    type Result = ();

    fn handle(&mut self, Unreadable(error): Unreadable, _: &mut Self::Context) {
        if self.bye.is_some() {
            // Who was told bye goes away too: its streams can end before its connection does.
            return self.close(CloseCode::Done, "bye");
        }
        self.close_for(error.status, error.what);
    }
}

impl Handler<LaneAccepted> for Link {
    type Result = ();

    fn handle(&mut self, _: LaneAccepted, _: &mut Self::Context) {
        // A parent may open its lanes before its answer to the registration has been read here; a child
        // that is not registered has nothing to send.
        if self.side() == Side::Parent && !self.was_active {
            self.close_for(Status::NoHello, "a lane before the registration");
        }
    }
}

impl Handler<LanesEnded> for Link {
    type Result = ();

    fn handle(&mut self, _: LanesEnded, ctx: &mut Self::Context) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let Some((sequence, frame)) = self.exempt_request(well_known::BYE, bytes::Bytes::new())
        else {
            return self.close(CloseCode::Done, "bye");
        };
        self.bye = Some(sequence);
        self.send(frame);
        ctx.run_later(PATIENCE, |link, _| link.close(CloseCode::Done, "bye"));
    }
}

impl Handler<Say> for Link {
    type Result = ();

    fn handle(&mut self, say: Say, ctx: &mut Self::Context) {
        match say {
            Say::Drain => {
                const COME_BACK_MS: u32 = 2000;
                if self.state.phase().carries_messages() {
                    self.send(Frame::Drain(Drain { retry_after_ms: COME_BACK_MS }));
                }
            }
            Say::Bye => self.say_bye(ctx),
            Say::Close(code, reason) => self.close(code, reason),
        }
    }
}

impl Handler<Ended> for Link {
    type Result = ();

    fn handle(&mut self, Ended(end): Ended, ctx: &mut Self::Context) {
        let was_active = self.was_active;
        self.state.enter_closed();
        self.leave(self.was_meant(&end));
        self.withdraw();
        if post(&self.filter, RemovePeer(self.id)).is_err() {
            tracing::debug!(link = self.id.0, "the filter has ended");
        }
        self.forget_challenge();
        let refused = self.refusal();
        if let Some(ended) = self.ended.take() {
            // Nobody may wait any more.
            let _ = ended.send(LinkEnd { was_active, end, refused });
        }
        ctx.stop();
    }
}
