//! Commits.

use super::{DEPENDENCY_DEPTH, NAME_ATTEMPTS, Naming};
use crate::io::BlockSource;
use crate::tree::{Content, FileContent, Place};
use crate::trees::Trees;
use crate::verdict::{Context, Label, Push, Verdict, decide, is_moving_away, is_pending_deletion, projected_parent};
use model::conflict::conflicted_name;
use model::{BLOCK_SIZE, Body, Name, NodeId, Operation, Position, limits};
use std::collections::BTreeSet;

/// Nodes after which a commit takes no further ones; what these need with them may still join.
const COMMIT_NODES: usize = limits::COMMIT_OPERATIONS * 4 / 5;
/// Bytes of blocks that travel in the same request as their commit.
const INLINE_BYTES: u64 = 8 * 1024 * 1024;

/// How the blocks of a file get to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockPlan {
    /// The server has them all.
    Present,
    /// Few bytes: they travel with the commit.
    Inline(Vec<BlockSource>),
    /// They must be uploaded before the commit.
    UploadFirst,
}

/// What a commit needs to know about content.
pub trait Contents {
    /// The node's body as the commit will say it; `None` when its blocklist is not known any more.
    fn body(&self, content: &Content) -> Option<Body>;
    /// How the file's blocks get to the server.
    fn blocks(&self, node: NodeId, file: &FileContent) -> BlockPlan;
}

/// A commit to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlannedCommit {
    pub operations: Vec<Operation>,
    pub blocks: Vec<BlockSource>,
}

/// What a commit is built from.
pub struct CommitBuilder<'a, 'c> {
    pub trees: &'a Trees,
    pub context: &'a Context<'c>,
    pub contents: &'a dyn Contents,
    pub naming: Naming<'a>,
    /// Deletions wait for a confirmation, or for the dust to settle.
    pub hold_deletions: bool,
    commit: PlannedCommit,
    load: Load,
    pushed: BTreeSet<NodeId>,
    stack: Vec<NodeId>,
}

/// What a commit asks of the server.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// Bytes of the blocks that travel with it.
    inline_bytes: u64,
    /// Blocks that the operations name.
    named_blocks: usize,
    /// Blocks of the files as they are before it, whose rows the server reads.
    changed_blocks: usize,
}

/// What became of the nodes that were looked at for a commit.
#[derive(Debug, Default)]
pub struct CommitPlan {
    pub commit: PlannedCommit,
    /// Nodes whose blocks must be uploaded first.
    pub to_upload: Vec<NodeId>,
    /// Nodes whose content must be hashed again.
    pub to_hash: Vec<NodeId>,
    /// Node and what it waits for.
    pub waiting: Vec<(NodeId, NodeId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unready {
    On(NodeId),
    Full,
    Held,
    Upload(NodeId),
    Rehash(NodeId),
}

impl<'a, 'c> CommitBuilder<'a, 'c> {
    pub fn new(
        trees: &'a Trees,
        context: &'a Context<'c>,
        contents: &'a dyn Contents,
        naming: Naming<'a>,
        hold_deletions: bool,
    ) -> Self {
        Self {
            trees,
            context,
            contents,
            naming,
            hold_deletions,
            commit: PlannedCommit::default(),
            load: Load::default(),
            pushed: BTreeSet::new(),
            stack: Vec::new(),
        }
    }

    /// Takes nodes of one namespace until the commit is full.
    pub fn build(mut self, candidates: impl Iterator<Item = NodeId>) -> CommitPlan {
        let mut plan = CommitPlan::default();
        for id in candidates {
            if self.commit.operations.len() >= COMMIT_NODES || self.load.inline_bytes >= INLINE_BYTES {
                break;
            }
            let (operations, blocks) = (self.commit.operations.len(), self.commit.blocks.len());
            let load = self.load;
            match self.push(id) {
                Ok(()) => continue,
                Err(Unready::Full) if operations > 0 => {
                    self.undo(operations, blocks, load);
                    break;
                }
                Err(Unready::Full | Unready::Held) => {}
                Err(Unready::On(other)) => plan.waiting.push((id, other)),
                Err(Unready::Upload(node)) => {
                    plan.to_upload.push(node);
                    if node != id {
                        plan.waiting.push((id, node));
                    }
                }
                Err(Unready::Rehash(node)) => {
                    plan.to_hash.push(node);
                    if node != id {
                        plan.waiting.push((id, node));
                    }
                }
            }
            self.undo(operations, blocks, load);
        }
        // A reader of the journal must see what left a folder before the folder's tombstone.
        let (deletions, others): (Vec<Operation>, Vec<Operation>) =
            self.commit.operations.into_iter().partition(|operation| matches!(operation, Operation::Delete { .. }));
        plan.commit =
            PlannedCommit { operations: others.into_iter().chain(deletions).collect(), blocks: self.commit.blocks };
        plan
    }

    /// Takes back what a node that turned out not to be ready had already added.
    fn undo(&mut self, operations: usize, blocks: usize, load: Load) {
        for taken_back in self.commit.operations.drain(operations..) {
            self.pushed.remove(&taken_back.node());
        }
        self.commit.blocks.truncate(blocks);
        self.load = load;
    }

    fn push(&mut self, id: NodeId) -> Result<(), Unready> {
        // A node that is being pushed already counts: what a commit must satisfy is its final tree.
        if self.pushed.contains(&id) || self.stack.contains(&id) {
            return Ok(());
        }
        if self.commit.operations.len() + 2 > limits::COMMIT_OPERATIONS || self.stack.len() >= DEPENDENCY_DEPTH {
            return Err(Unready::Full);
        }
        self.stack.push(id);
        let result = self.push_verdict(id);
        self.stack.pop();
        result
    }

    fn push_verdict(&mut self, id: NodeId) -> Result<(), Unready> {
        let Verdict::Push(push) = decide(self.trees, self.context, id) else { return Err(Unready::On(id)) };
        match push {
            Push::Create { content } => self.create(id, &content),
            Push::Change { place, content } => self.change(id, place, content),
            Push::Delete => self.delete(id),
        }
    }

    fn create(&mut self, id: NodeId, content: &Content) -> Result<(), Unready> {
        let Some(local) = self.trees.local(id) else { return Err(Unready::On(id)) };
        let body = self.body(id, content)?;
        self.parent_ready(local.place.parent)?;
        self.name_ready(id, &local.place, content)?;
        self.add(Operation::Create { node: id, parent: local.place.parent, name: local.place.name.clone(), body });
        Ok(())
    }

    fn change(&mut self, id: NodeId, place: Option<Place>, content: Option<Content>) -> Result<(), Unready> {
        let Some(remote) = self.trees.remote(id) else { return Err(Unready::On(id)) };
        self.count_former(&remote.content)?;
        let edit = match content {
            Some(content) => {
                let body = self.body(id, &content)?;
                Some(Operation::Edit { node: id, base_content: remote.content_rev, body })
            }
            None => None,
        };
        if let Some(place) = place {
            self.parent_ready(place.parent)?;
            self.way_ready(place.parent)?;
            self.name_ready(id, &place, &remote.content)?;
            self.add(Operation::Move {
                node: id,
                base_location: remote.location_rev,
                parent: place.parent,
                name: place.name,
            });
        }
        if let Some(edit) = edit {
            self.add(edit);
        }
        Ok(())
    }

    fn delete(&mut self, id: NodeId) -> Result<(), Unready> {
        if self.hold_deletions {
            return Err(Unready::Held);
        }
        let Some(remote) = self.trees.remote(id) else { return Err(Unready::On(id)) };
        self.count_former(&remote.content)?;
        if remote.content == Content::Directory {
            self.leavers_ready(id)?;
        }
        self.add(Operation::Delete { node: id, base_content: remote.content_rev, base_location: remote.location_rev });
        Ok(())
    }

    /// What the user moved out of a folder before deleting it must be out by the same commit.
    fn leavers_ready(&mut self, top: NodeId) -> Result<(), Unready> {
        let mut folders = vec![top];
        while let Some(folder) = folders.pop() {
            let children: Vec<NodeId> = self.trees.remote_children(folder).collect();
            for child in children {
                if is_moving_away(self.trees, child) {
                    self.push(child)?;
                } else {
                    folders.push(child);
                }
            }
        }
        Ok(())
    }

    /// A node that has this content is to be changed.
    fn count_former(&mut self, content: &Content) -> Result<(), Unready> {
        if let Content::File(file) = content {
            let blocks = usize::try_from(file.size.div_ceil(BLOCK_SIZE)).unwrap_or(usize::MAX);
            self.load.changed_blocks = within_limit(self.load.changed_blocks, blocks)?;
        }
        Ok(())
    }

    fn add(&mut self, operation: Operation) {
        self.pushed.insert(operation.node());
        self.commit.operations.push(operation);
    }

    /// The body, with its blocks on the server or on their way with this commit.
    fn body(&mut self, id: NodeId, content: &Content) -> Result<Body, Unready> {
        let Some(body) = self.contents.body(content) else { return Err(Unready::Rehash(id)) };
        // The server refuses a commit that names more, and then all of it would be tried again together.
        self.load.named_blocks = within_limit(self.load.named_blocks, body.blocks().len())?;
        if let Content::File(file) = content {
            match self.contents.blocks(id, file) {
                BlockPlan::Present => {}
                BlockPlan::UploadFirst => return Err(Unready::Upload(id)),
                BlockPlan::Inline(blocks) => {
                    let bytes: u64 = blocks.iter().map(|block| u64::from(block.len)).sum();
                    if self.load.inline_bytes + bytes > INLINE_BYTES && self.load.inline_bytes > 0 {
                        return Err(Unready::Full);
                    }
                    self.load.inline_bytes += bytes;
                    self.commit.blocks.extend(blocks);
                }
            }
        }
        Ok(body)
    }

    fn parent_ready(&mut self, folder: NodeId) -> Result<(), Unready> {
        if self.trees.has_remote(folder) { Ok(()) } else { self.push(folder) }
    }

    /// Our own moves of the folders above must be in the same commit, or the tree would have a cycle.
    fn way_ready(&mut self, folder: NodeId) -> Result<(), Unready> {
        let mut at = folder;
        for _ in 0..limits::TREE_DEPTH {
            if at == self.trees.root() || self.trees.is_mount(at) {
                break;
            }
            if is_moving_away(self.trees, at) {
                self.push(at)?;
            }
            match projected_parent(self.trees, at) {
                Some(parent) => at = parent,
                None => break,
            }
        }
        Ok(())
    }

    /// Whoever has the name on the server gives it up in the same commit.
    fn name_ready(&mut self, id: NodeId, place: &Place, content: &Content) -> Result<(), Unready> {
        let Some(theirs) = self.trees.remote_child(place.parent, &place.name.key()).filter(|other| *other != id) else {
            return Ok(());
        };
        if self.context.frozen.contains(&theirs) {
            return Err(Unready::On(theirs));
        }
        if is_moving_away(self.trees, theirs) || is_pending_deletion(self.trees, theirs) {
            return self.push(theirs);
        }
        match self.trees.row(theirs).map(|row| (row.local, row.synced, row.remote)) {
            Some((None, None, Some(remote))) if content.is_folder() && !remote.content.is_folder() => {
                // A directory keeps the name; the file goes beside it.
                let name = self.free_remote_name(place.parent, &remote.place.name).ok_or(Unready::On(theirs))?;
                let base_location = remote.location_rev;
                self.count_former(&remote.content)?;
                self.add(Operation::Move { node: theirs, base_location, parent: place.parent, name });
                Ok(())
            }
            _ => Err(Unready::On(theirs)),
        }
    }

    fn free_remote_name(&self, folder: NodeId, name: &Name) -> Option<Name> {
        (1..=NAME_ATTEMPTS)
            .map(|attempt| {
                conflicted_name(name, Label::Conflict.as_str(), self.naming.device, self.naming.date, attempt)
            })
            .find(|candidate| {
                let key = candidate.key();
                self.trees.remote_child(folder, &key).is_none() && self.trees.local_child(folder, &key).is_none()
            })
    }
}

/// So many blocks and these, if a commit may have them. One file always fits.
fn within_limit(before: usize, more: usize) -> Result<usize, Unready> {
    let blocks = before.saturating_add(more);
    if before > 0 && blocks > limits::COMMIT_BLOCKS { Err(Unready::Full) } else { Ok(blocks) }
}

/// The position of an operation of an accepted commit.
#[must_use]
pub fn operation_position(head: Position, operations: usize, index: usize) -> Position {
    Position(head.0 + 1 + index as u64 - operations as u64)
}
