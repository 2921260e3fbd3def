//! The conflict table, row by row. "Theirs" is device 0, which commits first; "mine" is device 1, which
//! was offline.

use crate::script::{Script, copy};
use simulation::history::{DeviceEvent, Guard, ServerEvent, ShareRole};

/// Two devices that agree on some files and folders (a path with `/` at its end), then part.
fn parted(paths: &[&str]) -> Script {
    let mut script = Script::new(2);
    for path in paths {
        match path.strip_suffix('/') {
            Some(folder) => script.mkdir(0, folder),
            None => script.write(0, path, &format!("old {path}")),
        };
    }
    script.settle().offline(1);
    script
}

#[test]
fn edits_with_the_same_result_converge_silently() {
    let mut script = parted(&["a"]);
    script.write(0, "a", "same").settle_online().write(1, "a", "same").expect(&["a = same"]);
}

#[test]
fn of_two_edits_the_committed_one_keeps_the_name_and_the_other_becomes_a_copy() {
    let mut script = parted(&["a.txt"]);
    script.write(0, "a.txt", "theirs").settle_online().write(1, "a.txt", "mine");
    script.expect(&["a.txt = theirs".to_owned(), format!("{}.txt = mine", copy("a", 1))]);
}

#[test]
fn an_edit_beats_a_deletion() {
    let mut script = parted(&["a"]);
    script.delete(0, "a").settle_online().write(1, "a", "mine").expect(&["a = mine"]);
}

#[test]
fn an_edit_in_a_deleted_folder_brings_the_folder_back() {
    let mut script = parted(&["d/", "d/e/", "d/e/a", "d/b"]);
    script.delete(0, "d").settle_online().write(1, "d/e/a", "mine").expect(&["d/", "d/e/", "d/e/a = mine"]);
}

#[test]
fn a_deletion_of_what_was_edited_is_dropped() {
    let mut script = parted(&["a"]);
    script.write(0, "a", "theirs").settle_online().delete(1, "a").expect(&["a = theirs"]);
}

#[test]
fn a_deletion_reaches_only_what_is_where_the_deleter_saw_it() {
    let mut script = parted(&["a", "d/"]);
    script.rename(0, "a", "d/a").settle_online().delete(1, "a").expect(&["d/", "d/a = old a"]);
}

#[test]
fn a_move_of_what_was_deleted_is_dropped() {
    let mut script = parted(&["a", "d/"]);
    script.delete(0, "a").settle_online().rename(1, "a", "d/a").expect(&["d/"]);
}

#[test]
fn of_two_moves_the_committed_one_stays_and_nothing_is_doubled() {
    let mut script = parted(&["a", "d/", "e/"]);
    script.rename(0, "a", "d/a").settle_online().rename(1, "a", "e/a").expect(&["d/", "d/a = old a", "e/"]);
}

#[test]
fn folders_moved_into_each_other_do_not_vanish() {
    let mut script = parted(&["a/", "a/x", "b/", "b/y"]);
    script.rename(0, "a", "b/a").settle_online().rename(1, "b", "a/b");
    script.expect(&["b/", "b/a/", "b/a/x = old a/x", "b/y = old b/y"]);
}

#[test]
fn a_move_into_a_deleted_folder_is_reverted() {
    let mut script = parted(&["a", "d/"]);
    script.delete(0, "d").settle_online().rename(1, "a", "d/a").expect(&["a = old a"]);
}

#[test]
fn files_made_with_the_same_content_are_one() {
    let mut script = parted(&[]);
    script.write(0, "a", "same").settle_online().write(1, "a", "same").expect(&["a = same"]);
}

#[test]
fn files_made_under_one_name_are_both_kept() {
    let mut script = parted(&[]);
    script.write(0, "a", "theirs").settle_online().write(1, "a", "mine");
    script.expect(&["a = theirs".to_owned(), format!("{} = mine", copy("a", 1))]);
}

#[test]
fn names_that_differ_in_case_alone_are_one_name() {
    let mut script = parted(&[]);
    script.write(0, "readme", "theirs").settle_online().write(1, "README", "mine");
    script.expect(&["readme = theirs".to_owned(), format!("{} = mine", copy("README", 1))]);
}

#[test]
fn names_that_differ_in_normal_form_alone_are_one_name() {
    let mut script = parted(&[]);
    script.write(0, "\u{e9}", "theirs").settle_online().write(1, "e\u{301}", "mine");
    script.expect(&["\u{e9} = theirs".to_owned(), format!("{} = mine", copy("\u{e9}", 1))]);
}

#[test]
fn folders_made_under_one_name_are_merged() {
    let mut script = parted(&[]);
    script.mkdir(0, "d").write(0, "d/x", "theirs").settle_online().mkdir(1, "D").write(1, "D/y", "mine");
    script.expect(&["d/", "d/x = theirs", "d/y = mine"]);
}

#[test]
fn a_folder_that_i_deleted_and_they_made_anew_stays() {
    let mut script = parted(&["d/", "d/x"]);
    script.delete(0, "d").mkdir(0, "d").write(0, "d/y", "theirs").settle_online().delete(1, "d");
    script.expect(&["d/", "d/y = theirs"]);
}

#[test]
fn a_deleted_folder_stays_for_what_the_deleter_had_not_seen() {
    let mut script = parted(&["d/", "d/seen"]);
    script.write(0, "d/unseen", "theirs").settle_online().delete(1, "d").expect(&["d/", "d/unseen = theirs"]);
}

#[test]
fn a_file_replaced_by_a_folder_leaves_an_edit_beside_it() {
    let mut script = parted(&["a"]);
    script.delete(0, "a").mkdir(0, "a").write(0, "a/x", "theirs").settle_online().write(1, "a", "mine");
    script.expect(&["a/".to_owned(), "a/x = theirs".to_owned(), format!("{} = mine", copy("a", 1))]);
}

#[test]
fn a_change_of_case_alone_is_a_rename_of_the_same_file() {
    let mut script = parted(&["a"]);
    script.rename(1, "a", "A").settle().rename(0, "A", "AA").settle_online();
    script.expect(&["AA = old a"]);
}

#[test]
fn an_edit_offline_in_a_folder_to_look_at_stays_on_the_device_and_the_original_comes_back() {
    let mut script = Script::shared(ShareRole::Viewer);
    script.write(0, "team/a", "old").settle().offline(1).write(1, "team/a", "mine").settle();
    script.expect_on(0, &["team/", "team/a = old"]);
    script.expect_on(1, &["team/", "team/a = old", "team/a (local copy dev1 2026-11-23) = mine"]);
}

#[test]
fn both_members_of_a_shared_folder_change_it() {
    let mut script = Script::shared(ShareRole::Editor);
    script.write(0, "team/a", "from 0").settle().write(1, "team/b", "from 1").write(1, "team/a", "edited").settle();
    for device in 0..2 {
        script.expect_on(device, &["team/", "team/a = edited", "team/b = from 1"]);
    }
}

#[test]
fn an_execute_bit_and_a_link_travel() {
    let mut script = parted(&["a"]);
    script.executable(0, "a").link(0, "l", "a").expect(&["a* = old a", "l -> a"]);
}

#[test]
fn a_swap_of_names_is_two_moves() {
    let mut script = parted(&["a", "b"]);
    script.rename(0, "a", "t").rename(0, "b", "a").rename(0, "t", "b").expect(&["a = old b", "b = old a"]);
}

#[test]
fn a_hierarchy_can_be_inverted() {
    let mut script = parted(&["a/", "a/b/", "a/b/x"]);
    script.rename(0, "a/b", "b").rename(0, "a", "b/a").expect(&["b/", "b/a/", "b/x = old a/b/x"]);
}

#[test]
fn three_names_rotate() {
    let mut script = parted(&["a", "b", "c"]);
    script.rename(0, "a", "t").rename(0, "c", "a").rename(0, "b", "c").rename(0, "t", "b");
    script.expect(&["a = old c", "b = old a", "c = old b"]);
}

#[test]
fn a_member_who_is_removed_keeps_what_it_had_not_sent_and_nothing_else() {
    let mut script = Script::shared(ShareRole::Editor);
    script.write(0, "team/a", "old").write(0, "team/b", "theirs").settle().offline(1);
    script.write(1, "team/a", "mine").write(1, "team/new", "mine too").server(ServerEvent::RemoveMember).settle();
    script.expect_on(0, &["team/", "team/a = old", "team/b = theirs"]);
    let kept = "Unsynced (team 2026-11-23)";
    script.expect_on(1, &[format!("{kept}/"), format!("{kept}/a = mine"), format!("{kept}/new = mine too")]);
    script.server(ServerEvent::InviteMember).settle();
    let again = script.world.describe(&script.world.disk_tree(1)).join("; ");
    assert!(again.contains("team/b = theirs") && again.contains("a = mine"), "{again}");
}

#[test]
fn held_deletions_that_were_not_meant_come_back() {
    let mut knobs = crate::script::knobs(2);
    knobs.devices[0].guard = Some(Guard { count: 2, percent: 30 });
    let mut script = Script::with(knobs);
    let tree = ["a = one", "b = two", "c = three"];
    script.write(0, "a", "one").write(0, "b", "two").write(0, "c", "three").settle();
    script.delete(0, "a").delete(0, "b").wait_ms(60_000).expect_on(1, &tree);
    script.device(0, DeviceEvent::UndoDeletions).expect(&tree);
    script.delete(0, "a").delete(0, "b").wait_ms(60_000).device(0, DeviceEvent::ConfirmDeletions).expect(&tree[2..]);
}
