//! A synced folder on the real disk, and a decorator that acts between any two of its operations.

#![allow(dead_code, reason = "each test file uses its part")]

use local_files::disk::{Disk, RootId};
use local_files::fs::{Fs, FsError, Listing, OpenFile, Stat, TempFile, Unwritten};
use local_files::jobs::run_job;
use local_files::temps::{Turns, write_block};
use model::block::BlockHasher;
use model::{Blocklist, Mtime, NodeId};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use sync_engine::io::{
    BlockTarget, Expect, Extent, Fingerprint, HashResult, HashTask, Job, JobResult, LocalPath, LocalStep, RootState,
    StepResult, TempName,
};
use sync_engine::tree::FileContent;
use tempfile::TempDir;

pub(crate) const ROOT: RootId = RootId([7; 16]);
pub(crate) const NODE: NodeId = NodeId([1; 16]);
/// Longer than any change time takes to settle.
pub(crate) const SETTLED_NS: i64 = 10_000_000_000;
pub(crate) const MTIME: Mtime = Mtime(1_500_000_000_123_456_789);

/// A synced folder in a directory of its own.
pub(crate) struct Folder {
    pub(crate) dir: TempDir,
    pub(crate) disk: Disk,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let disk = Disk::create_root(&root, ROOT).unwrap();
        Self { dir, disk }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.disk.path().join(relative)
    }

    pub(crate) fn write(&self, relative: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(relative), bytes).unwrap();
    }

    pub(crate) fn read(&self, relative: &str) -> Option<String> {
        fs::read_to_string(self.path(relative)).ok()
    }

    pub(crate) fn print(&self, relative: &str) -> Fingerprint {
        self.disk.stat(&local(relative)).unwrap().expect("something is there").print
    }

    pub(crate) fn expect(&self, relative: &str) -> Expect {
        Expect::Print(self.print(relative))
    }

    /// Puts a downloaded file into the temporary folder.
    pub(crate) fn temp(&self, name: &str, bytes: &[u8]) -> Option<TempName> {
        let temp = TempName(name.to_owned());
        write_block(&self.disk, &BlockTarget { temp: temp.clone(), offset: 0 }, bytes, &Turns::default()).unwrap();
        Some(temp)
    }

    /// A step that installs `bytes` from a temporary file.
    pub(crate) fn install(&self, path: &str, bytes: &str, replace: Option<Expect>) -> LocalStep {
        let temp = self.temp("download", bytes.as_bytes());
        LocalStep::Install { node: NODE, path: local(path), temp, content: content(bytes.as_bytes()), replace }
    }

    pub(crate) fn apply(&self, step: LocalStep) -> StepResult {
        apply(&self.disk, vec![step]).remove(0)
    }

    /// Every visible file's text, sorted.
    pub(crate) fn texts(&self) -> Vec<String> {
        let visible = |entry: &fs::DirEntry| entry.file_name() != ".syncline";
        let entries = fs::read_dir(self.disk.path()).unwrap().map(Result::unwrap).filter(visible);
        let mut texts: Vec<String> = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        texts.sort();
        texts
    }

    pub(crate) fn temps(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path(".syncline/tmp")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub(crate) fn clean(&self) {
        assert_eq!(run_job(&self.disk, &Job::CleanTemps { keep: [].into() }), JobResult::Cleaned);
    }
}

pub(crate) fn local(path: &str) -> LocalPath {
    LocalPath::from_bytes(path.as_bytes()).unwrap()
}

pub(crate) fn blocks_of(bytes: &[u8]) -> Blocklist {
    let mut hasher = BlockHasher::new();
    hasher.update(bytes);
    hasher.finish().0
}

pub(crate) fn content(bytes: &[u8]) -> FileContent {
    let hash = blocks_of(bytes).content_hash();
    FileContent { hash, size: bytes.len() as u64, executable: false, mtime: MTIME }
}

pub(crate) fn apply(fs: &dyn Fs, steps: Vec<LocalStep>) -> Vec<StepResult> {
    match run_job(fs, &Job::Apply(steps)) {
        JobResult::Applied { results, .. } => results,
        other => panic!("{other:?}"),
    }
}

/// Called before each operation with its name and number; an error is returned instead of doing it.
pub(crate) type Hook = Arc<dyn Fn(&'static str, usize) -> Result<(), FsError> + Send + Sync>;

/// A folder, or the same one held for a job.
enum Inner<'a> {
    Found(&'a Disk),
    Held(Arc<dyn Fs>),
}

impl<'a> std::ops::Deref for Inner<'a> {
    type Target = dyn Fs + 'a;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Found(disk) => *disk,
            Self::Held(held) => &**held,
        }
    }
}

/// The disk, with something happening between its operations.
pub(crate) struct Meddled<'a> {
    disk: Inner<'a>,
    hook: Hook,
    count: Arc<AtomicUsize>,
    /// Added to the disk's clock.
    clock_offset: i64,
    /// What is said instead of what the disk says.
    tells_apart: Option<bool>,
    /// As if the file system did not tell upper from lower case.
    folds_case: bool,
    /// As if the disk took so many bytes more, if that is known.
    free: Option<u64>,
    /// Whether it can be told that a program may write to a file. Where it can, who opens one in between waits: only hooks that
    /// do not wait may do so.
    tells_writers: bool,
}

impl<'a> Meddled<'a> {
    pub(crate) fn new(
        disk: &'a Disk,
        hook: impl Fn(&'static str, usize) -> Result<(), FsError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            disk: Inner::Found(disk),
            hook: Arc::new(hook),
            count: Arc::default(),
            clock_offset: 0,
            tells_apart: None,
            folds_case: false,
            free: None,
            tells_writers: false,
        }
    }

    /// A disk that takes so many bytes more.
    pub(crate) fn with_room(disk: &'a Disk, free: u64) -> Self {
        Self { free: Some(free), ..Self::new(disk, |_, _| Ok(())) }
    }

    /// A disk whose clock is ahead, so that every file on it is settled.
    pub(crate) fn later(disk: &'a Disk, nanoseconds: i64) -> Self {
        Self { clock_offset: nanoseconds, ..Self::new(disk, |_, _| Ok(())) }
    }

    /// As if the file system told one change from the next, or did not.
    pub(crate) fn telling_changes_apart(mut self, tells_apart: bool) -> Self {
        self.tells_apart = Some(tells_apart);
        self
    }

    pub(crate) fn telling_writers(mut self) -> Self {
        self.tells_writers = true;
        self
    }

    pub(crate) fn with_clock(mut self, nanoseconds: i64) -> Self {
        self.clock_offset = nanoseconds;
        self
    }

    pub(crate) fn folding_case(disk: &'a Disk) -> Self {
        Self { folds_case: true, ..Self::new(disk, |_, _| Ok(())) }
    }

    /// The path in the spelling of what is there.
    fn spelled(&self, path: &LocalPath) -> LocalPath {
        let Some((parent, name)) = path.split().filter(|_| self.folds_case) else {
            return path.clone();
        };
        let Ok(listing) = self.disk.list(&parent, &Extent::All) else {
            return path.clone();
        };
        let found = listing.entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name));
        found.map_or_else(|| path.clone(), |entry| parent.join(&entry.name))
    }

    pub(crate) fn calls(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn before(&self, what: &'static str) -> Result<(), FsError> {
        (self.hook)(what, self.count.fetch_add(1, Ordering::SeqCst))
    }

    fn wrap<F>(&self, file: F) -> MeddledFile<F> {
        MeddledFile { file, hook: Arc::clone(&self.hook), count: Arc::clone(&self.count) }
    }
}

impl Fs for Meddled<'_> {
    fn held(&self) -> Option<Arc<dyn Fs>> {
        Some(Arc::new(Meddled {
            disk: Inner::Held(self.disk.held()?),
            hook: Arc::clone(&self.hook),
            count: Arc::clone(&self.count),
            ..*self
        }))
    }
    fn root_state(&self) -> RootState {
        match self.before("root_state") {
            Ok(()) => self.disk.root_state(),
            Err(_) => RootState::Missing,
        }
    }
    fn now_ns(&self) -> i64 {
        self.disk.now_ns() + self.clock_offset
    }
    fn boot(&self) -> [u8; 16] {
        self.disk.boot()
    }

    fn began_ns(&self) -> Option<i64> {
        self.disk.began_ns()
    }
    fn tells_changes_apart(&self, device: u64) -> bool {
        self.tells_apart.unwrap_or_else(|| self.disk.tells_changes_apart(device))
    }
    fn list(&self, directory: &LocalPath, extent: &Extent) -> Result<Listing, FsError> {
        self.before("list")?;
        self.disk.list(directory, extent)
    }
    fn stat(&self, path: &LocalPath) -> Result<Option<Stat>, FsError> {
        self.before("stat")?;
        self.disk.stat(&self.spelled(path))
    }
    fn open(&self, path: &LocalPath) -> Result<Box<dyn OpenFile>, FsError> {
        self.before("open")?;
        Ok(Box::new(self.wrap(self.disk.open(path)?)))
    }
    fn create_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        self.before("create_temp")?;
        Ok(Box::new(self.wrap(self.disk.create_temp(temp)?)))
    }
    fn open_temp(&self, temp: &TempName) -> Result<Box<dyn TempFile>, FsError> {
        self.before("open_temp")?;
        Ok(Box::new(self.wrap(self.disk.open_temp(temp)?)))
    }
    fn rename_new(&self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        self.before("rename_new")?;
        self.disk.rename_new(&self.spelled(from), &self.spelled(to))
    }
    fn exchange(&self, a: &LocalPath, b: &LocalPath) -> Result<(), FsError> {
        self.before("exchange")?;
        self.disk.exchange(a, b)
    }
    fn mkdir(&self, path: &LocalPath) -> Result<(), FsError> {
        self.before("mkdir")?;
        self.disk.mkdir(path)
    }
    fn rmdir(&self, path: &LocalPath) -> Result<(), FsError> {
        self.before("rmdir")?;
        self.disk.rmdir(path)
    }
    fn unlink(&self, path: &LocalPath) -> Result<(), FsError> {
        self.before("unlink")?;
        self.disk.unlink(path)
    }
    fn symlink(&self, target: &[u8], path: &LocalPath) -> Result<(), FsError> {
        self.before("symlink")?;
        self.disk.symlink(target, path)
    }
    fn unwritten(&self, path: &LocalPath) -> Result<Option<Box<dyn Unwritten>>, FsError> {
        if !self.tells_writers {
            return Ok(None);
        }
        self.before("unwritten")?;
        self.disk.unwritten(path)
    }
    fn free_bytes(&self) -> Option<u64> {
        self.free
    }
    fn sync(&self) -> Result<(), FsError> {
        self.before("sync")?;
        self.disk.sync()
    }
}

struct MeddledFile<F> {
    file: F,
    hook: Hook,
    count: Arc<AtomicUsize>,
}

impl<F> MeddledFile<F> {
    fn before(&self, what: &'static str) -> Result<(), FsError> {
        (self.hook)(what, self.count.fetch_add(1, Ordering::SeqCst))
    }
}

impl<F: OpenFile + ?Sized> OpenFile for MeddledFile<Box<F>> {
    fn stat(&self) -> Result<Stat, FsError> {
        self.before("fstat")?;
        self.file.stat()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, FsError> {
        self.before("read_at")?;
        self.file.read_at(buffer, offset)
    }
    fn outwait_writes(&self) {
        // It cannot fail; the hook is told all the same.
        self.before("outwait_writes").ok();
        self.file.outwait_writes();
    }
    fn write_back(&self) {
        self.before("write_back").ok();
        self.file.write_back();
    }
    fn has_holes(&self) -> bool {
        self.file.has_holes()
    }
    fn set_permissions(&self, permissions: u32) -> Result<(), FsError> {
        self.before("set_permissions")?;
        self.file.set_permissions(permissions)
    }
    fn set_mtime(&self, mtime: Mtime) -> Result<(), FsError> {
        self.before("set_mtime")?;
        self.file.set_mtime(mtime)
    }
    fn sync_data(&self) -> Result<(), FsError> {
        self.before("sync_data")?;
        self.file.sync_data()
    }
}

impl<F: TempFile + ?Sized> TempFile for MeddledFile<Box<F>> {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), FsError> {
        self.before("write_at")?;
        self.file.write_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> Result<(), FsError> {
        self.before("set_len")?;
        self.file.set_len(len)
    }
}

/// What a disk says that broke.
pub(crate) fn broken() -> FsError {
    FsError::Other { what: "anything on", path: LocalPath::root(), errno: 5 }
}

/// What a job makes of one file.
pub(crate) fn hash(fs: &dyn Fs, task: HashTask) -> HashResult {
    match run_job(fs, &Job::Hash(vec![task])) {
        JobResult::Hashed(mut results) => results.remove(0).1,
        other => panic!("{other:?}"),
    }
}

/// The task to hash a file as it is.
pub(crate) fn task(folder: &Folder, path: &str) -> HashTask {
    HashTask { node: NODE, path: local(path), print: folder.print(path), closed: false }
}

pub(crate) fn set_mode(folder: &Folder, path: &str, mode: u32) {
    fs::set_permissions(folder.path(path), fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn make_fifo(folder: &Folder, name: &str) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, folder.path(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}
