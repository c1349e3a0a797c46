//! How the cost of a message and of what waits grows: each measure beside the least of its series.

use std::collections::BTreeMap;

use crate::{
    measure::{Load, Measure},
    message::Peer,
    report::Spread,
    row::Row,
    scene::Part,
};

/// Callers of the measure that others are held against.
const LEAST_CALLERS: u32 = 10;

/// The measure that `measure` is held against: one connected cell instead of many; else ten callers instead of more.
fn least(measure: Measure) -> Option<Measure> {
    let load = match measure.load {
        Load::Requests { size, callers, cells: 2.. } => Load::Requests { size, callers, cells: 1 },
        Load::Requests { size, callers, cells } if callers > LEAST_CALLERS => {
            Load::Requests { size, callers: LEAST_CALLERS, cells }
        }
        Load::Requests { .. }
        | Load::Outstanding { .. }
        | Load::Publishes { .. }
        | Load::Fan { .. }
        | Load::Bulk { .. }
        | Load::Spread { .. }
        | Load::Connect
        | Load::Start
        | Load::Idle { .. } => return None,
    };
    Some(Measure { load, ..measure })
}

/// Processor time of a message at both ends and between them. Cells that say nothing have no part in it.
fn cost(row: &Row) -> Option<f64> {
    let sides = row.sides.iter().filter(|side| side.part != Part::Crowd);
    let spent: f64 = sides.map(|side| side.cpu_s).sum();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let each = spent / row.done as f64;
    (each.is_finite() && each > 0.0).then_some(each)
}

/// Cost of a message of cells over that in the least measure of its series, round by round, as `NAME_growth`.
pub fn of_cost(rows: &[&Row]) -> BTreeMap<String, Spread> {
    let ours: Vec<(&Row, Measure)> = ours(rows).collect();
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (row, measure) in &ours {
        let Some(least) = least(*measure) else { continue };
        let beside = ours.iter().find(|(row_of, of)| *of == least && row_of.round == row.round);
        let both = beside.and_then(|(least, _)| cost(row).zip(cost(least)));
        if let Some((cost, least)) = both {
            found.entry(format!("{measure}_growth")).or_default().push(cost / least);
        }
    }
    found.into_iter().filter_map(|(name, all)| Some((name, Spread::of(all)?))).collect()
}

/// Memory of cells for each thing that there are many of, in KiB, median of the rounds: of the server for a connected
/// cell, of both ends for a request without an answer.
pub fn of_memory(rows: &[&Row]) -> BTreeMap<String, f64> {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (row, measure) in ours(rows) {
        if let Some(each) = row.kib_per_cell.or(row.kib_per_request) {
            found.entry(measure.to_string()).or_default().push(each);
        }
    }
    found.into_iter().filter_map(|(name, all)| Some((name, Spread::of(all)?.median))).collect()
}

fn ours<'a>(rows: &[&'a Row]) -> impl Iterator<Item = (&'a Row, Measure)> {
    let ours = rows.iter().filter(|row| row.peer == Peer::Cellbus.name());
    ours.filter_map(|row| Some((*row, row.measure.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Side;

    fn row(measure: &str, round: u32, done: u64, server_s: f64, crowd_s: f64) -> Row {
        let side = |part, cpu_s| Side { part, cpu_s, peak_mib: 1.0, growth_mib: None };
        Row {
            measure: measure.to_owned(),
            peer: Peer::Cellbus.name().to_owned(),
            round,
            done,
            sides: vec![side(Part::Server, server_s), side(Part::Crowd, crowd_s)],
            ..Row::default()
        }
    }

    fn found(rows: &[Row]) -> BTreeMap<String, Spread> {
        of_cost(&rows.iter().collect::<Vec<_>>())
    }

    #[test]
    fn cost_is_held_against_one_cell_and_against_ten_callers() {
        let found = found(&[
            row("rr_64_c10", 1, 100, 1.0, 0.0),
            row("rr_64_c32", 1, 100, 2.0, 0.0),
            row("rr_64_c32_k1000", 1, 100, 3.0, 50.0),
        ]);
        let median = |name: &str| found[name].median;
        assert_eq!(found.len(), 2);
        assert_eq!(median("rr_64_c32_growth"), 2.0);
        assert_eq!(median("rr_64_c32_k1000_growth"), 1.5, "those that say nothing do not count");
    }

    #[test]
    fn only_rows_of_one_round_are_held_against_each_other() {
        let found = found(&[row("rr_64_c10", 1, 100, 1.0, 0.0), row("rr_64_c32", 2, 9, 2.0, 0.0)]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn without_replies_there_is_no_cost() {
        let found = found(&[row("rr_64_c10", 1, 0, 1.0, 0.0), row("rr_64_c32", 1, 9, 2.0, 0.0)]);
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn memory_is_told_for_each() {
        let idle = Row { kib_per_cell: Some(40.0), ..row("idle_200", 1, 200, 1.0, 0.0) };
        let one = Row { kib_per_request: Some(2.0), ..row("outstanding_10", 1, 10, 1.0, 0.0) };
        let other = Row { kib_per_request: Some(4.0), ..row("outstanding_10", 2, 10, 1.0, 0.0) };
        let found = of_memory(&[&idle, &one, &other]);
        assert_eq!(
            found,
            BTreeMap::from([("idle_200".to_owned(), 40.0), ("outstanding_10".to_owned(), 3.0),])
        );
    }
}
