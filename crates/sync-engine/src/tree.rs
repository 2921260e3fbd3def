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
