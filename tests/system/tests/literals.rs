//! What must not stand in the files of this repository: names of system channels and topics outside of the
//! one module that defines them, files that are created carelessly, and what only one machine knows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use cellbus_proto::well_known;

#[path = "literals/rust_source.rs"]
mod rust_source;

use rust_source::{Production, Token, production};

/// Names that are everyday words too. They are an address only where the code around speaks of one.
const EVERYDAY: [&str; 6] = ["bye", "cell", "certificate", "ping", "quit", "task"];

/// Code that speaks of an address uses one of these.
const SPEAKS_OF_ADDRESSES: [&str; 7] =
    ["Channel", "ChannelTopic", "SystemTopic", "Topic", "channel", "target", "topic"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels down").to_owned()
}

/// Every file below `dir` but what is built, generated or hidden by version control.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of the repository") {
        let entry = entry.expect("an entry of it");
        let (path, kind) = (entry.path(), entry.file_type().expect("its type"));
        if kind.is_dir() && !["target", ".git"].iter().any(|skip| path.ends_with(skip)) {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The system's own words and addresses.
fn reserved() -> BTreeSet<String> {
    let names = well_known::ALL.into_iter().flat_map(|system| {
        let (channel, topic) = (system.channel, system.topic);
        [channel.to_owned(), topic.to_owned(), format!("{channel}/{topic}")]
    });
    names.collect()
}

/// Lines of `source` on which a name of the system is spelled out.
fn spelled_out(source: &Production, reserved: &BTreeSet<String>) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    for (at, token) in source.tokens.iter().enumerate() {
        if let Token::Text { text, line } = token
            && reserved.contains(text)
            && (!EVERYDAY.contains(&&**text) || speaks_of_addresses(&source.tokens, at))
        {
            lines.push((*line, text.clone()));
        }
    }
    lines
}

/// Whether the statement before `at`, or the `match` whose arm it is, speaks of an address.
fn speaks_of_addresses(tokens: &[Token], at: usize) -> bool {
    let statement = |end: usize| {
        let begins = |token: &Token| [';', '{', '}'].iter().any(|mark| token.is(*mark));
        let start = tokens[..end].iter().rposition(begins).map_or(0, |before| before + 1);
        &tokens[start..end]
    };
    let speaks = |statement: &[Token]| {
        statement
            .iter()
            .any(|token| SPEAKS_OF_ADDRESSES.iter().any(|address| token.is_word(address)))
    };
    let is_pattern = match &tokens[at + 1..] {
        [equals, greater, ..] if equals.is('=') && greater.is('>') => true,
        [bar, ..] => bar.is('|'),
        [] => false,
    };
    if !is_pattern {
        return speaks(statement(at));
    }
    let mut depth = 0usize;
    let opening = tokens[..at].iter().rposition(|token| {
        depth += usize::from(token.is('}'));
        let opens = token.is('{');
        let found = opens && depth == 0;
        depth -= usize::from(opens && depth > 0);
        found
    });
    opening.is_some_and(|opening| speaks(statement(opening)))
}

/// The files of production code, with what they say.
fn production_code() -> Vec<(PathBuf, Production)> {
    let root = root();
    let is_production = |path: &PathBuf| {
        let inside = path.strip_prefix(&root).expect("below the root");
        let mut above = inside.iter().take_while(|part| *part != "src");
        inside.extension().is_some_and(|kind| kind == "rs") && !above.any(|part| part == "tests")
    };
    let mut code = Vec::new();
    let mut only_tests = Vec::new();
    for path in files(&root).into_iter().filter(is_production) {
        let source = production(&fs::read_to_string(&path).expect("source is text"));
        let dir = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("lib" | "main") => path.with_file_name(""),
            Some(_) | None => path.with_extension(""),
        };
        only_tests.extend(source.test_modules.iter().map(|name| dir.join(name)));
        code.push((path, source));
    }
    code.retain(|(path, _)| {
        !only_tests.iter().any(|module| path.with_extension("").starts_with(module))
    });
    code
}

#[test]
fn s1_11_system_names_are_spelled_out_in_one_module_only() {
    let (root, reserved) = (root(), reserved());
    let home = root.join("proto/src/well_known.rs");
    let code = production_code();
    assert!(code.iter().any(|(path, _)| *path == home), "the scan missed {}", home.display());
    let mut offences = Vec::new();
    for (path, source) in code.iter().filter(|(path, _)| *path != home) {
        for (line, text) in spelled_out(source, &reserved) {
            offences.push(format!("{}:{line}: {text:?}", path.display()));
        }
    }
    assert!(offences.is_empty(), "use `cellbus_proto::well_known`:\n{}", offences.join("\n"));
}

#[test]
fn everyday_words_are_names_of_the_system() {
    let reserved = reserved();
    assert!(EVERYDAY.iter().all(|word| reserved.contains(*word)));
}

#[test]
fn a_name_is_found_however_it_is_written_and_nowhere_else() {
    let cases = [
        (r#"send("register_child")"#, true),
        (r##"send(r#"register"#)"##, true),
        (r#"match name { b"challenge" => 1 }"#, true),
        (r#""cellnet.channel/bye""#, true),
        (r#"let channel: Channel = "task".parse();"#, true),
        (r#"if header.target.topic() == "bye" {}"#, true),
        (r#"match target.topic() { "x" => { 1; } "bye" | "quit" => 2 }"#, true),
        (r#"let c = '"'; let d = '\''; let e = '\\'; send("register")"#, true),
        (r#"fn f<'a>(x: &'a str) { send("register") }"#, true),
        (r#"/* " */ send("register")"#, true),
        (r#"let path = "C:\\"; send("register")"#, true),
        (r#"#[cfg(test)] use x::{y}; send("register")"#, true),
        (r#"#[cfg(test)] #[path = "p"] mod tests; send("register")"#, true),
        (r#"// send("register")"#, false),
        (r#"/* a /* b */ send("register") */"#, false),
        (r#"/// The topic `"register"`."#, false),
        (r##"let help = r#"send("register")"#;"##, false),
        (r#"log("say \"register\"")"#, false),
        (r#"close(Done, "bye")"#, false),
        (r#"match key { "cell" => list(), _ => other(topic) }"#, false),
        (r#"let topic = 1; close("bye")"#, false),
        (r#"#[cfg(test)] mod tests { fn f() { send("register") } }"#, false),
        (r#"#[cfg(test)] fn f(x: [u8; 3]) { send("register") }"#, false),
        (r#"fn unregister() { register() }"#, false),
    ];
    let reserved = reserved();
    for (source, wanted) in cases {
        let found = spelled_out(&production(source), &reserved);
        assert_eq!(!found.is_empty(), wanted, "{source}: {found:?}");
    }
}

/// Ways of creating a file with the permissions that happen to be the process's.
const CARELESS: [[&str; 2]; 4] =
    [["fs", "write"], ["fs", "copy"], ["File", "create"], ["File", "create_new"]];

/// Whether `code` creates a file so.
fn creates_files_carelessly(code: &Production) -> bool {
    code.tokens.windows(4).any(|window| {
        let [owner, colon, colons, name] = window else { return false };
        let is_path = colon.is(':') && colons.is(':');
        is_path && CARELESS.iter().any(|[of, what]| owner.is_word(of) && name.is_word(what))
    })
}

#[test]
fn s2_01_production_code_creates_files_in_one_module_only() {
    let careless = production_code().into_iter().filter(|(_, code)| creates_files_carelessly(code));
    let careless: Vec<PathBuf> = careless.map(|(path, _)| path).collect();
    assert!(careless.is_empty(), "use `cellbus_runtime::secret_file`: {careless:?}");
    assert!(creates_files_carelessly(&production("std::fs::write(path, key)?;")));
    assert!(!creates_files_carelessly(&production("#[cfg(test)] fn f() { fs::write(p, k) }")));
}

/// A path or an address that means something on one machine only.
fn local_to_a_machine(line: &str) -> Option<&'static str> {
    // Taken apart, so that this file does not hold what it looks for.
    const PATHS: [&str; 4] = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    const REGISTRIES: [&str; 2] = [concat!("replace", "-with"), concat!("sparse", "+http")];
    let begins_path =
        |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || "._-~".contains(c));
    let path = PATHS
        .into_iter()
        .find(|path| line.match_indices(path).any(|(at, _)| begins_path(&line[..at])));
    path.or_else(|| REGISTRIES.into_iter().find(|registry| line.contains(registry)))
}

#[test]
fn no_file_knows_the_machine_that_it_was_written_on() {
    let mut offences = Vec::new();
    for path in files(&root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(what) = local_to_a_machine(line) {
                offences.push(format!("{}:{}: {what}", path.display(), number + 1));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
    assert!(local_to_a_machine(concat!("see \"/wo", "rk/x\"")).is_some());
    assert!(local_to_a_machine("target/work/x ~/home/x").is_none());
}

#[test]
fn every_package_comes_from_the_public_registry() {
    const PUBLIC: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is kept");
    let sources: Vec<&str> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert!(!sources.is_empty());
    assert_eq!(sources.into_iter().find(|source| *source != PUBLIC), None);
}
