//! Telling job code what happens around its cell.

use std::sync::Arc;

use bytes::Bytes;
use cellbus_channels::{Event, JobChange, local::outbox::Closed};
use cellbus_proto::local::{self, DETAIL_MAX, EventKind, ToJob};

use super::{act::End, link::Link};

/// Sends every event until the bus is closed. Those that job code reads too slowly are left out, and counted,
/// by the stream that they come from.
pub(super) async fn events(link: Arc<Link>, id: u64) -> End {
    let mut events = link.bus.events();
    while let Some(event) = events.next().await {
        let Some(event) = to_wire(id, event) else { continue };
        if link.part(id, ToJob::Event(event), None).await == Err(Closed) {
            break;
        }
    }
    End::new(ToJob::End { id })
}

/// `None` for what this version of the protocol has no number for.
fn to_wire(id: u64, event: Event) -> Option<local::Event> {
    let of =
        |kind, cell| local::Event { id, kind, cell: Some(cell), missed: 0, detail: Bytes::new() };
    Some(match event {
        Event::LinkUp(cell) => of(EventKind::LinkUp, cell),
        Event::LinkDown(cell) => of(EventKind::LinkDown, cell),
        Event::CellUp(cell) => of(EventKind::CellUp, cell),
        Event::CellDown(cell) => of(EventKind::CellDown, cell),
        Event::Job { cell, change: JobChange::Started } => of(EventKind::JobStarted, cell),
        Event::Job { cell, change: JobChange::Completed } => of(EventKind::JobCompleted, cell),
        Event::Job { cell, change: JobChange::Failed(mut how) } => {
            how.truncate(how.floor_char_boundary(DETAIL_MAX));
            local::Event { detail: how.into(), ..of(EventKind::JobFailed, cell) }
        }
        Event::Lagged(missed) => {
            local::Event { id, kind: EventKind::Lagged, cell: None, missed, detail: Bytes::new() }
        }
        Event::Job { .. } | _ => return None,
    })
}
