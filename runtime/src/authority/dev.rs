//! Credentials for a whole tree on one machine, made on first use: for development and tests.
//!
//! ```text
//! <dir>/authority/root.crt root.key      the development authority
//! <dir>/cells/<name>/root.crt cell.crt cell.key
//! ```

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use cellbus_proto::{
    identity::Identity,
    name::{Fqcn, Segment},
};
use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::retry_on_intr,
};

use super::{Authority, AuthorityError, Credentials, CredentialsError, DEV_LEAF_LIFE};
use crate::{
    certificate::CertDates,
    secret_file::{
        SecretFileError, create_private_dir, read_secret_file, remove_leftovers, write_secret_file,
    },
};

const ROOT: &str = "root.crt";
const KEY: &str = "root.key";
const MAX_LEN: usize = 64 * 1024;

/// Why there are no development credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevCredentialsError {
    /// A file or directory is not as it must be.
    #[error("development credentials")]
    File(#[from] SecretFileError),
    /// What is there does not belong together.
    #[error("development credentials; if nothing else uses them, remove {dir} and start again")]
    Credentials {
        /// What to remove.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        problem: Box<CredentialsError>,
    },
    /// The authority in the directory cannot be used.
    #[error("development authority; if nothing else uses it, remove {dir} and start again")]
    Authority {
        /// What to remove.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        problem: AuthorityError,
    },
}

/// Where the credentials of the cell `name` lie under `dir`.
#[must_use]
pub fn cell_dir(dir: &Path, name: &Fqcn) -> PathBuf {
    dir.join("cells").join(name.as_str())
}

/// Makes sure that `dir` holds an authority for `project` and credentials for every one of `cells`, and returns
/// these in the order of `cells`.
///
/// What is there and good is kept, so a second call changes nothing. A certificate is issued anew when it has used
/// up two thirds of its life or names another identity; host names count for nothing here. Processes
/// that do this at the same time wait for one another.
///
/// # Arguments
/// `cells`: who, and under which hosts it is dialled (servers and relays only).
///
/// # Errors
/// [`DevCredentialsError`] when what is there is unsafe or does not belong together; it is left as it is.
pub fn ensure_dev_credentials(
    dir: &Path,
    project: &Segment,
    cells: &[(Identity, Vec<String>)],
    now_unix: u64,
) -> Result<Vec<Credentials>, DevCredentialsError> {
    create_private_dir(dir)?;
    let _lock = lock(dir)?;
    let authority = ensure_authority(&dir.join("authority"), project, now_unix)?;
    cells
        .iter()
        .map(|(identity, hosts)| {
            let own_dir = cell_dir(dir, &identity.name);
            ensure_cell(&own_dir, &authority, identity, hosts, now_unix)
        })
        .collect()
}

fn ensure_authority(
    dir: &Path,
    project: &Segment,
    now_unix: u64,
) -> Result<Authority, DevCredentialsError> {
    let problem = |problem| DevCredentialsError::Authority { dir: dir.to_owned(), problem };
    create_private_dir(dir)?;
    remove_leftovers(dir)?;
    let (root, key) = (dir.join(ROOT), dir.join(KEY));
    let root_pem = match read_secret_file(&root, MAX_LEN) {
        Ok(root_pem) => root_pem,
        Err(SecretFileError::Missing { .. }) => {
            let authority = Authority::create(project.clone(), now_unix).map_err(problem)?;
            // The root goes last: without it the key counts for nothing and is replaced.
            write_secret_file(&key, authority.key_pem().as_bytes())?;
            write_secret_file(&root, authority.root_pem().as_bytes())?;
            return Ok(authority);
        }
        Err(error) => return Err(error.into()),
    };
    let key_pem = read_secret_file(&key, MAX_LEN)?;
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    Authority::restore(project.clone(), text(&root_pem), text(&key_pem)).map_err(problem)
}

fn ensure_cell(
    dir: &Path,
    authority: &Authority,
    identity: &Identity,
    hosts: &[String],
    now_unix: u64,
) -> Result<Credentials, DevCredentialsError> {
    let problem = |problem| DevCredentialsError::Credentials {
        dir: dir.to_owned(),
        problem: Box::new(problem),
    };
    create_private_dir(dir)?;
    remove_leftovers(dir)?;
    if Credentials::are_in(dir) {
        match Credentials::load(dir, now_unix) {
            Ok(found) if is_current(&found, authority, identity, now_unix) => return Ok(found),
            // Good ones that are no longer the right ones, and only these, are replaced.
            Ok(_) | Err(CredentialsError::Chain { .. } | CredentialsError::OutOfDate { .. }) => {}
            Err(error) => return Err(problem(error)),
        }
    }
    let dates = CertDates::lasting(now_unix, DEV_LEAF_LIFE);
    let issued = authority
        .issue(identity, hosts, dates)
        .map_err(|problem| DevCredentialsError::Authority { dir: dir.to_owned(), problem })?;
    Credentials::save(dir, authority.root_pem(), &issued)?;
    Credentials::load(dir, now_unix).map_err(problem)
}

fn is_current(
    found: &Credentials,
    authority: &Authority,
    identity: &Identity,
    now_unix: u64,
) -> bool {
    let CertDates { not_before, not_after } = found.certificate().dates();
    let left = not_after.saturating_sub(now_unix);
    let fresh = left > not_after.saturating_sub(not_before) / 3;
    let last = not_after == authority.dates().not_after;
    found.certificate().identity() == identity
        && found.roots().ders() == [authority.root().clone()]
        && (fresh || last)
}

/// Waits its turn; the lock goes with the file.
fn lock(dir: &Path) -> Result<File, SecretFileError> {
    let path = dir.join("lock");
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let refused = |action: &'static str| {
        let path = path.clone();
        move |errno: rustix::io::Errno| SecretFileError::Io { action, path, source: errno.into() }
    };
    let file = fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(refused("open"))?;
    retry_on_intr(|| fs::flock(&file, FlockOperation::LockExclusive)).map_err(refused("lock"))?;
    Ok(file.into())
}
