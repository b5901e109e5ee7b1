//! What the operator decides, by table: no clock, no API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crds::conditions::kstatus;
use crds::{Object, names};
use jiff::Timestamp;
use operator::Peers;
use operator::decide::{Decision, Scene, conditions, decide, observed_generation};
use operator::placement::{Nodes, Standing};
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;

fn object(kind: &str, name: &str, spec: Value, metadata: Value, status: Value) -> Object {
    let mut value = json!({"apiVersion": names::API_VERSION, "kind": kind, "spec": spec, "status": status,
        "metadata": {"name": name, "namespace": "team", "uid": format!("uid-of-{name}"), "generation": 1}});
    value["metadata"]
        .as_object_mut()
        .unwrap()
        .extend(metadata.as_object().unwrap().clone());
    match kind {
        names::KIND_BUCKET => Object::Bucket(serde_json::from_value(value).unwrap()),
        names::KIND_SNAPSHOT => Object::Snapshot(serde_json::from_value(value).unwrap()),
        _ => Object::Fork(serde_json::from_value(value).unwrap()),
    }
}

fn bucket(metadata: Value, status: Value) -> Object {
    object("Bucket", "base", json!({}), metadata, status)
}

fn fork(source: Value, metadata: Value, status: Value) -> Object {
    let spec = json!({"source": source, "lifetime": {"noExpiry": true}});
    object("BucketFork", "agent", spec, metadata, status)
}

fn nodes() -> Nodes {
    Nodes::from([
        ("alive".into(), Standing::Alive { takes: true }),
        ("silent".into(), Standing::Silent),
        ("unsure".into(), Standing::Unsure),
    ])
}

struct Case<'a> {
    object: Object,
    others: Vec<&'a Object>,
    granted: Option<bool>,
    said: &'a [&'a str],
}

impl<'a> Case<'a> {
    fn of(object: Object) -> Self {
        Case {
            object,
            others: Vec::new(),
            granted: Some(true),
            said: &[],
        }
    }

    fn decide(&self) -> (Decision, Option<Timestamp>) {
        let peers = Peers::of(self.others.iter().copied().chain([&self.object]));
        let said: Vec<String> = self.said.iter().map(|field| (*field).to_owned()).collect();
        decide(
            &self.object,
            &Scene {
                now: Timestamp::from_second(NOW).unwrap(),
                nodes: &nodes(),
                held: &BTreeMap::new(),
                source: self.others.first().copied(),
                granted: self.granted,
                peers: &peers,
                said: &said,
                patience: Duration::from_secs(600),
            },
        )
    }

    /// The reason and kstatus of what is said.
    fn said(&self) -> (String, &'static str) {
        match self.decide().0 {
            Decision::Say(object, state) | Decision::Lost(object, state) => {
                assert_eq!(observed_generation(&object), Some(1));
                (
                    state.reason().to_string(),
                    kstatus(
                        Some(1),
                        observed_generation(&object),
                        false,
                        conditions(&object),
                    ),
                )
            }
            other => panic!("{other:?}"),
        }
    }
}

fn ready() -> Value {
    let condition = json!({"type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({"observedGeneration": 1, "conditions": [condition]})
}

fn on(node: &str, mut status: Value) -> Value {
    status["node"] = json!(node);
    status
}

fn held() -> Value {
    json!({"finalizers": [names::FINALIZER]})
}

fn deleted(seconds_ago: i64) -> Value {
    let since = Timestamp::from_second(NOW - seconds_ago)
        .unwrap()
        .to_string();
    json!({"deletionTimestamp": since, "finalizers": [names::FINALIZER]})
}

#[test]
fn a_bucket_goes_to_a_node_that_takes_it() {
    let case = Case::of(bucket(json!({}), json!({})));
    assert_eq!(case.decide().0, Decision::Place("alive".into()));
    let named = object(
        "Bucket",
        "base",
        json!({"node": "silent"}),
        json!({}),
        json!({}),
    );
    assert_eq!(
        Case::of(named).said(),
        ("WaitingForNode".into(), "InProgress")
    );
}

#[test]
fn a_fork_goes_where_its_source_is_and_says_otherwise_what_is_missing() {
    let of_base = || fork(json!({"bucket": "base"}), json!({}), json!({}));
    let placed = bucket(json!({}), on("alive", ready()));
    let with = |source| Case {
        others: vec![source],
        ..Case::of(of_base())
    };
    assert_eq!(with(&placed).decide().0, Decision::Place("alive".into()));
    // A node that is silent has the data, and is waited for there.
    let silent = bucket(json!({}), on("silent", ready()));
    assert_eq!(with(&silent).decide().0, Decision::Place("silent".into()));
    assert_eq!(
        Case::of(of_base()).said(),
        ("WaitingForSource".into(), "InProgress")
    );
    let unplaced = bucket(json!({}), json!({}));
    assert_eq!(
        with(&unplaced).said(),
        ("WaitingForSource".into(), "InProgress")
    );
    let lost = bucket(json!({}), on("gone", ready()));
    assert_eq!(with(&lost).said(), ("NodeLost".into(), "Failed"));
    let going = bucket(deleted(1), on("alive", ready()));
    assert_eq!(
        with(&going).said(),
        ("WaitingForSource".into(), "InProgress")
    );
    let refused = Case {
        granted: Some(false),
        ..with(&placed)
    };
    assert_eq!(refused.said(), ("NotGranted".into(), "Failed"));
    // Before the grants were read nothing is said: a refusal that is taken back a moment later is a false alarm.
    let unknown = Case {
        granted: None,
        ..with(&placed)
    };
    assert_eq!(unknown.decide(), (Decision::Leave, None));
}

#[test]
fn what_has_data_is_held_again_whoever_let_it_go() {
    let foreign = json!({"finalizers": ["other.dev/x"]});
    for node in ["alive", "silent", "unsure", "gone"] {
        for metadata in [json!({}), foreign.clone()] {
            for said in [&["node"][..], &["conditions", "node"], &[]] {
                let case = Case {
                    said,
                    ..Case::of(bucket(metadata.clone(), on(node, ready())))
                };
                assert_eq!(case.decide(), (Decision::Hold, None), "{node} {said:?}");
            }
        }
    }
    // What is held, or on its way out, is not.
    let kept = Case {
        said: &["node"],
        ..Case::of(bucket(held(), on("alive", ready())))
    };
    assert_eq!(kept.decide().0, Decision::Leave);
    let going = bucket(
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other.dev/x"]}),
        on("alive", ready()),
    );
    assert_eq!(Case::of(going).decide().0, Decision::Leave);
}

#[test]
fn nothing_is_decided_by_a_node_that_was_not_heard_yet() {
    let standing = Case {
        said: &["conditions", "node"],
        ..Case::of(bucket(held(), on("unsure", json!({}))))
    };
    assert_eq!(standing.decide(), (Decision::Leave, None));
    let going = Case::of(bucket(deleted(100_000), on("unsure", ready())));
    assert_eq!(going.decide(), (Decision::Leave, None));
}

#[test]
fn forks_of_a_set_are_found_by_their_index() {
    let set = |count: u32| {
        let spec =
            json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}, "count": count});
        object("BucketFork", "set", spec, json!({}), on("alive", ready()))
    };
    let of = |source: &str| fork(json!({"fork": source}), json!({}), json!({}));
    let (three, one) = (set(3), set(1));
    assert_eq!(
        Case {
            others: vec![&three],
            ..Case::of(of("set-2"))
        }
        .decide()
        .0,
        Decision::Place("alive".into())
    );
    assert_eq!(
        Case {
            others: vec![&one],
            ..Case::of(of("set-2"))
        }
        .said(),
        ("WaitingForSource".into(), "InProgress")
    );
    assert_eq!(
        Case {
            others: vec![&three],
            ..Case::of(of("set"))
        }
        .said(),
        ("SourceUnavailable".into(), "Failed")
    );
}

#[test]
fn what_is_on_a_node_is_its_agents_affair_until_the_node_is_gone() {
    let at = |node: &str, status: Value| Case {
        said: &["node"],
        ..Case::of(bucket(held(), on(node, status)))
    };
    assert_eq!(at("alive", ready()).decide().0, Decision::Leave);
    assert_eq!(at("alive", json!({})).decide().0, Decision::Leave);
    // What the operator said while the node was silent goes when it answers again.
    let spoke = Case {
        said: &["conditions", "node"],
        ..at("alive", json!({}))
    };
    assert_eq!(spoke.decide().0, Decision::Place("alive".into()));
    assert_eq!(at("silent", ready()).decide().0, Decision::Leave);
    assert_eq!(
        at("silent", json!({})).said(),
        ("WaitingForNode".into(), "InProgress")
    );
    let lost = at("gone", ready());
    assert_eq!(lost.said(), ("NodeLost".into(), "Failed"));
    let Decision::Lost(object, _) = lost.decide().0 else {
        panic!()
    };
    // Said once.
    assert_eq!(
        Case {
            said: &["node"],
            ..Case::of(*object)
        }
        .decide()
        .0,
        Decision::Leave
    );
}

#[test]
fn deletion_ends_whatever_became_of_the_node() {
    let gone = |node: Option<&str>, ago: i64| {
        let status = node.map_or(json!({}), |node| on(node, ready()));
        Case::of(bucket(deleted(ago), status)).decide()
    };
    assert_eq!(gone(None, 0).0, Decision::Release(None));
    assert_eq!(gone(Some("alive"), 100_000).0, Decision::Leave);
    let (decision, next) = gone(Some("silent"), 599);
    assert_eq!(
        (decision, next),
        (Decision::Leave, Timestamp::from_second(NOW + 1).ok())
    );
    assert!(
        matches!(gone(Some("silent"), 600).0, Decision::Release(Some(why)) if why.contains("when it comes back"))
    );
    assert!(
        matches!(gone(Some("gone"), 0).0, Decision::Release(Some(why)) if why.contains("the data with it"))
    );
    // What somebody else holds is not ours to let go.
    let foreign = bucket(
        json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["other.dev/x"]}),
        json!({}),
    );
    assert_eq!(Case::of(foreign).decide().0, Decision::Leave);
}

#[test]
fn an_expiry_is_told_of_what_was_never_made() {
    let spec =
        json!({"source": {"bucket": "base"}, "lifetime": {"expireTime": "1970-01-01T00:00:00Z"}});
    let late = Case::of(object("BucketFork", "agent", spec, json!({}), json!({})));
    assert_eq!(late.said(), ("ExpireTimePassed".into(), "Current"));
}
