//! Objects of ours with canaries in every text that a person writes.

use crds::{Bucket, BucketFork, BucketSnapshot, Kind};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};

use crate::marks::{Marks, Sort};
use crate::mounting::Place;
use crate::support::{Fixture, key};

fn object(marks: &mut Marks, kind: &str, name: &str, spec: Value) -> Value {
    let mut note = |sort, what: &str| marks.mark(sort, &format!("{kind} {name} {what}"));
    json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": kind,
        "metadata": {"namespace": "team", "name": name,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": note(Sort::Annotation, "annotation"),
                "example.org/token": note(Sort::Annotation, "annotation")},
            "labels": {"label": note(Sort::Text, "label")}},
        "spec": spec})
}

/// Makes, changes and deletes objects in every state; gives what a person is told meanwhile.
pub async fn run(f: &Fixture, marks: &mut Marks, place: &Place) -> String {
    let inside = place
        .path("source")
        .join(marks.text("Bucket path below a root"));
    let outside = format!("/{}", marks.text("Bucket path outside of every root"));
    let whole = json!({"noExpiry": true});
    let made = [
        object(marks, "Bucket", "good", json!({})),
        object(
            marks,
            "Bucket",
            "missing",
            json!({"source": {"directory": {"path": inside}}}),
        ),
        object(
            marks,
            "Bucket",
            "refused",
            json!({"source": {"tar": {"path": outside}}}),
        ),
        object(
            marks,
            "BucketSnapshot",
            "good",
            json!({"source": {"bucket": "good"}, "lifetime": whole}),
        ),
        object(
            marks,
            "BucketFork",
            "good",
            json!({"source": {"bucket": "good"}, "count": 2, "lifetime": whole, "claim": {}}),
        ),
    ];
    for value in made {
        f.apply(value).await.unwrap();
    }
    let mut waits = Vec::new();
    for (field, namespace) in [("bucket", None), ("snapshot", Some(())), ("fork", None)] {
        let name = marks.text("BucketFork name");
        let mut source = json!({field: marks.text(&format!("BucketFork source {field}"))});
        if namespace.is_some() {
            source["namespace"] = marks.text("BucketFork source namespace").into();
        }
        let value = object(
            marks,
            "BucketFork",
            &name,
            json!({"source": source, "lifetime": whole}),
        );
        f.apply(value).await.unwrap();
        waits.push((
            name,
            if namespace.is_some() {
                "NotGranted"
            } else {
                "WaitingForSource"
            },
        ));
    }
    f.reason(&key(Kind::Fork, "team", "good"), "Available")
        .await;
    for (name, reason) in &waits {
        f.reason(&key(Kind::Fork, "team", name), reason).await;
    }
    for (name, reason) in [("missing", "Retrying"), ("refused", "ImportFailed")] {
        f.reason(&key(Kind::Bucket, "team", name), reason).await;
    }
    // Refused by the API server, and named by it.
    let wrong = object(
        marks,
        "BucketFork",
        "wrong",
        json!({"source": {"bucket": "a", "fork": "b"}, "lifetime": {"ttl": "soon"}}),
    );
    let mut told = f.apply(wrong).await.unwrap_err().to_string();
    told.push_str(&all(f).await);
    for (name, _) in waits {
        let key = key(Kind::Fork, "team", &name);
        f.delete(&key).await.unwrap();
        f.gone(&key).await;
    }
    told
}

/// What is said of all objects: their statuses, and events. What a person wrote into them is left out.
pub async fn all(f: &Fixture) -> String {
    let mut told = String::new();
    let list = ListParams::default();
    let mut say = |status: Value| told.push_str(&format!("{status}\n"));
    for object in f.api::<Bucket>("team").list(&list).await.unwrap() {
        say(json!(object.status));
    }
    for object in f.api::<BucketSnapshot>("team").list(&list).await.unwrap() {
        say(json!(object.status));
    }
    for object in f.api::<BucketFork>("team").list(&list).await.unwrap() {
        say(json!(object.status));
    }
    let events = Api::<Event>::namespaced(f.client.clone(), "team");
    for event in events.list(&list).await.unwrap() {
        say(json!([event.reason, event.note]));
    }
    told
}

/// A pod for inline volumes.
pub async fn pod(f: &Fixture) -> Pod {
    f.apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "team", "name": "agent"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "none"}]}}))
        .await
        .unwrap();
    Api::namespaced(f.client.clone(), "team")
        .get("agent")
        .await
        .unwrap()
}
