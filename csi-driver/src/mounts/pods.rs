//! Which pods use a mount: the kubelet has it bound below their directories.

use std::path::{Component, Path, PathBuf};

use crate::fuse::mount::{MountLine, mounted};

/// For each mount point of ours, the pod that has it, if one has: `with uid <uid>`. A mount that is only staged is no pod's.
/// Cost: the mounts of this machine, read once.
///
/// # Errors
/// The table of mounts cannot be read.
pub(crate) fn users(points: &[PathBuf]) -> std::io::Result<Vec<Option<String>>> {
    let lines = mounted()?;
    Ok(points.iter().map(|point| user(&lines, point)).collect())
}

fn user(lines: &[MountLine], point: &Path) -> Option<String> {
    let device = &lines.iter().rfind(|line| line.point == point)?.device;
    let of_same = lines.iter().filter(|line| line.device == *device);
    let uid = of_same.filter_map(|line| pod_of(&line.point)).next()?;
    Some(format!("with uid {uid}"))
}

/// The uid in a path like `<kubelet>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount`.
fn pod_of(path: &Path) -> Option<&str> {
    let names: Vec<&str> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    names.windows(4).find_map(|part| match part {
        ["pods", uid, "volumes", "kubernetes.io~csi"] => Some(*uid),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(point: &str, device: &str) -> MountLine {
        MountLine {
            id: 1,
            point: point.into(),
            device: device.to_owned(),
            kind: "fuse.anabranch".to_owned(),
            source: "anabranch".to_owned(),
            options: "rw".to_owned(),
        }
    }

    #[test]
    fn a_mount_is_a_pods_as_long_as_it_is_bound_for_one() {
        let staged = "/var/lib/kubelet/plugins/kubernetes.io/csi/csi.anabranch.dev/0a/globalmount";
        let bound = "/var/lib/kubelet/pods/77-aa/volumes/kubernetes.io~csi/pvc-1/mount";
        let inline = "/var/lib/kubelet/pods/88-bb/volumes/kubernetes.io~csi/work/mount";
        let mut lines = vec![
            line("/pods/x", "0:1"),
            line(staged, "0:70"),
            line(bound, "0:70"),
            line(inline, "0:71"),
        ];
        let user = |lines: &[MountLine], point: &str| user(lines, Path::new(point));
        assert_eq!(user(&lines, staged).as_deref(), Some("with uid 77-aa"));
        assert_eq!(user(&lines, inline).as_deref(), Some("with uid 88-bb"));
        assert_eq!(user(&lines, "/pods/x"), None);
        assert_eq!(user(&lines, "/elsewhere"), None);
        lines.remove(2);
        assert_eq!(user(&lines, staged), None);
    }
}
