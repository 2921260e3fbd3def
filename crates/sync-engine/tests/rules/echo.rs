//! A commit's own echo: the news that the journal has grown by it may come before its answer.

use crate::build::{ROOT, found_file, print};
use crate::script::{Script, state};
use api::Notification;
use model::{CommitOutcome, Position, Timestamp};
use sync_engine::io::{Event, FileKind, Found, Reply, Request, RequestId};

/// A device that has sent a commit of one operation; its cursor stands at 1.
fn committing() -> (Script, RequestId) {
    let folder = Found { kind: FileKind::Directory, ..found_file("a", print(11, 0)) };
    let mut script = Script::at_rest(state(), Vec::new(), &[folder]);
    let (id, commit) = script.commit().expect("the folder is sent");
    assert_eq!(commit.operations.len(), 1);
    (script, id)
}

fn hear(script: &mut Script, position: u64) {
    script.tell(Event::Notified(Notification { namespace: ROOT, position: Position(position) }));
}

fn asks(script: &mut Script) -> bool {
    script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(())).is_some()
}

fn accept(script: &mut Script, id: RequestId, head: u64) {
    let outcome = CommitOutcome::Accepted { head: Position(head), time: Timestamp(0) };
    script.reply(id, Ok(Reply::Commit(outcome)));
}

#[test]
fn the_echo_of_a_commit_is_not_asked_about_when_it_comes_before_the_answer() {
    let (mut script, id) = committing();
    hear(&mut script, 2);
    assert!(!asks(&mut script), "the answer is on its way");
    accept(&mut script, id, 2);
    assert!(!asks(&mut script), "and said it all");
    assert_eq!(script.engine.state().in_flight, None);
}

#[test]
fn what_others_committed_is_asked_about_although_it_looked_like_an_echo() {
    let (mut script, id) = committing();
    hear(&mut script, 2);
    accept(&mut script, id, 3);
    assert!(asks(&mut script), "the entry before ours is another's");

    let (mut script, id) = committing();
    hear(&mut script, 2);
    script.lose(id);
    script.wake();
    assert!(asks(&mut script), "the answer is lost");

    let (mut script, _) = committing();
    hear(&mut script, 3);
    assert!(asks(&mut script), "it is more than our commit");
}

#[test]
fn an_answer_that_is_late_holds_no_news_back_for_long() {
    let (mut script, _) = committing();
    hear(&mut script, 2);
    let before = script.now;
    script.wake();
    while !asks(&mut script) {
        script.wake();
    }
    assert!(script.now - before <= 1_000, "after {} ms", script.now - before);
}
