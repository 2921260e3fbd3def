//! The synced folder's identity: its marker.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, fsync, mkdirat, openat};
use rustix::io::{self, Errno, pread, pwrite, retry_on_intr};
use sync_engine::io::LocalPath;

use super::errno::Call;
use super::resolve::open_directory;
use crate::fs::{FsError, OWN_DIRECTORY, PARKED_DIRECTORY, ROOT_MARKER, TEMP_DIRECTORY, own_path};

/// Nobody else reads what is under way.
const OWN_PERMISSIONS: Mode = Mode::RWXU;
const MARKER_PERMISSIONS: Mode = Mode::RUSR.union(Mode::WUSR);
const MARKER_NAME: &str = "root";
const NEW_MARKER_NAME: &str = "root.new";
/// More than a marker ever holds.
const MARKER_BYTES: usize = 64;

/// What tells one linked folder from all others. Made at random when a folder is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootId(pub [u8; 16]);

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A text that is no root id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a root id is 32 hexadecimal digits")]
pub struct ParseRootIdError;

impl FromStr for RootId {
    type Err = ParseRootIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseRootIdError);
        }
        u128::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| ParseRootIdError)
    }
}

/// What the marker of a folder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    Is(RootId),
    /// There is a marker, with something else in it.
    Illegible,
}

/// Opens the folder itself. This path the user chose, so it may lead through symlinks.
pub(crate) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads the marker; `NOENT` when there is none.
pub(super) fn read_marker(root: impl AsFd) -> io::Result<Marker> {
    let own = open_directory(root, &own_path(OWN_DIRECTORY), OFlags::PATH)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(&own, MARKER_NAME, flags, Mode::empty())?;
    let mut buffer = [0; MARKER_BYTES];
    let read = retry_on_intr(|| pread(&file, &mut buffer, 0))?;
    let text = str::from_utf8(&buffer[..read]).unwrap_or_default();
    Ok(text.trim_end().parse().map_or(Marker::Illegible, Marker::Is))
}

/// Makes Syncline's own folder and the marker, durably; all or nothing for the marker.
pub(super) fn create(path: &Path, id: RootId) -> Result<(), FsError> {
    let shown = own_path(ROOT_MARKER);
    try_create(path, id).map_err(|errno| Call::new("make the marker", &shown).naming_error(errno))
}

fn try_create(path: &Path, id: RootId) -> io::Result<()> {
    let root = open_root(path)?;
    make_own_directories(&root)?;
    let own = open_directory(&root, &own_path(OWN_DIRECTORY), OFlags::RDONLY)?;
    write_marker(&own, id)?;
    fsync(&own)?;
    fsync(open_directory(&root, &LocalPath::root(), OFlags::RDONLY)?)
}

/// Makes the folders that are missing.
pub(super) fn make_own_directories(root: impl AsFd) -> io::Result<()> {
    for path in [OWN_DIRECTORY, TEMP_DIRECTORY, PARKED_DIRECTORY].map(own_path) {
        let Some((parent, name)) = path.split() else {
            continue;
        };
        let parent = open_directory(root.as_fd(), &parent, OFlags::PATH)?;
        match mkdirat(&parent, name, OWN_PERMISSIONS) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes the marker beside its place and renames it: never over another marker.
fn write_marker(own: &OwnedFd, id: RootId) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(own, NEW_MARKER_NAME, flags, MARKER_PERMISSIONS)?;
    let text = format!("{id}\n");
    if retry_on_intr(|| pwrite(&file, text.as_bytes(), 0))? != text.len() {
        return Err(Errno::IO);
    }
    fsync(&file)?;
    let from = super::rename::Entry { directory: own.as_fd(), name: NEW_MARKER_NAME.as_bytes() };
    let to = super::rename::Entry { directory: own.as_fd(), name: MARKER_NAME.as_bytes() };
    super::rename::rename_new(from, to)
}
