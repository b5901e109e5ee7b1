//! What one inode of the model holds: bytes, attributes, extended attributes.

use storage_engine::{ErrorKind, NodeKind, XattrMode};

use crate::content::Content;
use crate::fs::{
    Actor, Allocation, Body, Change, Expected, Fs, Handle, MAX_SIZE, Nanos, Node, deny,
};

impl Fs {
    pub fn read_link(&self, handle: Handle) -> Expected<Vec<u8>> {
        match &self.node(handle)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => deny(&[ErrorKind::InvalidArgument]),
        }
    }

    pub fn read(&self, handle: Handle, offset: u64, len: u64) -> Expected<Vec<u8>> {
        Ok(self.content(handle)?.read(offset, len))
    }

    /// Set-user-id, and set-group-id of what the group may execute, do not outlive a change by somebody.
    fn kill_priv(node: &mut Node) {
        if node.kind != NodeKind::File {
            return;
        }
        node.mode &= !0o4000;
        if node.mode & 0o010 != 0 {
            node.mode &= !0o2000;
        }
    }

    fn content_mut(&mut self, handle: Handle, now: Nanos) -> Expected<&mut Content> {
        self.content(handle)?;
        let node = self.node_mut(handle)?;
        node.mtime = now;
        node.ctime = now;
        match &mut node.body {
            Body::File(content) => Ok(content),
            _ => deny(&[ErrorKind::InvalidArgument]),
        }
    }

    pub fn write(
        &mut self,
        actor: Actor,
        handle: Handle,
        offset: u64,
        data: &[u8],
        kill: bool,
        keep_times: bool,
    ) -> Expected<usize> {
        let mut faults = self.content(handle).err().unwrap_or_default();
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > MAX_SIZE)
        {
            faults.extend([ErrorKind::FileTooLarge, ErrorKind::InvalidArgument]);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if data.is_empty() {
            return Ok(0);
        }
        let before = self.node(handle)?;
        let (mtime, ctime) = (before.mtime, before.ctime);
        self.content_mut(handle, actor.now)?.write(offset, data);
        let node = self.node_mut(handle)?;
        if kill {
            Self::kill_priv(node);
        }
        if keep_times {
            (node.mtime, node.ctime) = (mtime, ctime);
        }
        Ok(data.len())
    }

    pub fn set_attr(&mut self, actor: Actor, handle: Handle, change: &Change) -> Expected<()> {
        self.node(handle)?;
        if let Some(size) = change.size {
            self.content(handle)?;
            if size > MAX_SIZE {
                return deny(&[ErrorKind::FileTooLarge, ErrorKind::InvalidArgument]);
            }
            self.content_mut(handle, actor.now)?.truncate(size);
        }
        let node = self.node_mut(handle)?;
        if let Some(mode) = change.mode {
            node.mode = mode & 0o7777;
        }
        if change.kill_priv {
            Self::kill_priv(node);
        }
        node.uid = change.uid.unwrap_or(node.uid);
        node.gid = change.gid.unwrap_or(node.gid);
        if let Some(time) = change.atime {
            node.atime = time.unwrap_or(actor.now);
        }
        if let Some(time) = change.mtime {
            node.mtime = time.unwrap_or(actor.now);
        }
        node.ctime = change.ctime.unwrap_or(actor.now);
        Ok(())
    }

    pub fn allocate(
        &mut self,
        actor: Actor,
        handle: Handle,
        how: Allocation,
        offset: u64,
        len: u64,
    ) -> Expected<()> {
        let mut faults = self.content(handle).err().unwrap_or_default();
        if len == 0 {
            faults.push(ErrorKind::InvalidArgument);
        }
        let end = offset.saturating_add(len);
        if end > MAX_SIZE {
            faults.extend([ErrorKind::FileTooLarge, ErrorKind::InvalidArgument]);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let content = self.content_mut(handle, actor.now)?;
        match how {
            Allocation::Punch | Allocation::Zero { keep_size: true } => content.zero(offset, len),
            Allocation::Zero { keep_size: false } => {
                content.zero(offset, len);
                content.size = content.size.max(end);
            }
            Allocation::Reserve { keep_size: false } => content.size = content.size.max(end),
            Allocation::Reserve { keep_size: true } => {}
        }
        Ok(())
    }

    /// `None`: nothing is there to be copied, so whether the target is looked at is open.
    pub fn copy_range(
        &mut self,
        actor: Actor,
        from: (Handle, u64),
        to: (Handle, u64),
        len: u64,
    ) -> Option<Expected<u64>> {
        let mut faults = Vec::new();
        for (handle, _) in [from, to] {
            faults.extend(self.content(handle).err().unwrap_or_default());
        }
        if !faults.is_empty() {
            faults.push(ErrorKind::InvalidArgument);
        }
        if to.1.checked_add(len).is_none_or(|end| end > MAX_SIZE) {
            faults.extend([ErrorKind::FileTooLarge, ErrorKind::InvalidArgument]);
        }
        if from.0 == to.0 && from.1 < to.1.saturating_add(len) && to.1 < from.1.saturating_add(len)
        {
            faults.push(ErrorKind::InvalidArgument);
        }
        let data = self
            .content(from.0)
            .map(|content| content.read(from.1, len))
            .unwrap_or_default();
        if !faults.is_empty() {
            return (!data.is_empty()).then_some(Err(faults));
        }
        if !data.is_empty() {
            match self.content_mut(to.0, actor.now) {
                Ok(content) => content.write(to.1, &data),
                Err(kinds) => return Some(Err(kinds)),
            }
        }
        Some(Ok(data.len() as u64))
    }

    /// Checks the answer to a search for data or for a hole: what is reported as a hole must read as zeros.
    /// (More may be reported as data than was written.)
    pub fn seek_fault(
        &self,
        handle: Handle,
        offset: u64,
        data: bool,
        answer: &Result<u64, ErrorKind>,
    ) -> Option<String> {
        let content = match self.content(handle) {
            Ok(content) => content,
            Err(kinds) => {
                return match answer {
                    Err(kind) if kinds.contains(kind) => None,
                    other => Some(format!("seek in no file gives {other:?}, right: {kinds:?}")),
                };
            }
        };
        if offset >= content.size {
            return (*answer != Err(ErrorKind::NoData))
                .then(|| format!("seek past the end gives {answer:?}"));
        }
        match (data, answer) {
            (true, Err(ErrorKind::NoData)) => content
                .first_nonzero(offset, content.size)
                .map(|at| format!("no data reported after {offset}, but byte {at} is not zero")),
            (true, Ok(found)) if *found >= offset && *found < content.size => content
                .first_nonzero(offset, *found)
                .map(|at| format!("data reported only from {found}, but byte {at} is not zero")),
            (false, Ok(found)) if *found >= offset && *found <= content.size => {
                (*found < content.size && content.first_nonzero(*found, found + 1).is_some())
                    .then(|| format!("hole reported at {found}, but that byte is not zero"))
            }
            (_, other) => Some(format!(
                "seek from {offset} gives {other:?} in a file of {} bytes",
                content.size
            )),
        }
    }

    pub fn xattr(&self, handle: Handle, name: &[u8]) -> Expected<Vec<u8>> {
        self.node(handle)?
            .xattrs
            .get(name)
            .cloned()
            .ok_or(vec![ErrorKind::NoAttribute])
    }

    pub fn set_xattr(
        &mut self,
        actor: Actor,
        handle: Handle,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Expected<()> {
        let present = self.node(handle)?.xattrs.contains_key(name);
        match (mode, present) {
            (XattrMode::Create, true) => return deny(&[ErrorKind::AlreadyExists]),
            (XattrMode::Replace, false) => return deny(&[ErrorKind::NoAttribute]),
            _ => {}
        }
        let node = self.node_mut(handle)?;
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.ctime = actor.now;
        Ok(())
    }

    pub fn remove_xattr(&mut self, actor: Actor, handle: Handle, name: &[u8]) -> Expected<()> {
        if !self.node(handle)?.xattrs.contains_key(name) {
            return deny(&[ErrorKind::NoAttribute]);
        }
        let node = self.node_mut(handle)?;
        node.xattrs.remove(name);
        node.ctime = actor.now;
        Ok(())
    }

    pub fn reap(&mut self, handle: Handle) -> bool {
        let orphan = self.node(handle).is_ok_and(|node| node.nlink == 0);
        if orphan {
            self.nodes.remove(&handle);
        }
        orphan
    }
}
