//! The conflict table and the planner, by the pieces that others cover for in a whole run.

use crate::build::{
    A, B, C, ROOT, agreed_file, agreed_folder, at_root, blocks, file, in_folder, local, path, print, remote, synced,
    trees,
};
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Mtime, NodeId, Operation, Role, limits};
use std::collections::{BTreeMap, BTreeSet};
use sync_engine::io::{LocalStep, TempName};
use sync_engine::plan::{BatchBuilder, BlockPlan, CommitBuilder, CommitPlan, Contents, Naming, PlannedStep, Queues};
use sync_engine::tree::{Content, FileContent, NodeRow, Place, Seen};
use sync_engine::trees::Trees;
use sync_engine::verdict::{Context, Edit, Pull, Verdict, decide};

const NAMING: Naming<'_> = Naming { device: "laptop", date: "2026-11-23" };

fn with_context<T>(run: impl FnOnce(&Context<'_>) -> T) -> T {
    let (roles, frozen) = (BTreeMap::from([(ROOT, Role::Owner)]), BTreeSet::new());
    run(&Context { roles: &roles, frozen: &frozen, may_unload: true })
}

fn verdict(row: NodeRow) -> Verdict {
    with_context(|context| decide(&trees(vec![(A, row)]), context, A))
}

#[test]
fn a_local_deletion_is_dropped_when_they_edited_or_moved_the_file() {
    let row = agreed_file(&at_root("a"), "bytes", 11);
    let moved = NodeRow { local: None, remote: remote(at_root("b"), Content::File(file("bytes"))), ..row.clone() };
    let edited = NodeRow { local: None, remote: remote(at_root("a"), Content::File(file("more"))), ..row };
    assert_eq!(verdict(moved), Verdict::Edit(Edit::DropSyncedSubtree));
    assert_eq!(verdict(edited), Verdict::Edit(Edit::DropSynced));
}

/// It came back empty, and everything in it was deleted for everybody.
#[test]
fn a_folder_that_comes_back_because_they_moved_it_comes_back_with_all_it_held() {
    let gone = |row: NodeRow| NodeRow { local: None, ..row };
    let folder = moved_there(gone(agreed_folder(&at_root("d"), 10)), at_root("e"));
    let inner = gone(agreed_folder(&in_folder(A, "inner"), 11));
    let file = gone(agreed_file(&in_folder(B, "f"), "bytes", 12));
    let mut trees = trees(vec![(A, folder), (B, inner), (C, file)]);
    let steps = batch_of(&mut trees);
    assert_eq!(steps.iter().map(|planned| planned.step.node()).collect::<Vec<_>>(), [A, B, C], "{steps:?}");
    assert_eq!(commit_of(&trees, &[A, B, C]).commit.operations, []);
}

#[test]
fn without_a_base_different_content_is_two_files() {
    let row = NodeRow { synced: None, ..agreed_file(&at_root("a"), "bytes", 11) };
    assert!(matches!(verdict(row.clone()), Verdict::Edit(Edit::SetSynced(_))));
    let other = NodeRow { remote: remote(at_root("a"), Content::File(file("other"))), ..row };
    assert_eq!(verdict(other), Verdict::Edit(Edit::RelabelFresh));
}

/// Every content is on the server.
struct AllPresent;

impl Contents for AllPresent {
    fn body(&self, content: &Content) -> Option<Body> {
        Some(match content {
            Content::File(file) => {
                Body::File { blocks: blocks("bytes"), size: file.size, executable: file.executable, mtime: file.mtime }
            }
            _ => Body::Directory,
        })
    }

    fn blocks(&self, _: NodeId, _: &FileContent) -> BlockPlan {
        BlockPlan::Present
    }
}

fn commit_of(trees: &Trees, candidates: &[NodeId]) -> CommitPlan {
    with_context(|context| {
        CommitBuilder::new(trees, context, &AllPresent, NAMING, false).build(candidates.iter().copied())
    })
}

/// Every file is of half a terabyte, and its blocks are on the server, as after it was copied within the folder.
struct Enormous;

impl Contents for Enormous {
    fn body(&self, _: &Content) -> Option<Body> {
        let blocks = Blocklist(vec![BlockHash([7; 32]); limits::COMMIT_BLOCKS / 2]);
        Some(Body::File { blocks, size: 1 << 39, executable: false, mtime: Mtime(7) })
    }

    fn blocks(&self, _: NodeId, _: &FileContent) -> BlockPlan {
        BlockPlan::Present
    }
}

/// The server refused the commit, and all its files were tried again together, for ever.
#[test]
fn a_commit_names_no_more_blocks_than_the_server_takes() {
    let new = |text: &str, inode| {
        let local = local(at_root(text), Seen::File(Some(file(text))), print(inode, 5));
        NodeRow { local, ..NodeRow::default() }
    };
    let mut rows: Vec<(NodeId, NodeRow)> = (1..=5).map(|n| (NodeId([n; 16]), new(&n.to_string(), n.into()))).collect();
    let mut commits = Vec::new();
    while !rows.is_empty() {
        let trees = trees(rows.clone());
        let candidates: Vec<NodeId> = rows.iter().map(|(node, _)| *node).collect();
        let plan = with_context(|context| {
            CommitBuilder::new(&trees, context, &Enormous, NAMING, false).build(candidates.into_iter())
        });
        assert_eq!(plan.waiting, []);
        let sent: BTreeSet<NodeId> = plan.commit.operations.iter().map(Operation::node).collect();
        rows.retain(|(node, _)| !sent.contains(node));
        commits.push(sent.len());
    }
    assert_eq!(commits, [2, 2, 1]);
}

/// It reads what they were in order to change them.
#[test]
fn a_commit_changes_no_more_blocks_than_the_server_takes() {
    let large = |text: &str, inode| {
        let content = FileContent { size: (limits::COMMIT_BLOCKS as u64 / 2) * BLOCK_SIZE, ..file(text) };
        NodeRow {
            local: local(at_root(&format!("new {text}")), Seen::File(Some(content)), print(inode, content.size)),
            synced: synced(at_root(text), Content::File(content)),
            remote: remote(at_root(text), Content::File(content)),
        }
    };
    let deleted = |row: NodeRow| NodeRow { local: None, ..row };
    for change in [|row| row, deleted] {
        let rows: Vec<(NodeId, NodeRow)> =
            (1..=5).map(|n| (NodeId([n; 16]), change(large(&n.to_string(), n.into())))).collect();
        let trees = trees(rows.clone());
        let plan = with_context(|context| {
            CommitBuilder::new(&trees, context, &Enormous, NAMING, false).build(rows.iter().map(|(node, _)| *node))
        });
        assert_eq!(plan.commit.operations.len(), 2);
    }
}

/// The user moved `d/f` to `f` and deleted `d`.
fn moved_out_of_a_deleted_folder(seen: Seen) -> Trees {
    let mut folder = agreed_folder(&at_root("d"), 10);
    folder.local = None;
    let mut leaver = agreed_file(&in_folder(A, "f"), "bytes", 11);
    leaver.local = local(at_root("f"), seen, print(11, 5));
    trees(vec![(A, folder), (B, leaver)])
}

#[test]
fn what_left_a_deleted_folder_leaves_it_in_the_same_commit_and_before() {
    let plan = commit_of(&moved_out_of_a_deleted_folder(Seen::File(Some(file("bytes")))), &[A]);
    let nodes: Vec<NodeId> = plan.commit.operations.iter().map(Operation::node).collect();
    assert_eq!(nodes, [B, A]);
}

#[test]
fn a_folder_is_not_deleted_before_what_left_it_can_leave() {
    // Not read since it moved, so nobody can say yet what it holds.
    let plan = commit_of(&moved_out_of_a_deleted_folder(Seen::File(None)), &[A]);
    assert_eq!(plan.commit.operations, []);
    assert_eq!(plan.waiting, [(A, B)]);
}

fn batch_of(trees: &mut Trees) -> Vec<PlannedStep> {
    with_context(|context| {
        let mut drawn = 0x80;
        let mut random = || {
            drawn += 1;
            [drawn; 16]
        };
        let mut queues = Queues::default();
        queues.sort(trees, context, &mut random);
        let fetched = |_: NodeId, _: &FileContent| Some(TempName("temp".to_owned()));
        BatchBuilder::new(trees, context, NAMING, &mut random, &fetched).build(&mut queues).0
    })
}

fn moved_there(row: NodeRow, place: Place) -> NodeRow {
    let content = row.synced.as_ref().expect("in sync").content.clone();
    NodeRow { remote: remote(place, content), ..row }
}

#[test]
fn nothing_is_done_below_a_folder_in_the_batch_that_moves_it() {
    let folder = moved_there(agreed_folder(&at_root("d"), 10), at_root("e"));
    let place = in_folder(A, "f");
    let edited =
        NodeRow { remote: remote(place.clone(), Content::File(file("newer"))), ..agreed_file(&place, "bytes", 11) };
    let steps = batch_of(&mut trees(vec![(A, folder), (B, edited)]));
    assert_eq!(
        steps.iter().map(|planned| planned.step.node()).collect::<Vec<_>>(),
        [A],
        "should it fail, `e/f` is not B"
    );
}

#[test]
fn three_files_that_change_places_do_so_in_one_batch_by_way_of_the_parking_place() {
    let rows = [(A, "a", "b", 11), (B, "b", "c", 12), (C, "c", "a", 13)];
    let rows =
        rows.map(|(node, from, to, inode)| (node, moved_there(agreed_file(&at_root(from), from, inode), at_root(to))));
    let steps = batch_of(&mut trees(rows.into()));
    let mut disk: BTreeMap<String, NodeId> =
        [("a", A), ("b", B), ("c", C)].map(|(name, node)| (name.to_owned(), node)).into();
    for planned in &steps {
        let LocalStep::Move { node, from, to, .. } = &planned.step else { panic!("only moves: {planned:?}") };
        assert_eq!(disk.remove(&from.to_string()), Some(*node), "{steps:?}");
        assert_eq!(disk.insert(to.to_string(), *node), None, "{steps:?}");
    }
    assert!(disk.keys().any(|at| path(at).components().next() == Some(b".syncline")), "one is parked: {disk:?}");
}

#[test]
fn what_a_restored_server_does_not_have_is_new_and_not_deleted() {
    let mut trees = trees(vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    trees.forget_server();
    let verdict = with_context(|context| decide(&trees, context, A));
    assert!(matches!(verdict, Verdict::Push(_)), "{verdict:?}");
}

#[test]
fn the_same_edit_on_both_sides_is_agreed_on_silently() {
    let row = agreed_file(&at_root("a"), "bytes", 11);
    let row = NodeRow { synced: synced(at_root("a"), Content::File(file("older"))), ..row };
    assert!(matches!(verdict(row), Verdict::Edit(Edit::SetSynced(_))));
}

/// The user moved `a/b` into `d`, and then `a` into what had been `a/b`; others deleted `d` meanwhile. The
/// first move cannot be, and without it the second would be a cycle, which the server refused for ever.
#[test]
fn a_move_that_is_legal_only_by_way_of_a_move_that_cannot_be_goes_back_too() {
    let d = NodeRow { remote: None, ..agreed_folder(&at_root("d"), 13) };
    let moved = |place: Place, to: Place, inode| NodeRow {
        local: local(to, Seen::Directory, print(inode, 0)),
        ..agreed_folder(&place, inode)
    };
    let rows = vec![
        (A, moved(at_root("a"), in_folder(B, "a"), 11)),
        (B, moved(in_folder(A, "b"), in_folder(C, "b"), 12)),
        (C, d),
    ];
    let verdict = with_context(|context| decide(&trees(rows), context, A));
    assert_eq!(verdict, Verdict::Pull(Pull::Move(at_root("a"))));
}
