//! All measurements of one run: rounds, within a round the measures, within a measure the peers.

use std::{io, os::unix::fs::PermissionsExt, time::Duration};

use serde::Serialize;

use crate::{
    measure::{Keep, Load, Measure, Route},
    message::Peer,
    perform::{PerformError, Setting, perform},
    report::Report,
    row::Row,
    stage::Program,
};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// What.
    pub measures: Vec<Measure>,
    /// Whether plain QUIC is measured beside it.
    pub raw: bool,
    /// How often.
    pub rounds: u32,
    /// How often a row is measured in one round before it is left noisy.
    pub attempts: u32,
    /// Time in which something is counted.
    pub window: Duration,
    /// How a measured process is started: it must call [`crate::side::run`].
    pub program: Program,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// There is no place for state and certificates.
    #[error("temporary directory")]
    State(#[source] io::Error),
    /// A measurement failed.
    #[error("{measure} over {peer}")]
    Perform {
        /// Which.
        measure: Measure,
        /// Who carried the messages.
        peer: &'static str,
        /// Why.
        #[source]
        source: PerformError,
    },
}

/// What happens meanwhile.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BenchEvent<'a> {
    /// A measurement begins.
    Measuring {
        /// Name of the measure.
        measure: String,
        /// Who carries the messages.
        peer: &'static str,
        /// The round.
        round: u32,
        /// Measurements that are planned.
        of: usize,
    },
    /// A measurement has ended.
    Measured {
        /// What it found.
        row: &'a Row,
    },
}

/// Who is measured with `measure`.
fn peers(measure: Measure, raw: bool) -> &'static [Peer] {
    match (raw, measure.load) {
        (false, _) => &[Peer::Cellbus],
        // How cost grows is a question to cells alone.
        (true, Load::Requests { cells: 2.., .. } | Load::Outstanding { .. }) => &[Peer::Cellbus],
        (true, Load::Requests { .. }) => &[Peer::Cellbus, Peer::RawRr, Peer::RawRrf],
        (true, Load::Bulk { keep: Keep::Drop, .. }) if measure.route == Route::Direct => {
            &[Peer::Cellbus, Peer::Raw, Peer::RawDigest, Peer::RawDefaults]
        }
        // Two relays are two certificates, and plain QUIC has one listener for each process.
        (true, Load::Spread { relays: 2.., .. }) => &[Peer::Cellbus],
        (true, Load::Bulk { keep: Keep::Drop | Keep::Keep, .. } | Load::Spread { .. }) => {
            &[Peer::Cellbus, Peer::Raw, Peer::RawDigest]
        }
        (true, Load::Bulk { keep: Keep::File, .. }) => &[Peer::Cellbus, Peer::Raw],
        (true, Load::Publishes { .. } | Load::Fan { .. }) => &[Peer::Cellbus, Peer::RawRrf],
        (true, Load::Connect | Load::Start | Load::Idle { .. }) => &[Peer::Cellbus, Peer::RawRr],
    }
}

/// Measures everything.
///
/// # Errors
/// [`BenchError`] for the first measurement that cannot be made. No process is left.
pub async fn run(
    options: &Options,
    tell: &mut dyn FnMut(&BenchEvent<'_>),
) -> Result<Report, BenchError> {
    let state = tempfile::Builder::new()
        .prefix("cellbus-bench-")
        .permissions(PermissionsExt::from_mode(0o700))
        .tempdir()
        .map_err(BenchError::State)?;
    let root = state.path().join("bench");
    let setting = Setting { program: &options.program, state: &root, window: options.window };
    let each: usize = options.measures.iter().map(|m| peers(*m, options.raw).len()).sum();
    let of = each * usize::try_from(options.rounds).unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        for measure in options.measures.iter().copied() {
            let peers = peers(measure, options.raw);
            // Nobody always comes first.
            let turn = usize::try_from(round).unwrap_or(0) % peers.len();
            for peer in peers[turn..].iter().chain(&peers[..turn]).copied() {
                for attempt in 1..=options.attempts.max(1) {
                    let name = measure.to_string();
                    tell(&BenchEvent::Measuring { measure: name, peer: peer.name(), round, of });
                    let row = perform(measure, peer, setting).await;
                    let row = row.map_err(|source| BenchError::Perform {
                        measure,
                        peer: peer.name(),
                        source,
                    })?;
                    let row = Row { round, attempt, ..row };
                    tell(&BenchEvent::Measured { row: &row });
                    let noisy = row.noisy;
                    rows.push(row);
                    if !noisy {
                        break;
                    }
                }
            }
        }
    }
    Ok(Report::new(options.rounds, options.window.as_secs_f64(), rows))
}
