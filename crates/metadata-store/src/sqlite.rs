//! The metadata database in one SQLite file: one connection writes, a few read beside it (WAL).
//!
//! A transaction that returned is on the disk (`synchronous=FULL`). Other programs may open the same
//! file: the admin commands work beside a running server.

mod reading;
mod row;
mod schema;
mod writing;

use crate::error::StoreError;
use crate::port::{Answer, MetadataStore, Reading, Transaction};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections that read at the same time; more callers wait. Twice the cores of a small server.
const READERS: usize = 8;
/// How long a connection waits for another program's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements kept by a connection: more than there are in this adapter.
const STATEMENTS: usize = 96;
/// Pages that the writer keeps in memory, in KiB: new nodes lie all over the tables, and what a transaction
/// changes should be there already.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
/// Pages of the log after which it is written to the database file. A page that was changed many times until
/// then is written once; SQLite's own 1,000 are those of three groups of commits.
const CHECKPOINT_PAGES: i64 = 4_000;

/// [`MetadataStore`] on SQLite.
pub struct SqliteStore {
    writer: Mutex<Connection>,
    /// `None` in memory, where the one connection serves all.
    readers: Option<Readers>,
}

/// A bounded pool of connections, opened when they are first needed.
struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

impl SqliteStore {
    /// Opens the database file, makes it if it does not exist, and brings it to the newest format.
    ///
    /// # Errors
    /// `NewerFormat`, `Corrupt`, `DiskFull`, `Busy` or `Io`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path)
            .map_err(|error| StoreError::Io { subject: "creating the database file", source: Box::new(error) })?;
        let mut writer = connect(path)?;
        writer
            .execute_batch(&format!(
                "PRAGMA cache_size = -{WRITER_CACHE_KIB}; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
            ))
            .map_err(|error| failed("opening the database file", error))?;
        schema::migrate(&mut writer)?;
        let readers = Readers { path: path.to_owned(), pool: Mutex::default(), returned: Condvar::new() };
        Ok(Self { writer: Mutex::new(writer), readers: Some(readers) })
    }

    /// An empty database that is gone when the store is dropped; for tests and simulation.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let fail = |error| failed("opening a database in memory", error);
        let mut writer = Connection::open_in_memory().map_err(fail)?;
        writer.set_prepared_statement_cache_capacity(STATEMENTS);
        writer
            .execute_batch("PRAGMA foreign_keys = ON; PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;")
            .map_err(fail)?;
        schema::migrate(&mut writer)?;
        Ok(Self { writer: Mutex::new(writer), readers: None })
    }

    /// Checks the file's structure, its indexes and what its columns may hold, page by page; slow. Foreign keys are not
    /// looked at.
    ///
    /// # Errors
    /// `Corrupt` names the first finding.
    pub fn verify(&self) -> Result<(), StoreError> {
        let connection = lock(&self.writer);
        let found: String = connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| failed("checking the database", error))?;
        if found != "ok" {
            return Err(StoreError::Corrupt { subject: "its structure", source: Some(found.into()) });
        }
        Ok(())
    }

    /// Writes a consistent copy of the database to a file that does not exist yet, while the store is
    /// in use. The copy is complete and on the disk when the call returns.
    ///
    /// # Errors
    /// `AlreadyExists` for a file that exists, else as [`SqliteStore::open`].
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        if path.exists() {
            return Err(StoreError::AlreadyExists { subject: "the file for the copy" });
        }
        let io = |error| StoreError::Io { subject: "writing the copy", source: Box::new(error) };
        create_private(path).map_err(io)?;
        let text = path.to_string_lossy().into_owned();
        with_connection(self.readers.as_ref(), &self.writer, |connection| {
            connection.execute("VACUUM INTO ?1", [text]).map_err(|error| failed("copying the database", error))
        })?;
        File::open(path).and_then(|file| file.sync_all()).map_err(io)
    }
}

impl MetadataStore for SqliteStore {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Answer<()>) -> Answer<()> {
        let mut connection = lock(&self.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| failed("beginning a transaction", error))?;
        // Dropping the transaction on the way out of an error undoes it.
        work(&Session { connection: &transaction })?;
        transaction.commit().map_err(|error| failed("committing a transaction", error))
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Answer<()>) -> Answer<()> {
        with_connection(self.readers.as_ref(), &self.writer, |connection| {
            let snapshot = connection.unchecked_transaction().map_err(|error| failed("beginning a snapshot", error))?;
            work(&Session { connection: &snapshot })
        })
    }
}

/// One open transaction or snapshot.
struct Session<'c> {
    connection: &'c Connection,
}

impl Readers {
    fn take(&self) -> Result<Connection, StoreError> {
        let mut pool = lock(&self.pool);
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < READERS {
                break;
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.open += 1;
        drop(pool);
        connect(&self.path).inspect_err(|_| {
            lock(&self.pool).open -= 1;
            self.returned.notify_one();
        })
    }
}

/// Gives a reader back to its pool however its work ends.
struct Borrowed<'r> {
    readers: &'r Readers,
    connection: Option<Connection>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut pool = lock(&self.readers.pool);
        match self.connection.take() {
            Some(connection) => pool.idle.push(connection),
            None => pool.open -= 1,
        }
        self.readers.returned.notify_one();
    }
}

fn with_connection<T>(
    readers: Option<&Readers>,
    writer: &Mutex<Connection>,
    work: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let Some(readers) = readers else {
        return work(&lock(writer));
    };
    let borrowed = Borrowed { readers, connection: Some(readers.take()?) };
    match &borrowed.connection {
        Some(connection) => work(connection),
        None => Err(StoreError::Busy { subject: "taking a connection" }),
    }
}

/// A panic inside a transaction has rolled it back, so the connection behind a poisoned lock is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let fail = |error| failed("opening the database file", error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(fail)?;
    Ok(connection)
}

/// Makes an empty file that only its owner can read, unless there is a file. SQLite gives the files that
/// it makes beside it the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(file) => {
            file.sync_all()?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an error of SQLite's means to the caller.
fn failed(subject: &'static str, error: rusqlite::Error) -> StoreError {
    let rusqlite::Error::SqliteFailure(failure, _) = &error else {
        return match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => {
                StoreError::Corrupt { subject, source: Some(Box::new(error)) }
            }
            other => StoreError::Io { subject, source: Box::new(other) },
        };
    };
    // Also where the file through which connections speak to each other finds no room.
    if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE {
        return StoreError::DiskFull;
    }
    match failure.code {
        ErrorCode::DiskFull => StoreError::DiskFull,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt { subject, source: Some(Box::new(error)) }
        }
        ErrorCode::DatabaseBusy => StoreError::Busy { subject },
        ErrorCode::DatabaseLocked => StoreError::Conflict { subject },
        _ => StoreError::Io { subject, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests;
