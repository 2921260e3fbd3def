//! Commits: the queue in front of them, and the transaction around the decision.

use crate::decide::{Decision, Effects, Terms, TreeView, decide};
use crate::failure::{Failure, bad_request, epoch_changed, forbidden, gone_back};
use crate::group::{Batch, GroupCommit, GroupError};
use crate::service::{MetaService, News, check_linked, identity};
use crate::watermark::Watermarks;
use api::service::Identity;
use api::{AmendedList, ApiError, ErrorCode, SentCommit, SentOperation};
use metadata_store::port::Answer;
use metadata_store::{Child, Lookups, Namespace, NodeRecord, Transaction, Writers};
use model::{
    AccountId, BlockHash, Blocklist, Body, Commit, CommitOutcome, DeviceId, NameKey, NamespaceId, NodeId, Operation,
    Position, Reason, Rejection, Role, Timestamp, limits,
};
use std::collections::BTreeSet;

/// Commits that may wait for their transaction; more are told to come back.
const WAITING_COMMITS: usize = 4 * limits::GROUP_COMMIT;
/// What the commits of one transaction may name together, but for a single one that names more.
const BATCH_WEIGHT: usize = limits::COMMIT_BLOCKS;
/// Blocks of one transaction that are looked up ahead; a commit that names more looks up the rest by itself.
const BLOCKS_LOOKED_UP: usize = 4096;
/// What a client waits that was told to come back.
const RETRY_MS: u32 = 500;

/// Blocks that became durable for an account, and the commit that follows them.
pub(crate) struct Request {
    pub(crate) who: Identity,
    pub(crate) stored: Vec<BlockHash>,
    pub(crate) commit: Option<SentCommit>,
}

impl Request {
    /// About how many rows and list items the transaction has in memory for it.
    fn weight(&self) -> usize {
        let operations = self.commit.iter().flat_map(|commit| &commit.operations);
        let blocks: u64 = operations.map(|operation| 1 + operation.count_blocks()).sum();
        1 + self.stored.len() + usize::try_from(blocks).unwrap_or(usize::MAX / 2)
    }
}

type Reply = Result<Option<CommitOutcome>, ApiError>;

/// The commits that wait for a transaction.
pub(crate) struct CommitQueue(GroupCommit<Lane, Request, Reply>);

/// What shares transactions: where transactions on two namespaces run beside each other, they are not put
/// into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    All,
    Namespace(NamespaceId),
    /// Stored blocks without a commit, which concern no namespace.
    Account(AccountId),
}

impl Lane {
    fn of(request: &Request, writers: Writers) -> Self {
        match (writers, &request.commit) {
            (Writers::One, _) => Self::All,
            (Writers::PerNamespace, Some(commit)) => Self::Namespace(commit.namespace),
            (Writers::PerNamespace, None) => Self::Account(request.who.account),
        }
    }
}

impl CommitQueue {
    pub(crate) fn with_limits() -> Self {
        let batch = Batch { requests: limits::GROUP_COMMIT, weigh: Request::weight, weight: BATCH_WEIGHT };
        Self(GroupCommit::new(batch, WAITING_COMMITS))
    }
}

impl MetaService {
    /// `commit`: a batch of operations on one namespace, accepted or refused as one. A commit whose key
    /// is known is answered with its stored outcome.
    ///
    /// # Errors
    /// `Unlinked`; `EpochChanged` for another epoch or a client that has seen more than there is;
    /// `Forbidden` for an account that is no member (a member who may only read gets a rejection);
    /// `BadRequest` for a commit beyond the limits; `Busy`, `Unavailable`, `NoSpace`.
    pub fn commit(&self, who: Identity, commit: impl Into<SentCommit>) -> Result<CommitOutcome, ApiError> {
        let outcome = self.submit(Request { who, stored: Vec::new(), commit: Some(commit.into()) })?;
        outcome.ok_or_else(|| ApiError::new(ErrorCode::Unavailable, "the commit was not decided"))
    }

    /// Runs a request in a transaction, together with others that wait.
    pub(crate) fn submit(&self, request: Request) -> Reply {
        if let Some(commit) = &request.commit {
            check_size(commit)?;
        }
        let announced = request.commit.as_ref().map(|commit| self.coming.named_by(request.who, commit));
        let (who, lane) = (request.who, Lane::of(&request, self.store.writers()));
        let reply = self.commits.0.submit(lane, request, |requests| self.run(requests));
        if let (Ok(Ok(Some(CommitOutcome::Accepted { .. }))), Some(announced)) = (&reply, announced) {
            self.coming.end(who, &announced);
        }
        reply.unwrap_or_else(|error| match error {
            GroupError::Full => Err(ApiError {
                retry_after_ms: Some(RETRY_MS),
                ..ApiError::new(ErrorCode::Busy, "too many commits at once, try again")
            }),
            GroupError::Lost => {
                Err(ApiError::new(ErrorCode::Unavailable, "the commit's outcome is unknown, ask again"))
            }
        })
    }

    /// One transaction for all; if it fails, one for each, so that a request that cannot be done does
    /// not take the others with it.
    fn run(&self, requests: &[Request]) -> Vec<Reply> {
        match self.run_together(requests) {
            Ok(replies) => replies,
            Err(failure) if requests.len() == 1 || failure.concerns_all() => {
                let error = ApiError::from(failure);
                vec![Err(error); requests.len()]
            }
            Err(_) => requests
                .iter()
                .map(|request| {
                    let mut replies = self.run_together(std::slice::from_ref(request))?;
                    replies.pop().unwrap_or(Ok(None))
                })
                .collect(),
        }
    }

    /// Requests are decided in order, each against what the earlier ones left. An answer that is an
    /// error has written nothing but the note of stored blocks, which holds whatever becomes of the
    /// commit. Done twice it does nothing more than once, since it looks for its outcomes first.
    fn run_together(&self, requests: &[Request]) -> Result<Vec<Reply>, Failure> {
        let round = Round { now: self.environment.now(), watermarks: &self.watermarks };
        let lookups = lookups(requests, self.store.writers());
        self.write_again(|tx, news| {
            if let Some(lookups) = &lookups {
                tx.prefetch(lookups)?;
            }
            let mut replies = Vec::with_capacity(requests.len());
            for request in requests {
                replies.push(match run_one(tx, request, &round, news) {
                    Ok(outcome) => Ok(outcome),
                    Err(Failure::Api(error)) => Err(error),
                    Err(Failure::Store(error)) => return Err(error.into()),
                });
            }
            Ok(replies)
        })
    }
}

/// What the requests of one transaction are going to look up, where that is worth fetching at once.
fn lookups(requests: &[Request], writers: Writers) -> Option<Lookups> {
    let commits = || requests.iter().filter_map(|request| Some((request.who, request.commit.as_ref()?)));
    let (_, first) = commits().next().filter(|_| writers == Writers::PerNamespace)?;
    let operations = || commits().flat_map(|(_, commit)| &commit.operations);
    let places: BTreeSet<(NodeId, NameKey)> = operations().filter_map(place).collect();
    let named: BTreeSet<NodeId> = operations().map(SentOperation::node).collect();
    let made = operations().filter(|operation| matches!(operation, SentOperation::Whole(Operation::Create { .. })));
    let new_nodes: BTreeSet<NodeId> = made.map(SentOperation::node).collect();
    let nodes: BTreeSet<NodeId> = named.into_iter().chain(places.iter().map(|(parent, _)| *parent)).collect();
    let devices: BTreeSet<DeviceId> = commits().map(|(who, _)| who.device).collect();
    let accounts: BTreeSet<AccountId> = commits().map(|(who, _)| who.account).collect();
    let outcomes: BTreeSet<_> = commits().map(|(who, commit)| (who.device, commit.key)).collect();
    let stored: BTreeSet<(AccountId, BlockHash)> =
        requests.iter().flat_map(|request| request.stored.iter().map(|block| (request.who.account, *block))).collect();
    let used = commits().flat_map(|(who, commit)| {
        commit.operations.iter().flat_map(SentOperation::named_blocks).map(move |block| (who.account, *block))
    });
    let blocks: BTreeSet<(AccountId, BlockHash)> =
        used.filter(|block| !stored.contains(block)).take(BLOCKS_LOOKED_UP).collect();
    Some(Lookups {
        namespace: first.namespace,
        devices: devices.into_iter().collect(),
        accounts: accounts.into_iter().collect(),
        outcomes: outcomes.into_iter().collect(),
        nodes: nodes.into_iter().filter(|node| *node != first.namespace.root()).collect(),
        places: places.into_iter().collect(),
        new_nodes: new_nodes.into_iter().collect(),
        blocks: blocks.into_iter().collect(),
    })
}

/// Where an operation puts its node.
fn place(operation: &SentOperation) -> Option<(NodeId, NameKey)> {
    let SentOperation::Whole(operation) = operation else { return None };
    match operation {
        Operation::Create { parent, name, .. } | Operation::Move { parent, name, .. } => Some((*parent, name.key())),
        Operation::Edit { .. } | Operation::Delete { .. } => None,
    }
}

/// What the requests of one transaction share.
struct Round<'s> {
    now: Timestamp,
    watermarks: &'s Watermarks,
}

fn run_one(
    tx: &dyn Transaction,
    request: &Request,
    round: &Round<'_>,
    news: &mut News,
) -> Result<Option<CommitOutcome>, Failure> {
    let (who, now) = (request.who, round.now);
    // The lock comes before all that is to hold: of one commit that reached two servers, the second waits
    // here and then finds the outcome of the first.
    let namespace = match &request.commit {
        Some(commit) => tx.lock_namespace(commit.namespace)?,
        None => None,
    };
    check_linked(tx, who)?;
    let answered = request.commit.as_ref().map(|commit| answer(tx, request, commit, namespace, round, news));
    let answered = match answered.transpose() {
        Err(Failure::Store(error)) => return Err(error.into()),
        answered => answered,
    };
    // What the namespace names from now on needs no note of its upload.
    let named = match &answered {
        Ok(Some((_, named))) => named.as_slice(),
        Ok(None) | Err(_) => &[],
    };
    let unnamed: Vec<BlockHash> =
        request.stored.iter().filter(|block| named.binary_search(block).is_err()).copied().collect();
    tx.add_uploaded_blocks(who.account, &unnamed, now)?;
    Ok(answered?.map(|(outcome, _)| outcome))
}

/// The outcome of a commit, which is decided once. The blocks, in order, are those that it names if it is accepted now.
fn answer(
    tx: &dyn Transaction,
    request: &Request,
    commit: &SentCommit,
    namespace: Option<Namespace>,
    round: &Round<'_>,
    news: &mut News,
) -> Result<(CommitOutcome, Vec<BlockHash>), Failure> {
    let who = request.who;
    if let Some(outcome) = tx.outcome(commit.namespace, who.device, commit.key)? {
        // Told once more: what was committed without an answer was committed without a word to the others.
        if let CommitOutcome::Accepted { head, .. } = outcome {
            news.reached(commit.namespace, head, None);
        }
        return Ok((outcome, Vec::new()));
    }
    let (outcome, named) = settle(tx, request, commit, namespace, round, news)?;
    tx.put_outcome(commit.namespace, who.device, commit.key, &outcome, round.now)?;
    Ok((outcome, named))
}

/// Decides a commit that is not known yet, and writes what it changes. The blocks are as above.
fn settle(
    tx: &dyn Transaction,
    request: &Request,
    commit: &SentCommit,
    namespace: Option<Namespace>,
    round: &Round<'_>,
    news: &mut News,
) -> Result<(CommitOutcome, Vec<BlockHash>), Failure> {
    let (who, now) = (request.who, round.now);
    let refused = |outcome| Ok((outcome, Vec::new()));
    if commit.epoch != identity(tx)?.epoch {
        return Err(epoch_changed().into());
    }
    let role = tx.role(commit.namespace, who.account)?.ok_or_else(forbidden)?;
    let namespace = namespace.ok_or_else(forbidden)?;
    if round.watermarks.is_behind(commit.epoch, commit.namespace, namespace.head) {
        return Err(gone_back(commit.namespace, namespace.head).into());
    }
    if commit.seen > namespace.head {
        return Err(epoch_changed().into());
    }
    if !role.may_write() {
        return refused(refuse_all(commit));
    }
    let whole = match complete(tx, commit)? {
        Ok(whole) => whole,
        Err(rejections) => return refused(CommitOutcome::Rejected(rejections)),
    };
    let terms = Terms {
        root: commit.namespace.root(),
        head: namespace.head,
        live_nodes: namespace.live_nodes,
        device: Some(who.device),
        time: now,
    };
    let stored = request.stored.iter().collect();
    match decide(&CommitView { tx, who, namespace: commit.namespace, stored, now }, &terms, &whole)? {
        Decision::Reject(rejections) => refused(CommitOutcome::Rejected(rejections)),
        Decision::Accept(effects) => {
            write_entries(tx, commit.namespace, &effects)?;
            if let Some(last) = effects.entries.last() {
                news.reached(commit.namespace, last.position, Some(who.device));
            }
            end_memberships(tx, who, &effects, news)?;
            let head = effects.entries.last().map_or(namespace.head, |entry| entry.position);
            news.epoch = Some(commit.epoch);
            Ok((CommitOutcome::Accepted { head, time: now }, effects.blocks))
        }
    }
}

/// The commit with whole blocklists. One that cannot be had is a reason to refuse its operation: in place of the
/// decision, which would have to do without it.
fn complete(tx: &dyn Transaction, commit: &SentCommit) -> Answer<Result<Commit, Vec<Rejection>>> {
    let (mut operations, mut rejections) = (Vec::with_capacity(commit.operations.len()), Vec::new());
    let mut read = 0;
    for (operation, index) in commit.operations.iter().zip(0..) {
        match operation {
            SentOperation::Whole(operation) => operations.push(operation.clone()),
            SentOperation::Amend { node, base_content, blocks, size, executable, mtime } => {
                // As for all files that a commit changes: `decide` says why.
                let base = if read > limits::COMMIT_BLOCKS { None } else { tx.node(commit.namespace, *node)? };
                read += base.as_ref().map_or(0, |base| base.body.blocks().len());
                if read > limits::COMMIT_BLOCKS {
                    rejections.push(Rejection { index, reason: Reason::Malformed });
                    continue;
                }
                match amended(base, *base_content, blocks) {
                    Ok(blocks) => {
                        let body = Body::File { blocks, size: *size, executable: *executable, mtime: *mtime };
                        operations.push(Operation::Edit { node: *node, base_content: *base_content, body });
                    }
                    Err(reason) => rejections.push(Rejection { index, reason }),
                }
            }
        }
    }
    Ok(if rejections.is_empty() { Ok(commit.with(operations)) } else { Err(rejections) })
}

/// The whole of a blocklist that was made against this revision of a file.
fn amended(base: Option<NodeRecord>, revision: Position, blocks: &AmendedList) -> Result<Blocklist, Reason> {
    let base = base.filter(|base| base.is_live() && base.content_rev == revision).ok_or(Reason::Stale)?;
    let Body::File { blocks: older, .. } = base.body else { return Err(Reason::KindChange) };
    blocks.resolve(&older).map_err(|_misfit| Reason::Malformed)
}

fn refuse_all(commit: &SentCommit) -> CommitOutcome {
    let indexes = 0..u32::try_from(commit.operations.len()).unwrap_or(u32::MAX);
    CommitOutcome::Rejected(indexes.map(|index| Rejection { index, reason: Reason::Forbidden }).collect())
}

/// Writes what the server itself changes in one namespace, of which every device has to hear.
pub(crate) fn write_effects(
    tx: &dyn Transaction,
    namespace: NamespaceId,
    effects: &Effects,
    news: &mut News,
) -> Answer<()> {
    write_entries(tx, namespace, effects)?;
    if let Some(last) = effects.entries.last() {
        news.reached(namespace, last.position, None);
    }
    Ok(())
}

fn write_entries(tx: &dyn Transaction, namespace: NamespaceId, effects: &Effects) -> Answer<()> {
    if effects.entries.is_empty() {
        return Ok(());
    }
    for (position, nodes) in &effects.killed {
        tx.kill_nodes(namespace, nodes, *position)?;
    }
    tx.put_nodes(namespace, &effects.nodes)?;
    tx.set_live_nodes(namespace, effects.live_nodes)?;
    tx.add_named_blocks(namespace, &effects.blocks)?;
    tx.append(namespace, &effects.entries)
}

/// Who deletes the mount of another's shared folder leaves it. The lock keeps the owner from giving the member another role
/// in the same moment, who would be a member without a mount then.
fn end_memberships(tx: &dyn Transaction, who: Identity, effects: &Effects, news: &mut News) -> Answer<()> {
    for mount in &effects.unmounted {
        tx.lock_namespace(mount.as_namespace())?;
        tx.remove_member(mount.as_namespace(), who.account)?;
        news.memberships.insert(who.account);
    }
    Ok(())
}

fn check_size(commit: &SentCommit) -> Result<(), ApiError> {
    if commit.operations.len() > limits::COMMIT_OPERATIONS {
        return Err(bad_request(format!("a commit holds at most {} operations", limits::COMMIT_OPERATIONS)));
    }
    let blocks: u64 = commit.operations.iter().map(SentOperation::count_blocks).sum();
    if blocks > limits::COMMIT_BLOCKS as u64 {
        return Err(bad_request(format!("a commit names at most {} blocks", limits::COMMIT_BLOCKS)));
    }
    Ok(())
}

/// The tree of one namespace inside a transaction, as a member sees it.
struct CommitView<'t> {
    tx: &'t dyn Transaction,
    who: Identity,
    namespace: NamespaceId,
    /// Blocks that came with the commit.
    stored: BTreeSet<&'t BlockHash>,
    now: Timestamp,
}

impl TreeView for CommitView<'_> {
    fn node(&self, node: NodeId) -> Answer<Option<NodeRecord>> {
        self.tx.node(self.namespace, node)
    }

    fn child(&self, parent: NodeId, key: &NameKey) -> Answer<Option<NodeId>> {
        self.tx.child(self.namespace, parent, key)
    }

    fn children(&self, parent: NodeId) -> Answer<Vec<Child>> {
        self.tx.children(self.namespace, parent)
    }

    fn child_directories(&self, parent: NodeId) -> Answer<Vec<Child>> {
        self.tx.child_directories(self.namespace, parent)
    }

    fn is_used_elsewhere(&self, node: NodeId) -> Answer<bool> {
        Ok(self.tx.namespace(node.as_namespace())?.is_some() || self.tx.is_elsewhere(self.namespace, node)?)
    }

    /// An owner may not: a shared folder that its owner had lost sight of could never be ended.
    fn may_unmount(&self, mount: NodeId) -> Answer<bool> {
        Ok(self.tx.role(mount.as_namespace(), self.who.account)? != Some(Role::Owner))
    }

    fn missing(&self, blocks: &[BlockHash]) -> Answer<Vec<bool>> {
        let asked: Vec<BlockHash> = blocks.iter().filter(|block| !self.stored.contains(block)).copied().collect();
        let missing = crate::changes::missing(self.tx, self.who.account, Some(self.namespace), &asked, self.now)?;
        let missing: BTreeSet<BlockHash> =
            asked.into_iter().zip(missing).filter_map(|(block, missing)| missing.then_some(block)).collect();
        Ok(blocks.iter().map(|block| missing.contains(block)).collect())
    }
}

/// The blocks of a body, once each, for [`Effects::blocks`].
pub(crate) fn unique_blocks<'b>(bodies: impl Iterator<Item = &'b Body>) -> Vec<BlockHash> {
    let blocks: BTreeSet<BlockHash> = bodies.flat_map(Body::blocks).copied().collect();
    blocks.into_iter().collect()
}

#[cfg(test)]
impl CommitQueue {
    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting()
    }
}
