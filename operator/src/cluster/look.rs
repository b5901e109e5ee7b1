//! The workers: each takes objects from the queue, decides about one at a time, and writes.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crds::{Kind, Object, ObjectKey, names};
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::events::EventType;
use serde_json::json;
use tokio::time::Instant;

use super::claims::Asked;
use super::controller::{Operator, instant_of};
use super::health::{Beat, panicked};
use super::kinds::status_value;
use super::requests::refuse;
use super::write::{MANAGER_NODE, MANAGER_OPERATOR, WriteError, said_by};
use crate::decide::{Decision, Scene, decide, is_held, node_of};
use crate::request::Request;

impl Operator {
    /// Works until the queue is closed.
    pub(super) async fn work(self: Arc<Self>, beat: Arc<Beat>) {
        while let Some(key) = self.queue.take().await {
            let began = Instant::now();
            beat.begin();
            // What one object makes of us is no other's affair.
            let outcome = AssertUnwindSafe(self.look(&key)).catch_unwind().await;
            let result = match &outcome {
                Ok(Ok(_)) => "ok",
                Ok(Err(error)) => error.category(),
                Err(_) => "panicked",
            };
            self.metrics.looked(key.kind, result, began.elapsed());
            match outcome {
                Ok(Ok(next)) => self
                    .queue
                    .done(&key, next.map(|next| instant_of(next, Timestamp::now()))),
                // The watch brings what it is now.
                Ok(Err(WriteError::Gone)) => self.queue.done(&key, None),
                Ok(Err(error)) => {
                    self.refresh(&key, &error).await;
                    let pause = self.queue.failed(&key);
                    tracing::warn!(object = %key, %error, ?pause, "cannot do what an object asks for; tries again");
                }
                Err(panic) => {
                    let pause = self.queue.failed(&key);
                    tracing::error!(object = %key, panic = panicked(&*panic), ?pause, "a defect of this program; the object is tried again");
                }
            }
            beat.rest();
            self.metrics.stands(self.queue.depth(), self.cache.len());
        }
    }

    /// After a conflict, the object as it is now is worth a read.
    async fn refresh(&self, key: &ObjectKey, error: &WriteError) {
        if matches!(error, WriteError::Conflict) {
            match self.writer.read(key).await {
                Ok(Some(object)) => drop(self.cache.put(object)),
                Ok(None) => drop(self.cache.remove(key)),
                Err(_) => {}
            }
        }
    }

    /// Looks at one object, and does what is to be done. Returns when to look again.
    async fn look(&self, key: &ObjectKey) -> Result<Option<Timestamp>, WriteError> {
        if let Some(metadata) = self.cache.unreadable(key) {
            return self.end_unreadable(key, &metadata).await;
        }
        let object = self.cache.get(key);
        if key.kind == Kind::Fork {
            self.settle(key, object.as_deref()).await?;
        }
        let Some(object) = object else {
            return Ok(None);
        };
        let (decision, next) = self.decide(key, &object);
        let outcome = self.act(&object, decision).await;
        self.placing.lock().remove(key);
        outcome?;
        Ok(next)
    }

    /// Of what cannot be read only one thing is known: that it is to go. It goes when its agent had the time to find that out.
    async fn end_unreadable(
        &self,
        key: &ObjectKey,
        metadata: &ObjectMeta,
    ) -> Result<Option<Timestamp>, WriteError> {
        let Some(since) = &metadata.deletion_timestamp else {
            return Ok(None);
        };
        let end = since
            .0
            .checked_add(self.settings.patience)
            .unwrap_or(Timestamp::MAX);
        if end > Timestamp::now() {
            return Ok(Some(end));
        }
        tracing::warn!(object = %key, "lets an object go that cannot be read");
        self.writer.let_go(key, metadata).await?;
        Ok(None)
    }

    /// Brings the volumes and claims of a fork to what it asks for, and the fork to what a claim asks for.
    async fn settle(&self, key: &ObjectKey, object: Option<&Object>) -> Result<(), WriteError> {
        let fork = match object {
            Some(Object::Fork(fork)) => Some(&**fork),
            _ => None,
        };
        let client = self.writer.client();
        let request = self.requests.get(key);
        if let Some(request) = &request {
            let settled = self
                .requests
                .settle(client, &self.events, request, fork)
                .await;
            self.tell_refusal("a BucketFork", Some(request), None, &settled)
                .await;
            settled?;
        }
        let asked = request.as_ref().and_then(|request| {
            Some(Asked {
                volume: request.volume(fork?)?,
                make: !request.settled,
            })
        });
        let settled = self
            .claims
            .settle(client, &self.events, key, fork, asked)
            .await;
        self.tell_refusal("a volume or claim", request.as_ref(), object, &settled)
            .await;
        settled
    }

    /// Whoever asked learns what the API server refuses, a policy or a quota, though it is tried again.
    async fn tell_refusal(
        &self,
        what: &str,
        request: Option<&Request>,
        object: Option<&Object>,
        outcome: &Result<(), WriteError>,
    ) {
        let Err(WriteError::Refused(why)) = outcome else {
            return;
        };
        let note = format!("the API server refuses {what} for it, and is asked again: {why}");
        if let Some(request) = request {
            refuse(&self.events, request, &note).await;
        } else if let Some(object) = object {
            self.events
                .tell(object, EventType::Warning, "ClaimRefused", "Claim", &note)
                .await;
        }
    }

    fn decide(&self, key: &ObjectKey, object: &Object) -> (Decision, Option<Timestamp>) {
        let now = Timestamp::now();
        let (nodes, _) = self.nodes.standing();
        let peers = self.cache.peers();
        let source_key = crate::source::key_of(object, key);
        let source = source_key.as_ref().and_then(|source| {
            let maker = match source.kind {
                Kind::Fork => peers
                    .maker_of_fork(&source.namespace, &source.name)
                    .map(|(maker, ..)| maker),
                _ => Some(source.clone()),
            };
            self.cache.get(&maker?)
        });
        let said = said_by(object, MANAGER_OPERATOR);
        let granted = match source_key {
            Some(source) => self.grants.allows(&key.namespace, &source),
            None => Some(true),
        };
        let scene = |held| {
            let scene = Scene {
                now,
                nodes: &nodes,
                held,
                source: source.as_deref(),
                granted,
                peers: &peers,
                said: &said,
                patience: self.settings.patience,
            };
            decide(object, &scene)
        };
        if key.kind != Kind::Bucket || node_of(object).is_some() {
            return scene(&BTreeMap::new());
        }
        // Buckets are placed one after another, each knowing of those whose placement is being written.
        let mut placing = self.placing.lock();
        let outcome = scene(&self.held(&placing));
        if let Decision::Place(node) = &outcome.0 {
            placing.insert(key.clone(), node.clone());
        }
        outcome
    }

    async fn act(&self, object: &Object, decision: Decision) -> Result<(), WriteError> {
        match decision {
            Decision::Leave => {}
            Decision::Hold => {
                let answer = self.writer.hold(object).await?;
                tracing::warn!(object = %object.key(), finalizer = names::FINALIZER, "the finalizer was taken off an object that has data; put it on again");
                self.took(answer);
            }
            Decision::Place(node) => {
                if !is_held(object) {
                    self.writer.hold(object).await?;
                }
                let answer = self
                    .writer
                    .status(object, MANAGER_OPERATOR, json!({ "node": node }))
                    .await?;
                tracing::info!(object = %object.key(), node, "placed");
                self.took(answer);
            }
            Decision::Say(said, state) => {
                let mut wanted = status_value(&said);
                if let Some(node) = node_of(object) {
                    wanted["node"] = json!(node);
                }
                if same_status(object, &said) {
                    return Ok(());
                }
                let answer = self.writer.status(object, MANAGER_OPERATOR, wanted).await?;
                self.events.state(object, &state).await;
                self.took(answer);
            }
            Decision::Lost(said, state) => {
                let answer = self
                    .writer
                    .status(object, MANAGER_NODE, status_value(&said))
                    .await?;
                self.events.state(object, &state).await;
                self.took(answer);
            }
            Decision::Release(why) => {
                if let Some(why) = &why {
                    tracing::warn!(object = %object.key(), why, "lets an object go");
                    self.events
                        .tell(object, EventType::Warning, "Released", "Delete", why)
                        .await;
                }
                self.writer.release(object).await?;
            }
        }
        Ok(())
    }

    /// Takes in what the API server answered, so that the next look does not wait for the watch.
    fn took(&self, object: Object) {
        let key = object.key();
        for other in self.cache.put(object).look_at {
            if other == key {
                self.queue.add_in_turn(other);
            } else {
                self.queue.add_changed(other);
            }
        }
    }

    /// How many buckets each node has, with those that are being placed.
    fn held(&self, placing: &BTreeMap<ObjectKey, String>) -> BTreeMap<String, usize> {
        let all = self.cache.all();
        let buckets = all.iter().filter(|object| object.kind() == Kind::Bucket);
        let placed = buckets.filter_map(|object| node_of(object));
        let mut held = BTreeMap::new();
        for node in placed.chain(placing.values().map(String::as_str)) {
            *held.entry(node.to_owned()).or_default() += 1;
        }
        held
    }
}

/// Whether two versions of an object have the same status.
fn same_status(a: &Object, b: &Object) -> bool {
    status_value(a) == status_value(b)
}
