//! Attributes of a volume that change after it was made (`VolumeAttributesClass`): the resizer asks the central driver, and
//! only the volume's node can do it. The PersistentVolume carries the question to the node and the answer back.
//!
//! Flow: the central driver writes what is asked into an annotation, and the node's name into a label; that node's driver,
//! which follows the volumes so labelled, does it and writes what came of it beside it. Both may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::names;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use operator::cluster::watch::{Receiver, follow as watch};
use operator::cluster::write::{WriteError, answered};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, watch as signal};

use crate::csi::{Code, CsiError, Driver, Result, VolumeId, check_mutable};

/// Label of a volume with the node that is asked.
const LABEL_NODE: &str = "csi.anabranch.dev/attributes-of";
/// Annotation with the attributes that are asked for, in JSON.
const ASKED: &str = "csi.anabranch.dev/attributes";
/// Annotation with what came of it.
const DONE: &str = "csi.anabranch.dev/attributes-done";

/// How long the central driver waits for the node before the resizer has to ask again.
const NODE_WAIT: Duration = Duration::from_secs(20);
/// Between two tries to do what is asked, or to write an answer.
const PAUSE: Duration = Duration::from_secs(5);

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Done {
    /// What was asked, word for word.
    asked: String,
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    refused: Option<String>,
}

impl Done {
    fn of(volume: &PersistentVolume) -> Option<Done> {
        serde_json::from_str(volume.annotations().get(DONE)?).ok()
    }
}

/// Has the node of a volume change its attributes. Cost: a list of the cluster's volumes, and the node's answer.
///
/// # Errors
/// `InvalidArgument` naming the attribute or with the node's refusal, `NotFound`, `FailedPrecondition` for a volume whose
/// attributes stand in an object of ours, `Unavailable` when the node does not answer.
pub async fn ask(
    client: &Client,
    volume: &str,
    attributes: &BTreeMap<String, String>,
) -> Result<()> {
    check_mutable(attributes)?;
    let missing =
        || CsiError::not_found(format!("there is no PersistentVolume of volume {volume:?}"));
    VolumeId::parse(volume).ok_or_else(missing)?;
    let api = Api::<PersistentVolume>::all(client.clone());
    let all = answered(api.list(&ListParams::default()))
        .await
        .map_err(|e| unavailable(&e))?;
    let found = all.into_iter().find(|found| {
        let csi = found.spec.as_ref().and_then(|spec| spec.csi.as_ref());
        csi.is_some_and(|csi| csi.driver == names::DRIVER && csi.volume_handle == volume)
    });
    let found = found.ok_or_else(missing)?;
    let name = found.name_any();
    if let Some(fork) = found.labels().get(names::LABEL_NAME) {
        let namespace = found.labels().get(names::LABEL_NAMESPACE);
        return Err(CsiError::new(
            Code::FailedPrecondition,
            format!(
                "volume {name} is of BucketFork {fork} in namespace {}: change its spec.quota",
                namespace.map_or("default", String::as_str)
            ),
        ));
    }
    let node = node_of(&found).ok_or_else(|| {
        CsiError::new(
            Code::FailedPrecondition,
            format!("volume {name} names no node in {}", names::TOPOLOGY_NODE),
        )
    })?;
    let asked = json!(attributes).to_string();
    let mut annotations = json!({ASKED: asked});
    // A refusal is of its time: who asks the same again is answered anew.
    if Done::of(&found).is_some_and(|done| done.asked == asked && done.refused.is_some()) {
        annotations[DONE] = json!(null);
    }
    let body = json!({"metadata": {
        "labels": {LABEL_NODE: node},
        "annotations": annotations,
    }});
    answered(api.patch(&name, &PatchParams::default(), &Patch::Merge(body)))
        .await
        .map_err(|e| unavailable(&e))?;
    let answer = |found: Option<&PersistentVolume>| {
        found
            .and_then(Done::of)
            .is_some_and(|done| done.asked == asked)
    };
    let settled = await_condition(api, &name, answer);
    match tokio::time::timeout(NODE_WAIT, settled).await {
        Ok(Ok(found)) => match found.as_ref().and_then(Done::of) {
            Some(Done { refused: None, .. }) => Ok(()),
            Some(Done {
                refused: Some(why), ..
            }) => Err(CsiError::invalid(why)),
            None => Err(missing()),
        },
        Ok(Err(error)) => Err(CsiError::new(
            Code::Unavailable,
            format!("cannot follow volume {name}: {error}"),
        )),
        Err(_) => Err(CsiError::new(
            Code::Unavailable,
            format!(
                "the driver of node {node} does not answer; it changes volume {name} when it is back"
            ),
        )),
    }
}

/// Does what is asked of the volumes of a node, until the runtime ends.
pub fn follow(client: Client, driver: Driver) {
    let (found, mut volumes) = mpsc::unbounded_channel();
    let selector = format!("{LABEL_NODE}={}", driver.node());
    let config = watcher::Config::default().any_semantic().labels(&selector);
    let (read, _) = signal::channel(false);
    let api = Api::<PersistentVolume>::all(client.clone());
    let receiver = Arc::new(Volumes(found.clone()));
    tokio::spawn(watch(api.clone(), config, receiver, read));
    tokio::spawn(async move {
        while let Some(volume) = volumes.recv().await {
            if let Err(error) = answer(&client, &driver, &volume).await {
                let name = volume.name_any();
                tracing::warn!(volume = name, %error, "a change of attributes is tried again");
                // Beside the others, and then as the volume is by then.
                tokio::spawn(again(api.clone(), name, found.clone()));
            }
        }
    });
}

/// Has a volume looked at once more, after a while.
async fn again(
    api: Api<PersistentVolume>,
    name: String,
    found: mpsc::UnboundedSender<PersistentVolume>,
) {
    loop {
        tokio::time::sleep(PAUSE).await;
        match answered(api.get_opt(&name)).await {
            Ok(Some(volume)) => {
                let _ = found.send(volume);
                return;
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(volume = name, %error, "cannot read a volume"),
        }
    }
}

/// Whether a try of the same could end otherwise.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Aborted
            | Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Internal
    )
}

/// Changes one volume as it asks to be, and says so. What can pass is no answer: it is tried again.
async fn answer(
    client: &Client,
    driver: &Driver,
    volume: &PersistentVolume,
) -> std::result::Result<(), WriteError> {
    let Some(asked) = volume.annotations().get(ASKED) else {
        return Ok(());
    };
    if Done::of(volume).is_some_and(|done| done.asked == *asked) {
        return Ok(());
    }
    let id = volume
        .spec
        .as_ref()
        .and_then(|spec| Some(spec.csi.as_ref()?.volume_handle.clone()))
        .unwrap_or_default();
    let (driver, text) = (driver.clone(), asked.clone());
    let change = move || {
        let attributes = serde_json::from_str(&text)
            .map_err(|error| CsiError::invalid(format!("{ASKED}: {error}")))?;
        driver.modify(&id, &attributes)
    };
    let outcome = match tokio::task::spawn_blocking(change).await {
        Ok(outcome) => outcome,
        Err(error) => Err(CsiError::new(Code::Internal, error.to_string())),
    };
    let refused = match outcome {
        Ok(_) => None,
        Err(error) if passes(error.code) => return Err(WriteError::Unavailable(error.message)),
        Err(error) => Some(error.message),
    };
    let done = Done {
        asked: asked.clone(),
        refused,
    };
    tracing::info!(
        volume = volume.name_any(),
        ?done,
        "was asked for other attributes"
    );
    let body = json!({"metadata": {"annotations": {DONE: json!(done).to_string()}}});
    let api = Api::<PersistentVolume>::all(client.clone());
    let (name, params, patch) = (
        volume.name_any(),
        PatchParams::default(),
        Patch::Merge(body),
    );
    match answered(api.patch(&name, &params, &patch)).await {
        Ok(_) | Err(WriteError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The node that a volume is bound to.
fn node_of(volume: &PersistentVolume) -> Option<String> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required.as_ref()?.node_selector_terms;
    let mut all = terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let named = all.find(|wanted| wanted.key == names::TOPOLOGY_NODE)?;
    named.values.as_ref()?.first().cloned()
}

fn unavailable(error: &WriteError) -> CsiError {
    CsiError::new(
        Code::Unavailable,
        format!("cannot ask for other attributes: {error}"),
    )
}

/// Hands the volumes on to whoever works on them.
struct Volumes(mpsc::UnboundedSender<PersistentVolume>);

impl Receiver<PersistentVolume> for Volumes {
    fn all(&self, volumes: Vec<PersistentVolume>) {
        volumes.into_iter().for_each(|volume| self.changed(volume));
    }
    fn changed(&self, volume: PersistentVolume) {
        let _ = self.0.send(volume);
    }
    fn gone(&self, _: PersistentVolume) {}
}
