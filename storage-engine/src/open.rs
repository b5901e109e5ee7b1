//! Opening a store: recovery from the log.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::blobs::Blobs;
use crate::catalog::Catalog;
use crate::engine::{CommitState, Engine, Inner, Options};
use crate::error::{Error, IoContext, Result};
use crate::flush::{Flusher, Unflushed};
use crate::gc::{Collector, Worker};
use crate::ids::{Epoch, Position};
use crate::log::reader::{self, Applied, SegmentFile};
use crate::log::segment::segment_term;
use crate::log::writer::{Claim, LogWriter};
use crate::planted::{Bug, planted};
use crate::rocks::{Applying, Index};
use crate::store::{self, Layout};

/// Smallest size of a segment that makes sense: a few frames.
const MIN_SEGMENT_BYTES: u64 = 4 << 10;

/// What opening a store had to do: apply what the index lacked from the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Bytes of the log that were read and applied.
    pub replayed_bytes: u64,
    /// Commits in them.
    pub replayed_frames: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// The index was missing, or so damaged that the store could not be opened with it: it was made anew, from
    /// the whole log.
    pub index_rebuilt: bool,
    /// `store.json` was damaged or missing, and was written again from its copy.
    pub store_file_restored: bool,
}

/// Opens the index. One that is older than a compacted segment (it was put back by somebody, or an opening that was making it
/// anew was cut short) cannot be brought up to date with what is left of the log: it is made anew. Says whether it was.
fn open_index(layout: &Layout, segments: &[SegmentFile]) -> Result<(Index, bool)> {
    let index = Index::open(&layout.index())?;
    let applied = match index.applied()? {
        Some((applied, _)) => applied.position,
        None => return Ok((index, false)),
    };
    let older = |s: &&SegmentFile| s.compacted.as_ref().is_some_and(|c| applied < c.end);
    let Some(segment) = segments.iter().find(older) else {
        return Ok((index, false));
    };
    tracing::warn!(position = %applied, segment = %segment.path.display(),
        "the index is older than what was compacted of the log; it is made anew from the log");
    drop(index);
    let path = layout.index();
    std::fs::remove_dir_all(&path).context("remove", &path)?;
    Ok((Index::open(&path)?, true))
}

impl Engine {
    /// Opens the store in `dir`, and recovers it: a torn end of the log is cut, and what the index
    /// lacks is applied from the log.
    ///
    /// # Errors
    /// `Locked` if another process owns it, `NotFound` without a store there and without `create`,
    /// `UnsupportedFormat` for a store of a newer version, `Corrupt` for damage before the end of the log.
    /// Cost: the log written since the index was last written out ([bounded](crate#recovery)), and the
    /// catalog. [`Engine::recovery`] tells what it was.
    #[tracing::instrument(
        name = "open",
        skip_all,
        fields(dir = %dir.as_ref().display(), replayed_bytes, replayed_frames, replay_ms)
    )]
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self> {
        let layout = Layout {
            root: dir.as_ref().to_owned(),
            fs: Arc::clone(&options.fs),
        };
        if options.create {
            layout.create_root()?;
        } else if !layout.fs.exists(&layout.store_json()) && !layout.fs.exists(&layout.log()) {
            return Err(Error::not_found(format!(
                "a store in {}",
                layout.root.display()
            )));
        }
        let lock = store::lock(&layout)?;
        layout.make_room()?;
        // Of a store that was there before.
        let index_missing =
            layout.fs.exists(&layout.store_json()) && !layout.fs.exists(&layout.index());
        let found = store::open(&layout, options.create, &*options.ids)?;
        let store = found.store;
        let store_id = store::store_id(&store)?;
        let mut segments = reader::segments(&layout)?;
        let (index, older) = open_index(&layout, &segments)?;
        let index = Arc::new(index);
        let (applied, mut epoch) = index.applied()?.unwrap_or((
            Applied {
                position: Position(0),
                chain: [0; 32],
            },
            Epoch(0),
        ));
        // What is to be replayed is in the log's files, but nobody has said that it is on disk; the index
        // must never be ahead of it there. All segments but the last were synced before the next was made.
        if let Some(last) = segments.last()
            && !planted(Bug::RecoveredWithoutSync)
        {
            let from = applied.position.0.saturating_sub(last.header.base.0);
            reader::write_again(last, from)?;
        }
        let mut unflushed = Unflushed::at(applied.position, options.flush_bytes);
        let started = Instant::now();
        let mut recovery = Recovery {
            index_rebuilt: (index_missing || older || index.thrown_away().is_some())
                && !segments.is_empty(),
            store_file_restored: found.restored,
            ..Recovery::default()
        };
        let end = reader::replay(&mut segments, applied, |step| {
            epoch = epoch.max(step.epoch);
            let behind = step.applied.position;
            let commit = Applying {
                timeline: step.timeline,
                // What is left of a compacted segment may end before the epochs that it had.
                epoch: if step.is_frame { step.epoch } else { epoch },
                frame: step.frame,
                rows: if planted(Bug::PositionAhead) && recovery.replayed_frames == 0 {
                    &[]
                } else {
                    &step.rows
                },
                applied: step.applied,
            };
            recovery.replayed_bytes += step.bytes;
            recovery.replayed_frames += u64::from(step.is_frame);
            if unflushed.add(index.apply(&commit)?, behind) && unflushed.fits(&layout.root) {
                index.flush(false)?;
                unflushed.written_out(behind);
            }
            Ok(())
        })?;
        recovery.elapsed = started.elapsed();
        tracing::Span::current()
            .record("replayed_bytes", recovery.replayed_bytes)
            .record("replayed_frames", recovery.replayed_frames)
            .record("replay_ms", recovery.elapsed.as_millis() as u64);
        let mut catalog = Catalog::default();
        index.catalog(|key, value| catalog.load(key, value))?;
        for timeline in catalog.timelines.values() {
            epoch = epoch.max(timeline.created);
            epoch = timeline
                .origins
                .iter()
                .map(|o| o.since)
                .fold(epoch, Epoch::max);
        }
        for snapshot in catalog.snapshots.values() {
            epoch = epoch.max(snapshot.created);
        }
        let open_epoch = Epoch(options.clock.now().max(epoch.0 + 1));
        // An older store.json, put back by somebody, must not make segments of names that exist.
        let term = segments
            .iter()
            .map(|s| segment_term(s.header.id).saturating_add(1))
            .fold(store.term, u32::max);
        let segment_bytes = options.segment_bytes.max(MIN_SEGMENT_BYTES);
        let followed = segments.last().is_some_and(|s| s.followed);
        let mut log = LogWriter::new(
            layout.clone(),
            store_id,
            term,
            segment_bytes,
            end.position,
            end.chain,
        );
        if followed {
            // So that the next opening knows, too, that the one before is full.
            log.place(Claim::Freeing)?;
        }
        let durable = log.durable();
        let considerable = unflushed.considerable();
        let commit = Arc::new(Mutex::new(CommitState { log, unflushed }));
        let flusher = Flusher::start(
            layout.root.clone(),
            Arc::clone(&commit),
            Arc::clone(&durable),
            Arc::clone(&index),
        )?;
        if considerable {
            // The opening itself does not wait for it.
            flusher.ask();
        }
        if recovery.index_rebuilt {
            tracing::warn!(
                why = index.thrown_away().unwrap_or("it was missing"),
                frames = recovery.replayed_frames,
                bytes = recovery.replayed_bytes,
                "the index was made anew from the log"
            );
        }
        tracing::info!("the store is open");
        let inner = Inner {
            files: Blobs::new(layout.clone()),
            layout,
            clock: options.clock,
            ids: options.ids,
            index,
            catalog: RwLock::new(catalog),
            structure: Mutex::new(()),
            epoch: RwLock::new(open_epoch),
            closed_epoch: Mutex::new(epoch),
            dirty: AtomicBool::new(false),
            commit,
            durable,
            flusher,
            leases: Arc::default(),
            collector: Mutex::new(Collector::new()),
            worker: Mutex::new(None),
            recovery,
            live: Mutex::new(HashMap::new()),
            observers: Arc::default(),
            closed: AtomicBool::new(false),
            _lock: lock,
        };
        let inner = Arc::new(inner);
        if let Some(schedule) = options.gc {
            *inner.worker.lock() = Some(Worker::start(Arc::downgrade(&inner), schedule)?);
        }
        Ok(Self { inner })
    }
}
