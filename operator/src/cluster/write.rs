//! Writes to the API server: server-side apply of the fields that are ours, and of nothing else.

use std::time::Duration;

use crds::{Kind, Object, ObjectKey, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::kinds::{parse, resource};

/// Field manager of the operator: placement, finalizers, and the status of what is not on a node yet.
pub const MANAGER_OPERATOR: &str = "anabranch-operator";
/// Field manager of the node agents: everything else in a status.
pub const MANAGER_NODE: &str = "anabranch-node";

/// Longest wait for an answer of the API server: a connection may be dead without anybody having said so.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Waits for an answer, and not for ever.
///
/// # Errors
/// Those of the request, and [`WriteError::Unavailable`] without an answer.
pub async fn answered<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WriteError> {
    let answer = tokio::time::timeout(ANSWER_WAIT, request).await;
    super::health::goes_on();
    match answer {
        Ok(answer) => answer.map_err(WriteError::from),
        Err(_) => Err(WriteError::Unavailable(format!(
            "no answer within {} s",
            ANSWER_WAIT.as_secs()
        ))),
    }
}

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is gone, or one of the same name was made since: there is nothing to write any more.
    #[error("the object is gone")]
    Gone,
    /// Somebody else changed it at the same moment; look again.
    #[error("it was changed at the same moment")]
    Conflict,
    /// The API server refuses: a permission is missing, or the object is not valid.
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// The API server cannot be reached, or is busy; later.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
}

impl WriteError {
    /// The category, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            WriteError::Gone => "gone",
            WriteError::Conflict => "conflict",
            WriteError::Refused(_) => "refused",
            WriteError::Unavailable(_) => "unavailable",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
                (404, _) => WriteError::Gone,
                // An apply to an object of another uid, and one whose version has passed.
                (409, _) => WriteError::Conflict,
                (429 | 500..=599, _) => WriteError::Unavailable(status.message.clone()),
                _ => WriteError::Refused(status.message.clone()),
            },
            _ => WriteError::Unavailable(error.to_string()),
        }
    }
}

/// Writes objects of ours.
#[derive(Clone)]
pub struct Writer {
    client: Client,
}

impl Writer {
    /// A writer with the rights of a client.
    pub fn new(client: Client) -> Self {
        Writer { client }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource(key.kind))
    }

    /// Applies the status fields that a manager says, all of them: what it said before and does not say now is removed.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::Conflict`] also when the object of this name is another one now.
    pub async fn status(
        &self,
        object: &Object,
        manager: &str,
        status: Value,
    ) -> Result<Object, WriteError> {
        let key = object.key();
        let body = body(&key, object, json!({ "status": status }));
        let params = PatchParams::apply(manager).force();
        let (api, patch) = (self.api(&key), Patch::Apply(body));
        let answer = answered(api.patch_status(&key.name, &params, &patch)).await?;
        read(key.kind, answer)
    }

    /// Puts the finalizer on an object.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn hold(&self, object: &Object) -> Result<Object, WriteError> {
        let key = object.key();
        let mut body = body(&key, object, json!({}));
        body["metadata"]["finalizers"] = json!([names::FINALIZER]);
        let params = PatchParams::apply(MANAGER_OPERATOR).force();
        let (api, patch) = (self.api(&key), Patch::Apply(body));
        let answer = answered(api.patch(&key.name, &params, &patch)).await?;
        read(key.kind, answer)
    }

    /// Takes the finalizer off an object; done when it is not there.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn release(&self, object: &Object) -> Result<(), WriteError> {
        self.let_go(&object.key(), object.metadata()).await
    }

    /// The same, of an object of which only the metadata is known.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn let_go(&self, key: &ObjectKey, metadata: &ObjectMeta) -> Result<(), WriteError> {
        let left: Vec<_> = metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|name| *name != names::FINALIZER)
            .collect();
        if left.len() == metadata.finalizers.iter().flatten().count() {
            return Ok(());
        }
        // The version makes it certain that nobody put another finalizer on it since.
        let body = json!({ "metadata": {
            "finalizers": left,
            "resourceVersion": metadata.resource_version,
            "uid": metadata.uid,
        }});
        let (api, params, patch) = (self.api(key), PatchParams::default(), Patch::Merge(body));
        match answered(api.patch(&key.name, &params, &patch)).await {
            Ok(_) | Err(WriteError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// An object as it is now; none when it is gone.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn read(&self, key: &ObjectKey) -> Result<Option<Object>, WriteError> {
        match answered(self.api(key).get_opt(&key.name)).await? {
            Some(object) => Ok(Some(read(key.kind, object)?)),
            None => Ok(None),
        }
    }
}

/// What every apply has: which object, and that no other of the same name is meant.
fn body(key: &ObjectKey, object: &Object, mut fields: Value) -> Value {
    fields["apiVersion"] = json!(names::API_VERSION);
    fields["kind"] = json!(key.kind.as_str());
    fields["metadata"] = json!({ "name": key.name, "namespace": key.namespace });
    if let Some(uid) = &object.metadata().uid {
        fields["metadata"]["uid"] = json!(uid);
    }
    fields
}

fn read(kind: Kind, answer: DynamicObject) -> Result<Object, WriteError> {
    let name = answer.name_any();
    parse(kind, answer)
        .map_err(|error| WriteError::Refused(format!("{kind} {name} cannot be read: {error}")))
}

/// The names of the status fields that a manager has said of an object: from the record that the API server keeps of it.
pub fn said_by(object: &Object, manager: &str) -> Vec<String> {
    let entries = object.metadata().managed_fields.iter().flatten();
    let ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(manager) && entry.subresource.as_deref() == Some("status")
    });
    ours.filter_map(|entry| entry.fields_v1.as_ref())
        .filter_map(|fields| fields.0.get("f:status")?.as_object())
        .flat_map(|status| {
            status
                .keys()
                .filter_map(|field| field.strip_prefix("f:"))
                .map(str::to_owned)
        })
        .collect()
}
