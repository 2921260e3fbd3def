//! What a user's programs do to the disk.

use super::{Author, Body, Disk, Entry, Ino};
use local_files::fs::FsError;
use model::{ContentHash, Mtime, Name, NameKey};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync_engine::io::{FileKind, Hint, LocalPath};

/// A file that a user's program has open for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(Ino);

impl Disk {
    /// Opens the file (or makes it), empties it, writes all bytes and closes it.
    ///
    /// # Errors
    /// [`FsError`], as a program would get it.
    pub fn write(&mut self, path: &LocalPath, bytes: Vec<u8>) -> Result<(), FsError> {
        let handle = self.open_for_writing(path)?;
        self.put_bytes(handle.0, bytes)?;
        self.close(handle);
        Ok(())
    }

    /// Opens the file, or makes an empty one, and keeps it open.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn open_for_writing(&mut self, path: &LocalPath) -> Result<Handle, FsError> {
        let ino = match self.resolve(path) {
            Ok(ino) => ino,
            Err(FsError::NotFound) => self.make(path, Body::File(Arc::default()), 0o644, Author::User)?,
            Err(error) => return Err(error),
        };
        match &self.get(ino)?.body {
            Body::File(_) => {}
            Body::Directory(_) => return Err(FsError::IsADirectory),
            Body::Symlink(_) => return Err(FsError::Escapes),
        }
        *self.open.entry(ino).or_default() += 1;
        Ok(Handle(ino))
    }

    /// Replaces what an open file holds.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn write_through(&mut self, handle: Handle, bytes: Vec<u8>) -> Result<(), FsError> {
        self.put_bytes(handle.0, bytes)
    }

    /// What an open file holds.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read_through(&self, handle: Handle) -> Result<Arc<Vec<u8>>, FsError> {
        match &self.get(handle.0)?.body {
            Body::File(bytes) => Ok(bytes.clone()),
            Body::Directory(_) | Body::Symlink(_) => Err(FsError::NotFound),
        }
    }

    /// The content of an open file, and where it is now, if it still has a name.
    pub fn look_through(&mut self, handle: Handle) -> (Option<ContentHash>, Option<LocalPath>) {
        (self.content_of(handle.0), self.path_of(handle.0))
    }

    /// Closes a file.
    pub fn close(&mut self, handle: Handle) {
        if let Some(path) = self.path_of(handle.0) {
            self.saw(&path, |directory, name| Hint::Closed { directory, name });
        }
        self.release(handle.0);
    }

    pub(super) fn release(&mut self, ino: Ino) {
        let Some(count) = self.open.get_mut(&ino) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&ino);
            if self.path_of(ino).is_none() {
                self.inodes.remove(&ino);
            }
        }
    }

    fn put_bytes(&mut self, ino: Ino, bytes: Vec<u8>) -> Result<(), FsError> {
        let (now, version) = (self.tick(), self.next_version());
        let inode = self.get_mut(ino)?;
        inode.body = Body::File(Arc::new(bytes));
        inode.emptied = false;
        (inode.mtime, inode.ctime, inode.version, inode.author) = (now, now, version, Author::User);
        if let Some(path) = self.path_of(ino) {
            self.saw(&path, |directory, name| Hint::Writing { directory, name });
        }
        self.remember();
        Ok(())
    }

    /// The bytes of the file at the path.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read(&self, path: &LocalPath) -> Result<Arc<Vec<u8>>, FsError> {
        match &self.get(self.resolve(path)?)?.body {
            Body::File(bytes) => Ok(bytes.clone()),
            Body::Directory(_) => Err(FsError::IsADirectory),
            Body::Symlink(_) => Err(FsError::Escapes),
        }
    }

    /// What kind of thing is at the path.
    #[must_use]
    pub fn kind(&self, path: &LocalPath) -> Option<FileKind> {
        let ino = self.resolve(path).ok()?;
        self.stat_of(ino).ok().map(|stat| stat.kind)
    }

    /// The contents of all files at and below the path.
    pub fn contents_below(&mut self, path: &LocalPath) -> Vec<ContentHash> {
        let top = self.resolve(path).ok();
        self.contents_in(top.into_iter().collect())
    }

    /// The same, of all that the path could mean to the server, for which some names count as the same.
    pub fn contents_meant(&mut self, path: &LocalPath) -> Vec<ContentHash> {
        let mut tops: Vec<Ino> = self.resolve(&LocalPath::root()).into_iter().collect();
        for name in path.components() {
            let below = tops.iter().filter_map(|ino| self.entries(*ino).ok()).flat_map(BTreeMap::values);
            tops = below.filter(|entry| server_key(&entry.name) == server_key(name)).map(|entry| entry.ino).collect();
        }
        self.contents_in(tops)
    }

    fn contents_in(&mut self, tops: Vec<Ino>) -> Vec<ContentHash> {
        let mut pending = tops;
        let mut contents = Vec::new();
        while let Some(ino) = pending.pop() {
            contents.extend(self.content_of(ino));
            if let Ok(entries) = self.entries(ino) {
                pending.extend(entries.values().map(|entry| entry.ino));
            }
        }
        contents
    }

    /// POSIX `rename`: replaces a file at the new place, and an empty folder by a folder.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn rename(&mut self, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        let moved = self.resolve(from)?;
        let (to_parent, _) = self.parent(to)?;
        if self.is_below(to_parent, moved) {
            return Err(FsError::Other { what: "rename", path: to.clone(), errno: 22 });
        }
        match self.resolve(to) {
            Ok(there) if there == moved => {}
            Ok(there) => self.make_way(moved, there, to)?,
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
        self.move_entry(from, to)
    }

    fn make_way(&mut self, moved: Ino, there: Ino, to: &LocalPath) -> Result<(), FsError> {
        let is_directory = |disk: &Self, ino| disk.entries(ino).is_ok();
        match (is_directory(self, moved), is_directory(self, there)) {
            (true, false) => return Err(FsError::NotADirectory),
            (false, true) => return Err(FsError::IsADirectory),
            (true, true) if !self.entries(there)?.is_empty() => return Err(FsError::NotEmpty),
            (true, true) | (false, false) => {}
        }
        self.remove_entry(to)
    }

    /// Whether another entry of the same folder has a name that counts as the same for the server, or of
    /// the folder around a folder above.
    #[must_use]
    pub fn has_rival(&self, path: &LocalPath) -> bool {
        std::iter::successors(Some(path.clone()), |path| path.split().map(|(parent, _)| parent))
            .any(|path| self.shares_its_name(&path))
    }

    fn shares_its_name(&self, path: &LocalPath) -> bool {
        let Some((parent, name)) = path.split() else { return false };
        let Ok(entries) = self.resolve(&parent).and_then(|ino| self.entries(ino)) else { return false };
        entries.values().filter(|entry| server_key(&entry.name) == server_key(name)).count() > 1
    }

    /// Other entries of the path's folder whose name counts as the same for the server.
    #[must_use]
    pub fn rivals(&self, path: &LocalPath) -> Vec<LocalPath> {
        let Some((parent, name)) = path.split() else { return Vec::new() };
        let Ok(entries) = self.resolve(&parent).and_then(|ino| self.entries(ino)) else { return Vec::new() };
        let is_same = |entry: &Entry| self.key(&entry.name) == self.key(name);
        let other = |entry: &&Entry| !is_same(entry) && server_key(&entry.name) == server_key(name);
        entries.values().filter(other).map(|entry| parent.join(&entry.name)).collect()
    }

    /// The contents below these.
    pub fn contents_of_rivals(&mut self, path: &LocalPath) -> Vec<ContentHash> {
        self.rivals(path).iter().flat_map(|rival| self.contents_below(rival)).collect()
    }

    /// Removes whatever is at the path, with all it holds.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn remove_all(&mut self, path: &LocalPath) -> Result<(), FsError> {
        let ino = self.resolve(path)?;
        if let Ok(entries) = self.entries(ino) {
            let names: Vec<Box<[u8]>> = entries.values().map(|entry| entry.name.clone()).collect();
            for name in names {
                self.remove_all(&path.join(&name))?;
            }
        }
        self.remove_entry(path)
    }

    /// Makes a folder.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn make_directory(&mut self, path: &LocalPath) -> Result<(), FsError> {
        self.make(path, Body::Directory(BTreeMap::new()), 0o755, Author::User).map(drop)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn make_symlink(&mut self, path: &LocalPath, target: &[u8]) -> Result<(), FsError> {
        self.make(path, Body::Symlink(target.into()), 0o777, Author::User).map(drop)
    }

    /// Sets or clears the execute bits of a file.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn set_executable(&mut self, path: &LocalPath, executable: bool) -> Result<(), FsError> {
        let (ino, now) = (self.resolve(path)?, self.tick());
        let inode = self.get_mut(ino)?;
        inode.permissions = if executable { 0o755 } else { 0o644 };
        inode.ctime = now;
        self.saw_entry(path);
        self.remember();
        Ok(())
    }

    /// Sets a file's modification time.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn touch(&mut self, path: &LocalPath, mtime: Mtime) -> Result<(), FsError> {
        let (ino, now) = (self.resolve(path)?, self.tick());
        let mtime = self.grained(mtime.0);
        let inode = self.get_mut(ino)?;
        (inode.mtime, inode.ctime) = (mtime, now);
        // Now it looks like one that was changed later.
        inode.emptied = false;
        self.saw_entry(path);
        self.remember();
        Ok(())
    }
}

/// What the server compares names by.
fn server_key(name: &[u8]) -> Option<NameKey> {
    Name::parse_bytes(name).ok().map(|name| name.key())
}
