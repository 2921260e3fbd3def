//! What lost data elsewhere. The numbers are those of the list of incidents.

use crate::script::{Script, copy, knobs};
use simulation::disk::{Habits, Naming, content_hash};
use simulation::history::{DeviceEvent, ServerEvent};
use simulation::world::Item;
use sync_engine::io::{Command, LocalPath};
use sync_engine::status::Phase;

fn with_files() -> Script {
    let mut script = Script::new(2);
    script.mkdir(0, "d").write(0, "d/x", "in d").write(0, "a", "at the top").settle();
    script
}

const FILES: [&str; 3] = ["a = at the top", "d/", "d/x = in d"];

fn phase(script: &Script, device: usize) -> Phase {
    script.world.devices[device].engine.as_ref().expect("runs").status().phase
}

/// 44: files that have been in sync for long are saved, and the power fails before anybody has seen that. Of some the
/// disk keeps nothing; everybody got empty files.
#[test]
fn a_power_failure_empties_no_file_that_was_saved_in_the_last_moment() {
    let mut knobs = knobs(2);
    knobs.devices[0].habits.may_lose_power = true;
    let mut script = Script::with(knobs);
    for round in 0..8 {
        for file in ["a", "b", "c"] {
            script.write(0, file, &format!("{file} in sync {round}"));
        }
        script.settle().wait_ms(60_000);
        for file in ["a", "b", "c"] {
            script.write(0, file, &format!("{file} unseen {round}"));
        }
        script.device(0, DeviceEvent::PowerLoss { down_ms: 10_000 });
        script.settle();
        let emptied: Vec<_> = script.world.disk_tree(1).into_iter().filter(|(_, item)| is_empty(item)).collect();
        assert!(emptied.is_empty(), "{emptied:?} after power failure {round}");
    }
    assert!(script.times("filled again") > 0, "it emptied some");
}

fn is_empty(item: &Item) -> bool {
    matches!(item, Item::File { content, .. } if *content == content_hash(b""))
}

/// 1: the folder is not mounted.
#[test]
fn an_unmounted_folder_deletes_nothing_and_is_told() {
    let mut script = with_files();
    script.device(0, DeviceEvent::Unmount { ms: 300_000 }).wait_ms(120_000);
    assert_eq!(phase(&script, 0), Phase::RootMissing);
    script.expect_on(1, &FILES).expect(&FILES);
}

/// 1, 19: an empty folder lies in its place, also while the client starts.
#[test]
fn an_empty_folder_in_place_of_the_synced_one_deletes_nothing() {
    let mut script = with_files();
    script.stop(0).device(0, DeviceEvent::EmptyRoot { ms: 300_000 });
    script.device(0, DeviceEvent::Kill { down_ms: 0 });
    script.wait_ms(120_000).expect_on(1, &FILES).expect(&FILES);
}

/// 10: the database is lost, the files are there.
#[test]
fn a_lost_database_is_rebuilt_from_what_is_there() {
    let mut script = with_files();
    script.device(1, DeviceEvent::LoseDatabase).expect(&FILES);
}

/// 9: the database is an old one; what was deleted and edited since must not come back or be undone.
#[test]
fn an_old_database_does_not_undo_newer_files() {
    let mut script = with_files();
    script.device(1, DeviceEvent::SaveDatabase).write(0, "a", "newer").settle();
    script.device(1, DeviceEvent::RollBackDatabase).expect(&["a = newer", "d/", "d/x = in d"]);
}

/// 11: the server's database is an old one.
#[test]
fn a_restored_server_gets_back_what_it_forgot() {
    let mut script = with_files();
    script.server(ServerEvent::Save).write(0, "new", "after the backup").write(1, "a", "edited after").settle();
    script.server(ServerEvent::Restore).settle();
    for device in 0..2 {
        let tree = script.world.describe(&script.world.disk_tree(device)).join("; ");
        assert!(tree.contains("= after the backup") && tree.contains("= edited after"), "{tree}");
    }
}

/// 12, 13: an empty server at the same address, and a first run on a folder with files.
#[test]
fn an_empty_server_is_filled_and_empties_nobody() {
    let mut script = with_files();
    script.server(ServerEvent::Empty).wait_ms(120_000).expect(&FILES);
}

/// 14: excluding a folder is no deletion, also when the client dies meanwhile.
#[test]
fn an_excluded_folder_stays_on_the_server_when_the_client_dies() {
    for after_ms in [0, 5, 20, 60, 500] {
        let mut script = with_files();
        let path = LocalPath::from_bytes(b"d").expect("a path");
        script.command(1, Command::Exclude(path)).wait_ms(after_ms).stop(1).settle();
        script.expect_on(0, &FILES);
        let excluded = !script.world.devices[1].database.state.excluded.is_empty();
        let expected: &[&str] = if excluded { &FILES[..1] } else { &FILES };
        script.expect_on(1, expected);
    }
}

/// 15: a file that cannot be made here stays there.
#[test]
fn a_name_that_the_disk_refuses_stays_on_the_server_and_is_told() {
    let refusing = Habits { refuses_colons: true, ..Habits::default() };
    let mut script = Script::on_disks(&[Habits::default(), refusing]);
    script.write(0, "a:b", "cannot be there").write(0, "c", "can").settle();
    script.expect_on(0, &["a:b = cannot be there", "c = can"]).expect_on(1, &["c = can"]);
    let problems = script.world.devices[1].engine.as_ref().expect("runs").problems(10);
    assert_eq!(problems.len(), 1, "{problems:?}");
}

/// 17: a new file in a folder that others delete.
#[test]
fn a_new_file_in_a_deleted_folder_survives() {
    let mut script = with_files();
    script.offline(1).delete(0, "d").settle_online().write(1, "d/new", "mine");
    script.expect(&["a = at the top", "d/", "d/new = mine"]);
}

/// 21: lost events of the watcher.
#[test]
fn what_the_watcher_missed_is_found() {
    let mut knobs = knobs(2);
    knobs.devices[0].lost_hints = 1000;
    let mut script = Script::with(knobs);
    script.mkdir(0, "d").write(0, "d/x", "unseen").wait_ms(10).device(0, DeviceEvent::Overflow).wait_ms(60_000);
    script.expect_on(1, &["d/", "d/x = unseen"]).expect(&["d/", "d/x = unseen"]);
}

/// 23: two contents of one length within one tick of the disk's clock.
#[test]
fn a_second_write_within_the_same_tick_is_seen() {
    for grain_ns in [4_000_000, 1_000_000_000, 2_000_000_000] {
        let coarse = Habits { grain_ns, ..Habits::default() };
        let mut script = Script::on_disks(&[coarse, coarse]);
        script.write(0, "a", "first.").wait_ms(1).write(0, "a", "second");
        script.expect(&["a = second"]);
    }
}

/// 22, 23: a file changes in the tick in which it was downloaded, and neither length nor times tell.
#[test]
fn a_write_in_the_tick_of_a_download_is_not_overwritten_by_the_next() {
    let coarse = Habits { grain_ns: 2_000_000_000, ..Habits::default() };
    let mut script = Script::on_disks(&[Habits::default(), coarse]);
    // The other device's clock is a tick ahead, so that the file comes with the time of its arrival.
    script.device(0, DeviceEvent::ClockJump { ms: 2000 });
    script.wait_ms(2000 - script.world.now % 2000).write(0, "a", "first.");
    let tick = script.world.now / 2000 + 1;
    while script.world.disk_tree(1).is_empty() {
        script.wait_ms(10);
    }
    assert_eq!(script.world.now / 2000, tick, "the file arrives in the tick of its own time");
    script.write(1, "a", "mine..").write(0, "a", "theirs").settle();
    let tree = script.world.describe(&script.world.disk_tree(0)).join("; ");
    assert!(tree.contains("mine..") && tree.contains("theirs"), "{tree}");
}

/// 24, 25: an edit and renames at once.
#[test]
fn an_edit_and_a_chain_of_renames_arrive_together() {
    let mut script = with_files();
    script.write(0, "a", "edited").rename(0, "a", "b").rename(0, "b", "d/c").rename(0, "d", "e");
    script.expect(&["e/", "e/c = edited", "e/x = in d"]);
}

/// 26: an inode number is used again.
#[test]
fn a_reused_inode_is_no_move() {
    for births in [true, false] {
        let habits = Habits { births, reuses_inodes: true, ..Habits::default() };
        let mut script = Script::on_disks(&[habits, habits]);
        script.write(0, "a", "gone...").settle().delete(0, "a").write(0, "b", "is new.");
        script.expect(&["b = is new."]);
    }
}

/// 28: a move over an existing file.
#[test]
fn a_move_over_a_file_replaces_it() {
    let mut script = with_files();
    script.rename(0, "d/x", "a").expect(&["a = in d", "d/"]);
}

/// 29: editors save by a temporary file.
#[test]
fn saving_by_rename_is_an_edit_and_not_a_conflict() {
    let mut script = with_files();
    script.save(0, "a", "saved").wait_ms(30).save(0, "a", "saved again").settle();
    script.save(1, "a", "saved there").expect(&["a = saved there", "d/", "d/x = in d"]);
}

/// 31: a file is deleted while it is uploaded.
#[test]
fn a_file_deleted_at_any_moment_of_its_upload_stays_deleted() {
    for after_ms in (0..400).step_by(17) {
        let mut script = Script::new(2);
        script.write(0, "a", "short-lived").wait_ms(after_ms).delete(0, "a");
        script.expect::<&str>(&[]);
    }
}

/// 33: clocks that are years off.
#[test]
fn no_clock_decides_who_wins() {
    for years in [-10, 10] {
        let mut script = with_files();
        script.device(1, DeviceEvent::ClockJump { ms: years * 365 * 86_400_000 }).offline(1);
        script.write(0, "a", "theirs").settle_online().write(1, "a", "mine");
        script.expect(&["a = theirs".to_owned(), format!("{} = mine", copy("a", 1)), FILES[1].into(), FILES[2].into()]);
    }
}

/// 34: modification times at the edges.
#[test]
fn strange_modification_times_sync_and_come_to_rest() {
    let mut script = with_files();
    script.touch(0, "a", 0).settle().touch(0, "a", -1).settle().touch(1, "a", 4_300_000_000).expect(&FILES);
}

/// 36, 37: names that one device's disk cannot tell apart.
#[test]
fn spellings_that_only_some_disks_tell_apart_lose_nothing() {
    let habits = |naming| Habits { naming, ..Habits::default() };
    let mut script =
        Script::on_disks(&[habits(Naming::Bytes), habits(Naming::Insensitive), habits(Naming::Decomposing)]);
    script.write(0, "\u{e9}", "accent").write(0, "a", "letter").settle();
    script.rename(1, "a", "A").settle().rename(2, "\u{e9}", "\u{c9}").settle().write(0, "A", "edited");
    script.expect(&["A = edited", "\u{c9} = accent"]);
}

/// 38: the kind of a thing changes.
#[test]
fn a_thing_can_change_its_kind() {
    let mut script = with_files();
    script.delete(0, "a").mkdir(0, "a").write(0, "a/y", "inside").settle();
    script.delete(1, "a").link(1, "a", "d").settle();
    script.delete(0, "a").write(0, "a", "a file again").expect(&["a = a file again", "d/", "d/x = in d"]);
}

/// 42: a file is uploaded while it is being written.
#[test]
fn a_file_that_is_being_written_arrives_whole() {
    let mut script = Script::new(2);
    script.begin(0, "a", "one ");
    for piece in ["two ", "three ", "four "] {
        script.wait_ms(150).go_on(0, piece);
        script.expect_on::<&str>(1, &[]);
    }
    script.end(0).expect(&["a = one two three four "]);
}

/// A client that is killed again and again gets there.
#[test]
fn a_client_killed_at_any_moment_continues() {
    let mut script = Script::new(2);
    for n in 0..20 {
        script.write(0, &format!("f{n}"), &format!("file {n}")).wait_ms(n * 13);
        script.device(usize::try_from(n % 2).expect("small"), DeviceEvent::Kill { down_ms: 40 });
    }
    let expected: Vec<String> = (0..20).map(|n| format!("f{n} = file {n}")).collect();
    script.expect(&expected);
}

/// A rename was seen twice in one round of scans, and told as deletion and creation: another device's
/// edit then brought the old content back.
#[test]
fn a_move_that_is_looked_at_twice_is_still_a_move() {
    let mut script = with_files();
    script.offline(1).write(1, "d/x", "edited");
    script.rename(0, "d/x", "d/y").command(0, Command::Flush).wait_ms(3000);
    script.expect(&["a = at the top", "d/", "d/y = edited"]);
}

/// 29: all the ways in which editors save.
#[test]
fn however_an_editor_saves_it_is_one_edit_and_no_deletion() {
    type Save = fn(&mut Script, &str);
    let by_backup: Save = |script, text| {
        script.rename(0, "a", "a~").write(0, "a", text).delete(0, "a~");
    };
    let by_deletion: Save = |script, text| {
        script.delete(0, "a").write(0, "a", text);
    };
    let by_truncation: Save = |script, text| {
        script.begin(0, "a", "").wait_ms(3).go_on(0, text).end(0);
    };
    let with_lock_file: Save = |script, text| {
        script.write(0, ".~lock.a#", &format!("lock for {text}")).write(0, "a.tmp", text).rename(0, "a.tmp", "a");
        script.delete(0, ".~lock.a#");
    };
    let slowly_by_backup: Save = |script, text| {
        script.rename(0, "a", "a.bak").wait_ms(40).write(0, "a", text).wait_ms(40).delete(0, "a.bak");
    };
    for (number, save) in
        [by_backup, by_deletion, by_truncation, with_lock_file, slowly_by_backup].into_iter().enumerate()
    {
        let mut script = with_files();
        for round in 0..3 {
            save(&mut script, &format!("{number} saved {round}"));
            script.wait_ms(700 * round);
        }
        script.expect(&[&format!("a = {number} saved 2"), FILES[1], FILES[2]]);
        assert_eq!(script.times("conflict copy made"), 0, "way {number}");
    }
}

/// 35: every modification time moves by an hour, as on some file systems in spring.
#[test]
fn times_that_all_shift_by_an_hour_send_no_content() {
    let mut script = Script::new(2);
    let times = |n: i64| 1_000_000_000 + n * 100;
    for n in 0..12 {
        script.write(0, &n.to_string(), &format!("file {n}")).touch(0, &n.to_string(), times(n));
    }
    script.settle();
    let blocks = script.times("blocks sent");
    for n in 0..12 {
        script.touch(0, &n.to_string(), times(n) + 3600).touch(1, &n.to_string(), times(n) + 3600);
    }
    let expected: Vec<String> = (0..12).map(|n| format!("{n} = file {n}")).collect();
    script.expect(&expected);
    assert!(blocks > 0);
    assert_eq!(script.times("blocks sent"), blocks, "the server has every block");
    assert_eq!(script.times("conflict copy made"), 0);
}

/// 38: each kind becomes each other kind, and the client dies on the way.
#[test]
fn every_change_of_kind_survives_a_kill_at_any_moment() {
    type Make = (fn(&mut Script), &'static [&'static str]);
    let file: Make = (
        |script| {
            script.write(0, "x", "a file");
        },
        &["x = a file"],
    );
    let folder: Make = (
        |script| {
            script.mkdir(0, "x").write(0, "x/y", "inside");
        },
        &["x/", "x/y = inside"],
    );
    let link: Make = (
        |script| {
            script.link(0, "x", "y");
        },
        &["x -> y"],
    );
    for (before, after) in [(file, folder), (file, link), (folder, file), (folder, link), (link, file), (link, folder)]
    {
        for after_ms in (0..240).step_by(40) {
            let mut script = Script::new(2);
            before.0(&mut script);
            script.settle().delete(0, "x");
            after.0(&mut script);
            script.wait_ms(after_ms).device(0, DeviceEvent::Kill { down_ms: 30 });
            script.wait_ms(60).device(1, DeviceEvent::Kill { down_ms: 30 }).expect(after.1);
        }
    }
}

/// 40: a connection breaks at any moment of an upload and of its next try.
#[test]
fn an_upload_that_is_tried_again_arrives_whole_or_not_at_all() {
    for after_ms in (0..160).step_by(8) {
        let mut script = with_files();
        script.write_long(0, "a", "long", 5000).wait_ms(after_ms);
        for _ in 0..3 {
            script.offline(0).wait_ms(40_000).online(0).wait_ms(after_ms / 2 + 15);
        }
        script.expect(&["a = long                                    ", FILES[1], FILES[2]]);
    }
}

/// 41: the server has the blocks in the middle of a new file, and not those around them.
#[test]
fn a_file_whose_middle_the_server_has_arrives_in_the_right_order() {
    let mut script = Script::new(2);
    script.write_long(0, "first", "one", 3 * model::BLOCK_SIZE).settle();
    script.write_long(0, "b", "two", 3 * model::BLOCK_SIZE).append(0, "b", "the end").settle();
    let bytes = |device: usize, path: &[u8]| {
        let path = LocalPath::from_bytes(path).expect("a path");
        simulation::disk::lock(&script.world.devices[device].disk).read(&path).expect("is there")
    };
    assert_eq!(bytes(0, b"b"), bytes(1, b"b"));
    assert!(bytes(1, b"b").starts_with(b"two ") && bytes(1, b"b").ends_with(b" the end"));
}

/// 43: the client dies in the middle of a download, again and again.
#[test]
fn a_half_downloaded_file_is_never_shown_nor_sent() {
    for after_ms in (0..200).step_by(11) {
        let mut script = with_files();
        script.write_long(0, "a", "long", 5000);
        for _ in 0..3 {
            script.wait_ms(40 + after_ms).device(1, DeviceEvent::Kill { down_ms: 25 });
        }
        script.expect(&["a = long                                    ", FILES[1], FILES[2]]);
        assert_eq!(script.times("conflict copy made"), 0, "after {after_ms} ms");
    }
}
