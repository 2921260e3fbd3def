//! A bounded pool of connections, made when they are first needed.

use crate::fault::failed;
use metadata_store::StoreError;
use mysql::{Conn, Opts};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a caller waits for a connection that others hold.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections whose sessions all begin in the same way.
pub(crate) struct Pool {
    options: Opts,
    limit: usize,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Conn>,
    open: usize,
}

impl Pool {
    pub(crate) fn new(options: Opts, limit: usize) -> Self {
        Self { options, limit, state: Mutex::default(), returned: Condvar::new() }
    }

    /// A connection: one that is idle, or a new one.
    pub(crate) fn take(&self) -> Result<Lease<'_>, StoreError> {
        let full = |state: &mut State| state.idle.is_empty() && state.open >= self.limit;
        let waited = self.returned.wait_timeout_while(self.lock(), PATIENCE, full);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return Err(StoreError::Busy { subject: "waiting for a connection" });
        }
        if let Some(connection) = state.idle.pop() {
            return Ok(Lease { pool: self, connection: Some(connection), sound: false });
        }
        state.open += 1;
        drop(state);
        let mut lease = Lease { pool: self, connection: None, sound: false };
        let made = Conn::new(self.options.clone()).map_err(|error| failed("connecting", error))?;
        lease.connection = Some(made);
        Ok(lease)
    }

    /// Closes the connections that wait: what ended one has most likely ended all of them.
    pub(crate) fn forget_idle(&self) {
        let mut state = self.lock();
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
        self.returned.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan. Dropped, it is closed, unless [`Lease::give_back`] says that it is as it was.
pub(crate) struct Lease<'p> {
    pool: &'p Pool,
    /// `None` while it is being made.
    connection: Option<Conn>,
    sound: bool,
}

impl Lease<'_> {
    pub(crate) fn connection(&mut self) -> Result<&mut Conn, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Busy { subject: "taking a connection" })
    }

    /// Returns the connection, which has no open transaction.
    pub(crate) fn give_back(mut self) {
        self.sound = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        let (kept, closed) = if self.sound { (connection, None) } else { (None, connection) };
        // Closing says good-bye over the network, which nobody shall wait for.
        drop(closed);
        let mut state = self.pool.lock();
        match kept {
            Some(connection) => state.idle.push(connection),
            None => state.open -= 1,
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}
