//! The check finds what is wrong: each kind of damage is made on purpose.
//!
//! A wrong record is committed through the log, so that log and index agree and only its content is wrong;
//! where the index is to differ from the log, it is changed behind the log's back.

use crate::files::types::*;
use crate::index::dead::Dead;
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Inode, Record, UsageRecord};
use crate::log::frame::Row;
use crate::log::reader::Applied;
use crate::rocks::Applying;
use crate::*;

struct Store {
    engine: Engine,
    id: TimelineId,
    file: Ino,
    dir: tempfile::TempDir,
}

/// A tree with a directory, a file of two chunks with two names and an attribute, and a small file.
fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let id = engine
        .create_root(CreateRoot {
            name: "t".into(),
            ..Default::default()
        })
        .unwrap()
        .id;
    let v = engine
        .volume(Point::Now(id), VolumeOptions::default())
        .unwrap();
    let c = Caller::default();
    let make = |parent, name: &[u8], kind| {
        let new = NewNode {
            kind,
            mode: 0o755,
            rdev: 0,
            target: &[],
        };
        v.create(&c, parent, name, &new).unwrap().ino
    };
    let d = make(Ino::ROOT, b"d", NodeKind::Directory);
    let file = make(d, b"file", NodeKind::File);
    v.write(&c, file, 0, &[7; 150_000], WriteOptions::default())
        .unwrap();
    v.write(&c, file, 10, &[8; 100], WriteOptions::default())
        .unwrap();
    v.link(&c, file, Ino::ROOT, b"link").unwrap();
    v.set_xattr(&c, file, b"user.a", b"b", XattrMode::Set)
        .unwrap();
    let small = make(Ino::ROOT, b"small", NodeKind::File);
    v.write(&c, small, 0, b"hello", WriteOptions::default())
        .unwrap();
    drop(v);
    Store {
        engine,
        id,
        file,
        dir,
    }
}

impl Store {
    fn get(&self, key: &RecordKey) -> Record {
        let v = self
            .engine
            .volume(Point::Now(self.id), VolumeOptions::default())
            .unwrap();
        let view = v.view().unwrap();
        view.get(key).unwrap().unwrap().record
    }

    fn inode(&self, ino: Ino) -> Inode {
        match self.get(&RecordKey::Inode(ino)) {
            Record::Inode(inode) => inode,
            other => panic!("{other:?}"),
        }
    }

    fn usage(&self) -> UsageRecord {
        match self.get(&RecordKey::Usage) {
            Record::Usage(usage) => usage,
            other => panic!("{other:?}"),
        }
    }

    /// Commits records as they are, with the totals as they were.
    fn commit(&self, changes: &[(RecordKey, Option<Record>)], dead: &[Dead]) {
        let inner = &self.engine.inner;
        let mut rows: Vec<Row> = changes
            .iter()
            .map(|(key, record)| Row::Record {
                key: key.encode(),
                value: records::encode(record.as_ref()),
            })
            .collect();
        if !changes.iter().any(|(key, _)| *key == RecordKey::Usage) {
            rows.push(Row::Record {
                key: RecordKey::Usage.encode(),
                value: records::encode(Some(&Record::Usage(self.usage()))),
            });
        }
        rows.extend(dead.iter().map(|d| Row::Dead { value: d.encode() }));
        let epoch = inner.shared_epoch();
        inner.commit_rows(*epoch, self.id, &rows).unwrap();
    }

    /// Changes the index without the log.
    fn tamper(&self, timeline: TimelineId, epoch: Epoch, rows: &[Row]) {
        let inner = &self.engine.inner;
        let commit = inner.commit.lock();
        inner
            .index
            .apply(&Applying {
                timeline,
                epoch,
                frame: Position(1),
                rows,
                applied: Applied {
                    position: commit.log.end(),
                    chain: commit.log.chain(),
                },
            })
            .unwrap();
    }

    fn found(&self) -> CheckReport {
        self.engine.check(|_| {}).unwrap()
    }

    /// One finding is of this kind and says this.
    #[track_caller]
    fn finds(&self, kind: FindingKind, says: &str) {
        let report = self.found();
        assert!(
            report
                .findings
                .iter()
                .any(|f| f.kind == kind && f.to_string().contains(says)),
            "nothing of kind {kind:?} says {says:?}: {report}"
        );
        assert!(!report.is_sound());
    }
}

#[test]
fn the_store_of_these_tests_is_sound() {
    let report = store().found();
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.findings, []);
    assert_eq!(report.counts.inodes, 4);
    assert_eq!(report.counts.dead, 1);
}

#[test]
fn wrong_records_are_found_each_by_its_name() {
    type Change = fn(&Store) -> Vec<(RecordKey, Option<Record>)>;
    fn edit(s: &Store, ino: Ino, change: fn(&mut Inode)) -> Vec<(RecordKey, Option<Record>)> {
        let mut inode = s.inode(ino);
        change(&mut inode);
        vec![(RecordKey::Inode(ino), Some(Record::Inode(inode)))]
    }
    let cases: [(&str, Change, FindingKind); 26] = [
        (
            "it counts 3 links, a recount gives 2",
            |s| edit(s, s.file, |i| i.nlink = 3),
            FindingKind::Tree,
        ),
        (
            "it counts 7 entries, a recount gives 1",
            |s| edit(s, Ino(2), |i| i.entries = 7),
            FindingKind::Tree,
        ),
        (
            "/d: it counts 3 links, a recount gives 2",
            |s| edit(s, Ino(2), |i| i.nlink = 3),
            FindingKind::Tree,
        ),
        (
            "is not listed as unlinked",
            |s| edit(s, s.file, |i| i.nlink = 0),
            FindingKind::Tree,
        ),
        (
            "the first name that it gives does not exist",
            |s| edit(s, s.file, |i| i.name = b"other".to_vec()),
            FindingKind::Tree,
        ),
        (
            "attribute user.a is stored, the inode says that it has none",
            |s| edit(s, s.file, |i| i.has_xattrs = false),
            FindingKind::Tree,
        ),
        (
            "it counts 1 bytes allocated, a recount gives 150000",
            |s| edit(s, s.file, |i| i.allocated = 1),
            FindingKind::Tree,
        ),
        (
            "chunk 1 goes to 150000, the file ends at 140000",
            |s| edit(s, s.file, |i| i.size = 140_000),
            FindingKind::Tree,
        ),
        (
            "the logical bytes kept are 150005, a recount gives 150006",
            |s| edit(s, s.file, |i| i.size += 1),
            FindingKind::Usage,
        ),
        (
            "one of its times has 10^9",
            |s| edit(s, s.file, |i| i.mtime.nanos = 1_000_000_000),
            FindingKind::Tree,
        ),
        (
            "its target does not fit",
            |s| edit(s, s.file, |i| i.target = b"x".to_vec()),
            FindingKind::Tree,
        ),
        (
            "it is needed and cannot be found",
            |s| edit(s, s.file, |i| i.object = FileId([0xee; 16])),
            FindingKind::Object,
        ),
        (
            "names inode 3, which does not exist",
            |s| vec![(RecordKey::Inode(s.file), None)],
            FindingKind::Tree,
        ),
        (
            "chunk 0 is stored for an inode that does not exist",
            |s| vec![(RecordKey::Inode(s.file), None)],
            FindingKind::Tree,
        ),
        (
            "attribute user.a is stored for an inode that does not exist",
            |s| vec![(RecordKey::Inode(s.file), None)],
            FindingKind::Tree,
        ),
        (
            "no path from the root leads to it",
            |_| vec![(RecordKey::Dirent(Ino::ROOT, b"d".to_vec()), None)],
            FindingKind::Tree,
        ),
        (
            "its further names are not those",
            |s| {
                vec![(
                    RecordKey::Backlink {
                        ino: s.file,
                        parent: Ino::ROOT,
                        name: b"link".to_vec(),
                    },
                    None,
                )]
            },
            FindingKind::Tree,
        ),
        (
            "as another kind",
            |s| {
                vec![(
                    RecordKey::Dirent(Ino::ROOT, b"link".to_vec()),
                    Some(Record::Dirent {
                        ino: s.file,
                        kind: NodeKind::Fifo,
                    }),
                )]
            },
            FindingKind::Tree,
        ),
        (
            "it is listed as unlinked and does not exist",
            |_| vec![(RecordKey::Orphan(Ino(99)), Some(Record::Mark))],
            FindingKind::Tree,
        ),
        (
            "2 links and is listed as unlinked",
            |s| vec![(RecordKey::Orphan(s.file), Some(Record::Mark))],
            FindingKind::Tree,
        ),
        (
            "and the next one made would be 2",
            |_| vec![(RecordKey::NextIno, Some(Record::NextIno(2)))],
            FindingKind::Tree,
        ),
        (
            "the allocated bytes kept are",
            |s| vec![(RecordKey::Chunk(s.file, 1), None)],
            FindingKind::Usage,
        ),
        (
            "it has no root directory",
            |_| vec![(RecordKey::Inode(Ino::ROOT), None)],
            FindingKind::Tree,
        ),
        (
            "the own bytes kept are 1",
            |s| {
                vec![(
                    RecordKey::Usage,
                    Some(Record::Usage(UsageRecord {
                        own: 1,
                        ..s.usage()
                    })),
                )]
            },
            FindingKind::Usage,
        ),
        (
            "the superseded bytes kept are 5",
            |s| {
                vec![(
                    RecordKey::Usage,
                    Some(Record::Usage(UsageRecord {
                        dead: 5,
                        ..s.usage()
                    })),
                )]
            },
            FindingKind::Usage,
        ),
        (
            "which only the first chunk may",
            |s| {
                vec![(
                    RecordKey::Chunk(s.file, 1),
                    Some(Record::Chunk(Chunk::Inline {
                        born: s.engine.now(),
                        inherited: true,
                        bytes: vec![1],
                    })),
                )]
            },
            FindingKind::Undecodable,
        ),
    ];
    for (says, change, kind) in cases {
        let s = store();
        s.commit(&change(&s), &[]);
        s.finds(kind, says);
    }
}

#[test]
fn two_directories_that_hold_each_other_are_found() {
    let s = store();
    let v = s
        .engine
        .volume(Point::Now(s.id), VolumeOptions::default())
        .unwrap();
    let new = NewNode {
        kind: NodeKind::Directory,
        mode: 0o755,
        rdev: 0,
        target: &[],
    };
    let below = v
        .create(&Caller::default(), Ino(2), b"below", &new)
        .unwrap()
        .ino;
    drop(v);
    let mut d = s.inode(Ino(2));
    (d.parent, d.name) = (below, b"d".to_vec());
    let dirent = Record::Dirent {
        ino: Ino(2),
        kind: NodeKind::Directory,
    };
    s.commit(
        &[
            (RecordKey::Inode(Ino(2)), Some(Record::Inode(d))),
            (RecordKey::Dirent(Ino::ROOT, b"d".to_vec()), None),
            (RecordKey::Dirent(below, b"d".to_vec()), Some(dirent)),
        ],
        &[],
    );
    s.finds(FindingKind::Tree, "no path from the root leads to it");
}

#[test]
fn a_deadlist_record_of_bytes_that_are_in_use_is_found() {
    let s = store();
    let Record::Chunk(Chunk::Extents(extents)) = s.get(&RecordKey::Chunk(s.file, 1)) else {
        panic!("the second chunk has extents");
    };
    let e = &extents[0];
    let dead = Dead {
        birth: Epoch(e.born),
        ino: s.file,
        chunk: 1,
        file: e.file,
        offset: e.offset,
        length: e.length,
        skip: e.skip + 5,
        take: 10,
    };
    s.commit(&[], std::slice::from_ref(&dead));
    s.finds(
        FindingKind::Deadlist,
        "the newest state of t refers to them",
    );
    s.finds(FindingKind::Usage, "the superseded bytes kept are");
    let s = store();
    let bad = Dead { take: 0, ..dead };
    s.commit(&[], &[bad]);
    s.finds(FindingKind::Deadlist, "it leaves the bounds of its extent");
}

#[test]
fn an_index_that_differs_from_the_log_is_found() {
    let s = store();
    let small = RecordKey::Inode(Ino(4));
    let mut inode = s.inode(Ino(4));
    inode.uid = 77;
    let row = |key: &RecordKey, value: Vec<u8>| Row::Record {
        key: key.encode(),
        value,
    };
    let epoch = s.engine.tick().unwrap();
    let good = records::encode(Some(&Record::Inode(inode)));
    s.tamper(s.id, epoch, &[row(&small, good)]);
    s.finds(
        FindingKind::IndexDiffers,
        "it is not what the commit at log position",
    );
    s.tamper(s.id, epoch, &[row(&small, vec![9, 9])]);
    s.finds(FindingKind::Undecodable, "has the unknown version 9");
    let s = store();
    let epoch = s.engine.tick().unwrap();
    s.tamper(TimelineId([9; 16]), epoch, &[row(&small, vec![0])]);
    s.finds(FindingKind::Undecodable, "is not in the catalog");
    let s = store();
    s.engine.inner.index.remove_changes_of(s.id);
    s.finds(FindingKind::ChangeList, "the change list lacks it");
}

#[test]
fn a_catalog_that_differs_from_the_log_and_a_wrong_digest_are_found() {
    let s = store();
    let snapshot = s
        .engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "s".into(),
            source: Point::Now(s.id),
            labels: Default::default(),
            durability: Durability::Local,
        })
        .unwrap()
        .id;
    let mut catalog = s.engine.inner.catalog.write();
    let mut record = catalog.snapshots[&snapshot].clone();
    record.digest = "00".repeat(32);
    catalog.put_snapshot(record);
    drop(catalog);
    s.finds(FindingKind::Digest, "snapshot s: its digest 0000");
    s.finds(FindingKind::Catalog, "snapshot s is not what the log says");
    let mut catalog = s.engine.inner.catalog.write();
    catalog.timelines.remove(&s.id);
    drop(catalog);
    s.finds(
        FindingKind::Catalog,
        "the log has timeline t, the index has not",
    );
}

#[test]
fn damaged_and_missing_data_names_the_file_and_every_state_that_reads_it() {
    let s = store();
    s.engine
        .fork(ForkRequest {
            id: None,
            name: "f".into(),
            source: Point::Now(s.id),
            settings: Settings::default(),
            durability: Durability::Local,
        })
        .unwrap();
    let log = s.dir.path().join("log");
    let segment = std::fs::read_dir(&log).unwrap().next().unwrap().unwrap();
    let mut bytes = std::fs::read(segment.path()).unwrap();
    let at = bytes.windows(64).position(|w| w == [7; 64]).unwrap() + 100_000;
    bytes[at] ^= 1;
    std::fs::write(segment.path(), bytes).unwrap();
    let report = s.found();
    let finding = report
        .findings
        .iter()
        .find(|f| f.kind == FindingKind::Extent)
        .unwrap_or_else(|| panic!("{report}"));
    let Place::File {
        path,
        offset: Some(offset),
    } = &finding.place
    else {
        panic!("{finding}");
    };
    assert!(path.starts_with("log/"), "{path}");
    assert!(
        (*offset..offset + 16_384).contains(&(at as u64)),
        "{offset} {at}"
    );
    assert!(
        finding.affected[0].contains("timeline t")
            && finding.affected[0].contains("timeline f")
            && finding.affected[0].contains("/d/file, bytes"),
        "{finding}"
    );
    s.finds(FindingKind::Log, "do not match their hash");
    s.finds(FindingKind::Log, "affected: a commit of t at epoch");
    // What nobody refers to is told, and is no damage.
    let s = store();
    std::fs::create_dir_all(s.dir.path().join("objects/ab")).unwrap();
    let name = "ab0102030405060780010203040506ff";
    std::fs::write(s.dir.path().join("objects/ab").join(name), b"x").unwrap();
    std::fs::write(s.dir.path().join("log/stray"), b"x").unwrap();
    let report = s.found();
    assert!(report.is_sound() && report.notes == 2, "{report}");
    assert!(report.to_string().contains(name), "{report}");
}
