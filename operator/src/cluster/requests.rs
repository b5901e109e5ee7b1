//! Makes the forks that claims ask for by `dataSourceRef` ([`crate::request`] says which).

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{BucketFork, ObjectKey, names};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use parking_lot::Mutex;
use serde_json::json;

use super::claims::create;
use super::events::Events;
use super::watch::Receiver;
use super::write::{MANAGER_OPERATOR, WriteError, answered};
use crate::request::Request;

/// Reason of the event that says why a claim gets no fork.
const REFUSED: &str = "ForkRefused";

/// The claims that ask for forks, by fork.
pub struct Requests {
    all: Mutex<BTreeMap<ObjectKey, Request>>,
    look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>,
}

impl Requests {
    /// None yet. `look_at` is told which forks are asked for in another way than before.
    pub fn new(look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>) -> Arc<Self> {
        Arc::new(Requests {
            all: Mutex::default(),
            look_at,
        })
    }

    /// The claim that asks for a fork.
    pub fn get(&self, fork: &ObjectKey) -> Option<Request> {
        self.all.lock().get(fork).cloned()
    }

    /// Makes the fork that a claim asks for, or brings its quota to the claim's size.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn settle(
        &self,
        client: &Client,
        events: &Events,
        request: &Request,
        fork: Option<&BucketFork>,
    ) -> Result<(), WriteError> {
        match fork {
            Some(fork) if !request.owns(fork) => {
                let note = format!(
                    "there is a BucketFork {} that is not of this claim; delete it, or name the claim differently",
                    fork.metadata.name.as_deref().unwrap_or_default()
                );
                refuse(events, request, &note).await;
                Ok(())
            }
            Some(fork) => resize(client, request, fork).await,
            // What a bound claim had is not made again: it would be another volume with other data.
            None if request.settled => Ok(()),
            None => make(client, events, request).await,
        }
    }

    fn note(&self, claim: &PersistentVolumeClaim) {
        let Some(request) = Request::read(claim) else {
            return;
        };
        let key = request.key();
        let before = self.all.lock().insert(key.clone(), request.clone());
        if before != Some(request) {
            (self.look_at)(key);
        }
    }
}

async fn make(client: &Client, events: &Events, request: &Request) -> Result<(), WriteError> {
    let fork = match request.fork() {
        Ok(fork) => fork,
        Err(why) => {
            refuse(events, request, &why).await;
            return Ok(());
        }
    };
    // The volume of a class of somebody else is made by somebody else.
    if let Some(class) = request.class.as_deref().filter(|class| !class.is_empty()) {
        let classes = Api::<StorageClass>::all(client.clone());
        let found = answered(classes.get_opt(class)).await?;
        if let Some(found) = found.filter(|found| found.provisioner != names::DRIVER) {
            let why = format!(
                "storageClassName: {class} is of {}, and a volume of {} cannot come from it; name a class of {}",
                found.provisioner,
                request.key().kind.as_str(),
                names::DRIVER
            );
            refuse(events, request, &why).await;
            return Ok(());
        }
    }
    let api = Api::<BucketFork>::namespaced(client.clone(), &request.namespace);
    if create(&api, &fork).await? {
        tracing::info!(claim = request.claim, namespace = request.namespace, fork = %request.key(), "made a fork for a claim");
    }
    Ok(())
}

/// A claim that grew has a larger fork; it never shrinks.
async fn resize(client: &Client, request: &Request, fork: &BucketFork) -> Result<(), WriteError> {
    let has = fork.spec.quota.as_ref().and_then(|quota| quota.bytes);
    let (Some(has), Some(asked)) = (has, request.bytes) else {
        return Ok(());
    };
    if asked <= has.0 {
        return Ok(());
    }
    let key = request.key();
    let api = Api::<BucketFork>::namespaced(client.clone(), &key.namespace);
    let body = json!({ "spec": { "quota": { "bytes": asked.to_string() } } });
    let params = PatchParams {
        field_manager: Some(MANAGER_OPERATOR.to_owned()),
        ..PatchParams::default()
    };
    answered(api.patch(&key.name, &params, &Patch::Merge(body)))
        .await
        .map(drop)
}

/// Tells a claim why it gets no fork.
pub(super) async fn refuse(events: &Events, request: &Request, why: &str) {
    events
        .tell_of(
            &request.reference(),
            EventType::Warning,
            REFUSED,
            "Provision",
            why,
        )
        .await;
}

impl Receiver<PersistentVolumeClaim> for Requests {
    fn all(&self, claims: Vec<PersistentVolumeClaim>) {
        let requests = claims.iter().filter_map(Request::read);
        let all = requests.map(|request| (request.key(), request)).collect();
        // In one step: who looks in between must not take a claim for one that asks for nothing any more.
        let mut keys: Vec<_> = {
            let mut there = self.all.lock();
            let before = std::mem::replace(&mut *there, all);
            before.into_keys().chain(there.keys().cloned()).collect()
        };
        keys.sort();
        keys.dedup();
        keys.into_iter().for_each(|key| (self.look_at)(key));
    }
    fn changed(&self, claim: PersistentVolumeClaim) {
        self.note(&claim);
    }
    fn gone(&self, claim: PersistentVolumeClaim) {
        let Some(request) = Request::read(&claim) else {
            return;
        };
        let key = request.key();
        self.all.lock().remove(&key);
        (self.look_at)(key);
    }
}
