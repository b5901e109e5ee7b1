//! Programs run by the tests: always with a time limit, so that a hanging mount fails a test instead of a whole run.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// How a program ended, and what it printed (standard output and error together, in order).
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it printed, lossily decoded.
    pub output: String,
    /// How long it took.
    pub took: Duration,
}

/// True where the program is found in `PATH`.
pub fn exists(program: &str) -> bool {
    let found = |folder: PathBuf| folder.join(program).is_file();
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(found))
}

/// Runs a command to its end, at most `limit`; then its whole process group is killed and the call fails.
pub fn run_for(limit: Duration, command: &mut Command) -> Result<Ended> {
    let (mut reader, writer) = std::io::pipe()?;
    let shown = format!("{command:?}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::new(format!("cannot run {shown}: {error}")))?;
    // The command keeps the pipe's writing ends: without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, collected) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    let status = wait_for(limit, &mut child)?;
    let took = started.elapsed();
    if status.is_none() {
        kill_group(&child);
        // Not waited for without a limit: a process in an uninterruptible sleep cannot be killed.
        let _ = wait_for(Duration::from_secs(5), &mut child);
    }
    // A process that the program left behind may hold the pipe open: what it prints later is not waited for.
    let output = collected
        .recv_timeout(Duration::from_secs(5))
        .unwrap_or_else(|_| "(output lost: a process left behind holds it open)".to_owned());
    match status {
        Some(status) => Ok(Ended {
            status,
            output,
            took,
        }),
        None => Err(Failure::new(format!(
            "{shown} did not end within {} s and was killed; it printed last:\n{}",
            limit.as_secs(),
            tail(&output)
        ))),
    }
}

/// Like [`run_for`], and fails with the end of the output unless the program succeeds. Returns the output.
pub fn succeed_for(limit: Duration, command: &mut Command) -> Result<Ended> {
    let shown = format!("{command:?}");
    let ended = run_for(limit, command)?;
    if ended.status.success() {
        return Ok(ended);
    }
    Err(Failure::new(format!(
        "{shown} ended with {}:\n{}",
        ended.status,
        tail(&ended.output)
    )))
}

/// Runs a shell script with `sh -euc` in a folder, at most two minutes. Returns what it printed.
pub fn shell(folder: &Path, script: &str) -> Result<String> {
    shell_for(Duration::from_secs(120), folder, script)
}

/// [`shell`] with a limit of its own.
pub fn shell_for(limit: Duration, folder: &Path, script: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.arg("-euc").arg(script).current_dir(folder);
    Ok(succeed_for(limit, &mut command)?.output)
}

/// Waits for a child until the limit; `None` when it still runs.
pub fn wait_for(limit: Duration, child: &mut Child) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// The last lines of a long output.
pub fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
