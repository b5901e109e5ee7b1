//! Each kind of damage by itself.

use std::fs;
use std::path::Path;

use storage_engine::*;

use crate::store::*;

#[test]
fn both_stores_of_these_tests_are_sound() {
    let fixture = fixture();
    for closed in [true, false] {
        let dir = fixture.scratch(closed);
        assert!(segments(dir.path()).len() > 2);
        assert_eq!(files(&dir.path().join("objects")).len(), 1);
        let (noticed, text) = fixture.examine(dir.path(), "undamaged");
        assert_eq!(noticed, Noticed::No, "{text}");
    }
}

#[test]
fn each_kind_of_damage_is_noticed_and_named() {
    type Change = fn(&Path);
    // What is done, to which store, who notices at the latest, and what is said.
    let cases: &[(&str, bool, Change, Noticed, &str)] = &[
        (
            "a segment's magic",
            true,
            |d| damage(&segments(d)[0], |b| b[0] ^= 1),
            Noticed::Check,
            "its header is damaged",
        ),
        (
            "a segment of a newer format",
            true,
            |d| {
                damage(&segments(d)[1], |b| {
                    b[7] = 9;
                    let sum = crc32c::crc32c(&b[..64]).to_be_bytes();
                    b[64..68].copy_from_slice(&sum);
                });
            },
            Noticed::Opening,
            "segment format 9 is newer",
        ),
        (
            "the position in a segment's header, to be replayed",
            false,
            |d| damage(&segments(d)[1], |b| b[30] ^= 4),
            Noticed::Check,
            "its header is damaged",
        ),
        (
            "a segment's header and its first frame, to be replayed",
            false,
            |d| {
                damage(&segments(d)[1], |b| {
                    b[30] ^= 4;
                    b[130] ^= 4;
                });
            },
            Noticed::Opening,
            "cannot be placed",
        ),
        (
            "reserved bytes of a segment's header",
            true,
            |d| damage(&segments(d)[1], |b| b[100] ^= 4),
            Noticed::Check,
            "offset 68",
        ),
        (
            "a frame's header",
            true,
            |d| damage(&segments(d)[1], |b| b[128 + 40] ^= 4),
            Noticed::Check,
            "does not match its checksum",
        ),
        (
            "a frame's header, to be replayed",
            false,
            |d| damage(&segments(d)[1], |b| b[128 + 40] ^= 4),
            Noticed::Opening,
            "is damaged at offset 128",
        ),
        (
            "a frame's length",
            true,
            |d| damage(&segments(d)[1], |b| b[128 + 8] ^= 0x80),
            Noticed::Check,
            "there is no frame header",
        ),
        (
            "data in the middle of the log",
            false,
            |d| damage(&segments(d)[1], |b| b[128 + 128 + 5] ^= 4),
            Noticed::Opening,
            "is damaged at offset 128",
        ),
        (
            "zeros in the middle of the log",
            true,
            |d| damage(&segments(d)[1], |b| b[4096..8192].fill(0)),
            Noticed::Check,
            "cannot be read",
        ),
        (
            "zeros in the middle, to be replayed",
            false,
            |d| damage(&segments(d)[1], |b| b[4096..8192].fill(0)),
            Noticed::Opening,
            "is damaged at offset",
        ),
        (
            "a segment cut short",
            true,
            |d| damage(&segments(d)[1], |b| b.truncate(5000)),
            Noticed::Check,
            "cut short",
        ),
        (
            "the last segment cut short",
            true,
            |d| damage(segments(d).last().unwrap(), |b| b.truncate(1000)),
            Noticed::Check,
            "is known to have been written",
        ),
        (
            "the last segment empty",
            true,
            |d| damage(segments(d).last().unwrap(), Vec::clear),
            Noticed::Check,
            "segments are missing",
        ),
        (
            "a segment missing",
            true,
            |d| fs::remove_file(&segments(d)[1]).unwrap(),
            Noticed::Check,
            "the log before it is missing",
        ),
        (
            "a segment missing, to be replayed",
            false,
            |d| fs::remove_file(&segments(d)[1]).unwrap(),
            Noticed::Opening,
            "the log lacks the segment behind",
        ),
        (
            "the first segment missing",
            false,
            |d| fs::remove_file(&segments(d)[0]).unwrap(),
            Noticed::Opening,
            "the log lacks the segment before",
        ),
        (
            "the last segment missing",
            true,
            |d| fs::remove_file(segments(d).last().unwrap()).unwrap(),
            Noticed::Check,
            "is missing",
        ),
        (
            "all segments missing",
            true,
            |d| segments(d).iter().for_each(|s| fs::remove_file(s).unwrap()),
            Noticed::Opening,
            "segments are missing",
        ),
        (
            "the log missing",
            true,
            |d| fs::remove_dir_all(d.join("log")).unwrap(),
            Noticed::Opening,
            "segments are missing",
        ),
        (
            "two segments swapped",
            true,
            |d| {
                let s = segments(d);
                fs::rename(&s[0], d.join("x")).unwrap();
                fs::rename(&s[1], &s[0]).unwrap();
                fs::rename(d.join("x"), &s[1]).unwrap();
            },
            Noticed::Opening,
            "was renamed",
        ),
        (
            "an object file's byte",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b[200_000] ^= 1),
            Noticed::Reading,
            "/object cannot be read",
        ),
        (
            "an object file cut short",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b.truncate(100_000)),
            Noticed::Reading,
            "too short",
        ),
        (
            "an object file grown",
            true,
            |d| damage(&files(&d.join("objects"))[0], |b| b.push(0)),
            Noticed::Check,
            "it has 300001 bytes instead of 300000",
        ),
        (
            "an object file missing",
            true,
            |d| fs::remove_file(&files(&d.join("objects"))[0]).unwrap(),
            Noticed::Reading,
            "is missing, although stored data refers to it",
        ),
        (
            "all object files missing",
            true,
            |d| fs::remove_dir_all(d.join("objects")).unwrap(),
            Noticed::Reading,
            "is missing",
        ),
        (
            "an object file that can be written",
            true,
            |d| {
                use std::os::unix::fs::PermissionsExt;
                let path = &files(&d.join("objects"))[0];
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            },
            Noticed::Check,
            "can still be written",
        ),
        (
            "the data of an index file",
            true,
            |d| {
                damage(&tables(d)[0], |b| {
                    let middle = b.len() / 2;
                    b[middle] ^= 1;
                });
            },
            Noticed::Reading,
            "index",
        ),
        // What RocksDB does not open is made anew from the log.
        (
            "an index file cut short",
            true,
            |d| damage(&tables(d)[0], |b| b.truncate(1000)),
            Noticed::No,
            "",
        ),
        (
            "an index file missing",
            true,
            |d| fs::remove_file(&tables(d)[0]).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "the index's list of files cut short",
            true,
            |d| damage(&named(d, "MANIFEST"), |b| b.truncate(10)),
            Noticed::No,
            "",
        ),
        (
            "the index's list of files missing",
            true,
            |d| fs::remove_file(named(d, "MANIFEST")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "the index's pointer to it",
            true,
            |d| damage(&named(d, "CURRENT"), |b| b[3] ^= 1),
            Noticed::No,
            "",
        ),
        (
            "the index's pointer to it missing",
            true,
            |d| fs::remove_file(named(d, "CURRENT")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "the whole index missing",
            true,
            |d| fs::remove_dir_all(d.join("index")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "store.json missing",
            true,
            |d| fs::remove_file(d.join("store.json")).unwrap(),
            Noticed::No,
            "",
        ),
        (
            "store.json and its copy missing",
            true,
            |d| {
                fs::remove_file(d.join("store.json")).unwrap();
                fs::remove_file(d.join("store.copy")).unwrap();
            },
            Noticed::Opening,
            "restore it from a backup",
        ),
        (
            "store.json empty",
            true,
            |d| damage(&d.join("store.json"), Vec::clear),
            Noticed::No,
            "",
        ),
        (
            "store.json empty, and its copy damaged",
            true,
            |d| {
                damage(&d.join("store.json"), Vec::clear);
                damage(&d.join("store.copy"), |b| b[40] ^= 1);
            },
            Noticed::Opening,
            "store.json is damaged",
        ),
        (
            "store.json of a newer format",
            true,
            |d| {
                let path = d.join("store.json");
                replace(&path, "\"format\": 3", "\"format\": 4");
                replace(&path, "\"sum\"", "\"other\"");
            },
            Noticed::Opening,
            "has format 4",
        ),
        (
            "store.json of another store",
            true,
            |d| {
                let id = fs::read_to_string(d.join("store.json")).unwrap();
                let at = id.find("storeId\": \"").unwrap() + 11;
                let other = if &id[at..=at] == "0" { "1" } else { "0" };
                replace(
                    &d.join("store.json"),
                    &id[at - 1..=at],
                    &format!("\"{other}"),
                );
                replace(&d.join("store.json"), "\"sum\"", "\"other\"");
            },
            Noticed::Check,
            "belongs to another store",
        ),
    ];
    let fixture = fixture();
    let mut failed = Vec::new();
    for (what, closed, change, wanted, says) in cases {
        let case = std::panic::AssertUnwindSafe(|| {
            let dir = fixture.scratch(*closed);
            change(dir.path());
            let (noticed, text) = fixture.examine(dir.path(), what);
            assert!(
                noticed <= *wanted,
                "{what}: noticed by {noticed:?} instead of {wanted:?}: {text}"
            );
            if noticed == *wanted {
                assert!(text.contains(says), "{what}: {says:?} is not in: {text}");
            }
        });
        if std::panic::catch_unwind(case).is_err() {
            failed.push(what);
        }
    }
    assert!(failed.is_empty(), "these failed, see above: {failed:?}");
}

#[test]
fn an_older_store_json_put_back_does_no_harm() {
    let fixture = fixture();
    let dir = fixture.scratch(true);
    let path = dir.path().join("store.json");
    replace(&path, "\"term\": 1", "\"term\": 0");
    replace(&path, "\"sum\"", "\"other\"");
    for n in 0..2 {
        let engine = Engine::open(dir.path(), options()).unwrap();
        let v = engine
            .volume(fixture.states[0].0, VolumeOptions::default())
            .unwrap();
        write(&v, &format!("/after{n}"), 0, b"written");
        assert!(engine.check(|_| {}).unwrap().is_sound());
        drop(v);
        engine.close().unwrap();
    }
}
