//! The contract suite: what every adapter of [`Fs`] must do, and with which error it must refuse.
//!
//! An adapter's tests call [`check`] with a function that makes empty synced folders. Each rule gets a
//! folder of its own. What an adapter can do that others cannot (permissions, other programs, a full disk)
//! is for its own tests.

use crate::fs::{Fs, FsError, Stat, TEMP_DIRECTORY, own_path, temp_path};
use model::Mtime;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use sync_engine::io::{Extent, FileKind, LocalPath, RootState, TempName};

/// A rule: panics if the folder does not keep it.
type Rule = fn(&dyn Fs);

/// The rules, by name.
const RULES: &[(&str, Rule)] = &[
    ("a linked folder is there and empty", empty_folder),
    ("a temporary file is made once, written anywhere and read to its end", temporary_files),
    ("the folder for temporary files is made again", lost_temporary_folder),
    ("a listing tells every entry, or those asked for", listings),
    ("what cannot be listed says why", listing_errors),
    ("a look at a path tells what is there or that nothing is", looks),
    ("only a file can be opened", opening),
    ("an open file stays the same file", open_files),
    ("a rename moves and never replaces", renames),
    ("a rename that cannot be says why", rename_errors),
    ("an exchange swaps whatever is at two places", exchanges),
    ("an exchange that cannot be says why", exchange_errors),
    ("a folder is made where nothing is", making_folders),
    ("an empty folder is removed, and nothing else by that", removing_folders),
    ("a file or link is removed, and no folder by that", removing_files),
    ("a link is made where nothing is, and never followed", links),
    ("times and permissions are set on the open file", attributes),
    ("what is done side by side is done once for each number", side_by_side),
];

/// Checks every rule. `new_folder` gives the folder and whatever it needs to live on.
///
/// # Panics
/// At the first rule that does not hold, which is printed.
pub fn check<Keep>(new_folder: impl Fn() -> (Arc<dyn Fs>, Keep)) {
    for (rule, check) in RULES {
        let (folder, _keep) = new_folder();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&*folder)));
        assert!(result.is_ok(), "the rule `{rule}` does not hold");
    }
}

fn path(text: &str) -> LocalPath {
    LocalPath::from_bytes(text.as_bytes()).expect("a path")
}

fn temp(name: &str) -> TempName {
    TempName(name.to_owned())
}

/// Makes a file with this text.
fn write(fs: &dyn Fs, at: &str, text: &str) {
    let name = temp("new");
    let file = fs.create_temp(&name).expect("made");
    file.write_at(text.as_bytes(), 0).expect("written");
    drop(file);
    fs.rename_new(&temp_path(&name).expect("a path"), &path(at)).expect("put in place");
}

fn read(fs: &dyn Fs, at: &str) -> String {
    let file = fs.open(&path(at)).expect("opened");
    let mut buffer = [0; 100];
    let len = file.read_at(&mut buffer, 0).expect("read");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

fn stat(fs: &dyn Fs, at: &str) -> Stat {
    fs.stat(&path(at)).expect("looked at").expect("something is there")
}

fn is_gone(fs: &dyn Fs, at: &str) -> bool {
    fs.stat(&path(at)).expect("looked at").is_none()
}

fn names(fs: &dyn Fs, at: &str, extent: &Extent) -> Vec<String> {
    let listing = fs.list(&path(at), extent).expect("listed");
    let mut names: Vec<String> =
        listing.entries.iter().map(|entry| String::from_utf8_lossy(&entry.name).into_owned()).collect();
    names.sort();
    names
}

/// A file `f`, a folder `d` with a file `d/f`, and a link `l` to the folder.
fn with_some(fs: &dyn Fs) {
    write(fs, "f", "file");
    fs.mkdir(&path("d")).expect("made");
    write(fs, "d/f", "inside");
    fs.symlink(b"d", &path("l")).expect("made");
}

fn long_name() -> String {
    "x".repeat(256)
}

fn empty_folder(fs: &dyn Fs) {
    assert_eq!(fs.root_state(), RootState::Present);
    assert_eq!(names(fs, "", &Extent::All), [""; 0], "its own folder is left out");
    assert_eq!(stat(fs, "").kind, FileKind::Directory);
    assert!(fs.now_ns() > 0);
    fs.sync().expect("synced");
}

fn temporary_files(fs: &dyn Fs) {
    let name = temp("a");
    assert_eq!(fs.open_temp(&name).err(), Some(FsError::NotFound));
    let file = fs.create_temp(&name).expect("made");
    assert_eq!(fs.create_temp(&name).err(), Some(FsError::AlreadyExists));
    let made = file.stat().expect("looked at");
    assert_eq!((made.kind, made.print.size, made.print.executable), (FileKind::File, 0, false));
    assert_eq!(made.permissions & 0o600, 0o600);
    file.write_at(b"world", 6).expect("written");
    let mut buffer = [9; 20];
    assert_eq!(file.read_at(&mut buffer, 0), Ok(11));
    assert_eq!(&buffer[..11], b"\0\0\0\0\0\0world", "what was left out reads as zeros");
    assert_eq!(file.read_at(&mut buffer, 11), Ok(0));
    assert_eq!(file.read_at(&mut buffer, 1000), Ok(0));
    file.write_at(b"hello ", 0).expect("written");
    file.set_len(7).expect("cut");
    file.set_len(9).expect("extended");
    file.sync_data().expect("synced");
    drop(file);
    let again = fs.open_temp(&name).expect("opened");
    assert_eq!(again.read_at(&mut buffer, 0), Ok(9));
    assert_eq!(&buffer[..9], b"hello w\0\0");
    for wrong in ["", "..", "a/b"] {
        assert_eq!(fs.create_temp(&temp(wrong)).err(), Some(FsError::NameRefused), "{wrong:?}");
    }
    assert_eq!(fs.create_temp(&TempName(long_name())).err(), Some(FsError::NameRefused));
}

fn lost_temporary_folder(fs: &dyn Fs) {
    fs.rmdir(&own_path(TEMP_DIRECTORY)).expect("it is empty");
    assert_eq!(fs.open_temp(&temp("a")).err(), Some(FsError::NotFound));
    write(fs, "f", "file");
    assert_eq!(read(fs, "f"), "file");
}

fn listings(fs: &dyn Fs) {
    with_some(fs);
    assert_eq!(names(fs, "", &Extent::All), ["d", "f", "l"]);
    assert_eq!(names(fs, "d", &Extent::All), ["f"]);
    let asked =
        |names: &[&str]| Extent::Names(names.iter().map(|name| name.as_bytes().into()).collect::<BTreeSet<_>>());
    assert_eq!(names(fs, "", &asked(&["f", "none", "F", ".", "..", ".syncline"])), ["f"], "in this spelling alone");
    let listing = fs.list(&path(""), &Extent::All).expect("listed");
    assert_eq!(listing.stat, stat(fs, ""));
    for entry in listing.entries {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let (found, target) = entry.found.expect("looked at");
        assert_eq!(found, stat(fs, &name));
        assert_eq!(target.as_deref(), (name == "l").then_some(b"d".as_slice()));
    }
}

fn listing_errors(fs: &dyn Fs) {
    with_some(fs);
    for (at, error) in [
        ("none", FsError::NotFound),
        ("none/d", FsError::NotFound),
        ("f", FsError::NotADirectory),
        ("f/d", FsError::NotADirectory),
        ("l", FsError::NotADirectory),
        ("l/d", FsError::Escapes),
    ] {
        assert_eq!(fs.list(&path(at), &Extent::All).err(), Some(error), "{at}");
    }
}

fn looks(fs: &dyn Fs) {
    with_some(fs);
    let kinds = ["f", "d", "l", "d/f"].map(|at| stat(fs, at).kind);
    assert_eq!(kinds, [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::File]);
    assert_eq!((stat(fs, "f").print.size, stat(fs, "l").print.size), (4, 1));
    for at in ["none", "none/f", "f/f", "l/f"] {
        assert!(is_gone(fs, at), "{at}");
    }
    assert_eq!(fs.stat(&path("l/d/f")), Err(FsError::Escapes));
}

fn opening(fs: &dyn Fs) {
    with_some(fs);
    assert_eq!(read(fs, "d/f"), "inside");
    for (at, error) in [
        ("none", FsError::NotFound),
        ("none/f", FsError::NotFound),
        ("f/f", FsError::NotADirectory),
        ("d", FsError::IsADirectory),
        ("l", FsError::Escapes),
        ("l/f", FsError::NotADirectory),
    ] {
        assert_eq!(fs.open(&path(at)).err(), Some(error), "{at}");
    }
}

fn open_files(fs: &dyn Fs) {
    with_some(fs);
    let file = fs.open(&path("f")).expect("opened");
    let before = file.stat().expect("looked at");
    fs.rename_new(&path("f"), &path("d/moved")).expect("renamed");
    write(fs, "f", "another");
    let mut buffer = [0; 20];
    assert_eq!((file.read_at(&mut buffer, 0), &buffer[..4]), (Ok(4), b"file".as_slice()));
    fs.unlink(&path("d/moved")).expect("removed");
    assert_eq!((file.read_at(&mut buffer, 2), &buffer[..2]), (Ok(2), b"le".as_slice()));
    let after = file.stat().expect("looked at");
    assert_eq!((after.print.inode, after.print.size), (before.print.inode, 4));
}

fn renames(fs: &dyn Fs) {
    with_some(fs);
    for (from, to) in [("f", "d/g"), ("l", "d/m"), ("d", "e")] {
        let before = stat(fs, from);
        fs.rename_new(&path(from), &path(to)).expect("renamed");
        let after = stat(fs, to);
        let same = |stat: &Stat| (stat.kind, stat.print.inode, stat.print.birth, stat.print.size, stat.print.mtime);
        assert_eq!(same(&after), same(&before), "{from}");
        assert!(after.print.ctime >= before.print.ctime && is_gone(fs, from), "{from}");
    }
    assert_eq!((read(fs, "e/g").as_str(), read(fs, "e/f").as_str()), ("file", "inside"));
}

fn rename_errors(fs: &dyn Fs) {
    with_some(fs);
    let long = long_name();
    for (from, to, error) in [
        ("none", "new", FsError::NotFound),
        ("none/f", "new", FsError::NotFound),
        ("f/f", "new", FsError::NotADirectory),
        ("f", "none/f", FsError::NotFound),
        ("f", "f/f", FsError::NotADirectory),
        ("f", "l/f", FsError::NotADirectory),
        ("l/f", "new", FsError::NotADirectory),
        ("f", "d/f", FsError::AlreadyExists),
        ("f", "d", FsError::AlreadyExists),
        ("f", "l", FsError::AlreadyExists),
        ("d", "f", FsError::AlreadyExists),
        ("d", "d/d", FsError::NameRefused),
        ("f", &long, FsError::NameRefused),
    ] {
        assert_eq!(fs.rename_new(&path(from), &path(to)), Err(error), "{from} to {to}");
    }
    assert_eq!((read(fs, "f").as_str(), read(fs, "d/f").as_str()), ("file", "inside"));
    assert_eq!(names(fs, "", &Extent::All), ["d", "f", "l"]);
}

fn exchanges(fs: &dyn Fs) {
    with_some(fs);
    fs.mkdir(&path("e")).expect("made");
    for (a, b) in [("f", "d/f"), ("d", "l"), ("e", "f")] {
        let (at_a, at_b) = (stat(fs, a).print.inode, stat(fs, b).print.inode);
        fs.exchange(&path(a), &path(b)).expect("exchanged");
        assert_eq!((stat(fs, a).print.inode, stat(fs, b).print.inode), (at_b, at_a), "{a} and {b}");
    }
    assert_eq!((read(fs, "e").as_str(), read(fs, "l/f").as_str()), ("inside", "file"));
}

fn exchange_errors(fs: &dyn Fs) {
    with_some(fs);
    for (a, b, error) in [
        ("f", "none", FsError::NotFound),
        ("none", "f", FsError::NotFound),
        ("f", "none/f", FsError::NotFound),
        ("f", "f/f", FsError::NotADirectory),
        ("f", "l/f", FsError::NotADirectory),
        ("d", "d/f", FsError::NameRefused),
        ("d/f", "d", FsError::NameRefused),
    ] {
        assert_eq!(fs.exchange(&path(a), &path(b)), Err(error), "{a} and {b}");
    }
    assert_eq!((read(fs, "f").as_str(), read(fs, "d/f").as_str()), ("file", "inside"));
    assert_eq!(names(fs, "", &Extent::All), ["d", "f", "l"]);
    assert_eq!(names(fs, "d", &Extent::All), ["f"]);
}

/// What stands in the way of something new.
fn in_the_way() -> [(String, FsError); 7] {
    let refused = [
        ("f", FsError::AlreadyExists),
        ("d", FsError::AlreadyExists),
        ("l", FsError::AlreadyExists),
        ("none/new", FsError::NotFound),
        ("f/new", FsError::NotADirectory),
        ("l/new", FsError::NotADirectory),
    ]
    .map(|(at, error)| (at.to_owned(), error));
    let [a, b, c, d, e, f] = refused;
    [a, b, c, d, e, f, (long_name(), FsError::NameRefused)]
}

fn making_folders(fs: &dyn Fs) {
    with_some(fs);
    for (at, error) in in_the_way() {
        assert_eq!(fs.mkdir(&path(&at)), Err(error), "{at}");
    }
    fs.mkdir(&path("d/new")).expect("made");
    assert_eq!(stat(fs, "d/new").kind, FileKind::Directory);
    assert_eq!(stat(fs, "d/new").permissions & 0o700, 0o700);
    assert_eq!(names(fs, "d/new", &Extent::All), [""; 0]);
}

fn removing_folders(fs: &dyn Fs) {
    with_some(fs);
    for (at, error) in [
        ("none", FsError::NotFound),
        ("none/d", FsError::NotFound),
        ("f", FsError::NotADirectory),
        ("l", FsError::NotADirectory),
        ("l/d", FsError::NotADirectory),
        ("d", FsError::NotEmpty),
    ] {
        assert_eq!(fs.rmdir(&path(at)), Err(error), "{at}");
    }
    fs.unlink(&path("d/f")).expect("removed");
    fs.rmdir(&path("d")).expect("removed");
    assert!(is_gone(fs, "d"));
}

fn removing_files(fs: &dyn Fs) {
    with_some(fs);
    for (at, error) in [
        ("none", FsError::NotFound),
        ("none/f", FsError::NotFound),
        ("f/f", FsError::NotADirectory),
        ("l/f", FsError::NotADirectory),
        ("d", FsError::IsADirectory),
    ] {
        assert_eq!(fs.unlink(&path(at)), Err(error), "{at}");
    }
    fs.unlink(&path("l")).expect("removed");
    assert_eq!(read(fs, "d/f"), "inside", "what a link leads to stays");
    fs.unlink(&path("f")).expect("removed");
    assert_eq!(names(fs, "", &Extent::All), ["d"]);
}

fn links(fs: &dyn Fs) {
    with_some(fs);
    for (at, error) in in_the_way() {
        assert_eq!(fs.symlink(b"target", &path(&at)), Err(error), "{at}");
    }
    fs.symlink(b"../\xff/none", &path("d/new")).expect("made");
    let listing = fs.list(&path("d"), &Extent::Names([b"new".as_slice().into()].into())).expect("listed");
    let (found, target) = listing.entries[0].found.clone().expect("looked at");
    assert_eq!((found.kind, target.as_deref()), (FileKind::Symlink, Some(b"../\xff/none".as_slice())));
    assert_eq!(fs.open(&path("d/new")).err(), Some(FsError::Escapes));
}

fn attributes(fs: &dyn Fs) {
    // A time that every file system can hold.
    let time = Mtime::from_parts(1_000_000_000, 0);
    let file = fs.create_temp(&temp("a")).expect("made");
    file.write_at(b"bytes", 0).expect("written");
    let before = file.stat().expect("looked at").print;
    file.set_permissions(0o755).expect("set");
    file.set_mtime(time).expect("set");
    let after = file.stat().expect("looked at");
    assert_eq!((after.permissions, after.print.executable, after.print.mtime), (0o755, true, time));
    assert_eq!((after.print.inode, after.print.size), (before.inode, before.size));
    assert!(after.print.ctime >= before.ctime);
    file.set_permissions(0o644).expect("set");
    assert!(!file.stat().expect("looked at").print.executable);
}

fn side_by_side(fs: &dyn Fs) {
    for count in [0, 1, 15, 16, 17, 128, 1000] {
        let calls: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        fs.side_by_side(count, &|number| {
            calls[number].fetch_add(1, Ordering::Relaxed);
        });
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1), "{count}: {calls:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, RootId};

    fn linked() -> (Disk, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        (Disk::create_root(&root, RootId([7; 16])).unwrap(), directory)
    }

    #[test]
    fn a_folder_on_a_real_disk_keeps_the_contract() {
        check(|| {
            let (disk, directory) = linked();
            (Arc::new(disk), directory)
        });
    }

    #[test]
    fn a_folder_on_a_real_disk_that_is_held_keeps_the_contract() {
        check(|| {
            let (disk, directory) = linked();
            (disk.held().expect("the folder is there"), directory)
        });
    }
}
