//! What the engine looks at and reads, and when.

use crate::build::{A, ROOT, entry, found, found_file, listing, name, path, print};
use crate::script::{Script, hash, state};
use api::{ChangesReply, NamespaceChanges};
use model::{Body, Change, Position};
use sync_engine::io::{
    DirectoryScan, Event, Extent, FileKind, Found, Hint, Job, JobResult, Reply, Request, RootState, ScanTarget,
};

/// It was read again and again until the server answered: the queue of what to read is made by planning.
#[test]
fn a_file_is_read_once_while_the_server_is_lost_in_the_middle_of_a_journal() {
    let mut script = Script::at_rest(state(), Vec::new(), &[found_file("b", print(12, 4))]);
    let asks = |request: &Request| matches!(request, Request::Changes(_)).then_some(());
    script.tell(Event::StreamOpened);
    let (id, ()) = script.request(asks).expect("it asks for changes");
    let create = Change::Create { parent: ROOT.root(), name: name("c"), body: Body::Directory };
    let entries = vec![entry(2, A, create)];
    let part = NamespaceChanges { namespace: ROOT, role: Some(model::Role::Owner), entries, head: Position(3) };
    script.reply(id, Ok(Reply::Changes(ChangesReply { namespaces: vec![part] })));
    let (id, ()) = script.request(asks).expect("and for the rest");
    script.lose(id);
    hash(&mut script, "mine");
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none());
}

/// What was to be looked at in the user's folder was forgotten when it became the server's, and a file that had
/// moved into it counted as deleted.
#[test]
fn what_happened_in_a_folder_is_looked_at_when_the_folder_turns_out_to_be_the_servers() {
    let mut script = Script::at_rest(state(), Vec::new(), &[]);
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"d".as_slice().into() }]));
    answer_scan(&mut script, vec![found("d", FileKind::Directory, print(11, 0))]);
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(
        2,
        A,
        Change::Create { parent: ROOT.root(), name: name("d"), body: Body::Directory },
    )]);
    let into = Hint::Entry { directory: path("d"), name: b"f".as_slice().into() };
    script.tell(Event::Hints(vec![into]));
    answer_scan(&mut script, Vec::new());
    assert!(script.engine.trees().has_local(A));
    let (_, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let names = Extent::Names([b"f".as_slice().into()].into());
    assert_eq!(job, Job::Scan(vec![ScanTarget { directory: path("d"), extent: names }]));
}

/// Answers one scan: each directory holds this.
fn answer_scan(script: &mut Script, entries: Vec<Found>) {
    let (id, job) = script.job(|job| matches!(job, Job::Scan(_))).expect("it looks");
    let Job::Scan(targets) = job else { unreachable!("asked for") };
    let look = |target: ScanTarget| {
        let inode = if target.directory.is_root() { 0 } else { 11 };
        DirectoryScan { target, result: Ok(listing(print(inode, 0), entries.clone())) }
    };
    let directories = targets.into_iter().map(look).collect();
    script.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories }));
}
