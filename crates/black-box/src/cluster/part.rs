//! A process on a host.

use crate::site::{LOOK_AGAIN, PATIENCE, Running, append, end_of, signal};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Instant;

/// Runs a program, and writes 0 into a file when it starts and 1 when it has ended, as a service manager would.
/// The program's process id stands beside it.
const WATCHED: &str =
    "file=$1; shift; echo 0 > \"$file\"; \"$@\" & echo $! > \"$file.pid\"; wait $!; echo 1 > \"$file\"";

/// A program that can be started again and again.
#[derive(Debug)]
pub(super) struct Part {
    /// The host that it runs on.
    pub(super) host: String,
    words: Vec<String>,
    log: PathBuf,
    /// The file of a watched one.
    watched: Option<PathBuf>,
    running: Option<Running>,
    input: Option<ChildStdin>,
}

impl Part {
    pub(super) fn new(host: &str, by: &[String], words: &[&str], log: PathBuf) -> Self {
        let words = by.iter().cloned().chain(words.iter().map(|word| (*word).to_owned())).collect();
        Self { host: host.to_owned(), words, log, watched: None, running: None, input: None }
    }

    /// The same, with a file that says whether it runs.
    pub(super) fn watched_by(self, file: PathBuf) -> Self {
        let shell = ["sh", "-c", WATCHED, "sh"].map(ToOwned::to_owned).into_iter();
        let words = shell.chain([file.display().to_string()]).chain(self.words).collect();
        Self { words, watched: Some(file), ..self }
    }

    /// Changes its command line.
    pub(super) fn words_mut(&mut self) -> &mut Vec<String> {
        &mut self.words
    }

    pub(super) fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("{} runs already", self.words.join(" "));
        }
        let (program, arguments) = self.words.split_first().context("a part has a program")?;
        let log = append(&self.log)?;
        let mut command = Command::new(program);
        command.args(arguments).env("SYNCLINE_LOG", "info");
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        self.input = child.stdin.take();
        self.running = Some(Running::new(child));
        Ok(())
    }

    /// Says something on its standard input.
    pub(super) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().with_context(|| format!("{} does not run", self.host))?;
        writeln!(input, "{line}").with_context(|| format!("{} does not listen", self.host))
    }

    /// Ends it without a word of warning.
    pub(super) fn kill(&mut self) -> Result<()> {
        if self.running.is_some() {
            signal(self.pid()?, Signal::KILL)?;
        }
        self.wait()
    }

    /// Asks it to end in order.
    pub(super) fn begin_stop(&mut self) -> Result<()> {
        signal(self.pid()?, Signal::TERM)
    }

    pub(super) fn freeze(&self) -> Result<()> {
        signal(self.pid()?, Signal::STOP)
    }

    pub(super) fn thaw(&self) -> Result<()> {
        signal(self.pid()?, Signal::CONT)
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.input = None;
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        while !running.has_ended()? {
            if Instant::now() > deadline {
                bail!("{} does not end", self.words.join(" "));
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// An error if it has ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(running) = &mut self.running
            && running.has_ended()?
        {
            bail!("a process on {} ended by itself; its log ends with: {}", self.host, end_of(&self.log));
        }
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        let running = self.running.as_ref().with_context(|| format!("nothing runs on {}", self.host))?;
        let Some(file) = &self.watched else { return Ok(running.pid()) };
        let file = PathBuf::from(format!("{}.pid", file.display()));
        let pid = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        pid.trim().parse().with_context(|| format!("{pid:?} is no process id"))
    }
}
