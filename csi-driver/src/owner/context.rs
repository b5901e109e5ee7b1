//! What a command works on.

use std::path::PathBuf;
use std::sync::Arc;

use storage_engine::{Engine, Point, TimelineId};

use super::failure::{Failure, Outcome};

/// The store, and what the process that owns it adds.
#[derive(Clone)]
pub struct Context {
    /// The open store.
    pub engine: Engine,
    /// Its data directory.
    pub data: PathBuf,
    /// The process around it.
    pub host: Arc<dyn Host>,
}

/// What the owning process knows beyond its store.
pub trait Host: Send + Sync {
    /// Brings everything that returned before on mounts of this timeline into the engine. Costs nothing
    /// for a timeline that is not mounted.
    fn sync(&self, timeline: TimelineId) -> Outcome;

    /// Where the timeline is mounted.
    fn mounts(&self, timeline: TimelineId) -> Vec<PathBuf>;

    /// Waits until mounts of this timeline show what commands changed in it.
    fn settle(&self, timeline: TimelineId);

    /// A command has made, changed or deleted timelines or snapshots.
    fn changed(&self);

    /// A timeline is about to be deleted by a command: its mounts have to end first.
    fn release(&self, timeline: TimelineId) -> Outcome;

    /// Ends the owner as if it had been interrupted.
    fn stop(&self) -> Outcome;
}

/// The host of a command that opened the store for itself: nothing is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Host for Alone {
    fn sync(&self, _: TimelineId) -> Outcome {
        Ok(())
    }

    fn mounts(&self, _: TimelineId) -> Vec<PathBuf> {
        Vec::new()
    }

    fn settle(&self, _: TimelineId) {}

    fn changed(&self) {}

    fn release(&self, _: TimelineId) -> Outcome {
        Ok(())
    }

    fn stop(&self) -> Outcome {
        Err(Failure::owner(
            "nobody owns this store, so there is nothing to stop",
        ))
    }
}

impl Context {
    /// A store that this process opened for one command.
    pub fn alone(engine: Engine, data: PathBuf) -> Self {
        Self {
            engine,
            data,
            host: Arc::new(Alone),
        }
    }

    /// Brings everything that returned on mounts into the engine, for a point that shows the present.
    pub(crate) fn sync(&self, point: Point) -> Outcome {
        match point {
            Point::Now(timeline) => self.host.sync(timeline),
            _ => Ok(()),
        }
    }
}
