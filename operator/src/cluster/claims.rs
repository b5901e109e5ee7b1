//! Makes and removes the volumes and claims of forks ([`crate::claim`] says which).

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{BucketFork, Kind, Object, ObjectKey, names};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;

use super::events::Events;
use super::watch::Receiver;
use super::write::{WriteError, answered};
use crate::claim::pairs;

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Volume {
    uid: String,
    /// Whether its claim is gone: it can be bound to no other.
    released: bool,
}

/// The volume for a claim that asked for its fork.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The volume.
    pub volume: PersistentVolume,
    /// Whether it is made where it is missing. Otherwise it is only kept.
    pub make: bool,
}

/// The volumes and claims of ours that are there, by fork.
pub struct Claims {
    volumes: Mutex<BTreeMap<ObjectKey, BTreeMap<String, Volume>>>,
    /// Claims by their name, with their uid.
    claims: Mutex<BTreeMap<ObjectKey, BTreeMap<String, String>>>,
    look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>,
}

impl Claims {
    /// None yet. `look_at` is told which forks' volumes or claims changed.
    pub fn new(look_at: Arc<dyn Fn(ObjectKey) + Send + Sync>) -> Arc<Self> {
        Arc::new(Claims {
            volumes: Mutex::default(),
            claims: Mutex::default(),
            look_at,
        })
    }

    /// Brings what is there for a fork to what it asks for; without the object, to nothing. `asked` is the volume for a claim
    /// that asked for the fork.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn settle(
        &self,
        client: &Client,
        events: &Events,
        key: &ObjectKey,
        fork: Option<&BucketFork>,
        asked: Option<Asked>,
    ) -> Result<(), WriteError> {
        let wanted = fork.map(pairs).unwrap_or_default();
        let asked = asked.map(|asked| (asked.volume.name_any(), asked));
        let volumes = self.volumes.lock().get(key).cloned().unwrap_or_default();
        let claims = self.claims.lock().get(key).cloned().unwrap_or_default();
        if wanted.is_empty() && asked.is_none() && volumes.is_empty() && claims.is_empty() {
            return Ok(());
        }
        let volume_api = Api::<PersistentVolume>::all(client.clone());
        let claim_api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &key.namespace);
        let named: BTreeMap<_, _> = wanted
            .values()
            .map(|pair| (pair.claim.name_any(), pair))
            .collect();
        for (name, uid) in claims.iter().filter(|(name, _)| !named.contains_key(*name)) {
            delete(&claim_api, name, uid).await?;
        }
        for (name, volume) in volumes.iter().filter(|(name, volume)| {
            let asked = asked.as_ref().is_some_and(|(asked, _)| asked == *name);
            volume.released || !(asked || wanted.contains_key(*name))
        }) {
            delete(&volume_api, name, &volume.uid).await?;
        }
        if let Some((name, asked)) = &asked
            && asked.make
            && !volumes.contains_key(name)
        {
            create(&volume_api, &asked.volume).await?;
        }
        for (name, pair) in &wanted {
            if !volumes.contains_key(name) {
                create(&volume_api, &pair.volume).await?;
            }
            let claim = pair.claim.name_any();
            if claims.contains_key(&claim) || create(&claim_api, &pair.claim).await? {
                continue;
            }
            let there = answered(claim_api.get_opt(&claim)).await?;
            let ours = there.is_some_and(|there| {
                there.labels().get(names::LABEL_OWNER)
                    == pair.claim.labels().get(names::LABEL_OWNER)
            });
            if let (false, Some(fork)) = (ours, fork) {
                let note = format!(
                    "there is a PersistentVolumeClaim {claim} that is not of this fork; rename or delete it, or the fork"
                );
                let object = Object::Fork(Box::new(fork.clone()));
                events
                    .tell(
                        &object,
                        EventType::Warning,
                        "ClaimNameTaken",
                        "Claim",
                        &note,
                    )
                    .await;
            }
        }
        Ok(())
    }
}

/// Makes an object; false when there is one of its name.
pub(super) async fn create<K>(api: &Api<K>, object: &K) -> Result<bool, WriteError>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    match answered(api.create(&PostParams::default(), object)).await {
        Ok(_) => Ok(true),
        Err(WriteError::Conflict) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an object, and no other of its name.
async fn delete<K>(api: &Api<K>, name: &str, uid: &str) -> Result<(), WriteError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match answered(api.delete(name, &params)).await {
        Ok(_) | Err(WriteError::Gone | WriteError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The fork that something of ours was made for.
fn owner(object: &impl ResourceExt) -> Option<ObjectKey> {
    let labels = object.labels();
    labels.get(names::LABEL_OWNER)?;
    Some(ObjectKey::new(
        Kind::Fork,
        labels.get(names::LABEL_NAMESPACE)?,
        labels.get(names::LABEL_NAME)?,
    ))
}

/// A selector of what is ours.
pub const SELECTOR: &str = names::LABEL_OWNER;

impl Receiver<PersistentVolume> for Claims {
    fn all(&self, volumes: Vec<PersistentVolume>) {
        let before: Vec<_> = std::mem::take(&mut *self.volumes.lock())
            .into_keys()
            .collect();
        volumes
            .into_iter()
            .for_each(|volume| Receiver::<PersistentVolume>::changed(self, volume));
        before.into_iter().for_each(|key| (self.look_at)(key));
    }
    fn changed(&self, volume: PersistentVolume) {
        let Some(key) = owner(&volume) else { return };
        let released = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            == Some("Released");
        let there = Volume {
            uid: volume.uid().unwrap_or_default(),
            released,
        };
        let before = self
            .volumes
            .lock()
            .entry(key.clone())
            .or_default()
            .insert(volume.name_any(), there.clone());
        // What else changes of a volume is not ours.
        if before != Some(there) {
            (self.look_at)(key);
        }
    }
    fn gone(&self, volume: PersistentVolume) {
        let Some(key) = owner(&volume) else { return };
        forget(&mut self.volumes.lock(), &key, &volume.name_any());
        (self.look_at)(key);
    }
}

impl Receiver<PersistentVolumeClaim> for Claims {
    fn all(&self, claims: Vec<PersistentVolumeClaim>) {
        let before: Vec<_> = std::mem::take(&mut *self.claims.lock())
            .into_keys()
            .collect();
        claims
            .into_iter()
            .for_each(|claim| Receiver::<PersistentVolumeClaim>::changed(self, claim));
        before.into_iter().for_each(|key| (self.look_at)(key));
    }
    fn changed(&self, claim: PersistentVolumeClaim) {
        // Labels are anybody's to write; in another namespace they mean nothing.
        let Some(key) =
            owner(&claim).filter(|key| claim.namespace().as_ref() == Some(&key.namespace))
        else {
            return;
        };
        let uid = claim.uid().unwrap_or_default();
        let before = self
            .claims
            .lock()
            .entry(key.clone())
            .or_default()
            .insert(claim.name_any(), uid.clone());
        if before != Some(uid) {
            (self.look_at)(key);
        }
    }
    fn gone(&self, claim: PersistentVolumeClaim) {
        let Some(key) = owner(&claim) else { return };
        forget(&mut self.claims.lock(), &key, &claim.name_any());
        (self.look_at)(key);
    }
}

fn forget<T>(there: &mut BTreeMap<ObjectKey, BTreeMap<String, T>>, key: &ObjectKey, name: &str) {
    if let Some(of_fork) = there.get_mut(key) {
        of_fork.remove(name);
        if of_fork.is_empty() {
            there.remove(key);
        }
    }
}
