//! What the store would not keep without one of those who hold it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::catalog::Catalog;
use crate::engine::Inner;
use crate::error::Result;
use crate::gc::cutoffs::{self, Pins};
use crate::ids::{Epoch, TimelineId};
use crate::index::keys::{EPOCH_LEN, RecordKey, tag};
use crate::index::records::{self, Record};

use super::{Bytes, Holder};

/// Entries read at once.
const PAGE: usize = 1024;

type State = (TimelineId, Epoch);

/// What is kept at one instant, and by how many each state is held.
pub(super) struct Kept<'a> {
    inner: &'a Inner,
    catalog: Catalog,
    /// Versions of later epochs are none of its business.
    closed: Epoch,
    pins: HashMap<TimelineId, Pins>,
    holders: HashMap<State, usize>,
}

impl<'a> Kept<'a> {
    /// As of now. Cost: the catalog, copied with commits held up.
    pub fn new(inner: &'a Inner) -> Result<Self> {
        let (catalog, closed) = {
            let _structure = inner.structure.lock();
            let mut epoch = inner.exclusive_epoch();
            let closed = inner.close_if_dirty(&mut epoch);
            (inner.catalog.read().clone(), closed)
        };
        let pins = cutoffs::plan(&catalog, &[], closed, inner.clock.now());
        let mut holders: HashMap<State, usize> = HashMap::new();
        for s in catalog.snapshots.values().filter(|s| s.deleted.is_none()) {
            *holders.entry((s.timeline, s.epoch)).or_default() += 1;
        }
        for own in pins.values() {
            for w in &own.windows {
                let Some(origin) = w.origin else { continue };
                // Each state that is kept in the window reads the origin, and so does what retention keeps.
                let states = w.pins.len() + usize::from(own.floor_in(w));
                *holders.entry(origin).or_default() += states;
            }
        }
        Ok(Self {
            inner,
            catalog,
            closed,
            pins,
            holders,
        })
    }

    /// What goes with this holder.
    pub fn freed(&self, holder: Holder) -> Result<u64> {
        let mut without: BTreeMap<TimelineId, Pins> = BTreeMap::new();
        let mut left: HashMap<State, usize> = HashMap::new();
        let mut less: Vec<State> = Vec::new();
        match holder {
            Holder::Snapshot(id) => {
                let s = self.catalog.live_snapshot(id)?;
                less.push((s.timeline, s.epoch));
            }
            Holder::Timeline(id) => {
                self.catalog.live_timeline(id)?;
                if let Some(own) = self.pins.get(&id) {
                    let mut own = own.clone();
                    for w in own.windows.iter().filter(|w| own.floor_in(w)) {
                        less.extend(w.origin);
                    }
                    (own.floor, own.floor_by) = (Epoch::MAX, None);
                    without.insert(id, own);
                }
            }
        }
        while let Some(state) = less.pop() {
            let held = left
                .entry(state)
                .or_insert_with(|| self.holders.get(&state).copied().unwrap_or(0));
            *held = held.saturating_sub(1);
            let (timeline, epoch) = state;
            let Some(before) = self.pins.get(&timeline).filter(|_| *held == 0) else {
                continue;
            };
            let own = without.entry(timeline).or_insert_with(|| before.clone());
            let n = own.window_of(epoch);
            if own.windows[n].pins.remove(&epoch).is_some() {
                less.extend(own.windows[n].origin);
            }
        }
        let mut sum = 0;
        for (id, without) in &without {
            if let Some(with) = self.pins.get(id) {
                sum += self.lost(*id, with, without)?;
            }
        }
        Ok(sum)
    }

    /// What goes of one timeline.
    fn lost(&self, id: TimelineId, with: &Pins, without: &Pins) -> Result<u64> {
        let mut sum = 0;
        let index = &self.inner.index;
        if without.nothing() {
            // Everything: in the order of the keys, so that nothing need be remembered.
            let mut after: Option<Vec<u8>> = None;
            let mut last: Vec<u8> = Vec::new();
            loop {
                let page = index.versions_page(id, &[tag::CHUNK], after.as_deref(), PAGE)?;
                let Some((key, _)) = page.last() else {
                    return Ok(sum);
                };
                after = Some(key.clone());
                for (key, _) in &page {
                    let relative = &key[id.0.len()..key.len() - EPOCH_LEN];
                    if *relative != *last {
                        last = relative.to_vec();
                        sum += self.lost_of(id, with, without, &last)?;
                    }
                }
            }
        }
        let mut keys: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (lo, hi) in without.uncovered(Some(&with.swept())) {
            let mut after = None;
            loop {
                let hi = hi.min(self.closed);
                let page = index.changes_page(id, lo, hi, after.as_ref(), PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                let changed = page.into_iter().map(|(_, key)| key);
                keys.extend(changed.filter(|key| key.first() == Some(&tag::CHUNK)));
            }
        }
        for key in keys {
            sum += self.lost_of(id, with, without, &key)?;
        }
        Ok(sum)
    }

    /// What goes of one chunk. No other chunk refers to its bytes.
    fn lost_of(&self, id: TimelineId, with: &Pins, without: &Pins, relative: &[u8]) -> Result<u64> {
        let key = RecordKey::decode(relative)?;
        let RecordKey::Chunk(ino, _) = key else {
            return Ok(0);
        };
        let mut versions = self.inner.index.versions_of(id, relative)?;
        versions.retain(|(epoch, _)| *epoch <= self.closed);
        versions.reverse();
        let (mut before, mut behind) = (Bytes::default(), Bytes::default());
        for (n, (birth, row)) in versions.iter().enumerate() {
            let window = with.window_of(*birth);
            let death = versions
                .get(n + 1)
                .map(|(epoch, _)| *epoch)
                .filter(|epoch| *epoch <= with.windows[window].hi);
            let kept = |pins: &Pins| pins.kept_by(window, *birth, death).is_some();
            if !kept(with) {
                continue;
            }
            if let Some(Record::Chunk(chunk)) = records::decode(&key, row)? {
                before.add_version(ino, &chunk);
                if kept(without) {
                    behind.add_version(ino, &chunk);
                }
            }
        }
        Ok(before.count().saturating_sub(behind.count()))
    }
}
