//! The store: transactions, what is tried again, and what is not.

use crate::fault::{Fault, failed, not_committed};
use crate::options::{MysqlOptions, Pauses};
use crate::pool::Pool;
use crate::schema::{self, STEPS, SchemaError, Step};
use crate::session::{Purpose, Session};
use metadata_store::port::Answer;
use metadata_store::{MetadataStore, Reading, StoreError, Transaction, Writers};
use mysql::prelude::Queryable;
use mysql::{Conn, Error};
use std::time::Duration;

/// Connections that write at the same time; more callers wait. A database commits more in a second from
/// many connections than from one, but hardly more from 32 than from 16.
const WRITERS: usize = 16;
/// Connections that read at the same time; more callers wait.
const READERS: usize = 32;
/// How often a transaction is tried that others get in the way of, or whose connection breaks before it is
/// committed.
const ATTEMPTS: u32 = 10;
/// The longest pause before the second attempt; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause: nine of them are about the time that a failover takes.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a transaction waits for a row that another holds.
const LOCK_WAIT_SECONDS: u32 = 5;
/// How long the database keeps a silent session, and with it the locks of a server that has vanished.
const SILENCE_SECONDS: u32 = 60;

/// [`MetadataStore`] on MySQL.
pub struct MysqlStore {
    writers: Pool,
    readers: Pool,
    pauses: Pauses,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the metadata database at {place} cannot be reached")]
    Unreachable { place: String, source: Box<Error> },
    #[error("the metadata database at {place} refuses the user `{user}` or its password")]
    WrongPassword { place: String, user: String, source: Box<Error> },
    #[error("there is no database `{database}` at {place}, or the user `{user}` may not use it")]
    NoDatabase { place: String, database: String, user: String, source: Box<Error> },
    #[error("the metadata database has format {found}; this program knows formats up to {known}")]
    NewerFormat { found: i64, known: i64 },
    #[error("the metadata database has format {found}, this program needs {known}, and the user may not change tables")]
    OlderFormat { found: i64, known: i64, source: Box<Error> },
    #[error("another server has been changing the tables of the metadata database for too long")]
    Locked,
    #[error("the metadata database at {place} failed")]
    Failed { place: String, source: Box<Error> },
}

impl OpenError {
    /// What the operator can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "check that the database runs, its address, the firewall, and `tls` and `ca`",
            Self::WrongPassword { .. } => "check the user in the URL, and the password's file or variable",
            Self::NoDatabase { .. } => "create it and grant the user all rights on it; docs/operating.md shows how",
            Self::NewerFormat { .. } => "run the newer version, or restore a backup that this version made",
            Self::OlderFormat { .. } => {
                "start once with a user that may CREATE and ALTER tables, or grant this one that"
            }
            Self::Locked => "look for a server that hangs while it starts, and try again",
            Self::Failed { .. } => "the cause is the database's own words; its log may say more",
        }
    }
}

impl MysqlStore {
    /// Connects, and brings the tables to the newest format. Several servers may do so at once.
    ///
    /// # Errors
    /// [`OpenError`], after one attempt.
    pub fn open(options: &MysqlOptions, password: Option<&str>, pauses: Pauses) -> Result<Self, OpenError> {
        Self::open_with(options, password, pauses, STEPS)
    }

    fn open_with(
        options: &MysqlOptions,
        password: Option<&str>,
        pauses: Pauses,
        steps: &[Step],
    ) -> Result<Self, OpenError> {
        let session = |isolation| options.driver(password, vec![isolation, session_settings()]);
        let writers = session("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned());
        let readers = session("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned());
        let mut connection = Conn::new(writers.clone()).map_err(|error| refused(options, error))?;
        schema::migrate(&mut connection, steps).map_err(|error| unusable(options, error))?;
        Ok(Self { writers: Pool::new(writers, WRITERS), readers: Pool::new(readers, READERS), pauses })
    }

    /// Tries until it works, the error is one that stays, or the attempts are used up.
    fn persist(&self, mut attempt: impl FnMut() -> Result<(), Attempt>) -> Answer<()> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::MayPass(_)) => self.pauses.jittered(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        attempt().map_err(|failure| match failure {
            Attempt::Failed(error) | Attempt::MayPass(error) => error,
        })
    }
}

/// Why an attempt did not work.
enum Attempt {
    /// Nothing has happened, and a later attempt may work.
    MayPass(StoreError),
    Failed(StoreError),
}

impl Attempt {
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } | StoreError::Unreachable { .. } => Self::MayPass(error),
            other => Self::Failed(other),
        }
    }
}

impl MetadataStore for MysqlStore {
    fn writers(&self) -> Writers {
        Writers::PerNamespace
    }

    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Answer<()>) -> Answer<()> {
        self.persist(|| {
            let work = |session: &Session<'_>| work(session).and_then(|()| session.flush());
            let commit = |connection: &mut Conn| connection.query_drop("COMMIT").map_err(not_committed);
            run(&self.writers, Purpose::Writing, work, commit)
        })
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Answer<()>) -> Answer<()> {
        self.persist(|| {
            let work = |session: &Session<'_>| work(session);
            let end = |connection: &mut Conn| {
                connection.query_drop("COMMIT").map_err(|error| failed("ending a snapshot", error))
            };
            run(&self.readers, Purpose::Reading, work, end)
        })
    }
}

/// One attempt: begins, works, and ends with `commit`, or with a rollback if the work failed or the
/// database ended the transaction before.
fn run(
    pool: &Pool,
    purpose: Purpose,
    work: impl FnOnce(&Session<'_>) -> Answer<()>,
    commit: impl FnOnce(&mut Conn) -> Answer<()>,
) -> Result<(), Attempt> {
    let mut lease = pool.take().map_err(Attempt::of)?;
    let connection = lease.connection().map_err(Attempt::of)?;
    let begin = match purpose {
        Purpose::Writing => "START TRANSACTION",
        Purpose::Reading => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    };
    if let Err(error) = connection.query_drop(begin) {
        pool.forget_idle();
        return Err(Attempt::of(failed("beginning a transaction", error)));
    }
    let session = Session::new(connection, purpose);
    let worked = work(&session);
    let fault = session.fault();
    let ended = match (worked, fault) {
        (Ok(()), None) => commit(connection).map_err(Attempt::of),
        (worked, fault) => {
            let error = worked.err().unwrap_or(StoreError::Conflict { subject: "a transaction that went on" });
            if fault != Some(Fault::Disconnected) && connection.query_drop("ROLLBACK").is_ok() {
                lease.give_back();
            } else if fault == Some(Fault::Disconnected) {
                drop(lease);
                pool.forget_idle();
            }
            return Err(if fault.is_some_and(Fault::may_pass) {
                Attempt::MayPass(error)
            } else {
                Attempt::Failed(error)
            });
        }
    };
    match &ended {
        Ok(()) => lease.give_back(),
        Err(_) => {
            drop(lease);
            pool.forget_idle();
        }
    }
    ended
}

/// What every session begins with: nothing is cut to fit, and nobody waits for ever.
fn session_settings() -> String {
    format!(
        "SET SESSION sql_mode = 'TRADITIONAL', innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}, \
         wait_timeout = {SILENCE_SECONDS}"
    )
}

fn refused(options: &MysqlOptions, error: Error) -> OpenError {
    let (place, source) = (options.place(), Box::new(error));
    match &*source {
        Error::MySqlError(answer) if WRONG_PASSWORD.contains(&answer.code) => {
            OpenError::WrongPassword { place, user: options.user.clone(), source }
        }
        Error::MySqlError(answer) if NO_DATABASE.contains(&answer.code) => {
            let (database, user) = (options.database.clone(), options.user.clone());
            OpenError::NoDatabase { place, database, user, source }
        }
        _ if Fault::of(&source) == Fault::Disconnected => OpenError::Unreachable { place, source },
        _ => OpenError::Failed { place, source },
    }
}

fn unusable(options: &MysqlOptions, error: SchemaError) -> OpenError {
    match error {
        SchemaError::Newer { found, known } => OpenError::NewerFormat { found, known },
        SchemaError::NotAllowed { found, known, source } => {
            OpenError::OlderFormat { found, known, source: Box::new(source) }
        }
        SchemaError::Locked => OpenError::Locked,
        SchemaError::Failed(source) => refused(options, source),
    }
}

/// Access denied, with and without a password that was sent.
const WRONG_PASSWORD: &[u16] = &[1045, 1698];
/// Unknown database, and one that the user has no right to.
const NO_DATABASE: &[u16] = &[1049, 1044];

#[cfg(all(test, feature = "private-server"))]
mod tests;
