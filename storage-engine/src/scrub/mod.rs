//! The scrub: everything that is stored is read now and then, slowly, so that damage is found while there is
//! still something to restore it from. Unlike the check it compares nothing: it reads, and holds what it reads against its
//! checksums.
//!
//! It runs beside whoever uses the store. What the collector gives back meanwhile is no damage: whatever looks wrong
//! is looked at once more while the collector waits, and counts only if it is still needed then.
//!
//! Memory: 8 bytes for each 128 KiB of object files, and a page of the index. Time: the log, the object files and the
//! index, read once, at the rate that is asked for.

mod log;
mod objects;
mod pace;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::engine::{Engine, Inner, Point};
use crate::error::{Error, ErrorKind, Result};
use crate::files::VolumeOptions;
use crate::ids::{Epoch, Ino, TimelineId};
use pace::Pace;

/// How to scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScrubOptions {
    /// Bytes read each second, at most; as fast as it goes otherwise.
    pub rate: Option<u64>,
}

/// How far a scrub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubProgress {
    /// Bytes read.
    pub bytes: u64,
    /// Damaged places found.
    pub damaged: u64,
}

/// Something that is not what was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The file, relative to the data directory; `index` for the index.
    pub file: String,
    /// Where in it, in bytes, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Name of a timeline that the damaged bytes were written by; others that share them are hit as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// Files of it that are hit, by their paths (or inode numbers, where no path is known).
    pub paths: Vec<String>,
}

/// What a scrub found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubReport {
    /// Bytes read.
    pub bytes: u64,
    /// Segments of the log, and frames in them.
    pub segments: u64,
    /// See `segments`.
    pub frames: u64,
    /// Stored runs of object files.
    pub runs: u64,
    /// Damaged places found, also those that are not listed.
    pub damaged: u64,
    /// The first hundred of them.
    pub damage: Vec<Damage>,
    /// How long it took.
    pub elapsed: Duration,
}

impl ScrubReport {
    /// Whether everything was what was written.
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
    }
}

/// So many damaged places are listed; the others are counted.
const LISTED: usize = 100;

/// A scrub under way.
struct Scrub<'a> {
    engine: &'a Engine,
    inner: &'a Inner,
    pace: Pace,
    report: ScrubReport,
    progress: &'a mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
}

impl Engine {
    /// Reads everything that is stored, and tells what does not match its checksum. It may run while the store is in use,
    /// and keeps nobody waiting. `progress` is called at least every tenth of a second, also while it waits for its rate;
    /// it may end the scrub.
    ///
    /// # Errors
    /// `Unavailable` if the engine was closed or `progress` ended it. Damage is no error: it is in the report.
    /// Cost: see the module's page.
    pub fn scrub(
        &self,
        options: ScrubOptions,
        progress: &mut dyn FnMut(ScrubProgress) -> ControlFlow<()>,
    ) -> Result<ScrubReport> {
        let started = Instant::now();
        let mut scrub = Scrub {
            engine: self,
            inner: &self.inner,
            pace: Pace::new(options.rate),
            report: ScrubReport::default(),
            progress,
        };
        scrub.log()?;
        scrub.versions()?;
        scrub.rest_of_index()?;
        let mut report = scrub.report;
        report.elapsed = started.elapsed();
        Ok(report)
    }
}

impl Scrub<'_> {
    /// So much was read; waits until the rate allows more.
    fn read(&mut self, bytes: u64) -> Result<()> {
        self.report.bytes += bytes;
        self.pace.done(bytes);
        loop {
            self.inner.check_open()?;
            let now = ScrubProgress {
                bytes: self.report.bytes,
                damaged: self.report.damaged,
            };
            if (self.progress)(now).is_break() {
                return Err(Error::new(ErrorKind::Unavailable, "the scrub was ended"));
            }
            match self.pace.ahead() {
                Some(wait) => std::thread::sleep(wait),
                None => return Ok(()),
            }
        }
    }

    fn damaged(&mut self, damage: Damage) {
        tracing::error!(
            file = damage.file,
            offset = damage.offset,
            what = damage.what,
            timeline = damage.timeline,
            paths = ?damage.paths,
            "stored bytes are damaged"
        );
        self.report.damaged += 1;
        if self.report.damage.len() < LISTED {
            self.report.damage.push(damage);
        }
    }

    fn index_damaged(&mut self, error: &Error) {
        self.damaged(Damage {
            file: "index".into(),
            offset: None,
            what: format!("{error}; it can be made anew from the log (`anabranch check --repair`)"),
            timeline: None,
            paths: Vec::new(),
        });
    }

    /// A file of the data directory, shown.
    fn name(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.inner.layout.root).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    fn timeline_name(&self, id: TimelineId) -> Option<String> {
        let catalog = self.inner.catalog.read();
        let timeline = catalog.timelines.get(&id)?;
        Some(match timeline.deleted {
            Some(_) => format!("{} (deleted)", timeline.name),
            None => timeline.name.clone(),
        })
    }

    /// What a file is called now, or was called when it was written.
    fn path_of(&self, timeline: TimelineId, epoch: Epoch, ino: Ino) -> String {
        let now = self
            .engine
            .volume(Point::Now(timeline), VolumeOptions::default())
            .and_then(|v| v.path_of(ino));
        now.or_else(|_| self.engine.volume_at(timeline, epoch)?.path_of(ino))
            .map_or_else(
                |_| format!("inode {ino}"),
                |path| String::from_utf8_lossy(&path).into_owned(),
            )
    }

    /// Everything of the index but versions, for its checksums.
    fn rest_of_index(&mut self) -> Result<()> {
        let mut bytes = 0;
        let read = self.inner.index.read_the_rest(|n| bytes += n);
        if let Err(e) = read {
            self.index_damaged(&e);
        }
        self.read(bytes)
    }
}
