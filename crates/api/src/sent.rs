//! Commits as they travel: an edit of a large file names only the blocks that the version before lacks.

use model::{
    BlockHash, Blocklist, Body, Commit, CommitKey, ContentHash, Epoch, Mtime, NamespaceId, NodeId, Operation, Position,
    limits,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A [`Commit`] on its way to the meta service, which makes the whole one of it before it looks at anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentCommit {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: CommitKey,
    pub seen: Position,
    #[serde(deserialize_with = "crate::codec::operations")]
    pub operations: Vec<SentOperation>,
}

/// An operation as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SentOperation {
    Whole(Operation),
    /// An edit of a file. What its blocklist keeps is that of the content revision that it was made against.
    Amend {
        node: NodeId,
        base_content: Position,
        blocks: AmendedList,
        size: u64,
        executable: bool,
        mtime: Mtime,
    },
}

/// A blocklist, told by what it has in common with an older one. It keeps no more blocks than that one has, so that
/// nobody makes a long list of a short one without naming what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmendedList {
    pieces: Vec<Piece>,
    /// The blocks that the older list lacks, in order.
    new: Vec<BlockHash>,
    /// Of the whole list: only the one that was meant has it.
    content: ContentHash,
}

/// Blocks of the older list, and new ones behind them; one or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// The number, in the older list, of the first block that is kept.
    from: u32,
    kept: u32,
    new: u32,
}

/// An amended list that does not fit the older one: it was made against another, or by nobody who knows the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the blocklist does not follow from the one before")]
pub struct Misfit;

impl SentCommit {
    /// The commit, with those of its edits amended for which `before` gives the blocklist of the revision that they
    /// were made against, if `worth_while` finds enough of it kept.
    #[must_use]
    pub fn amending(
        commit: Commit,
        before: impl Fn(NodeId, Position) -> Option<Blocklist>,
        worth_while: impl Fn(&AmendedList) -> bool,
    ) -> Self {
        let amended = |operation: &Operation| {
            let Operation::Edit { node, base_content, body: Body::File { blocks, size, executable, mtime } } =
                operation
            else {
                return None;
            };
            let blocks = AmendedList::of(blocks, &before(*node, *base_content)?);
            worth_while(&blocks).then_some(SentOperation::Amend {
                node: *node,
                base_content: *base_content,
                blocks,
                size: *size,
                executable: *executable,
                mtime: *mtime,
            })
        };
        let operations = commit.operations.into_iter();
        let operations = operations.map(|operation| amended(&operation).unwrap_or(SentOperation::Whole(operation)));
        Self {
            namespace: commit.namespace,
            epoch: commit.epoch,
            key: commit.key,
            seen: commit.seen,
            operations: operations.collect(),
        }
    }

    /// The commit with other operations.
    #[must_use]
    pub const fn with(&self, operations: Vec<Operation>) -> Commit {
        let &Self { namespace, epoch, key, seen, .. } = self;
        Commit { namespace, epoch, key, seen, operations }
    }

    /// The commit, if nothing of it is amended.
    #[must_use]
    pub fn whole(&self) -> Option<Commit> {
        let whole = |operation: &SentOperation| match operation {
            SentOperation::Whole(operation) => Some(operation.clone()),
            SentOperation::Amend { .. } => None,
        };
        Some(self.with(self.operations.iter().map(whole).collect::<Option<_>>()?))
    }
}

impl From<Commit> for SentCommit {
    fn from(commit: Commit) -> Self {
        Self::amending(commit, |_, _| None, |_| false)
    }
}

impl SentOperation {
    /// The node that the operation is about.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Whole(operation) => operation.node(),
            Self::Amend { node, .. } => *node,
        }
    }

    /// The blocks that it names by their hashes.
    #[must_use]
    pub fn named_blocks(&self) -> &[BlockHash] {
        match self {
            Self::Whole(operation) => operation.body().map_or(&[], Body::blocks),
            Self::Amend { blocks, .. } => &blocks.new,
        }
    }

    /// How many blocks its body has.
    #[must_use]
    pub fn count_blocks(&self) -> u64 {
        match self {
            Self::Whole(_) => self.named_blocks().len() as u64,
            Self::Amend { blocks, .. } => blocks.count(),
        }
    }
}

impl AmendedList {
    /// `list` as what it has in common with `older`.
    #[must_use]
    pub fn of(list: &Blocklist, older: &Blocklist) -> Self {
        let mut places: HashMap<&BlockHash, u32> = HashMap::with_capacity(older.0.len());
        for (hash, number) in older.0.iter().zip(0..) {
            places.entry(hash).or_insert(number);
        }
        let is_at = |number: usize, hash: &BlockHash| older.0.get(number) == Some(hash);
        let mut amended = Self { pieces: Vec::new(), new: Vec::new(), content: list.content_hash() };
        let mut may_keep = older.0.len();
        for (number, hash) in list.0.iter().enumerate() {
            let goes_on = amended.pieces.last_mut().filter(|piece| {
                piece.new == 0 && usize::try_from(piece.from + piece.kept).is_ok_and(|next| is_at(next, hash))
            });
            // Most of what is kept stays where it was, also where a block is there several times.
            let same_place = u32::try_from(number).ok().filter(|_| is_at(number, hash));
            let place = same_place.or_else(|| places.get(hash).copied()).filter(|_| may_keep > 0);
            if let Some(from) = place {
                may_keep -= 1;
                match goes_on {
                    Some(piece) => piece.kept += 1,
                    None => amended.pieces.push(Piece { from, kept: 1, new: 0 }),
                }
                continue;
            }
            amended.new.push(*hash);
            match amended.pieces.last_mut() {
                Some(piece) => piece.new += 1,
                None => amended.pieces.push(Piece { from: 0, kept: 0, new: 1 }),
            }
        }
        amended
    }

    /// How many blocks it says that it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.kept) + u64::from(piece.new)).sum()
    }

    /// How many of them are the older list's.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.kept)).sum()
    }

    /// The whole list.
    ///
    /// # Errors
    /// [`Misfit`], before memory is spent on more blocks than a file can have.
    pub fn resolve(&self, older: &Blocklist) -> Result<Blocklist, Misfit> {
        let count = usize::try_from(self.count()).ok().filter(|count| *count <= limits::FILE_BLOCKS).ok_or(Misfit)?;
        if self.kept() > older.0.len() as u64 {
            return Err(Misfit);
        }
        let mut list = Vec::with_capacity(count);
        let mut new = self.new.as_slice();
        for piece in &self.pieces {
            let from = usize::try_from(piece.from).map_err(|_| Misfit)?;
            let kept = usize::try_from(piece.kept).map_err(|_| Misfit)?;
            let kept = older.0.get(from..).and_then(|blocks| blocks.get(..kept)).ok_or(Misfit)?;
            let (theirs, rest) =
                usize::try_from(piece.new).ok().and_then(|count| new.split_at_checked(count)).ok_or(Misfit)?;
            if kept.is_empty() && theirs.is_empty() {
                return Err(Misfit);
            }
            list.extend_from_slice(kept);
            list.extend_from_slice(theirs);
            new = rest;
        }
        let list = Blocklist(list);
        if new.is_empty() && list.content_hash() == self.content { Ok(list) } else { Err(Misfit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(blocks: &[u8]) -> Blocklist {
        Blocklist(blocks.iter().map(|block| BlockHash([*block; 32])).collect())
    }

    fn pieces(new: &[u8], older: &[u8]) -> Vec<(u32, u32, u32)> {
        let amended = AmendedList::of(&list(new), &list(older));
        assert_eq!(amended.resolve(&list(older)), Ok(list(new)));
        amended.pieces.iter().map(|piece| (piece.from, piece.kept, piece.new)).collect()
    }

    #[test]
    fn what_is_kept_is_named_by_its_place() {
        let older = &[1, 2, 3, 4, 5, 6];
        assert_eq!(pieces(&[1, 2, 9, 4, 5, 6], older), [(0, 2, 1), (3, 3, 0)], "a block overwritten");
        assert_eq!(pieces(&[1, 9, 3, 4, 8, 6], older), [(0, 1, 1), (2, 2, 1), (5, 1, 0)], "two blocks");
        assert_eq!(pieces(&[1, 2, 3, 4, 5, 6, 7, 8], older), [(0, 6, 2)], "appended to");
        assert_eq!(pieces(&[1, 2], older), [(0, 2, 0)], "cut");
        assert_eq!(pieces(&[9, 1, 2, 3], older), [(0, 0, 1), (0, 3, 0)], "moved");
        assert_eq!(pieces(&[7, 7, 8], older), [(0, 0, 3)], "replaced");
        assert_eq!(pieces(&[], older), []);
        assert_eq!(pieces(&[0, 0, 1, 0, 0], &[0; 5]), [(0, 2, 1), (3, 2, 0)], "among blocks that are alike");
        assert_eq!(pieces(&[0; 5], &[0; 2]), [(0, 2, 3)], "no more than there were");
    }

    #[test]
    fn a_list_that_does_not_follow_from_the_older_one_is_a_misfit() {
        let older = list(&[1, 2, 3]);
        let good = AmendedList::of(&list(&[1, 9, 3]), &older);
        let bad = |change: fn(&mut AmendedList)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(bad.resolve(&older), Err(Misfit), "{bad:?}");
        };
        bad(|list| list.pieces[1].from = 3);
        bad(|list| list.pieces[1].kept = 2);
        bad(|list| list.pieces[1].from = u32::MAX);
        bad(|list| list.pieces.push(Piece { from: 0, kept: 2, new: 0 }));
        bad(|list| list.pieces[0].new = 2);
        bad(|list| list.pieces[0].new = 0);
        bad(|list| list.new.clear());
        bad(|list| list.new.push(BlockHash([4; 32])));
        bad(|list| list.content.0[0] ^= 1);
        bad(|list| list.pieces.push(Piece { from: 0, kept: 0, new: 0 }));
        bad(|list| list.pieces.extend(vec![Piece { from: 0, kept: 3, new: 0 }; limits::FILE_BLOCKS]));
        assert_eq!(good.resolve(&list(&[1, 2, 4])), Err(Misfit), "another version");
    }

    /// A few bytes for each of four million operations took a gigabyte to read, before anybody counted them.
    #[test]
    fn a_commit_of_too_many_operations_ends_while_it_is_read() {
        let delete = Operation::Delete { node: NodeId([1; 16]), base_content: Position(7), base_location: Position(7) };
        for (count, is_read) in [(limits::COMMIT_OPERATIONS, true), (limits::COMMIT_OPERATIONS + 1, false)] {
            let operations = vec![SentOperation::Whole(delete.clone()); count];
            let (namespace, epoch, key) = (NamespaceId([3; 16]), Epoch(1), CommitKey([4; 16]));
            let commit = SentCommit { namespace, epoch, key, seen: Position(9), operations };
            let read: Result<SentCommit, _> = crate::codec::decode(&crate::codec::encode(&commit));
            assert_eq!(read.is_ok_and(|read| read == commit), is_read, "{count}");
        }
    }

    #[test]
    fn only_edits_that_keep_enough_of_a_known_version_are_amended() {
        let file = |blocks: &[u8]| Body::File { blocks: list(blocks), size: 5, executable: true, mtime: Mtime(-1) };
        let (known, unknown) = (NodeId([1; 16]), NodeId([2; 16]));
        let edit = |node, blocks| Operation::Edit { node, base_content: Position(7), body: file(blocks) };
        let commit = Commit {
            namespace: NamespaceId([3; 16]),
            epoch: Epoch(1),
            key: CommitKey([4; 16]),
            seen: Position(9),
            operations: vec![edit(known, &[1, 2, 9]), edit(known, &[1, 8, 9]), edit(unknown, &[1, 2, 9])],
        };
        let before = |node, base| (node == known && base == Position(7)).then(|| list(&[1, 2, 3]));
        let sent = SentCommit::amending(commit.clone(), before, |list| list.kept() >= 2);
        assert!(matches!(sent.operations[0], SentOperation::Amend { base_content: Position(7), size: 5, .. }));
        assert_eq!(sent.operations[0].named_blocks(), list(&[9]).0);
        assert_eq!(sent.operations[0].count_blocks(), 3);
        let rest = commit.operations[1..].iter().cloned().map(SentOperation::Whole);
        assert_eq!(sent.operations[1..], rest.collect::<Vec<_>>());
        assert_eq!(sent.whole(), None);
        assert_eq!(SentCommit::from(commit.clone()).whole(), Some(commit));
    }

    proptest! {
        #[test]
        fn whatever_two_lists_have_in_common_the_new_one_comes_back(
            new in proptest::collection::vec(0_u8..6, 0..40),
            older in proptest::collection::vec(0_u8..6, 0..40),
        ) {
            let amended = AmendedList::of(&list(&new), &list(&older));
            prop_assert_eq!(amended.count(), new.len() as u64);
            prop_assert_eq!(amended.resolve(&list(&older)), Ok(list(&new)));
        }
    }
}
