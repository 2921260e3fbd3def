//! The engine's work on the local disk: scans, hashing, and batches of steps.

use super::installing::Recovery;
use super::{Engine, ROOT_RETRY_MS, Steps};
use crate::io::{
    Activity, ActivityKind, Environment, Fingerprint, HashResult, HashTask, Hint, Job, JobId, JobResult, LocalPath,
    LocalStep, RootState, StepError, StepResult,
};
use crate::plan::{After, BatchBuilder, Naming, PlannedStep};
use crate::tree::{Content, FileContent, Local, Place, Seen, Synced};
use crate::trees::Trees;
use crate::verdict::Context;
use model::{Epoch, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Hints that are kept while a batch is under way; when there are more, everything is looked at.
const MAX_HINTED: usize = 10_000;
/// Files in one hashing job.
const HASH_FILES: usize = 256;
/// Bytes after which a hashing job takes no further file.
const HASH_BYTES: u64 = 64 * 1024 * 1024;
/// Hashing jobs at a time.
const HASH_JOBS: usize = 2;
/// The first wait for a file that was changing while it was read, in milliseconds.
const HASH_RETRY_MS: u64 = 40;
/// The longest such wait, in milliseconds.
const HASH_RETRY_MAX_MS: u64 = 2_000;
/// A file that a program has open for writing is read when it was quiet for so long, in milliseconds.
const WRITER_QUIET_MS: u64 = 2_000;
/// ... or when it has been written to for so long, in milliseconds, so that a log file gets its turn.
const WRITER_PATIENCE_MS: u64 = 30_000;
/// Files being written, and files just closed, that are remembered; beyond this they are read when they
/// have settled.
const MAX_WRITERS: usize = 10_000;
/// The clock tick of a file system with times in whole seconds, in nanoseconds; FAT counts in twos.
const COARSE_TICK_NS: i64 = 2_100_000_000;
/// The clock tick of any other file system, in nanoseconds: Linux stamps files with a clock of 1 to 10 ms.
const FINE_TICK_NS: i64 = 20_000_000;
/// Failures of one node after which it is reported and retried ever more slowly.
pub(super) const FAILURES_BEFORE_REPORT: u32 = 3;
/// The first wait after a failure, in milliseconds; it doubles.
const RETRY_MS: u64 = 1_000;
/// The longest wait after failures, in milliseconds.
const RETRY_MAX_MS: u64 = 60_000;

/// A node that could not be synced.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) reason: String,
    pub(super) failures: u32,
    /// When to try again.
    pub(super) retry_at: u64,
    /// Left alone until then.
    pub(super) held: bool,
}

/// What goes on on the local disk.
#[derive(Debug)]
pub(super) struct LocalWork {
    pub(super) root: RootState,
    pub(super) root_retry_at: Option<u64>,
    scan: Option<JobId>,
    /// Steps have changed the disk: a scan gets its turn before the next batch.
    pub(super) scan_is_due: bool,
    /// What came while the batch was under way.
    hinted: Vec<Hint>,
    pub(super) steps: Option<Steps>,
    /// The epoch for which those steps were planned.
    pub(super) batch_epoch: Epoch,
    /// Nothing is looked at or decided before it is known what an earlier batch has done.
    pub(super) recovery: Recovery,
    /// Why what was changed on the disk cannot be made durable.
    pub(super) not_durable: Option<String>,
    hash_jobs: BTreeMap<JobId, Vec<HashTask>>,
    hashing: BTreeSet<NodeId>,
    /// Of these, files that a program wrote to meanwhile: what is read does not count.
    doubted: BTreeSet<NodeId>,
    /// Files to be read again: when, and after how many tries.
    unsettled: BTreeMap<NodeId, (u64, u32)>,
    /// Files that were not on the disk what the tree has: as what they were to be read, and the round that looks.
    stale: BTreeMap<NodeId, (Fingerprint, u64)>,
    /// Files that a program is writing: since when, and when last.
    writers: BTreeMap<LocalPath, (u64, u64)>,
    /// Files that a program closed after writing, and that are not read yet.
    closed: BTreeSet<LocalPath>,
    cleaning: Option<JobId>,
}

impl Default for LocalWork {
    fn default() -> Self {
        Self {
            root: RootState::Present,
            root_retry_at: None,
            scan: None,
            scan_is_due: false,
            hinted: Vec::new(),
            steps: None,
            batch_epoch: Epoch::default(),
            recovery: Recovery::default(),
            not_durable: None,
            hash_jobs: BTreeMap::new(),
            hashing: BTreeSet::new(),
            doubted: BTreeSet::new(),
            unsettled: BTreeMap::new(),
            stale: BTreeMap::new(),
            writers: BTreeMap::new(),
            closed: BTreeSet::new(),
            cleaning: None,
        }
    }
}

impl LocalWork {
    /// Keeps hints that come while a batch is under way. Where they lead is known when the batch is done: they may be
    /// about folders that it makes.
    pub(super) fn keep_hints(&mut self, hints: &[Hint]) {
        if self.steps.is_none() {
            return;
        }
        self.hinted.extend_from_slice(hints);
        if self.hinted.len() > MAX_HINTED {
            self.hinted = vec![Hint::Rescan { directory: LocalPath::root() }];
        }
    }

    pub(super) fn being_written(&mut self, path: LocalPath, now: u64) {
        self.closed.remove(&path);
        if self.writers.len() < MAX_WRITERS || self.writers.contains_key(&path) {
            self.writers.entry(path).or_insert((now, now)).1 = now;
        }
    }

    pub(super) fn closed(&mut self, path: LocalPath, node: Option<NodeId>) {
        self.writers.remove(&path);
        if let Some(node) = node {
            // It waited for this.
            self.unsettled.remove(&node);
        }
        if self.closed.len() >= MAX_WRITERS {
            // They are read when they have settled.
            self.closed.clear();
        }
        self.closed.insert(path);
    }

    pub(super) fn not_closed(&mut self, path: &LocalPath) {
        self.closed.remove(path);
    }

    pub(super) fn next_hash_retry(&self) -> Option<u64> {
        self.unsettled.values().map(|(at, _)| *at).min()
    }

    pub(super) fn on_time(&mut self, now: u64) {
        self.root_retry_at = self.root_retry_at.filter(|at| *at > now);
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.is_changing() && self.recovery == Recovery::Done && self.hashing.is_empty() && self.unsettled.is_empty()
    }

    /// Whether a job looks at the disk for the tree, or changes it.
    pub(super) const fn is_changing(&self) -> bool {
        self.scan.is_some() || self.steps.is_some()
    }

    /// Whether it is known what an earlier batch has done.
    pub(super) fn is_recovered(&self) -> bool {
        self.recovery == Recovery::Done
    }

    pub(super) const fn is_cleaning(&self) -> bool {
        self.cleaning.is_some()
    }

    pub(super) fn cleaning(&mut self, id: JobId) {
        self.cleaning = Some(id);
    }

    fn reads_large_file(&self) -> bool {
        self.hash_jobs.values().flatten().any(|task| task.print.size >= HASH_BYTES)
    }

    /// When the file may be read, if a program is writing it.
    fn writer_pause(&self, path: &LocalPath, now: u64) -> Option<u64> {
        let (since, last) = self.writers.get(path)?;
        let until = (last + WRITER_QUIET_MS).min(since + WRITER_PATIENCE_MS);
        (until > now).then_some(until)
    }
}

impl Engine {
    pub(super) fn job_done(&mut self, id: JobId, result: JobResult, env: &mut Environment<'_>) {
        match result {
            JobResult::Scanned { root, directories } => {
                if self.recovered(id, root, &directories, env.now) {
                    return;
                }
                if self.local.scan != Some(id) {
                    return;
                }
                self.local.scan = None;
                if self.believe_root(root, env.now) {
                    self.observer.scanned(&mut self.trees, directories, env.random);
                    if !self.observer.in_round() {
                        self.local.scan_is_due = false;
                    }
                } else {
                    self.observer.abandon(&self.trees);
                }
            }
            JobResult::Hashed(results) => self.hashed(id, results, env),
            JobResult::Applied { root, results } => self.applied(id, root, results, env),
            JobResult::Settled { root, result } => self.settled(id, root, result, env.now),
            JobResult::Marked { root, result } => self.marked(id, root, result, env.now),
            JobResult::Prepared { root, files } => self.prepared(id, root, files, env),
            JobResult::Probed { present, begun } => self.probed(id, &present, begun),
            JobResult::NoRoom => self.found_no_room(id, env.now),
            JobResult::Cleaned => self.local.cleaning = None,
        }
    }

    /// Takes note of the root's state; `false`: nothing that was seen may be believed, and everything is looked at
    /// when the root may be there again.
    pub(super) fn believe_root(&mut self, root: RootState, now: u64) -> bool {
        self.local.root = root;
        if root != RootState::Present {
            self.observer.look_at_everything(&self.trees);
        }
        self.local.root_retry_at = match root {
            RootState::Present => None,
            RootState::Missing | RootState::Replaced => Some(now + ROOT_RETRY_MS),
        };
        root == RootState::Present
    }

    pub(super) fn start_scan(&mut self, random: &mut dyn FnMut() -> [u8; 16]) {
        let waits = self.local.is_changing() || self.local.recovery != Recovery::Done;
        if waits || self.local.root_retry_at.is_some() {
            return;
        }
        let mut targets = self.observer.next_targets(&self.trees);
        while targets.is_empty() && self.observer.in_round() {
            // What was left to look at is gone with its folder: the round goes on without it.
            self.observer.scanned(&mut self.trees, Vec::new(), random);
            targets = self.observer.next_targets(&self.trees);
        }
        if targets.is_empty() {
            return;
        }
        self.local.scan = Some(self.start_job(Job::Scan(targets)));
    }

    pub(super) fn start_hashing(&mut self, now: u64) {
        if self.observer.in_round() || self.local.root != RootState::Present {
            return;
        }
        self.local.unsettled.retain(|id, (at, _)| *at > now || self.queues.hash.contains(id));
        self.local.stale.retain(|id, _| self.queues.hash.contains(id));
        while self.local.hash_jobs.len() < HASH_JOBS && !self.is_hashed_far_ahead() {
            let tasks = self.next_hash_tasks(now);
            if tasks.is_empty() {
                return;
            }
            self.local.hashing.extend(tasks.iter().map(|task| task.node));
            let id = self.start_job(Job::Hash(tasks.clone()));
            self.local.hash_jobs.insert(id, tasks);
        }
    }

    fn next_hash_tasks(&mut self, now: u64) -> Vec<HashTask> {
        let mut tasks = Vec::new();
        let mut bytes = 0;
        let mut pauses = Vec::new();
        // The others must not wait until several large files are read.
        let large_is_read = self.local.reads_large_file();
        // Who waits for all to be in sync does not wait for that.
        let paced = self.tuning.pacing && self.flush.is_none();
        for node in &self.queues.hash {
            if tasks.len() >= HASH_FILES || bytes >= HASH_BYTES {
                break;
            }
            let waits = self.local.unsettled.get(node).is_some_and(|(at, _)| *at > now);
            if waits || self.local.hashing.contains(node) {
                continue;
            }
            let (Some(local), Some(path)) = (self.trees.local(*node), self.trees.local_path(*node)) else { continue };
            let is_looked_at =
                |(print, round): &(_, u64)| *print == local.print && self.observer.finished_round() < *round;
            if self.local.stale.get(node).is_some_and(is_looked_at) {
                continue;
            }
            // Nothing is planned, and so nothing leaves the queue, while the journal is half read.
            if local.seen != Seen::File(None) {
                continue;
            }
            if large_is_read && local.print.size >= HASH_BYTES {
                continue;
            }
            let pause = self.local.writer_pause(&path, now);
            let size = local.print.size;
            let pause = pause.or_else(|| {
                let keeps_its_pace = paced && Self::only_changed_here(&self.trees, *node);
                if keeps_its_pace { self.pace.wait(*node, size, now) } else { None }
            });
            if let Some(until) = pause {
                pauses.push((*node, until));
                continue;
            }
            bytes = bytes.saturating_add(local.print.size);
            let closed = self.tuning.read_closed_at_once && self.local.closed.contains(&path);
            tasks.push(HashTask { node: *node, path, print: local.print, closed });
        }
        for (node, until) in pauses {
            self.local.unsettled.insert(node, (until, 0));
        }
        tasks
    }

    /// Whether nobody else has changed the node's content since it was last in sync.
    fn only_changed_here(trees: &Trees, node: NodeId) -> bool {
        let (remote, synced) = (trees.remote(node), trees.synced(node));
        remote.zip(synced).is_some_and(|(remote, synced)| remote.content == synced.content)
    }

    fn note_pace(&mut self, node: NodeId, content: &FileContent, now: u64) {
        let was = self.trees.synced(node).map(|synced| synced.content);
        if matches!(was, Some(Content::File(was)) if was != *content) {
            self.pace.sent(node, content.size, now);
        }
    }

    /// What waits for its pace waits no longer.
    pub(super) fn hurry(&mut self) {
        for node in self.pace.hurry() {
            self.local.unsettled.remove(&node);
        }
    }

    fn hashed(&mut self, id: JobId, results: Vec<(NodeId, HashResult)>, env: &Environment<'_>) {
        let Some(tasks) = self.local.hash_jobs.remove(&id) else { return };
        for task in &tasks {
            self.local.hashing.remove(&task.node);
        }
        for (task, (node, result)) in tasks.into_iter().zip(results) {
            debug_assert_eq!(task.node, node, "one result per task, in order");
            let tries = self.local.unsettled.remove(&node).map_or(0, |(_, tries)| tries);
            let stale = self.local.stale.remove(&node);
            if self.local.doubted.remove(&node) {
                self.look_at_node(node);
                continue;
            }
            let Some(local) = self.trees.local(node) else { continue };
            if local.print != task.print {
                continue;
            }
            match result {
                HashResult::Hashed { content, blocks } => {
                    self.local.closed.remove(&task.path);
                    self.learn_list(content.hash, blocks, false);
                    self.note_pace(node, &content, env.now);
                    self.note_hashed(content.size);
                    self.trees.set_local(node, Some(Local { seen: Seen::File(Some(content)), ..local }));
                    // What it failed at before is tried again with what is known now.
                    if self.items.remove(&node).is_some_and(|item| item.held) {
                        self.freeze();
                    }
                    self.recognise(node);
                    self.doubt_blank(node);
                }
                HashResult::Unsettled => {
                    let wait = (HASH_RETRY_MS << tries.min(8)).min(HASH_RETRY_MAX_MS);
                    self.local.unsettled.insert(node, (env.now + wait, tries + 1));
                    self.look_at_node(node);
                }
                HashResult::Changed => {
                    self.look_at_node(node);
                    if stale.is_some_and(|(print, _)| print == task.print) {
                        // The look did not help: nothing is seen of the folder, or of what is mounted there.
                        let reason = "the file has changed, and its folder does not show how".to_owned();
                        self.observer.give_up(node);
                        self.fail(node, reason, env.now, Blame::Lasting);
                    } else {
                        self.local.stale.insert(node, (task.print, self.observer.next_round()));
                    }
                }
                HashResult::Unreadable(reason) => {
                    self.observer.give_up(node);
                    self.fail(node, format!("the file cannot be read: {reason}"), env.now, Blame::Lasting);
                }
            }
        }
    }

    /// A file whose bytes show that it is one that was taken for deleted gets that one's identity.
    fn recognise(&mut self, node: NodeId) {
        if !self.frozen.contains(&node)
            && let Some(known) = self.observer.turns_out_to_be(&self.trees, node)
        {
            self.trees.relabel(node, known);
        }
    }

    /// A program has written to a file. A write gives the file its time when it begins and changes bytes
    /// until it ends, which takes long on a busy disk: what was read in between has the same fingerprint as
    /// what is there now.
    pub(super) fn doubt_content(&mut self, path: &LocalPath) {
        let Some(node) = self.trees.at_path(path) else { return };
        if self.local.hashing.contains(&node) {
            self.local.doubted.insert(node);
        }
        if let Some(local) = self.trees.local(node).filter(|local| matches!(local.seen, Seen::File(Some(_)))) {
            self.trees.set_local(node, Some(Local { seen: Seen::File(None), ..local }));
        }
    }

    /// Looks at where the tree has the node.
    pub(super) fn look_at_node(&mut self, node: NodeId) {
        if let Some(local) = self.trees.local(node) {
            let name: Box<[u8]> = Trees::disk_name(&local).into();
            self.observer.look_at_name(local.place.parent, &name);
        }
    }

    pub(super) fn start_steps(&mut self, env: &mut Environment<'_>) {
        let scan_first = self.local.scan_is_due && !self.observer.is_idle();
        if self.local.is_changing() || scan_first || self.queues.pull.is_empty() {
            return;
        }
        let context =
            Context { roles: &self.state.roles, frozen: &self.frozen, may_unload: self.excluding.may_unload() };
        let naming = Naming { device: &self.device_name, date: env.today };
        let transfers = &self.transfers;
        let fetched = |node: NodeId, content: &FileContent| transfers.fetched(node, content);
        let builder = BatchBuilder::new(&mut self.trees, &context, naming, env.random, &fetched);
        let (steps, to_fetch) = builder.build(&mut self.queues);
        for node in to_fetch {
            self.want_content(node, env);
        }
        if steps.is_empty() {
            return;
        }
        self.start_batch(steps);
    }

    pub(super) fn applied(&mut self, id: JobId, root: RootState, results: Vec<StepResult>, env: &mut Environment<'_>) {
        let Some((_, steps)) = self.local.steps.take_if(|(running, _)| *running == id) else { return };
        let believed = self.believe_root(root, env.now);
        if !believed {
            self.observer.abandon(&self.trees);
        }
        self.note_end_of_batch(&steps, &results, believed);
        let nodes: Vec<NodeId> = steps.iter().map(|planned| planned.step.node()).collect();
        for (planned, result) in steps.into_iter().zip(results) {
            match result {
                Ok(print) => self.step_done(planned, print, env),
                Err(error) if believed => self.step_failed(&planned, error, env.now),
                Err(_) => {}
            }
        }
        self.local.scan_is_due = true;
        for hint in std::mem::take(&mut self.local.hinted) {
            self.look_where_hinted(&hint);
        }
        self.freeze();
        for node in nodes {
            if !self.is_batch_of_this_epoch() {
                // What was agreed on with the server before it was restored is void.
                self.trees.set_synced(node, None);
            }
            self.trees.wake(node);
        }
        // What a download replaced must not be taken for an edit after a crash.
        self.persist();
    }

    fn step_done(&mut self, planned: PlannedStep, print: Option<Fingerprint>, env: &mut Environment<'_>) {
        let node = planned.step.node();
        self.items.remove(&node);
        let before = self.trees.local(node).map(|local| local.place);
        match (planned.after, print) {
            (After::Created { place, content }, Some(print)) => self.created(node, place, content, print),
            (After::MadeFresh { place }, Some(print)) => {
                let local = Local { place, seen: Seen::Directory, print, disk_name: None };
                self.put_on_disk_tree(node, local);
            }
            (After::Replaced { content }, Some(print)) => self.replaced(node, content, print),
            (After::Moved { place }, Some(print)) => {
                self.moved(node, place.clone(), print);
                if let Some(synced) = self.trees.synced(node) {
                    self.trees.set_synced(node, Some(Synced { place, ..synced }));
                }
                self.tell(ActivityKind::MovedLocally, node, None);
            }
            (After::Parked { place }, Some(print)) => self.moved(node, place, print),
            (After::Renamed { place, label }, Some(print)) => {
                let before = self.trees.display_path(node);
                self.moved(node, place.clone(), print);
                let kind = if label == crate::verdict::Label::Conflict.as_str() {
                    ActivityKind::Conflict
                } else {
                    ActivityKind::KeptBeside
                };
                self.report(Activity { kind, path: before, detail: Some(place.name.to_string()) });
            }
            (After::MovedOut { place }, Some(print)) => self.moved_out(node, place, print, env),
            (After::Removed, _) => {
                self.tell(ActivityKind::DeletedLocally, node, None);
                // An empty folder was removed: what the tree still has in it went before.
                for below in self.trees.local_subtree(node) {
                    self.trees.set_local(below, None);
                }
                self.trees.set_local(node, None);
                self.trees.set_synced(node, None);
            }
            (_, None) => self.look_at_node(node),
        }
        let has_left = |before: &Place| self.trees.local(node).is_none_or(|local| local.place != *before);
        if let Some(before) = before.filter(has_left) {
            self.observer.has_been_freed(&before);
        }
    }

    fn created(&mut self, node: NodeId, place: Place, content: Content, print: Fingerprint) {
        let folder = matches!(content, Content::Directory);
        let local = Local { place: place.clone(), seen: seen_after(&content, &print), print, disk_name: None };
        let agreed = Synced { place, content };
        if self.put_on_disk_tree(node, local.clone()) {
            self.trees.set_synced(node, Some(agreed));
            if !folder {
                self.tell(ActivityKind::Downloaded, node, None);
            }
        } else if !folder && self.trees.has_local(agreed.place.parent) && self.is_batch_of_this_epoch() {
            self.observer.has_been_put_beside(&self.trees, node, local, agreed);
        }
        self.transfers.forget_fetch(node);
    }

    fn replaced(&mut self, node: NodeId, content: Content, print: Fingerprint) {
        if let (Some(local), Some(synced)) = (self.trees.local(node), self.trees.synced(node)) {
            self.trees.set_local(node, Some(Local { seen: seen_after(&content, &print), print, ..local }));
            self.trees.set_synced(node, Some(Synced { content, ..synced }));
            self.tell(ActivityKind::Downloaded, node, None);
        }
        self.transfers.forget_fetch(node);
    }

    fn moved(&mut self, node: NodeId, place: Place, print: Fingerprint) {
        if let Some(local) = self.trees.local(node) {
            self.put_on_disk_tree(node, Local { place, print, disk_name: None, ..local });
        }
    }

    /// What left a withdrawn share is new, with all that is in it.
    fn moved_out(&mut self, node: NodeId, place: Place, print: Fingerprint, env: &mut Environment<'_>) {
        let before = self.trees.display_path(node);
        self.moved(node, place, print);
        let mut all = self.trees.local_subtree(node);
        all.push(node);
        all.retain(|id| self.trees.has_synced(*id));
        for id in all {
            self.trees.relabel(id, NodeId((env.random)()));
            self.trees.set_synced(id, None);
        }
        let to = "Unsynced".to_owned();
        self.report(Activity { kind: ActivityKind::KeptBeside, path: before, detail: Some(to) });
    }

    /// Puts a node into the local tree, unless its folder is not what the step took it for, or the tree has
    /// there what counts as the same name; then a scan says what is on disk now. Whoever has the very name
    /// cannot be there any more, since the step found it free: where it is, the scan that follows says.
    fn put_on_disk_tree(&mut self, node: NodeId, local: Local) -> bool {
        let folder = local.place.parent;
        let (key, name) = (local.place.name.key(), local.place.name.as_str().as_bytes());
        let there = self.trees.local_child(folder, &key).filter(|other| *other != node);
        let there = there.and_then(|other| self.trees.local(other));
        let has_left = |there: &Local| Trees::disk_name(there) == name;
        let known = folder == crate::tree::PARKED || self.trees.has_local(folder);
        if there.is_some() || !known {
            self.look_at_node(node);
            self.observer.look_at_name(folder, name);
        }
        if !known || there.as_ref().is_some_and(|there| !has_left(there)) {
            return false;
        }
        if there.is_some() {
            self.observer.free_name(&mut self.trees, folder, &key);
        }
        self.observer.has_been_put(node, &local.place.name);
        self.trees.set_local(node, Some(local));
        true
    }

    fn step_failed(&mut self, planned: &PlannedStep, error: StepError, now: u64) {
        let node = planned.step.node();
        let blame = match &error {
            StepError::Occupied | StepError::Changed | StepError::Gone | StepError::NotEmpty => Blame::Race,
            StepError::BadTemp => {
                self.transfers.forget_fetch(node);
                Blame::Race
            }
            StepError::InUse
            | StepError::Name(_)
            | StepError::Permission(_)
            | StepError::NoSpace
            | StepError::Failed(_) => Blame::Lasting,
        };
        self.look_at_step(&planned.step);
        let reason = match &error {
            StepError::Occupied => "something that is not synced has this name".to_owned(),
            StepError::NotEmpty => "the folder was deleted elsewhere but holds files that are not synced".to_owned(),
            other => other.to_string(),
        };
        self.fail(node, reason, now, blame);
    }

    /// Looks at every place that a step was about.
    fn look_at_step(&mut self, step: &LocalStep) {
        let paths = match step {
            LocalStep::MakeDirectory { path, .. }
            | LocalStep::Install { path, .. }
            | LocalStep::MakeSymlink { path, .. }
            | LocalStep::SetAttributes { path, .. }
            | LocalStep::Remove { path, .. } => vec![path],
            LocalStep::RemoveDirectory { path, .. } => {
                self.observer.look_below(&self.trees, path);
                vec![path]
            }
            LocalStep::Move { from, to, .. } => vec![from, to],
        };
        for (folder, name) in paths.into_iter().filter_map(LocalPath::split) {
            self.observer.look_at(&self.trees, &folder, name);
        }
        self.look_at_node(step.node());
    }

    /// Notes a failure. What was lost to a race is tried again after the next scan; what fails for a
    /// lasting reason, or again and again, waits ever longer and is reported.
    pub(super) fn fail(&mut self, node: NodeId, reason: String, now: u64, blame: Blame) {
        let before = self.items.get(&node).map_or(0, |item| item.failures);
        let failures = match blame {
            Blame::Race => before + 1,
            Blame::Lasting => (before + 1).max(FAILURES_BEFORE_REPORT),
        };
        let held = failures >= FAILURES_BEFORE_REPORT;
        let doublings = failures.saturating_sub(FAILURES_BEFORE_REPORT).min(10);
        let wait = (RETRY_MS << doublings).min(RETRY_MAX_MS);
        self.items.insert(node, Item { reason, failures, retry_at: now + wait, held });
        self.queues.forget(node);
        self.freeze();
        self.trees.wake(node);
    }

    /// Tries again what was held back long enough.
    pub(super) fn release_items(&mut self, now: u64) {
        let mut released = false;
        for item in self.items.values_mut().filter(|item| item.held && item.retry_at <= now) {
            item.held = false;
            released = true;
        }
        // What is not out of sync any more, as when the user excluded it, holds nobody up.
        let (trees, before) = (&self.trees, self.items.len());
        self.items.retain(|id, _| trees.dirty().contains(id));
        if released || self.items.len() != before {
            self.freeze();
        }
    }

    pub(super) fn tell(&mut self, kind: ActivityKind, node: NodeId, detail: Option<String>) {
        let path = self.trees.display_path(node);
        self.report(Activity { kind, path, detail });
    }
}

/// Whether a failure is likely to be over soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    Race,
    Lasting,
}

/// What a step left on disk. Where the file's own time is as young as its change time, an edit of the
/// same size in the same tick of the file system's clock could not be told from what was written: such a
/// file is read again when its time has passed. So is one whose execute bit somebody set meanwhile.
fn seen_after(content: &Content, print: &Fingerprint) -> Seen {
    match content {
        Content::File(file) if is_racy(print) || print.executable != file.executable => Seen::File(None),
        _ => content.seen(),
    }
}

fn is_racy(print: &Fingerprint) -> bool {
    let whole_seconds = print.ctime % 1_000_000_000 == 0;
    let tick = if whole_seconds { COARSE_TICK_NS } else { FINE_TICK_NS };
    print.ctime.saturating_sub(print.mtime.0).saturating_abs() <= tick
}
