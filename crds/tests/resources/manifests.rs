//! Manifests as people write them, rightly and wrongly.

use crds::manifest::{self, ErrorSort};
use crds::{Kind, Object, ObjectKey};

const FORK: &str =
    "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {name: agent}\nspec:\n";

/// The errors of a text of one document, as they are shown.
fn errors_of(text: &str) -> Vec<String> {
    let mut documents = manifest::parse(text);
    assert_eq!(documents.len(), 1, "{text}");
    documents
        .remove(0)
        .result
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A fork with this spec is refused with one error, in which all these parts stand.
fn refused(spec: &str, parts: &[&str]) {
    let errors = errors_of(&format!("{FORK}{spec}"));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
    }
}

#[test]
fn the_shape_that_users_write_is_read() {
    let text = "
apiVersion: anabranch.dev/v1alpha1
kind: Bucket
metadata: {name: base}
spec:
  source: {directory: {path: /some/dataset}}
  history: {retain: 1h}
---
apiVersion: anabranch.dev/v1alpha1
kind: BucketSnapshot
metadata: {name: base-v1}
spec: {source: {bucket: base}, lifetime: {noExpiry: true}}
---
apiVersion: anabranch.dev/v1alpha1
kind: BucketFork
metadata: {name: agent}
spec:
  source: {snapshot: base-v1}
  count: 3
  lifetime: {ttl: 24h}
  quota: {bytes: 1Gi, inodes: 100000}
";
    let loaded = manifest::load([("a.yaml", text)]);
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    let places: Vec<_> = loaded
        .objects
        .iter()
        .map(|placed| placed.place.to_string())
        .collect();
    assert_eq!(
        places,
        [
            "a.yaml, document 1 (line 2)",
            "a.yaml, document 2 (line 9)",
            "a.yaml, document 3 (line 14)"
        ]
    );
    let keys: Vec<_> = loaded
        .objects
        .iter()
        .map(|placed| placed.object.key().to_string())
        .collect();
    assert_eq!(
        keys,
        [
            "Bucket default/base",
            "BucketSnapshot default/base-v1",
            "BucketFork default/agent"
        ]
    );
    let Object::Fork(fork) = &loaded.objects[2].object else {
        panic!()
    };
    assert_eq!(fork.metadata.namespace.as_deref(), Some("default"));
    let quota = fork.spec.quota.as_ref().unwrap();
    assert_eq!(
        (quota.bytes.unwrap().0, quota.inodes),
        (1 << 30, Some(100_000))
    );
    assert_eq!(fork.spec.lifetime.ttl.unwrap().0.as_secs(), 86_400);
    // The same as JSON, and as YAML written by us.
    for placed in &loaded.objects {
        let json = serde_json::to_string(&placed.object).unwrap();
        let yaml = crds::yaml::to_string(&placed.object).unwrap();
        for text in [json, yaml] {
            assert_eq!(
                manifest::parse(&text)[0].result.as_ref().unwrap(),
                &placed.object,
                "{text}"
            );
        }
    }
}

#[test]
fn every_slip_names_its_field_and_what_is_allowed() {
    let ok = "  lifetime: {noExpiry: true}\n  source: {bucket: b}\n";
    refused(
        "  lifetime: {ttl: 1h}\n  sorce: {bucket: b}\n  source: {bucket: b}\n",
        &[
            "line 6",
            "spec.sorce",
            "is source meant?",
            "allowed: claim, count, lifetime",
        ],
    );
    refused(
        &format!("{ok}  count: three\n"),
        &[
            "line 7: spec.count",
            "a whole number is expected, not the text \"three\"",
        ],
    );
    refused(
        &format!("{ok}  count: 1.5\n"),
        &["spec.count", "the number 1.5"],
    );
    refused(
        &format!("{ok}  count: -1\n"),
        &["spec.count", "-1 is out of range; allowed: 0 to 1000"],
    );
    refused(&format!("{ok}  count: 1001\n"), &["allowed: 0 to 1000"]);
    refused(
        &format!("{ok}  count: '3'\n"),
        &["spec.count", "without quotes"],
    );
    refused(
        &format!("{ok}  count: 03\n"),
        &["spec.count", "the text \"03\""],
    );
    refused(
        &format!("{ok}  readOnly: 'true'\n"),
        &["spec.readOnly", "allowed: true, false"],
    );
    refused(
        &format!("{ok}  quota: {{bytes: 1gb}}\n"),
        &["spec.quota.bytes", "the unit is unknown", "1.5Gi"],
    );
    refused(
        &format!("{ok}  quota: {{bytes: -5}}\n"),
        &["spec.quota.bytes", "out of range; allowed: at least 0"],
    );
    refused(
        &format!("{ok}  quota: {{bytes: 1.5}}\n"),
        &["spec.quota.bytes", "the number 1.5"],
    );
    refused(
        &format!("{ok}  quota: {{bytes: 99999999999999999999}}\n"),
        &["spec.quota.bytes"],
    );
    refused(
        &format!("{ok}  quota: 5\n"),
        &["spec.quota", "a mapping is expected, not the number 5"],
    );
    refused(
        "  source: {bucket: b}\n",
        &[
            "line 4",
            "spec.lifetime: lifetime is missing; allowed: a mapping with expireTime, noExpiry, ttl",
        ],
    );
    refused(
        "  source: {bucket: b}\n  lifetime:\n",
        &["spec.lifetime", "missing"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {}\n",
        &["spec.source: exactly one source", "allowed: one of bucket"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: b, snapshot: null, fork: f}\n",
        &["exactly one source"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: Base}\n",
        &["spec.source.bucket", "lower-case"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: ''}\n",
        &["spec.source.bucket", "empty", "lower-case"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: 5}\n",
        &[
            "spec.source.bucket",
            "a text is expected, not the number 5",
            "lower-case",
        ],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: b, at: 1764183335000000000}\n",
        &[
            "spec.source.at",
            "a text is expected",
            "as a quoted decimal number",
        ],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: b, at: yesterday}\n",
        &["spec.source.at", "RFC 3339"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {bucket: b, at: 2026-02-31T00:00:00Z}\n",
        &["spec.source.at", "RFC 3339"],
    );
    refused(
        "  lifetime: {ttl: 1day}\n  source: {bucket: b}\n",
        &["spec.lifetime.ttl", "the unit is unknown", "7d"],
    );
    refused(
        "  lifetime: {ttl: 0s}\n  source: {bucket: b}\n",
        &["spec.lifetime.ttl", "zero"],
    );
    refused(
        "  lifetime: {expireTime: tomorrow}\n  source: {bucket: b}\n",
        &["spec.lifetime.expireTime", "is not a time", "RFC 3339"],
    );
    refused(
        "  lifetime: {noExpiry: false}\n  source: {bucket: b}\n",
        &["spec.lifetime.noExpiry", "ttl or expireTime"],
    );
    refused(
        "  lifetime: {ttl: 1h, noExpiry: true}\n  source: {bucket: b}\n",
        &["spec.lifetime: exactly one lifetime"],
    );
    refused(
        "  lifetime: {ttl: 1h}\n  source: {fork: agent}\n",
        &["spec.source.fork: the fork is its own source"],
    );
    refused(
        &format!("{ok}  readOnly: true\n  readOnly: false\n"),
        &["line 8: spec.readOnly", "given twice, before on line 7"],
    );
}

/// Found by comparing with the API server's own validation.
#[test]
fn corners_are_read_as_an_api_server_reads_them() {
    let ok = "  lifetime: {noExpiry: true}\n  source: {bucket: b}\n";
    refused(
        &format!("{ok}  replicas: null\n"),
        &["spec.replicas", "unknown"],
    );
    for time in [
        "2026-01-31T12:00Z",
        "2026-01-31 12:00:00Z",
        "2026-01-31T12:00:60Z",
        "2026-01-31t12:00:00z",
    ] {
        let spec = format!("  lifetime: {{expireTime: '{time}'}}\n  source: {{bucket: b}}\n");
        refused(
            &spec,
            &["spec.lifetime.expireTime", "is not a time", "RFC 3339"],
        );
    }
    // An API server takes 2.0 for a whole number in some fields and not in others; here it is none.
    refused(
        &format!("{ok}  count: 2.0\n"),
        &["spec.count", "a whole number is expected"],
    );
    let late = format!(
        "{FORK}  lifetime: {{expireTime: 2026-01-31T12:00:00.5+01:00}}\n  source: {{bucket: b}}\n"
    );
    assert!(manifest::parse(&late)[0].result.is_ok());
}

#[test]
fn one_reading_shows_everything_that_is_wrong() {
    let errors = errors_of(&format!(
        "{FORK}  source: {{bucket: b, snapshot: s}}\n  lifetime: {{}}\n  replicas: 3\n"
    ));
    assert_eq!(errors.len(), 3, "{errors:#?}");
}

#[test]
fn documents_that_are_no_objects_of_ours_say_so() {
    let spec = "spec: {}\n";
    for (text, parts) in [
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
            [
                "kind",
                "another product",
                "Bucket, BucketSnapshot, BucketFork of anabranch.dev/v1alpha1",
            ],
        ),
        (
            "apiVersion: s3.example.com/v1\nkind: Bucket\nmetadata: {name: a}\n",
            ["kind", "another product", "anabranch.dev/v1alpha1"],
        ),
        (
            &format!("apiVersion: anabranch.dev/v1\nkind: Bucket\nmetadata: {{name: a}}\n{spec}"),
            [
                "apiVersion",
                "anabranch.dev/v1 is unknown",
                "allowed: anabranch.dev/v1alpha1",
            ],
        ),
        (
            &format!("apiVersion: v1alpha1\nkind: Bucket\nmetadata: {{name: a}}\n{spec}"),
            [
                "apiVersion",
                "v1alpha1 is unknown",
                "allowed: anabranch.dev/v1alpha1",
            ],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Buckets\nmetadata: {{name: a}}\n{spec}"
            ),
            [
                "kind",
                "Buckets is unknown",
                "allowed: Bucket, BucketSnapshot, BucketFork",
            ],
        ),
        (
            &format!("kind: Bucket\nmetadata: {{name: a}}\n{spec}"),
            ["apiVersion", "missing", "allowed: anabranch.dev/v1alpha1"],
        ),
        (
            &format!("apiVersion: anabranch.dev/v1alpha1\nmetadata: {{name: a}}\n{spec}"),
            ["kind", "missing", "allowed: Bucket"],
        ),
        (
            &format!("apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\n{spec}"),
            ["metadata", "missing", "name"],
        ),
        (
            &format!("apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{}}\n{spec}"),
            ["metadata.name", "missing", "lower-case"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: on}}\n{spec}"
            ),
            ["metadata.name", "a text is expected, not true", "quotes"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: a/b}}\n{spec}"
            ),
            ["metadata.name", "is not a name", "lower-case"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: a, namespace: ../b}}\n{spec}"
            ),
            ["metadata.namespace", "is not a namespace", "lower-case"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{generateName: a}}\n{spec}"
            ),
            ["metadata.generateName", "not generated", "metadata.name"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: a, labels: {{example.com/x: 1}}}}\n{spec}"
            ),
            ["metadata.labels[example.com/x]", "a text", "quotes"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: a, lables: {{}}}}\n{spec}"
            ),
            ["metadata.lables", "labels meant", "annotations"],
        ),
        (
            "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {name: a}\n",
            ["spec", "missing", "source"],
        ),
        (
            &format!(
                "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: a}}\n{spec}data: 1\n"
            ),
            ["data", "unknown", "spec"],
        ),
        ("just a text\n", ["", "not a mapping", "apiVersion"]),
        ("- a\n- list\n", ["", "not a mapping", "apiVersion"]),
        ("a: [1, 2\n", ["", "not YAML", ""]),
        ("a: !custom 1\n", ["a", "tag", "without tags"]),
        (
            "? [a]\n: 1\n",
            ["", "key is not a text", "a text as the key"],
        ),
        ("a: &x [*x]\n", ["", "", ""]),
    ] {
        let errors = errors_of(text);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        for part in parts {
            assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
        }
    }
}

#[test]
fn everything_valid_goes_on() {
    let bucket = |name: &str| {
        format!(
            "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: {name}}}\nspec: {{}}\n"
        )
    };
    let text = format!(
        "# a comment\n{}---\nthis: [is broken\n---\n# only a comment\n---\n{}---\napiVersion: v1\nkind: Pod\n...\n---\n{}",
        bucket("one"),
        bucket("TWO"),
        bucket("three"),
    );
    let documents = manifest::parse(&text);
    let found: Vec<_> = documents
        .iter()
        .map(|document| (document.index, document.line, document.result.is_ok()))
        .collect();
    assert_eq!(
        found,
        [
            (1, 2, true),
            (2, 6, false),
            (3, 11, false),
            (4, 16, false),
            (5, 20, true)
        ]
    );
    let sorts: Vec<_> = documents
        .iter()
        .filter_map(|document| Some(document.result.as_ref().err()?[0].sort))
        .collect();
    assert_eq!(
        sorts,
        [ErrorSort::Syntax, ErrorSort::Field, ErrorSort::Foreign]
    );
    let windows = text.replace('\n', "\r\n");
    assert_eq!(
        manifest::parse(&format!("\u{feff}{windows}"))
            .iter()
            .filter(|document| document.result.is_ok())
            .count(),
        2
    );
}

#[test]
fn the_same_object_twice_is_an_error_that_names_both_places() {
    let bucket =
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {name: base}\nspec: {}\n";
    let fork = |name: &str, count: &str| {
        format!(
            "---\napiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: {name}}}\nspec: {{source: {{bucket: base}}, lifetime: {{ttl: 1h}}{count}}}\n"
        )
    };
    let other = bucket.replace("name: base", "name: base, namespace: other");
    let first = format!("{bucket}{}", fork("agent", ", count: 3"));
    let second = format!(
        "{other}---\n{bucket}{}{}",
        fork("agent-2", ""),
        fork("agent-3", "")
    );
    let loaded = manifest::load([("a.yaml", first.as_str()), ("b.yaml", second.as_str())]);
    let kept: Vec<_> = loaded
        .objects
        .iter()
        .map(|placed| placed.object.key().to_string())
        .collect();
    assert_eq!(
        kept,
        [
            "Bucket default/base",
            "BucketFork default/agent",
            "Bucket other/base",
            "BucketFork default/agent-3"
        ]
    );
    let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("b.yaml: document 2, line 6: metadata.name: Bucket default/base is described twice, first in a.yaml, document 1 (line 1)"), "{}", errors[0]);
    assert!(errors[1].contains("a fork default/agent-2 of the same name as BucketFork default/agent in a.yaml, document 2"), "{}", errors[1]);
    assert!(
        loaded
            .errors
            .iter()
            .all(|error| error.error.sort == ErrorSort::Duplicate)
    );
}

/// A slip in an editor must not look as if objects were deleted.
#[test]
fn an_object_is_gone_only_when_nothing_can_describe_it() {
    let key = ObjectKey::new(Kind::Bucket, "default", "base");
    let other = ObjectKey::new(Kind::Bucket, "default", "other");
    let valid =
        "apiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {name: base}\nspec: {}\n";
    let gone = |text: &str, key| manifest::load([("a", text)]).is_gone(key);
    assert!(!gone(valid, &key) && gone(valid, &other));
    let invalid = valid.replace("spec: {}", "spec: {sorce: {}}");
    assert!(!gone(&invalid, &key) && gone(&invalid, &other));
    let broken = valid.replace("spec: {}", "spec: {");
    assert!(!gone(&broken, &key) && !gone(&broken, &other));
    assert!(gone("apiVersion: v1\nkind: Pod\n", &key) && gone("", &key));
}

#[test]
fn aliases_and_merges_are_followed_within_bounds() {
    let text = "
apiVersion: anabranch.dev/v1alpha1
kind: BucketFork
metadata: &meta {name: one, annotations: &notes {a: b}}
spec: &spec {source: {bucket: b}, lifetime: {ttl: 1h}}
---
apiVersion: anabranch.dev/v1alpha1
kind: BucketFork
metadata: {name: two, labels: &l {x: 'y'}, annotations: *l}
spec:
  <<: {count: 2, source: {bucket: b}}
  count: 3
  lifetime: {ttl: 1h}
";
    let loaded = manifest::load([("a", text)]);
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    let Object::Fork(fork) = &loaded.objects[1].object else {
        panic!()
    };
    assert_eq!(
        (
            fork.spec.count,
            fork.metadata.annotations.as_ref().unwrap()["x"].as_str()
        ),
        (Some(3), "y")
    );
    // A billion of laughs, and a tower of anchors.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let refs = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{refs}]\n");
    }
    assert!(errors_of(&bomb)[0].contains("too large"));
    let mut tower = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        tower += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(errors_of(&tower)[0].contains("too deep"));
    assert!(!errors_of(&"[".repeat(100_000)).is_empty());
    assert!(!errors_of(&"- ".repeat(100_000)).is_empty());
}
