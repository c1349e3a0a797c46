//! What a running cell tells about itself.

use actix::{Handler, Message, MessageResult};
use cellbus_proto::route::LinkId;
use serde::Serialize;

use super::{Cell, registrar};
use crate::{clock, counters::CounterReport, tls::root_of};

/// Asks a cell for its report.
#[derive(Debug, Message)]
#[rtype(result = "InspectReport")]
pub struct InspectCell;

/// The report of one cell.
#[derive(Clone, Debug, Serialize)]
pub struct InspectReport {
    /// Full name.
    pub cell: String,
    /// Kind.
    pub kind: String,
    /// Project.
    pub project: String,
    /// Counter and nonce of this start.
    pub incarnation: String,
    /// Where it is in its life.
    pub state: &'static str,
    /// How often it has registered.
    pub epoch: u64,
    /// Full name of the parent.
    pub parent: Option<String>,
    /// Its links.
    pub links: Vec<LinkReport>,
    /// SHA-256 of the root that vouches for its certificate, in hexadecimal digits.
    pub root: Option<String>,
    /// The cells that are registered with it.
    pub registered: Vec<PeerReport>,
    /// Requests of its own that are outstanding.
    pub outstanding: usize,
    /// Messages that its handlers are working on.
    pub handling: usize,
    /// Conduits that run through it, or begin or end here.
    pub conduits: usize,
    /// What it has handlers for.
    pub handlers: Vec<String>,
    /// What it has counted.
    pub counters: CounterReport,
    /// Accepted messages that are nowhere; zero at rest.
    pub missing: i64,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct LinkReport {
    /// Number of the link in this process.
    pub link: u64,
    /// Who is at the other end.
    pub peer: String,
    /// Its kind.
    pub kind: String,
    /// Its organisation.
    pub org: String,
    /// Whether it is the parent.
    pub is_parent: bool,
    /// Counter and nonce of the other end's start.
    pub incarnation: String,
    /// Round trip of the last beat, or of the transport, in microseconds.
    pub rtt_us: u64,
    /// Bytes of datagrams sent.
    pub sent_bytes: u64,
    /// Bytes of datagrams received.
    pub received_bytes: u64,
    /// Messages written to it.
    pub sent_messages: u64,
    /// Messages read from it.
    pub received_messages: u64,
    /// Packets declared lost.
    pub lost_packets: u64,
    /// Largest datagram in use.
    pub mtu: u16,
    /// How often datagrams of that size no longer arrived, and became the smallest for a minute.
    pub black_holes: u64,
    /// Bytes that wait in the outbox.
    pub queued_bytes: usize,
    /// The same for each lane: control, interactive, bulk.
    pub queued_by_lane: [usize; 3],
    /// Age of the link in milliseconds.
    pub since_ms: u64,
    /// End of the other end's certificate, in seconds since 1970.
    pub cert_expires_unix: u64,
}

/// One registered cell.
#[derive(Clone, Debug, Serialize)]
pub struct PeerReport {
    /// Full name.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Organisation.
    pub org: String,
    /// The parent behind which it registered.
    pub via: String,
    /// Whether it is a direct child.
    pub direct: bool,
    /// SHA-256 of the root that vouches for its certificate, in hexadecimal digits; the server alone knows it.
    pub root: Option<String>,
    /// Counter and nonce of its start.
    pub incarnation: String,
    /// Age of the registration in milliseconds.
    pub since_ms: u64,
}

impl Cell {
    fn link_report(&self, id: LinkId, info: &super::LinkInfo) -> LinkReport {
        let stats = info.health.carrier();
        let (sent_messages, received_messages) = info.health.messages();
        LinkReport {
            link: id.0,
            peer: info.name.to_string(),
            kind: info.kind.to_string(),
            org: info.health.org(),
            is_parent: info.is_parent,
            incarnation: format!("{}-{:016x}", info.incarnation.counter, info.incarnation.nonce),
            rtt_us: info.health.rtt_us().unwrap_or(stats.rtt_us),
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
            sent_messages,
            received_messages,
            lost_packets: stats.lost_packets,
            mtu: stats.mtu,
            black_holes: stats.black_holes,
            queued_bytes: info.outbox.bytes(),
            queued_by_lane: info.outbox.bytes_by_lane(),
            since_ms: u64::try_from(clock::now().saturating_duration_since(info.since).as_millis())
                .unwrap_or(u64::MAX),
            cert_expires_unix: info.health.cert_expires_unix(),
        }
    }
}

impl Handler<InspectCell> for Cell {
    type Result = MessageResult<InspectCell>;

    fn handle(&mut self, _: InspectCell, _: &mut Self::Context) -> Self::Result {
        let counters = self.own.counters.report();
        MessageResult(InspectReport {
            cell: self.own.name.to_string(),
            kind: self.own.kind().to_string(),
            project: self.own.identity.project.to_string(),
            incarnation: format!(
                "{}-{:016x}",
                self.own.incarnation.counter, self.own.incarnation.nonce
            ),
            state: self.state.borrow().as_str(),
            epoch: self.own.epoch(),
            parent: self.own.parent.as_ref().map(ToString::to_string),
            links: self.links.iter().map(|(id, info)| self.link_report(*id, info)).collect(),
            registered: registrar::rows(&self.registry, &self.own),
            root: root_of(&self.own.roots, self.own.certificate().chain(), self.own.wall.unix())
                .map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            outstanding: self.outstanding(),
            handling: self.handlers.running(),
            conduits: self.own.conduits.len(),
            handlers: self.handlers.selectors(),
            missing: counters.missing(),
            counters,
        })
    }
}
