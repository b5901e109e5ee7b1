//! Random damage. `SEED` and `ROUNDS` choose the runs; with `FLIPS` set, all damage is a single flipped bit.

use std::collections::BTreeMap;
use std::fs;

use crate::store::*;

#[test]
fn random_damage_gives_the_right_bytes_or_an_error() {
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(default)
    };
    let first: u64 = number("SEED", 1);
    let rounds: u64 = number("ROUNDS", 520);
    eprintln!(
        "seeds {first} to {} (repeat one with SEED=<it> ROUNDS=1)",
        first + rounds - 1
    );
    let flips = std::env::var_os("FLIPS").is_some();
    let fixture = fixture();
    let mut seen: BTreeMap<(String, Noticed), u32> = BTreeMap::new();
    for seed in first..first + rounds {
        let mut r = Random(seed);
        let closed = r.below(3) > 0;
        let dir = fixture.scratch(closed);
        let part = match r.below(20) {
            0..=8 => "log",
            9..=11 => "objects",
            12..=18 => "index",
            _ => "store.json",
        };
        let target = dir.path().join(part);
        let candidates: Vec<_> = if target.is_file() {
            vec![target]
        } else {
            files(&target)
                .into_iter()
                .filter(|p| fs::metadata(p).unwrap().len() > 0)
                .collect()
        };
        let path = &candidates[r.below(candidates.len() as u64) as usize];
        let len = fs::metadata(path).unwrap().len();
        let at = r.below(len) as usize;
        // What is behind the last sync may be lost as a whole, so a killed store only gets single flips.
        let kind = if closed && !flips { r.below(10) } else { 0 };
        let mut hit = true;
        let what = match kind {
            0..=6 => format!("bit {} of byte {at}", r.below(8)),
            7 => format!("64 bytes from {at} on, zeroed"),
            8 => format!("cut to {at}"),
            _ => format!("byte {at}"),
        };
        let what = format!(
            "seed {seed}: {}: {what}",
            path.strip_prefix(dir.path()).unwrap().display()
        );
        let bit = r.below(8);
        damage(path, |bytes| {
            let before = bytes.clone();
            match kind {
                0..=6 => bytes[at] ^= 1 << bit,
                7 => {
                    let end = (at + 64).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                8 => bytes.truncate(at),
                _ => bytes[at] = r.next() as u8,
            }
            hit = *bytes != before;
        });
        let (noticed, text) = fixture.examine(dir.path(), &what);
        *seen.entry((part.to_owned(), noticed)).or_default() += 1;
        if hit && closed && (part == "log" || part == "objects") {
            assert!(noticed != Noticed::No, "{what}: nobody noticed");
        }
        if noticed == Noticed::Check && part == "log" {
            assert!(
                text.contains("error: log/") || text.contains("error: log:"),
                "{what}: {text}"
            );
        }
    }
    // None was read wrongly: that fails at once.
    for ((part, noticed), count) in seen {
        eprintln!("{part}: {noticed:?} {count}");
    }
}
