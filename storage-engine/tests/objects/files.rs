//! Objects as files and files as objects; sealed files; readers and mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use storage_engine::objects::{ByteRange, Condition, PutOptions, SEALED_BYTES};
use storage_engine::*;

use crate::common::*;

#[test]
fn a_put_shows_as_a_file_and_a_file_as_an_object() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    let root = SetAttr {
        uid: Some(1000),
        gid: Some(1001),
        ..SetAttr::default()
    };
    v.set_attr(&Caller::default(), Ino::ROOT, &root).unwrap();
    let options = PutOptions {
        content_type: Some("text/plain".into()),
        metadata: BTreeMap::from([("Colour".into(), "blue".into())]),
        ..quick()
    };
    v.objects().put("d/e/f.txt", b"hello", &options).unwrap();
    let file = v.resolve(b"d/e/f.txt").unwrap();
    assert_eq!(v.read(file.ino, 0, 100).unwrap(), b"hello");
    assert_eq!((file.mode, file.uid, file.gid), (0o644, 1000, 1001));
    assert_eq!(v.xattr(file.ino, b"user.mime_type").unwrap(), b"text/plain");
    assert_eq!(
        v.xattr(file.ino, b"user.anabranch.meta.Colour").unwrap(),
        b"blue"
    );
    let before = v.objects().head("d/e/f.txt").unwrap();
    assert_eq!(before.content_type.as_deref(), Some("text/plain"));
    assert_eq!(before.metadata["Colour"], "blue");

    // A write into the file is a new version of the object; a change of the mode is not.
    v.write(
        &Caller::default(),
        file.ino,
        5,
        b", world",
        WriteOptions::default(),
    )
    .unwrap();
    let after = v.objects().head("d/e/f.txt").unwrap();
    assert_ne!(after.etag, before.etag);
    assert_eq!(get(&v, "d/e/f.txt"), b"hello, world");
    let set = SetAttr {
        mode: Some(0o4755),
        ..SetAttr::default()
    };
    v.set_attr(&Caller::default(), file.ino, &set).unwrap();
    assert_eq!(v.objects().head("d/e/f.txt").unwrap(), after);

    // A put replaces the file and leaves mode (without set-id) and owner; an old link keeps the bytes.
    let dir = v.resolve(b"d").unwrap().ino;
    v.link(&Caller::default(), file.ino, dir, b"old").unwrap();
    put(&v, "d/e/f.txt", b"new");
    let new = v.resolve(b"d/e/f.txt").unwrap();
    assert_ne!(new.ino, file.ino);
    assert_eq!((new.mode, new.uid, new.gid), (0o755, 1000, 1001));
    assert_eq!(get(&v, "d/old"), b"hello, world");
    assert_eq!(v.objects().head("d/e/f.txt").unwrap().metadata.len(), 0);

    // Directories made as files are not objects, and stay when they become empty.
    let node = |kind, target| NewNode {
        kind,
        mode: 0o755,
        rdev: 0,
        target,
    };
    let made = v
        .create(
            &Caller::default(),
            Ino::ROOT,
            b"made",
            &node(NodeKind::Directory, b""),
        )
        .unwrap();
    put(&v, "made/x", b"1");
    assert_eq!(kind(v.objects().head("made/")), ErrorKind::NotFound);
    assert!(v.objects().delete("made/x").unwrap());
    assert_eq!(v.attr(made.ino).unwrap().nlink, 2);
    v.objects().delete("d/e/f.txt").unwrap();
    assert_eq!(kind(v.resolve(b"d/e")), ErrorKind::NotFound);
    assert_eq!(keys(&v), ["d/old"]);

    // Symbolic links and names that are no text are not objects.
    v.create(
        &Caller::default(),
        Ino::ROOT,
        b"link",
        &node(NodeKind::Symlink, b"d/old"),
    )
    .unwrap();
    v.create(
        &Caller::default(),
        Ino::ROOT,
        b"\xff",
        &node(NodeKind::File, b""),
    )
    .unwrap();
    assert_eq!(keys(&v), ["d/old"]);
    assert_eq!(kind(v.objects().head("link")), ErrorKind::NotFound);
    assert!(!v.objects().delete("link").unwrap());
    assert_eq!(
        kind(v.objects().put("link", b"", &quick())),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        kind(v.objects().put("link/x", b"", &quick())),
        ErrorKind::NotADirectory
    );
    assert_eq!(
        kind(v.objects().put("d/old/x", b"", &quick())),
        ErrorKind::NotADirectory
    );
    assert_eq!(
        kind(v.objects().put("d", b"", &quick())),
        ErrorKind::IsADirectory
    );
}

#[test]
fn a_large_object_is_one_sealed_file_and_reads_back_in_every_way() {
    let mut store = Store::new(Duration::ZERO);
    for len in [SEALED_BYTES - 1, SEALED_BYTES, 1 << 20, (3 << 20) + 12_345] {
        let v = store.volume();
        let data = bytes(len as u64, len);
        let mut writer = v.objects().put_stream("big", quick()).unwrap();
        for part in data.chunks(70_001) {
            writer.write_all(part).unwrap();
        }
        assert_eq!(writer.size(), len as u64);
        let put = writer.finish().unwrap();
        assert_eq!(v.objects().head("big").unwrap().etag, put.etag);
        let ino = v.resolve(b"big").unwrap().ino;
        let sealed = v.sealed_file(ino).unwrap();
        assert_eq!(sealed.is_some(), len >= SEALED_BYTES);
        if let Some(mut sealed) = sealed {
            let mut all = Vec::new();
            sealed.read_to_end(&mut all).unwrap();
            assert!(all == data);
        }
        drop(v);
        store.reopen(false);
        let v = store.volume();
        assert!(get(&v, "big") == data);
        for (range, wanted) in [
            (ByteRange::From(100_000), &data[100_000..]),
            (ByteRange::Last(17), &data[len - 17..]),
            (ByteRange::Last(u64::MAX), &data[..]),
            (
                ByteRange::Inclusive(131_071, 131_072),
                &data[131_071..=131_072],
            ),
            (ByteRange::Inclusive(5, u64::MAX), &data[5..]),
        ] {
            let mut reader = v.objects().get("big", Some(range)).unwrap();
            assert_eq!(reader.remaining(), wanted.len() as u64);
            // In bits of odd sizes.
            let mut got = Vec::new();
            let mut bit = vec![0; 7001];
            loop {
                let n = reader.read(&mut bit).unwrap();
                if n == 0 {
                    break;
                }
                got.extend_from_slice(&bit[..n]);
            }
            assert!(got == wanted, "{range:?}");
        }
        for range in [
            ByteRange::From(len as u64),
            ByteRange::Last(0),
            ByteRange::Inclusive(9, 8),
        ] {
            assert_eq!(kind(v.objects().get("big", Some(range))), ErrorKind::Range);
        }
        // A write through the file interface ends the sealed state, and changes the tag.
        v.write(&Caller::default(), ino, 3, b"x", WriteOptions::default())
            .unwrap();
        assert!(v.sealed_file(ino).unwrap().is_none());
        assert_ne!(v.objects().head("big").unwrap().etag, put.etag);
    }
}

#[test]
fn a_put_that_is_not_finished_never_was() {
    let mut store = Store::new(Duration::ZERO);
    put(&store.volume(), "a/b", b"old");
    let before = store.engine().usage(store.base).unwrap();
    for len in [0, 1000, SEALED_BYTES + 1, 5 << 20] {
        let v = store.volume();
        let mut writer = v.objects().put_stream("a/b", quick()).unwrap();
        writer.write_all(&bytes(1, len)).unwrap();
        let mut other = v.objects().put_stream("new/dir/x", quick()).unwrap();
        other.write_all(&bytes(2, len)).unwrap();
        drop((writer, other));
        assert_eq!(store.object_files(), 0);
        assert_eq!(keys(&v), ["a/b"]);
    }
    // The process dies: what is left is at most a file that nothing refers to.
    {
        let v = store.volume();
        let mut writer = v.objects().put_stream("new/dir/x", quick()).unwrap();
        writer.write_all(&bytes(3, 5 << 20)).unwrap();
        std::mem::forget(writer);
    }
    store.reopen(false);
    let v = store.volume();
    assert_eq!(get(&v, "a/b"), b"old");
    assert_eq!(keys(&v), ["a/b"]);
    assert_eq!(kind(v.resolve(b"new")), ErrorKind::NotFound);
    assert_eq!(v.reap_all().unwrap(), 0);
    assert_eq!(store.engine().usage(store.base).unwrap(), before);
    // One that fails at the end leaves nothing either.
    let files = store.object_files();
    let mut options = quick();
    options.condition = Condition::Absent;
    let mut writer = v.objects().put_stream("a/b", options).unwrap();
    writer.write_all(&bytes(4, 1 << 20)).unwrap();
    assert_eq!(kind(writer.finish()), ErrorKind::AlreadyExists);
    assert_eq!(store.object_files(), files);
    assert_eq!(store.engine().usage(store.base).unwrap(), before);
}

#[test]
fn a_reader_goes_on_when_the_object_is_replaced_and_removed() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    for len in [1000, 200_000, 600_000] {
        let data = bytes(len as u64, len);
        put(&v, "x", &data);
        let mut reader = v.objects().get("x", None).unwrap();
        let mut got = vec![0; len / 2];
        reader.read_exact(&mut got).unwrap();
        put(&v, "x", b"something else");
        v.objects().delete("x").unwrap();
        got.extend(reader.into_bytes().unwrap());
        assert!(got == data);
    }
}

#[test]
fn what_is_removed_stays_for_a_mount_until_that_lets_it_go() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    put(&v, "d/k", b"old");
    let ino = v.resolve(b"d/k").unwrap().ino;
    let seen = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let observation = {
        let seen = Arc::clone(&seen);
        store.engine().observe(
            store.base,
            7,
            Arc::new(move |change| {
                seen.lock().unwrap().insert(format!("{change:?}"));
            }),
        )
    };
    put(&v, "d/k", b"new");
    assert_eq!(v.read(ino, 0, 10).unwrap(), b"old");
    assert!(seen.lock().unwrap().iter().any(|c| c.contains("Entry")));
    v.objects().delete("d/k").unwrap();
    // The old file, the new one, and the directory.
    assert_eq!(v.reap_all().unwrap(), 3);
    drop(observation);
    put(&v, "d/k", b"3");
    let ino = v.resolve(b"d/k").unwrap().ino;
    v.objects().delete("d/k").unwrap();
    assert_eq!(kind(v.attr(ino)), ErrorKind::Stale);
    assert_eq!(v.reap_all().unwrap(), 0);
}
