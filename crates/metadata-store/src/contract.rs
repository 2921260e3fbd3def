//! The contract suite: what every adapter of [`MetadataStore`] must do.
//!
//! An adapter's tests call [`check`] with a function that makes empty stores. Each rule gets a store of
//! its own.

use crate::error::StoreError;
use crate::port::{Existing, Lookups, MetadataStore, PackRecord, Reading, Transaction};
use crate::record::{
    Account, Arrival, ChangeKind, Child, Device, JournalRecord, NodeKind, NodeRecord, PageLimit, ServerIdentity,
    TokenHash, UnusedBlock,
};
use model::{
    AccountId, BlockHash, Blocklist, Body, Change, CommitKey, CommitOutcome, DeviceId, Epoch, InstanceId, JournalEntry,
    Mtime, Name, NamespaceId, NodeId, PackId, PackedBlock, Position, Reason, Rejection, Role, Timestamp,
};
use std::sync::Arc;

/// Makes an empty store.
pub type NewStore<'a> = &'a dyn Fn() -> Arc<dyn MetadataStore>;

/// A rule: panics if the store does not keep it.
type Rule = fn(&dyn MetadataStore);

/// The rules, by name.
const RULES: &[(&str, Rule)] = &[
    ("an empty store says that it is empty", empty),
    ("work that fails leaves nothing behind", failed_work),
    ("a transaction reads its own writes", own_writes),
    ("what is fetched ahead changes no answer", fetched_ahead),
    ("the server's identity can be set and changed", server_identity),
    ("e-mail addresses are unique whatever their case", accounts),
    ("a device lives until it is ended", devices),
    ("a membership is given, changed and ended", members),
    ("nodes keep what they hold", nodes),
    ("names may change hands within one set of nodes", swapped_names),
    ("two living children never share a name", unique_names),
    ("a dead child's name is free, and the dead stay findable", dead_nodes),
    ("directories are listed apart", directories),
    ("a journal has no gap and no double", dense_journal),
    ("journals of two namespaces do not touch", separate_journals),
    ("a page of the journal ends at its limits", journal_pages),
    ("an entry may name any number of blocks", long_entries),
    ("a node's revisions, places and departures are found", node_history),
    ("an outcome is found under its key until it is forgotten", outcomes),
    ("blocks are known to those who named or uploaded them", blocks),
    ("a block is in use as long as anybody names it or has uploaded it", blocks_in_use),
    ("what the clean-up notes of a block stays until it is forgotten", unused_blocks),
    ("a packed block has one place, and a pack is known by its places", packed_blocks),
    ("a pack that has ended stays so until it is forgotten", ended_packs),
];

/// Checks every rule.
///
/// # Panics
/// At the first rule that does not hold, which is printed.
pub fn check(new_store: NewStore<'_>) {
    for (rule, check) in RULES {
        let store = new_store();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&*store)));
        assert!(result.is_ok(), "the rule `{rule}` does not hold");
    }
    concurrent_writers(&new_store());
    snapshots_hold_still(&new_store());
}

const NS: NamespaceId = NamespaceId([0xaa; 16]);
const OTHER: NamespaceId = NamespaceId([0xbb; 16]);
const THIRD: NamespaceId = NamespaceId([0xcc; 16]);
const PAGE: PageLimit = PageLimit { entries: 100, blocks: 100 };

fn write<T>(store: &dyn MetadataStore, work: impl FnMut(&dyn Transaction) -> Result<T, StoreError>) -> T {
    store.write(work).expect("the transaction succeeds")
}

fn read<T>(store: &dyn MetadataStore, work: impl FnMut(&dyn Reading) -> Result<T, StoreError>) -> T {
    store.snapshot(work).expect("the snapshot can be read")
}

fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a legal name")
}

fn file(block: u8) -> Body {
    Body::File { blocks: Blocklist(vec![BlockHash([block; 32])]), size: 7, executable: true, mtime: Mtime(-5) }
}

fn node(n: u8, parent: NodeId, text: &str, body: Body) -> NodeRecord {
    NodeRecord {
        node: id(n),
        parent,
        name: name(text),
        body,
        content_rev: Position(u64::from(n)),
        location_rev: Position(1),
        deleted: None,
    }
}

fn entry(position: u64, node: NodeId, change: Change) -> JournalEntry {
    let device = position.is_multiple_of(2).then_some(DeviceId([9; 16]));
    JournalEntry { position: Position(position), node, change, device, time: Timestamp(-1) }
}

fn creation(position: u64, node: NodeId, text: &str, body: Body) -> JournalEntry {
    entry(position, node, Change::Create { parent: NS.root(), name: name(text), body })
}

fn with_namespace(store: &dyn MetadataStore) {
    write(store, |tx| tx.insert_namespace(NS));
}

fn account(n: u8, email: &str, root: NamespaceId) -> Account {
    Account {
        account: AccountId([n; 16]),
        email: email.into(),
        password_hash: "$argon2id$".into(),
        root,
        created: Timestamp(5),
    }
}

fn empty(store: &dyn MetadataStore) {
    read(store, |r| {
        assert_eq!(r.server()?, None);
        assert_eq!(r.accounts()?, []);
        assert_eq!(r.account_by_email("a@b")?, None);
        assert_eq!(r.namespace(NS)?, None);
        assert_eq!(r.node(NS, id(1))?, None);
        assert_eq!(r.children(NS, id(1))?, []);
        assert_eq!(r.journal(NS, Position::START, PAGE)?, []);
        assert_eq!(r.names_blocks(NS, &[BlockHash([1; 32])])?, [false]);
        Ok(())
    });
}

fn failed_work(store: &dyn MetadataStore) {
    let result = store.write(|tx| -> Result<(), StoreError> {
        tx.insert_namespace(NS)?;
        Err(StoreError::Busy { subject: "the test" })
    });
    assert!(matches!(result, Err(StoreError::Busy { subject: "the test" })), "the work's own error comes back");
    assert_eq!(read(store, |r| r.namespace(NS)), None);
}

fn own_writes(store: &dyn MetadataStore) {
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        assert_eq!(tx.lock_namespace(NS)?.map(|row| row.head), Some(Position::START));
        tx.put_nodes(NS, &[node(1, NS.root(), "a", file(1)), node(2, NS.root(), "b", file(1))])?;
        tx.put_nodes(NS, &[node(3, NS.root(), "d", Body::Directory)])?;
        assert_eq!(tx.child(NS, NS.root(), &name("A").key())?, Some(id(1)));
        Ok(())
    });
    write(store, changes_and_looks);
    read(store, |r| after_the_changes(r));
}

/// A transaction that was told what will be looked up answers as if it had not been.
fn fetched_ahead(store: &dyn MetadataStore) {
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.put_nodes(NS, &[node(1, NS.root(), "a", file(1)), node(2, NS.root(), "b", file(1))])?;
        tx.put_nodes(NS, &[node(3, NS.root(), "d", Body::Directory)])?;
        tx.insert_namespace(THIRD)?;
        tx.put_nodes(THIRD, &[node(6, THIRD.root(), "a", file(1))])?;
        tx.add_named_blocks(NS, &[BlockHash([3; 32])])?;
        tx.add_uploaded_blocks(AccountId([7; 16]), &[BlockHash([4; 32])], Timestamp(3))
    });
    let place = |parent, text| (parent, name(text).key());
    let lookups = Lookups {
        namespace: NS,
        devices: vec![DeviceId([9; 16]), DeviceId([8; 16])],
        accounts: vec![AccountId([7; 16])],
        outcomes: vec![(DeviceId([9; 16]), CommitKey([1; 16])), (DeviceId([9; 16]), CommitKey([2; 16]))],
        nodes: (1..=5).map(id).collect(),
        places: vec![place(NS.root(), "a"), place(NS.root(), "b"), place(NS.root(), "c"), place(id(3), "a")],
        new_nodes: vec![NS.root(), OTHER.root(), id(2), id(6), id(7)],
        blocks: (1..=4).map(|n| (AccountId([7; 16]), BlockHash([n; 32]))).collect(),
    };
    write(store, |tx| {
        tx.prefetch(&lookups)?;
        let (account, both) = (AccountId([7; 16]), [BlockHash([3; 32]), BlockHash([4; 32])]);
        assert_eq!(tx.names_blocks(NS, &both)?, [true, false]);
        assert_eq!(tx.uploaded_blocks(account, &both, Timestamp(3))?, [false, true]);
        assert_eq!(tx.uploaded_blocks(account, &both, Timestamp(4))?, [false, false]);
        assert_eq!(tx.role(NS, AccountId([7; 16]))?, None);
        assert_eq!(tx.device(DeviceId([8; 16]))?, None);
        assert_eq!(tx.namespace(OTHER)?, None);
        let elsewhere = [2, 6, 7].map(|n| tx.is_elsewhere(NS, id(n)).expect("answers"));
        assert_eq!(elsewhere, [false, true, false]);
        changes_and_looks(tx)?;
        tx.forget_uploads(Timestamp(0), 1)?;
        assert_eq!(tx.names_blocks(NS, &[BlockHash([1; 32])])?, [true], "written since, and maybe sent");
        assert_eq!(tx.uploaded_blocks(account, &[BlockHash([2; 32])], Timestamp(5))?, [true]);
        Ok(())
    });
    read(store, |r| after_the_changes(r));
    write(store, |tx| tx.prefetch(&Lookups { namespace: OTHER, ..lookups.clone() }));
}

/// Looks at what is there, changes it, and looks again, each time at what it has just written. Begins with
/// the files 1 `a` and 2 `b` and the folder 3 `d`.
fn changes_and_looks(tx: &dyn Transaction) -> Result<(), StoreError> {
    let root = NS.root();
    let holder = |parent, text: &str| tx.child(NS, parent, &name(text).key());
    let listed = |parent| -> Result<Vec<NodeId>, StoreError> {
        Ok(tx.children(NS, parent)?.iter().map(|child| child.node).collect())
    };
    assert_eq!((holder(root, "a")?, holder(root, "c")?), (Some(id(1)), None));
    assert_eq!(tx.node(NS, id(2))?, Some(node(2, root, "b", file(1))));
    assert_eq!(tx.node(NS, id(4))?, None);
    tx.put_nodes(NS, &[node(1, root, "b", file(1)), node(2, root, "a", file(1))])?;
    assert_eq!((holder(root, "a")?, holder(root, "b")?), (Some(id(2)), Some(id(1))), "names have changed hands");
    tx.put_nodes(NS, &[node(4, id(3), "a", file(4))])?;
    assert_eq!((holder(id(3), "A")?, listed(id(3))?), (Some(id(4)), vec![id(4)]));
    tx.put_nodes(NS, &[node(4, root, "c", file(4))])?;
    assert_eq!((holder(id(3), "a")?, holder(root, "c")?), (None, Some(id(4))), "it has moved");
    assert_eq!((listed(id(3))?, listed(root)?), (vec![], vec![id(2), id(1), id(4), id(3)]));
    tx.kill_nodes(NS, &[id(1)], Position(9))?;
    assert_eq!((holder(root, "b")?, tx.node(NS, id(1))?.and_then(|dead| dead.deleted)), (None, Some(Position(9))));
    tx.put_nodes(NS, &[node(5, root, "b", Body::Directory)])?;
    assert_eq!(holder(root, "b")?, Some(id(5)));
    assert_eq!(tx.fallen_children(NS, root, Position(9)..=Position(9))?, [id(1)]);
    assert_eq!(tx.child_directories(NS, root)?.iter().map(|child| child.node).collect::<Vec<_>>(), [id(3), id(5)]);
    tx.append(NS, &[creation(1, id(5), "b", Body::Directory)])?;
    assert_eq!(tx.departure(NS, id(1), Position::START)?, None);
    tx.append(NS, &[entry(2, id(1), Change::Delete)])?;
    tx.set_live_nodes(NS, 4)?;
    assert_eq!(tx.departure(NS, id(1), Position::START)?, Some(Position(2)));
    assert_eq!(tx.location(NS, id(5), Position(2))?, Some((root, name("b"))));
    assert_eq!(tx.lock_namespace(NS)?.map(|row| (row.head, row.live_nodes)), Some((Position(2), 4)));
    let (device, account) = (DeviceId([9; 16]), AccountId([7; 16]));
    assert_eq!(tx.outcome(NS, device, CommitKey([1; 16]))?, None);
    let outcome = CommitOutcome::Accepted { head: Position(2), time: Timestamp(1) };
    tx.put_outcome(NS, device, CommitKey([1; 16]), &outcome, Timestamp(1))?;
    assert_eq!(tx.outcome(NS, device, CommitKey([1; 16]))?, Some(outcome));
    tx.add_named_blocks(NS, &[BlockHash([1; 32])])?;
    assert_eq!(tx.names_blocks(NS, &[BlockHash([1; 32]), BlockHash([2; 32])])?, [true, false]);
    tx.add_uploaded_blocks(account, &[BlockHash([2; 32])], Timestamp(5))?;
    tx.add_uploaded_blocks(account, &[BlockHash([2; 32])], Timestamp(4))?;
    assert_eq!(tx.uploaded_blocks(account, &[BlockHash([2; 32]), BlockHash([1; 32])], Timestamp(5))?, [true, false]);
    tx.insert_account(&self::account(7, "own@writes", NS))?;
    tx.set_member(NS, account, Role::Editor)?;
    assert_eq!(tx.role(NS, account)?, Some(Role::Editor));
    assert!(tx.remove_member(NS, account)?);
    assert_eq!(tx.role(NS, account)?, None);
    Ok(())
}

/// What [`changes_and_looks`] leaves behind.
fn after_the_changes(r: &dyn Reading) -> Result<(), StoreError> {
    let children: Vec<NodeId> = r.children(NS, NS.root())?.iter().map(|child| child.node).collect();
    assert_eq!(children, [id(2), id(5), id(4), id(3)]);
    assert_eq!(r.node(NS, id(1))?, Some(NodeRecord { deleted: Some(Position(9)), ..node(1, NS.root(), "b", file(1)) }));
    assert_eq!(r.namespace(NS)?.map(|row| (row.head, row.live_nodes)), Some((Position(2), 4)));
    assert_eq!(r.journal(NS, Position::START, PAGE)?.len(), 2);
    assert!(r.outcome(NS, DeviceId([9; 16]), CommitKey([1; 16]))?.is_some());
    assert_eq!(r.names_blocks(NS, &[BlockHash([1; 32])])?, [true]);
    assert_eq!(r.uploaded_blocks(AccountId([7; 16]), &[BlockHash([2; 32])], Timestamp(5))?, [true]);
    Ok(())
}

fn server_identity(store: &dyn MetadataStore) {
    let first = ServerIdentity { instance: InstanceId([3; 16]), epoch: Epoch(1) };
    write(store, |tx| tx.insert_server(first));
    let second = store.write(|tx| tx.insert_server(ServerIdentity { instance: InstanceId([4; 16]), ..first }));
    assert!(matches!(second, Err(StoreError::AlreadyExists { .. })), "it is inserted once: {second:?}");
    assert_eq!(read(store, |r| r.server()), Some(first));
    for epoch in [2, 3] {
        let identity = ServerIdentity { epoch: Epoch(epoch), ..first };
        write(store, |tx| tx.set_server(identity));
        assert_eq!(read(store, |r| r.server()), Some(identity));
    }
}

fn accounts(store: &dyn MetadataStore) {
    let zoe = account(1, "Zoë@Example.org", NS);
    let adam = account(2, "adam@example.org", OTHER);
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.insert_namespace(OTHER)?;
        tx.insert_account(&zoe)?;
        tx.insert_account(&adam)
    });
    let taken = store.write(|tx| tx.insert_account(&account(3, "ZOË@example.ORG", NS)));
    assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(read(store, |r| r.account_by_email("zoë@EXAMPLE.org")), Some(zoe.clone()));
    assert_eq!(read(store, |r| r.account(zoe.account)), Some(zoe.clone()));
    assert_eq!(read(store, |r| r.accounts()), [adam.clone(), zoe.clone()]);
    write(store, |tx| tx.set_password_hash(zoe.account, "another"));
    let changed = Account { password_hash: "another".into(), ..zoe };
    assert_eq!(read(store, |r| r.accounts()), [adam, changed]);
}

fn devices(store: &dyn MetadataStore) {
    let device = |n: u8, linked| Device {
        device: DeviceId([n; 16]),
        account: AccountId([1; 16]),
        name: format!("device {n}"),
        linked: Timestamp(linked),
        last_seen: Timestamp(linked),
        active: true,
    };
    let token = |n: u8| -> TokenHash { [n; 32] };
    let (old, new) = (device(2, 10), device(1, 20));
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.insert_account(&account(1, "a@b", NS))?;
        tx.insert_device(&new, &token(1))?;
        tx.insert_device(&old, &token(2))
    });
    assert_eq!(read(store, |r| r.devices(AccountId([1; 16]))), [old.clone(), new.clone()]);
    assert_eq!(read(store, |r| r.device_by_token(&token(2))), Some(old.clone()));
    write(store, |tx| tx.touch_device(new.device, Timestamp(99)));
    assert_eq!(read(store, |r| r.device(new.device)).map(|d| d.last_seen), Some(Timestamp(99)));

    assert!(write(store, |tx| tx.end_device(old.device)));
    assert!(!write(store, |tx| tx.end_device(old.device)), "a device ends once");
    read(store, |r| {
        assert_eq!(r.device_by_token(&token(2))?, None);
        assert_eq!(r.devices(AccountId([1; 16]))?.len(), 1);
        assert_eq!(r.device(old.device)?, Some(Device { active: false, ..old.clone() }), "the journal names it");
        Ok(())
    });
}

fn members(store: &dyn MetadataStore) {
    let (a, b) = (account(1, "a@x", NS), account(2, "b@x", NS));
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.insert_namespace(OTHER)?;
        tx.insert_account(&a)?;
        tx.insert_account(&b)?;
        tx.set_member(NS, a.account, Role::Owner)?;
        tx.set_member(OTHER, a.account, Role::Viewer)?;
        tx.set_member(OTHER, b.account, Role::Owner)?;
        tx.set_member(OTHER, a.account, Role::Editor)
    });
    read(store, |r| {
        assert_eq!(r.role(OTHER, a.account)?, Some(Role::Editor));
        assert_eq!(r.role(NS, b.account)?, None);
        assert_eq!(r.memberships(a.account)?, [(NS, Role::Owner), (OTHER, Role::Editor)]);
        assert_eq!(r.members(OTHER)?, [(a.account, Role::Editor), (b.account, Role::Owner)]);
        Ok(())
    });
    assert!(write(store, |tx| tx.remove_member(OTHER, a.account)));
    assert!(!write(store, |tx| tx.remove_member(OTHER, a.account)));
    assert_eq!(read(store, |r| r.role(OTHER, a.account)), None);
}

fn nodes(store: &dyn MetadataStore) {
    with_namespace(store);
    let records = [
        node(1, NS.root(), "Ordner", Body::Directory),
        node(2, id(1), "ÄRGER.txt", file(3)),
        node(3, id(1), "link", Body::Symlink { target: "../x".into() }),
        node(4, NS.root(), "mount", Body::Mount),
    ];
    write(store, |tx| {
        tx.put_nodes(NS, &records)?;
        tx.set_live_nodes(NS, 4)
    });
    read(store, |r| {
        for record in &records {
            assert_eq!(r.node(NS, record.node)?.as_ref(), Some(record));
            assert_eq!(r.node(OTHER, record.node)?, None, "the namespace is part of the key");
            assert_eq!((r.is_elsewhere(OTHER, record.node)?, r.is_elsewhere(NS, record.node)?), (true, false));
        }
        assert_eq!(r.child(NS, id(1), &name("ärger.TXT").key())?, Some(id(2)));
        assert_eq!(r.child(NS, NS.root(), &name("ärger.TXT").key())?, None);
        assert_eq!(r.namespace(NS)?.map(|row| row.live_nodes), Some(4));
        let children = r.children(NS, id(1))?;
        let expected =
            |n, kind, name_bytes, changed| Child { node: id(n), kind, name_bytes, changed: Position(changed) };
        assert_eq!(children, [expected(3, NodeKind::Symlink, 4, 3), expected(2, NodeKind::File, 10, 2)]);
        Ok(())
    });
}

fn swapped_names(store: &dyn MetadataStore) {
    with_namespace(store);
    let place = |n, text| node(n, NS.root(), text, file(n));
    write(store, |tx| tx.put_nodes(NS, &[place(1, "a"), place(2, "b"), place(3, "c")]));
    write(store, |tx| tx.put_nodes(NS, &[place(1, "b"), place(2, "c"), place(3, "a")]));
    for (text, n) in [("b", 1), ("c", 2), ("a", 3)] {
        assert_eq!(read(store, |r| r.child(NS, NS.root(), &name(text).key())), Some(id(n)));
    }
}

fn unique_names(store: &dyn MetadataStore) {
    with_namespace(store);
    write(store, |tx| tx.put_nodes(NS, &[node(1, NS.root(), "straße", file(1))]));
    let second = store.write(|tx| tx.put_nodes(NS, &[node(2, NS.root(), "STRASSE", file(2))]));
    assert!(matches!(second, Err(StoreError::AlreadyExists { .. })), "{second:?}");
    assert_eq!(read(store, |r| r.node(NS, id(1))), Some(node(1, NS.root(), "straße", file(1))));
    assert_eq!(read(store, |r| r.node(NS, id(2))), None);
}

fn dead_nodes(store: &dyn MetadataStore) {
    with_namespace(store);
    write(store, |tx| {
        tx.put_nodes(NS, &[node(1, NS.root(), "a", file(1)), node(2, NS.root(), "b", file(2))])?;
        tx.kill_nodes(NS, &[id(1)], Position(7))
    });
    write(store, |tx| tx.kill_nodes(NS, &[id(1), id(2)], Position(9)));
    write(store, |tx| tx.put_nodes(NS, &[node(3, NS.root(), "a", file(3))]));
    read(store, |r| {
        assert_eq!(r.node(NS, id(1))?.and_then(|n| n.deleted), Some(Position(7)), "a node dies once");
        assert!(r.is_elsewhere(OTHER, id(1))?, "and its id is not free");
        assert_eq!(r.child(NS, NS.root(), &name("a").key())?, Some(id(3)));
        assert_eq!(r.children(NS, NS.root())?.len(), 1);
        assert_eq!(r.fallen_children(NS, NS.root(), Position(7)..=Position(9))?, [id(1), id(2)]);
        assert_eq!(r.fallen_children(NS, NS.root(), Position(8)..=Position(9))?, [id(2)]);
        assert_eq!(r.fallen_children(NS, NS.root(), Position(1)..=Position(6))?, []);
        Ok(())
    });
}

fn directories(store: &dyn MetadataStore) {
    with_namespace(store);
    let dead = NodeRecord { deleted: Some(Position(3)), ..node(4, NS.root(), "gone", Body::Directory) };
    let records = [node(1, NS.root(), "z", Body::Directory), node(2, NS.root(), "f", file(1)), dead];
    write(store, |tx| tx.put_nodes(NS, &records));
    let listed = read(store, |r| r.child_directories(NS, NS.root()));
    assert_eq!(listed.iter().map(|child| child.node).collect::<Vec<_>>(), [id(1)]);
}

fn dense_journal(store: &dyn MetadataStore) {
    with_namespace(store);
    write(store, |tx| tx.append(NS, &[creation(1, id(1), "a", file(1)), entry(2, id(1), Change::Delete)]));
    for wrong in [0, 2, 4] {
        let result = store.write(|tx| tx.append(NS, &[entry(wrong, id(1), Change::Delete)]));
        assert!(matches!(result, Err(StoreError::Gap { head: Position(2), .. })), "{wrong}: {result:?}");
    }
    let holed = [entry(3, id(1), Change::Delete), entry(5, id(1), Change::Delete)];
    assert!(store.write(|tx| tx.append(NS, &holed)).is_err());
    let elsewhere = store.write(|tx| tx.append(OTHER, &[entry(1, id(1), Change::Delete)]));
    assert!(elsewhere.is_err(), "a namespace that does not exist has no journal");
    assert_eq!(read(store, |r| r.namespace(NS)).map(|row| row.head), Some(Position(2)));
    assert_eq!(read(store, |r| r.journal(NS, Position::START, PAGE)).len(), 2);
}

fn separate_journals(store: &dyn MetadataStore) {
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.insert_namespace(OTHER)?;
        tx.append(NS, &[creation(1, id(1), "a", file(1))])?;
        tx.append(OTHER, &[creation(1, id(1), "b", file(2)), entry(2, id(1), Change::Delete)])
    });
    assert_eq!(read(store, |r| r.journal(NS, Position::START, PAGE)).len(), 1);
    assert_eq!(read(store, |r| r.journal(OTHER, Position::START, PAGE)).len(), 2);
    assert!(store.write(|tx| tx.insert_namespace(NS)).is_err(), "a namespace is made once");
}

fn journal_pages(store: &dyn MetadataStore) {
    with_namespace(store);
    let entries: Vec<JournalEntry> =
        (1..=5).map(|n| creation(n, id(u8::try_from(n).expect("small")), &n.to_string(), file(1))).collect();
    write(store, |tx| {
        tx.append(NS, &entries[..2])?;
        tx.append(NS, &entries[2..])
    });
    let page = |after, entries, blocks| {
        let records = read(store, |r| r.journal(NS, Position(after), PageLimit { entries, blocks }));
        records.iter().map(|record| (record.entry.position.0, record.batch_first.0)).collect::<Vec<_>>()
    };
    assert_eq!(page(0, 100, 100), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 3)]);
    assert_eq!(page(1, 2, 100), [(2, 1), (3, 3)]);
    assert_eq!(page(0, 100, 3), [(1, 1), (2, 1), (3, 3)]);
    assert_eq!(page(3, 100, 0), [(4, 3)], "one entry always comes");
    assert_eq!(page(5, 100, 100), []);
    let all = read(store, |r| r.journal(NS, Position::START, PAGE));
    assert_eq!(all.into_iter().map(|record| record.entry).collect::<Vec<_>>(), entries);
    let backwards = read(store, |r| r.journal_backwards(NS, Position(4), 2));
    assert_eq!(backwards.iter().map(|brief| brief.position.0).collect::<Vec<_>>(), [3, 2]);
    assert_eq!((backwards[0].kind, backwards[0].device), (ChangeKind::Create, None));
    assert_eq!(backwards[1].device, Some(DeviceId([9; 16])));
    assert_eq!(read(store, |r| r.journal_backwards(NS, Position(u64::MAX), 1)).len(), 1);
}

/// Short entries, and in between such as are read apart from others.
fn long_entries(store: &dyn MetadataStore) {
    const LONG: usize = 2000;
    with_namespace(store);
    let listing = |n: u64, blocks: usize| {
        let list = (0..blocks as u64).map(|block| BlockHash::of(&[n.to_le_bytes(), block.to_le_bytes()].concat()));
        Body::File { blocks: Blocklist(list.collect()), size: 1, executable: false, mtime: Mtime(0) }
    };
    let sizes = [1, LONG, 1, LONG, LONG, 1];
    let entries: Vec<JournalEntry> = (1..)
        .zip(sizes)
        .map(|(n, blocks)| match n {
            1 => creation(n, id(1), "a", listing(n, blocks)),
            _ => entry(n, id(1), Change::Edit { body: listing(n, blocks) }),
        })
        .collect();
    write(store, |tx| tx.append(NS, &entries));
    let numbers = |records: &[JournalRecord]| records.iter().map(|r| r.entry.position.0).collect::<Vec<_>>();
    let page = |after, entries, blocks| {
        numbers(&read(store, |r| r.journal(NS, Position(after), PageLimit { entries, blocks })))
    };
    assert_eq!(page(0, 100, 100_000), [1, 2, 3, 4, 5, 6]);
    assert_eq!(page(0, 100, LONG), [1]);
    assert_eq!(page(0, 100, LONG + 1), [1, 2]);
    assert_eq!(page(1, 100, 0), [2], "one entry always comes");
    assert_eq!(page(1, 3, 100_000), [2, 3, 4]);
    assert_eq!(page(3, 100, LONG), [4]);
    let versions = |until, blocks| {
        numbers(&read(store, |r| r.revisions(NS, id(1), Position(until), PageLimit { entries: 100, blocks })))
    };
    assert_eq!(versions(6, 100_000), [6, 5, 4, 3, 2, 1]);
    assert_eq!(versions(6, LONG + 1), [6, 5]);
    assert_eq!(versions(5, LONG), [5]);
    let all = read(store, |r| r.journal(NS, Position::START, PageLimit { entries: 100, blocks: 100_000 }));
    assert_eq!(all.into_iter().map(|record| record.entry).collect::<Vec<_>>(), entries);
}

fn node_history(store: &dyn MetadataStore) {
    with_namespace(store);
    let entries = [
        creation(1, id(1), "a", file(1)),
        creation(2, id(2), "dir", Body::Directory),
        entry(3, id(1), Change::Edit { body: file(2) }),
        entry(4, id(1), Change::Move { parent: id(2), name: name("b") }),
        creation(5, id(3), "A", file(3)),
        entry(6, id(1), Change::Edit { body: file(4) }),
        entry(7, id(1), Change::Delete),
        entry(8, id(2), Change::Edit { body: Body::Mount }),
    ];
    write(store, |tx| tx.append(NS, &entries));
    read(store, |r| {
        let revisions = |until, limit| -> Result<Vec<u64>, StoreError> {
            let limit = PageLimit { entries: limit, blocks: 100 };
            Ok(r.revisions(NS, id(1), Position(until), limit)?.iter().map(|x| x.entry.position.0).collect())
        };
        assert_eq!(revisions(u64::MAX, 10)?, [6, 3, 1]);
        assert_eq!(revisions(5, 1)?, [3]);
        assert_eq!(r.location(NS, id(1), Position(3))?, Some((NS.root(), name("a"))));
        assert_eq!(r.location(NS, id(1), Position(9))?, Some((id(2), name("b"))));
        assert_eq!(r.location(NS, id(3), Position(4))?, None);
        let arrival = |n, position| Arrival { node: id(n), position: Position(position) };
        assert_eq!(r.arrivals(NS, NS.root(), &name("a").key(), 9)?, [arrival(3, 5), arrival(1, 1)]);
        assert_eq!(r.arrivals(NS, NS.root(), &name("a").key(), 1)?, [arrival(3, 5)]);
        assert_eq!(r.departure(NS, id(1), Position(1))?, Some(Position(4)));
        assert_eq!(r.departure(NS, id(1), Position(4))?, Some(Position(7)));
        assert_eq!(r.departure(NS, id(3), Position(5))?, None);
        assert_eq!(r.journal_backwards(NS, Position(9), 1)?[0].kind, ChangeKind::Share);
        Ok(())
    });
}

fn outcomes(store: &dyn MetadataStore) {
    let device = DeviceId([1; 16]);
    let rejected =
        CommitOutcome::Rejected(vec![Rejection { index: 3, reason: Reason::MissingBlocks(vec![BlockHash([1; 32])]) }]);
    let accepted = CommitOutcome::Accepted { head: Position(4), time: Timestamp(9) };
    write(store, |tx| {
        tx.put_outcome(NS, device, CommitKey([1; 16]), &rejected, Timestamp(1))?;
        tx.put_outcome(NS, device, CommitKey([2; 16]), &accepted, Timestamp(2))
    });
    assert_eq!(read(store, |r| r.outcome(NS, device, CommitKey([1; 16]))), Some(rejected));
    assert_eq!(read(store, |r| r.outcome(NS, device, CommitKey([2; 16]))), Some(accepted.clone()));
    assert_eq!(read(store, |r| r.outcome(NS, DeviceId([2; 16]), CommitKey([2; 16]))), None);
    assert_eq!(write(store, |tx| tx.forget_outcomes(Timestamp(2), 10)), 1);
    assert_eq!(read(store, |r| r.outcome(NS, device, CommitKey([1; 16]))), None);
    assert_eq!(read(store, |r| r.outcome(NS, device, CommitKey([2; 16]))), Some(accepted));
}

fn blocks(store: &dyn MetadataStore) {
    let block = |n| BlockHash([n; 32]);
    let account = AccountId([1; 16]);
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.add_named_blocks(NS, &[block(1), block(2)])?;
        tx.add_named_blocks(NS, &[block(1)])?;
        tx.add_uploaded_blocks(account, &[block(3)], Timestamp(10))?;
        tx.add_uploaded_blocks(account, &[block(4), block(5)], Timestamp(10))?;
        tx.add_uploaded_blocks(account, &[block(4)], Timestamp(20))
    });
    let asked = [block(1), block(9), block(2)];
    assert_eq!(read(store, |r| r.names_blocks(NS, &asked)), [true, false, true]);
    assert_eq!(read(store, |r| r.names_blocks(OTHER, &asked)), [false; 3]);
    let uploaded = |since| read(store, |r| r.uploaded_blocks(account, &[block(3), block(4)], Timestamp(since)));
    assert_eq!(uploaded(10), [true, true]);
    assert_eq!(uploaded(11), [false, true]);
    let strangers = read(store, |r| r.uploaded_blocks(AccountId([2; 16]), &[block(3)], Timestamp(0)));
    assert_eq!(strangers, [false]);
    assert_eq!(write(store, |tx| tx.forget_uploads(Timestamp(20), 1)), 1, "no more than asked for");
    assert_eq!(write(store, |tx| tx.forget_uploads(Timestamp(20), 10)), 1);
    assert_eq!(uploaded(0), [false, true]);
}

fn blocks_in_use(store: &dyn MetadataStore) {
    let block = |n| BlockHash([n; 32]);
    let (one, two) = (AccountId([1; 16]), AccountId([2; 16]));
    write(store, |tx| {
        tx.insert_namespace(NS)?;
        tx.insert_namespace(OTHER)?;
        tx.add_named_blocks(NS, &[block(1), block(2)])?;
        tx.add_named_blocks(OTHER, &[block(2), block(3)])?;
        tx.add_uploaded_blocks(one, &[block(3), block(4)], Timestamp(10))?;
        tx.add_uploaded_blocks(two, &[block(4)], Timestamp(20))
    });
    let asked = [1, 2, 3, 4, 9].map(block);
    let in_use = || read(store, |r| r.blocks_in_use(&asked));
    assert_eq!(in_use(), [true, true, true, true, false]);
    write(store, |tx| {
        tx.add_named_blocks(NS, &[block(9)])?;
        assert_eq!(tx.blocks_in_use(&asked)?, [true; 5], "a transaction reads its own writes");
        Ok(())
    });
    assert_eq!(write(store, |tx| tx.forget_uploads(Timestamp(15), 10)), 2);
    assert_eq!(in_use(), [true; 5], "another account's upload is noted still");
    assert_eq!(write(store, |tx| tx.forget_uploads(Timestamp(25), 10)), 1);
    assert_eq!(in_use(), [true, true, true, false, true]);
    let named = |after, limit| read(store, |r| r.all_named_blocks(after, limit));
    assert_eq!(named(None, 10), [1, 2, 3, 9].map(block), "each once, whoever names it");
    assert_eq!(named(Some(block(1)), 2), [2, 3].map(block));
    assert_eq!(named(Some(block(9)), 2), []);
}

fn packed(n: u8, pack: u8, offset: u32) -> PackedBlock {
    PackedBlock { hash: BlockHash([n; 32]), pack: PackId([pack; 16]), offset, len: 10 }
}

fn packed_blocks(store: &dyn MetadataStore) {
    let block = |n| BlockHash([n; 32]);
    let pack = |n| PackId([n; 16]);
    write(store, |tx| {
        assert_eq!(tx.lock_pack(pack(1))?, None);
        tx.put_packed(&[packed(2, 1, 50), packed(1, 1, 40), packed(3, 1, 4_000_000_000)], Existing::Replace)
    });
    let asked = [block(3), block(9), block(1)];
    let found = [Some(packed(3, 1, 4_000_000_000)), None, Some(packed(1, 1, 40))];
    assert_eq!(read(store, |r| r.packed_blocks(&asked)), found);
    assert_eq!(write(store, |tx| tx.lock_packed(&asked)), found);
    let in_pack = |n| read(store, |r| r.blocks_in_pack(pack(n)));
    assert_eq!(in_pack(1), [packed(1, 1, 40), packed(2, 1, 50), packed(3, 1, 4_000_000_000)], "by offset");
    write(store, |tx| {
        tx.lock_pack(pack(2))?;
        tx.put_packed(&[packed(1, 2, 7), packed(4, 2, 8)], Existing::Keep)?;
        tx.put_packed(&[packed(2, 2, 9)], Existing::Replace)
    });
    assert_eq!(in_pack(1), [packed(1, 1, 40), packed(3, 1, 4_000_000_000)], "one place was taken over, one kept");
    assert_eq!(in_pack(2), [packed(4, 2, 8), packed(2, 2, 9)]);
    let live = |blocks| Some(PackRecord { ended: None, blocks, bytes: 10 * blocks });
    assert_eq!(read(store, |r| r.packs(&[pack(2), pack(9), pack(1)])), [live(2), None, live(2)]);
    let list = |after, limit| read(store, |r| r.all_packed_blocks(after, limit));
    assert_eq!(list(None, 3), [block(1), block(2), block(3)]);
    assert_eq!(list(Some(block(2)), 3), [block(3), block(4)]);
    write(store, |tx| tx.forget_packed(&[block(1), block(3), block(9)]));
    assert_eq!(list(None, 10), [block(2), block(4)]);
    assert_eq!(read(store, |r| r.packs(&[pack(1), pack(2)])), [live(0), live(2)]);
    assert_eq!(read(store, |r| r.packs(&[])), []);
}

fn ended_packs(store: &dyn MetadataStore) {
    let pack = |n| PackId([n; 16]);
    for (n, time) in [(1, 20), (2, 30)] {
        write(store, |tx| {
            assert_eq!(tx.lock_pack(pack(n))?, None);
            tx.end_pack(pack(n), Timestamp(time))
        });
    }
    write(store, |tx| tx.lock_pack(pack(3)));
    assert_eq!(write(store, |tx| tx.lock_pack(pack(1))), Some(Timestamp(20)));
    let known = |n| read(store, |r| r.packs(&[pack(n)])).pop().flatten();
    assert_eq!(known(2), Some(PackRecord { ended: Some(Timestamp(30)), blocks: 0, bytes: 0 }));
    assert_eq!(write(store, |tx| tx.forget_ended_packs(Timestamp(30), 10)), 1);
    assert_eq!((known(1), known(2).is_some(), known(3).is_some()), (None, true, true));
    assert_eq!(write(store, |tx| tx.forget_ended_packs(Timestamp(99), 0)), 0);
}

fn unused_blocks(store: &dyn MetadataStore) {
    let block = |n| BlockHash([n; 32]);
    let unused = |n, since| UnusedBlock { hash: block(n), since: Timestamp(since), condemned: None };
    write(store, |tx| {
        tx.mark_unused(&[block(1), block(2)], Timestamp(20))?;
        tx.mark_unused(&[block(2), block(3)], Timestamp(10))
    });
    let asked = [block(3), block(9), block(2)];
    let expected = [Some(unused(3, 10)), None, Some(unused(2, 20))];
    assert_eq!(read(store, |r| r.unused_blocks(&asked)), expected, "the first mark stays");
    assert_eq!(write(store, |tx| tx.lock_unused(&asked)), expected);
    let since = |before, limit| read(store, |r| r.unused_since(Timestamp(before), limit));
    assert_eq!(since(20, 10), [unused(3, 10)]);
    assert_eq!(since(21, 10), [unused(3, 10), unused(1, 20), unused(2, 20)], "the longest first");
    assert_eq!(since(21, 2), [unused(3, 10), unused(1, 20)]);
    write(store, |tx| tx.condemn_unused(&[block(1), block(9)], Timestamp(30)));
    let condemned = UnusedBlock { condemned: Some(Timestamp(30)), ..unused(1, 20) };
    assert_eq!(read(store, |r| r.unused_blocks(&[block(1), block(9)])), [Some(condemned), None]);
    write(store, |tx| tx.forget_unused(&[block(1), block(3), block(9)]));
    assert_eq!(since(99, 10), [unused(2, 20)]);
    write(store, |tx| tx.mark_unused(&[block(1)], Timestamp(40)));
    assert_eq!(read(store, |r| r.unused_blocks(&[block(1)])), [Some(unused(1, 40))], "it begins anew");
    assert_eq!(write(store, |tx| tx.lock_unused(&[])), []);
}

/// Writers on many threads lose nothing and leave no gap.
fn concurrent_writers(store: &Arc<dyn MetadataStore>) {
    with_namespace(&**store);
    let writers: Vec<_> = (0..4_u8)
        .map(|n| {
            let store = Arc::clone(store);
            std::thread::spawn(move || {
                for _ in 0..25 {
                    write(&*store, |tx| {
                        let head = tx.lock_namespace(NS)?.map(|row| row.head).unwrap_or_default();
                        tx.append(NS, &[entry(head.next().0, id(n), Change::Delete)])
                    });
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("a writer");
    }
    let positions = read(&**store, |r| r.journal(NS, Position::START, PAGE));
    assert!(positions.iter().map(|record| record.entry.position.0).eq(1..=100), "no gap and no double");
}

/// What a snapshot shows belongs to one moment, whatever is written meanwhile.
fn snapshots_hold_still(store: &Arc<dyn MetadataStore>) {
    with_namespace(&**store);
    let writer = std::thread::spawn({
        let store = Arc::clone(store);
        move || {
            for n in 1..=100 {
                write(&*store, |tx| {
                    tx.append(NS, &[entry(n, id(1), Change::Delete)])?;
                    tx.set_live_nodes(NS, n)
                });
            }
        }
    });
    let mut seen = 0;
    while seen < 100 {
        let (row, entries, again) = read(&**store, |r| {
            let row = r.namespace(NS)?.expect("it exists");
            let entries = r.journal(NS, Position::START, PAGE)?.len() as u64;
            Ok((row, entries, r.namespace(NS)?.expect("it exists")))
        });
        assert_eq!((row.head.0, row.live_nodes, row), (entries, entries, again), "one moment");
        assert!(row.head.0 >= seen, "what was seen stays");
        seen = row.head.0;
    }
    writer.join().expect("the writer");
}
