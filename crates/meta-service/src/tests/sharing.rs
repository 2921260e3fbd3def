//! Shared folders from invitation to farewell.

use super::*;
use api::{ApiError, ErrorCode, LeaveRequest, RemoveMemberRequest, ShareReply};
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};
use model::limits;
use std::sync::Barrier;

/// An owner with a folder `s` that holds `d/f` and `g`, and two guests.
fn setup() -> (Bench, Person, Person, Person, NodeId) {
    let bench = Bench::new();
    let (owner, guest, other) = (bench.user("owner@x"), bench.user("guest@x"), bench.user("other@x"));
    let top = owner.root.root();
    let folder = bench.mkdir(&owner, owner.root, top, "s");
    let inner = bench.mkdir(&owner, owner.root, folder, "d");
    bench.write(&owner, owner.root, inner, "f", 1);
    bench.write(&owner, owner.root, folder, "g", 2);
    (bench, owner, guest, other, folder)
}

fn try_share(bench: &Bench, by: &Person, ns: NamespaceId, node: NodeId, email: &str) -> Result<ShareReply, ApiError> {
    let request = ShareRequest { namespace: ns, node, email: email.into(), role: Role::Editor };
    bench.service.share(by.who, &request)
}

fn code<T>(result: Result<T, ApiError>) -> Result<(), ErrorCode> {
    result.map(drop).map_err(|error| error.code)
}

fn leave(bench: &Bench, person: &Person, namespace: NamespaceId) -> Result<(), ErrorCode> {
    code(bench.service.leave(person.who, &LeaveRequest { namespace }))
}

fn remove(bench: &Bench, by: &Person, namespace: NamespaceId, email: &str) -> Result<(), ErrorCode> {
    code(bench.service.remove_member(by.who, &RemoveMemberRequest { namespace, email: email.into() }))
}

#[test]
fn a_shared_folder_becomes_a_namespace_and_keeps_its_nodes() {
    let (bench, owner, guest, _, folder) = setup();
    let before = bench.live(owner.root);
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    assert_eq!(share.root(), folder);
    assert_eq!(bench.tree(owner.root), ["s@"]);
    assert_eq!(bench.tree(guest.root), ["s@"]);
    assert_eq!(bench.tree(share), ["d/", "d/f=1", "g=2"]);
    for node in bench.live(share).keys() {
        assert!(before.contains_key(node), "ids stay");
    }
    for ns in [owner.root, guest.root, share] {
        bench.check(ns);
    }
    let last = bench.journal(owner.root).pop().expect("an entry");
    assert_eq!(last.change, Change::Edit { body: Body::Mount });
    assert_eq!(bench.journal(guest.root)[0].device, None, "the server made the mount");
    let reached: BTreeSet<NamespaceId> = bench.heard.reached.lock().expect("no panic").iter().map(|r| r.0).collect();
    assert_eq!(reached, BTreeSet::from([owner.root, guest.root, share]));
    let told = bench.heard.memberships.lock().expect("no panic").clone();
    assert_eq!(told, BTreeSet::from([owner.who.account, guest.who.account]));
}

#[test]
fn members_read_what_is_shared_and_not_what_it_was_before() {
    let (bench, owner, guest, _, folder) = setup();
    let g = bench.live(owner.root).into_values().find(|r| r.name == name("g")).expect("it exists").node;
    bench.upload(&owner, 9);
    bench.accept(&owner, owner.root, vec![bench.edit(owner.root, g, 9)]);
    let share = bench.share(&owner, folder, &guest, Role::Viewer);
    let blocks = [1, 2, 9].map(|n| BlockHash([n; 32]));
    assert_eq!(bench.service.readable(guest.who, share, &blocks), Ok(vec![true, false, true]));
    assert_eq!(bench.service.readable(owner.who, owner.root, &blocks), Ok(vec![true, true, true]));
}

/// Devices hold all their namespaces as one tree: what is made with another's id in a share would take that one's place.
#[test]
fn a_member_cannot_use_the_id_of_a_node_in_another_namespace() {
    let (bench, owner, guest, other, folder) = setup();
    let private = bench.write(&owner, owner.root, owner.root.root(), "private", 3);
    let share = bench.share(&owner, folder, &guest, Role::Viewer);
    let [g, d] = ["g", "d"]
        .map(|text| bench.live(share).into_values().find(|record| record.name == name(text)).expect("it exists").node);
    let own = bench.mkdir(&guest, guest.root, guest.root.root(), "own");
    let make = |node, parent| vec![create(node, parent, "x", Body::Directory)];
    for taken in [g, d, private] {
        assert_eq!(
            bench.refuse(&guest, guest.root, make(taken, own)),
            [(0, Reason::NodeExists)],
            "nor before it shares"
        );
    }
    let theirs = bench.share(&guest, own, &owner, Role::Editor);
    for taken in [g, d, private] {
        assert_eq!(bench.refuse(&guest, theirs, make(taken, own)), [(0, Reason::NodeExists)]);
    }
    bench.accept(&owner, share, vec![bench.delete(share, g)]);
    assert_eq!(bench.refuse(&guest, theirs, make(g, own)), [(0, Reason::NodeExists)], "not even after its death");
    assert_eq!(remove(&bench, &owner, share, "guest@x"), Ok(()));
    assert_eq!(bench.refuse(&guest, theirs, make(d, own)), [(0, Reason::NodeExists)], "nor as a former member");
    let all = vec![create(bench.new_node(), own, "new", Body::Directory), create(d, own, "x", Body::Directory)];
    assert_eq!(bench.refuse(&guest, theirs, all), [(1, Reason::NodeExists)]);
    assert_eq!(bench.refuse(&other, other.root, make(private, other.root.root())), [(0, Reason::NodeExists)]);
    for ns in [owner.root, guest.root, share, theirs] {
        bench.check(ns);
    }
}

#[test]
fn editors_write_viewers_get_a_rejection_and_strangers_an_error() {
    let (bench, owner, guest, other, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Viewer);
    let new = |text| vec![create(bench.new_node(), folder, text, empty_file())];
    assert_eq!(bench.refuse(&guest, share, new("v")), [(0, Reason::Forbidden)]);
    let draft = bench.draft(share, Position(0), new("x"));
    assert_eq!(code(bench.service.commit(other.who, draft)), Err(ErrorCode::Forbidden));
    assert_eq!(bench.share(&owner, folder, &guest, Role::Editor), share, "inviting again sets the role");
    bench.accept(&guest, share, new("e"));
    bench.accept(&owner, share, new("o"));
    assert_eq!(bench.tree(guest.root), ["s@"], "one mount");
    assert_eq!(bench.tree(share), ["d/", "d/f=1", "e=0", "g=2", "o=0"]);
    bench.check(share);
}

#[test]
fn a_mount_takes_the_next_free_name_and_can_be_renamed_and_moved() {
    let (bench, owner, guest, _, folder) = setup();
    bench.write(&guest, guest.root, guest.root.root(), "S", 3);
    bench.mkdir(&guest, guest.root, guest.root.root(), "s (2)");
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    assert_eq!(bench.tree(guest.root), ["S=3", "s (2)/", "s (3)@"]);
    let place = bench.mkdir(&guest, guest.root, guest.root.root(), "place");
    bench.accept(&guest, guest.root, vec![bench.moved(guest.root, share.root(), place, "theirs")]);
    assert_eq!(bench.tree(guest.root), ["S=3", "place/", "place/theirs@", "s (2)/"]);
    assert_eq!(bench.tree(owner.root), ["s@"], "each member has its own name for it");
    let shares = bench.service.shares(guest.who).expect("lists").shares;
    assert_eq!((shares[0].name.clone(), shares[0].mounted, shares[0].role), (Some(name("theirs")), true, Role::Editor));
    let emails: Vec<&str> = shares[0].members.iter().map(|member| member.email.as_str()).collect();
    assert_eq!((shares.len(), emails), (1, vec!["owner@x", "guest@x"]));
    bench.check(guest.root);
}

#[test]
fn nothing_is_created_under_a_mount_in_the_namespace_around_it() {
    let (bench, owner, guest, _, folder) = setup();
    bench.share(&owner, folder, &guest, Role::Editor);
    for person in [&owner, &guest] {
        let inside = create(bench.new_node(), folder, "x", empty_file());
        assert_eq!(bench.refuse(person, person.root, vec![inside]), [(0, Reason::NotADirectory)]);
    }
}

#[test]
fn a_folder_around_a_mount_is_neither_deleted_nor_shared() {
    let (bench, owner, guest, other, folder) = setup();
    let around = bench.mkdir(&owner, owner.root, owner.root.root(), "around");
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    bench.accept(&owner, owner.root, vec![bench.moved(owner.root, folder, around, "s")]);
    assert_eq!(bench.refuse(&owner, owner.root, vec![bench.delete(owner.root, around)]), [(0, Reason::HoldsMount)]);
    assert_eq!(code(try_share(&bench, &owner, owner.root, around, "other@x")), Err(ErrorCode::BadRequest));
    let inner = bench.live(share).into_values().find(|r| r.name == name("d")).expect("it exists").node;
    assert_eq!(code(try_share(&bench, &owner, share, inner, "other@x")), Err(ErrorCode::BadRequest));
    assert_eq!(code(try_share(&bench, &owner, share, folder, "other@x")), Ok(()), "the share by its own root");
    assert_eq!(bench.tree(other.root), ["s@"]);
    for ns in [owner.root, guest.root, other.root, share] {
        bench.check(ns);
    }
}

#[test]
fn only_the_owner_invites_and_only_into_its_own_folders() {
    let (bench, owner, guest, _, folder) = setup();
    assert_eq!(code(try_share(&bench, &guest, owner.root, folder, "other@x")), Err(ErrorCode::Forbidden));
    let file = bench.write(&owner, owner.root, owner.root.root(), "file", 1);
    assert_eq!(code(try_share(&bench, &owner, owner.root, file, "guest@x")), Err(ErrorCode::BadRequest));
    assert_eq!(code(try_share(&bench, &owner, owner.root, folder, "nobody@x")), Err(ErrorCode::NotFound));
    assert_eq!(code(try_share(&bench, &owner, owner.root, folder, "OWNER@x")), Err(ErrorCode::BadRequest));
    assert_eq!(code(try_share(&bench, &owner, owner.root, bench.new_node(), "guest@x")), Err(ErrorCode::NotFound));
    assert_eq!(code(try_share(&bench, &owner, owner.root, owner.root.root(), "guest@x")), Err(ErrorCode::NotFound));
    assert_eq!(bench.tree(owner.root), ["file=1", "s/", "s/d/", "s/d/f=1", "s/g=2"], "nothing was half done");
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    assert_eq!(code(try_share(&bench, &guest, guest.root, share.root(), "other@x")), Err(ErrorCode::Forbidden));
    let request = ShareRequest { namespace: owner.root, node: folder, email: "other@x".into(), role: Role::Owner };
    assert_eq!(code(bench.service.share(owner.who, &request)), Err(ErrorCode::BadRequest));
}

#[test]
fn a_removed_member_loses_mount_and_access_at_once() {
    let (bench, owner, guest, other, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    assert_eq!(remove(&bench, &guest, share, "owner@x"), Err(ErrorCode::Forbidden));
    assert_eq!(remove(&bench, &owner, share, "other@x"), Err(ErrorCode::NotFound));
    assert_eq!(remove(&bench, &owner, share, "nobody@x"), Err(ErrorCode::NotFound));
    assert_eq!(remove(&bench, &owner, share, "owner@x"), Err(ErrorCode::BadRequest));
    assert_eq!(remove(&bench, &other, share, "guest@x"), Err(ErrorCode::Forbidden));
    assert_eq!(remove(&bench, &owner, share, "Guest@X"), Ok(()));
    assert_eq!(bench.tree(guest.root), [""; 0]);
    let farewell = bench.journal(guest.root).pop().expect("an entry");
    assert_eq!((farewell.change, farewell.device), (Change::Delete, None));
    let draft = bench.draft(share, Position(0), vec![create(bench.new_node(), folder, "x", empty_file())]);
    assert_eq!(code(bench.service.commit(guest.who, draft)), Err(ErrorCode::Forbidden));
    assert_eq!(code(bench.service.readable(guest.who, share, &[])), Err(ErrorCode::Forbidden));
    let followed = api::service::MetaForNotification::heads(&*bench.service, guest.who.account).expect("lists");
    assert_eq!(followed.iter().map(|(ns, _)| *ns).collect::<Vec<_>>(), [guest.root]);
    assert_eq!(bench.tree(share).len(), 3, "the others keep all");
    bench.check(guest.root);
}

#[test]
fn who_left_can_be_invited_again() {
    let (bench, owner, guest, _, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    for _ in 0..2 {
        assert_eq!(leave(&bench, &guest, share), Ok(()));
        assert_eq!(bench.tree(guest.root), [""; 0]);
        assert_eq!(leave(&bench, &guest, share), Err(ErrorCode::Forbidden));
        assert_eq!(bench.share(&owner, folder, &guest, Role::Viewer), share);
        assert_eq!(bench.tree(guest.root), ["s@"]);
        bench.check(guest.root);
    }
}

#[test]
fn a_member_who_deletes_the_mount_leaves_and_an_owner_may_not() {
    let (bench, owner, guest, _, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    bench.heard.memberships.lock().expect("no panic").clear();
    bench.accept(&guest, guest.root, vec![bench.delete(guest.root, share.root())]);
    assert_eq!(bench.service.shares(guest.who).expect("lists").shares, []);
    assert_eq!(*bench.heard.memberships.lock().expect("no panic"), BTreeSet::from([guest.who.account]));
    assert_eq!(bench.refuse(&owner, owner.root, vec![bench.delete(owner.root, folder)]), [(0, Reason::HoldsMount)]);
    assert_eq!(bench.tree(share), ["d/", "d/f=1", "g=2"]);
    bench.check(guest.root);
}

#[test]
fn an_owner_cannot_leave_and_hears_what_to_do() {
    let (bench, owner, guest, _, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Editor);
    let message = |namespace| {
        let error = bench.service.leave(owner.who, &LeaveRequest { namespace }).expect_err("refused");
        assert_eq!(error.code, ErrorCode::BadRequest);
        error.message
    };
    assert!(message(share).contains("remove its other members first"));
    assert_eq!(remove(&bench, &owner, share, "guest@x"), Ok(()));
    assert!(message(share).contains("only member"));
    assert!(message(owner.root).contains("your own tree"));
}

#[test]
fn a_folder_whose_id_another_tree_has_already_is_not_mounted_over_it() {
    let (bench, owner, guest, _, folder) = setup();
    // A server of an earlier version let a client do that.
    let mine = NodeRecord {
        node: folder,
        parent: guest.root.root(),
        name: name("mine"),
        body: Body::Directory,
        content_rev: Position(1),
        location_rev: Position(1),
        deleted: None,
    };
    bench.store.write(|tx| tx.put_nodes(guest.root, std::slice::from_ref(&mine))).expect("writes");
    assert_eq!(code(try_share(&bench, &owner, owner.root, folder, "guest@x")), Err(ErrorCode::AlreadyExists));
    assert_eq!(bench.tree(owner.root), ["s/", "s/d/", "s/d/f=1", "s/g=2"], "nothing was half done");
    assert_eq!(bench.tree(guest.root), ["mine/"]);
}

/// All lists are in memory at once, several times: a request of a hundred bytes could take all there is.
#[test]
fn neither_sharing_nor_restoring_reads_more_than_so_many_blocks() {
    const BLOCKS: usize = limits::COMMIT_BLOCKS;
    let (bench, owner, guest, _, folder) = setup();
    bench.upload(&owner, 1);
    for n in 0..9 {
        let body = Body::File {
            blocks: Blocklist(vec![BlockHash([1; 32]); BLOCKS]),
            size: BLOCKS as u64 * model::BLOCK_SIZE,
            executable: false,
            mtime: Mtime(0),
        };
        bench.accept(&owner, owner.root, vec![create(bench.new_node(), folder, &format!("large {n}"), body)]);
    }
    assert_eq!(code(try_share(&bench, &owner, owner.root, folder, "guest@x")), Err(ErrorCode::BadRequest));
    bench.accept(&owner, owner.root, vec![bench.delete(owner.root, folder)]);
    let request = api::RestoreRequest { namespace: owner.root, node: folder, position: None };
    assert_eq!(code(bench.service.restore(owner.who, &request)), Err(ErrorCode::BadRequest));
    assert_eq!((bench.tree(owner.root), bench.tree(guest.root)), (vec![], vec![]));
}

#[test]
fn a_member_without_a_mount_gets_it_with_the_next_invitation() {
    let (bench, owner, guest, _, folder) = setup();
    let share = bench.share(&owner, folder, &guest, Role::Viewer);
    assert_eq!(leave(&bench, &guest, share), Ok(()));
    // Two transactions of a server of an earlier version could do that between them.
    bench.store.write(|tx| tx.set_member(share, guest.who.account, Role::Viewer)).expect("writes");
    assert_eq!(bench.share(&owner, folder, &guest, Role::Editor), share);
    assert_eq!(bench.tree(guest.root), ["s@"]);
    bench.check(guest.root);
}

/// Each has a lock of its own there, and the one must not see half of what the other does.
#[test]
fn on_mariadb_a_member_who_leaves_while_its_role_changes_has_a_mount_or_is_no_member() {
    const ROUNDS: usize = 40;
    let server = PrivateServer::start();
    let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
    let store = MysqlStore::open(&server.options(), Some(PrivateServer::PASSWORD), pauses).expect("opens");
    let bench = Bench::over(Arc::new(store));
    let (owner, guest) = (bench.user("owner@x"), bench.user("guest@x"));
    let folder = bench.mkdir(&owner, owner.root, owner.root.root(), "s");
    let share = bench.share(&owner, folder, &guest, Role::Viewer);
    let gate = Barrier::new(2);
    for _ in 0..ROUNDS {
        let delete = bench.delete(guest.root, folder);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                gate.wait();
                bench.commit(&guest, guest.root, vec![delete])
            });
            gate.wait();
            try_share(&bench, &owner, owner.root, folder, "guest@x").expect("invites");
        });
        let is_member = bench.store.snapshot(|r| r.role(share, guest.who.account)).expect("reads").is_some();
        assert_eq!(bench.tree(guest.root), if is_member { vec!["s@"] } else { vec![] });
        bench.share(&owner, folder, &guest, Role::Viewer);
    }
    bench.check(guest.root);
}
