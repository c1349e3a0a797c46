//! Room in a sink that was full: asked for before the holder is asked for bytes.

use cellbus_proto::{status::Status, transfer::Fetch};

use super::{Engine, Event, Op, SinkError};

/// Bytes that there must be room for before more are asked for.
const PROBE: u64 = 8 << 20;

pub(super) fn is_full(error: &SinkError) -> bool {
    error.status() == Status::StorageFull
}

impl Engine {
    /// Asks the holder. Where the sink was full, only once it has room: what came before that would have been sent for
    /// nothing.
    pub(super) async fn open_if_room(&mut self, fetch: &Fetch) {
        let has_room = fetch.have || !self.sink_error.as_ref().is_some_and(is_full);
        if has_room || self.finds_room(fetch.offset).await {
            self.open(fetch);
        }
    }

    async fn finds_room(&mut self, offset: u64) -> bool {
        let left = self.pull.reference().size.map_or(PROBE, |size| size.saturating_sub(offset));
        self.work.push(Op::Probe { bytes: left.clamp(1, PROBE) });
        loop {
            let event = self.work.next().await;
            if matches!(event, Event::Probed) {
                self.sink_error = None;
                return true;
            }
            let has_failed = matches!(event, Event::Failed(_));
            match event {
                Event::Failed(error) if is_full(&error) => {
                    self.sink_error = Some(error);
                    // As an attempt that came to nothing: the next one is later.
                    self.pull.handle_lost();
                }
                event @ (Event::Opened(_)
                | Event::Rebuilt
                | Event::PartLost
                | Event::Synced(_)
                | Event::Probed
                | Event::Digest(_)
                | Event::Committed
                | Event::Room
                | Event::Failed(_)) => self.handle_sink(event),
            }
            if has_failed {
                return false;
            }
        }
    }
}
