//! The client database: what the engine must not forget, in SQLite.
//!
//! One connection, owned by the daemon's loop. A [`Database::persist`] is one transaction that is
//! durable when it returns. A database that cannot be read is an error and never an empty one: an empty
//! tree would look like a deletion of everything.

mod row;
mod sweep;

use crate::home::with_suffix;
use model::{BlockHash, Blocklist, ContentHash, DeviceId, NodeId};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sync_engine::io::{Activity, ActivityKind, Blocklists, EngineState, Write};
use sync_engine::tree::NodeRow;

/// The version of the schema, kept in `user_version`.
const SCHEMA_VERSION: i64 = 1;
/// The version of the encoding of `state.value`, its first byte.
const STATE_FORMAT: u8 = 3;
/// The format before: the same without what is durable, the last of all.
const STATE_FORMAT_2: u8 = 2;
/// The format before that: also without what was being installed, the last of all then.
const STATE_FORMAT_1: u8 = 1;
/// Activities that are kept.
pub const ACTIVITIES: usize = 1000;
/// How long a statement waits for another process, such as a person's `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements that are kept.
const STATEMENTS: usize = 16;
/// Pages of the log after which it is written to the database file, 16 MiB: what many writes have changed until then is
/// written once.
const CHECKPOINT_PAGES: i64 = 4_000;
/// Names under which a broken database is tried to be set aside.
const SET_ASIDE_TRIES: u32 = 1000;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the client database {path} is missing")]
    Missing { path: PathBuf },
    #[error("the client database {path} is damaged: {reason}")]
    Corrupt { path: PathBuf, reason: String },
    #[error("the client database {path} was written by a newer version of syncline")]
    Newer { path: PathBuf },
    #[error("the client database {path} belongs to another device")]
    Foreign { path: PathBuf },
    #[error("the disk that holds the client database {path} is full")]
    Full { path: PathBuf, source: rusqlite::Error },
    #[error("cannot use the client database {path}")]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("cannot move the client database {path} aside")]
    SetAside { path: PathBuf, source: io::Error },
}

impl DatabaseError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Corrupt { .. } | Self::Foreign { .. } => Some(
                "run `syncline rebuild-index`: it sets the database aside and builds a new one from your files and \
                 the server; nothing is deleted"
                    .into(),
            ),
            Self::Newer { .. } => Some("install the newer version again".into()),
            Self::Full { .. } => Some("free some space; syncing goes on by itself".into()),
            Self::Sqlite { .. } | Self::SetAside { .. } => None,
        }
    }

    /// Whether nothing must be done with the trees until a person decides.
    #[must_use]
    pub const fn is_unsafe_to_continue(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt { .. } | Self::Foreign { .. })
    }

    fn new(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let path = path.to_path_buf();
        // Also where the file through which connections speak to each other finds no room.
        let extended = source.sqlite_error().map(|failure| failure.extended_code);
        if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
            return Self::Full { path, source };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, reason: source.to_string() }
            }
            Some(ErrorCode::DiskFull) => Self::Full { path, source },
            _ if is_unreadable_value(&source) => Self::Corrupt { path, reason: source.to_string() },
            _ => Self::Sqlite { path, source },
        }
    }
}

/// A value that no version of this program would have written.
fn is_unreadable_value(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
    )
}

/// An activity with its moment, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityEntry {
    /// Milliseconds since 1970-01-01 UTC.
    pub time: i64,
    #[serde(flatten)]
    pub activity: Activity,
}

/// An open client database.
pub struct Database {
    connection: Connection,
    path: PathBuf,
    /// The newest activities, the oldest first.
    activities: VecDeque<ActivityEntry>,
    /// How many of them, at the end, are not in the file yet. They ride along with the next write: an
    /// fsync for each would cost more than the sync itself.
    unsaved_activities: usize,
    /// Blocklists that were written or asked for lately.
    lists: RefCell<RecentLists>,
    /// Blocklists that were looked for in the file since [`Database::looked`].
    looks: Cell<u32>,
}

/// Blocks in the lists that are kept at hand, and one for each list: 2 MiB at most.
const RECENT_BLOCKS: usize = 20_000;
/// Contents of which it is known that the database has no list: 1 MiB at most. A first sync asks for each list several
/// times before it is written.
const LACKING: usize = 20_000;

impl Database {
    /// Makes the database of a new device.
    ///
    /// # Errors
    /// [`DatabaseError`]; also when there is a file already.
    pub fn create(path: &Path, device: DeviceId, state: &EngineState) -> Result<Self, DatabaseError> {
        let mut database = Self::connect(path, OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        restrict(path);
        fill_new(&mut database.connection, device, state).map_err(|source| DatabaseError::new(path, source))?;
        Ok(database)
    }

    /// Opens the database and reads all of it but the blocklists. The rows are handed on one by one, since
    /// all of them at once would take several times the memory that they are kept in; what was made of them
    /// is thrown away when one cannot be read.
    ///
    /// # Errors
    /// [`DatabaseError`]; never an empty tree in place of an unreadable one.
    pub fn open<T>(
        path: &Path,
        device: DeviceId,
        take: impl FnOnce(EngineState, &mut dyn Iterator<Item = (NodeId, NodeRow)>) -> T,
    ) -> Result<(Self, T), DatabaseError> {
        let (mut database, state) = Self::open_state(path, device)?;
        database.sweep_lists(&state);
        let taken = database.load_rows(|rows| take(state, rows))?;
        Ok((database, taken))
    }

    /// Opens the database and reads the engine's state, but no rows.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open_state(path: &Path, device: DeviceId) -> Result<(Self, EngineState), DatabaseError> {
        if !path.exists() {
            return Err(DatabaseError::Missing { path: path.to_path_buf() });
        }
        let mut database = Self::connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        database.check_version()?;
        database.check_integrity()?;
        let state = database.load_state(device)?;
        database.activities = database.load_activities()?;
        Ok((database, state))
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, DatabaseError> {
        let error = |source| DatabaseError::new(path, source);
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(error)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(error)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_update(None, "journal_mode", "WAL").map_err(error)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(error)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(error)?;
        let (activities, lists) = (VecDeque::new(), RefCell::default());
        Ok(Self { connection, path: path.to_path_buf(), activities, unsaved_activities: 0, lists, looks: Cell::new(0) })
    }

    fn check_version(&self) -> Result<(), DatabaseError> {
        let version: i64 =
            self.connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(self.error())?;
        match version {
            SCHEMA_VERSION => Ok(()),
            newer if newer > SCHEMA_VERSION => Err(DatabaseError::Newer { path: self.path.clone() }),
            other => Err(self.corrupt(format!("it has the unknown version {other}"))),
        }
    }

    fn check_integrity(&self) -> Result<(), DatabaseError> {
        // One finding is enough.
        let verdict: String =
            self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(self.error())?;
        if verdict == "ok" {
            return Ok(());
        }
        let finding = verdict.lines().find(|line| !line.starts_with("***")).unwrap_or("a check failed");
        Err(self.corrupt(finding.to_owned()))
    }

    fn load_state(&self, device: DeviceId) -> Result<EngineState, DatabaseError> {
        let found: Option<(Vec<u8>, Vec<u8>)> = self
            .connection
            .query_row("SELECT device, value FROM state WHERE id = 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(self.error())?;
        let (owner, value) = found.ok_or_else(|| self.corrupt("it holds no state".into()))?;
        if owner != device.as_bytes() {
            return Err(DatabaseError::Foreign { path: self.path.clone() });
        }
        decode_state(&value).ok_or_else(|| self.corrupt("its state cannot be read".into()))
    }

    fn load_rows<T>(
        &self,
        take: impl FnOnce(&mut dyn Iterator<Item = (NodeId, NodeRow)>) -> T,
    ) -> Result<T, DatabaseError> {
        let error = self.error();
        let mut statement = self.connection.prepare(row::SELECT).map_err(&error)?;
        let mut rows = statement.query_map([], row::read).map_err(&error)?;
        let mut failure = None;
        let taken = take(&mut std::iter::from_fn(|| match rows.next()? {
            Ok(row) => Some(row),
            Err(unreadable) => {
                failure = Some(unreadable);
                None
            }
        }));
        // Whoever takes rows may stop early; that all of them can be read is found out nonetheless.
        let rest = if failure.is_none() { rows.find_map(Result::err) } else { None };
        failure.or(rest).map_or(Ok(taken), |unreadable| Err(error(unreadable)))
    }

    fn load_activities(&self) -> Result<VecDeque<ActivityEntry>, DatabaseError> {
        let error = self.error();
        let mut statement = self
            .connection
            .prepare("SELECT time, kind, path, detail FROM activity ORDER BY id DESC LIMIT ?1")
            .map_err(&error)?;
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?, row.get(3)?));
        let limit = i64::try_from(ACTIVITIES).unwrap_or(i64::MAX);
        let mut entries = VecDeque::new();
        for entry in statement.query_map([limit], read).map_err(&error)? {
            let (time, kind, path, detail) = entry.map_err(&error)?;
            // The list is for people: a kind that a later version wrote is left out, not an error.
            if let Some(kind) = kind_from_text(&kind) {
                entries.push_front(ActivityEntry { time, activity: Activity { kind, path, detail } });
            }
        }
        Ok(entries)
    }

    /// Makes all writes in one transaction, together with the activities noted before. Durable when it
    /// returns; after an error none of it was done.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn persist(&mut self, writes: &[Write]) -> Result<(), DatabaseError> {
        self.looked();
        let path = &self.path;
        let error = |source| DatabaseError::new(path, source);
        let unsaved = self.activities.iter().rev().take(self.unsaved_activities).rev();
        let transaction = self.connection.transaction().map_err(error)?;
        apply_writes(&transaction, writes).map_err(error)?;
        save_activities(&transaction, unsaved).map_err(error)?;
        transaction.commit().map_err(error)?;
        self.unsaved_activities = 0;
        for write in writes {
            if let Write::Blocklist { content, blocks, remote } = write {
                self.lists.get_mut().note_written(content, blocks, *remote);
            }
        }
        Ok(())
    }

    /// The engine has taken an event: it has looked for all blocklists that it wanted to know of. From the second one on
    /// they are looked for in one transaction, since to begin and end it takes longer than to look.
    pub fn looked(&self) {
        self.looks.set(0);
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "cannot end a look at the client database");
        }
    }

    fn look(&self) {
        self.looks.set(self.looks.get() + 1);
        // Without one each look is a transaction of its own.
        if self.looks.get() == 2
            && let Err(error) = self.connection.execute_batch("BEGIN")
        {
            tracing::debug!(%error, "looks at the client database do not share a transaction");
        }
    }

    /// Opens the file anew, after a write failed. When SQLite could not open the log for writing it opened it
    /// for reading, and would not try again as long as the connection lives.
    ///
    /// # Errors
    /// [`DatabaseError`]; nothing can be read or written until it works.
    pub fn reopen(&mut self) -> Result<(), DatabaseError> {
        if !self.path.exists() {
            return Err(DatabaseError::Missing { path: self.path.clone() });
        }
        // Closed first: connections of one process share what they know of the log.
        let nowhere = Connection::open_in_memory().map_err(|source| DatabaseError::new(&self.path, source))?;
        drop(std::mem::replace(&mut self.connection, nowhere));
        self.connection = Self::connect(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?.connection;
        // A write that failed may have come through all the same.
        self.lists.get_mut().lacking.clear();
        Ok(())
    }

    /// Notes an activity; it reaches the file with the next write.
    pub fn note(&mut self, time: i64, activity: Activity) {
        self.activities.push_back(ActivityEntry { time, activity });
        self.unsaved_activities += 1;
        while self.activities.len() > ACTIVITIES {
            self.activities.pop_front();
        }
        self.unsaved_activities = self.unsaved_activities.min(self.activities.len());
    }

    /// Whether there are activities that only a write will save.
    #[must_use]
    pub const fn has_unsaved_activities(&self) -> bool {
        self.unsaved_activities > 0
    }

    /// The newest activities, the newest last.
    pub fn activities(&self, limit: usize) -> impl Iterator<Item = &ActivityEntry> {
        self.activities.iter().skip(self.activities.len().saturating_sub(limit))
    }

    /// Writes what is only in memory and closes the file.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn close(mut self) -> Result<(), DatabaseError> {
        if self.unsaved_activities > 0 {
            self.persist(&[])?;
        }
        let path = self.path;
        self.connection.close().map_err(|(_, source)| DatabaseError::new(&path, source))
    }

    /// Forgets the hashes of all local files, so that they are read again.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn forget_local_hashes(&mut self) -> Result<(), DatabaseError> {
        let done = self.connection.execute(row::FORGET_LOCAL_HASHES, []);
        done.map(drop).map_err(self.error())
    }

    fn error(&self) -> impl Fn(rusqlite::Error) -> DatabaseError + use<> {
        let path = self.path.clone();
        move |source| DatabaseError::new(&path, source)
    }

    fn corrupt(&self, reason: String) -> DatabaseError {
        DatabaseError::Corrupt { path: self.path.clone(), reason }
    }
}

impl Blocklists for Database {
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        if let Some(known) = self.lists.borrow().known.get(content) {
            return Some(known.clone());
        }
        if self.lists.borrow().lacking.contains(content) {
            return None;
        }
        self.look();
        let found = self
            .connection
            .prepare_cached("SELECT blocks, remote FROM blocklists WHERE content_hash = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([content.as_bytes()], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, bool>(1)?)))
                    .optional()
            });
        let (blob, remote) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.lists.borrow_mut().note_lacking(*content);
                return None;
            }
            Err(error) => {
                tracing::error!(%error, %content, "cannot read a blocklist from the client database");
                return None;
            }
        };
        let blocks = blocks_from_blob(&blob)?;
        // A damaged list is no list: the file is hashed or the journal read again.
        let found = (blocks.content_hash() == *content).then(|| (Arc::new(blocks), remote))?;
        self.lists.borrow_mut().keep(*content, found.clone());
        Some(found)
    }
}

/// Blocklists at hand: the engine asks for that of one file several times between the moment it learns it and
/// the file's commit or arrival, and each question to SQLite is a transaction.
#[derive(Debug, Default)]
struct RecentLists {
    known: HashMap<ContentHash, (Arc<Blocklist>, bool)>,
    /// In the order in which they came.
    order: VecDeque<ContentHash>,
    blocks: usize,
    /// Contents that were asked for and that the database has no list of.
    lacking: HashSet<ContentHash>,
}

impl RecentLists {
    /// Keeps what the database holds.
    fn keep(&mut self, content: ContentHash, list: (Arc<Blocklist>, bool)) {
        self.blocks += 1 + list.0.0.len();
        self.order.push_back(content);
        self.known.insert(content, list);
        while self.blocks > RECENT_BLOCKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.blocks -= self.known.remove(&oldest).map_or(0, |(list, _)| 1 + list.0.len());
        }
    }

    /// The database does not have the list.
    fn note_lacking(&mut self, content: ContentHash) {
        if self.lacking.len() >= LACKING {
            self.lacking.clear();
        }
        self.lacking.insert(content);
    }

    /// The database has the list from now on. That the server knows it is never taken back, so what is there of a list
    /// that was there before may say more than what was written.
    fn note_written(&mut self, content: &ContentHash, blocks: &Blocklist, remote: bool) {
        let was_lacking = self.lacking.remove(content);
        if let Some((_, known)) = self.known.get_mut(content) {
            *known |= remote;
        } else if was_lacking || remote {
            self.keep(*content, (Arc::new(blocks.clone()), remote));
        }
    }
}

/// Renames the database and what belongs to it, so that a new one can take its place. Gives the new
/// name, or `None` when there was nothing.
///
/// # Errors
/// [`DatabaseError::SetAside`].
pub fn set_aside(path: &Path) -> Result<Option<PathBuf>, DatabaseError> {
    let error = |source| DatabaseError::SetAside { path: path.to_path_buf(), source };
    let free = (1..=SET_ASIDE_TRIES).map(|n| with_suffix(path, &format!(".damaged-{n}"))).find(|name| !name.exists());
    let aside = free.ok_or_else(|| error(io::ErrorKind::AlreadyExists.into()))?;
    let existed = path.exists();
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            _ => {}
        }
    }
    Ok(existed.then_some(aside))
}

/// What can still be read of a damaged database's state: a person's settings must survive a rebuild,
/// above all which folders stay off this device.
#[must_use]
pub fn salvage_state(path: &Path) -> Option<EngineState> {
    if fs::metadata(path).is_ok_and(|found| found.len() > 0) {
        return read_state(path);
    }
    // An earlier try may have set it aside and got no further.
    let set_aside = (1..=SET_ASIDE_TRIES).map(|n| with_suffix(path, &format!(".damaged-{n}")));
    let set_aside: Vec<PathBuf> = set_aside.take_while(|path| path.exists()).collect();
    set_aside.iter().rev().find_map(|path| read_state(path))
}

fn read_state(path: &Path) -> Option<EngineState> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let value: Vec<u8> = connection.query_row("SELECT value FROM state WHERE id = 1", [], |row| row.get(0)).ok()?;
    decode_state(&value)
}

/// All or nothing: a database without its state would be taken for a damaged one.
fn fill_new(connection: &mut Connection, device: DeviceId, state: &EngineState) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("database/schema.sql"))?;
    transaction.execute(
        "INSERT INTO state (id, device, value) VALUES (1, ?1, ?2)",
        params![device.as_bytes(), encode_state(state)],
    )?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

/// Each statement is looked up once for all writes.
fn apply_writes(connection: &Connection, writes: &[Write]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(row::UPSERT)?;
    let mut delete = connection.prepare_cached(row::DELETE)?;
    let mut learn = connection.prepare_cached(
        "INSERT INTO blocklists (content_hash, blocks, remote) VALUES (?1, ?2, ?3)
         ON CONFLICT (content_hash) DO UPDATE SET remote = 1 WHERE excluded.remote AND NOT remote",
    )?;
    for write in writes {
        match write {
            Write::Node(node, Some(row)) => upsert.execute(row::columns(node, row))?,
            Write::Node(node, None) => delete.execute([node.as_bytes()])?,
            Write::Blocklist { content, blocks, remote } => {
                learn.execute(params![content.as_bytes(), blocks_to_blob(blocks), remote])?
            }
            Write::State(state) => {
                connection.prepare_cached("UPDATE state SET value = ?1 WHERE id = 1")?.execute([encode_state(state)])?
            }
        };
    }
    Ok(())
}

fn save_activities<'a>(
    connection: &Connection,
    entries: impl Iterator<Item = &'a ActivityEntry>,
) -> rusqlite::Result<()> {
    let mut last = None;
    for ActivityEntry { time, activity } in entries {
        connection
            .prepare_cached("INSERT INTO activity (time, kind, path, detail) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![time, kind_to_text(activity.kind), activity.path, activity.detail])?;
        last = Some(connection.last_insert_rowid());
    }
    if let Some(last) = last {
        let oldest = last - i64::try_from(ACTIVITIES).unwrap_or(i64::MAX);
        connection.prepare_cached("DELETE FROM activity WHERE id <= ?1")?.execute([oldest])?;
    }
    Ok(())
}

fn blocks_to_blob(blocks: &Blocklist) -> Vec<u8> {
    blocks.0.iter().flat_map(|block| block.0).collect()
}

fn blocks_from_blob(blob: &[u8]) -> Option<Blocklist> {
    let (hashes, rest) = blob.as_chunks::<32>();
    rest.is_empty().then(|| Blocklist(hashes.iter().copied().map(BlockHash).collect()))
}

fn encode_state(state: &EngineState) -> Vec<u8> {
    let mut value = vec![STATE_FORMAT];
    value.extend(api::encode(state));
    value
}

fn decode_state(value: &[u8]) -> Option<EngineState> {
    let (format, body) = value.split_first()?;
    match *format {
        STATE_FORMAT => postcard::from_bytes(body).ok(),
        STATE_FORMAT_2 => postcard::from_bytes(&[body, &[0]].concat()).ok(),
        STATE_FORMAT_1 => postcard::from_bytes(&[body, &[0, 0]].concat()).ok(),
        _ => None,
    }
}

fn kind_to_text(kind: ActivityKind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn kind_from_text(text: &str) -> Option<ActivityKind> {
    serde_json::from_value(text.into()).ok()
}

/// File names are private too.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    if let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
        tracing::warn!(%error, path = %path.display(), "cannot restrict the client database to its owner");
    }
}

#[cfg(test)]
mod tests;
