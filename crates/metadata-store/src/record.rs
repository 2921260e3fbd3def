//! The rows of the metadata database.

use model::{
    AccountId, BlockHash, Body, Change, DeviceId, Epoch, InstanceId, JournalEntry, Name, NamespaceId, NodeId, Position,
    Role, Timestamp,
};

/// The SHA-256 of a device's token. The token itself is never stored.
pub type TokenHash = [u8; 32];

/// Who this server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerIdentity {
    pub instance: InstanceId,
    pub epoch: Epoch,
}

/// One person's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub account: AccountId,
    /// In the spelling in which it was given; unique without regard to upper and lower case.
    pub email: String,
    /// An argon2 hash in PHC form.
    pub password_hash: String,
    pub root: NamespaceId,
    pub created: Timestamp,
}

/// A block of the store that nobody named when the clean-up looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnusedBlock {
    pub hash: BlockHash,
    /// When the clean-up saw it first.
    pub since: Timestamp,
    /// When its removal began. Its bytes may be gone from then on; nobody may name it.
    pub condemned: Option<Timestamp>,
}

/// What makes two e-mail addresses the same account.
#[must_use]
pub fn email_key(email: &str) -> String {
    email.to_lowercase()
}

/// The stored number of a role.
#[must_use]
pub const fn role_number(role: Role) -> i64 {
    match role {
        Role::Viewer => 0,
        Role::Editor => 1,
        Role::Owner => 2,
    }
}

/// The role that is stored as `number`.
#[must_use]
pub const fn role_from_number(number: i64) -> Option<Role> {
    match number {
        0 => Some(Role::Viewer),
        1 => Some(Role::Editor),
        2 => Some(Role::Owner),
        _ => None,
    }
}

/// One linked installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub device: DeviceId,
    pub account: AccountId,
    pub name: String,
    pub linked: Timestamp,
    pub last_seen: Timestamp,
    /// `false` once it was unlinked. The row stays, since the journal names devices.
    pub active: bool,
}

/// The root of one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    pub namespace: NamespaceId,
    /// The position of its journal's last entry.
    pub head: Position,
    pub live_nodes: u64,
}

/// What a node is, without what it holds. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeKind {
    Directory = 0,
    File = 1,
    Symlink = 2,
    Mount = 3,
}

impl NodeKind {
    /// The kind of a body.
    #[must_use]
    pub const fn of(body: &Body) -> Self {
        match body {
            Body::Directory => Self::Directory,
            Body::File { .. } => Self::File,
            Body::Symlink { .. } => Self::Symlink,
            Body::Mount => Self::Mount,
        }
    }

    /// The kind that is stored as `number`.
    #[must_use]
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Directory),
            1 => Some(Self::File),
            2 => Some(Self::Symlink),
            3 => Some(Self::Mount),
            _ => None,
        }
    }
}

/// A node's current state, or for a dead one its last. Dead nodes stay for history and restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    pub node: NodeId,
    pub parent: NodeId,
    pub name: Name,
    pub body: Body,
    /// The entry that last changed the body.
    pub content_rev: Position,
    /// The entry that last changed the parent or the name.
    pub location_rev: Position,
    /// The entry that killed the node, itself or with a folder around it; `None` while it lives.
    pub deleted: Option<Position>,
}

impl NodeRecord {
    /// Whether the node is part of the tree.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.deleted.is_none()
    }
}

/// A live child of a folder, as much of it as walks over a tree need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    pub node: NodeId,
    pub kind: NodeKind,
    /// Bytes of its name.
    pub name_bytes: usize,
    /// The last entry that changed its body or its place.
    pub changed: Position,
}

/// A journal entry, and the first entry of the batch that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRecord {
    pub entry: JournalEntry,
    /// The entries `batch_first ..` up to the batch's end became visible together.
    pub batch_first: Position,
}

/// What an entry did. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Create = 0,
    Edit = 1,
    Move = 2,
    Delete = 3,
    /// A folder became a mount.
    Share = 4,
}

impl ChangeKind {
    /// The kind of a change.
    #[must_use]
    pub const fn of(change: &Change) -> Self {
        match change {
            Change::Create { .. } => Self::Create,
            Change::Edit { body: Body::Mount } => Self::Share,
            Change::Edit { .. } => Self::Edit,
            Change::Move { .. } => Self::Move,
            Change::Delete => Self::Delete,
        }
    }

    /// The kind that is stored as `number`.
    #[must_use]
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Create),
            1 => Some(Self::Edit),
            2 => Some(Self::Move),
            3 => Some(Self::Delete),
            4 => Some(Self::Share),
            _ => None,
        }
    }
}

/// A journal entry without its change's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalBrief {
    pub position: Position,
    pub batch_first: Position,
    pub node: NodeId,
    pub kind: ChangeKind,
    pub device: Option<DeviceId>,
    pub time: Timestamp,
}

/// A node that came to a place (by its creation or a move), and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    pub node: NodeId,
    pub position: Position,
}

/// How much one read of the journal may return. One entry is returned however many blocks it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    pub entries: usize,
    /// Blocks named by all entries together.
    pub blocks: usize,
}

/// Where an entry brought its node, if it did: what [`Arrival`]s are found by.
#[must_use]
pub fn destination(change: &Change) -> Option<(NodeId, &Name)> {
    match change {
        Change::Create { parent, name, .. } | Change::Move { parent, name } => Some((*parent, name)),
        Change::Edit { .. } | Change::Delete => None,
    }
}

/// How many blocks an entry names, for [`PageLimit::blocks`].
#[must_use]
pub fn blocks_of(change: &Change) -> usize {
    match change {
        Change::Create { body, .. } | Change::Edit { body } => body.blocks().len(),
        Change::Move { .. } | Change::Delete => 0,
    }
}
