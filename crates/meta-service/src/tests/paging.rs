//! `changes` and `missing`.

use super::*;
use api::{ChangesReply, ChangesRequest, ErrorCode, MissingRequest};
use model::{Cursor, limits};

fn ask(bench: &Bench, person: &Person, cursor: Cursor) -> Result<ChangesReply, ErrorCode> {
    let server = bench.server();
    let request = ChangesRequest { instance: server.instance, epoch: server.epoch, cursor };
    bench.service.changes(person.who, &request).map_err(|error| error.code)
}

fn fill(bench: &Bench, person: &Person, ns: NamespaceId, commits: usize, size: usize) {
    for _ in 0..commits {
        let operations = (0..size).map(|_| {
            let node = bench.new_node();
            create(node, ns.root(), &node.to_string(), empty_file())
        });
        bench.accept(person, ns, operations.collect());
    }
}

#[test]
fn a_client_that_asks_until_there_is_no_more_has_the_whole_journal_without_a_gap() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    fill(&bench, &me, me.root, 5, 700);
    let mut cursor = Cursor::from([(me.root, Position::START)]);
    let mut read = Vec::new();
    let mut pages = 0;
    loop {
        let reply = ask(&bench, &me, cursor.clone()).expect("answers");
        let page = &reply.namespaces[0];
        assert_eq!((page.role, page.head), (Some(Role::Owner), Position(3500)));
        assert!(page.entries.len() <= limits::CHANGES_PAGE_ENTRIES);
        assert_eq!(page.entries.len() % 700, 0, "a page ends where a commit ends");
        read.extend(page.entries.clone());
        let Some(last) = read.last() else { panic!("no progress") };
        cursor.insert(me.root, last.position);
        pages += 1;
        if last.position == page.head {
            break;
        }
    }
    assert_eq!((pages, read), (3, bench.journal(me.root)));
    let done = ask(&bench, &me, cursor).expect("answers");
    assert!(done.namespaces[0].entries.is_empty());
}

#[test]
fn a_page_is_shared_fairly_between_namespaces() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let guest = bench.user("b@x");
    let mut cursor = Cursor::from([(me.root, Position::START)]);
    let sizes = [1000, 1000, 10];
    for (n, size) in sizes.into_iter().enumerate() {
        let folder = bench.mkdir(&me, me.root, me.root.root(), &n.to_string());
        let share = bench.share(&me, folder, &guest, Role::Viewer);
        fill(&bench, &me, share, 5, size / 5);
        cursor.insert(share, Position::START);
    }
    let reply = ask(&bench, &me, cursor).expect("answers");
    let got: Vec<usize> = reply.namespaces.iter().map(|page| page.entries.len()).collect();
    assert!(got.iter().sum::<usize>() <= limits::CHANGES_PAGE_ENTRIES);
    assert!(got.contains(&10) && got.contains(&6), "small ones come whole: {got:?}");
    assert!(got.iter().filter(|n| **n >= 800).count() == 2, "large ones share the rest: {got:?}");
}

#[test]
fn a_page_names_a_bounded_number_of_blocks_and_a_large_file_still_comes() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    bench.upload(&me, 1);
    let large = |blocks: usize| Body::File {
        blocks: Blocklist(vec![BlockHash([1; 32]); blocks]),
        size: blocks as u64 * model::BLOCK_SIZE,
        executable: false,
        mtime: Mtime(0),
    };
    for (n, blocks) in [30_000, 30_000, 30_000, 100_000].into_iter().enumerate() {
        bench.accept(&me, me.root, vec![create(bench.new_node(), me.root.root(), &n.to_string(), large(blocks))]);
    }
    let page = |after| {
        let reply = ask(&bench, &me, Cursor::from([(me.root, Position(after))])).expect("answers");
        reply.namespaces[0].entries.len()
    };
    assert_eq!((page(0), page(2), page(3)), (2, 1, 1));
}

#[test]
fn a_cursor_of_another_server_epoch_or_future_stops_the_client() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let server = bench.server();
    let right = ChangesRequest { instance: server.instance, epoch: server.epoch, cursor: Cursor::new() };
    let code = |request| bench.service.changes(me.who, &request).map_err(|error| error.code);
    assert_eq!(code(right.clone()).map(|reply| reply.namespaces.len()), Ok(0));
    let instance = model::InstanceId([7; 16]);
    assert_eq!(code(ChangesRequest { instance, ..right.clone() }), Err(ErrorCode::EpochChanged));
    let epoch = model::Epoch(server.epoch.0 + 1);
    assert_eq!(code(ChangesRequest { epoch, ..right.clone() }), Err(ErrorCode::EpochChanged));
    let cursor = Cursor::from([(me.root, Position(1))]);
    assert_eq!(code(ChangesRequest { cursor, ..right.clone() }), Err(ErrorCode::EpochChanged));
    bench.service.bump_epoch().expect("bumped");
    assert_eq!(code(right), Err(ErrorCode::EpochChanged));
}

#[test]
fn a_stranger_learns_nothing_about_a_namespace_not_even_that_it_exists() {
    let bench = Bench::new();
    let (me, other) = (bench.user("a@x"), bench.user("b@x"));
    bench.write(&me, me.root, me.root.root(), "secret", 1);
    let nowhere = NamespaceId([1; 16]);
    for after in [0, 99] {
        let cursor = Cursor::from([(me.root, Position(after)), (nowhere, Position(after))]);
        for page in ask(&bench, &other, cursor).expect("answers").namespaces {
            assert_eq!((page.role, page.entries.len(), page.head), (None, 0, Position(after)));
        }
    }
}

#[test]
fn missing_is_answered_from_what_the_account_can_read_or_sent_itself() {
    let bench = Bench::new();
    let (me, other) = (bench.user("a@x"), bench.user("b@x"));
    bench.write(&me, me.root, me.root.root(), "mine", 1);
    bench.upload(&me, 2);
    bench.write(&other, other.root, other.root.root(), "theirs", 3);
    let folder = bench.mkdir(&other, other.root, other.root.root(), "shared");
    let share = bench.share(&other, folder, &me, Role::Viewer);
    bench.write(&other, share, folder, "ours", 4);
    let missing = |person: &Person| {
        let blocks = (1..=5).map(|n| BlockHash([n; 32])).collect();
        bench.service.missing(person.who, &MissingRequest { blocks }).expect("answers").missing
    };
    assert_eq!(missing(&me), [2, 4]);
    assert_eq!(missing(&other), [0, 1, 4]);
    bench.service.leave(me.who, &api::LeaveRequest { namespace: share }).expect("left");
    assert_eq!(missing(&me), [2, 3, 4], "who left reads no more");
    let readable = |person: &Person, ns| {
        let blocks = [BlockHash([3; 32]), BlockHash([4; 32])];
        bench.service.readable(person.who, ns, &blocks).map_err(|error| error.code)
    };
    assert_eq!(readable(&other, share), Ok(vec![false, true]));
    assert_eq!(readable(&me, share), Err(ErrorCode::Forbidden));
    let too_many = MissingRequest { blocks: vec![BlockHash([1; 32]); limits::BLOCKS_PER_REQUEST + 1] };
    assert_eq!(bench.service.missing(me.who, &too_many).map_err(|e| e.code), Err(ErrorCode::BadRequest));
}
