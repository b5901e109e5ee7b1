//! The rows of the index: every stored version, deadlist record and change list entry.

use std::collections::HashSet;

use crate::ids::{Epoch, FileId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::{RecordKey, change_key, version_key};
use crate::index::records::{self, Chunk, INLINE, NO_OBJECT, Record, THIS_FRAME};

use super::log::key_place;
use super::report::{CheckPhase, FindingKind, Place};
use super::{Check, Cut};

/// A set of keys, as far as two of them must be compared: their number and the sum of their hashes.
#[derive(Default, PartialEq)]
struct Digest {
    count: u64,
    sum: u128,
}

impl Digest {
    fn add(&mut self, key: &[u8]) {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
        self.count += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(half));
    }
}

impl Check<'_> {
    /// Reads every row once. Cost: the index, in its own order; memory does not depend on it.
    pub(super) fn check_rows(
        &mut self,
        cut: &Cut,
        progress: &mut dyn FnMut(CheckPhase, u64, Option<u64>),
    ) {
        let mut content = Digest::default();
        let mut listed = Digest::default();
        let mut unknown = HashSet::new();
        let index = &self.inner.index;
        let mut done = 0;
        let walked = index.all_versions(|key, parts, row| {
            done += 1;
            if done % 1024 == 0 {
                progress(CheckPhase::Index, done, None);
            }
            let Some((timeline, relative, epoch)) = parts else {
                self.findings.error(
                    FindingKind::Undecodable,
                    key_place("version", key),
                    "the key is too short",
                );
                return;
            };
            if epoch > cut.epoch {
                return;
            }
            self.counts.versions += 1;
            if let Some(why) = version_problem(
                cut,
                timeline,
                relative,
                epoch,
                row,
                &mut unknown,
                &mut self.stored,
            ) {
                self.findings
                    .error(FindingKind::Undecodable, key_place("version", key), why);
            }
            if RecordKey::is_content(relative) {
                content.add(&change_key(timeline, epoch, relative));
            }
        });
        self.unreadable(walked);
        let walked = index.all_dead(|key, parts, value| {
            let Some(parts) = parts else {
                self.findings.error(
                    FindingKind::Undecodable,
                    key_place("deadlist", key),
                    "the key has the wrong length",
                );
                return;
            };
            if parts.death > cut.epoch {
                return;
            }
            self.counts.dead += 1;
            let problem = match Dead::decode(value) {
                Ok(dead) => {
                    if dead.file != INLINE {
                        self.stored.insert(dead.file);
                    }
                    dead_problem(&dead, parts.death)
                }
                Err(e) => Some(e.to_string()),
            };
            if let Some(why) = problem {
                self.findings
                    .error(FindingKind::Deadlist, key_place("deadlist", key), why);
            } else if !cut.catalog.timelines.contains_key(&parts.timeline) {
                self.findings.error(
                    FindingKind::Deadlist,
                    key_place("deadlist", key),
                    "its timeline is not in the catalog",
                );
            }
        });
        self.unreadable(walked);
        let walked = index.all_changes(|key, parts| match parts {
            Some((_, epoch, _)) if epoch > cut.epoch => {}
            Some(_) => {
                self.counts.changes += 1;
                listed.add(key);
            }
            None => {
                self.findings.error(
                    FindingKind::Undecodable,
                    key_place("change", key),
                    "the key is too short",
                );
            }
        });
        self.unreadable(walked);
        if content != listed {
            self.name_changes(cut);
        }
    }

    /// Finds out in which keys change list and versions differ.
    fn name_changes(&mut self, cut: &Cut) {
        let index = &self.inner.index;
        let mut failed = Ok(());
        let walked = index.all_versions(|_, parts, _| {
            let Some((timeline, relative, epoch)) = parts else {
                return;
            };
            if epoch > cut.epoch || !RecordKey::is_content(relative) {
                return;
            }
            match index.has_change(timeline, epoch, relative) {
                Ok(true) => {}
                Ok(false) => {
                    self.findings.error(
                        FindingKind::ChangeList,
                        key_place("version", &version_key(timeline, relative, epoch)),
                        "the change list lacks it",
                    );
                }
                Err(e) => failed = Err(e),
            }
        });
        self.unreadable(walked.and(failed));
        let mut failed = Ok(());
        let walked = index.all_changes(|key, parts| {
            let Some((timeline, epoch, relative)) = parts else {
                return;
            };
            if epoch > cut.epoch {
                return;
            }
            match index.version(timeline, relative, epoch) {
                Ok(Some(_)) if RecordKey::is_content(relative) => {}
                Ok(_) => {
                    self.findings.error(
                        FindingKind::ChangeList,
                        key_place("change", key),
                        "no such version is stored",
                    );
                }
                Err(e) => failed = Err(e),
            }
        });
        self.unreadable(walked.and(failed));
    }

    /// Reports that a walk could not be finished.
    pub(super) fn unreadable(&mut self, walked: crate::Result<()>) {
        if let Err(e) = walked {
            let at = self.findings.error(
                FindingKind::IndexUnreadable,
                Place::WholeIndex,
                e.to_string(),
            );
            self.findings.affects(
                at,
                "whatever stands there; the index is a view of the log and can be rebuilt from it"
                    .into(),
            );
        }
    }
}

fn version_problem(
    cut: &Cut,
    timeline: TimelineId,
    relative: &[u8],
    epoch: Epoch,
    row: &[u8],
    unknown: &mut HashSet<TimelineId>,
    stored: &mut HashSet<FileId>,
) -> Option<String> {
    match cut.catalog.timelines.get(&timeline) {
        Some(t) if epoch < t.created => {
            return Some(format!(
                "it is older than its timeline {}, which was made at epoch {}",
                t.name, t.created
            ));
        }
        Some(_) => {}
        // One finding for each such timeline is enough.
        None if unknown.insert(timeline) => {
            return Some(format!("its timeline {timeline} is not in the catalog"));
        }
        None => {}
    }
    let key = match RecordKey::decode(relative) {
        Ok(key) => key,
        Err(e) => return Some(e.to_string()),
    };
    match records::decode(&key, row) {
        Ok(Some(Record::Chunk(chunk))) => {
            if let Chunk::Extents(extents) = &chunk {
                stored.extend(extents.iter().map(|e| e.file));
            }
            chunk_problem(&key, &chunk, timeline, epoch, cut)
        }
        Ok(Some(Record::Inode(inode))) => {
            if inode.object != NO_OBJECT {
                stored.insert(inode.object);
            }
            None
        }
        Ok(_) => None,
        Err(e) => Some(e.to_string()),
    }
}

/// What decoding does not see.
fn chunk_problem(
    key: &RecordKey,
    chunk: &Chunk,
    timeline: TimelineId,
    epoch: Epoch,
    cut: &Cut,
) -> Option<String> {
    let created = cut
        .catalog
        .timelines
        .get(&timeline)
        .map_or(Epoch::ZERO, |t| t.created);
    let birth_problem = |born: u64, inherited: bool| {
        (born > epoch.0 || (!inherited && born < created.0)).then(|| {
            format!("it holds bytes of its timeline that say they were written at epoch {born}")
        })
    };
    match chunk {
        Chunk::Inline {
            born,
            inherited,
            bytes,
        } => {
            if !matches!(key, RecordKey::Chunk(_, 0)) {
                return Some("it holds bytes inline, which only the first chunk may".into());
            }
            if bytes.is_empty() {
                return Some("it holds nothing inline".into());
            }
            birth_problem(*born, *inherited)
        }
        Chunk::Extents(extents) => {
            if extents.is_empty() {
                return Some("it has no extents".into());
            }
            for e in extents {
                if e.file == THIS_FRAME || e.file == NO_OBJECT {
                    return Some("it has an extent without a file".into());
                }
                if let Some(why) = birth_problem(e.born, e.inherited) {
                    return Some(why);
                }
            }
            None
        }
    }
}

fn dead_problem(dead: &Dead, death: Epoch) -> Option<String> {
    if dead.birth > death {
        return Some(format!(
            "it died at {death}, before its birth at {}",
            dead.birth
        ));
    }
    if dead.take == 0 || u64::from(dead.skip) + u64::from(dead.take) > u64::from(dead.length) {
        return Some("it leaves the bounds of its extent".into());
    }
    if dead.file == THIS_FRAME {
        return Some("it names no file".into());
    }
    None
}
