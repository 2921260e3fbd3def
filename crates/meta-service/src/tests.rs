//! The service's behaviour, over the SQLite store in memory.

mod accounts;
mod caching;
mod coming;
mod commits;
mod concurrency;
mod gone_back;
mod history;
mod http;
mod packs;
mod paging;
mod random;
mod sharing;

use crate::{Environment, MetaService, PasswordCost};
use api::service::{Announce, Identity, MetaForBlocks, StoredBlock};
use api::{LinkReply, LinkRequest, ServerReply, ShareRequest};
use metadata_store::{JournalCache, MetadataStore, NodeRecord, PageLimit, SqliteStore, StoreError};
use model::{
    AccountId, BlockHash, Blocklist, Body, Change, Commit, CommitKey, CommitOutcome, DeviceId, JournalEntry, Mtime,
    Name, NamespaceId, NodeId, Operation, Position, Reason, Role, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const PASSWORD: &str = "correct horse battery staple";

/// A service with a clock that stands still and chance that is counted.
struct Bench {
    service: Arc<MetaService>,
    store: Arc<dyn MetadataStore>,
    heard: Arc<Heard>,
    clock: Arc<AtomicI64>,
    keys: AtomicU64,
}

/// What was announced.
#[derive(Default)]
struct Heard {
    reached: Mutex<Vec<(NamespaceId, Position)>>,
    /// By one device alone.
    reached_by: Mutex<Vec<(Position, DeviceId)>>,
    memberships: Mutex<BTreeSet<AccountId>>,
    unlinked: Mutex<Vec<DeviceId>>,
    coming: Mutex<Vec<(NamespaceId, DeviceId)>>,
}

impl Announce for Heard {
    fn reached(&self, namespace: NamespaceId, position: Position) {
        self.reached.lock().expect("no panic").push((namespace, position));
    }
    fn reached_by(&self, namespace: NamespaceId, position: Position, from: DeviceId) {
        self.reached(namespace, position);
        self.reached_by.lock().expect("no panic").push((position, from));
    }
    fn memberships_changed(&self, account: AccountId) {
        self.memberships.lock().expect("no panic").insert(account);
    }
    fn coming(&self, namespace: NamespaceId, from: DeviceId) {
        self.coming.lock().expect("no panic").push((namespace, from));
    }
    fn unlinked(&self, device: DeviceId) {
        self.unlinked.lock().expect("no panic").push(device);
    }
}

/// A linked device of an account.
#[derive(Clone)]
struct Person {
    who: Identity,
    root: NamespaceId,
    link: LinkReply,
    email: String,
}

impl Bench {
    fn new() -> Self {
        Self::over(Arc::new(SqliteStore::in_memory().expect("opens")))
    }

    fn over(store: Arc<dyn MetadataStore>) -> Self {
        Self::with_cache(store, None)
    }

    fn with_cache(store: Arc<dyn MetadataStore>, cache: Option<JournalCache>) -> Self {
        let heard = Arc::new(Heard::default());
        let clock = Arc::new(AtomicI64::new(1_000_000));
        let chance = AtomicU64::new(1);
        let environment = Environment::new(
            {
                let clock = Arc::clone(&clock);
                move || Timestamp(clock.load(Ordering::Relaxed))
            },
            move |bytes| {
                for piece in bytes.chunks_mut(8) {
                    let n = mix(chance.fetch_add(1, Ordering::Relaxed)).to_le_bytes();
                    piece.copy_from_slice(&n[..piece.len()]);
                }
            },
        )
        .with_password_cost(PasswordCost::Cheapest);
        let announce: Arc<dyn Announce> = heard.clone();
        let mut service = MetaService::new(Arc::clone(&store), announce, environment).expect("starts");
        if let Some(cache) = cache {
            service = service.with_journal_cache(cache);
        }
        Self { service: Arc::new(service), store, heard, clock, keys: AtomicU64::new(1) }
    }

    fn user(&self, email: &str) -> Person {
        self.service.add_user(email, PASSWORD).expect("a new account");
        self.device(email, "laptop")
    }

    fn device(&self, email: &str, name: &str) -> Person {
        let request = LinkRequest { email: email.into(), password: PASSWORD.into(), device_name: name.into() };
        let link = self.service.link(&request).expect("links");
        let who = Identity { account: link.account, device: link.device };
        Person { who, root: link.root, link, email: email.into() }
    }

    fn server(&self) -> ServerReply {
        self.service.server().expect("answers")
    }

    fn key(&self) -> CommitKey {
        CommitKey((u128::from(mix(self.keys.fetch_add(1, Ordering::Relaxed))) << 64).to_le_bytes())
    }

    fn new_node(&self) -> NodeId {
        let n = mix(self.keys.fetch_add(1, Ordering::Relaxed) | 1 << 40);
        NodeId((u128::from(n) << 32 | 7).to_le_bytes())
    }

    fn draft(&self, namespace: NamespaceId, seen: Position, operations: Vec<Operation>) -> Commit {
        Commit { namespace, epoch: self.server().epoch, key: self.key(), seen, operations }
    }

    /// Commits with everything seen.
    fn commit(&self, person: &Person, namespace: NamespaceId, operations: Vec<Operation>) -> CommitOutcome {
        let draft = self.draft(namespace, self.head(namespace), operations);
        self.service.commit(person.who, draft).expect("an outcome")
    }

    fn accept(&self, person: &Person, namespace: NamespaceId, operations: Vec<Operation>) -> Position {
        match self.commit(person, namespace, operations) {
            CommitOutcome::Accepted { head, .. } => head,
            CommitOutcome::Rejected(rejections) => panic!("refused: {rejections:?}"),
        }
    }

    fn refuse(&self, person: &Person, namespace: NamespaceId, operations: Vec<Operation>) -> Vec<(u32, Reason)> {
        refusals(self.commit(person, namespace, operations))
    }

    fn head(&self, namespace: NamespaceId) -> Position {
        self.store.snapshot(|r| r.namespace(namespace)).expect("reads").map(|row| row.head).unwrap_or_default()
    }

    fn record(&self, namespace: NamespaceId, node: NodeId) -> Option<NodeRecord> {
        self.store.snapshot(|r| r.node(namespace, node)).expect("reads")
    }

    /// Uploads a block of one byte's name for a person.
    fn upload(&self, person: &Person, block: u8) {
        let stored = StoredBlock { hash: BlockHash([block; 32]), len: 1 };
        self.service.stored(person.who, &[stored], None).expect("noted");
    }

    fn mkdir(&self, person: &Person, namespace: NamespaceId, parent: NodeId, text: &str) -> NodeId {
        let node = self.new_node();
        self.accept(person, namespace, vec![create(node, parent, text, Body::Directory)]);
        node
    }

    fn write(&self, person: &Person, namespace: NamespaceId, parent: NodeId, text: &str, block: u8) -> NodeId {
        self.upload(person, block);
        let node = self.new_node();
        self.accept(person, namespace, vec![create(node, parent, text, file(block))]);
        node
    }

    fn edit(&self, namespace: NamespaceId, node: NodeId, block: u8) -> Operation {
        let base_content = self.record(namespace, node).expect("it exists").content_rev;
        Operation::Edit { node, base_content, body: file(block) }
    }

    fn moved(&self, namespace: NamespaceId, node: NodeId, parent: NodeId, text: &str) -> Operation {
        let base_location = self.record(namespace, node).expect("it exists").location_rev;
        Operation::Move { node, base_location, parent, name: name(text) }
    }

    fn delete(&self, namespace: NamespaceId, node: NodeId) -> Operation {
        let record = self.record(namespace, node).expect("it exists");
        Operation::Delete { node, base_content: record.content_rev, base_location: record.location_rev }
    }

    fn share(&self, owner: &Person, node: NodeId, guest: &Person, role: Role) -> NamespaceId {
        let request = ShareRequest { namespace: owner.root, node, email: guest.email.clone(), role };
        self.service.share(owner.who, &request).expect("shared").namespace
    }

    /// The living tree as the node table has it: one `path` or `path=content` per line, sorted.
    fn tree(&self, namespace: NamespaceId) -> Vec<String> {
        let live = self.live(namespace);
        let mut lines: Vec<String> = live.keys().map(|node| describe(&live, namespace, *node)).collect();
        lines.sort();
        lines
    }

    /// All living nodes, found by walking from the root.
    fn live(&self, namespace: NamespaceId) -> BTreeMap<NodeId, NodeRecord> {
        let found = self.store.snapshot(|r| -> Result<_, StoreError> {
            let mut found = BTreeMap::new();
            let mut folders = vec![namespace.root()];
            while let Some(folder) = folders.pop() {
                for child in r.children(namespace, folder)? {
                    let record = r.node(namespace, child.node)?.expect("a child has a row");
                    if record.body.is_directory() {
                        folders.push(child.node);
                    }
                    assert!(found.insert(child.node, record).is_none(), "one parent each");
                }
            }
            Ok(found)
        });
        found.expect("reads")
    }

    fn journal(&self, namespace: NamespaceId) -> Vec<JournalEntry> {
        let all = PageLimit { entries: usize::MAX, blocks: usize::MAX };
        let records = self.store.snapshot(|r| r.journal(namespace, Position::START, all)).expect("reads");
        records.into_iter().map(|record| record.entry).collect()
    }

    /// The invariants of one namespace: I6, I8, the count of nodes, and the blocks that are named.
    fn check(&self, namespace: NamespaceId) {
        let journal = self.journal(namespace);
        let positions = journal.iter().map(|entry| entry.position.0);
        assert!(positions.eq(1..=self.head(namespace).0), "I8: positions are dense and end at the head");
        let folded = fold(namespace, &journal);
        let live = self.live(namespace);
        assert_eq!(folded, live, "I8: the journal folds to the tree");
        check_validity(namespace, &live);
        let row = self.store.snapshot(|r| r.namespace(namespace)).expect("reads").expect("exists");
        assert_eq!(row.live_nodes, live.len() as u64, "the count of living nodes");
        let blocks: Vec<BlockHash> = live.values().flat_map(|record| record.body.blocks()).copied().collect();
        let named = self.store.snapshot(|r| r.names_blocks(namespace, &blocks)).expect("reads");
        assert!(named.iter().all(|named| *named), "the namespace names its blocks");
    }
}

/// I6: every node reaches the root over living folders, and names are unique.
fn check_validity(namespace: NamespaceId, live: &BTreeMap<NodeId, NodeRecord>) {
    let mut names = BTreeSet::new();
    for record in live.values() {
        assert!(names.insert((record.parent, record.name.key())), "I6: {} is there twice", record.name);
        let mut at = record.parent;
        for _ in 0..=live.len() {
            if at == namespace.root() {
                break;
            }
            let parent = live.get(&at).expect("I6: a parent lives");
            assert!(parent.body.is_directory(), "I6: a parent is a folder");
            at = parent.parent;
        }
        assert_eq!(at, namespace.root(), "I6: no cycle");
    }
}

/// The tree that the entries describe, one after the other, as a client would read them.
fn fold(namespace: NamespaceId, journal: &[JournalEntry]) -> BTreeMap<NodeId, NodeRecord> {
    let mut tree: BTreeMap<NodeId, NodeRecord> = BTreeMap::new();
    for entry in journal {
        let (node, position) = (entry.node, entry.position);
        match entry.change.clone() {
            Change::Create { parent, name, body } => {
                let (content_rev, location_rev) = (position, position);
                let record = NodeRecord { node, parent, name, body, content_rev, location_rev, deleted: None };
                assert!(tree.insert(node, record).is_none(), "made once in {namespace:?}");
            }
            Change::Edit { body } => {
                if body == Body::Mount {
                    bury_below(&mut tree, node);
                }
                let record = tree.get_mut(&node).expect("an edited node lives");
                (record.body, record.content_rev) = (body, position);
            }
            Change::Move { parent, name } => {
                let record = tree.get_mut(&node).expect("a moved node lives");
                (record.parent, record.name, record.location_rev) = (parent, name, position);
            }
            Change::Delete => {
                bury_below(&mut tree, node);
                tree.remove(&node);
            }
        }
    }
    tree
}

fn bury_below(tree: &mut BTreeMap<NodeId, NodeRecord>, folder: NodeId) {
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        let children: Vec<NodeId> = tree.values().filter(|r| r.parent == folder).map(|r| r.node).collect();
        for child in children {
            tree.remove(&child);
            folders.push(child);
        }
    }
}

fn describe(live: &BTreeMap<NodeId, NodeRecord>, namespace: NamespaceId, node: NodeId) -> String {
    let record = &live[&node];
    let mut path = record.name.to_string();
    let mut at = record.parent;
    while at != namespace.root() {
        path = format!("{}/{path}", live[&at].name);
        at = live[&at].parent;
    }
    match &record.body {
        Body::Directory => format!("{path}/"),
        Body::File { blocks, .. } => format!("{path}={}", blocks.0.first().map_or(0, |block| block.0[0])),
        Body::Symlink { target } => format!("{path}->{target}"),
        Body::Mount => format!("{path}@"),
    }
}

fn refusals(outcome: CommitOutcome) -> Vec<(u32, Reason)> {
    match outcome {
        CommitOutcome::Accepted { .. } => panic!("accepted"),
        CommitOutcome::Rejected(rejections) => rejections.into_iter().map(|r| (r.index, r.reason)).collect(),
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a legal name")
}

fn file(block: u8) -> Body {
    Body::File { blocks: Blocklist(vec![BlockHash([block; 32])]), size: 1, executable: false, mtime: Mtime(0) }
}

fn empty_file() -> Body {
    Body::File { blocks: Blocklist::default(), size: 0, executable: false, mtime: Mtime(0) }
}

fn create(node: NodeId, parent: NodeId, text: &str, body: Body) -> Operation {
    Operation::Create { node, parent, name: name(text), body }
}

/// SplitMix64: spreads a counter over all bits.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
