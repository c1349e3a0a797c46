//! A federated training from the side that aggregates: whose turn it is, and what a round yields.

use cellbus_proto::name::Fqcn;

use super::{
    aggregate::{Aggregate, Contribution, Refused},
    optimiser::{Optimiser, Schedule},
};

/// What a site is to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// Compute the gradient at these weights.
    Train {
        /// The round, from 1.
        round: u32,
        /// The weights.
        weights: Vec<f64>,
    },
    /// Ask again: others have not contributed to this round.
    Wait {
        /// The round, from 1.
        round: u32,
    },
    /// Nothing more.
    Done {
        /// Rounds that were trained.
        rounds: u32,
    },
}

/// What an accepted contribution led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Other sites are still missing.
    Waiting {
        /// How many.
        missing: usize,
    },
    /// It was the last of its round, and the weights have moved.
    RoundDone {
        /// The round that is complete.
        round: u32,
        /// Mean loss over all rows before the step, in nats.
        loss: f64,
    },
}

/// Why a submission is refused. Weights, round and contributions are as before.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// For another round than the one that is open.
    #[error("{site} submitted to round {submitted} while {}", open_round(*.open))]
    WrongRound {
        /// The site.
        site: Fqcn,
        /// The round it submitted to.
        submitted: u32,
        /// The open round, or `None` when training is over.
        open: Option<u32>,
    },
    /// The contribution itself.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Full-batch gradient averaging over a fixed set of sites.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    sites: Vec<Fqcn>,
    rounds: u32,
    done: u32,
    optimiser: Optimiser,
    aggregate: Aggregate,
}

impl Training {
    /// A training that starts from zero weights and waits for all `sites` in every round.
    #[must_use]
    pub fn new(sites: impl IntoIterator<Item = Fqcn>, schedule: &Schedule) -> Self {
        let sites: Vec<Fqcn> = sites.into_iter().collect();
        Self {
            aggregate: Aggregate::new(sites.iter().cloned()),
            sites,
            rounds: schedule.rounds,
            done: 0,
            optimiser: Optimiser::new(schedule),
        }
    }

    /// What `site`, the verified sender, is to do next.
    ///
    /// # Errors
    /// [`Refused::UnknownSite`] for a site that takes no part.
    pub fn task_for(&self, site: &Fqcn) -> Result<Task, Refused> {
        if !self.aggregate.expects(site) {
            return Err(Refused::UnknownSite { site: site.clone() });
        }
        Ok(match self.open_round() {
            None => Task::Done { rounds: self.done },
            Some(round) if self.aggregate.has(site) => Task::Wait { round },
            Some(round) => Task::Train { round, weights: self.optimiser.weights().to_vec() },
        })
    }

    /// Takes what `site`, the verified sender, computed for `round`.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing has changed then.
    pub fn submit(
        &mut self,
        site: &Fqcn,
        round: u32,
        contribution: Contribution,
    ) -> Result<Progress, SubmitError> {
        let open = self.open_round();
        if open != Some(round) {
            let site = site.clone();
            return Err(SubmitError::WrongRound { site, submitted: round, open });
        }
        let mut aggregate = self.aggregate.clone();
        aggregate.add(site, contribution)?;
        let missing = aggregate.missing().count();
        if missing > 0 {
            self.aggregate = aggregate;
            return Ok(Progress::Waiting { missing });
        }
        // The last contribution may be the one that the sum cannot bear; then it was never taken.
        let mean = aggregate.mean()?;
        self.optimiser.step(&mean);
        self.done = round;
        self.aggregate = Aggregate::new(self.sites.iter().cloned());
        Ok(Progress::RoundDone { round, loss: mean.loss() })
    }

    /// The round that takes contributions, from 1, or `None` when all are done.
    #[must_use]
    pub fn open_round(&self) -> Option<u32> {
        (self.done < self.rounds).then_some(self.done + 1)
    }

    /// Whether every round is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.open_round().is_none()
    }

    /// The weights as they are now.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        self.optimiser.weights()
    }
}

fn open_round(open: Option<u32>) -> String {
    open.map_or_else(|| "training is over".to_owned(), |round| format!("round {round} is open"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::learning::{
        digits::{self, Row},
        optimiser::train_centrally,
        softmax::{WEIGHTS, accuracy, gradient, max_abs_diff},
        split::{among_sites, train_and_test},
    };

    fn names(count: usize) -> Vec<Fqcn> {
        (1..=count).map(|at| format!("site-{at}").parse().unwrap()).collect()
    }

    fn work(training: &mut Training, site: &Fqcn, rows: &[Row]) -> Progress {
        let Ok(Task::Train { round, weights }) = training.task_for(site) else { panic!("no work") };
        training.submit(site, round, gradient(&weights, rows).into()).unwrap()
    }

    fn train(parts: &[&[Row]], schedule: &Schedule) -> Training {
        let sites = names(parts.len());
        let mut training = Training::new(sites.clone(), schedule);
        while !training.is_done() {
            for (site, rows) in sites.iter().zip(parts).rev() {
                work(&mut training, site, rows);
            }
        }
        training
    }

    #[test]
    fn uneven_sites_learn_what_one_place_with_all_rows_learns() {
        let parts = train_and_test(digits::embedded());
        let schedule = Schedule::default();
        let sites = among_sites(&parts.train, &[50, 30, 20]).unwrap();

        let training = train(&sites, &schedule);

        let central = train_centrally(&parts.train, &schedule);
        let diff = max_abs_diff(training.weights(), &central);
        assert!(diff < 1e-11, "{diff:e}");
        assert!(accuracy(training.weights(), &parts.test) > 0.90);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn federated_is_central_for_every_split(
            shares in proptest::collection::vec(1_u32..100, 1..7),
            first in 0_usize..1200,
            rounds in 1_u32..8,
        ) {
            let rows = &digits::embedded()[first..first + 500];
            let schedule = Schedule { rounds, ..Schedule::default() };
            let Ok(sites) = among_sites(rows, &shares) else { return Err(TestCaseError::reject("empty site")) };

            let training = train(&sites, &schedule);

            let diff = max_abs_diff(training.weights(), &train_centrally(rows, &schedule));
            prop_assert!(diff < 1e-9, "{diff:e}");
        }
    }

    #[test]
    fn a_site_waits_for_the_others_and_stops_when_all_rounds_are_done() {
        let rows = &digits::embedded()[..20];
        let sites = names(2);
        let schedule = Schedule { rounds: 1, ..Schedule::default() };
        let mut training = Training::new(sites.clone(), &schedule);
        let start = training.clone();

        assert_eq!(work(&mut training, &sites[0], rows), Progress::Waiting { missing: 1 });
        assert_eq!(training.task_for(&sites[0]), Ok(Task::Wait { round: 1 }));
        assert_eq!(training.weights(), start.weights());

        let progress = work(&mut training, &sites[1], rows);
        assert!(
            matches!(progress, Progress::RoundDone { round: 1, loss } if (loss - 10_f64.ln()).abs() < 1e-9)
        );
        assert_ne!(training.weights(), start.weights());
        assert_eq!(training.task_for(&sites[0]), Ok(Task::Done { rounds: 1 }));
    }

    #[test]
    fn a_stranger_gets_no_task_and_a_late_or_early_submission_changes_nothing() {
        let rows = &digits::embedded()[..20];
        let sites = names(1);
        let stranger: Fqcn = "site-9".parse().unwrap();
        let schedule = Schedule { rounds: 2, ..Schedule::default() };
        let mut training = Training::new(sites.clone(), &schedule);
        assert_eq!(training.task_for(&stranger), Err(Refused::UnknownSite { site: stranger }));

        work(&mut training, &sites[0], rows);
        let before = training.clone();
        for submitted in [0, 1, 3] {
            let contribution = gradient(training.weights(), rows).into();
            let refused = training.submit(&sites[0], submitted, contribution).unwrap_err();
            let site = sites[0].clone();
            assert_eq!(refused, SubmitError::WrongRound { site, submitted, open: Some(2) });
            assert_eq!(training, before);
        }
        work(&mut training, &sites[0], rows);
        let after = gradient(training.weights(), rows).into();
        let refused = training.submit(&sites[0], 3, after).unwrap_err();
        assert_eq!(refused.to_string(), "site-1 submitted to round 3 while training is over");
    }

    #[test]
    fn s0_16_refused_numbers_move_no_weight_and_the_round_goes_on() {
        let rows = &digits::embedded()[..20];
        let sites = names(2);
        let mut training = Training::new(sites.clone(), &Schedule::default());
        work(&mut training, &sites[0], rows);
        let before = training.clone();
        let good = Contribution::from(gradient(training.weights(), rows));
        let mut spoiled = good.clone();
        spoiled.sum[WEIGHTS - 1] = f64::NAN;
        let bad = [
            spoiled,
            Contribution { rows: -20.0, ..good.clone() },
            Contribution { rows: f64::INFINITY, ..good.clone() },
            Contribution { sum: vec![f64::INFINITY; WEIGHTS], ..good.clone() },
        ];
        for contribution in bad {
            assert!(training.submit(&sites[1], 1, contribution).is_err());
            assert_eq!(training, before);
        }
        let progress = training.submit(&sites[1], 1, good).unwrap();
        assert!(matches!(progress, Progress::RoundDone { round: 1, .. }));
    }

    #[test]
    fn a_contribution_that_the_sum_cannot_bear_is_not_taken() {
        let sites = names(2);
        let mut training = Training::new(sites.clone(), &Schedule::default());
        let huge = Contribution { rows: 1.0, loss: 1.0, sum: vec![f64::MAX; WEIGHTS] };
        training.submit(&sites[0], 1, huge.clone()).unwrap();
        let before = training.clone();

        let refused = training.submit(&sites[1], 1, huge).unwrap_err();

        let (site, element) = (sites[1].clone(), Some(0));
        assert_eq!(refused, SubmitError::Refused(Refused::Overflow { site, element }));
        assert_eq!(training, before);
    }
}
