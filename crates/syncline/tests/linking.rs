//! Linking, starting and stopping a device, with all that can be wrong.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use support::{ALICE, BOB, Device, PASSWORD, Running, Server, eventually, program, run, run_with_input, text};

/// What `link` leaves behind when it fails: nothing of a device, and no folder.
#[track_caller]
fn assert_not_linked(device: &Device) {
    for name in ["config.toml", "token", "client.sqlite"] {
        assert!(!device.home.join(name).exists(), "{name}");
    }
}

fn unlinked(server: &Server, name: &str) -> Device {
    Device { home: server.path(&format!("{name}-home")), folder: server.path(name) }
}

#[test]
fn linking_says_what_was_linked_and_keeps_the_secret_to_the_owner() {
    let server = Server::start();
    let device = unlinked(&server, "laptop");
    device.link(&server.address, ALICE, PASSWORD).ok();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&device.home), 0o700);
    for name in ["token", "config.toml", "client.sqlite"] {
        assert_eq!(mode(&device.home.join(name)), 0o600, "{name}");
    }
    assert!(device.folder.join(".syncline/root").exists());
}

#[test]
fn a_wrong_password_is_told_and_leaves_nothing_behind() {
    let server = Server::start();
    let device = unlinked(&server, "laptop");
    device.link(&server.address, ALICE, "wrong password").fails(1, "password is wrong", "try again");
    device.link(&server.address, "nobody@example.org", PASSWORD).fails(1, "password is wrong", "try again");
    assert_not_linked(&device);
    assert!(!device.folder.exists());
}

#[test]
fn a_server_that_is_gone_is_told() {
    let mut server = Server::start();
    server.kill();
    let device = unlinked(&server, "laptop");
    device.link(&server.address, ALICE, PASSWORD).fails(1, "the server cannot be reached", "check the address");
    assert_not_linked(&device);
}

#[test]
fn https_where_the_server_speaks_http_is_told() {
    let server = Server::start();
    let device = unlinked(&server, "laptop");
    let address = server.address.replace("http:", "https:");
    device.link(&address, ALICE, PASSWORD).fails(1, "no secure connection", "certificate");
    assert_not_linked(&device);
}

/// Answers every request with the page of a proxy, until the test ends.
fn html_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Whatever is asked.
            stream.read_exact(&mut [0; 64]).ok();
            let page = "HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
            stream.write_all(page.as_bytes()).ok();
        }
    });
    address
}

#[test]
fn a_server_that_answers_html_is_no_syncline_server() {
    let server = Server::start();
    let device = unlinked(&server, "laptop");
    let ran = device.link(&html_server(), ALICE, PASSWORD);
    ran.fails(1, "did not come from a Syncline server", "behind a proxy");
    assert_not_linked(&device);
}

#[test]
fn an_unusable_folder_is_told() {
    let server = Server::start();
    let file = server.path("file");
    fs::write(&file, "text").expect("written");
    let device = |folder: &str| Device { home: server.path("home"), folder: PathBuf::from(folder) };
    device(text(&file)).link(&server.address, ALICE, PASSWORD).fails(1, "is not a folder", "name a folder");
    device("/proc/syncline").link(&server.address, ALICE, PASSWORD).fails(1, "/proc/syncline", "name a folder");
    device("/proc/self").link(&server.address, ALICE, PASSWORD).fails(1, "cannot be written", "permissions");
    assert_eq!(fs::read_to_string(&file).expect("read"), "text");
}

#[test]
fn synced_folders_do_not_nest() {
    let server = Server::start();
    let laptop = server.device("laptop");
    let at = |folder: PathBuf| Device { home: server.path("other-home"), folder };
    let link = |device: Device| device.link(&server.address, BOB, PASSWORD);
    link(at(laptop.folder.clone())).fails(1, "is a synced folder already", "unlink");
    link(at(laptop.folder.join("inside"))).fails(1, "lies inside the synced folder", "beside it");
    link(at(laptop.folder.parent().expect("a parent").to_path_buf())).fails(1, "inside one another", "another folder");
    assert!(!laptop.folder.join("inside").exists());
}

#[test]
fn a_linked_home_is_not_linked_again() {
    let server = Server::start();
    let device = server.device("laptop");
    let again = Device { home: device.home.clone(), folder: server.path("other") };
    again.link(&server.address, ALICE, PASSWORD).fails(1, "linked already", "syncline unlink");
    assert!(!again.folder.exists());
}

#[test]
fn unlinking_keeps_the_files_and_frees_home_and_folder() {
    let server = Server::start();
    let device = server.running_device("laptop");
    device.write("notes.txt", "text");
    device.flush();
    device.run(&["unlink"]).ok();
    assert_not_linked(&device);
    assert_eq!(device.tree(), [("notes.txt".to_owned(), "text".to_owned())]);
    assert!(!device.has(".syncline"));
    let users = run(&["admin", "--data", server.data(), "user", "list", "--json"]).ok().json();
    assert_eq!(users["users"][0]["devices"], 0, "{users}");
    device.link(&server.address, ALICE, PASSWORD).ok();
}

#[test]
fn unlinking_works_without_the_server() {
    let mut server = Server::start();
    let device = server.device("laptop");
    server.kill();
    let ran = device.run(&["unlink"]).ok();
    assert!(ran.stderr.contains("still lists this device"), "{ran:?}");
    assert_not_linked(&device);
}

#[test]
fn a_daemon_starts_answers_and_stops() {
    let server = Server::start();
    let device = server.device("laptop");
    device.run(&["status"]).fails(1, "the daemon is not running", "syncline start");
    let started = device.json(&["start"]);
    assert!(started["pid"].is_u64() && started["started"] == true, "{started}");
    assert_eq!(device.json(&["status"])["device_name"], "laptop");
    assert_eq!(device.json(&["stop"])["done"], true);
    device.run(&["stop"]).fails(1, "the daemon is not running", "syncline start");
    device.run(&["start"]).ok();
}

#[test]
fn a_second_daemon_on_the_same_home_is_refused() {
    let server = Server::start();
    let device = server.running_device("laptop");
    device.run(&["start"]).fails(1, "running already", "--home");
    let second = device.run(&["start", "--foreground"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("error: the daemon of this home is running already"), "{second:?}");
    device.run(&["status"]).ok();
}

#[test]
fn sigterm_ends_a_daemon_in_the_foreground_cleanly() {
    let server = Server::start();
    let device = server.device("laptop");
    let child = program()
        .args(["--home", text(&device.home), "start", "--foreground"])
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut running = Running { child };
    eventually("it answers", || device.run(&["status"]).code == 0);
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    assert_eq!(running.child.wait().expect("ends").code(), Some(0));
    assert!(!device.home.join("control.sock").exists());
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_no_hindrance() {
    let server = Server::start();
    let device = server.device("laptop");
    let child = program()
        .args(["--home", text(&device.home), "start", "--foreground"])
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut running = Running { child };
    eventually("it answers", || device.run(&["status"]).code == 0);
    running.kill();
    assert!(device.home.join("control.sock").exists());
    device.run(&["status"]).fails(1, "the daemon is not running", "syncline start");
    device.run(&["start"]).ok();
    device.run(&["status"]).ok();
}

#[test]
fn a_home_with_a_long_path_has_a_socket_too() {
    let server = Server::start();
    let deep = server.path(&"long-name-".repeat(15));
    let device = Device { home: deep.join("home"), folder: server.path("laptop") };
    fs::create_dir_all(&deep).expect("made");
    device.link(&server.address, ALICE, PASSWORD).ok();
    device.run(&["start"]).ok();
    device.run(&["status"]).ok();
}

#[test]
fn settings_can_be_changed_with_and_without_a_daemon() {
    let server = Server::start();
    let device = server.device("laptop");
    let settings = |device: &Device| {
        let all = device.run(&["config", "list"]).ok().stdout;
        all.split_inclusive('\n').take(3).collect::<String>()
    };
    device.run(&["config", "set", "delete-guard", "off"]).ok();
    device.run(&["bandwidth-limit", "2M", "off"]).ok();
    assert_eq!(settings(&device), "delete-guard    off\nupload-limit    2000000\ndownload-limit  off\n");
    device.run(&["start"]).ok();
    assert_eq!(settings(&device), "delete-guard    off\nupload-limit    2000000\ndownload-limit  off\n");
    device.run(&["config", "set", "delete-guard", "10,25"]).ok();
    device.run(&["bandwidth-limit", "off", "500K"]).ok();
    assert_eq!(device.json(&["config", "get", "delete-guard"])["value"], "10,25");
    device.run(&["stop"]).ok();
    assert_eq!(settings(&device), "delete-guard    10,25\nupload-limit    off\ndownload-limit  500000\n");
    device.run(&["config", "set", "deltas", "off"]).ok();
    device.run(&["start"]).ok();
    device.run(&["config", "set", "prefetch", "off"]).ok();
    let all = device.run(&["config", "list"]).ok().stdout;
    let rest: String = all.split_inclusive('\n').skip(3).collect();
    let expected = [
        "deltas          off",
        "compression     on",
        "reuse           on",
        "prefetch        off",
        "early-reading   on",
        "pacing          on",
        "small-contents  on",
        "hash-once       on",
        "neighbours      on",
        "quiet           on",
        "kept-blocks     on",
        "bundles         on",
        "shifts          on",
        "direct-writes   on",
    ];
    assert_eq!(rest.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_pause_outlives_the_daemon() {
    let server = Server::start();
    let device = server.running_device("laptop");
    device.run(&["pause"]).ok();
    device.run(&["stop"]).ok();
    device.run(&["start"]).ok();
    assert_eq!(device.json(&["status"])["state"], "paused");
    device.run(&["flush"]).fails(1, "paused", "syncline resume");
    device.run(&["resume"]).ok();
    device.flush();
}

#[test]
fn a_damaged_database_stops_for_safety_and_can_be_rebuilt_without_a_loss() {
    let server = Server::start();
    let (laptop, desktop) = (server.running_device("laptop"), server.running_device("desktop"));
    laptop.write("kept/notes.txt", "text");
    support::flush_both(&laptop, &desktop);
    laptop.run(&["stop"]).ok();
    let database = laptop.home.join("client.sqlite");
    fs::write(&database, vec![0x5a; 100_000]).expect("damaged");

    laptop.run(&["start"]).fails(7, "is damaged", "syncline rebuild-index");
    laptop.run(&["config", "list"]).fails(7, "is damaged", "syncline rebuild-index");
    let rebuilt = laptop.run(&["rebuild-index"]).ok();
    assert!(rebuilt.stderr.contains("client.sqlite.damaged-1"), "{rebuilt:?}");
    laptop.write("new.txt", "made meanwhile");
    laptop.run(&["start"]).ok();
    support::flush_both(&laptop, &desktop);
    let expected = [("kept", "folder"), ("kept/notes.txt", "text"), ("new.txt", "made meanwhile")];
    let expected = expected.map(|(path, content)| (path.to_owned(), content.to_owned()));
    assert_eq!(laptop.tree(), expected);
    assert_eq!(desktop.tree(), expected);
}

/// As after the folder was copied to another disk, of which the database knows nothing.
#[test]
fn a_sound_database_can_be_built_anew_without_a_loss() {
    let server = Server::start();
    let (laptop, desktop) = (server.running_device("laptop"), server.running_device("desktop"));
    for (path, content) in [("kept/notes.txt", "text"), ("kept/edited.txt", "before"), ("gone.txt", "back again")] {
        laptop.write(path, content);
    }
    support::flush_both(&laptop, &desktop);
    laptop.run(&["rebuild-index", "--anew"]).fails(1, "another syncline process", "syncline stop");
    laptop.run(&["stop"]).ok();
    fs::remove_file(laptop.folder.join("gone.txt")).expect("not copied");
    laptop.write("kept/edited.txt", "after");
    let rebuilt = laptop.run(&["rebuild-index", "--anew"]).ok();
    assert!(rebuilt.stderr.contains("client.sqlite.damaged-1"), "{rebuilt:?}");
    laptop.run(&["start"]).ok();
    support::flush_both(&laptop, &desktop);
    let tree = laptop.tree();
    let contents: Vec<&str> = tree.iter().map(|(_, content)| content.as_str()).collect();
    for content in ["back again", "text", "before", "after"] {
        assert!(contents.contains(&content), "{content}: {tree:?}");
    }
    assert_eq!((tree.len(), tree), (5, desktop.tree()));
}

#[test]
fn a_missing_database_is_not_taken_for_an_empty_one() {
    let server = Server::start();
    let device = server.device("laptop");
    device.write("notes.txt", "text");
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(device.home.join(format!("client.sqlite{suffix}"))).ok();
    }
    device.run(&["start"]).fails(7, "is missing", "syncline rebuild-index");
    device.run(&["rebuild-index"]).ok();
    device.run(&["start"]).ok();
    device.flush();
    assert_eq!(device.read("notes.txt"), "text");
}

#[test]
fn accounts_are_listed_and_not_made_twice() {
    let server = Server::start();
    let listed = run(&["admin", "--data", server.data(), "user", "list"]).ok().stdout;
    assert!(listed.contains(ALICE) && listed.contains(BOB), "{listed}");
    let args = ["admin", "--data", server.data(), "user", "add", ALICE, "--password-stdin"];
    let again = run_with_input(&args, "another password\n");
    assert_eq!(again.code, 1, "{again:?}");
}

#[test]
fn a_lost_device_is_unlinked_by_another_one() {
    let server = Server::start();
    let (laptop, lost) = (server.running_device("laptop"), server.running_device("lost"));
    laptop.run(&["devices", "unlink", "stranger"]).fails(1, "no device `stranger`", "syncline devices");
    laptop.run(&["devices", "unlink", "laptop"]).fails(2, "that is this device", "syncline unlink");
    let said = laptop.run(&["devices", "unlink", "lost"]).ok().stdout;
    assert!(said.contains("unlinked lost"), "{said}");
    lost.run(&["flush", "--timeout", "30"]).fails(1, "was unlinked", "syncline link");
    let left = laptop.json(&["devices"]);
    assert_eq!(left["devices"].as_array().map(Vec::len), Some(1));
    laptop.flush();
}

#[test]
fn an_account_gets_another_password_and_loses_its_devices_if_that_is_wanted() {
    let server = Server::start();
    let laptop = server.running_device("laptop");
    let change = |more: &[&str]| {
        let args = [&["admin", "--data", server.data(), "user", "passwd", ALICE, "--password-stdin"], more].concat();
        run_with_input(&args, "a better password than before\n").ok()
    };
    assert!(change(&[]).stdout.contains("0 devices were unlinked"));
    laptop.flush();
    let late = unlinked(&server, "late");
    late.link(&server.address, ALICE, PASSWORD).fails(1, "password is wrong", "try again");
    late.link(&server.address, ALICE, "a better password than before").ok();
    assert_eq!(change(&["--unlink-devices", "--json"]).json()["unlinked"], 2);
    laptop.run(&["flush", "--timeout", "30"]).fails(1, "was unlinked", "syncline link");
    let args = ["admin", "--data", server.data(), "user", "passwd", "nobody@x", "--password-stdin"];
    let unknown = run_with_input(&args, "a better password than before\n");
    assert!(unknown.code == 1 && unknown.stderr.contains("no account for nobody@x"), "{unknown:?}");
}

/// The epoch of an empty server in the wrong place was raised, and the right one went on with the old one.
#[test]
fn what_is_asked_of_a_server_that_is_not_there_makes_none() {
    let place = tempfile::tempdir().expect("a folder");
    let wrong = place.path().join("wrong");
    let data = text(&wrong);
    for verb in [&["raise-epoch"][..], &["verify"], &["gc"], &["gc", "--dry-run"], &["find-blocks"], &["user", "list"]]
    {
        let asked = run(&[&["admin", "--data", data], verb].concat());
        asked.fails(1, "there is no server's metadata database", "check `--data`");
        assert!(!wrong.exists(), "{verb:?}");
    }
    let args = ["admin", "--data", data, "user", "add", ALICE, "--password-stdin"];
    let added = run_with_input(&args, &format!("{PASSWORD}\n")).ok();
    assert!(added.stdout.contains("a new server"), "{}", added.stdout);
    let args = ["admin", "--data", data, "user", "add", BOB, "--password-stdin", "--json"];
    assert_eq!(run_with_input(&args, &format!("{PASSWORD}\n")).ok().json()["new_server"], false);
    run(&["admin", "--data", data, "verify"]).ok();
}

#[test]
fn two_servers_do_not_share_a_data_directory() {
    let server = Server::start();
    let second = run(&["server", "--data", server.data(), "--listen", "127.0.0.1:0"]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.contains("hint: "), "{second:?}");
}
