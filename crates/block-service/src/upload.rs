//! `changeset`: blocks are stored while they arrive.

use crate::budget::{Budget, Share};
use crate::http::{blocking, malformed};
use crate::limits;
use crate::receive::{BodyReader, ReceiveError};
use crate::service::{BlockService, Parcel, Upload};
use crate::shift;
use api::service::Identity;
use api::{ApiError, BlockHeader, ChangesetHead, ChangesetReply, ErrorCode, SentHead, codec};
use bytes::Bytes;
use parcels::{Form, Frame};
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What all uploads share.
#[derive(Debug, Clone)]
pub(crate) struct UploadBudgets {
    heads: Budget,
    blocks: Budget,
}

impl Default for UploadBudgets {
    fn default() -> Self {
        Self { heads: Budget::new(limits::HEAD_BYTES_IN_FLIGHT), blocks: Budget::new(limits::UPLOAD_BYTES_IN_FLIGHT) }
    }
}

/// Receives a changeset, stores its blocks and makes its commit. However the body ends, what arrived
/// whole is durable and noted when this returns.
pub(crate) async fn receive(
    service: Arc<BlockService>,
    budgets: UploadBudgets,
    who: Identity,
    body: &mut BodyReader,
) -> Result<ChangesetReply, ApiError> {
    receive_with(service, budgets, who, body, |head| head).await
}

/// What came of a changeset before the process that received it was killed: it is kept and noted. The commit is left to
/// the client, which sends it again.
///
/// # Errors
/// `BadRequest` as well when the body ends early, as most do.
pub(crate) async fn take_up(
    service: Arc<BlockService>,
    budgets: UploadBudgets,
    who: Identity,
    body: &mut BodyReader,
) -> Result<(), ApiError> {
    let without_commit = |head| ChangesetHead { commit: None, ..head };
    receive_with(service, budgets, who, body, without_commit).await.map(drop)
}

async fn receive_with(
    service: Arc<BlockService>,
    budgets: UploadBudgets,
    who: Identity,
    body: &mut BodyReader,
    as_wanted: fn(ChangesetHead) -> ChangesetHead,
) -> Result<ChangesetReply, ApiError> {
    let len = prefix(body).await?;
    let _head_share = budgets.heads.take(len as u64).await?;
    let bytes = body.exactly(len).await.map_err(|error| broken(&error))?;
    let sent: SentHead = codec::decode(&bytes).map_err(|error| malformed(&error))?;
    if let SentHead::Shift(shift) = sent {
        return shift::receive(service, &budgets.blocks, who, body, shift).await;
    }
    let beginning = service.clone();
    let upload = blocking(&service, move || beginning.begin_sent(who, sent, as_wanted)).await?;
    Storing { service, upload: Some(upload), running: None }.run(&budgets.blocks, body).await
}

async fn prefix(body: &mut BodyReader) -> Result<usize, ApiError> {
    let prefix = body.exactly(4).await.map_err(|error| broken(&error))?;
    let prefix = prefix.first_chunk::<4>().copied().unwrap_or_default();
    codec::head_len(prefix).map_err(|error| malformed(&error))
}

/// An upload of which one group is stored while the next one arrives.
struct Storing {
    service: Arc<BlockService>,
    /// Away while a group is being stored.
    upload: Option<Upload>,
    running: Option<JoinHandle<(Upload, Result<(), ApiError>)>>,
}

impl Storing {
    async fn run(mut self, budget: &Budget, body: &mut BodyReader) -> Result<ChangesetReply, ApiError> {
        let received = self.receive_blocks(budget, body).await;
        let stored = self.settle().await;
        let complete = match received.and(stored) {
            Ok(()) => body.end().await.map_err(|error| broken(&error)),
            Err(error) => Err(error),
        };
        let Some(upload) = self.upload else { return Err(lost()) };
        let service = self.service.clone();
        blocking(&self.service, move || match complete {
            Ok(()) => service.finish_sent(upload),
            Err(error) => {
                service.break_off(&upload);
                Err(error)
            }
        })
        .await
    }

    async fn receive_blocks(&mut self, budget: &Budget, body: &mut BodyReader) -> Result<(), ApiError> {
        let headers = self.upload.as_ref().map_or_else(Vec::new, |upload| upload.outstanding().to_vec());
        let mut rest = Rest { next: &headers, announced: None };
        while !rest.next.is_empty() {
            let (group, ended) = receive_group(&mut rest, budget, body).await;
            self.settle().await?;
            let part = ended.as_ref().err().map(|ended| ended.part.clone()).unwrap_or_default();
            self.store(group, part);
            ended.map_err(|ended| ended.error)?;
        }
        Ok(())
    }

    /// Begins to store a group, and the part of a block behind it. Their share of the budget ends with it.
    fn store(&mut self, Group { parcels, shares }: Group, part: Bytes) {
        let Some(mut upload) = self.upload.take() else { return };
        let service = self.service.clone();
        let store = move || {
            let verdict = service.store_next(&mut upload, parcels);
            let verdict = verdict.and_then(|()| service.keep_beginning(&mut upload, &part));
            drop((part, shares));
            (upload, verdict)
        };
        self.running = Some(if self.service.works_in_place() {
            tokio::spawn(async { store() })
        } else {
            tokio::task::spawn_blocking(store)
        });
    }

    /// Waits for the group that is being stored.
    async fn settle(&mut self) -> Result<(), ApiError> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (upload, verdict) = running.await.map_err(|_| lost())?;
        self.upload = Some(upload);
        verdict
    }
}

/// What is still to come of an upload.
struct Rest<'a> {
    next: &'a [BlockHeader],
    /// The frame of the next parcel, if it was read already, and the plain bytes behind it.
    announced: Option<(Frame, u64)>,
}

/// Parcels that are stored together, and their shares of the budget: their plain bytes are in memory until then.
#[derive(Default)]
struct Group {
    parcels: Vec<Parcel>,
    shares: Vec<Share>,
}

/// The end of a body before its time.
struct Ended {
    error: ApiError,
    /// What had come of a plain block.
    part: Bytes,
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self { error, part: Bytes::new() }
    }
}

/// Parcels that arrived whole, and of a plain one also the blocks that did, until they are many enough to be
/// stored together, or the client is slow, or there is no room for more: what holds room never waits for more of it.
/// `rest` is moved behind them. A share is taken when its parcel begins to come, so that a client with much to send over
/// a slow connection leaves the others theirs.
async fn receive_group(rest: &mut Rest<'_>, budget: &Budget, body: &mut BodyReader) -> (Group, Result<(), Ended>) {
    let begun = Instant::now();
    let (mut group, mut bytes) = (Group::default(), 0);
    while !rest.next.is_empty() && bytes < limits::STORE_BYTES && begun.elapsed() <= limits::STORE_AFTER {
        let (frame, plain) = match announcement(rest, body).await {
            Ok(announced) => announced,
            Err(error) => return (group, Err(error.into())),
        };
        let share = if group.shares.is_empty() { budget.take(plain).await } else { budget.take_now(plain) };
        match share {
            Ok(share) => group.shares.push(share),
            Err(_) if !group.shares.is_empty() => {
                rest.announced = Some((frame, plain));
                break;
            }
            Err(error) => return (group, Err(error.into())),
        }
        if let Err(error) = receive_parcel(&frame, rest, body, &mut group.parcels).await {
            return (group, Err(error));
        }
        bytes += plain;
    }
    (group, Ok(()))
}

/// The frame of the next parcel, and how many plain bytes it holds.
async fn announcement(rest: &mut Rest<'_>, body: &mut BodyReader) -> Result<(Frame, u64), ApiError> {
    if let Some(announced) = rest.announced.take() {
        return Ok(announced);
    }
    let frame = body.exactly(Frame::BYTES).await.map_err(|error| broken(&error))?;
    let frame = frame.first_chunk().copied().unwrap_or_default();
    Frame::parse(frame, rest.next).map_err(|error| malformed(&error))
}

async fn receive_parcel(
    frame: &Frame,
    rest: &mut Rest<'_>,
    body: &mut BodyReader,
    parcels: &mut Vec<Parcel>,
) -> Result<(), Ended> {
    let (these, behind) = rest.next.split_at(frame.blocks.into());
    if frame.form == Form::Plain {
        for header in these {
            let block = body.in_own_memory(header.len as usize).await;
            let block = block.map_err(|(error, part)| Ended { error: broken(&error), part })?;
            parcels.push(Parcel::plain(block));
        }
    } else {
        let bytes = body.in_own_memory(frame.len as usize).await.map_err(|(error, _)| broken(&error))?;
        parcels.push(Parcel { form: frame.form, blocks: these.len(), bytes });
    }
    rest.next = behind;
    Ok(())
}

pub(crate) fn broken(error: &ReceiveError) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, error.to_string())
}

/// The thread that held the upload panicked.
fn lost() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the server failed while it stored the blocks")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Offer;
    use crate::service::tests::{ANN, framed, head, header, plain, service};
    use api::{BlocksHead, SentOperation};
    use axum::body::Body as HttpBody;
    use block_store::BlockStore;
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Mtime, Name, NodeId, Operation};
    use parcels::{Compressors, Effort};
    use std::io;
    use std::time::Duration;
    use tokio_util::task::TaskTracker;

    async fn send(service: &Arc<BlockService>, bytes: Vec<u8>) -> Result<ChangesetReply, ApiError> {
        let pieces: Vec<_> = bytes.chunks(700).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        let mut body = BodyReader::new(HttpBody::from_stream(stream::iter(pieces)));
        receive(service.clone(), UploadBudgets::default(), ANN, &mut body).await
    }

    #[tokio::test]
    async fn an_upload_of_many_groups_is_stored_and_committed() {
        let (service, store, _) = service();
        let blocks: Vec<Vec<u8>> = (0..4).map(|i| vec![i; usize::try_from(BLOCK_SIZE).expect("fits")]).collect();
        let reply = send(&service, framed(&blocks.iter().map(Vec::as_slice).collect::<Vec<_>>())).await;
        assert!(reply.expect("commits").outcome.is_some());
        assert_eq!(store.list(None, 10).expect("lists").len(), 4);
    }

    /// Three devices on slow connections kept the room of all that they were going to send, and everybody else from
    /// sending anything, for minutes.
    #[tokio::test]
    async fn a_slow_upload_takes_room_for_what_is_coming_and_not_for_all_that_will() {
        let (service, _, _) = service();
        let budgets = UploadBudgets {
            heads: Budget::new(limits::HEAD_BYTES_IN_FLIGHT),
            blocks: Budget::new(2 * BLOCK_SIZE + 1024 * 1024),
        };
        let blocks: Vec<Vec<u8>> = (0..3).map(|i| vec![i; usize::try_from(BLOCK_SIZE).expect("fits")]).collect();
        let whole = framed(&blocks.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (reached, mut is_reached) = tokio::sync::mpsc::channel::<()>(2);
        let mut slow = Vec::new();
        for _ in 0..2 {
            let beginning = Bytes::copy_from_slice(&whole[..whole.len() - 3 * blocks[0].len() + 1000]);
            let reached = reached.clone();
            let rest = stream::once(async move {
                reached.send(()).await.ok();
                std::future::pending::<Result<Bytes, io::Error>>().await
            });
            let body = HttpBody::from_stream(stream::iter([Ok(beginning)]).chain(rest));
            let (service, budgets) = (service.clone(), budgets.clone());
            slow.push(tokio::spawn(async move {
                let mut body = BodyReader::new(body);
                receive(service, budgets, ANN, &mut body).await.map(drop)
            }));
        }
        for _ in 0..2 {
            is_reached.recv().await.expect("what there is of it was read");
        }
        let mut body = BodyReader::new(HttpBody::from(framed(&[b"small"])));
        let reply = receive(service.clone(), budgets, ANN, &mut body);
        let reply = tokio::time::timeout(limits::BUDGET_WAIT / 2, reply).await.expect("it need not wait");
        assert!(reply.expect("commits").outcome.is_some());
        slow.iter().for_each(JoinHandle::abort);
    }

    #[tokio::test]
    async fn what_finds_no_room_is_stored_with_what_comes_later() {
        let (service, store, _) = service();
        let budgets =
            UploadBudgets { heads: Budget::new(limits::HEAD_BYTES_IN_FLIGHT), blocks: Budget::new(BLOCK_SIZE) };
        let blocks: Vec<Vec<u8>> =
            (0..5).map(|i| vec![i; usize::try_from(BLOCK_SIZE).expect("fits") / 2 + 9]).collect();
        let whole = framed(&blocks.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut body = BodyReader::new(HttpBody::from(whole));
        let reply = receive(service.clone(), budgets, ANN, &mut body).await;
        assert!(reply.expect("commits").outcome.is_some());
        assert_eq!(store.list(None, 10).expect("lists").len(), 5);
    }

    #[tokio::test]
    async fn wherever_an_upload_breaks_off_its_whole_blocks_are_kept_and_noted() {
        let three: [&[u8]; 3] = [b"one", b"two", b"three"];
        let whole = [codec::encode_head(&SentHead::Named(head(ANN, &three))), plain(&three)].concat();
        let blocks_at = whole.len() - 11;
        for len in 0..whole.len() {
            let (service, store, meta) = service();
            assert_eq!(send(&service, whole[..len].to_vec()).await.expect_err("broke off").code, ErrorCode::BadRequest);
            let expected = [3, 6].iter().filter(|end| len >= blocks_at + **end).count();
            assert_eq!(store.list(None, 10).expect("lists").len(), expected, "cut at {len}");
            assert_eq!(meta.noted.lock().expect("not poisoned").len(), expected, "cut at {len}");
            assert!(meta.committed.lock().expect("not poisoned").is_empty());
        }
    }

    #[tokio::test]
    async fn what_arrived_of_a_block_is_kept_and_the_next_try_goes_on_behind_it() {
        let unit = model::limits::BEGINNING_BYTES;
        let block: Vec<u8> = (0..2 * unit + 1000).map(|n| (n % 251) as u8).collect();
        let other = vec![9; 100];
        for (cut, kept) in [(unit - 1, 0), (unit, unit), (2 * unit - 1, unit), (2 * unit + 999, 2 * unit)] {
            let (service, store, meta) = service();
            let whole = framed(&[&other, &block]);
            let end = whole.len() - block.len() + cut;
            let error = send(&service, whole[..end].to_vec()).await.expect_err("broke off");
            assert_eq!(error.code, ErrorCode::BadRequest);
            let beginning = BlockHash::of(&block[..kept]);
            let is_noted = meta.noted.lock().expect("not poisoned").contains(&(ANN.account, beginning));
            assert_eq!((is_noted, store.list(None, 10).expect("lists").len()), (kept > 0, 1 + usize::from(kept > 0)));
            if kept == 0 {
                continue;
            }
            let mut script = delta::Writer::default();
            script.copy(0, 0, kept);
            script.insert(&block[kept..]);
            let script = script.finish();
            let mut again = head(ANN, &[&block]);
            let namespace = model::NamespaceId(ANN.account.0);
            again.bases = Some(api::Bases { namespace, blocks: vec![beginning] });
            let frame = Frame { form: Form::Delta, blocks: 1, len: script.len() as u32 };
            let rest = [codec::encode_head(&SentHead::Named(again)), frame.to_bytes().to_vec(), script].concat();
            let reply = send(&service, rest).await.expect("commits");
            assert!(reply.outcome.is_some() && reply.unmade.is_empty());
            assert_eq!(store.get(&BlockHash::of(&block)).expect("reads").as_deref(), Some(block.as_slice()));
        }
    }

    /// Two new files, whose head does not name their blocks; and how long that is.
    fn bundle(blocks: &[&[u8]; 2], sent: &[u8]) -> (Vec<u8>, usize) {
        bundle_as(Form::Plain, blocks, sent)
    }

    fn bundle_as(form: Form, blocks: &[&[u8]; 2], sent: &[u8]) -> (Vec<u8>, usize) {
        let mut whole = head(ANN, blocks);
        let commit = whole.commit.as_mut().expect("there is one");
        let file = |header: &BlockHeader| {
            let body = Body::File {
                blocks: Blocklist(vec![header.hash]),
                size: header.len.into(),
                executable: false,
                mtime: Mtime(0),
            };
            let (node, parent) = (NodeId([header.hash.0[0]; 16]), commit.namespace.root());
            let name = Name::parse(&header.hash.to_string()).expect("legal");
            SentOperation::Whole(Operation::Create { node, parent, name, body })
        };
        commit.operations = whole.blocks.iter().map(file).collect();
        let sent_head = SentHead::of(whole);
        assert!(matches!(sent_head, SentHead::Bundle(_)));
        let sent_head = codec::encode_head(&sent_head);
        let frame = Frame { form, blocks: 2, len: u32::try_from(sent.len()).expect("short") };
        ([sent_head.as_slice(), &frame.to_bytes(), sent].concat(), sent_head.len())
    }

    #[tokio::test]
    async fn blocks_that_are_not_named_are_those_that_the_commit_means() {
        let (service, store, meta) = service();
        let (bytes, _) = bundle(&[b"one", b"three"], b"onethree");
        assert!(send(&service, bytes).await.expect("commits").outcome.is_some());
        let expected = [b"one".as_slice(), b"three"].map(|block| (ANN.account, BlockHash::of(block)));
        assert_eq!(*meta.committed.lock().expect("not poisoned"), expected.into());
        assert_eq!(store.list(None, 10).expect("lists").len(), 2);
        let (bytes, _) = bundle(&[b"one", b"three"], b"onethrEe");
        assert_eq!(send(&service, bytes).await.expect_err("is refused").code, ErrorCode::BadRequest);
        assert_eq!(meta.committed.lock().expect("not poisoned").len(), 2, "what was not meant is not committed");
    }

    #[tokio::test]
    async fn compressed_blocks_that_were_not_named_are_handed_on_as_they_came() {
        let (service, _, _) = service();
        let blocks = [b"the quick brown fox ".repeat(8_000), b"jumps over the lazy dog ".repeat(8_000)];
        let slices = [blocks[0].as_slice(), blocks[1].as_slice()];
        let sent = Compressors::default().compress(Effort::Utmost, &blocks).expect("is worth it");
        assert_ne!(Compressors::default().compress(Effort::Quick, &blocks).as_ref(), Some(&sent), "the server's own");
        let (bytes, _) = bundle_as(Form::Zstd, &slices, &sent);
        assert!(send(&service, bytes).await.expect("commits").outcome.is_some());
        let headers = slices.map(header);
        assert_eq!(service.share_parcel(&headers), 2);
        let head = BlocksHead { blocks: headers.into(), unavailable: Vec::new() };
        let (budget, offer) = (Budget::new(limits::DOWNLOAD_BYTES_IN_FLIGHT), Offer { head, bases: Vec::new() });
        let body = crate::download::body(service.clone(), budget, TaskTracker::new(), offer).await.expect("reads");
        let body = body.collect().await.expect("no error").to_bytes();
        assert!(body.ends_with(&sent));
    }

    #[tokio::test]
    async fn wherever_a_bundle_breaks_off_its_whole_blocks_are_kept_and_noted() {
        let (whole, head_len) = bundle(&[b"one", b"three"], b"onethree");
        for len in 0..whole.len() {
            let (service, store, meta) = service();
            assert_eq!(send(&service, whole[..len].to_vec()).await.expect_err("broke off").code, ErrorCode::BadRequest);
            let expected = usize::from(len >= head_len + Frame::BYTES + 3);
            assert_eq!(store.list(None, 10).expect("lists").len(), expected, "cut at {len}");
            assert_eq!(meta.noted.lock().expect("not poisoned").len(), expected, "cut at {len}");
            assert!(meta.committed.lock().expect("not poisoned").is_empty());
        }
        let (service, _, meta) = service();
        let more = [whole.as_slice(), b"!"].concat();
        assert_eq!(send(&service, more).await.expect_err("is refused").code, ErrorCode::BadRequest);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
        assert_eq!(meta.noted.lock().expect("not poisoned").len(), 2);
    }

    #[tokio::test]
    async fn blocks_without_a_commit_need_no_names_either() {
        let (service, store, meta) = service();
        let blocks = [header(b"one"), header(b"three")].to_vec();
        let sent = SentHead::of(ChangesetHead { blocks, bases: None, commit: None });
        assert!(matches!(sent, SentHead::Nameless(_)));
        let whole = [codec::encode_head(&sent), plain(&[b"one", b"three"])].concat();
        assert_eq!(send(&service, whole).await.expect("is stored").outcome, None);
        assert_eq!(store.list(None, 10).expect("lists").len(), 2);
        assert_eq!(meta.noted.lock().expect("not poisoned").len(), 2);
        let other = [codec::encode_head(&sent), plain(&[b"one", b"thrEe"])].concat();
        assert_eq!(send(&service, other).await.expect_err("is refused").code, ErrorCode::BadRequest);
        let script = Frame { form: Form::Delta, blocks: 1, len: 1 };
        let delta = [codec::encode_head(&sent), script.to_bytes().to_vec(), vec![0]].concat();
        assert_eq!(send(&service, delta).await.expect_err("is refused").code, ErrorCode::BadRequest);
    }

    #[tokio::test]
    async fn bytes_behind_the_last_block_prevent_the_commit() {
        let (service, _, meta) = service();
        let mut bytes = framed(&[b"one"]);
        bytes.push(0);
        assert_eq!(send(&service, bytes).await.expect_err("is refused").code, ErrorCode::BadRequest);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
        assert_eq!(meta.noted.lock().expect("not poisoned").len(), 1);
    }

    #[tokio::test]
    async fn a_wrong_block_in_the_middle_keeps_those_before_it() {
        let (service, store, _) = service();
        let mut bytes = framed(&[b"one", b"two", b"three"]);
        let at = bytes.len() - 12;
        bytes[at] ^= 1;
        assert_eq!(send(&service, bytes).await.expect_err("is refused").code, ErrorCode::BadRequest);
        assert_eq!(store.list(None, 10).expect("lists"), [BlockHash::of(b"one")]);
    }

    #[tokio::test]
    async fn a_head_that_promises_too_much_is_refused_before_it_is_read() {
        let (service, _, _) = service();
        let error = send(&service, u32::MAX.to_le_bytes().to_vec()).await.expect_err("is refused");
        assert_eq!(error.code, ErrorCode::BadRequest);
        let mut promise = head(ANN, &[b"one"]);
        promise.blocks[0].len = u32::MAX;
        let error = send(&service, codec::encode_head(&SentHead::Named(promise))).await.expect_err("is refused");
        assert_eq!(error.code, ErrorCode::BadRequest);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_uploads_blocks_are_stored_before_it_ends() {
        let (service, store, _) = service();
        let bytes = framed(&[b"one", b"two", b"three"]);
        let (at_once, slow) = bytes[..bytes.len() - 1].split_at(bytes.len() - 11 - 3 * Frame::BYTES);
        let pieces = std::iter::once(at_once).chain(slow.chunks(1));
        let pieces: Vec<_> = pieces.map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        let slowly = stream::iter(pieces).then(|piece| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            piece
        });
        let mut body = BodyReader::new(HttpBody::from_stream(slowly.chain(stream::pending())));
        let receiving = receive(service, UploadBudgets::default(), ANN, &mut body);
        tokio::select! {
            _ = receiving => panic!("the last byte never came"),
            () = tokio::time::sleep(Duration::from_secs(15)) => {}
        }
        assert_eq!(store.list(None, 10).expect("lists").len(), 2);
    }
}
