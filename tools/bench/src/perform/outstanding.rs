//! What requests take up while nobody has answered them.

use std::time::Duration;

use super::{MIB, PerformError, START_SIZE, Stage};
use crate::{
    accounts,
    message::{Ask, Tell},
    row::Row,
    scene::Part,
};

impl Stage {
    /// Memory of both ends before `count` requests and while none of them has been answered.
    pub(super) async fn outstanding(&mut self, count: u32) -> Result<Row, PerformError> {
        let to = self.scene.to.first().cloned().unwrap_or_default();
        // The first message of a link brings tables into being that are not those of a request.
        let caller = self.process(Part::Caller)?;
        caller.ask(&Ask::Once { to: to.clone(), size: START_SIZE }).await?;
        caller.hear(Duration::ZERO, Tell::driven).await?;
        let before = self.resident()?;
        let begun = self.begin()?;
        let caller = self.process(Part::Caller)?;
        caller.ask(&Ask::Wait { to, size: START_SIZE, count }).await?;
        let server = self.process(Part::Server)?;
        server.ask(&Ask::Holding { count }).await?;
        server.hear(Duration::ZERO, Tell::begun).await?;
        let after = self.resident()?;
        let server = self.process(Part::Server)?;
        server.ask(&Ask::Release).await?;
        server.hear(Duration::ZERO, Tell::begun).await?;
        let caller = self.process(Part::Caller)?;
        let driven = caller.hear(Duration::ZERO, Tell::driven).await?;
        let mut row = self.close(&begun)?;
        let grown = |(before, after): (&u64, &u64)| after.saturating_sub(*before);
        let grown: Vec<u64> = before.iter().zip(&after).map(grown).collect();
        #[expect(clippy::cast_precision_loss, reason = "memory is less than 2^53 bytes")]
        for (side, grown) in row.sides.iter_mut().zip(&grown) {
            side.growth_mib = Some(*grown as f64 / MIB);
        }
        #[expect(clippy::cast_precision_loss, reason = "memory is less than 2^53 bytes")]
        let all = grown.iter().sum::<u64>() as f64 / 1024.0;
        Ok(Row {
            kib_per_request: Some(all / f64::from(count)),
            done: driven.done,
            window_s: Duration::from_nanos(driven.window_ns).as_secs_f64(),
            failed: driven.failed,
            why: driven.why,
            ..row
        })
    }

    fn resident(&self) -> std::io::Result<Vec<u64>> {
        self.pids().into_iter().map(accounts::resident).collect()
    }
}
