//! The files of the vectors, and of the generated parts of the document.

use std::{fs, path::PathBuf};

use super::Vector;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn writes() -> bool {
    std::env::var_os("CELLBUS_WRITE_VECTORS").is_some_and(|value| value == "1")
}

/// A certificate of the worked example, DER.
pub(super) fn certificate(name: &str) -> Vec<u8> {
    let path = root().join("tests/vectors/wire/v1/certs").join(format!("{name}.der"));
    fs::read(path).expect("the certificates of the example are there")
}

/// Compares `vectors` with the files of a directory, which must hold nothing else.
pub(super) fn compare(kind: &str, vectors: &[Vector]) {
    let directory = root().join("tests/vectors/wire/v1").join(kind);
    let mut expected = Vec::new();
    for (number, vector) in vectors.iter().enumerate() {
        let stem = format!("{:03}-{}", number + 1, vector.name);
        let json = crate::testing::pretty(&vector.json) + "\n";
        expected.push((format!("{stem}.bin"), vector.bytes.clone()));
        expected.push((format!("{stem}.json"), json.into_bytes()));
    }
    expected.sort();
    if writes() {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in &expected {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let mut found: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, expected.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, bytes) in expected {
        assert!(fs::read(directory.join(&name)).unwrap() == bytes, "{name} differs");
    }
}

/// Compares the part of the document between `<!-- begin NAME -->` and `<!-- end NAME -->` with `want`.
pub(super) fn compare_part(name: &str, want: &str) {
    let path = root().join("docs/PROTOCOL.md");
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("no `{begin}`")) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("no `{end}`"));
    if writes() {
        let text = [&text[..from], want, &text[to..]].concat();
        fs::write(path, text).unwrap();
        return;
    }
    assert!(text[from..to] == *want, "part `{name}` of docs/PROTOCOL.md should be:\n{want}");
}
