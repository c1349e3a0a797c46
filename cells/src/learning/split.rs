//! Which rows are for testing, and which site holds which of the rest.

use super::digits::Row;

/// Every how many rows one is kept for testing.
const TEST_EVERY: usize = 5;

/// Rows to learn from and rows to be examined with; no row is in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// Rows to learn from, in the order of the data.
    pub train: Vec<Row>,
    /// Rows that no site ever sees.
    pub test: Vec<Row>,
}

/// Why rows cannot be dealt out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// Nobody to deal to.
    #[error("there are no sites")]
    NoSites,
    /// A site that would get no row.
    #[error("site {site} of {sites} would get no rows of {rows}")]
    EmptySite {
        /// The site's position, from 1.
        site: usize,
        /// Sites in all.
        sites: usize,
        /// Rows in all.
        rows: usize,
    },
}

/// Takes every fifth row for testing. The same rows for the same data, always.
#[must_use]
pub fn train_and_test(rows: Vec<Row>) -> Parts {
    let mut parts = Parts { train: Vec::with_capacity(rows.len()), test: Vec::new() };
    for (at, row) in rows.into_iter().enumerate() {
        let part =
            if at % TEST_EVERY == TEST_EVERY - 1 { &mut parts.test } else { &mut parts.train };
        part.push(row);
    }
    parts
}

/// Deals `rows` to one site per entry of `shares`, in proportion, each site a contiguous run, so
/// that the sites' rows one after another are `rows` again.
///
/// # Errors
/// [`SplitError`] when there is no site, or a site would have nothing to learn from.
pub fn among_sites<'a>(rows: &'a [Row], shares: &[u32]) -> Result<Vec<&'a [Row]>, SplitError> {
    if shares.is_empty() {
        return Err(SplitError::NoSites);
    }
    let total: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    let mut given: u64 = 0;
    let mut from = 0;
    let mut parts = Vec::with_capacity(shares.len());
    for (at, share) in shares.iter().enumerate() {
        given += u64::from(*share);
        let to = end_of(rows.len(), given, total);
        if from == to {
            return Err(SplitError::EmptySite {
                site: at + 1,
                sites: shares.len(),
                rows: rows.len(),
            });
        }
        parts.push(&rows[from..to]);
        from = to;
    }
    Ok(parts)
}

fn end_of(rows: usize, given: u64, total: u64) -> usize {
    if total == 0 {
        return 0;
    }
    let end = rows as u128 * u128::from(given) / u128::from(total);
    usize::try_from(end).expect("a share of the rows is at most all of them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::digits;

    #[test]
    fn the_parts_are_disjoint_complete_and_the_same_every_time() {
        let rows = digits::embedded();
        let parts = train_and_test(rows.clone());
        assert_eq!((parts.train.len(), parts.test.len()), (1438, 359));
        assert_eq!(parts.test[0], rows[4]);
        assert_eq!(parts.train[4], rows[5]);
        assert_eq!(parts, train_and_test(rows));
    }

    #[test]
    fn uneven_shares_cover_every_row_once_and_in_order() {
        let rows = train_and_test(digits::embedded()).train;
        let sites = among_sites(&rows, &[50, 30, 20]).unwrap();
        assert_eq!(sites.iter().map(|site| site.len()).collect::<Vec<_>>(), [719, 431, 288]);
        assert_eq!(sites.concat(), rows);
    }

    #[test]
    fn a_site_without_rows_is_refused() {
        let rows = &digits::embedded()[..3];
        assert_eq!(among_sites(rows, &[]), Err(SplitError::NoSites));
        let empty = |site, sites| Err(SplitError::EmptySite { site, sites, rows: 3 });
        assert_eq!(among_sites(rows, &[1, 0]), empty(2, 2));
        assert_eq!(among_sites(rows, &[0]), empty(1, 1));
        assert_eq!(among_sites(rows, &[1, 1, 1, 1]), empty(1, 4));
        assert_eq!(among_sites(rows, &[u32::MAX; 3]).map(|sites| sites.len()), Ok(3));
    }
}
