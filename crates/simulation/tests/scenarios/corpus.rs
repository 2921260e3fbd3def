//! What the tests of other systems look at: moves, conflicts, watching, and state that went wrong.

use crate::script::{Script, copy, knobs};
use simulation::history::DeviceEvent;
use sync_engine::io::Command;

/// Two devices that agree on some files and folders (a path with `/` at its end).
fn with(paths: &[&str]) -> Script {
    let mut script = Script::new(2);
    for path in paths {
        match path.strip_suffix('/') {
            Some(folder) => script.mkdir(0, folder),
            None => script.write(0, path, &format!("old {path}")),
        };
    }
    script.settle();
    script
}

#[test]
fn a_deep_hierarchy_moves_as_one_and_edits_deep_in_it_follow() {
    let mut script = with(&["a/", "a/b/", "a/b/c/", "a/b/c/d/", "a/b/c/d/e/", "a/b/c/d/e/f", "t/"]);
    script.offline(1).rename(0, "a/b", "t/moved").settle_online().write(1, "a/b/c/d/e/f", "edited");
    script.write(1, "a/b/c/new", "new");
    script.expect(&[
        "a/",
        "t/",
        "t/moved/",
        "t/moved/c/",
        "t/moved/c/d/",
        "t/moved/c/d/e/",
        "t/moved/c/d/e/f = edited",
        "t/moved/c/new = new",
    ]);
    assert_eq!(script.times("downloaded"), 3, "the file at first, the edit and the new file");
}

#[test]
fn of_two_names_for_one_file_the_committed_one_stays() {
    let mut script = with(&["a"]);
    script.offline(1).rename(0, "a", "theirs").settle_online().rename(1, "a", "mine").expect(&["theirs = old a"]);
}

#[test]
fn both_sides_rename_a_file_to_the_same_name() {
    let mut script = with(&["a"]);
    script.offline(1).rename(0, "a", "b").settle_online().rename(1, "a", "b").expect(&["b = old a"]);
    assert_eq!(script.times("conflict copy made"), 0);
}

#[test]
fn two_files_that_are_renamed_to_one_name_are_both_kept() {
    let mut script = with(&["a", "b"]);
    script.offline(1).rename(0, "a", "c").settle_online().rename(1, "b", "c");
    let expected = ["c = old a".to_owned(), format!("{} = old b", copy("c", 1))];
    script.expect(&expected);
}

#[test]
fn a_file_moves_away_and_a_folder_takes_its_place() {
    let mut script = with(&["a", "d/"]);
    script.offline(1).rename(0, "a", "d/a").mkdir(0, "a").write(0, "a/x", "inside").settle_online();
    script.write(1, "a", "edited").expect(&["a/", "a/x = inside", "d/", "d/a = edited"]);
}

#[test]
fn a_move_and_a_new_time_at_once_send_no_content() {
    let mut script = with(&["a", "d/"]);
    let (blocks, downloaded) = (script.times("blocks sent"), script.times("downloaded"));
    script.rename(0, "a", "d/b").touch(0, "d/b", 1_000_000_000).expect(&["d/", "d/b = old a"]);
    assert_eq!((script.times("blocks sent"), script.times("conflict copy made")), (blocks, 0));
    assert!(script.times("downloaded") <= downloaded + 1);
}

#[test]
fn a_move_that_fails_for_a_while_is_done_later_and_leaves_everything() {
    let mut knobs = knobs(2);
    knobs.local.error = 600;
    let mut script = Script::with(knobs);
    script.mkdir(0, "d").write(0, "d/x", "one").write(0, "a", "two").settle();
    script.rename(0, "d", "e").rename(0, "a", "e/a").wait_ms(60_000);
    assert!(script.times("file error") > 0);
    script.expect(&["e/", "e/a = two", "e/x = one"]);
}

#[test]
fn files_that_move_again_before_the_first_move_arrived_end_where_they_went_last() {
    for between_ms in (0..400).step_by(40) {
        let mut script = with(&["a", "b", "d/", "e/"]);
        script.rename(0, "a", "d/a").rename(0, "b", "d/b").wait_ms(between_ms);
        script.rename(0, "d/a", "e/a").rename(0, "d/b", "e/c").wait_ms(between_ms).rename(0, "e/c", "a");
        script.expect(&["a = old b", "d/", "e/", "e/a = old a"]);
    }
}

#[test]
fn a_folder_is_renamed_and_another_made_under_its_old_name() {
    let mut script = with(&["d/", "d/x"]);
    script.rename(0, "d", "e").mkdir(0, "d").write(0, "d/x", "new");
    script.expect(&["d/", "d/x = new", "e/", "e/x = old d/x"]);
}

#[test]
fn an_edit_follows_a_renamed_folder_whose_old_name_was_used_again() {
    let mut script = with(&["d/", "d/x"]);
    script.offline(1).rename(0, "d", "e").wait_ms(5000).mkdir(0, "d").write(0, "d/x", "new").settle_online();
    script.write(1, "d/x", "edited").expect(&["d/", "d/x = new", "e/", "e/x = edited"]);
}

#[test]
fn two_devices_move_a_folder_and_what_is_in_it() {
    let mut script = with(&["d/", "d/x", "d/y", "t/"]);
    script.offline(1).rename(0, "d", "t/d").write(0, "t/d/new", "theirs").settle_online();
    script.rename(1, "d/x", "x").rename(1, "d", "e").write(1, "e/also", "mine");
    script.expect(&["t/", "t/d/", "t/d/also = mine", "t/d/new = theirs", "t/d/y = old d/y", "x = old d/x"]);
}

#[test]
fn two_devices_delete_a_folder_at_once() {
    let mut script = with(&["d/", "d/x", "a"]);
    script.offline(1).delete(0, "d").settle_online().delete(1, "d").expect(&["a = old a"]);
}

#[test]
fn a_folder_is_deleted_while_another_device_moves_what_is_in_it_out() {
    let mut script = with(&["d/", "d/x", "d/y"]);
    script.offline(1).rename(0, "d/x", "x").settle_online().delete(1, "d").expect(&["x = old d/x"]);
}

#[test]
fn a_file_deleted_on_both_sides_is_gone_and_its_name_is_free() {
    let mut script = with(&["a"]);
    script.offline(1).delete(0, "a").settle_online().delete(1, "a").settle();
    script.write(1, "a", "another").expect(&["a = another"]);
    assert_eq!(script.times("conflict copy made"), 0);
}

#[test]
fn three_devices_that_edit_one_file_leave_three_versions() {
    let mut script = Script::new(3);
    script.write(0, "a.txt", "old").settle().offline(1).offline(2);
    script.write(0, "a.txt", "from 0").settle_online().write(1, "a.txt", "from 1").write(2, "a.txt", "from 2");
    let copies = [format!("{}.txt = from 1", copy("a", 1)), format!("{}.txt = from 2", copy("a", 2))];
    script.expect(&["a.txt = from 0", &copies[0], &copies[1]]);
}

#[test]
fn two_conflicts_of_one_file_on_one_day_leave_two_copies() {
    let mut script = with(&["a"]);
    for round in 1..=2 {
        script.offline(1).write(0, "a", &format!("theirs {round}")).settle_online();
        script.write(1, "a", &format!("mine {round}")).settle();
    }
    let second = "a (conflicted copy dev1 2026-11-23 2) = mine 2";
    script.expect(&["a = theirs 2", &format!("{} = mine 1", copy("a", 1)), second]);
}

#[test]
fn a_conflict_about_a_conflicted_copy_is_a_conflict_like_any_other() {
    let mut script = with(&["a"]);
    script.offline(1).write(0, "a", "theirs").settle_online().write(1, "a", "mine").settle();
    let name = copy("a", 1);
    script.offline(1).write(0, &name, "their edit").settle_online().write(1, &name, "my edit");
    let second = "a (conflicted copy dev1 2026-11-23 2) = my edit";
    script.expect(&["a = theirs", &format!("{name} = their edit"), second]);
}

#[test]
fn a_folder_here_and_a_file_there_under_one_name_are_both_kept() {
    let mut script = with(&[]);
    script.offline(1).write(0, "a", "theirs").settle_online().mkdir(1, "a").write(1, "a/x", "mine").settle();
    let tree = script.world.describe(&script.world.disk_tree(0)).join("; ");
    assert!(tree.contains("a = theirs") || tree.contains("= theirs"), "{tree}");
    assert!(tree.contains("/x = mine"), "{tree}");
}

#[test]
fn a_file_here_and_a_folder_there_under_one_name_are_both_kept() {
    let mut script = with(&[]);
    script.offline(1).mkdir(0, "a").write(0, "a/x", "theirs").settle_online().write(1, "a", "mine");
    script.expect(&["a/", "a/x = theirs", &format!("{} = mine", copy("a", 1))]);
}

#[test]
fn an_empty_folder_becomes_a_file_and_back() {
    let mut script = with(&["d/"]);
    script.delete(0, "d").write(0, "d", "a file now").settle();
    script.delete(1, "d").mkdir(1, "d").write(1, "d/x", "inside").expect(&["d/", "d/x = inside"]);
}

#[test]
fn an_empty_folder_becomes_a_file_while_another_device_fills_it() {
    let mut script = with(&["d/"]);
    script.offline(1).delete(0, "d").write(0, "d", "a file now").settle_online().write(1, "d/x", "mine").settle();
    let tree = script.world.describe(&script.world.disk_tree(0)).join("; ");
    assert!(tree.contains("= a file now") && tree.contains("/x = mine"), "{tree}");
}

#[test]
fn fifty_files_that_appear_while_a_sync_runs_all_arrive() {
    let mut script = with(&["d/"]);
    for n in 0..50 {
        script.write(n % 2, &format!("d/{n}"), &format!("file {n}")).wait_ms(7);
        if n % 10 == 9 {
            script.delete(n % 2, &format!("d/{n}"));
        }
    }
    let kept = (0..50).filter(|n| n % 10 != 9).map(|n| format!("d/{n} = file {n}"));
    let expected: Vec<String> = ["d/".to_owned()].into_iter().chain(kept).collect();
    script.expect(&expected);
}

/// As after a write through a memory map, of which no event tells.
#[test]
fn a_change_that_no_event_told_is_found_within_the_hour() {
    let mut knobs = knobs(2);
    knobs.devices[0].lost_hints = 1000;
    let mut script = Script::with(knobs);
    script.write(0, "a", "first").settle().write(0, "a", "second").wait_ms(30 * 60_000);
    script.expect_on(1, &["a = first"]).wait_ms(60 * 60_000).expect_on(1, &["a = second"]);
}

/// A folder that is moved out of the synced one is deleted, and one that is moved in is new; both at once
/// under one name are a deletion and new files.
#[test]
fn a_folder_that_leaves_and_another_that_comes_under_its_name() {
    let mut script = with(&["d/", "d/x", "d/y"]);
    script.delete(0, "d").mkdir(0, "d").write(0, "d/x", "another").expect(&["d/", "d/x = another"]);
}

#[test]
fn a_deletion_that_failed_here_is_done_later_and_told_to_nobody_as_something_else() {
    let mut knobs = knobs(2);
    knobs.local.error = 900;
    let mut script = Script::with(knobs);
    script.mkdir(0, "d").write(0, "d/x", "one").write(0, "d/y", "two").write(0, "a", "three").settle();
    script.delete(0, "d").wait_ms(200).device(1, DeviceEvent::Kill { down_ms: 500 }).wait_ms(20_000);
    script.device(1, DeviceEvent::Kill { down_ms: 500 }).expect(&["a = three"]);
}

#[test]
fn words_that_mean_something_to_servers_are_names_like_any_other() {
    let names = ["personal", "v1", "api", "admin", ".git", "~", "aux", "con.txt", "desktop.ini", "%2e%2e", "a?b#c"];
    let mut script = Script::new(2);
    for name in names {
        script.mkdir(0, name).write(0, &format!("{name}/x"), &format!("in {name}"));
    }
    let expected: Vec<String> =
        names.iter().flat_map(|name| [format!("{name}/"), format!("{name}/x = in {name}")]).collect();
    script.expect(&expected).command(1, Command::RebuildIndex).expect(&expected);
}
