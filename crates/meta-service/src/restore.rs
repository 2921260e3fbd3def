//! Restore: bringing back a version, or what was deleted.
//!
//! Nothing that lives is touched, but for a living file that gets an old version as its newest. What was
//! deleted is made anew with new ids, since an id that has died never lives again.

use crate::commit::{unique_blocks, write_effects};
use crate::decide::Effects;
use crate::failure::{Failure, bad_request, not_found};
use crate::history::body_of;
use crate::paths::{free_name, path_at};
use crate::service::{MetaService, role};
use api::service::Identity;
use api::{ApiError, RestoreReply, RestoreRequest};
use metadata_store::port::Answer;
use metadata_store::{Namespace, NodeRecord, PageLimit, Transaction};
use model::{Body, Change, JournalEntry, Name, NameKey, NamespaceId, NodeId, Position, limits};
use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

/// Nodes that one restore may make: it is one transaction.
const RESTORE_NODES: usize = 200_000;
/// Blocks that these name together: eight terabytes. Their lists are in memory more than once meanwhile.
const RESTORE_BLOCKS: usize = 8 * limits::COMMIT_BLOCKS;

impl MetaService {
    /// `restore`: a living file gets the content of an earlier position as a new revision. A deleted
    /// node is made anew under its old name, or `name (restored)` if that is taken, in its old folder;
    /// folders that are gone, or have been shared since, are made again by name. A deleted folder comes back with all
    /// it held.
    ///
    /// # Errors
    /// `NotFound`, `Forbidden` for strangers and viewers, `BadRequest` with the reason for what cannot
    /// be restored, `Unlinked`, `Unavailable`, `NoSpace`.
    pub fn restore(&self, who: Identity, request: &RestoreRequest) -> Result<RestoreReply, ApiError> {
        let now = self.environment.now();
        self.write(|tx, news| {
            let namespace = tx.lock_namespace(request.namespace)?.ok_or_else(crate::failure::forbidden)?;
            if !role(tx, who, request.namespace)?.may_write() {
                return Err(crate::failure::forbidden().into());
            }
            let node = tx.node(request.namespace, request.node)?;
            let node = node.ok_or_else(|| not_found("there never was such a file or folder here"))?;
            let new_id = || NodeId(self.environment.random());
            let (made, edited, taken) = (Vec::new(), Vec::new(), BTreeSet::new());
            let mut draft = Draft { tx, namespace, made, made_blocks: 0, edited, taken, new_id: &new_id };
            let restored = match node.deleted {
                None => draft.bring_back_version(node, request.position)?,
                Some(died) => draft.bring_back_dead(node, died, request.position)?,
            };
            let entries = draft.entries(who, now);
            let nodes = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            let head = entries.last().map_or(namespace.head, |entry| entry.position);
            let effects = draft.into_effects(entries)?;
            write_effects(tx, request.namespace, &effects, news)?;
            let path = path_at(tx, request.namespace, restored, head)?;
            Ok(RestoreReply { head, nodes, path })
        })
    }
}

/// What a restore is going to write: edits, then new nodes, parents first.
struct Draft<'t> {
    tx: &'t dyn Transaction,
    namespace: Namespace,
    edited: Vec<NodeRecord>,
    made: Vec<NodeRecord>,
    made_blocks: usize,
    /// The places of the new nodes.
    taken: BTreeSet<(NodeId, NameKey)>,
    new_id: &'t dyn Fn() -> NodeId,
}

/// Where something is restored to.
struct Target {
    parent: NodeId,
    /// Folders above a child of the parent.
    depth: usize,
    /// Bytes of the parent's path, with a `/` behind each name.
    path_bytes: usize,
}

impl Draft<'_> {
    fn id(&self) -> NamespaceId {
        self.namespace.namespace
    }

    fn next_position(&self) -> Position {
        Position(self.namespace.head.0 + 1 + (self.edited.len() + self.made.len()) as u64)
    }

    /// Gives a living file or link an earlier content.
    fn bring_back_version(&mut self, node: NodeRecord, position: Option<Position>) -> Result<NodeId, Failure> {
        let Some(position) = position else {
            return Err(bad_request("it is not deleted: say which version to bring back").into());
        };
        match node.body {
            Body::File { .. } | Body::Symlink { .. } => {}
            Body::Directory | Body::Mount => {
                return Err(bad_request("a folder that is not deleted has no earlier version").into());
            }
        }
        let body = self.body_at(node.node, position)?;
        let id = node.node;
        if body != node.body {
            let content_rev = self.next_position();
            self.edited.push(NodeRecord { body, content_rev, ..node });
        }
        Ok(id)
    }

    /// Makes a dead node anew, with all that a folder held when it died.
    fn bring_back_dead(
        &mut self,
        node: NodeRecord,
        died: Position,
        position: Option<Position>,
    ) -> Result<NodeId, Failure> {
        let body = match (&node.body, position) {
            (Body::Mount, _) => {
                return Err(bad_request("a shared folder comes back when its owner invites you again").into());
            }
            (Body::File { .. } | Body::Symlink { .. }, Some(position)) => self.body_at(node.node, position)?,
            (Body::File { .. } | Body::Symlink { .. } | Body::Directory, _) => node.body.clone(),
        };
        let target = self.folder_for(&node)?;
        let name = free_name(&node.name, "restored", |name| self.is_taken(target.parent, name))?;
        let restored = self.make(&target, name, body)?;
        if node.body.is_directory() {
            let when = self.deaths_with(died)?;
            self.refill(&node, restored, &target, &when)?;
        }
        Ok(restored)
    }

    /// The content of a file or link as of a position.
    fn body_at(&self, node: NodeId, position: Position) -> Result<Body, Failure> {
        let one = PageLimit { entries: 1, blocks: limits::FILE_BLOCKS };
        let record = self.tx.revisions(self.id(), node, position, one)?.pop();
        let body = record.and_then(|record| body_of(record.entry.change));
        body.ok_or_else(|| not_found("there is no such version").into())
    }

    /// The folder in which a dead node was: as it is, or made anew by name where it is gone.
    fn folder_for(&mut self, node: &NodeRecord) -> Result<Target, Failure> {
        let (alive, gone) = self.dead_ancestors(node.parent)?;
        let mut target = alive;
        for folder in gone.into_iter().rev() {
            target = self.enter(&target, &folder.name)?;
        }
        Ok(target)
    }

    /// The lowest living folder above a node, and the dead folders below it, the lowest first. One that has been shared
    /// since is gone too: what it held before is not for its members.
    fn dead_ancestors(&self, parent: NodeId) -> Result<(Target, Vec<NodeRecord>), Failure> {
        let mut gone = Vec::new();
        let mut at = parent;
        while at != self.id().root() && gone.len() <= limits::TREE_DEPTH {
            // A row that is missing was never in this namespace; its place is taken by the root.
            let Some(record) = self.tx.node(self.id(), at)? else { break };
            if record.is_live() && record.body == Body::Directory {
                return Ok((self.target_in(&record)?, gone));
            }
            at = record.parent;
            gone.push(record);
        }
        Ok((Target { parent: self.id().root(), depth: 0, path_bytes: 0 }, gone))
    }

    fn target_in(&self, folder: &NodeRecord) -> Answer<Target> {
        let path = path_at(self.tx, self.id(), folder.node, self.namespace.head)?;
        let path_bytes = path.iter().map(|name| name.as_str().len() + 1).sum();
        Ok(Target { parent: folder.node, depth: path.len(), path_bytes })
    }

    /// The living folder with this name, or one that was made for it before, or a new one.
    fn enter(&mut self, target: &Target, name: &Name) -> Result<Target, Failure> {
        let mut living = None;
        let name = free_name(name, "restored", |name| {
            living = self.living_folder(target.parent, name)?;
            Ok(living.is_none() && self.is_taken(target.parent, name)?)
        })?;
        if let Some(folder) = living {
            return Ok(self.target_in(&folder)?);
        }
        let name_bytes = name.as_str().len();
        let parent = self.make(target, name, Body::Directory)?;
        Ok(target.below(parent, name_bytes))
    }

    fn living_folder(&self, parent: NodeId, name: &Name) -> Answer<Option<NodeRecord>> {
        let Some(holder) = self.tx.child(self.id(), parent, &name.key())? else { return Ok(None) };
        Ok(self.tx.node(self.id(), holder)?.filter(|record| record.body.is_directory()))
    }

    /// What died together with a folder: its batch's deletions up to the folder's own.
    fn deaths_with(&self, died: Position) -> Answer<RangeInclusive<Position>> {
        let brief = self.tx.journal_backwards(self.id(), died.next(), 1)?.pop();
        Ok(brief.map_or(died, |brief| brief.batch_first)..=died)
    }

    /// Makes what a dead folder held, breadth first.
    fn refill(
        &mut self,
        folder: &NodeRecord,
        restored: NodeId,
        target: &Target,
        when: &RangeInclusive<Position>,
    ) -> Result<(), Failure> {
        let top = target.below(restored, folder.name.as_str().len());
        let mut folders = VecDeque::from([(folder.node, top)]);
        while let Some((dead, target)) = folders.pop_front() {
            for child in self.tx.fallen_children(self.id(), dead, when.clone())? {
                let Some(record) = self.tx.node(self.id(), child)? else { continue };
                if record.body == Body::Mount {
                    continue;
                }
                // Two dead children may share a name when one replaced the other in the same batch.
                let name = free_name(&record.name, "restored", |name| self.is_taken(target.parent, name))?;
                let name_bytes = name.as_str().len();
                let is_directory = record.body.is_directory();
                let made = self.make(&target, name, record.body)?;
                if is_directory {
                    folders.push_back((child, target.below(made, name_bytes)));
                }
            }
        }
        Ok(())
    }

    fn is_taken(&self, parent: NodeId, name: &Name) -> Answer<bool> {
        let place = (parent, name.key());
        Ok(self.taken.contains(&place) || self.tx.child(self.id(), parent, &place.1)?.is_some())
    }

    fn make(&mut self, target: &Target, name: Name, body: Body) -> Result<NodeId, Failure> {
        if self.made.len() >= RESTORE_NODES {
            return Err(bad_request(format!("a restore brings back at most {RESTORE_NODES} items: choose less")).into());
        }
        self.made_blocks += body.blocks().len();
        if self.made_blocks > RESTORE_BLOCKS {
            return Err(bad_request("a restore brings back at most eight terabytes: choose less").into());
        }
        if target.depth > limits::TREE_DEPTH || target.path_bytes + name.as_str().len() > limits::PATH_BYTES {
            return Err(bad_request("a path would be too long or too deep").into());
        }
        let position = self.next_position();
        let node = (self.new_id)();
        self.taken.insert((target.parent, name.key()));
        self.made.push(NodeRecord {
            node,
            parent: target.parent,
            name,
            body,
            content_rev: position,
            location_rev: position,
            deleted: None,
        });
        Ok(node)
    }

    fn entries(&self, who: Identity, time: model::Timestamp) -> Vec<JournalEntry> {
        let entry = |record: &NodeRecord, change| JournalEntry {
            position: record.content_rev,
            node: record.node,
            change,
            device: Some(who.device),
            time,
        };
        let edits = self.edited.iter().map(|record| entry(record, Change::Edit { body: record.body.clone() }));
        let creations = self.made.iter().map(|record| {
            let (parent, name, body) = (record.parent, record.name.clone(), record.body.clone());
            entry(record, Change::Create { parent, name, body })
        });
        edits.chain(creations).collect()
    }

    fn into_effects(self, entries: Vec<JournalEntry>) -> Result<Effects, Failure> {
        let live_nodes = self.namespace.live_nodes + self.made.len() as u64;
        if live_nodes > limits::NAMESPACE_NODES {
            return Err(bad_request("the namespace would hold too many files").into());
        }
        let nodes: Vec<NodeRecord> = self.edited.into_iter().chain(self.made).collect();
        let blocks = unique_blocks(nodes.iter().map(|record| &record.body));
        Ok(Effects { entries, live_nodes, blocks, nodes, ..Effects::default() })
    }
}

impl Target {
    fn below(&self, parent: NodeId, name_bytes: usize) -> Self {
        Self { parent, depth: self.depth + 1, path_bytes: self.path_bytes + name_bytes + 1 }
    }
}
