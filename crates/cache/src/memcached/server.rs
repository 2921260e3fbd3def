//! One server: where it is, its idle connections, and whether it is asked at all.

use super::breaker::Breaker;
use super::connection::Connection;
use super::protocol::ProtocolError;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Connections that are kept although nothing is asked: as many as calls run at once in a meta service.
const IDLE_CONNECTIONS: usize = 96;
/// Addresses of one name that are tried.
const ADDRESSES: usize = 2;

/// A server.
pub(super) struct Server {
    /// Host and port.
    name: String,
    /// Empty until the name was resolved.
    addresses: Mutex<Vec<SocketAddr>>,
    idle: Mutex<Vec<Connection>>,
    breaker: Mutex<Breaker>,
}

/// Why a server has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// It was not asked.
    LeftAlone,
    Failed(ProtocolError),
}

impl Server {
    pub(super) fn new(name: &str) -> Self {
        let address = name.parse().ok().into_iter().collect();
        let (idle, breaker) = (Mutex::default(), Mutex::default());
        Self { name: name.to_owned(), addresses: Mutex::new(address), idle, breaker }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether there is nothing to resolve.
    pub(super) fn is_address(&self) -> bool {
        self.name.parse::<SocketAddr>().is_ok()
    }

    /// Asks the system for the name's addresses, which may take long. Those that are known stay when nobody
    /// answers.
    pub(super) fn resolve(&self) {
        match self.name.to_socket_addrs() {
            Ok(addresses) => *lock(&self.addresses) = addresses.take(ADDRESSES).collect(),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(server = self.name, error, "the name of a cache server cannot be resolved");
            }
        }
    }

    /// Sends a request and reads its answer, unless the server is left alone; `None` if another run of the
    /// server is wanted than it is now.
    pub(super) fn call<T>(
        &self,
        until: Instant,
        run: Option<u64>,
        request: &[u8],
        read: impl Fn(&mut Connection) -> Result<T, ProtocolError>,
    ) -> Result<Option<T>, NoAnswer> {
        if !lock(&self.breaker).may_ask(Instant::now()) {
            return Err(NoAnswer::LeftAlone);
        }
        let result = self.exchange(until, run, request, read);
        let mut breaker = lock(&self.breaker);
        match &result {
            // What a server refuses, it has at least read.
            Ok(_) | Err(ProtocolError::Refused(_)) => breaker.succeeded(),
            Err(ProtocolError::Connection(_) | ProtocolError::NoAnswer) => breaker.failed(Instant::now()),
        }
        result.map_err(NoAnswer::Failed)
    }

    fn exchange<T>(
        &self,
        until: Instant,
        run: Option<u64>,
        request: &[u8],
        read: impl Fn(&mut Connection) -> Result<T, ProtocolError>,
    ) -> Result<Option<T>, ProtocolError> {
        let exchange = |mut connection: Connection| {
            if run.is_some_and(|run| run != connection.run()) {
                self.keep(connection);
                return Ok(None);
            }
            connection.wait_until(until);
            connection.send(request).map_err(ProtocolError::Connection)?;
            let answer = read(&mut connection)?;
            self.keep(connection);
            Ok(Some(answer))
        };
        // Bound first, so that the lock is not held meanwhile.
        let idle = lock(&self.idle).pop();
        if let Some(idle) = idle {
            match exchange(idle) {
                // It had ended since its last use, as it does when the server is restarted.
                Err(ProtocolError::Connection(error)) if error.kind() != io::ErrorKind::TimedOut => {
                    lock(&self.idle).clear();
                }
                done => return done,
            }
        }
        exchange(self.open(until)?)
    }

    fn open(&self, until: Instant) -> Result<Connection, ProtocolError> {
        let addresses = lock(&self.addresses).clone();
        let mut failure = ProtocolError::Connection(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in addresses {
            match Connection::open(address, until) {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_CONNECTIONS {
            idle.push(connection);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
