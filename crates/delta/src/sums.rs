//! Sums of chunks: one that can roll along the bytes, and one that tells chunks apart.

/// Bytes of a chunk's sum on the wire.
pub const SUM_BYTES: usize = 8;

/// The sum of one chunk. Together 64 bits: among the 2^28 places of a file of 256 MiB and 2^13 chunks a
/// chance match has a probability of 2^-23, and costs no more than a block that is sent whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkSum {
    /// [`Rolling`] over the chunk.
    pub weak: u32,
    /// The upper half of the chunk's CRC-64. It is independent of `weak`, and far cheaper than a
    /// cryptographic hash, which would buy nothing here: the result is checked as a whole.
    pub strong: u32,
}

impl ChunkSum {
    /// The sum of a chunk.
    #[must_use]
    pub fn of(chunk: &[u8]) -> Self {
        Self { weak: Rolling::of(chunk).sum(), strong: strong(chunk) }
    }
}

/// The strong half of a chunk's sum.
pub(crate) fn strong(chunk: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, chunk);
    u32::try_from(crc >> 32).unwrap_or_default()
}

/// The sums of a base's chunks of `chunk` bytes; the last one may be shorter.
///
/// # Panics
/// When `chunk` is 0.
#[must_use]
pub fn sum_up(base: &[u8], chunk: usize) -> Vec<ChunkSum> {
    base.chunks(chunk).map(ChunkSum::of).collect()
}

/// Sums as they travel.
#[must_use]
pub fn sums_to_bytes(sums: &[ChunkSum]) -> Vec<u8> {
    sums.iter().flat_map(|sum| [sum.weak.to_le_bytes(), sum.strong.to_le_bytes()]).flatten().collect()
}

/// Sums that travelled; `None` when the bytes are no whole number of them.
#[must_use]
pub fn sums_from_bytes(bytes: &[u8]) -> Option<Vec<ChunkSum>> {
    let (sums, rest) = bytes.as_chunks::<SUM_BYTES>();
    let sum = |bytes: &[u8; SUM_BYTES]| {
        let both = u64::from_le_bytes(*bytes);
        ChunkSum { weak: both as u32, strong: (both >> 32) as u32 }
    };
    rest.is_empty().then(|| sums.iter().map(sum).collect())
}

/// Bytes that are summed up side by side: as many as a few vector registers hold.
const LANES: usize = 64;

/// rsync's rolling sum: the sum of the bytes, and the sum of these sums, modulo 2^16 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    bytes: u32,
    sums: u32,
    len: u32,
}

impl Rolling {
    /// The sum of a window, which is at most 4 GiB long.
    #[must_use]
    pub fn of(window: &[u8]) -> Self {
        // All is counted modulo 2^16, so that the compiler makes vector instructions of additions alone. A byte counts in
        // `sums` as often as the window has bytes from it on: `before` counts the rows behind its own.
        let (mut lanes, mut before) = ([0_u16; LANES], [0_u16; LANES]);
        let (rows, rest) = window.as_chunks::<LANES>();
        for row in rows {
            for ((lane, before), byte) in lanes.iter_mut().zip(&mut before).zip(row) {
                *before = before.wrapping_add(*lane);
                *lane = lane.wrapping_add(u16::from(*byte));
            }
        }
        let (mut bytes, mut sums) = (0_u32, 0_u32);
        for (behind, (lane, before)) in (1..=LANES as u32).rev().zip(lanes.iter().zip(before)) {
            bytes = bytes.wrapping_add(u32::from(*lane));
            sums = sums.wrapping_add(u32::from(before) * LANES as u32).wrapping_add(u32::from(*lane) * behind);
        }
        for byte in rest {
            bytes = bytes.wrapping_add(u32::from(*byte));
            sums = sums.wrapping_add(bytes);
        }
        Self { bytes: bytes & 0xffff, sums: sums & 0xffff, len: window.len() as u32 }
    }

    /// Moves the window on by one byte.
    #[inline]
    pub fn roll(&mut self, out: u8, into: u8) {
        self.bytes = self.bytes.wrapping_sub(u32::from(out)).wrapping_add(u32::from(into));
        self.sums = self.sums.wrapping_sub(self.len.wrapping_mul(u32::from(out))).wrapping_add(self.bytes);
    }

    /// The window's sum.
    #[inline]
    #[must_use]
    pub const fn sum(&self) -> u32 {
        (self.bytes & 0xffff) | (self.sums << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_that_rolled_is_the_sum_of_the_window_it_rolled_to(
            bytes in proptest::collection::vec(any::<u8>(), 2..10_000),
            window in 1_usize..5_000,
        ) {
            let window = window.min(bytes.len() - 1);
            let mut rolling = Rolling::of(&bytes[..window]);
            for (start, end) in (0..).zip(window..bytes.len()) {
                rolling.roll(bytes[start], bytes[end]);
            }
            prop_assert_eq!(rolling.sum(), Rolling::of(&bytes[bytes.len() - window..]).sum());
        }

        #[test]
        fn sums_survive_the_wire(base in proptest::collection::vec(any::<u8>(), 0..2_000), chunk in 1_usize..300) {
            let sums = sum_up(&base, chunk);
            prop_assert_eq!(sums_from_bytes(&sums_to_bytes(&sums)), Some(sums));
        }
    }

    #[test]
    fn a_sum_of_any_length_is_the_one_that_was_counted_byte_by_byte() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8 | 0x80).collect();
        for len in [0, 1, LANES - 1, LANES, LANES + 1, 4_096, 65_536, 70_000] {
            let (mut plain, mut sums) = (0_u32, 0_u32);
            for byte in &bytes[..len] {
                plain = plain.wrapping_add(u32::from(*byte));
                sums = sums.wrapping_add(plain);
            }
            assert_eq!(Rolling::of(&bytes[..len]).sum(), (plain & 0xffff) | (sums << 16), "{len}");
        }
    }

    #[test]
    fn a_torn_sum_is_none() {
        assert_eq!(sums_from_bytes(&[0; SUM_BYTES + 1]), None);
    }

    #[test]
    fn the_rolling_sum_is_adlers_without_its_prime() {
        assert_eq!(Rolling::of(b"abc").sum(), (97 + 98 + 99) | ((3 * 97 + 2 * 98 + 99) << 16));
    }
}
