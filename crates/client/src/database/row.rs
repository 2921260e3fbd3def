//! A node's row: three trees side by side in the columns of `nodes`.

use model::{ContentHash, Mtime, Name, NodeId, Position};
use rusqlite::types::{FromSqlError, ToSqlOutput, Type, Value};
use rusqlite::{Params, Row, ToSql};
use sync_engine::io::Fingerprint;
use sync_engine::tree::{Content, FileContent, Local, NodeRow, Place, Remote, Seen, Synced};

const KIND_DIRECTORY: i64 = 0;
const KIND_FILE: i64 = 1;
const KIND_SYMLINK: i64 = 2;
const KIND_MOUNT: i64 = 3;

/// Where each tree's columns begin; [`SELECT`] and [`UPSERT`] name them in this order.
const LOCAL: usize = 1;
const PRINT: usize = LOCAL + CONTENT_COLUMNS;
const DISK_NAME: usize = PRINT + 7;
const SYNCED: usize = DISK_NAME + 1;
const REMOTE: usize = SYNCED + CONTENT_COLUMNS;
const REVISIONS: usize = REMOTE + CONTENT_COLUMNS;
const COLUMNS: usize = REVISIONS + 2;
/// Columns of a place and a content.
const CONTENT_COLUMNS: usize = 8;

pub(super) const SELECT: &str = "SELECT node,
    local_parent, local_name, local_kind, local_hash, local_size, local_executable, local_mtime, local_target,
    print_device, print_inode, print_birth, print_size, print_mtime, print_ctime, print_executable, disk_name,
    synced_parent, synced_name, synced_kind, synced_hash, synced_size, synced_executable, synced_mtime, synced_target,
    remote_parent, remote_name, remote_kind, remote_hash, remote_size, remote_executable, remote_mtime, remote_target,
    remote_content_rev, remote_location_rev
    FROM nodes";

/// Writes a node's row in place of what was there.
pub(super) const UPSERT: &str = "INSERT OR REPLACE INTO nodes (node,
    local_parent, local_name, local_kind, local_hash, local_size, local_executable, local_mtime, local_target,
    print_device, print_inode, print_birth, print_size, print_mtime, print_ctime, print_executable, disk_name,
    synced_parent, synced_name, synced_kind, synced_hash, synced_size, synced_executable, synced_mtime, synced_target,
    remote_parent, remote_name, remote_kind, remote_hash, remote_size, remote_executable, remote_mtime, remote_target,
    remote_content_rev, remote_location_rev)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
    ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31, ?32, ?33, ?34, ?35)";

/// Removes a node's row.
pub(super) const DELETE: &str = "DELETE FROM nodes WHERE node = ?1";

pub(super) const FORGET_LOCAL_HASHES: &str =
    "UPDATE nodes SET local_hash = NULL, local_size = NULL, local_executable = NULL, local_mtime = NULL
     WHERE local_kind = 1";

/// The values of [`UPSERT`].
pub(super) fn columns<'a>(node: &'a NodeId, row: &'a NodeRow) -> impl Params + 'a {
    let mut values = Columns::with_capacity(COLUMNS);
    values.push(Cell::Bytes(node.as_bytes()));
    push_local(&mut values, row.local.as_ref());
    push_synced(&mut values, row.synced.as_ref());
    push_remote(&mut values, row.remote.as_ref());
    rusqlite::params_from_iter(values)
}

/// Reads a row of [`SELECT`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<(NodeId, NodeRow)> {
    let node = NodeId(id(row, 0)?);
    Ok((node, NodeRow { local: read_local(row)?, synced: read_synced(row)?, remote: read_remote(row)? }))
}

/// A value on its way into a column, borrowed from the row.
enum Cell<'a> {
    Null,
    Number(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Number(number) => ToSqlOutput::Owned(Value::Integer(*number)),
            Self::Text(text) => ToSqlOutput::from(*text),
            Self::Bytes(bytes) => ToSqlOutput::from(*bytes),
        })
    }
}

type Columns<'a> = Vec<Cell<'a>>;

fn push_nulls(values: &mut Columns<'_>, count: usize) {
    values.extend(std::iter::repeat_with(|| Cell::Null).take(count));
}

fn push_place<'a>(values: &mut Columns<'a>, place: &'a Place) {
    values.push(Cell::Bytes(place.parent.as_bytes()));
    values.push(Cell::Text(place.name.as_str()));
}

fn push_file<'a>(values: &mut Columns<'a>, file: &'a FileContent) {
    values.push(Cell::Bytes(file.hash.as_bytes()));
    values.push(Cell::Number(file.size.cast_signed()));
    values.push(Cell::Number(file.executable.into()));
    values.push(Cell::Number(file.mtime.0));
}

/// Kind, the file's four columns, and the symlink's target.
fn push_kind<'a>(values: &mut Columns<'a>, kind: i64, file: Option<&'a FileContent>, target: Option<&'a str>) {
    values.push(Cell::Number(kind));
    match file {
        Some(file) => push_file(values, file),
        None => push_nulls(values, 4),
    }
    values.push(target.map_or(Cell::Null, Cell::Text));
}

fn push_content<'a>(values: &mut Columns<'a>, content: &'a Content) {
    match content {
        Content::Directory => push_kind(values, KIND_DIRECTORY, None, None),
        Content::Mount => push_kind(values, KIND_MOUNT, None, None),
        Content::File(file) => push_kind(values, KIND_FILE, Some(file), None),
        Content::Symlink(target) => push_kind(values, KIND_SYMLINK, None, Some(target)),
    }
}

fn push_seen<'a>(values: &mut Columns<'a>, seen: &'a Seen) {
    match seen {
        Seen::Directory => push_kind(values, KIND_DIRECTORY, None, None),
        Seen::File(content) => push_kind(values, KIND_FILE, content.as_ref(), None),
        Seen::Symlink(target) => push_kind(values, KIND_SYMLINK, None, Some(target)),
    }
}

fn push_print(values: &mut Columns<'_>, print: &Fingerprint) {
    values.push(Cell::Number(print.device.cast_signed()));
    values.push(Cell::Number(print.inode.cast_signed()));
    values.push(print.birth.map_or(Cell::Null, Cell::Number));
    values.push(Cell::Number(print.size.cast_signed()));
    values.push(Cell::Number(print.mtime.0));
    values.push(Cell::Number(print.ctime));
    values.push(Cell::Number(print.executable.into()));
}

fn push_local<'a>(values: &mut Columns<'a>, local: Option<&'a Local>) {
    let Some(local) = local else { return push_nulls(values, SYNCED - LOCAL) };
    push_place(values, &local.place);
    push_seen(values, &local.seen);
    push_print(values, &local.print);
    values.push(local.disk_name.as_deref().map_or(Cell::Null, Cell::Bytes));
}

fn push_synced<'a>(values: &mut Columns<'a>, synced: Option<&'a Synced>) {
    let Some(synced) = synced else { return push_nulls(values, REMOTE - SYNCED) };
    push_place(values, &synced.place);
    push_content(values, &synced.content);
}

fn push_remote<'a>(values: &mut Columns<'a>, remote: Option<&'a Remote>) {
    let Some(remote) = remote else { return push_nulls(values, COLUMNS - REMOTE) };
    push_place(values, &remote.place);
    push_content(values, &remote.content);
    values.push(Cell::Number(remote.content_rev.0.cast_signed()));
    values.push(Cell::Number(remote.location_rev.0.cast_signed()));
}

fn read_local(row: &Row<'_>) -> rusqlite::Result<Option<Local>> {
    let Some(place) = read_place(row, LOCAL)? else { return Ok(None) };
    let seen = match row.get(LOCAL + 2)? {
        KIND_DIRECTORY => Seen::Directory,
        KIND_FILE => Seen::File(read_file(row, LOCAL + 3)?),
        KIND_SYMLINK => Seen::Symlink(text(row, LOCAL + 7)?),
        kind => return Err(rusqlite::Error::IntegralValueOutOfRange(LOCAL + 2, kind)),
    };
    let disk_name = row.get::<_, Option<Vec<u8>>>(DISK_NAME)?.map(Vec::into_boxed_slice);
    Ok(Some(Local { place, seen, print: read_print(row)?, disk_name }))
}

fn read_synced(row: &Row<'_>) -> rusqlite::Result<Option<Synced>> {
    let Some(place) = read_place(row, SYNCED)? else { return Ok(None) };
    Ok(Some(Synced { place, content: read_content(row, SYNCED + 2)? }))
}

fn read_remote(row: &Row<'_>) -> rusqlite::Result<Option<Remote>> {
    let Some(place) = read_place(row, REMOTE)? else { return Ok(None) };
    Ok(Some(Remote {
        place,
        content: read_content(row, REMOTE + 2)?,
        content_rev: Position(unsigned(row, REVISIONS)?),
        location_rev: Position(unsigned(row, REVISIONS + 1)?),
    }))
}

/// `None`: the node is not in this tree.
fn read_place(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Place>> {
    if row.get_ref(at)?.data_type() == Type::Null {
        return Ok(None);
    }
    let parent = NodeId(id(row, at)?);
    let name = row.get_ref(at + 1)?.as_str().map_err(|error| unreadable(at + 1, Type::Text, error))?;
    let name = Name::parse(name).map_err(|error| unreadable(at + 1, Type::Text, error))?;
    Ok(Some(Place { parent, name }))
}

/// From the kind's column on.
fn read_content(row: &Row<'_>, at: usize) -> rusqlite::Result<Content> {
    Ok(match row.get(at)? {
        KIND_DIRECTORY => Content::Directory,
        KIND_MOUNT => Content::Mount,
        KIND_FILE => Content::File(
            read_file(row, at + 1)?.ok_or_else(|| unreadable(at + 1, Type::Null, FromSqlError::InvalidType))?,
        ),
        KIND_SYMLINK => Content::Symlink(text(row, at + 5)?),
        kind => return Err(rusqlite::Error::IntegralValueOutOfRange(at, kind)),
    })
}

/// From the hash's column on.
fn read_file(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<FileContent>> {
    if row.get_ref(at)?.data_type() == Type::Null {
        return Ok(None);
    }
    Ok(Some(FileContent {
        hash: ContentHash(id(row, at)?),
        size: unsigned(row, at + 1)?,
        executable: row.get(at + 2)?,
        mtime: Mtime(row.get(at + 3)?),
    }))
}

fn read_print(row: &Row<'_>) -> rusqlite::Result<Fingerprint> {
    Ok(Fingerprint {
        device: unsigned(row, PRINT)?,
        inode: unsigned(row, PRINT + 1)?,
        birth: row.get(PRINT + 2)?,
        size: unsigned(row, PRINT + 3)?,
        mtime: Mtime(row.get(PRINT + 4)?),
        ctime: row.get(PRINT + 5)?,
        executable: row.get(PRINT + 6)?,
    })
}

/// A number that was stored as the signed one with the same bits.
fn unsigned(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::cast_unsigned)
}

fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Box<str>> {
    row.get::<_, String>(at).map(String::into_boxed_str)
}

fn id<const N: usize>(row: &Row<'_>, at: usize) -> rusqlite::Result<[u8; N]> {
    let bytes = row.get_ref(at)?.as_blob().map_err(|error| unreadable(at, Type::Blob, error))?;
    bytes.try_into().map_err(|error: std::array::TryFromSliceError| unreadable(at, Type::Blob, error))
}

fn unreadable(at: usize, found: Type, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, found, Box::new(error))
}
