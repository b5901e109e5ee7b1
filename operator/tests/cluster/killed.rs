//! The program of the operator, killed again and again in the middle of what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::{BucketFork, Kind};
use e2e::cluster::Parts;
use futures::{StreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{ResourceExt, runtime::watcher};
use operator::cluster::kinds::Ours;
use operator::cluster::watch::{Receiver, follow};
use operator::cluster::write::Writer;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use crate::support::{Fixture, OPERATOR, SYSTEM, fixture, key};

/// The uids that were ever seen of each name.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Seen {
    fn note(&self, object: &impl ResourceExt) {
        let uid = object.uid().unwrap();
        self.0
            .lock()
            .entry(object.name_any())
            .or_default()
            .insert(uid);
    }

    /// How many names, and those that were there more than once.
    fn count(&self) -> (usize, Vec<String>) {
        let seen = self.0.lock();
        let twice = seen.iter().filter(|(_, uids)| uids.len() > 1);
        (seen.len(), twice.map(|(name, _)| name.clone()).collect())
    }
}

impl<K: ResourceExt + Send + Sync + 'static> Receiver<K> for Seen {
    fn all(&self, objects: Vec<K>) {
        objects.iter().for_each(|object| self.note(object));
    }
    fn changed(&self, object: K) {
        self.note(&object);
    }
    fn gone(&self, object: K) {
        self.note(&object);
    }
}

fn watch_all<K>(api: Api<K>) -> Arc<Seen>
where
    K: kube::Resource
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let seen = Arc::new(Seen::default());
    let (done, _) = watch::channel(false);
    tokio::spawn(follow(api, watcher::Config::default(), seen.clone(), done));
    seen
}

/// Starts the program, and waits until it leads.
async fn start(f: &Fixture, kubeconfig: &std::path::Path, name: &str) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_anabranch-operator"))
        .env("KUBECONFIG", kubeconfig)
        .env("POD_NAMESPACE", SYSTEM)
        .env("POD_NAME", name)
        .args(["--lease-seconds", "3", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let leases: Api<Lease> = Api::namespaced(f.client.clone(), SYSTEM);
    f.eventually("the program leads", async |_: &Fixture| {
        let lease = leases.get_opt("anabranch-operator").await.unwrap()?;
        (lease.spec?.holder_identity? == name).then_some(())
    })
    .await;
    child
}

/// Kills it, and spares the next one the wait for the end of its lease: it is certain that it does nothing any more.
async fn kill(f: &Fixture, mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
    let leases: Api<Lease> = Api::namespaced(f.client.clone(), SYSTEM);
    let free = json!({"spec": {"holderIdentity": null}});
    leases
        .patch(
            "anabranch-operator",
            &PatchParams::default(),
            &Patch::Merge(free),
        )
        .await
        .unwrap();
}

/// Plays the agent of the node: says that what is placed is there, and lets go what is deleted.
async fn agent(f: &Fixture) {
    let writer = Writer::new(f.client.clone());
    let api: Api<BucketFork> = f.api("team");
    loop {
        let all = api.list(&ListParams::default()).await.map(|all| all.items);
        let all = all.unwrap_or_default().into_iter().map(Ours::into_object);
        stream::iter(all)
            .for_each_concurrent(16, async |object| {
                let placed = operator::decide::node_of(&object).is_some();
                if object.metadata().deletion_timestamp.is_some() {
                    let _ = writer.release(&object).await;
                } else if placed && operator::decide::conditions(&object).is_empty() {
                    f.say_made(&object).await;
                }
            })
            .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_operator_makes_nothing_twice_and_leaves_nothing_over() {
    let Some(f) = fixture("killed", Parts { controllers: true }).await else {
        return;
    };
    let f = Arc::new(f);
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    // More in a run by hand than in one of many tests.
    let forks = number("ANABRANCH_KILLED_FORKS", 40);
    let claims = number("ANABRANCH_KILLED_CLAIMS", 10);
    let mut seed = number("SEED", jiff::Timestamp::now().as_microsecond() as u64);
    println!("killed: SEED={seed}");
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    f.node("one").await;
    let _beating = f.beating("one");
    f.namespace("team").await;
    let kubeconfig = f.cluster.kubeconfig_of(OPERATOR).unwrap();
    let first = start(&f, &kubeconfig, "operator-0").await;
    let base = key(Kind::Bucket, "team", "base");
    f.ours("Bucket", "team", "base", json!({})).await;
    f.placed(&base).await;
    f.made(&base).await;
    kill(&f, first).await;

    let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
    let of_team: Api<PersistentVolumeClaim> = Api::namespaced(f.client.clone(), "team");
    let seen_volumes = watch_all(volumes.clone());
    let seen_claims = watch_all(of_team.clone());
    let seen_forks = watch_all(f.api::<BucketFork>("team"));
    let plays = tokio::spawn({
        let f = f.clone();
        async move { agent(&f).await }
    });
    let mut starts = 0;
    let mut kills = async |until: &dyn AsyncDone| {
        let began = Instant::now();
        let mut killed = 0;
        while killed < 4 || !until.done().await {
            starts += 1;
            killed += 1;
            let child = start(&f, &kubeconfig, &format!("operator-{starts}")).await;
            tokio::time::sleep(Duration::from_millis(20 + random(700))).await;
            kill(&f, child).await;
            assert!(
                began.elapsed() < Duration::from_secs(180),
                "{}",
                f.cluster.logs()
            );
        }
        (killed, began.elapsed())
    };

    // A burst of both kinds.
    let asked = async {
        stream::iter(0..forks)
            .for_each_concurrent(8, async |fork| {
                let spec = json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}, "claim": {}});
                f.ours("BucketFork", "team", &format!("fork-{fork}"), spec).await;
            })
            .await;
        stream::iter(0..claims)
            .for_each_concurrent(8, async |claim| {
                let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": {"namespace": "team", "name": format!("asks-{claim}")},
                    "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
                        "dataSourceRef": {"apiGroup": "anabranch.dev", "kind": "Bucket", "name": "base"}}});
                f.apply(claim).await.unwrap();
            })
            .await;
    };
    let all = (forks + claims) as usize;
    let bound = Count(&f, all);
    let ((killed, took), ()) = tokio::join!(kills(&bound), asked);
    println!(
        "killed: {forks} forks with claims and {claims} claims that ask for forks are bound after {took:?} and {killed} kills"
    );
    for (what, seen) in [
        ("volumes", &seen_volumes),
        ("claims", &seen_claims),
        ("forks", &seen_forks),
    ] {
        assert_eq!(seen.count(), (all, Vec::new()), "{what}");
    }

    // And their end.
    let ended = async {
        stream::iter(0..forks)
            .for_each_concurrent(8, async |fork| {
                f.delete(&key(Kind::Fork, "team", &format!("fork-{fork}")))
                    .await
                    .unwrap();
            })
            .await;
        for claim in 0..claims {
            let name = format!("asks-{claim}");
            of_team
                .delete(&name, &DeleteParams::default())
                .await
                .unwrap();
        }
    };
    let gone = Count(&f, 0);
    let ((killed, took), ()) = tokio::join!(kills(&gone), ended);
    println!("killed: everything of them is gone after {took:?} and {killed} kills");
    for (what, seen) in [
        ("volumes", &seen_volumes),
        ("claims", &seen_claims),
        ("forks", &seen_forks),
    ] {
        let (count, twice) = seen.count();
        println!(
            "killed: {count} {what} were ever made, {} of them twice",
            twice.len()
        );
        assert_eq!((count, twice), (all, Vec::new()), "{what}");
    }
    plays.abort();
}

/// Whether there are as many of each as there should be, and every claim is bound.
struct Count<'a>(&'a Fixture, usize);

trait AsyncDone {
    fn done(&self) -> futures::future::BoxFuture<'_, bool>;
}

impl AsyncDone for Count<'_> {
    fn done(&self) -> futures::future::BoxFuture<'_, bool> {
        Box::pin(async {
            let Count(f, wanted) = self;
            let all = ListParams::default();
            let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(f.client.clone(), "team");
            let volumes = volumes.list(&all).await.unwrap().items;
            let claims = claims.list(&all).await.unwrap().items;
            let forks = f.api::<BucketFork>("team").list(&all).await.unwrap().items;
            let bound = claims.iter().all(|claim| {
                claim
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref())
                    == Some("Bound")
            });
            bound && [volumes.len(), claims.len(), forks.len()] == [*wanted; 3]
        })
    }
}
