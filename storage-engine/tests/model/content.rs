//! The bytes of one file in the model: pages of 4 KiB, a missing page is zeros.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// Content of a regular file. Equal when size and every byte are equal.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub size: u64,
    pages: BTreeMap<u64, Arc<Vec<u8>>>,
}

impl Content {
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        if offset >= self.size {
            return Vec::new();
        }
        let end = self.size.min(offset.saturating_add(len));
        let mut out = vec![0; (end - offset) as usize];
        for (&page, bytes) in self.pages.range(offset / PAGE..=end / PAGE) {
            let start = page * PAGE;
            let from = offset.max(start);
            let to = end.min(start + PAGE);
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        out
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let n = (PAGE as usize - within).min(data.len() - done);
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| Arc::new(vec![0; PAGE as usize]));
            Arc::make_mut(page)[within..within + n].copy_from_slice(&data[done..done + n]);
            done += n;
        }
        self.size = self.size.max(offset + data.len() as u64);
    }

    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, self.size - size);
        }
        self.size = size;
    }

    /// Makes a range read as zeros; the size stays.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let first = offset / PAGE;
        let touched: Vec<u64> = self
            .pages
            .range(first..=end / PAGE)
            .map(|(&page, _)| page)
            .collect();
        for page in touched {
            let start = page * PAGE;
            let from = offset.max(start);
            let to = end.min(start + PAGE);
            if from >= to {
                continue;
            }
            if from == start && to == start + PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[(from - start) as usize..(to - start) as usize].fill(0);
            }
        }
    }

    /// Ranges of pages that may hold something else than zeros, clipped to the size.
    pub fn stretches(&self) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for &page in self.pages.keys() {
            // Behind the end a page of zeros may be left.
            if page * PAGE >= self.size {
                break;
            }
            let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.size));
            match out.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => out.push((from, to)),
            }
        }
        out
    }

    /// First byte at or after `offset` that is not zero, up to the size.
    pub fn first_nonzero(&self, offset: u64, end: u64) -> Option<u64> {
        let end = end.min(self.size);
        for (&page, bytes) in self.pages.range(offset / PAGE..) {
            let start = page * PAGE;
            if start >= end {
                return None;
            }
            for (i, &byte) in bytes.iter().enumerate() {
                let at = start + i as u64;
                if at >= offset && at < end && byte != 0 {
                    return Some(at);
                }
            }
        }
        None
    }
}
