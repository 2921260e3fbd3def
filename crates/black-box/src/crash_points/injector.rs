//! A tracer that runs beside the campaign, and what it says.

use crate::tracer::{ATTACHED, COUNTED, Injection, STRUCK};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a tracer may take to attach, or to let go.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// An attached tracer; it lets go when it is dropped.
pub(super) struct Injector {
    child: Child,
    said: Receiver<String>,
    struck: Option<String>,
    /// It has said its last word.
    complete: bool,
}

impl Injector {
    /// Traces a process with the `black-box` program at `tracer`.
    pub(super) fn attach(tracer: &Path, pid: u32, injection: &Injection) -> Result<Self> {
        let mut command = Command::new(tracer);
        command.args(["trace", &pid.to_string(), injection.fault.name(), &injection.number.to_string()]);
        command.arg(&injection.folder);
        if injection.sticky {
            command.arg("--sticky");
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run the tracer")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let (sender, said) = channel();
        thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| sender.send(l)));
        let mut injector = Self { child, said, struck: None, complete: false };
        // A thread may be struck before the last one is seen.
        loop {
            match injector.said.recv_timeout(PATIENCE) {
                Ok(line) if line == ATTACHED => return Ok(injector),
                Ok(line) => injector.hear(&line),
                Err(error) => bail!("the tracer cannot attach: {error}"),
            }
        }
    }

    /// The call at which the fault was injected, if it was by now.
    pub(super) fn struck(&mut self) -> Option<&str> {
        while let Ok(line) = self.said.try_recv() {
            self.hear(&line);
        }
        self.struck.as_deref()
    }

    fn hear(&mut self, line: &str) {
        if let Some(call) = line.strip_prefix(STRUCK) {
            self.struck = Some(call.to_owned());
        }
        self.complete |= line.starts_with(COUNTED);
    }

    /// Lets the process go, if it still lives. The result is the call at which the fault was injected.
    pub(super) fn detach(mut self) -> Result<Option<String>> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("the tracer does not let go"),
            }
        }
        if !self.complete {
            bail!("the tracer ended before its time");
        }
        Ok(self.struck.take())
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                // The kernel lets go for it.
                self.child.kill().ok();
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}
