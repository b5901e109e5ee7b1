//! Limits by VolumeAttributesClass, changed under a pod, through the stock provisioner and resizer.

use e2e::cluster::Failure;
use e2e::node::{Node, Space, eventually, say, timed};

use crate::manifests::sleeper;

/// A class with other limits than that of the example.
fn class(name: &str, parameters: &str) -> String {
    format!(
        "---\napiVersion: storage.k8s.io/v1\nkind: VolumeAttributesClass\nmetadata: {{name: {name}}}\n\
         driverName: csi.anabranch.dev\nparameters: {{{parameters}}}\n"
    )
}

/// How many files the volume at `/data` may hold, and its kibibytes, as a program in the pod sees it.
fn limits(space: &Space) -> Result<(u64, u64), Failure> {
    let number = |script: &str| -> Result<u64, Failure> {
        let text = space.sh("user", script)?;
        let word = text.split_whitespace().nth(1).unwrap_or_default();
        Ok(word
            .parse()
            .map_err(|failure| format!("{script}: {text}: {failure}"))?)
    };
    Ok((
        number("df -iP /data | tail -n1")?,
        number("df -kP /data | tail -n1")?,
    ))
}

fn choose(space: &Space, class: &str) -> Result<(), Failure> {
    let patch = format!("{{\"spec\":{{\"volumeAttributesClassName\":\"{class}\"}}}}");
    space
        .kubectl(&["patch", "pvc", "small", "-p", &patch])
        .map(drop)
}

fn has_class(space: &Space, class: &str) -> Result<(), Failure> {
    eventually("the class that the claim says it has", || {
        match space.field("pvc/small", ".status.currentVolumeAttributesClassName")? {
            current if current == class => Ok(()),
            current => Err(format!("it has {current:?}").into()),
        }
    })
}

/// The example; then larger, impossible, and back, while a pod writes.
pub fn classes(node: &Node) -> Result<(), Failure> {
    let space = Space::make(node, "attributes")?;
    space.apply(
        &(class("anabranch-large", "inodes: '200000', bytes: 2Gi")
            + &class("anabranch-wrong", "colour: red")),
    )?;
    timed("a claim with a class, and its pod: apply to Ready", || {
        space.example("cluster/volume-attributes.yaml", &[])?;
        space.apply(&sleeper("user", "small"))?;
        space.ready(&["pod/user"])
    })?;
    has_class(&space, "anabranch-small")?;
    let expect = |what: &str, wanted: (u64, u64)| {
        eventually(what, || match limits(&space)? {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}, not {wanted:?}").into()),
        })
    };
    expect("the limits of the example", (100_000, 1 << 20))?;
    space.sh("user", "seq 1000 > /data/numbers; sync")?;
    timed("another class, seen in the pod", || {
        choose(&space, "anabranch-large")?;
        expect("the larger limits", (200_000, 2 << 20))?;
        has_class(&space, "anabranch-large")
    })?;
    // What no node can do is said, and changes nothing.
    choose(&space, "anabranch-wrong")?;
    let said = eventually("why the class is not taken", || {
        let events = space.kubectl(&["get", "events", "-o", "jsonpath={.items[*].message}"])?;
        if events.contains("there is no parameter colour") {
            Ok(space.field("pvc/small", ".status.modifyVolumeStatus")?)
        } else {
            Err(events.into())
        }
    })?;
    say(&format!("the claim says of the wrong class: {said}"));
    if limits(&space)? != (200_000, 2 << 20) {
        return Err("a class that was refused has changed the limits".into());
    }
    timed("and back to the first", || {
        choose(&space, "anabranch-small")?;
        has_class(&space, "anabranch-small")?;
        eventually("the smaller limit", || match limits(&space)? {
            (100_000, _) => Ok(()),
            found => Err(format!("{found:?}").into()),
        })
    })?;
    space.sh("user", "tail -n1 /data/numbers")?;
    let end = timed("its namespace ends", || space.end_quickly());
    let all = ["anabranch-small", "anabranch-large", "anabranch-wrong"];
    node.kubectl(
        &[
            &["delete", "volumeattributesclass", "--timeout=120s"],
            &all[..],
        ]
        .concat(),
    )?;
    end
}
