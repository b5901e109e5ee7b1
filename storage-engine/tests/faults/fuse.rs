//! The strict disk as a file system that programs can use: the whole data directory, RocksDB's files too,
//! stands on it.
//!
//! It runs in a process of its own. Were it in the one that uses it, a request in flight when that ends would
//! wait for a server that is gone, for ever; so the kernel ends it when the server's descriptor closes, and
//! the server unmounts when its peer has gone. What it is told are lines on a socket:
//! `mount DISK DIRECTORY`, `unmount DISK`, `arm DISK CALLS SEED` (power is lost before that many more calls
//! have been done), `cut DISK` (now, if it was not yet; gives the number of the disk as it is then).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use crate::disk::{Change, Disk, Entry, NameChange};
use crate::rng::Rng;

/// Names the socket of a server; the test that is the server does nothing without it.
const SOCKET: &str = "ANABRANCH_FUSE_SOCKET";
/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;
const BLOCK: u32 = 4096;

struct Served {
    disk: Disk,
    rng: Rng,
    /// Calls until power is lost.
    armed: Option<u64>,
    /// What is left then.
    cut: Option<Disk>,
}

impl Served {
    /// Before something is changed.
    fn call(&mut self) {
        match &mut self.armed {
            Some(0) => self.lose_power(),
            Some(n) => *n -= 1,
            None => {}
        }
    }

    fn lose_power(&mut self) {
        self.armed = None;
        if self.cut.is_none() {
            self.cut = Some(self.disk.after_power_loss(&mut self.rng));
        }
    }

    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, size, perm) = match entry(ino) {
            Entry::Directory(n) => {
                self.disk.directories.get(n)?;
                (FileType::Directory, 0, 0o755)
            }
            Entry::File(n) => {
                let image = &self.disk.nodes.get(n)?.now;
                let perm = if image.sealed { 0o400 } else { 0o644 };
                (FileType::RegularFile, image.bytes.len() as u64, perm)
            }
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        })
    }
}

fn ino(entry: Entry) -> u64 {
    match entry {
        Entry::Directory(n) => 2 * n as u64 + 1,
        Entry::File(n) => 2 * n as u64 + 2,
    }
}

fn entry(ino: u64) -> Entry {
    if ino.is_multiple_of(2) {
        Entry::File((ino / 2 - 1) as usize)
    } else {
        Entry::Directory((ino / 2) as usize)
    }
}

fn directory(ino: INodeNo) -> Result<usize, Errno> {
    match entry(ino.0) {
        Entry::Directory(n) => Ok(n),
        Entry::File(_) => Err(Errno::ENOTDIR),
    }
}

fn file(ino: INodeNo) -> Result<usize, Errno> {
    match entry(ino.0) {
        Entry::File(n) => Ok(n),
        Entry::Directory(_) => Err(Errno::EISDIR),
    }
}

struct Strict(Arc<Mutex<Served>>);

impl Strict {
    fn served(&self) -> MutexGuard<'_, Served> {
        self.0.lock().unwrap()
    }

    fn made(
        &self,
        parent: INodeNo,
        name: &OsStr,
        make: impl FnOnce(&mut Disk, usize) -> Entry,
    ) -> Result<FileAttr, Errno> {
        let mut served = self.served();
        served.call();
        let parent = directory(parent)?;
        if served.disk.find(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let entry = make(&mut served.disk, parent);
        served.attr(ino(entry)).ok_or(Errno::EIO)
    }

    fn change(&self, ino: INodeNo, change: Change) -> Result<(), Errno> {
        let mut served = self.served();
        served.call();
        served.disk.nodes[file(ino)?].change(change);
        Ok(())
    }

    fn removed(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let mut served = self.served();
        served.call();
        let parent = directory(parent)?;
        match served.disk.find(parent, name) {
            None => return Err(Errno::ENOENT),
            Some(Entry::Directory(n)) if !served.disk.directories[n].now.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            Some(_) => {}
        }
        served.disk.directories[parent].change(NameChange::Remove(name.to_owned()));
        Ok(())
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(e),
    }
}

impl Filesystem for Strict {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let served = self.served();
        let found = directory(parent)
            .ok()
            .and_then(|n| served.disk.find(n, name))
            .and_then(|e| served.attr(ino(e)));
        match found {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.served().attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut served = self.served();
        served.call();
        if let Ok(n) = file(ino) {
            if let Some(size) = size {
                served.disk.nodes[n].change(Change::Len(size));
            }
            if mode.is_some_and(|mode| mode & 0o222 == 0) {
                served.disk.nodes[n].change(Change::Seal);
            }
        }
        match served.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.made(parent, name, |disk, parent| {
            Entry::Directory(disk.make_directory(parent, name))
        });
        match made {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.made(parent, name, |disk, parent| {
            Entry::File(disk.create(parent, name))
        });
        match made {
            Ok(attr) => reply.created(
                &TTL,
                &attr,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(e) => reply.error(e),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.removed(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(reply, self.removed(parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = || -> Result<(), Errno> {
            if parent != new_parent || !flags.is_empty() {
                return Err(Errno::EXDEV);
            }
            let mut served = self.served();
            served.call();
            let n = directory(parent)?;
            if served.disk.find(n, name).is_none() {
                return Err(Errno::ENOENT);
            }
            let change = NameChange::Rename(name.to_owned(), new_name.to_owned());
            served.disk.directories[n].change(change);
            Ok(())
        };
        answer(reply, renamed());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let served = self.served();
        let Ok(n) = file(ino) else {
            return reply.error(Errno::EISDIR);
        };
        let bytes = &served.disk.nodes[n].now.bytes;
        let start = (offset as usize).min(bytes.len());
        let end = (start + size as usize).min(bytes.len());
        reply.data(&bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change(ino, Change::Write(offset, data.to_vec())) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => reply.error(e),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = || -> Result<(), Errno> {
            let mut served = self.served();
            served.call();
            let Served { disk, rng, .. } = &mut *served;
            disk.sync(file(ino)?, false, rng);
            Ok(())
        };
        answer(reply, synced());
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = || -> Result<(), Errno> {
            let mut served = self.served();
            served.call();
            let Served { disk, rng, .. } = &mut *served;
            disk.sync_directory(directory(ino)?, false, rng);
            Ok(())
        };
        answer(reply, synced());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let served = self.served();
        let Ok(n) = directory(ino) else {
            return reply.error(Errno::ENOTDIR);
        };
        let names = served.disk.directories[n].now.iter();
        for (at, (name, entry)) in (1..).zip(names).skip(offset as usize) {
            let kind = match entry {
                Entry::Directory(_) => FileType::Directory,
                Entry::File(_) => FileType::RegularFile,
            };
            if reply.add(INodeNo(self::ino(*entry)), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 24;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, BLOCK, 255, BLOCK);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const KEEP_SIZE: i32 = 1;
        const PUNCH_HOLE: i32 = 2;
        let size = self.served().attr(ino.0).map_or(0, |a| a.size);
        let done = match mode {
            0 if offset + length > size => self.change(ino, Change::Len(offset + length)),
            0 | KEEP_SIZE => Ok(()),
            m if m == KEEP_SIZE | PUNCH_HOLE => self.change(ino, Change::Punch(offset, length)),
            _ => Err(Errno::EOPNOTSUPP),
        };
        answer(reply, done);
    }
}

/// The server: serves disks until its peer has gone.
#[test]
fn fuse_server() {
    let Ok(path) = std::env::var(SOCKET) else {
        return;
    };
    let mut stream = UnixStream::connect(path).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut disks: Vec<Option<Disk>> = vec![Some(Disk::new())];
    let mut mounted: BTreeMap<usize, (Arc<Mutex<Served>>, BackgroundSession)> = BTreeMap::new();
    for line in lines {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let n: usize = words[1].parse().unwrap();
        let said = match words[0] {
            "mount" => {
                // Disk 0 is always a new one.
                let disk = match n {
                    0 => Disk::new(),
                    _ => disks[n].take().unwrap(),
                };
                let served = Arc::new(Mutex::new(Served {
                    disk,
                    rng: Rng::new(0),
                    armed: None,
                    cut: None,
                }));
                let mut config = Config::default();
                config.mount_options = vec![MountOption::FSName("anabranch-strict".into())];
                match fuser::spawn_mount(Strict(Arc::clone(&served)), words[2], &config) {
                    Ok(session) => {
                        mounted.insert(n, (served, session));
                        "ok".into()
                    }
                    Err(e) => format!("cannot mount: {e}"),
                }
            }
            "unmount" => {
                let (_, session) = mounted.remove(&n).unwrap();
                match session.umount_and_join() {
                    Ok(()) => "ok".into(),
                    Err(e) => format!("cannot unmount: {e}"),
                }
            }
            "arm" => {
                let mut numbers = words[2].split(' ').map(|w| w.parse::<u64>().unwrap());
                let mut served = mounted[&n].0.lock().unwrap();
                served.armed = numbers.next();
                served.rng = Rng::new(numbers.next().unwrap());
                served.cut = None;
                "ok".into()
            }
            "cut" => {
                let mut served = mounted[&n].0.lock().unwrap();
                served.lose_power();
                disks.push(served.cut.take());
                (disks.len() - 1).to_string()
            }
            other => panic!("what is {other}?"),
        };
        if writeln!(stream, "{said}").is_err() {
            break;
        }
    }
    for (_, (_, session)) in mounted {
        let _ = session.umount_and_join();
    }
}

/// A server process, and its mounts.
pub struct Server {
    child: Child,
    stream: BufReader<UnixStream>,
    directory: tempfile::TempDir,
    mounts: BTreeMap<usize, PathBuf>,
}

impl Server {
    pub fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "fuse::fuse_server",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(SOCKET, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        Server {
            child,
            stream: BufReader::new(stream),
            directory,
            mounts: BTreeMap::new(),
        }
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        writeln!(self.stream.get_mut(), "{line}").map_err(|e| e.to_string())?;
        let mut said = String::new();
        self.stream
            .read_line(&mut said)
            .map_err(|e| e.to_string())?;
        Ok(said.trim().to_owned())
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        match self.ask(line)?.as_str() {
            "ok" => Ok(()),
            other => Err(format!("{line}: {other}")),
        }
    }

    /// Mounts a disk; 0 is a new one.
    pub fn mount(&mut self, disk: usize) -> Result<PathBuf, String> {
        let at = self.directory.path().join(disk.to_string());
        std::fs::create_dir_all(&at).map_err(|e| e.to_string())?;
        self.tell(&format!("mount {disk} {}", at.display()))?;
        self.mounts.insert(disk, at.clone());
        Ok(at)
    }

    pub fn unmount(&mut self, disk: usize) -> Result<(), String> {
        self.tell(&format!("unmount {disk}"))?;
        self.mounts.remove(&disk);
        Ok(())
    }

    /// Power is lost after so many calls.
    pub fn arm(&mut self, disk: usize, calls: u64, seed: u64) -> Result<(), String> {
        self.tell(&format!("arm {disk} {calls} {seed}"))
    }

    /// The disk as it is after the loss of power.
    pub fn cut(&mut self, disk: usize) -> Result<usize, String> {
        let said = self.ask(&format!("cut {disk}"))?;
        said.parse().map_err(|_| format!("cut: {said}"))
    }
}

impl Drop for Server {
    /// Also when the test has panicked: no mount is left behind.
    fn drop(&mut self) {
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Both);
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for at in self.mounts.values() {
            unmount_anyhow(at);
        }
    }
}

fn unmount_anyhow(at: &Path) {
    let flags = rustix::mount::UnmountFlags::DETACH;
    if rustix::mount::unmount(at, flags).is_err() {
        let _ = Command::new("fusermount3")
            .args(["-u", "-z"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
    }
}
