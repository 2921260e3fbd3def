//! Group commit: many waiting jobs, one worker among those that wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Whoever submits a job while nobody works becomes the worker for all that wait; the others sleep
/// until their answer is there. With one thread each job is simply done. The queue holds one job per
/// waiting thread, so the threads bound it.
#[derive(Debug)]
pub(super) struct GroupQueue<Job, Answer> {
    state: Mutex<State<Job, Answer>>,
    changed: Condvar,
    /// The answer to jobs whose worker panicked.
    lost: Answer,
}

#[derive(Debug)]
struct State<Job, Answer> {
    next_ticket: u64,
    waiting: VecDeque<(u64, Job)>,
    answers: BTreeMap<u64, Answer>,
    /// Whether a thread is at work on a group.
    working: bool,
}

impl<Job, Answer: Clone> GroupQueue<Job, Answer> {
    pub(super) fn new(lost: Answer) -> Self {
        let state = State { next_ticket: 0, waiting: VecDeque::new(), answers: BTreeMap::new(), working: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), lost }
    }

    /// Has the job done, together with others for which `joins(group, next)` holds, by one call of
    /// `work`. Its answer is for the whole group.
    pub(super) fn submit(
        &self,
        job: Job,
        joins: impl Fn(&[Job], &Job) -> bool,
        work: impl Fn(Vec<Job>) -> Answer,
    ) -> Answer {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((ticket, job));
        loop {
            if let Some(answer) = state.answers.remove(&ticket) {
                return answer;
            }
            if state.working {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.working = true;
            let (tickets, jobs) = state.take_group(&joins);
            drop(state);
            let mut shift = Shift { queue: self, tickets, answer: self.lost.clone() };
            shift.answer = work(jobs);
            drop(shift);
            state = self.lock();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<Job, Answer>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Job, Answer> State<Job, Answer> {
    fn take_group(&mut self, joins: impl Fn(&[Job], &Job) -> bool) -> (Vec<u64>, Vec<Job>) {
        let (mut tickets, mut jobs) = (Vec::new(), Vec::new());
        while let Some((ticket, job)) = self.waiting.pop_front() {
            if !jobs.is_empty() && !joins(&jobs, &job) {
                self.waiting.push_front((ticket, job));
                break;
            }
            tickets.push(ticket);
            jobs.push(job);
        }
        (tickets, jobs)
    }
}

/// One group's work. Its end, also by a panic, answers the group and lets the next worker begin.
struct Shift<'a, Job, Answer: Clone> {
    queue: &'a GroupQueue<Job, Answer>,
    tickets: Vec<u64>,
    answer: Answer,
}

impl<Job, Answer: Clone> Drop for Shift<'_, Job, Answer> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        for ticket in &self.tickets {
            state.answers.insert(*ticket, self.answer.clone());
        }
        state.working = false;
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn jobs_that_wait_share_one_call() {
        let queue = GroupQueue::new(0);
        let (calls, inside) = (AtomicUsize::new(0), Barrier::new(2));
        let work = |jobs: Vec<u32>| {
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                inside.wait();
                while queue.lock().waiting.len() < 8 {
                    std::thread::yield_now();
                }
            }
            jobs.len()
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| queue.submit(1, |_, _| true, work));
            inside.wait();
            let others: Vec<_> = (0..8).map(|_| scope.spawn(|| queue.submit(1, |_, _| true, work))).collect();
            assert_eq!(first.join().expect("no panic"), 1);
            others.into_iter().for_each(|other| assert_eq!(other.join().expect("no panic"), 8));
        });
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_panic_is_answered_and_does_not_stop_the_queue() {
        let queue = GroupQueue::new("lost");
        let panicked = std::thread::scope(|scope| {
            scope.spawn(|| queue.submit((), |_, _| true, |_| panic!("a bug, made on purpose"))).join()
        });
        assert!(panicked.is_err());
        assert_eq!(queue.submit((), |_, _| true, |_| "done"), "done");
    }
}
