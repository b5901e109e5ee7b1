//! Telling the other doors of a timeline what changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::engine::Point;
use crate::ids::{Ino, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::Record;

/// A change made through another door.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// The name `name` in `parent` was added, removed or points elsewhere.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: &'a [u8],
    },
    /// Attributes of the inode.
    Inode {
        /// Which.
        ino: Ino,
    },
    /// Data of the inode.
    Data {
        /// Which.
        ino: Ino,
    },
    /// The whole timeline was restored: `Engine::diff` of the two points tells what differs.
    Rebased {
        /// What it was.
        from: Point,
        /// What it is.
        to: Point,
    },
}

/// Called after a change is committed, on the thread that made it: must not block nor call the engine.
pub type Observer = Arc<dyn Fn(&Change<'_>) + Send + Sync>;

#[derive(Default)]
pub(crate) struct Observers {
    next: AtomicU64,
    by_timeline: RwLock<HashMap<TimelineId, Vec<Registered>>>,
}

struct Registered {
    number: u64,
    origin: u64,
    observer: Observer,
}

/// Ends the observation when dropped.
pub struct Observation {
    observers: Arc<Observers>,
    timeline: TimelineId,
    number: u64,
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut map = self.observers.by_timeline.write();
        if let Some(list) = map.get_mut(&self.timeline) {
            list.retain(|r| r.number != self.number);
            if list.is_empty() {
                map.remove(&self.timeline);
            }
        }
    }
}

impl Observers {
    pub fn add(
        self: &Arc<Self>,
        timeline: TimelineId,
        origin: u64,
        observer: Observer,
    ) -> Observation {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.by_timeline
            .write()
            .entry(timeline)
            .or_default()
            .push(Registered {
                number,
                origin,
                observer,
            });
        Observation {
            observers: Arc::clone(self),
            timeline,
            number,
        }
    }

    /// Whether anybody of another origin listens.
    pub fn wanted(&self, timeline: TimelineId, origin: u64) -> bool {
        self.by_timeline
            .read()
            .get(&timeline)
            .is_some_and(|list| list.iter().any(|r| r.origin != origin))
    }

    /// Whether anybody listens, of whatever origin: then somebody may have files of the timeline open.
    pub fn any(&self, timeline: TimelineId) -> bool {
        self.by_timeline.read().contains_key(&timeline)
    }

    pub fn tell(&self, timeline: TimelineId, origin: u64, notices: &[Notice]) {
        let listeners: Vec<Observer> = match self.by_timeline.read().get(&timeline) {
            Some(list) => list
                .iter()
                .filter(|r| r.origin != origin)
                .map(|r| Arc::clone(&r.observer))
                .collect(),
            None => return,
        };
        for listener in listeners {
            for notice in notices {
                listener(&notice.change());
            }
        }
    }
}

/// A change that owns its name.
pub(crate) enum Notice {
    Entry { parent: Ino, name: Vec<u8> },
    Inode(Ino),
    Data(Ino),
    Rebased { from: Point, to: Point },
}

impl Notice {
    /// What a transaction's records say to others.
    pub fn of(pending: &BTreeMap<RecordKey, Option<Record>>) -> Vec<Self> {
        let mut out = Vec::new();
        for key in pending.keys() {
            match key {
                RecordKey::Inode(ino) | RecordKey::Xattr(ino, _) => out.push(Self::Inode(*ino)),
                RecordKey::Chunk(ino, _) => out.push(Self::Data(*ino)),
                RecordKey::Dirent(parent, name) => out.push(Self::Entry {
                    parent: *parent,
                    name: name.clone(),
                }),
                _ => {}
            }
        }
        out
    }

    fn change(&self) -> Change<'_> {
        match self {
            Self::Entry { parent, name } => Change::Entry {
                parent: *parent,
                name,
            },
            Self::Inode(ino) => Change::Inode { ino: *ino },
            Self::Data(ino) => Change::Data { ino: *ino },
            Self::Rebased { from, to } => Change::Rebased {
                from: *from,
                to: *to,
            },
        }
    }
}
