//! How much memory a piece of code takes, and a file that is in memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;

use crate::fs::{File, Metadata};

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

fn count(size: usize) {
    let _ = NOW.try_with(|now| {
        now.set(now.get().saturating_add(size));
        let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

/// The most bytes that `work` had at once.
pub(super) fn most_allocated(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    MOST.set(before);
    work();
    MOST.get() - before
}

/// Bytes as a file that nothing changes.
#[derive(Debug)]
pub(super) struct MemoryFile(Vec<u8>);

impl MemoryFile {
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl File for MemoryFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).map_or(self.0.len(), |at| at.min(self.0.len()));
        let n = out.len().min(self.0.len() - start);
        out[..n].copy_from_slice(&self.0[start..start + n]);
        Ok(n)
    }
    fn write_at(&self, bytes: &[u8], _: u64) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn is_hole(&self, _: u64, _: u64) -> bool {
        false
    }
    fn seal(&self) -> io::Result<()> {
        Ok(())
    }
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(Metadata {
            len: self.0.len() as u64,
            stored: self.0.len() as u64,
            writable: false,
            directory: false,
        })
    }
}
