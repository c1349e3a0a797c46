//! What a cell serves and fetches, and what it could go on with.

use cellbus_channels::transfer::{End, FoundPart, Running};

use super::super::controlled::{ControlledCell, millis};
use super::look_at;
use crate::control::{
    ControlError, ListAsk, LocalCode, Reply, TransferRow, TransferRows, TransferState,
};

impl ControlledCell {
    pub(super) async fn list(&self, ask: ListAsk) -> Result<Reply, ControlError> {
        let transfers = self.bus.transfers();
        let mut parts = Vec::new();
        for seen in &ask.directories {
            let directory = look_at(seen, true).await?;
            let found = transfers.parts_in(&directory).await.map_err(|error| {
                ControlError::local(LocalCode::ControlBadRequest, error.to_string())
            })?;
            parts.extend(found);
        }
        let running = transfers.running();
        let is_fetched = |part: &FoundPart| {
            running.iter().any(|row| !row.holds && row.id == part.reference.reference.id)
        };
        let mut rows: Vec<TransferRow> = running.iter().map(running_row).collect();
        let now_ms = self.running.own().wall.unix().saturating_mul(1000);
        rows.extend(
            parts.iter().filter(|part| !is_fetched(part)).map(|part| part_row(part, now_ms)),
        );
        Ok(Reply::Transfers(TransferRows { rows }))
    }
}

fn running_row(running: &Running) -> TransferRow {
    let state = match (running.holds, running.end) {
        (false, _) => TransferState::Fetches,
        (true, None) => TransferState::Serves,
        (true, Some(End::Stored { .. })) => TransferState::Stored,
        (true, Some(End::Failed(_) | End::Missing)) => TransferState::Failed,
    };
    TransferRow {
        id: running.id.to_string(),
        state,
        other: running.other.clone(),
        target: running.target.to_string(),
        file: None,
        bytes: running.progress.map_or(0, |progress| progress.bytes),
        size: running.progress.and_then(|progress| progress.size),
        age_ms: millis(running.age),
    }
}

fn part_row(part: &FoundPart, now_ms: u64) -> TransferRow {
    let reference = &part.reference.reference;
    TransferRow {
        id: reference.id.to_string(),
        state: TransferState::Interrupted,
        other: Some(reference.holder.clone()),
        target: reference.target.to_string(),
        file: Some(part.target.display().to_string()),
        bytes: part.durable,
        size: reference.content_size(),
        age_ms: now_ms.saturating_sub(reference.unix_ms),
    }
}
