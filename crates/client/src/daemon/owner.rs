//! The loop that owns the engine and the database.

use super::asks::{Answer, Ask};
use super::network::Network;
use super::workers::Workers;
use super::{DaemonError, Input};
use crate::bandwidth::Bandwidth;
use crate::clock::{Chance, Clock, today, wall_ms};
use crate::control::protocol::{
    ActivityReply, ExcludedReply, Failure, FileStatusEntry, FileStatusReply, FlushReply, PROBLEMS, SettingsReply,
    StatusReply, WhyReply,
};
use crate::database::{Database, DatabaseError};
use crate::home::{Config, Home};
use crate::settings::{Setting, Settings};
use crossbeam_channel::{Receiver, at, never, select};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync_engine::Engine;
use sync_engine::io::{Action, Activity, ActivityKind, Command, Environment, Event, LocalPath, Write};
use sync_engine::status::{Location, Phase};

/// How long after a failed write to the database the next try comes.
const PERSIST_RETRY: Duration = Duration::from_secs(5);
/// The engine is woken no more often than this, whatever it asks for.
const WAKE_PAUSE: Duration = Duration::from_millis(1);
/// Flushes that wait at once.
const FLUSHES: usize = 64;
/// How long an order waits for its own durability before it is answered nonetheless.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// Further than any delay after which the engine persists what it has: at the end, all is due.
const END_OF_TIME_MS: u64 = 3_600_000;
/// Warnings that are kept.
const WARNINGS: usize = 10;
/// No flush waits longer.
const FLUSH_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// How often the date for conflicted copies is looked up.
const DATE_AGE: Duration = Duration::from_secs(1);
/// How often activities that no other write took along are saved.
const ACTIVITY_AGE: Duration = Duration::from_secs(30);

/// What the loop is made of.
pub(super) struct OwnerParts {
    pub(super) engine: Engine,
    pub(super) database: Database,
    pub(super) config: Config,
    pub(super) home: Home,
    pub(super) bandwidth: Arc<Bandwidth>,
    pub(super) workers: Workers,
    pub(super) network: Network,
    pub(super) clock: Clock,
    pub(super) chance: Chance,
    pub(super) events: Receiver<Input>,
    pub(super) asks: Receiver<Ask>,
}

/// The loop and all it owns.
pub(super) struct Owner {
    parts: OwnerParts,
    /// Actions that are still to be started, the first one first. More than none between two turns only
    /// while the database cannot be written.
    actions: VecDeque<Action>,
    /// Set while the database cannot be written: no event is handled until then.
    blocked: Option<Blocked>,
    flushes: Vec<Flush>,
    /// Orders that were carried out and are not durable yet: who gave them is answered when they are.
    orders: Vec<Order>,
    /// What `status` warns of since the start.
    warnings: Vec<String>,
    date: (Instant, String),
    last_woken: Option<Instant>,
    activities_saved: Instant,
}

/// Why and until when nothing is done.
struct Blocked {
    retry_at: Instant,
    reason: String,
}

/// Someone who waits for everything to be in sync.
struct Flush {
    deadline: Instant,
    waits_for: Duration,
    answer: Answer<FlushReply>,
}

/// Someone who waits for an order to be durable.
struct Order {
    deadline: Instant,
    answer: Answer<()>,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Turn,
    Stop,
}

impl Owner {
    pub(super) fn new(parts: OwnerParts) -> Self {
        let now = Instant::now();
        Self {
            parts,
            actions: VecDeque::new(),
            blocked: None,
            flushes: Vec::new(),
            orders: Vec::new(),
            warnings: Vec::new(),
            date: (now, today()),
            last_woken: None,
            activities_saved: now,
        }
    }

    /// Runs until someone asks for the end, or the database is lost.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        self.feed(Event::Started)?;
        while self.turn()? == Next::Turn {
            self.answer_flushes();
            self.answer_late_orders();
        }
        self.end()
    }

    /// Saves what the engine would save later, answers who waits, and closes the database.
    fn end(mut self) -> Result<(), DaemonError> {
        let end = self.parts.clock.now_ms().saturating_add(END_OF_TIME_MS);
        self.handle_event(Event::Woken, end);
        for action in self.actions.drain(..) {
            match action {
                Action::Persist(writes) => self.parts.database.persist(&writes)?,
                Action::Report(activity) => self.parts.database.note(wall_ms(), activity),
                // The next start derives this work again.
                Action::Job(..) | Action::Send(..) => {}
            }
        }
        for order in self.orders {
            reply(order.answer, Ok(()));
        }
        for flush in self.flushes {
            reply(flush.answer, Err(Failure::failed("the daemon was stopped")));
        }
        self.parts.database.close()?;
        Ok(())
    }

    /// Waits for the next thing and handles it.
    fn turn(&mut self) -> Result<Next, DaemonError> {
        let timer = self.next_timer().map_or_else(never, at);
        let events = if self.blocked.is_some() { &never() } else { &self.parts.events.clone() };
        let asks = self.parts.asks.clone();
        select! {
            recv(events) -> input => match input {
                Ok(Input::Event(event)) => self.feed(event)?,
                Ok(Input::Warning(warning)) => self.warn(warning),
                Ok(Input::Bug(what)) => return Err(DaemonError::Bug(what)),
                Err(_) => return Err(DaemonError::Bug("nothing reports to the loop any more".into())),
            },
            recv(asks) -> ask => match ask {
                Ok(ask) => return self.handle(ask),
                Err(_) => return Ok(Next::Stop),
            },
            recv(timer) -> _ => {}
        }
        self.on_time()?;
        Ok(Next::Turn)
    }

    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The next moment at which something is due.
    fn next_timer(&self) -> Option<Instant> {
        let flushes = self.flushes.iter().map(|flush| flush.deadline);
        let deadlines = flushes.chain(self.orders.iter().map(|order| order.deadline)).min();
        if let Some(blocked) = &self.blocked {
            return Some(deadlines.map_or(blocked.retry_at, |deadline| deadline.min(blocked.retry_at)));
        }
        let wake = self.parts.engine.next_wake().map(|ms| self.parts.clock.at(ms));
        let earliest = self.last_woken.map(|last| last + WAKE_PAUSE);
        let wake = match (wake, earliest) {
            (Some(wake), Some(earliest)) => Some(wake.max(earliest)),
            (wake, _) => wake,
        };
        let save = self.parts.database.has_unsaved_activities().then(|| self.activities_saved + ACTIVITY_AGE);
        [wake, deadlines, save].into_iter().flatten().min()
    }

    /// Does what is due.
    fn on_time(&mut self) -> Result<(), DaemonError> {
        let now = Instant::now();
        if let Some(blocked) = &self.blocked {
            if blocked.retry_at <= now {
                if let Err(error) = self.parts.database.reopen() {
                    return self.block(error);
                }
                self.blocked = None;
                self.perform()?;
                if self.blocked.is_none() && !self.flushes.is_empty() {
                    // The engine has not heard yet of those that began meanwhile.
                    self.feed(Event::Command(Command::Flush))?;
                }
            }
            return Ok(());
        }
        if self.parts.engine.next_wake().is_some_and(|ms| self.parts.clock.at(ms) <= now) {
            self.last_woken = Some(now);
            self.feed(Event::Woken)?;
        }
        if self.parts.database.has_unsaved_activities() && self.activities_saved + ACTIVITY_AGE <= now {
            self.activities_saved = now;
            self.actions.push_back(Action::Persist(Vec::new()));
            self.perform()?;
        }
        Ok(())
    }

    /// Gives the engine an event and performs what it answers.
    fn feed(&mut self, event: Event) -> Result<(), DaemonError> {
        self.handle_event(event, self.parts.clock.now_ms());
        self.perform()
    }

    fn handle_event(&mut self, event: Event, now: u64) {
        if self.date.0.elapsed() > DATE_AGE {
            self.date = (Instant::now(), today());
        }
        let OwnerParts { engine, database, chance, .. } = &mut self.parts;
        let mut environment =
            Environment { now, today: &self.date.1, random: &mut || chance.bytes(), blocklists: database };
        self.actions.extend(engine.handle(event, &mut environment));
        database.looked();
    }

    /// Starts the actions in order, up to a write that cannot be made.
    fn perform(&mut self) -> Result<(), DaemonError> {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Persist(writes) => match self.parts.database.persist(&writes) {
                    Ok(()) => {
                        self.activities_saved = Instant::now();
                        if writes.iter().any(|write| matches!(write, Write::State(_))) {
                            self.answer_orders();
                        }
                    }
                    Err(error) => {
                        self.actions.push_front(Action::Persist(writes));
                        return self.block(error);
                    }
                },
                Action::Job(id, job) => self.parts.workers.submit(id, job),
                Action::Send(id, request) => self.parts.network.send(id, request),
                Action::Report(activity) => {
                    log_activity(&activity);
                    self.parts.database.note(wall_ms(), activity);
                }
            }
        }
        Ok(())
    }

    /// A database that cannot be written now (a full disk) is tried again; a damaged one ends the loop.
    fn block(&mut self, error: DatabaseError) -> Result<(), DaemonError> {
        if error.is_unsafe_to_continue() {
            return Err(error.into());
        }
        tracing::error!(%error, cause = ?std::error::Error::source(&error), "the client database cannot be written");
        self.blocked = Some(Blocked { retry_at: Instant::now() + PERSIST_RETRY, reason: error.to_string() });
        Ok(())
    }

    /// Answers a command. An answer that nobody waits for any more is dropped, here and below.
    fn handle(&mut self, ask: Ask) -> Result<Next, DaemonError> {
        match ask {
            Ask::Status(answer) => reply(answer, Ok(self.status())),
            Ask::Activity { limit, answer } => {
                let activity = self.parts.database.activities(limit).cloned().collect();
                reply(answer, Ok(ActivityReply { activity }));
            }
            Ask::Flush { timeout, answer } => self.begin_flush(timeout, answer)?,
            Ask::FileStatus { paths, answer } => reply(answer, Ok(self.file_status(&paths))),
            Ask::Why { path, answer } => reply(answer, Ok(self.why(&path))),
            Ask::Tell { command, answer } => self.tell(command, answer)?,
            Ask::Excluded(answer) => reply(answer, Ok(ExcludedReply { excluded: self.parts.engine.excluded() })),
            Ask::Settings(answer) => reply(answer, Ok(self.settings())),
            Ask::Set { setting, answer } => self.set(setting, answer)?,
            Ask::Locate { path, answer } => reply(answer, self.locate(&path)),
            Ask::Stop(answer) => {
                reply(answer, Ok(()));
                return Ok(Next::Stop);
            }
        }
        Ok(Next::Turn)
    }

    fn status(&self) -> StatusReply {
        let config = &self.parts.config;
        StatusReply {
            status: self.parts.engine.status(),
            problem_list: self.parts.engine.problems(PROBLEMS),
            warnings: self.warnings.clone(),
            trouble: self.blocked.as_ref().map(|blocked| blocked.reason.clone()),
            folder: config.folder.display().to_string(),
            server: config.server.clone(),
            email: config.email.clone(),
            device_name: config.device_name.clone(),
        }
    }

    fn file_status(&self, paths: &[LocalPath]) -> FileStatusReply {
        let entry =
            |path: &LocalPath| FileStatusEntry { path: path.to_string(), status: self.parts.engine.file_status(path) };
        FileStatusReply { files: paths.iter().map(entry).collect() }
    }

    fn why(&self, path: &LocalPath) -> WhyReply {
        let engine = &self.parts.engine;
        WhyReply { path: path.to_string(), status: engine.file_status(path), explanation: engine.why(path) }
    }

    fn locate(&self, path: &LocalPath) -> Result<Location, Failure> {
        let refused = || Failure::failed(format!("`{path}` is not a path that the server could have"));
        self.parts.engine.locate(path).ok_or_else(refused)
    }

    fn settings(&self) -> SettingsReply {
        let Config { bandwidth, thrift, .. } = self.parts.config;
        Settings { guard: self.parts.engine.state().guard, bandwidth, thrift }.into()
    }

    /// Passes a command on to the engine; it is answered when what it changed is durable.
    fn tell(&mut self, command: Command, answer: Answer<()>) -> Result<(), DaemonError> {
        if let Err(failure) = self.check(&command) {
            reply(answer, Err(failure));
            return Ok(());
        }
        self.orders.push(Order { deadline: Instant::now() + ORDER_LIMIT, answer });
        self.feed(Event::Command(command))
    }

    fn answer_orders(&mut self) {
        for order in self.orders.drain(..) {
            reply(order.answer, Ok(()));
        }
    }

    fn answer_late_orders(&mut self) {
        let now = Instant::now();
        let (late, waiting) = std::mem::take(&mut self.orders).into_iter().partition(|order| order.deadline <= now);
        self.orders = waiting;
        let late: Vec<Order> = late;
        for order in late {
            reply(order.answer, Ok(()));
        }
    }

    /// What makes no sense is said to the person, not to the engine.
    fn check(&self, command: &Command) -> Result<(), Failure> {
        if let Some(blocked) = &self.blocked {
            return Err(Failure::failed(blocked.reason.clone()));
        }
        let engine = &self.parts.engine;
        match command {
            Command::Exclude(path) if path.is_root() => Err(Failure::usage("the whole folder cannot be excluded")),
            Command::Exclude(path) if engine.locate(path).is_none_or(|location| location.node.is_none()) => {
                Err(Failure::failed(format!("there is nothing at `{path}`")))
            }
            Command::Include(path) if !engine.excluded().contains(&path.to_string()) => {
                Err(Failure::failed(format!("`{path}` is not excluded")).with_hint("see `syncline exclude list`"))
            }
            Command::ConfirmDeletions | Command::UndoDeletions if engine.status().held_deletions == 0 => {
                Err(Failure::failed("no deletions are held"))
            }
            _ => Ok(()),
        }
    }

    fn set(&mut self, setting: Setting, answer: Answer<()>) -> Result<(), DaemonError> {
        let mut config = self.parts.config.clone();
        if let Setting::DeleteGuard(guard) = setting {
            return self.tell(Command::SetGuard(guard), answer);
        }
        setting.write_into(&mut config.bandwidth, &mut config.thrift);
        reply(answer, self.change_config(config));
        Ok(())
    }

    fn change_config(&mut self, config: Config) -> Result<(), Failure> {
        self.parts.home.save_config(&config).map_err(|error| Failure::from_error(&error, error.hint()))?;
        self.parts.bandwidth.set(config.bandwidth);
        self.parts.network.set_thrift(config.thrift);
        self.parts.workers.set_reuse(config.thrift.reuse);
        self.parts.engine.tune(config.thrift.tuning());
        self.parts.config = config;
        Ok(())
    }

    fn begin_flush(&mut self, timeout: Option<Duration>, answer: Answer<FlushReply>) -> Result<(), DaemonError> {
        // Whoever was broken off waits no more.
        self.flushes.retain(|flush| !flush.answer.is_closed());
        if self.flushes.len() == FLUSHES {
            reply(answer, Err(Failure::failed("too many flushes are waiting")));
            return Ok(());
        }
        let waits_for = timeout.unwrap_or(FLUSH_LIMIT).min(FLUSH_LIMIT);
        self.flushes.push(Flush { deadline: Instant::now() + waits_for, waits_for, answer });
        match &mut self.blocked {
            None => self.feed(Event::Command(Command::Flush))?,
            // Somebody waits now.
            Some(blocked) => blocked.retry_at = Instant::now(),
        }
        Ok(())
    }

    /// Answers the flushes that are done, out of time or hopeless.
    fn answer_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let status = self.parts.engine.status();
        let done = self.blocked.is_none() && self.parts.engine.flushed();
        let (now, mut waiting) = (Instant::now(), Vec::new());
        for flush in std::mem::take(&mut self.flushes) {
            if let Some(failure) = hopeless(&status.phase) {
                reply(flush.answer, Err(failure));
            } else if done && status.held_deletions > 0 {
                reply(flush.answer, Err(held(status.held_deletions)));
            } else if done {
                reply(flush.answer, Ok(FlushReply { flushed: true, problems: status.problems }));
            } else if flush.deadline <= now {
                let reason = self.blocked.as_ref().map(|blocked| blocked.reason.as_str());
                reply(flush.answer, Err(out_of_time(flush.waits_for, &status.phase, reason)));
            } else {
                waiting.push(flush);
            }
        }
        self.flushes = waiting;
    }
}

/// The ordinary ones are in the activity list; the log tells what a person may have to ask about.
fn log_activity(activity: &Activity) {
    let Activity { kind, path, detail } = activity;
    match kind {
        ActivityKind::Uploaded
        | ActivityKind::Downloaded
        | ActivityKind::MovedLocally
        | ActivityKind::MovedRemotely
        | ActivityKind::DeletedLocally
        | ActivityKind::DeletedRemotely => tracing::debug!(?kind, ?path, ?detail, "activity"),
        ActivityKind::Conflict
        | ActivityKind::KeptBeside
        | ActivityKind::Held
        | ActivityKind::ServerChanged
        | ActivityKind::Refilled => {
            tracing::info!(?kind, ?path, ?detail, "activity");
        }
    }
}

fn reply<T>(answer: Answer<T>, result: Result<T, Failure>) {
    // Whoever asked may have gone.
    drop(answer.send(result));
}

/// Why waiting is of no use, if it is not.
fn hopeless(phase: &Phase) -> Option<Failure> {
    match phase {
        Phase::UpToDate | Phase::Syncing | Phase::Offline { .. } => None,
        Phase::Paused => Some(Failure::failed("syncing is paused").with_hint("run `syncline resume`")),
        Phase::Unlinked => Some(Failure::failed("this device was unlinked").with_hint(
            "if nobody unlinked it, the server may have been started without its database: syncing goes on by \
                     itself when it is right again; else run `syncline unlink` and `syncline link`, your files stay",
        )),
        Phase::RootMissing => Some(
            Failure::stopped_for_safety("the synced folder is not there")
                .with_hint("mount it or move it back; syncing goes on by itself"),
        ),
        Phase::RootReplaced => Some(
            Failure::stopped_for_safety("another folder lies where the synced folder was")
                .with_hint("move the right folder back; or run `syncline unlink` and `syncline link`"),
        ),
    }
}

fn held(files: u64) -> Failure {
    Failure::stopped_for_safety(format!("the deletion of {files} files is held until you confirm it"))
        .with_hint("run `syncline deletions confirm`, or `syncline deletions undo` to get the files back")
}

fn out_of_time(waited: Duration, phase: &Phase, trouble: Option<&str>) -> Failure {
    let mut failure = Failure::failed(format!("not everything is in sync after {} seconds", waited.as_secs()))
        .with_hint("see `syncline status`");
    match (trouble, phase) {
        (Some(trouble), _) => failure.causes.push(trouble.to_owned()),
        (None, Phase::Offline { reason }) => failure.causes.push(format!("the server does not answer: {reason}")),
        (None, _) => {}
    }
    failure
}

#[cfg(test)]
mod tests;
