//! A small seeded generator of random numbers (SplitMix64): the same seed gives the same run on every machine.

/// State of the generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// The bytes a write puts down: a function of its tag, with runs of zeros in it, so that a wrong byte shows
/// which write it came from and written zeros are told from holes by nobody.
pub fn pattern(tag: u32, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    let mut state = (tag as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while out.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(tag as u64 | 1);
        let word = (state >> 16).to_le_bytes();
        // One stretch of 512 bytes in eight is zeros.
        if (out.len() / 512) % 8 == (tag as usize) % 8 && len > 1024 {
            out.extend_from_slice(&[0; 8]);
        } else {
            out.extend_from_slice(&word);
        }
    }
    out.truncate(len);
    out
}
