//! A cluster with our definitions, an operator in it, and what tests ask of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crds::{Bucket, BucketFork, BucketSnapshot, Object, ObjectKey};
use e2e::cluster::{Cluster, Parts, missing};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use operator::cluster::controller::{Settings, run};
use operator::cluster::http::Health;
use operator::cluster::kinds::Ours;
use operator::cluster::metrics::Metrics;
use operator::cluster::nodes::renew;
use operator::cluster::write::{MANAGER_NODE, Writer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Namespace of the operators and leases.
pub const SYSTEM: &str = "anabranch-system";
/// The operator's account.
pub const OPERATOR: &str = "system:serviceaccount:anabranch-system:anabranch-operator";
/// The account of an uninstall.
pub const UNINSTALL: &str = "system:serviceaccount:anabranch-system:anabranch-uninstall";
/// The account of the node agents.
pub const NODE: &str = "system:serviceaccount:anabranch-system:anabranch-node";
/// How long an agent's lease lasts in these tests.
pub const LEASE: Duration = Duration::from_secs(3);
/// Generous: a busy machine is not a failure.
const WAIT: Duration = Duration::from_secs(90);

pub struct Fixture {
    pub cluster: Arc<Cluster>,
    pub client: Client,
}

/// A cluster with the definitions; none where the machine has no API server.
pub async fn fixture(test: &str, parts: Parts) -> Option<Fixture> {
    if let Some(sentence) = missing(test).unwrap() {
        eprintln!("{sentence}");
        return None;
    }
    let began = Instant::now();
    let cluster = Arc::new(Cluster::start(parts).await.unwrap());
    let client = cluster.admin().unwrap();
    let fixture = Fixture { cluster, client };
    let crds: Api<CustomResourceDefinition> = Api::all(fixture.client.clone());
    for definition in crds::schema::definitions().unwrap() {
        crds.create(&PostParams::default(), &definition)
            .await
            .unwrap();
    }
    for kind in ["buckets", "bucketsnapshots", "bucketforks"] {
        fixture
            .eventually(&format!("{kind} are served"), async |f: &Fixture| {
                let request = http::Request::get(format!("/apis/anabranch.dev/v1alpha1/{kind}"))
                    .body(Vec::new())
                    .unwrap();
                f.client.request_text(request).await.ok().map(drop)
            })
            .await;
    }
    for document in operator::admission::POLICY.split("\n---\n") {
        fixture.apply_yaml(document).await;
    }
    fixture.namespace(SYSTEM).await;
    for document in operator::admission::ROLES.split("\n---\n") {
        fixture.apply_yaml(document).await;
    }
    println!("{test}: a cluster is there after {:?}", began.elapsed());
    Some(fixture)
}

impl Fixture {
    pub fn api<K: Ours>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub async fn namespace(&self, name: &str) {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        Api::all(self.client.clone())
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// A node that is ready, whose agent has just answered.
    pub async fn node(&self, name: &str) {
        let api: Api<Node> = Api::all(self.client.clone());
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(ready))
            .await
            .unwrap();
        self.beat(name).await;
    }

    pub async fn beat(&self, node: &str) {
        renew(&self.client, SYSTEM, node, LEASE).await.unwrap();
    }

    /// An agent that answers for as long as the result lives.
    pub fn beating(&self, node: &str) -> Beating {
        let (client, node) = (self.client.clone(), node.to_owned());
        Beating(tokio::spawn(async move {
            loop {
                let _ = renew(&client, SYSTEM, &node, LEASE).await;
                tokio::time::sleep(LEASE / 3).await;
            }
        }))
    }

    pub async fn apply_yaml(&self, text: &str) {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        self.apply(value).await.unwrap();
    }

    /// Applies an object as a person does with `kubectl apply --server-side`.
    pub async fn apply(&self, value: Value) -> kube::Result<DynamicObject> {
        let (group, version) = match value["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", value["apiVersion"].as_str().unwrap()),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
            group,
            version,
            value["kind"].as_str().unwrap(),
        ));
        let api: Api<DynamicObject> = match value["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let name = value["metadata"]["name"].as_str().unwrap();
        api.patch(name, &PatchParams::apply("kubectl"), &Patch::Apply(&value))
            .await
    }

    /// Applies an object of ours.
    pub async fn ours(&self, kind: &str, namespace: &str, name: &str, spec: Value) {
        let value = json!({"apiVersion": "anabranch.dev/v1alpha1", "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec});
        self.apply(value).await.unwrap();
    }

    pub async fn read(&self, key: &ObjectKey) -> Option<Object> {
        Writer::new(self.client.clone()).read(key).await.unwrap()
    }

    /// Writes the status that the agent of a node would write when the data is there.
    pub async fn made(&self, key: &ObjectKey) {
        let object = self.read(key).await.unwrap();
        self.say_made(&object).await.unwrap();
    }

    /// The same, of an object that is known; it may be gone.
    pub async fn say_made(&self, object: &Object) -> Option<Object> {
        let generation = object.metadata().generation;
        let condition = json!({"type": "Ready", "status": "True", "reason": "Available", "message": "", "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let uid = object.metadata().uid.as_deref().unwrap();
        let timeline = operator::Id::derive(object.kind(), uid, None, 1).to_string();
        let status = json!({"observedGeneration": generation, "conditions": [condition], "timeline": timeline});
        let writer = Writer::new(self.client.clone());
        writer.status(object, MANAGER_NODE, status).await.ok()
    }

    /// Takes finalizers off as a person does who has read about it in a forum.
    pub async fn strip(&self, key: &ObjectKey) {
        let none = json!({"metadata": {"finalizers": null}});
        self.patch(key, none).await.unwrap();
    }

    /// Merges something into an object.
    pub async fn patch(&self, key: &ObjectKey, change: Value) -> kube::Result<DynamicObject> {
        self.dynamic(key)
            .patch(&key.name, &PatchParams::default(), &Patch::Merge(change))
            .await
    }

    /// Objects of the kind and namespace of a key, whatever they hold.
    pub fn dynamic(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = operator::cluster::kinds::resource(key.kind);
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
    }

    /// Waits until an object has our finalizer.
    pub async fn held(&self, key: &ObjectKey) {
        self.eventually(&format!("{key} is held"), async |f: &Fixture| {
            let object = f.read(key).await?;
            operator::decide::is_held(&object).then_some(())
        })
        .await;
    }

    /// The reasons of the events told of an object.
    pub async fn told(&self, namespace: &str, name: &str) -> Vec<String> {
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(self.client.clone(), namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        let of = |event: k8s_openapi::api::events::v1::Event| {
            let regarding = event.regarding?;
            (regarding.name.as_deref() == Some(name)).then_some(event.reason)?
        };
        events.items.into_iter().filter_map(of).collect()
    }

    /// Waits until something is there.
    pub async fn eventually<T>(&self, what: &str, look: impl AsyncFn(&Fixture) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self).await {
                return found;
            }
            assert!(
                began.elapsed() < WAIT,
                "not within {WAIT:?}: {what}\n{}",
                self.cluster.logs()
            );
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until a condition has a reason, and gives the object.
    pub async fn reason(&self, key: &ObjectKey, reason: &str) -> Object {
        self.eventually(&format!("{key} is {reason}"), async |f: &Fixture| {
            let object = f.read(key).await?;
            operator::decide::conditions(&object)
                .iter()
                .any(|condition| condition.reason == reason)
                .then_some(object)
        })
        .await
    }

    /// Waits until an object is on a node, and gives the node.
    pub async fn placed(&self, key: &ObjectKey) -> String {
        self.eventually(&format!("{key} is placed"), async |f: &Fixture| {
            let object = f.read(key).await?;
            operator::decide::node_of(&object).map(str::to_owned)
        })
        .await
    }

    pub async fn gone(&self, key: &ObjectKey) {
        self.eventually(&format!("{key} is gone"), async |f: &Fixture| {
            f.read(key).await.is_none().then_some(())
        })
        .await;
    }

    pub async fn delete(&self, key: &ObjectKey) -> kube::Result<()> {
        let params = DeleteParams::default();
        match key.kind {
            crds::Kind::Bucket => self
                .api::<Bucket>(&key.namespace)
                .delete(&key.name, &params)
                .await
                .map(drop),
            crds::Kind::Snapshot => self
                .api::<BucketSnapshot>(&key.namespace)
                .delete(&key.name, &params)
                .await
                .map(drop),
            crds::Kind::Fork => self
                .api::<BucketFork>(&key.namespace)
                .delete(&key.name, &params)
                .await
                .map(drop),
        }
    }
}

pub struct Beating(JoinHandle<()>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An operator in this process.
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<Health>,
}

impl Running {
    pub fn start(cluster: &Cluster, identity: &str) -> Self {
        Self::with_patience(cluster, identity, Duration::from_secs(600))
    }

    pub fn with_patience(cluster: &Cluster, identity: &str, patience: Duration) -> Self {
        // With the rights of its account, and no others.
        let client = cluster.client(OPERATOR).unwrap();
        Self::with_client(client, identity, patience, LEASE)
    }

    pub fn with_client(
        client: Client,
        identity: &str,
        patience: Duration,
        lease_lasts: Duration,
    ) -> Self {
        let settings = Settings {
            namespace: SYSTEM.into(),
            lease: "anabranch-operator".into(),
            identity: identity.into(),
            lease_lasts,
            patience,
        };
        let (stop, end) = watch::channel(false);
        let (metrics, health) = (Metrics::new("operator"), Arc::new(Health::default()));
        let task = tokio::spawn(run(client, settings, metrics.clone(), health.clone(), end));
        Running {
            stop,
            task,
            metrics,
            health,
        }
    }

    pub fn leads(&self) -> bool {
        self.metrics.leader.get() == 1 && self.health.ready.load(Ordering::Relaxed)
    }

    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends as after SIGTERM.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }

    /// Waits for an end by itself.
    pub async fn ended(self) {
        self.task.await.unwrap();
    }

    /// Ends as after SIGKILL: nothing is given up.
    pub fn kill(self) {
        self.task.abort();
    }
}

pub fn key(kind: crds::Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(kind, namespace, name)
}
