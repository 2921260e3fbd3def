//! Errors as they travel: a stable code, a sentence for people, and when to try again.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What went wrong, in a form that programs can act on. New codes go at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// The request makes no sense; sending it again will not help.
    BadRequest,
    /// E-mail and password do not belong together.
    WrongCredentials,
    /// The device's token is unknown: it was unlinked, or belongs to another server.
    Unlinked,
    /// The account may not do this. Also the answer for what does not exist, so that neither is told.
    Forbidden,
    /// What the request names does not exist, or not for this account.
    NotFound,
    /// What the request would make exists already.
    AlreadyExists,
    /// The cursor's epoch or instance is not this server's.
    EpochChanged,
    /// Too many requests; `retry_after` says when.
    Busy,
    /// The server is at fault or shutting down; a later try may succeed.
    Unavailable,
    /// The server's disk is full.
    NoSpace,
    /// The client is too old or too new for this server.
    UnsupportedVersion,
}

impl ErrorCode {
    /// The HTTP status under which the error travels.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::WrongCredentials | Self::Unlinked => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::EpochChanged => 409,
            Self::Busy => 429,
            Self::Unavailable => 503,
            Self::NoSpace => 507,
            Self::UnsupportedVersion => 426,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Busy | Self::Unavailable | Self::NoSpace => true,
            Self::BadRequest
            | Self::WrongCredentials
            | Self::Unlinked
            | Self::Forbidden
            | Self::NotFound
            | Self::AlreadyExists
            | Self::EpochChanged
            | Self::UnsupportedVersion => false,
        }
    }
}

/// An error that a service answers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    /// One sentence for a person, without a full stop.
    pub message: String,
    /// Milliseconds to wait before the next try, when the server knows better than the client.
    pub retry_after_ms: Option<u32>,
}

impl ApiError {
    /// An error without advice on when to retry.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    /// What the server asks the client to wait before it tries again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms.map(|ms| Duration::from_millis(ms.into()))
    }
}
