//! Real input on two devices: put in, changed on both sides at once, with one side offline, and with
//! processes killed in the middle of it.
//!
//! After each phase both folders must be equal, and what they hold must be what the `Ledger` of the two
//! users' changes says: nothing lost, nothing doubled, nothing that nobody wrote.

mod user;

use crate::ledger::Ledger;
use crate::program::Program;
use crate::site::{Device, Server, Site, flush_all};
use crate::tree::Tree;
use anyhow::{Context, Result, anyhow, bail};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use user::{Plan, User};

/// How long a flush may take. Real input may be some GiB.
const FLUSH_LIMIT: Duration = Duration::from_secs(900);
/// Of the files, how many each side changes while both are connected.
const HALF: f64 = 0.5;
/// And while one side is offline, for each of the two ways to be so.
const OFFLINE_SHARE: f64 = 0.1;
/// Changes of each side around one kill.
const CHANGES_AROUND_A_KILL: usize = 300;
/// Longest pause between two of these.
const PAUSE_MS: u64 = 12;
/// The kill comes within this time after the first change, and the restart within this time after it.
const KILL_WITHIN_MS: u64 = 2_000;
const RESTART_WITHIN_MS: u64 = 1_000;
/// Differences that are printed one by one.
const SHOWN: usize = 40;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folders that are put in.
    pub input: Vec<PathBuf>,
    pub seed: u64,
    /// How often a process is killed.
    pub kills: usize,
    /// Keep the temporary directory when something was found.
    pub keep: bool,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub phases: usize,
    pub changes: usize,
    pub kills: usize,
}

/// Runs all phases.
///
/// # Errors
/// The first difference, or a process that does not do its part.
pub fn run(program: &Program, options: &Options) -> Result<Outcome> {
    let site = Site::new(program)?;
    let result = Run::start(&site, options).and_then(Run::all_phases);
    if result.is_err() && options.keep {
        println!("kept: {}", site.keep().display());
    }
    result
}

/// Which process a kill strikes.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Server,
    First,
    Second,
}

const VICTIMS: [Victim; 3] = [Victim::Server, Victim::First, Victim::Second];

struct Run<'a> {
    site: &'a Site,
    options: &'a Options,
    chance: ChaCha8Rng,
    server: Server,
    /// The two devices, A and B.
    a: Device,
    b: Device,
    outcome: Outcome,
}

impl<'a> Run<'a> {
    fn start(site: &'a Site, options: &'a Options) -> Result<Self> {
        let server = site.start_server()?;
        let a = site.start_device("a", server.address())?;
        let b = site.start_device("b", server.address())?;
        let chance = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self { site, options, chance, server, a, b, outcome: Outcome::default() })
    }

    fn all_phases(mut self) -> Result<Outcome> {
        let mut tree = self.put_in()?;
        tree = self.both_change(&tree)?;
        tree = self.one_is_stopped(&tree)?;
        tree = self.server_is_down(&tree)?;
        for round in 0..self.options.kills {
            tree = self.one_is_killed(&tree, VICTIMS[round % VICTIMS.len()])?;
        }
        println!("at the end: {}", tree.counts());
        Ok(self.outcome)
    }

    /// Copies the input into A's folder; B must get it all.
    fn put_in(&mut self) -> Result<Tree> {
        let mut put = Tree::default();
        for (number, source) in self.options.input.iter().enumerate() {
            let name = format!("input-{number}");
            let started = Instant::now();
            copy(source, &self.a.folder().join(&name))?;
            let copied = Tree::read(source)?;
            println!("{name}: {} from {}, copied in {:.1?}", copied.counts(), source.display(), started.elapsed());
            put.0.extend(copied.0.into_iter().map(|(path, entry)| (Path::new(&name).join(path), entry)));
            put.0.insert(name.into(), crate::tree::Entry::Folder);
        }
        let tree = self.settle("put in")?;
        fail_on("the input", &put.differences("the input", &tree, "the devices"))?;
        Ok(tree)
    }

    fn both_change(&mut self, tree: &Tree) -> Result<Tree> {
        let plans = self.plans(tree, HALF)?;
        self.phase("changed on both sides at once", tree, plans, |_| Ok(()))
    }

    fn one_is_stopped(&mut self, tree: &Tree) -> Result<Tree> {
        let plans = self.plans(tree, OFFLINE_SHARE)?;
        self.b.stop()?;
        self.phase("changed on both sides, B stopped", tree, plans, |run| run.b.start())
    }

    fn server_is_down(&mut self, tree: &Tree) -> Result<Tree> {
        let plans = self.plans(tree, OFFLINE_SHARE)?;
        self.server.kill()?;
        self.phase("changed on both sides, server down", tree, plans, |run| run.server.start())
    }

    fn one_is_killed(&mut self, tree: &Tree, victim: Victim) -> Result<Tree> {
        let files = tree.contents().count().max(1);
        #[expect(clippy::cast_precision_loss, reason = "a share needs no precision")]
        let mut plans = self.plans(tree, (2 * CHANGES_AROUND_A_KILL) as f64 / files as f64)?;
        for plan in &mut plans {
            plan.shorten_to(CHANGES_AROUND_A_KILL);
            plan.pause = Duration::from_millis(PAUSE_MS);
        }
        let kill_after = Duration::from_millis(self.chance.random_range(0..KILL_WITHIN_MS));
        let restart_after = Duration::from_millis(self.chance.random_range(0..RESTART_WITHIN_MS));
        let name = format!("{victim:?} killed after {kill_after:?} for {restart_after:?}");
        self.outcome.kills += 1;
        self.phase_with(&name, tree, plans, |run| {
            thread::sleep(kill_after);
            run.kill(victim)?;
            thread::sleep(restart_after);
            run.start_all()
        })
    }

    fn kill(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Server => self.server.kill(),
            Victim::First => self.a.kill(),
            Victim::Second => self.b.kill(),
        }
    }

    fn start_all(&mut self) -> Result<()> {
        self.server.start()?;
        self.a.start()?;
        self.b.start()
    }

    fn plans(&mut self, tree: &Tree, share: f64) -> Result<[Plan; 2]> {
        Plan::for_both(tree, share, &mut self.chance).context("the tree is too small to be changed")
    }

    /// Both users change; then something is brought back, and all must agree.
    fn phase(
        &mut self,
        name: &str,
        tree: &Tree,
        plans: [Plan; 2],
        bring_back: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Tree> {
        let ledger = Mutex::new(Ledger::of(tree));
        let changes = self.users_change(plans, &ledger, |_| Ok(()))?;
        bring_back(self)?;
        self.conclude(name, changes, &ledger)
    }

    /// Both users change while something happens.
    fn phase_with(
        &mut self,
        name: &str,
        tree: &Tree,
        plans: [Plan; 2],
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Tree> {
        let ledger = Mutex::new(Ledger::of(tree));
        let changes = self.users_change(plans, &ledger, meanwhile)?;
        self.conclude(name, changes, &ledger)
    }

    fn users_change(
        &mut self,
        plans: [Plan; 2],
        ledger: &Mutex<Ledger>,
        meanwhile: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<usize> {
        let users = [("a", self.a.folder()), ("b", self.b.folder())];
        let users = users.map(|(name, folder)| User::new(name, folder, &self.site.path(&format!("{name}-aside"))));
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (user, plan) in users.into_iter().zip(plans) {
                threads.push(scope.spawn(move || user?.carry_out(plan, ledger)));
            }
            let happened = meanwhile(self);
            let mut changes = 0;
            for thread in threads {
                changes += thread.join().map_err(|_| anyhow!("a user's thread panicked"))??;
            }
            happened.map(|()| changes)
        })
    }

    fn conclude(&mut self, name: &str, changes: usize, ledger: &Mutex<Ledger>) -> Result<Tree> {
        let tree = self.settle(&format!("{name}, {changes} changes"))?;
        self.outcome.changes += changes;
        let ledger = ledger.lock().map_err(|_| anyhow!("a user's thread panicked"))?;
        fail_on(name, &ledger.complaints(&tree))?;
        Ok(tree)
    }

    /// Flushes both devices and compares their folders.
    fn settle(&mut self, name: &str) -> Result<Tree> {
        let started = Instant::now();
        flush_all(&[&self.a, &self.b], FLUSH_LIMIT).with_context(|| name.to_owned())?;
        let flushed = started.elapsed();
        let (a, b) = (Tree::read(self.a.folder())?, Tree::read(self.b.folder())?);
        println!("{name}: in sync after {flushed:.1?}, A has {}", a.counts());
        fail_on(name, &a.differences("A", &b, "B"))?;
        for device in [&self.a, &self.b] {
            fail_on(&format!("{name}, problems of {}", device.name()), &device.problems()?)?;
        }
        self.outcome.phases += 1;
        Ok(a)
    }
}

fn fail_on(what: &str, findings: &[String]) -> Result<()> {
    if findings.is_empty() {
        return Ok(());
    }
    for finding in findings.iter().take(SHOWN) {
        println!("  {finding}");
    }
    bail!("{what}: {} findings", findings.len())
}

/// With all attributes, as a user's own copy would have them.
fn copy(source: &Path, target: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg("--").arg(source).arg(target).status().context("cannot run cp")?;
    if !status.success() {
        bail!("cannot copy {} to {}", source.display(), target.display());
    }
    Ok(())
}

/// The sources that cargo has downloaded on this machine.
///
/// # Errors
/// When there are none.
pub fn downloaded_sources() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).context("there is no home")?;
    let sources = home.join("registry/src");
    if sources.is_dir() { Ok(sources) } else { bail!("{} is not there; name a folder by --dir", sources.display()) }
}
