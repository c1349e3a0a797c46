//! Who holds which name: the records that registration makes, and nothing else makes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    envelope::Incarnation,
    identity::CellKind,
    name::{Fqcn, Segment},
    status::Status,
};

/// The registered cells below one cell, by name. `H` is how the holder is reached.
#[derive(Debug)]
pub struct Registry<H> {
    records: BTreeMap<Fqcn, Record<H>>,
    swaps: BTreeMap<Fqcn, VecDeque<Instant>>,
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
    /// The same process, or a newer one, takes the name over; the former holder's connection is to be
    /// closed as superseded.
    Replaced(Record<H>),
}

impl<H: Clone> Registry<H> {
    /// Names held at once unless configured otherwise.
    pub const MAX: usize = 16_384;
    /// Changes of holder within [`Self::SWAP_WINDOW`] before a name is closed to all.
    pub const SWAPS_MAX: usize = 2;
    /// How long changes of holder count.
    pub const SWAP_WINDOW: Duration = Duration::from_secs(600);

    /// A registry for at most `max` names.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { records: BTreeMap::new(), swaps: BTreeMap::new(), disabled: BTreeMap::new(), max }
    }

    /// Registers `name`, or says why not; then nothing has changed, and a living holder notices
    /// nothing.
    ///
    /// `holder_answers` says whether the present holder was heard within the last two seconds.
    ///
    /// # Errors
    /// [`Status::Disabled`]; [`Status::DuplicateName`] for a different certificate key, for an older or
    /// equal incarnation of another process while the holder answers, and for a name that changed hands
    /// too often; [`Status::Overloaded`] when the registry is full.
    pub fn register(
        &mut self,
        now: Instant,
        name: &Fqcn,
        candidate: Record<H>,
        holder_answers: bool,
    ) -> Result<Verdict<H>, Status> {
        if self.disabled.contains_key(name) {
            return Err(Status::Disabled);
        }
        let Some(holder) = self.records.get(name) else {
            if self.records.len() >= self.max {
                return Err(Status::Overloaded);
            }
            self.records.insert(name.clone(), candidate);
            return Ok(Verdict::Accepted);
        };
        if holder.leaf != candidate.leaf && holder_answers {
            return Err(Status::DuplicateName);
        }
        let same_process = holder.incarnation == candidate.incarnation;
        let newer = candidate.incarnation.counter > holder.incarnation.counter;
        if !same_process && !newer && holder_answers {
            return Err(Status::DuplicateName);
        }
        // A process that was restarted, or comes back, does not count; two that take turns do.
        if !same_process && holder_answers {
            let swaps = self.swaps.entry(name.clone()).or_default();
            swaps.retain(|at| now.saturating_duration_since(*at) < Self::SWAP_WINDOW);
            if swaps.len() >= Self::SWAPS_MAX {
                return Err(Status::DuplicateName);
            }
            swaps.push_back(now);
        }
        let former = self.records.insert(name.clone(), candidate);
        Ok(former.map_or(Verdict::Accepted, Verdict::Replaced))
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
        registry.register(at(0), &name(), record(5, 1, 1), false).unwrap();
        registry
    }

    #[test]
    fn g_35_a_newer_start_replaces_and_a_copy_does_not() {
        let mut registry = held();
        for (copy, why) in
            [(record(5, 2, 1), "equal"), (record(4, 2, 1), "older"), (record(9, 2, 2), "other key")]
        {
            let got = registry.register(at(1), &name(), copy, true);
            assert_eq!(got, Err(Status::DuplicateName), "{why}");
            assert_eq!(registry.record(&name()).unwrap().incarnation.nonce, 1);
        }
        let newer = registry.register(at(1), &name(), record(6, 3, 1), true).unwrap();
        assert_eq!(newer, Verdict::Replaced(record(5, 1, 1)));
    }

    #[test]
    fn a_process_that_comes_back_takes_its_name_over_from_its_old_connection() {
        let mut registry = held();
        let again = Record { holder: 99, ..record(5, 1, 1) };
        for _ in 0..10 {
            let got = registry.register(at(1), &name(), again.clone(), true);
            assert!(matches!(got, Ok(Verdict::Replaced(_))));
        }
    }

    #[test]
    fn a_silent_holder_is_replaced() {
        let mut registry = held();
        assert!(registry.register(at(1), &name(), record(3, 2, 1), false).is_ok());
    }

    #[test]
    fn two_that_take_turns_are_both_refused_after_the_second_swap() {
        let mut registry = held();
        for counter in 6..=7 {
            assert!(registry.register(at(1), &name(), record(counter, counter, 1), true).is_ok());
        }
        let third = registry.register(at(2), &name(), record(8, 8, 1), true);
        assert_eq!(third, Err(Status::DuplicateName));
        assert!(registry.register(at(700), &name(), record(9, 9, 1), true).is_ok());
    }

    #[test]
    fn s1_09_a_late_bye_of_an_old_start_leaves_the_new_one_alone() {
        let mut registry = held();
        registry.register(at(1), &name(), record(6, 2, 1), true).unwrap();
        assert_eq!(registry.detach(&name(), Incarnation { counter: 5, nonce: 1 }), None);
        assert_eq!(registry.len(), 1);
        assert!(registry.detach(&name(), Incarnation { counter: 6, nonce: 2 }).is_some());
        assert!(registry.is_empty());
    }

    #[test]
    fn the_registry_is_bounded() {
        let mut registry = Registry::new(1);
        registry.register(at(0), &name(), record(1, 1, 1), false).unwrap();
        let other = "site-2".parse().unwrap();
        assert_eq!(
            registry.register(at(0), &other, record(1, 1, 1), false),
            Err(Status::Overloaded)
        );
    }

    /// Every order, eight deep, of two starts registering, saying bye late or in time, being removed
    /// and being disabled: a record exists only if the last event that concerns it was a registration.
    #[test]
    fn f_28_nothing_but_a_registration_makes_a_record() {
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Event {
            Register(u64),
            Bye(u64),
            Remove,
            Disable,
        }
        const EVENTS: [Event; 6] = [
            Event::Register(1),
            Event::Register(2),
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
            for event in order {
                match event {
                    Event::Register(n) => {
                        let got = registry.register(at(0), &name(), record(n, n, 1), true);
                        let may = !disabled && model.is_none_or(|held| n >= held);
                        assert!(may || got.is_err());
                        if got.is_ok() {
                            model = Some(n);
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
        assert_eq!(explored, 46_656);
    }
}
