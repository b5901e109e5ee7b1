//! The forks that an object asks for, and those that are there.

use std::collections::BTreeMap;

use crds::{BucketFork, Kind, ObjectKey};

use crate::observed::{Observed, Timeline};
use crate::owner::{self, engine_name};

/// One fork: its index in the set, none without `count`.
pub(crate) type Index = Option<u32>;

/// What is there and what should be.
pub(crate) struct Items<'a> {
    /// The forks that are there, by index.
    pub(crate) found: BTreeMap<Index, &'a Timeline>,
    /// The forks that are asked for, in order.
    pub(crate) wanted: Vec<Index>,
}

impl<'a> Items<'a> {
    pub(crate) fn of(fork: &BucketFork, key: &ObjectKey, observed: &'a Observed) -> Self {
        let ours = observed
            .timelines
            .values()
            .filter(|timeline| owner::key_of(&timeline.settings.labels).as_ref() == Some(key));
        let found = ours
            .map(|timeline| (owner::index_of(&timeline.settings.labels), timeline))
            .collect();
        let wanted = match fork.spec.count {
            None => vec![None],
            Some(count) => (0..count).map(Some).collect(),
        };
        Items { found, wanted }
    }

    /// Forks that are asked for and not there.
    pub(crate) fn missing(&self) -> Vec<Index> {
        self.wanted
            .iter()
            .copied()
            .filter(|index| !self.found.contains_key(index))
            .collect()
    }

    /// Forks of a set that are there and no longer asked for, the highest index first.
    pub(crate) fn surplus(&self) -> Vec<&'a Timeline> {
        let surplus = self
            .found
            .iter()
            .rev()
            .filter(|(index, _)| !self.wanted.contains(index));
        surplus.map(|(_, timeline)| *timeline).collect()
    }

    /// Forks that are asked for and there.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (Index, &'a Timeline)> {
        self.wanted
            .iter()
            .filter_map(|index| Some((*index, *self.found.get(index)?)))
    }

    /// Whether what is there is of the other form: a single fork where a set is asked for, or a set where one is.
    pub(crate) fn other_form(&self, fork: &BucketFork) -> bool {
        self.found
            .keys()
            .any(|index| index.is_some() != fork.spec.count.is_some())
    }
}

/// Name of a fork: of the object, or `<name>-<index>`.
pub(crate) fn item_name(name: &str, index: Index) -> String {
    match index {
        Some(index) => format!("{name}-{index}"),
        None => name.to_owned(),
    }
}

/// Name of a fork's timeline in the engine.
pub(crate) fn timeline_name(key: &ObjectKey, index: Index) -> String {
    engine_name(Kind::Fork, &key.namespace, &key.name, index)
}
