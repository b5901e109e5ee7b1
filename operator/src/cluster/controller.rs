//! The controller: workers that take objects from the queue, decide, and write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::{Kind, Object, ObjectKey, names};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::runtime::events::EventType;
use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cache::Cache;
use super::claims::{Asked, Claims, SELECTOR};
use super::events::Events;
use super::grants::{Grants, ReferenceGrant};
use super::http::Health;
use super::kinds::status_value;
use super::leader::Candidate;
use super::metrics::Metrics;
use super::nodes::{Known, LABEL_AGENT, LeaseReceiver, NodeReceiver};
use super::queue::Queue;
use super::requests::Requests;
use super::watch::{follow, follow_ours, read_once};
use super::write::{MANAGER_NODE, MANAGER_OPERATOR, WriteError, Writer, said_by};
use crate::decide::{Decision, Scene, decide, node_of};

/// Objects worked on at a time. Each waits for the API server most of the time; the server's own fairness limits the rest.
const WORKERS: usize = 16;
/// Longest wait at the end for what is being written.
const END_WAIT: Duration = Duration::from_secs(10);

/// What an operator is told when it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its namespace: of its lease, and of those of the node agents.
    pub namespace: String,
    /// Name of the leader lease.
    pub lease: String,
    /// Who this is: the name of its pod.
    pub identity: String,
    /// How long a leader lease lasts without a renewal.
    pub lease_lasts: Duration,
    /// How long the deletion of an object waits for a node that does not answer.
    pub patience: Duration,
}

/// A running operator.
pub struct Operator {
    settings: Settings,
    writer: Writer,
    events: Events,
    cache: Arc<Cache>,
    queue: Arc<Queue<ObjectKey>>,
    nodes: Arc<Known>,
    grants: Arc<Grants>,
    claims: Arc<Claims>,
    requests: Arc<Requests>,
    metrics: Arc<Metrics>,
    /// Buckets are placed one after another, each knowing of the one before.
    placing: tokio::sync::Mutex<()>,
}

/// Runs an operator until `end` turns true, or until it leads no more: then the process is to end, and to be started anew.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    mut end: signal::Receiver<bool>,
) {
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), &settings.namespace),
        name: settings.lease.clone(),
        identity: settings.identity.clone(),
        lasts: settings.lease_lasts,
    };
    // A candidate that waits is healthy and ready: it takes over the moment it can.
    health.ready.store(true, Ordering::Relaxed);
    tracing::info!(identity = settings.identity, "waits to lead");
    tokio::select! {
        () = candidate.acquire() => {}
        _ = end.wait_for(|end| *end) => return,
    }
    tracing::info!(identity = settings.identity, "leads");
    metrics.leader.set(1);
    let (operator, mut tasks) = Operator::start(client, settings, metrics.clone()).await;
    let lost = tokio::select! {
        () = candidate.keep() => true,
        _ = end.wait_for(|end| *end) => false,
    };
    metrics.leader.set(0);
    operator.queue.close();
    if lost {
        tracing::error!("leads no more; ends");
        tasks.abort_all();
        return;
    }
    // What is being written is finished before the lease is given up.
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END_WAIT, finish).await.is_err() {
        tasks.abort_all();
    }
    candidate.resign().await;
    tracing::info!("ended");
}

impl Operator {
    async fn start(
        client: Client,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> (Arc<Self>, JoinSet<()>) {
        let queue = Arc::new(Queue::default());
        let look_at: Arc<dyn Fn(ObjectKey) + Send + Sync> = Arc::new({
            let queue = queue.clone();
            move |key| queue.add(key)
        });
        let cache = Arc::new(Cache::default());
        let grants = Grants::new(Box::new({
            let (cache, queue) = (cache.clone(), queue.clone());
            move || {
                let foreign = |object: &Arc<Object>| {
                    let key = object.key();
                    let source = crate::source::key_of(object, &key)?;
                    (source.namespace != key.namespace && node_of(object).is_none()).then_some(key)
                };
                cache
                    .all()
                    .iter()
                    .filter_map(foreign)
                    .for_each(|key| queue.add(key));
            }
        }));
        let operator = Arc::new(Operator {
            events: Events::new(client.clone(), MANAGER_OPERATOR, &settings.identity),
            nodes: Arc::new(Known::default()),
            claims: Claims::new(look_at.clone()),
            requests: Requests::new(look_at.clone()),
            writer: Writer::new(client.clone()),
            cache,
            queue,
            grants,
            metrics,
            settings,
            placing: tokio::sync::Mutex::new(()),
        });
        operator.clone().follow(&client, look_at).await;
        let mut tasks = JoinSet::new();
        for _ in 0..WORKERS {
            tasks.spawn(operator.clone().work());
        }
        let watcher = operator.clone();
        tokio::spawn(async move { watcher.follow_nodes().await });
        (operator, tasks)
    }

    /// Reads the cluster once and follows it from there.
    async fn follow(
        self: Arc<Self>,
        client: &Client,
        look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>,
    ) {
        // Decisions need the nodes, and what is there already; the objects come last.
        let mut synced = Vec::new();
        let all = || watcher::Config::default().any_semantic();
        let (done, receiver) = signal::channel(false);
        tokio::spawn(follow(
            Api::<Node>::all(client.clone()),
            all(),
            Arc::new(NodeReceiver(self.nodes.clone())),
            done,
        ));
        synced.push(receiver);
        let (done, receiver) = signal::channel(false);
        let leases = Api::<Lease>::namespaced(client.clone(), &self.settings.namespace);
        tokio::spawn(follow(
            leases,
            all().labels(LABEL_AGENT),
            Arc::new(LeaseReceiver(self.nodes.clone())),
            done,
        ));
        synced.push(receiver);
        let (done, receiver) = signal::channel(false);
        tokio::spawn(follow(
            Api::<PersistentVolume>::all(client.clone()),
            all().labels(SELECTOR),
            self.claims.clone(),
            done,
        ));
        synced.push(receiver);
        let (done, receiver) = signal::channel(false);
        tokio::spawn(follow(
            Api::<PersistentVolumeClaim>::all(client.clone()),
            all().labels(SELECTOR),
            self.claims.clone(),
            done,
        ));
        synced.push(receiver);
        // A source cannot be selected by: all claims of the cluster are followed, and those that are not ours passed over.
        let (done, receiver) = signal::channel(false);
        tokio::spawn(follow(
            Api::<PersistentVolumeClaim>::all(client.clone()),
            all(),
            self.requests.clone(),
            done,
        ));
        synced.push(receiver);
        read_once(synced).await;
        // Not waited for: where the Gateway API is not installed, it never comes.
        let (done, _) = signal::channel(false);
        tokio::spawn(follow(
            Api::<ReferenceGrant>::all(client.clone()),
            all(),
            self.grants.clone(),
            done,
        ));
        let synced = follow_ours(client, None, &self.cache, look_at);
        read_once(synced).await;
        tracing::info!(objects = self.cache.len(), "has read the cluster");
    }

    /// Looks at the objects of the nodes that changed.
    async fn follow_nodes(self: Arc<Self>) {
        let (mut before, mut next) = self.nodes.standing(Timestamp::now());
        loop {
            let until = next.map(|next| instant_of(next, Timestamp::now()));
            tokio::select! {
                () = self.nodes.changed() => {}
                () = async { match until { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
            let (nodes, due) = self.nodes.standing(Timestamp::now());
            next = due;
            if nodes == before {
                continue;
            }
            for object in self.cache.all() {
                let touched = match node_of(&object) {
                    Some(node) => nodes.get(node) != before.get(node),
                    None => true,
                };
                if touched {
                    self.queue.add(object.key());
                }
            }
            tracing::info!(?nodes, "the nodes changed");
            before = nodes;
        }
    }

    async fn work(self: Arc<Self>) {
        while let Some(key) = self.queue.take().await {
            let began = Instant::now();
            let outcome = self.look(&key).await;
            let result = match &outcome {
                Ok(_) => "ok",
                Err(error) => error.category(),
            };
            self.metrics.looked(key.kind, result, began.elapsed());
            match outcome {
                Ok(next) => self
                    .queue
                    .done(&key, next.map(|next| instant_of(next, Timestamp::now()))),
                // The watch brings what it is now.
                Err(WriteError::Gone) => self.queue.done(&key, None),
                Err(error) => {
                    self.refresh(&key, &error).await;
                    let pause = self.queue.failed(&key);
                    tracing::warn!(object = %key, %error, ?pause, "cannot do what an object asks for; tries again");
                }
            }
            self.metrics
                .queue_depth
                .set(i64::try_from(self.queue.depth()).unwrap_or(i64::MAX));
            self.metrics
                .objects
                .set(i64::try_from(self.cache.len()).unwrap_or(i64::MAX));
        }
    }

    /// After a conflict, the object as it is now is worth a read.
    async fn refresh(&self, key: &ObjectKey, error: &WriteError) {
        if matches!(error, WriteError::Conflict) {
            match self.writer.read(key).await {
                Ok(Some(object)) => drop(self.cache.put(object)),
                Ok(None) => drop(self.cache.remove(key)),
                Err(_) => {}
            }
        }
    }

    /// Looks at one object, and does what is to be done. Returns when to look again.
    async fn look(&self, key: &ObjectKey) -> Result<Option<Timestamp>, WriteError> {
        let object = self.cache.get(key);
        if key.kind == Kind::Fork {
            let fork = match object.as_deref() {
                Some(Object::Fork(fork)) => Some(&**fork),
                _ => None,
            };
            let client = self.writer.client();
            let request = self.requests.get(key);
            if let Some(request) = &request {
                self.requests
                    .settle(client, &self.events, request, fork)
                    .await?;
            }
            let asked = request.and_then(|request| {
                Some(Asked {
                    volume: request.volume(fork?)?,
                    make: !request.settled,
                })
            });
            self.claims
                .settle(client, &self.events, key, fork, asked)
                .await?;
        }
        let Some(object) = object else {
            return Ok(None);
        };
        let new_bucket = key.kind == Kind::Bucket && node_of(&object).is_none();
        let _turn = if new_bucket {
            Some(self.placing.lock().await)
        } else {
            None
        };
        let now = Timestamp::now();
        let (nodes, _) = self.nodes.standing(now);
        let held = if new_bucket {
            self.held()
        } else {
            BTreeMap::new()
        };
        let peers = self.cache.peers();
        let source_key = crate::source::key_of(&object, key);
        let source = source_key.as_ref().and_then(|source| {
            let maker = match source.kind {
                Kind::Fork => peers
                    .maker_of_fork(&source.namespace, &source.name)
                    .map(|(maker, ..)| maker),
                _ => Some(source.clone()),
            };
            self.cache.get(&maker?)
        });
        let scene = Scene {
            now,
            nodes: &nodes,
            held: &held,
            source: source.as_deref(),
            granted: source_key.is_none_or(|source| self.grants.allows(&key.namespace, &source)),
            peers: &peers,
            said: &said_by(&object, MANAGER_OPERATOR),
            patience: self.settings.patience,
        };
        let (decision, next) = decide(&object, &scene);
        self.act(&object, decision).await?;
        Ok(next)
    }

    async fn act(&self, object: &Object, decision: Decision) -> Result<(), WriteError> {
        match decision {
            Decision::Leave => {}
            Decision::Place(node) => {
                if !object
                    .metadata()
                    .finalizers
                    .iter()
                    .flatten()
                    .any(|name| name == names::FINALIZER)
                {
                    self.writer.hold(object).await?;
                }
                let answer = self
                    .writer
                    .status(object, MANAGER_OPERATOR, json!({ "node": node }))
                    .await?;
                tracing::info!(object = %object.key(), node, "placed");
                self.took(answer);
            }
            Decision::Say(said, state) => {
                let mut wanted = status_value(&said);
                if let Some(node) = node_of(object) {
                    wanted["node"] = json!(node);
                }
                if same_status(object, &said) {
                    return Ok(());
                }
                let answer = self.writer.status(object, MANAGER_OPERATOR, wanted).await?;
                self.events.state(object, &state).await;
                self.took(answer);
            }
            Decision::Lost(said, state) => {
                let answer = self
                    .writer
                    .status(object, MANAGER_NODE, status_value(&said))
                    .await?;
                self.events.state(object, &state).await;
                self.took(answer);
            }
            Decision::Release(why) => {
                if let Some(why) = &why {
                    tracing::warn!(object = %object.key(), why, "lets an object go");
                    self.events
                        .tell(object, EventType::Warning, "Released", "Delete", why)
                        .await;
                }
                self.writer.release(object).await?;
            }
        }
        Ok(())
    }

    /// Takes in what the API server answered, so that the next look does not wait for the watch.
    fn took(&self, object: Object) {
        self.cache
            .put(object)
            .look_at
            .into_iter()
            .for_each(|key| self.queue.add(key));
    }

    /// How many buckets each node has.
    fn held(&self) -> BTreeMap<String, usize> {
        let mut held = BTreeMap::new();
        for object in self
            .cache
            .all()
            .iter()
            .filter(|object| object.kind() == Kind::Bucket)
        {
            if let Some(node) = node_of(object) {
                *held.entry(node.to_owned()).or_default() += 1;
            }
        }
        held
    }
}

/// Whether two versions of an object have the same status.
fn same_status(a: &Object, b: &Object) -> bool {
    status_value(a) == status_value(b)
}

/// A time as an instant of the clock that timers use.
pub fn instant_of(time: Timestamp, now: Timestamp) -> Instant {
    let wait = time.duration_since(now);
    let wait = Duration::try_from(wait).unwrap_or_default();
    // Beyond what a timer can wait, looking once a day does no harm.
    Instant::now() + wait.min(Duration::from_secs(86_400))
}
