//! Arithmetic on the windows of two lineages: pure functions.

use crate::ids::{Epoch, TimelineId};
use crate::index::lineage::Hop;

/// Windows that one of the lineages sees and the other does not.
pub(super) fn only_in_one(a: &[Hop], b: &[Hop]) -> Vec<Hop> {
    let mut out = minus(a, b);
    out.extend(minus(b, a));
    out
}

/// Windows that both see, nearest first.
pub(super) fn in_both(a: &[Hop], b: &[Hop]) -> Vec<Hop> {
    let mut out = Vec::new();
    for x in a {
        for y in b.iter().filter(|y| y.timeline == x.timeline) {
            push(&mut out, x.timeline, x.lo.max(y.lo), x.hi.min(y.hi));
        }
    }
    out
}

fn minus(a: &[Hop], b: &[Hop]) -> Vec<Hop> {
    let mut out = Vec::new();
    for x in a {
        let mut rest = vec![*x];
        for y in b.iter().filter(|y| y.timeline == x.timeline) {
            let mut next = Vec::new();
            for r in rest {
                push(&mut next, r.timeline, r.lo, r.hi.min(y.lo));
                push(&mut next, r.timeline, r.lo.max(y.hi), r.hi);
            }
            rest = next;
        }
        out.extend(rest);
    }
    out
}

/// Windows are half-open, `(lo, hi]`: an empty one is left out.
fn push(out: &mut Vec<Hop>, timeline: TimelineId, lo: Epoch, hi: Epoch) {
    if lo < hi {
        out.push(Hop { timeline, lo, hi });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(t: u8, lo: u64, hi: u64) -> Hop {
        Hop {
            timeline: TimelineId([t; 16]),
            lo: Epoch(lo),
            hi: Epoch(hi),
        }
    }

    #[test]
    fn two_forks_differ_in_what_they_wrote_and_in_what_came_between_their_cutoffs() {
        let a = [hop(2, 10, 99), hop(1, 0, 10)];
        let b = [hop(3, 15, 99), hop(1, 0, 15)];
        assert_eq!(
            only_in_one(&a, &b),
            [hop(2, 10, 99), hop(3, 15, 99), hop(1, 10, 15)]
        );
        assert_eq!(in_both(&a, &b), [hop(1, 0, 10)]);
    }

    #[test]
    fn a_restored_timeline_differs_from_before_in_the_window_it_gave_up() {
        let before = [hop(1, 0, 20)];
        let after = [hop(1, 20, 30), hop(1, 0, 5)];
        assert_eq!(
            only_in_one(&before, &after),
            [hop(1, 5, 20), hop(1, 20, 30)]
        );
        assert_eq!(in_both(&before, &after), [hop(1, 0, 5)]);
    }
}
