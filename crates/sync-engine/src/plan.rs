//! The planner: sorts what is out of sync by what it needs, and carries verdicts out as batches of
//! local steps and as commits.
//!
//! A batch is built against the disk as it will be when the batch's earlier steps have been done; a
//! commit against the server's tree after the whole commit. What cannot go on waits for the node that
//! stands in its way and is looked at again when that node changes.

use crate::io::{BlockSource, Expect, LocalPath, LocalStep, TempName};
use crate::tree::{Content, FileContent, Local, PARKED, Place, Seen};
use crate::trees::Trees;
use crate::verdict::{
    Context, Edit, Label, Pull, Push, Verdict, decide, is_moving_away, is_pending_deletion, projected_parent,
};
use model::conflict::conflicted_name;
use model::{Body, Name, NameKey, NamespaceId, NodeId, Operation, Position, limits};
use std::collections::{BTreeMap, BTreeSet};

/// Steps in one batch: bounds how long other local work waits, and amortises one sync of the disk.
pub const STEPS_PER_BATCH: usize = 500;
/// Nodes after which a commit takes no further ones; what these need with them may still join.
const COMMIT_NODES: usize = limits::COMMIT_OPERATIONS / 2;
/// Bytes of blocks that travel in the same request as their commit.
const INLINE_BYTES: u64 = 8 * 1024 * 1024;
/// Tree edits after which a node's verdict must have settled.
const EDITS_PER_NODE: usize = 8;
/// How deep one step may depend on others before the rest is left to the next batch.
const DEPENDENCY_DEPTH: usize = 2 * limits::TREE_DEPTH;
/// Names to try for a conflicted copy.
const NAME_ATTEMPTS: u32 = 10_000;

/// What names a file that is kept beside another one.
#[derive(Debug, Clone)]
pub struct Naming<'a> {
    pub device: &'a str,
    /// `YYYY-MM-DD`.
    pub date: &'a str,
}

/// Nodes by what they wait for.
#[derive(Debug, Default)]
pub struct Queues {
    pub hash: BTreeSet<NodeId>,
    pub pull: BTreeSet<NodeId>,
    pub push: BTreeMap<NamespaceId, BTreeSet<NodeId>>,
    /// The verdict that a node cannot be synced, with its reason.
    pub problems: BTreeMap<NodeId, &'static str>,
    place: BTreeMap<NodeId, Queue>,
}

#[derive(Debug, Clone, Copy)]
enum Queue {
    Hash,
    Pull,
    Push(NamespaceId),
    Problem,
}

impl Queues {
    fn remove(&mut self, id: NodeId) {
        match self.place.remove(&id) {
            Some(Queue::Hash) => {
                self.hash.remove(&id);
            }
            Some(Queue::Pull) => {
                self.pull.remove(&id);
            }
            Some(Queue::Push(namespace)) => {
                if let Some(nodes) = self.push.get_mut(&namespace) {
                    nodes.remove(&id);
                    if nodes.is_empty() {
                        self.push.remove(&namespace);
                    }
                }
            }
            Some(Queue::Problem) => {
                self.problems.remove(&id);
            }
            None => {}
        }
    }

    fn insert(&mut self, id: NodeId, queue: Queue) {
        self.remove(id);
        self.place.insert(id, queue);
        match queue {
            Queue::Hash => self.hash.insert(id),
            Queue::Pull => self.pull.insert(id),
            Queue::Push(namespace) => self.push.entry(namespace).or_default().insert(id),
            Queue::Problem => true,
        };
    }

    /// Takes a node out of whatever it waits for; something else has it in hand now.
    pub fn forget(&mut self, id: NodeId) {
        self.remove(id);
    }

    /// Nodes that wait to be hashed or sent.
    #[must_use]
    pub fn upward(&self) -> usize {
        self.hash.len() + self.push.values().map(BTreeSet::len).sum::<usize>()
    }

    /// Looks at every node that needs it: changes the trees where that is all it takes, and files the
    /// node under what it needs otherwise.
    pub fn sort(&mut self, trees: &mut Trees, context: &Context<'_>, random: &mut dyn FnMut() -> [u8; 16]) {
        while let Some(id) = trees.next_todo() {
            self.remove(id);
            self.sort_one(trees, context, random, id);
        }
    }

    fn sort_one(&mut self, trees: &mut Trees, context: &Context<'_>, random: &mut dyn FnMut() -> [u8; 16], id: NodeId) {
        for _ in 0..EDITS_PER_NODE {
            match decide(trees, context, id) {
                Verdict::Clean | Verdict::Frozen => return,
                Verdict::Wait(other) => return trees.wait(id, other),
                Verdict::Hash => return self.insert(id, Queue::Hash),
                Verdict::Pull(_) | Verdict::RenameAside(_) | Verdict::MoveOut { .. } => {
                    return self.insert(id, Queue::Pull);
                }
                Verdict::Push(push) => {
                    let namespace = match push {
                        Push::Create { .. } => trees
                            .local(id)
                            .map_or(trees.root().as_namespace(), |l| trees.namespace_below(l.place.parent)),
                        Push::Change { .. } | Push::Delete => trees.remote_namespace(id),
                    };
                    return self.insert(id, Queue::Push(namespace));
                }
                Verdict::Problem(reason) => {
                    self.insert(id, Queue::Problem);
                    self.problems.insert(id, reason);
                    return;
                }
                Verdict::Edit(edit) => apply_edit(trees, id, edit, random),
            }
        }
        debug_assert!(false, "the verdict about {id:?} does not settle: {:?}", trees.row(id));
    }
}

/// Changes the trees as a verdict says.
pub fn apply_edit(trees: &mut Trees, id: NodeId, edit: Edit, random: &mut dyn FnMut() -> [u8; 16]) {
    match edit {
        Edit::DropSynced => trees.set_synced(id, None),
        Edit::DropSyncedSubtree => {
            for below in trees.remote_subtree(id) {
                if !trees.has_local(below) {
                    trees.set_synced(below, None);
                }
            }
            trees.set_synced(id, None);
        }
        Edit::SetSynced(synced) => trees.set_synced(id, Some(synced)),
        Edit::RelabelFresh => {
            let fresh = NodeId(random());
            trees.relabel(id, fresh);
            if trees.remote(id).is_none() {
                trees.set_synced(id, None);
            }
        }
        Edit::RelabelTo(other) => trees.relabel(id, other),
    }
}

/// A local step, and what the trees say once it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    pub step: LocalStep,
    pub after: After,
}

/// What a local step means for the trees when it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// The node is on disk as the server has it.
    Created {
        place: Place,
        content: Content,
    },
    /// A folder of the user's own, made to hold what was moved out of a withdrawn share.
    MadeFresh {
        place: Place,
    },
    /// The node holds what the server has.
    Replaced {
        content: Content,
    },
    /// The node is where the server has it.
    Moved {
        place: Place,
    },
    /// The node waits in the parking place.
    Parked {
        place: Place,
    },
    /// The node has another name or folder by our own decision; the server does not know it there.
    Renamed {
        place: Place,
        label: &'static str,
    },
    /// As `Renamed`, and it is a new node from now on.
    MovedOut {
        place: Place,
    },
    Removed,
}

/// Why a node cannot go on in this batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    On(NodeId),
    /// The batch is full.
    Full,
    /// The node depends on itself through others.
    Cycle,
    /// Its content is not here yet.
    Content,
}

/// What a batch of local steps is built from.
pub struct BatchBuilder<'a, 'c> {
    pub trees: &'a mut Trees,
    pub context: &'a Context<'c>,
    pub naming: Naming<'a>,
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    /// The complete temporary file with this content for this node.
    pub fetched: &'a dyn Fn(NodeId, &FileContent) -> Option<TempName>,
    steps: Vec<PlannedStep>,
    touched: BTreeSet<NodeId>,
    /// Nodes that the batch puts somewhere, with their path.
    put: BTreeMap<NodeId, LocalPath>,
    taken: BTreeMap<(NodeId, NameKey), NodeId>,
    /// Nodes that the batch takes away from where they are.
    gone: BTreeSet<NodeId>,
    moved_folders: BTreeSet<NodeId>,
    stack: Vec<NodeId>,
}

impl<'a, 'c> BatchBuilder<'a, 'c> {
    pub fn new(
        trees: &'a mut Trees,
        context: &'a Context<'c>,
        naming: Naming<'a>,
        random: &'a mut dyn FnMut() -> [u8; 16],
        fetched: &'a dyn Fn(NodeId, &FileContent) -> Option<TempName>,
    ) -> Self {
        Self {
            trees,
            context,
            naming,
            random,
            fetched,
            steps: Vec::new(),
            touched: BTreeSet::new(),
            put: BTreeMap::new(),
            taken: BTreeMap::new(),
            gone: BTreeSet::new(),
            moved_folders: BTreeSet::new(),
            stack: Vec::new(),
        }
    }

    /// Takes nodes from the queue until the batch is full. Returns the steps, and the nodes whose
    /// content must be fetched first.
    pub fn build(mut self, queues: &mut Queues) -> (Vec<PlannedStep>, Vec<NodeId>) {
        let mut to_fetch = Vec::new();
        let candidates: Vec<NodeId> = queues.pull.iter().copied().take(4 * STEPS_PER_BATCH).collect();
        for id in candidates {
            match self.pull(id) {
                Ok(()) => queues.forget(id),
                Err(Blocked::Full) => break,
                Err(Blocked::On(other)) => {
                    queues.forget(id);
                    self.trees.wait(id, other);
                }
                Err(Blocked::Content) => {
                    queues.forget(id);
                    to_fetch.push(id);
                }
                Err(Blocked::Cycle) => {
                    // Nothing it depends on could be parked: the next change of any of them wakes it.
                    debug_assert!(false, "{id:?} depends on itself");
                }
            }
        }
        (self.steps, to_fetch)
    }

    fn pull(&mut self, id: NodeId) -> Result<(), Blocked> {
        if self.touched.contains(&id) {
            return Ok(());
        }
        if self.stack.contains(&id) {
            return Err(Blocked::Cycle);
        }
        if self.steps.len() >= STEPS_PER_BATCH || self.stack.len() >= DEPENDENCY_DEPTH {
            return Err(Blocked::Full);
        }
        self.stack.push(id);
        let result = self.pull_verdict(id);
        self.stack.pop();
        result
    }

    fn pull_verdict(&mut self, id: NodeId) -> Result<(), Blocked> {
        match decide(self.trees, self.context, id) {
            Verdict::Pull(Pull::Create) => self.create(id),
            Verdict::Pull(Pull::Replace) => self.replace(id),
            Verdict::Pull(Pull::Attributes(content)) => self.set_attributes(id, content),
            Verdict::Pull(Pull::Move(place)) => self.move_to(id, place),
            Verdict::Pull(Pull::Delete) => self.delete(id),
            Verdict::RenameAside(label) => self.rename_aside(id, label),
            Verdict::MoveOut { mount } => self.move_out(id, mount),
            Verdict::Wait(other) => Err(Blocked::On(other)),
            Verdict::Clean
            | Verdict::Frozen
            | Verdict::Hash
            | Verdict::Edit(_)
            | Verdict::Push(_)
            | Verdict::Problem(_) => Err(Blocked::On(id)),
        }
    }

    fn create(&mut self, id: NodeId) -> Result<(), Blocked> {
        let Some(remote) = self.trees.remote(id).cloned() else { return Err(Blocked::On(id)) };
        let temp = self.content_for(id, &remote.content)?;
        let folder = self.folder(remote.place.parent)?;
        self.free_slot(id, &remote.place)?;
        let path = folder.join(remote.place.name.as_str().as_bytes());
        let step = match &remote.content {
            Content::Directory | Content::Mount => LocalStep::MakeDirectory { node: id, path: path.clone() },
            Content::Symlink(target) => {
                LocalStep::MakeSymlink { node: id, path: path.clone(), target: target.to_string(), replace: None }
            }
            Content::File(content) => {
                LocalStep::Install { node: id, path: path.clone(), temp, content: *content, replace: None }
            }
        };
        let after = After::Created { place: remote.place.clone(), content: remote.content };
        self.put(id, &remote.place, path);
        self.emit(step, after);
        Ok(())
    }

    fn replace(&mut self, id: NodeId) -> Result<(), Blocked> {
        let (Some(remote), Some(local)) = (self.trees.remote(id).cloned(), self.trees.local(id).cloned()) else {
            return Err(Blocked::On(id));
        };
        let temp = self.content_for(id, &remote.content)?;
        let path = self.path(id)?;
        let replace = Some(Expect::Print(local.print));
        let step = match &remote.content {
            Content::File(content) => LocalStep::Install { node: id, path, temp, content: *content, replace },
            Content::Symlink(target) => LocalStep::MakeSymlink { node: id, path, target: target.to_string(), replace },
            Content::Directory | Content::Mount => return Err(Blocked::On(id)),
        };
        self.emit(step, After::Replaced { content: remote.content });
        Ok(())
    }

    fn set_attributes(&mut self, id: NodeId, content: FileContent) -> Result<(), Blocked> {
        let Some(local) = self.trees.local(id).cloned() else { return Err(Blocked::On(id)) };
        let path = self.path(id)?;
        let step = LocalStep::SetAttributes { node: id, path, content, expect: Expect::Print(local.print) };
        self.emit(step, After::Replaced { content: Content::File(content) });
        Ok(())
    }

    fn move_to(&mut self, id: NodeId, place: Place) -> Result<(), Blocked> {
        match self.way_to(id, &place) {
            Ok(to) => self.emit_move(id, &place, to, After::Moved { place: place.clone() }),
            // Its new place cannot be made free before it has left its old one.
            Err(Blocked::Cycle) => self.park(id),
            Err(blocked) => Err(blocked),
        }
    }

    fn way_to(&mut self, id: NodeId, place: &Place) -> Result<LocalPath, Blocked> {
        self.clear_way_out(id, place.parent)?;
        let folder = self.folder(place.parent)?;
        self.free_slot(id, place)?;
        Ok(folder.join(place.name.as_str().as_bytes()))
    }

    /// Before a folder can move below something that is inside it, that must move out.
    fn clear_way_out(&mut self, id: NodeId, folder: NodeId) -> Result<(), Blocked> {
        self.pull_missing_folder(folder)?;
        let above: Vec<NodeId> =
            std::iter::successors(Some(folder), |at| self.parent_on_disk(*at)).take(DEPENDENCY_DEPTH).collect();
        let Some(depth) = above.iter().position(|other| *other == id) else { return Ok(()) };
        for inside in &above[..depth] {
            if matches!(decide(self.trees, self.context, *inside), Verdict::Pull(Pull::Move(_))) {
                self.pull(*inside)?;
                return Err(Blocked::On(*inside));
            }
        }
        Err(Blocked::On(folder))
    }

    /// The folder in which a node is at this point of the batch.
    fn parent_on_disk(&self, id: NodeId) -> Option<NodeId> {
        if self.put.contains_key(&id) {
            return self.trees.remote(id).map(|remote| remote.place.parent);
        }
        self.trees.local(id).map(|local| local.place.parent)
    }

    fn delete(&mut self, id: NodeId) -> Result<(), Blocked> {
        let Some(local) = self.trees.local(id).cloned() else { return Err(Blocked::On(id)) };
        if local.seen == Seen::Directory {
            let children: Vec<NodeId> = self.trees.local_children(id).collect();
            for child in children {
                if !self.gone.contains(&child) {
                    self.pull(child)?;
                }
                if !self.gone.contains(&child) {
                    return Err(Blocked::On(child));
                }
            }
        }
        let path = self.path(id)?;
        let expect = expectation(&local);
        let step = if local.seen == Seen::Directory {
            LocalStep::RemoveDirectory { node: id, path, expect }
        } else {
            LocalStep::Remove { node: id, path, expect }
        };
        self.gone.insert(id);
        self.emit(step, After::Removed);
        Ok(())
    }

    fn rename_aside(&mut self, id: NodeId, label: Label) -> Result<(), Blocked> {
        let Some(local) = self.trees.local(id).cloned() else { return Err(Blocked::On(id)) };
        let folder = self.folder(local.place.parent)?;
        let name = self.free_name(local.place.parent, &local.place.name, label.as_str())?;
        let to = folder.join(name.as_str().as_bytes());
        let place = Place { parent: local.place.parent, name };
        self.emit_move(id, &place, to, After::Renamed { place: place.clone(), label: label.as_str() })
    }

    fn move_out(&mut self, id: NodeId, mount: NodeId) -> Result<(), Blocked> {
        let (Some(local), Some(share)) = (self.trees.local(id).cloned(), self.trees.synced(mount).cloned()) else {
            return Err(Blocked::On(id));
        };
        let label = format!("Unsynced ({} {})", share.place.name, self.naming.date);
        let wanted = Name::parse(&label).unwrap_or(share.place.name);
        let haven = self.haven(&wanted)?;
        let folder = self.folder(haven)?;
        let name = if self.occupant(haven, &local.place.name.key()).is_none() {
            local.place.name.clone()
        } else {
            self.free_name(haven, &local.place.name, Label::Conflict.as_str())?
        };
        let place = Place { parent: haven, name };
        let to = folder.join(place.name.as_str().as_bytes());
        self.emit_move(id, &place, to, After::MovedOut { place: place.clone() })
    }

    /// The folder at the root that takes what is moved out of a withdrawn share; made if need be.
    fn haven(&mut self, wanted: &Name) -> Result<NodeId, Blocked> {
        let root = self.trees.root();
        if let Some(there) = self.occupant(root, &wanted.key()) {
            let folder = self.put.contains_key(&there)
                || self.trees.local(there).is_some_and(|l| l.seen == Seen::Directory) && !self.trees.is_mount(there);
            if folder {
                return Ok(there);
            }
        }
        let name = match self.occupant(root, &wanted.key()) {
            None if self.trees.remote_child(root, &wanted.key()).is_none() => wanted.clone(),
            _ => self.free_name(root, wanted, Label::Conflict.as_str())?,
        };
        let fresh = NodeId((self.random)());
        let place = Place { parent: root, name };
        let path = LocalPath::root().join(place.name.as_str().as_bytes());
        self.put(fresh, &place, path.clone());
        self.emit(LocalStep::MakeDirectory { node: fresh, path }, After::MadeFresh { place });
        Ok(fresh)
    }

    /// Puts a node where it is in nobody's way, since the places of several depend on one another.
    fn park(&mut self, id: NodeId) -> Result<(), Blocked> {
        let name = Name::parse(&id.to_string()).map_err(|_| Blocked::On(id))?;
        let Some(folder) = self.trees.local_path(PARKED) else { return Err(Blocked::On(id)) };
        let place = Place { parent: PARKED, name };
        let to = folder.join(place.name.as_str().as_bytes());
        self.emit_move(id, &place, to, After::Parked { place: place.clone() })
    }

    fn emit_move(&mut self, id: NodeId, place: &Place, to: LocalPath, after: After) -> Result<(), Blocked> {
        let Some(local) = self.trees.local(id).cloned() else { return Err(Blocked::On(id)) };
        let from = self.path(id)?;
        self.gone.insert(id);
        if local.seen == Seen::Directory {
            self.moved_folders.insert(id);
        }
        self.taken.insert((place.parent, place.name.key()), id);
        self.emit(LocalStep::Move { node: id, from, to, expect: expectation(&local) }, after);
        Ok(())
    }

    fn put(&mut self, id: NodeId, place: &Place, path: LocalPath) {
        self.put.insert(id, path);
        self.taken.insert((place.parent, place.name.key()), id);
    }

    fn emit(&mut self, step: LocalStep, after: After) {
        self.touched.insert(step.node());
        self.steps.push(PlannedStep { step, after });
    }

    /// The temporary file that a file's content waits in; none for what has no bytes.
    fn content_for(&self, id: NodeId, content: &Content) -> Result<Option<TempName>, Blocked> {
        match content {
            Content::File(file) if file.size > 0 => match (self.fetched)(id, file) {
                Some(temp) => Ok(Some(temp)),
                None => Err(Blocked::Content),
            },
            Content::File(_) | Content::Directory | Content::Mount | Content::Symlink(_) => Ok(None),
        }
    }

    /// The path of a folder that is, or will be, on disk when the next step is done.
    fn folder(&mut self, id: NodeId) -> Result<LocalPath, Blocked> {
        self.pull_missing_folder(id)?;
        self.path(id)
    }

    fn pull_missing_folder(&mut self, id: NodeId) -> Result<(), Blocked> {
        if self.trees.has_local(id) || self.put.contains_key(&id) {
            return Ok(());
        }
        if self.trees.synced(id).is_some() && self.trees.has_remote(id) {
            // The user deleted a folder into which something of theirs goes: it comes back.
            self.trees.set_synced(id, None);
        }
        self.pull(id)
    }

    /// The path of a node on disk at this point of the batch. What lies in a folder that the batch
    /// moves has to wait: should that move fail, the path would be another folder's.
    fn path(&self, id: NodeId) -> Result<LocalPath, Blocked> {
        if let Some(path) = self.put.get(&id) {
            return Ok(path.clone());
        }
        let mut chain = std::iter::once(id).chain(self.trees.local_ancestors(id));
        if let Some(moved) = chain.find(|above| self.gone.contains(above) || self.moved_folders.contains(above)) {
            return Err(Blocked::On(moved));
        }
        self.trees.local_path(id).ok_or(Blocked::On(id))
    }

    fn occupant(&self, folder: NodeId, key: &NameKey) -> Option<NodeId> {
        if let Some(put) = self.taken.get(&(folder, key.clone())) {
            return Some(*put);
        }
        self.trees.local_child(folder, key).filter(|there| !self.gone.contains(there))
    }

    /// Makes the place free for the node: whoever has it goes first, or is parked.
    fn free_slot(&mut self, id: NodeId, place: &Place) -> Result<(), Blocked> {
        let Some(there) = self.occupant(place.parent, &place.name.key()).filter(|there| *there != id) else {
            return Ok(());
        };
        match decide(self.trees, self.context, there) {
            Verdict::Pull(Pull::Move(_)) => match self.pull(there) {
                Err(Blocked::Cycle) => self.park(there),
                other => other,
            },
            Verdict::Pull(Pull::Delete) | Verdict::RenameAside(_) | Verdict::MoveOut { .. } => self.pull(there),
            _ => Err(Blocked::On(there)),
        }
    }

    fn free_name(&self, folder: NodeId, name: &Name, label: &str) -> Result<Name, Blocked> {
        (1..=NAME_ATTEMPTS)
            .map(|attempt| conflicted_name(name, label, self.naming.device, self.naming.date, attempt))
            .find(|candidate| {
                let key = candidate.key();
                self.occupant(folder, &key).is_none() && self.trees.remote_child(folder, &key).is_none()
            })
            .ok_or(Blocked::On(folder))
    }
}

/// What must be at a node's place for a step to touch it.
fn expectation(local: &Local) -> Expect {
    match local.seen {
        Seen::Directory => Expect::Directory { device: local.print.device, inode: local.print.inode },
        Seen::File(_) | Seen::Symlink(_) => Expect::Print(local.print),
    }
}

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
    inline_bytes: u64,
    pushed: BTreeSet<NodeId>,
    stack: Vec<NodeId>,
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
            inline_bytes: 0,
            pushed: BTreeSet::new(),
            stack: Vec::new(),
        }
    }

    /// Takes nodes of one namespace until the commit is full.
    pub fn build(mut self, candidates: impl Iterator<Item = NodeId>) -> CommitPlan {
        let mut plan = CommitPlan::default();
        for id in candidates {
            if self.commit.operations.len() >= COMMIT_NODES || self.inline_bytes >= INLINE_BYTES {
                break;
            }
            let (operations, blocks, bytes) =
                (self.commit.operations.len(), self.commit.blocks.len(), self.inline_bytes);
            match self.push(id) {
                Ok(()) => continue,
                Err(Unready::Full) if operations > 0 => {
                    self.undo(operations, blocks, bytes);
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
            self.undo(operations, blocks, bytes);
        }
        // A reader of the journal must see what left a folder before the folder's tombstone.
        let (deletions, others): (Vec<Operation>, Vec<Operation>) =
            self.commit.operations.into_iter().partition(|operation| matches!(operation, Operation::Delete { .. }));
        plan.commit =
            PlannedCommit { operations: others.into_iter().chain(deletions).collect(), blocks: self.commit.blocks };
        plan
    }

    /// Takes back what a node that turned out not to be ready had already added.
    fn undo(&mut self, operations: usize, blocks: usize, bytes: u64) {
        for taken_back in self.commit.operations.drain(operations..) {
            self.pushed.remove(&taken_back.node());
        }
        self.commit.blocks.truncate(blocks);
        self.inline_bytes = bytes;
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

    fn add(&mut self, operation: Operation) {
        self.pushed.insert(operation.node());
        self.commit.operations.push(operation);
    }

    /// The body, with its blocks on the server or on their way with this commit.
    fn body(&mut self, id: NodeId, content: &Content) -> Result<Body, Unready> {
        let Some(body) = self.contents.body(content) else { return Err(Unready::Rehash(id)) };
        if let Content::File(file) = content {
            match self.contents.blocks(id, file) {
                BlockPlan::Present => {}
                BlockPlan::UploadFirst => return Err(Unready::Upload(id)),
                BlockPlan::Inline(blocks) => {
                    let bytes: u64 = blocks.iter().map(|block| u64::from(block.len)).sum();
                    if self.inline_bytes + bytes > INLINE_BYTES && self.inline_bytes > 0 {
                        return Err(Unready::Full);
                    }
                    self.inline_bytes += bytes;
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
        match self.trees.row(theirs).map(|row| (&row.local, &row.synced, &row.remote)) {
            Some((None, None, Some(remote))) if content.is_folder() && !remote.content.is_folder() => {
                // A directory keeps the name; the file goes beside it.
                let name = self.free_remote_name(place.parent, &remote.place.name).ok_or(Unready::On(theirs))?;
                let base_location = remote.location_rev;
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

/// The position of an operation of an accepted commit.
#[must_use]
pub fn operation_position(head: Position, operations: usize, index: usize) -> Position {
    Position(head.0 + 1 + index as u64 - operations as u64)
}
