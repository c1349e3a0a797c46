//! The file by which requests are approved without a person: `[[approve]]` tables, read strictly.
//!
//! It lies with whoever provisions, where the authority's key is: a server that could say who is approved could have anything
//! certified.

use std::path::{Path, PathBuf};

use cellbus_proto::{
    causes::with_sources,
    identity::CellKind,
    joining::{Applicant, ApprovalRule, approved_by},
    name::Segment,
    topology::project::Project,
};
use cellbus_runtime::secret_file::{SecretFileError, read_trusted_file};
use serde::Deserialize;
use toml::Spanned;

use super::{JoinError, identity_of};
use crate::{layout::FILE_MAX_BYTES, text::position};

/// Whom requests are approved for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<ApprovalRule>,
}

/// The rule that approves somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovedBy {
    /// Its place in the file, from 1.
    pub number: usize,
    /// The rule, as it stands there.
    pub rule: String,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file is absent, or others can write to it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file is none.
    #[error("{path}:{line}:{column}: CBT002: {message}; {help}")]
    Text {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// What to do.
        help: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    approve: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    kind: CellKind,
    org: Option<Segment>,
}

impl Policy {
    /// Reads the file, which nobody but this user and root may be able to write.
    ///
    /// # Errors
    /// [`PolicyError`]: what is wrong first.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let bytes = read_trusted_file(path, FILE_MAX_BYTES)?;
        Self::parse(path, &String::from_utf8_lossy(&bytes))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, PolicyError> {
        const HELP: &str = "write `[[approve]]` with `name`, `kind` and, where it matters, `org`";
        let wrong = |at: usize, message: String, help| {
            let (line, column) = position(text, at);
            PolicyError::Text { path: path.to_owned(), line, column, message, help }
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            wrong(at, error.message().to_owned(), HELP)
        })?;
        let rule = |raw: Spanned<RawRule>| {
            let RawRule { name, kind, org } = raw.into_inner();
            let at = name.span().start;
            ApprovalRule::new(name.get_ref(), kind, org).map_err(|error| {
                let help = "names of clients and relays may end in `*`, all others are whole";
                wrong(at, with_sources(&error), help)
            })
        };
        Ok(Self { rules: file.approve.into_iter().map(rule).collect::<Result<_, _>>()? })
    }

    /// The rule that approves the participant `name`, as the project file has it; `None` where a person has to.
    ///
    /// # Errors
    /// [`JoinError::Nobody`] where the project file has no such participant.
    pub fn approves(
        &self,
        project: &Project,
        name: &Segment,
    ) -> Result<Option<ApprovedBy>, JoinError> {
        let identity = identity_of(project, name)?;
        let who = Applicant { name, kind: identity.kind, org: &identity.org };
        Ok(approved_by(&self.rules, &who)
            .map(|at| ApprovedBy { number: at + 1, rule: self.rules[at].to_string() }))
    }
}

#[cfg(test)]
mod tests {
    use cellbus_proto::topology::project;

    use super::*;

    fn parse(text: &str) -> Result<Policy, String> {
        Policy::parse(Path::new("approve.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn v_22_a_policy_is_read_strictly_and_says_where_it_is_wrong() {
        assert_eq!(parse("").unwrap().rules, [], "nobody is approved");
        for (text, said) in [
            ("[[approve]\n", "approve.toml:1:"),
            ("approve = true\n", "approve.toml:1:11: CBT002:"),
            ("[[deny]]\nname = \"a\"\n", "approve.toml:1:3: CBT002: unknown field `deny`"),
            ("[[approve]]\nname = \"site-*\"\n", "approve.toml:1:1: CBT002: missing field `kind`"),
            (
                "[[approve]]\nname = \"a\"\nkind = \"client\"\nhosts = []\n",
                "approve.toml:4:1: CBT002: unknown field `hosts`",
            ),
            (
                "[[approve]]\nkind = \"server\"\nname = \"s*\"\n",
                "approve.toml:3:8: CBT002: a server is approved by its whole name only",
            ),
            (
                "[[approve]]\nkind = \"admin\"\nname = \"*\"\n",
                "approve.toml:3:8: CBT002: a admin is approved by its whole name only",
            ),
            ("[[approve]]\nname = \"a\"\nkind = \"king\"\n", "approve.toml:3:8: CBT002:"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.starts_with(said), "{text}: {refused}");
        }
    }

    #[test]
    fn v_22_what_the_project_file_says_is_held_against_the_policy() {
        let project = project::parse(
            "[project]\nname = \"study\"\n[[cell]]\nname = \"server\"\nkind = \"server\"\nlisten = \"127.0.0.1:1\"\n\
             [[cell]]\nname = \"site-9\"\nkind = \"client\"\nparent = \"server\"\norg = \"st-mary\"\n\
             [[admin]]\nname = \"site-admin\"\nrole = \"project_admin\"\n",
        );
        let project = project.unwrap().project;
        let policy = parse(
            "[[approve]]\nname = \"x\"\nkind = \"client\"\n[[approve]]\nname = \"site-*\"\nkind = \"client\"\n",
        );
        let policy = policy.unwrap();
        let by = |name: &str| policy.approves(&project, &name.parse().unwrap());
        let rule = "name = \"site-*\", kind = \"client\"".to_owned();
        assert_eq!(by("site-9").unwrap(), Some(ApprovedBy { number: 2, rule }));
        assert_eq!(by("server").unwrap(), None);
        assert_eq!(by("site-admin").unwrap(), None, "a person of such a name");
        assert!(matches!(by("site-7"), Err(JoinError::Nobody(_))));
    }
}
