//! Content on its way: which blocks go up before a commit, and which come down before an install.

mod ahead;
mod moving;
mod on_disk;
mod renewing;
mod resembling;

use super::Engine;
use super::local::Blame;
use super::prefetch::{Prefetched, block_at};
use crate::io::{
    BlockSource, BlockTarget, Environment, FetchBlock, Former, Job, JobId, LocalPath, Request, RequestId, StepError,
    TempName,
};
use crate::plan::BlockPlan;
use crate::tree::{Content, FileContent, Seen};
use ahead::Ahead;
use api::{MissingReply, MissingRequest};
use model::block::block_len;
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Commit, ContentHash, NamespaceId, NodeId, Operation, limits};
use moving::Moving;
use resembling::left_over;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of blocks in one upload.
const UPLOAD_BYTES: u64 = 8 * 1024 * 1024;
/// Uploads at a time.
const UPLOADS: usize = 4;
/// Bytes of blocks in one download.
pub(super) const FETCH_BYTES: u64 = 8 * 1024 * 1024;
/// Downloads at a time.
const FETCHES: usize = 4;
/// Files that are being fetched, or fetched and not in place yet: bounds the temporary files.
const FETCH_WINDOW: usize = 2_000;
/// With more fetches than this, it is looked only now and then whether all are still wanted.
const FETCHES_LOOKED_AT: usize = 64;
/// How often, in milliseconds.
const STALE_PAUSE_MS: u64 = 100;
/// Files that are being uploaded.
const UPLOAD_WINDOW: usize = 2_000;

/// What a request was about.
#[derive(Debug)]
pub(super) enum RequestKind {
    Changes,
    Server,
    Commit,
    /// The blocks that were asked about, in order.
    Missing(Vec<BlockHash>),
    /// The blocks that were sent.
    Upload(Vec<BlockHash>),
    /// The blocks that were taken to have moved.
    Shift(Vec<BlockHash>),
    /// The block numbers of each node that were asked for.
    Fetch(Vec<(NodeId, u32)>),
    Announce,
    Coming(NamespaceId),
    /// The same of blocks that are coming, and how much had been heard of these when they were asked for.
    Prefetch {
        asked: Vec<(NodeId, u32)>,
        heard: u64,
    },
}

/// A file whose blocks go to the server before its commit.
#[derive(Debug)]
struct Upload {
    content: FileContent,
    /// Blocks not known to be on the server, by number.
    wanted: BTreeMap<u32, BlockHash>,
    /// All blocks, if others are to hear of the upload.
    announce: Option<Vec<BlockHash>>,
}

/// A file whose content is being fetched.
#[derive(Debug)]
struct Fetch {
    content: FileContent,
    namespace: NamespaceId,
    blocks: Arc<Blocklist>,
    temp: TempName,
    /// Blocks to ask for.
    wanted: BTreeSet<u32>,
    /// Blocks that were asked for, and by which request: an answer to another one tells of bytes that went into another
    /// temporary file, or of an earlier look at this one.
    asked: BTreeMap<u32, RequestId>,
    /// The job that looks at what an earlier run left in the temporary file.
    probe: Option<JobId>,
    /// What the temporary file may hold of blocks that are not whole there.
    begun: BTreeMap<u32, BlockSource>,
}

impl Fetch {
    fn is_complete(&self) -> bool {
        self.wanted.is_empty() && self.asked.is_empty() && self.probe.is_none()
    }
}

/// A request for a block of those that were `asked` for has been answered. Whether it is the one that the block is expected of.
pub(super) fn answered(asked: &mut BTreeMap<u32, RequestId>, number: u32, by: RequestId) -> bool {
    asked.get(&number) == Some(&by) && asked.remove(&number).is_some()
}

/// What is on its way.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    pub(super) requests: BTreeMap<RequestId, RequestKind>,
    uploads: BTreeMap<NodeId, Upload>,
    /// Nodes that wait for a place among the uploads.
    upload_queue: BTreeSet<NodeId>,
    /// Blocks that the server need not be asked about: it has them, or lacks them.
    present: BTreeSet<BlockHash>,
    /// Since when the oldest of that is believed.
    believed_since: u64,
    absent: BTreeSet<BlockHash>,
    asking: BTreeSet<BlockHash>,
    sending: BTreeSet<BlockHash>,
    /// Blocks that the server said it lacks although we thought it had them.
    must_send: BTreeSet<BlockHash>,
    moving: Moving,
    fetches: BTreeMap<NodeId, Fetch>,
    fetch_queue: BTreeSet<NodeId>,
    /// When it was last looked whether all fetches are still wanted.
    stale_looked_at: u64,
    /// Whether there may be something to ask for or to send that there was not when it was last looked. Uploads
    /// may be thousands, and most events concern none of them.
    stirred: bool,
    pub(super) ahead: Ahead,
}

impl Transfers {
    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
            && self.uploads.is_empty()
            && self.upload_queue.is_empty()
            && self.fetch_queue.is_empty()
            && self.fetches.values().all(Fetch::is_complete)
    }

    /// The temporary file that holds the node's content, if it is complete.
    pub(super) fn fetched(&self, node: NodeId, content: &FileContent) -> Option<TempName> {
        let fetch = self.fetches.get(&node)?;
        (fetch.is_complete() && fetch.content.hash == content.hash).then(|| fetch.temp.clone())
    }

    /// Whether the server lacks the block, and nobody sends it yet.
    fn is_to_be_sent(&self, hash: &BlockHash) -> bool {
        (self.absent.contains(hash) || self.must_send.contains(hash)) && !self.sending.contains(hash)
    }

    fn add_upload(&mut self, node: NodeId, upload: Upload) {
        self.uploads.insert(node, upload);
        self.stirred = true;
    }

    pub(super) fn forget_fetch(&mut self, node: NodeId) {
        self.fetches.remove(&node);
        self.fetch_queue.remove(&node);
    }

    pub(super) fn must_send(&mut self, blocks: &[BlockHash]) {
        self.stirred = true;
        for block in blocks {
            self.present.remove(block);
            self.must_send.insert(*block);
        }
    }

    /// What is committed is known by its journal now.
    pub(super) fn committed(&mut self, commit: &Commit) {
        self.stirred = true;
        for block in commit.operations.iter().filter_map(|operation| operation.body()).flat_map(Body::blocks) {
            self.present.remove(block);
            self.must_send.remove(block);
        }
    }

    pub(super) fn forget_server(&mut self) {
        // An answer to what was asked before says nothing about the tree that there is now.
        self.requests
            .retain(|_, kind| !matches!(kind, RequestKind::Changes | RequestKind::Server | RequestKind::Commit));
        self.uploads.clear();
        self.upload_queue.clear();
        self.moving.forget();
        self.present.clear();
        self.absent.clear();
        self.stirred = true;
        self.fetches.clear();
        self.fetch_queue.clear();
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        let down = self.fetches.values().filter(|fetch| !fetch.is_complete()).count();
        (self.uploads.len() + self.upload_queue.len(), down + self.fetch_queue.len())
    }

    pub(super) fn is_moving(&self, node: NodeId) -> (bool, bool) {
        let up = self.uploads.contains_key(&node) || self.upload_queue.contains(&node);
        (up, self.fetches.contains_key(&node) || self.fetch_queue.contains(&node))
    }

    /// Size and blocks of an upload that others are to hear of.
    pub(super) fn announceable(&self, node: NodeId) -> Option<(u64, &Vec<BlockHash>)> {
        let upload = self.uploads.get(&node)?;
        upload.announce.as_ref().map(|blocks| (upload.content.size, blocks))
    }

    /// A block that was asked for before its file was committed; whether the file is complete with it.
    pub(super) fn take_prefetched_block(
        &mut self,
        by: RequestId,
        (node, number): (NodeId, u32),
        written: &BTreeSet<&BlockHash>,
    ) -> bool {
        let Some(fetch) = self.fetches.get_mut(&node) else { return false };
        if !answered(&mut fetch.asked, number, by) {
            return false;
        }
        if block_at(&fetch.blocks, number).is_some_and(|hash| written.contains(&hash)) {
            return fetch.is_complete();
        }
        fetch.wanted.insert(number);
        false
    }

    fn running(&self, up: bool) -> usize {
        let of_kind = |kind: &&RequestKind| match kind {
            RequestKind::Upload(_) | RequestKind::Shift(_) => up,
            RequestKind::Fetch(_) => !up,
            RequestKind::Changes
            | RequestKind::Server
            | RequestKind::Commit
            | RequestKind::Missing(_)
            | RequestKind::Announce
            | RequestKind::Coming(_)
            | RequestKind::Prefetch { .. } => false,
        };
        self.requests.values().filter(of_kind).count()
    }
}

impl Engine {
    pub(super) fn start_transfers(&mut self, env: &Environment<'_>) {
        if self.local.root != crate::io::RootState::Present {
            return;
        }
        if self.server.uploads.retry_at.is_none() && std::mem::take(&mut self.transfers.stirred) {
            self.start_moves(env);
            self.ask_for_missing(env);
            self.start_uploads(env);
        }
        if self.server.fetches.retry_at.is_none() {
            self.start_fetches(env);
        }
        self.start_prefetches();
    }

    /// How the blocks of a local file get to the server.
    pub(super) fn plan_blocks(&self, env: &Environment<'_>, node: NodeId, file: &FileContent) -> BlockPlan {
        let wanted = self.wanted_blocks(env, node, file);
        if wanted.is_empty() {
            return BlockPlan::Present;
        }
        let refused = self.server.uploads.retry_at.is_some();
        if refused || file.size > self.tuning.inline_file && !self.is_small_edit(node, file, &wanted) {
            return BlockPlan::UploadFirst;
        }
        match wanted.iter().map(|(number, hash)| self.source(node, file, *number, *hash)).collect() {
            Some(sources) => BlockPlan::Inline(sources),
            None => BlockPlan::UploadFirst,
        }
    }

    /// Whether a large file has one block or less that the server's version has not. What has changed in it is
    /// likely to be little, and need not wait for two answers. A file that changes faster than these come would
    /// never be committed.
    fn is_small_edit(&self, node: NodeId, file: &FileContent, wanted: &BTreeMap<u32, BlockHash>) -> bool {
        let edited = self.trees.remote(node).is_some_and(|remote| matches!(remote.content, Content::File(_)));
        let bytes: u64 = wanted.keys().map(|number| block_len(file.size, u64::from(*number))).sum();
        self.tuning.inline_file > 0 && edited && bytes <= BLOCK_SIZE
    }

    /// The file's blocks that the server is not known to have.
    fn wanted_blocks(&self, env: &Environment<'_>, node: NodeId, file: &FileContent) -> BTreeMap<u32, BlockHash> {
        let Some((blocks, known)) = self.find_list(env, &file.hash) else { return BTreeMap::new() };
        let before = self.trees.remote(node).and_then(|remote| match &remote.content {
            Content::File(before) => self.find_list(env, &before.hash),
            Content::Directory | Content::Mount | Content::Symlink(_) => None,
        });
        let before: BTreeSet<BlockHash> = before.iter().flat_map(|(blocks, _)| blocks.0.iter().copied()).collect();
        let there = |hash: &BlockHash| {
            self.transfers.present.contains(hash)
                || ((known || before.contains(hash)) && !self.transfers.must_send.contains(hash))
        };
        (0..).zip(blocks.0.iter().copied()).filter(|(_, hash)| !there(hash)).collect()
    }

    fn source(&self, node: NodeId, file: &FileContent, number: u32, hash: BlockHash) -> Option<BlockSource> {
        let len = u32::try_from(block_len(file.size, u64::from(number))).ok()?;
        Some(BlockSource { hash, len, path: self.trees.local_path(node)?, offset: u64::from(number) * BLOCK_SIZE })
    }

    /// Files the node under what must be uploaded.
    pub(super) fn want_upload(&mut self, node: NodeId, env: &Environment<'_>) {
        self.queues.forget(node);
        if self.transfers.uploads.contains_key(&node) {
            return;
        }
        if self.transfers.uploads.len() >= UPLOAD_WINDOW {
            self.transfers.upload_queue.insert(node);
            return;
        }
        let Some(Seen::File(Some(content))) = self.trees.local(node).map(|local| local.seen.clone()) else { return };
        let wanted = self.wanted_blocks(env, node, &content);
        if wanted.is_empty() {
            return self.trees.wake(node);
        }
        let announce = self.blocks_to_announce(env, node, &content, wanted.len());
        if announce.is_some() {
            self.prefetches.wants_announcing(node);
        }
        self.plan_moves(node, &content, &wanted);
        self.transfers.add_upload(node, Upload { content, wanted, announce });
    }

    /// The blocks of a file that others should fetch while it is uploaded: a large one that is new, whole.
    fn blocks_to_announce(
        &self,
        env: &Environment<'_>,
        node: NodeId,
        content: &FileContent,
        wanted: usize,
    ) -> Option<Vec<BlockHash>> {
        let large = self.tuning.prefetch && content.size >= self.tuning.announce_from;
        if !large || self.trees.has_remote(node) {
            return None;
        }
        let (blocks, _) = self.find_list(env, &content.hash)?;
        (blocks.0.len() == wanted && wanted <= limits::COMING_BLOCKS).then(|| blocks.0.clone())
    }

    /// One question for the blocks of many files.
    fn ask_for_missing(&mut self, env: &Environment<'_>) {
        while self.transfers.uploads.len() < UPLOAD_WINDOW {
            let Some(node) = self.transfers.upload_queue.pop_first() else { break };
            self.want_upload(node, env);
        }
        let transfers = &mut self.transfers;
        let mut asked = Vec::new();
        for hash in transfers.uploads.values().flat_map(|upload| upload.wanted.values()) {
            if asked.len() >= limits::BLOCKS_PER_REQUEST {
                break;
            }
            if !transfers.is_decided(hash) && transfers.asking.insert(*hash) {
                asked.push(*hash);
            }
        }
        // There may be more.
        self.transfers.stirred |= asked.len() >= limits::BLOCKS_PER_REQUEST;
        if !asked.is_empty() {
            let id = self.send(Request::Missing(MissingRequest { blocks: asked.clone() }));
            self.transfers.requests.insert(id, RequestKind::Missing(asked));
        }
    }

    pub(super) fn ask_again(&mut self, asked: &[BlockHash]) {
        self.transfers.stirred = true;
        for hash in asked {
            self.transfers.asking.remove(hash);
        }
    }

    pub(super) fn take_missing(&mut self, asked: Vec<BlockHash>, reply: &MissingReply) {
        self.ask_again(&asked);
        let missing: BTreeSet<u32> = reply.missing.iter().copied().collect();
        for (number, hash) in (0..).zip(asked) {
            if missing.contains(&number) {
                self.transfers.absent.insert(hash);
            } else {
                self.transfers.present.insert(hash);
            }
        }
        self.finish_uploads();
    }

    fn start_uploads(&mut self, env: &Environment<'_>) {
        while self.transfers.running(true) < UPLOADS {
            let (sources, former) = self.next_upload(env);
            if sources.is_empty() {
                return;
            }
            self.transfers.ahead.requested(&sources);
            let sent: Vec<BlockHash> = sources.iter().map(|source| source.hash).collect();
            self.transfers.sending.extend(sent.iter().copied());
            let id = self.send(Request::Changeset { blocks: sources, former, commit: None });
            self.transfers.requests.insert(id, RequestKind::Upload(sent));
        }
    }

    /// Files that changed before their blocks were sent are given up, and decided on again.
    pub(super) fn drop_changed_uploads(&mut self) {
        if !self.transfers.stirred {
            return;
        }
        let transfers = &self.transfers;
        let waiting = |upload: &Upload| upload.wanted.values().any(|hash| transfers.is_to_be_sent(hash));
        let same = |node: NodeId, upload: &Upload| {
            self.trees.local(node).is_some_and(|local| local.seen == Seen::File(Some(upload.content)))
        };
        let uploads = transfers.uploads.iter();
        let changed = uploads.filter(|(node, upload)| waiting(upload) && !same(**node, upload)).map(|(node, _)| *node);
        for node in changed.collect::<Vec<_>>() {
            self.transfers.uploads.remove(&node);
            self.trees.wake(node);
        }
    }

    fn next_upload(&mut self, env: &Environment<'_>) -> (Vec<BlockSource>, Vec<Former>) {
        let mut sources: Vec<BlockSource> = Vec::new();
        let mut chosen = BTreeSet::new();
        let mut numbers: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        let mut bytes = 0;
        let (mut changed, mut unplaced) = (Vec::new(), false);
        let lacking = |hash: &BlockHash| self.transfers.is_to_be_sent(hash);
        for (node, upload) in &self.transfers.uploads {
            if !upload.wanted.values().any(lacking) {
                continue;
            }
            if self.trees.local(*node).is_none_or(|local| local.seen != Seen::File(Some(upload.content))) {
                changed.push(*node);
                continue;
            }
            for (number, hash) in &upload.wanted {
                if !lacking(hash) || !chosen.insert(*hash) {
                    continue;
                }
                let Some(source) = self.source(*node, &upload.content, *number, *hash) else {
                    unplaced = true;
                    continue;
                };
                bytes += u64::from(source.len);
                sources.push(source);
                numbers.entry(*node).or_default().push(*number);
                if bytes >= UPLOAD_BYTES || sources.len() >= limits::BLOCKS_PER_REQUEST {
                    break;
                }
            }
            if bytes >= UPLOAD_BYTES || sources.len() >= limits::BLOCKS_PER_REQUEST {
                break;
            }
        }
        // A file without a path for now is looked at with each event.
        self.transfers.stirred |= unplaced;
        for node in changed {
            self.transfers.uploads.remove(&node);
            self.trees.wake(node);
        }
        // The last block may have crossed the limit; a request must stay below the server's.
        while sources.len() > 1 && bytes > UPLOAD_BYTES + BLOCK_SIZE {
            bytes -= sources.pop().map_or(0, |source| u64::from(source.len));
        }
        let former = numbers.into_iter().filter_map(|(node, numbers)| self.former(node, &numbers, env)).collect();
        (sources, former)
    }

    /// What the server has of the node, as far as the node's new blocks `numbers` may resemble it.
    fn former(&self, node: NodeId, numbers: &[u32], env: &Environment<'_>) -> Option<Former> {
        let (Some(Seen::File(Some(new))), Some(Content::File(old))) =
            (self.trees.local(node).map(|local| local.seen), self.trees.remote(node).map(|remote| remote.content))
        else {
            return None;
        };
        let (new_blocks, _) = self.find_list(env, &new.hash)?;
        let (old_blocks, _) = self.find_list(env, &old.hash)?;
        let blocks = left_over(&old_blocks, old.size, &new_blocks, numbers, self.tuning.near_blocks);
        let path = self.trees.local_path(node)?;
        (!blocks.is_empty()).then(|| Former { namespace: self.trees.remote_namespace(node), path, blocks })
    }

    /// The same for the edits that travel with their content.
    pub(super) fn former_of_edits(&self, commit: &Commit, env: &Environment<'_>) -> Vec<Former> {
        let edited = |operation: &Operation| match operation {
            Operation::Edit { node, body: Body::File { blocks, .. }, .. } => {
                let numbers: Vec<u32> = (0..).zip(&blocks.0).map(|(number, _)| number).collect();
                self.former(*node, &numbers, env)
            }
            Operation::Create { .. } | Operation::Edit { .. } | Operation::Move { .. } | Operation::Delete { .. } => {
                None
            }
        };
        commit.operations.iter().filter_map(edited).collect()
    }

    pub(super) fn upload_again(&mut self, sent: &[BlockHash]) {
        self.transfers.stirred = true;
        for hash in sent {
            self.transfers.sending.remove(hash);
            // Part of it may have arrived: the server says what.
            self.transfers.absent.remove(hash);
        }
    }

    pub(super) fn uploaded(&mut self, sent: &[BlockHash]) {
        self.transfers.stirred = true;
        for hash in sent {
            self.transfers.sending.remove(hash);
            self.transfers.absent.remove(hash);
            self.transfers.must_send.remove(hash);
            self.transfers.present.insert(*hash);
        }
        self.finish_uploads();
    }

    /// Files whose blocks are all on the server are ready for their commit.
    pub(super) fn finish_uploads(&mut self) {
        let transfers = &mut self.transfers;
        for upload in transfers.uploads.values_mut() {
            upload.wanted.retain(|_, hash| !transfers.present.contains(hash));
        }
        let done: Vec<NodeId> =
            transfers.uploads.iter().filter(|(_, upload)| upload.wanted.is_empty()).map(|(node, _)| *node).collect();
        for node in done {
            self.transfers.uploads.remove(&node);
            self.trees.wake(node);
        }
    }

    /// Blocks could not be read as they were hashed: their files changed.
    pub(super) fn source_changed(&mut self, sent: &[BlockHash], changed: &[BlockHash]) {
        self.transfers.stirred = true;
        for hash in sent {
            self.transfers.sending.remove(hash);
        }
        let changed: BTreeSet<&BlockHash> = changed.iter().collect();
        let nodes: Vec<NodeId> = self
            .transfers
            .uploads
            .iter()
            .filter(|(_, upload)| upload.wanted.values().any(|hash| changed.contains(hash)))
            .map(|(node, _)| *node)
            .collect();
        for node in nodes {
            self.transfers.uploads.remove(&node);
            self.look_at_node(node);
            self.trees.wake(node);
        }
        self.local.scan_is_due = true;
    }

    /// Files the node under what must be fetched.
    pub(super) fn want_content(&mut self, node: NodeId, env: &Environment<'_>) {
        let Some(Content::File(content)) = self.trees.remote(node).map(|remote| remote.content.clone()) else { return };
        if self.transfers.fetches.get(&node).is_some_and(|fetch| fetch.content.hash == content.hash) {
            return;
        }
        // A sweep of temporary files must not meet one that is being filled.
        if self.transfers.fetches.len() >= FETCH_WINDOW || self.local.is_cleaning() {
            self.transfers.fetch_queue.insert(node);
            return;
        }
        let Some((blocks, _)) = self.find_list(env, &content.hash) else {
            return self.fail(node, "the list of the file's blocks is lost".to_owned(), env.now, Blame::Lasting);
        };
        let numbers = 0..u32::try_from(blocks.0.len()).unwrap_or(u32::MAX);
        let temp = temp_name(node, &content.hash);
        let namespace = self.trees.remote_namespace(node);
        if let Some(Prefetched { wanted, asked }) = self.prefetches.take(node, &content.hash) {
            let begun = BTreeMap::new();
            let fetch = Fetch { content, namespace, blocks, temp, wanted, asked, probe: None, begun };
            if fetch.is_complete() {
                self.trees.wake(node);
            }
            self.transfers.fetches.insert(node, fetch);
            return;
        }
        let resumable = blocks.0.len() > 1;
        let reuse = self.local_blocks(env, node, &content, &blocks);
        let probe = (resumable || !reuse.is_empty()).then(|| {
            let blocks = Blocklist::clone(&blocks);
            self.start_job(Job::Probe { temp: temp.clone(), size: content.size, blocks, reuse })
        });
        let wanted = numbers.collect();
        let (asked, begun) = (BTreeMap::new(), BTreeMap::new());
        let fetch = Fetch { content, namespace, blocks, temp, wanted, asked, probe, begun };
        self.transfers.fetches.insert(node, fetch);
    }

    pub(super) fn probed(&mut self, id: JobId, present: &[u32], begun: Vec<(u32, BlockSource)>) {
        let Some((node, fetch)) = self.transfers.fetches.iter_mut().find(|(_, fetch)| fetch.probe == Some(id)) else {
            return;
        };
        fetch.probe = None;
        for number in present {
            fetch.wanted.remove(number);
        }
        fetch.begun = begun.into_iter().collect();
        let node = *node;
        self.trees.wake(node);
    }

    /// Nothing is asked for that the disk does not take.
    pub(super) fn found_no_room(&mut self, id: JobId, now: u64) {
        let fetches = &self.transfers.fetches;
        let Some(node) = fetches.iter().find(|(_, fetch)| fetch.probe == Some(id)).map(|(node, _)| *node) else {
            return;
        };
        self.transfers.forget_fetch(node);
        self.fail(node, StepError::NoSpace.to_string(), now, Blame::Lasting);
    }

    fn start_fetches(&mut self, env: &Environment<'_>) {
        if self.local.is_cleaning() {
            return;
        }
        self.drop_stale_fetches();
        while self.transfers.fetches.len() < FETCH_WINDOW {
            let Some(node) = self.transfers.fetch_queue.pop_first() else { break };
            self.want_content(node, env);
        }
        while self.transfers.running(false) < FETCHES {
            let Some((namespace, numbers, blocks)) = self.next_fetch() else { return };
            let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
            for (node, number) in &numbers {
                by_node.entry(*node).or_default().push(*number);
            }
            let begun = numbers.iter().filter_map(|(node, number)| self.take_begun(*node, *number));
            let begun: Vec<BlockSource> = begun.collect();
            let bases = by_node.iter().flat_map(|(node, numbers)| self.resembling(env, *node, numbers));
            let bases = begun.into_iter().chain(bases).take(limits::BASES_PER_REQUEST).collect();
            let id = self.send(Request::Fetch { namespace, blocks, bases });
            for (node, number) in &numbers {
                if let Some(fetch) = self.transfers.fetches.get_mut(node) {
                    fetch.asked.insert(*number, id);
                }
            }
            self.transfers.requests.insert(id, RequestKind::Fetch(numbers));
        }
    }

    /// The beginning of a block that was found in the temporary file; it serves once.
    fn take_begun(&mut self, node: NodeId, number: u32) -> Option<BlockSource> {
        self.transfers.fetches.get_mut(&node)?.begun.remove(&number)
    }

    /// What the server says now may be other content than what is being fetched. With many fetches that is
    /// not looked at for every event: what is stale is never installed, only fetched for nothing.
    fn drop_stale_fetches(&mut self) {
        let many = self.transfers.fetches.len() > FETCHES_LOOKED_AT;
        if many && self.now < self.transfers.stale_looked_at + STALE_PAUSE_MS {
            return;
        }
        self.transfers.stale_looked_at = self.now;
        let trees = &self.trees;
        let current = |node: &NodeId, fetch: &Fetch| {
            trees.dirty().contains(node)
                && matches!(trees.remote(*node).map(|r| r.content), Some(Content::File(file)) if file.hash == fetch.content.hash)
        };
        let stale: Vec<NodeId> = self
            .transfers
            .fetches
            .iter()
            .filter(|(node, fetch)| !current(node, fetch))
            .map(|(node, _)| *node)
            .collect();
        for node in stale {
            self.transfers.fetches.remove(&node);
            self.trees.wake(node);
        }
    }

    fn next_fetch(&mut self) -> Option<NextFetch> {
        let mut namespace = None;
        let mut numbers = Vec::new();
        let mut blocks: BTreeMap<BlockHash, FetchBlock> = BTreeMap::new();
        let mut bytes = 0;
        for (node, fetch) in &mut self.transfers.fetches {
            if fetch.wanted.is_empty()
                || fetch.probe.is_some()
                || *namespace.get_or_insert(fetch.namespace) != fetch.namespace
            {
                continue;
            }
            while bytes < FETCH_BYTES && numbers.len() < limits::BLOCKS_PER_REQUEST {
                let Some(number) = fetch.wanted.pop_first() else { break };
                let (Some(hash), len) = (
                    usize::try_from(number).ok().and_then(|at| fetch.blocks.0.get(at)).copied(),
                    u32::try_from(block_len(fetch.content.size, u64::from(number))).unwrap_or(0),
                ) else {
                    continue;
                };
                let target = BlockTarget { temp: fetch.temp.clone(), offset: u64::from(number) * BLOCK_SIZE };
                numbers.push((*node, number));
                let block = blocks.entry(hash).or_insert_with(|| {
                    bytes += u64::from(len);
                    FetchBlock { hash, len, to: Vec::new() }
                });
                block.to.push(target);
            }
            if bytes >= FETCH_BYTES || numbers.len() >= limits::BLOCKS_PER_REQUEST {
                break;
            }
        }
        (!numbers.is_empty()).then(|| (namespace.unwrap_or(self.state.root), numbers, blocks.into_values().collect()))
    }

    pub(super) fn fetch_again(&mut self, by: RequestId, asked: Vec<(NodeId, u32)>) {
        for (node, number) in asked {
            if let Some(fetch) = self.transfers.fetches.get_mut(&node)
                && answered(&mut fetch.asked, number, by)
            {
                fetch.wanted.insert(number);
            }
        }
    }

    pub(super) fn take_blocks(
        &mut self,
        by: RequestId,
        asked: Vec<(NodeId, u32)>,
        written: &[BlockHash],
        unavailable: &[BlockHash],
        disk: Option<StepError>,
        now: u64,
    ) {
        let written: BTreeSet<&BlockHash> = written.iter().collect();
        let unavailable: BTreeSet<&BlockHash> = unavailable.iter().collect();
        let mut failed = BTreeMap::new();
        let mut complete = BTreeSet::new();
        for (node, number) in asked {
            let Some(fetch) = self.transfers.fetches.get_mut(&node) else { continue };
            if !answered(&mut fetch.asked, number, by) {
                continue;
            }
            let Some(hash) = usize::try_from(number).ok().and_then(|at| fetch.blocks.0.get(at)) else { continue };
            if written.contains(hash) {
                if fetch.is_complete() {
                    complete.insert(node);
                }
                continue;
            }
            fetch.wanted.insert(number);
            if unavailable.contains(hash) {
                failed.insert(node, "the server does not have the content of this version".to_owned());
            } else if let Some(error) = &disk {
                failed.insert(node, error.to_string());
            }
        }
        for node in complete {
            self.trees.wake(node);
        }
        for (node, reason) in failed {
            self.transfers.forget_fetch(node);
            self.fail(node, reason, now, Blame::Lasting);
        }
    }
}

/// The namespace, which block numbers of which nodes, and the blocks of one download.
pub(super) type NextFetch = (NamespaceId, Vec<(NodeId, u32)>, Vec<FetchBlock>);

/// The temporary file for a node's content.
pub(super) fn temp_name(node: NodeId, hash: &ContentHash) -> TempName {
    TempName(format!("{node}-{}", &hash.to_string()[..16]))
}

/// Where a local file has its block `number`.
fn block_of(path: &LocalPath, content: &FileContent, number: u32, hash: BlockHash) -> BlockSource {
    let len = u32::try_from(block_len(content.size, number.into())).unwrap_or(0);
    BlockSource { hash, len, path: path.clone(), offset: u64::from(number) * BLOCK_SIZE }
}

/// Each block once.
pub(super) fn without_repeats(blocks: Vec<BlockSource>) -> Vec<BlockSource> {
    let mut seen = BTreeSet::new();
    blocks.into_iter().filter(|block| seen.insert(block.hash)).collect()
}
