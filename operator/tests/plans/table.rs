//! What is done and said for each observed state.

use crds::conditions::{Reason, State, kstatus};
use crds::{Kind, Object, ObjectKey, names};
use operator::{FailureKind, Id, ImportState, Mount, Plan, Settings};

use crate::world::Sim;

fn bucket(extra: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: base}}\nspec: {{{extra}}}\n"
    )
}

fn snapshot(name: &str, source: &str, life: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: BucketSnapshot\nmetadata: {{name: {name}}}\nspec: {{source: {{{source}}}, lifetime: {{{life}}}}}\n"
    )
}

fn fork(name: &str, source: &str, life: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: {name}}}\nspec: {{source: {{{source}}}, lifetime: {{{life}}}{extra}}}\n"
    )
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "default", name)
}

fn base() -> ObjectKey {
    key(Kind::Bucket, "base")
}

fn quickstart() -> String {
    bucket("")
        + &snapshot("v1", "bucket: base", "noExpiry: true")
        + &fork("agent", "snapshot: v1", "ttl: 1h", ", count: 3")
}

const EVER: &str = "noExpiry: true";

/// The actions and the state of a plan, in one line.
fn shown(plan: &Plan) -> String {
    let actions: Vec<_> = plan
        .actions
        .iter()
        .map(|action| action.describe())
        .collect();
    let state = match &plan.state {
        State::Ready(reason, _) => format!("Ready {reason}"),
        State::Reconciling(reason, _) => format!("Reconciling {reason}"),
        State::Stalled(reason, _) => format!("Stalled {reason}"),
        State::Expired(reason, _) => format!("Expired {reason}"),
    };
    format!("[{}] {state}", actions.join(", "))
}

fn expect(sim: &Sim, key: &ObjectKey, wanted: &str) -> Plan {
    let plan = sim.plan(key);
    assert_eq!(shown(&plan), wanted, "{}", plan.state.message());
    plan
}

fn conditions(object: &Object) -> Vec<(String, String, String)> {
    let conditions = match object {
        Object::Bucket(object) => &object.status.as_ref().unwrap().conditions,
        Object::Snapshot(object) => &object.status.as_ref().unwrap().conditions,
        Object::Fork(object) => &object.status.as_ref().unwrap().conditions,
    };
    assert!(
        conditions
            .iter()
            .all(|condition| condition.observed_generation == object.metadata().generation)
    );
    conditions
        .iter()
        .map(|condition| {
            (
                condition.type_.clone(),
                condition.status.clone(),
                condition.reason.clone(),
            )
        })
        .collect()
}

fn status_of(sim: &Sim, name: &str) -> crds::ForkStatus {
    let Object::Fork(fork) = sim.plan(&key(Kind::Fork, name)).object else {
        panic!()
    };
    fork.status.unwrap()
}

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
