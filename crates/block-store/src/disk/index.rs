//! The index: where each block lies. Derived from the packs and rebuilt when it is lost.
//!
//! ```text
//! blocks   hash, pack, offset, len, damaged     one row per block
//! packs    pack, indexed                        how far each pack has been entered
//! ```

use super::pack::RECORD_HEADER;
use crate::StoreError;
use model::BlockHash;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, Transaction, ffi, params};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// `PRAGMA user_version` of the tables below. An index of another version is rebuilt.
const VERSION: i64 = 1;
/// Pages of the log after which it is written to the index: a page that was changed many times until then, as hashes lie
/// all over it, is written once.
const CHECKPOINT_PAGES: i64 = 4_000;
/// Read connections that are kept when nobody uses them.
const IDLE_READERS: usize = 8;
/// How long a connection waits for another's lock; in write-ahead mode only recovery ever holds one.
const LOCK_WAIT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
    CREATE TABLE blocks (
        hash BLOB PRIMARY KEY,
        pack INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        len INTEGER NOT NULL,
        damaged INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE packs (pack INTEGER PRIMARY KEY, indexed INTEGER NOT NULL) STRICT;
    PRAGMA user_version = 1;
";

/// Where a block's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// What the index says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Place,
    /// Other bytes were found there; the next put of the block writes it anew.
    pub(super) damaged: bool,
}

/// What of a pack is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    /// A damaged block lies there, and whoever looks into it wants to find the pack as it is.
    pub(super) has_damage: bool,
}

/// The writer's connection to the index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    connection: Connection,
}

impl Index {
    /// Opens the index; `None` when there is none that can be used, and it must be made anew.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.try_exists().map_err(StoreError::io("open", path))? {
            return Ok(None);
        }
        match Self::connect(path).and_then(|connection| Ok((is_sound(&connection)?, connection))) {
            Ok((true, connection)) => Ok(Some(Self { path: path.to_owned(), connection })),
            Ok((false, _)) => Ok(None),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(failed("open", path)(error)),
        }
    }

    /// An empty index in the place of whatever is there.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let connection = Self::connect(path).map_err(failed("create", path))?;
        connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;")).map_err(failed("create", path))?;
        Ok(Self { path: path.to_owned(), connection })
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(LOCK_WAIT)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        // A power failure may take the last entries with it, never the index's soundness; recovery
        // enters them again.
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        Ok(connection)
    }

    /// How far each pack has been entered.
    pub(super) fn packs(&self) -> Result<BTreeMap<u32, u64>, StoreError> {
        let read = || -> rusqlite::Result<BTreeMap<u32, u64>> {
            let mut statement = self.connection.prepare("SELECT pack, indexed FROM packs")?;
            statement.query_map([], |row| Ok((number(row, 0)?, number(row, 1)?)))?.collect()
        };
        read().map_err(failed("read", &self.path))
    }

    /// Whether anything of the pack has been entered.
    pub(super) fn knows_pack(&self, pack: u32) -> Result<bool, StoreError> {
        let know = || self.connection.prepare_cached("SELECT 1 FROM packs WHERE pack = ?")?.exists([pack]);
        know().map_err(failed("read", &self.path))
    }

    pub(super) fn find(&self, hash: &BlockHash) -> Result<Option<Entry>, StoreError> {
        find(&self.connection, hash).map_err(failed("read", &self.path))
    }

    pub(super) fn find_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Entry>>, StoreError> {
        find_all(&self.connection, hashes).map_err(failed("read", &self.path))
    }

    /// Makes changes that are seen together or not at all.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&Changes<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let run = |connection: &mut Connection| {
            let changes = Changes(connection.transaction()?);
            change(&changes)?;
            changes.0.commit()
        };
        run(&mut self.connection).map_err(failed("write", &self.path))
    }
}

/// Changes that become visible together.
pub(super) struct Changes<'a>(Transaction<'a>);

impl Changes<'_> {
    pub(super) fn enter(&self, hash: &BlockHash, entry: Entry) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO blocks (hash, pack, offset, len, damaged) VALUES (?, ?, ?, ?, ?)";
        let Entry { place, damaged } = entry;
        let row = params![hash.as_bytes(), place.pack, integer(place.offset), place.len, damaged];
        self.0.prepare_cached(sql)?.execute(row).map(drop)
    }

    pub(super) fn find(&self, hash: &BlockHash) -> rusqlite::Result<Option<Entry>> {
        find(&self.0, hash)
    }

    pub(super) fn forget(&self, hash: &BlockHash) -> rusqlite::Result<()> {
        self.0.prepare_cached("DELETE FROM blocks WHERE hash = ?")?.execute([hash.as_bytes()]).map(drop)
    }

    pub(super) fn has_blocks(&self, pack: u32) -> rusqlite::Result<bool> {
        self.0.prepare_cached("SELECT 1 FROM blocks WHERE pack = ? LIMIT 1")?.exists([pack])
    }

    pub(super) fn forget_pack(&self, pack: u32) -> rusqlite::Result<()> {
        self.0.prepare_cached("DELETE FROM packs WHERE pack = ?")?.execute([pack]).map(drop)
    }

    pub(super) fn set_indexed(&self, pack: u32, indexed: u64) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO packs (pack, indexed) VALUES (?, ?)";
        self.0.prepare_cached(sql)?.execute(params![pack, integer(indexed)]).map(drop)
    }
}

/// Connections for reading, each used by one thread at a time.
#[derive(Debug)]
pub(super) struct IndexReaders {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl IndexReaders {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default() }
    }

    pub(super) fn find(&self, hash: &BlockHash) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| find(connection, hash))
    }

    pub(super) fn find_all(&self, hashes: &[BlockHash]) -> Result<Vec<Option<Entry>>, StoreError> {
        self.read(|connection| find_all(connection, hashes))
    }

    /// For each pack with blocks, their bytes with headers, and whether one of them is damaged. Reads all of
    /// the index.
    pub(super) fn usage(&self) -> Result<BTreeMap<u32, Usage>, StoreError> {
        let sql = "SELECT pack, SUM(len), COUNT(*), MAX(damaged) FROM blocks GROUP BY pack";
        self.read(|connection| {
            let mut statement = connection.prepare(sql)?;
            let usage = statement.query_map([], |row| {
                let (bytes, blocks): (u64, u64) = (number(row, 1)?, number(row, 2)?);
                let usage = Usage { bytes: bytes + blocks * RECORD_HEADER as u64, has_damage: row.get(3)? };
                Ok((number(row, 0)?, usage))
            })?;
            usage.collect()
        })
    }

    /// The blocks of a pack, in the order in which they lie there. Reads all of the index.
    pub(super) fn blocks_of(&self, pack: u32) -> Result<Vec<(BlockHash, Place)>, StoreError> {
        let sql = "SELECT hash, offset, len FROM blocks WHERE pack = ? ORDER BY offset";
        self.read(|connection| {
            let mut statement = connection.prepare(sql)?;
            let blocks = statement.query_map([pack], |row| {
                let place = Place { pack, offset: number(row, 1)?, len: number(row, 2)? };
                Ok((row.get::<_, HashColumn>(0)?.0, place))
            })?;
            blocks.collect()
        })
    }

    pub(super) fn list(&self, after: Option<BlockHash>, page: usize) -> Result<Vec<BlockHash>, StoreError> {
        let after = after.as_ref().map_or(&[][..], |hash| hash.as_bytes());
        let sql = "SELECT hash FROM blocks WHERE hash > ? ORDER BY hash LIMIT ?";
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![after, integer(page as u64)], |row| row.get::<_, HashColumn>(0))?;
            rows.map(|row| row.map(|column| column.0)).collect()
        })
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let read = || {
            let connection = idle.map_or_else(|| self.connect(), Ok)?;
            query(&connection).map(|answer| (answer, connection))
        };
        let (answer, connection) = read().map_err(failed("read", &self.path))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS {
            idle.push(connection);
        }
        Ok(answer)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(LOCK_WAIT)?;
        Ok(connection)
    }
}

/// A hash as a column holds it.
struct HashColumn(BlockHash);

impl FromSql for HashColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let bytes = value.as_blob()?;
        BlockHash::try_from(bytes).map(Self).map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// What is known of each block at one moment. To begin a transaction and to end it takes longer than to find one.
fn find_all(connection: &Connection, hashes: &[BlockHash]) -> rusqlite::Result<Vec<Option<Entry>>> {
    let moment = connection.unchecked_transaction()?;
    hashes.iter().map(|hash| find(&moment, hash)).collect()
}

fn find(connection: &Connection, hash: &BlockHash) -> rusqlite::Result<Option<Entry>> {
    let sql = "SELECT pack, offset, len, damaged FROM blocks WHERE hash = ?";
    let entry = |row: &Row<'_>| {
        let place = Place { pack: number(row, 0)?, offset: number(row, 1)?, len: number(row, 2)? };
        Ok(Entry { place, damaged: row.get(3)? })
    };
    connection.prepare_cached(sql)?.query_row([hash.as_bytes()], entry).optional()
}

/// SQLite's integers are signed; no offset comes near the sign.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let value: i64 = row.get(column)?;
    T::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// Whether the file is a whole index of this version. Reads all of it: a derived file that answers
/// wrongly would be worse than the time this takes (a second for ten million blocks).
fn is_sound(connection: &Connection) -> rusqlite::Result<bool> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok(version == VERSION && verdict == "ok")
}

/// Whether the file is not what was written. What the disk cannot read of it any more the packs still have.
fn is_damage(error: &rusqlite::Error) -> bool {
    let told = error.sqlite_error().map(|failure| (failure.code, failure.extended_code));
    matches!(
        told,
        Some(
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)
                | (_, ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_CORRUPTFS)
        )
    )
}

fn failed(what: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        if is_full(&error) {
            return StoreError::NoSpace { path: path.to_owned() };
        }
        StoreError::io(what, path)(io::Error::other(error))
    }
}

/// Whether there is no room, also for the file through which connections speak to each other.
fn is_full(error: &rusqlite::Error) -> bool {
    let told = error.sqlite_error().map(|failure| (failure.code, failure.extended_code));
    matches!(told, Some((ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_is_damaged_or_cannot_be_read_is_made_anew_and_one_on_a_full_disk_is_not() {
        for (code, damaged) in [
            (ffi::SQLITE_CORRUPT, true),
            (ffi::SQLITE_NOTADB, true),
            (ffi::SQLITE_IOERR_READ, true),
            (ffi::SQLITE_IOERR_CORRUPTFS, true),
            (ffi::SQLITE_IOERR_WRITE, false),
            (ffi::SQLITE_FULL, false),
            (ffi::SQLITE_BUSY, false),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(is_damage(&error), damaged, "{error:?}");
        }
    }

    #[test]
    fn a_full_disk_is_told_apart_also_where_the_shared_memory_finds_no_room() {
        for (code, full) in [
            (ffi::SQLITE_FULL, true),
            (ffi::SQLITE_IOERR_SHMSIZE, true),
            (ffi::SQLITE_IOERR_READ, false),
            (ffi::SQLITE_CORRUPT, false),
        ] {
            let error =
                failed("open", Path::new("/index"))(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
            assert_eq!(matches!(error, StoreError::NoSpace { .. }), full, "{error:?}");
        }
    }
}
