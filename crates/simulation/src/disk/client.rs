//! The disk through the primitives that the client uses, with a user, errors and crashes in between.

use super::{Author, Body, Disk, FINEST_GRAIN_NS, Ino, RootIs, SharedDisk, is_own, lock};
use local_files::fs::{
    Fs, FsError, ListedEntry, Listing, NEW_DIRECTORY_PERMISSIONS, NEW_FILE_PERMISSIONS, OWN_DIRECTORY, OpenFile,
    PARKED_DIRECTORY, Stat, TempFile, temp_path,
};
use model::Mtime;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use sync_engine::io::{Extent, LocalPath, RootState, TempName};

/// What another program does between two calls of the client.
pub type Interrupt = Box<dyn FnOnce(&mut Disk) + Send>;

/// What goes wrong at one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Error(FsError),
    /// From this call on the client is dead: nothing that it does happens any more.
    Death,
}

/// What is to happen between the calls of one job, by the number of the call.
#[derive(Default)]
struct Plan {
    calls: u32,
    interrupts: BTreeMap<u32, Interrupt>,
    faults: BTreeMap<u32, Fault>,
    dead: bool,
    /// Calls that failed because the plan said so.
    failed: u32,
}

/// [`Fs`] over a simulated disk.
pub struct SimFs {
    disk: SharedDisk,
    plan: Arc<Mutex<Plan>>,
}

impl SimFs {
    /// The disk as the client sees it, without surprises.
    #[must_use]
    pub fn new(disk: SharedDisk) -> Self {
        Self { disk, plan: Arc::default() }
    }

    /// Lets something happen right before the `call`-th call from now.
    #[must_use]
    pub fn interrupted(self, call: u32, interrupt: Interrupt) -> Self {
        lock(&self.plan).interrupts.insert(call, interrupt);
        self
    }

    /// Lets the `call`-th call from now go wrong.
    #[must_use]
    pub fn failing(self, call: u32, fault: Fault) -> Self {
        lock(&self.plan).faults.insert(call, fault);
        self
    }

    /// Whether the client died on the way.
    #[must_use]
    pub fn died(&self) -> bool {
        lock(&self.plan).dead
    }

    /// Calls made, and how many of them failed because they were told to.
    #[must_use]
    pub fn calls(&self) -> (u32, u32) {
        let plan = lock(&self.plan);
        (plan.calls, plan.failed)
    }

    /// One call: what comes before it happens, then it is allowed or refused.
    fn enter(&self) -> Result<(), FsError> {
        enter(&self.plan, &self.disk)
    }

    fn mounted(&self) -> Result<(), FsError> {
        self.enter()?;
        if lock(&self.disk).root == RootIs::Mounted { Ok(()) } else { Err(FsError::RootGone) }
    }

    /// For what needs space.
    fn mounted_with_space(&self) -> Result<(), FsError> {
        self.mounted()?;
        if lock(&self.disk).full { Err(FsError::NoSpace) } else { Ok(()) }
    }

    fn open_file(&self, path: &LocalPath) -> Result<SimFile, FsError> {
        let mut disk = lock(&self.disk);
        let ino = disk.entry(path)?;
        match &disk.get(ino)?.body {
            Body::File(_) => {}
            Body::Directory(_) => return Err(FsError::IsADirectory),
            Body::Symlink(_) => return Err(FsError::Escapes),
        }
        *disk.open.entry(ino).or_default() += 1;
        drop(disk);
        Ok(SimFile { disk: self.disk.clone(), plan: self.plan.clone(), ino })
    }
}

fn enter(plan: &Mutex<Plan>, disk: &Mutex<Disk>) -> Result<(), FsError> {
    let (interrupt, fault) = {
        let mut plan = lock(plan);
        let call = plan.calls;
        plan.calls += 1;
        (plan.interrupts.remove(&call), plan.faults.remove(&call))
    };
    if let Some(interrupt) = interrupt
        && !lock(plan).dead
    {
        interrupt(&mut lock(disk));
    }
    let mut plan = lock(plan);
    match fault {
        Some(Fault::Death) => plan.dead = true,
        Some(Fault::Error(error)) if !plan.dead => {
            plan.failed += 1;
            return Err(error);
        }
        Some(Fault::Error(_)) | None => {}
    }
    if plan.dead { Err(dead()) } else { Ok(()) }
}

fn dead() -> FsError {
    FsError::Other { what: "any call", path: LocalPath::root(), errno: 5 }
}

impl Fs for SimFs {
    fn root_state(&self) -> RootState {
        match (self.enter(), lock(&self.disk).root) {
            (Ok(()), RootIs::Mounted) => RootState::Present,
            // An empty folder has no marker.
            (Ok(()) | Err(_), _) => RootState::Missing,
        }
    }

    fn now_ns(&self) -> i64 {
        lock(&self.disk).now_ns
    }

    fn boot(&self) -> [u8; 16] {
        u128::from(lock(&self.disk).crash.failures()).to_le_bytes()
    }

    fn began_ns(&self) -> Option<i64> {
        Some(lock(&self.disk).crash.began())
    }

    fn tells_changes_apart(&self, _device: u64) -> bool {
        lock(&self.disk).habits.grain_ns == FINEST_GRAIN_NS
    }

    fn list(&self, directory: &LocalPath, extent: &Extent) -> Result<Listing, FsError> {
        self.mounted()?;
        let disk = lock(&self.disk);
        let ino = disk.resolve(directory)?;
        let mut entries = Vec::new();
        for entry in disk.entries(ino)?.values() {
            let own = directory.is_root() && &*entry.name == OWN_DIRECTORY.as_bytes();
            let wanted = match extent {
                Extent::All => true,
                Extent::Names(names) => names.contains(&entry.name),
            };
            if own || !wanted {
                continue;
            }
            let stat = disk.stat_of(entry.ino)?;
            let target = match &disk.get(entry.ino)?.body {
                Body::Symlink(target) => Some(target.clone()),
                Body::File(_) | Body::Directory(_) => None,
            };
            entries.push(ListedEntry { name: entry.name.clone(), found: Ok((stat, target)) });
        }
        Ok(Listing { stat: disk.stat_of(ino)?, entries })
    }

    fn stat(&self, path: &LocalPath) -> Result<Option<Stat>, FsError> {
        self.mounted()?;
        let disk = lock(&self.disk);
        match disk.entry(path) {
            Ok(ino) => disk.stat_of(ino).map(Some),
            Err(FsError::NotFound | FsError::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &LocalPath) -> Result<Box<dyn OpenFile>, FsError> {
        self.mounted()?;
        Ok(Box::new(self.open_file(path)?))
    }

    fn create_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        self.mounted_with_space()?;
        let path = temp_path(temp)?;
        let empty = Body::File(Arc::default());
        let mut disk = lock(&self.disk);
        disk.make_own_directories();
        disk.make(&path, empty, NEW_FILE_PERMISSIONS, Author::Client)?;
        drop(disk);
        Ok(Box::new(self.open_file(&path)?))
    }

    fn open_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        self.mounted()?;
        Ok(Box::new(self.open_file(&temp_path(temp)?)?))
    }

    fn rename_new(&self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        self.mounted()?;
        let mut disk = lock(&self.disk);
        let moved = disk.entry(from)?;
        let (parent, name) = disk.parent(to)?;
        if disk.lookup(parent, &name)?.is_some() {
            return Err(FsError::AlreadyExists);
        }
        disk.move_entry(from, to)?;
        if to.as_bytes().starts_with(PARKED_DIRECTORY.as_bytes()) {
            disk.parked += 1;
        }
        disk.check_shown(to, moved);
        Ok(())
    }

    fn exchange(&self, a: &LocalPath, b: &LocalPath) -> Result<(), FsError> {
        self.mounted()?;
        lock(&self.disk).exchange(a, b)
    }

    fn mkdir(&self, path: &LocalPath) -> Result<(), FsError> {
        self.mounted_with_space()?;
        let body = Body::Directory(BTreeMap::new());
        lock(&self.disk).make(path, body, NEW_DIRECTORY_PERMISSIONS, Author::Client).map(drop)
    }

    fn rmdir(&self, path: &LocalPath) -> Result<(), FsError> {
        self.mounted()?;
        let mut disk = lock(&self.disk);
        let ino = disk.entry(path)?;
        match disk.entries(ino) {
            Ok(entries) if entries.is_empty() => disk.remove_entry(path),
            Ok(_) => Err(FsError::NotEmpty),
            Err(_) => Err(FsError::NotADirectory),
        }
    }

    fn unlink(&self, path: &LocalPath) -> Result<(), FsError> {
        self.mounted()?;
        let mut disk = lock(&self.disk);
        let ino = disk.entry(path)?;
        if disk.entries(ino).is_ok() {
            return Err(FsError::IsADirectory);
        }
        disk.note_removal(path, ino);
        disk.remove_entry(path)
    }

    fn symlink(&self, target: &[u8], path: &LocalPath) -> Result<(), FsError> {
        self.mounted_with_space()?;
        lock(&self.disk).make(path, Body::Symlink(target.into()), 0o777, Author::Client).map(drop)
    }

    fn sync(&self) -> Result<(), FsError> {
        self.enter()?;
        lock(&self.disk).settle();
        Ok(())
    }
}

impl Disk {
    fn exchange(&mut self, a: &LocalPath, b: &LocalPath) -> Result<(), FsError> {
        let (a_parent, a_name) = self.parent(a)?;
        let (b_parent, b_name) = self.parent(b)?;
        let a_ino = self.lookup(a_parent, &a_name)?.ok_or(FsError::NotFound)?;
        let b_ino = self.lookup(b_parent, &b_name)?.ok_or(FsError::NotFound)?;
        if self.is_below(a_parent, b_ino) || self.is_below(b_parent, a_ino) {
            return Err(FsError::NameRefused);
        }
        self.repoint(a_parent, &a_name, b_ino)?;
        self.repoint(b_parent, &b_name, a_ino)?;
        let now = self.tick();
        for (path, ino) in [(a, b_ino), (b, a_ino)] {
            self.get_mut(ino)?.ctime = now;
            self.saw_entry(path);
        }
        self.remember();
        self.check_shown(a, b_ino);
        self.check_shown(b, a_ino);
        Ok(())
    }

    /// Lets an entry, whose spelling stays, lead to another inode.
    fn repoint(&mut self, directory: Ino, name: &[u8], ino: Ino) -> Result<(), FsError> {
        let key = self.key(name);
        self.edit_directory(directory, |entries| {
            if let Some(entry) = entries.get_mut(&key) {
                entry.ino = ino;
            }
        })
    }

    /// What the client shows the user must be something that a user has written (I3, I7).
    fn check_shown(&mut self, path: &LocalPath, ino: Ino) {
        if is_own(path) {
            return;
        }
        let Some(hash) = self.content_of(ino) else { return };
        let by_client = self.inodes.get(&ino).is_some_and(|inode| inode.author == Author::Client);
        if by_client && !lock(&self.known).contains(&hash) {
            self.violations.push(format!("I3: the client put content {hash:?} at `{path}` that no user wrote"));
        }
    }

    /// Notes a user's bytes that go with this removal, unless they are elsewhere on this disk (I16).
    fn note_removal(&mut self, path: &LocalPath, ino: Ino) {
        let by_user = self.inodes.get(&ino).is_some_and(|inode| inode.author == Author::User);
        let Some(hash) = self.content_of(ino).filter(|_| by_user) else { return };
        let others: Vec<Ino> = self.inodes.keys().copied().filter(|other| *other != ino).collect();
        if !others.into_iter().any(|other| self.content_of(other) == Some(hash)) {
            self.removed.push((path.clone(), hash));
        }
        if !is_own(path) {
            self.violations.push(format!("I16: the client removed `{path}` without looking at what it removes"));
        }
    }
}

/// A file that the client opened.
struct SimFile {
    disk: SharedDisk,
    plan: Arc<Mutex<Plan>>,
    ino: Ino,
}

impl SimFile {
    fn enter(&self) -> Result<(), FsError> {
        enter(&self.plan, &self.disk)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), FsError> {
        self.enter()?;
        let mut disk = lock(&self.disk);
        if disk.full {
            return Err(FsError::NoSpace);
        }
        let (now, version) = (disk.tick(), disk.next_version());
        let path = disk.path_of(self.ino);
        let inode = disk.get_mut(self.ino)?;
        let author = inode.author;
        if let Body::File(bytes) = &mut inode.body {
            change(Arc::make_mut(bytes));
        }
        (inode.mtime, inode.ctime, inode.version) = (now, now, version);
        if author == Author::User || path.is_some_and(|path| !is_own(&path)) {
            disk.violations.push("I7: the client wrote into a file of the user's".to_owned());
        }
        disk.remember();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.disk).release(self.ino);
    }
}

impl OpenFile for SimFile {
    fn stat(&self) -> Result<Stat, FsError> {
        self.enter()?;
        lock(&self.disk).stat_of(self.ino)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        self.enter()?;
        let disk = lock(&self.disk);
        let Body::File(bytes) = &disk.get(self.ino)?.body else { return Err(FsError::IsADirectory) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = buffer.len().min(bytes.len() - start);
        buffer[..len].copy_from_slice(&bytes[start..start + len]);
        Ok(len)
    }

    /// A simulated write is done in one step.
    fn outwait_writes(&self) {}

    /// Nobody maps a file.
    fn write_back(&self) {}

    /// A page of zeros may be one.
    fn has_holes(&self) -> bool {
        /// What a file system gives a file at once.
        const PAGE: usize = 4096;
        let disk = lock(&self.disk);
        let Ok(Body::File(bytes)) = disk.get(self.ino).map(|inode| &inode.body) else { return false };
        bytes.chunks(PAGE).any(|page| page.iter().all(|byte| *byte == 0))
    }

    fn set_permissions(&self, permissions: u32) -> Result<(), FsError> {
        self.enter()?;
        let mut disk = lock(&self.disk);
        let now = disk.tick();
        let inode = disk.get_mut(self.ino)?;
        (inode.permissions, inode.ctime) = (permissions, now);
        disk.remember();
        Ok(())
    }

    fn set_mtime(&self, mtime: Mtime) -> Result<(), FsError> {
        self.enter()?;
        let mut disk = lock(&self.disk);
        let (now, mtime) = (disk.tick(), disk.grained(mtime.0));
        let inode = disk.get_mut(self.ino)?;
        (inode.mtime, inode.ctime) = (mtime, now);
        disk.remember();
        Ok(())
    }

    fn sync_data(&self) -> Result<(), FsError> {
        self.enter()?;
        lock(&self.disk).settle_file(self.ino);
        Ok(())
    }
}

impl TempFile for SimFile {
    fn write_at(&self, new: &[u8], offset: u64) -> Result<(), FsError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        self.change(|bytes| {
            let end = start + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(new);
        })
    }

    fn set_len(&self, len: u64) -> Result<(), FsError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.change(|bytes| bytes.resize(len, 0))
    }
}
