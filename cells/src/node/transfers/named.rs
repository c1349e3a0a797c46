//! References as text, and the name of a file, which its holder says and its receiver need not believe.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use cellbus_channels::transfer::SignedReference;
use cellbus_proto::status::Status;

use super::super::observed::bad;
use crate::control::ControlError;

/// The header line that names the file.
const FILE_NAME: &str = "File-Name: ";
/// Bytes in the longest name that is taken.
const NAME_MAX: usize = 200;

/// The headers of a file that is served.
pub(super) fn header(path: &Path) -> Vec<u8> {
    let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name));
    name.map(|name| format!("{FILE_NAME}{name}\n").into_bytes()).unwrap_or_default()
}

/// What the file is called that a reference describes: as its holder says, if that is the name of a file that can be
/// seen and leads nowhere else, and by its id if not.
pub(super) fn name_of(signed: &SignedReference) -> String {
    let headers = std::str::from_utf8(&signed.reference.headers.0).unwrap_or_default();
    let said = headers.lines().find_map(|line| line.strip_prefix(FILE_NAME));
    said.filter(|name| is_plain(name))
        .map_or_else(|| signed.reference.id.to_string(), str::to_owned)
}

/// Whether a name is that of a file in the directory itself, not hidden, and harmless to print.
pub(super) fn is_plain(name: &str) -> bool {
    let is_good = |character: char| !character.is_control() && character != '/';
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.trim() == name
        && name.chars().all(is_good)
}

pub(super) fn to_base64(signed: &SignedReference) -> Result<String, ControlError> {
    let encoded = signed.encode();
    let encoded =
        encoded.map_err(|error| ControlError::status(Status::TooLarge, error.to_string()))?;
    Ok(STANDARD.encode(encoded))
}

pub(super) fn from_base64(text: &str) -> Result<SignedReference, ControlError> {
    let bytes = STANDARD.decode(text.trim());
    let bytes = bytes.map_err(|error| bad(format!("the reference is not base64: {error}")))?;
    SignedReference::decode(&bytes)
        .map_err(|error| bad(format!("this is no reference to a transfer: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_hides_or_draws_is_not_believed() {
        for good in ["weights.bin", "a b", "ü", "-rf", &"x".repeat(200)] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".ssh",
            "a/b",
            "/etc/x",
            "a\0",
            "a\x1b[2J",
            "a\n",
            " a",
            &"x".repeat(201),
        ] {
            assert!(!is_plain(bad), "{bad:?}");
        }
        assert_eq!(header(Path::new("/models/w.bin")), b"File-Name: w.bin\n");
        assert_eq!(header(Path::new("/models/.hidden")), b"");
        assert_eq!(header(Path::new("/")), b"");
    }
}
