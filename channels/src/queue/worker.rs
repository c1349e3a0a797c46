//! The task of a queue: fills batches and sends them, a few at a time.

use cellbus_proto::name::Fqcn;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Settings, Work,
    batch::{Batch, Item},
};
use crate::bus::Bus;

/// Runs until every clone of the queue is gone and everything has its outcome.
pub(super) async fn run(
    bus: Bus,
    to: Fqcn,
    settings: Settings,
    mut work: mpsc::UnboundedReceiver<Work>,
) {
    let mut sending = FuturesUnordered::new();
    let mut batch = Batch::default();
    // What did not fit; the batch before it goes first.
    let mut next: Option<Item> = None;
    let mut due = Instant::now();
    let mut open = true;
    while open || next.is_some() || !batch.is_empty() || !sending.is_empty() {
        let may_send = sending.len() < settings.in_flight;
        let is_ready = batch.is_full(&settings) || next.is_some() || !open;
        if may_send && is_ready && !batch.is_empty() {
            sending.push(std::mem::take(&mut batch).send(bus.clone(), to.clone()));
            if let Some(item) = next.take() {
                batch.push(item);
                due = Instant::now() + settings.linger;
            }
            continue;
        }
        tokio::select! {
            biased;
            Some(()) = sending.next() => {}
            () = sleep_until(due), if may_send && !batch.is_empty() => {
                sending.push(std::mem::take(&mut batch).send(bus.clone(), to.clone()));
            }
            given = work.recv(), if open && next.is_none() && !batch.is_full(&settings) => {
                match given {
                    Some(Work::Item(item)) if batch.takes(&item, &settings) => {
                        if batch.is_empty() {
                            due = Instant::now() + settings.linger;
                        }
                        batch.push(item);
                    }
                    Some(Work::Item(item)) => next = Some(item),
                    Some(Work::Flush) => due = Instant::now(),
                    None => open = false,
                }
            }
        }
    }
}
