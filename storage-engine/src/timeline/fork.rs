//! Forks: a new timeline with a parent and a cutoff.

use crate::catalog::{CATALOG_VERSION, Catalog, Origin, Settings, TimelineRecord, timeline_row};
use crate::engine::{Durability, Engine, Inner, Point};
use crate::error::{Error, Result};
use crate::ids::{Epoch, TimelineId};
use crate::log::frame::Row;

use super::group::{Cut, GroupRequest};
use super::{Cutoff, TimelineInfo};

/// What to fork.
#[derive(Clone, Debug)]
pub struct ForkRequest {
    /// Id of the new timeline, so that the same request can be made again; a new one otherwise.
    pub id: Option<TimelineId>,
    /// Name of the new timeline, unique among timelines.
    pub name: String,
    /// What it starts from.
    pub source: Point,
    /// Its settings.
    pub settings: Settings,
    /// How sure it must be when the call returns.
    pub durability: Durability,
}

impl Engine {
    /// Starts a timeline that sees everything that returned before this call (or before the snapshot
    /// or instant named), and shares it. With an id that exists, the same name and source, returns what
    /// is there.
    ///
    /// # Errors
    /// `NotFound` (source), `AlreadyExists` (name), `Conflict` (id), `OutOfRetention` (naming the
    /// earliest epoch). Cost: one small commit and one sync, whatever the size and depth of the source.
    pub fn fork(&self, request: ForkRequest) -> Result<TimelineInfo> {
        let mut made = self.fork_group(vec![request])?;
        made.pop()
            .ok_or_else(|| Error::invalid("nothing was asked for"))
    }

    /// Starts several timelines at one cutoff, all or none of them. See [`fork`](Self::fork).
    /// Cost: one commit of a row for each, one sync.
    pub fn fork_group(&self, requests: Vec<ForkRequest>) -> Result<Vec<TimelineInfo>> {
        self.inner
            .make_group(&requests)?
            .into_iter()
            .map(|id| self.timeline(id))
            .collect()
    }
}

impl GroupRequest for ForkRequest {
    type Id = TimelineId;
    type Record = TimelineRecord;

    fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> Option<TimelineId> {
        self.id
    }

    fn source(&self) -> Point {
        self.source
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn there(&self, inner: &Inner) -> Result<Option<TimelineId>> {
        inner.same_timeline(self.id, &self.name, |catalog, t| {
            t.origins
                .first()
                .is_some_and(|o| same_source(catalog, o, self.source))
        })
    }

    fn record(&self, inner: &Inner, cut: &Cut, cutoff: Cutoff) -> Result<TimelineRecord> {
        Ok(TimelineRecord {
            v: CATALOG_VERSION,
            id: inner.new_timeline_id(self.id)?,
            name: self.name.clone(),
            created: cut.open,
            origins: vec![Origin {
                since: Epoch(cut.open.0 - 1),
                parent: cutoff.timeline,
                cutoff: cutoff.epoch,
                snapshot: cutoff.snapshot,
            }],
            settings: self.settings.clone(),
            deleted: None,
            horizon: None,
            swept: None,
            dropped: false,
        })
    }

    fn id_of(record: &TimelineRecord) -> TimelineId {
        record.id
    }

    fn row(record: &TimelineRecord) -> Result<Row> {
        timeline_row(record)
    }

    fn put(catalog: &mut Catalog, record: TimelineRecord) {
        catalog.put_timeline(record);
    }
}

/// Whether an equal request made this origin. The cutoff of a fork of "now" is whatever it was then.
fn same_source(catalog: &Catalog, origin: &Origin, source: Point) -> bool {
    match source {
        Point::Now(timeline) => origin.parent == timeline && origin.snapshot.is_none(),
        Point::At(timeline, epoch) => origin.parent == timeline && origin.cutoff == epoch,
        Point::Snapshot(id) => {
            origin.snapshot == Some(id)
                || catalog
                    .snapshots
                    .get(&id)
                    .is_some_and(|s| s.timeline == origin.parent && s.epoch == origin.cutoff)
        }
    }
}
