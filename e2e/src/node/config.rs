//! What the programs of a node read: each setting has its reason in `docs/development.md`, or here.

use std::fs;
use std::path::Path;

use crate::cluster::Failure;

/// Writes the configuration of containerd, of its network and of the kubelet into the folder.
pub(super) fn write(folder: &Path, debian: &Path, group: &str) -> Result<(), Failure> {
    let of = |name: &str| folder.join(name).display().to_string();
    let in_debian = |name: &str| debian.join(name).display().to_string();
    fs::create_dir_all(folder.join("cni"))?;
    fs::write(
        folder.join("containerd.toml"),
        CONTAINERD
            .replace("@ROOT@", &of("containerd"))
            .replace("@CNI@", &of("cni"))
            .replace("@PLUGINS@", &in_debian("usr/lib/cni"))
            .replace("@RUNC@", &in_debian("usr/sbin/runc")),
    )?;
    fs::write(folder.join("cni/10-node.conflist"), NETWORK)?;
    fs::write(folder.join("resolv.conf"), "nameserver 10.96.0.10\n")?;
    fs::write(
        folder.join("kubelet.yaml"),
        KUBELET
            .replace("@GROUP@", group)
            .replace("@RESOLV@", &of("resolv.conf")),
    )?;
    Ok(())
}

/// `restrict_oom_score_adj`: a machine without CAP_SYS_RESOURCE could start no container.
const CONTAINERD: &str = r#"version = 2
root = "@ROOT@"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:node"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "@RUNC@"
        Root = "/run/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "@PLUGINS@"
    conf_dir = "@CNI@"
"#;

const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "node", "plugins": [
  {"type": "bridge", "bridge": "anabranch0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/24", "rangeStart": "10.200.0.10"}]]}}]}
"#;

/// Anybody may ask this kubelet anything: only the node's own network reaches it. Its limits let a machine that is nearly
/// full run it.
const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /@GROUP@
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix:///run/containerd.sock
address: 10.200.0.1
readOnlyPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
resolvConf: @RESOLV@
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi, nodefs.available: '1%', nodefs.inodesFree: '1%', imagefs.available: '1%'}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 100
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
registryPullQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
";
