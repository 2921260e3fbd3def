//! What new blocks have in common with the version that the server has.
//!
//! The old bytes are gone from this disk when a file has been edited in place, so what is known of them
//! comes from two sides. A block that only grew is found without asking: its beginning still has the old
//! block's hash. For anything else the server sums up the old blocks, first in large chunks, then in small
//! ones where the large ones differ. The new version is searched as one stretch, so that what moved from one
//! block into the next is found as well.

use super::blocks::BlockFiles;
use super::{Transport, TransportError};
use api::{Bases, Stretch, SumsReply, SumsRequest};
use bytes::Bytes;
use delta::{ChunkSum, Chunks, Gap, Match, Span, Writer, gaps, sums_from_bytes};
use model::{BLOCK_SIZE, BlockHash, NamespaceId, limits};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use sync_engine::io::{BlockSource, Former, LocalPath};

/// Runs shorter than this, in bytes, are sent faster than compared by sums.
const SUMS_WORTH: usize = 8 * 1024;
/// A script is sent if it is at most this part of its block.
const SCRIPT_PART: usize = 2;
/// The large chunks are this part of the old bytes,
const COARSE_PART: usize = 128;
/// but never outside these bounds, in bytes.
const COARSE: Range<usize> = 2 * 1024..128 * 1024;
/// Bytes of gaps, old and new, beyond which small chunks would cost too much.
const GAP_BYTES: usize = 16 * 1024 * 1024;
/// Sums that are kept: half a megabyte.
const KEPT_SUMS: usize = 65_536;

/// The scripts that were found, over common bases.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    pub(super) bases: Option<Bases>,
    pub(super) scripts: BTreeMap<BlockHash, Bytes>,
}

/// Sums that a server has told. The next blocks of a file have most of their bases in common with these.
#[derive(Debug, Default)]
pub(super) struct KnownSums(Mutex<BTreeMap<(Stretch, u32), Vec<ChunkSum>>>);

impl KnownSums {
    fn get(&self, stretch: Stretch, chunk: u32) -> Option<Vec<ChunkSum>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(stretch, chunk)).cloned()
    }

    fn keep(&self, stretch: Stretch, chunk: u32, sums: Vec<ChunkSum>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.values().map(Vec::len).sum::<usize>() + sums.len() > KEPT_SUMS {
            known.clear();
        }
        known.insert((stretch, chunk), sums);
    }
}

/// New bytes that follow each other in a file, and what is known to be old of them.
struct Run {
    path: LocalPath,
    /// Where the run begins in the file.
    offset: u64,
    /// Its blocks, with their content.
    blocks: Vec<(BlockHash, Bytes)>,
    /// The numbers of the bases that it may resemble, as spans in the order of the old file.
    bases: Vec<Span>,
}

impl Transport {
    /// Looks for deltas. What is not found, or costs more to look for, is sent as it is.
    pub(super) async fn find_deltas(
        &self,
        blocks: &[BlockSource],
        contents: &[Bytes],
        former: Vec<Former>,
        files: Arc<dyn BlockFiles>,
    ) -> Result<Deltas, TransportError> {
        let Some(namespace) = former.first().map(|former| former.namespace) else { return Ok(Deltas::default()) };
        let mut bases: Vec<BlockHash> = Vec::new();
        let mut scripts = BTreeMap::new();
        for former in former.into_iter().filter(|former| former.namespace == namespace) {
            if bases.len() + former.blocks.len() > limits::BASES_PER_REQUEST {
                break;
            }
            let first = bases.len();
            bases.extend(former.blocks.iter().map(|block| block.hash));
            for run in runs(blocks, contents, &former, first) {
                let grown = grown(&run, &former, first);
                let all_found = grown.len() == run.blocks.len();
                scripts.extend(grown);
                if !all_found {
                    scripts.extend(self.compare(namespace, run, &bases, &files).await?);
                }
            }
        }
        let bases = (!scripts.is_empty()).then_some(Bases { namespace, blocks: bases });
        Ok(Deltas { bases, scripts })
    }

    /// Compares a run with its bases by sums.
    async fn compare(
        &self,
        namespace: NamespaceId,
        run: Run,
        bases: &[BlockHash],
        files: &Arc<dyn BlockFiles>,
    ) -> Result<BTreeMap<BlockHash, Bytes>, TransportError> {
        let old: usize = run.bases.iter().map(|span| span.len).sum();
        let new: usize = run.blocks.iter().map(|(_, bytes)| bytes.len()).sum();
        if old < SUMS_WORTH || new < SUMS_WORTH {
            return Ok(BTreeMap::new());
        }
        let coarse = (old / COARSE_PART).next_power_of_two().clamp(COARSE.start, COARSE.end);
        let Some(chunks) = self.chunks(namespace, &run.bases, bases, coarse).await? else { return Ok(BTreeMap::new()) };
        let (reader, margin) = (Arc::clone(files), coarse);
        let find = move || {
            let view = View::of(&run, margin, reader.as_ref());
            let matches = chunks.find_in(&view.bytes);
            (run, view, matches)
        };
        let (run, view, matches) = self.way.blocking(find).await?;
        let gaps = wanted_gaps(&view, &matches, &run.bases, coarse);
        let matches = self.fill_gaps(namespace, &view, matches, gaps, bases, coarse).await?;
        Ok(scripts(&run, &view, &matches))
    }

    /// Looks at gaps with smaller chunks.
    async fn fill_gaps(
        &self,
        namespace: NamespaceId,
        view: &View,
        mut matches: Vec<Match>,
        gaps: Vec<Gap>,
        bases: &[BlockHash],
        coarse: usize,
    ) -> Result<Vec<Match>, TransportError> {
        let old: usize = gaps.iter().flat_map(|gap| &gap.old).map(|span| span.len).sum();
        let stretches: usize = gaps.iter().map(|gap| gap.old.len()).sum();
        if gaps.is_empty() || old > GAP_BYTES || stretches > limits::SUMS_STRETCHES {
            return Ok(matches);
        }
        let fine = fine_chunk(old / gaps.len(), coarse);
        let mut spans: Vec<Span> = gaps.iter().flat_map(|gap| gap.old.clone()).collect();
        spans.dedup();
        let Some(known) = self.sums(namespace, &spans, bases, fine).await? else { return Ok(matches) };
        let bytes = view.bytes.clone();
        let find = move || {
            let mut found = Vec::new();
            for gap in gaps {
                let mut chunks = Chunks::new(fine);
                for span in &gap.old {
                    if let Some((_, sums)) = known.iter().find(|(known, _)| known == span) {
                        chunks.add(*span, sums);
                    }
                }
                let inside = chunks.find_in(&bytes[gap.new.clone()]);
                found.extend(inside.into_iter().map(|found| Match { at: found.at + gap.new.start, ..found }));
            }
            found
        };
        matches.extend(self.way.blocking(find).await?);
        matches.sort_by_key(|found| found.at);
        Ok(matches)
    }

    async fn chunks(
        &self,
        namespace: NamespaceId,
        spans: &[Span],
        bases: &[BlockHash],
        chunk: usize,
    ) -> Result<Option<Chunks>, TransportError> {
        let Some(known) = self.sums(namespace, spans, bases, chunk).await? else { return Ok(None) };
        let mut chunks = Chunks::new(chunk);
        for (span, sums) in &known {
            chunks.add(*span, sums);
        }
        Ok(Some(chunks))
    }

    /// The sums of spans of bases: those that are known, and those that the server tells. `None`: it does
    /// not make sense of the question.
    async fn sums(
        &self,
        namespace: NamespaceId,
        spans: &[Span],
        bases: &[BlockHash],
        chunk: usize,
    ) -> Result<Option<Vec<(Span, Vec<ChunkSum>)>>, TransportError> {
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
        let stretch = |span: &Span| {
            let (offset, len) = (u32::try_from(span.offset).ok()?, u32::try_from(span.len).ok()?);
            Some(Stretch { block: *bases.get(span.base)?, offset, len })
        };
        let mut found = Vec::new();
        let mut unknown = Vec::new();
        for span in spans {
            let Some(stretch) = stretch(span) else { continue };
            match self.known_sums.get(stretch, chunk) {
                Some(sums) => found.push((*span, sums)),
                None => unknown.push((*span, stretch)),
            }
        }
        if !unknown.is_empty() {
            let stretches: Vec<Stretch> = unknown.iter().map(|(_, stretch)| *stretch).collect();
            let reply: SumsReply = match self.call("sums", &SumsRequest { namespace, chunk, stretches }).await {
                Ok(reply) => reply,
                // The blocks can be sent whole; if the server is not well, that will tell.
                Err(TransportError::Refused(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            for ((span, stretch), bytes) in unknown.into_iter().zip(reply.sums) {
                let sums = sums_from_bytes(&bytes).unwrap_or_default();
                if sums.len() == span.len.div_ceil(chunk as usize) {
                    self.known_sums.keep(stretch, chunk, sums.clone());
                    found.push((span, sums));
                }
            }
            // The matching relies on the order of the old file.
            found.sort_by_key(|(span, _)| spans.iter().position(|other| other == span));
        }
        Ok(Some(found))
    }
}

/// The blocks of a file that follow each other, and the bases that they may resemble.
fn runs(blocks: &[BlockSource], contents: &[Bytes], former: &Former, first: usize) -> Vec<Run> {
    let spans =
        former.blocks.iter().zip(first..).map(|(block, base)| Span { base, offset: 0, len: block.len as usize });
    let bases: Vec<Span> = spans.collect();
    let mut runs: Vec<Run> = Vec::new();
    for (block, content) in blocks.iter().zip(contents).filter(|(block, _)| block.path == former.path) {
        let follows = |run: &&mut Run| {
            run.offset + run.blocks.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() == block.offset
        };
        match runs.last_mut().filter(follows) {
            Some(run) => run.blocks.push((block.hash, content.clone())),
            None => runs.push(Run {
                path: former.path.clone(),
                offset: block.offset,
                blocks: vec![(block.hash, content.clone())],
                bases: bases.clone(),
            }),
        }
    }
    runs
}

/// The scripts of blocks that begin with the whole old block of their place.
fn grown(run: &Run, former: &Former, first: usize) -> BTreeMap<BlockHash, Bytes> {
    let number = |at: usize| u32::try_from(run.offset / BLOCK_SIZE + at as u64).ok();
    let script = |(at, (hash, bytes)): (usize, &(BlockHash, Bytes))| {
        let place = former.blocks.iter().position(|block| Some(block.number) == number(at))?;
        let old = &former.blocks[place];
        let (beginning, rest) = bytes.split_at_checked(old.len as usize)?;
        if rest.is_empty() || BlockHash::of(beginning) != old.hash {
            return None;
        }
        let mut writer = Writer::default();
        writer.copy(first + place, 0, beginning.len());
        writer.insert(rest);
        Some((*hash, Bytes::from(writer.finish())))
    };
    let shorter = |(hash, script): &(BlockHash, Bytes)| {
        run.blocks.iter().any(|(block, bytes)| block == hash && script.len() < bytes.len())
    };
    run.blocks.iter().enumerate().filter_map(script).filter(shorter).collect()
}

/// A run with a margin of the file on both sides: chunks that lie across its ends are found too.
struct View {
    bytes: Bytes,
    /// Where the run lies in it.
    run: Range<usize>,
}

impl View {
    fn of(run: &Run, margin: usize, files: &dyn BlockFiles) -> Self {
        let before = margin.min(usize::try_from(run.offset).unwrap_or(margin));
        let len: usize = run.blocks.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut bytes = Vec::with_capacity(before + len + margin);
        if before > 0 {
            bytes.extend(files.read_stretch(&run.path, run.offset - before as u64, before));
        }
        let start = bytes.len();
        run.blocks.iter().for_each(|(_, block)| bytes.extend_from_slice(block));
        bytes.extend(files.read_stretch(&run.path, run.offset + len as u64, margin));
        Self { bytes: bytes.into(), run: start..start + len }
    }
}

/// The gaps that reach into the run.
fn wanted_gaps(view: &View, matches: &[Match], bases: &[Span], slack: usize) -> Vec<Gap> {
    let inside = |gap: &Gap| gap.new.start < view.run.end && gap.new.end > view.run.start;
    gaps(view.bytes.len(), matches, bases, slack).into_iter().filter(inside).collect()
}

/// The size of small chunks for gaps of about `gap` bytes: with one edit in each, their sums and the bytes
/// around the edit cost least when the chunk is the root of eight times the gap.
fn fine_chunk(gap: usize, coarse: usize) -> usize {
    let chunk = (gap * delta::SUM_BYTES).isqrt().next_power_of_two();
    chunk.clamp(limits::SUMS_CHUNK_MIN as usize, coarse / 2)
}

/// One script for each block that is worth one.
fn scripts(run: &Run, view: &View, matches: &[Match]) -> BTreeMap<BlockHash, Bytes> {
    let mut scripts = BTreeMap::new();
    let mut start = view.run.start;
    for (hash, bytes) in &run.blocks {
        let range = start..start + bytes.len();
        start = range.end;
        let script = script(&view.bytes, &range, matches);
        if script.len() <= bytes.len() / SCRIPT_PART {
            scripts.insert(*hash, script.into());
        }
    }
    scripts
}

fn script(bytes: &[u8], range: &Range<usize>, matches: &[Match]) -> Vec<u8> {
    let mut writer = Writer::default();
    let mut at = range.start;
    for found in matches {
        let (from, to) = (found.at.max(at), found.range().end.min(range.end));
        if from < to {
            writer.insert(&bytes[at..from]);
            writer.copy(found.span.base, found.span.offset + from - found.at, to - from);
            at = to;
        }
    }
    writer.insert(&bytes[at..range.end]);
    writer.finish()
}
