//! The volumes of one node as the container storage interface sees them: its operations with plain types, over the
//! engine and its mounts. [`crate::grpc`] translates them from and to the wire.
//!
//! Flow: each operation takes the lock of its volume (a second one at the same time is refused with `Aborted`, as the
//! interface asks for), looks at what is there, and makes up the difference. Guarantees: every operation may be
//! repeated, also after a kill in the middle, because what it makes is found by its name and is one frame of the
//! engine's log. Assumption: the caller of the socket is the kubelet or a sidecar; whoever may open it is trusted with
//! volumes, but no id, name or path it passes is: each is parsed once, here.

mod capability;
mod content;
mod driver;
mod ephemeral;
mod error;
mod forks;
mod groups;
mod ids;
mod limits;
mod locks;
mod names;
mod node;
mod pages;
mod snapshots;
mod target;
mod volumes;

pub use self::capability::{AccessMode, Capability};
pub use self::content::{Content, Volume};
pub use self::driver::{DRIVER_NAME, Driver, Options, TOPOLOGY_KEY};
pub use self::ephemeral::is_ephemeral;
pub use self::error::{Code, CsiError, Result};
pub use self::forks::{EngineForks, EphemeralFork, EphemeralForks, Pod, SourceKind};
pub use self::groups::GroupSnapshot;
pub use self::ids::{GroupId, SnapshotRef, VolumeId};
pub use self::limits::{Range, check_mutable};
pub use self::node::{Publish, Stage, VolumeStats};
pub use self::pages::Page;
pub use self::snapshots::Snapshot;
pub use self::volumes::CreateVolume;
