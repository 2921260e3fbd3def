//! `simulation`: runs histories of the whole system from seeds.

#![expect(clippy::print_stdout, reason = "the program's output is its result")]

use clap::Parser;
use simulation::campaign::{self, Options};
use simulation::history::History;
use simulation::world;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Run seeded histories of the whole system
#[derive(Parser)]
struct Arguments {
    /// Run for this long
    #[arg(long)]
    seconds: Option<u64>,
    /// Run this many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Replay one seed with its full trace
    #[arg(long)]
    seed: Option<u64>,
    /// Replay a stored history with its full trace
    #[arg(long)]
    history: Option<PathBuf>,
    /// Threads that run seeds; all processors if not given
    #[arg(long)]
    lanes: Option<usize>,
    /// Go on after a failure
    #[arg(long)]
    keep_going: bool,
    /// A rule, such as I2, whose violations are told and do not fail the run
    #[arg(long, value_name = "RULE")]
    open: Vec<String>,
    /// Do not make failing histories smaller
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        return show(&campaign::run_traced(seed));
    }
    if let Some(path) = &arguments.history {
        return replay(path);
    }
    let seeds = arguments.seeds.or_else(|| arguments.seconds.is_none().then_some(1000));
    let report = campaign::run(&Options {
        first_seed: arguments.first,
        seeds,
        time: arguments.seconds.map(Duration::from_secs),
        lanes: arguments.lanes.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        shrink: !arguments.no_shrink,
        keep_going: arguments.keep_going,
        open: arguments.open.clone(),
        ..Options::default()
    });
    println!("{report}");
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(path: &PathBuf) -> ExitCode {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    match read.and_then(|text| serde_json::from_str::<History>(&text).map_err(|error| error.to_string())) {
        Ok(history) => show(&world::replay(&history, true)),
        Err(error) => {
            println!("error: {} is no stored history: {error}", path.display());
            ExitCode::from(2)
        }
    }
}

fn show(outcome: &world::Outcome) -> ExitCode {
    for line in &outcome.trace {
        println!("{line}");
    }
    match &outcome.violation {
        Some(violation) => {
            println!("seed {} broke {violation}", outcome.history.seed);
            ExitCode::FAILURE
        }
        None => {
            println!("seed {} is clean, trace {:x}", outcome.history.seed, outcome.trace_hash);
            ExitCode::SUCCESS
        }
    }
}
