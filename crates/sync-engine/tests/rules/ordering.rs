//! What the engine does before what, and what it makes of answers that are late, lost or wrong.

use crate::build::{A, B, C, ROOT, agreed_file, at_root, blocks, file, found_file, name, path, print};
use crate::script::{Script, state};
use api::{ApiError, ErrorCode, ServerReply};
use model::{Body, Change, Epoch, InstanceId, JournalEntry, NodeId, Operation, Position, Timestamp};
use sync_engine::Tuning;
use sync_engine::io::{
    Action, Command, DeleteGuard, Event, FileKind, Fingerprint, Found, HashResult, Hint, Job, JobResult, LocalPath,
    LocalStep, Reply, Request, RequestError, RootState,
};
use sync_engine::tree::Seen;

fn entry(position: u64, node: NodeId, change: Change) -> JournalEntry {
    JournalEntry { position: Position(position), node, change, device: None, time: Timestamp(0) }
}

fn body(bytes: &str) -> Body {
    let content = file(bytes);
    Body::File { blocks: blocks(bytes), size: content.size, executable: false, mtime: content.mtime }
}

const fn changed(before: Fingerprint) -> Fingerprint {
    Fingerprint { ctime: before.ctime + 1, ..before }
}

/// A device with the file `a` in sync, on which a user then edits it.
fn edited() -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    edit(&mut script);
    script
}

/// The user writes `mine!` into `a`.
fn edit(script: &mut Script) {
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    hash(script, "mine!");
}

fn hash(script: &mut Script, bytes: &str) {
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    let hashed = HashResult::Hashed { content: file(bytes), blocks: blocks(bytes) };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, hashed)])));
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
    script.reply(id, Ok(Reply::Commit(model::CommitOutcome::Accepted { head, time: Timestamp(0) })));
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
        let empty = |target: sync_engine::io::ScanTarget| sync_engine::io::DirectoryScan {
            target,
            result: Ok(crate::build::listing(print(0, 0), Vec::new())),
        };
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

fn refused(code: ErrorCode) -> Result<Reply, RequestError> {
    Err(RequestError::Refused(ApiError::new(code, "no")))
}

/// The engine hears of another epoch, asks who is there, and hears this.
fn meets(server: ServerReply) -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::StreamOpened);
    let asked = script.request(|request| matches!(request, Request::Changes(_)).then_some(()));
    script.reply(asked.expect("asks").0, refused(ErrorCode::EpochChanged));
    let asked = script.request(|request| matches!(request, Request::Server).then_some(()));
    script.reply(asked.expect("asks who is there").0, Ok(Reply::Server(server)));
    script
}

#[test]
fn a_server_of_another_instance_is_not_synced_with() {
    let version = String::new();
    let mut script = meets(ServerReply { instance: InstanceId([2; 16]), epoch: Epoch(1), version });
    assert!(script.request(|_| Some(())).is_none());
    script.tell(Event::StreamOpened);
    assert!(script.request(|_| Some(())).is_none());
    assert!(script.engine.trees().has_local(A));
}

#[test]
fn what_a_restored_server_has_lost_is_sent_again_and_not_deleted() {
    let version = String::new();
    let mut script = meets(ServerReply { instance: InstanceId([1; 16]), epoch: Epoch(2), version });
    script.answer_changes(Vec::new());
    assert!(script.job(|job| matches!(job, Job::Apply(_))).is_none());
    assert!(script.engine.trees().has_local(A));
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
    script.tell(Event::Command(Command::ConfirmDeletions));
    let (_, commit) = script.commit().expect("a person said so");
    assert!(commit.operations.iter().all(|operation| matches!(operation, Operation::Delete { .. })));
}

#[test]
fn a_server_that_fails_is_not_asked_again_at_once_even_when_chance_says_so() {
    let mut script = Script::start(state(), Vec::new());
    for _ in 0..10 {
        let asked = script.request(|request| matches!(request, Request::Changes(_)).then_some(()));
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
    let accepted = model::CommitOutcome::Accepted { head: Position(3), time: Timestamp(0) };
    script.reply(id, Ok(Reply::Commit(accepted)));
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("then it moves here too");
    assert!(matches!(&job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Move { node: A, .. }])), "{job:?}");
}

#[test]
fn an_answer_from_before_the_server_was_restored_decides_nothing_after_it() {
    let accepted = model::CommitOutcome::Accepted { head: Position(1), time: Timestamp(0) };
    for answer in [Ok(Reply::Commit(accepted)), refused(ErrorCode::EpochChanged)] {
        let mut script = edited();
        let (late, _) = script.commit().expect("the edit is sent");
        script.tell(Event::StreamOpened);
        let asked = script.request(|request| matches!(request, Request::Changes(_)).then_some(()));
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

#[test]
fn a_folder_that_both_sides_made_becomes_one_as_soon_as_the_journal_says_so() {
    let folder = Found { kind: FileKind::Directory, ..found_file("a", print(11, 0)) };
    let mut script = Script::at_rest(state(), Vec::new(), &[folder]);
    let (id, commit) = script.commit().expect("the folder is sent");
    let reason = model::Reason::NameTaken;
    let rejected = model::CommitOutcome::Rejected(vec![model::Rejection { index: 0, reason }]);
    script.reply(id, Ok(Reply::Commit(rejected)));
    let theirs = Change::Create { parent: ROOT.root(), name: name("a"), body: Body::Directory };
    script.answer_changes(vec![entry(2, B, theirs)]);
    assert!(script.engine.trees().has_local(B), "ours was {:?}", commit.operations[0].node());
    assert!(script.engine.trees().dirty().is_empty(), "{:?}", script.engine.trees().dirty());
}
