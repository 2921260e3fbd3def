//! The developers' tasks: `cargo xtask test` is all that CI runs, `cargo xtask tidy` the part of it that
//! knows this project's own rules.
//!
//! Each task ends with one line that says its result.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who runs it")]

mod steps;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tasks of Syncline's developers")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all that CI runs
    Test,
    /// Check the project's own rules: dependency arrows, purity, documents, names
    Tidy,
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let result = match Arguments::parse().task {
        Task::Test => steps::test(root),
        Task::Tidy => tidy::run(root),
    };
    match result {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
