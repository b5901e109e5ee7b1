//! Volumes of a node in a cluster: the agent as a program with a keeper beside it, asked over its socket as the kubelet
//! does.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::{BucketFork, Kind, Object};
use csi_driver::grpc::v1::{self, node_client::NodeClient};
use e2e::cluster::Parts;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::mounting::{Place, can_mount};
use crate::support::{Fixture, Running, fixture, key};

/// A keeper that something else than the agent runs, as its own pod is. Killed when it is dropped.
pub struct Keeper(Child);

impl Keeper {
    pub fn start(place: &Place) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_anabranch-keeper"))
            .arg("--dir")
            .arg(place.path("keeper"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Keeper(child)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn node_service(place: &Path) -> NodeClient<Channel> {
    let endpoint = format!("unix://{}", place.join("csi.sock").display());
    NodeClient::new(connect(&endpoint).await)
}

/// The driver on a socket, as soon as it answers.
pub async fn connect(endpoint: &str) -> Channel {
    let began = Instant::now();
    loop {
        match tonic::transport::Endpoint::from_shared(endpoint.to_owned())
            .unwrap()
            .connect()
            .await
        {
            Ok(channel) => return channel,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn writer() -> Option<v1::VolumeCapability> {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    Some(v1::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter as i32,
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    })
}

/// A publication as the kubelet asks for it for an inline volume of a pod.
fn inline(
    pod: &Pod,
    volume: &str,
    target: &str,
    attributes: &[(&str, &str)],
) -> v1::NodePublishVolumeRequest {
    let of_pod = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        (
            "csi.storage.k8s.io/pod.namespace",
            pod.metadata.namespace.as_deref().unwrap(),
        ),
        (
            "csi.storage.k8s.io/pod.name",
            pod.metadata.name.as_deref().unwrap(),
        ),
        (
            "csi.storage.k8s.io/pod.uid",
            pod.metadata.uid.as_deref().unwrap(),
        ),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    let context: HashMap<String, String> = of_pod
        .iter()
        .chain(attributes)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    v1::NodePublishVolumeRequest {
        volume_id: volume.to_owned(),
        target_path: target.to_owned(),
        volume_capability: writer(),
        volume_context: context,
        ..Default::default()
    }
}

async fn pod(f: &Fixture, namespace: &str, name: &str) -> Pod {
    f.apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "none"}]}}))
        .await
        .unwrap();
    Api::namespaced(f.client.clone(), namespace)
        .get(name)
        .await
        .unwrap()
}

async fn forks(f: &Fixture, namespace: &str) -> Vec<BucketFork> {
    f.api::<BucketFork>(namespace)
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_volumes_through_restarts_of_its_agent() {
    const NAME: &str = "volumes";
    if !can_mount(NAME) {
        return;
    }
    let Some(f) = fixture(NAME, Parts { controllers: true }).await else {
        return;
    };
    let place = Place::new(NAME);
    let kubelet = place.path("kubelet");
    for folder in ["pods", "plugins"] {
        std::fs::create_dir_all(kubelet.join(folder)).unwrap();
    }
    let path = |below: &str| kubelet.join(below).to_str().unwrap().to_owned();
    let source = place.path("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("given"), "given").unwrap();
    let _operator = Running::start(&f.cluster, "one");
    f.namespace("team").await;
    f.node("n1").await;
    // Nothing is taken over and nothing served before there is a keeper.
    let mut agent = Agent::with_volumes(&f.cluster, "n1", &place.root, &[&source]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!place.path("csi.sock").exists());
    let _keeper = Keeper::start(&place);
    agent.ready().await;
    let mut node = node_service(&place.root).await;

    f.ours(
        "Bucket",
        "team",
        "base",
        json!({"source": {"directory": {"path": source}}}),
    )
    .await;
    f.ours(
        "BucketSnapshot",
        "team",
        "v1",
        json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    f.ours("BucketFork", "team", "kept", json!({"source": {"snapshot": "v1"}, "lifetime": {"noExpiry": true}, "claim": {}, "quota": {"bytes": "16Mi"}})).await;
    f.reason(&key(Kind::Fork, "team", "kept"), "Available")
        .await;

    // A claim, as the kubelet stages and publishes it.
    let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
    let handle = f
        .eventually("the volume of the claim", async |_: &Fixture| {
            let all = volumes.list(&ListParams::default()).await.ok()?.items;
            Some(all.into_iter().next()?.spec?.csi?.volume_handle)
        })
        .await;
    std::fs::create_dir_all(path("pods/kept")).unwrap();
    std::fs::create_dir_all(path("plugins/kept")).unwrap();
    let stage = v1::NodeStageVolumeRequest {
        volume_id: handle.clone(),
        staging_target_path: path("plugins/kept/globalmount"),
        volume_capability: writer(),
        ..Default::default()
    };
    node.node_stage_volume(stage).await.unwrap();
    let publish = v1::NodePublishVolumeRequest {
        volume_id: handle.clone(),
        staging_target_path: path("plugins/kept/globalmount"),
        target_path: path("pods/kept/mount"),
        volume_capability: writer(),
        ..Default::default()
    };
    node.node_publish_volume(publish).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(path("pods/kept/mount/given")).unwrap(),
        "given"
    );
    std::fs::write(path("pods/kept/mount/kept"), "kept").unwrap();
    f.eventually(
        "the object says where it is mounted",
        async |f: &Fixture| {
            let Some(Object::Fork(fork)) = f.read(&key(Kind::Fork, "team", "kept")).await else {
                return None;
            };
            (fork.status?.mounts.len() == 1).then_some(())
        },
    )
    .await;
    let bigger = v1::NodeExpandVolumeRequest {
        volume_id: handle.clone(),
        volume_path: path("pods/kept/mount"),
        ..Default::default()
    };
    let size = node.node_expand_volume(bigger).await.unwrap().into_inner();
    assert_eq!(size.capacity_bytes, 16 << 20);

    // An inline volume is a fork of its pod, and an object.
    let agent_pod = pod(&f, "team", "agent.7").await;
    std::fs::create_dir_all(path("pods/inline")).unwrap();
    let volume = format!("csi-{}", "0123456789abcdef".repeat(4));
    let request = inline(
        &agent_pod,
        &volume,
        &path("pods/inline/mount"),
        &[("snapshot", "v1"), ("bytes", "1Mi")],
    );
    let began = Instant::now();
    node.node_publish_volume(request.clone()).await.unwrap();
    println!("an inline volume was published after {:?}", began.elapsed());
    node.node_publish_volume(request.clone()).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(path("pods/inline/mount/given")).unwrap(),
        "given"
    );
    std::fs::write(path("pods/inline/mount/own"), "own").unwrap();
    assert!(!Path::new(&path("pods/kept/mount/own")).exists());
    let object = forks(&f, "team")
        .await
        .into_iter()
        .find(|fork| {
            fork.metadata
                .name
                .as_deref()
                .unwrap()
                .starts_with("agent-7-")
        })
        .unwrap();
    let owners = object.metadata.owner_references.as_ref().unwrap();
    assert_eq!(owners.len(), 1);
    assert_eq!(
        (owners[0].kind.as_str(), owners[0].name.as_str()),
        ("Pod", "agent.7")
    );
    assert_eq!(
        object.spec.quota.as_ref().unwrap().bytes.unwrap().0,
        1 << 20
    );
    let filled = std::fs::write(path("pods/inline/mount/too-much"), vec![7; 4 << 20]);
    assert!(
        filled.is_err()
            || Command::new("sync")
                .arg("-f")
                .arg(path("pods/inline/mount/too-much"))
                .status()
                .is_ok_and(|s| !s.success())
    );

    // What returned on a mount is in a snapshot that is taken of it.
    std::fs::write(path("pods/kept/mount/late"), "late").unwrap();
    f.ours(
        "BucketSnapshot",
        "team",
        "of-kept",
        json!({"source": {"fork": "kept"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    f.reason(&key(Kind::Snapshot, "team", "of-kept"), "Available")
        .await;
    let data = place.path("n1");
    let command = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_anabranch"))
            .args(arguments)
            .arg("--data")
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(command(&["cat", "snapshot/team/of-kept:/late"]), "late");

    // Programs go on while the agent is killed, and while it is replaced in order.
    let script = "while [ -e $0/go ]; do [ \"$(cat $0/given)\" = given ] && echo x >>$0/appended && echo 1 || exit 1; done";
    let mut programs = Vec::new();
    for mount in ["pods/kept/mount", "pods/inline/mount"] {
        std::fs::write(path(&format!("{mount}/go")), "").unwrap();
        let count =
            std::fs::File::create(place.path(&format!("{}.count", mount.replace('/', "-"))))
                .unwrap();
        let program = Command::new("sh")
            .args(["-c", script])
            .arg(path(mount))
            .stdin(Stdio::null())
            .stdout(count)
            .spawn()
            .unwrap();
        programs.push((mount, program));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.kill();
    let began = Instant::now();
    let mut agent = Agent::with_volumes(&f.cluster, "n1", &place.root, &[&source]);
    agent.ready().await;
    println!(
        "after a kill the agent was ready again in {:?}",
        began.elapsed()
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.stop();
    let mut agent = Agent::with_volumes(&f.cluster, "n1", &place.root, &[&source]);
    agent.ready().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    for (mount, mut program) in programs {
        std::fs::remove_file(path(&format!("{mount}/go"))).unwrap();
        assert!(
            program.wait().unwrap().success(),
            "{mount}: a program on it saw an error\n{}",
            agent.log()
        );
        let counted =
            std::fs::read_to_string(place.path(&format!("{}.count", mount.replace('/', "-"))))
                .unwrap();
        let appended = std::fs::read_to_string(path(&format!("{mount}/appended"))).unwrap();
        println!(
            "{mount}: {} rounds through a kill and a restart",
            counted.lines().count()
        );
        assert_eq!(
            appended.lines().count(),
            counted.lines().count(),
            "{mount}: no append was lost or done twice"
        );
    }
    let mut node = node_service(&place.root).await;

    // The source is elsewhere: said at once, with what to do.
    f.node("n2").await;
    let _beating = f.beating("n2");
    let other = pod(&f, "team", "other").await;
    f.ours("Bucket", "team", "far", json!({"node": "n2"})).await;
    let far = key(Kind::Bucket, "team", "far");
    assert_eq!(f.placed(&far).await, "n2");
    f.made(&far).await;
    let request = inline(
        &other,
        "csi-other",
        &path("pods/other"),
        &[("bucket", "far")],
    );
    let refused = node.node_publish_volume(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("n2"), "{refused}");

    // The volume goes, and its object and data with it; what another pod's has stays until the pod is deleted.
    let gone = v1::NodeUnpublishVolumeRequest {
        volume_id: volume.clone(),
        target_path: path("pods/inline/mount"),
    };
    node.node_unpublish_volume(gone.clone()).await.unwrap();
    node.node_unpublish_volume(gone).await.unwrap();
    assert!(!Path::new(&path("pods/inline/mount")).exists());
    f.gone(&key(
        Kind::Fork,
        "team",
        object.metadata.name.as_deref().unwrap(),
    ))
    .await;
    std::fs::create_dir_all(path("pods/again")).unwrap();
    let request = inline(
        &agent_pod,
        "csi-again",
        &path("pods/again/mount"),
        &[("fork", "kept")],
    );
    node.node_publish_volume(request).await.unwrap();
    assert_eq!(
        std::fs::read_to_string(path("pods/again/mount/late")).unwrap(),
        "late"
    );
    let owned = forks(&f, "team")
        .await
        .into_iter()
        .find(|fork| {
            fork.metadata
                .name
                .as_deref()
                .unwrap()
                .starts_with("agent-7-")
        })
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(f.client.clone(), "team");
    pods.delete("agent.7", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    f.gone(&key(
        Kind::Fork,
        "team",
        owned.metadata.name.as_deref().unwrap(),
    ))
    .await;
    assert!(!command(&["tree"]).contains("agent-7-"));

    let unpublish = v1::NodeUnpublishVolumeRequest {
        volume_id: handle.clone(),
        target_path: path("pods/kept/mount"),
    };
    node.node_unpublish_volume(unpublish).await.unwrap();
    let unstage = v1::NodeUnstageVolumeRequest {
        volume_id: handle,
        staging_target_path: path("plugins/kept/globalmount"),
    };
    node.node_unstage_volume(unstage).await.unwrap();
    assert_eq!(command(&["cat", "fork/team/kept:/kept"]), "kept");
    agent.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_by_data_source_ref_is_a_fork_that_grows_and_goes_with_it() {
    let Some(f) = fixture("claims", Parts { controllers: true }).await else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("given"), "given").unwrap();
    let _operator = Running::start(&f.cluster, "one");
    f.namespace("team").await;
    f.node("n1").await;
    let mut agent = Agent::start(&f.cluster, "n1", place.path(), &[&source]);
    agent.ready().await;
    for (name, provisioner) in [
        ("anabranch", "csi.anabranch.dev"),
        ("other", "example.com/other"),
    ] {
        f.apply(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true}))
            .await
            .unwrap();
    }
    f.ours(
        "Bucket",
        "team",
        "base",
        json!({"source": {"directory": {"path": source}}}),
    )
    .await;
    f.ours(
        "BucketSnapshot",
        "team",
        "v1",
        json!({"source": {"bucket": "base"}, "lifetime": {"noExpiry": true}}),
    )
    .await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(f.client.clone(), "team");
    let volumes: Api<PersistentVolume> = Api::all(f.client.clone());
    let ask = async |name: &str, class: &str, kind: &str, of: &str| {
        f.apply(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": "team", "name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {"apiGroup": "anabranch.dev", "kind": kind, "name": of}}}))
            .await
            .unwrap();
    };
    let began = Instant::now();
    ask("mine", "anabranch", "BucketSnapshot", "v1").await;
    ask("live", "anabranch", "Bucket", "base").await;
    ask("wrong", "other", "Bucket", "base").await;
    let bound = async |name: &'static str| {
        f.eventually("the claim is bound", async |_: &Fixture| {
            let claim = claims.get_opt(name).await.unwrap()?;
            (claim.status.as_ref()?.phase.as_deref()? == "Bound").then_some(claim)
        })
        .await
    };
    let mine = bound("mine").await;
    println!(
        "a claim by dataSourceRef was bound {:?} after everything was applied",
        began.elapsed()
    );
    bound("live").await;
    let volume = volumes
        .get(mine.spec.as_ref().unwrap().volume_name.as_ref().unwrap())
        .await
        .unwrap();
    let handle = volume.spec.unwrap().csi.unwrap().volume_handle;
    let made = forks(&f, "team").await;
    assert_eq!(made.len(), 2, "nothing for a class of somebody else");
    let fork = made
        .into_iter()
        .find(|fork| fork.metadata.name.as_deref().unwrap().starts_with("mine-"))
        .unwrap();
    let name = fork.metadata.name.clone().unwrap();
    assert_eq!(
        handle,
        format!(
            "vol-{}",
            fork.status.as_ref().unwrap().timeline.as_ref().unwrap()
        )
    );
    let output = Command::new(env!("CARGO_BIN_EXE_anabranch"))
        .args(["cat", &format!("fork/team/{name}:/given"), "--data"])
        .arg(place.path().join("n1"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "given",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    f.eventually("the refused claim says why", async |f: &Fixture| {
        let events: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(f.client.clone(), "team");
        let all = events.list(&ListParams::default()).await.ok()?.items;
        all.into_iter()
            .find(|event| event.reason.as_deref() == Some("ForkRefused"))
            .filter(|event| {
                event
                    .note
                    .as_deref()
                    .unwrap_or_default()
                    .contains("example.com/other")
            })
            .map(drop)
    })
    .await;

    // It grows with the claim, and goes with it; the other stays.
    let larger = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    claims
        .patch(
            "mine",
            &Default::default(),
            &kube::api::Patch::Merge(larger),
        )
        .await
        .unwrap();
    f.eventually("the fork has the larger size", async |f: &Fixture| {
        let fork = f.api::<BucketFork>("team").get(&name).await.ok()?;
        (fork.spec.quota?.bytes?.0 == 3 << 30).then_some(())
    })
    .await;
    claims
        .delete("mine", &DeleteParams::default())
        .await
        .unwrap();
    f.gone(&key(Kind::Fork, "team", &name)).await;
    f.eventually(
        "only the volume of the other is left",
        async |_: &Fixture| {
            let all = volumes.list(&ListParams::default()).await.ok()?.items;
            (all.len() == 1).then_some(())
        },
    )
    .await;
    assert_eq!(forks(&f, "team").await.len(), 1);
    agent.stop();
}
