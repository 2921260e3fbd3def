//! Chance from a seed.
//!
//! A generator of our own (SplitMix64) and not one of a library: a stored seed must mean the same
//! history after every upgrade of a dependency.

/// A stream of pseudo-random numbers.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for one decision, named by numbers. Decisions that are named this way do not
    /// shift when another one falls away, which is what lets a failing history shrink.
    #[must_use]
    pub fn keyed(seed: u64, names: &[u64]) -> Self {
        let mut stream = Self(seed);
        for name in names {
            stream = Self(stream.draw() ^ name.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        stream
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `end - 1`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of a remainder is far below what any test here could notice.
        if end == 0 { 0 } else { self.draw() % end }
    }

    /// Like [`Self::below`], for indexes.
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// One of the items; `None` of none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// An index, chosen in proportion to the weights; 0 when all are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut left = self.below(total);
        for (index, weight) in weights.iter().enumerate() {
            if left < u64::from(*weight) {
                return index;
            }
            left -= u64::from(*weight);
        }
        0
    }

    /// Fills a buffer.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let word = self.draw().to_le_bytes();
            piece.copy_from_slice(&word[..piece.len()]);
        }
    }

    /// 16 random bytes.
    pub fn id(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_does_not_depend_on_how_many_others_were_made() {
        let first: Vec<u64> = (0..4).map(|n| Chance::keyed(7, &[1, n]).draw()).collect();
        let alone = Chance::keyed(7, &[1, 3]).draw();
        assert_eq!(first[3], alone);
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn a_weight_of_nothing_is_never_chosen() {
        let mut chance = Chance::new(1);
        assert!((0..1000).all(|_| chance.weighted(&[0, 3, 0, 1]) % 2 == 1));
    }
}
