//! What all measurements together say.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    growth,
    measure::{Load, Measure},
    message::Peer,
    row::Row,
};

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Rounds.
    pub rounds: u32,
    /// Time in which something is counted, in seconds.
    pub seconds: f64,
    /// Processors of the machine.
    pub cores: usize,
    /// Every measurement.
    pub rows: Vec<Row>,
    /// Median and spread over the rounds.
    pub summary: Vec<Summary>,
    /// Cells over the better of the raw patterns, round by round, and the median of that: of rates by
    /// the name of the measure, of times that half took no longer than with `_p50` behind it, and of
    /// memory for `idle_*`. With `_growth` behind it, processor time of a message of cells over that with one
    /// connected cell, or with ten callers.
    pub ratios: BTreeMap<String, f64>,
    /// What memory grew by where cells moved objects, in MiB, the most of all rounds: `transfer_growth` of any process that
    /// moves one object, beyond what it was asked to keep; `*_server_growth` of the server of a fan.
    #[serde(default)]
    pub memory_mib: BTreeMap<String, f64>,
    /// What each of many takes of memory where cells hold it, in KiB, median of the rounds: `idle_*` of the server for
    /// a connected cell, `outstanding_*` of both ends for a request without an answer.
    #[serde(default)]
    pub memory_kib: BTreeMap<String, f64>,
    /// What left the server of a fan for each byte of the object, over all its links: `*_server_copies` of the object's own
    /// bytes, `*_server_wire` of datagrams.
    #[serde(default)]
    pub egress: BTreeMap<String, f64>,
    /// The same, smallest and largest.
    pub spread: BTreeMap<String, (f64, f64)>,
    /// Beside an earlier report, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Vec<Compared>>,
}

/// One measure of one peer over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Name of the measure.
    pub measure: String,
    /// Who carried the messages.
    pub peer: String,
    /// Rounds that count.
    pub rounds: usize,
    /// Per second.
    pub rate: Option<Spread>,
    /// Half took no longer.
    pub p50_us: Option<Spread>,
    /// 99 % took no longer.
    pub p99_us: Option<Spread>,
    /// 99.9 % took no longer.
    pub p999_us: Option<Spread>,
    /// Processor time of all sides for each of what was counted, in microseconds.
    pub cpu_us_each: Option<Spread>,
    /// Megabytes of objects per second.
    pub mb_s: Option<Spread>,
    /// Growth of memory while objects moved, in MiB.
    pub growth_mib: Option<Spread>,
    /// Bytes of objects that the holder wrote for each byte of an object.
    pub copies: Option<Spread>,
    /// Growth of the server for each connected cell, in KiB.
    pub kib_per_cell: Option<Spread>,
    /// Growth of both ends for each request without an answer, in KiB.
    #[serde(default)]
    pub kib_per_request: Option<Spread>,
    /// Largest peak of memory, in MiB.
    pub peak_mib: f64,
    /// Rounds in which other programs used too much of the machine to the last.
    pub noisy: usize,
    /// What failed or was lost, in all.
    pub failed: u64,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

/// One figure beside an earlier one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Name of the ratio, or of the measure and the peer.
    pub name: String,
    /// Earlier.
    pub then: f64,
    /// Now.
    pub now: f64,
    /// Now over earlier.
    pub change: f64,
}

impl Spread {
    /// Of figures; of none, if there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }
}

impl Report {
    /// Draws the sums.
    #[must_use]
    pub fn new(rounds: u32, seconds: f64, rows: Vec<Row>) -> Self {
        let mut report = Self { rounds, seconds, ..Self::default() };
        report.cores = std::thread::available_parallelism().map_or(1, usize::from);
        let counted = counted(&rows);
        report.summary = names(&counted)
            .into_iter()
            .filter_map(|(measure, peer)| summary(&counted, measure, peer))
            .collect();
        let measures: BTreeSet<&str> = counted.iter().map(|row| row.measure.as_str()).collect();
        let mut found = BTreeMap::new();
        for measure in measures {
            let ratio = |of: Of| Spread::of(ratios(&counted, measure, of, is_limit));
            let of_rate = ratio(Of { figure: |row| row.rate, best: f64::max });
            let of_memory = ratio(Of { figure: |row| row.kib_per_cell, best: f64::min });
            let of_time = ratio(Of { figure: |row| row.p50_us, best: f64::min });
            found.extend(of_rate.or(of_memory).map(|spread| (measure.to_owned(), spread)));
            for (peer, name) in APART {
                let of_rate = Of { figure: |row| row.rate, best: f64::max };
                let ratio = ratios(&counted, measure, of_rate, |other| other == peer.name());
                found.extend(Spread::of(ratio).map(|spread| (format!("{measure}_{name}"), spread)));
            }
            found.extend(of_time.map(|spread| (format!("{measure}_p50"), spread)));
        }
        found.extend(growth::of_cost(&counted));
        for (name, Spread { median, min, max }) in found {
            report.spread.insert(name.clone(), (min, max));
            report.ratios.insert(name, median);
        }
        (report.memory_mib, report.egress) = (memory(&counted), egress(&counted));
        report.memory_kib = growth::of_memory(&counted);
        Self { rows, ..report }
    }

    /// Whether every message went where it should.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        counted(&self.rows).iter().all(|row| row.failed == 0 && row.done > 0)
    }

    /// Puts what both have beside one another: ratios, and rates of cells.
    pub fn compare(&mut self, earlier: &Self) {
        let mut compared = Vec::new();
        let mut beside = |name: String, then: f64, now: f64| {
            compared.push(Compared { name, then, now, change: now / then });
        };
        for (name, now) in &self.ratios {
            if let Some(then) = earlier.ratios.get(name) {
                beside(format!("{name} ratio"), *then, *now);
            }
        }
        for now in &self.summary {
            let same = |then: &&Summary| then.measure == now.measure && then.peer == now.peer;
            let then = earlier.summary.iter().find(same);
            let rates = now.rate.zip(then.and_then(|then| then.rate));
            if let Some((rate, earlier)) = rates {
                let name = format!("{} {} rate", now.measure, now.peer);
                beside(name, earlier.median, rate.median);
            }
        }
        self.compared = Some(compared);
    }
}

/// The last attempt of every round.
fn counted(rows: &[Row]) -> Vec<&Row> {
    let key = |row: &Row| (row.measure.clone(), row.peer.clone(), row.round);
    let mut last: BTreeMap<_, u32> = BTreeMap::new();
    for row in rows {
        let attempt = last.entry(key(row)).or_insert(row.attempt);
        *attempt = row.attempt.max(*attempt);
    }
    rows.iter().filter(|row| last.get(&key(row)) == Some(&row.attempt)).collect()
}

/// In the order in which they were measured first.
fn names<'a>(rows: &[&'a Row]) -> Vec<(&'a str, &'a str)> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let name = (row.measure.as_str(), row.peer.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.sort_by_key(|(measure, peer)| {
        let first = rows.iter().position(|row| row.measure == *measure);
        (first, peer.to_owned())
    });
    names
}

fn summary(rows: &[&Row], measure: &str, peer: &str) -> Option<Summary> {
    let mine = |row: &&&Row| row.measure == measure && row.peer == peer;
    let rows: Vec<&Row> = rows.iter().filter(mine).copied().collect();
    let spread = |figure: fn(&Row) -> Option<f64>| {
        Spread::of(rows.iter().filter_map(|row| figure(row)).collect())
    };
    rows.first()?;
    Some(Summary {
        measure: measure.to_owned(),
        peer: peer.to_owned(),
        rounds: rows.len(),
        rate: spread(|row| row.rate),
        p50_us: spread(|row| row.p50_us),
        p99_us: spread(|row| row.p99_us),
        p999_us: spread(|row| row.p999_us),
        cpu_us_each: spread(|row| row.cpu_us_each),
        mb_s: spread(|row| row.mb_s),
        growth_mib: spread(|row| row.growth_mib),
        copies: spread(|row| row.copies),
        kib_per_cell: spread(|row| row.kib_per_cell),
        kib_per_request: spread(|row| row.kib_per_request),
        peak_mib: rows.iter().map(|row| row.peak_mib).fold(0.0, f64::max),
        noisy: rows.iter().filter(|row| row.noisy).count(),
        failed: rows.iter().map(|row| row.failed).sum(),
    })
}

/// A figure, and which of two raw ones is the better.
#[derive(Clone, Copy)]
struct Of {
    figure: fn(&Row) -> Option<f64>,
    best: fn(f64, f64) -> f64,
}

/// Plain QUIC that cells are held against by a ratio of its own, and how that is called.
const APART: [(Peer, &str); 2] = [(Peer::RawDefaults, "defaults"), (Peer::RawDigest, "digest")];

/// Whether this is what cells are held against: plain QUIC as they have it.
fn is_limit(peer: &str) -> bool {
    peer != Peer::Cellbus.name() && APART.iter().all(|(apart, _)| peer != apart.name())
}

/// The rows of cells that moved objects, each with its measure.
fn of_objects<'a>(rows: &[&'a Row]) -> Vec<(&'a Row, Measure)> {
    let ours = rows.iter().filter(|row| row.peer == Peer::Cellbus.name());
    ours.filter_map(|row| Some((*row, row.measure.parse().ok()?))).collect()
}

fn memory(rows: &[&Row]) -> BTreeMap<String, f64> {
    let mut most: BTreeMap<String, f64> = BTreeMap::new();
    for (row, measure) in of_objects(rows) {
        let name = match measure.load {
            Load::Spread { .. } => format!("{measure}_server_growth"),
            Load::Bulk { .. }
            | Load::Requests { .. }
            | Load::Outstanding { .. }
            | Load::Publishes { .. }
            | Load::Fan { .. }
            | Load::Connect
            | Load::Start
            | Load::Idle { .. } => "transfer_growth".to_owned(),
        };
        if let Some(growth) = row.growth_mib {
            let most = most.entry(name).or_insert(growth);
            *most = growth.max(*most);
        }
    }
    most
}

fn egress(rows: &[&Row]) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (row, measure) in of_objects(rows) {
        if !matches!(measure.load, Load::Spread { .. }) {
            continue;
        }
        for (what, figure) in [("copies", row.copies), ("wire", row.wire)] {
            all.entry(format!("{measure}_server_{what}")).or_default().extend(figure);
        }
    }
    let median = |(name, figures)| Some((name, Spread::of(figures)?.median));
    all.into_iter().filter_map(median).collect()
}

/// Cells over the better of the raw peers that are `held_against`, in every round that has both.
fn ratios(rows: &[&Row], measure: &str, of: Of, held_against: impl Fn(&str) -> bool) -> Vec<f64> {
    let cellbus = Peer::Cellbus.name();
    let rows: Vec<&&Row> = rows.iter().filter(|row| row.measure == measure).collect();
    let ours = rows.iter().filter(|row| row.peer == cellbus);
    ours.filter_map(|own| {
        let raw = rows.iter().filter(|row| held_against(&row.peer) && row.round == own.round);
        let best = raw.filter_map(|row| (of.figure)(row)).reduce(of.best)?;
        Some((of.figure)(own)? / best).filter(|ratio| ratio.is_finite())
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: Peer, round: u32, attempt: u32, rate: f64, p50_us: f64) -> Row {
        Row {
            measure: "rr_64_c1".to_owned(),
            peer: peer.name().to_owned(),
            round,
            attempt,
            rate: Some(rate),
            p50_us: Some(p50_us),
            done: 1,
            ..Row::default()
        }
    }

    #[test]
    fn cells_are_held_against_the_better_pattern_of_the_same_round() {
        let report = Report::new(
            3,
            2.0,
            vec![
                row(Peer::Cellbus, 1, 1, 50.0, 20.0),
                row(Peer::RawRr, 1, 1, 100.0, 10.0),
                row(Peer::RawRrf, 1, 1, 40.0, 16.0),
                row(Peer::Cellbus, 2, 1, 10.0, 90.0),
                row(Peer::Cellbus, 2, 2, 80.0, 15.0),
                row(Peer::RawRr, 2, 1, 40.0, 30.0),
                row(Peer::RawRrf, 2, 1, 100.0, 10.0),
                row(Peer::Cellbus, 3, 1, 90.0, 10.0),
            ],
        );
        let near = |name: &str, expected: f64| {
            let found = report.ratios[name];
            assert!((found - expected).abs() < 1e-9, "{name}: {found}");
        };
        near("rr_64_c1", 0.65);
        near("rr_64_c1_p50", 1.75);
        assert_eq!(report.summary.len(), 3);
        assert_eq!(report.summary[0].peer, "cellbus");
        assert_eq!(report.summary[0].rate.map(|rate| rate.median), Some(80.0));
        assert!(report.is_whole());
    }

    #[test]
    fn a_lost_message_is_a_claim_that_does_not_hold() {
        let lost = Row { failed: 1, ..row(Peer::Cellbus, 1, 1, 1.0, 1.0) };
        assert!(!Report::new(1, 1.0, vec![lost.clone()]).is_whole());
        let again = row(Peer::Cellbus, 1, 2, 1.0, 1.0);
        assert!(Report::new(1, 1.0, vec![lost, again]).is_whole());
        let nothing = Row { done: 0, ..row(Peer::Cellbus, 1, 1, 0.0, 0.0) };
        assert!(!Report::new(1, 1.0, vec![nothing]).is_whole());
    }

    #[test]
    fn objects_are_held_against_the_same_settings_and_apart_from_the_defaults() {
        let object = |measure: &str, peer, rate| Row {
            measure: measure.to_owned(),
            growth_mib: Some(rate / 10.0),
            copies: Some(2.0),
            ..row(peer, 1, 1, rate, 1.0)
        };
        let report = Report::new(
            1,
            1.0,
            vec![
                object("bulk_1GB_drop", Peer::Cellbus, 90.0),
                object("bulk_1GB_drop", Peer::Raw, 100.0),
                object("bulk_1GB_drop", Peer::RawDigest, 120.0),
                object("bulk_1GB_drop", Peer::RawDefaults, 60.0),
                object("bulk_1GB_keep", Peer::Cellbus, 40.0),
                object("fan_8_100MB_relay2", Peer::Cellbus, 70.0),
            ],
        );
        assert_eq!(report.ratios["bulk_1GB_drop"], 0.9);
        assert_eq!(report.ratios["bulk_1GB_drop_defaults"], 1.5);
        assert_eq!(report.ratios["bulk_1GB_drop_digest"], 0.75);
        assert_eq!(report.memory_mib["transfer_growth"], 9.0);
        assert_eq!(report.memory_mib["fan_8_100MB_relay2_server_growth"], 7.0);
        assert_eq!(report.egress["fan_8_100MB_relay2_server_copies"], 2.0);
        assert_eq!(report.egress.len(), 1, "no row has said what left on the wire");
    }

    #[test]
    fn what_is_usual_for_objects_gives_every_figure_that_there_is_an_aim_for() {
        use crate::measure::Family;

        let mut rows = Vec::new();
        for measure in [Family::Transfer, Family::Fanout].map(Family::usual).concat() {
            for peer in [Peer::Cellbus, Peer::Raw] {
                let (growth_mib, copies) = (Some(1.0), Some(1.0));
                let measure = measure.to_string();
                rows.push(Row { measure, growth_mib, copies, ..row(peer, 1, 1, 1.0, 1.0) });
            }
        }
        let report = Report::new(1, 1.0, rows);
        for ratio in
            ["bulk_1GB_drop", "bulk_1GB_keep", "relay_bulk_1GB", "fan_8_100MB", "fan_8_100MB_relay"]
        {
            assert!(report.ratios.contains_key(ratio), "{ratio}");
        }
        for growth in ["transfer_growth", "fan_8_100MB_server_growth"] {
            assert!(report.memory_mib.contains_key(growth), "{growth}");
        }
        assert!(report.egress.contains_key("fan_8_100MB_relay_server_copies"));
    }

    #[test]
    fn without_a_raw_row_there_is_no_ratio() {
        assert!(Report::new(1, 1.0, vec![row(Peer::Cellbus, 1, 1, 1.0, 1.0)]).ratios.is_empty());
    }

    #[test]
    fn reports_are_compared_where_both_have_a_figure() {
        let mut now = Report::new(
            1,
            1.0,
            vec![row(Peer::Cellbus, 1, 1, 80.0, 1.0), row(Peer::RawRr, 1, 1, 100.0, 1.0)],
        );
        let then = Report::new(1, 1.0, vec![row(Peer::Cellbus, 1, 1, 40.0, 1.0)]);
        now.compare(&then);
        let compared = now.compared.expect("it was compared");
        assert_eq!(compared.len(), 1, "{compared:?}");
        assert_eq!((compared[0].name.as_str(), compared[0].change), ("rr_64_c1 cellbus rate", 2.0));
    }
}
