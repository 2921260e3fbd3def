//! What other programs, errors and crashes do between any two operations of a change.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::fs::FsError;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use support::{Folder, Meddled, NODE, apply, broken, content, local};
use sync_engine::io::{Fingerprint, LocalStep, StepError};

/// A program that saves a file in place.
fn save_in_place(path: &Path) {
    fs::write(path, "EDIT").unwrap();
}

/// A program that saves a file by replacing it.
fn save_by_rename(path: &Path) {
    let new = path.with_file_name(".swp");
    fs::write(&new, "EDIT").unwrap();
    fs::rename(&new, path).unwrap();
}

type Save = fn(&Path);
type Plan = fn(&Folder) -> LocalStep;

const SAVES: [Save; 2] = [save_in_place, save_by_rename];

fn replace_file(folder: &Folder) -> LocalStep {
    folder.install("f", "NEW", Some(folder.expect("f")))
}

fn replace_by_symlink(folder: &Folder) -> LocalStep {
    LocalStep::MakeSymlink { node: NODE, path: local("f"), target: "there".into(), replace: Some(folder.expect("f")) }
}

fn remove(folder: &Folder) -> LocalStep {
    LocalStep::Remove { node: NODE, path: local("f"), expect: folder.expect("f") }
}

fn move_away(folder: &Folder) -> LocalStep {
    LocalStep::Move { node: NODE, from: local("f"), to: local("g"), expect: folder.expect("f") }
}

fn set_attributes(folder: &Folder) -> LocalStep {
    let content = sync_engine::tree::FileContent { executable: true, ..content(b"OLD!") };
    LocalStep::SetAttributes { node: NODE, path: local("f"), content, expect: folder.expect("f") }
}

fn folder_with_file() -> Folder {
    let folder = Folder::new();
    // As long as the edit, so that only the times tell them apart; and from long ago, since the engine
    // expects nothing of a file before its times have settled.
    folder.write("f", "OLD!");
    let file = fs::File::options().write(true).open(folder.path("f")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_500_000_000)).unwrap();
    folder
}

/// Runs the step once per operation, with a save before that operation.
fn save_before_each_operation(plan: Plan, save: Save, check: impl Fn(&Folder, Result<Option<Fingerprint>, StepError>)) {
    let mut at = 0;
    loop {
        let folder = folder_with_file();
        let step = plan(&folder);
        let target: PathBuf = folder.path("f");
        let fs = Meddled::new(&folder.disk, move |_, number| {
            if number == at {
                save(&target);
            }
            Ok(())
        });
        let result = apply(&fs, vec![step]).remove(0);
        if fs.calls() <= at {
            return;
        }
        folder.clean();
        check(&folder, result);
        at += 1;
    }
}

#[test]
fn an_edit_at_any_moment_of_a_replacement_survives() {
    for save in SAVES {
        for plan in [replace_file, replace_by_symlink] {
            save_before_each_operation(plan, save, |folder, result| {
                assert!(folder.texts().contains(&"EDIT".to_owned()), "{result:?} {:?}", folder.texts());
                let in_place = fs::read_to_string(folder.path("f")).ok();
                assert_eq!(in_place.as_deref(), Some("EDIT"), "under its own name: {result:?}");
            });
        }
    }
}

#[test]
fn an_edit_at_any_moment_of_a_removal_survives() {
    for save in SAVES {
        save_before_each_operation(remove, save, |folder, result| {
            assert!(folder.texts().contains(&"EDIT".to_owned()), "{result:?} {:?}", folder.texts());
            let in_place = fs::read_to_string(folder.path("f")).ok();
            assert_eq!(in_place.as_deref(), Some("EDIT"), "under its own name: {result:?}");
        });
    }
}

/// What was removed stays aside until the end of the batch, and a program may have it open.
#[test]
fn what_a_program_writes_into_the_open_file_until_the_end_of_the_batch_survives() {
    let mut at = 0;
    loop {
        let folder = folder_with_file();
        folder.write("g", "other");
        let steps =
            vec![remove(&folder), LocalStep::Remove { node: NODE, path: local("g"), expect: folder.expect("g") }];
        let open = fs::File::options().append(true).open(folder.path("f")).unwrap();
        let written = Arc::new(AtomicBool::new(false));
        let writes = Arc::clone(&written);
        let fs = Meddled::new(&folder.disk, move |what, number| {
            // Between the last look and the removal nobody can tell any more.
            if number == at && what != "unlink" {
                (&open).write_all(b"EDIT").unwrap();
                writes.store(true, Ordering::SeqCst);
            }
            Ok(())
        });
        apply(&fs, steps);
        if !written.load(Ordering::SeqCst) {
            assert!(at > 4, "both were moved aside first");
            return;
        }
        assert!(folder.texts().contains(&"OLD!EDIT".to_owned()), "before {at}: {:?}", folder.texts());
        at += 1;
    }
}

/// It opens the file for writing at any moment, and writes when all is over. Where it has to wait, it goes on with the file
/// that it waited for.
#[test]
fn what_a_program_writes_that_opens_the_file_at_any_moment_is_in_the_folder() {
    for plan in [replace_file, replace_by_symlink, remove] {
        let (mut at, mut waited) = (0, 0);
        loop {
            let folder = folder_with_file();
            let step = plan(&folder);
            let target = folder.path("f");
            let opened = Arc::new(Mutex::new(None));
            let opening = Arc::clone(&opened);
            let fs = Meddled::new(&folder.disk, move |_, number| {
                if number == at {
                    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOFOLLOW;
                    *opening.lock().unwrap() = Some(rustix::fs::open(&target, flags, Mode::empty()));
                }
                Ok(())
            });
            let fs = fs.telling_writers();
            let result = apply(&fs, vec![step]).remove(0);
            if fs.calls() <= at {
                break;
            }
            at += 1;
            match opened.lock().unwrap().take() {
                Some(Ok(file)) => {
                    fs::File::from(file).write_all(b"EDIT").unwrap();
                    assert!(
                        folder.texts().iter().any(|text| text.ends_with("EDIT")),
                        "{result:?} {:?}",
                        folder.texts()
                    );
                }
                Some(Err(Errno::WOULDBLOCK)) => {
                    waited += 1;
                    assert_eq!(result, Err(StepError::InUse));
                    assert_eq!(folder.read("f").as_deref(), Some("OLD!"), "it goes on with this one");
                }
                // It is gone already, or a symlink.
                Some(Err(_)) | None => {}
            }
        }
        assert!(waited > 0, "in some of {at} moments it has to wait");
    }
}

#[test]
fn an_edit_at_any_moment_of_a_move_or_an_attribute_change_survives() {
    for save in SAVES {
        for plan in [move_away, set_attributes as Plan] {
            save_before_each_operation(plan, save, |folder, result| {
                assert!(folder.texts().contains(&"EDIT".to_owned()), "{result:?} {:?}", folder.texts());
            });
        }
    }
}

/// What is reported as done must not describe an edit: the engine would take it for synced.
#[test]
fn a_reported_fingerprint_never_belongs_to_an_edit() {
    for save in SAVES {
        for plan in [replace_file, move_away, set_attributes as Plan] {
            save_before_each_operation(plan, save, |folder, result| {
                for name in ["f", "g"] {
                    let is_edit = folder.read(name).as_deref() == Some("EDIT");
                    assert!(!is_edit || result != Ok(Some(folder.print(name))), "{name}: {result:?}");
                }
            });
        }
    }
}

#[test]
fn a_symlink_planted_in_the_path_at_any_moment_is_never_followed() {
    let mut at = 0;
    loop {
        let folder = Folder::new();
        fs::create_dir_all(folder.path("d/e")).unwrap();
        folder.write("d/e/f", "OLD!");
        let outside = folder.dir.path().join("outside");
        fs::create_dir_all(outside.join("e")).unwrap();
        fs::write(outside.join("e/f"), "OUTSIDE").unwrap();
        let steps = vec![
            folder.install("d/e/f", "NEW", Some(folder.expect("d/e/f"))),
            LocalStep::MakeDirectory { node: NODE, path: local("d/e/new") },
            LocalStep::MakeSymlink { node: NODE, path: local("d/e/link"), target: "x".into(), replace: None },
            LocalStep::Install {
                node: NODE,
                path: local("d/e/empty"),
                temp: None,
                content: content(b""),
                replace: None,
            },
        ];
        let (parent, moved) = (folder.path("d"), folder.path("moved"));
        let target = outside.clone();
        let fs = Meddled::new(&folder.disk, move |_, number| {
            if number == at {
                fs::rename(&parent, &moved).unwrap();
                std::os::unix::fs::symlink(&target, &parent).unwrap();
            }
            Ok(())
        });
        apply(&fs, steps);
        assert_eq!(fs::read_to_string(outside.join("e/f")).unwrap(), "OUTSIDE");
        assert_eq!(fs::read_dir(outside.join("e")).unwrap().count(), 1, "nothing was made outside");
        if fs.calls() <= at {
            return;
        }
        at += 1;
    }
}

/// Every operation from the `at`-th on fails, as after a crash.
fn crash_at(at: usize) -> impl Fn(&'static str, usize) -> Result<(), FsError> + Send + Sync {
    move |_, number| if number >= at { Err(broken()) } else { Ok(()) }
}

fn crash_before_each_operation(plan: Plan, is_whole: impl Fn(&Folder) -> bool) {
    let mut at = 0;
    loop {
        let folder = folder_with_file();
        let step = plan(&folder);
        let fs = Meddled::new(&folder.disk, crash_at(at));
        apply(&fs, vec![step]);
        assert!(is_whole(&folder), "before the clean-up, crash at {at}: {:?}", folder.texts());
        folder.clean();
        assert!(is_whole(&folder), "crash at {at}: {:?}", folder.texts());
        assert_eq!(folder.temps(), Vec::<String>::new(), "crash at {at}");
        if fs.calls() <= at {
            return;
        }
        at += 1;
    }
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_or_the_new_state_and_nothing_else() {
    crash_before_each_operation(replace_file, |folder| folder.texts() == ["NEW"] || folder.texts() == ["OLD!"]);
    crash_before_each_operation(remove, |folder| folder.texts().is_empty() || folder.texts() == ["OLD!"]);
    crash_before_each_operation(move_away, |folder| folder.texts() == ["OLD!"]);
    crash_before_each_operation(set_attributes, |folder| folder.texts() == ["OLD!"]);
    crash_before_each_operation(replace_by_symlink, |folder| {
        let link = fs::read_link(folder.path("f"));
        folder.texts() == ["OLD!"] || (folder.texts().is_empty() && link.is_ok())
    });
}

#[test]
fn an_edit_followed_by_a_crash_survives_wherever_both_strike() {
    for plan in [replace_file, remove, move_away, replace_by_symlink] {
        for save in SAVES {
            let mut edit_at = 0;
            let mut strikes = true;
            while strikes {
                strikes = false;
                for crash_at in edit_at + 1..64 {
                    let folder = folder_with_file();
                    let step = plan(&folder);
                    let target = folder.path("f");
                    let fs = Meddled::new(&folder.disk, move |_, number| {
                        // In place, a save follows a symlink to a place that is not there.
                        if number == edit_at && !target.is_symlink() {
                            save(&target);
                        }
                        if number >= crash_at { Err(broken()) } else { Ok(()) }
                    });
                    apply(&fs, vec![step]);
                    let was_link = folder.path("f").is_symlink() && !folder.texts().contains(&"EDIT".to_owned());
                    folder.clean();
                    let survived = folder.texts().contains(&"EDIT".to_owned());
                    let came_late = was_link && fs.calls() > edit_at && !survived;
                    if fs.calls() <= edit_at || came_late {
                        break;
                    }
                    strikes = true;
                    assert!(survived, "edit at {edit_at}, crash at {crash_at}: {:?}", folder.texts());
                    if fs.calls() <= crash_at {
                        break;
                    }
                }
                edit_at += 1;
            }
        }
    }
}

/// The former version came back as a file of its own.
#[test]
fn a_version_that_was_replaced_stays_away_when_its_user_deletes_the_file_and_an_operation_fails() {
    for plan in [replace_file, replace_by_symlink] {
        let mut deleted_at = 0;
        let mut calls = usize::MAX;
        while deleted_at < calls {
            for failing in deleted_at..64 {
                let folder = folder_with_file();
                let step = plan(&folder);
                let target = folder.path("f");
                let fs = Meddled::new(&folder.disk, move |_, number| {
                    if number == deleted_at {
                        fs::remove_file(&target).unwrap();
                    }
                    if number == failing { Err(broken()) } else { Ok(()) }
                });
                apply(&fs, vec![step]);
                calls = fs.calls();
                folder.clean();
                let texts = folder.texts();
                assert!(!texts.contains(&"OLD!".to_owned()), "deleted at {deleted_at}, {failing} fails: {texts:?}");
                if calls <= failing {
                    break;
                }
            }
            deleted_at += 1;
        }
    }
}

#[test]
fn a_full_disk_fails_the_step_and_changes_nothing() {
    let mut at = 0;
    loop {
        let folder = folder_with_file();
        let step = replace_file(&folder);
        let full = Arc::new(AtomicBool::new(false));
        let struck = Arc::clone(&full);
        let fs = Meddled::new(&folder.disk, move |what, number| {
            let takes_space = matches!(what, "rename_new" | "exchange" | "set_mtime" | "set_permissions");
            if number == at && takes_space {
                struck.store(true, Ordering::SeqCst);
                return Err(FsError::NoSpace);
            }
            Ok(())
        });
        let result = apply(&fs, vec![step]).remove(0);
        if full.load(Ordering::SeqCst) {
            assert_eq!(result, Err(StepError::NoSpace));
            assert_eq!(folder.texts(), ["OLD!"]);
            assert_eq!(folder.temps(), ["download"], "the download can be tried again");
        }
        if fs.calls() <= at {
            return;
        }
        at += 1;
    }
}

#[test]
fn when_the_final_sync_fails_nothing_is_reported_as_done() {
    let folder = folder_with_file();
    let steps = vec![LocalStep::MakeDirectory { node: NODE, path: local("d") }, move_away(&folder)];
    let fs = Meddled::new(&folder.disk, |what, _| if what == "sync" { Err(broken()) } else { Ok(()) });
    let results = apply(&fs, steps);
    assert!(results.iter().all(|result| matches!(result, Err(StepError::Failed(_)))), "{results:?}");
}

#[test]
fn a_root_that_goes_away_in_between_fails_every_step() {
    let folder = folder_with_file();
    let (root, away) = (folder.path(""), folder.dir.path().join("away"));
    let steps = vec![LocalStep::MakeDirectory { node: NODE, path: local("d") }, remove(&folder)];
    let fs = Meddled::new(&folder.disk, move |what, _| {
        if what == "mkdir" {
            fs::rename(&root, &away).unwrap();
            fs::create_dir(&root).unwrap();
        }
        Ok(())
    });
    let results = apply(&fs, steps);
    assert!(results.iter().all(|result| matches!(result, Err(StepError::Failed(_)))), "{results:?}");
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 0, "the other folder is left alone");
    assert_eq!(fs::read_to_string(folder.dir.path().join("away/f")).unwrap(), "OLD!");
}

#[test]
fn a_root_that_goes_away_after_the_last_step_fails_every_step_too() {
    let folder = folder_with_file();
    let (root, away) = (folder.path(""), folder.dir.path().join("away"));
    let steps = vec![LocalStep::MakeDirectory { node: NODE, path: local("d") }, move_away(&folder)];
    let synced = AtomicBool::new(false);
    let fs = Meddled::new(&folder.disk, move |what, _| {
        // Behind the sync, which looks at the root itself.
        if what == "root_state" && synced.load(Ordering::SeqCst) {
            fs::rename(&root, &away).unwrap();
            fs::create_dir(&root).unwrap();
        }
        synced.fetch_or(what == "sync", Ordering::SeqCst);
        Ok(())
    });
    let results = apply(&fs, steps);
    assert!(results.iter().all(|result| matches!(result, Err(StepError::Failed(_)))), "{results:?}");
}
