//! Two devices, one server: what the commands do and show while files sync.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use support::{BOB, Device, Server, WebPage, eventually, flush_both, run};

fn two_devices() -> (Server, Device, Device) {
    let server = Server::start();
    let (laptop, desktop) = (server.running_device("laptop"), server.running_device("desktop"));
    (server, laptop, desktop)
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn what_one_device_does_the_other_has() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("plain.txt", "text");
    laptop.write("deep/er/empty", "");
    laptop.write("Ünïcode 日本.txt", "names");
    fs::create_dir(laptop.folder.join("empty folder")).expect("made");
    symlink("plain.txt", laptop.folder.join("link")).expect("made");
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), laptop.tree());
    assert_eq!(desktop.tree().len(), 7);

    desktop.write("plain.txt", "changed there");
    fs::rename(desktop.folder.join("deep"), desktop.folder.join("moved")).expect("renamed");
    fs::remove_file(desktop.folder.join("Ünïcode 日本.txt")).expect("removed");
    flush_both(&desktop, &laptop);
    assert_eq!(laptop.tree(), desktop.tree());
    assert_eq!(laptop.read("plain.txt"), "changed there");
    assert!(laptop.has("moved/er/empty") && !laptop.has("deep") && !laptop.has("Ünïcode 日本.txt"));
}

/// Large and small, new, edited in place, grown, copied and deleted: whatever a part of the program makes cheaper.
#[test]
fn whatever_saves_bytes_or_time_can_be_left_off_and_all_converges() {
    let (_server, laptop, desktop) = two_devices();
    let savings = [
        "deltas",
        "compression",
        "reuse",
        "prefetch",
        "early-reading",
        "pacing",
        "small-contents",
        "hash-once",
        "neighbours",
        "quiet",
        "kept-blocks",
        "bundles",
        "shifts",
        "direct-writes",
    ];
    let noise = |seed: u32, len: u32| -> String {
        let mix = |n: u32| (n ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
        (0..len).map(|n| char::from(b' ' + (mix(n) >> 24) as u8 % 95)).collect()
    };
    for (seed, off) in (0..).zip(savings.iter().map(std::slice::from_ref).chain([savings.as_slice()])) {
        let switch = |to: &str| {
            for (device, saving) in
                [&laptop, &desktop].into_iter().flat_map(|device| off.iter().map(move |s| (device, s)))
            {
                device.run(&["config", "set", saving, to]).ok();
            }
        };
        switch("off");
        let large = noise(seed, 9 << 20);
        laptop.write("large", &large);
        laptop.write("text", &"the same words ".repeat(20_000));
        flush_both(&laptop, &desktop);
        laptop.write("large", &format!("{}!{}more", &large[..5 << 20], &large[5 << 20..]));
        fs::copy(laptop.folder.join("text"), laptop.folder.join("copy")).expect("copied");
        flush_both(&laptop, &desktop);
        assert_eq!(desktop.tree(), laptop.tree(), "without {off:?}");
        fs::remove_file(desktop.folder.join("copy")).expect("removed");
        fs::remove_file(desktop.folder.join("large")).expect("removed");
        flush_both(&desktop, &laptop);
        assert_eq!(laptop.tree(), desktop.tree(), "without {off:?}");
        switch("on");
    }
}

#[test]
fn a_change_reaches_the_other_device_by_itself() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "text");
    eventually("the file is there", || desktop.has("notes.txt"));
    assert_eq!(desktop.read("notes.txt"), "text");
}

#[test]
fn a_folder_with_files_is_merged_when_it_is_linked() {
    let server = Server::start();
    let laptop = server.running_device("laptop");
    laptop.write("same.txt", "same");
    laptop.write("only there.txt", "there");
    laptop.flush();
    let desktop = Device { home: server.path("desktop-home"), folder: server.path("desktop") };
    desktop.write("same.txt", "same");
    desktop.write("only here.txt", "here");
    desktop.link(&server.address, support::ALICE, support::PASSWORD).ok();
    desktop.run(&["start"]).ok();
    flush_both(&desktop, &laptop);
    assert_eq!(laptop.tree(), desktop.tree());
    assert_eq!(laptop.tree().len(), 3, "{:?}", laptop.tree());
}

#[test]
fn both_sides_of_a_conflict_survive_and_the_copy_says_whose_it_is() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("report.txt", "first");
    flush_both(&laptop, &desktop);
    desktop.run(&["stop"]).ok();
    laptop.write("report.txt", "by the laptop");
    desktop.write("report.txt", "by the desktop");
    laptop.flush();
    desktop.run(&["start"]).ok();
    flush_both(&desktop, &laptop);
    assert_eq!(laptop.tree(), desktop.tree());
    assert_eq!(laptop.read("report.txt"), "by the laptop");
    let copies: Vec<_> =
        laptop.tree().into_iter().filter(|(name, _)| name.contains("conflicted copy desktop")).collect();
    assert_eq!(copies.len(), 1, "{:?}", laptop.tree());
    assert_eq!(copies[0].1, "by the desktop");
    let activity = desktop.json(&["activity"]);
    assert!(
        activity["activity"].as_array().expect("a list").iter().any(|entry| entry["kind"] == "conflict"),
        "{activity}"
    );
}

#[test]
fn work_goes_on_offline_and_merges_later() {
    let (mut server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "first");
    flush_both(&laptop, &desktop);
    server.kill();
    laptop.write("notes.txt", "written offline");
    laptop.write("new.txt", "made offline");
    laptop.run(&["flush", "--timeout", "3"]).fails(1, "not everything is in sync", "syncline status");
    laptop.run(&["stop"]).ok();
    laptop.run(&["start"]).ok();
    server.restart();
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), laptop.tree());
    assert_eq!(desktop.read("notes.txt"), "written offline");
}

#[test]
fn a_daemon_and_a_server_that_are_killed_lose_nothing() {
    let (mut server, laptop, desktop) = two_devices();
    for n in 0..200 {
        laptop.write(&format!("folder/{n}.txt"), &n.to_string());
    }
    server.restart();
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), laptop.tree());
    assert_eq!(desktop.tree().len(), 201);
}

#[test]
fn what_came_of_an_upload_is_there_when_the_server_is_killed_before_its_end() {
    let (mut server, laptop, desktop) = two_devices();
    laptop.run(&["config", "set", "upload-limit", "4M"]).ok();
    let noise: Vec<u8> = (0..3_u32 << 20).flat_map(|n| n.wrapping_mul(n ^ 0x9e37_79b9).to_le_bytes()).collect();
    fs::write(laptop.folder.join("large"), noise).expect("writes");
    let unfinished = server.path("server/unfinished");
    let bytes = || -> u64 {
        let files = fs::read_dir(&unfinished).expect("lists").flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    eventually("some of it has come", || bytes() > 1 << 20);
    server.restart();
    assert_eq!(bytes(), 0, "it has been taken up before anybody was answered");
    let stored = run(&["admin", "--data", server.data(), "gc", "--dry-run", "--json"]).ok().json();
    assert!(stored["blocks"].as_u64() > Some(0), "{stored}");
    laptop.run(&["config", "set", "upload-limit", "off"]).ok();
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), laptop.tree());
}

#[test]
fn status_has_a_stable_shape_in_both_forms() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "text");
    flush_both(&laptop, &desktop);
    let status = laptop.json(&["status"]);
    for key in [
        "state",
        "synced_files",
        "pending",
        "uploading",
        "downloading",
        "scanning",
        "problems",
        "held_deletions",
        "problem_list",
        "trouble",
        "warnings",
        "folder",
        "server",
        "email",
        "device_name",
    ] {
        assert!(status.get(key).is_some(), "{key} in {status}");
    }
    assert_eq!((&status["state"], &status["synced_files"]), (&"up-to-date".into(), &1.into()));
    let text = laptop.run(&["status"]).ok().stdout;
    assert!(text.contains("up to date") && text.contains("1 file"), "{text}");
}

#[test]
fn watching_the_status_shows_each_change_as_a_line() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let (_server, laptop, _desktop) = two_devices();
    laptop.flush();
    let mut child = support::program()
        .args(["--home", support::text(&laptop.home), "status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let _watching = support::Running { child };
    let mut next = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
    assert_eq!(next()["synced_files"], 0);
    laptop.write("notes.txt", "text");
    while next()["synced_files"] != 1 {}
}

#[test]
fn filestatus_and_why_explain_a_path() {
    let (_server, laptop, _desktop) = two_devices();
    laptop.write("notes.txt", "text");
    laptop.write("sub/other.txt", "text");
    laptop.flush();
    assert_eq!(laptop.run(&["filestatus", "notes.txt"]).ok().stdout, "up to date\n");
    let files = laptop.json(&["filestatus", "notes.txt", "sub", "/etc/passwd"]);
    let states: Vec<&Value> = files["files"].as_array().expect("a list").iter().map(|file| &file["status"]).collect();
    assert_eq!(states, ["up to date", "up to date", "unwatched"]);
    let why = laptop.json(&["why", "notes.txt"]);
    assert_eq!(keys(&why), ["explanation", "path", "status"]);
    laptop.run(&["why", "/etc/passwd"]).code_is(2);
}

trait CodeIs {
    fn code_is(&self, code: i32);
}

impl CodeIs for support::Ran {
    #[track_caller]
    fn code_is(&self, code: i32) {
        assert_eq!(self.code, code, "{self:?}");
    }
}

#[test]
fn a_name_that_cannot_sync_is_explained_and_harms_neither_sync_nor_terminal() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("good.txt", "text");
    laptop.write("bad\x1b[2Jname", "text");
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), [("good.txt".to_owned(), "text".to_owned())]);
    let status = laptop.run(&["status"]).ok().stdout;
    assert!(status.contains("bad\\u{1b}[2Jname") && !status.contains('\x1b'), "{status:?}");
    assert_eq!(laptop.json(&["status"])["problems"], 1);
    let why = laptop.run(&["why", "bad\x1b[2Jname"]).ok().stdout;
    assert!(why.contains("control character") && !why.contains('\x1b'), "{why:?}");
    assert_eq!(laptop.run(&["filestatus", "bad\x1b[2Jname"]).ok().stdout, "error\n");
}

#[test]
fn activity_lists_what_was_synced() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "text");
    flush_both(&laptop, &desktop);
    let activity = desktop.json(&["activity"]);
    let last = activity["activity"].as_array().expect("a list").last().expect("an entry").clone();
    assert_eq!((&last["kind"], &last["path"]), (&"downloaded".into(), &"notes.txt".into()));
    assert!(last["time"].is_i64(), "{last}");
    assert!(desktop.run(&["activity", "--limit", "1"]).ok().stdout.contains("notes.txt"));
}

#[test]
fn devices_are_listed() {
    let (_server, laptop, _desktop) = two_devices();
    let devices = laptop.json(&["devices"]);
    let devices = devices["devices"].as_array().expect("a list");
    let current: Vec<&Value> = devices.iter().filter(|device| device["current"] == true).collect();
    assert_eq!((devices.len(), current.len()), (2, 1));
    assert_eq!(current[0]["name"], "laptop");
    assert!(laptop.run(&["devices"]).ok().stdout.contains("this device"));
}

#[test]
fn versions_are_listed_and_come_back() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "first");
    laptop.flush();
    laptop.write("notes.txt", "second, and longer");
    flush_both(&laptop, &desktop);
    let revisions = laptop.json(&["revs", "notes.txt"]);
    let revisions = revisions["revisions"].as_array().expect("a list").clone();
    assert_eq!(revisions.len(), 2, "{revisions:?}");
    assert_eq!(revisions[1]["size"], 5);
    laptop.run(&["restore", "notes.txt"]).fails(2, "exists", "--rev");
    laptop.run(&["restore", "notes.txt", "--rev", "999999"]).fails(1, "no version 999999", "syncline revs");
    let first = revisions[1]["revision"].to_string();
    laptop.run(&["restore", "notes.txt", "--rev", &first]).ok();
    flush_both(&laptop, &desktop);
    assert_eq!((laptop.read("notes.txt").as_str(), desktop.read("notes.txt").as_str()), ("first", "first"));
}

/// What the program wrote afterwards would be in no folder.
#[test]
fn a_file_that_a_program_has_open_for_writing_is_not_replaced_under_it() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("log.txt", "first\n");
    flush_both(&laptop, &desktop);
    let path = desktop.folder.join("log.txt");
    let mut program = fs::OpenOptions::new().append(true).open(&path).expect("opens");
    laptop.write("log.txt", "written elsewhere\n");
    laptop.flush();
    eventually("it is said what it waits for", || desktop.run(&["status"]).stdout.contains("has the file open"));
    assert_eq!(desktop.read("log.txt"), "first\n");
    program.write_all(b"second\n").expect("writes");
    drop(program);
    eventually("both versions are everywhere", || {
        let texts = |device: &Device| device.tree().into_iter().map(|(_, text)| text).collect::<BTreeSet<_>>();
        let both = BTreeSet::from(["first\nsecond\n".to_owned(), "written elsewhere\n".to_owned()]);
        [&laptop, &desktop].into_iter().all(|device| texts(device) == both)
    });
    assert_eq!(desktop.read("log.txt"), "written elsewhere\n", "who came first keeps the name");
}

#[test]
fn deleted_files_and_folders_come_back() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("folder/a.txt", "a");
    laptop.write("folder/b.txt", "b");
    flush_both(&laptop, &desktop);
    let before = laptop.tree();
    fs::remove_dir_all(laptop.folder.join("folder")).expect("removed");
    flush_both(&laptop, &desktop);
    assert!(!desktop.has("folder"));
    let restored = laptop.json(&["restore", "folder"]);
    assert_eq!((&restored["path"], &restored["restored"]), (&"folder".into(), &3.into()));
    flush_both(&laptop, &desktop);
    assert_eq!((laptop.tree(), desktop.tree()), (before.clone(), before));
    laptop.run(&["restore", "never was"]).code_is(1);
}

#[test]
fn history_tells_what_happened() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("notes.txt", "text");
    flush_both(&laptop, &desktop);
    fs::remove_file(desktop.folder.join("notes.txt")).expect("removed");
    desktop.flush();
    let history = laptop.json(&["history"]);
    let entries = history["entries"].as_array().expect("a list");
    let told: Vec<(&Value, &Value)> = entries.iter().map(|entry| (&entry["action"], &entry["device"])).collect();
    assert_eq!(told, [(&"deleted".into(), &"desktop".into()), (&"created".into(), &"laptop".into())]);
    assert!(laptop.run(&["history", "--limit", "1"]).ok().stdout.contains("deleted"));
}

#[test]
fn what_is_excluded_leaves_this_device_alone() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("large/file.txt", "text");
    laptop.write("small.txt", "text");
    flush_both(&laptop, &desktop);
    desktop.run(&["exclude", "add", "large"]).ok();
    flush_both(&desktop, &laptop);
    assert!(!desktop.has("large") && desktop.has("small.txt"));
    assert!(laptop.has("large/file.txt"));
    assert_eq!(desktop.json(&["exclude", "list"])["excluded"], serde_json::json!(["large"]));
    desktop.run(&["stop"]).ok();
    assert_eq!(desktop.run(&["exclude", "list"]).ok().stdout, "large\n");
    desktop.run(&["exclude", "remove", "large"]).ok();
    desktop.run(&["start"]).ok();
    flush_both(&desktop, &laptop);
    assert_eq!(desktop.tree(), laptop.tree());
    desktop.run(&["exclude", "add", "nothing there"]).code_is(1);
    desktop.run(&["exclude", "remove", "small.txt"]).fails(1, "is not excluded", "exclude list");
}

fn ten_files(device: &Device) {
    for n in 0..10 {
        device.write(&format!("{n}.txt"), &n.to_string());
    }
}

#[test]
fn a_mass_deletion_is_held_until_it_is_confirmed() {
    let (_server, laptop, desktop) = two_devices();
    laptop.run(&["config", "set", "delete-guard", "5,50"]).ok();
    ten_files(&laptop);
    flush_both(&laptop, &desktop);
    laptop.run(&["deletions", "confirm"]).code_is(1);
    for n in 0..10 {
        fs::remove_file(laptop.folder.join(format!("{n}.txt"))).expect("removed");
    }
    let held = laptop.run(&["flush", "--timeout", support::FLUSH_SECONDS]);
    held.fails(7, "10 files is held", "syncline deletions confirm");
    assert!(laptop.run(&["status"]).ok().stdout.contains("syncline deletions confirm"));
    desktop.flush();
    assert_eq!(desktop.tree().len(), 10);
    laptop.run(&["deletions", "confirm"]).ok();
    flush_both(&laptop, &desktop);
    assert!(desktop.tree().is_empty());
}

#[test]
fn a_mass_deletion_can_be_undone() {
    let (_server, laptop, desktop) = two_devices();
    laptop.run(&["config", "set", "delete-guard", "5,50"]).ok();
    ten_files(&laptop);
    flush_both(&laptop, &desktop);
    for n in 0..10 {
        fs::remove_file(laptop.folder.join(format!("{n}.txt"))).expect("removed");
    }
    laptop.run(&["flush", "--timeout", support::FLUSH_SECONDS]).code_is(7);
    laptop.run(&["deletions", "undo"]).ok();
    flush_both(&laptop, &desktop);
    assert_eq!(laptop.tree().len(), 10);
    assert_eq!(desktop.tree(), laptop.tree());
}

#[test]
fn a_synced_folder_that_is_not_there_stops_for_safety_and_deletes_nothing() {
    let (server, laptop, desktop) = two_devices();
    ten_files(&laptop);
    flush_both(&laptop, &desktop);
    fs::rename(&laptop.folder, server.path("away")).expect("moved");
    eventually("it is noticed", || laptop.json(&["status"])["state"] == "root-missing");
    laptop.run(&["flush", "--timeout", "10"]).fails(7, "is not there", "move it back");
    fs::create_dir(&laptop.folder).expect("made");
    laptop.run(&["flush", "--timeout", "10"]).code_is(7);
    fs::remove_dir(&laptop.folder).expect("removed");
    fs::rename(server.path("away"), &laptop.folder).expect("moved back");
    eventually("it goes on", || laptop.run(&["flush", "--timeout", "10"]).code == 0);
    desktop.flush();
    assert_eq!(desktop.tree().len(), 10);
}

#[test]
fn a_proxy_that_answers_every_call_with_a_page_deletes_nothing() {
    let (mut server, laptop, desktop) = two_devices();
    ten_files(&laptop);
    flush_both(&laptop, &desktop);
    server.kill();
    for status in ["404 Not Found", "200 OK"] {
        let page = WebPage::serve(&server.address, status);
        laptop.write("written meanwhile", status);
        eventually("both have asked a few times", || page.answered() >= 8);
        assert_eq!(laptop.json(&["status"])["state"], "offline");
        assert_eq!((laptop.tree().len(), desktop.tree().len()), (11, 10), "{status}");
    }
    server.restart();
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.tree(), laptop.tree());
    assert_eq!(laptop.tree().len(), 11);
}

#[test]
fn rebuilding_the_index_reads_everything_again_and_changes_nothing() {
    let (_server, laptop, desktop) = two_devices();
    ten_files(&laptop);
    flush_both(&laptop, &desktop);
    laptop.run(&["rebuild-index"]).ok();
    laptop.flush();
    laptop.run(&["stop"]).ok();
    laptop.run(&["rebuild-index"]).ok();
    laptop.run(&["start"]).ok();
    flush_both(&laptop, &desktop);
    assert_eq!(laptop.tree().len(), 10);
    assert_eq!(desktop.tree(), laptop.tree());
}

#[test]
fn folders_are_shared_listed_left_and_withdrawn() {
    let (server, laptop, _desktop) = two_devices();
    laptop.write("Photos/one.jpg", "1");
    laptop.flush();
    laptop.run(&["share", "Photos", "nobody@example.org"]).code_is(1);
    laptop.run(&["share", "Photos", BOB, "--role", "viewer"]).ok();
    let shares = laptop.json(&["share", "list"]);
    assert_eq!((&shares["shares"][0]["name"], &shares["shares"][0]["role"]), (&"Photos".into(), &"owner".into()));
    assert_eq!(shares["shares"][0]["members"].as_array().map(Vec::len), Some(2), "{shares}");

    let bobs = server.device_of(BOB, "bobs");
    bobs.run(&["start"]).ok();
    bobs.flush();
    assert_eq!(bobs.read("Photos/one.jpg"), "1");
    laptop.write("Photos/two.jpg", "2");
    laptop.flush();
    bobs.flush();
    assert_eq!(bobs.read("Photos/two.jpg"), "2");

    laptop.run(&["share", "remove", "Photos", BOB]).ok();
    bobs.flush();
    eventually("it is withdrawn", || !bobs.has("Photos"));
    laptop.flush();
    assert!(laptop.has("Photos/one.jpg"));
    laptop.run(&["share", "Photos", BOB]).ok();
    eventually("it is there again", || bobs.has("Photos/one.jpg"));
    bobs.run(&["share", "leave", "Photos"]).ok();
    eventually("it is gone again", || !bobs.has("Photos"));
    bobs.run(&["share", "leave", "Photos"]).code_is(1);
    assert!(laptop.run(&["share", "list"]).ok().stdout.contains("Photos"));
}

#[test]
fn what_was_deleted_before_its_folder_was_shared_comes_back_beside_it() {
    let (_server, laptop, desktop) = two_devices();
    laptop.write("Photos/old.jpg", "old");
    laptop.write("Photos/one.jpg", "1");
    flush_both(&laptop, &desktop);
    fs::remove_file(laptop.folder.join("Photos/old.jpg")).expect("removed");
    flush_both(&laptop, &desktop);
    laptop.run(&["share", "Photos", BOB]).ok();
    flush_both(&laptop, &desktop);
    let revisions = laptop.json(&["revs", "Photos/old.jpg"]);
    let kinds: Vec<&Value> =
        revisions["revisions"].as_array().expect("a list").iter().map(|revision| &revision["kind"]).collect();
    assert_eq!(kinds, ["deleted", "file"]);
    let restored = laptop.json(&["restore", "Photos/old.jpg"]);
    assert_eq!(restored["path"], "Photos (restored)/old.jpg");
    flush_both(&laptop, &desktop);
    assert_eq!(desktop.read("Photos (restored)/old.jpg"), "old");
    assert!(!desktop.has("Photos/old.jpg"), "its members see nothing of it");
}

/// Each of these held one of the daemon's connections until something changed, and after 64 of them nobody was answered.
#[test]
fn commands_that_were_broken_off_keep_nobody_waiting() {
    let (_server, laptop, _desktop) = two_devices();
    laptop.flush();
    for _ in 0..80 {
        let mut watch = laptop.spawn(&["status", "--watch", "--json"]);
        let mut first = String::new();
        BufReader::new(watch.stdout.take().expect("a pipe")).read_line(&mut first).expect("reads");
        watch.kill().expect("ends");
        watch.wait().expect("has ended");
    }
    laptop.run(&["status"]).ok();
}

#[test]
fn flushes_that_were_broken_off_take_nobodys_place() {
    let (mut server, laptop, _desktop) = two_devices();
    laptop.flush();
    server.kill();
    laptop.write("new.txt", "unsent");
    for _ in 0..200 {
        let mut asks = UnixStream::connect(laptop.home.join("control.sock")).expect("connects");
        asks.write_all(b"{\"version\":2,\"command\":\"flush\",\"timeout_ms\":null}\n").expect("asks");
    }
    laptop.run(&["flush", "--timeout", "1"]).fails(1, "not everything is in sync", "syncline status");
    laptop.run(&["stop"]).ok();
}

#[test]
fn a_device_that_was_unlinked_elsewhere_says_so() {
    let server = Server::start();
    let laptop = server.running_device("laptop");
    laptop.write("notes.txt", "text");
    laptop.flush();
    let config = fs::read_to_string(laptop.home.join("config.toml")).expect("read");
    // A copy of the home stands for the same device, unlinked by way of the server.
    let copy = Device { home: server.path("copy-home"), folder: server.path("copy") };
    fs::create_dir(&copy.home).expect("made");
    fs::write(copy.home.join("config.toml"), config.replace("/laptop\"", "/copy\"")).expect("written");
    fs::copy(laptop.home.join("token"), copy.home.join("token")).expect("copied");
    copy.run(&["unlink"]).ok();
    laptop.write("later.txt", "text");
    laptop.run(&["flush", "--timeout", "30"]).fails(1, "was unlinked", "syncline link");
    assert_eq!(laptop.json(&["status"])["state"], "unlinked");
    assert_eq!(laptop.tree().len(), 2);
}
