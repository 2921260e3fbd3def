//! Uploads under way: what a device announced, so that the others fetch its blocks while they arrive.
//!
//! The rule for who may fetch what is not committed yet: a member of the namespace, a block that a device
//! with the right to write there announced for a file of that namespace, if that device's account has
//! itself uploaded the block. Such a device could commit the file at this instant, and every member could
//! then read it: nobody gets more than a commit would give. A hash that was only named gives nothing.
//!
//! All of it is kept in memory and may be forgotten at any time; then a file is fetched when it is
//! committed.

use crate::failure::{bad_request, forbidden};
use crate::service::{MetaService, before, role};
use api::service::{Identity, StoredBlock};
use api::{AnnounceRequest, ApiError, ComingFile, ComingReply, ComingRequest, SentCommit, SentOperation};
use model::{BLOCK_SIZE, BlockHash, NamespaceId, NodeId, Timestamp, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files that one device may have announced; the one that was silent for longest makes room.
const FILES_PER_DEVICE: usize = 16;
/// Files that all devices together may have announced: 64 MiB of hashes.
const FILES: usize = 256;

/// The announced uploads.
#[derive(Debug, Default)]
pub(crate) struct ComingFiles(Mutex<Vec<Announced>>);

#[derive(Debug)]
struct Announced {
    who: Identity,
    namespace: NamespaceId,
    file: ComingFile,
    blocks: BTreeSet<BlockHash>,
    /// When a block of it last arrived, or it was announced.
    active: Timestamp,
}

impl ComingFiles {
    fn lock(&self) -> MutexGuard<'_, Vec<Announced>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, new: Announced) {
        let mut files = self.lock();
        let alive = before(new.active, limits::COMING_LIFE);
        files.retain(|one| one.active >= alive && !(one.who == new.who && one.file.node == new.file.node));
        let own = |one: &Announced| one.who == new.who;
        while files.iter().filter(|one| own(one)).count() >= FILES_PER_DEVICE {
            drop_most_silent(&mut files, own);
        }
        if files.len() >= FILES {
            drop_most_silent(&mut files, |_| true);
        }
        files.push(new);
    }

    /// Notes that blocks arrived; the namespaces for which they were announced.
    fn arrived(&self, who: Identity, blocks: &[StoredBlock], now: Timestamp) -> BTreeSet<NamespaceId> {
        let mut namespaces = BTreeSet::new();
        for one in self.lock().iter_mut().filter(|one| one.who == who) {
            if blocks.iter().any(|block| one.blocks.contains(&block.hash)) {
                one.active = now;
                namespaces.insert(one.namespace);
            }
        }
        namespaces
    }

    /// Which of the nodes that a commit names its device had announced.
    pub(crate) fn named_by(&self, who: Identity, commit: &SentCommit) -> BTreeSet<NodeId> {
        let files = self.lock();
        let announced: BTreeSet<NodeId> = files.iter().filter(|one| one.who == who).map(|one| one.file.node).collect();
        if announced.is_empty() {
            return announced;
        }
        commit.operations.iter().map(SentOperation::node).filter(|node| announced.contains(node)).collect()
    }

    /// What is committed does not come any more.
    pub(crate) fn end(&self, who: Identity, nodes: &BTreeSet<NodeId>) {
        if !nodes.is_empty() {
            self.lock().retain(|one| one.who != who || !nodes.contains(&one.file.node));
        }
    }

    /// What other devices announced for a namespace.
    fn list(&self, who: Identity, namespace: NamespaceId, alive: Timestamp) -> Vec<ComingFile> {
        let files = self.lock();
        let here = |one: &&Announced| one.namespace == namespace && one.who.device != who.device && one.active >= alive;
        files.iter().filter(here).map(|one| one.file.clone()).collect()
    }

    /// Which of the blocks each device announced for the namespace.
    fn announcers(
        &self,
        namespace: NamespaceId,
        blocks: &[BlockHash],
        alive: Timestamp,
    ) -> BTreeMap<Identity, Vec<BlockHash>> {
        let mut announcers: BTreeMap<Identity, Vec<BlockHash>> = BTreeMap::new();
        for one in self.lock().iter().filter(|one| one.namespace == namespace && one.active >= alive) {
            let named = blocks.iter().filter(|hash| one.blocks.contains(hash));
            announcers.entry(one.who).or_default().extend(named);
        }
        announcers
    }
}

fn drop_most_silent(files: &mut Vec<Announced>, among: impl Fn(&Announced) -> bool) {
    let most_silent = files.iter().enumerate().filter(|(_, one)| among(one)).min_by_key(|(_, one)| one.active);
    if let Some((at, _)) = most_silent {
        files.remove(at);
    }
}

impl MetaService {
    /// `announce`: the caller begins to upload a file.
    ///
    /// # Errors
    /// `Forbidden` for who may not write in the namespace; `BadRequest` for a file that cannot be;
    /// `Unlinked`, `Unavailable`.
    pub fn announce(&self, who: Identity, request: AnnounceRequest) -> Result<(), ApiError> {
        let AnnounceRequest { namespace, file } = request;
        check_file(&file)?;
        self.snapshot(|reading| {
            let role = role(reading, who, namespace)?;
            if role.may_write() { Ok(()) } else { Err(forbidden().into()) }
        })?;
        let blocks = file.blocks.iter().copied().collect();
        let active = self.environment.now();
        self.coming.add(Announced { who, namespace, file, blocks, active });
        // Some of the blocks may have been there already.
        self.announce.coming(namespace, who.device);
        Ok(())
    }

    /// `coming`: what other devices are uploading into a namespace.
    ///
    /// # Errors
    /// `Forbidden` for who is no member; `Unlinked`, `Unavailable`.
    pub fn coming(&self, who: Identity, request: &ComingRequest) -> Result<ComingReply, ApiError> {
        self.snapshot(|reading| role(reading, who, request.namespace))?;
        let alive = before(self.environment.now(), limits::COMING_LIFE);
        Ok(ComingReply { files: self.coming.list(who, request.namespace, alive) })
    }

    /// For each block, whether it was announced for the namespace by somebody who has it and could commit it.
    pub(crate) fn coming_blocks(
        &self,
        who: Identity,
        namespace: NamespaceId,
        blocks: &[BlockHash],
    ) -> Result<Vec<bool>, ApiError> {
        let now = self.environment.now();
        let announcers = self.coming.announcers(namespace, blocks, before(now, limits::COMING_LIFE));
        let since = before(now, limits::UNCOMMITTED_BLOCK_LIFE);
        let readable = self.snapshot(|reading| {
            role(reading, who, namespace)?;
            let mut readable = BTreeSet::new();
            for (announcer, named) in &announcers {
                let role = reading.role(namespace, announcer.account)?;
                if role.is_some_and(model::Role::may_write) {
                    let uploaded = reading.uploaded_blocks(announcer.account, named, since)?;
                    readable.extend(named.iter().zip(uploaded).filter(|(_, has)| *has).map(|(hash, _)| *hash));
                }
            }
            Ok(readable)
        })?;
        Ok(blocks.iter().map(|hash| readable.contains(hash)).collect())
    }

    /// Tells the others of blocks that arrived and were announced.
    pub(crate) fn tell_of_arrival(&self, who: Identity, blocks: &[StoredBlock]) {
        for namespace in self.coming.arrived(who, blocks, self.environment.now()) {
            self.announce.coming(namespace, who.device);
        }
    }
}

fn check_file(file: &ComingFile) -> Result<(), ApiError> {
    let fits = file.blocks.len() <= limits::COMING_BLOCKS;
    if !fits || file.size == 0 || file.size.div_ceil(BLOCK_SIZE) != file.blocks.len() as u64 {
        return Err(bad_request("no file that may be announced has such blocks".to_owned()));
    }
    Ok(())
}
