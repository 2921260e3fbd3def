//! What changed, with the contents of small new files in the place of their blocks' names.

use crate::bundle::{content_of, unnamed};
use crate::codec::DecodeError;
use crate::messages::{BlockHeader, ChangesReply, ChangesRequest, SmallContent};
use model::{Body, Change, ContentHash, JournalEntry, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// `bundle`: what changed since my cursor, with contents that come to so many bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsBundleRequest {
    pub changes: ChangesRequest,
    pub room: u32,
}

/// The head of the reply to `bundle`. The contents follow, as in a body of blocks, in the order of the entries
/// that are about them; who receives them computes their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsBundle {
    /// A file that is not empty and has no blocks has one that follows.
    changes: ChangesReply,
    /// Of the list of all blocks that follow, if there are any: only those that the journal names have it.
    content: Option<ContentHash>,
    /// Others, as in a reply to `news`.
    pub contents: Vec<SmallContent>,
}

impl NewsBundle {
    /// The news, and the blocks that are to follow: those of new files of one block each that `follows` names.
    #[must_use]
    pub fn of(
        mut changes: ChangesReply,
        mut follows: impl FnMut(&JournalEntry, BlockHeader) -> bool,
    ) -> (Self, Vec<BlockHeader>) {
        let (mut blocks, mut seen) = (Vec::new(), BTreeSet::new());
        for entry in changes.namespaces.iter_mut().flat_map(|page| &mut page.entries) {
            let Some(block) = small_block(entry) else { continue };
            // One that follows already may be named.
            if blocks.len() < limits::BLOCKS_PER_REQUEST && !seen.contains(&block.hash) && follows(entry, block) {
                seen.insert(block.hash);
                blocks.push(block);
                if let Change::Create { body: Body::File { blocks, .. }, .. } = &mut entry.change {
                    blocks.0.clear();
                }
            }
        }
        let content = content_if_any(&blocks);
        (Self { changes, content, contents: Vec::new() }, blocks)
    }

    /// What changed, without the blocks that follow.
    #[must_use]
    pub const fn changes(&self) -> &ChangesReply {
        &self.changes
    }

    /// How long the blocks are that follow; their hashes are zeros.
    ///
    /// # Errors
    /// [`DecodeError::BlockTooLong`] for more than may follow.
    pub fn headers(&self) -> Result<Vec<BlockHeader>, DecodeError> {
        let entries = self.changes.namespaces.iter().flat_map(|page| &page.entries);
        unnamed(entries.filter_map(|entry| hollow(&entry.change)))
    }

    /// What changed, by the blocks that came.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] for other blocks.
    pub fn open(self, blocks: &[BlockHeader]) -> Result<ChangesReply, DecodeError> {
        if content_if_any(blocks) != self.content {
            return Err(DecodeError::Malformed);
        }
        let (mut changes, mut blocks) = (self.changes, blocks.iter());
        for entry in changes.namespaces.iter_mut().flat_map(|page| &mut page.entries) {
            let Some(len) = hollow(&entry.change) else { continue };
            let block = blocks.next().filter(|block| u64::from(block.len) == len).ok_or(DecodeError::Malformed)?;
            if let Change::Create { body: Body::File { blocks, .. }, .. }
            | Change::Edit { body: Body::File { blocks, .. } } = &mut entry.change
            {
                blocks.0.push(block.hash);
            }
        }
        if blocks.next().is_some() { Err(DecodeError::Malformed) } else { Ok(changes) }
    }
}

fn content_if_any(blocks: &[BlockHeader]) -> Option<ContentHash> {
    (!blocks.is_empty()).then(|| content_of(blocks))
}

/// The block of a new file that has but one, if it may travel without its name.
fn small_block(entry: &JournalEntry) -> Option<BlockHeader> {
    let Change::Create { body: Body::File { blocks, size, .. }, .. } = &entry.change else { return None };
    let ([hash], Ok(len)) = (blocks.0.as_slice(), u32::try_from(*size)) else { return None };
    (1..=limits::NAMELESS_BLOCK).contains(&len).then_some(BlockHeader { hash: *hash, len })
}

/// The size of a file that has bytes and no blocks.
fn hollow(change: &Change) -> Option<u64> {
    match change {
        Change::Create { body: Body::File { blocks, size, .. }, .. }
        | Change::Edit { body: Body::File { blocks, size, .. } } => (blocks.0.is_empty() && *size > 0).then_some(*size),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamespaceChanges;
    use model::{BlockHash, Blocklist, DeviceId, Mtime, Name, NamespaceId, NodeId, Position, Role, Timestamp};

    fn header(bytes: &[u8]) -> BlockHeader {
        BlockHeader { hash: BlockHash::of(bytes), len: u32::try_from(bytes.len()).expect("short") }
    }

    fn body(blocks: &[BlockHeader]) -> Body {
        let size = blocks.iter().map(|block| u64::from(block.len)).sum();
        let blocks = Blocklist(blocks.iter().map(|block| block.hash).collect());
        Body::File { blocks, size, executable: false, mtime: Mtime(5) }
    }

    fn create(n: u8, body: Body) -> JournalEntry {
        let name = Name::parse(&format!("one of many {n}")).expect("legal");
        let change = Change::Create { parent: NodeId([1; 16]), name, body };
        entry(n, change)
    }

    fn entry(n: u8, change: Change) -> JournalEntry {
        let node = NodeId([[0, 0, 0, n].as_slice(), &[7; 12]].concat().try_into().expect("as long"));
        JournalEntry { position: Position(n.into()), node, change, device: Some(DeviceId([2; 16])), time: Timestamp(9) }
    }

    fn changes(entries: Vec<JournalEntry>) -> ChangesReply {
        let page =
            NamespaceChanges { namespace: NamespaceId([1; 16]), role: Some(Role::Owner), entries, head: Position(9) };
        ChangesReply { namespaces: vec![page] }
    }

    fn all(_: &JournalEntry, _: BlockHeader) -> bool {
        true
    }

    #[test]
    fn news_open_to_what_the_journal_says() {
        let (one, two) = (header(b"one"), header(b"second"));
        let large = BlockHeader { len: limits::NAMELESS_BLOCK + 1, ..header(b"large") };
        let told = changes(vec![
            create(1, Body::Directory),
            create(2, body(&[one])),
            create(3, body(&[two])),
            create(4, body(&[one])),
            create(5, body(&[])),
            create(6, body(&[large])),
            create(7, body(&[two, one])),
            entry(8, Change::Edit { body: body(&[header(b"edited")]) }),
            entry(9, Change::Delete),
        ]);
        let (news, blocks) = NewsBundle::of(told.clone(), all);
        assert_eq!(blocks, [one, two], "each once; what is large, edited or of several blocks is named");
        assert_eq!(news.headers().expect("fits").iter().map(|block| block.len).collect::<Vec<_>>(), [3, 6]);
        let news: NewsBundle = crate::decode(&crate::encode(&news)).expect("is one");
        assert_eq!(news.clone().open(&blocks), Ok(told));
        for wrong in
            [vec![one], vec![two, one], vec![one, two, two], Vec::new(), vec![one, BlockHeader { len: 5, ..two }]]
        {
            assert_eq!(news.clone().open(&wrong), Err(DecodeError::Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_to_follow_is_named() {
        let (one, two) = (header(b"one"), header(b"second"));
        let told = changes(vec![create(1, body(&[one])), create(2, body(&[two]))]);
        let (news, blocks) = NewsBundle::of(told.clone(), |entry, _| entry.position == Position(2));
        assert_eq!(blocks, [two]);
        assert_eq!(news.open(&blocks), Ok(told.clone()));
        let (news, blocks) = NewsBundle::of(told.clone(), |_, _| false);
        assert_eq!(crate::encode(&news).len(), crate::encode(&told).len() + 2, "nothing is said of nothing");
        assert_eq!((news.open(&blocks), blocks), (Ok(told), Vec::new()));
    }

    #[test]
    fn a_file_like_the_one_before_costs_little() {
        let long = |files: u8| {
            let entries = (0..files).map(|n| create(n, body(&[header(&[n; 1000])]))).collect();
            crate::encode(&NewsBundle::of(changes(entries), all).0).len()
        };
        assert_eq!(long(31) - long(30), 16);
    }

    #[test]
    fn news_promise_no_more_than_may_follow() {
        let of = |count: usize, size: u64| {
            let hollow = Body::File { blocks: Blocklist(Vec::new()), size, executable: false, mtime: Mtime(5) };
            let entries = vec![entry(1, Change::Edit { body: hollow }); count];
            let news = NewsBundle { changes: changes(entries), content: None, contents: Vec::new() };
            news.headers().map(|headers| headers.len())
        };
        assert_eq!(of(64, limits::NAMELESS_BLOCK.into()), Ok(64));
        assert_eq!(of(65, limits::NAMELESS_BLOCK.into()), Err(DecodeError::BlockTooLong));
        assert_eq!(of(1, u64::from(limits::NAMELESS_BLOCK) + 1), Err(DecodeError::BlockTooLong));
        assert_eq!(of(1, u64::MAX), Err(DecodeError::BlockTooLong));
        assert_eq!(of(limits::BLOCKS_PER_REQUEST, 1), Ok(limits::BLOCKS_PER_REQUEST));
        assert_eq!(of(limits::BLOCKS_PER_REQUEST + 1, 1), Err(DecodeError::BlockTooLong));
        assert_eq!(of(limits::BLOCKS_PER_REQUEST, 0), Ok(0));
    }
}
