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
use crate::fuse::place::{Place, Ready};

impl Mounts {
    /// Makes a mount. Cost: about 1 ms, and the removal of what earlier mounts left unlinked but open.
    ///
    /// # Errors
    /// Each says what to do; nothing is left behind.
    pub fn mount(&self, request: MountRequest) -> Result<MountInfo, MountsError> {
        let place = Place::at(&real_path(&request.mount_point)?)?;
        self.mount_on(request, &place)
    }

    /// Makes a mount at a place that was taken apart already; its path replaces that of the request. The place's calls keep
    /// what it was given to keep.
    ///
    /// # Errors
    /// As [`Mounts::mount`].
    pub fn mount_on(
        &self,
        mut request: MountRequest,
        place: &Place,
    ) -> Result<MountInfo, MountsError> {
        let inner = &self.inner;
        place.path().clone_into(&mut request.mount_point);
        let volume = inner
            .engine
            .volume(request.point, VolumeOptions { origin: 0 })?;
        let read_only = request.read_only || volume.read_only();
        let writes = (!read_only).then(|| volume.timeline());
        inner.reserve(&request.id, writes)?;
        let mut made = false;
        let result = place
            .prepare()
            .map_err(MountsError::from)
            .and_then(|ready| {
                made = ready.made;
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
                inner.make(&request, mode, read_only, verified, place, ready)
            });
        match result {
            Ok(live) => {
                let info = info(&live);
                inner.adopt(live)?;
                Ok(info)
            }
            Err(error) => {
                if made {
                    let _ = place.remove();
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
        place: &Place,
        ready: Ready,
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
            made_directory: ready.made,
            group: request.group,
            verified,
        };
        self.keeper.put(
            record(&request.id, place.path(), "", &state)?,
            device.as_fd(),
            backing.as_fd(),
        )?;
        let result = self.mount_and_serve(request, &mut state, &device, backing, (place, ready));
        if result.is_err() {
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
        (place, ready): (&Place, Ready),
    ) -> Result<Arc<Live>, MountsError> {
        let point = place.path();
        let system = |what: &'static str| {
            move |error| MountsError::Serve {
                id: request.id.clone(),
                what,
                error,
            }
        };
        let options = MountOptions {
            name: &request.id,
            read_only: state.read_only,
        };
        let tree = mount::create(device, options).map_err(system("make it"))?;
        let negotiated = negotiate(device, state.mode).map_err(system("agree with the kernel"))?;
        state.negotiated = Some(negotiated);
        let attached = place.attach(ready, tree)?;
        let line = attached.line().clone();
        mount::raise_read_ahead(&line.device);
        let served = record(&request.id, point, &line.device, state)
            .and_then(|record| Ok(self.keeper.update(record)?))
            .and_then(|()| {
                Live::serve(
                    &self.engine,
                    Connection {
                        id: request.id.clone(),
                        mount_point: point.to_owned(),
                        device_number: line.device,
                        mount_number: line.id,
                        state: state.clone(),
                        negotiated,
                        device: Arc::clone(device),
                        backing,
                        taken_over: false,
                    },
                )
            });
        match served {
            Ok(_) => attached.keep(),
            // Whoever waits on it already gets an error.
            Err(_) => attached.abort(),
        }
        served
    }

    /// Puts a served mount into the list and watches for its end.
    pub(super) fn adopt(self: &Arc<Inner>, live: Arc<Live>) -> Result<(), MountsError> {
        self.live
            .lock()
            .insert(live.id.clone(), Slot::Served(Arc::clone(&live)));
        let (own, id, watched) = (Arc::clone(self), live.id.clone(), Arc::clone(&live));
        let watch = move || {
            if live.wait_ended() {
                own.clean_up(&live);
            }
        };
        let started = std::thread::Builder::new()
            .name("mount end".into())
            .spawn(watch);
        let thread = started.map_err(|error| MountsError::Serve {
            id,
            what: "start a thread",
            error,
        })?;
        watched.watched_by(thread);
        Ok(())
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

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
