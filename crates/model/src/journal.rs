//! The server file journal: its entries, and the commits that append to it.

use crate::block::{BlockHash, Blocklist};
use crate::ids::{CommitKey, DeviceId, Epoch, NamespaceId, NodeId, Position, Timestamp};
use crate::limits;
use crate::name::{Name, NameError};
use serde::{Deserialize, Serialize};

/// A file's modification time: nanoseconds since 1970-01-01 UTC, clamped to the years 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mtime(pub i64);

impl Mtime {
    /// From what a file system gives.
    #[must_use]
    pub fn from_parts(seconds: i64, nanoseconds: u32) -> Self {
        let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let clamped = total.clamp(i64::MIN.into(), i64::MAX.into());
        Self(i64::try_from(clamped).unwrap_or(i64::MAX))
    }

    /// Whole seconds, and nanoseconds from 0 to 999,999,999.
    #[must_use]
    pub fn parts(self) -> (i64, u32) {
        let nanoseconds = self.0.rem_euclid(1_000_000_000);
        (self.0.div_euclid(1_000_000_000), u32::try_from(nanoseconds).unwrap_or(0))
    }
}

/// What a node is and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Directory,
    File {
        blocks: Blocklist,
        /// Bytes.
        size: u64,
        executable: bool,
        mtime: Mtime,
    },
    /// A symbolic link, synced as a link and never followed.
    Symlink {
        target: String,
    },
    /// Another namespace, shown here. The node's id has the bits of the namespace's.
    Mount,
}

impl Body {
    /// Whether other nodes can have this one as their parent in the same namespace.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }

    /// The blocks a file is made of; none for other nodes.
    #[must_use]
    pub fn blocks(&self) -> &[BlockHash] {
        match self {
            Self::File { blocks, .. } => &blocks.0,
            Self::Directory | Self::Symlink { .. } | Self::Mount => &[],
        }
    }

    /// Whether two bodies are of one kind. A node never changes its kind, but for a folder that becomes
    /// a mount when it is shared.
    #[must_use]
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Checks what can be checked without a database.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Directory | Self::Mount => Ok(()),
            Self::File { blocks, size, .. } => {
                if blocks.0.len() > limits::FILE_BLOCKS {
                    return Err("the file has too many blocks");
                }
                blocks.fits(*size).then_some(()).ok_or("the file's size does not fit its number of blocks")
            }
            Self::Symlink { target } => {
                if target.is_empty() || target.len() > limits::SYMLINK_BYTES || target.contains('\0') {
                    return Err("the link's target is empty, too long or contains NUL");
                }
                Ok(())
            }
        }
    }
}

/// What one journal entry does to its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    Create {
        parent: NodeId,
        name: Name,
        body: Body,
    },
    /// New content for a file or symlink, or a directory that becomes a mount. A directory that becomes
    /// a mount takes its descendants along: they leave this namespace without entries of their own.
    Edit {
        body: Body,
    },
    Move {
        parent: NodeId,
        name: Name,
    },
    /// The tombstone. All descendants die with a directory.
    Delete,
}

/// One entry of a namespace's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    pub position: Position,
    pub node: NodeId,
    pub change: Change,
    /// The device that committed; `None` for what the server did itself (mounting a shared folder).
    pub device: Option<DeviceId>,
    pub time: Timestamp,
}

/// One operation of a commit. Each names the revision it was made against (`base_*`, the positions of
/// the node's last content and location change), and is refused when the node has moved on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    Create {
        node: NodeId,
        parent: NodeId,
        name: Name,
        body: Body,
    },
    Edit {
        node: NodeId,
        base_content: Position,
        body: Body,
    },
    Move {
        node: NodeId,
        base_location: Position,
        parent: NodeId,
        name: Name,
    },
    /// For a directory: refused too when anything below it changed after the commit's `seen`.
    Delete {
        node: NodeId,
        base_content: Position,
        base_location: Position,
    },
}

impl Operation {
    /// The node that the operation is about.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Create { node, .. }
            | Self::Edit { node, .. }
            | Self::Move { node, .. }
            | Self::Delete { node, .. } => *node,
        }
    }

    /// The body that the operation brings, if it brings one.
    #[must_use]
    pub const fn body(&self) -> Option<&Body> {
        match self {
            Self::Create { body, .. } | Self::Edit { body, .. } => Some(body),
            Self::Move { .. } | Self::Delete { .. } => None,
        }
    }

    /// The journal change that the operation becomes.
    #[must_use]
    pub fn to_change(&self) -> Change {
        match self.clone() {
            Self::Create { parent, name, body, .. } => Change::Create { parent, name, body },
            Self::Edit { body, .. } => Change::Edit { body },
            Self::Move { parent, name, .. } => Change::Move { parent, name },
            Self::Delete { .. } => Change::Delete,
        }
    }
}

/// A batch of operations on one namespace, accepted or refused as one. Operation `i` becomes the
/// journal entry `head + 1 + i`. What must hold is the tree after the whole batch, so that swaps and
/// inversions are legal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub namespace: NamespaceId,
    pub epoch: Epoch,
    pub key: CommitKey,
    /// The position up to which the client had read the namespace when it made the commit.
    pub seen: Position,
    pub operations: Vec<Operation>,
}

/// The answer to a commit, stored under its key: a commit sent twice is answered alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommitOutcome {
    /// The operations are entries `head - n + 1 ..= head` of the journal.
    Accepted { head: Position, time: Timestamp },
    /// Nothing was done. At least one operation lost a race or broke a rule; the client reads the
    /// journal and plans again.
    Rejected(Vec<Rejection>),
}

/// Why operation `index` of a commit could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub index: u32,
    pub reason: Reason,
}

/// A reason to refuse an operation. The first group is the ordinary result of a race.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    #[error("the node has changed since")]
    Stale,
    #[error("the folder is gone")]
    ParentMissing,
    #[error("the name is taken")]
    NameTaken,
    #[error("the folder would end up inside itself")]
    Cycle,
    #[error("something below the folder has changed since")]
    SubtreeChanged,
    #[error("the node exists already")]
    NodeExists,
    #[error("{} blocks must be uploaded first", .0.len())]
    MissingBlocks(Vec<BlockHash>),

    #[error("this device may not write here")]
    Forbidden,
    #[error("the name is not allowed: {0}")]
    Name(NameError),
    #[error("the path would be too long or too deep")]
    TooDeep,
    #[error("the parent is not a folder")]
    NotADirectory,
    #[error("a node cannot change its kind")]
    KindChange,
    #[error("the folder holds or lies in a shared folder")]
    HoldsMount,
    #[error("the namespace holds too many files")]
    Quota,
    #[error("the operation is malformed")]
    Malformed,
}

/// What a member may do in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Viewer,
    Editor,
    Owner,
}

impl Role {
    /// Whether the role allows commits.
    #[must_use]
    pub const fn may_write(self) -> bool {
        matches!(self, Self::Editor | Self::Owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_beyond_2262_stay_times() {
        for (seconds, nanoseconds) in [(0, 0), (-1, 999_999_999), (-86_400 * 365 * 80, 5), (4_300_000_000, 1)] {
            assert_eq!(Mtime::from_parts(seconds, nanoseconds).parts(), (seconds, nanoseconds));
        }
        assert_eq!(Mtime::from_parts(i64::MAX, 0).0, i64::MAX);
        assert_eq!(Mtime::from_parts(i64::MIN, 0).0, i64::MIN);
    }

    #[test]
    fn a_file_whose_size_does_not_fit_its_blocks_is_refused() {
        let file = |blocks: usize, size| Body::File {
            blocks: Blocklist(vec![BlockHash([1; 32]); blocks]),
            size,
            executable: false,
            mtime: Mtime(0),
        };
        assert!(file(0, 0).check().is_ok());
        assert!(file(1, 1).check().is_ok());
        assert!(file(0, 1).check().is_err());
        assert!(file(1, 0).check().is_err());
        assert!(file(1, u64::MAX).check().is_err());
    }
}
