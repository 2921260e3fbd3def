//! One fault at each system call of each small workload.
//!
//! A *point* is a workload, a victim, a fault and a number *n*: the fault strikes the n-th call of the victim's
//! process that it can strike, while the workload is synced. For each combination *n* rises until a run
//! completes in which nothing was injected. After the fault the victim's folder must show each path as it
//! was, as it shall be, or not at all; and after a restart without faults both devices must have exactly
//! what the user did.

mod injector;
mod workload;

use crate::program::Program;
use crate::site::{self, Device, Server, Site, flush_all};
use crate::tracer::{Fault, Injection, POINT};
use crate::tree::{Entry, Tree};
use anyhow::{Context, Result, anyhow, bail};
use injector::Injector;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use workload::Workload;

/// How long all may take to be in sync without a fault.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// How long a workload may take until the fault strikes or all is in sync.
const STRIKE_LIMIT: Duration = Duration::from_secs(60);
/// How long a sticky fault lasts.
const STICKY_TIME: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long flushes may fail after a fault, and how often one is tried.
const RECOVERY_LIMIT: Duration = Duration::from_secs(120);
const SLICE: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(25);
/// No combination has more calls; beyond it something repeats itself.
const CALLS: u64 = 600;
/// How long a problem that was reported may last when its cause is gone.
const PROBLEM_LIMIT: Duration = Duration::from_secs(120);
/// Folders that are prepared together, and tasks after which a lane begins in a new place.
const PREPARED: usize = 16;
const TASKS_OF_A_SITE: usize = 4;
/// Points after which the campaign says how far it is.
const TOLD_EVERY: u64 = 200;
/// What takes longer is told: somebody would wait for it.
const SLOW: Duration = Duration::from_secs(4);
/// How often a folder is read again in which something goes away meanwhile.
const READS: usize = 5;

/// In place of the call that was struck.
const NOT_STRUCK: &str = "without a fault";

/// A fault, and whether it stays.
type Kind = (Fault, bool);

/// For workloads of one operation: all that the kernel could give.
const ALL_KINDS: &[Kind] = &[
    (Fault::Kill, false),
    (Fault::Eio, false),
    (Fault::Eio, true),
    (Fault::EioReading, false),
    (Fault::Enospc, false),
    (Fault::Enospc, true),
    (Fault::Emfile, false),
    (Fault::Eacces, false),
    (Fault::Eintr, false),
    (Fault::ConnectionReset, false),
];
/// For workloads of more, and where a process starts: what strikes where something changes. The calls that read are the same as those of
/// one operation.
const CHANGING_KINDS: &[Kind] = &[(Fault::Kill, false), (Fault::Eio, false), (Fault::Enospc, false)];

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Operations in a workload, one to three.
    pub operations: usize,
    /// No point begins after this time; combinations that are not complete by then are told.
    pub time: Option<Duration>,
    pub seed: u64,
    /// Servers with devices that are tried side by side.
    pub lanes: usize,
    /// Go on after a failure.
    pub keep_going: bool,
    /// The faults to try; all if none is named.
    pub faults: Vec<Fault>,
    /// Keep the place of a failure.
    pub keep: bool,
    /// Try only the tasks with this in their name, as the campaign prints it.
    pub only: Option<String>,
    /// A file with the combinations that earlier runs completed without a failure, a line each: they are left
    /// out, and those of this run are added.
    pub done: Option<PathBuf>,
    /// The `black-box` program, which traces.
    pub tracer: PathBuf,
}

/// What a campaign did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Runs in which a fault was injected.
    pub points: BTreeMap<String, u64>,
    pub combinations: u64,
    /// Completed by earlier runs.
    pub combinations_before: u64,
    pub combinations_left: u64,
    pub failures: Vec<String>,
}

/// Whose system calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Sender,
    Receiver,
    Server,
}

const VICTIMS: [Victim; 3] = [Victim::Sender, Victim::Receiver, Victim::Server];

/// When they fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// While the workload is done and synced.
    Syncing,
    /// While the victim starts, after the workload was done without it: it recovers and catches up.
    Starting,
}

/// What is tried together, in one place.
#[derive(Debug, Clone)]
struct Task {
    workload: Workload,
    victim: Victim,
    moment: Moment,
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = if self.moment == Moment::Starting { ", starting" } else { "" };
        write!(formatter, "{} on {:?}{moment}", self.workload, self.victim)
    }
}

/// Runs a campaign.
///
/// # Errors
/// When a process or the tracer does not do its part. What a fault did to the product is in the outcome.
pub fn run(program: &Program, options: &Options) -> Result<Outcome> {
    let place = tempfile::tempdir()?;
    let program = &program.copied_into(place.path())?;
    let mut tasks = tasks(options.operations);
    tasks.retain(|task| options.only.as_ref().is_none_or(|only| task.to_string().contains(only)));
    tasks.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let done = Done::open(options.done.as_deref())?;
    let combinations_before = tasks.iter().map(|task| done.count(task, options)).sum();
    tasks.retain(|task| done.count(task, options) < options.kinds(task).count() as u64);
    let outcome = Outcome { combinations_before, ..Outcome::default() };
    let shared = Shared {
        tasks: Mutex::new(tasks),
        outcome: Mutex::new(outcome),
        done: Mutex::new(done),
        started: Instant::now(),
    };
    thread::scope(|scope| {
        let lanes: Vec<_> =
            (0..options.lanes).map(|_| scope.spawn(|| Lane::start(program, options, &shared)?.run())).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| anyhow!("a lane panicked"))?)
    })?;
    let mut outcome = locked(&shared.outcome)?.clone();
    let done = locked(&shared.done)?;
    let left = |task: &Task| options.kinds(task).count() as u64 - done.count(task, options);
    outcome.combinations_left += locked(&shared.tasks)?.iter().map(left).sum::<u64>();
    Ok(outcome)
}

impl Options {
    fn kinds(&self, task: &Task) -> impl Iterator<Item = Kind> {
        let kinds = task.kinds().iter().copied();
        kinds.filter(|(fault, _)| self.faults.is_empty() || self.faults.contains(fault))
    }
}

/// The combinations that are complete, by their names, and where they are written down.
struct Done {
    names: BTreeSet<String>,
    file: Option<File>,
}

impl Done {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { names: BTreeSet::new(), file: None }) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        let names = fs::read_to_string(path)?.lines().map(str::to_owned).collect();
        Ok(Self { names, file: Some(file) })
    }

    fn has(&self, task: &Task, kind: Kind) -> bool {
        self.names.contains(&combination(task, kind))
    }

    fn count(&self, task: &Task, options: &Options) -> u64 {
        options.kinds(task).filter(|kind| self.has(task, *kind)).count() as u64
    }

    fn add(&mut self, task: &Task, kind: Kind) -> Result<()> {
        let name = combination(task, kind);
        if let Some(file) = &mut self.file {
            writeln!(file, "{name}")?;
        }
        self.names.insert(name);
        Ok(())
    }
}

fn combination(task: &Task, kind: Kind) -> String {
    format!("{task}: {}", told(kind))
}

fn told((fault, sticky): Kind) -> String {
    if sticky { format!("{} sticky", fault.name()) } else { fault.name().to_owned() }
}

impl Task {
    fn kinds(&self) -> &'static [Kind] {
        let small = self.workload.operations() == 1;
        if small && self.moment == Moment::Syncing { ALL_KINDS } else { CHANGING_KINDS }
    }
}

fn tasks(operations: usize) -> Vec<Task> {
    let moments: &[Moment] = if operations < 2 { &[Moment::Syncing, Moment::Starting] } else { &[Moment::Syncing] };
    let mut tasks = Vec::new();
    for workload in workload::all(operations) {
        for victim in VICTIMS {
            tasks.extend(moments.iter().map(|moment| Task { workload: workload.clone(), victim, moment: *moment }));
        }
    }
    tasks
}

struct Shared {
    tasks: Mutex<Vec<Task>>,
    outcome: Mutex<Outcome>,
    done: Mutex<Done>,
    started: Instant,
}

fn locked<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow!("a lane panicked"))
}

/// A server and two devices of its own.
struct Lane<'a> {
    program: &'a Program,
    site: Site,
    options: &'a Options,
    shared: &'a Shared,
    server: Server,
    sender: Device,
    receiver: Device,
    /// Folders that are ready for a workload.
    prepared: Vec<String>,
    /// What the folders of the last points must hold.
    results: BTreeMap<String, Tree>,
    /// Points that failed in this lane.
    failures: u64,
}

impl<'a> Lane<'a> {
    fn start(program: &'a Program, options: &'a Options, shared: &'a Shared) -> Result<Self> {
        let site = Site::with_shared_program(program)?;
        let server = site.start_server()?;
        let sender = site.start_device("sender", server.address())?;
        let receiver = site.start_device("receiver", server.address())?;
        let (prepared, results, failures) = Default::default();
        Ok(Self { program, site, options, shared, server, sender, receiver, prepared, results, failures })
    }

    fn run(mut self) -> Result<()> {
        for turn in 1.. {
            let Some(task) = self.next_task()? else { break };
            let before = Instant::now();
            let points = self.try_task(&task)?;
            let (took, whole) = (before.elapsed(), self.shared.started.elapsed());
            println!("{whole:.0?} {task}: {points} points in {took:.0?}");
            if turn % TASKS_OF_A_SITE == 0 {
                drop(self.begin_anew()?);
            }
        }
        Ok(())
    }

    fn next_task(&self) -> Result<Option<Task>> {
        if self.is_late() || (!self.options.keep_going && !locked(&self.shared.outcome)?.failures.is_empty()) {
            return Ok(None);
        }
        Ok(locked(&self.shared.tasks)?.pop())
    }

    fn is_late(&self) -> bool {
        self.options.time.is_some_and(|time| self.shared.started.elapsed() >= time)
    }

    /// Every fault at every call that the workload makes; how many were injected.
    fn try_task(&mut self, task: &Task) -> Result<u64> {
        let mut points = 0;
        for kind in self.options.kinds(task) {
            if locked(&self.shared.done)?.has(task, kind) {
                continue;
            }
            let failures = self.failures;
            if !self.try_combination(task, kind, &mut points)? {
                locked(&self.shared.outcome)?.combinations_left += 1;
                continue;
            }
            locked(&self.shared.outcome)?.combinations += 1;
            if self.failures == failures {
                locked(&self.shared.done)?.add(task, kind)?;
            }
        }
        if let Err(error) = self.clear_away() {
            self.fail(format!("{task}, in the end: {error:#}"))?;
        }
        Ok(points)
    }

    /// Whether it was tried to its end: the time may be over before.
    fn try_combination(&mut self, task: &Task, (fault, sticky): Kind, points: &mut u64) -> Result<bool> {
        for number in 1.. {
            if self.is_late() {
                return Ok(false);
            }
            let told = || {
                let from = if sticky { "from" } else { "at" };
                format!("{task}: {} {from} call {number}", fault.name())
            };
            if number > CALLS {
                self.fail(format!("{}: it does not come to an end", told()))?;
                break;
            }
            let before = Instant::now();
            let tried = self.try_point(task, (fault, sticky), number);
            if before.elapsed() > SLOW {
                println!("slow: {} took {:.1?}", told(), before.elapsed());
            }
            match tried {
                Ok(true) => {
                    *points += 1;
                    let mut outcome = locked(&self.shared.outcome)?;
                    *outcome.points.entry(self::told((fault, sticky))).or_default() += 1;
                    let all: u64 = outcome.points.values().sum();
                    if all.is_multiple_of(TOLD_EVERY) {
                        println!("{:.0?} {all} points", self.shared.started.elapsed());
                    }
                }
                Ok(false) => break,
                Err(error) => {
                    let without_fault = error.to_string() == NOT_STRUCK;
                    self.fail(format!("{}: {error:#}", told()))?;
                    // After a fault, the numbers that follow are as interesting as before.
                    if without_fault {
                        break;
                    }
                }
            }
        }
        Ok(true)
    }

    fn fail(&mut self, told: String) -> Result<()> {
        println!("FAILED {told}");
        self.failures += 1;
        locked(&self.shared.outcome)?.failures.push(told);
        let old = self.begin_anew()?;
        if self.options.keep {
            println!("kept: {}", old.keep().display());
        }
        Ok(())
    }

    /// After a failure nothing in the old place is to be trusted; and what many tasks left behind costs time.
    fn begin_anew(&mut self) -> Result<Site> {
        let new = Self { failures: self.failures, ..Self::start(self.program, self.options, self.shared)? };
        Ok(std::mem::replace(self, new).site)
    }

    /// Whether anything was injected; an error is what the fault did to the product.
    fn try_point(&mut self, task: &Task, (fault, sticky): Kind, number: u64) -> Result<bool> {
        let folder = self.prepared_folder(task)?;
        let injection = Injection { fault, number, sticky, folder: folder.clone() };
        let place = self.sender.folder().join(&folder);
        let mut states = vec![Tree::read(&place)?];
        let mut look = || {
            states.push(Tree::read(&place)?);
            Ok(())
        };
        let mut injector = match task.moment {
            Moment::Syncing => {
                let injector = self.attach(task.victim, &injection)?;
                task.workload.perform(&place, &mut look)?;
                injector
            }
            Moment::Starting => {
                self.kill(task.victim)?;
                task.workload.perform(&place, &mut look)?;
                self.start_held(task.victim)?;
                let injector = self.attach(task.victim, &injection)?;
                // It would stop again when it is no longer traced.
                site::go_on(self.pid(task.victim)?)?;
                injector
            }
        };
        self.wait_for_strike(&mut injector, task, sticky)?;
        let struck = injector.detach()?;
        let tried = self.check_paths(task, &folder, &states).and_then(|()| {
            self.recover()?;
            let after = states.pop().context("the workload has an end")?;
            if self.check_end(&folder, &after).is_err() {
                self.wait_for_problems()?;
            }
            self.check_end(&folder, &after)?;
            self.results.insert(folder, after);
            Ok(())
        });
        tried.with_context(|| struck.clone().unwrap_or_else(|| NOT_STRUCK.to_owned()))?;
        Ok(struck.is_some())
    }

    /// Until the fault has done its work, or all is in sync.
    fn wait_for_strike(&self, injector: &mut Injector, task: &Task, sticky: bool) -> Result<()> {
        let deadline = Instant::now() + STRIKE_LIMIT;
        while task.moment == Moment::Starting && injector.struck().is_none() && !self.is_up(task.victim) {
            if Instant::now() > deadline {
                bail!("not up in {STRIKE_LIMIT:?}");
            }
            thread::sleep(TRY_AGAIN);
        }
        for device in [&self.sender, &self.receiver, &self.sender, &self.receiver] {
            let mut flush = device.begin_flush(STRIKE_LIMIT)?;
            while !flush.has_ended()? {
                if injector.struck().is_some() {
                    if sticky {
                        thread::sleep(STICKY_TIME);
                    }
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("neither struck nor in sync in {STRIKE_LIMIT:?}");
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Starts again what ended, and lets all come to rest. A fault may end a process some moments later, and
    /// a device that could not read its folder looks again after a while.
    fn recover(&mut self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY_LIMIT;
        loop {
            self.server.start()?;
            self.sender.start()?;
            self.receiver.start()?;
            // All that came from the sender is with the receiver then; `clear_away` looks for anything that
            // would come later.
            let result = self.sender.flush(SLICE).and_then(|()| self.receiver.flush(SLICE));
            if result.is_ok() || Instant::now() > deadline {
                return result;
            }
            thread::sleep(TRY_AGAIN);
        }
    }

    /// What failed several times is reported, and tried again after a while.
    fn wait_for_problems(&self) -> Result<()> {
        let deadline = Instant::now() + PROBLEM_LIMIT;
        for device in [&self.sender, &self.receiver] {
            while !device.problems()?.is_empty() && Instant::now() < deadline {
                thread::sleep(STICKY_TIME);
            }
        }
        flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT)
    }

    /// A folder with what the workload needs, in sync.
    fn prepared_folder(&mut self, task: &Task) -> Result<String> {
        if self.prepared.is_empty() {
            self.clear_away()?;
            for _ in 0..PREPARED {
                let folder = format!("{POINT}{:016x}", self.site.next_number());
                let place = self.sender.folder().join(&folder);
                fs::create_dir(&place)?;
                task.workload.prepare(&place)?;
                self.prepared.push(folder);
            }
            flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT).context("before the fault")?;
        }
        self.prepared.pop().context("some were prepared")
    }

    fn attach(&self, victim: Victim, injection: &Injection) -> Result<Injector> {
        Injector::attach(&self.options.tracer, self.pid(victim)?, injection)
    }

    fn pid(&self, victim: Victim) -> Result<u32> {
        let pid = match victim {
            Victim::Sender => self.sender.pid(),
            Victim::Receiver => self.receiver.pid(),
            Victim::Server => self.server.pid(),
        };
        pid.context("the victim runs")
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Sender => self.sender.kill(),
            Victim::Receiver => self.receiver.kill(),
            Victim::Server => self.server.kill(),
        }
    }

    fn start_held(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Sender => self.sender.start_held(),
            Victim::Receiver => self.receiver.start_held(),
            Victim::Server => self.server.start_held(),
        }
    }

    fn is_up(&self, victim: Victim) -> bool {
        match victim {
            Victim::Sender => self.sender.is_up(),
            Victim::Receiver => self.receiver.is_up(),
            Victim::Server => self.server.is_up(),
        }
    }

    /// The user's own folder shows what the user did; the other one each path as before, as after, or not.
    fn check_paths(&self, task: &Task, folder: &str, states: &[Tree]) -> Result<()> {
        let when = "right after the fault";
        let mine = Tree::read(&self.sender.folder().join(folder))?;
        let after = states.last().context("the workload has an end")?;
        fail_on(&mine.differences("the sender", after, "the user"), when)?;
        let theirs = read_while_changing(&self.receiver.folder().join(folder))?;
        let anywhere = task.workload.uses_a_file_again();
        let is_in = |tree: &Tree, path: &Path, entry: &Entry| {
            tree.0.iter().any(|(at, known)| (at == path || anywhere) && is_same_content(known, entry))
        };
        let torn = theirs.0.iter().filter(|(path, entry)| !states.iter().any(|tree| is_in(tree, path, entry)));
        let torn: Vec<String> = torn.map(|(path, entry)| format!("{}: {entry:?}", path.display())).collect();
        fail_on(&torn, when)
    }

    fn check_end(&self, folder: &str, after: &Tree) -> Result<()> {
        for device in [&self.sender, &self.receiver] {
            let tree = Tree::read(&device.folder().join(folder))?;
            fail_on(&tree.differences(device.name(), after, "the user"), "at the end")?;
        }
        Ok(())
    }

    /// Looks once more at the folders of the last points, when everything has come to rest, and removes them:
    /// each scan would read them.
    fn clear_away(&mut self) -> Result<()> {
        flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT)?;
        let results = std::mem::take(&mut self.results);
        results.iter().try_for_each(|(folder, after)| self.check_end(folder, after).context("later"))?;
        for folder in results.into_keys().chain(self.prepared.drain(..)) {
            fs::remove_dir_all(self.sender.folder().join(folder))?;
        }
        Ok(())
    }
}

/// Attributes may come a step later than content.
fn is_same_content(known: &Entry, found: &Entry) -> bool {
    match (known, found) {
        (Entry::File { hash, .. }, Entry::File { hash: other, .. }) => hash == other,
        _ => known == found,
    }
}

/// A folder in which a device may be at work.
fn read_while_changing(folder: &Path) -> Result<Tree> {
    let mut result = Ok(Tree::default());
    for _ in 0..READS {
        if !folder.is_dir() {
            return Ok(Tree::default());
        }
        result = Tree::read(folder);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn fail_on(findings: &[String], when: &str) -> Result<()> {
    if findings.is_empty() { Ok(()) } else { bail!("{when}: {}", findings.join("; ")) }
}
