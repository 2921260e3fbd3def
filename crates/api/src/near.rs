//! Things that are told by what is different from the one before.

use model::{Name, NodeId};

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

/// The last file or folder that was told of.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub(crate) parent: NodeId,
    pub(crate) name: String,
    /// The modification time of the last file.
    pub(crate) mtime: i64,
}

impl Before {
    /// Before the first.
    pub(crate) const fn below(parent: NodeId) -> Self {
        Self { parent, name: String::new(), mtime: 0 }
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
