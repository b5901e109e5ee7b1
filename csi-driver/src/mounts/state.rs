//! What a successor must know of a mount, as the keeper stores it.

use serde::{Deserialize, Serialize};
use storage_engine::{Epoch, Point, SnapshotId, TimelineId};

use crate::fuse::negotiate::{Mode, Negotiated};

/// The serving process's part of a keeper's record. Fields are added, never changed: a successor may be of another
/// release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What is shown.
    pub point: ShownPoint,
    /// Mode of the mount.
    pub mode: Mode,
    /// Random number of the mount: names requests and the origin of changes, over all processes that serve it.
    pub connection: u64,
    /// Outcome of INIT; `None` while the mount is being made.
    pub negotiated: Option<Negotiated>,
    /// No changes.
    pub read_only: bool,
    /// The caller's own words.
    #[serde(default)]
    pub label: String,
    /// The directory was made for the mount and goes with it.
    #[serde(default)]
    pub made_directory: bool,
    /// The group that files are shown to belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Every read is verified: nothing is passed through.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verified: bool,
}

/// A [`Point`] that can be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShownPoint {
    /// A timeline as it is now.
    Now(TimelineId),
    /// A past epoch of a timeline.
    At(TimelineId, Epoch),
    /// A snapshot.
    Snapshot(SnapshotId),
}

impl From<Point> for ShownPoint {
    fn from(point: Point) -> ShownPoint {
        match point {
            Point::Now(timeline) => ShownPoint::Now(timeline),
            Point::At(timeline, epoch) => ShownPoint::At(timeline, epoch),
            Point::Snapshot(snapshot) => ShownPoint::Snapshot(snapshot),
        }
    }
}

impl From<ShownPoint> for Point {
    fn from(point: ShownPoint) -> Point {
        match point {
            ShownPoint::Now(timeline) => Point::Now(timeline),
            ShownPoint::At(timeline, epoch) => Point::At(timeline, epoch),
            ShownPoint::Snapshot(snapshot) => Point::Snapshot(snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_and_its_form_is_kept() {
        let state = State {
            point: ShownPoint::At(TimelineId([1; 16]), Epoch(5)),
            mode: Mode::Dataset,
            connection: u64::MAX,
            negotiated: Some(Negotiated {
                minor: 45,
                flags: 3,
            }),
            read_only: true,
            label: "x".into(),
            made_directory: false,
            group: None,
            verified: false,
        };
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(
            text,
            r#"{"point":{"at":["01010101010101010101010101010101","5"]},"mode":"dataset","connection":18446744073709551615,"negotiated":{"minor":45,"flags":3},"read_only":true,"label":"x","made_directory":false}"#
        );
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}
