//! pjdfstest on a fork: POSIX calls, one by one, with what each must answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::arena::{Arena, can_run};
use e2e::{binaries, program};

/// The exceptions file: test name to reason. A line without a reason is an error.
fn exceptions(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once("  ") {
            Some((name, reason)) if !reason.trim().is_empty() => {
                (name.to_owned(), reason.trim().to_owned())
            }
            _ => panic!("e2e/suites/pjdfstest.exceptions: no reason given: {line:?}"),
        })
        .collect()
}

/// What the suite printed: the tests that passed, and those that failed. Lines look like `chmod::x::fifo   ok`.
fn results(output: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let with = |word: &str| {
        let of = |line: &str| {
            let name = line.strip_suffix(word)?.trim_end();
            (!name.is_empty() && name.contains("::") && !name.contains(' '))
                .then(|| name.to_owned())
        };
        output.lines().filter_map(of).collect()
    };
    (with(" ok"), with(" FAILED"))
}

/// The folder under test, bound to a path of exactly 30 bytes. The suite binds sockets by path (108 bytes at most), and
/// it panics at some lengths: when what is left of PATH_MAX divides evenly into its path components of 127 bytes.
struct ShortPath(PathBuf);

impl ShortPath {
    fn of(folder: &Path) -> Self {
        let path = PathBuf::from(format!("/tmp/anabranch-pjd-{:011}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        program::succeed_for(
            Duration::from_secs(10),
            mount.arg("--bind").arg(folder).arg(&path),
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for ShortPath {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn every_posix_call_answers_as_it_must() {
    if !can_run("pjdfstest", &[], true).unwrap() {
        return;
    }
    let suite = binaries::suite("pjdfstest");
    if suite.is_none() && !e2e::in_ci() {
        println!("pjdfstest: not run, it is not built (`e2e/setup test`)");
        return;
    }
    let arena = Arena::new("pjdfstest").unwrap();
    let suites = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let other = Path::new("/dev/shm").join(format!("anabranch-pjdfstest-{}", std::process::id()));
    std::fs::create_dir(&other).unwrap();

    let mut command = Command::new(suite.expect("pjdfstest is built by e2e/setup test"));
    command
        .arg("-c")
        .arg(suites.join("pjdfstest.toml"))
        .arg("-s")
        .arg(&other);
    let short = ShortPath::of(arena.path());
    let ended = program::run_for(Duration::from_secs(300), command.arg("-p").arg(&short.0));
    drop(short);
    std::fs::remove_dir_all(&other).unwrap();
    let output = ended.unwrap().output;

    let (passed, failed) = results(&output);
    let summary = output
        .lines()
        .find(|line| line.starts_with("Summary"))
        .unwrap_or("no summary");
    println!("pjdfstest: {summary}");
    assert!(
        passed.len() > 300,
        "the suite did not run to its end:\n{}",
        program::tail(&output)
    );
    let excused =
        exceptions(&std::fs::read_to_string(suites.join("pjdfstest.exceptions")).unwrap());
    let unexpected: Vec<_> = failed
        .iter()
        .filter(|name| !excused.contains_key(*name))
        .collect();
    let stale: Vec<_> = excused
        .keys()
        .filter(|name| !failed.contains(*name))
        .collect();
    assert!(
        unexpected.is_empty(),
        "failed without an exception: {unexpected:#?}\n{}",
        details(&output, &unexpected)
    );
    assert!(
        stale.is_empty(),
        "no longer fail: take them out of e2e/suites/pjdfstest.exceptions: {stale:#?}"
    );
    arena.finish().unwrap();
}

/// The two lines after each failed test: what it expected.
fn details(output: &str, names: &[&String]) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let of = |(number, line): (usize, &&str)| {
        let failed =
            line.ends_with("FAILED") && names.iter().any(|name| line.starts_with(name.as_str()));
        failed.then(|| lines[number..lines.len().min(number + 4)].join("\n"))
    };
    lines
        .iter()
        .enumerate()
        .filter_map(of)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn an_exception_needs_a_reason_and_results_are_read_by_name() {
    let read = exceptions("# why\n\nchmod::x  the kernel answers first\n");
    assert_eq!(read["chmod::x"], "the kernel answers first");
    assert!(std::panic::catch_unwind(|| exceptions("chmod::x\n")).is_err());

    let (passed, failed) =
        results("a::b    ok\nc::d::fifo    FAILED\n\tassertion failed\ne::f   skipped\n");
    assert_eq!(passed, BTreeSet::from(["a::b".to_owned()]));
    assert_eq!(failed, BTreeSet::from(["c::d::fifo".to_owned()]));
}
