//! Content that another device is uploading, fetched before it is committed.
//!
//! The uploader announces a large new file; the server tells the others when blocks of it arrive; these
//! fetch them into the temporary file in which the download would put them. Nothing is concluded from an
//! announcement: the file appears when its commit is read in the journal, and what was fetched by then need
//! not be fetched any more. An announcement that no commit follows leaves a temporary file, which is
//! swept away when all is at rest.

use super::Engine;
use super::transfer::{FETCH_BYTES, NextFetch, RequestKind, Transfers, answered};
use crate::io::{BlockTarget, FetchBlock, Request, RequestId, StepError, TempName};
use api::{AnnounceRequest, ComingFile, ComingReply, ComingRequest};
use model::block::block_len;
use model::{BLOCK_SIZE, BlockHash, Blocklist, ContentHash, NamespaceId, NodeId, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests for blocks that are coming, at a time.
const PREFETCHES: usize = 3;
/// Files that are fetched while they come; the others are fetched when they are committed.
const FILES: usize = 16;
/// Announcements of this device that are remembered, so that none is made twice.
const ANNOUNCED: usize = 1000;
/// How long an upload may bring nothing before what was fetched of it is given up, in milliseconds.
const PATIENCE_MS: u64 = 120_000;
/// How soon after one question what is coming the next may follow, in milliseconds.
const ASK_PAUSE_MS: u64 = 1_000;

/// What is coming, and what this device has announced.
#[derive(Debug, Default)]
pub(super) struct Prefetches {
    files: BTreeMap<NodeId, Prefetch>,
    /// Namespaces to ask about.
    ask: BTreeSet<NamespaceId>,
    asked_at: BTreeMap<NamespaceId, u64>,
    /// How often it was heard that something arrived.
    heard: u64,
    /// Uploads to be announced as soon as their folder is on the server.
    to_announce: BTreeSet<NodeId>,
    announced: BTreeMap<NodeId, ContentHash>,
}

/// A file that is fetched while it comes.
#[derive(Debug)]
struct Prefetch {
    namespace: NamespaceId,
    hash: ContentHash,
    size: u64,
    blocks: Arc<Blocklist>,
    temp: TempName,
    /// Blocks to ask for.
    wanted: BTreeSet<u32>,
    /// Blocks that were asked for, and by which request.
    asked: BTreeMap<u32, RequestId>,
    /// What is wanted next has not arrived at the server: there is no use in asking before the next word.
    dry: bool,
    heard_at: u64,
}

/// What was fetched of a file before its commit, and what is on its way.
pub(super) struct Prefetched {
    pub(super) wanted: BTreeSet<u32>,
    pub(super) asked: BTreeMap<u32, RequestId>,
}

impl Prefetches {
    /// Whether nothing is being written into a temporary file from here.
    pub(super) fn is_idle(&self) -> bool {
        self.files.is_empty()
    }

    /// When the next file is given up unless something arrives.
    pub(super) fn next_give_up(&self) -> Option<u64> {
        self.files.values().filter(|file| file.asked.is_empty()).map(|file| file.heard_at + PATIENCE_MS).min()
    }

    /// Hands over what was fetched of a file whose commit has been read.
    pub(super) fn take(&mut self, node: NodeId, hash: &ContentHash) -> Option<Prefetched> {
        let known = self.files.get(&node).is_some_and(|file| file.hash == *hash);
        let file = if known { self.files.remove(&node) } else { None };
        file.map(|Prefetch { wanted, asked, .. }| Prefetched { wanted, asked })
    }

    /// What is being uploaded here, for the others to hear of.
    pub(super) fn wants_announcing(&mut self, node: NodeId) {
        self.to_announce.insert(node);
    }
}

impl Engine {
    /// Blocks of an upload into the namespace have arrived.
    pub(super) fn hear_of_coming(&mut self, namespace: NamespaceId) {
        if !self.tuning.prefetch || !self.state.cursor.contains_key(&namespace) {
            return;
        }
        let (now, prefetches) = (self.now, &mut self.prefetches);
        prefetches.heard += 1;
        for file in prefetches.files.values_mut().filter(|file| file.namespace == namespace) {
            (file.dry, file.heard_at) = (false, now);
        }
        if prefetches.asked_at.get(&namespace).is_none_or(|at| at + ASK_PAUSE_MS <= now) {
            prefetches.ask.insert(namespace);
        }
    }

    pub(super) fn start_prefetches(&mut self) {
        if !self.tuning.prefetch {
            return;
        }
        self.announce_uploads();
        self.give_up_prefetches();
        while let Some(namespace) = self.prefetches.ask.pop_first() {
            self.prefetches.asked_at.insert(namespace, self.now);
            let id = self.send(Request::Coming(ComingRequest { namespace }));
            self.transfers.requests.insert(id, RequestKind::Coming(namespace));
        }
        // A sweep of temporary files must not meet one that is being filled.
        if !self.temps_cleaned || self.local.is_cleaning() {
            return;
        }
        while self.transfers.prefetching() < PREFETCHES {
            let Some((namespace, asked, blocks)) = self.next_prefetch() else { return };
            let heard = self.prefetches.heard;
            let id = self.send(Request::Prefetch { namespace, blocks });
            for (node, number) in &asked {
                if let Some(file) = self.prefetches.files.get_mut(node) {
                    file.asked.insert(*number, id);
                }
            }
            self.transfers.requests.insert(id, RequestKind::Prefetch { asked, heard });
        }
    }

    fn announce_uploads(&mut self) {
        let ready: Vec<NodeId> = self.prefetches.to_announce.iter().copied().collect();
        for node in ready {
            let Some((namespace, file)) = self.announcement(node) else { continue };
            self.prefetches.to_announce.remove(&node);
            let hash = Blocklist(file.blocks.clone()).content_hash();
            if self.prefetches.announced.len() >= ANNOUNCED {
                self.prefetches.announced.clear();
            }
            if self.prefetches.announced.insert(node, hash) == Some(hash) {
                continue;
            }
            let id = self.send(Request::Announce(AnnounceRequest { namespace, file }));
            self.transfers.requests.insert(id, RequestKind::Announce);
        }
    }

    /// What there is to announce of an upload; `None` as long as its folder is not on the server.
    fn announcement(&mut self, node: NodeId) -> Option<(NamespaceId, ComingFile)> {
        let upload = self.transfers.announceable(node).map(|(size, blocks)| (size, blocks.clone()));
        let place = self.trees.local(node).map(|local| local.place);
        let (Some((size, blocks)), Some(place)) = (upload, place) else {
            self.prefetches.to_announce.remove(&node);
            return None;
        };
        let parent = place.parent;
        let namespace = self.trees.namespace_below(parent);
        let known = self.trees.has_remote(parent) || parent == self.trees.root();
        known.then_some((namespace, ComingFile { node, parent, size, blocks }))
    }

    pub(super) fn take_coming(&mut self, namespace: NamespaceId, reply: ComingReply) {
        for file in reply.files {
            if self.prefetches.files.len() >= FILES {
                return;
            }
            if self.is_worth_fetching(&file) && !self.prefetches.files.contains_key(&file.node) {
                self.add_prefetch(namespace, file);
            }
        }
    }

    fn is_worth_fetching(&self, file: &ComingFile) -> bool {
        let ComingFile { node, parent, size, blocks } = file;
        let whole = *size > 0 && size.div_ceil(BLOCK_SIZE) == blocks.len() as u64;
        let parent_is_wanted =
            (*parent == self.trees.root() || self.trees.has_remote(*parent)) && !self.trees.is_excluded(*parent);
        whole && blocks.len() <= limits::COMING_BLOCKS && parent_is_wanted && self.trees.row(*node).is_none()
    }

    fn add_prefetch(&mut self, namespace: NamespaceId, file: ComingFile) {
        let ComingFile { node, size, blocks, .. } = file;
        let wanted = (0..u32::try_from(blocks.len()).unwrap_or(u32::MAX)).collect();
        let blocks = Arc::new(Blocklist(blocks));
        let hash = blocks.content_hash();
        let prefetch = Prefetch {
            namespace,
            hash,
            size,
            blocks,
            temp: super::transfer::temp_name(node, &hash),
            wanted,
            asked: BTreeMap::new(),
            dry: false,
            heard_at: self.now,
        };
        self.prefetches.files.insert(node, prefetch);
    }

    fn give_up_prefetches(&mut self) {
        let now = self.now;
        let before = self.prefetches.files.len();
        self.prefetches.files.retain(|_, file| file.heard_at + PATIENCE_MS > now || !file.asked.is_empty());
        if self.prefetches.files.len() < before {
            self.temps_cleaned = false;
        }
    }

    /// What was announced by a server that is not the same any more.
    pub(super) fn forget_prefetches(&mut self) {
        if !self.prefetches.files.is_empty() {
            self.temps_cleaned = false;
        }
        self.prefetches = Prefetches::default();
    }

    fn next_prefetch(&mut self) -> Option<NextFetch> {
        let (node, file) = self.prefetches.files.iter_mut().find(|(_, file)| !file.dry && !file.wanted.is_empty())?;
        let mut asked = Vec::new();
        let mut blocks: BTreeMap<BlockHash, FetchBlock> = BTreeMap::new();
        let mut bytes = 0;
        while bytes < FETCH_BYTES && asked.len() < limits::BLOCKS_PER_REQUEST {
            let Some(number) = file.wanted.pop_first() else { break };
            let Some(hash) = block_at(&file.blocks, number) else { continue };
            let len = u32::try_from(block_len(file.size, u64::from(number))).unwrap_or(0);
            asked.push((*node, number));
            let target = BlockTarget { temp: file.temp.clone(), offset: u64::from(number) * BLOCK_SIZE };
            let block = blocks.entry(hash).or_insert_with(|| {
                bytes += u64::from(len);
                FetchBlock { hash, len, to: Vec::new() }
            });
            block.to.push(target);
        }
        Some((file.namespace, asked, blocks.into_values().collect()))
    }

    /// The answer to a request for blocks that are coming. Their file may have been committed meanwhile.
    pub(super) fn take_prefetched(
        &mut self,
        by: RequestId,
        asked: Vec<(NodeId, u32)>,
        heard: u64,
        written: &[BlockHash],
        disk: Option<&StepError>,
    ) {
        let written: BTreeSet<&BlockHash> = written.iter().collect();
        let nothing_new = self.prefetches.heard == heard;
        let mut failed = BTreeSet::new();
        for (node, number) in asked {
            if let Some(file) = self.prefetches.files.get_mut(&node) {
                let here = block_at(&file.blocks, number).is_some_and(|hash| written.contains(&hash));
                if !answered(&mut file.asked, number, by) {
                    continue;
                }
                if !here {
                    file.wanted.insert(number);
                    file.dry |= nothing_new;
                }
                if disk.is_some() {
                    failed.insert(node);
                }
            } else if self.transfers.take_prefetched_block(by, (node, number), &written) {
                self.trees.wake(node);
            }
        }
        for node in failed {
            self.prefetches.files.remove(&node);
            self.temps_cleaned = false;
        }
    }
}

pub(super) fn block_at(blocks: &Blocklist, number: u32) -> Option<BlockHash> {
    usize::try_from(number).ok().and_then(|at| blocks.0.get(at)).copied()
}

impl Transfers {
    fn prefetching(&self) -> usize {
        self.requests.values().filter(|kind| matches!(kind, RequestKind::Prefetch { .. })).count()
    }
}
