//! Weights and how a mean gradient moves them: the one optimiser of federated and central training.

use super::{
    digits::Row,
    softmax::{WEIGHTS, gradient},
};

/// How far and how long to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Full passes over all rows.
    pub rounds: u32,
    /// Length of a step per unit of mean gradient.
    pub rate: f64,
    /// Share of the previous step that is repeated, below 1.
    pub momentum: f64,
}

/// A mean over rows, finite in every element.
#[derive(Clone, Debug, PartialEq)]
pub struct Mean {
    gradient: Vec<f64>,
    loss: f64,
}

/// Why sums make no mean that weights may be moved by.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MeanError {
    /// Not one number per weight.
    #[error("{found} numbers instead of {WEIGHTS}")]
    Length {
        /// Numbers given.
        found: usize,
    },
    /// No rows to divide by.
    #[error("a mean over no rows")]
    NoRows,
    /// An element, or the loss, is infinite or not a number.
    #[error("{} of the mean is not finite", element_name(*.element))]
    NotFinite {
        /// Position in the gradient, or `None` for the loss.
        element: Option<usize>,
    },
}

/// Weights that are being trained by gradient descent with momentum.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimiser {
    weights: Vec<f64>,
    velocity: Vec<f64>,
    rate: f64,
    momentum: f64,
}

impl Default for Schedule {
    /// Enough for more than 90 % of the digits data's test rows.
    fn default() -> Self {
        Self { rounds: 50, rate: 0.5, momentum: 0.9 }
    }
}

impl Mean {
    /// The mean of `sum` and `loss` over `rows`.
    ///
    /// # Errors
    /// [`MeanError`] when the result would not be finite everywhere.
    pub fn new(sum: &[f64], loss: f64, rows: f64) -> Result<Self, MeanError> {
        if sum.len() != WEIGHTS {
            return Err(MeanError::Length { found: sum.len() });
        }
        if rows.is_nan() || rows <= 0.0 {
            return Err(MeanError::NoRows);
        }
        let gradient: Vec<f64> = sum.iter().map(|value| value / rows).collect();
        if let Some(at) = gradient.iter().position(|value| !value.is_finite()) {
            return Err(MeanError::NotFinite { element: Some(at) });
        }
        let loss = loss / rows;
        if !loss.is_finite() {
            return Err(MeanError::NotFinite { element: None });
        }
        Ok(Self { gradient, loss })
    }

    /// Mean cross-entropy before the step, in nats.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss
    }
}

impl Optimiser {
    /// Weights of zero, about to be trained with the rate and momentum of `schedule`.
    #[must_use]
    pub fn new(schedule: &Schedule) -> Self {
        let zeros = vec![0.0; WEIGHTS];
        let Schedule { rate, momentum, .. } = *schedule;
        Self { weights: zeros.clone(), velocity: zeros, rate, momentum }
    }

    /// Moves the weights one step against `mean`.
    pub fn step(&mut self, mean: &Mean) {
        let moving = self.weights.iter_mut().zip(&mut self.velocity).zip(&mean.gradient);
        for ((weight, velocity), slope) in moving {
            *velocity = self.momentum * *velocity - self.rate * slope;
            *weight += *velocity;
        }
    }

    /// The weights as they are now, [`WEIGHTS`] of them.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The weights, when training is over.
    #[must_use]
    pub fn into_weights(self) -> Vec<f64> {
        self.weights
    }
}

/// Trains on all rows in one place, with the same optimiser as the federation: what a federated
/// result is compared with.
///
/// # Panics
/// When `rows` is empty, or `schedule` makes the weights grow without bound.
#[must_use]
pub fn train_centrally(rows: &[Row], schedule: &Schedule) -> Vec<f64> {
    let mut optimiser = Optimiser::new(schedule);
    for _ in 0..schedule.rounds {
        let total = gradient(optimiser.weights(), rows);
        let mean = Mean::new(&total.sum, total.loss, total.rows as f64);
        optimiser.step(&mean.expect("rows from 0 to 1 have a finite gradient"));
    }
    optimiser.into_weights()
}

fn element_name(element: Option<usize>) -> String {
    element.map_or_else(|| "the loss".to_owned(), |at| format!("element {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::{digits, softmax::accuracy, split::train_and_test};

    #[test]
    fn the_default_schedule_passes_nine_tenths_of_the_test_rows() {
        let parts = train_and_test(digits::embedded());
        let weights = train_centrally(&parts.train, &Schedule::default());
        let accuracy = accuracy(&weights, &parts.test);
        assert!(accuracy > 0.90, "{accuracy}");
    }

    #[test]
    fn training_is_the_same_bit_for_bit_every_time() {
        let rows = &digits::embedded()[..200];
        let schedule = Schedule { rounds: 5, ..Schedule::default() };
        assert_eq!(train_centrally(rows, &schedule), train_centrally(rows, &schedule));
    }

    #[test]
    fn a_mean_that_is_not_finite_is_not_made() {
        let mut sum = vec![1.0; WEIGHTS];
        assert_eq!(Mean::new(&sum[1..], 1.0, 1.0), Err(MeanError::Length { found: WEIGHTS - 1 }));
        for rows in [0.0, -1.0, f64::NAN] {
            assert_eq!(Mean::new(&sum, 1.0, rows), Err(MeanError::NoRows));
        }
        for loss in [f64::NAN, f64::INFINITY] {
            let error = Mean::new(&sum, loss, 1.0).unwrap_err();
            assert_eq!(error, MeanError::NotFinite { element: None });
            assert_eq!(error.to_string(), "the loss of the mean is not finite");
        }
        sum[7] = f64::NEG_INFINITY;
        let error = Mean::new(&sum, 1.0, 1.0).unwrap_err();
        assert_eq!(error, MeanError::NotFinite { element: Some(7) });
        assert_eq!(error.to_string(), "element 7 of the mean is not finite");
        sum[7] = f64::MAX;
        assert!(matches!(Mean::new(&sum, 1.0, 1e-3), Err(MeanError::NotFinite { .. })));
    }
}
