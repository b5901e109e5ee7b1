//! Watches that break: nothing that happened meanwhile is lost, and nothing is done twice.

use std::time::{Duration, Instant};

use crds::{BucketFork, Kind};
use e2e::cluster::Parts;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, ListParams};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::proxy::Proxy;
use crate::support::{Fixture, OPERATOR, Running, fixture, key};

/// Long enough that the operator outlives what is done to its API server.
const LEASE: Duration = Duration::from_secs(120);

/// Has etcd forget every version but the newest.
async fn compact(f: &Fixture) {
    let ask = async |path: &str, body: String| {
        let mut etcd = tokio::net::TcpStream::connect(("127.0.0.1", f.cluster.etcd_port()))
            .await
            .unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        etcd.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        etcd.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer
    };
    // A read says which version is the newest.
    let answer = ask("/v3/kv/range", json!({"key": "AA=="}).to_string()).await;
    let revision: String = answer
        .split_once("\"revision\":\"")
        .unwrap()
        .1
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let body = json!({"revision": revision, "physical": true});
    ask("/v3/kv/compaction", body.to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_is_begun_anew_and_misses_nothing() {
    let Some(f) = fixture("watching", Parts::default()).await else {
        return;
    };
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let line = Proxy::start(&f.cluster, OPERATOR).await;
    let patience = Duration::from_secs(600);
    let operator = Running::with_client(line.client().await, "one", patience, LEASE);
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    let fork = async |name: &str| {
        let spec =
            json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}, "claim": {}});
        f.ours("BucketFork", "team", name, spec).await;
        key(Kind::Fork, "team", name)
    };
    for name in ["stays", "goes", "changes"] {
        let fork = fork(name).await;
        f.placed(&fork).await;
        f.made(&fork).await;
    }
    let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(f.client.clone(), "team");
    // What is only protected from going yet is gone for us: nobody runs here who would let it go.
    let there = async || {
        let volumes = volumes.list(&ListParams::default()).await.unwrap().items;
        let volumes = volumes.iter().map(|volume| &volume.metadata);
        let claims = claims.list(&ListParams::default()).await.unwrap().items;
        let claims = claims.into_iter().map(|claim| claim.metadata);
        let mut names: Vec<_> = claims
            .filter(|metadata| metadata.deletion_timestamp.is_none())
            .filter_map(|metadata| metadata.name)
            .collect();
        names.sort();
        let left = volumes.filter(|metadata| metadata.deletion_timestamp.is_none());
        (left.count(), names)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    f.eventually("all have claims", async |_: &Fixture| {
        (there().await == (3, names(&["changes", "goes", "stays"]))).then_some(())
    })
    .await;
    let uids = async || {
        let mut uids = std::collections::BTreeMap::new();
        for claim in claims.list(&ListParams::default()).await.unwrap() {
            uids.insert(claim.metadata.name.unwrap(), claim.metadata.uid.unwrap());
        }
        uids
    };
    let before = uids().await;
    let restarts = |kind: &str| operator.metrics.watch_restarts(kind);
    assert_eq!(restarts("BucketFork"), 0);

    // The operator hears nothing: one fork goes for good, one is made, one changes, and a claim is deleted.
    line.cut();
    let goes = key(Kind::Fork, "team", "goes");
    f.delete(&goes).await.unwrap();
    f.strip(&goes).await;
    f.gone(&goes).await;
    let comes = fork("comes").await;
    f.patch(
        &key(Kind::Fork, "team", "changes"),
        json!({"spec": {"claim": null}}),
    )
    .await
    .unwrap();
    // What it has seen is forgotten by etcd, and by the API server, whose own memory would bridge the gap.
    compact(&f).await;
    f.cluster.stop_apiserver();
    f.cluster.start_apiserver().await.unwrap();
    let began = Instant::now();
    line.join();
    f.placed(&comes).await;
    f.made(&comes).await;
    f.eventually("the gap is made up for", async |_: &Fixture| {
        (there().await == (2, names(&["comes", "stays"]))).then_some(())
    })
    .await;
    println!(
        "watching: after {:?} the gap was made up for; begun anew: {} of forks, {} of buckets, {} of volumes",
        began.elapsed(),
        restarts("BucketFork"),
        restarts("Bucket"),
        restarts("PersistentVolume"),
    );
    assert!(restarts("BucketFork") > 0);
    assert!(operator.leads(), "it has gone on by itself");
    let text = operator.metrics.text();
    assert!(
        text.contains("anabranch_operator_watch_restarts_total{kind=\"BucketFork\"}"),
        "{text}"
    );
    // What was there before was not touched.
    let after = uids().await;
    assert_eq!(after["stays"], before["stays"]);

    // The API server is away for a few seconds: it goes on, and does nothing twice.
    let looks = ["ok", "conflict", "refused"].map(|result| operator.metrics.looks(result));
    f.cluster.stop_apiserver();
    tokio::time::sleep(Duration::from_secs(3)).await;
    f.cluster.start_apiserver().await.unwrap();
    let late = fork("late").await;
    f.placed(&late).await;
    f.made(&late).await;
    f.eventually("the late one has its claim", async |_: &Fixture| {
        (there().await == (3, names(&["comes", "late", "stays"]))).then_some(())
    })
    .await;
    assert!(operator.leads());
    let since = ["ok", "conflict", "refused"].map(|result| operator.metrics.looks(result));
    println!(
        "watching: looks that ended ok, in conflict and refused: {looks:?}, after a restart of the API server {since:?}"
    );
    assert_eq!(since[1..], looks[1..]);
    let again = uids().await;
    assert!(after.iter().all(|(name, uid)| again[name] == *uid));
    let forks = f.api::<BucketFork>("team");
    let forks = forks.list(&ListParams::default()).await.unwrap();
    assert_eq!(forks.items.len(), 4);
    operator.stop().await;
}
