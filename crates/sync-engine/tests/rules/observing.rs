//! What may be concluded from a look at the disk.

use crate::build::{
    A, B, C, agreed_file, agreed_folder, at_root, file, found, found_file, in_folder, listing, local, name, path,
    print, trees,
};
use model::{Mtime, NodeId};
use std::collections::BTreeSet;
use sync_engine::io::{DirectoryListing, DirectoryScan, Extent, FileKind, Fingerprint, Found, ScanError, ScanTarget};
use sync_engine::observe::Observer;
use sync_engine::tree::{NodeRow, PARKED, Place, Seen};
use sync_engine::trees::Trees;

/// Looks at everything, until nothing is left to look at; `disk` tells what is in a directory. Nothing is
/// parked.
fn observe(trees: &mut Trees, disk: impl Fn(&str) -> Result<DirectoryListing, ScanError>) {
    let mut observer = Observer::default();
    observer.look_at_everything(trees);
    look(&mut observer, trees, |target| disk(&target.directory.to_string()));
}

/// Looks at what the observer wants to look at.
fn look(observer: &mut Observer, trees: &mut Trees, disk: impl Fn(&ScanTarget) -> Result<DirectoryListing, ScanError>) {
    let mut drawn = 0x80;
    for _ in 0..10 {
        let targets = observer.next_targets(trees);
        if targets.is_empty() {
            return;
        }
        let look = |target: ScanTarget| {
            let parked = target.directory == path(".syncline/parked");
            let result = if parked { Ok(listing(print(1, 0), Vec::new())) } else { disk(&target) };
            DirectoryScan { target, result }
        };
        observer.scanned(trees, targets.into_iter().map(look).collect(), &mut || {
            drawn += 1;
            [drawn; 16]
        });
    }
    panic!("no end of looking");
}

/// A folder `d` with a file `d/f`, both in sync.
fn folder_with_file() -> Trees {
    let (d, f) = (at_root("d"), in_folder(A, "f"));
    trees(vec![(A, agreed_folder(&d, 10)), (B, agreed_file(&f, "bytes", 11))])
}

fn root_with(entries: Vec<Found>) -> Result<DirectoryListing, ScanError> {
    Ok(listing(print(0, 0), entries))
}

fn folder_d() -> Found {
    found("d", FileKind::Directory, print(10, 0))
}

fn where_is(trees: &Trees, node: NodeId) -> Option<String> {
    trees.local_path(node).map(|path| path.to_string())
}

#[test]
fn a_folder_that_cannot_be_read_is_not_an_empty_one() {
    let mut trees = folder_with_file();
    observe(&mut trees, |directory| match directory {
        "d" => Err(ScanError::Unreadable("permission denied".to_owned())),
        _ => root_with(vec![folder_d()]),
    });
    assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
}

#[test]
fn an_entry_that_cannot_be_looked_at_is_not_gone() {
    let mut trees = folder_with_file();
    observe(&mut trees, |directory| match directory {
        "d" => Ok(DirectoryListing {
            unreadable: vec![(b"f".as_slice().into(), "input/output error".to_owned())],
            ..listing(print(10, 0), Vec::new())
        }),
        _ => root_with(vec![folder_d()]),
    });
    assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
}

#[test]
fn what_another_file_system_shows_in_a_folder_is_not_the_folders_content() {
    let mut trees = folder_with_file();
    let mounted = Fingerprint { device: 2, ..print(10, 0) };
    observe(&mut trees, |directory| match directory {
        "d" => Ok(listing(mounted, vec![found_file("foreign", print(99, 1))])),
        _ => root_with(vec![folder_d()]),
    });
    assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
    assert_eq!(trees.local_children(A).count(), 1, "and nothing new is in it");
}

/// It was deleted on the other devices, which had a good version.
#[test]
fn a_file_that_becomes_too_large_to_be_synced_is_not_gone() {
    let mut trees = folder_with_file();
    observe(&mut trees, |directory| match directory {
        "d" => Ok(listing(print(10, 0), vec![found_file("f", print(11, 2 << 40))])),
        _ => root_with(vec![folder_d()]),
    });
    assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
    observe(&mut trees, |directory| match directory {
        "d" => Ok(listing(print(10, 0), vec![found("f", FileKind::Other, print(12, 0))])),
        _ => root_with(vec![folder_d()]),
    });
    assert_eq!(where_is(&trees, B), None, "a pipe in its place is not the file");
}

/// Nothing below any folder was synced any more after the file system's number had changed with a restart.
#[test]
fn a_folder_whose_file_system_has_another_number_is_the_same_folder() {
    for birth in [true, false] {
        let on = |device, print: Fingerprint| Fingerprint { device, birth: print.birth.filter(|_| birth), ..print };
        let mut d = agreed_folder(&at_root("d"), 10);
        d.local = d.local.map(|there| sync_engine::tree::Local { print: on(1, print(10, 0)), ..there });
        let mut trees = trees(vec![(A, d), (B, agreed_file(&in_folder(A, "f"), "bytes", 11))]);
        observe(&mut trees, |directory| match directory {
            "d" => {
                let entries = vec![found_file("f", on(2, print(11, 5))), found_file("new", on(2, print(12, 1)))];
                Ok(listing(on(2, print(10, 0)), entries))
            }
            _ => Ok(listing(on(2, print(0, 0)), vec![found("d", FileKind::Directory, on(2, print(10, 0)))])),
        });
        assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
        assert_eq!(trees.local_children(A).count(), 2, "what was made there is found");
        assert_eq!([A, B].map(|id| trees.local(id).map(|local| local.print.device)), [Some(2); 2]);
    }
}

#[test]
fn a_folder_over_which_something_is_mounted_is_not_the_folder() {
    for mounted in [print(2, 0), Fingerprint { birth: None, ..print(10, 0) }] {
        let mounted = Fingerprint { device: 2, ..mounted };
        let mut trees = folder_with_file();
        observe(&mut trees, |directory| match directory {
            "d" => Ok(listing(mounted, vec![found_file("foreign", Fingerprint { device: 2, ..print(99, 1) })])),
            _ => root_with(vec![found("d", FileKind::Directory, mounted)]),
        });
        assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
        assert_eq!(trees.local_children(A).count(), 1, "and nothing new is in it");
    }
}

/// The file `a` in sync is gone, and this file lies at `b`. Returns whether it is taken for the same file.
fn is_taken_for_the_same(before: Fingerprint, now: Fingerprint) -> bool {
    let mut row = agreed_file(&at_root("a"), "bytes", before.inode);
    row.local = row.local.map(|there| sync_engine::tree::Local { print: before, ..there });
    let mut trees = trees(vec![(A, row)]);
    observe(&mut trees, |_| root_with(vec![found_file("b", now)]));
    where_is(&trees, A).as_deref() == Some("b")
}

#[test]
fn a_moved_file_is_known_by_inode_and_birth_and_a_new_file_on_its_inode_is_not_it() {
    let before = print(11, 5);
    assert!(is_taken_for_the_same(before, Fingerprint { ctime: 8, ..before }));
    assert!(!is_taken_for_the_same(before, Fingerprint { birth: Some(12), ..before }));
    assert!(!is_taken_for_the_same(before, print(12, 5)));
}

#[test]
fn without_birth_times_a_moved_file_must_have_its_size_and_time() {
    let before = Fingerprint { birth: None, ..print(11, 5) };
    assert!(is_taken_for_the_same(before, Fingerprint { ctime: 8, ..before }));
    assert!(!is_taken_for_the_same(before, Fingerprint { size: 6, ctime: 8, ..before }));
    assert!(!is_taken_for_the_same(before, Fingerprint { mtime: Mtime(8), ctime: 8, ..before }));
}

#[test]
fn only_a_fingerprint_that_is_equal_in_all_parts_saves_a_file_from_being_read_again() {
    let before = print(11, 5);
    for (now, read_again) in [(before, false), (Fingerprint { ctime: 8, ..before }, true)] {
        for name in ["a", "moved"] {
            let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
            observe(&mut trees, |_| root_with(vec![found_file(name, now)]));
            let seen = trees.local(A).map(|local| local.seen.clone());
            assert_eq!(seen == Some(Seen::File(None)), read_again, "{name}: {seen:?}");
        }
    }
}

/// Without birth times the bytes must tell. An edit that had been read and not sent yet was not taken into
/// account: the file was deleted, with what it had before, and there was a new one.
#[test]
fn a_file_that_was_edited_and_then_renamed_and_touched_is_known_by_what_was_read_of_it() {
    let before = Fingerprint { birth: None, ..print(11, 5) };
    let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    trees.set_local(A, local(at_root("a"), Seen::File(Some(file("mine!"))), before));
    let touched = Fingerprint { mtime: Mtime(8), ctime: 8, ..before };
    let mut observer = Observer::default();
    observer.look_at_everything(&trees);
    look(&mut observer, &mut trees, |_| root_with(vec![found_file("b", touched)]));
    let there = trees.local_child(trees.root(), &name("b").key()).expect("it is there");
    for (bytes, known) in [("other", None), ("mine!", Some(A)), ("bytes", Some(A))] {
        trees.set_local(there, local(at_root("b"), Seen::File(Some(file(bytes))), touched));
        assert_eq!(observer.turns_out_to_be(&trees, there), known, "{bytes}");
    }
}

/// The watcher told only of the place to which a file was moved. Without birth times the file, touched, looked
/// like an edit of the one that it replaced, and where it came from was looked at too late.
#[test]
fn where_an_inode_was_before_is_looked_at_before_the_file_on_it_is_read() {
    let before = Fingerprint { birth: None, ..print(11, 5) };
    for to in ["b", "new"] {
        let mut trees =
            trees(vec![(B, agreed_file(&at_root("b"), "other", 12)), (A, agreed_file(&at_root("a"), "bytes", 11))]);
        trees.set_local(A, local(at_root("a"), Seen::File(Some(file("bytes"))), before));
        let touched = Fingerprint { mtime: Mtime(8), ctime: 8, ..before };
        let mut observer = Observer::default();
        observer.look_at_name(trees.root(), to.as_bytes());
        look(&mut observer, &mut trees, |target| {
            let asked = |name: &[u8]| matches!(&target.extent, Extent::Names(names) if names.contains(name));
            root_with(if asked(to.as_bytes()) { vec![found_file(to, touched)] } else { Vec::new() })
        });
        let there = trees.local_child(trees.root(), &name(to).key()).expect("it is there");
        trees.set_local(there, local(at_root(to), Seen::File(Some(file("bytes"))), touched));
        assert_eq!(observer.turns_out_to_be(&trees, there), Some(A), "{to}");
    }
}

/// A file was deleted, and a download took its inode before anybody looked. When the deletion was seen, the
/// inode went with it, and the download, renamed, was another file.
#[test]
fn a_file_on_the_inode_of_one_that_is_gone_is_still_known_when_it_moves() {
    let mut trees =
        trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11)), (C, agreed_file(&at_root("c"), "new", 12))]);
    let download = Fingerprint { birth: Some(99), ..print(11, 3) };
    trees.set_local(B, local(at_root("b"), Seen::File(None), download));
    trees.set_synced(B, trees.synced(C));
    let mut observer = Observer::default();
    observer.look_at_name(trees.root(), b"a");
    look(&mut observer, &mut trees, |_| root_with(vec![found_file("a", print(12, 3))]));
    assert_eq!(where_is(&trees, C).as_deref(), Some("a"), "it was moved over the deleted one");

    observer.look_at_everything(&trees);
    look(&mut observer, &mut trees, |_| root_with(vec![found_file("a", print(12, 3)), found_file("moved", download)]));
    assert_eq!(where_is(&trees, B).as_deref(), Some("moved"));
}

#[test]
fn what_is_missing_in_one_folder_may_turn_up_in_a_later_one() {
    let mut trees = folder_with_file();
    trees.set_local(C, local(at_root("e"), Seen::Directory, print(12, 0)));
    let folder_e = || found("e", FileKind::Directory, print(12, 0));
    observe(&mut trees, |directory| match directory {
        "d" => Ok(listing(print(10, 0), Vec::new())),
        "e" => Ok(listing(print(12, 0), vec![found_file("g", print(11, 5))])),
        _ => root_with(vec![folder_d(), folder_e()]),
    });
    assert_eq!(where_is(&trees, B), Some(path("e/g").to_string()));
}

#[test]
fn two_names_of_one_inode_are_two_files_and_neither_moves() {
    let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    observe(&mut trees, |_| root_with(vec![found_file("a", print(11, 5)), found_file("b", print(11, 5))]));
    assert_eq!(where_is(&trees, A).as_deref(), Some("a"));
    assert_eq!(trees.local_children(trees.root()).count(), 2);
}

#[test]
fn a_folder_that_takes_the_place_of_one_that_moved_away_is_another() {
    let mut trees = folder_with_file();
    let moved = || found("moved", FileKind::Directory, print(10, 0));
    let new = || found("d", FileKind::Directory, print(20, 0));
    observe(&mut trees, |directory| match directory {
        "moved" => Ok(listing(print(10, 0), vec![found_file("f", print(11, 5))])),
        "d" => Ok(listing(print(20, 0), vec![found_file("f", print(21, 4))])),
        _ => root_with(vec![new(), moved()]),
    });
    assert_eq!(where_is(&trees, A).as_deref(), Some("moved"));
    assert_eq!(where_is(&trees, B).as_deref(), Some("moved/f"));
    assert_eq!(trees.rows().filter(|(_, row)| row.local.is_some()).count(), 4, "and two new nodes");
}

#[test]
fn a_folder_that_was_removed_and_made_again_is_the_same() {
    let mut trees = folder_with_file();
    observe(&mut trees, |directory| match directory {
        "d" => Ok(listing(print(20, 0), vec![found_file("f", print(21, 4))])),
        _ => root_with(vec![found("d", FileKind::Directory, print(20, 0))]),
    });
    assert_eq!((where_is(&trees, A).as_deref(), where_is(&trees, B).as_deref()), (Some("d"), Some("d/f")));
}

/// A program's temporary file that is renamed over another one is an edit of that. A file that is on its way
/// to the server and then renamed over another one is not: it would be there under both names.
#[test]
fn a_file_that_the_server_is_being_told_of_is_moved_over_another_and_not_an_edit_of_it() {
    for (told, moved) in [(BTreeSet::new(), false), (BTreeSet::from([A]), true)] {
        let mut trees = trees(Vec::new());
        trees.set_local(A, local(at_root("new"), Seen::File(None), print(11, 5)));
        trees.set_local(B, local(at_root("b"), Seen::File(None), print(12, 5)));
        let mut observer = Observer::default();
        observer.set_told(told);
        observer.look_at_everything(&trees);
        look(&mut observer, &mut trees, |_| root_with(vec![found_file("b", print(11, 5))]));
        let there = trees.local_child(trees.root(), &name("b").key());
        assert_eq!(there, Some(if moved { A } else { B }));
        assert_eq!(trees.rows().count(), 1);
    }
}

/// HFS+ gives names back in NFD. A file that had just been installed was looked for under the name that it
/// had been given, not found, and deleted on the server.
#[test]
fn a_file_that_the_disk_spells_in_its_own_way_is_not_gone() {
    let mut trees = trees(vec![(A, agreed_file(&at_root("\u{e9}"), "bytes", 11))]);
    let mut observer = Observer::default();
    observer.has_been_put(A, &name("\u{e9}"));
    observer.look_at_name(trees.root(), "\u{e9}".as_bytes());
    look(&mut observer, &mut trees, |target| match target.extent {
        Extent::Names(_) => root_with(Vec::new()),
        Extent::All => root_with(vec![found_file("e\u{301}", print(11, 5))]),
    });
    assert_eq!(where_is(&trees, A).as_deref(), Some("e\u{301}"));

    observer.look_at_name(trees.root(), "e\u{301}".as_bytes());
    look(&mut observer, &mut trees, |_| root_with(Vec::new()));
    assert_eq!(where_is(&trees, A), None, "but when it is gone it is gone");
}

/// The watcher told of a new file in a folder by the folder's new name, before that name was known.
#[test]
fn a_new_file_in_a_folder_that_was_renamed_just_before_is_seen() {
    let mut trees = folder_with_file();
    let mut observer = Observer::default();
    observer.look_at(&trees, &path("D"), b"new");
    look(&mut observer, &mut trees, |target| match &*target.directory.to_string() {
        "D" => Ok(listing(print(10, 0), vec![found_file("f", print(11, 5)), found_file("new", print(12, 3))])),
        _ => root_with(vec![found("D", FileKind::Directory, print(10, 0))]),
    });
    assert_eq!(where_is(&trees, B).as_deref(), Some("D/f"));
    assert!(trees.local_child(A, &name("new").key()).is_some());
}

/// It counted as a new file, and the one that it had been as deleted as soon as its old folder could be read.
#[test]
fn a_file_whose_old_folder_cannot_be_read_at_the_moment_waits_to_be_known_by_it() {
    for taken in [None, Some(12)] {
        let mut trees = folder_with_file();
        if let Some(inode) = taken {
            let there = agreed_file(&at_root("moved"), "other", inode);
            trees.set_local(C, there.local);
            trees.set_synced(C, there.synced);
        }
        let moved = || root_with(vec![folder_d(), found_file("moved", print(11, 5))]);
        let mut observer = Observer::default();
        observer.look_at_name(trees.root(), b"moved");
        look(&mut observer, &mut trees, |target| match &*target.directory.to_string() {
            "d" => Err(ScanError::Unreadable("input/output error".to_owned())),
            _ => moved(),
        });
        assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"), "nobody has seen that it left");
        assert_eq!(where_is(&trees, C).is_some(), taken.is_some(), "nor whether the other one is gone or was edited");

        observer.look_again(&trees);
        look(&mut observer, &mut trees, |target| match &*target.directory.to_string() {
            "d" => Ok(listing(print(10, 0), Vec::new())),
            _ => moved(),
        });
        assert_eq!(where_is(&trees, B).as_deref(), Some("moved"));
        assert_eq!(where_is(&trees, C), None);
    }
}

#[test]
fn a_file_whose_old_folder_stays_unreadable_is_new_after_a_while() {
    let mut trees = folder_with_file();
    let mut observer = Observer::default();
    observer.look_at_name(trees.root(), b"moved");
    for _ in 0..6 {
        look(&mut observer, &mut trees, |target| match &*target.directory.to_string() {
            "d" => Err(ScanError::Unreadable("permission denied".to_owned())),
            _ => root_with(vec![folder_d(), found_file("moved", print(11, 5))]),
        });
        observer.look_again(&trees);
    }
    assert!(trees.local_child(trees.root(), &name("moved").key()).is_some_and(|node| node != B));
    assert_eq!(where_is(&trees, B).as_deref(), Some("d/f"));
}

/// The path that the folder had was told, until everything was looked at again; nobody learnt of the file.
#[test]
fn what_cannot_be_synced_is_told_where_it_is_after_its_folder_was_renamed() {
    let mut trees = folder_with_file();
    let mut observer = Observer::default();
    observer.look_at_everything(&trees);
    look(&mut observer, &mut trees, |target| match &*target.directory.to_string() {
        "d" => Ok(listing(print(10, 0), vec![found_file("f", print(11, 5)), found_file("F", print(12, 1))])),
        _ => root_with(vec![folder_d()]),
    });
    let told = |observer: &Observer, trees: &Trees| {
        observer.problems().iter(trees).map(|(path, _)| path.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(&observer, &trees), ["d/F"]);
    let mut local = trees.local(A).expect("the folder");
    local.place = at_root("e");
    trees.set_local(A, Some(local));
    assert_eq!(told(&observer, &trees), ["e/F"]);
    assert!(observer.problems().at(&trees, &path("e/F")).is_some());

    observer.relabelled(A, C);
    trees.relabel(A, C);
    assert_eq!(told(&observer, &trees), ["e/F"], "a folder that turns out to be another node keeps them");

    observer.look_at_name(trees.root(), b"e");
    look(&mut observer, &mut trees, |_| root_with(Vec::new()));
    assert_eq!(observer.problems().len(), 0, "what was in a folder is gone with it");
}

/// The client had put it where the server has it, and was killed before it could note that. What the user wrote into it
/// there was a new file, and the one that the server has came back beside it.
#[test]
fn without_birth_times_a_file_where_the_server_has_it_is_known_whatever_was_written_into_it() {
    let before = Fingerprint { birth: None, ..print(11, 5) };
    let edited = Fingerprint { mtime: Mtime(8), ctime: 8, size: 6, ..before };
    for (server_has, known) in [("b", true), ("c", false)] {
        let mut row = agreed_file(&at_root("a"), "bytes", 11);
        row.local = row.local.map(|there| sync_engine::tree::Local { print: before, ..there });
        row.remote = row.remote.map(|there| sync_engine::tree::Remote { place: at_root(server_has), ..there });
        let mut trees = trees(vec![(A, row)]);
        observe(&mut trees, |_| root_with(vec![found_file("b", edited)]));
        assert_eq!(where_is(&trees, A).as_deref() == Some("b"), known, "{server_has}");
    }
}

/// Answers a look with the entries that it asks for.
fn seen_by(target: &ScanTarget, entries: &[Found]) -> Result<DirectoryListing, ScanError> {
    let wanted = |entry: &&Found| match &target.extent {
        Extent::All => true,
        Extent::Names(names) => names.contains(&entry.name),
    };
    root_with(entries.iter().filter(wanted).cloned().collect())
}

/// The other one was not synced until everything was looked at again, an hour later.
#[test]
fn what_differs_only_in_case_is_synced_as_soon_as_the_other_one_is_gone() {
    let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    let (kept_out, gone) = (found_file("A", print(12, 1)), found_file("a", print(11, 5)));
    let mut observer = Observer::default();
    observer.look_at_everything(&trees);
    look(&mut observer, &mut trees, |target| seen_by(target, &[gone.clone(), kept_out.clone()]));
    assert_eq!(observer.problems().len(), 1);

    observer.look_at_name(trees.root(), b"a");
    look(&mut observer, &mut trees, |target| seen_by(target, std::slice::from_ref(&kept_out)));
    assert_eq!(observer.problems().len(), 0);
    let there = trees.local_child(trees.root(), &name("A").key()).expect("it is in the tree");
    assert_eq!(where_is(&trees, there).as_deref(), Some("A"));
}

/// It counted as a rename, although the first name was still there.
#[test]
fn a_second_hard_link_whose_name_differs_only_in_case_is_no_rename() {
    let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    let linked = Fingerprint { ctime: 8, ..print(11, 5) };
    let mut observer = Observer::default();
    observer.look_at_name(trees.root(), b"A");
    let links = [found_file("A", linked), found_file("a", linked)];
    look(&mut observer, &mut trees, |target| seen_by(target, &links));
    assert_eq!(where_is(&trees, A).as_deref(), Some("a"));
    assert_eq!(observer.problems().len(), 1);
}

/// What a look at it showed was thrown away: a child that was gone was moved out of it for ever.
#[test]
fn what_waits_in_the_parking_place_is_found_there_and_told_by_the_servers_path() {
    let parked = Place { parent: PARKED, name: name("0123") };
    let folder = NodeRow { local: local(parked, Seen::Directory, print(10, 0)), ..agreed_folder(&at_root("d"), 10) };
    let trees = trees(vec![(A, folder), (B, agreed_file(&in_folder(A, "b"), "bytes", 11))]);
    for (at, node) in [("", PARKED), ("/0123", A), ("/0123/b", B)] {
        let path = path(&format!(".syncline/parked{at}"));
        assert_eq!(trees.at_path(&path), Some(node));
        assert_eq!(trees.local_path(node), Some(path));
    }
    assert_eq!(trees.at_path(&path(".syncline/parkedplace/0123")), None);
    assert_eq!((trees.display_path(A), trees.display_path(B)), ("d".to_owned(), "d/b".to_owned()));
}
