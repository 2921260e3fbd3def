//! Servers that share one database: the meta service on a real MariaDB, in two processes.

use api::service::Identity;
use api::{ChangesRequest, LinkRequest, ServerReply, ShareRequest, Token};
use meta_service::MetaService;
use metadata_store_mysql::private_server::PrivateServer;
use model::{
    Blocklist, Body, Change, Commit, CommitKey, CommitOutcome, Mtime, Name, NamespaceId, NodeId, Operation, Position,
    Role,
};
use server::{Config, Overrides, Secret};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PASSWORD: &str = "correct horse battery staple";
const PROCESSES: u8 = 2;
const WRITERS: u8 = 32;
const NAMESPACES: u8 = 8;
/// Commits of each writer to each namespace.
const ROUNDS: u8 = 6;
/// Where a child process finds what it is to do.
const ORDERS: &str = "SYNCLINE_TEST_ORDERS";
/// How often a commit is sent that the server asks to send again: longer than the database is away.
const TRIES: u32 = 600;

/// The settings of one server, as its operator writes them.
fn config(folder: &Path, database: &PrivateServer) -> Config {
    let overrides = Overrides {
        data_dir: Some(folder.join("data")),
        metadata: Some(database.url(PrivateServer::DATABASE)),
        metadata_password: Some(Secret::from(PrivateServer::PASSWORD.to_owned())),
        ..Overrides::default()
    };
    Config::load(None, overrides).expect("valid settings")
}

fn device(meta: &MetaService, name: &str) -> (Token, Identity, NamespaceId) {
    let request = LinkRequest { email: "a@x".into(), password: PASSWORD.into(), device_name: name.into() };
    let link = meta.link(&request).expect("links");
    (link.token, Identity { account: link.account, device: link.device }, link.root)
}

fn creation(namespace: NamespaceId, node: NodeId, name: &str, body: Body) -> Operation {
    Operation::Create { node, parent: namespace.root(), name: Name::parse(name).expect("legal"), body }
}

fn empty_file() -> Body {
    Body::File { blocks: Blocklist(Vec::new()), size: 0, executable: false, mtime: Mtime(0) }
}

/// Sends a commit until it has an outcome, as a client does.
fn commit(meta: &MetaService, who: Identity, commit: &Commit) -> CommitOutcome {
    for _ in 0..TRIES {
        match meta.commit(who, commit.clone()) {
            Ok(outcome) => return outcome,
            Err(error) if error.code.is_transient() => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("no outcome after {TRIES} tries")
}

/// The account's root and shared folders beside it.
fn namespaces(meta: &MetaService, server: &ServerReply, who: Identity, root: NamespaceId) -> Vec<NamespaceId> {
    let mut found = vec![root];
    for number in 1..NAMESPACES {
        let node = NodeId([number; 16]);
        let operations = vec![creation(root, node, &format!("share {number}"), Body::Directory)];
        let (key, seen) = (CommitKey([number; 16]), Position::START);
        commit(meta, who, &Commit { namespace: root, epoch: server.epoch, key, seen, operations });
        let request = ShareRequest { namespace: root, node, email: "b@x".into(), role: Role::Viewer };
        found.push(meta.share(who, &request).expect("shares").namespace);
    }
    found
}

/// One process's part: its writers' tokens, each on a line, behind the namespaces.
fn orders(folder: &Path, process: u8, namespaces: &[NamespaceId], tokens: &[Token]) -> PathBuf {
    let mut text = String::new();
    for namespace in namespaces {
        text += &format!("namespace {namespace}\n");
    }
    for token in tokens {
        text += &format!("token {}\n", token.to_hex());
    }
    let path = folder.join(format!("orders {process}"));
    fs::write(&path, text).expect("writes");
    path
}

fn start_process(orders: &Path, url: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", "one_of_two_processes", "--nocapture"]);
    command.env(ORDERS, orders).env("SYNCLINE_TEST_DATABASE", url);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts")
}

#[test]
#[ignore = "started by the test of two processes"]
fn one_of_two_processes() {
    let path = PathBuf::from(std::env::var_os(ORDERS).expect("orders"));
    let text = fs::read_to_string(&path).expect("reads");
    let each = |what: &str| -> Vec<&str> { text.lines().filter_map(|line| line.strip_prefix(what)).collect() };
    let namespaces: Vec<NamespaceId> = each("namespace ").iter().map(|id| id.parse().expect("an id")).collect();
    let overrides = Overrides {
        data_dir: Some(path.with_extension("data")),
        metadata: std::env::var("SYNCLINE_TEST_DATABASE").ok(),
        metadata_password: Some(Secret::from(PrivateServer::PASSWORD.to_owned())),
        ..Overrides::default()
    };
    let meta = server::open(&Config::load(None, overrides).expect("valid")).expect("opens");
    let server = meta.server().expect("answers");
    std::thread::scope(|scope| {
        for token in each("token ") {
            let (meta, server, namespaces) = (&meta, &server, &namespaces);
            scope.spawn(move || {
                let token = Token::from_hex(token).expect("a token");
                let who = meta.identify(&token).expect("a device");
                for round in 0..ROUNDS {
                    for namespace in namespaces {
                        let (device, place) = (who.device.as_bytes(), namespace.as_bytes());
                        let mut id: [u8; 16] = std::array::from_fn(|byte| device[byte] ^ place[byte]);
                        id[0] = round;
                        let operations = vec![creation(*namespace, NodeId(id), &hex(&id), empty_file())];
                        let key =
                            CommitKey([[round; 8], [namespace.as_bytes()[0]; 8]].concat().try_into().expect("16"));
                        let seen = Position::START;
                        let draft = Commit { namespace: *namespace, epoch: server.epoch, key, seen, operations };
                        let outcome = commit(meta, who, &draft);
                        assert!(matches!(outcome, CommitOutcome::Accepted { .. }), "{outcome:?}");
                        assert_eq!(commit(meta, who, &draft), outcome, "sent twice, it happened once");
                    }
                }
            });
        }
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 writers in two processes, 8 namespaces, and a database that is killed while they write.
#[test]
fn the_journals_of_servers_that_share_a_database_are_dense_and_every_commit_happens_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut database = PrivateServer::start();
    let meta = server::open(&config(folder.path(), &database)).expect("opens");
    meta.add_user("a@x", PASSWORD).expect("adds");
    meta.add_user("b@x", PASSWORD).expect("adds");
    let server = meta.server().expect("answers");
    let (_, who, root) = device(&meta, "reader");
    let namespaces = namespaces(&meta, &server, who, root);
    let tokens: Vec<Token> = (0..WRITERS).map(|writer| device(&meta, &format!("writer {writer}")).0).collect();
    let before: BTreeMap<NamespaceId, u64> = heads(&meta, &server, who, &namespaces);
    let mut processes: Vec<Child> = (0..PROCESSES)
        .zip(tokens.chunks(usize::from(WRITERS / PROCESSES)))
        .map(|(process, tokens)| {
            let orders = orders(folder.path(), process, &namespaces, tokens);
            start_process(&orders, &database.url(PrivateServer::DATABASE))
        })
        .collect();
    let expected = u64::from(WRITERS) * u64::from(ROUNDS);
    let written = || heads(&meta, &server, who, &namespaces).values().sum::<u64>();
    let enough = before.values().sum::<u64>() + expected * u64::from(NAMESPACES) / 3;
    while written() < enough {
        let ended = processes.iter_mut().find_map(|process| process.try_wait().expect("is watched"));
        assert_eq!(ended, None, "a process ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    database.kill();
    database.run();
    for mut process in processes {
        assert!(process.wait().expect("ends").success(), "a writer was not served as it must be");
    }
    for (namespace, head) in heads(&meta, &server, who, &namespaces) {
        assert_eq!(head, before[&namespace] + expected, "one entry for each commit");
    }
}

/// The heads of namespaces, from reading their whole journals, which have no gap and no node twice.
fn heads(
    meta: &MetaService,
    server: &ServerReply,
    who: Identity,
    namespaces: &[NamespaceId],
) -> BTreeMap<NamespaceId, u64> {
    let mut heads = BTreeMap::new();
    for namespace in namespaces {
        let mut position = Position::START;
        let mut created = std::collections::BTreeSet::new();
        loop {
            let cursor = BTreeMap::from([(*namespace, position)]);
            let request = ChangesRequest { instance: server.instance, epoch: server.epoch, cursor };
            let changes = (0..TRIES).find_map(|_| meta.changes(who, &request).ok()).expect("changes");
            let page = &changes.namespaces[0];
            for entry in &page.entries {
                assert_eq!(entry.position, position.next(), "no gap and no double in {namespace}");
                position = entry.position;
                if matches!(entry.change, Change::Create { .. }) {
                    assert!(created.insert(entry.node), "{} was created twice", entry.node);
                }
            }
            if page.entries.is_empty() {
                break;
            }
        }
        heads.insert(*namespace, position.0);
    }
    heads
}

#[test]
fn servers_that_start_at_once_on_an_empty_database_are_one_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = PrivateServer::start();
    let config = config(folder.path(), &database);
    let instances: Vec<_> = std::thread::scope(|scope| {
        let start = || server::open(&config).expect("opens").server().expect("answers").instance;
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        starting.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    assert!(instances.iter().all(|instance| *instance == instances[0]), "{instances:?}");
}
