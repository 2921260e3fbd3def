//! The block service against a meta service that knows little.

use super::*;
use api::{Bases, ChangesReply, ChangesRequest, NamespaceChanges, SentCommit, SentHead, Stretch, SumsRequest};
use block_store::{DiskBlockStore, DiskOptions, MemoryBlockStore};
use model::{AccountId, CommitKey, CommitOutcome, DeviceId, Epoch, InstanceId, NamespaceId, Position, Timestamp};
use std::collections::BTreeSet;
use std::sync::Mutex;

pub(crate) const ANN: Identity = Identity { account: AccountId([1; 16]), device: DeviceId([1; 16]) };
pub(crate) const BOB: Identity = Identity { account: AccountId([2; 16]), device: DeviceId([2; 16]) };

/// A meta service that knows what each account stored. An account's namespace has the account's bits
/// and names the blocks that came with a commit.
#[derive(Default)]
pub(crate) struct Meta {
    /// What it tells as changed.
    pub(crate) changes: Mutex<Vec<NamespaceChanges>>,
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

    fn changes(&self, _: Identity, _: &ChangesRequest) -> Result<ChangesReply, ApiError> {
        Ok(ChangesReply { namespaces: self.changes.lock().expect("not poisoned").clone() })
    }

    fn renew(&self, blocks: &[BlockHash]) -> Result<(), ApiError> {
        self.renewed.lock().expect("not poisoned").extend(blocks);
        Ok(())
    }

    fn stored(
        &self,
        who: Identity,
        blocks: &[StoredBlock],
        commit: Option<&SentCommit>,
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
    let commit = SentCommit {
        namespace: NamespaceId(who.account.0),
        epoch: Epoch(1),
        key: CommitKey([1; 16]),
        seen: Position::START,
        operations: Vec::new(),
    };
    ChangesetHead { blocks: blocks.iter().map(|bytes| header(bytes)).collect(), bases: None, commit: Some(commit) }
}

/// A whole body that uploads these blocks and commits.
pub(crate) fn framed(blocks: &[&[u8]]) -> Vec<u8> {
    let mut bytes = codec::encode_head(&SentHead::Named(head(ANN, blocks)));
    bytes.extend(blocks.iter().flat_map(|block| plain(&[block])));
    bytes
}

/// Blocks in one parcel, as they are.
pub(crate) fn plain(blocks: &[&[u8]]) -> Vec<u8> {
    let len = blocks.iter().map(|block| block.len() as u32).sum();
    let frame = parcels::Frame { form: Form::Plain, blocks: blocks.len() as u16, len };
    [frame.to_bytes().to_vec(), blocks.concat()].concat()
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
pub(crate) fn grown(who: Identity, base: &[u8], more: &[u8], block: &[u8]) -> (ChangesetHead, Parcel) {
    let mut writer = Writer::default();
    writer.copy(0, 0, base.len());
    writer.insert(more);
    let bases = Bases { namespace: NamespaceId(who.account.0), blocks: vec![BlockHash::of(base)] };
    let head = ChangesetHead { bases: Some(bases), ..head(who, &[block]) };
    (head, Parcel { form: Form::Delta, blocks: 1, bytes: writer.finish().into() })
}

pub(crate) fn upload(service: &BlockService, who: Identity, (head, parcel): (ChangesetHead, Parcel)) -> ChangesetReply {
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

/// A few bytes could make the server read a gigabyte into memory, which no budget counted.
#[test]
fn a_delta_copies_from_few_blocks_at_most() {
    let (service, store, _) = service();
    let bases: Vec<[u8; 1]> = (0..=BASES_PER_BLOCK).map(|n| [u8::try_from(n).expect("few")]).collect();
    let slices: Vec<&[u8]> = bases.iter().map(<[u8; 1]>::as_slice).collect();
    let copies: Vec<Bytes> = slices.iter().map(|base| Bytes::copy_from_slice(base)).collect();
    service.changeset(ANN, head(ANN, &slices), copies).expect("commits");
    for (count, is_made) in [(BASES_PER_BLOCK, true), (BASES_PER_BLOCK + 1, false)] {
        let mut writer = Writer::default();
        (0..count).for_each(|base| writer.copy(base, 0, 1));
        let block = slices[..count].concat();
        let blocks = slices.iter().map(|base| BlockHash::of(base)).collect();
        let bases = Bases { namespace: NamespaceId(ANN.account.0), blocks };
        let head = ChangesetHead { bases: Some(bases), ..head(ANN, &[&block]) };
        let parcel = Parcel { form: Form::Delta, blocks: 1, bytes: writer.finish().into() };
        let reply = upload(&service, ANN, (head, parcel));
        assert_eq!((reply.outcome.is_some(), reply.unmade.is_empty()), (is_made, is_made), "{count} bases");
        assert_eq!(store.get(&BlockHash::of(&block)).expect("reads").is_some(), is_made);
    }
}

/// A file that was appended to could never be uploaded, as its last block was damaged on the server.
#[test]
fn a_delta_to_a_damaged_base_is_asked_for_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || DiskBlockStore::open(folder.path(), InstanceId([1; 16]), DiskOptions::default()).expect("opens");
    let meta = Arc::new(Meta::default());
    let first = BlockService::new(Arc::new(open()), meta.clone());
    first.changeset(ANN, head(ANN, &[b"old bytes"]), bytes(&[b"old bytes"])).expect("commits");
    drop(first);
    let pack = folder.path().join("packs/00000001.pack");
    let mut packed = std::fs::read(&pack).expect("reads");
    let at = packed.windows(9).position(|nine| nine == b"old bytes").expect("is there");
    packed[at] ^= 1;
    std::fs::write(&pack, packed).expect("writes");
    let service = BlockService::new(Arc::new(open()), meta);
    let reply = upload(&service, ANN, grown(ANN, b"old bytes", b" and new", b"old bytes and new"));
    assert_eq!((reply.outcome, reply.unmade), (None, vec![0]));
    let whole = b"old bytes and new";
    service.changeset(ANN, head(ANN, &[whole]), bytes(&[whole])).expect("commits");
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
        let request = SumsRequest { namespace: NamespaceId(ANN.account.0), chunk, stretches: vec![stretch; stretches] };
        assert_eq!(service.sums(ANN, &request).expect_err("is refused").code, ErrorCode::BadRequest);
    }
}

fn packed(service: &BlockService, block: &[u8], bases: &[&[u8]]) -> Parcel {
    let bases = bases.iter().map(|base| BlockHash::of(base)).collect();
    let request = BlocksRequest { bases, ..wanted(ANN, &[block]) };
    let offer = service.offer(ANN, &request).expect("offers");
    service.pack(&offer.head.blocks, &offer.bases).expect("packs")
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
    let compressed = Bytes::from(Compressors::default().compress(Effort::Quick, &[block]).expect("is worth it"));
    let parcel = Parcel { form: Form::Zstd, blocks: 1, bytes: compressed.clone() };
    upload(&service, ANN, (head(ANN, &[block]), parcel));
    let parcel = packed(&service, block, &[]);
    assert_eq!((parcel.form, parcel.bytes), (Form::Zstd, compressed));
}

/// Text of so many bytes, another for each seed.
fn text(seed: u32, len: usize) -> Vec<u8> {
    let word = |n: u32| format!("{} ", (n ^ seed).wrapping_mul(2_654_435_761) >> 22);
    (0..).flat_map(|n| word(n).into_bytes()).take(len).collect()
}

#[test]
fn blocks_that_came_compressed_together_are_handed_on_as_they_came() {
    let (service, _, _) = service();
    let sizes = [100_000, 100_000, 100_000, 50_000, 50_000, 1_000];
    let blocks: Vec<Vec<u8>> = (0..).zip(sizes).map(|(seed, len)| text(seed, len)).collect();
    let parcel = |range: std::ops::Range<usize>| {
        let bytes = Compressors::default().compress(Effort::Utmost, &blocks[range.clone()]).expect("is worth it");
        Parcel { form: Form::Zstd, blocks: range.len(), bytes: bytes.into() }
    };
    let sent = [parcel(0..3), parcel(3..5), parcel(5..6)];
    let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    let mut upload = service.begin(ANN, head(ANN, &slices)).expect("begins");
    service.store_next(&mut upload, sent.to_vec()).expect("takes the parcels");
    service.finish(&upload).expect("commits");
    let headers: Vec<BlockHeader> = slices.iter().map(|block| header(block)).collect();
    let asked = |numbers: &[usize]| numbers.iter().map(|n| headers[*n]).collect::<Vec<_>>();
    let pack = |numbers: &[usize]| service.pack(&asked(numbers), &[]).expect("packs");

    assert_eq!(service.share_parcel(&asked(&[0, 1, 2, 3])), 3);
    assert_eq!(pack(&[0, 1, 2]).bytes, sent[0].bytes);
    assert_eq!(service.share_parcel(&asked(&[5, 4, 0, 1, 2])), 2, "what comes before does not tear them apart");
    for others in [&[0, 2, 1, 3][..], &[0, 1], &[1, 2]] {
        assert_eq!(service.share_parcel(&asked(others)), others.len(), "{others:?} is not what came");
        let made = pack(others);
        let opened = parcels::open(made.form, &asked(others), made.bytes);
        let expected: Vec<Bytes> = others.iter().map(|n| blocks[*n].clone().into()).collect();
        assert_eq!(opened, Ok(Opened::Blocks(expected)));
    }
    assert_eq!(service.share_parcel(&asked(&[5, 0, 2, 1])), 4, "nor does what only begins as one came");
    assert_eq!(service.share_parcel(&asked(&[3, 4, 5])), 3, "few bytes are compressed with what follows them");
    assert_eq!(service.share_parcel(&asked(&[5, 3, 4])), 3, "and so is a small block");
    assert_ne!(pack(&[3, 4]).bytes, sent[1].bytes);
    assert_eq!(pack(&[5]).bytes, sent[2].bytes);
}

#[test]
fn who_sends_a_block_does_not_get_it_in_the_form_in_which_another_account_sent_it() {
    let (service, _, _) = service();
    let block = text(1, 100_000);
    let sent = Compressors::default().compress(Effort::Utmost, &[&block]).expect("is worth it");
    let parcel = || Parcel { form: Form::Zstd, blocks: 1, bytes: sent.clone().into() };
    upload(&service, ANN, (head(ANN, &[&block]), parcel()));
    assert_eq!(packed(&service, &block, &[]).bytes, sent);
    service.changeset(BOB, head(BOB, &[&block]), vec![block.clone().into()]).expect("commits");
    assert_ne!(packed(&service, &block, &[]).bytes, sent);
    // Nor when the next one is wrong, and the upload ends with it.
    upload(&service, ANN, (head(ANN, &[&block]), parcel()));
    let wrong =
        service.changeset(BOB, head(BOB, &[&block, b"right"]), vec![block.clone().into(), (&b"wrong"[..]).into()]);
    assert_eq!(wrong.expect_err("is refused").code, ErrorCode::BadRequest);
    assert_ne!(packed(&service, &block, &[]).bytes, sent);
    // Nor when it is not the first of those that came with it.
    upload(&service, ANN, (head(ANN, &[&block]), parcel()));
    let group = [text(2, 200_000), block.clone()];
    let together = Compressors::default().compress(Effort::Utmost, &group).expect("is worth it");
    let slices = [group[0].as_slice(), &group[1]];
    upload(&service, BOB, (head(BOB, &slices), Parcel { form: Form::Zstd, blocks: 2, bytes: together.into() }));
    assert_ne!(packed(&service, &block, &[]).bytes, sent);
}

#[test]
fn more_than_shares_a_parcel_is_not_handed_on_together() {
    let (service, _, _) = service();
    let blocks: Vec<Vec<u8>> = (0..6).map(|seed| text(seed, 100_000)).collect();
    let bytes = Compressors::default().compress(Effort::Utmost, &blocks).expect("is worth it");
    let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    upload(&service, ANN, (head(ANN, &slices), Parcel { form: Form::Zstd, blocks: 6, bytes: bytes.into() }));
    let headers: Vec<BlockHeader> = slices.iter().map(|block| header(block)).collect();
    assert_eq!(service.share_parcel(&headers), 5, "as many as share one");
}

#[test]
fn each_saving_can_be_left_off() {
    let (store, meta) = (Arc::new(MemoryBlockStore::new()), Arc::new(Meta::default()));
    let thrift = Thrift { relay_deltas: false, compress: false, ..Thrift::ALL };
    let service = BlockService::new(store, meta).with_thrift(thrift);
    let blocks: Vec<Vec<u8>> = (0..3).map(|seed| text(seed, 100_000)).collect();
    let together = Compressors::default().compress(Effort::Utmost, &blocks).expect("is worth it");
    let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    upload(&service, ANN, (head(ANN, &slices), Parcel { form: Form::Zstd, blocks: 3, bytes: together.into() }));
    let headers: Vec<BlockHeader> = slices.iter().map(|block| header(block)).collect();
    assert_eq!(service.pack(&headers, &[]).expect("packs").form, Form::Plain);
    let (old, new): (&'static [u8], _) = (&[b'x'; 5000], [[b'x'; 5000].as_slice(), b"!"].concat());
    service.changeset(ANN, head(ANN, &[old]), bytes(&[old])).expect("commits");
    upload(&service, ANN, grown(ANN, old, b"!", &new));
    assert_eq!(packed(&service, old, &[]).form, Form::Plain);
    assert_eq!(packed(&service, &new, &[old]).form, Form::Plain);
}

#[test]
fn one_answer_holds_no_more_than_its_limit() {
    let four_mib = u32::try_from(BLOCK_SIZE).expect("fits");
    let hashes: Vec<BlockHash> = (0..6).map(|i| BlockHash([i; 32])).collect();
    let held = hashes[1..].iter().map(|hash| (*hash, four_mib)).collect();
    let head = fill(&hashes, &held);
    assert_eq!(head.unavailable, [hashes[0]]);
    assert_eq!(head.blocks.iter().map(|header| header.hash).collect::<Vec<_>>(), hashes[1..5]);
}
