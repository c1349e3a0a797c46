//! Processes that are measured, as seen by the one that measures.

use std::{io, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    message::{Ask, SideSpec, Tell},
    scene::Part,
};

/// Time for a process to say something beyond the time that it was given.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time for a process to end.
const END: Duration = Duration::from_secs(5);

/// Why a process cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// It cannot be started or talked to.
    #[error("the process of the {part:?}")]
    Io {
        /// Which.
        part: Part,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("the process of the {part:?}: {why}")]
    Failed {
        /// Which.
        part: Part,
        /// What it says.
        why: String,
    },
}

/// How measured processes are started: a program and its arguments, which say nothing but that.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// One measured process. It ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    part: Part,
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a process and tells it what to be.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn start(program: &Program, part: Part, spec: &SideSpec) -> Result<Self, StageError> {
        let failed = |source| StageError::Io { part, source };
        let mut child = Command::new(&program.path)
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let gone = || failed(io::ErrorKind::BrokenPipe.into());
        let pid = child.id().ok_or_else(gone)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let lines = BufReader::new(stdout).lines();
        let mut process = Self { part, child, pid, stdin, lines };
        process.write(spec).await?;
        Ok(process)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its part.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// Waits until it is ready, and says where it listens.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn ready(&mut self) -> Result<Option<SocketAddr>, StageError> {
        self.hear(Duration::ZERO, Tell::ready).await
    }

    /// Asks it.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn ask(&mut self, ask: &Ask) -> Result<(), StageError> {
        self.write(ask).await
    }

    /// What it says next, which may take as long as it was given and some more, if `take` understands it.
    ///
    /// # Errors
    /// [`StageError`], also when it says that it has failed.
    pub async fn hear<T>(
        &mut self,
        given: Duration,
        take: impl FnOnce(&Tell) -> Option<T>,
    ) -> Result<T, StageError> {
        let tell = self.next(given).await?;
        take(&tell).ok_or_else(|| {
            let why = format!("says {tell:?} out of turn");
            StageError::Failed { part: self.part, why }
        })
    }

    async fn next(&mut self, given: Duration) -> Result<Tell, StageError> {
        let part = self.part;
        let line = timeout(given + PATIENCE, self.lines.next_line()).await;
        let line = line
            .map_err(|_| StageError::Failed { part, why: "says nothing".to_owned() })?
            .map_err(|source| StageError::Io { part, source })?;
        let line = line.ok_or_else(|| {
            let why = "has ended; what it printed says why".to_owned();
            StageError::Failed { part, why }
        })?;
        match serde_json::from_str(&line) {
            Ok(Tell::Failed { why }) => Err(StageError::Failed { part, why }),
            Ok(tell) => Ok(tell),
            Err(error) => Err(StageError::Io { part, source: error.into() }),
        }
    }

    /// Lets it end, and waits until it has.
    pub async fn end(mut self) {
        drop(self.stdin.take());
        if timeout(END, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it at once.
    pub async fn kill(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill().await;
    }

    async fn write(&mut self, line: &impl serde::Serialize) -> Result<(), StageError> {
        let part = self.part;
        let failed = |source| StageError::Io { part, source };
        let mut text = serde_json::to_string(line).expect("what is asked is plain data");
        text.push('\n');
        let stdin = self.stdin.as_mut();
        let stdin = stdin.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        stdin.write_all(text.as_bytes()).await.map_err(failed)?;
        stdin.flush().await.map_err(failed)
    }
}
