//! How a caller wants to use a volume, and what of it we offer.

use super::error::{CsiError, Result};

/// Who may do what at once. All uses are on the one node that has the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// Not said.
    Unknown,
    /// Written on one node.
    SingleNodeWriter,
    /// Written by one publication at a time.
    SingleNodeSingleWriter,
    /// Written by several on one node.
    SingleNodeMultiWriter,
    /// Read on one node.
    SingleNodeReaderOnly,
    /// Read by many.
    MultiNodeReaderOnly,
    /// Written by one, read by many.
    MultiNodeSingleWriter,
    /// Written by many (ReadWriteMany; here: by many pods of one node).
    MultiNodeMultiWriter,
}

/// One way in which a volume is to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// Who may do what at once.
    pub access: AccessMode,
    /// As a block device, which we do not offer.
    pub block: bool,
    /// Type of file system asked for; ours is meant whatever it says, since provisioners fill in a default.
    pub fs_type: String,
    /// Mount flags.
    pub flags: Vec<String>,
    /// Group that the volume shall belong to for whoever uses it.
    pub group: Option<u32>,
}

/// Mount flags that are taken. Those about times change nothing: access times are never written.
const FLAGS: [&str; 6] = ["ro", "rw", "noatime", "nodiratime", "relatime", "nodev"];

impl Capability {
    /// Refuses what is not offered.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what.
    pub fn check(&self) -> Result<()> {
        if self.block {
            return Err(CsiError::invalid(
                "block volumes are not offered: a fork is a file system (volumeMode: Filesystem)",
            ));
        }
        match self.access {
            AccessMode::Unknown => Err(CsiError::invalid("the access mode is missing")),
            AccessMode::MultiNodeSingleWriter => Err(CsiError::invalid(
                "MULTI_NODE_SINGLE_WRITER is not offered: a volume is on one node",
            )),
            _ => Ok(()),
        }?;
        match self
            .flags
            .iter()
            .find(|flag| !FLAGS.contains(&flag.as_str()))
        {
            Some(flag) => Err(CsiError::invalid(format!(
                "the mount flag {flag:?} is not offered; these are: {}",
                FLAGS.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Whether nothing may be written.
    pub fn reads_only(&self) -> bool {
        matches!(
            self.access,
            AccessMode::SingleNodeReaderOnly | AccessMode::MultiNodeReaderOnly
        ) || self.flags.iter().any(|flag| flag == "ro")
    }
}

/// Checks all of a request's capabilities; at least one is needed.
pub(super) fn check_all(capabilities: &[Capability]) -> Result<()> {
    if capabilities.is_empty() {
        return Err(CsiError::invalid("the volume capabilities are missing"));
    }
    capabilities.iter().try_for_each(Capability::check)
}
