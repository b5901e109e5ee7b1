//! The agent of a node: makes real, with the engine of the node, what the custom resources placed on it ask for.
//!
//! It follows the objects whose `status.node` is its node, and says of each what the engine has. For each object: observe,
//! plan, act, and write the status that the next plan finds; an expiry is written before the data goes. Where nothing
//! changes, nothing is looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::conditions::{Reason, State};
use crds::{Kind, Object, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::events::EventType;
use kube::{Api, Client};
use operator::cluster::cache::Cache;
use operator::cluster::controller::instant_of;
use operator::cluster::events::Events;
use operator::cluster::http::Health;
use operator::cluster::kinds::status_value;
use operator::cluster::metrics::Metrics;
use operator::cluster::nodes::renew;
use operator::cluster::queue::Queue;
use operator::cluster::watch::{Told, read_once, watches_of_ours};
use operator::cluster::write::{MANAGER_NODE, WriteError, Writer, answered};
use operator::owner::{is_retained, key_of};
use operator::{Action, Options, Plan, World, plan};
use storage_engine::Engine;
use tokio::sync::{mpsc, watch as signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::look::{Named, observe, usage_of};
use super::reconcile::{Agent, sentence};
use super::{act, import};
use crate::owner::{Failure, Host};

/// Objects worked on at a time: forks are commits, and commits made together share one sync of the log.
const WORKERS: usize = 16;
/// Steps of one look; each follows from the one before.
const MOST_STEPS: usize = 8;
/// How often the progress of an import is said.
const PROGRESS_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether timelines hold another number of bytes than their objects say. Costs a look into memory for
/// each, and nothing of the API server where nothing was written.
const MEASURE_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait at the end for what is being done.
const END_WAIT: Duration = Duration::from_secs(10);
/// File in the data directory that names the cluster whose objects the store holds.
const CLUSTER_FILE: &str = "cluster";

/// What a node agent is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the node.
    pub node: String,
    /// The operator's namespace, which has the leases.
    pub namespace: String,
    /// Who this is, for events: the name of the pod.
    pub identity: String,
    /// How long its lease lasts without a renewal.
    pub lease_lasts: Duration,
    /// Directories below which sources of buckets may lie.
    pub import_roots: Vec<PathBuf>,
}

/// Why an agent could not begin, or go on with a look.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The API server did not take a write, or did not answer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store could not be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] Failure),
    /// The store holds the data of another cluster.
    #[error(
        "the store in {data} belongs to another cluster ({found}, and this one is {cluster}); its objects are not here, and their data would be freed. Give this node another data directory, or remove {data}/{CLUSTER_FILE} to give the store to this cluster"
    )]
    OtherCluster {
        /// The data directory.
        data: String,
        /// Whose it is.
        found: String,
        /// Where we are.
        cluster: String,
    },
    /// The file that names the cluster could not be read or written.
    #[error("{CLUSTER_FILE} in the data directory: {0}")]
    File(#[from] std::io::Error),
}

impl NodeError {
    fn category(&self) -> &'static str {
        match self {
            NodeError::Write(error) => error.category(),
            _ => "store",
        }
    }
}

struct Node {
    agent: Arc<Agent>,
    settings: Settings,
    options: Options,
    cache: Arc<Cache>,
    queue: Arc<Queue<ObjectKey>>,
    told: Told,
    writer: Writer,
    events: Events,
    metrics: Arc<Metrics>,
}

/// What an agent works with.
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// The node's store.
    pub engine: Engine,
    /// What this process adds to it.
    pub host: Arc<dyn Host>,
    /// What it did.
    pub metrics: Arc<Metrics>,
    /// Whether it is ready.
    pub health: Arc<Health>,
    /// What others in this process want looked at again.
    pub news: mpsc::UnboundedReceiver<News>,
}

/// What an agent cannot see by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This object's timeline was mounted or unmounted.
    Of(ObjectKey),
    /// A command has changed something in the store.
    Store,
    /// Bytes of this object's timeline are damaged: where, in words.
    Damaged(ObjectKey, String),
}

/// Runs the agent until `end` turns true.
///
/// # Errors
/// When it cannot begin.
pub async fn run(
    parts: Parts,
    settings: Settings,
    mut end: signal::Receiver<bool>,
) -> Result<(), NodeError> {
    let Parts {
        client,
        engine,
        host,
        metrics,
        health,
        mut news,
    } = parts;
    let mut began = false;
    while !began {
        // Without an API server there is nothing to begin with; with the wrong one, nothing to be done.
        match belongs(&client, &engine).await {
            Ok(()) => began = true,
            Err(NodeError::Write(error @ WriteError::Unavailable(_))) => {
                tracing::warn!(%error, "waits for the API server");
                tokio::select! {
                    () = tokio::time::sleep(PROGRESS_PAUSE) => {}
                    _ = end.wait_for(|end| *end) => return Ok(()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    let beat = tokio::spawn(beat(client.clone(), settings.clone()));
    let queue = Arc::new(Queue::default());
    let cache = Arc::new(Cache::default());
    let wake: Arc<dyn Fn() + Send + Sync> = Arc::new({
        let (queue, cache) = (queue.clone(), cache.clone());
        move || {
            let keys = importing(&cache).into_iter();
            keys.for_each(|key| queue.add_changed(key));
        }
    });
    let (at_once, in_turn) = (queue.clone(), queue.clone());
    let told = Told {
        at_once: Arc::new(move |key| at_once.add_changed(key)),
        in_turn: Arc::new(move |key| in_turn.add_in_turn(key)),
    };
    let agent = Agent::new(engine, host, wake).importing_below(settings.import_roots.clone());
    let node = Arc::new(Node {
        agent: Arc::new(agent),
        options: Options {
            mount_forks: false,
            node: Some(settings.node.clone()),
            admission: true,
        },
        cache: cache.clone(),
        queue: queue.clone(),
        told: told.clone(),
        writer: Writer::new(client.clone()),
        events: Events::new(client.clone(), MANAGER_NODE, &settings.identity),
        metrics: metrics.clone(),
        settings,
    });
    let fields = format!("status.node={}", node.settings.node);
    let mut synced = Vec::new();
    for (watch, read) in watches_of_ours(&client, Some(&fields), &cache, &told, Some(&metrics)) {
        tokio::spawn(watch);
        synced.push(read);
    }
    tokio::select! {
        () = read_once(synced) => {}
        _ = end.wait_for(|end| *end) => return Ok(()),
    }
    node.queue_orphans()?;
    health.ready.store(true, Ordering::Relaxed);
    tracing::info!(
        node = node.settings.node,
        objects = cache.len(),
        "has read what is placed here"
    );
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS {
        tasks.spawn(node.clone().work());
    }
    tasks.spawn(node.clone().measure(end.clone()));
    let hears = node.clone();
    let hearing = tokio::spawn(async move {
        while let Some(news) = news.recv().await {
            match news {
                News::Of(key) => hears.queue.add_changed(key),
                News::Damaged(key, places) => {
                    if let Some(object) = hears.cache.get(&key) {
                        let note = format!(
                            "stored bytes are damaged: {places}. `anabranch check` names every state that is hit"
                        );
                        hears
                            .events
                            .tell(&object, EventType::Warning, "Damaged", "Scrub", &note)
                            .await;
                    }
                }
                News::Store => {
                    let all = hears.cache.all();
                    all.iter()
                        .for_each(|object| hears.queue.add_changed(object.key()));
                }
            }
        }
    });
    // An error means that nobody can say any more when to end.
    let _ = end.wait_for(|end| *end).await;
    health.ready.store(false, Ordering::Relaxed);
    hearing.abort();
    queue.close();
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END_WAIT, finish).await.is_err() {
        tasks.abort_all();
    }
    beat.abort();
    Ok(())
}

/// Notes to which cluster the store belongs, and refuses another one: there, none of its objects would exist, and what
/// no object stands for is freed.
async fn belongs(client: &Client, engine: &Engine) -> Result<(), NodeError> {
    let namespace = Api::<Namespace>::all(client.clone())
        .get("kube-system")
        .await
        .map_err(WriteError::from)?;
    let cluster = namespace.metadata.uid.unwrap_or_default();
    let data = engine.data_dir();
    let file = data.join(CLUSTER_FILE);
    match std::fs::read_to_string(&file) {
        Ok(found) if found.trim() == cluster => Ok(()),
        Ok(found) => Err(NodeError::OtherCluster {
            data: data.display().to_string(),
            found: found.trim().to_owned(),
            cluster,
        }),
        Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => {
            let passing = data.join(format!("{CLUSTER_FILE}.new"));
            std::fs::write(&passing, format!("{cluster}\n"))?;
            std::fs::File::open(&passing)?.sync_all()?;
            std::fs::rename(&passing, &file)?;
            Ok(std::fs::File::open(&data)?.sync_all()?)
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Says again and again that this agent answers.
async fn beat(client: Client, settings: Settings) {
    loop {
        let renewed = renew(
            &client,
            &settings.namespace,
            &settings.node,
            settings.lease_lasts,
        );
        if let Err(failure) = answered(renewed).await {
            tracing::warn!(%failure, "cannot renew the lease of this node");
        }
        tokio::time::sleep(settings.lease_lasts / 4).await;
    }
}

/// The buckets whose import is not complete.
fn importing(cache: &Cache) -> Vec<ObjectKey> {
    let all = cache.all();
    let pending = all.iter().filter(|object| match &***object {
        Object::Bucket(bucket) => {
            bucket.spec.source.is_some()
                && !bucket
                    .status
                    .as_ref()
                    .and_then(|status| status.import.as_ref())
                    .is_some_and(|import| import.complete)
        }
        _ => false,
    });
    pending.map(|object| object.key()).collect()
}

impl Node {
    /// Objects of which the store has data and that are not placed here any more: to be looked at, and freed when they are gone.
    fn queue_orphans(&self) -> Result<(), NodeError> {
        let engine = &self.agent.engine;
        let timelines = engine
            .timelines()
            .into_iter()
            .map(|info| info.settings.labels);
        let snapshots = engine
            .snapshots()
            .map_err(Failure::from)?
            .into_iter()
            .map(|info| info.labels);
        let owners: BTreeSet<_> = timelines
            .chain(snapshots)
            .filter(|labels| !is_retained(labels))
            .filter_map(|labels| key_of(&labels))
            .collect();
        owners
            .into_iter()
            .filter(|key| self.cache.get(key).is_none())
            .for_each(|key| self.queue.add(key));
        Ok(())
    }

    /// Looks again at the objects whose timelines hold another number of bytes than is said.
    async fn measure(self: Arc<Self>, mut end: signal::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(MEASURE_PAUSE) => {}
                _ = end.wait_for(|end| *end) => return,
            }
            let node = self.clone();
            let look = tokio::task::spawn_blocking(move || {
                let all = node.cache.all();
                let changed = all
                    .iter()
                    .filter(|object| measured_otherwise(&node.agent.engine, object));
                changed.for_each(|object| node.queue.add_in_turn(object.key()));
            });
            if let Err(failure) = joined(look.await) {
                tracing::error!(%failure, "cannot measure");
            }
        }
    }

    async fn work(self: Arc<Self>) {
        while let Some(key) = self.queue.take().await {
            let began = Instant::now();
            let object = self.cache.get(&key);
            let generation = object.as_ref().and_then(|one| one.metadata().generation);
            let outcome = match object {
                Some(object) => self.look(&key, (*object).clone()).await,
                None => self.free(&key).await,
            };
            let failed = self.agent.failures.lock().of(&key, generation).is_some();
            let result = match &outcome {
                // The object's status says what.
                Ok(_) if failed => "action",
                Ok(_) => "ok",
                Err(error) => error.category(),
            };
            self.metrics.looked(key.kind, result, began.elapsed());
            match outcome {
                Ok(next) => self
                    .queue
                    .done(&key, next.map(|next| instant_of(next, Timestamp::now()))),
                // The watch brings what it is now.
                Err(NodeError::Write(WriteError::Gone)) => self.queue.done(&key, None),
                Err(error) => {
                    if let (NodeError::Write(WriteError::Conflict), Ok(Some(object))) =
                        (&error, self.writer.read(&key).await)
                        && operator::decide::node_of(&object) == Some(&self.settings.node)
                    {
                        self.cache.put(object);
                    }
                    let pause = self.queue.failed(&key);
                    tracing::warn!(object = %key, %error, ?pause, "cannot do what an object asks for; tries again");
                }
            }
            self.metrics.stands(self.queue.depth(), self.cache.len());
        }
    }

    /// Brings one object as far as it can be brought now. Returns when to look again.
    async fn look(
        &self,
        key: &ObjectKey,
        mut object: Object,
    ) -> Result<Option<Timestamp>, NodeError> {
        for _ in 0..MOST_STEPS {
            let plan = self.plan(&object).await?;
            if plan.released {
                self.writer.release(&object).await?;
                self.agent.failures.lock().clear(key);
                return Ok(None);
            }
            let expiring = expired(&plan.object) && !expired(&object);
            if (plan.actions.is_empty() || expiring)
                && status_value(&plan.object) != status_value(&object)
            {
                object = self.say(&object, &plan).await?;
                // What is being imported may be complete by now.
                if !expiring {
                    return Ok(self.next(&plan));
                }
            }
            if plan.actions.is_empty() {
                return Ok(self.next(&plan));
            }
            let importing = plan
                .actions
                .iter()
                .any(|action| matches!(action, Action::Import { .. }));
            self.act(key, &object, plan.actions).await?;
            if importing {
                // The thread is on its way; the next plan says so.
                tokio::task::yield_now().await;
            }
        }
        // Only something that goes on changing under our hands comes here; it is looked at again.
        Ok(Some(Timestamp::now() + PROGRESS_PAUSE))
    }

    fn next(&self, plan: &Plan) -> Option<Timestamp> {
        let progress = matches!(plan.state, State::Reconciling(Reason::Importing, _))
            .then(|| Timestamp::now() + PROGRESS_PAUSE);
        plan.next.into_iter().chain(progress).min()
    }

    /// Writes the status that a plan says.
    async fn say(&self, object: &Object, plan: &Plan) -> Result<Object, NodeError> {
        let said = self
            .writer
            .status(object, MANAGER_NODE, status_value(&plan.object))
            .await?;
        self.events.state(object, &plan.state).await;
        self.told.of(self.cache.put(said.clone()));
        Ok(said)
    }

    async fn plan(&self, object: &Object) -> Result<Plan, NodeError> {
        let (agent, object, options, peers) = (
            self.agent.clone(),
            object.clone(),
            self.options.clone(),
            self.cache.peers(),
        );
        let planned = tokio::task::spawn_blocking(move || -> Result<Plan, Failure> {
            let key = object.key();
            let (imports, failed) = agent.imports.observe();
            if let Some(failure) = failed
                .into_iter()
                .find_map(|(id, failure)| agent.is_of(id, &key).then_some(failure))
            {
                let message = format!("cannot import: {}", sentence(&failure));
                agent.failures.lock().note(
                    &key,
                    object.metadata().generation,
                    import::kind_of(&failure),
                    &message,
                    Timestamp::now(),
                );
            }
            let failures = agent.failures.lock().just(&key);
            let observed = observe(&agent.engine, &*agent.host, &object, imports, failures)?;
            let world = World {
                now: Timestamp::now(),
                observed: &observed,
                peers: &peers,
                options: &options,
            };
            Ok(plan(&object, &world))
        });
        Ok(joined(planned.await)??)
    }

    /// Applies actions in their order up to the first that fails, which is noted for the next plan.
    async fn act(
        &self,
        key: &ObjectKey,
        object: &Object,
        actions: Vec<Action>,
    ) -> Result<(), NodeError> {
        let (agent, key, generation) = (
            self.agent.clone(),
            key.clone(),
            object.metadata().generation,
        );
        let acted = tokio::task::spawn_blocking(move || {
            for action in &actions {
                let Err(failure) = agent.act(action) else {
                    continue;
                };
                let kind = match action {
                    Action::Import { .. } => import::kind_of(&failure),
                    _ => act::kind_of(&failure, action),
                };
                let message = format!("cannot {}: {}", action.describe(), sentence(&failure));
                tracing::warn!(object = %key, message, help = ?kind, "an action failed");
                agent
                    .failures
                    .lock()
                    .note(&key, generation, kind, &message, Timestamp::now());
                return;
            }
            if !actions
                .iter()
                .any(|action| matches!(action, Action::Import { .. }))
            {
                agent.failures.lock().clear(&key);
            }
        });
        Ok(joined(acted.await)?)
    }

    /// Frees what the store has of an object that is gone, or that is another node's now.
    async fn free(&self, key: &ObjectKey) -> Result<Option<Timestamp>, NodeError> {
        // The API server has the word, not what was watched: an object that is ours, or nobody's yet, keeps its data.
        if let Some(object) = self.writer.read(key).await?
            && operator::decide::node_of(&object).is_none_or(|node| node == self.settings.node)
        {
            return Ok(None);
        }
        let (agent, key) = (self.agent.clone(), key.clone());
        let freed = tokio::task::spawn_blocking(move || -> Result<(), Failure> {
            let named = Named::find(&agent.engine, &key, true)?.owned_by(&key);
            for info in named
                .timelines
                .into_iter()
                .filter(|info| !is_retained(&info.settings.labels))
            {
                tracing::info!(object = %key, timeline = %info.id, "frees the data of an object that is gone");
                agent.host.release(info.id)?;
                if info.settings.protected {
                    let settings = storage_engine::Settings {
                        protected: false,
                        ..info.settings
                    };
                    agent.engine.update_settings(info.id, settings)?;
                }
                agent.engine.delete_timeline(info.id)?;
            }
            for info in named.snapshots {
                tracing::info!(object = %key, snapshot = %info.id, "frees the data of an object that is gone");
                agent.engine.delete_snapshot(info.id)?;
            }
            agent.failures.lock().clear(&key);
            Ok(())
        });
        joined(freed.await)??;
        Ok(None)
    }
}

impl Agent {
    /// Whether a timeline is that of an object.
    fn is_of(&self, id: operator::Id, key: &ObjectKey) -> bool {
        let info = self.engine.timeline(storage_engine::TimelineId(id.0));
        key.kind == Kind::Bucket
            && info.is_ok_and(|info| key_of(&info.settings.labels).as_ref() == Some(key))
    }
}

/// Whether what an object says of its bytes is no longer so.
fn measured_otherwise(engine: &Engine, object: &Object) -> bool {
    let now = |timeline: &Option<String>| {
        let mut id = [0; 16];
        hex::decode_to_slice(timeline.as_ref()?, &mut id).ok()?;
        usage_of(engine, storage_engine::TimelineId(id))
    };
    let other =
        |timeline, said: Option<crds::Usage>| now(timeline).is_some_and(|now| said != Some(now));
    match object {
        Object::Snapshot(_) => false,
        Object::Bucket(bucket) => bucket
            .status
            .as_ref()
            .is_some_and(|status| other(&status.timeline, status.usage)),
        Object::Fork(fork) => fork.status.as_ref().is_some_and(|status| {
            let item = |item: &crds::ForkItem| {
                now(&item.timeline).is_some_and(|now| {
                    (item.divergent_bytes, item.shared_bytes)
                        != (Some(now.divergent_bytes), Some(now.shared_bytes))
                })
            };
            other(&status.timeline, status.usage) || status.items.iter().any(item)
        }),
    }
}

/// Whether an object's lifetime was found to have ended.
fn expired(object: &Object) -> bool {
    match object {
        Object::Bucket(_) => false,
        Object::Snapshot(object) => object
            .status
            .as_ref()
            .is_some_and(|status| status.expired_time.is_some()),
        Object::Fork(object) => object
            .status
            .as_ref()
            .is_some_and(|status| status.expired_time.is_some()),
    }
}

/// The result of a thread; a panic in it is a failure of the store.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    result
        .map_err(|error| Failure::new("Internal", format!("a thread ended unexpectedly: {error}")))
}
