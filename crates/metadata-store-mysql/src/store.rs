//! The store: transactions, what is tried again, and what is not.

use crate::fault::Fault;
use crate::options::{MysqlOptions, Pauses};
use crate::pool::Pool;
use crate::schema::{self, STEPS, SchemaError, Step};
use crate::session::{Purpose, Session};
use metadata_store::port::Answer;
use metadata_store::{MetadataStore, Reading, StoreError, Transaction, Writers};
use mysql::prelude::Queryable;
use mysql::{Conn, Error, OptsBuilder};
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
/// The longest pause. What cannot be reached is given so long each time: nine of these, of which each is half as long on
/// average, are about the time that a failover takes.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a change of the tables may take: hours, where they are large.
const MIGRATION_PATIENCE: Duration = Duration::from_secs(12 * 3600);
/// How often the connection of a change shows that it is still there.
const KEEP_ALIVE_MS: u32 = 60_000;
/// How long a transaction waits for a row that another holds.
const LOCK_WAIT_SECONDS: u32 = 5;
/// How long the database keeps a silent session, and with it the locks of a server that has vanished.
const SILENCE_SECONDS: u32 = 60;
/// The same within a transaction, where the database can tell the two apart. Longer than others wait for its locks, who
/// so learn first that it holds them.
const TRANSACTION_SILENCE_SECONDS: u32 = 8;

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
        let session = |beginning: &[&str]| {
            let beginning = beginning.iter().map(|setting| format!("SET SESSION {setting}"));
            options.driver(password, beginning.chain([session_settings()]).collect())
        };
        // Whatever comes first begins a transaction that writes, so that none needs a journey for its beginning.
        let writers = session(&["TRANSACTION ISOLATION LEVEL READ COMMITTED", "autocommit = 0"]);
        let readers = session(&["TRANSACTION ISOLATION LEVEL REPEATABLE READ"]);
        let mut connection = Conn::new(readers.clone()).map_err(|error| refused(options, error))?;
        if !schema::is_current(&mut connection, steps).map_err(|error| unusable(options, error))? {
            let patient = OptsBuilder::from_opts(readers.clone())
                .read_timeout(Some(MIGRATION_PATIENCE))
                .tcp_keepalive_time_ms(Some(KEEP_ALIVE_MS));
            connection = Conn::new(patient).map_err(|error| refused(options, error))?;
            schema::migrate(&mut connection, steps).map_err(|error| unusable(options, error))?;
        }
        Ok(Self { writers: Pool::new(writers, WRITERS), readers: Pool::new(readers, READERS), pauses })
    }

    /// Tries until it works, the error is one that stays, or the attempts are used up.
    fn persist(&self, mut attempt: impl FnMut() -> Result<(), Attempt>) -> Answer<()> {
        let (mut pause, mut unreachable) = (FIRST_PAUSE, 0);
        for _ in 1..ATTEMPTS {
            match attempt() {
                Ok(()) => return Ok(()),
                Err(Attempt::Failed(error, _)) => return Err(error),
                Err(Attempt::MayPass(_, fault)) => {
                    unreachable += u32::from(fault == Fault::Disconnected);
                    // The first may have been a connection that the database had ended because it was silent.
                    self.pauses.jittered(if unreachable > 1 { LONGEST_PAUSE } else { pause });
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        attempt().map_err(|failure| match failure {
            Attempt::Failed(error, _) | Attempt::MayPass(error, _) => error,
        })
    }
}

/// Why an attempt did not work.
enum Attempt {
    /// Nothing has happened, and a later attempt may work.
    MayPass(StoreError, Fault),
    Failed(StoreError, Option<Fault>),
}

impl Attempt {
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => Self::MayPass(error, Fault::Conflict),
            StoreError::Unreachable { .. } => Self::MayPass(error, Fault::Disconnected),
            other => Self::Failed(other, None),
        }
    }
}

impl MetadataStore for MysqlStore {
    fn writers(&self) -> Writers {
        Writers::PerNamespace
    }

    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Answer<()>) -> Answer<()> {
        self.persist(|| {
            let done = run(&self.writers, Purpose::Writing, |session| {
                work(session)?;
                session.flush()?;
                session.commit()
            });
            if matches!(done, Err(Attempt::Failed(_, Some(Fault::ReadOnly)))) {
                // Its connections live on when another server has taken over, and what they read grows old.
                self.readers.forget_all();
            }
            done
        })
    }

    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Answer<()>) -> Answer<()> {
        self.persist(|| {
            run(&self.readers, Purpose::Reading, |session| {
                session.begin_snapshot()?;
                work(session)?;
                session.end_snapshot()
            })
        })
    }
}

/// One attempt, in a session whose work ends with its commit. If that fails, or the database has ended the
/// transaction before, it ends with a rollback.
fn run(pool: &Pool, purpose: Purpose, work: impl FnOnce(&Session<'_>) -> Answer<()>) -> Result<(), Attempt> {
    let mut lease = pool.take().map_err(Attempt::of)?;
    let connection = lease.connection().map_err(Attempt::of)?;
    let session = Session::new(connection, purpose);
    let worked = work(&session);
    let fault = session.fault();
    let error = match (worked, fault) {
        (Ok(()), None) => {
            lease.give_back();
            return Ok(());
        }
        (worked, _) => worked.err().unwrap_or(StoreError::Conflict { subject: "a transaction that went on" }),
    };
    let unknown = matches!(error, StoreError::OutcomeUnknown { .. });
    if unknown || matches!(fault, Some(Fault::Disconnected | Fault::ReadOnly)) {
        drop(lease);
        pool.forget_all();
    } else if connection.driver.query_drop("ROLLBACK").is_ok() {
        lease.give_back();
    }
    Err(match fault.filter(|fault| fault.may_pass() && !unknown) {
        Some(fault) => Attempt::MayPass(error, fault),
        None => Attempt::Failed(error, fault),
    })
}

/// What every session begins with: nothing is cut to fit, and nobody waits for ever. What stands behind `M!` is a
/// comment for all but MariaDB from 10.3 on.
fn session_settings() -> String {
    format!(
        "SET SESSION sql_mode = 'TRADITIONAL', innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}, \
         wait_timeout = {SILENCE_SECONDS} /*M!100300 , idle_transaction_timeout = {TRANSACTION_SILENCE_SECONDS} */"
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
