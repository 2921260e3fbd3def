//! What needs neither a server nor a device: help, usage errors, documents.

mod support;

use support::{run, run_with_input, text};

#[test]
fn the_version_names_the_program() {
    assert_eq!(run(&["--version"]).ok().stdout, format!("syncline {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_is_data_and_lists_every_command_in_one_line_each() {
    let help = run(&["-h"]).ok().stdout;
    for verb in [
        "demo",
        "server",
        "admin",
        "link",
        "unlink",
        "start",
        "stop",
        "status",
        "activity",
        "flush",
        "filestatus",
        "why",
        "pause",
        "resume",
        "devices",
        "history",
        "revs",
        "restore",
        "exclude",
        "bandwidth-limit",
        "rebuild-index",
        "config",
        "deletions",
        "share",
        "completions",
        "man",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb} in {help}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["dance"][..],
        &[],
        &["link"],
        &["share", "folder"],
        &["flush", "--timeout", "soon"],
        &["flush", "--timeout", "-1"],
        &["filestatus"],
        &["server", "--role", "cook"],
        &["server"],
        &["admin", "user", "list"],
    ] {
        let ran = run(args);
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).ok().stdout.contains("filestatus"), "{shell}");
    }
    assert!(run(&["man"]).ok().stdout.starts_with(".ie"), "a page in roff");
    let directory = tempfile::tempdir().expect("a temporary directory");
    run(&["man", "--dir", text(&directory.path().join("man"))]).ok();
    for page in ["syncline.1", "syncline-link.1", "syncline-share-list.1"] {
        assert!(directory.path().join("man").join(page).exists(), "{page}");
    }
}

#[test]
fn a_home_that_is_not_linked_is_told_so_by_every_command() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for args in [
        &["status"][..],
        &["status", "--watch"],
        &["start"],
        &["start", "--foreground"],
        &["stop"],
        &["unlink"],
        &["activity"],
        &["flush"],
        &["filestatus", "x"],
        &["why", "x"],
        &["pause"],
        &["resume"],
        &["devices"],
        &["history"],
        &["revs", "x"],
        &["restore", "x"],
        &["exclude", "list"],
        &["exclude", "add", "x"],
        &["bandwidth-limit", "off", "off"],
        &["config", "list"],
        &["config", "set", "delete-guard", "off"],
        &["deletions", "confirm"],
        &["rebuild-index"],
        &["share", "x", "bob@example.org"],
        &["share", "list"],
    ] {
        let ran = run(&[&["--home", text(home.path())], args].concat());
        ran.fails(1, "this device is not linked", "syncline link");
    }
}

#[test]
fn settings_are_checked_before_anything_else() {
    run(&["--home", "/nowhere", "config", "set", "colour", "blue"]).fails(2, "no setting `colour`", "delete-guard");
    run(&["--home", "/nowhere", "config", "set", "delete-guard", "maybe"]).fails(2, "`maybe` is no value", "COUNT");
    run(&["--home", "/nowhere", "bandwidth-limit", "fast", "off"]).fails(2, "`fast` is no value", "500K");
}

#[test]
fn text_that_is_no_address_or_email_is_wrong_usage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (home, folder) = (directory.path().join("home"), directory.path().join("folder"));
    let link = |server: &str, email: &str| {
        let args =
            ["--home", text(&home), "link", server, "--email", email, "--password-stdin", "--folder", text(&folder)];
        run_with_input(&args, "password\n")
    };
    link("sync.example.org", "a@b.c").fails(2, "is not a server's address", "https://");
    link("ftp://sync.example.org", "a@b.c").fails(2, "is not a server's address", "https://");
    link("http://127.0.0.1:1", "alice").fails(2, "`alice` is not an e-mail address", "alice@example.org");
    assert!(!folder.exists());
}

#[test]
fn control_characters_in_arguments_do_not_reach_the_terminal() {
    let ran = run(&["--home", "/nowhere", "config", "set", "\x1b[2J", "x"]);
    assert!(!ran.stderr.contains('\x1b'), "{ran:?}");
}
