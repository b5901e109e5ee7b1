//! The object interface against a sorted map, and against the files that it shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use storage_engine::objects::{
    ByteRange, Condition, ListRequest, ObjectVersion, PutOptions, SEALED_BYTES, VersionsRequest,
};
use storage_engine::*;

struct Store {
    dir: tempfile::TempDir,
    engine: Option<Engine>,
    base: TimelineId,
    /// The test has damaged it.
    damaged: bool,
}

impl Store {
    fn new(retain: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path(), Options::default()).unwrap();
        let base = engine
            .create_root(CreateRoot {
                name: "base".into(),
                settings: Settings {
                    retain,
                    ..Settings::default()
                },
                ..Default::default()
            })
            .unwrap()
            .id;
        Self {
            dir,
            engine: Some(engine),
            base,
            damaged: false,
        }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn volume(&self) -> Volume {
        open(self.engine(), Point::Now(self.base))
    }

    fn fork(&self, name: &str, source: Point, retain: Duration) -> TimelineId {
        self.engine()
            .fork(ForkRequest {
                id: None,
                name: name.into(),
                source,
                settings: Settings {
                    retain,
                    ..Settings::default()
                },
                durability: Durability::Memory,
            })
            .unwrap()
            .id
    }

    fn reopen(&mut self, cleanly: bool) {
        let engine = self.engine.take().unwrap();
        if cleanly {
            engine.close().unwrap();
        } else {
            drop(engine);
        }
        self.engine = Some(Engine::open(self.dir.path(), Options::default()).unwrap());
    }

    /// Nothing that these scenarios did may look like damage.
    fn check(&self) {
        let report = self.engine().check(|_| {}).unwrap();
        assert_eq!(report.errors, 0, "{:#?}", report.findings);
    }

    /// Files of their own, sealed or not.
    fn object_files(&self) -> usize {
        let mut n = 0;
        for dir in std::fs::read_dir(self.dir.path().join("objects")).unwrap() {
            n += std::fs::read_dir(dir.unwrap().path()).unwrap().count();
        }
        n
    }
}

/// Every scenario ends with a check of the whole store.
impl Drop for Store {
    fn drop(&mut self) {
        if self.engine.is_some() && !self.damaged && !std::thread::panicking() {
            self.check();
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn open(engine: &Engine, point: Point) -> Volume {
    engine.volume(point, VolumeOptions::default()).unwrap()
}

fn quick() -> PutOptions {
    PutOptions {
        durability: Durability::Memory,
        ..PutOptions::default()
    }
}

fn put(v: &Volume, key: &str, bytes: &[u8]) -> storage_engine::objects::Put {
    v.objects().put(key, bytes, &quick()).unwrap()
}

fn get(v: &Volume, key: &str) -> Vec<u8> {
    v.objects().get(key, None).unwrap().into_bytes().unwrap()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(e) => e.kind(),
    }
}

fn keys(v: &Volume) -> Vec<String> {
    let page = v.objects().list(&ListRequest::default()).unwrap();
    assert_eq!(page.next, None);
    page.objects.into_iter().map(|o| o.key).collect()
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small generator: the same numbers for the same seed, for ever.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Seeds to run: `SEED=n` repeats one.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}

/// Names whose directories sort differently from their keys.
const PARTS: &[&str] = &[
    "a", "a-", "a-b", "a.", "a.b", "a0", "a b", "ab", "b", "!", "ü", "~", "aa", "a!", "a!b", "0",
];

fn random_key(rng: &mut Rng) -> String {
    let depth = 1 + rng.below(3);
    let mut key = String::new();
    for n in 0..depth {
        if n > 0 {
            key.push('/');
        }
        key.push_str(rng.pick::<&str>(PARTS));
    }
    if rng.below(8) == 0 {
        key.push('/');
    }
    key
}

/// What a list must say, made from the sorted keys in the plainest way.
fn expected<'a>(
    all: impl Iterator<Item = &'a String>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
) -> Vec<(String, bool)> {
    let mut out: Vec<(String, bool)> = Vec::new();
    for key in all.filter(|k| k.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let common = delimiter.and_then(|d| {
            rest.find(d)
                .map(|at| key[..prefix.len() + at + d.len()].to_owned())
        });
        let item = match common {
            Some(common) => (common, true),
            None => (key.clone(), false),
        };
        if out.last() != Some(&item) && after.is_none_or(|a| item.0.as_str() > a) {
            out.push(item);
        }
    }
    out
}

fn check_list(v: &Volume, model: &BTreeMap<String, Vec<u8>>, rng: &mut Rng) {
    let prefix: String = match rng.below(4) {
        0 => String::new(),
        1 => random_key(rng),
        _ => {
            let key = random_key(rng);
            key.chars().take(rng.below(4)).collect()
        }
    };
    let delimiter = rng
        .pick(&[
            None,
            Some("/"),
            Some("/"),
            Some("-"),
            Some("a"),
            Some("b/"),
            Some("/a"),
        ])
        .map(str::to_owned);
    let start_after = (rng.below(3) == 0).then(|| {
        let mut after = random_key(rng);
        if rng.below(3) == 0 {
            after.push('x');
        }
        after
    });
    let wanted = expected(
        model.keys(),
        &prefix,
        delimiter.as_deref(),
        start_after.as_deref(),
    );
    let max = 1 + rng.below(9);
    let mut request = ListRequest {
        prefix,
        delimiter,
        start_after,
        token: None,
        max,
    };
    let mut got = Vec::new();
    loop {
        let page = v.objects().list(&request).unwrap();
        assert!(page.objects.len() + page.common_prefixes.len() <= max);
        let mut items: Vec<(String, bool)> = page
            .objects
            .iter()
            .map(|o| (o.key.clone(), false))
            .chain(page.common_prefixes.iter().map(|p| (p.clone(), true)))
            .collect();
        items.sort();
        for o in &page.objects {
            assert_eq!(o.size, model[&o.key].len() as u64);
        }
        got.extend(items);
        match page.next {
            Some(next) => request.token = Some(next),
            None => break,
        }
        assert!(got.len() <= wanted.len(), "{request:?} goes on for ever");
    }
    assert_eq!(got, wanted, "{request:?}");
}

/// Whether a file and a directory would have one name.
fn collides(model: &BTreeMap<String, Vec<u8>>, key: &str) -> bool {
    let path = key.trim_end_matches('/');
    let below = format!("{path}/");
    let as_dir = key.ends_with('/');
    let parent_is_file = path
        .match_indices('/')
        .any(|(at, _)| model.contains_key(&path[..at]));
    let is_other = if as_dir {
        model.contains_key(path)
    } else {
        model.keys().any(|k| k.starts_with(&below))
    };
    parent_is_file || is_other
}

#[test]
fn keys_behave_like_a_sorted_map() {
    for seed in seeds(24) {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let mut store = Store::new(Duration::ZERO);
        let mut v = store.volume();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for step in 0..150 {
            let key = random_key(&mut rng);
            match rng.below(10) {
                0..=4 => {
                    let len = if key.ends_with('/') {
                        0
                    } else {
                        *rng.pick(&[0, 1, 900, 1024, 1025, 5000, 131_072, 140_000])
                    };
                    let data = bytes(seed * 1000 + step, len);
                    let result = v.objects().put(&key, &data, &quick());
                    if collides(&model, &key) {
                        let kind = kind(result);
                        assert!(
                            matches!(kind, ErrorKind::IsADirectory | ErrorKind::NotADirectory),
                            "{key}: {kind:?}"
                        );
                    } else {
                        let put = result.unwrap();
                        assert_eq!(put.size, data.len() as u64);
                        let info = v.objects().head(&key).unwrap();
                        assert_eq!((info.etag, info.size), (put.etag, put.size));
                        model.insert(key, data);
                    }
                }
                5..=6 => {
                    let there = model.remove(&key).is_some();
                    assert_eq!(v.objects().delete(&key).unwrap(), there, "{key}");
                }
                7 => match model.get(&key) {
                    Some(data) => {
                        assert_eq!(&get(&v, &key), data);
                        let (a, b) = (rng.below(data.len() + 2), rng.below(data.len() + 2));
                        let range = ByteRange::Inclusive(a.min(b) as u64, a.max(b) as u64);
                        let wanted = data
                            .get(a.min(b)..(a.max(b) + 1).min(data.len()))
                            .unwrap_or_default();
                        match v.objects().get(&key, Some(range)) {
                            Ok(reader) => assert_eq!(reader.into_bytes().unwrap(), wanted),
                            Err(e) => {
                                assert_eq!(e.kind(), ErrorKind::Range);
                                assert!(wanted.is_empty());
                            }
                        }
                    }
                    None => assert_eq!(kind(v.objects().get(&key, None)), ErrorKind::NotFound),
                },
                _ => check_list(&v, &model, &mut rng),
            }
            if step == 80 {
                drop(v);
                store.reopen(rng.below(2) == 0);
                v = store.volume();
            }
        }
        for (key, data) in &model {
            if !key.ends_with('/') {
                assert_eq!(&get(&v, key), data);
            }
        }
        // When the keys are gone, nothing that the puts have made is left.
        for key in model.keys() {
            assert!(v.objects().delete(key).unwrap());
        }
        assert_eq!(v.read_dir(Ino::ROOT, 0, 10).unwrap(), []);
        let usage = store.engine().usage(store.base).unwrap();
        assert_eq!(
            (usage.inodes, usage.logical_bytes, usage.allocated_bytes),
            (1, 0, 0),
            "seed {seed}"
        );
        assert_eq!(v.reap_all().unwrap(), 0);
    }
}

/// A tag, and the bytes that have it.
type Tagged = (String, Vec<u8>);

/// A model of history: what each key was at every closed epoch.
#[test]
fn every_version_is_listed_and_can_be_read() {
    for seed in seeds(12) {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let mut store = Store::new(HOUR);
        let mut v = store.volume();
        // Per key, newest last: the tag and bytes, or nothing for a deletion.
        let mut model: BTreeMap<String, Vec<Option<Tagged>>> = BTreeMap::new();
        let mut now: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for step in 0..70 {
            let key = random_key(&mut rng);
            match rng.below(10) {
                0..=5 if !collides(&now, &key) => {
                    let len = if key.ends_with('/') {
                        0
                    } else {
                        *rng.pick(&[10, 3000, 200_000])
                    };
                    let data = bytes(seed * 999 + step, len);
                    let put = put(&v, &key, &data);
                    let versions = model.entry(key.clone()).or_default();
                    // A directory that is a key has one version for as long as it is one.
                    if !(key.ends_with('/') && now.contains_key(&key)) {
                        versions.push(Some((put.etag, data.clone())));
                    }
                    now.insert(key, data);
                }
                0..=5 => {}
                6..=8 => {
                    let key = match now.len() {
                        0 => key,
                        n => now.keys().nth(rng.below(n)).unwrap().clone(),
                    };
                    if v.objects().delete(&key).unwrap() {
                        now.remove(&key).unwrap();
                        model.get_mut(&key).unwrap().push(None);
                    }
                }
                _ => {
                    // A change that is no version.
                    if let Some(key) = now.keys().next() {
                        let ino = v.resolve(key.as_bytes()).unwrap().ino;
                        let set = SetAttr {
                            mode: Some(rng.below(0o777) as u32),
                            ..SetAttr::default()
                        };
                        v.set_attr(&Caller::default(), ino, &set).unwrap();
                        store.engine().tick().unwrap();
                    }
                }
            }
            if step == 40 {
                drop(v);
                store.reopen(true);
                v = store.volume();
            }
        }
        let all = all_versions(&v, 1 + rng.below(7));
        let mut listed: BTreeMap<String, Vec<ObjectVersion>> = BTreeMap::new();
        for version in all {
            listed.entry(version.key.clone()).or_default().push(version);
        }
        assert_eq!(
            listed.keys().collect::<Vec<_>>(),
            model.keys().collect::<Vec<_>>()
        );
        for (key, versions) in &model {
            let got = &listed[key];
            assert_eq!(got.len(), versions.len(), "{key}: {got:?}");
            for (n, (got, wanted)) in got.iter().zip(versions.iter().rev()).enumerate() {
                assert_eq!(got.latest, n == 0);
                match wanted {
                    None => {
                        assert!(got.deleted);
                        assert_eq!(
                            kind(v.objects().head_version(key, got.version)),
                            ErrorKind::NotFound
                        );
                    }
                    Some((etag, data)) => {
                        assert!(!got.deleted);
                        assert_eq!((&got.etag, got.size), (etag, data.len() as u64));
                        let info = v.objects().head_version(key, got.version).unwrap();
                        assert_eq!((&info.etag, info.version), (etag, got.version));
                        let reader = v.objects().get_version(key, got.version, None).unwrap();
                        assert_eq!(&reader.into_bytes().unwrap(), data);
                    }
                }
            }
            assert!(got.windows(2).all(|w| w[0].version > w[1].version));
            if let Some(Some(_)) = versions.last() {
                assert_eq!(v.objects().head(key).unwrap().version, got[0].version);
            }
        }
        // The keys that are there now are those whose newest version is no deletion.
        assert_eq!(keys(&v), now.keys().cloned().collect::<Vec<_>>());
    }
}

fn all_versions(v: &Volume, max: usize) -> Vec<ObjectVersion> {
    let mut request = VersionsRequest {
        max,
        ..VersionsRequest::default()
    };
    let mut all = Vec::new();
    loop {
        let page = v.objects().list_versions(&request).unwrap();
        assert!(page.versions.len() <= max);
        all.extend(page.versions);
        match page.next {
            Some(next) => request.token = Some(next),
            None => return all,
        }
    }
}

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
fn a_key_that_many_put_at_once_holds_one_of_them_whole() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    let lens = [10, 3000, 200_000, SEALED_BYTES + 77];
    std::thread::scope(|scope| {
        for t in 0..4u8 {
            let v = &v;
            scope.spawn(move || {
                for round in 0..25 {
                    let len = lens[(usize::from(t) + round) % lens.len()];
                    put(v, "dir/key", &vec![t + 1; len]);
                    if round % 7 == 0 {
                        v.objects().delete("dir/key").unwrap();
                    }
                }
            });
        }
        let v = &v;
        scope.spawn(move || {
            for _ in 0..300 {
                let Ok(reader) = v.objects().get("dir/key", None) else {
                    continue;
                };
                let size = reader.info().size;
                let got = reader.into_bytes().unwrap();
                assert_eq!(got.len() as u64, size);
                assert!(lens.contains(&got.len()));
                assert!(got.iter().all(|b| *b == got[0]), "a mixture");
            }
        });
    });
    put(&v, "dir/key", b"last");
    assert_eq!(get(&v, "dir/key"), b"last");
    let usage = store.engine().usage(store.base).unwrap();
    assert_eq!((usage.inodes, usage.logical_bytes), (3, 4));
    assert_eq!(v.reap_all().unwrap(), 0);
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
fn conditions_are_decided_on_the_state_that_is_changed() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    let with = |condition| PutOptions {
        condition,
        ..quick()
    };
    let o = v.objects();
    let absent = with(Condition::Absent);
    let first = o.put("k", b"1", &absent).unwrap();
    assert_eq!(kind(o.put("k", b"2", &absent)), ErrorKind::AlreadyExists);
    let second = o
        .put("k", b"2", &with(Condition::Etag(first.etag.clone())))
        .unwrap();
    assert_eq!(
        kind(o.put("k", b"3", &with(Condition::Etag(first.etag.clone())))),
        ErrorKind::Conflict
    );
    assert_eq!(
        kind(o.put("none", b"3", &with(Condition::Etag(first.etag.clone())))),
        ErrorKind::NotFound
    );
    assert_eq!(get(&v, "k"), b"2");
    let stale = Condition::Etag(first.etag);
    assert_eq!(
        kind(o.delete_if("k", &stale, Durability::Memory)),
        ErrorKind::Conflict
    );
    let fresh = Condition::Etag(second.etag);
    assert!(o.delete_if("k", &fresh, Durability::Memory).unwrap());
    assert_eq!(
        kind(o.delete_if("k/x/y", &fresh, Durability::Memory)),
        ErrorKind::NotFound
    );
    // Of many that may only make it, one does.
    let made = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|t| {
                let (v, absent) = (&v, &absent);
                scope.spawn(move || v.objects().put("once", &[t], absent).is_ok())
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .filter(|made| *made)
            .count()
    });
    assert_eq!(made, 1);
}

#[test]
fn forks_share_tags_until_they_write_and_do_not_see_each_other() {
    let store = Store::new(HOUR);
    let v = store.volume();
    for (key, len) in [("in", 100), ("log", 150_000), ("own", 400_000)] {
        put(&v, key, &bytes(9, len));
    }
    let fork = store.fork("fork", Point::Now(store.base), HOUR);
    let f = open(store.engine(), Point::Now(fork));
    for key in ["in", "log", "own"] {
        let (a, b) = (
            v.objects().head(key).unwrap(),
            f.objects().head(key).unwrap(),
        );
        assert_eq!((a.etag, a.size, a.modified), (b.etag, b.size, b.modified));
        assert!(f.objects().get_version(key, b.version, None).is_ok());
    }
    put(&f, "log", b"changed");
    f.objects().delete("in").unwrap();
    put(&f, "only/here", b"1");
    assert_eq!(get(&v, "log"), bytes(9, 150_000));
    assert_eq!(keys(&v), ["in", "log", "own"]);
    assert_eq!(keys(&f), ["log", "only/here", "own"]);
    let versions: Vec<(String, bool, bool)> = all_versions(&f, 2)
        .into_iter()
        .map(|x| (x.key, x.latest, x.deleted))
        .collect();
    let version = |key: &str, latest, deleted| (key.to_owned(), latest, deleted);
    assert_eq!(
        versions,
        [
            version("in", true, true),
            version("in", false, false),
            version("log", true, false),
            version("log", false, false),
            version("only/here", true, false),
            version("own", true, false),
        ]
    );
    // A past state is read-only and has one version of each.
    let past = open(
        store.engine(),
        Point::At(fork, store.engine().tick().unwrap()),
    );
    assert_eq!(keys(&past), ["log", "only/here", "own"]);
    assert_eq!(all_versions(&past, 10).len(), 3);
    assert_eq!(
        kind(past.objects().put("x", b"", &quick())),
        ErrorKind::ReadOnly
    );
    assert_eq!(kind(past.objects().delete("own")), ErrorKind::ReadOnly);
}

#[test]
fn a_restore_is_a_new_version_of_what_it_changes_and_of_nothing_else() {
    let store = Store::new(HOUR);
    let v = store.volume();
    put(&v, "kept", b"1");
    put(&v, "changed", b"1");
    put(&v, "removed", b"1");
    let snapshot = store
        .engine()
        .snapshot(SnapshotRequest {
            id: None,
            name: "s".into(),
            source: Point::Now(store.base),
            labels: BTreeMap::new(),
            durability: Durability::Memory,
        })
        .unwrap();
    put(&v, "changed", b"2");
    v.objects().delete("removed").unwrap();
    put(&v, "added", b"2");
    store
        .engine()
        .restore(store.base, Point::Snapshot(snapshot.id))
        .unwrap();
    assert_eq!(keys(&v), ["changed", "kept", "removed"]);
    let versions = all_versions(&v, 3);
    let of = |key: &str| -> Vec<Option<Vec<u8>>> {
        versions
            .iter()
            .filter(|x| x.key == key)
            .map(|x| {
                (!x.deleted).then(|| {
                    let reader = v.objects().get_version(key, x.version, None).unwrap();
                    reader.into_bytes().unwrap()
                })
            })
            .collect()
    };
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(of("kept"), [some("1")]);
    assert_eq!(of("changed"), [some("1"), some("2"), some("1")]);
    assert_eq!(of("removed"), [some("1"), None, some("1")]);
    assert_eq!(of("added"), [None, some("2")]);
}

#[test]
fn a_renamed_directory_moves_the_keys_below_it_in_the_history_too() {
    let store = Store::new(HOUR);
    let v = store.volume();
    put(&v, "d/k", b"1");
    put(&v, "d/k", b"2");
    store.engine().tick().unwrap();
    v.rename(
        &Caller::default(),
        Ino::ROOT,
        b"d",
        Ino::ROOT,
        b"e",
        RenameMode::Replace,
    )
    .unwrap();
    let versions = all_versions(&v, 1);
    let shown: Vec<_> = versions
        .iter()
        .map(|x| (x.key.as_str(), x.latest, x.deleted))
        .collect();
    assert_eq!(
        shown,
        [
            ("d/k", true, true),
            ("d/k", false, false),
            ("d/k", false, false),
            ("e/k", true, false),
        ]
    );
    assert_eq!(versions[0].version, versions[3].version);
    assert_eq!(
        v.objects().head("e/k").unwrap().version,
        versions[3].version
    );
    let read = |x: &ObjectVersion| {
        let reader = v.objects().get_version(&x.key, x.version, None).unwrap();
        reader.into_bytes().unwrap()
    };
    assert_eq!(read(&versions[1]), b"2");
    assert_eq!(read(&versions[2]), b"1");
    assert_eq!(read(&versions[3]), b"2");
    // With a delimiter, what was there counts too.
    let request = VersionsRequest {
        delimiter: Some("/".into()),
        ..VersionsRequest::default()
    };
    let page = v.objects().list_versions(&request).unwrap();
    assert_eq!(page.common_prefixes, ["d/", "e/"]);
    assert_eq!(page.versions, []);
}

#[test]
fn different_bytes_never_have_the_same_tag() {
    for seed in seeds(6) {
        println!("seed {seed}");
        let mut rng = Rng(seed);
        let store = Store::new(Duration::ZERO);
        let v = store.volume();
        let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut note = |v: &Volume| {
            let info = v.objects().head("k").unwrap();
            let bytes = get(v, "k");
            let before = seen.entry(info.etag).or_insert_with(|| bytes.clone());
            assert!(*before == bytes, "one tag for different bytes");
        };
        for step in 0..60 {
            let len = *rng.pick(&[100, 5000, 140_000, 300_000]);
            match rng.below(6) {
                0 => {
                    put(&v, "k", &bytes(seed * 100 + step, len));
                }
                _ => {
                    let Ok(file) = v.resolve(b"k") else {
                        continue;
                    };
                    // All within one epoch, over the same places, with the same lengths.
                    let at = *rng.pick(&[0, 50, 130_000]);
                    let new = [rng.next() as u8; 10];
                    v.write(
                        &Caller::default(),
                        file.ino,
                        at,
                        &new,
                        WriteOptions::default(),
                    )
                    .unwrap();
                    if rng.below(4) == 0 {
                        let size = Some(*rng.pick(&[0, 55, 4000, 200_000]));
                        let set = SetAttr {
                            size,
                            ..SetAttr::default()
                        };
                        note(&v);
                        v.set_attr(&Caller::default(), file.ino, &set).unwrap();
                    }
                }
            }
            note(&v);
        }
        assert!(seen.len() > 30, "seed {seed}: {}", seen.len());
    }
}

#[test]
fn without_retention_the_current_version_can_still_be_named() {
    let store = Store::new(Duration::ZERO);
    let v = store.volume();
    put(&v, "k", b"1");
    let first = v.objects().head("k").unwrap().version;
    store.engine().tick().unwrap();
    put(&v, "other", b"2");
    store.engine().tick().unwrap();
    let reader = v.objects().get_version("k", first, None).unwrap();
    assert_eq!(reader.into_bytes().unwrap(), b"1");
    put(&v, "k", b"2");
    assert_eq!(
        kind(v.objects().get_version("k", first, None)),
        ErrorKind::OutOfRetention
    );
    assert_eq!(all_versions(&v, 10).len(), 2);
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

#[test]
fn a_quota_is_kept_and_what_exceeds_it_leaves_nothing() {
    let store = Store::new(Duration::ZERO);
    let settings = Settings {
        quota: Quota {
            bytes: Some(500_000),
            inodes: Some(4),
        },
        ..Settings::default()
    };
    store
        .engine()
        .update_settings(store.base, settings)
        .unwrap();
    let v = store.volume();
    put(&v, "a", &bytes(1, 300_000));
    for len in [250_000, 300_000] {
        assert_eq!(
            kind(v.objects().put("b", &bytes(2, len), &quick())),
            ErrorKind::QuotaExceeded
        );
    }
    assert_eq!(store.object_files(), 1);
    assert_eq!(
        kind(v.objects().put("1/2/3/4", b"", &quick())),
        ErrorKind::QuotaExceeded
    );
    assert_eq!(keys(&v), ["a"]);
    assert_eq!(kind(v.resolve(b"1")), ErrorKind::NotFound);
}

#[test]
fn damage_is_reported_with_the_key_and_a_token_of_another_list_is_refused() {
    let mut store = Store::new(Duration::ZERO);
    let v = store.volume();
    put(&v, "a/big", &bytes(1, 400_000));
    put(&v, "b", b"1");
    let mut file = None;
    for dir in std::fs::read_dir(store.dir.path().join("objects")).unwrap() {
        for entry in std::fs::read_dir(dir.unwrap().path()).unwrap() {
            file = Some(entry.unwrap().path());
        }
    }
    store.damaged = true;
    flip(&file.unwrap(), 200_000);
    let error = v
        .objects()
        .get("a/big", None)
        .unwrap()
        .into_bytes()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("a/big"), "{error}");
    let part = v
        .objects()
        .get("a/big", Some(ByteRange::Inclusive(0, 99_999)))
        .unwrap();
    assert!(part.into_bytes().unwrap() == bytes(1, 400_000)[..100_000]);

    let mut request = ListRequest {
        max: 1,
        ..ListRequest::default()
    };
    let token = v.objects().list(&request).unwrap().next;
    assert!(token.is_some());
    request.token = token;
    assert_eq!(v.objects().list(&request).unwrap().objects[0].key, "b");
    request.prefix = "a".into();
    assert_eq!(kind(v.objects().list(&request)), ErrorKind::InvalidArgument);
    request.token = Some("nonsense".into());
    assert_eq!(kind(v.objects().list(&request)), ErrorKind::InvalidArgument);
}

fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut content = std::fs::read(path).unwrap();
    content[at] ^= 1;
    std::fs::write(path, content).unwrap();
}
