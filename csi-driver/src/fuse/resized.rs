//! The files that have got another size lately: the kernel holds their pages back meanwhile, past a barrier.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a file counts. The kernel may hold pages back before the request of a new size and after its answer, for
/// as long as the thread that asked for it is not given a processor.
const LATELY: Duration = Duration::from_secs(5);

/// Files told at most; the answer of a marker is an extended attribute, so at most 64 KiB.
const MOST: usize = 2048;

/// Nodes with the time of their last change of size.
#[derive(Debug, Default)]
pub struct Resized(HashMap<u64, Instant>);

impl Resized {
    /// A file gets another size. Cost: constant; at most [`MOST`] are remembered, the latest.
    pub fn add(&mut self, node: u64) {
        let now = Instant::now();
        if self.0.len() >= MOST && !self.0.contains_key(&node) {
            self.0.retain(|_, at| now.duration_since(*at) < LATELY);
            if self.0.len() >= MOST
                && let Some(oldest) = self.0.iter().min_by_key(|(_, at)| **at).map(|(n, _)| *n)
            {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(node, now);
    }

    /// Those of the last seconds, in no order.
    pub fn recent(&mut self) -> impl Iterator<Item = u64> {
        let now = Instant::now();
        self.0.retain(|_, at| now.duration_since(*at) < LATELY);
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_told_and_no_more_than_fit_an_answer() {
        let mut resized = Resized::default();
        for node in 0..3 * MOST as u64 {
            resized.add(node);
        }
        resized.add(5);
        let told: Vec<u64> = resized.recent().collect();
        assert_eq!(told.len(), MOST);
        assert!(told.contains(&5));
        assert!(
            told.iter()
                .all(|node| *node == 5 || *node > 2 * MOST as u64)
        );
        let answer: usize = told.iter().map(|_| u64::MAX.to_string().len() + 1).sum();
        assert!(answer + 21 < 64 << 10);
    }
}
