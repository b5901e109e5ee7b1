//! Versions: forks, restores, renames and retention.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_engine::objects::{ObjectVersion, VersionsRequest};
use storage_engine::*;

use crate::common::*;

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
