//! `start` and `stop`.

use super::Context;
use crate::arguments::{LogFormat, StartOptions};
use crate::{log, output, signals};
use client::control::protocol::{Done, StatusReply};
use client::{Command, Control, Daemon, DaemonError, Failure, FailureKind, Home, HomeError};
use serde::Serialize;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a daemon in the background may take to answer: it reads its database first.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a daemon may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often is looked whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Threads for calls to the server; the rest of the work has threads of its own.
const RUNTIME_THREADS: usize = 2;
/// Bytes of what a daemon said when it failed to start that are passed on.
const STARTUP_ERROR_BYTES: u64 = 64 * 1024;

/// The runtime of the client.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(RUNTIME_THREADS).thread_name("syncline").enable_all().build();
    built.map_err(|error| Failure::from_error(&error, None))
}

/// Starts the daemon.
pub(crate) fn start(options: &StartOptions, context: &Context) -> Result<(), Failure> {
    let home = context.home()?;
    context.config()?;
    match options {
        StartOptions { foreground: false, .. } => in_background(&home, context),
        StartOptions { detached: false, .. } => {
            log::to_stderr(LogFormat::Text, None);
            in_foreground(home)
        }
        StartOptions { detached: true, .. } => {
            // Fails only for a process that leads a session already, which is as good.
            rustix::process::setsid().ok();
            log::to_file(&home.log())?;
            in_foreground(home)
        }
    }
}

fn in_foreground(home: Home) -> Result<(), Failure> {
    let ended = runtime()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let daemon = Daemon::start(home).await.map_err(|error| failure(&error))?;
        daemon.run_until(shutdown).await.map_err(|error| failure(&error))
    });
    if let Err(failure) = &ended {
        tracing::error!(%failure, causes = ?failure.causes, "the daemon ended");
    }
    ended
}

/// A daemon's failure in words for a person.
pub(crate) fn failure(error: &DaemonError) -> Failure {
    let failure = match error {
        DaemonError::Home(HomeError::Locked { .. }) => already_running(),
        _ => Failure::from_error(error, error.hint()),
    };
    if error.is_for_safety() {
        return Failure { kind: FailureKind::Unsafe, ..failure };
    }
    failure
}

fn already_running() -> Failure {
    Failure::failed("the daemon of this home is running already")
        .with_hint("see `syncline status`; for another device, name another home with `--home DIR`")
}

/// `start` in the background.
#[derive(Serialize)]
struct Started {
    started: bool,
    pid: u32,
}

fn in_background(home: &Home, context: &Context) -> Result<(), Failure> {
    if Control::connect(home).is_ok() {
        return Err(already_running());
    }
    let mut child = spawn_detached(home).map_err(|error| {
        let mut failure = Failure::failed("cannot start the daemon");
        failure.causes.push(error.to_string());
        failure
    })?;
    wait_until_it_answers(home, &mut child)?;
    context.show(&Started { started: true, pid: child.id() }, |_| "syncing in the background\n".to_owned())
}

/// Runs this program again, apart from this terminal: see [`StartOptions::detached`].
fn spawn_detached(home: &Home) -> io::Result<Child> {
    let errors = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(home.startup_errors())?;
    Process::new(std::env::current_exe()?)
        .arg("--home")
        .arg(home.path())
        .args(["start", "--foreground", "--detached"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
}

fn wait_until_it_answers(home: &Home, child: &mut Child) -> Result<(), Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().map_err(|error| Failure::from_error(&error, None))? {
            return Err(early_end(home, status));
        }
        let answer = Control::connect(home).map(|mut control| control.ask::<StatusReply>(Command::Status));
        if let Ok(Ok(_)) = answer {
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
    let seconds = START_TIMEOUT.as_secs();
    Err(Failure::failed(format!("the daemon does not answer after {seconds} seconds"))
        .with_hint(format!("it may still be starting: see {}", home.log().display())))
}

/// The daemon has said on its standard error why it ended; its words are passed on as they are.
fn early_end(home: &Home, status: ExitStatus) -> Failure {
    let mut said = String::new();
    let read =
        fs::File::open(home.startup_errors()).and_then(|file| file.take(STARTUP_ERROR_BYTES).read_to_string(&mut said));
    let kind = match status.code() {
        Some(2) => FailureKind::Usage,
        Some(7) => FailureKind::Unsafe,
        _ => FailureKind::Failed,
    };
    let parsed = read.ok().and_then(|_| parse_report(&said));
    parsed.map_or_else(
        || Failure::failed("the daemon ended at once").with_hint(format!("see {}", home.log().display())),
        |failure| Failure { kind, ..failure },
    )
}

/// The inverse of how an error is reported.
fn parse_report(said: &str) -> Option<Failure> {
    let mut lines = said.lines().skip_while(|line| !line.starts_with("error: "));
    let mut failure = Failure::failed(lines.next()?.strip_prefix("error: ")?);
    for line in lines {
        if let Some(hint) = line.strip_prefix("hint: ") {
            failure.hint = Some(hint.to_owned());
        } else if let Some(cause) = line.strip_prefix("  caused by: ") {
            failure.causes.push(cause.to_owned());
        }
    }
    Some(failure)
}

/// Stops the daemon and waits for its end.
pub(crate) fn stop(context: &Context) -> Result<(), Failure> {
    let home = context.home()?;
    context.config()?;
    let control = Control::connect(&home).map_err(|error| error.failure())?;
    stop_running(&home, control)?;
    context.done(&Done { done: true })
}

/// Asks a daemon to end, and waits until its home is free.
pub(crate) fn stop_running(home: &Home, mut control: Control) -> Result<(), Failure> {
    let _: Done = control.ask(Command::Stop)?;
    let deadline = Instant::now() + STOP_TIMEOUT;
    loop {
        match home.lock() {
            Ok(_) => return Ok(()),
            Err(HomeError::Locked { .. }) if Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            Err(HomeError::Locked { .. }) => {
                let seconds = STOP_TIMEOUT.as_secs();
                output::say("the daemon finishes what it is doing");
                return Err(Failure::failed(format!("the daemon did not end within {seconds} seconds")));
            }
            Err(error) => return Err(Failure::from_error(&error, error.hint())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_said_when_it_failed_is_understood() {
        let failure = parse_report("warning: x\nerror: it is broken\n  caused by: rust\nhint: oil it\n").expect("said");
        assert_eq!(failure.message, "it is broken");
        assert_eq!((failure.causes, failure.hint), (vec!["rust".to_owned()], Some("oil it".to_owned())));
        assert_eq!(parse_report("thread panicked"), None);
    }
}
