//! Commits: what is legal, what is refused and why, and that a commit happens once.

use super::*;
use crate::CleanedUp;
use api::{ErrorCode, SentCommit, SentOperation};
use model::limits;

fn setup() -> (Bench, Person, NamespaceId, NodeId) {
    let bench = Bench::new();
    let person = bench.user("a@x");
    let root = person.root;
    (bench, person, root, root.root())
}

#[test]
fn a_commit_appears_whole_with_dense_positions_and_is_announced() {
    let (bench, me, ns, top) = setup();
    bench.upload(&me, 1);
    let (dir, inner) = (bench.new_node(), bench.new_node());
    let head = bench.accept(&me, ns, vec![create(dir, top, "d", Body::Directory), create(inner, dir, "f", file(1))]);
    assert_eq!(head, Position(2));
    assert_eq!(bench.tree(ns), ["d/", "d/f=1"]);
    assert_eq!(*bench.heard.reached.lock().expect("no panic"), [(ns, Position(2))]);
    assert_eq!(*bench.heard.reached_by.lock().expect("no panic"), [(Position(2), me.who.device)]);
    bench.check(ns);
}

#[test]
fn edit_and_move_of_one_node_go_together_in_either_order() {
    let (bench, me, ns, top) = setup();
    let (a, b) = (bench.write(&me, ns, top, "a", 1), bench.write(&me, ns, top, "b", 2));
    bench.accept(
        &me,
        ns,
        vec![bench.edit(ns, a, 2), bench.moved(ns, a, top, "x"), bench.moved(ns, b, top, "y"), bench.edit(ns, b, 1)],
    );
    assert_eq!(bench.tree(ns), ["x=2", "y=1"]);
    bench.check(ns);
}

#[test]
fn two_names_can_be_swapped() {
    let (bench, me, ns, top) = setup();
    let (a, b) = (bench.write(&me, ns, top, "a", 1), bench.write(&me, ns, top, "b", 2));
    bench.accept(&me, ns, vec![bench.moved(ns, a, top, "b"), bench.moved(ns, b, top, "a")]);
    assert_eq!(bench.tree(ns), ["a=2", "b=1"]);
    bench.check(ns);
}

#[test]
fn three_names_can_rotate() {
    let (bench, me, ns, top) = setup();
    let nodes: Vec<NodeId> = (1..=3).map(|n| bench.write(&me, ns, top, ["a", "b", "c"][n - 1], n as u8)).collect();
    let rotate = |(node, text): (&NodeId, &str)| bench.moved(ns, *node, top, text);
    bench.accept(&me, ns, nodes.iter().zip(["b", "c", "a"]).map(rotate).collect());
    assert_eq!(bench.tree(ns), ["a=3", "b=1", "c=2"]);
    bench.check(ns);
}

#[test]
fn a_hierarchy_can_be_inverted_in_either_order() {
    for outer_first in [true, false] {
        let (bench, me, ns, top) = setup();
        let a = bench.mkdir(&me, ns, top, "a");
        let b = bench.mkdir(&me, ns, a, "b");
        bench.write(&me, ns, b, "f", 1);
        let mut moves = vec![bench.moved(ns, a, b, "a"), bench.moved(ns, b, top, "b")];
        if !outer_first {
            moves.reverse();
        }
        bench.accept(&me, ns, moves);
        assert_eq!(bench.tree(ns), ["b/", "b/a/", "b/f=1"]);
        bench.check(ns);
    }
}

#[test]
fn a_file_and_a_folder_can_take_each_others_place() {
    let (bench, me, ns, top) = setup();
    let f = bench.write(&me, ns, top, "x", 1);
    let (d, kept) = (bench.new_node(), bench.new_node());
    bench.accept(
        &me,
        ns,
        vec![bench.delete(ns, f), create(d, top, "X", Body::Directory), create(kept, d, "f", file(1))],
    );
    assert_eq!(bench.tree(ns), ["X/", "X/f=1"]);
    let g = bench.new_node();
    bench.accept(&me, ns, vec![create(g, top, "x", file(1)), bench.moved(ns, kept, top, "kept"), bench.delete(ns, d)]);
    assert_eq!(bench.tree(ns), ["kept=1", "x=1"]);
    bench.check(ns);
}

#[test]
fn a_change_of_case_keeps_the_node() {
    let (bench, me, ns, top) = setup();
    let a = bench.write(&me, ns, top, "readme", 1);
    bench.accept(&me, ns, vec![bench.moved(ns, a, top, "README")]);
    assert_eq!(bench.tree(ns), ["README=1"]);
    assert_eq!(bench.record(ns, a).map(|r| r.content_rev), Some(Position(1)));
}

#[test]
fn p5_an_operation_with_an_old_base_is_stale() {
    let (bench, me, ns, top) = setup();
    let a = bench.write(&me, ns, top, "a", 1);
    let old = [bench.edit(ns, a, 1), bench.moved(ns, a, top, "b"), bench.delete(ns, a)];
    bench.accept(&me, ns, vec![bench.edit(ns, a, 1), bench.moved(ns, a, top, "c")]);
    for operation in old {
        assert_eq!(bench.refuse(&me, ns, vec![operation]), [(0, Reason::Stale)]);
    }
    let gone = [bench.edit(ns, a, 1), bench.moved(ns, a, top, "b"), bench.delete(ns, a)];
    bench.accept(&me, ns, vec![bench.delete(ns, a)]);
    for operation in gone {
        assert_eq!(bench.refuse(&me, ns, vec![operation]), [(0, Reason::Stale)], "the dead are stale");
    }
    let (node, base) = (bench.new_node(), Position(1));
    let unknown = Operation::Delete { node, base_content: base, base_location: base };
    assert_eq!(bench.refuse(&me, ns, vec![unknown]), [(0, Reason::Stale)]);
    bench.check(ns);
}

#[test]
fn a_content_change_does_not_make_a_move_stale_nor_the_reverse() {
    let (bench, me, ns, top) = setup();
    let a = bench.write(&me, ns, top, "a", 1);
    let (edit, moved) = (bench.edit(ns, a, 1), bench.moved(ns, a, top, "b"));
    bench.accept(&me, ns, vec![moved]);
    bench.accept(&me, ns, vec![edit]);
    assert_eq!(bench.tree(ns), ["b=1"]);
}

#[test]
fn p6_a_parent_must_be_a_living_folder() {
    let (bench, me, ns, top) = setup();
    let (d, f) = (bench.mkdir(&me, ns, top, "d"), bench.write(&me, ns, top, "f", 1));
    let new = |parent| create(bench.new_node(), parent, "n", empty_file());
    assert_eq!(bench.refuse(&me, ns, vec![new(bench.new_node())]), [(0, Reason::ParentMissing)]);
    assert_eq!(bench.refuse(&me, ns, vec![new(f)]), [(0, Reason::NotADirectory)]);
    assert_eq!(
        bench.refuse(&me, ns, vec![bench.delete(ns, d), new(d)]),
        [(1, Reason::ParentMissing)],
        "the folder dies in the same batch"
    );
    let inner = bench.mkdir(&me, ns, d, "inner");
    assert_eq!(bench.refuse(&me, ns, vec![new(inner), bench.delete(ns, d)]), [(0, Reason::ParentMissing)]);
    bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    assert_eq!(bench.refuse(&me, ns, vec![new(d)]), [(0, Reason::ParentMissing)]);
    assert_eq!(bench.refuse(&me, ns, vec![bench.moved(ns, f, inner, "f")]), [(0, Reason::ParentMissing)]);
}

#[test]
fn p6_a_folder_cannot_end_up_inside_itself() {
    let (bench, me, ns, top) = setup();
    let a = bench.mkdir(&me, ns, top, "a");
    let b = bench.mkdir(&me, ns, a, "b");
    let c = bench.mkdir(&me, ns, top, "c");
    assert_eq!(bench.refuse(&me, ns, vec![bench.moved(ns, a, a, "a")]), [(0, Reason::Cycle)]);
    assert_eq!(bench.refuse(&me, ns, vec![bench.moved(ns, a, b, "a")]), [(0, Reason::Cycle)]);
    let both = vec![bench.moved(ns, a, c, "a"), bench.moved(ns, c, b, "c")];
    assert_eq!(bench.refuse(&me, ns, both), [(0, Reason::Cycle), (1, Reason::Cycle)]);
    let (x, y) = (bench.new_node(), bench.new_node());
    let circular = vec![create(x, y, "x", Body::Directory), create(y, x, "y", Body::Directory)];
    assert_eq!(bench.refuse(&me, ns, circular), [(0, Reason::Cycle), (1, Reason::Cycle)]);
    bench.check(ns);
}

#[test]
fn p6_names_are_unique_however_they_are_spelled() {
    let (bench, me, ns, top) = setup();
    bench.write(&me, ns, top, "Straße", 1);
    let other = bench.write(&me, ns, top, "o", 1);
    for text in ["straße", "STRASSE"] {
        let create = create(bench.new_node(), top, text, empty_file());
        assert_eq!(bench.refuse(&me, ns, vec![create]), [(0, Reason::NameTaken)], "{text}");
        assert_eq!(bench.refuse(&me, ns, vec![bench.moved(ns, other, top, text)]), [(0, Reason::NameTaken)]);
    }
    let two = vec![
        create(bench.new_node(), top, "e\u{301}", empty_file()),
        create(bench.new_node(), top, "\u{c9}", empty_file()),
    ];
    assert_eq!(bench.refuse(&me, ns, two), [(1, Reason::NameTaken)], "within one batch");
}

#[test]
fn p6_trees_have_a_greatest_depth_and_paths_a_greatest_length() {
    let (bench, me, ns, top) = setup();
    let mut chain = vec![top];
    let mut operations = Vec::new();
    for _ in 0..limits::TREE_DEPTH {
        let node = bench.new_node();
        operations.push(create(node, chain[chain.len() - 1], "d", Body::Directory));
        chain.push(node);
    }
    bench.accept(&me, ns, operations);
    let deepest = chain[limits::TREE_DEPTH];
    let last = bench.mkdir(&me, ns, deepest, "d");
    let below = create(bench.new_node(), last, "f", empty_file());
    assert_eq!(bench.refuse(&me, ns, vec![below]), [(0, Reason::TooDeep)]);

    let tall = bench.mkdir(&me, ns, top, "tall");
    bench.mkdir(&me, ns, tall, "taller");
    assert_eq!(bench.refuse(&me, ns, vec![bench.moved(ns, tall, deepest, "t")]), [(0, Reason::TooDeep)]);
    let flat = bench.mkdir(&me, ns, top, "flat");
    bench.accept(&me, ns, vec![bench.moved(ns, flat, deepest, "flat")]);

    let long = "x".repeat(255);
    let mut parent = top;
    for _ in 0..16 {
        parent = bench.mkdir(&me, ns, parent, &long);
    }
    let over = create(bench.new_node(), parent, "y", empty_file());
    assert_eq!(bench.refuse(&me, ns, vec![over]), [(0, Reason::TooDeep)], "16 * 256 bytes and one more");
    bench.check(ns);
}

#[test]
fn p4_blocks_that_the_account_neither_reads_nor_uploaded_are_named() {
    let (bench, me, ns, top) = setup();
    let stranger = bench.user("stranger@x");
    bench.write(&stranger, stranger.root, stranger.root.root(), "secret", 7);
    let steal = vec![
        create(bench.new_node(), top, "a", file(7)),
        create(bench.new_node(), top, "b", empty_file()),
        create(bench.new_node(), top, "c", file(8)),
    ];
    let missing = |n| Reason::MissingBlocks(vec![BlockHash([n; 32])]);
    assert_eq!(bench.refuse(&me, ns, steal.clone()), [(0, missing(7)), (2, missing(8))], "others' blocks do not count");
    bench.upload(&me, 7);
    assert_eq!(bench.refuse(&me, ns, steal.clone()), [(2, missing(8))]);
    bench.upload(&me, 8);
    bench.accept(&me, ns, steal);
}

#[test]
fn an_upload_that_no_commit_followed_is_forgotten_after_a_day() {
    let (bench, me, ns, top) = setup();
    bench.upload(&me, 1);
    bench.upload(&me, 2);
    bench.accept(&me, ns, vec![create(bench.new_node(), top, "a", file(1))]);
    bench.clock.fetch_add(24 * 3_600_000 + 1, Ordering::Relaxed);
    bench.accept(&me, ns, vec![create(bench.new_node(), top, "b", file(1))]);
    let late = create(bench.new_node(), top, "c", file(2));
    assert!(matches!(bench.refuse(&me, ns, vec![late])[..], [(0, Reason::MissingBlocks(_))]));
    assert_eq!(bench.service.clean_up(), Ok(CleanedUp { rows: 2, more: false }));
    assert_eq!(bench.service.clean_up(), Ok(CleanedUp { rows: 0, more: false }));
}

/// What came in an hour was more than the clean-up of an hour removed, and the table grew for ever.
#[test]
fn a_clean_up_that_has_not_removed_all_says_so() {
    let (bench, me, _, _) = setup();
    let blocks: Vec<BlockHash> = (0..10_001_u32).map(|n| BlockHash::of(&n.to_le_bytes())).collect();
    bench.store.write(|tx| tx.add_uploaded_blocks(me.who.account, &blocks, Timestamp(1))).expect("writes");
    bench.clock.fetch_add(25 * 3_600_000, Ordering::Relaxed);
    assert_eq!(bench.service.clean_up(), Ok(CleanedUp { rows: 10_000, more: true }));
    assert_eq!(bench.service.clean_up(), Ok(CleanedUp { rows: 1, more: false }));
}

/// A large file over a slow line takes longer than that: whoever still wants its blocks asks about them.
#[test]
fn an_upload_that_is_asked_about_is_kept_for_another_day() {
    const HOUR: i64 = 3_600_000;
    let (bench, me, ns, top) = setup();
    let other = bench.user("b@x");
    bench.upload(&me, 1);
    bench.upload(&me, 2);
    let missing = |person: &Person| {
        let blocks = vec![BlockHash([1; 32]), BlockHash([3; 32])];
        bench.service.missing(person.who, &api::MissingRequest { blocks }).expect("answers").missing
    };
    for _ in 0..6 {
        bench.clock.fetch_add(10 * HOUR, Ordering::Relaxed);
        assert_eq!((missing(&me), missing(&other)), (vec![1], vec![0, 1]));
        bench.service.clean_up().expect("cleans up");
    }
    bench.clock.fetch_add(23 * HOUR, Ordering::Relaxed);
    bench.accept(&me, ns, vec![create(bench.new_node(), top, "a", file(1))]);
    let late = create(bench.new_node(), top, "b", file(2));
    assert!(matches!(bench.refuse(&me, ns, vec![late])[..], [(0, Reason::MissingBlocks(_))]), "nobody asked about it");

    bench.upload(&me, 3);
    bench.clock.fetch_add(24 * HOUR + 1, Ordering::Relaxed);
    assert_eq!(missing(&me), [1], "what has run out is not kept");
}

/// What the nodes are is read to change them.
#[test]
fn a_commit_changes_no_more_than_so_many_blocks() {
    const BLOCKS: usize = limits::COMMIT_BLOCKS / 3 + 1;
    let (bench, me, ns, top) = setup();
    bench.upload(&me, 1);
    let large = || Body::File {
        blocks: Blocklist(vec![BlockHash([1; 32]); BLOCKS]),
        size: BLOCKS as u64 * model::BLOCK_SIZE,
        executable: false,
        mtime: Mtime(0),
    };
    let nodes: Vec<NodeId> = (0..4).map(|_| bench.new_node()).collect();
    for (node, text) in nodes.iter().zip(["a", "b", "c", "d"]) {
        bench.accept(&me, ns, vec![create(*node, top, text, large())]);
    }
    let small = bench.write(&me, ns, top, "small", 1);
    let renamed = |node: &NodeId, text| bench.moved(ns, *node, top, text);
    let three = vec![renamed(&nodes[0], "e"), renamed(&nodes[1], "f"), renamed(&nodes[2], "g"), renamed(&small, "h")];
    assert_eq!(bench.refuse(&me, ns, three.clone()), [(2, Reason::Malformed), (3, Reason::Malformed)]);
    let deletions = nodes.iter().map(|node| bench.delete(ns, *node)).collect();
    assert_eq!(bench.refuse(&me, ns, deletions), [(2, Reason::Malformed), (3, Reason::Malformed)]);
    bench.accept(&me, ns, [&three[..2], &three[3..]].concat());
    bench.check(ns);
}

#[test]
fn malformed_operations_are_refused_one_by_one() {
    let (bench, me, ns, top) = setup();
    let (f, d) = (bench.write(&me, ns, top, "f", 1), bench.mkdir(&me, ns, top, "d"));
    let base = |node| bench.record(ns, node).expect("exists").content_rev;
    let malformed = |operations| {
        let reasons = bench.refuse(&me, ns, operations);
        reasons.last().map(|(_, reason)| reason.clone())
    };
    let n = bench.new_node();
    let size = Body::File { blocks: Blocklist::default(), size: 9, executable: false, mtime: Mtime(0) };
    let edit = |node, body| Operation::Edit { node, base_content: base(node), body };
    assert_eq!(malformed(vec![create(n, top, "m", Body::Mount)]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![create(n, top, "s", size)]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![create(n, top, "l", Body::Symlink { target: String::new() })]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![edit(d, Body::Mount)]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![edit(d, Body::Directory)]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![bench.edit(ns, f, 1), bench.edit(ns, f, 1)]), Some(Reason::Malformed));
    assert_eq!(malformed(vec![bench.moved(ns, f, top, "x"), bench.delete(ns, f)]), Some(Reason::Malformed));
    assert_eq!(
        malformed(vec![
            create(n, top, "n", empty_file()),
            Operation::Edit { node: n, base_content: Position(3), body: empty_file() }
        ]),
        Some(Reason::Malformed),
        "a creation stands alone"
    );
    assert_eq!(malformed(vec![edit(f, Body::Symlink { target: "x".into() })]), Some(Reason::KindChange));
    assert_eq!(malformed(vec![edit(d, empty_file())]), Some(Reason::KindChange));
    assert_eq!(bench.tree(ns), ["d/", "f=1"]);
}

#[test]
fn a_node_id_is_used_once() {
    let (bench, me, ns, top) = setup();
    let f = bench.write(&me, ns, top, "f", 1);
    let again = |node| vec![create(node, top, "again", empty_file())];
    assert_eq!(bench.refuse(&me, ns, again(f)), [(0, Reason::NodeExists)]);
    bench.accept(&me, ns, vec![bench.delete(ns, f)]);
    assert_eq!(bench.refuse(&me, ns, again(f)), [(0, Reason::NodeExists)], "not even after its death");
    assert_eq!(bench.refuse(&me, ns, again(top)), [(0, Reason::NodeExists)], "nor is a namespace's id");
    let stranger = bench.user("b@x");
    assert_eq!(bench.refuse(&me, ns, again(stranger.root.root())), [(0, Reason::NodeExists)]);
}

#[test]
fn a_folder_dies_with_all_below_it_in_one_entry() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let e = bench.mkdir(&me, ns, d, "e");
    bench.write(&me, ns, e, "f", 1);
    let before = bench.head(ns);
    let head = bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    assert_eq!(head, before.next());
    assert_eq!(bench.tree(ns), [""; 0]);
    assert_eq!(bench.record(ns, e).and_then(|r| r.deleted), Some(head));
    bench.check(ns);
}

#[test]
fn a_folder_is_not_deleted_over_a_change_that_was_not_seen() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let e = bench.mkdir(&me, ns, d, "e");
    let f = bench.write(&me, ns, e, "f", 1);
    let seen = bench.head(ns);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 1)]);
    let blind = bench.draft(ns, seen, vec![bench.delete(ns, d)]);
    let outcome = bench.service.commit(me.who, blind).expect("an outcome");
    assert_eq!(refusals(outcome), [(0, Reason::SubtreeChanged)]);

    let moved_out = bench.draft(ns, seen, vec![bench.moved(ns, f, top, "f"), bench.delete(ns, d)]);
    let outcome = bench.service.commit(me.who, moved_out).expect("an outcome");
    assert!(matches!(outcome, CommitOutcome::Accepted { .. }), "the changed file was dealt with");
    assert_eq!(bench.tree(ns), ["f=1"]);
    bench.check(ns);
}

#[test]
fn a_changed_descendant_that_is_itself_deleted_at_its_base_does_not_hold_the_folder() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let seen = bench.head(ns);
    let f = bench.write(&me, ns, d, "f", 1);
    for children_first in [true, false] {
        let mut operations = vec![bench.delete(ns, f), bench.delete(ns, d)];
        if !children_first {
            operations.reverse();
        }
        let stale = Operation::Delete { node: f, base_content: Position(99), base_location: Position(99) };
        let wrong = bench.draft(ns, seen, vec![stale, bench.delete(ns, d)]);
        assert_eq!(refusals(bench.service.commit(me.who, wrong).expect("an outcome")), [(0, Reason::Stale)]);
        if !children_first {
            let draft = bench.draft(ns, seen, operations);
            assert!(matches!(bench.service.commit(me.who, draft), Ok(CommitOutcome::Accepted { .. })));
        }
    }
    assert_eq!(bench.tree(ns), [""; 0]);
    bench.check(ns);
}

#[test]
fn what_leaves_a_deleted_folder_must_move_before_the_deletion() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let e = bench.mkdir(&me, ns, d, "e");
    let f = bench.write(&me, ns, e, "f", 1);
    let late = vec![bench.delete(ns, d), bench.moved(ns, f, top, "f")];
    assert_eq!(bench.refuse(&me, ns, late), [(1, Reason::Malformed)], "the journal would bury it first");
    let edited = vec![bench.edit(ns, f, 1), bench.delete(ns, d)];
    assert_eq!(bench.refuse(&me, ns, edited), [(0, Reason::ParentMissing)]);
    bench.accept(&me, ns, vec![bench.moved(ns, f, top, "f"), bench.edit(ns, f, 1), bench.delete(ns, d)]);
    assert_eq!(bench.tree(ns), ["f=1"]);
    bench.check(ns);
}

#[test]
fn ten_thousand_descendants_die_at_once() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    for group in 0..10 {
        let sub = bench.new_node();
        let mut operations = vec![create(sub, d, &format!("g{group}"), Body::Directory)];
        operations.extend((0..999).map(|n| create(bench.new_node(), sub, &format!("f{n}"), empty_file())));
        bench.accept(&me, ns, operations);
    }
    let started = std::time::Instant::now();
    bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    assert!(started.elapsed().as_secs() < 5, "took {:?}", started.elapsed());
    bench.check(ns);
}

#[test]
fn p2_a_key_is_answered_as_before_whether_accepted_or_refused() {
    let (bench, me, ns, top) = setup();
    let accepted = bench.draft(ns, bench.head(ns), vec![create(bench.new_node(), top, "a", empty_file())]);
    let first = bench.service.commit(me.who, accepted.clone()).expect("an outcome");
    let refused = bench.draft(ns, bench.head(ns), vec![create(bench.new_node(), top, "a", empty_file())]);
    let second = bench.service.commit(me.who, refused.clone()).expect("an outcome");
    assert!(matches!(second, CommitOutcome::Rejected(_)));
    bench.clock.fetch_add(60_000, Ordering::Relaxed);
    bench.accept(&me, ns, vec![bench.delete(ns, bench.live(ns).into_keys().next().expect("one"))]);
    let head = bench.head(ns);
    assert_eq!(bench.service.commit(me.who, accepted), Ok(first), "though the tree has moved on");
    assert_eq!(bench.service.commit(me.who, refused), Ok(second), "though the name is free now");
    assert_eq!(bench.head(ns), head, "nothing was written");
}

#[test]
fn p2_a_known_key_is_answered_even_after_the_epoch_or_the_membership_changed() {
    let (bench, me, _, _) = setup();
    let owner = bench.user("owner@x");
    let folder = bench.mkdir(&owner, owner.root, owner.root.root(), "s");
    let share = bench.share(&owner, folder, &me, Role::Editor);
    let draft = bench.draft(share, Position::START, vec![create(bench.new_node(), folder, "a", empty_file())]);
    let outcome = bench.service.commit(me.who, draft.clone()).expect("an outcome");
    bench.service.bump_epoch().expect("bumped");
    bench.service.leave(me.who, &api::LeaveRequest { namespace: share }).expect("left");
    assert_eq!(bench.service.commit(me.who, draft.clone()), Ok(outcome));
    let other_key = Commit { key: bench.key(), ..draft };
    assert_eq!(bench.service.commit(me.who, other_key).map_err(|e| e.code), Err(ErrorCode::EpochChanged));
}

#[test]
fn p2_a_key_belongs_to_its_device() {
    let (bench, me, ns, top) = setup();
    let phone = bench.device("a@x", "phone");
    let draft = bench.draft(ns, Position::START, vec![create(bench.new_node(), top, "a", empty_file())]);
    assert!(matches!(bench.service.commit(me.who, draft.clone()), Ok(CommitOutcome::Accepted { .. })));
    let outcome = bench.service.commit(phone.who, draft).expect("an outcome");
    assert_eq!(refusals(outcome), [(0, Reason::NodeExists)], "decided anew");
}

/// A file of these blocks.
fn long_file(blocks: &[u8]) -> Body {
    let list = Blocklist(blocks.iter().map(|block| BlockHash([*block; 32])).collect());
    let size = (blocks.len() as u64 - 1) * model::BLOCK_SIZE + 1;
    Body::File { blocks: list, size, executable: false, mtime: Mtime(0) }
}

/// The commit with its edits told by what they keep of these blocks.
fn amending(draft: Commit, before: &[u8]) -> SentCommit {
    let before = Blocklist(before.iter().map(|block| BlockHash([*block; 32])).collect());
    let sent = SentCommit::amending(draft, |_, _| Some(before.clone()), |_| true);
    assert!(sent.operations.iter().any(|operation| matches!(operation, SentOperation::Amend { .. })));
    sent
}

/// A file `a` of the blocks 1, 2 and 3; blocks up to 9 are there for edits.
fn with_long_file() -> (Bench, Person, NamespaceId, NodeId) {
    let (bench, me, ns, top) = setup();
    for block in 1..10 {
        bench.upload(&me, block);
    }
    let a = bench.new_node();
    bench.accept(&me, ns, vec![create(a, top, "a", long_file(&[1, 2, 3]))]);
    (bench, me, ns, a)
}

fn edited(bench: &Bench, ns: NamespaceId, node: NodeId, blocks: &[u8]) -> Operation {
    let base_content = bench.record(ns, node).expect("it exists").content_rev;
    Operation::Edit { node, base_content, body: long_file(blocks) }
}

#[test]
fn an_amended_edit_is_the_whole_one_to_everybody_else() {
    let (bench, me, ns, a) = with_long_file();
    let operations = vec![edited(&bench, ns, a, &[1, 9, 3, 4]), bench.moved(ns, a, ns.root(), "b")];
    let sent = amending(bench.draft(ns, bench.head(ns), operations), &[1, 2, 3]);
    let outcome = bench.service.commit(me.who, sent.clone()).expect("an outcome");
    assert!(matches!(outcome, CommitOutcome::Accepted { .. }));
    assert_eq!(bench.record(ns, a).expect("lives").body, long_file(&[1, 9, 3, 4]));
    assert_eq!(bench.journal(ns)[1].change, Change::Edit { body: long_file(&[1, 9, 3, 4]) });
    bench.check(ns);
    bench.accept(&me, ns, vec![edited(&bench, ns, a, &[5])]);
    assert_eq!(bench.service.commit(me.who, sent), Ok(outcome), "P2: though its base is gone");
    assert_eq!(bench.record(ns, a).expect("lives").body, long_file(&[5]));
}

#[test]
fn an_amended_edit_of_what_has_changed_since_is_stale() {
    let (bench, me, ns, a) = with_long_file();
    let late = |bench: &Bench| {
        let operations = vec![create(bench.new_node(), ns.root(), "b", empty_file()), edited(bench, ns, a, &[1, 9, 3])];
        amending(bench.draft(ns, bench.head(ns), operations), &[1, 2, 3])
    };
    let (changed, deleted) = (late(&bench), late(&bench));
    bench.accept(&me, ns, vec![edited(&bench, ns, a, &[1, 2, 4])]);
    assert_eq!(refusals(bench.service.commit(me.who, changed).expect("an outcome")), [(1, Reason::Stale)]);
    bench.accept(&me, ns, vec![bench.delete(ns, a)]);
    assert_eq!(refusals(bench.service.commit(me.who, deleted).expect("an outcome")), [(1, Reason::Stale)]);
    assert_eq!(bench.tree(ns), [""; 0]);
}

#[test]
fn an_amended_edit_that_leads_elsewhere_is_malformed_and_changes_nothing() {
    let (bench, me, ns, a) = with_long_file();
    let send = |blocks: &[u8], before: &[u8]| {
        let draft = bench.draft(ns, bench.head(ns), vec![edited(&bench, ns, a, blocks)]);
        refusals(bench.service.commit(me.who, amending(draft, before)).expect("an outcome"))
    };
    assert_eq!(send(&[1, 9, 4], &[1, 2, 4]), [(0, Reason::Malformed)], "made against other content");
    assert_eq!(send(&[1, 2, 3, 4], &[1, 2, 3, 4]), [(0, Reason::Malformed)], "keeps more than there is");
    assert_eq!(send(&[1, 2, 77], &[1, 2, 3]), [(0, Reason::MissingBlocks(vec![BlockHash([77; 32])]))]);
    let draft = bench.draft(ns, bench.head(ns), vec![edited(&bench, ns, a, &[1, 2])]);
    let mut sent = amending(draft, &[1, 2, 3]);
    let SentOperation::Amend { size, .. } = &mut sent.operations[0] else { panic!("is amended") };
    *size += model::BLOCK_SIZE;
    assert_eq!(refusals(bench.service.commit(me.who, sent).expect("an outcome")), [(0, Reason::Malformed)]);
    let folder = bench.mkdir(&me, ns, ns.root(), "d");
    let draft = bench.draft(ns, bench.head(ns), vec![edited(&bench, ns, folder, &[1])]);
    assert_eq!(
        refusals(bench.service.commit(me.who, amending(draft, &[1])).expect("an outcome")),
        [(0, Reason::KindChange)]
    );
    assert_eq!(bench.record(ns, a).expect("lives").body, long_file(&[1, 2, 3]));
}

#[test]
fn p3_another_epoch_or_a_future_that_never_was_stops_the_client() {
    let (bench, me, ns, top) = setup();
    let operation = create(bench.new_node(), top, "a", empty_file());
    let ahead = bench.draft(ns, Position(1), vec![operation.clone()]);
    assert_eq!(bench.service.commit(me.who, ahead).map_err(|e| e.code), Err(ErrorCode::EpochChanged));
    let draft = bench.draft(ns, Position(0), vec![operation]);
    bench.service.bump_epoch().expect("bumped");
    assert_eq!(bench.service.commit(me.who, draft.clone()).map_err(|e| e.code), Err(ErrorCode::EpochChanged));
    let renewed = Commit { epoch: bench.server().epoch, ..draft };
    assert!(
        matches!(bench.service.commit(me.who, renewed), Ok(CommitOutcome::Accepted { .. })),
        "an error is not kept"
    );
}

#[test]
fn p1_strangers_unlinked_devices_and_borrowed_identities_are_refused() {
    let (bench, me, ns, top) = setup();
    let stranger = bench.user("b@x");
    let draft = || bench.draft(ns, Position(0), vec![create(bench.new_node(), top, "a", empty_file())]);
    let code = |who, draft| bench.service.commit(who, draft).map_err(|error| error.code);
    assert_eq!(code(stranger.who, draft()), Err(ErrorCode::Forbidden));
    let nowhere = Commit { namespace: NamespaceId([1; 16]), ..draft() };
    assert_eq!(code(me.who, nowhere), Err(ErrorCode::Forbidden), "alike for what does not exist");
    let borrowed = Identity { account: me.who.account, device: stranger.who.device };
    assert_eq!(code(borrowed, draft()), Err(ErrorCode::Unlinked));
    bench.service.unlink(me.who, &api::UnlinkRequest { device: None }).expect("unlinked");
    assert_eq!(code(me.who, draft()), Err(ErrorCode::Unlinked));
    assert_eq!(bench.head(ns), Position(0));
}

#[test]
fn a_commit_beyond_the_limits_is_a_bad_request() {
    let (bench, me, ns, top) = setup();
    let many = (0..=limits::COMMIT_OPERATIONS).map(|n| create(bench.new_node(), top, &n.to_string(), empty_file()));
    let draft = bench.draft(ns, Position(0), many.collect());
    assert_eq!(bench.service.commit(me.who, draft).map_err(|e| e.code), Err(ErrorCode::BadRequest));
    assert_eq!(bench.accept(&me, ns, vec![]), Position(0), "an empty commit changes nothing");
}

#[test]
fn one_bad_operation_refuses_the_batch_and_nothing_is_written() {
    let (bench, me, ns, top) = setup();
    let a = bench.write(&me, ns, top, "a", 1);
    let operations = vec![
        create(bench.new_node(), top, "b", empty_file()),
        Operation::Edit { node: a, base_content: Position(77), body: file(1) },
        create(bench.new_node(), top, "A", empty_file()),
    ];
    assert_eq!(bench.refuse(&me, ns, operations), [(1, Reason::Stale), (2, Reason::NameTaken)]);
    assert_eq!((bench.tree(ns), bench.head(ns)), (vec!["a=1".to_owned()], Position(1)));
}

#[test]
fn of_blocks_that_came_with_their_commit_only_those_that_it_does_not_name_are_noted_as_uploads() {
    let (bench, me, ns, top) = setup();
    let stored = [5, 6].map(|n| StoredBlock { hash: BlockHash([n; 32]), len: 1 });
    let draft = bench.draft(ns, Position(0), vec![create(bench.new_node(), top, "a", file(5))]);
    let outcome = bench.service.stored(me.who, &stored, Some(&draft.into())).expect("an outcome").expect("of a commit");
    assert!(matches!(outcome, CommitOutcome::Accepted { .. }), "{outcome:?}");
    let asked = [5, 6, 7].map(|n| BlockHash([n; 32]));
    let noted = bench.store.snapshot(|r| r.uploaded_blocks(me.who.account, &asked, Timestamp(0))).expect("reads");
    assert_eq!(noted, [false, true, false]);
    let named = bench.store.snapshot(|r| r.names_blocks(ns, &asked)).expect("reads");
    assert_eq!(named, [true, false, false]);
    let files = [("b", 5), ("c", 6)].map(|(text, block)| create(bench.new_node(), top, text, file(block)));
    bench.accept(&me, ns, files.to_vec());
    bench.check(ns);
}

#[test]
fn a_commit_that_came_with_some_of_its_blocks_is_told_which_it_lacks() {
    let (bench, me, ns, top) = setup();
    let stored = [StoredBlock { hash: BlockHash([5; 32]), len: 1 }];
    let files = [("a", 5), ("b", 6)].map(|(text, block)| create(bench.new_node(), top, text, file(block)));
    let draft = bench.draft(ns, Position(0), files.to_vec());
    let outcome = bench.service.stored(me.who, &stored, Some(&draft.into())).expect("an outcome").expect("of a commit");
    assert_eq!(refusals(outcome), [(1, Reason::MissingBlocks(vec![BlockHash([6; 32])]))]);
    bench.upload(&me, 6);
    bench.accept(&me, ns, files.to_vec());
}

#[test]
fn blocks_that_were_stored_count_even_if_their_commit_is_refused() {
    let (bench, me, ns, top) = setup();
    let stored = [StoredBlock { hash: BlockHash([5; 32]), len: 1 }];
    let bad = bench.draft(ns, Position(0), vec![create(bench.new_node(), bench.new_node(), "a", file(5))]);
    let outcome = bench.service.stored(me.who, &stored, Some(&bad.into())).expect("an outcome").expect("of a commit");
    assert_eq!(refusals(outcome), [(0, Reason::ParentMissing)]);
    bench.accept(&me, ns, vec![create(bench.new_node(), top, "a", file(5))]);
}
