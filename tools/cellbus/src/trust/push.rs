//! Giving a running cell signed lists, and seeing that no certificate counts again because somebody forgot it.

use std::path::Path;

use cellbus_cells::{
    control::{ListsAsk, ListsReply, Payload, Request, RevokedRow},
    list_files::read_bundle,
};
use cellbus_proto::{
    codec::body,
    trust::{ListKind, RevocationList, Signed},
};

use super::{changed, sign};
use crate::{
    args::Target,
    codes::CliCode,
    output::{Failure, Outcome},
    target::ask,
};

/// Gives the lists in `file` to a running cell. Unless it `may_forget`, not where a certificate that counts no more
/// would count again.
pub(super) async fn push(file: &Path, may_forget: bool, target: &Target) -> Outcome {
    let bundle = read_bundle(file).map_err(sign::of_file)?;
    // What cannot be read is for the cell to refuse.
    let read = |signed: &Signed| body::decode_exact::<RevocationList>(&signed.content.0).ok();
    let next = bundle.revocations.as_ref().and_then(read);
    if let Some(next) = next.filter(|_| !may_forget) {
        let held: Box<ListsReply> = ask(target, Request::Lists).await?;
        let is_older = held.lists.iter().any(|row| {
            row.list == ListKind::Revocations.to_string() && row.version >= next.version
        });
        let forgotten = forgotten(&held.revoked, &next, sign::now());
        if !is_older && !forgotten.is_empty() {
            let text = format!("certificates would count again: {}", forgotten.join(", "));
            let hint = "`cellbus cert revoke --leaf HASH --list FILE` puts each into the next list of that file; \
                        --forget gives the list as it is";
            return Err(Failure::new(CliCode::Input, text).hint(hint));
        }
    }
    let lists = Payload::from_bytes(&body::encode(&bundle));
    let reply: Box<ListsReply> =
        ask(target, Request::TakeLists(ListsAsk { lists, by: None })).await?;
    Ok(changed(&reply))
}

/// Certificates that count no more at `now_unix` by what is held, and would by `next`.
fn forgotten(held: &[RevokedRow], next: &RevocationList, now_unix: u64) -> Vec<String> {
    let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named: Vec<String> = next.leaves.iter().map(|entry| hex(&entry.leaf.0)).collect();
    let still = held.iter().filter(|row| row.until_unix.is_none_or(|until| now_unix <= until));
    still.filter_map(|row| row.leaf.clone()).filter(|leaf| !named.contains(leaf)).collect()
}

#[cfg(test)]
mod tests {
    use cellbus_proto::{
        codec::Octets,
        trust::{Reason, RevokedLeaf},
    };

    use super::*;

    fn row(byte: &str, until_unix: Option<u64>) -> RevokedRow {
        let (leaf, reason) = (Some(byte.repeat(32)), "superseded".to_owned());
        RevokedRow { name: None, leaf, reason, until_unix }
    }

    #[test]
    fn a_certificate_is_forgotten_that_is_held_counts_still_and_is_not_in_the_next_list() {
        let mut next = RevocationList::empty("study".parse().unwrap());
        let entry = RevokedLeaf { leaf: Octets([0xaa; 32]), reason: Reason::Hold, until: None };
        next.revoke_leaf(entry);
        let name = RevokedRow { name: Some("site-1".to_owned()), leaf: None, ..row("dd", None) };
        let held =
            [row("aa", None), row("bb", None), row("cc", Some(99)), row("ee", Some(100)), name];
        assert_eq!(forgotten(&held, &next, 100), ["bb".repeat(32), "ee".repeat(32)]);
        assert!(forgotten(&[], &next, 100).is_empty());
    }
}
