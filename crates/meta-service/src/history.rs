//! What was: the revisions at a path, and the history of a namespace.

use crate::failure::bad_request;
use crate::paths::path_at;
use crate::service::{MetaService, role};
use api::service::Identity;
use api::{
    ApiError, HistoryAction, HistoryEntry, HistoryReply, HistoryRequest, Revision, RevisionsReply, RevisionsRequest,
    Version,
};
use metadata_store::port::Answer;
use metadata_store::record::blocks_of;
use metadata_store::{ChangeKind, JournalBrief, JournalRecord, NodeRecord, PageLimit, Reading};
use model::{Body, Change, DeviceId, Name, NamespaceId, NodeId, Position, limits};
use std::collections::{BTreeMap, BinaryHeap};

/// Revisions in one answer.
const REVISIONS_PAGE: usize = 1_000;
/// Blocks that may be named by the entries that one answer is made of: 128 MiB of them. Of a file of a terabyte that is 16
/// versions.
const BLOCKS_READ: usize = 64 * limits::CHANGES_PAGE_BLOCKS;
/// Entries in one answer about the history.
const HISTORY_PAGE: usize = 1_000;
/// Nodes that are followed of those that were ever at one place: the latest. A program that saves by
/// replacing the file makes a node each time.
const NODES_PER_PLACE: usize = 1_000;
/// Arrivals that are looked up for one path, the latest in each folder first: each is two questions to the database, and
/// folders that are swapped all the time multiply them.
const ARRIVALS_LOOKED_UP: usize = 5_000;

/// A node that was at the place in question, from one position until before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stay {
    node: NodeId,
    from: Position,
    /// `None`: it is still there.
    until: Option<Position>,
}

/// The revisions of the nodes that were at a path, of which the newest are wanted.
struct Past<'r> {
    reading: &'r dyn Reading,
    namespace: NamespaceId,
    /// Only those before this position.
    before: Position,
    doers: Doers,
}

impl Past<'_> {
    /// The newest revisions of nodes, each with the end of its stay. Read is what may hold the newest one that was not read
    /// yet, step by step, until nothing of what is left can be newer than what was found, or until that was much.
    fn newest(&mut self, stays: BTreeMap<NodeId, Option<Position>>, limit: usize) -> Answer<Vec<Revision>> {
        // By the position before which each has something that was not read.
        let mut unread: BinaryHeap<(Position, NodeId)> = stays
            .iter()
            .map(|(node, until)| (until.map_or(self.before, |until| until.next().min(self.before)), *node))
            .collect();
        let (mut found, mut blocks): (Vec<Revision>, usize) = (Vec::new(), 0);
        while let Some(&(horizon, node)) = unread.peek() {
            sort_newest_first(&mut found);
            let settled = found.partition_point(|revision| revision.position >= horizon);
            if settled >= limit || settled > 0 && blocks >= BLOCKS_READ {
                found.truncate(settled);
                break;
            }
            unread.pop();
            let until = stays.get(&node).copied().flatten();
            if let Some(until) = until.filter(|until| *until < horizon) {
                found.extend(self.death(node, until)?);
            }
            let end = until.map_or(horizon, |until| until.min(horizon));
            let step = PageLimit { entries: limit, blocks: limits::CHANGES_PAGE_BLOCKS };
            let records = match end.0.checked_sub(1) {
                Some(last) => self.reading.revisions(self.namespace, node, Position(last), step)?,
                None => Vec::new(),
            };
            blocks += records.iter().map(|record| blocks_of(&record.entry.change)).sum::<usize>();
            // The first is what made the node.
            if let Some(oldest) = records.last().filter(|oldest| !matches!(oldest.entry.change, Change::Create { .. }))
            {
                unread.push((oldest.entry.position, node));
            }
            for record in records {
                found.extend(self.revision(record)?);
            }
        }
        sort_newest_first(&mut found);
        found.truncate(limit);
        Ok(found)
    }

    /// The end of a node's stay as a revision, if it ended by the node's death.
    fn death(&mut self, node: NodeId, until: Position) -> Answer<Option<Revision>> {
        let dead =
            self.reading.node(self.namespace, node)?.is_some_and(|record: NodeRecord| record.deleted == Some(until));
        let Some(brief) = entry_at(self.reading, self.namespace, until)?.filter(|_| dead) else { return Ok(None) };
        let (device_name, _) = self.doers.of(self.reading, brief.device)?;
        Ok(Some(Revision { node, position: until, version: Version::Deleted, device_name, time: brief.time }))
    }

    fn revision(&mut self, record: JournalRecord) -> Answer<Option<Revision>> {
        let entry = record.entry;
        let Some(body) = body_of(entry.change) else { return Ok(None) };
        let (device_name, _) = self.doers.of(self.reading, entry.device)?;
        let (node, position, time) = (entry.node, entry.position, entry.time);
        Ok(Some(Revision { node, position, version: Version::of(&body), device_name, time }))
    }
}

fn sort_newest_first(revisions: &mut [Revision]) {
    revisions.sort_by_key(|revision| std::cmp::Reverse((revision.position, revision.node)));
}

/// Who did an entry, by device; each is looked up once.
#[derive(Default)]
struct Doers(BTreeMap<DeviceId, Option<(String, String)>>);

impl MetaService {
    /// `revisions`: what was ever at a path of the namespace, the newest first, through folders that are
    /// gone too. A node's versions from before it came to the path are among them, those from after it
    /// left are not; an end at the path has no body.
    ///
    /// # Errors
    /// `Forbidden`, `BadRequest` for a path that is deeper than any, `Unlinked`, `Unavailable`.
    pub fn revisions(&self, who: Identity, request: &RevisionsRequest) -> Result<RevisionsReply, ApiError> {
        if request.path.len() > limits::TREE_DEPTH + 1 {
            return Err(bad_request("no path is so deep"));
        }
        let limit = page_size(request.limit, REVISIONS_PAGE);
        let before = request.before.unwrap_or(Position(u64::MAX));
        self.snapshot(|reading| {
            role(reading, who, request.namespace)?;
            let stays = last_stays(&stays_at(reading, request.namespace, &request.path)?);
            let mut past = Past { reading, namespace: request.namespace, before, doers: Doers::default() };
            Ok(RevisionsReply { revisions: past.newest(stays, limit)? })
        })
    }

    /// `history`: what happened in the namespace, the newest first, with the paths of then.
    ///
    /// # Errors
    /// `Forbidden`, `Unlinked`, `Unavailable`.
    pub fn history(&self, who: Identity, request: &HistoryRequest) -> Result<HistoryReply, ApiError> {
        let limit = page_size(request.limit, HISTORY_PAGE);
        let before = request.before.unwrap_or(Position(u64::MAX));
        self.snapshot(|reading| {
            role(reading, who, request.namespace)?;
            let mut doers = Doers::default();
            let mut entries = Vec::new();
            for brief in reading.journal_backwards(request.namespace, before, limit)? {
                let (device_name, account_email) = doers.of(reading, brief.device)?;
                entries.push(HistoryEntry {
                    position: brief.position,
                    node: brief.node,
                    action: action(brief.kind),
                    path: path_at(reading, request.namespace, brief.node, brief.position)?,
                    device_name,
                    account_email,
                    time: brief.time,
                });
            }
            Ok(HistoryReply { entries })
        })
    }
}

const fn action(kind: ChangeKind) -> HistoryAction {
    match kind {
        ChangeKind::Create => HistoryAction::Created,
        ChangeKind::Edit => HistoryAction::Edited,
        ChangeKind::Move => HistoryAction::Moved,
        ChangeKind::Delete => HistoryAction::Deleted,
        ChangeKind::Share => HistoryAction::Shared,
    }
}

fn page_size(asked: u32, most: usize) -> usize {
    usize::try_from(asked).unwrap_or(most).clamp(1, most)
}

/// Which nodes were at a path, and when: name by name from the root, each within its folder's stay.
fn stays_at(reading: &dyn Reading, namespace: NamespaceId, path: &[Name]) -> Answer<Vec<Stay>> {
    let mut stays = vec![Stay { node: namespace.root(), from: Position::START, until: None }];
    let mut left = ARRIVALS_LOOKED_UP;
    for name in path {
        let mut inside = Vec::new();
        for folder in &stays {
            inside.extend(stays_in(reading, namespace, folder, name, &mut left)?);
        }
        inside.sort_by_key(|stay| std::cmp::Reverse(stay.from));
        inside.truncate(NODES_PER_PLACE);
        stays = inside;
    }
    Ok(stays)
}

fn stays_in(
    reading: &dyn Reading,
    namespace: NamespaceId,
    folder: &Stay,
    name: &Name,
    left: &mut usize,
) -> Answer<Vec<Stay>> {
    let mut stays = Vec::new();
    if *left == 0 {
        return Ok(stays);
    }
    for arrival in reading.arrivals(namespace, folder.node, &name.key(), NODES_PER_PLACE.min(*left))? {
        *left -= 1;
        let departure = reading.departure(namespace, arrival.node, arrival.position)?;
        let death = reading.node(namespace, arrival.node)?.and_then(|node| node.deleted);
        let death = death.filter(|death| *death > arrival.position);
        let ends = [departure, death, folder.until];
        let until = ends.into_iter().flatten().min();
        let from = arrival.position.max(folder.from);
        if until.is_none_or(|until| from < until) {
            stays.push(Stay { node: arrival.node, from, until });
        }
    }
    Ok(stays)
}

/// Each node once, with the end of its last stay.
fn last_stays(stays: &[Stay]) -> BTreeMap<NodeId, Option<Position>> {
    let mut last: BTreeMap<NodeId, Option<Position>> = BTreeMap::new();
    for stay in stays {
        let until = last.entry(stay.node).or_insert(stay.until);
        *until = match (*until, stay.until) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (None, _) | (_, None) => None,
        };
    }
    last
}

fn entry_at(reading: &dyn Reading, namespace: NamespaceId, position: Position) -> Answer<Option<JournalBrief>> {
    Ok(reading.journal_backwards(namespace, position.next(), 1)?.pop().filter(|brief| brief.position == position))
}

/// The body that a change brought.
pub(crate) fn body_of(change: Change) -> Option<Body> {
    match change {
        Change::Create { body, .. } | Change::Edit { body } => Some(body),
        Change::Move { .. } | Change::Delete => None,
    }
}

impl Doers {
    /// The device's name and its account's e-mail address.
    fn of(&mut self, reading: &dyn Reading, device: Option<DeviceId>) -> Answer<(Option<String>, Option<String>)> {
        let Some(device) = device else { return Ok((None, None)) };
        if let Some(known) = self.0.get(&device) {
            return Ok(known.clone().unzip());
        }
        let found = match reading.device(device)? {
            Some(row) => reading.account(row.account)?.map(|account| (row.name, account.email)),
            None => None,
        };
        self.0.insert(device, found.clone());
        Ok(found.unzip())
    }
}
