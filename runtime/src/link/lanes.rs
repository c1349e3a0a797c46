//! The probe of the child that crosses the lane in both directions: beats flow on a stream of their own,
//! and say nothing of the others.

use std::sync::atomic::Ordering;

use actix::{AsyncContext, Context, Handler, Message};
use cellbus_proto::{
    envelope::{Address, Lane},
    link::{LaneMarks, LaneProbe, LaneVerdict, Phase},
    status::Status,
};

use super::{Link, Role};
use crate::{
    cell::{PingAnswer, PingNeighbour},
    clock,
    conn::CloseCode,
    seam::post,
};

/// What became of a probe.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LaneProbed {
    /// The registration under which it was sent.
    epoch: u64,
    answer: PingAnswer,
}

impl Link {
    fn lane_marks(&self) -> LaneMarks {
        LaneMarks {
            written: self.health.lane_written.load(Ordering::Relaxed),
            read: self.health.lane_read.load(Ordering::Relaxed),
            waits: self.outbox.waits(Lane::Interactive),
            sent: self.connection.stats().sent_bytes,
        }
    }

    fn lane_probe(&mut self) -> Option<(u64, &mut LaneProbe)> {
        match &mut self.role {
            Role::Child(side) => Some(side.lane_probe()),
            Role::Parent(_) => None,
        }
    }

    /// Sends the next probe if it is due.
    pub(super) fn probe_lane(&mut self, ctx: &mut Context<Self>) {
        let (Some(name), Some(incarnation)) = (self.peer_name(), self.peer_incarnation) else {
            return;
        };
        if self.state.phase() != Phase::Active {
            return;
        }
        let (now, marks) = (clock::now(), self.lane_marks());
        let Some((epoch, probe)) = self.lane_probe() else { return };
        if !probe.begin(now, marks) {
            return;
        }
        let ping = PingNeighbour {
            to: Address::exact(name, incarnation),
            lane: Lane::Interactive,
            budget: LaneProbe::PATIENCE,
        };
        let asked = self.cell.send(ping);
        let link = ctx.address();
        actix::spawn(async move {
            let answer = asked.await.unwrap_or(PingAnswer::NotSent);
            // Fails only when the link has ended.
            let _ = post(&link, LaneProbed { epoch, answer });
        });
    }
}

impl Handler<LaneProbed> for Link {
    type Result = ();

    fn handle(&mut self, LaneProbed { epoch, answer }: LaneProbed, _: &mut Context<Self>) {
        let (now, marks, phase) = (clock::now(), self.lane_marks(), self.state.phase());
        let Some((current, probe)) = self.lane_probe() else { return };
        // While the link registers again its lanes wait.
        let same = phase == Phase::Active && current == epoch;
        if !same || answer != PingAnswer::None {
            return probe.settle(now);
        }
        if probe.give_up(now, marks) == LaneVerdict::Busy {
            return;
        }
        self.own.counters.refuse(Status::SlowConsumer);
        tracing::warn!(
            cell = %self.own.name, peer = %self.connection.peer().identity, link = self.id.0,
            code = Status::SlowConsumer.code(), "the lane is stuck, though beats are echoed; link closed"
        );
        self.close(CloseCode::HeartbeatLost, "the lane is stuck");
    }
}
