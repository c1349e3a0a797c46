//! Values under named keys do not leave.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Filter, FilterMessage, json, msgpack};

/// Levels of nesting that are looked through; what is deeper is stopped.
pub(super) const DEPTH_MAX: usize = 64;

/// Replaces the values under `keys`, at every depth, by `null` in JSON and `nil` in msgpack.
///
/// Whether a payload is one of these is what its content type says (`application/json`,
/// `application/msgpack`, `+json`, `+msgpack`, ..). What is declared as neither, and what cannot be read as
/// what it is declared to be, is stopped; an empty payload passes.
#[must_use]
pub fn redact<K: Into<String>>(keys: impl IntoIterator<Item = K>) -> Redact {
    Redact { keys: keys.into_iter().map(Into::into).collect(), passes_others: false }
}

/// The filter that [`redact`] makes.
#[derive(Clone, Debug)]
pub struct Redact {
    keys: BTreeSet<String>,
    passes_others: bool,
}

impl Redact {
    /// Lets payloads pass, unread, that are declared as something else or not at all.
    #[must_use]
    pub fn pass_other_types(mut self) -> Self {
        self.passes_others = true;
        self
    }
}

enum Form {
    Json,
    Msgpack,
}

fn form(content_type: Option<&str>) -> Option<Form> {
    let essence = content_type?.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is = |name: &str| essence.rsplit(['/', '+']).next() == Some(name);
    if is("json") {
        Some(Form::Json)
    } else if is("msgpack") || is("x-msgpack") || is("vnd.msgpack") {
        Some(Form::Msgpack)
    } else {
        None
    }
}

impl Filter for Redact {
    fn name(&self) -> &str {
        "redact"
    }

    fn filter(&self, message: &mut FilterMessage) -> Result<(), String> {
        let is_hidden = |key: &str| self.keys.contains(key);
        let redacted: Option<Vec<u8>> = match form(message.content_type.as_deref()) {
            _ if message.payload.is_empty() => return Ok(()),
            Some(Form::Json) => json::redact(&message.payload, is_hidden)
                .map_err(|reason| format!("the payload is not JSON: {reason}"))?,
            Some(Form::Msgpack) => msgpack::redact(&message.payload, is_hidden)
                .map_err(|reason| format!("the payload is not msgpack: {reason}"))?,
            None if self.passes_others => return Ok(()),
            None => return Err("the content type is neither JSON nor msgpack".to_owned()),
        };
        if let Some(redacted) = redacted {
            message.payload = Bytes::from(redacted);
        }
        Ok(())
    }
}
