//! Making a mount: from the check of the mount point to serving it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crds::names;
use storage_engine::{TimelineInfo, VolumeOptions};

use super::error::MountsError;
use super::live::{Connection, Live, record};
use super::state::State;
use super::{Inner, Mode, MountInfo, MountRequest, Mounts, Slot, info};
use crate::fuse::backing::new_record;
use crate::fuse::device::Device;
use crate::fuse::mount::{self, MountOptions};
use crate::fuse::negotiate::negotiate;

impl Mounts {
    /// Makes a mount. Cost: about 1 ms, and the removal of what earlier mounts left unlinked but open.
    ///
    /// # Errors
    /// Each says what to do; nothing is left behind.
    pub fn mount(&self, mut request: MountRequest) -> Result<MountInfo, MountsError> {
        let inner = &self.inner;
        request.mount_point = real_path(&request.mount_point)?;
        let volume = inner
            .engine
            .volume(request.point, VolumeOptions { origin: 0 })?;
        let read_only = request.read_only || volume.read_only();
        let writes = (!read_only).then(|| volume.timeline());
        inner.reserve(&request.id, writes)?;
        let mut made = false;
        let result = mount::prepare(&request.mount_point)
            .map_err(MountsError::from)
            .and_then(|made_directory| {
                made = made_directory;
                if writes.is_some() {
                    volume.reap_all()?;
                }
                let mode = request.mode.unwrap_or(if read_only {
                    Mode::Dataset
                } else {
                    Mode::Workspace
                });
                let timeline = inner.engine.timeline(volume.timeline());
                let verified = timeline.is_ok_and(|info| verifies_reads(&info));
                inner.make(&request, mode, read_only, verified, made_directory)
            });
        match result {
            Ok(live) => {
                let info = info(&live);
                inner.adopt(live)?;
                Ok(info)
            }
            Err(error) => {
                if made {
                    let _ = std::fs::remove_dir(&request.mount_point);
                }
                inner.live.lock().remove(&request.id);
                Err(error)
            }
        }
    }
}

/// Whether a volume of this timeline is to have every read verified by the engine. It costs what passthrough saves.
fn verifies_reads(timeline: &TimelineInfo) -> bool {
    let label = timeline.settings.labels.get(names::LABEL_VERIFIED_READS);
    label.is_some_and(|value| value == "true")
}

impl Inner {
    fn make(
        &self,
        request: &MountRequest,
        mode: Mode,
        read_only: bool,
        verified: bool,
        made_directory: bool,
    ) -> Result<Arc<Live>, MountsError> {
        let system = |what: &'static str| {
            move |error| MountsError::Serve {
                id: request.id.clone(),
                what,
                error,
            }
        };
        let device = Arc::new(Device::open().map_err(system("open /dev/fuse"))?);
        let backing = new_record().map_err(system("make a memory file"))?;
        let mut state = State {
            point: request.point.into(),
            mode,
            connection: random().map_err(system("read /dev/urandom"))?,
            negotiated: None,
            read_only,
            label: request.label.clone(),
            made_directory,
            group: request.group,
            verified,
        };
        let point = &request.mount_point;
        self.keeper.put(
            record(&request.id, point, "", &state)?,
            device.as_fd(),
            backing.as_fd(),
        )?;
        let result = self.mount_and_serve(request, &mut state, &device, backing);
        if result.is_err() {
            if let Ok(Some(line)) = mount::mounted_at(point)
                && line.source == source(&request.id)
            {
                let _ = mount::unmount(point, true, true);
            }
            let _ = self.keeper.forget(&request.id);
        }
        result
    }

    fn mount_and_serve(
        &self,
        request: &MountRequest,
        state: &mut State,
        device: &Arc<Device>,
        backing: OwnedFd,
    ) -> Result<Arc<Live>, MountsError> {
        let point = &request.mount_point;
        let system = |what: &'static str| {
            move |error| MountsError::Serve {
                id: request.id.clone(),
                what,
                error,
            }
        };
        mount::mount(
            device,
            point,
            MountOptions {
                name: &request.id,
                read_only: state.read_only,
            },
        )?;
        let negotiated = negotiate(device, state.mode).map_err(system("agree with the kernel"))?;
        state.negotiated = Some(negotiated);
        let number = device_number(point, &request.id)?;
        mount::raise_read_ahead(&number);
        self.keeper
            .update(record(&request.id, point, &number, state)?)?;
        Live::serve(
            &self.engine,
            Connection {
                id: request.id.clone(),
                mount_point: point.clone(),
                device_number: number,
                state: state.clone(),
                negotiated,
                device: Arc::clone(device),
                backing,
                taken_over: false,
            },
        )
    }

    /// Puts a served mount into the list and watches for its end.
    pub(super) fn adopt(self: &Arc<Inner>, live: Arc<Live>) -> Result<(), MountsError> {
        self.live
            .lock()
            .insert(live.id.clone(), Slot::Served(Arc::clone(&live)));
        let (own, id) = (Arc::clone(self), live.id.clone());
        let watch = move || {
            if live.wait_ended() {
                own.clean_up(&live);
            }
        };
        let started = std::thread::Builder::new()
            .name("mount end".into())
            .spawn(watch);
        started.map(|_| ()).map_err(|error| MountsError::Serve {
            id,
            what: "start a thread",
            error,
        })
    }
}

/// The path with the links on the way to its last component followed: the one that the kernel lists. A path that
/// cannot be followed stays as it is, for the check of the mount point to say what is wrong with it.
fn real_path(point: &Path) -> Result<PathBuf, MountsError> {
    let (Some(parent), Some(name)) = (point.parent(), point.file_name()) else {
        return Ok(point.to_owned());
    };
    let owned = parent.to_owned();
    let real = mount::with_deadline(point, move || std::fs::canonicalize(owned))?;
    Ok(real.map_or_else(|_| point.to_owned(), |real| real.join(name)))
}

fn source(id: &str) -> String {
    format!("anabranch:{id}")
}

fn device_number(point: &Path, id: &str) -> Result<String, MountsError> {
    let line = mount::mounted_at(point).map_err(|error| MountsError::Serve {
        id: id.to_owned(),
        what: "read mountinfo",
        error,
    })?;
    line.filter(|line| line.kind == mount::TYPE)
        .map(|line| line.device)
        .ok_or_else(|| MountsError::NotMounted { id: id.to_owned() })
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
