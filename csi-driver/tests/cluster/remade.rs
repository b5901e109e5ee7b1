//! An object that is deleted and made again behind the back of its node.

use crds::{BucketFork, Kind, Object};
use e2e::cluster::Parts;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::agent::Agent;
use crate::support::{Running, fixture, key};

fn timeline(object: &Object) -> Option<String> {
    match object {
        Object::Fork(fork) => fork.status.as_ref()?.timeline.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_made_again_while_its_node_was_away_asks_what_becomes_of_the_data() {
    let Some(f) = fixture("remade", Parts::default()).await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let operator = Running::start(&f.cluster, "one");
    f.namespace("team").await;
    f.node("n1").await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    let (base, work) = (
        key(Kind::Bucket, "team", "base"),
        key(Kind::Fork, "team", "work"),
    );
    let spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}});
    f.ours("Bucket", "team", "base", json!({})).await;
    f.ours("BucketFork", "team", "work", spec.clone()).await;
    let first = timeline(&f.reason(&work, "Available").await).unwrap();

    // As somebody does who will not wait for the node.
    agent.kill();
    let api = f.api::<BucketFork>("team");
    let free = json!({"metadata": {"finalizers": null}});
    let forget = async || {
        api.delete("work", &DeleteParams::default()).await.unwrap();
        let patch = Patch::Merge(&free);
        // It is gone at once where it had none.
        let _ = api.patch("work", &PatchParams::default(), &patch).await;
        f.gone(&work).await;
    };
    forget().await;
    f.ours("BucketFork", "team", "work", spec.clone()).await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    let stalled = f.reason(&work, "NameTaken").await;
    assert_eq!(timeline(&stalled), None);
    let conditions = operator::decide::conditions(&stalled);
    let message = &conditions
        .iter()
        .find(|c| c.reason == "NameTaken")
        .unwrap()
        .message;
    let (_, uid) = message.split_once("anabranch.dev/adopt=").unwrap();
    let (uid, _) = uid.split_once(';').unwrap();
    eprintln!("{message}");

    let adopt = json!({"metadata": {"annotations": {"anabranch.dev/adopt": uid}}});
    api.patch("work", &PatchParams::default(), &Patch::Merge(adopt))
        .await
        .unwrap();
    let adopted = f.reason(&work, "Available").await;
    assert_eq!(timeline(&adopted), Some(first.clone()));

    // And once more, for a fresh start.
    agent.kill();
    forget().await;
    f.ours("BucketFork", "team", "work", spec.clone()).await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[]);
    agent.ready().await;
    f.reason(&work, "NameTaken").await;
    f.delete(&work).await.unwrap();
    f.gone(&work).await;
    f.ours("BucketFork", "team", "work", spec).await;
    let fresh = timeline(&f.reason(&work, "Available").await).unwrap();
    assert_ne!(fresh, first);
    f.delete(&base).await.unwrap();
    f.gone(&base).await;
    agent.stop();
    operator.stop().await;
}
