//! What claims ask for by `dataSourceRef`, and what is made for them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crds::{BucketFork, Validate, names};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use operator::request::Request;
use serde_json::{Value, json};

fn claim(spec: Value) -> PersistentVolumeClaim {
    serde_json::from_value(json!({
        "metadata": {"name": "data-agent-0", "namespace": "team", "uid": "0f6b1c9e-1111-2222-3333-444455556666"},
        "spec": spec,
    }))
    .unwrap()
}

fn of(kind: &str) -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "anabranch",
        "resources": {"requests": {"storage": "2Gi"}},
        "dataSourceRef": {"apiGroup": "anabranch.dev", "kind": kind, "name": "v1"},
    })
}

fn forked(request: &Request) -> BucketFork {
    let mut fork = request.fork().unwrap();
    fork.metadata.uid = Some("fork-uid".into());
    fork.status = serde_json::from_value(json!({
        "node": "n1", "timeline": "ab".repeat(16), "count": 1, "readyCount": 1,
    }))
    .unwrap();
    fork
}

#[test]
fn each_of_our_kinds_is_forked_and_nothing_else() {
    for kind in names::KINDS {
        let request = Request::read(&claim(of(kind))).unwrap();
        let fork = request.fork().unwrap();
        assert!(fork.validate().is_empty(), "{:?}", fork.validate());
        let source = &fork.spec.source;
        let named = [&source.bucket, &source.snapshot, &source.fork];
        assert_eq!(
            named.iter().filter(|name| name.is_some()).count(),
            1,
            "{kind}"
        );
        assert_eq!(fork.spec.quota.unwrap().bytes.unwrap().0, 2 << 30);
        assert_eq!(fork.spec.read_only, None);
    }
    let strange = Request::read(&claim(of("Pail"))).unwrap();
    assert!(strange.fork().unwrap_err().contains("BucketSnapshot"));
    let mut block = of("Bucket");
    block["volumeMode"] = json!("Block");
    assert!(Request::read(&claim(block)).unwrap().fork().is_err());
    let mut foreign = of("VolumeSnapshot");
    foreign["dataSourceRef"]["apiGroup"] = json!("snapshot.storage.k8s.io");
    assert_eq!(Request::read(&claim(foreign)), None);
    assert_eq!(
        Request::read(&claim(json!({"accessModes": ["ReadWriteOnce"]}))),
        None
    );
}

#[test]
fn the_volume_is_bound_to_this_claim_on_the_node_of_its_fork() {
    let request = Request::read(&claim(of("BucketSnapshot"))).unwrap();
    assert_eq!(
        request.volume(&request.fork().unwrap()),
        None,
        "nothing before there is a fork"
    );
    let fork = forked(&request);
    let spec = request.volume(&fork).unwrap().spec.unwrap();
    assert_eq!(
        spec.claim_ref.unwrap().uid.as_deref(),
        Some(request.uid.as_str())
    );
    assert_eq!(spec.storage_class_name.as_deref(), Some("anabranch"));
    assert_eq!(
        spec.csi.unwrap().volume_handle,
        format!("vol-{}", "ab".repeat(16))
    );
    assert_eq!(
        spec.persistent_volume_reclaim_policy.as_deref(),
        Some("Retain")
    );
    let mut other = fork.clone();
    other.metadata.labels = None;
    assert_eq!(
        request.volume(&other),
        None,
        "a fork of somebody else is not given away"
    );
    let mut ending = fork;
    ending.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    assert_eq!(request.volume(&ending), None);
}

#[test]
fn a_claim_that_only_reads_has_a_fork_that_only_reads_and_a_claim_made_again_has_another() {
    let mut reads = of("BucketSnapshot");
    reads["accessModes"] = json!(["ReadOnlyMany"]);
    let request = Request::read(&claim(reads)).unwrap();
    assert_eq!(request.fork().unwrap().spec.read_only, Some(true));
    let mut again = claim(of("BucketSnapshot"));
    again.metadata.uid = Some("ffff1c9e-1111-2222-3333-444455556666".into());
    assert_ne!(Request::read(&again).unwrap().key(), request.key());
    let mut long = claim(of("Bucket"));
    long.metadata.name = Some("a.".repeat(120) + "a");
    let fork = Request::read(&long).unwrap().fork().unwrap();
    assert!(fork.validate().is_empty(), "{:?}", fork.validate());
    let mut bound = of("Bucket");
    bound["volumeName"] = json!("pv");
    assert!(Request::read(&claim(bound)).unwrap().settled);
}
