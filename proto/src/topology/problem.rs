//! What can be wrong with a topology file: the codes, and one finding with its place in the text.

use std::{fmt, ops::Range};

/// How much a [`Problem`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file can be used, and is likely not what was meant.
    Warning,
    /// The file cannot be used.
    Error,
}

/// Declares the codes: name, stable text, severity, meaning.
macro_rules! codes {
    ($($name:ident = $text:literal, $severity:ident, $meaning:literal;)*) => {
        /// The kind of a [`Problem`]; its text (`CBT024`) keeps its meaning for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code, in the order of their texts.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// One sentence on what is wrong.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// Whether the file can still be used.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    Syntax = "CBT001", Error, "The text is not TOML.";
    UnknownKey = "CBT002", Error, "A key that does not exist at this place.";
    WrongType = "CBT003", Error, "A value of another type than the key takes.";
    Missing = "CBT004", Error, "A key that must be given is absent.";
    Secret = "CBT005", Error, "A secret stands in the file.";
    TooLarge = "CBT006", Error, "The file is larger than 1 MiB.";
    TooManyCells = "CBT007", Error, "The file has more than 10,000 cells.";
    BadName = "CBT010", Error, "A text that is not a name.";
    DuplicateName = "CBT011", Error, "Two cells have one name.";
    CaseVariant = "CBT012", Error, "A name that differs from another one in case or in look-alike characters only.";
    LookAlike = "CBT013", Warning, "Two valid names that people can hardly tell apart.";
    ReservedName = "CBT014", Error, "A kind of cell is used as the name of a cell of another kind.";
    NoServer = "CBT020", Error, "No cell is the server.";
    TwoServers = "CBT021", Error, "More than one cell is a server.";
    ServerWithParent = "CBT022", Error, "The server has a parent.";
    NoParent = "CBT023", Error, "A relay or client has no parent.";
    UnknownParent = "CBT024", Error, "The parent is not a cell of the file.";
    ParentIsClient = "CBT025", Error, "The parent is a client.";
    Cycle = "CBT026", Error, "Cells are each other's parents.";
    TooDeep = "CBT027", Error, "The path to a cell has more than 8 levels or 255 bytes.";
    NoRoomForJobs = "CBT028", Warning, "The path to a client has 8 levels, so no job can run there.";
    BadKind = "CBT029", Error, "Not a kind of cell that a file can state.";
    BadListen = "CBT030", Error, "A listen address that is not `ip:port`.";
    NoListen = "CBT031", Error, "A server or relay without a listen address.";
    ClientListens = "CBT032", Error, "A client with an address that others would dial.";
    ListenClash = "CBT033", Error, "Two cells listen on one address.";
    DevNotLoopback = "CBT034", Error, "Development certificates on an address that others can reach.";
    PrivilegedPort = "CBT035", Warning, "A port below 1024 needs privileges.";
    BadHost = "CBT036", Error, "Neither a DNS name nor an IP address.";
    BadDial = "CBT037", Error, "A dial address that is not `host:port`.";
    NotDialable = "CBT038", Warning, "Children cannot know where to dial this cell.";
    MetricsNotLoopback = "CBT039", Error, "Metrics on an address that others can reach.";
    BadPattern = "CBT040", Error, "A text that is not a pattern for cells.";
    DenyUnknownCell = "CBT041", Error, "A deny rule names a cell that is not in the file.";
    AllowUnknownCell = "CBT042", Warning, "An allow rule names a cell that is not in the file.";
    PatternMatchesNothing = "CBT043", Warning, "A pattern that no cell of the file matches.";
    ReservedChannel = "CBT044", Error, "A rule about what belongs to the system.";
    NoTopics = "CBT045", Error, "A rule without topics.";
    BadAddress = "CBT046", Error, "A text that is not a channel or topic.";
    RepeatedTopic = "CBT047", Warning, "A topic stands twice in one rule.";
    DenyUnknownOrg = "CBT048", Error, "A deny rule names an organisation that runs no cell of the file.";
    SealOnDeny = "CBT049", Error, "A deny rule demands sealing, and lets nothing pass that could be sealed.";
    LimitRange = "CBT050", Error, "A limit below its floor or above its ceiling.";
    LaneRule = "CBT051", Error, "Windows that would let bulk data silence the control lane.";
    LimitOrder = "CBT052", Error, "Two limits that do not go together.";
    BadChoice = "CBT053", Error, "Not one of the words that this key takes.";
    NotFound = "CBT060", Error, "There is no file at this path.";
    Unreadable = "CBT061", Error, "The file cannot be read.";
    NotUtf8 = "CBT062", Error, "The file is not UTF-8 text.";
    NotAFile = "CBT063", Error, "The path leads to something that is not a regular file.";
    ShadowedRule = "CBT070", Warning, "An allow rule of which deny rules leave nothing.";
    Contradiction = "CBT071", Warning, "An allow rule and a deny rule that say the same.";
    SuperfluousRule = "CBT072", Warning, "A rule that says nothing that another one does not say.";
    WayNeverTaken = "CBT073", Warning, "No two cells of the file that a rule is about lie in its direction.";
    JobsDoNotAsk = "CBT074", Warning, "A rule about what job cells ask, which has fixed rules.";
    RepeatedChannel = "CBT075", Error, "Two tables are about one channel.";
    TestUnknownCell = "CBT076", Error, "A test of the rules names a cell that is not in the file.";
    TestFails = "CBT077", Error, "The rules say otherwise than a test of the file expects.";
    BadProgram = "CBT080", Error, "A program that says not exactly once what it runs.";
    BadArgument = "CBT081", Error, "An argument of a program, or a path, that cannot be one.";
    BadParameter = "CBT082", Error, "A parameter of a program, or a value for one, that cannot be one.";
    BadVariable = "CBT083", Error, "A variable that no job may set, or a text that names none.";
    RepeatedProgram = "CBT084", Error, "Two programs of one name at one cell.";
    CodeWithoutConsent = "CBT085", Error, "A program from the files of a job, where jobs bring no files.";
    RepeatedCluster = "CBT086", Error, "A cell is to use two clusters.";
    NoCluster = "CBT087", Error, "A program for a cluster at a cell that uses none.";
    BadResource = "CBT088", Error, "Something that no cluster can be asked for.";
    More = "CBT099", Error, "There are more problems than are shown.";
    ReservedWord = "CBT100", Error, "A name that file systems or kits use for something else.";
    NoProjectAdmin = "CBT101", Error, "No admin of the project file is the project admin.";
    TwoProjectAdmins = "CBT102", Error, "More than one admin of the project file is the project admin.";
    BadRole = "CBT103", Error, "A role that reads like one of the system and is none.";
    StudyUnknownMember = "CBT104", Error, "A study names something that is no site or admin of the project file.";
    RepeatedStudy = "CBT105", Error, "Two studies of the project file have one name.";
    NoCounterpart = "CBT106", Warning, "Something in a project file of another system that is left out.";
    NotTakenOver = "CBT107", Error, "Something in a project file of another system that cannot be taken over.";
}

impl Code {
    /// Whether a problem of this kind concerns one key and its value, whatever else the file says.
    pub(super) fn is_about_one_value(self) -> bool {
        matches!(
            self,
            Self::UnknownKey
                | Self::WrongType
                | Self::Secret
                | Self::BadName
                | Self::BadKind
                | Self::BadListen
                | Self::BadHost
                | Self::MetricsNotLoopback
                | Self::BadDial
                | Self::BadPattern
                | Self::ReservedChannel
                | Self::NoTopics
                | Self::BadAddress
                | Self::SealOnDeny
                | Self::LimitRange
                | Self::BadChoice
                | Self::ReservedWord
                | Self::BadRole
                | Self::BadArgument
                | Self::BadParameter
                | Self::BadVariable
                | Self::BadResource
        )
    }
}

/// A second place in the text that belongs to a [`Problem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Also {
    /// Bytes of the text.
    pub span: Range<usize>,
    /// What is there.
    pub label: String,
}

/// One finding about a topology file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its kind.
    pub code: Code,
    /// What is wrong, for people; names the cell, key or value.
    pub message: String,
    /// Where, in bytes of the text; within the text, on character boundaries, maybe empty.
    pub span: Range<usize>,
    /// What stands there.
    pub label: String,
    /// Another place that belongs to it.
    pub also: Option<Also>,
    /// What to do next.
    pub help: Option<String>,
}

impl Problem {
    pub(super) fn new(
        code: Code,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Self {
        let (message, label) = (message.into(), label.into());
        Self { code, message, span, label, also: None, help: None }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.also = Some(Also { span, label: label.into() });
        self
    }

    /// Whether the file can still be used.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Collects findings; bounded, so that a hostile file cannot make a report of any size.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    left_out: usize,
}

impl Problems {
    /// Findings of each severity that are kept.
    pub(super) const KEPT_MAX: usize = 100;

    pub(super) fn add(&mut self, problem: Problem) {
        let list = match problem.severity() {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if list.len() < Self::KEPT_MAX {
            list.push(problem);
        } else if problem.severity() == Severity::Error {
            self.left_out += 1;
        }
    }

    /// Whether another error would be counted only, so that its wording is not worth the work.
    pub(super) fn is_full(&self) -> bool {
        self.errors.len() >= Self::KEPT_MAX
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Forgets findings on which `keep` says no.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Problem) -> bool) {
        self.errors.retain(&mut keep);
        self.warnings.retain(&mut keep);
    }

    /// Every finding, in the order of the text.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let Self { errors, warnings, left_out } = self;
        let mut all: Vec<Problem> = errors.into_iter().chain(warnings).collect();
        all.sort_by_key(|problem| (problem.span.start, problem.code));
        if left_out > 0 {
            let message = format!("{left_out} more errors are not shown");
            all.push(Problem::new(Code::More, 0..0, message, "").help("correct these first"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_stable_text_and_stands_once() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{} before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            let digits = code.as_str().strip_prefix("CBT").unwrap();
            assert!(digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
            assert!(code.meaning().ends_with('.'));
        }
    }

    #[test]
    fn a_flood_of_problems_is_cut_and_counted() {
        let mut problems = Problems::default();
        for at in 0..Problems::KEPT_MAX + 7 {
            problems.add(Problem::new(Code::LookAlike, at..at, "", ""));
        }
        assert!(!problems.has_errors() && !problems.is_full());
        for at in 0..Problems::KEPT_MAX + 7 {
            problems.add(Problem::new(Code::BadName, at..at, "", ""));
        }
        assert!(problems.is_full());
        let all = problems.into_sorted();
        assert_eq!(all.len(), 2 * Problems::KEPT_MAX + 1);
        let last = all.last().unwrap();
        assert_eq!((last.code, last.message.as_str()), (Code::More, "7 more errors are not shown"));
    }
}
