//! What an old version has left over that a new one may resemble.

use crate::io::FormerBlock;
use model::block::block_len;
use model::{BlockHash, Blocklist};
use std::collections::BTreeSet;

/// Shorter blocks, in bytes, are sent faster than compared.
const RESEMBLING_MIN: u32 = 512;

/// Blocks of an old version that the new one does not have, near the new one's blocks `numbers` (rising): at most `near`
/// before and behind them, since an edit moves what follows it by the bytes that it adds or removes.
pub(super) fn left_over(
    old: &Blocklist,
    old_size: u64,
    new: &Blocklist,
    numbers: &[u32],
    near: u32,
) -> Vec<FormerBlock> {
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Vec::new() };
    let around = first.saturating_sub(near)..=last.saturating_add(near);
    // What was near and has not moved far is near still.
    let (from, to) = (around.start().saturating_sub(near) as usize, around.end().saturating_add(near) as usize);
    let kept: BTreeSet<&BlockHash> = new.0.iter().take(to.saturating_add(1)).skip(from).collect();
    let block = |(number, hash): (u32, &BlockHash)| {
        let len = u32::try_from(block_len(old_size, number.into())).ok()?;
        (len >= RESEMBLING_MIN && !kept.contains(hash)).then_some(FormerBlock { number, hash: *hash, len })
    };
    (0..)
        .zip(&old.0)
        .skip(*around.start() as usize)
        .take_while(|(number, _)| around.contains(number))
        .filter_map(block)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BLOCK_SIZE;

    fn list(names: &[u8]) -> Blocklist {
        Blocklist(names.iter().map(|name| BlockHash([*name; 32])).collect())
    }

    fn left(old: &[u8], new: &[u8], numbers: &[u32]) -> Vec<u32> {
        left_near(old, new, numbers, 4)
    }

    fn left_near(old: &[u8], new: &[u8], numbers: &[u32], near: u32) -> Vec<u32> {
        let size = (BLOCK_SIZE * old.len() as u64).saturating_sub(5);
        let left = left_over(&list(old), size, &list(new), numbers, near);
        assert!(left.iter().all(|block| block.hash.0[0] == old[block.number as usize]));
        left.into_iter().map(|block| block.number).collect()
    }

    #[test]
    fn a_changed_block_resembles_what_was_in_its_place() {
        assert_eq!(left(&[1, 2, 3, 4], &[1, 9, 3, 4], &[1]), [1]);
        assert_eq!(left(&[1, 2, 3], &[1, 2, 3, 4], &[3]), Vec::<u32>::new());
    }

    #[test]
    fn what_an_insertion_moved_resembles_what_is_near() {
        assert_eq!(left(&[1, 2, 3, 4], &[11, 12, 13, 14, 15], &[2, 3]), [0, 1, 2, 3]);
        let (old, new): (Vec<u8>, Vec<u8>) = ((1..101).collect(), (101..201).collect());
        let near: Vec<u32> = (46..=55).collect();
        assert_eq!(left(&old, &new, &[50, 51]), near);
        assert_eq!(left_near(&old, &new, &[50, 51], 0), [50, 51]);
    }

    #[test]
    fn a_shorter_file_has_nothing_left_where_it_ended() {
        assert_eq!(left(&[1], &[11, 12], &[1]), [0]);
        assert_eq!(left(&[], &[11], &[0]), Vec::<u32>::new());
    }
}
