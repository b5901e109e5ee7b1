//! The controller: leads, follows the cluster, and has its workers look at what changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::{Object, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cache::Cache;
use super::claims::{Claims, SELECTOR};
use super::events::Events;
use super::grants::{Grants, follow_grants};
use super::health::{Health, as_part, panicked};
use super::leader::Candidate;
use super::lenient::Lenient;
use super::metrics::Metrics;
use super::nodes::{Known, LABEL_AGENT, LeaseReceiver, NodeReceiver};
use super::queue::Queue;
use super::requests::Requests;
use super::watch::{Receiver, Told, follow_leniently, read_once, watches_of_ours};
use super::write::{MANAGER_OPERATOR, Writer};
use crate::decide::node_of;

/// Objects worked on at a time. Each waits for the API server most of the time; the server's own fairness limits the rest.
const WORKERS: usize = 16;
/// Longest wait at the end for what is being written.
const END_WAIT: Duration = Duration::from_secs(10);

/// After how long without an answer of the API server a worker is stuck: some times the longest wait for one.
const STUCK: Duration = Duration::from_secs(180);

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
pub(super) struct Operator {
    pub(super) settings: Settings,
    pub(super) writer: Writer,
    pub(super) events: Events,
    pub(super) cache: Arc<Cache>,
    pub(super) queue: Arc<Queue<ObjectKey>>,
    pub(super) nodes: Arc<Known>,
    pub(super) grants: Arc<Grants>,
    pub(super) claims: Arc<Claims>,
    pub(super) requests: Arc<Requests>,
    pub(super) metrics: Arc<Metrics>,
    /// The nodes of buckets whose placement is being written.
    pub(super) placing: Mutex<BTreeMap<ObjectKey, String>>,
}

/// Runs an operator until `end` turns true, or until it leads no more or a part of it dies: then the process is to end, and to
/// be started anew.
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
    tracing::info!(identity = settings.identity, "waits to lead");
    // A candidate that can see the lease is ready: it takes over the moment it can.
    let heard = |answered| health.ready.store(answered, Ordering::Relaxed);
    tokio::select! {
        () = candidate.acquire(heard) => {}
        _ = end.wait_for(|end| *end) => return,
    }
    health.ready.store(false, Ordering::Relaxed);
    tracing::info!(identity = settings.identity, "leads");
    metrics.leader.set(1);
    let operator = Operator::new(&client, settings, metrics.clone());
    let mut tasks = Tasks::default();
    // The lease is kept from the first moment: reading a large cluster may take longer than a lease lasts.
    let lost = tokio::select! {
        () = candidate.keep() => true,
        _ = end.wait_for(|end| *end) => false,
        part = operator.clone().lead(&client, &mut tasks, &health) => {
            tracing::error!(part, "a part of the operator has died; ends, to be started anew");
            false
        }
    };
    metrics.leader.set(0);
    health.ready.store(false, Ordering::Relaxed);
    operator.queue.close();
    if lost {
        tracing::error!("leads no more; ends");
        return;
    }
    // What is being written is finished before the lease is given up.
    let finish = async { while tasks.workers.join_next().await.is_some() {} };
    if tokio::time::timeout(END_WAIT, finish).await.is_err() {
        tasks.workers.abort_all();
    }
    candidate.resign().await;
    tracing::info!("ended");
}

/// What runs while an operator leads. Ends with this.
#[derive(Default)]
struct Tasks {
    workers: JoinSet<()>,
    /// Watches, and what hands on what they bring.
    watches: JoinSet<()>,
}

impl Tasks {
    /// Waits until one of them ends, which none does while the operator leads. Says why.
    async fn one_ended(&mut self) -> String {
        let (what, ended) = tokio::select! {
            Some(ended) = self.workers.join_next() => ("a worker", ended),
            Some(ended) = self.watches.join_next() => ("a watch", ended),
            else => return "nothing runs".to_owned(),
        };
        match ended.map_err(tokio::task::JoinError::try_into_panic) {
            Err(Ok(panic)) => format!("{what} panicked: {}", panicked(&*panic)),
            _ => format!("{what} has ended"),
        }
    }
}

impl Operator {
    fn new(client: &Client, settings: Settings, metrics: Arc<Metrics>) -> Arc<Self> {
        let queue = Arc::new(Queue::default());
        let look_at: Arc<dyn Fn(ObjectKey) + Send + Sync> = Arc::new({
            let queue = queue.clone();
            move |key| queue.add_changed(key)
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
                    .for_each(|key| queue.add_changed(key));
            }
        }));
        Arc::new(Operator {
            events: Events::new(client.clone(), MANAGER_OPERATOR, &settings.identity),
            nodes: Arc::new(Known::default()),
            claims: Claims::new(look_at.clone()),
            requests: Requests::new(look_at),
            writer: Writer::new(client.clone()),
            cache,
            queue,
            grants,
            metrics,
            settings,
            placing: Mutex::default(),
        })
    }

    /// Reads the cluster, follows it and works, until a part of this dies. Says which.
    async fn lead(
        self: Arc<Self>,
        client: &Client,
        tasks: &mut Tasks,
        health: &Arc<Health>,
    ) -> String {
        self.follow(client, &mut tasks.watches).await;
        health.ready.store(true, Ordering::Relaxed);
        for number in 1..=WORKERS {
            let beat = health.part(format!("worker {number}"), STUCK);
            tasks
                .workers
                .spawn(as_part(beat.clone(), self.clone().work(beat)));
        }
        tasks.watches.spawn(self.follow_nodes());
        tasks.one_ended().await
    }

    /// Reads the cluster once and follows it from there.
    async fn follow(&self, client: &Client, watches: &mut JoinSet<()>) {
        let all = || watcher::Config::default().any_semantic();
        let leases = Api::namespaced(client.clone(), &self.settings.namespace);
        // Decisions need the nodes, and what is there already; the objects come last.
        let nodes = Arc::new(NodeReceiver(self.nodes.clone()));
        let heard = Arc::new(LeaseReceiver(self.nodes.clone()));
        let (volumes, claims) = (self.claims.clone(), self.claims.clone());
        let synced = vec![
            self.watch::<Node>(watches, Api::all(client.clone()), all(), nodes),
            self.watch::<Lease>(watches, leases, all().labels(LABEL_AGENT), heard),
            self.watch::<PersistentVolume>(
                watches,
                Api::all(client.clone()),
                all().labels(SELECTOR),
                volumes,
            ),
            self.watch::<PersistentVolumeClaim>(
                watches,
                Api::all(client.clone()),
                all().labels(SELECTOR),
                claims,
            ),
            // A source cannot be selected by: all claims of the cluster are followed, and those that are not ours passed over.
            self.watch::<PersistentVolumeClaim>(
                watches,
                Api::all(client.clone()),
                all(),
                self.requests.clone(),
            ),
        ];
        read_once(synced).await;
        // Not waited for: until they are read, forks of other namespaces wait, and nobody else.
        watches.spawn(follow_grants(
            client.clone(),
            self.grants.clone(),
            self.metrics.clone(),
        ));
        let (at_once, in_turn) = (self.queue.clone(), self.queue.clone());
        let told = Told {
            at_once: Arc::new(move |key| at_once.add_changed(key)),
            in_turn: Arc::new(move |key| in_turn.add_in_turn(key)),
        };
        let mut synced = Vec::new();
        for (task, read) in watches_of_ours(client, None, &self.cache, &told, Some(&self.metrics)) {
            watches.spawn(task);
            synced.push(read);
        }
        read_once(synced).await;
        tracing::info!(objects = self.cache.len(), "has read the cluster");
    }

    /// Follows one resource.
    fn watch<K>(
        &self,
        watches: &mut JoinSet<()>,
        api: Api<Lenient<K>>,
        config: watcher::Config,
        receiver: Arc<dyn Receiver<K>>,
    ) -> signal::Receiver<bool>
    where
        K: Resource<DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (done, read) = signal::channel(false);
        let metrics = Some(self.metrics.clone());
        watches.spawn(follow_leniently(
            api, config, receiver, done, metrics, false,
        ));
        read
    }

    /// Looks at the objects of the nodes that changed.
    async fn follow_nodes(self: Arc<Self>) {
        let (mut before, mut next) = self.nodes.standing();
        loop {
            tokio::select! {
                () = self.nodes.changed() => {}
                () = async { match next { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
            }
            let (nodes, due) = self.nodes.standing();
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
                    self.queue.add_changed(object.key());
                }
            }
            tracing::info!(?nodes, "the nodes changed");
            before = nodes;
        }
    }
}

/// A time as an instant of the clock that timers use.
pub fn instant_of(time: Timestamp, now: Timestamp) -> Instant {
    let wait = time.duration_since(now);
    let wait = Duration::try_from(wait).unwrap_or_default();
    // Beyond what a timer can wait, looking once a day does no harm.
    Instant::now() + wait.min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_part_says_which_and_with_which_words() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut tasks = Tasks::default();
            assert_eq!(tasks.one_ended().await, "nothing runs");
            tasks.workers.spawn(std::future::pending());
            tasks.watches.spawn(async { panic!("no {}", "luck") });
            assert_eq!(tasks.one_ended().await, "a watch panicked: no luck");
            tasks.workers.spawn(async {});
            assert_eq!(tasks.one_ended().await, "a worker has ended");
        });
    }
}
