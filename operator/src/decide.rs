//! What the operator does about one object. Pure; the node agent does the rest by [`plan`](crate::plan()).

use std::time::Duration;

use crds::conditions::{Reason, State};
use crds::{Kind, Object, ObjectKey, names};
use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::observed::Observed;
use crate::peers::Peers;
use crate::placement::{Nodes, Standing, choose};
use crate::plan::{Options, World, plan, say};

/// What the decision looks at.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The time.
    pub now: Timestamp,
    /// The nodes with an agent.
    pub nodes: &'a Nodes,
    /// How many buckets each node has.
    pub held: &'a BTreeMap<String, usize>,
    /// The object that this one is made from, when there is one: for a fork of a set, the set.
    pub source: Option<&'a Object>,
    /// Whether the namespace of the source lets it be forked from here; none while that is not known yet.
    pub granted: Option<bool>,
    /// All objects.
    pub peers: &'a Peers,
    /// The status fields that the operator has said of the object before.
    pub said: &'a [String],
    /// How long the deletion of an object waits for a node that does not answer.
    pub patience: Duration,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing: it is as it should be, or the agent's turn.
    Leave,
    /// Put the finalizer on it again: it has data, and somebody took the finalizer off.
    Hold,
    /// Put it on this node, and say nothing else of it any more.
    Place(String),
    /// It is on no node that works on it: say the status of this object.
    Say(Box<Object>, State),
    /// The node is gone: say that in the agent's stead.
    Lost(Box<Object>, State),
    /// Take the finalizer off: nobody is left who could clean up. With the reason, when data may have been left behind.
    Release(Option<String>),
}

/// Decides, and says when to decide again although nothing changed.
pub fn decide(object: &Object, scene: &Scene<'_>) -> (Decision, Option<Timestamp>) {
    let metadata = object.metadata();
    let node = node_of(object);
    if let Some(since) = &metadata.deletion_timestamp {
        if !is_held(object) {
            return (Decision::Leave, None);
        }
        return delete(node, since.0, scene);
    }
    let Some(node) = node else {
        return place(object, scene);
    };
    // After an uninstall, or a hand that was too quick. What comes next is decided when it is held.
    if !is_held(object) {
        return (Decision::Hold, None);
    }
    match scene.nodes.get(node) {
        Some(Standing::Alive { .. }) if scene.said != ["node"] => {
            (Decision::Place(node.to_owned()), None)
        }
        Some(Standing::Alive { .. }) => (Decision::Leave, None),
        Some(Standing::Silent) if !spoken_of(object, scene.said) => {
            let message = format!("waits for the node {node}, whose agent does not answer");
            (
                speak(
                    object,
                    State::Reconciling(Reason::WaitingForNode, message),
                    scene,
                ),
                None,
            )
        }
        Some(Standing::Silent | Standing::Unsure) => (Decision::Leave, None),
        None => (lost(object, node, scene), None),
    }
}

/// Whether an object has our finalizer.
pub fn is_held(object: &Object) -> bool {
    let finalizers = &object.metadata().finalizers;
    finalizers
        .iter()
        .flatten()
        .any(|name| name == names::FINALIZER)
}

/// Whether somebody has said what becomes of the object as it is now.
fn spoken_of(object: &Object, said: &[String]) -> bool {
    observed_generation(object) == object.metadata().generation
        && (said.iter().any(|field| field == "conditions") || !conditions(object).is_empty())
}

fn delete(
    node: Option<&str>,
    since: Timestamp,
    scene: &Scene<'_>,
) -> (Decision, Option<Timestamp>) {
    let Some(node) = node else {
        return (Decision::Release(None), None);
    };
    match scene.nodes.get(node) {
        Some(Standing::Alive { .. } | Standing::Unsure) => (Decision::Leave, None),
        Some(Standing::Silent) => {
            let end = since.checked_add(scene.patience).unwrap_or(Timestamp::MAX);
            if end > scene.now {
                return (Decision::Leave, Some(end));
            }
            let why = format!(
                "the agent of the node {node} has not answered for long; when it comes back, it frees the data by itself"
            );
            (Decision::Release(Some(why)), None)
        }
        None => (
            Decision::Release(Some(format!(
                "the node {node} is gone, and the data with it"
            ))),
            None,
        ),
    }
}

fn place(object: &Object, scene: &Scene<'_>) -> (Decision, Option<Timestamp>) {
    if scene.granted.is_none() {
        return (Decision::Leave, None);
    }
    let observed = Observed::default();
    let options = Options::default();
    let world = World {
        now: scene.now,
        observed: &observed,
        peers: scene.peers,
        options: &options,
    };
    let plan = plan(object, &world);
    let settled = match &plan.state {
        State::Expired(..) => true,
        State::Stalled(reason, _) => *reason == Reason::Invalid,
        _ => false,
    };
    let key = object.key();
    let outcome = if settled {
        Err(plan.state.clone())
    } else {
        match object {
            Object::Bucket(bucket) => {
                let uid = bucket.metadata.uid.as_deref().unwrap_or_default();
                choose(bucket.spec.node.as_deref(), scene.nodes, scene.held, uid)
                    .map_err(|message| State::Reconciling(Reason::WaitingForNode, message))
            }
            _ => beside(object, &key, scene).unwrap_or(Err(plan.state.clone())),
        }
    };
    match outcome {
        Ok(node) => (Decision::Place(node), None),
        Err(state) => (speak(&plan.object, state, scene), plan.next),
    }
}

/// The node of what an object is made from. None when the plan says better what is missing.
fn beside(object: &Object, key: &ObjectKey, scene: &Scene<'_>) -> Option<Result<String, State>> {
    let source_key = crate::source::key_of(object, key)?;
    if scene.granted == Some(false) {
        let message = format!(
            "{source_key} may not be forked from the namespace {}; a ReferenceGrant in {} has to allow it, from BucketFork of this namespace to {}",
            key.namespace, source_key.namespace, source_key.kind
        );
        return Some(Err(State::Stalled(Reason::NotGranted, message)));
    }
    let source = scene.source?;
    let peer = scene.peers.get(&source.key())?;
    if peer.deleting || peer.expired {
        return None;
    }
    // An index that a set does not have, or a set where one fork is meant: the plan says it.
    if source_key.kind == Kind::Fork {
        let (maker, index, peer) = scene
            .peers
            .maker_of_fork(&source_key.namespace, &source_key.name)?;
        if maker != source.key()
            || index.is_some_and(|index| peer.count.is_some_and(|count| index >= count))
        {
            return None;
        }
    }
    let node = node_of(source)?;
    Some(if scene.nodes.contains_key(node) {
        Ok(node.to_owned())
    } else {
        let message = format!(
            "{} was on the node {node}, which is gone; make this object from another source",
            source.key()
        );
        Err(State::Stalled(Reason::NodeLost, message))
    })
}

fn speak(object: &Object, state: State, scene: &Scene<'_>) -> Decision {
    let mut said = object.clone();
    say(&mut said, &state, scene.now);
    Decision::Say(Box::new(said), state)
}

fn lost(object: &Object, node: &str, scene: &Scene<'_>) -> Decision {
    let said = conditions(object);
    let expired = said
        .iter()
        .any(|condition| condition.type_ == crds::conditions::EXPIRED);
    let told = said
        .iter()
        .any(|condition| condition.reason == Reason::NodeLost.as_str());
    // Of the object as it was edited since, too, or whoever waits for that waits for ever.
    let of_this = observed_generation(object) == object.metadata().generation;
    if expired || told && of_this {
        return Decision::Leave;
    }
    let message = format!(
        "the node {node} is gone, and the data that was on it; delete the object and make it again to start anew"
    );
    let state = State::Stalled(Reason::NodeLost, message);
    let mut said = object.clone();
    say(&mut said, &state, scene.now);
    Decision::Lost(Box::new(said), state)
}

/// The node that was chosen for an object.
pub fn node_of(object: &Object) -> Option<&str> {
    match object {
        Object::Bucket(object) => object.status.as_ref()?.node.as_deref(),
        Object::Snapshot(object) => object.status.as_ref()?.node.as_deref(),
        Object::Fork(object) => object.status.as_ref()?.node.as_deref(),
    }
}

/// The generation that the status of an object speaks of.
pub fn observed_generation(object: &Object) -> Option<i64> {
    match object {
        Object::Bucket(object) => object.status.as_ref()?.observed_generation,
        Object::Snapshot(object) => object.status.as_ref()?.observed_generation,
        Object::Fork(object) => object.status.as_ref()?.observed_generation,
    }
}

/// The conditions of an object.
pub fn conditions(object: &Object) -> &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition] {
    match object {
        Object::Bucket(object) => object.status.as_ref().map(|status| &status.conditions),
        Object::Snapshot(object) => object.status.as_ref().map(|status| &status.conditions),
        Object::Fork(object) => object.status.as_ref().map(|status| &status.conditions),
    }
    .map_or(&[], Vec::as_slice)
}
