//! `admin gc`, `admin verify` and `admin find-blocks`, and a server whose blocks are in a bucket.

mod support;

use block_store_s3::private_server::PrivateServer;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Server, eventually, run, text};
use tempfile::TempDir;

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("lists").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn devices_sync_through_a_bucket_and_damage_in_it_is_found() {
    let bucket = PrivateServer::start();
    let directory = TempDir::new().expect("a temporary directory");
    let credentials = directory.path().join("credentials");
    fs::write(&credentials, PrivateServer::credentials_text()).expect("writes");
    let (url, credentials) = (format!("{}&packs=off", bucket.url("team")), text(&credentials).to_owned());
    let settings = ["--blocks", &url, "--blocks-credentials-file", &credentials];
    let mut server = Server::start_with(directory, &settings);
    let (laptop, desktop) = (server.running_device("laptop"), server.running_device("desktop"));
    laptop.write("notes.txt", "the first note");
    laptop.write("folder/second.txt", "the second note");
    laptop.flush();
    desktop.flush();
    eventually("both files are there", || {
        desktop.has("folder/second.txt") && desktop.has("notes.txt") && desktop.read("notes.txt") == "the first note"
    });
    assert!(!server.path("server/blocks").exists(), "nothing is kept on the disk");
    let objects = files(&bucket.objects().join("team/blocks"));
    assert_eq!(objects.len(), 2);
    server.restart();

    let admin = |verb: &[&str]| run(&[&["admin", "--data", server.data()], &settings[..], verb].concat());
    let verified = admin(&["verify", "--json"]).ok().json();
    assert_eq!((&verified["named"], &verified["missing"], &verified["orphans"]), (&2.into(), &0.into(), &0.into()));
    let mark = || fs::read_to_string(bucket.objects().join("team/instance")).expect("reads");
    let with_packs = ["--blocks", &bucket.url("team"), "--blocks-credentials-file", &credentials];
    run(&[&["admin", "--data", server.data()], &with_packs[..], &["verify"]].concat()).ok();
    assert!(mark().starts_with("syncline block store 1"), "who looks marks nothing");
    let cleaned = admin(&["gc", "--json"]).ok().json();
    assert_eq!((&cleaned["blocks"], &cleaned["removed"]), (&2.into(), &0.into()), "beside a running server");

    fs::write(&objects[0], "something else").expect("writes");
    fs::remove_file(&objects[1]).expect("removes");
    let found = admin(&["verify", "--json"]);
    assert_eq!(found.code, 1, "{found:?}");
    assert_eq!((&found.json()["missing"], &found.json()["damaged"]), (&1.into(), &1.into()));
}

#[test]
fn small_files_share_objects_of_a_bucket_and_are_found_again_after_an_older_database_was_restored() {
    let bucket = PrivateServer::start();
    let directory = TempDir::new().expect("a temporary directory");
    let credentials = directory.path().join("credentials");
    fs::write(&credentials, PrivateServer::credentials_text()).expect("writes");
    let (url, credentials) = (bucket.url(""), text(&credentials).to_owned());
    let settings = ["--blocks", &url, "--blocks-credentials-file", &credentials];
    let mut server = Server::start_with(directory, &settings);
    let laptop = server.running_device("laptop");
    let names: Vec<String> = (0..40).map(|n| format!("note {n}.txt")).collect();
    names.iter().for_each(|name| laptop.write(name, name));
    laptop.flush();
    let packs = files(&bucket.objects().join("packs"));
    let alone = files(&bucket.objects().join("blocks")).len();
    assert!(packs.len() + alone < 10, "{} packs and {alone} others", packs.len());

    // A database in which no place of a block is noted.
    server.kill();
    let admin = |verb: &[&str]| run(&[&["admin", "--data", server.data()], &settings[..], verb].concat());
    assert_eq!(admin(&["verify", "--json"]).ok().json()["named"], 40);
    let database = rusqlite::Connection::open(server.path("server/meta.sqlite")).expect("opens");
    database.execute_batch("DELETE FROM packed_blocks; DELETE FROM packs").expect("forgets");
    drop(database);
    assert_eq!(admin(&["verify", "--json"]).code, 1);
    assert_eq!(admin(&["find-blocks", "--json"]).ok().json()["found"], 40 - alone);
    assert_eq!(admin(&["find-blocks", "--json"]).ok().json()["found"], 0);
    let verified = admin(&["verify", "--json"]).ok().json();
    assert_eq!((&verified["named"], &verified["orphans"]), (&40.into(), &0.into()));
    server.restart();
    let desktop = server.running_device("desktop");
    eventually("all arrive", || names.iter().all(|name| desktop.has(name) && desktop.read(name) == *name));
}

#[test]
fn a_bucket_that_cannot_be_used_is_told_and_no_server_starts() {
    let bucket = PrivateServer::start();
    let directory = TempDir::new().expect("a temporary directory");
    let credentials = directory.path().join("credentials");
    fs::write(&credentials, PrivateServer::credentials_text()).expect("writes");
    let data = directory.path().join("data");
    let serve = |url: &str| {
        let file = text(&credentials);
        run(&[
            "server",
            "--data",
            text(&data),
            "--listen",
            "127.0.0.1:0",
            "--blocks",
            url,
            "--blocks-credentials-file",
            file,
        ])
    };
    serve("https://bucket").fails(2, "is not a URL like s3://", "write it like s3://");
    let nowhere = format!("s3://nowhere?endpoint={}", bucket.endpoint());
    serve(&nowhere).fails(1, "cannot open the bucket", "check that the bucket exists");
    let foreign = bucket.objects().join("instance");
    fs::write(foreign, format!("syncline block store 1\n{}\n", model::InstanceId([9; 16]))).expect("writes");
    serve(&bucket.url("")).fails(1, "belong to another server", "work together");
}

#[test]
fn damage_is_told_with_exit_code_1_and_nothing_is_changed() {
    let mut server = Server::start();
    let laptop = server.running_device("laptop");
    laptop.write("notes.txt", "some text that is stored as a block");
    laptop.flush();
    let admin = |verb: &[&str]| run(&[&["admin", "--data", server.data()], verb].concat());
    assert_eq!(admin(&["verify", "--json"]).ok().json()["named"], 1, "beside a running server");
    assert_eq!(admin(&["gc", "--dry-run", "--json"]).ok().json()["blocks"], 1);
    admin(&["gc"]).fails(1, "another server is running", "by itself");
    server.kill();

    let pack = server.path("server/blocks/packs/00000001.pack");
    let mut bytes = fs::read(&pack).expect("reads");
    let middle = bytes.len() - 5;
    bytes[middle] ^= 1;
    fs::write(&pack, &bytes).expect("writes");
    let admin = |verb: &[&str]| run(&[&["admin", "--data", server.data()], verb].concat());
    for _ in 0..2 {
        let found = admin(&["verify", "--json"]);
        assert_eq!((found.code, &found.json()["damaged"]), (1, &1.into()), "{found:?}");
        assert!(found.stderr.contains("1 block is missing or damaged"), "{found:?}");
        assert_eq!(fs::read(&pack).expect("reads"), bytes);
    }
    assert_eq!(admin(&["gc", "--json"]).ok().json()["removed"], 0);
}
