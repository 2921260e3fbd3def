//! Power failures.
//!
//! A power failure stops the programs too. While a file system shuts down, the kernel may tell a program that its file
//! is durable which is not, and no power failure lets it pass that on. So whoever works on the disk is stopped first: what
//! it has said until then counts.

use super::volume::{Boot, Loss, Volume};
use super::{Trial, shown};
use crate::site::{Device, Running, flush_all, freeze, text};
use crate::tree::{ContentHash, Tree};
use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::seq::IndexedRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

const DISK_MEGABYTES: u64 = 320;
/// Files of each user.
const FILES: usize = 8;
/// How long users go on before the power fails, in milliseconds.
const UNTIL_FAILURE_MS: std::ops::Range<u64> = 50..2000;
/// Most changes in the last moment, which the device does not get to see.
const UNSEEN: usize = 4;
/// Longest pause between two changes.
const PAUSE_MS: u64 = 25;
/// Sizes of files in bytes, and how many in a hundred are no larger. A block has 4 MiB.
const SIZES: [(u32, usize); 3] = [(70, 4 * 1024), (96, 256 * 1024), (100, 5 * 1024 * 1024)];
const FLUSH_LIMIT: Duration = Duration::from_secs(120);

/// The server's disk fails, again and again; a new device gets from it all that a device had been told was in sync.
pub(super) fn a_server_has_all_that_it_acknowledged_after_a_power_failure(trial: &mut Trial<'_>) -> Result<()> {
    let disk = Volume::make(&trial.site.path("server"), DISK_MEGABYTES)?;
    let mut server = trial.site.start_server()?;
    let mut a = trial.site.start_device("a", server.address())?;
    let mut user = User::new("a");
    for round in 1..=trial.rounds {
        let mut flush = Flush::default();
        for_a_while(trial, |trial| {
            user.change(trial, &a)?;
            flush.follow(&a, &mut user)
        })?;
        freeze(server.pid())?;
        disk.lose_power(loss(trial))?;
        server.kill()?;
        flush.end(&mut user)?;
        a.kill()?;
        disk.power_up()?;
        server.start().context("the server does not start after a power failure")?;
        trial.outcome.power_failures += 1;

        let mut late = trial.site.start_device(&format!("late-{round}"), server.address())?;
        late.flush(FLUSH_LIMIT)?;
        for (name, history) in &user.files {
            let found = shown(&late, name);
            ensure!(
                history.since_acknowledged().contains(&found),
                "after power failure {round} the server has {found:?} as {name}, and acknowledged {history:?}"
            );
        }
        late.stop()?;
        trial.site.program().run_with_input(&["admin", "--data", text(server.data())?, "verify"], "")?;
        a.start()?;
        a.flush(FLUSH_LIMIT)?;
        user.check_and_settle(&[&a])?;
        trial.check_shown(&a)?;
    }
    Ok(())
}

/// The disk of a device with all that it has fails, again and again. What was in sync is there afterwards, on all
/// devices, and no file becomes empty or goes that nobody emptied or deleted.
pub(super) fn what_a_power_failure_takes_from_a_device_is_nobodys_change(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.site.start_server()?;
    let a = trial.site.start_device("a", server.address())?;
    let mut boot = Boot::first(&trial.site.path("boot"))?;
    let disk = Volume::make(&trial.site.path("disk"), DISK_MEGABYTES)?;
    let (home, folder) = (disk.path("home"), disk.path("folder"));
    let mut b = trial.site.start_device_in("b", server.address(), &home, &folder)?;
    let (mut safe, mut struck) = (User::new("a"), User::new("b"));
    for round in 1..=trial.rounds {
        let mut flush = Flush::default();
        for_a_while(trial, |trial| {
            safe.change(trial, &a)?;
            struck.change(trial, &b)?;
            flush.follow(&b, &mut struck)
        })?;
        freeze(b.pid())?;
        for _ in 0..trial.chance.random_range(0..=UNSEEN) {
            struck.change(trial, &b)?;
        }
        disk.lose_power(loss(trial))?;
        b.kill()?;
        flush.end(&mut struck)?;
        boot.next()?;
        disk.power_up()?;
        trial.outcome.power_failures += 1;
        let left = struck.look_at_damage(trial, &b);

        b.start().context("the device does not start after a power failure")?;
        flush_all(&[&a, &b], FLUSH_LIMIT).with_context(|| format!("after power failure {round}"))?;
        let mut check = || -> Result<()> {
            let differences = Tree::read(a.folder())?.differences("a", &Tree::read(b.folder())?, "b");
            ensure!(differences.is_empty(), "at rest, but not equal:\n  {}", differences.join("\n  "));
            safe.check_and_settle(&[&a, &b])?;
            struck.check_what_was_left(trial, &a, &left)?;
            trial.check_shown(&a)
        };
        check().with_context(|| format!("after power failure {round}"))?;
    }
    Ok(())
}

fn loss(trial: &mut Trial<'_>) -> Loss {
    if trial.chance.random_bool(0.5) { Loss::Bytes } else { Loss::Recent }
}

/// Goes on until the power fails.
fn for_a_while(trial: &mut Trial<'_>, mut act: impl FnMut(&mut Trial<'_>) -> Result<()>) -> Result<()> {
    let until = Instant::now() + Duration::from_millis(trial.chance.random_range(UNTIL_FAILURE_MS));
    while Instant::now() < until {
        act(trial)?;
        thread::sleep(Duration::from_millis(trial.chance.random_range(0..=PAUSE_MS)));
    }
    Ok(())
}

/// Somebody who waits for everything to be in sync, again and again.
#[derive(Default)]
struct Flush {
    /// The one that waits, and how many states each file had when it began.
    running: Option<(Running, BTreeMap<String, usize>)>,
}

impl Flush {
    /// Takes note of one that has ended, and begins another.
    fn follow(&mut self, device: &Device, user: &mut User) -> Result<()> {
        self.end_if_over(user)?;
        if self.running.is_none() {
            let states = user.files.iter().map(|(name, history)| (name.clone(), history.states.len()));
            self.running = Some((device.begin_flush(FLUSH_LIMIT)?, states.collect()));
        }
        Ok(())
    }

    fn end_if_over(&mut self, user: &mut User) -> Result<()> {
        let Some((running, states)) = &mut self.running else { return Ok(()) };
        let Some(succeeded) = running.has_succeeded()? else { return Ok(()) };
        for (name, count) in states.iter().filter(|_| succeeded) {
            if let Some(history) = user.files.get_mut(name) {
                history.acknowledged = count - 1;
            }
        }
        self.running = None;
        Ok(())
    }

    /// What was acknowledged up to the end counts.
    fn end(mut self, user: &mut User) -> Result<()> {
        self.end_if_over(user)
    }
}

/// What a file was, from when all was quiet on. `None` where it was not there.
#[derive(Debug, Clone)]
struct History {
    states: Vec<Option<ContentHash>>,
    /// The last one that is known to be in sync.
    acknowledged: usize,
}

impl History {
    fn at(state: Option<ContentHash>) -> Self {
        Self { states: vec![state], acknowledged: 0 }
    }

    fn last(&self) -> Option<ContentHash> {
        self.states.last().copied().flatten()
    }

    fn since_acknowledged(&self) -> &[Option<ContentHash>] {
        &self.states[self.acknowledged..]
    }
}

/// Somebody with files that nobody else changes.
#[derive(Debug)]
struct User {
    files: BTreeMap<String, History>,
}

impl User {
    fn new(name: &str) -> Self {
        let files = (0..FILES).map(|number| (format!("{name} {number}"), History::at(None)));
        Self { files: files.collect() }
    }

    /// One change to one file.
    fn change(&mut self, trial: &mut Trial<'_>, device: &Device) -> Result<()> {
        let names: Vec<&String> = self.files.keys().collect();
        let name = (*names.choose(&mut trial.chance).context("there are files")?).clone();
        let place = device.folder().join(&name);
        let draw = trial.chance.random_range(0..100);
        let most = SIZES.iter().find(|(share, _)| draw < *share).map_or(1, |(_, most)| *most);
        let bytes = trial.chance.random_range(1..=most);
        let state = match trial.chance.random_range(0..100) {
            0..15 if place.exists() => {
                fs::remove_file(&place)?;
                None
            }
            // As most editors do it, but without a thought for the power.
            15..40 => {
                let aside = device.folder().with_extension("aside");
                let hash = trial.write(&name, &aside, bytes)?;
                fs::rename(aside, &place)?;
                Some(hash)
            }
            _ => Some(trial.save(device, &name, bytes)?),
        };
        self.files.entry(name).or_insert_with(|| History::at(None)).states.push(state);
        Ok(())
    }

    /// Whether all of it is as the user left it. From here on it is what it is.
    fn check_and_settle(&mut self, devices: &[&Device]) -> Result<()> {
        for (name, history) in &mut self.files {
            for device in devices {
                let (found, wanted) = (shown(device, name), history.last());
                ensure!(found == wanted, "{} has {found:?} as {name}, whose user left {wanted:?}", device.name());
            }
            *history = History::at(history.last());
        }
        Ok(())
    }

    /// What the disk has kept, by name.
    fn look_at_damage(&self, trial: &mut Trial<'_>, device: &Device) -> BTreeMap<String, Option<ContentHash>> {
        let left: BTreeMap<_, _> = self.files.keys().map(|name| (name.clone(), shown(device, name))).collect();
        let damaged = self.files.iter().filter(|(name, history)| left.get(*name) != Some(&history.last())).count();
        trial.outcome.damaged += damaged as u64;
        left
    }

    /// Whether what was in sync survived what the disk had kept. What was not may be as the disk left it, if
    /// there is something in it.
    fn check_what_was_left(
        &mut self,
        trial: &mut Trial<'_>,
        device: &Device,
        left: &BTreeMap<String, Option<ContentHash>>,
    ) -> Result<()> {
        let empty = ContentHash::of(b"");
        for (name, history) in &mut self.files {
            let since = history.since_acknowledged();
            let left = left.get(name).copied().flatten();
            // A file that was made after its name was free was not in sync, whatever had the name before.
            let is_new = since[..since.len() - 1].contains(&None);
            let may_be_torn = since.len() > 1 && (is_new || left != Some(empty));
            let mut lawful: BTreeSet<_> = since.iter().copied().collect();
            if let Some(torn) = left.filter(|_| may_be_torn) {
                lawful.insert(Some(torn));
                trial.written.entry(name.clone()).or_default().insert(torn);
            }
            let found = shown(device, name);
            if !lawful.contains(&found) {
                bail!("{name} is {found:?} now; it was {history:?}, and the disk had kept {left:?}");
            }
            *history = History::at(found);
        }
        Ok(())
    }
}
