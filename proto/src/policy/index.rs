//! Rules by what they are about: a decision looks only at rules that name its topic, and at those
//! that have a wildcard there.

use std::collections::{BTreeMap, BTreeSet};

use super::rule::{Channels, Effect, Rule, Topics};
use crate::name::{Channel, ChannelTopic, Topic};

/// Rules by channel and topic, each wildcard in a place of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    exact: BTreeMap<ChannelTopic, Candidates>,
    by_channel: BTreeMap<Channel, Candidates>,
    by_topic: BTreeMap<Topic, Candidates>,
    everything: Candidates,
}

/// Indices of rules, in the order of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Candidates {
    deny: Vec<usize>,
    allow: Vec<usize>,
}

/// What must be sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seals {
    exact: BTreeSet<ChannelTopic>,
    channels: BTreeSet<Channel>,
    topics: BTreeSet<Topic>,
    everything: bool,
}

impl Candidates {
    fn add(&mut self, effect: Effect, rule: usize) {
        match effect {
            Effect::Deny => self.deny.push(rule),
            Effect::Allow => self.allow.push(rule),
        }
    }

    fn of(&self, effect: Effect) -> &[usize] {
        match effect {
            Effect::Deny => &self.deny,
            Effect::Allow => &self.allow,
        }
    }
}

impl Index {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, Rule { effect, channel, topics, .. }) in rules.iter().enumerate() {
            match (channel, topics) {
                (Channels::Any, Topics::Any) => index.everything.add(*effect, at),
                (Channels::One(channel), Topics::Any) => {
                    index.by_channel.entry(channel.clone()).or_default().add(*effect, at);
                }
                (Channels::Any, Topics::These(topics)) => {
                    for topic in topics {
                        index.by_topic.entry(topic.clone()).or_default().add(*effect, at);
                    }
                }
                (Channels::One(channel), Topics::These(topics)) => {
                    for topic in topics {
                        let target = ChannelTopic::new(channel.clone(), topic.clone());
                        index.exact.entry(target).or_default().add(*effect, at);
                    }
                }
            }
        }
        index
    }

    /// The first rule in their order that is about `target`, has this effect, and of which `matches`
    /// says yes.
    pub(super) fn first(
        &self,
        target: &ChannelTopic,
        effect: Effect,
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let lists = [
            self.exact.get(target),
            self.by_channel.get(target.channel()),
            self.by_topic.get(target.topic()),
            Some(&self.everything),
        ];
        let first = |list: &Candidates| list.of(effect).iter().copied().find(|rule| matches(*rule));
        lists.into_iter().flatten().filter_map(first).min()
    }
}

impl Seals {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut seals = Self::default();
        for Rule { channel, topics, .. } in rules.iter().filter(|rule| rule.seal) {
            match (channel, topics) {
                (Channels::Any, Topics::Any) => seals.everything = true,
                (Channels::One(channel), Topics::Any) => seals.add_channel(channel.clone()),
                (Channels::Any, Topics::These(topics)) => {
                    seals.topics.extend(topics.iter().cloned());
                }
                (Channels::One(channel), Topics::These(topics)) => {
                    let target = |topic: &Topic| ChannelTopic::new(channel.clone(), topic.clone());
                    seals.exact.extend(topics.iter().map(target));
                }
            }
        }
        seals
    }

    pub(super) fn add_channel(&mut self, channel: Channel) {
        self.channels.insert(channel);
    }

    pub(super) fn covers(&self, target: &ChannelTopic) -> bool {
        self.everything
            || self.channels.contains(target.channel())
            || self.topics.contains(target.topic())
            || self.exact.contains(target)
    }
}
