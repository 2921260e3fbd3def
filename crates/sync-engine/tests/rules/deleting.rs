//! Deletions of very many files, which a person must confirm.

use crate::build::{agreed_file, at_root, found_file, path, print};
use crate::script::{Script, state};
use model::{NodeId, Operation};
use sync_engine::io::{Action, ActivityKind, Command, DeleteGuard, EngineState, Event, Found, Hint};

const FILES: u8 = 8;

fn name(n: u8) -> String {
    format!("f{n}")
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
    let rows = (0..FILES).map(|n| (NodeId([n + 1; 16]), agreed_file(&at_root(&name(n)), "bytes", 10 + u64::from(n))));
    let mut script = Script::at_rest(EngineState { guard, ..state() }, rows.collect(), &from(0));
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
