//! The nodes: which have an agent, and whether it answers.
//!
//! An agent keeps a Lease of the name of its node in the operator's namespace, as a kubelet does in `kube-node-lease`, owned
//! by the Node, so that it goes with it. A node is gone when its Node is, and its agent has stopped to renew its Lease.
//!
//! The times in a Lease are of the clock of the node. As in the election of a leader they are only told apart, never compared
//! with a clock of ours: a lease lasts from the moment at which a renewal was *seen*.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::watch::Receiver;
use crate::placement::{Nodes, Standing};

/// Label of the Leases of node agents.
pub const LABEL_AGENT: &str = "anabranch.dev/agent";
/// How long a watch that was interrupted may take to bring renewals again: more than its longest pause.
const DEAF: Duration = Duration::from_secs(60);

/// What is known of the nodes.
#[derive(Default)]
pub struct Known {
    inner: Mutex<Inner>,
    changed: tokio::sync::Notify,
}

#[derive(Default)]
struct Inner {
    /// Whether each takes new buckets.
    nodes: BTreeMap<String, bool>,
    leases: BTreeMap<String, Heard>,
    /// Whether the leases were read once: what is new from then on was renewed just now.
    listed: bool,
}

/// What was heard of an agent.
struct Heard {
    /// By the clock of its node.
    renewed: Timestamp,
    lasts: Duration,
    /// When the lease ends, if no renewal is seen.
    end: Instant,
    /// Whether it was seen to be renewed, or said so when it was first read. A lease that is old by its times may be that of an
    /// agent that is gone, or of one whose clock is wrong.
    sure: bool,
}

impl Inner {
    /// Takes a lease in. True when its node stands differently by that.
    fn hear(&mut self, lease: &Lease) -> bool {
        let Some((renewed, lasts)) = renewal(lease) else {
            return false;
        };
        let (now, name) = (Instant::now(), lease.name_any());
        let sure = match self.leases.get_mut(&name) {
            Some(heard) if heard.renewed == renewed => return false,
            Some(heard) if heard.sure && heard.end > now => {
                (heard.renewed, heard.lasts, heard.end) = (renewed, lasts, now + lasts);
                return false;
            }
            Some(_) => true,
            None => {
                let age = Timestamp::now().duration_since(renewed).unsigned_abs();
                self.listed || age <= lasts
            }
        };
        let heard = Heard {
            renewed,
            lasts,
            end: now + lasts,
            sure,
        };
        self.leases.insert(name, heard);
        true
    }
}

impl Known {
    /// The nodes as they stand, and when that may change by itself.
    pub fn standing(&self) -> (Nodes, Option<Instant>) {
        let (inner, now) = (self.inner.lock(), Instant::now());
        let mut nodes = Nodes::new();
        for (name, heard) in &inner.leases {
            let standing = match (inner.nodes.get(name), heard.end > now) {
                (_, true) if !heard.sure => Standing::Unsure,
                (takes, true) => Standing::Alive {
                    takes: takes.copied().unwrap_or_default(),
                },
                (Some(_), false) => Standing::Silent,
                (None, false) => continue,
            };
            nodes.insert(name.clone(), standing);
        }
        // A node whose agent was never seen, or whose lease somebody deleted, is there all the same.
        for name in inner.nodes.keys() {
            nodes.entry(name.clone()).or_insert(Standing::Silent);
        }
        let ends = inner.leases.values().map(|heard| heard.end);
        let next = ends.filter(|end| *end > now).min();
        (nodes, next)
    }

    /// Waits until a node or a lease changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock());
        self.changed.notify_one();
    }
}

/// Whether a node takes new buckets.
fn takes(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && !cordoned
}

/// When a lease was renewed, by the clock of its node, and how long it lasts.
fn renewal(lease: &Lease) -> Option<(Timestamp, Duration)> {
    let spec = lease.spec.as_ref()?;
    let lasts = spec.lease_duration_seconds.unwrap_or_default();
    let lasts = Duration::from_secs(lasts.try_into().unwrap_or_default());
    Some((spec.renew_time.as_ref()?.0, lasts))
}

/// Takes Nodes in.
pub struct NodeReceiver(pub Arc<Known>);

impl Receiver<Node> for NodeReceiver {
    fn all(&self, nodes: Vec<Node>) {
        self.0.change(|inner| {
            inner.nodes = nodes
                .iter()
                .map(|node| (node.name_any(), takes(node)))
                .collect()
        });
    }
    fn changed(&self, node: Node) {
        // Nodes change all the time, by heartbeats of their own.
        let (name, takes) = (node.name_any(), takes(&node));
        if self.0.inner.lock().nodes.get(&name) != Some(&takes) {
            self.0.change(|inner| {
                inner.nodes.insert(name, takes);
            });
        }
    }
    fn gone(&self, node: Node) {
        self.0.change(|inner| {
            inner.nodes.remove(&node.name_any());
        });
    }
}

/// Takes Leases of agents in.
pub struct LeaseReceiver(pub Arc<Known>);

impl Receiver<Lease> for LeaseReceiver {
    fn all(&self, leases: Vec<Lease>) {
        self.0.change(|inner| {
            let names: Vec<_> = leases.iter().map(ResourceExt::name_any).collect();
            inner.leases.retain(|name, _| names.contains(name));
            for lease in &leases {
                inner.hear(lease);
            }
            inner.listed = true;
        });
    }
    fn changed(&self, lease: Lease) {
        // A renewal in time changes nothing.
        let told = self.0.inner.lock().hear(&lease);
        if told {
            self.0.change(|_| {});
        }
    }
    fn gone(&self, lease: Lease) {
        self.0.change(|inner| {
            inner.leases.remove(&lease.name_any());
        });
    }
    fn interrupted(&self) {
        // Who does not listen hears no renewals: nobody is silent by that.
        let now = Instant::now();
        for heard in self.0.inner.lock().leases.values_mut() {
            if heard.end > now {
                heard.end = heard.end.max(now + DEAF);
            }
        }
    }
}

/// Renews the Lease of a node's agent once.
///
/// # Errors
/// When the API server does not take it.
pub async fn renew(
    client: &Client,
    namespace: &str,
    node: &str,
    lasts: Duration,
) -> Result<(), kube::Error> {
    let owner = Api::<Node>::all(client.clone()).get_opt(node).await?;
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            labels: Some(BTreeMap::from([(
                LABEL_AGENT.to_owned(),
                "true".to_owned(),
            )])),
            owner_references: owner.and_then(|owner| {
                Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: node.to_owned(),
                    uid: owner.metadata.uid?,
                    ..OwnerReference::default()
                }])
            }),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: i32::try_from(lasts.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let params = PatchParams::apply(super::write::MANAGER_NODE).force();
    let leases = Api::<Lease>::namespaced(client.clone(), namespace);
    leases
        .patch(node, &params, &Patch::Apply(&lease))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: u64 = 40;

    fn lease(renewed: Timestamp) -> Lease {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "one"},
            "spec": {"renewTime": MicroTime(renewed), "leaseDurationSeconds": LASTS},
        }))
        .unwrap()
    }

    fn known() -> (Arc<Known>, LeaseReceiver) {
        let known = Arc::new(Known::default());
        let node = serde_json::json!({"metadata": {"name": "one"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        Receiver::<Node>::all(
            &NodeReceiver(known.clone()),
            vec![serde_json::from_value(node).unwrap()],
        );
        let receiver = LeaseReceiver(known.clone());
        (known, receiver)
    }

    fn one(known: &Known) -> Standing {
        known.standing().0["one"]
    }

    fn paused(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(test());
    }

    #[test]
    fn an_agent_answers_as_long_as_its_lease_changes_whatever_its_clock_says() {
        for skew in [-3600, 0, 3600] {
            paused(async || {
                let (known, leases) = known();
                let start = Timestamp::now() + jiff::SignedDuration::from_secs(skew);
                leases.all(vec![lease(start)]);
                let first = one(&known);
                assert_eq!(first == Standing::Unsure, skew != 0, "{skew}");
                for beat in 1..10 {
                    tokio::time::advance(Duration::from_secs(LASTS - 1)).await;
                    leases.changed(lease(start + jiff::SignedDuration::from_secs(beat)));
                    assert_eq!(one(&known), Standing::Alive { takes: true }, "{skew}");
                    // A list that brings the same again is no renewal.
                    leases.all(vec![lease(start + jiff::SignedDuration::from_secs(beat))]);
                }
                let (_, next) = known.standing();
                assert_eq!(next, Some(Instant::now() + Duration::from_secs(LASTS)));
                tokio::time::advance(Duration::from_secs(LASTS)).await;
                assert_eq!(one(&known), Standing::Silent, "{skew}");
                leases.changed(lease(start));
                assert_eq!(one(&known), Standing::Alive { takes: true }, "{skew}");
            });
        }
    }

    #[test]
    fn a_lease_that_is_old_when_it_is_first_read_says_nothing_until_its_time_is_over() {
        paused(async || {
            let (known, leases) = known();
            leases.all(vec![lease(Timestamp::UNIX_EPOCH)]);
            tokio::time::advance(Duration::from_secs(LASTS - 1)).await;
            assert_eq!(one(&known), Standing::Unsure);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(one(&known), Standing::Silent);
            // One that is new after the first list was made just now, whatever the clock of its node says.
            let (known, leases) = self::known();
            leases.all(vec![]);
            assert_eq!(one(&known), Standing::Silent);
            leases.changed(lease(Timestamp::UNIX_EPOCH));
            assert_eq!(one(&known), Standing::Alive { takes: true });
        });
    }

    #[test]
    fn nobody_is_silent_because_the_watch_was_interrupted() {
        paused(async || {
            let (known, leases) = known();
            leases.all(vec![lease(Timestamp::now())]);
            tokio::time::advance(Duration::from_secs(LASTS - 1)).await;
            leases.interrupted();
            tokio::time::advance(DEAF - Duration::from_secs(1)).await;
            assert_eq!(one(&known), Standing::Alive { takes: true });
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(one(&known), Standing::Silent);
            // And who was silent before is not heard by an interruption.
            leases.interrupted();
            assert_eq!(one(&known), Standing::Silent);
        });
    }
}
