//! The rules in Rust against the same rules in CEL, as an API server evaluates them.

use std::collections::BTreeSet;

use crds::rules::{self, FieldRule};
use crds::{Bucket, BucketFork, BucketSnapshot, Validate, names, schema};
use kube::core::cel::Validator;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn rules_of(kind: &str) -> &'static [&'static FieldRule] {
    match kind {
        names::KIND_BUCKET => rules::BUCKET,
        names::KIND_SNAPSHOT => rules::SNAPSHOT,
        _ => rules::FORK,
    }
}

/// Rules in a schema: scope and CEL text.
fn rules_in(schema: &Value, scope: &str, found: &mut BTreeSet<(String, String, String)>) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let text = |field: &str| rule[field].as_str().unwrap().to_owned();
        assert!(found.insert((scope.to_owned(), text("rule"), text("message"))));
    }
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        rules_in(
            schema,
            format!("{scope}.{field}").trim_start_matches('.'),
            found,
        );
    }
}

#[test]
fn the_definitions_hold_exactly_the_rules_of_the_table() {
    for kind in names::KINDS {
        let mut found = BTreeSet::new();
        rules_in(schema::of_kind(kind).unwrap(), "", &mut found);
        let wanted = rules_of(kind)
            .iter()
            .map(|rule| {
                (
                    rule.scope.to_owned(),
                    rule.cel.to_owned(),
                    rule.full_message(),
                )
            })
            .collect::<BTreeSet<_>>();
        assert_eq!(found, wanted, "{kind}");
        for (_, _, message) in found {
            assert!(!message.contains('\n') && message.len() < 2048);
        }
    }
}

/// Messages of the rules that CEL finds broken.
fn by_cel(kind: &str, object: &Value, old: Option<&Value>) -> BTreeSet<String> {
    match Validator::new().validate(schema::of_kind(kind).unwrap(), object, old) {
        Ok(()) => BTreeSet::new(),
        Err(errors) => errors
            .as_slice()
            .iter()
            .map(|error| error.message.clone())
            .collect(),
    }
}

/// Messages of the rules that Rust finds broken.
fn by_rust<T: Validate>(object: &T, old: Option<&T>) -> BTreeSet<String> {
    let errors = match old {
        Some(old) => T::validate_update(old, object),
        None => object.validate(),
    };
    errors
        .iter()
        .filter_map(|error| Some(error.rule?.full_message()))
        .collect()
}

fn same<T: Validate + Serialize + DeserializeOwned>(
    kind: &str,
    object: &Value,
    old: Option<&Value>,
) -> BTreeSet<String> {
    let read = |value: &Value| serde_json::from_value::<T>(value.clone()).unwrap();
    let rust = by_rust(&read(object), old.map(read).as_ref());
    let cel = by_cel(kind, object, old);
    assert_eq!(
        rust, cel,
        "Rust and CEL differ on {object} (before: {old:?})"
    );
    rust
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

fn check(kind: &str, object: &Value, old: Option<&Value>) -> BTreeSet<String> {
    match kind {
        names::KIND_BUCKET => same::<Bucket>(kind, object, old),
        names::KIND_SNAPSHOT => same::<BucketSnapshot>(kind, object, old),
        _ => same::<BucketFork>(kind, object, old),
    }
}

/// For each rule: an object (and the one before) that holds to it, and one that breaks it and nothing else.
#[test]
fn each_rule_refuses_what_it_should_and_nothing_else() {
    let life = json!({"noExpiry": true});
    let fork = |source: Value, count: Option<u32>| match count {
        Some(count) => json!({"source": source, "lifetime": {"noExpiry": true}, "count": count}),
        None => json!({"source": source, "lifetime": {"noExpiry": true}}),
    };
    let snap = |source: Value| json!({"source": source, "lifetime": life});
    let of = json!({"bucket": "b"});
    let (x59, x60, x63, x64) = (
        "x".repeat(59),
        "x".repeat(60),
        "x".repeat(63),
        "x".repeat(64),
    );
    let lives = |life: Value| json!({"source": {"bucket": "b"}, "lifetime": life});
    let tar = json!({"source": {"tar": {"path": "/a"}}});
    // Rule, kind, (name, spec) that holds, (name, spec) that does not, spec before.
    type Row<'a> = (
        &'a FieldRule,
        &'a str,
        (&'a str, Value),
        (&'a str, Value),
        Option<Value>,
    );
    let rows: Vec<Row<'_>> = vec![
        (
            &rules::BUCKET_NAME,
            "Bucket",
            (&x63, json!({})),
            (&x64, json!({})),
            None,
        ),
        (
            &rules::SNAPSHOT_NAME,
            "BucketSnapshot",
            (&x63, snap(of.clone())),
            (&x64, snap(of.clone())),
            None,
        ),
        (
            &rules::FORK_NAME,
            "BucketFork",
            (&x63, fork(of.clone(), None)),
            (&x64, fork(of.clone(), None)),
            None,
        ),
        (
            &rules::FORK_NAME,
            "BucketFork",
            (&x60, fork(of.clone(), Some(100))),
            (&x60, fork(of.clone(), Some(101))),
            None,
        ),
        (
            &rules::FORK_NAME,
            "BucketFork",
            (&x59, fork(of.clone(), Some(1000))),
            (&x60, fork(of.clone(), Some(1000))),
            None,
        ),
        (
            &rules::FORK_NAME,
            "BucketFork",
            (&x60, fork(of.clone(), Some(0))),
            (&x63, fork(of.clone(), Some(0))),
            None,
        ),
        (
            &rules::FORK_NOT_OF_ITSELF,
            "BucketFork",
            ("f", fork(json!({"fork": "g"}), None)),
            ("f", fork(json!({"fork": "f"}), None)),
            None,
        ),
        (
            &rules::BUCKET_SOURCE_IMMUTABLE,
            "Bucket",
            ("b", tar.clone()),
            ("b", json!({"source": {"tar": {"path": "/b"}}})),
            Some(tar.clone()),
        ),
        (
            &rules::BUCKET_SOURCE_IMMUTABLE,
            "Bucket",
            ("b", tar.clone()),
            ("b", json!({})),
            Some(tar.clone()),
        ),
        (
            &rules::BUCKET_SOURCE_IMMUTABLE,
            "Bucket",
            ("b", json!({})),
            ("b", tar.clone()),
            Some(json!({"history": {"retain": "1h"}})),
        ),
        (
            &rules::IMPORT_SOURCE_ONE_OF,
            "Bucket",
            ("b", tar.clone()),
            ("b", json!({"source": {}})),
            None,
        ),
        (
            &rules::IMPORT_SOURCE_ONE_OF,
            "Bucket",
            ("b", json!({"source": {"directory": {"path": "/a"}}})),
            (
                "b",
                json!({"source": {"directory": {"path": "/a"}, "tar": {"path": "/a"}}}),
            ),
            None,
        ),
        (
            &rules::SNAPSHOT_SOURCE_IMMUTABLE,
            "BucketSnapshot",
            ("s", snap(of.clone())),
            ("s", snap(json!({"fork": "b"}))),
            Some(snap(of.clone())),
        ),
        (
            &rules::SNAPSHOT_SOURCE_IMMUTABLE,
            "BucketSnapshot",
            ("s", lives(json!({"ttl": "1h"}))),
            ("s", snap(json!({"bucket": "b", "at": "1"}))),
            Some(snap(of.clone())),
        ),
        (
            &rules::SNAPSHOT_SOURCE_ONE_OF,
            "BucketSnapshot",
            ("s", snap(of.clone())),
            ("s", snap(json!({"at": "1"}))),
            None,
        ),
        (
            &rules::SNAPSHOT_SOURCE_ONE_OF,
            "BucketSnapshot",
            ("s", snap(of.clone())),
            ("s", snap(json!({"bucket": "b", "fork": "f"}))),
            None,
        ),
        (
            &rules::FORK_SOURCE_IMMUTABLE,
            "BucketFork",
            ("f", fork(of.clone(), None)),
            ("f", fork(json!({"bucket": "c"}), None)),
            Some(fork(of.clone(), None)),
        ),
        (
            &rules::FORK_SOURCE_ONE_OF,
            "BucketFork",
            ("f", fork(of.clone(), None)),
            ("f", fork(json!({}), None)),
            None,
        ),
        (
            &rules::FORK_SOURCE_ONE_OF,
            "BucketFork",
            ("f", fork(of.clone(), None)),
            ("f", fork(json!({"bucket": "b", "snapshot": "s"}), None)),
            None,
        ),
        (
            &rules::BUCKET_NODE_IMMUTABLE,
            "Bucket",
            ("b", json!({"node": "n"})),
            ("b", json!({"node": "m"})),
            Some(json!({"node": "n"})),
        ),
        (
            &rules::FORK_SOURCE_NAMESPACE,
            "BucketFork",
            ("f", fork(json!({"bucket": "b", "namespace": "d"}), None)),
            ("f", fork(json!({"fork": "g", "namespace": "d"}), None)),
            None,
        ),
        (
            &rules::FORK_COUNT_FORM,
            "BucketFork",
            ("f", fork(of.clone(), Some(3))),
            ("f", fork(of.clone(), None)),
            Some(fork(of.clone(), Some(9))),
        ),
        (
            &rules::FORK_COUNT_FORM,
            "BucketFork",
            ("f", fork(of.clone(), None)),
            ("f", fork(of.clone(), Some(1))),
            Some(fork(of.clone(), None)),
        ),
        (
            &rules::LIFETIME_ONE_OF,
            "BucketFork",
            ("f", lives(json!({"ttl": "1h"}))),
            ("f", lives(json!({}))),
            None,
        ),
        (
            &rules::LIFETIME_ONE_OF,
            "BucketSnapshot",
            ("s", lives(json!({"expireTime": "2026-01-01T00:00:00Z"}))),
            ("s", lives(json!({"ttl": "1h", "noExpiry": true}))),
            None,
        ),
        (
            &rules::LIFETIME_NO_EXPIRY,
            "BucketSnapshot",
            ("s", lives(json!({"noExpiry": true}))),
            ("s", lives(json!({"noExpiry": false}))),
            None,
        ),
        (
            &rules::LIFETIME_TTL,
            "BucketFork",
            ("f", lives(json!({"ttl": "0h1ms"}))),
            ("f", lives(json!({"ttl": "0h0m"}))),
            None,
        ),
        (
            &rules::LIFETIME_END,
            "BucketFork",
            ("f", lives(json!({"expireTime": "9998-12-31T23:59:59Z"}))),
            ("f", lives(json!({"expireTime": "9999-12-30T00:00:00Z"}))),
            None,
        ),
    ];
    let mut covered = BTreeSet::new();
    for (rule, kind, good, bad, before) in rows {
        let old = before.map(|spec| object(kind, good.0, spec));
        assert_eq!(
            check(kind, &object(kind, good.0, good.1), old.as_ref()),
            BTreeSet::new(),
            "{rule:?}"
        );
        let broken = check(kind, &object(kind, bad.0, bad.1), old.as_ref());
        assert_eq!(broken, BTreeSet::from([rule.full_message()]), "{rule:?}");
        covered.insert(rule.full_message());
    }
    // An `at` that is no time cannot even be read into the type; CEL and the manifest reader refuse it.
    for at in [
        "2026-02-31T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
    ] {
        let value = object(
            "BucketFork",
            "f",
            fork(json!({"bucket": "b", "at": at}), None),
        );
        assert_eq!(by_cel("BucketFork", &value, None).len(), 1, "{at}");
        assert!(serde_json::from_value::<BucketFork>(value.clone()).is_err());
        let document = crds::manifest::parse(&value.to_string()).remove(0);
        assert_eq!(document.result.unwrap_err()[0].path, "spec.source.at");
    }
    covered.insert(rules::AT_IS_A_TIME.full_message());
    let all = names::KINDS
        .into_iter()
        .flat_map(|kind| rules_of(kind).iter().map(|rule| rule.full_message()))
        .collect();
    assert_eq!(covered, all, "a rule has no row");
}

fn maybe<T: std::fmt::Debug + Clone + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    proptest::option::of(strategy).boxed()
}

/// Objects of any kind, valid and not, such as pass the schema.
fn any_object() -> impl Strategy<Value = (&'static str, Value)> {
    let name = prop_oneof![
        "[a-c]".prop_map(|name| name),
        Just("x".repeat(62)),
        Just("x".repeat(63)),
        Just("x".repeat(64))
    ];
    let reference = || maybe("[a-c]".prop_map(Value::from));
    let at = maybe(prop_oneof![
        Just(json!("0")),
        Just(json!("2026-01-31T12:00:00Z")),
        Just(json!("1970-01-01T01:00:00+01:00")),
        Just(json!("9998-12-31T23:59:59Z"))
    ]);
    let life = (
        maybe(
            prop_oneof![
                Just("0s"),
                Just("1h"),
                Just("0h0m0.0s"),
                Just("0.1s"),
                Just("10m")
            ]
            .prop_map(Value::from),
        ),
        maybe(prop_oneof![
            Just(json!("2026-01-31T12:00:00Z")),
            Just(json!("9999-01-01T00:00:00Z"))
        ]),
        maybe(any::<bool>().prop_map(Value::from)),
    );
    let path = maybe(prop_oneof![
        Just(json!({"path": "/a"})),
        Just(json!({"path": "b"}))
    ]);
    let import = maybe((path.clone(), path));
    let count = maybe((0u32..=1000).prop_map(Value::from));
    (
        0usize..3,
        name,
        (reference(), reference(), reference(), at),
        life,
        import,
        count,
    )
        .prop_map(
            |(kind, name, (bucket, snapshot, fork, at), (ttl, expire, never), import, count)| {
                let fields = |fields: Vec<(&str, Option<Value>)>| {
                    Value::Object(
                        fields
                            .into_iter()
                            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                            .collect(),
                    )
                };
                let life = fields(vec![
                    ("ttl", ttl),
                    ("expireTime", expire),
                    ("noExpiry", never),
                ]);
                let spec = match names::KINDS[kind] {
                    names::KIND_BUCKET => {
                        let source = import.map(|(directory, tar)| {
                            fields(vec![("directory", directory), ("tar", tar)])
                        });
                        fields(vec![("source", source)])
                    }
                    names::KIND_SNAPSHOT => fields(vec![
                        (
                            "source",
                            Some(fields(vec![("bucket", bucket), ("fork", fork), ("at", at)])),
                        ),
                        ("lifetime", Some(life)),
                    ]),
                    _ => fields(vec![
                        (
                            "source",
                            Some(fields(vec![
                                ("bucket", bucket),
                                ("snapshot", snapshot),
                                ("fork", fork),
                                ("at", at),
                            ])),
                        ),
                        ("lifetime", Some(life)),
                        ("count", count),
                    ]),
                };
                (names::KINDS[kind], object(names::KINDS[kind], &name, spec))
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the object, and whatever it was before: Rust and CEL find the same rules broken.
    #[test]
    fn rust_and_cel_agree(a in any_object(), b in any_object()) {
        check(a.0, &a.1, None);
        if a.0 == b.0 {
            let mut old = b.1.clone();
            old["metadata"]["name"] = a.1["metadata"]["name"].clone();
            check(a.0, &a.1, Some(&old));
            check(a.0, &a.1, Some(&a.1));
        }
    }
}
