//! The suites that hunt mutants.

use super::scratch::Scratch;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a suite may take on the unchanged program.
pub(super) const LONGEST: Duration = Duration::from_secs(900);
/// What a suite may take on a mutant, beside a multiple of what it takes unchanged.
const GRACE: Duration = Duration::from_secs(30);
/// A mutant that makes a suite so much slower has stopped getting anywhere.
const SLOWER: u32 = 5;
/// How often a running suite is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Seeds of the simulation: each takes about 10 ms, and few mutants need more than a hundred. Those that do are about a
/// base that was edited, and about large blocks that come in part.
const SEEDS: &str = "800";

/// Tests that run together, the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Suite {
    Model,
    /// With real servers of memcached.
    Cache,
    MetadataStore,
    /// With the planner's properties (`tests/canopy.rs`).
    SyncEngine,
    BlockService,
    MetaService,
    BlockStore,
    /// On an S3 server in the test's own process.
    BlockStoreS3,
    /// The clean-up of blocks on the real services (`crates/server/tests/clean_up.rs`).
    CleanUp,
    LocalFiles,
    Client,
    /// The simulation's named histories (`tests/scenarios`).
    Scenarios,
    /// The simulation's first seeds.
    Simulation,
}

/// How a suite ended.
pub(super) enum End {
    Passed {
        /// Without building.
        running: Duration,
    },
    /// The first test that failed, or what was seen.
    Failed(String),
    /// Cargo's words are in the file.
    DoesNotCompile(PathBuf),
}

/// How long a suite may take that takes so long on the unchanged program.
pub(super) fn limit(unchanged: Duration) -> Duration {
    unchanged * SLOWER + GRACE
}

impl Suite {
    const fn package(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Cache => "cache",
            Self::MetadataStore => "metadata-store",
            Self::SyncEngine => "sync-engine",
            Self::BlockService => "block-service",
            Self::MetaService => "meta-service",
            Self::BlockStore => "block-store",
            Self::BlockStoreS3 => "block-store-s3",
            Self::CleanUp => "server",
            Self::LocalFiles => "local-files",
            Self::Client => "client",
            Self::Scenarios | Self::Simulation => "simulation",
        }
    }

    /// What cargo builds, and the arguments of the programs that come of it.
    const fn parts(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Simulation => (&["build", "--bins"], &["--seeds", SEEDS, "--no-shrink"]),
            Self::Scenarios => (&["test", "--test", "scenarios", "--no-run"], &[]),
            Self::CleanUp => (&["test", "--test", "clean_up", "--no-run"], &["sqlite"]),
            _ => (&["test", "--lib", "--tests", "--no-run"], &[]),
        }
    }

    /// Builds the suite and runs its programs one after the other, until one fails or the time is over.
    pub(super) fn run(self, scratch: &Scratch, what: &str, limit: Duration) -> Result<End> {
        let log = scratch.logs.join(format!("{what}.{self}.log"));
        let (build, arguments) = self.parts();
        let Some(programs) = self.build(scratch, build, &log)? else { return Ok(End::DoesNotCompile(log)) };
        let started = Instant::now();
        for program in programs {
            let left = limit.saturating_sub(started.elapsed());
            if let Some(failure) = run_program(&program, arguments, &log, left)? {
                return Ok(End::Failed(failure));
            }
        }
        Ok(End::Passed { running: started.elapsed() })
    }

    /// The suite's programs; `None` when it does not compile.
    fn build(self, scratch: &Scratch, build: &[&str], log: &Path) -> Result<Option<Vec<Program>>> {
        let output = Command::new("cargo")
            .args(build)
            .args(["--quiet", "--message-format", "json-render-diagnostics", "--package", self.package()])
            .current_dir(&scratch.tree)
            .env("CARGO_TARGET_DIR", &scratch.build)
            // Fast to run and quick to build; nobody debugs a mutant.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .output()
            .context("cannot run cargo")?;
        fs::write(log, &output.stderr).with_context(|| format!("cannot write {}", log.display()))?;
        let built = programs(&String::from_utf8_lossy(&output.stdout));
        // Tests of a package with a program bring that along.
        let tests = self != Self::Simulation;
        Ok(output.status.success().then(|| built.into_iter().filter(|program| program.is_test == tests).collect()))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scenarios => "scenarios",
            Self::CleanUp => "clean-up",
            _ => self.package(),
        })
    }
}

/// A program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    /// Its package's directory, where cargo would run it.
    directory: PathBuf,
    is_test: bool,
}

/// The programs among the artifacts that cargo tells of.
fn programs(messages: &str) -> Vec<Program> {
    #[derive(Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        profile: Option<Profile>,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages
        .filter_map(|message| {
            let directory = message.manifest_path?.parent()?.to_owned();
            Some(Program { path: message.executable?, directory, is_test: message.profile?.test })
        })
        .collect()
}

/// Runs one program; what failed, if it did.
fn run_program(program: &Program, arguments: &[&str], log: &Path, limit: Duration) -> Result<Option<String>> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = Command::new(&program.path)
        .args(arguments)
        .current_dir(&program.directory)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot run {}", program.path.display()))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                return Ok(None);
            }
            let said = fs::read(log).unwrap_or_default();
            return Ok(Some(first_failure(&String::from_utf8_lossy(&said)).unwrap_or_else(|| status.to_string())));
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(Some(format!("no end after {} s", limit.as_secs())));
        }
        thread::sleep(LOOK);
    }
}

/// The first failed test, or the first promise that the simulation saw broken.
fn first_failure(said: &str) -> Option<String> {
    said.lines().map(str::trim).find_map(|line| match line.strip_prefix("test ") {
        Some(rest) => rest.strip_suffix(" ... FAILED").map(str::to_owned),
        None => (line.starts_with("seed ") && line.contains(" broke ")).then(|| line.chars().take(100).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failed_test_or_broken_promise_is_named() {
        assert_eq!(first_failure("test a ... ok\ntest b::c ... FAILED\n").as_deref(), Some("b::c"));
        assert_eq!(first_failure("x\nseed 7 broke I1: gone\n").as_deref(), Some("seed 7 broke I1: gone"));
        assert_eq!(first_failure("test a ... ok\n"), None);
    }

    #[test]
    fn the_programs_are_those_artifacts_that_can_be_run() {
        let messages = r#"{"manifest_path":"/p/Cargo.toml","executable":null,"profile":{"test":false}}
            {"manifest_path":"/p/Cargo.toml","executable":"/x","profile":{"test":true}}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(programs(messages), [Program { path: "/x".into(), directory: "/p".into(), is_test: true }]);
    }
}
