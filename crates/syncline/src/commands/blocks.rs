//! `admin gc`, `admin verify` and `admin find-blocks`.

use super::Context;
use crate::output;
use client::Failure;
use serde::Serialize;
use server::{AdministrationError, CleanUpMode, CleanUpReport, Config, VerifyReport};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the person hears how far a command is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Blocks of each kind that are shown to a person; `--json` names more.
const SHOWN: usize = 10;

#[derive(Serialize)]
struct CleanedUp {
    dry_run: bool,
    blocks: u64,
    marked: u64,
    waiting: u64,
    removed: u64,
    removed_bytes: u64,
    compacted_bytes: u64,
    gathered: u64,
    damaged: u64,
}

/// Removes what nobody names, or shows what that is.
pub(crate) fn clean_up(config: &Config, dry_run: bool, context: &Context) -> Result<(), Failure> {
    let mode = if dry_run { CleanUpMode::Look } else { CleanUpMode::Act };
    let report = server::clean_up(config, mode).map_err(|error| failure(&error))?;
    let CleanUpReport { blocks, marked, waiting, removed, removed_bytes, compacted_bytes, gathered, damaged } = report;
    let report =
        CleanedUp { dry_run, blocks, marked, waiting, removed, removed_bytes, compacted_bytes, gathered, damaged };
    context.show(&report, cleaned_up_text)
}

fn cleaned_up_text(report: &CleanedUp) -> String {
    let blocks = |n| output::count(n, "block", "blocks");
    let verb = if report.dry_run { "to remove" } else { "removed" };
    let mut text = format!("{} in the store\n", blocks(report.blocks));
    text += &format!("{verb}: {}, {}\n", blocks(report.removed), output::size(report.removed_bytes));
    text += &format!("unused, and removed when a day has passed: {}\n", blocks(report.marked + report.waiting));
    if report.compacted_bytes > 0 {
        text += &format!("given back by compaction: {}\n", output::size(report.compacted_bytes));
    }
    if report.gathered > 0 {
        text += &format!("put together: {}\n", blocks(report.gathered));
    }
    if report.damaged > 0 {
        text += &format!("damaged: {}; `admin verify` names those that a version needs\n", blocks(report.damaged));
    }
    text
}

#[derive(Serialize)]
struct Found {
    found: u64,
}

/// Finds blocks that the metadata database, an older one, does not know.
pub(crate) fn find(config: &Config, context: &Context) -> Result<(), Failure> {
    let found = server::find_blocks(config).map_err(|error| failure(&error))?;
    context
        .show(&Found { found }, |report| format!("found again: {}\n", output::count(report.found, "block", "blocks")))
}

#[derive(Serialize)]
struct Verified {
    /// Blocks that files and their versions name.
    named: u64,
    bytes: u64,
    missing: u64,
    missing_blocks: Vec<String>,
    damaged: u64,
    damaged_blocks: Vec<String>,
    stored: u64,
    orphans: u64,
}

/// Reads all blocks, and says which are not there or not whole.
pub(crate) fn verify(config: &Config, context: &Context) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let report = server::verify(config, &mut |report| progress.tell(report));
    progress.end();
    let report = report.map_err(|error| failure(&error))?;
    let is_sound = report.is_sound();
    let names = |blocks: &[model::BlockHash]| blocks.iter().map(ToString::to_string).collect();
    let VerifyReport { named, bytes, missing, damaged, stored, orphans } = report;
    let verified = Verified {
        named,
        bytes,
        missing: missing.count,
        missing_blocks: names(&missing.blocks),
        damaged: damaged.count,
        damaged_blocks: names(&damaged.blocks),
        stored,
        orphans,
    };
    context.show(&verified, verified_text)?;
    if is_sound { Ok(()) } else { Err(damage(verified.missing + verified.damaged)) }
}

fn damage(blocks: u64) -> Failure {
    let message = format!("{} missing or damaged", output::count(blocks, "block is", "blocks are"));
    let hint = "put back the blocks of a backup; a block also heals when a device that has the file uploads it again";
    Failure { hint: Some(hint.into()), ..Failure::failed(message) }
}

fn verified_text(report: &Verified) -> String {
    let mut text = format!(
        "{} named by files and their versions, {} read\n",
        output::count(report.named, "block is", "blocks are"),
        output::size(report.bytes)
    );
    for (what, count, blocks) in
        [("missing", report.missing, &report.missing_blocks), ("damaged", report.damaged, &report.damaged_blocks)]
    {
        text += &format!("{what}: {count}\n");
        blocks.iter().take(SHOWN).for_each(|block| text += &format!("  {block}\n"));
        if blocks.len() > SHOWN {
            text += "  ...\n";
        }
    }
    text += &format!("stored: {}, of which nobody names {}\n", report.stored, report.orphans);
    text
}

/// A line on the terminal that says how far it is.
struct Progress {
    is_terminal: bool,
    told: Instant,
    line: usize,
}

impl Progress {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), told: Instant::now(), line: 0 }
    }

    fn tell(&mut self, report: &VerifyReport) {
        if !self.is_terminal || self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.told = Instant::now();
        let found = report.missing.count + report.damaged.count;
        let line = format!("{} blocks read, {found} of them not whole; {} listed", report.named, report.stored);
        self.show(&line);
    }

    fn end(&mut self) {
        if self.line > 0 {
            self.show("");
            self.line = 0;
        }
    }

    fn show(&mut self, line: &str) {
        let width = self.line.max(line.len());
        // A terminal that is gone needs no progress.
        drop(write!(io::stderr(), "\r{line:width$}{}", if line.is_empty() { "\r" } else { "" }));
        self.line = line.len();
    }
}

fn failure(error: &AdministrationError) -> Failure {
    Failure::from_error(error, Some(error.hint().into()))
}
