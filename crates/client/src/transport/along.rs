//! Small contents that came along with what the server told of changes: they need not be asked for.

use super::blocks::{BlockFiles, Writer, Written};
use super::{Transport, TransportError};
use api::{
    ApiError, BlockHeader, ChangesReply, ChangesRequest, ErrorCode, HashStart, NewsBundleRequest, NewsReply,
    SmallContent,
};
use bytes::Bytes;
use delta::Script;
use model::{BLOCK_SIZE, BlockHash};
use parcels::{Form, News};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sync_engine::io::{BlockSource, FetchBlock, Reply};

/// Bytes of contents that are kept until somebody wants them; most are wanted at once.
const KEPT_BYTES: usize = 12 * 1024 * 1024;
/// ... and how many contents.
const KEPT: usize = 16 * 1024;
/// Replies with contents after which one that nobody has wanted goes.
const KEPT_FOR: u64 = 16;
/// ... and after which what is left of one no longer keeps all of it in memory.
const WHOLE_FOR: u64 = 2;
/// Bytes of contents that one reply may bring.
const AT_ONCE: usize = 8 * 1024 * 1024;
/// With less room than this, contents are left to be fetched.
const ROOM_AT_LEAST: usize = 512 * 1024;

/// What came along and was not wanted yet, the newest last.
#[derive(Debug, Default)]
pub(super) struct Along {
    kept: Mutex<Kept>,
    /// The server, or the proxy before it, knows no such call.
    unknown: AtomicBool,
    bundle_unknown: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    contents: VecDeque<(u64, Content)>,
    bytes: usize,
    /// Replies that brought any.
    replies: u64,
}

/// A block that came along.
#[derive(Debug)]
struct Content {
    block: BlockHeader,
    form: Form,
    bases: Vec<HashStart>,
    bytes: Bytes,
    /// Whether it is known to be what its name says.
    named: bool,
}

impl Along {
    fn keep(&self, new: impl Iterator<Item = Content>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.contents.len();
        for content in new {
            kept.bytes += content.bytes.len();
            let reply = kept.replies;
            kept.contents.push_back((reply, content));
        }
        if kept.contents.len() > before {
            kept.replies += 1;
            let old = kept.replies.saturating_sub(WHOLE_FOR);
            for (_, content) in kept.contents.iter_mut().filter(|(reply, _)| reply + 1 == old) {
                content.bytes = Bytes::copy_from_slice(&content.bytes);
            }
        }
        while let Some((reply, _)) = kept.contents.front() {
            let full = kept.contents.len() > KEPT || kept.bytes > KEPT_BYTES;
            if !full && reply + KEPT_FOR > kept.replies {
                break;
            }
            if let Some((_, content)) = kept.contents.pop_front() {
                kept.bytes -= content.bytes.len();
            }
        }
    }

    /// Bytes of contents for which there is room, if it is worth asking for any.
    fn room(&self) -> Option<u32> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT_BYTES.saturating_sub(kept.bytes).min(AT_ONCE);
        u32::try_from(room).ok().filter(|_| room >= ROOM_AT_LEAST && kept.contents.len() < KEPT / 2)
    }

    /// What is there of the wanted blocks; it serves once.
    fn take(&self, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Vec<Content> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |(_, content): &(u64, Content)| {
            wanted.get(&content.block.hash).is_some_and(|block| block.len == content.block.len)
        };
        let (taken, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut kept.contents).into_iter().partition(is_wanted);
        kept.contents = left;
        kept.bytes = kept.contents.iter().map(|(_, content)| content.bytes.len()).sum();
        taken.into_iter().map(|(_, content)| content).collect()
    }
}

/// The blocks of what came along with this; what makes no sense is left out.
fn told(contents: Vec<SmallContent>, changes: &ChangesReply) -> impl Iterator<Item = Content> {
    contents.into_iter().filter_map(|one| single(one, changes)).flatten()
}

/// The blocks of a content; `None` if it makes no sense.
fn single(content: SmallContent, changes: &ChangesReply) -> Option<Vec<Content>> {
    let blocks = content.blocks(changes)?;
    let form = Form::of_code(content.form)?;
    if form == Form::Delta {
        return cut(&blocks, &content.bases, &content.bytes);
    }
    let [block] = blocks.try_into().ok()?;
    Some(vec![Content { block, form, bases: Vec::new(), bytes: content.bytes.into(), named: false }])
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
        Some(Content { block: *block, form: Form::Delta, bases, bytes, named: false })
    };
    blocks.iter().zip(scripts).map(single).collect()
}

impl Transport {
    /// `bundle`, or `news` where that is all there is.
    pub(super) async fn news(&self, request: ChangesRequest) -> Result<Reply, TransportError> {
        let thrift = self.thrift();
        let known = thrift.small_contents && thrift.bundles && !self.along.bundle_unknown.load(Ordering::Relaxed);
        let Some(room) = known.then(|| self.along.room()).flatten() else { return self.changes(request).await };
        match self.news_bundle(NewsBundleRequest { changes: request.clone(), room }).await {
            Ok(Some(changes)) => Ok(Reply::Changes(changes)),
            // The journal is read also if its contents cannot be: then they are asked for one by one, which says more.
            Ok(None) => self.changes(request).await,
            Err(TransportError::Refused(ApiError { code: ErrorCode::NotFound, .. })) => {
                self.along.bundle_unknown.store(true, Ordering::Relaxed);
                self.changes(request).await
            }
            Err(error) => Err(error),
        }
    }

    /// `None`: what came is not what the journal says, or broke off.
    async fn news_bundle(&self, request: NewsBundleRequest) -> Result<Option<ChangesReply>, TransportError> {
        let progress = self.progress();
        let body = api::encode(&request);
        let reply = progress
            .watch(async {
                let response = self.post("bundle", body.into()).await?;
                progress.touch();
                let response = self.accept(response, &progress).await?;
                Ok(self.whole_body(response, &progress).await.map(Bytes::from))
            })
            .await?;
        let Ok(reply) = reply else { return Ok(None) };
        let Ok(News { changes, blocks, contents }) = self.way.blocking(move || parcels::open_news(&reply)).await?
        else {
            return Ok(None);
        };
        let named = |(block, bytes)| Content { block, form: Form::Plain, bases: Vec::new(), bytes, named: true };
        self.along.keep(blocks.into_iter().map(named).chain(told(contents, &changes)));
        Ok(Some(changes))
    }

    /// `news`, or `changes` where that is all there is.
    pub(super) async fn changes(&self, request: ChangesRequest) -> Result<Reply, TransportError> {
        if self.thrift().small_contents && !self.along.unknown.load(Ordering::Relaxed) {
            match self.call::<_, NewsReply>("news", &request).await {
                Err(TransportError::Refused(ApiError { code: ErrorCode::NotFound, .. })) => {
                    self.along.unknown.store(true, Ordering::Relaxed);
                }
                reply => {
                    let NewsReply { changes, contents } = reply?;
                    self.along.keep(told(contents, &changes));
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
            let (named, told): (Vec<Content>, Vec<Content>) = contents.into_iter().partition(|content| content.named);
            let mut writer = Writer::new(wanted, Vec::new(), files, places);
            writer.write_named(named.into_iter().map(|one| (one.block, one.bytes)).collect(), &mut written);
            for content in told {
                if written.disk.is_some() {
                    break;
                }
                let here = |start: &HashStart| bases.iter().find(|base| start.is_of(&base.hash)).cloned();
                if let Some(bases) = content.bases.iter().map(here).collect() {
                    writer.take_parcel(content.block, content.form, bases, content.bytes, &mut written);
                }
            }
            written.forget_unmade();
            written
        };
        self.way.blocking(write).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_old_reply_does_not_keep_all_of_it_in_memory() {
        let along = Along::default();
        let brought = |reply: &Bytes| {
            let bytes = reply.slice(..3);
            let block = BlockHeader { hash: BlockHash::of(&bytes), len: 3 };
            along.keep(std::iter::once(Content { block, form: Form::Plain, bases: Vec::new(), bytes, named: true }));
        };
        let replies = [b"first", b"other", b"third"].map(|text| Bytes::from(text.to_vec()));
        let whole = || replies.each_ref().map(|reply| !reply.is_unique());
        brought(&replies[0]);
        brought(&replies[1]);
        assert_eq!(whole(), [true, true, false]);
        brought(&replies[2]);
        assert_eq!(whole(), [false, true, true]);
    }
}
