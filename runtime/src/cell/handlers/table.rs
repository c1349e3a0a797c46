//! What is registered, and which of it a message is for.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use cellbus_channels::{HandleError, Handler, HandlerOptions, Selector};
use cellbus_proto::name::{Channel, ChannelTopic};

/// What is registered; outlives a restart of the cell's actor.
#[derive(Clone, Default)]
pub struct HandlerTable(Arc<RwLock<Table>>);

#[derive(Default)]
struct Table {
    exact: BTreeMap<ChannelTopic, Arc<Registration>>,
    channels: BTreeMap<Channel, Arc<Registration>>,
    all: Option<Arc<Registration>>,
    count: usize,
}

/// A handler, and how it is run.
pub(in crate::cell) struct Registration {
    /// Counts the registrations of a cell.
    pub(in crate::cell) number: usize,
    pub(in crate::cell) options: HandlerOptions,
    pub(in crate::cell) handler: Arc<dyn Handler>,
}

impl HandlerTable {
    /// Registers a handler.
    ///
    /// # Errors
    /// [`HandleError::Taken`] when something is registered for exactly this selector.
    pub fn add(
        &self,
        selector: Selector,
        options: HandlerOptions,
        handler: Arc<dyn Handler>,
    ) -> Result<(), HandleError> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_taken = match &selector {
            Selector::Exact(target) => table.exact.contains_key(target),
            Selector::Channel(channel) => table.channels.contains_key(channel),
            Selector::All => table.all.is_some(),
        };
        if is_taken {
            return Err(HandleError::Taken(selector.to_string()));
        }
        let registration = Arc::new(Registration { number: table.count, options, handler });
        table.count += 1;
        match selector {
            Selector::Exact(target) => drop(table.exact.insert(target, registration)),
            Selector::Channel(channel) => drop(table.channels.insert(channel, registration)),
            Selector::All => table.all = Some(registration),
        }
        Ok(())
    }

    /// Takes a handler away. What it works on goes on; what comes from now on is not for it.
    pub fn remove(&self, selector: &Selector) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match selector {
            Selector::Exact(target) => drop(table.exact.remove(target)),
            Selector::Channel(channel) => drop(table.channels.remove(channel)),
            Selector::All => table.all = None,
        }
    }

    /// The most specific handler for `target`: exact, channel, everything. A topic of the system has an
    /// exact one or none.
    pub(in crate::cell) fn find(&self, target: &ChannelTopic) -> Option<Arc<Registration>> {
        let table = self.read();
        let exact = table.exact.get(target);
        if target.system().is_some() {
            return exact.cloned();
        }
        let by_channel = || table.channels.get(target.channel());
        exact.or_else(by_channel).or(table.all.as_ref()).cloned()
    }

    pub(super) fn selectors(&self) -> Vec<String> {
        let table = self.read();
        let exact = table.exact.keys().cloned().map(Selector::Exact);
        let channels = table.channels.keys().cloned().map(Selector::Channel);
        let all = table.all.iter().map(|_| Selector::All);
        exact.chain(channels).chain(all).map(|selector| selector.to_string()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for HandlerTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HandlerTable({:?})", self.selectors())
    }
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registration({})", self.number)
    }
}

#[cfg(test)]
mod tests {
    use cellbus_channels::{Delivery, Reply, from_fn};

    use super::*;

    fn add(table: &HandlerTable, selector: Selector) -> Result<(), HandleError> {
        let handler = Arc::new(from_fn(async |_: Delivery| Ok(Reply::default())));
        table.add(selector, HandlerOptions::default(), handler)
    }

    #[test]
    fn the_most_specific_handler_is_found_in_whatever_order_they_came() {
        let table = HandlerTable::default();
        let exact = |text: &str| Selector::Exact(text.parse().unwrap());
        add(&table, Selector::All).unwrap();
        add(&table, exact("task/train")).unwrap();
        add(&table, Selector::Channel("task".parse().unwrap())).unwrap();
        let found = |text: &str| table.find(&text.parse().unwrap()).map(|one| one.number);
        assert_eq!(found("task/train"), Some(1));
        assert_eq!(found("task/other"), Some(2));
        assert_eq!(found("notes/any"), Some(0));
        assert_eq!(found("cell/ping"), None, "a topic of the system is nobody else's");
        let taken = add(&table, exact("task/train"));
        assert_eq!(taken, Err(HandleError::Taken("task/train".to_owned())));
        assert_eq!(table.selectors(), ["task/train", "task/*", "*/*"]);
        table.remove(&exact("task/train"));
        assert_eq!(found("task/train"), Some(2), "the next one, when it is taken away");
        table.remove(&Selector::Channel("task".parse().unwrap()));
        table.remove(&Selector::All);
        assert_eq!(found("task/train"), None);
        add(&table, Selector::All).unwrap();
    }
}
