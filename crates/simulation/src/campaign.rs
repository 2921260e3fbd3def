//! Campaigns: many seeds, each a whole history; and what is told of one that fails.

use crate::history::{Act, History};
use crate::world::{Outcome, replay, run_seed};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Seeds at the beginning of a campaign that are run twice.
const RUN_TWICE: u64 = 50;
/// Outcomes that may wait for the one before them.
const OUTCOMES_AHEAD: usize = 16;
/// Attempts to make a failing history smaller.
const SHRINK_ATTEMPTS: usize = 600;
/// Seeds from which on a campaign must have met everything.
const SEEDS_FOR_COVERAGE: u64 = 1500;
/// Seeds from which on it must also have met what is rare.
const SEEDS_FOR_RARE: u64 = 20_000;

/// What a very long campaign must have met as well: the planner sees nearly all refusals for a cycle coming, and large blocks and
/// servers that lose something are few, since the ones are slow and the others loosen the checks.
pub const RARELY_MET: &[&str] =
    &["refused as a cycle", "delta led elsewhere on a device", "download went on", "base was gone before its use"];

/// What a campaign that is long enough must have met.
pub const MUST_MEET: &[&str] = &[
    "edit met delete",
    "edit met edit",
    "delete met edit",
    "delete met move",
    "move met delete",
    "move met move",
    "folder moved",
    "refused as stale",
    "refused for its name",
    "request lost",
    "reply lost",
    "lost answer resolved",
    "request duplicated",
    "request overtaken",
    "notification lost",
    "device cut off",
    "proxy answered",
    "upload broke off",
    "download broke off",
    "crash during apply",
    "killed between actions",
    "power lost",
    "file error",
    "local step refused",
    "conflict copy made",
    "park used",
    "root was missing",
    "server restored",
    "server emptied",
    "client database rolled back",
    "client database lost",
    "server restarted",
    "server clock jumped",
    "clock jumped",
    "file changed under hashing",
    "hint late",
    "hint withheld",
    "inode reused",
    "name refused",
    "store failed",
    "store failed after it had committed",
    "store failed after it had kept blocks",
    "disk full",
    "backup restored",
    "deletions held",
    "deletions undone",
    "member removed",
    "unused blocks removed",
    "clean-up broken off",
    "blocks sent compressed",
    "blocks handed out compressed",
    "block sent as a delta",
    "delta handed on",
    "delta led elsewhere at the server",
    "sums told",
    "small content came along",
    "small delta came along",
    "upload went on",
    "fetched before the commit",
    "source changed",
    "blocks damaged on their way up",
    "blocks damaged on their way down",
    "server struck in a transfer",
    "files sent in a bundle",
    "moved block made at the server",
    "contents came in the place of their names",
    "edit amended",
    "amended edit accepted",
    "amended edit refused as stale",
    "came to rest",
];

/// What a campaign runs.
#[derive(Debug, Clone)]
pub struct Options {
    pub first_seed: u64,
    /// `None`: until the time is over.
    pub seeds: Option<u64>,
    pub time: Option<Duration>,
    /// Threads that run seeds. How a seed goes does not depend on them.
    pub lanes: usize,
    /// Where a failing history is stored.
    pub directory: PathBuf,
    /// Whether a failing history is made smaller.
    pub shrink: bool,
    /// Go on after a failure, to see how many there are.
    pub keep_going: bool,
    /// Rules that are known to be broken now and then (docs/testing.md says how often and what is known):
    /// a seed that breaks one is told, and does not end or fail the campaign.
    pub open: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            first_seed: 1,
            seeds: Some(200),
            time: None,
            lanes: 1,
            directory: PathBuf::from("target/simulation"),
            shrink: true,
            keep_going: false,
            open: Vec::new(),
        }
    }
}

/// One seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub violation: String,
    /// The smallest history that still breaks the same rule.
    pub history: History,
    pub trace: Vec<String>,
    /// Where the history is stored.
    pub stored: Option<PathBuf>,
}

/// How a campaign went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub seeds: u64,
    pub elapsed: Duration,
    /// Virtual time.
    pub simulated: Duration,
    pub coverage: BTreeMap<&'static str, u64>,
    pub failures: Vec<Failure>,
    /// Seeds that broke an open rule, with what they broke.
    pub open: Vec<(u64, String)>,
    /// What should have been met and was not.
    pub not_met: Vec<&'static str>,
}

impl Report {
    /// Whether nothing failed and everything was met.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.not_met.is_empty()
    }
}

/// Runs a campaign.
#[must_use]
pub fn run(options: &Options) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    for_each_seed(options, started, |outcome| {
        take_outcome(options, &mut report, outcome);
        if report.failures.is_empty() || options.keep_going {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    report.elapsed = started.elapsed();
    let required: &[&[&str]] = match report.seeds {
        SEEDS_FOR_RARE.. => &[MUST_MEET, RARELY_MET],
        SEEDS_FOR_COVERAGE.. => &[MUST_MEET],
        _ => &[],
    };
    let required = required.iter().flat_map(|list| list.iter().copied());
    report.not_met = required.filter(|what| !report.coverage.contains_key(what)).collect();
    report
}

fn take_outcome(options: &Options, report: &mut Report, outcome: Outcome) {
    report.seeds += 1;
    report.simulated += Duration::from_millis(outcome.duration_ms);
    for (what, times) in &outcome.coverage {
        *report.coverage.entry(what).or_default() += times;
    }
    let broken = outcome.violation.as_ref().map(|violation| violation.0.clone());
    if let Some(broken) = broken.as_ref().filter(|broken| options.open.contains(&rule_of(broken))) {
        report.open.push((outcome.history.seed, broken.clone()));
    } else if broken.is_some() {
        report.failures.push(describe(options, outcome));
    } else if report.seeds <= RUN_TWICE {
        report.failures.extend(differing(&outcome));
    }
}

/// Runs seeds on several threads, each seed on one, and hands over how they went in the order of the seeds,
/// until there are enough, the time is over, or `take` says so.
fn for_each_seed(options: &Options, started: Instant, mut take: impl FnMut(Outcome) -> ControlFlow<()>) {
    let next = AtomicU64::new(options.first_seed);
    let stopped = AtomicBool::new(false);
    let is_enough = |seed: u64| {
        options.seeds.is_some_and(|seeds| seed - options.first_seed >= seeds)
            || options.time.is_some_and(|time| started.elapsed() >= time)
            || stopped.load(Ordering::Relaxed)
    };
    std::thread::scope(|scope| {
        let (give, outcomes) = sync_channel(OUTCOMES_AHEAD);
        for _ in 0..options.lanes.max(1) {
            let (give, next, is_enough) = (give.clone(), &next, &is_enough);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if is_enough(seed) || give.send(guarded(|| run_seed(seed, false), seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(give);
        let mut early = BTreeMap::new();
        let mut seed = options.first_seed;
        for outcome in outcomes {
            early.insert(outcome.history.seed, outcome);
            while let Some(outcome) = early.remove(&seed) {
                seed += 1;
                if take(outcome).is_break() {
                    stopped.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    });
}

/// Runs one seed with its full trace.
#[must_use]
pub fn run_traced(seed: u64) -> Outcome {
    guarded(|| run_seed(seed, true), seed)
}

/// A panic inside the engine or a service is a failure like any other.
fn guarded(run: impl FnOnce() -> Outcome, seed: u64) -> Outcome {
    let result = catch_unwind(AssertUnwindSafe(run));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome {
            violation: Some(crate::world::Violation(format!("panic: {}", text.unwrap_or_default()))),
            trace_hash: 0,
            trace: Vec::new(),
            coverage: BTreeMap::new(),
            history: History { seed, knobs: crate::workload::knobs(seed), steps: Vec::new(), interrupts: Vec::new() },
            duration_ms: 0,
        }
    })
}

/// Runs a seed again: both traces must be the same.
fn differing(outcome: &Outcome) -> Option<Failure> {
    let seed = outcome.history.seed;
    let again = run_seed(seed, false);
    (again.trace_hash != outcome.trace_hash).then(|| Failure {
        seed,
        violation: format!("the trace was {:x}, then {:x}", outcome.trace_hash, again.trace_hash),
        history: outcome.history.clone(),
        trace: Vec::new(),
        stored: None,
    })
}

fn describe(options: &Options, outcome: Outcome) -> Failure {
    let seed = outcome.history.seed;
    let violation = outcome.violation.map(|violation| violation.0).unwrap_or_default();
    let rule = rule_of(&violation);
    let replayed = guarded(|| replay(&outcome.history, false), seed);
    let replays = replayed.violation.as_ref().is_some_and(|found| rule_of(&found.0) == rule);
    let history = if options.shrink && replays { shrink(&outcome.history, &rule) } else { outcome.history };
    let (violation, trace) = if replays {
        let last = guarded(|| replay(&history, true), seed);
        (last.violation.map_or(violation, |last| last.0), last.trace)
    } else {
        (violation, guarded(|| run_seed(seed, true), seed).trace)
    };
    let stored = store(&options.directory, seed, &history).ok();
    Failure { seed, violation, history, trace, stored }
}

/// The rule that a text says was broken.
fn rule_of(text: &str) -> String {
    text.split(':').next().unwrap_or_default().to_owned()
}

/// Removes what is not needed for the rule to be broken: pieces first large, then small; then faults.
fn shrink(history: &History, rule: &str) -> History {
    let mut attempts = 0;
    let mut fails = |candidate: &History| {
        attempts += 1;
        attempts <= SHRINK_ATTEMPTS && {
            let outcome = guarded(|| replay(candidate, false), candidate.seed);
            outcome.violation.is_some_and(|found| rule_of(&found.0) == rule)
        }
    };
    let mut best = history.clone();
    for calmer in calmer_knobs(&best) {
        let candidate = History { knobs: calmer(best.knobs.clone()), ..best.clone() };
        if candidate.knobs != best.knobs && fails(&candidate) {
            best = candidate;
        }
    }
    let mut piece = best.steps.len().max(best.interrupts.len()).next_power_of_two();
    while piece > 0 {
        shrink_steps(&mut best, piece, &mut fails);
        shrink_interrupts(&mut best, piece, &mut fails);
        piece /= 2;
    }
    shrink_pauses(&mut best, &mut fails);
    best
}

type Calmer = fn(crate::history::Knobs) -> crate::history::Knobs;

/// Ways to make the conditions of a history easier to follow.
fn calmer_knobs(_: &History) -> Vec<Calmer> {
    vec![
        |knobs| crate::history::Knobs { net: crate::history::NetKnobs::default(), ..knobs },
        |knobs| crate::history::Knobs { local: crate::history::LocalKnobs::default(), ..knobs },
        |mut knobs| {
            knobs.net.lose_notification = 0;
            knobs
        },
        |mut knobs| {
            knobs.net.duplicate = 0;
            knobs
        },
        |mut knobs| {
            knobs.net.truncate = 0;
            knobs.net.proxy_page = 0;
            knobs
        },
        |mut knobs| {
            knobs.net.damage = 0;
            knobs
        },
        |mut knobs| {
            knobs.server.strike = 0;
            knobs
        },
        |mut knobs| {
            knobs.thrift = false;
            knobs
        },
        |mut knobs| {
            knobs.net.lose_request = 0;
            knobs
        },
        |mut knobs| {
            knobs.local.error = 0;
            knobs
        },
        |mut knobs| {
            knobs.local.kill = 0;
            knobs
        },
        |mut knobs| {
            knobs.local.power = 0;
            knobs
        },
        |mut knobs| {
            knobs.devices.iter_mut().for_each(|device| (device.late_hints, device.lost_hints) = (0, 0));
            knobs
        },
        |mut knobs| {
            knobs.devices.iter_mut().for_each(|device| device.habits = crate::disk::Habits::default());
            knobs
        },
        |mut knobs| {
            knobs.server.store_error = 0;
            knobs
        },
        |mut knobs| {
            knobs.devices.iter_mut().for_each(|device| device.guard = None);
            knobs
        },
        |mut knobs| {
            knobs.slowest_ms = 20;
            knobs
        },
    ]
}

fn shrink_steps(best: &mut History, piece: usize, fails: &mut impl FnMut(&History) -> bool) {
    let mut at = 0;
    while at < best.steps.len() {
        let end = (at + piece).min(best.steps.len());
        let mut candidate = best.clone();
        let removed: u64 = candidate.steps.drain(at..end).map(|step| step.after_ms).sum();
        if let Some(next) = candidate.steps.get_mut(at) {
            next.after_ms += removed;
        }
        if fails(&candidate) {
            *best = candidate;
        } else {
            at += piece;
        }
    }
}

fn shrink_interrupts(best: &mut History, piece: usize, fails: &mut impl FnMut(&History) -> bool) {
    let mut at = 0;
    while at < best.interrupts.len() {
        let end = (at + piece).min(best.interrupts.len());
        let mut candidate = best.clone();
        candidate.interrupts.drain(at..end);
        if fails(&candidate) {
            *best = candidate;
        } else {
            at += piece;
        }
    }
}

fn shrink_pauses(best: &mut History, fails: &mut impl FnMut(&History) -> bool) {
    for index in 0..best.steps.len() {
        let mut candidate = best.clone();
        candidate.steps[index].after_ms = 0;
        if best.steps[index].after_ms > 0 && fails(&candidate) {
            *best = candidate;
        }
    }
}

fn store(directory: &Path, seed: u64, history: &History) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let path = directory.join(format!("seed-{seed}.json"));
    let text = serde_json::to_string_pretty(history).map_err(std::io::Error::other)?;
    std::fs::write(&path, text)?;
    Ok(path)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} broke {}", self.seed, self.violation)?;
        let knobs = serde_json::to_string(&self.history.knobs).unwrap_or_default();
        writeln!(f, "conditions: {knobs}")?;
        for step in &self.history.steps {
            match &step.act {
                Act::User { device, op } => writeln!(f, "  +{} ms user {device}: {op:?}", step.after_ms)?,
                Act::Device { device, event } => writeln!(f, "  +{} ms device {device}: {event:?}", step.after_ms)?,
                Act::Server(event) => writeln!(f, "  +{} ms server: {event:?}", step.after_ms)?,
                Act::Quiesce => writeln!(f, "  +{} ms all must agree", step.after_ms)?,
            }
        }
        for one in &self.history.interrupts {
            writeln!(f, "  in job {} of device {}, before call {}: {:?}", one.job, one.device, one.call, one.op)?;
        }
        match &self.stored {
            Some(path) => writeln!(f, "stored as {}", path.display()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        for (seed, broken) in &self.open {
            writeln!(f, "open: seed {seed} broke {}", broken.lines().next().unwrap_or_default())?;
        }
        for (what, times) in &self.coverage {
            writeln!(f, "{times:>10}  {what}")?;
        }
        for what in &self.not_met {
            writeln!(f, "never met: {what}")?;
        }
        let verdict = if self.is_clean() { "passed" } else { "FAILED" };
        let rate = self.seeds as f64 / self.elapsed.as_secs_f64().max(0.001);
        write!(
            f,
            "simulation: {verdict}, {} seeds in {:.1} s ({rate:.1} seeds/s), {:.0} h simulated, {} failures, {} open",
            self.seeds,
            self.elapsed.as_secs_f64(),
            self.simulated.as_secs_f64() / 3600.0,
            self.failures.len(),
            self.open.len()
        )
    }
}
