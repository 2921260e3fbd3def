use super::*;
use model::{Epoch, InstanceId, Mtime, Name, NamespaceId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use sync_engine::io::{DeleteGuard, Fingerprint};
use sync_engine::tree::{Content, FileContent, Local, Place, Remote, Seen, Synced};

const DEVICE: DeviceId = DeviceId([2; 16]);

fn state() -> EngineState {
    EngineState {
        cursor: BTreeMap::from([(NamespaceId([3; 16]), Position(u64::MAX))]),
        excluded: BTreeSet::from([NodeId([9; 16])]),
        paused: true,
        ..EngineState::linked(InstanceId([1; 16]), Epoch(1), NamespaceId([3; 16]))
    }
}

fn place(name: &str) -> Place {
    Place { parent: NodeId([3; 16]), name: Name::parse(name).expect("legal") }
}

fn content(n: u64) -> FileContent {
    FileContent { hash: hash(n), size: n, executable: n.is_multiple_of(2), mtime: Mtime(-5) }
}

fn hash(n: u64) -> ContentHash {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    ContentHash(bytes)
}

fn print(n: u64) -> Fingerprint {
    Fingerprint { device: u64::MAX, inode: n, birth: None, size: n, mtime: Mtime(1), ctime: -1, executable: true }
}

fn node(n: u64) -> NodeId {
    let mut bytes = [0; 16];
    // Ids are random: neighbours in time are not neighbours in the table.
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

fn file_row(n: u64) -> NodeRow {
    let place = place(&format!("file number {n}.txt"));
    let content = content(n);
    NodeRow {
        local: Some(Local { place: place.clone(), seen: Seen::File(Some(content)), print: print(n), disk_name: None }),
        synced: Some(Synced { place: place.clone(), content: Content::File(content) }),
        remote: Some(Remote {
            place,
            content: Content::File(content),
            content_rev: Position(n),
            location_rev: Position(u64::MAX),
        }),
    }
}

/// What a database held when it was opened.
struct Loaded {
    state: EngineState,
    rows: Vec<(NodeId, NodeRow)>,
}

fn load(path: &Path) -> Loaded {
    Database::open(path, DEVICE, |state, rows| Loaded { state, rows: rows.collect() }).expect("opened").1
}

fn rows(database: &Database) -> Vec<(NodeId, NodeRow)> {
    database.load_rows(|rows| rows.collect()).expect("readable")
}

fn write(n: u64, row: NodeRow) -> Write {
    Write::Node(node(n), Some(Box::new(row)))
}

fn new_database() -> (tempfile::TempDir, PathBuf, Database) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("client.sqlite");
    let database = Database::create(&path, DEVICE, &state()).expect("created");
    (directory, path, database)
}

fn odd_rows() -> Vec<(NodeId, NodeRow)> {
    let local = |seen, disk_name: Option<&[u8]>| NodeRow {
        local: Some(Local {
            place: place("Ünïcode"),
            seen,
            print: Fingerprint { birth: Some(i64::MIN), ..print((1 << 63) + 5) },
            disk_name: disk_name.map(Into::into),
        }),
        ..NodeRow::default()
    };
    let agreed = |content: Content| NodeRow {
        synced: Some(Synced { place: place("a"), content: content.clone() }),
        remote: Some(Remote { place: place("b"), content, content_rev: Position(0), location_rev: Position(1) }),
        ..NodeRow::default()
    };
    let rows = [
        local(Seen::Directory, None),
        local(Seen::File(None), Some(b"U\xcc\x88ni")),
        local(Seen::Symlink("../target".into()), None),
        agreed(Content::Directory),
        agreed(Content::Mount),
        agreed(Content::Symlink("x".into())),
        file_row(u64::MAX),
        NodeRow::default(),
    ];
    rows.into_iter().enumerate().map(|(n, row)| (node(n as u64), row)).collect()
}

#[test]
fn every_kind_of_row_reads_back_and_inodes_beyond_2_to_63_survive() {
    let (_directory, path, mut database) = new_database();
    let rows = odd_rows();
    let writes: Vec<Write> = rows.iter().map(|(id, row)| Write::Node(*id, Some(Box::new(row.clone())))).collect();
    database.persist(&writes).expect("persisted");
    database.close().expect("closed");
    let loaded = load(&path);
    let loaded_rows: BTreeMap<NodeId, NodeRow> = loaded.rows.into_iter().collect();
    assert_eq!(loaded_rows, rows.into_iter().collect());
    assert_eq!(loaded.state, state());
}

#[test]
fn a_removed_row_is_gone_and_the_newest_state_counts() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(1, file_row(1)), write(2, file_row(2))]).expect("persisted");
    let newer = EngineState { paused: false, ..state() };
    database.persist(&[Write::Node(node(1), None), Write::State(Box::new(newer.clone()))]).expect("persisted");
    drop(database);
    let loaded = load(&path);
    assert_eq!(loaded.rows, [(node(2), file_row(2))]);
    assert_eq!(loaded.state, newer);
}

#[test]
fn a_blocklist_keeps_its_remote_flag_once_set() {
    let (_directory, _, mut database) = new_database();
    let blocks = Blocklist(vec![BlockHash([1; 32]), BlockHash([2; 32])]);
    let content = blocks.content_hash();
    let write = |remote| Write::Blocklist { content, blocks: blocks.clone(), remote };
    assert_eq!(database.find(&content), None);
    for (remote, then) in [(false, false), (true, true), (false, true)] {
        database.persist(&[write(remote)]).expect("persisted");
        assert_eq!(database.find(&content), Some((Arc::new(blocks.clone()), then)));
    }
}

#[test]
fn a_list_is_at_hand_from_the_moment_it_is_written_if_it_is_known_what_the_file_says_of_it() {
    let (_directory, _, mut database) = new_database();
    let write = |number: u8, remote| {
        let blocks = Blocklist(vec![BlockHash([number; 32])]);
        Write::Blocklist { content: blocks.content_hash(), blocks, remote }
    };
    let content = |number: u8| Blocklist(vec![BlockHash([number; 32])]).content_hash();
    assert_eq!(database.find(&content(1)), None);
    assert!(database.lists.borrow().lacking.contains(&content(1)));
    database.persist(&[write(1, false), write(2, true), write(3, false)]).expect("persisted");
    let lists = database.lists.borrow();
    let at_hand = |number| lists.known.get(&content(number)).map(|(_, remote)| *remote);
    assert_eq!([at_hand(1), at_hand(2)], [Some(false), Some(true)]);
    assert_eq!(at_hand(3), None, "the file may have had it from the server before");
    assert!(lists.lacking.is_empty());
}

#[test]
fn lists_that_one_event_asks_for_are_looked_for_in_one_transaction_which_ends_with_it() {
    let (_directory, path, mut database) = new_database();
    let list = |number: u8| Blocklist(vec![BlockHash([number; 32])]);
    let write = |number| Write::Blocklist { content: list(number).content_hash(), blocks: list(number), remote: false };
    let transactions = |database: &Database| {
        let found =
            (1..4).map(|number| (database.find(&list(number).content_hash()), database.connection.is_autocommit()));
        found.map(|(found, alone)| (found.is_some(), alone)).collect::<Vec<_>>()
    };
    assert_eq!(transactions(&database), [(false, true), (false, false), (false, false)]);
    database.looked();
    assert!(database.connection.is_autocommit());
    let mut other = Database::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("opened");
    other.persist(&[write(2), write(3)]).expect("persisted");
    *database.lists.borrow_mut() = RecentLists::default();
    assert_eq!(
        transactions(&database),
        [(false, true), (true, false), (true, false)],
        "the next event's is another one"
    );
    database.persist(&[write(1)]).expect("a look is no obstacle to a write");
    assert!(database.connection.is_autocommit());
}

#[test]
fn a_list_whose_write_came_through_unnoticed_is_found_after_the_database_was_opened_again() {
    let (_directory, path, mut database) = new_database();
    let blocks = Blocklist(vec![BlockHash([1; 32])]);
    let content = blocks.content_hash();
    assert_eq!(database.find(&content), None);
    let mut unnoticed = Database::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).expect("opened");
    unnoticed.persist(&[Write::Blocklist { content, blocks: blocks.clone(), remote: false }]).expect("persisted");
    drop(unnoticed);
    database.reopen().expect("opened again");
    assert_eq!(database.find(&content), Some((Arc::new(blocks), false)));
}

#[test]
fn lists_beyond_those_at_hand_are_found_in_the_file() {
    let (_directory, _, mut database) = new_database();
    let list = |n: u16| Blocklist((0..2_000).map(|_| BlockHash([n.to_le_bytes()[0]; 32])).collect());
    let lists: Vec<Blocklist> = (0..20).map(list).collect();
    let write =
        |blocks: &Blocklist| Write::Blocklist { content: blocks.content_hash(), blocks: blocks.clone(), remote: false };
    database.persist(&lists.iter().map(write).collect::<Vec<_>>()).expect("persisted");
    for _ in 0..2 {
        for blocks in &lists {
            assert_eq!(database.find(&blocks.content_hash()), Some((Arc::new(blocks.clone()), false)));
        }
    }
    assert!(database.lists.borrow().known.len() < 11, "two thousand blocks each");
}

#[test]
fn the_empty_files_blocklist_is_found() {
    let (_directory, _, mut database) = new_database();
    let blocks = Blocklist::default();
    let content = blocks.content_hash();
    database.persist(&[Write::Blocklist { content, blocks, remote: true }]).expect("persisted");
    assert_eq!(database.find(&content), Some((Arc::default(), true)));
}

#[test]
fn a_missing_database_is_an_error_and_not_an_empty_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let error = Database::open_state(&directory.path().join("client.sqlite"), DEVICE).err().expect("refused");
    assert!(matches!(error, DatabaseError::Missing { .. }));
    assert!(error.hint().expect("a hint").contains("syncline rebuild-index"));
}

#[test]
fn a_damaged_database_is_an_error_and_not_an_empty_one() {
    let (_directory, path, mut database) = new_database();
    let writes: Vec<Write> = (0..500).map(|n| write(n, file_row(n))).collect();
    database.persist(&writes).expect("persisted");
    database.close().expect("closed");
    let good = fs::read(&path).expect("read");
    for (from, len) in [(0, 100), (4096 * 3, 4096), (good.len() - 4096, 4096), (0, good.len())] {
        let mut bytes = good.clone();
        bytes[from..from + len].fill(0x5a);
        fs::write(&path, bytes).expect("written");
        let error = Database::open(&path, DEVICE, |_, _| ()).err().expect("refused");
        assert!(error.is_unsafe_to_continue(), "{from}: {error}");
    }
    fs::write(&path, &good[..good.len() / 2]).expect("written");
    assert!(Database::open(&path, DEVICE, |_, _| ()).is_err(), "truncated");
    fs::write(&path, b"").expect("written");
    assert!(Database::open(&path, DEVICE, |_, _| ()).is_err(), "emptied");
}

#[test]
fn a_row_that_cannot_be_read_is_an_error_whoever_takes_the_rows() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(1, file_row(1)), write(2, file_row(2)), write(3, file_row(3))]).expect("persisted");
    database.connection.execute("UPDATE nodes SET local_name = '..' WHERE node = ?1", [node(2).0]).expect("changed");
    drop(database);
    let all = Database::open(&path, DEVICE, |_, rows| rows.count()).err().expect("refused");
    let none = Database::open(&path, DEVICE, |_, _| ()).err().expect("refused");
    assert!(all.is_unsafe_to_continue() && none.is_unsafe_to_continue(), "{all} {none}");
}

#[test]
fn the_database_of_another_device_is_refused() {
    let (_directory, path, database) = new_database();
    drop(database);
    assert!(matches!(Database::open_state(&path, DeviceId([5; 16])), Err(DatabaseError::Foreign { .. })));
}

#[test]
fn a_newer_database_is_left_alone() {
    let (_directory, path, database) = new_database();
    database.connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).expect("set");
    drop(database);
    assert!(matches!(Database::open_state(&path, DEVICE), Err(DatabaseError::Newer { .. })));
}

#[test]
fn a_database_that_is_set_aside_keeps_its_bytes_and_frees_its_name() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(1, file_row(1))]).expect("persisted");
    database.close().expect("closed");
    let bytes = fs::read(&path).expect("read");
    assert_eq!(salvage_state(&path), Some(state()));
    let aside = set_aside(&path).expect("renamed").expect("there was one");
    assert_eq!(fs::read(&aside).expect("read"), bytes);
    assert!(!path.exists());
    assert_eq!(set_aside(&path).expect("nothing to do"), None);
    assert_eq!(salvage_state(&path), Some(state()), "it is found where it was set aside");
    fs::write(&path, "").expect("a try that got no further");
    assert_eq!(salvage_state(&path), Some(state()));
    fs::remove_file(&path).expect("removed");
    Database::create(&path, DEVICE, &state()).expect("the name is free");
}

#[test]
fn forgetting_local_hashes_keeps_everything_else() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(4, file_row(4))]).expect("persisted");
    database.forget_local_hashes().expect("done");
    drop(database);
    let loaded = load(&path);
    let mut expected = file_row(4);
    expected.local.as_mut().expect("local").seen = Seen::File(None);
    assert_eq!(loaded.rows, [(node(4), expected)]);
}

#[test]
fn the_last_thousand_activities_are_kept() {
    let (_directory, path, mut database) = new_database();
    for n in 0..1500 {
        let activity = Activity { kind: ActivityKind::MovedLocally, path: n.to_string(), detail: None };
        database.note(n, activity);
        if n % 400 == 0 {
            database.persist(&[]).expect("persisted");
        }
    }
    database.close().expect("closed");
    let (database, _) = Database::open_state(&path, DEVICE).expect("opened");
    let times: Vec<i64> = database.activities(usize::MAX).map(|entry| entry.time).collect();
    assert_eq!(times, (500..1500).collect::<Vec<_>>());
    assert_eq!(database.activities(2).map(|entry| entry.time).collect::<Vec<_>>(), [1498, 1499]);
}

#[test]
fn a_full_disk_is_told_apart_where_the_shared_memory_finds_no_room() {
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
    let error = DatabaseError::new(Path::new("/db"), rusqlite::Error::SqliteFailure(failure, None));
    assert!(matches!(error, DatabaseError::Full { .. }) && !error.is_unsafe_to_continue(), "{error:?}");
}

/// Whichever statement meets a full disk or a busy database: the transaction is undone, the error says
/// which, and the next try brings everything.
#[test]
fn a_full_or_busy_database_is_an_error_that_changes_nothing_and_heals() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(1, file_row(1))]).expect("persisted");
    let writes: Vec<Write> = (1..400).map(|n| write(n, file_row(n + 1))).collect();
    let pages: i64 = database.connection.pragma_query_value(None, "page_count", |row| row.get(0)).expect("told");
    for spare in 0..8 {
        database.connection.pragma_update(None, "max_page_count", pages + spare).expect("set");
        let error = database.persist(&writes).expect_err("does not fit");
        assert!(matches!(error, DatabaseError::Full { .. }) && !error.is_unsafe_to_continue(), "{error:?}");
        assert_eq!(rows(&database), [(node(1), file_row(1))], "{spare} pages");
    }
    database.connection.pragma_update(None, "max_page_count", 1_000_000).expect("set");
    let other = Connection::open(&path).expect("opened");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    database.connection.busy_timeout(Duration::ZERO).expect("set");
    let error = database.persist(&writes).expect_err("is locked");
    assert!(matches!(error, DatabaseError::Sqlite { .. }), "{error:?}");
    other.execute_batch("ROLLBACK").expect("unlocked");
    database.persist(&writes).expect("persisted");
    assert_eq!(rows(&database).len(), 399);
}

/// Prints its figures: `cargo test -p client --release large_tree -- --nocapture`.
#[test]
fn a_large_tree_loads_and_saves_fast() {
    const ROWS: u64 = 100_000;
    let (_directory, path, mut database) = new_database();
    let start = Instant::now();
    for batch in 0..ROWS / 5000 {
        let writes: Vec<Write> = (batch * 5000..(batch + 1) * 5000).map(|n| write(n, file_row(n))).collect();
        database.persist(&writes).expect("persisted");
    }
    let saved = start.elapsed();
    database.close().expect("closed");
    let start = Instant::now();
    let loaded = load(&path);
    println!("saved {ROWS} rows in {saved:?}, loaded them in {:?}", start.elapsed());
    assert_eq!(loaded.rows.len() as u64, ROWS);
}

/// A stored state must be read by every later release: a change of its fields, or of what they hold, needs
/// another format number and a way to read this one.
#[test]
fn a_state_that_an_earlier_release_stored_is_still_read() {
    let stored = "0101010101010101010101010101010101010303030303030303030303030303030301030303030303030303030303030303\
                  03ffffffffffffffffff01010303030303030303030303030303030302010303030303030303030303030303030301040404\
                  0404040404040404040404040405010006060606060606060606060606060606030303030303030303030303030303030161\
                  0001090909090909090909090909090909090101643200";
    let bytes: Vec<u8> = (0..stored.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&stored[at..at + 2], 16).expect("hexadecimal"))
        .collect();
    let commit = model::Commit {
        namespace: NamespaceId([3; 16]),
        epoch: Epoch(1),
        key: model::CommitKey([4; 16]),
        seen: Position(5),
        operations: vec![model::Operation::Create {
            node: NodeId([6; 16]),
            parent: NodeId([3; 16]),
            name: Name::parse("a").expect("legal"),
            body: model::Body::Directory,
        }],
    };
    let expected = EngineState {
        roles: BTreeMap::from([(NamespaceId([3; 16]), model::Role::Owner)]),
        in_flight: Some(commit),
        guard: DeleteGuard::On { count: 100, percent: 50 },
        ..state()
    };
    let second = [&[2], &bytes[1..], &[0]].concat();
    for earlier in [&bytes, &second] {
        assert_eq!(decode_state(earlier), Some(expected.clone()), "format {}", earlier[0]);
    }
    let durable = Some(sync_engine::io::Durable { boot: [7; 16], until: -2 });
    let expected = EngineState { durable, ..expected };
    let text: String = encode_state(&expected).iter().map(|byte| format!("{byte:02x}")).collect();
    let (nothing_installed, kept) = ("00", "010707070707070707070707070707070703");
    assert_eq!(text, format!("03{}{nothing_installed}{kept}", &stored[2..]), "what is stored now");
    assert_eq!(decode_state(&encode_state(&expected)), Some(expected));
}

/// One failure when the log was opened, at the start, stopped all syncing until the next start.
#[test]
fn a_log_that_could_be_opened_for_reading_only_is_written_after_opening_anew() {
    let place = tempfile::tempdir().expect("made");
    let path = place.path().join("client.sqlite");
    let mut database = Database::create(&path, DEVICE, &state()).expect("created");
    let only_to_read = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    database.connection = Connection::open_with_flags(&path, only_to_read).expect("opened");
    let write = [Write::State(Box::new(EngineState { paused: false, ..state() }))];
    assert!(database.persist(&write).is_err(), "it can be read only");

    database.reopen().expect("opened anew");

    database.persist(&write).expect("written");
    drop(database);
    let loaded = load(&path);
    assert!(!loaded.state.paused);
}

fn list(n: u64) -> Blocklist {
    Blocklist(vec![BlockHash(hash(n).0)])
}

fn named(n: u64) -> FileContent {
    FileContent { hash: list(n).content_hash(), ..content(n) }
}

/// Every version of every file left its list, for ever.
#[test]
fn lists_that_nobody_needs_are_removed_and_no_others() {
    const VERSIONS: u64 = 30_000;
    let (_directory, _, mut database) = new_database();
    let lists = (0..VERSIONS).map(|n| Write::Blocklist { content: named(n).hash, blocks: list(n), remote: true });
    database.persist(&lists.collect::<Vec<_>>()).expect("written");
    let mut row = file_row(1);
    if let (Some(local), Some(synced), Some(remote)) = (&mut row.local, &mut row.synced, &mut row.remote) {
        local.seen = Seen::File(Some(named(1)));
        synced.content = Content::File(named(2));
        remote.content = Content::File(named(29_999));
    }
    database.persist(&[write(1, row)]).expect("written");
    let body = model::Body::File { blocks: list(4), size: 1, executable: false, mtime: Mtime(0) };
    let operation = model::Operation::Edit { node: node(1), base_content: Position(1), body };
    let commit = model::Commit {
        namespace: NamespaceId([3; 16]),
        epoch: Epoch(1),
        key: model::CommitKey([4; 16]),
        seen: Position(5),
        operations: vec![operation],
    };
    let agreed = Synced { place: place("a"), content: Content::File(named(5)) };
    let installing = vec![sync_engine::io::Installing { node: node(2), agreed, print: None }];
    let state = EngineState { in_flight: Some(commit), installing, ..state() };
    let removed = sweep::sweep(&mut database.connection, &state).expect("swept");
    let needed = [1, 2, 29_999, 4, 5];
    assert_eq!(removed, usize::try_from(VERSIONS).expect("fits") - needed.len());
    database.lists.get_mut().known.clear();
    for n in needed {
        assert_eq!(database.find(&named(n).hash).map(|(found, _)| (*found).clone()), Some(list(n)));
    }
    assert_eq!(sweep::sweep(&mut database.connection, &state).expect("swept"), 0);
}

#[test]
fn a_database_is_swept_when_it_is_opened_if_that_is_worth_it() {
    let (_directory, path, mut database) = new_database();
    database.persist(&[write(1, file_row(1))]).expect("written");
    let large = |n: u64| Blocklist((0..20_000).map(|block| BlockHash(hash(n * 20_000 + block).0)).collect());
    let write_lists = |database: &mut Database, numbers: std::ops::Range<u64>| {
        for n in numbers {
            let blocks = large(n);
            let learn = Write::Blocklist { content: blocks.content_hash(), blocks, remote: true };
            database.persist(&[learn]).expect("written");
        }
    };
    let count = |path: &Path| {
        let (database, ()) = Database::open(path, DEVICE, |_, _| ()).expect("opened");
        let count: i64 =
            database.connection.query_row("SELECT COUNT(*) FROM blocklists", [], |row| row.get(0)).expect("counts");
        (database, count)
    };
    write_lists(&mut database, 0..10);
    drop(database);
    let (mut database, few) = count(&path);
    assert_eq!(few, 10, "6 MB are not worth it");
    write_lists(&mut database, 10..60);
    drop(database);
    assert_eq!(count(&path).1, 0);
}
