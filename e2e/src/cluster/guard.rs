//! Programs that end with the process that started them, however that one ends.
//!
//! Each runs under a shell that waits for the end of its own input, which the kernel closes with the process that holds the
//! other end, also one that was killed. Signals of a terminal (Ctrl-C) reach neither the shell nor the program: they are
//! in a process group of their own.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Failure;

/// Starts the program and ends it when the input ends. `$0` is the log, the rest the program.
const GUARD: &str = r#""$@" </dev/null >>"$0" 2>&1 & pid=$!; cat >/dev/null; kill -KILL "$pid"; wait "$pid" 2>/dev/null"#;

/// Removes the folder when the input ends; programs in it may be ending at the same moment.
const SWEEP: &str = r#"cat >/dev/null; for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$0" && exit 0; sleep 0.5; done"#;

/// A program that runs until this is dropped or the process ends.
pub struct Guarded {
    shell: Child,
}

impl Guarded {
    /// Starts a program; what it writes is appended to the log.
    ///
    /// # Errors
    /// When no shell can be started.
    pub fn start(program: &Path, args: &[String], log: &Path) -> Result<Self, Failure> {
        OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(GUARD)
            .arg(log)
            .arg(program)
            .args(args);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self, Failure> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(Guarded {
            shell: command.spawn()?,
        })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It ends by itself now; waiting leaves no zombie, and the port is free after it.
        let _ = self.shell.wait();
    }
}

/// Removes a folder when the result is dropped or the process ends.
///
/// # Errors
/// When no shell can be started.
pub fn sweep(folder: &Path) -> Result<Guarded, Failure> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(SWEEP).arg(folder);
    Guarded::spawn(command)
}
