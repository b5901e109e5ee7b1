//! Grants of other namespaces come and go, and so does their kind.

use std::time::Duration;

use crds::Kind;
use e2e::cluster::Parts;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind};
use kube::client::Body;
use kube::{Client, Error};
use serde_json::json;

use crate::support::{Fixture, LEASE, OPERATOR, Running, fixture, key};

#[tokio::test(flavor = "multi_thread")]
async fn grants_are_noticed_when_their_kind_comes_later_and_bind_only_what_is_new() {
    let Some(f) = fixture("consent", Parts::default()).await else {
        return;
    };
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("data").await;
    f.namespace("team").await;
    let base = key(Kind::Bucket, "data", "base");
    f.ours("Bucket", "data", "base", json!({})).await;
    let fork = async |name: &str| {
        let spec = json!({"source": {"bucket": "base", "namespace": "data"}, "lifetime": {"noExpiry": true}});
        f.ours("BucketFork", "team", name, spec).await;
        key(Kind::Fork, "team", name)
    };
    // Without the kind there are no grants, which is an answer, too.
    let first = Running::start(&f.cluster, "first");
    f.placed(&base).await;
    f.made(&base).await;
    let early = fork("early").await;
    f.reason(&early, "NotGranted").await;
    // The Gateway API is installed later.
    f.apply_yaml(include_str!("referencegrants.yaml")).await;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"namespace": "data", "name": "forks"},
        "spec": {
            "from": [{"group": "anabranch.dev", "kind": "BucketFork", "namespace": "team"}],
            "to": [{"group": "anabranch.dev", "kind": "Bucket", "name": "base"}],
        },
    });
    f.eventually("the grant is taken", async |f: &Fixture| {
        f.apply(grant.clone()).await.ok().map(drop)
    })
    .await;
    f.placed(&early).await;
    f.made(&early).await;
    first.stop().await;

    // An operator that begins refuses nothing before it has read the grants.
    let waiting: Vec<_> = names("waiting", 20);
    for name in &waiting {
        fork(name).await;
    }
    let slow = slow_grants(f.cluster.client(OPERATOR).unwrap());
    let second = Running::with_client(slow, "second", Duration::from_secs(600), LEASE);
    for name in &waiting {
        f.placed(&key(Kind::Fork, "team", name)).await;
        assert_eq!(f.told("team", name).await, Vec::<String>::new());
    }

    // A grant that goes takes nothing from what was forked, and refuses what comes.
    let before = f.read(&early).await.unwrap();
    let group = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1beta1", "ReferenceGrant");
    let grants: Api<DynamicObject> =
        Api::namespaced_with(f.client.clone(), "data", &ApiResource::from_gvk(&group));
    grants
        .delete("forks", &DeleteParams::default())
        .await
        .unwrap();
    f.eventually("what is new is refused", async |f: &Fixture| {
        // The grant may be remembered for a moment.
        let name = format!("late-{}", jiff::Timestamp::now().as_millisecond());
        let late = fork(&name).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let late = f.read(&late).await?;
        let refused = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            c.reason == "NotGranted"
        };
        operator::decide::conditions(&late)
            .iter()
            .any(refused)
            .then_some(())
    })
    .await;
    let after = f.read(&early).await.unwrap();
    assert_eq!(
        operator::cluster::kinds::status_value(&after),
        operator::cluster::kinds::status_value(&before)
    );
    assert_eq!(operator::decide::node_of(&after), Some("one"));
    // Also by an operator that has never seen the grant.
    second.stop().await;
    let third = Running::start(&f.cluster, "third");
    let late = fork("latest").await;
    f.reason(&late, "NotGranted").await;
    let after = f.read(&early).await.unwrap();
    assert_eq!(
        operator::cluster::kinds::status_value(&after),
        operator::cluster::kinds::status_value(&before)
    );
    third.stop().await;
}

/// A client to which the grants come late.
fn slow_grants(client: Client) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        async move {
            if request.uri().path().ends_with("/referencegrants") {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            client.send(request).await.map_err(Box::<Error>::from)
        }
    });
    Client::new(service, "default")
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|index| format!("{prefix}-{index}"))
        .collect()
}
