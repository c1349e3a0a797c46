//! What a cell writes down about the parts that it runs, so that a later life of it knows them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cellbus_launch::Handle;
use cellbus_proto::{
    job::{End, JobId, RunId},
    name::{Fqcn, Segment},
};
use cellbus_runtime::secret_file::{
    SecretFileError, create_private_dir, read_secret_file, write_secret_file,
};
use serde::{Deserialize, Serialize};

/// Form of the records.
const VERSION: u32 = 1;
/// Bytes in the longest record.
const BYTES_MAX: usize = 16 << 10;
/// Changes with every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A part that runs, or whose end is not yet known elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartRecord {
    version: u32,
    /// Which start of the machine it is of: numbers of processes mean nothing in another one.
    boot: String,
    /// Which part it is.
    pub id: JobId,
    /// Names this run of the job.
    pub run: RunId,
    /// The job cell.
    pub name: Fqcn,
    /// Its process.
    pub handle: Handle,
    /// SHA-256 of its certificate: what lets it in.
    pub pin: [u8; 32],
    /// Seconds that it goes on without this cell; 0 where it ends with it.
    pub detach_s: u32,
    /// Whether its program is one that somebody else attaches.
    pub is_attached_to: bool,
    /// How it has ended, once it has.
    pub end: Option<End>,
}

/// The records of one cell, in files that only its owner can read.
#[derive(Clone, Debug)]
pub(super) struct PartRecords {
    dir: PathBuf,
}

impl PartRecord {
    /// The record of a part that has been launched.
    pub(super) fn new(
        id: JobId,
        run: RunId,
        name: Fqcn,
        handle: Handle,
        pin: [u8; 32],
        detach_s: u32,
        is_attached_to: bool,
    ) -> Self {
        let boot = boot().unwrap_or_default();
        Self {
            version: VERSION,
            boot,
            id,
            run,
            name,
            handle,
            pin,
            detach_s,
            is_attached_to,
            end: None,
        }
    }

    /// Whether the machine has not been started again since.
    pub(super) fn is_of_this_boot(&self) -> bool {
        boot().is_some_and(|boot| boot == self.boot)
    }
}

fn boot() -> Option<String> {
    Some(fs::read_to_string(BOOT_ID).ok()?.trim().to_owned()).filter(|boot| !boot.is_empty())
}

impl PartRecords {
    pub(super) fn of(cell_dir: &Path) -> Self {
        Self { dir: cell_dir.join("job-parts") }
    }

    fn path(&self, job: &Segment) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }

    pub(super) fn write(&self, record: &PartRecord) -> Result<(), SecretFileError> {
        create_private_dir(&self.dir)?;
        let json = serde_json::to_vec(record).expect("a record is plain data");
        write_secret_file(&self.path(&record.id.job), &json)
    }

    /// Forgets the part of `job`.
    pub(super) fn remove(&self, job: &Segment) {
        match fs::remove_file(self.path(job)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%job, %error, "the record of a part stays"),
        }
    }

    /// Every record that can be read. What is none is passed over, and said.
    pub(super) fn read(&self) -> Vec<PartRecord> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(%error, "what ran here before cannot be known");
                }
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let bytes = read_secret_file(&path, BYTES_MAX).ok();
            let record: Option<PartRecord> =
                bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let is_own = |record: &PartRecord| {
                record.version == VERSION && self.path(&record.id.job) == path
            };
            match record.filter(is_own) {
                Some(record) => found.push(record),
                None => tracing::warn!(path = %path.display(), "this is no record of a part"),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(job: &str) -> PartRecord {
        let job: Segment = job.parse().unwrap();
        let name = Fqcn::from(job.clone());
        let handle = Handle { launcher: "process".into(), token: "7-9".into() };
        let run = RunId::from_random([1; 16]);
        PartRecord::new(JobId { job, attempt: 2 }, run, name, handle, [3; 32], 60, false)
    }

    #[test]
    fn g_45_a_record_is_read_as_it_was_written_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let cell = dir.path().join("cell");
        create_private_dir(&cell).unwrap();
        let records = PartRecords::of(&cell);
        assert_eq!(records.read(), []);
        records.write(&record("fold")).unwrap();
        write_secret_file(&records.path(&"other".parse().unwrap()), b"{}").unwrap();
        // One under the name of another job would be adopted as that.
        let json = serde_json::to_vec(&record("fold")).unwrap();
        write_secret_file(&records.path(&"stolen".parse().unwrap()), &json).unwrap();
        assert_eq!(records.read(), [record("fold")]);
        records.remove(&"fold".parse().unwrap());
        assert_eq!(records.read(), []);
    }

    #[test]
    fn g_45_a_process_of_another_start_of_the_machine_is_nobodys() {
        let own = record("fold");
        assert!(own.is_of_this_boot());
        assert!(!PartRecord { boot: "another".into(), ..own.clone() }.is_of_this_boot());
        assert!(!PartRecord { boot: String::new(), ..own }.is_of_this_boot());
    }
}
