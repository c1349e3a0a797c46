//! What a server wants at a site, held against what the site says it has.
//!
//! Every site tells its table in short intervals. Nothing depends on a single message having arrived: what
//! runs and is not wanted is named in every answer until it is gone, and what is wanted and not there is lost.

use std::collections::BTreeMap;

use super::{JobId, JobState};
use crate::name::Segment;

/// What the server wants of one job at one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which run of it.
    pub attempt: u32,
    /// Whether the site has taken it on: only then can it be missed.
    pub is_confirmed: bool,
    /// Whether it is to end there.
    pub is_to_end: bool,
}

/// What a site says it has of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Which.
    pub id: JobId,
    /// How far it is there.
    pub state: JobState,
}

/// What follows from two tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// What the site must end.
    pub strays: Vec<JobId>,
    /// What the site had and has no longer.
    pub missing: Vec<JobId>,
    /// What the site has, as it should.
    pub seen: Vec<Reported>,
}

/// Holds `wanted`, by job, against what one site has `reported`.
#[must_use]
pub fn reconcile(wanted: &BTreeMap<Segment, Wanted>, reported: &[Reported]) -> Reconciled {
    let mut found = Reconciled::default();
    for report in reported {
        let known = wanted.get(&report.id.job);
        let known = known.filter(|wanted| wanted.attempt == report.id.attempt);
        if known.is_some() {
            found.seen.push(report.clone());
        }
        // Of what has ended nothing runs.
        if report.state != JobState::Ended && known.is_none_or(|wanted| wanted.is_to_end) {
            found.strays.push(report.id.clone());
        }
    }
    for (job, Wanted { attempt, is_confirmed, .. }) in wanted {
        let id = JobId { job: job.clone(), attempt: *attempt };
        if *is_confirmed && !reported.iter().any(|report| report.id == id) {
            found.missing.push(id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(job: u8, attempt: u32) -> JobId {
        JobId { job: format!("job-{job}").parse().unwrap(), attempt }
    }

    fn wanted(jobs: &[(u8, u32, bool)]) -> BTreeMap<Segment, Wanted> {
        jobs.iter()
            .map(|(job, attempt, is_confirmed)| {
                let wanted =
                    Wanted { attempt: *attempt, is_confirmed: *is_confirmed, is_to_end: false };
                (id(*job, 1).job, wanted)
            })
            .collect()
    }

    fn runs(job: u8, attempt: u32) -> Reported {
        Reported { id: id(job, attempt), state: JobState::Running }
    }

    #[test]
    fn f_39_what_the_server_does_not_want_is_named_until_it_is_gone() {
        let found = reconcile(&wanted(&[(1, 2, true)]), &[runs(1, 1), runs(2, 1)]);
        assert_eq!(found.strays, [id(1, 1), id(2, 1)], "another attempt is another job");
        let ended = Reported { id: id(2, 1), state: JobState::Ended };
        assert_eq!(reconcile(&wanted(&[]), &[ended]).strays, []);
    }

    #[test]
    fn g_45_what_a_site_had_and_has_no_longer_is_missing() {
        let wanted = wanted(&[(1, 1, true), (2, 1, false), (3, 2, true)]);
        let found = reconcile(&wanted, &[runs(3, 1)]);
        assert_eq!(found.missing, [id(1, 1), id(3, 2)], "what was never taken on is not missed");
    }

    #[test]
    fn g_45_what_is_to_end_is_named_as_long_as_it_runs() {
        let mut wanted = wanted(&[(1, 1, true)]);
        wanted.values_mut().for_each(|wanted| wanted.is_to_end = true);
        let found = reconcile(&wanted, &[runs(1, 1)]);
        assert_eq!((found.strays, found.missing), (vec![id(1, 1)], vec![]));
        assert_eq!(reconcile(&wanted, &[]).missing, [id(1, 1)]);
    }

    type Tables = (Vec<(u8, u32, bool)>, Vec<(u8, u32)>);

    fn tables() -> impl Strategy<Value = Tables> {
        let wanted = prop::collection::vec((0u8..4, 1u32..3, any::<bool>()), 0..5);
        (wanted, prop::collection::vec((0u8..4, 1u32..3), 0..6))
    }

    proptest! {
        /// After one round in which the site does as it is told, nothing runs there that is not wanted,
        /// everything wanted still runs, and a second round says nothing new.
        #[test]
        fn g_45_one_round_leaves_no_stray_and_takes_nothing_that_is_wanted(tables in tables()) {
            let wanted = wanted(&tables.0);
            let mut site: Vec<Reported> = tables.1.iter().map(|(job, attempt)| runs(*job, *attempt)).collect();
            let is_wanted = |id: &JobId| wanted.get(&id.job).is_some_and(|wanted| wanted.attempt == id.attempt);
            let before: Vec<Reported> = site.iter().filter(|row| is_wanted(&row.id)).cloned().collect();
            let first = reconcile(&wanted, &site);
            site.retain(|row| !first.strays.contains(&row.id));
            prop_assert_eq!(&site, &before);
            let second = reconcile(&wanted, &site);
            prop_assert!(second.strays.is_empty());
            prop_assert_eq!(second.missing, first.missing);
        }
    }
}
