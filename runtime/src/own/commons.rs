//! What messages of this cell have in common, found by where the names of their callers live: so that all
//! messages of one conversation share it.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cellbus_proto::{
    envelope::{Address, Common, Flags, Lane},
    folded::Folded,
    name::{ChannelTopic, Fqcn},
};

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Folded>>;

/// What is known; a kind of which there would be too much is forgotten.
#[derive(Debug, Default)]
pub(super) struct Commons(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    addresses: Map<usize, Arc<Address>>,
    sent: Map<(usize, usize, Lane, Flags), Arc<Common>>,
    /// Answers, by where what the requests have in common lives; with that, so that it stays there.
    answers: Map<usize, (Arc<Common>, Arc<Common>)>,
    /// Bundles, by where what their messages have in common lives and by what flags they have beside; with
    /// that, so that it stays there.
    bundles: Map<(usize, Flags), (Arc<Common>, Arc<Common>)>,
}

impl Commons {
    /// Entries of each kind.
    const MAX: usize = 4096;

    pub(super) fn address_of(&self, name: &Fqcn) -> Arc<Address> {
        self.lock().address_of(name)
    }

    /// What messages to `to` have in common; `new` where it is not known.
    pub(super) fn of(
        &self,
        to: &Fqcn,
        target: &ChannelTopic,
        lane: Lane,
        flags: Flags,
        new: impl FnOnce(Arc<Address>) -> Common,
    ) -> Arc<Common> {
        let mut known = self.lock();
        let key = (to.allocation(), target.allocation(), lane, flags);
        if let Some(common) = known.sent.get(&key) {
            return Arc::clone(common);
        }
        let common = Arc::new(new(known.address_of(to)));
        // Found again only by names that live as long as the entry: those that it holds.
        let held = (common.destination.name.allocation(), common.target.allocation());
        if held == (key.0, key.1) {
            let sent = &mut known.sent;
            forget_when_full(sent);
            sent.insert(key, Arc::clone(&common));
        }
        common
    }

    /// What answers to such requests have in common; `new` where it is not known.
    pub(super) fn of_answer(
        &self,
        request: &Arc<Common>,
        new: impl FnOnce() -> Common,
    ) -> Arc<Common> {
        let mut known = self.lock();
        let key = Arc::as_ptr(request).addr();
        if let Some((_, answer)) = known.answers.get(&key) {
            return Arc::clone(answer);
        }
        let answer = Arc::new(new());
        let answers = &mut known.answers;
        forget_when_full(answers);
        answers.insert(key, (Arc::clone(request), Arc::clone(&answer)));
        answer
    }

    /// What bundles of such messages have in common, with these flags too.
    pub(super) fn of_bundle(&self, message: &Arc<Common>, flags: Flags) -> Arc<Common> {
        let bundles = &mut self.lock().bundles;
        let key = (Arc::as_ptr(message).addr(), flags);
        if let Some((_, bundle)) = bundles.get(&key) {
            return Arc::clone(bundle);
        }
        let flags = message.flags.with(flags);
        let bundle = Arc::new(Common { flags, ..Common::clone(message) });
        forget_when_full(bundles);
        bundles.insert(key, (Arc::clone(message), Arc::clone(&bundle)));
        bundle
    }

    /// Forgets what carries a token.
    pub(super) fn forget(&self) {
        let mut known = self.lock();
        known.sent.clear();
        known.answers.clear();
        known.bundles.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn address_of(&mut self, name: &Fqcn) -> Arc<Address> {
        if let Some(address) = self.addresses.get(&name.allocation()) {
            return Arc::clone(address);
        }
        forget_when_full(&mut self.addresses);
        let address = Address::any(name.clone());
        self.addresses.insert(name.allocation(), Arc::clone(&address));
        address
    }
}

fn forget_when_full<K, V>(map: &mut Map<K, V>) {
    if map.len() >= Commons::MAX {
        map.clear();
    }
}
