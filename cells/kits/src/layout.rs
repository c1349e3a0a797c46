//! Where things lie in a kit and in the directory of a project, and how large they may be.
//!
//! ```text
//! <kit>/startup/   what provisioning signed; a cell does not start when a byte of it differs
//! <kit>/local/     what the site decides for itself
//!                  a server may have an issuing authority: `issuer.crt`, `issuer.key`, `issuer.json` in `startup/`
//!
//! <project>/authority/root.crt, root.key.age
//! <project>/kits-0001/records.json, <name>/, updates/<name>/
//! ```

/// Directory of what is signed.
pub const STARTUP: &str = "startup";
/// Directory of what the site decides.
pub const LOCAL: &str = "local";
/// The manifest, in [`STARTUP`].
pub const MANIFEST: &str = "manifest.json";
/// The signature of the manifest, in [`STARTUP`].
pub const SIGNATURE: &str = "manifest.sig";
/// The topology, in [`STARTUP`].
pub const TOPOLOGY: &str = "topology.toml";
/// Who may attach to the cell, in [`STARTUP`].
pub const ROSTER: &str = "roster.json";
/// Certificates of the authority, in [`STARTUP`] and [`AUTHORITY`].
pub const ROOT: &str = "root.crt";
/// The cell's certificate, in [`STARTUP`].
pub const CERTIFICATE: &str = "cell.crt";
/// The private key, in [`STARTUP`].
pub const KEY: &str = "cell.key";
/// Rules of the site, in [`LOCAL`].
pub const POLICY: &str = "policy.toml";
/// Limits of the site, in [`LOCAL`].
pub const LIMITS: &str = "limits.toml";
/// Whether the server has a join door, in [`LOCAL`]; need not be there.
pub const JOIN: &str = "join.toml";
/// What jobs may run at the site, in [`LOCAL`].
pub const PROGRAMS: &str = "programs.toml";

/// Directory of the authority, in the directory of a project.
pub const AUTHORITY: &str = "authority";
/// The authority's key under a passphrase, in [`AUTHORITY`].
pub const SEALED_KEY: &str = "root.key.age";
/// First part of the names of the directories of kits.
pub const KITS: &str = "kits-";
/// The signed lists of a project in one file, in the directory of kits: what running cells are given.
pub const TRUST: &str = "trust.list";
/// What was issued, in the directory of kits.
pub const RECORDS: &str = "records.json";
/// Directory of updates for kits that stay, in the directory of kits.
pub const UPDATES: &str = "updates";

/// Bytes in the largest file of a kit.
pub const FILE_MAX_BYTES: usize = 4 << 20;
/// Files and directories in the largest kit.
pub const ENTRIES_MAX: usize = 100;
/// Bytes in the largest records file: 10,000 participants.
pub const RECORDS_MAX_BYTES: usize = 64 << 20;

/// The name of the directory of kits with this number.
#[must_use]
pub fn kits_dir(number: u32) -> String {
    format!("{KITS}{number:04}")
}

/// The number of a directory of kits, by its name.
#[must_use]
pub fn kits_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(KITS)?;
    let number = digits.parse().ok()?;
    (kits_dir(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_kits_has_one_name() {
        for number in [1, 42, 9999, 10_000] {
            assert_eq!(kits_number(&kits_dir(number)), Some(number));
        }
        for other in ["kits-1", "kits-00001", "kits-", "kits-abcd", "updates", "kits--001"] {
            assert_eq!(kits_number(other), None, "{other}");
        }
    }
}
