//! Where the log goes: standard error, or a file that does not grow for ever.

use crate::arguments::LogFormat;
use client::Failure;
use server::Telemetry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Bytes of a log file before it makes room for the next; one old one is kept.
const LOG_BYTES: u64 = 10 * 1024 * 1024;
/// What is logged unless SYNCLINE_LOG says otherwise.
const DEFAULT_FILTER: &str = "info,sync_engine=info";

/// Logs to standard error, with the ids of requests whatever the level is. Traces go where they are collected.
pub(crate) fn to_stderr(format: LogFormat, telemetry: Option<&Telemetry>) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(!plain && format == LogFormat::Text);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(true).boxed(),
    };
    let traces = telemetry.map(Telemetry::layer);
    tracing_subscriber::registry().with(server::request_ids()).with(traces).with(lines.with_filter(filter())).init();
}

/// Logs to a file.
pub(crate) fn to_file(path: &Path) -> Result<(), Failure> {
    let log = RotatingLog::open(path.to_path_buf()).map_err(|error| {
        let mut failure = Failure::failed(format!("cannot write the log {}", path.display()));
        failure.causes.push(error.to_string());
        failure
    })?;
    tracing_subscriber::fmt().with_env_filter(filter()).with_writer(log).with_ansi(false).init();
    Ok(())
}

fn filter() -> EnvFilter {
    EnvFilter::try_from_env("SYNCLINE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER))
}

/// A log file that is renamed to `NAME.1` when it is full.
struct RotatingLog {
    path: PathBuf,
    open: Mutex<OpenLog>,
}

struct OpenLog {
    file: File,
    written: u64,
}

impl RotatingLog {
    fn open(path: PathBuf) -> io::Result<Self> {
        let open = OpenLog::at(&path)?;
        Ok(Self { path, open: Mutex::new(open) })
    }
}

impl OpenLog {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { file, written })
    }
}

/// One event on its way into the log.
struct LogLine<'a> {
    open: MutexGuard<'a, OpenLog>,
}

impl<'a> MakeWriter<'a> for RotatingLog {
    type Writer = LogLine<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.written >= LOG_BYTES {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            let fresh = fs::rename(&self.path, old).and_then(|()| OpenLog::at(&self.path));
            // A log that cannot be renamed goes on where it is, and is tried again after as much again.
            match fresh {
                Ok(fresh) => *open = fresh,
                Err(_) => open.written = 0,
            }
        }
        LogLine { open }
    }
}

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.open.file.write(bytes)?;
        self.open.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_makes_room_and_one_old_one_is_kept() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("daemon.log");
        let log = RotatingLog::open(path.clone()).expect("opened");
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..25 {
            log.make_writer().write_all(&line).expect("written");
        }
        assert_eq!(fs::metadata(&path).expect("there").len(), 5 * 1024 * 1024);
        assert_eq!(fs::read_dir(directory.path()).expect("read").count(), 2);
    }
}
