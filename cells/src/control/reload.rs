//! Reading the topology file again while its cells run: what is asked and what is answered.

use cellbus_proto::name::Fqcn;
use serde::{Deserialize, Serialize};

use super::{BanAsk, JoinAsk, ListsAsk, Request};

/// Whether the cells of this process are to decide by the rules that their file has now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadAsk {
    /// Whether only to say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Who asks: by the kernel's word, never by that of the asking side.
    #[serde(skip)]
    pub by: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The cells decide by the new rules.
    Applied,
    /// The rules of the file are those that hold.
    Unchanged,
    /// It was only asked what would change.
    WouldApply,
    /// The file is not good; the rules are those of before.
    Refused,
}

/// What reading the file again has found and changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The file.
    pub file: String,
    /// What became of it.
    pub outcome: ReloadOutcome,
    /// Revision of the rules before.
    pub from: u64,
    /// Revision of the rules now.
    pub to: u64,
    /// What changed, or would change, in the rules.
    pub changes: Vec<String>,
    /// What else differs from what runs; it needs a restart.
    pub needs_restart: Vec<String>,
    /// What is wrong or odd with the file.
    pub problems: Vec<ProblemRow>,
    /// The cells of this process: all of them, or none, have taken the rules.
    pub cells: Vec<Fqcn>,
}

/// One problem of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// Its code.
    pub code: String,
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// Line, from 1.
    pub line: Option<u64>,
    /// Column in characters, from 1.
    pub column: Option<u64>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Request {
    /// The same request, where it matters who asks.
    pub(super) fn asked_by(self, uid: u32, pid: Option<i32>) -> Self {
        let by = || match pid {
            Some(pid) => Some(format!("user {uid}, process {pid}")),
            None => Some(format!("user {uid}")),
        };
        let mut asked = self;
        if let Self::Reload(ReloadAsk { by: asker, .. })
        | Self::TakeLists(ListsAsk { by: asker, .. })
        | Self::Join(JoinAsk { by: asker, .. })
        | Self::Ban(BanAsk { by: asker, .. }) = &mut asked
        {
            *asker = by();
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_says_who_he_is() {
        let forged = r#"{"reload":{"by":"the owner"}}"#;
        assert!(serde_json::from_str::<Request>(forged).is_err());
        let plain: Request = serde_json::from_str(r#"{"reload":{}}"#).unwrap();
        assert_eq!(plain, Request::Reload(ReloadAsk::default()));
        let Request::Reload(ask) = plain.asked_by(1000, Some(7)) else { panic!("another request") };
        assert_eq!(ask.by.as_deref(), Some("user 1000, process 7"));
        assert_eq!(Request::Status.asked_by(1000, None), Request::Status);
    }
}
