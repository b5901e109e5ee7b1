//! What is done and said when things end or go wrong: expiry, protection, loss, names that are taken, failures.

use crate::common::*;

#[test]
fn an_expired_object_stands_and_its_data_is_freed_once_and_for_all() {
    let mut sim = Sim::new();
    sim.apply(
        &(bucket("")
            + &snapshot("s", "bucket: base", "ttl: 60s")
            + &fork("f", "bucket: base", "ttl: 60s", "")
            + &fork(
                "never",
                "bucket: none",
                "expireTime: '2000-01-01T00:00:00Z'",
                "",
            )),
    );
    sim.settle();
    assert_eq!(sim.store().len(), 3);
    let made = sim.now;
    let plan = sim.plan(&key(Kind::Fork, "f"));
    let due = plan.next.unwrap();
    assert!(
        (60..=62).contains(&(due.as_second() - made.as_second())),
        "{due}"
    );
    let created = sim
        .observed
        .timeline_named("fork/default/f")
        .unwrap()
        .created
        .timestamp();
    let lived = due.duration_since(created);
    assert!(
        lived >= jiff::SignedDuration::from_secs(60),
        "a ttl of 60s is {lived:?}"
    );
    sim.now = due.checked_sub(jiff::SignedDuration::from_secs(2)).unwrap();
    expect(&sim, &key(Kind::Fork, "f"), "[] Ready Available");
    sim.now = due;
    let plan = sim.plan(&key(Kind::Fork, "f"));
    assert_eq!(plan.actions.len(), 2, "{}", shown(&plan));
    // The status says it before the data goes.
    let Object::Fork(planned) = &plan.object else {
        panic!()
    };
    assert!(planned.status.as_ref().unwrap().expired_time.is_some());
    sim.settle();
    assert_eq!(sim.store().len(), 1);
    for (kind, name) in [
        (Kind::Fork, "f"),
        (Kind::Snapshot, "s"),
        (Kind::Fork, "never"),
    ] {
        let plan = sim.plan(&key(kind, name));
        assert!(shown(&plan).starts_with("[] Expired"), "{}", shown(&plan));
        assert_eq!(conditions(&plan.object)[0].0, "Expired");
        assert_eq!(conditions(&plan.object).len(), 1);
        let generation = plan.object.metadata().generation;
        let conditions = match &plan.object {
            Object::Fork(fork) => fork.status.as_ref().unwrap().conditions.clone(),
            Object::Snapshot(snapshot) => snapshot.status.as_ref().unwrap().conditions.clone(),
            Object::Bucket(_) => unreachable!(),
        };
        assert_eq!(
            kstatus(generation, generation, false, &conditions),
            "Current"
        );
    }
    // Neither time, nor a restart, nor a longer lifetime brings it back.
    sim.pass(1000);
    sim.die();
    sim.apply(
        &(snapshot("s", "bucket: base", EVER) + &fork("f", "bucket: base", "ttl: 1000h", "")),
    );
    sim.settle();
    assert_eq!(sim.store().len(), 1);
    assert!(shown(&sim.plan(&key(Kind::Fork, "f"))).starts_with("[] Expired"));
    // What waits for it hears that it is in vain.
    sim.apply(&fork("late", "snapshot: s", EVER, ""));
    let plan = expect(
        &sim,
        &key(Kind::Fork, "late"),
        "[] Stalled SourceUnavailable",
    );
    assert!(plan.state.message().contains("has expired"));
    // Deleted and made again, it begins anew.
    sim.delete(&key(Kind::Fork, "f"));
    sim.settle();
    sim.apply(&fork("f", "bucket: base", "ttl: 60s", ""));
    sim.settle();
    expect(&sim, &key(Kind::Fork, "f"), "[] Ready Available");
}

#[test]
fn what_is_protected_is_neither_deleted_nor_expired_nor_shrunk() {
    let mut sim = Sim::new();
    let set = |count: u32, protected: bool| {
        fork(
            "f",
            "bucket: base",
            "ttl: 60s",
            &format!(", count: {count}, protected: {protected}"),
        )
    };
    sim.apply(&(bucket("") + &set(2, true)));
    sim.settle();
    let f = key(Kind::Fork, "f");
    sim.apply(&set(1, true));
    expect(&sim, &f, "[] Stalled Protected");
    sim.apply(&set(2, true));
    sim.pass(1000);
    let plan = expect(&sim, &f, "[] Ready Protected");
    assert!(plan.state.message().contains("spec.protected is false"));
    sim.delete(&f);
    let plan = expect(&sim, &f, "[] Stalled Protected");
    assert!(!plan.released && plan.state.message().contains("set spec.protected to false"));
    let Some(Object::Fork(object)) = sim.objects.get_mut(&f) else {
        panic!()
    };
    object.spec.protected = Some(false);
    object.metadata.generation = Some(9);
    sim.settle();
    assert!(!sim.objects.contains_key(&f));
    assert_eq!(sim.store().len(), 1);
}

#[test]
fn a_changed_source_or_form_is_refused_and_nothing_is_lost() {
    let mut sim = Sim::new();
    sim.apply(&(quickstart() + &fork("one", "bucket: base", EVER, "")));
    sim.settle();
    let store = sim.store();
    sim.apply(
        &(bucket("source: {tar: {path: /x}}")
            + &snapshot("v1", "fork: one", EVER)
            + &fork("agent", "bucket: base", "ttl: 1h", ", count: 1")
            + &fork("one", "bucket: base", EVER, ", count: 1")),
    );
    for key in [
        base(),
        key(Kind::Snapshot, "v1"),
        key(Kind::Fork, "agent"),
        key(Kind::Fork, "one"),
    ] {
        let plan = expect(&sim, &key, "[] Stalled ImmutableFieldChanged");
        assert!(
            plan.state.message().contains("make"),
            "{}",
            plan.state.message()
        );
    }
    sim.settle();
    assert_eq!(sim.store(), store);
    sim.apply(&(quickstart() + &fork("one", "bucket: base", EVER, "")));
    sim.settle();
    expect(&sim, &key(Kind::Fork, "agent"), "[] Ready Available");
    assert_eq!(sim.store(), store);
}

#[test]
fn what_a_pod_has_mounted_waits_for_the_pod() {
    let mut sim = Sim::new();
    sim.options.mount_forks = false;
    sim.apply(&(quickstart() + &fork("one", "bucket: base", "ttl: 60s", "")));
    sim.settle();
    let names = [
        "bucket/default/base",
        "fork/default/agent-2",
        "fork/default/one",
    ];
    for name in names {
        let target = sim.observed.timeline_named(name).unwrap().id;
        sim.observed.mounts.push(Mount {
            target,
            path: format!("/pods/{name}"),
            read_only: false,
            pod: Some("ns/pod".into()),
        });
    }
    sim.pass(600);
    sim.delete(&base());
    sim.apply(&fork("agent", "snapshot: v1", "ttl: 1h", ", count: 1"));
    sim.settle();
    for key in [base(), key(Kind::Fork, "agent"), key(Kind::Fork, "one")] {
        let plan = expect(&sim, &key, "[] Reconciling InUse");
        assert!(plan.state.message().contains("pod ns/pod"));
    }
    assert!(
        names.iter().all(|name| sim.store().contains(*name))
            && !sim.store().contains("fork/default/agent-1")
    );
    sim.observed.mounts.clear();
    sim.settle();
    assert!(names.iter().all(|name| !sim.store().contains(*name)));
}

#[test]
fn what_something_else_has_made_is_never_touched() {
    let mut sim = Sim::new();
    for (number, name) in ["bucket/default/base", "fork/default/agent-1"]
        .into_iter()
        .enumerate()
    {
        sim.add_timeline(Id([number as u8; 16]), name, None, Settings::default());
    }
    let before = sim.observed.timelines.clone();
    sim.apply(&(quickstart().replace("snapshot: v1", "bucket: base")));
    let plan = expect(&sim, &base(), "[] Stalled NameTaken");
    assert!(plan.state.message().contains("made by something else"));
    // The forks of a set whose names are free are made.
    expect(
        &sim,
        &key(Kind::Fork, "agent"),
        "[fork 2 timelines] Stalled NameTaken",
    );
    sim.settle();
    for key in sim.objects.keys().cloned().collect::<Vec<_>>() {
        sim.delete(&key);
    }
    sim.settle();
    assert_eq!(sim.observed.timelines, before);
    assert!(sim.objects.is_empty());
    // A single fork and the fork of a set that have the same name.
    sim.observed.timelines.clear();
    sim.apply(&(bucket("") + &fork("agent", "bucket: base", EVER, ", count: 2")));
    sim.settle();
    sim.apply(&fork("agent-1", "bucket: base", EVER, ""));
    let plan = expect(&sim, &key(Kind::Fork, "agent-1"), "[] Stalled NameTaken");
    assert!(
        plan.state
            .message()
            .contains("belongs to BucketFork default/agent")
    );
    sim.delete(&key(Kind::Fork, "agent"));
    expect(
        &sim,
        &key(Kind::Fork, "agent-1"),
        "[] Reconciling WaitingForName",
    );
    sim.settle();
    expect(&sim, &key(Kind::Fork, "agent-1"), "[] Ready Available");
}

#[test]
fn lost_data_is_said_and_not_made_anew() {
    let mut sim = Sim::new();
    sim.apply(&(quickstart() + &fork("one", "bucket: base", EVER, "")));
    sim.settle();
    let drop = |sim: &mut Sim, names: &[&str]| {
        let lost = |name: &String| names.contains(&name.as_str());
        sim.observed
            .timelines
            .retain(|_, timeline| !lost(&timeline.name));
        sim.observed
            .snapshots
            .retain(|_, snapshot| !lost(&snapshot.name));
        let timelines = sim.observed.timelines.clone();
        sim.observed
            .mounts
            .retain(|mount| timelines.contains_key(&mount.target));
    };
    let (agent, one) = (key(Kind::Fork, "agent"), key(Kind::Fork, "one"));
    let (v1, bucket_key) = (key(Kind::Snapshot, "v1"), base());
    let mut lost = vec![&agent, &one];
    // First the forks, whose sources are still there; then the sources, too.
    for (names, also) in [
        (["fork/default/agent-1", "fork/default/one"], vec![]),
        (
            ["bucket/default/base", "snapshot/default/v1"],
            vec![&v1, &bucket_key],
        ),
    ] {
        drop(&mut sim, &names);
        lost.extend(also.iter());
        let left = sim.store();
        for key in &lost {
            let plan = expect(&sim, key, "[] Stalled DataLost");
            assert!(plan.state.message().contains("Delete the object"));
        }
        sim.settle();
        assert_eq!(sim.store(), left);
    }
    let status = status_of(&sim, "agent");
    assert_eq!(
        (
            status.ready_count,
            status.items[1].ready,
            status.items[0].ready
        ),
        (2, false, true)
    );
    assert!(
        status.items[1]
            .message
            .as_ref()
            .unwrap()
            .contains("no longer in the store")
    );
}

#[test]
fn retained_data_is_kept_and_taken_over_by_the_next_bucket() {
    let mut sim = Sim::new();
    let spec = "source: {directory: {path: /data}}, deletionPolicy: Retain";
    sim.apply(&bucket(spec));
    sim.settle();
    let id = sim
        .observed
        .timeline_named("bucket/default/base")
        .unwrap()
        .id;
    sim.delete(&base());
    sim.settle();
    assert!(sim.objects.is_empty());
    let labels = sim.observed.timelines[&id].settings.labels.clone();
    assert_eq!(labels[names::LABEL_RETAINED], "true");
    // Nothing is made from it while no Bucket has it.
    sim.apply(&fork("f", "bucket: base", EVER, ""));
    expect(
        &sim,
        &key(Kind::Fork, "f"),
        "[] Reconciling WaitingForSource",
    );
    // Another source does not fit it; the same and none do, and nothing is imported again.
    for (spec, wanted) in [
        (
            "source: {directory: {path: /other}}",
            "[] Stalled ImmutableFieldChanged",
        ),
        (spec, "[change settings] Reconciling Updating"),
        ("", "[change settings] Reconciling Updating"),
    ] {
        let mut sim = sim.clone();
        sim.die();
        sim.apply(&bucket(spec));
        expect(&sim, &base(), wanted);
        sim.settle();
        if wanted.contains("Updating") {
            expect(&sim, &base(), "[] Ready Available");
            expect(&sim, &key(Kind::Fork, "f"), "[] Ready Available");
            assert!(sim.observed.timelines.contains_key(&id) && sim.observed.imports.is_empty());
        }
    }
}

#[test]
fn failures_are_said_and_tried_again_when_that_may_help() {
    for (kind, state, pause) in [
        (FailureKind::Retry, "Reconciling Retrying", 0),
        (FailureKind::NeedsHelp, "Stalled Failed", 30),
        (FailureKind::Import, "Stalled ImportFailed", 30),
        (FailureKind::OutOfRetention, "Stalled OutOfRetention", 30),
        (FailureKind::NameTaken, "Stalled NameTaken", 30),
        (FailureKind::SourceGone, "Stalled SourceUnavailable", 30),
        (FailureKind::Protected, "Stalled Protected", 30),
    ] {
        let mut sim = Sim::new();
        sim.apply(&bucket(""));
        sim.observed
            .failures
            .note(&base(), Some(1), kind, "the disk is full", sim.now);
        let plan = expect(&sim, &base(), &format!("[] {state}"));
        assert_eq!(plan.state.message(), "the disk is full");
        let due = plan.next.unwrap();
        assert!(due > sim.now && due.as_second() - sim.now.as_second() == pause);
        sim.now = due;
        expect(
            &sim,
            &base(),
            &format!("[make bucket/default/base] {state}"),
        );
        // A changed spec is another attempt, and what is done needs none.
        sim.apply(&bucket("history: {retain: 1h}"));
        expect(
            &sim,
            &base(),
            "[make bucket/default/base] Reconciling Creating",
        );
        sim.settle();
        expect(&sim, &base(), "[] Ready Available");
    }
}

#[test]
fn objects_that_break_their_rules_say_which() {
    let mut sim = Sim::new();
    sim.apply(&(bucket("") + &fork("f", "bucket: base", EVER, "")));
    sim.settle();
    let store = sim.store();
    let Some(Object::Fork(object)) = sim.objects.get_mut(&key(Kind::Fork, "f")) else {
        panic!()
    };
    object.spec.source.snapshot = Some("s".into());
    let plan = expect(&sim, &key(Kind::Fork, "f"), "[] Stalled Invalid");
    assert!(
        plan.state
            .message()
            .contains("spec.source: exactly one source is needed; allowed")
    );
    sim.settle();
    assert_eq!(sim.store(), store);
}

#[test]
fn the_ttl_of_a_set_counts_from_its_first_fork() {
    let mut sim = Sim::new();
    let set = |count: u32| {
        fork(
            "f",
            "bucket: base",
            "ttl: 60s",
            &format!(", count: {count}"),
        )
    };
    sim.apply(&(bucket("") + &set(1)));
    sim.settle();
    let due = sim.plan(&key(Kind::Fork, "f")).next;
    for count in [0, 1] {
        sim.pass(20);
        sim.apply(&set(count));
        sim.settle();
        assert_eq!(sim.plan(&key(Kind::Fork, "f")).next, due);
    }
    sim.pass(30);
    sim.settle();
    assert!(shown(&sim.plan(&key(Kind::Fork, "f"))).starts_with("[] Expired"));
}
