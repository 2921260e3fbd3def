//! `black-box`: runs the campaigns against the real program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the program's output is its result")]

use anyhow::{Context, Result, bail};
use black_box::program::Program;
use black_box::{acceptance, cluster, disks, fsx, mysteries};
#[cfg(target_arch = "x86_64")]
use black_box::{crash_points, tracer};
use block_store_s3::private_server::{Faults, PrivateServer};
use clap::{Parser, Subcommand};
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Try the real program from outside
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    campaign: Campaign,
    /// Where random choices begin
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    /// Keep the temporary directory of a run that failed
    #[arg(long, global = true)]
    keep: bool,
}

#[derive(Subcommand)]
enum Campaign {
    /// Big trees on two devices, changed on both at once, with processes killed in the middle
    Acceptance {
        /// A folder that is put in beside the sources that cargo has downloaded; may be repeated
        #[arg(long, value_name = "DIR")]
        dir: Vec<PathBuf>,
        /// Put in only what `--dir` names
        #[arg(long)]
        only_dir: bool,
        /// How often a process is killed
        #[arg(long, default_value_t = 10)]
        kills: usize,
    },
    /// Random histories of three devices, which a model must explain
    Mysteries {
        /// Run for this long
        #[arg(long)]
        seconds: Option<u64>,
        /// Run this many histories; 100 if no time is given
        #[arg(long)]
        histories: Option<u64>,
        /// Go on after a history that cannot be explained
        #[arg(long)]
        keep_going: bool,
    },
    /// Random writes into one file, watched from another device
    Fsx {
        /// Writes and truncations
        #[arg(long, default_value_t = 20_000)]
        operations: u64,
    },
    /// One fault at each system call of each small workload
    #[cfg(target_arch = "x86_64")]
    CrashPoints {
        /// Operations in a workload
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
        ops: u8,
        /// Begin nothing new after this long
        #[arg(long)]
        seconds: Option<u64>,
        /// Servers with devices that are tried side by side
        #[arg(long, default_value_t = 4)]
        lanes: usize,
        /// Go on after a failure
        #[arg(long)]
        keep_going: bool,
        /// Inject only these faults, such as `kill,eio`
        #[arg(long, value_delimiter = ',')]
        faults: Vec<tracer::Fault>,
        /// Try only the tasks with this in their name, as the campaign prints it
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Leave out the combinations in this file, and add those that were completed
        #[arg(long, value_name = "FILE")]
        done: Option<PathBuf>,
    },
    /// A whole installation of many processes in a network of its own, and what can happen to it
    Cluster {
        /// A scenario by its name, or `all`; may be repeated
        #[arg(long, value_name = "NAME")]
        scenario: Vec<String>,
        /// How often each
        #[arg(long, default_value_t = 1)]
        repeat: u32,
        /// Scenarios at random
        #[arg(long)]
        chaos: bool,
        /// How long to go on with these
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Three databases that replicate each other
        #[arg(long)]
        galera: bool,
        /// A Ceph with two object gateways, in place of an S3 server that fails as it is told to
        #[arg(long)]
        ceph: bool,
    },
    /// Disks of their own for the server and for devices, that are full or whose power fails
    Disks {
        /// A scenario by its name; may be repeated. All without it
        #[arg(long, value_name = "NAME")]
        scenario: Vec<String>,
        /// How often the power fails in a scenario
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Run an S3 server, whose requests fail as standard input says; for `cluster`
    #[command(hide = true)]
    S3 { address: SocketAddr, folder: PathBuf },
    /// Make one call of a process fail; for `crash-points`
    #[cfg(target_arch = "x86_64")]
    #[command(hide = true)]
    Trace {
        pid: u32,
        fault: tracer::Fault,
        number: u64,
        folder: String,
        /// And all calls after it
        #[arg(long)]
        sticky: bool,
    },
}

/// The exit code of a campaign that cannot be here: neither passed nor failed.
const SKIPPED: u8 = 77;
/// Histories where neither their number nor a time is given.
const HISTORIES: u64 = 100;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let obstacle = match arguments.campaign {
        Campaign::Cluster { .. } => cluster::is_impossible(),
        Campaign::Disks { .. } => disks::is_impossible(),
        _ => None,
    };
    if let Some(why) = obstacle {
        eprintln!("skipped: this campaign cannot be here: {why}");
        return ExitCode::from(SKIPPED);
    }
    let result = run(&arguments);
    match result {
        Ok(line) => {
            println!("{line}, in {:.1} s", started.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one campaign; the result is its closing line.
fn run(arguments: &Arguments) -> Result<String> {
    let program = Program::find_or_build;
    let (seed, keep) = (arguments.seed, arguments.keep);
    match &arguments.campaign {
        Campaign::Acceptance { dir, only_dir, kills } => {
            let mut input = if *only_dir { Vec::new() } else { vec![acceptance::downloaded_sources()?] };
            input.extend(dir.iter().cloned());
            let options = acceptance::Options { input, seed, kills: *kills, keep };
            let outcome = acceptance::run(&program()?, &options)?;
            let acceptance::Outcome { phases, changes, kills } = outcome;
            Ok(format!("acceptance: passed {phases} comparisons after {changes} changes and {kills} kills"))
        }
        Campaign::Mysteries { seconds, histories, keep_going } => {
            let time = seconds.map(Duration::from_secs);
            let histories = histories.or_else(|| time.is_none().then_some(HISTORIES));
            let options = mysteries::Options { seed, histories, time, keep, keep_going: *keep_going };
            let outcome = mysteries::run(&program()?, options)?;
            let mysteries::Outcome { histories, steps, kills, weathers, conflicts, too_vague, unison_asked, failures } =
                outcome;
            if !failures.is_empty() {
                bail!("{} of {histories} histories cannot be explained; they are told above", failures.len());
            }
            let unison = unison_asked.map_or("unison is not installed".to_owned(), |times| {
                format!("{times} times unison had nothing to do")
            });
            Ok(format!(
                "mysteries: explained {histories} histories of {steps} steps with {kills} kills and {weathers} \
                 network failures, {conflicts} conflicted copies, {too_vague} files too vague, {unison}"
            ))
        }
        #[cfg(target_arch = "x86_64")]
        Campaign::CrashPoints { ops, seconds, lanes, keep_going, faults, only, done } => {
            let (time, operations) = (seconds.map(Duration::from_secs), usize::from(*ops));
            let (lanes, keep_going, tracer) = (*lanes, *keep_going, std::env::current_exe()?);
            let (faults, only, done) = (faults.clone(), only.clone(), done.clone());
            let options =
                crash_points::Options { operations, time, seed, lanes, keep_going, faults, keep, only, done, tracer };
            let crash_points::Outcome { points, combinations, combinations_before, combinations_left, failures } =
                crash_points::run(&program()?, &options)?;
            let (faults, each): (u64, Vec<String>) =
                (points.values().sum(), points.iter().map(|(kind, points)| format!("{kind} {points}")).collect());
            let each = each.join(", ");
            if !failures.is_empty() {
                bail!("{} failures beside {faults} faults ({each}):\n{}", failures.len(), failures.join("\n"));
            }
            Ok(format!(
                "crash points: {faults} faults ({each}) in {combinations} combinations, {combinations_before} \
                 completed before, {combinations_left} not completed"
            ))
        }
        #[cfg(target_arch = "x86_64")]
        Campaign::Trace { pid, fault, number, folder, sticky } => {
            let (fault, number, folder, sticky) = (*fault, *number, folder.clone(), *sticky);
            tracer::run(*pid, tracer::Injection { fault, number, sticky, folder })?;
            Ok("traced".to_owned())
        }
        Campaign::Cluster { scenario, repeat, chaos, seconds, galera, ceph } => {
            let options = cluster::Options {
                seed,
                scenarios: scenario.clone(),
                repeat: *repeat,
                chaos: chaos.then(|| Duration::from_secs(*seconds)),
                galera: *galera,
                ceph: *ceph,
                keep,
                deploy: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy"),
                storage: std::env::current_exe()?,
            };
            let outcome = cluster::run(&program()?, &options)?;
            outcome.figures.iter().for_each(|(name, figures)| println!("{name}: {figures}"));
            let troubles: usize = outcome.figures.values().map(|figures| figures.rested.len()).sum();
            let (changes, megabytes) = (outcome.changes, outcome.bytes / 1_000_000);
            Ok(format!("cluster: {troubles} troubles survived, {changes} changes ({megabytes} MB), nothing lost"))
        }
        Campaign::Disks { scenario, rounds } => {
            let options = disks::Options { seed, scenarios: scenario.clone(), rounds: *rounds, keep };
            let outcome = disks::run(&program()?, &options)?;
            let disks::Outcome { scenarios, power_failures, values, damaged } = outcome;
            Ok(format!(
                "disks: {scenarios} scenarios, {power_failures} power failures that damaged {damaged} files, {values} \
                 values written, nothing lost"
            ))
        }
        Campaign::S3 { address, folder } => {
            let server = PrivateServer::open(folder, *address);
            for line in std::io::stdin().lock().lines().map_while(std::io::Result::ok) {
                server.set_faults(faults(&line).with_context(|| format!("not understood: {line}"))?);
            }
            Ok("served".to_owned())
        }
        Campaign::Fsx { operations } => {
            let fsx::Outcome { operations, versions, seen } = fsx::run(&program()?, seed, *operations)?;
            Ok(format!("fsx: {operations} operations, {versions} versions, {seen} of them seen on the other device"))
        }
    }
}

/// `faults N SEED`: from now on N of a thousand requests fail.
fn faults(line: &str) -> Option<Faults> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["faults", per_mille, seed] = words.as_slice() else { return None };
    let (per_mille, seed) = (per_mille.parse().ok()?, seed.parse().ok()?);
    Some(Faults { per_mille, kinds: Faults::ALL_KINDS, seed })
}
