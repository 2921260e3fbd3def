//! The primitive operations on a synced folder.
//!
//! Each is one or a few system calls, so that a simulated folder can let another program act, an error
//! strike or the power fail between any two. No operation follows a symlink below the root, and none
//! leaves the root. All paths are relative to the root; Syncline's own files lie under `.syncline`.

use std::sync::Arc;

use model::Mtime;
use sync_engine::io::{Extent, FileKind, Fingerprint, LocalPath, RootState, TempName};

/// Syncline's own folder inside the synced folder.
pub const OWN_DIRECTORY: &str = ".syncline";
/// The marker: a file that holds the root id in hexadecimal.
pub const ROOT_MARKER: &str = ".syncline/root";
/// Where temporary files lie.
pub const TEMP_DIRECTORY: &str = ".syncline/tmp";
/// Where nodes wait whose old and new place are both taken.
pub const PARKED_DIRECTORY: &str = ".syncline/parked";
/// Where the folder is marked to lack nodes: a symlink for each, with the node's id in hexadecimal as its name. A
/// symlink needs no space of its own on most file systems, and exclusions are for disks that are full.
pub const EXCLUDED_DIRECTORY: &str = ".syncline/excluded";

/// Permission bits of a file that Syncline makes, less the umask.
pub const NEW_FILE_PERMISSIONS: u32 = 0o644;
/// Permission bits of a folder that Syncline makes, less the umask.
pub const NEW_DIRECTORY_PERMISSIONS: u32 = 0o755;

/// Why a primitive operation was not done. Nothing changed on disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// Nothing is there, or a folder on the way is missing.
    #[error("nothing is there")]
    NotFound,
    /// Something on the way, or the folder itself, is no folder.
    #[error("it is not a folder")]
    NotADirectory,
    /// A folder is there where a file is needed.
    #[error("it is a folder")]
    IsADirectory,
    #[error("something is there already")]
    AlreadyExists,
    #[error("the folder is not empty")]
    NotEmpty,
    #[error("permission denied")]
    Permission,
    #[error("no space left on the disk")]
    NoSpace,
    /// The file system does not take the name: too long, or with bytes it does not allow.
    #[error("the file system does not take the name")]
    NameRefused,
    /// A symlink is on the way or at the end, or the path leaves the root. A symlink in the place of the
    /// very folder is [`FsError::NotADirectory`].
    #[error("the path leads through a symlink or out of the synced folder")]
    Escapes,
    /// Another file system is mounted in between.
    #[error("the two places lie on different file systems")]
    CrossDevice,
    /// A program has the file open for writing, or mapped so.
    #[error("a program has it open and may write to it")]
    InUse,
    /// The folder at the root's path is not the one that was checked last.
    #[error("the synced folder is not there any more")]
    RootGone,
    /// Any other failure, such as an input/output error.
    #[error("{what} `{path}` failed (error {errno})")]
    Other {
        /// The system call.
        what: &'static str,
        path: LocalPath,
        errno: i32,
    },
}

/// What is known of one file, folder or symlink without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub kind: FileKind,
    pub print: Fingerprint,
    /// The permission bits, with setuid, setgid and sticky: `mode & 0o7777`.
    pub permissions: u32,
}

/// A directory as [`Fs::list`] read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The directory itself, looked at before its entries.
    pub stat: Stat,
    /// In no particular order. An entry that vanished meanwhile is absent.
    pub entries: Vec<ListedEntry>,
}

/// What an entry is, and a symlink's target.
pub type Looked = (Stat, Option<Box<[u8]>>);

/// One entry of a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// The name in the disk's spelling.
    pub name: Box<[u8]>,
    /// What it is, or why it could not be looked at.
    pub found: Result<Looked, FsError>,
}

/// The operations. Those that take two paths change both ends in one atomic step.
pub trait Fs: Send + Sync {
    /// Whether the folder that was linked is at the root's path. What cannot be told is `Missing`.
    fn root_state(&self) -> RootState;

    /// The same folder for the operations of one job, which need not find their way to it each time; `None` where
    /// that makes no difference, or the folder is not there. As long as it is held, the folder cannot be unmounted.
    fn held(&self) -> Option<Arc<dyn Fs>> {
        None
    }

    /// The clock that change times are measured with, in nanoseconds since 1970-01-01 UTC.
    fn now_ns(&self) -> i64;

    /// Names the present run of the operating system: another one may have begun with a power failure. What
    /// cannot be told is the same as ever.
    fn boot(&self) -> [u8; 16];

    /// When the present run of the operating system began, by the clock of [`Fs::now_ns`]. `None`: that cannot be
    /// told.
    fn began_ns(&self) -> Option<i64>;

    /// Whether every change to a file of this device that was looked at before gives it a change time that
    /// it did not have, however soon the change comes. What cannot be told is `false`.
    fn tells_changes_apart(&self, device: u64) -> bool;

    /// Looks at the entries of a directory that are within `extent` (in exactly this spelling, also on
    /// a file system that does not tell spellings apart). `.syncline` at the root is left out.
    ///
    /// # Errors
    /// [`FsError`] when the directory itself could not be read to its end.
    fn list(&self, directory: &LocalPath, extent: &Extent) -> Result<Listing, FsError>;

    /// What is at the path; `None` when nothing is, or something on the way is missing or no directory.
    ///
    /// # Errors
    /// [`FsError`] when it could not be found out.
    fn stat(&self, path: &LocalPath) -> Result<Option<Stat>, FsError>;

    /// Opens a regular file for reading. Anything else is [`FsError::Escapes`] (a symlink),
    /// [`FsError::IsADirectory`] or [`FsError::NotFound`]; a fifo never blocks it.
    ///
    /// # Errors
    /// [`FsError`].
    fn open(&self, path: &LocalPath) -> Result<Box<dyn OpenFile>, FsError>;

    /// Makes a new, empty temporary file with [`NEW_FILE_PERMISSIONS`] and opens it for writing.
    ///
    /// # Errors
    /// [`FsError`]; `AlreadyExists` when there is one of this name.
    fn create_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError>;

    /// Opens an existing temporary file for reading and writing.
    ///
    /// # Errors
    /// [`FsError`]; `NotFound` when there is none.
    fn open_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError>;

    /// Renames a file, symlink or directory; never replaces.
    ///
    /// # Errors
    /// [`FsError`]; `AlreadyExists` when something is at `to`, which on a file system that does not tell
    /// spellings apart may be `from` itself.
    fn rename_new(&self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError>;

    /// Swaps what is at two paths.
    ///
    /// # Errors
    /// [`FsError`]; `NotFound` when nothing is at one of them.
    fn exchange(&self, a: &LocalPath, b: &LocalPath) -> Result<(), FsError>;

    /// Makes a directory with [`NEW_DIRECTORY_PERMISSIONS`].
    ///
    /// # Errors
    /// [`FsError`].
    fn mkdir(&self, path: &LocalPath) -> Result<(), FsError>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError`]; `NotEmpty` when something is in it.
    fn rmdir(&self, path: &LocalPath) -> Result<(), FsError>;

    /// Removes a file or symlink.
    ///
    /// # Errors
    /// [`FsError`].
    fn unlink(&self, path: &LocalPath) -> Result<(), FsError>;

    /// Makes a symlink.
    ///
    /// # Errors
    /// [`FsError`].
    fn symlink(&self, target: &[u8], path: &LocalPath) -> Result<(), FsError>;

    /// Looks whether a program may write to the file, which is about to be replaced or removed: what it wrote then would be
    /// in no folder any more. `None` where there is no telling.
    ///
    /// # Errors
    /// [`FsError`]; `InUse` when one may.
    fn unwritten(&self, _path: &LocalPath) -> Result<Option<Box<dyn Unwritten>>, FsError> {
        Ok(None)
    }

    /// How many bytes more the folder's disk takes; `None` where it does not tell. Other programs use it too, so this
    /// is an estimate that spares vain work.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Makes everything that was done so far durable, data and names alike.
    ///
    /// # Errors
    /// [`FsError`], also for an earlier write that turned out to have failed.
    fn sync(&self) -> Result<(), FsError>;

    /// Calls `act` with each number below `count`, in any order and perhaps several at a time: for operations
    /// of which each waits for the disk.
    fn side_by_side(&self, count: usize, act: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(act);
    }
}

/// A file that no program has open for writing. Who wants to waits until this is dropped, and goes on with the very file.
pub trait Unwritten {
    /// Whether nobody has wanted to since.
    fn is_undisturbed(&self) -> bool;
}

/// A file that was opened; it stays the same file whatever happens to its name.
pub trait OpenFile: Send + Sync {
    /// The file's present state.
    ///
    /// # Errors
    /// [`FsError`].
    fn stat(&self) -> Result<Stat, FsError>;

    /// The file's state when it was opened, or a moment later.
    ///
    /// # Errors
    /// [`FsError`].
    fn first_stat(&self) -> Result<Stat, FsError> {
        self.stat()
    }

    /// Reads at an offset; 0 bytes only at the end of the file (or for an empty buffer).
    ///
    /// # Errors
    /// [`FsError`].
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError>;

    /// Returns when no write is under way that gave the file its present change time, as far as the file
    /// system lets one wait for that.
    fn outwait_writes(&self);

    /// Whoever stores into the file through a mapping from now on gives it another change time, as far as the file
    /// system has such times ([`write_back`]).
    fn write_back(&self);

    /// Whether there are bytes before the file's end that nobody wrote, and that read as zeros, as far as the file system
    /// can tell.
    fn has_holes(&self) -> bool;

    /// Sets the permission bits (`mode & 0o7777`).
    ///
    /// # Errors
    /// [`FsError`].
    fn set_permissions(&self, permissions: u32) -> Result<(), FsError>;

    /// Sets the modification time; a file system that cannot hold it keeps the nearest it can.
    ///
    /// # Errors
    /// [`FsError`].
    fn set_mtime(&self, mtime: Mtime) -> Result<(), FsError>;

    /// Makes the file's bytes durable.
    ///
    /// # Errors
    /// [`FsError`].
    fn sync_data(&self) -> Result<(), FsError>;
}

/// A temporary file opened for writing.
pub trait TempFile: OpenFile {
    /// Writes all bytes at an offset; what lies between the old end and the offset reads as zeros.
    ///
    /// # Errors
    /// [`FsError`]; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FsError>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// [`FsError`].
    fn set_len(&self, len: u64) -> Result<(), FsError>;
}

/// A path that is written in this program, such as [`TEMP_DIRECTORY`].
///
/// # Panics
/// When the text is no path: a mistake in the program.
#[must_use]
pub fn own_path(text: &'static str) -> LocalPath {
    LocalPath::from_bytes(text.as_bytes()).expect("a plain path")
}

/// Where a temporary file lies.
///
/// # Errors
/// [`FsError::NameRefused`] when the name is more than one plain component.
pub fn temp_path(temp: &TempName) -> Result<LocalPath, FsError> {
    let name = LocalPath::from_bytes(temp.0.as_bytes()).ok_or(FsError::NameRefused)?;
    if name.components().count() != 1 {
        return Err(FsError::NameRefused);
    }
    Ok(own_path(TEMP_DIRECTORY).join(name.as_bytes()))
}
