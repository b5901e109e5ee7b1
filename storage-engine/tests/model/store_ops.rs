//! Operations on timelines and snapshots, carried out by the engine.

use std::collections::BTreeMap;

use storage_engine::*;

use crate::op::{At, Op, StepId};
use crate::subject::{
    Made, Subject, durability, made_snapshot, made_timeline, settings, settings_of,
};

impl Subject {
    fn chosen_id(&self, step: StepId) -> bool {
        !self.own_ids || !(step / crate::op::SPAN).is_multiple_of(3)
    }

    fn fork_request(
        &self,
        id: StepId,
        name: &str,
        source: At,
        replay: bool,
    ) -> Result<ForkRequest> {
        Ok(ForkRequest {
            id: (replay || self.chosen_id(id)).then(|| self.timeline_id(id)),
            name: name.to_owned(),
            source: self
                .point(source)
                .ok_or(Error::new(ErrorKind::NotFound, "no such epoch"))?,
            settings: settings(),
            durability: durability(id),
        })
    }

    fn snapshot_request(
        &self,
        id: StepId,
        name: &str,
        source: At,
        replay: bool,
    ) -> Result<SnapshotRequest> {
        Ok(SnapshotRequest {
            id: (replay || self.chosen_id(id)).then(|| self.snapshot_id(id)),
            name: name.to_owned(),
            source: self
                .point(source)
                .ok_or(Error::new(ErrorKind::NotFound, "no such epoch"))?,
            labels: BTreeMap::new(),
            durability: durability(id),
        })
    }

    pub fn store_op(&mut self, step: StepId, op: &Op) -> Result<()> {
        match op {
            Op::CreateRoot { .. }
            | Op::Fork { .. }
            | Op::ForkGroup { .. }
            | Op::Snapshot { .. }
            | Op::SnapshotGroup { .. } => {
                let made = self.make(step, op, false)?;
                self.answers.insert(step, made);
            }
            Op::Restore { timeline, source } => {
                let source = self
                    .point(*source)
                    .ok_or(Error::new(ErrorKind::NotFound, "no such epoch"))?;
                self.engine().restore(self.timeline_id(*timeline), source)?;
            }
            Op::Rename { timeline, name } => {
                let info = self
                    .engine()
                    .rename_timeline(self.timeline_id(*timeline), name)?;
                assert_eq!(info.name, *name, "name after a rename");
            }
            Op::Settings {
                timeline,
                read_only,
                protected,
                limits,
            } => {
                let settings = Settings {
                    read_only: *read_only,
                    protected: *protected,
                    ..settings_of(limits)
                };
                self.engine()
                    .update_settings(self.timeline_id(*timeline), settings)?;
                self.volumes.remove(timeline);
            }
            Op::DeleteTimeline { timeline } => {
                self.engine().delete_timeline(self.timeline_id(*timeline))?;
                // A volume of a timeline that is gone must say so.
                if let Some(volume) = self.volumes.remove(timeline) {
                    let kind = volume.attr(Ino::ROOT).map_err(|e| e.kind());
                    assert!(
                        matches!(kind, Err(ErrorKind::NotFound | ErrorKind::Stale)),
                        "attributes in a volume of a deleted timeline: {kind:?}"
                    );
                }
            }
            Op::DeleteSnapshot { snapshot } => {
                self.engine().delete_snapshot(self.snapshot_id(*snapshot))?
            }
            Op::Tick => {
                let epoch = self.engine().tick()?;
                self.epochs.insert(step, epoch);
            }
            Op::Sync => self.engine().sync()?,
            Op::Collect => {
                let options = GcOptions {
                    full: true,
                    ..GcOptions::default()
                };
                self.engine().gc(options)?;
            }
            Op::Reopen { how } => self.reopen(*how)?,
            Op::File { .. } | Op::Repeat { .. } => {}
        }
        Ok(())
    }

    /// Repeats a create and compares with its first answer.
    pub fn repeat(&mut self, first: StepId, op: &Op) -> Result<(), String> {
        let made = self
            .make(first, op, true)
            .map_err(|e| format!("a repeated create fails: {:?}: {e}", e.kind()))?;
        match self.answers.get(&first) {
            Some(before) if *before == made => Ok(()),
            Some(before) => Err(format!(
                "a repeated create answers {made:?}, before: {before:?}"
            )),
            None => Ok(()),
        }
    }

    fn make(&mut self, step: StepId, op: &Op, replay: bool) -> Result<Vec<Made>> {
        match op {
            Op::CreateRoot { name } => {
                let id = (replay || self.chosen_id(step)).then(|| self.timeline_id(step));
                let info = self.engine().create_root(CreateRoot {
                    id,
                    name: name.clone(),
                    settings: settings(),
                    durability: durability(step),
                })?;
                Ok(self.made_timelines(step, &[(name.clone(), At::Now(step))], vec![info], replay))
            }
            Op::Fork { name, source } => {
                let request = self.fork_request(step, name, *source, replay)?;
                let info = self.engine().fork(request)?;
                Ok(self.made_timelines(step, &[(name.clone(), *source)], vec![info], replay))
            }
            Op::ForkGroup { forks } => {
                let requests: Result<Vec<ForkRequest>> = forks
                    .iter()
                    .zip(step..)
                    .map(|((name, source), id)| self.fork_request(id, name, *source, replay))
                    .collect();
                let infos = self.engine().fork_group(requests?)?;
                Ok(self.made_timelines(step, forks, infos, replay))
            }
            Op::Snapshot { name, source } => {
                let request = self.snapshot_request(step, name, *source, replay)?;
                let info = self.engine().snapshot(request)?;
                Ok(self.made_snapshots(step, &[(name.clone(), *source)], vec![info], replay))
            }
            Op::SnapshotGroup { snapshots } => {
                let requests: Result<Vec<SnapshotRequest>> = snapshots
                    .iter()
                    .zip(step..)
                    .map(|((name, source), id)| self.snapshot_request(id, name, *source, replay))
                    .collect();
                let infos = self.engine().snapshot_group(requests?)?;
                Ok(self.made_snapshots(step, snapshots, infos, replay))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn made_timelines(
        &mut self,
        step: StepId,
        asked: &[(String, At)],
        infos: Vec<TimelineInfo>,
        replay: bool,
    ) -> Vec<Made> {
        assert_eq!(asked.len(), infos.len(), "answers of a group");
        for (((name, source), info), id) in asked.iter().zip(&infos).zip(step..) {
            assert_eq!(info.name, *name);
            if self.chosen_id(step) {
                assert_eq!(info.id, self.timeline_id(id), "id asked for");
            }
            self.timelines.insert(id, info.id);
            if let (At::Now(parent), Some(origin), false) = (source, &info.origin, replay)
                && *parent != step
            {
                assert_eq!(origin.parent, self.timeline_id(*parent), "parent of a fork");
                let before = *self.epochs.entry(step).or_insert(origin.cutoff);
                assert_eq!(before, origin.cutoff, "one cutoff of a group");
            }
        }
        infos.iter().map(made_timeline).collect()
    }

    fn made_snapshots(
        &mut self,
        step: StepId,
        asked: &[(String, At)],
        infos: Vec<SnapshotInfo>,
        replay: bool,
    ) -> Vec<Made> {
        assert_eq!(asked.len(), infos.len(), "answers of a group");
        for (((name, source), info), id) in asked.iter().zip(&infos).zip(step..) {
            assert_eq!(info.name, *name);
            self.snapshots.insert(id, info.id);
            if let (At::Now(timeline), false) = (source, replay) {
                assert_eq!(
                    info.timeline,
                    self.timeline_id(*timeline),
                    "timeline of a snapshot"
                );
                let before = *self.epochs.entry(step).or_insert(info.epoch);
                assert_eq!(before, info.epoch, "one cutoff of a group");
            }
        }
        infos.iter().map(made_snapshot).collect()
    }
}
