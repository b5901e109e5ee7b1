//! What has data is held, until an uninstall lets it go; and nodes are judged by what is heard of them.

use std::time::{Duration, Instant};

use crds::{Bucket, Kind};
use e2e::cluster::Parts;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams, Patch, PatchParams};
use operator::cluster::leader::Candidate;
use operator::cluster::uninstall::uninstall;
use serde_json::json;

use crate::support::{Fixture, LEASE, Running, SYSTEM, UNINSTALL, fixture, key};

async fn run_uninstall(f: &Fixture, patience: Duration) -> usize {
    // With the rights of its account, as in the chart.
    let client = f.cluster.client(UNINSTALL).unwrap();
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), SYSTEM),
        name: "anabranch-operator".into(),
        identity: "uninstall".into(),
        lasts: LEASE,
    };
    uninstall(client, SYSTEM, &candidate, patience)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_data_is_held_again_and_an_uninstall_ends_whoever_works() {
    let Some(f) = fixture("holding", Parts::default()).await else {
        return;
    };
    f.node("one").await;
    let beating = f.beating("one");
    f.namespace("team").await;
    let first = Running::start(&f.cluster, "first");
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    f.strip(&base).await;
    f.held(&base).await;

    // An uninstall while an operator works that does not stop by being asked, and while objects are made.
    let operators = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": SYSTEM, "name": "anabranch-operator"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "operator"}},
            "template": {"metadata": {"labels": {"app": "operator"}}, "spec": {"containers": [{"name": "operator", "image": "none"}]}}}});
    f.apply(operators).await.unwrap();
    for bucket in 0..100 {
        f.ours("Bucket", "team", &format!("b{bucket}"), json!({}))
            .await;
    }
    let began = Instant::now();
    let making = async {
        for bucket in 100..150 {
            f.ours("Bucket", "team", &format!("b{bucket}"), json!({}))
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (released, ()) = tokio::join!(run_uninstall(&f, Duration::from_secs(1)), making);
    println!(
        "holding: an uninstall let {released} objects go in {:?}, against an operator at work",
        began.elapsed()
    );
    assert!(released > 0);
    f.eventually("the operator has ended", async |_: &Fixture| {
        first.has_ended().then_some(())
    })
    .await;
    let deployments: Api<Deployment> = Api::namespaced(f.client.clone(), SYSTEM);
    let spec = deployments
        .get("anabranch-operator")
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(spec.replicas, Some(0));
    let held = async |f: &Fixture| {
        let all = f.api::<Bucket>("team").list(&ListParams::default()).await;
        let held = |bucket: &Bucket| bucket.metadata.finalizers.is_some();
        all.unwrap().items.iter().filter(|b| held(b)).count()
    };
    assert_eq!(held(&f).await, 0);
    // Done again, there is nothing to do.
    assert_eq!(run_uninstall(&f, Duration::from_secs(1)).await, 0);

    // After a new installation everything that has data is held again.
    let second = Running::start(&f.cluster, "second");
    f.eventually("all are held", async |f: &Fixture| {
        (held(f).await == 151).then_some(())
    })
    .await;

    // The clock of a node is its own affair: it is an hour behind here, and renews for longer than a lease lasts.
    drop(beating);
    f.node("behind").await;
    let leases: Api<Lease> = Api::namespaced(f.client.clone(), SYSTEM);
    let renewing = tokio::spawn(async move {
        loop {
            let now = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
            let renewed = json!({"spec": {"renewTime": format!("{now:.6}")}});
            let _ = leases
                .patch("behind", &PatchParams::default(), &Patch::Merge(renewed))
                .await;
            tokio::time::sleep(LEASE / 3).await;
        }
    });
    tokio::time::sleep(LEASE * 2).await;
    f.ours("Bucket", "team", "late", json!({"node": "behind"}))
        .await;
    let late = key(Kind::Bucket, "team", "late");
    assert_eq!(f.placed(&late).await, "behind");
    renewing.abort();
    second.stop().await;
}
