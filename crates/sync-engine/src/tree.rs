//! What the three trees hold for one node.

use crate::io::Fingerprint;
use model::{ContentHash, Mtime, Name, NodeId, Position};
use serde::{Deserialize, Serialize};

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub parent: NodeId,
    pub name: Name,
}

/// A file's content and the attributes that travel with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileContent {
    pub hash: ContentHash,
    /// Bytes.
    pub size: u64,
    pub executable: bool,
    pub mtime: Mtime,
}

/// What a node is and holds, without its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    Directory,
    /// A shared folder's mount: a directory on disk.
    Mount,
    File(FileContent),
    Symlink(Box<str>),
}

/// The node as both sides last agreed on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {
    pub place: Place,
    pub content: Content,
}

/// The node as the server last told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    pub place: Place,
    pub content: Content,
    /// The position of the last change of content.
    pub content_rev: Position,
    /// The position of the last change of place.
    pub location_rev: Position,
}

/// What was seen of a node on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Directory,
    /// `None`: not hashed since its fingerprint last changed.
    File(Option<FileContent>),
    Symlink(Box<str>),
}

impl FileContent {
    /// Whether bytes and execute bit are the same; times may differ.
    #[must_use]
    pub fn same_bytes(&self, other: &Self) -> bool {
        self.hash == other.hash && self.size == other.size && self.executable == other.executable
    }
}

impl Content {
    /// Whether this is a folder on disk.
    #[must_use]
    pub const fn is_folder(&self) -> bool {
        matches!(self, Self::Directory | Self::Mount)
    }

    /// Whether both say the same, times apart. A time alone never makes a conflict.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory | Self::Mount, Self::Directory | Self::Mount) => true,
            (Self::File(a), Self::File(b)) => a.same_bytes(b),
            (Self::Symlink(a), Self::Symlink(b)) => a == b,
            (Self::Directory | Self::Mount | Self::File(_) | Self::Symlink(_), _) => false,
        }
    }

    /// What the disk shows when it holds this.
    #[must_use]
    pub fn seen(&self) -> Seen {
        match self {
            Self::Directory | Self::Mount => Seen::Directory,
            Self::File(file) => Seen::File(Some(*file)),
            Self::Symlink(target) => Seen::Symlink(target.clone()),
        }
    }

    /// The modification time, of a file.
    #[must_use]
    pub const fn mtime(&self) -> Option<Mtime> {
        match self {
            Self::File(file) => Some(file.mtime),
            Self::Directory | Self::Mount | Self::Symlink(_) => None,
        }
    }
}

impl Seen {
    /// What was seen as content; `None` for a file that must be hashed first.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        match self {
            Self::Directory => Some(Content::Directory),
            Self::File(file) => file.map(Content::File),
            Self::Symlink(target) => Some(Content::Symlink(target.clone())),
        }
    }

    /// Whether this is known to be exactly `content`, times included.
    #[must_use]
    pub fn equals(&self, content: &Content) -> bool {
        match (self, content) {
            (Self::Directory, Content::Directory | Content::Mount) => true,
            (Self::File(Some(seen)), Content::File(file)) => seen == file,
            (Self::Symlink(seen), Content::Symlink(target)) => seen == target,
            (Self::Directory | Self::File(_) | Self::Symlink(_), _) => false,
        }
    }

    /// Whether a node with `content` could look like this: both folders, both files or both links.
    #[must_use]
    pub const fn same_kind(&self, content: &Content) -> bool {
        matches!(
            (self, content),
            (Self::Directory, Content::Directory | Content::Mount)
                | (Self::File(_), Content::File(_))
                | (Self::Symlink(_), Content::Symlink(_))
        )
    }
}

/// The node as it was last seen on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    pub place: Place,
    pub seen: Seen,
    pub print: Fingerprint,
    /// The disk's spelling of the name, where it is not the name itself (another normal form).
    pub disk_name: Option<Box<[u8]>>,
}

/// One node in all three trees: a row of the client database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeRow {
    pub local: Option<Local>,
    pub synced: Option<Synced>,
    pub remote: Option<Remote>,
}

/// The folder `.syncline/parked`: where a node waits while its old and new place are both taken (a
/// swap). Not a node of any server.
pub const PARKED: NodeId = NodeId([0xff; 16]);
