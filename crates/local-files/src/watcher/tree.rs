//! Which directories are watched, and where they are now.
//!
//! The kernel watches directories, not paths: a watch follows its directory through renames. So each
//! watch knows its parent's watch and its name, and a path is put together when it is needed; the move
//! of a directory with everything below it changes one place.

use std::collections::{BTreeMap, HashMap};

use sync_engine::io::LocalPath;

/// The kernel's number of a watch.
pub(super) type Watch = i32;

#[derive(Debug)]
struct Node {
    /// `None` for the root.
    place: Option<(Watch, Box<[u8]>)>,
    children: BTreeMap<Box<[u8]>, Watch>,
}

/// All watched directories.
#[derive(Debug)]
pub(super) struct WatchedTree {
    root: Watch,
    nodes: HashMap<Watch, Node>,
}

impl WatchedTree {
    pub(super) fn new(root: Watch) -> Self {
        let node = Node { place: None, children: BTreeMap::new() };
        Self { root, nodes: HashMap::from([(root, node)]) }
    }

    pub(super) fn root(&self) -> Watch {
        self.root
    }

    pub(super) fn child(&self, parent: Watch, name: &[u8]) -> Option<Watch> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    /// The watch of the directory at a path, if it is watched.
    pub(super) fn find(&self, path: &LocalPath) -> Option<Watch> {
        path.components().try_fold(self.root, |watch, name| self.child(watch, name))
    }

    /// Where a watched directory is; `None` for an unknown watch.
    pub(super) fn path(&self, watch: Watch) -> Option<LocalPath> {
        let mut names = Vec::new();
        let mut node = self.nodes.get(&watch)?;
        while let Some((parent, name)) = &node.place {
            names.push(name);
            node = self.nodes.get(parent)?;
        }
        Some(names.into_iter().rev().fold(LocalPath::root(), |path, name| path.join(name)))
    }

    /// Records that a watched directory is at this place now. Returns the watches of what was thought to
    /// be there before; they are forgotten.
    pub(super) fn place(&mut self, watch: Watch, parent: Watch, name: &[u8]) -> Placed {
        let known = self.nodes.contains_key(&watch);
        if self.child(parent, name) == Some(watch) {
            return Placed { known, displaced: Vec::new() };
        }
        if !self.nodes.contains_key(&parent) || self.is_within(parent, watch) {
            return Placed { known, displaced: vec![watch] };
        }
        let displaced = self.child(parent, name).map_or_else(Vec::new, |old| self.forget(old));
        self.detach(watch);
        let place = Some((parent, Box::from(name)));
        self.nodes.entry(watch).or_insert_with(|| Node { place: None, children: BTreeMap::new() }).place = place;
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.insert(Box::from(name), watch);
        }
        Placed { known, displaced }
    }

    /// Forgets a directory and everything below it; returns their watches.
    pub(super) fn forget(&mut self, watch: Watch) -> Vec<Watch> {
        self.detach(watch);
        let mut forgotten = Vec::new();
        let mut waiting = vec![watch];
        while let Some(watch) = waiting.pop() {
            if let Some(node) = self.nodes.remove(&watch) {
                waiting.extend(node.children.into_values());
                forgotten.push(watch);
            }
        }
        forgotten
    }

    fn detach(&mut self, watch: Watch) {
        let place = self.nodes.get_mut(&watch).and_then(|node| node.place.take());
        if let Some((parent, name)) = place
            && let Some(parent) = self.nodes.get_mut(&parent)
        {
            parent.children.remove(&name);
        }
    }

    fn is_within(&self, watch: Watch, ancestor: Watch) -> bool {
        let mut at = Some(watch);
        while let Some(watch) = at {
            if watch == ancestor {
                return true;
            }
            at = self.nodes.get(&watch).and_then(|node| node.place.as_ref()).map(|(parent, _)| *parent);
        }
        false
    }
}

/// What [`WatchedTree::place`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// The directory was watched before, here or elsewhere.
    pub(super) known: bool,
    /// Watches that are not needed any more.
    pub(super) displaced: Vec<Watch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &WatchedTree, watch: Watch) -> Option<String> {
        tree.path(watch).map(|path| path.to_string())
    }

    fn tree() -> WatchedTree {
        let mut tree = WatchedTree::new(1);
        tree.place(2, 1, b"a");
        tree.place(3, 2, b"b");
        tree.place(4, 3, b"c");
        tree
    }

    #[test]
    fn a_directory_takes_everything_below_it_along() {
        let mut tree = tree();
        assert_eq!(tree.place(3, 1, b"moved"), Placed { known: true, displaced: vec![] });
        assert_eq!(text(&tree, 4).as_deref(), Some("moved/c"));
        assert_eq!(tree.child(2, b"b"), None);
    }

    #[test]
    fn what_was_at_a_place_before_is_forgotten_with_everything_below_it() {
        let mut tree = tree();
        assert_eq!(tree.place(9, 2, b"b"), Placed { known: false, displaced: vec![3, 4] });
        assert_eq!((text(&tree, 4), text(&tree, 9).as_deref()), (None, Some("a/b")));
    }

    #[test]
    fn a_directory_is_never_placed_below_itself() {
        let mut tree = tree();
        tree.place(2, 4, b"loop");
        assert_eq!(text(&tree, 4).as_deref(), Some("a/b/c"));
    }
}
