//! The figures of all cells of a process.

use std::sync::{Arc, Mutex, PoisonError};

use cellbus_channels::BoxFuture;

use super::controlled::ControlledCell;
use crate::{control::StatsReply, metrics::Figures};

/// The cells of a process, as far as they have been started.
#[derive(Clone, Default)]
pub(super) struct AllFigures(Arc<Mutex<Vec<ControlledCell>>>);

impl AllFigures {
    /// Adds a cell.
    pub(super) fn add(&self, cell: ControlledCell) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    }
}

impl Figures for AllFigures {
    fn figures(&self) -> BoxFuture<Vec<StatsReply>> {
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let mut figures = Vec::new();
            for cell in cells {
                // One that has ended has none.
                figures.extend(cell.figures().await.ok());
            }
            figures
        })
    }
}
