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
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sync_engine::io::{BlockSource, FetchBlock, Reply};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes of contents in memory, at most: until somebody wants them, which most are at once, and until they are written.
/// One reply is written while the next arrives, and a little of another may be left.
const KEPT_BYTES: usize = 2 * AT_ONCE + AT_ONCE / 8;
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
/// Bodies of replies whose memory is used again: one is written while the next arrives.
const SPARE: usize = 2;
/// One that took more is given back at once.
const SPARE_BYTES: usize = AT_ONCE + AT_ONCE / 8;

/// What came along and was not wanted yet, the newest last.
#[derive(Debug, Default)]
pub(super) struct Along {
    kept: Mutex<Kept>,
    spare: Arc<Spare>,
    /// Some of what was being written is written.
    written: Notify,
    /// The server, or the proxy before it, knows no such call.
    unknown: AtomicBool,
    bundle_unknown: AtomicBool,
}

#[derive(Debug, Default)]
struct Kept {
    contents: VecDeque<(u64, Content)>,
    bytes: usize,
    /// Bytes of contents that were taken and are not written yet.
    writing: usize,
    /// When something came or was written last.
    last_used: Option<Instant>,
    /// Whether what is there since then no longer keeps whole replies in memory.
    is_apart: bool,
    /// Replies that brought any.
    replies: u64,
}

/// What there is room for.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    /// So many bytes.
    For(u32),
    /// It is known when some of what is being written is written.
    AfterWriting,
    /// Not enough to ask for any.
    None,
}

/// Contents on their way to the disk, which count until this is dropped.
#[derive(Debug)]
struct Writing {
    along: Arc<Along>,
    bytes: usize,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut kept = self.along.kept();
        kept.writing -= self.bytes;
        kept.last_used = Some(Instant::now());
        drop(kept);
        self.along.written.notify_waiters();
    }
}

/// Memory of bodies of which nothing is left.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn bodies(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reply's body, of which contents are parts. It may be dropped while `kept` is locked.
struct ReplyBody {
    spare: Arc<Spare>,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for ReplyBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.clear();
        let mut bodies = self.spare.bodies();
        if bodies.len() < SPARE && bytes.capacity() <= SPARE_BYTES {
            bodies.push(bytes);
        }
    }
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
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives memory back that nothing has needed for so long. What nobody has wanted by then keeps its own bytes only.
    pub(super) fn release(&self, unused_for: Duration) {
        let mut kept = self.kept();
        if kept.writing > 0 || kept.last_used.is_some_and(|used| used.elapsed() < unused_for) {
            return;
        }
        if !mem::replace(&mut kept.is_apart, true) {
            for (_, content) in &mut kept.contents {
                content.bytes = Bytes::copy_from_slice(&content.bytes);
            }
        }
        drop(kept);
        drop(mem::take(&mut *self.spare.bodies()));
    }

    fn keep(&self, new: impl Iterator<Item = Content>) {
        let mut kept = self.kept();
        let before = kept.contents.len();
        for content in new {
            kept.bytes += content.bytes.len();
            let reply = kept.replies;
            kept.contents.push_back((reply, content));
        }
        if kept.contents.len() > before {
            kept.replies += 1;
            (kept.last_used, kept.is_apart) = (Some(Instant::now()), false);
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

    /// Bytes of contents for which there is room, once it is worth asking for some; `None` if it will not be.
    async fn room(&self) -> Option<u32> {
        loop {
            let mut written = pin!(self.written.notified());
            written.as_mut().enable();
            match self.room_now() {
                Room::For(bytes) => return Some(bytes),
                Room::None => return None,
                Room::AfterWriting => written.await,
            }
        }
    }

    fn room_now(&self) -> Room {
        let kept = self.kept();
        let room = KEPT_BYTES.saturating_sub(kept.bytes + kept.writing).min(AT_ONCE);
        // A reply ends with a commit: with less room much of one would have to be fetched.
        if room < AT_ONCE && kept.writing > 0 {
            return Room::AfterWriting;
        }
        let is_enough = room >= ROOM_AT_LEAST && kept.contents.len() < KEPT / 2;
        u32::try_from(room).ok().filter(|_| is_enough).map_or(Room::None, Room::For)
    }

    /// What is there of the wanted blocks; it serves once.
    fn take(self: &Arc<Self>, wanted: &BTreeMap<BlockHash, FetchBlock>) -> Option<(Vec<Content>, Writing)> {
        let mut kept = self.kept();
        let is_wanted = |(_, content): &(u64, Content)| {
            wanted.get(&content.block.hash).is_some_and(|block| block.len == content.block.len)
        };
        let (taken, left): (VecDeque<_>, VecDeque<_>) = mem::take(&mut kept.contents).into_iter().partition(is_wanted);
        let taken: Vec<Content> = taken.into_iter().map(|(_, content)| content).collect();
        let bytes = taken.iter().map(|content| content.bytes.len()).sum();
        kept.contents = left;
        kept.bytes -= bytes;
        kept.writing += bytes;
        (!taken.is_empty()).then(|| (taken, Writing { along: Arc::clone(self), bytes }))
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
        let room = if known { self.along.room().await } else { None };
        let Some(room) = room else { return self.changes(request).await };
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
                let spare = self.along.spare.bodies().pop().unwrap_or_default();
                Ok(self.whole_body_in(spare, response, &progress).await)
            })
            .await?;
        let Ok(bytes) = reply else { return Ok(None) };
        let reply = Bytes::from_owner(ReplyBody { spare: Arc::clone(&self.along.spare), bytes });
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
        let Some((contents, writing)) = self.along.take(wanted) else { return Ok(Written::default()) };
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
            drop(writing);
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

    #[tokio::test]
    async fn what_is_being_written_takes_room_until_it_is() {
        let along = Arc::new(Along::default());
        let bytes = Bytes::from(vec![7; KEPT_BYTES - ROOM_AT_LEAST]);
        let block = BlockHeader { hash: BlockHash([7; 32]), len: u32::try_from(bytes.len()).expect("fits") };
        along.keep(std::iter::once(Content { block, form: Form::Plain, bases: Vec::new(), bytes, named: true }));
        assert_eq!(along.room_now(), Room::For(ROOM_AT_LEAST as u32), "nobody has wanted it: no use to wait");
        let target = FetchBlock { hash: block.hash, len: block.len, to: Vec::new() };
        let (taken, writing) = along.take(&BTreeMap::from([(block.hash, target)])).expect("is there");
        assert_eq!((taken.len(), along.room_now()), (1, Room::AfterWriting));
        let asking = tokio::spawn({
            let along = Arc::clone(&along);
            async move { along.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!asking.is_finished());
        drop((taken, writing));
        assert_eq!(asking.await.expect("ends"), Some(AT_ONCE as u32));
    }

    /// Keeps a content that is all of its reply, and says how to want it.
    fn keep_reply(along: &Along, number: u8) -> BTreeMap<BlockHash, FetchBlock> {
        let bytes = Bytes::from_owner(ReplyBody { spare: Arc::clone(&along.spare), bytes: vec![number; 100] });
        let block = BlockHeader { hash: BlockHash::of(&bytes), len: 100 };
        along.keep(std::iter::once(Content { block, form: Form::Plain, bases: Vec::new(), bytes, named: true }));
        BTreeMap::from([(block.hash, FetchBlock { hash: block.hash, len: block.len, to: Vec::new() })])
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_of_a_reply_is_used_again_until_nothing_was_written_for_a_while() {
        const WHILE: Duration = Duration::from_secs(5);
        let along = Arc::new(Along::default());
        let spare = || along.spare.bodies().len();
        let [first, second, _left] = [1, 2, 3].map(|number| keep_reply(&along, number));
        let (content, writing) = along.take(&first).expect("is there");
        drop((content, writing));
        assert_eq!(spare(), 1, "the others are kept");
        let (content, writing) = along.take(&second).expect("is there");
        drop(content);
        tokio::time::advance(WHILE).await;
        along.release(WHILE);
        assert_eq!(spare(), 2, "it is not known to be written");
        drop(writing);
        along.release(WHILE);
        assert_eq!(spare(), 2, "more may come");
        tokio::time::advance(WHILE).await;
        along.release(WHILE);
        assert_eq!(spare(), 0, "and what is left holds none");
        assert!(along.take(&first).is_none());
        assert_eq!(along.kept().contents.len(), 1);
    }

    #[test]
    fn replies_that_nobody_wanted_go_while_others_come() {
        let along = Along::default();
        // Their bodies are dropped while what is kept is locked.
        (0..=KEPT_FOR).for_each(|number| drop(keep_reply(&along, number.to_le_bytes()[0])));
        assert!(along.kept().contents.len() < usize::try_from(KEPT_FOR).expect("fits"));
    }
}
