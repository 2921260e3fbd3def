//! Things that are told by what is different from the one before.

use model::{Name, NodeId};
use serde::{Deserialize, Serialize};

/// A node after another. A device draws the ids of new files in runs, which have all but their first 32 bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NearNode {
    /// The one that follows.
    Next,
    /// So many are left out before it.
    Further(u32),
    Is(NodeId),
}

impl NearNode {
    fn of(node: NodeId, before: NodeId) -> Self {
        match node.places_after(before) {
            None => Self::Is(node),
            Some(1) => Self::Next,
            Some(places) => Self::Further(places.wrapping_sub(1)),
        }
    }

    fn from(self, before: NodeId) -> NodeId {
        match self {
            Self::Next => before.successor(),
            Self::Further(skipped) => before.further(skipped.wrapping_add(1)),
            Self::Is(node) => node,
        }
    }
}

/// A name after another: how many bytes they have in common at the front, and the rest.
pub(crate) fn shorten(name: &Name, before: &str) -> (u8, String) {
    let pairs = name.as_str().chars().zip(before.chars()).take_while(|(one, other)| one == other);
    let len: usize = pairs.map(|(character, _)| character.len_utf8()).sum();
    // No name is longer.
    let shared = u8::try_from(len).unwrap_or(0);
    (shared, name.as_str()[shared.into()..].to_owned())
}

/// The name again.
pub(crate) fn lengthen(shared: u8, rest: &str, before: &str) -> Option<Name> {
    Name::parse(&[before.get(..shared.into())?, rest].concat()).ok()
}

/// The last node, and the last file or folder, that was told of.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    node: NodeId,
    pub(crate) parent: NodeId,
    pub(crate) name: String,
    /// The modification time of the last file.
    pub(crate) mtime: i64,
}

impl Before {
    /// Before the first.
    pub(crate) const fn below(parent: NodeId) -> Self {
        Self { node: parent, parent, name: String::new(), mtime: 0 }
    }

    /// Moves on to a node; what there is to say of it.
    pub(crate) fn meet(&mut self, node: NodeId) -> NearNode {
        NearNode::of(node, std::mem::replace(&mut self.node, node))
    }

    /// Moves on to a node of which this was said.
    pub(crate) fn meet_said(&mut self, said: NearNode) -> NodeId {
        self.node = said.from(self.node);
        self.node
    }

    /// Moves on; what there is to say of the new place.
    pub(crate) fn go_to(&mut self, parent: NodeId, name: &Name) -> (Option<NodeId>, u8, String) {
        let (shared, rest) = shorten(name, &self.name);
        let said = (Some(parent).filter(|parent| *parent != self.parent), shared, rest);
        (self.parent, self.name) = (parent, name.as_str().to_owned());
        said
    }

    /// Moves on to a place of which this was said.
    pub(crate) fn follow(&mut self, parent: Option<NodeId>, shared: u8, rest: &str) -> Option<(NodeId, Name)> {
        let name = lengthen(shared, rest, &self.name)?;
        (self.parent, self.name) = (parent.unwrap_or(self.parent), name.as_str().to_owned());
        Some((self.parent, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_the_same_run_costs_a_byte_or_a_few() {
        let node =
            |place: u32| NodeId([place.to_be_bytes().as_slice(), &[9; 12]].concat().try_into().expect("as long"));
        let said = |before, after| {
            let said = NearNode::of(after, before);
            assert_eq!(said.from(before), after);
            crate::encode(&said).len()
        };
        assert_eq!(said(node(7), node(8)), 1);
        assert_eq!(said(node(u32::MAX), node(0)), 1);
        assert_eq!(said(node(7), node(9)), 2);
        assert_eq!(said(node(7), node(7 + (1 << 20))), 4);
        assert_eq!(said(node(8), node(7)), 6);
        assert_eq!(said(node(7), NodeId([8; 16])), 17);
    }
}
