//! An error in one line, for a log or another cell: what happened and what that came from.

use std::error::Error;

/// The text of `error` and of every source behind it, nearest first, joined with `: `.
///
/// # Examples
/// ```
/// # use cellbus_proto::causes::with_sources;
/// #[derive(Debug, thiserror::Error)]
/// #[error("cannot start")]
/// struct StartError(#[from] std::io::Error);
///
/// let error = StartError(std::io::Error::other("no such host"));
/// assert_eq!(with_sources(&error), "cannot start: no such host");
/// ```
#[must_use]
pub fn with_sources(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
