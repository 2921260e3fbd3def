//! How edits are sent: with their commit, and how soon when there are many.

use crate::build::{A, agreed_file, at_root, blocks, changed, file, found_file, path, print};
use crate::ordering::refused;
use crate::script::{Script, hash, state};
use api::{ChangesReply, ErrorCode, MissingReply, SentOperation};
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, CommitOutcome, Operation, Position, Reason, Rejection, Timestamp};
use sync_engine::Tuning;
use sync_engine::io::{
    Action, Command, Event, Fingerprint, HashResult, Hint, Job, JobResult, Reply, Request, RequestId,
};
use sync_engine::status::Phase;
use sync_engine::tree::FileContent;

/// The device has the file `a` in sync, which is then found changed.
fn edit(script: &mut Script, print: Fingerprint) {
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", print)]);
}

/// How many blocks went up first after an edit, and whether the commit was with them.
fn sent_after_an_edit(tuning: Tuning) -> Option<(usize, bool)> {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.engine.tune(tuning);
    edit(&mut script, changed(print(11, 5)));
    hash(&mut script, "mine!");
    let sent = script.request(|request| match request {
        Request::Changeset { blocks, commit, .. } => Some((blocks.len(), commit.is_some())),
        _ => None,
    });
    sent.map(|(_, sent)| sent)
}

#[test]
fn an_edit_of_one_block_travels_with_its_commit_however_large_its_file_is() {
    assert_eq!(sent_after_an_edit(Tuning { inline_file: 1, ..Tuning::default() }), Some((1, true)));
    assert_eq!(sent_after_an_edit(Tuning { inline_file: 0, ..Tuning::default() }), None);
}

/// The commits of an edit, each answered as malformed.
fn sent_forms(tuning: Tuning) -> Vec<SentOperation> {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.engine.tune(tuning);
    script.learn("bytes");
    edit(&mut script, changed(print(11, 5)));
    hash(&mut script, "mine!");
    let mut forms = Vec::new();
    while forms.len() < 2 {
        let sent = script.request(|request| match request {
            Request::Changeset { commit: Some(commit), .. } => Some(commit.operations.clone()),
            _ => None,
        });
        let (id, operations) = sent.expect("the edit is sent");
        forms.extend(operations);
        let refusal = CommitOutcome::Rejected(vec![Rejection { index: 0, reason: Reason::Malformed }]);
        script.reply(id, Ok(Reply::Changeset { outcome: Some(refusal) }));
        script.answer_changes(Vec::new());
    }
    forms
}

#[test]
fn an_edit_names_what_it_keeps_until_the_server_finds_something_wrong_with_it() {
    let amended =
        |form: &SentOperation| matches!(form, SentOperation::Amend { node: A, base_content: Position(1), .. });
    let forms = sent_forms(Tuning { kept_blocks: 0, ..Tuning::default() });
    assert!(amended(&forms[0]) && !amended(&forms[1]), "{forms:?}");
    let forms = sent_forms(Tuning { kept_blocks: 1, ..Tuning::default() });
    assert!(!forms.iter().any(amended), "nothing is kept");
}

#[test]
fn a_file_that_keeps_changing_waits_but_not_when_somebody_waits_for_it() {
    let mut print = print(11, 5);
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print)]);
    let is_read = |script: &Script| script.actions.iter().any(|action| matches!(action, Action::Job(_, Job::Hash(_))));
    let mut sent = 0;
    while sent < 20 {
        print = changed(print);
        edit(&mut script, print);
        if !is_read(&script) {
            break;
        }
        sent += 1;
        hash(&mut script, &format!("edit{sent}"));
        let (id, _) = script.commit().expect("it is sent");
        let outcome = CommitOutcome::Accepted { head: Position(1 + sent), time: Timestamp(0) };
        script.reply(id, Ok(Reply::Changeset { outcome: Some(outcome) }));
        script.now += 1_000;
    }
    assert_eq!(sent, 6);

    script.tell(Event::Command(Command::Flush));
    script.answer_scans(&[found_file("a", print)]);

    assert!(is_read(&script));
}

#[test]
fn a_file_that_changes_before_its_blocks_are_sent_is_sent_as_it_is_then() {
    let mut print = print(11, 5);
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print)]);
    script.engine.tune(Tuning { inline_file: 0, ..Tuning::default() });
    print = changed(print);
    edit(&mut script, print);
    hash(&mut script, "first");
    let asked = |script: &mut Script| {
        script.request(|request| match request {
            Request::Missing(request) => Some(request.blocks.clone()),
            _ => None,
        })
    };
    let (first, blocks) = asked(&mut script).expect("it is asked what the server lacks");
    assert_eq!(blocks, crate::build::blocks("first").0);

    // The answer comes when the file has other bytes already, and nobody has told of them.
    print = changed(print);
    script.now += 60_000;
    edit(&mut script, print);
    script.reply(first, Ok(Reply::Missing(MissingReply { missing: vec![0] })));
    hash(&mut script, "other");

    let (second, blocks) = asked(&mut script).expect("it is asked again");
    assert_eq!(blocks, crate::build::blocks("other").0);
    script.reply(second, Ok(Reply::Missing(MissingReply { missing: vec![0] })));
    let sent = script.request(|request| match request {
        Request::Changeset { blocks, .. } => Some(blocks.iter().map(|block| block.hash).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(sent.map(|(_, sent)| sent), Some(blocks));
}

/// A device at rest whose file `a` has been edited.
fn grown(move_from: u32, edited: &str) -> Script {
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.engine.tune(Tuning { inline_file: 0, pacing: false, move_from, ..Tuning::default() });
    script.learn("bytes");
    edit(&mut script, changed(print(11, 5)));
    hash(&mut script, edited);
    script
}

fn asked_to_shift(script: &mut Script) -> Option<(RequestId, (usize, usize, i64))> {
    script.request(|request| match request {
        Request::Shift { blocks, before, by } => Some((blocks.len(), before.blocks.len(), *by)),
        _ => None,
    })
}

fn asked_for_missing(script: &mut Script) -> Option<RequestId> {
    script.request(|request| matches!(request, Request::Missing(_)).then_some(())).map(|(id, ())| id)
}

#[test]
fn blocks_that_may_have_moved_are_made_at_the_server_and_then_committed() {
    let mut script = grown(1, "and bytes");
    let (id, asked) = asked_to_shift(&mut script).expect("it is tried");
    assert_eq!(asked, (1, 1, 4));
    assert!(asked_for_missing(&mut script).is_none(), "nothing else is asked meanwhile");
    script.reply(id, Ok(Reply::Shifted { made: blocks("and bytes").0 }));
    assert!(script.commit().is_some(), "all is there");
}

#[test]
fn what_had_not_moved_is_sent_like_anything_else() {
    let mut script = grown(1, "and bytes");
    let (id, _) = asked_to_shift(&mut script).expect("it is tried");
    script.reply(id, Ok(Reply::Shifted { made: Vec::new() }));
    assert!(script.commit().is_none());
    let id = asked_for_missing(&mut script).expect("is asked");
    script.reply(id, Ok(Reply::Missing(MissingReply { missing: vec![0] })));
    assert!(script.request(|request| matches!(request, Request::Changeset { .. }).then_some(())).is_some());
    assert!(asked_to_shift(&mut script).is_none(), "it is tried once");
}

#[test]
fn an_answer_that_was_lost_leaves_blocks_to_be_sent_like_anything_else() {
    let mut script = grown(1, "and bytes");
    let (id, _) = asked_to_shift(&mut script).expect("it is tried");
    script.lose(id);
    script.wake();
    script.answer_changes(Vec::new());
    assert!(asked_for_missing(&mut script).is_some());
    assert!(asked_to_shift(&mut script).is_none());
}

#[test]
fn what_changes_again_before_it_is_tried_leaves_nothing_behind() {
    let mut script = grown(1, "and bytes");
    let (id, _) = asked_to_shift(&mut script).expect("it is tried");
    edit(&mut script, changed(changed(print(11, 5))));
    hash(&mut script, "and more bytes");
    script.reply(id, Ok(Reply::Shifted { made: blocks("and bytes").0 }));
    let (id, asked) = asked_to_shift(&mut script).expect("the newer content is tried too");
    assert_eq!(asked, (1, 1, 9));
    script.reply(id, Ok(Reply::Shifted { made: blocks("and more bytes").0 }));
    assert!(script.commit().is_some());
}

#[test]
fn a_file_that_keeps_its_size_and_one_of_few_blocks_are_not_taken_to_have_moved() {
    for (move_from, edited) in [(1, "mine!"), (Tuning::default().move_from, "and bytes")] {
        let mut script = grown(move_from, edited);
        assert!(asked_to_shift(&mut script).is_none());
        assert!(asked_for_missing(&mut script).is_some());
    }
}

/// Lets ten minutes go by on a server that has no room for blocks and answers all else. When a block came to it.
fn comings_of_a_block(tuning: Tuning) -> Vec<u64> {
    /// Makes each wait as long as it can be.
    const LONGEST: u64 = 1_919_999;
    let mut script =
        Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &[found_file("a", print(11, 5))]);
    script.engine.tune(tuning);
    script.waits = LONGEST;
    edit(&mut script, changed(print(11, 5)));
    hash(&mut script, "mine!");
    let mut comings = Vec::new();
    let end = script.now + 600_000;
    while script.now < end {
        let asked = script.request(|request| match request {
            Request::Changeset { .. } => Some(Err(())),
            Request::Commit(_) => {
                let missing = Reason::MissingBlocks(blocks("mine!").0);
                let outcome = CommitOutcome::Rejected(vec![Rejection { index: 0, reason: missing }]);
                Some(Ok(Reply::Commit(outcome)))
            }
            Request::Missing(_) => Some(Ok(Reply::Missing(MissingReply { missing: vec![0] }))),
            Request::News(_) | Request::Changes(_) => Some(Ok(Reply::Changes(ChangesReply { namespaces: Vec::new() }))),
            _ => None,
        });
        match asked {
            Some((id, Ok(reply))) => script.reply(id, Ok(reply)),
            Some((id, Err(()))) => {
                comings.push(script.now);
                script.reply(id, refused(ErrorCode::NoSpace));
            }
            None => script.wake(),
        }
    }
    assert!(matches!(script.engine.status().phase, Phase::Offline { .. }), "the user is told why");
    comings
}

/// It came about once in a second, with all that had been on its way, for as long as the disk was full: an answer to any
/// other call ended the row of failures.
#[test]
fn what_the_server_has_no_room_for_is_sent_ever_more_seldom() {
    for inline_file in [0, Tuning::default().inline_file] {
        let comings = comings_of_a_block(Tuning { inline_file, ..Tuning::default() });
        let pauses: Vec<u64> = comings.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(pauses.len() < 15 && pauses.is_sorted(), "{pauses:?}");
        assert!(pauses.last().is_some_and(|last| *last > 100_000), "{pauses:?}");
    }
}

/// The server keeps what no commit names for a day. A file that takes longer was never complete: its first blocks were sent
/// again while the next ones ran out.
#[test]
fn what_was_sent_hours_ago_is_asked_about_while_the_upload_goes_on() {
    const HOURS: u64 = 3_600_000;
    let list = Blocklist((1..=6).map(|n| BlockHash([n; 32])).collect());
    let size = 6 * BLOCK_SIZE;
    let content = FileContent { hash: list.content_hash(), size, ..file("") };
    let mut script = Script::at_rest(state(), Vec::new(), &[found_file("a", print(11, size))]);
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    let hashed = HashResult::Hashed { content, blocks: list.clone() };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, hashed)])));
    let asked = |script: &mut Script| {
        script.request(|request| match request {
            Request::Missing(request) => Some(request.blocks.clone()),
            _ => None,
        })
    };
    let sent = |script: &mut Script| {
        script.request(|request| match request {
            Request::Changeset { blocks, commit: None, .. } => {
                Some(blocks.iter().map(|block| block.hash).collect::<Vec<_>>())
            }
            _ => None,
        })
    };
    let (id, blocks) = asked(&mut script).expect("it is asked what the server lacks");
    assert_eq!(blocks, list.0);
    script.reply(id, Ok(Reply::Missing(MissingReply { missing: (0..6).collect() })));
    let (id, first) = sent(&mut script).expect("some are sent");
    assert_eq!(first, list.0[..2]);
    script.reply(id, Ok(Reply::Changeset { outcome: None }));
    script.now += 3 * HOURS;
    script.tell(Event::Woken);
    assert_eq!(asked(&mut script), None, "the server keeps them for a while");

    script.now += HOURS;
    script.tell(Event::Woken);
    let (id, blocks) = asked(&mut script).expect("it is asked whether it still has them");
    assert_eq!(blocks, first);
    script.reply(id, Ok(Reply::Missing(MissingReply { missing: vec![1] })));
    while let Some((id, _)) = sent(&mut script) {
        assert!(script.commit().is_none(), "not everything is there");
        script.reply(id, Ok(Reply::Changeset { outcome: None }));
    }
    script.answer_scans(&[found_file("a", print(11, size))]);
    let (_, commit) = script.commit().expect("what was lost was sent again");
    assert_eq!(commit.operations.iter().filter_map(Operation::body).flat_map(Body::blocks).count(), 6);
}
