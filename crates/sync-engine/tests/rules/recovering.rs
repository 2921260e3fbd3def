//! What is concluded at a start about a batch of steps that nobody saw the end of.

use crate::build::{
    A, B, agreed_file, agreed_folder, at_root, blocks, file, found, found_file, in_folder, listing, path, print,
    remote, synced,
};
use crate::script::{Script, state};
use model::{NodeId, Operation};
use sync_engine::io::{
    DirectoryScan, EngineState, Event, Extent, FileKind, Fingerprint, Found, HashResult, Hint, Installing, Job,
    JobResult, PREPARED_MARKER, RootState, ScanTarget, Settled, StepError,
};
use sync_engine::tree::{Content, NodeRow, Place, Seen, Synced};

/// The inode of the download.
const DOWNLOAD: u64 = 12;

fn downloaded(bytes: &str) -> Fingerprint {
    print(DOWNLOAD, bytes.len() as u64)
}

fn installing(node: NodeId, place: Place, bytes: &str) -> Installing {
    let agreed = Synced { place, content: Content::File(file(bytes)) };
    Installing { node, agreed, print: Some(downloaded(bytes)) }
}

/// The file `a` with `bytes`, for which the server has `theirs` now.
fn outdated() -> NodeRow {
    NodeRow { remote: remote(at_root("a"), Content::File(file("theirs"))), ..agreed_file(&at_root("a"), "bytes", 11) }
}

/// A start after a crash in a batch that was to install `theirs` in the place of `bytes`; then a look at
/// the temporary folder.
fn after_crash(left: Vec<Found>) -> Script {
    start(
        EngineState { installing: vec![installing(A, at_root("a"), "theirs")], ..state() },
        vec![(A, outdated())],
        left,
    )
}

fn start(state: EngineState, rows: Vec<(NodeId, NodeRow)>, left: Vec<Found>) -> Script {
    let mut script = Script::start(state, rows);
    let (id, job) = script.job(|_| true).expect("it looks");
    let target = ScanTarget { directory: path(".syncline/tmp"), extent: Extent::All };
    assert_eq!(job, Job::Scan(vec![target.clone()]));
    assert!(script.job(|_| true).is_none(), "and at nothing else before it knows");
    let scan = DirectoryScan { target, result: Ok(listing(print(8, 0), left)) };
    script.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories: vec![scan] }));
    assert!(script.engine.state().installing.is_empty(), "once is enough");
    script.answer_changes(Vec::new());
    script
}

fn marker() -> Found {
    found_file(PREPARED_MARKER, print(90, 0))
}

fn hash(script: &mut Script, bytes: &str) {
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    let hashed = HashResult::Hashed { content: file(bytes), blocks: blocks(bytes) };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, hashed)])));
}

fn operations(script: &mut Script) -> Vec<Operation> {
    script.commit().map(|(_, commit)| commit.operations).unwrap_or_default()
}

/// The client was killed after it had put a file in its place, and before that was durable. Believed at the
/// next start, and gone after a power failure, the file looked as if the user had deleted it.
#[test]
fn nothing_on_the_disk_is_believed_before_it_is_durable() {
    let mut script = Script::begin(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    script.answer_changes(Vec::new());
    assert!(script.job(|job| *job != Job::Settle).is_none(), "it makes durable what there is, and looks at nothing");
    script.settle(Err(StepError::Failed("input/output error".to_owned())));
    assert!(script.job(|_| true).is_none(), "nor when that failed");
    assert_eq!(script.engine.problems(9).len(), 1, "a person sees why");
    script.wake();
    script.settle(Ok(Settled::default()));
    assert_eq!(script.engine.problems(9), Vec::new());
    assert!(script.job(|job| matches!(job, Job::Scan(_))).is_some(), "then it looks");
}

#[test]
fn what_a_failed_batch_may_have_done_is_made_durable_before_it_is_believed() {
    let gone = NodeRow { remote: None, ..agreed_file(&at_root("a"), "bytes", 11) };
    let mut script = Script::at_rest(state(), vec![(A, gone)], &[found_file("a", print(11, 5))]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("the file is removed");
    let results = vec![Err(StepError::Failed("input/output error".to_owned()))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    assert!(script.job(|job| matches!(job, Job::Scan(_))).is_none());
    script.settle(Ok(Settled::default()));
    assert!(script.job(|job| matches!(job, Job::Scan(_))).is_some());
}

#[test]
fn an_edit_of_what_had_just_been_installed_is_an_edit_of_that() {
    let edited_in_place = Fingerprint { ctime: 8, ..downloaded("mine") };
    for edited in [edited_in_place, print(13, 4)] {
        let mut script = after_crash(vec![marker()]);
        script.answer_scans(&[found_file("a", edited)]);
        hash(&mut script, "mine");
        assert!(matches!(operations(&mut script)[..], [Operation::Edit { node: A, .. }]), "and no conflicted copy");
    }
}

#[test]
fn a_rename_of_what_had_just_been_installed_is_a_move() {
    let mut script = after_crash(vec![marker()]);
    script.answer_scans(&[found_file("b", Fingerprint { ctime: 8, ..downloaded("theirs") })]);
    hash(&mut script, "theirs");
    script.now += 1_000;
    script.tell(Event::Woken);
    let operations = operations(&mut script);
    assert!(matches!(operations[..], [Operation::Move { node: A, .. }]), "{operations:?}");
}

#[test]
fn a_download_that_is_still_there_was_not_installed() {
    let mut script = after_crash(vec![marker(), found_file("aside", downloaded("theirs"))]);
    assert_eq!(script.engine.trees().synced(A), outdated().synced);
    script.answer_scans(&[found_file("a", print(13, 4))]);
    hash(&mut script, "mine");
    assert!(script.engine.trees().local(A).is_none(), "an edit on both sides");
}

#[test]
fn a_temporary_folder_that_was_emptied_proves_nothing() {
    let script = after_crash(Vec::new());
    assert_eq!(script.engine.trees().synced(A), outdated().synced);
}

#[test]
fn a_folder_that_was_made_for_an_installed_file_was_made() {
    let folder =
        Installing { node: A, agreed: Synced { place: at_root("d"), content: Content::Directory }, print: None };
    let rows = vec![
        (A, NodeRow { remote: remote(at_root("d"), Content::Directory), ..NodeRow::default() }),
        (B, NodeRow { remote: remote(in_folder(A, "f"), Content::File(file("theirs"))), ..NodeRow::default() }),
    ];
    let state = EngineState { installing: vec![folder, installing(B, in_folder(A, "f"), "theirs")], ..state() };
    let script = start(state, rows, vec![marker()]);
    assert_eq!(script.engine.trees().local_path(B), Some(path("d/f")));
    assert_eq!(script.engine.trees().synced(A), agreed_folder(&at_root("d"), 10).synced);
    assert_eq!(script.engine.trees().synced(B), synced(in_folder(A, "f"), Content::File(file("theirs"))));
}

#[test]
fn what_a_batch_moved_out_of_the_way_is_not_edited_by_what_came_in_its_place() {
    let a = NodeRow {
        remote: remote(at_root("b"), Content::File(file("bytes"))),
        ..agreed_file(&at_root("a"), "bytes", 11)
    };
    let b = NodeRow { remote: remote(at_root("a"), Content::File(file("theirs"))), ..NodeRow::default() };
    let state = EngineState { installing: vec![installing(B, at_root("a"), "theirs")], ..state() };
    let mut script = start(state, vec![(A, a), (B, b)], vec![marker()]);
    script.answer_scans(&[
        found("b", FileKind::File, Fingerprint { ctime: 8, ..print(11, 5) }),
        found_file("a", Fingerprint { ctime: 8, ..downloaded("theirs") }),
    ]);
    let trees = script.engine.trees();
    assert_eq!((trees.local_path(A), trees.local_path(B)), (Some(path("b")), Some(path("a"))));
}

#[test]
fn what_is_about_to_be_installed_is_on_disk_before_it_is() {
    let mut script = Script::start(state(), vec![(A, outdated())]);
    script.learn("theirs");
    script.answer_changes(Vec::new());
    script.answer_scans(&[found_file("a", print(11, 5))]);
    script.fetch();
    let (id, job) = script.job(|job| matches!(job, Job::Prepare(_))).expect("first it is made durable");
    let Job::Prepare(temps) = job else { unreachable!("asked for") };
    assert_eq!(temps.len(), 1);
    script.take();
    let files = Ok(vec![Some(downloaded("theirs"))]);
    script.tell(Event::JobDone(id, JobResult::Prepared { root: RootState::Present, files }));
    let (_, state) = script.persisted_before(|action| matches!(action, sync_engine::io::Action::Job(_, Job::Apply(_))));
    assert_eq!(state.expect("the state is written").installing, [installing(A, at_root("a"), "theirs")]);
    let (id, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("then it is installed");
    let results = vec![Ok(Some(downloaded("theirs")))];
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
    assert!(script.engine.state().installing.is_empty(), "nothing is open any more");
}

/// Nobody has heard of it before that, and the next scan finds it as well.
#[test]
fn a_new_file_is_in_the_client_database_from_its_commit_on_also_while_it_is_edited() {
    let mut script = Script::at_rest(state(), Vec::new(), &[found_file("a", print(11, 5))]);
    script.now += 2_000;
    script.tell(Event::Woken);
    assert_eq!(script.database(state(), Vec::new()).1, Vec::new(), "it was not read yet");
    hash(&mut script, "bytes");
    let (id, commit) = script.commit().expect("it is sent");
    script.lose(id);
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", Fingerprint { ctime: 8, ..print(11, 6) })]);
    script.now += 2_000;
    script.tell(Event::Woken);
    let (state, rows) = script.database(state(), Vec::new());
    assert_eq!(state.in_flight.as_ref(), Some(&commit));
    let [(node, row)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(
        (*node, row.local.as_ref().map(|local| &local.seen)),
        (commit.operations[0].node(), Some(&Seen::File(None)))
    );
}

/// What it had seen before it was ended was sent before anybody looked whether it is still so.
#[test]
fn nothing_is_decided_after_a_start_before_the_disk_was_looked_at() {
    let there = agreed_file(&at_root("b"), "bytes", 11).local;
    let moved = NodeRow { local: there, ..agreed_file(&at_root("a"), "bytes", 11) };
    for (now, sent) in [("b", true), ("a", false)] {
        let mut script = Script::begin(state(), vec![(A, moved.clone())]);
        script.answer_changes(Vec::new());
        script.settle(Ok(Settled::default()));
        assert_eq!(script.commit(), None);
        script.answer_scans(&[found_file(now, print(11, 5))]);
        assert_eq!(script.commit().is_some(), sent, "it is at {now}");
    }
}
