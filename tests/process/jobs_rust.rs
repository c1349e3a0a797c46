//! The example of job code in Rust, `tools/cellbus/examples/moments.rs`, run as its page in the documents says.

use std::{fmt::Write as _, fs, path::PathBuf};

use crate::driver::{Federation, SOON, Study, outcome};

/// The example, which is built with these tests.
fn moments() -> PathBuf {
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_cellbus")).with_file_name("examples");
    let program = beside.join("moments");
    assert!(program.exists(), "cargo build -p cellbus --example moments has made no {program:?}");
    program
}

/// The numbers of a row, as what a site holds.
fn rows(numbers: std::ops::Range<u32>) -> Vec<[f64; 3]> {
    numbers.map(f64::from).map(|n| [n, n * n, 7.0]).collect()
}

fn text(rows: &[[f64; 3]]) -> String {
    rows.iter().fold(String::new(), |mut text, [a, b, c]| {
        writeln!(text, "{a},{b},{c}").expect("memory takes text");
        text
    })
}

#[test]
fn the_example_in_rust_finds_what_all_rows_in_one_place_give() {
    let program = moments();
    let data = tempfile::tempdir().expect("there is a directory for temporary files");
    let mut offered = format!(
        "[[program]]\nname = \"collect\"\ncells = [\"server\"]\nargv = [{program:?}, \"server\"]\n"
    );
    let sites = [("site-1", rows(0..10)), ("site-2", rows(10..37))];
    for (site, rows) in &sites {
        let file = data.path().join(format!("{site}.csv"));
        fs::write(&file, text(rows)).expect("the directory takes files");
        write!(
            offered,
            "[[program]]\nname = \"measure\"\ncells = [\"{site}\"]\nargv = [{program:?}, \"site\", {file:?}]\n"
        )
        .expect("memory takes text");
    }
    let study = Study { cells: Federation::up_with(&offered) };
    let dir = study.describe("moments", "collect", "measure", "");
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(0), "completed"), "{envelope}: {exit:?}");

    let all: Vec<f64> = sites.iter().flat_map(|(_, rows)| rows).map(|row| row[1]).collect();
    let count = all.len() as f64;
    let mean = all.iter().sum::<f64>() / count;
    let deviation = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
    let said = format!("column 1: mean {mean:.4}, deviation {deviation:.4}");
    for (_, rows) in &sites {
        let whole = format!("{said}, {} of {count} rows", rows.len());
        assert!(exit.out.iter().any(|line| line.contains(&whole)), "{whole}: {:?}", exit.out);
    }
    study.assert_nothing_left();
}

#[test]
fn the_example_in_rust_names_what_is_wrong_with_a_file_and_its_job_fails() {
    let program = moments();
    let data = tempfile::tempdir().expect("there is a directory for temporary files");
    let file = data.path().join("rows.csv");
    fs::write(&file, "1,2\n3,many\n").expect("the directory takes files");
    let offered = format!(
        "[[program]]\nname = \"collect\"\ncells = [\"server\"]\nargv = [{program:?}, \"server\"]\n\
         [[program]]\nname = \"measure\"\ncells = [\"site-*\"]\nargv = [{program:?}, \"site\", {file:?}]\n"
    );
    let study = Study { cells: Federation::up_with(&offered) };
    let dir = study.describe("moments", "collect", "measure", "");
    let exit = study.run(&dir).exit(4 * SOON);
    let (code, ended, envelope) = outcome(&exit);
    assert_eq!((code, ended.as_str()), (Some(1), "failed"), "{envelope}");
    let said = exit.out.iter().any(|line| line.contains("rows.csv, line 2: invalid float literal"));
    assert!(said, "{:?}", exit.out);
    study.assert_nothing_left();
}
