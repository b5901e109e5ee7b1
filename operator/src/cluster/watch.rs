//! Follows what the API server holds. A watch that breaks or is too old is begun anew by a list; nothing is lost by it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use crds::ObjectKey;
use futures::{StreamExt, TryStreamExt, pin_mut};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use tokio::sync::watch as signal;

use super::cache::Cache;
use super::kinds::Ours;

/// Says what was read first, and what changes, to a receiver.
pub trait Receiver<K>: Send + Sync + 'static {
    /// Everything that there is, after a list: what is not in it is gone.
    fn all(&self, objects: Vec<K>);
    /// One object that is new or changed.
    fn changed(&self, object: K);
    /// One object that is gone.
    fn gone(&self, object: K);
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
    let stream = watch(api, config).default_backoff();
    pin_mut!(stream);
    let mut listed = Vec::new();
    loop {
        match stream.try_next().await {
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(object))) => listed.push(object),
            Ok(Some(Event::InitDone)) => {
                receiver.all(std::mem::take(&mut listed));
                synced.send_replace(true);
            }
            Ok(Some(Event::Apply(object))) => receiver.changed(object),
            Ok(Some(Event::Delete(object))) => receiver.gone(object),
            Ok(None) => return,
            // The stream pauses by itself, longer and longer, and goes on where it can.
            Err(failure) => tracing::warn!(%failure, "a watch was interrupted and is begun again"),
        }
    }
}

/// Follows the three kinds into a cache, and hands on which objects are to be looked at.
///
/// `fields` selects the objects: the node agent follows those of its node. The tasks end with the runtime. The receivers say
/// when each kind was read once.
pub fn follow_ours(
    client: &Client,
    fields: Option<&str>,
    cache: &Arc<Cache>,
    look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>,
) -> Vec<signal::Receiver<bool>> {
    let mut synced = Vec::new();
    let mut start = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>, receiver| {
        tokio::spawn(task);
        synced.push(receiver);
    };
    macro_rules! follow_kind {
        ($kind:ty) => {{
            let mut config = watcher::Config::default().any_semantic();
            if let Some(fields) = fields {
                config = config.fields(fields);
            }
            let receiver: Arc<dyn Receiver<$kind>> = Arc::new(Into {
                cache: cache.clone(),
                look_at: look_at.clone(),
            });
            let (sender, done) = signal::channel(false);
            start(
                Box::pin(follow(
                    Api::<$kind>::all(client.clone()),
                    config,
                    receiver,
                    sender,
                )),
                done,
            );
        }};
    }
    follow_kind!(crds::Bucket);
    follow_kind!(crds::BucketSnapshot);
    follow_kind!(crds::BucketFork);
    synced
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
    look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>,
}

impl Into {
    fn hand_on(&self, change: super::cache::Change) {
        change
            .look_at
            .into_iter()
            .for_each(|key| (self.look_at)(key));
    }
}

impl<K: Ours> Receiver<K> for Into {
    fn all(&self, objects: Vec<K>) {
        let objects: Vec<_> = objects.into_iter().map(Ours::into_object).collect();
        let keys: BTreeSet<_> = objects.iter().map(crds::Object::key).collect();
        for object in objects {
            self.hand_on(self.cache.put(object));
        }
        self.hand_on(self.cache.retain(K::KIND, &keys));
    }

    fn changed(&self, object: K) {
        self.hand_on(self.cache.put(object.into_object()));
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
            self.hand_on(self.cache.remove(&key));
        }
    }
}
