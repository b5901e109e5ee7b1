//! The life of objects: made, changed, expired, deleted, with restarts in the middle.

use std::path::Path;

use crds::{BucketFork, Kind, Object};
use e2e::cluster::Parts;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use storage_engine::{Engine, Options};

use crate::agent::Agent;
use crate::support::{Fixture, Running, fixture, key};

fn fork(object: &Object) -> &BucketFork {
    match object {
        Object::Fork(fork) => fork,
        other => panic!("{other:?}"),
    }
}

/// The names of the timelines and snapshots in a store that nobody has open.
fn held(data: &Path) -> Vec<String> {
    let engine = Engine::open(
        data,
        Options {
            create: false,
            ..Options::default()
        },
    )
    .unwrap();
    let timelines = engine.timelines().into_iter().map(|info| info.name);
    let mut all: Vec<_> = timelines
        .chain(
            engine
                .snapshots()
                .unwrap()
                .into_iter()
                .map(|info| info.name),
        )
        .collect();
    all.sort();
    engine.close().unwrap();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_made_changed_and_freed_with_restarts_in_the_middle() {
    let Some(f) = fixture("life", Parts { controllers: true }).await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(source.join("dir")).unwrap();
    std::fs::write(source.join("dir/file"), vec![7; 100_000]).unwrap();
    let operator = Running::start(&f.cluster, "one");
    f.namespace("team").await;
    f.node("n1").await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[&source]);
    agent.ready().await;

    let (base, _v1, set) = (
        key(Kind::Bucket, "team", "base"),
        key(Kind::Snapshot, "team", "v1"),
        key(Kind::Fork, "team", "set"),
    );
    // The last first: everything finds its way.
    f.ours("BucketFork", "team", "set", json!({"source": {"snapshot": "v1"}, "count": 3, "lifetime": {"noExpiry": true}, "claim": {}})).await;
    f.ours(
        "BucketSnapshot",
        "team",
        "v1",
        json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    f.ours(
        "Bucket",
        "team",
        "base",
        json!({"source": {"directory": {"path": source.join("dir")}}}),
    )
    .await;
    let ready = f.reason(&set, "Available").await;
    let status = fork(&ready).status.as_ref().unwrap();
    assert_eq!(
        (status.count, status.ready_count, status.items.len()),
        (3, 3, 3)
    );
    assert_eq!(status.node.as_deref(), Some("n1"));
    assert_eq!(
        crds::conditions::kstatus(
            ready.metadata().generation,
            status.observed_generation,
            false,
            &status.conditions
        ),
        "Current"
    );
    match f.read(&base).await.unwrap() {
        Object::Bucket(bucket) => {
            assert!(bucket.status.unwrap().usage.unwrap().logical_bytes >= 100_000)
        }
        other => panic!("{other:?}"),
    }
    let claims: Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> =
        Api::namespaced(f.client.clone(), "team");
    f.eventually("three claims", async |_: &Fixture| {
        (claims
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
            == 3)
            .then_some(())
    })
    .await;

    // What lies elsewhere on the node is not for whoever may make a bucket.
    f.ours(
        "Bucket",
        "team",
        "thief",
        json!({"source": {"directory": {"path": "/etc"}}}),
    )
    .await;
    let refused = f
        .reason(&key(Kind::Bucket, "team", "thief"), "ImportFailed")
        .await;
    assert!(
        operator::decide::conditions(&refused)
            .iter()
            .any(|c| c.message.contains("not below a directory")),
        "{refused:?}"
    );

    // Who watches the figures hears of it too.
    f.eventually("a look that failed is counted", async |_: &Fixture| {
        let text = agent.get("/metrics")?;
        let counted = |line: &str| {
            line.starts_with("anabranch_node_looks_total") && line.contains(r#"result="action""#)
        };
        text.lines().any(counted).then_some(())
    })
    .await;

    // Larger and smaller, the agent killed in between, and again in the middle of it.
    agent.kill();
    f.ours("BucketFork", "team", "set", json!({"source": {"snapshot": "v1"}, "count": 40, "lifetime": {"noExpiry": true}, "claim": {}})).await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[&source]);
    agent.ready().await;
    agent.kill();
    let agent = Agent::start(&f.cluster, "n1", place.path(), &[&source]);
    let count = |count: u32| {
        let set = set.clone();
        async move |f: &Fixture| {
            let object = f.read(&set).await?;
            let status = fork(&object).status.clone()?;
            (status.ready_count == count
                && status.items.len() == count as usize
                && status.observed_generation == object.metadata().generation)
                .then_some(())
        }
    };
    f.eventually("40 forks", count(40)).await;
    f.ours("BucketFork", "team", "set", json!({"source": {"snapshot": "v1"}, "count": 2, "lifetime": {"noExpiry": true}, "claim": {}})).await;
    f.eventually("2 forks", count(2)).await;
    f.eventually("2 claims", async |_: &Fixture| {
        (claims
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
            == 2)
            .then_some(())
    })
    .await;

    // Somebody else's fields stay theirs, and ours become ours again.
    let foreign = json!({
        "apiVersion": "anabranch.dev/v1alpha1", "kind": "BucketFork", "metadata": {"name": "set", "namespace": "team"},
        "status": {"readyCount": 77, "conditions": [
            {"type": "Ready", "status": "False", "reason": "Meddled", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "Checked", "status": "True", "reason": "ByOthers", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]},
    });
    let api = f.api::<BucketFork>("team");
    api.patch_status(
        "set",
        &PatchParams::apply("meddler").force(),
        &Patch::Apply(foreign),
    )
    .await
    .unwrap();
    f.eventually("our fields are ours again", async |f: &Fixture| {
        let object = f.read(&set).await?;
        let status = fork(&object).status.clone()?;
        let has = |type_: &str, status_: &str| {
            status
                .conditions
                .iter()
                .any(|c| c.type_ == type_ && c.status == status_)
        };
        (status.ready_count == 2 && has("Ready", "True") && has("Checked", "True")).then_some(())
    })
    .await;

    // An expiry frees the data and leaves the object, for kstatus finished.
    let brief = key(Kind::Fork, "team", "brief");
    f.ours(
        "BucketFork",
        "team",
        "brief",
        json!({"source": {"bucket": "base"}, "lifetime": {"ttl": "2s"}}),
    )
    .await;
    let expired = f.reason(&brief, "TtlElapsed").await;
    f.eventually("it says only that it has expired", async |f: &Fixture| {
        let object = f.read(&brief).await?;
        let status = fork(&object).status.clone()?;
        let alone = status.conditions.len() == 1 && status.conditions[0].type_ == "Expired";
        assert_eq!(operator::decide::node_of(&expired), Some("n1"));
        (alone
            && crds::conditions::kstatus(
                object.metadata().generation,
                status.observed_generation,
                false,
                &status.conditions,
            ) == "Current")
            .then_some(())
    })
    .await;

    // Deleted and made again at once: another uid, and never the old data under it.
    let first = fork(&f.read(&set).await.unwrap())
        .status
        .as_ref()
        .unwrap()
        .items[0]
        .timeline
        .clone();
    f.delete(&set).await.unwrap();
    f.gone(&set).await;
    f.ours(
        "BucketFork",
        "team",
        "set",
        json!({"source": {"bucket": "base"}, "count": 1, "protected": true, "lifetime": {"noExpiry": true}}),
    )
    .await;
    let again = f.reason(&set, "Available").await;
    assert_ne!(
        fork(&again).status.as_ref().unwrap().items[0].timeline,
        first
    );

    // The parent before the children, and then the namespace with all that is in it, the protected set too.
    f.delete(&base).await.unwrap();
    f.gone(&base).await;
    assert!(f.read(&set).await.is_some());
    let namespaces: Api<Namespace> = Api::all(f.client.clone());
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
    agent.stop();
    assert_eq!(held(&place.path().join("n1")), Vec::<String>::new());
    operator.stop().await;
}
