//! At rest nothing is sent but the renewals of leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{BucketFork, Kind};
use e2e::cluster::Parts;
use futures::{StreamExt, stream};
use kube::api::{Api, ListParams};
use kube::client::Body;
use kube::{Client, Error};
use operator::cluster::kinds::Ours;
use operator::cluster::write::{MANAGER_NODE, Writer};
use parking_lot::Mutex;
use serde_json::json;

use crate::support::{Fixture, OPERATOR, Running, fixture, key};

/// Requests by verb and resource.
type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// The same client, with every request counted.
fn counted(client: Client, counts: &Counts) -> Client {
    let counts = counts.clone();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let path = request.uri().path();
        let resource = path
            .rsplit('/')
            .find(|part| part.ends_with('s') && part.chars().all(|c| c.is_ascii_lowercase()));
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let verb = if watch {
            "WATCH"
        } else {
            request.method().as_str()
        };
        let what = format!("{verb} {}", resource.unwrap_or(path));
        *counts.lock().entry(what).or_default() += 1;
        let client = client.clone();
        async move { client.send(request).await.map_err(Box::<Error>::from) }
    });
    Client::new(service, "default")
}

/// What the API server has answered, by verb and resource.
async fn answered(f: &Fixture) -> BTreeMap<String, u64> {
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = f.client.request_text(request).await.unwrap();
    let mut answered = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{"))
    {
        let label = |name: &str| {
            let (_, rest) = line
                .split_once(&format!(",{name}=\""))
                .or_else(|| line.split_once(&format!("{{{name}=\"")))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let count: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
        let what = format!(
            "{} {}",
            label("verb").unwrap_or(""),
            label("resource").unwrap_or("")
        );
        *answered.entry(what).or_default() += count as u64;
    }
    answered
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = |(what, count): (&String, &u64)| {
        let more = count - before.get(what).copied().unwrap_or_default();
        (more > 0).then(|| (what.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_an_operator_renews_its_lease_and_does_nothing_else() {
    let Some(f) = fixture("steady", Parts::default()).await else {
        return;
    };
    let window = std::env::var("ANABRANCH_STEADY_SECONDS").ok();
    let window = Duration::from_secs(window.and_then(|text| text.parse().ok()).unwrap_or(8));
    let forks = 1000;
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let counts = Counts::default();
    let client = counted(f.cluster.client(OPERATOR).unwrap(), &counts);
    // A lease as long as in production, so that its renewals are as rare.
    let patience = Duration::from_secs(600);
    let operator = Running::with_client(client, "one", patience, Duration::from_secs(15));
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    let began = Instant::now();
    let names: Vec<_> = (0..forks).map(|fork| format!("fork-{fork}")).collect();
    stream::iter(&names)
        .for_each_concurrent(32, async |name| {
            let spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}});
            f.ours("BucketFork", "team", name, spec).await;
        })
        .await;
    let list = async |f: &Fixture| {
        let api: Api<BucketFork> = f.api("team");
        let all = api.list(&ListParams::default()).await.unwrap().items;
        all.into_iter().map(Ours::into_object).collect::<Vec<_>>()
    };
    f.eventually("all are placed", async |f: &Fixture| {
        let all = list(f).await;
        let placed = all
            .iter()
            .filter(|o| operator::decide::node_of(o).is_some())
            .count();
        (placed == forks).then_some(())
    })
    .await;
    // As the agent says it.
    let writer = Writer::new(f.client.clone());
    let condition = json!({"type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"observedGeneration": 1, "conditions": [condition]});
    stream::iter(&list(&f).await)
        .for_each_concurrent(32, async |object| {
            writer
                .status(object, MANAGER_NODE, status.clone())
                .await
                .unwrap();
        })
        .await;
    println!(
        "steady: {forks} forks are ready after {:?}",
        began.elapsed()
    );
    // What the last of them make to do is done.
    f.eventually("it is at rest", async |_: &Fixture| {
        let before = counts.lock().clone();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let more = grown(&before, &counts.lock());
        more.keys()
            .all(|what| what.ends_with(" leases"))
            .then_some(())
    })
    .await;

    let sent = counts.lock().clone();
    let served = answered(&f).await;
    let looks = operator.metrics.looks("ok");
    tokio::time::sleep(window).await;
    let sent = grown(&sent, &counts.lock());
    let served = grown(&served, &answered(&f).await);
    println!(
        "steady: in {window:?} the operator sent {sent:?}; the API server answered everybody {served:?}"
    );
    for (what, count) in &sent {
        assert!(
            what.ends_with(" leases") || what.starts_with("WATCH "),
            "{what}: {count}"
        );
    }
    // A read and a write each sixth of a lease.
    let most = 2 * (window.as_millis() as u64 / 2500 + 2);
    let leases: u64 = sent
        .iter()
        .filter(|(what, _)| what.ends_with(" leases"))
        .map(|(_, count)| count)
        .sum();
    assert!(leases <= most, "{leases} of {most}");
    assert_eq!(operator.metrics.looks("ok"), looks);
    operator.stop().await;
}
