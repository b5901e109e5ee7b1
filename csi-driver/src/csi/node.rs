//! Staging a volume on the node (one mount of its timeline) and publishing it to pods (binds of that mount).

use std::collections::HashSet;

use storage_engine::{Point, TimelineInfo, VolumeOptions};

use super::capability::{AccessMode, Capability};
use super::driver::{Driver, MOUNT_PREFIX, mount_id};
use super::error::{Code, CsiError, Result};
use super::ids::VolumeId;
use super::locks::Held;
use super::target::bind;
use crate::fuse::mount::{self, MountLine};
use crate::fuse::place::Place;
use crate::mounts::{MountInfo, MountRequest};

/// A volume to stage.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Its id.
    pub volume: String,
    /// Where the kubelet wants the node's one mount of it.
    pub staging: String,
    /// How it is to be used.
    pub capability: Option<Capability>,
}

/// A volume to publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Its id.
    pub volume: String,
    /// Where it is staged.
    pub staging: String,
    /// Where the pod wants it.
    pub target: String,
    /// How it is to be used.
    pub capability: Option<Capability>,
    /// The pod may not write.
    pub read_only: bool,
}

/// Figures of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStats {
    /// Bytes: total, used, available.
    pub bytes: [u64; 3],
    /// Inodes: total, used, available.
    pub inodes: [u64; 3],
    /// Something is wrong: a sentence for a person.
    pub abnormal: Option<String>,
}

fn needed(capability: Option<&Capability>) -> Result<&Capability> {
    let capability =
        capability.ok_or_else(|| CsiError::invalid("the volume capability is missing"))?;
    capability.check()?;
    Ok(capability)
}

fn not_staged(timeline: &TimelineInfo) -> CsiError {
    CsiError::new(
        Code::FailedPrecondition,
        format!("{} is not staged on this node", timeline.name),
    )
}

impl Driver {
    /// Mounts a volume at its staging path, or finds it mounted there.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `FailedPrecondition` when it is mounted elsewhere or the place is in use.
    pub fn stage(&self, request: &Stage) -> Result<()> {
        let staging = self.targets.parse(&request.staging)?;
        let capability = needed(request.capability.as_ref())?;
        let (_held, staging) = self.hold(&request.volume, staging)?;
        let timeline = self.existing(&request.volume)?;
        self.mount_at(
            &timeline,
            &staging,
            capability.reads_only(),
            capability.group,
            &timeline.name,
        )?;
        self.mounted(&timeline);
        Ok(())
    }

    /// Takes the lock of a volume. It is held by the calls on the place, too, that go on after they were given up.
    pub(super) fn hold(&self, volume: &str, place: Place) -> Result<(Held, Place)> {
        let held = self.locks.take(volume)?;
        let place = place.keeping(held.kept());
        Ok((held, place))
    }

    /// Mounts a timeline at a place, or finds it mounted there.
    pub(super) fn mount_at(
        &self,
        timeline: &TimelineInfo,
        place: &Place,
        read_only: bool,
        group: Option<u32>,
        label: &str,
    ) -> Result<()> {
        match self.mount_of(timeline.id) {
            // An unmount was given up. It goes on, or has failed since: it is ended first, because a mount that may go at any
            // moment is none to count on.
            Some(mount) if mount.unmounting && !mount.detached => {
                self.mounts.unmount(&mount.id, true)?;
            }
            Some(mount) => return self.already_mounted(timeline, &mount, place, read_only, group),
            None => {}
        }
        place.make()?;
        let request = MountRequest {
            id: mount_id(timeline.id),
            point: Point::Now(timeline.id),
            mount_point: place.path().to_owned(),
            mode: None,
            read_only,
            group,
            label: label.to_owned(),
        };
        self.mounts.mount_on(request, place)?;
        Ok(())
    }

    fn already_mounted(
        &self,
        timeline: &TimelineInfo,
        mount: &MountInfo,
        place: &Place,
        read_only: bool,
        group: Option<u32>,
    ) -> Result<()> {
        if mount.detached {
            return Err(CsiError::new(
                Code::Aborted,
                format!(
                    "an earlier mount of {} is still in use; it goes with its last user",
                    timeline.name
                ),
            ));
        }
        if mount.mount_point != place.path() {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} is mounted at {} already",
                    timeline.name,
                    mount.mount_point.display()
                ),
            ));
        }
        if !place.mounted()?.is_some_and(|line| shows(mount, &line)) {
            return Err(CsiError::new(
                Code::Aborted,
                format!(
                    "{} was mounted at {} and is not there any more; its mount is ending, or a directory on the way to it \
                     was renamed",
                    timeline.name,
                    mount.mount_point.display()
                ),
            ));
        }
        let shown_read_only = read_only || timeline.settings.read_only;
        if mount.read_only != shown_read_only || mount.group != group {
            return Err(CsiError::new(
                Code::AlreadyExists,
                format!("{} is mounted there in another way", timeline.name),
            ));
        }
        Ok(())
    }

    /// Ends the node's mount of a volume; what was written is in the engine afterwards. One that is not mounted is fine.
    ///
    /// # Errors
    /// `InvalidArgument`; `FailedPrecondition` when something else is mounted there, which stays; `DeadlineExceeded`; what
    /// the write-back says.
    pub fn unstage(&self, volume: &str, staging: &str) -> Result<()> {
        let staging = self.targets.parse(staging)?;
        if volume.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        let (_held, staging) = self.hold(volume, staging)?;
        if let Some(timeline) = self.find(volume)?
            && let Some(mount) = self.mount_of(timeline.id)
            && mount.mount_point == staging.path()
        {
            // Where the call that waits for the path has the lock.
            staging.reach()?;
            self.mounts.unmount(&mount.id, true)?;
            self.mounted(&timeline);
        }
        // What is left of a mount that nobody served.
        Ok(staging.detach(self.of_volume(volume))?)
    }

    /// Which mounts are those of a volume. Of an ephemeral one whose mount is served no more its timeline is not known: any
    /// of this driver's that is not served is taken for it.
    fn of_volume(&self, volume: &str) -> impl Fn(&MountLine) -> bool + Send + 'static {
        let own =
            VolumeId::parse(volume).map(|VolumeId(timeline)| mount::source(&mount_id(timeline)));
        let ours = mount::source(MOUNT_PREFIX);
        let served: HashSet<String> = self
            .mounts
            .list()
            .iter()
            .filter(|mount| !mount.detached)
            .map(|mount| mount::source(&mount.id))
            .collect();
        move |line| {
            line.kind == mount::TYPE
                && match &own {
                    Some(own) => line.source == *own,
                    None => line.source.starts_with(&ours) && !served.contains(&line.source),
                }
        }
    }

    /// Shows a staged volume at a pod's path, or finds it there.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `FailedPrecondition` when it is not staged, has its one writer, or the place is in
    /// use.
    pub fn publish(&self, request: &Publish) -> Result<()> {
        let target = self.targets.parse(&request.target)?;
        let capability = needed(request.capability.as_ref())?;
        if request.volume.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        if request.staging.is_empty() {
            return Err(CsiError::invalid("the staging path is missing"));
        }
        let staging = self.targets.parse(&request.staging)?;
        let (held, target) = self.hold(&request.volume, target)?;
        let staging = staging.keeping(held.kept());
        let timeline = self.existing(&request.volume)?;
        let mount = self
            .mount_of(timeline.id)
            .filter(|mount| mount.mount_point == staging.path())
            .filter(|mount| !mount.detached && !mount.unmounting)
            .ok_or_else(|| not_staged(&timeline))?;
        if capability.group.is_some() && capability.group != mount.group {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} is mounted for a pod with {} on this node: pods that share a volume there have one fsGroup",
                    timeline.name,
                    match mount.group {
                        Some(group) => format!("fsGroup {group}"),
                        None => "no fsGroup".to_owned(),
                    }
                ),
            ));
        }
        let read_only = request.read_only || capability.reads_only();
        let lines = mounted()?;
        if !lines
            .iter()
            .any(|line| line.point == mount.mount_point && shows(&mount, line))
        {
            return Err(not_staged(&timeline));
        }
        match lines.iter().rfind(|line| line.point == target.path()) {
            Some(line) if !shows(&mount, line) => {
                return Err(CsiError::new(
                    Code::FailedPrecondition,
                    format!(
                        "{} is in use: {} is mounted there",
                        target.path().display(),
                        line.source
                    ),
                ));
            }
            Some(line) if line.read_only() != (read_only || mount.read_only) => {
                return Err(CsiError::new(
                    Code::AlreadyExists,
                    format!(
                        "{} is published there, {}",
                        timeline.name,
                        if read_only { "writable" } else { "read-only" }
                    ),
                ));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        if capability.access == AccessMode::SingleNodeSingleWriter
            && let Some(other) = lines
                .iter()
                .find(|line| shows(&mount, line) && line.point != mount.mount_point)
        {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} has its one writer, at {}",
                    timeline.name,
                    other.point.display()
                ),
            ));
        }
        bind(
            &staging,
            &target,
            move |line| shows(&mount, line),
            read_only,
        )
    }

    /// Takes a volume from a pod's path. One that is not there is fine.
    ///
    /// # Errors
    /// `InvalidArgument`; `FailedPrecondition` when something else is mounted there, which stays; `DeadlineExceeded`.
    pub fn unpublish(&self, volume: &str, target: &str) -> Result<()> {
        let target = self.targets.parse(target)?;
        if volume.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        let (_held, target) = self.hold(volume, target)?;
        target.reach()?;
        self.drop_ephemeral(volume)?;
        Ok(target.clear(self.of_volume(volume))?)
    }

    /// Figures of a volume that is mounted at `path`. Asks the engine, never the path.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    pub fn stats(&self, volume: &str, path: &str) -> Result<VolumeStats> {
        if volume.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        if path.is_empty() {
            return Err(CsiError::invalid("the volume path is missing"));
        }
        let timeline = match self.ephemeral(volume)? {
            Some(timeline) => timeline,
            None => self.existing(volume)?,
        };
        // A path that could never be one of ours has no volume either.
        let place = self
            .targets
            .parse(path)
            .map_err(|error| CsiError::not_found(error.message))?;
        let here = place.mounted()?;
        let own = mount::source(&mount_id(timeline.id));
        if here.is_none_or(|line| line.kind != mount::TYPE || line.source != own) {
            return Err(CsiError::not_found(format!(
                "{volume} is not mounted at {}",
                place.path().display()
            )));
        }
        self.figures(&timeline)
    }

    fn figures(&self, timeline: &TimelineInfo) -> Result<VolumeStats> {
        let volume = self
            .engine
            .volume(Point::Now(timeline.id), VolumeOptions { origin: 0 })?;
        let figures = volume.stat_fs()?;
        let used = figures.bytes_total.saturating_sub(figures.bytes_free);
        let inodes_used = figures.inodes_total.saturating_sub(figures.inodes_free);
        let served = self.mount_of(timeline.id).is_some();
        Ok(VolumeStats {
            bytes: [figures.bytes_total, used, figures.bytes_available],
            inodes: [figures.inodes_total, inodes_used, figures.inodes_free],
            abnormal: if served {
                self.describe(timeline).abnormal
            } else {
                Some("nobody serves its mount".to_owned())
            },
        })
    }
}

/// Whether a line of mountinfo is a served mount, or a bind of it.
fn shows(mount: &MountInfo, line: &MountLine) -> bool {
    line.kind == mount::TYPE && line.device == mount.device
}

fn mounted() -> Result<Vec<MountLine>> {
    mount::mounted()
        .map_err(|error| CsiError::new(Code::Internal, format!("cannot read the mounts: {error}")))
}
