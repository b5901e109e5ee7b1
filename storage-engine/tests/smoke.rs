//! The shortest way through the engine: everything at least once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use storage_engine::*;

fn caller() -> Caller {
    Caller::default()
}

fn file(mode: u32) -> NewNode<'static> {
    NewNode {
        kind: NodeKind::File,
        mode,
        rdev: 0,
        target: &[],
    }
}

fn put(v: &Volume, name: &str, data: &[u8]) -> Ino {
    let ino = match v.lookup(Ino::ROOT, name.as_bytes()) {
        Ok(a) => a.ino,
        Err(_) => {
            v.create(&caller(), Ino::ROOT, name.as_bytes(), &file(0o644))
                .unwrap()
                .ino
        }
    };
    assert_eq!(
        v.write(&caller(), ino, 0, data, WriteOptions::default())
            .unwrap(),
        data.len()
    );
    ino
}

fn get(v: &Volume, name: &str) -> Vec<u8> {
    let a = v.lookup(Ino::ROOT, name.as_bytes()).unwrap();
    v.read(a.ino, 0, a.size as usize).unwrap()
}

#[test]
fn forks_share_until_they_write_and_everything_survives_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    let big: Vec<u8> = (0..400_000u32).map(|i| (i * 7 % 251) as u8).collect();
    put(&v, "big", &big);
    put(&v, "small", b"hello");
    let snap = engine
        .snapshot(SnapshotRequest {
            id: None,
            name: "s".into(),
            source: Point::Now(base.id),
            labels: Default::default(),
            durability: Durability::Local,
        })
        .unwrap();
    let fork = engine
        .fork(ForkRequest {
            id: None,
            name: "f".into(),
            source: Point::Snapshot(snap.id),
            settings: Settings::default(),
            durability: Durability::Local,
        })
        .unwrap();
    let f = engine
        .volume(Point::Now(fork.id), VolumeOptions::default())
        .unwrap();
    assert_eq!(get(&f, "big"), big);
    let ino = f.lookup(Ino::ROOT, b"big").unwrap().ino;
    f.write(&caller(), ino, 130_000, b"changed", WriteOptions::default())
        .unwrap();
    put(&v, "small", b"HELLO, base");
    f.unlink(&caller(), Ino::ROOT, b"small").unwrap();
    let check = |engine: &Engine| {
        let v = engine
            .volume(Point::Now(base.id), VolumeOptions::default())
            .unwrap();
        let f = engine
            .volume(Point::Now(fork.id), VolumeOptions::default())
            .unwrap();
        let s = engine
            .volume(Point::Snapshot(snap.id), VolumeOptions::default())
            .unwrap();
        assert_eq!(get(&v, "big"), big);
        assert_eq!(get(&s, "small"), b"hello");
        assert_eq!(get(&v, "small"), b"HELLO, base");
        let mut changed = big.clone();
        changed[130_000..130_007].copy_from_slice(b"changed");
        assert_eq!(get(&f, "big"), changed);
        assert_eq!(
            f.lookup(Ino::ROOT, b"small").unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(engine.usage(fork.id).unwrap().divergent_bytes, 7);
        let names: Vec<_> = v
            .read_dir(Ino::ROOT, 0, 10)
            .unwrap()
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names, [b"big".to_vec(), b"small".to_vec()]);
    };
    check(&engine);
    drop((v, f));
    drop(engine); // as a crash would: nothing was flushed
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    check(&engine);
    engine.restore(base.id, Point::Snapshot(snap.id)).unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    assert_eq!(get(&v, "small"), b"hello");
    put(&v, "small", b"after restore");
    drop(v);
    engine.close().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    assert_eq!(get(&v, "small"), b"after restore");
    engine.delete_timeline(base.id).unwrap();
    engine.delete_snapshot(snap.id).unwrap();
    let f = engine
        .volume(Point::Now(fork.id), VolumeOptions::default())
        .unwrap();
    assert_eq!(get(&f, "big").len(), big.len());
    let locked = Engine::open(dir.path(), Options::default())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(locked.kind(), ErrorKind::Locked);
}

#[test]
fn an_index_whose_manifest_went_with_the_power_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let base = engine
        .create_root(CreateRoot {
            name: "base".into(),
            ..Default::default()
        })
        .unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    put(&v, "small", b"hello");
    drop(v);
    engine.close().unwrap();
    let index = dir.path().join("index");
    let current = std::fs::read_to_string(index.join("CURRENT")).unwrap();
    std::fs::remove_file(index.join(current.trim_end())).unwrap();
    let engine = Engine::open(dir.path(), Options::default()).unwrap();
    let v = engine
        .volume(Point::Now(base.id), VolumeOptions::default())
        .unwrap();
    assert_eq!(get(&v, "small"), b"hello");
    assert!(engine.recovery().replayed_frames > 0);
}
