//! Revisions, history and restore.

use super::*;
use api::{
    ErrorCode, HistoryAction, HistoryRequest, RestoreReply, RestoreRequest, Revision, RevisionsRequest, Version,
};
use model::ContentHash;

fn setup() -> (Bench, Person, NamespaceId, NodeId) {
    let bench = Bench::new();
    let person = bench.user("a@x");
    let root = person.root;
    for block in 1..=9 {
        bench.upload(&person, block);
    }
    (bench, person, root, root.root())
}

/// The versions at a path, newest first: the block's number, or `-` for an end.
fn versions(bench: &Bench, me: &Person, path: &[&str]) -> Vec<String> {
    let revisions = revisions(bench, me, path, None, 100);
    let contents: BTreeMap<ContentHash, u8> =
        (0..=9).map(|n| (Blocklist(vec![BlockHash([n; 32])]).content_hash(), n)).collect();
    let show = |version: Version| match version {
        Version::File { content, .. } => contents[&content].to_string(),
        Version::Deleted => "-".to_owned(),
        Version::Directory => "dir".to_owned(),
        Version::Mount | Version::Symlink => panic!("nobody made one"),
    };
    let all: Vec<String> = revisions.iter().map(|revision| show(revision.version)).collect();
    // However many are asked for at a time, they are the same.
    for limit in [1, 2, 3] {
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let page = self::revisions(bench, me, path, before, limit);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= limit as usize);
            before = Some(last.position);
            paged.extend(page);
        }
        assert_eq!(paged, revisions, "{limit} at a time");
    }
    all
}

fn revisions(bench: &Bench, me: &Person, path: &[&str], before: Option<Position>, limit: u32) -> Vec<Revision> {
    let path = path.iter().map(|n| name(n)).collect();
    let request = RevisionsRequest { namespace: me.root, path, before, limit };
    let revisions = bench.service.revisions(me.who, &request).expect("answers").revisions;
    assert!(revisions.is_sorted_by(|a, b| a.position > b.position), "the newest first");
    revisions
}

fn restore(bench: &Bench, me: &Person, node: NodeId, position: Option<u64>) -> Result<RestoreReply, ErrorCode> {
    let request = RestoreRequest { namespace: me.root, node, position: position.map(Position) };
    bench.service.restore(me.who, &request).map_err(|error| error.code)
}

fn path_of(reply: &RestoreReply) -> String {
    reply.path.iter().map(Name::as_str).collect::<Vec<_>>().join("/")
}

#[test]
fn all_versions_of_a_file_are_listed_with_who_and_when() {
    let (bench, me, ns, top) = setup();
    let f = bench.write(&me, ns, top, "f", 1);
    bench.clock.fetch_add(5, Ordering::Relaxed);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 2)]);
    bench.accept(&me, ns, vec![bench.delete(ns, f)]);
    assert_eq!(versions(&bench, &me, &["F"]), ["-", "2", "1"], "however it is spelled");
    let newest = revisions(&bench, &me, &["f"], None, 2);
    assert_eq!(newest.len(), 2);
    assert_eq!((newest[1].node, newest[1].position), (f, Position(2)));
    assert_eq!((newest[1].device_name.as_deref(), newest[1].time), (Some("laptop"), Timestamp(1_000_005)));
    assert_eq!(versions(&bench, &me, &["nothing"]), [""; 0]);
}

#[test]
fn a_path_that_is_deeper_than_any_is_refused() {
    let (bench, me, ns, _) = setup();
    let ask = |depth: usize| {
        let request = RevisionsRequest { namespace: ns, path: vec![name("a"); depth], before: None, limit: 9 };
        bench.service.revisions(me.who, &request).map(|reply| reply.revisions).map_err(|error| error.code)
    };
    assert_eq!(ask(model::limits::TREE_DEPTH + 1), Ok(vec![]));
    assert_eq!(ask(model::limits::TREE_DEPTH + 2), Err(ErrorCode::BadRequest));
}

#[test]
fn a_path_remembers_all_nodes_that_were_there() {
    let (bench, me, ns, top) = setup();
    let old = bench.write(&me, ns, top, "f", 1);
    bench.accept(&me, ns, vec![bench.moved(ns, old, top, "old")]);
    bench.accept(&me, ns, vec![bench.edit(ns, old, 9)]);
    let temporary = bench.write(&me, ns, top, "tmp", 2);
    bench.accept(&me, ns, vec![bench.edit(ns, temporary, 3)]);
    bench.accept(&me, ns, vec![bench.moved(ns, temporary, top, "f")]);
    assert_eq!(versions(&bench, &me, &["f"]), ["3", "2", "1"], "what came brings its past, what left takes its future");
    assert_eq!(versions(&bench, &me, &["old"]), ["9", "1"]);
}

/// Their lists are read some at a time: the newest could be missing, and those behind the first few could not be reached.
#[test]
fn all_versions_of_very_large_files_are_listed_the_newest_first() {
    const BLOCKS: usize = 40_000;
    let (bench, me, ns, top) = setup();
    let large = |block: u8| Body::File {
        blocks: Blocklist(vec![BlockHash([block; 32]); BLOCKS]),
        size: BLOCKS as u64 * model::BLOCK_SIZE,
        executable: false,
        mtime: Mtime(0),
    };
    let mut ids = [bench.new_node(), bench.new_node()];
    ids.sort_by(|a, b| b.cmp(a));
    let [newer, older] = ids;
    bench.accept(&me, ns, vec![create(older, top, "f", large(1))]);
    for block in 2..=4 {
        let base_content = bench.record(ns, older).expect("exists").content_rev;
        bench.accept(&me, ns, vec![Operation::Edit { node: older, base_content, body: large(block) }]);
    }
    bench.accept(&me, ns, vec![bench.delete(ns, older)]);
    bench.accept(&me, ns, vec![create(newer, top, "f", file(9))]);
    let positions = |before, limit| {
        let found = revisions(&bench, &me, &["f"], before, limit);
        found.iter().map(|revision| revision.position.0).collect::<Vec<_>>()
    };
    assert_eq!(positions(None, 100), [6, 5, 4, 3, 2, 1]);
    assert_eq!(positions(None, 1), [6]);
    assert_eq!(positions(Some(Position(5)), 2), [4, 3]);
    assert_eq!(positions(Some(Position(1)), 9), [0; 0]);
    let newest = revisions(&bench, &me, &["f"], Some(Position(5)), 1).pop().expect("a version");
    let content = Blocklist(vec![BlockHash([4; 32]); BLOCKS]).content_hash();
    assert_eq!(newest.version, Version::File { size: BLOCKS as u64 * model::BLOCK_SIZE, content });
}

#[test]
fn a_path_leads_through_folders_that_are_gone_or_were_renamed() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let f = bench.write(&me, ns, d, "f", 1);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 2)]);
    bench.accept(&me, ns, vec![bench.moved(ns, d, top, "e")]);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 3)]);
    bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    assert_eq!(versions(&bench, &me, &["d", "f"]), ["2", "1"]);
    assert_eq!(versions(&bench, &me, &["e", "f"]), ["-", "3", "2", "1"], "it died with the folder");
    assert_eq!(versions(&bench, &me, &["e"]), ["-", "dir"]);
    let new = bench.mkdir(&me, ns, top, "e");
    bench.write(&me, ns, new, "f", 4);
    assert_eq!(versions(&bench, &me, &["e", "f"]), ["4", "-", "3", "2", "1"]);
}

#[test]
fn the_history_tells_what_happened_where_and_by_whom() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let f = bench.write(&me, ns, d, "f", 1);
    bench.accept(&me, ns, vec![bench.moved(ns, d, top, "e"), bench.edit(ns, f, 2)]);
    bench.accept(&me, ns, vec![bench.delete(ns, f)]);
    let guest = bench.user("b@x");
    bench.share(&me, d, &guest, Role::Viewer);
    let ask = |person: &Person, ns, before: Option<u64>, limit| {
        let request = HistoryRequest { namespace: ns, before: before.map(Position), limit };
        bench.service.history(person.who, &request).map(|reply| reply.entries).map_err(|error| error.code)
    };
    let told: Vec<_> = ask(&me, ns, None, 100)
        .expect("answers")
        .into_iter()
        .map(|entry| {
            assert_eq!(entry.account_email.as_deref(), Some("a@x"));
            let path = entry.path.iter().map(Name::as_str).collect::<Vec<_>>().join("/");
            (entry.position.0, entry.action, path)
        })
        .collect();
    use HistoryAction::{Created, Deleted, Edited, Moved, Shared};
    let expected = [
        (6, Shared, "e"),
        (5, Deleted, "e/f"),
        (4, Edited, "e/f"),
        (3, Moved, "e"),
        (2, Created, "d/f"),
        (1, Created, "d"),
    ];
    assert_eq!(told, expected.map(|(position, action, path)| (position, action, path.to_owned())));
    let page = ask(&me, ns, Some(4), 2).expect("answers");
    assert_eq!(page.iter().map(|entry| entry.position.0).collect::<Vec<_>>(), [3, 2]);
    let mounted = ask(&guest, guest.root, None, 9).expect("answers");
    assert_eq!((mounted[0].device_name.clone(), mounted[0].account_email.clone()), (None, None), "the server itself");
    assert_eq!(ask(&guest, ns, None, 9).map(drop), Err(ErrorCode::Forbidden));
}

#[test]
fn a_living_file_gets_an_old_version_as_its_newest() {
    let (bench, me, ns, top) = setup();
    let f = bench.write(&me, ns, top, "f", 1);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 2)]);
    bench.accept(&me, ns, vec![bench.moved(ns, f, top, "g")]);
    let reply = restore(&bench, &me, f, Some(1)).expect("restored");
    assert_eq!((reply.head, reply.nodes, path_of(&reply).as_str()), (Position(4), 1, "g"));
    assert_eq!(bench.tree(ns), ["g=1"]);
    assert_eq!(restore(&bench, &me, f, Some(4)).map(|reply| reply.nodes), Ok(0), "it is so already");
    assert_eq!(restore(&bench, &me, f, None), Err(ErrorCode::BadRequest));
    assert_eq!(restore(&bench, &me, f, Some(0)), Err(ErrorCode::NotFound));
    assert_eq!(restore(&bench, &me, bench.new_node(), None), Err(ErrorCode::NotFound));
    bench.check(ns);
}

#[test]
fn a_deleted_file_comes_back_under_its_name_or_beside_what_has_it_now() {
    let (bench, me, ns, top) = setup();
    let f = bench.write(&me, ns, top, "f.txt", 1);
    bench.accept(&me, ns, vec![bench.edit(ns, f, 2)]);
    bench.accept(&me, ns, vec![bench.delete(ns, f)]);
    let first = restore(&bench, &me, f, None).expect("restored");
    assert_eq!((path_of(&first).as_str(), first.nodes), ("f.txt", 1));
    let second = restore(&bench, &me, f, Some(1)).expect("restored");
    assert_eq!(path_of(&second), "f (restored).txt");
    restore(&bench, &me, f, None).expect("restored");
    assert_eq!(bench.tree(ns), ["f (restored 2).txt=2", "f (restored).txt=1", "f.txt=2"]);
    assert!(!bench.live(ns).contains_key(&f), "the dead stay dead");
    bench.check(ns);
}

#[test]
fn folders_that_are_gone_are_made_again_and_those_that_live_are_used() {
    let (bench, me, ns, top) = setup();
    let a = bench.mkdir(&me, ns, top, "a");
    let b = bench.mkdir(&me, ns, a, "b");
    let f = bench.write(&me, ns, b, "f", 1);
    bench.write(&me, ns, b, "other", 2);
    bench.accept(&me, ns, vec![bench.delete(ns, a)]);
    let reply = restore(&bench, &me, f, None).expect("restored");
    assert_eq!((path_of(&reply).as_str(), reply.nodes), ("a/b/f", 3));
    assert_eq!(bench.tree(ns), ["a/", "a/b/", "a/b/f=1"], "only what was asked for");
    let reply = restore(&bench, &me, f, None).expect("restored");
    assert_eq!((path_of(&reply).as_str(), reply.nodes), ("a/b/f (restored)", 1));
    bench.check(ns);
}

#[test]
fn a_file_in_the_way_of_a_folder_is_left_alone() {
    let (bench, me, ns, top) = setup();
    let a = bench.mkdir(&me, ns, top, "a");
    let f = bench.write(&me, ns, a, "f", 1);
    bench.accept(&me, ns, vec![bench.delete(ns, a)]);
    bench.write(&me, ns, top, "A", 2);
    let reply = restore(&bench, &me, f, None).expect("restored");
    assert_eq!(path_of(&reply), "a (restored)/f");
    assert_eq!(bench.tree(ns), ["A=2", "a (restored)/", "a (restored)/f=1"]);
    bench.check(ns);
}

#[test]
fn a_deleted_folder_comes_back_with_all_it_held_at_its_end() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let sub = bench.mkdir(&me, ns, d, "sub");
    let early = bench.write(&me, ns, sub, "early", 1);
    bench.write(&me, ns, sub, "f", 2);
    let with = bench.write(&me, ns, d, "with", 3);
    let out = bench.write(&me, ns, d, "out", 4);
    bench.accept(&me, ns, vec![bench.delete(ns, early)]);
    bench.accept(&me, ns, vec![bench.moved(ns, out, top, "out"), bench.delete(ns, with), bench.delete(ns, d)]);
    bench.mkdir(&me, ns, top, "D");
    let reply = restore(&bench, &me, d, None).expect("restored");
    assert_eq!((path_of(&reply).as_str(), reply.nodes), ("d (restored)", 4));
    assert_eq!(
        bench.tree(ns),
        ["D/", "d (restored)/", "d (restored)/sub/", "d (restored)/sub/f=2", "d (restored)/with=3", "out=4",]
    );
    bench.check(ns);
}

#[test]
fn a_folder_inside_a_deleted_folder_can_be_restored_alone() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    let sub = bench.mkdir(&me, ns, d, "sub");
    bench.write(&me, ns, sub, "f", 1);
    bench.write(&me, ns, d, "g", 2);
    bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    restore(&bench, &me, sub, None).expect("restored");
    assert_eq!(bench.tree(ns), ["d/", "d/sub/", "d/sub/f=1"]);
    bench.check(ns);
}

#[test]
fn a_large_folder_comes_back_in_one_transaction() {
    let (bench, me, ns, top) = setup();
    let d = bench.mkdir(&me, ns, top, "d");
    for group in 0..3 {
        let operations = (0..900).map(|n| create(bench.new_node(), d, &format!("{group}-{n}"), empty_file()));
        bench.accept(&me, ns, operations.collect());
    }
    bench.accept(&me, ns, vec![bench.delete(ns, d)]);
    let head = bench.head(ns);
    let reply = restore(&bench, &me, d, None).expect("restored");
    assert_eq!((reply.nodes, reply.head.0), (2701, head.0 + 2701));
    bench.check(ns);
}

#[test]
fn viewers_and_strangers_restore_nothing() {
    let (bench, me, ns, top) = setup();
    let guest = bench.user("b@x");
    let d = bench.mkdir(&me, ns, top, "d");
    let share = bench.share(&me, d, &guest, Role::Viewer);
    let f = bench.write(&me, share, d, "f", 1);
    bench.accept(&me, share, vec![bench.delete(share, f)]);
    let request = RestoreRequest { namespace: share, node: f, position: None };
    let try_as = |who| bench.service.restore(who, &request).map(drop).map_err(|error| error.code);
    assert_eq!(try_as(guest.who), Err(ErrorCode::Forbidden));
    assert_eq!(try_as(bench.user("c@x").who), Err(ErrorCode::Forbidden));
    assert_eq!(try_as(me.who), Ok(()));
    assert_eq!(bench.tree(share), ["f=1"]);
    bench.check(share);
}

/// Its members are not to see it, and its owner is not to lose it.
#[test]
fn what_was_deleted_before_its_folder_was_shared_comes_back_beside_it() {
    let (bench, me, ns, top) = setup();
    let guest = bench.user("b@x");
    let d = bench.mkdir(&me, ns, top, "d");
    let e = bench.mkdir(&me, ns, d, "e");
    let f = bench.write(&me, ns, e, "f", 1);
    bench.write(&me, ns, d, "kept", 2);
    let g = bench.write(&me, ns, d, "g", 3);
    bench.accept(&me, ns, vec![bench.delete(ns, f), bench.delete(ns, g)]);
    let share = bench.share(&me, d, &guest, Role::Editor);
    assert_eq!(versions(&bench, &me, &["d", "e", "f"]), ["-", "1"]);
    assert_eq!(path_of(&restore(&bench, &me, f, None).expect("restored")), "d (restored)/e/f");
    assert_eq!(bench.tree(ns), ["d (restored)/", "d (restored)/e/", "d (restored)/e/f=1", "d@"]);
    assert_eq!(path_of(&restore(&bench, &me, g, None).expect("restored")), "d (restored)/g", "beside the first one");
    assert_eq!(bench.tree(share), ["e/", "kept=2"]);
    assert_eq!(restore(&bench, &me, d, Some(1)), Err(ErrorCode::BadRequest));
    for namespace in [ns, share, guest.root] {
        bench.check(namespace);
    }
}
