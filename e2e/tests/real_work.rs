//! Ordinary programs at work inside forks of a real tree: what each promises on a local disk must hold here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::arena::{Arena, can_run};
use e2e::play::{Play, new_folder};
use e2e::program::{self, shell, shell_for};

/// Two forks of a bucket that was imported from a folder; with `E2E_ON`, two copies of it on a plain file system.
struct Forks {
    play: Option<Play>,
    source: PathBuf,
    first: PathBuf,
    second: PathBuf,
}

impl Forks {
    fn of(name: &str, source: PathBuf) -> Self {
        if let Some(on) = std::env::var_os("E2E_ON") {
            let folder = PathBuf::from(on).join(format!("anabranch-{name}-{}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            shell(
                &folder,
                &format!("cp -a '{0}' first; cp -a '{0}' second", source.display()),
            )
            .unwrap();
            return Self {
                play: None,
                source,
                first: folder.join("first"),
                second: folder.join("second"),
            };
        }
        let mut play = Play::start_named(
            name,
            &MANIFESTS.replace("SOURCE", &source.display().to_string()),
        )
        .unwrap();
        let (first, second) = (play.fork("work-0").unwrap(), play.fork("work-1").unwrap());
        Self {
            play: Some(play),
            source,
            first,
            second,
        }
    }

    /// Stops `play`, has the whole store checked, and removes the source.
    fn finish(mut self) {
        match &mut self.play {
            Some(play) => {
                play.stop().unwrap();
                play.anabranch(&["check"]).unwrap();
            }
            None => std::fs::remove_dir_all(self.first.parent().unwrap()).unwrap(),
        }
        std::fs::remove_dir_all(&self.source).unwrap();
    }
}

const MANIFESTS: &str = "\
apiVersion: anabranch.dev/v1alpha1
kind: Bucket
metadata: {name: base}
spec: {source: {directory: {path: \"SOURCE\"}}}
---
apiVersion: anabranch.dev/v1alpha1
kind: BucketFork
metadata: {name: work}
spec: {source: {bucket: base}, count: 2, lifetime: {noExpiry: true}}
";

/// A tree of everything that a file system can hold: names, holes, links, attributes, devices.
const ODD_TREE: &str = r#"
mkdir -p plain/deep/deeper/deepest empty
for n in $(seq 300); do echo "file $n" > plain/file-$n; done
head -c 3000000 /dev/urandom > plain/deep/large
truncate -s 50M plain/deep/sparse; printf x | dd of=plain/deep/sparse bs=1 seek=40000000 conv=notrunc status=none
ln plain/file-1 plain/deep/hardlink; ln plain/file-1 empty-not
ln -s ../file-2 plain/deep/link; ln -s /nowhere plain/dangling
printf 'a' > "$(printf 'plain/new\nline')"; printf b > 'plain/ blank '; printf c > "$(printf 'plain/\377\376')"
printf d > "plain/$(printf 'n%.0s' $(seq 255))"
mkfifo plain/fifo
chmod 4755 plain/file-3; chmod 000 plain/file-4; chmod 1777 empty
touch -d '1999-12-31 23:59:59.123456789' plain/file-5; touch -d '2100-01-01' plain/file-6
setfattr -n user.colour -v blue plain/file-7; setfattr -n user.empty plain/deep
"#;

/// What only root may make.
const ROOT_TREE: &str = "mknod null c 1 3; mknod disk b 7 77; chown 1234:5678 plain/file-8; chown -h 99:99 plain/dangling\n";

fn odd_tree(name: &str) -> PathBuf {
    let source = new_folder(name).unwrap();
    let root = rustix::process::geteuid().is_root();
    shell(
        &source,
        &format!("{ODD_TREE}{}", if root { ROOT_TREE } else { "" }),
    )
    .unwrap();
    source
}

/// No difference in content, names, types, links, owners, modes, times and attributes: silence is agreement.
fn assert_same_tree(one: &Path, other: &Path) {
    let script = format!(
        "rsync -aHAXcni --delete '{}/' '{}/'",
        one.display(),
        other.display()
    );
    let differences = shell(Path::new("/"), &script).unwrap();
    assert!(
        differences.is_empty(),
        "{} and {} differ:\n{differences}",
        one.display(),
        other.display()
    );
}

#[test]
fn an_imported_tree_is_the_same_in_every_fork_and_find_sees_all_of_it() {
    if !can_run(
        "import of an odd tree",
        &["rsync", "setfattr", "find"],
        false,
    )
    .unwrap()
    {
        return;
    }
    let source = odd_tree("odd");
    let forks = Forks::of("import", source);
    let (source, first, second) = (&forks.source, &forks.first, &forks.second);
    assert_same_tree(source, first);
    // A directory's own size is each file system's affair.
    let find = "find . -mindepth 1 \\( -type d -printf '%y %m %n %P\\n' -o -printf '%y %m %n %s %P -> %l\\n' \\) | sort";
    let (expected, found) = (shell(source, find).unwrap(), shell(first, find).unwrap());
    let differing: Vec<_> = expected
        .lines()
        .zip(found.lines())
        .filter(|(one, other)| one != other)
        .take(5)
        .collect();
    assert!(
        expected == found,
        "find sees something else: {differing:#?}"
    );
    // Written over in one fork, gone from it: the other still has all of it.
    shell(
        first,
        "chmod -R u+w . ; rm -rf plain; echo over > null-not; chmod 700 empty",
    )
    .unwrap();
    assert_same_tree(source, second);
    forks.finish();
}

#[test]
fn rsync_and_tar_bring_a_tree_in_and_out_unchanged() {
    if !can_run("rsync and tar", &["rsync", "tar", "setfattr"], false).unwrap() {
        return;
    }
    let source = odd_tree("roundtrip");
    let arena = Arena::new("roundtrip").unwrap();
    let elsewhere = arena.elsewhere().unwrap();
    let fork = arena.path();
    let at = |folder: &Path| folder.display().to_string();

    shell(fork, &format!("rsync -aHAX '{}/' synced/", at(&source))).unwrap();
    assert_same_tree(&source, &fork.join("synced"));
    let tar = "tar --xattrs --xattrs-include='*' --numeric-owner --sparse";
    shell(
        fork,
        &format!(
            "mkdir unpacked; {tar} -C '{}' -cf - . | {tar} -C unpacked -xpf -",
            at(&source)
        ),
    )
    .unwrap();
    assert_same_tree(&source, &fork.join("unpacked"));
    shell(
        &elsewhere,
        &format!(
            "mkdir back; {tar} -C '{}/synced' -cf - . | {tar} -C back -xpf -",
            at(fork)
        ),
    )
    .unwrap();
    assert_same_tree(&source, &elsewhere.join("back"));
    shell(fork, "rm -rf synced unpacked; test -z \"$(ls -A)\"").unwrap();

    arena.finish().unwrap();
    std::fs::remove_dir_all(&source).unwrap();
}

/// Git without the user's or machine's settings.
const GIT: &str = "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null HOME=/nonexistent GIT_AUTHOR_NAME=a \
GIT_AUTHOR_EMAIL=a@example.com GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.com; ";

#[test]
fn git_works_in_forks_of_a_repository_and_they_do_not_see_each_other() {
    if !can_run("git", &["git"], false).unwrap() {
        return;
    }
    let source = new_folder("repository").unwrap();
    let make = "git init -q -b main .; for d in $(seq 20); do mkdir d$d; for f in $(seq 20); do echo $d.$f > d$d/f$f; done; done; \
git add -A; git commit -qm one; echo more >> d1/f1; git commit -qam two; git repack -adq";
    shell(&source, &format!("{GIT}{make}")).unwrap();
    let forks = Forks::of("git", source);
    let (first, second) = (&forks.first, &forks.second);
    let git = |folder: &Path, script: &str| shell(folder, &format!("{GIT}{script}")).unwrap();

    assert_eq!(git(first, "git status --porcelain"), "");
    git(
        first,
        "git checkout -q -b topic; for d in $(seq 20); do echo changed >> d$d/f3; git mv d$d/f4 d$d/g4; done",
    );
    git(
        first,
        "git commit -qam 'a topic'; git checkout -q main; git merge -q --no-edit topic; git gc -q --prune=now; git fsck --strict",
    );
    assert_eq!(
        git(first, "git status --porcelain; git log --format=%s"),
        "a topic\ntwo\none\n"
    );
    assert_eq!(
        git(second, "git status --porcelain; git log --format=%s"),
        "two\none\n"
    );

    let clone = format!(
        "git clone -q '{}' clone; cd clone; git fsck --strict 2>&1; git status --porcelain; git log --format=%s",
        first.display()
    );
    assert!(git(second, &clone).ends_with("a topic\ntwo\none\n"));
    git(
        second,
        "cd clone; git stash list; git worktree add -q ../tree topic 2>&1 || git worktree add -q ../tree -b other; cd ../tree; git status --porcelain",
    );
    forks.finish();
}

#[test]
fn cargo_builds_tests_and_rebuilds_a_crate_inside_a_fork() {
    if !can_run("cargo build", &["cargo"], false).unwrap() {
        return;
    }
    let arena = Arena::new("cargo").unwrap();
    let cargo = "env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo";
    let script = format!(
        "mkdir crate; cd crate; mkdir src tests
printf '[package]\\nname = \"small\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[workspace]\\n' > Cargo.toml
echo 'pub fn answer() -> u32 {{ 41 }}' > src/lib.rs
echo 'fn main() {{ println!(\"{{}}\", small::answer()); }}' > src/main.rs
echo '#[test] fn it() {{ assert!(small::answer() > 40); }}' > tests/it.rs
{cargo} build -q --offline; ./target/debug/small
{cargo} test -q --offline > test.log 2>&1 || {{ cat test.log; exit 1; }}
echo 'pub fn answer() -> u32 {{ 42 }}' > src/lib.rs
{cargo} build -q --offline; ./target/debug/small
{cargo} build --offline 2>&1 | grep -c Compiling || true"
    );
    let output = shell_for(Duration::from_secs(240), arena.path(), &script).unwrap();
    // The last line: nothing is compiled again when nothing changed, so modification times hold.
    assert_eq!(output, "41\n42\n0\n");
    arena.finish().unwrap();
}

fn sqlite(journal: &str) {
    if !can_run("SQLite", &["sqlite3"], false).unwrap() {
        return;
    }
    let arena = Arena::new("sqlite").unwrap();
    let setup = format!(
        "sqlite3 bank.db 'PRAGMA journal_mode={journal}; CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER);'"
    );
    shell(arena.path(), &setup).unwrap();
    // Two writers move money between accounts while a reader adds it all up: the sum never changes.
    let script = "sqlite3 bank.db \"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) INSERT INTO account SELECT i, 1000 FROM n;\"
writer() {
  for i in $(seq 100); do
    a=$(( (i * $1) % 100 + 1 )); b=$(( (i * $1 + 7) % 100 + 1 ))
    echo \"BEGIN IMMEDIATE; UPDATE account SET balance=balance-$1 WHERE id=$a; UPDATE account SET balance=balance+$1 WHERE id=$b; COMMIT;\"
  done | sqlite3 -cmd '.timeout 20000' -bail bank.db
}
writer 3 & one=$!
writer 5 & two=$!
for i in $(seq 30); do test \"$(sqlite3 -cmd '.timeout 20000' bank.db 'SELECT sum(balance) FROM account')\" = 100000; done
wait $one; wait $two
sqlite3 bank.db 'SELECT sum(balance), count(*) FROM account; PRAGMA integrity_check; VACUUM; PRAGMA wal_checkpoint(TRUNCATE);' | head -2";
    assert_eq!(shell(arena.path(), script).unwrap(), "100000|100\nok\n");
    arena.finish().unwrap();
}

#[test]
fn sqlite_with_a_write_ahead_log_keeps_its_sums_under_two_writers() {
    sqlite("wal");
}

#[test]
fn sqlite_with_a_rollback_journal_keeps_its_sums_under_two_writers() {
    sqlite("delete");
}

#[test]
fn files_stay_usable_after_their_last_name_is_gone() {
    if !can_run("unlinked but open", &[], false).unwrap() {
        return;
    }
    let arena = Arena::new("unlinked").unwrap();
    let script = "echo first > file; exec 3<>file; rm file; test ! -e file
echo second >&3; test \"$(cat /proc/self/fd/3)\" = \"second
\" -o \"$(cat /proc/self/fd/3)\" = second
test \"$(stat -L -c %h /proc/self/fd/3)\" = 0
echo new > file; cat file; exec 3>&-
echo old > target; exec 4<target; echo replaced > other; mv other target; cat <&4; cat target
mkdir gone; cd gone; rmdir ../gone; ls -A; ! touch x 2>/dev/null";
    assert_eq!(shell(arena.path(), script).unwrap(), "new\nold\nreplaced\n");
    arena.finish().unwrap();
}

#[test]
fn locks_keep_processes_apart() {
    if !can_run("locks", &["flock"], false).unwrap() {
        return;
    }
    let arena = Arena::new("locks").unwrap();
    let script = "echo 0 > counter
count() { for i in $(seq 50); do flock lock sh -c 'n=$(cat counter); echo $((n + 1)) > counter'; done; }
count & one=$!; count & two=$!; count & three=$!; wait $one; wait $two; wait $three; cat counter
flock lock sleep 5 & sleep 0.5; flock -n lock true || echo held";
    assert_eq!(shell(arena.path(), script).unwrap(), "150\nheld\n");
    arena.finish().unwrap();
}

#[test]
fn a_shared_mapping_is_one_memory_for_two_processes_and_for_read() {
    if !can_run("shared mapping", &[], false).unwrap() {
        return;
    }
    let arena = Arena::new("mapping").unwrap();
    let path = arena.path().join("mapped");
    const LENGTH: usize = 1 << 20;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(LENGTH as u64).unwrap();
    let map = |file: &std::fs::File| {
        use std::os::fd::AsRawFd;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a fresh mapping of a file that stays this long; the address is checked below.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(
            address,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        address.cast::<u8>()
    };
    let memory = map(&file);
    // SAFETY: the child only touches memory and leaves by _exit; offsets are below LENGTH.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            for page in 0..LENGTH / 4096 {
                memory.add(page * 4096 + 1).write_volatile(b'c');
            }
            libc::_exit(0);
        }
        for page in 0..LENGTH / 4096 {
            memory.add(page * 4096).write_volatile(b'p');
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert_eq!(status, 0);
        for page in 0..LENGTH / 4096 {
            assert_eq!(
                (
                    memory.add(page * 4096).read_volatile(),
                    memory.add(page * 4096 + 1).read_volatile()
                ),
                (b'p', b'c')
            );
        }
    }
    // What was stored through the mapping is what read(2) gives, before and after a sync; and the other way round.
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.chunks(4096).all(|page| page[..3] == *b"pc\0"));
    // SAFETY: the mapping made above.
    assert_eq!(
        unsafe { libc::msync(memory.cast(), LENGTH, libc::MS_SYNC) },
        0
    );
    std::os::unix::fs::FileExt::write_all_at(&file, b"w", 8192).unwrap();
    // SAFETY: below LENGTH; then the mapping is given back and not used again.
    unsafe {
        assert_eq!(memory.add(8192).read_volatile(), b'w');
        assert_eq!(libc::munmap(memory.cast(), LENGTH), 0);
    }
    drop(file);
    let output = program::shell(arena.path(), "head -c 2 mapped; stat -c ' %s' mapped").unwrap();
    assert_eq!(output, "pc 1048576\n");
    arena.finish().unwrap();
}

#[test]
fn a_nameless_file_can_be_given_a_name() {
    if !can_run("O_TMPFILE", &[], false).unwrap() {
        return;
    }
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
    let arena = Arena::new("tmpfile").unwrap();
    let nameless = openat(
        CWD,
        arena.path(),
        OFlags::TMPFILE | OFlags::RDWR,
        Mode::from_raw_mode(0o640),
    )
    .unwrap();
    rustix::io::write(&nameless, b"late").unwrap();
    assert_eq!(std::fs::read_dir(arena.path()).unwrap().count(), 0);
    let from = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&nameless)
    );
    linkat(
        CWD,
        from,
        CWD,
        arena.path().join("named"),
        AtFlags::SYMLINK_FOLLOW,
    )
    .unwrap();
    assert_eq!(std::fs::read(arena.path().join("named")).unwrap(), b"late");
    arena.finish().unwrap();
}
