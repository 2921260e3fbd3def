//! `completions` and `man`, made from the definition of the command line.

use crate::arguments::Arguments;
use crate::output;
use clap::CommandFactory;
use client::Failure;
use std::io;
use std::path::Path;

/// Prints completions for a shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "syncline", &mut script);
    output::data(&String::from_utf8_lossy(&script))
}

/// Prints the manual page, or writes those of all commands into a directory.
pub(crate) fn man(dir: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::from_error(&error, None);
    match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(Arguments::command(), dir).map_err(failed)
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(failed)?;
            output::data(&String::from_utf8_lossy(&page))
        }
    }
}
