//! Files that are gone, and may only have moved.
//!
//! The two halves of a rename may be seen in two rounds, and without birth times an inode does not tell a
//! file that was moved from another that has its number. So what is gone is remembered until the server
//! knows of the deletion.

use super::{MAX_DEPARTED, Observer};
use crate::io::Found;
use crate::tree::{Local, Seen};
use crate::trees::Trees;
use model::{NamespaceId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// A node that is believed to be deleted while the server does not know it yet. Should its inode turn up
/// under another name, it was moved, and its two halves were seen in two rounds.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) node: NodeId,
    pub(super) namespace: NamespaceId,
    pub(super) local: Local,
}

impl Observer {
    /// Nodes in a commit whose answer has not come. As soon as it does they are synced; what happens to them
    /// on disk until then must not be taken for something else.
    pub fn set_told(&mut self, nodes: BTreeSet<NodeId>) {
        if self.told != nodes {
            self.told = nodes;
            self.departed_as_of = None;
        }
    }

    /// Whether the server knows the node, or is about to.
    pub(super) fn is_shared(&self, trees: &Trees, id: NodeId) -> bool {
        trees.has_synced(id) || self.told.contains(&id)
    }

    /// Forgets the departed that are back, and those of whose deletion the server knows. They are many while a
    /// large tree is being deleted, and nothing happens to them then.
    pub(super) fn forget_returned(&mut self, trees: &Trees) {
        if self.departed_as_of.replace(trees.turns()) == Some(trees.turns()) {
            return;
        }
        let told = &self.told;
        self.departed.retain(|_, gone| {
            (trees.has_synced(gone.node) || told.contains(&gone.node)) && !trees.has_local(gone.node)
        });
    }

    /// The node, if it was deleted here and the server does not know it yet.
    pub(super) fn departed(&self, trees: &Trees, id: NodeId, found: &Found) -> Option<&Departed> {
        let gone = self.departed.get(&(found.print.device, found.print.inode)).filter(|gone| gone.node == id)?;
        (trees.local(id).is_none() && self.is_shared(trees, id)).then_some(gone)
    }

    /// The server is told of the deletion: nothing that turns up is this node any more.
    pub fn forget_departed(&mut self, nodes: &BTreeSet<NodeId>) {
        self.departed.retain(|_, gone| !nodes.contains(&gone.node));
        self.doubtful.retain(|_, gone| !nodes.contains(gone));
    }

    /// Nodes that are gone, unless the bytes of a file, which are not known yet, say that it is they.
    /// `unread`: files that will not be read.
    pub fn undecided(&mut self, trees: &Trees, unread: impl Fn(&NodeId) -> bool) -> BTreeSet<NodeId> {
        let departed = &self.departed;
        self.doubtful.retain(|new, gone| {
            let Some(local) = trees.local(*new).filter(|_| !unread(new)) else { return false };
            local.seen == Seen::File(None) && may_be(departed, trees, &local) == Some(*gone)
        });
        self.doubtful.values().copied().collect()
    }

    /// The file cannot be read: nothing waits for its bytes any more.
    pub fn give_up(&mut self, new: NodeId) {
        self.doubtful.remove(&new);
    }

    /// The deleted node that a file turns out to be, now that its bytes are known: it was renamed, perhaps
    /// over another one, and got another time of modification before anybody looked.
    #[must_use]
    pub fn turns_out_to_be(&self, trees: &Trees, new: NodeId) -> Option<NodeId> {
        let local = trees.local(new)?;
        let gone = may_be(&self.departed, trees, &local)?;
        let content = local.seen.content()?;
        let is_its_own = trees.synced(new).is_some_and(|synced| synced.content.same(&content));
        let was_read = self.departed.get(&inode_of(&local)).and_then(|gone| gone.local.seen.content());
        let had = [Some(trees.synced(gone)?.content), was_read];
        (!is_its_own && had.iter().flatten().any(|had| content.same(had))).then_some(gone)
    }

    /// Remembers that the bytes of a file are to tell whether it is a node that is gone.
    pub(super) fn doubt(&mut self, trees: &Trees, new: NodeId) {
        if let Some(local) = trees.local(new)
            && let Some(gone) = may_be(&self.departed, trees, &local)
        {
            self.doubtful.insert(new, gone);
        }
    }

    /// Remembers what is about to be taken for deleted. Returns the inodes.
    pub(super) fn remember(&mut self, trees: &Trees, top: NodeId) -> Vec<(u64, u64)> {
        let mut inodes = Vec::new();
        let Some(namespace) = self.home(trees, top) else { return inodes };
        for id in trees.local_subtree(top).into_iter().chain([top]) {
            if let Some(local) = trees.local(id).filter(|_| self.is_shared(trees, id))
                && self.departed.len() < MAX_DEPARTED
                && self.home(trees, id) == Some(namespace)
            {
                let inode = inode_of(&local);
                self.left.insert(id);
                self.departed.insert(inode, Departed { node: id, namespace, local: local.clone() });
                inodes.push(inode);
            }
        }
        inodes
    }
}

/// The deleted node that a file may be that nothing but its bytes can tell from another on a reused inode.
fn may_be(departed: &BTreeMap<(u64, u64), Departed>, trees: &Trees, local: &Local) -> Option<NodeId> {
    let gone = departed.get(&inode_of(local))?;
    let told_by_birth = gone.local.print.birth.is_some() && local.print.birth.is_some();
    let both_files = matches!((&gone.local.seen, &local.seen), (Seen::File(_), Seen::File(_)));
    let is_gone = !trees.has_local(gone.node) && trees.has_synced(gone.node);
    let may_be = is_gone
        && both_files
        && !told_by_birth
        && gone.local.print.size == local.print.size
        && gone.namespace == trees.namespace_below(local.place.parent);
    may_be.then_some(gone.node)
}

const fn inode_of(local: &Local) -> (u64, u64) {
    (local.print.device, local.print.inode)
}
