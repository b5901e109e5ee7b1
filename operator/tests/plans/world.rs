//! A store in memory that does what plans ask, as the engine would: ids are used once, names are unique.

use std::collections::{BTreeMap, BTreeSet};

use crds::{Epoch, Object, ObjectKey, names};
use jiff::Timestamp;
use operator::{
    Action, Id, Import, ImportState, Mount, Observed, Options, Origin, Peers, Plan, Point,
    Settings, Snapshot, Timeline, World, plan,
};

/// The store, the objects and the clock.
#[derive(Clone)]
pub struct Sim {
    pub now: Timestamp,
    pub observed: Observed,
    pub objects: BTreeMap<ObjectKey, Object>,
    pub options: Options,
    used: BTreeSet<Id>,
    uids: u32,
}

impl Sim {
    pub fn new() -> Self {
        Sim {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            observed: Observed::default(),
            objects: BTreeMap::new(),
            options: Options {
                admission: false,
                mount_forks: true,
                node: None,
            },
            used: BTreeSet::new(),
            uids: 0,
        }
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now = self
            .now
            .checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap();
    }

    /// Applies manifests, as an API server would: uid at creation, generation at a change of the spec. Objects that are
    /// being deleted take no manifest.
    pub fn apply(&mut self, manifests: &str) {
        for document in crds::manifest::parse(manifests) {
            let mut object = document
                .result
                .unwrap_or_else(|errors| panic!("{errors:#?}"));
            let key = object.key();
            match self.objects.get(&key) {
                None => {
                    self.uids += 1;
                    object.metadata_mut().uid = Some(format!("uid-{}", self.uids));
                    object.metadata_mut().generation = Some(1);
                }
                Some(before) if before.metadata().deletion_timestamp.is_some() => continue,
                Some(before) => {
                    let metadata = before.metadata().clone();
                    match (&mut object, before) {
                        (Object::Bucket(new), Object::Bucket(old)) => {
                            new.status = old.status.clone()
                        }
                        (Object::Snapshot(new), Object::Snapshot(old)) => {
                            new.status = old.status.clone()
                        }
                        (Object::Fork(new), Object::Fork(old)) => new.status = old.status.clone(),
                        _ => unreachable!(),
                    }
                    *object.metadata_mut() = metadata;
                    if object != *before {
                        let metadata = object.metadata_mut();
                        metadata.generation = metadata.generation.map(|generation| generation + 1);
                    }
                }
            }
            self.objects.insert(key, object);
        }
    }

    pub fn delete(&mut self, key: &ObjectKey) {
        let now = self.now;
        if let Some(object) = self.objects.get_mut(key) {
            object
                .metadata_mut()
                .deletion_timestamp
                .get_or_insert(now.into());
        }
    }

    pub fn plan(&self, key: &ObjectKey) -> Plan {
        let peers = Peers::of(self.objects.values());
        let world = World {
            now: self.now,
            observed: &self.observed,
            peers: &peers,
            options: &self.options,
        };
        plan(&self.objects[key], &world)
    }

    /// One round over all objects. `budget` is how many more steps (statuses written, actions done) are made before the
    /// process dies. Returns whether anything was done, or `None` when it died.
    pub fn round(&mut self, budget: &mut usize) -> Option<bool> {
        let mut worked = false;
        for key in self.objects.keys().cloned().collect::<Vec<_>>() {
            let plan = self.plan(&key);
            spend(budget)?;
            if plan.released {
                self.objects.remove(&key);
                worked = true;
                continue;
            }
            // What others wait for may have changed with the status.
            worked |= self.objects.insert(key.clone(), plan.object.clone()) != Some(plan.object);
            for action in plan.actions {
                spend(budget)?;
                worked = true;
                if let Err((kind, message)) = self.act(&action) {
                    let generation = self.objects[&key].metadata().generation;
                    self.observed
                        .failures
                        .note(&key, generation, kind, &message, self.now);
                    break;
                }
            }
        }
        Some(worked)
    }

    /// Rounds until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..60 {
            let mut all = usize::MAX;
            let worked = self.round(&mut all).unwrap();
            let mut imported = false;
            for import in self
                .observed
                .imports
                .values_mut()
                .filter(|import| import.state == ImportState::Running)
            {
                (import.state, import.ended) = (ImportState::Done, Some(self.now));
                imported = true;
            }
            if !worked && !imported {
                return;
            }
        }
        panic!(
            "not settled after 60 rounds: {:#?}",
            self.objects
                .keys()
                .map(|key| self.plan(key))
                .collect::<Vec<_>>()
        );
    }

    /// The process is gone: mounts of ours, imports and noted failures with it.
    pub fn die(&mut self) {
        self.observed.mounts.retain(|mount| mount.pod.is_some());
        self.observed.imports.clear();
        self.observed.failures = Default::default();
    }

    fn epoch(&mut self) -> Epoch {
        self.now = self
            .now
            .checked_add(jiff::SignedDuration::from_nanos(1))
            .unwrap();
        Epoch::of(self.now)
    }

    fn fresh(&mut self, id: Id, name: &str) -> Result<(), (operator::FailureKind, String)> {
        let taken = self.observed.timeline_named(name).is_some()
            || self.observed.snapshot_named(name).is_some();
        assert!(!taken, "{name} is made a second time");
        assert!(self.used.insert(id), "id {id} is used again for {name}");
        Ok(())
    }

    pub fn add_timeline(&mut self, id: Id, name: &str, origin: Option<Origin>, settings: Settings) {
        let created = self.epoch();
        let timeline = Timeline {
            id,
            name: name.to_owned(),
            created,
            origin,
            settings,
            usage: None,
        };
        self.observed.timelines.insert(id, timeline);
    }

    /// Does one action, with the checks that the engine makes.
    pub fn act(&mut self, action: &Action) -> Result<(), (operator::FailureKind, String)> {
        match action {
            Action::CreateRoot { id, name, settings } => {
                self.fresh(*id, name)?;
                self.add_timeline(*id, name, None, settings.clone());
            }
            Action::Import { timeline, .. } => {
                assert!(self.observed.timelines.contains_key(timeline));
                let import = Import {
                    state: ImportState::Running,
                    files: 1,
                    bytes: 1,
                    total_files: Some(2),
                    total_bytes: None,
                    started: self.now,
                    ended: None,
                };
                self.observed.imports.entry(*timeline).or_insert(import);
            }
            Action::CancelImport { timeline } => {
                self.observed.imports.remove(timeline);
            }
            Action::Fork { source, forks } => {
                assert!(!forks.is_empty());
                let now = self.epoch();
                let origin = match source {
                    Point::Now(parent) => Origin {
                        parent: *parent,
                        cutoff: now,
                        snapshot: None,
                    },
                    Point::At(parent, cutoff) => Origin {
                        parent: *parent,
                        cutoff: *cutoff,
                        snapshot: None,
                    },
                    Point::Snapshot(id) => {
                        let snapshot = &self.observed.snapshots[id];
                        Origin {
                            parent: snapshot.timeline,
                            cutoff: snapshot.epoch,
                            snapshot: Some(*id),
                        }
                    }
                };
                if !matches!(source, Point::Snapshot(_)) {
                    assert!(self.observed.timelines.contains_key(&origin.parent));
                }
                for fork in forks {
                    self.fresh(fork.id, &fork.name)?;
                    self.add_timeline(fork.id, &fork.name, Some(origin), fork.settings.clone());
                }
            }
            Action::Snapshot {
                id,
                name,
                source,
                labels,
            } => {
                self.fresh(*id, name)?;
                let now = self.epoch();
                let (timeline, epoch) = match source {
                    Point::Now(timeline) => (*timeline, now),
                    Point::At(timeline, epoch) => (*timeline, *epoch),
                    Point::Snapshot(_) => unreachable!(),
                };
                assert!(self.observed.timelines.contains_key(&timeline));
                let snapshot = Snapshot {
                    id: *id,
                    name: name.clone(),
                    timeline,
                    epoch,
                    created: now,
                    digest: "00".repeat(32),
                    bytes: 5,
                    inodes: 1,
                    labels: labels.clone(),
                };
                self.observed.snapshots.insert(*id, snapshot);
            }
            Action::Mount {
                timeline,
                namespace,
                name,
                read_only,
            } => {
                assert_eq!(
                    *read_only,
                    self.observed.timelines[timeline].settings.read_only
                );
                let path = format!("/forks/{namespace}/{name}");
                assert!(
                    self.observed.mounts.iter().all(|mount| mount.path != path),
                    "{path} is mounted twice"
                );
                let mount = Mount {
                    target: *timeline,
                    path,
                    read_only: *read_only,
                    pod: None,
                };
                self.observed.mounts.push(mount);
            }
            Action::Unmount { target, path } => {
                self.observed
                    .mounts
                    .retain(|mount| !(mount.target == *target && mount.path == *path));
            }
            Action::UpdateSettings { timeline, settings } => {
                self.observed.timelines.get_mut(timeline).unwrap().settings = settings.clone();
            }
            Action::DeleteTimeline { timeline } => {
                let found = self.observed.timelines.remove(timeline).unwrap();
                assert!(!found.settings.protected, "{} is protected", found.name);
                assert!(
                    found.settings.labels.contains_key(names::LABEL_KIND),
                    "{} is not ours",
                    found.name
                );
                assert_eq!(
                    self.observed.mounts_of(*timeline).count(),
                    0,
                    "{} is mounted",
                    found.name
                );
                assert!(
                    !self
                        .observed
                        .imports
                        .get(timeline)
                        .is_some_and(|import| import.state == ImportState::Running)
                );
                self.observed.imports.remove(timeline);
            }
            Action::DeleteSnapshot { snapshot } => {
                let found = self.observed.snapshots.remove(snapshot).unwrap();
                assert!(
                    found.labels.contains_key(names::LABEL_KIND),
                    "{} is not ours",
                    found.name
                );
                assert_eq!(
                    self.observed.mounts_of(*snapshot).count(),
                    0,
                    "{} is mounted",
                    found.name
                );
            }
        }
        Ok(())
    }

    /// Names of everything in the store.
    pub fn store(&self) -> BTreeSet<String> {
        let timelines = self
            .observed
            .timelines
            .values()
            .map(|timeline| timeline.name.clone());
        timelines
            .chain(
                self.observed
                    .snapshots
                    .values()
                    .map(|snapshot| snapshot.name.clone()),
            )
            .collect()
    }
}

fn spend(budget: &mut usize) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}
