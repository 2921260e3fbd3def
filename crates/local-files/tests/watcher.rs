//! The watcher on a real folder.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use local_files::watcher::{WatchOptions, WatchProblem, Watcher};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use sync_engine::io::{Hint, LocalPath};
use tempfile::TempDir;

/// Far more than any hint takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(20);

struct Watched {
    dir: TempDir,
    hints: Receiver<Vec<Hint>>,
    problems: Receiver<WatchProblem>,
    watcher: Watcher,
}

impl Watched {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::with(WatchOptions::default(), prepare)
    }

    fn with(options: WatchOptions, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(root_of(&dir).join(".syncline/tmp")).unwrap();
        prepare(&root_of(&dir));
        let (send_hints, hints) = channel();
        let (send_problem, problems) = channel();
        let sink = move |batch| drop(send_hints.send(batch));
        let problem = move |problem| drop(send_problem.send(problem));
        let watcher = Watcher::start(&root_of(&dir), options, sink, problem).unwrap();
        Self { dir, hints, problems, watcher }
    }

    fn path(&self, relative: &str) -> PathBuf {
        root_of(&self.dir).join(relative)
    }

    /// Collects hints until `enough` says so, and returns them all.
    fn until(&self, enough: impl Fn(&[Hint]) -> bool) -> Vec<Hint> {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        while !enough(&seen) {
            match self.hints.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(batch) => seen.extend(batch),
                Err(RecvTimeoutError::Timeout) => panic!("only {seen:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the watcher ended after {seen:?}"),
            }
        }
        seen
    }

    fn until_hint(&self, hint: &Hint) -> Vec<Hint> {
        self.until(|seen| seen.contains(hint))
    }
}

fn root_of(dir: &TempDir) -> PathBuf {
    dir.path().join("root")
}

fn local(path: &str) -> LocalPath {
    LocalPath::from_bytes(path.as_bytes()).unwrap()
}

fn entry(directory: &str, name: &str) -> Hint {
    Hint::Entry { directory: local(directory), name: Box::from(name.as_bytes()) }
}

fn writing(directory: &str, name: &str) -> Hint {
    Hint::Writing { directory: local(directory), name: Box::from(name.as_bytes()) }
}

fn closed(directory: &str, name: &str) -> Hint {
    Hint::Closed { directory: local(directory), name: Box::from(name.as_bytes()) }
}

fn rescan(directory: &str) -> Hint {
    Hint::Rescan { directory: local(directory) }
}

/// Whether the hints make someone look at the path: an entry, or a rescan of a folder above it.
fn cover(hints: &[Hint], path: &str) -> bool {
    hints.iter().any(|hint| match hint {
        Hint::Entry { directory, name } | Hint::Writing { directory, name } | Hint::Closed { directory, name } => {
            directory.join(name) == local(path)
        }
        Hint::Rescan { directory } => directory.is_root() || path.starts_with(&directory.to_string()),
    })
}

#[test]
fn a_file_that_is_made_written_and_closed_is_told_in_these_steps() {
    let watched = Watched::new(|root| fs::create_dir(root.join("d")).unwrap());
    let mut file = fs::File::create(watched.path("d/f")).unwrap();
    watched.until_hint(&entry("d", "f"));
    file.write_all(b"x").unwrap();
    watched.until_hint(&writing("d", "f"));
    drop(file);
    watched.until_hint(&closed("d", "f"));
}

#[test]
fn who_catches_up_has_heard_of_all_that_was_done_before() {
    let watched = Watched::new(|_| {});
    let prompter = watched.watcher.prompter();
    for n in 0..50 {
        let name = n.to_string();
        fs::write(watched.path(&name), "x").unwrap();
        prompter.catch_up();
        let heard: Vec<Hint> = watched.hints.try_iter().flatten().collect();
        assert!(heard.contains(&closed("", &name)), "{heard:?}");
    }
}

#[test]
fn renames_deletions_and_attributes_are_told_for_each_name() {
    let watched = Watched::new(|root| fs::write(root.join("a"), "").unwrap());
    fs::rename(watched.path("a"), watched.path("b")).unwrap();
    watched.until(|seen| seen.contains(&entry("", "a")) && seen.contains(&entry("", "b")));
    fs::set_permissions(watched.path("b"), fs::Permissions::from_mode(0o755)).unwrap();
    watched.until_hint(&entry("", "b"));
    fs::remove_file(watched.path("b")).unwrap();
    watched.until_hint(&entry("", "b"));
}

#[test]
fn a_hint_comes_within_a_tenth_of_a_second() {
    let watched = Watched::new(|_| {});
    let best = (0..10)
        .map(|n| {
            let name = n.to_string();
            let start = Instant::now();
            fs::write(watched.path(&name), "x").unwrap();
            watched.until_hint(&closed("", &name));
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best < Duration::from_millis(100), "{best:?}");
}

#[test]
fn a_file_in_a_folder_made_a_moment_before_is_never_missed() {
    let watched = Watched::new(|_| {});
    for n in 0..50 {
        let folder = format!("d{n}/a/b/c/d/e/f/g");
        fs::create_dir_all(watched.path(&folder)).unwrap();
        fs::write(watched.path(&format!("{folder}/file")), "x").unwrap();
    }
    watched.until(|seen| (0..50).all(|n| cover(seen, &format!("d{n}/a/b/c/d/e/f/g/file"))));
    fs::write(watched.path("d7/a/b/c/d/e/f/g/later"), "x").unwrap();
    watched.until_hint(&closed("d7/a/b/c/d/e/f/g", "later"));
}

#[test]
fn a_tree_that_is_moved_in_is_scanned_and_watched() {
    let watched = Watched::new(|_| {});
    let outside = watched.dir.path().join("outside");
    fs::create_dir_all(outside.join("x/y")).unwrap();
    fs::rename(&outside, watched.path("inside")).unwrap();
    watched.until(|seen| seen.contains(&entry("", "inside")) && seen.contains(&rescan("inside")));
    fs::write(watched.path("inside/x/y/f"), "").unwrap();
    watched.until_hint(&closed("inside/x/y", "f"));
}

#[test]
fn a_renamed_folder_keeps_its_watches_under_its_new_path() {
    let watched = Watched::new(|root| fs::create_dir_all(root.join("a/deep/er")).unwrap());
    fs::rename(watched.path("a/deep"), watched.path("moved")).unwrap();
    watched.until(|seen| seen.contains(&entry("a", "deep")) && seen.contains(&entry("", "moved")));
    fs::write(watched.path("moved/er/f"), "").unwrap();
    let seen = watched.until_hint(&closed("moved/er", "f"));
    assert!(!seen.iter().any(|hint| matches!(hint, Hint::Rescan { .. })), "nothing was missed: {seen:?}");
}

#[test]
fn a_folder_that_is_moved_out_is_not_watched_any_more() {
    let watched = Watched::new(|root| fs::create_dir_all(root.join("a/b")).unwrap());
    let outside = watched.dir.path().join("outside");
    fs::rename(watched.path("a"), &outside).unwrap();
    watched.until_hint(&entry("", "a"));
    fs::write(outside.join("b/secret"), "").unwrap();
    fs::write(watched.path("mark"), "").unwrap();
    let seen = watched.until_hint(&closed("", "mark"));
    assert!(!format!("{seen:?}").contains("secret"), "{seen:?}");
}

#[test]
fn synclines_own_folder_gives_no_hints() {
    let watched = Watched::new(|_| {});
    fs::write(watched.path(".syncline/tmp/f"), "").unwrap();
    fs::write(watched.path(".syncline/root"), "").unwrap();
    fs::rename(watched.path(".syncline"), watched.path("x")).unwrap();
    fs::rename(watched.path("x"), watched.path(".syncline")).unwrap();
    fs::write(watched.path("mark"), "").unwrap();
    let seen = watched.until_hint(&closed("", "mark"));
    assert!(!format!("{seen:?}").contains(".syncline"), "{seen:?}");
}

#[test]
fn more_hints_than_the_queue_holds_become_a_rescan_of_the_root() {
    let options = WatchOptions { queue_limit: 2, ..WatchOptions::default() };
    let watched = Watched::with(options, |_| {});
    let deadline = Instant::now() + DEADLINE;
    let mut seen = Vec::new();
    while !seen.contains(&rescan("")) {
        assert!(Instant::now() < deadline, "{seen:?}");
        (0..20).for_each(|n| fs::write(watched.path(&n.to_string()), "").unwrap());
        seen.extend(watched.hints.try_iter().flatten());
    }
}

#[test]
fn events_that_the_kernel_dropped_become_a_rescan_and_watching_goes_on() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let watched = unseen(
        |_| {},
        |root| {
            for n in 0..limit {
                fs::write(root.join((n % 100).to_string()), "").unwrap();
            }
            fs::create_dir(root.join("lost")).unwrap();
        },
    );
    watched.until_hint(&rescan(""));
    fs::write(watched.dir.path().join("lost/f"), "").unwrap();
    watched.until_hint(&closed("lost", "f"));
}

/// A watched folder in which something is done while nothing is read from the kernel, so that the watcher sees what
/// there is at the end before it hears how that came about.
fn unseen(prepare: impl FnOnce(&Path), act: impl FnOnce(&Path)) -> Watched {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (send, hints) = channel();
    let (release, held) = channel::<()>();
    let sink = move |batch: Vec<Hint>| {
        drop(send.send(batch));
        assert!(held.recv().is_err(), "it is let go by hanging up");
    };
    let watcher = Watcher::start(dir.path(), WatchOptions::default(), sink, |_| {}).unwrap();
    fs::write(dir.path().join("first"), "").unwrap();
    hints.recv_timeout(DEADLINE).unwrap();
    act(dir.path());
    drop(release);
    Watched { problems: channel().1, hints, watcher, dir }
}

/// It was not watched any more, for as long as the program ran.
#[test]
fn a_folder_that_left_and_came_back_at_once_is_watched() {
    let out = tempfile::tempdir().unwrap();
    let away = out.path().join("x");
    let watched = unseen(
        |root| fs::create_dir_all(root.join("d/inner")).unwrap(),
        |root| {
            fs::rename(root.join("d"), &away).unwrap();
            fs::create_dir(away.join("made outside")).unwrap();
            fs::rename(&away, root.join("d")).unwrap();
        },
    );
    watched.until_hint(&rescan("d"));
    for folder in ["d", "d/inner", "d/made outside"] {
        fs::write(watched.dir.path().join(folder).join("f"), "").unwrap();
        watched.until_hint(&closed(folder, "f"));
    }
}

/// It was taken for the other one, and the first was not watched.
#[test]
fn a_folder_whose_former_name_was_taken_at_once_is_watched() {
    let watched = unseen(
        |_| {},
        |root| {
            fs::create_dir(root.join("tmp")).unwrap();
            fs::rename(root.join("tmp"), root.join("moved")).unwrap();
            fs::create_dir(root.join("tmp")).unwrap();
        },
    );
    watched.until_hint(&rescan("moved"));
    for folder in ["moved", "tmp"] {
        fs::write(watched.dir.path().join(folder).join("f"), "").unwrap();
        watched.until_hint(&closed(folder, "f"));
    }
}

#[test]
fn the_root_may_vanish_and_come_back() {
    let watched = Watched::new(|_| {});
    let away = watched.dir.path().join("away");
    fs::rename(watched.path(""), &away).unwrap();
    watched.until_hint(&rescan(""));
    fs::rename(&away, watched.path("")).unwrap();
    watched.until_hint(&rescan(""));
    fs::write(watched.path("f"), "").unwrap();
    watched.until_hint(&closed("", "f"));
}

#[test]
fn a_root_that_is_replaced_by_way_of_its_parent_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("parent/root")).unwrap();
    let (send, hints) = channel();
    let sink = move |batch| drop(send.send(batch));
    let root = dir.path().join("parent/root");
    let watcher = Watcher::start(&root, WatchOptions::default(), sink, |_| {}).unwrap();
    fs::rename(dir.path().join("parent"), dir.path().join("old")).unwrap();
    fs::create_dir_all(&root).unwrap();
    let watched = Watched { problems: channel().1, hints, watcher, dir };
    watched.until_hint(&rescan(""));
    let deadline = Instant::now() + DEADLINE;
    while !watched.hints.try_iter().flatten().any(|hint| hint == closed("", "f")) {
        assert!(Instant::now() < deadline);
        fs::write(root.join("f"), "x").unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_watched_is_reported_once_and_scanned_again_and_again() {
    if rustix::process::geteuid().is_root() {
        // The superuser may read everything.
        return;
    }
    let options = WatchOptions { rescan_interval: Duration::from_millis(20), ..WatchOptions::default() };
    let watched = Watched::with(options, |root| {
        fs::create_dir(root.join("closed")).unwrap();
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    });
    let problem = watched.problems.recv_timeout(DEADLINE).unwrap();
    assert_eq!(problem, WatchProblem::Unreadable { path: local("closed") });
    assert!(!problem.advice().is_empty());
    watched.until_hint(&rescan("closed"));
    watched.until_hint(&rescan("closed"));
    assert!(watched.problems.try_recv().is_err(), "once");
    fs::set_permissions(watched.path("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    watched.until(|seen| cover(seen, "closed/f"));
    fs::write(watched.path("closed/f"), "").unwrap();
    watched.until_hint(&closed("closed", "f"));
}
