//! Buckets, snapshots and sets of forks, with claims that pods name.

use e2e::cluster::Failure;
use e2e::node::{Node, Space, say, timed};

use crate::manifests::sleeper;

const COUNT: usize = 6;

/// What [`crate::prepare`] put into the source of the examples.
pub fn see_source(space: &Space, pod: &str) -> Result<(), Failure> {
    let seen = space.sh(pod, "cat /data/README && ls /data/deep/er | wc -l")?;
    if seen != "base\n100" {
        return Err(format!("{pod} sees of the source: {seen}").into());
    }
    Ok(())
}

/// Applies the dataset of the examples, and waits for it.
pub fn dataset(space: &Space) -> Result<(), Failure> {
    space.example("cluster/forks.yaml", &[])?;
    space.ready(&["bucket/base", "bucketsnapshot/base-v1", "bucketfork/review"])
}

/// A set of forks with claims, a pod on each: every one sees the source and its own writes, and no other's.
pub fn sets(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "sets")?;
    timed("bucket, snapshot and ten forks: apply to Ready", || {
        dataset(&space)
    })?;
    let mut manifests = format!(
        "apiVersion: anabranch.dev/v1alpha1\nkind: BucketFork\nmetadata: {{name: agent}}\n\
         spec: {{source: {{snapshot: base-v1}}, count: {COUNT}, lifetime: {{ttl: 24h}}, claim: {{}}}}\n"
    );
    let names: Vec<_> = (0..COUNT).map(|index| format!("agent-{index}")).collect();
    for name in &names {
        manifests.push_str(&sleeper(name, name));
    }
    let pods: Vec<_> = names.iter().map(|name| format!("pod/{name}")).collect();
    let pods: Vec<_> = pods.iter().map(String::as_str).collect();
    timed(
        &format!("{COUNT} forks with claims and pods: apply to Ready"),
        || {
            space.apply(&manifests)?;
            space.ready(&pods)
        },
    )?;
    for name in &names {
        see_source(&space, name)?;
        space.sh(
            name,
            &format!(
                "echo {name} > /data/who; echo {name} >> /data/README; rm -r /data/deep; sync"
            ),
        )?;
    }
    for name in &names {
        let seen = space.sh(name, "cat /data/who; tail -n1 /data/README; ls /data")?;
        if seen != format!("{name}\n{name}\nREADME\nwho") {
            return Err(format!("{name} sees of itself and others: {seen}").into());
        }
    }
    timed("one more pod: apply to Ready", || {
        space.example("cluster/pod-claim.yaml", &[])?;
        space.ready(&["pod/try"])
    })?;
    see_source(&space, "try")?;
    say(&space.kubectl(&["get", "anabranch"])?);
    say(&space.kubectl(&["get", "pods,pvc"])?);
    say(&node.kubectl(&["get", "pv,csinodes,csistoragecapacities", "-A"])?);
    // The same fork again, for another pod.
    space.delete(&["pod/agent-0"])?;
    space.apply(&sleeper("again", "agent-0"))?;
    space.ready(&["pod/again"])?;
    let seen = space.sh("again", "cat /data/who")?;
    if seen != "agent-0" {
        return Err(format!("the next pod of a fork sees {seen}").into());
    }
    // The source first, then what stands on it.
    space.delete(&["bucket/base", "bucketsnapshot/base-v1"])?;
    see_source(&space, "try")?;
    timed("the namespace with pods on forks ends", || {
        space.end_quickly()
    })
}
