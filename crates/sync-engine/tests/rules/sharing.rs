//! What the journals of several namespaces may do to one another's nodes.

use crate::build::{
    A, B, C, ROOT, agreed_file, at_root, entry, file, found_file, in_folder, local, print, remote, synced,
};
use crate::script::{Script, hash, state};
use api::{ChangesReply, NamespaceChanges};
use model::{
    Body, Change, CommitOutcome, JournalEntry, NamespaceId, NodeId, Operation, Position, Reason, Rejection, Role,
};
use sync_engine::io::{EngineState, Reply, Request};
use sync_engine::tree::{Content, NodeRow, Seen};

const D: NodeId = NodeId([4; 16]);
const E: NodeId = NodeId([5; 16]);

fn mount(name: &str, inode: u64) -> NodeRow {
    NodeRow {
        local: local(at_root(name), Seen::Directory, print(inode, 0)),
        synced: synced(at_root(name), Content::Mount),
        remote: remote(at_root(name), Content::Mount),
    }
}

/// A device with the file `c` in its share `A`, the file `d` at its root, and the empty share `B`.
fn device() -> Script {
    let shares = [A, B].map(NodeId::as_namespace);
    let mut state: EngineState = state();
    for share in shares {
        state.roles.insert(share, Role::Editor);
        state.cursor.insert(share, Position(1));
    }
    let rows = vec![
        (A, mount("team", 11)),
        (B, mount("other", 12)),
        (C, agreed_file(&in_folder(A, "c"), "bytes", 13)),
        (D, agreed_file(&at_root("d"), "own", 14)),
    ];
    Script::start(state, rows)
}

/// Answers the question for changes with entries of one namespace.
fn tell(script: &mut Script, namespace: NamespaceId, entries: Vec<JournalEntry>) {
    let asks = |request: &Request| matches!(request, Request::Changes(_) | Request::News(_)).then_some(());
    let (id, ()) = script.request(asks).expect("it asks for changes");
    let namespaces = [ROOT, A.as_namespace(), B.as_namespace()].map(|part| {
        let entries = if part == namespace { entries.clone() } else { Vec::new() };
        let head = entries.last().map_or(Position(1), |entry| entry.position);
        NamespaceChanges { namespace: part, role: Some(Role::Editor), entries, head }
    });
    script.reply(id, Ok(Reply::Changes(ChangesReply { namespaces: namespaces.into() })));
}

fn make(parent: NodeId, name: &str, body: Body) -> Change {
    Change::Create { parent, name: crate::build::name(name), body }
}

fn link() -> Body {
    Body::Symlink { target: "elsewhere".into() }
}

#[test]
fn a_namespace_changes_no_node_of_another_one() {
    let attempts = [
        (C, make(B, "x", link())),
        (D, make(B, "x", link())),
        (C, Change::Edit { body: link() }),
        (D, Change::Move { parent: B, name: crate::build::name("x") }),
        (C, Change::Delete),
        (D, Change::Delete),
        (A, Change::Delete),
        (B, Change::Delete),
        (E, make(A, "x", link())),
        (E, make(ROOT.root(), "x", link())),
        (E, make(C, "x", link())),
    ];
    for (node, change) in attempts {
        let mut script = device();
        let rows: Vec<_> = script.engine.trees().rows().collect();
        tell(&mut script, B.as_namespace(), vec![entry(2, node, change.clone())]);
        let after: Vec<_> = script.engine.trees().rows().collect();
        assert_eq!(after, rows, "{change:?}");
        assert_eq!(script.engine.state().cursor[&B.as_namespace()], Position(2), "it is read all the same");
    }
}

#[test]
fn each_namespace_changes_its_own() {
    let mut script = device();
    tell(
        &mut script,
        A.as_namespace(),
        vec![
            entry(2, E, make(A, "sub", Body::Directory)),
            entry(3, C, Change::Move { parent: E, name: crate::build::name("x") }),
        ],
    );
    let place = |node| script.engine.trees().remote(node).map(|remote| remote.place);
    assert_eq!(place(C), Some(in_folder(E, "x")));

    let mut script = device();
    tell(&mut script, ROOT, vec![entry(2, B, Change::Delete), entry(3, D, Change::Delete)]);
    let trees = script.engine.trees();
    assert_eq!((trees.remote(B), trees.remote(D)), (None, None));
}

/// What must hold is the tree after the commit: in between a parent may be yet to come, and a folder lie below itself.
#[test]
fn a_commit_in_a_share_may_be_read_in_any_order_that_the_server_takes() {
    const F: NodeId = NodeId([6; 16]);
    let moved = |parent, name: &str| Change::Move { parent, name: crate::build::name(name) };
    let share = A.as_namespace();
    let place = |script: &Script, node| script.engine.trees().remote(node).map(|remote| remote.place);

    // `d` (E) is wrapped two levels deep under its own name: into `d/x`, which are F and D's successor.
    let mut script = device();
    let x = NodeId([7; 16]);
    let (first, wrapped) = (entry(2, E, make(A, "d", Body::Directory)), F);
    let entries = vec![
        first,
        entry(3, x, make(wrapped, "x", Body::Directory)),
        entry(4, E, moved(x, "old")),
        entry(5, wrapped, make(A, "d", Body::Directory)),
    ];
    tell(&mut script, share, entries);
    assert_eq!(place(&script, E), Some(in_folder(x, "old")));
    assert_eq!(place(&script, x), Some(in_folder(wrapped, "x")));
    assert_eq!(place(&script, wrapped), Some(in_folder(A, "d")));

    // `a/b` becomes `b/a`, and each takes the other's name.
    let mut script = device();
    let entries = vec![
        entry(2, E, make(A, "a", Body::Directory)),
        entry(3, F, make(E, "b", Body::Directory)),
        entry(4, E, moved(F, "b")),
        entry(5, F, moved(A, "a")),
    ];
    tell(&mut script, share, entries);
    assert_eq!(place(&script, F), Some(in_folder(A, "a")));
    assert_eq!(place(&script, E), Some(in_folder(F, "b")));
}

/// A folder's nodes keep their ids when it is shared: its own journal makes them once more.
#[test]
fn what_a_shared_folder_held_is_told_by_its_own_journal() {
    let rows =
        vec![(A, crate::build::agreed_folder(&at_root("team"), 11)), (C, agreed_file(&in_folder(A, "c"), "bytes", 13))];
    let mut script = Script::start(state(), rows);
    script.answer_changes(vec![entry(2, A, Change::Edit { body: Body::Mount })]);
    assert_eq!(script.engine.trees().remote(C), None);
    let content = file("bytes");
    let body = Body::File {
        blocks: crate::build::blocks("bytes"),
        size: content.size,
        executable: content.executable,
        mtime: content.mtime,
    };
    tell(&mut script, A.as_namespace(), vec![entry(1, C, make(A, "c", body))]);
    assert_eq!(script.engine.trees().remote(C).map(|remote| remote.place), Some(in_folder(A, "c")));
}

/// The namespace that has it may be one that this device does not follow, and will not hear of.
#[test]
fn a_new_file_whose_id_is_in_use_takes_another_one() {
    let mut script = Script::at_rest(state(), Vec::new(), &[found_file("a", print(11, 5))]);
    hash(&mut script, "bytes");
    let mut ids = Vec::new();
    for attempt in 0..3 {
        let blocks = script.request(|request| match request {
            Request::Changeset { commit: None, .. } => Some(()),
            _ => None,
        });
        assert!(blocks.is_none(), "blocks go with the commit");
        let (id, commit) = script.commit().unwrap_or_else(|| panic!("it commits, attempt {attempt}"));
        let [Operation::Create { node, name, .. }] = &*commit.operations else { panic!("{:?}", commit.operations) };
        assert_eq!(name.as_str(), "a");
        assert!(!ids.contains(node), "another id");
        ids.push(*node);
        if attempt < 2 {
            let rejected = CommitOutcome::Rejected(vec![Rejection { index: 0, reason: Reason::NodeExists }]);
            script.reply(id, Ok(Reply::Commit(rejected)));
            script.answer_changes(Vec::new());
        }
    }
    assert_eq!(script.engine.trees().rows().count(), 1, "and leaves nothing under those before");
}
