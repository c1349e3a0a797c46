//! What the sites' contributions to one round add up to, and which contributions are refused.
//!
//! The checks here keep broken numbers out: what is not finite, not countable, not of the right
//! length, not from a site of this round. They are hygiene and no defence against poisoning: a site
//! can send finite numbers that do more harm than any of these.

use std::collections::BTreeMap;

use cellbus_proto::name::Fqcn;

use super::{
    optimiser::{Mean, MeanError},
    softmax::{Gradient, WEIGHTS},
};

/// The most rows that one contribution may claim.
pub const MAX_ROWS: f64 = 1e9;

/// What one site says that it computed. Nothing of it is believed before it is added.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// Rows that the sums go over, the weight of this site in the mean.
    pub rows: f64,
    /// Summed loss.
    pub loss: f64,
    /// Summed gradient.
    pub sum: Vec<f64>,
}

/// The contributions to one round, one slot per site.
///
/// They are added up in the order of the sites' names, whatever order they came in, so that the
/// result is the same to the last bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    slots: BTreeMap<Fqcn, Option<Contribution>>,
}

/// Why a contribution, or the whole round, is refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// A site that takes no part.
    #[error("{site} takes no part in this round")]
    UnknownSite {
        /// The site.
        site: Fqcn,
    },
    /// A site that has contributed already.
    #[error("{site} has contributed to this round already")]
    Twice {
        /// The site.
        site: Fqcn,
    },
    /// Not one number per weight.
    #[error("{site} sent {found} numbers instead of {WEIGHTS}")]
    WrongLength {
        /// The site.
        site: Fqcn,
        /// Numbers sent.
        found: usize,
    },
    /// A row count that is not a whole number from 1 to [`MAX_ROWS`].
    #[error("{site} claims {rows} rows, which is not a whole number from 1 to {MAX_ROWS}")]
    BadRows {
        /// The site.
        site: Fqcn,
        /// What it claims.
        rows: f64,
    },
    /// A loss that is infinite, not a number, or below zero.
    #[error("{site} claims a loss of {loss}, which no rows can have")]
    BadLoss {
        /// The site.
        site: Fqcn,
        /// What it claims.
        loss: f64,
    },
    /// A number that is infinite or not a number.
    #[error("{site} sent {value} as element {element}")]
    NotFinite {
        /// The site.
        site: Fqcn,
        /// Position in the gradient, from 0.
        element: usize,
        /// What stands there.
        value: f64,
    },
    /// Finite numbers whose sum is not.
    #[error("adding what {site} sent overflows {}", place(*.element))]
    Overflow {
        /// The site whose contribution was too much.
        site: Fqcn,
        /// Position in the gradient, or `None` for the loss.
        element: Option<usize>,
    },
    /// Sites that have not contributed.
    #[error("missing: {}", names(.sites))]
    Missing {
        /// The sites, in order; at least one.
        sites: Vec<Fqcn>,
    },
}

impl Contribution {
    fn check(&self, site: &Fqcn) -> Result<(), Refused> {
        if self.sum.len() != WEIGHTS {
            return Err(Refused::WrongLength { site: site.clone(), found: self.sum.len() });
        }
        // Written so that a NaN fails: it is in no range.
        if !((1.0..=MAX_ROWS).contains(&self.rows) && self.rows.fract() == 0.0) {
            return Err(Refused::BadRows { site: site.clone(), rows: self.rows });
        }
        if !(0.0..=f64::MAX).contains(&self.loss) {
            return Err(Refused::BadLoss { site: site.clone(), loss: self.loss });
        }
        let bad = self.sum.iter().copied().enumerate().find(|(_, value)| !value.is_finite());
        bad.map_or(Ok(()), |(element, value)| {
            Err(Refused::NotFinite { site: site.clone(), element, value })
        })
    }
}

impl From<Gradient> for Contribution {
    fn from(gradient: Gradient) -> Self {
        Self { rows: gradient.rows as f64, loss: gradient.loss, sum: gradient.sum }
    }
}

impl Aggregate {
    /// An empty slot for each of `sites`.
    #[must_use]
    pub fn new(sites: impl IntoIterator<Item = Fqcn>) -> Self {
        Self { slots: sites.into_iter().map(|site| (site, None)).collect() }
    }

    /// Takes what `site` computed. `site` is the verified sender, never a name from the message.
    ///
    /// # Errors
    /// [`Refused`] names the site and, where one element is at fault, the element.
    pub fn add(&mut self, site: &Fqcn, contribution: Contribution) -> Result<(), Refused> {
        let Some(slot) = self.slots.get_mut(site) else {
            return Err(Refused::UnknownSite { site: site.clone() });
        };
        if slot.is_some() {
            return Err(Refused::Twice { site: site.clone() });
        }
        contribution.check(site)?;
        *slot = Some(contribution);
        Ok(())
    }

    /// Whether `site` has contributed.
    #[must_use]
    pub fn has(&self, site: &Fqcn) -> bool {
        self.slots.get(site).is_some_and(Option::is_some)
    }

    /// Whether `site` has a slot.
    #[must_use]
    pub fn expects(&self, site: &Fqcn) -> bool {
        self.slots.contains_key(site)
    }

    /// The sites that have not contributed, in order.
    pub fn missing(&self) -> impl Iterator<Item = &Fqcn> {
        self.slots.iter().filter(|(_, slot)| slot.is_none()).map(|(site, _)| site)
    }

    /// The mean over all rows of all sites.
    ///
    /// # Errors
    /// [`Refused::Missing`] while a site is missing, [`Refused::Overflow`] when the sum is not
    /// finite.
    pub fn mean(&self) -> Result<Mean, Refused> {
        let missing: Vec<Fqcn> = self.missing().cloned().collect();
        if !missing.is_empty() || self.slots.is_empty() {
            return Err(Refused::Missing { sites: missing });
        }
        let (mut sum, mut loss, mut rows) = (vec![0.0; WEIGHTS], 0.0, 0.0);
        for (site, contribution) in self.contributions() {
            let overflow = |element| Refused::Overflow { site: site.clone(), element };
            for (element, (total, value)) in sum.iter_mut().zip(&contribution.sum).enumerate() {
                *total += value;
                if !f64::is_finite(*total) {
                    return Err(overflow(Some(element)));
                }
            }
            loss += contribution.loss;
            if !f64::is_finite(loss) {
                return Err(overflow(None));
            }
            rows += contribution.rows;
        }
        Mean::new(&sum, loss, rows).map_err(|error| self.blame(&error))
    }

    fn contributions(&self) -> impl Iterator<Item = (&Fqcn, &Contribution)> {
        self.slots.iter().filter_map(|(site, slot)| slot.as_ref().map(|found| (site, found)))
    }

    /// A mean of finite sums over at least one row is finite; should that ever not hold, the round
    /// is refused all the same.
    fn blame(&self, error: &MeanError) -> Refused {
        let element = match error {
            MeanError::NotFinite { element } => *element,
            MeanError::Length { .. } | MeanError::NoRows => None,
        };
        let site = self.slots.keys().next_back().expect("a round without sites has no mean");
        Refused::Overflow { site: site.clone(), element }
    }
}

impl Refused {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSite { .. } => "UNKNOWN_SITE",
            Self::Twice { .. } => "CONTRIBUTED_TWICE",
            Self::WrongLength { .. } => "WRONG_LENGTH",
            Self::BadRows { .. } => "BAD_ROWS",
            Self::BadLoss { .. } => "BAD_LOSS",
            Self::NotFinite { .. } => "NOT_FINITE",
            Self::Overflow { .. } => "OVERFLOW",
            Self::Missing { .. } => "MISSING_SITES",
        }
    }
}

fn place(element: Option<usize>) -> String {
    element.map_or_else(|| "the loss".to_owned(), |at| format!("element {at}"))
}

fn names(sites: &[Fqcn]) -> String {
    sites.iter().map(Fqcn::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
