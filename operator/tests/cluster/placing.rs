//! Where data is made, what is said of what is nowhere yet, and how everything ends.

use std::time::Duration;

use crds::{Bucket, BucketFork, Kind};
use e2e::cluster::Parts;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::support::{Fixture, Running, fixture, key};

#[tokio::test(flavor = "multi_thread")]
async fn data_is_made_beside_what_it_is_made_from_and_ends_with_its_node() {
    let Some(f) = fixture("placing", Parts::default()).await else {
        return;
    };
    let operator = Running::with_patience(&f.cluster, "one", Duration::from_secs(1));
    f.namespace("team").await;
    let (base, snapshot, fork) = (
        key(Kind::Bucket, "team", "base"),
        key(Kind::Snapshot, "team", "v1"),
        key(Kind::Fork, "team", "agent"),
    );

    // A fork before its source, and a bucket before any node: each says what it waits for, and kstatus reads it as in progress.
    f.ours(
        "BucketFork",
        "team",
        "agent",
        json!({"source": {"snapshot": "v1"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    f.ours("Bucket", "team", "base", json!({})).await;
    let waiting = f
        .reason(&key(Kind::Bucket, "team", "base"), "WaitingForNode")
        .await;
    assert_eq!(kstatus(&waiting), "InProgress");
    let waiting = f.reason(&fork, "WaitingForSource").await;
    assert!(
        operator::decide::conditions(&waiting)[0]
            .message
            .contains("v1"),
        "{waiting:?}"
    );

    f.node("one").await;
    let beating = f.beating("one");
    assert_eq!(f.placed(&base).await, "one");
    f.made(&base).await;
    f.ours(
        "BucketSnapshot",
        "team",
        "v1",
        json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    assert_eq!(f.placed(&snapshot).await, "one");
    // As soon as it is on a node, the operator says only where; the agent has the word.
    let placed = f
        .eventually("the fork is placed", async |f: &Fixture| {
            f.read(&fork)
                .await
                .filter(|o| operator::decide::node_of(o).is_some())
        })
        .await;
    assert_eq!(operator::decide::conditions(&placed), []);
    assert_eq!(kstatus(&placed), "InProgress");
    assert_eq!(
        placed.metadata().finalizers.as_deref(),
        Some(&["anabranch.dev/data".to_owned()][..])
    );
    f.made(&fork).await;
    assert_eq!(kstatus(&f.read(&fork).await.unwrap()), "Current");

    // The second bucket goes where there are fewer.
    f.node("two").await;
    let second = f.beating("two");
    f.ours("Bucket", "team", "other", json!({})).await;
    assert_eq!(f.placed(&key(Kind::Bucket, "team", "other")).await, "two");
    f.ours("Bucket", "team", "named", json!({"node": "one"}))
        .await;
    assert_eq!(f.placed(&key(Kind::Bucket, "team", "named")).await, "one");

    // A node that does not answer holds the deletion of its objects up only for a while.
    drop(second);
    f.eventually("two is silent", async |f: &Fixture| {
        f.ours("Bucket", "team", "late", json!({"node": "two"}))
            .await;
        let late = f.read(&key(Kind::Bucket, "team", "late")).await?;
        operator::decide::conditions(&late)
            .iter()
            .any(|c| c.message.contains("does not answer"))
            .then_some(())
    })
    .await;
    f.delete(&key(Kind::Bucket, "team", "other")).await.unwrap();
    f.gone(&key(Kind::Bucket, "team", "other")).await;

    // A node that is gone took its data along: said on what stands, and what is deleted ends.
    drop(beating);
    Api::<Node>::all(f.client.clone())
        .delete("one", &DeleteParams::default())
        .await
        .unwrap();
    let lost = f.reason(&fork, "NodeLost").await;
    assert_eq!(kstatus(&lost), "Failed");
    for key in [&fork, &snapshot, &base] {
        f.delete(key).await.unwrap();
        f.gone(key).await;
    }
    let events: Api<Event> = Api::namespaced(f.client.clone(), "team");
    f.eventually("the loss is told", async |_: &Fixture| {
        let events = events.list(&ListParams::default()).await.unwrap();
        events
            .items
            .iter()
            .any(|event| event.reason.as_deref() == Some("NodeLost"))
            .then_some(())
    })
    .await;
    operator.stop().await;
}

fn kstatus(object: &crds::Object) -> &'static str {
    let metadata = object.metadata();
    crds::conditions::kstatus(
        metadata.generation,
        operator::decide::observed_generation(object),
        metadata.deletion_timestamp.is_some(),
        operator::decide::conditions(object),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn another_namespace_is_forked_only_with_its_consent() {
    let Some(f) = fixture("grants", Parts::default()).await else {
        return;
    };
    f.apply_yaml(include_str!("referencegrants.yaml")).await;
    let operator = Running::start(&f.cluster, "one");
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("data").await;
    f.namespace("team").await;
    let base = key(Kind::Bucket, "data", "base");
    f.ours("Bucket", "data", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    let fork = key(Kind::Fork, "team", "agent");
    f.ours(
        "BucketFork",
        "team",
        "agent",
        json!({"source": {"bucket": "base", "namespace": "data"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    let refused = f.reason(&fork, "NotGranted").await;
    assert_eq!(operator::decide::node_of(&refused), None);
    let message = &operator::decide::conditions(&refused)[0].message;
    assert!(message.contains("ReferenceGrant"), "{message}");
    f.apply(json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"namespace": "data", "name": "forks"},
        "spec": {
            "from": [{"group": "anabranch.dev", "kind": "BucketFork", "namespace": "team"}],
            "to": [{"group": "anabranch.dev", "kind": "Bucket", "name": "base"}],
        },
    }))
    .await
    .unwrap();
    assert_eq!(f.placed(&fork).await, "one");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_protected_is_not_deleted_and_does_not_keep_its_namespace() {
    let Some(f) = fixture("admission", Parts { controllers: true }).await else {
        return;
    };
    let operator = Running::start(&f.cluster, "one");
    f.node("one").await;
    let beating = f.beating("one");
    f.namespace("team").await;
    let (base, fork) = (
        key(Kind::Bucket, "team", "base"),
        key(Kind::Fork, "team", "agent"),
    );
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    let spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}, "protected": true, "claim": {}});
    f.ours("BucketFork", "team", "agent", spec).await;
    f.placed(&fork).await;
    f.made(&fork).await;
    // The claim is there, and bound by the cluster's own controller.
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(f.client.clone(), "team");
    f.eventually("the claim is bound", async |_: &Fixture| {
        let claim = claims.get_opt("agent").await.unwrap()?;
        (claim.status?.phase? == "Bound").then_some(())
    })
    .await;
    let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
    assert_eq!(
        volumes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );

    // A policy takes a moment to be read by the API server.
    f.eventually("deletion is refused", async |f: &Fixture| {
        let dry = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        let refused = f
            .api::<BucketFork>("team")
            .delete("agent", &dry)
            .await
            .err()?
            .to_string();
        assert!(refused.contains("set spec.protected to false"), "{refused}");
        Some(())
    })
    .await;
    f.delete(&fork).await.unwrap_err();
    // Immutable fields are refused with what to do.
    let change = json!({"spec": {"node": "two"}});
    let refused = f
        .api::<Bucket>("team")
        .patch("base", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("make another Bucket"),
        "{refused}"
    );

    // With the namespace everything goes, also without an agent: its node is gone.
    drop(beating);
    Api::<Node>::all(f.client.clone())
        .delete("one", &DeleteParams::default())
        .await
        .unwrap();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(f.client.clone());
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    f.eventually("the namespace is gone", async |_: &Fixture| {
        namespaces
            .get_opt("team")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    f.eventually("the volume is gone", async |_: &Fixture| {
        volumes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
            .then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_leaves_nothing_stuck() {
    let Some(f) = fixture("uninstall", Parts::default()).await else {
        return;
    };
    let operator = Running::start(&f.cluster, "one");
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    operator.stop().await;
    let writer = operator::cluster::write::Writer::new(f.client.clone());
    assert_eq!(
        operator::cluster::uninstall::release_all(&writer)
            .await
            .unwrap(),
        1
    );
    f.delete(&base).await.unwrap();
    f.gone(&base).await;
}
