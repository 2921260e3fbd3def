//! The engine's jobs on a real disk.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::disk::{Disk, RootId};
use local_files::fs::{Fs, FsError};
use local_files::hashed::HashedFiles;
use local_files::jobs::run_job;
use local_files::temps::{Turns, read_blocks, write_block};
use model::{BLOCK_SIZE, BlockHash, Mtime};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::{Arc, Mutex};
use support::{
    Folder, MTIME, Meddled, NODE, ROOT, SETTLED_NS, apply, blocks_of, broken, content, hash, local, make_fifo,
    set_mode, task,
};
use sync_engine::io::{
    BlockSource, BlockTarget, DirectoryListing, Expect, Extent, FileKind, Fingerprint, HashResult, Job, JobResult,
    LocalStep, PREPARED_MARKER, RootState, ScanError, ScanTarget, StepError, TempName,
};
use sync_engine::tree::FileContent;

fn scan_with(fs: &dyn Fs, directory: &str, extent: Extent) -> (RootState, Result<DirectoryListing, ScanError>) {
    match run_job(fs, &Job::Scan(vec![ScanTarget { directory: local(directory), extent }])) {
        JobResult::Scanned { root, mut directories } => (root, directories.remove(0).result),
        other => panic!("{other:?}"),
    }
}

fn scan(fs: &dyn Fs, directory: &str) -> Result<DirectoryListing, ScanError> {
    scan_with(fs, directory, Extent::All).1
}

fn names(listing: &DirectoryListing) -> Vec<Box<[u8]>> {
    let mut names: Vec<_> = listing.entries.iter().map(|found| found.name.clone()).collect();
    names.sort();
    names
}

fn boxed(name: &[u8]) -> Box<[u8]> {
    Box::from(name)
}

fn mode(folder: &Folder, path: &str) -> u32 {
    fs::symlink_metadata(folder.path(path)).unwrap().permissions().mode() & 0o7777
}

fn remove(folder: &Folder, path: &str) -> LocalStep {
    LocalStep::Remove { node: NODE, path: local(path), expect: folder.expect(path) }
}

fn move_step(from: &str, to: &str, expect: Expect) -> LocalStep {
    LocalStep::Move { node: NODE, from: local(from), to: local(to), expect }
}

fn directory(folder: &Folder, path: &str) -> Expect {
    let print = folder.print(path);
    Expect::Directory { device: print.device, inode: print.inode }
}

// Scans.

#[test]
fn a_scan_tells_every_kind_of_entry_and_not_synclines_own_folder() {
    let folder = Folder::new();
    folder.write("file", "text");
    fs::create_dir(folder.path("dir")).unwrap();
    symlink("no/where", folder.path("link")).unwrap();
    make_fifo(&folder, "fifo");
    let mut listing = scan(&folder.disk, "").unwrap();
    listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
    let kinds: Vec<_> = listing.entries.iter().map(|found| found.kind).collect();
    assert_eq!(kinds, [FileKind::Directory, FileKind::Other, FileKind::File, FileKind::Symlink]);
    assert_eq!(listing.entries[3].target.as_deref(), Some(b"no/where".as_slice()));
    assert_eq!(listing.entries[2].print, folder.print("file"));
    assert_eq!(listing.print.inode, fs::metadata(folder.path("")).unwrap().ino());
    assert!(listing.unreadable.is_empty());
}

#[test]
fn names_of_any_bytes_and_of_full_length_are_told_as_they_are() {
    let folder = Folder::new();
    let strange: [&[u8]; 4] = [b"not\xffutf8", b"two\nlines", &[b'x'; 255], b" \t\x01"];
    for name in strange {
        fs::write(folder.path("").join(OsStr::from_bytes(name)), "").unwrap();
    }
    let mut expected: Vec<_> = strange.into_iter().map(boxed).collect();
    expected.sort();
    assert_eq!(names(&scan(&folder.disk, "").unwrap()), expected);
    let some = Extent::Names([boxed(b"not\xffutf8"), boxed(b"gone"), boxed(b".."), boxed(b".syncline")].into());
    assert_eq!(names(&scan_with(&folder.disk, "", some).1.unwrap()), [boxed(b"not\xffutf8")]);
}

#[test]
fn a_folder_that_is_gone_is_told_apart_from_one_that_cannot_be_read() {
    let folder = Folder::new();
    folder.write("file", "");
    fs::create_dir(folder.path("dir")).unwrap();
    symlink("dir", folder.path("link")).unwrap();
    for gone in ["none", "none/below", "file", "file/below", "link"] {
        assert_eq!(scan(&folder.disk, gone), Err(ScanError::Gone), "{gone}");
    }
    for error in [FsError::Permission, broken()] {
        let fs = Meddled::new(&folder.disk, move |what, _| if what == "list" { Err(error.clone()) } else { Ok(()) });
        assert!(matches!(scan(&fs, ""), Err(ScanError::Unreadable(_))));
    }
}

#[test]
fn a_scan_tells_when_the_root_was_missing_or_another_before_or_after_it() {
    let folder = Folder::new();
    assert_eq!(scan_with(&folder.disk, "", Extent::All).0, RootState::Present);
    for missing_at in [0, 2] {
        let fs = Meddled::new(&folder.disk, move |_, n| if n == missing_at { Err(broken()) } else { Ok(()) });
        assert_eq!(scan_with(&fs, "", Extent::All).0, RootState::Missing);
    }
    let other = Disk::open(folder.disk.path(), RootId([8; 16]));
    let (root, result) = scan_with(&other, "", Extent::All);
    assert_eq!(root, RootState::Replaced);
    assert!(matches!(result, Err(ScanError::Unreadable(_))), "another folder's files are not even looked at");
    fs::remove_file(folder.path(".syncline/root")).unwrap();
    assert_eq!(folder.disk.root_state(), RootState::Missing);
    let nowhere = Disk::open(&folder.dir.path().join("none"), ROOT);
    assert_eq!(nowhere.root_state(), RootState::Missing);
}

#[test]
fn a_folder_is_made_a_root_once() {
    let folder = Folder::new();
    assert_eq!(Disk::root_id(folder.disk.path()), Ok(Some(ROOT)));
    assert_eq!(Disk::create_root(folder.disk.path(), RootId([8; 16])).err(), Some(FsError::AlreadyExists));
    assert_eq!(Disk::root_id(folder.dir.path()), Ok(None));
    assert_eq!(mode(&folder, ".syncline"), 0o700);
    assert_eq!(folder.read(".syncline/root"), Some(format!("{ROOT}\n")));
    assert_eq!(ROOT.to_string().parse(), Ok(ROOT));
}

// Hashing.

#[test]
fn an_installed_file_has_its_bytes_its_time_and_plain_permissions() {
    let folder = Folder::new();
    let print = folder.apply(folder.install("f", "text", None)).unwrap().unwrap();
    assert_eq!(folder.read("f").as_deref(), Some("text"));
    assert_eq!((print, print.mtime, print.executable), (folder.print("f"), MTIME, false));
    assert_eq!(mode(&folder, "f"), 0o644 & mode_mask());
    let executable = FileContent { executable: true, ..content(b"") };
    let step = LocalStep::Install { node: NODE, path: local("run"), temp: None, content: executable, replace: None };
    assert!(folder.apply(step).unwrap().unwrap().executable);
    assert_eq!(mode(&folder, "run"), 0o755 & mode_mask());
    assert_eq!(folder.temps(), Vec::<String>::new());
}

#[test]
fn what_is_there_already_is_never_replaced_unexpectedly() {
    let folder = Folder::new();
    folder.write("f", "mine");
    symlink("x", folder.path("link")).unwrap();
    fs::create_dir(folder.path("dir")).unwrap();
    for path in ["f", "link", "dir"] {
        let symlink = LocalStep::MakeSymlink { node: NODE, path: local(path), target: "t".into(), replace: None };
        let steps = [
            folder.install(path, "theirs", None),
            LocalStep::MakeDirectory { node: NODE, path: local(path) },
            symlink,
            move_step("f", path, folder.expect("f")),
        ];
        for step in steps {
            assert_eq!(folder.apply(step.clone()), Err(StepError::Occupied), "{step:?}");
        }
    }
    let dir = directory(&folder, "dir");
    assert_eq!(folder.apply(folder.install("dir", "theirs", Some(dir))), Err(StepError::Occupied));
    assert_eq!(folder.read("f").as_deref(), Some("mine"));
    assert_eq!(folder.temps(), ["download"]);
}

#[test]
fn a_replaced_file_keeps_its_permissions_but_for_the_execute_bit_and_setuid() {
    for (before, executable, after) in [
        (0o600, false, 0o600),
        (0o640, true, 0o750),
        (0o4755, true, 0o755),
        (0o755, false, 0o644),
        (0o2666, false, 0o666),
    ] {
        let folder = Folder::new();
        folder.write("f", "old");
        set_mode(&folder, "f", before);
        let LocalStep::Install { node, path, temp, content, replace } =
            folder.install("f", "new", Some(folder.expect("f")))
        else {
            unreachable!()
        };
        let content = FileContent { executable, ..content };
        folder.apply(LocalStep::Install { node, path, temp, content, replace }).unwrap();
        assert_eq!((folder.read("f").as_deref(), mode(&folder, "f")), (Some("new"), after), "from {before:o}");
    }
}

#[test]
fn a_changed_file_is_neither_replaced_nor_removed_nor_moved() {
    let folder = Folder::new();
    folder.write("f", "old");
    let old = folder.expect("f");
    folder.write("f", "edited");
    for step in [
        folder.install("f", "new", Some(old)),
        LocalStep::MakeSymlink { node: NODE, path: local("f"), target: "t".into(), replace: Some(old) },
        LocalStep::Remove { node: NODE, path: local("f"), expect: old },
        LocalStep::SetAttributes { node: NODE, path: local("f"), content: content(b"old"), expect: old },
        move_step("f", "g", old),
        LocalStep::RemoveDirectory { node: NODE, path: local("f"), expect: old },
    ] {
        assert_eq!(folder.apply(step.clone()), Err(StepError::Changed), "{step:?}");
    }
    assert_eq!(folder.texts(), ["edited"]);
}

/// It would go on writing to a file that is in no folder.
#[test]
fn a_file_that_a_program_has_open_for_writing_is_neither_replaced_nor_removed() {
    let folder = Folder::new();
    folder.write("f", "old");
    let writer = fs::File::options().append(true).open(folder.path("f")).unwrap();
    let steps = |folder: &Folder| {
        let expect = folder.expect("f");
        let target = "t".into();
        [
            LocalStep::MakeSymlink { node: NODE, path: local("f"), target, replace: Some(expect) },
            LocalStep::Remove { node: NODE, path: local("f"), expect },
            folder.install("f", "new", Some(expect)),
        ]
    };
    for step in steps(&folder) {
        assert_eq!(folder.apply(step.clone()), Err(StepError::InUse), "{step:?}");
    }
    (&writer).write_all(b" and more").unwrap();
    assert_eq!(folder.read("f").as_deref(), Some("old and more"));
    drop(writer);
    let _reader = fs::File::open(folder.path("f")).unwrap();
    let [_, _, install] = steps(&folder);
    folder.apply(install).unwrap();
    assert_eq!(folder.texts(), ["new"], "who only reads it is in nobody's way");
}

#[test]
fn what_is_gone_or_lies_in_a_folder_that_is_gone_says_so() {
    let folder = Folder::new();
    folder.write("f", "old");
    let old = folder.expect("f");
    for step in [
        folder.install("none/f", "new", None),
        folder.install("f/f", "new", None),
        LocalStep::MakeDirectory { node: NODE, path: local("none/d") },
        LocalStep::Remove { node: NODE, path: local("none"), expect: old },
        move_step("f", "none/f", old),
        move_step("none", "g", old),
        LocalStep::SetAttributes { node: NODE, path: local("none"), content: content(b"old"), expect: old },
    ] {
        assert_eq!(folder.apply(step.clone()), Err(StepError::Gone), "{step:?}");
    }
}

#[test]
fn an_incomplete_download_is_not_installed() {
    let folder = Folder::new();
    let temp = folder.temp("part", b"hal");
    let step =
        |temp| LocalStep::Install { node: NODE, path: local("f"), temp, content: content(b"half"), replace: None };
    for temp in [temp, None, Some(TempName("none".into()))] {
        assert_eq!(folder.apply(step(temp)), Err(StepError::BadTemp));
    }
    assert!(matches!(folder.apply(step(Some(TempName("../root".into())))), Err(StepError::Name(_))));
    assert_eq!(folder.texts(), Vec::<String>::new());
}

/// It was finished for a read-only file in a folder that takes no change. It could not be written to any more, and was in
/// the way of every later version until somebody removed it.
#[test]
fn a_temporary_file_that_cannot_be_opened_any_more_is_made_anew() {
    for offset in [0, BLOCK_SIZE] {
        let folder = Folder::new();
        let temp = folder.temp("closed", b"old").unwrap();
        let closed = |what: &str, _: usize| if what == "open_temp" { Err(FsError::Permission) } else { Ok(()) };
        let meddled = Meddled::new(&folder.disk, closed);
        let target = BlockTarget { temp, offset };
        write_block(&meddled, &target, b"new", &Turns::default()).expect("writes");
        let written = fs::read(folder.path(".syncline/tmp/closed")).unwrap();
        assert_eq!(written[usize::try_from(offset).unwrap()..], *b"new");
    }
}

/// It appeared with zeros in the place of what had been written before.
#[test]
fn a_download_whose_file_was_removed_under_it_is_not_installed() {
    let folder = Folder::new();
    let block = BLOCK_SIZE as usize;
    let bytes = [vec![7; block], vec![0; block], vec![9; 10]].concat();
    let temp = TempName("large".into());
    let put = |offset: usize, len: usize| {
        let target = BlockTarget { temp: temp.clone(), offset: offset as u64 };
        write_block(&folder.disk, &target, &bytes[offset..][..len], &Turns::default()).unwrap();
    };
    let install = |path| {
        let content = content(&bytes);
        LocalStep::Install { node: NODE, path: local(path), temp: Some(temp.clone()), content, replace: None }
    };
    put(0, block);
    fs::remove_file(folder.path(".syncline/tmp/large")).unwrap();
    put(block, block);
    put(2 * block, 10);
    assert_eq!(folder.apply(install("f")), Err(StepError::BadTemp));
    put(0, block);
    folder.apply(install("f")).expect("it is whole");
    assert!(fs::read(folder.path("f")).unwrap() == bytes);

    // What is full of zeros and was never written is the same.
    put(0, block);
    put(2 * block, 10);
    folder.apply(install("g")).expect("it reads as it should");
}

#[test]
fn a_name_that_the_disk_does_not_take_is_told() {
    let folder = Folder::new();
    let long = "x".repeat(256);
    for step in [
        folder.install(&long, "new", None),
        LocalStep::MakeDirectory { node: NODE, path: local(&long) },
        LocalStep::MakeSymlink { node: NODE, path: local(&long), target: "t".into(), replace: None },
    ] {
        assert!(matches!(folder.apply(step.clone()), Err(StepError::Name(_))), "{step:?}");
    }
}

#[test]
fn synclines_own_folder_is_out_of_reach_of_every_step() {
    let folder = Folder::new();
    let marker = folder.expect(".syncline/root");
    for path in [".syncline/root", ".Syncline/root", ".syncline/tmp/x", ".syncline", ".syncline/parked"] {
        for step in [
            folder.install(path, "new", Some(marker)),
            LocalStep::Remove { node: NODE, path: local(path), expect: marker },
            move_step(path, "stolen", marker),
            LocalStep::MakeDirectory { node: NODE, path: local(path) },
        ] {
            assert!(matches!(folder.apply(step.clone()), Err(StepError::Name(_))), "{step:?}");
        }
    }
    assert_eq!(folder.disk.root_state(), RootState::Present);
}

#[test]
fn two_files_swap_their_names_by_way_of_the_parked_folder_in_one_batch() {
    let folder = Folder::new();
    folder.write("a", "A");
    folder.write("b", "B");
    let (a, b) = (folder.expect("a"), folder.expect("b"));
    let steps =
        vec![move_step("a", ".syncline/parked/x", a), move_step("b", "a", b), move_step(".syncline/parked/x", "b", a)];
    let results = apply(&folder.disk, steps);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!((folder.read("a").as_deref(), folder.read("b").as_deref()), (Some("B"), Some("A")));
    assert_eq!(results[1], Ok(Some(folder.print("a"))));
}

#[test]
fn what_is_below_a_parked_folder_can_be_changed() {
    let folder = Folder::new();
    fs::create_dir(folder.path("d")).unwrap();
    let steps = vec![
        move_step("d", ".syncline/parked/x", directory(&folder, "d")),
        folder.install(".syncline/parked/x/f", "text", None),
        move_step(".syncline/parked/x", "e", directory(&folder, "d")),
    ];
    assert!(apply(&folder.disk, steps).iter().all(Result::is_ok));
    assert_eq!(folder.read("e/f").as_deref(), Some("text"));
}

#[test]
fn a_change_of_case_alone_is_done_where_the_disk_does_not_tell_case_apart() {
    let folder = Folder::new();
    folder.write("readme", "text");
    let fs = Meddled::folding_case(&folder.disk);
    let results = apply(&fs, vec![move_step("readme", "README", folder.expect("readme"))]);
    assert_eq!(results, [Ok(Some(folder.print("README")))]);
    assert_eq!(names(&scan(&folder.disk, "").unwrap()), [boxed(b"README")]);
    folder.write("other", "text");
    let results = apply(&fs, vec![move_step("other", "ReadMe", folder.expect("other"))]);
    assert_eq!(results, [Err(StepError::Occupied)]);
}

#[test]
fn a_hard_link_of_another_case_is_another_file() {
    let folder = Folder::new();
    folder.write("a", "text");
    fs::hard_link(folder.path("a"), folder.path("A")).unwrap();
    assert_eq!(folder.apply(move_step("a", "A", folder.expect("a"))), Err(StepError::Occupied));
    assert_eq!(folder.texts(), ["text", "text"]);
}

#[test]
fn a_folder_moves_with_everything_below_it_and_keeps_its_identity() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("a/b")).unwrap();
    folder.write("a/b/f", "text");
    let identity = directory(&folder, "a");
    let print = folder.apply(move_step("a", "c", identity)).unwrap().unwrap();
    assert_eq!(print, folder.print("c"));
    assert_eq!(folder.read("c/b/f").as_deref(), Some("text"));
    assert_eq!(folder.apply(move_step("c/b", "d", identity)), Err(StepError::Changed));
}

#[test]
fn only_the_expected_empty_folder_is_removed() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("d/sub")).unwrap();
    let step = |expect| LocalStep::RemoveDirectory { node: NODE, path: local("d"), expect };
    let identity = directory(&folder, "d");
    assert_eq!(folder.apply(step(identity)), Err(StepError::NotEmpty));
    assert_eq!(folder.apply(step(directory(&folder, "d/sub"))), Err(StepError::Changed));
    fs::remove_dir(folder.path("d/sub")).unwrap();
    assert_eq!(folder.apply(step(identity)), Ok(None));
    assert_eq!(folder.apply(step(identity)), Err(StepError::Gone));
}

#[test]
fn a_symlink_replaces_a_file_and_a_file_a_symlink_without_touching_the_target() {
    let folder = Folder::new();
    folder.write("target", "kept");
    folder.write("f", "old");
    let to_link = LocalStep::MakeSymlink {
        node: NODE,
        path: local("f"),
        target: "target".into(),
        replace: Some(folder.expect("f")),
    };
    assert_eq!(folder.apply(to_link), Ok(Some(folder.print("f"))));
    assert_eq!(fs::read_link(folder.path("f")).unwrap().to_str(), Some("target"));
    folder.apply(folder.install("f", "new", Some(folder.expect("f")))).unwrap();
    assert_eq!(folder.texts(), ["kept", "new"]);
    assert_eq!(mode(&folder, "f"), 0o644 & mode_mask(), "a symlink's permissions mean nothing");
    assert_eq!(folder.temps(), Vec::<String>::new());
}

#[test]
fn attributes_are_set_on_the_expected_bytes_only() {
    let folder = Folder::new();
    folder.write("f", "text");
    set_mode(&folder, "f", 0o4640);
    let content = FileContent { executable: true, ..content(b"text") };
    let step = |content| LocalStep::SetAttributes { node: NODE, path: local("f"), content, expect: folder.expect("f") };
    assert_eq!(folder.apply(step(content)), Ok(Some(folder.print("f"))));
    assert_eq!((mode(&folder, "f"), folder.print("f").mtime), (0o750, MTIME));
    let other = FileContent { hash: support::content(b"another").hash, ..content };
    assert_eq!(folder.apply(step(other)), Err(StepError::Changed));
}

#[test]
fn times_at_the_ends_of_the_calendar_are_kept_or_clamped_and_reported_as_they_are() {
    for time in [i64::MIN, -1, 0, 4_294_967_296_000_000_001, i64::MAX] {
        let folder = Folder::new();
        let temp = folder.temp("t", b"x");
        let content = FileContent { mtime: Mtime(time), ..content(b"x") };
        let step = LocalStep::Install { node: NODE, path: local("f"), temp, content, replace: None };
        assert_eq!(folder.apply(step), Ok(Some(folder.print("f"))), "{time}");
        assert!(matches!(
            hash(&Meddled::later(&folder.disk, SETTLED_NS), task(&folder, "f")),
            HashResult::Hashed { content, .. } if content.mtime == folder.print("f").mtime
        ));
    }
}

#[test]
fn a_hard_link_keeps_the_old_bytes_and_both_names_can_go_in_one_batch() {
    let folder = Folder::new();
    folder.write("a", "old");
    fs::hard_link(folder.path("a"), folder.path("b")).unwrap();
    folder.apply(folder.install("a", "new", Some(folder.expect("a")))).unwrap();
    assert_eq!((folder.read("a").as_deref(), folder.read("b").as_deref()), (Some("new"), Some("old")));
    fs::hard_link(folder.path("b"), folder.path("c")).unwrap();
    let results = apply(&folder.disk, vec![remove(&folder, "b"), remove(&folder, "c")]);
    assert_eq!(results, [Ok(None), Ok(None)]);
    assert_eq!(folder.texts(), ["new"]);
}

/// A file could not be removed, and another one was moved beside it, to a name that counts as the same. A tree
/// has no place for it: it was taken for deleted, and deleted everywhere.
#[test]
fn nothing_is_put_beside_another_spelling_of_its_name_that_could_not_be_cleared() {
    let folder = Folder::new();
    for name in ["A", "b"] {
        folder.write(name, name);
    }
    let remove = remove(&folder, "A");
    let steps = vec![remove, move_step("b", "a", folder.expect("b")), folder.install("a", "text", None)];
    folder.write("A", "changed");
    let results = apply(&folder.disk, steps.clone());
    assert_eq!(results, [Err(StepError::Changed), Err(StepError::Occupied), Err(StepError::Occupied)]);

    fs::remove_file(folder.path("A")).unwrap();
    let results = apply(&folder.disk, steps);
    assert_eq!(results[0], Err(StepError::Gone));
    assert!(results[1].is_ok(), "what is gone is in nobody's way: {results:?}");
}

#[test]
fn nothing_is_put_into_a_folder_of_somebody_elses_that_has_the_name_of_one_to_be_made() {
    let folder = Folder::new();
    fs::create_dir(folder.path("d")).unwrap();
    let make = |path: &str| LocalStep::MakeDirectory { node: NODE, path: local(path) };
    let steps = vec![make("d"), make("d/e"), folder.install("d/e/f", "text", None), make("other")];
    let results = apply(&folder.disk, steps);
    assert_eq!(results[..3], [Err(StepError::Occupied), Err(StepError::Gone), Err(StepError::Gone)]);
    assert!(results[3].is_ok());
    assert_eq!(fs::read_dir(folder.path("d")).unwrap().count(), 0);
}

/// Which files are made durable, and how, when so many downloads are prepared.
fn syncs_of(downloads: usize) -> Vec<&'static str> {
    let folder = Folder::new();
    let temps: Vec<TempName> = (0..downloads).map(|n| folder.temp(&format!("t{n}"), b"x").unwrap()).collect();
    let syncs = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&syncs);
    let fs = Meddled::new(&folder.disk, move |what, _| {
        if what.starts_with("sync") {
            seen.lock().unwrap().push(what);
        }
        Ok(())
    });
    prepare(&fs, temps).unwrap();
    let syncs = syncs.lock().unwrap();
    syncs.clone()
}

#[test]
fn many_downloads_are_made_durable_together_and_few_each_alone() {
    assert_eq!(syncs_of(20), ["sync"]);
    assert_eq!(syncs_of(2), ["sync_data"; 3], "with the marker");
}

#[test]
fn a_download_is_known_by_the_inode_that_it_keeps_when_it_is_installed() {
    let folder = Folder::new();
    let step = folder.install("f", "text", None);
    let LocalStep::Install { temp: Some(temp), .. } = &step else { unreachable!("it has a download") };
    let prepared = prepare(&folder.disk, vec![temp.clone(), TempName("none".into())]).unwrap();
    assert!(folder.temps().contains(&PREPARED_MARKER.to_owned()));
    folder.apply(step).unwrap();
    let installed = folder.print("f");
    let [Some(before), None] = prepared[..] else { panic!("{prepared:?}") };
    let known = |print: Fingerprint| (print.device, print.inode, print.birth, print.size);
    assert_eq!(known(before), known(installed));
}

#[test]
fn what_cannot_be_made_durable_is_not_prepared() {
    let folder = Folder::new();
    for (what, downloads) in [("sync_data", 1), ("sync", 20)] {
        let temps: Vec<TempName> = (0..downloads).map(|n| folder.temp(&format!("t{n}"), b"x").unwrap()).collect();
        let fs = Meddled::new(&folder.disk, move |call, _| if call == what { Err(FsError::NoSpace) } else { Ok(()) });
        assert!(prepare(&fs, temps).is_err(), "{what}");
    }
}

fn prepare(fs: &dyn Fs, temps: Vec<TempName>) -> Result<Vec<Option<Fingerprint>>, StepError> {
    match run_job(fs, &Job::Prepare(temps)) {
        JobResult::Prepared { files, .. } => files,
        other => panic!("{other:?}"),
    }
}

// Blocks and temporary files.

#[test]
fn blocks_that_local_files_have_are_copied_unless_they_have_changed() {
    let folder = Folder::new();
    let block = usize::try_from(BLOCK_SIZE).unwrap();
    let old: Vec<u8> = (0..3 * block).map(|n| u8::try_from(n % 251).unwrap()).collect();
    folder.write("old", &old);
    let new = [&old[2 * block..], &old[..block], b"new", &old[..block]].concat();
    let blocks = blocks_of(&new);
    let size = new.len() as u64;
    let source = |hash, offset| BlockSource { hash, len: 1 << 22, path: local("old"), offset };
    let reuse = vec![
        (0, source(blocks.0[0], 2 * BLOCK_SIZE)),
        (1, source(blocks.0[1], 0)),
        // Not what is believed to be there, and a place behind the end.
        (2, source(blocks.0[2], BLOCK_SIZE)),
        (3, source(blocks.0[2], 9 * BLOCK_SIZE)),
    ];
    let temp = TempName("part".into());
    let job = |reuse| Job::Probe { temp: temp.clone(), size, blocks: blocks.clone(), reuse };
    let JobResult::Probed { present, .. } = run_job(&folder.disk, &job(reuse)) else { panic!("probes") };
    assert_eq!(present, [0, 1]);
    let JobResult::Probed { present, .. } = run_job(&folder.disk, &job(Vec::new())) else { panic!("probes") };
    assert_eq!(present, [0, 1], "they are in the temporary file");
}

#[test]
fn a_half_filled_download_tells_which_blocks_it_has() {
    let folder = Folder::new();
    let size = 2 * BLOCK_SIZE + 10;
    let bytes: Vec<u8> = (0..size).map(|n| u8::try_from(n % 253).unwrap()).collect();
    let blocks = blocks_of(&bytes);
    let temp = TempName("part".into());
    let at = |offset: u64| BlockTarget { temp: temp.clone(), offset };
    let probe = || match run_job(
        &folder.disk,
        &Job::Probe { temp: temp.clone(), size, blocks: blocks.clone(), reuse: Vec::new() },
    ) {
        JobResult::Probed { present, .. } => present,
        other => panic!("{other:?}"),
    };
    let block = usize::try_from(BLOCK_SIZE).unwrap();
    assert_eq!(probe(), Vec::<u32>::new());
    write_block(&folder.disk, &at(2 * BLOCK_SIZE), &bytes[2 * block..], &Turns::default()).unwrap();
    assert_eq!(probe(), [2]);
    write_block(&folder.disk, &at(0), &bytes[..block], &Turns::default()).unwrap();
    assert_eq!(probe(), [0, 2]);
    write_block(&folder.disk, &at(5), b"damage", &Turns::default()).unwrap();
    assert_eq!(probe(), [2]);
}

#[test]
fn a_full_disk_is_told_to_the_download() {
    let folder = Folder::new();
    let fs = Meddled::new(&folder.disk, |what, _| if what == "write_at" { Err(FsError::NoSpace) } else { Ok(()) });
    let target = BlockTarget { temp: TempName("t".into()), offset: 0 };
    assert_eq!(write_block(&fs, &target, b"x", &Turns::default()), Err(StepError::NoSpace));
}

#[test]
fn the_folder_for_temporary_files_is_made_again_when_someone_removed_it() {
    let folder = Folder::new();
    fs::remove_dir(folder.path(".syncline/tmp")).unwrap();
    assert!(folder.apply(folder.install("f", "x", None)).is_ok());
}

#[test]
fn blocks_for_an_upload_are_handed_out_only_if_all_are_still_what_they_were() {
    let folder = Folder::new();
    folder.write("f", "0123456789");
    let source = |bytes: &[u8], offset: u64, path: &str| BlockSource {
        hash: BlockHash::of(bytes),
        len: u32::try_from(bytes.len()).unwrap(),
        path: local(path),
        offset,
    };
    let good = [source(b"234", 2, "f"), source(b"89", 8, "f"), source(b"", 0, "f")];
    assert_eq!(
        read_blocks(&folder.disk, &good, &HashedFiles::default()),
        Ok(vec![b"234".to_vec(), b"89".to_vec(), vec![]])
    );
    let bad = [source(b"234", 2, "f"), source(b"xyz", 2, "f"), source(b"9+", 9, "f"), source(b"2", 2, "none")];
    let missing = [b"xyz".as_slice(), b"9+", b"2"].map(BlockHash::of);
    assert_eq!(read_blocks(&folder.disk, &bad, &HashedFiles::default()), Err(missing.to_vec()));
}

#[test]
fn a_clean_up_keeps_what_is_needed_and_leaves_other_peoples_folders() {
    let folder = Folder::new();
    let keep = folder.temp("keep", b"x").unwrap();
    folder.temp("drop", b"x");
    symlink("x", folder.path(".syncline/tmp/link.0")).unwrap();
    fs::create_dir(folder.path(".syncline/tmp/dir")).unwrap();
    let done = run_job(&folder.disk, &Job::CleanTemps { keep: [keep].into() });
    assert_eq!(done, JobResult::Cleaned);
    let mut left = folder.temps();
    left.sort();
    assert_eq!(left, ["dir", "keep"]);
}

/// The permission bits that the umask leaves.
fn mode_mask() -> u32 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("probe");
    fs::write(&path, "").unwrap();
    let plain = fs::metadata(path).unwrap().permissions().mode() & 0o666;
    plain | plain >> 2 | 0o100
}
