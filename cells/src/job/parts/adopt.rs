//! Parts that an earlier life of this cell has started: those that may go on are taken over, the others are ended.

use std::{collections::BTreeSet, fs, io, path::Path, time::Duration};

use cellbus_launch::{Handle, ProcessLauncher};
use cellbus_proto::{
    causes::with_sources,
    job::{End, Exit, JobState, Outcome, Part, PartTimes, Why},
};
use cellbus_runtime::secret_file::read_secret_file;
use tokio::sync::watch;

use super::{Entry, Parts, Patience, Watched, record::PartRecord};
use crate::job::{
    files::remove_dir,
    process::{CELL_VARIABLE, LAST_WORD, RUN_VARIABLE},
};

/// Bytes in the longest last word.
const WORD_MAX: usize = 8;

impl Parts {
    /// Takes over what `records` say, or ends it.
    pub(super) fn adopt(&self, records: Vec<PartRecord>) {
        for mut record in records {
            let (stop, stops) = watch::channel(None);
            let entry = Entry {
                id: record.id.clone(),
                state: if record.end.is_some() { JobState::Ended } else { JobState::Running },
                end: record.end.clone(),
                is_attached_to: record.is_attached_to,
                is_grouped: Self::is_grouped(record.run, &record.name),
                progress: None,
                stop,
            };
            let job = record.id.job.clone();
            let mut table = self.table();
            table.last.insert(job.clone(), record.id.attempt);
            if record.end.is_none() && record.detach_s == 0 {
                let text = "the cell of this site was started again while it ran".to_owned();
                // The receiver is here.
                let _ = entry.stop.send(Some(Why::Forsaken(text)));
            }
            table.entries.insert(job, entry);
            drop(table);
            if record.end.is_some() {
                continue;
            }
            if !record.is_of_this_boot() {
                // No process is called so, so that nothing is found, and no stranger is signalled.
                let token = ProcessLauncher::token_of_nobody(&record.handle);
                record.handle = Handle { token, ..record.handle };
            }
            let (id, detach_s) = (record.id.clone(), record.detach_s);
            if detach_s > 0 {
                self.inner.door.pins.add(record.pin);
                if let Err(error) = self.open_door() {
                    tracing::error!(%id, %error, "a job cell that goes on cannot come back");
                }
            }
            tracing::info!(cell = %self.inner.own.name, %id, detach_s, "a part of an earlier life of this cell");
            let times =
                PartTimes { start: Duration::ZERO, grace: Patience::with(&record.handle).grace };
            let part = Part::adopted(times);
            let events = self.inner.running.bus().events();
            let handle = record.handle.clone();
            let watched = Watched { record, is_adopted: true };
            let watch = tokio::spawn(self.clone().watch(watched, part, stops, events));
            tokio::spawn(self.clone().stand_by(id, handle, watch));
        }
    }

    /// How a part has ended whose process nobody could wait for: what its job cell has written last, if it came to
    /// that.
    pub(super) fn last_word(&self, record: &PartRecord) -> Exit {
        let path = self.inner.dir.join(record.id.job.as_str()).join(LAST_WORD);
        let word = read_secret_file(&path, WORD_MAX).ok();
        let code = word.and_then(|word| std::str::from_utf8(&word).ok()?.parse::<u8>().ok());
        code.map_or(Exit::Unknown, |code| Exit::Code(code.into()))
    }

    /// Ends what is left of a part that an earlier life has started, wherever it is now, and removes its pipes.
    pub(super) fn sweep(&self, record: &PartRecord) {
        // Other parts of the same run may be on this machine.
        let (run, name) = (record.run.to_string(), record.name.as_str());
        let killed = ProcessLauncher::end_marked(&[(RUN_VARIABLE, &run), (CELL_VARIABLE, name)]);
        if killed > 0 {
            tracing::info!(id = %record.id, killed, "processes of a part had lost their job cell");
        }
        for name in ProcessLauncher::pipes_of(&record.handle).into_iter().flatten() {
            // Gone already where what it belonged to was reaped.
            let _ = fs::remove_file(self.inner.dir.join(name));
        }
    }

    /// Writes down how a part has ended, until that is known where it has to be.
    pub(super) async fn note_end(&self, mut record: PartRecord, end: &End) {
        record.end = Some(end.clone());
        if let Err(error) = self.write_down(&record).await {
            let (id, why) = (&record.id, with_sources(&error));
            tracing::error!(%id, %why, "the end of a part cannot be written down");
        }
    }
}

/// The end of a part that nobody has watched.
pub(super) fn unwatched() -> End {
    End::new(Outcome::Lost, "nobody watched it to its end")
}

/// Removes from `dir` what belongs to none of `records`.
pub(super) fn clear(dir: &Path, records: &[PartRecord]) -> io::Result<()> {
    let kept: BTreeSet<String> = records
        .iter()
        .filter(|record| record.end.is_none())
        .flat_map(|record| {
            let pipes = ProcessLauncher::pipes_of(&record.handle).into_iter().flatten();
            pipes.chain([record.id.job.to_string()])
        })
        .collect();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kept.is_empty() {
        return remove_dir(dir);
    }
    for entry in entries {
        let entry = entry?;
        let is_kept = entry.file_name().to_str().is_some_and(|name| kept.contains(name));
        if !is_kept && entry.file_type()?.is_dir() {
            remove_dir(&entry.path())?;
        } else if !is_kept {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
