//! What the block service does, without HTTP.

use crate::limits;
use crate::recent::Recent;
use api::service::{Identity, MetaForBlocks, StoredBlock};
use api::{ApiError, BlockHeader, BlocksHead, BlocksRequest, ChangesetHead, ChangesetReply, ErrorCode, Token, codec};
use block_store::{Block, BlockError, BlockStore, StoreError};
use bytes::Bytes;
use delta::{Script, Writer};
use model::BlockHash;
use model::block::beginnings;
use model::limits::{BASES_PER_REQUEST, BEGINNING_BYTES, BLOCK_BYTES_PER_REQUEST, BLOCKS_PER_REQUEST, LONGEST_UPLOAD};
use parcels::{Compressor, Form, Opened};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What may be left undone, so that a test or an operator can tell what each is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thrift {
    /// Whether deltas that were uploaded are handed on to devices that have their bases.
    pub relay_deltas: bool,
    /// Whether what is handed out is compressed.
    pub compress: bool,
}

impl Thrift {
    /// Every saving.
    pub const ALL: Self = Self { relay_deltas: true, compress: true };
}

impl Default for Thrift {
    fn default() -> Self {
        Self::ALL
    }
}

/// Takes blocks and hands them out. All calls block.
pub struct BlockService {
    pub(crate) store: Arc<dyn BlockStore>,
    pub(crate) meta: Arc<dyn MetaForBlocks>,
    thrift: Thrift,
    /// Blocks as they were uploaded, for those who fetch them next.
    recent_forms: Recent<SentForm>,
    pub(crate) recent_bases: Recent<Bytes>,
}

/// How a block came, when that was smaller than the block.
#[derive(Debug, Clone)]
enum SentForm {
    Zstd(Bytes),
    /// The script's bases are numbered as they are listed.
    Delta {
        bases: Vec<BlockHash>,
        script: Bytes,
    },
}

/// Some of an upload's blocks, as they came.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub form: Form,
    /// How many of the next blocks it holds.
    pub blocks: usize,
    pub bytes: Bytes,
}

impl Parcel {
    /// A block as it is.
    #[must_use]
    pub const fn plain(block: Bytes) -> Self {
        Self { form: Form::Plain, blocks: 1, bytes: block }
    }
}

/// What a client gets of what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub head: BlocksHead,
    /// The bases of the request.
    pub bases: Vec<Base>,
}

/// What a client says that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub hash: BlockHash,
    /// Whether it is a block that the client may read. Anything else counts only as the beginning of a block
    /// that it gets.
    pub readable: bool,
}

/// A changeset whose blocks are arriving, in the order of its head.
#[derive(Debug)]
pub struct Upload {
    who: Identity,
    head: ChangesetHead,
    /// The head's bases; `None` in the place of one that does not count.
    bases: Vec<Option<BlockHash>>,
    /// How many of the head's blocks have been dealt with.
    done: usize,
    /// Durable, in the order of the head; behind them perhaps the beginning of the next.
    stored: Vec<StoredBlock>,
    /// Indexes of blocks whose deltas led elsewhere.
    unmade: Vec<u32>,
    /// When the clean-up was first told of its blocks.
    renewed: Option<Instant>,
}

impl Upload {
    /// Whether the clean-up may have lost its respect for the first of the blocks.
    fn took_too_long(&self) -> bool {
        self.renewed.is_some_and(|renewed| renewed.elapsed() > LONGEST_UPLOAD)
    }

    /// The blocks that have not been dealt with yet.
    #[must_use]
    pub fn outstanding(&self) -> &[BlockHeader] {
        &self.head.blocks[self.done..]
    }
}

impl BlockService {
    /// A service over a store and the meta service.
    #[must_use]
    pub fn new(store: Arc<dyn BlockStore>, meta: Arc<dyn MetaForBlocks>) -> Self {
        Self {
            store,
            meta,
            thrift: Thrift::ALL,
            recent_forms: Recent::new(limits::RECENT_FORM_BYTES),
            recent_bases: Recent::new(limits::RECENT_BASE_BYTES),
        }
    }

    /// The same service, with or without what saves bytes.
    #[must_use]
    pub const fn with_thrift(mut self, thrift: Thrift) -> Self {
        self.thrift = thrift;
        self
    }

    /// Who sends this token.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn authenticate(&self, token: &Token) -> Result<Identity, ApiError> {
        self.meta.authenticate(token)
    }

    /// Checks a head before any of its blocks is read.
    ///
    /// # Errors
    /// `BadRequest` for a head that promises too much; those of [`MetaForBlocks::readable`] for its bases.
    pub fn begin(&self, who: Identity, head: ChangesetHead) -> Result<Upload, ApiError> {
        codec::check_headers(&head.blocks).map_err(|error| bad_request(&error.to_string()))?;
        let bases = head.bases.as_ref().map_or_else(|| Ok(Vec::new()), |bases| self.permitted(who, bases))?;
        Ok(Upload { who, head, bases, done: 0, stored: Vec::new(), unmade: Vec::new(), renewed: None })
    }

    /// A whole changeset at once, of blocks as they are. They may be fewer than the head promises, as when
    /// an upload breaks off: then what came is kept, and nothing is committed.
    ///
    /// # Errors
    /// As those of [`Self::begin`], [`Self::store_next`] and [`Self::finish`].
    pub fn changeset(
        &self,
        who: Identity,
        head: ChangesetHead,
        blocks: Vec<Bytes>,
    ) -> Result<ChangesetReply, ApiError> {
        let mut upload = self.begin(who, head)?;
        if let Err(error) = self.store_next(&mut upload, blocks.into_iter().map(Parcel::plain).collect()) {
            self.break_off(&upload);
            return Err(error);
        }
        self.finish(&upload)
    }

    /// Stores the next blocks of an upload; when it returns they are durable. The right blocks before
    /// a wrong one are kept. A block whose delta leads elsewhere is left out, and told at the end.
    ///
    /// # Errors
    /// `BadRequest` for bytes that are not the block that the head promises; `NoSpace`, `Unavailable`.
    pub fn store_next(&self, upload: &mut Upload, parcels: Vec<Parcel>) -> Result<(), ApiError> {
        let mut right = Vec::with_capacity(parcels.len());
        let mut verdict = Ok(());
        for parcel in parcels {
            verdict = self.take_parcel(upload, parcel, &mut right);
            if verdict.is_err() {
                break;
            }
        }
        // Before the store is asked: what the clean-up had in mind must not happen after it has said "there".
        self.meta.renew(&right.iter().map(Block::hash).collect::<Vec<_>>())?;
        upload.renewed.get_or_insert_with(Instant::now);
        self.store.put(&right).map_err(|error| unavailable(&error))?;
        upload.stored.extend(right.iter().map(|block| StoredBlock { hash: block.hash(), len: block.len() }));
        verdict
    }

    /// Keeps what arrived of a block when its upload broke off, as a block of its own: the next try may use it
    /// as a base. Nobody names it, so the clean-up takes it away after a day.
    ///
    /// # Errors
    /// `NoSpace`, `Unavailable`.
    pub fn keep_beginning(&self, upload: &mut Upload, part: &Bytes) -> Result<(), ApiError> {
        let Ok(block) = Block::new(part.slice(..part.len() - part.len() % BEGINNING_BYTES)) else { return Ok(()) };
        self.meta.renew(&[block.hash()])?;
        upload.renewed.get_or_insert_with(Instant::now);
        let stored = StoredBlock { hash: block.hash(), len: block.len() };
        self.store.put(&[block]).map_err(|error| unavailable(&error))?;
        upload.stored.push(stored);
        Ok(())
    }

    fn take_parcel(&self, upload: &mut Upload, parcel: Parcel, right: &mut Vec<Block>) -> Result<(), ApiError> {
        let headers = upload.outstanding().get(..parcel.blocks).ok_or_else(too_many_blocks)?.to_vec();
        let opened = parcels::open(parcel.form, &headers, parcel.bytes.clone());
        match opened.map_err(|error| bad_request(&error.to_string()))? {
            Opened::Blocks(blocks) => {
                for (header, bytes) in headers.iter().zip(blocks) {
                    right.push(check(header, bytes)?);
                    upload.done += 1;
                }
                if let ([header], Form::Zstd) = (headers.as_slice(), parcel.form) {
                    let size = parcel.bytes.len();
                    self.recent_forms.keep(header.hash, SentForm::Zstd(parcel.bytes), size);
                }
            }
            Opened::Script(script) => {
                let [header] = headers.as_slice() else { return Err(too_many_blocks()) };
                match self.make(upload, header, &script)? {
                    Some(block) => right.push(block),
                    None => upload.unmade.push(u32::try_from(upload.done).unwrap_or(u32::MAX)),
                }
                upload.done += 1;
            }
        }
        Ok(())
    }

    /// The block that a delta leads to; `None` when it leads elsewhere, or its bases are not to be had.
    fn make(&self, upload: &Upload, header: &BlockHeader, script: &Bytes) -> Result<Option<Block>, ApiError> {
        let Ok(parsed) = Script::parse(script, header.len as usize) else { return Ok(None) };
        let mut bases = BTreeMap::new();
        for number in parsed.bases() {
            let Some(hash) = upload.bases.get(number).copied().flatten() else { return Ok(None) };
            let Some(bytes) = self.base(&hash)? else { return Ok(None) };
            bases.insert(number, (hash, bytes));
        }
        let made = parsed.apply(|number| bases.get(&number).map(|(_, bytes)| &**bytes));
        let block = made.ok().and_then(|bytes| check(header, bytes.into()).ok());
        if block.is_some() {
            let place = |number| bases.keys().position(|base| *base == number);
            if let Ok(script) = parsed.renumbered(place) {
                let bases = bases.into_values().map(|(hash, _)| hash).collect();
                let size = script.len();
                self.recent_forms.keep(header.hash, SentForm::Delta { bases, script: script.into() }, size);
            }
        }
        Ok(block)
    }

    /// Ends an upload whose blocks are all there: they become the account's, and the commit is made,
    /// unless blocks are left that could not be made. An upload that lacks blocks is broken off.
    ///
    /// # Errors
    /// `BadRequest` for an upload that lacks blocks; those of [`MetaForBlocks::stored`].
    pub fn finish(&self, upload: &Upload) -> Result<ChangesetReply, ApiError> {
        if !upload.outstanding().is_empty() {
            self.break_off(upload);
            return Err(bad_request("the upload ended before its last block"));
        }
        if !upload.unmade.is_empty() {
            self.break_off(upload);
            return Ok(ChangesetReply { outcome: None, unmade: upload.unmade.clone() });
        }
        if upload.took_too_long() {
            return Err(ApiError::new(ErrorCode::Unavailable, "the upload took too long, send it again"));
        }
        let outcome = self.meta.stored(upload.who, &upload.stored, upload.head.commit.as_ref())?;
        Ok(ChangesetReply { outcome, unmade: Vec::new() })
    }

    /// Notes the blocks of an upload that ended early, so that its next try need not send them again.
    /// Nobody hears of a failure: then they are sent again.
    pub fn break_off(&self, upload: &Upload) {
        if upload.stored.is_empty() || upload.took_too_long() {
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
    pub fn offer(&self, who: Identity, request: &BlocksRequest) -> Result<Offer, ApiError> {
        check_count(request)?;
        let asked: Vec<BlockHash> = request.blocks.iter().chain(&request.bases).copied().collect();
        let readable = self.meta.readable(who, request.namespace, &asked)?;
        self.offer_allowed(request, readable)
    }

    /// The same of blocks that another device is uploading and has announced.
    ///
    /// # Errors
    /// `BadRequest`; those of [`MetaForBlocks::coming`]; `Unavailable`.
    pub fn offer_coming(&self, who: Identity, request: &BlocksRequest) -> Result<Offer, ApiError> {
        check_count(request)?;
        let coming = self.meta.coming(who, request.namespace, &request.blocks)?;
        self.offer_allowed(request, coming)
    }

    /// `allowed`: of each block, and then of each base.
    fn offer_allowed(&self, request: &BlocksRequest, allowed: Vec<bool>) -> Result<Offer, ApiError> {
        let mut verdicts = allowed.into_iter().chain(std::iter::repeat(false));
        let wanted = request.blocks.iter().zip(verdicts.by_ref());
        let allowed: Vec<BlockHash> = wanted.filter(|(_, allowed)| *allowed).map(|(hash, _)| *hash).collect();
        let bases = request.bases.iter().zip(verdicts).map(|(hash, readable)| Base { hash: *hash, readable }).collect();
        let lengths = self.store.lengths(&allowed).map_err(|error| unavailable(&error))?;
        let held: BTreeMap<BlockHash, u32> =
            allowed.into_iter().zip(lengths).filter_map(|(hash, len)| Some((hash, len?))).collect();
        Ok(Offer { head: fill(&request.blocks, &held), bases })
    }

    /// Blocks that were offered.
    ///
    /// # Errors
    /// `Unavailable`: one turned out to be damaged, or is gone.
    pub fn read(&self, offered: &[BlockHeader]) -> Result<Vec<Bytes>, ApiError> {
        let hashes: Vec<BlockHash> = offered.iter().map(|header| header.hash).collect();
        let found = self.store.get_all(&hashes).map_err(|error| unavailable(&error))?;
        let whole = |(header, bytes): (&BlockHeader, Option<Bytes>)| {
            let gone = || ApiError::new(ErrorCode::Unavailable, "the block has just been removed");
            bytes.filter(|bytes| bytes.len() == header.len as usize).ok_or_else(gone)
        };
        offered.iter().zip(found).map(whole).collect()
    }

    /// Blocks that were offered, as one parcel in the smallest form that is at hand for a caller who says
    /// that it has the offer's bases.
    ///
    /// # Errors
    /// As those of [`Self::read`].
    pub fn pack(
        &self,
        offered: &[BlockHeader],
        bases: &[Base],
        compressor: &mut Option<Compressor>,
    ) -> Result<Parcel, ApiError> {
        if let [only] = offered
            && let Some(parcel) = self.sent_form(only, bases)
        {
            return Ok(parcel);
        }
        let mut blocks = self.read(offered)?;
        let plain = if let [only] = blocks.as_mut_slice() { std::mem::take(only) } else { blocks.concat().into() };
        if offered.len() == 1
            && let Some(bytes) = rest_of(&plain, bases)
        {
            return Ok(Parcel { form: Form::Delta, blocks: 1, bytes });
        }
        if self.thrift.compress && compressor.is_none() {
            *compressor = Compressor::new().ok();
        }
        let compressed = compressor.as_mut().and_then(|compressor| compressor.compress(&plain));
        Ok(match compressed {
            Some(bytes) => Parcel { form: Form::Zstd, blocks: offered.len(), bytes: bytes.into() },
            None => Parcel { form: Form::Plain, blocks: offered.len(), bytes: plain },
        })
    }

    /// The form in which the block came not long ago, if it serves.
    fn sent_form(&self, offered: &BlockHeader, bases: &[Base]) -> Option<Parcel> {
        match self.recent_forms.get(&offered.hash)? {
            SentForm::Zstd(bytes) if self.thrift.compress => Some(Parcel { form: Form::Zstd, blocks: 1, bytes }),
            SentForm::Delta { bases: needed, script } if self.thrift.relay_deltas => {
                let script = Script::parse(&script, offered.len as usize).ok()?;
                let place = |number: usize| {
                    let needed = needed.get(number)?;
                    bases.iter().position(|base| base.readable && base.hash == *needed)
                };
                let bytes = script.renumbered(place).ok()?;
                (bytes.len() < offered.len as usize).then(|| Parcel {
                    form: Form::Delta,
                    blocks: 1,
                    bytes: bytes.into(),
                })
            }
            SentForm::Zstd(_) | SentForm::Delta { .. } => None,
        }
    }

    /// The blocks that a client asks for, at once and as they are.
    ///
    /// # Errors
    /// As those of [`Self::offer`] and [`Self::read`].
    pub fn blocks(&self, who: Identity, request: &BlocksRequest) -> Result<(BlocksHead, Vec<Bytes>), ApiError> {
        let head = self.offer(who, request)?.head;
        let bytes = self.read(&head.blocks)?;
        Ok((head, bytes))
    }
}

/// A script that adds to the longest beginning of a block that the client has what it lacks.
fn rest_of(block: &Bytes, bases: &[Base]) -> Option<Bytes> {
    if block.len() <= BEGINNING_BYTES || bases.iter().all(|base| base.readable) {
        return None;
    }
    let number = |hash: BlockHash| bases.iter().position(|base| base.hash == hash);
    let mut beginnings = beginnings(block).into_iter().rev();
    let (len, base) = beginnings.find_map(|(len, hash)| Some((len, number(hash)?)))?;
    let mut script = Writer::default();
    script.copy(base, 0, len);
    script.insert(&block[len..]);
    Some(script.finish().into())
}

fn check_count(request: &BlocksRequest) -> Result<(), ApiError> {
    if request.blocks.len() > BLOCKS_PER_REQUEST || request.bases.len() > BASES_PER_REQUEST {
        return Err(bad_request("the request names too many blocks"));
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
        if total > BLOCK_BYTES_PER_REQUEST {
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
        Ok(_) => Err(bad_request("a block is not as long as its header says")),
        Err(message) => Err(bad_request(&message)),
    }
}

fn too_many_blocks() -> ApiError {
    bad_request("the upload holds more blocks than its head promises")
}

pub(crate) fn bad_request(message: &str) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

/// The wire error for a failure of the store, which is logged here and nowhere else.
pub(crate) fn unavailable(error: &StoreError) -> ApiError {
    tracing::error!(error = error as &dyn std::error::Error, "the block store failed");
    match error {
        StoreError::NoSpace { .. } => ApiError::new(ErrorCode::NoSpace, "the server has no space left for blocks"),
        StoreError::Corrupt { .. } => ApiError::new(ErrorCode::Unavailable, "the server's copy of a block is damaged"),
        StoreError::Io { .. }
        | StoreError::Remote { .. }
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
    use api::{Bases, Stretch, SumsRequest};
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
        pub(crate) renewed: Mutex<BTreeSet<BlockHash>>,
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

        fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
            self.renewed.lock().expect("not poisoned").extend(blocks);
            Ok(())
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
        ChangesetHead { blocks: blocks.iter().map(|bytes| header(bytes)).collect(), bases: None, commit: Some(commit) }
    }

    pub(crate) fn bytes(blocks: &[&'static [u8]]) -> Vec<Bytes> {
        blocks.iter().map(|block| Bytes::from_static(block)).collect()
    }

    pub(crate) fn wanted(who: Identity, blocks: &[&[u8]]) -> BlocksRequest {
        BlocksRequest {
            namespace: NamespaceId(who.account.0),
            blocks: blocks.iter().map(|bytes| BlockHash::of(bytes)).collect(),
            bases: Vec::new(),
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
        assert_eq!(service.offer(ANN, &asked).expect("answers").head.blocks, []);
        assert_eq!(service.offer_coming(ANN, &asked).expect("answers").head.blocks, [header(b"one")]);
        assert_eq!(service.offer_coming(BOB, &asked).expect("answers").head.blocks, []);
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

    /// An upload of one block as a delta that copies all of `base` and inserts `more`.
    fn grown(who: Identity, base: &[u8], more: &[u8], block: &[u8]) -> (ChangesetHead, Parcel) {
        let mut writer = Writer::default();
        writer.copy(0, 0, base.len());
        writer.insert(more);
        let bases = Bases { namespace: NamespaceId(who.account.0), blocks: vec![BlockHash::of(base)] };
        let head = ChangesetHead { bases: Some(bases), ..head(who, &[block]) };
        (head, Parcel { form: Form::Delta, blocks: 1, bytes: writer.finish().into() })
    }

    fn upload(service: &BlockService, who: Identity, (head, parcel): (ChangesetHead, Parcel)) -> ChangesetReply {
        let mut upload = service.begin(who, head).expect("begins");
        service.store_next(&mut upload, vec![parcel]).expect("takes the parcel");
        service.finish(&upload).expect("answers")
    }

    #[test]
    fn a_block_is_made_of_what_it_has_in_common_with_another() {
        let (service, store, _) = service();
        service.changeset(ANN, head(ANN, &[b"old bytes"]), bytes(&[b"old bytes"])).expect("commits");
        let reply = upload(&service, ANN, grown(ANN, b"old bytes", b" and new", b"old bytes and new"));
        assert!(reply.outcome.is_some() && reply.unmade.is_empty());
        let made = store.get(&BlockHash::of(b"old bytes and new")).expect("reads");
        assert_eq!(made.as_deref(), Some(b"old bytes and new".as_slice()));
    }

    #[test]
    fn a_delta_that_leads_elsewhere_is_told_and_nothing_is_committed() {
        let (service, store, meta) = service();
        service.changeset(ANN, head(ANN, &[b"old bytes"]), bytes(&[b"old bytes"])).expect("commits");
        let reply = upload(&service, ANN, grown(ANN, b"old bytes", b" and new", b"something else..."));
        assert_eq!((reply.outcome, reply.unmade), (None, vec![0]));
        assert_eq!(store.get(&BlockHash::of(b"something else...")).expect("reads"), None);
        assert_eq!(meta.committed.lock().expect("not poisoned").len(), 1);
    }

    /// Else a delta would tell whether somebody has a block, and a hash would be as good as its bytes.
    #[test]
    fn anothers_base_and_an_absent_one_are_answered_alike() {
        let (service, _, _) = service();
        service.changeset(ANN, head(ANN, &[b"secret"]), bytes(&[b"secret"])).expect("commits");
        for base in [b"secret", b"absent"] {
            let block = [base.as_slice(), b"!"].concat();
            let reply = upload(&service, BOB, grown(BOB, base, b"!", &block));
            assert_eq!((reply.outcome, reply.unmade), (None, vec![0]));
        }
        let (mut foreign, _) = grown(ANN, b"secret", b"!", b"secret!");
        foreign.commit = None;
        assert_eq!(service.begin(BOB, foreign).expect_err("is no member").code, ErrorCode::Forbidden);
    }

    #[test]
    fn sums_are_told_of_what_the_caller_may_read_alone() {
        let (service, _, _) = service();
        let secret: &'static [u8] = &[7; 300];
        service.changeset(ANN, head(ANN, &[secret]), bytes(&[secret])).expect("commits");
        let request = |who: Identity, block: &[u8], offset, len| SumsRequest {
            namespace: NamespaceId(who.account.0),
            chunk: 128,
            stretches: vec![Stretch { block: BlockHash::of(block), offset, len }],
        };
        let sums = service.sums(ANN, &request(ANN, secret, 0, 300)).expect("answers").sums;
        assert_eq!(sums, [delta::sums_to_bytes(&delta::sum_up(secret, 128))]);
        for (block, offset, len) in [(secret, 200, 101), (secret, u32::MAX, 1), (b"absent".as_slice(), 0, 6)] {
            assert_eq!(service.sums(ANN, &request(ANN, block, offset, len)).expect("answers").sums, [vec![]]);
        }
        assert_eq!(service.sums(BOB, &request(BOB, secret, 0, 300)).expect("answers").sums, [vec![]]);
        let error = service.sums(BOB, &request(ANN, secret, 0, 300)).expect_err("is no member");
        assert_eq!(error.code, ErrorCode::Forbidden);
    }

    #[test]
    fn a_request_for_more_sums_than_one_answer_holds_is_refused() {
        let (service, _, _) = service();
        let stretch = Stretch { block: BlockHash([7; 32]), offset: 0, len: 4 << 20 };
        for (chunk, stretches) in [(0, 1), (127, 1), (128, 3), (4096, 257)] {
            let request =
                SumsRequest { namespace: NamespaceId(ANN.account.0), chunk, stretches: vec![stretch; stretches] };
            assert_eq!(service.sums(ANN, &request).expect_err("is refused").code, ErrorCode::BadRequest);
        }
    }

    fn packed(service: &BlockService, block: &[u8], bases: &[&[u8]]) -> Parcel {
        let bases = bases.iter().map(|base| BlockHash::of(base)).collect();
        let request = BlocksRequest { bases, ..wanted(ANN, &[block]) };
        let offer = service.offer(ANN, &request).expect("offers");
        service.pack(&offer.head.blocks, &offer.bases, &mut None).expect("packs")
    }

    #[test]
    fn a_delta_is_handed_on_to_those_who_have_its_base() {
        let (service, _, _) = service();
        service.changeset(ANN, head(ANN, &[b"old bytes"]), bytes(&[b"old bytes"])).expect("commits");
        let block = b"old bytes and new";
        upload(&service, ANN, grown(ANN, b"old bytes", b" and new", block));
        let parcel = packed(&service, block, &[b"absent", b"old bytes"]);
        assert_eq!(parcel.form, Form::Delta);
        let script = Script::parse(&parcel.bytes, block.len()).expect("is a script");
        let made = script.apply(|base| (base == 1).then_some(b"old bytes".as_slice()));
        assert_eq!(made.as_deref(), Ok(block.as_slice()));
        assert_eq!(packed(&service, block, &[b"absent"]).form, Form::Plain);
    }

    #[test]
    fn who_has_the_beginning_of_a_block_gets_the_rest() {
        let (service, _, _) = service();
        let block: Vec<u8> = (0..3 * BEGINNING_BYTES).map(|n| (n % 251) as u8).collect();
        service.changeset(ANN, head(ANN, &[&block]), vec![block.clone().into()]).expect("commits");
        let (short, long) = (&block[..BEGINNING_BYTES], &block[..2 * BEGINNING_BYTES]);
        let parcel = packed(&service, &block, &[b"absent", short, long]);
        assert_eq!(parcel.form, Form::Delta);
        assert!(parcel.bytes.len() < BEGINNING_BYTES + 20, "{} bytes", parcel.bytes.len());
        let script = Script::parse(&parcel.bytes, block.len()).expect("is a script");
        let made = script.apply(|base| (base == 2).then_some(long));
        assert!(made.is_ok_and(|made| made == block));
        let no_beginning = [&block[1..=BEGINNING_BYTES], &block[..BEGINNING_BYTES - 1], &block];
        for base in no_beginning {
            assert_ne!(packed(&service, &block, &[base]).form, Form::Delta, "{} bytes", base.len());
        }
    }

    #[test]
    fn what_came_compressed_is_handed_on_as_it_came() {
        let (service, _, _) = service();
        let block: &'static [u8] = &[b'x'; 5000];
        let compressed = Bytes::from(Compressor::new().expect("a context").compress(block).expect("is worth it"));
        let parcel = Parcel { form: Form::Zstd, blocks: 1, bytes: compressed.clone() };
        upload(&service, ANN, (head(ANN, &[block]), parcel));
        let parcel = packed(&service, block, &[]);
        assert_eq!((parcel.form, parcel.bytes), (Form::Zstd, compressed));
    }

    #[test]
    fn each_saving_can_be_left_off() {
        let (store, meta) = (Arc::new(MemoryBlockStore::new()), Arc::new(Meta::default()));
        let thrift = Thrift { relay_deltas: false, compress: false };
        let service = BlockService::new(store, meta).with_thrift(thrift);
        let (old, new): (&'static [u8], _) = (&[b'x'; 5000], [[b'x'; 5000].as_slice(), b"!"].concat());
        service.changeset(ANN, head(ANN, &[old]), bytes(&[old])).expect("commits");
        upload(&service, ANN, grown(ANN, old, b"!", &new));
        assert_eq!(packed(&service, old, &[]).form, Form::Plain);
        assert_eq!(packed(&service, &new, &[old]).form, Form::Plain);
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
}
