//! The program: reads the command line, does what it says, and reports how it went.

mod arguments;
mod commands;
mod demo;
mod log;
mod output;
mod password;
mod signals;

use arguments::{Arguments, Verb};
use clap::Parser;
use client::Failure;
use std::process::ExitCode;

// Fresh pages cost more than anything else that buffers cost on small machines, and what one thread gives back the next
// one is to get: `.cargo/config.toml` says among how many arenas all threads share, and ARCHITECTURE.md why it is jemalloc.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::report(&failure),
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { home, json, verb } = arguments;
    let context = commands::Context { home, json };
    match verb {
        Verb::Demo(options) => demo::run(&options),
        Verb::Server(options) => commands::server::serve(&options, &context),
        Verb::Admin(options) => commands::server::administer(&options, &context),
        Verb::Link(options) => commands::device::link(options, &context),
        Verb::Unlink => commands::device::unlink(&context),
        Verb::Start(options) => commands::start::start(&options, &context),
        Verb::Stop => commands::start::stop(&context),
        Verb::Status(options) => commands::status::status(&options, &context),
        Verb::Activity { limit } => commands::status::activity(limit, &context),
        Verb::Flush { timeout } => commands::status::flush(timeout, &context),
        Verb::Filestatus { paths } => commands::status::file_status(&paths, &context),
        Verb::Why { path } => commands::status::why(&path, &context),
        Verb::Pause => commands::settings::pause(&context),
        Verb::Resume => commands::settings::resume(&context),
        Verb::Exclude(verb) => commands::settings::exclude(&verb, &context),
        Verb::BandwidthLimit { up, down } => commands::settings::bandwidth(&up, &down, &context),
        Verb::Config(verb) => commands::settings::config(&verb, &context),
        Verb::Deletions(verb) => commands::settings::deletions(verb, &context),
        Verb::RebuildIndex { anew } => commands::settings::rebuild_index(anew, &context),
        Verb::Devices { verb } => commands::account::devices(verb.as_ref(), &context),
        Verb::History { folder, limit } => commands::account::history(folder.as_deref(), limit, &context),
        Verb::Revs { path, limit } => commands::account::revisions(&path, limit, &context),
        Verb::Restore { path, rev } => commands::account::restore(&path, rev, &context),
        Verb::Share(options) => commands::share::share(options, &context),
        Verb::Completions { shell } => commands::documents::completions(shell),
        Verb::Man { dir } => commands::documents::man(dir.as_deref()),
    }
}
