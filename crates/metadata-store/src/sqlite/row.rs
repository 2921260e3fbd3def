//! Values from and for SQLite.

use super::{Session, failed};
use crate::error::StoreError;
use crate::format;
use crate::port::Answer;
use model::Position;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Params, Row};
use serde::de::DeserializeOwned;

impl Session<'_> {
    /// All rows of a query.
    pub(super) fn all<T>(
        &self,
        subject: &'static str,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Answer<Vec<T>> {
        let fail = |error| failed(subject, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let rows = statement.query_map(params, map).map_err(fail)?;
        rows.collect::<rusqlite::Result<_>>().map_err(fail)
    }

    /// The first row of a query, if there is one.
    pub(super) fn one<T>(
        &self,
        subject: &'static str,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Answer<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| failed(subject, error))?;
        statement.query_row(params, map).optional().map_err(|error| failed(subject, error))
    }

    /// Runs a statement; how many rows it changed. A broken unique key is `AlreadyExists`.
    pub(super) fn run(&self, subject: &'static str, sql: &str, params: impl Params) -> Answer<usize> {
        self.run_each(subject, sql, [params])
    }

    /// Runs a statement once for each set of parameters; how many rows were changed. What stands in the way of one ends
    /// it. A broken unique key is `AlreadyExists`.
    pub(super) fn run_each<P: Params>(
        &self,
        subject: &'static str,
        sql: &str,
        each: impl IntoIterator<Item = P>,
    ) -> Answer<usize> {
        let fail = |error: rusqlite::Error| match error.sqlite_error().map(|e| e.extended_code) {
            Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY) => {
                StoreError::AlreadyExists { subject }
            }
            _ => failed(subject, error),
        };
        let mut statement = self.connection.prepare_cached(sql).map_err(|error| failed(subject, error))?;
        each.into_iter().try_fold(0, |changed, params| Ok(changed + statement.execute(params).map_err(fail)?))
    }

    /// Whether a query has an answer, for each set of parameters.
    pub(super) fn exist<P: Params>(
        &self,
        subject: &'static str,
        sql: &str,
        each: impl IntoIterator<Item = P>,
    ) -> Answer<Vec<bool>> {
        let fail = |error| failed(subject, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        each.into_iter().map(|params| statement.exists(params).map_err(fail)).collect()
    }
}

/// An identifier or hash.
pub(super) fn id<T: for<'a> TryFrom<&'a [u8]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    optional_id(row, column)?.ok_or_else(|| undecodable(column, "an identifier is missing"))
}

/// An identifier that may be NULL.
pub(super) fn optional_id<T: for<'a> TryFrom<&'a [u8]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let value = row.get_ref(column)?;
    let bytes = value.as_blob_or_null().map_err(|_| undecodable(column, "an identifier is no blob"))?;
    bytes
        .map(|bytes| T::try_from(bytes).map_err(|_| undecodable(column, "an identifier has another length")))
        .transpose()
}

/// A position.
pub(super) fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<Position> {
    Ok(Position(unsigned(row, column)?))
}

/// A number that is never negative.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| undecodable(column, "a negative number"))
}

/// A stored number with a meaning.
pub(super) fn ordinal<T>(row: &Row<'_>, column: usize, parse: fn(i64) -> Option<T>) -> rusqlite::Result<T> {
    parse(row.get(column)?).ok_or_else(|| undecodable(column, "an unknown number"))
}

/// A value in the stored format.
pub(super) fn formatted<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let value = row.get_ref(column)?;
    let bytes = value.as_blob().map_err(|_| undecodable(column, "no blob"))?;
    format::from_bytes("a row", bytes)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error)))
}

/// A name, which is checked again: a damaged row must not become a path.
pub(super) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<model::Name> {
    let value = row.get_ref(column)?;
    let text = value.as_str().map_err(|_| undecodable(column, "a name is no text"))?;
    model::Name::parse(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

/// A position as SQLite's integer. No journal gets that long; a hostile number just finds nothing.
pub(super) fn integer(position: Position) -> i64 {
    i64::try_from(position.0).unwrap_or(i64::MAX)
}

/// A size or limit as SQLite's integer.
pub(super) fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn undecodable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.into())
}
