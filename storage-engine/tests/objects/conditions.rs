//! Conditions, tags, quotas, puts at once, and damage.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use storage_engine::objects::{ByteRange, Condition, ListRequest, PutOptions, SEALED_BYTES};
use storage_engine::*;

use crate::common::*;

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
