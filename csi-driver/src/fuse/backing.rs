//! Files that the kernel reads itself (passthrough), and how a successor knows of them.
//!
//! The kernel binds an inode to one backing id for as long as a process has it open by passthrough: another id, or
//! an open without one, fails. So the ids must outlive the process that registered them. They stand in a *record*: a
//! memory file whose descriptor the keeper holds beside the `/dev/fuse` one. It is written with plain writes before
//! an OPEN is answered, so a SIGKILL loses nothing, and the keeper never reads it.
//!
//! Layout of the record: slots of 16 bytes in the byte order of the machine (it never leaves it):
//! inode u64, backing id u32, open files u32. A slot with 0 open files is free; the others are meaningless then.
//! Slot 0 is the header: magic u64, version u32, flags u32 (bit 0: no new passthrough).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use parking_lot::Mutex;
use rustix::fs::MemfdFlags;

use super::device::Device;
use super::errno::Errno;

const MAGIC: u64 = u64::from_be_bytes(*b"anabkrec");
const VERSION: u32 = 1;
const NO_NEW: u32 = 1;

/// One slot of the record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Slot {
    ino: u64,
    id: u32,
    opens: u32,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// An open that the kernel serves from a backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Handle for the OPEN reply; RELEASE brings it back. Never 0.
    pub handle: u64,
    /// Backing id.
    pub id: u32,
}

/// The files passed through on one mount.
pub struct Backings {
    device: Arc<Device>,
    state: Mutex<State>,
}

struct State {
    record: File,
    slots: Vec<Slot>,
    by_ino: HashMap<u64, usize>,
    free: Vec<usize>,
    closed_to_new: bool,
}

/// Makes an empty record for a fresh mount.
///
/// # Errors
/// No memory file can be made.
pub fn new_record() -> io::Result<OwnedFd> {
    let record = File::from(rustix::fs::memfd_create(
        "anabranch-backing",
        MemfdFlags::CLOEXEC,
    )?);
    record.write_all_at(
        bytemuck::bytes_of(&Slot {
            ino: MAGIC,
            id: VERSION,
            opens: 0,
        }),
        0,
    )?;
    Ok(record.into())
}

impl Backings {
    /// Takes up a record, empty or of a predecessor. Cost: one read of 16 bytes per slot.
    ///
    /// # Errors
    /// The descriptor is no record of this version.
    pub fn from_record(device: Arc<Device>, record: OwnedFd) -> io::Result<Backings> {
        let record = File::from(record);
        let length = record.metadata()?.len() as usize / size_of::<Slot>() * size_of::<Slot>();
        let mut bytes = vec![0; length];
        record.read_exact_at(&mut bytes, 0)?;
        let slots: Vec<Slot> = bytes
            .chunks_exact(size_of::<Slot>())
            .map(bytemuck::pod_read_unaligned)
            .collect();
        let header = slots.first().copied().unwrap_or(Slot::zeroed());
        if header.ino != MAGIC || header.id != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the record of backing files is not one of version 1",
            ));
        }
        let used = |(place, slot): (usize, &Slot)| (slot.opens > 0).then_some((slot.ino, place));
        let by_ino = slots.iter().enumerate().skip(1).filter_map(used).collect();
        let free = (1..slots.len())
            .filter(|place| slots.get(*place).is_some_and(|slot| slot.opens == 0))
            .collect();
        let closed_to_new = header.opens & NO_NEW != 0;
        Ok(Backings {
            device,
            state: Mutex::new(State {
                record,
                slots,
                by_ino,
                free,
                closed_to_new,
            }),
        })
    }

    /// An open of `ino`: by the id it has, or by a new one for the file that `sealed` gives. `None` when it has no
    /// file of its own, or the kernel takes none.
    ///
    /// # Errors
    /// Those of `sealed`, and EIO when the record cannot be written.
    pub fn open(
        &self,
        ino: u64,
        sealed: impl FnOnce() -> Result<Option<File>, Errno>,
    ) -> Result<Option<Opened>, Errno> {
        let mut state = self.state.lock();
        if let Some(place) = state.by_ino.get(&ino).copied() {
            let slot = state.slots.get(place).copied().ok_or(Errno(libc::EIO))?;
            state.put(
                place,
                Slot {
                    opens: slot.opens.saturating_add(1),
                    ..slot
                },
            )?;
            return Ok(Some(Opened {
                handle: place as u64,
                id: slot.id,
            }));
        }
        if state.closed_to_new {
            return Ok(None);
        }
        let Some(file) = sealed()? else {
            return Ok(None);
        };
        let id = match self.device.open_backing(&file) {
            Ok(id) => id,
            Err(error) => {
                // An inode must not be open both ways, and which inodes are open without passthrough is not known:
                // so from now on none is begun on this mount.
                tracing::warn!(ino, %error, "the kernel takes no file for passthrough; this mount goes on without");
                state.closed_to_new = true;
                let header = Slot {
                    ino: MAGIC,
                    id: VERSION,
                    opens: NO_NEW,
                };
                state.put(0, header)?;
                return Ok(None);
            }
        };
        let place = state.free.pop().unwrap_or(state.slots.len());
        if let Err(error) = state.put(place, Slot { ino, id, opens: 1 }) {
            let _ = self.device.close_backing(id);
            return Err(error);
        }
        state.by_ino.insert(ino, place);
        Ok(Some(Opened {
            handle: place as u64,
            id,
        }))
    }

    /// A file opened with `handle` is closed; 0 is one without passthrough. With the last one the id is given back.
    pub fn release(&self, handle: u64) {
        let place = handle as usize;
        let mut state = self.state.lock();
        let Some(slot) = state
            .slots
            .get(place)
            .copied()
            .filter(|slot| place > 0 && slot.opens > 0)
        else {
            return;
        };
        let left = Slot {
            opens: slot.opens - 1,
            ..slot
        };
        if left.opens == 0 {
            state.by_ino.remove(&slot.ino);
            state.free.push(place);
            if let Err(error) = self.device.close_backing(slot.id) {
                tracing::debug!(ino = slot.ino, %error, "a backing id cannot be given back");
            }
        }
        let _ = state.put(place, left);
    }

    /// Number of inodes passed through now.
    pub fn len(&self) -> usize {
        self.state.lock().by_ino.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn put(&mut self, place: usize, slot: Slot) -> Result<(), Errno> {
        self.record
            .write_all_at(
                bytemuck::bytes_of(&slot),
                (place * size_of::<Slot>()) as u64,
            )
            .map_err(|error| {
                tracing::error!(%error, "the record of backing files cannot be written");
                Errno(libc::EIO)
            })?;
        match self.slots.get_mut(place) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        Ok(())
    }
}
