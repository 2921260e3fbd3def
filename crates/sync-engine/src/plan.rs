//! The planner: sorts what is out of sync by what it needs, and carries verdicts out as batches of
//! local steps and as commits.
//!
//! A batch is built against the disk as it will be when the batch's earlier steps have been done; a
//! commit against the server's tree after the whole commit. What cannot go on waits for the node that
//! stands in its way and is looked at again when that node changes.

mod batch;
mod commit;

pub use batch::{After, BatchBuilder, PlannedStep, STEPS_PER_BATCH};
pub use commit::{BlockPlan, CommitBuilder, CommitPlan, Contents, PlannedCommit, operation_position};

use crate::trees::Trees;
use crate::verdict::{Context, Edit, Push, Verdict, decide};
use model::{NamespaceId, NodeId, limits};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The same of nodes that are to be deleted on the server: thousands of them may wait until the dust has
    /// settled, and are not to be looked at for each other commit of that time.
    pub deletions: BTreeMap<NamespaceId, BTreeSet<NodeId>>,
    /// The verdict that a node cannot be synced, with its reason.
    pub problems: BTreeMap<NodeId, &'static str>,
}

impl Queues {
    /// A node is in one of them at most. Which one is not noted: that would take as much memory as they do.
    fn remove(&mut self, id: NodeId) {
        let was_there = self.hash.remove(&id) || self.pull.remove(&id) || self.problems.remove(&id).is_some();
        if !was_there && !take_out(&mut self.push, id) {
            take_out(&mut self.deletions, id);
        }
    }

    /// Takes a node out of whatever it waits for; something else has it in hand now.
    pub fn forget(&mut self, id: NodeId) {
        self.remove(id);
    }

    /// Nodes that wait to be hashed or sent.
    #[must_use]
    pub fn upward(&self) -> usize {
        let pushed = self.push.values().chain(self.deletions.values());
        self.hash.len() + pushed.map(BTreeSet::len).sum::<usize>()
    }

    /// The namespaces for which something waits to be committed.
    #[must_use]
    pub fn namespaces(&self, with_deletions: bool) -> BTreeSet<NamespaceId> {
        let deletions = self.deletions.keys().filter(|_| with_deletions);
        self.push.keys().chain(deletions).copied().collect()
    }

    /// Up to so many nodes of a namespace that wait to be committed, in their order.
    #[must_use]
    pub fn candidates(&self, namespace: NamespaceId, with_deletions: bool, most: usize) -> BTreeSet<NodeId> {
        let of = |nodes: Option<&BTreeSet<NodeId>>| nodes.into_iter().flatten().take(most).copied().collect();
        let mut candidates: BTreeSet<NodeId> = of(self.push.get(&namespace));
        if with_deletions {
            let deletions: BTreeSet<NodeId> = of(self.deletions.get(&namespace));
            candidates.extend(deletions);
        }
        candidates.into_iter().take(most).collect()
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
                Verdict::Hash => {
                    self.hash.insert(id);
                    return;
                }
                Verdict::Pull(_) | Verdict::RenameAside(_) | Verdict::MoveOut { .. } => {
                    self.pull.insert(id);
                    return;
                }
                Verdict::Push(push) => {
                    let (queue, namespace) = match push {
                        Push::Create { .. } => {
                            let parent = trees.local(id).map(|local| local.place.parent);
                            let namespace = parent.map(|parent| trees.namespace_below(parent));
                            (&mut self.push, namespace.unwrap_or_else(|| trees.root().as_namespace()))
                        }
                        Push::Change { .. } => (&mut self.push, trees.remote_namespace(id)),
                        Push::Delete => (&mut self.deletions, trees.remote_namespace(id)),
                    };
                    queue.entry(namespace).or_default().insert(id);
                    return;
                }
                Verdict::Problem(reason) => {
                    self.problems.insert(id, reason);
                    return;
                }
                Verdict::Edit(edit) => apply_edit(trees, id, edit, random),
            }
        }
        debug_assert!(false, "the verdict about {id:?} does not settle: {:?}", trees.row(id));
    }
}

/// Takes a node out of whichever namespace it waits in; whether it was there.
fn take_out(queue: &mut BTreeMap<NamespaceId, BTreeSet<NodeId>>, id: NodeId) -> bool {
    let found = queue.iter_mut().find_map(|(namespace, nodes)| nodes.remove(&id).then_some(*namespace));
    if let Some(namespace) = found {
        queue.retain(|other, nodes| *other != namespace || !nodes.is_empty());
    }
    found.is_some()
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
