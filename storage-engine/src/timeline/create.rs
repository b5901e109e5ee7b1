//! A new root timeline: an empty directory.

use crate::catalog::{
    CATALOG_VERSION, Catalog, Settings, TimelineRecord, check_name, timeline_row,
};
use crate::engine::{Durability, Engine};
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::files::types::{NodeKind, Time};
use crate::ids::{Ino, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::{Inode, NO_OBJECT, Record, UsageRecord};

use super::{TimelineInfo, record_row};

/// What to create.
#[derive(Clone, Debug, Default)]
pub struct CreateRoot {
    /// Its id, so that the same request can be made again; a new one otherwise.
    pub id: Option<TimelineId>,
    /// Its name, unique among timelines.
    pub name: String,
    /// Its settings.
    pub settings: Settings,
    /// How sure it must be when the call returns.
    pub durability: Durability,
}

impl Engine {
    /// Creates a timeline with an empty root directory (mode 0755, owner 0:0). With an id that exists
    /// and the same name, returns what is there.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, `Conflict` if the id is taken by something else.
    /// Cost: one commit, one sync.
    pub fn create_root(&self, request: CreateRoot) -> Result<TimelineInfo> {
        check_name(&request.name)?;
        let inner = &self.inner;
        let _structure = inner.structure.lock();
        if let Some(there) =
            inner.same_timeline(request.id, &request.name, |_, t| t.forked_from().is_none())?
        {
            return self.timeline(there);
        }
        let id = inner.new_timeline_id(request.id)?;
        let epoch = inner.shared_epoch();
        let record = TimelineRecord {
            v: CATALOG_VERSION,
            id,
            name: request.name,
            created: *epoch,
            origins: Vec::new(),
            settings: request.settings,
            deleted: None,
            horizon: None,
            swept: None,
            dropped: false,
        };
        let now = Time::from_nanos(inner.clock.now());
        let root = Inode {
            kind: NodeKind::Directory,
            mode: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            allocated: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            has_xattrs: false,
            entries: 0,
            parent: Ino::ROOT,
            name: Vec::new(),
            target: Vec::new(),
            object: NO_OBJECT,
        };
        let usage = UsageRecord {
            inodes: 1,
            ..UsageRecord::default()
        };
        let rows = [
            timeline_row(&record)?,
            record_row(&RecordKey::Inode(Ino::ROOT), &Record::Inode(root)),
            record_row(&RecordKey::Usage, &Record::Usage(usage)),
        ];
        let position = inner.commit_rows(*epoch, id, &rows)?;
        drop(epoch);
        inner.catalog.write().put_timeline(record);
        inner.wait(position, request.durability)?;
        self.timeline(id)
    }
}

impl crate::engine::Inner {
    /// Finds what an earlier, equal request made; refuses names and ids that something else has.
    pub(super) fn same_timeline(
        &self,
        id: Option<TimelineId>,
        name: &str,
        same: impl Fn(&Catalog, &TimelineRecord) -> bool,
    ) -> Result<Option<TimelineId>> {
        let catalog = self.catalog.read();
        if let Some(id) = id
            && let Some(there) = catalog.timelines.get(&id)
        {
            if there.deleted.is_some() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("timeline {id} was deleted: ids are not used again"),
                ));
            }
            if there.name == name && same(&catalog, there) {
                return Ok(Some(id));
            }
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "timeline {id} is {} already, made by a different request",
                    there.name
                ),
            ));
        }
        if catalog.timeline_named(name).is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("a timeline named {name} exists already"),
            ));
        }
        Ok(None)
    }

    pub(super) fn new_timeline_id(&self, wanted: Option<TimelineId>) -> Result<TimelineId> {
        match wanted {
            Some(id) => Ok(id),
            None => Ok(TimelineId(
                self.ids
                    .next()
                    .context("make an id for a timeline in", &self.layout.root)?,
            )),
        }
    }
}
