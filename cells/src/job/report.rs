//! What people see of a job, and what is written down about it.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
};

use cellbus_proto::{
    job::{JobState, LogLine, Outcome, PartProgress, RunId},
    name::{Fqcn, Segment},
};
use cellbus_runtime::secret_file::{
    SecretFileError, create_private_dir, read_secret_file, write_secret_file,
};
use serde::{Deserialize, Serialize};

/// Records that are kept; the oldest go first.
const RECORDS_MAX: usize = 1000;
/// Bytes in the longest record.
const RECORD_BYTES_MAX: usize = 4 << 20;
/// Lines of a job that are kept, and bytes in them; the oldest go first.
const LINES_MAX: usize = 5000;
const LINE_BYTES_MAX: usize = 1 << 20;

/// A job, for people and for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobReport {
    /// Its name.
    pub job: Segment,
    /// Which run under this name it is.
    pub attempt: u32,
    /// Names this run and no other; `None` for one that is older than such names.
    #[serde(default)]
    pub run: Option<RunId>,
    /// How far it is.
    pub state: JobState,
    /// How it has ended, once it has.
    pub outcome: Option<Outcome>,
    /// Why, for people.
    pub detail: Option<String>,
    /// Whether it has ended because its time was up.
    pub is_late: bool,
    /// The program at the server.
    pub server_program: Segment,
    /// The program at the sites.
    pub site_program: Segment,
    /// Its parts, by cell.
    pub parts: Vec<PartReport>,
    /// When it began, in seconds since 1970.
    pub started_unix: u64,
    /// When it ended, in seconds since 1970.
    pub ended_unix: Option<u64>,
}

/// One part of a job, for people and for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartReport {
    /// The cell that runs it.
    pub cell: Fqcn,
    /// How far it is.
    pub state: JobState,
    /// How it has ended, once it has.
    pub outcome: Option<Outcome>,
    /// Why, for people.
    pub detail: Option<String>,
    /// Whether it has a control group of its own; `None` where its cell has not said so.
    #[serde(default)]
    pub is_grouped: Option<bool>,
    /// What its program has said last about how far it is.
    #[serde(default)]
    pub progress: Option<PartProgress>,
}

/// A line that a part of a job has printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRow {
    /// Counts the lines of the job, from 1, as they came to the server.
    pub number: u64,
    /// The cell that runs the part.
    pub cell: Fqcn,
    /// The text, in which control characters are escaped.
    pub text: String,
}

/// The last lines of one job.
#[derive(Debug, Default)]
pub(super) struct LogBook {
    rows: VecDeque<LogRow>,
    bytes: usize,
    next: u64,
}

impl LogBook {
    /// Takes lines of `cell`. What a cell sends is made safe here once more: nobody has to be believed.
    pub(super) fn take(&mut self, cell: &Fqcn, lines: Vec<LogLine>) {
        for LogLine { text, .. } in lines {
            self.next += 1;
            let safe = |c: char| !c.is_control() || c == '\t';
            let mut text =
                if text.chars().all(safe) { text } else { text.escape_default().collect() };
            text.truncate(text.floor_char_boundary(8 << 10));
            self.bytes += text.len();
            self.rows.push_back(LogRow { number: self.next, cell: cell.clone(), text });
            while self.rows.len() > LINES_MAX || self.bytes > LINE_BYTES_MAX {
                let Some(row) = self.rows.pop_front() else { break };
                self.bytes -= row.text.len();
            }
        }
    }

    /// Lines that have come so far, with those that are no longer kept.
    pub(super) fn count(&self) -> u64 {
        self.next
    }

    /// At most `max` lines after line `seen`.
    pub(super) fn after(&self, seen: u64, max: usize) -> Vec<LogRow> {
        let first = self.rows.front().map_or(self.next, |row| row.number - 1);
        let skip = usize::try_from(seen.saturating_sub(first)).unwrap_or(usize::MAX);
        self.rows.iter().skip(skip).take(max).cloned().collect()
    }
}

/// The records of the jobs of a server, in files that only its owner can read.
#[derive(Clone, Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(super) fn open(cell_dir: &Path) -> Result<Self, SecretFileError> {
        let dir = cell_dir.join("job-records");
        create_private_dir(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, job: &Segment) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }

    pub(super) fn write(&self, report: &JobReport) -> Result<(), SecretFileError> {
        let json = serde_json::to_vec_pretty(report).expect("a report is plain data");
        write_secret_file(&self.path(&report.job), &json)
    }

    /// Every record that can be read; of more than are kept, the oldest are removed.
    pub(super) fn read(&self) -> io::Result<Vec<JobReport>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let bytes = read_secret_file(&path, RECORD_BYTES_MAX);
            let read =
                bytes.ok().and_then(|bytes| serde_json::from_slice::<JobReport>(&bytes).ok());
            match read.filter(|report| self.path(&report.job) == path) {
                Some(report) => found.push(report),
                None => tracing::warn!(path = %path.display(), "this is no record of a job"),
            }
        }
        found.sort_by_key(|report| report.started_unix);
        let surplus = found.len().saturating_sub(RECORDS_MAX);
        for old in found.drain(..surplus) {
            let _ = fs::remove_file(self.path(&old.job));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<LogLine> {
        texts.iter().map(|text| LogLine { number: 0, text: (*text).to_owned() }).collect()
    }

    #[test]
    fn j_32_a_book_keeps_the_last_lines_and_counts_them_all() {
        let cell: Fqcn = "site-1".parse().unwrap();
        let mut book = LogBook::default();
        for _ in 0..LINES_MAX + 10 {
            book.take(&cell, lines(&["x"]));
        }
        let rows = book.after(0, usize::MAX);
        assert_eq!((rows.len(), rows[0].number), (LINES_MAX, 11));
        assert_eq!(book.after(LINES_MAX as u64 + 8, 10).len(), 2);
        assert_eq!(book.after(u64::MAX, 10), []);
        let long = "y".repeat(LINE_BYTES_MAX);
        for _ in 0..300 {
            book.take(&cell, lines(&[&long]));
        }
        assert!(book.bytes <= LINE_BYTES_MAX);
        book.take(&cell, lines(&["\u{1b}[2J"]));
        assert_eq!(book.after(0, usize::MAX).last().unwrap().text, "\\u{1b}[2J");
    }

    #[test]
    fn j_20_a_record_is_read_as_it_was_written_and_rubbish_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        create_private_dir(dir.path().join("cell").as_path()).unwrap();
        let records = Records::open(&dir.path().join("cell")).unwrap();
        let report = JobReport {
            job: "fold".parse().unwrap(),
            attempt: 3,
            run: Some(RunId::from_random([3; 16])),
            state: JobState::Ended,
            outcome: Some(Outcome::Completed),
            detail: None,
            is_late: false,
            server_program: "a".parse().unwrap(),
            site_program: "b".parse().unwrap(),
            parts: vec![],
            started_unix: 1,
            ended_unix: Some(2),
        };
        records.write(&report).unwrap();
        write_secret_file(&records.dir.join("other.json"), b"{}").unwrap();
        assert_eq!(records.read().unwrap(), [report]);
    }
}
