//! A store for each scenario, and small helpers.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_engine::objects::{ListRequest, PutOptions};
use storage_engine::*;

pub struct Store {
    pub dir: tempfile::TempDir,
    pub engine: Option<Engine>,
    pub base: TimelineId,
    /// The test has damaged it.
    pub damaged: bool,
}

impl Store {
    pub fn new(retain: Duration) -> Self {
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

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub fn volume(&self) -> Volume {
        open(self.engine(), Point::Now(self.base))
    }

    pub fn fork(&self, name: &str, source: Point, retain: Duration) -> TimelineId {
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

    pub fn reopen(&mut self, cleanly: bool) {
        let engine = self.engine.take().unwrap();
        if cleanly {
            engine.close().unwrap();
        } else {
            drop(engine);
        }
        self.engine = Some(Engine::open(self.dir.path(), Options::default()).unwrap());
    }

    /// Nothing that these scenarios did may look like damage.
    pub fn check(&self) {
        let report = self.engine().check(|_| {}).unwrap();
        assert_eq!(report.errors, 0, "{:#?}", report.findings);
    }

    /// Files of their own, sealed or not.
    pub fn object_files(&self) -> usize {
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

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn open(engine: &Engine, point: Point) -> Volume {
    engine.volume(point, VolumeOptions::default()).unwrap()
}

pub fn quick() -> PutOptions {
    PutOptions {
        durability: Durability::Memory,
        ..PutOptions::default()
    }
}

pub fn put(v: &Volume, key: &str, bytes: &[u8]) -> storage_engine::objects::Put {
    v.objects().put(key, bytes, &quick()).unwrap()
}

pub fn get(v: &Volume, key: &str) -> Vec<u8> {
    v.objects().get(key, None).unwrap().into_bytes().unwrap()
}

pub fn kind<T>(result: Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(e) => e.kind(),
    }
}

pub fn keys(v: &Volume) -> Vec<String> {
    let page = v.objects().list(&ListRequest::default()).unwrap();
    assert_eq!(page.next, None);
    page.objects.into_iter().map(|o| o.key).collect()
}

pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend_from_slice(&rng.next().to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small generator: the same numbers for the same seed, for ever.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Seeds to run: `SEED=n` repeats one.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}

/// Names whose directories sort differently from their keys.
pub const PARTS: &[&str] = &[
    "a", "a-", "a-b", "a.", "a.b", "a0", "a b", "ab", "b", "!", "ü", "~", "aa", "a!", "a!b", "0",
];
pub fn random_key(rng: &mut Rng) -> String {
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

/// Whether a file and a directory would have one name.
pub fn collides(model: &BTreeMap<String, Vec<u8>>, key: &str) -> bool {
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
