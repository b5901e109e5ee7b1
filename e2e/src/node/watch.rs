//! Waiting for what takes its time, and saying how long it took.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::Failure;

/// Longest wait for anything in a node. Generous: the machine may be busy.
const LONGEST: Duration = Duration::from_secs(120);

/// Asks again until the answer is something, and gives it.
///
/// # Errors
/// When there is none in time, with the last reason that was given for that.
pub fn eventually<T>(
    what: &str,
    mut ask: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let since = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(failure) if since.elapsed() > LONGEST => {
                return Err(format!("{what}: not within {LONGEST:?}: {failure}").into());
            }
            Err(_) => sleep(Duration::from_millis(200)),
        }
    }
}

/// Prints lines as those of the scenario that this thread runs.
pub fn say(text: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    let lines: Vec<_> = text
        .lines()
        .map(|line| format!("[{name}] {line}"))
        .collect();
    println!("{}", lines.join("\n"));
}

/// Does something and prints how long it took.
///
/// # Errors
/// Its own.
pub fn timed<T>(what: &str, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let since = Instant::now();
    let result = act();
    let taken = since.elapsed().as_secs_f64();
    say(&format!(
        "{what}: {taken:.1} s{}",
        if result.is_ok() { "" } else { ", failed" }
    ));
    result
}
