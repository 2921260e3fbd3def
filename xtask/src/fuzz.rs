//! `cargo xtask fuzz`: lets cargo-fuzz look for inputs that break a parser.
//!
//! What it finds interesting is kept under `target/fuzz`, from run to run; `fuzz/corpus` holds what every
//! run begins with, and what `cargo test` replays. An input that broke something belongs there, under a
//! name that says what it broke.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of one input: the parsers' limits lie far above, and long inputs are slow to change.
const INPUT_BYTES: &str = "16384";
/// Seconds after which an input counts as one that hangs a parser.
const HANG_SECONDS: &str = "10";

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The parser to fuzz; all of them, one after the other, if none is named
    target: Option<String>,
}

/// Runs one target, or all, until one fails.
pub(crate) fn run(root: &Path, options: &Options) -> Result<String> {
    let all = targets(root)?;
    let chosen: Vec<&String> = match &options.target {
        None => all.iter().collect(),
        Some(target) if all.contains(target) => vec![target],
        Some(target) => bail!("there is no target `{target}`; there are {}", all.join(", ")),
    };
    for target in &chosen {
        fuzz(root, target, options.seconds)?;
    }
    Ok(format!("fuzz: {} targets survived {} s each", chosen.len(), options.seconds))
}

/// Every target has a folder in the corpus.
fn targets(root: &Path) -> Result<Vec<String>> {
    let corpus = root.join("fuzz/corpus");
    let listing = fs::read_dir(&corpus).with_context(|| format!("cannot list {}", corpus.display()))?;
    let mut names = Vec::new();
    for entry in listing {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn fuzz(root: &Path, target: &str, seconds: u64) -> Result<()> {
    let found = root.join("target/fuzz/corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    println!("\n== {target} for {seconds} s");
    let status = Command::new("cargo")
        // The instrumentation is an unstable option of the compiler that builds everything else.
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir", "fuzz", "--target-dir"])
        .arg(root.join("target/fuzz/build"))
        .arg(target)
        .args([found, seeds(root, target)])
        .args(["--", &format!("-max_total_time={seconds}")])
        .args([&format!("-max_len={INPUT_BYTES}"), &format!("-timeout={HANG_SECONDS}"), "-print_final_stats=1"])
        .current_dir(root)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!(
            "{target}: an input broke it, or cargo-fuzz is missing (`cargo install --locked cargo-fuzz` brings it); \
             an input under fuzz/artifacts/{target} belongs into fuzz/corpus/{target}"
        );
    }
    Ok(())
}

fn seeds(root: &Path, target: &str) -> PathBuf {
    root.join("fuzz/corpus").join(target)
}
