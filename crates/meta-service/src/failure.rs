//! What a call can fail with, and how a failure of the store looks to a client.

use api::{ApiError, ErrorCode};
use metadata_store::StoreError;

/// Why a call inside a transaction ends it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer to the client.
    Api(ApiError),
    Store(StoreError),
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
/// How long a client waits for an operator to make room.
const NO_SPACE_RETRY_MS: u32 = 60_000;

/// A store's failure as it travels. Its details are for the log, where this is its one place.
pub(crate) fn of_store(error: &StoreError) -> ApiError {
    let retry = |code, message: &str, ms| ApiError { retry_after_ms: Some(ms), ..ApiError::new(code, message) };
    match error {
        StoreError::Conflict { .. } | StoreError::Busy { .. } => {
            tracing::warn!(error = error as &dyn std::error::Error, "the metadata database was busy");
            retry(ErrorCode::Unavailable, "the server is busy, try again", BUSY_RETRY_MS)
        }
        StoreError::DiskFull => {
            tracing::error!(error = error as &dyn std::error::Error, "the metadata database could not write");
            retry(ErrorCode::NoSpace, "the server's disk is full", NO_SPACE_RETRY_MS)
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
