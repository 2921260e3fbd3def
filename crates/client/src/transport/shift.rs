//! What has moved in an edited file, and is made at the server of what it has.
//!
//! One insertion or deletion moves all that is behind it by as many bytes as the file has grown. Whether it did so is
//! seen without asking anybody: an old block has its hash there. What lies between two such blocks is taken to have
//! moved with them, and the hash of what comes of it decides at the server. What was taken for moved and is not costs
//! the few bytes that said so; it is sent like anything else then.

use super::blocks::BlockFiles;
use super::{Transport, TransportError};
use api::{Bases, ChangesetReply, ErrorCode, HashStart, SentHead, Shift, codec};
use bytes::Bytes;
use delta::Writer;
use model::{BLOCK_SIZE, BlockHash};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use sync_engine::io::{BlockSource, Former, FormerBlock, Reply};

/// Inserted bytes that are sent with what they moved. What is more is worth a look with sums.
const INSERTED: u64 = 16 * 1024;

impl Transport {
    /// `changeset`: has blocks made of `before`, moved by `by` bytes, as far as they look like it.
    pub(super) async fn shift(
        &self,
        blocks: Vec<BlockSource>,
        before: Former,
        by: i64,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let look = move || {
            let read = |offset, len| files.read_stretch(&before.path, offset, len);
            plan(&blocks, &before, by, &read).map(|(shift, sent)| (shift, blocks[sent].to_vec()))
        };
        let Some((shift, sent)) = self.way.blocking(look).await? else {
            return Ok(Reply::Shifted { made: Vec::new() });
        };
        let head = Bytes::from(codec::encode_head(&SentHead::Shift(shift)));
        self.bandwidth.upload.take(head.len()).await;
        let reply: ChangesetReply = match self.call_with("changeset", head).await {
            Ok(reply) => reply,
            // The server, or one before it, knows no shifts.
            Err(TransportError::Refused(error)) if error.code == ErrorCode::BadRequest => {
                return Ok(Reply::Shifted { made: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        let unmade: BTreeSet<u32> = reply.unmade.into_iter().collect();
        let made = (0..).zip(&sent).filter(|(number, _)| !unmade.contains(number)).map(|(_, block)| block.hash);
        Ok(Reply::Shifted { made: made.collect() })
    }
}

/// What is sent, and which of the blocks it makes; `None` when nothing seems to have moved by so much.
fn plan(
    blocks: &[BlockSource],
    before: &Former,
    by: i64,
    read: &dyn Fn(u64, usize) -> Vec<u8>,
) -> Option<(Shift, Range<usize>)> {
    let first = blocks.first()?.offset;
    let anchor = anchor(&before.blocks, by, read)?;
    let last = before.blocks.last()?;
    let moved = moved_to(before.blocks.get(anchor)?, by)?..moved_to(last, by)? + u64::from(last.len);
    let inserted = moved.start.saturating_sub(first);
    let from = if anchor > 0 {
        // The edit is in the old block before. That it is not in the last bytes of it is worth a guess.
        if (1..=BLOCK_SIZE.cast_signed()).contains(&by) { moved.start.saturating_add_signed(-by) } else { moved.start }
    } else if inserted <= INSERTED {
        moved.start.min(first)
    } else {
        moved.start
    };
    let fits = |block: &BlockSource| block.offset >= from && block.offset + u64::from(block.len) <= moved.end;
    let start = blocks.iter().position(fits)?;
    let end = start + blocks[start..].iter().take_while(|block| fits(block)).count();
    let (sent, range) =
        (&blocks[start..end], blocks[start].offset..blocks[end - 1].offset + u64::from(blocks[end - 1].len));
    let mut script = Writer::default();
    let copied = if anchor == 0 { range.start.max(moved.start) } else { range.start }..range.end;
    if copied.start > range.start {
        script.insert(&read(range.start, usize::try_from(copied.start - range.start).ok()?));
    }
    let old = copied.start.checked_add_signed(-by)?..copied.end.checked_add_signed(-by)?;
    let covers = |block: &&FormerBlock| {
        let begin = u64::from(block.number) * BLOCK_SIZE;
        begin < old.end && begin + u64::from(block.len) > old.start
    };
    let bases: Vec<&FormerBlock> = before.blocks.iter().filter(covers).collect();
    let at = old.start.checked_sub(u64::from(bases.first()?.number) * BLOCK_SIZE)?;
    script.copy(0, usize::try_from(at).ok()?, usize::try_from(old.end - old.start).ok()?);
    let shift = Shift {
        bases: Bases { namespace: before.namespace, blocks: bases.iter().map(|block| block.hash).collect() },
        size: range.end - range.start,
        blocks: sent.iter().map(|block| HashStart::of(&block.hash)).collect(),
        script: script.finish(),
    };
    Some((shift, start..end))
}

/// The first of the old blocks that is where it would have moved, if the last one is: all between them are taken to be.
fn anchor(before: &[FormerBlock], by: i64, read: &dyn Fn(u64, usize) -> Vec<u8>) -> Option<usize> {
    let is_there = |number: usize| {
        let old = &before[number];
        moved_to(old, by).is_some_and(|to| BlockHash::of(&read(to, old.len as usize)) == old.hash)
    };
    let last = before.len().checked_sub(1)?;
    if is_there(0) {
        return Some(0);
    }
    if last == 0 || !is_there(last) {
        return None;
    }
    let (mut gone, mut there) = (0, last);
    while there - gone > 1 {
        let middle = gone.midpoint(there);
        if is_there(middle) {
            there = middle;
        } else {
            gone = middle;
        }
    }
    Some(there)
}

/// Where an old block is when it has moved; `None`: in part before the file's beginning.
fn moved_to(old: &FormerBlock, by: i64) -> Option<u64> {
    (u64::from(old.number) * BLOCK_SIZE).checked_add_signed(by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use delta::{Script, split};
    use model::NamespaceId;
    use std::cell::Cell;
    use sync_engine::io::LocalPath;

    const BLOCK: usize = BLOCK_SIZE as usize;

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
    }

    struct Made {
        /// The numbers of the blocks that the server is asked to make, and of those that it makes.
        asked: Range<usize>,
        right: Vec<usize>,
        /// Bytes of the script, and how many blocks were read to find out.
        script: usize,
        looks: usize,
    }

    /// What comes of the new blocks from `first` on, when the old ones from `before` on are looked at.
    fn made(old: &[u8], new: &[u8], first: usize, before: usize) -> Option<Made> {
        let hashed = |bytes: &[u8]| -> Vec<(usize, BlockHash, u32)> {
            let chunks = bytes.chunks(BLOCK).enumerate();
            chunks.map(|(number, chunk)| (number, BlockHash::of(chunk), chunk.len() as u32)).collect()
        };
        let blocks: Vec<BlockSource> = hashed(new)[first..]
            .iter()
            .map(|(number, hash, len)| BlockSource {
                hash: *hash,
                len: *len,
                path: LocalPath::root(),
                offset: (number * BLOCK) as u64,
            })
            .collect();
        let olds: Vec<FormerBlock> = hashed(old)[before..]
            .iter()
            .map(|(number, hash, len)| FormerBlock { number: *number as u32, hash: *hash, len: *len })
            .collect();
        let former = Former { namespace: NamespaceId([1; 16]), path: LocalPath::root(), blocks: olds };
        let looks = Cell::new(0);
        let read = |offset: u64, len: usize| {
            looks.set(looks.get() + usize::from(len as u64 > INSERTED));
            let from = (offset as usize).min(new.len());
            new[from..(from + len).min(new.len())].to_vec()
        };
        let (shift, sent) = plan(&blocks, &former, new.len() as i64 - old.len() as i64, &read)?;
        let lens: Vec<usize> = shift.lens().expect("legal").iter().map(|len| *len as usize).collect();
        let scripts = split(&shift.script, &lens, BLOCK).expect("splits");
        let bases: Vec<&[u8]> = shift
            .bases
            .blocks
            .iter()
            .map(|hash| old.chunks(BLOCK).find(|chunk| BlockHash::of(chunk) == *hash).expect("an old block"))
            .collect();
        let asked = sent.start + first..sent.end + first;
        let makes = |number: &usize| {
            let (script, block) = (&scripts[number - asked.start], &new[number * BLOCK..]);
            let block = &block[..block.len().min(BLOCK)];
            let script = Script::parse(script, block.len()).expect("a script");
            script.apply(|base| bases.get(base).copied()).is_ok_and(|bytes| bytes == block)
        };
        let right = asked.clone().filter(makes).collect();
        Some(Made { asked, right, script: shift.script.len(), looks: looks.get() })
    }

    #[test]
    fn what_an_insertion_at_the_front_moved_is_one_copy_and_seen_with_one_look() {
        let old = noise(5 * BLOCK + 17);
        let made = made(&old, &[b"x", old.as_slice()].concat(), 0, 0).expect("moved");
        assert_eq!((made.asked, made.right), (0..6, (0..6).collect()));
        assert!(made.script < 16 && made.looks == 1, "{} {}", made.script, made.looks);
    }

    #[test]
    fn what_a_deletion_at_the_front_moved_is_found() {
        let old = noise(3 * BLOCK + 17);
        for gone in [1, BLOCK, BLOCK + 5] {
            let made = made(&old, &old[gone..], 0, 0).expect("moved");
            assert_eq!(made.asked.end, old[gone..].len().div_ceil(BLOCK));
            assert_eq!(made.right.len(), made.asked.len(), "{gone}");
            assert!(made.asked.start <= 1, "{gone}: {:?}", made.asked);
        }
    }

    #[test]
    fn what_is_behind_an_edit_in_the_middle_is_found_and_what_it_is_in_is_left() {
        let old = noise(5 * BLOCK + 17);
        let place = BLOCK + 1000;
        for more in [1, BLOCK - 1] {
            let new = [&old[..place], &vec![7; more], &old[place..]].concat();
            let made = made(&old, &new, 1, 1).expect("moved");
            assert_eq!(made.asked, 2..new.len().div_ceil(BLOCK), "{more}");
            assert!(made.right.len() + 1 >= made.asked.len() && made.looks <= 4, "{more}: {:?}", made.right);
        }
        let new = [&old[..place], &old[place + 9..]].concat();
        let made = made(&old, &new, 1, 1).expect("moved");
        assert_eq!((made.asked, made.right), (2..6, (2..6).collect()));
    }

    #[test]
    fn a_part_of_a_file_is_found_by_what_lay_before_it() {
        let old = noise(4 * BLOCK + 17);
        let made = made(&old, &[b"inserted", old.as_slice()].concat(), 2, 1).expect("moved");
        assert_eq!((made.asked, made.right), (2..5, (2..5).collect()));
    }

    #[test]
    fn a_change_among_what_moved_is_left_to_the_server_to_find() {
        let old = noise(5 * BLOCK + 17);
        let mut new = [b"x", old.as_slice()].concat();
        new[2 * BLOCK + 9] ^= 1;
        let made = made(&old, &new, 0, 0).expect("moved");
        assert_eq!((made.asked, made.right), (0..6, vec![0, 1, 3, 4, 5]));
    }

    #[test]
    fn what_did_not_move_by_as_much_as_the_file_has_grown_is_nothing() {
        let old = noise(3 * BLOCK + 17);
        let mut appended = old.clone();
        appended.extend(vec![7; 3 * BLOCK]);
        assert!(made(&old, &appended, 3, 3).is_none());
        let scattered: Vec<u8> = old.iter().map(|byte| byte ^ 1).chain([1]).collect();
        assert!(made(&old, &scattered, 0, 0).is_none());
        let long = [vec![7; BLOCK], old.clone()].concat();
        assert_eq!(made(&old, &long, 0, 0).expect("moved").asked, 1..5, "so long an insertion is sent as it is");
    }
}
