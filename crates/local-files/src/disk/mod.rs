//! A synced folder on a Linux file system.
//!
//! Nothing is kept open between two jobs, so that the folder can be unmounted, and each finds its way from the
//! root's path anew. An operation is refused when the folder at that path is not the one whose marker was
//! checked last.

mod errno;
mod file;
mod grain;
mod rename;
mod resolve;
mod root;
mod way;

use std::ffi::CStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use direct_io::PageCache;
use file_lease::{InUse, Lease};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, mkdirat, openat, readlinkat, statvfs, symlinkat, syncfs, unlinkat};
use rustix::io::{self, Errno, retry_on_intr};
use rustix::time::{ClockId, clock_gettime};
use sync_engine::io::{Extent, FileKind, LocalPath, RootState, TempName};

use crate::fs::{
    Fs, FsError, ListedEntry, Listing, NEW_DIRECTORY_PERMISSIONS, NEW_FILE_PERMISSIONS, OWN_DIRECTORY, OpenFile, Stat,
    TempFile, Unwritten, own_path, temp_path,
};
use errno::Call;
use file::{DiskFile, stat_path};
use rename::Entry;
use root::Marker;
use way::Way;

pub(crate) use file::{stat_entry, stat_open};
pub(crate) use resolve::open_directory;
pub(crate) use root::open_root;
pub use root::{ParseRootIdError, RootId};

/// Bytes of directory entries that are read at once.
const ENTRIES_BYTES: usize = 64 * 1024;

/// How a file is opened: no symlink is followed, and no fifo or terminal has a say.
const REGULAR_ONLY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Threads that work side by side: they wait for the disk, not for a processor.
const THREADS: usize = 8;
/// What one thread does rather than share it with another.
const SHARE: usize = 16;

/// One device's synced folder.
pub struct Disk {
    folder: Arc<Linked>,
    /// The way that all operations take; without one, each finds its own.
    way: Option<Way>,
}

/// A folder that was linked.
struct Linked {
    path: PathBuf,
    id: RootId,
    boot: [u8; 16],
    /// The folder whose marker was right when it was last checked; `None` before the first check and
    /// when the last one failed.
    checked: Mutex<Option<CheckedRoot>>,
    /// A device, and whether it tells changes apart; `None` before that was tried out.
    grain: Mutex<Option<(u64, bool)>>,
    /// Large writes go past the page cache.
    direct_writes: AtomicBool,
}

/// A folder whose marker was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CheckedRoot {
    device: u64,
    inode: u64,
    /// Whether the file system takes two spellings that differ in case for one name.
    folds_case: bool,
}

/// Where Linux tells the run of the operating system, as a UUID.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where Linux tells when it began to run. It goes along when its clock is set.
const KERNEL_STATISTICS: &str = "/proc/stat";

/// Seconds since 1970-01-01 UTC.
fn began_s(statistics: &str) -> Option<i64> {
    statistics.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

impl Linked {
    /// Reads the marker and remembers which folder it was read in.
    fn check_root(&self) -> RootState {
        let root = open_root(&self.path);
        let state = match root.as_ref().map_err(|errno| *errno).and_then(root::read_marker) {
            Ok(Marker::Is(id)) if id == self.id => RootState::Present,
            Ok(Marker::Is(_) | Marker::Illegible) => RootState::Replaced,
            Err(_) => RootState::Missing,
        };
        let present = root.ok().filter(|_| state == RootState::Present);
        let checked = present.and_then(|root| identify(&root).ok());
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = checked;
        if checked.is_none() && state == RootState::Present { RootState::Missing } else { state }
    }

    fn checked(&self) -> Option<CheckedRoot> {
        let known = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        known.or_else(|| {
            self.check_root();
            *self.checked.lock().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Opens the root, if it is the folder that was checked.
    fn root(&self) -> Result<(OwnedFd, CheckedRoot), FsError> {
        let checked = self.checked().ok_or(FsError::RootGone)?;
        let root = open_root(&self.path).map_err(|_| FsError::RootGone)?;
        let print = stat_open(&root).map_err(|_| FsError::RootGone)?.print;
        if (print.device, print.inode) != (checked.device, checked.inode) {
            return Err(FsError::RootGone);
        }
        Ok((root, checked))
    }
}

impl Disk {
    /// Makes a folder one that can be synced: Syncline's own folder in it, and the marker with a new,
    /// random id.
    ///
    /// # Errors
    /// [`FsError`]; `AlreadyExists` when the folder has a marker, [`Disk::root_id`] tells which.
    pub fn create_root(path: &Path, id: RootId) -> Result<Self, FsError> {
        root::create(path, id)?;
        Ok(Self::open(path, id))
    }

    /// The folder that was linked as `id`. Whether it is there is found out by [`Fs::root_state`].
    #[must_use]
    pub fn open(path: &Path, id: RootId) -> Self {
        let boot = fs::read_to_string(BOOT_ID).ok().and_then(|text| boot_id(&text)).unwrap_or_default();
        let folder = Linked {
            path: path.to_owned(),
            id,
            boot,
            checked: Mutex::new(None),
            grain: Mutex::new(None),
            direct_writes: AtomicBool::new(true),
        };
        Self { folder: Arc::new(folder), way: None }
    }

    /// The id in a folder's marker; `None` when there is no marker or it cannot be understood.
    ///
    /// # Errors
    /// [`FsError`] when the folder or its marker cannot be read.
    pub fn root_id(path: &Path) -> Result<Option<RootId>, FsError> {
        let marker = open_root(path).and_then(root::read_marker);
        match marker {
            Ok(Marker::Is(id)) => Ok(Some(id)),
            Ok(Marker::Illegible) | Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Call::new("read the marker of", &LocalPath::root()).error(errno)),
        }
    }

    /// From now on large temporary files are written past the page cache where the file system can, or not.
    pub fn set_direct_writes(&self, on: bool) {
        self.folder.direct_writes.store(on, Ordering::Relaxed);
    }

    /// Where the folder is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// The root, if it is the folder that was checked.
    fn root(&self) -> Result<(Arc<OwnedFd>, CheckedRoot), FsError> {
        let Some(way) = &self.way else {
            let (root, checked) = self.folder.root()?;
            return Ok((Arc::new(root), checked));
        };
        if self.folder.checked() != Some(way.checked) {
            return Err(FsError::RootGone);
        }
        Ok((Arc::clone(&way.root), way.checked))
    }

    /// Opens the folder that `path` lies in.
    fn parent<'a>(&self, path: &'a LocalPath) -> Result<(Arc<OwnedFd>, &'a [u8]), FsError> {
        let (root, _) = self.root()?;
        let (parent, name) = path.split().map_or((LocalPath::root(), b".".as_slice()), |split| split);
        let opened = match &self.way {
            Some(way) => way.folder(&parent),
            None => open_directory(&root, &parent, OFlags::PATH).map(Arc::new),
        };
        opened.map(|opened| (opened, name)).map_err(|errno| Call::new("open the folder of", path).error(errno))
    }

    /// Opens the folder in which a name is about to change. Without a way that was found before, to find it is to
    /// see that the root is there; with one it is looked for again, lest things go on in a folder that was moved away.
    fn parent_to_change<'a>(&self, path: &'a LocalPath) -> Result<(Arc<OwnedFd>, &'a [u8]), FsError> {
        if let Some(way) = &self.way {
            let print = stat_path(&self.folder.path).map_err(|_| FsError::RootGone)?.print;
            if (print.device, print.inode) != (way.checked.device, way.checked.inode) {
                return Err(FsError::RootGone);
            }
        }
        self.parent(path)
    }

    /// What was at these places is somewhere else now, and so is what lay below it.
    fn have_moved(&self, paths: &[&LocalPath]) {
        if let Some(way) = &self.way {
            paths.iter().for_each(|path| way.forget(path));
        }
    }

    /// Whether the device of the root tells changes apart; tried out once for each device.
    fn root_tells_changes_apart(&self) -> Option<(u64, bool)> {
        let (root, checked) = self.root().ok()?;
        let mut known = self.folder.grain.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(device, _)| device != checked.device) {
            let differ = grain::changes_differ(&root).unwrap_or(Some(false));
            *known = differ.map(|differ| (checked.device, differ));
        }
        *known
    }

    fn open_file(&self, path: &LocalPath, flags: OFlags) -> Result<DiskFile, FsError> {
        let (parent, name) = self.parent(path)?;
        let flags = flags | REGULAR_ONLY;
        let mode = Mode::from_raw_mode(NEW_FILE_PERMISSIONS);
        let page_cache = PageCache::direct(self.folder.direct_writes.load(Ordering::Relaxed));
        match retry_on_intr(|| openat(&parent, name, flags, mode)) {
            Ok(fd) if flags.contains(OFlags::CREATE | OFlags::EXCL) => Ok(DiskFile::made(fd, path, page_cache)),
            Ok(fd) => DiskFile::new(fd, path, page_cache),
            // A socket.
            Err(Errno::NXIO) => Err(FsError::NotFound),
            Err(errno) => Err(Call::new("open", path).naming_error(errno)),
        }
    }

    fn two_entries(
        &self,
        from: &LocalPath,
        to: &LocalPath,
        what: &'static str,
        act: impl FnOnce(Entry<'_>, Entry<'_>) -> io::Result<()>,
    ) -> Result<(), FsError> {
        let (from_parent, from_name) = self.parent_to_change(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        let from_entry = Entry { directory: from_parent.as_fd(), name: from_name };
        let to_entry = Entry { directory: to_parent.as_fd(), name: to_name };
        act(from_entry, to_entry).map_err(|errno| Call::new(what, to).naming_error(errno))?;
        self.have_moved(&[from, to]);
        Ok(())
    }
}

/// A file with a lease on it.
struct Leased(Lease);

impl Unwritten for Leased {
    fn is_undisturbed(&self) -> bool {
        self.0.is_undisturbed()
    }
}

impl Fs for Disk {
    fn root_state(&self) -> RootState {
        self.folder.check_root()
    }

    fn held(&self) -> Option<Arc<dyn Fs>> {
        let (root, checked) = self.root().ok()?;
        // There one folder has many names, and to forget one of them would not be enough.
        if checked.folds_case {
            return None;
        }
        Some(Arc::new(Self { folder: Arc::clone(&self.folder), way: Some(Way::new(root, checked)) }))
    }

    fn now_ns(&self) -> i64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
    }

    fn boot(&self) -> [u8; 16] {
        self.folder.boot
    }

    fn began_ns(&self) -> Option<i64> {
        let seconds = began_s(&fs::read_to_string(KERNEL_STATISTICS).ok()?)?;
        Some(seconds.saturating_mul(1_000_000_000))
    }

    fn tells_changes_apart(&self, device: u64) -> bool {
        self.root_tells_changes_apart() == Some((device, true))
    }

    fn list(&self, directory: &LocalPath, extent: &Extent) -> Result<Listing, FsError> {
        let (root, checked) = self.root()?;
        let call = Call::new("read", directory);
        let opened = open_directory(&root, directory, OFlags::RDONLY).map_err(|errno| call.error(errno))?;
        let stat = stat_open(&opened).map_err(|errno| call.error(errno))?;
        let names = match extent {
            Extent::Names(names) if !checked.folds_case => {
                names.iter().filter(|name| is_plain(name)).cloned().collect()
            }
            Extent::Names(names) => {
                let mut all = read_names(&opened).map_err(|errno| call.error(errno))?;
                all.retain(|name| names.contains(name));
                all
            }
            Extent::All => read_names(&opened).map_err(|errno| call.error(errno))?,
        };
        let shown = |name: &[u8]| !(directory.is_root() && name == OWN_DIRECTORY.as_bytes());
        let look = |name| look_at(opened.as_fd(), directory, name);
        Ok(Listing { stat, entries: names.into_iter().filter(|name| shown(name)).filter_map(look).collect() })
    }

    fn stat(&self, path: &LocalPath) -> Result<Option<Stat>, FsError> {
        let found = self.parent(path).and_then(|(parent, name)| {
            stat_entry(&parent, name).map_err(|errno| Call::new("statx", path).error(errno))
        });
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(FsError::NotFound | FsError::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &LocalPath) -> Result<Box<dyn OpenFile>, FsError> {
        Ok(Box::new(self.open_file(path, OFlags::RDONLY)?))
    }

    fn create_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        let path = temp_path(temp)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = match self.open_file(&path, flags) {
            // Someone removed the folder for temporary files.
            Err(FsError::NotFound) => {
                let (root, _) = self.root()?;
                let made = root::make_own_directories(&root);
                made.map_err(|errno| Call::new("make the folder of", &path).error(errno))?;
                self.have_moved(&[&own_path(OWN_DIRECTORY)]);
                self.open_file(&path, flags)?
            }
            opened => opened?,
        };
        Ok(Box::new(file))
    }

    fn open_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        Ok(Box::new(self.open_file(&temp_path(temp)?, OFlags::RDWR)?))
    }

    fn rename_new(&self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        self.two_entries(from, to, "rename to", rename::rename_new)
    }

    fn exchange(&self, a: &LocalPath, b: &LocalPath) -> Result<(), FsError> {
        self.two_entries(a, b, "exchange with", rename::exchange)
    }

    fn mkdir(&self, path: &LocalPath) -> Result<(), FsError> {
        let (parent, name) = self.parent_to_change(path)?;
        let mode = Mode::from_raw_mode(NEW_DIRECTORY_PERMISSIONS);
        mkdirat(&parent, name, mode).map_err(|errno| Call::new("mkdir", path).naming_error(errno))
    }

    fn rmdir(&self, path: &LocalPath) -> Result<(), FsError> {
        let (parent, name) = self.parent_to_change(path)?;
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            // POSIX allows either error for a folder with something in it.
            Err(Errno::EXIST) => Err(FsError::NotEmpty),
            result => {
                self.have_moved(&[path]);
                result.map_err(|errno| Call::new("rmdir", path).error(errno))
            }
        }
    }

    fn unlink(&self, path: &LocalPath) -> Result<(), FsError> {
        let (parent, name) = self.parent_to_change(path)?;
        unlinkat(&parent, name, AtFlags::empty()).map_err(|errno| Call::new("unlink", path).error(errno))
    }

    fn unwritten(&self, path: &LocalPath) -> Result<Option<Box<dyn Unwritten>>, FsError> {
        let (parent, name) = self.parent(path)?;
        match retry_on_intr(|| openat(&parent, name, OFlags::RDONLY | REGULAR_ONLY, Mode::empty())) {
            Ok(fd) => match Lease::take(fd) {
                Ok(lease) => Ok(lease.map(|lease| Box::new(Leased(lease)) as Box<dyn Unwritten>)),
                Err(InUse) => Err(FsError::InUse),
            },
            // Another program has a lease on it, as file servers have.
            Err(Errno::WOULDBLOCK) => Err(FsError::InUse),
            // Of a file that cannot be read there is no telling.
            Err(Errno::ACCESS | Errno::PERM) => Ok(None),
            Err(errno) => Err(Call::new("open", path).error(errno)),
        }
    }

    fn side_by_side(&self, count: usize, act: &(dyn Fn(usize) + Sync)) {
        let share = count.div_ceil(THREADS).max(SHARE);
        let do_share = |first: usize| (first..count.min(first + share)).for_each(act);
        thread::scope(|scope| {
            for first in (0..count).step_by(share).skip(1) {
                scope.spawn(move || do_share(first));
            }
            do_share(0);
        });
    }

    fn symlink(&self, target: &[u8], path: &LocalPath) -> Result<(), FsError> {
        let (parent, name) = self.parent_to_change(path)?;
        symlinkat(target, &parent, name).map_err(|errno| Call::new("symlink", path).naming_error(errno))
    }

    /// Some file systems of the network have no size at all.
    fn free_bytes(&self) -> Option<u64> {
        let state = statvfs(self.path()).ok().filter(|state| state.f_blocks > 0)?;
        Some(state.f_bavail.saturating_mul(state.f_frsize))
    }

    fn sync(&self) -> Result<(), FsError> {
        let (root, _) = self.root()?;
        // A file system cannot be synced by way of a descriptor that only names a path.
        let opened = open_directory(&root, &LocalPath::root(), OFlags::RDONLY);
        opened.and_then(syncfs).map_err(|errno| Call::new("syncfs", &LocalPath::root()).error(errno))
    }
}

fn identify(root: &OwnedFd) -> io::Result<CheckedRoot> {
    let print = stat_open(root)?.print;
    let own = open_directory(root, &own_path(OWN_DIRECTORY), OFlags::PATH)?;
    let marker = stat_entry(&own, b"root")?;
    let other_spelling = stat_entry(&own, b"ROOT");
    let folds_case = other_spelling.is_ok_and(|other| other.print.inode == marker.print.inode);
    Ok(CheckedRoot { device: print.device, inode: print.inode, folds_case })
}

fn is_plain(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// All names in a directory but `.` and `..`.
fn read_names(directory: impl AsFd) -> io::Result<Vec<Box<[u8]>>> {
    let mut buffer = Vec::with_capacity(ENTRIES_BYTES);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = CStr::to_bytes(entry.file_name());
        if is_plain(name) {
            names.push(Box::from(name));
        }
    }
    Ok(names)
}

/// One entry; `None` when it is not there (any more).
fn look_at(opened: BorrowedFd<'_>, directory: &LocalPath, name: Box<[u8]>) -> Option<ListedEntry> {
    let found = stat_entry(opened, &name).and_then(|stat| {
        let target = match stat.kind {
            FileKind::Symlink => Some(readlinkat(opened, &*name, Vec::new())?.into_bytes().into_boxed_slice()),
            FileKind::File | FileKind::Directory | FileKind::Other => None,
        };
        Ok((stat, target))
    });
    match found {
        Err(Errno::NOENT) => None,
        Ok(found) => Some(ListedEntry { name, found: Ok(found) }),
        Err(errno) => {
            let error = Call::new("look at", &directory.join(&name)).error(errno);
            Some(ListedEntry { name, found: Err(error) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_when_it_began_to_run() {
        assert_eq!(began_s("cpu  1 2 3\nintr 4 btime\nbtime 1795000000\nprocesses 5\n"), Some(1_795_000_000));
        assert_eq!(began_s("cpu  1 2 3\n"), None);
        let disk = Disk::open(Path::new("/"), RootId([1; 16]));
        let began = disk.began_ns().expect("Linux tells it");
        assert!((1..=disk.now_ns()).contains(&began));
    }
}
