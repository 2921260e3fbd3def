//! Files that a program is writing while they are to be hashed.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::fs::Fs;
use local_files::jobs::run_job;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Folder, Meddled, NODE, local};
use sync_engine::io::{HashResult, HashTask, Job, JobResult};

/// Longer than any change time takes to settle.
const SETTLED_NS: i64 = 10_000_000_000;

/// Hashes the file `f` on a disk whose clock is ahead.
fn hash(folder: &Folder, fs: Meddled<'_>) -> HashResult {
    let task = HashTask { node: NODE, path: local("f"), print: folder.print("f"), closed: false };
    match run_job(&fs.with_clock(SETTLED_NS), &Job::Hash(vec![task])) {
        JobResult::Hashed(mut results) => results.remove(0).1,
        other => panic!("{other:?}"),
    }
}

/// A write was held up after it had begun. The file had its new change time and half of its new bytes, and
/// looked as if it had been at rest since.
#[test]
fn a_write_that_is_under_way_is_waited_for() {
    const BYTES: usize = 128 * 1024 * 1024;
    let folder = Folder::new();
    let file = fs::File::create(folder.path("f")).unwrap();
    file.set_len(BYTES as u64).unwrap();
    let before = folder.print("f").ctime;
    let opened = folder.disk.open(&local("f")).unwrap();
    let bytes = vec![1; BYTES];
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(file.write_at(&bytes, 0).unwrap(), BYTES, "one call writes all of it"));
        while folder.print("f").ctime == before {}
        opened.outwait_writes();
        let mut last = [0];
        opened.read_at(&mut last, BYTES as u64 - 1).unwrap();
        assert_eq!(last, [1]);
    });
}

#[test]
fn writes_are_waited_for_before_anything_is_read() {
    let folder = Folder::new();
    folder.write("f", "bytes");
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let fs = Meddled::new(&folder.disk, move |what, _| {
        noted.lock().unwrap().push(what);
        Ok(())
    });
    assert!(matches!(hash(&folder, fs), HashResult::Hashed { .. }));
    let calls = calls.lock().unwrap();
    let at = |wanted| calls.iter().position(|what| *what == wanted);
    assert!(at("outwait_writes").unwrap() < at("read_at").unwrap(), "{calls:?}");
}

/// Between the write that was waited for and the next one of its writer the file is nobody's version.
#[test]
fn a_file_whose_writer_had_to_be_waited_for_is_not_settled() {
    let folder = Folder::new();
    folder.write("f", "bytes");
    let fs = Meddled::new(&folder.disk, |what, _| {
        let until = Instant::now() + Duration::from_millis(if what == "outwait_writes" { 5 } else { 0 });
        while Instant::now() < until {}
        Ok(())
    });
    assert_eq!(hash(&folder, fs), HashResult::Unsettled);
}
