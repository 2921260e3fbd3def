//! What is hashed, and when a file does not hold still enough for that.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::fs::Fs;
use model::{BLOCK_SIZE, BlockHash};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::sync::{Arc, Mutex};
use support::{Folder, Meddled, SETTLED_NS, blocks_of, broken, content, hash, make_fifo, set_mode, task};
use sync_engine::io::{HashResult, HashTask};
use sync_engine::tree::FileContent;

#[test]
fn a_settled_file_is_hashed_into_its_blocks() {
    let folder = Folder::new();
    let long: Vec<u8> = (0..BLOCK_SIZE + 3_000_001).map(|n| u8::try_from(n % 251).unwrap()).collect();
    for (name, bytes) in [("empty", vec![]), ("short", b"hello".to_vec()), ("long", long)] {
        folder.write(name, &bytes);
        set_mode(&folder, name, 0o755);
        let print = folder.print(name);
        let expected = FileContent { executable: true, mtime: print.mtime, ..content(&bytes) };
        let result = hash(&Meddled::later(&folder.disk, SETTLED_NS), task(&folder, name));
        assert_eq!(result, HashResult::Hashed { content: expected, blocks: blocks_of(&bytes) }, "{name}");
    }
}

#[test]
fn a_sparse_file_hashes_as_the_zeros_it_reads_as() {
    let folder = Folder::new();
    let mut file = fs::File::create(folder.path("sparse")).unwrap();
    file.seek(SeekFrom::Start(2 * BLOCK_SIZE)).unwrap();
    file.write_all(b"end").unwrap();
    let mut bytes = vec![0; usize::try_from(2 * BLOCK_SIZE).unwrap()];
    bytes.extend_from_slice(b"end");
    match hash(&Meddled::later(&folder.disk, SETTLED_NS), task(&folder, "sparse")) {
        HashResult::Hashed { content: found, blocks } => {
            assert_eq!((found.hash, blocks), (content(&bytes).hash, blocks_of(&bytes)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_threads_share_hashes_into_its_blocks_in_order() {
    let folder = Folder::new();
    let mut file = fs::File::create(folder.path("sparse")).unwrap();
    for number in [0, 13, 40, 66] {
        file.seek(SeekFrom::Start(number * BLOCK_SIZE)).unwrap();
        file.write_all(&[u8::try_from(number).unwrap() + 1]).unwrap();
    }
    let block = |first: u8| {
        let mut bytes = vec![0; usize::try_from(BLOCK_SIZE).unwrap()];
        bytes[0] = first;
        BlockHash::of(&bytes)
    };
    let (zeros, last) = (block(0), BlockHash::of(&[67]));
    let marked = |number| match number {
        0 | 13 | 40 => block(u8::try_from(number).unwrap() + 1),
        66 => last,
        _ => zeros,
    };
    match hash(&Meddled::later(&folder.disk, SETTLED_NS), task(&folder, "sparse")) {
        HashResult::Hashed { blocks, .. } => assert_eq!(blocks.0, (0..67).map(marked).collect::<Vec<_>>()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_was_changed_a_moment_ago_is_not_settled() {
    let folder = Folder::new();
    folder.write("f", "x");
    let behind = folder.disk.now_ns() - folder.print("f").ctime;
    let fs = Meddled::later(&folder.disk, 0).with_clock(-behind);
    assert_eq!(hash(&fs, task(&folder, "f")), HashResult::Unsettled);
}

#[test]
fn a_file_just_closed_is_read_at_once_where_changes_are_told_apart() {
    for (closed, tells_apart) in [(true, true), (true, false), (false, true)] {
        let folder = Folder::new();
        folder.write("f", "x");
        let behind = folder.disk.now_ns() - folder.print("f").ctime;
        let fs = Meddled::later(&folder.disk, 0).with_clock(-behind).telling_changes_apart(tells_apart);
        let result = hash(&fs, HashTask { closed, ..task(&folder, "f") });
        let at_once = matches!(result, HashResult::Hashed { .. });
        assert_eq!(at_once, closed && tells_apart, "closed {closed}, told apart {tells_apart}: {result:?}");
    }
}

#[test]
fn a_disk_that_says_so_gives_every_change_that_is_looked_at_another_time() {
    let folder = Folder::new();
    folder.write("f", "x");
    let device = folder.print("f").device;
    assert!(!folder.disk.tells_changes_apart(device + 1), "another device is not known");
    if !folder.disk.tells_changes_apart(device) {
        return;
    }
    let file = fs::OpenOptions::new().write(true).open(folder.path("f")).unwrap();
    let mut last = folder.print("f").ctime;
    for n in 0..2000 {
        file.write_all_at(b"y", 0).unwrap();
        let ctime = folder.print("f").ctime;
        assert!(ctime > last, "change {n}");
        last = ctime;
    }
}

#[test]
fn a_change_time_in_the_future_is_believed_after_reading_twice() {
    let folder = Folder::new();
    folder.write("f", "x");
    let fs = Meddled::new(&folder.disk, |_, _| Ok(())).with_clock(-SETTLED_NS);
    assert!(matches!(hash(&fs, task(&folder, "f")), HashResult::Hashed { .. }));
    assert_eq!(fs.calls(), 4 + 2 * 2, "open, fstat, wait for writes, write back, and twice: read, fstat");
}

/// What was stored through a mapping before shows no further store by another change time, until it was written back.
#[test]
fn what_a_file_has_in_memory_is_written_before_it_is_read_unless_its_writer_has_closed_it() {
    for (closed, size) in [(false, 30), (false, 3_000_000), (true, 30), (true, 3_000_000)] {
        let folder = Folder::new();
        folder.write("f", vec![7; size]);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&calls);
        let note = move |what: &'static str, _| {
            noted.lock().unwrap().push(what);
            Ok(())
        };
        let fs = Meddled::new(&folder.disk, note).with_clock(SETTLED_NS);
        let result = hash(&fs, HashTask { closed, ..task(&folder, "f") });
        assert!(matches!(result, HashResult::Hashed { .. }), "{result:?}");
        let calls = calls.lock().unwrap();
        let at = |call| calls.iter().position(|what| *what == call);
        assert_eq!(at("write_back").is_some(), !closed, "closed {closed}, {size} bytes");
        assert!(at("write_back") < at("read_at"), "first of all: {calls:?}");
        assert!(calls.ends_with(&["fstat"]), "and its change time is looked at after that: {calls:?}");
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_not_hashed() {
    for size in [3_000_000, 30] {
        let tried = (1..).take_while(|at| not_hashed_if_changed_before(*at, size)).count();
        assert!(tried > 3, "before and behind each look and each piece that is read");
    }
}

/// Changes a file of `size` bytes before the call number `at`; whether there is such a call.
fn not_hashed_if_changed_before(at: usize, size: usize) -> bool {
    let folder = Folder::new();
    folder.write("f", vec![7; size]);
    let (task, path) = (task(&folder, "f"), folder.path("f"));
    let edit = move |_: &'static str, n: usize| {
        if n == at {
            let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all(b"EDIT").unwrap();
        }
        Ok(())
    };
    let fs = Meddled::new(&folder.disk, edit).with_clock(SETTLED_NS);
    let result = hash(&fs, task);
    if fs.calls() <= at {
        return false;
    }
    assert!(matches!(result, HashResult::Unsettled | HashResult::Changed), "at {at}: {result:?}");
    true
}

#[test]
fn another_thing_than_the_file_that_was_meant_is_changed_and_never_hangs() {
    let folder = Folder::new();
    folder.write("f", "x");
    folder.write("g", "y");
    let meant = task(&folder, "f");
    let later = Meddled::later(&folder.disk, SETTLED_NS);
    fs::rename(folder.path("g"), folder.path("f")).unwrap();
    assert_eq!(hash(&later, meant.clone()), HashResult::Changed);
    fs::remove_file(folder.path("f")).unwrap();
    assert_eq!(hash(&later, meant.clone()), HashResult::Changed);
    make_fifo(&folder, "f");
    assert_eq!(hash(&later, meant.clone()), HashResult::Changed);
    fs::remove_file(folder.path("f")).unwrap();
    symlink("/etc/passwd", folder.path("f")).unwrap();
    assert_eq!(hash(&later, meant), HashResult::Changed);
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = Folder::new();
    folder.write("f", "x");
    let task = task(&folder, "f");
    let fs = Meddled::new(&folder.disk, |what, _| if what == "read_at" { Err(broken()) } else { Ok(()) });
    let fs = fs.with_clock(SETTLED_NS);
    assert!(matches!(hash(&fs, task), HashResult::Unreadable(why) if why.contains("error 5")));
}

// Changes.
