//! Finds secrets in a file that must hold none.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeString, DeValue},
};

use super::problem::{Code, Problem, Problems};

/// How private keys and certificates in PEM begin.
const PEM: &str = "-----BEGIN";

/// Words that, as part of a key's name, say that its value is a secret.
const WORDS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "key",
    "credential",
    "credentials",
];

const HELP: &str = "keep it in a file of its own that only its owner can read; cells look for \
                    their credentials in the state directory. A secret that was shared with this \
                    file should be replaced";

/// Reports every secret in `value`, which stands under a known key. Says whether there was one.
pub(super) fn report_inside(value: &Spanned<DeValue<'_>>, problems: &mut Problems) -> bool {
    match value.get_ref() {
        DeValue::String(text) if text.contains(PEM) => {
            problems.add(pem(value.span()));
            true
        }
        // Counted, so that each of them is reported and not the first alone.
        DeValue::Array(items) => {
            items.iter().filter(|item| report_inside(item, problems)).count() > 0
        }
        DeValue::Table(table) => {
            table.iter().filter(|(key, value)| report_under(key, value, problems)).count() > 0
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => false,
    }
}

/// Reports the unknown key `key` or its value where one of them is a secret, and else every secret
/// in the value. Says whether there was one.
pub(super) fn report_under(
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Problems,
) -> bool {
    if key.get_ref().contains(PEM) {
        problems.add(pem(key.span()));
        return true;
    }
    if !is_called_secret(key.get_ref(), value) {
        return report_inside(value, problems);
    }
    let message = "a secret stands in the file";
    problems.add(Problem::new(Code::Secret, value.span(), message, "not shown").help(HELP));
    true
}

fn pem(span: Range<usize>) -> Problem {
    let message = "a key or certificate stands in the file";
    Problem::new(Code::Secret, span, message, "not shown").help(HELP)
}

/// Whether an unknown key or its value is a secret by itself, whatever key may have been meant.
pub(super) fn is_secret(key: &str, value: &Spanned<DeValue<'_>>) -> bool {
    key.contains(PEM) || is_called_secret(key, value)
}

/// Whether the name of `key` says that `value` is a secret, and `value` could be one.
fn is_called_secret(key: &str, value: &Spanned<DeValue<'_>>) -> bool {
    let could_be = match value.get_ref() {
        DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Array(_) => true,
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Table(_) => false,
    };
    could_be && says_secret(key)
}

fn says_secret(key: &str) -> bool {
    let is_word = |word: &str| WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret));
    is_word(key) || key.split(['_', '-', '.', ' ']).any(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_judged_by_its_words() {
        for secret in ["password", "API_KEY", "private-key", "admin.token", "client_secret"] {
            assert!(says_secret(secret), "{secret}");
        }
        for harmless in ["keyboard", "monkey", "tokens_seen", "secretary", ""] {
            assert!(!says_secret(harmless), "{harmless}");
        }
    }
}
