//! `syncline demo` on no terminal.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use support::{Running, eventually, program, text};

struct Demo {
    running: Running,
    folders: Vec<PathBuf>,
    stderr: BufReader<std::process::ChildStderr>,
}

/// Starts a demonstration and reads where its two folders are.
fn start(args: &[&str]) -> Demo {
    let mut child =
        program().arg("demo").args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut folders = Vec::new();
    while folders.len() < 2 {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).expect("text") > 0, "it ended early");
        folders.extend(line.split_whitespace().nth(1).filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Demo { running: Running { child }, folders, stderr }
}

impl Demo {
    /// Ends it as Ctrl-C does; gives what it said and showed.
    fn end(mut self) -> (String, String) {
        let pid = rustix::process::Pid::from_child(&self.running.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("told");
        let (mut said, mut shown) = (String::new(), String::new());
        self.stderr.read_to_string(&mut said).expect("text");
        self.running.child.stdout.take().expect("piped").read_to_string(&mut shown).expect("text");
        assert_eq!(self.running.child.wait().expect("ends").code(), Some(0), "{said}");
        (said, shown)
    }
}

#[test]
fn a_demonstration_syncs_shows_it_and_leaves_nothing_behind() {
    let demo = start(&[]);
    let folders = demo.folders.clone();
    fs::write(folders[0].join("hello.txt"), "hello").expect("written");
    eventually("the file is on the other side", || folders[1].join("hello.txt").exists());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let (said, shown) = demo.end();
    assert!(shown.contains("Desktop: downloaded hello.txt"), "{shown}");
    assert!(said.contains("removed "), "{said}");
    assert!(!folders[0].exists());
}

#[test]
fn a_demonstration_in_a_given_folder_is_kept_and_goes_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = directory.path().join("demo");
    let demo = start(&[text(&place)]);
    fs::write(demo.folders[0].join("hello.txt"), "hello").expect("written");
    eventually("the file is on the other side", || demo.folders[1].join("hello.txt").exists());
    let (said, _) = demo.end();
    assert!(said.contains("kept"), "{said}");
    let demo = start(&[text(&place)]);
    fs::write(demo.folders[1].join("again.txt"), "again").expect("written");
    eventually("the second file is on the other side", || demo.folders[0].join("again.txt").exists());
    assert_eq!(fs::read_to_string(demo.folders[1].join("hello.txt")).expect("kept"), "hello");
    demo.end();
}
