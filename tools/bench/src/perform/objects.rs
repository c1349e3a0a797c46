//! Measurements that move objects: what they take, and what every process grows by.

use std::{collections::BTreeMap, time::Duration};

use super::{MIB, PerformError, Setting, Stage, with_driven};
use crate::{
    accounts::{self, Accounts},
    measure::{Keep, Measure, Route},
    message::{Ask, ObjectAsk, Tell},
    row::{Row, Side},
    scene::Part,
};

/// Time for a gigabyte to be made, sent or hashed on a machine that is busy, beyond the patience that everything has.
const SLOW: Duration = Duration::from_secs(480);

/// What the server has sent.
#[derive(Clone, Copy)]
struct Account {
    wire: u64,
    written: u64,
}

impl Stage {
    /// One holder, one receiver.
    pub(super) async fn bulk(
        &mut self,
        measure: Measure,
        size: u64,
        keep: Keep,
        setting: Setting<'_>,
    ) -> Result<Row, PerformError> {
        let holder = if measure.route == Route::Forward { Part::Sink } else { Part::Server };
        let to = self.scene.callers_full();
        let file = keep == Keep::File;
        let reference = self.hold(holder, ObjectAsk::Hold { size, file, to }).await?;
        let window_ms = super::ms(setting.window);
        let ask = ObjectAsk::Pull { reference, size, keep, window_ms };
        let mut row = self.run(Part::Caller, ask, holder, size).await?;
        // What is delivered in one piece of memory is there because it was asked for.
        let kept = if keep == Keep::Keep { mib(size) } else { 0.0 };
        let beyond = row.sides.iter().filter_map(|side| {
            let kept = if side.part == Part::Caller { kept } else { 0.0 };
            Some((side.growth_mib? - kept).max(0.0))
        });
        row.growth_mib = beyond.reduce(f64::max);
        Ok(row)
    }

    /// One holder, many receivers.
    pub(super) async fn spread(
        &mut self,
        size: u64,
        setting: Setting<'_>,
    ) -> Result<Row, PerformError> {
        self.hold(Part::Sink, ObjectAsk::Receive).await?;
        self.hold(Part::Server, ObjectAsk::Hold { size, file: false, to: Vec::new() }).await?;
        let to = self.scene.to.clone();
        let ask = ObjectAsk::Spread { to, window_ms: super::ms(setting.window) };
        let mut row = self.run(Part::Server, ask, Part::Server, size).await?;
        let server = row.sides.iter().find(|side| side.part == Part::Server);
        row.growth_mib = server.and_then(|side| side.growth_mib);
        Ok(row)
    }

    /// Has a process ready for objects; the reference to what it holds, where there is one.
    async fn hold(&mut self, part: Part, ask: ObjectAsk) -> Result<Option<String>, PerformError> {
        let process = self.process(part)?;
        process.ask(&Ask::Object(ask)).await?;
        Ok(process.hear(SLOW, Tell::held).await?)
    }

    async fn account(&mut self, holder: Part) -> Result<Account, PerformError> {
        let process = self.process(holder)?;
        process.ask(&Ask::Object(ObjectAsk::Account)).await?;
        let (wire, written) = process.hear(Duration::ZERO, Tell::account).await?;
        Ok(Account { wire, written })
    }

    /// Has `part` do it. Memory is looked at from before the first time, which is not counted otherwise.
    async fn run(
        &mut self,
        part: Part,
        ask: ObjectAsk,
        holder: Part,
        size: u64,
    ) -> Result<Row, PerformError> {
        let mut before = BTreeMap::new();
        for pid in self.pids() {
            before.insert(pid, accounts::resident(pid)?);
            accounts::reset_peak(pid)?;
        }
        let first = self.account(holder).await?;
        let process = self.process(part)?;
        process.ask(&Ask::Object(ask)).await?;
        process.hear(SLOW, Tell::begun).await?;
        let begun = Accounts::read(&self.pids())?;
        let driven = self.process(part)?.hear(SLOW, Tell::driven).await?;
        let mut row = with_driven(self.close(&begun)?, driven);
        let pids = self.pids();
        for (side, pid) in row.sides.iter_mut().zip(pids) {
            let resident = before.get(&pid).copied().unwrap_or(0);
            *side = Side { growth_mib: Some(side.peak_mib - mib(resident)), ..side.clone() };
        }
        let last = self.account(holder).await?;
        #[expect(clippy::cast_precision_loss, reason = "bytes are less than 2^53")]
        let times = |bytes: u64| bytes as f64 / (size as f64 * (row.done as f64 + 1.0));
        let (wire, copies) = (times(last.wire - first.wire), times(last.written - first.written));
        #[expect(clippy::cast_precision_loss, reason = "bytes are less than 2^53")]
        let mb = size as f64 / 1e6;
        row.mb_s = row.rate.map(|rate| rate * mb);
        (row.wire, row.copies) = (Some(wire), Some(copies));
        Ok(row)
    }
}

#[expect(clippy::cast_precision_loss, reason = "memory is less than 2^53 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
