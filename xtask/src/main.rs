//! The developers' tasks: `cargo xtask test` is all that CI runs, `cargo xtask tidy` the part of it that
//! knows this project's own rules, `cargo xtask simulate` the simulation for as long as one likes,
//! `cargo xtask black-box`, `crash-points`, `fsx`, `acceptance`, `cluster` and `disks` try the real program from outside,
//! `cargo xtask mutants` shows that the tests notice mistakes, and `cargo xtask fuzz` feeds the parsers.
//!
//! Each task ends with one line that says its result.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who runs it")]

mod fuzz;
mod mutants;
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
    /// Break the program on purpose, in many ways, and see that the tests notice
    Mutants(mutants::Options),
    /// Look for bytes that break a parser
    Fuzz(fuzz::Options),
    /// Run the simulation; `--help` behind it tells what it can do
    #[command(disable_help_flag = true)]
    Simulate {
        /// Passed on to it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run random histories of three real devices, with kills and network failures
    #[command(disable_help_flag = true)]
    BlackBox {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Let each system call of small workloads fail in the real program
    #[command(disable_help_flag = true)]
    CrashPoints {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write at random into one file, and watch it from another real device
    #[command(disable_help_flag = true)]
    Fsx {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a whole installation in a network of its own, and let things happen to it
    #[command(disable_help_flag = true)]
    Cluster {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fill the disks of a real server and of real devices, and let their power fail
    #[command(disable_help_flag = true)]
    Disks {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Put big trees on two real devices, change both at once, and kill processes in the middle
    #[command(disable_help_flag = true)]
    Acceptance {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    let result = match Arguments::parse().task {
        Task::Test => steps::test(root).map(Some),
        Task::Tidy => tidy::run(root).map(Some),
        Task::Mutants(options) => mutants::run(root, &options).map(Some),
        Task::Fuzz(options) => fuzz::run(root, &options).map(Some),
        Task::Simulate { arguments } => steps::simulate(root, &arguments).map(|()| None),
        Task::BlackBox { arguments } => steps::black_box(root, "mysteries", &arguments).map(|()| None),
        Task::CrashPoints { arguments } => steps::black_box(root, "crash-points", &arguments).map(|()| None),
        Task::Fsx { arguments } => steps::black_box(root, "fsx", &arguments).map(|()| None),
        Task::Cluster { arguments } => steps::black_box(root, "cluster", &arguments).map(|()| None),
        Task::Disks { arguments } => steps::black_box(root, "disks", &arguments).map(|()| None),
        Task::Acceptance { arguments } => steps::black_box(root, "acceptance", &arguments).map(|()| None),
    };
    match result {
        Ok(line) => {
            // What runs as a process of its own says its own last line.
            line.into_iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
