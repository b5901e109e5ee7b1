//! What only happens to very large objects: unit tests make the steps so small that it happens at once.

use std::io::Read;

use crate::objects::{Condition, PutOptions};
use crate::{
    Caller, CreateRoot, Durability, Engine, ErrorKind, Options, Point, Volume, VolumeOptions,
    WriteOptions,
};

fn volume() -> (tempfile::TempDir, Volume) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let root = CreateRoot {
        name: "base".into(),
        ..Default::default()
    };
    let base = engine.create_root(root).unwrap().id;
    let volume = engine
        .volume(Point::Now(base), VolumeOptions::default())
        .unwrap();
    (dir, volume)
}

fn data(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i % 251) as u8).collect()
}

fn quick() -> PutOptions {
    PutOptions {
        durability: Durability::Memory,
        ..PutOptions::default()
    }
}

#[test]
fn an_object_whose_records_take_several_commits_appears_at_once_and_counts_once() {
    let (_dir, v) = volume();
    let engine = v.engine().clone();
    let empty = engine.usage(v.timeline()).unwrap();
    for len in [524_288, 524_289, 1_048_576, 1_500_001] {
        let data = data(len);
        let put = v.objects().put("d/large", &data, &quick()).unwrap();
        let info = v.objects().head("d/large").unwrap();
        assert_eq!((info.etag, info.size), (put.etag, u64::from(len)));
        let ino = v.resolve(b"d/large").unwrap().ino;
        assert!(v.read(ino, 0, len as usize).unwrap() == data);
        assert!(v.sealed_file(ino).unwrap().is_some());
        assert_eq!(v.attr(ino).unwrap().nlink, 1);
        let usage = engine.usage(v.timeline()).unwrap();
        assert_eq!(
            (usage.logical_bytes, usage.allocated_bytes, usage.inodes),
            (u64::from(len), u64::from(len), empty.inodes + 2)
        );
        assert_eq!(v.reap_all().unwrap(), 0);
    }
    v.objects().delete("d/large").unwrap();
    let after = engine.usage(v.timeline()).unwrap();
    assert_eq!((after.logical_bytes, after.allocated_bytes), (0, 0));
    assert_eq!(after.inodes, empty.inodes);
    assert_eq!(v.reap_all().unwrap(), 0);
}

#[test]
fn a_large_object_that_may_not_be_put_leaves_no_inode() {
    let (_dir, v) = volume();
    v.objects().put("k", b"there", &quick()).unwrap();
    let before = v.engine().usage(v.timeline()).unwrap();
    let options = PutOptions {
        condition: Condition::Absent,
        ..quick()
    };
    let error = v
        .objects()
        .put("k", &data(1_500_000), &options)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let after = v.engine().usage(v.timeline()).unwrap();
    assert_eq!(
        (before.logical_bytes, before.allocated_bytes, before.inodes),
        (after.logical_bytes, after.allocated_bytes, after.inodes)
    );
    assert_eq!(v.reap_all().unwrap(), 0);
}

#[test]
fn a_long_read_shows_one_state_whatever_is_written_and_removed_meanwhile() {
    let (_dir, v) = volume();
    let data = data(2_000_000);
    v.objects().put("k", &data, &quick()).unwrap();
    let ino = v.resolve(b"k").unwrap().ino;
    for removed in [false, true] {
        let wanted = v.read(ino, 0, data.len()).unwrap();
        let mut reader = v.objects().get("k", None).unwrap();
        let mut got = vec![0; 10_000];
        reader.read_exact(&mut got).unwrap();
        for at in [20_000, 600_000, 1_900_000] {
            let new = if removed { b"second" } else { b"firsts" };
            v.write(&Caller::default(), ino, at, new, WriteOptions::default())
                .unwrap();
        }
        if removed {
            v.objects().delete("k").unwrap();
        }
        got.extend(reader.into_bytes().unwrap());
        assert!(got == wanted);
    }
}
