use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::builder::{Builder, Content, Meta};
use super::*;
use crate::{CreateRoot, Engine, ErrorKind, Options, Point, VolumeOptions};

fn engine(dir: &Path) -> (Engine, Volume) {
    let engine = Engine::open(dir.join("store"), Options::default()).unwrap();
    let root = engine
        .create_root(CreateRoot {
            name: "t".into(),
            ..CreateRoot::default()
        })
        .unwrap();
    let volume = engine
        .volume(Point::Now(root.id), VolumeOptions::default())
        .unwrap();
    (engine, volume)
}

/// A source that works on the store while it is read: it would wait for itself if the import held a lock.
struct Working {
    engine: Engine,
    left: usize,
    forks: usize,
}

impl Read for Working {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.engine.tick().unwrap();
        self.engine
            .create_root(CreateRoot {
                name: format!("other-{}-{}", self.left, self.forks),
                ..CreateRoot::default()
            })
            .unwrap();
        self.forks += 1;
        let n = out.len().min(self.left).min(100_000);
        out[..n].fill(7);
        self.left -= n;
        Ok(n)
    }
}

#[test]
fn a_slow_source_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, volume) = engine(dir.path());
    let mut progress = |_: &ImportProgress| ControlFlow::Continue(());
    let mut builder = Builder::new(&volume, None, &mut progress).unwrap();
    for (name, size) in [("small", 1000), ("large", 2_500_000)] {
        let mut reader = Working {
            engine: engine.clone(),
            left: size,
            forks: 0,
        };
        let content = Content {
            reader: &mut reader,
            size: size as u64,
            sparse: false,
            path: Path::new(name),
        };
        builder
            .file(Ino::ROOT, name.as_bytes(), &Meta::default(), content)
            .unwrap();
    }
    builder.finish().unwrap();
    // The chunks of the large one took more than one frame: unit tests put few into each.
    let large = volume.resolve(b"/large").unwrap();
    assert_eq!(
        volume.read(large.ino, 2_400_000, 1 << 20).unwrap(),
        vec![7; 100_000]
    );
    assert!(volume.sealed_file(large.ino).unwrap().is_some());
    assert!(engine.check(&mut |_| {}).unwrap().is_sound());
}

#[test]
fn an_import_that_is_stopped_leaves_no_files_behind() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), vec![1; 40 << 20]).unwrap();
    let (engine, volume) = engine(dir.path());
    let mut seen = Vec::new();
    let error = import_directory(&volume, &Source::open(&source).unwrap(), &mut |now| {
        seen.push(now.bytes);
        ControlFlow::Break(())
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(seen, [16 << 20], "it is told in the middle of a file");
    let objects = dir.path().join("store/objects");
    let left: Vec<_> = std::fs::read_dir(&objects)
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // It can be done again.
    import_directory(&volume, &Source::open(&source).unwrap(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(engine.check(&mut |_| {}).unwrap().is_sound());
}
