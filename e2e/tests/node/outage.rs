//! Programs in pods write while what serves them is killed, replaced and upgraded: they see no error, and nothing is lost.

use std::thread::sleep;
use std::time::Duration;

use e2e::cluster::Failure;
use e2e::node::{Node, SYSTEM, Space, eventually, say, timed};

use crate::forks::dataset;
use crate::manifests::{claim, of_claim, pod, sleeper};
use crate::prepare::{CHART, rolled_out};

/// Writes numbered lines with the machine's uptime through a descriptor that stays open, and in each round makes a file, has
/// it written out, renames and reads it. Says what failed.
const WRITER: &str = "i=0; exec 3>>/data/held; while [ ! -e /data/stop ]; do i=$((i+1)); read up rest </proc/uptime; \
    { echo $i $up >&3 && echo $i | dd of=/data/part conv=fsync 2>/dev/null && mv /data/part /data/whole && \
    [ \"$(cat /data/whole)\" = $i ]; } || echo FAILED in round $i; done; echo done $i; sleep 1d";

/// Ends with the number of the last line, when every line is there once, and prints the longest time between two.
const READER: &str = "awk '$1 != NR {print \"line\", NR, \"is\", $0; exit 1} NR > 1 && $2 - last > most {most = $2 - last} {last = $2} \
    END {print NR, \"rounds, the longest\", most, \"s\"}' /data/held";

pub fn agents(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "outage")?;
    dataset(&space)?;
    let fork =
        "csi: {driver: csi.anabranch.dev, volumeAttributes: {snapshot: base-v1, bytes: 1Gi}}";
    space.apply(
        &(claim("kept", "ReadWriteOnce", "1Gi")
            + &pod("on-claim", WRITER, &[("data", &of_claim("kept"))])
            + &pod("on-inline", WRITER, &[("data", fork)])),
    )?;
    space.ready(&["pod/on-claim", "pod/on-inline"])?;

    step(&space, "the agent is killed", || kill_agent(node))?;
    step(&space, "the agent's pod is deleted", || {
        node.kubectl(&[
            "-n",
            SYSTEM,
            "delete",
            "pod",
            "-l",
            "app.kubernetes.io/component=node",
        ])?;
        rolled_out(node)
    })?;
    step(&space, "the kubelet is killed and started", || {
        node.stop_kubelet();
        sleep(Duration::from_secs(2));
        node.start_kubelet()?;
        node.wait_ready()
    })?;
    step(&space, "helm upgrade to other images", || {
        node.helm(&[
            "upgrade",
            "anabranch",
            CHART,
            "--namespace",
            SYSTEM,
            "--reuse-values",
            "--set",
            "image.tag=next",
            "--set",
            "log=debug",
        ])?;
        rolled_out(node)
    })?;
    step(&space, "the keeper is replaced", || {
        let keeper = "app.kubernetes.io/component=keeper";
        node.kubectl(&["-n", SYSTEM, "delete", "pod", "-l", keeper])?;
        node.kubectl(&[
            "-n",
            SYSTEM,
            "rollout",
            "status",
            "daemonset/anabranch-node",
            "--timeout=120s",
        ])?;
        eventually("the next keeper", || {
            node.kubectl(&[
                "-n",
                SYSTEM,
                "wait",
                "--for=condition=Ready",
                "pod",
                "-l",
                keeper,
                "--timeout=60s",
            ])
        })
        .map(drop)
    })?;
    step(&space, "the agent is killed after that", || {
        kill_agent(node)
    })?;

    for pod in ["on-claim", "on-inline"] {
        space.sh(pod, "touch /data/stop")?;
        let log = eventually("the writer ends", || {
            let log = space.kubectl(&["logs", pod])?;
            if log.contains("done ") {
                Ok(log)
            } else {
                Err(log.into())
            }
        })?;
        let failed: Vec<_> = log
            .lines()
            .filter(|line| !line.starts_with("done "))
            .collect();
        if let Some(first) = failed.first() {
            return Err(format!("the program in {pod} saw {} times: {first}", failed.len()).into());
        }
        let rounds = space.sh(pod, READER)?;
        say(&format!("{pod}: {rounds}"));
        if log.trim() != format!("done {}", rounds.split(' ').next().unwrap_or_default()) {
            return Err(format!("{pod} wrote {log} and has {rounds}").into());
        }
    }
    // What was written is in the store, not only in the mount.
    space.delete(&["pod/on-claim"])?;
    space.apply(&sleeper("after", "kept"))?;
    space.ready(&["pod/after"])?;
    say(&format!(
        "after a new mount: {}",
        space.sh("after", READER)?
    ));
    timed("its namespace ends", || space.end_quickly())
}

/// Does something, and waits until both writers have gone on after it.
fn step(
    space: &Space,
    what: &str,
    act: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    timed(what, act)?;
    for pod in ["on-claim", "on-inline"] {
        let count = || space.sh(pod, "wc -l < /data/held");
        let before = eventually("the writer's file", count)?;
        eventually(&format!("{pod} goes on after: {what}"), || {
            let now = count()?;
            if now == before {
                Err(now.into())
            } else {
                Ok(())
            }
        })?;
    }
    Ok(())
}

/// Kills the agent's process, and waits until the kubelet has started it again and it is ready.
fn kill_agent(node: &Node) -> Result<(), Failure> {
    let label = "app.kubernetes.io/component=node";
    let of_agent = |field: &str| {
        let path =
            format!("jsonpath={{.items[0].status.containerStatuses[?(@.name=='agent')].{field}}}");
        node.kubectl(&["-n", SYSTEM, "get", "pods", "-l", label, "-o", &path])
    };
    let id = of_agent("containerID")?;
    let id = id.trim_start_matches("containerd://");
    node.ctr(&["-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id])?;
    eventually("the agent is there again", || {
        let next = of_agent("containerID")?;
        let ready = of_agent("ready")?;
        if next.ends_with(id) || ready != "true" {
            Err(format!("{next} {ready}").into())
        } else {
            Ok(())
        }
    })
}
