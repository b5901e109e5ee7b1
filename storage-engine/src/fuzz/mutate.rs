//! Changes inputs at random. The same seed gives the same changes.

use crate::log::frame::HEADER_BYTES;
use crate::log::segment::SEGMENT_HEADER_BYTES;

/// Numbers at which lengths and offsets go wrong.
const NUMBERS: [u64; 12] = [
    0,
    1,
    127,
    128,
    255,
    256,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x0400_0000,
    i64::MAX as u64,
    u64::MAX,
];
const LONGEST: usize = 1 << 20;

pub(super) struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One of the inputs, with up to six changes. Those of the log are often given the right checksums
    /// again, as damage that comes from a bug of ours would have them.
    pub fn change(&mut self, inputs: &[Vec<u8>], log: bool) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..1 + self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(self.next() as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 | 3 => {
                    let number = NUMBERS[self.below(NUMBERS.len())].to_be_bytes();
                    let width = [2, 4, 8][self.below(3)];
                    let end = (at + width).min(bytes.len());
                    let from = 8 - width;
                    bytes[at..end].copy_from_slice(&number[from..from + end - at]);
                }
                4 => bytes.truncate(at),
                5 => {
                    let len = self.below(64).min(bytes.len() - at);
                    let piece = bytes[at..at + len].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
                6 => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from.min(other.len())..]);
                }
                _ => {
                    let end = (at + 1 + self.below(16)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        bytes.truncate(LONGEST);
        if log && self.below(3) > 0 {
            mend(&mut bytes);
        }
        bytes
    }
}

/// Sets the checksums of a segment's header and of the frames behind it.
fn mend(bytes: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| {
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
    };
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let crc = crc32c::crc32c(&bytes[..64]);
    bytes[64..68].copy_from_slice(&crc.to_be_bytes());
    let mut at = SEGMENT_HEADER_BYTES;
    while at + HEADER_BYTES <= bytes.len() {
        let (data, rows) = (word(bytes, at + 8), word(bytes, at + 12));
        let rows_at = at + HEADER_BYTES + data;
        let Some(rows_bytes) = bytes.get(rows_at..rows_at + rows) else {
            return;
        };
        let crc = crc32c::crc32c_append(
            crc32c::crc32c(&bytes[at + 8..at + HEADER_BYTES]),
            rows_bytes,
        );
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_be_bytes());
        at = (rows_at + rows).next_multiple_of(crate::log::frame::ALIGN);
    }
}
