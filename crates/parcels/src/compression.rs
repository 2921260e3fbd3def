//! zstd, with its contexts used again.

use crate::ParcelError;
use model::BLOCK_SIZE;
use std::io;

/// A parcel is compressed only if that saves at least one part in this many.
const WORTH_IT: usize = 32;
/// Bytes of a large parcel that are compressed first, to see whether the rest is worth it.
const PROBE: usize = 64 * 1024;
/// How far back a long repetition is looked for, as a power of two: all of a block. The levels alone look back half of
/// one or less, through tables in which most of a repetition that lies far back has been overwritten.
const WINDOW_LOG: u32 = BLOCK_SIZE.ilog2();

/// How much time compression may take for each byte that it saves. Noise passes at several GB/s with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A core compresses text at 200 to 400 MB/s, which is more than most links carry.
    Quick,
    /// At nearly the same pace; of words a twentieth less is left, of other text as much.
    Thorough,
    /// At half the pace; a tenth less is left. Beyond, the processor would be what a slow way waits for, above all
    /// one that is busy, which looks like a slow way from here.
    Utmost,
}

impl Effort {
    /// zstd's level.
    const fn level(self) -> i32 {
        match self {
            Self::Quick => 3,
            Self::Thorough => 4,
            Self::Utmost => 6,
        }
    }
}

/// Compresses one parcel after the other.
pub struct Compressor {
    whole: zstd::bulk::Compressor<'static>,
    /// Without what finds repetitions far back, which takes most of the time where there are none.
    probe: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    /// A context to be used for many parcels.
    ///
    /// # Errors
    /// Want of memory.
    pub fn new(effort: Effort) -> io::Result<Self> {
        let mut whole = zstd::bulk::Compressor::new(effort.level())?;
        whole.window_log(WINDOW_LOG)?;
        whole.long_distance_matching(true)?;
        Ok(Self { whole, probe: zstd::bulk::Compressor::new(effort.level())? })
    }

    /// The compressed form of `plain`; `None` when it is not worth it.
    pub fn compress(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        // The middle, since many formats begin with a header that compresses well.
        let middle = plain.len() / 2;
        if plain.len() > 4 * PROBE {
            let probe = plain.get(middle..middle + PROBE)?;
            let start = plain.get(..PROBE)?;
            if !self.pays(probe) && !self.pays(start) {
                return None;
            }
        }
        let compressed = self.whole.compress(plain).ok()?;
        pays(&compressed, plain).then_some(compressed)
    }

    fn pays(&mut self, plain: &[u8]) -> bool {
        self.probe.compress(plain).is_ok_and(|compressed| pays(&compressed, plain))
    }
}

fn pays(compressed: &[u8], plain: &[u8]) -> bool {
    compressed.len() + plain.len() / WORTH_IT < plain.len()
}

/// The plain bytes of a zstd frame, which must be exactly `len`. No more memory than that is spent,
/// whatever the frame says of itself.
///
/// # Errors
/// [`ParcelError::Compressed`].
pub fn inflate(compressed: &[u8], len: usize) -> Result<Vec<u8>, ParcelError> {
    let plain = zstd::bulk::decompress(compressed, len).map_err(|_| ParcelError::Compressed)?;
    if plain.len() == len { Ok(plain) } else { Err(ParcelError::Compressed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 88_172_645_463_325_252_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn text_shrinks_and_comes_back() {
        let text = b"the quick brown fox ".repeat(20_000);
        let compressed = Compressor::new(Effort::Quick).expect("a context").compress(&text).expect("is worth it");
        assert!(compressed.len() < text.len() / 20);
        assert_eq!(inflate(&compressed, text.len()).as_deref(), Ok(text.as_slice()));
    }

    #[test]
    fn more_effort_leaves_less() {
        let word = |at: usize| format!("{:x} ", (at * at) % 4_093);
        let text: String = (0..100_000).map(word).collect();
        let left =
            |effort| Compressor::new(effort).expect("a context").compress(text.as_bytes()).map(|bytes| bytes.len());
        assert!(left(Effort::Utmost) < left(Effort::Quick));
        assert!(left(Effort::Thorough) <= left(Effort::Quick));
    }

    #[test]
    fn what_repeats_far_back_in_a_block_is_found_with_little_effort() {
        let far = 3 << 20;
        let words = |len: usize| noise(len).into_iter().map(|byte| b'a' + byte % 26).collect::<Vec<u8>>();
        let once = words(far);
        let compress = |bytes: &[u8]| {
            let mut compressor = Compressor::new(Effort::Quick).expect("a context");
            compressor.compress(bytes).expect("is worth it")
        };
        let repeated = [once.as_slice(), &once[..1 << 20]].concat();
        let compressed = compress(&repeated);
        assert!(compressed.len() < compress(&once).len() + 10_000);
        assert_eq!(inflate(&compressed, repeated.len()).as_deref(), Ok(repeated.as_slice()));
    }

    #[test]
    fn noise_is_left_alone() {
        let mut compressor = Compressor::new(Effort::Quick).expect("a context");
        assert_eq!(compressor.compress(&noise(1000)), None);
        assert_eq!(compressor.compress(&noise(1 << 20)), None);
    }

    #[test]
    fn noise_with_a_compressible_head_is_still_tried() {
        let mixed = [vec![0; 512 * 1024], noise(256 * 1024)].concat();
        assert!(Compressor::new(Effort::Quick).expect("a context").compress(&mixed).is_some());
    }

    #[test]
    fn a_bomb_makes_no_more_than_was_declared() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
        assert!(bomb.len() < 10_000);
        assert_eq!(inflate(&bomb, 4 << 20), Err(ParcelError::Compressed));
        assert_eq!(inflate(&bomb, 0), Err(ParcelError::Compressed));
    }

    #[test]
    fn a_frame_of_another_length_is_refused() {
        let frame = zstd::bulk::compress(b"four", 1).expect("compresses");
        assert!(inflate(&frame, 4).is_ok());
        assert_eq!(inflate(&frame, 3), Err(ParcelError::Compressed));
        assert_eq!(inflate(&frame, 5), Err(ParcelError::Compressed));
        assert_eq!(inflate(&frame[..frame.len() - 1], 4), Err(ParcelError::Compressed));
    }
}
