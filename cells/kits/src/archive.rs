//! A kit as one sealed file: a tar archive inside of age. What is read from one is held against limits first.

use std::{
    collections::BTreeSet,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use cellbus_runtime::secret_file::{
    EntryKind, SecretFileError, Staging, check_private, list_private_tree, read_secret_file,
    write_secret_file,
};
use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

use crate::{
    kit::{Kit, Refused},
    layout::{ENTRIES_MAX, FILE_MAX_BYTES, LOCAL, STARTUP},
    seal::{OpenWith, SealError, SealWith, seal, unseal},
};

/// Bytes in the largest archive, sealed or not.
pub const ARCHIVE_MAX_BYTES: usize = 64 << 20;
/// Bytes in the longest path.
const PATH_MAX_BYTES: usize = 240;
/// Levels in the deepest path.
const LEVELS_MAX: usize = 16;

/// Why a kit is not sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The kit is not as it was signed.
    #[error("the kit is not sealed as it is")]
    Kit(#[from] Refused),
    /// A file or directory cannot be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It cannot be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An entry of the archive is not one that a kit has.
    #[error("the archive holds something that no kit has: {0}")]
    Entry(String),
    /// The archive ends too early, or is no archive.
    #[error("the archive is damaged")]
    Damaged,
    /// The archive cannot be put together.
    #[error("cannot pack the kit")]
    Pack(#[source] std::io::Error),
}

/// Seals the kit in `dir` into the file `to`.
///
/// # Errors
/// [`ArchiveError`]; `to` is then as it was. A kit that is not as it was signed is not sealed.
pub fn seal_kit(dir: &Path, to: &Path, with: &SealWith, now_unix: u64) -> Result<(), ArchiveError> {
    let kit = Kit::open(dir, None, now_unix)?;
    let packed = pack(dir, kit.manifest.name.as_str())?;
    Ok(write_secret_file(to, &seal(&packed, with)?)?)
}

/// Opens a sealed kit into the new directory `to`, all of it or nothing.
///
/// # Errors
/// [`ArchiveError`]; nothing stands at `to` then that did not before.
pub fn open_kit(sealed: &Path, to: &Path, with: &OpenWith) -> Result<(), ArchiveError> {
    let sealed = read_sealed(sealed)?;
    let packed = unseal(&sealed, with, ARCHIVE_MAX_BYTES)?;
    let contents = unpack(&packed)?;
    let staging = Staging::begin(to)?;
    for dir in &contents.dirs {
        staging.create_dir(dir)?;
    }
    for (path, content) in &contents.files {
        staging.write(path, content)?;
    }
    Ok(staging.publish()?)
}

/// The sealed file is no secret, so anybody may have carried it here; nothing in it is believed.
fn read_sealed(path: &Path) -> Result<Vec<u8>, ArchiveError> {
    Ok(cellbus_runtime::secret_file::read_bounded_file(path, ARCHIVE_MAX_BYTES)?)
}

fn pack(dir: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, ArchiveError> {
    let mut builder = Builder::new(Vec::new());
    let add = |builder: &mut Builder<Vec<u8>>, path: String, kind, mode, content: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).map_err(ArchiveError::Pack)
    };
    add(&mut builder, format!("{name}/"), EntryType::Directory, 0o700, &[])?;
    for part in [STARTUP, LOCAL] {
        let top = dir.join(part);
        check_private(&top)?;
        add(&mut builder, format!("{name}/{part}/"), EntryType::Directory, 0o700, &[])?;
        for entry in list_private_tree(&top, ENTRIES_MAX)? {
            let inside = entry.inside.to_str().ok_or(ArchiveError::Damaged)?;
            let path = format!("{name}/{part}/{inside}");
            match entry.kind {
                EntryKind::Directory => {
                    add(&mut builder, format!("{path}/"), EntryType::Directory, 0o700, &[])?;
                }
                EntryKind::File => {
                    let file = top.join(&entry.inside);
                    let content = match part {
                        STARTUP => read_secret_file(&file, FILE_MAX_BYTES)?,
                        _ => Zeroizing::new(cellbus_runtime::secret_file::read_trusted_file(
                            &file,
                            FILE_MAX_BYTES,
                        )?),
                    };
                    add(&mut builder, path, EntryType::Regular, 0o600, &content)?;
                }
                EntryKind::Other => {
                    return Err(ArchiveError::Entry(path.escape_default().to_string()));
                }
            }
        }
    }
    Ok(Zeroizing::new(builder.into_inner().map_err(ArchiveError::Pack)?))
}

/// What an archive holds, below its one directory.
#[derive(Debug, Default)]
struct Contents {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, Zeroizing<Vec<u8>>)>,
}

/// Reads an archive of one kit.
///
/// # Errors
/// [`ArchiveError::Entry`] for anything but plain files and directories below one directory, for paths that
/// lead elsewhere or mean two things on some system, and for more or larger files than a kit has.
fn unpack(packed: &[u8]) -> Result<Contents, ArchiveError> {
    // An archive ends with two blocks of zeros; one that was cut has not got them.
    const BLOCK: usize = 512;
    const END: usize = 2 * BLOCK;
    let end = packed.len().checked_sub(END).filter(|_| packed.len().is_multiple_of(BLOCK));
    let is_whole = end.is_some_and(|at| packed[at..].iter().all(|byte| *byte == 0));
    if !is_whole {
        return Err(ArchiveError::Damaged);
    }
    let mut archive = Archive::new(Cursor::new(packed));
    let entries = archive.entries().map_err(|_| ArchiveError::Damaged)?.raw(true);
    let mut contents = Contents::default();
    let mut seen = BTreeSet::new();
    let mut top: Option<String> = None;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|_| ArchiveError::Damaged)?;
        let path = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| ArchiveError::Entry("a name that is no text".to_owned()))?;
        let refuse = |what: &str| ArchiveError::Entry(format!("{} {what}", path.escape_default()));
        if count >= ENTRIES_MAX {
            return Err(refuse("is one too many"));
        }
        let kind = entry.header().entry_type();
        let is_dir = kind == EntryType::Directory;
        if !is_dir && kind != EntryType::Regular {
            return Err(refuse("is neither a file nor a directory"));
        }
        let plain = path.strip_suffix('/').unwrap_or(&path);
        check_path(plain).map_err(refuse)?;
        if !seen.insert(plain.to_lowercase()) {
            return Err(refuse("is there twice"));
        }
        let (first, rest) = plain.split_once('/').unwrap_or((plain, ""));
        if *top.get_or_insert_with(|| first.to_owned()) != *first {
            return Err(refuse("is beside the kit"));
        }
        if rest.is_empty() {
            if !is_dir {
                return Err(refuse("is no directory"));
            }
            continue;
        }
        if is_dir {
            contents.dirs.push(PathBuf::from(rest));
            continue;
        }
        let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
        if size > FILE_MAX_BYTES {
            return Err(refuse("is too large"));
        }
        let mut content = Zeroizing::new(vec![0; size]);
        entry.read_exact(&mut content).map_err(|_| ArchiveError::Damaged)?;
        contents.files.push((PathBuf::from(rest), content));
    }
    Ok(contents)
}

/// Whether a path stays below where it is opened, and means the same on every system.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > PATH_MAX_BYTES {
        return Err("is too long a path, or none");
    }
    if path.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || matches!(byte, b'\\' | b':')) {
        return Err("has a character that not every system takes");
    }
    let mut levels = 0;
    for part in path.split('/') {
        levels += 1;
        if part.is_empty() || part == "." || part == ".." {
            return Err("leads elsewhere");
        }
        if part.ends_with(['.', ' ']) {
            return Err("ends with a dot or space");
        }
    }
    if levels > LEVELS_MAX { Err("is too deep") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("startup/cell.key").unwrap();
            }
            // Written as it is: what makes archives refuses to make bad ones.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: EntryType = EntryType::Regular;
    const DIR: EntryType = EntryType::Directory;

    #[test]
    fn j_04_a_plain_archive_is_read() {
        let packed = archive(&[
            ("kit/", DIR, b""),
            ("kit/startup/", DIR, b""),
            ("kit/startup/a", FILE, b"x"),
        ]);
        let contents = unpack(&packed).unwrap();
        assert_eq!(contents.dirs, [PathBuf::from("startup")]);
        assert_eq!(contents.files[0].0, PathBuf::from("startup/a"));
        assert_eq!(*contents.files[0].1, b"x");
    }

    #[test]
    fn j_04_v_23_nothing_but_plain_files_and_directories_is_taken_from_an_archive() {
        let kinds = [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::Block,
            EntryType::Continuous,
            EntryType::GNULongName,
            EntryType::GNULongLink,
            EntryType::GNUSparse,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ];
        for kind in kinds {
            let packed = archive(&[("kit/", DIR, b""), ("kit/a", kind, b"")]);
            assert!(matches!(unpack(&packed), Err(ArchiveError::Entry(_))), "{kind:?}");
        }
    }

    #[test]
    fn j_04_v_23_no_path_leads_elsewhere_or_means_two_things() {
        for path in [
            "/etc/passwd",
            "../a",
            "kit/../../a",
            "kit/./a",
            "kit//a",
            "kit/a.",
            "kit/a ",
            "kit\\a",
            "C:a",
            "kit/a\u{1}",
            "kit/ä",
            "kit/..",
            ".",
            "..",
            "/",
            "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q",
        ] {
            let packed = archive(&[(path, FILE, b"x")]);
            assert!(matches!(unpack(&packed), Err(ArchiveError::Entry(_))), "{path}");
        }
        for (one, two) in
            [("kit/a", "kit/a"), ("kit/a", "kit/A"), ("kit/a", "other/a"), ("kit/a", "kit/a/")]
        {
            let packed = archive(&[("kit/", DIR, b""), (one, FILE, b""), (two, FILE, b"")]);
            assert!(matches!(unpack(&packed), Err(ArchiveError::Entry(_))), "{one} {two}");
        }
    }

    #[test]
    fn j_04_v_23_there_are_limits_to_count_and_size() {
        let names: Vec<String> = (0..=ENTRIES_MAX).map(|number| format!("kit/{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), FILE, b"".as_slice())).collect();
        assert!(unpack(&archive(&many)).is_err());
        let large = vec![0; FILE_MAX_BYTES + 1];
        assert!(unpack(&archive(&[("kit/a", FILE, &large)])).is_err());
        // A header that announces more than there is.
        let mut lies = archive(&[("kit/a", FILE, b"x")]);
        lies[124..135].copy_from_slice(b"00000007777");
        assert!(unpack(&lies).is_err());
    }

    #[test]
    fn j_04_v_16_an_archive_that_is_cut_is_refused() {
        let packed = archive(&[("kit/", DIR, b""), ("kit/a", FILE, &[1; 600])]);
        unpack(&packed).unwrap();
        for at in [0, 100, 512, 700, 1024, 1600, packed.len() - 1] {
            assert!(unpack(&packed[..at]).is_err(), "cut at {at}");
        }
    }
}
