//! What is kept off a device is gone there although nobody deleted it.

use crate::build::{A, ROOT, agreed_file, at_root, found_file, path, print};
use crate::script::{Script, state};
use model::NodeId;
use std::collections::BTreeSet;
use sync_engine::io::{
    Command, EngineState, Event, Found, Job, JobId, JobResult, LocalStep, Request, RootState, Settled, StepError,
};

/// A device with the file `a` in sync, which its user then excludes.
fn excluding() -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::Command(Command::Exclude(path("a"))));
    script
}

fn mark(script: &mut Script) -> (JobId, BTreeSet<NodeId>) {
    match script.job(|job| matches!(job, Job::MarkExcluded(_))) {
        Some((id, Job::MarkExcluded(nodes))) => (id, nodes),
        other => panic!("no marks are made: {other:?}"),
    }
}

fn marked(script: &mut Script, id: JobId, result: Result<(), StepError>) {
    script.tell(Event::JobDone(id, JobResult::Marked { root: RootState::Present, result }));
}

fn removes(script: &mut Script) -> bool {
    let removal =
        |job: &Job| matches!(job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Remove { node: A, .. }]));
    script.job(removal).is_some()
}

/// Starts with the file in sync by the database, not there, and these marks in the folder.
fn starts_without_it(state: EngineState, marks: BTreeSet<NodeId>, found: &[Found]) -> Script {
    let mut script = Script::begin(state, vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    script.settle(Ok(Settled { excluded: marks, ..Settled::default() }));
    script.answer_changes(Vec::new());
    script.answer_scans(found);
    script
}

fn deletes_on_the_server(script: &mut Script) -> bool {
    while let Some(at) = script.engine.next_wake().filter(|at| *at < 10_000) {
        script.now = at;
        script.tell(Event::Woken);
        script.answer_scans(&[]);
    }
    script.commit().is_some()
}

#[test]
fn it_leaves_when_the_folder_is_marked_and_the_server_was_asked() {
    let mut script = excluding();
    let (id, nodes) = mark(&mut script);
    assert_eq!(nodes, BTreeSet::from([A]));
    marked(&mut script, id, Ok(()));
    assert!(!removes(&mut script), "nobody knows yet whether the server has it still");
    script.answer_changes(Vec::new());
    assert!(removes(&mut script));
}

#[test]
fn it_stays_while_the_server_cannot_be_asked() {
    let mut script = excluding();
    let (id, _) = mark(&mut script);
    marked(&mut script, id, Ok(()));
    let asked = script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(()));
    script.lose(asked.expect("asks").0);
    assert!(!removes(&mut script));
    script.wake();
    script.answer_changes(Vec::new());
    assert!(removes(&mut script));
}

#[test]
fn it_stays_while_the_folder_cannot_be_marked() {
    let mut script = excluding();
    script.answer_changes(Vec::new());
    let (id, _) = mark(&mut script);
    marked(&mut script, id, Err(StepError::NoSpace));
    assert!(!removes(&mut script));
    while !script.actions.iter().any(|action| matches!(action, sync_engine::io::Action::Job(_, Job::MarkExcluded(_)))) {
        script.wake();
    }
    let (id, _) = mark(&mut script);
    marked(&mut script, id, Ok(()));
    assert!(removes(&mut script));
}

#[test]
fn what_is_included_again_is_not_marked_any_more() {
    let mut script = excluding();
    let (id, _) = mark(&mut script);
    script.tell(Event::Command(Command::Include(path("a"))));
    marked(&mut script, id, Ok(()));
    let (_, nodes) = mark(&mut script);
    assert!(nodes.is_empty());
    script.answer_changes(Vec::new());
    assert!(!removes(&mut script));
}

/// A device excluded a file; then its database was put back to a state before that. The file's absence was
/// taken for its user's deletion, and told to the server.
#[test]
fn what_the_folder_is_marked_to_lack_was_not_deleted() {
    let mut script = starts_without_it(state(), BTreeSet::from([A]), &[]);
    assert!(!deletes_on_the_server(&mut script));
    assert_eq!(script.engine.state().excluded, BTreeSet::from([A]));

    let mut unmarked = starts_without_it(state(), BTreeSet::new(), &[]);
    assert!(deletes_on_the_server(&mut unmarked), "without the mark it is a deletion");
}

/// A new file had got the name of the excluded one, and was taken for an edit of it when the database came back.
#[test]
fn what_has_the_name_of_something_excluded_is_no_edit_of_it() {
    let mut script = starts_without_it(state(), BTreeSet::from([A]), &[found_file("a", print(12, 5))]);
    let (_, job) = script.job(|job| matches!(job, Job::Apply(_))).expect("the excluded one keeps the name");
    let Job::Apply(steps) = job else { unreachable!("asked for") };
    assert!(matches!(steps[..], [LocalStep::Move { node, .. }] if node != A), "{steps:?}");
    assert!(script.commit().is_none());
}

#[test]
fn what_a_database_of_an_older_version_excludes_is_marked() {
    let excluded = BTreeSet::from([A]);
    let mut script = starts_without_it(EngineState { excluded: excluded.clone(), ..state() }, BTreeSet::new(), &[]);
    assert_eq!(mark(&mut script).1, excluded);
}

#[test]
fn a_lost_database_leaves_excluded_what_was() {
    let unknown = NodeId([9; 16]);
    let mut script = Script::begin(state(), Vec::new());
    script.settle(Ok(Settled { excluded: BTreeSet::from([unknown]), ..Settled::default() }));
    assert_eq!(script.engine.state().excluded, BTreeSet::from([unknown]));
    assert_ne!(unknown, ROOT.root());
}
