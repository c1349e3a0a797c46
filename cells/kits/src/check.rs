//! What is examined before a cell starts, each thing with a code that keeps its meaning for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the checks: name, stable code, meaning, what to do.
macro_rules! checks {
    ($($name:ident = $code:literal, $meaning:literal, $next:literal;)*) => {
        /// One thing that is examined; its code keeps its meaning for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check {
            $(#[doc = $meaning] $name,)*
        }

        impl Check {
            /// Every check, in the order in which they are made.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable code.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What is wrong where it fails.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do where it fails.
            #[must_use]
            pub fn next(self) -> &'static str {
                match self { $(Self::$name => $next,)* }
            }
        }
    };
}

checks! {
    Directory = "KIT_DIRECTORY", "The kit is no directory that only its owner can look into.",
        "Give the kit and the directories in it mode 0700 with `chmod 700`, as the user that runs the cell.";
    Modes = "KIT_MODES", "A file of the kit is open to others, linked, or no plain file.",
        "Give every file of the kit mode 0600 with `chmod 600`; take the kit anew where there are links.";
    Manifest = "KIT_MANIFEST", "The manifest of the kit is absent or no manifest.",
        "Take the kit anew from whoever provisions the project.";
    Signature = "KIT_SIGNATURE", "The manifest is not signed by the authority of the kit, or that is not the expected one.",
        "Take the kit anew; compare the fingerprint of the authority by another way, such as a telephone.";
    Files = "KIT_FILES", "A file of `startup/` is not as the manifest says, absent, or not in the manifest.",
        "Take the kit anew; nothing in `startup/` is changed by hand. What the site decides lies in `local/`.";
    Credentials = "KIT_CREDENTIALS", "Certificate, key and authority do not belong together.",
        "Take the kit anew; `cellbus provision` makes another one.";
    Profile = "KIT_PROFILE", "The certificate has not the form that cells need.",
        "Have the certificate issued by `cellbus provision`; `cellbus cert inspect` shows what it has.";
    Dates = "KIT_DATES", "The certificate has ended, has not begun, or ends soon.",
        "Have the certificate renewed with `cellbus provision`, and look at the clock of the machine.";
    Names = "KIT_NAMES", "Certificate and manifest name different participants.",
        "Take the kit anew; this one was put together from two.";
    Topology = "KIT_TOPOLOGY", "The topology of the kit does not agree with its manifest.",
        "Take the kit anew, or bring it up to date with `cellbus kit update`.";
    Local = "KIT_LOCAL", "What the site decides in `local/` cannot be read.",
        "Correct the file and line that the finding names.";
    Expected = "KIT_OF_ANOTHER", "The kit is not of the participant that is wanted.",
        "Name the directory of the right kit; a person's kit runs no cell.";
    State = "DOC_STATE", "The state directory cannot be used.",
        "Give the directory mode 0700 and the user that runs the cell; `--state DIR` names another one.";
    Disk = "DOC_DISK", "There is little room on the disk of the state directory.",
        "Make room, or put the state on another disk with `--state DIR`.";
    Descriptors = "DOC_DESCRIPTORS", "The process may open few files.",
        "Raise the limit with `ulimit -n 65536`, or LimitNOFILE in the unit of systemd.";
    Buffers = "DOC_BUFFERS", "The kernel keeps few packets for a port.",
        "Set net.core.rmem_max and net.core.wmem_max to 4194304 with `sysctl -w`.";
    Groups = "DOC_GROUPS", "Jobs get no control groups of their own from a cell that is started here.",
        "Jobs run without; for limits of whole jobs set Delegate=yes in the unit of systemd.";
    Port = "DOC_PORT", "The address that the cell listens on cannot be used.",
        "Stop what listens there (`ss -ulnp` shows it), or change `listen` in the project file.";
    Revocations = "DOC_REVOCATIONS", "The revocation list is old, damaged, absent, or names this very cell.",
        "Take the list that was signed last: an update of the kit, or `cellbus trust push` at the server.";
    Clock = "DOC_CLOCK", "The clock of this machine disagrees with the certificates, or with the clock of the parent.",
        "Set the clock here or at the parent, with chrony or systemd-timesyncd, and start the cells of that machine again.";
    Resolve = "DOC_RESOLVE", "The name of the parent's machine has no address.",
        "Look at the name server, or write `dial` for the parent in the project file.";
    Reach = "DOC_REACH", "The parent does not answer on UDP.",
        "Start the parent; let UDP to its address and port pass every firewall on the way.";
    Handshake = "DOC_HANDSHAKE", "The parent answers, and one of the two does not accept the other's certificate.",
        "Compare `cellbus cert inspect` at both ends, and the clocks; both need kits of one project.";
    Hello = "DOC_HELLO", "The parent does not take this cell for a child of its own.",
        "Bring the parent's kit up to date; its topology has to name this cell.";
    Mtu = "DOC_MTU", "Packets on the way to the parent have to be small.",
        "Look for tunnels on the way; cells work, and large payloads are slower.";
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Good.
    Ok,
    /// Nothing to examine here, or something before it failed.
    Skipped,
    /// The cell can run, and somebody should look.
    Warn,
    /// The cell does not start, or cannot reach its parent.
    Fail,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// What one check found. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The code of the check.
    pub code: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, for people.
    pub found: String,
    /// The command or change that helps, where it failed.
    pub fix: Option<String>,
}

impl Finding {
    /// Good.
    #[must_use]
    pub fn ok(check: Check, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Ok, found, None)
    }

    /// Somebody should look.
    #[must_use]
    pub fn warn(check: Check, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Warn, found, Some(check.next().to_owned()))
    }

    /// Not good.
    #[must_use]
    pub fn fail(check: Check, found: impl Into<String>) -> Self {
        Self::new(check, Outcome::Fail, found, Some(check.next().to_owned()))
    }

    /// Not examined.
    #[must_use]
    pub fn skipped(check: Check, why: impl Into<String>) -> Self {
        Self::new(check, Outcome::Skipped, why, None)
    }

    /// With another way out than the check's own.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn new(check: Check, outcome: Outcome, found: impl Into<String>, fix: Option<String>) -> Self {
        Self { code: check.code().to_owned(), outcome, found: found.into(), fix }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn k_02_every_check_has_a_code_of_its_own_and_says_what_to_do() {
        let codes: BTreeSet<&str> = Check::ALL.iter().map(|check| check.code()).collect();
        assert_eq!(codes.len(), Check::ALL.len());
        for check in Check::ALL {
            assert!(check.meaning().ends_with('.') && check.next().ends_with('.'), "{check}");
        }
    }
}
