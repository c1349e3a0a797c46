//! What Slurm says about all jobs of this user, asked once for everybody who wants to know.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    SlurmError,
    command::{Commands, PATIENCE},
    parse::{self, Row},
};

/// The first wait after Slurm could not be asked; it doubles up to [`REST_MAX`].
const REST: Duration = Duration::from_secs(1);
/// The longest wait after Slurm could not be asked.
const REST_MAX: Duration = Duration::from_secs(60);

/// The jobs of this user.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<u32, Row>,
    asked: Option<Instant>,
    rest: Rest,
}

/// Not to ask what does not answer again and again.
#[derive(Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
    said: String,
}

impl Table {
    /// What was said about job `id`, not longer ago than `age`; `None` when it is not in the table.
    ///
    /// # Errors
    /// When Slurm cannot be asked now; nothing is known then, whatever was known before.
    pub(crate) async fn row(
        &mut self,
        commands: &Commands,
        uid: u32,
        id: u32,
        age: Duration,
    ) -> Result<Option<Row>, SlurmError> {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now.duration_since(asked) > age) {
            self.rest.check(now)?;
            let asked = ask(commands, uid).await;
            let now = Instant::now();
            match asked {
                Ok(rows) => {
                    (self.rows, self.asked) = (rows, Some(now));
                    self.rest = Rest::default();
                }
                Err(error) => {
                    self.rest.begin(now, &error);
                    return Err(error);
                }
            }
        }
        Ok(self.rows.get(&id).copied())
    }

    /// What was said is no longer true.
    pub(crate) fn forget(&mut self) {
        self.asked = None;
    }
}

async fn ask(commands: &Commands, uid: u32) -> Result<BTreeMap<u32, Row>, SlurmError> {
    let arguments = [
        "--noheader".to_owned(),
        "--states=all".to_owned(),
        format!("--user={uid}"),
        format!("--Format={}", parse::COLUMNS),
    ];
    parse::rows(&commands.run("squeue", &arguments, "", PATIENCE).await?.success()?)
}

impl Rest {
    fn check(&self, now: Instant) -> Result<(), SlurmError> {
        let wait = self.until.map(|until| until.saturating_duration_since(now));
        match wait.filter(|wait| !wait.is_zero()) {
            None => Ok(()),
            Some(wait) => Err(SlurmError::Resting { wait, said: self.said.clone() }),
        }
    }

    fn begin(&mut self, now: Instant, error: &SlurmError) {
        let wait = REST.saturating_mul(1 << self.failures.min(16)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + wait);
        self.said = error.to_string();
        tracing::warn!(error = self.said, ?wait, "Slurm cannot be asked how far jobs are");
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::job::SlurmSpec;

    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_is_an_error_and_is_asked_less_and_less() {
        let spec = SlurmSpec { commands: Some("/nonexistent".into()), ..SlurmSpec::default() };
        let commands = Commands::new(&spec);
        let mut table = Table::default();
        let first = table.row(&commands, 0, 1, Duration::ZERO).await;
        assert!(matches!(first, Err(SlurmError::Command { .. })), "{first:?}");
        let second = table.row(&commands, 0, 1, Duration::ZERO).await;
        assert!(matches!(second, Err(SlurmError::Resting { .. })), "{second:?}");
        let mut rest = Rest::default();
        let (now, mut waits) = (Instant::now(), Vec::new());
        for _ in 0..9 {
            rest.begin(now, &SlurmError::State("x".into()));
            waits.push(rest.until.map(|until| (until - now).as_secs()).unwrap_or_default());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(rest.check(now + REST_MAX).is_ok());
    }
}
