//! Finding the chunks of a base in new bytes.

use crate::sums::{ChunkSum, Rolling, strong};
use std::collections::HashMap;
use std::ops::Range;

/// Chunks of one weak sum that are compared with one window: bounds the work on bytes that were made to
/// collide.
const CANDIDATES: usize = 8;
/// What may be compared in vain, in lengths of the new bytes: bounds the work on bytes whose weak sums are alike at
/// every place. After that, what does not follow a match is not looked for any more.
const VAIN_LENGTHS: usize = 4;
/// Bits of the filter that turns most windows away before the table is asked.
const FILTER_BITS: u32 = 18;

/// A stretch of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The base's number.
    pub base: usize,
    /// Bytes from the base's beginning.
    pub offset: usize,
    /// Bytes.
    pub len: usize,
}

/// A stretch of the new bytes that a base has as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Where it begins in the new bytes.
    pub at: usize,
    pub span: Span,
}

impl Match {
    /// Where it lies in the new bytes.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.at..self.at + self.span.len
    }
}

/// The chunks that are looked for, in the order in which they lay in the old file.
#[derive(Debug)]
pub struct Chunks {
    /// Bytes of every chunk but those at the ends of bases, which may be shorter.
    chunk: usize,
    all: Vec<(ChunkSum, Span)>,
    /// The whole chunks by their weak sum, the first few of each.
    table: HashMap<u32, Vec<u32>>,
    filter: Vec<u64>,
}

impl Chunks {
    /// No chunks yet, of `chunk` bytes each.
    ///
    /// # Panics
    /// When `chunk` is 0.
    #[must_use]
    pub fn new(chunk: usize) -> Self {
        assert!(chunk > 0, "a chunk has bytes");
        Self { chunk, all: Vec::new(), table: HashMap::new(), filter: vec![0; 1 << (FILTER_BITS - 6)] }
    }

    /// Adds the chunks that `span` was cut into. Spans come in the order in which they lay in the old file.
    /// Sums that are more or fewer than its chunks end the span early.
    pub fn add(&mut self, span: Span, sums: &[ChunkSum]) {
        for (number, sum) in sums.iter().enumerate().take(span.len.div_ceil(self.chunk)) {
            let from = number * self.chunk;
            let piece = Span { offset: span.offset + from, len: self.chunk.min(span.len - from), ..span };
            if piece.len == self.chunk {
                let same = self.table.entry(sum.weak).or_default();
                if same.len() < CANDIDATES {
                    same.push(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
                }
                let bit = filter_bit(sum.weak);
                self.filter[bit >> 6] |= 1 << (bit & 63);
            }
            self.all.push((*sum, piece));
        }
    }

    /// What of `new` the chunks have, in rising places that do not overlap.
    #[must_use]
    pub fn find_in(&self, new: &[u8]) -> Vec<Match> {
        self.find(new, &mut 0)
    }

    /// The same; `vain` counts the bytes that were compared in vain.
    fn find(&self, new: &[u8], vain: &mut usize) -> Vec<Match> {
        let mut matches = Vec::new();
        let mut at = 0;
        // The chunk behind the last one that was found, which most likely comes next.
        let mut expected = None;
        while at < new.len() {
            let found = match expected.and_then(|next| self.matches_here(next, &new[at..])) {
                Some(found) => Some((at, found)),
                None => self.search(new, at, vain),
            };
            let Some((place, found)) = found else { break };
            let span = self.all[found].1;
            matches.push(Match { at: place, span });
            at = place + span.len;
            expected = Some(found + 1);
        }
        self.add_tail(new, &mut matches);
        matches
    }

    /// Whether the chunk `number` is what `bytes` begin with.
    fn matches_here(&self, number: usize, bytes: &[u8]) -> Option<usize> {
        let (sum, span) = self.all.get(number)?;
        let window = bytes.get(..span.len)?;
        (strong(window) == sum.strong && Rolling::of(window).sum() == sum.weak).then_some(number)
    }

    /// The first window from `at` on that is a whole chunk.
    fn search(&self, new: &[u8], at: usize, vain: &mut usize) -> Option<(usize, usize)> {
        if self.table.is_empty() {
            return None;
        }
        let mut rolling = Rolling::of(new.get(at..at + self.chunk)?);
        // In a run of one byte all windows are alike, and so is what comes of comparing them.
        let mut before = None;
        for place in at..=new.len() - self.chunk {
            let weak = rolling.sum();
            if let Some(candidates) = self.candidates(weak)
                && before != Some(weak)
            {
                if *vain > new.len().saturating_mul(VAIN_LENGTHS) {
                    return None;
                }
                if let Some(found) = self.compare(candidates, &new[place..place + self.chunk]) {
                    return Some((place, found));
                }
                *vain += self.chunk;
            }
            before = Some(weak);
            if let Some(into) = new.get(place + self.chunk) {
                rolling.roll(new[place], *into);
            }
        }
        None
    }

    #[inline]
    fn candidates(&self, weak: u32) -> Option<&[u32]> {
        let bit = filter_bit(weak);
        if self.filter[bit >> 6] >> (bit & 63) & 1 == 0 {
            return None;
        }
        self.table.get(&weak).map(Vec::as_slice)
    }

    fn compare(&self, candidates: &[u32], window: &[u8]) -> Option<usize> {
        let strong = strong(window);
        let same = |number: &&u32| self.all.get(**number as usize).is_some_and(|(sum, _)| sum.strong == strong);
        candidates.iter().find(same).map(|number| *number as usize)
    }

    /// The old file's last chunk, if it is short, fits the end of the new bytes or nowhere.
    fn add_tail(&self, new: &[u8], matches: &mut Vec<Match>) {
        let Some((sum, span)) = self.all.last().filter(|(_, span)| span.len < self.chunk) else { return };
        let free_from = matches.last().map_or(0, |last| last.range().end);
        let Some(at) = new.len().checked_sub(span.len).filter(|at| *at >= free_from) else { return };
        if ChunkSum::of(&new[at..]) == *sum {
            matches.push(Match { at, span: *span });
        }
    }
}

const fn filter_bit(weak: u32) -> usize {
    (weak.wrapping_mul(0x9e37_79b1) >> (32 - FILTER_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sums::sum_up;

    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn chunks_of(bases: &[&[u8]], chunk: usize) -> Chunks {
        let mut chunks = Chunks::new(chunk);
        for (base, bytes) in bases.iter().enumerate() {
            chunks.add(Span { base, offset: 0, len: bytes.len() }, &sum_up(bytes, chunk));
        }
        chunks
    }

    fn found(matches: &[Match]) -> usize {
        matches.iter().map(|found| found.span.len).sum()
    }

    #[test]
    fn bytes_that_moved_are_found_across_the_ends_of_bases() {
        let old = bytes(1, 4096);
        let new = [b"x".as_slice(), &old].concat();
        let matches = chunks_of(&[&old[..2048], &old[2048..]], 256).find_in(&new);
        assert_eq!((matches[0].at, found(&matches)), (1, 4096));
    }

    #[test]
    fn a_short_last_chunk_is_found_at_the_end_alone_and_behind_its_neighbour() {
        let old = bytes(2, 1000);
        let chunks = chunks_of(&[&old], 256);
        assert_eq!(found(&chunks.find_in(&[&old[..], b"appended"].concat())), 1000);
        let mut new = old.clone();
        new[700] ^= 1;
        assert_eq!(found(&chunks.find_in(&new)), 1000 - 256);
    }

    #[test]
    fn chunks_that_repeat_without_end_are_found_in_bounded_time() {
        let zeros = vec![0; 1 << 20];
        assert_eq!(found(&chunks_of(&[&zeros], 512).find_in(&zeros)), 1 << 20);
        let mut ones = vec![1; 1 << 20];
        ones[0] = 0;
        assert_eq!(found(&chunks_of(&[&zeros], 512).find_in(&ones)), 0);
    }

    /// Of windows of 64 KiB, the weak sum of zeros is that of every even byte repeated.
    #[test]
    fn bytes_whose_weak_sums_are_alike_everywhere_are_compared_in_bounded_time() {
        let chunk = 1 << 16;
        let old = [vec![b'0'; 16 * chunk], bytes(5, 4 * chunk)].concat();
        let chunks = chunks_of(&[&old], chunk);
        let mut vain = 0;
        let new = [vec![0; 16 * chunk], old[16 * chunk..].to_vec()].concat();
        assert_eq!(found(&chunks.find(&new, &mut vain)), 4 * chunk, "what is behind is found");
        assert!(vain <= 2 * chunk, "a run is compared once: {vain}");
    }

    #[test]
    fn bytes_that_were_made_to_collide_at_every_place_are_compared_in_bounded_time() {
        let chunk = 256;
        let waves: Vec<u8> = (0..64 * chunk).map(|at| if at % 2 == 0 { 10 } else { 64 }).collect();
        // The same sum, and the same sum of sums, of other bytes.
        let alike = |at: usize| {
            let mut window = waves[at..at + chunk].to_vec();
            for (place, by) in [(3, 1), (4, -1), (9, -1), (10, 1)] {
                window[place] = window[place].wrapping_add_signed(by);
            }
            assert_eq!(Rolling::of(&window).sum(), Rolling::of(&waves[at..at + chunk]).sum());
            window
        };
        let mut vain = 0;
        assert!(chunks_of(&[&alike(0), &alike(1)], chunk).find(&waves, &mut vain).is_empty());
        assert!(vain <= waves.len() * VAIN_LENGTHS + chunk, "{vain}");
    }

    #[test]
    fn sums_that_are_too_many_or_too_few_say_nothing_about_other_bytes() {
        let old = bytes(3, 1024);
        let sums = sum_up(&old, 256);
        let mut chunks = Chunks::new(256);
        chunks.add(Span { base: 0, offset: 0, len: 512 }, &sums);
        chunks.add(Span { base: 1, offset: 0, len: 512 }, &sums[2..3]);
        assert_eq!(found(&chunks.find_in(&old)), 768);
    }

    #[test]
    fn without_chunks_or_bytes_nothing_is_found() {
        assert!(Chunks::new(8).find_in(b"some bytes").is_empty());
        assert!(chunks_of(&[b"01234567"], 8).find_in(b"").is_empty());
        assert!(chunks_of(&[b"01234567"], 8).find_in(b"0123456").is_empty());
    }
}
