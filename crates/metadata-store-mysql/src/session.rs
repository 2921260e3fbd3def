//! One open transaction or snapshot, and the statements that run in it.

use crate::buffer::Buffer;
use crate::cells::Cells;
use crate::fault::{Fault, failed};
use metadata_store::StoreError;
use metadata_store::port::Answer;
use model::NamespaceId;
use mysql::prelude::Queryable;
use mysql::{Conn, Params, Value};
use std::cell::{Cell, RefCell};

/// Rows that one statement writes at most: those of a group of commits.
const ROWS: usize = model::limits::GROUP_COMMIT;
/// Rows that one statement asks for at most. Statements are prepared for powers of two up to it.
const KEYS: usize = 64;
/// Bytes that one statement carries, unless a single row has more: as text they are twice as many, below the
/// 16 MiB that MariaDB takes unless it is told otherwise.
const STATEMENT_BYTES: usize = 4 * 1024 * 1024;

const HEX: [u8; 16] = *b"0123456789ABCDEF";

/// One open transaction or snapshot.
pub(crate) struct Session<'c> {
    connection: RefCell<&'c mut Conn>,
    /// What ended the transaction, whatever the work made of the error: nothing may follow it, or the
    /// second half of a transaction would be committed without the first.
    fault: Cell<Option<Fault>>,
    /// What a transaction that writes knows and has not sent; a snapshot's stays empty.
    pub(crate) buffer: RefCell<Buffer>,
    purpose: Purpose,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Reading,
    Writing,
}

impl<'c> Session<'c> {
    pub(crate) fn new(connection: &'c mut Conn, purpose: Purpose) -> Self {
        let (connection, buffer) = (RefCell::new(connection), RefCell::default());
        Self { connection, fault: Cell::new(None), buffer, purpose }
    }

    /// Whether rows are remembered that belong to no namespace: a transaction decides once by what it saw.
    pub(crate) fn remembers(&self) -> bool {
        self.purpose == Purpose::Writing
    }

    /// Whether this transaction holds the namespace's lock.
    pub(crate) fn holds(&self, namespace: NamespaceId) -> bool {
        self.buffer.borrow().held.contains_key(&namespace)
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// All rows of a query.
    pub(crate) fn all<T>(
        &self,
        subject: &'static str,
        sql: &str,
        params: Vec<Value>,
        mut map: impl FnMut(&Cells) -> Answer<T>,
    ) -> Answer<Vec<T>> {
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        let fail = |error| self.note(subject, error);
        let rows = connection.exec_iter(sql, Params::Positional(params)).map_err(fail)?;
        let mut found = Vec::new();
        for row in rows {
            found.push(map(&Cells::new(subject, row.map_err(fail)?))?);
        }
        Ok(found)
    }

    /// The first row of a query, if there is one.
    pub(crate) fn one<T>(
        &self,
        subject: &'static str,
        sql: &str,
        params: Vec<Value>,
        map: impl FnMut(&Cells) -> Answer<T>,
    ) -> Answer<Option<T>> {
        Ok(self.all(subject, sql, params, map)?.into_iter().next())
    }

    /// Runs a statement; how many rows it changed. A broken unique key is `AlreadyExists`.
    pub(crate) fn run(&self, subject: &'static str, sql: &str, params: Vec<Value>) -> Answer<u64> {
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        let result =
            connection.exec_iter(sql, Params::Positional(params)).map_err(|error| self.note(subject, error))?;
        Ok(result.affected_rows())
    }

    /// Inserts rows in few statements: `INSERT INTO` what `head` says, and what `tail` says about rows that
    /// exist. Many rows go as text, since a statement that is prepared for each number of rows would fill the
    /// database's memory; a single one, which may be large, goes as it is.
    pub(crate) fn insert(&self, subject: &'static str, head: &str, tail: &str, rows: Vec<Vec<Value>>) -> Answer<()> {
        let mut rows = rows.into_iter().peekable();
        while let Some(first) = rows.next() {
            let mut bytes = size(&first);
            let mut chunk = vec![first];
            while let Some(next) = rows.next_if(|next| chunk.len() < ROWS && bytes + size(next) <= STATEMENT_BYTES) {
                bytes += size(&next);
                chunk.push(next);
            }
            if let [_] = chunk.as_slice() {
                let row = chunk.remove(0);
                self.run(subject, &format!("INSERT INTO {head} VALUES ({}) {tail}", marks(row.len())), row)?;
            } else {
                let tuples: Vec<String> = chunk.iter().map(|row| as_text(row)).collect();
                self.run_text(subject, &format!("INSERT INTO {head} VALUES {} {tail}", tuples.join(", ")))?;
            }
        }
        Ok(())
    }

    /// Runs a statement that holds its values.
    fn run_text(&self, subject: &'static str, sql: &str) -> Answer<()> {
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        connection.query_drop(sql).map_err(|error| self.note(subject, error))
    }

    /// Runs a statement for many keys: `each` gets a list of question marks and as many keys. The last key may
    /// stand there several times.
    pub(crate) fn for_keys(&self, keys: &[Value], each: impl FnMut(&str, Vec<Value>) -> Answer<()>) -> Answer<()> {
        let keys: Vec<Vec<Value>> = keys.iter().map(|key| vec![key.clone()]).collect();
        self.for_each_key(&keys, "?", ", ", each)
    }

    /// As [`Session::for_keys`] for keys of several values; `one` is the condition for one of them, `or` what
    /// stands between two.
    pub(crate) fn for_each_key(
        &self,
        keys: &[Vec<Value>],
        one: &str,
        or: &str,
        mut each: impl FnMut(&str, Vec<Value>) -> Answer<()>,
    ) -> Answer<()> {
        for chunk in keys.chunks(KEYS) {
            let length = chunk.len().next_power_of_two();
            let padding = std::iter::repeat_n(&chunk[chunk.len() - 1], length - chunk.len());
            let params = chunk.iter().chain(padding).flatten().cloned().collect();
            each(&vec![one; length].join(or), params)?;
        }
        Ok(())
    }

    /// Whether the transaction still lives.
    fn check(&self, subject: &'static str) -> Answer<()> {
        if self.fault.get().is_some() { Err(StoreError::Conflict { subject }) } else { Ok(()) }
    }

    fn note(&self, subject: &'static str, error: mysql::Error) -> StoreError {
        let fault = Fault::of(&error);
        if fault != Fault::Duplicate {
            self.fault.set(Some(fault));
        }
        failed(subject, error)
    }
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// A row as SQL. Bytes are hexadecimal, so that no value can be read as anything else.
fn as_text(row: &[Value]) -> String {
    let mut text = String::with_capacity(2 * size(row) + 4 * row.len());
    for value in row {
        text.push(if text.is_empty() { '(' } else { ',' });
        match value {
            Value::Bytes(bytes) => {
                text.push_str("X'");
                for byte in bytes {
                    text.push(char::from(HEX[usize::from(byte >> 4)]));
                    text.push(char::from(HEX[usize::from(byte & 15)]));
                }
                text.push('\'');
            }
            Value::Int(number) => text.push_str(&number.to_string()),
            Value::UInt(number) => text.push_str(&number.to_string()),
            Value::NULL => text.push_str("NULL"),
            Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..) => {
                unreachable!("no table has a column of this kind")
            }
        }
    }
    text.push(')');
    text
}

fn size(row: &[Value]) -> usize {
    let of = |value: &Value| if let Value::Bytes(bytes) = value { bytes.len() } else { 8 };
    row.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_row_can_be_read_as_sql() {
        let row = [Value::Bytes(b"a'\\\0".to_vec()), Value::Bytes(vec![]), Value::Int(-5), Value::NULL];
        assert_eq!(as_text(&row), "(X'61275C00',X'',-5,NULL)");
    }
}
