//! The rounds of SHA-256 with the SHA instructions of x86-64 (Intel's manual, volume 1, chapter on SHA extensions).
//!
//! This is the one place of the workspace with `unsafe`: a function that is compiled for instructions which not each
//! processor has may only be called on one that has them. It is looked for first. All else in here is checked by the
//! compiler: no pointers, no memory that is not borrowed.

use crate::{State, UNIT};
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_setzero_si128,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};
use std::sync::LazyLock;

/// FIPS 180-4, section 4.2.2.
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

/// Whether this processor has the instructions.
pub(crate) fn is_there() -> bool {
    static FOUND: LazyLock<bool> = LazyLock::new(|| {
        is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
    });
    *FOUND
}

/// Takes each message's bytes into its state, up to [`crate::LANES`] at once.
///
/// # Panics
/// When the lengths differ or are no multiples of [`UNIT`], and where [`is_there`] says no.
pub(crate) fn compress(states: &mut [State], messages: &[&[u8]]) {
    match (states, messages) {
        ([a], [m]) => checked([a], [m]),
        ([a, b], [m, n]) => checked([a, b], [m, n]),
        _ => unreachable!("one state or two, each with its message"),
    }
}

#[expect(unsafe_code, reason = "calls what is compiled for the instructions that were looked for")]
fn checked<const N: usize>(states: [&mut State; N], messages: [&[u8]; N]) {
    assert!(is_there(), "hashers of this kind are made only where the instructions are");
    // SAFETY: the processor has `sha`, `ssse3` and `sse4.1`, as the line above has found; `sse2` is part of x86-64.
    unsafe { with_instructions(states, messages) }
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn with_instructions<const N: usize>(states: [&mut State; N], messages: [&[u8]; N]) {
    let units = messages.map(|message| message.as_chunks::<UNIT>());
    let count = units.first().map_or(0, |(units, _)| units.len());
    assert!(units.iter().all(|(units, rest)| units.len() == count && rest.is_empty()), "whole units of each message");
    // The words a, b, e, f and c, d, g, h of each state, as the instructions take them.
    let mut front = [_mm_setzero_si128(); N];
    let mut back = [_mm_setzero_si128(); N];
    for lane in 0..N {
        let [a, b, c, d, e, f, g, h] = states[lane].map(u32::cast_signed);
        front[lane] = _mm_set_epi32(a, b, e, f);
        back[lane] = _mm_set_epi32(c, d, g, h);
    }
    for at in 0..count {
        let (front_before, back_before) = (front, back);
        let mut words = [[_mm_setzero_si128(); N]; 4];
        for lane in 0..N {
            let unit = &units[lane].0[at];
            for (part, words) in words.iter_mut().enumerate() {
                words[lane] = big_endian_words(unit, part);
            }
        }
        let [mut w0, mut w1, mut w2, mut w3] = words;
        for quarter in 0..3 {
            let at = 16 * quarter;
            rounds(&mut front, &mut back, &w0, at);
            extend(&mut w0, &w1, &w2, &w3);
            rounds(&mut front, &mut back, &w1, at + 4);
            extend(&mut w1, &w2, &w3, &w0);
            rounds(&mut front, &mut back, &w2, at + 8);
            extend(&mut w2, &w3, &w0, &w1);
            rounds(&mut front, &mut back, &w3, at + 12);
            extend(&mut w3, &w0, &w1, &w2);
        }
        rounds(&mut front, &mut back, &w0, 48);
        rounds(&mut front, &mut back, &w1, 52);
        rounds(&mut front, &mut back, &w2, 56);
        rounds(&mut front, &mut back, &w3, 60);
        for lane in 0..N {
            front[lane] = _mm_add_epi32(front[lane], front_before[lane]);
            back[lane] = _mm_add_epi32(back[lane], back_before[lane]);
        }
    }
    for lane in 0..N {
        let (front, back) = (front[lane], back[lane]);
        let words = [
            _mm_extract_epi32::<3>(front),
            _mm_extract_epi32::<2>(front),
            _mm_extract_epi32::<3>(back),
            _mm_extract_epi32::<2>(back),
            _mm_extract_epi32::<1>(front),
            _mm_extract_epi32::<0>(front),
            _mm_extract_epi32::<1>(back),
            _mm_extract_epi32::<0>(back),
        ];
        *states[lane] = words.map(i32::cast_unsigned);
    }
}

/// Four of the sixteen words of a unit.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn big_endian_words(unit: &[u8; UNIT], part: usize) -> __m128i {
    let (eights, _) = unit.as_chunks::<8>();
    let eight = |number: usize| i64::from_le_bytes(eights[number]);
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm_shuffle_epi8(_mm_set_epi64x(eight(2 * part + 1), eight(2 * part)), order)
}

/// Four rounds of each lane, the first of which has the number `at`.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn rounds<const N: usize>(front: &mut [__m128i; N], back: &mut [__m128i; N], words: &[__m128i; N], at: usize) {
    let [k0, k1, k2, k3] = [0, 1, 2, 3].map(|number| ROUND_CONSTANTS[at + number].cast_signed());
    let constants = _mm_set_epi32(k3, k2, k1, k0);
    for lane in 0..N {
        let with_constants = _mm_add_epi32(words[lane], constants);
        back[lane] = _mm_sha256rnds2_epu32(back[lane], front[lane], with_constants);
        let others = _mm_shuffle_epi32::<0x0e>(with_constants);
        front[lane] = _mm_sha256rnds2_epu32(front[lane], back[lane], others);
    }
}

/// Four more words of each lane's schedule, in place of the oldest.
#[inline]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn extend<const N: usize>(oldest: &mut [__m128i; N], w1: &[__m128i; N], w2: &[__m128i; N], newest: &[__m128i; N]) {
    for lane in 0..N {
        let sums = _mm_sha256msg1_epu32(oldest[lane], w1[lane]);
        let sums = _mm_add_epi32(sums, _mm_alignr_epi8::<4>(newest[lane], w2[lane]));
        oldest[lane] = _mm_sha256msg2_epu32(sums, newest[lane]);
    }
}
