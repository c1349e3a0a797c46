//! Keeps the tickets and address tokens of a listener that should give none.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use quinn::TokenStore;
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
};
use rustls_pki_types::ServerName;

/// The tickets that came, oldest first, and the number of address tokens.
#[derive(Debug, Default)]
pub struct Tickets {
    kept: Mutex<VecDeque<Tls13ClientSessionValue>>,
    address_tokens: AtomicUsize,
}

impl Tickets {
    /// Tickets that came and were not used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tokens that came, by which a listener would know the address again.
    #[must_use]
    pub fn address_tokens(&self) -> usize {
        self.address_tokens.load(Ordering::Relaxed)
    }
}

impl TokenStore for Tickets {
    fn insert(&self, _: &str, _: Bytes) {
        self.address_tokens.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, _: &str) -> Option<Bytes> {
        None
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
