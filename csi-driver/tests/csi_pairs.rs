//! Two calls on one volume at the same time, over the wire: each is done or refused with ABORTED, and whatever order they
//! came in, what is left can be used and taken away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod csi_common;
mod support;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use csi_common::{Node, volume};
use csi_driver::fuse::mount::{self, TYPE, mounted};
use csi_driver::grpc::v1::{self, controller_client::ControllerClient, node_client::NodeClient};
use support::{can_mount, root_timeline, watchdog};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const PAIRS: u32 = 200;
const INLINE: &str = "csi-inline";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Stage,
    Unstage,
    Publish,
    Unpublish,
    PublishInline,
    UnpublishInline,
    Delete,
}

use Call::{Delete, Publish, PublishInline, Stage, Unpublish, UnpublishInline, Unstage};

/// Which calls meet, on what.
const KINDS: [(Call, Call, Before); 11] = [
    (Publish, Unpublish, Before::Staged),
    (Publish, Unpublish, Before::Published),
    (Publish, Publish, Before::Staged),
    (Unpublish, Unpublish, Before::Published),
    (Stage, Stage, Before::Made),
    (Stage, Unstage, Before::Made),
    (Unstage, Unstage, Before::Staged),
    (Delete, Publish, Before::Staged),
    (Delete, Stage, Before::Made),
    (PublishInline, PublishInline, Before::Made),
    (PublishInline, UnpublishInline, Before::Made),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Before {
    Made,
    Staged,
    Published,
}

/// SplitMix64: the same run for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn seed() -> u64 {
    std::env::var("ANABRANCH_SEED").map_or_else(
        |_| {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        },
        |text| text.parse().expect("ANABRANCH_SEED is a number"),
    )
}

fn capability() -> Option<v1::VolumeCapability> {
    use v1::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
    Some(v1::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeWriter as i32,
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    })
}

/// One volume, its paths, and a connection.
#[derive(Clone)]
struct Caller {
    channel: Channel,
    volume: String,
    staging: String,
    target: String,
    inline: String,
}

impl Caller {
    async fn call(&self, call: Call) -> Result<(), Status> {
        let mut nodes = NodeClient::new(self.channel.clone());
        let volume_id = self.volume.clone();
        match call {
            Stage => {
                let request = v1::NodeStageVolumeRequest {
                    volume_id,
                    staging_target_path: self.staging.clone(),
                    volume_capability: capability(),
                    ..Default::default()
                };
                nodes.node_stage_volume(request).await.map(drop)
            }
            Unstage => {
                let request = v1::NodeUnstageVolumeRequest {
                    volume_id,
                    staging_target_path: self.staging.clone(),
                };
                nodes.node_unstage_volume(request).await.map(drop)
            }
            Publish => {
                let request = v1::NodePublishVolumeRequest {
                    volume_id,
                    staging_target_path: self.staging.clone(),
                    target_path: self.target.clone(),
                    volume_capability: capability(),
                    ..Default::default()
                };
                nodes.node_publish_volume(request).await.map(drop)
            }
            PublishInline => {
                let context: HashMap<String, String> = [
                    ("csi.storage.k8s.io/ephemeral", "true"),
                    ("csi.storage.k8s.io/pod.namespace", "team"),
                    ("bucket", "base"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
                let request = v1::NodePublishVolumeRequest {
                    volume_id: INLINE.to_owned(),
                    target_path: self.inline.clone(),
                    volume_capability: capability(),
                    volume_context: context,
                    ..Default::default()
                };
                nodes.node_publish_volume(request).await.map(drop)
            }
            Unpublish | UnpublishInline => {
                let inline = call == UnpublishInline;
                let request = v1::NodeUnpublishVolumeRequest {
                    volume_id: if inline { INLINE.to_owned() } else { volume_id },
                    target_path: if inline { &self.inline } else { &self.target }.clone(),
                };
                nodes.node_unpublish_volume(request).await.map(drop)
            }
            Delete => {
                let request = v1::DeleteVolumeRequest {
                    volume_id,
                    ..Default::default()
                };
                let mut controller = ControllerClient::new(self.channel.clone());
                controller.delete_volume(request).await.map(drop)
            }
        }
    }

    async fn done(&self, call: Call) {
        let outcome = self.call(call).await;
        assert!(outcome.is_ok(), "{call:?} alone: {outcome:?}");
    }

    /// Calls both, the second so many microseconds after the first.
    async fn both(&self, first: Call, second: Call, after: u64) -> [Result<(), Status>; 2] {
        let (one, other) = (self.clone(), self.clone());
        let one = tokio::spawn(async move { one.call(first).await });
        let other = tokio::spawn(async move {
            if after > 0 {
                tokio::time::sleep(Duration::from_micros(after)).await;
            }
            other.call(second).await
        });
        [one.await.unwrap(), other.await.unwrap()]
    }
}

/// What a call may answer when it meets another: it is done or refused. Only deleting is more: it takes the volume from the
/// other call, or is told that the volume is in use.
fn expected(call: Call, other: Call) -> &'static [Code] {
    match (call, other) {
        (Delete, _) => &[Code::Ok, Code::Aborted, Code::FailedPrecondition],
        (Stage, Delete) => &[Code::Ok, Code::Aborted, Code::NotFound],
        _ => &[Code::Ok, Code::Aborted],
    }
}

fn ours_below(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = mounted()
        .unwrap()
        .into_iter()
        .filter(|line| line.kind == TYPE && line.point.starts_with(directory))
        .map(|line| line.point)
        .collect();
    all.sort();
    all
}

#[test]
fn two_hundred_pairs_of_calls_on_one_volume_are_done_or_aborted() {
    let name = "two_hundred_pairs_of_calls_on_one_volume_are_done_or_aborted";
    if !can_mount(name) {
        return;
    }
    let _alive = watchdog(Duration::from_secs(300));
    let seed = seed();
    println!("ANABRANCH_SEED={seed}");
    let mut random = Random(seed);
    let mut node = Node::new("csi-pairs");
    let endpoint = node.serve();
    root_timeline(&node.engine, "bucket/team/base");
    let runtime = node.runtime();
    let channel =
        runtime.block_on(async { Endpoint::from_shared(endpoint).unwrap().connect().await });
    let channel = channel.unwrap();
    let mut answers: BTreeMap<(Call, Call), BTreeMap<String, u32>> = BTreeMap::new();
    for pair in 0..PAIRS {
        // Every kind comes at least once; the rest are drawn.
        let kind = KINDS
            .get(pair as usize)
            .unwrap_or_else(|| &KINDS[random.below(KINDS.len() as u64) as usize]);
        let (first, second, before) = *kind;
        let swap = random.below(2) == 1;
        let (first, second) = if swap {
            (second, first)
        } else {
            (first, second)
        };
        // From at once to after the other has most likely ended.
        let after = [0, 50, 200, 1000, 3000][random.below(5) as usize];
        let what = format!("pair {pair}: {first:?}, {second:?} {after} µs later");
        let caller = Caller {
            channel: channel.clone(),
            volume: volume(&node, "v").id,
            staging: node.path("plugins/staging"),
            target: node.path("pods/target"),
            inline: node.path("pods/inline"),
        };
        runtime.block_on(async {
            if before >= Before::Staged {
                caller.done(Stage).await;
            }
            if before >= Before::Published {
                caller.done(Publish).await;
            }
            let outcomes = caller.both(first, second, after).await;
            let codes = outcomes
                .each_ref()
                .map(|outcome| outcome.as_ref().map_or_else(Status::code, |()| Code::Ok));
            for ((call, other), outcome) in [(first, second), (second, first)]
                .into_iter()
                .zip(&outcomes)
            {
                let code = outcome.as_ref().map_or_else(Status::code, |()| Code::Ok);
                assert!(
                    expected(call, other).contains(&code),
                    "{what}: {call:?} answers {outcome:?}"
                );
            }
            assert!(
                codes.contains(&Code::Ok) || first == Delete || second == Delete,
                "{what}: none is done: {outcomes:?}"
            );
            let (key, shown) = if swap {
                ((second, first), [codes[1], codes[0]])
            } else {
                ((first, second), codes)
            };
            let text = format!("{:?} {:?}", shown[0], shown[1]);
            *answers.entry(key).or_default().entry(text).or_default() += 1;
        });

        // Whatever came of it: the volume can be used, and taken away without a rest.
        let caller = Caller {
            volume: volume(&node, "v").id,
            ..caller
        };
        runtime.block_on(async {
            for call in [Stage, Publish, PublishInline] {
                caller.done(call).await;
            }
        });
        for (path, id) in [(&caller.target, "v"), (&caller.inline, INLINE)] {
            let line = mount::mounted_at(Path::new(path)).unwrap().unwrap();
            assert_eq!(line.kind, TYPE, "{what}: {line:?}");
            fs::write(Path::new(path).join("file"), id).unwrap();
        }
        let mut there = [&caller.inline, &caller.staging, &caller.target].map(PathBuf::from);
        there.sort();
        assert_eq!(ours_below(&node.kubelet), there, "{what}");
        runtime.block_on(async {
            for call in [UnpublishInline, Unpublish, Unstage] {
                caller.done(call).await;
            }
        });
        assert!(ours_below(&node.kubelet).is_empty(), "{what}");
        assert!(node.mounts.list().is_empty(), "{what}");
        assert!(!Path::new(&caller.target).exists(), "{what}");
        assert!(!Path::new(&caller.inline).exists(), "{what}");
    }
    for ((first, second), outcomes) in &answers {
        println!("{first:?} with {second:?}: {outcomes:?}");
    }
    assert!(
        answers
            .values()
            .flatten()
            .any(|(text, _)| text.contains("Aborted")),
        "no two calls met"
    );
    assert_eq!(node.driver.list_volumes(0, "").unwrap().entries.len(), 1);
    node.end();
}
