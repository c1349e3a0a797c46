//! What a cell believes of a directory in which a program can write.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
    spool: Spool,
    mark: Mark,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slurm");
    let spool = Spool::open(&path).unwrap();
    let mark = Mark::random().unwrap();
    spool.make(&mark, &work(), b"the secret").unwrap();
    Place { path: path.join(mark.to_string()), _dir: dir, spool, mark }
}

fn work() -> Work {
    let environment = [("A".to_owned(), "b c'\n".to_owned())].into();
    let limits = ProgramLimits { memory_mib: Some(64), ..ProgramLimits::default() };
    Work::new("site-1.fold".into(), vec!["/bin/true".into()], environment, "/".into(), limits)
}

#[test]
fn c_06_the_secret_is_private_and_gone_once_it_is_taken() {
    let place = place();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path), 0o700);
    assert_eq!(mode(&place.path.join(BOOTSTRAP)), 0o600);
    assert_eq!(take_work(&place.path).unwrap(), work());
    assert_eq!(&**take_bootstrap(&place.path).unwrap(), b"the secret");
    assert!(!place.path.join(BOOTSTRAP).exists());
    // Used twice: C-03.
    assert!(take_bootstrap(&place.path).is_err());
}

#[test]
fn row_97_a_secret_that_is_a_link_or_open_to_others_is_not_taken() {
    let place = place();
    let bootstrap = place.path.join(BOOTSTRAP);
    std::fs::set_permissions(&bootstrap, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(take_bootstrap(&place.path).is_err());
    std::fs::remove_file(&bootstrap).unwrap();
    let victim = place.path.join("victim");
    write_secret_file(&victim, b"another secret").unwrap();
    symlink(&victim, &bootstrap).unwrap();
    assert!(take_bootstrap(&place.path).is_err());
    assert_eq!(std::fs::read(&victim).unwrap(), b"another secret");
}

#[test]
fn j_26_a_result_says_one_of_few_things_or_nothing() {
    let place = place();
    let result = place.path.join(RESULT);
    assert_eq!(place.spool.result(&place.mark), None);
    for exit in [Exit::Code(0), Exit::Code(255), Exit::Signal(9), Exit::Unknown] {
        tell(&place.path, exit).unwrap();
        assert_eq!(place.spool.result(&place.mark), Some(exit));
    }
    for hostile in [
        String::new(),
        "{}".into(),
        r#"{"code":256}"#.into(),
        r#"{"code":-1}"#.into(),
        r#"{"signal":0}"#.into(),
        r#"{"signal":200}"#.into(),
        r#"{"code":0,"signal":9}"#.into(),
        r#"{"completed":true}"#.into(),
        format!("{}{}", r#"{"code":0}"#, " ".repeat(RESULT_MAX)),
    ] {
        std::fs::write(&result, &hostile).unwrap();
        assert_eq!(place.spool.result(&place.mark), None, "{hostile:?}");
    }
}

#[test]
fn j_26_a_result_or_a_log_that_leads_elsewhere_is_not_read() {
    let place = place();
    let elsewhere = place.path.join("elsewhere");
    std::fs::write(&elsewhere, r#"{"code":0}"#).unwrap();
    for name in [RESULT, "out.0"] {
        let link = place.path.join(name);
        let read = || place.spool.printed(&place.mark, Stream::Out, 0, false);
        symlink(&elsewhere, &link).unwrap();
        assert_eq!(place.spool.result(&place.mark), None);
        assert!(name == RESULT || read().is_err());
        std::fs::remove_file(&link).unwrap();
        std::fs::hard_link(&elsewhere, &link).unwrap();
        assert_eq!(place.spool.result(&place.mark), None);
        assert!(name == RESULT || read().is_err());
        std::fs::remove_file(&link).unwrap();
    }
    // The whole directory exchanged for a link.
    let aside = place.path.with_extension("aside");
    std::fs::rename(&place.path, &aside).unwrap();
    std::fs::write(aside.join(RESULT), r#"{"code":0}"#).unwrap();
    symlink(&aside, &place.path).unwrap();
    assert!(!place.spool.holds(&place.mark));
    assert_eq!(place.spool.result(&place.mark), None);
    place.spool.remove(&place.mark);
    assert!(aside.join(RESULT).exists(), "what a link led to was removed");
}

#[test]
fn j_32_a_stream_keeps_its_last_files_and_says_where_it_goes_on() {
    let place = place();
    let mut segments = Segments::new(&place.path, Stream::Out);
    let chunk = vec![7; 1 << 20];
    let mut end = 0;
    for _ in 0..20 {
        segments.push(end, &chunk).unwrap();
        end += chunk.len() as u64;
    }
    let size: u64 = std::fs::read_dir(&place.path)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_str().unwrap().starts_with("out."))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(size <= 2 * segments::SEGMENT, "{size}");
    let read =
        |from, is_over| place.spool.printed(&place.mark, Stream::Out, from, is_over).unwrap();
    let (mut at, mut taken) = (0, 0);
    loop {
        let printed = read(at, true);
        assert!(printed.from >= at);
        at = printed.from + printed.bytes.len() as u64;
        taken += printed.bytes.len() as u64;
        if printed.is_end {
            break;
        }
    }
    assert_eq!((at, taken), (end, size));
    assert_eq!(read(end, false), Printed { bytes: vec![], from: end, is_end: false });
    // Some bytes were dropped before they were written.
    segments.push(end + 10, b"later").unwrap();
    let later = Printed { bytes: b"later".to_vec(), from: end + 10, is_end: false };
    assert_eq!(read(end, false), later);
    let nothing = place.spool.printed(&place.mark, Stream::Err, 0, false).unwrap();
    assert_eq!(nothing, Printed::default());
}

#[test]
fn a_mark_is_nothing_that_a_path_could_be_made_of() {
    let long = "0".repeat(33);
    for hostile in
        ["", "..", "../../../../../../../../../../../x", &long, &"G".repeat(32), &"A".repeat(32)]
    {
        assert!(hostile.parse::<Mark>().is_err(), "{hostile:?}");
    }
    let mark = Mark::random().unwrap();
    assert_eq!(mark.to_string().parse::<Mark>().as_ref(), Ok(&mark));
}
