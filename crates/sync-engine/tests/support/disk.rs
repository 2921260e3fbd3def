//! A disk in memory: enough of one to check that every step finds what it expects.

use model::block::BlockHasher;
use model::{BlockHash, Blocklist, Mtime};
use std::collections::BTreeMap;
use sync_engine::io::{
    DirectoryListing, DirectoryScan, Expect, Extent, FileKind, Fingerprint, Found, HashResult, HashTask, Job,
    JobResult, LocalPath, LocalStep, RootState, ScanError, ScanTarget, Settled, StepError, StepResult, TempName,
};
use sync_engine::tree::FileContent;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Directory,
    File(Vec<u8>),
    Symlink(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub data: Data,
    pub executable: bool,
    pub mtime: i64,
    inode: u64,
    ctime: i64,
}

/// Paths to entries; the root is always there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    pub entries: BTreeMap<LocalPath, Entry>,
    pub temps: BTreeMap<TempName, Vec<u8>>,
    clock: i64,
    inodes: u64,
}

impl Disk {
    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn new_entry(&mut self, data: Data, executable: bool, mtime: Option<i64>) -> Entry {
        self.inodes += 1;
        let now = self.tick();
        Entry { data, executable, mtime: mtime.unwrap_or(now), inode: self.inodes, ctime: now }
    }

    pub(crate) fn is_directory(&self, path: &LocalPath) -> bool {
        path.is_root() || matches!(self.entries.get(path), Some(Entry { data: Data::Directory, .. }))
    }

    fn parent_exists(&self, path: &LocalPath) -> bool {
        path.split().is_some_and(|(parent, _)| is_parked(&parent) || self.is_directory(&parent))
    }

    /// Makes or overwrites; a no-op where that is impossible.
    pub(crate) fn write(&mut self, path: &LocalPath, bytes: &[u8]) -> bool {
        if !self.parent_exists(path) {
            return false;
        }
        match self.entries.get(path).map(|entry| &entry.data) {
            None => {
                let entry = self.new_entry(Data::File(bytes.to_vec()), false, None);
                self.entries.insert(path.clone(), entry);
                true
            }
            Some(Data::File(_)) => {
                let now = self.tick();
                let entry = self.entries.get_mut(path).expect("just seen");
                entry.data = Data::File(bytes.to_vec());
                entry.mtime = now;
                entry.ctime = now;
                true
            }
            Some(Data::Directory | Data::Symlink(_)) => false,
        }
    }

    pub(crate) fn make_directory(&mut self, path: &LocalPath) -> bool {
        let possible = self.parent_exists(path) && !self.entries.contains_key(path);
        if possible {
            let entry = self.new_entry(Data::Directory, false, None);
            self.entries.insert(path.clone(), entry);
        }
        possible
    }

    pub(crate) fn below(&self, path: &LocalPath) -> Vec<LocalPath> {
        let mut prefix = path.as_bytes().to_vec();
        prefix.push(b'/');
        self.entries.keys().filter(|other| other.as_bytes().starts_with(&prefix)).cloned().collect()
    }

    pub(crate) fn remove_all(&mut self, path: &LocalPath) -> bool {
        for below in self.below(path) {
            self.entries.remove(&below);
        }
        self.entries.remove(path).is_some()
    }

    /// Renames without replacing, as a person would.
    pub(crate) fn rename(&mut self, from: &LocalPath, to: &LocalPath) -> bool {
        let inside = from == to || to.as_bytes().starts_with(&[from.as_bytes(), b"/"].concat());
        if !self.entries.contains_key(from) || self.entries.contains_key(to) || !self.parent_exists(to) || inside {
            return false;
        }
        self.move_entry(from, to);
        true
    }

    fn move_entry(&mut self, from: &LocalPath, to: &LocalPath) {
        let now = self.tick();
        for below in self.below(from) {
            let rest = &below.as_bytes()[from.as_bytes().len()..];
            let target = LocalPath::from_bytes(&[to.as_bytes(), rest].concat()).expect("plain");
            let entry = self.entries.remove(&below).expect("listed");
            self.entries.insert(target, entry);
        }
        let mut entry = self.entries.remove(from).expect("checked");
        entry.ctime = now;
        self.entries.insert(to.clone(), entry);
    }

    pub(crate) fn run(&mut self, job: &Job) -> JobResult {
        match job {
            Job::Scan(targets) => JobResult::Scanned {
                root: RootState::Present,
                directories: targets.iter().map(|target| self.scan(target)).collect(),
            },
            Job::Hash(tasks) => JobResult::Hashed(tasks.iter().map(|task| (task.node, self.hash(task))).collect()),
            Job::Apply(steps) => JobResult::Applied {
                root: RootState::Present,
                results: steps.iter().map(|step| self.step(step)).collect(),
            },
            Job::Prepare(temps) => JobResult::Prepared { root: RootState::Present, files: Ok(vec![None; temps.len()]) },
            Job::Settle => JobResult::Settled { root: RootState::Present, result: Ok(Settled::default()) },
            Job::MarkExcluded(_) => JobResult::Marked { root: RootState::Present, result: Ok(()) },
            Job::Probe { .. } => JobResult::Probed { present: Vec::new(), begun: Vec::new() },
            Job::CleanTemps { keep } => {
                self.temps.retain(|name, _| keep.contains(name));
                JobResult::Cleaned
            }
        }
    }

    fn scan(&self, target: &ScanTarget) -> DirectoryScan {
        let directory = &target.directory;
        let result = if self.is_directory(directory) || is_parked(directory) {
            let wanted = |name: &[u8]| match &target.extent {
                Extent::All => true,
                Extent::Names(names) => names.contains(name),
            };
            let entries = self
                .entries
                .iter()
                .filter_map(|(path, entry)| {
                    let (parent, name) = path.split()?;
                    (parent == *directory && wanted(name)).then(|| found(name, entry))
                })
                .collect();
            let print = self.entries.get(directory).map_or(ROOT_PRINT, print);
            Ok(DirectoryListing { print, entries, unreadable: Vec::new() })
        } else {
            Err(ScanError::Gone)
        };
        DirectoryScan { target: target.clone(), result }
    }

    fn hash(&self, task: &HashTask) -> HashResult {
        match self.entries.get(&task.path) {
            Some(entry @ Entry { data: Data::File(bytes), .. }) if print(entry) == task.print => {
                let blocks = blocklist(bytes);
                HashResult::Hashed { content: content(bytes, entry.executable, entry.mtime), blocks }
            }
            _ => HashResult::Changed,
        }
    }

    fn step(&mut self, step: &LocalStep) -> StepResult {
        match step {
            LocalStep::MakeDirectory { path, .. } => {
                self.must_be_free(path)?;
                let entry = self.new_entry(Data::Directory, false, None);
                self.insert(path, entry)
            }
            LocalStep::MakeSymlink { path, target, replace, .. } => {
                self.must_match(path, *replace)?;
                let entry = self.new_entry(Data::Symlink(target.clone()), false, None);
                self.insert(path, entry)
            }
            LocalStep::Install { path, temp, content, replace, .. } => {
                let bytes = match temp {
                    Some(temp) => self.temps.get(temp).cloned().ok_or(StepError::BadTemp)?,
                    None => Vec::new(),
                };
                if blocklist(&bytes).content_hash() != content.hash {
                    return Err(StepError::BadTemp);
                }
                self.must_match(path, *replace)?;
                let entry = self.new_entry(Data::File(bytes), content.executable, Some(content.mtime.0));
                self.insert(path, entry)
            }
            LocalStep::SetAttributes { path, content, expect, .. } => {
                self.must_match(path, Some(*expect))?;
                let now = self.tick();
                let entry = self.entries.get_mut(path).ok_or(StepError::Gone)?;
                entry.executable = content.executable;
                entry.mtime = content.mtime.0;
                entry.ctime = now;
                Ok(Some(print(entry)))
            }
            LocalStep::Move { from, to, expect, .. } => {
                self.must_match(from, Some(*expect))?;
                self.must_be_free(to)?;
                assert!(!to.as_bytes().starts_with(&[from.as_bytes(), b"/"].concat()), "a folder moved into itself");
                self.move_entry(from, to);
                Ok(self.entries.get(to).map(print))
            }
            LocalStep::Remove { path, expect, .. } => {
                self.must_match(path, Some(*expect))?;
                self.entries.remove(path);
                Ok(None)
            }
            LocalStep::RemoveDirectory { path, expect, .. } => {
                self.must_match(path, Some(*expect))?;
                if !self.below(path).is_empty() {
                    return Err(StepError::NotEmpty);
                }
                self.entries.remove(path);
                Ok(None)
            }
        }
    }

    fn insert(&mut self, path: &LocalPath, entry: Entry) -> StepResult {
        let print = print(&entry);
        self.entries.insert(path.clone(), entry);
        Ok(Some(print))
    }

    fn must_be_free(&self, path: &LocalPath) -> Result<(), StepError> {
        if !self.parent_exists(path) {
            return Err(StepError::Gone);
        }
        if self.entries.contains_key(path) { Err(StepError::Occupied) } else { Ok(()) }
    }

    fn must_match(&self, path: &LocalPath, expect: Option<Expect>) -> Result<(), StepError> {
        let Some(expect) = expect else { return self.must_be_free(path) };
        let entry = self.entries.get(path).ok_or(StepError::Gone)?;
        let matches = match expect {
            Expect::Print(expected) => print(entry) == expected,
            Expect::Directory { inode, .. } => entry.data == Data::Directory && entry.inode == inode,
        };
        if matches { Ok(()) } else { Err(StepError::Changed) }
    }
}

const ROOT_PRINT: Fingerprint =
    Fingerprint { device: 1, inode: 0, birth: None, size: 0, mtime: Mtime(0), ctime: 0, executable: false };

fn is_parked(path: &LocalPath) -> bool {
    path.as_bytes() == b".syncline/parked"
}

fn found(name: &[u8], entry: &Entry) -> Found {
    let (kind, target) = match &entry.data {
        Data::Directory => (FileKind::Directory, None),
        Data::File(_) => (FileKind::File, None),
        Data::Symlink(target) => (FileKind::Symlink, Some(target.as_bytes().into())),
    };
    Found { name: name.into(), kind, print: print(entry), target }
}

fn print(entry: &Entry) -> Fingerprint {
    let size = match &entry.data {
        Data::File(bytes) => bytes.len() as u64,
        Data::Directory | Data::Symlink(_) => 0,
    };
    Fingerprint {
        device: 1,
        inode: entry.inode,
        birth: Some(entry.inode.cast_signed()),
        size,
        mtime: Mtime(entry.mtime),
        ctime: entry.ctime,
        executable: entry.executable,
    }
}

pub(crate) fn blocklist(bytes: &[u8]) -> Blocklist {
    let mut hasher = BlockHasher::new();
    hasher.update(bytes);
    hasher.finish().0
}

pub(crate) fn content(bytes: &[u8], executable: bool, mtime: i64) -> FileContent {
    let hash = blocklist(bytes).content_hash();
    FileContent { hash, size: bytes.len() as u64, executable, mtime: Mtime(mtime) }
}

pub(crate) fn block_of(bytes: &[u8]) -> Option<BlockHash> {
    blocklist(bytes).0.first().copied()
}
