//! What a call can fail with, and how a failure of the store looks to a client.

use api::{ApiError, ErrorCode};
use metadata_store::StoreError;
use model::{NamespaceId, Position};

/// Why a call inside a transaction ends it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer to the client.
    Api(ApiError),
    Store(StoreError),
}

impl Failure {
    /// Whether it is the database's and would meet any other work as well.
    pub(crate) const fn concerns_all(&self) -> bool {
        use StoreError::{Busy, OutcomeUnknown, ReadOnly, Unreachable};
        matches!(self, Self::Store(Unreachable { .. } | OutcomeUnknown { .. } | ReadOnly | Busy { .. }))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Api(error) => error,
            Failure::Store(error) => of_store(&error),
        }
    }
}

/// How long a client waits after the database was busy.
const BUSY_RETRY_MS: u32 = 1_000;
/// How long a client waits for a database that takes no changes, as during a switch to another.
const READ_ONLY_RETRY_MS: u32 = 5_000;
/// How long a client waits for an operator to make room, or to say what is to become of lost entries.
const OPERATOR_RETRY_MS: u32 = 60_000;

/// A store's failure as it travels. Its details are for the log, where this is its one place.
pub(crate) fn of_store(error: &StoreError) -> ApiError {
    let retry = |code, message: &str, ms| ApiError { retry_after_ms: Some(ms), ..ApiError::new(code, message) };
    match error {
        StoreError::Conflict { .. } | StoreError::Busy { .. } => {
            tracing::warn!(error = error as &dyn std::error::Error, "the metadata database was busy");
            retry(ErrorCode::Unavailable, "the server is busy, try again", BUSY_RETRY_MS)
        }
        StoreError::Unreachable { .. } | StoreError::OutcomeUnknown { .. } => {
            tracing::error!(error = error as &dyn std::error::Error, "the metadata database could not be reached");
            retry(ErrorCode::Unavailable, "the server has lost its database, try again", BUSY_RETRY_MS)
        }
        StoreError::ReadOnly => {
            tracing::error!(error = error as &dyn std::error::Error, "the metadata database takes no changes");
            retry(ErrorCode::Unavailable, "the server takes no changes now, try again later", READ_ONLY_RETRY_MS)
        }
        StoreError::DiskFull => {
            tracing::error!(error = error as &dyn std::error::Error, "the metadata database could not write");
            retry(ErrorCode::NoSpace, "the server's disk is full", OPERATOR_RETRY_MS)
        }
        StoreError::Corrupt { .. }
        | StoreError::NewerFormat { .. }
        | StoreError::AlreadyExists { .. }
        | StoreError::Gap { .. }
        | StoreError::Abandoned
        | StoreError::Io { .. } => {
            tracing::error!(error = error as &dyn std::error::Error, "the metadata database failed");
            ApiError::new(ErrorCode::Unavailable, "the server's metadata database failed; its log says why")
        }
    }
}

/// The database holds less than this process has told to others. To go on would give positions away twice.
pub(crate) fn gone_back(namespace: NamespaceId, head: Position) -> ApiError {
    tracing::error!(
        %namespace,
        head = head.0,
        "the metadata database has lost entries that devices have seen: stop this server, and run \
         `syncline admin raise-epoch` before the next start"
    );
    let message = "the server's database is older than what was seen of it; its operator must raise the epoch";
    ApiError { retry_after_ms: Some(OPERATOR_RETRY_MS), ..ApiError::new(ErrorCode::Unavailable, message) }
}

pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, message)
}

pub(crate) fn forbidden() -> ApiError {
    ApiError::new(ErrorCode::Forbidden, "this account has no access there, or may not do this")
}

pub(crate) fn not_found(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::NotFound, message)
}

pub(crate) fn unlinked() -> ApiError {
    ApiError::new(ErrorCode::Unlinked, "this device is not linked to the server")
}

pub(crate) fn epoch_changed() -> ApiError {
    ApiError::new(ErrorCode::EpochChanged, "the server's journal is not the one this device has followed")
}
