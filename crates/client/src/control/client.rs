//! Asks the daemon.

use super::protocol::{Command, Failure, LINE_BYTES, Reply, Request, VERSION};
use super::socket::Address;
use crate::home::Home;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// No daemon answers for this home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is not running")]
pub struct NotRunning;

impl NotRunning {
    /// The failure of a command that needs the daemon.
    #[must_use]
    pub fn failure(self) -> Failure {
        Failure::failed(self.to_string()).with_hint("run `syncline start`")
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the daemon of a home.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn connect(home: &Home) -> Result<Self, NotRunning> {
        let address = Address::of(&home.socket()).map_err(|_| NotRunning)?;
        let stream = UnixStream::connect(address.path()).map_err(|_| NotRunning)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// The daemon's [`Failure`], or that it went away.
    pub fn ask<A: DeserializeOwned>(&mut self, command: Command) -> Result<A, Failure> {
        self.send(command)?;
        self.receive()
    }

    /// Sends a command.
    ///
    /// # Errors
    /// That the daemon went away.
    pub fn send(&mut self, command: Command) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(&Request { version: VERSION, command })
            .map_err(|error| Failure::from_error(&error, None))?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| went_away(&error))
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// The daemon's [`Failure`], or that it went away.
    pub fn receive<A: DeserializeOwned>(&mut self) -> Result<A, Failure> {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES).unwrap_or(u64::MAX);
        let read = self.stream.by_ref().take(limit).read_until(b'\n', &mut line);
        read.map_err(|error| went_away(&error))?;
        if line.last() != Some(&b'\n') {
            return Err(went_away(&io::ErrorKind::UnexpectedEof.into()));
        }
        let unreadable = |error: serde_json::Error| {
            Failure::from_error(
                &error,
                Some("run `syncline stop` and `syncline start`, so that both are one version".into()),
            )
        };
        match serde_json::from_slice(&line).map_err(unreadable)? {
            Reply::Ok(value) => serde_json::from_value(value).map_err(unreadable),
            Reply::Error(failure) => Err(failure),
        }
    }
}

fn went_away(error: &io::Error) -> Failure {
    let mut failure = Failure::failed("the daemon went away").with_hint("look at its log, daemon.log in the home");
    failure.causes.push(error.to_string());
    failure
}
