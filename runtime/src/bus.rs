//! A cell of this process as a transport of the bus.

use std::sync::Arc;

use actix::Addr;
use cellbus_channels::{
    BoxFuture, HandleError, Handler, Outgoing, PublishError, Reply, RequestError, Selector,
    Transport,
};
use cellbus_proto::name::Fqcn;
use tokio::sync::{oneshot, watch};

use crate::{
    cell::{Ask, Cell, CellState, GiveUp, HandlerTable, Submit},
    own::Own,
    seam::post,
};

/// Carries the messages of a bus through a cell of this process.
#[derive(Debug)]
pub(crate) struct CellTransport {
    pub(crate) own: Arc<Own>,
    pub(crate) cell: watch::Receiver<Option<Addr<Cell>>>,
    pub(crate) handlers: HandlerTable,
    pub(crate) state: watch::Receiver<CellState>,
}

/// Tells the cell when nobody waits for a request any more.
struct Waiting {
    cell: Addr<Cell>,
    sequence: u64,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.done {
            // Fails only when the cell has ended, and the request with it.
            let _ = post(&self.cell, GiveUp(self.sequence));
        }
    }
}

impl CellTransport {
    fn current(&self) -> Option<Addr<Cell>> {
        self.cell.borrow().clone()
    }
}

impl Transport for CellTransport {
    fn name(&self) -> Fqcn {
        self.own.name.clone()
    }

    fn request(&self, outgoing: Outgoing) -> BoxFuture<Result<Reply, RequestError>> {
        let Some(cell) = self.current() else {
            return Box::pin(std::future::ready(Err(RequestError::Closed)));
        };
        let sequence = self.own.next_sequence();
        Box::pin(async move {
            let (answer, result) = oneshot::channel();
            if post(&cell, Ask { sequence, outgoing, answer }).is_err() {
                return Err(RequestError::Closed);
            }
            let mut waiting = Waiting { cell, sequence, done: false };
            let outcome = result.await.unwrap_or(Err(RequestError::Closed));
            waiting.done = true;
            outcome
        })
    }

    fn publish(&self, outgoing: Outgoing) -> BoxFuture<Result<(), PublishError>> {
        let (cell, by) = (self.current(), self.own.name.clone());
        Box::pin(async move {
            let cell = cell.ok_or(PublishError::Closed)?;
            let taken = cell.send(Submit(outgoing)).await.map_err(|_| PublishError::Closed)?;
            taken.map_err(|status| PublishError::Refused { by, status })
        })
    }

    fn register(
        &self,
        selector: Selector,
        handler: Arc<dyn Handler>,
    ) -> BoxFuture<Result<(), HandleError>> {
        let outcome = self.handlers.add(selector, handler);
        Box::pin(std::future::ready(outcome))
    }

    fn closed(&self) -> BoxFuture<()> {
        let mut state = self.state.clone();
        Box::pin(async move {
            // Ends also when the cell is gone without saying so.
            let _ = state.wait_for(|state| *state == CellState::Stopped).await;
        })
    }
}
