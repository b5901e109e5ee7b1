//! Changes to a timeline's name and settings.

use crate::catalog::{Settings, TimelineRecord, check_name, timeline_row};
use crate::engine::{Durability, Engine};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TimelineId;

use super::{NO_TIMELINE, TimelineInfo};

impl Engine {
    /// Gives a timeline another name; nothing else changes. Cost: one commit, one sync.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`.
    pub fn rename_timeline(&self, id: TimelineId, name: &str) -> Result<TimelineInfo> {
        check_name(name)?;
        self.change(
            id,
            |catalog_name, record| {
                if catalog_name.is_some_and(|other| other != id) {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!("a timeline named {name} exists already"),
                    ));
                }
                record.name = name.to_owned();
                Ok(())
            },
            Some(name),
        )
    }

    /// Replaces a timeline's settings; quota and read-only take effect for open volumes at once.
    /// Cost: one commit, one sync; nothing if they are the same.
    pub fn update_settings(&self, id: TimelineId, settings: Settings) -> Result<TimelineInfo> {
        self.change(
            id,
            |_, record| {
                record.settings = settings;
                Ok(())
            },
            None,
        )
    }

    fn change(
        &self,
        id: TimelineId,
        edit: impl FnOnce(Option<TimelineId>, &mut TimelineRecord) -> Result<()>,
        name: Option<&str>,
    ) -> Result<TimelineInfo> {
        let inner = &self.inner;
        let _structure = inner.structure.lock();
        let (old, mut record, taken) = {
            let catalog = inner.catalog.read();
            let record = catalog.live_timeline(id)?.clone();
            let taken = name.and_then(|n| catalog.timeline_named(n)).map(|t| t.id);
            (record.clone(), record, taken)
        };
        edit(taken, &mut record)?;
        if record == old {
            return self.timeline(id);
        }
        let epoch = inner.shared_epoch();
        let position = inner.commit_freeing(*epoch, NO_TIMELINE, &[timeline_row(&record)?])?;
        drop(epoch);
        let settings = record.settings.clone();
        inner.catalog.write().put_timeline(record);
        if let Some(state) = inner.loaded_state(id) {
            let mut state = state.inner.write();
            state.quota = settings.quota;
            state.read_only = settings.read_only;
        }
        inner.wait(position, Durability::Local)?;
        self.timeline(id)
    }
}
