//! Operations on files, carried out by the engine.

use storage_engine::*;

use crate::compare;
use crate::fs::Allocation;
use crate::op::{FileOp, Place, StepId};
use crate::rng::pattern;
use crate::subject::{Got, Subject, to_time};

impl Subject {
    pub fn file_op(
        &mut self,
        step: StepId,
        place: Place,
        uid: u32,
        gid: u32,
        op: &FileOp,
    ) -> Result<Got> {
        let volume = self.volume(place)?;
        let request = self.connection.map(|connection| RequestId {
            connection,
            unique: u64::from(step),
        });
        let caller = Caller {
            uid,
            gid,
            umask: 0,
            request,
        };
        let caller = &caller;
        Ok(match op {
            FileOp::Lookup { parent, name } => Got::Attr(volume.lookup(self.ino(*parent), name)?),
            FileOp::Attr { ino } => Got::Attr(volume.attr(self.ino(*ino))?),
            FileOp::Create {
                parent,
                name,
                kind,
                mode,
                rdev,
                target,
            } => {
                let new = NewNode {
                    kind: *kind,
                    mode: *mode,
                    rdev: *rdev,
                    target,
                };
                Got::Attr(volume.create(caller, self.ino(*parent), name, &new)?)
            }
            FileOp::CreateUnlinked { parent, mode } => {
                Got::Attr(volume.create_unlinked(caller, self.ino(*parent), *mode)?)
            }
            FileOp::Link { ino, parent, name } => {
                Got::Attr(volume.link(caller, self.ino(*ino), self.ino(*parent), name)?)
            }
            FileOp::Unlink { parent, name } => {
                volume.unlink(caller, self.ino(*parent), name)?;
                Got::Nothing
            }
            FileOp::Rmdir { parent, name } => {
                volume.rmdir(caller, self.ino(*parent), name)?;
                Got::Nothing
            }
            FileOp::Rename {
                parent,
                name,
                new_parent,
                new_name,
                mode,
            } => {
                volume.rename(
                    caller,
                    self.ino(*parent),
                    name,
                    self.ino(*new_parent),
                    new_name,
                    *mode,
                )?;
                Got::Nothing
            }
            FileOp::Read { ino, offset, len } => {
                Got::Bytes(volume.read(self.ino(*ino), *offset, *len as usize)?)
            }
            FileOp::Write {
                ino,
                offset,
                len,
                kill_priv,
                keep_times,
            } => {
                let options = WriteOptions {
                    kill_priv: *kill_priv,
                    keep_mtime: *keep_times,
                };
                let data = pattern(step, *len as usize);
                Got::Count(volume.write(caller, self.ino(*ino), *offset, &data, options)? as u64)
            }
            FileOp::SetAttr { ino, change } => {
                let set = |time: Option<i128>| {
                    time.map_or(SetTime::Now, |nanos| SetTime::At(to_time(nanos)))
                };
                let change = SetAttr {
                    mode: change.mode,
                    uid: change.uid,
                    gid: change.gid,
                    size: change.size,
                    atime: change.atime.map(set),
                    mtime: change.mtime.map(set),
                    ctime: change.ctime.map(to_time),
                    kill_priv: change.kill_priv,
                };
                Got::Attr(volume.set_attr(caller, self.ino(*ino), &change)?)
            }
            FileOp::Allocate {
                ino,
                how,
                offset,
                len,
            } => {
                let how = match *how {
                    Allocation::Reserve { keep_size } => AllocateMode::Reserve { keep_size },
                    Allocation::Punch => AllocateMode::Punch,
                    Allocation::Zero { keep_size } => AllocateMode::Zero { keep_size },
                };
                volume.allocate(caller, self.ino(*ino), how, *offset, *len)?;
                Got::Nothing
            }
            FileOp::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => Got::Count(volume.copy_range(
                caller,
                self.ino(*from),
                *from_offset,
                self.ino(*to),
                *to_offset,
                *len,
            )?),
            FileOp::Seek { ino, offset, data } => Got::Count(volume.seek(
                self.ino(*ino),
                *offset,
                if *data { Seek::Data } else { Seek::Hole },
            )?),
            FileOp::ReadLink { ino } => Got::Bytes(volume.read_link(self.ino(*ino))?),
            FileOp::ReadDir { ino, page } => {
                Got::Entries(compare::read_dir(&volume, self.ino(*ino), *page)?)
            }
            FileOp::Xattr { ino, name } => Got::Bytes(volume.xattr(self.ino(*ino), name)?),
            FileOp::Xattrs { ino } => Got::Names(volume.xattrs(self.ino(*ino))?),
            FileOp::SetXattr {
                ino,
                name,
                len,
                mode,
            } => {
                volume.set_xattr(
                    caller,
                    self.ino(*ino),
                    name,
                    &pattern(step, *len as usize),
                    *mode,
                )?;
                Got::Nothing
            }
            FileOp::RemoveXattr { ino, name } => {
                volume.remove_xattr(caller, self.ino(*ino), name)?;
                Got::Nothing
            }
            FileOp::Fsync { ino } => {
                volume.fsync(self.ino(*ino))?;
                Got::Nothing
            }
            FileOp::Reap { ino } => Got::Flag(volume.reap(self.ino(*ino))?),
            FileOp::ReapAll => Got::Count(volume.reap_all()?),
        })
    }
}
