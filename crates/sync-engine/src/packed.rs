//! Rows as memory keeps them.
//!
//! Nearly all nodes are in sync, and three trees that agree say the same three times. Such a row is kept
//! once, in half the space; what is asked of it is put together again. A million files fit into
//! a few hundred megabytes that way.

use crate::io::Fingerprint;
use crate::tree::{Content, Local, NodeRow, Place, Remote, Seen, Synced};
use model::{ContentHash, NodeId, Position};

/// One row.
#[derive(Debug)]
pub(crate) enum Packed {
    Agreed(Box<Agreed>),
    Differing(Box<NodeRow>),
}

/// A node on which all three trees agree.
#[derive(Debug)]
pub(crate) struct Agreed {
    place: Place,
    content: Content,
    print: Fingerprint,
    disk_name: Option<Box<[u8]>>,
    content_rev: Position,
    location_rev: Position,
}

impl Packed {
    pub(crate) fn new(row: NodeRow) -> Self {
        if !row.agrees() {
            return Self::Differing(Box::new(row));
        }
        match row {
            NodeRow { local: Some(local), synced: Some(_), remote: Some(remote) } => Self::Agreed(Box::new(Agreed {
                place: remote.place,
                content: remote.content,
                print: local.print,
                disk_name: local.disk_name,
                content_rev: remote.content_rev,
                location_rev: remote.location_rev,
            })),
            row => Self::Differing(Box::new(row)),
        }
    }

    pub(crate) fn row(&self) -> NodeRow {
        match self {
            Self::Agreed(agreed) => {
                NodeRow { local: Some(agreed.local()), synced: Some(agreed.synced()), remote: Some(agreed.remote()) }
            }
            Self::Differing(row) => NodeRow::clone(row),
        }
    }

    pub(crate) fn local(&self) -> Option<Local> {
        match self {
            Self::Agreed(agreed) => Some(agreed.local()),
            Self::Differing(row) => row.local.clone(),
        }
    }

    pub(crate) fn synced(&self) -> Option<Synced> {
        match self {
            Self::Agreed(agreed) => Some(agreed.synced()),
            Self::Differing(row) => row.synced.clone(),
        }
    }

    pub(crate) fn remote(&self) -> Option<Remote> {
        match self {
            Self::Agreed(agreed) => Some(agreed.remote()),
            Self::Differing(row) => row.remote.clone(),
        }
    }

    pub(crate) fn agrees(&self) -> bool {
        matches!(self, Self::Agreed(_))
    }

    /// Whether only the server has it.
    pub(crate) fn is_remote_only(&self) -> bool {
        matches!(self, Self::Differing(row) if row.local.is_none() && row.synced.is_none() && row.remote.is_some())
    }

    pub(crate) fn has_synced(&self) -> bool {
        match self {
            Self::Agreed(_) => true,
            Self::Differing(row) => row.synced.is_some(),
        }
    }

    /// Where the disk has it.
    pub(crate) fn local_place(&self) -> Option<&Place> {
        match self {
            Self::Agreed(agreed) => Some(&agreed.place),
            Self::Differing(row) => row.local.as_ref().map(|local| &local.place),
        }
    }

    /// Where the server has it.
    pub(crate) fn remote_place(&self) -> Option<&Place> {
        match self {
            Self::Agreed(agreed) => Some(&agreed.place),
            Self::Differing(row) => row.remote.as_ref().map(|remote| &remote.place),
        }
    }

    /// The name as the disk spells it.
    pub(crate) fn disk_name(&self) -> Option<&[u8]> {
        let (place, disk_name) = match self {
            Self::Agreed(agreed) => (&agreed.place, &agreed.disk_name),
            Self::Differing(row) => row.local.as_ref().map(|local| (&local.place, &local.disk_name))?,
        };
        Some(disk_name.as_deref().unwrap_or(place.name.as_str().as_bytes()))
    }

    /// What the server has, or had when it was last in sync.
    pub(crate) fn remote_or_synced_content(&self) -> Option<&Content> {
        match self {
            Self::Agreed(agreed) => Some(&agreed.content),
            Self::Differing(row) => match (&row.remote, &row.synced) {
                (Some(remote), _) => Some(&remote.content),
                (None, Some(synced)) => Some(&synced.content),
                (None, None) => None,
            },
        }
    }

    /// The content of the file on disk, if it is known.
    pub(crate) fn local_hash(&self) -> Option<ContentHash> {
        match self {
            Self::Agreed(agreed) => match &agreed.content {
                Content::File(file) => Some(file.hash),
                Content::Directory | Content::Mount | Content::Symlink(_) => None,
            },
            Self::Differing(row) => match &row.local.as_ref()?.seen {
                Seen::File(file) => file.map(|file| file.hash),
                Seen::Directory | Seen::Symlink(_) => None,
            },
        }
    }

    /// Device and inode.
    pub(crate) fn inode(&self) -> Option<(u64, u64)> {
        let print = match self {
            Self::Agreed(agreed) => &agreed.print,
            Self::Differing(row) => &row.local.as_ref()?.print,
        };
        Some((print.device, print.inode))
    }

    pub(crate) fn is_synced_file(&self) -> bool {
        match self {
            Self::Agreed(agreed) => matches!(agreed.content, Content::File(_)),
            Self::Differing(row) => matches!(&row.synced, Some(Synced { content: Content::File(_), .. })),
        }
    }

    pub(crate) fn is_locally_deleted_file(&self) -> bool {
        match self {
            Self::Agreed(_) => false,
            Self::Differing(row) => self.is_synced_file() && row.local.is_none() && row.remote.is_some(),
        }
    }
}

impl Agreed {
    fn local(&self) -> Local {
        let seen = self.content.seen();
        Local { place: self.place.clone(), seen, print: self.print, disk_name: self.disk_name.clone() }
    }

    fn synced(&self) -> Synced {
        Synced { place: self.place.clone(), content: self.content.clone() }
    }

    fn remote(&self) -> Remote {
        Remote {
            place: self.place.clone(),
            content: self.content.clone(),
            content_rev: self.content_rev,
            location_rev: self.location_rev,
        }
    }
}

/// The children of every folder in two trees at once, found by folder and name.
///
/// Names are kept as short digests: whoever looks one up compares the name itself.
#[derive(Debug, Default)]
pub(crate) struct Children(std::collections::BTreeMap<(NodeId, u64, NodeId), Sides>);

/// The trees in which an entry of [`Children`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sides(u8);

impl Sides {
    pub(crate) const LOCAL: Self = Self(1);
    pub(crate) const REMOTE: Self = Self(2);
}

impl Children {
    pub(crate) fn insert(&mut self, place: &Place, child: NodeId, side: Sides) {
        self.0.entry((place.parent, place.name.key().digest(), child)).or_insert(Sides(0)).0 |= side.0;
    }

    pub(crate) fn remove(&mut self, place: &Place, child: NodeId, side: Sides) {
        let key = (place.parent, place.name.key().digest(), child);
        if let Some(sides) = self.0.get_mut(&key) {
            sides.0 &= !side.0;
            if sides.0 == 0 {
                self.0.remove(&key);
            }
        }
    }

    /// All children of a folder in one tree, in a fixed order.
    pub(crate) fn of(&self, parent: NodeId, side: Sides) -> impl Iterator<Item = NodeId> + '_ {
        self.0
            .range((parent, 0, NodeId([0; 16]))..)
            .take_while(move |((above, ..), _)| *above == parent)
            .filter(move |(_, sides)| sides.0 & side.0 != 0)
            .map(|((.., child), _)| *child)
    }

    /// Children of a folder in one tree whose names have this digest.
    pub(crate) fn with_digest(&self, parent: NodeId, digest: u64, side: Sides) -> impl Iterator<Item = NodeId> + '_ {
        self.0
            .range((parent, digest, NodeId([0; 16]))..)
            .take_while(move |((above, of, _), _)| *above == parent && *of == digest)
            .filter(move |(_, sides)| sides.0 & side.0 != 0)
            .map(|((.., child), _)| *child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{FileContent, Seen};
    use model::{ContentHash, Mtime, Name};

    fn agreed(content: Content) -> NodeRow {
        let place = Place { parent: NodeId([1; 16]), name: Name::parse("é").expect("a name") };
        let seen = match &content {
            Content::Directory | Content::Mount => Seen::Directory,
            Content::File(file) => Seen::File(Some(*file)),
            Content::Symlink(target) => Seen::Symlink(target.clone()),
        };
        let print =
            Fingerprint { device: 1, inode: 2, birth: Some(3), size: 4, mtime: Mtime(5), ctime: 6, executable: false };
        let disk_name = Some(Box::from("e\u{301}".as_bytes()));
        NodeRow {
            local: Some(Local { place: place.clone(), seen, print, disk_name }),
            synced: Some(Synced { place: place.clone(), content: content.clone() }),
            remote: Some(Remote { place, content, content_rev: Position(7), location_rev: Position(8) }),
        }
    }

    fn file() -> Content {
        Content::File(FileContent { hash: ContentHash([9; 32]), size: 10, executable: true, mtime: Mtime(11) })
    }

    #[test]
    fn every_row_comes_out_as_it_went_in() {
        for content in [file(), Content::Directory, Content::Mount, Content::Symlink("to".into())] {
            let row = agreed(content);
            let packed = Packed::new(row.clone());
            assert!(packed.agrees());
            assert_eq!(packed.row(), row);
            assert_eq!((packed.local(), packed.synced(), packed.remote()), (row.local, row.synced, row.remote));
        }
    }

    #[test]
    fn a_row_that_differs_in_anything_is_kept_whole() {
        let whole = agreed(file());
        let different: [fn(&mut NodeRow); 6] = [
            |row| row.local = None,
            |row| row.synced = None,
            |row| row.remote = None,
            |row| row.local.as_mut().expect("there").seen = Seen::File(None),
            |row| row.remote.as_mut().expect("there").place.parent = NodeId([2; 16]),
            |row| row.synced.as_mut().expect("there").content = Content::Directory,
        ];
        for change in different {
            let mut row = whole.clone();
            change(&mut row);
            let packed = Packed::new(row.clone());
            assert!(!packed.agrees());
            assert_eq!(packed.row(), row);
        }
    }
}
