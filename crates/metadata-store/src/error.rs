//! What a store can fail with.

use model::{NamespaceId, Position};

/// Why a store could not do its work. "Nothing there" is never an error: it is a `None`, an empty list
/// or a `false` in the answer, so that a failure is never taken for emptiness.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another transaction was in the way. The same work may succeed when it is tried again.
    #[error("another transaction got in the way of {subject}")]
    Conflict { subject: &'static str },
    /// The database did not become free in time; a later try may succeed.
    #[error("the database was busy for too long during {subject}")]
    Busy { subject: &'static str },
    /// The database could not be reached, or the connection broke before anything was committed.
    #[error("the metadata database cannot be reached")]
    Unreachable {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke while the transaction was being committed: it may have happened, whole, or
    /// not at all. Only who can recognise its effects may do the work again.
    #[error("the connection to the metadata database broke during a commit; whether it happened is unknown")]
    OutcomeUnknown {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database takes no changes: a replica, or one that its operator has set so.
    #[error("the metadata database is read-only")]
    ReadOnly,
    /// The disk under the database is full. Nothing was written.
    #[error("the disk of the metadata database is full")]
    DiskFull,
    /// The database holds what it cannot hold: the file is damaged, or another program wrote to it.
    #[error("the metadata database is damaged: {subject}")]
    Corrupt {
        subject: &'static str,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The database was made by a newer version of this program.
    #[error("the metadata database has format {found}; this program knows formats up to {known}: use a newer program")]
    NewerFormat { found: i64, known: i64 },
    /// A row with this unique key exists.
    #[error("{subject} exists already")]
    AlreadyExists { subject: &'static str },
    /// The caller appended entries that do not follow the journal's head. A bug of the caller's.
    #[error("the journal of {namespace} is at {head} and cannot be continued at {position}")]
    Gap { namespace: NamespaceId, head: Position, position: Position },
    /// The work given to a transaction ended it without a failure of the store.
    #[error("the transaction was abandoned by its caller")]
    Abandoned,
    /// Any other failure of the disk, the connection or the database program.
    #[error("the metadata database failed during {subject}")]
    Io {
        subject: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
