//! The bytes of the format, as `docs/format.md` gives them. The examples are read from that page, so
//! that page and code cannot drift apart: each block of it is compared with what the code writes, and
//! read back by the code, and none may be missing on either side.

use std::collections::BTreeMap;

use crate::catalog::{
    CATALOG_VERSION, Catalog, Origin, Quota, SegmentRecord, Settings, SnapshotRecord,
    TimelineRecord, segment_row, snapshot_row, timeline_row,
};
use crate::files::types::{NodeKind, RequestId, Time};
use crate::ids::{Epoch, FileId, Ino, Position, SnapshotId, TimelineId};
use crate::index::dead::Dead;
use crate::index::keys::RecordKey;
use crate::index::records::{self, Chunk, Extent, Inode, NO_OBJECT, Record, UsageRecord};
use crate::log::compacted::{
    COMPACTED_HEADER_BYTES, CompactedHeader, KeptFrame, Mark, Meta, Piece, Stretch,
};
use crate::log::frame::{self, Header, Parts, Row};
use crate::log::reader::Applied;
use crate::log::segment::{SegmentHeader, segment_id};
use crate::rocks::{Applying, Index};
use crate::store::StoreFile;

const PAGE: &str = include_str!("../../docs/format.md");
const EPOCH: Epoch = Epoch(1_700_000_000_000_000_000);
const TIMELINE: TimelineId = TimelineId([0x11; 16]);

/// Blocks of the page that begin with three backquotes, `language` and a name.
fn blocks(language: &str) -> BTreeMap<&'static str, String> {
    let mut out = BTreeMap::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line
            .strip_prefix("```")
            .and_then(|l| l.strip_prefix(language))
            .and_then(|l| l.strip_prefix(' '))
        else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        assert!(
            out.insert(name, body.join("\n")).is_none(),
            "{name} is there twice"
        );
    }
    out
}

/// The bytes of a block: hexadecimal digits, with comments behind `#`.
fn bytes(block: &str) -> Vec<u8> {
    let digits: String = block
        .lines()
        .map(|l| l.split('#').next().unwrap_or_default())
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .collect();
    hex::decode(digits).unwrap()
}

fn time(secs: i64, nanos: u32) -> Time {
    Time { secs, nanos }
}

fn segment_file() -> FileId {
    segment_id(&[0xab; 16], 3, 17)
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        id: segment_file(),
        base: Position(4096),
        chain: [5; 32],
    }
}

fn file_inode() -> Inode {
    Inode {
        kind: NodeKind::File,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 200_000,
        allocated: 190_000,
        atime: time(1_700_000_000, 1),
        mtime: time(1_700_000_000, 2),
        ctime: time(1_700_000_000, 3),
        btime: time(-1, 999_999_999),
        has_xattrs: true,
        entries: 0,
        parent: Ino::ROOT,
        name: b"a name".to_vec(),
        target: Vec::new(),
        object: NO_OBJECT,
    }
}

fn symlink_inode() -> Inode {
    Inode {
        kind: NodeKind::Symlink,
        mode: 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: time(1, 0),
        mtime: time(1, 0),
        ctime: time(1, 0),
        btime: time(1, 0),
        has_xattrs: false,
        entries: 0,
        parent: Ino::ROOT,
        name: b"l".to_vec(),
        target: b"target".to_vec(),
        object: NO_OBJECT,
    }
}

fn extents() -> Chunk {
    let run: Vec<u8> = (0..20_000u32).map(|i| (i * 7 % 251) as u8).collect();
    Chunk::Extents(vec![
        Extent {
            at: 0,
            take: 10,
            skip: 4,
            born: EPOCH.0,
            inherited: true,
            file: "0102030405060708890a0b0c0d0e0f10".parse().unwrap(),
            offset: 0,
            length: 20,
            sums: records::sums_of(&run[..20]),
        },
        Extent {
            at: 10,
            take: 19_990,
            skip: 10,
            born: EPOCH.0,
            inherited: false,
            file: segment_file(),
            offset: 4352,
            length: 20_000,
            sums: records::sums_of(&run),
        },
    ])
}

fn dead() -> Dead {
    Dead {
        birth: EPOCH,
        ino: Ino(7),
        chunk: 0,
        file: segment_file(),
        offset: 4096,
        length: 100,
        skip: 10,
        take: 90,
    }
}

/// Keys of records, and what may stand under them.
fn keys() -> Vec<(&'static str, RecordKey)> {
    let ino = Ino(7);
    vec![
        ("key-inode", RecordKey::Inode(ino)),
        (
            "key-dirent",
            RecordKey::Dirent(Ino::ROOT, b"a name".to_vec()),
        ),
        ("key-chunk", RecordKey::Chunk(ino, 2)),
        ("key-xattr", RecordKey::Xattr(ino, b"user.x".to_vec())),
        ("key-orphan", RecordKey::Orphan(ino)),
        ("key-next-ino", RecordKey::NextIno),
        (
            "key-backlink",
            RecordKey::Backlink {
                ino,
                parent: Ino::ROOT,
                name: b"other".to_vec(),
            },
        ),
        ("key-usage", RecordKey::Usage),
    ]
}

fn values() -> Vec<(&'static str, RecordKey, Option<Record>)> {
    let ino = Ino(7);
    let inode = RecordKey::Inode(ino);
    let chunk = RecordKey::Chunk(ino, 0);
    vec![
        ("value-tombstone", inode.clone(), None),
        (
            "value-inode",
            inode.clone(),
            Some(Record::Inode(file_inode())),
        ),
        ("value-symlink", inode, Some(Record::Inode(symlink_inode()))),
        (
            "value-dirent",
            RecordKey::Dirent(Ino::ROOT, b"x".to_vec()),
            Some(Record::Dirent {
                ino,
                kind: NodeKind::Directory,
            }),
        ),
        (
            "value-chunk-inline",
            chunk.clone(),
            Some(Record::Chunk(Chunk::Inline {
                born: EPOCH.0,
                inherited: false,
                bytes: b"hello".to_vec(),
            })),
        ),
        ("value-chunk-extents", chunk, Some(Record::Chunk(extents()))),
        (
            "value-xattr",
            RecordKey::Xattr(ino, b"x".to_vec()),
            Some(Record::Xattr(b"value".to_vec())),
        ),
        ("value-mark", RecordKey::Orphan(ino), Some(Record::Mark)),
        (
            "value-next-ino",
            RecordKey::NextIno,
            Some(Record::NextIno(1026)),
        ),
        (
            "value-usage",
            RecordKey::Usage,
            Some(Record::Usage(UsageRecord {
                logical: 200_000,
                allocated: 190_000,
                inodes: 3,
                own: 5_000,
                dead: 70,
            })),
        ),
    ]
}

fn orphan_row() -> Row {
    Row::Record {
        key: RecordKey::Orphan(Ino(7)).encode(),
        value: records::encode(Some(&Record::Mark)),
    }
}

fn rows() -> Vec<(&'static str, Row)> {
    let mut key = vec![b't'];
    key.extend_from_slice(&TIMELINE.0);
    vec![
        ("row-record", orphan_row()),
        (
            "row-dead",
            Row::Dead {
                value: dead().encode(),
            },
        ),
        (
            "row-catalog",
            Row::Catalog {
                key,
                value: b"{}".to_vec(),
            },
        ),
        (
            "row-reply",
            Row::Reply {
                connection: 0xc0ffee,
                unique: 42,
                ino: 7,
                size: 5,
            },
        ),
        (
            "row-drop",
            Row::Drop {
                key: RecordKey::Orphan(Ino(7)).encode(),
                epoch: EPOCH,
            },
        ),
        (
            "row-free",
            Row::Free {
                death: EPOCH,
                frame: Position(4224),
                number: 0,
            },
        ),
        ("row-empty", Row::Empty),
        ("row-skipped", Row::Skipped { count: 3 }),
        (
            "row-residue",
            Row::Residue {
                file: segment_header().id,
                offset: 4352,
                value: residue(),
            },
        ),
    ]
}

fn residue() -> Vec<u8> {
    crate::gc::encode_residue(20_000, &[(10, 100)])
}

/// One frame with the row of an orphan, one piece of a run, one mark.
fn compacted() -> Vec<u8> {
    let id = segment_file();
    let stretch = Stretch {
        id,
        base: Position(4096),
        chain: [5; 32],
        end: Position(8192),
        end_chain: [9; 32],
        seen: Position(65_536),
    };
    let mut meta = Meta {
        marks: vec![Mark {
            position: Position(5120),
            chain: [7; 32],
        }],
        pieces: vec![Piece {
            timeline: TIMELINE,
            ino: 7,
            chunk: 2,
            run: 256,
            length: 2_000,
            from: 0,
            take: 2_000,
            at: 0,
            sum: 0x0102_0304,
        }],
        frames: vec![KeptFrame {
            position: Position(4224),
            epoch: EPOCH,
            timeline: TIMELINE,
            rows: vec![orphan_row()],
        }],
    };
    meta.place().unwrap();
    let bytes = meta.encode(&stretch).unwrap();
    let header = CompactedHeader::decode(&bytes).unwrap();
    let decoded = header
        .decode_meta(&bytes[COMPACTED_HEADER_BYTES..])
        .unwrap();
    assert_eq!(decoded, meta);
    bytes
}

fn example_frame() -> Vec<u8> {
    let rows = frame::encode_rows(&[orphan_row()]);
    let data = b"data";
    let parts = Parts {
        epoch: EPOCH,
        timeline: TIMELINE,
        data_len: data.len(),
        data_hash: *blake3::hash(data).as_bytes(),
        rows: &rows,
    };
    let (header, _) =
        frame::encode_header(&parts, Position(4224), Position(4096), &[5; 32]).unwrap();
    let mut whole = header.to_vec();
    whole.extend_from_slice(data);
    whole.extend_from_slice(&rows);
    whole.resize(frame::total(data.len(), rows.len()) as usize, 0);
    whole
}

/// What stands in the index after a frame with one row of each kind.
fn index_rows() -> BTreeMap<&'static str, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(dir.path()).unwrap();
    // What the collector writes removes rows.
    let stays = |row: &Row| !matches!(row, Row::Drop { .. } | Row::Free { .. } | Row::Empty);
    let mut all: Vec<Row> = rows()
        .into_iter()
        .map(|(_, row)| row)
        .filter(stays)
        .collect();
    all.push(Row::Record {
        key: RecordKey::Inode(Ino(7)).encode(),
        value: records::encode(None),
    });
    let applied = Applied {
        position: Position(4400),
        chain: [9; 32],
    };
    index
        .apply(&Applying {
            timeline: TIMELINE,
            epoch: EPOCH,
            frame: Position(4224),
            rows: &all,
            applied,
        })
        .unwrap();
    assert_eq!(index.applied().unwrap(), Some((applied, EPOCH)));
    let answer = index
        .reply(RequestId {
            connection: 0xc0ffee,
            unique: 42,
        })
        .unwrap()
        .unwrap();
    assert_eq!((answer.ino, answer.size), (Some(Ino(7)), 5));
    let mut out = BTreeMap::new();
    let mut count = 0;
    for (key, value) in index.dump() {
        count += 1;
        let name = match (key[0], key.get(17)) {
            (b'c', _) => "index-catalog-key",
            (b'd', _) => "index-dead-key",
            (b'h', _) => "index-change-key",
            (b'm', _) => {
                out.insert("index-meta-value", value);
                "index-meta-key"
            }
            (b'r', Some(5)) => "index-version-key",
            (b'r', _) => continue,
            (b'p', _) => "index-residue-key",
            (b'y', _) => {
                out.insert("index-reply-value", value);
                "index-reply-key"
            }
            other => panic!("an unknown key: {other:?}"),
        };
        assert!(out.insert(name, key).is_none(), "{name} is there twice");
    }
    assert_eq!(count, 8);
    out
}

#[test]
fn every_example_of_the_page_is_what_the_code_writes() {
    let mut written: BTreeMap<&str, Vec<u8>> = index_rows();
    written.insert("segment-header", segment_header().encode().to_vec());
    written.insert("frame", example_frame());
    written.insert("compacted", compacted());
    written.insert("value-dead", dead().encode());
    written.insert("value-residue", residue());
    written.extend(
        rows()
            .into_iter()
            .map(|(n, r)| (n, frame::encode_rows(&[r]))),
    );
    written.extend(keys().into_iter().map(|(n, k)| (n, k.encode())));
    written.extend(
        values()
            .into_iter()
            .map(|(n, _, r)| (n, records::encode(r.as_ref()))),
    );
    let page = blocks("hex");
    let names: Vec<_> = page.keys().collect();
    assert_eq!(names, written.keys().collect::<Vec<_>>());
    for (name, code) in written {
        assert_eq!(
            hex::encode(bytes(&page[name])),
            hex::encode(code),
            "{name}: docs/format.md and the code differ"
        );
    }
}

#[test]
fn every_example_of_the_page_is_read_by_the_code() {
    let page = blocks("hex");
    for (name, key) in keys() {
        assert_eq!(RecordKey::decode(&bytes(&page[name])).unwrap(), key);
    }
    for (name, key, record) in values() {
        assert_eq!(
            records::decode(&key, &bytes(&page[name])).unwrap(),
            record,
            "{name}"
        );
    }
    for (name, row) in rows() {
        assert_eq!(frame::decode_rows(&bytes(&page[name])).unwrap(), [row]);
    }
    assert_eq!(Dead::decode(&bytes(&page["value-dead"])).unwrap(), dead());
    assert_eq!(
        SegmentHeader::decode(&bytes(&page["segment-header"])).unwrap(),
        segment_header()
    );
    let whole = bytes(&page["frame"]);
    let head: [u8; frame::HEADER_BYTES] = whole[..frame::HEADER_BYTES].try_into().unwrap();
    let header = Header::decode(&head).unwrap();
    let rows = &whole[frame::HEADER_BYTES + 4..][..header.rows_len as usize];
    assert!(header.intact(&head, rows));
    assert_eq!(header.total(), whole.len() as u64);
    assert_eq!(Header::expected_chain(&[5; 32], &head, rows), header.chain);
}

#[test]
fn the_json_of_the_page_is_what_the_code_writes_and_reads() {
    let page = blocks("json");
    let store = StoreFile::new(crate::FORMAT, "ab".repeat(16), 3);
    let timeline = TimelineRecord {
        v: CATALOG_VERSION,
        id: TIMELINE,
        name: "fork/default/agent".into(),
        created: Epoch(EPOCH.0 + 1),
        origins: vec![Origin {
            since: EPOCH,
            parent: TimelineId([0x22; 16]),
            cutoff: Epoch(1_699_999_999_000_000_000),
            snapshot: Some(SnapshotId([0x33; 16])),
        }],
        settings: Settings {
            read_only: false,
            protected: true,
            quota: Quota {
                bytes: Some(1 << 30),
                inodes: None,
            },
            retain: std::time::Duration::from_secs(3600),
            labels: [("anabranch.dev/owner".to_owned(), "play".to_owned())].into(),
        },
        deleted: None,
        horizon: None,
        swept: None,
        dropped: false,
    };
    let snapshot = SnapshotRecord {
        v: CATALOG_VERSION,
        id: SnapshotId([0x33; 16]),
        name: "snapshot/default/base-v1".into(),
        timeline: TimelineId([0x22; 16]),
        epoch: Epoch(1_699_999_999_000_000_000),
        digest: "05".repeat(32),
        position: 4224,
        created: Epoch(1_699_999_999_000_000_001),
        labels: Default::default(),
        deleted: Some(EPOCH),
    };
    let segment = SegmentRecord {
        needed: Some(1_048_576),
        given_up: 4096,
        digests: vec!["0a".repeat(32)],
        ..SegmentRecord::new(segment_file())
    };
    let mut catalog = Catalog::default();
    for (name, row) in [
        ("catalog-timeline", timeline_row(&timeline).unwrap()),
        ("catalog-snapshot", snapshot_row(&snapshot).unwrap()),
        ("catalog-segment", segment_row(&segment).unwrap()),
    ] {
        let Row::Catalog { key, value } = row else {
            panic!("a catalog row");
        };
        assert_eq!(page[name], String::from_utf8(value).unwrap());
        catalog.load(&key, page[name].as_bytes()).unwrap();
    }
    assert_eq!(catalog.timelines[&TIMELINE], timeline);
    assert_eq!(catalog.snapshots[&snapshot.id], snapshot);
    assert_eq!(catalog.segments[&segment.id], segment);
    let text = serde_json::to_string_pretty(&store).unwrap();
    assert_eq!(page["store-json"], text);
    assert_eq!(
        page.keys().copied().collect::<Vec<_>>(),
        [
            "catalog-segment",
            "catalog-snapshot",
            "catalog-timeline",
            "store-json"
        ]
    );
}

#[test]
fn the_numbers_of_the_page_are_those_of_the_code() {
    for text in [
        format!("This is format **{}**", crate::FORMAT),
        format!(
            "a span of {} bytes (128 KiB)",
            thousands(records::CHUNK_BYTES)
        ),
        format!("each {} of them", thousands(u64::from(records::SUM_BYTES))),
        format!("1 to {} of them", thousands(records::INLINE_BYTES)),
        format!("more than {}", records::MAX_EXTENTS),
        format!("at most {} MiB", frame::MAX_PART_BYTES >> 20),
    ] {
        assert!(PAGE.contains(&text), "docs/format.md does not say {text:?}");
    }
}

fn thousands(n: u64) -> String {
    if n < 1000 {
        n.to_string()
    } else {
        format!("{},{:03}", thousands(n / 1000), n % 1000)
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.json");
    let newer = r#"{"format":4,"other":true}"#;
    let error = crate::store::parse(&path, newer.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::UnsupportedFormat);
    assert!(error.to_string().contains("format 4"), "{error}");
    let mut header = segment_header().encode();
    header[7] = 3;
    let sum = crc32c::crc32c(&header[..64]).to_be_bytes();
    header[64..68].copy_from_slice(&sum);
    let error = SegmentHeader::decode(&header).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::UnsupportedFormat);
    let mut catalog = Catalog::default();
    let newer = blocks("json")["catalog-timeline"].replacen("\"v\":1", "\"v\":2", 1);
    let error = catalog.load(b"t", newer.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::UnsupportedFormat);
    assert!(error.to_string().contains("layout 2"), "{error}");
}
