//! Forks: a new timeline with a parent and a cutoff.

use std::collections::HashSet;

use crate::catalog::{CATALOG_VERSION, Origin, Settings, TimelineRecord, check_name, timeline_row};
use crate::engine::{Durability, Engine, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, TimelineId};

use super::{NO_TIMELINE, TimelineInfo};

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
        let inner = &self.inner;
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for request in &requests {
            check_name(&request.name)?;
            let repeated_id = request.id.is_some_and(|id| !ids.insert(id));
            if !names.insert(request.name.as_str()) || repeated_id {
                return Err(Error::invalid(format!(
                    "the name or id of {} is asked for twice",
                    request.name
                )));
            }
        }
        let _structure = inner.structure.lock();
        let mut wanted = Vec::with_capacity(requests.len());
        let mut missing = false;
        for request in &requests {
            let there = inner.same_timeline(request.id, &request.name, |catalog, t| {
                t.origins
                    .first()
                    .is_some_and(|o| same_source(catalog, o, request.source))
            })?;
            missing |= there.is_none();
            wanted.push(there);
        }
        if missing {
            let mut epoch = inner.exclusive_epoch();
            let closed = inner.close_for(&mut epoch, requests.iter().map(|r| r.source));
            let mut records = Vec::new();
            {
                let catalog = inner.catalog.read();
                for (request, id) in requests.iter().zip(&mut wanted) {
                    if id.is_some() {
                        continue;
                    }
                    let cutoff = inner.cutoff(&catalog, request.source, closed)?;
                    let new = inner.new_timeline_id(request.id)?;
                    *id = Some(new);
                    records.push(TimelineRecord {
                        v: CATALOG_VERSION,
                        id: new,
                        name: request.name.clone(),
                        created: *epoch,
                        origins: vec![Origin {
                            since: Epoch(epoch.0 - 1),
                            parent: cutoff.timeline,
                            cutoff: cutoff.epoch,
                            snapshot: cutoff.snapshot,
                        }],
                        settings: request.settings.clone(),
                        deleted: None,
                    });
                }
            }
            let rows = records
                .iter()
                .map(timeline_row)
                .collect::<Result<Vec<_>>>()?;
            let position = inner.commit_rows(*epoch, NO_TIMELINE, &rows)?;
            let mut catalog = inner.catalog.write();
            for record in records {
                catalog.put_timeline(record);
            }
            drop(catalog);
            drop(epoch);
            let durability = requests
                .iter()
                .map(|r| r.durability)
                .max_by_key(|d| *d == Durability::Local);
            inner.wait(position, durability.unwrap_or_default())?;
        }
        wanted
            .into_iter()
            .map(|id| match id {
                Some(id) => self.timeline(id),
                None => Err(Error::new(ErrorKind::OutcomeUnknown, "a fork was not made")),
            })
            .collect()
    }
}

/// Whether an equal request made this origin. The cutoff of a fork of "now" is whatever it was then.
fn same_source(catalog: &crate::catalog::Catalog, origin: &Origin, source: Point) -> bool {
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
