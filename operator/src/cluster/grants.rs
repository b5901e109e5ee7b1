//! The ReferenceGrants of the cluster. Where the Gateway API is not installed there are none.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::ObjectKey;
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::watch::Receiver;
use crate::grants::{Grant, allows};

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
    /// Called when a grant changes: what was refused may be allowed now.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Grants {
    /// None yet.
    pub fn new(changed: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        Arc::new(Grants {
            grants: RwLock::default(),
            changed,
        })
    }

    /// Whether a fork of this namespace may be made from a source.
    pub fn allows(&self, namespace: &str, source: &ObjectKey) -> bool {
        namespace == source.namespace || allows(self.grants.read().values(), namespace, source)
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
        (self.changed)();
    }
    fn changed(&self, grant: ReferenceGrant) {
        self.grants.write().insert(key(&grant), read(grant));
        (self.changed)();
    }
    fn gone(&self, grant: ReferenceGrant) {
        // What was forked stays.
        self.grants.write().remove(&key(&grant));
    }
}
