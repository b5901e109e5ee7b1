//! One pass over all objects: observe, plan, write the status, apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::conditions::State;
use crds::{Epoch, Object, ObjectKey};
use jiff::Timestamp;
use operator::{Action, Failures, Options, Peers, World, plan};
use parking_lot::Mutex;
use storage_engine::Engine;

use super::import::{self, Imports};
use super::objects::{Objects, short_name};
use super::observe::observe;
use super::{act, labels};
use crate::owner::{Host, Outcome};

/// Rounds of one pass: each makes what the one before made possible (a bucket, its snapshot, its forks).
const MOST_ROUNDS: usize = 32;

/// Makes objects real.
pub struct Agent {
    pub(super) engine: Engine,
    pub(super) host: Arc<dyn Host>,
    pub(super) imports: Imports,
    pub(super) failures: Mutex<Failures>,
}

/// What a pass came to.
#[derive(Debug, Default)]
pub struct Pass {
    /// The state of every object.
    pub states: BTreeMap<ObjectKey, State>,
    /// Objects whose data is freed and that are forgotten.
    pub removed: Vec<ObjectKey>,
    /// When the next pass is due without anything else happening.
    pub next: Option<Epoch>,
}

impl Agent {
    /// An agent on an engine. `wake` is called when an import has ended.
    pub fn new(engine: Engine, host: Arc<dyn Host>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let imports = Imports::new(engine.clone(), wake);
        Self {
            engine,
            host,
            imports,
            failures: Mutex::default(),
        }
    }

    /// An agent that imports only what lies below one of these directories.
    #[cfg(feature = "cluster")]
    pub(super) fn importing_below(mut self, roots: Vec<std::path::PathBuf>) -> Self {
        self.imports.roots = Some(roots);
        self
    }

    /// The progress of the imports that are running.
    pub fn progress(&self) -> Vec<crate::owner::Progress> {
        self.imports.progress()
    }

    /// Stops the imports that run, for an end of the process: the next one does them again. False when one did not
    /// stop in time.
    pub fn stop_imports(&self, patience: std::time::Duration) -> bool {
        self.imports.stop(patience)
    }

    /// Brings every object as far as it can be brought now.
    ///
    /// # Errors
    /// When objects cannot be kept or the engine cannot be read; what fails for one object is its state.
    pub fn pass(&self, objects: &mut Objects) -> Outcome<Pass> {
        let mut pass = Pass::default();
        self.expire_commands(&mut pass)?;
        for _ in 0..MOST_ROUNDS {
            if !self.round(objects, &mut pass)? {
                break;
            }
        }
        Ok(pass)
    }

    /// One plan for each object. True when something was done that others may wait for.
    fn round(&self, objects: &mut Objects, pass: &mut Pass) -> Outcome<bool> {
        let mut worked = false;
        pass.states.clear();
        let keys: Vec<ObjectKey> = objects.iter().map(|(key, _)| key.clone()).collect();
        let (imports, failed) = self.imports.observe();
        let mut observed = observe(
            &self.engine,
            &*self.host,
            imports,
            self.failures.lock().clone(),
            false,
        )?;
        for key in keys {
            let Some(object) = objects.get(&key).cloned() else {
                continue;
            };
            self.note_import(&object, &failed, &mut observed, pass);
            let peers = Peers::of(objects.iter().map(|(_, object)| object));
            let options = Options::default();
            let now = self.now();
            let world = World {
                now,
                observed: &observed,
                peers: &peers,
                options: &options,
            };
            let plan = plan(&object, &world);
            if plan.released {
                objects.remove(&key)?;
                pass.removed.push(key);
                worked = true;
                continue;
            }
            // Before any action: an expiry has to be known before the data goes.
            let changed = objects.get(&key) != Some(&plan.object);
            objects.put(plan.object)?;
            wake(pass, plan.next);
            pass.states.insert(key.clone(), plan.state);
            let actions: Vec<&Action> = plan
                .actions
                .iter()
                .filter(|a| !matches!(a, Action::Mount { .. }))
                .collect();
            if self.apply(&object, &actions, pass) {
                worked = true;
                let (imports, _) = self.imports.observe();
                observed = observe(
                    &self.engine,
                    &*self.host,
                    imports,
                    self.failures.lock().clone(),
                    false,
                )?;
            } else if changed {
                worked = true;
            }
        }
        Ok(worked)
    }

    /// Applies actions in their order up to the first that fails. True when one was done.
    fn apply(&self, object: &Object, actions: &[&Action], pass: &mut Pass) -> bool {
        let key = object.key();
        let generation = object.metadata().generation;
        let mut done = false;
        for action in actions {
            let running = matches!(action, Action::Import { .. });
            if let Err(failure) = self.act(action) {
                let message = format!("cannot {}: {}", action.describe(), sentence(&failure));
                let kind = match action {
                    Action::Import { .. } => import::kind_of(&failure),
                    _ => act::kind_of(&failure, action),
                };
                let now = self.now();
                self.failures
                    .lock()
                    .note(&key, generation, kind, &message, now);
                wake(pass, Some(import::again(now)));
                if let Some(failure) = self.failures.lock().of(&key, generation) {
                    pass.states.insert(key.clone(), failure.state());
                    wake(pass, Some(failure.next()));
                }
                return done;
            }
            done |= !running;
        }
        if !actions.is_empty()
            && !actions
                .iter()
                .any(|action| matches!(action, Action::Import { .. }))
        {
            self.failures.lock().clear(&key);
        }
        done
    }

    /// Notes the failure of an import that has ended meanwhile with the bucket whose timeline it was to fill.
    fn note_import(
        &self,
        object: &Object,
        failed: &BTreeMap<operator::Id, crate::owner::Failure>,
        observed: &mut operator::Observed,
        pass: &mut Pass,
    ) {
        let Object::Bucket(bucket) = object else {
            return;
        };
        let key = object.key();
        let name = super::objects::engine_name(&key);
        let Some(id) = observed.timeline_named(&name).map(|timeline| timeline.id) else {
            return;
        };
        if let Some(failure) = failed.get(&id) {
            let now = self.now();
            let message = format!(
                "cannot import into {}: {}",
                short_name(&key),
                sentence(failure)
            );
            let mut failures = self.failures.lock();
            failures.note(
                &key,
                bucket.metadata.generation,
                import::kind_of(failure),
                &message,
                now,
            );
            if let Some(noted) = failures.of(&key, bucket.metadata.generation) {
                wake(pass, Some(noted.next()));
            }
            observed.failures = failures.clone();
        }
    }

    /// Frees what was made by command with a lifetime that has ended.
    fn expire_commands(&self, pass: &mut Pass) -> Outcome {
        let now = self.engine.now();
        let mut due = |at: storage_engine::Epoch| {
            if at.0 > now {
                wake(pass, Some(Epoch(at.0).timestamp()));
            }
            at.0 <= now
        };
        for info in self.engine.snapshots()? {
            if labels::expires(&info.labels).is_some_and(&mut due) {
                self.engine.delete_snapshot(info.id)?;
            }
        }
        let timelines: BTreeSet<_> = self
            .engine
            .timelines()
            .into_iter()
            .filter(|info| labels::expires(&info.settings.labels).is_some_and(&mut due))
            .map(|info| info.id)
            .collect();
        for id in timelines {
            self.host.release(id)?;
            self.engine.delete_timeline(id)?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Epoch(self.engine.now()).timestamp()
    }
}

fn wake(pass: &mut Pass, at: Option<Timestamp>) {
    if let Some(at) = at.map(Epoch::of) {
        pass.next = Some(pass.next.map_or(at, |other| other.min(at)));
    }
}

pub(super) fn sentence(failure: &crate::owner::Failure) -> String {
    match &failure.next {
        Some(next) => format!("{}. {next}", failure.message),
        None => failure.message.clone(),
    }
}

/// An object with its status as it is at this moment, without doing anything.
pub(super) fn present(
    object: &Object,
    observed: &operator::Observed,
    peers: &Peers,
    now: Timestamp,
) -> Object {
    let options = Options::default();
    plan(
        object,
        &World {
            now,
            observed,
            peers,
            options: &options,
        },
    )
    .object
}
