//! Blocks on their way: uploads from local files, downloads into temporary files.

use super::stall::Progress;
use super::{Transport, TransportError};
use api::{BlockHeader, BlocksHead, BlocksRequest, ChangesetHead, ChangesetReply, DecodeError, codec};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use model::{BlockHash, Commit, NamespaceId, limits};
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use sync_engine::io::{BlockSource, FetchBlock, Reply, StepError};
use tokio::sync::mpsc;

/// Bytes of an upload that the bandwidth limit handles as one.
const UPLOAD_PIECE: usize = 64 * 1024;
/// Bytes of received blocks that go to the disk as one batch, so that small blocks cost few hand-overs.
const WRITE_BATCH: usize = 1024 * 1024;
/// Batches that wait for the disk.
const WRITE_QUEUE: usize = 4;

/// The synced folder as uploads and downloads see it. The calls block.
pub trait BlockFiles: Send + Sync + 'static {
    /// The bytes of each block, each checked against its hash.
    ///
    /// # Errors
    /// The blocks that no longer read as their hashes say.
    fn read(&self, blocks: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>>;

    /// Writes a block to all its targets. The bytes were checked.
    ///
    /// # Errors
    /// [`StepError`], as the engine hears it.
    fn write(&self, block: &FetchBlock, bytes: &[u8]) -> Result<(), StepError>;
}

impl Transport {
    /// `changeset`: blocks from local files, and the commit that names them.
    pub(super) async fn changeset(
        &self,
        blocks: Vec<BlockSource>,
        commit: Option<Commit>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let headers = blocks.iter().map(|block| BlockHeader { hash: block.hash, len: block.len }).collect();
        let read = blocking(move || files.read(&blocks)).await?;
        let contents = match read {
            Ok(contents) => contents,
            Err(blocks) => return Ok(Reply::SourceChanged { blocks }),
        };
        let head = codec::encode_head(&ChangesetHead { blocks: headers, commit });
        let pieces: Vec<Bytes> = std::iter::once(head).chain(contents).map(Bytes::from).collect();
        let progress = Arc::new(Progress::start());
        let body = self.paced_body(pieces, &progress);
        let reply: ChangesetReply = progress
            .watch(async {
                let response = self.post("changeset", body).await?;
                progress.touch();
                self.message(response, &progress).await
            })
            .await?;
        Ok(Reply::Changeset { outcome: reply.outcome })
    }

    /// A body that flows at the pace of the upload limit.
    fn paced_body(&self, pieces: Vec<Bytes>, progress: &Arc<Progress>) -> reqwest::Body {
        let (bandwidth, progress) = (Arc::clone(&self.bandwidth), Arc::clone(progress));
        let pieces = pieces.into_iter().flat_map(|mut bytes| {
            std::iter::from_fn(move || (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(UPLOAD_PIECE))))
        });
        reqwest::Body::wrap_stream(stream::unfold(
            (pieces, bandwidth, progress),
            |(mut pieces, bandwidth, progress)| async {
                let piece = pieces.next()?;
                {
                    let _waiting = progress.pause();
                    bandwidth.upload.take(piece.len()).await;
                }
                Some((Ok::<_, std::io::Error>(piece), (pieces, bandwidth, progress)))
            },
        ))
    }

    /// `blocks` or `prefetch`: downloads blocks. What arrived before a failure has not been for nothing.
    pub(super) async fn fetch(
        &self,
        call: &'static str,
        namespace: NamespaceId,
        wanted: Vec<FetchBlock>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let hashes = wanted.iter().map(|block| block.hash).collect();
        let request = api::encode(&BlocksRequest { namespace, blocks: hashes });
        let wanted: Arc<BTreeMap<BlockHash, FetchBlock>> =
            Arc::new(wanted.into_iter().map(|block| (block.hash, block)).collect());
        let (sender, receiver) = mpsc::channel(WRITE_QUEUE);
        let writer = {
            let wanted = Arc::clone(&wanted);
            tokio::task::spawn_blocking(move || write_blocks(receiver, &wanted, files.as_ref()))
        };
        let progress = Progress::start();
        let received = progress
            .watch(async {
                let response = self.post(call, request.into()).await?;
                progress.touch();
                self.receive(response, &wanted, &sender, &progress).await
            })
            .await;
        drop(sender);
        let written = writer.await.map_err(|_| TransportError::Unreachable("the download was stopped".into()))?;
        conclude(received, written)
    }

    /// Takes blocks from a reply and hands them to the writer. Gives what the server does not hand out.
    async fn receive(
        &self,
        response: reqwest::Response,
        wanted: &BTreeMap<BlockHash, FetchBlock>,
        sender: &mpsc::Sender<Vec<Received>>,
        progress: &Progress,
    ) -> Result<Vec<BlockHash>, TransportError> {
        let mut response = self.accept(response, progress).await?;
        let mut decoder = Decoder::default();
        let mut batch = Batch::default();
        let received = loop {
            match self.piece(&mut response, progress).await {
                Ok(Some(piece)) => decoder.push(&piece),
                Ok(None) => break decoder.finish().map_err(malformed),
                Err(error) => break Err(error),
            }
            if let Err(error) = batch.fill(&mut decoder, wanted) {
                break Err(malformed(error));
            }
            if batch.bytes >= WRITE_BATCH {
                let _waiting = progress.pause();
                if sender.send(batch.take()).await.is_err() {
                    // The writer gave up, and knows why.
                    return Ok(Vec::new());
                }
            }
        };
        // An error here only means that the writer gave up; it knows why.
        drop(sender.send(batch.take()).await);
        received
    }
}

fn malformed(error: BlocksError) -> TransportError {
    match error {
        BlocksError::BrokeOff => TransportError::Unreachable(error.to_string()),
        BlocksError::Decode(_) | BlocksError::Unasked => TransportError::NotSyncline(error.to_string()),
    }
}

/// A block that arrived, not yet checked.
#[derive(Debug)]
struct Received {
    hash: BlockHash,
    bytes: Bytes,
}

/// Blocks that go to the writer together.
#[derive(Debug, Default)]
struct Batch {
    blocks: Vec<Received>,
    bytes: usize,
}

impl Batch {
    /// Takes all blocks that are complete.
    fn fill(&mut self, decoder: &mut Decoder, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<(), BlocksError> {
        while let Some(block) = decoder.next_block(wanted)? {
            self.bytes += block.bytes.len();
            self.blocks.push(block);
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Received> {
        self.bytes = 0;
        mem::take(&mut self.blocks)
    }
}

/// What became of the blocks that arrived.
#[derive(Debug, Default)]
struct Written {
    blocks: Vec<BlockHash>,
    disk: Option<StepError>,
    damaged: Option<BlockHash>,
}

/// Checks and writes blocks until the channel ends, the disk fails, or a block is not what it says.
fn write_blocks(
    mut receiver: mpsc::Receiver<Vec<Received>>,
    wanted: &BTreeMap<BlockHash, FetchBlock>,
    files: &dyn BlockFiles,
) -> Written {
    let mut written = Written::default();
    while let Some(batch) = receiver.blocking_recv() {
        for block in batch {
            if BlockHash::of(&block.bytes) != block.hash {
                written.damaged = Some(block.hash);
                return written;
            }
            let Some(target) = wanted.get(&block.hash) else { continue };
            if let Err(error) = files.write(target, &block.bytes) {
                written.disk = Some(error);
                return written;
            }
            written.blocks.push(block.hash);
        }
    }
    written
}

/// A download's result: an error only when nothing at all came of it.
fn conclude(received: Result<Vec<BlockHash>, TransportError>, written: Written) -> Result<Reply, TransportError> {
    let Written { blocks, disk, damaged } = written;
    match (received, damaged) {
        (Err(error), _) if blocks.is_empty() && disk.is_none() => Err(error),
        (_, Some(hash)) if blocks.is_empty() => {
            Err(TransportError::Unreachable(format!("block {hash} was damaged on the way")))
        }
        (received, _) => Ok(Reply::Fetched { written: blocks, unavailable: received.unwrap_or_default(), disk }),
    }
}

/// Why a body of blocks cannot be used further.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BlocksError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("it sent a block that was not asked for")]
    Unasked,
    #[error("the answer broke off")]
    BrokeOff,
}

/// Cuts a stream of bytes into the blocks that its head announces.
#[derive(Debug, Default)]
struct Decoder {
    buffer: BytesMut,
    head: Option<BlocksHead>,
    next: usize,
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next block that is complete; `None`: more bytes are needed.
    fn next_block(&mut self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<Option<Received>, BlocksError> {
        if self.head.is_none() {
            self.read_head(wanted)?;
        }
        let Some(header) = self.head.as_ref().and_then(|head| head.blocks.get(self.next)) else { return Ok(None) };
        let len = usize::try_from(header.len).map_err(|_| DecodeError::BlockTooLong)?;
        if self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(Received { hash: header.hash, bytes: self.buffer.split_to(len).freeze() }))
    }

    /// Reads the head if it is all there, and checks its promises before memory is spent on them.
    fn read_head(&mut self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<(), BlocksError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(()) };
        let len = codec::head_len(*prefix)?;
        if self.buffer.len() < 4 + len {
            return Ok(());
        }
        self.buffer.advance(4);
        let head: BlocksHead = codec::decode(&self.buffer.split_to(len))?;
        codec::check_headers(&head.blocks)?;
        let asked = |header: &BlockHeader| wanted.get(&header.hash).is_some_and(|block| block.len == header.len);
        if head.unavailable.len() > limits::BLOCKS_PER_REQUEST || !head.blocks.iter().all(asked) {
            return Err(BlocksError::Unasked);
        }
        self.head = Some(head);
        Ok(())
    }

    /// At the end of the body: what the server does not hand out.
    fn finish(self) -> Result<Vec<BlockHash>, BlocksError> {
        match self.head {
            Some(head) if self.next == head.blocks.len() => Ok(head.unavailable),
            _ => Err(BlocksError::BrokeOff),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TransportError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| TransportError::Unreachable("the transfer was stopped".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(contents: &[&[u8]]) -> BTreeMap<BlockHash, FetchBlock> {
        let block = |bytes: &&[u8]| FetchBlock { hash: BlockHash::of(bytes), len: bytes.len() as u32, to: Vec::new() };
        contents.iter().map(block).map(|block| (block.hash, block)).collect()
    }

    fn body(contents: &[&[u8]]) -> Vec<u8> {
        let header = |bytes: &&[u8]| BlockHeader { hash: BlockHash::of(bytes), len: bytes.len() as u32 };
        let head = BlocksHead { blocks: contents.iter().map(header).collect(), unavailable: vec![BlockHash([9; 32])] };
        [codec::encode_head(&head), contents.concat()].concat()
    }

    fn decode(pieces: &[&[u8]], wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<Vec<Bytes>, BlocksError> {
        let mut decoder = Decoder::default();
        let mut blocks = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(block) = decoder.next_block(wanted)? {
                assert_eq!(BlockHash::of(&block.bytes), block.hash);
                blocks.push(block.bytes);
            }
        }
        decoder.finish().map(|_| blocks)
    }

    #[test]
    fn a_body_that_breaks_off_is_told_from_one_that_ends() {
        let contents: [&[u8]; 2] = [b"one", b"other"];
        let (wanted, body) = (wanted(&contents), body(&contents));
        assert!(decode(&[&body], &wanted).is_ok());
        assert_eq!(decode(&[&body[..body.len() - 1]], &wanted), Err(BlocksError::BrokeOff));
        assert_eq!(decode(&[], &wanted), Err(BlocksError::BrokeOff));
    }

    #[test]
    fn a_block_that_was_not_asked_for_is_refused() {
        let body = body(&[b"one", b"other"]);
        assert_eq!(decode(&[&body], &wanted(&[b"one"])), Err(BlocksError::Unasked));
    }

    proptest! {
        #[test]
        fn blocks_come_out_whole_however_the_bytes_are_cut(cuts in proptest::collection::vec(1_usize..40, 0..40)) {
            let contents: [&[u8]; 3] = [b"first block", b"2", b"the third and last"];
            let (wanted, body) = (wanted(&contents), body(&contents));
            let mut rest = body.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(decode(&pieces, &wanted)?, contents.map(Bytes::from_static));
        }

        #[test]
        fn hostile_bytes_are_an_error_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&[&bytes], &wanted(&[b"one"])));
        }
    }
}
