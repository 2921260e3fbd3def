//! Disks that are full, disks whose power fails, and one on which a program stores through a mapping: of a server, of a
//! device's folder, of a device's home.
//!
//! Each scenario has disks of its own, on which the real program works; the simulation tries the same with a disk
//! that it made up. While a disk is full nothing may be lost, nothing half may be seen, and a person must be told;
//! when there is space, all goes on by itself. After a power failure the server has what it acknowledged, and what a
//! device's disk lost is nobody's edit or deletion.

mod full;
mod mapped;
mod power;
mod volume;

use crate::program::Program;
use crate::site::{Device, LOOK_AGAIN, Site};
use crate::tree::{ContentHash, Tree};
use anyhow::{Context, Result, bail};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that nobody hurries: a device that was refused again and again waits two minutes at most.
const LIMIT: Duration = Duration::from_secs(180);

/// What the name of a conflicted copy has behind the file's own.
const CONFLICTED: &str = " (conflicted copy";

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    /// Names of scenarios; all if there are none.
    pub scenarios: Vec<String>,
    /// How often the power fails in a scenario.
    pub rounds: u32,
    pub keep: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub scenarios: usize,
    pub power_failures: u32,
    /// Values that users wrote.
    pub values: u64,
    /// Files that power failures emptied, tore or took.
    pub damaged: u64,
}

/// Why there can be no such disks here; `None` if there can be.
#[must_use]
pub fn is_impossible() -> Option<String> {
    volume::is_permitted().err()
}

/// Goes through the scenarios.
///
/// # Errors
/// When a disk cannot be made, or what must hold does not.
pub fn run(program: &Program, options: &Options) -> Result<Outcome> {
    let scenarios: Vec<Scenario> = if options.scenarios.is_empty() {
        Scenario::ALL.into()
    } else {
        options.scenarios.iter().map(|name| name.parse()).collect::<Result<_>>()?
    };
    let mut outcome = Outcome::default();
    for scenario in scenarios {
        let begun = Instant::now();
        let trial = volume::in_own_mounts(|| go_through(program, options, scenario))
            .with_context(|| format!("{scenario} (seed {})", options.seed))?;
        outcome.scenarios += 1;
        outcome.power_failures += trial.power_failures;
        outcome.values += trial.values;
        outcome.damaged += trial.damaged;
        println!("{scenario}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(outcome)
}

fn go_through(program: &Program, options: &Options, scenario: Scenario) -> Result<Outcome> {
    let site = Site::new(program)?;
    let mut trial = Trial::new(&site, options);
    let result = match scenario {
        Scenario::FullFolder => full::a_folder_on_a_full_disk_keeps_all_and_catches_up(&mut trial),
        Scenario::FullHome => full::a_home_on_a_full_disk_keeps_all_and_catches_up(&mut trial),
        Scenario::FullServer => full::a_server_on_a_full_disk_keeps_all_and_goes_on(&mut trial),
        Scenario::Mapped => mapped::what_is_stored_through_a_mapping_is_not_replaced(&mut trial),
        Scenario::PowerServer => power::a_server_has_all_that_it_acknowledged_after_a_power_failure(&mut trial),
        Scenario::PowerDevice => power::what_a_power_failure_takes_from_a_device_is_nobodys_change(&mut trial),
    };
    let outcome = trial.outcome;
    if options.keep && result.is_err() {
        println!("kept: {}", site.keep().display());
    }
    result.map(|()| outcome)
}

/// What can happen to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    FullFolder,
    FullHome,
    FullServer,
    Mapped,
    PowerServer,
    PowerDevice,
}

impl Scenario {
    const ALL: [Self; 6] =
        [Self::FullFolder, Self::FullHome, Self::FullServer, Self::Mapped, Self::PowerServer, Self::PowerDevice];
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::FullFolder => "full-folder",
            Self::FullHome => "full-home",
            Self::FullServer => "full-server",
            Self::Mapped => "mapped",
            Self::PowerServer => "power-server",
            Self::PowerDevice => "power-device",
        })
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.to_string() == text).with_context(|| {
            let names = Self::ALL.map(|scenario| scenario.to_string());
            format!("there is no scenario `{text}`; there are {}", names.join(", "))
        })
    }
}

/// One scenario while it runs.
struct Trial<'a> {
    site: &'a Site,
    rounds: u32,
    chance: ChaCha8Rng,
    /// By name of a file, whatever its users ever put there.
    written: BTreeMap<String, BTreeSet<ContentHash>>,
    outcome: Outcome,
}

impl<'a> Trial<'a> {
    fn new(site: &'a Site, options: &Options) -> Self {
        Self {
            site,
            rounds: options.rounds,
            chance: ChaCha8Rng::seed_from_u64(options.seed),
            written: BTreeMap::new(),
            outcome: Outcome::default(),
        }
    }

    /// A user saves a file, in place, with bytes that nobody had before and that cannot be compressed.
    fn save(&mut self, device: &Device, name: &str, bytes: usize) -> Result<ContentHash> {
        self.write(name, &device.folder().join(name), bytes)
    }

    /// Such bytes for a file of this name, somewhere.
    fn write(&mut self, name: &str, place: &Path, bytes: usize) -> Result<ContentHash> {
        let mut content = vec![0; bytes];
        self.chance.fill_bytes(&mut content);
        let hash = self.note(name, &content);
        fs::write(place, content).with_context(|| format!("a user cannot write {}", place.display()))?;
        Ok(hash)
    }

    /// A user is about to give a file this content.
    fn note(&mut self, name: &str, content: &[u8]) -> ContentHash {
        let hash = ContentHash::of(content);
        self.written.entry(name.to_owned()).or_default().insert(hash);
        self.outcome.values += 1;
        hash
    }

    /// A user gives a file another name.
    fn rename(&mut self, device: &Device, from: &str, to: &str) -> Result<()> {
        let moved = self.written.get(from).cloned().unwrap_or_default();
        self.written.entry(to.to_owned()).or_default().extend(moved);
        fs::rename(device.folder().join(from), device.folder().join(to)).context("a user cannot rename")
    }

    /// Whether all that a folder shows at this moment was saved like that by somebody.
    fn check_shown(&self, device: &Device) -> Result<()> {
        for entry in fs::read_dir(device.folder())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.split(CONFLICTED).next().unwrap_or_default();
            let hash = match ContentHash::of_file(&entry.path()) {
                Ok(hash) => hash,
                // Our own folder, and what has just gone.
                Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::NotFound) => continue,
                Err(error) => return Err(error).with_context(|| format!("cannot read {name} of {}", device.name())),
            };
            if !self.written.get(name).is_some_and(|values| values.contains(&hash)) {
                let bytes = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
                bail!("{} shows {name} with {bytes} bytes that nobody wrote", device.name());
            }
        }
        Ok(())
    }

    /// Waits for something, while `watched` shows nothing that is not whole.
    fn wait_for(&self, what: &str, watched: &Device, mut is_there: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !is_there().with_context(|| format!("while waiting for {what}"))? {
            self.check_shown(watched)?;
            if Instant::now() > deadline {
                let status = watched.try_run(&["status"]).map(|ran| ran.stdout + &ran.stderr).unwrap_or_default();
                bail!("{what}: not within {LIMIT:?}; {} says:\n{status}", watched.name());
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.check_shown(watched)
    }
}

/// The content that a device shows at a name, if there is any.
fn shown(device: &Device, name: &str) -> Option<ContentHash> {
    ContentHash::of_file(&device.folder().join(name)).ok()
}

/// Whether two folders, in which something may be under way, are equal.
fn is_equal(one: &Device, other: &Device) -> bool {
    let read = |folder: &Path| Tree::read(folder).ok();
    read(one.folder()).is_some_and(|tree| Some(tree) == read(other.folder()))
}

/// What a person reads who asks a device how it is.
fn told(device: &Device) -> Result<String> {
    let ran = device.try_run(&["status"])?;
    Ok(ran.stdout + &ran.stderr)
}
