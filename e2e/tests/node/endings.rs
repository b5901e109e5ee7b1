//! Everything that is deleted ends, in any order, and leaves nothing.

use std::fs;

use e2e::cluster::Failure;
use e2e::node::{Node, SYSTEM, Space, eventually, say, timed};

use crate::forks::dataset;
use crate::manifests::{claim, claim_of, of_claim, pod, sleeper};

/// Everything in use at once: forks with claims, an inline one, a claim of the class, its snapshot.
fn busy(space: &Space) -> Result<(), Failure> {
    dataset(space)?;
    let fork = "csi: {driver: csi.anabranch.dev, volumeAttributes: {bucket: base}}";
    let busy = "while :; do date >> /data/log; done";
    space.apply(
        &("apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {name: agent}\n\
           spec: {source: {snapshot: base-v1}, count: 2, lifetime: {noExpiry: true}, protected: true, claim: {}}\n"
            .to_owned()
            + &claim("work", "ReadWriteOnce", "64Mi")
            + &claim_of("forked", "ReadWriteOnce", "BucketFork", "agent-0")
            + "---\napiVersion: snapshot.storage.k8s.io/v1\nkind: VolumeSnapshot\nmetadata: {name: work-1}\n\
               spec: {volumeSnapshotClassName: anabranch, source: {persistentVolumeClaimName: work}}\n"
            + &sleeper("a", "agent-0")
            + &pod("b", busy, &[("data", &of_claim("agent-1"))])
            + &pod("c", busy, &[("data", fork)])
            + &pod("d", busy, &[("data", &of_claim("work"))])
            + &sleeper("e", "forked")),
    )?;
    space.ready(&["pod/a", "pod/b", "pod/c", "pod/d", "pod/e"])?;
    space.wait(
        "jsonpath={.status.readyToUse}=true",
        &["volumesnapshot/work-1"],
    )
}

pub fn in_use(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "endings")?;
    busy(&space)?;
    // Somebody deletes the sources while everything is in use, then the whole namespace.
    space.kubectl(&["delete", "bucketsnapshot,bucket", "--all", "--wait=false"])?;
    match space.kubectl(&["delete", "bucketfork", "agent", "--wait=false"]) {
        Err(failure) if failure.to_string().contains("protected") => {}
        other => return Err(format!("a protected fork is deleted: {other:?}").into()),
    }
    timed("a namespace with everything in use ends", || space.end())?;
    nothing_left(node)?;

    // Claims first, then pods, then objects.
    let space = Space::make(node, "backwards")?;
    busy(&space)?;
    space.kubectl(&["delete", "pvc", "--all", "--wait=false"])?;
    space.kubectl(&[
        "patch",
        "bucketfork",
        "agent",
        "--type=merge",
        "-p",
        "{\"spec\":{\"protected\":false}}",
    ])?;
    space.kubectl(&["delete", "bucketforks", "--all", "--wait=false"])?;
    // What a pod has mounted stays with it until it ends.
    eventually("the fork says that it is in use", || {
        let why = space.kubectl(&[
            "get",
            "bucketfork",
            "agent",
            "-o",
            "jsonpath={.status.conditions[?(@.type==\"Ready\")].reason}",
        ])?;
        match why.as_str() {
            "InUse" => Ok(()),
            other => Err(other.to_owned().into()),
        }
    })?;
    space.kubectl(&["exec", "a", "--", "touch", "/data/still-there"])?;
    space.kubectl(&["delete", "pods", "--all"])?;
    timed("forks and claims end after their pods", || {
        eventually("nothing of them is there", || {
            let left = [space.names("pvc")?, space.names("bucketforks")?].concat();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}").into())
            }
        })
    })?;
    timed("the namespace ends", || space.end())?;
    nothing_left(node)
}

/// No volume, no mount, and in the store no data.
fn nothing_left(node: &Node) -> Result<(), Failure> {
    eventually("no volume is left", || {
        match node
            .kubectl(&[
                "get",
                "pv,volumesnapshotcontents,anabranch",
                "-A",
                "-o",
                "name",
            ])?
            .as_str()
        {
            "" => Ok(()),
            left => Err(left.to_owned().into()),
        }
    })?;
    eventually("no mount is left", || match mounts()?.as_slice() {
        [] => Ok(()),
        left => Err(left.join("\n").into()),
    })?;
    let tree = eventually("nothing is in the store", || {
        let tree = node.kubectl(&[
            "-n",
            SYSTEM,
            "exec",
            "daemonset/anabranch-node",
            "-c",
            "agent",
            "--",
            "anabranch",
            "tree",
            "--data",
            "/data",
        ])?;
        if tree.contains('/') {
            Err(tree.into())
        } else {
            Ok(tree)
        }
    })?;
    say(&format!("anabranch tree: {}", tree.trim()));
    Ok(())
}

/// FUSE mounts below the kubelet's directory, and its folders of volumes.
fn mounts() -> Result<Vec<String>, Failure> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .filter(|line| line.contains(" /var/lib/kubelet/") && line.contains(" - fuse"))
        .map(str::to_owned)
        .collect())
}

/// As docs/operations.md says.
pub fn uninstall(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "left")?;
    dataset(&space)?;
    timed("helm uninstall with objects that stay", || {
        node.helm(&[
            "uninstall",
            "anabranch",
            "--namespace",
            SYSTEM,
            "--timeout",
            "120s",
        ])
    })?;
    let left = space.names("bucketforks")?;
    if left != ["review"] {
        return Err(format!("the uninstall took objects: {left:?}").into());
    }
    // Nothing of ours is needed for them to go.
    timed(
        "the namespace with those objects ends without an operator",
        || space.end(),
    )?;
    timed("the namespace of the chart ends", || {
        node.kubectl(&["delete", "namespace", SYSTEM, "--timeout=120s"])
    })?;
    node.kubectl(&[
        "delete",
        "crd",
        "buckets.anabranch.dev",
        "bucketsnapshots.anabranch.dev",
        "bucketforks.anabranch.dev",
    ])?;
    let left = node.kubectl(&["get", "clusterroles,clusterrolebindings,csidrivers,storageclasses,volumesnapshotclasses,validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name"])?;
    let ours: Vec<_> = left
        .lines()
        .filter(|name| name.contains("anabranch"))
        .collect();
    if !ours.is_empty() {
        return Err(format!("the uninstall leaves {ours:?}").into());
    }
    eventually("the driver is gone from the node", || {
        match node
            .kubectl(&[
                "get",
                "csinodes",
                "-o",
                "jsonpath={.items[*].spec.drivers[*].name}",
            ])?
            .as_str()
        {
            "" => Ok(()),
            names => Err(names.to_owned().into()),
        }
    })
}
