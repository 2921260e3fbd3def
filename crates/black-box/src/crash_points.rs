//! One fault at each system call of each small workload, by strace's fault injection.
//!
//! A *point* is a workload, a victim, a system call, a fault and a number *n*: the fault strikes the n-th
//! such call that any thread of the victim makes while the workload is synced. For each combination *n*
//! rises until a run completes in which nothing was injected. After the fault the victim's folder must
//! show each path as it was, as it shall be, or not at all; and after a restart without faults both
//! devices must have exactly what the user did.

mod strace;
mod workload;

use crate::program::Program;
use crate::site::{Device, Server, Site, flush_all};
use crate::tree::{Entry, Tree};
use anyhow::{Context, Result, anyhow, bail};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use strace::{Fault, Strace};
use workload::{ALL, Operation};

/// How long all may take to be in sync without a fault.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// How long the workload is given with one. Most faults end a process at once or are overcome.
const FAULTY_LIMIT: Duration = Duration::from_millis(1_500);
/// How often what ended is started again after one fault, and how long something may take to end.
const RECOVERIES: usize = 3;
const ENDING: Duration = Duration::from_secs(6);
/// No combination has more calls; beyond it something repeats itself.
const CALLS: u32 = 200;

/// System calls that change something, and the faults that each is tried with.
const CHANGING: &[(&str, &[Fault])] = &[
    ("write", &[Fault::Kill, Fault::Eio, Fault::Enospc]),
    ("pwrite64", &[Fault::Kill, Fault::Eio, Fault::Enospc]),
    ("writev", &[Fault::Kill]),
    ("fsync", &[Fault::Kill, Fault::Eio]),
    ("fdatasync", &[Fault::Kill, Fault::Eio]),
    ("syncfs", &[Fault::Kill, Fault::Eio]),
    ("rename", &[Fault::Kill, Fault::Eio, Fault::Enospc]),
    ("renameat2", &[Fault::Kill, Fault::Eio, Fault::Enospc]),
    ("linkat", &[Fault::Kill, Fault::Eio]),
    ("unlink", &[Fault::Kill, Fault::Eio]),
    ("unlinkat", &[Fault::Kill, Fault::Eio]),
    ("mkdir", &[Fault::Kill, Fault::Enospc]),
    ("mkdirat", &[Fault::Kill, Fault::Enospc]),
    ("ftruncate", &[Fault::Kill, Fault::Eio]),
    ("fallocate", &[Fault::Kill, Fault::Enospc]),
    ("copy_file_range", &[Fault::Kill, Fault::Eio]),
    ("utimensat", &[Fault::Kill, Fault::Eio]),
    ("fchmod", &[Fault::Kill, Fault::Eio]),
    ("openat", &[Fault::Kill, Fault::Emfile]),
    ("openat2", &[Fault::Kill, Fault::Emfile]),
    ("pread64", &[Fault::Eio]),
    ("sendto", &[Fault::Kill, Fault::ConnectionReset]),
    ("recvfrom", &[Fault::ConnectionReset]),
];

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Operations in a workload, one or two.
    pub operations: usize,
    /// No point begins after this time; combinations that are not complete by then are told.
    pub time: Option<Duration>,
    pub seed: u64,
    /// Servers with devices that are tried side by side.
    pub lanes: usize,
    /// Go on after a failure.
    pub keep_going: bool,
}

/// What a campaign did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Runs in which a fault was injected.
    pub points: u64,
    pub combinations: u64,
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

/// A workload and its victim: what is tried together, since one traced run tells which calls it makes.
#[derive(Debug, Clone)]
struct Task {
    operations: Vec<Operation>,
    victim: Victim,
}

impl fmt::Display for Task {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} on {:?}", self.operations, self.victim)
    }
}

/// Runs a campaign.
///
/// # Errors
/// When a process or strace does not do its part. What a fault did to the product is in the outcome.
pub fn run(program: &Program, options: &Options) -> Result<Outcome> {
    strace::check()?;
    let place = tempfile::tempdir()?;
    let program = &program.copied_into(place.path())?;
    let mut tasks = tasks(options.operations);
    tasks.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
    let shared = Shared { tasks: Mutex::new(tasks), outcome: Mutex::default(), started: Instant::now() };
    thread::scope(|scope| {
        let lanes: Vec<_> =
            (0..options.lanes).map(|_| scope.spawn(|| Lane::start(program, options, &shared)?.run())).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| anyhow!("a lane panicked"))?)
    })?;
    let mut outcome = locked(&shared.outcome)?.clone();
    let (left, each) = (locked(&shared.tasks)?.len() as u64, CHANGING.iter().map(|(_, faults)| faults.len() as u64));
    outcome.combinations_left += left * each.sum::<u64>();
    Ok(outcome)
}

fn tasks(operations: usize) -> Vec<Task> {
    let ones = || ALL.iter().map(|operation| vec![*operation]);
    let workloads: Vec<Vec<Operation>> = match operations {
        2 => ones().flat_map(|one| ALL.iter().map(move |other| vec![one[0], *other])).collect(),
        _ => ones().collect(),
    };
    let with_victims =
        |operations: Vec<Operation>| VICTIMS.map(|victim| Task { operations: operations.clone(), victim });
    workloads.into_iter().flat_map(with_victims).collect()
}

struct Shared {
    tasks: Mutex<Vec<Task>>,
    outcome: Mutex<Outcome>,
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
    points: u64,
}

impl<'a> Lane<'a> {
    fn start(program: &'a Program, options: &'a Options, shared: &'a Shared) -> Result<Self> {
        let site = Site::with_shared_program(program)?;
        let server = site.start_server()?;
        let sender = site.start_device("sender", server.address())?;
        let receiver = site.start_device("receiver", server.address())?;
        Ok(Self { program, site, options, shared, server, sender, receiver, points: 0 })
    }

    fn run(mut self) -> Result<()> {
        loop {
            let Some(task) = self.next_task()? else { return Ok(()) };
            self.try_task(&task)?;
            println!("{task}: {} points so far, {:.0?}", self.points, self.shared.started.elapsed());
        }
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

    /// Every fault at every call that the workload makes.
    fn try_task(&mut self, task: &Task) -> Result<()> {
        let made = self.calls_made(task)?;
        for (call, faults) in CHANGING {
            for fault in *faults {
                // What is never called needs no fault.
                if !made.contains(*call) || self.try_combination(task, call, *fault)? {
                    locked(&self.shared.outcome)?.combinations += 1;
                } else {
                    locked(&self.shared.outcome)?.combinations_left += 1;
                }
            }
        }
        Ok(())
    }

    /// Which of the calls the victim makes, by a run without a fault.
    fn calls_made(&mut self, task: &Task) -> Result<BTreeSet<String>> {
        let calls: Vec<&str> = CHANGING.iter().map(|(call, _)| *call).collect();
        let folder = self.prepare(task)?;
        let strace = Strace::attach(self.pid(task.victim)?, &calls.join(","), None, &self.site.path("strace.out"))?;
        self.perform(task, &folder)?;
        flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT)?;
        let seen = strace.detach()?;
        Ok(seen.calls)
    }

    /// Whether it was tried to its end: the time may be over before.
    fn try_combination(&mut self, task: &Task, call: &str, fault: Fault) -> Result<bool> {
        for number in 1..=CALLS {
            if self.is_late() {
                return Ok(false);
            }
            match self.try_point(task, call, fault, number) {
                Ok(true) => {
                    self.points += 1;
                    locked(&self.shared.outcome)?.points += 1;
                }
                Ok(false) => break,
                Err(error) => {
                    let told = format!("{task}: {fault:?} at {call} number {number}: {error:#}");
                    println!("FAILED {told}");
                    locked(&self.shared.outcome)?.failures.push(told);
                    self.begin_anew()?;
                    break;
                }
            }
        }
        Ok(true)
    }

    /// After a failure nothing in the old place is to be trusted.
    fn begin_anew(&mut self) -> Result<()> {
        let fresh = Site::with_shared_program(self.program)?;
        self.server = fresh.start_server()?;
        self.sender = fresh.start_device("sender", self.server.address())?;
        self.receiver = fresh.start_device("receiver", self.server.address())?;
        self.site = fresh;
        Ok(())
    }

    /// Whether anything was injected; an error is what the fault did to the product.
    fn try_point(&mut self, task: &Task, call: &str, fault: Fault, number: u32) -> Result<bool> {
        let folder = self.prepare(task)?;
        let before = Tree::read(&self.sender.folder().join(&folder))?;
        let injection = Some((fault, number));
        let strace = Strace::attach(self.pid(task.victim)?, call, injection, &self.site.path("strace.out"))?;
        self.perform(task, &folder)?;
        let after = Tree::read(&self.sender.folder().join(&folder))?;
        // What does not come to an end because of the fault is finished below.
        for device in [&self.sender, &self.receiver, &self.sender] {
            if !strace.has_struck()? || fault != Fault::Kill {
                drop(device.flush(FAULTY_LIMIT));
            }
        }
        let seen = strace.detach()?;
        self.check_paths(&folder, &before, &after, "right after the fault")?;
        self.recover()?;
        self.check_end(&folder, &after)?;
        Ok(seen.injected)
    }

    /// Starts again what ended, and lets all come to rest. A fault may end a process some moments later, too.
    fn recover(&mut self) -> Result<()> {
        let mut result = Ok(());
        for _ in 0..RECOVERIES {
            self.server.start()?;
            self.sender.start()?;
            self.receiver.start()?;
            result = flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT);
            if result.is_ok() {
                break;
            }
            thread::sleep(ENDING);
        }
        result
    }

    /// Puts in what the workload needs, in a folder of its own.
    fn prepare(&mut self, task: &Task) -> Result<String> {
        let folder = format!("point-{:016x}", self.site.next_number());
        let place = self.sender.folder().join(&folder);
        std::fs::create_dir(&place)?;
        for (turn, operation) in task.operations.iter().enumerate() {
            operation.prepare(&place, turn)?;
        }
        flush_all(&[&self.sender, &self.receiver], FLUSH_LIMIT).context("before the fault")?;
        Ok(folder)
    }

    fn perform(&self, task: &Task, folder: &str) -> Result<()> {
        let place = self.sender.folder().join(folder);
        task.operations.iter().enumerate().try_for_each(|(turn, operation)| operation.perform(&place, turn))
    }

    fn pid(&self, victim: Victim) -> Result<u32> {
        let pid = match victim {
            Victim::Sender => self.sender.pid(),
            Victim::Receiver => self.receiver.pid(),
            Victim::Server => self.server.pid(),
        };
        pid.context("the victim runs")
    }

    /// The user's own folder shows what the user did; the other one each path as before, as after, or not.
    fn check_paths(&self, folder: &str, before: &Tree, after: &Tree, when: &str) -> Result<()> {
        let mine = Tree::read(&self.sender.folder().join(folder))?;
        fail_on(&mine.differences("the sender", after, "the user"), when)?;
        let theirs = read_if_there(&self.receiver.folder().join(folder))?;
        let known = |path: &Path, entry: &Entry| {
            [before, after].iter().any(|tree| tree.0.get(path).is_some_and(|known| is_same_content(known, entry)))
        };
        let torn = theirs.0.iter().filter(|(path, entry)| !known(path, entry));
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
}

/// Attributes may come a step later than content.
fn is_same_content(known: &Entry, found: &Entry) -> bool {
    match (known, found) {
        (Entry::File { hash, .. }, Entry::File { hash: other, .. }) => hash == other,
        _ => known == found,
    }
}

fn read_if_there(folder: &Path) -> Result<Tree> {
    if folder.is_dir() { Tree::read(folder) } else { Ok(Tree(BTreeMap::new())) }
}

fn fail_on(findings: &[String], when: &str) -> Result<()> {
    if findings.is_empty() { Ok(()) } else { bail!("{when}: {}", findings.join("; ")) }
}
