//! The state machine: takes events, keeps the trees, and says what to do next.
//!
//! [`Engine::handle`] lets the event change what is known, then drives everything that can go on. Scans
//! and local steps take turns and never overlap, so that what a scan saw is never what a step was about
//! to change. Nothing is planned in the middle of a scan round, before the server's journal has been read
//! to its end once, or about a node whose commit is in flight.

mod excluding;
mod installing;
mod journal;
mod local;
mod pace;
mod power;
mod prefetch;
mod report;
mod server;
mod transfer;

use crate::io::{
    Action, Activity, ActivityKind, Command, DeleteGuard, EngineState, Environment, Event, Hint, Job, JobId, Request,
    RequestId, RootState, Write,
};
use crate::observe::Observer;
use crate::plan::{PlannedStep, Queues};
use crate::tree::NodeRow;
use crate::trees::Trees;
use crate::verdict::Context;
use model::{Blocklist, ContentHash, NodeId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows that may wait to be persisted.
const PERSIST_ROWS: usize = 5_000;
/// How long a change may wait to be persisted, in milliseconds. What is lost in a crash is found again
/// by the next scan and the next look at the journal.
const PERSIST_DELAY_MS: u64 = 1_000;
/// How long deletions wait for more of the same, in milliseconds: a folder's removal arrives file by file
/// and shall become one tombstone.
const DELETION_SETTLE_MS: u64 = 150;
/// How long a node that was found gone may turn up elsewhere before it counts as deleted, in
/// milliseconds: the two halves of a rename may be seen in two scans.
const DEPARTURE_MS: u64 = 200;
/// After this long, deletions go even while more arrive, in milliseconds.
const DELETION_SETTLE_MAX_MS: u64 = 10_000;
/// The scan behind the watcher, in milliseconds.
const RESCAN_INTERVAL_MS: u64 = 3_600_000;
/// The first wait before a folder that could not be read is looked at again, in milliseconds; it doubles.
const LOOK_AGAIN_MS: u64 = 100;
/// The longest such wait, in milliseconds.
const LOOK_AGAIN_MAX_MS: u64 = 60_000;
/// How often a missing root is looked for, in milliseconds.
const ROOT_RETRY_MS: u64 = 2_000;
/// How often everything that is out of sync is looked at again although nothing woke it, in milliseconds.
const REVIEW_INTERVAL_MS: u64 = 30_000;
/// How much later for each thousand nodes that are out of sync, in milliseconds: in the first sync of a
/// million files the reviews took half of the time.
const REVIEW_PER_THOUSAND_MS: u64 = 300;

/// How often one event plans again because a node turned out to need something else than it was filed under.
const PLANNING_PASSES: usize = 8;

/// What makes the engine fast and could be left out: with each part off it does the same, later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// A file that its writer has closed is read without waiting for its change time to lie in the past,
    /// on file systems that tell one change from the next.
    pub read_closed_at_once: bool,
    /// Large new files are announced when their upload begins, and what others announce is fetched before it
    /// is committed.
    pub prefetch: bool,
    /// A file that keeps changing is not sent for each of its changes.
    pub pacing: bool,
    /// The smallest file that is announced, in bytes.
    pub announce_from: u64,
    /// Files up to this size travel in the same request as their commit, in bytes, and with it the edits of one
    /// block of larger ones; 0: no content does.
    pub inline_file: u64,
    /// So many files that wait to be committed make it worth sending their blocks ahead while another commit
    /// is under way.
    pub ahead_from: usize,
    /// An edit of a file names only the blocks that the version before lacks, if it keeps so many of them or more.
    pub kept_blocks: u64,
    /// Blocks of an old version before and behind the place of a new block in which its bytes are looked for.
    pub near_blocks: u32,
    /// With so many new blocks one behind the other in an edited file they may be old ones that have moved. Fewer are
    /// compared as they are sent.
    pub move_from: u32,
    /// The contents of small new files may come along with the news of them.
    pub contents_with_news: bool,
    /// While a commit is under way no more is hashed when files of up to [`Self::inline_file`] with so many bytes in all
    /// were hashed and are in no request yet: they are sent from memory while it holds them.
    pub hashed_ahead: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            read_closed_at_once: true,
            prefetch: true,
            pacing: true,
            announce_from: 2 * model::BLOCK_SIZE,
            inline_file: 256 * 1024,
            ahead_from: 64,
            kept_blocks: 2,
            near_blocks: 4,
            move_from: 3,
            contents_with_news: true,
            hashed_ahead: 8 * 1024 * 1024,
        }
    }
}

/// The sync engine of one device.
pub struct Engine {
    tuning: Tuning,
    state: EngineState,
    device_name: String,
    trees: Trees,
    observer: Observer,
    queues: Queues,
    /// Nodes in the commit in flight, in local steps under way, or held back after a failure.
    frozen: BTreeSet<NodeId>,
    items: BTreeMap<NodeId, local::Item>,
    local: local::LocalWork,
    server: server::ServerWork,
    transfers: transfer::Transfers,
    prefetches: prefetch::Prefetches,
    pace: pace::Pace,
    excluding: excluding::Excluding,
    power: power::Power,
    /// Blocklists that are not persisted yet.
    lists: BTreeMap<ContentHash, (Arc<Blocklist>, bool)>,
    unwritten_lists: BTreeSet<ContentHash>,
    state_touched: bool,
    persist_at: Option<u64>,
    deletions: DeletionWatch,
    departures: Departures,
    flush: Option<FlushTarget>,
    review_at: Option<u64>,
    missed: u64,
    rescan_at: Option<u64>,
    look_again_at: Option<u64>,
    temps_cleaned: bool,
    last_id: u64,
    /// The time of the last event.
    now: u64,
    actions: Vec<Action>,
}

/// Nodes that were found gone a moment ago: nothing is concluded from that until their other half, should
/// they have moved, had time to be seen.
#[derive(Debug, Default)]
struct Departures {
    /// The nodes, and until when. Each has a time of its own, so that a deletion that takes long costs no more
    /// for each file than a short one.
    nodes: BTreeMap<NodeId, u64>,
}

/// When the number of pending deletions last changed.
#[derive(Debug, Default)]
struct DeletionWatch {
    count: u64,
    since: u64,
    changed: u64,
    /// Those that a person has confirmed, and how far the trees' turns were when it was last looked whether they still are
    /// pending.
    confirmed: BTreeSet<NodeId>,
    turns: u64,
    /// Whether it was told that they wait for a person.
    told: bool,
}

/// What must have happened for a flush to be done.
#[derive(Debug)]
struct FlushTarget {
    rounds: u64,
    pulls: u64,
}

impl Engine {
    /// An engine that continues from what the client database holds.
    #[must_use]
    pub fn new(state: EngineState, rows: impl IntoIterator<Item = (NodeId, NodeRow)>, device_name: String) -> Self {
        let trees = Trees::new(state.root, rows, state.excluded.clone());
        // What was deleted while the program did not run was not seen by who confirmed before.
        let confirmed = if state.deletions_confirmed { trees.all_deleted_files() } else { BTreeSet::new() };
        let mut engine = Self {
            tuning: Tuning::default(),
            state,
            device_name,
            trees,
            observer: Observer::default(),
            queues: Queues::default(),
            frozen: BTreeSet::new(),
            items: BTreeMap::new(),
            local: local::LocalWork::default(),
            server: server::ServerWork::default(),
            transfers: transfer::Transfers::default(),
            prefetches: prefetch::Prefetches::default(),
            pace: pace::Pace::default(),
            excluding: excluding::Excluding::default(),
            power: power::Power::default(),
            lists: BTreeMap::new(),
            unwritten_lists: BTreeSet::new(),
            state_touched: false,
            persist_at: None,
            deletions: DeletionWatch { confirmed, ..DeletionWatch::default() },
            departures: Departures::default(),
            flush: None,
            review_at: None,
            missed: 0,
            rescan_at: None,
            look_again_at: None,
            temps_cleaned: false,
            last_id: 0,
            now: 0,
            actions: Vec::new(),
        };
        if engine.state.cursor.is_empty() {
            engine.state.cursor.insert(engine.state.root, Position::START);
        }
        engine.freeze();
        engine
    }

    /// Leaves out what makes the engine fast, or takes it in again.
    pub const fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// Takes an event and says what to do about it.
    pub fn handle(&mut self, event: Event, environment: &mut Environment<'_>) -> Vec<Action> {
        let env = environment;
        self.now = env.now;
        // What an earlier call persisted is in the client database by now.
        let unwritten = &self.unwritten_lists;
        self.lists.retain(|content, _| unwritten.contains(content));
        match event {
            Event::Started => {
                self.observer.look_at_everything(&self.trees);
                self.local.scan_is_due = true;
                self.rescan_at = Some(env.now + RESCAN_INTERVAL_MS);
                self.server.pull_wanted = true;
            }
            Event::JobDone(id, result) => self.job_done(id, result, env),
            Event::Replied(id, result) => self.replied(id, result, env),
            Event::Hints(hints) => self.take_hints(hints, env.now),
            Event::Notified(notification) => self.notified(notification),
            Event::Coming(namespace) => self.hear_of_coming(namespace),
            Event::StreamOpened => self.server.is_back(),
            Event::Woken => {}
            Event::Command(command) => {
                // A person's order is kept from the moment it is given.
                self.persist_at = (command != Command::Flush).then_some(env.now).or(self.persist_at);
                self.command(command);
            }
        }
        self.on_time(env.now);
        self.drive(env);
        self.review(env);
        std::mem::take(&mut self.actions)
    }

    /// Looks again at everything that is out of sync, now and then, although nothing woke it. That this
    /// finds something to do while all else is at rest is a bug, whose effect it limits: [`Self::missed`].
    fn review(&mut self, env: &mut Environment<'_>) {
        if self.review_at.is_none_or(|at| at > env.now) {
            return;
        }
        self.review_at = None;
        let at_rest = self.is_at_rest();
        let before = self.actions.len();
        self.trees.wake_all();
        self.drive(env);
        let started = self.actions[before..].iter().any(|action| matches!(action, Action::Job(..) | Action::Send(..)));
        if at_rest && started {
            self.missed += 1;
        }
    }

    /// How often a review found work that should have been woken by an event.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// When to send [`Event::Woken`], in milliseconds of [`Environment::now`].
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        let deletions = (self.deletions.count > 0).then(|| self.deletions.settled_at());
        let held_back = self.items.values().filter(|item| item.held).map(|item| item.retry_at).min();
        [
            self.persist_at,
            self.review_at,
            self.rescan_at,
            self.look_again_at,
            self.local.root_retry_at,
            self.local.next_hash_retry(),
            self.prefetches.next_give_up(),
            self.excluding.retry_at,
            self.power.settle_at,
            if self.state.paused { None } else { self.server.next_retry() },
            self.server.echo_ends(),
            deletions.filter(|_| !self.state.paused && !self.deletions_held()),
            held_back,
            self.departures.nodes.values().copied().filter(|until| *until > self.now).min(),
        ]
        .into_iter()
        .flatten()
        // What is due already waits for something else, and that will be an event.
        .filter(|at| *at > self.now)
        .min()
    }

    /// Whether all that was known when the last `Flush` came, and all that the server had then, is in
    /// sync, problems and held deletions apart.
    #[must_use]
    pub const fn flushed(&self) -> bool {
        self.flush.is_none()
    }

    /// The engine's persistent state.
    #[must_use]
    pub const fn state(&self) -> &EngineState {
        &self.state
    }

    /// The three trees, for checks and for listings.
    #[must_use]
    pub const fn trees(&self) -> &Trees {
        &self.trees
    }

    fn take_hints(&mut self, hints: Vec<Hint>, now: u64) {
        self.local.keep_hints(&hints);
        for hint in hints {
            match &hint {
                // Perhaps another file, whose writer is still at it.
                Hint::Entry { directory, name } => self.local.not_closed(&directory.join(name)),
                Hint::Writing { directory, name } => {
                    let path = directory.join(name);
                    self.doubt_content(&path);
                    self.local.being_written(path, now);
                }
                Hint::Closed { directory, name } => {
                    let path = directory.join(name);
                    self.doubt_content(&path);
                    let node = self.trees.at_path(&path);
                    // A change from elsewhere may have waited for that.
                    if let Some(item) = node.and_then(|node| self.items.get_mut(&node)) {
                        item.retry_at = item.retry_at.min(now);
                    }
                    self.local.closed(path, node);
                }
                Hint::Rescan { .. } => {}
            }
            self.look_where_hinted(&hint);
        }
    }

    fn look_where_hinted(&mut self, hint: &Hint) {
        match hint {
            Hint::Entry { directory, name } | Hint::Writing { directory, name } | Hint::Closed { directory, name } => {
                self.observer.look_at(&self.trees, directory, name);
            }
            Hint::Rescan { directory } => self.observer.look_below(&self.trees, directory),
        }
    }

    fn command(&mut self, command: Command) {
        self.state_touched = true;
        match command {
            Command::Pause => self.state.paused = true,
            Command::Resume => {
                self.state.paused = false;
                self.server.try_now();
                self.server.pull_wanted = true;
            }
            Command::Exclude(path) => self.set_excluded(&path, true),
            Command::Include(path) => self.set_excluded(&path, false),
            Command::ConfirmDeletions => {
                self.deletions.confirmed = self.trees.all_deleted_files();
                self.state.deletions_confirmed = !self.deletions.confirmed.is_empty();
            }
            Command::UndoDeletions => self.undo_deletions(),
            Command::SetGuard(guard) => self.state.guard = guard,
            Command::Flush => {
                let rounds = self.observer.next_round();
                let pulls = self.server.next_pull();
                self.flush = Some(FlushTarget { rounds, pulls });
                self.observer.look_at_everything(&self.trees);
                self.server.pull_wanted = true;
                self.server.try_now();
                self.release_items(u64::MAX);
                self.hurry();
            }
            Command::RebuildIndex => self.rebuild_index(),
        }
    }

    fn undo_deletions(&mut self) {
        let deleted: Vec<NodeId> = self
            .trees
            .rows()
            .filter(|(_, row)| row.local.is_none() && row.synced.is_some() && row.remote.is_some())
            .map(|(id, _)| id)
            .collect();
        for id in deleted {
            self.trees.set_synced(id, None);
        }
        self.state.deletions_confirmed = false;
        self.deletions.confirmed.clear();
    }

    /// Every file is read again; what it was taken for stays known until then.
    fn rebuild_index(&mut self) {
        let files: Vec<NodeId> = self.trees.rows().filter(|(_, row)| row.local.is_some()).map(|(id, _)| id).collect();
        for id in files {
            if let Some(mut local) = self.trees.local(id) {
                if let crate::tree::Seen::File(content) = &mut local.seen {
                    *content = None;
                }
                self.trees.set_local(id, Some(local));
            }
        }
        self.observer.look_at_everything(&self.trees);
        self.server.pull_wanted = true;
    }

    /// What becomes due by time alone.
    fn on_time(&mut self, now: u64) {
        if self.rescan_at.is_some_and(|at| at <= now) {
            self.rescan_at = Some(now + RESCAN_INTERVAL_MS);
            self.observer.look_at_everything(&self.trees);
        }
        if self.look_again_at.is_some_and(|at| at <= now) {
            self.look_again_at = None;
            self.observer.look_again(&self.trees);
        }
        self.local.on_time(now);
        self.excluding.on_time(now);
        self.release_items(now);
        self.server.on_time(now);
    }

    /// Starts everything that can go on.
    fn drive(&mut self, env: &mut Environment<'_>) {
        self.follow_relabelled();
        self.start_recovery();
        let scan_first = self.local.scan_is_due && !self.observer.is_idle();
        if scan_first {
            self.start_scan(env.random);
        }
        self.drop_changed_uploads();
        self.doubt_what_was_sent(env);
        if self.may_plan() {
            self.plan(env);
            self.follow_relabelled();
        }
        self.start_scan(env.random);
        self.start_hashing(env.now);
        self.start_marking();
        self.end_doubts();
        self.start_settling(env.now);
        self.talk_to_server(env);
        self.start_cleaning();
        self.check_flush();
        self.schedule_second_look(env.now);
        self.schedule_review(env.now);
        self.schedule_persist(env.now);
    }

    pub(super) fn follow_relabelled(&mut self) {
        for (from, to) in self.trees.take_relabelled() {
            self.observer.relabelled(from, to);
        }
    }

    /// Whether the trees are whole enough to decide on.
    fn may_plan(&self) -> bool {
        !self.observer.in_round()
            && self.local.root == RootState::Present
            && self.local.recovery == installing::Recovery::Done
            && self.server.journal_is_read()
    }

    fn watch_departures(&mut self, now: u64) {
        let left = self.observer.take_left();
        let mut changed = !left.is_empty();
        self.departures.nodes.extend(left.into_iter().map(|id| (id, now + DEPARTURE_MS)));
        let before = self.departures.nodes.len();
        let problems = &self.queues.problems;
        let undecided = self.observer.undecided(&self.trees, |new| problems.contains_key(new));
        let (idle, trees) = (self.observer.is_idle() && !self.observer.may_yet_show(), &self.trees);
        let departing =
            |id: &NodeId, until: u64| undecided.contains(id) || !(trees.has_local(*id) || idle && until <= now);
        self.departures.nodes.retain(|id, until| departing(id, *until));
        changed |= self.departures.nodes.len() != before;
        if changed {
            self.freeze();
        }
    }

    fn plan(&mut self, env: &mut Environment<'_>) {
        self.watch_departures(env.now);
        self.watch_exclusions();
        self.watch_shaken(env);
        for _ in 0..PLANNING_PASSES {
            let may_unload = self.excluding.may_unload();
            let context = Context { roles: &self.state.roles, frozen: &self.frozen, may_unload };
            self.queues.sort(&mut self.trees, &context, env.random);
            self.watch_deletions(env.now);
            if self.state.paused || self.server.unlinked {
                return;
            }
            self.start_steps(env);
            self.start_commit(env);
            self.send_ahead(env);
            if !self.trees.has_todo() {
                return;
            }
        }
    }

    fn watch_deletions(&mut self, now: u64) {
        let count = self.trees.deleted_files();
        if count != self.deletions.count {
            if self.deletions.count == 0 {
                self.deletions.since = now;
            }
            self.deletions.count = count;
            self.deletions.changed = now;
        }
        // One that has left the server, or is back, makes room for no other.
        if !self.deletions.confirmed.is_empty() && self.deletions.turns != self.trees.turns() {
            self.deletions.turns = self.trees.turns();
            let trees = &self.trees;
            self.deletions.confirmed.retain(|id| trees.is_deleted_file(*id));
        }
        if count == 0 && self.state.deletions_confirmed {
            self.state.deletions_confirmed = false;
            self.state_touched = true;
        }
        let held = self.deletions_held();
        if held && self.state.deletions_confirmed {
            // Who starts the program anew must not confirm what has come since.
            self.state.deletions_confirmed = false;
            self.state_touched = true;
        }
        if held && !self.deletions.told {
            let detail =
                Some("many files are gone; their deletion waits for `syncline deletions confirm` or `undo`".into());
            self.report(Activity { kind: ActivityKind::Held, path: String::new(), detail });
        }
        self.deletions.told = held;
    }

    /// Whether so much was deleted, beside what a person has confirmed, that a person must confirm it.
    fn deletions_held(&self) -> bool {
        match self.state.guard {
            DeleteGuard::Off => false,
            DeleteGuard::On { count, percent } => {
                let confirmed = self.deletions.confirmed.len() as u64;
                let deleted = self.trees.deleted_files().saturating_sub(confirmed);
                deleted >= count
                    && deleted.saturating_mul(100) > self.trees.synced_files().saturating_mul(u64::from(percent))
            }
        }
    }

    /// The nodes about which nothing is decided now. A folder into which a step puts something is one of them:
    /// became it another node meanwhile, nobody would know what lies in it.
    fn freeze(&mut self) {
        let before = std::mem::take(&mut self.frozen);
        let in_flight: BTreeSet<NodeId> = self.nodes_in_flight().collect();
        let steps = self.local.steps.iter().flat_map(|(_, steps)| steps.iter());
        let steps = steps.flat_map(|planned| [Some(planned.step.node()), planned.after.folder()]).flatten();
        let held = self.items.iter().filter(|(_, item)| item.held).map(|(id, _)| *id);
        let departing = self.departures.nodes.keys().copied();
        let shaken = self.power.held.iter().copied();
        self.frozen = in_flight.iter().copied().chain(steps).chain(held).chain(departing).chain(shaken).collect();
        self.observer.set_told(in_flight);
        for id in before.difference(&self.frozen) {
            self.trees.wake(*id);
        }
    }

    fn schedule_second_look(&mut self, now: u64) {
        if self.observer.is_idle()
            && let Some(times) = self.observer.fewest_failures()
        {
            let at = now + (LOOK_AGAIN_MS << times.saturating_sub(1).min(10)).min(LOOK_AGAIN_MAX_MS);
            self.look_again_at = Some(self.look_again_at.map_or(at, |before| before.min(at)));
        }
    }

    /// The nodes that the commit in flight is about.
    fn nodes_in_flight(&self) -> impl Iterator<Item = NodeId> {
        self.state.in_flight.iter().flat_map(|commit| commit.operations.iter().map(model::Operation::node))
    }

    fn schedule_review(&mut self, now: u64) {
        if self.review_at.is_none() && !self.trees.dirty().is_empty() {
            let thousands = self.trees.dirty().len() as u64 / 1_000;
            self.review_at = Some(now + REVIEW_INTERVAL_MS + thousands * REVIEW_PER_THOUSAND_MS);
        }
    }

    fn check_flush(&mut self) {
        let Some(target) = &self.flush else { return };
        if self.observer.finished_round() >= target.rounds && self.server.pulls >= target.pulls && self.is_settled() {
            self.flush = None;
        }
    }

    /// Whether nothing is under way.
    fn is_at_rest(&self) -> bool {
        self.observer.is_idle()
            && self.server.is_idle()
            && self.state.in_flight.is_none()
            && self.local.is_idle()
            && self.transfers.is_idle()
            && self.departures.nodes.is_empty()
    }

    /// Whether nothing is under way and everything that is out of sync has a reason to be.
    fn is_settled(&self) -> bool {
        self.is_at_rest() && !self.trees.has_todo() && self.trees.dirty().iter().all(|id| self.is_explained(id))
    }

    /// Whether the node is out of sync for a reason that only a person or time can end.
    fn is_explained(&self, id: NodeId) -> bool {
        let mut at = id;
        for _ in 0..model::limits::TREE_DEPTH {
            let failed = self.items.get(&at).is_some_and(|item| item.failures >= local::FAILURES_BEFORE_REPORT);
            let held = self.deletions_held() && crate::verdict::is_pending_deletion(&self.trees, at);
            if failed || held || self.queues.problems.contains_key(&at) {
                return true;
            }
            match self.trees.waits_for(at) {
                Some(other) => at = other,
                None => return false,
            }
        }
        false
    }

    fn schedule_persist(&mut self, now: u64) {
        let rows = self.trees.touched_count();
        if rows == 0 && !self.state_touched && self.unwritten_lists.is_empty() {
            return;
        }
        let at = *self.persist_at.get_or_insert(now + PERSIST_DELAY_MS);
        if rows >= PERSIST_ROWS || at <= now {
            self.persist();
        }
    }

    /// Writes all that differs from the client database, as one transaction.
    fn persist(&mut self) {
        let mut writes: Vec<Write> = Vec::new();
        for content in std::mem::take(&mut self.unwritten_lists) {
            if let Some((blocks, remote)) = self.lists.get(&content) {
                writes.push(Write::Blocklist { content, blocks: Blocklist::clone(blocks), remote: *remote });
            }
        }
        let touched = self.trees.take_touched();
        self.power.touched(!touched.is_empty(), self.now);
        for id in touched {
            let kept = if self.is_found_again(id) { None } else { self.row_to_keep(id) };
            writes.push(Write::Node(id, kept.map(Box::new)));
        }
        self.persist_at = None;
        if self.state_touched {
            self.state_touched = false;
            writes.push(Write::State(Box::new(self.state.clone())));
        }
        if !writes.is_empty() {
            self.actions.push(Action::Persist(writes));
        }
    }

    /// Whether the client database need not know of the node: the next scan finds it as if for the first time, and nobody
    /// else has heard of it.
    fn is_found_again(&self, id: NodeId) -> bool {
        self.trees.is_unread_new_file(id) && !self.frozen.contains(&id)
    }

    /// A new blocklist, or the news that the server knows one.
    fn learn_list(&mut self, content: ContentHash, blocks: Blocklist, remote: bool) {
        let known = self.lists.get(&content).is_some_and(|(_, remote)| *remote);
        self.lists.insert(content, (Arc::new(blocks), remote || known));
        self.unwritten_lists.insert(content);
    }

    fn find_list(&self, env: &Environment<'_>, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        let Some((blocks, remote)) = self.lists.get(content) else { return env.blocklists.find(content) };
        let known = *remote || env.blocklists.find(content).is_some_and(|(_, remote)| remote);
        Some((Arc::clone(blocks), known))
    }

    fn start_job(&mut self, job: Job) -> JobId {
        self.last_id += 1;
        let id = JobId(self.last_id);
        self.actions.push(Action::Job(id, job));
        id
    }

    fn send(&mut self, request: Request) -> RequestId {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        self.actions.push(Action::Send(id, request));
        id
    }

    fn report(&mut self, activity: Activity) {
        self.actions.push(Action::Report(activity));
    }

    /// Temporary files that an earlier run left are removed once, when nothing could need them any more.
    fn start_cleaning(&mut self) {
        if !self.temps_cleaned
            && self.trees.dirty().is_empty()
            && self.prefetches.is_idle()
            && self.transfers.requests.is_empty()
            && self.server.journal_is_read()
            && self.observer.is_idle()
        {
            self.temps_cleaned = true;
            let id = self.start_job(Job::CleanTemps { keep: BTreeSet::new() });
            self.local.cleaning(id);
        }
    }
}

impl DeletionWatch {
    fn settled_at(&self) -> u64 {
        (self.changed + DELETION_SETTLE_MS).min(self.since + DELETION_SETTLE_MAX_MS)
    }
}

/// The steps of a running batch, with what each means when it succeeds.
type Steps = (JobId, Vec<PlannedStep>);
