//! Where the system has this process, and whether it was handed that place to make groups in.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, access, getxattr},
    process::geteuid,
};

use super::OWN;

/// Why this process can make no control groups.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoGroups {
    /// The system has none of version 2, or does not show them.
    #[error("this system shows no control groups of version 2")]
    NotMounted,
    /// The place of this process is not where it can look.
    #[error("the control group of this process lies outside of what it can see")]
    Outside,
    /// Nobody has handed the group to this process.
    #[error("the control group {} was not handed to this process", .0.display())]
    NotHanded(PathBuf),
    /// The system cannot end a group at once.
    #[error("this system cannot end a control group (cgroup.kill, Linux 5.14)")]
    NoKill,
    /// The system does not say where this process is.
    #[error("the system does not say where this process is")]
    System(#[from] io::Error),
}

/// What is known of one group.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// It is the first group of the machine, where everybody's lie.
    is_of_machine: bool,
    /// This process sees none above it.
    is_top: bool,
    /// A service manager has marked it as handed over.
    is_marked: bool,
    /// This process can make groups in it, and move processes to them.
    is_writable: bool,
    /// The user of this process owns it.
    is_own: bool,
    /// The user of this process owns the one above, too, so that nobody has handed this one over.
    is_own_above: bool,
    /// This process is root's, who may write everywhere.
    is_root: bool,
}

impl Facts {
    /// Whether somebody has handed the group to this process. That it can be written to is not enough: root can
    /// write to groups that a service manager keeps for itself.
    fn is_handed_over(self) -> bool {
        let by_owner = self.is_own && !self.is_own_above && !self.is_root;
        !self.is_of_machine && self.is_writable && (self.is_marked || self.is_top || by_owner)
    }

    fn of(group: &Path, is_top: bool) -> Self {
        let owner = |path: &Path| fs::metadata(path).map(|about| about.uid()).ok();
        let user = geteuid();
        let files = ["", "cgroup.procs", "cgroup.subtree_control"];
        let writable = |file: &str| access(group.join(file), Access::WRITE_OK).is_ok();
        let marked = |name: &str| {
            let mut value = [0; 8];
            getxattr(group, name, &mut value).is_ok_and(|len| value.get(..len) == Some(b"1"))
        };
        let above = group.parent().filter(|_| !is_top);
        Self {
            // Every other has a type.
            is_of_machine: !group.join("cgroup.type").exists(),
            is_top,
            is_marked: marked("user.delegate") || marked("trusted.delegate"),
            is_writable: files.into_iter().all(writable),
            is_own: owner(group) == Some(user.as_raw()),
            is_own_above: above.and_then(owner) == Some(user.as_raw()),
            is_root: user.is_root(),
        }
    }
}

/// The group in which this process can make others, and whether it is in that itself.
pub(super) fn find() -> Result<(PathBuf, bool), NoGroups> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (group, top) = locate(&own, &mounts)?;
    let found = choose(&group, &top, |group| Facts::of(group, *group == top))?;
    if !found.0.join("cgroup.kill").exists() {
        return Err(NoGroups::NoKill);
    }
    Ok(found)
}

/// Which of a process's group and the one above it was handed over, and whether it is the process's own.
fn choose(
    group: &Path,
    top: &Path,
    facts: impl Fn(&Path) -> Facts,
) -> Result<(PathBuf, bool), NoGroups> {
    if let Some(above) = group.parent().filter(|_| group != top) {
        let about = facts(above);
        // A service manager can start a service in a group below the one that it has marked, and so does an earlier
        // look of this process.
        let is_leaf = group.file_name().is_some_and(|name| name == OWN);
        if about.is_handed_over() && (about.is_marked || is_leaf) {
            return Ok((above.to_owned(), false));
        }
    }
    if facts(group).is_handed_over() {
        return Ok((group.to_owned(), true));
    }
    Err(NoGroups::NotHanded(group.to_owned()))
}

/// The directory of the group that `own` (a `/proc/PID/cgroup`) names, and the topmost that can be seen, by `mounts` (a
/// `/proc/PID/mountinfo`).
fn locate(own: &str, mounts: &str) -> Result<(PathBuf, PathBuf), NoGroups> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or(NoGroups::NotMounted)?;
    let mut is_mounted = false;
    // What is mounted last lies above.
    for line in mounts.lines().rev() {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        if !kind.starts_with("cgroup2 ") {
            continue;
        }
        is_mounted = true;
        let mut words = place.split(' ').skip(3);
        let (Some(root), Some(point)) = (words.next(), words.next()) else { continue };
        let root = root.trim_end_matches('/');
        let Some(below) = path.strip_prefix(root) else { continue };
        let is_inside = below.is_empty() || below.starts_with('/');
        if is_inside && !below.split('/').any(|level| level == "..") {
            let top = PathBuf::from(plain(point));
            return Ok((top.join(below.trim_start_matches('/')), top));
        }
    }
    Err(if is_mounted { NoGroups::Outside } else { NoGroups::NotMounted })
}

/// A path of a list of mounts, in which blanks are written as numbers.
fn plain(text: &str) -> String {
    let mut plain = text.to_owned();
    for (written, meant) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(written, meant);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "24 1 0:22 / / rw - ext4 /dev/sda rw\n\
        30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn located(own: &str, mounts: &str) -> Option<(String, String)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        locate(own, mounts).ok().map(|(group, top)| (text(group), text(top)))
    }

    #[test]
    fn the_group_of_a_process_is_found_under_the_mount_that_shows_it() {
        let at = |group: &str, top: &str| Some((group.to_owned(), top.to_owned()));
        let own = "0::/system.slice/cellbus.service\n";
        let top = "/sys/fs/cgroup";
        assert_eq!(located(own, UNIFIED), at("/sys/fs/cgroup/system.slice/cellbus.service", top));
        assert_eq!(located("0::/\n", UNIFIED), at("/sys/fs/cgroup/", top));
        let hybrid = "1:cpu:/a\n0::/b\n";
        let mounts = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            32 24 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        let top = "/sys/fs/cgroup/unified";
        assert_eq!(located(hybrid, mounts), at("/sys/fs/cgroup/unified/b", top));
        // A container whose mount begins lower, and one with a blank in its path.
        let lower = "30 24 0:26 /docker/1 /my\\040groups rw - cgroup2 cgroup2 rw\n";
        assert_eq!(located("0::/docker/1/x\n", lower), at("/my groups/x", "/my groups"));
    }

    #[test]
    fn what_cannot_be_seen_is_not_looked_for_elsewhere() {
        let lower = "30 24 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for own in ["0::/docker/12\n", "0::/other\n", "0::/docker/1/../2\n", "0::/..\n"] {
            assert!(matches!(locate(own, lower), Err(NoGroups::Outside)), "{own}");
        }
        assert!(matches!(locate("1:cpu:/a\n", UNIFIED), Err(NoGroups::NotMounted)));
        let old = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert!(matches!(locate("0::/a\n", old), Err(NoGroups::NotMounted)));
    }

    #[test]
    fn a_group_counts_as_handed_over_for_a_reason_and_never_because_root_can_write() {
        let root = Facts { is_writable: true, is_root: true, is_own: true, ..Facts::default() };
        assert!(!root.is_handed_over(), "a service manager keeps it for itself");
        assert!(Facts { is_marked: true, ..root }.is_handed_over());
        assert!(Facts { is_top: true, ..root }.is_handed_over(), "the top of a container");
        assert!(!Facts { is_marked: true, is_of_machine: true, ..root }.is_handed_over());
        let user = Facts { is_writable: true, is_own: true, ..Facts::default() };
        assert!(user.is_handed_over(), "given to this user by another");
        assert!(!Facts { is_own_above: true, ..user }.is_handed_over(), "one of a session");
        assert!(Facts { is_own_above: true, is_marked: true, ..user }.is_handed_over());
        assert!(!Facts { is_writable: false, is_marked: true, ..user }.is_handed_over());
    }

    #[test]
    fn the_group_above_is_taken_where_that_is_the_marked_one() {
        let marked = Facts { is_writable: true, is_marked: true, ..Facts::default() };
        let top = Path::new("/t");
        let chosen = |group: &str, good: &'static [&'static str]| {
            let facts = |path: &Path| {
                if good.contains(&path.to_str().unwrap()) { marked } else { Facts::default() }
            };
            choose(Path::new(group), top, facts).ok()
        };
        assert_eq!(chosen("/t/unit", &["/t/unit"]), Some(("/t/unit".into(), true)));
        assert_eq!(chosen("/t/unit/main", &["/t/unit"]), Some(("/t/unit".into(), false)));
        assert_eq!(chosen("/t/unit/a/b", &["/t/unit"]), None);
        assert_eq!(chosen("/t", &["/", "/t"]), Some(("/t".into(), true)), "none above the top");
        assert_eq!(chosen("/t/unit", &[]), None);
    }

    #[test]
    fn a_process_that_has_moved_finds_the_group_that_it_came_from() {
        let given = Facts { is_writable: true, is_own: true, ..Facts::default() };
        let chosen = |group: &str| choose(Path::new(group), Path::new("/t"), |_| given).unwrap();
        assert_eq!(chosen("/t/mine/cellbus-self"), ("/t/mine".into(), false));
        assert_eq!(chosen("/t/mine/other"), ("/t/mine/other".into(), true));
    }
}
