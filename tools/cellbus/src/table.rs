//! Tables and numbers for people.

use std::time::Duration;

use comfy_table::{ContentArrangement, presets};
use indicatif::{HumanBytes, HumanDuration};

use crate::output::printable;

/// Rows under a heading, aligned by spaces alone, so that they can be cut and searched.
pub struct Table(comfy_table::Table);

impl Table {
    /// An empty table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings);
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        Self(table)
    }

    /// Adds a row. Control characters in it are escaped.
    pub fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.0.add_row(cells.map(|cell| printable(cell).replace('\n', "\\n")));
    }

    /// The text, without spaces at the ends of its lines.
    pub fn render(&self) -> String {
        self.0.trim_fmt()
    }
}

/// A length of time in whole units.
pub fn time(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        HumanDuration(Duration::from_millis(ms)).to_string()
    }
}

/// How far ahead a time is, which is given in seconds since 1970.
pub fn ahead(unix: u64) -> String {
    match unix.checked_sub(now_unix()) {
        Some(0) | None => "over".to_owned(),
        Some(left) => format!("in {}", HumanDuration(Duration::from_secs(left))),
    }
}

/// How long ago a time is, which is given in seconds since 1970.
pub fn ago(unix: u64) -> String {
    format!("{} ago", HumanDuration(Duration::from_secs(now_unix().saturating_sub(unix))))
}

/// Seconds since 1970.
pub fn now_unix() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// A round trip.
pub fn round_trip(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| format!("{}.{:03} ms", us / 1000, us % 1000))
}

/// A number of bytes in binary units.
pub fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// A value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = now_unix();
        assert_eq!(ahead(now + 90 * 86_400 + 5), "in 13 weeks");
        assert_eq!((ahead(now - 1), ahead(now)), ("over".to_owned(), "over".to_owned()));
        assert_eq!(ago(now - 7200), "2 hours ago");
        assert_eq!(ago(now + 5), "0 seconds ago");
    }
}
