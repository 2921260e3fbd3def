//! A disk in memory: files, folders and links with the habits of real file systems.
//!
//! [`Disk`] is the file system as a kernel sees it, with what a *user's* programs do to it; [`SimFs`]
//! is the same disk through the primitives that the client uses. Both keep account of who wrote which
//! bytes, so that a file made or removed by the client can be told from the user's own.

mod client;
mod crash;
mod user;

pub use client::{Fault, Interrupt, SimFs};
pub use user::Handle;

use local_files::fs::{FsError, OWN_DIRECTORY, PARKED_DIRECTORY, ROOT_MARKER, Stat, TEMP_DIRECTORY, own_path};
use model::block::BlockHasher;
use model::{ContentHash, Mtime, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use sync_engine::io::{FileKind, Fingerprint, Hint, LocalPath};

/// How a file system tells names apart, and how it gives them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Naming {
    /// Names are bytes (ext4, XFS).
    #[default]
    Bytes,
    /// Upper and lower case, and normal forms, are one name; the spelling is kept (APFS, NTFS).
    Insensitive,
    /// As before, and names come back in NFD (HFS+).
    Decomposing,
}

/// The habits of one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Habits {
    pub naming: Naming,
    /// The grain of change and modification times, in nanoseconds; with [`FINEST_GRAIN_NS`] no two changes
    /// have the same time.
    pub grain_ns: i64,
    /// Whether it keeps birth times.
    pub births: bool,
    /// Whether the number of a removed inode is given to the next new one.
    pub reuses_inodes: bool,
    /// Whether names with a colon are refused.
    pub refuses_colons: bool,
    /// Whether what was not synced may be lost; costs time, so only where a power failure may come.
    pub may_lose_power: bool,
}

/// The grain of a file system that tells one change from the next, in nanoseconds.
pub const FINEST_GRAIN_NS: i64 = 1;

impl Default for Habits {
    fn default() -> Self {
        Self {
            naming: Naming::Bytes,
            grain_ns: 4_000_000,
            births: true,
            reuses_inodes: false,
            refuses_colons: false,
            may_lose_power: false,
        }
    }
}

/// What lies at the path of the synced folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootIs {
    Mounted,
    /// No folder is there.
    Missing,
    /// An empty folder is in its place.
    Empty,
}

/// Who wrote a file's present bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    User,
    Client,
}

type Ino = u64;

/// More changes than there are in a millisecond of a history, each a nanosecond after the one before.
const TICKS_NS: i64 = 1_000_000;

const ROOT: Ino = 2;
/// Nanoseconds from 1970 to 2026-11-23, where every history begins.
pub const WALL_START_NS: i64 = 1_795_392_000_000_000_000;

#[derive(Debug, Clone)]
struct Entry {
    name: Box<[u8]>,
    ino: Ino,
}

#[derive(Debug, Clone)]
enum Body {
    File(Arc<Vec<u8>>),
    Directory(BTreeMap<Box<[u8]>, Entry>),
    Symlink(Box<[u8]>),
}

#[derive(Debug, Clone)]
struct Inode {
    body: Body,
    birth: i64,
    mtime: i64,
    ctime: i64,
    permissions: u32,
    author: Author,
    /// Which file it is: numbers of inodes are used again, this is not.
    made: u64,
    /// Rises with every change of the bytes.
    version: u64,
    /// A power failure took all bytes, and nobody wrote into it since.
    emptied: bool,
}

/// All inodes at one moment.
type Image = BTreeMap<Ino, Arc<Inode>>;

/// All files of a disk, kept aside.
#[derive(Debug, Clone)]
pub struct Backup(Image);

/// A file of the synced tree as a person would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    Directory,
    File { bytes: Arc<Vec<u8>>, executable: bool },
    Symlink(Box<[u8]>),
}

/// A file system.
pub struct Disk {
    pub habits: Habits,
    pub root: RootIs,
    /// Whether the client finds no space for anything new.
    pub full: bool,
    device: u64,
    inodes: Image,
    /// Open handles; an inode without a name lives while it is open.
    open: BTreeMap<Ino, u32>,
    next_ino: Ino,
    /// The wall clock in nanoseconds.
    now_ns: i64,
    /// The time that the last change was given.
    last_tick: i64,
    /// What the watcher would report since it was last asked.
    hints: Vec<Hint>,
    versions: u64,
    crash: crash::Past,
    /// Contents that a user wrote, or that existed for a moment while a user wrote.
    pub known: Arc<Mutex<BTreeSet<ContentHash>>>,
    /// Contents of the user's that the client removed and that are nowhere else on this disk.
    removed: Vec<(LocalPath, ContentHash)>,
    /// What the client did that no client may do.
    violations: Vec<String>,
    /// Times something was moved to the parked folder.
    pub parked: u64,
    /// Times a new file got the inode number of one that is gone.
    pub reused: u64,
    hashes: BTreeMap<(Ino, u64), ContentHash>,
}

/// A disk that several parts of the simulation hold.
pub type SharedDisk = Arc<Mutex<Disk>>;

/// Locks a disk; a panic elsewhere has already failed the test.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// A disk with the folder that a device was linked to, empty but for Syncline's own.
    #[must_use]
    pub fn new(habits: Habits, device: u64, known: Arc<Mutex<BTreeSet<ContentHash>>>) -> Self {
        let mut disk = Self {
            habits,
            root: RootIs::Mounted,
            full: false,
            device,
            inodes: BTreeMap::new(),
            open: BTreeMap::new(),
            next_ino: 11,
            now_ns: WALL_START_NS,
            last_tick: WALL_START_NS,
            hints: Vec::new(),
            versions: 0,
            crash: crash::Past::default(),
            known,
            removed: Vec::new(),
            violations: Vec::new(),
            parked: 0,
            reused: 0,
            hashes: BTreeMap::new(),
        };
        let root = disk.inode(Body::Directory(BTreeMap::new()), 0o755, Author::Client);
        disk.inodes.insert(ROOT, Arc::new(root));
        disk.make_own_directories();
        disk.make(&own_path(ROOT_MARKER), Body::File(Arc::new(b"the root".to_vec())), 0o644, Author::Client).ok();
        disk.hints.clear();
        disk.reused = 0;
        disk.settle();
        disk
    }

    /// Makes what is missing of Syncline's own folders.
    fn make_own_directories(&mut self) {
        for own in [OWN_DIRECTORY, TEMP_DIRECTORY, PARKED_DIRECTORY] {
            self.make(&own_path(own), Body::Directory(BTreeMap::new()), 0o755, Author::Client).ok();
        }
    }

    /// Sets the wall clock.
    pub fn set_now_ns(&mut self, now_ns: i64) {
        self.now_ns = now_ns;
    }

    /// What the watcher saw since the last call.
    pub fn take_hints(&mut self) -> Vec<Hint> {
        std::mem::take(&mut self.hints)
    }

    /// The user's contents that the client removed since the last call, the last on this disk.
    pub fn take_removed(&mut self) -> Vec<(LocalPath, ContentHash)> {
        std::mem::take(&mut self.removed)
    }

    /// What the client did against the rules since the last call.
    pub fn take_violations(&mut self) -> Vec<String> {
        std::mem::take(&mut self.violations)
    }

    /// Everything in the synced folder but Syncline's own, by path.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<LocalPath, Thing> {
        let mut things = BTreeMap::new();
        self.collect(ROOT, &LocalPath::root(), &mut things);
        things
    }

    /// The files in Syncline's own folder that hold a user's bytes: aside or parked.
    #[must_use]
    pub fn own_things(&self) -> BTreeMap<LocalPath, Thing> {
        let mut things = BTreeMap::new();
        for own in [TEMP_DIRECTORY, PARKED_DIRECTORY] {
            let path = own_path(own);
            if let Ok(ino) = self.resolve(&path) {
                self.collect(ino, &path, &mut things);
            }
        }
        things
    }

    fn collect(&self, directory: Ino, path: &LocalPath, things: &mut BTreeMap<LocalPath, Thing>) {
        let Some(Body::Directory(entries)) = self.inodes.get(&directory).map(|inode| &inode.body) else { return };
        for entry in entries.values() {
            if directory == ROOT && &*entry.name == OWN_DIRECTORY.as_bytes() {
                continue;
            }
            let path = path.join(&entry.name);
            let Some(inode) = self.inodes.get(&entry.ino) else { continue };
            match &inode.body {
                Body::Directory(_) => {
                    things.insert(path.clone(), Thing::Directory);
                    self.collect(entry.ino, &path, things);
                }
                Body::File(bytes) => {
                    let executable = inode.permissions & 0o100 != 0;
                    things.insert(path, Thing::File { bytes: bytes.clone(), executable });
                }
                Body::Symlink(target) => {
                    things.insert(path, Thing::Symlink(target.clone()));
                }
            }
        }
    }

    /// The content hash of the file at the path, if one is there.
    pub fn content_at(&mut self, path: &LocalPath) -> Option<ContentHash> {
        let ino = self.resolve(path).ok()?;
        self.content_of(ino)
    }

    /// The file on an inode: its content hash and its time of modification.
    pub fn file_on(&mut self, inode: u64) -> Option<(ContentHash, Mtime)> {
        let mtime = Mtime(self.inodes.get(&inode)?.mtime);
        Some((self.content_of(inode)?, mtime))
    }

    fn content_of(&mut self, ino: Ino) -> Option<ContentHash> {
        let inode = self.inodes.get(&ino)?;
        let Body::File(bytes) = &inode.body else { return None };
        let key = (ino, inode.version);
        if let Some(hash) = self.hashes.get(&key) {
            return Some(*hash);
        }
        let hash = content_hash(bytes);
        self.hashes.insert(key, hash);
        Some(hash)
    }

    fn inode(&mut self, body: Body, permissions: u32, author: Author) -> Inode {
        let now = self.tick();
        let version = self.next_version();
        let (birth, made) = (self.now_ns, version);
        Inode { body, birth, mtime: now, ctime: now, permissions, author, made, version, emptied: false }
    }

    fn next_version(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    /// The present time as the file system notes it.
    fn tick(&mut self) -> i64 {
        let now = self.grained(self.now_ns);
        // The wall clock may be set back; then times go back with it, and still differ.
        let same = self.last_tick.saturating_sub(now);
        let apart = self.habits.grain_ns == FINEST_GRAIN_NS && (0..TICKS_NS).contains(&same);
        self.last_tick = if apart { self.last_tick + 1 } else { now };
        self.last_tick
    }

    fn grained(&self, time: i64) -> i64 {
        time.div_euclid(self.habits.grain_ns).saturating_mul(self.habits.grain_ns)
    }

    fn new_ino(&mut self) -> Ino {
        if self.habits.reuses_inodes {
            let free = (11..).find(|ino| !self.inodes.contains_key(ino)).unwrap_or(self.next_ino);
            self.reused += u64::from(free <= self.next_ino);
            self.next_ino = self.next_ino.max(free);
            return free;
        }
        self.next_ino += 1;
        self.next_ino
    }

    /// What two names must not share within a folder.
    fn key(&self, name: &[u8]) -> Box<[u8]> {
        match (self.habits.naming, Name::parse_bytes(name)) {
            (Naming::Bytes, _) => name.into(),
            (_, Ok(parsed)) => parsed.key().as_str().as_bytes().into(),
            (_, Err(_)) => name.to_ascii_lowercase().into(),
        }
    }

    /// The name as this file system keeps it.
    fn spelled(&self, name: &[u8]) -> Box<[u8]> {
        match (self.habits.naming, std::str::from_utf8(name)) {
            (Naming::Decomposing, Ok(text)) => {
                let decomposed: String = unicode_normalization::UnicodeNormalization::nfd(text).collect();
                decomposed.into_bytes().into()
            }
            _ => name.into(),
        }
    }

    fn check_name(&self, name: &[u8]) -> Result<(), FsError> {
        if name.len() > 255 || (self.habits.refuses_colons && name.contains(&b':')) {
            return Err(FsError::NameRefused);
        }
        Ok(())
    }

    fn get(&self, ino: Ino) -> Result<&Inode, FsError> {
        self.inodes.get(&ino).map(Arc::as_ref).ok_or(FsError::NotFound)
    }

    fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode, FsError> {
        self.inodes.get_mut(&ino).map(Arc::make_mut).ok_or(FsError::NotFound)
    }

    /// Walks to a path. Symlinks are never followed.
    fn resolve(&self, path: &LocalPath) -> Result<Ino, FsError> {
        let mut at = ROOT;
        for name in path.components() {
            if matches!(self.get(at)?.body, Body::Symlink(_)) {
                return Err(FsError::Escapes);
            }
            at = self.lookup(at, name)?.ok_or(FsError::NotFound)?;
        }
        Ok(at)
    }

    /// What is at a path, by way of its folder: a link in the folder's place is no folder.
    fn entry(&self, path: &LocalPath) -> Result<Ino, FsError> {
        if path.is_root() {
            return Ok(ROOT);
        }
        let (parent, name) = self.parent(path)?;
        self.lookup(parent, &name)?.ok_or(FsError::NotFound)
    }

    /// The child of a folder. An error when the folder is none.
    fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>, FsError> {
        let key = self.key(name);
        Ok(self.entries(directory)?.get(&key).map(|entry| entry.ino))
    }

    fn entries(&self, directory: Ino) -> Result<&BTreeMap<Box<[u8]>, Entry>, FsError> {
        match &self.get(directory)?.body {
            Body::Directory(entries) => Ok(entries),
            Body::File(_) | Body::Symlink(_) => Err(FsError::NotADirectory),
        }
    }

    /// The folder of a path and the last name.
    fn parent(&self, path: &LocalPath) -> Result<(Ino, Box<[u8]>), FsError> {
        let (parent, name) = path.split().ok_or(FsError::AlreadyExists)?;
        let ino = self.resolve(&parent)?;
        self.entries(ino)?;
        Ok((ino, name.into()))
    }

    fn link(&mut self, directory: Ino, name: &[u8], ino: Ino) -> Result<(), FsError> {
        let (key, name) = (self.key(name), self.spelled(name));
        self.edit_directory(directory, |entries| {
            entries.insert(key, Entry { name, ino });
        })
    }

    fn unlink_entry(&mut self, directory: Ino, name: &[u8]) -> Result<(), FsError> {
        let key = self.key(name);
        self.edit_directory(directory, |entries| {
            entries.remove(&key);
        })
    }

    fn edit_directory(
        &mut self,
        directory: Ino,
        edit: impl FnOnce(&mut BTreeMap<Box<[u8]>, Entry>),
    ) -> Result<(), FsError> {
        let now = self.tick();
        let inode = self.get_mut(directory)?;
        inode.mtime = now;
        inode.ctime = now;
        if let Body::Directory(entries) = &mut inode.body {
            edit(entries);
        }
        Ok(())
    }

    /// Makes something new at a path that is free.
    fn make(&mut self, path: &LocalPath, body: Body, permissions: u32, author: Author) -> Result<Ino, FsError> {
        let (parent, name) = self.parent(path)?;
        if self.lookup(parent, &name)?.is_some() {
            return Err(FsError::AlreadyExists);
        }
        self.check_name(&name)?;
        let ino = self.new_ino();
        let inode = self.inode(body, permissions, author);
        self.inodes.insert(ino, Arc::new(inode));
        self.link(parent, &name, ino)?;
        self.saw_entry(path);
        self.remember();
        Ok(ino)
    }

    /// Takes the last name off an inode and forgets it unless it is open.
    fn remove_entry(&mut self, path: &LocalPath) -> Result<(), FsError> {
        let (parent, name) = self.parent(path)?;
        let ino = self.lookup(parent, &name)?.ok_or(FsError::NotFound)?;
        self.saw_entry(path);
        self.unlink_entry(parent, &name)?;
        if !self.open.contains_key(&ino) {
            self.inodes.remove(&ino);
        }
        self.remember();
        Ok(())
    }

    /// Moves an entry to a free place. The moved inode's change time moves.
    fn move_entry(&mut self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        let (from_parent, from_name) = self.parent(from)?;
        let ino = self.lookup(from_parent, &from_name)?.ok_or(FsError::NotFound)?;
        let (to_parent, to_name) = self.parent(to)?;
        if self.is_below(to_parent, ino) {
            // As the kernel refuses it, and as the real disk must understand that.
            return Err(FsError::NameRefused);
        }
        self.check_name(&to_name)?;
        self.saw_entry(from);
        self.unlink_entry(from_parent, &from_name)?;
        self.link(to_parent, &to_name, ino)?;
        let now = self.tick();
        self.get_mut(ino)?.ctime = now;
        self.saw_entry(to);
        self.remember();
        Ok(())
    }

    fn is_below(&self, ino: Ino, top: Ino) -> bool {
        if ino == top {
            return true;
        }
        let Ok(entries) = self.entries(top) else { return false };
        entries.values().any(|entry| self.is_below(ino, entry.ino))
    }

    fn stat_of(&self, ino: Ino) -> Result<Stat, FsError> {
        let inode = self.get(ino)?;
        let (kind, size) = match &inode.body {
            Body::File(bytes) => (FileKind::File, bytes.len() as u64),
            Body::Directory(entries) => (FileKind::Directory, 4096 + entries.len() as u64),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64),
        };
        let print = Fingerprint {
            device: self.device,
            inode: ino,
            birth: self.habits.births.then_some(inode.birth),
            size,
            mtime: Mtime(inode.mtime),
            ctime: inode.ctime,
            executable: kind == FileKind::File && inode.permissions & 0o100 != 0,
        };
        Ok(Stat { kind, print, permissions: inode.permissions })
    }

    /// The path with each name as the disk spells it.
    fn canonical(&self, path: &LocalPath) -> LocalPath {
        let mut at = ROOT;
        let mut spelled = LocalPath::root();
        for name in path.components() {
            let key = self.key(name);
            let entry = self.entries(at).ok().and_then(|entries| entries.get(&key).cloned());
            let Some(entry) = entry else {
                spelled = spelled.join(name);
                continue;
            };
            spelled = spelled.join(&entry.name);
            at = entry.ino;
        }
        spelled
    }

    fn path_of(&self, ino: Ino) -> Option<LocalPath> {
        self.find(ROOT, &LocalPath::root(), ino)
    }

    fn find(&self, directory: Ino, path: &LocalPath, ino: Ino) -> Option<LocalPath> {
        self.entries(directory).ok()?.values().find_map(|entry| {
            let path = path.join(&entry.name);
            if entry.ino == ino { Some(path) } else { self.find(entry.ino, &path, ino) }
        })
    }

    fn saw_entry(&mut self, path: &LocalPath) {
        self.saw(path, |directory, name| Hint::Entry { directory, name });
    }

    fn saw(&mut self, path: &LocalPath, hint: impl FnOnce(LocalPath, Box<[u8]>) -> Hint) {
        let path = self.canonical(path);
        if let Some((directory, name)) = path.split()
            && !is_own(&path)
        {
            self.hints.push(hint(directory, name.into()));
        }
    }
}

/// Whether a path lies in Syncline's own folder.
fn is_own(path: &LocalPath) -> bool {
    path.components().next().is_some_and(|first| first.eq_ignore_ascii_case(OWN_DIRECTORY.as_bytes()))
}

/// The content hash of bytes.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> ContentHash {
    let mut hasher = BlockHasher::new();
    hasher.update(bytes);
    hasher.finish().0.content_hash()
}
