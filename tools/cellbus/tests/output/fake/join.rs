//! A join door with fixed replies.

use cellbus_cells::control::{
    ControlError, JoinAsk, JoinReply, JoinRow, JoinVerb, LocalCode, Reply,
};

/// What a door says at which `site-2` waits, of an authority that nobody has.
pub fn answer(ask: &JoinAsk) -> Result<Reply, ControlError> {
    match &ask.verb {
        JoinVerb::Ls | JoinVerb::Reject { .. } => Ok(Reply::Join(Box::new(JoinReply {
            cell: "server".parse().expect("a name"),
            project: "study".parse().expect("a name"),
            roots: vec!["5".repeat(64)],
            address: "127.0.0.1:8444".to_owned(),
            rows: vec![JoinRow {
                name: "site-2".parse().expect("a name"),
                stage: "waiting".to_owned(),
                expires_unix: u64::MAX,
                since_unix: Some(1_800_000_000),
                key_sha256: Some("6".repeat(64)),
                request_sha256: Some("7".repeat(64)),
            }],
            request: None,
        }))),
        JoinVerb::Invite { .. } | JoinVerb::Fetch { .. } | JoinVerb::Answer { .. } => {
            Err(ControlError::local(LocalCode::JoinRefused, "nobody has come yet"))
        }
    }
}
