//! How far long work has come: one line that changes on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use csi_driver::owner::Progress;

use crate::screen::size;

/// Between two changes of the line on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines elsewhere.
const REPEAT: Duration = Duration::from_secs(5);

/// The line.
pub struct ProgressLine {
    terminal: bool,
    drawn: bool,
    next: Instant,
}

impl ProgressLine {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let wait = if terminal { Duration::ZERO } else { REPEAT };
        Self {
            terminal,
            drawn: false,
            next: Instant::now() + wait,
        }
    }

    /// Shows the state of the work, when it is time to.
    pub fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let text = describe(progress);
        let mut out = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop the work.
        let _ = if self.terminal {
            self.drawn = true;
            self.next = now + REDRAW;
            write!(out, "\r\x1b[K{text}")
        } else {
            self.next = now + REPEAT;
            writeln!(out, "{text}")
        };
        let _ = out.flush();
    }

    /// Takes the line away, so that something else can be printed.
    pub fn clear(&mut self) {
        if self.drawn {
            self.drawn = false;
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K");
            let _ = out.flush();
        }
    }
}

/// The work in one line: `importing bucket/base: 12000 of 30000 files, 120Mi of 300Mi (40%)`.
pub fn describe(progress: &Progress) -> String {
    let mut text = format!("{}: {}", progress.what, progress.items);
    if let Some(total) = progress.total_items {
        text.push_str(&format!(" of {total}"));
    }
    text.push_str(&format!(" files, {}", size(progress.bytes)));
    if let Some(total) = progress.total_bytes {
        text.push_str(&format!(" of {}", size(total)));
    }
    let done = match (progress.total_bytes, progress.total_items) {
        (Some(total), _) if total > 0 => Some((progress.bytes, total)),
        (_, Some(total)) if total > 0 => Some((progress.items, total)),
        _ => None,
    };
    if let Some((done, total)) = done {
        text.push_str(&format!(" ({}%)", done.saturating_mul(100) / total));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_described_with_and_without_a_total() {
        let mut progress = Progress {
            what: "importing x".into(),
            items: 5,
            bytes: 0,
            ..Progress::default()
        };
        assert_eq!(
            describe(&progress),
            format!("importing x: 5 files, {}", size(0))
        );
        progress.total_items = Some(10);
        assert!(describe(&progress).contains("5 of 10 files, 0 (50%)"));
        (progress.bytes, progress.total_bytes) = (1 << 20, Some(4 << 20));
        assert_eq!(
            describe(&progress),
            "importing x: 5 of 10 files, 1Mi of 4Mi (25%)"
        );
    }
}
