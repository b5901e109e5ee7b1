//! What is done and said for each observed state: from manifests to mounted forks, and changes of them.

use crate::common::*;

#[test]
fn the_main_job_from_manifests_to_mounted_forks() {
    let mut sim = Sim::new();
    sim.apply(
        &(bucket("source: {directory: {path: /data}}")
            + &snapshot("v1", "bucket: base", EVER)
            + &fork("agent", "snapshot: v1", "ttl: 1h", ", count: 3")),
    );
    let (v1, agent) = (key(Kind::Snapshot, "v1"), key(Kind::Fork, "agent"));
    expect(
        &sim,
        &base(),
        "[make bucket/default/base, import directory:/data] Reconciling Creating",
    );
    let plan = expect(&sim, &v1, "[] Reconciling WaitingForSource");
    assert_eq!(plan.waits[0].on, base());
    assert!(
        plan.state
            .message()
            .contains("waits for Bucket default/base, which is not there yet")
    );
    expect(&sim, &agent, "[] Reconciling WaitingForSource");
    sim.round(&mut usize::MAX.clone()).unwrap();
    let plan = expect(&sim, &base(), "[] Reconciling Importing");
    assert!(
        plan.state.message().contains("1 of 2 files"),
        "{}",
        plan.state.message()
    );
    let plan = expect(&sim, &v1, "[] Reconciling WaitingForSource");
    assert!(plan.state.message().contains("still importing"));
    for import in sim.observed.imports.values_mut() {
        import.state = ImportState::Done;
    }
    expect(&sim, &base(), "[change settings] Reconciling Updating");
    sim.round(&mut usize::MAX.clone()).unwrap();
    expect(&sim, &base(), "[] Ready Available");
    sim.settle();
    let plan = expect(&sim, &agent, "[] Ready Available");
    assert_eq!(
        conditions(&plan.object),
        [("Ready".into(), "True".into(), "Available".into())]
    );
    let status = status_of(&sim, "agent");
    assert_eq!(
        (status.count, status.ready_count, status.items.len()),
        (3, 3, 3)
    );
    assert_eq!(status.items[2].name, "agent-2");
    assert_eq!(
        status.items[2].mounted.as_deref(),
        Some("/forks/default/agent-2")
    );
    let summary = status.summary.unwrap();
    assert_eq!(
        (
            summary.source.as_deref(),
            summary.forks.as_deref(),
            summary.mounted.as_deref()
        ),
        (Some("snapshot/v1"), Some("3/3"), Some("3 places"))
    );
    // All forks of a set have one cutoff: that of the snapshot.
    let Object::Snapshot(snapshot) = sim.plan(&v1).object else {
        panic!()
    };
    assert_eq!(status.epoch, snapshot.status.unwrap().epoch);
    assert!(
        sim.observed
            .timelines
            .values()
            .filter_map(|timeline| timeline.origin)
            .all(|origin| Some(origin.cutoff) == status.epoch)
    );
}

#[test]
fn every_source_becomes_its_point_or_says_what_is_awaited() {
    let mut sim = Sim::new();
    sim.apply(&quickstart());
    sim.settle();
    let past = sim.now.as_second() - 100;
    let early = format!("at: '{}'", past * 1_000_000_000);
    let late = format!("at: '{}'", (sim.now.as_second() + 100) * 1_000_000_000);
    for (name, source, wanted) in [
        (
            "a",
            "bucket: base".to_owned(),
            "[fork fork/default/a] Reconciling Creating",
        ),
        (
            "a",
            "fork: agent-1".to_owned(),
            "[fork fork/default/a] Reconciling Creating",
        ),
        (
            "a",
            format!("bucket: base, {early}"),
            "[fork fork/default/a] Reconciling Creating",
        ),
        (
            "a",
            format!("snapshot: v1, {early}"),
            "[fork fork/default/a] Reconciling Creating",
        ),
        (
            "a",
            format!("bucket: base, {late}"),
            "[] Reconciling WaitingForTime",
        ),
        (
            "a",
            "bucket: other".to_owned(),
            "[] Reconciling WaitingForSource",
        ),
        (
            "a",
            "snapshot: other".to_owned(),
            "[] Reconciling WaitingForSource",
        ),
        (
            "a",
            "fork: agent-3".to_owned(),
            "[] Reconciling WaitingForSource",
        ),
        (
            "a",
            "fork: agent-01".to_owned(),
            "[] Reconciling WaitingForSource",
        ),
        (
            "a",
            "fork: agent".to_owned(),
            "[] Stalled SourceUnavailable",
        ),
    ] {
        let mut sim = sim.clone();
        sim.apply(&fork(name, &source, EVER, ""));
        let plan = expect(&sim, &key(Kind::Fork, name), wanted);
        assert_eq!(
            plan.waits.is_empty(),
            !matches!(
                plan.state.reason(),
                Reason::WaitingForSource | Reason::SourceUnavailable
            ),
            "{source}"
        );
        if source == "fork: agent-01" {
            assert!(
                plan.state
                    .message()
                    .contains("agent-01, which does not exist"),
                "{}",
                plan.state.message()
            );
        }
        if wanted.contains("WaitingForTime") {
            assert_eq!(plan.next.unwrap().as_second(), sim.now.as_second() + 100);
        }
    }
    // Later than the snapshot that is named.
    sim.pass(10);
    let between = format!(
        "snapshot: v1, at: '{}'",
        (sim.now.as_second() - 1) * 1_000_000_000
    );
    sim.apply(&fork("b", &between, EVER, ""));
    let plan = expect(&sim, &key(Kind::Fork, "b"), "[] Stalled Invalid");
    assert!(plan.state.message().contains("later than the snapshot"));
}

#[test]
fn who_may_fork_a_snapshot_of_another_namespace_may_not_see_what_was_before_it() {
    let mut sim = Sim::new();
    sim.apply(&quickstart());
    sim.settle();
    let early = (sim.now.as_second() - 3_600) * 1_000_000_000;
    sim.apply(&format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: spy, namespace: team}}\n\
         spec: {{source: {{snapshot: v1, namespace: default, at: '{early}'}}, lifetime: {{{EVER}}}}}\n"
    ));
    let spy = ObjectKey::new(Kind::Fork, "team", "spy");
    let plan = expect(&sim, &spy, "[] Stalled NotGranted");
    assert!(
        plan.state
            .message()
            .contains("before the snapshot was taken")
    );
}

#[test]
fn forks_made_from_each_other_are_named_and_others_just_wait() {
    let mut sim = Sim::new();
    sim.apply(
        &(fork("a", "fork: b", EVER, "")
            + &fork("b", "fork: c-0", EVER, "")
            + &fork("c", "fork: a", EVER, ", count: 1")
            + &fork("d", "fork: a", EVER, "")),
    );
    for (name, cycle) in [
        ("a", "a <- b <- c-0 <- a"),
        ("b", "b <- c-0 <- a <- b"),
        ("c", "c <- a <- b <- c-0"),
    ] {
        let plan = expect(&sim, &key(Kind::Fork, name), "[] Stalled SourceUnavailable");
        assert!(
            plan.state.message().contains(cycle),
            "{}",
            plan.state.message()
        );
    }
    expect(
        &sim,
        &key(Kind::Fork, "d"),
        "[] Reconciling WaitingForSource",
    );
}

#[test]
fn parents_go_before_children_and_children_stay_whole() {
    let mut sim = Sim::new();
    sim.apply(&quickstart());
    sim.settle();
    for gone in [base(), key(Kind::Snapshot, "v1")] {
        sim.delete(&gone);
        sim.settle();
        assert!(!sim.objects.contains_key(&gone));
        expect(&sim, &key(Kind::Fork, "agent"), "[] Ready Available");
    }
    // The set can shrink, but no fork can start any more where the others did.
    sim.apply(&fork("agent", "snapshot: v1", "ttl: 1h", ", count: 4"));
    let plan = expect(
        &sim,
        &key(Kind::Fork, "agent"),
        "[] Stalled SourceUnavailable",
    );
    assert!(plan.state.message().contains("put the count back"));
    sim.delete(&key(Kind::Fork, "agent"));
    sim.settle();
    assert!(sim.store().is_empty() && sim.objects.is_empty() && sim.observed.mounts.is_empty());
}

#[test]
fn sets_grow_at_the_cutoff_they_have_and_shrink_from_the_end() {
    let mut sim = Sim::new();
    sim.apply(&(bucket("") + &fork("agent", "bucket: base", EVER, ", count: 2")));
    sim.settle();
    let epoch = status_of(&sim, "agent").epoch;
    let before: Vec<_> = status_of(&sim, "agent")
        .items
        .iter()
        .map(|item| item.timeline.clone())
        .collect();
    sim.pass(60);
    sim.apply(&fork("agent", "bucket: base", EVER, ", count: 4"));
    expect(
        &sim,
        &key(Kind::Fork, "agent"),
        "[fork 2 timelines] Reconciling Creating",
    );
    sim.settle();
    assert_eq!(status_of(&sim, "agent").epoch, epoch);
    assert!(
        sim.observed
            .timelines
            .values()
            .filter_map(|timeline| timeline.origin)
            .all(|origin| Some(origin.cutoff) == epoch)
    );
    sim.apply(&fork("agent", "bucket: base", EVER, ", count: 1"));
    let plan = sim.plan(&key(Kind::Fork, "agent"));
    let paths: Vec<_> = plan
        .actions
        .iter()
        .map(|action| action.describe())
        .filter(|action| action.starts_with("unmount"))
        .collect();
    assert_eq!(
        paths,
        [
            "unmount /forks/default/agent-3",
            "unmount /forks/default/agent-2",
            "unmount /forks/default/agent-1"
        ]
    );
    sim.settle();
    assert_eq!(sim.store().len(), 2);
    // A fork that comes back is a new one, with an id of its own; the one that stayed is the same.
    sim.apply(&fork("agent", "bucket: base", EVER, ", count: 2"));
    sim.settle();
    let after: Vec<_> = status_of(&sim, "agent")
        .items
        .iter()
        .map(|item| item.timeline.clone())
        .collect();
    assert_eq!(after[0], before[0]);
    assert!(after[1].is_some() && after[1] != before[1]);
    sim.apply(&fork("agent", "bucket: base", EVER, ", count: 0"));
    sim.settle();
    expect(&sim, &key(Kind::Fork, "agent"), "[] Ready Available");
    assert_eq!(sim.store().len(), 1);
}

#[test]
fn settings_and_mounts_follow_the_spec() {
    let mut sim = Sim::new();
    sim.apply(&(bucket("") + &fork("f", "bucket: base", EVER, "")));
    sim.settle();
    sim.apply(
        &(bucket("history: {retain: 1h}, quota: {bytes: 1Ki}")
            + &fork(
                "f",
                "bucket: base",
                EVER,
                ", readOnly: true, quota: {inodes: 5}",
            )),
    );
    expect(&sim, &base(), "[change settings] Reconciling Updating");
    expect(
        &sim,
        &key(Kind::Fork, "f"),
        "[unmount /forks/default/f, change settings, mount default/f] Reconciling Updating",
    );
    sim.settle();
    let settings = |name: &str| sim.observed.timeline_named(name).unwrap().settings.clone();
    let root = settings("bucket/default/base");
    assert_eq!(
        (root.retain.as_secs(), root.quota_bytes),
        (3600, Some(1024))
    );
    let one = settings("fork/default/f");
    assert_eq!(
        (
            one.read_only,
            one.quota_inodes,
            sim.observed.mounts[0].read_only
        ),
        (true, Some(5), true)
    );
    // Without play's mounts, nothing is mounted and it is ready all the same.
    sim.options.mount_forks = false;
    sim.apply(&fork("g", "bucket: base", EVER, ""));
    sim.settle();
    expect(&sim, &key(Kind::Fork, "g"), "[] Ready Available");
    assert_eq!(sim.observed.mounts.len(), 1);
    // Labels of others are kept.
    let id = sim.observed.timeline_named("fork/default/g").unwrap().id;
    sim.observed
        .timelines
        .get_mut(&id)
        .unwrap()
        .settings
        .labels
        .insert("example.com/x".into(), "y".into());
    expect(&sim, &key(Kind::Fork, "g"), "[] Ready Available");
}

#[test]
fn a_bucket_that_is_deleted_while_it_imports_stops_the_import_first() {
    for policy in ["Delete", "Retain"] {
        let mut sim = Sim::new();
        sim.apply(&bucket(&format!(
            "source: {{tar: {{path: /x}}}}, deletionPolicy: {policy}"
        )));
        sim.round(&mut usize::MAX.clone()).unwrap();
        sim.delete(&base());
        let plan = sim.plan(&base());
        assert!(
            shown(&plan).starts_with("[stop the import, "),
            "{}",
            shown(&plan)
        );
        sim.settle();
        assert!(sim.objects.is_empty());
        assert_eq!(sim.store().len(), usize::from(policy == "Retain"));
        // What was retained half imported is imported by the next bucket, before anything is made from it.
        sim.apply(&bucket("source: {tar: {path: /x}}"));
        sim.settle();
        let id = sim
            .observed
            .timeline_named("bucket/default/base")
            .unwrap()
            .id;
        assert!(sim.observed.imports.contains_key(&id));
        expect(&sim, &base(), "[] Ready Available");
    }
}
