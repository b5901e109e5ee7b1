//! Inline ephemeral volumes as BucketFork objects: a fork that a pod's manifest asks for is seen, counted and limited like
//! any other, and goes with its pod whatever becomes of this node.
//!
//! Flow: the object is made, owned by the pod; the operator places it beside its source; this node's agent forks, and
//! says Ready; then the volume is mounted. Everything may be repeated: the object's name follows from the volume's id.

use std::time::Duration;

use crds::conditions::{READY, STALLED};
use crds::lifetime::{Lifetime, Quota};
use crds::quantity::Bytes;
use crds::{BucketFork, ForkSource, ForkSpec, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference};
use kube::api::{Api, DeleteParams, ListParams, Preconditions, PropagationPolicy};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use operator::cluster::write::{WriteError, answered};
use storage_engine::{Engine, TimelineId, TimelineInfo};
use tokio::runtime::Handle;

use crate::csi::{Code, CsiError, EphemeralFork, EphemeralForks, Result, SourceKind};

/// How long a publication waits for its fork before the kubelet has to ask again. The kubelet itself waits two minutes.
const READY_WAIT: Duration = Duration::from_secs(30);
/// Digits of the volume's hash in the name of its object.
const NAME_DIGITS: usize = 10;

/// Forks of inline volumes, as objects.
pub struct InlineForks {
    client: Client,
    engine: Engine,
    node: String,
    runtime: Handle,
}

impl InlineForks {
    /// Forks made through the API server for the volumes of a node. Its calls block, and have to be made outside of the
    /// runtime's own threads.
    pub fn new(client: Client, engine: Engine, node: &str, runtime: Handle) -> Self {
        InlineForks {
            client,
            engine,
            node: node.to_owned(),
            runtime,
        }
    }

    async fn make(&self, fork: &EphemeralFork) -> Result<TimelineInfo> {
        let object = object_for(fork)?;
        let name = object.name_any();
        let api = Api::<BucketFork>::namespaced(self.client.clone(), &fork.pod.namespace);
        match answered(api.create(&Default::default(), &object)).await {
            // It is there since an earlier call, or somebody has taken its name.
            Ok(_) | Err(WriteError::Conflict) => {}
            Err(error) => return Err(refused(&error)),
        }
        let settled = await_condition(api.clone(), &name, |fork: Option<&BucketFork>| {
            fork.is_some_and(|fork| verdict(fork, &self.node).is_some())
        });
        let last = match tokio::time::timeout(READY_WAIT, settled).await {
            Ok(Ok(last)) => last,
            Ok(Err(error)) => {
                return Err(CsiError::new(
                    Code::Unavailable,
                    format!("cannot follow BucketFork {name}: {error}"),
                ));
            }
            Err(_) => answered(api.get_opt(&name))
                .await
                .map_err(|e| refused(&e))?,
        };
        let Some(last) = last else {
            return Err(CsiError::new(
                Code::Unavailable,
                format!("BucketFork {name} was deleted while its volume was made"),
            ));
        };
        if last.labels().get(names::LABEL_INLINE) != object.labels().get(names::LABEL_INLINE) {
            return Err(CsiError::new(
                Code::AlreadyExists,
                format!(
                    "there is a BucketFork {name} in namespace {} that is not of this volume; delete it",
                    fork.pod.namespace
                ),
            ));
        }
        let timeline = verdict(&last, &self.node).unwrap_or_else(|| Err(waiting(&last)))?;
        Ok(self.engine.timeline(timeline)?)
    }

    async fn delete(&self, volume: &str) -> std::result::Result<(), WriteError> {
        let selector = format!("{}={}", names::LABEL_INLINE, hash(volume));
        let all = Api::<BucketFork>::all(self.client.clone());
        let found = answered(all.list(&ListParams::default().labels(&selector))).await?;
        for fork in found {
            // A label is anybody's to write. Without the pod as its owner it is not one of these.
            if !fork
                .owner_references()
                .iter()
                .any(|owner| owner.kind == "Pod")
            {
                continue;
            }
            let api = Api::<BucketFork>::namespaced(
                self.client.clone(),
                &fork.namespace().unwrap_or_default(),
            );
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Background),
                preconditions: Some(Preconditions {
                    uid: fork.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match answered(api.delete(&fork.name_any(), &params)).await {
                Ok(_) | Err(WriteError::Gone | WriteError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl EphemeralForks for InlineForks {
    /// Cost: a write to the API server, and what the operator and the agent need for a fork (tens of milliseconds).
    fn make(&self, fork: &EphemeralFork) -> Result<TimelineInfo> {
        self.runtime.block_on(InlineForks::make(self, fork))
    }

    /// Never fails: a pod has to be able to end without an API server, and its fork is owned by it and goes all the same.
    fn free(&self, volume: &str) -> Result<()> {
        if let Err(error) = self.runtime.block_on(self.delete(volume)) {
            tracing::warn!(volume, %error, "cannot delete the fork of an inline volume now; it goes with its pod");
        }
        Ok(())
    }
}

/// The object of a fork.
fn object_for(fork: &EphemeralFork) -> Result<BucketFork> {
    if fork.pod.name.is_empty() || fork.pod.uid.is_empty() {
        return Err(CsiError::new(
            Code::FailedPrecondition,
            "the name and uid of the pod are missing: is podInfoOnMount set on the CSIDriver?",
        ));
    }
    let name = Some(fork.source.1.clone());
    let mut source = ForkSource::default();
    match fork.source.0 {
        SourceKind::Bucket => source.bucket = name,
        SourceKind::Snapshot => source.snapshot = name,
        SourceKind::Fork => source.fork = name,
    }
    let quota = Quota {
        bytes: fork.quota.bytes.map(Bytes),
        inodes: fork.quota.inodes,
    };
    let spec = ForkSpec {
        source,
        lifetime: Lifetime::no_expiry(),
        quota: (quota != Quota::default()).then_some(quota),
        verified_reads: fork.verified_reads,
        ..ForkSpec::default()
    };
    let mut object = BucketFork::new(&name_for(fork), spec);
    object.metadata.namespace = Some(fork.pod.namespace.clone());
    object
        .labels_mut()
        .insert(names::LABEL_INLINE.to_owned(), hash(&fork.volume));
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: fork.pod.name.clone(),
        uid: fork.pod.uid.clone(),
        ..OwnerReference::default()
    }]);
    Ok(object)
}

fn hash(volume: &str) -> String {
    let hash = blake3::derive_key("anabranch 2026 inline volume", volume.as_bytes());
    hex::encode(hash.get(..16).unwrap_or_default())
}

/// `<pod>-<digits>`: for people to recognise, for us to find again.
fn name_for(fork: &EphemeralFork) -> String {
    let hash = hash(&fork.volume);
    let digits = hash.get(..NAME_DIGITS).unwrap_or(&hash);
    let plain = |c: char| if c == '.' { '-' } else { c };
    let pod: String = fork.pod.name.chars().map(plain).collect();
    let room = names::NAME_MAX - NAME_DIGITS - 1;
    let pod: String = pod.chars().take(room).collect();
    format!("{}-{digits}", pod.trim_end_matches('-'))
}

/// What an object has come to: its timeline, why there will be none, or nothing yet.
fn verdict(fork: &BucketFork, node: &str) -> Option<Result<TimelineId>> {
    let status = fork.status.as_ref()?;
    if let Some(other) = status.node.as_deref().filter(|placed| *placed != node) {
        return Some(Err(CsiError::new(
            Code::FailedPrecondition,
            format!(
                "{} is on node {other}, and this pod is on {node}: its data is on one node; give the pod the nodeSelector {}: {other}",
                fork.spec.source.describe(),
                names::TOPOLOGY_NODE
            ),
        )));
    }
    let is = |kind: &str| {
        let of_now = |condition: &&Condition| {
            condition.type_ == kind
                && condition.status == "True"
                && condition.observed_generation == fork.metadata.generation
        };
        status.conditions.iter().find(of_now)
    };
    if let Some(stalled) = is(STALLED) {
        return Some(Err(CsiError::new(
            Code::FailedPrecondition,
            stalled.message.clone(),
        )));
    }
    is(READY)?;
    let mut id = [0; 16];
    hex::decode_to_slice(status.timeline.as_ref()?, &mut id).ok()?;
    Some(Ok(TimelineId(id)))
}

/// Why a fork is not there yet.
fn waiting(fork: &BucketFork) -> CsiError {
    let conditions = fork.status.as_ref().map(|status| &status.conditions);
    let ready = conditions.and_then(|all| all.iter().find(|one| one.type_ == READY));
    let why = match ready {
        Some(ready) => format!("{}: {}", ready.reason, ready.message),
        None => "the operator has not looked at it; is it running?".to_owned(),
    };
    CsiError::new(
        Code::Unavailable,
        format!("BucketFork {} is not ready: {why}", fork.name_any()),
    )
}

fn refused(error: &WriteError) -> CsiError {
    let code = match error {
        WriteError::Gone => Code::NotFound,
        WriteError::Refused(_) => Code::FailedPrecondition,
        WriteError::Conflict | WriteError::Unavailable(_) => Code::Unavailable,
    };
    CsiError::new(code, format!("cannot make the fork of the volume: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::Pod;

    fn fork(pod: &str) -> EphemeralFork {
        EphemeralFork {
            volume: "csi-0123".into(),
            pod: Pod {
                namespace: "team".into(),
                name: pod.into(),
                uid: "u".into(),
            },
            source: (SourceKind::Snapshot, "v1".into()),
            quota: storage_engine::Quota::default(),
            verified_reads: None,
        }
    }

    #[test]
    fn every_pod_makes_an_object_that_the_rules_take() {
        let long = "a".repeat(253);
        for pod in [
            "agent-0",
            "a.b.c",
            "x",
            long.as_str(),
            "a-----------------------------------------------------b",
        ] {
            let object = object_for(&fork(pod)).unwrap();
            let mut manifest = object.clone();
            manifest.metadata.uid = Some("1".into());
            let errors = crds::Validate::validate(&manifest);
            assert!(errors.is_empty(), "{pod}: {errors:?}");
            assert!(object.name_any().len() <= names::NAME_MAX);
        }
        assert_ne!(
            name_for(&fork("a")),
            name_for(&EphemeralFork {
                volume: "csi-0124".into(),
                ..fork("a")
            })
        );
        assert!(object_for(&fork("")).is_err());
    }
}
