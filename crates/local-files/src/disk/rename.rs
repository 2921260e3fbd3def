//! Renames that never replace, and exchanges; also where the file system has neither.

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, RenameFlags, linkat, renameat, renameat_with, unlinkat};
use rustix::io::{self, Errno};

use super::file::stat_entry;

/// An entry of an open directory.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
}

impl Entry<'_> {
    fn exists(&self) -> io::Result<bool> {
        match stat_entry(self.directory, self.name) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// Renames; fails with `EXIST` when something is at `to`.
pub(super) fn rename_new(from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
    match renameat_with(from.directory, from.name, to.directory, to.name, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => rename_new_by_link(from, to),
        result => result,
    }
}

/// For file systems without `RENAME_NOREPLACE` (NFS, some FUSE): a hard link never replaces. A crash
/// before the old name is gone leaves the file under both names. Where there are no hard links, and for
/// directories, nothing atomic is left: a look, then a plain rename.
fn rename_new_by_link(from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
    match linkat(from.directory, from.name, to.directory, to.name, AtFlags::empty()) {
        Ok(()) => unlinkat(from.directory, from.name, AtFlags::empty()),
        Err(errno) if has_no_links(errno) => rename_new_after_look(from, to),
        Err(errno) => Err(errno),
    }
}

fn rename_new_after_look(from: Entry<'_>, to: Entry<'_>) -> io::Result<()> {
    if to.exists()? {
        return Err(Errno::EXIST);
    }
    renameat(from.directory, from.name, to.directory, to.name)
}

/// Swaps two entries.
pub(super) fn exchange(a: Entry<'_>, b: Entry<'_>) -> io::Result<()> {
    match renameat_with(a.directory, a.name, b.directory, b.name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS) => exchange_by_link(a, b),
        result => result,
    }
}

/// For file systems without `RENAME_EXCHANGE`: what is at `b` gets a second name beside `a`, then `a`
/// replaces it atomically. What another program puts at `b` in between is lost; that moment is the
/// price of such a file system. Without hard links `b` is moved out of the way first, and for a moment
/// nothing is there. After a crash the second name tells what it holds, like `a`'s own.
fn exchange_by_link(a: Entry<'_>, b: Entry<'_>) -> io::Result<()> {
    let name = [a.name, b"-held"].concat();
    let held = Entry { directory: a.directory, name: &name };
    match linkat(b.directory, b.name, held.directory, held.name, AtFlags::empty()) {
        Ok(()) => renameat(a.directory, a.name, b.directory, b.name).inspect_err(|_| drop_link(held))?,
        Err(errno) if has_no_links(errno) => exchange_by_moves(a, b, held)?,
        Err(errno) => return Err(errno),
    }
    renameat(held.directory, held.name, a.directory, a.name)
}

fn exchange_by_moves(a: Entry<'_>, b: Entry<'_>, held: Entry<'_>) -> io::Result<()> {
    rename_new_after_look(b, held)?;
    rename_new_after_look(a, b).inspect_err(|_| {
        if let Err(errno) = rename_new_after_look(held, b) {
            tracing::warn!(%errno, "a file stays in the temporary folder for now");
        }
    })
}

fn drop_link(held: Entry<'_>) {
    if let Err(errno) = unlinkat(held.directory, held.name, AtFlags::empty()) {
        tracing::debug!(%errno, "a second name of a file stays for now");
    }
}

/// What the kernel says of hard links to directories, and of file systems without hard links.
fn has_no_links(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::{AsFd, OwnedFd};
    use rustix::fs::{Mode, OFlags, openat};
    use std::fs;
    use tempfile::TempDir;

    fn directory() -> (TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = openat(rustix::fs::CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::write(dir.path().join("a"), "A").unwrap();
        fs::write(dir.path().join("b"), "B").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        (dir, fd)
    }

    fn read(dir: &TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn no_way_of_renaming_replaces_anything() {
        for rename in [rename_new, rename_new_by_link, rename_new_after_look] {
            let (dir, fd) = directory();
            let entry = |name: &'static str| Entry { directory: fd.as_fd(), name: name.as_bytes() };
            assert_eq!(rename(entry("a"), entry("b")), Err(Errno::EXIST));
            assert_eq!(rename(entry("d"), entry("b")), Err(Errno::EXIST));
            rename(entry("a"), entry("c")).unwrap();
            rename(entry("d"), entry("e")).unwrap();
            assert_eq!((read(&dir, "b"), read(&dir, "c")), ("B".into(), "A".into()));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "one name each");
        }
    }

    fn by_moves(a: Entry<'_>, b: Entry<'_>) -> io::Result<()> {
        let held = Entry { directory: a.directory, name: b"held" };
        exchange_by_moves(a, b, held)?;
        rename_new_after_look(held, a)
    }

    #[test]
    fn all_ways_of_exchanging_swap_and_leave_no_third_name() {
        for exchange in [exchange, exchange_by_link, by_moves] {
            let (dir, fd) = directory();
            let (a, b) = (Entry { directory: fd.as_fd(), name: b"a" }, Entry { directory: fd.as_fd(), name: b"b" });
            exchange(a, b).unwrap();
            assert_eq!((read(&dir, "a"), read(&dir, "b")), ("B".into(), "A".into()));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        }
    }
}
