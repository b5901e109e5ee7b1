//! What a disk holds: for every file and directory what is durable, and the changes made since.
//!
//! A loss of power applies any of those changes, each or not, whole or torn at sectors, as the strictest reading
//! of POSIX allows: the name of a file that was synced is gone when its directory was not.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::rng::Rng;

/// A disk writes so many bytes at once or not at all.
const SECTOR: u64 = 512;

#[derive(Clone, Debug)]
pub enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
    Punch(u64, u64),
    Seal,
}

#[derive(Clone, Debug, Default)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub sealed: bool,
}

impl Image {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, bytes) => {
                let end = *offset as usize + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[*offset as usize..end].copy_from_slice(bytes);
            }
            Change::Len(len) => self.bytes.resize(*len as usize, 0),
            Change::Punch(offset, len) => {
                let end = ((offset + len) as usize).min(self.bytes.len());
                let start = (*offset as usize).min(end);
                self.bytes[start..end].fill(0);
            }
            Change::Seal => self.sealed = true,
        }
    }

    /// Any part of a change, at the whim of the disk.
    fn apply_some(&mut self, change: &Change, rng: &mut Rng) {
        match (rng.below(4), change) {
            (0, _) => {}
            (1, Change::Write(offset, bytes)) => {
                // Some of its sectors, in no order; or all but a stretch of them.
                let (from, len) = (rng.below(bytes.len() as u64), rng.below(20) * SECTOR);
                let stretch = rng.chance(50).then_some(from..from + len);
                let mut at = 0;
                while at < bytes.len() {
                    let here = offset + at as u64;
                    let n = ((SECTOR - here % SECTOR) as usize).min(bytes.len() - at);
                    let written = match &stretch {
                        Some(lost) => !lost.contains(&(at as u64)),
                        None => rng.chance(50),
                    };
                    if written {
                        self.apply(&Change::Write(here, bytes[at..at + n].to_vec()));
                    }
                    at += n;
                }
            }
            _ => self.apply(change),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub now: Image,
    pub durable: Image,
    pub pending: Vec<Change>,
}

impl Node {
    pub fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.pending.push(change);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    File(usize),
    Directory(usize),
}

#[derive(Clone, Debug)]
pub enum NameChange {
    Set(OsString, Entry),
    Remove(OsString),
    Rename(OsString, OsString),
}

pub type Names = BTreeMap<OsString, Entry>;

pub fn change_name(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Set(name, entry) => {
            names.insert(name.clone(), *entry);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(entry) = names.remove(from) {
                names.insert(to.clone(), entry);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub now: Names,
    pub durable: Names,
    pub pending: Vec<NameChange>,
}

impl Directory {
    pub fn change(&mut self, change: NameChange) {
        change_name(&mut self.now, &change);
        self.pending.push(change);
    }
}

/// Files and directories by number; directory 0 is the root.
#[derive(Clone, Debug)]
pub struct Disk {
    pub nodes: Vec<Node>,
    pub directories: Vec<Directory>,
}

impl Disk {
    pub fn new() -> Disk {
        Disk {
            nodes: Vec::new(),
            directories: vec![Directory::default()],
        }
    }

    pub fn find(&self, directory: usize, name: &OsStr) -> Option<Entry> {
        self.directories[directory].now.get(name).copied()
    }

    /// A new file under a name.
    pub fn create(&mut self, directory: usize, name: &OsStr) -> usize {
        let n = self.nodes.len();
        self.nodes.push(Node::default());
        self.directories[directory].change(NameChange::Set(name.to_owned(), Entry::File(n)));
        n
    }

    /// A new directory under a name.
    pub fn make_directory(&mut self, directory: usize, name: &OsStr) -> usize {
        let n = self.directories.len();
        self.directories.push(Directory::default());
        self.directories[directory].change(NameChange::Set(name.to_owned(), Entry::Directory(n)));
        n
    }

    /// A sync of a file. One that failed leaves some changes out for good: Linux reports a failed write-back
    /// once, and takes the pages for clean from then on.
    pub fn sync(&mut self, node: usize, failed: bool, rng: &mut Rng) {
        let node = &mut self.nodes[node];
        for change in std::mem::take(&mut node.pending) {
            if !failed || rng.chance(50) {
                node.durable.apply(&change);
            }
        }
    }

    /// A sync of a directory. What one that failed leaves out, the disk may still write by itself.
    pub fn sync_directory(&mut self, directory: usize, failed: bool, rng: &mut Rng) {
        let directory = &mut self.directories[directory];
        for change in std::mem::take(&mut directory.pending) {
            if failed && rng.chance(50) {
                directory.pending.push(change);
            } else {
                change_name(&mut directory.durable, &change);
            }
        }
    }

    /// What is there after a loss of power.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Disk {
        let mut lost = Disk {
            nodes: vec![Node::default(); self.nodes.len()],
            directories: vec![Directory::default(); self.directories.len()],
        };
        let mut left = vec![0];
        while let Some(n) = left.pop() {
            let mut names = self.directories[n].durable.clone();
            for change in &self.directories[n].pending {
                if rng.chance(50) {
                    change_name(&mut names, change);
                }
            }
            for entry in names.values() {
                match *entry {
                    Entry::Directory(below) => left.push(below),
                    Entry::File(f) => {
                        let mut image = self.nodes[f].durable.clone();
                        for change in &self.nodes[f].pending {
                            image.apply_some(change, rng);
                        }
                        lost.nodes[f].now = image.clone();
                        lost.nodes[f].durable = image;
                    }
                }
            }
            lost.directories[n].now = names.clone();
            lost.directories[n].durable = names;
        }
        lost
    }
}
