//! Slurm's commands: run without a shell, with a small environment, for a bounded time, with a bounded answer.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use cellbus_proto::job::SlurmSpec;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::SlurmError;

/// Bytes in the longest answer. A table with a hundred thousand jobs has less.
const ANSWER_MAX: usize = 8 << 20;
/// Characters of an answer that are repeated to people.
const SAID_MAX: usize = 400;
/// Where the commands are, where a site does not say otherwise.
const USUAL: &str = "/usr/bin";

/// How long a command may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Slurm's commands.
#[derive(Debug)]
pub(crate) struct Commands {
    dir: PathBuf,
    conf: Option<PathBuf>,
}

/// What a command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub command: &'static str,
    pub is_success: bool,
    pub out: String,
    pub err: String,
}

impl Commands {
    pub(crate) fn new(spec: &SlurmSpec) -> Self {
        let dir = spec.commands.as_deref().unwrap_or(USUAL).into();
        Self { dir, conf: spec.conf.as_ref().map(PathBuf::from) }
    }

    /// Runs `command`, which reads `input`.
    ///
    /// # Errors
    /// When it cannot be run, takes longer than `patience`, or says too much. That it refuses is no error here.
    pub(crate) async fn run(
        &self,
        command: &'static str,
        arguments: &[String],
        input: &str,
        patience: Duration,
    ) -> Result<Said, SlurmError> {
        let path = self.dir.join(command);
        tokio::time::timeout(patience, self.talk(command, &path, arguments, input))
            .await
            .unwrap_or(Err(SlurmError::Slow { command, patience }))
    }

    async fn talk(
        &self,
        command: &'static str,
        path: &Path,
        arguments: &[String],
        input: &str,
    ) -> Result<Said, SlurmError> {
        let failed = |source| SlurmError::Command { command: path.display().to_string(), source };
        // What stands in this process's environment would be options of the commands, such as SBATCH_PARTITION.
        let mut child = Command::new(path)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C")
            .envs(self.conf.iter().map(|conf| ("SLURM_CONF", conf)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input has something else to say.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let ((), out, err) = tokio::join!(write, bounded(command, out), bounded(command, err));
        let status = child.wait().await.map_err(failed)?;
        Ok(Said { command, is_success: status.success(), out: out?, err: printable(&err?) })
    }
}

impl Said {
    /// What it printed, if it has done what it was asked for.
    pub(crate) fn success(self) -> Result<String, SlurmError> {
        if self.is_success { Ok(self.out) } else { Err(self.refusal()) }
    }

    /// What it said as a reason.
    pub(crate) fn refusal(self) -> SlurmError {
        let said =
            if self.err.is_empty() { "it failed without a word".to_owned() } else { self.err };
        SlurmError::Refused { command: self.command, said }
    }

    /// Whether it says that there is no such job.
    pub(crate) fn is_no_such_job(&self) -> bool {
        !self.is_success && self.err.contains("Invalid job id specified")
    }
}

async fn bounded(
    command: &'static str,
    from: Option<impl AsyncRead + Unpin>,
) -> Result<String, SlurmError> {
    let answer = |problem: String| SlurmError::Answer { command, problem };
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let limit = ANSWER_MAX as u64 + 1;
        from.take(limit).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > ANSWER_MAX {
        return Err(answer(format!("it is longer than {ANSWER_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| answer("it is no text".to_owned()))
}

/// `text` on one line, without control characters, shortened.
pub(crate) fn printable(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join("; ");
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(dir: &str) -> Commands {
        Commands::new(&SlurmSpec { commands: Some(dir.to_owned()), ..SlurmSpec::default() })
    }

    #[tokio::test]
    async fn a_command_that_does_not_answer_is_given_up() {
        let patience = Duration::from_millis(50);
        let slow = commands("/bin").run("sleep", &["60".to_owned()], "", patience).await;
        assert!(matches!(slow, Err(SlurmError::Slow { command: "sleep", .. })), "{slow:?}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off_as_an_error() {
        let endless = commands("/bin").run("cat", &["/dev/zero".to_owned()], "", PATIENCE).await;
        assert!(matches!(endless, Err(SlurmError::Answer { command: "cat", .. })), "{endless:?}");
    }

    #[tokio::test]
    async fn c_15_a_command_has_nothing_of_this_environment() {
        let env = commands("/usr/bin").run("env", &[], "", PATIENCE).await.unwrap();
        let names = env.out.lines().filter_map(|line| line.split('=').next());
        let names: std::collections::BTreeSet<&str> = names.collect();
        assert_eq!(names, ["LC_ALL", "PATH"].into());
    }

    #[tokio::test]
    async fn a_cluster_that_is_not_installed_is_named() {
        let absent = commands("/nonexistent").run("sbatch", &[], "", PATIENCE).await.unwrap_err();
        assert!(absent.to_string().contains("/nonexistent/sbatch"), "{absent}");
    }

    #[test]
    fn what_is_repeated_to_people_is_one_short_line() {
        assert_eq!(printable("a\n\n b\x1b[1m\r\n"), "a; b[1m");
        assert_eq!(printable(&"x".repeat(10_000)).len(), SAID_MAX);
    }
}
