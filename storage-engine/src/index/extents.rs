//! Arithmetic on the extents of one chunk: pure functions.

use super::records::{CHUNK_BYTES, Extent};

/// What is left of a chunk's extents when `[at, at + len)` is taken away, and the pieces taken.
pub(crate) struct Carved {
    pub kept: Vec<Extent>,
    pub removed: Vec<Extent>,
}

/// Takes the range `[at, at + len)` out of `extents`. Cost: the number of extents.
pub(crate) fn carve(extents: Vec<Extent>, at: u32, len: u32) -> Carved {
    let end = at + len;
    let mut kept = Vec::with_capacity(extents.len() + 2);
    let mut removed = Vec::new();
    for e in extents {
        let e_end = e.at + e.take;
        if e_end <= at || e.at >= end {
            kept.push(e);
            continue;
        }
        if e.at < at {
            kept.push(Extent {
                take: at - e.at,
                ..e.clone()
            });
        }
        if e_end > end {
            kept.push(Extent {
                at: end,
                take: e_end - end,
                skip: e.skip + (end - e.at),
                ..e.clone()
            });
        }
        let from = e.at.max(at);
        let to = e_end.min(end);
        removed.push(Extent {
            at: from,
            take: to - from,
            skip: e.skip + (from - e.at),
            ..e
        });
    }
    Carved { kept, removed }
}

/// Puts `new` where there is nothing.
pub(crate) fn insert(extents: &mut Vec<Extent>, new: Extent) {
    debug_assert!(u64::from(new.at) + u64::from(new.take) <= CHUNK_BYTES);
    let place = extents.partition_point(|e| e.at < new.at);
    extents.insert(place, new);
}

/// Ranges `[from, to)` covered without a gap, in order.
pub(crate) fn runs(extents: &[Extent]) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for e in extents {
        match out.last_mut() {
            Some((_, to)) if *to == e.at => *to = e.at + e.take,
            _ => out.push((e.at, e.at + e.take)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::FileId;
    use proptest::prelude::*;

    fn extent(at: u32, take: u32, file: u8) -> Extent {
        Extent {
            at,
            take,
            skip: 0,
            born: 1,
            inherited: false,
            file: FileId([file; 16]),
            offset: 0,
            length: take,
            sums: vec![],
        }
    }

    /// One byte per offset: which file it is read from, and where in it.
    fn picture(extents: &[Extent]) -> Vec<Option<(FileId, u32)>> {
        let mut out = vec![None; 64];
        for e in extents {
            for i in 0..e.take {
                let slot = &mut out[(e.at + i) as usize];
                assert!(slot.is_none(), "extents overlap");
                *slot = Some((e.file, e.skip + i));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn overwriting_changes_exactly_the_range_overwritten(writes in prop::collection::vec((0u32..60, 1u32..20), 1..20)) {
            let mut extents = Vec::new();
            let mut model = vec![None; 64];
            for (n, (at, len)) in writes.into_iter().enumerate() {
                let len = len.min(64 - at);
                let before: u32 = extents.iter().map(|e: &Extent| e.take).sum();
                let carved = carve(extents, at, len);
                let kept: u32 = carved.kept.iter().map(|e| e.take).sum();
                let removed: u32 = carved.removed.iter().map(|e| e.take).sum();
                prop_assert_eq!(before, kept + removed);
                extents = carved.kept;
                insert(&mut extents, extent(at, len, n as u8));
                for i in 0..len {
                    model[(at + i) as usize] = Some((FileId([n as u8; 16]), i));
                }
                prop_assert_eq!(&picture(&extents), &model);
                prop_assert!(extents.windows(2).all(|w| w[0].at + w[0].take <= w[1].at));
                let covered: u32 = runs(&extents).iter().map(|(a, b)| b - a).sum();
                prop_assert_eq!(covered, extents.iter().map(|e| e.take).sum::<u32>());
            }
        }
    }
}
