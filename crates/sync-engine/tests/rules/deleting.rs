//! Deletions of very many files, which a person must confirm.

use crate::build::{agreed_file, at_root, found_file, path, print};
use crate::script::{Rows, Script, state};
use model::{CommitOutcome, NodeId, Operation, Position, Timestamp};
use sync_engine::io::{Action, ActivityKind, Command, DeleteGuard, EngineState, Event, Found, Hint, Reply};

const FILES: u8 = 8;

fn name(n: u8) -> String {
    format!("f{n}")
}

fn rows() -> Rows {
    (0..FILES).map(|n| (NodeId([n + 1; 16]), agreed_file(&at_root(&name(n)), "bytes", 10 + u64::from(n)))).collect()
}

/// What a look at the folder shows when the files before `first` are gone.
fn from(first: u8) -> Vec<Found> {
    (first..FILES).map(|n| found_file(&name(n), print(10 + u64::from(n), 5))).collect()
}

fn delete_up_to(script: &mut Script, first: u8) {
    let hint = |n| Hint::Entry { directory: path(""), name: name(n).as_bytes().into() };
    script.tell(Event::Hints((0..first).map(hint).collect()));
    script.answer_scans(&from(first));
    for _ in 0..5 {
        script.now += 1_000;
        script.tell(Event::Woken);
        script.answer_scans(&from(first));
    }
}

fn times_told(script: &Script) -> usize {
    let told = |action: &&Action| matches!(action, Action::Report(activity) if activity.kind == ActivityKind::Held);
    script.actions.iter().filter(told).count()
}

#[test]
fn what_a_person_confirmed_does_not_let_through_what_is_deleted_afterwards() {
    let guard = DeleteGuard::On { count: 2, percent: 30 };
    let mut script = Script::at_rest(EngineState { guard, ..state() }, rows(), &from(0));
    script.tell(Event::Command(Command::Pause));
    delete_up_to(&mut script, 3);
    assert_eq!(times_told(&script), 1);
    script.tell(Event::Command(Command::ConfirmDeletions));
    delete_up_to(&mut script, 4);
    assert_eq!(times_told(&script), 1, "one more is not many");
    delete_up_to(&mut script, 7);
    assert_eq!(times_told(&script), 2, "four more are");
    script.tell(Event::Command(Command::Resume));
    script.answer_changes(Vec::new());
    assert!(script.commit().is_none(), "they wait");
    script.tell(Event::Command(Command::ConfirmDeletions));
    let (_, commit) = script.commit().expect("a person said so");
    let deletions = commit.operations.iter().filter(|operation| matches!(operation, Operation::Delete { .. }));
    assert_eq!(deletions.count(), 7);
}

/// What is carried out makes room for nothing else.
#[test]
fn deletions_do_not_take_the_place_of_confirmed_ones_that_are_done() {
    let guard = DeleteGuard::On { count: 2, percent: 20 };
    let mut script = Script::at_rest(EngineState { guard, ..state() }, rows(), &from(0));
    delete_up_to(&mut script, 4);
    script.tell(Event::Command(Command::ConfirmDeletions));
    let (id, commit) = script.commit().expect("a person said so");
    assert_eq!(commit.operations.len(), 4);
    delete_up_to(&mut script, 7);
    assert_eq!(times_told(&script), 2);
    let accepted = CommitOutcome::Accepted { head: Position(5), time: Timestamp(0) };
    script.reply(id, Ok(Reply::Commit(accepted)));
    delete_up_to(&mut script, 7);
    assert!(script.commit().is_none(), "the other three wait");
    script.tell(Event::Command(Command::ConfirmDeletions));
    assert_eq!(script.commit().map(|(_, commit)| commit.operations.len()), Some(3));
}

#[test]
fn a_start_confirms_nothing_that_is_held() {
    let guard = DeleteGuard::On { count: 2, percent: 30 };
    let mut script = Script::at_rest(EngineState { guard, ..state() }, rows(), &from(0));
    script.tell(Event::Command(Command::Pause));
    delete_up_to(&mut script, 3);
    script.tell(Event::Command(Command::ConfirmDeletions));
    assert!(script.engine.state().deletions_confirmed);
    delete_up_to(&mut script, 7);
    let state = EngineState { paused: false, ..script.engine.state().clone() };
    let left = script.engine.trees().rows().collect();
    let mut script = Script::at_rest(state, left, &from(7));
    delete_up_to(&mut script, 7);
    assert!(script.commit().is_none(), "seven wait");
    assert_eq!(times_told(&script), 1);
}
