//! Group commit: callers that wait at the same time share one transaction.
//!
//! Requests wait in lanes, and only those of one lane share a transaction. Whoever finds nobody leading its
//! lane leads it: it runs a batch of what waits there, its own request among it or soon, and hands out the
//! results. There is no thread behind it; with one caller at a time every request is
//! run at once, by its caller, which makes it deterministic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

/// Why a request was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupError {
    /// Too many requests wait already.
    Full,
    /// The batch with the request panicked; whether it took effect is unknown.
    Lost,
}

/// How much shares a transaction at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<Q> {
    pub(crate) requests: usize,
    /// What a request weighs, and how much all of a batch may; one may weigh more.
    pub(crate) weigh: fn(&Q) -> usize,
    pub(crate) weight: usize,
}

/// A queue of requests `Q` with results `R` in lanes `L`.
pub(crate) struct GroupCommit<L, Q, R> {
    batch: Batch<Q>,
    capacity: usize,
    state: Mutex<State<L, Q, R>>,
}

impl<Q> Batch<Q> {
    /// How many of those that wait are of one batch.
    fn of(&self, waiting: &VecDeque<Waiting<Q>>) -> usize {
        let weights = waiting.iter().map(|one| (self.weigh)(&one.request));
        let sums = weights.scan(0_usize, |sum, weight| {
            *sum = sum.saturating_add(weight);
            Some(*sum)
        });
        sums.take(self.requests).take_while(|sum| *sum <= self.weight).count().max(1).min(waiting.len())
    }
}

/// A request that waits, and the thread that waits for its result.
struct Waiting<Q> {
    ticket: u64,
    request: Q,
    caller: Thread,
}

struct State<L, Q, R> {
    /// The requests that nobody has taken; a lane that has none is not there.
    waiting: BTreeMap<L, VecDeque<Waiting<Q>>>,
    /// How many those are.
    length: usize,
    /// Results that their callers have not fetched; `None`: lost.
    done: BTreeMap<u64, Option<R>>,
    next: u64,
    /// The lanes of which somebody runs a batch.
    leading: BTreeSet<L>,
}

impl<L: Copy + Ord, Q, R> GroupCommit<L, Q, R> {
    /// A queue that holds `capacity` requests and runs at most `batch` of them at once.
    pub(crate) fn new(batch: Batch<Q>, capacity: usize) -> Self {
        let (waiting, done, leading) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let state = State { waiting, length: 0, done, next: 0, leading };
        Self { batch, capacity, state: Mutex::new(state) }
    }

    /// Runs a request, alone or with others of its lane. `run` gives one result per request, in order.
    pub(crate) fn submit(&self, lane: L, request: Q, run: impl Fn(&[Q]) -> Vec<R>) -> Result<R, GroupError> {
        let mut state = self.lock();
        if state.length >= self.capacity {
            return Err(GroupError::Full);
        }
        let ticket = state.next;
        state.next += 1;
        state.length += 1;
        state.waiting.entry(lane).or_default().push_back(Waiting { ticket, request, caller: thread::current() });
        loop {
            if let Some(result) = state.done.remove(&ticket) {
                return result.ok_or(GroupError::Lost);
            }
            if state.leading.contains(&lane) {
                drop(state);
                // Woken when the result is there, or when it is this caller's turn to lead; or for no reason.
                thread::park();
                state = self.lock();
            } else {
                drop(self.lead(lane, state, &run));
                state = self.lock();
            }
        }
    }

    /// Takes a batch, runs it without the lock, and stores its results when the leader is dropped.
    fn lead<'g>(
        &'g self,
        lane: L,
        mut state: MutexGuard<'g, State<L, Q, R>>,
        run: impl Fn(&[Q]) -> Vec<R>,
    ) -> Leader<'g, L, Q, R> {
        state.leading.insert(lane);
        let mut waiting = state.waiting.remove(&lane).unwrap_or_default();
        let rest = waiting.split_off(self.batch.of(&waiting));
        if !rest.is_empty() {
            state.waiting.insert(lane, rest);
        }
        state.length -= waiting.len();
        drop(state);
        let (callers, requests): (Vec<(u64, Thread)>, Vec<Q>) =
            waiting.into_iter().map(|one| ((one.ticket, one.caller), one.request)).unzip();
        let mut leader = Leader { group: self, lane, callers, results: Vec::new() };
        leader.results = run(&requests);
        leader
    }

    /// How many requests wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().length
    }

    fn lock(&self) -> MutexGuard<'_, State<L, Q, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a leadership, also when the batch panicked: nobody may wait for ever.
struct Leader<'g, L: Copy + Ord, Q, R> {
    group: &'g GroupCommit<L, Q, R>,
    lane: L,
    callers: Vec<(u64, Thread)>,
    results: Vec<R>,
}

impl<L: Copy + Ord, Q, R> Drop for Leader<'_, L, Q, R> {
    /// Wakes those whose results are there, and one of those who wait, to lead them.
    fn drop(&mut self) {
        let mut state = self.group.lock();
        let mut results = self.results.drain(..);
        state.done.extend(self.callers.iter().map(|(ticket, _)| (*ticket, results.next())));
        state.leading.remove(&self.lane);
        let next = state.waiting.get(&self.lane).and_then(VecDeque::front).map(|one| one.caller.clone());
        drop(state);
        next.iter().for_each(Thread::unpark);
        self.callers.iter().for_each(|(_, caller)| caller.unpark());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    fn batch<Q>(requests: usize) -> Batch<Q> {
        Batch { requests, weigh: |_| 1, weight: usize::MAX }
    }

    #[test]
    fn a_batch_ends_at_its_number_or_its_weight_and_is_never_empty() {
        let batch = Batch { requests: 3, weigh: |n: &usize| *n, weight: 10 };
        let of = |weights: &[usize]| {
            let waiting = |request: &usize| Waiting { ticket: 0, request: *request, caller: thread::current() };
            batch.of(&weights.iter().map(waiting).collect())
        };
        assert_eq!(
            [of(&[]), of(&[1]), of(&[1, 1, 1, 1]), of(&[5, 5, 1]), of(&[5, 6, 1]), of(&[11, 1])],
            [0, 1, 3, 2, 1, 1]
        );
        assert_eq!(of(&[usize::MAX, usize::MAX]), 1);
    }

    #[test]
    fn a_lone_caller_runs_its_own_request_at_once() {
        let group = GroupCommit::new(batch(4), 8);
        assert_eq!(group.submit(0, 7, |batch| batch.iter().map(|n| n * 2).collect()), Ok(14));
    }

    #[test]
    fn callers_that_wait_share_a_batch_and_each_gets_its_own_result() {
        let group = Arc::new(GroupCommit::<u8, usize, usize>::new(batch(16), 64));
        let batches = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Barrier::new(2));
        let first = thread::spawn({
            let (group, gate) = (Arc::clone(&group), Arc::clone(&gate));
            move || {
                group.submit(0, 100, |batch| {
                    gate.wait();
                    gate.wait();
                    batch.to_vec()
                })
            }
        });
        gate.wait();
        let others: Vec<_> = (0..16)
            .map(|n| {
                let (group, batches) = (Arc::clone(&group), Arc::clone(&batches));
                thread::spawn(move || {
                    group.submit(0, n, |batch| {
                        batches.fetch_add(1, Ordering::Relaxed);
                        batch.to_vec()
                    })
                })
            })
            .collect();
        while group.waiting() < 16 {
            thread::yield_now();
        }
        gate.wait();
        assert_eq!(first.join().expect("no panic"), Ok(100));
        for (n, other) in others.into_iter().enumerate() {
            assert_eq!(other.join().expect("no panic"), Ok(n));
        }
        assert_eq!(batches.load(Ordering::Relaxed), 1, "sixteen waiters, one batch");
    }

    #[test]
    fn lanes_run_beside_each_other_and_never_share_a_batch() {
        let group = Arc::new(GroupCommit::<u8, u8, u8>::new(batch(16), 64));
        let both_run = Arc::new(Barrier::new(2));
        let lanes = [0, 1].map(|lane| {
            let (group, both_run) = (Arc::clone(&group), Arc::clone(&both_run));
            thread::spawn(move || {
                group.submit(lane, lane, |batch| {
                    both_run.wait();
                    assert_eq!(batch, [lane]);
                    batch.to_vec()
                })
            })
        });
        for (lane, caller) in lanes.into_iter().enumerate() {
            assert_eq!(caller.join().expect("no panic").map(usize::from), Ok(lane));
        }
    }

    #[test]
    fn a_batch_that_panics_does_not_leave_the_others_waiting() {
        let group = Arc::new(GroupCommit::<u8, u8, u8>::new(batch(4), 8));
        let leader = thread::spawn({
            let group = Arc::clone(&group);
            move || group.submit(0, 1, |_| panic!("the store is broken"))
        });
        assert!(leader.join().is_err());
        assert_eq!(group.submit(0, 2, <[u8]>::to_vec), Ok(2));
    }
}
