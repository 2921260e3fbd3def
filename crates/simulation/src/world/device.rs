//! A device: the real engine, driven as the daemon drives it.

use super::brief::{activity_name, brief_action, brief_event, brief_result};
use super::pace::Pace;
use super::{Checked, Moment, Source, World, violation};
use crate::chance::Chance;
use crate::courier::Courier;
use crate::database::Database;
use crate::disk::{Backup, Disk, Fault, Interrupt, SharedDisk, SimFs, Thing, content_hash, lock};
use crate::history::{Guard, Interruption};
use crate::server::Linked;
use client::transport::Thrift;
use local_files::fs::FsError;
use local_files::jobs::run_job;
use model::{ContentHash, Cursor, Epoch, NodeId, Position};
use notification_service::Subscription;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use sync_engine::io::{
    Action, Command, DeleteGuard, EngineState, Environment, Event, HashResult, Hint, Job, JobId, JobResult, LocalPath,
    LocalStep, RootState, StepError, Write,
};
use sync_engine::tree::{Content, Synced};
use sync_engine::{Engine, Tuning};

/// How many of a thousand times a person takes held deletions back.
const UNDONE_PERMILLE: u32 = 300;
/// Calls of one job among which a fault or an interruption is placed.
const CALLS: u64 = 24;
/// A hint that comes later than this, in milliseconds, may come after its other half was acted upon.
const PROMPT_MS: u64 = 100;
/// The date in the names of conflicted copies.
const TODAY: &str = "2026-11-23";

/// One device of the world.
pub struct Device {
    pub number: usize,
    pub linked: Linked,
    pub disk: SharedDisk,
    pub database: Database,
    /// `None` while the client is not running.
    pub engine: Option<Engine>,
    /// Takes the client's requests to the server while it is running.
    pub(super) courier: Option<Courier>,
    pub(super) stream: Option<Subscription>,
    /// Rises with every death of the client.
    pub(super) life: u64,
    chance: Chance,
    pub(super) jobs: u64,
    pub(super) requests: u64,
    /// The youngest request that has reached the server.
    pub(super) arrived: u64,
    handled: u64,
    hints: u64,
    /// When the next [`Event::Woken`] is due, as scheduled.
    wake_at: Option<u64>,
    pub(super) partitioned_until: u64,
    pub(super) clock_offset_ms: i64,
    pub(super) saved: Option<(Database, Backup)>,
    /// Nodes of which the client knew, when the power failed, that their user had emptied them.
    pub(super) known_empty: BTreeSet<NodeId>,
    /// Jobs and requests whose end the engine has not heard of.
    pub(super) busy: u64,
    /// How often what was tried in vain, since when (I17).
    pub(super) pace: Pace,
    /// Where the cursor was, by epoch (I9).
    cursors: BTreeMap<Epoch, Cursor>,
}

impl Device {
    pub(super) fn new(number: usize, linked: Linked, disk: Disk, chance: Chance, guard: Option<Guard>) -> Self {
        let database = Database::new(fresh_state(&linked, guard));
        Self {
            number,
            linked,
            disk: Arc::new(Mutex::new(disk)),
            database,
            engine: None,
            courier: None,
            stream: None,
            life: 0,
            chance,
            jobs: 0,
            requests: 0,
            arrived: 0,
            handled: 0,
            hints: 0,
            wake_at: None,
            partitioned_until: 0,
            clock_offset_ms: 0,
            saved: None,
            known_empty: BTreeSet::new(),
            busy: 0,
            pace: Pace::default(),
            cursors: BTreeMap::new(),
        }
    }

    /// Whether the client is running.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.engine.is_some()
    }
}

/// The state of a device that has just been linked.
fn fresh_state(linked: &Linked, guard: Option<Guard>) -> EngineState {
    EngineState {
        cursor: Cursor::from([(linked.root, Position::START)]),
        guard: guard
            .map_or_else(DeleteGuard::default, |guard| DeleteGuard::On { count: guard.count, percent: guard.percent }),
        ..EngineState::linked(linked.instance, linked.epoch, linked.root)
    }
}

impl World {
    pub(super) fn alive(&self, device: usize, life: u64) -> bool {
        let device = &self.devices[device];
        device.life == life && device.is_up()
    }

    /// Starts the client, if it is not running.
    ///
    /// # Errors
    /// The rule that it breaks at once.
    pub fn start(&mut self, number: usize) -> Checked<()> {
        let (tuning, thrift) = (self.tuning(number), self.thrift(number));
        let device = &mut self.devices[number];
        if device.is_up() {
            return Ok(());
        }
        let database = &device.database;
        let mut engine = Engine::new(database.state.clone(), database.rows(), format!("dev{number}"));
        engine.tune(tuning);
        device.engine = Some(engine);
        device.courier = Some(Courier::new(device.disk.clone(), device.linked.root, thrift));
        device.wake_at = None;
        device.busy = 0;
        // The watcher of a new process knows nothing of what happened before.
        lock(&device.disk).take_hints();
        let life = device.life;
        self.trace.note(self.now, &format!("start {number}"));
        let mut chance = self.chance(&[5, number as u64, life]);
        let connect_after = self.delay(&mut chance);
        self.at(connect_after, Moment::Connect { device: number, life });
        self.feed(number, Event::Started)
    }

    /// What the client does to be fast, from one start to the next. Files of a history are small, so what is
    /// for large ones must begin with them.
    fn tuning(&self, number: usize) -> Tuning {
        if matches!(*lock(&self.source), Source::Script) {
            return Tuning::default();
        }
        let mut chance = self.chance(&[6, number as u64, self.devices[number].life]);
        let mut moving = self.chance(&[28, number as u64, self.devices[number].life]);
        let mut amending = self.chance(&[27, number as u64, self.devices[number].life]);
        let whole = Tuning::default();
        let mut running = self.chance(&[29, number as u64, self.devices[number].life]);
        Tuning {
            contents_with_news: running.happens(800),
            hashed_ahead: if running.happens(500) { 1 } else { whole.hashed_ahead },
            read_closed_at_once: chance.happens(800),
            prefetch: chance.happens(800),
            pacing: chance.happens(800),
            announce_from: 1,
            inline_file: if chance.happens(500) { 0 } else { Tuning::default().inline_file },
            ahead_from: if chance.happens(500) { 1 } else { Tuning::default().ahead_from },
            kept_blocks: if self.knobs.thrift && amending.happens(800) { 0 } else { Tuning::default().kept_blocks },
            move_from: if self.knobs.thrift && moving.happens(700) { 1 } else { Tuning::default().move_from },
            ..whole
        }
    }

    /// What its transport does to spare bytes, from one start to the next.
    fn thrift(&self, number: usize) -> Thrift {
        let mut chance = self.chance(&[15, number as u64, self.devices[number].life]);
        let mut has = || self.knobs.thrift && chance.happens(850);
        Thrift { delta: has(), compress: has(), small_contents: has(), bundles: has(), ..Thrift::default() }
    }

    /// Kills the client; it is started again after a while.
    pub fn kill(&mut self, number: usize, down_ms: u64) {
        if !self.devices[number].is_up() {
            return;
        }
        self.stop(number);
        self.at(down_ms, Moment::Start { device: number });
    }

    /// Kills the client, for good unless it is started.
    pub fn stop(&mut self, number: usize) {
        self.trace.note(self.now, &format!("kill {number}"));
        let device = &mut self.devices[number];
        device.engine = None;
        device.courier = None;
        device.stream = None;
        device.life += 1;
    }

    /// The person puts back a backup of the whole device. What was written on it since then and had not
    /// reached the server is gone with the person's consent; what the server has must stay.
    pub(super) fn restore_backup(&mut self, number: usize) -> Checked<()> {
        let Some((database, backup)) = self.devices[number].saved.clone() else {
            self.save(number);
            return Ok(());
        };
        self.stop(number);
        let before = self.contents_on(number);
        lock(&self.devices[number].disk).restore(&backup);
        let after = self.contents_on(number);
        let on_server = self.count_contents()?;
        let mut users = lock(&self.users);
        users.lose_programs(number);
        for content in before.difference(&after).filter(|content| !on_server.contains_key(content)) {
            users.ghost.release(*content);
        }
        // Deletions and edits that had not been told when the backup was made are told now.
        for row in database.rows.values() {
            if let Some(Synced { content: Content::File(file), .. }) = &row.synced
                && !after.contains(&file.hash)
            {
                users.ghost.release(file.hash);
            }
        }
        users.ghost.moved(number, &after.into_iter().collect::<Vec<_>>());
        drop(users);
        self.devices[number].database = database;
        self.forget_database(number);
        self.cover("backup restored");
        self.check_disk(number)
    }

    /// How many files of a device have which content, also aside.
    pub(super) fn files_by_content(&self, number: usize) -> BTreeMap<ContentHash, Files> {
        let mut files: BTreeMap<ContentHash, Files> = BTreeMap::new();
        let mut disk = lock(&self.devices[number].disk);
        for content in disk.contents_below(&LocalPath::root()) {
            files.entry(content).or_default().all += 1;
        }
        for thing in disk.tree().into_values() {
            if let Thing::File { bytes, executable } = thing {
                let files = files.entry(content_hash(&bytes)).or_default();
                files.visible += 1;
                files.executable += u32::from(executable);
            }
        }
        files
    }

    pub(super) fn contents_on(&self, number: usize) -> BTreeSet<ContentHash> {
        lock(&self.devices[number].disk).contents_below(&LocalPath::root()).into_iter().collect()
    }

    /// Keeps the database and the files aside.
    pub(super) fn save(&mut self, number: usize) {
        let device = &mut self.devices[number];
        let backup = lock(&device.disk).backup();
        device.saved = Some((device.database.clone(), backup));
    }

    pub(super) fn roll_back_database(&mut self, number: usize) {
        let Some((database, _)) = self.devices[number].saved.clone() else { return };
        self.stop(number);
        self.devices[number].database = database;
        self.forget_database(number);
        self.cover("client database rolled back");
    }

    pub(super) fn lose_database(&mut self, number: usize) {
        self.stop(number);
        let linked = self.devices[number].linked.clone();
        // The file is gone; the configuration beside it still says who the device is.
        self.devices[number].database = Database::new(fresh_state(&linked, self.knobs.devices[number].guard));
        self.forget_database(number);
        self.cover("client database lost");
    }

    /// Links the device to what is at the server's address now. Its folder stays as it is.
    pub(super) fn relink(&mut self, number: usize) -> Checked<()> {
        self.stop(number);
        let account = self.knobs.devices[number].account;
        let linked = self.server.link(&super::email(account), &format!("dev{number}")).map_err(violation)?;
        let guard = self.knobs.devices[number].guard;
        let device = &mut self.devices[number];
        lock(&device.disk).forgive_emptied();
        device.database = Database::new(fresh_state(&linked, guard));
        device.linked = linked;
        device.saved = None;
        device.cursors.clear();
        self.start(number)
    }

    /// Without its database a device cannot tell what was deleted or moved while it did not look: then
    /// superseded contents may come back, and moved ones be in two places. Nothing may be lost.
    fn forget_database(&mut self, number: usize) {
        self.devices[number].cursors.clear();
        lock(&self.devices[number].disk).forgive_emptied();
        lock(&self.users).ghost.lenient = true;
        self.at(100, Moment::Start { device: number });
    }

    /// Whether the client waits for a person's word about deletions.
    pub(super) fn holds_deletions(&self, number: usize) -> bool {
        let engine = self.devices[number].engine.as_ref();
        engine.is_some_and(|engine| engine.status().held_deletions > 0)
    }

    /// A person who is there confirms what is held anywhere, or takes it back; whether anything was held.
    pub(super) fn confirm_deletions(&mut self) -> Checked<bool> {
        let holds = |number: &usize| self.is_reachable(*number) && self.holds_deletions(*number);
        let holding: Vec<usize> = (0..self.devices.len()).filter(holds).collect();
        for number in &holding {
            self.cover("deletions held");
            if self.chance(&[24, *number as u64, self.now]).happens(UNDONE_PERMILLE) {
                self.undo_deletions(*number)?;
            } else {
                self.command(*number, Command::ConfirmDeletions)?;
            }
        }
        Ok(!holding.is_empty())
    }

    /// Passes a command on, if the client is running.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn command(&mut self, number: usize, command: Command) -> Checked<()> {
        if self.devices[number].is_up() { self.feed(number, Event::Command(command)) } else { Ok(()) }
    }

    /// Gives the engine an event and performs what it answers.
    pub(super) fn feed(&mut self, number: usize, event: Event) -> Checked<()> {
        let now = self.now;
        match &event {
            Event::JobDone(_, result) => {
                self.devices[number].busy -= 1;
                if let JobResult::Applied { root: RootState::Present, results } = result
                    && let Some(Err(error)) = results.first()
                {
                    self.devices[number].pace.failed(now, &format!("a step ({error})"))?;
                }
            }
            Event::Replied(_, result) => {
                self.devices[number].busy -= 1;
                if let Err(error) = result {
                    self.devices[number].pace.failed(now, &format!("a call ({error})"))?;
                }
            }
            _ => {}
        }
        self.trace.note(now, &format!("feed {number} {}", brief_event(&event)));
        self.trace.detail(|| format!("{event:?}"));
        let device = &mut self.devices[number];
        device.handled += 1;
        let Some(engine) = &mut device.engine else { return Ok(()) };
        let chance = &mut device.chance;
        let mut random = || chance.id();
        let mut environment = Environment { now, today: TODAY, random: &mut random, blocklists: &device.database };
        let actions = engine.handle(event, &mut environment);
        if engine.missed() > 0 {
            let found: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
            return Err(violation(format!("I17: device {number} had work that nothing woke: {}", found.join(", "))));
        }
        self.perform(number, actions)?;
        self.schedule_wake(number);
        Ok(())
    }

    fn perform(&mut self, number: usize, actions: Vec<Action>) -> Checked<()> {
        let (life, handled) = (self.devices[number].life, self.devices[number].handled);
        let mut chance = self.chance(&[7, number as u64, handled]);
        let dies = !self.calm && !actions.is_empty() && chance.happens(self.knobs.local.kill / 4);
        let last = chance.index(actions.len() + 1);
        for (index, action) in actions.into_iter().enumerate() {
            if dies && index == last {
                self.cover("killed between actions");
                self.kill(number, chance.below(10_000));
                return Ok(());
            }
            self.trace.note(self.now, &format!("act {number} {}", brief_action(&action)));
            self.trace.detail(|| format!("{action:?}"));
            match action {
                Action::Persist(writes) => self.persist(number, &writes)?,
                Action::Job(id, job) => {
                    self.devices[number].busy += 1;
                    let after = self.delay(&mut chance);
                    self.at(after, Moment::Job { device: number, life, id, job });
                }
                Action::Send(id, request) => {
                    self.devices[number].busy += 1;
                    let after = self.delay(&mut chance);
                    self.at(after, Moment::Depart { device: number, life, id, request });
                }
                Action::Report(activity) => self.cover(activity_name(activity.kind)),
            }
        }
        Ok(())
    }

    fn persist(&mut self, number: usize, writes: &[Write]) -> Checked<()> {
        self.devices[number].database.apply(writes);
        for write in writes {
            if let Write::State(state) = write {
                check_cursor(&mut self.devices[number], state)?;
                self.check_what_is_sent_as_empty(number)?;
            }
        }
        let device = &self.devices[number];
        crate::rows::check(&device.database).map_err(|text| violation(format!("{text} (device {number})")))
    }

    fn schedule_wake(&mut self, number: usize) {
        let Some(at) = self.devices[number].engine.as_ref().and_then(Engine::next_wake) else { return };
        let at = at.max(self.now + 1);
        if self.devices[number].wake_at.is_none_or(|known| known > at || known <= self.now) {
            self.devices[number].wake_at = Some(at);
            let life = self.devices[number].life;
            self.at(at - self.now, Moment::Wake { device: number, life });
        }
    }

    pub(super) fn wake(&mut self, number: usize) -> Checked<()> {
        let device = &mut self.devices[number];
        if device.wake_at.is_some_and(|at| at <= self.now) {
            device.wake_at = None;
        }
        match device.engine.as_ref().and_then(Engine::next_wake) {
            Some(at) if at <= self.now => self.feed(number, Event::Woken),
            _ => {
                self.schedule_wake(number);
                Ok(())
            }
        }
    }

    /// Runs a job, with whatever comes in between.
    pub(super) fn run_job(&mut self, number: usize, id: JobId, job: &Job) -> Checked<()> {
        // Some are counted for themselves, so that stored histories mean the same jobs as before there were these.
        let job_number = match job {
            Job::Settle => u64::MAX - self.devices[number].life,
            Job::MarkExcluded(_) => u64::MAX / 2 - (self.devices[number].life << 32) - id.0,
            _ => self.devices[number].jobs,
        };
        self.devices[number].jobs += u64::from(!matches!(job, Job::Settle | Job::MarkExcluded(_)));
        let (fs, end) = self.surprises(number, job_number, SimFs::new(self.devices[number].disk.clone()));
        let result = run_job(&fs, job);
        let (calls, failed) = fs.calls();
        self.trace.note(self.now, &format!("job {number} #{job_number} {} calls {}", calls, brief_result(&result)));
        self.trace.detail(|| format!("{result:?}"));
        self.check_disk(number)?;
        self.watch(number);
        if failed > 0 {
            self.cover("file error");
            if let Job::Apply(steps) = job {
                lock(&self.users).ghost.unsure(steps.iter().filter_map(installed));
            }
        }
        if let Job::Apply(steps) = job {
            let (mut users, mut disk) = (lock(&self.users), lock(&self.devices[number].disk));
            steps.iter().filter_map(put_at).for_each(|path| users.note_rivals(number, &mut disk, path));
        }
        if fs.died() {
            return self.die_in_job(number, job, end);
        }
        self.note_result(&result);
        self.note_scan(number, &result);
        self.note_reading(number, &result);
        let life = self.devices[number].life;
        let mut chance = self.chance(&[8, number as u64, job_number]);
        let after = self.delay(&mut chance);
        self.at(after, Moment::Feed { device: number, life, event: Event::JobDone(id, result) });
        Ok(())
    }

    fn die_in_job(&mut self, number: usize, job: &Job, end: End) -> Checked<()> {
        if matches!(job, Job::Apply(_)) {
            self.cover("crash during apply");
        }
        match end {
            End::Power { down_ms } => self.lose_power(number, down_ms),
            End::Killed { down_ms } => {
                self.kill(number, down_ms);
                Ok(())
            }
        }
    }

    /// Tells the ghost which contents a scan saw.
    fn note_scan(&self, number: usize, result: &JobResult) {
        let JobResult::Scanned { directories, .. } = result else { return };
        let mut users = lock(&self.users);
        if !users.ghost.awaits_scan(number) {
            return;
        }
        let mut disk = lock(&self.devices[number].disk);
        for scan in directories {
            for found in scan.result.iter().flat_map(|listing| &listing.entries) {
                if let Some(content) = disk.content_at(&scan.target.directory.join(&found.name)) {
                    users.ghost.seen(number, content);
                }
            }
        }
    }

    /// Tells the ghost which contents were read.
    fn note_reading(&self, number: usize, result: &JobResult) {
        let JobResult::Hashed(results) = result else { return };
        let mut users = lock(&self.users);
        for (_, result) in results {
            if let HashResult::Hashed { content, .. } = result {
                users.ghost.read(number, content.hash);
            }
        }
    }

    fn note_result(&mut self, result: &JobResult) {
        match result {
            JobResult::Scanned { root, .. } | JobResult::Applied { root, .. } if *root != RootState::Present => {
                self.cover("root was missing");
            }
            JobResult::Hashed(results) => {
                if results.iter().any(|(_, result)| matches!(result, HashResult::Unsettled | HashResult::Changed)) {
                    self.cover("file changed under hashing");
                }
            }
            JobResult::Applied { results, .. } => {
                if results.iter().any(Result::is_err) {
                    self.cover("local step refused");
                }
                if results.iter().any(|result| matches!(result, Err(StepError::Name(_)))) {
                    self.cover("name refused");
                }
            }
            JobResult::Scanned { .. }
            | JobResult::Settled { .. }
            | JobResult::Marked { .. }
            | JobResult::Prepared { .. }
            | JobResult::Probed { .. }
            | JobResult::NoRoom
            | JobResult::Cleaned => {}
        }
    }

    /// Lets users, errors and deaths into a job.
    fn surprises(&mut self, number: usize, job_number: u64, mut fs: SimFs) -> (SimFs, End) {
        let mut chance = self.chance(&[9, number as u64, job_number]);
        let down_ms = chance.below(10_000);
        if self.calm {
            return (fs, End::Killed { down_ms });
        }
        for (call, interrupt) in self.interruptions(number, job_number) {
            fs = fs.interrupted(call, interrupt);
        }
        let mut chance = self.chance(&[10, number as u64, job_number]);
        let call = |chance: &mut Chance| u32::try_from(chance.below(CALLS)).unwrap_or(0);
        if chance.happens(self.knobs.local.error) {
            let error = match chance.below(3) {
                0 => FsError::NoSpace,
                1 => FsError::Permission,
                _ => FsError::Other { what: "call", path: LocalPath::root(), errno: 5 },
            };
            fs = fs.failing(call(&mut chance), Fault::Error(error));
        }
        let mut chance = self.chance(&[11, number as u64, job_number]);
        if chance.happens(self.knobs.local.power) {
            return (fs.failing(call(&mut chance), Fault::Death), End::Power { down_ms });
        }
        if chance.happens(self.knobs.local.kill) {
            fs = fs.failing(call(&mut chance), Fault::Death);
        }
        (fs, End::Killed { down_ms })
    }

    /// What a user does in the middle of the job: chosen now, in a random history; else as it is stored.
    fn interruptions(&self, number: usize, job_number: u64) -> Vec<(u32, Interrupt)> {
        if let Source::Random(_) = &*lock(&self.source) {
            let mut chance = self.chance(&[12, number as u64, job_number]);
            if !chance.happens(self.knobs.local.interrupt) {
                return Vec::new();
            }
            let call = u32::try_from(chance.below(CALLS)).unwrap_or(0);
            return vec![(call, self.random_interrupt(number, job_number, call))];
        }
        let stored = self.interrupts.get(&(number, job_number));
        stored.into_iter().flatten().map(|one| (one.call, self.stored_interrupt(one))).collect()
    }

    fn random_interrupt(&self, device: usize, job: u64, call: u32) -> Interrupt {
        let (users, source, recorded) = (self.users.clone(), self.source.clone(), self.recorded.clone());
        Box::new(move |disk| {
            let op = match &mut *lock(&source) {
                Source::Random(workload) => lock(workload).operation(device, disk),
                Source::Fixed(_) | Source::Script => return,
            };
            let mut users = lock(&users);
            if disk.root == crate::disk::RootIs::Mounted && !super::protects_share(&users, &op) {
                users.act(device, disk, &op).ok();
            }
            lock(&recorded).interrupts.push(Interruption { device, job, call, op });
        })
    }

    fn stored_interrupt(&self, one: &Interruption) -> Interrupt {
        let (users, one) = (self.users.clone(), one.clone());
        Box::new(move |disk| {
            let mut users = lock(&users);
            if disk.root == crate::disk::RootIs::Mounted && !super::protects_share(&users, &one.op) {
                users.act(one.device, disk, &one.op).ok();
            }
        })
    }

    /// Tells the watcher of what happened on the disk.
    pub(super) fn watch(&mut self, number: usize) {
        let hints = lock(&self.devices[number].disk).take_hints();
        if hints.is_empty() || !self.devices[number].is_up() {
            return;
        }
        let (life, knobs) = (self.devices[number].life, self.knobs.devices[number].clone());
        let mut kept: Vec<Hint> = Vec::new();
        let mut belated: Vec<Hint> = Vec::new();
        let mut chance = self.chance(&[13, number as u64, self.devices[number].hints]);
        self.devices[number].hints += 1;
        for hint in hints {
            if self.calm || !chance.happens(knobs.lost_hints) {
                kept.push(hint);
            } else {
                belated.push(hint);
            }
        }
        let late = if chance.happens(knobs.late_hints) { chance.below(5000) } else { chance.below(50) };
        if !belated.is_empty() {
            self.cover("hint withheld");
        }
        if late > PROMPT_MS {
            self.cover("hint late");
            belated.extend(kept.iter().cloned());
        }
        self.overlook(number, &belated);
        if !kept.is_empty() {
            self.at(late, Moment::Hints { device: number, life, hints: kept });
        }
    }

    /// Tells the ghost what these hints were about.
    fn overlook(&self, number: usize, hints: &[Hint]) {
        let mut users = lock(&self.users);
        let mut disk = lock(&self.devices[number].disk);
        for hint in hints {
            if let Hint::Entry { directory, name } | Hint::Closed { directory, name } = hint {
                let contents = disk.contents_below(&directory.join(name));
                users.ghost.overlooked(number, &contents);
            }
        }
    }

    /// What the client did on the disk against the rules (I3, I7, I12, I16).
    pub(super) fn check_disk(&mut self, number: usize) -> Checked<()> {
        let mut disk = lock(&self.devices[number].disk);
        if let Some(text) = disk.take_violations().into_iter().next() {
            return Err(violation(format!("{text} (device {number})")));
        }
        let removed = disk.take_removed();
        let parked = std::mem::take(&mut disk.parked);
        let reused = std::mem::take(&mut disk.reused);
        let may_be_emptied = disk.has_lost_power();
        drop(disk);
        if parked > 0 {
            self.cover("park used");
        }
        if reused > 0 {
            self.cover("inode reused");
        }
        for (path, content) in removed {
            let in_the_last_moment = lock(&self.users).ghost.was_written_aside(&content);
            // A power failure empties files, and no byte goes with such a one.
            let is_emptied = may_be_emptied && content == content_hash(b"");
            if !in_the_last_moment && !is_emptied && !self.server.journals.ever_held(&content) {
                let text = lock(&self.users).ghost.text(&content);
                return Err(violation(format!(
                    "I16: device {number} removed `{path}` with the last copy of `{text}`, which no server has"
                )));
            }
        }
        Ok(())
    }
}

/// Where a step puts something.
const fn put_at(step: &LocalStep) -> Option<&LocalPath> {
    match step {
        LocalStep::MakeDirectory { path, .. }
        | LocalStep::Install { path, .. }
        | LocalStep::MakeSymlink { path, .. }
        | LocalStep::Move { to: path, .. } => Some(path),
        LocalStep::SetAttributes { .. } | LocalStep::Remove { .. } | LocalStep::RemoveDirectory { .. } => None,
    }
}

/// The content that a step puts in place.
fn installed(step: &LocalStep) -> Option<ContentHash> {
    if let LocalStep::Install { content, .. } = step { Some(content.hash) } else { None }
}

/// How many files have one content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) all: u32,
    /// Of these, files in the folder.
    pub(super) visible: u32,
    pub(super) executable: u32,
}

/// How a client that dies in a job dies.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed { down_ms: u64 },
    Power { down_ms: u64 },
}

/// A cursor never goes back within an epoch (I9).
fn check_cursor(device: &mut Device, state: &EngineState) -> Checked<()> {
    let known = device.cursors.entry(state.epoch).or_default();
    for (namespace, position) in &state.cursor {
        let before = known.entry(*namespace).or_insert(*position);
        // A namespace that is followed anew begins at its start.
        if position < before && *position != Position::START {
            let number = device.number;
            return Err(violation(format!(
                "I9: device {number} went from {before} back to {position} in {namespace:?}"
            )));
        }
        *before = *position;
    }
    Ok(())
}
