//! One state of one file system in the model: the whole tree in memory, changed as POSIX says.
//!
//! Inodes have handles, given by the step that created them, because the numbers are the engine's to choose.
//! An operation that must fail gives the kinds of error that are right; where the contract leaves the order of
//! the checks open there are several.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use storage_engine::{ErrorKind, NodeKind, RenameMode};

use crate::content::Content;

/// Who an inode is to the model, in every timeline that inherits it.
pub type Handle = u32;
pub const ROOT: Handle = 0;
/// Unix time in nanoseconds.
pub type Nanos = i128;

/// What the model says: a value, or the kinds of error that are right.
pub type Expected<T> = Result<T, Vec<ErrorKind>>;

#[derive(Clone, Debug)]
pub enum Body {
    File(Content),
    Directory {
        entries: BTreeMap<Vec<u8>, Handle>,
        parent: Handle,
    },
    Symlink(Vec<u8>),
    Special,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: NodeKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub nlink: u32,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
    pub btime: Nanos,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
    /// Created without a name and never linked since: the only inode without links that may be linked.
    pub linkable: bool,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    pub uid: u32,
    pub gid: u32,
    pub now: Nanos,
}

#[derive(Clone, Debug)]
pub struct NewInode {
    pub handle: Handle,
    pub kind: NodeKind,
    pub mode: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
}

/// Attributes to change; the same meaning as the engine's.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Option<Nanos>>,
    pub mtime: Option<Option<Nanos>>,
    pub ctime: Option<Nanos>,
    pub kill_priv: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    Reserve { keep_size: bool },
    Punch,
    Zero { keep_size: bool },
}

#[derive(Clone, Debug)]
pub struct Fs {
    pub nodes: BTreeMap<Handle, Arc<Node>>,
    /// Every inode that was ever made in this lineage: no number is used twice in it.
    pub born: Arc<BTreeSet<Handle>>,
}

pub fn deny<T>(kinds: &[ErrorKind]) -> Expected<T> {
    Err(kinds.to_vec())
}

/// Kinds of error for a name that no directory can hold.
fn name_faults(name: &[u8]) -> Vec<ErrorKind> {
    let mut faults = Vec::new();
    if name.len() > 255 {
        faults.push(ErrorKind::NameTooLong);
    }
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0)
    {
        faults.extend([
            ErrorKind::InvalidArgument,
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
        ]);
    }
    faults
}

/// Size no file can pass.
pub const MAX_SIZE: u64 = (128 << 10) << 32;

impl Fs {
    pub fn new(now: Nanos) -> Fs {
        let root = Node {
            kind: NodeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            nlink: 2,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: BTreeMap::new(),
            body: Body::Directory {
                entries: BTreeMap::new(),
                parent: ROOT,
            },
            linkable: false,
        };
        Fs {
            nodes: BTreeMap::from([(ROOT, Arc::new(root))]),
            born: Arc::new(BTreeSet::from([ROOT])),
        }
    }

    pub fn node(&self, handle: Handle) -> Expected<&Node> {
        self.nodes
            .get(&handle)
            .map(|node| &**node)
            .ok_or(vec![ErrorKind::Stale, ErrorKind::NotFound])
    }

    pub fn node_mut(&mut self, handle: Handle) -> Expected<&mut Node> {
        self.nodes
            .get_mut(&handle)
            .map(Arc::make_mut)
            .ok_or(vec![ErrorKind::Stale, ErrorKind::NotFound])
    }

    pub fn entries(&self, handle: Handle) -> Expected<&BTreeMap<Vec<u8>, Handle>> {
        match &self.node(handle)?.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => deny(&[ErrorKind::NotADirectory]),
        }
    }

    fn entries_mut(&mut self, handle: Handle) -> Expected<&mut BTreeMap<Vec<u8>, Handle>> {
        match &mut self.node_mut(handle)?.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => deny(&[ErrorKind::NotADirectory]),
        }
    }

    pub fn content(&self, handle: Handle) -> Expected<&Content> {
        match &self.node(handle)?.body {
            Body::File(content) => Ok(content),
            Body::Directory { .. } => deny(&[ErrorKind::IsADirectory]),
            _ => deny(&[ErrorKind::InvalidArgument, ErrorKind::NotSupported]),
        }
    }

    pub fn file_size(&self, handle: Handle) -> Option<u64> {
        self.content(handle).ok().map(|content| content.size)
    }

    pub fn is_directory(&self, handle: Handle) -> bool {
        self.entries(handle).is_ok()
    }

    /// Inodes without a link.
    pub fn orphans(&self) -> Vec<Handle> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.nlink == 0)
            .map(|(&handle, _)| handle)
            .collect()
    }

    pub fn parent(&self, handle: Handle) -> Option<Handle> {
        match &self.node(handle).ok()?.body {
            Body::Directory { parent, .. } => Some(*parent),
            _ => None,
        }
    }

    /// Whether `inner` is `outer` or lies below it.
    fn within(&self, mut inner: Handle, outer: Handle) -> bool {
        loop {
            if inner == outer {
                return true;
            }
            match self.parent(inner) {
                Some(parent) if inner != ROOT => inner = parent,
                _ => return false,
            }
        }
    }

    pub fn lookup(&self, parent: Handle, name: &[u8]) -> Expected<Handle> {
        let faults = name_faults(name);
        let entries = match self.entries(parent) {
            Ok(entries) if faults.is_empty() => entries,
            Ok(_) => return Err(faults),
            Err(kinds) => return Err(faults.into_iter().chain(kinds).collect()),
        };
        entries.get(name).copied().ok_or(vec![ErrorKind::NotFound])
    }

    /// Checks of everything that puts a new name into a directory.
    fn may_add(&self, parent: Handle, name: &[u8]) -> Expected<()> {
        let faults = name_faults(name);
        let entries = match self.entries(parent) {
            Ok(entries) if faults.is_empty() => entries,
            Ok(_) => return Err(faults),
            Err(kinds) => return Err(faults.into_iter().chain(kinds).collect()),
        };
        if self.node(parent)?.nlink == 0 {
            return deny(&[ErrorKind::NotFound, ErrorKind::Stale]);
        }
        if entries.contains_key(name) {
            return deny(&[ErrorKind::AlreadyExists]);
        }
        Ok(())
    }

    fn touch_directory(&mut self, handle: Handle, now: Nanos) -> Expected<()> {
        let node = self.node_mut(handle)?;
        node.mtime = now;
        node.ctime = now;
        Ok(())
    }

    fn new_node(&self, actor: Actor, parent: Handle, new: &NewInode) -> Expected<Node> {
        let up = self.node(parent)?;
        let inherits = up.mode & 0o2000 != 0;
        let directory = new.kind == NodeKind::Directory;
        Ok(Node {
            kind: new.kind,
            mode: match new.kind {
                NodeKind::Symlink => 0o777,
                NodeKind::Directory if inherits => new.mode & 0o7777 | 0o2000,
                _ => new.mode & 0o7777,
            },
            uid: actor.uid,
            gid: if inherits { up.gid } else { actor.gid },
            rdev: if matches!(new.kind, NodeKind::CharDevice | NodeKind::BlockDevice) {
                new.rdev
            } else {
                0
            },
            nlink: if directory { 2 } else { 1 },
            atime: actor.now,
            mtime: actor.now,
            ctime: actor.now,
            btime: actor.now,
            xattrs: BTreeMap::new(),
            body: match new.kind {
                NodeKind::File => Body::File(Content::default()),
                NodeKind::Directory => Body::Directory {
                    entries: BTreeMap::new(),
                    parent,
                },
                NodeKind::Symlink => Body::Symlink(new.target.clone()),
                _ => Body::Special,
            },
            linkable: false,
        })
    }

    pub fn create(
        &mut self,
        actor: Actor,
        parent: Handle,
        name: &[u8],
        new: &NewInode,
    ) -> Expected<()> {
        self.may_add(parent, name)?;
        if new.kind == NodeKind::Symlink && new.target.is_empty() {
            return deny(&[ErrorKind::InvalidArgument, ErrorKind::NotFound]);
        }
        let node = self.new_node(actor, parent, new)?;
        self.insert(new.handle, node);
        self.entries_mut(parent)?.insert(name.to_vec(), new.handle);
        if new.kind == NodeKind::Directory {
            self.node_mut(parent)?.nlink += 1;
        }
        self.touch_directory(parent, actor.now)
    }

    pub fn create_unlinked(
        &mut self,
        actor: Actor,
        parent: Handle,
        mode: u32,
        handle: Handle,
    ) -> Expected<()> {
        self.entries(parent)?;
        if self.node(parent)?.nlink == 0 {
            return deny(&[ErrorKind::NotFound, ErrorKind::Stale]);
        }
        let new = NewInode {
            handle,
            kind: NodeKind::File,
            mode,
            rdev: 0,
            target: Vec::new(),
        };
        let mut node = self.new_node(actor, parent, &new)?;
        node.nlink = 0;
        node.linkable = true;
        self.insert(handle, node);
        Ok(())
    }

    fn insert(&mut self, handle: Handle, node: Node) {
        self.nodes.insert(handle, Arc::new(node));
        Arc::make_mut(&mut self.born).insert(handle);
    }

    /// None: the contract does not say (an unlinked inode that once had a name), nothing is done.
    pub fn link(
        &mut self,
        actor: Actor,
        handle: Handle,
        parent: Handle,
        name: &[u8],
    ) -> Option<Expected<()>> {
        if let Ok(node) = self.node(handle)
            && node.nlink == 0
            && !node.linkable
        {
            return None;
        }
        Some(self.link_known(actor, handle, parent, name))
    }

    fn link_known(
        &mut self,
        actor: Actor,
        handle: Handle,
        parent: Handle,
        name: &[u8],
    ) -> Expected<()> {
        let mut faults = Vec::new();
        match self.node(handle) {
            Err(kinds) => faults.extend(kinds),
            Ok(node) if node.kind == NodeKind::Directory => {
                faults.push(ErrorKind::PermissionDenied)
            }
            Ok(_) => {}
        }
        if let Err(kinds) = self.may_add(parent, name) {
            faults.extend(kinds);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let node = self.node_mut(handle)?;
        node.nlink += 1;
        node.ctime = actor.now;
        node.linkable = false;
        self.entries_mut(parent)?.insert(name.to_vec(), handle);
        self.touch_directory(parent, actor.now)
    }

    /// One link of a non-directory, or the only one of a directory, is gone.
    fn drop_link(&mut self, handle: Handle, now: Nanos) -> Expected<()> {
        let node = self.node_mut(handle)?;
        node.nlink = if node.kind == NodeKind::Directory {
            0
        } else {
            node.nlink - 1
        };
        node.ctime = now;
        Ok(())
    }

    pub fn unlink(&mut self, actor: Actor, parent: Handle, name: &[u8]) -> Expected<()> {
        let handle = self.lookup(parent, name)?;
        if self.is_directory(handle) {
            return deny(&[ErrorKind::IsADirectory]);
        }
        self.entries_mut(parent)?.remove(name);
        self.drop_link(handle, actor.now)?;
        self.touch_directory(parent, actor.now)
    }

    pub fn rmdir(&mut self, actor: Actor, parent: Handle, name: &[u8]) -> Expected<()> {
        let handle = self.lookup(parent, name)?;
        if !self.entries(handle)?.is_empty() {
            return deny(&[ErrorKind::NotEmpty]);
        }
        self.entries_mut(parent)?.remove(name);
        self.drop_link(handle, actor.now)?;
        self.node_mut(parent)?.nlink -= 1;
        self.touch_directory(parent, actor.now)
    }

    pub fn rename(
        &mut self,
        actor: Actor,
        from: (Handle, &[u8]),
        to: (Handle, &[u8]),
        mode: RenameMode,
    ) -> Expected<()> {
        let source = self.lookup(from.0, from.1);
        let target = match self.lookup(to.0, to.1) {
            Ok(target) => Ok(Some(target)),
            Err(kinds) if kinds == [ErrorKind::NotFound] => Ok(None),
            Err(kinds) => Err(kinds),
        };
        let (source, target) = match (source, target) {
            (Ok(source), Ok(target)) => (source, target),
            (source, target) => {
                return Err([source.err(), target.err()]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect());
            }
        };
        let mut faults = Vec::new();
        if self.node(to.0)?.nlink == 0 {
            faults.extend([ErrorKind::NotFound, ErrorKind::Stale]);
        }
        let source_is_directory = self.is_directory(source);
        if source_is_directory && self.within(to.0, source) {
            faults.push(ErrorKind::InvalidArgument);
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => faults.push(ErrorKind::AlreadyExists),
            (RenameMode::Exchange, None) => faults.push(ErrorKind::NotFound),
            (RenameMode::Exchange, Some(target)) => {
                if self.is_directory(target) && self.within(from.0, target) {
                    faults.push(ErrorKind::InvalidArgument);
                }
            }
            (RenameMode::Replace, Some(target)) if target != source => {
                match (source_is_directory, self.is_directory(target)) {
                    (true, false) => faults.push(ErrorKind::NotADirectory),
                    (false, true) => faults.push(ErrorKind::IsADirectory),
                    (true, true) | (false, false) => {}
                }
                // An ancestor of the source is a target that is not empty, whatever else is wrong with it.
                if self
                    .entries(target)
                    .is_ok_and(|entries| !entries.is_empty())
                {
                    faults.push(ErrorKind::NotEmpty);
                }
            }
            _ => {}
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if target == Some(source) {
            return Ok(());
        }
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                self.place(target, (to.0, to.1), (from.0, from.1), actor.now)?;
                self.place(source, (from.0, from.1), (to.0, to.1), actor.now)?;
            }
            _ => {
                if let Some(target) = target {
                    if self.is_directory(target) {
                        self.node_mut(to.0)?.nlink -= 1;
                    }
                    self.drop_link(target, actor.now)?;
                }
                self.entries_mut(from.0)?.remove(from.1);
                self.place(source, (from.0, from.1), (to.0, to.1), actor.now)?;
            }
        }
        self.touch_directory(from.0, actor.now)?;
        self.touch_directory(to.0, actor.now)
    }

    /// Puts an inode under its new name and moves what hangs on it: `..`, the link counts of both parents.
    fn place(
        &mut self,
        handle: Handle,
        from: (Handle, &[u8]),
        to: (Handle, &[u8]),
        now: Nanos,
    ) -> Expected<()> {
        self.entries_mut(to.0)?.insert(to.1.to_vec(), handle);
        let node = self.node_mut(handle)?;
        node.ctime = now;
        if let Body::Directory { parent, .. } = &mut node.body {
            *parent = to.0;
            self.node_mut(from.0)?.nlink -= 1;
            self.node_mut(to.0)?.nlink += 1;
        }
        Ok(())
    }
}
