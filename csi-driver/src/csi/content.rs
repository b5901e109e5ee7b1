//! What a volume is made from, and what is told of it.

use storage_engine::{Point, TimelineInfo};

use super::driver::Driver;
use super::error::{Code, CsiError, Result};
use super::ids::{SnapshotRef, VolumeId};
use super::limits::capacity;

/// What a new volume starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A snapshot's id.
    Snapshot(String),
    /// Another volume's id: a fork of it as it is now (the interface calls that a clone).
    Volume(String),
}

/// A volume as callers are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Id.
    pub id: String,
    /// Bytes that it may write itself, 0 without a limit.
    pub capacity: u64,
    /// What it started with.
    pub content: Option<Content>,
    /// The node that has it.
    pub node: String,
    /// Something is wrong with it: a sentence for a person.
    pub abnormal: Option<String>,
}

impl Content {
    /// Whether some node may have it: its id is one of ours.
    fn may_be(&self) -> bool {
        match self {
            Content::Snapshot(id) => SnapshotRef::parse(id).is_some(),
            Content::Volume(id) => VolumeId::parse(id).is_some(),
        }
    }
}

impl Driver {
    /// The point that a content names, for a volume that was asked of this node although it may be on another
    /// (`elsewhere`): what is not here is then a reason to choose again, which the provisioner understands by
    /// `ResourceExhausted` only. It would try a `NotFound` on this node for ever.
    pub(super) fn content_here(&self, content: &Content, elsewhere: bool) -> Result<Point> {
        self.point_of(content).map_err(|error| {
            if error.code != Code::NotFound || !elsewhere || !content.may_be() {
                return error;
            }
            CsiError::new(
                Code::ResourceExhausted,
                format!("{error}; the volume has to be on the node that has it"),
            )
        })
    }

    /// The point that a content names.
    pub(super) fn point_of(&self, content: &Content) -> Result<Point> {
        match content {
            Content::Volume(id) => Ok(Point::Now(self.existing(id)?.id)),
            Content::Snapshot(id) => {
                let missing =
                    || CsiError::not_found(format!("there is no snapshot {id:?} on this node"));
                let SnapshotRef(snapshot) = SnapshotRef::parse(id).ok_or_else(missing)?;
                self.engine.snapshot_info(snapshot)?;
                Ok(Point::Snapshot(snapshot))
            }
        }
    }

    /// What is told of a timeline.
    pub(super) fn describe(&self, timeline: &TimelineInfo) -> Volume {
        Volume {
            id: VolumeId(timeline.id).to_string(),
            capacity: capacity(timeline.settings.quota),
            content: timeline
                .origin
                .as_ref()
                .map(|origin| match origin.snapshot {
                    Some(snapshot) => Content::Snapshot(SnapshotRef(snapshot).to_string()),
                    None => Content::Volume(VolumeId(origin.parent).to_string()),
                }),
            node: self.node.clone(),
            abnormal: self.abnormal(timeline),
        }
    }

    fn abnormal(&self, timeline: &TimelineInfo) -> Option<String> {
        let usage = match self.engine.usage(timeline.id) {
            Ok(usage) => usage,
            Err(error) => return Some(error.to_string()),
        };
        let quota = timeline.settings.quota;
        if quota
            .bytes
            .is_some_and(|limit| usage.divergent_bytes >= limit)
        {
            return Some("its quota of bytes is used up: expand it or delete files".into());
        }
        if quota.inodes.is_some_and(|limit| usage.inodes >= limit) {
            return Some("its quota of inodes is used up: raise it or delete files".into());
        }
        None
    }
}
