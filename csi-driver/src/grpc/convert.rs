//! Types of the wire to those of the operations, and back; and running an operation for a call.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Response, Status};

use super::v1;
use crate::csi::{
    AccessMode, Capability, Code, Content, CsiError, Driver, GroupSnapshot, Range, Snapshot,
    TOPOLOGY_KEY, Volume,
};

/// How long a call may take. Each path and mount that it touches has a shorter deadline of its own.
const DEADLINE: Duration = Duration::from_secs(150);

/// Answer of a call.
pub(super) type Answer<T> = Result<Response<T>, Status>;

impl From<CsiError> for Status {
    fn from(error: CsiError) -> Status {
        let code = match error.code {
            Code::InvalidArgument => tonic::Code::InvalidArgument,
            Code::NotFound => tonic::Code::NotFound,
            Code::AlreadyExists => tonic::Code::AlreadyExists,
            Code::Aborted => tonic::Code::Aborted,
            Code::FailedPrecondition => tonic::Code::FailedPrecondition,
            Code::ResourceExhausted => tonic::Code::ResourceExhausted,
            Code::OutOfRange => tonic::Code::OutOfRange,
            Code::Unimplemented => tonic::Code::Unimplemented,
            Code::Unavailable => tonic::Code::Unavailable,
            Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
            Code::DataLoss => tonic::Code::DataLoss,
            Code::Internal => tonic::Code::Internal,
        };
        Status::new(code, shortened(error.message))
    }
}

/// Longest message in bytes. It travels in a header, and it may quote what the caller sent, whatever its length: a
/// header that is too long ends the connection.
const LONGEST_MESSAGE: usize = 1024;

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Runs an operation on a thread that may block. `call` is for the log: the request itself, which may carry secrets,
/// is never logged.
pub(super) async fn run<T: Send + 'static>(
    driver: &Driver,
    call: &'static str,
    operation: impl FnOnce(&Driver) -> Result<T, CsiError> + Send + 'static,
) -> Result<T, Status> {
    let driver = driver.clone();
    let begun = std::time::Instant::now();
    let task = tokio::task::spawn_blocking(move || operation(&driver));
    let outcome = match tokio::time::timeout(DEADLINE, task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(CsiError::new(
            Code::Internal,
            format!("{call} ended unexpectedly; the log of the node's driver says where"),
        )),
        // The operation goes on and keeps the volume's lock until it ends.
        Err(_) => Err(CsiError::new(
            Code::DeadlineExceeded,
            format!("{call} takes longer than {} s", DEADLINE.as_secs()),
        )),
    };
    let milliseconds = begun.elapsed().as_millis() as u64;
    match &outcome {
        Ok(_) => tracing::debug!(call, milliseconds, "serves"),
        Err(error) => {
            tracing::warn!(call, milliseconds, code = ?error.code, %error, "a call fails");
        }
    }
    outcome.map_err(Status::from)
}

/// Parameters in a fixed order.
pub(super) fn map(from: std::collections::HashMap<String, String>) -> BTreeMap<String, String> {
    from.into_iter().collect()
}

pub(super) fn capability(from: v1::VolumeCapability) -> Result<Capability, CsiError> {
    use v1::volume_capability::AccessType;
    use v1::volume_capability::access_mode::Mode;
    let access = match from.access_mode.map(|access| access.mode()) {
        None | Some(Mode::Unknown) => AccessMode::Unknown,
        Some(Mode::SingleNodeWriter) => AccessMode::SingleNodeWriter,
        Some(Mode::SingleNodeReaderOnly) => AccessMode::SingleNodeReaderOnly,
        Some(Mode::MultiNodeReaderOnly) => AccessMode::MultiNodeReaderOnly,
        Some(Mode::MultiNodeSingleWriter) => AccessMode::MultiNodeSingleWriter,
        Some(Mode::MultiNodeMultiWriter) => AccessMode::MultiNodeMultiWriter,
        Some(Mode::SingleNodeSingleWriter) => AccessMode::SingleNodeSingleWriter,
        Some(Mode::SingleNodeMultiWriter) => AccessMode::SingleNodeMultiWriter,
    };
    let plain = |code| CsiError::new(Code::InvalidArgument, code);
    match from.access_type {
        None => Err(plain("the access type is missing".to_owned())),
        Some(AccessType::Block(_)) => Ok(Capability {
            access,
            block: true,
            fs_type: String::new(),
            flags: Vec::new(),
            group: None,
        }),
        Some(AccessType::Mount(mount)) => {
            let group = match mount.volume_mount_group.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| {
                    plain(format!(
                        "volume_mount_group: {text:?} is no number of a group"
                    ))
                })?),
            };
            Ok(Capability {
                access,
                block: false,
                fs_type: mount.fs_type,
                flags: mount.mount_flags,
                group,
            })
        }
    }
}

pub(super) fn capabilities(from: Vec<v1::VolumeCapability>) -> Result<Vec<Capability>, CsiError> {
    from.into_iter().map(capability).collect()
}

pub(super) fn range(from: Option<v1::CapacityRange>) -> Result<Range, CsiError> {
    from.map_or(Ok(Range::default()), |range| {
        Range::new(range.required_bytes, range.limit_bytes)
    })
}

pub(super) fn content(from: v1::VolumeContentSource) -> Result<Content, CsiError> {
    use v1::volume_content_source::Type;
    match from.r#type {
        Some(Type::Snapshot(source)) => Ok(Content::Snapshot(source.snapshot_id)),
        Some(Type::Volume(source)) => Ok(Content::Volume(source.volume_id)),
        None => Err(CsiError::new(
            Code::InvalidArgument,
            "the content source names nothing",
        )),
    }
}

/// Sizes of the wire are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn topology(node: &str) -> v1::Topology {
    v1::Topology {
        segments: [(TOPOLOGY_KEY.to_owned(), node.to_owned())].into(),
    }
}

pub(super) fn condition(abnormal: Option<String>) -> v1::VolumeCondition {
    v1::VolumeCondition {
        abnormal: abnormal.is_some(),
        message: abnormal.unwrap_or_else(|| "ok".to_owned()),
    }
}

/// The volume, and its condition.
pub(super) fn volume(from: Volume) -> (v1::Volume, v1::VolumeCondition) {
    use v1::volume_content_source::{SnapshotSource, Type, VolumeSource};
    let content = from.content.map(|content| v1::VolumeContentSource {
        r#type: Some(match content {
            Content::Snapshot(snapshot_id) => Type::Snapshot(SnapshotSource { snapshot_id }),
            Content::Volume(volume_id) => Type::Volume(VolumeSource { volume_id }),
        }),
    });
    let volume = v1::Volume {
        capacity_bytes: signed(from.capacity),
        volume_id: from.id,
        volume_context: Default::default(),
        content_source: content,
        accessible_topology: vec![topology(&from.node)],
    };
    (volume, condition(from.abnormal))
}

fn time(nanoseconds: u64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: (nanoseconds / 1_000_000_000) as i64,
        nanos: (nanoseconds % 1_000_000_000) as i32,
    })
}

pub(super) fn snapshot(from: Snapshot) -> v1::Snapshot {
    v1::Snapshot {
        size_bytes: signed(from.bytes),
        snapshot_id: from.id,
        source_volume_id: from.volume,
        creation_time: time(from.created),
        ready_to_use: true,
        group_snapshot_id: from.group.unwrap_or_default(),
    }
}

pub(super) fn group(from: GroupSnapshot) -> v1::VolumeGroupSnapshot {
    v1::VolumeGroupSnapshot {
        group_snapshot_id: from.id,
        snapshots: from.members.into_iter().map(snapshot).collect(),
        creation_time: time(from.created),
        ready_to_use: true,
    }
}
