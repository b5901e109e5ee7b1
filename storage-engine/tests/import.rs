//! Importing trees and archives: what comes in is what was there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use storage_engine::import::{Source, import_directory, import_tar};
use storage_engine::*;

fn build(root: &Path) {
    fs::create_dir_all(root.join("a/b/empty")).unwrap();
    fs::write(root.join("a/small"), b"small").unwrap();
    fs::write(root.join("a/none"), b"").unwrap();
    let middle: Vec<u8> = (0..200_000u32).map(|i| (i % 253) as u8).collect();
    fs::write(root.join("a/b/middle"), &middle).unwrap();
    let large: Vec<u8> = (0..3_000_001u32).map(|i| (i / 3 % 251) as u8).collect();
    fs::write(root.join("large"), &large).unwrap();
    fs::hard_link(root.join("a/small"), root.join("a/b/second name")).unwrap();
    symlink("../large", root.join("a/link")).unwrap();
    fs::set_permissions(root.join("a/small"), fs::Permissions::from_mode(0o4751)).unwrap();
    let mut sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (5 << 20) - 3).unwrap();
    sparse.flush().unwrap();
    for i in 0..3000 {
        fs::write(
            root.join(format!("a/b/many-{i:04}")),
            format!("content {i}"),
        )
        .unwrap();
    }
}

/// Compares a volume to a directory, name by name and byte by byte.
fn same(v: &Volume, ino: Ino, dir: &Path) -> usize {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_encoded_bytes())
        .collect();
    names.sort();
    let entries = v.read_dir(ino, 0, usize::MAX).unwrap();
    assert_eq!(
        entries.iter().map(|e| e.name.clone()).collect::<Vec<_>>(),
        names,
        "in {}",
        dir.display()
    );
    let mut count = 0;
    for e in entries {
        let path = dir.join(std::str::from_utf8(&e.name).unwrap());
        let meta = fs::symlink_metadata(&path).unwrap();
        let attr = v.attr(e.ino).unwrap();
        assert_eq!(attr.mode, meta.mode() & 0o7777, "{}", path.display());
        assert_eq!(
            attr.nlink,
            if meta.is_dir() {
                attr.nlink
            } else {
                meta.nlink() as u32
            }
        );
        assert_eq!((attr.uid, attr.gid), (meta.uid(), meta.gid()));
        if !meta.is_symlink() {
            assert_eq!(attr.mtime.secs, meta.mtime(), "{}", path.display());
        }
        count += 1;
        if meta.is_dir() {
            count += same(v, e.ino, &path);
        } else if meta.is_symlink() {
            assert_eq!(
                v.read_link(e.ino).unwrap(),
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            );
        } else {
            assert_eq!(attr.size, meta.len());
            assert!(
                v.read(e.ino, 0, attr.size as usize).unwrap() == fs::read(&path).unwrap(),
                "{}",
                path.display()
            );
        }
    }
    count
}

fn new(engine: &Engine, name: &str) -> Volume {
    let t = engine
        .create_root(CreateRoot {
            name: name.into(),
            ..Default::default()
        })
        .unwrap();
    engine
        .volume(Point::Now(t.id), VolumeOptions::default())
        .unwrap()
}

#[test]
fn a_directory_is_imported_whole() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    build(&source);
    let engine = Engine::open(dir.path().join("store"), Options::default()).unwrap();
    let v = new(&engine, "t");
    let mut calls = 0;
    let done = import_directory(&v, &Source::open(&source).unwrap(), &mut |_| {
        calls += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(calls >= 2);
    assert_eq!(same(&v, Ino::ROOT, &source) as u64, done.entries);
    let large = v.resolve(b"/large").unwrap();
    let sealed = v.sealed_file(large.ino).unwrap().unwrap();
    assert_eq!(sealed.metadata().unwrap().len(), 3_000_001);
    assert!(v.resolve(b"/sparse").unwrap().allocated < 1 << 20);
    let usage = engine.usage(v.timeline()).unwrap();
    assert_eq!(
        usage.inodes, done.entries,
        "the second name is an entry, the root is an inode"
    );
    assert_eq!(usage.logical_bytes, done.bytes);
    // Changing a sealed file takes it off its object file, and only in this timeline.
    v.write(
        &Caller::default(),
        large.ino,
        100,
        b"x",
        WriteOptions::default(),
    )
    .unwrap();
    assert!(v.sealed_file(large.ino).unwrap().is_none());
    assert_eq!(v.read(large.ino, 99, 3).unwrap()[1], b'x');
    assert_eq!(
        import_directory(&v, &Source::open(&source).unwrap(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .kind(),
        ErrorKind::NotEmpty
    );
    let w = new(&engine, "u");
    let error = import_directory(&w, &Source::open(dir.path()).unwrap(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    let error = Source::open(&source.join("gone")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn an_archive_is_imported_whole() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    build(&source);
    let engine = Engine::open(dir.path().join("store"), Options::default()).unwrap();
    for (name, flags) in [("plain.tar", "-cf"), ("zipped.tar.gz", "-czf")] {
        let archive = dir.path().join(name);
        let made = Command::new("tar")
            .arg(flags)
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg(".")
            .status()
            .unwrap();
        assert!(made.success());
        let v = new(&engine, name);
        import_tar(&v, &Source::open(&archive).unwrap(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        same(&v, Ino::ROOT, &source);
    }
    let not_tar = dir.path().join("not.tar");
    fs::write(&not_tar, vec![7; 4096]).unwrap();
    let error = import_tar(
        &new(&engine, "n"),
        &Source::open(&not_tar).unwrap(),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    fs::write(&not_tar, b"\x28\xb5\x2f\xfd and what follows").unwrap();
    let error = import_tar(
        &new(&engine, "z"),
        &Source::open(&not_tar).unwrap(),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap_err();
    assert!(error.to_string().contains("zstd"), "{error}");
    let mut evil = tar_with(b"../escape");
    evil.extend([0; 1024]);
    fs::write(&not_tar, evil).unwrap();
    let error = import_tar(
        &new(&engine, "e"),
        &Source::open(&not_tar).unwrap(),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap_err();
    assert!(error.to_string().contains("unsafe path"), "{error}");
}

/// A one-entry archive whose path is taken as it is.
fn tar_with(path: &[u8]) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..path.len()].copy_from_slice(path);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(b"00000000000\0");
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[test]
fn a_name_that_becomes_a_link_meanwhile_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (source, outside) = (dir.path().join("source"), dir.path().join("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("folder/secret"), "mine").unwrap();
    fs::write(source.join("secret"), "mine").unwrap();
    for n in 0..200 {
        fs::write(source.join(format!("other-{n}")), "mine").unwrap();
    }
    let engine = Engine::open(dir.path().join("store"), Options::default()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut outcomes = [0u32; 2];
    std::thread::scope(|scope| {
        // Swaps the folder and the file for links to what lies outside, and back.
        scope.spawn(|| {
            let (folder, file) = (source.join("folder"), source.join("secret"));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&folder, dir.path().join("kept")).unwrap();
                symlink(&outside, &folder).unwrap();
                fs::rename(&file, dir.path().join("kept-file")).unwrap();
                symlink(outside.join("secret"), &file).unwrap();
                fs::remove_file(&folder).unwrap();
                fs::rename(dir.path().join("kept"), &folder).unwrap();
                fs::remove_file(&file).unwrap();
                fs::rename(dir.path().join("kept-file"), &file).unwrap();
            }
        });
        for round in 0..300 {
            let v = new(&engine, &format!("t{round}"));
            let opened = Source::open(&source).unwrap();
            let done = import_directory(&v, &opened, &mut |_| ControlFlow::Continue(()));
            outcomes[usize::from(done.is_ok())] += 1;
            for path in [b"/secret".as_slice(), b"/folder/secret"] {
                let Ok(node) = v.resolve(path) else { continue };
                if node.kind == NodeKind::File {
                    assert_eq!(v.read(node.ino, 0, 99).unwrap(), b"mine");
                }
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    eprintln!(
        "{} imports saw a change and were refused, {} went through",
        outcomes[0], outcomes[1]
    );
}
