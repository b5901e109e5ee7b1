//! Claims: empty, grown, cloned, restored, and made from objects of ours.

use e2e::cluster::Failure;
use e2e::node::{NODE, Node, Space, eventually, say, timed};

use crate::forks::{dataset, see_source};
use crate::manifests::{claim, claim_of, of_claim, pod, sleeper};

/// Kibibytes of the file system at `/data`, as a program in the pod sees it.
fn size(space: &Space, pod: &str) -> Result<u64, Failure> {
    let text = space.sh(pod, "df -kP /data | tail -n1")?;
    let word = text.split_whitespace().nth(1).unwrap_or_default();
    Ok(word
        .parse::<u64>()
        .map_err(|failure| format!("df: {text}: {failure}"))?)
}

/// An empty volume: written, mounted again by another pod, made larger while it is mounted.
pub fn empty(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "empty")?;
    let manifests = claim("work", "ReadWriteOnce", "64Mi") + &sleeper("one", "work");
    timed("a claim and its pod: apply to Ready", || {
        space.apply(&manifests)?;
        space.ready(&["pod/one"])
    })?;
    space.sh(
        "one",
        "seq 100000 > /data/numbers; mkdir /data/folder; ln -s numbers /data/link",
    )?;
    space.delete(&["pod/one"])?;
    space.apply(&sleeper("two", "work"))?;
    space.ready(&["pod/two"])?;
    let seen = space.sh("two", "tail -n1 /data/link; ls /data")?;
    if seen != "100000\nfolder\nlink\nnumbers" {
        return Err(format!("the second pod sees {seen}").into());
    }
    let before = size(&space, "two")?;
    let full = space.sh("two", "dd if=/dev/zero of=/data/large bs=1M count=100");
    match full {
        Err(failure) if failure.to_string().contains("No space left") => {}
        other => return Err(format!("100 MiB into a claim of 64 MiB: {other:?}").into()),
    }
    timed("the claim grows, seen in the pod", || {
        space.kubectl(&[
            "patch",
            "pvc",
            "work",
            "-p",
            "{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"256Mi\"}}}}",
        ])?;
        eventually("the size in the pod", || match size(&space, "two")? {
            kibibytes if kibibytes >= 256 * 1024 => Ok(()),
            kibibytes => Err(format!("{kibibytes} KiB").into()),
        })?;
        eventually("the claim's own word", || {
            let stands = space.field("pvc/work", ".status.capacity.storage")?;
            if stands == "256Mi" {
                Ok(())
            } else {
                Err(stands.into())
            }
        })
    })?;
    say(&format!(
        "df in the pod: {before} KiB, then {} KiB",
        size(&space, "two")?
    ));
    space.sh(
        "two",
        "dd if=/dev/zero of=/data/large bs=1M count=100 && sync",
    )?;
    let statistics = eventually("the kubelet's statistics of the claim", || {
        let text = node.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/nodes/{NODE}/proxy/metrics"),
        ])?;
        let line = text.lines().find(|line| {
            line.starts_with("kubelet_volume_stats_capacity_bytes") && line.contains("\"work\"")
        });
        Ok(line.ok_or("none")?.to_owned())
    })?;
    say(&statistics);
    // A claim that is deleted while a pod uses it stays until the pod is gone, and then ends.
    space.kubectl(&["delete", "pvc", "work", "--wait=false"])?;
    space.sh("two", "echo still > /data/here; sync; cat /data/here")?;
    space.delete(&["pod/two"])?;
    space.wait("delete", &["pvc/work"])?;
    timed("its namespace ends", || space.end_quickly())
}

/// A clone of a claim, a VolumeSnapshot, and a claim from that: the example, and that writes after the snapshot are not in it.
pub fn copies(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "copies")?;
    let example = include_str!("../../../examples/cluster/claim-clone.yaml");
    let work = example
        .split("---\n")
        .take(2)
        .collect::<Vec<_>>()
        .join("---\n");
    timed(
        "clone, VolumeSnapshot, restore and their pods: apply to Ready",
        || {
            // Only then is there anything to copy.
            space.apply(&work)?;
            space.ready(&["pod/work"])?;
            space.sh("work", "sync")?;
            space.example("cluster/claim-clone.yaml", &[])?;
            space.wait(
                "jsonpath={.status.readyToUse}=true",
                &["volumesnapshot/work-1"],
            )?;
            space.ready(&["pod/compare"])
        },
    )?;
    say(&space.kubectl(&["get", "pvc,volumesnapshot"])?);
    space.sh("work", "seq 1000 > /data/after; sync")?;
    space.sh(
        "compare",
        "echo clone > /clone/mine; echo restored > /restored/mine; sync",
    )?;
    let seen = space.sh(
        "compare",
        "cat /clone/mine /restored/mine; ls /clone /restored",
    )?;
    if seen != "clone\nrestored\n/clone:\nlog\nmine\n\n/restored:\nlog\nmine" {
        return Err(format!("the clone and the restored volume have: {seen}").into());
    }
    // The originals go; the copies stay.
    space.delete(&["pod/work", "pvc/work", "volumesnapshot/work-1"])?;
    space.sh("compare", "cat /clone/log /restored/log >/dev/null")?;
    timed("its namespace ends", || space.end_quickly())
}

/// Claims whose `dataSourceRef` names a snapshot, a bucket or a fork of ours, and a read-only one for many pods.
pub fn sources(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "sources")?;
    dataset(&space)?;
    space.example("cluster/pod-claim.yaml", &[])?;
    let users = claim_of("reader", "ReadOnlyMany", "BucketSnapshot", "base-v1")
        + &sleeper("bucket-user", "from-bucket")
        + &sleeper("fork-user", "from-fork");
    timed(
        "claims of a snapshot, a bucket and a fork, and their pods: apply to Ready",
        || {
            space.example("cluster/claim-from-snapshot.yaml", &[])?;
            space.apply(&users)?;
            space.ready(&["pod/from-snapshot", "pod/bucket-user", "pod/fork-user"])
        },
    )?;
    for pod in ["from-snapshot", "bucket-user", "fork-user"] {
        see_source(&space, pod)?;
        space.sh(pod, &format!("echo {pod} > /data/mine && rm -r /data/deep"))?;
    }
    // Two pods read one snapshot, and neither can write.
    let one = pod(
        "reader-1",
        "sleep 1d",
        &[(
            "data",
            &(of_claim("reader").replace("}", ", readOnly: true}")),
        )],
    );
    space.apply(&(one + &sleeper("reader-2", "reader")))?;
    space.ready(&["pod/reader-1", "pod/reader-2"])?;
    for pod in ["reader-1", "reader-2"] {
        see_source(&space, pod)?;
        match space.sh(pod, "echo no > /data/no") {
            Err(failure) if failure.to_string().contains("Read-only") => {}
            other => return Err(format!("{pod} writes what is read-only: {other:?}").into()),
        }
    }
    say(&space.kubectl(&["get", "anabranch,pvc"])?);
    timed("its namespace ends", || space.end_quickly())
}

/// A claim for one pod alone: the second waits, and gets it when the first is gone.
pub fn single(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "single")?;
    space.apply(&(claim("alone", "ReadWriteOncePod", "64Mi") + &sleeper("one", "alone")))?;
    space.ready(&["pod/one"])?;
    space.sh("one", "echo one > /data/one; sync")?;
    space.apply(&sleeper("two", "alone"))?;
    eventually("why the second waits", || {
        let said = space.field("pod/two", ".status.conditions[0].message")?;
        if said.contains("ReadWriteOncePod") {
            Ok(())
        } else {
            Err(said.into())
        }
    })?;
    space.delete(&["pod/one"])?;
    space.ready(&["pod/two"])?;
    space.sh("two", "cat /data/one")?;
    space.end_quickly()
}
