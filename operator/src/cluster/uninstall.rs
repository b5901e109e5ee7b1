//! The end of an installation: no object stays that only this operator could let go.

use std::time::Duration;

use crds::{Bucket, BucketFork, BucketSnapshot, ObjectKey, names};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::kinds::Ours;
use super::leader::Candidate;
use super::write::{WriteError, Writer, answered};

/// The operator's Deployment.
const DEPLOYMENT: &str = "anabranch-operator";
/// How long a single object is tried that a node changes at the same moment.
const ATTEMPTS: usize = 10;
/// Pause between two rounds over all objects.
const PAUSE: Duration = Duration::from_millis(500);

/// How an uninstall ends otherwise than well.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// Some objects could not be let go in time, or somebody put the finalizer on them again.
    #[error(
        "{left} objects that could be read still have the finalizer of Anabranch; the last failure: {why}"
    )]
    Left {
        /// How many.
        left: usize,
        /// What was wrong with the last of them.
        why: String,
    },
    /// Another process took the lease while this one was at work.
    #[error("another operator took the lease meanwhile; end it and try again")]
    Ousted,
}

/// Ends the operator and takes the finalizer off every object. Returns off how many. What is on the nodes stays there.
///
/// The operator's Deployment is scaled to nothing, and its lease taken, so that no operator acts: neither one that is not of
/// the Deployment, nor one that is started anew meanwhile. Whoever does not give the lease up within `patience` loses it.
///
/// # Errors
/// See [`UninstallError`]. What was released before stays released; it can be done again.
pub async fn uninstall(
    client: Client,
    namespace: &str,
    candidate: &Candidate,
    patience: Duration,
) -> Result<usize, UninstallError> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let scale = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
    match answered(deployments.patch_scale(DEPLOYMENT, &PatchParams::default(), &scale)).await {
        Ok(_) => tracing::info!("ended the operator's Deployment"),
        Err(WriteError::Gone) => {}
        Err(failure) => {
            tracing::warn!(%failure, "cannot end the operator's Deployment; its lease keeps it from acting");
        }
    }
    let writer = Writer::new(client);
    if !take(candidate, patience).await {
        return release_all(&writer).await;
    }
    let outcome = tokio::select! {
        outcome = release_all(&writer) => outcome,
        () = candidate.keep() => Err(UninstallError::Ousted),
    };
    candidate.resign().await;
    outcome
}

/// Takes the lease. False where there can be none: nobody can lead there.
async fn take(candidate: &Candidate, patience: Duration) -> bool {
    let (until, mut seen) = (Instant::now() + patience, None);
    loop {
        match tokio::time::timeout(candidate.lasts, candidate.attempt(&mut seen)).await {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => {}
            // The namespace is gone, or on its way.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
                tracing::info!(why = status.message, "there is no leader lease to take");
                return false;
            }
            Ok(Err(failure)) => tracing::warn!(%failure, "cannot read or take the leader lease"),
            Err(_) => tracing::warn!("no answer about the leader lease"),
        }
        if Instant::now() >= until {
            tracing::warn!("an operator goes on; takes its lease from it");
            match candidate.seize().await {
                Ok(()) => return true,
                Err(failure) => tracing::warn!(%failure, "cannot take the leader lease"),
            }
        }
        tokio::time::sleep(candidate.pause()).await;
    }
}

/// Takes the finalizer off every object of the three kinds, until a look at all of them finds none that has it. Returns off how
/// many. The caller ends it when it takes too long: with an operator at work it does not end.
///
/// # Errors
/// When nothing of what is left can be released, ten times in a row.
pub async fn release_all(writer: &Writer) -> Result<usize, UninstallError> {
    let (mut released, mut in_vain) = (0, 0);
    loop {
        let mut round = Round::default();
        round.release::<BucketFork>(writer).await;
        round.release::<BucketSnapshot>(writer).await;
        round.release::<Bucket>(writer).await;
        released += round.released;
        if round.released > 0 {
            in_vain = 0;
        } else if let Some(why) = round.why {
            in_vain += 1;
            if in_vain >= ATTEMPTS {
                let left = round.left;
                return Err(UninstallError::Left { left, why });
            }
        } else {
            return Ok(released);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One look at all objects.
#[derive(Default)]
struct Round {
    released: usize,
    left: usize,
    why: Option<String>,
}

impl Round {
    async fn release<K: Ours>(&mut self, writer: &Writer) {
        // The metadata alone: an object that somebody filled with nonsense is let go, too.
        let api = Api::<PartialObjectMeta<K>>::all(writer.client().clone());
        let objects = match answered(api.list(&ListParams::default())).await {
            Ok(objects) => objects,
            // The definition of the kind was removed already.
            Err(WriteError::Gone) => return,
            Err(failure) => {
                self.why = Some(failure.to_string());
                return;
            }
        };
        for object in objects {
            let held = object.finalizers().iter().any(|f| f == names::FINALIZER);
            if !held {
                continue;
            }
            match let_go::<K>(writer, object.metadata).await {
                Ok(()) => self.released += 1,
                Err(failure) => {
                    self.left += 1;
                    self.why = Some(failure.to_string());
                }
            }
        }
    }
}

/// Takes the finalizer off one object.
async fn let_go<K: Ours>(writer: &Writer, mut metadata: ObjectMeta) -> Result<(), WriteError> {
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let key = ObjectKey::new(K::KIND, &namespace, &name);
    let api = Api::<PartialObjectMeta<K>>::namespaced(writer.client().clone(), &namespace);
    let mut last = WriteError::Conflict;
    for _ in 0..ATTEMPTS {
        match writer.let_go(&key, &metadata).await {
            // A node may be writing at the same moment.
            Err(WriteError::Conflict) => match answered(api.get_opt(&name)).await? {
                Some(now) => metadata = now.metadata,
                None => return Ok(()),
            },
            Err(failure) => last = failure,
            Ok(()) => return Ok(()),
        }
    }
    Err(last)
}
