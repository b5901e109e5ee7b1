//! Forks that live as long as a pod, and sets of pods.

use e2e::cluster::Failure;
use e2e::node::{Node, Space, eventually, say, timed};

use crate::forks::{dataset, see_source};

/// An inline volume: a fork that is there with its pod and goes with it, shown as the pod's group.
pub fn inline(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "inline")?;
    dataset(&space)?;
    timed("an inline fork and its pod: apply to Ready", || {
        space.example("cluster/pod-inline.yaml", &[])?;
        space.ready(&["pod/agent"])
    })?;
    see_source(&space, "agent")?;
    let seen = space.sh(
        "agent",
        "stat -c %g /data/README /data/mine; stat -c %u /data/mine; id -u",
    )?;
    if seen != "1000\n1000\n1000\n1000" {
        return Err(format!("the owners that a pod with fsGroup sees: {seen}").into());
    }
    let forks = space.names("bucketforks")?;
    say(&format!("while the pod is there: {}", forks.join(" ")));
    if forks.len() != 2 {
        return Err(format!("not one fork more than review: {forks:?}").into());
    }
    space.delete(&["pod/agent"])?;
    eventually("the fork goes with its pod", || {
        let forks = space.names("bucketforks")?;
        if forks == ["review"] {
            Ok(())
        } else {
            Err(format!("{forks:?}").into())
        }
    })?;
    timed("its namespace ends", || space.end_quickly())
}

/// A StatefulSet and an indexed Job from the examples.
pub fn sets(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "workloads")?;
    dataset(&space)?;
    timed("three replicas with a fork each: apply to Ready", || {
        let quick = "      terminationGracePeriodSeconds: 1\n      containers:";
        space.example("cluster/statefulset.yaml", &[("      containers:", quick)])?;
        space.wait(
            "jsonpath={.status.readyReplicas}=3",
            &["statefulset/workers"],
        )
    })?;
    for index in 0..3 {
        see_source(&space, &format!("workers-{index}"))?;
        space.sh(
            &format!("workers-{index}"),
            &format!("echo {index} > /data/mine; sync"),
        )?;
    }
    space.kubectl(&["delete", "pod", "workers-1", "--grace-period=1"])?;
    timed("a replica is deleted and back", || {
        eventually("the replica is back", || {
            let seen = space.sh("workers-1", "cat /data/mine; wc -l < /data/starts")?;
            if seen == "1\n2" {
                Ok(())
            } else {
                Err(seen.into())
            }
        })
    })?;
    say(&space.kubectl(&["get", "statefulset,pods,pvc,anabranch"])?);
    space.kubectl(&["scale", "statefulset/workers", "--replicas=1"])?;
    timed("claims of what was scaled away go", || {
        eventually("one claim is left", || {
            let claims = space.names("pvc")?;
            if claims == ["data-workers-0"] {
                Ok(())
            } else {
                Err(format!("{claims:?}").into())
            }
        })
    })?;
    space.delete(&["statefulset/workers"])?;

    timed(
        "a Job of eight indices with a fork each: apply to Complete",
        || {
            space.example(
                "cluster/job-indexed.yaml",
                &[
                    ("completions: 20", "completions: 8"),
                    ("parallelism: 10", "parallelism: 4"),
                ],
            )?;
            space.wait("condition=Complete", &["job/sweep"])
        },
    )?;
    space.apply(&crate::manifests::sleeper("results", "results"))?;
    space.ready(&["pod/results"])?;
    let seen = space.sh("results", "ls /data | wc -l")?;
    if seen != "8" {
        return Err(format!("results of the Job: {seen}").into());
    }
    eventually("the forks of the Job are gone", || {
        let forks = space.names("bucketforks")?;
        if forks == ["review"] {
            Ok(())
        } else {
            Err(format!("{forks:?}").into())
        }
    })?;
    timed("its namespace ends", || space.end_quickly())
}
