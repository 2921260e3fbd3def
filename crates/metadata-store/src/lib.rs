//! The metadata database as the meta service sees it: the port, its records, and the SQLite adapter.
//!
//! [`MetadataStore`] offers two things: a write transaction and a snapshot to read from. Everything that
//! is policy (who may do what, which commit is valid) lives in the meta service; the store keeps rows,
//! and two invariants that no caller can break: a journal's positions are dense, and the names of a
//! folder's live children are unique.
//!
//! The namespace leads the key of every table that grows with the files, and no primitive joins two
//! namespaces, so that an adapter may spread namespaces over many databases.
//!
//! The port is synchronous: a seeded simulation runs it without threads, and async callers move it to a
//! blocking thread.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod error;
pub mod format;
pub mod journal_cache;
pub mod port;
pub mod record;
pub mod sqlite;

pub use error::StoreError;
pub use journal_cache::{Chunking, JournalCache, Journals};
pub use port::{Existing, Lookups, MetadataStore, PackRecord, Reading, Transaction, Writers};
pub use record::{
    Account, Arrival, ChangeKind, Child, Device, JournalBrief, JournalRecord, Namespace, NodeKind, NodeRecord,
    PageLimit, ServerIdentity, TokenHash, UnusedBlock,
};
pub use sqlite::SqliteStore;
