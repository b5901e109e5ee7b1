//! Where the programs of a node are: in the cache that `e2e/setup cluster node` fills, by version.

use std::path::{Path, PathBuf};

use crate::cluster::tools::{cache, there, version};
use crate::cluster::{Failure, Tools, helm};

/// Folders of programs, and what is not found by its name alone.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `kube-apiserver`, `kube-controller-manager` and `etcd`.
    pub cluster: Tools,
    /// Folder of `kubelet`, `kube-scheduler` and `kubectl`.
    pub kubernetes: PathBuf,
    /// What Debian's packages were taken apart into: containerd, runc, the plugins of the network, busybox.
    pub debian: PathBuf,
    /// `helm`.
    pub helm: PathBuf,
    /// Definitions of VolumeSnapshots.
    pub snapshot_definitions: PathBuf,
    /// The sidecars of the chart and the snapshot controller: image with its tag, and the program in it.
    pub sidecars: Vec<(String, PathBuf)>,
}

impl Programs {
    /// Finds them.
    ///
    /// # Errors
    /// Says which one is missing, and what to do.
    pub fn find() -> Result<Self, Failure> {
        let cluster = Tools::find()?;
        let tools = cache()?.join("tools");
        let kubernetes = cluster
            .apiserver
            .parent()
            .ok_or("no folder of kube-apiserver")?
            .to_owned();
        let debian = tools.join("node-bookworm");
        let of = |module, name, tool: &str| -> Result<(String, PathBuf), Failure> {
            let version = version(module, name)?;
            Ok((version.to_owned(), tools.join(format!("{tool}-{version}"))))
        };
        let (provisioner, provisioner_folder) = of(
            include_str!("../../cluster/csi-provisioner/go.mod"),
            "github.com/kubernetes-csi/external-provisioner/v6",
            "csi-provisioner",
        )?;
        let (resizer, resizer_folder) = of(
            include_str!("../../cluster/csi-resizer/go.mod"),
            "github.com/kubernetes-csi/external-resizer/v2",
            "csi-resizer",
        )?;
        let (snapshotter, snapshotter_folder) = of(
            include_str!("../../cluster/csi-snapshotter/go.mod"),
            "github.com/kubernetes-csi/external-snapshotter/v8",
            "csi-snapshotter",
        )?;
        let stand_ins = stand_ins(&tools)?;
        let from = "registry.k8s.io/sig-storage";
        let sidecars = [
            (
                format!("{from}/csi-provisioner:v{provisioner}"),
                &provisioner_folder,
                "csi-provisioner",
            ),
            (
                format!("{from}/csi-resizer:v{resizer}"),
                &resizer_folder,
                "csi-resizer",
            ),
            (
                format!("{from}/csi-snapshotter:v{snapshotter}"),
                &snapshotter_folder,
                "csi-snapshotter",
            ),
            (
                format!("{from}/snapshot-controller:v{snapshotter}"),
                &snapshotter_folder,
                "snapshot-controller",
            ),
            (
                chart_image("registrar")?,
                &stand_ins,
                "csi-node-driver-registrar",
            ),
            (chart_image("livenessprobe")?, &stand_ins, "livenessprobe"),
        ];
        let programs = Programs {
            snapshot_definitions: snapshotter_folder.join("crds"),
            helm: helm()?,
            sidecars: sidecars
                .into_iter()
                .map(|(image, folder, name)| (image, folder.join("bin").join(name)))
                .collect(),
            cluster,
            kubernetes,
            debian,
        };
        for name in ["kubelet", "kube-scheduler", "kubectl"] {
            there(&programs.kubernetes.join(name))?;
        }
        for name in [
            "usr/bin/containerd",
            "usr/sbin/runc",
            "usr/lib/cni/bridge",
            "bin/busybox",
        ] {
            there(&programs.debian.join(name))?;
        }
        there(&programs.snapshot_definitions)?;
        for (image, program) in &programs.sidecars {
            there(program)?;
            in_chart(image)?;
        }
        Ok(programs)
    }
}

/// The chart's values, where the versions of the sidecars stand.
const VALUES: &str = include_str!("../../../charts/anabranch/values.yaml");

/// Image and tag of a sidecar by its name in the chart's values.
fn chart_image(name: &str) -> Result<String, Failure> {
    let mut lines = VALUES
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != format!("{name}:"));
    let mut value = |key: &str| {
        lines
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
            .ok_or_else(|| format!("no {key} of the sidecar {name} in the chart"))
    };
    Ok(format!("{}:{}", value("image")?, value("tag")?))
}

/// What was built has to be what the chart names: a version that was raised in one place only is an error.
fn in_chart(image: &str) -> Result<(), Failure> {
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    let named = name.ends_with("/snapshot-controller")
        || VALUES
            .split_once(&format!("image: {name}\n"))
            .and_then(|(_, rest)| rest.lines().next())
            .is_some_and(|line| line.trim() == format!("tag: {tag}"));
    if named {
        return Ok(());
    }
    Err(format!("the chart does not name {image}, which e2e/cluster builds").into())
}

/// The folder of the newest build of those that stand in: e2e/setup names it by what they are made from.
fn stand_ins(tools: &Path) -> Result<PathBuf, Failure> {
    let newest = std::fs::read_dir(tools)?
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("csi-stand-ins-")
        })
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok());
    match newest {
        Some(entry) => Ok(entry.path()),
        None => Err("csi-stand-ins is missing; `e2e/setup node` makes it".into()),
    }
}
