//! What the tables of plans have in common: manifests, keys, and plans in one line.

pub use crds::conditions::{Reason, State, kstatus};
pub use crds::{Kind, Object, ObjectKey, names};
pub use operator::{FailureKind, Id, ImportState, Mount, Plan, Settings};

pub use crate::world::Sim;

pub fn bucket(extra: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: Bucket\nmetadata: {{name: base}}\nspec: {{{extra}}}\n"
    )
}

pub fn snapshot(name: &str, source: &str, life: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: BucketSnapshot\nmetadata: {{name: {name}}}\nspec: {{source: {{{source}}}, lifetime: {{{life}}}}}\n"
    )
}

pub fn fork(name: &str, source: &str, life: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: {name}}}\nspec: {{source: {{{source}}}, lifetime: {{{life}}}{extra}}}\n"
    )
}

pub fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, "default", name)
}

pub fn base() -> ObjectKey {
    key(Kind::Bucket, "base")
}

pub fn quickstart() -> String {
    bucket("")
        + &snapshot("v1", "bucket: base", "noExpiry: true")
        + &fork("agent", "snapshot: v1", "ttl: 1h", ", count: 3")
}

pub const EVER: &str = "noExpiry: true";

/// The actions and the state of a plan, in one line.
pub fn shown(plan: &Plan) -> String {
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

pub fn expect(sim: &Sim, key: &ObjectKey, wanted: &str) -> Plan {
    let plan = sim.plan(key);
    assert_eq!(shown(&plan), wanted, "{}", plan.state.message());
    plan
}

pub fn conditions(object: &Object) -> Vec<(String, String, String)> {
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

pub fn status_of(sim: &Sim, name: &str) -> crds::ForkStatus {
    let Object::Fork(fork) = sim.plan(&key(Kind::Fork, name)).object else {
        panic!()
    };
    fork.status.unwrap()
}
