//! Restore: a timeline takes the state of another point, and keeps what it was as history.

use std::sync::Arc;

use crate::catalog::{Origin, timeline_row};
use crate::engine::{Durability, Engine, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, TimelineId};
use crate::index::keys::RecordKey;
use crate::index::records::Record;
use crate::observe::Notice;

use super::{TimelineInfo, record_row};

impl Engine {
    /// Makes `timeline` read what `source` was. What it held until now stays readable at past epochs
    /// (within retention) and through its snapshots and forks. Volumes that are open see the new state
    /// at once; observers are told.
    ///
    /// # Errors
    /// `NotFound`, `ReadOnly`, `OutOfRetention`. Cost: one small commit and one sync.
    pub fn restore(&self, timeline: TimelineId, source: Point) -> Result<TimelineInfo> {
        let inner = &self.inner;
        let _structure = inner.structure.lock();
        let state = inner.state(timeline)?;
        let mut epoch = inner.exclusive_epoch();
        let before = inner.close_epoch(&mut epoch);
        let (record, cutoff) = {
            let catalog = inner.catalog.read();
            let record = catalog.live_timeline(timeline)?;
            if record.settings.read_only {
                return Err(Error::new(
                    ErrorKind::ReadOnly,
                    format!("{} is read-only", record.name),
                ));
            }
            let cutoff = inner.cutoff(&catalog, source, before)?;
            let mut record = record.clone();
            record.origins.push(Origin {
                since: before,
                parent: cutoff.timeline,
                cutoff: cutoff.epoch,
                snapshot: cutoff.snapshot,
            });
            (record, cutoff)
        };
        // Numbers handed out since the cutoff stay used: a kernel may still know them.
        let mut own = state.inner.write();
        let next_ino = {
            let catalog = inner.catalog.read();
            let hops = inner.lineage(&catalog, cutoff.timeline, cutoff.epoch)?;
            match crate::index::lineage::get(&inner.index, &hops, &RecordKey::NextIno)?
                .map(|s| s.record)
            {
                Some(Record::NextIno(next)) => next.max(own.ino_limit),
                _ => own.ino_limit,
            }
        };
        let mut catalog = inner.catalog.write();
        let old = catalog.timelines.get(&timeline).cloned();
        catalog.put_timeline(record.clone());
        // With the new origin in the catalog, the usual way of loading tells lineage and totals.
        let loaded = (|| {
            let hops = inner.lineage(&catalog, timeline, Epoch::MAX)?;
            let usage = inner.usage_seen_by(&hops, timeline)?;
            let rows = [
                timeline_row(&record)?,
                record_row(&RecordKey::NextIno, &Record::NextIno(next_ino)),
                record_row(&RecordKey::Usage, &Record::Usage(usage)),
            ];
            let position = inner.commit_rows(*epoch, timeline, &rows)?;
            Ok((hops, usage, position))
        })();
        let (hops, usage, position) = match loaded {
            Ok(loaded) => loaded,
            Err(e) => {
                if let Some(old) = old {
                    catalog.put_timeline(old);
                }
                return Err(e);
            }
        };
        drop(catalog);
        own.lineage = hops;
        own.recent.clear();
        own.usage = usage;
        own.next_ino = next_ino;
        own.ino_limit = next_ino;
        drop(own);
        drop(epoch);
        inner.wait(position, Durability::Local)?;
        let notice = Notice::Rebased {
            from: Point::At(timeline, before),
            to: Point::At(cutoff.timeline, cutoff.epoch),
        };
        Arc::clone(&inner.observers).tell(timeline, u64::MAX, &[notice]);
        self.timeline(timeline)
    }
}
