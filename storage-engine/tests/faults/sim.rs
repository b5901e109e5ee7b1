//! A file system in memory, behind the engine's trait, that fails on purpose and loses power. RocksDB's files
//! are real ones beside it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use storage_engine::fs::{Access, File, FileSystem, Metadata};

use crate::disk::{Change, Disk, Entry, NameChange, Node};
use crate::rng::Rng;

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Io,
    NoSpace,
    /// Part of the bytes are written or read, which is said.
    Short,
    /// Part of the bytes are written, and an error is returned.
    Torn,
}

pub const FAULTS: [Fault; 4] = [Fault::Io, Fault::NoSpace, Fault::Short, Fault::Torn];

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    /// The call with this number, counted from 0, fails like this.
    pub fail_at: Option<(u64, Fault)>,
    /// So many more behind it fail in the same way.
    pub and_more: u64,
    /// Of a thousand calls, so many fail.
    pub per_mille: u64,
    /// Power is lost at the call with this number: it and all later ones do nothing.
    pub cut_at: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Sync,
    Name,
}

#[derive(Clone, Debug)]
struct State {
    disk: Disk,
    rng: Rng,
    plan: Plan,
    calls: u64,
    injected: Vec<(u64, Fault)>,
    off: bool,
}

/// The file system. Paths are those of a real directory, in which RocksDB works.
#[derive(Clone, Debug)]
pub struct Sim {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOSPC: i32 = 28;

impl Sim {
    pub fn new(root: &Path, seed: u64) -> Sim {
        std::fs::create_dir_all(root).unwrap();
        let state = State {
            disk: Disk::new(),
            rng: Rng::new(seed),
            plan: Plan::default(),
            calls: 0,
            injected: Vec::new(),
            off: false,
        };
        Sim {
            root: root.to_owned(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts counting calls, and makes them fail.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.state();
        state.plan = plan;
        state.calls = 0;
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The calls that failed since the start.
    pub fn injected(&self) -> Vec<(u64, Fault)> {
        self.state().injected.clone()
    }

    pub fn is_off(&self) -> bool {
        self.state().off
    }

    /// Nothing works any more: what is done from now on happens after the end.
    pub fn turn_off(&self) {
        self.state().off = true;
    }

    /// What is there after the machine has lost power.
    pub fn after_power_loss(&self, root: &Path, seed: u64) -> Sim {
        let mut state = self.state().clone();
        state.disk = state.disk.after_power_loss(&mut Rng::new(seed));
        self.again(root, state, seed)
    }

    /// What is there after the process has been killed: all it wrote, durable or not.
    pub fn after_kill(&self, root: &Path, seed: u64) -> Sim {
        let state = self.state().clone();
        self.again(root, state, seed)
    }

    fn again(&self, root: &Path, mut state: State, seed: u64) -> Sim {
        state.off = false;
        state.plan = Plan::default();
        state.calls = 0;
        state.injected.clear();
        state.rng = Rng::new(seed);
        std::fs::create_dir_all(root).unwrap();
        let sim = Sim {
            root: root.to_owned(),
            state: Arc::new(Mutex::new(state)),
        };
        sim.make_real(0, root);
        sim
    }

    /// RocksDB and the lock need their directories.
    fn make_real(&self, directory: usize, path: &Path) {
        std::fs::create_dir_all(path).unwrap();
        let below: Vec<(OsString, usize)> = self.state().disk.directories[directory]
            .now
            .iter()
            .filter_map(|(name, entry)| match entry {
                Entry::Directory(n) => Some((name.clone(), *n)),
                Entry::File(_) => None,
            })
            .collect();
        for (name, n) in below {
            self.make_real(n, &path.join(name));
        }
    }

    fn relative<'p>(&self, path: &'p Path) -> io::Result<&'p Path> {
        path.strip_prefix(&self.root)
            .map_err(|_| io::Error::other(format!("{} is elsewhere", path.display())))
    }
}

impl State {
    /// Counts a call; tells what happens to it.
    fn call(&mut self, kind: Kind) -> io::Result<Option<Fault>> {
        let n = self.calls;
        self.calls += 1;
        if self.plan.cut_at.is_some_and(|at| n >= at) {
            self.off = true;
        }
        if self.off {
            return Err(error(EIO));
        }
        let fault = match self.plan.fail_at {
            Some((at, fault)) if (at..=at + self.plan.and_more).contains(&n) => Some(fault),
            _ if self.plan.per_mille > 0 && self.rng.below(1000) < self.plan.per_mille => {
                Some(*self.rng.pick(&FAULTS))
            }
            _ => None,
        };
        let Some(fault) = fault else {
            return Ok(None);
        };
        self.injected.push((n, fault));
        match (kind, fault) {
            (Kind::Write, Fault::Short | Fault::Torn) | (Kind::Read, Fault::Short) => {
                Ok(Some(fault))
            }
            (Kind::Sync, _) => Ok(Some(fault)),
            (Kind::Write | Kind::Name, Fault::NoSpace) => Err(error(ENOSPC)),
            _ => Err(error(EIO)),
        }
    }

    fn directory(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for name in path.iter() {
            match self.disk.directories[at].now.get(name) {
                Some(Entry::Directory(n)) => at = *n,
                _ => return Err(error(ENOENT)),
            }
        }
        Ok(at)
    }

    fn parent<'p>(&self, path: &'p Path) -> io::Result<(usize, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| error(ENOENT))?;
        Ok((
            self.directory(path.parent().unwrap_or(Path::new("")))?,
            name,
        ))
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        let (directory, name) = self.parent(path)?;
        match self.disk.directories[directory].now.get(name) {
            Some(Entry::File(n)) => Ok(*n),
            _ => Err(error(ENOENT)),
        }
    }
}

impl FileSystem for Sim {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let relative = self.relative(path)?;
        let mut state = self.state();
        let kind = match access {
            Access::Read | Access::Write => Kind::Read,
            Access::CreateNew | Access::Replace => Kind::Name,
        };
        if state.call(kind)?.is_some() {
            return Err(error(EIO));
        }
        let node = match (state.file(relative), access) {
            (Ok(_), Access::CreateNew) => return Err(error(EEXIST)),
            (Ok(n), Access::Replace) => {
                state.disk.nodes[n].change(Change::Len(0));
                n
            }
            (Ok(n), _) => n,
            (Err(e), Access::Read | Access::Write) => return Err(e),
            (Err(_), _) => {
                let (directory, name) = state.parent(relative)?;
                state.disk.create(directory, name)
            }
        };
        Ok(Arc::new(Handle {
            sim: self.clone(),
            node,
        }))
    }

    fn open_descriptor(&self, _path: &Path) -> io::Result<std::fs::File> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let relative = self.relative(path)?;
        let mut state = self.state();
        if state.call(Kind::Read)?.is_some() {
            return Err(error(EIO));
        }
        if state.directory(relative).is_ok() {
            return Ok(Metadata {
                len: 0,
                stored: 0,
                writable: true,
                directory: true,
            });
        }
        let node = state.file(relative)?;
        Ok(metadata(&state.disk.nodes[node]))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let relative = self.relative(dir)?;
        let mut state = self.state();
        if state.call(Kind::Read)?.is_some() {
            return Err(error(EIO));
        }
        let at = state.directory(relative)?;
        Ok(state.disk.directories[at].now.keys().cloned().collect())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let relative = self.relative(dir)?;
        let mut state = self.state();
        if state.call(Kind::Name)?.is_some() {
            return Err(error(EIO));
        }
        let mut at = 0;
        for name in relative.iter() {
            at = match state.disk.directories[at].now.get(name) {
                Some(Entry::Directory(n)) => *n,
                Some(Entry::File(_)) => return Err(error(EEXIST)),
                None => state.disk.make_directory(at, name),
            };
        }
        std::fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.relative(from)?, self.relative(to)?);
        let mut state = self.state();
        if state.call(Kind::Name)?.is_some() {
            return Err(error(EIO));
        }
        state.file(from)?;
        let (directory, from) = state.parent(from)?;
        let (target, to) = state.parent(to)?;
        assert_eq!(directory, target, "the engine renames within a directory");
        state.disk.directories[directory]
            .change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let relative = self.relative(path)?;
        let mut state = self.state();
        if state.call(Kind::Name)?.is_some() {
            return Err(error(EIO));
        }
        state.file(relative)?;
        let (directory, name) = state.parent(relative)?;
        state.disk.directories[directory].change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let relative = self.relative(dir)?;
        let mut state = self.state();
        let failed = state.call(Kind::Sync)?;
        let at = state.directory(relative)?;
        let State { disk, rng, .. } = &mut *state;
        disk.sync_directory(at, failed.is_some(), rng);
        match failed {
            Some(Fault::NoSpace) => Err(error(ENOSPC)),
            Some(_) => Err(error(EIO)),
            None => Ok(()),
        }
    }
}

fn metadata(node: &Node) -> Metadata {
    let len = node.now.bytes.len() as u64;
    Metadata {
        len,
        stored: len,
        writable: !node.now.sealed,
        directory: false,
    }
}

#[derive(Debug)]
struct Handle {
    sim: Sim,
    node: usize,
}

impl Handle {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.sim.state();
        let failed = state.call(Kind::Sync)?;
        let State { disk, rng, .. } = &mut *state;
        disk.sync(self.node, failed.is_some(), rng);
        match failed {
            Some(Fault::NoSpace) => Err(error(ENOSPC)),
            Some(_) => Err(error(EIO)),
            None => Ok(()),
        }
    }

    fn change(&self, kind: Kind, change: Change) -> io::Result<()> {
        let mut state = self.sim.state();
        if state.call(kind)?.is_some() {
            return Err(error(EIO));
        }
        state.disk.nodes[self.node].change(change);
        Ok(())
    }
}

impl File for Handle {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        let short = state.call(Kind::Read)?.is_some();
        let bytes = &state.disk.nodes[self.node].now.bytes;
        let start = (offset as usize).min(bytes.len());
        let mut n = out.len().min(bytes.len() - start);
        if short && n > 1 {
            n /= 2;
        }
        out[..n].copy_from_slice(&bytes[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        let fault = state.call(Kind::Write)?;
        let n = match fault {
            Some(_) => (state.rng.below(bytes.len() as u64) as usize).max(1),
            None => bytes.len(),
        };
        state.disk.nodes[self.node].change(Change::Write(offset, bytes[..n].to_vec()));
        match fault {
            Some(Fault::Torn) => Err(error(EIO)),
            _ => Ok(n),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Kind::Write, Change::Len(len))
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let longer = self.sim.state().disk.nodes[self.node].now.bytes.len() as u64;
        self.change(Kind::Write, Change::Len(len.max(longer)))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(Kind::Write, Change::Punch(offset, len))
    }

    fn is_hole(&self, from: u64, to: u64) -> bool {
        let state = self.sim.state();
        let bytes = &state.disk.nodes[self.node].now.bytes;
        let end = (to as usize).min(bytes.len());
        let start = (from as usize).min(end);
        bytes[start..end].iter().all(|b| *b == 0)
    }

    fn seal(&self) -> io::Result<()> {
        self.change(Kind::Write, Change::Seal)
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let mut state = self.sim.state();
        if state.call(Kind::Read)?.is_some() {
            return Err(error(EIO));
        }
        Ok(metadata(&state.disk.nodes[self.node]))
    }
}
