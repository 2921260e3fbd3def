//! zstd, with its contexts used again.

use crate::ParcelError;
use model::BLOCK_SIZE;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A parcel is compressed only if that saves at least one part in this many.
const WORTH_IT: usize = 32;
/// Bytes of a large parcel that are compressed first, to see whether the rest is worth it.
const PROBE: usize = 64 * 1024;
/// Up to here a level alone finds what repeats far back; to look for long repetitions besides would take a quarter more
/// time, and leave as much.
const SHORT: usize = 512 * 1024;
/// How far back a long repetition is looked for, as a power of two: all of a block. The levels alone look back half of
/// one or less, through tables in which most of a repetition that lies far back has been overwritten.
const WINDOW_LOG: u32 = BLOCK_SIZE.ilog2();
/// Compressors that are kept while they have nothing to do: as many as a device has at work.
const IDLE: usize = 2;

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

/// Compresses parcels, any number at a time. The memory that zstd works in is used again: up to 8 MB for each that is
/// kept.
#[derive(Default)]
pub struct Compressors {
    idle: Mutex<Vec<Compressor>>,
}

impl Compressors {
    /// The compressed form of these bytes, one part behind the other; `None` when it is not worth it.
    pub fn compress<P: AsRef<[u8]>>(&self, effort: Effort, parts: &[P]) -> Option<Vec<u8>> {
        let mut compressor = self.take(effort)?;
        let compressed = compressor.compress(parts);
        let mut idle = self.idle();
        if idle.len() < IDLE {
            idle.push(compressor);
        }
        compressed
    }

    /// Gives back all memory that is not in use.
    pub fn release(&self) {
        drop(std::mem::take(&mut *self.idle()));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Compressor>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` for want of memory.
    fn take(&self, effort: Effort) -> Option<Compressor> {
        let mut idle = self.idle();
        let fits = idle.iter().position(|compressor| compressor.effort == effort);
        // One for another effort would be in the way of one for this.
        let found = match fits {
            Some(at) => Some(idle.swap_remove(at)),
            None => idle.pop(),
        };
        drop(idle);
        found.filter(|compressor| compressor.effort == effort).or_else(|| Compressor::new(effort).ok())
    }
}

/// Compresses one parcel after the other.
struct Compressor {
    effort: Effort,
    /// Also finds repetitions far back, which takes most of the time where there are none.
    long: zstd::bulk::Compressor<'static>,
    short: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    fn new(effort: Effort) -> io::Result<Self> {
        let mut long = zstd::bulk::Compressor::new(effort.level())?;
        long.window_log(WINDOW_LOG)?;
        long.long_distance_matching(true)?;
        Ok(Self { effort, long, short: zstd::bulk::Compressor::new(effort.level())? })
    }

    /// Only what may be worth it is put together.
    fn compress<P: AsRef<[u8]>>(&mut self, parts: &[P]) -> Option<Vec<u8>> {
        let len: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        // The middle, since many formats begin with a header that compresses well.
        if len > 4 * PROBE && !self.pays(&stretch(parts, len / 2)) && !self.pays(&stretch(parts, 0)) {
            return None;
        }
        let joined: Vec<u8>;
        let plain = if let [only] = parts {
            only.as_ref()
        } else {
            joined = parts.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>().concat();
            &joined
        };
        let compressor = if len > SHORT { &mut self.long } else { &mut self.short };
        let compressed = compressor.compress(plain).ok()?;
        pays(&compressed, plain).then_some(compressed)
    }

    fn pays(&mut self, plain: &[u8]) -> bool {
        self.short.compress(plain).is_ok_and(|compressed| pays(&compressed, plain))
    }
}

/// As many bytes as a probe has, from there on.
fn stretch<P: AsRef<[u8]>>(parts: &[P], from: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROBE);
    let mut before = from;
    for part in parts {
        let part = part.as_ref();
        let wanted = part.get(before..).unwrap_or_default();
        bytes.extend_from_slice(&wanted[..wanted.len().min(PROBE - bytes.len())]);
        before = before.saturating_sub(part.len());
    }
    bytes
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
        let compressed = Compressors::default().compress(Effort::Quick, &[&text]).expect("is worth it");
        assert!(compressed.len() < text.len() / 20);
        assert_eq!(inflate(&compressed, text.len()).as_deref(), Ok(text.as_slice()));
    }

    #[test]
    fn more_effort_leaves_less() {
        let word = |at: usize| format!("{:x} ", (at * at) % 4_093);
        let text: String = (0..100_000).map(word).collect();
        let compressors = Compressors::default();
        let left = |effort| compressors.compress(effort, &[&text]).map(|bytes| bytes.len());
        assert!(left(Effort::Utmost) < left(Effort::Quick));
        assert!(left(Effort::Thorough) <= left(Effort::Quick));
    }

    #[test]
    fn what_repeats_far_back_in_a_block_is_found_with_little_effort() {
        let far = 3 << 20;
        let words = |len: usize| noise(len).into_iter().map(|byte| b'a' + byte % 26).collect::<Vec<u8>>();
        let once = words(far);
        let compress = |bytes: &[u8]| Compressors::default().compress(Effort::Quick, &[bytes]).expect("is worth it");
        let repeated = [once.as_slice(), &once[..1 << 20]].concat();
        let compressed = compress(&repeated);
        assert!(compressed.len() < compress(&once).len() + 10_000);
        assert_eq!(inflate(&compressed, repeated.len()).as_deref(), Ok(repeated.as_slice()));
    }

    #[test]
    fn so_is_what_repeats_in_a_parcel_in_which_it_is_not_looked_for() {
        let once: Vec<u8> = noise(SHORT / 2).into_iter().map(|byte| b'a' + byte % 26).collect();
        let compress = |bytes: &[u8]| Compressors::default().compress(Effort::Quick, &[bytes]).expect("is worth it");
        let twice = once.repeat(2);
        assert!(compress(&twice).len() < compress(&once).len() * 21 / 20);
    }

    #[test]
    fn noise_is_left_alone() {
        let compressors = Compressors::default();
        assert_eq!(compressors.compress(Effort::Quick, &[noise(1000)]), None);
        assert_eq!(compressors.compress(Effort::Quick, &[noise(1 << 20)]), None);
    }

    #[test]
    fn noise_with_a_compressible_head_is_still_tried() {
        let mixed = [vec![0; 512 * 1024], noise(256 * 1024)].concat();
        assert!(Compressors::default().compress(Effort::Quick, &[mixed]).is_some());
    }

    #[test]
    fn parts_are_compressed_as_if_they_were_one_whatever_was_compressed_before() {
        let compressors = Compressors::default();
        let mixed = [noise(300_000), b"the quick brown fox ".repeat(20_000)].concat();
        let alone = Compressors::default().compress(Effort::Quick, &[&mixed]).expect("is worth it");
        for size in [1, 100_000, 131_072, 500_000] {
            let parts: Vec<&[u8]> = mixed.chunks(size).collect();
            assert_eq!(compressors.compress(Effort::Quick, &parts).as_ref(), Some(&alone), "parts of {size} bytes");
            compressors.compress(Effort::Utmost, &[noise(size)]);
        }
        let (middle, begin) = (mixed.len() / 2, 0);
        for from in [middle, begin] {
            let parts: Vec<&[u8]> = mixed.chunks(10_000).collect();
            assert_eq!(stretch(&parts, from), &mixed[from..from + PROBE]);
        }
        assert!((1..=IDLE).contains(&compressors.idle().len()));
        compressors.release();
        assert_eq!(compressors.idle().len(), 0);
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
