//! Random commits against a naive model, with the invariants checked after each.

use super::*;
use metadata_store_mysql::private_server::PrivateServer;
use metadata_store_mysql::{MysqlStore, Pauses};

const SEEDS: u64 = 60;
const STEPS: usize = 60;
/// Fewer, since each question is a journey.
const MARIADB_SEEDS: u64 = 6;
/// Few names, so that they meet; two pairs that only look different.
const NAMES: [&str; 5] = ["a", "A", "b", "\u{e9}", "e\u{301}"];

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 += 1;
        usize::try_from(mix(self.0) % n as u64).expect("small")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Counts what happened, by the name of the reason.
type Coverage = BTreeMap<&'static str, usize>;

#[test]
fn random_commits_do_what_the_naive_model_says_and_keep_every_invariant() {
    let mut coverage = Coverage::new();
    for seed in 0..SEEDS {
        run(&Bench::new(), seed, &mut coverage);
    }
    for what in [
        "accepted",
        "accepted batch",
        "accepted swap",
        "Stale",
        "ParentMissing",
        "NameTaken",
        "Cycle",
        "SubtreeChanged",
        "NodeExists",
        "NotADirectory",
        "KindChange",
        "Malformed",
    ] {
        assert!(coverage.get(what).copied().unwrap_or(0) >= 5, "{what} was not reached: {coverage:?}");
    }
}

/// The same on a real MariaDB, whose adapter answers much from what it has not sent yet.
#[test]
fn random_commits_do_on_mariadb_what_the_naive_model_says() {
    let server = PrivateServer::start();
    let mut coverage = Coverage::new();
    for seed in 0..MARIADB_SEEDS {
        let options = server.new_database(&format!("syncline_{seed}"));
        let pauses = Pauses::new(std::thread::sleep, |n| n / 2);
        let store = MysqlStore::open(&options, Some(PrivateServer::PASSWORD), pauses).expect("opens");
        run(&Bench::over(Arc::new(store)), seed, &mut coverage);
    }
}

fn run(bench: &Bench, seed: u64, coverage: &mut Coverage) {
    let me = bench.user("a@x");
    let ns = me.root;
    for block in 1..=3 {
        bench.upload(&me, block);
    }
    let mut chance = Chance(seed << 20);
    let mut ids = vec![];
    let mut trees = vec![(Position::START, BTreeMap::new())];
    for step in 0..STEPS {
        let before = bench.live(ns);
        let head = bench.head(ns);
        let seen = if chance.one_in(5) { Position(head.0.saturating_sub(chance.below(6) as u64)) } else { head };
        let operations = batch(bench, &mut chance, ns, &before, &ids);
        let expected =
            Model { namespace: ns, before: &before, ids: &ids, seen, head, operations: &operations }.accepts();
        let draft = bench.draft(ns, seen, operations.clone());
        let outcome = bench.service.commit(me.who, draft).expect("an outcome");
        assert_eq!(
            matches!(outcome, CommitOutcome::Accepted { .. }),
            expected,
            "seed {seed}, step {step}: {outcome:?}\nfor {operations:#?}\non {:#?}",
            bench.tree(ns)
        );
        count(coverage, &outcome, &operations, &before);
        ids.extend(operations.iter().filter(|_| expected).map(Operation::node));
        bench.check(ns);
        trees.push((bench.head(ns), bench.live(ns)));
    }
    let journal = bench.journal(ns);
    for (head, tree) in trees {
        let prefix = usize::try_from(head.0).expect("small");
        assert_eq!(fold(ns, &journal[..prefix]), tree, "I8: J[1..{head}] folds to its tree");
    }
}

fn count(
    coverage: &mut Coverage,
    outcome: &CommitOutcome,
    operations: &[Operation],
    before: &BTreeMap<NodeId, NodeRecord>,
) {
    let mut add = |what| *coverage.entry(what).or_default() += 1;
    match outcome {
        CommitOutcome::Accepted { .. } => {
            add("accepted");
            if operations.len() > 1 {
                add("accepted batch");
            }
            let takes_over = |operation: &Operation| match operation {
                Operation::Move { node, parent, name, .. } => before
                    .values()
                    .any(|other| other.node != *node && other.parent == *parent && other.name.key() == name.key()),
                _ => false,
            };
            if operations.iter().any(takes_over) {
                add("accepted swap");
            }
        }
        CommitOutcome::Rejected(rejections) => rejections.iter().for_each(|rejection| {
            add(match rejection.reason {
                Reason::Stale => "Stale",
                Reason::ParentMissing => "ParentMissing",
                Reason::NameTaken => "NameTaken",
                Reason::Cycle => "Cycle",
                Reason::SubtreeChanged => "SubtreeChanged",
                Reason::NodeExists => "NodeExists",
                Reason::NotADirectory => "NotADirectory",
                Reason::KindChange => "KindChange",
                Reason::Malformed => "Malformed",
                _ => "other",
            });
        }),
    }
}

/// A few operations that are mostly sensible.
fn batch(
    bench: &Bench,
    chance: &mut Chance,
    ns: NamespaceId,
    live: &BTreeMap<NodeId, NodeRecord>,
    ids: &[NodeId],
) -> Vec<Operation> {
    let living: Vec<NodeId> = live.keys().copied().collect();
    let folders: Vec<NodeId> =
        live.values().filter(|r| r.body.is_directory()).map(|r| r.node).chain([ns.root(), ns.root()]).collect();
    if living.len() > 1 && chance.one_in(6) {
        return swap(bench, ns, live, chance.pick(&living), chance.pick(&living));
    }
    let mut made: Vec<NodeId> = vec![];
    let mut operations = vec![];
    for _ in 0..=chance.below(4) {
        let any = |chance: &mut Chance| {
            let all: Vec<NodeId> = living.iter().chain(ids.iter()).copied().collect();
            if all.is_empty() { NodeId([1; 16]) } else { chance.pick(&all) }
        };
        let node = if living.is_empty() || chance.one_in(12) { any(chance) } else { chance.pick(&living) };
        let parent = match chance.below(10) {
            0 => any(chance),
            1 | 2 if !made.is_empty() => chance.pick(&made),
            _ => chance.pick(&folders),
        };
        let record = bench.record(ns, node);
        let base = |chance: &mut Chance, of: fn(&NodeRecord) -> Position| {
            let right = record.as_ref().map_or(Position(1), of);
            if chance.one_in(15) { Position(right.0 + 1) } else { right }
        };
        let name = name(chance.pick(&NAMES));
        operations.push(match chance.below(8) {
            0..=2 => {
                let node = if chance.one_in(20) { node } else { bench.new_node() };
                let body = if chance.one_in(2) {
                    Body::Directory
                } else {
                    file(1 + u8::try_from(chance.below(3)).expect("small"))
                };
                made.push(node);
                Operation::Create { node, parent, name, body }
            }
            3 | 4 => Operation::Edit { node, base_content: base(chance, |r| r.content_rev), body: file(2) },
            5 | 6 => Operation::Move { node, base_location: base(chance, |r| r.location_rev), parent, name },
            _ => Operation::Delete {
                node,
                base_content: base(chance, |r| r.content_rev),
                base_location: base(chance, |r| r.location_rev),
            },
        });
    }
    operations
}

/// Two nodes that change places.
fn swap(bench: &Bench, ns: NamespaceId, live: &BTreeMap<NodeId, NodeRecord>, a: NodeId, b: NodeId) -> Vec<Operation> {
    if a == b {
        return vec![bench.delete(ns, a)];
    }
    let (to_a, to_b) = (&live[&a], &live[&b]);
    vec![bench.moved(ns, a, to_b.parent, to_b.name.as_str()), bench.moved(ns, b, to_a.parent, to_a.name.as_str())]
}

/// Whether a commit is valid, in the simplest words: apply one operation after the other to a copy, and
/// look at the whole tree at the end.
struct Model<'a> {
    namespace: NamespaceId,
    before: &'a BTreeMap<NodeId, NodeRecord>,
    ids: &'a [NodeId],
    seen: Position,
    head: Position,
    operations: &'a [Operation],
}

impl Model<'_> {
    fn accepts(&self) -> bool {
        let mut tree = self.before.clone();
        self.each_node_once()
            && (0..self.operations.len()).all(|index| self.apply(&mut tree, index))
            && self.valid(&tree)
    }

    fn named(&self, node: NodeId) -> Vec<&Operation> {
        self.operations.iter().filter(|operation| operation.node() == node).collect()
    }

    fn each_node_once(&self) -> bool {
        self.operations.iter().all(|operation| {
            matches!(
                self.named(operation.node())[..],
                [_] | [Operation::Edit { .. }, Operation::Move { .. }]
                    | [Operation::Move { .. }, Operation::Edit { .. }]
            )
        })
    }

    fn apply(&self, tree: &mut BTreeMap<NodeId, NodeRecord>, index: usize) -> bool {
        let position = Position(self.head.0 + 1 + index as u64);
        let operation = &self.operations[index];
        let before = self.before.get(&operation.node());
        match operation.clone() {
            Operation::Create { node, parent, name, body } => {
                let (content_rev, location_rev) = (position, position);
                let record = NodeRecord { node, parent, name, body, content_rev, location_rev, deleted: None };
                !self.ids.contains(&node) && tree.insert(node, record).is_none()
            }
            Operation::Edit { node, base_content, body } => match (before, tree.get_mut(&node)) {
                (Some(before), Some(record)) if before.content_rev == base_content => {
                    let same_kind = record.body.same_kind(&body);
                    (record.body, record.content_rev) = (body, position);
                    same_kind
                }
                _ => false,
            },
            Operation::Move { node, base_location, parent, name } => match (before, tree.get_mut(&node)) {
                (Some(before), Some(record)) if before.location_rev == base_location => {
                    (record.parent, record.name, record.location_rev) = (parent, name, position);
                    true
                }
                _ => false,
            },
            Operation::Delete { node, base_content, base_location } => {
                let current = before.is_some_and(|b| (b.content_rev, b.location_rev) == (base_content, base_location));
                current && self.bury(tree, node)
            }
        }
    }

    fn bury(&self, tree: &mut BTreeMap<NodeId, NodeRecord>, folder: NodeId) -> bool {
        let mut after = tree.clone();
        bury_below(&mut after, folder);
        let mut fallen = tree.values().filter(|record| !after.contains_key(&record.node) && record.node != folder);
        let may_fall = fallen.all(|record| match self.named(record.node)[..] {
            [] => record.content_rev.max(record.location_rev) <= self.seen,
            [Operation::Delete { .. }] => true,
            _ => false,
        });
        after.remove(&folder);
        *tree = after;
        may_fall
    }

    fn valid(&self, tree: &BTreeMap<NodeId, NodeRecord>) -> bool {
        let mut names = BTreeSet::new();
        tree.values().all(|record| {
            let mut at = record.parent;
            let mut steps = 0;
            while at != self.namespace.root() && steps <= tree.len() {
                match tree.get(&at) {
                    Some(parent) if parent.body.is_directory() => at = parent.parent,
                    _ => return false,
                }
                steps += 1;
            }
            at == self.namespace.root() && names.insert((record.parent, record.name.key()))
        })
    }
}
