//! What all operations share: the engine, its mounts, the node, and the locks.

use std::path::PathBuf;
use std::sync::Arc;

use storage_engine::{Engine, TimelineId, TimelineInfo};

use super::error::{Code, CsiError, Result};
use super::forks::EphemeralForks;
use super::ids::VolumeId;
use super::locks::Locks;
use super::target::Targets;
use crate::mounts::{MountInfo, Mounts};

/// Name of the driver.
pub const DRIVER_NAME: &str = "csi.anabranch.dev";

/// Key of the topology: a volume is on the node whose engine has it.
pub const TOPOLOGY_KEY: &str = "topology.csi.anabranch.dev/node";

/// Longest name of a node, in bytes (the interface's limit for node ids and topology values).
const LONGEST_NODE: usize = 63;

/// What a driver is made of.
pub struct Options {
    /// The node's store.
    pub engine: Engine,
    /// Its mounts, those of the predecessor taken over.
    pub mounts: Mounts,
    /// Name of the node.
    pub node: String,
    /// The kubelet's directory: nothing is published outside of it.
    pub kubelet_directory: PathBuf,
    /// Where the forks of ephemeral volumes come from.
    pub forks: Arc<dyn EphemeralForks>,
    /// Called after a timeline was mounted or unmounted.
    pub mounted: Arc<dyn Fn(&TimelineInfo) + Send + Sync>,
}

/// The volumes of a node. Cloning gives another handle.
#[derive(Clone)]
pub struct Driver {
    pub(super) engine: Engine,
    pub(super) mounts: Mounts,
    pub(super) node: String,
    pub(super) targets: Targets,
    pub(super) locks: Locks,
    pub(super) forks: Arc<dyn EphemeralForks>,
    on_mounted: Arc<dyn Fn(&TimelineInfo) + Send + Sync>,
}

impl Driver {
    /// A driver.
    ///
    /// # Errors
    /// `InvalidArgument`: the node's name cannot be a topology value, or the kubelet's directory is not there.
    pub fn new(options: Options) -> Result<Driver> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if options.node.is_empty()
            || options.node.len() > LONGEST_NODE
            || !options.node.bytes().all(plain)
        {
            return Err(CsiError::invalid(format!(
                "{:?} is no name of a node: 1 to {LONGEST_NODE} letters, digits, '-', '_' and '.'",
                options.node
            )));
        }
        Ok(Driver {
            targets: Targets::open(&options.kubelet_directory)?,
            engine: options.engine,
            mounts: options.mounts,
            node: options.node,
            locks: Locks::default(),
            forks: options.forks,
            on_mounted: options.mounted,
        })
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether the driver can serve: its engine takes work. A slow disk is not asked, because nothing is gained by ending a
    /// process that waits for it.
    pub fn ready(&self) -> bool {
        self.engine.check_open().is_ok()
    }

    /// The timeline of a volume id, if it is there.
    pub(super) fn find(&self, id: &str) -> Result<Option<TimelineInfo>> {
        match VolumeId::parse(id) {
            Some(VolumeId(timeline)) => present(self.engine.timeline(timeline)),
            None => Ok(None),
        }
    }

    /// The timeline of a volume id that must be there.
    pub(super) fn existing(&self, id: &str) -> Result<TimelineInfo> {
        if id.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        self.find(id)?
            .ok_or_else(|| CsiError::not_found(format!("there is no volume {id:?} on this node")))
    }

    /// Says that a timeline was mounted or unmounted.
    pub(super) fn mounted(&self, timeline: &TimelineInfo) {
        (self.on_mounted)(timeline);
    }

    /// The mount of a timeline that this driver made.
    pub(super) fn mount_of(&self, timeline: TimelineId) -> Option<MountInfo> {
        let id = mount_id(timeline);
        self.mounts.list().into_iter().find(|mount| mount.id == id)
    }

    /// Refuses what would take a volume from under its users.
    pub(super) fn unused(&self, timeline: &TimelineInfo) -> Result<()> {
        let used = self
            .mounts
            .list()
            .into_iter()
            .find(|mount| mount.timeline == timeline.id && !mount.detached);
        match used {
            Some(mount) => Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} is mounted at {}; unstage it first",
                    timeline.name,
                    mount.mount_point.display()
                ),
            )),
            None => Ok(()),
        }
    }
}

/// What the names of this driver's mounts begin with.
pub(super) const MOUNT_PREFIX: &str = "csi.";

/// Name of a volume's mount with the keeper.
pub(super) fn mount_id(timeline: TimelineId) -> String {
    format!("{MOUNT_PREFIX}{timeline}")
}

/// `None` for what is not there.
pub(super) fn present<T>(found: storage_engine::Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == storage_engine::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
