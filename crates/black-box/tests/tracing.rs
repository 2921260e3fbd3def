//! What the tracer does to a process.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

/// The files that a shell leaves which makes `a`, `b` and `c` under an injection; `None` where no process
/// may be traced.
fn left_by(injection: &[&str]) -> Option<Vec<String>> {
    let place = tempfile::tempdir().expect("made");
    let mut shell = Command::new("sh")
        .args(["-c", "read start; true > a; true > b; true > c"])
        .current_dir(place.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let mut tracer = Command::new(env!("CARGO_BIN_EXE_black-box"))
        .args(["trace", &shell.id().to_string()])
        .args(injection)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    let (mut said, mut stdout) = (String::new(), BufReader::new(tracer.stdout.take().expect("piped")));
    stdout.read_line(&mut said).expect("read");
    shell.stdin.take().expect("piped").write_all(b"\n").expect("it reads");
    shell.wait().expect("ends");
    drop(tracer.stdin.take());
    stdout.read_to_string(&mut said).expect("read");
    tracer.wait().expect("ends");
    let names = fs::read_dir(place.path()).expect("listed").map(|entry| entry.expect("read").file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    said.starts_with("attached").then_some(names)
}

#[test]
fn a_fault_strikes_the_call_that_it_is_meant_for_and_no_other() {
    for (injection, expected) in [
        (&["kill", "2", "point-1"][..], &["a"][..]),
        (&["enospc", "2", "point-1"], &["a", "c"]),
        (&["enospc", "2", "point-1", "--sticky"], &["a"]),
        (&["kill", "4", "point-1"], &["a", "b", "c"]),
    ] {
        if let Some(left) = left_by(injection) {
            assert_eq!(left, expected, "{injection:?}");
        }
    }
}
