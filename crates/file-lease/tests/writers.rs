//! Leases beside programs that write.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use file_lease::{InUse, Lease};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use tempfile::TempDir;
use write_back::mapping::Mapping;

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "bytes").unwrap();
    (folder, path)
}

fn take(path: &PathBuf) -> Result<Option<Lease>, InUse> {
    Lease::take(OwnedFd::from(File::open(path).unwrap()))
}

#[test]
fn who_has_a_file_open_for_writing_is_seen_and_readers_are_not() {
    let (_folder, path) = file();
    assert!(take(&path).unwrap().is_some(), "temporary files must lie on ext4, XFS, btrfs or tmpfs");
    let reader = File::open(&path).unwrap();
    assert!(take(&path).unwrap().unwrap().is_undisturbed());
    for options in [OpenOptions::new().append(true), OpenOptions::new().read(true).write(true)] {
        let writer = options.open(&path).unwrap();
        assert_eq!(take(&path).unwrap_err(), InUse);
        drop(writer);
        assert!(take(&path).unwrap().unwrap().is_undisturbed(), "it has gone");
    }
    drop(reader);
}

#[test]
fn who_has_mapped_a_file_and_closed_it_is_seen() {
    let (_folder, path) = file();
    let opened = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mapping = Mapping::of(&opened, 5).unwrap();
    drop(opened);
    assert_eq!(take(&path).unwrap_err(), InUse);
    drop(mapping);
    assert!(take(&path).unwrap().is_some());
}

#[test]
fn who_wants_to_write_waits_for_the_lease_and_is_seen() {
    let (_folder, path) = file();
    let lease = take(&path).unwrap().unwrap();
    let (opened, has_opened) = mpsc::channel();
    let writer = thread::spawn({
        let path = path.clone();
        move || {
            let file = OpenOptions::new().append(true).open(path).unwrap();
            opened.send(()).unwrap();
            file
        }
    });
    while lease.is_undisturbed() {
        thread::yield_now();
    }
    assert!(has_opened.try_recv().is_err(), "it waits");
    drop(lease);
    has_opened.recv().unwrap();
    let file = writer.join().unwrap();
    assert_eq!(take(&path).unwrap_err(), InUse);
    drop(file);
}
