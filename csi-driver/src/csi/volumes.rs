//! Creating, deleting, listing, expanding and modifying volumes.

use crds::names::LABEL_VERIFIED_READS;
use std::collections::BTreeMap;

use storage_engine::{CreateRoot, Durability, ForkRequest, Point, Quota, Settings, TimelineInfo};

use super::capability::{Capability, check_all};
use super::content::{Content, Volume};
use super::driver::{Driver, TOPOLOGY_KEY, present};
use super::error::{Code, CsiError, Result};
use super::ids::VolumeId;
use super::limits::{Parameters, Range, capacity};
use super::names::{EPHEMERAL, VOLUME, engine_name};
use super::pages::{Page, page};

/// Label of a timeline with the name that the caller gave it.
const LABEL_NAME: &str = "csi.anabranch.dev/name";

/// A volume to create.
#[derive(Debug, Clone, Default)]
pub struct CreateVolume {
    /// The caller's name for it: the same name is the same volume.
    pub name: String,
    /// Its size, which is the quota of what it may write itself.
    pub range: Range,
    /// How it is to be used.
    pub capabilities: Vec<Capability>,
    /// Parameters of the storage class.
    pub parameters: BTreeMap<String, String>,
    /// Mutable parameters of the volume attributes class.
    pub mutable: BTreeMap<String, String>,
    /// What it starts with; nothing makes it empty.
    pub content: Option<Content>,
    /// The topologies it may be in; none is any.
    pub requisite: Vec<BTreeMap<String, String>>,
}

impl Driver {
    /// Creates a volume, or finds the one of the same name. Cost: one commit with its sync, whatever the content.
    ///
    /// # Errors
    /// `AlreadyExists` when the volume of that name is another one, `ResourceExhausted` when it may not be on this
    /// node, `NotFound` for the content, `InvalidArgument`.
    pub fn create_volume(&self, request: &CreateVolume) -> Result<Volume> {
        let name = engine_name(VOLUME, &request.name)?;
        check_all(&request.capabilities)?;
        if !self.allowed_here(&request.requisite) {
            return Err(CsiError::new(
                Code::ResourceExhausted,
                format!(
                    "volumes of this driver are on node {}, which the topology excludes",
                    self.node
                ),
            ));
        }
        let class = Parameters::of_class(&request.parameters)?;
        let mutable = Parameters::mutable(&request.mutable)?;
        let _held = self.locks.take(name.as_str())?;
        if let Some(found) = present(self.engine.timeline_named(&name))? {
            return self.same_volume(request, &found);
        }
        let mut labels = BTreeMap::from([(LABEL_NAME.to_owned(), request.name.clone())]);
        if class.verified_reads == Some(true) {
            labels.insert(LABEL_VERIFIED_READS.to_owned(), "true".to_owned());
        }
        let settings = Settings {
            read_only: request.capabilities.iter().all(Capability::reads_only),
            protected: false,
            quota: Quota {
                bytes: mutable.bytes.or(request.range.quota()),
                inodes: mutable.inodes.or(class.inodes),
            },
            retain: mutable.retain.or(class.retain).unwrap_or_default(),
            labels,
        };
        if mutable.bytes.is_some() && !request.range.allows(settings.quota.bytes) {
            return Err(CsiError::new(
                Code::OutOfRange,
                "the VolumeAttributesClass sets `bytes` outside of the size that the claim asks for; change one of the two",
            ));
        }
        let made = match &request.content {
            None => self.engine.create_root(CreateRoot {
                id: None,
                name,
                settings,
                durability: Durability::Local,
            })?,
            Some(content) => {
                let source = self.content_here(content, !request.requisite.is_empty())?;
                if let Point::Now(timeline) = source {
                    self.mounts.sync_timeline(timeline)?;
                }
                self.engine.fork(ForkRequest {
                    id: None,
                    name,
                    source,
                    settings,
                    durability: Durability::Local,
                })?
            }
        };
        Ok(self.describe(&made))
    }

    fn allowed_here(&self, requisite: &[BTreeMap<String, String>]) -> bool {
        requisite.is_empty()
            || requisite.iter().any(|segments| {
                segments
                    .get(TOPOLOGY_KEY)
                    .is_none_or(|node| *node == self.node)
            })
    }

    fn same_volume(&self, request: &CreateVolume, found: &TimelineInfo) -> Result<Volume> {
        let volume = self.describe(found);
        let differs = if volume.content != request.content {
            Some("another content")
        } else if !request.range.allows(found.settings.quota.bytes) {
            Some("another size")
        } else if found.settings.read_only
            != request.capabilities.iter().all(Capability::reads_only)
        {
            Some("other access modes")
        } else {
            None
        };
        match differs {
            Some(what) => Err(CsiError::new(
                Code::AlreadyExists,
                format!("the volume {} exists with {what}", request.name),
            )),
            None => Ok(volume),
        }
    }

    /// Deletes a volume. One that is not there is deleted. Its snapshots and forks stay.
    ///
    /// # Errors
    /// `FailedPrecondition`: in use, protected, or the timeline of a Bucket or BucketFork object.
    pub fn delete_volume(&self, id: &str) -> Result<()> {
        if id.is_empty() {
            return Err(CsiError::invalid("the volume id is missing"));
        }
        let _held = self.locks.take(id)?;
        let Some(timeline) = self.find(id)? else {
            return Ok(());
        };
        if !timeline.name.starts_with(VOLUME) && !timeline.name.starts_with(EPHEMERAL) {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} belongs to an object of that kind and name; delete the object",
                    timeline.name
                ),
            ));
        }
        self.unused(&timeline)?;
        Ok(self.engine.delete_timeline(timeline.id)?)
    }

    /// The volumes that callers created, by id.
    ///
    /// # Errors
    /// `Aborted` for a token that is none, `InvalidArgument` for a negative count.
    pub fn list_volumes(&self, most: i32, token: &str) -> Result<Page<Volume>> {
        let mut all: Vec<(VolumeId, TimelineInfo)> = self
            .engine
            .timelines()
            .into_iter()
            .filter(|timeline| timeline.name.starts_with(VOLUME))
            .map(|timeline| (VolumeId(timeline.id), timeline))
            .collect();
        all.sort_by_key(|(id, _)| *id);
        let listed = page(all, most, token, VolumeId::parse, VolumeId::to_string)?;
        Ok(Page {
            entries: listed
                .entries
                .iter()
                .map(|timeline| self.describe(timeline))
                .collect(),
            next: listed.next,
        })
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get_volume(&self, id: &str) -> Result<Volume> {
        Ok(self.describe(&self.existing(id)?))
    }

    /// Why a volume cannot be used in these ways; `None` when it can.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` without any capability.
    pub fn validate(&self, id: &str, capabilities: &[Capability]) -> Result<Option<String>> {
        let timeline = self.existing(id)?;
        if capabilities.is_empty() {
            return Err(CsiError::invalid("the volume capabilities are missing"));
        }
        if let Err(error) = check_all(capabilities) {
            return Ok(Some(error.message));
        }
        let writes = capabilities
            .iter()
            .any(|capability| !capability.reads_only());
        Ok((timeline.settings.read_only && writes).then(|| "the volume is read-only".to_owned()))
    }

    /// Bytes that new volumes can write on this node: what is free under the store. Zero for another topology.
    ///
    /// # Errors
    /// `Internal`: the file system cannot be asked.
    pub fn available(&self, topology: Option<&BTreeMap<String, String>>) -> Result<u64> {
        if topology.is_some_and(|segments| !self.allowed_here(std::slice::from_ref(segments))) {
            return Ok(0);
        }
        let directory = self.engine.data_dir();
        let figures = rustix::fs::statvfs(&directory).map_err(|error| {
            CsiError::new(
                Code::Internal,
                format!(
                    "cannot ask for the free space of {}: {error}",
                    directory.display()
                ),
            )
        })?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize.max(1)))
    }

    /// Raises the size of a volume to at least what is required; it is never lowered. Returns the size in bytes.
    ///
    /// # Errors
    /// `NotFound`, `OutOfRange` when it is larger than the limit already, `InvalidArgument` without a size.
    pub fn expand(&self, id: &str, range: Range) -> Result<u64> {
        let _held = self.locks.take(id)?;
        let timeline = self.existing(id)?;
        if range.required == 0 && range.limit == 0 {
            return Err(CsiError::invalid("the capacity range is missing"));
        }
        let mut settings = timeline.settings;
        match settings.quota.bytes {
            // Without a limit it is as large as anybody can ask for.
            None => return Ok(range.required),
            Some(size) if range.limit != 0 && size > range.limit => {
                return Err(CsiError::new(
                    Code::OutOfRange,
                    format!(
                        "the volume has {size} bytes, and at most {} are asked for",
                        range.limit
                    ),
                ));
            }
            Some(size) if size >= range.required => return Ok(size),
            Some(_) => {}
        }
        settings.quota.bytes = Some(range.required);
        let changed = self.engine.update_settings(timeline.id, settings)?;
        Ok(capacity(changed.settings.quota))
    }

    /// The same, asked by the kubelet for a volume that it has at `path`: a central driver, which has no store, left it to
    /// the node. Asked without a size, it says the size there is.
    ///
    /// # Errors
    /// As [`Driver::expand`]; `InvalidArgument` without a path.
    pub fn expand_on_node(&self, id: &str, path: &str, range: Range) -> Result<u64> {
        if path.is_empty() {
            return Err(CsiError::invalid("the volume path is missing"));
        }
        let timeline = self.existing(id)?;
        if range == Range::default() {
            return Ok(capacity(timeline.settings.quota));
        }
        self.expand(id, range)
    }

    /// Changes what a volume attributes class can say of a volume. Takes effect at once, also while it is mounted.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` naming the parameter, `FailedPrecondition` for the volume of an object of ours.
    pub fn modify(&self, id: &str, mutable: &BTreeMap<String, String>) -> Result<()> {
        let _held = self.locks.take(id)?;
        let timeline = self.existing(id)?;
        let asked = Parameters::mutable(mutable)?;
        if operator::owner::key_of(&timeline.settings.labels).is_some() {
            return Err(CsiError::new(
                Code::FailedPrecondition,
                format!(
                    "{} is of an object of that kind and name; change its spec",
                    timeline.name
                ),
            ));
        }
        let mut settings = timeline.settings.clone();
        settings.quota.bytes = asked.bytes.or(settings.quota.bytes);
        settings.quota.inodes = asked.inodes.or(settings.quota.inodes);
        settings.retain = asked.retain.unwrap_or(settings.retain);
        if settings != timeline.settings {
            self.engine.update_settings(timeline.id, settings)?;
        }
        Ok(())
    }
}
