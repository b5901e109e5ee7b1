//! Makes the next step: mostly one that can succeed in the model's state, sometimes one that cannot. Names,
//! inodes and offsets come from small pools, so that things collide.

use storage_engine::{NodeKind, RenameMode, XattrMode};

use crate::fs::{Allocation, Change, Fs, Handle, MAX_SIZE, ROOT};
use crate::op::{At, FileOp, Limits, Name, Op, Place, Reopen, SPAN, Step, StepId};
use crate::rng::Rng;
use crate::world::World;

/// What a run is about: the weights of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Names and links.
    Tree,
    /// Bytes of a few files.
    Data,
    /// Forks, snapshots, restores, deletions.
    Lineage,
    /// Files of one timeline while others work beside it: the clock stands, every step is one commit.
    Alone,
    /// All of it, without what a process under `kill` cannot do (open its store again) and without what
    /// takes several commits.
    Killed,
}

pub struct Generator {
    pub rng: Rng,
    profile: Profile,
    next: StepId,
}

const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"dd", b"\xff\xfe", b"e e"];
const XATTRS: [&[u8]; 4] = [
    b"user.a",
    b"user.b",
    b"security.capability",
    b"trusted.overlay.opaque",
];
const TIMELINES: [&str; 8] = [
    "bucket/n/a",
    "bucket/n/b",
    "fork/n/a",
    "fork/n/b",
    "fork/n/c",
    "fork/n/d-0",
    "fork/n/d-1",
    "fork/n/e",
];
const SNAPSHOTS: [&str; 6] = [
    "snapshot/n/a",
    "snapshot/n/b",
    "snapshot/n/c",
    "snapshot/n/d",
    "snapshot/n/e",
    "snapshot/n/f",
];
/// Borders in a file: inline data, a checksum block, a chunk.
const BORDERS: [u64; 9] = [
    0, 512, 1024, 4096, 16_384, 32_768, 131_072, 147_456, 262_144,
];
/// An inode that never was.
const NOBODY: Handle = u32::MAX;
const MOST_NODES: usize = 60;

impl Generator {
    /// `first` is the number of the first step.
    pub fn new(seed: u64, profile: Profile, first: StepId) -> Generator {
        Generator {
            rng: Rng::new(seed),
            profile,
            next: first,
        }
    }

    pub fn step(&mut self, world: &World) -> Step {
        let id = self.next;
        self.next += SPAN;
        let clock = match self.rng.below(20) {
            _ if self.profile == Profile::Alone => 0,
            0..5 => 0,
            5 => 1,
            6..12 => 1_000,
            12..17 => 1_000_000,
            17..19 => 1_000_000_000,
            _ => -500_000_000,
        };
        Step {
            id,
            clock,
            op: self.op(world),
        }
    }

    fn op(&mut self, world: &World) -> Op {
        if world.timelines.is_empty() {
            return Op::CreateRoot {
                name: self.timeline_name(),
            };
        }
        let about_timelines = match self.profile {
            Profile::Tree | Profile::Data => 6,
            Profile::Killed => 15,
            Profile::Lineage => 35,
            Profile::Alone => 0,
        };
        if self.rng.chance(about_timelines) {
            self.timeline_op(world)
        } else {
            self.file_op(world)
        }
    }

    fn timeline_name(&mut self) -> String {
        (*self.rng.pick(&TIMELINES)).to_owned()
    }

    fn snapshot_name(&mut self) -> String {
        (*self.rng.pick(&SNAPSHOTS)).to_owned()
    }

    fn timeline(&mut self, world: &World) -> StepId {
        let all: Vec<StepId> = world.timelines.keys().copied().collect();
        if all.is_empty() || self.rng.chance(2) {
            NOBODY
        } else {
            *self.rng.pick(&all)
        }
    }

    fn snapshot(&mut self, world: &World) -> StepId {
        let all: Vec<StepId> = world.snapshots.keys().copied().collect();
        if all.is_empty() || self.rng.chance(2) {
            NOBODY
        } else {
            *self.rng.pick(&all)
        }
    }

    fn point(&mut self, world: &World) -> At {
        match self.rng.below(10) {
            0..5 => At::Now(self.timeline(world)),
            5..8 if !world.snapshots.is_empty() => At::Snapshot(self.snapshot(world)),
            8..10 if !world.history.is_empty() => {
                let step = self.rng.pick(&world.history).step;
                At::Closed(self.timeline(world), step)
            }
            _ => At::Now(self.timeline(world)),
        }
    }

    fn timeline_op(&mut self, world: &World) -> Op {
        // Few enough that all of them are compared often.
        if world.timelines.len() >= 7 {
            return Op::DeleteTimeline {
                timeline: self.timeline(world),
            };
        }
        if world.snapshots.len() >= 6 {
            return Op::DeleteSnapshot {
                snapshot: self.snapshot(world),
            };
        }
        match self.rng.below(100) {
            0..4 => Op::CreateRoot {
                name: self.timeline_name(),
            },
            4..22 => Op::Fork {
                name: self.timeline_name(),
                source: self.point(world),
            },
            22..29 => {
                let n = 1 + self.rng.below(3);
                Op::ForkGroup {
                    forks: (0..n)
                        .map(|_| (self.timeline_name(), self.point(world)))
                        .collect(),
                }
            }
            29..45 => Op::Snapshot {
                name: self.snapshot_name(),
                source: self.point(world),
            },
            45..51 => {
                let n = 1 + self.rng.below(3);
                Op::SnapshotGroup {
                    snapshots: (0..n)
                        .map(|_| (self.snapshot_name(), self.point(world)))
                        .collect(),
                }
            }
            51..60 => Op::Restore {
                timeline: self.timeline(world),
                source: self.point(world),
            },
            60..64 => Op::Rename {
                timeline: self.timeline(world),
                name: self.timeline_name(),
            },
            64..69 => Op::Settings {
                timeline: self.timeline(world),
                read_only: self.rng.chance(25),
                protected: self.rng.chance(25),
                limits: self.limits(),
            },
            69..75 => Op::DeleteTimeline {
                timeline: self.timeline(world),
            },
            75..80 => Op::DeleteSnapshot {
                snapshot: self.snapshot(world),
            },
            80..84 => {
                let steps: Vec<StepId> = world.creates.keys().copied().collect();
                match steps.is_empty() {
                    true => Op::Tick,
                    false => Op::Repeat {
                        step: *self.rng.pick(&steps),
                    },
                }
            }
            84..89 => Op::Tick,
            89..93 => Op::Collect,
            93..96 => Op::Sync,
            // A collection is killed in the middle as anything else.
            _ if self.profile == Profile::Killed => Op::Collect,
            _ => Op::Reopen {
                how: *self
                    .rng
                    .pick(&[Reopen::Clean, Reopen::Dropped, Reopen::WithoutIndex]),
            },
        }
    }

    fn limits(&mut self) -> Limits {
        let mut limits = Limits::default();
        // What a limit refuses depends on the engine's own count: a run that is killed is judged without.
        if matches!(self.profile, Profile::Killed | Profile::Alone) {
            return limits;
        }
        if self.rng.chance(60) {
            limits.retain_millis = *self.rng.pick(&[0, 1, 2_000]);
        }
        if self.rng.chance(30) {
            limits.bytes = Some(*self.rng.pick(&[0, 10_000, 150_000, 1_000_000]));
        }
        if self.rng.chance(30) {
            limits.inodes = Some(1 + self.rng.below(MOST_NODES as u64));
        }
        limits
    }

    fn file_op(&mut self, world: &World) -> Op {
        let place = if self.rng.chance(6) && !world.snapshots.is_empty() {
            Place::Snapshot(self.snapshot(world))
        } else {
            Place::Timeline(self.timeline(world))
        };
        let (uid, gid) = *self.rng.pick(&[(0, 0), (1000, 1000), (1000, 100)]);
        let empty = Fs::new(0);
        let fs = world.place(place);
        let op = self.in_state(fs.as_deref().unwrap_or(&empty));
        Op::File {
            place,
            uid,
            gid,
            op,
        }
    }

    fn name(&mut self) -> Name {
        match self.rng.below(200) {
            0 => Vec::new(),
            1 => vec![b'n'; 256],
            2 => b"x/y".to_vec(),
            3 => b"n\0".to_vec(),
            4..7 => vec![b'n'; 255],
            _ => self.rng.pick(&NAMES).to_vec(),
        }
    }

    /// A name that is there, or any.
    fn entry(&mut self, fs: &Fs) -> (Handle, Name) {
        let parent = self.directory(fs);
        if let Ok(entries) = fs.entries(parent)
            && !entries.is_empty()
            && self.rng.chance(85)
        {
            let names: Vec<&Name> = entries.keys().collect();
            return (parent, (*self.rng.pick(&names)).clone());
        }
        (parent, self.name())
    }

    fn inode(&mut self, fs: &Fs) -> Handle {
        let all: Vec<Handle> = fs.nodes.keys().copied().collect();
        if self.rng.chance(2) {
            // One that is gone, or never was.
            let born: Vec<Handle> = fs.born.iter().copied().collect();
            return if self.rng.chance(30) {
                NOBODY
            } else {
                *self.rng.pick(&born)
            };
        }
        *self.rng.pick(&all)
    }

    fn directory(&mut self, fs: &Fs) -> Handle {
        let all: Vec<Handle> = fs
            .nodes
            .keys()
            .copied()
            .filter(|&handle| fs.is_directory(handle))
            .collect();
        match self.rng.below(20) {
            0 => self.inode(fs),
            1..8 => ROOT,
            _ => *self.rng.pick(&all),
        }
    }

    fn file(&mut self, fs: &Fs) -> Handle {
        let all: Vec<Handle> = fs
            .nodes
            .keys()
            .copied()
            .filter(|&handle| fs.file_size(handle).is_some())
            .collect();
        if all.is_empty() || self.rng.chance(3) {
            self.inode(fs)
        } else {
            *self.rng.pick(&all)
        }
    }

    fn near(&mut self, at: u64) -> u64 {
        match self.rng.below(4) {
            0 => at.saturating_sub(1),
            1 => at + 1,
            _ => at,
        }
    }

    fn offset(&mut self, size: u64) -> u64 {
        match self.rng.below(100) {
            0..25 => self.near(size),
            25..65 => {
                let border = *self.rng.pick(&BORDERS);
                self.near(border)
            }
            65..96 => self.rng.below(300_000),
            96 => 1 << 33,
            97 => 1 << 40,
            98 => MAX_SIZE - self.rng.below(10),
            _ => u64::MAX - self.rng.below(10),
        }
    }

    fn length(&mut self) -> u64 {
        match self.rng.below(100) {
            0..2 => 0,
            2..30 => 1 + self.rng.below(100),
            30..60 => {
                let border = *self.rng.pick(&BORDERS[1..7]);
                self.near(border)
            }
            60..97 => self.rng.below(20_000),
            _ => self.rng.below(300_000),
        }
    }

    fn mode(&mut self) -> u32 {
        *self.rng.pick(&[
            0o644, 0o755, 0o600, 0, 0o4755, 0o2755, 0o2745, 0o1777, 0o6777,
        ])
    }

    fn in_state(&mut self, fs: &Fs) -> FileOp {
        let weight = match self.profile {
            Profile::Tree => 70,
            Profile::Data => 20,
            Profile::Lineage | Profile::Killed | Profile::Alone => 45,
        };
        if self.rng.chance(weight) {
            self.tree_op(fs)
        } else {
            self.data_op(fs)
        }
    }

    fn tree_op(&mut self, fs: &Fs) -> FileOp {
        let crowded = fs.nodes.len() > MOST_NODES;
        match self.rng.below(100) {
            0..28 if !crowded => {
                let kind = *self.rng.pick(&[
                    NodeKind::File,
                    NodeKind::File,
                    NodeKind::File,
                    NodeKind::Directory,
                    NodeKind::Directory,
                    NodeKind::Directory,
                    NodeKind::Symlink,
                    NodeKind::Fifo,
                    NodeKind::Socket,
                    NodeKind::CharDevice,
                    NodeKind::BlockDevice,
                ]);
                let target = match kind {
                    NodeKind::Symlink if self.rng.chance(10) => vec![b't'; 4095],
                    NodeKind::Symlink => b"../a/b".to_vec(),
                    _ => Vec::new(),
                };
                let rdev = if matches!(kind, NodeKind::CharDevice | NodeKind::BlockDevice) {
                    0x0501
                } else {
                    0
                };
                FileOp::Create {
                    parent: self.directory(fs),
                    name: self.name(),
                    kind,
                    mode: self.mode(),
                    rdev,
                    target,
                }
            }
            0..28 => {
                let (parent, name) = self.entry(fs);
                FileOp::Unlink { parent, name }
            }
            28..31 => FileOp::CreateUnlinked {
                parent: self.directory(fs),
                mode: self.mode(),
            },
            31..39 => FileOp::Link {
                ino: self.inode(fs),
                parent: self.directory(fs),
                name: self.name(),
            },
            39..49 => {
                let (parent, name) = self.entry(fs);
                FileOp::Unlink { parent, name }
            }
            49..55 => {
                let (parent, name) = self.entry(fs);
                FileOp::Rmdir { parent, name }
            }
            55..77 => {
                let (parent, name) = self.entry(fs);
                let (new_parent, new_name) = if self.rng.chance(50) {
                    self.entry(fs)
                } else {
                    (self.directory(fs), self.name())
                };
                let mode = *self.rng.pick(&[
                    RenameMode::Replace,
                    RenameMode::Replace,
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ]);
                FileOp::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode,
                }
            }
            77..81 => {
                let (parent, name) = self.entry(fs);
                FileOp::Lookup { parent, name }
            }
            81..84 => FileOp::Attr {
                ino: self.inode(fs),
            },
            84..86 => FileOp::ReadLink {
                ino: self.inode(fs),
            },
            86..90 => FileOp::ReadDir {
                ino: self.directory(fs),
                page: 1 + self.rng.below(4) as usize,
            },
            90..94 => self.set_attr(fs),
            94..99 => {
                let orphans = fs.orphans();
                let ino = if orphans.is_empty() || self.rng.chance(20) {
                    self.inode(fs)
                } else {
                    *self.rng.pick(&orphans)
                };
                FileOp::Reap { ino }
            }
            _ if matches!(self.profile, Profile::Killed | Profile::Alone) => FileOp::Reap {
                ino: self.inode(fs),
            },
            _ => FileOp::ReapAll,
        }
    }

    fn time(&mut self) -> Option<Option<i128>> {
        match self.rng.below(4) {
            0 => Some(None),
            1 => Some(Some(1_234_567_890_123_456_789)),
            2 if self.rng.chance(20) => Some(Some(-1_000_000_001)),
            _ => None,
        }
    }

    fn set_attr(&mut self, fs: &Fs) -> FileOp {
        let ino = self.inode(fs);
        let change = Change {
            mode: self.rng.chance(40).then(|| self.mode()),
            uid: self.rng.chance(20).then_some(1001),
            gid: self.rng.chance(20).then_some(101),
            size: None,
            atime: self.time(),
            mtime: self.time(),
            ctime: self.rng.chance(10).then_some(1_600_000_000_000_000_007),
            kill_priv: self.rng.chance(15),
        };
        FileOp::SetAttr { ino, change }
    }

    fn data_op(&mut self, fs: &Fs) -> FileOp {
        let ino = self.file(fs);
        let size = fs.file_size(ino).unwrap_or(0);
        let offset = self.offset(size);
        match self.rng.below(100) {
            0..8 => FileOp::Create {
                parent: self.directory(fs),
                name: self.name(),
                kind: NodeKind::File,
                mode: self.mode(),
                rdev: 0,
                target: Vec::new(),
            },
            8..42 => FileOp::Write {
                ino,
                offset,
                len: self.length(),
                kill_priv: self.rng.chance(10),
                keep_times: self.rng.chance(10),
            },
            42..54 => FileOp::Read {
                ino,
                offset,
                len: self.length(),
            },
            54..64 => {
                let change = Change {
                    size: Some(if self.rng.chance(20) { 0 } else { offset }),
                    mtime: self.time(),
                    kill_priv: self.rng.chance(10),
                    ..Change::default()
                };
                FileOp::SetAttr { ino, change }
            }
            64..74 => {
                let how = *self.rng.pick(&[
                    Allocation::Reserve { keep_size: true },
                    Allocation::Reserve { keep_size: false },
                    Allocation::Punch,
                    Allocation::Punch,
                    Allocation::Zero { keep_size: true },
                    Allocation::Zero { keep_size: false },
                ]);
                FileOp::Allocate {
                    ino,
                    how,
                    offset,
                    len: self.length(),
                }
            }
            74..82 => {
                let to = if self.rng.chance(30) {
                    ino
                } else {
                    self.file(fs)
                };
                let to_size = fs.file_size(to).unwrap_or(0);
                FileOp::CopyRange {
                    from: ino,
                    from_offset: offset,
                    to,
                    to_offset: self.offset(to_size),
                    len: self.length(),
                }
            }
            82..86 => FileOp::Seek {
                ino,
                offset,
                data: self.rng.chance(50),
            },
            86..92 => {
                let mode = *self.rng.pick(&[
                    XattrMode::Set,
                    XattrMode::Set,
                    XattrMode::Create,
                    XattrMode::Replace,
                ]);
                let len = *self.rng.pick(&[0, 1, 20, 20, 1024, 4000]);
                FileOp::SetXattr {
                    ino: self.inode(fs),
                    name: self.rng.pick(&XATTRS).to_vec(),
                    len,
                    mode,
                }
            }
            92..94 => FileOp::Xattr {
                ino: self.inode(fs),
                name: self.rng.pick(&XATTRS).to_vec(),
            },
            94..96 => FileOp::RemoveXattr {
                ino: self.inode(fs),
                name: self.rng.pick(&XATTRS).to_vec(),
            },
            96..98 => FileOp::Xattrs {
                ino: self.inode(fs),
            },
            _ => FileOp::Fsync { ino },
        }
    }
}
