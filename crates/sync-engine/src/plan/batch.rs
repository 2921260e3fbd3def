//! Batches of local steps.

use super::{DEPENDENCY_DEPTH, NAME_ATTEMPTS, Naming, Queues};
use crate::io::{Expect, LocalPath, LocalStep, TempName};
use crate::tree::{Content, FileContent, Local, PARKED, Place, Seen};
use crate::trees::{MAX_WALK, Trees};
use crate::verdict::{Context, Label, Pull, Verdict, decide};
use model::conflict::conflicted_name;
use model::{Name, NameKey, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Steps in one batch: bounds how long other local work waits (a tenth of a second, and the sync), and
/// amortises four syncs of the disk.
pub const STEPS_PER_BATCH: usize = 2_000;

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

impl After {
    /// The folder into which the step puts its node.
    #[must_use]
    pub const fn folder(&self) -> Option<NodeId> {
        match self {
            Self::Created { place, .. }
            | Self::MadeFresh { place }
            | Self::Moved { place }
            | Self::Parked { place }
            | Self::Renamed { place, .. }
            | Self::MovedOut { place } => Some(place.parent),
            Self::Replaced { .. } | Self::Removed => None,
        }
    }
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
    /// Nodes that the batch makes, with their folder, and their path when they are made.
    put: BTreeMap<NodeId, (NodeId, LocalPath)>,
    taken: BTreeMap<(NodeId, NameKey), NodeId>,
    /// Nodes that the batch takes away from where they are.
    gone: BTreeSet<NodeId>,
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
                    // What it is filed under may be what others made of it, and they have changed since.
                    self.trees.decide_again(other);
                }
                Err(Blocked::Content) => {
                    queues.forget(id);
                    to_fetch.push(id);
                }
                Err(Blocked::Cycle) => {
                    // Nothing it depends on could be parked, which takes a server whose tree has a cycle:
                    // that must change first.
                    queues.forget(id);
                    self.trees.wait(id, id);
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

    /// Plans what must be done before something else. That waits for this, whatever this itself waits for: it may
    /// be done with in another way.
    fn pull_first(&mut self, other: NodeId) -> Result<(), Blocked> {
        match self.pull(other) {
            Err(Blocked::On(_)) => Err(Blocked::On(other)),
            result => result,
        }
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
        let Some(remote) = self.trees.remote(id) else { return Err(Blocked::On(id)) };
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
        let (Some(remote), Some(local)) = (self.trees.remote(id), self.trees.local(id)) else {
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
        let Some(local) = self.trees.local(id) else { return Err(Blocked::On(id)) };
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
                self.pull_first(*inside)?;
                return Err(Blocked::On(*inside));
            }
        }
        // What must leave is perhaps in a commit under way; the folder itself may never change again.
        let leaves = |inside: &&NodeId| self.trees.remote_parent(**inside) != self.trees.local_parent(**inside);
        Err(Blocked::On(above[..depth].iter().find(leaves).copied().unwrap_or(folder)))
    }

    /// The folder in which a node is at this point of the batch.
    fn parent_on_disk(&self, id: NodeId) -> Option<NodeId> {
        self.put.get(&id).map(|(parent, _)| *parent).or_else(|| self.trees.local_parent(id))
    }

    fn delete(&mut self, id: NodeId) -> Result<(), Blocked> {
        let Some(local) = self.trees.local(id) else { return Err(Blocked::On(id)) };
        if local.seen == Seen::Directory {
            let children: Vec<NodeId> = self.trees.local_children(id).collect();
            for child in children {
                if !self.gone.contains(&child) {
                    self.pull_first(child)?;
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
        let Some(local) = self.trees.local(id) else { return Err(Blocked::On(id)) };
        let folder = self.folder(local.place.parent)?;
        let name = self.free_name(local.place.parent, &local.place.name, label.as_str())?;
        let to = folder.join(name.as_str().as_bytes());
        let place = Place { parent: local.place.parent, name };
        self.emit_move(id, &place, to, After::Renamed { place: place.clone(), label: label.as_str() })
    }

    fn move_out(&mut self, id: NodeId, mount: NodeId) -> Result<(), Blocked> {
        let (Some(local), Some(share)) = (self.trees.local(id), self.trees.synced(mount)) else {
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
        let Some(local) = self.trees.local(id) else { return Err(Blocked::On(id)) };
        let from = self.path(id)?;
        self.gone.insert(id);
        self.taken.insert((place.parent, place.name.key()), id);
        self.emit(LocalStep::Move { node: id, from, to, expect: expectation(&local) }, after);
        Ok(())
    }

    fn put(&mut self, id: NodeId, place: &Place, path: LocalPath) {
        self.put.insert(id, (place.parent, path));
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
        if self.context.frozen.contains(&id) {
            return Err(Blocked::On(id));
        }
        if self.trees.has_synced(id) && self.trees.has_remote(id) {
            // The user deleted a folder into which something of theirs goes: it comes back.
            self.trees.set_synced(id, None);
        }
        self.pull_first(id)
    }

    /// The path of a node on disk at this point of the batch. What lies in a folder that the batch
    /// moves has to wait: should that move fail, the path would be another folder's.
    fn path(&self, id: NodeId) -> Result<LocalPath, Blocked> {
        let mut chain = std::iter::successors(Some(id), |at| self.parent_on_disk(*at)).take(MAX_WALK);
        if let Some(moved) = chain.find(|above| self.gone.contains(above)) {
            return Err(Blocked::On(moved));
        }
        match self.put.get(&id) {
            Some((_, path)) => Ok(path.clone()),
            None => self.trees.local_path(id).ok_or(Blocked::On(id)),
        }
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
            Verdict::Pull(Pull::Move(_)) => match self.pull_first(there) {
                Err(Blocked::Cycle) => self.park(there),
                other => other,
            },
            Verdict::Pull(Pull::Delete) | Verdict::RenameAside(_) | Verdict::MoveOut { .. } => self.pull_first(there),
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
