//! The notification service in other processes, as the meta service tells it: announcements go to hubs.
//!
//! To announce neither blocks nor fails. Each hub has a lane: what it has yet to be told (one position for
//! each namespace), and a task that tells it. What a hub could not be told is told to the namespace's other
//! hub; when that is gone too, the lane keeps it until one of them is back. What a process takes with it when
//! it is killed, clients find with their next poll.

use crate::ranking::hubs_of;
use crate::upstream::{CallError, Links};
use crate::wire::{self, Announcement};
use api::service::Announce;
use model::{AccountId, DeviceId, NamespaceId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Namespaces, accounts and devices each that a lane keeps. Beyond that, the poll must find them.
const LANE_ENTRIES: usize = 65_536;
/// The first window of the pauses between tries at a hub that is down; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest window.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Tells the hubs.
#[derive(Debug)]
pub struct Publisher {
    links: Links,
    hubs: Vec<String>,
    /// One for each hub.
    lanes: Vec<Lane>,
    counts: PublisherCounts,
}

/// What has been told since the start.
#[derive(Debug, Default)]
pub struct PublisherCounts {
    /// Calls to hubs that failed.
    pub failed: AtomicU64,
    /// Announcements for which no lane had room.
    pub dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    /// There is something to tell.
    wake: Notify,
    /// There may be nothing left to tell.
    idle: Notify,
}

#[derive(Debug, Default)]
struct LaneState {
    reached: BTreeMap<NamespaceId, Position>,
    /// Hints of hints: what a hub cannot be told of these is forgotten.
    coming: BTreeSet<(NamespaceId, DeviceId)>,
    memberships: BTreeSet<AccountId>,
    unlinked: BTreeSet<DeviceId>,
    /// The hub's last call failed.
    down: bool,
    /// A call is under way.
    busy: bool,
}

impl Publisher {
    /// A publisher to these hubs, which must be named as the edges name them. [`Publisher::run`] does the work.
    #[must_use]
    pub fn new(links: Links, hubs: Vec<String>) -> Arc<Self> {
        let lanes = hubs.iter().map(|_| Lane::default()).collect();
        Arc::new(Self { links, hubs, lanes, counts: PublisherCounts::default() })
    }

    /// What has been told so far.
    #[must_use]
    pub const fn counts(&self) -> &PublisherCounts {
        &self.counts
    }

    /// Tells the hubs what there is to tell. Never ends.
    pub async fn run(self: Arc<Self>) {
        let mut lanes = tokio::task::JoinSet::new();
        for index in 0..self.hubs.len() {
            let publisher = self.clone();
            lanes.spawn(async move { publisher.serve_lane(index).await });
        }
        while lanes.join_next().await.is_some() {}
        std::future::pending::<()>().await;
    }

    /// Waits until every hub that can be reached has been told everything.
    pub async fn flush(&self) {
        for lane in &self.lanes {
            loop {
                let idle = lane.idle.notified();
                if lane.state().is_quiet() {
                    break;
                }
                idle.await;
            }
        }
    }

    async fn serve_lane(&self, index: usize) {
        let (lane, hub) = (&self.lanes[index], self.hubs[index].as_str());
        let mut failures = 0;
        loop {
            let Some(batch) = lane.state().take() else {
                if failures == 0 {
                    lane.wake.notified().await;
                    continue;
                }
                let alive = self.links.call::<(), ()>(hub, wire::ALIVE, &()).await;
                failures = self.judge(index, failures, alive);
                self.pause(failures).await;
                continue;
            };
            let told = self.links.call::<_, ()>(hub, wire::ANNOUNCE, &batch).await;
            let failed = told.is_err();
            failures = self.judge(index, failures, told);
            if failed {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                self.return_batch(index, batch);
            }
            lane.idle.notify_waiters();
            self.pause(failures).await;
        }
    }

    /// How many calls in a row have failed now.
    fn judge(&self, index: usize, failures: u32, told: Result<(), CallError>) -> u32 {
        let mut state = self.lanes[index].state();
        state.busy = false;
        let was_down = std::mem::replace(&mut state.down, told.is_err());
        drop(state);
        match told {
            Ok(()) => {
                if was_down {
                    tracing::info!(hub = self.hubs[index], "a hub is back");
                }
                0
            }
            Err(error) => {
                if !was_down {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(hub = self.hubs[index], error, "a hub cannot be told");
                }
                failures.saturating_add(1)
            }
        }
    }

    async fn pause(&self, failures: u32) {
        if failures > 0 {
            let window = PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
            sleep(PAUSE / 2 + self.links.within(window)).await;
        }
    }

    /// What one hub could not be told is for the other; what was for all hubs stays for this one.
    fn return_batch(&self, index: usize, batch: Announcement) {
        for (namespace, position) in batch.reached {
            self.put(namespace, position);
        }
        let mut state = self.lanes[index].state();
        state.memberships.extend(batch.memberships);
        state.unlinked.extend(batch.unlinked);
    }

    /// The lane of the namespace's first hub that is not down; of its first if all are.
    fn lane_of(&self, namespace: NamespaceId) -> Option<&Lane> {
        let hubs = hubs_of(namespace, &self.hubs);
        let up = hubs.iter().find(|&&index| !self.lanes[index].state().down);
        up.or(hubs.first()).map(|&index| &self.lanes[index])
    }

    fn put(&self, namespace: NamespaceId, position: Position) {
        let Some(lane) = self.lane_of(namespace) else { return };
        let mut state = lane.state();
        if state.reached.len() >= LANE_ENTRIES && !state.reached.contains_key(&namespace) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let known = state.reached.entry(namespace).or_insert(position);
        *known = position.max(*known);
        drop(state);
        lane.wake.notify_one();
    }

    fn to_all(&self, put: impl Fn(&mut LaneState)) {
        for lane in &self.lanes {
            put(&mut lane.state());
            lane.wake.notify_one();
        }
    }
}

impl Announce for Publisher {
    fn reached(&self, namespace: NamespaceId, position: Position) {
        self.put(namespace, position);
    }

    fn coming(&self, namespace: NamespaceId, from: DeviceId) {
        if let Some(lane) = self.lane_of(namespace) {
            insert(&mut lane.state().coming, (namespace, from));
            lane.wake.notify_one();
        }
    }

    fn memberships_changed(&self, account: AccountId) {
        self.to_all(|state| insert(&mut state.memberships, account));
    }

    fn unlinked(&self, device: DeviceId) {
        self.to_all(|state| insert(&mut state.unlinked, device));
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    /// What the next call tells; from then on a call is under way.
    fn take(&mut self) -> Option<Announcement> {
        let batch = Announcement {
            reached: wire::take_positions(&mut self.reached),
            coming: wire::take_page(&mut self.coming),
            memberships: wire::take_page(&mut self.memberships),
            unlinked: wire::take_page(&mut self.unlinked),
        };
        self.busy = !batch.is_empty();
        self.busy.then_some(batch)
    }

    /// Nothing to tell, or nobody whom to tell.
    fn is_quiet(&self) -> bool {
        let told = self.memberships.is_empty() && self.unlinked.is_empty();
        let empty = told && self.reached.is_empty() && self.coming.is_empty();
        self.down || (empty && !self.busy)
    }
}

fn insert<T: Ord>(set: &mut BTreeSet<T>, value: T) {
    if set.len() < LANE_ENTRIES {
        set.insert(value);
    }
}
