//! What the engine tells people about itself.

use model::{Name, NamespaceId, NodeId};
use serde::{Deserialize, Serialize};

/// What the client as a whole is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Phase {
    UpToDate,
    /// Work is under way or about to be.
    Syncing,
    Paused,
    /// The server does not answer; everything goes on locally.
    Offline {
        reason: String,
    },
    /// The synced folder is not there; nothing is concluded from that, and it goes on when it is back.
    RootMissing,
    /// Another folder lies where the synced folder was.
    RootReplaced,
    /// The device was unlinked.
    Unlinked,
}

/// Counts and state for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(flatten)]
    pub phase: Phase,
    /// Files that this device and the server agree on.
    pub synced_files: u64,
    /// Nodes that still differ between this device and the server, those with problems apart.
    pub pending: u64,
    /// Of these: waiting to be hashed or sent.
    pub uploading: u64,
    /// Of these: waiting to be fetched or written.
    pub downloading: u64,
    /// Directories that are still to be looked at.
    pub scanning: u64,
    /// Items that cannot be synced now; `problems` says why.
    pub problems: u64,
    /// Local deletions of files that wait for a confirmation; 0 when none is held.
    pub held_deletions: u64,
}

/// Something that cannot be synced at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub path: String,
    /// A sentence without a full stop.
    pub reason: String,
}

/// What `filestatus` says of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileStatus {
    #[serde(rename = "up to date")]
    UpToDate,
    #[serde(rename = "uploading")]
    Uploading,
    #[serde(rename = "downloading")]
    Downloading,
    #[serde(rename = "error")]
    Error,
    #[serde(rename = "unwatched")]
    Unwatched,
}

impl FileStatus {
    /// The words of `filestatus`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Uploading => "uploading",
            Self::Downloading => "downloading",
            Self::Error => "error",
            Self::Unwatched => "unwatched",
        }
    }
}

/// Where a local path is for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub namespace: NamespaceId,
    /// The node at the path, if this device knows one there.
    pub node: Option<NodeId>,
    /// The path below the namespace's root.
    pub path: Vec<Name>,
}
