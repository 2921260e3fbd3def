//! What the block service does, without HTTP.

use api::service::{Identity, MetaForBlocks, StoredBlock};
use api::{ApiError, BlockHeader, BlocksHead, BlocksRequest, ChangesetHead, ChangesetReply, ErrorCode, Token, codec};
use block_store::{Block, BlockError, BlockStore, StoreError};
use bytes::Bytes;
use model::{BlockHash, limits};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Takes blocks and hands them out. All calls block.
pub struct BlockService {
    store: Arc<dyn BlockStore>,
    meta: Arc<dyn MetaForBlocks>,
}

/// A changeset whose blocks are arriving, in the order of its head.
#[derive(Debug)]
pub struct Upload {
    who: Identity,
    head: ChangesetHead,
    /// Durable, in the order of the head.
    stored: Vec<StoredBlock>,
}

impl Upload {
    /// Checks a head before any of its blocks is read.
    ///
    /// # Errors
    /// `BadRequest` for a head that promises too much.
    pub fn begin(who: Identity, head: ChangesetHead) -> Result<Self, ApiError> {
        codec::check_headers(&head.blocks).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
        Ok(Self { who, head, stored: Vec::new() })
    }

    /// The blocks that have not been stored yet.
    #[must_use]
    pub fn outstanding(&self) -> &[BlockHeader] {
        &self.head.blocks[self.stored.len()..]
    }
}

impl BlockService {
    /// A service over a store and the meta service.
    #[must_use]
    pub fn new(store: Arc<dyn BlockStore>, meta: Arc<dyn MetaForBlocks>) -> Self {
        Self { store, meta }
    }

    /// Who sends this token.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        self.meta.authenticate(token)
    }

    /// A whole changeset at once. `blocks` may be fewer than the head promises, as when an upload breaks
    /// off: then what came is kept, and nothing is committed.
    ///
    /// # Errors
    /// As those of [`Self::store_next`] and [`Self::finish`].
    pub fn changeset(
        &self,
        who: Identity,
        head: ChangesetHead,
        blocks: Vec<Bytes>,
    ) -> Result<ChangesetReply, ApiError> {
        let mut upload = Upload::begin(who, head)?;
        if let Err(error) = self.store_next(&mut upload, blocks) {
            self.break_off(&upload);
            return Err(error);
        }
        self.finish(&upload)
    }

    /// Stores the next blocks of an upload; when it returns they are durable. The right blocks before
    /// a wrong one are kept.
    ///
    /// # Errors
    /// `BadRequest` for bytes that are not the block that the head promises; `NoSpace`, `Unavailable`.
    pub fn store_next(&self, upload: &mut Upload, blocks: Vec<Bytes>) -> Result<(), ApiError> {
        let mut right = Vec::with_capacity(blocks.len());
        let mut verdict = Ok(());
        let mut headers = upload.outstanding().iter();
        for bytes in blocks {
            match headers.next().ok_or_else(too_many_blocks).and_then(|header| check(header, bytes)) {
                Ok(block) => right.push(block),
                Err(error) => {
                    verdict = Err(error);
                    break;
                }
            }
        }
        self.store.put(&right).map_err(|error| unavailable(&error))?;
        upload.stored.extend(right.iter().map(|block| StoredBlock { hash: block.hash(), len: block.len() }));
        verdict
    }

    /// Ends an upload whose blocks are all there: they become the account's, and the commit is made.
    /// An upload that lacks blocks is broken off.
    ///
    /// # Errors
    /// `BadRequest` for an upload that lacks blocks; those of [`MetaForBlocks::stored`].
    pub fn finish(&self, upload: &Upload) -> Result<ChangesetReply, ApiError> {
        if !upload.outstanding().is_empty() {
            self.break_off(upload);
            return Err(ApiError::new(ErrorCode::BadRequest, "the upload ended before its last block"));
        }
        let outcome = self.meta.stored(upload.who, &upload.stored, upload.head.commit.as_ref())?;
        Ok(ChangesetReply { outcome })
    }

    /// Notes the blocks of an upload that ended early, so that its next try need not send them again.
    /// Nobody hears of a failure: then they are sent again.
    pub fn break_off(&self, upload: &Upload) {
        if upload.stored.is_empty() {
            return;
        }
        if let Err(error) = self.meta.stored(upload.who, &upload.stored, None) {
            tracing::warn!(blocks = upload.stored.len(), %error, "the blocks of a broken upload are not noted");
        }
    }

    /// Which of the blocks that a client asks for it gets: those that it may read, as many as one answer
    /// holds. What it may not read and what is not there are told alike.
    ///
    /// # Errors
    /// `BadRequest`; those of [`MetaForBlocks::readable`]; `Unavailable`.
    pub fn offer(&self, who: Identity, request: &BlocksRequest) -> Result<BlocksHead, ApiError> {
        check_count(request)?;
        let readable = self.meta.readable(who, request.namespace, &request.blocks)?;
        self.offer_allowed(request, readable)
    }

    /// The same of blocks that another device is uploading and has announced.
    ///
    /// # Errors
    /// `BadRequest`; those of [`MetaForBlocks::coming`]; `Unavailable`.
    pub fn offer_coming(&self, who: Identity, request: &BlocksRequest) -> Result<BlocksHead, ApiError> {
        check_count(request)?;
        let coming = self.meta.coming(who, request.namespace, &request.blocks)?;
        self.offer_allowed(request, coming)
    }

    fn offer_allowed(&self, request: &BlocksRequest, readable: Vec<bool>) -> Result<BlocksHead, ApiError> {
        let allowed: Vec<BlockHash> =
            request.blocks.iter().zip(readable).filter(|(_, readable)| *readable).map(|(hash, _)| *hash).collect();
        let lengths = self.store.lengths(&allowed).map_err(|error| unavailable(&error))?;
        let held: BTreeMap<BlockHash, u32> =
            allowed.into_iter().zip(lengths).filter_map(|(hash, len)| Some((hash, len?))).collect();
        Ok(fill(&request.blocks, &held))
    }

    /// One block that was offered.
    ///
    /// # Errors
    /// `Unavailable`: it turned out to be damaged, or is gone.
    pub fn read(&self, offered: &BlockHeader) -> Result<Bytes, ApiError> {
        let hash = offered.hash;
        match self.store.get(&hash).map_err(|error| unavailable(&error))? {
            Some(bytes) if bytes.len() == offered.len as usize => Ok(bytes),
            Some(_) | None => Err(ApiError::new(ErrorCode::Unavailable, "the block has just been removed")),
        }
    }

    /// The blocks that a client asks for, at once.
    ///
    /// # Errors
    /// As those of [`Self::offer`] and [`Self::read`].
    pub fn blocks(&self, who: Identity, request: &BlocksRequest) -> Result<(BlocksHead, Vec<Bytes>), ApiError> {
        let head = self.offer(who, request)?;
        let bytes = head.blocks.iter().map(|header| self.read(header)).collect::<Result<_, _>>()?;
        Ok((head, bytes))
    }
}

fn check_count(request: &BlocksRequest) -> Result<(), ApiError> {
    if request.blocks.len() > limits::BLOCKS_PER_REQUEST {
        return Err(ApiError::new(ErrorCode::BadRequest, "the request names too many blocks"));
    }
    Ok(())
}

/// As many of the wanted blocks, in their order, as one answer may hold.
fn fill(wanted: &[BlockHash], held: &BTreeMap<BlockHash, u32>) -> BlocksHead {
    let mut head = BlocksHead { blocks: Vec::new(), unavailable: Vec::new() };
    let mut total = 0;
    for hash in wanted {
        let Some(&len) = held.get(hash) else {
            head.unavailable.push(*hash);
            continue;
        };
        total += u64::from(len);
        if total > limits::BLOCK_BYTES_PER_REQUEST {
            break;
        }
        head.blocks.push(BlockHeader { hash: *hash, len });
    }
    head
}

fn check(header: &BlockHeader, bytes: Bytes) -> Result<Block, ApiError> {
    let block = Block::expect(header.hash, bytes).map_err(|error: BlockError| error.to_string());
    match block {
        Ok(block) if block.len() == header.len => Ok(block),
        Ok(_) => Err(ApiError::new(ErrorCode::BadRequest, "a block is not as long as its header says")),
        Err(message) => Err(ApiError::new(ErrorCode::BadRequest, message)),
    }
}

fn too_many_blocks() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the upload holds more blocks than its head promises")
}

/// The wire error for a failure of the store, which is logged here and nowhere else.
fn unavailable(error: &StoreError) -> ApiError {
    tracing::error!(error = error as &dyn std::error::Error, "the block store failed");
    match error {
        StoreError::NoSpace { .. } => ApiError::new(ErrorCode::NoSpace, "the server has no space left for blocks"),
        StoreError::Corrupt { .. } => ApiError::new(ErrorCode::Unavailable, "the server's copy of a block is damaged"),
        StoreError::Io { .. }
        | StoreError::Locked { .. }
        | StoreError::OtherInstance { .. }
        | StoreError::UnknownInstance { .. }
        | StoreError::UnknownFormat { .. } => {
            ApiError::new(ErrorCode::Unavailable, "the server cannot reach its blocks at the moment")
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use block_store::MemoryBlockStore;
    use model::{AccountId, Commit, CommitKey, CommitOutcome, DeviceId, Epoch, NamespaceId, Position, Timestamp};
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    pub(crate) const ANN: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([1; 16]) };
    pub(crate) const BOB: Identity = Identity { account: AccountId([2; 16]), device: DeviceId([2; 16]) };

    /// A meta service that knows what each account stored. An account's namespace has the account's bits
    /// and names the blocks that came with a commit.
    #[derive(Default)]
    pub(crate) struct Meta {
        pub(crate) noted: Mutex<BTreeSet<(AccountId, BlockHash)>>,
        pub(crate) committed: Mutex<BTreeSet<(AccountId, BlockHash)>>,
    }

    impl MetaForBlocks for Meta {
        fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
            [ANN, BOB]
                .into_iter()
                .find(|who| token.0[..16] == who.account.0)
                .ok_or_else(|| ApiError::new(ErrorCode::Unlinked, "this device is not linked"))
        }

        fn readable(&self, who: Identity, namespace: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
            if namespace.0 != who.account.0 {
                return Err(ApiError::new(ErrorCode::Forbidden, "no such namespace"));
            }
            let committed = self.committed.lock().expect("not poisoned");
            Ok(blocks.iter().map(|hash| committed.contains(&(who.account, *hash))).collect())
        }

        fn coming(&self, who: Identity, _: NamespaceId, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
            let noted = self.noted.lock().expect("not poisoned");
            Ok(blocks.iter().map(|hash| noted.contains(&(who.account, *hash))).collect())
        }

        fn missing(&self, who: Identity, blocks: &[BlockHash]) -> Result<Vec<bool>, ApiError> {
            let noted = self.noted.lock().expect("not poisoned");
            Ok(blocks.iter().map(|hash| !noted.contains(&(who.account, *hash))).collect())
        }

        fn stored(
            &self,
            who: Identity,
            blocks: &[StoredBlock],
            commit: Option<&Commit>,
        ) -> Result<Option<CommitOutcome>, ApiError> {
            let named = blocks.iter().map(|block| (who.account, block.hash));
            self.noted.lock().expect("not poisoned").extend(named.clone());
            Ok(commit.map(|_| {
                self.committed.lock().expect("not poisoned").extend(named);
                CommitOutcome::Accepted { head: Position(1), time: Timestamp(0) }
            }))
        }
    }

    pub(crate) fn service() -> (Arc<BlockService>, Arc<MemoryBlockStore>, Arc<Meta>) {
        let (store, meta) = (Arc::new(MemoryBlockStore::new()), Arc::new(Meta::default()));
        (Arc::new(BlockService::new(store.clone(), meta.clone())), store, meta)
    }

    pub(crate) fn header(bytes: &[u8]) -> BlockHeader {
        BlockHeader { hash: BlockHash::of(bytes), len: u32::try_from(bytes.len()).expect("short") }
    }

    pub(crate) fn head(who: Identity, blocks: &[&[u8]]) -> ChangesetHead {
        let commit = Commit {
            namespace: NamespaceId(who.account.0),
            epoch: Epoch(1),
            key: CommitKey([1; 16]),
            seen: Position::START,
            operations: Vec::new(),
        };
        ChangesetHead { blocks: blocks.iter().map(|bytes| header(bytes)).collect(), commit: Some(commit) }
    }

    fn bytes(blocks: &[&'static [u8]]) -> Vec<Bytes> {
        blocks.iter().map(|block| Bytes::from_static(block)).collect()
    }

    fn wanted(who: Identity, blocks: &[&[u8]]) -> BlocksRequest {
        BlocksRequest {
            namespace: NamespaceId(who.account.0),
            blocks: blocks.iter().map(|bytes| BlockHash::of(bytes)).collect(),
        }
    }

    #[test]
    fn what_is_committed_can_be_read() {
        let (service, _, _) = service();
        let reply = service.changeset(ANN, head(ANN, &[b"one", b"two"]), bytes(&[b"one", b"two"])).expect("commits");
        assert!(matches!(reply.outcome, Some(CommitOutcome::Accepted { .. })));
        let (head, blocks) = service.blocks(ANN, &wanted(ANN, &[b"two", b"one"])).expect("answers");
        assert_eq!((head.blocks, blocks), (vec![header(b"two"), header(b"one")], bytes(&[b"two", b"one"])));
    }

    #[test]
    fn a_wrong_block_is_refused_and_the_right_ones_before_it_are_kept() {
        let (service, store, meta) = service();
        let error = service
            .changeset(ANN, head(ANN, &[b"one", b"two", b"six"]), bytes(&[b"one", b"TWO", b"six"]))
            .expect_err("is refused");
        assert_eq!(error.code, ErrorCode::BadRequest);
        assert_eq!(store.list(None, 10).expect("lists"), [BlockHash::of(b"one")]);
        assert_eq!(meta.missing(ANN, &[BlockHash::of(b"one")]).expect("answers"), [false]);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn a_block_of_another_length_than_its_header_says_is_refused() {
        let (service, store, _) = service();
        let mut head = head(ANN, &[b"one"]);
        head.blocks[0].len = 4;
        assert_eq!(service.changeset(ANN, head, bytes(&[b"one"])).expect_err("is refused").code, ErrorCode::BadRequest);
        assert_eq!(store.list(None, 10).expect("lists"), []);
    }

    #[test]
    fn an_upload_that_breaks_off_keeps_what_arrived_and_commits_nothing() {
        let (service, _, meta) = service();
        let error = service.changeset(ANN, head(ANN, &[b"one", b"two"]), bytes(&[b"one"])).expect_err("lacks a block");
        assert_eq!(error.code, ErrorCode::BadRequest);
        let hashes = [BlockHash::of(b"one"), BlockHash::of(b"two")];
        assert_eq!(meta.missing(ANN, &hashes).expect("answers"), [false, true]);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn more_blocks_than_the_head_promises_are_refused() {
        let (service, _, meta) = service();
        let extra = service.changeset(ANN, head(ANN, &[b"one"]), bytes(&[b"one", b"two"]));
        assert_eq!(extra.expect_err("is refused").code, ErrorCode::BadRequest);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn anothers_block_and_an_absent_one_are_answered_alike() {
        let (service, _, _) = service();
        service.changeset(ANN, head(ANN, &[b"secret"]), bytes(&[b"secret"])).expect("commits");
        let (head, blocks) = service.blocks(BOB, &wanted(BOB, &[b"secret", b"absent"])).expect("answers");
        assert_eq!((head.blocks.len(), head.unavailable.len(), blocks.len()), (0, 2, 0));
        let error = service.blocks(BOB, &wanted(ANN, &[b"secret"])).expect_err("is no member");
        assert_eq!(error.code, ErrorCode::Forbidden);
    }

    #[test]
    fn what_is_not_committed_is_offered_only_to_who_asks_for_what_is_coming() {
        let (service, _, _) = service();
        let head = ChangesetHead { commit: None, ..head(ANN, &[b"one"]) };
        service.changeset(ANN, head, bytes(&[b"one"])).expect("is stored");
        let asked = wanted(ANN, &[b"one"]);
        assert_eq!(service.offer(ANN, &asked).expect("answers").blocks, []);
        assert_eq!(service.offer_coming(ANN, &asked).expect("answers").blocks, [header(b"one")]);
        assert_eq!(service.offer_coming(BOB, &asked).expect("answers").blocks, []);
    }

    #[test]
    fn uploading_what_another_has_stored_looks_like_uploading_what_is_new() {
        let (service, _, _) = service();
        let new = service.changeset(ANN, head(ANN, &[b"one"]), bytes(&[b"one"])).expect("commits");
        let known = service.changeset(BOB, head(BOB, &[b"one"]), bytes(&[b"one"])).expect("commits");
        assert_eq!(new, known);
        let wrong = service.changeset(BOB, head(BOB, &[b"one"]), bytes(&[b"two"]));
        assert_eq!(wrong.expect_err("must send the bytes").code, ErrorCode::BadRequest);
    }

    #[test]
    fn one_answer_holds_no_more_than_its_limit() {
        let four_mib = u32::try_from(model::BLOCK_SIZE).expect("fits");
        let hashes: Vec<BlockHash> = (0..6).map(|i| BlockHash([i; 32])).collect();
        let held = hashes[1..].iter().map(|hash| (*hash, four_mib)).collect();
        let head = fill(&hashes, &held);
        assert_eq!(head.unavailable, [hashes[0]]);
        assert_eq!(head.blocks.iter().map(|header| header.hash).collect::<Vec<_>>(), hashes[1..5]);
    }

    /// A store whose disk fails.
    struct Failing {
        inner: MemoryBlockStore,
        /// Whether putting fails, and whether the blocks are kept all the same.
        mood: Mutex<Mood>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Mood {
        Works,
        KeepsNothing,
        KeepsAndFails,
    }

    impl BlockStore for Failing {
        fn put(&self, blocks: &[Block]) -> Result<(), StoreError> {
            let mood = *self.mood.lock().expect("not poisoned");
            if mood != Mood::KeepsNothing {
                self.inner.put(blocks)?;
            }
            match mood {
                Mood::Works => Ok(()),
                Mood::KeepsNothing | Mood::KeepsAndFails => Err(StoreError::NoSpace { path: "/blocks".into() }),
            }
        }
        fn get(&self, hash: &BlockHash) -> Result<Option<Bytes>, StoreError> {
            self.inner.get(hash)
        }
        fn lengths(&self, hashes: &[BlockHash]) -> Result<Vec<Option<u32>>, StoreError> {
            self.inner.lengths(hashes)
        }
        fn remove(&self, hashes: &[BlockHash]) -> Result<(), StoreError> {
            self.inner.remove(hashes)
        }
        fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
            self.inner.list(after, page)
        }
    }

    #[test]
    fn a_store_that_fails_under_an_upload_leaves_the_old_version_and_the_upload_may_be_tried_again() {
        let store = Arc::new(Failing { inner: MemoryBlockStore::new(), mood: Mutex::new(Mood::Works) });
        let meta = Arc::new(Meta::default());
        let service = BlockService::new(store.clone(), meta.clone());
        service.changeset(ANN, head(ANN, &[b"old"]), bytes(&[b"old"])).expect("commits");
        for mood in [Mood::KeepsNothing, Mood::KeepsAndFails] {
            *store.mood.lock().expect("not poisoned") = mood;
            let failed = service.changeset(ANN, head(ANN, &[b"new"]), bytes(&[b"new"]));
            assert!(failed.is_err(), "nothing is acknowledged that may not be durable");
            assert_eq!(meta.committed.lock().expect("not poisoned").len(), 1, "nothing is committed");
            assert!(service.blocks(ANN, &wanted(ANN, &[b"old"])).is_ok_and(|(_, read)| read == bytes(&[b"old"])));
        }
        *store.mood.lock().expect("not poisoned") = Mood::Works;
        let again = service.changeset(ANN, head(ANN, &[b"new"]), bytes(&[b"new"])).expect("commits");
        assert!(matches!(again.outcome, Some(CommitOutcome::Accepted { .. })));
    }
}
