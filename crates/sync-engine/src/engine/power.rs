//! What a power failure does to files that were in sync.
//!
//! A file system keeps what was synced to the disk, and some of the rest: after a power failure a file that was
//! written a moment before may be empty, cut off, as it was before, or not there at all. It may have reached the
//! server by then. What the disk has lost is no edit and no deletion by the user; it comes back from the server.
//!
//! So the disk is synced some time after the last change, and the database knows up to when its changes are
//! durable. When a client starts in another run of the operating system, everything that was in sync and changed
//! after that is shaken: read again, and compared with what the server has. So is an edit that had been seen and not
//! been sent: whatever the disk kept of that is the user's, but an empty file, or none, was left by the power failure.
//!
//! An edit that nobody had seen is known from nothing but the disk: a file in sync that is found empty, or with
//! nothing in it but zeros, and that changed after the last sync and before this run of the operating system. Its
//! user may have emptied it while no client was running. But then no byte is lost when it comes back, and its user is
//! told; were it sent, all devices would lose what the power failure took here.

use super::Engine;
use crate::io::{ActivityKind, Durable, Environment, Job, JobId, RootState, Settled};
use crate::tree::{Content, FileContent, NodeRow, Seen, Synced};
use model::{ContentHash, Mtime, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// How long after a change the disk is synced, in milliseconds. Operating systems write by themselves after
/// about as long, so that there is little to do then.
const SETTLE_DELAY_MS: u64 = 30_000;
/// The clock tick of the coarsest file system, in nanoseconds: a change time may lie so much before the change.
const COARSEST_TICK_NS: i64 = 2_100_000_000;
/// How much a machine's clocks before and after a restart may differ, in nanoseconds: the one that runs without power
/// tells whole seconds, and drifts by some in a week. No user is at work so soon after a start.
const CLOCK_SLACK_NS: i64 = 5_000_000_000;

/// What its user is told of an empty file that is filled again.
const IF_IT_WAS_EMPTIED: &str = "it was empty after the system had started again; if you emptied it, do so once more";

/// What is known of the disk's durability.
#[derive(Debug, Default)]
pub(super) struct Power {
    /// When the disk is to be synced.
    pub(super) settle_at: Option<u64>,
    settling: Option<JobId>,
    /// Whether the first look at the disk since the start is over.
    awake: bool,
    /// Which changes may be what a power failure left, until everything was looked at and read.
    window: Option<Window>,
    /// Nodes that a power failure may have changed, and that were not looked at since.
    shaken: BTreeMap<NodeId, Shaken>,
    /// Of these, those of which it is known what they are now, and not yet whether that is their user's doing.
    /// Nothing is planned with them.
    pub(super) held: BTreeSet<NodeId>,
    /// What was durable when the client started, to be noted when nothing is shaken any more.
    at_start: Option<Durable>,
}

/// What is known of a file from before a power failure.
#[derive(Debug, Clone, Copy)]
struct Shaken {
    mtime: Mtime,
    /// It was an edit that the server has not been told of.
    unsent: bool,
    /// Nobody had seen that it changed.
    unseen: bool,
}

/// The time in which a change was perhaps not durable when the power failed.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// What changed before is durable.
    since: i64,
    /// The beginning of this run of the operating system.
    began: Option<i64>,
    /// When this client started, by the file system's clock and by the engine's.
    woke: (i64, u64),
}

impl Window {
    /// Whether what has this change time may have changed before the power failed. A time that is yet to come is of a
    /// run before this one, too: this one's clock is not right yet.
    fn has(&self, ctime: i64, now: u64) -> bool {
        let (started, at) = self.woke;
        let passed = i64::try_from(now.saturating_sub(at)).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let present = started.saturating_add(passed);
        let is_of_this_run = |began: i64| {
            ctime > began.saturating_add(CLOCK_SLACK_NS) && ctime <= present.saturating_add(CLOCK_SLACK_NS)
        };
        ctime >= self.since && !self.began.is_some_and(is_of_this_run)
    }
}

impl Power {
    /// What is on the disk has changed, as far as the database knows.
    pub(super) fn touched(&mut self, changed: bool, now: u64) {
        if changed {
            self.settle_at.get_or_insert(now + SETTLE_DELAY_MS);
        }
    }
}

impl Engine {
    pub(super) fn start_settling(&mut self, now: u64) {
        let due = self.power.settle_at.is_some_and(|at| at <= now);
        let waits = self.power.settling.is_some() || self.local.is_changing() || !self.local.is_recovered();
        if due && !waits && self.local.root == RootState::Present {
            self.power.settle_at = None;
            self.power.settling = Some(self.start_job(Job::Settle));
        }
    }

    /// Takes the answer, if it is one to [`Engine::start_settling`].
    pub(super) fn kept(&mut self, id: JobId, root: RootState, settled: Option<&Settled>, now: u64) -> bool {
        if self.power.settling.take_if(|running| *running == id).is_none() {
            return false;
        }
        match settled {
            Some(settled) if self.believe_root(root, now) => self.keep(settled.durable),
            _ => self.power.touched(true, now),
        }
        true
    }

    /// Takes note of what is durable, unless it is open still what an earlier power failure has done.
    fn keep(&mut self, durable: Durable) {
        if self.power.shaken.is_empty() && self.power.window.is_none() {
            self.state.durable = Some(durable);
            self.state_touched = true;
        } else {
            self.power.at_start.get_or_insert(durable);
        }
    }

    /// The first sync of the disk since the start.
    pub(super) fn wake_up_on(&mut self, durable: Durable, began: Option<i64>) {
        if std::mem::replace(&mut self.power.awake, true) {
            return;
        }
        if let Some(before) = self.state.durable.filter(|before| before.boot != durable.boot) {
            let since = before.until.saturating_sub(COARSEST_TICK_NS);
            let window = Window { since, began, woke: (durable.until, self.now) };
            self.shake(&window);
            self.power.window = Some(window);
        }
        self.keep(durable);
    }

    /// Doubts everything that both sides agreed on, or will, and that was not durable yet when the power failed.
    fn shake(&mut self, window: &Window) {
        let sent: BTreeSet<NodeId> = self.nodes_in_flight().collect();
        let shaken = |(id, row): (NodeId, NodeRow)| {
            let local = row.local?;
            let as_agreed = |synced: &Synced| local.seen.content().is_none_or(|seen| seen.same(&synced.content));
            let agreed = row.synced.as_ref().is_some_and(as_agreed) || sent.contains(&id);
            // One that its user emptied is left alone.
            let was_file = row.synced.is_some_and(|synced| matches!(synced.content, Content::File(_)));
            let unsent = !agreed && was_file && matches!(local.seen, Seen::File(_)) && local.print.size > 0;
            let shaken = Shaken { mtime: local.print.mtime, unsent, unseen: false };
            (window.has(local.print.ctime, self.now) && (agreed || unsent)).then_some((id, shaken))
        };
        self.power.shaken = self.trees.rows().filter_map(shaken).collect();
        for (id, _) in self.power.shaken.clone() {
            if let Some(mut local) = self.trees.local(id)
                && let Seen::File(content) = &mut local.seen
            {
                *content = None;
                self.trees.set_local(id, Some(local));
            }
        }
    }

    /// Decides about shaken nodes that were looked at by now.
    pub(super) fn watch_shaken(&mut self, env: &Environment<'_>) {
        if self.power.shaken.is_empty() {
            return;
        }
        let sent: BTreeSet<NodeId> = self.nodes_in_flight().collect();
        let idle = self.observer.is_idle();
        for (id, before) in self.power.shaken.clone() {
            if sent.contains(&id) || self.departures.nodes.contains_key(&id) {
                continue;
            }
            match self.trees.local(id) {
                // It was there in this run of the operating system, and somebody deleted it.
                None if before.unseen => {}
                // The disk has lost it.
                None => self.trees.set_synced(id, None),
                Some(local) => match local.seen.content() {
                    Some(found) if idle => {
                        let newer = before.unsent || before.unseen || local.print.mtime > before.mtime;
                        self.compare_shaken(id, found, newer, env);
                        // Now it may be known that it was read.
                        self.trees.touch(id);
                    }
                    _ => continue,
                },
            }
            self.power.shaken.remove(&id);
        }
        self.hold_shaken();
    }

    /// Takes note of what was durable at the start when all that a power failure may have done is decided about.
    pub(super) fn end_doubts(&mut self) {
        let all_is_read = self.local.is_idle() && self.queues.hash.is_empty() && !self.trees.has_todo();
        if self.may_plan() && self.observer.is_idle() && all_is_read {
            self.power.window = None;
        }
        if self.power.shaken.is_empty()
            && self.power.window.is_none()
            && let Some(durable) = self.power.at_start.take()
        {
            self.keep(durable);
        }
    }

    /// A file that was in sync was read: is what it holds nothing, and perhaps nobody's doing?
    pub(super) fn doubt_blank(&mut self, id: NodeId) {
        let (Some(window), Some(local)) = (&self.power.window, self.trees.local(id)) else { return };
        let (Some(Content::File(file)), Some(synced)) = (local.seen.content(), self.trees.synced(id)) else { return };
        // A new name or new permissions since then say nothing about its bytes.
        let times = [local.print.ctime, local.print.mtime.0];
        let is_lost = times.iter().any(|time| window.has(*time, self.now)) && lacks_its_bytes(&file, &synced.content);
        if is_lost && !self.power.shaken.contains_key(&id) {
            let shaken = Shaken { mtime: local.print.mtime, unsent: false, unseen: true };
            self.power.shaken.insert(id, shaken);
            self.hold_shaken();
        }
    }

    /// The row as the client database is to hold it. What is open is not known to it: else the next start would take
    /// what was read for what somebody did before the power failed.
    pub(super) fn row_to_keep(&self, id: NodeId) -> Option<NodeRow> {
        let mut row = self.trees.row(id)?;
        if self.power.shaken.contains_key(&id)
            && let Some(Seen::File(content)) = row.local.as_mut().map(|local| &mut local.seen)
        {
            *content = None;
        }
        Some(row)
    }

    fn hold_shaken(&mut self) {
        let trees = &self.trees;
        let is_known = |id: &NodeId| trees.local(*id).is_none_or(|local| local.seen.content().is_some());
        let held = self.power.shaken.keys().copied().filter(is_known).collect();
        if self.power.held != held {
            self.power.held = held;
            self.freeze();
        }
    }

    fn compare_shaken(&mut self, id: NodeId, found: Content, newer: bool, env: &Environment<'_>) {
        let Some(synced) = self.trees.synced(id) else { return };
        let Content::File(file) = &found else { return };
        // What was modified after all that was known before is the user's, and as whole as the disk kept it.
        if found.same(&synced.content) || newer && !lacks_its_bytes(file, &synced.content) {
            return;
        }
        // A version that the server has, or nothing at all: theirs takes its place. Anything else stays beside it.
        let known = file.size == 0 || self.find_list(env, &file.hash).is_some_and(|(_, remote)| remote);
        if file.size == 0 {
            self.tell(ActivityKind::Refilled, id, Some(IF_IT_WAS_EMPTIED.to_owned()));
        }
        self.trees.set_synced(id, known.then_some(Synced { content: found, ..synced }));
    }
}

/// Whether a file that held something holds nothing now: no bytes, or only zeros.
fn lacks_its_bytes(file: &FileContent, before: &Content) -> bool {
    let held_something = !matches!(before, Content::File(before) if before.size == 0);
    held_something && (file.size == 0 || file.hash == ContentHash::of_zeros(file.size))
}
