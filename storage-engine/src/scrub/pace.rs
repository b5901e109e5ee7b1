//! So many bytes each second, and no more.

use std::time::{Duration, Instant};

/// Longest wait at once, so that whoever wants to end is heard.
const MOST: Duration = Duration::from_millis(100);

pub(super) struct Pace {
    rate: Option<u64>,
    since: Instant,
    done: u64,
}

impl Pace {
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            rate: rate.filter(|rate| *rate > 0),
            since: Instant::now(),
            done: 0,
        }
    }

    pub fn done(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
    }

    /// How long to wait before the next look; `None` when work may go on.
    pub fn ahead(&self) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(self.done as f64 / self.rate? as f64)
            .unwrap_or(Duration::MAX);
        let early = due.checked_sub(self.since.elapsed())?;
        (!early.is_zero()).then(|| early.min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_rate_allows() {
        let mut pace = Pace::new(Some(1000));
        assert_eq!(pace.ahead(), None);
        pace.done(1_000_000);
        assert_eq!(pace.ahead(), Some(MOST));
        let mut free = Pace::new(None);
        free.done(u64::MAX);
        free.done(1);
        assert_eq!(free.ahead(), None);
        assert_eq!(Pace::new(Some(0)).ahead(), None);
    }
}
