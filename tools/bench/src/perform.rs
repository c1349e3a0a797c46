//! One measurement: its processes from start to end, and what they cost.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    accounts::{self, Accounts, Spent},
    measure::{Load, Measure},
    message::{Ask, Driven, Peer, SideSpec, Tell},
    row::{FOREIGN_MAX, Row, Side},
    scene::{Part, Scene},
    stage::{Process, Program, StageError},
};

/// Bytes of the request whose reply ends a start.
const START_SIZE: u32 = 64;
const MIB: f64 = 1_048_576.0;

mod objects;
mod outstanding;

/// Why there is no row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerformError {
    /// A process failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The system keeps no accounts of processes.
    #[error("accounts of the processes")]
    Accounts(#[from] io::Error),
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// How processes are started.
    pub program: &'a Program,
    /// State of the project.
    pub state: &'a Path,
    /// Time in which something is counted.
    pub window: Duration,
}

impl Setting<'_> {
    fn warm(&self) -> Duration {
        (self.window / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

/// The processes of one measurement.
struct Stage {
    processes: Vec<Process>,
    scene: Scene,
    /// Where the server, or the relay, listens.
    parent: Option<SocketAddr>,
}

/// Measures once.
///
/// # Errors
/// [`PerformError`]; no process is left.
pub async fn perform(
    measure: Measure,
    peer: Peer,
    setting: Setting<'_>,
) -> Result<Row, PerformError> {
    let mut stage = Stage { processes: Vec::new(), scene: Scene::of(measure), parent: None };
    let row = match measure.load {
        Load::Requests { size, callers, .. } => {
            stage.start_all(measure, peer, setting).await?;
            stage.drive(Part::Caller, false, size, callers, setting).await?
        }
        Load::Outstanding { requests } => {
            stage.start_all(measure, peer, setting).await?;
            stage.outstanding(requests).await?
        }
        Load::Fan { size, .. } => {
            stage.start_all(measure, peer, setting).await?;
            stage.drive(Part::Server, true, size, 1, setting).await?
        }
        Load::Bulk { size, keep } => {
            stage.start_all(measure, peer, setting).await?;
            stage.bulk(measure, size.bytes(), keep, setting).await?
        }
        Load::Spread { size, .. } => {
            stage.start_all(measure, peer, setting).await?;
            stage.spread(size.bytes(), setting).await?
        }
        Load::Publishes { size } => {
            stage.start_all(measure, peer, setting).await?;
            stage.publish(size, setting).await?
        }
        Load::Connect => {
            stage.start_all(measure, peer, setting).await?;
            stage.connect().await?
        }
        Load::Start => stage.starts(measure, peer, setting).await?,
        Load::Idle { cells } => stage.idle(measure, peer, setting, cells).await?,
    };
    stage.end().await;
    let noisy = row.foreign > FOREIGN_MAX;
    Ok(Row { measure: measure.to_string(), peer: peer.name().to_owned(), noisy, ..row })
}

impl Stage {
    async fn start_all(
        &mut self,
        measure: Measure,
        peer: Peer,
        setting: Setting<'_>,
    ) -> Result<(), PerformError> {
        for part in self.scene.parts.clone() {
            self.start(measure, peer, setting, part).await?;
        }
        Ok(())
    }

    async fn start(
        &mut self,
        measure: Measure,
        peer: Peer,
        setting: Setting<'_>,
        part: Part,
    ) -> Result<(), PerformError> {
        let role = self.scene.role(measure, part, peer, self.parent);
        let spec = SideSpec {
            peer,
            topology: self.scene.topology.clone(),
            state: setting.state.to_owned(),
            role,
        };
        let mut process = Process::start(setting.program, part, &spec).await?;
        let address = process.ready().await?;
        if matches!(part, Part::Server | Part::Relay) {
            self.parent = address;
        }
        self.processes.push(process);
        Ok(())
    }

    /// All at once: nobody has to hear of the end of another.
    async fn end(self) {
        for mut process in self.processes {
            process.kill().await;
        }
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    fn process(&mut self, part: Part) -> Result<&mut Process, StageError> {
        let found = self.processes.iter_mut().find(|process| process.part() == part);
        let missing = || StageError::Failed { part, why: "was not started".to_owned() };
        found.ok_or_else(missing)
    }

    /// Begins to keep accounts.
    fn begin(&self) -> io::Result<Accounts> {
        for pid in self.pids() {
            accounts::reset_peak(pid)?;
        }
        Accounts::read(&self.pids())
    }

    /// What has been spent since `begun`, as a row without figures.
    fn close(&self, begun: &Accounts) -> io::Result<Row> {
        let Spent { sides_s, foreign } = Accounts::read(&self.pids())?.since(begun);
        let mut sides = Vec::new();
        for (process, cpu_s) in self.processes.iter().zip(sides_s) {
            #[expect(clippy::cast_precision_loss, reason = "memory is less than 2^53 bytes")]
            let peak_mib = accounts::peak(process.pid())? as f64 / MIB;
            sides.push(Side { part: process.part(), cpu_s, peak_mib, growth_mib: None });
        }
        Ok(Row {
            cpu_s: sides.iter().map(|side| side.cpu_s).sum(),
            peak_mib: sides.iter().map(|side| side.peak_mib).fold(0.0, f64::max),
            sides,
            foreign,
            ..Row::default()
        })
    }

    async fn drive(
        &mut self,
        part: Part,
        fan: bool,
        size: u32,
        callers: u32,
        setting: Setting<'_>,
    ) -> Result<Row, PerformError> {
        let (warm, window) = (setting.warm(), setting.window);
        let (warm_ms, window_ms) = (ms(warm), ms(window));
        let to = self.scene.to.clone();
        let asked = self.process(part)?;
        asked.ask(&Ask::Drive { to, fan, size, callers, warm_ms, window_ms }).await?;
        asked.hear(warm, Tell::begun).await?;
        let begun = self.begin()?;
        let asked = self.process(part)?;
        let driven = asked.hear(window, Tell::driven).await?;
        Ok(with_driven(self.close(&begun)?, driven))
    }

    async fn publish(&mut self, size: u32, setting: Setting<'_>) -> Result<Row, PerformError> {
        let receiver = if self.process(Part::Sink).is_ok() { Part::Sink } else { Part::Server };
        self.send(receiver, size, setting.warm()).await?;
        let begun = self.begin()?;
        let (sent, refused, received, span) = self.send(receiver, size, setting.window).await?;
        let row = self.close(&begun)?;
        let failed = sent.abs_diff(received);
        let why = (failed > 0).then(|| format!("{received} of {sent} messages came"));
        let window_s = span.as_secs_f64();
        let rate = per_second(received.saturating_sub(1), window_s);
        Ok(with_each(Row { rate, done: received, window_s, failed, why, refused, ..row }))
    }

    async fn send(
        &mut self,
        receiver: Part,
        size: u32,
        window: Duration,
    ) -> Result<(u64, u64, u64, Duration), PerformError> {
        let to = self.scene.to.first().cloned().unwrap_or_default();
        let sender = self.process(Part::Caller)?;
        sender.ask(&Ask::Send { to, size, window_ms: ms(window) }).await?;
        let (sent, refused) = sender.hear(window, Tell::sent).await?;
        let receiver = self.process(receiver)?;
        receiver.ask(&Ask::Settle { sent }).await?;
        let (received, span) = receiver.hear(Duration::ZERO, Tell::received).await?;
        Ok((sent, refused, received, span))
    }

    async fn connect(&mut self) -> Result<Row, PerformError> {
        let begun = self.begin()?;
        let asked = self.process(Part::Crowd)?;
        asked.ask(&Ask::Connect).await?;
        let driven = asked.hear(Duration::ZERO, Tell::driven).await?;
        Ok(with_driven(self.close(&begun)?, driven))
    }

    /// Starts the caller's process again and again. What it costs is that of the server alone, for the
    /// others have ended.
    async fn starts(
        &mut self,
        measure: Measure,
        peer: Peer,
        setting: Setting<'_>,
    ) -> Result<Row, PerformError> {
        self.start(measure, peer, setting, Part::Server).await?;
        let mut times = crate::drive::Times::new();
        let begun = self.begin()?;
        let mut all = Duration::ZERO;
        let to = self.scene.to.first().cloned().unwrap_or_default();
        for _ in 0..self.scene.callers.len() {
            let spawned = Instant::now();
            self.start(measure, peer, setting, Part::Caller).await?;
            let caller = self.process(Part::Caller)?;
            caller.ask(&Ask::Once { to: to.clone(), size: START_SIZE }).await?;
            caller.hear(Duration::ZERO, Tell::driven).await?;
            let took = spawned.elapsed();
            times.add(took);
            all += took;
            self.scene.callers.rotate_left(1);
            if let Some(caller) = self.processes.pop() {
                caller.end().await;
            }
        }
        Ok(with_driven(self.close(&begun)?, times.driven(all)))
    }

    async fn idle(
        &mut self,
        measure: Measure,
        peer: Peer,
        setting: Setting<'_>,
        cells: u32,
    ) -> Result<Row, PerformError> {
        self.start(measure, peer, setting, Part::Server).await?;
        let server = self.process(Part::Server)?.pid();
        let before = accounts::resident(server)?;
        self.start(measure, peer, setting, Part::Crowd).await?;
        let begun = self.begin()?;
        // What a handshake needed and nobody needs any longer is given back meanwhile.
        tokio::time::sleep(setting.window).await;
        let row = self.close(&begun)?;
        #[expect(clippy::cast_precision_loss, reason = "memory is less than 2^53 bytes")]
        let grown = accounts::resident(server)?.saturating_sub(before) as f64 / 1024.0;
        let kib_per_cell = Some(grown / f64::from(cells));
        let window_s = setting.window.as_secs_f64();
        Ok(Row { kib_per_cell, done: cells.into(), window_s, ..row })
    }
}

fn with_driven(row: Row, driven: Driven) -> Row {
    let window_s = Duration::from_nanos(driven.window_ns).as_secs_f64();
    let found = driven.done > 0;
    with_each(Row {
        rate: per_second(driven.done, window_s),
        p50_us: found.then_some(driven.p50_us),
        p99_us: found.then_some(driven.p99_us),
        p999_us: found.then_some(driven.p999_us),
        done: driven.done,
        window_s,
        failed: driven.failed,
        why: driven.why,
        ..row
    })
}

fn with_each(row: Row) -> Row {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let cpu_us_each = (row.done > 0).then(|| row.cpu_s * 1e6 / row.done as f64);
    Row { cpu_us_each, ..row }
}

fn per_second(done: u64, seconds: f64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let rate = done as f64 / seconds;
    rate.is_finite().then_some(rate)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
