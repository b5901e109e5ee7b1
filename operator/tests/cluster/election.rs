//! One operator works at a time, and another takes over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crds::Kind;
use e2e::cluster::Parts;
use serde_json::json;

use crate::support::{Fixture, Running, fixture, key};

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_leads_and_another_takes_over_after_its_end_or_its_death() {
    let Some(f) = fixture("election", Parts::default()).await else {
        return;
    };
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let first = Running::start(&f.cluster, "first");
    f.eventually("the first leads", async |_: &Fixture| {
        first.leads().then_some(())
    })
    .await;
    let second = Running::start(&f.cluster, "second");
    f.ours("Bucket", "team", "a", json!({})).await;
    f.placed(&key(Kind::Bucket, "team", "a")).await;
    assert!(!second.leads());
    // Who waits is ready, too: it sees the lease, and takes over the moment it can.
    f.eventually("the second is ready", async |_: &Fixture| {
        second.health.ready.load(Ordering::Relaxed).then_some(())
    })
    .await;
    // Ended in order, it gives the lease up.
    first.stop().await;
    f.eventually("the second leads", async |_: &Fixture| {
        second.leads().then_some(())
    })
    .await;
    f.ours("Bucket", "team", "b", json!({})).await;
    f.placed(&key(Kind::Bucket, "team", "b")).await;
    // Killed, its lease has to run out.
    second.kill();
    let third = Running::start(&f.cluster, "third");
    f.eventually("the third leads", async |_: &Fixture| {
        third.leads().then_some(())
    })
    .await;
    f.ours("Bucket", "team", "c", json!({})).await;
    f.placed(&key(Kind::Bucket, "team", "c")).await;

    // Without an API server nobody leads; the process ends, to be started anew.
    f.cluster.stop_apiserver();
    f.eventually("the third has ended", async |_: &Fixture| {
        (!third.leads()).then_some(())
    })
    .await;
    // Who sees nothing is not.
    let fourth = Running::start(&f.cluster, "fourth");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!fourth.health.ready.load(Ordering::Relaxed));
    f.cluster.start_apiserver().await.unwrap();
    f.eventually("the fourth leads", async |_: &Fixture| {
        fourth.leads().then_some(())
    })
    .await;
    f.ours("Bucket", "team", "d", json!({})).await;
    f.placed(&key(Kind::Bucket, "team", "d")).await;
    fourth.stop().await;
}
