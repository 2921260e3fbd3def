//! What is in a folder, and how two folders differ.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Syncline's own directory in a synced folder.
const OWN: &str = ".syncline";
const CHUNK_BYTES: usize = 1024 * 1024;
const OWNER_MAY_EXECUTE: u32 = 0o100;

/// The SHA-256 of a content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// Of a file as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let (mut file, mut hash, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; CHUNK_BYTES]);
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(Self(hash.finalize().into()));
            }
            hash.update(&chunk[..read]);
        }
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// What is at a path.
#[derive(Clone, PartialEq, Eq)]
pub enum Entry {
    Folder,
    File {
        hash: ContentHash,
        size: u64,
        executable: bool,
        /// Seconds and nanoseconds.
        modified: (i64, i64),
    },
    Link(OsString),
    /// A socket, fifo or device.
    Other,
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder => formatter.write_str("a folder"),
            Self::File { hash, size, executable, modified } => {
                let kind = if *executable { "a program" } else { "a file" };
                write!(formatter, "{kind} {hash:?} of {size} bytes from {}.{:09}", modified.0, modified.1)
            }
            Self::Link(target) => write!(formatter, "a link to {}", target.display()),
            Self::Other => formatter.write_str("something else"),
        }
    }
}

/// A folder's content but Syncline's own, by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads a folder in which nothing changes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut tree = Self::default();
        collect(folder, Path::new(""), &mut tree.0)?;
        Ok(tree)
    }

    /// The files' contents, with their paths.
    pub fn contents(&self) -> impl Iterator<Item = (&PathBuf, ContentHash)> {
        self.0.iter().filter_map(|(path, entry)| match entry {
            Entry::File { hash, .. } => Some((path, *hash)),
            Entry::Folder | Entry::Link(_) | Entry::Other => None,
        })
    }

    /// Sentences about what differs; `mine` and `theirs` name the two.
    #[must_use]
    pub fn differences(&self, mine: &str, other: &Self, theirs: &str) -> Vec<String> {
        let only_there = other.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        let only_there = only_there.map(|(path, entry)| format!("{}: only {theirs} has {entry:?}", path.display()));
        let here = self.0.iter().filter_map(|(path, entry)| match other.0.get(path) {
            None => Some(format!("{}: only {mine} has {entry:?}", path.display())),
            Some(found) if found != entry => {
                Some(format!("{}: {mine} has {entry:?}, {theirs} {found:?}", path.display()))
            }
            Some(_) => None,
        });
        here.chain(only_there).collect()
    }

    /// How many there are of each.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in self.0.values() {
            match entry {
                Entry::Folder => counts.folders += 1,
                Entry::File { size, executable, .. } => {
                    counts.files += 1;
                    counts.bytes += size;
                    counts.programs += u64::from(*executable);
                }
                Entry::Link(_) => counts.links += 1,
                Entry::Other => {}
            }
        }
        counts
    }
}

/// How many files and so on a tree has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub files: u64,
    pub programs: u64,
    pub folders: u64,
    pub links: u64,
    pub bytes: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, programs, folders, links, bytes } = self;
        let megabytes = bytes / 1_000_000;
        write!(formatter, "{files} files ({programs} programs, {megabytes} MB), {folders} folders, {links} links")
    }
}

fn collect(folder: &Path, below: &Path, tree: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    let place = folder.join(below);
    for entry in fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))? {
        let entry = entry?;
        if below.as_os_str().is_empty() && entry.file_name() == OWN {
            continue;
        }
        let path = below.join(entry.file_name());
        let found = look(&entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
        if found == Entry::Folder {
            collect(folder, &path, tree)?;
        }
        tree.insert(path, found);
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = metadata.file_type();
    Ok(if kind.is_dir() {
        Entry::Folder
    } else if kind.is_symlink() {
        Entry::Link(fs::read_link(path)?.into_os_string())
    } else if kind.is_file() {
        Entry::File {
            hash: ContentHash::of_file(path)?,
            size: metadata.len(),
            executable: metadata.permissions().mode() & OWNER_MAY_EXECUTE != 0,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    } else {
        Entry::Other
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_difference_is_told() {
        let (a, b) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        for (folder, same) in [(&a, "same"), (&b, "other")] {
            fs::create_dir(folder.path().join(OWN)).expect("made");
            fs::write(folder.path().join("file"), same).expect("written");
        }
        fs::write(a.path().join("mine"), "x").expect("written");
        fs::create_dir(b.path().join("theirs")).expect("made");
        let (a, b) = (Tree::read(a.path()).expect("read"), Tree::read(b.path()).expect("read"));
        let told = a.differences("a", &b, "b");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("file: a has a file"), "{told:?}");
        assert!(told[1].starts_with("mine: only a has a file"), "{told:?}");
        assert_eq!(told[2], "theirs: only b has a folder");
        assert!(a.differences("a", &a, "a").is_empty());
    }
}
