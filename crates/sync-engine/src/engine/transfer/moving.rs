//! Blocks of an edited file that have probably moved: what is behind an insertion or a deletion lies as much further
//! back or in front as the file has grown or shrunk.

use super::super::Engine;
use super::{RequestKind, Transfers, UPLOADS};
use crate::io::{BlockSource, Environment, Former, FormerBlock, Request};
use crate::tree::{Content, FileContent, Seen};
use model::block::block_len;
use model::{BLOCK_SIZE, BlockHash, ContentHash, NodeId, limits};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Blocks that are asked for together at least, if there are as many: a request costs as much as the names of ten.
const TOGETHER: u32 = 8;

/// What is taken to have moved.
#[derive(Debug, Default)]
pub(super) struct Moving {
    waiting: VecDeque<Moved>,
    /// Blocks of those that wait or were asked for: nothing else is done about them meanwhile.
    blocks: BTreeSet<BlockHash>,
}

/// New blocks of a file that follow each other.
#[derive(Debug)]
struct Moved {
    node: NodeId,
    content: ContentHash,
    numbers: Range<u32>,
    hashes: Vec<BlockHash>,
    /// Whether the edit is expected at their beginning.
    begins: bool,
}

impl Moving {
    pub(super) fn concerns(&self, block: &BlockHash) -> bool {
        self.blocks.contains(block)
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Transfers {
    /// Whether it is known what is to be done about a block that may have to be sent, or found out already.
    pub(super) fn is_decided(&self, block: &BlockHash) -> bool {
        self.present.contains(block)
            || self.absent.contains(block)
            || self.must_send.contains(block)
            || self.moving.concerns(block)
    }
}

impl Engine {
    /// Notes which blocks of an upload have probably moved: where many that follow each other are new in an edited
    /// file of another size.
    pub(super) fn plan_moves(&mut self, node: NodeId, file: &FileContent, wanted: &BTreeMap<u32, BlockHash>) {
        let Some(Content::File(old)) = self.trees.remote(node).map(|remote| remote.content) else { return };
        if old.size == file.size || old.size == 0 {
            return;
        }
        let transfers = &mut self.transfers;
        let open = |hash: &BlockHash| {
            !transfers.is_decided(hash) && !transfers.asking.contains(hash) && !transfers.sending.contains(hash)
        };
        let open: Vec<u32> = wanted.iter().filter(|(_, hash)| open(hash)).map(|(number, _)| *number).collect();
        for run in runs(&open).into_iter().filter(|run| run.len() >= self.tuning.move_from as usize) {
            for numbers in parts(run.clone()) {
                let hashes: Vec<BlockHash> = wanted.range(numbers.clone()).map(|(_, hash)| *hash).collect();
                let begins = numbers.start == run.start;
                transfers.moving.blocks.extend(&hashes);
                transfers.moving.waiting.push_back(Moved { node, content: file.hash, numbers, hashes, begins });
            }
        }
    }

    pub(super) fn start_moves(&mut self, env: &Environment<'_>) {
        while self.transfers.running(true) < UPLOADS {
            let Some(moved) = self.transfers.moving.waiting.pop_front() else { return };
            match self.shift(&moved, env) {
                Some(request) => {
                    let id = self.send(request);
                    self.transfers.requests.insert(id, RequestKind::Shift(moved.hashes));
                }
                None => self.end_shift(&moved.hashes, &[]),
            }
        }
    }

    /// The question for them, if they are still what is to be uploaded.
    fn shift(&self, moved: &Moved, env: &Environment<'_>) -> Option<Request> {
        let node = moved.node;
        let content = self.transfers.uploads.get(&node).map(|upload| upload.content)?;
        let Some(Content::File(old)) = self.trees.remote(node).map(|remote| remote.content) else { return None };
        let is_same = self.trees.local(node).is_some_and(|local| local.seen == Seen::File(Some(content)));
        if !is_same || content.hash != moved.content {
            return None;
        }
        let (old_blocks, _) = self.find_list(env, &old.hash)?;
        let by = content.size.cast_signed().checked_sub(old.size.cast_signed())?;
        let came_from = came_from(moved, by, u32::try_from(old_blocks.0.len()).ok()?);
        let before = came_from.filter_map(|number| {
            let len = u32::try_from(block_len(old.size, number.into())).ok()?;
            Some(FormerBlock { number, hash: *old_blocks.0.get(number as usize)?, len })
        });
        let path = self.trees.local_path(node)?;
        let former = Former { namespace: self.trees.remote_namespace(node), path, blocks: before.collect() };
        let blocks = moved.numbers.clone().zip(&moved.hashes);
        let sources = blocks.map(|(number, hash)| self.source(node, &content, number, *hash));
        let sources: Vec<BlockSource> = sources.collect::<Option<_>>()?;
        (by != 0 && !former.blocks.is_empty()).then_some(Request::Shift { blocks: sources, before: former, by })
    }

    /// What came of blocks that were taken to have moved. The others go the way of all others.
    pub(in crate::engine) fn end_shift(&mut self, asked: &[BlockHash], made: &[BlockHash]) {
        self.transfers.stirred = true;
        for hash in asked {
            self.transfers.moving.blocks.remove(hash);
        }
        if !made.is_empty() {
            self.uploaded(made);
        }
    }
}

/// Stretches of numbers that follow each other.
fn runs(numbers: &[u32]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == *number => run.end += 1,
            _ => runs.push(*number..number + 1),
        }
    }
    runs
}

/// A run in as many parts as are sent at a time, or more.
fn parts(run: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    let most = u32::try_from(limits::SHIFT_BLOCKS).unwrap_or(u32::MAX);
    let size = (run.end - run.start).div_ceil(UPLOADS as u32).clamp(TOGETHER, most);
    run.clone().step_by(size as usize).map(move |start| start..run.end.min(start.saturating_add(size)))
}

/// The old blocks that these were, moved by so many bytes.
fn came_from(moved: &Moved, by: i64, count: u32) -> Range<u32> {
    let block = BLOCK_SIZE.cast_signed();
    let begin = i64::from(moved.numbers.start) * block - by;
    let end = i64::from(moved.numbers.end) * block - by;
    let number = |at: i64| u32::try_from(at.clamp(0, i64::from(count))).unwrap_or(count);
    let first = number(begin.div_euclid(block));
    // What is before an edit has not moved.
    let first = if moved.begins { first.max(moved.numbers.start) } else { first };
    first..number(-(-end).div_euclid(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: i64 = BLOCK_SIZE as i64;

    fn from(numbers: Range<u32>, begins: bool, by: i64) -> Range<u32> {
        let (node, content, hashes) = (NodeId([1; 16]), ContentHash([1; 32]), Vec::new());
        came_from(&Moved { node, content, numbers, hashes, begins }, by, 100)
    }

    #[test]
    fn blocks_came_from_where_they_lay_before_the_file_grew() {
        assert_eq!(from(10..20, false, 1), 9..20);
        assert_eq!(from(10..20, false, -1), 10..21);
        assert_eq!(from(10..20, false, BLOCK), 9..19);
        assert_eq!(from(0..20, false, 1), 0..20);
        assert_eq!(from(95..102, false, 1), 94..100);
        assert_eq!(from(95..99, false, -10 * BLOCK), 100..100);
        assert!(from(0..2, false, 5 * BLOCK).is_empty());
    }

    #[test]
    fn where_the_edit_is_nothing_came_from_before_it() {
        assert_eq!(from(10..20, true, 1), 10..20);
        assert_eq!(from(10..20, true, -1), 10..21);
    }

    #[test]
    fn a_run_is_cut_into_as_many_parts_as_go_at_a_time() {
        let cut = |run| parts(run).collect::<Vec<_>>();
        assert_eq!(cut(0..65), [0..17, 17..34, 34..51, 51..65]);
        assert_eq!(cut(5..15), [5..13, 13..15]);
        assert_eq!(cut(0..20), [0..8, 8..16, 16..20]);
        assert!(cut(0..100_000).iter().all(|part| part.len() <= limits::SHIFT_BLOCKS));
        assert_eq!(runs(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
    }
}
