//! Keys and lists against a sorted map.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_engine::objects::{ByteRange, ListRequest};
use storage_engine::*;

use crate::common::*;

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
