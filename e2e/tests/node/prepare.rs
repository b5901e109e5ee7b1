//! Images, the chart and what it needs in a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::binaries::binary;
use e2e::cluster::Failure;
use e2e::node::images::Image;
use e2e::node::{NODE, Node, SYSTEM, eventually, say, timed};

/// The tag of the chart's images.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/anabranch");

pub fn install(node: &Node) -> Result<(), Failure> {
    timed("images are made and imported", || images(node))?;
    timed("the node is ready", || node.wait_ready())?;
    let definitions = node.programs().snapshot_definitions.display().to_string();
    node.kubectl(&["create", "-f", &definitions])?;
    let controller = node
        .programs()
        .sidecars
        .iter()
        .find(|(image, _)| image.contains("/snapshot-controller:"))
        .ok_or("no snapshot controller")?;
    node.apply(
        &include_str!("../../node/snapshot-controller.yaml").replace("IMAGE", &controller.0),
    )?;
    source()?;
    timed("helm install: until everything is ready", || chart(node))?;
    say(&node.kubectl(&["get", "pods", "-A", "-o", "wide"])?);
    Ok(())
}

/// What the Bucket of the examples is filled from.
fn source() -> Result<(), Failure> {
    let base = Path::new("/srv/datasets/base");
    fs::create_dir_all(base.join("deep/er"))?;
    fs::write(base.join("README"), "base\n")?;
    for index in 0..100 {
        fs::write(
            base.join(format!("deep/er/{index}")),
            vec![b'x'; index * 1000],
        )?;
    }
    Ok(())
}

/// The steps of docs/install.md, with the chart's own names of images.
fn chart(node: &Node) -> Result<(), Failure> {
    node.kubectl(&["create", "namespace", SYSTEM])?;
    node.kubectl(&[
        "label",
        "namespace",
        SYSTEM,
        "pod-security.kubernetes.io/enforce=privileged",
    ])?;
    node.helm(&[
        "install",
        "anabranch",
        CHART,
        "--namespace",
        SYSTEM,
        "--set",
        "node.importRoots={/srv/datasets}",
    ])?;
    rolled_out(node)?;
    let name = "jsonpath={.spec.drivers[*].name}";
    eventually("the driver is registered", || {
        match node
            .kubectl(&["get", "csinode", NODE, "-o", name])?
            .as_str()
        {
            "csi.anabranch.dev" => Ok(()),
            names => Err(format!("drivers: {names:?}").into()),
        }
    })
}

/// Waits until every part of the chart is what the release says, and ready.
pub fn rolled_out(node: &Node) -> Result<(), Failure> {
    for part in [
        "deployment/anabranch-operator",
        "deployment/anabranch-controller",
        "daemonset/anabranch-node",
    ] {
        let wait = ["-n", SYSTEM, "rollout", "status", part, "--timeout=180s"];
        if let Err(failure) = node.kubectl(&wait) {
            let said = node
                .kubectl(&["-n", SYSTEM, "describe", "pods"])
                .unwrap_or_default();
            let logs = ["operator", "node", "controller", "keeper"].map(|component| {
                let label = format!("app.kubernetes.io/component={component}");
                node.kubectl(&[
                    "-n",
                    SYSTEM,
                    "logs",
                    "-l",
                    &label,
                    "--all-containers",
                    "--prefix",
                    "--tail=30",
                ])
                .unwrap_or_else(|failure| failure.to_string())
            });
            return Err(format!("{failure}\n{said}\n{}", logs.join("\n")).into());
        }
    }
    Ok(())
}

/// Makes and imports the images under the very names that the chart and the examples have.
fn images(node: &Node) -> Result<(), Failure> {
    let folder = node.file("images");
    let programs = node.programs();
    let busybox = programs.debian.join("bin/busybox");
    let image =
        |name: &str, names: &[&str], files: &[PathBuf], shell: bool, entrypoint: &[&str]| {
            let image = Image {
                names,
                programs: files,
                busybox: shell.then_some(busybox.as_path()),
                entrypoint,
            };
            node.import(&image.write(&folder, name)?)
        };
    let forever = ["/bin/sleep", "999999999"];
    image("pause", &["localhost/pause:node"], &[], true, &forever)?;
    image(
        "busybox",
        &[
            "docker.io/library/busybox:1.37",
            "docker.io/library/busybox:latest",
        ],
        &[],
        true,
        &["/bin/sh"],
    )?;
    for (name, program) in &programs.sidecars {
        let short = program.file_name().unwrap_or_default().to_string_lossy();
        let entrypoint = format!("/usr/local/bin/{short}");
        image(&short, &[name], &[program.clone()], false, &[&entrypoint])?;
    }
    // Twice the same, so that an upgrade has something to go to.
    let ours = |name: &str| [VERSION, "next"].map(|tag| format!("ghcr.io/anabranch/{name}:{tag}"));
    let [now, next] = ours("anabranch-csi");
    let csi = [
        binary("anabranch-csi")?,
        binary("anabranch-keeper")?,
        binary("anabranch")?,
    ];
    image("anabranch-csi", &[&now, &next], &csi, true, &["/bin/sh"])?;
    let [now, next] = ours("anabranch-operator");
    image(
        "anabranch-operator",
        &[&now, &next],
        &[binary("anabranch-operator")?],
        false,
        &[],
    )
}
