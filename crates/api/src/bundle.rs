//! Small new files that travel together. What their commit and the headers of their blocks say follows, for the most
//! part, from something else, and is left out.

use crate::codec::{DecodeError, check_headers};
use crate::messages::{BlockHeader, ChangesetHead};
use crate::near::Before;
use crate::sent::{SentCommit, SentOperation};
use crate::shift::Shift;
use model::{
    BlockHash, Blocklist, Body, CommitKey, ContentHash, Epoch, Mtime, NamespaceId, NodeId, Operation, Position,
    content_hash, limits,
};
use serde::{Deserialize, Serialize};

/// The head of a changeset as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SentHead {
    Named(ChangesetHead),
    Bundle(Bundle),
    Shift(Shift),
}

/// A changeset of small new files, each of one block. The blocks follow in the order of the files, and who receives them
/// computes their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    namespace: NamespaceId,
    epoch: Epoch,
    key: CommitKey,
    seen: Position,
    operations: Vec<Bundled>,
    /// Of the list of all blocks that follow: only those that were meant have it.
    content: ContentHash,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Bundled {
    /// The creation of a file whose block follows.
    File {
        node: NodeId,
        /// `None`: that of the file before.
        parent: Option<NodeId>,
        /// So many bytes of the name of the file before, and then the rest.
        shared: u8,
        rest: String,
        size: u32,
        executable: bool,
        /// What it is more than that of the file before, in nanoseconds.
        mtime: i64,
    },
    Other(SentOperation),
}

impl SentHead {
    /// The head as a bundle, if it can be one and that is shorter.
    #[must_use]
    pub fn of(head: ChangesetHead) -> Self {
        Bundle::of(&head).map_or(Self::Named(head), Self::Bundle)
    }

    /// The head, with zeros in the place of the hashes that it leaves out.
    ///
    /// # Errors
    /// Those of [`Bundle::headers`].
    pub fn outline(&self) -> Result<ChangesetHead, DecodeError> {
        match self {
            Self::Named(head) => Ok(head.clone()),
            Self::Bundle(bundle) => bundle.with(&bundle.headers()?),
            // Nothing follows.
            Self::Shift(shift) => {
                shift.lens()?;
                Ok(ChangesetHead { blocks: Vec::new(), bases: Some(shift.bases.clone()), commit: None })
            }
        }
    }
}

impl Bundle {
    /// All blocks of the head belong to new files of one block each that it creates, two or more, in their order.
    fn of(head: &ChangesetHead) -> Option<Self> {
        let commit = head.commit.as_ref().filter(|_| head.bases.is_none() && head.blocks.len() >= 2)?;
        let mut before = Before::below(commit.namespace.root());
        let mut blocks = head.blocks.iter().peekable();
        let operations = commit.operations.iter().map(|operation| {
            let next = blocks.peek().copied();
            match next.and_then(|header| Bundled::file(operation, *header, &mut before)) {
                Some(file) => {
                    blocks.next();
                    file
                }
                None => Bundled::Other(operation.clone()),
            }
        });
        let operations = operations.collect();
        if blocks.next().is_some() {
            return None;
        }
        let hashes: Vec<BlockHash> = head.blocks.iter().map(|header| header.hash).collect();
        let bundle = Self {
            namespace: commit.namespace,
            epoch: commit.epoch,
            key: commit.key,
            seen: commit.seen,
            operations,
            content: content_hash(&hashes),
        };
        bundle.headers().is_ok().then_some(bundle)
    }

    /// How long the blocks are that follow; their hashes are zeros.
    ///
    /// # Errors
    /// [`DecodeError`] for more operations, blocks or bytes than a bundle may have.
    pub fn headers(&self) -> Result<Vec<BlockHeader>, DecodeError> {
        if self.operations.len() > limits::COMMIT_OPERATIONS {
            return Err(DecodeError::Malformed);
        }
        let lens = self.operations.iter().filter_map(|operation| match operation {
            Bundled::File { size, .. } => Some(*size),
            Bundled::Other(_) => None,
        });
        let headers: Vec<BlockHeader> = lens.map(|len| BlockHeader { hash: BlockHash([0; 32]), len }).collect();
        check_headers(&headers)?;
        let total: u64 = headers.iter().map(|header| u64::from(header.len)).sum();
        if total > limits::BUNDLE_BYTES { Err(DecodeError::BlockTooLong) } else { Ok(headers) }
    }

    /// The head that was meant, of the blocks that came.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for other blocks, or what no bundle says.
    pub fn open(&self, blocks: &[BlockHeader]) -> Result<ChangesetHead, DecodeError> {
        let hashes: Vec<BlockHash> = blocks.iter().map(|block| block.hash).collect();
        if content_hash(&hashes) != self.content {
            return Err(DecodeError::Malformed);
        }
        self.with(blocks)
    }

    fn with(&self, blocks: &[BlockHeader]) -> Result<ChangesetHead, DecodeError> {
        let mut before = Before::below(self.namespace.root());
        let mut hashes = blocks.iter().map(|block| block.hash);
        let operations = self.operations.iter().map(|operation| operation.open(&mut hashes, &mut before));
        let operations = operations.collect::<Option<_>>().filter(|_| hashes.len() == 0);
        let &Self { namespace, epoch, key, seen, .. } = self;
        let operations = operations.ok_or(DecodeError::Malformed)?;
        let commit = SentCommit { namespace, epoch, key, seen, operations };
        Ok(ChangesetHead { blocks: blocks.to_vec(), bases: None, commit: Some(commit) })
    }
}

impl Bundled {
    /// The operation, if it creates a file of this block alone.
    fn file(operation: &SentOperation, block: BlockHeader, before: &mut Before) -> Option<Self> {
        let SentOperation::Whole(Operation::Create {
            node,
            parent,
            name,
            body: Body::File { blocks, size, executable, mtime },
        }) = operation
        else {
            return None;
        };
        if blocks.0 != [block.hash] || *size != u64::from(block.len) {
            return None;
        }
        let (parent, shared, rest) = before.go_to(*parent, name);
        let more = mtime.0.wrapping_sub(before.mtime);
        before.mtime = mtime.0;
        let (node, size, executable) = (*node, block.len, *executable);
        Some(Self::File { node, parent, shared, rest, size, executable, mtime: more })
    }

    /// The operation again, with the next of the blocks if it is about one.
    fn open(&self, hashes: &mut impl Iterator<Item = BlockHash>, before: &mut Before) -> Option<SentOperation> {
        let (node, parent, shared, rest, size, executable, mtime) = match self {
            Self::Other(operation) => return Some(operation.clone()),
            Self::File { node, parent, shared, rest, size, executable, mtime } => {
                (*node, *parent, *shared, rest, *size, *executable, *mtime)
            }
        };
        let (parent, name) = before.follow(parent, shared, rest)?;
        before.mtime = before.mtime.wrapping_add(mtime);
        let body = Body::File {
            blocks: Blocklist(vec![hashes.next()?]),
            size: size.into(),
            executable,
            mtime: Mtime(before.mtime),
        };
        Some(SentOperation::Whole(Operation::Create { node, parent, name, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Name;
    use proptest::prelude::*;

    fn header(bytes: &[u8]) -> BlockHeader {
        BlockHeader { hash: BlockHash::of(bytes), len: u32::try_from(bytes.len()).expect("short") }
    }

    fn create(n: u8, parent: u8, name: &str, block: BlockHeader, mtime: i64) -> SentOperation {
        let body = Body::File {
            blocks: Blocklist(vec![block.hash]),
            size: block.len.into(),
            executable: n.is_multiple_of(2),
            mtime: Mtime(mtime),
        };
        let name = Name::parse(name).expect("legal");
        SentOperation::Whole(Operation::Create { node: NodeId([n; 16]), parent: NodeId([parent; 16]), name, body })
    }

    fn head(blocks: Vec<BlockHeader>, operations: Vec<SentOperation>) -> ChangesetHead {
        let commit = SentCommit {
            namespace: NamespaceId([1; 16]),
            epoch: Epoch(1),
            key: CommitKey([4; 16]),
            seen: Position(9),
            operations,
        };
        ChangesetHead { blocks, bases: None, commit: Some(commit) }
    }

    fn bundle(head: &ChangesetHead) -> Bundle {
        match SentHead::of(head.clone()) {
            SentHead::Bundle(bundle) => bundle,
            SentHead::Named(_) | SentHead::Shift(_) => panic!("no bundle"),
        }
    }

    fn two() -> ChangesetHead {
        let blocks = vec![header(b"one"), header(b"second")];
        let operations = vec![create(5, 1, "file 1", blocks[0], 1_000), create(6, 1, "file 2", blocks[1], 2_000)];
        head(blocks, operations)
    }

    #[test]
    fn a_bundle_opens_to_what_was_put_into_it() {
        let blocks = vec![header(b"one"), header(b"second"), header(b"3")];
        let folder = Operation::Create {
            node: NodeId([2; 16]),
            parent: NodeId([1; 16]),
            name: Name::parse("d").expect("legal"),
            body: Body::Directory,
        };
        let operations = vec![
            SentOperation::Whole(folder),
            create(5, 2, "d\u{e9}j\u{e0} 1", blocks[0], i64::MAX),
            create(6, 2, "d\u{e8}", blocks[1], i64::MIN),
            create(7, 1, "other", blocks[0], 5),
            create(8, 1, "other", blocks[2], 5),
        ];
        let head = head(blocks.clone(), operations);
        let bundle = bundle(&head);
        assert_eq!(bundle.headers().expect("fits").iter().map(|block| block.len).collect::<Vec<_>>(), [3, 6, 1]);
        assert_eq!(bundle.open(&blocks), Ok(head.clone()));
        let outline = SentHead::Bundle(bundle).outline().expect("fits");
        assert_eq!(outline.commit.expect("there").key, head.commit.expect("there").key);
    }

    #[test]
    fn a_file_like_the_one_before_costs_its_node_and_little_more() {
        let long = |files: u8| {
            let blocks: Vec<BlockHeader> = (0..files).map(|n| header(&[n; 1000])).collect();
            let operation =
                |n: u8| create(n, 1, &format!("one of many {n}"), blocks[usize::from(n)], 7_000 * i64::from(n));
            let operations = (0..files).map(operation).collect();
            crate::encode(&SentHead::of(head(blocks, operations))).len()
        };
        assert_eq!(long(31) - long(30), 16 + 11);
    }

    #[test]
    fn other_blocks_are_no_bundle() {
        let named = |change: fn(&mut ChangesetHead)| {
            let mut head = two();
            change(&mut head);
            assert_eq!(SentHead::of(head.clone()), SentHead::Named(head));
        };
        named(|head| head.commit = None);
        named(|head| head.blocks.push(BlockHeader { hash: BlockHash([7; 32]), len: 1 }));
        named(|head| head.blocks.swap(0, 1));
        named(|head| head.blocks[1].len += 1);
        named(|head| head.blocks.truncate(1));
        named(|head| head.bases = Some(crate::Bases { namespace: NamespaceId([1; 16]), blocks: Vec::new() }));
    }

    #[test]
    fn what_came_is_compared_with_what_was_meant() {
        let head = two();
        let good = bundle(&head);
        let bad = |change: &dyn Fn(&mut Bundle)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_eq!(bad.open(&head.blocks), Err(DecodeError::Malformed), "{bad:?}");
        };
        let file = |bundle: &mut Bundle, change: fn(&mut u8, &mut String)| {
            let Bundled::File { shared, rest, .. } = &mut bundle.operations[1] else { panic!("a file") };
            change(shared, rest);
        };
        bad(&|bundle| bundle.content.0[0] ^= 1);
        bad(&|bundle| bundle.operations.truncate(1));
        bad(&|bundle| bundle.operations.push(bundle.operations[0].clone()));
        bad(&|bundle| file(bundle, |shared, _| *shared = 7));
        bad(&|bundle| file(bundle, |shared, rest| (*shared, *rest) = (0, "../x".into())));
        assert_eq!(good.open(&head.blocks[..1]), Err(DecodeError::Malformed));
        let swapped = [head.blocks[1], head.blocks[0]];
        assert_eq!(good.open(&swapped), Err(DecodeError::Malformed));
    }

    #[test]
    fn a_bundle_promises_no_more_than_it_may_hold() {
        let mut bundle = bundle(&two());
        let resize = |bundle: &mut Bundle, to: u64| {
            let Bundled::File { size, .. } = &mut bundle.operations[0] else { panic!("a file") };
            *size = u32::try_from(to).expect("fits");
        };
        resize(&mut bundle, limits::BUNDLE_BYTES - 6);
        assert!(bundle.headers().is_ok());
        resize(&mut bundle, limits::BUNDLE_BYTES - 5);
        assert_eq!(bundle.headers(), Err(DecodeError::BlockTooLong));
        resize(&mut bundle, 0);
        assert_eq!(bundle.headers(), Err(DecodeError::BlockTooLong));
        resize(&mut bundle, 1);
        bundle.operations = vec![bundle.operations[0].clone(); limits::COMMIT_OPERATIONS + 1];
        assert_eq!(bundle.headers(), Err(DecodeError::Malformed));
    }

    proptest! {
        #[test]
        fn names_come_back_whatever_they_share(names in proptest::collection::vec("[a\u{e9}\u{1f600}]{1,5}", 2..9)) {
            let blocks: Vec<BlockHeader> = (0..names.len()).map(|n| header(&n.to_le_bytes())).collect();
            let files = names.iter().zip(&blocks);
            let operations = files.map(|(name, block)| create(3, 1, name, *block, 0)).collect();
            let head = head(blocks.clone(), operations);
            prop_assert_eq!(bundle(&head).open(&blocks), Ok(head));
        }
    }
}
