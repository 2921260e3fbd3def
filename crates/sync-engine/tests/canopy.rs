//! Planner properties: one tree, perturbed on the disk and on the server, must come together again
//! without losing, inventing or doubling a value.
//!
//! `CANOPY_CASES` sets the number of cases, `CANOPY_SEED` the first seed.

mod support;

use model::{Body, Commit, CommitKey, CommitOutcome, Epoch, Mtime, Name, NameKey, NodeId, Operation};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use support::disk::{Data, blocklist};
use support::driver::Device;
use support::server::{ROOT, Server};
use sync_engine::io::LocalPath;

const NAMES: [&str; 6] = ["a", "b", "c", "A", "\u{e9}", "e\u{301}"];
const CASES: u64 = 1_500;
/// A run ends after so many failures; together they say more than the first alone.
const FAILURES: usize = 20;

/// What has happened over all cases; a generator that never reaches one of these proves nothing.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    fn count(&mut self, what: &'static str, happened: bool) {
        *self.0.entry(what).or_default() += u64::from(happened);
    }
}

/// What the values written so far should have become.
#[derive(Debug, Default)]
struct Ghost {
    next: u64,
    /// Written and not superseded.
    live: BTreeSet<Vec<u8>>,
    /// Superseded by an edit: must be gone.
    edited: BTreeSet<Vec<u8>>,
    all: BTreeSet<Vec<u8>>,
    /// What each value replaced.
    before: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Ghost {
    fn write(&mut self) -> Vec<u8> {
        self.next += 1;
        let value = format!("value {}", self.next).into_bytes();
        self.live.insert(value.clone());
        self.all.insert(value.clone());
        value
    }

    fn edit(&mut self, old: &[u8], new: &[u8]) {
        self.live.remove(old);
        self.edited.insert(old.to_vec());
        self.before.insert(new.to_vec(), old.to_vec());
    }

    /// Deleting an edited file deletes what the edit replaced; and a value that was only deleted may come
    /// back if the other side moved it (policy M of the conflict table).
    fn delete(&mut self, value: &[u8]) {
        self.live.remove(value);
        let mut at = value.to_vec();
        while let Some(old) = self.before.get(&at).cloned() {
            self.edited.remove(&old);
            at = old;
        }
    }
}

struct Case {
    device: Device,
    server: Server,
    ghost: Ghost,
    random: ChaCha8Rng,
    /// What each side did to each base path, for the coverage.
    edited_here: BTreeSet<Vec<u8>>,
    deleted_here: BTreeSet<Vec<u8>>,
    edited_there: BTreeSet<Vec<u8>>,
    deleted_there: BTreeSet<Vec<u8>>,
    /// Local paths from which something was renamed away.
    vacated: BTreeSet<Vec<NameKey>>,
    /// A vacated path was taken again before the next scan: the disk then looks as if the file had been
    /// copied and edited (which is also how editors make backups), and the copied value lives on.
    looks_like_a_copy: bool,
}

impl Case {
    fn new(seed: u64) -> Self {
        Self {
            device: Device::new(seed, "laptop"),
            server: Server::default(),
            ghost: Ghost::default(),
            random: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
            edited_here: BTreeSet::new(),
            deleted_here: BTreeSet::new(),
            edited_there: BTreeSet::new(),
            deleted_there: BTreeSet::new(),
            vacated: BTreeSet::new(),
            looks_like_a_copy: false,
        }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.random.random_range(0..from.len())].clone())
    }

    fn some_directory(&mut self) -> LocalPath {
        let mut folders: Vec<LocalPath> = self.device.disk.entries.keys().cloned().collect();
        folders.retain(|path| self.device.disk.is_directory(path));
        folders.push(LocalPath::root());
        self.pick(&folders).expect("the root at least")
    }

    /// A name that does not collide by key on this case-sensitive disk (the observer would rightly
    /// refuse to sync the second one).
    fn free_local_path(&mut self) -> Option<LocalPath> {
        let folder = self.some_directory();
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        let key = Name::parse(name).expect("legal").key();
        let taken = self.device.disk.entries.keys().any(|path| {
            path.split().is_some_and(|(parent, there)| {
                parent == folder && Name::parse_bytes(there).is_ok_and(|there| there.key() == key)
            })
        });
        (!taken).then(|| folder.join(name.as_bytes()))
    }

    fn act_on_disk(&mut self) {
        self.act_on_disk_once();
        self.looks_like_a_copy |= self.device.disk.entries.keys().any(|path| self.vacated.contains(&keys(path)));
    }

    fn act_on_disk_once(&mut self) {
        let paths: Vec<LocalPath> = self.device.disk.entries.keys().cloned().collect();
        match self.random.random_range(0..10) {
            0 | 1 => {
                if let Some(path) = self.free_local_path() {
                    let value = self.ghost.write();
                    assert!(self.device.disk.write(&path, &value));
                }
            }
            2 => {
                if let Some(path) = self.free_local_path() {
                    self.device.disk.make_directory(&path);
                }
            }
            3 => {
                if let Some(path) = self.free_local_path() {
                    self.device.disk.make_directory(&path);
                    let inside = path.join(b"a");
                    let value = self.ghost.write();
                    assert!(self.device.disk.write(&inside, &value));
                }
            }
            4 | 5 => {
                let Some(path) = self.pick(&paths) else { return };
                if let Some(Data::File(old)) = self.device.disk.entries.get(&path).map(|e| e.data.clone()) {
                    let value = self.ghost.write();
                    self.ghost.edit(&old, &value);
                    self.edited_here.insert(old);
                    assert!(self.device.disk.write(&path, &value));
                }
            }
            6 => {
                let Some(path) = self.pick(&paths) else { return };
                let mut dead = self.device.disk.below(&path);
                dead.push(path.clone());
                for path in dead {
                    if let Some(Data::File(old)) = self.device.disk.entries.get(&path).map(|e| e.data.clone()) {
                        self.ghost.delete(&old);
                        self.deleted_here.insert(old);
                    }
                }
                self.device.disk.remove_all(&path);
            }
            _ => {
                let (Some(from), Some(to)) = (self.pick(&paths), self.free_local_path()) else { return };
                let below = self.device.disk.below(&from);
                if self.device.disk.rename(&from, &to) {
                    let (old, new) = (keys(&from), keys(&to));
                    let moved_along = |path: &Vec<NameKey>| {
                        path.strip_prefix(&*old).map(|rest| new.iter().chain(rest).cloned().collect::<Vec<_>>())
                    };
                    let along: Vec<_> = self.vacated.iter().filter_map(moved_along).collect();
                    self.vacated.extend(along);
                    self.vacated.extend(below.iter().map(keys));
                    self.vacated.insert(keys(&from));
                }
            }
        }
    }

    fn commit_there(&mut self, operation: Operation) -> bool {
        let mut key = [0; 16];
        self.random.fill_bytes(&mut key);
        let commit = Commit {
            namespace: ROOT,
            epoch: Epoch(1),
            key: CommitKey(key),
            seen: self.server.head(),
            operations: vec![operation],
        };
        matches!(self.server.commit(&commit), CommitOutcome::Accepted { .. })
    }

    fn file_body(&mut self) -> (Body, Vec<u8>) {
        let value = self.ghost.write();
        let blocks = blocklist(&value);
        self.server.blocks.insert(blocks.0[0], value.clone());
        let mtime = Mtime(i64::from(self.random.random_range(0..1_000_000)));
        (Body::File { blocks, size: value.len() as u64, executable: false, mtime }, value)
    }

    fn value_of(&self, body: &Body) -> Option<Vec<u8>> {
        body.blocks().first().map(|hash| self.server.blocks[hash].clone())
    }

    fn act_on_server(&mut self) {
        let ids: Vec<NodeId> = self.server.nodes.keys().copied().collect();
        let mut folders: Vec<NodeId> =
            ids.iter().copied().filter(|id| self.server.nodes[id].body.is_directory()).collect();
        folders.push(ROOT.root());
        let parent = self.pick(&folders).expect("the root at least");
        let name = Name::parse(NAMES[self.random.random_range(0..NAMES.len())]).expect("legal");
        match self.random.random_range(0..10) {
            0 | 1 => {
                let (body, value) = self.file_body();
                let node = self.fresh_node();
                if !self.commit_there(Operation::Create { node, parent, name, body }) {
                    self.ghost.live.remove(&value);
                }
            }
            2 | 3 => {
                let node = self.fresh_node();
                self.commit_there(Operation::Create { node, parent, name, body: Body::Directory });
            }
            4 | 5 => {
                let Some(node) = self.pick(&ids) else { return };
                let old = self.server.nodes[&node].clone();
                let Some(before) = self.value_of(&old.body) else { return };
                let (body, value) = self.file_body();
                assert!(self.commit_there(Operation::Edit { node, base_content: old.content_rev, body }));
                self.ghost.edit(&before, &value);
                self.edited_there.insert(before);
            }
            6 => {
                let Some(node) = self.pick(&ids) else { return };
                let old = self.server.nodes[&node].clone();
                let mut dead = self.server.below(node);
                dead.push(node);
                let values: Vec<Vec<u8>> =
                    dead.iter().filter_map(|id| self.value_of(&self.server.nodes[id].body)).collect();
                let delete = Operation::Delete { node, base_content: old.content_rev, base_location: old.location_rev };
                assert!(self.commit_there(delete));
                for value in values {
                    self.ghost.delete(&value);
                    self.deleted_there.insert(value);
                }
            }
            _ => {
                let Some(node) = self.pick(&ids) else { return };
                let base_location = self.server.nodes[&node].location_rev;
                self.commit_there(Operation::Move { node, base_location, parent, name });
            }
        }
    }

    fn fresh_node(&mut self) -> NodeId {
        let mut id = [0; 16];
        self.random.fill_bytes(&mut id);
        NodeId(id)
    }

    fn count(&self, coverage: &mut Coverage, parked: bool) {
        let both = |a: &BTreeSet<Vec<u8>>, b: &BTreeSet<Vec<u8>>| a.intersection(b).next().is_some();
        coverage.count("edit met edit", both(&self.edited_here, &self.edited_there));
        coverage.count("my edit met their delete", both(&self.edited_here, &self.deleted_there));
        coverage.count("my delete met their edit", both(&self.deleted_here, &self.edited_there));
        coverage.count("both deleted", both(&self.deleted_here, &self.deleted_there));
        coverage.count("conflicted copy made", self.device.conflicts() > 0);
        coverage.count("commit refused", self.server.rejected > 0);
        coverage.count("parked", parked);
    }

    /// I1 and I4 always; I2 for what an edit superseded; I3.
    fn check(&self) {
        self.device.assert_converged(&self.server);
        let mut seen = BTreeMap::new();
        for entry in self.device.disk.entries.values() {
            if let Data::File(bytes) = &entry.data {
                *seen.entry(bytes.clone()).or_insert(0) += 1;
            }
        }
        for value in &self.ghost.live {
            assert_eq!(seen.get(value), Some(&1), "{:?} was lost or doubled", String::from_utf8_lossy(value));
        }
        for (value, count) in seen {
            assert!(self.ghost.all.contains(&value), "invented {value:?}");
            assert_eq!(count, 1, "doubled {value:?}");
            let superseded = self.ghost.edited.contains(&value) && !self.looks_like_a_copy;
            assert!(!superseded, "resurrected {:?}", String::from_utf8_lossy(&value));
        }
    }
}

fn keys(path: &LocalPath) -> Vec<NameKey> {
    path.components().map(|name| Name::parse_bytes(name).expect("legal").key()).collect()
}

fn run(seed: u64, coverage: &mut Coverage) {
    let mut case = Case::new(seed);
    let loss = case.random.random_range(0..3) * 10;
    for _ in 0..case.random.random_range(1..12) {
        case.act_on_disk();
    }
    case.device.settle(&mut case.server);
    case.check();
    for _ in 0..case.random.random_range(1..3) {
        case.device.loss = loss;
        for set in [&mut case.edited_here, &mut case.deleted_here, &mut case.edited_there, &mut case.deleted_there] {
            set.clear();
        }
        for _ in 0..case.random.random_range(0..8) {
            case.act_on_disk();
        }
        for _ in 0..case.random.random_range(0..8) {
            case.act_on_server();
        }
        case.device.settle(&mut case.server);
        case.check();
        case.count(coverage, case.device.moves_parked > 0);
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn two_perturbations_of_one_tree_converge_and_lose_nothing() {
    let (first, cases) = (setting("CANOPY_SEED", 1), setting("CANOPY_CASES", CASES));
    let mut coverage = Coverage::default();
    let mut failing = Vec::new();
    for seed in first..first + cases {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, &mut coverage))).is_err() {
            println!("case {seed} failed");
            failing.push(seed);
            if failing.len() >= FAILURES {
                break;
            }
        }
    }
    println!("{cases} cases from {first}: {coverage:?}");
    assert!(failing.is_empty(), "failing seeds: {failing:?}");
    if cases >= CASES {
        for (what, times) in &coverage.0 {
            assert!(*times > 0, "never happened: {what}");
        }
    }
}
