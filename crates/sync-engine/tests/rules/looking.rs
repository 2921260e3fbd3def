//! What the engine looks at and reads, and when.

use crate::build::{
    A, B, ROOT, agreed_file, at_root, changed, entry, found, found_file, listing, local, name, path, print, remote,
    synced,
};
use crate::script::{Script, hash, state};
use api::{ChangesReply, NamespaceChanges};
use model::{Body, Change, NamespaceId, Position, Role};
use sync_engine::io::{
    Action, DirectoryScan, Event, Extent, FileKind, Found, HashResult, Hint, Job, JobResult, LocalStep, Reply, Request,
    RootState, ScanTarget, StepError,
};
use sync_engine::tree::{Content, NodeRow, Seen};

/// It was read again and again until the server answered: the queue of what to read is made by planning.
#[test]
fn a_file_is_read_once_while_the_server_is_lost_in_the_middle_of_a_journal() {
    let mut script = Script::at_rest(state(), Vec::new(), &[found_file("b", print(12, 4))]);
    let asks = |request: &Request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(());
    script.tell(Event::StreamOpened);
    let (id, ()) = script.request(asks).expect("it asks for changes");
    let create = Change::Create { parent: ROOT.root(), name: name("c"), body: Body::Directory };
    let entries = vec![entry(2, A, create)];
    let part = NamespaceChanges { namespace: ROOT, role: Some(Role::Owner), entries, head: Position(3) };
    script.reply(id, Ok(Reply::Changes(ChangesReply { namespaces: vec![part] })));
    let (id, ()) = script.request(asks).expect("and for the rest");
    script.lose(id);
    hash(&mut script, "mine");
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none());
}

/// It was read again and again, without a pause: who may go through a folder and not list it can open what is in it.
#[test]
fn a_file_whose_change_no_look_shows_is_told_of_and_read_ever_more_seldom() {
    let as_known = || [found_file("b", print(12, 4))];
    let mut script = Script::at_rest(state(), Vec::new(), &as_known());
    let mut readings = Vec::new();
    for _ in 0..60 {
        if let Some((id, Job::Hash(tasks))) = script.job(|job| matches!(job, Job::Hash(_))) {
            readings.push(script.now);
            script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, HashResult::Changed)])));
        } else {
            script.wake();
        }
        script.answer_scans(&as_known());
    }
    let problems: Vec<String> = script.engine.problems(9).into_iter().map(|problem| problem.path).collect();
    assert_eq!(problems, ["b"], "the user is told");
    let pauses: Vec<u64> = readings.windows(2).map(|two| two[1] - two[0]).filter(|pause| *pause > 100).collect();
    assert!(pauses.len() > 3 && readings.len() <= 2 * (pauses.len() + 1), "{readings:?}");
    assert!(pauses[0] >= 900 && pauses.is_sorted(), "{pauses:?}");

    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"b".as_slice().into() }]));
    script.answer_scans(&[found_file("b", changed(print(12, 4)))]);
    while !script.actions.iter().any(|action| matches!(action, Action::Job(_, Job::Hash(_)))) {
        script.wake();
    }
    hash(&mut script, "mine");
    assert_eq!(script.engine.problems(9).len(), 0);
}

/// What was to be looked at in the user's folder was forgotten when it became the server's, and a file that had
/// moved into it counted as deleted.
#[test]
fn what_happened_in_a_folder_is_looked_at_when_the_folder_turns_out_to_be_the_servers() {
    let mut script = Script::at_rest(state(), Vec::new(), &[]);
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"d".as_slice().into() }]));
    answer_scan(&mut script, vec![found("d", FileKind::Directory, print(11, 0))]);
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(
        2,
        A,
        Change::Create { parent: ROOT.root(), name: name("d"), body: Body::Directory },
    )]);
    let into = Hint::Entry { directory: path("d"), name: b"f".as_slice().into() };
    script.tell(Event::Hints(vec![into]));
    answer_scan(&mut script, Vec::new());
    assert!(script.engine.trees().has_local(A));
    let (_, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let names = Extent::Names([b"f".as_slice().into()].into());
    assert_eq!(job, Job::Scan(vec![ScanTarget { directory: path("d"), extent: names }]));
}

/// It was looked at an hour later.
#[test]
fn what_differs_only_in_case_is_looked_at_when_the_client_has_removed_the_other_one() {
    let rows = vec![(A, agreed_file(&at_root("a"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[found_file("a", print(11, 5)), found_file("A", print(12, 1))]);
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(2, A, Change::Delete)]);
    let (id, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("it is removed");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(matches!(&steps[..], [LocalStep::Remove { .. }]), "{steps:?}");
    let results = vec![Ok(None)];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans(&[found_file("A", print(12, 1))]);
    hash(&mut script, "other");
    assert!(script.commit().is_some());
}

/// Answers one scan: each directory holds this.
fn answer_scan(script: &mut Script, entries: Vec<Found>) {
    let (id, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let Job::Scan(targets) = job else { unreachable!("asked for") };
    let look = |target: ScanTarget| {
        let inode = if target.directory.is_root() { 0 } else { 11 };
        DirectoryScan { target, result: Ok(listing(print(inode, 0), entries.clone())) }
    };
    let directories = targets.into_iter().map(look).collect();
    script.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories }));
}

/// The name led to the file that was there before, and what had moved into the new folder counted as deleted.
#[test]
fn what_happens_in_a_folder_that_a_batch_is_making_is_looked_at_when_it_is_made() {
    let targets = looked_at_after_hints(1);
    let names = Extent::Names([b"0".as_slice().into()].into());
    assert!(targets.contains(&ScanTarget { directory: path("a"), extent: names }), "{targets:?}");
}

#[test]
fn when_more_happens_during_a_batch_than_is_kept_everything_is_looked_at() {
    let targets = looked_at_after_hints(10_001);
    assert!(targets.contains(&ScanTarget { directory: path(""), extent: Extent::All }), "{targets:?}");
}

/// What the engine looks at when a batch has made a folder in which so much happened meanwhile.
fn looked_at_after_hints(hints: u32) -> Vec<ScanTarget> {
    let rows = vec![(A, agreed_file(&at_root("a"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[found_file("a", print(11, 5))]);
    script.tell(Event::StreamOpened);
    let moved = Change::Move { parent: ROOT.root(), name: name("b") };
    let made = Change::Create { parent: ROOT.root(), name: name("a"), body: Body::Directory };
    script.answer_changes(vec![entry(2, A, moved), entry(3, B, made)]);
    let (id, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("both are done");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(matches!(&*steps, [LocalStep::Move { .. }, LocalStep::MakeDirectory { .. }]), "{steps:?}");
    let hint = |number: u32| Hint::Entry { directory: path("a"), name: number.to_string().into_bytes().into() };
    script.tell(Event::Hints((0..hints).map(hint).collect()));
    let results = vec![Ok(Some(print(11, 5))), Ok(Some(print(12, 0)))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    let (_, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let Job::Scan(targets) = job else { unreachable!("asked for") };
    targets
}

/// What a folder held stayed what its user may not change.
#[test]
fn what_is_moved_out_of_a_share_that_the_user_could_only_view_is_read_and_sent() {
    let share = NamespaceId(*A.as_bytes());
    let mount = NodeRow {
        local: local(at_root("team"), Seen::Directory, print(11, 0)),
        synced: synced(at_root("team"), Content::Mount),
        remote: remote(at_root("team"), Content::Mount),
    };
    let mut viewing = state();
    viewing.roles.insert(share, Role::Viewer);
    viewing.cursor.insert(share, Position(1));
    let team = || found("team", FileKind::Directory, print(11, 0));
    let folder = || found("d", FileKind::Directory, print(12, 0));
    let file = || vec![found_file("f", print(13, 5))];
    let mut script = Script::start(viewing, vec![(A, mount)]);
    let asks = |request: &Request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(());
    let (id, ()) = script.request(asks).expect("it asks for changes");
    let part =
        |namespace, role| NamespaceChanges { namespace, role: Some(role), entries: Vec::new(), head: Position(1) };
    let namespaces = vec![part(ROOT, Role::Owner), part(share, Role::Viewer)];
    script.reply(id, Ok(Reply::Changes(ChangesReply { namespaces })));
    answer_scans(&mut script, |directory| match directory {
        "" => vec![team()],
        "team" => vec![folder()],
        "team/d" => file(),
        _ => Vec::new(),
    });
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none(), "it stays here");

    script.tell(Event::StreamOpened);
    let (id, ()) = script.request(asks).expect("it asks for changes");
    let left =
        NamespaceChanges { entries: vec![entry(2, A, Change::Delete)], head: Position(2), ..part(ROOT, Role::Owner) };
    let namespaces = vec![left, NamespaceChanges { role: None, ..part(share, Role::Viewer) }];
    script.reply(id, Ok(Reply::Changes(ChangesReply { namespaces })));
    let (id, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("it moves what is only here");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(
        matches!(&*steps, [LocalStep::MakeDirectory { .. }, LocalStep::Move { .. }, LocalStep::RemoveDirectory { .. }]),
        "{steps:?}"
    );
    let results = vec![Ok(Some(print(14, 0))), Ok(Some(print(12, 0))), Ok(None)];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    let haven = || vec![found("Unsynced (team 2026-11-23)", FileKind::Directory, print(14, 0))];
    answer_scans(&mut script, |directory| match directory {
        "" => haven(),
        "Unsynced (team 2026-11-23)" => vec![folder()],
        "Unsynced (team 2026-11-23)/d" => file(),
        _ => Vec::new(),
    });
    hash(&mut script, "bytes");
}

/// Answers scans until there are none. Each directory has the inode that the one above it shows.
fn answer_scans(script: &mut Script, entries: impl Fn(&str) -> Vec<Found>) {
    while let Some((id, Job::Scan(targets))) = script.job(|job| matches!(job, Job::Scan(_))) {
        let look = |target: ScanTarget| {
            let directory = target.directory.to_string();
            let inode = match &*directory {
                "team" => 11,
                "team/d" | "Unsynced (team 2026-11-23)/d" => 12,
                "Unsynced (team 2026-11-23)" => 14,
                _ => 0,
            };
            DirectoryScan { target, result: Ok(listing(print(inode, 0), entries(&directory))) }
        };
        let directories = targets.into_iter().map(look).collect();
        script.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories }));
    }
}

/// What became of the failure was forgotten, and that the file had been held back was not.
#[test]
fn a_file_that_is_read_after_a_step_has_failed_is_not_held_back_for_ever() {
    let here = || [found_file("a", print(11, 5))];
    let mut script = Script::at_rest(state(), Vec::new(), &here());
    let (reading, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("it is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    script.tell(Event::StreamOpened);
    let body = Body::Symlink { target: "x".into() };
    script.answer_changes(vec![entry(2, A, Change::Create { parent: ROOT.root(), name: name("a"), body })]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("it makes way meanwhile");
    let results = vec![Err(StepError::NoSpace), Err(StepError::Occupied)];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    let hashed = HashResult::Hashed { content: crate::build::file("bytes"), blocks: crate::build::blocks("bytes") };
    script.tell(Event::JobDone(reading, JobResult::Hashed(vec![(tasks[0].node, hashed)])));
    script.answer_scans(&here());
    script.now += 2_000;
    script.tell(Event::Woken);
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_some(), "it is tried again");
}
