//! strace, attached to a running process to make one of its system calls fail.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long strace may take to let go.
const PATIENCE: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed when it makes the call.
    Kill,
    Eio,
    Enospc,
    Emfile,
    ConnectionReset,
}

impl Fault {
    fn expression(self) -> &'static str {
        match self {
            Self::Kill => "signal=KILL",
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
            Self::Emfile => "error=EMFILE",
            Self::ConnectionReset => "error=ECONNRESET",
        }
    }
}

/// What a traced process did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) calls: BTreeSet<String>,
    pub(super) injected: bool,
}

/// An attached strace; it lets go when it is dropped.
pub(super) struct Strace {
    child: Child,
    /// Kept open: strace must not die of a reader that went away.
    _said: BufReader<ChildStderr>,
    output: PathBuf,
}

/// Whether strace can be used here.
///
/// # Errors
/// When it is not installed.
pub(super) fn check() -> Result<()> {
    if crate::site::is_installed("strace", "--version") {
        return Ok(());
    }
    bail!("strace is not installed; Debian's package is `strace`")
}

impl Strace {
    /// Traces some calls, and makes the n-th of them in any thread fail if there is an injection.
    pub(super) fn attach(pid: u32, calls: &str, injection: Option<(Fault, u32)>, output: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={calls}"), "-o"]).arg(output);
        if let Some((fault, number)) = injection {
            command.args(["-e", &format!("inject={calls}:{}:when={number}", fault.expression())]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("its messages are piped")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        if !line.contains("attached") {
            bail!("strace cannot attach: {}", line.trim());
        }
        Ok(Self { child, _said: said, output: output.to_owned() })
    }

    /// Whether the fault has been injected by now.
    pub(super) fn has_struck(&self) -> Result<bool> {
        Ok(read(&self.output)?.injected)
    }

    /// Lets the process go, if it still lives.
    pub(super) fn detach(mut self) -> Result<Seen> {
        self.end()?;
        read(&self.output)
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has an id")?;
            kill_process(pid, Signal::TERM)?;
            let deadline = Instant::now() + PATIENCE;
            while self.child.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    // It can wait for ever for a thread of a process that was killed; the kernel then lets
                    // go of what is left.
                    self.child.kill()?;
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // A strace that is gone already needs no end.
        self.end().ok();
    }
}

fn read(output: &Path) -> Result<Seen> {
    let text = fs::read_to_string(output).context("strace wrote nothing")?;
    let mut seen = Seen::default();
    for line in text.lines() {
        let rest = line.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
        if let Some((call, _)) = rest.split_once('(') {
            seen.calls.insert(call.to_owned());
        }
        seen.injected |= line.contains("(INJECTED)") || line.contains("killed by SIGKILL");
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_injections_are_read_from_what_strace_wrote() {
        let place = tempfile::tempdir().expect("made");
        let file = place.path().join("out");
        fs::write(&file, "12 fsync(3)  = 0\n13 write(4, \"a(b\", 3) = -1 EIO (INJECTED)\n").expect("written");
        let seen = read(&file).expect("read");
        assert_eq!(seen.calls, ["fsync", "write"].map(String::from).into());
        assert!(seen.injected);
        fs::write(&file, "12 fsync(3)  = 0\n").expect("written");
        assert!(!read(&file).expect("read").injected);
    }
}
