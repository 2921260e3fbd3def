//! What the database's errors mean to the caller.

use metadata_store::StoreError;
use mysql::Error;

/// Codes of the protocol, as MySQL and MariaDB document them.
mod code {
    pub(super) const DUPLICATE_ENTRY: u16 = 1062;
    pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;
    pub(super) const DEADLOCK: u16 = 1213;
    pub(super) const DISK_FULL: u16 = 1021;
    pub(super) const TABLE_FULL: u16 = 1114;
    pub(super) const READ_ONLY_OPTION: u16 = 1290;
    pub(super) const READ_ONLY_TRANSACTION: u16 = 1792;
    pub(super) const READ_ONLY_MODE: u16 = 1836;
    pub(super) const SHUTTING_DOWN: u16 = 1053;
    pub(super) const TOO_MANY_CONNECTIONS: u16 = 1040;
    pub(super) const QUERY_INTERRUPTED: u16 = 1317;
    pub(super) const CONNECTION_KILLED: u16 = 1927;
    /// A Galera node that is not part of its cluster.
    pub(super) const NOT_PREPARED: u16 = 1047;
    pub(super) const RECORD_CHANGED: u16 = 1020;
}

/// An error of the driver's, by what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A row with this unique key exists; the transaction goes on.
    Duplicate,
    /// The transaction lost against another and is undone; it may succeed when it is tried again.
    Conflict,
    /// The connection is gone, and the transaction with it.
    Disconnected,
    ReadOnly,
    DiskFull,
    Other,
}

impl Fault {
    pub(crate) fn of(error: &Error) -> Self {
        let Error::MySqlError(answer) = error else {
            return if error.is_connectivity_error() { Self::Disconnected } else { Self::Other };
        };
        match answer.code {
            code::DUPLICATE_ENTRY => Self::Duplicate,
            code::LOCK_WAIT_TIMEOUT | code::DEADLOCK | code::RECORD_CHANGED => Self::Conflict,
            code::SHUTTING_DOWN
            | code::TOO_MANY_CONNECTIONS
            | code::QUERY_INTERRUPTED
            | code::CONNECTION_KILLED
            | code::NOT_PREPARED => Self::Disconnected,
            code::READ_ONLY_OPTION | code::READ_ONLY_TRANSACTION | code::READ_ONLY_MODE => Self::ReadOnly,
            code::DISK_FULL | code::TABLE_FULL => Self::DiskFull,
            _ => Self::Other,
        }
    }

    /// Whether the same work may succeed when it is done again from its beginning.
    pub(crate) const fn may_pass(self) -> bool {
        matches!(self, Self::Conflict | Self::Disconnected)
    }
}

/// The store's error for a failed statement.
pub(crate) fn failed(subject: &'static str, error: Error) -> StoreError {
    match Fault::of(&error) {
        Fault::Duplicate => StoreError::AlreadyExists { subject },
        Fault::Conflict => StoreError::Conflict { subject },
        Fault::Disconnected => StoreError::Unreachable { source: Box::new(error) },
        Fault::ReadOnly => StoreError::ReadOnly,
        Fault::DiskFull => StoreError::DiskFull,
        Fault::Other => StoreError::Io { subject, source: Box::new(error) },
    }
}

/// The store's error for a COMMIT that did not come back. Only an answer that undoes the transaction by
/// its meaning says that nothing happened.
pub(crate) fn not_committed(error: Error) -> StoreError {
    match Fault::of(&error) {
        Fault::Conflict | Fault::ReadOnly | Fault::DiskFull => failed("committing a transaction", error),
        Fault::Duplicate | Fault::Disconnected | Fault::Other => StoreError::OutcomeUnknown { source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16) -> Error {
        Error::MySqlError(mysql::MySqlError { state: "HY000".into(), message: "said so".into(), code })
    }

    fn broken() -> Error {
        Error::IoError(std::io::ErrorKind::BrokenPipe.into())
    }

    #[test]
    fn deadlocks_lock_timeouts_and_lost_connections_may_pass() {
        for error in [answer(1213), answer(1205), answer(1053), broken()] {
            assert!(Fault::of(&error).may_pass(), "{error}");
        }
        for error in [answer(1062), answer(1064), answer(1290), answer(1021)] {
            assert!(!Fault::of(&error).may_pass(), "{error}");
        }
    }

    #[test]
    fn a_commit_without_an_answer_is_never_called_undone() {
        for error in [broken(), answer(1053), answer(1317), answer(1927), answer(9999)] {
            assert!(matches!(not_committed(error), StoreError::OutcomeUnknown { .. }));
        }
        assert!(matches!(not_committed(answer(1213)), StoreError::Conflict { .. }));
    }
}
