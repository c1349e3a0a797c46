//! Who holds which name: the records that registration makes, and nothing else makes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    envelope::Incarnation,
    identity::CellKind,
    name::{Fqcn, Segment},
    status::Status,
};

mod returns;
mod sign;
mod turns;

use self::turns::Turns;
pub use self::{
    returns::{Returns, TooOften},
    sign::{ReturnedBy, Sign},
};

/// The registered cells below one cell, by name. `H` is how the holder is reached.
#[derive(Debug)]
pub struct Registry<H> {
    records: BTreeMap<Fqcn, Record<H>>,
    turns: Turns,
    disabled: BTreeMap<Fqcn, ()>,
    max: usize,
}

/// A registered cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<H> {
    /// Start of its process.
    pub incarnation: Incarnation,
    /// SHA-256 of its leaf certificate.
    pub leaf: [u8; 32],
    /// Its kind, from its certificate.
    pub kind: CellKind,
    /// Its organisation, from its certificate.
    pub org: Segment,
    /// The job, for a job cell.
    pub job: Option<Segment>,
    /// When it registered.
    pub since: Instant,
    /// How it is reached.
    pub holder: H,
}

/// What became of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<H> {
    /// The name was free.
    Accepted,
    /// The same process takes the name over on another link, or another one from a holder that no
    /// longer answers; the former holder's connection is to be closed as superseded.
    Replaced(Record<H>),
}

/// Whether a name can be had, before its holder was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody holds it, or the same process does.
    Open,
    /// Another process holds it, of this incarnation: it is to be asked whether it still lives.
    Held(Incarnation),
}

/// Why a name was not given; nothing has changed then, and its holder notices nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRegistered {
    /// The name has been disabled.
    #[error("the name has been disabled")]
    Disabled,
    /// Another process holds the name and answers.
    #[error("another process holds the name")]
    Held,
    /// Two living processes have taken turns with the name too often.
    #[error("two living processes take turns with the name")]
    TakesTurns {
        /// Whether this is the first refusal of this kind within [`Registry::SWAP_WINDOW`].
        alert: bool,
    },
    /// There is no room for another name.
    #[error("the registry is full")]
    Full,
}

impl From<NotRegistered> for Status {
    fn from(not: NotRegistered) -> Self {
        match not {
            NotRegistered::Disabled => Self::Disabled,
            NotRegistered::Held | NotRegistered::TakesTurns { .. } => Self::DuplicateName,
            NotRegistered::Full => Self::Overloaded,
        }
    }
}

impl<H: Clone> Registry<H> {
    /// Names held at once unless configured otherwise.
    pub const MAX: usize = 16_384;
    /// How often former holders may come back within [`Self::SWAP_WINDOW`] before they are refused.
    pub const SWAPS_MAX: usize = 2;
    /// How long the return of a former holder counts.
    pub const SWAP_WINDOW: Duration = Duration::from_secs(600);

    const TURNS: (usize, Duration) = (Self::SWAPS_MAX, Self::SWAP_WINDOW);

    /// A registry for at most `max` names.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { records: BTreeMap::new(), turns: Turns::new(max), disabled: BTreeMap::new(), max }
    }

    /// Whether the process of this incarnation and leaf can have `name` at once.
    ///
    /// # Errors
    /// [`NotRegistered`] when it cannot have it whether or not its holder answers.
    pub fn claim(
        &mut self,
        now: Instant,
        name: &Fqcn,
        incarnation: Incarnation,
        leaf: &[u8; 32],
    ) -> Result<Claim, NotRegistered> {
        if self.disabled.contains_key(name) {
            return Err(NotRegistered::Disabled);
        }
        self.turns
            .check(now, name, incarnation, Self::TURNS)
            .map_err(|turns| NotRegistered::TakesTurns { alert: turns.alert })?;
        match self.records.get(name) {
            None if self.records.len() >= self.max => Err(NotRegistered::Full),
            Some(holder) if holder.incarnation != incarnation || holder.leaf != *leaf => {
                Ok(Claim::Held(holder.incarnation))
            }
            None | Some(_) => Ok(Claim::Open),
        }
    }

    /// Registers `name`, or says why not.
    ///
    /// `silent` is the holder that was asked whether it lives, and did not answer. A holder that answers
    /// keeps its name, whatever the incarnation of the candidate: a process that was started again has a
    /// dead predecessor, and one whose predecessor lives is a copy.
    ///
    /// # Errors
    /// [`NotRegistered`].
    pub fn register(
        &mut self,
        now: Instant,
        name: &Fqcn,
        candidate: Record<H>,
        silent: Option<Incarnation>,
    ) -> Result<Verdict<H>, NotRegistered> {
        match self.claim(now, name, candidate.incarnation, &candidate.leaf)? {
            Claim::Held(holder) if silent != Some(holder) => return Err(NotRegistered::Held),
            Claim::Held(_) | Claim::Open => {}
        }
        self.turns.note(now, name, candidate.incarnation, Self::SWAP_WINDOW);
        let former = self.records.insert(name.clone(), candidate);
        Ok(former.map_or(Verdict::Accepted, Verdict::Replaced))
    }

    /// Has the holder of `name` go on with another certificate, if it is registered with the old one.
    pub fn renew_leaf(&mut self, name: &Fqcn, old: &[u8; 32], new: [u8; 32]) -> bool {
        let Some(record) = self.records.get_mut(name).filter(|record| record.leaf == *old) else {
            return false;
        };
        record.leaf = new;
        true
    }

    /// Removes the record of `name` if it still is that of `incarnation`: what a late bye or the end of
    /// an old connection says about a name concerns only the holder that it was.
    pub fn detach(&mut self, name: &Fqcn, incarnation: Incarnation) -> Option<Record<H>> {
        let current = self.records.get(name)?;
        if current.incarnation != incarnation {
            return None;
        }
        self.records.remove(name)
    }

    /// Removes the record of `name`, whoever holds it.
    pub fn remove(&mut self, name: &Fqcn) -> Option<Record<H>> {
        self.records.remove(name)
    }

    /// Removes `name` and refuses it from now on.
    pub fn disable(&mut self, name: Fqcn) -> Option<Record<H>> {
        let removed = self.records.remove(&name);
        self.disabled.insert(name, ());
        removed
    }

    /// Removes every record at or below `top`: the link that led there is gone.
    pub fn remove_below(&mut self, top: &Fqcn) -> Vec<(Fqcn, Record<H>)> {
        let below: Vec<Fqcn> =
            self.records.keys().filter(|name| top.covers(name)).cloned().collect();
        below.into_iter().filter_map(|name| self.records.remove_entry(&name)).collect()
    }

    /// The record of `name`.
    #[must_use]
    pub fn record(&self, name: &Fqcn) -> Option<&Record<H>> {
        self.records.get(name)
    }

    /// Every record, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Fqcn, &Record<H>)> {
        self.records.iter()
    }

    /// Names held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no name is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn name() -> Fqcn {
        "site-1".parse().unwrap()
    }

    fn record(counter: u64, nonce: u64, leaf: u8) -> Record<u64> {
        Record {
            incarnation: Incarnation { counter, nonce },
            leaf: [leaf; 32],
            kind: CellKind::Client,
            org: "org".parse().unwrap(),
            job: None,
            since: at(0),
            holder: nonce,
        }
    }

    fn held() -> Registry<u64> {
        let mut registry = Registry::new(4);
        registry.register(at(0), &name(), record(5, 1, 1), None).unwrap();
        registry
    }

    fn start(counter: u64, nonce: u64) -> Incarnation {
        Incarnation { counter, nonce }
    }

    #[test]
    fn f_27_a_holder_that_answers_keeps_its_name_whatever_the_copy_says() {
        let mut registry = held();
        for (copy, why) in [
            (record(5, 2, 1), "equal"),
            (record(4, 2, 1), "older"),
            (record(6, 2, 1), "newer"),
            (record(6, 2, 2), "newer, of another certificate"),
            (record(5, 1, 2), "the same, of another certificate"),
        ] {
            let claim = registry.claim(at(1), &name(), copy.incarnation, &copy.leaf);
            assert_eq!(claim, Ok(Claim::Held(start(5, 1))), "{why}");
            let got = registry.register(at(1), &name(), copy, None);
            assert_eq!(got, Err(NotRegistered::Held), "{why}");
            assert_eq!(registry.record(&name()), Some(&record(5, 1, 1)));
        }
    }

    #[test]
    fn a_process_that_comes_back_takes_its_name_over_from_its_old_connection() {
        let mut registry = held();
        let again = Record { holder: 99, ..record(5, 1, 1) };
        for _ in 0..10 {
            let claim = registry.claim(at(1), &name(), again.incarnation, &again.leaf);
            assert_eq!(claim, Ok(Claim::Open));
            let got = registry.register(at(1), &name(), again.clone(), None);
            assert!(matches!(got, Ok(Verdict::Replaced(_))));
        }
    }

    #[test]
    fn g_35_a_silent_holder_is_replaced_as_often_as_it_is_killed() {
        let mut registry = held();
        for counter in 6..20 {
            let silent = registry.record(&name()).map(|holder| holder.incarnation);
            let next = record(counter, counter, 1);
            let got = registry.register(at(counter), &name(), next, silent);
            assert!(matches!(got, Ok(Verdict::Replaced(_))), "{counter}: {got:?}");
        }
        let older = registry.register(at(30), &name(), record(3, 2, 1), Some(start(19, 19)));
        assert!(older.is_ok(), "restored from a backup, say");
    }

    #[test]
    fn the_silence_of_one_holder_says_nothing_of_the_next() {
        let mut registry = held();
        registry.register(at(1), &name(), record(6, 6, 1), Some(start(5, 1))).unwrap();
        let late = registry.register(at(1), &name(), record(7, 7, 1), Some(start(5, 1)));
        assert_eq!(late, Err(NotRegistered::Held));
        assert_eq!(registry.record(&name()), Some(&record(6, 6, 1)));
    }

    #[test]
    fn g_35_two_that_live_and_take_turns_are_refused_after_the_second_swap() {
        let mut registry = held();
        let (one, two) = (record(5, 1, 1), record(6, 2, 1));
        let mut takes = |second, next: &Record<u64>| {
            let silent = registry.record(&name()).map(|holder| holder.incarnation);
            registry.register(at(second), &name(), next.clone(), silent)
        };
        for (second, next) in [(1, &two), (2, &one), (3, &two)] {
            assert!(takes(second, next).is_ok(), "{second}");
        }
        assert_eq!(takes(4, &one), Err(NotRegistered::TakesTurns { alert: true }));
        assert_eq!(takes(5, &one), Err(NotRegistered::TakesTurns { alert: false }));
        assert!(takes(6, &two).is_ok(), "it holds the name");
        assert!(takes(700, &one).is_ok(), "ten minutes later");
    }

    #[test]
    fn s1_09_a_late_bye_of_an_old_start_leaves_the_new_one_alone() {
        let mut registry = held();
        registry.register(at(1), &name(), record(6, 2, 1), Some(start(5, 1))).unwrap();
        assert_eq!(registry.detach(&name(), Incarnation { counter: 5, nonce: 1 }), None);
        assert_eq!(registry.len(), 1);
        assert!(registry.detach(&name(), Incarnation { counter: 6, nonce: 2 }).is_some());
        assert!(registry.is_empty());
    }

    #[test]
    fn g_52_a_holder_goes_on_with_another_certificate_and_nobody_else_does_so_for_it() {
        let mut registry = held();
        assert!(!registry.renew_leaf(&name(), &[9; 32], [2; 32]), "not the one it has");
        assert!(!registry.renew_leaf(&"site-2".parse().unwrap(), &[1; 32], [2; 32]));
        assert!(registry.renew_leaf(&name(), &[1; 32], [2; 32]));
        assert_eq!(registry.record(&name()), Some(&record(5, 1, 2)));
        let again = registry.claim(at(1), &name(), start(5, 1), &[2; 32]);
        assert_eq!(again, Ok(Claim::Open), "the same process");
    }

    #[test]
    fn the_registry_is_bounded() {
        let mut registry = Registry::new(1);
        registry.register(at(0), &name(), record(1, 1, 1), None).unwrap();
        let other = "site-2".parse().unwrap();
        assert_eq!(
            registry.register(at(0), &other, record(1, 1, 1), None),
            Err(NotRegistered::Full)
        );
    }

    /// Every order, six deep, of two starts registering while the holder answers or is silent, saying
    /// bye late or in time, being removed and being disabled: a record exists only if the last event that
    /// concerns it was a registration.
    #[test]
    fn f_28_nothing_but_a_registration_makes_a_record() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Event {
            Register(u64, bool),
            Bye(u64),
            Remove,
            Disable,
        }
        const EVENTS: [Event; 8] = [
            Event::Register(1, true),
            Event::Register(2, true),
            Event::Register(1, false),
            Event::Register(2, false),
            Event::Bye(1),
            Event::Bye(2),
            Event::Remove,
            Event::Disable,
        ];
        let mut explored = 0u32;
        for number in 0..EVENTS.len().pow(6) {
            let order =
                (0..6u32).map(|digit| EVENTS[number / EVENTS.len().pow(digit) % EVENTS.len()]);
            let mut registry = Registry::new(4);
            let (mut model, mut disabled) = (None, false);
            let (mut last, mut changes) = (0, 0);
            for event in order {
                match event {
                    Event::Register(n, answers) => {
                        let held = registry.record(&name()).map(|record| record.incarnation);
                        let silent = held.filter(|_| !answers);
                        let got = registry.register(at(0), &name(), record(n, n, 1), silent);
                        let may = !disabled && model.is_none_or(|held| n == held || !answers);
                        // The first change is none back to a former holder; two more are allowed.
                        let changes_now =
                            if last == n || last == 0 { changes } else { changes + 1 };
                        assert_eq!(got.is_ok(), may && changes_now <= 3, "{got:?}");
                        if got.is_ok() {
                            (model, last, changes) = (Some(n), n, changes_now);
                        }
                    }
                    Event::Bye(n) => {
                        registry.detach(&name(), Incarnation { counter: n, nonce: n });
                        model.take_if(|held| *held == n);
                    }
                    Event::Remove => {
                        registry.remove(&name());
                        model = None;
                    }
                    Event::Disable => {
                        registry.disable(name());
                        (model, disabled) = (None, true);
                    }
                }
                let held = registry.record(&name()).map(|record| record.incarnation.counter);
                assert_eq!(held, model);
                assert!(!disabled || held.is_none(), "a disabled name has no record");
            }
            explored += 1;
        }
        assert_eq!(explored, 262_144);
    }
}
