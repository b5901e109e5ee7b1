//! Whatever is asked for, and wherever the process dies: what is left to do is done, once, and nothing else is touched.

use std::collections::BTreeSet;

use crds::{Kind, Object, ObjectKey};
use operator::{Id, Settings};
use proptest::prelude::*;

use crate::world::Sim;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// Manifests are applied.
    Apply(String),
    /// An object is deleted.
    Delete(ObjectKey),
    /// Time passes.
    Pass(i64),
    /// The process works, and dies after so many steps.
    Work(usize),
}

const BUCKETS: [&str; 2] = ["base", "other"];
const SNAPSHOTS: [&str; 2] = ["s", "t"];
const FORKS: [&str; 3] = ["f", "g", "g-0"];

fn any_event() -> impl Strategy<Value = Event> {
    let head = |kind: &str, name: &str| {
        format!("apiVersion: anabranch.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
    };
    let life = prop_oneof![
        Just("ttl: 30s"),
        Just("noExpiry: true"),
        Just("expireTime: '2027-01-15T09:00:00Z'")
    ];
    let bucket = (
        prop::sample::select(&BUCKETS[..]),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(move |(name, source, retain)| {
            let source = if source {
                "source: {directory: {path: /data}}, "
            } else {
                ""
            };
            let policy = if retain { "Retain" } else { "Delete" };
            format!(
                "{}spec: {{{source}deletionPolicy: {policy}}}\n",
                head("Bucket", name)
            )
        });
    let of = || {
        let names = |kind: &'static str, names: &'static [&'static str]| {
            prop::sample::select(names).prop_map(move |name| format!("{kind}: {name}"))
        };
        (
            names("bucket", &BUCKETS),
            names("snapshot", &SNAPSHOTS),
            names("fork", &["f", "g", "g-0", "g-1"]),
        )
    };
    let (bucket_of, _, fork_of) = of();
    let snapshot = (
        prop::sample::select(&SNAPSHOTS[..]),
        prop_oneof![bucket_of, fork_of],
        life.clone(),
    )
        .prop_map(move |(name, source, life)| {
            format!(
                "{}spec: {{source: {{{source}}}, lifetime: {{{life}}}}}\n",
                head("BucketSnapshot", name)
            )
        });
    let (bucket_of, snapshot_of, fork_of) = of();
    let fork = (
        prop::sample::select(&FORKS[..]),
        prop_oneof![bucket_of, snapshot_of, fork_of],
        life,
        prop_oneof![
            Just(String::new()),
            (0u32..4).prop_map(|count| format!(", count: {count}"))
        ],
        any::<bool>(),
        prop::bool::weighted(0.1),
    )
        .prop_filter("no fork of itself", |(name, source, ..)| {
            *source != format!("fork: {name}")
        })
        .prop_map(move |(name, source, life, count, read_only, protected)| {
            let rest = format!(
                "lifetime: {{{life}}}{count}, readOnly: {read_only}, protected: {protected}"
            );
            format!(
                "{}spec: {{source: {{{source}}}, {rest}}}\n",
                head("BucketFork", name)
            )
        });
    let names = BUCKETS.map(|name| (Kind::Bucket, name)).into_iter();
    let names = names
        .chain(SNAPSHOTS.map(|name| (Kind::Snapshot, name)))
        .chain(FORKS.map(|name| (Kind::Fork, name)));
    let keys: Vec<_> = names
        .map(|(kind, name)| ObjectKey::new(kind, "default", name))
        .collect();
    prop_oneof![
        4 => prop_oneof![bucket, snapshot, fork].prop_map(Event::Apply),
        2 => prop::sample::select(keys).prop_map(Event::Delete),
        1 => (1i64..60).prop_map(Event::Pass),
        4 => (0usize..12).prop_map(Event::Work),
    ]
}

/// Something that is not ours, in every namespace of names that ours use.
fn strangers(sim: &mut Sim) -> BTreeSet<Id> {
    let names = [
        "bucket/default/stranger",
        "fork/default/g-3",
        "fork/other/f",
        "plain",
    ];
    let ids = names.iter().enumerate().map(|(number, name)| {
        let id = Id([number as u8 + 1; 16]);
        sim.add_timeline(id, name, None, Settings::default());
        id
    });
    ids.collect()
}

/// Nothing is done any more, nor said otherwise, by further rounds.
fn is_settled(sim: &mut Sim) {
    sim.settle();
    let before = (sim.store(), sim.objects.clone());
    for key in sim.objects.keys() {
        let plan = sim.plan(key);
        assert!(plan.actions.is_empty(), "{key}: {:?}", plan.actions);
        assert_eq!(
            plan.object, sim.objects[key],
            "the status of {key} is not settled"
        );
    }
    sim.settle();
    assert!(before == (sim.store(), sim.objects.clone()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_interruption_converges_and_only_what_is_owned_is_touched(events in prop::collection::vec(any_event(), 1..40)) {
        let mut sim = Sim::new();
        let strangers = strangers(&mut sim);
        let untouched = sim.observed.timelines.clone();
        for event in events {
            match event {
                Event::Apply(manifest) => sim.apply(&manifest),
                Event::Delete(key) => sim.delete(&key),
                Event::Pass(seconds) => sim.pass(seconds),
                Event::Work(mut steps) => {
                    while let Some(true) = sim.round(&mut steps) {}
                    sim.die();
                }
            }
        }
        is_settled(&mut sim);
        // Everything in the store belongs to an object that stands, or was retained, or is a stranger's.
        for timeline in sim.observed.timelines.values().filter(|timeline| !strangers.contains(&timeline.id)) {
            let labels = &timeline.settings.labels;
            let key = operator::owner::key_of(labels).unwrap();
            prop_assert!(sim.objects.contains_key(&key) || operator::owner::is_retained(labels), "{} is left over", timeline.name);
        }
        for snapshot in sim.observed.snapshots.values() {
            let key = operator::owner::key_of(&snapshot.labels).unwrap();
            prop_assert!(sim.objects.contains_key(&key), "{} is left over", snapshot.name);
        }
        // Everything that is ready is there, and mounted once.
        for object in sim.objects.values() {
            if let Object::Fork(fork) = object
                && let Some(status) = &fork.status
                && crds::conditions::is_true(&status.conditions, crds::conditions::READY)
            {
                prop_assert_eq!(status.ready_count, fork.spec.count.unwrap_or(1));
                prop_assert_eq!(status.mounts.len() as u32, status.ready_count);
            }
        }
        // In the end everything can go, in any order, unless it is protected or retained.
        for key in sim.objects.keys().cloned().collect::<Vec<_>>() {
            if let Some(Object::Fork(fork)) = sim.objects.get_mut(&key) {
                fork.spec.protected = None;
            }
            sim.delete(&key);
        }
        sim.settle();
        prop_assert!(sim.objects.is_empty());
        let mut left = sim.observed.timelines.clone();
        left.retain(|_, timeline| !operator::owner::is_retained(&timeline.settings.labels));
        prop_assert_eq!(left, untouched);
        prop_assert!(sim.observed.snapshots.is_empty() && sim.observed.mounts.is_empty());
    }
}
