//! Many callers at once.

use super::*;
use api::ErrorCode;
use metadata_store::{Reading, Transaction};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

#[test]
fn positions_are_dense_under_eight_threads_and_four_namespaces() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("meta.db")).expect("opens");
    let bench = Bench::over(Arc::new(store));
    let people: Vec<Person> = (0..4).map(|n| bench.user(&format!("{n}@x"))).collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bench, person) = (&bench, &people[thread % 4]);
            scope.spawn(move || {
                for n in 0..25 {
                    let text = format!("{thread}-{n}");
                    let node = create(bench.new_node(), person.root.root(), &text, empty_file());
                    let draft = bench.draft(person.root, Position::START, vec![node]);
                    let outcome = bench.service.commit(person.who, draft).expect("an outcome");
                    assert!(matches!(outcome, CommitOutcome::Accepted { .. }));
                }
            });
        }
    });
    for person in &people {
        assert_eq!(bench.head(person.root), Position(50));
        bench.check(person.root);
    }
}

#[test]
fn a_commit_sent_by_many_at_once_happens_once_and_all_hear_the_same() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let node = create(bench.new_node(), me.root.root(), "a", empty_file());
    let draft = bench.draft(me.root, Position::START, vec![node]);
    let gate = Barrier::new(8);
    let outcomes: Vec<CommitOutcome> = std::thread::scope(|scope| {
        let send = || {
            gate.wait();
            bench.service.commit(me.who, draft.clone()).expect("an outcome")
        };
        let senders: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });
    assert!(matches!(outcomes[0], CommitOutcome::Accepted { head: Position(1), .. }));
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    bench.check(me.root);
}

#[test]
fn of_many_who_want_one_name_one_gets_it() {
    let bench = Bench::new();
    let me = bench.user("a@x");
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let node = create(bench.new_node(), me.root.root(), "a", empty_file());
                let outcome = bench.commit(&me, me.root, vec![node]);
                won.fetch_add(usize::from(matches!(outcome, CommitOutcome::Accepted { .. })), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
    bench.check(me.root);
}

/// Counts write transactions, and holds the first one back until told.
struct Slow {
    inner: SqliteStore,
    transactions: AtomicUsize,
    /// Transactions that fail before they begin, from now on.
    failures: AtomicUsize,
    gate: Mutex<Option<Arc<Barrier>>>,
}

impl MetadataStore for Slow {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = self.gate.lock().expect("no panic").take() {
            gate.wait();
            gate.wait();
        } else if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::Conflict { subject: "the test" });
        }
        self.inner.transact(work)
    }
    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.read(work)
    }
}

fn slow_bench() -> (Bench, Arc<Slow>) {
    let store = Arc::new(Slow {
        inner: SqliteStore::in_memory().expect("opens"),
        transactions: AtomicUsize::new(0),
        failures: AtomicUsize::new(0),
        gate: Mutex::new(None),
    });
    (Bench::over(store.clone()), store)
}

/// Sends the first draft, and the others while its transaction is held back, so that they wait together.
fn send_behind_first(
    bench: &Bench,
    store: &Slow,
    person: &Person,
    drafts: &[Commit],
    before_release: impl Fn(),
) -> Vec<Result<CommitOutcome, api::ApiError>> {
    let gate = Arc::new(Barrier::new(2));
    *store.gate.lock().expect("no panic") = Some(Arc::clone(&gate));
    std::thread::scope(|scope| {
        let send = |draft: &Commit| {
            let (who, draft) = (person.who, draft.clone());
            scope.spawn(move || bench.service.commit(who, draft))
        };
        let mut senders = vec![send(&drafts[0])];
        gate.wait();
        senders.extend(drafts[1..].iter().map(send));
        while bench.service.commits.waiting() < drafts.len() - 1 {
            std::thread::yield_now();
        }
        before_release();
        gate.wait();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    })
}

#[test]
fn a_commit_whose_transaction_broke_off_is_done_again_and_happens_once() {
    for happened in [true, false] {
        let store = Arc::new(BreaksOff { inner: SqliteStore::in_memory().expect("opens"), next: Mutex::new(None) });
        let bench = Bench::over(store.clone());
        let me = bench.user("a@x");
        let node = create(bench.new_node(), me.root.root(), "a", empty_file());
        let draft = bench.draft(me.root, Position(0), vec![node]);
        *store.next.lock().expect("no panic") = Some(happened);
        let outcome = bench.service.commit(me.who, draft).expect("an outcome");
        assert!(matches!(outcome, CommitOutcome::Accepted { head: Position(1), .. }), "{outcome:?}");
        assert_eq!(bench.head(me.root), Position(1));
        let heard = bench.heard.reached.lock().expect("no panic").clone();
        assert_eq!(heard, [(me.root, Position(1))], "the others hear of it although its first answer was lost");
        bench.check(me.root);
    }
}

/// A store whose next transaction breaks off in its commit.
struct BreaksOff {
    inner: SqliteStore,
    /// Whether that one has happened nevertheless.
    next: Mutex<Option<bool>>,
}

impl MetadataStore for BreaksOff {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let lost = || StoreError::OutcomeUnknown { source: "the connection broke".into() };
        match self.next.lock().expect("no panic").take() {
            None => self.inner.transact(work),
            Some(true) => self.inner.transact(work).and(Err(lost())),
            Some(false) => self.inner.transact(&mut |tx| work(tx).and(Err(StoreError::Abandoned))).or(Err(lost())),
        }
    }
    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.inner.read(work)
    }
}

#[test]
fn a_database_that_went_back_takes_no_commit_until_the_epoch_rises() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = SqliteStore::open(&folder.path().join("meta.db")).expect("opens");
    let store = Arc::new(FailsOver { current: Mutex::new(Arc::new(first)) });
    let bench = Bench::over(store.clone());
    let me = bench.user("a@x");
    let commit = |text: &str, epoch| {
        let node = create(bench.new_node(), me.root.root(), text, empty_file());
        let draft = Commit { epoch, ..bench.draft(me.root, Position(0), vec![node]) };
        bench.service.commit(me.who, draft)
    };
    let epoch = bench.server().epoch;
    commit("a", epoch).expect("an outcome");
    let older = folder.path().join("older.db");
    store.current().copy_to(&older).expect("copies");
    commit("b", epoch).expect("an outcome");
    *store.current.lock().expect("no panic") = Arc::new(SqliteStore::open(&older).expect("opens"));
    let refused = commit("c", epoch).expect_err("its position was given away before");
    assert_eq!(refused.code, ErrorCode::Unavailable);
    let epoch = bench.service.bump_epoch().expect("rises");
    assert!(matches!(commit("c", epoch), Ok(CommitOutcome::Accepted { .. })));
}

/// A database that another one can take the place of.
struct FailsOver {
    current: Mutex<Arc<SqliteStore>>,
}

impl FailsOver {
    fn current(&self) -> Arc<SqliteStore> {
        Arc::clone(&self.current.lock().expect("no panic"))
    }
}

impl MetadataStore for FailsOver {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.current().transact(work)
    }
    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.current().read(work)
    }
}

#[test]
fn commits_that_wait_share_a_transaction_and_are_decided_in_order() {
    let (bench, store) = slow_bench();
    let me = bench.user("a@x");
    let drafts: Vec<Commit> = (0..33)
        .map(|n| {
            let text = if n % 2 == 0 { "same".to_owned() } else { n.to_string() };
            bench.draft(me.root, Position(0), vec![create(bench.new_node(), me.root.root(), &text, empty_file())])
        })
        .collect();
    let before = store.transactions.load(Ordering::Relaxed);
    let outcomes = send_behind_first(&bench, &store, &me, &drafts, || ());
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, Ok(CommitOutcome::Accepted { .. }))).count();
    assert_eq!(accepted, 17, "sixteen of a name each, and one of the seventeen that want the same");
    assert_eq!(store.transactions.load(Ordering::Relaxed) - before, 2, "the first alone, the others together");
    bench.check(me.root);
}

#[test]
fn a_transaction_that_fails_for_many_is_tried_for_each_alone() {
    let (bench, store) = slow_bench();
    let me = bench.user("a@x");
    let drafts: Vec<Commit> = (0..5)
        .map(|n| {
            let text = n.to_string();
            bench.draft(me.root, Position(0), vec![create(bench.new_node(), me.root.root(), &text, empty_file())])
        })
        .collect();
    let before = store.transactions.load(Ordering::Relaxed);
    let outcomes = send_behind_first(&bench, &store, &me, &drafts, || store.failures.store(1, Ordering::Relaxed));
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(CommitOutcome::Accepted { .. }))), "{outcomes:?}");
    assert_eq!(store.transactions.load(Ordering::Relaxed) - before, 1 + 1 + 4);
    bench.check(me.root);
}

#[test]
fn a_store_that_fails_gives_an_error_that_may_be_retried_under_the_same_key() {
    let (bench, store) = slow_bench();
    let me = bench.user("a@x");
    let draft = bench.draft(me.root, Position(0), vec![create(bench.new_node(), me.root.root(), "a", empty_file())]);
    store.failures.store(1, Ordering::Relaxed);
    let error = bench.service.commit(me.who, draft.clone()).expect_err("the store failed");
    assert!(error.code.is_transient(), "{error:?}");
    assert_eq!(bench.heard.reached.lock().expect("no panic").len(), 0, "nothing is announced that is not durable");
    assert!(matches!(bench.service.commit(me.who, draft), Ok(CommitOutcome::Accepted { .. })));
    bench.check(me.root);
}
