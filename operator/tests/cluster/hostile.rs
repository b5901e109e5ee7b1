//! Objects that somebody filled with nonsense: each is refused, told or passed over, and holds up no other.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::{BucketFork, Kind};
use e2e::cluster::Parts;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::support::{Fixture, Running, fixture, key};

fn at(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |value, field| json!({field: value}))
}

/// What a person or a program may write into a status.
fn statuses() -> Vec<(&'static str, Value)> {
    let condition = |change: Value| {
        let mut condition = json!({"type": "Ready", "status": "True", "reason": "Available", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        condition
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        condition
    };
    let time = |value: &str| at("time", json!(value));
    vec![
        ("a count that is negative", at("count", json!(-1))),
        (
            "a count beyond 32 bits",
            at("count", json!(5_000_000_000_u64)),
        ),
        ("a count beyond 64 bits", at("count", json!(1e20))),
        ("a count that is broken", at("count", json!(1.5))),
        ("a count with an exponent", at("count", json!(1e2))),
        ("a count that is a word", at("count", json!("3"))),
        (
            "more forks that are ready than can be",
            at("readyCount", json!(4_294_967_296_u64)),
        ),
        (
            "a generation beyond 64 bits",
            at("observedGeneration", json!(1e19)),
        ),
        (
            "a generation that is negative",
            at("observedGeneration", json!(i64::MIN)),
        ),
        (
            "an index that is negative",
            at("items", json!([{"name": "a-0", "index": -1}])),
        ),
        (
            "an index beyond 32 bits",
            at(
                "items",
                json!([{"name": "a-0", "index": 4_294_967_296_u64}]),
            ),
        ),
        (
            "an item without an index",
            at("items", json!([{"name": "a-0"}])),
        ),
        ("an item without a name", at("items", json!([{"index": 0}]))),
        (
            "two items of one name",
            at(
                "items",
                json!([{"name": "a", "index": 0}, {"name": "a", "index": 1}]),
            ),
        ),
        ("items that are null", at("items", json!([null]))),
        (
            "too many items",
            at(
                "items",
                (0..1001)
                    .map(|i| json!({"name": format!("a-{i}"), "index": 0}))
                    .collect(),
            ),
        ),
        (
            "an item with bytes beyond 64 bits",
            at(
                "items",
                json!([{"name": "a", "index": 0, "divergentBytes": 1e30}]),
            ),
        ),
        (
            "an item with bytes just beyond 63 bits",
            at(
                "items",
                json!([{"name": "a", "index": 0, "sharedBytes": 9_223_372_036_854_775_808_u64}]),
            ),
        ),
        ("usage without numbers", at("usage", json!({}))),
        (
            "usage that is negative",
            at(
                "usage",
                json!({"logicalBytes": -1, "divergentBytes": 0, "sharedBytes": 0, "inodes": 0}),
            ),
        ),
        (
            "usage beyond 64 bits",
            at(
                "usage",
                json!({"logicalBytes": 1e25, "divergentBytes": 0, "sharedBytes": 0, "inodes": 0}),
            ),
        ),
        (
            "usage just beyond 64 bits",
            at(
                "usage",
                json!({"logicalBytes": 18_446_744_073_709_551_615_u64, "divergentBytes": 0, "sharedBytes": 0, "inodes": 0}),
            ),
        ),
        (
            "usage that is all there is",
            at(
                "usage",
                json!({"logicalBytes": i64::MAX, "divergentBytes": i64::MAX, "sharedBytes": i64::MAX, "inodes": i64::MAX}),
            ),
        ),
        ("a time without a zone", time("2026-01-01T00:00:00")),
        ("a time that no calendar has", time("2026-02-30T00:00:00Z")),
        ("a second too many", time("2026-01-01T23:59:60Z")),
        ("a time before all times", time("0000-01-01T00:00:00Z")),
        (
            "a time after all times",
            time("9999-12-31T23:59:59.999999999Z"),
        ),
        ("a time of a far zone", time("9999-12-31T23:59:59-23:59")),
        ("a time of five digits", time("10000-01-01T00:00:00Z")),
        ("a time in small letters", time("2026-01-01t00:00:00z")),
        ("a time with a blank", time("2026-01-01 00:00:00Z")),
        ("an hour too many", time("2026-01-01T24:00:00Z")),
        ("a time that is nothing", time("")),
        ("a time that is a word", time("yesterday")),
        (
            "an end in another form",
            at("expireTime", json!("Thu, 01 Jan 2026 00:00:00 GMT")),
        ),
        (
            "an end that has passed",
            at("expiredTime", json!("2000-01-01T00:00:00Z")),
        ),
        ("an epoch that is a word", at("epoch", json!("soon"))),
        ("an epoch that is negative", at("epoch", json!("-1"))),
        (
            "an epoch beyond 64 bits",
            at("epoch", json!("99999999999999999999999")),
        ),
        ("an epoch that is a number", at("epoch", json!(7))),
        (
            "a timeline that is none",
            at("timeline", json!("../../etc")),
        ),
        ("a node that is nowhere", at("node", json!("nowhere"))),
        ("a node without a name", at("node", json!(""))),
        (
            "a node with a long name",
            at("node", json!("n".repeat(100_000))),
        ),
        ("a mount without a path", at("mounts", json!([{}]))),
        (
            "many mounts",
            at(
                "mounts",
                (0..5000)
                    .map(|i| json!({"path": format!("/{i}")}))
                    .collect(),
            ),
        ),
        (
            "a condition without a time",
            at(
                "conditions",
                json!([{"type": "Ready", "status": "True", "reason": "A", "message": ""}]),
            ),
        ),
        (
            "a condition of an impossible time",
            at(
                "conditions",
                json!([condition(
                    json!({"lastTransitionTime": "2026-13-01T00:00:00Z"})
                )]),
            ),
        ),
        (
            "a condition of a second too many",
            at(
                "conditions",
                json!([condition(
                    json!({"lastTransitionTime": "2026-12-31T23:59:60Z"})
                )]),
            ),
        ),
        (
            "a condition of another status",
            at(
                "conditions",
                json!([condition(json!({"status": "Perhaps"}))]),
            ),
        ),
        (
            "too many conditions",
            at(
                "conditions",
                (0..17)
                    .map(|i| condition(json!({"type": format!("T{i}")})))
                    .collect(),
            ),
        ),
        (
            "a condition twice",
            at(
                "conditions",
                json!([condition(json!({})), condition(json!({}))]),
            ),
        ),
        ("a summary of numbers", at("summary", json!({"state": 3}))),
        (
            "a field that nobody knows",
            at("strange", json!({"deep": [1, "two"]})),
        ),
        ("a status that is a word", json!("fine")),
    ]
}

/// What a person may ask for.
fn specs() -> Vec<(&'static str, Value)> {
    let with = |change: Value| {
        let mut spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        spec
    };
    vec![
        ("no source", with(json!({"source": {}}))),
        (
            "two sources",
            with(json!({"source": {"bucket": "base", "snapshot": "v1"}})),
        ),
        (
            "a source that is a path",
            with(json!({"source": {"bucket": "../base"}})),
        ),
        (
            "a source at no time",
            with(json!({"source": {"bucket": "base", "at": "2026-02-30T00:00:00Z"}})),
        ),
        (
            "a source at a time beyond 64 bits",
            with(json!({"source": {"bucket": "base", "at": "99999999999999999999999"}})),
        ),
        (
            "a source at a second too many",
            with(json!({"source": {"bucket": "base", "at": "2026-06-30T23:59:60Z"}})),
        ),
        ("a set of too many", with(json!({"count": 1001}))),
        ("a set of less than none", with(json!({"count": -1}))),
        ("a set of none", with(json!({"count": 0}))),
        (
            "a lifetime of no unit",
            with(json!({"lifetime": {"ttl": "5"}})),
        ),
        (
            "a lifetime without an end",
            with(json!({"lifetime": {"ttl": "99999999999999999999h"}})),
        ),
        (
            "an end that no calendar has",
            with(json!({"lifetime": {"expireTime": "2026-02-30T00:00:00Z"}})),
        ),
        (
            "an end of a second too many",
            with(json!({"lifetime": {"expireTime": "2026-06-30T23:59:60Z"}})),
        ),
        (
            "an end after all times",
            with(json!({"lifetime": {"expireTime": "9999-12-31T23:59:59-23:59"}})),
        ),
        (
            "an end at the end of the calendar",
            with(json!({"lifetime": {"expireTime": "9999-12-31T23:59:59Z"}})),
        ),
        (
            "a source at the end of the calendar",
            with(json!({"source": {"bucket": "base", "at": "9999-12-31T23:59:59Z"}})),
        ),
        (
            "an end that has passed",
            with(json!({"lifetime": {"expireTime": "2000-01-01T00:00:00Z"}})),
        ),
        ("no lifetime", json!({"source": {"bucket": "base"}})),
        (
            "a quota beyond 64 bits",
            with(json!({"quota": {"bytes": "99999999999Ei"}})),
        ),
        (
            "a quota that is negative",
            with(json!({"quota": {"bytes": "-1Gi"}})),
        ),
        (
            "more files than can be",
            with(json!({"quota": {"inodes": 1e19}})),
        ),
        (
            "a claim of another mode",
            with(json!({"claim": {"accessMode": "ReadWriteMany"}})),
        ),
        (
            "a source that is not there",
            with(json!({"source": {"bucket": "nothing"}})),
        ),
        (
            "a fork of itself",
            with(json!({"source": {"fork": "SELF"}})),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_one_object_holds_up_no_other() {
    let Some(f) = fixture("hostile", Parts::default()).await else {
        return;
    };
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let patience = Duration::from_secs(1);
    let operator = Running::with_patience(&f.cluster, "one", patience);
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    let good = async |name: &str| {
        let spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}});
        f.ours("BucketFork", "team", name, spec).await;
        f.placed(&key(Kind::Fork, "team", name)).await;
    };
    let mut fates: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut suspects = Vec::new();
    for (number, (what, status)) in statuses().into_iter().enumerate() {
        let name = format!("status-{number}");
        good(&name).await;
        let fork = key(Kind::Fork, "team", &name);
        let body = Patch::Merge(json!({"status": status}));
        let written = f
            .dynamic(&fork)
            .patch_status(&name, &PatchParams::default(), &body)
            .await;
        match written {
            Ok(_) => suspects.push((what, fork)),
            Err(refused) => {
                assert!(
                    matches!(&refused, kube::Error::Api(status) if status.code == 422 || status.code == 400),
                    "{what}: {refused}"
                );
                fates
                    .entry("refused by the API server")
                    .or_default()
                    .push(what);
            }
        }
    }
    for (number, (what, mut spec)) in specs().into_iter().enumerate() {
        let name = format!("spec-{number}");
        if spec["source"]["fork"] == "SELF" {
            spec["source"]["fork"] = json!(name);
        }
        let fork = json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": "BucketFork", "metadata": {"namespace": "team", "name": name}, "spec": spec});
        match f.apply(fork).await {
            Ok(_) => suspects.push((what, key(Kind::Fork, "team", &name))),
            Err(_) => fates
                .entry("refused by the API server")
                .or_default()
                .push(what),
        }
    }
    good("after-all").await;
    let mut unreadable = 0;
    for (what, fork) in suspects {
        let found = f.dynamic(&fork).get(&fork.name).await.unwrap();
        let fate = match serde_json::from_value::<BucketFork>(serde_json::to_value(&found).unwrap())
        {
            Err(_) => {
                unreadable += 1;
                "passed over"
            }
            Ok(_) => {
                let said = f
                    .eventually(&format!("{what} is placed or told"), async |f: &Fixture| {
                        let fork = f.read(&fork).await?;
                        let told = operator::decide::conditions(&fork);
                        let by_us = operator::cluster::write::said_by(
                            &fork,
                            operator::cluster::write::MANAGER_OPERATOR,
                        );
                        (operator::decide::node_of(&fork).is_some() || !told.is_empty())
                            .then_some(by_us.iter().any(|field| field == "conditions"))
                    })
                    .await;
                if said {
                    "told in its conditions"
                } else {
                    "harmless"
                }
            }
        };
        fates.entry(fate).or_default().push(what);
    }
    for (fate, which) in &fates {
        println!("hostile: {} {fate}: {}", which.len(), which.join(", "));
    }
    let forks =
        |total: u64, operator: &Running| operator.metrics.unreadable_total("BucketFork") == total;
    f.eventually("each is counted once", async |_: &Fixture| {
        forks(unreadable, &operator).then_some(())
    })
    .await;

    refusals_are_told(&f).await;

    // A definition of before, without bounds: whatever it let through holds up nobody, from the first list on.
    let definitions: Api<CustomResourceDefinition> = Api::all(f.client.clone());
    let name = "bucketforks.anabranch.dev";
    let mut definition = definitions.get(name).await.unwrap();
    let schema = definition.spec.versions[0]
        .schema
        .as_mut()
        .unwrap()
        .open_api_v3_schema
        .as_mut()
        .unwrap();
    let status = schema
        .properties
        .as_mut()
        .unwrap()
        .get_mut("status")
        .unwrap();
    status
        .properties
        .as_mut()
        .unwrap()
        .get_mut("count")
        .unwrap()
        .maximum = None;
    definition.metadata.managed_fields = None;
    definitions
        .replace(name, &kube::api::PostParams::default(), &definition)
        .await
        .unwrap();
    good("strange").await;
    good("strange-too").await;
    for name in ["strange", "strange-too"] {
        f.eventually("it is taken", async |f: &Fixture| {
            let body = Patch::Merge(json!({"status": {"count": 5_000_000_000_u64}}));
            let fork = f.dynamic(&key(Kind::Fork, "team", name));
            fork.patch_status(name, &PatchParams::default(), &body)
                .await
                .ok()
                .map(drop)
        })
        .await;
    }
    f.eventually("both are counted", async |_: &Fixture| {
        forks(unreadable + 2, &operator).then_some(())
    })
    .await;
    good("beside").await;
    assert_eq!(operator.metrics.looks("panicked"), 0);
    operator.stop().await;
    let second = Running::with_patience(&f.cluster, "two", patience);
    good("beside-too").await;
    f.eventually("both are counted", async |_: &Fixture| {
        forks(unreadable + 2, &second).then_some(())
    })
    .await;
    // One is mended, the other deleted.
    let mended = json!({"status": {"count": 1}});
    let strange = key(Kind::Fork, "team", "strange");
    let body = Patch::Merge(mended);
    f.dynamic(&strange)
        .patch_status("strange", &PatchParams::default(), &body)
        .await
        .unwrap();
    f.strip(&strange).await;
    f.held(&strange).await;
    let too = key(Kind::Fork, "team", "strange-too");
    f.dynamic(&too)
        .delete("strange-too", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    f.eventually("it is let go", async |f: &Fixture| {
        f.dynamic(&too)
            .get_opt("strange-too")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    second.stop().await;
}

/// A claim whose fork a policy of the cluster refuses says so, and gets it when the policy goes.
async fn refusals_are_told(f: &Fixture) {
    f.apply(json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-forks"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["anabranch.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["bucketforks"]},
            ]},
            "validations": [{"expression": "!object.metadata.name.startsWith('asks-')", "message": "no forks for claims here"}],
        },
    }))
    .await
    .unwrap();
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-forks"},
        "spec": {"policyName": "no-forks", "validationActions": ["Deny"]},
    });
    f.apply(binding).await.unwrap();
    // A policy takes a moment to be read by the API server.
    f.eventually("the policy is there", async |f: &Fixture| {
        let fork = key(Kind::Fork, "team", "asks-dry");
        let body = json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": "BucketFork", "metadata": {"name": "asks-dry"},
            "spec": {"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}});
        let dry = PatchParams { dry_run: true, ..PatchParams::apply("kubectl") };
        f.dynamic(&fork).patch("asks-dry", &dry, &Patch::Apply(&body)).await.err().map(drop)
    })
    .await;
    f.apply(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "team", "name": "asks"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {"apiGroup": "anabranch.dev", "kind": "Bucket", "name": "base"}},
    }))
    .await
    .unwrap();
    f.eventually("the refusal is told", async |f: &Fixture| {
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(f.client.clone(), "team");
        let events = events.list(&ListParams::default()).await.unwrap();
        let told = events.items.iter().any(|event| {
            event.reason.as_deref() == Some("ForkRefused")
                && event
                    .note
                    .as_deref()
                    .is_some_and(|note| note.contains("no forks for claims here"))
        });
        told.then_some(())
    })
    .await;
    let bindings: Api<
        k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    > = Api::all(f.client.clone());
    bindings
        .delete("no-forks", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    f.eventually("the claim has its fork", async |f: &Fixture| {
        // Some of them cannot be read.
        let forks = f.dynamic(&key(Kind::Fork, "team", ""));
        let forks = forks.list(&ListParams::default()).await.unwrap();
        let mut names = forks
            .items
            .iter()
            .filter_map(|fork| fork.metadata.name.as_deref());
        names.any(|name| name.starts_with("asks-")).then_some(())
    })
    .await;
}
