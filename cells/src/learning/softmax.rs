//! Softmax regression: the gradient of its loss over some rows, and how well weights predict.

use super::digits::{CLASSES, FEATURES, Row};

/// Numbers in a set of weights: for each class in turn, one per feature.
pub const WEIGHTS: usize = CLASSES * FEATURES;

/// Sums over rows, not means: sums of parts add up to the sum of the whole, so that averaging over
/// sites gives exactly what one place with all rows would get.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// Derivative of the summed loss by each weight.
    pub sum: Vec<f64>,
    /// Cross-entropy, summed over the rows, in nats.
    pub loss: f64,
    /// Rows it was computed over.
    pub rows: usize,
}

/// The gradient of the cross-entropy at `weights`, summed over `rows` in their order.
///
/// # Panics
/// When `weights` is not [`WEIGHTS`] long: it was checked where it came in.
#[must_use]
pub fn gradient(weights: &[f64], rows: &[Row]) -> Gradient {
    let mut total = Gradient { sum: vec![0.0; WEIGHTS], loss: 0.0, rows: rows.len() };
    for row in rows {
        let scores = scores(weights, row);
        let (chances, log_total) = softmax(&scores);
        total.loss += log_total - scores[row.digit];
        for (class, chance) in chances.into_iter().enumerate() {
            let error = if class == row.digit { chance - 1.0 } else { chance };
            let sums = &mut total.sum[class * FEATURES..(class + 1) * FEATURES];
            for (sum, feature) in sums.iter_mut().zip(&row.features) {
                *sum += error * feature;
            }
        }
    }
    total
}

/// The share of `rows` whose digit gets the highest score, from 0 to 1; 0 for no rows.
///
/// # Panics
/// As [`gradient`].
#[must_use]
pub fn accuracy(weights: &[f64], rows: &[Row]) -> f64 {
    if rows.is_empty() {
        return 0.0;
    }
    let right = rows.iter().filter(|row| predict(weights, row) == row.digit).count();
    right as f64 / rows.len() as f64
}

/// The largest absolute difference between two sets of weights; infinite when it cannot be told.
#[must_use]
pub fn max_abs_diff(left: &[f64], right: &[f64]) -> f64 {
    if left.len() != right.len() {
        return f64::INFINITY;
    }
    left.iter()
        .zip(right)
        .map(|(l, r)| (l - r).abs())
        .fold(0.0, |worst, diff| if diff.is_nan() { f64::INFINITY } else { worst.max(diff) })
}

fn predict(weights: &[f64], row: &Row) -> usize {
    let scores = scores(weights, row);
    (1..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best })
}

fn scores(weights: &[f64], row: &Row) -> [f64; CLASSES] {
    assert_eq!(weights.len(), WEIGHTS, "weights were checked where they came in");
    let mut scores = [0.0; CLASSES];
    for (score, weights) in scores.iter_mut().zip(weights.chunks_exact(FEATURES)) {
        *score = weights.iter().zip(&row.features).map(|(weight, feature)| weight * feature).sum();
    }
    scores
}

/// The chance of each class, and the logarithm of what the scores' exponentials add up to.
fn softmax(scores: &[f64; CLASSES]) -> ([f64; CLASSES], f64) {
    // Exponentials of what is at most zero cannot overflow.
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers = scores.map(|score| (score - highest).exp());
    let total: f64 = powers.iter().sum();
    (powers.map(|power| power / total), highest + total.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::digits;

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let rows = &digits::embedded()[..40];
        let weights: Vec<f64> =
            (0..WEIGHTS).map(|at| ((at * 37 % 101) as f64 - 50.0) / 50.0).collect();
        let computed = gradient(&weights, rows);
        let step = 1e-5;
        for at in (0..WEIGHTS).step_by(13) {
            let loss_at = |by: f64| {
                let mut moved = weights.clone();
                moved[at] += by;
                gradient(&moved, rows).loss
            };
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            assert!((slope - computed.sum[at]).abs() < 1e-5, "{at}: {slope} {}", computed.sum[at]);
        }
    }

    #[test]
    fn sums_of_parts_are_the_sum_of_the_whole() {
        let rows = &digits::embedded()[..100];
        let weights: Vec<f64> = (0..WEIGHTS).map(|at| (at as f64 * 0.7).sin()).collect();
        let whole = gradient(&weights, rows);
        let (left, right) = (gradient(&weights, &rows[..30]), gradient(&weights, &rows[30..]));
        let added: Vec<f64> = left.sum.iter().zip(&right.sum).map(|(l, r)| l + r).collect();
        assert!(max_abs_diff(&added, &whole.sum) < 1e-11);
        assert_eq!(left.rows + right.rows, whole.rows);
    }

    #[test]
    fn without_weights_every_digit_is_equally_likely() {
        let rows = &digits::embedded()[..50];
        let start = gradient(&vec![0.0; WEIGHTS], rows);
        assert!((start.loss / 50.0 - 10_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn huge_weights_do_not_overflow() {
        let rows = &digits::embedded()[..20];
        let weights: Vec<f64> = (0..WEIGHTS).map(|at| (at as f64 - 300.0) * 1e6).collect();
        let computed = gradient(&weights, rows);
        assert!(computed.loss.is_finite());
        assert!(computed.sum.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_difference_that_cannot_be_told_is_infinite() {
        assert_eq!(max_abs_diff(&[1.0, 2.0], &[1.0, 2.5]), 0.5);
        assert_eq!(max_abs_diff(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[f64::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[1.0, f64::NAN, 1.0], &[1.0, 1.0, 9.0]), f64::INFINITY);
    }
}
