//! Random histories of three devices, with processes killed and networks failing at random.
//!
//! The server and the devices run through a whole campaign; histories run in batches, each in a folder of
//! its own, and all of a batch share its kills and its weather. A *single* history is about a few files
//! that stay where they are: each observation must be explained by the `model`. A *tree* history also
//! moves files and folders, and is held against the ledger of its users' changes whenever all has come to rest.

mod history;
mod model;

use crate::program::Program;
use crate::proxy::{Proxy, Weather};
use crate::site::{Device, Server, Site, flush_all};
use crate::tree::Tree;
use crate::unison::{self, Opinion};
use anyhow::{Context, Result, bail};
use history::{History, Step};
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// The devices, by number.
pub(crate) const DEVICES: [&str; 3] = ["a", "b", "c"];
/// How long all may take to come to rest.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// Histories that run at once.
const BATCH: u64 = 16;
/// Steps of a history between two rests.
const STEPS: std::ops::RangeInclusive<usize> = 10..=25;
/// How often a history comes to rest.
const RESTS: usize = 2;
/// Batches after which Unison is asked.
const UNISON_EVERY: u64 = 10;
/// Per thousand steps.
const KILLS: u32 = 12;
const SERVER_KILLS: u32 = 4;
const WEATHERS: u32 = 15;
/// Steps until what was killed is started again, or the weather is fair again.
const TROUBLE_STEPS: std::ops::Range<usize> = 3..40;
/// Longest pause between two steps, and how rarely there is a long one.
const PAUSE_MS: u64 = 4;
const LONG_PAUSE_MS: u64 = 250;
const LONG_PAUSES: u32 = 20;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub seed: u64,
    /// At most so many, rounded up to a batch; and no batch begins after the time is over.
    pub histories: Option<u64>,
    pub time: Option<Duration>,
    pub keep: bool,
    /// Go on after a history that cannot be explained.
    pub keep_going: bool,
}

/// What a campaign did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub histories: u64,
    pub steps: u64,
    pub kills: u64,
    pub weathers: u64,
    pub conflicts: u64,
    /// Files whose explanations were too many to follow; they proved nothing.
    pub too_vague: u64,
    /// `None` if Unison was never asked, since it is not installed.
    pub unison_asked: Option<u64>,
    /// What cannot be explained, each with all that happened in its history.
    pub failures: Vec<String>,
}

/// Runs a campaign.
///
/// # Errors
/// When a process does not do its part, or the devices differ at rest. Histories that cannot be explained are
/// in the outcome.
pub fn run(program: &Program, options: Options) -> Result<Outcome> {
    let site = Site::new(program)?;
    let mut campaign = Campaign::start(&site, options)?;
    let result = campaign.run();
    let outcome = campaign.outcome.clone();
    drop(campaign);
    if options.keep && (result.is_err() || !outcome.failures.is_empty()) {
        println!("kept: {}", site.keep().display());
    }
    result.map(|()| outcome)
}

struct Campaign<'a> {
    site: &'a Site,
    options: Options,
    server: Server,
    proxies: Vec<Proxy>,
    devices: Vec<Device>,
    outcome: Outcome,
}

impl<'a> Campaign<'a> {
    fn start(site: &'a Site, options: Options) -> Result<Self> {
        let server = site.start_server()?;
        let proxies = DEVICES.map(|_| Proxy::start(server.address()));
        let proxies: Vec<Proxy> = proxies.into_iter().collect::<Result<_>>()?;
        let devices = DEVICES.iter().zip(&proxies).map(|(name, proxy)| site.start_device(name, &proxy.address()));
        let devices: Vec<Device> = devices.collect::<Result<_>>()?;
        for name in DEVICES {
            std::fs::create_dir_all(site.path(&format!("{name}-aside")))?;
        }
        Ok(Self { site, options, server, proxies, devices, outcome: Outcome::default() })
    }

    fn run(&mut self) -> Result<()> {
        let started = Instant::now();
        let wanted = self.options.histories.unwrap_or(u64::MAX);
        for batch in 0.. {
            let is_late = self.options.time.is_some_and(|time| started.elapsed() >= time);
            let has_failed = !self.options.keep_going && !self.outcome.failures.is_empty();
            if self.outcome.histories >= wanted || is_late || has_failed {
                break;
            }
            let seed = self.options.seed.wrapping_add(batch);
            self.run_batch(seed).with_context(|| format!("batch of seed {seed}"))?;
            if batch % UNISON_EVERY == 0 {
                self.ask_unison()?;
            }
            if batch % UNISON_EVERY == UNISON_EVERY - 1 {
                println!("{} histories in {:.0?}", self.outcome.histories, started.elapsed());
            }
        }
        self.ask_unison()
    }

    /// Some histories side by side, until each is over.
    fn run_batch(&mut self, seed: u64) -> Result<()> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut histories: Vec<History> = (0..BATCH).map(|number| History::new(seed, number)).collect();
        for history in &histories {
            std::fs::create_dir(self.devices[0].folder().join(history.folder()))?;
        }
        flush_all(&self.all_devices(), FLUSH_LIMIT)?;
        for _ in 0..RESTS {
            self.run_until_rest(&mut histories, &mut chance)?;
            self.rest(&mut histories)?;
        }
        self.outcome.histories += BATCH;
        Ok(())
    }

    fn run_until_rest(&mut self, histories: &mut [History], chance: &mut ChaCha8Rng) -> Result<()> {
        let steps = |number: usize| (number, chance.random_range(STEPS));
        let mut left: BTreeMap<usize, usize> = (0..histories.len()).map(steps).collect();
        left.retain(|number, _| !histories[*number].has_failed());
        let mut troubles: Vec<(usize, Trouble)> = Vec::new();
        let mut step = 0;
        while let Some(number) = left.keys().copied().collect::<Vec<_>>().choose(chance).copied() {
            step += 1;
            for (_, trouble) in troubles.extract_if(.., |(until, _)| *until <= step) {
                histories.iter_mut().for_each(|history| history.tell(format!("no longer: {trouble}")));
                self.end(trouble)?;
            }
            if let Some(trouble) = self.begin_trouble(chance)? {
                histories.iter_mut().for_each(|history| history.tell(format!("{trouble}")));
                troubles.push((step + chance.random_range(TROUBLE_STEPS), trouble));
            }
            let done = self.do_step(&mut histories[number], chance);
            self.outcome.steps += 1;
            let remaining = left.entry(number).or_default();
            *remaining = remaining.saturating_sub(1);
            if *remaining == 0 || done.is_err() {
                left.remove(&number);
            }
            if let Err(error) = done {
                self.fail(&mut histories[number], &error);
            }
        }
        troubles.into_iter().try_for_each(|(_, trouble)| self.end(trouble))
    }

    fn do_step(&self, history: &mut History, chance: &mut ChaCha8Rng) -> Result<()> {
        let device = chance.random_range(0..DEVICES.len());
        let aside = self.site.path(&format!("{}-aside", DEVICES[device]));
        let step = Step { device, folder: self.devices[device].folder(), aside: &aside };
        history.step(&step, chance)?;
        let longest = if chance.random_ratio(LONG_PAUSES, 1000) { LONG_PAUSE_MS } else { PAUSE_MS };
        thread::sleep(Duration::from_millis(chance.random_range(0..=longest)));
        Ok(())
    }

    fn begin_trouble(&mut self, chance: &mut ChaCha8Rng) -> Result<Option<Trouble>> {
        let device = chance.random_range(0..DEVICES.len());
        let kind = chance.random_range(0..1000);
        if kind < KILLS {
            self.outcome.kills += 1;
            self.devices[device].kill()?;
            return Ok(Some(Trouble::Killed(device)));
        }
        if kind < KILLS + SERVER_KILLS {
            self.outcome.kills += 1;
            self.server.kill()?;
            return Ok(Some(Trouble::ServerKilled));
        }
        if kind < KILLS + SERVER_KILLS + WEATHERS {
            self.outcome.weathers += 1;
            let weather = random_weather(chance);
            self.proxies[device].set(weather);
            return Ok(Some(Trouble::Weather(device, weather)));
        }
        Ok(None)
    }

    fn end(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Killed(device) => self.devices[device].start(),
            Trouble::ServerKilled => self.server.start(),
            Trouble::Weather(device, _) => {
                self.proxies[device].set(Weather::Fair);
                Ok(())
            }
        }
    }

    /// Lets everything come to rest, and holds each history against what it must have come to.
    fn rest(&mut self, histories: &mut [History]) -> Result<()> {
        flush_all(&self.all_devices(), FLUSH_LIMIT)?;
        let trees: Vec<Tree> = self.devices.iter().map(|device| Tree::read(device.folder())).collect::<Result<_>>()?;
        for (tree, name) in trees.iter().zip(DEVICES).skip(1) {
            let differences = trees[0].differences(DEVICES[0], tree, name);
            if !differences.is_empty() {
                let told: Vec<String> = histories.iter().filter_map(|history| history.told_if(&differences)).collect();
                bail!("at rest, but not equal:\n  {}\n{}", differences.join("\n  "), told.join("\n"));
            }
        }
        for history in histories.iter_mut().filter(|history| !history.has_failed()) {
            match history.rest(&trees[0], self.devices[0].folder()) {
                Ok(rest) => {
                    self.outcome.conflicts += rest.conflicts;
                    self.outcome.too_vague += rest.too_vague;
                }
                Err(error) => self.fail(history, &error),
            }
        }
        Ok(())
    }

    fn fail(&mut self, history: &mut History, error: &anyhow::Error) {
        let told = format!("{error:#}");
        println!("FAILED {told}");
        self.outcome.failures.push(told);
        history.give_up();
    }

    fn ask_unison(&mut self) -> Result<()> {
        for other in 1..self.devices.len() {
            let scratch = self.site.path("unison");
            match unison::compare(self.devices[0].folder(), self.devices[other].folder(), &scratch)? {
                Opinion::NothingToDo => *self.outcome.unison_asked.get_or_insert(0) += 1,
                Opinion::NotAsked => {}
            }
        }
        Ok(())
    }

    fn all_devices(&self) -> Vec<&Device> {
        self.devices.iter().collect()
    }
}

/// What makes life hard for a while.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Killed(usize),
    ServerKilled,
    Weather(usize, Weather),
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed(device) => write!(formatter, "{} is killed", DEVICES[*device]),
            Self::ServerKilled => formatter.write_str("the server is killed"),
            Self::Weather(device, weather) => write!(formatter, "the network of {} is {weather:?}", DEVICES[*device]),
        }
    }
}

fn random_weather(chance: &mut ChaCha8Rng) -> Weather {
    match chance.random_range(0..5) {
        0 => Weather::Refusing,
        1 => Weather::Silent,
        2 => Weather::Deaf,
        3 => Weather::Late(Duration::from_millis(chance.random_range(1..40))),
        _ => Weather::Cut(chance.random_range(0..3_000)),
    }
}

/// A ledger for what is in one history's folder only.
fn below(tree: &Tree, folder: &str) -> Tree {
    let within = tree.0.iter().filter_map(|(path, entry)| Some((path.strip_prefix(folder).ok()?, entry)));
    Tree(within.filter(|(path, _)| !path.as_os_str().is_empty()).map(|(p, e)| (p.to_owned(), e.clone())).collect())
}
