//! One open transaction or snapshot, and the statements that run in it.
//!
//! What the caller waits for goes as a prepared statement, one journey each. What can go together goes as
//! text, many statements in one packet: the questions that a transaction begins with, and what it writes,
//! whose last statement is COMMIT. The database runs them in order and stops at the first that fails.

use crate::buffer::Buffer;
use crate::cells::Cells;
use crate::fault::{Fault, failed, not_committed};
use crate::pool::Connection;
use crate::text::{self, Packet};
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
/// Bytes of values that one statement carries as text, which are twice as many there. A row that has more
/// goes as a prepared statement, as it is.
const STATEMENT_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of text after which a packet is sent. With one more statement it is below the 16 MiB that MariaDB
/// takes unless it is told otherwise.
const PACKET_BYTES: usize = 8 * 1024 * 1024;

/// A statement that asks, with its values in it.
pub(crate) struct Question<K> {
    /// What its rows are.
    pub(crate) kind: K,
    pub(crate) subject: &'static str,
    pub(crate) sql: String,
}

/// One open transaction or snapshot.
pub(crate) struct Session<'c> {
    connection: RefCell<&'c mut Conn>,
    /// Whether the database is a node of a Galera cluster.
    in_cluster: bool,
    /// What ended the transaction, whatever the work made of the error: nothing may follow it, or the
    /// second half of a transaction would be committed without the first.
    fault: Cell<Option<Fault>>,
    /// What a transaction that writes knows and has not sent; a snapshot's stays empty.
    pub(crate) buffer: RefCell<Buffer>,
    /// Statements that are written down and not sent.
    packet: RefCell<Packet>,
    /// Whether the database has answered in this session: a connection that broke while nobody used it was
    /// noticed by then.
    answered: Cell<bool>,
    purpose: Purpose,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Reading,
    Writing,
}

impl<'c> Session<'c> {
    pub(crate) fn new(connection: &'c mut Connection, purpose: Purpose) -> Self {
        let Connection { driver, in_cluster } = connection;
        let (connection, in_cluster) = (RefCell::new(driver), *in_cluster);
        let (buffer, packet) = (RefCell::default(), RefCell::default());
        Self { connection, in_cluster, fault: Cell::new(None), buffer, packet, answered: Cell::new(false), purpose }
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
        self.send_written()?;
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        let fail = |error| self.note(subject, error);
        let rows = connection.exec_iter(sql, Params::Positional(params)).map_err(fail)?;
        self.answered.set(true);
        let mut found = Vec::new();
        for row in rows {
            found.push(map(&Cells::new(subject, row.map_err(fail)?))?);
        }
        Ok(found)
    }

    /// Begins to read what the database holds at one moment.
    pub(crate) fn begin_snapshot(&self) -> Answer<()> {
        self.drop_answer("beginning a snapshot", "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
    }

    pub(crate) fn end_snapshot(&self) -> Answer<()> {
        self.drop_answer("ending a snapshot", "COMMIT")
    }

    fn drop_answer(&self, subject: &'static str, sql: &str) -> Answer<()> {
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        connection.query_drop(sql).map_err(|error| self.note(subject, error))
    }

    /// Asks many questions in few journeys. They are answered in order; `add` gets each row.
    pub(crate) fn ask<K: Copy>(
        &self,
        questions: &[Question<K>],
        mut add: impl FnMut(K, &Cells) -> Answer<()>,
    ) -> Answer<()> {
        self.send_written()?;
        let mut left = questions;
        while !left.is_empty() {
            let mut packet = Packet::default();
            let fits = left.iter().take_while(|question| {
                let fits = packet.len() < PACKET_BYTES;
                if fits {
                    packet.add(question.subject, &question.sql);
                }
                fits
            });
            let (asked, rest) = left.split_at(fits.count());
            self.send(&packet, |number, row| asked.get(number).map_or(Ok(()), |asked| add(asked.kind, row)))?;
            left = rest;
        }
        Ok(())
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
        self.send_written()?;
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        let result =
            connection.exec_iter(sql, Params::Positional(params)).map_err(|error| self.note(subject, error))?;
        self.answered.set(true);
        Ok(result.affected_rows())
    }

    /// Inserts rows in few statements: `INSERT INTO` what `head` says, and what `tail` says about rows that
    /// exist.
    pub(crate) fn insert(&self, subject: &'static str, head: &str, tail: &str, rows: Vec<Vec<Value>>) -> Answer<()> {
        let mut rows = rows.into_iter().peekable();
        while let Some(first) = rows.next() {
            let mut bytes = text::size(&first);
            if bytes > STATEMENT_BYTES {
                self.send_written()?;
                let sql = format!("INSERT INTO {head} VALUES ({}) {tail}", text::marks(first.len()));
                self.run(subject, &sql, first)?;
                continue;
            }
            let mut sql = format!("INSERT INTO {head} VALUES ");
            text::add_row(&mut sql, &first);
            let mut count = 1;
            let fits = |bytes: usize, row: &[Value]| bytes + text::size(row) <= STATEMENT_BYTES;
            while let Some(next) = rows.next_if(|next| count < ROWS && fits(bytes, next)) {
                bytes += text::size(&next);
                count += 1;
                sql.push(',');
                text::add_row(&mut sql, &next);
            }
            sql.push(' ');
            sql.push_str(tail);
            self.later(subject, &sql)?;
        }
        Ok(())
    }

    /// Writes a statement down that changes something and holds its values. It is sent with others, before
    /// whatever else this session sends.
    pub(crate) fn later(&self, subject: &'static str, sql: &str) -> Answer<()> {
        self.check(subject)?;
        if self.packet.borrow().len() >= PACKET_BYTES {
            self.send_written()?;
        }
        self.packet.borrow_mut().add(subject, sql);
        Ok(())
    }

    /// Sends what was written down.
    pub(crate) fn send_written(&self) -> Answer<()> {
        let packet = self.packet.take();
        if packet.is_empty() { Ok(()) } else { self.send(&packet, |_, _| Ok(())) }
    }

    /// Sends what was written down and commits the transaction.
    pub(crate) fn commit(&self) -> Answer<()> {
        // What breaks in the first journey of a transaction broke most likely before it, which says that
        // nothing was committed, as long as no COMMIT goes with it.
        // And a node of a Galera cluster may undo the transaction between two statements of one packet, because another
        // node was faster, and go on with the next: COMMIT would then commit the rest (MariaDB 10.11).
        if !self.answered.get() || self.in_cluster {
            self.send_written()?;
        }
        if !self.answered.get() {
            return Ok(());
        }
        self.check("a transaction that went on")?;
        let mut packet = self.packet.take();
        packet.add_commit();
        self.send(&packet, |_, _| Ok(()))
    }

    /// Sends statements in one packet; `row` gets each row of an answer, and the number of its statement.
    fn send(&self, packet: &Packet, mut row: impl FnMut(usize, &Cells) -> Answer<()>) -> Answer<()> {
        let subject = packet.subject(0);
        self.check(subject)?;
        let mut connection = self.connection.borrow_mut();
        let mut answers = match connection.query_iter(packet.text()) {
            Ok(answers) => answers,
            Err(error) => return Err(self.note_packet(packet, 0, error)),
        };
        self.answered.set(true);
        // The first answer came with the call. What follows it is read before each next one.
        let mut number = 0;
        let mut unreadable = None;
        while let Some(rows) = answers.iter() {
            for found in rows {
                let found = match found {
                    Ok(found) => found,
                    Err(error) => return Err(self.note_packet(packet, number, error)),
                };
                if unreadable.is_none() {
                    unreadable = row(number, &Cells::new(packet.subject(number), found)).err();
                }
            }
            number += 1;
        }
        unreadable.map_or(Ok(()), Err)
    }

    /// A packet's failure. Whatever it is, the statements behind it have not run, so the transaction must not
    /// go on; and where nobody knows how far the database came, its COMMIT may have happened.
    fn note_packet(&self, packet: &Packet, number: usize, error: mysql::Error) -> StoreError {
        self.fault.set(Some(Fault::of(&error)));
        let answered = matches!(error, mysql::Error::MySqlError(_));
        if packet.commits() && (packet.is_last(number) || !answered) {
            not_committed(error)
        } else {
            failed(packet.subject(number), error)
        }
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
