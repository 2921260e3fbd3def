//! Files that a step has put on the disk beside another spelling of their names.
//!
//! The tree has one node for names that count as the same, and a disk that tells them apart may hold two. So
//! when a step has put a file where the tree has another one under another spelling, the scan that follows
//! says who is there. It knows the file that was put by its inode, and does not take it for a change of the
//! other one, should that be gone.

use super::{Newcomer, Observer, same_file, same_kind};
use crate::io::Found;
use crate::tree::{Local, Synced};
use crate::trees::Trees;
use model::{NamespaceId, NodeId};

/// Such files that are remembered; further ones look like a user's.
const MAX_UNPLACED: usize = 1_000;

#[derive(Debug)]
pub(super) struct Unplaced {
    node: NodeId,
    namespace: NamespaceId,
    local: Local,
    /// What both sides agree on if it is there.
    agreed: Synced,
}

impl Observer {
    /// A step has put the node on the disk, where the tree has another one.
    pub fn has_been_put_beside(&mut self, trees: &Trees, node: NodeId, local: Local, agreed: Synced) {
        if self.unplaced.len() < MAX_UNPLACED {
            let namespace = trees.namespace_below(local.place.parent);
            let inode = (local.print.device, local.print.inode);
            self.unplaced.insert(inode, Unplaced { node, namespace, local, agreed });
        }
    }

    /// What a step has put on the disk, if the entry is that.
    pub(super) fn unplaced(&self, trees: &Trees, found: &Found) -> Option<&Unplaced> {
        let one = self.unplaced.get(&(found.print.device, found.print.inode))?;
        let is_same = same_kind(&one.local.seen, found.kind) && same_file(&one.local, &found.print);
        (is_same && !trees.has_local(one.node)).then_some(one)
    }

    /// The entry's node and what the tree is to have of it, if the entry is what a step has put on the disk. Both
    /// sides agree on it then.
    pub(super) fn place(&mut self, trees: &mut Trees, newcomer: &Newcomer) -> Option<Local> {
        let one = self.unplaced(trees, &newcomer.found)?;
        let inode = (one.local.print.device, one.local.print.inode);
        let Unplaced { node, local, agreed, .. } = self.unplaced.remove(&inode)?;
        trees.set_synced(node, Some(agreed));
        Some(local)
    }
}

impl Unplaced {
    pub(super) const fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn is_in(&self, namespace: NamespaceId) -> bool {
        self.namespace == namespace
    }
}
