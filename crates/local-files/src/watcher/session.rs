//! One inotify instance and the directories that it watches.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::mem::discriminant;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FileType, OFlags, RawDir};
use rustix::io::{self, Errno};
use sync_engine::io::{FileKind, LocalPath};

use super::WatchProblem;
use super::pending::{Pending, Write};
use super::tree::{Watch, WatchedTree};
use crate::disk::{open_directory, open_root, stat_entry, stat_open};
use crate::fs::OWN_DIRECTORY;

/// Bytes of events read at once.
const EVENTS_BYTES: usize = 64 * 1024;
/// Bytes of directory entries read at once.
const ENTRIES_BYTES: usize = 64 * 1024;
/// Directories that are remembered one by one as unwatched; beyond that the whole root is.
const UNWATCHED_MAX: usize = 1000;

const WATCHED_EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);

/// What a session can go on with after some events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Going {
    On,
    /// The kernel dropped events: which directories there are is not known any more.
    Overflowed,
    /// The root was removed, moved or unmounted.
    RootGone,
}

/// Why there is no session.
pub(super) enum NoSession {
    RootMissing,
    Problem(WatchProblem),
}

/// One event, apart from the kernel's buffer.
struct Event {
    watch: Watch,
    what: ReadFlags,
    cookie: u32,
    name: Option<Box<[u8]>>,
}

/// A directory that left its place. Usually the next event says where to.
struct Leaving {
    cookie: u32,
    watch: Watch,
}

/// An inotify instance with its watches.
pub(super) struct Session {
    inotify: OwnedFd,
    root_path: PathBuf,
    /// Device and inode of the root.
    root_identity: (u64, u64),
    tree: WatchedTree,
    leaving: Option<Leaving>,
    /// Directories that could not be watched, and with them all below.
    unwatched: BTreeSet<LocalPath>,
    /// One of each kind, until they are asked for.
    problems: Vec<WatchProblem>,
}

impl Session {
    /// Watches the root and everything below it. What changes after this returns is reported.
    pub(super) fn start(root_path: &Path) -> Result<Self, NoSession> {
        let opened = open_root(root_path).map_err(|_| NoSession::RootMissing)?;
        let stat = stat_open(&opened).map_err(|_| NoSession::RootMissing)?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|errno| NoSession::Problem(WatchProblem::of_instance(errno)))?;
        let root = add_watch(inotify.as_fd(), opened.as_fd(), root_path)
            .map_err(|errno| NoSession::Problem(WatchProblem::of(&LocalPath::root(), errno)))?;
        let mut session = Self {
            inotify,
            root_path: root_path.to_owned(),
            root_identity: (stat.print.device, stat.print.inode),
            tree: WatchedTree::new(root),
            leaving: None,
            unwatched: BTreeSet::new(),
            problems: Vec::new(),
        };
        session.watch_subtree(LocalPath::root());
        Ok(session)
    }

    pub(super) fn inotify(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Whether the folder at the root's path is the one that is watched.
    pub(super) fn root_is_watched(&self) -> bool {
        let found = open_root(&self.root_path).and_then(|root| stat_open(&root));
        found.is_ok_and(|stat| (stat.print.device, stat.print.inode) == self.root_identity)
    }

    /// Problems that were not asked for yet, one of each kind.
    pub(super) fn take_problems(&mut self) -> Vec<WatchProblem> {
        std::mem::take(&mut self.problems)
    }

    /// Whether every directory is watched.
    pub(super) fn is_complete(&self) -> bool {
        self.unwatched.is_empty()
    }

    /// Reads the events of one buffer.
    pub(super) fn read_events(&mut self, pending: &mut Pending) -> io::Result<Going> {
        for event in self.next_events()? {
            match self.handle(&event, pending) {
                Going::On => {}
                end => return Ok(end),
            }
        }
        Ok(Going::On)
    }

    /// Gives up a directory that left and did not arrive anywhere in the tree.
    pub(super) fn end_of_burst(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            let watches = self.tree.forget(leaving.watch);
            self.remove_watches(&watches);
        }
    }

    /// Tries again to watch what could not be watched, and asks for a scan of it in any case.
    pub(super) fn retry_unwatched(&mut self, pending: &mut Pending) {
        for path in std::mem::take(&mut self.unwatched) {
            self.watch_subtree(path.clone());
            pending.rescan(path);
        }
    }

    fn next_events(&self) -> io::Result<Vec<Event>> {
        let mut buffer = Vec::with_capacity(EVENTS_BYTES);
        let mut reader = inotify::Reader::new(&self.inotify, buffer.spare_capacity_mut());
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.push(Event {
                    watch: event.wd(),
                    what: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| Box::from(name.to_bytes())),
                }),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(events),
                Err(errno) => return Err(errno),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    fn handle(&mut self, event: &Event, pending: &mut Pending) -> Going {
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Going::Overflowed;
        }
        if event.watch == self.tree.root() && event.what.intersects(gone) {
            return Going::RootGone;
        }
        let Some(directory) = self.tree.path(event.watch) else {
            return Going::On;
        };
        if event.what.intersects(ReadFlags::UNMOUNT | ReadFlags::IGNORED) {
            self.lose_watch(event.watch, directory, pending);
            return Going::On;
        }
        let own = |name: &[u8]| directory.is_root() && name == OWN_DIRECTORY.as_bytes();
        let Some(name) = event.name.as_deref().filter(|name| !own(name)) else {
            return Going::On;
        };
        if event.what.contains(ReadFlags::ISDIR) {
            pending.entry(&directory, name);
            self.handle_directory(event, &directory, name, pending);
        } else if event.what.contains(ReadFlags::MODIFY) {
            pending.write(&directory, name, Write::Writing);
        } else if event.what.contains(ReadFlags::CLOSE_WRITE) {
            pending.write(&directory, name, Write::Closed);
        } else {
            pending.entry(&directory, name);
        }
        Going::On
    }

    fn handle_directory(&mut self, event: &Event, directory: &LocalPath, name: &[u8], pending: &mut Pending) {
        let path = directory.join(name);
        if event.what.contains(ReadFlags::MOVED_FROM) {
            self.end_of_burst();
            let watch = self.tree.child(event.watch, name);
            self.leaving = watch.map(|watch| Leaving { cookie: event.cookie, watch });
        } else if event.what.contains(ReadFlags::MOVED_TO) {
            match self.leaving.take_if(|leaving| leaving.cookie == event.cookie) {
                Some(leaving) => {
                    self.move_to(leaving.watch, event.watch, name);
                    // Its former name may have been taken by another one before that was told.
                    self.watch_new(path, pending);
                }
                None => self.watch_new(path, pending),
            }
        } else if event.what.contains(ReadFlags::DELETE) {
            let watches = self.tree.child(event.watch, name).map_or_else(Vec::new, |watch| self.tree.forget(watch));
            self.remove_watches(&watches);
        } else if event.what.contains(ReadFlags::CREATE) || self.unwatched.remove(&path) {
            self.watch_new(path, pending);
        }
    }

    /// A watch that the kernel took away. Under an unmounted directory another one shows.
    fn lose_watch(&mut self, watch: Watch, path: LocalPath, pending: &mut Pending) {
        let watches = self.tree.forget(watch);
        self.remove_watches(&watches);
        self.watch_new(path, pending);
    }

    /// Watches a directory that is new here. What was made in it before the watch gave no events, so it
    /// has to be scanned.
    fn watch_new(&mut self, path: LocalPath, pending: &mut Pending) {
        if self.watch_subtree(path.clone()) {
            pending.rescan(path);
        }
    }

    /// Watches a directory and everything below it. Whether there is anything that gave no events so
    /// far.
    fn watch_subtree(&mut self, top: LocalPath) -> bool {
        let Ok(root) = open_root(&self.root_path) else {
            return true;
        };
        let mut is_new = false;
        let mut waiting = vec![top];
        while let Some(path) = waiting.pop() {
            match self.watch_one(&root, &path) {
                Ok(Some(children)) => {
                    is_new = true;
                    waiting.extend(children);
                }
                Ok(None) => {}
                Err(errno) => is_new |= self.not_watched(path, errno),
            }
        }
        is_new
    }

    /// Watches one directory and returns those in it; `None` when it was watched already, and they too.
    fn watch_one(&mut self, root: &OwnedFd, path: &LocalPath) -> io::Result<Option<Vec<LocalPath>>> {
        let opened = open_directory(root, path, OFlags::RDONLY)?;
        let Some((parent, name)) = path.split() else {
            return subdirectories(&opened, path).map(Some);
        };
        let from_root = self.root_path.join(os_path(path));
        let mut watch = add_watch(self.inotify.as_fd(), opened.as_fd(), &from_root)?;
        if self.came_untold(watch, path) {
            // What happened in it meanwhile was told of another place, or not at all: it is watched anew.
            let watches = self.tree.forget(watch);
            self.remove_watches(&watches);
            watch = add_watch(self.inotify.as_fd(), opened.as_fd(), &from_root)?;
        }
        let parent = self.tree.find(&parent).ok_or(Errno::NOENT)?;
        let placed = self.tree.place(watch, parent, name);
        self.remove_watches(&placed.displaced);
        if placed.known {
            return Ok(None);
        }
        let children = subdirectories(&opened, path);
        if children.is_err() {
            let watches = self.tree.forget(watch);
            self.remove_watches(&watches);
        }
        children.map(Some)
    }

    /// Whether a directory that is found at a path is watched as another one, or as one that has left.
    fn came_untold(&mut self, watch: Watch, path: &LocalPath) -> bool {
        let has_left = self.leaving.take_if(|leaving| leaving.watch == watch).is_some();
        has_left || self.tree.path(watch).is_some_and(|known| known != *path)
    }

    fn move_to(&mut self, watch: Watch, parent: Watch, name: &[u8]) {
        let from = self.tree.path(watch);
        let placed = self.tree.place(watch, parent, name);
        self.remove_watches(&placed.displaced);
        if let (Some(from), Some(to)) = (from, self.tree.path(watch)) {
            let unwatched = std::mem::take(&mut self.unwatched);
            self.unwatched = unwatched.into_iter().map(|path| rebase(path, &from, &to)).collect();
        }
    }

    /// Notes that a directory cannot be watched; whether it is there at all.
    fn not_watched(&mut self, path: LocalPath, errno: Errno) -> bool {
        if matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) {
            return false;
        }
        let problem = WatchProblem::of(&path, errno);
        if !self.problems.iter().any(|known| discriminant(known) == discriminant(&problem)) {
            self.problems.push(problem);
        }
        self.unwatched.insert(path);
        if self.unwatched.len() > UNWATCHED_MAX {
            self.unwatched = BTreeSet::from([LocalPath::root()]);
        }
        true
    }

    fn remove_watches(&self, watches: &[Watch]) {
        for watch in watches {
            // The kernel has removed it already when the directory is gone.
            if let Err(errno) = inotify::remove_watch(&self.inotify, *watch) {
                tracing::trace!(watch, %errno, "the watch was gone");
            }
        }
    }
}

/// Watches the directory that is open, wherever it is now: by its path another directory could be there
/// by now, or a symlink.
fn add_watch(inotify: BorrowedFd<'_>, opened: BorrowedFd<'_>, path: &Path) -> io::Result<Watch> {
    let by_descriptor = format!("/proc/self/fd/{}", opened.as_raw_fd());
    match inotify::add_watch(inotify, by_descriptor, WATCHED_EVENTS) {
        // No /proc.
        Err(Errno::NOENT) => inotify::add_watch(inotify, path, WATCHED_EVENTS | WatchFlags::DONT_FOLLOW),
        result => result,
    }
}

/// The directories in a directory, without Syncline's own at the root.
fn subdirectories(opened: &OwnedFd, path: &LocalPath) -> io::Result<Vec<LocalPath>> {
    let mut buffer = Vec::with_capacity(ENTRIES_BYTES);
    let mut entries = RawDir::new(opened, buffer.spare_capacity_mut());
    let mut paths = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let own = path.is_root() && name == OWN_DIRECTORY.as_bytes();
        if !own && !matches!(name, b"." | b"..") && is_directory(opened, name, entry.file_type()) {
            paths.push(path.join(name));
        }
    }
    Ok(paths)
}

fn is_directory(parent: &OwnedFd, name: &[u8], told: FileType) -> bool {
    match told {
        FileType::Directory => true,
        // Some file systems do not tell with the name.
        FileType::Unknown => stat_entry(parent, name).is_ok_and(|stat| stat.kind == FileKind::Directory),
        _ => false,
    }
}

fn rebase(path: LocalPath, from: &LocalPath, to: &LocalPath) -> LocalPath {
    match path.as_bytes().strip_prefix(from.as_bytes()) {
        Some(b"") => to.clone(),
        Some(rest) if rest.starts_with(b"/") => LocalPath::from_bytes(&[to.as_bytes(), rest].concat()).unwrap_or(path),
        _ => path,
    }
}

fn os_path(path: &LocalPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}
