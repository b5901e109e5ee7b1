//! What is away comes back: the API server, the agent, the operator.

use std::time::Duration;

use crds::Kind;
use e2e::cluster::Parts;
use serde_json::json;
use storage_engine::{Engine, Options};

use crate::agent::Agent;
use crate::support::{Running, fixture, key};

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_after_an_outage() {
    let Some(f) = fixture("outage", Parts::default()).await else {
        return;
    };
    let other = fixture("outage, another cluster", Parts::default())
        .await
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let operator = Running::with_patience(&f.cluster, "one", Duration::from_secs(1));
    f.namespace("team").await;
    f.node("n1").await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    f.ours("Bucket", "team", "base", json!({})).await;
    f.reason(&key(Kind::Bucket, "team", "base"), "Available")
        .await;

    // Without an API server the operator leads no more and ends, and the agent waits. After it, watches are too old for a server
    // that has forgotten what was before; everything is listed anew, and what was asked for meanwhile is found.
    f.cluster.stop_apiserver();
    let ended = tokio::time::timeout(Duration::from_secs(60), operator.ended()).await;
    assert!(ended.is_ok(), "the operator goes on without an API server");
    f.cluster.start_apiserver().await.unwrap();
    let operator = Running::with_patience(&f.cluster, "two", Duration::from_secs(1));
    for n in 0..20 {
        f.ours(
            "BucketFork",
            "team",
            &format!("f{n}"),
            json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}),
        )
        .await;
    }
    for n in 0..20 {
        f.reason(&key(Kind::Fork, "team", &format!("f{n}")), "Available")
            .await;
    }

    // An agent that is away for good holds no deletion up; the data goes when it is back.
    agent.kill();
    let f3 = key(Kind::Fork, "team", "f3");
    f.delete(&f3).await.unwrap();
    f.gone(&f3).await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    f.eventually(
        "the orphan is freed",
        async |_: &crate::support::Fixture| {
            agent
                .log()
                .contains("frees the data of an object that is gone")
                .then_some(())
        },
    )
    .await;
    agent.stop();
    let engine = Engine::open(place.path().join("n1"), Options::default()).unwrap();
    assert_eq!(engine.timelines().len(), 20, "the bucket and 19 forks");
    assert!(engine.timeline_named("fork/team/f3").is_err());
    engine.close().unwrap();

    // In another cluster nothing of it is known: it must not be freed.
    let stray = Agent::start(&other.cluster, "n1", place.path(), &[]);
    let log = stray.ended();
    assert!(log.contains("belongs to another cluster"), "{log}");
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    f.ours(
        "BucketFork",
        "team",
        "last",
        json!({"source": {"fork": "f4"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    f.reason(&key(Kind::Fork, "team", "last"), "Available")
        .await;
    operator.stop().await;
}
