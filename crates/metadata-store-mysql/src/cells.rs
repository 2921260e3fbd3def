//! Values from and for the database.

use metadata_store::{StoreError, format};
use model::{Name, Position};
use mysql::{Row, Value};
use serde::de::DeserializeOwned;

/// The values of one row.
pub(crate) struct Cells {
    subject: &'static str,
    values: Vec<Value>,
}

type Answer<T> = Result<T, StoreError>;

impl Cells {
    pub(crate) fn new(subject: &'static str, row: Row) -> Self {
        Self { subject, values: row.unwrap() }
    }

    /// An identifier or hash.
    pub(crate) fn id<T: for<'a> TryFrom<&'a [u8]>>(&self, column: usize) -> Answer<T> {
        T::try_from(self.bytes(column)?).map_err(|_| self.corrupt("an identifier has another length"))
    }

    /// An identifier that may be NULL.
    pub(crate) fn optional_id<T: for<'a> TryFrom<&'a [u8]>>(&self, column: usize) -> Answer<Option<T>> {
        if self.is_null(column) { Ok(None) } else { self.id(column).map(Some) }
    }

    pub(crate) fn position(&self, column: usize) -> Answer<Position> {
        Ok(Position(self.unsigned(column)?))
    }

    /// A position that may be NULL.
    pub(crate) fn optional_position(&self, column: usize) -> Answer<Option<Position>> {
        if self.is_null(column) { Ok(None) } else { self.position(column).map(Some) }
    }

    /// A number that is never negative.
    pub(crate) fn unsigned(&self, column: usize) -> Answer<u64> {
        u64::try_from(self.integer(column)?).map_err(|_| self.corrupt("a negative number"))
    }

    /// A number; the text protocol brings it as digits.
    pub(crate) fn integer(&self, column: usize) -> Answer<i64> {
        let number = match self.values.get(column) {
            Some(&Value::Int(number)) => Some(number),
            Some(&Value::UInt(number)) => i64::try_from(number).ok(),
            Some(Value::Bytes(digits)) => std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()),
            _ => None,
        };
        number.ok_or_else(|| self.corrupt("no number"))
    }

    /// A number that may be NULL.
    pub(crate) fn optional_integer(&self, column: usize) -> Answer<Option<i64>> {
        if self.is_null(column) { Ok(None) } else { self.integer(column).map(Some) }
    }

    /// A stored number with a meaning.
    pub(crate) fn ordinal<T>(&self, column: usize, parse: fn(i64) -> Option<T>) -> Answer<T> {
        parse(self.integer(column)?).ok_or_else(|| self.corrupt("an unknown number"))
    }

    pub(crate) fn flag(&self, column: usize) -> Answer<bool> {
        Ok(self.integer(column)? != 0)
    }

    pub(crate) fn text(&self, column: usize) -> Answer<String> {
        String::from_utf8(self.bytes(column)?.to_vec()).map_err(|_| self.corrupt("a text is not in UTF-8"))
    }

    /// A value in the stored format.
    pub(crate) fn formatted<T: DeserializeOwned>(&self, column: usize) -> Answer<T> {
        format::from_bytes(self.subject, self.bytes(column)?)
    }

    /// A name, which is checked again: a damaged row must not become a path.
    pub(crate) fn name(&self, column: usize) -> Answer<Name> {
        let text = self.text(column)?;
        Name::parse(&text)
            .map_err(|source| StoreError::Corrupt { subject: self.subject, source: Some(Box::new(source)) })
    }

    fn bytes(&self, column: usize) -> Answer<&[u8]> {
        match self.values.get(column) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.corrupt("no bytes")),
        }
    }

    pub(crate) fn is_null(&self, column: usize) -> bool {
        matches!(self.values.get(column), Some(Value::NULL))
    }

    fn corrupt(&self, what: &'static str) -> StoreError {
        StoreError::Corrupt { subject: self.subject, source: Some(what.into()) }
    }
}

/// Bytes as a parameter.
pub(crate) fn bytes(value: impl AsRef<[u8]>) -> Value {
    Value::Bytes(value.as_ref().to_vec())
}

/// A position as a parameter. No journal gets that long; a hostile number just finds nothing.
pub(crate) fn integer(position: Position) -> Value {
    Value::Int(i64::try_from(position.0).unwrap_or(i64::MAX))
}

/// A size or limit as a parameter.
pub(crate) fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}
