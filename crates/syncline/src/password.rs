//! Asks for a password: on the terminal without showing it, or from standard input.

use client::Failure;
use model::limits;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};

/// Bytes that are read of a password's line: the longest password and its line end.
const LINE_BYTES: u64 = limits::PASSWORD_BYTES as u64 + 2;

/// Where the password comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Terminal,
    StandardInput,
}

impl Source {
    /// From the flag `--password-stdin`.
    pub(crate) const fn from_flag(password_stdin: bool) -> Self {
        if password_stdin { Self::StandardInput } else { Self::Terminal }
    }
}

/// Reads a password.
pub(crate) fn ask(source: Source, prompt: &str) -> Result<String, Failure> {
    match source {
        Source::StandardInput => read_line(io::stdin().lock()).map_err(|error| unreadable(&error)),
        Source::Terminal => {
            let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
                Failure::usage("there is no terminal on which to ask for the password")
                    .with_hint("pass `--password-stdin` and write it to standard input")
            })?;
            ask_on(&terminal, prompt).map_err(|error| unreadable(&error))
        }
    }
}

/// Asks for a new password, twice where it cannot be seen.
pub(crate) fn ask_new(source: Source, prompt: &str) -> Result<String, Failure> {
    let password = ask(source, prompt)?;
    if source == Source::Terminal && ask(source, "Again: ")? != password {
        return Err(Failure::usage("these are two different passwords").with_hint("try again"));
    }
    Ok(password)
}

fn ask_on(terminal: &File, prompt: &str) -> io::Result<String> {
    let mut out = terminal;
    out.write_all(prompt.as_bytes())?;
    let hidden = Hidden::new(terminal)?;
    let password = read_line(BufReader::new(terminal));
    drop(hidden);
    out.write_all(b"\n")?;
    password
}

/// While it lives, the terminal does not show what is typed.
struct Hidden<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to restore.
        tcsetattr(self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

fn read_line(input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.take(LINE_BYTES).read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn unreadable(error: &io::Error) -> Failure {
    let mut failure = Failure::failed("cannot read the password");
    failure.causes.push(error.to_string());
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_and_keeps_its_spaces() {
        for (input, password) in [("secret\n", "secret"), ("se cret \r\n", "se cret "), ("last", "last"), ("", "")] {
            assert_eq!(read_line(input.as_bytes()).expect("reads"), password);
        }
        assert!(read_line(&[b'x'; 10_000][..]).expect("reads").len() <= limits::PASSWORD_BYTES + 2);
    }
}
