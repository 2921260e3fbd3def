//! How many writes go on side by side, found out by their time-outs.
//!
//! A write has a fixed time. Over a slow link many at once share what there is, and then none of them ends in time: each is
//! begun again, and nothing is ever stored. So a time-out halves their number, and as many writes in a row as go on at once
//! make it one more, the way in which TCP finds its window (RFC 5681).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The number of writes that may go on.
#[derive(Debug)]
pub(crate) struct Width {
    most: usize,
    /// Time-outs of writes that began together are one.
    attempt: Duration,
    turns: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    now: usize,
    running: usize,
    /// Turns that end with the write that has them.
    owed: usize,
    in_a_row: usize,
    halved: Option<Instant>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    TimedOut,
}

/// A write that goes on. One that is dropped without an outcome says nothing.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    width: &'a Width,
    permit: Option<SemaphorePermit<'a>>,
}

impl Width {
    pub(crate) fn new(most: usize, attempt: Duration) -> Self {
        let state = State { now: most, running: 0, owed: 0, in_a_row: 0, halved: None };
        Self { most, attempt, turns: Semaphore::new(most), state: Mutex::new(state) }
    }

    pub(crate) async fn turn(&self) -> Turn<'_> {
        // It is never closed.
        let permit = self.turns.acquire().await.ok();
        self.state().running += 1;
        Turn { width: self, permit }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn widen(&self, state: &mut State) {
        state.in_a_row += 1;
        if state.in_a_row < state.now || state.now == self.most {
            return;
        }
        state.in_a_row = 0;
        state.now += 1;
        match state.owed.checked_sub(1) {
            Some(less) => state.owed = less,
            None => self.turns.add_permits(1),
        }
    }

    fn halve(&self, state: &mut State) {
        state.in_a_row = 0;
        let now = Instant::now();
        if state.halved.is_some_and(|at| now.duration_since(at) < self.attempt) {
            return;
        }
        state.halved = Some(now);
        let to = (state.now.min(state.running) / 2).max(1);
        let gone = state.now - to;
        state.owed += gone - self.turns.forget_permits(gone);
        state.now = to;
    }
}

impl Turn<'_> {
    pub(crate) fn end(self, outcome: Outcome) {
        let mut state = self.width.state();
        match outcome {
            Outcome::Answered => self.width.widen(&mut state),
            Outcome::TimedOut => self.width.halve(&mut state),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.width.state();
        state.running -= 1;
        if let Some(less) = state.owed.checked_sub(1)
            && let Some(permit) = self.permit.take()
        {
            state.owed = less;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPT: Duration = Duration::from_secs(20);

    /// How many turns there are at once.
    async fn free(width: &Width) -> usize {
        let mut turns = Vec::new();
        while let Ok(turn) = tokio::time::timeout(Duration::from_millis(1), width.turn()).await {
            turns.push(turn);
        }
        turns.len()
    }

    #[tokio::test(start_paused = true)]
    async fn time_outs_of_one_moment_halve_the_writes_once_and_successes_bring_them_back() {
        let width = Width::new(32, ATTEMPT);
        let mut turns = Vec::new();
        for _ in 0..12 {
            turns.push(width.turn().await);
        }
        turns.into_iter().for_each(|turn| turn.end(Outcome::TimedOut));
        assert_eq!(free(&width).await, 6, "half of those that went on");

        tokio::time::advance(ATTEMPT).await;
        let (first, others) = (width.turn().await, [width.turn().await, width.turn().await]);
        first.end(Outcome::TimedOut);
        drop(others);
        assert_eq!(free(&width).await, 1, "and never none");

        for expected in [2, 3, 4] {
            for _ in 1..expected {
                width.turn().await.end(Outcome::Answered);
            }
            assert_eq!(free(&width).await, expected);
        }
        for _ in 0..1000 {
            width.turn().await.end(Outcome::Answered);
        }
        assert_eq!(free(&width).await, 32);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_owed_ends_with_the_write_that_has_it() {
        let width = Width::new(4, ATTEMPT);
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(width.turn().await);
        }
        turns.pop().expect("a turn").end(Outcome::TimedOut);
        assert_eq!(free(&width).await, 0, "three still go on");
        turns.pop();
        assert_eq!(free(&width).await, 0);
        turns.pop();
        assert_eq!(free(&width).await, 1);
        turns.pop();
        assert_eq!(free(&width).await, 2);
    }
}
