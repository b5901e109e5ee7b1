//! Data of an earlier object of the same name: left alone until somebody says what is to become of it.

use crate::common::*;

/// A store on a node, whose objects are gone without its having heard of it.
fn forgotten(manifests: &str) -> Sim {
    let mut sim = Sim::new();
    sim.options.node = Some("n1".into());
    sim.options.mount_forks = false;
    sim.apply(manifests);
    sim.settle();
    sim.objects.clear();
    sim
}

fn annotate(sim: &mut Sim, key: &ObjectKey, value: &str) {
    let metadata = sim.objects.get_mut(key).unwrap().metadata_mut();
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(names::ANNOTATION_ADOPT.into(), value.into());
}

fn keys(sim: &Sim) -> Vec<ObjectKey> {
    sim.objects.keys().cloned().collect()
}

#[test]
fn it_is_neither_shown_nor_changed_nor_freed_by_itself() {
    let mut sim = forgotten(&quickstart());
    let before = (
        sim.observed.timelines.clone(),
        sim.observed.snapshots.clone(),
    );
    // Fresh objects of the same names, and one that would be made from them.
    sim.apply(&(quickstart() + &fork("new", "bucket: base", EVER, "")));
    sim.apply(&fork("of-snapshot", "snapshot: v1", EVER, ""));
    sim.apply(&fork("of-set", "fork: agent-0", EVER, ""));
    for name in ["new", "of-snapshot", "of-set"] {
        // Also before anything was said of its source.
        expect(
            &sim,
            &key(Kind::Fork, name),
            "[] Reconciling WaitingForSource",
        );
    }
    sim.settle();
    sim.pass(100_000);
    sim.settle();
    for (kind, name) in [
        (Kind::Bucket, "base"),
        (Kind::Snapshot, "v1"),
        (Kind::Fork, "agent"),
    ] {
        let plan = expect(&sim, &key(kind, name), "[] Stalled NameTaken");
        let message = plan.state.message();
        assert!(message.contains("anabranch.dev/adopt=uid-"), "{message}");
    }
    for name in ["new", "of-snapshot", "of-set"] {
        let plan = expect(
            &sim,
            &key(Kind::Fork, name),
            "[] Reconciling WaitingForSource",
        );
        let message = plan.state.message();
        assert!(message.contains("data of an earlier object"), "{message}");
    }
    assert!(status_of(&sim, "agent").items.is_empty());
    let after = (
        sim.observed.timelines.clone(),
        sim.observed.snapshots.clone(),
    );
    assert_eq!(before, after);
}

#[test]
fn whoever_says_so_takes_it_over_and_keeps_it() {
    let mut sim = forgotten(&quickstart());
    let store = sim.store();
    let old: Vec<Id> = sim.observed.timelines.keys().copied().collect();
    sim.apply(&(quickstart() + &fork("new", "bucket: base", EVER, "")));
    sim.settle();
    // Of another earlier object than the one whose data is there.
    annotate(&mut sim, &base(), "uid-77");
    expect(&sim, &base(), "[] Stalled NameTaken");
    let owner = &sim
        .observed
        .timeline_named("bucket/default/base")
        .unwrap()
        .settings
        .labels;
    let owner = owner[names::LABEL_OWNER].clone();
    annotate(&mut sim, &base(), &owner);
    for (kind, name) in [(Kind::Snapshot, "v1"), (Kind::Fork, "agent")] {
        annotate(&mut sim, &key(kind, name), names::ADOPT_ANY);
    }
    sim.settle();
    // It stays theirs when the annotations are gone.
    for key in keys(&sim) {
        sim.objects
            .get_mut(&key)
            .unwrap()
            .metadata_mut()
            .annotations = None;
    }
    sim.die();
    sim.settle();
    for key in keys(&sim) {
        expect(&sim, &key, "[] Ready Available");
    }
    assert!(old.iter().all(|id| sim.observed.timelines.contains_key(id)));
    assert_eq!(sim.store().len(), store.len() + 1);
    assert_eq!(status_of(&sim, "agent").ready_count, 3);
}

#[test]
fn deletion_of_the_new_object_frees_it_and_the_next_one_starts_anew() {
    let mut sim = forgotten(&quickstart());
    let old: Vec<Id> = sim.observed.timelines.keys().copied().collect();
    sim.apply(&quickstart());
    sim.settle();
    for key in keys(&sim) {
        sim.delete(&key);
    }
    sim.settle();
    assert_eq!(sim.store().len(), 0);
    assert!(sim.objects.is_empty());
    sim.apply(&quickstart());
    sim.settle();
    for key in keys(&sim) {
        expect(&sim, &key, "[] Ready Available");
    }
    assert!(
        old.iter()
            .all(|id| !sim.observed.timelines.contains_key(id))
    );
}

#[test]
fn what_a_bucket_left_on_purpose_a_status_names_or_no_cluster_knows_is_taken_over_at_once() {
    let mut sim = forgotten(&bucket("deletionPolicy: Retain"));
    sim.apply(&bucket("deletionPolicy: Retain"));
    sim.settle();
    expect(&sim, &base(), "[] Stalled NameTaken");
    sim.delete(&base());
    sim.settle();
    sim.apply(&bucket(""));
    sim.settle();
    expect(&sim, &base(), "[] Ready Available");

    // A backup that brings the status back.
    let mut sim = Sim::new();
    sim.options.node = Some("n1".into());
    sim.options.mount_forks = false;
    sim.apply(&quickstart());
    sim.settle();
    for (n, key) in keys(&sim).into_iter().enumerate() {
        let object = sim.objects.get_mut(&key).unwrap();
        object.metadata_mut().uid = Some(format!("restored-{n}"));
    }
    sim.settle();
    for key in keys(&sim) {
        expect(&sim, &key, "[] Ready Available");
    }

    let mut sim = forgotten(&quickstart());
    sim.options.node = None;
    sim.apply(&quickstart());
    sim.settle();
    for key in keys(&sim) {
        expect(&sim, &key, "[] Ready Available");
    }
}
