//! The words of Syncline: identifiers, names, blocks, journal entries, operations and limits.
//!
//! This crate holds no I/O, no clock and no randomness. Every other crate speaks in these types, and
//! whatever enters the program from outside is parsed into them once, at the edge.

pub mod block;
pub mod conflict;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod name;
pub mod pack;

pub use block::{BLOCK_SIZE, BlockHash, Blocklist, ContentHash, content_hash};
pub use ids::{AccountId, CommitKey, Cursor, DeviceId, Epoch, InstanceId, NamespaceId, NodeId, Position, Timestamp};
pub use journal::{Body, Change, Commit, CommitOutcome, JournalEntry, Mtime, Operation, Reason, Rejection, Role};
pub use name::{Name, NameError, NameKey};
pub use pack::{PackId, PackedBlock};
