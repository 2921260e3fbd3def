//! Users: performs their operations on a disk and keeps the ghost state along.

use crate::disk::{Disk, Handle, content_hash};
use crate::ghost::Ghost;
use crate::history::{Content, UserOp};
use local_files::fs::FsError;
use model::{ContentHash, Mtime};
use std::collections::BTreeMap;
use sync_engine::io::{FileKind, LocalPath};

/// What all users of a history share.
#[derive(Debug, Default)]
pub struct Users {
    pub ghost: Ghost,
    /// The files that programs have open, by device.
    slow: BTreeMap<usize, Handle>,
    /// The folder at the top that is shared, if there is one.
    pub shared_folder: Option<LocalPath>,
    /// Devices whose account may only look at the shared folder.
    pub viewers: Vec<usize>,
}

/// A path of the history as the disk takes it.
///
/// # Errors
/// [`FsError::NameRefused`] for what is no path below the root.
pub fn local_path(text: &str) -> Result<LocalPath, FsError> {
    LocalPath::from_bytes(text.as_bytes()).filter(|path| !path.is_root()).ok_or(FsError::NameRefused)
}

impl Users {
    /// Users who have done nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self { ghost: Ghost::new(), ..Self::default() }
    }

    /// Does one operation on a device's disk. It may fail as it would for a program; then nothing
    /// happened.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn act(&mut self, device: usize, disk: &mut Disk, op: &UserOp) -> Result<(), FsError> {
        match op {
            UserOp::Write { path, content } => self.write(device, disk, &local_path(path)?, content.bytes()),
            UserOp::SaveAtomically { path, content } => self.save(device, disk, &local_path(path)?, content),
            UserOp::BeginSlowWrite { path, content } => self.begin(device, disk, &local_path(path)?, content),
            UserOp::ContinueSlowWrite { content } => self.go_on(device, disk, content),
            UserOp::EndSlowWrite => {
                self.end(device, disk);
                Ok(())
            }
            UserOp::Append { path, content } => {
                let path = local_path(path)?;
                let mut bytes = disk.read(&path)?.to_vec();
                bytes.extend(content.bytes());
                self.write(device, disk, &path, bytes)
            }
            UserOp::Prepend { path, content } => {
                let path = local_path(path)?;
                let bytes = [content.bytes(), disk.read(&path)?.to_vec()].concat();
                self.write(device, disk, &path, bytes)
            }
            UserOp::Truncate { path, len } => {
                let path = local_path(path)?;
                let mut bytes = disk.read(&path)?.to_vec();
                bytes.truncate(usize::try_from(*len).unwrap_or(usize::MAX));
                self.write(device, disk, &path, bytes)
            }
            UserOp::Copy { from, to } => self.copy(device, disk, &local_path(from)?, &local_path(to)?),
            UserOp::Delete { path } => self.delete(device, disk, &local_path(path)?),
            UserOp::DeleteTree { path } => self.delete_tree(device, disk, &local_path(path)?),
            UserOp::Rename { from, to } => self.rename(device, disk, &local_path(from)?, &local_path(to)?),
            UserOp::MakeDirectory { path } => {
                let path = local_path(path)?;
                disk.make_directory(&path)?;
                self.note_rivals(device, disk, &path);
                Ok(())
            }
            UserOp::Symlink { path, target } => {
                let path = local_path(path)?;
                disk.make_symlink(&path, target.as_bytes())?;
                self.note_rivals(device, disk, &path);
                Ok(())
            }
            UserOp::SetExecutable { path, executable } => {
                let path = file(disk, path)?;
                if let Some(content) = disk.content_at(&path) {
                    self.ghost.touched(device, content);
                }
                disk.set_executable(&path, *executable)
            }
            UserOp::Touch { path, mtime_s } => {
                let path = file(disk, path)?;
                disk.touch(&path, Mtime::from_parts(*mtime_s, 0))?;
                if let Some(content) = disk.content_at(&path).filter(|_| !disk.habits.births) {
                    self.ghost.retimed(device, content);
                }
                Ok(())
            }
        }
    }

    /// Whether what this device does at the path concerns nobody else: a viewer's changes stay with it,
    /// and what it changed comes back.
    fn is_private(&self, device: usize, path: &LocalPath) -> bool {
        self.viewers.contains(&device) && self.is_shared(path)
    }

    fn is_shared(&self, path: &LocalPath) -> bool {
        let first = |path: &LocalPath| path.components().next().map(<[u8]>::to_vec);
        self.shared_folder.as_ref().is_some_and(|shared| first(shared) == first(path))
    }

    fn write(&mut self, device: usize, disk: &mut Disk, path: &LocalPath, bytes: Vec<u8>) -> Result<(), FsError> {
        let old = disk.content_at(path);
        disk.write(path, bytes.clone())?;
        self.note_remade(device, disk, old, &bytes);
        self.filled(device, disk, path);
        self.note_written(device, path, old, &bytes);
        Ok(())
    }

    fn note_remade(&mut self, device: usize, disk: &Disk, old: Option<ContentHash>, bytes: &[u8]) {
        let unseen = old.is_some_and(|old| self.ghost.is_remade(device, old));
        if !disk.habits.births || unseen {
            self.ghost.remade(device, old, content_hash(bytes));
        }
        if !disk.habits.births && old == Some(content_hash(bytes)) {
            // The same bytes, written again, give the file another time.
            self.ghost.retimed(device, content_hash(bytes));
        }
    }

    /// The user put a new file at a path.
    fn filled(&mut self, device: usize, disk: &mut Disk, path: &LocalPath) {
        self.ghost.filled(device, path, disk.content_at(path));
        self.note_rivals(device, disk, path);
    }

    /// The user, or the client, put something at a path. Of two entries whose names count as the same, one is synced and the
    /// other stays on the device. If a file was moved to the one and nobody looked since, it need not be the
    /// one that is synced: then its move looks like a deletion, and it is new when the names differ again.
    pub fn note_rivals(&mut self, device: usize, disk: &mut Disk, path: &LocalPath) {
        let contents = disk.contents_of_rivals(path);
        self.ghost.overlooked(device, &contents);
    }

    fn note_written(&mut self, device: usize, path: &LocalPath, old: Option<ContentHash>, bytes: &[u8]) {
        if self.is_private(device, path) {
            self.ghost.wrote(device, None, bytes);
            self.ghost.release(content_hash(bytes));
        } else {
            self.ghost.wrote(device, old, bytes);
        }
    }

    fn save(&mut self, device: usize, disk: &mut Disk, path: &LocalPath, content: &Content) -> Result<(), FsError> {
        let old = disk.content_at(path);
        if disk.kind(path).is_some_and(|kind| kind != FileKind::File) {
            return Err(FsError::IsADirectory);
        }
        let temp = LocalPath::from_bytes(&[path.as_bytes(), b"~"].concat()).ok_or(FsError::NameRefused)?;
        if disk.kind(&temp).is_some() {
            return Err(FsError::AlreadyExists);
        }
        let bytes = content.bytes();
        disk.write(&temp, bytes.clone())?;
        disk.rename(&temp, path)?;
        self.ghost.remade(device, old, content_hash(&bytes));
        self.filled(device, disk, path);
        self.note_written(device, path, old, &bytes);
        Ok(())
    }

    fn begin(&mut self, device: usize, disk: &mut Disk, path: &LocalPath, content: &Content) -> Result<(), FsError> {
        if self.slow.contains_key(&device) || self.is_shared(path) {
            return Err(FsError::Permission);
        }
        let old = disk.content_at(path);
        let handle = disk.open_for_writing(path)?;
        let bytes = content.bytes();
        disk.write_through(handle, bytes.clone())?;
        self.note_remade(device, disk, old, &bytes);
        self.filled(device, disk, path);
        self.ghost.wrote_halfway(device, old, &bytes);
        self.slow.insert(device, handle);
        Ok(())
    }

    fn go_on(&mut self, device: usize, disk: &mut Disk, content: &Content) -> Result<(), FsError> {
        let Some(handle) = self.slow.get(&device).copied() else { return Err(FsError::NotFound) };
        let (old, name) = disk.look_through(handle);
        let mut bytes = disk.read_through(handle)?.to_vec();
        bytes.extend(content.bytes());
        disk.write_through(handle, bytes.clone())?;
        self.note_remade(device, disk, old, &bytes);
        let visible = is_visible(name.as_ref());
        self.ghost.wrote_halfway(device, old.filter(|_| visible || is_parked(name.as_ref())), &bytes);
        if !visible {
            self.ghost.wrote_aside(&bytes);
        }
        if name.is_some_and(|name| self.is_private(device, &name)) {
            self.ghost.release(content_hash(&bytes));
        }
        Ok(())
    }

    /// Closes the file that a program has open, if it has one.
    pub fn end(&mut self, device: usize, disk: &mut Disk) {
        let Some(handle) = self.slow.remove(&device) else { return };
        let (content, name) = disk.look_through(handle);
        disk.close(handle);
        if let Some(content) = content {
            // Written into a file that another device's change had just removed or replaced: POSIX gives
            // nobody a way to notice.
            self.ghost.finished(content, is_visible(name.as_ref()));
        }
    }

    /// The programs of a device are gone, and their files with them.
    pub fn lose_programs(&mut self, device: usize) {
        self.slow.remove(&device);
    }

    fn copy(&mut self, device: usize, disk: &mut Disk, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        let bytes = disk.read(from)?;
        let old = disk.content_at(to);
        disk.write(to, bytes.to_vec())?;
        self.note_remade(device, disk, old, &bytes);
        self.filled(device, disk, to);
        let content = content_hash(&bytes);
        self.ghost.copied(device, old.filter(|_| !self.is_private(device, to)), content);
        Ok(())
    }

    fn delete(&mut self, device: usize, disk: &mut Disk, path: &LocalPath) -> Result<(), FsError> {
        match disk.kind(path) {
            Some(FileKind::Directory) => return Err(FsError::IsADirectory),
            None => return Err(FsError::NotFound),
            Some(FileKind::File | FileKind::Symlink | FileKind::Other) => {}
        }
        self.delete_tree(device, disk, path)
    }

    fn delete_tree(&mut self, device: usize, disk: &mut Disk, path: &LocalPath) -> Result<(), FsError> {
        let contents = disk.contents_below(path);
        disk.remove_all(path)?;
        if !self.is_private(device, path) {
            self.ghost.deleted(device, &contents);
        }
        Ok(())
    }

    fn rename(&mut self, device: usize, disk: &mut Disk, from: &LocalPath, to: &LocalPath) -> Result<(), FsError> {
        let (moved, replaced) = (disk.contents_below(from), disk.contents_below(to));
        let folder = disk.kind(from) == Some(FileKind::Directory);
        let all = disk.contents_below(&LocalPath::root()).len();
        disk.rename(from, to)?;
        if disk.contents_below(&LocalPath::root()).len() < all {
            // A file that replaces one of the same content: two were equal, one is left. It counts as the one
            // that moved, into which somebody else may have written, or which they have deleted.
            moved.iter().filter(|content| replaced.contains(content)).for_each(|content| self.ghost.release(*content));
        }
        if disk.has_rival(to) {
            // Beside a name that counts as the same it stays on this device, and is deleted elsewhere;
            // when the names no longer collide it is a new file.
            moved.iter().for_each(|content| self.ghost.release(*content));
        }
        let mut replaced = replaced;
        replaced.retain(|content| !moved.contains(content));
        if !self.is_private(device, to) {
            self.ghost.deleted(device, &replaced);
        }
        self.ghost.moved(device, &moved);
        self.filled(device, disk, to);
        self.ghost.left(device, from, &moved);
        for rival in disk.rivals(from) {
            // As if that had been put there after the file had left.
            self.ghost.filled(device, from, disk.content_at(&rival));
        }
        if self.is_shared(from) != self.is_shared(to) || self.is_private(device, from) {
            // From one namespace to another a move is a copy and a deletion.
            moved.iter().for_each(|content| self.ghost.release(*content));
        }
        if folder {
            *self.ghost.met.entry("folder moved").or_default() += 1;
        }
        Ok(())
    }
}

fn is_visible(path: Option<&LocalPath>) -> bool {
    path.is_some_and(|path| !path.as_bytes().starts_with(local_files::fs::OWN_DIRECTORY.as_bytes()))
}

/// Whether the file is between two places of one move.
fn is_parked(path: Option<&LocalPath>) -> bool {
    path.is_some_and(|path| path.as_bytes().starts_with(local_files::fs::PARKED_DIRECTORY.as_bytes()))
}

fn file(disk: &Disk, path: &str) -> Result<LocalPath, FsError> {
    let path = local_path(path)?;
    if disk.kind(&path) == Some(FileKind::File) { Ok(path) } else { Err(FsError::NotFound) }
}
