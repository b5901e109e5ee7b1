//! Random damage: single flipped bits by the thousand, and rougher kinds.
//!
//! `SEED` and `FLIPS` (or `ROUNDS`, of the rougher kinds) choose the runs. Half of the flips hit any byte of the store
//! with the same chance; the other half a kind of file first, so that the small ones are hit as well. Each damaged store is
//! read in every way, in `STATES` of its states, which are drawn anew each time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::populated::*;
use crate::store::Random;

/// So many stores are damaged at a time: an opening waits for threads to end now and then.
const WORKERS: u64 = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default)
}

/// What kind of file it is.
fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let name = path.file_name().unwrap().to_string_lossy();
    match text.split('/').next().unwrap() {
        "log" => "log",
        "objects" => "object file",
        "store.json" | "store.copy" => "store.json",
        "index" if name.ends_with(".sst") => "index table",
        "index" if name.starts_with("MANIFEST") => "index manifest",
        "index" => "index, other",
        // The lock, and the reserve: nothing is stored in them.
        _ => "nothing",
    }
}

/// A directory for stores that are written and thrown away thousands of times: in memory if there is some.
fn fast() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
    if std::env::var_os("TMPDIR").is_none() && room > 64 << 20 {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}

/// Where the damage is.
struct Target<'a> {
    image: &'a Image,
    file: usize,
    at: usize,
    closed: bool,
}

impl<'a> Target<'a> {
    fn choose(populated: &'a Populated, r: &mut Random) -> Self {
        let closed = r.below(3) > 0;
        let image = if closed {
            &populated.closed
        } else {
            &populated.killed
        };
        let mut candidates: Vec<usize> = (0..image.files.len())
            .filter(|n| !image.files[*n].bytes.is_empty())
            .collect();
        if r.below(2) == 0 {
            let mut kinds: Vec<_> = candidates
                .iter()
                .map(|n| kind(&image.files[*n].path))
                .collect();
            kinds.sort_unstable();
            kinds.dedup();
            let wanted = kinds[r.below(kinds.len() as u64) as usize];
            candidates.retain(|n| kind(&image.files[*n].path) == wanted);
        }
        let bytes = |n: &usize| image.files[*n].bytes.len() as u64;
        let mut at = r.below(candidates.iter().map(bytes).sum());
        for n in &candidates {
            if at < bytes(n) {
                return Self {
                    image,
                    file: *n,
                    at: at as usize,
                    closed,
                };
            }
            at -= bytes(n);
        }
        unreachable!()
    }

    fn path(&self) -> &'a PathBuf {
        &self.image.files[self.file].path
    }

    /// Whether the byte is in what the collector gave up, or shares its checksum: nobody needs it, and what was written
    /// there cannot be told any more.
    fn given_up(&self) -> bool {
        const BLOCK: usize = 4096;
        const SHARED: usize = 16 << 10;
        let bytes = &self.image.files[self.file].bytes;
        let from = self.at.saturating_sub(SHARED).next_multiple_of(BLOCK);
        kind(self.path()) == "log"
            && bytes[from..(self.at + SHARED).min(bytes.len())]
                .chunks_exact(BLOCK)
                .any(|block| block.iter().all(|b| *b == 0))
    }

    /// Whether the byte's block reaches into a run that the collector gave up and left in its place: a whole block of
    /// zeros there is what giving it back would have made of it.
    fn left_in_place(&self) -> bool {
        const BLOCK: usize = 4096;
        let bytes = &self.image.files[self.file].bytes;
        let run = left_behind();
        let Some(from) = bytes.windows(run.len()).position(|part| part == run) else {
            return false;
        };
        let block = self.at / BLOCK * BLOCK;
        block + BLOCK > from && block < from + run.len()
    }

    fn bytes(&self) -> Vec<u8> {
        self.image.files[self.file].bytes.clone()
    }
}

/// How often each kind of file was hit, and who noticed; and how many questions each way of reading refused.
#[derive(Default)]
struct Figures {
    noticed: BTreeMap<(&'static str, &'static str, Noticed), u32>,
    refused: BTreeMap<&'static str, u64>,
    /// Of stores that open: questions put, and refused, by the kind of file that was hit.
    questions: BTreeMap<&'static str, (u64, u64)>,
}

impl Figures {
    fn add(&mut self, populated: &Populated, target: &Target<'_>, outcome: &Outcome) {
        let kind = kind(target.path());
        let store = if target.closed { "closed" } else { "killed" };
        *self
            .noticed
            .entry((kind, store, outcome.noticed))
            .or_default() += 1;
        for n in &outcome.failed {
            *self.refused.entry(populated.asks[*n].0.way()).or_default() += 1;
        }
        if outcome.noticed != Noticed::Opening {
            let sums = self.questions.entry(kind).or_default();
            sums.0 += outcome.asked;
            sums.1 += outcome.failed.len() as u64;
        }
    }

    fn print(&self) {
        for ((kind, store, noticed), count) in &self.noticed {
            eprintln!("  {kind} ({store}): noticed by {noticed:?}: {count}");
        }
        for (kind, (put, refused)) in &self.questions {
            eprintln!(
                "  {kind}: of {put} questions {refused} were refused, the others answered right"
            );
        }
        eprintln!("  refused, by the way of reading: {:?}", self.refused);
    }
}

/// The states that are asked for.
fn states(populated: &Populated, r: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..populated.points.len()).collect();
    while all.len() > number("STATES", 1) as usize {
        all.swap_remove(r.below(all.len() as u64) as usize);
    }
    all
}

/// What must hold beyond right answers: who notices at the latest, and what else stays readable.
fn judge(populated: &Populated, target: &Target<'_>, outcome: &Outcome, what: &str, flip: bool) {
    let (kind, text) = (kind(target.path()), &outcome.text);
    let name = target.path().file_name().unwrap().to_string_lossy();
    let unneeded = target.given_up() || (!flip && target.left_in_place());
    if target.closed && (kind == "log" || kind == "object file") && !unneeded {
        assert!(outcome.noticed != Noticed::No, "{what}: nobody noticed");
    }
    match (kind, outcome.noticed) {
        (_, Noticed::No | Noticed::Mended) => {}
        ("log", _) => assert!(
            text.contains(&*name) || text.contains("log:") || text.contains("the log "),
            "{what}: {text}"
        ),
        ("object file" | "store.json", _) => assert!(text.contains(&*name), "{what}: {text}"),
        ("nothing", _) => panic!("{what}: {text}"),
        _ => assert!(text.contains("index"), "{what}: {text}"),
    }
    if !flip {
        return;
    }
    // One bit costs the bytes that share its checksum, and nothing else.
    if kind == "log" || kind == "object file" {
        let mut files = std::collections::BTreeSet::new();
        for n in &outcome.failed {
            let ask = &populated.asks[*n].0;
            assert!(ask.reads_data(), "{what}: {ask:?} was refused: {text}");
            if let Ask::Read(_, ino) = ask {
                files.insert(*ino);
            }
        }
        assert!(files.len() <= 1, "{what}: {files:?} were refused: {text}");
        if target.closed {
            assert!(outcome.noticed != Noticed::Opening, "{what}: {text}");
        }
    }
    // The log is whole, and what is in no table is in the log; of store.json there is a copy.
    if kind.starts_with("index") || kind == "store.json" {
        assert!(outcome.noticed != Noticed::Opening, "{what}: {text}");
    }
}

/// Runs all seeds, also behind one that fails, and fails then.
fn run(seeds: std::ops::Range<u64>, each: impl Fn(u64, &Path) + Sync) {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let dir = fast();
                let store = dir.path().join("store");
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let run = std::panic::AssertUnwindSafe(|| each(seed, &store));
                    if std::panic::catch_unwind(run).is_err() {
                        failed.lock().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(
        failed.is_empty(),
        "these seeds failed, see above: {failed:?}"
    );
}

#[test]
fn ten_thousand_flipped_bits_give_right_answers_or_errors_that_name_them() {
    let (first, flips) = (number("SEED", 1), number("FLIPS", 10_000));
    eprintln!(
        "seeds {first} to {} (repeat one with SEED=<it> FLIPS=1)",
        first + flips - 1
    );
    let populated = Populated::new();
    let figures = Mutex::new(Figures::default());
    let started = Instant::now();
    run(first..first + flips, |seed, store| {
        let mut r = Random(seed);
        let target = Target::choose(&populated, &mut r);
        let bit = r.below(8);
        let mut bytes = target.bytes();
        bytes[target.at] ^= 1 << bit;
        target.image.lay(store, target.file, &bytes);
        let what = format!(
            "SEED={seed} FLIPS=1: bit {bit} of byte {} of {} ({} store)",
            target.at,
            target.path().display(),
            if target.closed { "closed" } else { "killed" },
        );
        let outcome = populated.examine(store, &states(&populated, &mut r), &what);
        judge(&populated, &target, &outcome, &what, true);
        figures.lock().add(&populated, &target, &outcome);
    });
    eprintln!(
        "{flips} flips in {:.1?}, no wrong answer:",
        started.elapsed()
    );
    figures.into_inner().print();
}

#[test]
fn rougher_damage_gives_right_answers_or_errors_that_name_it() {
    let (first, rounds) = (number("SEED", 1), number("ROUNDS", 500));
    eprintln!(
        "seeds {first} to {} (repeat one with SEED=<it> ROUNDS=1)",
        first + rounds - 1
    );
    let populated = Populated::new();
    let figures = Mutex::new(Figures::default());
    run(first..first + rounds, |seed, store| {
        let mut r = Random(!seed);
        let target = loop {
            // What is behind the last sync may be lost as a whole.
            let target = Target::choose(&populated, &mut r);
            if target.closed {
                break target;
            }
        };
        let (mut bytes, at) = (target.bytes(), target.at);
        let what = match r.below(4) {
            0 => {
                let end = (at + 64).min(bytes.len());
                bytes[at..end].fill(0);
                "64 bytes zeroed from"
            }
            1 => {
                bytes.truncate(at);
                "cut to"
            }
            2 => {
                let end = (at / 4096 * 4096 + 4096).min(bytes.len());
                bytes[at / 4096 * 4096..end].fill(0);
                "a block of zeros around"
            }
            _ => {
                bytes[at] = r.next() as u8;
                "a byte at"
            }
        };
        let what = format!(
            "SEED={seed} ROUNDS=1: {what} {at} of {}",
            target.path().display()
        );
        target.image.lay(store, target.file, &bytes);
        let outcome = populated.examine(store, &states(&populated, &mut r), &what);
        if bytes != target.image.files[target.file].bytes {
            judge(&populated, &target, &outcome, &what, false);
        }
        figures.lock().add(&populated, &target, &outcome);
    });
    eprintln!("{rounds} rounds, no wrong answer:");
    figures.into_inner().print();
}
