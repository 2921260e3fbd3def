//! Which server it is that answers, and whether it still knows what it has told.

use crate::build::{A, agreed_file, at_root, changed, entry, found_file, path, print};
use crate::ordering::refused;
use crate::script::{Script, hash, state};
use api::{ErrorCode, ServerReply};
use model::{Change, Epoch, InstanceId, Position};
use sync_engine::io::{Action, Event, Hint, Job, Reply, Request, RequestId};
use sync_engine::status::Phase;

/// A server of the epoch that the device knows.
fn same_server() -> ServerReply {
    ServerReply { instance: InstanceId([1; 16]), epoch: Epoch(1), version: String::new() }
}

/// A device with the file `a` in sync that is about to look at the journal.
fn about_to_look() -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.take();
    script.tell(Event::StreamOpened);
    script
}

fn asked_for_changes(script: &mut Script) -> Option<RequestId> {
    script.request(|request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(())).map(|(id, ())| id)
}

/// The engine hears of another epoch, asks who is there, and hears this.
fn refuses(script: &mut Script, asked: RequestId, server: ServerReply) {
    script.reply(asked, refused(ErrorCode::EpochChanged));
    let asked = script.request(|request| matches!(request, Request::Server).then_some(()));
    script.reply(asked.expect("asks who is there").0, Ok(Reply::Server(server)));
}

fn meets(server: ServerReply) -> Script {
    let mut script = about_to_look();
    let asked = asked_for_changes(&mut script).expect("asks");
    refuses(&mut script, asked, server);
    script
}

#[test]
fn a_server_of_another_instance_is_not_synced_with() {
    for epoch in [1, 2] {
        let version = String::new();
        let mut script = meets(ServerReply { instance: InstanceId([2; 16]), epoch: Epoch(epoch), version });
        assert!(script.request(|_| Some(())).is_none());
        for _ in 0..2 {
            script.tell(Event::StreamOpened);
            let asked = asked_for_changes(&mut script).expect("it is asked whether it is the right one by now");
            let version = String::new();
            refuses(&mut script, asked, ServerReply { instance: InstanceId([2; 16]), epoch: Epoch(epoch), version });
            assert!(script.request(|_| Some(())).is_none());
        }
        assert!(script.engine.trees().has_local(A));
    }
}

/// It had been started without its database, and all its devices stopped for good.
#[test]
fn a_device_goes_on_when_the_server_knows_it_again() {
    let mut script = about_to_look();
    let asked = asked_for_changes(&mut script).expect("asks");
    script.reply(asked, refused(ErrorCode::Unlinked));
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed(print(11, 5)))]);
    hash(&mut script, "mine!");
    for _ in 0..2 {
        assert_eq!(script.engine.status().phase, Phase::Unlinked);
        script.tell(Event::Woken);
        assert!(script.request(|_| Some(())).is_none(), "not at once");
        script.tell(Event::StreamOpened);
        let asked = asked_for_changes(&mut script).expect("now and then");
        script.reply(asked, refused(ErrorCode::Unlinked));
    }
    script.tell(Event::StreamOpened);
    assert!(script.commit().is_none(), "nothing else is asked before that is known");
    script.answer_changes(Vec::new());
    assert_ne!(script.engine.status().phase, Phase::Unlinked);
    assert!(script.commit().is_some(), "what was done meanwhile is told");
}

#[test]
fn a_server_that_is_behind_for_a_moment_has_lost_nothing() {
    let mut script = about_to_look();
    let began = script.now;
    while script.engine.trees().synced(A).is_some() {
        assert!(script.now < began + 200_000, "it does not wait for ever");
        match asked_for_changes(&mut script) {
            Some(asked) => refuses(&mut script, asked, same_server()),
            None => script.wake(),
        }
    }
    assert!(script.now - began >= 60_000, "what both have agreed on is kept for a while: {}", script.now - began);
}

#[test]
fn a_server_that_has_caught_up_is_believed_again_as_long_as_ever() {
    let mut script = about_to_look();
    for _ in 0..3 {
        let asked = asked_for_changes(&mut script).expect("asks");
        refuses(&mut script, asked, same_server());
        script.wake();
        script.answer_changes(Vec::new());
        script.now += 50_000;
        script.take();
        script.tell(Event::StreamOpened);
    }
    assert!(script.engine.trees().synced(A).is_some());
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
fn a_journal_that_lacks_the_next_entry_is_not_asked_for_again_at_once() {
    let mut script = Script::start(state(), Vec::new());
    for _ in 0..10 {
        script.answer_changes(vec![entry(3, A, Change::Delete)]);
        assert!(asked_for_changes(&mut script).is_none(), "it waits");
        while !script
            .actions
            .iter()
            .any(|action| matches!(action, Action::Send(_, Request::Changes(_) | Request::News(_))))
        {
            script.wake();
        }
    }
    let told = script.now;
    script.answer_changes(vec![entry(2, A, Change::Delete), entry(3, A, Change::Delete)]);
    assert!(script.now <= told + 1, "and goes on as soon as it is there");
    assert!(script.engine.state().cursor.values().all(|position| *position == Position(3)));
}
