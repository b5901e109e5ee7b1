//! The ReferenceGrants of the cluster. Where the Gateway API is not installed there are none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crds::ObjectKey;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch as signal};

use super::lenient::Lenient;
use super::metrics::Metrics;
use super::watch::{Receiver, follow_leniently};
use crate::grants::{Grant, allows};

/// The definition of the kind.
const DEFINITION: &str = "referencegrants.gateway.networking.k8s.io";
/// First pause until it is asked again whether a kind that is defined is served, doubled each time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The last of these pauses; a minute in all.
const PAUSE_LAST: Duration = Duration::from_secs(32);

/// A ReferenceGrant, as far as it is read.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReferenceGrant {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Spec {
    #[serde(default)]
    from: Vec<From>,
    #[serde(default)]
    to: Vec<To>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct From {
    #[serde(default)]
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct To {
    #[serde(default)]
    group: String,
    kind: String,
    name: Option<String>,
}

impl Resource for ReferenceGrant {
    type DynamicType = ();
    type Scope = kube::core::NamespaceResourceScope;

    fn kind(_: &()) -> std::borrow::Cow<'_, str> {
        "ReferenceGrant".into()
    }
    fn group(_: &()) -> std::borrow::Cow<'_, str> {
        "gateway.networking.k8s.io".into()
    }
    fn version(_: &()) -> std::borrow::Cow<'_, str> {
        "v1beta1".into()
    }
    fn plural(_: &()) -> std::borrow::Cow<'_, str> {
        "referencegrants".into()
    }
    fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        &mut self.metadata
    }
}

/// The grants that are there.
pub struct Grants {
    grants: RwLock<BTreeMap<(String, String), Grant>>,
    /// Whether they were read once; before that nothing is refused for want of one.
    read: AtomicBool,
    /// Called when a grant changes: what was refused may be allowed now.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Grants {
    /// None yet.
    pub fn new(changed: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Grants {
            grants: RwLock::default(),
            read: AtomicBool::new(false),
            changed,
        })
    }

    /// Whether a fork of this namespace may be made from a source; none while that is not known yet.
    pub fn allows(&self, namespace: &str, source: &ObjectKey) -> Option<bool> {
        if namespace == source.namespace {
            return Some(true);
        }
        self.read
            .load(Ordering::Acquire)
            .then(|| allows(self.grants.read().values(), namespace, source))
    }
}

fn key(grant: &ReferenceGrant) -> (String, String) {
    (grant.namespace().unwrap_or_default(), grant.name_any())
}

fn read(grant: ReferenceGrant) -> Grant {
    Grant {
        namespace: grant.namespace().unwrap_or_default(),
        from: grant
            .spec
            .from
            .into_iter()
            .map(|from| (from.group, from.kind, from.namespace))
            .collect(),
        to: grant
            .spec
            .to
            .into_iter()
            .map(|to| (to.group, to.kind, to.name))
            .collect(),
    }
}

impl Receiver<ReferenceGrant> for Grants {
    fn all(&self, grants: Vec<ReferenceGrant>) {
        *self.grants.write() = grants
            .into_iter()
            .map(|grant| (key(&grant), read(grant)))
            .collect();
        self.read.store(true, Ordering::Release);
        (self.changed)();
    }
    fn changed(&self, grant: ReferenceGrant) {
        self.grants.write().insert(key(&grant), read(grant));
        (self.changed)();
    }
    fn gone(&self, grant: ReferenceGrant) {
        // What was forked stays; what waits for something else is refused from now on.
        self.grants.write().remove(&key(&grant));
        (self.changed)();
    }
}

/// Follows the grants, from when the Gateway API is there, and as long as it is.
pub async fn follow_grants(client: Client, grants: Arc<Grants>, metrics: Arc<Metrics>) {
    let defined = Arc::new(Defined(Notify::new()));
    let definitions =
        Api::<Lenient<PartialObjectMeta<CustomResourceDefinition>>>::all(client.clone());
    let (done, _) = signal::channel(false);
    let this_one = watcher::Config::default()
        .any_semantic()
        .fields(&format!("metadata.name={DEFINITION}"));
    let definition = follow_leniently(
        definitions,
        this_one,
        defined.clone(),
        done,
        Some(metrics.clone()),
        false,
    );
    let follow = async {
        let (mut told, mut pause) = (false, Duration::MAX);
        loop {
            let (done, read) = signal::channel(false);
            let api = Api::<Lenient<ReferenceGrant>>::all(client.clone());
            let all = watcher::Config::default().any_semantic();
            follow_leniently(api, all, grants.clone(), done, Some(metrics.clone()), true).await;
            if *read.borrow() {
                (told, pause) = (false, Duration::MAX);
            }
            if !told {
                tracing::info!(
                    "there are no ReferenceGrants here (the Gateway API is not installed): nothing is forked from another namespace"
                );
                told = true;
                Receiver::<ReferenceGrant>::all(&*grants, Vec::new());
            }
            // A definition is served a moment after it was made. Without one, and later, only a change of it can mean anything.
            tokio::select! {
                () = defined.0.notified() => pause = PAUSE_FIRST,
                () = tokio::time::sleep(pause), if pause <= PAUSE_LAST => pause *= 2,
            }
        }
    };
    tokio::join!(definition, follow);
}

/// The definition of ReferenceGrants, which comes and goes with the Gateway API.
struct Defined(Notify);

impl Receiver<PartialObjectMeta<CustomResourceDefinition>> for Defined {
    fn all(&self, found: Vec<PartialObjectMeta<CustomResourceDefinition>>) {
        if !found.is_empty() {
            self.0.notify_one();
        }
    }
    fn changed(&self, _: PartialObjectMeta<CustomResourceDefinition>) {
        self.0.notify_one();
    }
    fn gone(&self, _: PartialObjectMeta<CustomResourceDefinition>) {}
}
