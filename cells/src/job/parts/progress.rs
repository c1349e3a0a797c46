//! What job cells say about how far their programs are.

use cellbus_channels::{Delivery, Failure, Reply, from_fn};
use cellbus_proto::{
    codec::body,
    job::PartProgress,
    name::{Fqcn, Segment},
    status::Status,
};

use super::Parts;
use crate::programs::progress::target;

impl Parts {
    /// Hears from now on what the job cells of this cell say, and nobody else.
    pub(super) fn hear_progress(&self) {
        let parts = self.clone();
        let handler = from_fn(move |delivery: Delivery| {
            let said = body::decode_exact::<PartProgress>(&delivery.payload);
            let heard = said.map_err(|error| Failure::from(error.status)).and_then(|said| {
                let is_known = parts.note_progress(&delivery.origin.name, said.tidy());
                is_known.then(Reply::default).ok_or(Failure::Refused(Status::Forbidden))
            });
            async move { heard }
        });
        let bus = self.inner.running.bus();
        tokio::spawn(async move {
            if let Err(error) = bus.handle(target(), handler).await {
                tracing::error!(%error, "how far programs are is not heard");
            }
        });
    }

    fn note_progress(&self, cell: &Fqcn, said: PartProgress) -> bool {
        let own = &self.inner.own.name;
        let mut table = self.table();
        let is_its = |job: &Segment| own.child(job).is_ok_and(|name| name == *cell);
        let entry =
            table.entries.iter_mut().find(|(job, entry)| entry.end.is_none() && is_its(job));
        let Some((_, entry)) = entry else { return false };
        if entry.progress.as_ref() != Some(&said) {
            entry.progress = Some(said);
            drop(table);
            self.change();
        }
        true
    }
}
