//! The driver's calls with what all tests give them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use csi_driver::csi::{CsiError, Driver, Publish, Stage};
use csi_driver::fuse::mount::{TYPE, mounted};

use crate::csi_common::writer;

pub type Outcome = Result<(), CsiError>;

pub fn stage(driver: &Driver, id: &str, staging: &str) -> Outcome {
    driver.stage(&Stage {
        volume: id.into(),
        staging: staging.into(),
        capability: Some(writer()),
    })
}

pub fn publish(driver: &Driver, id: &str, staging: &str, target: &str) -> Outcome {
    driver.publish(&Publish {
        volume: id.into(),
        staging: staging.into(),
        target: target.into(),
        capability: Some(writer()),
        read_only: false,
    })
}

pub fn publish_inline(driver: &Driver, id: &str, target: &str) -> Outcome {
    let attributes: BTreeMap<String, String> = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.namespace", "team"),
        ("bucket", "base"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    driver.publish_ephemeral(id, target, Some(&writer()), false, &attributes)
}

/// Our mounts below a directory.
pub fn ours_below(directory: &Path) -> Vec<PathBuf> {
    mounted()
        .unwrap()
        .into_iter()
        .filter(|line| line.kind == TYPE && line.point.starts_with(directory))
        .map(|line| line.point)
        .collect()
}
