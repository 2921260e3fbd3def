//! What is not there was not deleted. The numbers are those of the list of incidents.

use crate::script::{Script, copy, knobs};
use simulation::history::{DeviceEvent, ServerEvent, ShareRole};
use sync_engine::io::{Command, LocalPath};
use sync_engine::status::Phase;

const SIX: [&str; 7] = ["d/", "d/0 = zero", "d/1 = one", "d/2 = two", "d/3 = three", "d/4 = four", "d/5 = five"];

/// Two devices with a folder of six files.
fn with_six() -> Script {
    with_six_on(Script::new(2))
}

fn with_six_on(mut script: Script) -> Script {
    script.mkdir(0, "d");
    for (n, text) in ["zero", "one", "two", "three", "four", "five"].into_iter().enumerate() {
        script.write(0, &format!("d/{n}"), text);
    }
    script.settle();
    script
}

/// 7: a run of deletions is interrupted, and what it would have deleted next is edited meanwhile.
#[test]
fn deletions_that_a_kill_interrupted_are_decided_anew() {
    for after_ms in (0..200).step_by(7) {
        let mut script = with_six();
        script.offline(1).delete(0, "d").settle_online();
        script.online(1).wait_ms(after_ms).stop(1);
        let left = script.world.disk_tree(1).contains_key("d/3");
        if !left {
            script.expect::<&str>(&[]);
            continue;
        }
        script.write(1, "d/3", "edited").mkdir(0, "e").write(0, "e/new", "new").settle();
        script.expect(&["d/", "d/3 = edited", "e/", "e/new = new"]);
    }
}

/// 9: files and database are restored from a backup of three weeks ago.
#[test]
fn a_device_restored_from_an_old_backup_takes_nothing_back() {
    let mut script = with_six();
    script.write(1, "d/late", "first").device(1, DeviceEvent::SaveDatabase).settle();
    script.write(0, "d/0", "newer").delete(0, "d/1").rename(0, "d/2", "moved").write(1, "d/3", "newer too").settle();
    script.write(0, "d/new", "made since").settle();
    script.device(1, DeviceEvent::RestoreBackup).expect(&[
        "d/",
        "d/0 = newer",
        "d/3 = newer too",
        "d/4 = four",
        "d/5 = five",
        "d/late = first",
        "d/new = made since",
        "moved = two",
    ]);
}

/// 10: the database is there and the files are not.
#[test]
fn a_database_without_its_files_deletes_nothing() {
    let mut script = with_six();
    script.stop(1).device(1, DeviceEvent::EmptyRoot { ms: 600_000 }).start(1).wait_ms(300_000);
    let phase = script.world.devices[1].engine.as_ref().expect("runs").status().phase;
    assert_eq!(phase, Phase::RootMissing);
    script.expect_on(0, &SIX).expect(&SIX);
}

/// 14, 60: a folder is excluded and included again; in between another one is made under its name.
#[test]
fn a_folder_that_is_included_again_comes_back_beside_what_took_its_name() {
    let path = || LocalPath::from_bytes(b"d").expect("a path");
    let mut script = with_six();
    script.command(1, Command::Exclude(path())).settle();
    script.expect_on::<&str>(1, &[]).expect_on(0, &SIX);
    script.command(1, Command::Include(path())).expect(&SIX);
    script.command(1, Command::Exclude(path())).settle().mkdir(1, "d").write(1, "d/1", "mine").settle();
    script.write(0, "d/0", "newer").command(1, Command::Include(path()));
    let beside = [format!("{}/", copy("d", 1)), format!("{}/1 = mine", copy("d", 1))];
    let expected = [&beside[0], &beside[1], "d/", "d/0 = newer", SIX[2], SIX[3], SIX[4], SIX[5], SIX[6]];
    script.expect(&expected);
}

/// 15, 46: the disk of one device is full for a while.
#[test]
fn a_full_disk_deletes_nothing_is_told_and_heals_by_itself() {
    let mut script = Script::new(2);
    script.device(1, DeviceEvent::FillDisk { ms: 900_000 });
    script.mkdir(0, "d").write(0, "d/a", "one").write(0, "b", "two").wait_ms(300_000);
    script.expect_on(0, &["b = two", "d/", "d/a = one"]).expect_on::<&str>(1, &[]);
    let problems = script.world.devices[1].engine.as_ref().expect("runs").problems(10);
    assert!(problems.iter().all(|problem| problem.reason.contains("full")) && !problems.is_empty(), "{problems:?}");
    script.wait_ms(1_200_000).expect_on(1, &["b = two", "d/", "d/a = one"]);
    script.expect(&["b = two", "d/", "d/a = one"]);
}

/// 16: a folder with files becomes a shared one while a device is still sending into it.
#[test]
fn a_folder_that_is_shared_in_the_middle_of_a_sync_stays_where_it_is() {
    for after_ms in (0..300).step_by(23) {
        let mut knobs = knobs(3);
        knobs.devices[2].account = 1;
        let mut script = Script::with(knobs);
        script.mkdir(0, "team").write(0, "team/a", "one").write(0, "b", "aside").settle();
        script.write(0, "team/c", "late").write(1, "team/a", "edited").wait_ms(after_ms);
        script.share(ShareRole::Editor).settle();
        let team = ["team/", "team/a = edited", "team/c = late"];
        script.expect_on(2, &team);
        script.expect_on(0, &["b = aside", team[0], team[1], team[2]]);
        script.expect_on(1, &["b = aside", team[0], team[1], team[2]]);
        assert_eq!(script.times("deleted locally"), 0, "after {after_ms} ms");
    }
}

/// 18: all that is left in a folder is what cannot be synced.
#[test]
fn a_deleted_folder_stays_here_for_what_cannot_be_synced_and_is_not_sent_again() {
    let mut script = with_six();
    script.write(1, "d/bad\u{1}name", "only here").settle();
    script.delete(0, "d").settle();
    script.expect_on::<&str>(0, &[]);
    let kept = |script: &Script| script.world.devices[1].engine.as_ref().expect("runs").problems(10);
    assert!(!kept(&script).is_empty(), "it is told");
    let path = LocalPath::from_bytes("d/bad\u{1}name".as_bytes()).expect("a path");
    assert!(simulation::disk::lock(&script.world.devices[1].disk).read(&path).is_ok(), "and still there");
}

/// 19: the folder goes away in the middle of the first look at it.
#[test]
fn a_folder_that_vanishes_during_its_first_scan_deletes_nothing() {
    for after_ms in (0..400).step_by(19) {
        for empty in [false, true] {
            let mut script = with_six();
            let (ms, event) = (60_000, DeviceEvent::LoseDatabase);
            let gone = if empty { DeviceEvent::EmptyRoot { ms } } else { DeviceEvent::Unmount { ms } };
            script.device(1, event).wait_ms(100 + after_ms).device(1, gone).wait_ms(30_000);
            script.expect_on(0, &SIX).expect(&SIX);
            assert_eq!(script.times("deleted remotely"), 0, "after {after_ms} ms");
        }
    }
}

/// 20: a folder is moved, and the events come seconds late, in parts, or never.
#[test]
fn a_moved_folder_whose_events_are_late_or_lost_is_moved_and_not_deleted() {
    for (late_hints, lost_hints) in [(1000, 0), (500, 0), (0, 500), (500, 300), (0, 1000)] {
        let mut knobs = knobs(2);
        (knobs.devices[0].late_hints, knobs.devices[0].lost_hints) = (late_hints, lost_hints);
        let mut script = with_six_on(Script::with(knobs));
        script.mkdir(0, "e").rename(0, "d", "e/d").wait_ms(30_000);
        let moved = SIX.map(|line| format!("e/{line}"));
        let expected: Vec<String> = ["e/".to_owned()].into_iter().chain(moved).collect();
        script.expect(&expected);
        let (deleted, sent) = (script.times("deleted remotely"), script.times("downloaded"));
        assert_eq!((deleted, sent), (0, 6), "late {late_hints}, lost {lost_hints}");
    }
}

/// 5, 6: for a minute a proxy answers everything, at any moment of whatever is under way.
#[test]
fn a_proxy_that_answers_in_the_servers_place_deletes_nothing() {
    for after_ms in (0..400).step_by(37) {
        let mut knobs = knobs(2);
        knobs.net.proxy_page = 700;
        let mut script = with_six_on(Script::with(knobs));
        script.write(0, "d/0", "newer").rename(1, "d/1", "moved").settle().write(1, "d/2", "second").wait_ms(after_ms);
        script
            .device(1, DeviceEvent::Kill { down_ms: 100 })
            .wait_ms(20_000)
            .server(ServerEvent::Restart { down_ms: 3000 });
        script.wait_ms(60_000);
        assert!(script.times("proxy answered") > 0);
        assert_eq!(script.times("deleted locally") + script.times("deleted remotely"), 0, "after {after_ms} ms");
        let expected = ["d/", "d/0 = newer", "d/2 = second", "d/3 = three", "d/4 = four", "d/5 = five", "moved = one"];
        script.expect(&expected);
    }
}

/// 32: a file that was deleted here is not brought back by a device that reads everything anew.
#[test]
fn a_deletion_is_not_undone_by_a_device_that_indexes_everything_again() {
    let left = [SIX[0], SIX[3], SIX[4], SIX[5], SIX[6]];
    for event in [DeviceEvent::Overflow, DeviceEvent::LoseDatabase] {
        let mut script = with_six();
        script.offline(1).delete(0, "d/0").settle_online().command(1, Command::RebuildIndex).wait_ms(5000);
        script.online(1).settle().delete(0, "d/1").settle();
        script.device(1, event).expect(&left);
        script.command(1, Command::RebuildIndex).command(0, Command::RebuildIndex).expect(&left);
    }
}
