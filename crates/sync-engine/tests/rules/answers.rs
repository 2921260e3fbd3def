//! Only a tombstone in the journal deletes here, whatever else a server or something in its place says.

use crate::build::{A, B, ROOT, agreed_file, agreed_folder, at_root, found, found_file, in_folder, print};
use crate::script::{Script, state};
use api::{ApiError, ChangesReply, ErrorCode, MissingReply, NamespaceChanges};
use model::{Position, Role};
use sync_engine::io::{Action, Event, FileKind, Job, LocalStep, Reply, Request, RequestError};

const CODES: [ErrorCode; 12] = [
    ErrorCode::BadRequest,
    ErrorCode::WrongCredentials,
    ErrorCode::Unlinked,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::AlreadyExists,
    ErrorCode::EpochChanged,
    ErrorCode::Busy,
    ErrorCode::Unavailable,
    ErrorCode::NoSpace,
    ErrorCode::UnsupportedVersion,
    ErrorCode::BadRequest,
];

/// A folder `a` with a file `a/f`, both in sync.
fn in_sync() -> Script {
    let rows = vec![(A, agreed_folder(&at_root("a"), 10)), (B, agreed_file(&in_folder(A, "f"), "bytes", 11))];
    let mut script = Script::start(state(), rows);
    script.answer_changes(Vec::new());
    let folder = [found("a", FileKind::Directory, print(10, 0))];
    script.answer_scans_by(
        |directory| if directory.is_root() { folder.to_vec() } else { vec![found_file("f", print(11, 5))] },
    );
    script.take();
    script
}

fn errors() -> Vec<RequestError> {
    let refused = CODES.map(|code| RequestError::Refused(ApiError::new(code, "no")));
    let others = [
        RequestError::Unreachable("the answer broke off".to_owned()),
        RequestError::NotSyncline("404 Not Found, text/html".to_owned()),
        RequestError::NotSyncline("200 OK, text/html".to_owned()),
    ];
    refused.into_iter().chain(others).collect()
}

/// Answers that fit their question and hold less than they should.
fn thin_answers() -> Vec<Reply> {
    let nothing = ChangesReply { namespaces: Vec::new() };
    let part = NamespaceChanges { namespace: ROOT, role: Some(Role::Owner), entries: Vec::new(), head: Position(0) };
    let behind = ChangesReply { namespaces: vec![part.clone()] };
    let ahead = ChangesReply { namespaces: vec![NamespaceChanges { head: Position(9), ..part }] };
    vec![
        Reply::Changes(nothing),
        Reply::Changes(behind),
        Reply::Changes(ahead),
        Reply::Missing(MissingReply { missing: Vec::new() }),
    ]
}

/// Lets the engine ask again and again, and answers everything alike.
fn hears_only(answer: &Result<Reply, RequestError>) -> Script {
    let mut script = in_sync();
    script.tell(Event::StreamOpened);
    for _ in 0..8 {
        let mut asked = 0;
        while let Some((id, ())) = script.request(|_: &Request| Some(())) {
            script.reply(id, answer.clone());
            asked += 1;
            assert!(asked < 10, "asks again at once when it hears {answer:?}");
        }
        if script.engine.next_wake().is_some() {
            script.wake();
        }
    }
    script
}

fn deletes(action: &Action) -> bool {
    let removes = |step: &LocalStep| {
        matches!(step, LocalStep::Remove { .. } | LocalStep::RemoveDirectory { .. } | LocalStep::Install { .. })
    };
    matches!(action, Action::Job(_, Job::Apply(steps)) if steps.iter().any(removes))
}

#[test]
fn no_error_and_no_thin_answer_deletes_or_replaces_anything_here() {
    let failed = errors().into_iter().map(Err);
    for answer in failed.chain(thin_answers().into_iter().map(Ok)) {
        let script = hears_only(&answer);
        let done: Vec<&Action> = script.actions.iter().filter(|action| deletes(action)).collect();
        assert!(done.is_empty(), "{answer:?} led to {done:?}");
        assert!(script.engine.trees().has_local(A) && script.engine.trees().has_local(B), "{answer:?}");
        assert!(
            script.engine.trees().synced(B).is_some() || matches!(answer, Err(RequestError::Refused(_))),
            "{answer:?}"
        );
    }
}
