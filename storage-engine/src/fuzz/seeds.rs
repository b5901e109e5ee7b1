//! What the encoders give, to start from. Everything in it is fixed, so that it is the same every time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Clock, IdSource};
use crate::engine::{Durability, Engine, Options, Point};
use crate::files::VolumeOptions;
use crate::files::types::{Caller, NewNode, NodeKind, WriteOptions, XattrMode};
use crate::ids::Ino;
use crate::log::frame::{self, HEADER_BYTES, Row};
use crate::log::reader::{self, Applied};
use crate::objects::{Bounds, PutOptions, SEALED_BYTES};
use crate::timeline::{CreateRoot, ForkRequest, SnapshotRequest};

struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.fetch_add(1_000, Ordering::SeqCst)
    }
}

impl IdSource for Fixed {
    fn next(&self) -> std::io::Result<[u8; 16]> {
        let mut id = [0x5a; 16];
        id[8..].copy_from_slice(&self.0.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        Ok(id)
    }
}

type Seeds = BTreeMap<String, Vec<u8>>;

/// By decoder and name.
pub(super) fn all() -> BTreeMap<&'static str, Seeds> {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(
        dir.path(),
        Options {
            clock: Arc::new(Fixed(AtomicU64::new(0))),
            ids: Arc::new(Fixed(AtomicU64::new(0))),
            segment_bytes: 16 << 10,
            ..Options::default()
        },
    )
    .unwrap();
    history(&engine);
    engine.close().unwrap();
    let mut out: BTreeMap<&'static str, Seeds> = BTreeMap::new();
    let mut add = |decoder, name: String, bytes: Vec<u8>| {
        out.entry(decoder).or_default().insert(name, bytes);
    };
    let store = std::fs::read(dir.path().join("store.json")).unwrap();
    add("store-json", "store".into(), store);
    let layout = crate::store::Layout {
        root: dir.path().to_owned(),
        fs: Options::default().fs,
    };
    let mut segments = reader::segments(&layout).unwrap();
    for (n, segment) in segments.iter().enumerate() {
        let bytes = std::fs::read(&segment.path).unwrap();
        match &segment.compacted {
            Some(header) => {
                // Without the bytes of runs.
                let meta = header.meta_bytes().min(bytes.len());
                add("compacted", format!("{n}"), bytes[..meta].to_vec());
            }
            None => add("segment-header", format!("{n}"), bytes[..128].to_vec()),
        }
        let name = segment.path.file_name().unwrap().to_str().unwrap();
        add("names", format!("segment-{n}"), name.as_bytes().to_vec());
        add("segment", format!("{n}"), bytes);
    }
    // One of each kind of row and key: names of the kinds, so that the newest of each stands for all.
    let start = Applied {
        position: crate::ids::Position(0),
        chain: [0; 32],
    };
    let mut count = 0;
    reader::replay(&mut segments, start, |step| {
        count += 1;
        if step.rows.is_empty() {
            return Ok(());
        }
        let encoded = frame::encode_rows(&step.rows);
        let tags: Vec<String> = step.rows.iter().map(tag).collect();
        let mut kinds = tags.clone();
        kinds.dedup();
        add("rows", kinds.join("-").chars().take(60).collect(), encoded);
        for (row, tag) in step.rows.iter().zip(tags) {
            match row {
                Row::Record { key, value } => {
                    let mut both = vec![key.len() as u8];
                    both.extend_from_slice(key);
                    both.extend_from_slice(value);
                    add("key", tag.clone(), key.clone());
                    add("record", format!("{tag}-{}", value.len().min(40)), both);
                    let version = crate::index::keys::version_key(step.timeline, key, step.epoch);
                    add("version-key", tag, version);
                }
                Row::Dead { value } | Row::Residue { value, .. } if !value.is_empty() => {
                    add("dead", tag, value.clone());
                }
                Row::Catalog { key, value } => {
                    let mut both = vec![key.len() as u8];
                    both.extend_from_slice(key);
                    both.extend_from_slice(value);
                    add("catalog", tag, both);
                }
                _ => {}
            }
        }
        Ok(())
    })
    .unwrap();
    let reply = [42u64, 7, 5].map(u64::to_be_bytes).concat();
    add("reply", "made".into(), reply);
    let mut applied = 4400u64.to_be_bytes().to_vec();
    applied.extend_from_slice(&[9; 32]);
    applied.extend_from_slice(&1_700_000_000_000_000_000u64.to_be_bytes());
    add("applied", "some".into(), applied);
    for (name, prefix, delimiter, number) in [
        ("keys", "", None, None),
        ("below", "dir/", Some("/"), None),
        ("versions", "dir/", None, Some(1_700_000_000_000_000_001)),
    ] {
        let bounds = Bounds::new(prefix, delimiter, None, None).unwrap();
        let mut both = vec![prefix.len() as u8];
        both.extend_from_slice(prefix.as_bytes());
        both.extend_from_slice(bounds.token(&format!("{prefix}last"), number).as_bytes());
        add("list-token", name.into(), both);
    }
    assert!(count > 10);
    let written = segments.iter().find(|s| s.compacted.is_none()).unwrap();
    let first = std::fs::read(&written.path).unwrap();
    let head = &first[128..];
    add(
        "frame-header",
        "first".into(),
        head[..HEADER_BYTES + 64].to_vec(),
    );
    add("names", "key".into(), b"a/b//c/../d".to_vec());
    add("names", "id".into(), "5a".repeat(16).into_bytes());
    out
}

/// A short name of what a row is.
fn tag(row: &Row) -> String {
    match row {
        Row::Record { key, .. } => format!("record{}", key[0]),
        Row::Catalog { key, .. } => format!("catalog{}", key[0]),
        Row::Dead { .. } => "dead".into(),
        Row::Reply { .. } => "reply".into(),
        Row::Drop { .. } => "drop".into(),
        Row::Free { .. } => "free".into(),
        Row::Empty => "empty".into(),
        Row::Skipped { .. } => "skipped".into(),
        Row::Residue { .. } => "residue".into(),
    }
}

/// Something of everything.
fn history(engine: &Engine) {
    let me = Caller::default();
    let root = engine
        .create_root(CreateRoot {
            name: "root".into(),
            ..CreateRoot::default()
        })
        .unwrap()
        .id;
    let volume = engine
        .volume(Point::Now(root), VolumeOptions::default())
        .unwrap();
    let node = |kind, target| NewNode {
        kind,
        mode: 0o644,
        rdev: 0,
        target,
    };
    let make = |name: &[u8], kind, target| {
        let node = node(kind, target);
        volume.create(&me, Ino::ROOT, name, &node).unwrap().ino
    };
    let file = make(b"file", NodeKind::File, &[]);
    make(b"link", NodeKind::Symlink, b"file");
    make(b"dir", NodeKind::Directory, &[]);
    volume.link(&me, file, Ino::ROOT, b"second").unwrap();
    volume
        .set_xattr(&me, file, b"user.a", b"value", XattrMode::Set)
        .unwrap();
    let write = |offset, len: usize| {
        let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        volume
            .write(&me, file, offset, &bytes, WriteOptions::default())
            .unwrap();
    };
    write(0, 100);
    write(50, 20_000);
    write(5_000, 30_000);
    volume.create_unlinked(&me, Ino::ROOT, 0o600).unwrap();
    let options = PutOptions {
        durability: Durability::Memory,
        ..PutOptions::default()
    };
    volume
        .objects()
        .put("object", &vec![7; SEALED_BYTES], &options)
        .unwrap();
    let snapshot = engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "snapshot".into(),
            source: Point::Now(root),
            labels: BTreeMap::new(),
            durability: Durability::Memory,
        })
        .unwrap()
        .id;
    let fork = engine
        .fork(ForkRequest {
            id: None,
            name: "fork".into(),
            source: Point::Snapshot(snapshot),
            settings: Default::default(),
            durability: Durability::Memory,
        })
        .unwrap()
        .id;
    write(0, 20_000);
    engine.delete_timeline(fork).unwrap();
    engine.delete_snapshot(snapshot).unwrap();
    let all = crate::gc::GcOptions {
        full: true,
        ..crate::gc::GcOptions::default()
    };
    engine.gc(all).unwrap();
    write(100, 10);
}
