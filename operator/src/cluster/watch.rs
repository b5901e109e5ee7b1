//! Follows what the API server holds. A watch that breaks or is too old is begun anew by a list; nothing is lost by it.
//!
//! An object that cannot be read holds up no other: it is named in the log, and what was known of it stands.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crds::{Kind, Object, ObjectKey};
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use tokio::sync::watch as signal;

use super::cache::{Cache, Change};
use super::kinds::Ours;
use super::lenient::{Lenient, Unreadable};
use super::metrics::Metrics;

/// Says what was read first, and what changes, to a receiver.
pub trait Receiver<K>: Send + Sync + 'static {
    /// Everything that there is, after a list: what is not in it is gone.
    fn all(&self, objects: Vec<K>);
    /// One object that is new or changed.
    fn changed(&self, object: K);
    /// One object that is gone.
    fn gone(&self, object: K);

    /// The same as [`Receiver::all`], with the objects that are there and cannot be read.
    fn all_but(&self, objects: Vec<K>, unreadable: Vec<ObjectMeta>) {
        drop(unreadable);
        self.all(objects);
    }
    /// One object that is there and cannot be read, or one that could not be read and is gone.
    fn unreadable(&self, metadata: &ObjectMeta, gone: bool) {
        let _ = (metadata, gone);
    }
    /// The watch was interrupted: until something comes again, nothing is heard.
    fn interrupted(&self) {}
}

/// Follows one resource until the process ends. `synced` turns true when all of it was read once.
pub async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    receiver: Arc<dyn Receiver<K>>,
    synced: signal::Sender<bool>,
) where
    K: Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let stream = watch(api, config)
        .default_backoff()
        .map_ok(|event| match event {
            Event::Apply(object) => Event::Apply(Lenient::Read(object)),
            Event::Delete(object) => Event::Delete(Lenient::Read(object)),
            Event::InitApply(object) => Event::InitApply(Lenient::Read(object)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        });
    let mut hands = Hands::new(receiver, synced, None);
    pin_mut!(stream);
    while hands.next(stream.as_mut(), false).await {}
}

/// The same, past objects that cannot be read, and counted. Ends where the API server does not serve the resource.
pub async fn follow_leniently<K>(
    api: Api<Lenient<K>>,
    config: watcher::Config,
    receiver: Arc<dyn Receiver<K>>,
    synced: signal::Sender<bool>,
    metrics: Option<Arc<Metrics>>,
    while_served: bool,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let counted = metrics.map(|metrics| (K::kind(&()).into_owned(), metrics));
    let stream = watch(api, config).default_backoff();
    let mut hands = Hands::new(receiver, synced, counted);
    pin_mut!(stream);
    while hands.next(stream.as_mut(), while_served).await {}
}

/// Hands the events of one watch on.
struct Hands<K> {
    receiver: Arc<dyn Receiver<K>>,
    synced: signal::Sender<bool>,
    counted: Option<(String, Arc<Metrics>)>,
    listed: Vec<K>,
    unreadable: Vec<ObjectMeta>,
    /// The uids of those that were named in the log.
    named: HashSet<String>,
    /// Whether a list was begun before.
    begun: bool,
}

impl<K: 'static> Hands<K> {
    fn new(
        receiver: Arc<dyn Receiver<K>>,
        synced: signal::Sender<bool>,
        counted: Option<(String, Arc<Metrics>)>,
    ) -> Self {
        Hands {
            receiver,
            synced,
            counted,
            listed: Vec::new(),
            unreadable: Vec::new(),
            named: HashSet::new(),
            begun: false,
        }
    }

    /// Waits for one event. False when there will be no other.
    async fn next<S>(&mut self, mut stream: Pin<&mut S>, while_served: bool) -> bool
    where
        S: Stream<Item = watcher::Result<Event<Lenient<K>>>>,
    {
        match stream.try_next().await {
            Ok(Some(Event::Init)) => {
                if let (true, Some((kind, metrics))) = (self.begun, &self.counted) {
                    metrics.watch_restarted(kind);
                }
                self.begun = true;
                self.listed.clear();
                self.unreadable.clear();
            }
            Ok(Some(Event::InitApply(Lenient::Read(object)))) => self.listed.push(object),
            Ok(Some(Event::InitApply(Lenient::Unreadable(object)))) => {
                self.name(&object);
                self.unreadable.push(object.metadata);
            }
            Ok(Some(Event::InitDone)) => {
                let there: HashSet<_> = self.unreadable.iter().filter_map(uid).collect();
                self.named.retain(|uid| there.contains(uid));
                let unreadable = std::mem::take(&mut self.unreadable);
                self.receiver
                    .all_but(std::mem::take(&mut self.listed), unreadable);
                self.synced.send_replace(true);
            }
            Ok(Some(Event::Apply(Lenient::Read(object)))) => self.receiver.changed(object),
            Ok(Some(Event::Apply(Lenient::Unreadable(object)))) => {
                self.name(&object);
                self.receiver.unreadable(&object.metadata, false);
            }
            Ok(Some(Event::Delete(Lenient::Read(object)))) => self.receiver.gone(object),
            Ok(Some(Event::Delete(Lenient::Unreadable(object)))) => {
                if let Some(uid) = uid(&object.metadata) {
                    self.named.remove(&uid);
                }
                self.receiver.unreadable(&object.metadata, true);
            }
            Ok(None) => return false,
            Err(
                watcher::Error::InitialListFailed(kube::Error::Api(status))
                | watcher::Error::WatchStartFailed(kube::Error::Api(status)),
            ) if while_served && status.code == 404 => return false,
            // The stream pauses by itself, longer and longer, and goes on where it can.
            Err(failure) => {
                tracing::warn!(%failure, "a watch was interrupted and is begun again");
                self.receiver.interrupted();
            }
        }
        true
    }

    /// Names an object that cannot be read, once.
    fn name(&mut self, object: &Unreadable) {
        let metadata = &object.metadata;
        if !uid(metadata).is_some_and(|uid| self.named.insert(uid)) {
            return;
        }
        tracing::error!(
            namespace = metadata.namespace,
            name = metadata.name,
            why = object.why,
            "an object cannot be read and is left as it is; delete or mend it"
        );
        if let Some((kind, metrics)) = &self.counted {
            metrics.unreadable(kind);
        }
    }
}

fn uid(metadata: &ObjectMeta) -> Option<String> {
    metadata.uid.clone()
}

/// Who is told which objects are to be looked at.
#[derive(Clone)]
pub struct Told {
    /// Told of those that something changed for: at once, whatever became of them before.
    pub at_once: Arc<dyn Fn(ObjectKey) + Send + Sync>,
    /// Told of those of which only what is said of them changed: not before their pause after a failure is over.
    pub in_turn: Arc<dyn Fn(ObjectKey) + Send + Sync>,
}

impl Told {
    /// Hands on what a change means.
    pub fn of(&self, change: Change) {
        let mut keys = change.look_at.into_iter();
        if !change.asked
            && let Some(own) = keys.next()
        {
            (self.in_turn)(own);
        }
        keys.for_each(|key| (self.at_once)(key));
    }
}

/// A watch that is still to be run.
pub type Watching = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Watches of the three kinds, which follow them into a cache and hand on which objects are to be looked at; for the caller
/// to run. The receivers say when each kind was read once.
///
/// `fields` selects the objects: the node agent follows those of its node.
pub fn watches_of_ours(
    client: &Client,
    fields: Option<&str>,
    cache: &Arc<Cache>,
    told: &Told,
    metrics: Option<&Arc<Metrics>>,
) -> Vec<(Watching, signal::Receiver<bool>)> {
    let mut config = watcher::Config::default().any_semantic();
    if let Some(fields) = fields {
        config = config.fields(fields);
    }
    vec![
        watch_of::<crds::Bucket>(client, config.clone(), cache, told, metrics),
        watch_of::<crds::BucketSnapshot>(client, config.clone(), cache, told, metrics),
        watch_of::<crds::BucketFork>(client, config, cache, told, metrics),
    ]
}

fn watch_of<K: Ours>(
    client: &Client,
    config: watcher::Config,
    cache: &Arc<Cache>,
    told: &Told,
    metrics: Option<&Arc<Metrics>>,
) -> (Watching, signal::Receiver<bool>) {
    let receiver: Arc<dyn Receiver<K>> = Arc::new(Into {
        cache: cache.clone(),
        told: told.clone(),
    });
    let (sender, done) = signal::channel(false);
    let api = Api::<Lenient<K>>::all(client.clone());
    let metrics = metrics.cloned();
    let task = follow_leniently(api, config, receiver, sender, metrics, false);
    (Box::pin(task), done)
}

/// Waits until everything was read once.
pub async fn read_once(synced: Vec<signal::Receiver<bool>>) {
    futures::stream::iter(synced)
        .for_each(|mut receiver| async move {
            // An error means that the watch has ended, which only the end of the process does.
            let _ = receiver.wait_for(|done| *done).await;
        })
        .await;
}

struct Into {
    cache: Arc<Cache>,
    told: Told,
}

fn key_of(kind: Kind, metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        kind,
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

impl<K: Ours> Receiver<K> for Into {
    fn all(&self, objects: Vec<K>) {
        self.all_but(objects, Vec::new());
    }

    fn all_but(&self, objects: Vec<K>, unreadable: Vec<ObjectMeta>) {
        let unreadable: BTreeMap<_, _> = unreadable
            .into_iter()
            .map(|metadata| (key_of(K::KIND, &metadata), metadata))
            .collect();
        let objects: Vec<_> = objects.into_iter().map(Ours::into_object).collect();
        let mut keys: BTreeSet<_> = objects.iter().map(Object::key).collect();
        keys.extend(unreadable.keys().cloned());
        // First of all, so that nobody takes one of them for one that is gone.
        let to_look_at: Vec<_> = unreadable.keys().cloned().collect();
        self.cache.set_unreadable(K::KIND, unreadable);
        to_look_at
            .into_iter()
            .for_each(|key| (self.told.at_once)(key));
        for object in objects {
            self.told.of(self.cache.put(object));
        }
        self.told.of(self.cache.retain(K::KIND, &keys));
    }

    fn changed(&self, object: K) {
        self.told.of(self.cache.put(object.into_object()));
    }

    fn gone(&self, object: K) {
        let object = object.into_object();
        let key = object.key();
        // An object of the same name that was made since is not gone.
        if self
            .cache
            .get(&key)
            .is_none_or(|there| there.metadata().uid == object.metadata().uid)
        {
            self.told.of(self.cache.remove(&key));
        }
    }

    fn unreadable(&self, metadata: &ObjectMeta, gone: bool) {
        let key = key_of(K::KIND, metadata);
        if gone {
            self.told.of(self.cache.remove(&key));
        } else {
            self.cache.add_unreadable(key.clone(), metadata.clone());
        }
        (self.told.at_once)(key);
    }
}
