//! Small contents that came along with what the server told of changes: they need not be asked for.

use super::blocks::{BlockFiles, Writer, Written};
use super::resume::Places;
use super::{Transport, TransportError};
use api::{ApiError, BlockHeader, ChangesReply, ChangesRequest, ErrorCode, HashStart, NewsReply, SmallContent};
use bytes::Bytes;
use delta::Script;
use model::{BLOCK_SIZE, BlockHash};
use parcels::Form;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sync_engine::io::{BlockSource, FetchBlock, Reply};

/// Bytes of contents that are kept until somebody wants them; most are wanted at once.
const KEPT_BYTES: usize = 128 * 1024;
/// ... and how many contents.
const KEPT: usize = 256;

/// What came along and was not wanted yet, the newest last.
#[derive(Debug, Default)]
pub(super) struct Along {
    contents: Mutex<VecDeque<Content>>,
    /// The server, or the proxy before it, knows no such call.
    unknown: AtomicBool,
}

/// A block that came along.
#[derive(Debug)]
struct Content {
    block: BlockHeader,
    form: Form,
    bases: Vec<HashStart>,
    bytes: Bytes,
}

impl Along {
    fn keep(&self, new: Vec<Content>) {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.extend(new);
        let bytes = |contents: &VecDeque<Content>| contents.iter().map(|content| content.bytes.len()).sum::<usize>();
        while contents.len() > KEPT || bytes(&contents) > KEPT_BYTES {
            contents.pop_front();
        }
    }

    /// What is there of the wanted blocks; it serves once.
    fn take(&self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Vec<Content> {
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted =
            |content: &Content| wanted.get(&content.block.hash).is_some_and(|block| block.len == content.block.len);
        let (taken, kept) = contents.drain(..).partition(is_wanted);
        *contents = kept;
        Vec::from(taken)
    }
}

/// The blocks of a content; `None` if it makes no sense.
fn single(content: SmallContent, changes: &ChangesReply) -> Option<Vec<Content>> {
    let blocks = content.blocks(changes)?;
    let form = Form::of_code(content.form)?;
    if form == Form::Delta {
        return cut(&blocks, &content.bases, &content.bytes);
    }
    let [block] = blocks.try_into().ok()?;
    Some(vec![Content { block, form, bases: Vec::new(), bytes: content.bytes.into() }])
}

/// The single deltas that a joined one is made of.
fn cut(blocks: &[BlockHeader], bases: &[HashStart], joined: &[u8]) -> Option<Vec<Content>> {
    let lens: Vec<usize> = blocks.iter().map(|block| block.len as usize).collect();
    let scripts = delta::split(joined, &lens, usize::try_from(BLOCK_SIZE).ok()?).ok()?;
    let single = |(block, script): (&BlockHeader, Vec<u8>)| {
        let script = Script::parse(&script, block.len as usize).ok()?;
        let numbers = script.bases();
        let bytes = script.renumbered(|base| numbers.binary_search(&base).ok()).ok()?.into();
        let bases = numbers.iter().map(|number| bases.get(*number).copied()).collect::<Option<_>>()?;
        Some(Content { block: *block, form: Form::Delta, bases, bytes })
    };
    blocks.iter().zip(scripts).map(single).collect()
}

impl Transport {
    /// `news`, or `changes` where that is all there is.
    pub(super) async fn changes(&self, request: ChangesRequest) -> Result<Reply, TransportError> {
        if self.thrift().small_contents && !self.along.unknown.load(Ordering::Relaxed) {
            match self.call::<_, NewsReply>("news", &request).await {
                Err(TransportError::Refused(ApiError { code: ErrorCode::NotFound, .. })) => {
                    self.along.unknown.store(true, Ordering::Relaxed);
                }
                reply => {
                    let NewsReply { changes, contents } = reply?;
                    self.along.keep(contents.into_iter().filter_map(|one| single(one, &changes)).flatten().collect());
                    return Ok(Reply::Changes(changes));
                }
            }
        }
        self.call("changes", &request).await.map(Reply::Changes)
    }

    /// Writes those of the wanted blocks that came along. Whatever does not open, or copies from what is not
    /// here, is fetched like anything else.
    pub(super) async fn write_along(
        &self,
        wanted: &BTreeMap<BlockHash, FetchBlock>,
        bases: &[BlockSource],
        files: &Arc<dyn BlockFiles>,
    ) -> Result<Written, TransportError> {
        let contents = self.along.take(wanted);
        if contents.is_empty() {
            return Ok(Written::default());
        }
        let wanted = Arc::new(wanted.clone());
        let (bases, files, places) = (bases.to_vec(), Arc::clone(files), Arc::clone(&self.places));
        let write = move || {
            let mut written = Written::default();
            for content in contents {
                write_one(content, &wanted, &bases, &files, &places, &mut written);
                if written.disk.is_some() {
                    break;
                }
            }
            written.forget_unmade();
            written
        };
        self.way.blocking(write).await
    }
}

fn write_one(
    content: Content,
    wanted: &Arc<BTreeMap<BlockHash, FetchBlock>>,
    bases: &[BlockSource],
    files: &Arc<dyn BlockFiles>,
    places: &Arc<Places>,
    written: &mut Written,
) {
    let here = |start: &HashStart| bases.iter().find(|base| start.is_of(&base.hash)).cloned();
    let Some(bases) = content.bases.iter().map(here).collect() else { return };
    let mut writer = Writer::new(Arc::clone(wanted), bases, Arc::clone(files), Arc::clone(places));
    writer.take_parcel(vec![content.block], content.form, content.bytes, written);
}
