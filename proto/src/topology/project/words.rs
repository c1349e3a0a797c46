//! Names that would be mistaken for something else, in a kit or on a file system.

use toml::Spanned;

use crate::topology::{
    problem::{Code, Problem, Problems},
    wording::quoted,
};

/// Names of files and directories of kits and of what provisioning keeps.
const OURS: [&str; 9] = [
    "root",
    "root_cert",
    "root_key",
    "authority",
    "startup",
    "local",
    "state",
    "transfer",
    "records",
];

/// Names that are devices on Windows, where a kit may be carried through.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

fn is_device(name: &str) -> bool {
    let numbered = name.strip_prefix("com").or_else(|| name.strip_prefix("lpt"));
    DEVICES.contains(&name) || numbered.is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']))
}

/// Reports a name that is good as a name and must not be one here.
pub(super) fn check_word(written: &Spanned<String>, problems: &mut Problems) {
    let name = written.get_ref().as_str();
    let label = if OURS.contains(&name) {
        "a file or directory of kits"
    } else if is_device(name) {
        "a device on Windows"
    } else if name.starts_with("xn--") {
        "reads as a name of another alphabet"
    } else {
        return;
    };
    let message = format!("nobody can be called {}", quoted(name));
    problems.add(
        Problem::new(Code::ReservedWord, written.span(), message, label)
            .help("kits lie in directories of these names; choose another one"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v_02_devices_are_told_from_names_that_begin_like_them() {
        for device in ["con", "nul", "com1", "lpt9"] {
            assert!(is_device(device), "{device}");
        }
        for name in ["console", "com", "com10", "lptx", "auxiliary"] {
            assert!(!is_device(name), "{name}");
        }
    }
}
