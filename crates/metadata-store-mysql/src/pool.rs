//! A bounded pool of connections, made when they are first needed. Callers get them in the order in which they
//! came: one that was passed over again and again would wait a hundred times as long as the others.

use crate::fault::failed;
use metadata_store::StoreError;
use mysql::prelude::Queryable;
use mysql::{Conn, Opts};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a caller waits for a connection that others hold.
const PATIENCE: Duration = Duration::from_secs(10);

/// What makes a transaction of a Galera cluster begin with all that any node has committed by then: before what reads,
/// what updates or deletes, and what inserts. A node applies what others committed a moment later; who was told of a
/// commit and is sent to another node would miss it there, and a journal would end before the position that a
/// device has read.
const WAIT_FOR_OTHER_NODES: &str = "SET SESSION wsrep_sync_wait = 7";

/// An open connection.
pub(crate) struct Connection {
    pub(crate) driver: Conn,
    /// Whether the database is a node of a Galera cluster.
    pub(crate) in_cluster: bool,
}

impl Connection {
    /// A database that cannot be a node of a cluster does not know the variables.
    fn open(options: &Opts) -> Result<Self, mysql::Error> {
        let mut driver = Conn::new(options.clone())?;
        let variables: Vec<(String, String)> =
            driver.query("SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'wsrep_sync_wait')")?;
        let value_of =
            |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        if value_of("wsrep_sync_wait").is_some() {
            driver.query_drop(WAIT_FOR_OTHER_NODES)?;
        }
        let in_cluster = value_of("wsrep_on").is_some_and(|on| on.eq_ignore_ascii_case("ON"));
        Ok(Self { driver, in_cluster })
    }
}

/// Connections whose sessions all begin in the same way.
pub(crate) struct Pool {
    options: Opts,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connection>,
    open: usize,
    /// How often all connections were given up: those that were on loan then are closed when they come back.
    generation: u64,
    /// Who waits, the first to come in front.
    waiting: VecDeque<(u64, Thread)>,
    next: u64,
}

impl State {
    fn has_free(&self, limit: usize) -> bool {
        !self.idle.is_empty() || self.open < limit
    }

    /// Wakes whose turn it is, if there is anything to have.
    fn wake_next(&self, limit: usize) {
        if self.has_free(limit) {
            self.waiting.front().iter().for_each(|(_, caller)| caller.unpark());
        }
    }
}

impl Pool {
    pub(crate) fn new(options: Opts, limit: usize) -> Self {
        Self { options, limit, state: Mutex::default() }
    }

    /// A connection: one that is idle, or a new one.
    pub(crate) fn take(&self) -> Result<Lease<'_>, StoreError> {
        let mut state = self.wait_for_turn()?;
        if let Some(connection) = state.idle.pop() {
            state.wake_next(self.limit);
            let generation = state.generation;
            return Ok(Lease { pool: self, connection: Some(connection), sound: false, generation });
        }
        state.open += 1;
        state.wake_next(self.limit);
        let generation = state.generation;
        drop(state);
        let mut lease = Lease { pool: self, connection: None, sound: false, generation };
        let made = Connection::open(&self.options).map_err(|error| failed("connecting", error))?;
        lease.connection = Some(made);
        Ok(lease)
    }

    /// Waits until there is a connection to have, and nobody came before.
    fn wait_for_turn(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.lock();
        if state.waiting.is_empty() && state.has_free(self.limit) {
            return Ok(state);
        }
        let (ticket, since) = (state.next, Instant::now());
        state.next += 1;
        state.waiting.push_back((ticket, thread::current()));
        loop {
            let turn = state.waiting.front().is_some_and(|(front, _)| *front == ticket);
            if turn && state.has_free(self.limit) {
                state.waiting.pop_front();
                return Ok(state);
            }
            let Some(left) = PATIENCE.checked_sub(since.elapsed()) else {
                state.waiting.retain(|(other, _)| *other != ticket);
                state.wake_next(self.limit);
                return Err(StoreError::Busy { subject: "waiting for a connection" });
            };
            drop(state);
            thread::park_timeout(left);
            state = self.lock();
        }
    }

    /// Closes the connections that wait, and those on loan when they come back: what ended one has most likely ended all of
    /// them.
    pub(crate) fn forget_all(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        state.wake_next(self.limit);
        drop(state);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection on loan. Dropped, it is closed, unless [`Lease::give_back`] says that it is as it was.
pub(crate) struct Lease<'p> {
    pool: &'p Pool,
    /// `None` while it is being made.
    connection: Option<Connection>,
    sound: bool,
    /// That of the pool when it was lent.
    generation: u64,
}

impl Lease<'_> {
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, StoreError> {
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
        let (mut kept, closed) = if self.sound { (connection, None) } else { (None, connection) };
        // Closing says good-bye over the network, which nobody shall wait for.
        drop(closed);
        let mut state = self.pool.lock();
        let outdated = kept.take_if(|_| state.generation != self.generation);
        match kept {
            Some(connection) => state.idle.push(connection),
            None => state.open -= 1,
        }
        state.wake_next(self.pool.limit);
        drop(state);
        drop(outdated);
    }
}
