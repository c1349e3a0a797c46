//! The digits data: 8 × 8 pictures of handwritten digits, and how its text is read.

/// Pixels of one picture.
pub const PIXELS: usize = 64;
/// Numbers of one row as the model sees it: the pixels and a constant 1 for the bias.
pub const FEATURES: usize = PIXELS + 1;
/// Digits that are told apart.
pub const CLASSES: usize = 10;

const BRIGHTEST: u8 = 16;
const EMBEDDED: &str = include_str!("../../data/digits.csv");

/// One picture and the digit on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Pixels from 0 to 1, then the constant 1.
    pub features: [f64; FEATURES],
    /// The digit, below [`CLASSES`].
    pub digit: usize,
}

/// Why a text is not digits data. Rows and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigitsError {
    /// A row with too few or too many columns.
    #[error("row {row} has {found} columns instead of {}", PIXELS + 1)]
    Columns {
        /// The row.
        row: usize,
        /// Columns in it.
        found: usize,
    },
    /// A cell of the table that is not a whole number in the range of its column.
    #[error("row {row}, column {column}: {text:?} is not a whole number from 0 to {max}")]
    Value {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// What stands there.
        text: String,
        /// The largest number allowed in this column.
        max: u8,
    },
    /// No rows at all.
    #[error("there are no rows")]
    Empty,
}

/// The rows that are compiled into this crate: 1,797 of them.
#[must_use]
pub fn embedded() -> Vec<Row> {
    parse(EMBEDDED).expect("a test reads the embedded rows")
}

/// Reads comma-separated rows of 64 pixels from 0 to 16 and a digit.
///
/// # Errors
/// [`DigitsError`] names the first row and column that is wrong; nothing is skipped or guessed.
pub fn parse(text: &str) -> Result<Vec<Row>, DigitsError> {
    let rows: Vec<Row> = text
        .lines()
        .enumerate()
        .map(|(at, line)| parse_row(at + 1, line))
        .collect::<Result<_, _>>()?;
    if rows.is_empty() { Err(DigitsError::Empty) } else { Ok(rows) }
}

fn parse_row(row: usize, line: &str) -> Result<Row, DigitsError> {
    let cells: Vec<&str> = line.split(',').collect();
    let [pixels @ .., digit] = &cells[..] else { return Err(DigitsError::Empty) };
    if pixels.len() != PIXELS {
        return Err(DigitsError::Columns { row, found: cells.len() });
    }
    let mut features = [1.0; FEATURES];
    for (at, (feature, text)) in features.iter_mut().zip(pixels).enumerate() {
        let pixel = parse_cell(row, at + 1, text, BRIGHTEST)?;
        *feature = f64::from(pixel) / f64::from(BRIGHTEST);
    }
    let digit = usize::from(parse_cell(row, PIXELS + 1, digit, CLASSES as u8 - 1)?);
    Ok(Row { features, digit })
}

fn parse_cell(row: usize, column: usize, text: &str, max: u8) -> Result<u8, DigitsError> {
    // `u8::from_str` takes a leading `+`; the data has none.
    text.parse::<u8>()
        .ok()
        .filter(|value| *value <= max && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| DigitsError::Value { row, column, text: text.to_owned(), max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_rows_are_all_there_and_scaled() {
        let rows = embedded();
        assert_eq!(rows.len(), 1797);
        let mut seen = [0_usize; CLASSES];
        for row in &rows {
            seen[row.digit] += 1;
            assert_eq!(row.features[PIXELS].to_bits(), 1.0_f64.to_bits());
            assert!(row.features.iter().all(|value| (0.0..=1.0).contains(value)));
        }
        assert!(seen.iter().all(|count| *count > 170), "{seen:?}");
        assert!(rows.iter().any(|row| row.features[..PIXELS].contains(&1.0)));
    }

    #[test]
    fn a_wrong_value_is_named_by_row_and_column() {
        let good = vec!["0"; PIXELS + 1].join(",");
        for (bad, column, max) in [
            ("17", 3, 16),
            ("-1", 1, 16),
            ("+1", 2, 16),
            ("nan", 64, 16),
            ("", 5, 16),
            (" 1", 5, 16),
            ("10", 65, 9),
        ] {
            let mut cells = vec!["0"; PIXELS + 1];
            cells[column - 1] = bad;
            let text = format!("{good}\n{}\n", cells.join(","));
            let expected = DigitsError::Value { row: 2, column, text: bad.to_owned(), max };
            assert_eq!(parse(&text), Err(expected));
        }
    }

    #[test]
    fn a_row_of_another_width_and_an_empty_text_are_refused() {
        assert_eq!(parse("1,2,3"), Err(DigitsError::Columns { row: 1, found: 3 }));
        let wide = vec!["0"; PIXELS + 2].join(",");
        assert_eq!(parse(&wide), Err(DigitsError::Columns { row: 1, found: 66 }));
        assert_eq!(parse(""), Err(DigitsError::Empty));
        assert_eq!(parse("\n"), Err(DigitsError::Columns { row: 1, found: 1 }));
    }
}
