//! Every target, over its corpus, the vectors, and seeded mutations of both.
//!
//! Runs on a small stack: what a peer sends may not decide how deep we recurse.

use std::{fs, path::PathBuf, thread};

use cellbus_fuzz::TARGETS;

const SMALL_STACK: usize = 512 << 10;

/// What is used besides `corpus/TARGET`: a directory, the ending of its files, and bytes to leave out
/// at their beginning.
const SHARED: [(&str, &str, &str, usize); 15] = [
    ("frame", "vectors/wire/v1/good", "bin", 0),
    ("frame", "vectors/wire/v1/bad", "bin", 0),
    ("header", "vectors/wire/v1/good", "bin", 7),
    ("header", "vectors/wire/v1/bad", "bin", 7),
    ("header", "vectors/wire/v1/bad", "bin", 0),
    ("local_frame", "vectors/local/good", "bin", 0),
    ("local_frame", "vectors/local/bad", "bin", 0),
    ("token", "vectors/wire/v1/good", "bin", 0),
    ("token", "vectors/wire/v1/bad", "bin", 0),
    ("transfer", "vectors/transfer/good", "bin", 0),
    ("transfer", "vectors/transfer/bad", "bin", 0),
    ("transfer", "vectors/transfer/sealed", "bin", 0),
    ("topology", "../docs/examples", "toml", 0),
    ("identity_uri", "fuzz/corpus/topology", "toml", 0),
    ("topology", "fuzz/corpus/identity_uri", "txt", 0),
];

fn files(directory: &str, ending: Option<&str>) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(directory);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| ending.is_none_or(|ending| path.extension().is_some_and(|e| e == ending)));
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).expect("a readable file")).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut seeds = files(&format!("fuzz/corpus/{target}"), None);
    for (_, directory, ending, skip) in SHARED.iter().filter(|(name, ..)| *name == target) {
        let found = files(directory, Some(ending));
        seeds.extend(found.into_iter().map(|bytes| bytes[bytes.len().min(*skip)..].to_vec()));
    }
    seeds
}

/// SplitMix64, Steele et al. 2014.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.throw() % end.max(1) as u64) as usize
    }
}

/// One to four changes of the kinds that find things: bits, bytes at the edges of ranges, lengths,
/// pieces twice or not at all, pieces of other seeds.
fn mutate(seed: &[u8], others: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    const EDGES: [u8; 14] =
        [0, 1, 0x7f, 0x80, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc4, 0xcc, 0xdd, 0xfe, 0xff];
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let end = bytes.len().min(at + dice.below(16));
        match dice.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 if at < bytes.len() => bytes[at] = EDGES[dice.below(EDGES.len())],
            2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let other = &others[dice.below(others.len())];
                let from = dice.below(other.len() + 1);
                let to = other.len().min(from + dice.below(64));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => bytes.insert(at, EDGES[dice.below(EDGES.len())]),
        }
    }
    bytes
}

/// Runs `target` over its seeds and `each` mutations of every one.
fn replay(name: &'static str, each: usize) {
    let (_, target) = *TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let seeds = seeds(name);
    assert!(seeds.len() > 4, "{name} has hardly any seeds");
    let run = move || {
        for seed in &seeds {
            target(seed);
        }
        for (number, seed) in seeds.iter().enumerate() {
            let mut dice = Dice(number as u64);
            let mut last = seed.clone();
            for round in 0..each {
                // Every other one goes further from where the last one went.
                let from = if round % 2 == 0 { seed } else { &last };
                last = mutate(from, &seeds, &mut dice);
                let (tried, shown) = (last.clone(), last.clone());
                let outcome = std::panic::catch_unwind(move || target(&tried));
                assert!(outcome.is_ok(), "{name} fails for {}", shown.escape_ascii());
            }
        }
    };
    let small = thread::Builder::new().name(name.to_owned()).stack_size(SMALL_STACK);
    let done = small.spawn(run).expect("a thread").join();
    assert!(done.is_ok(), "{name} failed, as said above");
}

#[test]
fn atk_096_frames() {
    replay("frame", 300);
}

#[test]
fn atk_096_headers() {
    replay("header", 200);
}

#[test]
fn atk_096_topology_files() {
    replay("topology", 500);
}

#[test]
fn atk_096_frames_of_the_local_socket() {
    replay("local_frame", 500);
}

#[test]
fn atk_096_identity_uris() {
    replay("identity_uri", 3000);
}

#[test]
fn atk_096_tokens() {
    replay("token", 30);
}

#[test]
fn atk_096_transfers() {
    replay("transfer", 300);
}

#[test]
fn every_corpus_has_a_target_and_every_target_a_corpus() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = fs::read_dir(directory).unwrap();
    let mut found: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut names = TARGETS.map(|(name, _)| name.to_owned());
    names.sort();
    assert_eq!(found, names);
}
