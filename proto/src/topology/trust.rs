//! `[trust]`: signed lists without which cells do not start.

use schemars::JsonSchema;
use serde::Deserialize;

use super::parse::Table;
use crate::trust::Versions;

/// `[trust]`: signed lists without which cells do not start.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Trust")]
pub(super) struct RawTrust {
    /// The lowest version of the revocation list that every cell must have; 0 while there is none.
    #[schemars(with = "Option<u32>", extend("default" = 0))]
    pub revocations: Option<u32>,
    /// The lowest version of the roster that every cell must have; 0 while there is none.
    #[schemars(with = "Option<u32>", extend("default" = 0))]
    pub roster: Option<u32>,
    /// The lowest version of the list of roots that every cell must have; 0 while there is none.
    #[schemars(with = "Option<u32>", extend("default" = 0))]
    pub roots: Option<u32>,
}

/// The versions that the table states.
pub(super) fn settle(table: Option<&Table<RawTrust>>) -> Versions {
    let Some(Table { raw, .. }) = table else { return Versions::default() };
    let version = |stated: Option<u32>| stated.map_or(0, u64::from);
    Versions {
        revocations: version(raw.revocations),
        bans: 0,
        roster: version(raw.roster),
        roots: version(raw.roots),
    }
}

#[cfg(test)]
mod tests {
    use crate::topology::parse;

    const STUDY: &str = "[project]\nname = \"study\"\ndev = true\n[[cell]]\nname = \"server\"\n\
        kind = \"server\"\nlisten = \"127.0.0.1:0\"\n";

    #[test]
    fn versions_are_those_of_the_file_and_zero_without_one() {
        let of = |more: &str| parse(&format!("{STUDY}{more}")).map(|parsed| parsed.topology.lists);
        assert_eq!(of("").unwrap().mark(), 0);
        let stated = of("[trust]\nrevocations = 3\nroster = 2\n").unwrap();
        assert_eq!((stated.revocations, stated.roster, stated.bans), (3, 2, 0));
        for bad in ["revocations = -1", "revocations = \"3\"", "bans = 1", "roster = 4294967296"] {
            assert!(of(&format!("[trust]\n{bad}\n")).is_err(), "{bad}");
        }
    }
}
