//! SHA-256 (FIPS 180-4) of several messages side by side.
//!
//! Each step of SHA-256 waits for the one before it, so that a processor with instructions for it is idle half of the
//! time with one message. Two that take turns fill the gaps: together they take three quarters of the time or less. More
//! than two gain nothing, since the processor's registers do not hold them. Where the instructions are missing, each
//! message is hashed by itself.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// Messages that are hashed side by side, at most.
pub const LANES: usize = 2;
/// The unit in which SHA-256 takes a message, in bytes.
pub const UNIT: usize = 64;

/// The state before the first unit.
const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

type State = [u32; 8];

/// The SHA-256 of each message. Messages of about the same length are hashed side by side.
#[must_use]
pub fn digests(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&number| messages[number].len());
    let mut found = vec![[0; 32]; messages.len()];
    for group in order.chunks(LANES) {
        let shortest = group.first().map_or(0, |&number| messages[number].len()) / UNIT * UNIT;
        let heads: Vec<&[u8]> = group.iter().map(|&number| &messages[number][..shortest]).collect();
        let mut hashers = Hashers::new(group.len());
        hashers.update(&heads);
        for (&number, hasher) in group.iter().zip(hashers.split()) {
            found[number] = hasher.finish(&messages[number][shortest..]);
        }
    }
    found
}

/// The SHA-256 of each message, of which the pieces are given. They are hashed side by side as far as the pieces lie
/// alike: each has to begin a multiple of [`UNIT`] behind its message's first byte.
#[must_use]
pub fn digests_of_pieces(messages: &[Vec<&[u8]>]) -> Vec<[u8; 32]> {
    let mut rests: Vec<VecDeque<&[u8]>> = messages.iter().map(|pieces| pieces.iter().copied().collect()).collect();
    let mut hashers = Hashers::new(messages.len());
    loop {
        rests.iter_mut().for_each(|rest| while rest.pop_front_if(|piece| piece.is_empty()).is_some() {});
        let shortest = rests.iter().map(|rest| rest.front().map_or(0, |piece| piece.len())).min().unwrap_or(0);
        let len = shortest / UNIT * UNIT;
        if len == 0 {
            break;
        }
        let mut heads = Vec::with_capacity(rests.len());
        for piece in rests.iter_mut().filter_map(VecDeque::front_mut) {
            let (head, rest) = piece.split_at(len);
            heads.push(head);
            *piece = rest;
        }
        hashers.update(&heads);
    }
    hashers
        .split()
        .zip(rests)
        .map(|(hasher, rest)| hasher.finish(&rest.into_iter().collect::<Vec<_>>().concat()))
        .collect()
}

/// Messages of one length that come piece by piece, all at the same pace.
#[derive(Debug, Clone)]
pub struct Hashers(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// The states, and the bytes that each has taken.
    #[cfg(target_arch = "x86_64")]
    Lanes(Vec<State>, u64),
    Each(Vec<Sha256>),
}

impl Hashers {
    /// For so many messages: those beyond [`LANES`] gain nothing.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        #[cfg(target_arch = "x86_64")]
        if messages > 1 && x86::is_there() {
            return Self(Kind::Lanes(vec![INITIAL; messages], 0));
        }
        Self(Kind::Each(vec![Sha256::new(); messages]))
    }

    /// Takes the next piece of each message.
    ///
    /// # Panics
    /// When there is not one for each, their lengths differ, or are no multiples of [`UNIT`]: a mistake in the program.
    pub fn update(&mut self, pieces: &[&[u8]]) {
        let len = pieces.first().map_or(0, |piece| piece.len());
        assert!(len.is_multiple_of(UNIT) && pieces.iter().all(|piece| piece.len() == len), "units of all messages");
        match &mut self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Lanes(states, taken) => {
                assert_eq!(states.len(), pieces.len(), "a piece of each message");
                for (states, pieces) in states.chunks_mut(LANES).zip(pieces.chunks(LANES)) {
                    x86::compress(states, pieces);
                }
                *taken += len as u64;
            }
            Kind::Each(hashers) => {
                assert_eq!(hashers.len(), pieces.len(), "a piece of each message");
                hashers.iter_mut().zip(pieces).for_each(|(hasher, piece)| hasher.update(piece));
            }
        }
    }

    /// The SHA-256 of each message.
    #[must_use]
    pub fn finish(self) -> Vec<[u8; 32]> {
        self.split().map(|hasher| hasher.finish(&[])).collect()
    }

    fn split(self) -> impl Iterator<Item = Hasher> {
        let hashers: Vec<Hasher> = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Lanes(states, taken) => states.into_iter().map(|state| Hasher::Lane(state, taken)).collect(),
            Kind::Each(hashers) => hashers.into_iter().map(Hasher::Whole).collect(),
        };
        hashers.into_iter()
    }
}

/// One of them, which goes on alone.
enum Hasher {
    #[cfg(target_arch = "x86_64")]
    Lane(State, u64),
    Whole(Sha256),
}

impl Hasher {
    /// The hash, with the last bytes of the message.
    fn finish(self, rest: &[u8]) -> [u8; 32] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Lane(state, taken) => {
                let bits = (taken + rest.len() as u64) * 8;
                let (whole, end) = rest.split_at(rest.len() / UNIT * UNIT);
                let mut states = [state];
                x86::compress(&mut states, &[whole]);
                // The message's end, a bit that is set, zeros, and the message's length in bits fill whole units.
                let mut last = [0; 2 * UNIT];
                last[..end.len()].copy_from_slice(end);
                last[end.len()] = 0x80;
                let filled = if end.len() + 9 <= UNIT { UNIT } else { 2 * UNIT };
                last[filled - 8..filled].copy_from_slice(&bits.to_be_bytes());
                x86::compress(&mut states, &[&last[..filled]]);
                let mut hash = [0; 32];
                hash.chunks_exact_mut(4)
                    .zip(states[0])
                    .for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_be_bytes()));
                hash
            }
            Self::Whole(hasher) => hasher.chain_update(rest).finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one_by_one(messages: &[&[u8]]) -> Vec<[u8; 32]> {
        messages.iter().map(|message| Sha256::digest(message).into()).collect()
    }

    #[test]
    fn every_length_around_a_unit_has_its_hash() {
        let bytes: Vec<u8> = (0..400_u32).map(|n| (n * 7 % 251) as u8).collect();
        let messages: Vec<&[u8]> = (0..=bytes.len()).map(|len| &bytes[..len]).collect();
        assert_eq!(digests(&messages), one_by_one(&messages));
        assert_eq!(digests(&[]), Vec::<[u8; 32]>::new());
    }

    #[test]
    fn one_to_nine_messages_that_come_in_pieces_have_their_hashes() {
        let bytes: Vec<u8> = (0..9 * 640_u32).map(|n| (n * n % 249) as u8).collect();
        for count in 1..=9 {
            let messages: Vec<&[u8]> = bytes.chunks(640).take(count).collect();
            let mut hashers = Hashers::new(count);
            for (from, to) in [(0, 64), (64, 64), (64, 576), (576, 640)] {
                hashers.update(&messages.iter().map(|message| &message[from..to]).collect::<Vec<_>>());
            }
            assert_eq!(hashers.finish(), one_by_one(&messages), "{count}");
        }
    }

    proptest! {
        #[test]
        fn messages_of_any_lengths_have_their_hashes(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1000), 0..12)
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(digests(&messages), one_by_one(&messages));
        }

        #[test]
        fn messages_cut_anywhere_have_their_hashes(
            messages in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8), 0..4),
            unit in prop_oneof![Just(1), Just(UNIT)],
        ) {
            let units = |piece: &[u8]| piece.len() / unit * unit;
            let cut: Vec<Vec<&[u8]>> = messages
                .iter()
                .map(|pieces| pieces.iter().map(|piece| &piece[..units(piece)]).collect())
                .collect();
            let whole: Vec<Vec<u8>> = cut.iter().map(|pieces| pieces.concat()).collect();
            let whole: Vec<&[u8]> = whole.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(digests_of_pieces(&cut), one_by_one(&whole));
        }
    }
}
