//! What the engine does before what, and what it makes of answers that are late, lost or wrong.

use crate::build::{
    A, B, C, ROOT, agreed_file, agreed_folder, at_root, blocks, changed, entry, file, found, found_file, in_folder,
    listing, local, name, path, print, remote,
};
use crate::script::{Script, hash, state};
use api::{ApiError, ChangesReply, ErrorCode, NamespaceChanges, ServerReply};
use model::{Body, Change, CommitOutcome, Epoch, InstanceId, JournalEntry, NodeId, Operation, Position, Timestamp};
use sync_engine::Tuning;
use sync_engine::io::{
    Action, ActivityKind, Command, DeleteGuard, DirectoryScan, Event, FileKind, Fingerprint, Found, HashResult, Hint,
    Job, JobResult, LocalPath, LocalStep, Reply, Request, RequestError, RootState, ScanError, ScanTarget,
};
use sync_engine::tree::{Content, NodeRow, Place, Seen};

fn body(bytes: &str) -> Body {
    let content = file(bytes);
    Body::File { blocks: blocks(bytes), size: content.size, executable: false, mtime: content.mtime }
}

/// A device with the file `a` in sync, on which a user then edits it.
fn edited() -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    edit(&mut script);
    script
}

/// A device with a folder `d` and a file `b` in sync. The user moves the file into the folder, and the folder
/// cannot be read when it is looked at.
fn moved_into_an_unreadable_folder() -> Script {
    let folder = || found("d", FileKind::Directory, print(9, 0));
    let rows = vec![(A, agreed_folder(&at_root("d"), 9)), (B, agreed_file(&at_root("b"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[folder(), found_file("b", print(11, 5))]);
    let hint = |directory: &str| Hint::Entry { directory: path(directory), name: b"b".as_slice().into() };
    script.tell(Event::Hints(vec![hint(""), hint("d")]));
    fail_to_read_the_folder(&mut script);
    script
}

/// Answers a scan of the root, in which only the folder `d` is left, and of that folder.
fn fail_to_read_the_folder(script: &mut Script) {
    let (id, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let Job::Scan(targets) = job else { unreachable!("asked for") };
    let look = |target: ScanTarget| {
        let result = if target.directory.is_root() {
            Ok(listing(print(0, 0), Vec::new()))
        } else {
            Err(ScanError::Unreadable("input/output error".to_owned()))
        };
        DirectoryScan { target, result }
    };
    let directories = targets.into_iter().map(look).collect();
    script.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories }));
}

/// Lets time pass until the engine looks at the disk again.
fn wait_for_a_look(script: &mut Script) {
    for _ in 0..10 {
        if script.actions.iter().any(|action| matches!(action, Action::Job(_, Job::Scan(_)))) {
            return;
        }
        script.wake();
    }
    panic!("it does not look again");
}

/// The file was taken for deleted, and its edited version installed anew in its place; the other half of
/// the move was found an hour later.
#[test]
fn what_is_gone_is_not_deleted_while_a_folder_cannot_be_read_for_a_moment() {
    let mut script = moved_into_an_unreadable_folder();
    wait_for_a_look(&mut script);
    fail_to_read_the_folder(&mut script);
    wait_for_a_look(&mut script);
    assert_eq!(script.commit(), None, "nothing is concluded");

    script.answer_scans_by(|directory| match directory.is_root() {
        true => vec![found("d", FileKind::Directory, print(9, 0))],
        false => vec![found_file("b", changed(print(11, 5)))],
    });
    hash(&mut script, "bytes");
    let (_, commit) = script.commit().expect("the move is sent");
    assert!(matches!(&*commit.operations, [Operation::Move { node: B, .. }]), "{commit:?}");
}

#[test]
fn a_folder_that_stays_unreadable_holds_no_deletion_up_for_long() {
    let mut script = moved_into_an_unreadable_folder();
    while script.commit().is_none() {
        assert!(script.now < 10_000, "it is told");
        match script.actions.iter().any(|action| matches!(action, Action::Job(_, Job::Scan(_)))) {
            true => fail_to_read_the_folder(&mut script),
            false => script.wake(),
        }
    }
}

/// The user writes `mine!` into `a`.
fn edit(script: &mut Script) {
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    hash(script, "mine!");
}

#[test]
fn a_commit_is_on_disk_before_it_is_sent() {
    let script = edited();
    let is_commit = |action: &Action| {
        matches!(action, Action::Send(_, Request::Commit(_) | Request::Changeset { commit: Some(_), .. }))
    };
    let (_, state) = script.persisted_before(is_commit);
    assert_eq!(state.expect("the state is written").in_flight, script.engine.state().in_flight);
}

#[test]
fn what_a_batch_relies_on_is_on_disk_before_the_batch_begins() {
    let mut script = edited();
    let (id, commit) = script.commit().expect("the edit is sent");
    let head = Position(2);
    script.reply(id, Ok(Reply::Commit(CommitOutcome::Accepted { head, time: Timestamp(0) })));
    assert_eq!(commit.operations.len(), 1);
    script.take();
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(3, A, Change::Delete)]);
    let (nodes, state) = script.persisted_before(|action| matches!(action, Action::Job(_, Job::Apply(_))));
    assert!(nodes.contains(&A), "the database knows that the server deleted the file before we do: {nodes:?}");
    assert_eq!(state.and_then(|state| state.cursor.get(&ROOT).copied()), Some(Position(3)));
}

#[test]
fn a_commit_whose_answer_was_lost_is_asked_for_under_its_own_key_before_anything_else_is_sent() {
    let mut script = edited();
    let (id, commit) = script.commit().expect("the edit is sent");
    script.lose(id);
    assert_eq!(script.engine.state().in_flight.as_ref(), Some(&commit), "its fate is open");
    script.take();
    script.wake();
    script.answer_changes(Vec::new());
    let (_, again) = script.commit().expect("it is asked for again");
    assert_eq!(again, commit);
    assert!(script.commit().is_none(), "and nothing else is");
}

#[test]
fn nothing_is_decided_about_a_node_in_a_commit_whose_fate_is_open() {
    let mut script = edited();
    script.commit().expect("the edit is sent");
    script.tell(Event::StreamOpened);
    // They edited what we had just sent; the answer to our commit is late.
    let theirs =
        vec![entry(2, A, Change::Edit { body: body("mine!") }), entry(3, A, Change::Edit { body: body("theirs") })];
    script.answer_changes(theirs);
    let local = script.engine.trees().local(A).expect("no copy is made of what they have seen and replaced");
    assert_eq!(local.seen, Seen::File(Some(file("mine!"))));
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_none());
}

/// A download into a folder that somebody deleted meanwhile, and that stays here for what is new in it: the
/// folder became a new one before the download was known to be in it, which was then taken for the user's.
#[test]
fn a_folder_stays_the_same_while_something_is_put_into_it() {
    let new = NodeRow { local: local(in_folder(A, "new"), Seen::File(None), print(13, 4)), ..NodeRow::default() };
    let theirs = NodeRow { remote: remote(in_folder(A, "f"), Content::File(file("theirs"))), ..NodeRow::default() };
    let mut script = Script::start(state(), vec![(A, agreed_folder(&at_root("d"), 9)), (B, theirs), (C, new)]);
    script.learn("theirs");
    script.answer_changes(Vec::new());
    let installed = Fingerprint { ctime: 1_000_000_000_001, ..print(12, 6) };
    let on_disk = |directory: &LocalPath, entries: &[Found]| match directory {
        root if root.is_root() => vec![found("d", FileKind::Directory, print(9, 0))],
        d if *d == path("d") => entries.to_vec(),
        _ => Vec::new(),
    };
    script.answer_scans_by(|path| on_disk(path, &[found_file("new", print(13, 4))]));
    script.fetch();
    let (id, _) = script.job(|job| matches!(job, Job::Prepare(_))).expect("it is made durable");
    script.tell(Event::JobDone(id, JobResult::Prepared { root: RootState::Present, files: Ok(vec![Some(installed)]) }));
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("it is installed");
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(2, A, Change::Delete)]);
    let results = vec![Ok(Some(installed))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans_by(|path| on_disk(path, &[found_file("new", print(13, 4)), found_file("f", installed)]));
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("it goes, and is nothing of the user's");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(matches!(&steps[..], [LocalStep::Remove { node: B, .. }]), "{steps:?}");
}

#[test]
fn a_gap_in_the_journal_is_not_jumped_over() {
    let mut script = Script::start(state(), Vec::new());
    let new = |position, node, text: &str| {
        entry(position, node, Change::Create { parent: ROOT.root(), name: name(text), body: Body::Directory })
    };
    script.answer_changes(vec![new(2, A, "a"), new(4, C, "c")]);
    assert_eq!(script.engine.state().cursor.get(&ROOT), Some(&Position(2)));
    assert!(script.engine.trees().has_remote(A) && !script.engine.trees().has_remote(C));
    script.answer_changes(vec![new(3, B, "b"), new(4, C, "c")]);
    assert_eq!(script.engine.state().cursor.get(&ROOT), Some(&Position(4)));
}

#[test]
fn nothing_is_planned_before_the_journal_was_read_to_its_end() {
    let mut script = Script::start(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    script.answer_scans(&[found_file("a", changed(print(11, 5))), found_file("new", print(12, 1))]);
    assert!(script.commit().is_none());
    assert!(script.job(|job| matches!(job, Job::Hash(_) | Job::Apply(_))).is_none(), "nothing has been sorted");
    script.answer_changes(Vec::new());
    hash(&mut script, "mine!");
}

#[test]
fn a_scan_of_a_folder_that_is_not_the_linked_one_proves_nothing() {
    for root in [RootState::Missing, RootState::Replaced] {
        let mut script = Script::start(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
        script.answer_changes(Vec::new());
        let (id, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("a start looks at everything");
        let Job::Scan(targets) = job else { unreachable!("asked for") };
        let empty = |target: ScanTarget| DirectoryScan { target, result: Ok(listing(print(0, 0), Vec::new())) };
        let directories = targets.into_iter().map(empty).collect();
        script.tell(Event::JobDone(id, JobResult::Scanned { root, directories }));
        assert!(script.engine.trees().has_local(A), "{root:?}");
        assert!(script.commit().is_none(), "{root:?}");
    }
}

#[test]
fn a_hash_of_a_file_that_was_seen_changed_meanwhile_does_not_count() {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    let (id, _) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed(changed(print(11, 5))))]);
    let hashed = HashResult::Hashed { content: file("older"), blocks: blocks("older") };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(A, hashed)])));
    assert_eq!(script.engine.trees().local(A).map(|local| local.seen.clone()), Some(Seen::File(None)));
    assert!(script.commit().is_none());
}

/// A write gives the file its time when it begins. Read before it ended, with its first half in place, the
/// file had the fingerprint that it has now, and the second half was never uploaded.
#[test]
fn a_file_is_read_again_when_a_write_is_heard_of_after_it_was_read() {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", print(11, 5))]);
    assert_eq!(script.engine.trees().local(A).map(|local| local.seen.clone()), Some(Seen::File(None)));

    hash(&mut script, "whole");

    let read = script.engine.trees().local(A).map(|local| local.seen.clone());
    assert_eq!(read, Some(Seen::File(Some(file("whole")))));
}

/// Reads all files that the engine wants to be read, each with its path as its content, and says how many.
fn hash_all(script: &mut Script) -> usize {
    let mut files = 0;
    while let Some((id, Job::Hash(tasks))) = script.job(|job| matches!(job, Job::Hash(_))) {
        let hashed = |node, text: String| (node, HashResult::Hashed { content: file(&text), blocks: blocks(&text) });
        let results = tasks.iter().map(|task| hashed(task.node, task.path.to_string())).collect();
        files += tasks.len();
        script.tell(Event::JobDone(id, JobResult::Hashed(results)));
    }
    files
}

/// How many files' blocks were sent ahead, of this many that wait while a commit is under way.
fn sent_ahead(tuning: Tuning, files: u64) -> usize {
    let mut script = Script::start_tuned(state(), tuning);
    script.answer_changes(Vec::new());
    let first = found_file("first", print(1, 1));
    script.answer_scans(std::slice::from_ref(&first));
    hash(&mut script, "first");
    assert!(script.commit().is_some());
    let others = (2..files + 2).map(|n| found_file(&format!("other {n}"), print(n, 1)));
    script.tell(Event::Hints(vec![Hint::Rescan { directory: path("") }]));
    script.answer_scans(&[first].into_iter().chain(others).collect::<Vec<_>>());
    hash_all(&mut script);
    assert!(script.commit().is_none(), "one commit at a time");
    let mut ahead = 0;
    let upload = |request: &Request| match request {
        Request::Changeset { blocks, commit: None, .. } => Some(blocks.len()),
        _ => None,
    };
    while let Some((id, blocks)) = script.request(upload) {
        ahead += blocks;
        script.reply(id, Ok(Reply::Changeset { outcome: None }));
    }
    assert!(script.request(|request| matches!(request, Request::Missing(_)).then_some(())).is_none());
    ahead
}

#[test]
fn blocks_of_many_waiting_files_go_ahead_of_their_commit_and_those_of_few_go_with_it() {
    assert_eq!(sent_ahead(Tuning::default(), 100), 100);
    assert_eq!(sent_ahead(Tuning::default(), 10), 0);
    assert_eq!(sent_ahead(Tuning { ahead_from: usize::MAX, ..Tuning::default() }, 100), 0);
}

/// How many of so many new files are read before each commit is answered.
fn read_between_commits(tuning: Tuning, files: u64) -> Vec<usize> {
    let mut script = Script::start_tuned(state(), tuning);
    script.answer_changes(Vec::new());
    script.answer_scans(&(1..=files).map(|n| found_file(&format!("{n}"), print(n, 1))).collect::<Vec<_>>());
    let mut read = vec![hash_all(&mut script)];
    while let Some((id, commit)) = script.commit() {
        let head = Position(commit.seen.0 + commit.operations.len() as u64);
        let outcome = Some(CommitOutcome::Accepted { head, time: Timestamp(1) });
        script.reply(id, Ok(Reply::Changeset { outcome }));
        read.push(hash_all(&mut script));
    }
    assert!(script.engine.trees().dirty().is_empty(), "all is in sync in the end");
    read
}

#[test]
fn while_a_commit_is_under_way_no_more_is_read_than_is_sent_from_memory() {
    let one_by_one = Tuning { ahead_from: usize::MAX, ..Tuning::default() };
    let all = read_between_commits(one_by_one, 3_000);
    assert_eq!(all[0], 3_000, "the contents are small: {all:?}");

    let some = read_between_commits(Tuning { hashed_ahead: 100, ..one_by_one }, 3_000);
    assert_eq!(some.iter().sum::<usize>(), 3_000, "{some:?}");
    assert!(some.iter().all(|read| *read <= 1_024), "no more than were begun before the first was read: {some:?}");
}

/// Whether the file `a` is read as one that its writer has closed, after these hints; `None`: not now.
fn is_read_as_closed(tuning: Tuning, hints: &[Said]) -> Option<bool> {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.engine.tune(tuning);
    script.tell(Event::Hints(hints.iter().map(|said| said(path(""), b"a".as_slice().into())).collect()));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    let (_, job) = script.job(|job| matches!(job, Job::Hash(_)))?;
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    Some(tasks[0].closed)
}

/// Something that is said of a name in a folder.
type Said = fn(LocalPath, Box<[u8]>) -> Hint;

#[test]
fn a_file_counts_as_closed_until_something_else_is_heard_of_it() {
    let closed: Said = |directory, name| Hint::Closed { directory, name };
    let writing: Said = |directory, name| Hint::Writing { directory, name };
    let entry: Said = |directory, name| Hint::Entry { directory, name };
    let read = |hints: &[Said]| is_read_as_closed(Tuning::default(), hints);
    assert_eq!(read(&[closed]), Some(true));
    assert_eq!(read(&[entry, writing, closed]), Some(true));
    assert_eq!(read(&[closed, entry]), Some(false), "another file may have its name now");
    assert_eq!(read(&[entry]), Some(false));
    assert_eq!(read(&[closed, writing]), None, "it waits for its writer");
    let patient = Tuning { read_closed_at_once: false, ..Tuning::default() };
    assert_eq!(is_read_as_closed(patient, &[closed]), Some(false));
}

#[test]
fn a_file_that_was_not_settled_is_read_again_when_it_is_closed() {
    let mut script = Script::at_rest(state(), Vec::new(), &[]);
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", print(11, 5))]);
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, HashResult::Unsettled)])));
    script.answer_scans(&[found_file("a", print(11, 5))]);
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none(), "it has time to settle");

    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));

    script.answer_scans(&[found_file("a", print(11, 5))]);
    let (_, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("it is read without waiting");
    assert!(matches!(job, Job::Hash(tasks) if tasks[0].closed));
}

#[test]
fn a_file_is_read_again_when_a_write_is_heard_of_while_it_is_read() {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    let closed = || Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]);
    script.tell(closed());
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    let (id, _) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    script.tell(closed());
    let hashed = HashResult::Hashed { content: file("half!"), blocks: blocks("half!") };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(A, hashed)])));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    assert_eq!(script.engine.trees().local(A).map(|local| local.seen.clone()), Some(Seen::File(None)));

    hash(&mut script, "whole");

    let read = script.engine.trees().local(A).map(|local| local.seen.clone());
    assert_eq!(read, Some(Seen::File(Some(file("whole")))));
}

pub(crate) fn refused(code: ErrorCode) -> Result<Reply, RequestError> {
    Err(RequestError::Refused(ApiError::new(code, "no")))
}

#[test]
fn deletions_of_most_files_wait_for_a_person() {
    let guard = DeleteGuard::On { count: 2, percent: 50 };
    let rows = [(A, "a", 11), (B, "b", 12), (C, "c", 13)]
        .map(|(node, text, inode)| (node, agreed_file(&at_root(text), "bytes", inode)));
    let mut script = Script::at_rest(sync_engine::io::EngineState { guard, ..state() }, rows.into(), &[]);
    for _ in 0..5 {
        script.now += 1_000;
        script.tell(Event::Woken);
    }
    assert!(script.commit().is_none(), "all three files are gone from the disk");
    let told = |action: &&Action| matches!(action, Action::Report(activity) if activity.kind == ActivityKind::Held);
    assert_eq!(script.actions.iter().filter(told).count(), 1, "and the user is told, once");
    script.tell(Event::Command(Command::ConfirmDeletions));
    let (_, commit) = script.commit().expect("a person said so");
    assert!(commit.operations.iter().all(|operation| matches!(operation, Operation::Delete { .. })));
}

#[test]
fn a_server_that_fails_is_not_asked_again_at_once_even_when_chance_says_so() {
    let mut script = Script::start(state(), Vec::new());
    for _ in 0..10 {
        let asked = script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(()));
        script.lose(asked.expect("asks").0);
        script.answer_scans(&[]);
        assert!(script.request(|_| Some(())).is_none(), "not in the same moment");
        let before = script.now;
        script.now += 20;
        script.tell(Event::Woken);
        assert!(script.request(|_| Some(())).is_none(), "nor {} ms later", script.now - before);
        script.now += 200_000;
        script.tell(Event::Woken);
    }
}

#[test]
fn a_step_that_was_refused_is_not_planned_again_before_a_look_at_the_disk() {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(2, A, Change::Delete)]);
    let (id, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("it goes here too");
    assert!(matches!(&job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Remove { node: A, .. }])));
    let results = vec![Err(sync_engine::io::StepError::Changed)];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_none());
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    hash(&mut script, "mine!");
    assert!(script.engine.trees().synced(A).is_none(), "the edit lives on as a new file");
}

#[test]
fn an_edit_is_told_before_the_file_moves_to_where_the_server_has_it() {
    let mut script = Script::start(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    let moved = Change::Move { parent: ROOT.root(), name: name("b") };
    script.answer_changes(vec![entry(2, A, moved)]);
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    hash(&mut script, "mine!");
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_none(), "something may be in the way of the move");
    let (id, commit) = script.commit().expect("the edit goes at once");
    assert!(matches!(commit.operations[..], [Operation::Edit { node: A, .. }]), "{commit:?}");
    let accepted = CommitOutcome::Accepted { head: Position(3), time: Timestamp(0) };
    script.reply(id, Ok(Reply::Commit(accepted)));
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("then it moves here too");
    assert!(matches!(&job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Move { node: A, .. }])), "{job:?}");
}

#[test]
fn an_answer_from_before_the_server_was_restored_decides_nothing_after_it() {
    let accepted = CommitOutcome::Accepted { head: Position(1), time: Timestamp(0) };
    for answer in [Ok(Reply::Commit(accepted)), refused(ErrorCode::EpochChanged)] {
        let mut script = edited();
        let (late, _) = script.commit().expect("the edit is sent");
        script.tell(Event::StreamOpened);
        let asked = script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(()));
        script.reply(asked.expect("asks").0, refused(ErrorCode::EpochChanged));
        let asked = script.request(|request| matches!(request, Request::Server).then_some(()));
        let server = ServerReply { instance: InstanceId([1; 16]), epoch: Epoch(2), version: String::new() };
        script.reply(asked.expect("asks who is there").0, Ok(Reply::Server(server)));
        script.answer_changes(Vec::new());
        let (_, again) = script.commit().expect("what the server lost is sent again");
        script.reply(late, answer);
        assert_eq!(script.engine.state().in_flight, Some(again), "the late answer was about another commit");
        let asked = script.request(|request| matches!(request, Request::Server).then_some(()));
        assert!(asked.is_none(), "and what it says of the server is no news");
    }
}

/// The question who is there got lost, and until that was known the commit was sent again and again.
#[test]
fn nothing_is_sent_while_it_is_open_which_epoch_this_is() {
    let mut script = edited();
    let (sent, _) = script.commit().expect("the edit is sent");
    script.take();
    script.reply(sent, refused(ErrorCode::EpochChanged));
    let asked = script.request(|request| matches!(request, Request::Server).then_some(()));
    assert!(asked.is_some(), "it asks who is there");
    assert!(script.request(|_| Some(())).is_none(), "and nothing else");
    script.tell(Event::StreamOpened);
    assert!(script.request(|_| Some(())).is_none());
}

#[test]
fn a_folder_that_both_sides_made_becomes_one_as_soon_as_the_journal_says_so() {
    let folder = Found { kind: FileKind::Directory, ..found_file("a", print(11, 0)) };
    let mut script = Script::at_rest(state(), Vec::new(), &[folder]);
    let (id, commit) = script.commit().expect("the folder is sent");
    let reason = model::Reason::NameTaken;
    let rejected = CommitOutcome::Rejected(vec![model::Rejection { index: 0, reason }]);
    script.reply(id, Ok(Reply::Commit(rejected)));
    let theirs = Change::Create { parent: ROOT.root(), name: name("a"), body: Body::Directory };
    script.answer_changes(vec![entry(2, B, theirs)]);
    assert!(script.engine.trees().has_local(B), "ours was {:?}", commit.operations[0].node());
    assert!(script.engine.trees().dirty().is_empty(), "{:?}", script.engine.trees().dirty());
}

/// A device with the file `b` that only it has, for which the server has another one under this name, and the
/// batch that moves the one out of the way and puts the other in its place. Returns what the batch's job is.
fn conflict_under_way(with: &str) -> (Script, sync_engine::io::JobId) {
    let mut script = Script::start(state(), Vec::new());
    script.answer_scans(&[found_file("b", print(12, 4))]);
    let create = Change::Create { parent: ROOT.root(), name: name(with), body: body("theirs") };
    script.answer_changes(vec![entry(2, A, create)]);
    script.fetch();
    hash(&mut script, "mine");
    let (id, _) = script.job(|job| matches!(job, Job::Prepare(_))).expect("the download is made durable");
    let files = Ok(vec![Some(print(13, 6))]);
    script.tell(Event::JobDone(id, JobResult::Prepared { root: RootState::Present, files }));
    let (id, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("and installed");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(matches!(steps[..], [LocalStep::Move { .. }, LocalStep::Install { node: A, .. }]), "{steps:?}");
    (script, id)
}

#[test]
fn what_a_batch_put_in_a_place_is_not_an_edit_of_what_left_it_meanwhile() {
    let (mut script, id) = conflict_under_way("b");
    // The user renamed `b` before the batch could: its first step finds nothing, its second a free place.
    let results = vec![Err(sync_engine::io::StepError::Gone), Ok(Some(print(13, 6)))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans(&[found_file("b", print(13, 6)), found_file("c", changed(print(12, 4)))]);
    let trees = script.engine.trees();
    assert_eq!(trees.local_path(A), Some(path("b")));
    let renamed = trees.local_child(ROOT.root(), &name("c").key()).expect("`c` is there");
    assert_eq!(trees.local(renamed).map(|local| local.print.inode), Some(12));
    assert_eq!(trees.rows().count(), 2, "and nothing else");
}

/// The user deleted `b` before the batch could move it. What the batch then put at `B` was taken for a new
/// version of `b`, by its name, and became a conflicted copy of itself.
#[test]
fn what_a_batch_put_beside_another_spelling_is_no_edit_of_what_is_gone_by_then() {
    for bytes in ["theirs", "edited"] {
        let (mut script, id) = conflict_under_way("B");
        let results = vec![Err(sync_engine::io::StepError::Gone), Ok(Some(print(13, 6)))];
        script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
        let there = if bytes == "edited" { changed(print(13, 6)) } else { print(13, 6) };
        script.answer_scans(&[found_file("B", there)]);
        hash(&mut script, bytes);
        let trees = script.engine.trees();
        assert_eq!(trees.local_path(A), Some(path("B")));
        assert_eq!(trees.rows().count(), 1, "and nothing else");
        let edits = script.commit().map_or(0, |(_, commit)| commit.operations.len());
        assert_eq!(edits, usize::from(bytes == "edited"), "{bytes}");
    }
}

/// A disk that tells `a` from `A` takes the one beside the other.
#[test]
fn what_a_batch_put_beside_another_spelling_did_not_drive_that_out() {
    let row = agreed_file(&at_root("a"), "bytes", 11);
    let mut script = Script::at_rest(state(), vec![(A, row)], &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::StreamOpened);
    let moved = Change::Move { parent: ROOT.root(), name: name("z") };
    let made = Change::Create { parent: ROOT.root(), name: name("A"), body: Body::Directory };
    script.answer_changes(vec![entry(2, A, moved), entry(3, B, made)]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("both are done");
    let results = vec![Err(sync_engine::io::StepError::Gone), Ok(Some(print(13, 0)))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    let folder = Found { kind: FileKind::Directory, ..found_file("A", print(13, 0)) };
    script.answer_scans_by(|directory| match directory.is_root() {
        true => vec![folder.clone(), found_file("a", print(11, 5))],
        false => Vec::new(),
    });
    assert_eq!(script.engine.trees().local_path(A), Some(path("a")));
}

#[test]
fn an_execute_bit_that_was_set_while_a_batch_ran_is_read_again() {
    let rows = vec![(A, agreed_file(&at_root("a"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::StreamOpened);
    let Body::File { blocks, size, executable, .. } = body("bytes") else { unreachable!("a file") };
    let touched = Body::File { blocks, size, executable, mtime: model::Mtime(-9) };
    script.answer_changes(vec![entry(2, A, Change::Edit { body: touched })]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("the time is set");
    // Long after the file's own time, so that no edit can hide behind it.
    let after = Fingerprint { executable: true, mtime: model::Mtime(-9), ctime: 1_000_000_001, ..print(11, 5) };
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results: vec![Ok(Some(after))] }));
    assert_eq!(script.engine.trees().local(A).map(|local| local.seen.clone()), Some(Seen::File(None)));
}

/// On a file system without birth times the file `a` was deleted, and `new` has its inode and another time.
/// Returns what is told to the server when `new` has been read.
fn operations_after_a_file_on_the_same_inode(new: &str, bytes: &str) -> Vec<Operation> {
    let before = Fingerprint { birth: None, ..print(11, 5) };
    let mut row = agreed_file(&at_root("a"), "bytes", 11);
    row.local = row.local.map(|local| sync_engine::tree::Local { print: before, ..local });
    let mut script = Script::at_rest(state(), vec![(A, row)], &[found_file("a", before)]);
    script.take();
    script.tell(Event::Hints(vec![Hint::Rescan { directory: path("") }]));
    script.answer_scans(&[found_file(new, Fingerprint { mtime: model::Mtime(8), ..changed(before) })]);
    for _ in 0..5 {
        script.now += 1_000;
        script.tell(Event::Woken);
        assert!(script.commit().is_none(), "the deletion waits for what the bytes say");
    }
    hash(&mut script, bytes);
    script.now += 1_000;
    script.tell(Event::Woken);
    if let Some(id) = script.request(|request| matches!(request, Request::Missing(_)).then_some(())) {
        script.reply(id.0, Ok(Reply::Missing(api::MissingReply { missing: Vec::new() })));
    }
    let mut told = Vec::new();
    while let Some((id, commit)) = script.commit() {
        let head = Position(script.engine.state().cursor[&ROOT].0 + commit.operations.len() as u64);
        script.reply(id, Ok(Reply::Commit(CommitOutcome::Accepted { head, time: Timestamp(0) })));
        told.extend(commit.operations);
        script.now += 1_000;
        script.tell(Event::Woken);
    }
    told
}

#[test]
fn without_birth_times_a_file_that_was_touched_and_renamed_is_known_by_its_bytes() {
    for new in ["b", "A"] {
        let told = operations_after_a_file_on_the_same_inode(new, "bytes");
        assert!(told.iter().all(|operation| operation.node() == A), "{told:?}");
        assert!(told.iter().any(|operation| matches!(operation, Operation::Move { .. })), "{told:?}");
    }
}

#[test]
fn without_birth_times_other_bytes_on_the_same_inode_are_another_file() {
    let told = operations_after_a_file_on_the_same_inode("b", "other");
    assert!(told.iter().any(|operation| matches!(operation, Operation::Delete { node: A, .. })), "{told:?}");
    assert!(told.iter().any(|operation| matches!(operation, Operation::Create { .. })), "{told:?}");
}

/// The journal brought a folder's deletion while a download was being put into it. The user had a file of
/// their own in the folder, which became a new one for its sake; the download in it came back as a new file.
#[test]
fn a_folder_stays_the_folder_that_it_is_while_a_batch_puts_something_into_it() {
    let folder = || Found { kind: FileKind::Directory, ..found_file("d", print(9, 0)) };
    let disk = |directory: &LocalPath, more: &[Found]| match &*directory.to_string() {
        "" => vec![folder()],
        "d" => [&[found_file("mine", print(20, 4))], more].concat(),
        _ => Vec::new(),
    };
    let mut script = Script::start(state(), vec![(A, agreed_folder(&at_root("d"), 9))]);
    script.learn("theirs");
    script.answer_changes(vec![entry(2, B, Change::Create { parent: A, name: name("f"), body: body("theirs") })]);
    script.answer_scans_by(|directory| disk(directory, &[]));
    script.fetch();
    let (id, _) = script.job(|job| matches!(job, Job::Prepare(_))).expect("the download is made durable");
    script.take();
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(3, A, Change::Delete)]);
    let files = Ok(vec![Some(print(13, 6))]);
    script.tell(Event::JobDone(id, JobResult::Prepared { root: RootState::Present, files }));
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("and installed");
    let installed = Fingerprint { ctime: 1_000_000_001, ..print(13, 6) };
    let results = vec![Ok(Some(installed))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans_by(|directory| disk(directory, &[found_file("f", installed)]));
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("what they deleted goes");
    assert!(matches!(&job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Remove { node: B, .. }])), "{job:?}");
}

/// A person may only look at the folder, and has put a file into it, which stays on the device. Then the
/// server has one of that name.
#[test]
fn what_only_this_device_may_have_makes_way_as_soon_as_its_name_is_taken() {
    let viewer = |script: &mut Script, entries: Vec<JournalEntry>| {
        let asked = script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(()));
        let head = entries.last().map_or(Position(1), |entry| entry.position);
        let part = NamespaceChanges { namespace: ROOT, role: Some(model::Role::Viewer), entries, head };
        script.reply(asked.expect("asks").0, Ok(Reply::Changes(ChangesReply { namespaces: vec![part] })));
    };
    let mut script = Script::start(state(), Vec::new());
    viewer(&mut script, Vec::new());
    script.answer_scans(&[found_file("a", print(11, 5))]);
    assert_eq!(script.engine.problems(9).len(), 1, "it cannot be synced");
    script.take();
    script.tell(Event::StreamOpened);
    let create = Change::Create { parent: ROOT.root(), name: name("a"), body: body("theirs") };
    viewer(&mut script, vec![entry(2, A, create)]);
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_some(), "whether it is the same file decides");
}

/// A folder could not be made on a full disk, and was excluded then. A folder of the same name that the
/// person made waited for it for ever.
#[test]
fn what_failed_and_is_kept_off_the_device_since_holds_nobody_up() {
    let mut script = Script::start(state(), Vec::new());
    script.answer_scans(&[]);
    let create = Change::Create { parent: ROOT.root(), name: name("a"), body: Body::Directory };
    script.answer_changes(vec![entry(2, A, create)]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("it is made");
    let results = vec![Err(sync_engine::io::StepError::NoSpace)];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans(&[]);
    script.tell(Event::Command(Command::Exclude(path("a"))));
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[Found { kind: FileKind::Directory, ..found_file("a", print(9, 0)) }]);
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("theirs keeps the name");
    assert!(matches!(&job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Move { .. }])), "{job:?}");
}

/// A folder was made in another one that then moved away, and whose place a third one took, all in one batch. A
/// file that was to move into the new folder went to the path at which that had been made.
#[test]
fn nothing_is_put_into_a_folder_that_the_batch_has_moved_since_it_was_made() {
    let (fresh, outer, other, moving) = (A, B, C, NodeId([4; 16]));
    let folder = |name: &str, inode: u64, now: Place| NodeRow {
        remote: remote(now, Content::Directory),
        ..agreed_folder(&at_root(name), inode)
    };
    let rows = vec![
        (fresh, NodeRow { local: None, synced: None, remote: remote(in_folder(outer, "n"), Content::Directory) }),
        (outer, folder("c", 10, in_folder(other, "x"))),
        (other, folder("b", 11, at_root("c"))),
        (
            moving,
            NodeRow {
                remote: remote(in_folder(fresh, "f"), Content::File(file("bytes"))),
                ..agreed_file(&at_root("d"), "bytes", 12)
            },
        ),
    ];
    let entries = [
        found("b", FileKind::Directory, print(11, 0)),
        found("c", FileKind::Directory, print(10, 0)),
        found_file("d", print(12, 5)),
    ];
    let mut script = Script::at_rest(state(), rows, &entries);
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("there is much to do");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    let at = |node: NodeId| steps.iter().position(|step| step.node() == node);
    assert!(at(fresh) < at(outer) && at(outer) < at(other) && at(fresh).is_some(), "{steps:?}");
    assert!(at(moving).is_none(), "its folder is elsewhere by then: {steps:?}");
}

/// What wanted the name waited for what its holder waited for, and was not looked at when the holder went.
#[test]
fn what_takes_a_name_waits_for_the_name_and_not_for_what_its_holder_waits_for() {
    let rows = vec![(B, agreed_file(&at_root("a"), "bytes", 11))];
    let mut script = Script::at_rest(state(), rows, &[found_file("a", print(11, 5))]);
    script.tell(Event::StreamOpened);
    let folder =
        |name: &str| Change::Create { parent: ROOT.root(), name: crate::build::name(name), body: Body::Directory };
    let moved = Change::Move { parent: C, name: name("b") };
    script.answer_changes(vec![entry(2, C, folder("c:")), entry(3, B, moved), entry(4, A, folder("a"))]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("the folder is made");
    let refused = Err(sync_engine::io::StepError::Name("no colons".to_owned()));
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results: vec![refused] }));
    script.answer_scans(&[found_file("a", print(11, 5))]);
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_none(), "nothing can be done");

    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[]);
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("the name is free");
    assert!(matches!(job, Job::Apply(steps) if matches!(&*steps, [LocalStep::MakeDirectory { node: A, .. }])));
}
