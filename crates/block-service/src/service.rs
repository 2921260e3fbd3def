//! What the block service does, without HTTP.

use crate::fresh::FreshBlocks;
use crate::limits;
use crate::recent::Recent;
use api::service::{Identity, MetaForBlocks, StoredBlock};
use api::{
    ApiError, BlockHeader, BlocksHead, BlocksRequest, ChangesetHead, ChangesetReply, ErrorCode, SentHead, Token, codec,
};
use block_store::{Block, BlockError, BlockStore, StoreError};
use bytes::Bytes;
use delta::{Script, Writer};
use model::block::beginnings;
use model::limits::{
    BASES_PER_BLOCK, BASES_PER_REQUEST, BEGINNING_BYTES, BLOCK_BYTES_PER_REQUEST, BLOCKS_PER_REQUEST, LONGEST_UPLOAD,
    NAMELESS_BLOCK,
};
use model::{BLOCK_SIZE, BlockHash};
use parcels::{Compressors, Effort, Form, Opened, SHARED_PARCEL};
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
    /// Whether what has come of an upload counts when the server is killed before the upload's end. Whoever makes the
    /// [`Unfinished`](crate::Unfinished) looks at it.
    pub keep_unfinished: bool,
    /// Whether large blocks go to the disk past the page cache. Whoever opens the store looks at it.
    pub direct_writes: bool,
}

impl Thrift {
    /// Every saving.
    pub const ALL: Self = Self { relay_deltas: true, compress: true, keep_unfinished: true, direct_writes: true };
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
    /// Whether [`routes`](crate::routes) work without threads.
    in_place: bool,
    compressors: Compressors,
    /// Blocks as they were uploaded, for those who fetch them next.
    recent_forms: Recent<SentForm>,
    pub(crate) recent_bases: Recent<Bytes>,
    /// Blocks that the store listed and could not hand out, and since when.
    damaged: Recent<Instant>,
    pub(crate) fresh: FreshBlocks,
}

/// How a block came, when that was smaller than the block.
#[derive(Debug, Clone)]
enum SentForm {
    Zstd(SentZstd),
    Delta(SentDelta),
}

/// A compressed block, and the others that came together with it.
#[derive(Debug, Clone)]
struct SentZstd {
    others: Arc<[BlockHash]>,
    bytes: Bytes,
}

/// A script whose bases are numbered as they are listed.
#[derive(Debug, Clone)]
pub(crate) struct SentDelta {
    bases: Vec<BlockHash>,
    script: Bytes,
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
    /// What was sent, if it leaves out the names of the blocks. The head then has those of the blocks that were dealt with,
    /// and no commit.
    nameless: Option<Meant>,
}

/// A head that leaves out the names of its blocks, and what is to be made of it when they are there.
type Meant = (SentHead, fn(ChangesetHead) -> ChangesetHead);

impl Upload {
    /// Whether the clean-up may have lost its respect for the first of the blocks.
    fn took_too_long(&self) -> bool {
        self.renewed.is_some_and(|renewed| renewed.elapsed() > LONGEST_UPLOAD)
    }

    /// Another block whose delta led elsewhere.
    pub(crate) fn leave_out(&mut self, number: usize) {
        self.unmade.push(u32::try_from(number).unwrap_or(u32::MAX));
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
            in_place: false,
            compressors: Compressors::default(),
            recent_forms: Recent::new(limits::RECENT_FORM_BYTES),
            recent_bases: Recent::new(limits::RECENT_BASE_BYTES),
            damaged: Recent::new(limits::DAMAGED_BYTES),
            fresh: FreshBlocks::new(limits::FRESH_BLOCKS),
        }
    }

    /// The same service, with or without what saves bytes.
    #[must_use]
    pub const fn with_thrift(mut self, thrift: Thrift) -> Self {
        self.thrift = thrift;
        self
    }

    /// The same service for a simulation, where nothing is done beside anything else: its [`routes`](crate::routes) block.
    #[must_use]
    pub const fn in_place(mut self) -> Self {
        self.in_place = true;
        self
    }

    pub(crate) const fn works_in_place(&self) -> bool {
        self.in_place
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
        let (stored, unmade) = (Vec::new(), Vec::new());
        Ok(Upload { who, head, bases, done: 0, stored, unmade, renewed: None, nameless: None })
    }

    /// The same of a head as it travels; `as_wanted` of what it says. One that leaves out the names of its blocks says
    /// nothing before all of them are there.
    ///
    /// # Errors
    /// As those of [`Self::begin`].
    pub fn begin_sent(
        &self,
        who: Identity,
        sent: SentHead,
        as_wanted: fn(ChangesetHead) -> ChangesetHead,
    ) -> Result<Upload, ApiError> {
        if let SentHead::Named(head) = sent {
            return self.begin(who, as_wanted(head));
        }
        let outline = sent.outline().map_err(|error| bad_request(&error.to_string()))?;
        let upload = self.begin(who, ChangesetHead { commit: None, ..outline })?;
        Ok(Upload { nameless: Some((sent, as_wanted)), ..upload })
    }

    /// Ends an upload that was begun so.
    ///
    /// # Errors
    /// `BadRequest` for other blocks than were meant, which are the account's all the same; as those of [`Self::finish`].
    pub fn finish_sent(&self, mut upload: Upload) -> Result<ChangesetReply, ApiError> {
        if let Some((sent, as_wanted)) = upload.nameless.take_if(|_| upload.done == upload.head.blocks.len()) {
            match sent.open(&upload.head.blocks) {
                Ok(Some(head)) => upload.head = as_wanted(head),
                Ok(None) => {}
                Err(error) => {
                    self.break_off(&upload);
                    return Err(bad_request(&error.to_string()));
                }
            }
        }
        self.finish(&upload)
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
        // Plain blocks are checked together.
        for parcels in parcels.chunk_by(|one, next| one.form == Form::Plain && next.form == Form::Plain) {
            verdict = self.take_parcels(upload, parcels, &mut right);
            if verdict.is_err() {
                break;
            }
        }
        self.store(upload, &right)?;
        self.fresh.came(right.iter().filter(|block| block.len() <= NAMELESS_BLOCK).map(Block::hash));
        verdict
    }

    /// Stores blocks of an upload; when it returns they are durable.
    ///
    /// # Errors
    /// `NoSpace`, `Unavailable`.
    pub(crate) fn store(&self, upload: &mut Upload, blocks: &[Block]) -> Result<(), ApiError> {
        // Before the store is asked: what the clean-up had in mind must not happen after it has said "there".
        self.meta.renew(&blocks.iter().map(Block::hash).collect::<Vec<_>>())?;
        upload.renewed.get_or_insert_with(Instant::now);
        self.store.put(blocks).map_err(|error| unavailable(&error))?;
        blocks.iter().for_each(|block| self.damaged.forget(&block.hash()));
        upload.stored.extend(blocks.iter().map(|block| StoredBlock { hash: block.hash(), len: block.len() }));
        Ok(())
    }

    /// Keeps what arrived of a block when its upload broke off, as a block of its own: the next try may use it
    /// as a base. Nobody names it, so the clean-up takes it away after a day.
    ///
    /// # Errors
    /// `NoSpace`, `Unavailable`.
    pub fn keep_beginning(&self, upload: &mut Upload, part: &Bytes) -> Result<(), ApiError> {
        // A copy: the part's buffer has room for the whole block.
        let part = Bytes::copy_from_slice(&part[..part.len() - part.len() % BEGINNING_BYTES]);
        let Ok(block) = Block::new(part) else { return Ok(()) };
        self.recent_forms.forget(&block.hash());
        self.store(upload, &[block])
    }

    fn take_parcels(&self, upload: &mut Upload, parcels: &[Parcel], right: &mut Vec<Block>) -> Result<(), ApiError> {
        let mut arrived: Vec<(BlockHeader, Bytes)> = Vec::new();
        let mut verdict = Ok(());
        for parcel in parcels {
            match open(&upload.outstanding()[arrived.len()..], parcel) {
                Ok((headers, Opened::Blocks(blocks))) => arrived.extend(headers.into_iter().zip(apart(blocks))),
                Ok((headers, Opened::Script(script))) => return self.take_script(upload, &headers, &script, right),
                Err(error) => {
                    verdict = Err(error);
                    break;
                }
            }
        }
        let headers: Vec<BlockHeader> = arrived.iter().map(|(header, _)| *header).collect();
        let before = right.len();
        let is_nameless = upload.nameless.is_some();
        let blocks = if is_nameless {
            Block::new_each(arrived.into_iter().map(|(_, bytes)| bytes))
        } else {
            Block::expect_each(arrived.into_iter().map(|(header, bytes)| (header.hash, bytes)))
        };
        for (header, block) in headers.iter().zip(blocks) {
            let block = check(header, block)?;
            // Or its sender would learn from a form that is another's that another account has sent it as well.
            self.recent_forms.forget(&block.hash());
            if is_nameless {
                upload.head.blocks[upload.done].hash = block.hash();
            }
            right.push(block);
            upload.done += 1;
        }
        if let [parcel] = parcels
            && parcel.form == Form::Zstd
        {
            self.keep_zstd(&right[before..], parcel.bytes.clone());
        }
        verdict
    }

    /// Keeps how these blocks came together, for those who fetch them next.
    fn keep_zstd(&self, blocks: &[Block], bytes: Bytes) {
        let Some((first, others)) = blocks.split_first() else { return };
        let plain = blocks.iter().map(|block| u64::from(block.len())).sum::<u64>();
        // Few small blocks may be fetched together with more, and be smaller then.
        if !others.is_empty() && !(limits::FULL_PARCEL..=SHARED_PARCEL).contains(&plain) {
            return;
        }
        let others: Arc<[BlockHash]> = others.iter().map(Block::hash).collect();
        let size = bytes.len() + size_of_val(&*others);
        self.recent_forms.keep(first.hash(), SentForm::Zstd(SentZstd { others, bytes }), size);
    }

    fn take_script(
        &self,
        upload: &mut Upload,
        headers: &[BlockHeader],
        script: &Bytes,
        right: &mut Vec<Block>,
    ) -> Result<(), ApiError> {
        let [header] = headers else { return Err(too_many_blocks()) };
        if upload.nameless.is_some() {
            return Err(bad_request("a block without a name is a delta"));
        }
        match self.make(upload, header, script)? {
            Some(block) => right.push(block),
            None => upload.leave_out(upload.done),
        }
        upload.done += 1;
        Ok(())
    }

    /// The block that a delta leads to; `None` when it leads elsewhere, or its bases are not to be had.
    fn make(&self, upload: &Upload, header: &BlockHeader, script: &Bytes) -> Result<Option<Block>, ApiError> {
        let Some((bytes, source)) = self.copy(upload, header.len, script)? else { return Ok(None) };
        let block = check(header, Block::expect(header.hash, bytes)).ok();
        if block.is_some() {
            self.keep_delta(header.hash, source);
        }
        Ok(block)
    }

    /// The bytes that a delta leads to, and what it is; `None` when its bases are not to be had.
    pub(crate) fn copy(
        &self,
        upload: &Upload,
        len: u32,
        script: &Bytes,
    ) -> Result<Option<(Bytes, SentDelta)>, ApiError> {
        let Ok(parsed) = Script::parse(script, len as usize) else { return Ok(None) };
        let needed = parsed.bases();
        if needed.len() > BASES_PER_BLOCK {
            return Ok(None);
        }
        let mut bases = BTreeMap::new();
        for number in needed {
            let Some(hash) = upload.bases.get(number).copied().flatten() else { return Ok(None) };
            let Some(bytes) = self.base(&hash)? else { return Ok(None) };
            bases.insert(number, (hash, bytes));
        }
        let made = parsed.apply(|number| bases.get(&number).map(|(_, bytes)| &**bytes));
        let place = |number| bases.keys().position(|base| *base == number);
        let (Ok(made), Ok(script)) = (made, parsed.renumbered(place)) else { return Ok(None) };
        let bases = bases.into_values().map(|(hash, _)| hash).collect();
        Ok(Some((made.into(), SentDelta { bases, script: script.into() })))
    }

    /// Keeps how a block came, for those who fetch it next.
    pub(crate) fn keep_delta(&self, block: BlockHash, delta: SentDelta) {
        let size = delta.script.len() + size_of_val(delta.bases.as_slice());
        self.recent_forms.keep(block, SentForm::Delta(delta), size);
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
        let held = allowed.into_iter().zip(lengths).filter_map(|(hash, len)| {
            let len = len.filter(|len| (1..=BLOCK_SIZE).contains(&u64::from(*len)))?;
            (!self.is_damaged(&hash)).then_some((hash, len))
        });
        let held: BTreeMap<BlockHash, u32> = held.collect();
        Ok(Offer { head: fill(&request.blocks, &held), bases })
    }

    /// Blocks that were offered.
    ///
    /// # Errors
    /// `Unavailable`: one turned out to be damaged, or is gone.
    pub fn read(&self, offered: &[BlockHeader]) -> Result<Vec<Bytes>, ApiError> {
        let hashes: Vec<BlockHash> = offered.iter().map(|header| header.hash).collect();
        let found = self.store.get_all(&hashes).map_err(|error| {
            if let StoreError::Corrupt { hash } = &error {
                self.note_damage(*hash);
            }
            unavailable(&error)
        })?;
        let whole = |(header, bytes): (&BlockHeader, Option<Bytes>)| {
            bytes.filter(|bytes| bytes.len() == header.len as usize).ok_or_else(|| {
                self.note_damage(header.hash);
                ApiError::new(ErrorCode::Unavailable, "the block has just been removed")
            })
        };
        offered.iter().zip(found).map(whole).collect()
    }

    /// For a while the block is told to be unavailable: an answer that breaks off at it would do so each time, and what
    /// is asked for together with it would never arrive. A store on a disk remembers by itself; objects do not.
    fn note_damage(&self, hash: BlockHash) {
        self.damaged.keep(hash, Instant::now(), size_of::<Instant>());
    }

    fn is_damaged(&self, hash: &BlockHash) -> bool {
        self.damaged.get(hash).is_some_and(|since| since.elapsed() < limits::DAMAGED_FOR)
    }

    /// Blocks that were offered, as one parcel in the smallest form that is at hand for a caller who says
    /// that it has the offer's bases.
    ///
    /// # Errors
    /// As those of [`Self::read`].
    pub fn pack(&self, offered: &[BlockHeader], bases: &[Base]) -> Result<Parcel, ApiError> {
        if let Some(parcel) = self.sent_form(offered, bases) {
            return Ok(parcel);
        }
        let mut blocks = self.read(offered)?;
        if let [only] = blocks.as_slice()
            && let Some(bytes) = rest_of(only, bases)
        {
            return Ok(Parcel { form: Form::Delta, blocks: 1, bytes });
        }
        if self.thrift.compress
            && let Some(bytes) = self.compressors.compress(Effort::Quick, &blocks)
        {
            return Ok(Parcel { form: Form::Zstd, blocks: offered.len(), bytes: bytes.into() });
        }
        let bytes = if let [only] = blocks.as_mut_slice() { std::mem::take(only) } else { blocks.concat().into() };
        Ok(Parcel { form: Form::Plain, blocks: offered.len(), bytes })
    }

    /// The bases of the delta that the block came as not long ago, if that was a small one.
    pub(crate) fn small_delta(&self, block: &BlockHash) -> Option<Vec<BlockHash>> {
        match self.recent_forms.get(block)? {
            SentForm::Delta(SentDelta { bases, script })
                if self.thrift.relay_deltas && script.len() <= limits::ALONG_BLOCK as usize =>
            {
                Some(bases)
            }
            SentForm::Zstd(_) | SentForm::Delta(_) => None,
        }
    }

    /// The form in which just these blocks came not long ago, if it serves.
    fn sent_form(&self, offered: &[BlockHeader], bases: &[Base]) -> Option<Parcel> {
        if let Some(SentZstd { others, bytes }) = self.sent_zstd(offered) {
            let blocks = 1 + others.len();
            return (blocks == offered.len()).then_some(Parcel { form: Form::Zstd, blocks, bytes });
        }
        let [only] = offered else { return None };
        let bytes = self.sent_delta(only, bases)?;
        Some(Parcel { form: Form::Delta, blocks: 1, bytes })
    }

    /// What came not long ago as one parcel, if the next blocks begin with it.
    fn sent_zstd(&self, next: &[BlockHeader]) -> Option<SentZstd> {
        let (first, next) = next.split_first()?;
        let SentForm::Zstd(sent) = self.recent_forms.get(&first.hash)? else { return None };
        let names = next.iter().map(|header| &header.hash);
        (self.thrift.compress && names.take(sent.others.len()).eq(&*sent.others)).then_some(sent)
    }

    /// How many of the next blocks go into one parcel: as many as came in one, which then need not be compressed again,
    /// or those before the next that did.
    pub(crate) fn share_parcel(&self, next: &[BlockHeader]) -> usize {
        let is_group = |at: usize| {
            let form = next.get(at).and_then(|header| self.recent_forms.get(&header.hash));
            matches!(form, Some(SentForm::Zstd(sent)) if !sent.others.is_empty())
        };
        let group = |at: usize| self.sent_zstd(next.get(at..)?).filter(|sent| !sent.others.is_empty());
        if let Some(sent) = group(0) {
            return 1 + sent.others.len();
        }
        let count = parcels::share_parcel(next.iter().map(|header| header.len));
        // Only the next that may be one is compared.
        (1..count).find(|at| is_group(*at)).filter(|at| group(*at).is_some()).unwrap_or(count)
    }

    /// The delta as which the block came not long ago, if the caller may read what it copies from.
    pub(crate) fn sent_delta(&self, offered: &BlockHeader, bases: &[Base]) -> Option<Bytes> {
        let SentForm::Delta(SentDelta { bases: needed, script }) = self.recent_forms.get(&offered.hash)? else {
            return None;
        };
        if !self.thrift.relay_deltas {
            return None;
        }
        let script = Script::parse(&script, offered.len as usize).ok()?;
        let place = |number: usize| {
            let needed = needed.get(number)?;
            bases.iter().position(|base| base.readable && base.hash == *needed)
        };
        let bytes = script.renumbered(place).ok()?;
        (bytes.len() < offered.len as usize).then(|| bytes.into())
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

/// What is in a parcel, if it holds no more than the `outstanding` blocks.
pub(crate) fn open(outstanding: &[BlockHeader], parcel: &Parcel) -> Result<(Vec<BlockHeader>, Opened), ApiError> {
    let headers = outstanding.get(..parcel.blocks).ok_or_else(too_many_blocks)?;
    let opened = parcels::open(parcel.form, headers, parcel.bytes.clone());
    opened.map(|opened| (headers.to_vec(), opened)).map_err(|error| bad_request(&error.to_string()))
}

/// Blocks, each in memory of its own: the store may keep one of them and not the others.
fn apart(blocks: Vec<Bytes>) -> Vec<Bytes> {
    if blocks.len() < 2 {
        return blocks;
    }
    blocks.iter().map(|block| Bytes::copy_from_slice(block)).collect()
}

fn check(header: &BlockHeader, block: Result<Block, BlockError>) -> Result<Block, ApiError> {
    match block {
        Ok(block) if block.len() == header.len => Ok(block),
        Ok(_) => Err(bad_request("a block is not as long as its header says")),
        Err(error) => Err(bad_request(&error.to_string())),
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
pub(crate) mod tests;
