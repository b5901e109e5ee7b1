//! Which states of each timeline must stay readable, and therefore what may go: pure functions.
//!
//! A timeline's epochs fall into windows, `(lo, hi]`, one for each origin: a state in a window sees the
//! timeline's own versions of that window only, and then the window's origin. What was born at `b` and
//! superseded at `d` may go when no pin lies in `[b, d)` of its window and the floor is not below `d`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, TimelineRecord};
use crate::ids::{Epoch, SnapshotId, TimelineId};
use crate::leases::Need;

/// Why something is kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "reason")]
pub enum KeptBy {
    /// A snapshot pins it.
    Snapshot {
        /// Which.
        id: SnapshotId,
        /// Its name.
        name: String,
    },
    /// A timeline reads it: a fork, or one that was restored to it.
    Timeline {
        /// Which.
        id: TimelineId,
        /// Its name.
        name: String,
    },
    /// The retention of its own timeline promises it.
    Retention {
        /// The timeline.
        id: TimelineId,
        /// Its name.
        name: String,
    },
    /// Somebody is reading it.
    Reader,
}

/// A stretch of a timeline's history without a restore in it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Window {
    pub lo: Epoch,
    pub hi: Epoch,
    /// What is read behind it.
    pub origin: Option<(TimelineId, Epoch)>,
    /// States that somebody needs, and who.
    pub pins: BTreeMap<Epoch, KeptBy>,
}

/// What must stay of one timeline.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Pins {
    /// Oldest first; never empty. The last one has no end.
    pub windows: Vec<Window>,
    /// Every state from this epoch on must stay; `MAX` if the timeline was deleted.
    pub floor: Epoch,
    /// Who needs the states from the floor on.
    pub floor_by: Option<KeptBy>,
    /// Everything that died behind this epoch stays, even what no closed epoch has seen: somebody reads the
    /// open one. `MAX` without such a reader.
    pub readers: Epoch,
}

/// What a collection went by, to know what has become free since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Swept {
    pub floor: Epoch,
    pub pins: Vec<Epoch>,
    /// How many windows there were.
    pub windows: usize,
}

impl Pins {
    fn new(record: &TimelineRecord) -> Self {
        let mut windows = Vec::with_capacity(record.origins.len() + 1);
        let mut lo = Epoch::ZERO;
        let mut origin = None;
        for o in &record.origins {
            // The first window of a fork is empty: nothing is written before its origin.
            windows.push(Window {
                lo,
                hi: o.since,
                origin,
                pins: BTreeMap::new(),
            });
            (lo, origin) = (o.since, Some((o.parent, o.cutoff)));
        }
        windows.push(Window {
            lo,
            hi: Epoch::MAX,
            origin,
            pins: BTreeMap::new(),
        });
        Self {
            windows,
            floor: Epoch::MAX,
            floor_by: None,
            readers: Epoch::MAX,
        }
    }

    /// Whether nothing of the timeline is needed.
    pub fn nothing(&self) -> bool {
        // (A reader of the open epoch lowers the floor, too.)
        self.floor == Epoch::MAX && self.windows.iter().all(|w| w.pins.is_empty())
    }

    /// Whether states of this window are kept from the floor on.
    pub fn floor_in(&self, window: &Window) -> bool {
        self.floor < Epoch::MAX && self.floor <= window.hi
    }

    /// The window that an epoch lies in.
    pub fn window_of(&self, epoch: Epoch) -> usize {
        self.windows
            .partition_point(|w| w.hi < epoch)
            .min(self.windows.len() - 1)
    }

    /// Who needs what a window's version born at `birth` showed until the one at `death` (or the window's
    /// end) replaced it.
    pub fn kept_by(&self, window: usize, birth: Epoch, death: Option<Epoch>) -> Option<KeptBy> {
        let w = &self.windows[window];
        // The last epoch at which it was to be seen.
        let last = match death {
            Some(death) if death <= birth => return None,
            Some(death) => w.hi.min(Epoch(death.0 - 1)),
            None => w.hi,
        };
        if let Some((_, by)) = w.pins.range(birth..=last.max(birth)).next() {
            return Some(by.clone());
        }
        if last >= self.floor && self.floor < Epoch::MAX {
            return self.floor_by.clone().or(Some(KeptBy::Reader));
        }
        None
    }

    /// Who needs bytes that were there from `birth` until `death`. (Of bytes that a restore brought back
    /// the death may lie in a later window than the birth.)
    pub fn bytes_kept_by(&self, birth: Epoch, death: Epoch) -> Option<KeptBy> {
        if death > self.readers {
            return Some(KeptBy::Reader);
        }
        if death <= birth {
            return None;
        }
        for w in &self.windows {
            if let Some((_, by)) = w.pins.range(birth..death).next() {
                return Some(by.clone());
            }
        }
        if death > self.floor {
            return self.floor_by.clone().or(Some(KeptBy::Reader));
        }
        None
    }

    /// The last state of a window that is needed; its `lo` if none is.
    pub fn top(&self, window: usize) -> Epoch {
        let w = &self.windows[window];
        if self.floor_in(w) {
            return w.hi;
        }
        w.pins.keys().next_back().copied().unwrap_or(w.lo)
    }

    /// What to remember of a collection that went by this.
    pub fn swept(&self) -> Swept {
        Swept {
            floor: self.floor,
            pins: self.all_pins().into_iter().collect(),
            windows: self.windows.len(),
        }
    }

    fn all_pins(&self) -> BTreeSet<Epoch> {
        self.windows
            .iter()
            .flat_map(|w| w.pins.keys().copied())
            .collect()
    }

    /// Ranges `(lo, hi]` of epochs in which something died, or was born for the last time, that an earlier
    /// collection had to keep and this one need not.
    pub fn uncovered(&self, before: Option<&Swept>) -> Vec<(Epoch, Epoch)> {
        let Some(before) = before else {
            return vec![(Epoch::ZERO, Epoch::MAX)];
        };
        let mut ranges = Vec::new();
        if self.floor > before.floor {
            ranges.push((before.floor, self.floor));
        }
        let now = self.all_pins();
        for gone in before.pins.iter().filter(|p| !now.contains(p)) {
            let next = now
                .range(Epoch(gone.0.saturating_add(1))..)
                .next()
                .copied()
                .unwrap_or(Epoch::MAX)
                .min(if self.floor > *gone {
                    self.floor
                } else {
                    Epoch::MAX
                });
            ranges.push((*gone, next));
        }
        for (n, w) in self.windows.iter().enumerate() {
            let top_before = if n + 1 >= before.windows {
                // It was the open one, or was not there yet.
                w.hi
            } else if before.floor <= w.hi {
                w.hi
            } else {
                before
                    .pins
                    .iter()
                    .copied()
                    .filter(|p| *p > w.lo && *p <= w.hi)
                    .max()
                    .unwrap_or(w.lo)
            };
            let top = self.top(n);
            if top < top_before {
                ranges.push((top, w.hi));
            }
        }
        merge(ranges)
    }
}

/// Sorted, without overlaps.
fn merge(mut ranges: Vec<(Epoch, Epoch)>) -> Vec<(Epoch, Epoch)> {
    ranges.sort_unstable();
    let mut out: Vec<(Epoch, Epoch)> = Vec::new();
    for (lo, hi) in ranges {
        match out.last_mut() {
            Some(last) if lo <= last.1 => last.1 = last.1.max(hi),
            _ if lo < hi => out.push((lo, hi)),
            _ => {}
        }
    }
    out
}

/// What must stay of every timeline that is in the catalog and not dropped. `closed` is the newest closed
/// epoch, `now` the time: retention reaches back from it.
pub(crate) fn plan(
    catalog: &Catalog,
    needs: &[Need],
    closed: Epoch,
    now: u64,
) -> HashMap<TimelineId, Pins> {
    let mut pins: HashMap<TimelineId, Pins> = catalog
        .timelines
        .values()
        .filter(|t| !t.dropped)
        .map(|t| (t.id, Pins::new(t)))
        .collect();
    let mut todo: Vec<(TimelineId, Epoch, KeptBy)> = Vec::new();
    for t in catalog.timelines.values().filter(|t| t.deleted.is_none()) {
        let Some(own) = pins.get_mut(&t.id) else {
            continue;
        };
        let retain = u64::try_from(t.settings.retain.as_nanos()).unwrap_or(u64::MAX);
        // What was collected already cannot be promised again.
        own.floor = Epoch(now.saturating_sub(retain))
            .max(t.horizon.unwrap_or(Epoch::ZERO))
            .max(t.created)
            .min(closed);
        own.floor_by = Some(KeptBy::Retention {
            id: t.id,
            name: t.name.clone(),
        });
    }
    for need in needs {
        match *need {
            Need::State(timeline, epoch) => todo.push((timeline, epoch, KeptBy::Reader)),
            Need::Since(timeline, epoch) => {
                if let Some(own) = pins.get_mut(&timeline) {
                    let floor = Epoch(epoch.0.saturating_sub(1));
                    own.readers = own.readers.min(floor);
                    if floor < own.floor {
                        (own.floor, own.floor_by) = (floor, Some(KeptBy::Reader));
                    }
                }
            }
        }
    }
    for (id, own) in &pins {
        let by = KeptBy::Timeline {
            id: *id,
            name: catalog
                .timelines
                .get(id)
                .map(|t| t.name.clone())
                .unwrap_or_default(),
        };
        for w in own.windows.iter().filter(|w| own.floor_in(w)) {
            if let Some((parent, cutoff)) = w.origin {
                todo.push((parent, cutoff, by.clone()));
            }
        }
    }
    for s in catalog.snapshots.values().filter(|s| s.deleted.is_none()) {
        let by = KeptBy::Snapshot {
            id: s.id,
            name: s.name.clone(),
        };
        todo.push((s.timeline, s.epoch, by));
    }
    let mut seen: HashSet<(TimelineId, Epoch)> = HashSet::new();
    while let Some((timeline, epoch, by)) = todo.pop() {
        let Some(own) = pins.get_mut(&timeline) else {
            continue;
        };
        let n = own.window_of(epoch);
        let w = &mut own.windows[n];
        w.pins.entry(epoch).or_insert_with(|| by.clone());
        if seen.insert((timeline, epoch))
            && let Some((parent, cutoff)) = w.origin
        {
            let name = catalog
                .timelines
                .get(&timeline)
                .map(|t| t.name.clone())
                .unwrap_or_default();
            let by = match by {
                KeptBy::Reader => KeptBy::Reader,
                _ => KeptBy::Timeline { id: timeline, name },
            };
            todo.push((parent, cutoff, by));
        }
    }
    pins
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(lo: u64, hi: u64, pins: &[u64]) -> Window {
        Window {
            lo: Epoch(lo),
            hi: Epoch(hi),
            origin: None,
            pins: pins.iter().map(|p| (Epoch(*p), KeptBy::Reader)).collect(),
        }
    }

    fn pins(windows: Vec<Window>, floor: u64) -> Pins {
        Pins {
            windows,
            floor: Epoch(floor),
            floor_by: None,
            readers: Epoch::MAX,
        }
    }

    #[test]
    fn what_no_pin_sees_may_go() {
        let p = pins(vec![window(0, u64::MAX, &[10, 20])], 30);
        let kept = |b, d: Option<u64>| p.kept_by(0, Epoch(b), d.map(Epoch)).is_some();
        assert!(!kept(11, Some(20)));
        assert!(kept(11, Some(21)));
        assert!(kept(10, Some(11)));
        assert!(kept(20, Some(21)));
        assert!(!kept(21, Some(30)));
        assert!(kept(21, Some(31)));
        assert!(kept(21, None));
        assert!(!kept(5, Some(5)));
        assert!(!p.nothing());
        assert!(pins(vec![window(0, u64::MAX, &[])], u64::MAX).nothing());
    }

    #[test]
    fn a_window_that_was_left_ends_at_its_last_pin() {
        let p = pins(vec![window(0, 50, &[10]), window(50, u64::MAX, &[])], 60);
        assert_eq!(p.top(0), Epoch(10));
        assert_eq!(p.top(1), Epoch::MAX);
        assert!(p.kept_by(0, Epoch(11), None).is_none());
        assert!(p.kept_by(0, Epoch(9), None).is_some());
        assert!(p.kept_by(1, Epoch(51), None).is_some());
        assert!(p.kept_by(1, Epoch(51), Some(Epoch(60))).is_none());
    }

    proptest! {
        /// Whatever one collection kept and the next need not is in the ranges that it looks at.
        #[test]
        fn nothing_that_became_free_is_missed(
            before in prop::collection::btree_set(1u64..40, 0..6),
            keep in prop::collection::vec(any::<bool>(), 6),
            add in prop::collection::btree_set(1u64..40, 0..2),
            floors in (1u64..45, 0u64..10),
            versions in prop::collection::vec((1u64..40, prop::option::of(1u64..40)), 1..30),
            restored in prop::option::of(1u64..40),
        ) {
            let deleted = floors.1 == 9;
            let build = |set: &BTreeSet<u64>, floor: u64| {
                let in_window = |lo: u64, hi: u64| -> Vec<u64> { set.iter().copied().filter(|p| *p > lo && *p <= hi).collect() };
                let windows = match restored {
                    None => vec![window(0, u64::MAX, &in_window(0, u64::MAX))],
                    Some(at) => vec![window(0, at, &in_window(0, at)), window(at, u64::MAX, &in_window(at, u64::MAX))],
                };
                pins(windows, floor)
            };
            let kept: BTreeSet<u64> = before.iter().zip(&keep).filter(|(_, k)| **k).map(|(p, _)| *p).collect();
            let after: BTreeSet<u64> = kept.union(&add).copied().collect();
            let floor0 = floors.0;
            let floor1 = if deleted { u64::MAX } else { floor0 + floors.1 };
            let (a, b) = (build(&before, floor0), build(&after, floor1));
            let ranges = b.uncovered(Some(&a.swept()));
            for (birth, death) in versions {
                let n = b.window_of(Epoch(birth));
                let hi = b.windows[n].hi;
                let death = death.filter(|d| *d > birth && *d <= hi.0).map(Epoch);
                if a.kept_by(n, Epoch(birth), death).is_some() && b.kept_by(n, Epoch(birth), death).is_none() {
                    let at = death.unwrap_or(Epoch(birth));
                    prop_assert!(
                        ranges.iter().any(|(lo, hi)| at > *lo && at <= *hi),
                        "born {birth}, died {death:?}: not in {ranges:?}"
                    );
                }
            }
        }
    }
}
