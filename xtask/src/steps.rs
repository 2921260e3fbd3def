//! The steps of `cargo xtask test`, in the order that tells of the cheapest mistake first.

use crate::tidy;
use anyhow::{Result, bail};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Seeds of the simulation that are the same in every run: enough that it asks whether it met everything.
const FIXED_SEEDS: &str = "1500";
/// Seconds for seeds that nobody ran before.
const FRESH_SEED_SECONDS: &str = "30";
/// What the cluster of a run goes through.
const CLUSTER_SCENARIOS: [&str; 3] = ["cut-balancer", "kill-balancer", "kill-meta"];
/// How often the power of a server and of a device fails in a run.
const POWER_FAILURES: &str = "4";
/// The exit code by which a campaign says that it cannot be here.
const CAMPAIGN_SKIPPED: i32 = 77;
/// Promises that a fresh seed in some ten thousand may still break; docs/testing.md says what is known.
/// Those are told and do not fail the run. Take a rule out when its seeds are clean.
const OPEN_RULES: [&str; 1] = ["I2"];
/// Fresh seeds lie below this, so that one is easily typed.
const FRESH_SEED_RANGE: u64 = 1_000_000_000;

/// One thing that must hold before a change is good.
struct Step {
    name: &'static str,
    run: fn(&Path) -> Result<Outcome>,
}

enum Outcome {
    Passed,
    /// Not run, and why. Never silent.
    Skipped(&'static str),
}

/// The tests and the simulation come last, so that what they say stands right above the closing line.
const STEPS: &[Step] = &[
    Step { name: "format", run: |root| cargo(root, &["fmt", "--all", "--check"]) },
    Step { name: "tidy", run: tidy },
    Step { name: "dependencies", run: dependencies },
    Step {
        name: "clippy",
        run: |root| cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Step { name: "documentation", run: documentation },
    Step { name: "doctests", run: |root| cargo(root, &["test", "--workspace", "--doc", "--quiet"]) },
    Step { name: "tests", run: tests },
    Step { name: "cluster", run: cluster },
    Step { name: "disks", run: disks },
    Step { name: "simulation of fixed seeds", run: |root| simulation(root, &["--seeds", FIXED_SEEDS]) },
    Step { name: "simulation of fresh seeds", run: fresh_seeds },
];

/// Runs every step until one fails.
pub(crate) fn test(root: &Path) -> Result<String> {
    let started = Instant::now();
    let mut skipped = Vec::new();
    for (number, step) in STEPS.iter().enumerate() {
        println!("\n== {}/{} {}", number + 1, STEPS.len(), step.name);
        let step_started = Instant::now();
        let outcome = (step.run)(root);
        let seconds = step_started.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Passed) => println!("-- {} passed in {seconds:.1} s", step.name),
            Ok(Outcome::Skipped(why)) => {
                println!("-- {} skipped: {why}", step.name);
                skipped.push(step.name);
            }
            Err(error) => bail!("xtask test: FAILED at {} after {seconds:.1} s: {error:#}", step.name),
        }
    }
    let skipped = if skipped.is_empty() { "none".to_owned() } else { skipped.join(", ") };
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!("\nxtask test: passed, {} steps in {seconds:.1} s, skipped: {skipped}", STEPS.len()))
}

fn tidy(root: &Path) -> Result<Outcome> {
    println!("{}", tidy::run(root)?);
    Ok(Outcome::Passed)
}

fn dependencies(root: &Path) -> Result<Outcome> {
    if !has_subcommand(root, "deny") {
        return Ok(Outcome::Skipped("cargo-deny is not installed; `cargo install --locked cargo-deny` brings it"));
    }
    cargo(root, &["deny", "--offline", "check", "licenses", "bans", "sources"])
}

fn documentation(root: &Path) -> Result<Outcome> {
    run(cargo_command(root, &["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests(root: &Path) -> Result<Outcome> {
    if has_subcommand(root, "nextest") {
        cargo(root, &["nextest", "run", "--workspace", "--no-fail-fast"])
    } else {
        cargo(root, &["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"])
    }
}

/// What the balancers' failover and a missing service come to, in a network of its own where that is possible.
fn cluster(root: &Path) -> Result<Outcome> {
    let scenarios: Vec<&str> = CLUSTER_SCENARIOS.iter().flat_map(|name| ["--scenario", name]).collect();
    campaign(root, "cluster", &scenarios, "a program is missing, or network namespaces are not permitted")
}

/// Disks that are full, and disks whose power fails, where such can be mounted.
fn disks(root: &Path) -> Result<Outcome> {
    let why_not = "a program is missing, or mount namespaces and loop devices are not permitted";
    campaign(root, "disks", &["--rounds", POWER_FAILURES], why_not)
}

/// A campaign against the real program in the dev profile, which says itself when it cannot be here.
fn campaign(root: &Path, name: &str, arguments: &[&str], why_not: &'static str) -> Result<Outcome> {
    let mut command = cargo_command(root, &["run", "--quiet", "--package", "black-box", "--", name]);
    let status = command.args(arguments).status()?;
    match status.code() {
        Some(0) => Ok(Outcome::Passed),
        Some(CAMPAIGN_SKIPPED) => Ok(Outcome::Skipped(why_not)),
        Some(_) | None => bail!("`black-box {name}` ended with {status}"),
    }
}

/// In the dev profile, which the tests have built already.
fn simulation(root: &Path, arguments: &[&str]) -> Result<Outcome> {
    cargo(root, &[&["run", "--quiet", "--package", "simulation", "--"], arguments].concat())
}

/// The seed that begins this is part of the command, which is printed, and each failure names its own.
fn fresh_seeds(root: &Path) -> Result<Outcome> {
    let first = RandomState::new().hash_one(()) % FRESH_SEED_RANGE;
    let first = first.to_string();
    let mut arguments = vec!["--seconds", FRESH_SEED_SECONDS, "--first", &first];
    arguments.extend(OPEN_RULES.iter().flat_map(|rule| ["--open", rule]));
    simulation(root, &arguments)
}

/// Runs the simulation alone, in the release profile: it may run for hours.
pub(crate) fn simulate(root: &Path, arguments: &[String]) -> Result<()> {
    let mut command = cargo_command(root, &["run", "--quiet", "--release", "--package", "simulation", "--"]);
    run(command.args(arguments)).map(drop)
}

/// Runs a campaign against the real program, both in the release profile.
pub(crate) fn black_box(root: &Path, campaign: &str, arguments: &[String]) -> Result<()> {
    let mut command = cargo_command(root, &["run", "--quiet", "--release", "--package", "black-box", "--", campaign]);
    run(command.args(arguments)).map(drop)
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<Outcome> {
    run(&mut cargo_command(root, arguments))
}

fn cargo_command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<Outcome> {
    let line: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let line = line.join(" ");
    println!("cargo {line}");
    let status = command.status()?;
    if !status.success() {
        bail!("`cargo {line}` ended with {status}");
    }
    Ok(Outcome::Passed)
}

fn has_subcommand(root: &Path, name: &str) -> bool {
    let quiet = cargo_command(root, &[name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
