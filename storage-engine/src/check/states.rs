//! The states that must be readable: the newest of each timeline, snapshots, and fork cutoffs.

use std::collections::HashMap;

use crate::error::Result;
use crate::ids::{Epoch, Ino, TimelineId};
use crate::index::keys::{RecordKey, tag};
use crate::index::lineage::{Hop, Lineage, Scan};
use crate::index::records::{self, CHUNK_BYTES, Chunk, Record};

use super::report::{CheckPhase, FindingKind, Place};
use super::tree::Counted;
use super::{Check, Cut, timeline_name};

/// So many places that damaged data affects are listed.
const MAX_AFFECTED: usize = 50;

/// One state.
pub(super) struct State {
    pub timeline: TimelineId,
    pub epoch: Epoch,
    /// Name of the timeline.
    pub name: String,
    /// What a person calls the state.
    pub label: String,
    /// Whether it is the newest one of a live timeline.
    pub live: bool,
    /// What a read visits; windows in which nothing was written are left out, but the first.
    pub hops: Lineage,
}

impl State {
    /// Something in it, shown.
    pub fn place(&self, ino: Option<Ino>, path: Option<String>) -> Place {
        Place::State {
            timeline: self.timeline,
            name: self.name.clone(),
            epoch: self.epoch,
            ino,
            path,
        }
    }
}

/// States that are the same, because nothing was written between them.
struct Same {
    state: State,
    also: Vec<String>,
    counted: Counted,
}

impl Check<'_> {
    /// Walks every different state. Cost: each of them whole, and its data where it was not read yet.
    pub(super) fn check_states(
        &mut self,
        cut: &Cut,
        progress: &mut dyn FnMut(CheckPhase, u64, Option<u64>),
    ) {
        let wanted = self.wanted_states(cut);
        let total = wanted.len() as u64;
        let mut known: HashMap<Vec<(TimelineId, Epoch, Epoch)>, usize> = HashMap::new();
        let mut different: Vec<Same> = Vec::new();
        for (done, state) in wanted.into_iter().enumerate() {
            progress(CheckPhase::States, done as u64, Some(total));
            let key = match self.normal(&state.hops) {
                Ok(key) => key,
                Err(e) => {
                    self.unreadable(Err(e));
                    continue;
                }
            };
            let counted = match known.get(&key).and_then(|n| different.get_mut(*n)) {
                Some(same) => {
                    same.also.push(state.label.clone());
                    same.counted
                }
                None => {
                    self.counts.states += 1;
                    let counted = self.check_tree(&state);
                    self.counts.inodes += counted.inodes;
                    counted
                }
            };
            if counted.complete {
                let compared = self.check_usage(cut, &state, &counted);
                self.unreadable(compared);
            }
            if let std::collections::hash_map::Entry::Vacant(unknown) = known.entry(key) {
                unknown.insert(different.len());
                different.push(Same {
                    state,
                    also: Vec::new(),
                    counted,
                });
            }
        }
        self.verify_waiting();
        if !self.runs.damaged.is_empty() {
            self.tell_affected(&different, progress);
        }
    }

    /// The states to walk, the newest ones first.
    fn wanted_states(&mut self, cut: &Cut) -> Vec<State> {
        let catalog = &cut.catalog;
        let mut points = Vec::new();
        for t in catalog.timelines_by_name() {
            self.counts.timelines += 1;
            points.push((t.id, cut.epoch, format!("timeline {}", t.name), true));
        }
        for s in catalog.snapshots_by_name() {
            self.counts.snapshots += 1;
            points.push((s.timeline, s.epoch, format!("snapshot {}", s.name), false));
        }
        let pinned = crate::gc::pinned(catalog, cut.epoch, self.inner.clock.now());
        for t in catalog.timelines_by_name() {
            for o in t.origins.iter().filter(|o| pinned(o.parent, o.cutoff)) {
                let parent = timeline_name(catalog, o.parent);
                let label = format!("{parent} at the cutoff of timeline {}", t.name);
                points.push((o.parent, o.cutoff, label, false));
            }
        }
        let mut states = Vec::with_capacity(points.len());
        for (timeline, epoch, label, live) in points {
            let name = timeline_name(catalog, timeline);
            match self.inner.lineage(catalog, timeline, epoch) {
                Ok(hops) => states.push(State {
                    timeline,
                    epoch,
                    name,
                    label,
                    live,
                    hops,
                }),
                Err(e) => {
                    let place = Place::State {
                        timeline,
                        name,
                        epoch,
                        ino: None,
                        path: None,
                    };
                    let at = self
                        .findings
                        .error(FindingKind::Catalog, place, e.to_string());
                    self.findings.affects(at, label);
                }
            }
        }
        states
    }

    /// The same for states that hold the same: windows end at what was written last in them.
    fn normal(&self, hops: &[Hop]) -> Result<Vec<(TimelineId, Epoch, Epoch)>> {
        let usage = RecordKey::Usage.encode();
        let mut key = Vec::with_capacity(hops.len());
        for hop in hops {
            let newest = self
                .inner
                .index
                .newest(hop.timeline, &usage, hop.lo, hop.hi)?;
            if let Some((epoch, _)) = newest {
                key.push((hop.timeline, hop.lo, epoch));
            }
        }
        Ok(key)
    }

    /// Says which files of which states hold damaged data.
    fn tell_affected(
        &mut self,
        different: &[Same],
        progress: &mut dyn FnMut(CheckPhase, u64, Option<u64>),
    ) {
        let mut more: HashMap<Option<usize>, u64> = HashMap::new();
        for (done, same) in different.iter().enumerate() {
            progress(
                CheckPhase::Affected,
                done as u64,
                Some(different.len() as u64),
            );
            let state = &same.state;
            let prefix = [tag::CHUNK];
            let mut scan = Scan::new(&self.inner.index, &state.hops, &prefix, &prefix);
            while let Ok(Some((key, _, row, _))) = scan.next_row() {
                let Ok(key) = RecordKey::decode(&key) else {
                    continue;
                };
                let (RecordKey::Chunk(ino, n), Ok(Some(Record::Chunk(Chunk::Extents(extents))))) =
                    (&key, records::decode(&key, &row))
                else {
                    continue;
                };
                for e in &extents {
                    let run = self.runs.run(e);
                    let Some(&at) = self.runs.damaged.get(&run) else {
                        continue;
                    };
                    let listed = at
                        .and_then(|at| self.findings.list.get(at))
                        .map_or(0, |f| f.affected.len());
                    if listed >= MAX_AFFECTED {
                        *more.entry(at).or_default() += 1;
                        continue;
                    }
                    let start = u64::from(*n) * CHUNK_BYTES + u64::from(e.at);
                    let path = self.path(state, *ino);
                    let path = path.unwrap_or_else(|| format!("inode {ino}"));
                    let also = match same.also.len() {
                        0 => String::new(),
                        1..=5 => format!(" (and {})", same.also.join(", ")),
                        n => format!(" (and {n} other states)"),
                    };
                    self.findings.affects(
                        at,
                        format!(
                            "{}{also}: {path}, bytes {start} to {}",
                            state.label,
                            start + u64::from(e.take)
                        ),
                    );
                }
            }
        }
        for (at, n) in more {
            self.findings.affects(at, format!("{n} more places"));
        }
    }

    /// A path of an inode, if it can be found.
    pub(super) fn path(&self, state: &State, ino: Ino) -> Option<String> {
        let view = crate::files::View::of(
            &self.inner.index,
            &self.inner.files,
            std::sync::Arc::clone(&state.hops),
        );
        view.path_of(ino)
            .ok()
            .map(|p| String::from_utf8_lossy(&p).into_owned())
    }
}
