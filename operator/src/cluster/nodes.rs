//! The nodes: which have an agent, and whether it answers.
//!
//! An agent keeps a Lease of the name of its node in the operator's namespace, as a kubelet does in `kube-node-lease`, owned
//! by the Node, so that it goes with it. A node is gone when its Node is, and its agent has stopped to renew its Lease.

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

use super::watch::Receiver;
use crate::placement::{Nodes, Standing};

/// Label of the Leases of node agents.
pub const LABEL_AGENT: &str = "anabranch.dev/agent";

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
    /// When each lease ends, if it is not renewed.
    leases: BTreeMap<String, Timestamp>,
}

impl Known {
    /// The nodes as they stand, and when that may change by itself.
    pub fn standing(&self, now: Timestamp) -> (Nodes, Option<Timestamp>) {
        let inner = self.inner.lock();
        let mut nodes = Nodes::new();
        for (name, end) in &inner.leases {
            let standing = match (inner.nodes.get(name), *end > now) {
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
        let next = inner
            .leases
            .values()
            .filter(|end| **end > now)
            .min()
            .copied();
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

/// When a lease ends.
fn end(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    let lasts = spec.lease_duration_seconds.unwrap_or_default();
    spec.renew_time
        .as_ref()?
        .0
        .checked_add(Duration::from_secs(lasts.try_into().unwrap_or_default()))
        .ok()
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
        let leases = leases
            .iter()
            .filter_map(|lease| Some((lease.name_any(), end(lease)?)))
            .collect();
        self.0.change(|inner| inner.leases = leases);
    }
    fn changed(&self, lease: Lease) {
        let Some(end) = end(&lease) else { return };
        let (before, now) = (
            self.0.inner.lock().leases.insert(lease.name_any(), end),
            Timestamp::now(),
        );
        // A renewal in time changes nothing.
        if before.is_none_or(|before| before <= now) {
            self.0.change(|_| {});
        }
    }
    fn gone(&self, lease: Lease) {
        self.0.change(|inner| {
            inner.leases.remove(&lease.name_any());
        });
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
