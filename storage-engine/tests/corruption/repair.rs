//! Indexes made anew from logs that are whole, and from damaged ones.

use std::fs;

use storage_engine::*;

use crate::store::*;

fn opened(dir: &std::path::Path) -> Result<Engine> {
    Engine::open(dir, options())
}

/// How many files of all states are read right; none is read wrongly.
fn readable(fixture: &Fixture, engine: &Engine, what: &str) -> usize {
    let mut right = 0;
    for (point, expected) in &fixture.states {
        let Ok(v) = engine.volume(*point, VolumeOptions::default()) else {
            continue;
        };
        for (path, bytes) in expected {
            let read = v
                .resolve(path.as_bytes())
                .and_then(|a| v.read(a.ino, 0, a.size as usize + 1));
            if let Ok(read) = read
                && read == *bytes
            {
                right += 1;
            } else {
                eprintln!("{what}: {path} of {point:?} is not what it was");
            }
        }
    }
    right
}

#[test]
fn a_damaged_index_is_made_anew_from_a_whole_log() {
    let fixture = fixture();
    let all: usize = fixture.states.iter().map(|(_, tree)| tree.len()).sum();
    for (n, table) in tables(&fixture.closed).into_iter().enumerate() {
        let dir = fixture.scratch(true);
        let path = dir
            .path()
            .join(table.strip_prefix(&fixture.closed).unwrap());
        damage(&path, |bytes| {
            for at in (0..bytes.len()).step_by(97) {
                bytes[at] ^= 0x55;
            }
        });
        let repair = Engine::repair(dir.path(), options()).unwrap();
        assert!(repair.lost.is_empty(), "{repair:?}");
        assert!(repair.frames > 40, "{repair:?}");
        let (noticed, text) = fixture.examine(dir.path(), &format!("table {n}"));
        assert!(noticed == Noticed::No, "{text}");
        let engine = opened(dir.path()).unwrap();
        assert_eq!(readable(&fixture, &engine, "a damaged table"), all);
        assert!(
            Engine::repair(dir.path(), options()).is_err(),
            "it is owned"
        );
    }
}

#[test]
fn what_a_damaged_log_still_says_is_kept_and_the_rest_is_told() {
    let fixture = fixture();
    let all: usize = fixture.states.iter().map(|(_, tree)| tree.len()).sum();
    let logs = segments(&fixture.closed);
    assert!(logs.len() > 2);
    let mut random = Random(5);
    for (n, log) in logs.iter().enumerate() {
        for turn in 0..6 {
            let dir = fixture.scratch(true);
            let path = dir.path().join(log.strip_prefix(&fixture.closed).unwrap());
            let what = format!("segment {n}, turn {turn}");
            if turn == 5 && n > 0 {
                fs::remove_file(&path).unwrap();
            } else {
                damage(&path, |bytes| {
                    let at = if turn == 4 {
                        30
                    } else {
                        128 + random.below(bytes.len() as u64 - 128) as usize
                    };
                    bytes[at] ^= 1;
                });
            }
            let missing = turn == 5 && n > 0;
            fs::remove_dir_all(dir.path().join("index")).unwrap();
            let before = opened(dir.path()).err();
            let repair = match Engine::repair(dir.path(), options()) {
                Ok(repair) => repair,
                Err(e) => {
                    assert_named(&e, &what);
                    continue;
                }
            };
            // The end of the log cannot be told from one that was never written.
            let end = n + 1 == logs.len();
            // Of a damaged header the frames say all that it said.
            assert!(end || turn == 4 || before.is_some(), "{what}: it opened");
            assert!(end || !repair.lost.is_empty(), "{what}: {repair:?}");
            for lost in &repair.lost {
                assert!(
                    lost.path.starts_with("log/") && lost.to >= lost.from,
                    "{lost:?}"
                );
            }
            let engine = match opened(dir.path()) {
                Ok(engine) => engine,
                Err(e) => panic!("{what}: {e}; {repair:#?}"),
            };
            let right = readable(&fixture, &engine, &what);
            // A bit hits one commit. (Of the first ones everything depends.)
            if !missing && turn < 4 && n > 0 {
                assert!(
                    right * 10 >= all * 8,
                    "{what}: {right} of {all}: {repair:#?}"
                );
            }
            println!(
                "{what}: {right} of {all} are right, {} stretches lost",
                repair.lost.len()
            );
        }
    }
}
