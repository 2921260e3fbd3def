//! Small new files that travel together. What their commit and the headers of their blocks say follows, for the most
//! part, from something else, and is left out.

use crate::codec::{DecodeError, check_headers};
use crate::messages::{BlockHeader, ChangesetHead};
use crate::near::{Before, NearNode};
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
    Nameless(Nameless),
}

/// A changeset of small new files, each of one block. The blocks of some follow in the order of the files, and who
/// receives them computes their names; those of the others have come before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    namespace: NamespaceId,
    epoch: Epoch,
    key: CommitKey,
    seen: Position,
    #[serde(deserialize_with = "crate::codec::operations")]
    operations: Vec<Bundled>,
    /// Of the list of all blocks that follow: only those that were meant have it.
    content: ContentHash,
}

/// Small blocks without a commit. Who receives them computes their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nameless {
    lens: Vec<u32>,
    /// Of the list of all blocks.
    content: ContentHash,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Bundled {
    /// The creation of a file whose block follows.
    New(SmallFile),
    /// The creation of a file whose block does not.
    Known(SmallFile, BlockHash),
    Other(SentOperation),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SmallFile {
    node: NearNode,
    /// `None`: that of the file before.
    parent: Option<NodeId>,
    /// So many bytes of the name of the file before, and then the rest.
    shared: u8,
    rest: String,
    size: u32,
    executable: bool,
    /// What it is more than that of the file before, in nanoseconds.
    mtime: i64,
}

impl SentHead {
    /// The head without the names of its blocks, if it can be told so and that is shorter.
    #[must_use]
    pub fn of(head: ChangesetHead) -> Self {
        let bundle = Bundle::of(&head).map(Self::Bundle);
        bundle.or_else(|| Nameless::of(&head).map(Self::Nameless)).unwrap_or(Self::Named(head))
    }

    /// The head, with zeros in the place of the hashes that it leaves out.
    ///
    /// # Errors
    /// [`DecodeError`] for more operations, blocks or bytes than such a head may have.
    pub fn outline(&self) -> Result<ChangesetHead, DecodeError> {
        match self {
            Self::Named(head) => Ok(head.clone()),
            Self::Bundle(bundle) => bundle.with(&bundle.headers()?),
            // Nothing follows.
            Self::Shift(shift) => {
                shift.lens()?;
                Ok(ChangesetHead { blocks: Vec::new(), bases: Some(shift.bases.clone()), commit: None })
            }
            Self::Nameless(nameless) => {
                Ok(ChangesetHead { blocks: unnamed(nameless.lens.iter().copied())?, bases: None, commit: None })
            }
        }
    }

    /// The head that was meant, of the blocks that came; `None`: it names its blocks itself.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for other blocks, or what no such head says.
    pub fn open(&self, blocks: &[BlockHeader]) -> Result<Option<ChangesetHead>, DecodeError> {
        let content = match self {
            Self::Named(_) | Self::Shift(_) => return Ok(None),
            Self::Bundle(bundle) => bundle.content,
            Self::Nameless(nameless) => nameless.content,
        };
        if content_of(blocks) != content {
            return Err(DecodeError::Malformed);
        }
        match self {
            Self::Bundle(bundle) => bundle.with(blocks).map(Some),
            Self::Named(_) | Self::Shift(_) | Self::Nameless(_) => {
                Ok(Some(ChangesetHead { blocks: blocks.to_vec(), bases: None, commit: None }))
            }
        }
    }
}

/// The content hash of the list of all these blocks.
pub(crate) fn content_of(blocks: &[BlockHeader]) -> ContentHash {
    content_hash(&blocks.iter().map(|block| block.hash).collect::<Vec<_>>())
}

/// Headers of blocks of these lengths that travel without their names, with zeros for hashes.
///
/// # Errors
/// [`DecodeError::BlockTooLong`] for more than may travel so.
pub(crate) fn unnamed(lens: impl IntoIterator<Item = impl Into<u64>>) -> Result<Vec<BlockHeader>, DecodeError> {
    let header = |len: u64| {
        let len = u32::try_from(len).ok().filter(|len| *len <= limits::NAMELESS_BLOCK);
        len.map(|len| BlockHeader { hash: BlockHash([0; 32]), len }).ok_or(DecodeError::BlockTooLong)
    };
    let lens = lens.into_iter().take(limits::BLOCKS_PER_REQUEST + 1);
    let headers: Vec<BlockHeader> = lens.map(|len| header(len.into())).collect::<Result<_, _>>()?;
    if headers.len() > limits::BLOCKS_PER_REQUEST {
        return Err(DecodeError::BlockTooLong);
    }
    check_headers(&headers)?;
    Ok(headers)
}

impl Nameless {
    fn of(head: &ChangesetHead) -> Option<Self> {
        if head.commit.is_some() || head.bases.is_some() || head.blocks.len() < 2 {
            return None;
        }
        let lens: Vec<u32> = head.blocks.iter().map(|block| block.len).collect();
        unnamed(lens.iter().copied()).ok()?;
        Some(Self { lens, content: content_of(&head.blocks) })
    }
}

impl Bundle {
    /// All blocks of the head belong to new files of one block each that it creates, in their order.
    fn of(head: &ChangesetHead) -> Option<Self> {
        let commit = head.commit.as_ref().filter(|_| head.bases.is_none())?;
        let mut before = Before::below(commit.namespace.root());
        let mut blocks = head.blocks.iter().peekable();
        let operations = commit.operations.iter().map(|operation| {
            let Some((file, hash)) = SmallFile::of(operation, &mut before) else {
                return Bundled::Other(operation.clone());
            };
            match blocks.next_if(|next| next.hash == hash && next.len == file.size) {
                Some(_) => Bundled::New(file),
                None => Bundled::Known(file, hash),
            }
        });
        let operations: Vec<Bundled> = operations.collect();
        let small = operations.iter().filter(|operation| !matches!(operation, Bundled::Other(_))).count();
        // The content hash is as long as one name.
        if blocks.next().is_some() || (head.blocks.is_empty() && small < 2) {
            return None;
        }
        let bundle = Self {
            namespace: commit.namespace,
            epoch: commit.epoch,
            key: commit.key,
            seen: commit.seen,
            operations,
            content: content_of(&head.blocks),
        };
        bundle.headers().is_ok().then_some(bundle)
    }

    /// How long the blocks are that follow; their hashes are zeros.
    fn headers(&self) -> Result<Vec<BlockHeader>, DecodeError> {
        if self.operations.len() > limits::COMMIT_OPERATIONS {
            return Err(DecodeError::Malformed);
        }
        let lens = self.operations.iter().filter_map(|operation| match operation {
            Bundled::New(file) => Some(file.size),
            Bundled::Known(..) | Bundled::Other(_) => None,
        });
        unnamed(lens)
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
    /// The operation again, with the next of the blocks if it is about one.
    fn open(&self, hashes: &mut impl Iterator<Item = BlockHash>, before: &mut Before) -> Option<SentOperation> {
        match self {
            Self::New(file) => file.open(hashes.next()?, before),
            Self::Known(file, hash) => file.open(*hash, before),
            Self::Other(operation) => Some(operation.clone()),
        }
    }
}

impl SmallFile {
    /// The file and its block, if the operation creates one of a single block.
    fn of(operation: &SentOperation, before: &mut Before) -> Option<(Self, BlockHash)> {
        let SentOperation::Whole(Operation::Create {
            node,
            parent,
            name,
            body: Body::File { blocks, size, executable, mtime },
        }) = operation
        else {
            return None;
        };
        let ([hash], Ok(size)) = (blocks.0.as_slice(), u32::try_from(*size)) else { return None };
        let node = before.meet(*node);
        let (parent, shared, rest) = before.go_to(*parent, name);
        let more = mtime.0.wrapping_sub(before.mtime);
        before.mtime = mtime.0;
        Some((Self { node, parent, shared, rest, size, executable: *executable, mtime: more }, *hash))
    }

    fn open(&self, hash: BlockHash, before: &mut Before) -> Option<SentOperation> {
        let Self { node, parent, shared, rest, size, executable, mtime } = self;
        let node = before.meet_said(*node);
        let (parent, name) = before.follow(*parent, *shared, rest)?;
        before.mtime = before.mtime.wrapping_add(*mtime);
        let body = Body::File {
            blocks: Blocklist(vec![hash]),
            size: (*size).into(),
            executable: *executable,
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

    fn bundle(head: &ChangesetHead) -> SentHead {
        let sent = SentHead::of(head.clone());
        assert!(matches!(sent, SentHead::Bundle(_)), "no bundle");
        sent
    }

    /// As a peer might change it.
    fn changed(sent: &SentHead, change: &dyn Fn(&mut Bundle)) -> SentHead {
        let mut sent = sent.clone();
        let SentHead::Bundle(bundle) = &mut sent else { panic!("no bundle") };
        change(bundle);
        sent
    }

    fn size(bundle: &mut Bundle) -> &mut u32 {
        let Bundled::New(file) = &mut bundle.operations[0] else { panic!("a file") };
        &mut file.size
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
        assert_eq!(bundle.open(&blocks), Ok(Some(head.clone())));
        let outline = bundle.outline().expect("fits");
        assert_eq!(outline.blocks.iter().map(|block| block.len).collect::<Vec<_>>(), [3, 6, 1]);
        assert_eq!(outline.commit.expect("there").key, head.commit.expect("there").key);
    }

    #[test]
    fn a_file_like_the_one_before_costs_little_and_its_block_s_name_if_that_came_before() {
        let long = |files: u8, sent: u8| {
            let blocks: Vec<BlockHeader> = (0..files).map(|n| header(&[n; 1000])).collect();
            let operation = |n: u8| {
                let name = format!("one of many {n}");
                let mut operation = create(n, 1, &name, blocks[usize::from(n)], 7_000 * i64::from(n));
                let SentOperation::Whole(Operation::Create { node, .. }) = &mut operation else { panic!("a file") };
                *node = NodeId([[0, 0, 0, n].as_slice(), &[7; 12]].concat().try_into().expect("as long"));
                operation
            };
            let operations = (0..files).map(operation).collect();
            crate::encode(&bundle(&head(blocks[..usize::from(sent)].to_vec(), operations))).len()
        };
        assert_eq!(long(31, 31) - long(30, 30), 12);
        assert_eq!(long(31, 0) - long(30, 0), 12 + 32);
    }

    #[test]
    fn blocks_without_a_commit_cost_their_lengths_and_open_to_what_they_are() {
        let blocks: Vec<BlockHeader> = (0..9).map(|n| header(&[n; 1000])).collect();
        let head = ChangesetHead { blocks: blocks.clone(), bases: None, commit: None };
        let sent = SentHead::of(head.clone());
        assert_eq!(crate::encode(&sent).len(), 1 + 1 + 9 * 2 + 32);
        assert!(sent.outline().expect("fits").blocks.iter().all(|block| block.len == 1000));
        assert_eq!(sent.open(&blocks), Ok(Some(head)));
        assert_eq!(sent.open(&blocks[..8]), Err(DecodeError::Malformed));
    }

    #[test]
    fn one_file_whose_block_comes_along_is_a_bundle_and_one_whose_block_is_there_is_not() {
        let block = header(b"one");
        let whole = head(vec![block], vec![create(5, 1, "a", block, 1)]);
        let sent = bundle(&whole);
        assert!(crate::encode(&sent).len() + 34 <= crate::encode(&SentHead::Named(whole.clone())).len());
        assert_eq!(sent.open(&[block]), Ok(Some(whole.clone())));
        let there = ChangesetHead { blocks: Vec::new(), ..whole };
        assert_eq!(SentHead::of(there.clone()), SentHead::Named(there));
    }

    #[test]
    fn other_blocks_are_no_bundle() {
        let named = |change: fn(&mut ChangesetHead)| {
            let mut head = two();
            change(&mut head);
            assert_eq!(SentHead::of(head.clone()), SentHead::Named(head));
        };
        named(|head| head.blocks.push(BlockHeader { hash: BlockHash([7; 32]), len: 1 }));
        named(|head| head.blocks.swap(0, 1));
        named(|head| head.blocks[1].len += 1);
        named(|head| head.blocks[1].len = limits::NAMELESS_BLOCK + 1);
        named(|head| (head.commit, head.blocks[1].len) = (None, limits::NAMELESS_BLOCK + 1));
        named(|head| (head.commit, head.blocks) = (None, head.blocks[..1].to_vec()));
        named(|head| head.bases = Some(crate::Bases { namespace: NamespaceId([1; 16]), blocks: Vec::new() }));
    }

    #[test]
    fn what_came_is_compared_with_what_was_meant() {
        let head = two();
        let good = bundle(&head);
        let bad = |change: &dyn Fn(&mut Bundle)| {
            let bad = changed(&good, change);
            assert_eq!(bad.open(&head.blocks), Err(DecodeError::Malformed), "{bad:?}");
        };
        let file = |bundle: &mut Bundle, change: fn(&mut u8, &mut String)| {
            let Bundled::New(SmallFile { shared, rest, .. }) = &mut bundle.operations[1] else { panic!("a file") };
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
        let good = bundle(&two());
        let resized = |to: u32| changed(&good, &|bundle| *size(bundle) = to).outline().map(drop);
        assert_eq!(resized(limits::NAMELESS_BLOCK), Ok(()));
        assert_eq!(resized(limits::NAMELESS_BLOCK + 1), Err(DecodeError::BlockTooLong));
        assert_eq!(resized(0), Err(DecodeError::BlockTooLong));
        let many = |count: usize, len: u32| {
            let many = |bundle: &mut Bundle| {
                *size(bundle) = len;
                bundle.operations = vec![bundle.operations[0].clone(); count];
            };
            changed(&good, &many).outline().map(drop)
        };
        assert_eq!(many(65, limits::NAMELESS_BLOCK), Err(DecodeError::BlockTooLong));
        assert_eq!(many(limits::COMMIT_OPERATIONS, 1), Ok(()));
        assert_eq!(many(limits::COMMIT_OPERATIONS + 1, 1), Err(DecodeError::Malformed));
        let nameless = |lens: Vec<u32>| SentHead::Nameless(Nameless { lens, content: ContentHash([0; 32]) }).outline();
        assert!(nameless(vec![1; limits::BLOCKS_PER_REQUEST]).is_ok());
        assert_eq!(nameless(vec![1; limits::BLOCKS_PER_REQUEST + 1]), Err(DecodeError::BlockTooLong));
        assert_eq!(nameless(vec![0]), Err(DecodeError::BlockTooLong));
        assert_eq!(nameless(vec![limits::NAMELESS_BLOCK + 1]), Err(DecodeError::BlockTooLong));
    }

    proptest! {
        #[test]
        fn names_come_back_whatever_they_share(names in proptest::collection::vec("[a\u{e9}\u{1f600}]{1,5}", 2..9)) {
            let blocks: Vec<BlockHeader> = (0..names.len()).map(|n| header(&n.to_le_bytes())).collect();
            let files = names.iter().zip(&blocks);
            let operations = files.map(|(name, block)| create(3, 1, name, *block, 0)).collect();
            let head = head(blocks.clone(), operations);
            prop_assert_eq!(bundle(&head).open(&blocks), Ok(Some(head)));
        }
    }
}
