//! How names and values are quoted in messages, and which name a person may have meant.

use crate::name::Segment;

const QUOTED_CHARS_MAX: usize = 60;
const WORD_BYTES_MAX: usize = 64;

/// Characters that look like a letter, digit or mark that names may contain.
const LOOK_ALIKES: &[(char, char)] = &[
    ('а', 'a'),
    ('с', 'c'),
    ('ԁ', 'd'),
    ('е', 'e'),
    ('һ', 'h'),
    ('і', 'i'),
    ('ı', 'i'),
    ('ј', 'j'),
    ('ӏ', 'l'),
    ('о', 'o'),
    ('р', 'p'),
    ('ԛ', 'q'),
    ('ѕ', 's'),
    ('у', 'y'),
    ('х', 'x'),
    ('ԝ', 'w'),
    ('α', 'a'),
    ('ο', 'o'),
    ('ν', 'v'),
    ('ρ', 'p'),
    ('А', 'a'),
    ('В', 'b'),
    ('С', 'c'),
    ('Е', 'e'),
    ('Н', 'h'),
    ('К', 'k'),
    ('М', 'm'),
    ('О', 'o'),
    ('Р', 'p'),
    ('Т', 't'),
    ('Х', 'x'),
    ('‐', '-'),
    ('‑', '-'),
    ('‒', '-'),
    ('–', '-'),
    ('—', '-'),
    ('−', '-'),
];

/// The text in backticks, cut to a readable length; what is not printable ASCII is spelled out.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (count, c) in text.chars().enumerate() {
        if count == QUOTED_CHARS_MAX {
            out.push_str("..");
            break;
        }
        match c {
            ' '..='~' => out.push(c),
            _ => out.extend(c.escape_default()),
        }
    }
    out.push('`');
    out
}

/// The words as a list for people.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// The text in lower case, without invisible characters, look-alikes replaced.
pub(super) fn folded(text: &str) -> String {
    text.chars()
        .filter(|c| !is_invisible(*c))
        .map(|c| match c {
            '\u{ff01}'..='\u{ff5e}' => {
                char::from_u32(u32::from(c) - 0xfee0).expect("full-width forms mirror ASCII")
            }
            _ => LOOK_ALIKES.iter().find(|(from, _)| *from == c).map_or(c, |(_, to)| *to),
        })
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// What a valid name looks like at a glance; two names with one skeleton are easily confused.
pub(super) fn skeleton(name: &Segment) -> String {
    let look = |c| match c {
        '0' => 'o',
        '1' => 'l',
        '_' => '-',
        _ => c,
    };
    name.as_str().chars().map(look).collect()
}

/// The name that `text` may have been meant to be, if there is one.
pub(super) fn repaired(text: &str) -> Option<Segment> {
    let repaired: String = folded(text)
        .chars()
        .map(|c| if matches!(c, 'a'..='z' | '0'..='9' | '_' | '-') { c } else { '-' })
        .collect();
    repaired.trim_matches(['-', '_']).parse().ok()
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = folded(word).into_bytes();
    let limit = (word.len().max(3) / 3).min(3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= limit)
        .map(|candidate| (distance(&word, candidate.as_bytes()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours from one word to the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_what_was_meant() {
        let cells = ["server", "relay-eu", "site-1"];
        for (word, meant) in [
            ("sever", Some("server")),
            ("sevrer", Some("server")),
            ("Server", Some("server")),
            ("sеrver", Some("server")),
            ("ｒelay-eu", Some("relay-eu")),
            ("relay_eu", Some("relay-eu")),
            ("site-2", Some("site-1")),
            ("hospital", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, cells), meant, "{word}");
        }
        assert_eq!(nearest(&"s".repeat(100_000), cells), None);
    }

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        assert_eq!(quoted("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quoted("sеrver"), "`s\\u{435}rver`");
        assert_eq!(quoted(&"x".repeat(1000)).len(), QUOTED_CHARS_MAX + 4);
    }

    #[test]
    fn a_name_is_repaired_only_into_a_name() {
        for (text, name) in [
            ("Site-1", Some("site-1")),
            ("site 1", Some("site1")),
            ("site.1", Some("site-1")),
            ("_site", Some("site")),
            ("", None),
            ("***", None),
        ] {
            assert_eq!(repaired(text).as_ref().map(Segment::as_str), name, "{text}");
        }
    }
}
