//! A secret, and every form in which it could get into a log.

use std::fmt::{self, Write};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Fewer bytes could be there by chance.
const MIN_LEN: usize = 8;

pub(super) struct Secret {
    name: String,
    forms: Vec<String>,
}

impl Secret {
    #[track_caller]
    pub(super) fn new(name: &str, secret: &[u8]) -> Self {
        assert!(secret.len() >= MIN_LEN, "secret {name} is too short to look for");
        let hex = secret.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes everything");
            hex
        });
        let decimal = format!("{secret:?}");
        let mut forms = vec![
            hex.to_uppercase(),
            hex,
            decimal.trim_matches(['[', ']']).to_owned(),
            secret.escape_ascii().to_string(),
        ];
        forms.extend(std::str::from_utf8(secret).map(str::to_owned));
        forms.extend((0..3).flat_map(|before| base64(secret, before)));
        Self { name: name.to_owned(), forms }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }
}

/// Both alphabets, with so many bytes `before` the secret in what is encoded. Characters that are not of the secret
/// alone are left out.
fn base64(secret: &[u8], before: usize) -> [String; 2] {
    let bytes = [vec![0; before], secret.to_vec()].concat();
    let first = (before * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)]
        .map(|text| text[first..end].to_owned())
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}
