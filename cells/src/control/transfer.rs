//! Transfers that a person begins, looks at and ends at a running cell.
//!
//! The bytes never pass through the control socket, and no open file does: the cell opens the path that it is told,
//! with its own rights. Whoever may ask runs as the same user or as root, so that opens nothing to him that was
//! closed. It is told, too, which file he saw there, and refuses any other. An open descriptor would not do: what is
//! gone on with after a restart, or has changed meanwhile, must be opened again.

use cellbus_proto::{
    name::{Channel, Fqcn, Topic},
    transfer::TransferId,
};
use serde::{Deserialize, Serialize};

/// What to do with transfers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TransferAsk {
    /// Serves a file until every receiver has it; goes on.
    Put(PutAsk),
    /// Fetches what a reference describes; goes on.
    Get(GetAsk),
    /// Stores what is offered, until the asking side hangs up; goes on.
    Receive(ReceiveAsk),
    /// Fetches the rest of what a restart has interrupted; goes on.
    Resume(ResumeAsk),
    /// Lists what runs, and what can be gone on with.
    List(ListAsk),
    /// Gives up everything of one transfer at this cell.
    Cancel {
        /// Which: 32 hexadecimal digits.
        id: String,
    },
}

/// A file or directory as the asking side has seen it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Absolute path.
    pub path: String,
    /// Device that it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// A file to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutAsk {
    /// The file.
    pub file: Seen,
    /// Who may have it, and is expected to.
    pub to: Vec<Fqcn>,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
    /// Whether it is offered to the receivers; else they are waited for.
    pub offer: bool,
    /// The transfer that this goes on with, after a restart of this cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<String>,
    /// Whether it is sealed, with a key that only the offers have; so it has to be offered.
    #[serde(default)]
    pub sealed: bool,
    /// Media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Bytes a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Seconds for which the reference may be used.
    pub lifetime_s: u64,
    /// Milliseconds for which a receiver that is not there is waited for.
    pub wait_ms: u64,
    /// Milliseconds for which a receiver may stand still.
    pub patience_ms: u64,
}

/// Something to fetch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetAsk {
    /// The reference, in base64 (standard alphabet, padded).
    pub reference: String,
    /// The directory that it is put into.
    pub into: Seen,
    /// Name of the file there; that which its holder gave it, if none is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether a file that has this name is replaced.
    pub replace: bool,
    /// Bytes a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Milliseconds without progress after which it has failed.
    pub patience_ms: u64,
}

/// A directory for what is offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveAsk {
    /// The directory.
    pub into: Seen,
    /// First level of the address.
    pub channel: Channel,
    /// Second level of the address.
    pub topic: Topic,
    /// How many at a time, from 1 to [`MAX_AT_ONCE`].
    pub at_once: u32,
    /// Bytes that one may have at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_max: Option<u64>,
    /// Whether files that have the same name are replaced.
    pub replace: bool,
    /// Milliseconds without progress after which one has failed.
    pub patience_ms: u64,
}

/// What was interrupted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeAsk {
    /// The directory.
    pub into: Seen,
    /// Only this transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Milliseconds without progress after which one has failed.
    pub patience_ms: u64,
}

/// Where to look for what was interrupted, beside what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAsk {
    /// Directories.
    pub directories: Vec<Seen>,
}

/// The longest time without progress that may be asked for, in milliseconds: a week.
pub const MAX_PATIENCE_MS: u64 = 7 * 24 * 3_600_000;
/// The most that are received at a time.
pub const MAX_AT_ONCE: u32 = 64;

/// What happens with a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum TransferEvent {
    /// It can be fetched.
    Served {
        /// Which transfer.
        id: String,
        /// The file.
        file: String,
        /// Bytes in all.
        size: Option<u64>,
        /// BLAKE3 digest of all of them.
        digest: Option<String>,
        /// The reference in base64, where it is not offered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// A fetch begins: what is offered was taken, or a part is gone on with.
    Begun {
        /// Which transfer.
        id: String,
        /// Who has it.
        other: Fqcn,
        /// The file that it becomes.
        file: String,
        /// Bytes in all.
        size: Option<u64>,
        /// Bytes that were there before.
        offset: u64,
    },
    /// An offer was not taken.
    Refused {
        /// Which transfer.
        id: String,
        /// Who offers it.
        other: Fqcn,
        /// Why.
        text: String,
    },
    /// How far it is. It begins anew with every generation.
    Progress {
        /// Which transfer.
        id: String,
        /// The receiver, or the holder.
        other: Fqcn,
        /// Bytes that have come.
        bytes: u64,
        /// Bytes in all.
        size: Option<u64>,
        /// Counts the contents that the holder has had.
        generation: u64,
    },
    /// It is over with one cell.
    Ended(TransferEnd),
}

/// How a transfer ended with one other cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferEnd {
    /// Which transfer.
    pub id: String,
    /// The receiver, or the holder.
    pub other: Fqcn,
    /// The file.
    pub file: String,
    /// Whether the receiver has everything, verified and durable.
    pub stored: bool,
    /// Bytes in all, where that is known.
    pub size: Option<u64>,
    /// BLAKE3 digest of all of them, where it is stored.
    pub digest: Option<String>,
    /// Milliseconds from its beginning.
    pub elapsed_ms: u64,
    /// Code of the failure.
    pub code: Option<String>,
    /// What failed, for people.
    pub text: Option<String>,
}

/// How transfers ended that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferEnds {
    /// Each with each other cell.
    pub ends: Vec<TransferEnd>,
    /// Of what was served: bytes that this cell has written, to all receivers together and with all that was written
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
}

/// Transfers of one cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRows {
    /// What runs, then what was interrupted.
    pub rows: Vec<TransferRow>,
}

/// One transfer with one other cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRow {
    /// Which transfer.
    pub id: String,
    /// What this cell does with it.
    pub state: TransferState,
    /// The receiver, or the holder.
    pub other: Option<Fqcn>,
    /// Channel and topic.
    pub target: String,
    /// The file, where it was interrupted.
    pub file: Option<String>,
    /// Bytes that have come; of what was interrupted, bytes that are durable.
    pub bytes: u64,
    /// Bytes in all.
    pub size: Option<u64>,
    /// Milliseconds since it began; of what was interrupted, since its holder made the reference.
    pub age_ms: u64,
}

/// What a cell does with a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// It has the bytes, and the receiver has not got all of them yet.
    Serves,
    /// The receiver has everything, and others have not.
    Stored,
    /// The receiver has failed, and others go on.
    Failed,
    /// It pulls the bytes.
    Fetches,
    /// It has a part, and nobody pulls the rest.
    Interrupted,
}

/// Whether a transfer was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferCancelled {
    /// Which.
    pub id: String,
}

impl TransferAsk {
    /// Whether events come before the reply.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Put(_) | Self::Get(_) | Self::Receive(_) | Self::Resume(_) => true,
            Self::List(_) | Self::Cancel { .. } => false,
        }
    }
}

/// Whether the numbers are within their bounds, and the texts are what they have to be.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(super) fn check(ask: &TransferAsk) -> Result<(), String> {
    let is_file = |seen: &Seen| match seen.path.starts_with('/') {
        true => Ok(()),
        false => Err(format!("`path` is {:?}, which is not absolute", seen.path)),
    };
    let is_time = |field: &str, ms: u64| match ms {
        1..=MAX_PATIENCE_MS => Ok(()),
        _ => Err(format!("`{field}` is {ms}; it must be from 1 to {MAX_PATIENCE_MS}")),
    };
    let is_id = |id: &str| match id.parse::<TransferId>() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`id` is {id:?}: {error}")),
    };
    match ask {
        TransferAsk::Put(ask) => {
            is_file(&ask.file)?;
            is_time("wait_ms", ask.wait_ms)?;
            is_time("patience_ms", ask.patience_ms)?;
            ask.again.as_deref().map_or(Ok(()), is_id)?;
            if ask.to.is_empty() {
                return Err("`to` names nobody".to_owned());
            }
            Ok(())
        }
        TransferAsk::Get(ask) => {
            is_file(&ask.into)?;
            is_time("patience_ms", ask.patience_ms)
        }
        TransferAsk::Receive(ask) => {
            is_file(&ask.into)?;
            is_time("patience_ms", ask.patience_ms)?;
            match ask.at_once {
                1..=MAX_AT_ONCE => Ok(()),
                n => Err(format!("`at_once` is {n}; it must be from 1 to {MAX_AT_ONCE}")),
            }
        }
        TransferAsk::Resume(ask) => {
            is_file(&ask.into)?;
            is_time("patience_ms", ask.patience_ms)?;
            ask.id.as_deref().map_or(Ok(()), is_id)
        }
        TransferAsk::List(ask) => ask.directories.iter().try_for_each(is_file),
        TransferAsk::Cancel { id } => is_id(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_refused_by_field() {
        let into = |path: &str| Seen { path: path.to_owned(), device: 1, inode: 2 };
        let resume = |path, id: Option<&str>, patience_ms| {
            check(&TransferAsk::Resume(ResumeAsk {
                into: into(path),
                id: id.map(str::to_owned),
                patience_ms,
            }))
        };
        assert_eq!(resume("/a", Some(&"0a".repeat(16)), 1), Ok(()));
        for (path, id, patience, field) in [
            ("a", None, 1, "`path`"),
            ("/a", Some("xyz"), 1, "`id`"),
            ("/a", None, 0, "`patience_ms`"),
            ("/a", None, MAX_PATIENCE_MS + 1, "`patience_ms`"),
        ] {
            let refused = resume(path, id, patience).unwrap_err();
            assert!(refused.starts_with(field), "{refused}");
        }
    }

    #[test]
    fn an_event_is_one_flat_object() {
        let event = crate::control::Event::Transfer(TransferEvent::Refused {
            id: "00".to_owned(),
            other: "server".parse().unwrap(),
            text: "no".to_owned(),
        });
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"event":"transfer","step":"refused","id":"00","other":"server","text":"no"}"#
        );
        assert_eq!(serde_json::from_str::<crate::control::Event>(&text).unwrap(), event);
    }
}
