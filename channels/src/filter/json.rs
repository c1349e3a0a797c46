//! JSON text with the values under some keys replaced, and every other byte as it was.

use serde::de::IgnoredAny;

use super::redact::DEPTH_MAX;

/// The text with the value under every key that `is_hidden` replaced by `null`; `None` where there is
/// none.
///
/// # Errors
/// What is wrong with the text; nested too deeply counts as wrong.
pub(super) fn redact(
    text: &[u8],
    is_hidden: impl Fn(&str) -> bool,
) -> Result<Option<Vec<u8>>, String> {
    check_depth(text)?;
    let _: IgnoredAny = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let mut scan = Scan { text, at: 0 };
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    // The text is known to be JSON from here on, so a string that a colon follows is a key.
    while let Some(byte) = scan.peek() {
        if byte != b'"' {
            scan.at += 1;
            continue;
        }
        let string = scan.string();
        scan.skip_space();
        if scan.peek() != Some(b':') {
            continue;
        }
        scan.at += 1;
        scan.skip_space();
        let key: String = serde_json::from_slice(string).map_err(|error| error.to_string())?;
        if is_hidden(&key) {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&text[copied..scan.at]);
            out.extend_from_slice(b"null");
            scan.skip_value();
            copied = scan.at;
        }
    }
    if let Some(out) = &mut out {
        out.extend_from_slice(&text[copied..]);
    }
    Ok(out)
}

/// Brackets outside of strings nest no deeper than is looked through.
fn check_depth(text: &[u8]) -> Result<(), String> {
    let (mut scan, mut depth) = (Scan { text, at: 0 }, 0usize);
    while let Some(byte) = scan.peek() {
        match byte {
            b'"' => {
                scan.string();
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err("it is nested too deeply".to_owned());
        }
        scan.at += 1;
    }
    Ok(())
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Goes behind the string that begins here, and gives it with its quotes.
    fn string(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
        &self.text[start..self.at]
    }

    /// Goes behind the value that begins here.
    fn skip_value(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        return;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => return,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return;
                    }
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }
}
