//! The store's directory: its files, its lock and whose it is.

use crate::StoreError;
use model::InstanceId;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The first line of the instance file.
const FORMAT_LINE: &str = "syncline block store 1";

/// The permission bits of everybody else.
const OTHERS: u32 = 0o007;

/// The paths of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the directories where they are missing. What is in them is everybody's files: nobody but their owner gets at
    /// it, and whom the owner has let in by group.
    pub(super) fn prepare(root: &Path) -> Result<Self, StoreError> {
        let layout = Self { root: root.to_owned() };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(layout.packs());
        made.map_err(StoreError::io("create", &layout.packs()))?;
        let permissions = fs::metadata(root).map_err(StoreError::io("look at", root))?.permissions();
        if permissions.mode() & OTHERS != 0 {
            let closed = Permissions::from_mode(permissions.mode() & 0o7777 & !OTHERS);
            if let Err(error) = fs::set_permissions(root, closed) {
                tracing::warn!(%error, path = %root.display(), "the blocks cannot be closed to other users of this machine");
            }
        }
        sync_directory(root)?;
        Ok(layout)
    }

    /// Those of a store that is there; makes nothing.
    pub(super) fn existing(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub(super) fn pack(&self, number: u32) -> PathBuf {
        self.packs().join(format!("{number:08}.pack"))
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.sqlite")
    }

    /// The packs' numbers, rising. Files of other names are none of ours.
    pub(super) fn pack_numbers(&self) -> Result<Vec<u32>, StoreError> {
        let packs = self.packs();
        let failed = StoreError::io("list", &packs);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&packs).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".pack"));
            numbers.extend(digits.and_then(|digits| digits.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Takes the store for this process; given back when the file is closed, however the process ends.
    pub(super) fn lock(&self) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { path: self.root.clone() }),
            Err(other) => Err(StoreError::io("lock", &path)(other.into())),
        }
    }

    /// Checks that the store belongs to this server; a new store is given to it. A store that has packs
    /// but does not say whose they are is refused, since two servers must never share one.
    pub(super) fn claim(&self, instance: InstanceId) -> Result<(), StoreError> {
        let path = self.root.join("instance");
        match fs::read_to_string(&path) {
            Ok(text) => self.check_instance(&path, &text, instance),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.pack_numbers()?.is_empty() => {
                self.write_durably(&path, format!("{FORMAT_LINE}\n{instance}\n").as_bytes())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::UnknownInstance { path }),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Checks that a store that is there belongs to this server.
    pub(super) fn check_owner(&self, instance: InstanceId) -> Result<(), StoreError> {
        let path = self.root.join("instance");
        let text = fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
        self.check_instance(&path, &text, instance)
    }

    fn check_instance(&self, path: &Path, text: &str, expected: InstanceId) -> Result<(), StoreError> {
        let unknown = || StoreError::UnknownInstance { path: path.to_owned() };
        let (format, rest) = text.split_once('\n').ok_or_else(unknown)?;
        if format != FORMAT_LINE {
            let number = format.rsplit(' ').next().and_then(|number| number.parse().ok());
            return Err(number.map_or_else(unknown, |found| StoreError::UnknownFormat { path: path.to_owned(), found }));
        }
        let found = rest.trim().parse().map_err(|_| unknown())?;
        if found == expected {
            return Ok(());
        }
        Err(StoreError::OtherInstance { path: self.root.clone(), found, expected })
    }

    /// The file is there whole or not at all, whenever the machine stops.
    fn write_durably(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = path.with_extension("new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(StoreError::io("write", path))?;
        sync_directory(&self.root)
    }
}

/// Makes the directory's entries durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io("sync", path))
}
