//! Blocks on their way down, into temporary files.

use super::resume::{Claim, Places};
use super::stall::Progress;
use super::{Transport, TransportError, Way};
use api::{BlockHeader, BlocksHead, BlocksRequest, DecodeError, codec};
use bytes::{Buf, Bytes, BytesMut};
use delta::Script;
use local_files::fs::{Fs, temp_path};
use local_files::hashed::HashedFiles;
use local_files::room::Room;
use local_files::temps::{self, Turns};
use model::{BlockHash, NamespaceId, limits};
use parcels::{Form, Frame, Opened, ParcelError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use sync_engine::io::{BlockSource, BlockTarget, FetchBlock, LocalPath, Reply, StepError};
use tokio::sync::mpsc;

/// Plain bytes of received blocks that go to the disk as one batch, so that small blocks cost few hand-overs.
const WRITE_BATCH: usize = 1024 * 1024;
/// Batches that wait for the disk.
const WRITE_QUEUE: usize = 4;
/// Bytes of a large block that go to the disk while the rest of it is on its way: what is there when a download
/// breaks off need not come again.
const PIECE_BYTES: usize = 2 * limits::BEGINNING_BYTES;
/// Whole blocks whose pieces stay in memory until they are hashed, side by side.
const HASHED_TOGETHER: usize = 2;
/// Bases that stay in memory for the next delta.
const BASES_KEPT: usize = 2;

/// The synced folder as uploads and downloads see it. The calls block.
pub trait BlockFiles: Send + Sync + 'static {
    /// The bytes of each block, each checked against its hash, or from a file that nobody seems to have touched since it
    /// was hashed.
    ///
    /// # Errors
    /// The blocks that no longer read as their hashes say.
    fn read(&self, blocks: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>>;

    /// Bytes of a file as they are now, for comparison: fewer at its end, none when it cannot be read.
    fn read_stretch(&self, path: &LocalPath, offset: u64, len: usize) -> Vec<u8>;

    /// Writes bytes of a block to all its targets, behind the block's first `offset` bytes. They were checked,
    /// or the block does not count before they are.
    ///
    /// # Errors
    /// [`StepError`], as the engine hears it.
    fn write(&self, block: &FetchBlock, offset: u64, bytes: &[u8]) -> Result<(), StepError>;

    /// The same for many calls one after the other; `None` where that makes no difference. See [`Fs::held`].
    fn held(&self) -> Option<Arc<dyn BlockFiles>> {
        None
    }
}

/// A synced folder, for uploads and downloads.
pub struct FolderBlocks {
    fs: Arc<dyn Fs>,
    hashed: Arc<HashedFiles>,
    turns: Arc<Turns>,
    room: Arc<Room>,
}

impl FolderBlocks {
    /// Of these files. `hashed`: those whose blocks need not be hashed again.
    pub fn new(fs: Arc<dyn Fs>, hashed: Arc<HashedFiles>) -> Self {
        Self { fs, hashed, turns: Arc::default(), room: Arc::default() }
    }
}

impl BlockFiles for FolderBlocks {
    fn read(&self, blocks: &[BlockSource]) -> Result<Vec<Vec<u8>>, Vec<BlockHash>> {
        temps::read_blocks(&*self.fs, blocks, &self.hashed)
    }

    fn read_stretch(&self, path: &LocalPath, offset: u64, len: usize) -> Vec<u8> {
        temps::read_stretch(&*self.fs, path, offset, len)
    }

    fn write(&self, block: &FetchBlock, offset: u64, bytes: &[u8]) -> Result<(), StepError> {
        // Half a block would take the room of something smaller.
        let rest = u64::from(block.len).saturating_sub(offset) * block.to.len() as u64;
        if !self.room.has(&*self.fs, rest) {
            return Err(StepError::NoSpace);
        }
        let behind = |target: &BlockTarget| BlockTarget { temp: target.temp.clone(), offset: target.offset + offset };
        block.to.iter().try_for_each(|target| temps::write_block(&*self.fs, &behind(target), bytes, &self.turns))
    }

    fn held(&self) -> Option<Arc<dyn BlockFiles>> {
        let fs = self.fs.held()?;
        let (hashed, turns, room) = (Arc::clone(&self.hashed), Arc::clone(&self.turns), Arc::clone(&self.room));
        Some(Arc::new(Self { fs, hashed, turns, room }))
    }
}

impl Transport {
    /// `blocks` or `prefetch`: downloads blocks. What arrived before a failure has not been for nothing.
    pub(super) async fn fetch(
        &self,
        call: &'static str,
        namespace: NamespaceId,
        wanted: Vec<FetchBlock>,
        bases: Vec<BlockSource>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Reply, TransportError> {
        let with_deltas = self.thrift().delta;
        let mut bases = if with_deltas { bases } else { Vec::new() };
        if with_deltas {
            bases.extend(self.interrupted.take_beginnings(wanted.iter().map(|block| &block.hash)));
            bases.truncate(limits::BASES_PER_REQUEST);
        }
        let wanted: BTreeMap<BlockHash, FetchBlock> = wanted.into_iter().map(|block| (block.hash, block)).collect();
        let along = self.write_along(&wanted, &bases, &files).await?;
        let wanted: BTreeMap<BlockHash, FetchBlock> =
            wanted.into_iter().filter(|(hash, _)| !along.blocks.contains(hash)).collect();
        if wanted.is_empty() || along.is_broken() {
            return conclude(Ok(Vec::new()), along);
        }
        let (received, written) = self.fetch_once(call, namespace, wanted.clone(), bases, files.clone()).await?;
        let mut written = along.and(written);
        let unmade = mem::take(&mut written.unmade);
        if received.is_err() || written.is_broken() || unmade.is_empty() {
            return conclude(received, written);
        }
        // The disk no longer has what deltas copy from: then the blocks come without them.
        let rest = wanted.into_iter().filter(|(hash, _)| unmade.contains(hash)).collect();
        let (again, more) = self.fetch_once(call, namespace, rest, Vec::new(), files).await?;
        let unavailable = received.and_then(|mut first| {
            first.extend(again?);
            Ok(first)
        });
        conclude(unavailable, written.and(more))
    }

    async fn fetch_once(
        &self,
        call: &'static str,
        namespace: NamespaceId,
        wanted: BTreeMap<BlockHash, FetchBlock>,
        bases: Vec<BlockSource>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<(Result<Vec<BlockHash>, TransportError>, Written), TransportError> {
        let request = BlocksRequest {
            namespace,
            blocks: wanted.keys().copied().collect(),
            bases: bases.iter().map(|base| base.hash).collect(),
        };
        let wanted = Arc::new(wanted);
        let (sender, receiver) = mpsc::channel(WRITE_QUEUE);
        let writer = {
            let writer = Writer::new(Arc::clone(&wanted), bases, files, Arc::clone(&self.places));
            tokio::spawn(writer.run(self.way.clone(), receiver))
        };
        let progress = self.progress();
        let received = progress
            .watch(async {
                let response = self.post(call, api::encode(&request).into()).await?;
                progress.touch();
                self.receive(response, &wanted, &sender, &progress).await
            })
            .await;
        drop(sender);
        let stopped = |_| TransportError::Unreachable("the download was stopped".into());
        let mut written = writer.await.map_err(stopped)??;
        if let Some((block, beginning)) = written.begun.take() {
            self.interrupted.download_broke_off(block, beginning);
        }
        Ok((received, written))
    }

    /// Takes parcels from a reply and hands them to the writer. Gives what the server does not hand out.
    async fn receive(
        &self,
        response: reqwest::Response,
        wanted: &BTreeMap<BlockHash, FetchBlock>,
        sender: &mpsc::Sender<Vec<Arrival>>,
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
        BlocksError::Decode(_) | BlocksError::Parcel(_) | BlocksError::Unasked => {
            TransportError::NotSyncline(error.to_string())
        }
    }
}

/// What goes to the writer.
#[derive(Debug)]
enum Arrival {
    Parcel(Received),
    Piece(Piece),
}

/// A part of a large block that comes as it is.
#[derive(Debug)]
struct Piece {
    block: BlockHeader,
    offset: u32,
    bytes: Bytes,
}

/// A parcel that arrived, not yet opened.
#[derive(Debug)]
struct Received {
    headers: Vec<BlockHeader>,
    form: Form,
    bytes: Bytes,
}

/// What goes to the writer together.
#[derive(Debug, Default)]
struct Batch {
    arrivals: Vec<Arrival>,
    bytes: usize,
}

impl Batch {
    /// Takes all parcels and pieces that are complete.
    fn fill(&mut self, decoder: &mut Decoder, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<(), BlocksError> {
        while let Some(arrival) = decoder.next_arrival(wanted)? {
            self.bytes += match &arrival {
                Arrival::Parcel(parcel) => parcel.headers.iter().map(|header| header.len as usize).sum(),
                // It is on the disk at once.
                Arrival::Piece(_) => WRITE_BATCH,
            };
            self.arrivals.push(arrival);
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Arrival> {
        self.bytes = 0;
        mem::take(&mut self.arrivals)
    }
}

/// What became of the blocks that arrived.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) blocks: Vec<BlockHash>,
    /// Their deltas led elsewhere.
    unmade: BTreeSet<BlockHash>,
    pub(super) disk: Option<StepError>,
    damaged: Option<BlockHash>,
    /// A block of which only the beginning came, and where that is.
    begun: Option<(BlockHash, BlockSource)>,
}

impl Written {
    const fn is_broken(&self) -> bool {
        self.disk.is_some() || self.damaged.is_some()
    }

    /// Blocks that could not be made are wanted as before, and so is one that was damaged.
    pub(super) fn forget_unmade(&mut self) {
        self.unmade.clear();
        self.damaged = None;
    }

    /// Together with what became of further blocks.
    fn and(mut self, more: Self) -> Self {
        self.blocks.extend(more.blocks);
        Self { blocks: self.blocks, ..more }
    }
}

/// Opens, checks and writes blocks.
pub(super) struct Writer {
    wanted: Arc<BTreeMap<BlockHash, FetchBlock>>,
    /// What deltas copy from.
    bases: Vec<BlockSource>,
    files: Arc<dyn BlockFiles>,
    /// Bases that were read, the newest last: the next delta most likely copies from them too.
    read: VecDeque<(BlockHash, Vec<u8>)>,
    /// The block that comes in pieces.
    open: Option<OpenBlock>,
    /// Those that came so and are written, but not hashed yet.
    unnamed: Vec<OpenBlock>,
    /// Who may write pieces where.
    places: Arc<Places>,
    /// Another download has taken over the place of the block that comes in pieces.
    overtaken: bool,
}

/// A block of which the first pieces are written, or all of them.
struct OpenBlock {
    /// What it is to be.
    hash: BlockHash,
    pieces: Vec<Bytes>,
    claims: Vec<Claim>,
}

impl OpenBlock {
    fn slices(&self) -> Vec<&[u8]> {
        self.pieces.iter().map(|piece| &**piece).collect()
    }
}

impl Writer {
    pub(super) const fn new(
        wanted: Arc<BTreeMap<BlockHash, FetchBlock>>,
        bases: Vec<BlockSource>,
        files: Arc<dyn BlockFiles>,
        places: Arc<Places>,
    ) -> Self {
        Self { wanted, bases, files, read: VecDeque::new(), open: None, unnamed: Vec::new(), places, overtaken: false }
    }

    /// A parcel that came by itself, with what its delta copies from.
    pub(super) fn take_parcel(
        &mut self,
        block: BlockHeader,
        form: Form,
        bases: Vec<BlockSource>,
        bytes: Bytes,
        written: &mut Written,
    ) {
        self.bases = bases;
        self.take(Received { headers: vec![block], form, bytes }, written);
    }

    /// Goes on until the channel ends, the disk fails, or a block is not what it says.
    async fn run(mut self, way: Way, mut receiver: mpsc::Receiver<Vec<Arrival>>) -> Result<Written, TransportError> {
        let mut written = Written::default();
        while let Some(batch) = receiver.recv().await {
            (self, written) = way.blocking(move || self.take_all(batch, written)).await?;
            if written.is_broken() || self.overtaken {
                break;
            }
        }
        way.blocking(move || self.finish(written)).await
    }

    fn finish(mut self, mut written: Written) -> Written {
        self.name_blocks(&mut written);
        if !written.is_broken() && !self.overtaken {
            written.begun = self.open.take().and_then(|open| self.beginning(open));
        }
        written
    }

    fn take_all(mut self, batch: Vec<Arrival>, mut written: Written) -> (Self, Written) {
        for arrival in batch {
            match arrival {
                Arrival::Parcel(parcel) => self.take(parcel, &mut written),
                Arrival::Piece(piece) => self.take_piece(&piece, &mut written),
            }
            if written.is_broken() || self.overtaken {
                break;
            }
        }
        (self, written)
    }

    fn take_piece(&mut self, piece: &Piece, written: &mut Written) {
        let Piece { block: header, offset, bytes } = piece;
        let Some(block) = self.wanted.get(&header.hash).cloned() else { return };
        let mut open = match self.open.take().filter(|open| *offset > 0 && open.hash == header.hash) {
            Some(open) => open,
            None => OpenBlock { hash: header.hash, pieces: Vec::new(), claims: self.places.claim(&block) },
        };
        open.pieces.push(bytes.clone());
        let Some(result) = hold_all(&open.claims, &|| self.files.write(&block, u64::from(*offset), bytes)) else {
            // Another download of this block is under way, and what comes here is of no use.
            return self.overtaken = true;
        };
        if let Err(error) = result {
            return written.disk = Some(error);
        }
        if *offset as usize + bytes.len() < header.len as usize {
            self.open = Some(open);
            return;
        }
        self.unnamed.push(open);
        if self.unnamed.len() >= HASHED_TOGETHER {
            self.name_blocks(written);
        }
    }

    /// Whether the blocks that came in pieces are what they are to be.
    fn name_blocks(&mut self, written: &mut Written) {
        let blocks = mem::take(&mut self.unnamed);
        let hashes = BlockHash::of_pieces(&blocks.iter().map(OpenBlock::slices).collect::<Vec<_>>());
        for (block, hash) in blocks.into_iter().zip(hashes) {
            self.places.release(block.claims);
            if block.hash == hash {
                written.blocks.push(hash);
            } else {
                written.damaged = Some(block.hash);
            }
        }
    }

    /// What the next try may go on behind.
    fn beginning(&self, mut open: OpenBlock) -> Option<(BlockHash, BlockSource)> {
        self.places.release(mem::take(&mut open.claims));
        let target = self.wanted.get(&open.hash)?.to.first()?;
        let hash = BlockHash::of_pieces(&[open.slices()]).pop()?;
        let len = u32::try_from(open.pieces.iter().map(Bytes::len).sum::<usize>()).ok()?;
        let path = temp_path(&target.temp).ok()?;
        Some((open.hash, BlockSource { hash, len, path, offset: target.offset }))
    }

    fn take(&mut self, parcel: Received, written: &mut Written) {
        let Received { headers, form, bytes } = parcel;
        let blocks = match parcels::open(form, &headers, bytes) {
            Ok(Opened::Blocks(blocks)) => blocks,
            Ok(Opened::Script(script)) => match headers.first().and_then(|header| self.make(header, &script)) {
                Some(block) => vec![block],
                None => return written.unmade.extend(headers.first().map(|header| header.hash)),
            },
            Err(_) => return written.damaged = headers.first().map(|header| header.hash),
        };
        // A block that was made of a delta has been compared already.
        let hashes = match form {
            Form::Delta => headers.iter().map(|header| header.hash).collect(),
            Form::Plain | Form::Zstd => BlockHash::of_each(&blocks.iter().map(|bytes| &**bytes).collect::<Vec<_>>()),
        };
        let (named, damaged) = match headers.iter().zip(&hashes).position(|(header, hash)| header.hash != *hash) {
            Some(wrong) => (wrong, headers.get(wrong)),
            None => (headers.len(), None),
        };
        self.write_named(headers.iter().copied().zip(blocks).take(named).collect(), written);
        if written.disk.is_none() {
            written.damaged = damaged.map(|header| header.hash);
        }
    }

    /// Writes blocks that are what their names say.
    pub(super) fn write_named(&self, blocks: Vec<(BlockHeader, Bytes)>, written: &mut Written) {
        let held = (blocks.len() > 1).then(|| self.files.held()).flatten();
        let files = held.as_ref().unwrap_or(&self.files);
        for (header, bytes) in blocks {
            let Some(target) = self.wanted.get(&header.hash) else { continue };
            let claims = if bytes.len() > PIECE_BYTES { self.places.claim(target) } else { Vec::new() };
            let result = files.write(target, 0, &bytes);
            self.places.release(claims);
            if let Err(error) = result {
                return written.disk = Some(error);
            }
            written.blocks.push(header.hash);
        }
    }

    /// The block that a delta leads to, if it is the right one.
    fn make(&mut self, header: &BlockHeader, script: &[u8]) -> Option<Bytes> {
        let script = Script::parse(script, header.len as usize).ok()?;
        let needed = script.bases();
        if needed.len() > limits::BASES_PER_BLOCK {
            return None;
        }
        // Nothing is read, and kept, for a script that names a base that is not here.
        let needed: Vec<&BlockSource> = needed.iter().map(|number| self.bases.get(*number)).collect::<Option<_>>()?;
        for base in needed {
            if !self.read.iter().any(|(read, _)| *read == base.hash) {
                let bytes = self.files.read_stretch(&base.path, base.offset, base.len as usize);
                self.read.push_back((base.hash, bytes));
            }
        }
        let base = |number: usize| {
            let hash = self.bases.get(number)?.hash;
            self.read.iter().find(|(read, _)| *read == hash).map(|(_, bytes)| bytes.as_slice())
        };
        let made = script.apply(base).ok();
        while self.read.len() > BASES_KEPT {
            self.read.pop_front();
        }
        made.filter(|made| BlockHash::of(made) == header.hash).map(Bytes::from)
    }
}

/// Does something by right of all claims, if all of them hold.
fn hold_all<T>(claims: &[Claim], act: &dyn Fn() -> T) -> Option<T> {
    match claims {
        [] => Some(act()),
        [first, rest @ ..] => first.holds(|| hold_all(rest, act)).flatten(),
    }
}

/// A download's result: an error only when nothing at all came of it.
fn conclude(received: Result<Vec<BlockHash>, TransportError>, written: Written) -> Result<Reply, TransportError> {
    let Written { blocks, disk, damaged, .. } = written;
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
    #[error(transparent)]
    Parcel(#[from] ParcelError),
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
    /// The block that is handed on in pieces, and how much of it was.
    open: Option<(BlockHeader, u32)>,
}

impl Decoder {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next parcel or piece that is complete; `None`: more bytes are needed.
    fn next_arrival(&mut self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<Option<Arrival>, BlocksError> {
        if self.open.is_some() {
            return Ok(self.next_piece().map(Arrival::Piece));
        }
        if self.head.is_none() {
            self.read_head(wanted)?;
        }
        let Some(outstanding) = self.head.as_ref().and_then(|head| head.blocks.get(self.next..)) else {
            return Ok(None);
        };
        let Some(frame) = self.buffer.first_chunk::<{ Frame::BYTES }>().filter(|_| !outstanding.is_empty()) else {
            return Ok(None);
        };
        let (frame, _) = Frame::parse(*frame, outstanding)?;
        if frame.form == Form::Plain && frame.blocks == 1 && frame.len as usize > PIECE_BYTES {
            self.open = outstanding.first().map(|header| (*header, 0));
            self.buffer.advance(Frame::BYTES);
            return Ok(self.next_piece().map(Arrival::Piece));
        }
        let whole = Frame::BYTES + frame.len as usize;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let headers = outstanding[..frame.blocks.into()].to_vec();
        self.next += headers.len();
        self.buffer.advance(Frame::BYTES);
        let bytes = self.buffer.split_to(frame.len as usize).freeze();
        Ok(Some(Arrival::Parcel(Received { headers, form: frame.form, bytes })))
    }

    fn next_piece(&mut self) -> Option<Piece> {
        let (block, offset) = self.open?;
        let len = PIECE_BYTES.min((block.len - offset) as usize);
        if self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            return None;
        }
        let bytes = self.buffer.split_to(len).freeze();
        let end = offset + u32::try_from(len).unwrap_or(u32::MAX);
        self.open = (end < block.len).then_some((block, end));
        self.next += usize::from(self.open.is_none());
        Some(Piece { block, offset, bytes })
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
        // A shorter one is damaged, which the server finds when it reads it. It must not keep the others from coming.
        let asked = |header: &BlockHeader| wanted.get(&header.hash).is_some_and(|block| header.len <= block.len);
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
        let frame = |bytes: &&[u8]| Frame { form: Form::Plain, blocks: 1, len: bytes.len() as u32 }.to_bytes();
        let parcels = contents.iter().flat_map(|bytes| [frame(bytes).to_vec(), bytes.to_vec()].concat());
        codec::encode_head(&head).into_iter().chain(parcels).collect()
    }

    fn decode(pieces: &[&[u8]], wanted: &BTreeMap<BlockHash, FetchBlock>) -> Result<Vec<Bytes>, BlocksError> {
        let mut decoder = Decoder::default();
        let mut blocks = Vec::new();
        let mut begun = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(arrival) = decoder.next_arrival(wanted)? {
                match arrival {
                    Arrival::Parcel(parcel) => {
                        assert_eq!(BlockHash::of(&parcel.bytes), parcel.headers[0].hash);
                        blocks.push(parcel.bytes);
                    }
                    Arrival::Piece(piece) => {
                        assert_eq!(piece.offset as usize, begun.len());
                        begun.extend_from_slice(&piece.bytes);
                        if begun.len() == piece.block.len as usize {
                            assert_eq!(BlockHash::of(&begun), piece.block.hash);
                            blocks.push(mem::take(&mut begun).into());
                        }
                    }
                }
            }
        }
        decoder.finish().map(|_| blocks)
    }

    #[test]
    fn a_large_block_comes_in_pieces() {
        for len in [PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES - 1] {
            let large: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let contents: [&[u8]; 3] = [b"before", &large, b"behind"];
            let (wanted, body) = (wanted(&contents), body(&contents));
            let pieces: Vec<&[u8]> = body.chunks(100_000).collect();
            let expected: Vec<Bytes> = contents.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
            assert_eq!(decode(&pieces, &wanted), Ok(expected));
            assert_eq!(decode(&pieces[..pieces.len() - 1], &wanted), Err(BlocksError::BrokeOff));
        }
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

    /// The head counted as one that no server sends, for all that was asked for together with a truncated block.
    #[test]
    fn a_block_that_is_shorter_on_the_server_keeps_no_other_from_coming() {
        let body = body(&[b"one", b"other"]);
        let wanted = |extra: [u32; 2]| {
            let mut wanted = wanted(&[b"one", b"other"]);
            wanted.values_mut().zip(extra).for_each(|(block, extra)| block.len = block.len + extra - 1);
            wanted
        };
        assert!(decode(&[&body], &wanted([1, 2])).is_ok());
        assert_eq!(decode(&[&body], &wanted([0, 1])), Err(BlocksError::Unasked), "a longer one has no room");
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
