//! A whole installation on one machine: two balancers with a shared address, three processes of each service,
//! a database, an object storage, caches, and devices whose users change files all the time, each on a host of its own
//! in a network of its own. Then things happen to it.
//!
//! After each trouble, and where one of a tier can be missed also during it, all devices must hear of a change,
//! come to rest with equal folders, and have what the users did: the ledger says what that is.

mod ceph;
mod machines;
mod network;
mod part;
mod plan;
mod probe;
mod trouble;
mod users;

use crate::program::{Program, find};
use crate::site::{Device, Site, flush_all};
use crate::tree::Tree;
use anyhow::{Context, Result, bail};
use machines::Machines;
use network::Network;
use plan::{CLIENT_PORT, SHARED_ADDRESS, Shape};
use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use trouble::Scenario;
use users::Users;

/// The devices.
const CLIENTS: [&str; 3] = ["a", "b", "c"];
/// One that is linked late, and gets everything from the server.
const LATE: &str = "late";
/// Nodes of a database that replicates itself.
const DATABASE_CLUSTER: usize = 3;
/// Gateways of a Ceph.
const GATEWAYS: usize = 2;
/// How long all may take to come to rest.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// How long a change may take to be on all devices: they wait two minutes at most before they open a stream again, and
/// ask by themselves when it has been open or not for that long.
const HEARING_LIMIT: Duration = Duration::from_secs(130);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long users go on before a trouble, in it, and after it.
const BEFORE: Duration = Duration::from_millis(400);
const DURING: Duration = Duration::from_millis(1500);
const AFTER: Duration = Duration::from_millis(400);
/// Longest pause of all users between two changes.
const PAUSE_MS: u64 = 60;

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Names of scenarios, or `all`.
    pub scenarios: Vec<String>,
    /// How often each.
    pub repeat: u32,
    /// Scenarios at random, for so long.
    pub chaos: Option<Duration>,
    /// Three databases that replicate each other, and not one.
    pub galera: bool,
    /// A Ceph with two gateways, and not an S3 server that fails as it is told to.
    pub ceph: bool,
    pub keep: bool,
    /// Where `deploy` is, and what runs an S3 server when told `s3 ADDRESS FOLDER`.
    pub deploy: PathBuf,
    pub storage: PathBuf,
}

impl Options {
    fn shape(&self) -> Shape {
        Shape {
            databases: if self.galera { DATABASE_CLUSTER } else { 1 },
            gateways: if self.ceph { GATEWAYS } else { 0 },
            clients: CLIENTS.len(),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub started_in: Duration,
    pub changes: u64,
    pub bytes: u64,
    pub figures: BTreeMap<String, Figures>,
    pub late_in: Duration,
}

/// What was measured in one scenario, by repetition.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// From a change on one device until all have it, while the trouble lasted.
    pub heard_in_it: Vec<Duration>,
    /// The same after it.
    pub heard: Vec<Duration>,
    /// From the users' last change until all have everything.
    pub rested: Vec<Duration>,
    /// The longest time for which the shared address did not answer.
    pub silent: Vec<Duration>,
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |name: &str, of: &[Duration]| {
            let mut sorted = of.to_vec();
            sorted.sort_unstable();
            let (middle, last) = (sorted.get(sorted.len() / 2)?, sorted.last()?);
            let (middle, last) = (middle.as_secs_f64(), last.as_secs_f64());
            Some(if of.len() == 1 {
                format!("{name} {last:.2} s")
            } else {
                format!("{name} {middle:.2} s (at most {last:.2})")
            })
        };
        let all = [
            Some(format!("{} times", self.rested.len())),
            told("heard during it in", &self.heard_in_it),
            told("heard after it in", &self.heard),
            told("at rest in", &self.rested),
            told("silent for", &self.silent),
        ];
        formatter.write_str(&all.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Why there can be no cluster here; `None` if there can be one.
#[must_use]
pub fn is_impossible() -> Option<String> {
    let programs = ["haproxy", "keepalived", "mariadbd", "memcached", "curl"];
    let missing = programs.iter().find(|program| find(program).is_none());
    missing.map(|program| format!("`{program}` is not installed")).or_else(|| Network::is_permitted().err())
}

/// Runs a cluster through its troubles.
///
/// # Errors
/// When it cannot be started, or what must hold does not.
pub fn run(program: &Program, options: &Options) -> Result<Outcome> {
    let shape = options.shape();
    let scenarios: Vec<Scenario> = if options.scenarios.iter().any(|name| name == "all") {
        possible(shape)
    } else {
        options.scenarios.iter().map(|name| name.parse()).collect::<Result<_>>()?
    };
    if let Some((scenario, why)) = scenarios.iter().find_map(|one| one.obstacle(shape).map(|why| (one, why))) {
        bail!("{scenario}: {why}");
    }
    let site = Site::new(program)?;
    let result = Cluster::start(&site, options).and_then(|mut cluster| {
        let result = cluster.run(&scenarios);
        let outcome = cluster.outcome.clone();
        result.map(|()| outcome)
    });
    if options.keep && result.is_err() {
        println!("kept: {}", site.keep().display());
    }
    result
}

/// All that can happen in such a cluster.
fn possible(shape: Shape) -> Vec<Scenario> {
    Scenario::all().into_iter().filter(|scenario| scenario.obstacle(shape).is_none()).collect()
}

struct Cluster<'a> {
    site: &'a Site,
    options: &'a Options,
    // Dropped in this order: the network goes last, with whatever still runs in it.
    devices: Vec<Device>,
    machines: Machines,
    users: Users,
    chance: ChaCha8Rng,
    outcome: Outcome,
}

impl<'a> Cluster<'a> {
    fn start(site: &'a Site, options: &'a Options) -> Result<Self> {
        let started = Instant::now();
        let machines = Machines::start(site, options)?;
        let asides = CLIENTS.map(|name| site.path(&format!("{name}-aside")));
        asides.iter().try_for_each(std::fs::create_dir_all)?;
        let users = Users::new(options.seed, asides.into());
        let chance = ChaCha8Rng::seed_from_u64(options.seed);
        let outcome = Outcome::default();
        let mut cluster = Self { site, options, devices: Vec::new(), machines, users, chance, outcome };
        for (number, name) in CLIENTS.iter().enumerate() {
            let device = cluster.start_device(name, number)?;
            cluster.devices.push(device);
        }
        cluster.outcome.started_in = started.elapsed();
        println!("a cluster of {} in {:.1?}", cluster.machines.told(), started.elapsed());
        Ok(cluster)
    }

    /// A device on the host of a client.
    fn start_device(&self, name: &str, host: usize) -> Result<Device> {
        let by = self.machines.on_client(host);
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        let mut device = self.site.link_device_of(&self.site.program().run_by(&by), name, SHARED_ADDRESS)?;
        device.start()?;
        device.run(&["config", "set", "delete-guard", "off"])?;
        Ok(device)
    }

    fn run(&mut self, scenarios: &[Scenario]) -> Result<()> {
        self.use_for(BEFORE)?;
        self.rest("the beginning")?;
        for scenario in scenarios {
            for _ in 0..self.options.repeat {
                self.go_through(*scenario)?;
            }
            println!("{scenario}: {}", self.outcome.figures.entry(scenario.to_string()).or_default());
        }
        if let Some(time) = self.options.chaos {
            let all = possible(self.options.shape());
            let begun = Instant::now();
            while begun.elapsed() < time {
                let scenario = *all.choose(&mut self.chance).context("there are scenarios")?;
                self.go_through(scenario)?;
            }
        }
        self.finish()
    }

    /// One trouble from its beginning to its end, and until all is well.
    fn go_through(&mut self, scenario: Scenario) -> Result<()> {
        let name = scenario.to_string();
        let told =
            format!("{name}, repetition {}", self.outcome.figures.entry(name.clone()).or_default().rested.len() + 1);
        let figures = self.try_scenario(scenario).with_context(|| told)?;
        println!("  {name}: {figures}");
        let all = self.outcome.figures.entry(name).or_default();
        all.heard_in_it.extend(figures.heard_in_it);
        all.heard.extend(figures.heard);
        all.rested.extend(figures.rested);
        all.silent.extend(figures.silent);
        Ok(())
    }

    fn try_scenario(&mut self, scenario: Scenario) -> Result<Figures> {
        let mut figures = Figures::default();
        self.use_for(BEFORE)?;
        let probe = scenario.moves_the_address().then(|| self.start_probe()).transpose()?;
        let victim = self.machines.choose_victim(scenario, &mut self.chance)?;
        let trouble = self.machines.begin(scenario, victim, &mut self.devices)?;
        self.use_for(DURING)?;
        let is_survivable = scenario.is_survivable(self.machines.hosts_like(scenario));
        let probe = match probe {
            Some(probe) if is_survivable => {
                figures.silent.push(probe.end()?);
                None
            }
            probe => probe,
        };
        if is_survivable {
            figures.heard_in_it.push(self.hear().context("while it lasts")?);
            self.rest("while it lasts")?;
            if scenario.concerns_caches() {
                self.welcome(&format!("{LATE}-{}", self.site.next_number()))?;
            }
            self.use_for(AFTER)?;
        }
        self.machines.end(trouble, &mut self.devices)?;
        self.use_for(AFTER)?;
        figures.silent.extend(probe.map(Probe::end).transpose()?);
        figures.heard.push(self.hear().context("after it")?);
        figures.rested.push(self.rest("after it")?);
        self.machines.check()?;
        if scenario.breaks_streams() {
            self.restart_devices()?;
        }
        Ok(figures)
    }

    /// A device whose stream breaks again and again within a minute waits longer each time; the next repetition is not
    /// about that.
    fn restart_devices(&mut self) -> Result<()> {
        self.devices.iter_mut().try_for_each(|device| device.stop().and_then(|()| device.start()))
    }

    /// Lets users change files for a while.
    fn use_for(&mut self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.users.change(&self.devices, &CLIENTS)?;
            thread::sleep(Duration::from_millis(self.chance.random_range(0..=PAUSE_MS)));
        }
        Ok(())
    }

    /// Puts a file on one device and waits for it on all others, which nobody asks for it.
    fn hear(&mut self) -> Result<Duration> {
        let (from, name) = self.users.mark(&self.devices, &CLIENTS)?;
        let begun = Instant::now();
        loop {
            let has = |device: &&Device| !device.folder().join(&name).exists();
            let Some(deaf) = self.devices.iter().find(has) else { return Ok(begun.elapsed()) };
            if begun.elapsed() > HEARING_LIMIT {
                let (deaf, by, after) = (deaf.name(), CLIENTS[from], begun.elapsed());
                let way = self.machines.told_of_shared_address();
                bail!("{deaf} has not heard of {name} of {by} in {after:?}; of the shared address:\n{way}");
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets everything come to rest, and looks whether it is right.
    fn rest(&mut self, when: &str) -> Result<Duration> {
        let begun = Instant::now();
        let devices: Vec<&Device> = self.devices.iter().collect();
        flush_all(&devices, FLUSH_LIMIT).with_context(|| format!("not at rest, {when}"))?;
        let rested = begun.elapsed();
        let trees = devices.iter().map(|device| Tree::read(device.folder())).collect::<Result<Vec<_>>>()?;
        for (tree, device) in trees.iter().zip(&devices).skip(1) {
            let differences = trees[0].differences(CLIENTS[0], tree, device.name());
            if !differences.is_empty() {
                bail!("at rest {when}, but not equal:\n  {}", differences.join("\n  "));
            }
        }
        for device in devices {
            let problems = device.problems()?;
            if !problems.is_empty() {
                bail!("at rest {when}, but {} could not sync: {}", device.name(), problems.join(", "));
            }
        }
        self.users.rest(&trees[0]).with_context(|| format!("at rest {when}"))?;
        Ok(rested)
    }

    /// Whether the server has it all: every block is there and whole, and a new device gets what the others have.
    fn finish(&mut self) -> Result<()> {
        self.rest("at the end")?;
        self.machines.verify(self.site.program())?;
        self.outcome.late_in = self.welcome(LATE)?;
        self.outcome.changes = self.users.changes;
        self.outcome.bytes = self.users.bytes;
        Ok(())
    }

    /// Links a new device, which reads the whole journal and fetches all blocks, and sees that it gets what the
    /// others have. Nothing changes meanwhile.
    fn welcome(&self, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        let mut late = self.start_device(name, 0)?;
        flush_all(&[&late], FLUSH_LIMIT)?;
        let welcomed = begun.elapsed();
        let mine = Tree::read(self.devices[0].folder())?;
        let differences = mine.differences(CLIENTS[0], &Tree::read(late.folder())?, name);
        late.stop()?;
        if !differences.is_empty() {
            bail!("a new device gets something else:\n  {}", differences.join("\n  "));
        }
        Ok(welcomed)
    }

    fn start_probe(&self) -> Result<Probe> {
        let ended = Arc::new(AtomicBool::new(false));
        let address = format!("{SHARED_ADDRESS}:{CLIENT_PORT}").parse()?;
        let until = ended.clone();
        let watcher = self.machines.seen_from_a_client(move || probe::longest_silence(address, &until))?;
        Ok(Probe { ended, watcher })
    }
}

/// A probe that runs.
struct Probe {
    ended: Arc<AtomicBool>,
    watcher: JoinHandle<Result<Duration>>,
}

impl Probe {
    fn end(self) -> Result<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        self.watcher.join().map_err(|_| anyhow::anyhow!("the probe broke"))?
    }
}
