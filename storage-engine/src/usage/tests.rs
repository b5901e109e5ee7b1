//! Random histories: after each, every figure is what a scan of all that is stored gives, which is written
//! here once more, from the pages of the format alone.
//!
//! `ANABRANCH_SEED` repeats a run, `ANABRANCH_CASES` makes more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::catalog::Catalog;
use crate::files::types::*;
use crate::gc::tests::copy;
use crate::{
    CreateRoot, Durability, ForkRequest, GcOptions, Options, Point, Settings, SnapshotRequest,
    Volume, VolumeOptions,
};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len() as u64) as usize])
    }
}

// ---------------------------------------------------------------- the scan

/// A byte of the store: the file that it stands in and where, or the chunk of a timeline that it is inline in
/// and the epoch that it was written at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    File(FileId),
    Inline(TimelineId, u64, u64),
}

/// Ranges of bytes, with repeats.
#[derive(Default)]
struct Set(BTreeMap<Place, Vec<(u64, u64)>>);

impl Set {
    fn add(&mut self, place: Place, from: u64, len: u64) {
        self.0.entry(place).or_default().push((from, from + len));
    }

    fn len(&self) -> u64 {
        let mut sum = 0;
        for list in self.0.values() {
            // By edges: how many ranges are open at each point.
            let mut edges: Vec<(u64, i32)> = list
                .iter()
                .flat_map(|(from, to)| [(*from, 1), (*to, -1)])
                .collect();
            edges.sort_unstable();
            let (mut open, mut since) = (0, 0);
            for (at, step) in edges {
                if open > 0 {
                    sum += at - since;
                }
                open += step;
                since = at;
            }
        }
        sum
    }
}

/// Everything that is stored.
struct Scan {
    catalog: Catalog,
    /// By timeline and relative key, oldest first.
    versions: BTreeMap<(TimelineId, Vec<u8>), BTreeMap<Epoch, Vec<u8>>>,
    dead: Vec<(TimelineId, Epoch, Dead)>,
}

type State = (TimelineId, Epoch);

impl Scan {
    fn of(engine: &Engine) -> Scan {
        let inner = &engine.inner;
        let mut scan = Scan {
            catalog: inner.catalog.read().clone(),
            versions: BTreeMap::new(),
            dead: Vec::new(),
        };
        let versions = &mut scan.versions;
        inner
            .index
            .all_versions(|_, parts, row| {
                let (timeline, relative, epoch) = parts.unwrap();
                let of = versions.entry((timeline, relative.to_vec())).or_default();
                of.insert(epoch, row.to_vec());
            })
            .unwrap();
        let dead = &mut scan.dead;
        inner
            .index
            .all_dead(|_, key, value| {
                let key = key.unwrap();
                dead.push((key.timeline, key.death, Dead::decode(value).unwrap()));
            })
            .unwrap();
        scan
    }

    /// Timeline, first epoch (exclusive) and last of each window.
    fn windows(&self, (mut timeline, mut hi): State) -> Vec<(TimelineId, Epoch, Epoch)> {
        let mut all = Vec::new();
        loop {
            let origins = &self.catalog.timelines[&timeline].origins;
            match origins.iter().rfind(|o| o.since < hi) {
                Some(o) => {
                    all.push((timeline, o.since, hi));
                    (timeline, hi) = (o.parent, o.cutoff);
                }
                None => {
                    all.push((timeline, Epoch::ZERO, hi));
                    return all;
                }
            }
        }
    }

    /// What a state shows: relative key, the window it was found in, its record.
    fn show(&self, state: State) -> Vec<(RecordKey, usize, Record)> {
        let windows = self.windows(state);
        let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut out = Vec::new();
        for (n, (timeline, lo, hi)) in windows.iter().enumerate() {
            let mine = self
                .versions
                .range((*timeline, Vec::new())..)
                .take_while(|((t, _), _)| t == timeline);
            for ((_, relative), versions) in mine {
                let newest = versions.iter().rfind(|(e, _)| *e > lo && *e <= hi);
                if let Some((_, row)) = newest
                    && seen.insert(relative.clone())
                {
                    let key = RecordKey::decode(relative).unwrap();
                    if let Some(record) = records::decode(&key, row).unwrap() {
                        out.push((key, n, record));
                    }
                }
            }
        }
        out
    }

    /// States that must stay without this holder, with those that they read.
    fn needed(&self, without: Option<Holder>) -> BTreeSet<State> {
        let mut todo: Vec<State> = Vec::new();
        for t in self.catalog.timelines.values() {
            if t.deleted.is_none() && without != Some(Holder::Timeline(t.id)) {
                todo.push((t.id, Epoch::MAX));
            }
        }
        for s in self.catalog.snapshots.values() {
            if s.deleted.is_none() && without != Some(Holder::Snapshot(s.id)) {
                todo.push((s.timeline, s.epoch));
            }
        }
        let mut all = BTreeSet::new();
        while let Some(state) = todo.pop() {
            if all.insert(state) {
                let windows = self.windows(state);
                todo.extend(windows.get(1).map(|(t, _, hi)| (*t, *hi)));
            }
        }
        all
    }

    fn stored(&self, states: &BTreeSet<State>) -> u64 {
        let mut set = Set::default();
        for state in states {
            let windows = self.windows(*state);
            for (key, n, record) in self.show(*state) {
                if let (RecordKey::Chunk(ino, _), Record::Chunk(chunk)) = (key, record) {
                    add(&mut set, windows[n].0, ino.0, &chunk, true);
                }
            }
        }
        set.len()
    }

    fn usage(&self, state: State, live: bool) -> Usage {
        let mut usage = Usage::default();
        let (mut own, windows) = (Set::default(), self.windows(state));
        for (key, n, record) in self.show(state) {
            match (key, record) {
                (RecordKey::Inode(_), Record::Inode(inode)) => {
                    usage.inodes += 1;
                    if inode.kind == NodeKind::File {
                        usage.logical_bytes += inode.size;
                    }
                }
                (RecordKey::Chunk(ino, _), Record::Chunk(chunk)) => {
                    usage.allocated_bytes += match &chunk {
                        Chunk::Inline { bytes, .. } => bytes.len() as u64,
                        Chunk::Extents(list) => list.iter().map(|e| u64::from(e.take)).sum(),
                    };
                    if windows[..=n].iter().all(|w| w.0 == state.0) {
                        add(&mut own, state.0, ino.0, &chunk, false);
                    }
                }
                _ => {}
            }
        }
        usage.shared_bytes = usage.allocated_bytes - own.len();
        usage.divergent_bytes = own.len();
        if live {
            let mut all = Set::default();
            for ((timeline, relative), versions) in &self.versions {
                for row in versions.values().filter(|_| *timeline == state.0) {
                    let key = RecordKey::decode(relative).unwrap();
                    if let (RecordKey::Chunk(ino, _), Some(Record::Chunk(chunk))) =
                        (&key, records::decode(&key, row).unwrap())
                    {
                        add(&mut all, *timeline, ino.0, &chunk, false);
                    }
                }
            }
            let mut brief = 0;
            for (_, death, dead) in self.dead.iter().filter(|d| d.0 == state.0) {
                let (from, len) = (dead.offset + u64::from(dead.skip), u64::from(dead.take));
                if dead.file != INLINE {
                    all.add(Place::File(dead.file), from, len);
                } else if *death == dead.birth {
                    brief += len;
                } else {
                    let place = Place::Inline(state.0, dead.ino.0, dead.birth.0);
                    all.add(place, 0, len);
                }
            }
            usage.divergent_bytes = all.len() + brief;
        }
        usage
    }
}

fn add(set: &mut Set, timeline: TimelineId, ino: u64, chunk: &Chunk, inherited_too: bool) {
    match chunk {
        Chunk::Inline { born, bytes, .. } => {
            let place = Place::Inline(timeline, ino, *born);
            set.add(place, 0, bytes.len() as u64);
        }
        Chunk::Extents(extents) => {
            for e in extents.iter().filter(|e| inherited_too || !e.inherited) {
                let from = e.offset + u64::from(e.skip);
                set.add(Place::File(e.file), from, u64::from(e.take));
            }
        }
    }
}

/// Every figure of every timeline and snapshot.
fn verify(engine: &Engine, collected: bool, what: &str) {
    let scan = Scan::of(engine);
    let mut holders: Vec<Holder> = Vec::new();
    for t in engine.timelines() {
        assert_eq!(
            engine.usage(t.id).unwrap(),
            scan.usage((t.id, Epoch::MAX), true),
            "{what}: {}",
            t.name
        );
        holders.push(Holder::Timeline(t.id));
    }
    for s in engine.snapshots().unwrap() {
        assert_eq!(
            engine.snapshot_usage(s.id).unwrap(),
            scan.usage((s.timeline, s.epoch), false),
            "{what}: {}",
            s.name
        );
        holders.push(Holder::Snapshot(s.id));
    }
    let freed = engine.freed_by_deleting(&holders).unwrap();
    let all = scan.stored(&scan.needed(None));
    for (holder, freed) in holders.iter().zip(freed) {
        let without = scan.stored(&scan.needed(Some(*holder)));
        assert_eq!(freed, all - without, "{what}: {holder:?}");
    }
    if collected {
        // And nothing else is kept.
        let restored = scan.catalog.timelines.values().any(|t| !t.never_restored());
        let mut kept = Set::default();
        for ((timeline, relative), versions) in &scan.versions {
            for row in versions.values() {
                let key = RecordKey::decode(relative).unwrap();
                if let (RecordKey::Chunk(ino, _), Some(Record::Chunk(chunk))) =
                    (&key, records::decode(&key, row).unwrap())
                {
                    add(&mut kept, *timeline, ino.0, &chunk, false);
                }
            }
        }
        assert!(
            restored || kept.len() == all,
            "{what}: {}, {all}",
            kept.len()
        );
    }
}

// ------------------------------------------------------------ the histories

fn open(dir: &Path) -> Engine {
    let options = Options {
        segment_bytes: 256 << 10,
        ..Options::default()
    };
    Engine::open(dir, options).unwrap()
}

fn volume(engine: &Engine, id: TimelineId) -> Volume {
    engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap()
}

/// A length: inline, of one chunk, or of a few.
fn length(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => 1 + random.below(1_024),
        1 | 2 => 1 + random.below(40_000),
        _ => 1 + random.below(300_000),
    }
}

/// One change of a file.
fn change(random: &mut Random, v: &Volume) {
    let me = Caller::default();
    let root = Ino::ROOT;
    let name = |random: &mut Random| format!("f{}", random.below(5)).into_bytes();
    let (one, other) = (name(random), name(random));
    let there = v.lookup(root, &one).ok();
    match (random.below(12), there) {
        (0..=4, there) => {
            let node = NewNode {
                kind: NodeKind::File,
                mode: 0o644,
                rdev: 0,
                target: &[],
            };
            let attr = match there {
                Some(attr) => attr,
                None => v.create(&me, root, &one, &node).unwrap(),
            };
            let at = match random.below(3) {
                0 => 0,
                1 => attr.size,
                _ => random.below(attr.size + 1_000),
            };
            let data = vec![random.below(256) as u8; length(random) as usize];
            v.write(&me, attr.ino, at, &data, WriteOptions::default())
                .unwrap();
        }
        (5, Some(attr)) => {
            let set = SetAttr {
                size: Some(random.below(attr.size * 5 / 4 + 2)),
                ..SetAttr::default()
            };
            v.set_attr(&me, attr.ino, &set).unwrap();
        }
        (6, Some(attr)) => {
            let at = random.below(attr.size + 1);
            let len = length(random);
            v.allocate(&me, attr.ino, AllocateMode::Punch, at, len)
                .unwrap();
        }
        (7, Some(attr)) if v.lookup(root, &other).is_err() => {
            v.link(&me, attr.ino, root, &other).unwrap();
        }
        (8, Some(_)) => {
            let replaced = v.lookup(root, &other).ok();
            v.rename(&me, root, &one, root, &other, RenameMode::Replace)
                .unwrap();
            if let Some(replaced) = replaced {
                let _ = v.reap(replaced.ino);
            }
        }
        (9, Some(attr)) => {
            v.unlink(&me, root, &one).unwrap();
            // Now and then it stays an orphan.
            if random.below(3) > 0 {
                v.reap(attr.ino).unwrap();
            }
        }
        (10, _) => {
            let data = vec![7; length(random) as usize];
            let name = String::from_utf8(one).unwrap();
            v.objects().put(&name, &data, &Default::default()).unwrap();
        }
        _ => {
            v.reap_all().unwrap();
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let restores = random.below(2) == 0;
    let base = tempfile::tempdir().unwrap();
    let mut dir = base.path().join("0");
    let mut engine = open(&dir);
    let root = |engine: &Engine, name: String| {
        let new = CreateRoot {
            name,
            durability: Durability::Memory,
            ..Default::default()
        };
        engine.create_root(new).unwrap().id
    };
    root(&engine, "root".into());
    for step in 0..90u64 {
        let what = format!("ANABRANCH_SEED={seed}, step {step}");
        let timelines: Vec<TimelineId> = engine.timelines().iter().map(|t| t.id).collect();
        let all = engine.snapshots().unwrap();
        let snapshots: Vec<SnapshotId> = all.iter().map(|s| s.id).collect();
        let (timeline, snapshot) = (random.pick(&timelines), random.pick(&snapshots));
        let source = match (random.below(2), snapshot, timeline) {
            (0, Some(s), _) => Some(Point::Snapshot(s)),
            (_, _, Some(t)) => Some(Point::Now(t)),
            _ => None,
        };
        let mut collected = false;
        match (random.below(20), timeline) {
            (0..=8, Some(t)) => {
                for _ in 0..=random.below(5) {
                    change(&mut random, &volume(&engine, t));
                }
            }
            (9..=10, _) if timelines.len() < 6 => match source {
                Some(source) => {
                    let request = ForkRequest {
                        id: None,
                        name: format!("fork{step}"),
                        source,
                        settings: Settings::default(),
                        durability: Durability::Memory,
                    };
                    engine.fork(request).unwrap();
                }
                None => {
                    root(&engine, format!("root{step}"));
                }
            },
            (11..=12, Some(t)) if snapshots.len() < 6 => {
                let request = SnapshotRequest {
                    id: None,
                    name: format!("snapshot{step}"),
                    source: Point::Now(t),
                    labels: BTreeMap::new(),
                    durability: Durability::Memory,
                };
                engine.snapshot(request).unwrap();
            }
            (13, Some(t)) if restores => {
                if let Some(source) = source {
                    engine.restore(t, source).unwrap();
                }
            }
            (14, Some(t)) => engine.delete_timeline(t).unwrap(),
            (15..=16, _) => {
                if let Some(s) = snapshot {
                    engine.delete_snapshot(s).unwrap();
                }
            }
            (17, _) => {
                engine.gc(GcOptions::default()).unwrap();
                collected = true;
            }
            (18, _) => {
                // Stopped in the middle.
                engine.inner.collector.lock().fail_at = Some(random.below(12));
                collected = engine.gc(GcOptions::default()).is_ok();
                engine.inner.collector.lock().fail_at = None;
            }
            (19.., _) => {
                let how = random.below(3);
                if how == 0 {
                    engine.inner.flusher.idle();
                    let crashed = base.path().join(format!("{}", step + 1));
                    copy(&dir, &crashed);
                    drop(engine);
                    std::fs::remove_dir_all(&dir).unwrap();
                    dir = crashed;
                } else {
                    engine.close().unwrap();
                }
                if how == 1 {
                    std::fs::remove_dir_all(dir.join("index")).unwrap();
                }
                engine = open(&dir);
            }
            _ => {}
        }
        if step % 3 == 0 || collected {
            verify(&engine, collected, &what);
        }
    }
    engine.gc(GcOptions::default()).unwrap();
    verify(&engine, true, &format!("ANABRANCH_SEED={seed}, the end"));
    // A figure is a promise: the holder goes, and so much is given up.
    let mut holders: Vec<Holder> = Vec::new();
    holders.extend(engine.timelines().iter().map(|t| Holder::Timeline(t.id)));
    let all = engine.snapshots().unwrap();
    holders.extend(all.iter().map(|s| Holder::Snapshot(s.id)));
    while !holders.is_empty() {
        let holder = holders.swap_remove(random.below(holders.len() as u64) as usize);
        let promised = engine.freed_by_deleting(&[holder]).unwrap()[0];
        match holder {
            Holder::Timeline(id) => engine.delete_timeline(id).unwrap(),
            Holder::Snapshot(id) => engine.delete_snapshot(id).unwrap(),
        }
        let report = engine.gc(GcOptions::default()).unwrap();
        if !restores || promised == 0 {
            assert_eq!(report.bytes, promised, "ANABRANCH_SEED={seed}: {holder:?}");
        }
    }
}

#[test]
fn figures_are_what_a_scan_of_everything_gives() {
    let number = |name| std::env::var(name).ok().map(|s: String| s.parse().unwrap());
    let first: u64 = number("ANABRANCH_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 % 1_000_000_000
    });
    // Restored to a fork of itself in which nothing was written.
    const KNOWN: [u64; 1] = [1038];
    let new = first..first + number("ANABRANCH_CASES").unwrap_or(4);
    for seed in KNOWN.into_iter().chain(new) {
        println!("ANABRANCH_SEED={seed}");
        run(seed);
    }
}
